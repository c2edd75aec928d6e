//! Faults on purpose: `[sidelight.backends.NAME.faults]`, and the same as JSON from operators.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a backend does to requests on purpose. Shares are percentages, spread evenly: 25 is every fourth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Milliseconds that a request waits before it is sent. Default: none.
    #[serde(skip_serializing_if = "is_none")]
    pub latency_ms: u64,
    /// Milliseconds that it waits beyond that at most, by chance. Default: none.
    #[serde(skip_serializing_if = "is_none")]
    pub jitter_ms: u64,
    /// Share of requests that are answered with `status` and do not reach the backend. Default: 0.
    #[schemars(range(max = 100))]
    #[serde(skip_serializing_if = "is_none")]
    pub errors: u64,
    /// What those are answered: 200 to 599. Default: 503.
    #[schemars(range(min = 200, max = 599))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Share of requests that fail as `failure` says and do not reach the backend. Default: 0.
    #[schemars(range(max = 100))]
    #[serde(skip_serializing_if = "is_none")]
    pub failures: u64,
    /// How those fail. Default: `connection_terminated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Share of responses whose body breaks off. Default: 0.
    #[schemars(range(max = 100))]
    #[serde(skip_serializing_if = "is_none")]
    pub resets: u64,
    /// Bytes of such a body that come before. Default: 0.
    #[serde(skip_serializing_if = "is_none")]
    pub reset_after: u64,
    /// Bytes of a body that pass in a second, each way, for each request. Default: no limit.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

/// How a request fails, by the names that `SendErrorDetail` and metrics have. One that runs into a timeout takes as long as that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The name does not resolve.
    DnsError,
    /// The name does not resolve in time.
    DnsTimeout,
    /// There is no way to the address.
    DestinationIpUnroutable,
    /// Nobody listens.
    ConnectionRefused,
    /// No connection within the connect timeout.
    ConnectionTimeout,
    /// The connection ends before the response.
    #[default]
    ConnectionTerminated,
    /// The certificate is not acceptable.
    TlsCertificateError,
    /// No response within the first-byte timeout.
    HttpResponseTimeout,
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

impl Faults {
    /// The status of what is answered in place of the backend.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(503)
    }

    /// Time that every request waits.
    pub fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms)
    }

    /// Whether they leave every request as it is.
    pub fn is_none(&self) -> bool {
        self.latency_ms == 0
            && self.jitter_ms == 0
            && self.errors == 0
            && self.failures == 0
            && self.resets == 0
            && self.bandwidth.is_none()
    }

    /// What makes them impossible, and what would be possible.
    pub fn impossible(&self) -> Option<(String, &'static str)> {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let share =
            [("errors", self.errors), ("failures", self.failures), ("resets", self.resets)].into_iter().find(|(_, share)| *share > 100);
        if let Some((name, share)) = share {
            return Some((format!("{name} is a share of 100, and not {share}"), "0 to 100"));
        }
        if let Some(status) = self.status.filter(|status| !(200..600).contains(status)) {
            return Some((format!("{status} is no status of a final response"), "200 to 599"));
        }
        if self.bandwidth == Some(0) {
            return Some(("with a bandwidth of 0 nothing ever passes".to_owned(), "bytes a second, at least 1; leave it out for no limit"));
        }
        let time = [("latency_ms", self.latency_ms), ("jitter_ms", self.jitter_ms)].into_iter().find(|(_, time)| *time > DAY);
        time.map(|(name, time)| (format!("{name} of {time} is more than a day"), "milliseconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Faults {
        serde_json::from_str(text).expect("faults")
    }

    #[test]
    fn what_cannot_be() {
        for (text, about) in [
            (r#"{"errors": 101}"#, "errors is a share of 100, and not 101"),
            (r#"{"resets": 1000}"#, "resets is a share of 100, and not 1000"),
            (r#"{"status": 100}"#, "100 is no status of a final response"),
            (r#"{"bandwidth": 0}"#, "with a bandwidth of 0 nothing ever passes"),
            (r#"{"jitter_ms": 99999999999}"#, "jitter_ms of 99999999999 is more than a day"),
        ] {
            assert_eq!(read(text).impossible().expect(text).0, about);
        }
        assert_eq!(read(r#"{"errors": 100, "status": 599, "bandwidth": 1}"#).impossible(), None);
    }

    #[test]
    fn only_what_was_said_is_shown() {
        for text in ["{}", r#"{"latency_ms":5,"failures":3,"failure":"dns_timeout"}"#] {
            assert_eq!(serde_json::to_string(&read(text)).expect("JSON"), text);
        }
    }
}
