//! Dynamic backends: what a guest can set, what it may reach, what becomes of its connections.

use hyper::Response;

use crate::client::Answer;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{self, Origin, text};
use crate::tls::{self, Authority};

fn backends() -> Setup {
    Setup::new(guest("rust", "backends")).arg("--dynamic-backends 127.0.0.0/8,::1")
}

fn made(sidelight: &Sidelight, target: impl std::fmt::Display, more: &str) -> Answer {
    sidelight.get(&format!("/?target={target}{more}"))
}

fn asked() -> Origin {
    Origin::new(|seen| Response::new(text(format!("{} {}", seen.target, seen.values("host")[0]))))
}

#[test]
fn a_backend_is_made_and_asked() {
    let origin = asked();
    let sidelight = backends().start();
    assert_eq!(made(&sidelight, origin.addr, "").text(), "/path asked.test");
    assert_eq!(made(&sidelight, origin.addr, "&host=override.test").text(), "/path override.test");
    assert_eq!(made(&sidelight, format!("localhost:{}", origin.addr.port()), "").text(), "/path asked.test");
    assert!(sidelight.metric("sidelight_backend_requests_total{backend=\"dynamic\",result=\"ok\"}") >= 3.0);
}

#[test]
fn what_it_says_of_itself() {
    let sidelight = backends().start();
    assert_eq!(
        made(&sidelight, "127.0.0.1:81", "&show").text(),
        "exists=true dynamic=true host=127.0.0.1 port=81 override=None ssl=false min=None max=None \
         connect=1s first=15s between=10s keepalive=600s tcp=false 0ns 0ns 0\n"
    );
    let all = "&show&ssl&host=h.test&min=2&max=3&connect=1&first=2&between=3&keepalive=4000&tcp=5";
    assert_eq!(
        made(&sidelight, "127.0.0.1", all).text(),
        "exists=true dynamic=true host=127.0.0.1 port=443 override=Some(\"h.test\") ssl=true min=Some(TLS1_2) max=Some(TLS1_3) \
         connect=1ms first=2ms between=3ms keepalive=4s tcp=true 5s 6s 7\n"
    );
}

#[test]
fn a_name_is_used_once() {
    let origin = asked();
    let sidelight = backends().backend("origin", origin.url()).start();
    assert!(made(&sidelight, origin.addr, "&twice").text().starts_with("Err("));
    let answer = made(&sidelight, origin.addr, "&name=origin");
    assert_eq!((answer.status, answer.text().contains("NameInUse")), (502, true), "{}", answer.text());
    // No port, and none that would be another.
    for target in ["127.0.0.1:75237", "127.0.0.1:x", "user@127.0.0.1:80"] {
        let answer = made(&sidelight, target, "");
        assert!(answer.status == 502 || answer.text().starts_with("Err("), "{target}: {} {}", answer.status, answer.text());
    }
    // Another sandbox may use it again.
    assert_eq!(made(&sidelight, origin.addr, "").status, 200);
}

/// Ever other backends: connections to all of them are not kept, since descriptors are for others, too.
#[test]
fn idle_connections_are_bounded() {
    let origin = asked();
    let sidelight = backends().within(&["sh", "-c", "ulimit -n 400 && exec \"$@\"", "sh"]).start();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", sidelight.pid())).expect("its files").count();
    let before = open();
    for i in 0..250 {
        assert_eq!(made(&sidelight, origin.addr, &format!("&name=n{i}")).text(), "/path asked.test");
    }
    let kept = open() - before;
    // Some forty, and what the process itself has opened meanwhile.
    assert!((25..=100).contains(&kept), "{kept}");
    let connections = origin.connections();
    for i in 0..10 {
        assert_eq!(made(&sidelight, origin.addr, &format!("&name=n{i}")).text(), "/path asked.test");
    }
    assert!(origin.connections() < connections + 10, "some of those that are kept are used");
}

#[test]
fn there_may_be_so_many() {
    let over = "sidelight_guest_dynamic_backends_over_production_total";
    let sidelight = backends().start();
    let to = "127.0.0.1:9";
    assert_eq!(made(&sidelight, to, "&count=200").text(), "200 None\n");
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert!(sidelight.metric(over) < 0.5);
    let told = made(&sidelight, to, "&count=1001").text();
    assert!(told.starts_with("1000 Some("), "{told}");
    sidelight.wait_metric(over, 1.0);
    sidelight.log.wait_for(&["more dynamic backends than production allows", "limit=200"]);
    let sidelight = backends().arg("--limits production").start();
    let told = made(&sidelight, to, "&count=201").text();
    assert!(told.starts_with("200 Some("), "{told}");
}

