//! Traces of requests: the context that clients and backends are told, and what is recorded on the way.
//!
//! [`Tracer::begin`] decides about a request when its head is there. From then on everybody who works on it has a share
//! of its [`Trace`]: the connection, the sandbox, each request to a backend. When the last of them lets go, it is over; if it
//! is to be kept, its recording goes through a bounded queue to a thread that makes spans of it ([`assemble`]) and sends
//! them ([`export`]). For a request that is not recorded there are ids and nothing else.

pub mod assemble;
pub mod context;
pub mod export;
pub mod head;
pub mod recent;
pub mod record;
pub mod sample;
pub mod show;
pub mod spans;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version};
use bytes::Bytes;
use parking_lot::Mutex;

use super::clock::{self, Ticks};
use super::hostcalls::Function;
use super::metrics::Metrics;
use crate::config::traces::{HostcallSpans, Propagate, Traces, Trust};
use assemble::Assembler;
use context::{Remote, SpanId, TRACEPARENT, TRACESTATE, TraceId};
use recent::Recent;
use record::{Answered, Asked, Attempted, Call, Injected, Looked, Ran, Recording, Service};
use sample::Sampler;

/// Says that a request is to be traced, with the secret for it.
const FORCE: HeaderName = HeaderName::from_static("x-sidelight-trace");

/// Requests to backends of one request that are recorded.
const MAX_ATTEMPTS: usize = 256;
/// Names that hostcalls were given likewise.
const MAX_NAMES: usize = 256;
/// Lookups in the cache likewise, and faults on purpose.
const MAX_LOOKS: usize = 256;

/// Decides which requests are traced, and gets what is recorded of them.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    settings: Traces,
    sampler: Sampler,
    exporter: Option<export::Exporter>,
    recent: Recent,
    /// Makes spans of what is kept.
    assembler: Assembler,
}

/// A request whose head is there.
pub struct Arrived<'a> {
    /// Names it in logs: a UUID.
    pub id: &'a Arc<str>,
    /// Its method.
    pub method: &'a Method,
    /// Its URI, absolute.
    pub uri: &'a Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The head as it came.
    pub raw_head: &'a Bytes,
    /// Who asks.
    pub client: SocketAddr,
    /// What address they asked.
    pub server: SocketAddr,
    /// When it was there.
    pub begun: Ticks,
}

impl Tracer {
    /// One that traces nothing.
    pub fn off(metrics: &Metrics) -> Self {
        Self::new(Traces::default(), None, metrics)
    }

    fn new(settings: Traces, exporter: Option<export::Exporter>, metrics: &Metrics) -> Self {
        // Who looks wants to see all that there is.
        let assembler = Assembler::new(HostcallSpans::All, settings.slow_hostcall, metrics);
        Self(Arc::new(Inner { sampler: Sampler::new(settings.sample), settings, exporter, recent: Recent::default(), assembler }))
    }

    /// One as the settings say. Starts the thread that exports, if anything is to be.
    pub fn start(settings: Traces, metrics: &Arc<Metrics>) -> Result<Self, export::StartError> {
        let exporter = match &settings.export {
            Some(export) => Some(export::Exporter::start(export, &settings, metrics)?),
            None => None,
        };
        Ok(Self::new(settings, exporter, metrics))
    }

    /// Whether requests are traced now, or looked at.
    pub fn is_on(&self) -> bool {
        self.0.exporter.is_some() || self.0.recent.is_watched(clock::ticks())
    }

    /// The latest requests: looking at them keeps recording on.
    pub fn recent(&self) -> &Recent {
        &self.0.recent
    }

    /// What makes spans of them.
    pub fn assembler(&self) -> &Assembler {
        &self.0.assembler
    }

