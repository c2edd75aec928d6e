//! Traces as JSON: for the inspector, and in the formats of other tools.

use std::time::Duration;

use ::http::HeaderMap;
use fxprof_processed_profile as firefox;
use fxprof_processed_profile::{
    MarkerFieldFlags, MarkerFieldFormat, MarkerLocations, MarkerTiming, StaticSchemaMarker, StaticSchemaMarkerField,
};
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{KeyValue, Value as Attribute};
use opentelemetry_sdk::trace::SpanData;
use serde_json::{Value, json};

use super::assemble::Assembler;
use super::head::{lines, redacted, shown, version};
use super::recent::{CAPACITY, Recent};
use super::record::{Attempted, Call};
use super::{Finished, Trace};
use crate::telemetry::clock::{self, Ticks};
use crate::telemetry::secrets::REDACTED;

/// Fields whose values are credentials.
const SECRET_FIELDS: [&str; 9] = [
    "x-auth",
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "fastly-key",
    "x-api-key",
    "x-amz-security-token",
    "x-sidelight-trace",
];

/// Parts of names of fields that are likely to be for credentials.
const SECRET_PARTS: [&str; 5] = ["secret", "token", "password", "api-key", "apikey"];

/// Takes what is secret out of a text.
pub type Redactor<'a> = &'a dyn Fn(&str) -> String;

/// Shows traces.
pub struct Show<'a> {
    /// Makes spans of them.
    pub assembler: &'a Assembler,
    /// Takes secrets out.
    pub redact: Redactor<'a>,
}

fn micros(time: Duration) -> f64 {
    (time.as_nanos() as f64 / 1000.0 * 10.0).round() / 10.0
}

/// What the inspector's list asks for.
pub fn list(recent: &Recent, after: u64, show: &Show<'_>) -> Value {
    let seen = recent.look(after);
    let requests: Vec<Value> = seen.requests.iter().map(|(number, trace)| show.summary(*number, trace)).collect();
    let live: Vec<Value> = seen.live.iter().filter_map(|trace| show.live(trace)).collect();
    json!({
        "process": std::process::id(),
        "now_ms": clock::unix().as_secs_f64() * 1000.0,
        "next": seen.newest,
        "capacity": CAPACITY,
        "missed": seen.missed,
        "live": live,
        "requests": requests,
    })
}

