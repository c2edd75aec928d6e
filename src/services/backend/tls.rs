//! TLS towards backends: one rustls configuration per backend, kept, so that sessions resume.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::config::{BackendTls, Pem};

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
    pub fn build(settings: &BackendTls, system: &Arc<RootCertStore>) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
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
            .with_safe_default_protocol_versions()?
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
        config.enable_sni = settings.sni.is_some();
        let name = settings.sni.clone().unwrap_or_else(|| settings.cert_host.clone());
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

fn read(pem: &Pem, digest: &mut Sha256) -> Result<Vec<u8>, TlsConfigError> {
    let text = match pem {
        Pem::Inline(text) => text.clone().into_bytes(),
        Pem::File(path) => std::fs::read(path).map_err(|source| TlsConfigError::File { path: path.display().to_string(), source })?,
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

/// Checks the chain as usual, but against the configured name, which may differ from the SNI.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl Verifier {
    fn new(roots: Arc<RootCertStore>, settings: &BackendTls, provider: &Arc<CryptoProvider>) -> Result<Self, TlsConfigError> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|_| TlsConfigError::NoRoots)?;
        let name = ServerName::try_from(settings.cert_host.clone())
            .map_err(|_| Error::General(format!("`{}` is no certificate name", settings.cert_host)))?;
        Ok(Self { inner, name })
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
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp, now)
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
