//! Metrics, logs and the clock. Other layers receive a [`Telemetry`]; none of them names a metric.

pub mod clock;
pub mod exposition;
pub mod logs;
pub mod metrics;
mod process;

use std::sync::Arc;

pub use metrics::Metrics;

/// What every layer above records with.
#[derive(Clone)]
pub struct Telemetry {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Gets every record of a log endpoint, beside where it goes.
    pub log_tap: Option<LogTap>,
}

/// Takes endpoint, request id and content of a record.
pub type LogTap = Arc<dyn Fn(&str, &str, &[u8]) + Send + Sync>;

impl Telemetry {
    /// A fresh registry; nothing is exported yet.
    pub fn new() -> Self {
        Self { metrics: Arc::new(Metrics::new()), log_tap: None }
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