    /// Begins the trace of a request, if it has one; the program is told of it in `headers`.
    pub fn begin(&self, arrived: &Arrived<'_>, headers: &mut HeaderMap) -> Option<Arc<Trace>> {
        let settings = &self.0.settings;
        let (exports, watched) = (self.0.exporter.is_some(), self.0.recent.is_watched(arrived.begun));
        if !exports && !watched {
            return None;
        }
        let inbound = match settings.parent {
            Trust::Ignore => None,
            Trust::Adopt | Trust::Link => Remote::of(headers),
        };
        let parent = inbound.filter(|_| settings.parent == Trust::Adopt);
        let id = parent.map_or_else(|| own_id(arrived.id), |parent| parent.trace);
        let forced = headers.remove(FORCE).is_some_and(|said| settings.force.as_ref().is_some_and(|secret| secret.is(said.as_bytes())));
        let sampled = exports
            && (forced
                || match parent {
                    Some(parent) if settings.parent_based => parent.sampled,
                    _ => self.0.sampler.takes(id, arrived.begun),
                });
        let recorded = watched || sampled || settings.keep_errors || settings.keep_slow.is_some();
        let recording = recorded.then(|| {
            Mutex::new(Recording {
                asked: Asked {
                    id: arrived.id.clone(),
                    method: arrived.method.clone(),
                    uri: arrived.uri.clone(),
                    version: arrived.version,
                    raw_head: arrived.raw_head.clone(),
                    client: arrived.client,
                    server: arrived.server,
                },
                service: None,
                answered: Answered::default(),
                ran: None,
                faults: Vec::new(),
                attempts: Vec::new(),
                attempts_dropped: 0,
                looked: Vec::new(),
            })
        });
        let seed = seed();
        let trace = Trace {
            tracer: self.clone(),
            id,
            seed,
            parent,
            link: inbound.filter(|_| settings.parent == Trust::Link),
            original: inbound,
            sampled,
            begun: arrived.begun,
            wall: clock::unix().saturating_sub(clock::between(arrived.begun, clock::ticks())),
            recording,
            watched,
            propagates: exports,
            waits_for: AtomicU32::new(0),
        };
        if exports && settings.tell_guest {
            headers.insert(TRACEPARENT, trace.guest().field());
            if parent.is_none() {
                headers.remove(TRACESTATE);
            }
        }
        let trace = Arc::new(trace);
        if watched {
            self.0.recent.begin(&trace);
        }
        Some(trace)
    }

    /// Gets a span of the host's own.
    fn put_span(&self, span: opentelemetry_sdk::trace::SpanData) {
        if let Some(exporter) = &self.0.exporter {
            exporter.put_span(span);
        }
    }

    /// Waits until what is recorded so far has been exported, or for so long.
    pub async fn flush(&self, longest: Duration) {
        if let Some(exporter) = &self.0.exporter {
            exporter.flush(longest).await;
        }
    }

    fn finish(&self, trace: Finished) {
        let settings = &self.0.settings;
        let tail = !trace.sampled
            && (settings.keep_errors && trace.failed()
                || settings.keep_slow.is_some_and(|slow| clock::between(trace.begun, trace.answered()) >= slow));
        let trace = Arc::new(trace);
        if self.0.recent.is_watched(trace.ended) {
            self.0.recent.keep(trace.clone());
        }
        if let Some(exporter) = self.0.exporter.as_ref().filter(|_| trace.sampled || tail) {
            exporter.put(trace);
        }
    }
}

/// The id of a trace that begins here: the request's own, so that logs, `FASTLY_TRACE_ID` and traces agree.
fn own_id(id: &str) -> TraceId {
    let digits = id.bytes().filter_map(|byte| char::from(byte).to_digit(16));
    match digits.fold(0_u128, |id, digit| id << 4 | u128::from(digit)) {
        0 => TraceId(uuid::Uuid::new_v4().as_u128()),
        id => TraceId(id),
    }
}

