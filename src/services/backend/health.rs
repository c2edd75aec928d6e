//! Active health checks: a request now and then, and a window of how the last ones went. As in production, a
//! backend that is checked and unhealthy gets no requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{Method, Uri};
use pingora::prelude::timeout;

use super::client::Request;
use super::{Backend, Counters, DYNAMIC, SendError};
use crate::config::HealthCheck;
use crate::http::{Body, RequestHead};
use crate::telemetry::clock;

/// How long a backend that a guest has made is checked when no guest has it any more.
const UNUSED: Duration = Duration::from_secs(10);

/// How a checked backend is doing.
#[derive(Debug)]
pub struct Checked {
    check: HealthCheck,
    healthy: AtomicBool,
    started: AtomicBool,
}

impl Checked {
    /// Before the first check.
    pub fn new(check: HealthCheck) -> Self {
        let healthy = AtomicBool::new(check.initial >= check.threshold);
        Self { check, healthy, started: AtomicBool::new(false) }
    }

    /// Whether enough of the last checks went well.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

impl Backend {
    /// Starts its checks, once, if it has any. They end with the backend. Must be called within a runtime.
    pub fn start_checks(self: &Arc<Self>) {
        let Some(checked) = &self.checked else { return };
        if !checked.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(run(Arc::downgrade(self), checked.check.clone()));
        }
    }

    /// They begin again when it is used again.
    fn pause_checks(&self) {
        if let Some(checked) = &self.checked {
            checked.started.store(false, Ordering::Relaxed);
        }
    }

    /// One check.
    async fn probe(self: &Arc<Self>, check: &HealthCheck) -> Result<(), String> {
        let (method, uri) = (check.method.parse().unwrap_or(Method::GET), check.path.parse().unwrap_or(Uri::from_static("/")));
        let mut head = RequestHead { method, uri, ..RequestHead::default() };
        head.headers.insert(header::USER_AGENT, HeaderValue::from_static("Sidelight-Healthcheck"));
        if let Some(host) = check.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()) {
            head.headers.insert(header::HOST, host);
        }
        let request = Request { head, body: Body::empty(), decompress: false, upgrade: None, origin: None };
        match timeout(check.timeout, Box::pin(self.through_faults(request))).await {
            Ok(Ok(response)) if response.head.status.as_u16() == check.expected => Ok(()),
            Ok(Ok(response)) => Err(format!("it answered {} and not {}", response.head.status.as_u16(), check.expected)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not answer within {:?}", check.timeout)),
        }
    }

    /// Refuses where the checks say so.
    pub(super) fn is_available(&self) -> Result<(), SendError> {
        match &self.checked {
            Some(checked) if !checked.is_healthy() => Err(SendError::Unavailable(self.config.name.clone())),
            Some(_) | None => Ok(()),
        }
    }
}

async fn run(backend: Weak<Backend>, check: HealthCheck) {
    let window = check.window as usize;
    let mut results: VecDeque<bool> = (0..window).map(|i| i < check.initial as usize).collect();
    // The assumed ones that went well are the newest: it is they that count for longest.
    results.make_contiguous().reverse();
    let mut unused = None;
    loop {
        let Some(checked) = backend.upgrade() else { return };
        // Whoever keeps those that guests have made, and this.
        if &*checked.counters.label == DYNAMIC && Arc::strong_count(&checked) <= 2 {
            let since = *unused.get_or_insert_with(clock::now);
            if clock::now().duration_since(since) > UNUSED {
                checked.pause_checks();
                return;
            }
        } else {
            unused = None;
        }
        let result = checked.probe(&check).await;
        results.pop_front();
        results.push_back(result.is_ok());
        let healthy = results.iter().filter(|went_well| **went_well).count() >= check.threshold as usize;
        let name = &checked.config.name;
        if let Err(reason) = &result {
            tracing::debug!(target: "sidelight::backend", backend = name, reason, "health check failed");
        }
        if let Some(state) = &checked.checked
            && state.healthy.swap(healthy, Ordering::Relaxed) != healthy
        {
            match result {
                Ok(()) => tracing::info!(target: "sidelight::backend", backend = name, "backend is healthy"),
                Err(reason) => tracing::warn!(target: "sidelight::backend", backend = name, reason, "backend is unhealthy"),
            }
        }
        let Counters { service, label, telemetry, .. } = &checked.counters;
        telemetry.metrics.backend_healthy.with_label_values(&[service, label]).set(i64::from(healthy));
        drop(checked);
        tokio::time::sleep(check.interval).await;
    }
}
