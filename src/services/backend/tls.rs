//! TLS towards backends: one rustls configuration per backend, kept, so that sessions resume.

use std::borrow::Cow;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use super::ciphers;
use crate::config::{BackendTls, HttpVersions, Pem, TlsVersion, files};

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Text without usable PEM.
    #[error("{0} holds no usable PEM {1}")]
    Pem(&'static str, &'static str),
    /// There are no roots to check a certificate with.
    #[error("no root certificates: none in the system's store (SSL_CERT_FILE, SSL_CERT_DIR) and none given by ca_certificate")]
    NoRoots,
    /// No version of TLS that this host speaks is allowed.
    #[error("this host speaks TLS 1.2 and 1.3, and the settings allow neither")]
    Versions,
    /// No cipher suite that this host has is allowed.
    #[error("none of the cipher suites `{0}` is one of this host's, and TLS 1.3 is not allowed")]
    Ciphers(String),
    /// rustls does not take the settings.
    #[error("{0}")]
    Rustls(#[from] Error),
}

/// Everything a handshake with one backend needs.
pub struct Client {
    config: Arc<ClientConfig>,
    name: String,
    identity: [u8; 32],
}

impl Client {
    /// Builds from settings. `system` are the machine's roots, used when the settings give none.
    pub fn build(settings: &BackendTls, http: HttpVersions, system: &Arc<RootCertStore>) -> Result<Self, TlsConfigError> {
        let mut provider = rustls::crypto::ring::default_provider();
        let versions = versions(settings);
        if versions.is_empty() {
            return Err(TlsConfigError::Versions);
        }
        if let Some(list) = &settings.ciphers {
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || ciphers::allows(list, suite.suite()));
            if !provider.cipher_suites.iter().any(|suite| versions.contains(&suite.version())) {
                return Err(TlsConfigError::Ciphers(list.clone()));
            }
        }
        let provider = Arc::new(provider);
        let mut digest = Sha256::new();
        let roots = if settings.ca.is_empty() {
            system.clone()
        } else {
            let mut roots = RootCertStore::empty();
            for pem in &settings.ca {
                for certificate in certificates(pem, "ca_certificate", &mut digest)? {
                    roots.add(certificate)?;
                }
            }
            Arc::new(roots)
        };
        if roots.is_empty() {
            return Err(TlsConfigError::NoRoots);
        }
        let verifier = Verifier::new(roots, settings, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = certificates(&client.certificate, "client_certificate.certificate", &mut digest)?;
                let key = private_key(&client.key, &mut digest)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = match http {
            HttpVersions::One => Vec::new(),
            HttpVersions::Two => vec![b"h2".to_vec()],
            HttpVersions::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        config.enable_sni = settings.sni.is_some();
        // A handshake wants a name, even if none is sent and none is checked.
        let name = settings.sni.clone().or_else(|| settings.cert_host.clone()).unwrap_or_else(|| "backend.invalid".to_owned());
        Ok(Self { config: Arc::new(config), name, identity: digest.finalize().into() })
    }

    /// The rustls side.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The name to hand to the handshake: the SNI, or any valid name when none is sent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A digest of the certificates used: differs when they do.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }
}

/// The system's roots; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("system root certificates: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn read<'a>(pem: &'a Pem, digest: &mut Sha256) -> Result<Cow<'a, [u8]>, TlsConfigError> {
    let text = match pem {
        Pem::Inline(text) => Cow::Borrowed(text.as_bytes()),
        Pem::Secret(secret) => Cow::Borrowed(secret.as_ref()),
        Pem::File(path) => {
            let text =
                files::read(path, files::LARGEST).map_err(|source| TlsConfigError::File { path: path.display().to_string(), source })?;
            Cow::Owned(text)
        }
    };
    digest.update(&text);
    Ok(text)
}

fn certificates(pem: &Pem, key: &'static str, digest: &mut Sha256) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let text = read(pem, digest)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsConfigError::Pem(key, "certificate"))
}

fn private_key(pem: &Pem, digest: &mut Sha256) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let text = read(pem, digest)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsConfigError::Pem("client_certificate.key", "private key"))
}

fn versions(settings: &BackendTls) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::with_capacity(2);
    for (ours, version) in [(&TLS12, TlsVersion::V1_2), (&TLS13, TlsVersion::V1_3)] {
        if (settings.min..=settings.max).contains(&version) {
            versions.push(ours);
        }
    }
    versions
}

/// Checks the chain as usual, but against the configured name, which may differ from the SNI, or
/// against none.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    name: Option<ServerName<'static>>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(roots: Arc<RootCertStore>, settings: &BackendTls, provider: &Arc<CryptoProvider>) -> Result<Self, TlsConfigError> {
        let inner =
            WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(|_| TlsConfigError::NoRoots)?;
        let name = match &settings.cert_host {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| Error::General(format!("`{name}` is no certificate name")))?),
            None => None,
        };
        Ok(Self { inner, name, roots, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.name {
            Some(name) => self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
