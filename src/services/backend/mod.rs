//! Backends: the registry of names, and requests sent to them.
//!
//! [`client`] does one exchange over a pooled connection, [`tls`] builds what a TLS handshake needs.

pub mod client;
pub mod error;
pub mod pool;
pub mod tls;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::IntCounter;

use crate::config;
use crate::telemetry::Telemetry;

use super::BuildError;
pub use client::{Connector, Request, Response};
pub use error::SendError;

/// Idle connections kept for one backend.
const MAX_IDLE: usize = 256;

/// The backends of one service, by name.
pub struct Backends {
    by_name: HashMap<String, Arc<Backend>>,
}

/// One backend, ready to be sent to.
pub struct Backend {
    config: config::Backend,
    tls: Option<tls::Client>,
    /// Connections are shared only within one backend of one set of settings.
    idle: Arc<pool::Pool>,
    connector: Arc<Connector>,
    counters: Counters,
}

struct Counters {
    telemetry: Telemetry,
    ok: IntCounter,
    new: IntCounter,
    reused: IntCounter,
}

impl Backends {
    /// Builds every backend; all faults are reported together.
    pub fn build(
        configs: &BTreeMap<String, config::Backend>,
        connector: &Arc<Connector>,
        telemetry: &Telemetry,
    ) -> Result<Self, Vec<BuildError>> {
        let mut by_name = HashMap::new();
        let mut errors = Vec::new();
        for (name, config) in configs {
            match Backend::build(config.clone(), connector, telemetry) {
                Ok(backend) => drop(by_name.insert(name.clone(), Arc::new(backend))),
                Err(source) => errors.push(BuildError::Backend { name: name.clone(), source }),
            }
        }
        if errors.is_empty() { Ok(Self { by_name }) } else { Err(errors) }
    }

    /// The backend of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Backend>> {
        self.by_name.get(name)
    }
}

impl Backend {
    fn build(config: config::Backend, connector: &Arc<Connector>, telemetry: &Telemetry) -> Result<Self, tls::TlsConfigError> {
        let tls = config.tls.as_ref().map(|settings| tls::Client::build(settings, connector.system_roots())).transpose()?;
        let metrics = &telemetry.metrics;
        let counters = Counters {
            ok: metrics.backend_requests.with_label_values(&[&config.name, "ok"]),
            new: metrics.backend_connections.with_label_values(&[&config.name, "new"]),
            reused: metrics.backend_connections.with_label_values(&[&config.name, "reused"]),
            telemetry: telemetry.clone(),
        };
        let idle = pool::Pool::new(MAX_IDLE, config.keepalive_time);
        Ok(Self { idle, tls, connector: connector.clone(), config, counters })
    }

    /// Its settings.
    pub fn config(&self) -> &config::Backend {
        &self.config
    }

    fn count(&self, error: Option<&SendError>) {
        match error {
            None => self.counters.ok.inc(),
            Some(error) => {
                self.counters.telemetry.metrics.backend_requests.with_label_values(&[&self.config.name, error.name()]).inc();
            }
        }
    }
}
