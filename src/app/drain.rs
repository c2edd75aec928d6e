//! The end: what is in flight is finished, within a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use sd_notify::NotifyState;

use super::signals::Stops;
use crate::runtime::Current;
use crate::server::listener::File;
use crate::services::Platform;
use crate::telemetry::Telemetry;

/// How often a drain looks whether it is over.
const STEP: Duration = Duration::from_millis(20);

/// Exit code when requests had to be cut off at shutdown.
const CUT_OFF: i32 = 6;

/// Ends the process when everything in flight is done, when time is up, or at a second signal.
pub struct Drain {
    /// Counts what is in flight.
    pub telemetry: Telemetry,
    /// Whose guests get no more requests.
    pub current: Arc<Current>,
    /// Of Unix sockets, removed at the end.
    pub files: Vec<File>,
    /// Longest time.
    pub limit: Duration,
    /// What may have records of log endpoints to deliver.
    pub platform: Arc<Platform>,
}

impl Drain {
    fn in_flight(&self) -> i64 {
        let metrics = &self.telemetry.metrics;
        // A sandbox that waits for a request has nothing in flight.
        metrics.requests_in_flight.get().max(metrics.sandboxes.get() - metrics.sandboxes_waiting.get())
    }

    async fn idle(&self) {
        // A request whose bytes have arrived but are not read yet gets its chance.
        loop {
            tokio::time::sleep(STEP).await;
            if self.in_flight() == 0 {
                return;
            }
        }
    }
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        tracing::info!(in_flight = self.in_flight(), "stopping: finishing what is in flight");
        super::tell_supervisor(NotifyState::Stopping);
        for service in self.current.routes().services() {
            service.waiting.close();
        }
        let mut stops = Stops::listen();
        let code = tokio::select! {
            () = self.idle() => {
                tracing::info!("stopped");
                0
            }
            () = tokio::time::sleep(self.limit) => {
                tracing::warn!(cut_off = self.in_flight(), "stopped at the drain timeout");
                CUT_OFF
            }
            () = stops.next() => {
                tracing::warn!(cut_off = self.in_flight(), "stopped at a second signal");
                CUT_OFF
            }
        };
        self.platform.flush_logs(super::FLUSH).await;
        self.platform.flush_cache(super::FLUSH).await;
        self.telemetry.tracer.flush(super::FLUSH).await;
        self.files.iter().for_each(File::remove);
        // pingora would go on sleeping for its whole grace period.
        std::process::exit(code);
    }
}
