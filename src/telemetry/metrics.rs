//! Every metric of the program, declared once with its help text.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::logs;

/// All metric families. Labels are closed sets, except `backend`, which is bounded by the manifest.
pub struct Metrics {
    registry: Registry,
    /// Answered requests by status code.
    pub requests: IntCounterVec,
    /// Requests being answered.
    pub requests_in_flight: IntGauge,
    /// Time from the request head to the last byte of the response.
    pub request_duration: Histogram,
    /// How guests ended.
    pub guests: IntCounterVec,
    /// Sandboxes that exist now.
    pub sandboxes: IntGauge,
    /// Sandboxes that wait for another request.
    pub sandboxes_waiting: IntGauge,
    /// Requests that a sandbox served after its first.
    pub sandboxes_reused: IntCounter,
    /// CPU time of a guest for one request.
    pub guest_cpu: Histogram,
    /// Requests above production's CPU limit.
    pub guest_cpu_over: IntCounter,
    /// Requests with more requests to backends than production allows.
    pub guest_sends_over: IntCounter,
    /// Requests that made more dynamic backends than production allows.
    pub guest_backends_over: IntCounter,
    /// Guests that moved to the threads of heavy guests.
    pub guests_heavy: IntCounter,
    /// Heads with more header fields than production takes: `head` is `request` (from clients) or `response` (from
    /// backends).
    pub fields_over: IntCounterVec,
    /// Changes of the configuration that were tried, by result: `ok`, `unchanged`, `failed`.
    pub reloads: IntCounterVec,
    /// Whether the last change that was tried is in force.
    pub reload_successful: IntGauge,
    /// When a configuration last came into force.
    pub reload_success_time: IntGauge,
    /// The generation that is in force.
    pub generation: IntGauge,
    /// Requests that were answered 503 because no sandbox came free in time.
    pub overloaded: IntCounter,
    /// Lines of the log that could not be written.
    log_lines_lost: IntCounter,
    /// Time to make a sandbox.
    pub instantiate: Histogram,
    /// Hostcalls by status.
    pub hostcalls: IntCounterVec,
    /// Requests to backends by result: `ok` or the send error's name.
    pub backend_requests: IntCounterVec,
    /// Connections to backends: new or reused.
    pub backend_connections: IntCounterVec,
    /// Backends that are checked: 1 healthy, 0 not.
    pub backend_healthy: IntGaugeVec,
    /// TLS handshakes with clients that failed.
    pub tls_handshakes_failed: IntCounter,
    /// Readings of changed certificate files: `result` is `ok` or `error`.
    pub tls_renewals: IntCounterVec,
    /// Open client connections.
    pub connections: IntGauge,
    /// Client connections that a backend has taken over.
    pub connections_upgraded: IntGauge,
    /// Records that guests wrote to log endpoints, by what became of them: `written`, `dropped` (no room), `failed`.
    pub log_records: IntCounterVec,
    /// Time of an operation of a store, by its kind, where it is kept, and the operation.
    pub store_time: HistogramVec,
    /// Operations of stores that did not do what they were asked.
    pub store_errors: IntCounterVec,
    /// Whether what state is kept in can be used: `part` is `redis`.
    pub state_up: IntGaugeVec,
    /// Requests that looked up more entries of config stores than production allows.
    pub guest_lookups_over: IntCounter,
    /// Lookups in the cache: `face` is `core` or `http`, `result` is `hit`, `stale`, `miss` or `pass`.
    pub cache_lookups: IntCounterVec,
    /// Objects that left the cache's memory for want of room.
    pub cache_evictions: IntCounter,
    /// Objects that were too large to be cached.
    pub cache_refusals: IntCounter,
    /// Purges: `kind` is `hard`, `soft`, `url` or `all`.
    pub cache_purges: IntCounterVec,
    /// Writes of cached objects to disk that failed.
    pub cache_disk_errors: IntCounter,
    /// Bytes of the cache: `tier` is `memory` or `disk`.
    pub cache_bytes: IntGaugeVec,
    /// Objects in the cache, likewise.
    pub cache_objects: IntGaugeVec,
}

/// Seconds, from what a hit costs to production's wall limit.
const DURATION_BUCKETS: [f64; 14] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
const STORE_BUCKETS: [f64; 11] = [0.000_001, 0.000_005, 0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0];
const INSTANTIATE_BUCKETS: [f64; 8] = [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.001, 0.01, 0.1];

