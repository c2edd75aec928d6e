//! TLS towards clients: certificates by name, client certificates, and what a guest learns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Setup, Sidelight, guest};
use crate::origin::RUNTIME;
use crate::tls::{Authority, Leaf};

fn file(name: &str, text: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{count}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    path
}

/// Certificate and key in one file.
fn both(leaf: &Leaf) -> PathBuf {
    file("both.pem", &format!("{}{}", leaf.pem, leaf.key_pem))
}

fn secure(certificate: &Leaf) -> Setup {
    Setup::new(guest("rust", "client")).arg(&format!("--tls-addr 127.0.0.1:0 --tls-cert {}", both(certificate).display()))
}

struct Client<'a> {
    authority: &'a Authority,
    name: &'a str,
    identity: Option<&'a Leaf>,
    versions: &'a [&'static rustls::SupportedProtocolVersion],
}

impl<'a> Client<'a> {
    fn new(authority: &'a Authority, name: &'a str) -> Self {
        Self { authority, name, identity: None, versions: rustls::ALL_VERSIONS }
    }

    /// What the server says, line by line; an error when there is no connection.
    fn ask(&self, sidelight: &Sidelight) -> Result<HashMap<String, String>, std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        let config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key_der.clone()));
                builder.with_client_auth_cert(vec![leaf.der.clone()], key).expect("an identity")
            }
        };
        let name = ServerName::try_from(self.name.to_owned()).expect("a name");
        let addr = sidelight.secure_addr();
        let text = RUNTIME.block_on(async {
            let tcp = tokio::net::TcpStream::connect(addr).await?;
            let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            tls.write_all(b"GET /it?x HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").await?;
            let mut text = String::new();
            tls.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        })?;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        Ok(body.lines().filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

#[test]
fn what_a_guest_learns() {
    let authority = Authority::new();
    let sidelight = secure(&authority.leaf(&["edge.test"])).start();
    let told = Client::new(&authority, "edge.test").ask(&sidelight).expect("answers");
    assert_eq!(told["url"], "https://edge.test/it?x");
    assert_eq!(told["protocol"], "Some(\"TLSv1.3\")");
    assert!(told["cipher"].starts_with("Some(\"TLS_AES_") || told["cipher"].starts_with("Some(\"TLS_CHACHA20_"), "{told:?}");
    assert_eq!(told["server name"], "Some(\"edge.test\")");
    assert!(told["hello"].ends_with("bytes, type 1\")"), "{told:?}");
    assert_eq!(told["ja3"].len(), "Some(\"\")".len() + 32);
    // 13: TLS 1.3, d: it named the host, 00: no ALPN.
    assert!(told["ja4"].starts_with("Some(\"t13d") && told["ja4"].contains("00_"), "{told:?}");
    assert_eq!(told["certificate"], "Ok(None)");
    let told = Client { versions: &[&rustls::version::TLS12], ..Client::new(&authority, "edge.test") }.ask(&sidelight).expect("answers");
    assert_eq!(told["protocol"], "Some(\"TLSv1.2\")");
    assert!(told["cipher"].starts_with("Some(\"ECDHE-ECDSA-"), "{told:?}");
    assert!(told["ja4"].starts_with("Some(\"t12d"), "{told:?}");
    // The same program without TLS.
    let plain = sidelight.get("/it?x").text();
    assert!(
        plain.starts_with(
            "url: http://edge.test/it?x\nprotocol: None\ncipher: None\nserver name: None\nhello: None\nja3: None\nja4: None\n"
        ),
        "{plain}"
    );
}

#[test]
fn certificates_by_name() {
    let authority = Authority::new();
    let (one, two, wild) = (authority.leaf(&["one.test"]), authority.leaf(&["two.test"]), authority.leaf(&["*.wild.test"]));
    let sidelight = secure(&one).arg(&format!("--tls-cert {} --tls-cert {}", both(&two).display(), both(&wild).display())).start();
    for name in ["one.test", "two.test", "a.wild.test"] {
        assert_eq!(Client::new(&authority, name).ask(&sidelight).expect("answers")["server name"], format!("Some({name:?})"));
    }
    // The first is shown to those who ask for another, and they do not take it.
    assert!(Client::new(&authority, "other.test").ask(&sidelight).is_err());
    assert_eq!(Client::new(&authority, "two.test").ask(&sidelight).expect("answers")["protocol"], "Some(\"TLSv1.3\")");
    sidelight.wait_until("a count", |sidelight| sidelight.metric("sidelight_tls_handshakes_failed_total") >= 1.0);
}

#[test]
fn client_certificates_that_are_optional() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let roots = file("clients.pem", &clients.pem);
    let sidelight = secure(&authority.leaf(&["edge.test"])).arg(&format!("--client-ca {}", roots.display())).start();
    let ask = |identity: Option<&Leaf>| Client { identity, ..Client::new(&authority, "edge.test") }.ask(&sidelight).expect("answers");
    let good = clients.leaf(&["client.test"]);
    let told = ask(Some(&good));
    assert_eq!(told["verified"], "Some(Ok)");
    assert!(told["certificate"].contains("BEGIN CERTIFICATE"), "{told:?}");
    let shown = told["certificate"].replace("\\n", "").replace("Ok(Some(\"", "").replace("\"))", "");
    assert_eq!(shown, good.pem.replace(['\n', '\r'], ""));
    assert_eq!(ask(None)["verified"], "Some(CertificateMissing)");
    assert_eq!(ask(Some(&Authority::new().leaf(&["client.test"])))["verified"], "Some(UnknownCa)");
    let expired = clients.leaf_with(&["client.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert_eq!(ask(Some(&expired))["verified"], "Some(CertificateExpired)");
}

#[test]
fn client_certificates_that_are_required() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let roots = file("clients.pem", &clients.pem);
    let sidelight = secure(&authority.leaf(&["edge.test"])).arg(&format!("--client-ca {} --client-cert-required", roots.display())).start();
    let ask = |identity: Option<&Leaf>| Client { identity, ..Client::new(&authority, "edge.test") }.ask(&sidelight);
    assert_eq!(ask(Some(&clients.leaf(&["client.test"]))).expect("answers")["verified"], "Some(Ok)");
    assert!(ask(None).is_err());
    assert!(ask(Some(&Authority::new().leaf(&["client.test"]))).is_err());
}

#[test]
fn who_speaks_no_tls_is_cut_off() {
    let authority = Authority::new();
    let sidelight = secure(&authority.leaf(&["edge.test"])).arg("--head-timeout 300ms").start();
    let mut plain = crate::client::Connection::open(sidelight.secure_addr());
    plain.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // An alert, perhaps, and the end.
    while plain.discard(1) {}
    let mut silent = crate::client::Connection::open(sidelight.secure_addr());
    assert!(silent.closed());
    sidelight.wait_until("a count", |sidelight| sidelight.metric("sidelight_tls_handshakes_failed_total") >= 2.0);
    assert!(Client::new(&authority, "edge.test").ask(&sidelight).is_ok());
}

#[test]
fn settings_that_cannot_work() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["edge.test"]);
    let other = authority.leaf(&["edge.test"]);
    let (certificate, key) = (file("cert.pem", &leaf.pem), file("key.pem", &other.key_pem));
    let refused = |args: &str, parts: &[&str]| {
        let (status, text) = Setup::new(guest("rust", "client")).arg(args).fails();
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let certificate = certificate.display();
    refused("--tls-addr 127.0.0.1:0", &["--tls-cert"]);
    refused("--tls-addr 127.0.0.1:0 --tls-cert /nowhere.pem", &["/nowhere.pem", "No such file"]);
    refused(&format!("--tls-addr 127.0.0.1:0 --tls-cert {certificate}"), &["cert.pem", "no private key", "hint:"]);
    refused(&format!("--tls-addr 127.0.0.1:0 --tls-cert {certificate} --tls-key {}", key.display()), &["cert.pem"]);
    refused(&format!("--tls-addr 127.0.0.1:0 --tls-cert {certificate} --tls-key a --tls-key b"), &["--tls-key is given 2 times"]);
}

