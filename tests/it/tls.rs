//! TLS towards backends: roots, names, SNI, client certificates.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::harness::Setup;
use crate::origin::RUNTIME;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub der: CertificateDer<'static>,
}

pub struct Leaf {
    pub pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
    pub key_der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own, as those who issue certificates do.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs");
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    pub fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("parameters");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        Leaf { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone(), key_der: key.serialize_der() }
    }
}

/// An https origin; answers with the SNI it got and whether a client certificate came.
pub fn origin(leaf: &Leaf, client_roots: Option<&Authority>) -> (SocketAddr, Arc<Mutex<Vec<Option<String>>>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).expect("a root");
            builder
                .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key_der.clone()));
    let config = builder.with_single_cert(vec![leaf.der.clone()], key).expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let names: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let seen = names.clone();
    let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("binds");
    let addr = listener.local_addr().expect("an address");
    RUNTIME.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let session = tls.get_ref().1;
                seen.lock().expect("the list").push(session.server_name().map(str::to_owned));
                let client = session.peer_certificates().is_some();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(format!("host={host} client={client}")))))
                });
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
            });
        }
    });
    (addr, names)
}

fn backend(addr: SocketAddr, more: &str) -> String {
    format!("[local_server.backends.origin]\nurl = \"https://localhost:{}\"\n{more}\n", addr.port())
}

#[test]
fn given_roots_and_sni() {
    let authority = Authority::new();
    let (addr, names) = origin(&authority.leaf(&["localhost"]), None);
    let manifest = backend(addr, &format!("ca_certificate = '''{}'''", authority.pem));
    let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
    for _ in 0..3 {
        let answer = sidelight.get("/pass/x");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("client=false"));
    }
    assert_eq!(*names.lock().expect("the list"), [Some("localhost".to_owned())], "one connection, used again");
}

#[test]
fn roots_from_ssl_cert_file() {
    let authority = Authority::new();
    let (addr, _) = origin(&authority.leaf(&["localhost"]), None);
    let roots = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("roots-{}.pem", std::process::id()));
    std::fs::write(&roots, &authority.pem).expect("a file");
    let sidelight = Setup::behaviours("rust").manifest(&backend(addr, "")).env("SSL_CERT_FILE", roots.display().to_string()).start();
    assert_eq!(sidelight.get("/pass/x").status, 200);
}

#[test]
fn unknown_roots_are_refused_with_a_reason() {
    let (addr, _) = origin(&Authority::new().leaf(&["localhost"]), None);
    let sidelight = Setup::behaviours("rust").manifest(&backend(addr, "")).start();
    let answer = sidelight.get("/pass/x");
    assert_eq!(answer.status, 502);
    assert!(answer.text().to_lowercase().contains("certificate"), "{}", answer.text());
    assert!(sidelight.metric("sidelight_backend_requests_total{backend=\"origin\",result=\"tls_certificate_error\"}") >= 1.0);
}

#[test]
fn the_certificate_must_be_for_the_name() {
    let authority = Authority::new();
    let (addr, names) = origin(&authority.leaf(&["other.example"]), None);
    let roots = format!("ca_certificate = '''{}'''", authority.pem);
    let sidelight = Setup::behaviours("rust").manifest(&backend(addr, &roots)).start();
    assert_eq!(sidelight.get("/pass/x").status, 502);
    let sidelight = Setup::behaviours("rust").manifest(&backend(addr, &format!("{roots}\ncert_host = \"other.example\""))).start();
    let answer = sidelight.get("/pass/x");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(names.lock().expect("the list").iter().flatten().count() >= 1);
}

#[test]
fn without_sni() {
    let authority = Authority::new();
    let (addr, names) = origin(&authority.leaf(&["localhost"]), None);
    let manifest = backend(addr, &format!("use_sni = false\nca_certificate = '''{}'''", authority.pem));
    let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
    assert_eq!(sidelight.get("/pass/x").status, 200);
    assert_eq!(*names.lock().expect("the list"), [None]);
}

#[test]
fn a_client_certificate() {
    let authority = Authority::new();
    let (addr, _) = origin(&authority.leaf(&["localhost"]), Some(&authority));
    let client = authority.leaf(&["client"]);
    let roots = format!(
        "ca_certificate = {{ file = \"ca.pem\" }}\n[local_server.backends.origin.client_certificate]\ncertificate = '''{}'''\nkey = '''{}'''",
        client.pem, client.key_pem
    );
    let sidelight = Setup::behaviours("rust").file("ca.pem", &authority.pem).manifest(&backend(addr, &roots)).start();
    let answer = sidelight.get("/pass/x");
    assert!(answer.text().contains("client=true"), "{}", answer.text());
    // And without one, the backend's alert is the guest's error.
    let sidelight = Setup::behaviours("rust").manifest(&backend(addr, &format!("ca_certificate = '''{}'''", authority.pem))).start();
    assert_eq!(sidelight.get("/pass/x").status, 502);
}

#[test]
fn override_host_is_sent() {
    let authority = Authority::new();
    let (addr, _) = origin(&authority.leaf(&["localhost"]), None);
    let manifest = backend(addr, &format!("override_host = \"www.example.com\"\nca_certificate = '''{}'''", authority.pem));
    let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
    let answer = sidelight.get("/pass/x");
    assert!(answer.text().contains("host=www.example.com"), "{}", answer.text());
}
