//! Configuration: text in, decided values out.
//!
//! [`manifest`] mirrors `fastly.toml`, [`resolve`] turns it into the types of this module. The
//! types here hold decided values only: whatever has a default has it already. Nothing in this
//! layer opens a socket or a store.

pub mod access;
pub mod diagnostics;
pub mod document;
pub mod facts;
pub mod faults;
pub mod files;
pub mod host;
pub mod host_file;
pub mod kubernetes;
pub mod logs;
pub mod manifest;
pub mod module;
pub mod options;
pub mod resolve;
pub mod secret;
pub mod services;
pub mod settings;
pub mod shape;
pub mod state;
pub mod stores;
pub mod targets;
pub mod traces;

use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use diagnostics::ConfigError;
pub use facts::Facts;
pub use host::{Environment, GuestLimits, HostConfig};
pub use module::ModuleSource;
pub use secret::Secret;
pub use state::State;
pub use stores::Stores;
pub use targets::Targets;

/// One Compute service: what `fastly.toml` and the command line together say about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The manifest's `name`, used in logs and metrics.
    pub name: String,
    /// Reported to the guest as `FASTLY_SERVICE_ID`.
    pub service_id: String,
    /// Named static backends.
    pub backends: BTreeMap<String, Backend>,
    /// The one of them that stands for every name that no other has.
    pub catch_all: Option<String>,
    /// Where dynamic backends may point.
    pub dynamic_targets: Targets,
    /// A Pushpin's HTTP address, for programs that hand clients to Fanout.
    pub grip_proxy: Option<SocketAddr>,
    /// What the platform knows of clients and of the service.
    pub facts: Facts,
    /// Whether programs may hand WebSockets to backends.
    pub websockets: bool,
    /// Stores and edge data.
    pub stores: Stores,
    /// What there is to keep state in.
    pub state: State,
    /// Whether responses are cached.
    pub cache_http: bool,
    /// Services whose programs may use its core cache; `*`: all.
    pub cache_open_to: Vec<String>,
    /// Where the records of log endpoints go; `*`: of those that are not named.
    pub logs: BTreeMap<String, logs::LogEndpoint>,
    /// Limits of its guests.
    pub limits: GuestLimits,
    /// What its guests are told about where they run.
    pub environment: Environment,
    /// Things in the manifest that load but have no effect.
    pub notes: Vec<Note>,
    /// That it is a service that comes and goes, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropin: Option<DroppedIn>,
}

/// A service that comes and goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedIn {
    /// Since when it is there, in milliseconds since the epoch, if that is known: another one of the same name is another service.
    pub since: Option<u64>,
}

/// How a new generation of a service takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// Percentage of requests that it takes at first; 100: it takes over at once.
    pub percent: u8,
    /// For how long.
    pub time: Duration,
    /// Above which percentage of failed answers it is taken back.
    pub max_failed_percent: u8,
    /// A request that it must answer first.
    pub smoke: Option<Smoke>,
}

/// A request that a new generation must answer before it gets any of clients'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Smoke {
    /// Its host.
    pub host: String,
    /// Its path and query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
}

impl Config {
    /// Files that its settings name, its program apart.
    pub fn files(&self) -> Vec<&Path> {
        let passwords = self.state.redis.iter().filter_map(|redis| redis.password_file.as_deref());
        self.own_files().into_iter().chain(passwords).collect()
    }

    /// Those of them that its manifest names, and not the host.
    pub fn own_files(&self) -> Vec<&Path> {
        let tls = self.backends.values().filter_map(|backend| backend.tls.as_ref());
        let pems = tls.flat_map(|tls| tls.ca.iter().chain(tls.client.iter().flat_map(|client| [&client.certificate, &client.key])));
        let logs = self.logs.values().flat_map(logs::LogEndpoint::files);
        pems.filter_map(Pem::file).chain(self.stores.files()).chain(logs.map(PathBuf::as_path)).collect()
    }
}

/// Something in a manifest that loads but has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Whether its author may think that it has one.
    pub important: bool,
    /// What it is.
    pub text: String,
}

/// A backend, static or dynamic: where requests sent to its name go, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
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
    /// What it is spoken to in.
    pub http: HttpVersions,
    /// Time for name resolution, TCP and TLS together. Production's default is 1 s.
    pub connect_timeout: Duration,
    /// Time from the end of the request to the response head. Production's default is 15 s.
    pub first_byte_timeout: Duration,
    /// Longest silence within a response body. Production's default is 10 s.
    pub between_bytes_timeout: Duration,
    /// How long an idle connection stays in the pool.
    pub keepalive_time: Duration,
    /// Limits of that pool.
    pub pool: PoolLimits,
    /// TCP keepalive.
    pub tcp_keepalive: TcpKeepalive,
    /// Whether IPv6 addresses are tried before IPv4 ones.
    pub prefer_ipv6: bool,
    /// A fixed answer for `is_healthy`, as the manifest's `health` gives it.
    pub health: Health,
    /// Percentage of requests that reach it; the others are answered 502 here.
    pub availability: u8,
    /// What it does to requests on purpose.
    pub faults: Option<faults::Faults>,
    /// How its health is found out; it then goes before the fixed one.
    pub check: Option<HealthCheck>,
    /// Whether it learns of the traces of requests; `None`: as the host says.
    pub propagate: Option<traces::Propagate>,
    /// Whether a guest made it.
    pub dynamic: bool,
}

