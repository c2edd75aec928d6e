//! Named log endpoints: one write is one record, on the process log under the target
//! `sidelight::guest_log`.

use std::sync::Arc;

use prometheus::IntCounter;

use crate::telemetry::{LogTap, Telemetry};

/// Longest endpoint name, in bytes.
pub const MAX_NAME: usize = 256;

/// Longest record kept; the rest is cut and said so. Fastly's own sinks cut at 64 KiB.
pub const MAX_RECORD: usize = 64 << 10;

/// Why an endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `stdout`, `stderr` and `fst_managed_*` are the platform's.
    #[error("`{0}` is a reserved log endpoint name")]
    Reserved(String),
    /// Not UTF-8, or empty.
    #[error("a log endpoint's name is text")]
    InvalidName,
    /// Over [`MAX_NAME`].
    #[error("a log endpoint's name has at most {MAX_NAME} bytes")]
    NameTooLong,
}

/// All endpoints: any name will do.
pub struct Endpoints {
    written: IntCounter,
    tap: Option<LogTap>,
}

/// One endpoint, by name.
#[derive(Clone, Debug)]
pub struct Endpoint {
    name: Arc<str>,
}

impl Endpoints {
    /// Endpoints that count into `telemetry`.
    pub fn new(telemetry: &Telemetry) -> Self {
        Self { written: telemetry.metrics.log_records.with_label_values(&["written"]), tap: telemetry.log_tap.clone() }
    }

    /// The endpoint of that name.
    pub fn get(&self, name: &[u8]) -> Result<Endpoint, Error> {
        if name.len() > MAX_NAME {
            return Err(Error::NameTooLong);
        }
        let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty()).ok_or(Error::InvalidName)?;
        let lower = name.to_ascii_lowercase();
        if lower == "stdout" || lower == "stderr" || lower.starts_with("fst_managed_") {
            return Err(Error::Reserved(name.to_owned()));
        }
        Ok(Endpoint { name: name.into() })
    }

    /// Writes one record, for the request `request_id`.
    pub fn write(&self, endpoint: &Endpoint, request_id: &str, record: &[u8]) {
        self.written.inc();
        if let Some(tap) = &self.tap {
            tap(&endpoint.name, request_id, record);
        }
        let (record, cut) = match record.get(..MAX_RECORD) {
            Some(head) => (head, record.len() - head.len()),
            None => (record, 0),
        };
        let text = String::from_utf8_lossy(record);
        let text = text.trim_end_matches('\n');
        if cut > 0 {
            tracing::info!(target: "sidelight::guest_log", endpoint = &*endpoint.name, request_id, cut_bytes = cut, "{text}");
        } else {
            tracing::info!(target: "sidelight::guest_log", endpoint = &*endpoint.name, request_id, "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        let endpoints = Endpoints::new(&Telemetry::new());
        for name in ["stdout", "STDERR", "fst_managed_x"] {
            assert!(matches!(endpoints.get(name.as_bytes()), Err(Error::Reserved(_))), "{name}");
        }
        assert!(matches!(endpoints.get(b""), Err(Error::InvalidName)));
        assert!(matches!(endpoints.get(&[b'x'; 257]), Err(Error::NameTooLong)));
        assert!(endpoints.get(b"events").is_ok());
    }
}
