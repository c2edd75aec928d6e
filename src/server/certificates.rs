//! Certificates and keys of this host, read again when their files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello as Asked, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::config::files;
use crate::config::host::{ClientCertificates, TlsListener};
use crate::sandbox::CertificateCheck;
use crate::telemetry::{Telemetry, clock};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Settings that cannot work. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}\n  hint: --tls-cert, --tls-key and --client-ca name PEM files", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file without what it should hold.
    #[error("{}: holds no {what} in PEM\n  hint: --tls-cert takes the chain, the server's certificate first, with the key in the same file or in --tls-key; --client-ca the issuers of clients' certificates", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not spoken here.
    #[error("{}: {error}\n  hint: is the key in --tls-key (or in the same file) the one of this certificate?", path.display())]
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

/// What one reading of the files gives. New for every reading, with its session tickets: nobody resumes a session that
/// older certificates were checked for.
pub(super) struct Material {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Option<Arc<Clients>>,
    /// When each certificate expires, since the Unix epoch in seconds.
    expiries: Vec<(PathBuf, i64)>,
}

impl Material {
    fn read(settings: &TlsListener) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (mut keys, mut expiries) = (Vec::new(), Vec::new());
        for (certificate, key) in &settings.certificates {
            let pair = certified(certificate, key, &provider)?;
            let own = pair.cert.first().and_then(|own| x509_parser::parse_x509_certificate(own).ok());
            expiries.extend(own.map(|(_, own)| (certificate.clone(), own.validity().not_after.timestamp())));
            keys.push(Arc::new(pair));
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
        Ok(Self { config: Arc::new(config), clients, expiries })
    }
}

/// The certificates that are served now.
pub struct Certificates {
    settings: TlsListener,
    current: ArcSwap<Material>,
    /// Of the files, as they were just before `current` was read.
    read: [u8; 32],
}

impl Certificates {
    /// Reads certificates and keys.
    pub fn read(settings: &TlsListener) -> Result<Self, TlsError> {
        let read = look(settings);
        Ok(Self { current: ArcSwap::from_pointee(Material::read(settings)?), settings: settings.clone(), read })
    }

    /// Has metrics say when they expire.
    pub fn tell(&self, telemetry: &Telemetry) {
        let metric = &telemetry.metrics.certificate_expiry;
        metric.reset();
        for (path, expiry) in &self.current.load().expiries {
            metric.with_label_values(&[&*path.to_string_lossy()]).set(*expiry);
        }
    }

    /// What new connections are served with.
    pub(super) fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }
}

/// A digest of the files' contents.
fn look(settings: &TlsListener) -> [u8; 32] {
    let mut digest = Sha256::new();
    let certificates = settings.certificates.iter().flat_map(|(certificate, key)| [certificate, key]);
    for path in certificates.chain(settings.clients.as_ref().map(|clients| &clients.roots)) {
        match files::read(path, files::LARGEST) {
            Ok(content) => digest.update(Sha256::digest(&content)),
            Err(error) => digest.update(error.to_string()),
        }
    }
    digest.finalize().into()
}

/// What their troubles are told as.
const PART: &str = "certificates";

/// Reads certificates again when their files have changed, by whatever means: writing, renaming, or the links of a
/// mounted Kubernetes Secret.
pub struct Renewal {
    /// Of which listener.
    pub certificates: Arc<Certificates>,
    /// Counts readings.
    pub telemetry: Telemetry,
}

impl Renewal {
    fn renew(&self) {
        let Certificates { settings, current, .. } = &*self.certificates;
        let result = match Material::read(settings) {
            Ok(material) => {
                current.store(Arc::new(material));
                tracing::info!("certificates read again");
                self.certificates.tell(&self.telemetry);
                self.telemetry.troubles.set(PART, None);
                "ok"
            }
            Err(error) => {
                tracing::error!(%error, "the changed certificates cannot be used; those from before are served on");
                self.telemetry.troubles.set(PART, Some(format!("certificates cannot be used, those from before are served on: {error}")));
                "error"
            }
        };
        self.telemetry.metrics.tls_renewals.with_label_values(&[result]).inc();
    }
}

#[async_trait]
impl BackgroundService for Renewal {
    async fn start(&self, shutdown: ShutdownWatch) {
        let mut used = self.certificates.read;
        let mut before = used;
        let mut ticks = tokio::time::interval(LOOK);
        while !*shutdown.borrow() {
            ticks.tick().await;
            let now = look(&self.certificates.settings);
            // A certificate and its key are seldom replaced at once: only what has come to rest is read.
            if now != used && now == before {
                used = now;
                self.renew();
            }
            before = now;
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(path, files::LARGEST).map_err(|error| TlsError::File { path: path.to_owned(), error })
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
pub(super) struct Clients {
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

    /// What is wrong with a client's certificate.
    pub(super) fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> CertificateCheck {
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