impl Backend {
    /// Plain HTTP to an address, everything else as in production.
    pub fn plain(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            host: address.ip().to_string(),
            port: address.port(),
            path_prefix: String::new(),
            override_host: None,
            tls: None,
            http: HttpVersions::One,
            connect_timeout: resolve::CONNECT_TIMEOUT,
            first_byte_timeout: resolve::FIRST_BYTE_TIMEOUT,
            between_bytes_timeout: resolve::BETWEEN_BYTES_TIMEOUT,
            keepalive_time: resolve::KEEPALIVE_TIME,
            pool: PoolLimits::default(),
            tcp_keepalive: TcpKeepalive::default(),
            prefer_ipv6: true,
            health: Health::Unknown,
            availability: 100,
            faults: None,
            check: None,
            propagate: None,
            dynamic: false,
        }
    }
}

/// An active health check. The defaults are production's (fastly:compute WIT, `healthcheck-options`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// Of its requests.
    pub method: String,
    /// Of its requests; the backend's prefix goes in front.
    pub path: String,
    /// `Host` of its requests; `None`: as of any request.
    pub host: Option<String>,
    /// What a healthy backend answers.
    pub expected: u16,
    /// Checks that are remembered, at most 15.
    pub window: u32,
    /// How many of them must have gone well.
    pub threshold: u32,
    /// How many are taken as having gone well at first.
    pub initial: u32,
    /// Time from one to the next.
    pub interval: Duration,
    /// Time each may take.
    pub timeout: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            expected: 200,
            window: 5,
            threshold: 3,
            initial: 4,
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(5),
        }
    }
}

impl HealthCheck {
    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<&'static str> {
        const SECOND: Duration = Duration::from_secs(1);
        if self.window == 0 || self.window > 15 {
            return Some("its window must be 1 to 15");
        }
        if self.threshold > self.window || self.initial > self.window {
            return Some("its threshold and initial must not be greater than its window");
        }
        if !(SECOND..=SECOND * 3600).contains(&self.interval) || self.timeout.is_zero() {
            return Some("its interval must be one second to one hour, and its timeout more than nothing");
        }
        if !(100..1000).contains(&self.expected) {
            return Some("its status is none");
        }
        if ::http::Method::from_bytes(self.method.as_bytes()).is_err() || !self.path.starts_with('/') {
            return Some("its method must be one, and its path begin with a slash");
        }
        None
    }
}

/// Versions of HTTP towards a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum HttpVersions {
    /// HTTP/1.1, as production speaks to backends.
    #[default]
    One,
    /// HTTP/2 and nothing else, as gRPC needs: chosen by ALPN, or at once where there is no TLS.
    Two,
    /// With TLS, whichever of the two the backend prefers; without, HTTP/1.1.
    Either,
}

/// Limits of the connections that are kept for a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct PoolLimits {
    /// Idle connections; 0 is as many as the host allows.
    pub connections: u32,
    /// Requests on one connection; 0 is no limit.
    pub uses: u32,
    /// Age of a connection; zero is no limit.
    pub lifetime: Duration,
}

/// TCP keepalive (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct TcpKeepalive {
    /// Whether probes are sent.
    pub enabled: bool,
    /// Silence before the first, in seconds.
    pub time: u32,
    /// Time between probes, in seconds.
    pub interval: u32,
    /// How many without an answer end the connection.
    pub probes: u32,
}

/// TLS versions, as the ABI numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersion {
    /// TLS 1.0, which nothing here speaks.
    V1_0 = 0,
    /// TLS 1.1, which nothing here speaks.
    V1_1 = 1,
    /// TLS 1.2.
    V1_2 = 2,
    /// TLS 1.3.
    V1_3 = 3,
}

/// TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct BackendTls {
    /// The server name to send; `None` sends none.
    pub sni: Option<String>,
    /// The name the certificate must be valid for; `None`: any name, of a trusted certificate.
    pub cert_host: Option<String>,
    /// Oldest version.
    pub min: TlsVersion,
    /// Newest version.
    pub max: TlsVersion,
    /// OpenSSL's names of cipher suites up to TLS 1.2, separated by colons; `None`: all of rustls's.
    pub ciphers: Option<String>,
    /// Trust these roots instead of the system's when not empty.
    pub ca: Vec<Pem>,
    /// Certificate and key to present.
    pub client: Option<ClientCertificate>,
}

impl BackendTls {
    /// Bytes of certificates and keys in it; files are read when they are used.
    pub fn bytes(&self) -> usize {
        let client = self.client.iter().flat_map(|client| [&client.certificate, &client.key]);
        let length = |pem: &Pem| match pem {
            Pem::Inline(text) => text.len(),
            Pem::File(_) => 0,
            Pem::Secret(secret) => secret.as_ref().len(),
        };
        self.ca.iter().chain(client).map(length).sum()
    }
}

/// PEM text, or what holds it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Pem {
    /// The text itself.
    Inline(String),
    /// A file, read when the backend is built.
    File(PathBuf),
    /// A secret of the guest.
    Secret(Secret),
}

impl Serialize for Pem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => path.serialize(serializer),
            // It may be a key.
            Self::Inline(_) | Self::Secret(_) => serializer.serialize_str("‹redacted›"),
        }
    }
}

impl Pem {
    /// The file it is in, if it is in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) | Self::Secret(_) => None,
        }
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // May be a private key: never shown.
            Self::Inline(_) => f.write_str("Inline(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

/// A client certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ClientCertificate {
    /// Certificate chain, leaf first.
    pub certificate: Pem,
    /// PKCS#8, SEC1 or PKCS#1 key.
    pub key: Pem,
}

/// The fixed health a manifest gives a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Health {
    /// No statement.
    #[default]
    Unknown,
    /// `is_healthy` answers healthy.
    Healthy,
    /// `is_healthy` answers unhealthy.
    Unhealthy,
}
