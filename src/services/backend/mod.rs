//! Backends: the registry of names, and requests sent to them.
//!
//! [`client`] does one exchange over a pooled HTTP/1.1 connection, [`h2`] many at once over one of HTTP/2,
//! [`tls`] builds what a TLS handshake needs.

pub mod ciphers;
pub mod client;
pub mod error;
pub mod faults;
mod flood;
pub mod h2;
pub mod health;
pub mod operators;
pub mod pool;
pub mod room;
pub mod slots;
pub mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};

use crate::config;
use crate::config::targets::{Targets, Verdict};
use crate::telemetry::Telemetry;
use crate::telemetry::sharded::{Count, Times};

use super::BuildError;
pub use client::{Connector, Request, Response, Switched};
pub use error::SendError;

/// Idle connections kept for one backend.
const MAX_IDLE: usize = 256;

/// Dynamic backends that are remembered, so that sandboxes that make the same share its connections.
const MAX_SHARED: usize = 1024;

/// Certificates and key of one that is remembered, in bytes: they stay after its guest.
const MAX_SHARED_BYTES: usize = 64 << 10;

/// How long a GRIP proxy may be silent on a client's connection.
const HELD: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of all dynamic backends in metrics: guests choose theirs.
const DYNAMIC: &str = "dynamic";

/// The backends of one service, by name.
pub struct Backends {
    by_name: HashMap<String, Arc<Backend>>,
    shared: Arc<Mutex<HashMap<config::Backend, Arc<Backend>>>>,
    targets: Arc<Targets>,
    connector: Arc<Connector>,
    /// The service, as metrics name it.
    service: String,
    telemetry: Telemetry,
    /// Of all connections that there may be, the service's.
    share: Arc<slots::Share>,
    /// Speaks GRIP for the service, if there is one.
    grip_proxy: Option<Arc<Backend>>,
}

/// A dynamic backend may not point where it would.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a dynamic backend may not point to `{0}`; --dynamic-backends says where one may")]
pub struct NotAllowed(pub String);

/// One backend, ready to be sent to.
pub struct Backend {
    config: config::Backend,
    /// What TLS needs, or why the settings for it cannot work.
    tls: Option<Result<tls::Client, String>>,
    /// Where it may lead, when that depends on the address.
    targets: Option<Arc<Targets>>,
    /// Connections are shared only within one backend of one set of settings.
    idle: Arc<pool::Pool>,
    /// Connections that carry several exchanges at once.
    multiplexed: h2::Multiplexed,
    /// Bounds the connections there are at once.
    room: Option<Arc<room::Room>>,
    /// The service's part of all connections there may be.
    share: Arc<slots::Share>,
    /// Requests so far, when only some of them reach it.
    tried: AtomicU64,
    /// What it does to requests on purpose.
    faults: faults::Injector,
    /// How its health checks go, if it has any.
    checked: Option<health::Checked>,
    connector: Arc<Connector>,
    counters: Counters,
}

struct Counters {
    service: String,
    label: String,
    telemetry: Telemetry,
    ok: Count,
    time: Times,
    connect: Histogram,
    new: IntCounter,
    reused: Count,
    retries: IntCounter,
}

