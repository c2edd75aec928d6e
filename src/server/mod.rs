//! Clients: connections in, HTTP/1.1, and back out what guests answer.
//!
//! ```text
//! listener ─▶ (tls ─▶) connection (one task each, requests one after another) ─▶ runtime
//!                 │ request: bytes flow as the guest asks for them
//!                 └ response: bytes flow as the guest writes them
//! ```

pub mod admin;
pub mod certificates;
pub mod connection;
pub mod exchange;
pub mod h2;
pub mod handoff;
pub mod hops;
pub mod listener;
pub mod local;
pub mod places;
pub mod respond;
pub mod tls;
pub mod tunnel;
pub mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;

use crate::config::host::Limits;
use crate::runtime::{Current, Runtime};
use crate::telemetry::Telemetry;
use crate::telemetry::access::AccessLog;
use crate::telemetry::service::ServiceMetrics;
use crate::telemetry::throttle::Throttle;

pub use hops::Hops;
use places::Place;

/// What serves clients.
pub struct Edge {
    /// The service.
    pub current: Arc<Current>,
    /// Runs its guest.
    pub runtime: Arc<Runtime>,
    /// Limits of clients.
    pub limits: Limits,
    /// Proxies in front.
    pub hops: Hops,
    /// When it was last said that a connection is from nobody who is trusted.
    pub refused: Throttle,
    /// Counters.
    pub telemetry: Telemetry,
    /// Gets a line for each request, if there is one.
    pub access: Option<Arc<AccessLog>>,
    /// Those of requests that no service gets.
    pub unserved: ServiceMetrics,
}

/// Serves clients without TLS.
pub struct Plain(pub Arc<Edge>);

#[async_trait]
impl listener::Serve for Plain {
    const CLIENTS: bool = true;

    async fn serve(self: &Arc<Self>, mut stream: Stream, place: Arc<Place>, shutdown: &ShutdownWatch) {
        if let Some(ends) = hops::ends(&self.0, &mut stream).await {
            connection::serve(&self.0, stream, ends, None, place, shutdown.clone()).await;
        }
    }
}
