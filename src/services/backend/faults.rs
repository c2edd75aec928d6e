//! Faults on purpose, so that people see how their programs take them: latency, error answers, failures, bodies that break off, narrow
//! roads. The manifest says which; operators may say otherwise while the process runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{sleep, sleep_until};

use super::client::{Request, Response};
use super::error::SendError;
use super::{Backend, Counters};
use crate::config::faults::{Failure, Faults};
use crate::http::{Body, BodyError, BodyStream, ResponseHead};
use crate::services::share::is_due;
use crate::telemetry::clock;

/// Pieces that a limited body comes in, of what a second lets through.
const PIECES_A_SECOND: u64 = 20;

/// The faults of one backend that are in force.
#[derive(Default)]
pub struct Injector {
    manifest: Option<Arc<Faults>>,
    now: ArcSwapOption<Faults>,
    /// What operators have said in place of the manifest; it outlives reloads.
    said: ArcSwapOption<Faults>,
    errors: AtomicU64,
    failures: AtomicU64,
    resets: AtomicU64,
}

impl Injector {
    /// With what the manifest says, and what operators have said of the backend before.
    pub fn new(manifest: Option<&Faults>, before: Option<&Self>) -> Self {
        let manifest = manifest.filter(|faults| !faults.is_none()).cloned().map(Arc::new);
        let injector = Self { now: ArcSwapOption::new(manifest.clone()), manifest, ..Self::default() };
        if let Some(said) = before.and_then(|before| before.said.load_full()) {
            injector.say(Some(said));
        }
        injector
    }

    fn say(&self, faults: Option<Arc<Faults>>) {
        self.said.store(faults.clone());
        match faults {
            Some(said) => self.now.store(Some(said).filter(|faults| !faults.is_none())),
            None => self.now.store(self.manifest.clone()),
        }
    }

    /// What is in force, and whether an operator has said so.
    pub fn in_force(&self) -> (Option<Arc<Faults>>, bool) {
        (self.now.load_full(), self.said.load().is_some())
    }
}

impl Backend {
    /// An operator's faults; `None`: the manifest's again.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.faults.say(faults.map(Arc::new));
    }

    /// What faults are in force, and whether an operator has said so.
    pub fn faults(&self) -> (Option<Arc<Faults>>, bool) {
        self.faults.in_force()
    }

    /// Sends a request, with the faults that are in force.
    pub(super) async fn through_faults(self: &Arc<Self>, request: Request) -> Result<Response, SendError> {
        match &*self.faults.now.load() {
            None => self.retrying(request).await,
            // Rare: not a part of every exchange's future.
            Some(faults) => Box::pin(self.faulty(faults.clone(), request)).await,
        }
    }

    async fn faulty(self: &Arc<Self>, faults: Arc<Faults>, mut request: Request) -> Result<Response, SendError> {
        let origin = request.origin.clone();
        let note = |fault| {
            self.counters.fault(fault);
            if let Some(origin) = &origin {
                origin.trace.injected(&self.config.name, fault);
            }
        };
        let jitter = if faults.jitter_ms == 0 { 0 } else { rand::random_range(0..=faults.jitter_ms) };
        let (latency, patience) = (faults.latency() + Duration::from_millis(jitter), self.config.first_byte_timeout);
        if !latency.is_zero() {
            note("latency");
            sleep(latency.min(patience)).await;
            if latency > patience {
                return Err(SendError::ResponseTimeout(patience.as_millis()));
            }
        }
        if is_due(&self.faults.failures, faults.failures) {
            note("failure");
            return Err(self.failed(faults.failure.unwrap_or_default()).await);
        }
        if is_due(&self.faults.errors, faults.errors) {
            note("error");
            return Ok(Response::instead(faults.status(), format!("a fault on purpose of backend `{}`\n", self.config.name)));
        }
        let breaks = is_due(&self.faults.resets, faults.resets).then_some(faults.reset_after);
        if let Some(bandwidth) = faults.bandwidth {
            note("bandwidth");
            if request.body.known_length() != Some(0) {
                request.body = Narrow::body(request.body, bandwidth);
            }
        }
        let mut response = self.retrying(request).await?;
        if response.body.known_length() == Some(0) {
            return Ok(response);
        }
        if let Some(bandwidth) = faults.bandwidth {
            response.body = Narrow::body(response.body, bandwidth);
        }
        if let Some(left) = breaks {
            note("reset");
            response.body = Body::stream(Box::new(Breaking { body: Some(response.body), left }));
        }
        Ok(response)
    }

    /// What a failure looks like, after the time that it takes.
    async fn failed(&self, failure: Failure) -> SendError {
        let config = &self.config;
        let (host, why) = (config.host.clone(), || "a fault on purpose".to_owned());
        let address = format!("{host}:{}", config.port);
        match failure {
            Failure::DnsError => SendError::Dns { host, reason: why(), rcode: Some(3) },
            Failure::DnsTimeout => {
                sleep(config.connect_timeout).await;
                SendError::DnsTimeout(host)
            }
            Failure::DestinationIpUnroutable => SendError::Unroutable(format!("no route to {address}: {}", why())),
            Failure::ConnectionRefused => SendError::Refused(address),
            Failure::ConnectionTimeout => {
                sleep(config.connect_timeout).await;
                SendError::ConnectTimeout(address)
            }
            Failure::ConnectionTerminated => SendError::Terminated(why()),
            Failure::TlsCertificateError => SendError::TlsCertificate { host, reason: why() },
            Failure::HttpResponseTimeout => {
                sleep(config.first_byte_timeout).await;
                SendError::ResponseTimeout(config.first_byte_timeout.as_millis())
            }
        }
    }
}