#[test]
fn certificates_that_change() {
    let (old, new) = (Authority::new(), Authority::new());
    let (first, second) = (old.leaf(&["edge.test"]), new.leaf(&["edge.test"]));
    let (certificate, key) = (file("renewed.pem", &first.pem), file("renewed.key", &first.key_pem));
    let setup = Setup::new(guest("rust", "client"));
    let sidelight = setup.arg(&format!("--tls-addr 127.0.0.1:0 --tls-cert {} --tls-key {}", certificate.display(), key.display())).start();
    let renewals = |result: &'static str| {
        move |sidelight: &Sidelight| sidelight.metric(&format!("sidelight_tls_renewals_total{{result=\"{result}\"}}")) >= 1.0
    };
    Client::new(&old, "edge.test").ask(&sidelight).expect("answers");
    // A key that does not fit, then none at all: what was there is served on.
    std::fs::write(&certificate, &second.pem).expect("a certificate");
    sidelight.wait_until("a refusal", renewals("error"));
    sidelight.log.wait_for(&["those from before are served on", "renewed.pem"]);
    let ready = sidelight.operate("GET", "/readyz");
    assert!(ready.status == 200 && ready.text().contains("certificates cannot be used"), "{}", ready.text());
    Client::new(&old, "edge.test").ask(&sidelight).expect("answers");
    std::fs::remove_file(&key).expect("no key");
    sidelight.log.wait_for(&["those from before are served on", "renewed.key"]);
    Client::new(&old, "edge.test").ask(&sidelight).expect("answers");
    // Both, by a rename.
    let aside = file("aside.key", &second.key_pem);
    std::fs::rename(aside, &key).expect("a key");
    sidelight.wait_until("the new certificate", renewals("ok"));
    Client::new(&new, "edge.test").ask(&sidelight).expect("answers");
    assert_eq!(sidelight.operate("GET", "/readyz").text(), "ok\n");
    assert!(Client::new(&old, "edge.test").ask(&sidelight).is_err());
}