/// A number from which the ids of a trace's spans are made: one that nobody else has.
fn seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static FIRST: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().1 ^ uuid::Uuid::new_v4().as_u64_pair().0);
    mixed(first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A number that looks random and is another for every other (the finalizer of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The trace of a request that is worked on.
pub struct Trace {
    tracer: Tracer,
    id: TraceId,
    seed: u64,
    parent: Option<Remote>,
    link: Option<Remote>,
    /// What the client's head said.
    original: Option<Remote>,
    sampled: bool,
    begun: Ticks,
    /// When it began, since the Unix epoch.
    wall: Duration,
    recording: Option<Mutex<Recording>>,
    /// Whether somebody looks at it.
    watched: bool,
    /// Whether others are told of it.
    propagates: bool,
    /// The hostcall that the guest waits for now, by its number plus one.
    waits_for: AtomicU32,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Trace {
    /// Its id.
    pub fn id(&self) -> TraceId {
        self.id
    }

    /// Whether others know of it.
    pub fn is_told(&self) -> bool {
        self.propagates
    }

    /// Whether it is exported in any case.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The guest's span, as others refer to it.
    pub fn guest(&self) -> Remote {
        Remote { trace: self.id, span: guest_span(self.seed), sampled: self.sampled }
    }

    /// The hostcall that the guest waits for.
    fn waits_for(&self) -> Option<u16> {
        u16::try_from(self.waits_for.load(Ordering::Relaxed).checked_sub(1)?).ok()
    }

    fn with(&self, change: impl FnOnce(&mut Recording)) {
        if let Some(recording) = &self.recording {
            change(&mut recording.lock());
        }
    }

    /// Notes whose request it is.
    pub fn service(&self, service: &Arc<Service>) {
        self.with(|recording| recording.service = Some(service.clone()));
    }

    /// Notes that the answer's head goes out.
    pub fn answering(&self, status: StatusCode, headers: &HeaderMap) {
        let now = clock::ticks();
        self.with(|recording| {
            let answered = &mut recording.answered;
            (answered.status, answered.head, answered.fields) = (Some(status), now, self.watched.then(|| headers.clone()));
        });
    }

    /// Notes that the answer is out, or why it is not.
    pub fn answered(&self, bytes: u64, failure: Option<&'static str>) {
        self.with(|recording| {
            (recording.answered.bytes, recording.answered.ended) = (bytes, clock::ticks());
            recording.answered.failure = recording.answered.failure.or(failure);
        });
    }

    /// Notes why the guest's answer is not what the client gets.
    pub fn failed(&self, failure: &'static str) {
        self.with(|recording| recording.answered.failure = Some(failure));
    }

    /// Notes how the guest ended, or what it came to with this request.
    pub fn ended(&self, outcome: &'static str, detail: impl FnOnce() -> String) {
        self.with(|recording| {
            recording.ran.get_or_insert_default().outcome = Some((outcome, detail()));
        });
    }

    /// Notes what the cache said.
    pub fn looked(&self, about: &Arc<str>, answer: &'static str, action: Option<(&'static str, &'static str)>) {
        self.with(|recording| {
            if recording.looked.len() < MAX_LOOKS {
                recording.looked.push(Looked { at: clock::ticks(), about: about.clone(), answer, action });
            }
        });
    }

    /// Notes a fault on purpose.
    pub fn injected(&self, backend: &str, fault: &'static str) {
        self.with(|recording| {
            if recording.faults.len() < MAX_LOOKS {
                recording.faults.push(Injected { at: clock::ticks(), backend: backend.into(), fault });
            }
        });
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Some(recording) = self.recording.take() else { return };
        let Self { id, seed, parent, link, sampled, begun, wall, .. } = *self;
        let recording = recording.into_inner();
        self.tracer.finish(Finished { id, seed, parent, link, sampled, begun, ended: clock::ticks(), wall, recording });
    }
}

fn server_span(seed: u64) -> SpanId {
    SpanId(mixed(seed).max(1))
}

fn guest_span(seed: u64) -> SpanId {
    SpanId(mixed(seed.wrapping_add(1)).max(1))
}

/// Spans of attempts and of hostcalls, by their order.
fn attempt_span(seed: u64, number: usize) -> SpanId {
    SpanId(mixed(seed.wrapping_add((1 << 32) + number as u64)).max(1))
}

fn call_span(seed: u64, number: usize) -> SpanId {
    SpanId(mixed(seed.wrapping_add((2 << 32) + number as u64)).max(1))
}

/// The trace of a request that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The trace's id.
    pub id: TraceId,
    seed: u64,
    parent: Option<Remote>,
    link: Option<Remote>,
    /// Whether it was sampled; otherwise it was kept for what became of it.
    pub sampled: bool,
    begun: Ticks,
    ended: Ticks,
    wall: Duration,
    /// What was recorded.
    pub recording: Recording,
}

impl Finished {
    /// Whether it failed: by the guest's end, with a 5xx, or without a whole answer.
    fn failed(&self) -> bool {
        let answered = &self.recording.answered;
        let by_guest = |ran: &Ran| ran.outcome.as_ref().is_some_and(|(outcome, _)| *outcome != "finished");
        answered.failure.is_some()
            || answered.status.is_none_or(|status| status.is_server_error())
            || self.recording.ran.as_ref().is_some_and(by_guest)
    }

    /// When its answer was out.
    fn answered(&self) -> Ticks {
        let ended = self.recording.answered.ended;
        if ended == Ticks(0) { self.ended } else { ended }
    }

    /// Memory it takes, about.
    fn bytes(&self) -> usize {
        let calls = self.recording.ran.as_ref().map_or(0, |ran| ran.calls.len() * size_of::<Call>());
        2048 + self.recording.asked.raw_head.len() + calls + self.recording.attempts.len() * 2048 + self.recording.looked.len() * 128
    }

    /// How many spans it makes, nearly.
    fn weight(&self) -> usize {
        2 + self.recording.attempts.len() + self.recording.ran.as_ref().map_or(0, |ran| ran.calls.len())
    }
}

/// The hostcalls of a request that is recorded, as its sandbox notes them.
pub struct Calls {
    trace: Arc<Trace>,
    ran: Ran,
    most: usize,
    /// Something was sent by the call that runs.
    sends: bool,
}

impl Calls {
    /// For a guest that gets the request. `cold`: its sandbox was made for it. `None`: nothing is recorded of it.
    pub fn begin(trace: &Arc<Trace>, cold: bool) -> Option<Box<Self>> {
        trace.recording.as_ref()?;
        let most = match trace.tracer.0.settings.hostcalls {
            HostcallSpans::Off | HostcallSpans::Summary if !trace.watched => 0,
            HostcallSpans::Off | HostcallSpans::Summary => trace.tracer.0.settings.max_hostcalls,
            HostcallSpans::Slow | HostcallSpans::All => trace.tracer.0.settings.max_hostcalls,
        };
        let ran = Ran { begun: clock::ticks(), cold, calls: Vec::with_capacity(most.min(32)), ..Ran::default() };
        Some(Box::new(Self { trace: trace.clone(), ran, most, sends: false }))
    }

    /// Notes a call that has ended.
    pub fn push(&mut self, mut call: Call, name: Option<&str>) {
        if call.begun < self.ran.begun {
            // The wait for the request.
            return;
        }
        call.sent = std::mem::take(&mut self.sends);
        self.ran.count += 1;
        self.ran.time += call.time;
        call.name = self.number(name);
        if let Some(last) = self.ran.calls.last_mut()
            && (last.function, last.status, last.handle, last.name, last.sent || call.sent)
                == (call.function, call.status, call.handle, call.name, false)
        {
            last.count += 1;
            last.bytes = last.bytes.saturating_add(call.bytes);
            (last.pages, last.ended) = (call.pages, call.ended);
            last.time += call.time;
        } else if self.ran.calls.len() < self.most {
            self.ran.calls.push(call);
        } else {
            self.ran.dropped += 1;
        }
    }

    /// The number of a name; 0: it has none.
    fn number(&mut self, name: Option<&str>) -> u16 {
        let Some(name) = name else { return 0 };
        let names = &mut self.ran.names;
        let known = names.iter().position(|known| **known == *name);
        let at = known.or_else(|| {
            (names.len() < MAX_NAMES).then(|| {
                names.push(name.into());
                names.len() - 1
            })
        });
        at.map_or(0, |at| at as u16 + 1)
    }

    /// Tells others what the guest waits for.
    pub fn waits(&self, function: Function) {
        self.trace.waits_for.store(u32::from(function.number()) + 1, Ordering::Relaxed);
    }

    /// It waits no more.
    pub fn goes_on(&self) {
        self.trace.waits_for.store(0, Ordering::Relaxed);
    }

    /// Notes that the call that runs sends something.
    pub fn sends(&mut self) -> u32 {
        self.sends = true;
        self.ran.calls.len() as u32
    }

    /// The guest is through with the request.
    pub fn end(self, cpu: Duration, memory: usize) {
        let Self { trace, mut ran, .. } = self;
        (ran.ended, ran.cpu, ran.memory) = (clock::ticks(), cpu, memory);
        trace.with(|recording| {
            let outcome = recording.ran.take().and_then(|before| before.outcome);
            recording.ran = Some(Ran { outcome, ..ran });
        });
    }
}

/// What a request to a backend is for.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The trace.
    pub trace: Arc<Trace>,
    /// The hostcall that sends it.
    pub call: Option<u32>,
}

/// A request to a backend, as it goes out.
pub struct Outgoing<'a> {
    /// The backend's name.
    pub backend: &'a str,
    /// Its host and port.
    pub host: (&'a str, u16),
    /// Whether it speaks TLS.
    pub secure: bool,
    /// The method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// How many attempts were before.
    pub resend: u32,
    /// When this one began.
    pub begun: Ticks,
}

impl Origin {
    /// Begins an attempt to send a request: notes it, and tells the backend of it if that may be.
    pub fn attempt(&self, outgoing: &Outgoing<'_>, headers: &HeaderMap) -> Attempt {
        let trace = &self.trace;
        let said = Remote::of(headers);
        // A program that sends on what its client sent, sends what we have told it.
        let own = said.is_some_and(|said| said.trace == trace.id && said.span == guest_span(trace.seed));
        let (parent, link) = match said {
            Some(said) if said.trace == trace.id && !own => (Some(said.span), None),
            Some(said) if said.trace != trace.id => (None, Some(said)),
            _ => (None, None),
        };
        let mut number = 0;
        let mut recorded = false;
        trace.with(|recording| {
            number = recording.attempts.len();
            if number >= MAX_ATTEMPTS {
                recording.attempts_dropped += 1;
                return;
            }
            recorded = true;
            recording.attempts.push(Attempted {
                span: attempt_span(trace.seed, number),
                call: self.call,
                parent,
                link,
                backend: outgoing.backend.into(),
                secure: outgoing.secure,
                host: (outgoing.host.0.to_owned(), outgoing.host.1),
                method: outgoing.method.clone(),
                authority: headers
                    .get(::http::header::HOST)
                    .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
                    .unwrap_or_default(),
                target: outgoing.target.to_owned(),
                resend: outgoing.resend,
                begun: outgoing.begun,
                resolved: None,
                reached: None,
                connected: None,
                reused: false,
                peer: None,
                version: Version::HTTP_11,
                answered: None,
                bytes: 0,
                failure: None,
                ended: None,
                fields: None,
                response_fields: None,
            });
        });
        let span = if recorded { attempt_span(trace.seed, number) } else { parent.unwrap_or(guest_span(trace.seed)) };
        Attempt {
            trace: trace.clone(),
            number: recorded.then_some(number),
            context: Remote { trace: trace.id, span, sampled: trace.sampled },
            own,
            foreign: link.is_some(),
        }
    }
}

/// An attempt to send a request to a backend. It is over when this is dropped.
pub struct Attempt {
    trace: Arc<Trace>,
    number: Option<usize>,
    context: Remote,
    own: bool,
    foreign: bool,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("trace", &self.trace.id).finish_non_exhaustive()
    }
}