#[test]
fn it_may_not_point_anywhere() {
    let origin = asked();
    let port = origin.addr.port();
    // By default only into the public Internet.
    let sidelight = Setup::new(guest("rust", "backends")).start();
    let answer = made(&sidelight, origin.addr, "");
    assert_eq!((answer.status, answer.text().as_str()), (502, "not made: Disallowed\n"));
    sidelight.log.wait_for(&["127.0.0.1", "--dynamic-backends"]);
    // A name is judged by its addresses.
    let answer = made(&sidelight, format!("localhost:{port}"), "");
    assert_eq!((answer.status, answer.text().as_str()), (502, "not sent: DestinationIpUnroutable\n"));
    assert_eq!(origin.count(), 0);
    let sidelight = Setup::new(guest("rust", "backends")).arg("--dynamic-backends none").start();
    assert_eq!(made(&sidelight, "example.com", "").text(), "not made: Disallowed\n");
    let sidelight = Setup::new(guest("rust", "backends")).arg("--dynamic-backends localhost").start();
    assert_eq!(made(&sidelight, format!("localhost:{port}"), "").status, 200);
    assert_eq!(made(&sidelight, origin.addr, "").status, 502);
}

#[test]
fn rules_that_are_none_are_refused() {
    let (status, output) = Setup::new(guest("rust", "backends")).arg("--dynamic-backends 10.0.0.0/33").fails();
    assert_eq!(status.code(), Some(2));
    assert!(output.contains("--dynamic-backends") && output.contains("10.0.0.0/33"), "{output}");
}

