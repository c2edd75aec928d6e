//! Proxies in front: whom the host believes about who the client is.

use std::process::Command;

use crate::client::{self, Connection};
use crate::harness::{Setup, guest};
use crate::tls::Authority;

const NEAR: &str = "--trusted-proxies 127.0.0.0/8,10.0.0.0/8";

fn ask(sidelight: &crate::harness::Sidelight, path: &str, fields: &str) -> String {
    client::send(sidelight.addr, &format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n{fields}\r\n")).text()
}

#[test]
fn fields_of_a_trusted_proxy() {
    let sidelight = Setup::behaviours("rust").arg(NEAR).start();
    assert_eq!(ask(&sidelight, "/client", ""), "127.0.0.1\n");
    // What the client itself may have put in front is not believed.
    assert_eq!(ask(&sidelight, "/client", "X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.1.2.3\r\n"), "192.0.2.7\n");
    assert_eq!(ask(&sidelight, "/client", "Forwarded: for=\"[2001:db8::7]:80\";proto=https\r\n"), "2001:db8::7\n");
    assert_eq!(ask(&sidelight, "/client", "X-Forwarded-For: nonsense\r\n"), "127.0.0.1\n");
    let echo = ask(&sidelight, "/echo", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n");
    assert!(echo.contains("\"url\":\"https://edge.test/echo\""), "{echo}");
    // Programs see the field as it came.
    assert!(echo.contains(r#"["x-forwarded-for","192.0.2.7"]"#), "{echo}");
    assert!(ask(&sidelight, "/echo", "X-Forwarded-Proto: http\r\n").contains("\"url\":\"http://edge.test/echo\""));
}

#[test]
fn nobody_else_is_believed() {
    let fields = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.7;proto=https\r\n";
    for arg in ["--trusted-proxies 10.0.0.0/8", "--log-stdout"] {
        let sidelight = Setup::behaviours("rust").arg(arg).start();
        assert_eq!(ask(&sidelight, "/client", fields), "127.0.0.1\n");
        assert!(ask(&sidelight, "/echo", fields).contains("\"url\":\"http://edge.test/echo\""));
    }
}

#[test]
fn the_proxy_protocol() {
    let sidelight = Setup::behaviours("rust").arg(NEAR).arg("--proxy-protocol").start();
    let ask = |header: &[u8]| {
        let mut connection = Connection::open(sidelight.addr);
        connection.write(&[header, b"GET /client HTTP/1.1\r\nHost: a\r\n\r\nGET /client HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        [connection.answer().text(), connection.answer().text()].concat()
    };
    assert_eq!(ask(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"), "192.0.2.1\n192.0.2.1\n");
    assert_eq!(ask(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"), "2001:db8::1\n2001:db8::1\n");
    let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    two.extend([192, 0, 2, 9, 192, 0, 2, 2, 0, 80, 1, 187]);
    assert_eq!(ask(&two), "192.0.2.9\n192.0.2.9\n");
    // Health checks of the proxy itself.
    assert_eq!(ask(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), "127.0.0.1\n127.0.0.1\n");
    // curl speaks it as well, with HTTP/2 behind it too.
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let output =
            Command::new("curl").args(["-s", "--haproxy-protocol", version, &format!("http://{}/client", sidelight.addr)]).output();
        assert_eq!(output.expect("curl is needed").stdout, b"127.0.0.1\n", "{version}");
    }
    // Without a header there is no telling whom a request is from.
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.closed());
    sidelight.log.wait_for(&["without a PROXY header from a trusted proxy"]);
    // Each is counted, and it is not said of each.
    for _ in 0..20 {
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(connection.closed());
    }
    sidelight.wait_metric("sidelight_refusals_total{reason=\"proxy\"}", 21.0);
    assert!(sidelight.log.text().matches("without a PROXY header").count() < 10);
}

/// A socket for both kinds of addresses: its clients of IPv4 have addresses of IPv4.
#[test]
fn one_reading_of_an_address() {
    let sidelight = Setup::behaviours("rust").arg("--addr").arg("[::]:0").start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], sidelight.addr.port()));
    let text = client::send(address, "GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").text();
    assert!(text.starts_with("127.0.0.1\n"), "{text}");
}

#[test]
fn the_proxy_protocol_before_tls() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["localhost"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (both, roots) = (folder.path().join("both.pem"), folder.path().join("roots.pem"));
    std::fs::write(&both, format!("{}{}", leaf.pem, leaf.key_pem)).expect("a file");
    std::fs::write(&roots, &authority.pem).expect("a file");
    let setup = Setup::new(guest("rust", "client")).arg(NEAR).arg("--proxy-protocol");
    let sidelight = setup.arg(&format!("--tls-addr 127.0.0.1:0 --tls-cert {}", both.display())).start();
    let url = format!("https://localhost:{}/", sidelight.secure_addr().port());
    let output =
        Command::new("curl").args(["-s", "--haproxy-protocol", "--cacert"]).arg(&roots).arg(&url).output().expect("curl is needed");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.contains(&format!("url: {url}\n")) && told.contains("ja4: Some("), "{told}");
}

#[test]
fn the_proxy_protocol_is_for_trusted_proxies() {
    let sidelight = Setup::behaviours("rust").arg("--trusted-proxies 10.0.0.0/8 --proxy-protocol").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /client HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.closed());
    for args in ["--proxy-protocol", "--trusted-proxies here"] {
        let (status, text) = Setup::behaviours("rust").arg(args).fails();
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains("--trusted-proxies"), "{text}");
    }
}

#[test]
fn unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("edge.sock");
    let curl = |fields: &[&str]| {
        let output = Command::new("curl").args(["-s", "--unix-socket"]).arg(&file).args(fields).arg("http://edge.test/client").output();
        String::from_utf8(output.expect("curl is needed").stdout).expect("text")
    };
    let arg = format!("--addr 127.0.0.1:0,unix:{} {NEAR}", file.display());
    // A socket that nobody serves any more is in the way of nobody.
    drop(std::os::unix::net::UnixListener::bind(&file).expect("a socket"));
    let sidelight = Setup::behaviours("rust").arg(&arg).start();
    sidelight.log.wait_for(&[&format!("Listening on http+unix:{}", file.display())]);
    assert_eq!(sidelight.get("/client").text(), "127.0.0.1\n");
    assert_eq!(curl(&[]), "127.0.0.1\n");
    assert_eq!(curl(&["-H", "X-Forwarded-For: 192.0.2.7"]), "192.0.2.7\n");
    assert_eq!(curl(&["--http2-prior-knowledge"]), "127.0.0.1\n");
    // Who may connect is for the umask to say.
    let mode =
        |path: &std::path::Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).expect("a socket").permissions()) & 0o777;
    let other = folder.path().join("other.sock");
    drop(std::os::unix::net::UnixListener::bind(&other).expect("a socket"));
    assert_eq!(mode(&file), mode(&other));
    // One that is served stays with who serves it.
    let (status, text) = Setup::behaviours("rust").arg(&arg).fails();
    assert_eq!(status.code(), Some(5), "{text}");
    assert!(text.contains("another process serves that socket"), "{text}");
    assert_eq!(curl(&[]), "127.0.0.1\n");
    sidelight.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(sidelight.end().code(), Some(0));
    assert!(!file.exists(), "removed at the end");
    // A file that is no socket is nobody's to remove.
    std::fs::write(&file, "precious").expect("a file");
    let (status, text) = Setup::behaviours("rust").arg(&arg).fails();
    assert_eq!(status.code(), Some(5), "{text}");
    assert!(text.contains("no socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "precious");
}