impl Attempt {
    fn with(&self, change: impl FnOnce(&mut Attempted)) {
        let Some(number) = self.number else { return };
        self.trace.with(|recording| {
            if let Some(attempt) = recording.attempts.get_mut(number) {
                change(attempt);
            }
        });
    }

    /// Notes that the host's addresses are known.
    pub fn resolved(&self) {
        let now = clock::ticks();
        self.with(|attempt| attempt.resolved = Some(now));
    }

    /// Notes that one of them has answered.
    pub fn reached(&self) {
        let now = clock::ticks();
        self.with(|attempt| attempt.reached = Some(now));
    }

    /// Notes the connection, and has `headers` say what its other end may know of the trace.
    pub fn connected(&self, peer: Option<SocketAddr>, reused: bool, version: Version, policy: Option<Propagate>, headers: &mut HeaderMap) {
        let now = clock::ticks();
        self.with(|attempt| {
            (attempt.connected, attempt.peer, attempt.reused, attempt.version) = (Some(now), peer, reused, version);
        });
        // A program's own trace is one of which this is no part.
        if !self.foreign && self.trace.propagates {
            self.tell(peer, policy, headers);
        }
        if self.trace.watched {
            self.with(|attempt| attempt.fields = Some(headers.clone()));
        }
    }