impl Counters {
    fn fault(&self, fault: &str) {
        self.telemetry.metrics.backend_faults.with_label_values(&[&*self.service, &*self.label, fault]).inc();
    }
}

impl Response {
    /// What stands for a backend that was not asked on purpose.
    pub(super) fn instead(status: u16, text: String) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut head = ResponseHead { status, ..ResponseHead::default() };
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Self { head, body: Body::from(Bytes::from(text)), peer: None, switched: None }
    }
}

/// A body of which only so much passes in a second.
struct Narrow {
    body: Body,
    left: Bytes,
    bandwidth: u64,
    /// When the last piece has passed, and when the next may, once it is known.
    at: Instant,
    next: Option<Instant>,
}

impl Narrow {
    fn body(body: Body, bandwidth: u64) -> Body {
        Body::stream(Box::new(Self { body, left: Bytes::new(), bandwidth: bandwidth.max(1), at: clock::now(), next: None }))
    }
}

#[async_trait]
impl BodyStream for Narrow {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.left.is_empty() {
            match self.body.chunk().await? {
                Some(bytes) => self.left = bytes,
                None => return Ok(None),
            }
        }
        let most = usize::try_from((self.bandwidth / PIECES_A_SECOND).max(1)).unwrap_or(usize::MAX);
        let length = self.left.len().min(most);
        // A pause of the source gives no credit.
        let next = *self.next.get_or_insert_with(|| self.at.max(clock::now()) + cost(length, self.bandwidth));
        sleep_until(next.into()).await;
        (self.at, self.next) = (next, None);
        Ok(Some(self.left.split_to(length)))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.body.framed_length()? + self.left.len() as u64)
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.body.take_trailers()
    }
}

/// The time that bytes take.
fn cost(bytes: usize, bandwidth: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bandwidth as f64)
}

/// A body that breaks off.
struct Breaking {
    body: Option<Body>,
    left: u64,
}

#[async_trait]
impl BodyStream for Breaking {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let broken = || BodyError::Incomplete("a fault on purpose".to_owned());
        let body = self.body.as_mut().ok_or_else(broken)?;
        if self.left == 0 {
            // The connection to the backend ends with it.
            self.body = None;
            return Err(broken());
        }
        let chunk = body.chunk().await?;
        Ok(chunk.map(|mut bytes| {
            bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= bytes.len() as u64;
            bytes
        }))
    }

    fn remaining(&self) -> Option<u64> {
        self.body.as_ref().and_then(Body::framed_length)
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.body.as_mut().and_then(Body::take_trailers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_go_before_the_manifest_and_outlive_it() {
        let faults = |errors| Faults { errors, ..Faults::default() };
        let injector = Injector::new(Some(&faults(10)), None);
        let in_force = |injector: &Injector| injector.in_force().0.map(|faults| faults.errors);
        assert_eq!(in_force(&injector), Some(10));
        injector.say(Some(Arc::new(faults(20))));
        assert_eq!((in_force(&injector), injector.in_force().1), (Some(20), true));
        let next = Injector::new(Some(&faults(30)), Some(&injector));
        assert_eq!(in_force(&next), Some(20));
        next.say(None);
        assert_eq!((in_force(&next), next.in_force().1), (Some(30), false));
        // No faults at all, against the manifest.
        next.say(Some(Arc::new(faults(0))));
        assert_eq!((in_force(&next), next.in_force().1), (None, true));
    }
}