impl Show<'_> {
    fn text(&self, text: &str) -> String {
        (self.redact)(text)
    }

    fn query(&self, query: Option<&str>) -> Option<String> {
        query.map(|query| self.text(&redacted(query)))
    }

    fn fields<'f>(&self, fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Vec<Value> {
        let shown = fields.map(|(name, value)| {
            let lower = name.to_ascii_lowercase();
            let secret = SECRET_FIELDS.contains(&lower.as_str()) || SECRET_PARTS.iter().any(|part| lower.contains(part));
            let value = if secret { REDACTED.to_owned() } else { self.text(&shown(&String::from_utf8_lossy(value))) };
            json!([name, value])
        });
        shown.collect()
    }

    fn headers(&self, headers: &HeaderMap) -> Vec<Value> {
        self.fields(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    fn live(&self, trace: &Trace) -> Option<Value> {
        let recording = trace.recording.as_ref()?.lock();
        let asked = &recording.asked;
        let waits_for = trace.waits_for().map(|number| {
            let (module, function) = self.assembler.names.name(number);
            format!("{module}.{function}")
        });
        let open: Vec<&str> =
            recording.attempts.iter().filter(|attempt| attempt.ended.is_none()).map(|attempt| &*attempt.backend).collect();
        Some(json!({
            "id": &*asked.id,
            "service": recording.service.as_ref().map(|service| &service.name),
            "method": asked.method.as_str(),
            "host": asked.uri.authority().map(|authority| authority.as_str()),
            "path": self.text(asked.uri.path()),
            "query": self.query(asked.uri.query()),
            "begun_ms": trace.wall.as_secs_f64() * 1000.0,
            "age_us": micros(clock::between(trace.begun, clock::ticks())),
            "waits_for": waits_for,
            "backends": open,
        }))
    }

    fn summary(&self, number: u64, trace: &Finished) -> Value {
        let recording = &trace.recording;
        let (asked, answered, ran) = (&recording.asked, &recording.answered, recording.ran.as_ref());
        json!({
            "seq": number,
            "id": &*asked.id,
            "trace_id": trace.id.to_string(),
            "sampled": trace.sampled,
            "service": recording.service.as_ref().map(|service| &service.name),
            "generation": recording.service.as_ref().map(|service| service.generation),
            "method": asked.method.as_str(),
            "scheme": asked.uri.scheme_str(),
            "host": asked.uri.authority().map(|authority| authority.as_str()),
            "path": self.text(asked.uri.path()),
            "query": self.query(asked.uri.query()),
            "status": answered.status.map(|status| status.as_u16()),
            "begun_ms": trace.wall.as_secs_f64() * 1000.0,
            "duration_us": micros(clock::between(trace.begun, trace.answered())),
            "cpu_us": ran.map_or(0.0, |ran| micros(ran.cpu)),
            "memory": ran.map_or(0, |ran| ran.memory),
            "hostcalls": ran.map_or(0, |ran| ran.count),
            "attempts": recording.attempts.len() as u64 + u64::from(recording.attempts_dropped),
            "bytes": answered.bytes,
            "cache": recording.looked.first().map(|looked| looked.answer),
            "outcome": ran.and_then(|ran| ran.outcome.as_ref()).map(|(outcome, _)| outcome),
            "failure": answered.failure,
        })
    }

    /// Everything about a request.
    pub fn detail(&self, number: u64, trace: &Finished) -> Value {
        let recording = &trace.recording;
        let (asked, answered) = (&recording.asked, &recording.answered);
        let at = |ticks: Ticks| micros(clock::between(trace.begun, ticks));
        let guest = recording.ran.as_ref().map(|ran| {
            let waited = ran.calls.iter().filter(|call| call.waits).map(|call| call.time).sum();
            let ended = if ran.ended == Ticks(0) { trace.ended } else { ran.ended };
            json!({
                "begun_us": at(ran.begun),
                "ended_us": at(ended),
                "cpu_us": micros(ran.cpu),
                "waiting_us": micros(clock::between(Ticks(0), Ticks(waited))),
                "hostcalls_us": micros(clock::between(Ticks(0), Ticks(ran.time))),
                "memory": ran.memory,
                "cold": ran.cold,
                "outcome": ran.outcome.as_ref().map(|(outcome, _)| outcome),
                "detail": ran.outcome.as_ref().map(|(_, detail)| self.text(detail)).unwrap_or_default(),
                "count": ran.count,
                "dropped": ran.dropped,
            })
        });
        let calls = recording.ran.as_ref().map(|ran| ran.calls.as_slice()).unwrap_or_default();
        let faults = recording
            .faults
            .iter()
            .map(|injected| json!({ "at_us": at(injected.at), "backend": self.text(&injected.backend), "fault": injected.fault }));
        let looked = recording.looked.iter().map(|looked| {
            json!({
                "at_us": at(looked.at),
                "about": self.text(&looked.about),
                "answer": looked.answer,
                "action": looked.action.map(|(action, _)| action),
                "reason": looked.action.map(|(_, reason)| reason),
            })
        });
        json!({
            "summary": self.summary(number, trace),
            "client": asked.client.ip().to_string(),
            "version": version(asked.version),
            "fields": self.fields(lines(&asked.raw_head)),
            "response": {
                "head_us": Some(answered.head).filter(|head| *head != Ticks(0)).map(at),
                "ended_us": at(trace.answered()),
                "fields": answered.fields.as_ref().map(|fields| self.headers(fields)),
            },
            "guest": guest,
            "calls": calls.iter().map(|call| self.call(trace, call, recording.ran.as_ref().and_then(|ran| ran.name(call)))).collect::<Vec<_>>(),
            "calls_dropped": recording.ran.as_ref().map_or(0, |ran| ran.dropped),
            "attempts": recording.attempts.iter().map(|attempt| self.attempt(trace, attempt)).collect::<Vec<_>>(),
            "faults": faults.collect::<Vec<_>>(),
            "cache": looked.collect::<Vec<_>>(),
        })
    }

    fn call(&self, trace: &Finished, call: &Call, given: Option<&str>) -> Value {
        let (interface, function) = self.assembler.names.name(call.function);
        json!({
            "interface": interface,
            "function": function,
            "status": self.assembler.names.status(call.status),
            "begun_us": micros(clock::between(trace.begun, call.begun)),
            "ended_us": micros(clock::between(trace.begun, call.ended)),
            "time_us": micros(clock::between(Ticks(0), Ticks(call.time))),
            "count": call.count,
            "name": given.map(|given| self.text(&shown(given))),
            "argument": call.handle,
            "bytes": call.bytes,
            "memory": u64::from(call.pages) << 16,
            "sent": call.sent,
            "waits": call.waits,
        })
    }

    fn attempt(&self, trace: &Finished, attempt: &Attempted) -> Value {
        let at = |ticks: Ticks| micros(clock::between(trace.begun, ticks));
        json!({
            "backend": self.text(&attempt.backend),
            "method": attempt.method.as_str(),
            "url": self.text(&attempt.url()),
            "begun_us": at(attempt.begun),
            "resolved_us": attempt.resolved.map(at),
            "reached_us": attempt.reached.map(at),
            "connected_us": attempt.connected.map(at),
            "answered_us": attempt.answered.map(|(ticks, _)| at(ticks)),
            "ended_us": at(attempt.ended.unwrap_or(trace.ended)),
            "reused": attempt.reused,
            "peer": attempt.peer.map(|peer| peer.to_string()),
            "version": version(attempt.version),
            "status": attempt.answered.map(|(_, status)| status.as_u16()),
            "bytes": attempt.bytes,
            "failure": attempt.failure.as_ref().map(|(name, _)| name),
            "detail": attempt.failure.as_ref().map(|(_, detail)| self.text(detail)),
            "call": attempt.call,
            "resend": attempt.resend,
            "fields": attempt.fields.as_ref().map(|fields| self.headers(fields)),
            "response_fields": attempt.response_fields.as_ref().map(|fields| self.headers(fields)),
        })
    }

    /// As OTLP's JSON (what collectors take at `/v1/traces`).
    pub fn otlp(&self, trace: &Finished) -> Value {
        let service = trace.recording.service.as_ref();
        let name = service.map_or("sidelight", |service| &service.name);
        let spans: Vec<Value> = self.assembler.spans(trace).iter().map(|span| self.span(span)).collect();
        json!({ "resourceSpans": [{
            "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": name } }] },
            "scopeSpans": [{ "scope": { "name": "sidelight", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }],
        }] })
    }

    fn span(&self, span: &SpanData) -> Value {
        let nanos = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        let kind = match span.span_kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
            SpanKind::Producer => 4,
            SpanKind::Consumer => 5,
        };
        let events = span.events.events.iter().map(
            |event| json!({ "name": event.name, "timeUnixNano": nanos(event.timestamp), "attributes": self.attributes(&event.attributes) }),
        );
        let links = span.links.links.iter();
        let links = links
            .map(|link| json!({ "traceId": link.span_context.trace_id().to_string(), "spanId": link.span_context.span_id().to_string() }));
        let status = match &span.status {
            Status::Unset => json!({}),
            Status::Ok => json!({ "code": 1 }),
            Status::Error { description } => json!({ "code": 2, "message": self.text(description) }),
        };
        let mut all = json!({
            "traceId": span.span_context.trace_id().to_string(),
            "spanId": span.span_context.span_id().to_string(),
            "name": span.name,
            "kind": kind,
            "startTimeUnixNano": nanos(span.start_time),
            "endTimeUnixNano": nanos(span.end_time),
            "attributes": self.attributes(&span.attributes),
            "events": events.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
            "status": status,
        });
        if span.parent_span_id != opentelemetry::trace::SpanId::INVALID {
            all["parentSpanId"] = span.parent_span_id.to_string().into();
        }
        all
    }

    fn attributes(&self, attributes: &[KeyValue]) -> Vec<Value> {
        let value = |value: &Attribute| match value {
            Attribute::Bool(flag) => json!({ "boolValue": flag }),
            Attribute::I64(number) => json!({ "intValue": number.to_string() }),
            Attribute::F64(number) => json!({ "doubleValue": number }),
            other => json!({ "stringValue": self.text(&other.as_str()) }),
        };
        attributes.iter().map(|attribute| json!({ "key": attribute.key.as_str(), "value": value(&attribute.value) })).collect()
    }

    /// The rows of a trace, for tools that have threads: name, thread, begin, end and what else there is to say.
    fn rows(&self, trace: &Finished) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut backends: Vec<String> = Vec::new();
        for span in self.assembler.spans(trace) {
            let attributes: Vec<(String, String)> =
                span.attributes.iter().map(|attribute| (attribute.key.to_string(), self.text(&attribute.value.as_str()))).collect();
            let thread = match span.span_kind {
                SpanKind::Server => "request".to_owned(),
                SpanKind::Client => {
                    let named = attributes.iter().find(|(key, _)| key == "sidelight.backend").map_or("backend", |(_, name)| name);
                    backends.push(named.to_owned());
                    format!("backend {named} #{}", backends.iter().filter(|known| *known == named).count())
                }
                _ if span.name == "guest" => "guest".to_owned(),
                _ => "hostcalls".to_owned(),
            };
            let since = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            rows.push(Row { name: span.name.to_string(), thread, begin: since(span.start_time), end: since(span.end_time), attributes });
        }
        rows
    }

    /// As Chrome's trace event format.
    pub fn chrome(&self, trace: &Finished) -> Value {
        let rows = self.rows(trace);
        let mut threads: Vec<&str> = Vec::new();
        let mut events = Vec::new();
        for row in &rows {
            let number = threads.iter().position(|known| *known == row.thread).unwrap_or_else(|| {
                threads.push(&row.thread);
                threads.len() - 1
            });
            let arguments: serde_json::Map<_, _> = row.attributes.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
            let time = (row.end.saturating_sub(row.begin)).as_nanos() as f64 / 1000.0;
            let begin = row.begin.saturating_sub(trace.wall).as_nanos() as f64 / 1000.0;
            events.push(json!({ "name": row.name, "cat": row.thread, "ph": "X", "ts": begin, "dur": time, "pid": 1, "tid": number + 1, "args": arguments }));
        }
        let names = threads.iter().enumerate();
        let names =
            names.map(|(number, name)| json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": number + 1, "args": { "name": name } }));
        let events: Vec<Value> = names.chain(events).collect();
        json!({ "displayTimeUnit": "ns", "otherData": { "trace_id": trace.id.to_string(), "request_id": &*trace.recording.asked.id }, "traceEvents": events })
    }

    /// As a profile for profiler.firefox.com: a thread for each kind of rows, a marker for each row.
    pub fn firefox(&self, trace: &Finished) -> Value {
        let begun = std::time::UNIX_EPOCH + trace.wall;
        let mut profile = firefox::Profile::new("sidelight", begun.into(), firefox::SamplingInterval::from_millis(1));
        let zero = firefox::Timestamp::from_nanos_since_reference(0);
        let process = profile.add_process(&format!("request {}", trace.recording.asked.id), 1, zero);
        let mut threads: Vec<(String, firefox::ThreadHandle)> = Vec::new();
        for row in self.rows(trace) {
            let known = threads.iter().find(|(name, _)| *name == row.thread).map(|(_, thread)| *thread);
            let thread = known.unwrap_or_else(|| {
                let thread = profile.add_thread(process, threads.len() as u32 + 1, zero, threads.is_empty());
                profile.set_thread_name(thread, &row.thread);
                threads.push((row.thread.clone(), thread));
                thread
            });
            let at = |time: Duration| {
                let nanos = time.saturating_sub(trace.wall).as_nanos();
                firefox::Timestamp::from_nanos_since_reference(u64::try_from(nanos).unwrap_or(u64::MAX))
            };
            let told: Vec<String> = row.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let marker = Span { name: profile.intern_string(&row.name), told: profile.intern_string(&told.join(", ")) };
            profile.add_marker(thread, MarkerTiming::Interval(at(row.begin), at(row.end)), marker);
        }
        serde_json::to_value(&profile).unwrap_or_default()
    }
}

/// A span as tools with threads have it.
struct Row {
    name: String,
    thread: String,
    /// Since the Unix epoch.
    begin: Duration,
    end: Duration,
    attributes: Vec<(String, String)>,
}

/// A span in a profile.
struct Span {
    name: firefox::StringHandle,
    told: firefox::StringHandle,
}

impl StaticSchemaMarker for Span {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "Span";
    const LOCATIONS: MarkerLocations = MarkerLocations::MARKER_CHART.union(MarkerLocations::MARKER_TABLE);
    const CHART_LABEL: Option<&'static str> = Some("{marker.name}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.name}: {marker.data.attributes}");
    const FIELDS: &'static [StaticSchemaMarkerField] = &[StaticSchemaMarkerField {
        key: "attributes",
        label: "Attributes",
        format: MarkerFieldFormat::String,
        flags: MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, _: &mut firefox::Profile) -> firefox::StringHandle {
        self.name
    }

    fn category(&self, _: &mut firefox::Profile) -> firefox::CategoryHandle {
        firefox::CategoryHandle::OTHER
    }

    fn string_field_value(&self, _: u32) -> firefox::StringHandle {
        self.told
    }

    fn number_field_value(&self, _: u32) -> f64 {
        0.0
    }
}
