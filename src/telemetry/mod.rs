//! Metrics, logs and the clock. Other layers receive a [`Telemetry`]; none of them names a metric.

pub mod access;
pub mod clock;
pub mod exemplars;
pub mod exposition;
pub mod hostcalls;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod secrets;
pub mod service;
pub mod sharded;
pub mod throttle;
pub mod trace;
pub mod troubles;

use std::sync::Arc;

use crate::config::traces::Traces;
pub use metrics::Metrics;
use trace::Tracer;
use trace::export::StartError;

/// What every layer above records with.
#[derive(Clone)]
pub struct Telemetry {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Gets what is recorded of requests.
    pub tracer: Tracer,
    /// Gets every record of a log endpoint, beside where it goes.
    pub log_tap: Option<LogTap>,
    /// What operators are told as long as it is so.
    pub troubles: Arc<troubles::Troubles>,
}

/// Takes endpoint, request id and content of a record.
pub type LogTap = Arc<dyn Fn(&str, &str, &[u8]) + Send + Sync>;

impl Telemetry {
    /// A fresh registry; nothing is exported yet.
    pub fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        Self { tracer: Tracer::off(&metrics), metrics, log_tap: None, troubles: Arc::default() }
    }

    /// With traces as the settings say.
    pub fn with_traces(self, settings: Traces) -> Result<Self, StartError> {
        let tracer = Tracer::start(settings, &self.metrics)?;
        trace::spans::export_to(&tracer);
        Ok(Self { tracer, ..self })
    }

    /// With somebody who gets every record of a log endpoint.
    #[must_use]
    pub fn with_log_tap(self, tap: impl Fn(&str, &str, &[u8]) + Send + Sync + 'static) -> Self {
        Self { log_tap: Some(Arc::new(tap)), ..self }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
