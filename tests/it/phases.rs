//! An origin that fails at each phase of an exchange: what the program is told, by the names of
//! `SendErrorDetail` (docs/conformance.md has the table).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::harness::{Setup, Sidelight, guest};
use crate::origin::refused;
use crate::tls::Authority;

/// An origin that does this with every connection.
fn origin(act: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || listener.incoming().for_each(|stream| act(stream.expect("a connection"))));
    addr
}

/// Reads a request (or a ClientHello), says this and ends.
fn says(bytes: &'static [u8]) -> SocketAddr {
    origin(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
    })
}

/// As [`says`], but the end is a reset.
fn says_and_resets(bytes: &'static [u8]) -> SocketAddr {
    origin(move |mut stream| {
        // What is left unread makes the end a reset.
        let _ = stream.read(&mut [0; 1]);
        let _ = stream.write_all(bytes);
        std::thread::sleep(std::time::Duration::from_millis(50));
    })
}

/// Says this and then nothing more, for as long as the test lasts.
fn hangs(bytes: &'static [u8]) -> SocketAddr {
    let held = std::sync::Mutex::new(Vec::new());
    origin(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
        held.lock().expect("the list").push(stream);
    })
}

fn ask(manifest: &str) -> String {
    let sidelight: Sidelight = Setup::new(guest("rust", "facts")).manifest(manifest).start();
    sidelight.get("/health").text()
}

fn plain(addr: SocketAddr) -> String {
    ask(&format!("[local_server.backends.origin]\nurl = \"http://{addr}\"\nfirst_byte_timeout_ms = 300\nbetween_bytes_timeout_ms = 300\n"))
}

fn secure(addr: SocketAddr, more: &str) -> String {
    let authority = Authority::new();
    ask(&format!(
        "[local_server.backends.origin]\nurl = \"https://localhost:{}\"\nca_certificate = '''{}'''\n{more}\n[sidelight.backends.origin]\nconnect_timeout_ms = 500\n",
        addr.port(),
        authority.pem
    ))
}

fn told(text: &str, cause: &str) {
    assert!(text.starts_with("Ok(Unknown) Err(") && text.contains(cause), "{cause} is not in {text}");
}

#[test]
fn before_there_is_a_connection() {
    told(&plain(refused()), "ConnectionRefused");
    let name =
        ask("[local_server.backends.origin]\nurl = \"http://nobody.invalid\"\n[sidelight.backends.origin]\nconnect_timeout_ms = 20000\n");
    // NXDOMAIN where there is a resolver, SERVFAIL where there is none.
    assert!(name.contains("DnsError") && (name.contains("Some(3)") || name.contains("Some(2)")), "{name}");
    // A listener whose queue is full takes no more.
    let full = socket_with_a_full_queue();
    let text = ask(&format!(
        "[local_server.backends.origin]\nurl = \"http://{}\"\n[sidelight.backends.origin]\nconnect_timeout_ms = 300\n",
        full.0
    ));
    told(&text, "ConnectionTimeout");
}

fn socket_with_a_full_queue() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("binds");
    listen(&fd, Backlog::new(1).expect("a length")).expect("listens");
    let name: SockaddrIn = getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd)).expect("a name");
    let addr = SocketAddr::from((name.ip(), name.port()));
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, std::time::Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (addr, TcpListener::from(fd), waiting)
}

#[test]
fn after_the_connection() {
    told(&plain(says(b"")), "HttpIncompleteResponse");
    told(&plain(says_and_resets(b"")), "ConnectionTerminated");
    told(&plain(hangs(b"")), "HttpResponseTimeout");
}

#[test]
fn in_tls() {
    told(&secure(says(b""), ""), "ConnectionTerminated");
    told(&secure(hangs(b""), ""), "ConnectionTimeout");
    told(&secure(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ""), "TlsProtocolError");
    // handshake_failure, RFC 8446 §6.2.
    let alert = secure(says(&[21, 3, 3, 0, 2, 2, 40]), "");
    assert!(alert.contains("TlsAlertReceived") && alert.contains("40"), "{alert}");
    let other = Authority::new();
    let (addr, _) = crate::tls::origin(&other.leaf(&["localhost"]), None);
    told(&secure(addr, ""), "TlsCertificateError");
}

#[test]
fn in_the_head() {
    told(&plain(says(b"HTTP/1.1 200 OK\r\nContent-Le")), "HttpIncompleteResponse");
    told(&plain(says_and_resets(b"HTTP/1.1 200 OK\r\nContent-Le")), "ConnectionTerminated");
    told(&plain(hangs(b"HTTP/1.1 200 OK\r\nContent-Le")), "HttpResponseTimeout");
    told(&plain(says(b"SSH-2.0-OpenSSH_9.2p1\r\n")), "HttpProtocolError");
    told(&plain(says(b"HTTP/1.1 099 Odd\r\n\r\n")), "HttpResponseStatusInvalid");
    told(&plain(says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")), "HttpUpgradeFailed");
    let large: &'static [u8] = Vec::leak([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 300 << 10], b"\r\n\r\n".to_vec()].concat());
    told(&plain(says(large)), "HttpResponseHeaderSectionTooLarge");
}

/// The head is here, so the send went well; it is the body that fails, for whoever reads it.
#[test]
fn in_the_body() {
    let passing = |addr: SocketAddr| {
        let manifest = format!("[local_server.backends.origin]\nurl = \"http://{addr}\"\nbetween_bytes_timeout_ms = 300\n");
        let sidelight = Setup::new(guest("rust", "passthrough")).manifest(&manifest).start();
        let mut stream = TcpStream::connect(sidelight.addr).expect("connects");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("writes");
        let mut answer = String::new();
        // A reset is one way to say that this is not all.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer
    };
    for end in [says as fn(&'static [u8]) -> SocketAddr, says_and_resets, hangs] {
        let answer = passing(end(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"));
        assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\nabc"), "{answer}");
        let answer = passing(end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde"));
        assert!(answer.contains("chunked\r\n") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}
