//! Spans of what was recorded: HTTP's semantic conventions (stable) for the request and for those to backends, FaaS' for the
//! guest, names of our own (`fastly.…`, `sidelight.…`, `wasm.…`) for the rest. `docs/observability.md` has them all.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::{Method, header};
use opentelemetry::trace::{Event, Link, SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::{self, Remote, SpanId, TraceId};
use super::head::{redacted, shown, values, version};
use super::record::{Attempted, Call, Ran};
use super::{Finished, call_span, guest_span, server_span};
use crate::config::traces::HostcallSpans;
use crate::telemetry::clock::{self, Ticks};
use crate::telemetry::hostcalls::Hostcalls;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::secrets;

/// How spans are made.
pub struct Assembler {
    /// Which hostcalls get spans.
    pub hostcalls: HostcallSpans,
    /// From when on one is slow.
    pub slow: Duration,
    /// Their names.
    pub names: Hostcalls,
    /// Who makes them.
    pub scope: InstrumentationScope,
}

/// What all spans of one trace share.
struct Making<'a> {
    of: &'a Assembler,
    trace: &'a Finished,
    state: TraceState,
}

impl Assembler {
    /// One for a process.
    pub fn new(hostcalls: HostcallSpans, slow: Duration, metrics: &Metrics) -> Self {
        let scope = InstrumentationScope::builder("sidelight").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { hostcalls, slow, names: metrics.calls.clone(), scope }
    }

    /// The spans of a trace: the request's first.
    pub fn spans(&self, trace: &Finished) -> Vec<SpanData> {
        let state = trace.parent.and_then(|_| carried(trace)).unwrap_or_default();
        let making = Making { of: self, trace, state };
        let recording = &trace.recording;
        let mut spans = Vec::with_capacity(trace.weight());
        spans.push(making.server());
        if let Some(ran) = &recording.ran {
            spans.push(making.guest(ran));
            let shown = |call: &Call| match self.hostcalls {
                HostcallSpans::Off | HostcallSpans::Summary => false,
                HostcallSpans::Slow => call.sent || clock::between(Ticks(0), Ticks(call.time)) >= self.slow,
                HostcallSpans::All => true,
            };
            spans.extend(
                ran.calls
                    .iter()
                    .enumerate()
                    .filter(|(_, call)| shown(call))
                    .map(|(number, call)| making.call(number, call, ran.name(call))),
            );
        }
        spans.extend(recording.attempts.iter().map(|attempt| making.attempt(attempt)));
        spans
    }
}

/// What the client's tracing systems have added.
fn carried(trace: &Finished) -> Option<TraceState> {
    let mut headers = ::http::HeaderMap::new();
    for value in values(&trace.recording.asked.raw_head, context::TRACESTATE.as_str()) {
        headers.append(context::TRACESTATE, ::http::HeaderValue::from_bytes(value).ok()?);
    }
    context::state_of(&headers)?.to_str().ok()?.parse().ok()
}

fn text(value: impl Into<String>) -> Value {
    Value::String(secrets::hidden(&value.into()).into_owned().into())
}

fn number(value: impl TryInto<i64>) -> Value {
    Value::I64(value.try_into().unwrap_or(i64::MAX))
}

/// A method in the name of a span and in its attribute: one that is known, or `_OTHER`.
fn method(method: &Method) -> (&'static str, &'static str) {
    let known = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => return ("HTTP", "_OTHER"),
    };
    (known, known)
}

