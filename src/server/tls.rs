//! TLS towards clients: certificates by the name that is asked for, client certificates, and what a
//! handshake says of a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use pingora::apps::ServerApp;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::ShutdownWatch;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello as Asked, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ProtocolVersion, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;

use super::{Edge, connection, hops};
use crate::config::host::{ClientCertificates, TlsListener};
use crate::http::client_hello::{self, ClientHello};
use crate::http::io::TlsIo;
use crate::sandbox::{CertificateCheck, ClientTls};
use crate::services::backend::ciphers;
use crate::telemetry::clock;

/// Settings that cannot work. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file without what it should hold.
    #[error("{}: holds no {what} in PEM\n  hint: --tls-cert takes the chain, the server's certificate first; the key is in the same file or in --tls-key", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not spoken here.
    #[error("{}: {error}", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls says.
        error: Error,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// What serves clients behind TLS.
pub struct Secure {
    edge: Arc<Edge>,
    config: Arc<ServerConfig>,
    clients: Option<Arc<Clients>>,
}

impl Secure {
    /// Reads certificates and keys.
    pub fn build(edge: Arc<Edge>, settings: &TlsListener) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut keys = Vec::new();
        for (certificate, key) in &settings.certificates {
            keys.push(Arc::new(certified(certificate, key, &provider)?));
        }
        let clients = settings.clients.as_ref().map(|clients| Clients::build(clients, &provider)).transpose()?.map(Arc::new);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName(keys)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { edge, config: Arc::new(config), clients })
    }

    async fn accept(&self, stream: Stream) -> Option<(TlsIo, ClientTls)> {
        let l4 = stream.into_any().downcast::<L4Stream>().ok()?;
        // A client has as long for its handshake as for a head.
        let (io, sent) = match timeout(self.edge.limits.head_timeout, TlsIo::accept(self.config.clone(), *l4)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.edge.telemetry.metrics.tls_handshakes_failed.inc();
                tracing::debug!(target: "sidelight::client", %error, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                self.edge.telemetry.metrics.tls_handshakes_failed.inc();
                return None;
            }
        };
        let tls = self.describe(&io, &sent);
        Some((io, tls))
    }

    /// What a finished handshake says.
    fn describe(&self, io: &TlsIo, sent: &[u8]) -> ClientTls {
        let session = io.session();
        let message = client_hello::message(sent).unwrap_or_default();
        let hello = ClientHello::parse(&message);
        let chain = session.peer_certificates().unwrap_or_default();
        ClientTls {
            protocol: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: session.negotiated_cipher_suite().map(|suite| ciphers::name(suite.suite())).unwrap_or_default(),
            server_name: io.server_name().map(str::to_owned),
            hello: Bytes::from(message),
            ja3: hello.as_ref().map(ClientHello::ja3),
            ja4: hello.as_ref().map(ClientHello::ja4),
            certificate: (!chain.is_empty()).then(|| chain.iter().map(|certificate| pem(certificate)).collect()),
            verified: match (chain, &self.clients) {
                ([], _) => CertificateCheck::Missing,
                (_, None) => CertificateCheck::Unknown,
                ([leaf, rest @ ..], Some(clients)) => clients.check(leaf, rest),
            },
        }
    }
}

#[async_trait]
impl ServerApp for Secure {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let ends = hops::ends(&self.edge, &mut stream).await?;
        if let Some((io, tls)) = self.accept(stream).await {
            connection::serve(&self.edge, Box::new(io), ends, Some(tls), shutdown.clone()).await;
        }
        None
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Pem { path: path.to_owned(), what: "certificate" })
}

fn certified(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate)?;
    let text = read(key)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::Pem { path: key.to_owned(), what: "private key" })?;
    let pair = CertifiedKey::from_der(chain, key, provider);
    pair.map_err(|error| TlsError::Pair { path: certificate.to_owned(), error })
}

/// Certificates; the first is for clients that ask for no name, or for one that none has.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, asked: Asked<'_>) -> Option<Arc<CertifiedKey>> {
        let name = asked.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let certificate = key.end_entity_cert().and_then(ParsedCertificate::try_from);
            name.as_ref().is_some_and(|name| {
                certificate.is_ok_and(|certificate: ParsedCertificate<'_>| verify_server_name(&certificate, name).is_ok())
            })
        };
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

/// Checks client certificates. Where they are optional, a bad one does not end the handshake: the
/// guest learns what is wrong with it.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    required: bool,
}

impl Clients {
    fn build(settings: &ClientCertificates, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&settings.roots)? {
            roots.add(certificate).map_err(|error| TlsError::Pair { path: settings.roots.clone(), error })?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let inner = verifier.map_err(|error| TlsError::Other(format!("{}: {error}", settings.roots.display())))?;
        Ok(Self { inner, required: settings.required })
    }

    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> CertificateCheck {
        let now = UnixTime::since_unix_epoch(clock::unix());
        match self.inner.verify_client_cert(leaf, rest, now) {
            Ok(_) => CertificateCheck::Ok,
            Err(Error::InvalidCertificate(reason)) => match reason {
                CertificateError::BadEncoding | CertificateError::BadSignature => CertificateCheck::Bad,
                CertificateError::Revoked => CertificateCheck::Revoked,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => CertificateCheck::Expired,
                CertificateError::UnknownIssuer => CertificateCheck::UnknownIssuer,
                _ => CertificateCheck::Unknown,
            },
            Err(_) => CertificateCheck::Unknown,
        }
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.required { self.inner.verify_client_cert(leaf, rest, now) } else { Ok(ClientCertVerified::assertion()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
