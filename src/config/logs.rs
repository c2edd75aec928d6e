//! Log endpoints: where the records that guests write to them go. Decided values.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a log endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKind {
    /// The process log, as endpoints are that are not configured.
    Log,
    /// Standard output, a line of JSON for each record.
    Stdout,
    /// Standard error, a line of JSON for each record.
    Stderr,
    /// A file, a line of JSON for each record; a new one is begun when it has grown.
    File,
    /// Syslog (RFC 5424).
    Syslog,
    /// Batches of JSON lines by HTTP.
    Http,
    /// OTLP logs by HTTP, as JSON.
    Otlp,
    /// A stream of Redis.
    Redis,
}

/// Syslog's facilities (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are syslog's")]
pub enum Facility {
    User = 1,
    Daemon = 3,
    #[default]
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

/// A log endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogEndpoint {
    /// Where its records go.
    pub sink: Sink,
    /// Records that may wait.
    pub queue: usize,
    /// Records that go out at once at most.
    pub batch: usize,
    /// For how long records are gathered.
    pub flush: Duration,
}

impl LogEndpoint {
    /// Records that may wait, if nothing is said.
    pub const QUEUE: usize = 10_000;
    /// Records that go out at once, if nothing is said.
    pub const BATCH: usize = 500;
    /// How long they are gathered, if nothing is said.
    pub const FLUSH: Duration = Duration::from_secs(1);

    /// The file with its credentials and that with its roots, if it has them.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let (first, second) = match &self.sink {
            Sink::Syslog(syslog) => (syslog.ca.as_ref(), None),
            Sink::Http(http) | Sink::Otlp(http) => (http.ca.as_ref(), http.authorization.as_ref()),
            Sink::Log | Sink::Stdout | Sink::Stderr | Sink::File(_) | Sink::Redis { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as the kinds")]
pub enum Sink {
    Log,
    Stdout,
    Stderr,
    File(FileSink),
    Syslog(SyslogSink),
    Http(HttpSink),
    Otlp(HttpSink),
    /// Of the host's Redis.
    Redis {
        /// Its key; `None`: named after service and endpoint.
        stream: Option<String>,
        /// About how many records it keeps.
        max_records: u64,
    },
}

/// A file that is rotated by size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSink {
    /// The newest one; older ones have `.1`, `.2`, … behind.
    pub path: PathBuf,
    /// Bytes above which a new one is begun.
    pub max_bytes: u64,
    /// How many older ones are kept.
    pub keep: u32,
}

/// How syslog is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Transport {
    /// RFC 5426.
    Udp,
    /// RFC 6587, octet counting.
    Tcp,
    /// RFC 5425.
    Tls,
}

/// A syslog server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyslogSink {
    /// How it is spoken to.
    pub transport: Transport,
    /// A name or an address.
    pub host: String,
    /// UDP or TCP port.
    pub port: u16,
    /// Where its records belong.
    pub facility: Facility,
    /// Roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// Who takes batches by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpSink {
    /// `http` or `https`.
    #[serde(serialize_with = "super::secret::place")]
    pub url: String,
    /// Beside the usual ones.
    pub headers: Vec<(String, Secret)>,
    /// A file with the value of `authorization`.
    pub authorization: Option<PathBuf>,
    /// Roots to trust instead of the system's.
    pub ca: Option<PathBuf>,
}