impl Making<'_> {
    fn at(&self, ticks: Ticks) -> SystemTime {
        UNIX_EPOCH + self.trace.wall + clock::between(self.trace.begun, ticks)
    }

    fn span(&self, span: SpanId, parent: Option<SpanId>, name: Cow<'static, str>, kind: SpanKind, times: (Ticks, Ticks)) -> SpanData {
        SpanData {
            span_context: span_context(self.trace.id, span, self.state.clone(), false),
            parent_span_id: parent.map_or(opentelemetry::trace::SpanId::INVALID, |parent| parent.0.into()),
            parent_span_is_remote: false,
            span_kind: kind,
            name,
            start_time: self.at(times.0),
            end_time: self.at(times.1.max(times.0)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.of.scope.clone(),
        }
    }

    fn link(&self, to: Remote, into: &mut SpanLinks) {
        into.links.push(Link::new(span_context(to.trace, to.span, TraceState::default(), true), Vec::new(), 0));
    }

    /// The client's request.
    fn server(&self) -> SpanData {
        let (trace, recording) = (self.trace, &self.trace.recording);
        let (asked, answered) = (&recording.asked, &recording.answered);
        let (name, known) = method(&asked.method);
        // The program may go on for longer.
        let ended = trace.answered();
        let parent = trace.parent.map(|parent| parent.span);
        let mut span = self.span(server_span(trace.seed), parent, name.into(), SpanKind::Server, (trace.begun, ended));
        span.parent_span_is_remote = trace.parent.is_some();
        let mut add = |key: &'static str, value: Value| span.attributes.push(KeyValue::new(key, value));
        add("http.request.method", text(known));
        if known == "_OTHER" {
            add("http.request.method_original", text(asked.method.as_str()));
        }
        add("url.scheme", text(asked.uri.scheme_str().unwrap_or("http")));
        add("url.path", text(asked.uri.path()));
        if let Some(query) = asked.uri.query() {
            add("url.query", text(redacted(query)));
        }
        if let Some(host) = asked.uri.host() {
            add("server.address", text(host));
        }
        add("server.port", number(asked.uri.port_u16().unwrap_or(if asked.uri.scheme_str() == Some("https") { 443 } else { 80 })));
        add("client.address", text(asked.client.ip().to_string()));
        add("network.protocol.version", text(version(asked.version)));
        if let Some(agent) = values(&asked.raw_head, header::USER_AGENT.as_str()).next() {
            add("user_agent.original", text(String::from_utf8_lossy(agent)));
        }
        if let Some(status) = answered.status {
            add("http.response.status_code", number(status.as_u16()));
        }
        add("http.response.body.size", number(answered.bytes));
        add("sidelight.request.id", text(&*asked.id));
        if let Some(service) = &recording.service {
            add("sidelight.service", text(&*service.name));
            add("sidelight.generation", number(service.generation));
        }
        if !trace.sampled {
            add("sidelight.sampling", text("tail"));
        }
        if recording.attempts_dropped > 0 {
            add("sidelight.backend_requests.dropped", number(recording.attempts_dropped));
        }
        let failure = answered.failure.map(Cow::from);
        let failure =
            failure.or_else(|| answered.status.filter(|status| status.is_server_error()).map(|status| status.as_str().to_owned().into()));
        if let Some(failure) = failure {
            add("error.type", text(failure));
            span.status = Status::error("");
        }
        if let Some(link) = trace.link {
            self.link(link, &mut span.links);
        }
        span
    }

    /// What the program did.
    fn guest(&self, ran: &Ran) -> SpanData {
        let (trace, recording) = (self.trace, &self.trace.recording);
        let mut span = self.span(
            guest_span(trace.seed),
            Some(server_span(trace.seed)),
            "guest".into(),
            SpanKind::Internal,
            (ran.begun, if ran.ended == Ticks(0) { trace.ended } else { ran.ended }),
        );
        let mut add = |key: &'static str, value: Value| span.attributes.push(KeyValue::new(key, value));
        add("faas.trigger", text("http"));
        add("faas.invocation_id", text(&*recording.asked.id));
        add("faas.coldstart", Value::Bool(ran.cold));
        if let Some(service) = &recording.service {
            add("faas.name", text(&*service.name));
            add("faas.version", text(&*service.digest));
        }
        add("wasm.cpu.time", Value::F64(ran.cpu.as_secs_f64()));
        add("wasm.memory.size", number(ran.memory));
        add("fastly.hostcalls.count", number(ran.count));
        add("fastly.hostcalls.time", Value::F64(clock::between(Ticks(0), Ticks(ran.time)).as_secs_f64()));
        if ran.dropped > 0 {
            add("fastly.hostcalls.dropped", number(ran.dropped));
        }
        if let Some((outcome, detail)) = &ran.outcome {
            add("sidelight.guest.outcome", text(*outcome));
            if *outcome != "finished" {
                add("error.type", text(*outcome));
                span.status = Status::error(detail.clone());
            }
        }
        for injected in &recording.faults {
            let attributes =
                vec![KeyValue::new("sidelight.backend", text(&*injected.backend)), KeyValue::new("sidelight.fault", injected.fault)];
            span.events.events.push(Event::new("fault on purpose", self.at(injected.at), attributes, 0));
        }
        for looked in &recording.looked {
            let mut attributes =
                vec![KeyValue::new("fastly.cache.result", looked.answer), KeyValue::new("fastly.cache.request", text(&*looked.about))];
            if let Some((action, reason)) = looked.action {
                attributes.push(KeyValue::new("fastly.cache.action", action));
                attributes.push(KeyValue::new("fastly.cache.reason", reason));
            }
            span.events.events.push(Event::new("cache", self.at(looked.at), attributes, 0));
        }
        span
    }

    /// A hostcall.
    fn call(&self, at: usize, call: &Call, given: Option<&str>) -> SpanData {
        let (module, function) = self.of.names.name(call.function);
        let status = self.of.names.status(call.status);
        let name = format!("{module}.{function}");
        let parent = Some(guest_span(self.trace.seed));
        let mut span = self.span(call_span(self.trace.seed, at), parent, name.into(), SpanKind::Internal, (call.begun, call.ended));
        let mut add = |key: &'static str, value: Value| span.attributes.push(KeyValue::new(key, value));
        add("fastly.hostcall.interface", text(module));
        add("fastly.hostcall.function", text(function));
        add("fastly.hostcall.status", text(status));
        if let Some(given) = given {
            add("fastly.hostcall.name", text(shown(given)));
        }
        add("fastly.hostcall.argument", number(call.handle));
        add("fastly.hostcall.bytes", number(call.bytes));
        add("wasm.memory.size", number(u64::from(call.pages) << 16));
        if call.count > 1 {
            add("fastly.hostcall.count", number(call.count));
            add("fastly.hostcall.time", Value::F64(clock::between(Ticks(0), Ticks(call.time)).as_secs_f64()));
        }
        span
    }

    /// A request to a backend.
    fn attempt(&self, attempt: &Attempted) -> SpanData {
        let seed = self.trace.seed;
        // Its hostcall's span if there is one: a call that sends has one wherever hostcalls have.
        let has_span = |number: u32| {
            let calls = self.trace.recording.ran.as_ref().map(|ran| ran.calls.as_slice()).unwrap_or_default();
            self.of.hostcalls >= HostcallSpans::Slow && calls.get(number as usize).is_some_and(|call| call.sent)
        };
        let of_call = attempt.call.filter(|call| has_span(*call)).map(|call| call_span(seed, call as usize));
        let parent = attempt.parent.or(of_call).unwrap_or(guest_span(seed));
        let (name, known) = method(&attempt.method);
        let ended = attempt.ended.unwrap_or(self.trace.ended);
        let mut span = self.span(attempt.span, Some(parent), name.into(), SpanKind::Client, (attempt.begun, ended));
        let mut add = |key: &'static str, value: Value| span.attributes.push(KeyValue::new(key, value));
        add("http.request.method", text(known));
        if known == "_OTHER" {
            add("http.request.method_original", text(attempt.method.as_str()));
        }
        add("url.full", text(attempt.url()));
        add("server.address", text(&*attempt.host.0));
        add("server.port", number(attempt.host.1));
        if let Some(peer) = attempt.peer {
            add("network.peer.address", text(peer.ip().to_string()));
            add("network.peer.port", number(peer.port()));
        }
        add("sidelight.backend", text(&*attempt.backend));
        if attempt.resend > 0 {
            add("http.request.resend_count", number(attempt.resend));
        }
        for (name, at) in [("resolved", attempt.resolved), ("reached", attempt.reached)] {
            if let Some(at) = at {
                span.events.events.push(Event::new(name, self.at(at), Vec::new(), 0));
            }
        }
        let mut add = |key: &'static str, value: Value| span.attributes.push(KeyValue::new(key, value));
        if let Some(connected) = attempt.connected {
            add("network.protocol.version", text(version(attempt.version)));
            add("sidelight.connection.reused", Value::Bool(attempt.reused));
            span.events.events.push(Event::new("connected", self.at(connected), Vec::new(), 0));
        }
        if let Some((at, status)) = attempt.answered {
            add("http.response.status_code", number(status.as_u16()));
            add("http.response.body.size", number(attempt.bytes));
            span.events.events.push(Event::new("response head", self.at(at), Vec::new(), 0));
            if status.is_client_error() || status.is_server_error() {
                add("error.type", text(status.as_str()));
                span.status = Status::error("");
            }
        }
        if let Some((failure, detail)) = &attempt.failure {
            span.attributes.retain(|attribute| attribute.key.as_str() != "error.type");
            span.attributes.push(KeyValue::new("error.type", *failure));
            span.status = Status::error(detail.clone());
        }
        if let Some(link) = attempt.link {
            self.link(link, &mut span.links);
        }
        span
    }
}

fn span_context(trace: TraceId, span: SpanId, state: TraceState, remote: bool) -> SpanContext {
    SpanContext::new(trace.0.into(), span.0.into(), TraceFlags::SAMPLED, remote, state)
}
