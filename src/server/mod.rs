//! Clients: connections in, HTTP/1.1, and back out what guests answer.
//!
//! ```text
//! listener ─▶ (tls ─▶) connection (one task each, requests one after another) ─▶ runtime
//!                 │ request: bytes flow as the guest asks for them
//!                 └ response: bytes flow as the guest writes them
//! ```

pub mod admin;
pub mod connection;
pub mod exchange;
pub mod h2;
pub mod handoff;
pub mod listener;
pub mod respond;
pub mod tls;
pub mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;

use crate::config::host::Limits;
use crate::runtime::{Current, Runtime};
use crate::telemetry::Telemetry;

/// What serves clients.
pub struct Edge {
    /// The service.
    pub current: Arc<Current>,
    /// Runs its guest.
    pub runtime: Arc<Runtime>,
    /// Limits of clients.
    pub limits: Limits,
    /// Counters.
    pub telemetry: Telemetry,
}

/// Serves clients without TLS.
pub struct Plain(pub Arc<Edge>);

#[async_trait]
impl ServerApp for Plain {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        connection::serve(&self.0, stream, None, shutdown.clone()).await;
        None
    }
}
