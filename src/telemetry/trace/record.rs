//! What is recorded of a request while it is worked on: plain values, appended to. Spans are made of them when it is over,
//! and not by those who serve it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode, Uri, Version};
use bytes::Bytes;

use super::context::{Remote, SpanId};
use super::head::redacted;
use crate::telemetry::clock::Ticks;

/// A service, as traces name it.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The digest of its program, in hexadecimal digits.
    pub digest: String,
    /// Its generation.
    pub generation: u64,
}

/// The client's request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Names it in logs.
    pub id: Arc<str>,
    /// Its method.
    pub method: Method,
    /// Its URI, absolute.
    pub uri: Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The head as it came.
    pub raw_head: Bytes,
    /// Who asks.
    pub client: SocketAddr,
    /// What address they asked.
    pub server: SocketAddr,
}

/// What the client got.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// The status; none: nothing was sent.
    pub status: Option<StatusCode>,
    /// When the head went out.
    pub head: Ticks,
    /// Its fields, where somebody looks.
    pub fields: Option<HeaderMap>,
    /// When it was out.
    pub ended: Ticks,
    /// Bytes of the body.
    pub bytes: u64,
    /// Why it is not whole, or not of the guest.
    pub failure: Option<&'static str>,
}

/// One hostcall, or several like it in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which: a number of [`Hostcalls`](crate::telemetry::hostcalls::Hostcalls).
    pub function: u16,
    /// What it came to: a number likewise.
    pub status: u8,
    /// Whether something was sent by it: then it stays by itself, and has a span.
    pub sent: bool,
    /// Whether it may wait.
    pub waits: bool,
    /// How many there are.
    pub count: u32,
    /// Their first argument: mostly a handle.
    pub handle: u32,
    /// Bytes that went to or from the guest's memory.
    pub bytes: u32,
    /// Linear memory at the end, in pages of 64 KiB.
    pub pages: u32,
    /// When the first began.
    pub begun: Ticks,
    /// When the last ended.
    pub ended: Ticks,
    /// Time within, in ticks.
    pub time: u64,
    /// The first name among its arguments: its number in [`Ran::names`] plus one; 0: none.
    pub name: u16,
}

/// The guest's work for the request.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// When it got the request.
    pub begun: Ticks,
    /// When it was through with it.
    pub ended: Ticks,
    /// CPU time.
    pub cpu: Duration,
    /// Linear memory at the end, in bytes.
    pub memory: usize,
    /// Whether the sandbox was made for it.
    pub cold: bool,
    /// How it ended, and the detail.
    pub outcome: Option<(&'static str, String)>,
    /// What it called.
    pub calls: Vec<Call>,
    /// Names that calls were given: of stores, backends, fields, keys.
    pub names: Vec<Box<str>>,
    /// Calls that are not among them.
    pub dropped: u32,
    /// Calls in all.
    pub count: u32,
    /// Time within all calls, in ticks.
    pub time: u64,
}

/// One attempt to send a request to a backend.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Its span.
    pub span: SpanId,
    /// The hostcall that it is for; none: it is the host's own.
    pub call: Option<u32>,
    /// The span of the guest's that it is for.
    pub parent: Option<SpanId>,
    /// A span of another trace that the guest named in it.
    pub link: Option<Remote>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Whether it speaks TLS.
    pub secure: bool,
    /// Its host and port.
    pub host: (String, u16),
    /// The request's method.
    pub method: Method,
    /// Authority and path, as they go out.
    pub authority: String,
    /// Path and query as they go out.
    pub target: String,
    /// How many attempts were before.
    pub resend: u32,
    /// When it began.
    pub begun: Ticks,
    /// When its host's addresses were known, of a new connection.
    pub resolved: Option<Ticks>,
    /// When one of them answered, likewise: behind it comes TLS.
    pub reached: Option<Ticks>,
    /// When there was a connection.
    pub connected: Option<Ticks>,
    /// Whether that had been used before.
    pub reused: bool,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// The version of HTTP.
    pub version: Version,
    /// When the response's head came, and its status.
    pub answered: Option<(Ticks, StatusCode)>,
    /// Bytes of the response's body so far.
    pub bytes: u64,
    /// Why it failed: the ABI's name, and the detail.
    pub failure: Option<(&'static str, String)>,
    /// When it was over.
    pub ended: Option<Ticks>,
    /// The request's fields, where somebody looks.
    pub fields: Option<HeaderMap>,
    /// The response's likewise.
    pub response_fields: Option<HeaderMap>,
}

impl Ran {
    /// The name that a call was given.
    pub fn name(&self, call: &Call) -> Option<&str> {
        self.names.get(usize::from(call.name).checked_sub(1)?).map(|name| &**name)
    }
}

impl Attempted {
    /// Its URL, without credentials; of its query, what may be seen.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let target = match self.target.split_once('?') {
            Some((path, query)) => format!("{path}?{}", redacted(query)),
            None => self.target.clone(),
        };
        format!("{scheme}://{}{target}", self.authority)
    }
}

/// What the cache said.
#[derive(Clone, Debug)]
pub struct Looked {
    /// When.
    pub at: Ticks,
    /// Method and address.
    pub about: Arc<str>,
    /// `hit`, `miss`, …
    pub answer: &'static str,
    /// What was done with a response from the backend, and why.
    pub action: Option<(&'static str, &'static str)>,
}

/// A fault on purpose, of a request to a backend.
#[derive(Clone, Debug)]
pub struct Injected {
    /// When.
    pub at: Ticks,
    /// The backend's name.
    pub backend: Arc<str>,
    /// `latency`, `failure`, …
    pub fault: &'static str,
}

/// Everything about one request.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The request.
    pub asked: Asked,
    /// Whose it was.
    pub service: Option<Arc<Service>>,
    /// What came of it.
    pub answered: Answered,
    /// The guest's part.
    pub ran: Option<Ran>,
    /// Faults on purpose.
    pub faults: Vec<Injected>,
    /// Requests to backends.
    pub attempts: Vec<Attempted>,
    /// Attempts that are not among them.
    pub attempts_dropped: u32,
    /// What the cache said.
    pub looked: Vec<Looked>,
}
