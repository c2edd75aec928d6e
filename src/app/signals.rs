//! Signals: SIGTERM and SIGINT finish what is in flight and stop; SIGHUP reloads.

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal, if it can be listened for.
pub fn listen(kind: SignalKind) -> Option<Signal> {
    match signal(kind) {
        Ok(signal) => Some(signal),
        Err(error) => {
            tracing::error!(%error, "cannot listen for a signal");
            None
        }
    }
}

/// Waits for it.
pub async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Those that stop the process.
pub struct Stops(Option<Signal>, Option<Signal>);

impl Stops {
    /// Listens for them from now on.
    pub fn listen() -> Self {
        Self(listen(SignalKind::terminate()), listen(SignalKind::interrupt()))
    }

    /// Waits for either.
    pub async fn next(&mut self) {
        tokio::select! {
            () = next(&mut self.0) => {}
            () = next(&mut self.1) => {}
        }
    }
}

/// Tells pingora when to stop.
pub struct Shutdown;

#[async_trait]
impl ShutdownSignalWatch for Shutdown {
    async fn recv(&self) -> ShutdownSignal {
        Stops::listen().next().await;
        ShutdownSignal::GracefulTerminate
    }
}
