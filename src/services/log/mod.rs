//! Named log endpoints: one write is one record. An endpoint that is not configured writes to the process log, under the
//! target `sidelight::guest_log`; the others have a bounded queue each, and a task that delivers what is in it. A guest
//! never waits for them: what finds no room is dropped and counted.

mod queue;
mod sinks;
mod syslog;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounter;

use super::{BuildError, Platform};
use tracing::field;

use crate::config::Config;
use crate::config::logs::Sink;
use crate::telemetry::trace::context::Remote;
use crate::telemetry::{LogTap, clock, logs};

pub use queue::Queue;

/// Longest endpoint name, in bytes.
pub const MAX_NAME: usize = 256;

/// Longest record kept; the rest is cut and said so. Fastly's own sinks cut at 64 KiB.
pub const MAX_RECORD: usize = 64 << 10;

/// What the configuration calls all endpoints that it does not name.
const OTHERS: &str = "*";

/// Why an endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `stdout`, `stderr` and `fst_managed_*` are the platform's.
    #[error("`{0}` is a reserved log endpoint name")]
    Reserved(String),
    /// Not UTF-8, empty, or with a line break or a colon (fastly:compute WIT, `log`).
    #[error("a log endpoint's name is text without line breaks and colons")]
    InvalidName,
    /// Over [`MAX_NAME`].
    #[error("a log endpoint's name has at most {MAX_NAME} bytes")]
    NameTooLong,
}

/// What a guest has written.
#[derive(Clone, Debug)]
pub struct Record {
    /// Since the epoch.
    pub at: Duration,
    /// Its endpoint.
    pub endpoint: Arc<str>,
    /// Of the request it was written for.
    pub request_id: Box<str>,
    /// The span of the guest that wrote it, if its request has a trace that others know.
    pub span: Option<Remote>,
    /// At most [`MAX_RECORD`] bytes.
    pub content: Bytes,
    /// Bytes that were cut off.
    pub cut: usize,
}

/// All endpoints: any name will do.
pub struct Endpoints {
    service: Arc<str>,
    written: IntCounter,
    tap: Option<LogTap>,
    queues: HashMap<String, Arc<Queue>>,
}

/// One endpoint, by name.
#[derive(Clone, Debug)]
pub struct Endpoint {
    name: Arc<str>,
    queue: Option<Arc<Queue>>,
}

impl Endpoints {
    /// Those of `config`. The ones that are as they were in `previous` go on, with what waits in them.
    pub fn build(config: &Config, previous: Option<&Self>, platform: &Platform) -> Result<Self, Vec<BuildError>> {
        let service: Arc<str> = config.name.as_str().into();
        let mut queues = HashMap::new();
        let mut errors = Vec::new();
        for (name, settings) in config.logs.iter().filter(|(_, settings)| settings.sink != Sink::Log) {
            let before = previous.and_then(|previous| previous.queues.get(name)).filter(|_| !platform.is_trial());
            match Queue::open(&service, name, settings, config, before, platform) {
                Ok(queue) => drop(queues.insert(name.clone(), queue)),
                Err(source) => errors.push(BuildError::Data { what: format!("log endpoint `{name}`"), source }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let telemetry = &platform.telemetry;
        Ok(Self { service, written: telemetry.metrics.log_records.with_label_values(&["written"]), tap: telemetry.log_tap.clone(), queues })
    }

    /// The endpoint of that name.
    pub fn get(&self, name: &[u8]) -> Result<Endpoint, Error> {
        if name.len() > MAX_NAME {
            return Err(Error::NameTooLong);
        }
        let name =
            std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(['\n', ':'])).ok_or(Error::InvalidName)?;
        let lower = name.to_ascii_lowercase();
        if lower == "stdout" || lower == "stderr" || lower.starts_with("fst_managed_") {
            return Err(Error::Reserved(name.to_owned()));
        }
        let queue = self.queues.get(name).or_else(|| self.queues.get(OTHERS)).cloned();
        Ok(Endpoint { name: name.into(), queue })
    }

    /// Writes one record, for the request `request_id`, by a guest of this span. An empty one is none.
    pub fn write(&self, endpoint: &Endpoint, request_id: &str, span: Option<Remote>, record: &[u8]) {
        if record.is_empty() {
            return;
        }
        if let Some(tap) = &self.tap {
            tap(&endpoint.name, request_id, record);
        }
        let (record, cut) = match record.get(..MAX_RECORD) {
            Some(head) => (head, record.len() - head.len()),
            None => (record, 0),
        };
        if let Some(queue) = &endpoint.queue {
            queue.put(Record {
                at: clock::unix(),
                endpoint: endpoint.name.clone(),
                request_id: request_id.into(),
                span,
                content: Bytes::copy_from_slice(record),
                cut,
            });
            return;
        }
        self.written.inc();
        let text = String::from_utf8_lossy(record);
        let text = logs::one_line(text.trim_end_matches('\n'));
        let (service, endpoint) = (&*self.service, &*endpoint.name);
        let trace_id = span.map(|span| field::display(span.trace));
        let cut_bytes = (cut > 0).then_some(cut);
        tracing::info!(target: "sidelight::guest_log", endpoint, service, request_id, trace_id, cut_bytes, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        let platform = Platform::for_trial(&Telemetry::new()).expect("a platform");
        let endpoints = Endpoints::build(&Config::bare(), None, &platform).unwrap_or_else(|_| panic!("builds"));
        for name in ["stdout", "STDERR", "fst_managed_x"] {
            assert!(matches!(endpoints.get(name.as_bytes()), Err(Error::Reserved(_))), "{name}");
        }
        for name in ["", "a:b", "a\nb"] {
            assert!(matches!(endpoints.get(name.as_bytes()), Err(Error::InvalidName)), "{name:?}");
        }
        assert!(matches!(endpoints.get(&[b'x'; 257]), Err(Error::NameTooLong)));
        assert!(endpoints.get(b"events").is_ok());
    }
}
