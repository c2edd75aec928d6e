//! Configuration: text in, decided values out.
//!
//! [`manifest`] mirrors `fastly.toml`, [`resolve`] turns it into the types of this module. The
//! types here hold decided values only: whatever has a default has it already. Nothing in this
//! layer opens a socket or a store.

pub mod diagnostics;
pub mod host;
pub mod manifest;
pub mod resolve;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use diagnostics::ConfigError;
pub use host::HostConfig;

/// One Compute service: what `fastly.toml` and the command line together say about it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The manifest's `name`, used in logs and metrics.
    pub name: String,
    /// Reported to the guest as `FASTLY_SERVICE_ID`.
    pub service_id: String,
    /// Named static backends.
    pub backends: BTreeMap<String, Backend>,
    /// Things in the manifest that load but have no effect yet; logged at start.
    pub notes: Vec<String>,
}

/// A static backend: where requests sent to its name go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The name the guest sends to.
    pub name: String,
    /// DNS name or IP address, without brackets or port.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Put in front of every request path; empty or starts with `/`, never ends with `/`.
    pub path_prefix: String,
    /// Replaces the `Host` header of every request when set.
    pub override_host: Option<String>,
    /// TLS settings, `None` for plain HTTP.
    pub tls: Option<BackendTls>,
    /// Time for name resolution, TCP and TLS together. Production's default is 1 s.
    pub connect_timeout: Duration,
    /// Time from the end of the request to the response head. Production's default is 15 s.
    pub first_byte_timeout: Duration,
    /// Longest silence within a response body. Production's default is 10 s.
    pub between_bytes_timeout: Duration,
    /// How long an idle connection stays in the pool.
    pub keepalive_time: Duration,
    /// A fixed answer for `is_healthy`, as the manifest's `health` gives it.
    pub health: Health,
}

/// TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// The server name to send; `None` sends none.
    pub sni: Option<String>,
    /// The name the certificate must be valid for.
    pub cert_host: String,
    /// Trust these roots instead of the system's when not empty.
    pub ca: Vec<Pem>,
    /// Certificate and key to present.
    pub client: Option<ClientCertificate>,
}

/// PEM text, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text itself.
    Inline(String),
    /// A file, read when the backend is built.
    File(PathBuf),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // May be a private key: never shown.
            Self::Inline(_) => f.write_str("Inline(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A client certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Certificate chain, leaf first.
    pub certificate: Pem,
    /// PKCS#8, SEC1 or PKCS#1 key.
    pub key: Pem,
}

/// The fixed health a manifest gives a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// No statement.
    #[default]
    Unknown,
    /// `is_healthy` answers healthy.
    Healthy,
    /// `is_healthy` answers unhealthy.
    Unhealthy,
}
