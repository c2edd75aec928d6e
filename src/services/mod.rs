//! The platform: what a Compute program asks its surroundings for. A [`Services`] is built from a
//! [`Config`](crate::config::Config) and lives in a snapshot.

pub mod backend;
pub mod log;

use std::sync::Arc;

use crate::config::Config;
use crate::telemetry::Telemetry;

pub use backend::Backends;

/// The bundle of one service's platform parts.
pub struct Services {
    /// Where requests can be sent.
    pub backends: Backends,
    /// Named log endpoints.
    pub logs: log::Endpoints,
}

/// A part could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A backend's TLS settings cannot work.
    #[error("backend `{name}`: {source}")]
    Backend {
        /// The backend.
        name: String,
        /// What is wrong with it.
        source: backend::tls::TlsConfigError,
    },
}

impl Services {
    /// Opens everything `config` names. Connections come from `connector`, which outlives reloads. What is as it was in
    /// `previous`, the files behind it included, is carried over: its connections and what is known of its health go on.
    pub fn build(
        config: &Config,
        previous: Option<&Self>,
        connector: &Arc<backend::Connector>,
        telemetry: &Telemetry,
    ) -> Result<Self, Vec<BuildError>> {
        let backends = Backends::build(config, previous.map(|previous| &previous.backends), connector, telemetry)?;
        Ok(Self { backends, logs: log::Endpoints::new(telemetry) })
    }
}
