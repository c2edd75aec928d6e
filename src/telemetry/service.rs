//! The metrics of one service, found once and not with every request.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use ::http::{Method, StatusCode};
use parking_lot::Mutex;

use super::metrics::Metrics;
use super::sharded::{Count, Times};
use super::trace::Trace;

/// Services that have series of their own; more share one name. A process serves as many as it is told to, and names come and
/// go with preview environments; series never go.
const MAX_SERVICES: usize = 1000;

/// The name they share.
const OTHER: &str = "_other";

/// Methods that have series of their own, and what all others are.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "_OTHER"];

/// How guests end.
const OUTCOMES: [&str; 7] = ["finished", "exited", "trapped", "cpu_limit", "wall_limit", "memory_limit", "host_failed"];

/// Statuses whose counters are at hand.
const STATUSES: [u16; 32] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 414, 416, 418, 422, 429,
    431, 500, 502, 503, 504,
];

/// Names that have series.
#[derive(Default)]
pub(super) struct Names(Mutex<BTreeSet<String>>);

impl Names {
    /// The label of a name, and whether that is its own.
    fn label<'a>(&self, name: &'a str) -> (&'a str, bool) {
        let mut names = self.0.lock();
        if names.contains(name) {
            return (name, true);
        }
        if names.len() >= MAX_SERVICES {
            return (OTHER, false);
        }
        names.insert(name.to_owned());
        (name, true)
    }
}

type ByStatus = Box<[OnceLock<Count>; STATUSES.len()]>;

/// The metrics of one service.
pub struct ServiceMetrics {
    /// Its label.
    pub name: String,
    /// By method and status, as they come.
    requests: [OnceLock<ByStatus>; METHODS.len()],
    /// Time of its requests.
    pub duration: Times,
    /// CPU time of its guests.
    pub cpu: Times,
    /// Memory of its guests.
    pub memory: Times,
    /// Its guests that came to their end.
    pub finished: Count,
}

impl Metrics {
    /// Those of a service.
    pub fn service(&self, name: &str) -> ServiceMetrics {
        let (label, own) = self.names.label(name);
        if !own {
            self.services_unnamed.inc();
        }
        // Counters that begin with their first event have no rate then.
        if label != "_none" {
            OUTCOMES.iter().for_each(|outcome| drop(self.guests.with_label_values(&[label, outcome])));
        }
        ServiceMetrics {
            name: label.to_owned(),
            requests: [const { OnceLock::new() }; METHODS.len()],
            duration: self.times(self.request_duration.with_label_values(&[label])),
            cpu: self.times(self.guest_cpu.with_label_values(&[label])),
            memory: self.times(self.guest_memory.with_label_values(&[label])),
            finished: self.count(self.guests.with_label_values(&[label, "finished"])),
        }
    }

    /// The label of a service's name.
    pub fn label<'a>(&self, name: &'a str) -> &'a str {
        self.names.label(name).0
    }
}

impl ServiceMetrics {
    /// Notes how long a request took, in seconds; of one whose trace is kept, with that as an example.
    pub fn timed(&self, metrics: &Metrics, seconds: f64, trace: Option<&Trace>) {
        self.duration.observe(seconds);
        if let Some(trace) = trace.filter(|trace| trace.is_sampled()) {
            metrics.exemplars.note("sidelight_request_duration_seconds", &[("service", &self.name)], seconds, trace.id());
        }
    }

    /// Counts a request that has been answered.
    pub fn answered(&self, metrics: &Metrics, method: &Method, status: StatusCode) {
        let number = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let find = || metrics.requests.with_label_values(&[&self.name, METHODS[number], status.as_str()]);
        let shard = || metrics.count(find());
        match STATUSES.binary_search(&status.as_u16()) {
            Ok(at) => {
                let of_method = self.requests[number].get_or_init(|| Box::new([const { OnceLock::new() }; STATUSES.len()]));
                of_method[at].get_or_init(shard).inc();
            }
            Err(_) => find().inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::Format;

    #[test]
    fn methods_and_statuses() {
        assert!(STATUSES.is_sorted());
        let metrics = Metrics::new();
        let service = metrics.service("a");
        for (method, status) in [("GET", 200), ("GET", 200), ("BREW", 418), ("GET", 299)] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            service.answered(&metrics, &method, StatusCode::from_u16(status).expect("a status"));
        }
        let text = metrics.text(Format::Text);
        for line in [
            "sidelight_requests_total{code=\"200\",method=\"GET\",service=\"a\"} 2",
            "sidelight_requests_total{code=\"418\",method=\"_OTHER\",service=\"a\"} 1",
            "sidelight_requests_total{code=\"299\",method=\"GET\",service=\"a\"} 1",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn names_without_end() {
        let metrics = Metrics::new();
        for i in 0..MAX_SERVICES * 2 {
            let service = metrics.service(&format!("preview-{i}\"\n\\"));
            service.answered(&metrics, &Method::GET, StatusCode::OK);
        }
        assert_eq!(metrics.service("preview-0\"\n\\").name, "preview-0\"\n\\");
        assert_eq!(metrics.service("one more").name, OTHER);
        let text = metrics.text(Format::Text);
        assert_eq!(text.lines().filter(|line| line.starts_with("sidelight_requests_total{")).count(), MAX_SERVICES + 1);
        assert!(text.contains(&format!("service=\"_other\"}} {MAX_SERVICES}\n")));
    }
}