#[test]
fn connections_are_shared_by_sandboxes_that_make_the_same() {
    let origin = asked();
    let sidelight = backends().start();
    for _ in 0..3 {
        assert_eq!(made(&sidelight, origin.addr, "").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(made(&sidelight, origin.addr, "&name=other").status, 200);
    assert_eq!(origin.connections(), 2, "the same by another name is another");
    assert_eq!(made(&sidelight, origin.addr, "&alone").status, 200);
    assert_eq!(made(&sidelight, origin.addr, "&alone").status, 200);
    assert_eq!(origin.connections(), 4);
}

#[test]
fn connections_have_limits() {
    let origin = asked();
    let sidelight = backends().start();
    for _ in 0..4 {
        assert_eq!(made(&sidelight, origin.addr, "&uses=2").status, 200);
    }
    assert_eq!(origin.connections(), 2);
    for _ in 0..2 {
        assert_eq!(made(&sidelight, origin.addr, "&lifetime=1").status, 200);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(origin.connections(), 4);
}

#[test]
fn timeouts_are_its_own() {
    let slow = Origin::raw(|_| async {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        Response::new(text(""))
    });
    let sidelight = backends().start();
    assert_eq!(made(&sidelight, slow.addr, "&first=50").text(), "not sent: HttpResponseTimeout\n");
    assert_eq!(made(&sidelight, origin::refused(), "").text(), "not sent: ConnectionRefused\n");
}

fn secure(sidelight: &Sidelight, authority: &Authority, target: impl std::fmt::Display, more: &str) -> String {
    sidelight.post(&format!("/?ssl&target={target}{more}"), &authority.pem).text()
}

#[test]
fn certificates_and_names() {
    let authority = Authority::new();
    let (addr, names) = tls::origin(&authority.leaf(&["cert.test"]), None);
    let sidelight = backends().start();
    // Without a name to check, any name will do, but not any issuer.
    assert!(secure(&sidelight, &authority, addr, "").starts_with("host=asked.test"));
    assert_eq!(secure(&sidelight, &Authority::new(), addr, ""), "not sent: TlsCertificateError\n");
    assert!(secure(&sidelight, &authority, addr, "&cert=cert.test").starts_with("host="));
    assert_eq!(secure(&sidelight, &authority, addr, "&cert=other.test"), "not sent: TlsCertificateError\n");
    // The name that is sent may be another than the one that is checked.
    assert!(secure(&sidelight, &authority, addr, "&cert=cert.test&sni=sent.test").starts_with("host="));
    let names: Vec<_> = names.lock().expect("the list").iter().flatten().cloned().collect();
    assert!(names.contains(&"cert.test".to_owned()) && names.contains(&"sent.test".to_owned()), "{names:?}");
}

#[test]
fn client_certificates() {
    let authority = Authority::new();
    let (addr, _) = tls::origin(&authority.leaf(&["cert.test"]), Some(&authority));
    let sidelight = backends().start();
    let asked = |client: &str| sidelight.post(&format!("/?ssl&target={addr}"), &format!("{}{client}", authority.pem)).text();
    let with = |authority: &Authority| {
        let leaf = authority.leaf(&["client.test"]);
        (format!("\n---\n{}\n---\n{}", leaf.pem, leaf.key_pem), leaf)
    };
    let (good, leaf) = with(&authority);
    assert!(asked(&good).ends_with("client=true"));
    assert!(asked("").starts_with("not sent: "), "the origin wants one");
    assert!(asked(&with(&Authority::new()).0).starts_with("not sent: "), "and not anybody's");
    // Another certificate's key is found out when the backend is made.
    let mixed = asked(&format!("\n---\n{}\n---\n{}", leaf.pem, authority.leaf(&["client.test"]).key_pem));
    assert!(mixed.starts_with("not "), "{mixed}");
    assert!(asked(&format!("\n---\n{}\n---\nno key", leaf.pem)).starts_with("not "));
    assert!(asked(&good).ends_with("client=true"));
    let log = sidelight.log.text();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[test]
fn versions_and_ciphers() {
    let authority = Authority::new();
    let (addr, _) = tls::origin(&authority.leaf(&["cert.test"]), None);
    let sidelight = backends().start();
    for fine in ["&min=2&max=2", "&min=3&max=3", "&min=0&max=3", "&max=2&ciphers=ECDHE-ECDSA-AES128-GCM-SHA256"] {
        assert!(secure(&sidelight, &authority, addr, fine).starts_with("host="), "{fine}");
    }
    for cannot in ["&min=0&max=1", "&max=2&ciphers=RC4-SHA", "&min=3&max=2"] {
        assert_eq!(secure(&sidelight, &authority, addr, cannot), "not sent: TlsConfigurationError\n", "{cannot}");
    }
    // The origin's certificate is not for RSA: no suite in common.
    let text = secure(&sidelight, &authority, addr, "&max=2&ciphers=ECDHE-RSA-AES128-GCM-SHA256");
    assert!(text.starts_with("not sent: TlsAlertReceived"), "{text}");
    assert_eq!(sidelight.post(&format!("/?ssl&target={addr}"), "no certificate").text(), "not sent: TlsConfigurationError\n");
}

/// Whatever else it may reach: where operators are answered, no program gets.
#[test]
fn operators_are_out_of_reach() {
    let sidelight = Setup::new(guest("rust", "backends")).arg("--dynamic-backends any").start();
    let port = sidelight.admin.port();
    for host in ["127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let answer = made(&sidelight, format!("{host}:{port}"), "");
        assert_eq!((answer.status, answer.text().as_str()), (502, "not sent: DestinationIpUnroutable\n"), "{host}");
    }
    // The same port elsewhere is somebody else's.
    let origin = asked();
    assert_eq!(made(&sidelight, origin.addr, "").status, 200);
}

/// Manifests may be somebody else's, too: neither backends nor log endpoints of theirs lead there, by address or by name.
#[test]
fn operators_are_out_of_reach_of_manifests() {
    for host in ["127.0.0.1", "localhost"] {
        let port = origin::refused().port();
        let target = format!("http://{host}:{port}");
        let syslog = format!("[sidelight.logs.also]\nkind = \"syslog\"\nurl = \"tcp://{host}:{port}\"\n");
        let sidelight = Setup::new(guest("rust", "exhaust"))
            .backend("origin", &target)
            .manifest(&format!("[sidelight.logs.main]\nkind = \"http\"\nurl = \"{target}/quit\"\n{syslog}"))
            .arg(&format!("--admin 127.0.0.1:{port}"))
            .start();
        assert_eq!(sidelight.get("/unread?n=1").text(), "0\n");
        sidelight.log.wait_for(&["a request to a backend failed", "is where operators of this host are answered"]);
        assert_eq!(sidelight.get("/logs?n=1").text(), "1\n");
        sidelight.log.wait_for(&["log", "main", "is where operators of this host are answered"]);
        assert_eq!(sidelight.operate("GET", "/livez").status, 200);
    }
}