    /// Has the head say what the backend may know.
    fn tell(&self, peer: Option<SocketAddr>, policy: Option<Propagate>, headers: &mut HeaderMap) {
        let told = match policy.unwrap_or(self.trace.tracer.0.settings.propagate) {
            Propagate::Always => true,
            Propagate::Internal => peer.is_some_and(|peer| is_internal(peer.ip())),
            Propagate::Never => false,
        };
        match (told, self.own, self.trace.original) {
            (true, ..) => {
                headers.insert(TRACEPARENT, self.context.field());
            }
            // What the program sends on is what its client sent.
            (false, true, Some(original)) => {
                headers.insert(TRACEPARENT, original.field());
            }
            (false, true, None) => {
                headers.remove(TRACEPARENT);
            }
            (false, false, _) => {}
        }
    }

    /// Notes the response's head.
    pub fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        let now = clock::ticks();
        self.with(|attempt| {
            attempt.answered = Some((now, status));
            attempt.response_fields = self.trace.watched.then(|| headers.clone());
        });
    }

    /// Notes bytes of the response's body.
    pub fn received(&self, bytes: usize) {
        self.with(|attempt| attempt.bytes += bytes as u64);
    }

    /// Notes why it failed.
    pub fn failed(&self, name: &'static str, detail: impl FnOnce() -> String) {
        self.with(|attempt| attempt.failure = Some((name, detail())));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = clock::ticks();
        self.with(|attempt| attempt.ended = Some(now));
    }
}

/// Whether an address is not one of the public Internet.
fn is_internal(address: IpAddr) -> bool {
    !crate::config::targets::is_public(address.to_canonical())
}
