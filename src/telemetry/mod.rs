//! Metrics, logs and the clock. Other layers receive a [`Telemetry`]; none of them names a metric.

pub mod clock;
pub mod logs;
pub mod metrics;

use std::sync::Arc;

pub use metrics::Metrics;

/// What every layer above records with.
#[derive(Clone)]
pub struct Telemetry {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
}

impl Telemetry {
    /// A fresh registry; nothing is exported yet.
    pub fn new() -> Self {
        Self { metrics: Arc::new(Metrics::new()) }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