impl Backends {
    /// Builds every backend, or takes it over from `previous`; all faults are reported together.
    pub fn build(
        config: &config::Config,
        previous: Option<&Self>,
        connector: &Arc<Connector>,
        telemetry: &Telemetry,
    ) -> Result<Self, Vec<BuildError>> {
        let mut by_name = HashMap::new();
        let service = telemetry.metrics.label(&config.name).to_owned();
        let mut errors = Vec::new();
        let share = connector.slots().of(&config.name);
        for (name, settings) in &config.backends {
            let tls = settings.tls.as_ref().map(|tls| tls::Client::build(tls, settings.http, connector.system_roots())).transpose();
            match tls {
                Ok(tls) => {
                    let before =
                        previous.and_then(|previous| previous.by_name.get(name)).filter(|before| before.is(settings, tls.as_ref()));
                    let backend = match before {
                        Some(before) => before.clone(),
                        None => {
                            let mut backend =
                                Backend::new(settings.clone(), (&service, name), tls.map(Ok), None, (connector, &share), telemetry);
                            if let Some(before) = previous.and_then(|previous| previous.by_name.get(name)) {
                                backend.faults = faults::Injector::new(settings.faults.as_ref(), Some(&before.faults));
                            }
                            Arc::new(backend)
                        }
                    };
                    by_name.insert(name.clone(), backend);
                }
                Err(source) => errors.push(BuildError::Backend { name: name.clone(), source }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let targets = Arc::new(config.dynamic_targets.clone());
        // Each holds the rules of the time when it was made.
        let shared = previous.filter(|previous| *previous.targets == *targets).map(|previous| previous.shared.clone());
        let grip_proxy = config.grip_proxy.map(|address| {
            // It holds clients for as long as they stay, mostly in silence.
            let settings =
                config::Backend { first_byte_timeout: HELD, between_bytes_timeout: HELD, ..config::Backend::plain("grip-proxy", address) };
            Arc::new(Backend::new(settings, (&service, "grip-proxy"), None, None, (connector, &share), telemetry))
        });
        let grip_proxy = match (grip_proxy, previous.and_then(|previous| previous.grip_proxy.as_ref())) {
            (Some(proxy), Some(before)) if before.config == proxy.config => Some(before.clone()),
            (proxy, _) => proxy,
        };
        let shared = shared.unwrap_or_default();
        Ok(Self { share, grip_proxy, by_name, shared, targets, connector: connector.clone(), service, telemetry: telemetry.clone() })
    }

    /// A dynamic backend: one that was made before with the same name and settings, or a new one.
    /// TLS settings that cannot work are found out when it is used. Without `pooled`, its
    /// connections are shared with nobody.
    /// `trusted`: the operator has said where it is.
    pub fn dynamic(&self, settings: config::Backend, pooled: bool, trusted: bool) -> Result<Arc<Backend>, NotAllowed> {
        let targets = match self.targets.judge(&settings.host) {
            _ if trusted => None,
            Verdict::Allowed => None,
            Verdict::Depends => Some(self.targets.clone()),
            Verdict::Denied => return Err(NotAllowed(settings.host)),
        };
        let make = |settings: &config::Backend| {
            let tls = settings.tls.as_ref().map(|tls| tls::Client::build(tls, settings.http, self.connector.system_roots()));
            let tls = tls.map(|built| built.map_err(|error| error.to_string()));
            Arc::new(Backend::new(
                settings.clone(),
                (&self.service, DYNAMIC),
                tls,
                targets,
                (&self.connector, &self.share),
                &self.telemetry,
            ))
        };
        if !pooled {
            let backend = make(&settings);
            backend.start_checks();
            return Ok(backend);
        }
        let mut shared = self.shared.lock();
        if let Some(known) = shared.get(&settings) {
            known.start_checks();
            return Ok(known.clone());
        }
        if shared.len() >= MAX_SHARED {
            // Those nobody uses now; their idle connections end with them.
            shared.retain(|_, backend| Arc::strong_count(backend) > 1);
        }
        let backend = make(&settings);
        backend.start_checks();
        let certificates = settings.tls.as_ref().map_or(0, config::BackendTls::bytes);
        if shared.len() < MAX_SHARED && certificates <= MAX_SHARED_BYTES {
            shared.insert(settings, backend.clone());
        }
        Ok(backend)
    }

    /// The proxy that speaks GRIP with backends (Fastly calls it Fanout).
    pub fn grip_proxy(&self) -> Option<&Arc<Backend>> {
        self.grip_proxy.as_ref()
    }

    /// Starts the health checks of those that have any. Must be called within a runtime.
    pub fn start_checks(&self) {
        self.by_name.values().for_each(Backend::start_checks);
    }

    /// Those of the manifest by name, and behind them dynamic ones that are remembered.
    pub fn all(&self) -> Vec<Arc<Backend>> {
        let mut named: Vec<_> = self.by_name.values().cloned().collect();
        named.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        named.extend(self.shared.lock().values().cloned());
        named
    }

    /// The backend of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Backend>> {
        self.by_name.get(name)
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Backend {
    fn new(
        config: config::Backend,
        (service, label): (&str, &str),
        tls: Option<Result<tls::Client, String>>,
        targets: Option<Arc<Targets>>,
        (connector, share): (&Arc<Connector>, &Arc<slots::Share>),
        telemetry: &Telemetry,
    ) -> Self {
        let metrics = &telemetry.metrics;
        let counters = Counters {
            service: service.to_owned(),
            label: label.to_owned(),
            ok: metrics.count(metrics.backend_requests.with_label_values(&[service, label, "ok"])),
            time: metrics.times(metrics.backend_time.with_label_values(&[service, label])),
            connect: metrics.backend_connect.with_label_values(&[service, label]),
            new: metrics.backend_connections.with_label_values(&[service, label, "new"]),
            reused: metrics.count(metrics.backend_connections.with_label_values(&[service, label, "reused"])),
            retries: metrics.backend_retries.with_label_values(&[service, label]),
            telemetry: telemetry.clone(),
        };
        let room = (config.pool.connections > 0).then(|| room::Room::new(config.pool.connections as usize));
        let checked = config.check.clone().map(health::Checked::new);
        let most = match config.pool.connections {
            0 => MAX_IDLE,
            limit => MAX_IDLE.min(limit as usize),
        };
        let idle = pool::Pool::new(most, config.keepalive_time, room.clone());
        Self {
            idle,
            multiplexed: h2::Multiplexed::default(),
            room,
            share: share.clone(),
            tried: AtomicU64::new(0),
            faults: faults::Injector::new(config.faults.as_ref(), None),
            checked,
            tls,
            targets,
            connector: connector.clone(),
            config,
            counters,
        }
    }

    /// Whether it was made of these settings, and of certificates like those of `tls`.
    fn is(&self, settings: &config::Backend, tls: Option<&tls::Client>) -> bool {
        let certificates = match &self.tls {
            None => None,
            Some(Ok(tls)) => Some(tls.identity()),
            Some(Err(_)) => return false,
        };
        self.config == *settings && certificates == tls.map(tls::Client::identity)
    }

    /// Its health: as its checks say, else as the manifest says.
    pub fn health(&self) -> config::Health {
        match &self.checked {
            Some(checked) if checked.is_healthy() => config::Health::Healthy,
            Some(_) => config::Health::Unhealthy,
            None => self.config.health,
        }
    }

    /// What operators see of it.
    pub fn shown(&self) -> serde_json::Value {
        let config = &self.config;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let host = if config.host.contains(':') { format!("[{}]", config.host) } else { config.host.clone() };
        serde_json::json!({
            "name": config.name,
            "url": format!("{scheme}://{host}:{}{}", config.port, config.path_prefix),
            "health": match self.health() {
                config::Health::Healthy => "healthy",
                config::Health::Unhealthy => "unhealthy",
                config::Health::Unknown => "unknown",
            },
            "checked": self.checked.is_some(),
            "faults": self.faults().0.as_deref(),
            "dynamic": config.dynamic,
            "idle": self.idle.idle(),
            "open": self.multiplexed.count(),
        })
    }

    /// Whether it is one of that service's, of whatever generation.
    pub fn is_of(&self, service: &Backends) -> bool {
        Arc::ptr_eq(&self.share, &service.share)
    }

    /// Its settings.
    pub fn config(&self) -> &config::Backend {
        &self.config
    }

    fn count(&self, error: Option<&SendError>) {
        match error {
            None => self.counters.ok.inc(),
            Some(error) => {
                self.counters
                    .telemetry
                    .metrics
                    .backend_requests
                    .with_label_values(&[&self.counters.service, &self.counters.label, error.name()])
                    .inc();
            }
        }
    }
}