impl Metrics {
    /// Declares every family in a registry of its own.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            requests: counters(r, "sidelight_requests_total", "Requests answered, by status code.", &["code"]),
            requests_in_flight: gauge(r, "sidelight_requests_in_flight", "Requests being answered now."),
            request_duration: histogram(
                r,
                "sidelight_request_duration_seconds",
                "Time from the request head to the last byte of the response.",
                &DURATION_BUCKETS,
            ),
            guests: counters(r, "sidelight_guests_total", "Guest executions, by how they ended.", &["outcome"]),
            sandboxes: gauge(r, "sidelight_sandboxes", "Sandboxes that exist now."),
            sandboxes_waiting: gauge(r, "sidelight_sandboxes_waiting", "Sandboxes that wait for another request."),
            sandboxes_reused: counter(r, "sidelight_sandboxes_reused_total", "Requests that a sandbox served after its first."),
            guest_cpu: histogram(r, "sidelight_guest_cpu_seconds", "CPU time of a guest for one request.", &DURATION_BUCKETS),
            guest_sends_over: counter(
                r,
                "sidelight_guest_backend_requests_over_production_total",
                "Requests that led to more requests to backends than production allows.",
            ),
            guest_backends_over: counter(
                r,
                "sidelight_guest_dynamic_backends_over_production_total",
                "Requests that made more dynamic backends than production allows.",
            ),
            guest_cpu_over: counter(r, "sidelight_guest_cpu_over_production_total", "Requests above production's CPU limit."),
            guests_heavy: counter(r, "sidelight_guests_heavy_total", "Guest executions that moved to the threads of heavy guests."),
            fields_over: counters(
                r,
                "sidelight_header_fields_over_production_total",
                "Heads with more header fields than production takes.",
                &["head"],
            ),
            reloads: counters(r, "sidelight_config_reloads_total", "Changes of the configuration that were tried.", &["result"]),
            reload_successful: gauge(r, "sidelight_config_last_reload_successful", "Whether the last change that was tried is in force."),
            reload_success_time: gauge(
                r,
                "sidelight_config_last_reload_success_timestamp_seconds",
                "When a configuration last came into force, in seconds since the epoch.",
            ),
            generation: gauge(r, "sidelight_config_generation", "Counts the configurations that came into force."),
            overloaded: counter(r, "sidelight_requests_overloaded_total", "Requests answered 503 because no sandbox came free in time."),
            log_lines_lost: counter(r, "sidelight_log_lines_lost_total", "Lines of the log that could not be written."),
            instantiate: histogram(
                r,
                "sidelight_guest_instantiate_seconds",
                "Time to make a sandbox from a compiled module.",
                &INSTANTIATE_BUCKETS,
            ),
            hostcalls: counters(r, "sidelight_hostcalls_total", "Calls of the guest ABI, by status.", &["interface", "function", "status"]),
            backend_requests: counters(r, "sidelight_backend_requests_total", "Requests to backends, by result.", &["backend", "result"]),
            backend_connections: counters(
                r,
                "sidelight_backend_connections_total",
                "Connections used for backend requests: new or reused.",
                &["backend", "kind"],
            ),
            backend_healthy: register(
                r,
                IntGaugeVec::new(Opts::new("sidelight_backend_healthy", "Whether a backend with a health check is healthy."), &["backend"]),
            ),
            tls_handshakes_failed: counter(r, "sidelight_tls_handshakes_failed_total", "TLS handshakes with clients that failed."),
            tls_renewals: counters(r, "sidelight_tls_renewals_total", "Readings of changed certificate files.", &["result"]),
            connections: gauge(r, "sidelight_connections", "Open client connections."),
            connections_upgraded: gauge(
                r,
                "sidelight_connections_upgraded",
                "Client connections that a backend has taken over (WebSockets).",
            ),
            log_records: counters(
                r,
                "sidelight_log_records_total",
                "Records guests wrote to log endpoints, by what became of them.",
                &["result"],
            ),
            store_time: register(
                r,
                HistogramVec::new(
                    HistogramOpts::new("sidelight_store_operation_seconds", "Time of operations of stores.")
                        .buckets(STORE_BUCKETS.to_vec()),
                    &["store", "keep", "operation"],
                ),
            ),
            store_errors: counters(
                r,
                "sidelight_store_errors_total",
                "Operations of stores that did not do what they were asked.",
                &["store", "keep", "operation", "error"],
            ),
            state_up: register(
                r,
                IntGaugeVec::new(Opts::new("sidelight_state_up", "Whether what shared state is kept in can be reached."), &["part"]),
            ),
            guest_lookups_over: counter(
                r,
                "sidelight_guest_config_lookups_over_production_total",
                "Requests that looked up more entries of config stores than production allows.",
            ),
            cache_lookups: counters(r, "sidelight_cache_lookups_total", "Lookups in the cache.", &["face", "result"]),
            cache_evictions: counter(r, "sidelight_cache_evictions_total", "Objects that left the cache's memory for want of room."),
            cache_refusals: counter(r, "sidelight_cache_too_large_total", "Objects that were too large to be cached."),
            cache_purges: counters(r, "sidelight_cache_purges_total", "Purges of cached objects.", &["kind"]),
            cache_disk_errors: counter(r, "sidelight_cache_disk_errors_total", "Writes of cached objects to disk that failed."),
            cache_bytes: register(r, IntGaugeVec::new(Opts::new("sidelight_cache_bytes", "Bytes of cached objects."), &["tier"])),
            cache_objects: register(r, IntGaugeVec::new(Opts::new("sidelight_cache_objects", "Objects in the cache."), &["tier"])),
            registry,
        }
    }

    /// The text exposition format, version 0.0.4.
    pub fn text(&self) -> String {
        self.log_lines_lost.inc_by(logs::lost().saturating_sub(self.log_lines_lost.get()));
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::expect_used, reason = "names are literals of this file; a bad one fails the first test")]
fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a valid metric");
    registry.register(Box::new(collector.clone())).expect("a new metric");
    collector
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

/// Counts something while it lives.
pub struct Held(IntGauge);

impl Held {
    /// Adds one to the gauge until dropped.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_exported_with_help() {
        let metrics = Metrics::new();
        metrics.requests.with_label_values(&["200"]).inc();
        let held = Held::new(&metrics.sandboxes);
        assert!(metrics.text().contains("# HELP sidelight_requests_total "));
        assert!(metrics.text().contains("sidelight_requests_total{code=\"200\"} 1"));
        assert!(metrics.text().contains("sidelight_sandboxes 1"));
        drop(held);
        assert!(metrics.text().contains("sidelight_sandboxes 0"));
    }
}
