//! Signals: SIGTERM and SIGINT finish what is in flight and stop; SIGHUP reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

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
pub struct Shutdown {
    told: watch::Receiver<bool>,
    serving: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens from now on, on a thread of `background`: a signal that comes before pingora asks is not lost, and no longer
    /// ends the process by itself; before [`Self::serves`] nothing is in flight, and the process ends with 0. (As the first process of a
    /// container it would not have ended at all.) One that asks for a reload does not end it either, from now on.
    pub fn listen(background: &Handle) -> Self {
        let _within = background.enter();
        drop(listen(SignalKind::hangup()));
        // What others take for a wish to open logs anew, or to count, is none to end.
        for kind in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm(), SignalKind::io()] {
            drop(listen(kind));
        }
        let mut stops = Stops::listen();
        let (sender, told) = watch::channel(false);
        let serving = Arc::new(AtomicBool::new(false));
        let begun = serving.clone();
        background.spawn(async move {
            stops.next().await;
            if !begun.load(Ordering::Relaxed) {
                tracing::info!("stopped before anything was served");
                std::process::exit(0);
            }
            sender.send_replace(true);
        });
        Self { told, serving }
    }

    /// From now on what is in flight is finished first.
    pub fn serves(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl ShutdownSignalWatch for Shutdown {
    async fn recv(&self) -> ShutdownSignal {
        if self.told.clone().wait_for(|stop| *stop).await.is_err() {
            // Whoever listened has ended: the process is ending.
            tracing::debug!("nobody listens for signals");
        }
        ShutdownSignal::GracefulTerminate
    }
}
