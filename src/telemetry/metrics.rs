//! Every metric of the program, declared once: its name, what it counts, its labels and what they may be. The reference
//! in `docs/observability.md` is made of the same table.

use std::borrow::Borrow;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::exemplars::Exemplars;
use super::exposition::{self, Format};
use super::hostcalls::{self, Exported, Hostcalls};
use super::logs;
use super::process::Process;
use super::service::Names;
use super::sharded::{Count, Shards, Times};

/// Seconds, from what a hit costs to production's wall limit.
const DURATIONS: &[f64] = &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// As of requests, with more between: what is behind a network.
const BACKENDS: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
const STORES: &[f64] = &[0.000_001, 0.000_005, 0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0];
const INSTANTIATIONS: &[f64] = &[0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.001, 0.01, 0.1];
const HOSTCALLS: &[f64] = hostcalls::BOUNDS;
/// Bytes.
const MEMORY: &[f64] = &[1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6, 128e6];
const LOADS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];
/// For what is no histogram.
const NONE: &[f64] = &[];

/// A metric family as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name: base units, `_total` for counters.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Its labels, and what each of them may be. Closed sets, or bounded by the configuration.
    pub labels: &'static [(&'static str, &'static str)],
    /// Upper bounds of a histogram's buckets.
    buckets: &'static [f64],
}

impl Family {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn histogram(&self) -> HistogramOpts {
        HistogramOpts::new(self.name, self.help).buckets(self.buckets.to_vec())
    }

    /// The names of its labels.
    pub fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|(name, _)| *name).collect()
    }
}

/// A type that a family may be of.
trait Declared: Collector + Clone + Sized + 'static {
    const KIND: &'static str;

    fn build(family: &Family, hostcalls: &Hostcalls) -> prometheus::Result<Self>;

    #[expect(clippy::expect_used, reason = "families are literals of this file; a bad one fails the first test")]
    fn declare(registry: &Registry, family: &Family, hostcalls: &Hostcalls) -> Self {
        let collector = Self::build(family, hostcalls).expect("a valid metric");
        registry.register(Box::new(collector.clone())).expect("a new metric");
        collector
    }
}

macro_rules! declared {
    ($($type:ident is $kind:literal: |$family:ident| $build:expr;)*) => {
        $(
            impl Declared for $type {
                const KIND: &'static str = $kind;

                fn build($family: &Family, _: &Hostcalls) -> prometheus::Result<Self> {
                    $build
                }
            }
        )*
    };
}

declared! {
    IntCounter is "counter": |family| Self::with_opts(family.opts());
    IntCounterVec is "counter": |family| Self::new(family.opts(), &family.label_names());
    IntGauge is "gauge": |family| Self::with_opts(family.opts());
    IntGaugeVec is "gauge": |family| Self::new(family.opts(), &family.label_names());
    Histogram is "histogram": |family| Self::with_opts(family.histogram());
    Count is "counter": |family| IntCounter::with_opts(family.opts()).map(Self::alone);
    Times is "histogram": |family| Histogram::with_opts(family.histogram()).map(Self::alone);
    HistogramVec is "histogram": |family| Self::new(family.histogram(), &family.label_names());
}

/// Counters of hostcalls.
#[derive(Clone)]
pub struct HostcallCounts(Exported);

/// Times of hostcalls.
#[derive(Clone)]
pub struct HostcallTimes(Exported);

macro_rules! of_hostcalls {
    ($($type:ident is $kind:literal: $times:literal;)*) => {
        $(
            impl Declared for $type {
                const KIND: &'static str = $kind;

                fn build(family: &Family, hostcalls: &Hostcalls) -> prometheus::Result<Self> {
                    Exported::new(hostcalls, family, $times).map(Self)
                }
            }

            impl Collector for $type {
                fn desc(&self) -> Vec<&Desc> {
                    self.0.desc()
                }

                fn collect(&self) -> Vec<MetricFamily> {
                    self.0.collect()
                }
            }
        )*
    };
}

of_hostcalls! {
    HostcallCounts is "counter": false;
    HostcallTimes is "histogram": true;
}

macro_rules! families {
    ($($field:ident: $type:ident($name:literal, $help:literal, [$($label:literal = $values:literal),*], $buckets:ident);)*) => {
        /// All metric families, each with what it says.
        pub struct Metrics {
            registry: Registry,
            /// Counts hostcalls.
            pub calls: Hostcalls,
            /// Names of services that have series.
            pub(super) names: Names,
            /// What threads count for themselves.
            pub(super) shards: Shards,
            /// Traces as examples of what histograms count.
            pub exemplars: Exemplars,
            $(
                #[doc = $help]
                pub $field: $type,
            )*
        }

        /// As they are declared, in the order of the reference.
        pub const FAMILIES: &[Family] = &[
            $(Family {
                name: $name,
                kind: <$type as Declared>::KIND,
                help: $help,
                labels: &[$(($label, $values)),*],
                buckets: $buckets,
            },)*
        ];

        impl Metrics {
            fn declare(registry: Registry) -> Self {
                let mut families = FAMILIES.iter();
                // There are as many as fields.
                let mut next = || families.next().expect("a family for each field");
                let calls = Hostcalls::default();
                Self {
                    $($field: <$type as Declared>::declare(&registry, next(), &calls),)*
                    registry,
                    calls,
                    names: Names::default(),
                    shards: Shards::default(),
                    exemplars: Exemplars::default(),
                }
            }
        }
    };
}

families! {
    requests: IntCounterVec("sidelight_requests_total", "Requests answered.", ["service" = "its name; `_none` if no service has the request's host and path, or it was none; `_other` above 1,000 services", "method" = "of RFC 9110 and 5789, else `_OTHER`", "code" = "the status"], NONE);
    requests_in_flight: IntGauge("sidelight_requests_in_flight", "Requests being answered now.", [], NONE);
    request_duration: HistogramVec("sidelight_request_duration_seconds", "Time from the request head to the last byte of the response.", ["service" = "as above"], DURATIONS);
    request_bytes: IntCounter("sidelight_request_body_bytes_total", "Bytes of requests' bodies that have come.", [], NONE);
    response_bytes: Count("sidelight_response_body_bytes_total", "Bytes of responses' bodies that have gone out.", [], NONE);
    refusals: IntCounterVec("sidelight_refusals_total", "What clients were refused.", ["reason" = "`bad_request`, `uri_too_long`, `head_too_large`, `fields_too_large`, `head_timeout`, `method_not_allowed`, `no_service`, `loop`, `overloaded` (no sandbox came free in time), `no_memory` (the process is short of it): requests; `bad_body`: bodies whose chunks or trailers are none (HTTP/1.1); `body_timeout`, `reader_timeout`: clients that did not go on to send a body or to take an answer; `tunnel_idle`, `tunnel_half_closed`: WebSockets on which nothing came either way, or on which one side had ended and the other did not follow; `h2_streams`: streams above what is worked on for one connection; `h2`: connections of HTTP/2 that break its rules or flood it (a stream with a head that is none is reset, which is not counted); `crowded`: connections that had asked for nothing for longest and ended for others, for want of file descriptors; `proxy`: connections without a PROXY header from a trusted proxy; `accept`: failures to accept a connection, for want of file descriptors for example"], NONE);
    overloaded: IntCounter("sidelight_requests_overloaded_total", "Requests answered 503 because no sandbox came free in time.", [], NONE);
    fields_over: IntCounterVec("sidelight_header_fields_over_production_total", "Heads with more bytes of header fields than production takes (69 KB).", ["head" = "`request` of a client, `response` of a backend"], NONE);
    connections: IntGauge("sidelight_connections", "Open client connections.", [], NONE);
    connections_upgraded: IntGauge("sidelight_connections_upgraded", "Client connections that a backend has taken over (WebSockets).", [], NONE);
    tls_handshakes_failed: IntCounter("sidelight_tls_handshakes_failed_total", "TLS handshakes with clients that failed.", [], NONE);
    tls_renewals: IntCounterVec("sidelight_tls_renewals_total", "Readings of certificate files that have changed.", ["result" = "`ok`, `error`"], NONE);
    guests: IntCounterVec("sidelight_guests_total", "Guest executions, by how they ended.", ["service" = "as above", "outcome" = "`finished`, `exited`, `trapped`, `cpu_limit`, `wall_limit`, `memory_limit`, `memory_short` (as `memory_limit`, but for the process's shortage), `host_failed`"], NONE);
    sandboxes: IntGauge("sidelight_sandboxes", "Sandboxes that exist now.", [], NONE);
    sandboxes_waiting: IntGauge("sidelight_sandboxes_waiting", "Sandboxes that wait for another request.", [], NONE);
    sandboxes_reused: Count("sidelight_sandboxes_reused_total", "Requests that a sandbox served after its first.", [], NONE);
    instantiate: Times("sidelight_guest_instantiate_seconds", "Time to make a sandbox from a compiled module.", [], INSTANTIATIONS);
    guest_cpu: HistogramVec("sidelight_guest_cpu_seconds", "CPU time of a guest for one request, without the time it waited for a processor.", ["service" = "as above"], DURATIONS);
    guest_memory: HistogramVec("sidelight_guest_memory_bytes", "Linear memory of a guest when it was through with a request.", ["service" = "as above"], MEMORY);
    guests_heavy: IntCounter("sidelight_guests_heavy_total", "Guest executions that computed for more than 5 ms; they go on, or those after them begin, on threads of their own.", [], NONE);
    guest_cpu_over: IntCounter("sidelight_guest_cpu_over_production_total", "Requests above production's CPU limit (`--cpu-report`).", [], NONE);
    guest_sends_over: IntCounter("sidelight_guest_backend_requests_over_production_total", "Requests that led to more requests to backends than production allows (32).", [], NONE);
    guest_backends_over: IntCounter("sidelight_guest_dynamic_backends_over_production_total", "Requests that made more dynamic backends than production allows (200).", [], NONE);
    guest_lookups_over: IntCounter("sidelight_guest_config_lookups_over_production_total", "Requests that looked up more entries of config stores than production allows (32).", [], NONE);
    hostcalls: HostcallCounts("sidelight_hostcalls_total", "Calls of the guest ABI.", ["interface" = "the ABI's module", "function" = "its function", "status" = "what the guest was told: the name of a `FastlyStatus`"], NONE);
    hostcall_times: HostcallTimes("sidelight_hostcall_duration_seconds", "Time of calls of the guest ABI, from the call to its return; of those that wait, the wait included.", ["interface" = "as above", "function" = "as above"], HOSTCALLS);
    backend_requests: IntCounterVec("sidelight_backend_requests_total", "Requests to backends.", ["service" = "as above", "backend" = "its name in the manifest; `dynamic` if it is not in it, `grip-proxy`", "result" = "`ok`, or the ABI's name of the failure"], NONE);
    backend_time: HistogramVec("sidelight_backend_request_duration_seconds", "Time from a request to a backend to the head of its response, or to its failure.", ["service" = "as above", "backend" = "as above"], BACKENDS);
    backend_connections: IntCounterVec("sidelight_backend_connections_total", "Connections used for requests to backends.", ["service" = "as above", "backend" = "as above", "kind" = "`new`, `reused`"], NONE);
    backend_healthy: IntGaugeVec("sidelight_backend_healthy", "Whether a backend with a health check is healthy: 1 or 0.", ["service" = "as above", "backend" = "as above"], NONE);
    cache_lookups: IntCounterVec("sidelight_cache_lookups_total", "Lookups in the cache.", ["face" = "`core`, `http`", "result" = "`hit`, `stale`, `miss` (to be fetched or revalidated), `pass`"], NONE);
    cache_bytes: IntGaugeVec("sidelight_cache_bytes", "Bytes of cached objects, what they cost included.", ["tier" = "`memory`, `disk`"], NONE);
    cache_objects: IntGaugeVec("sidelight_cache_objects", "Objects in the cache.", ["tier" = "`memory`, `disk`"], NONE);
    cache_evictions: IntCounter("sidelight_cache_evictions_total", "Objects that left the cache's memory for want of room.", [], NONE);
    cache_refusals: IntCounter("sidelight_cache_too_large_total", "Objects that were not cached because they were too large, or too much was being written.", [], NONE);
    cache_purges: IntCounterVec("sidelight_cache_purges_total", "Purges of cached objects.", ["kind" = "`hard`, `soft`, `url`, `all`"], NONE);
    cache_disk_errors: IntCounter("sidelight_cache_disk_errors_total", "Writes of cached objects to disk that failed.", [], NONE);
    cache_disk_skipped: IntCounter("sidelight_cache_disk_skipped_total", "Cached objects that were not written to disk because the disk was behind.", [], NONE);
    store_time: HistogramVec("sidelight_store_operation_seconds", "Time of operations of stores.", ["store" = "`kv`", "keep" = "`memory`, `embedded`, `redis`", "operation" = "`lookup`, `insert`, `delete`, `list`"], STORES);
    store_errors: IntCounterVec("sidelight_store_errors_total", "Operations of stores that did not do what they were asked.", ["store" = "as above", "keep" = "as above", "operation" = "as above", "error" = "`bad_request`, `precondition_failed`, `payload_too_large`, `too_many_requests`, `unavailable`"], NONE);
    state_up: IntGaugeVec("sidelight_state_up", "Whether what shared state is kept in can be reached: 1 or 0.", ["part" = "`redis`"], NONE);
    log_records: IntCounterVec("sidelight_log_records_total", "Records guests wrote to log endpoints, by what became of them.", ["result" = "`written` (delivered; with syslog, taken by the kernel), `dropped` (no room), `failed` (given up)"], NONE);
    log_lines_lost: IntCounter("sidelight_log_lines_lost_total", "Lines of the log that could not be written.", [], NONE);
    backend_faults: IntCounterVec("sidelight_backend_faults_total", "Faults on purpose, by what they did to a request.", ["service" = "as above", "backend" = "as above", "fault" = "`latency`, `error`, `failure`, `reset`, `bandwidth`"], NONE);
    backend_retries: IntCounterVec("sidelight_backend_retries_total", "Requests to backends that were sent again, since their connection had ended.", ["service" = "as above", "backend" = "as above"], NONE);
    backend_connect: HistogramVec("sidelight_backend_connect_duration_seconds", "Time to make a connection: name resolution, TCP and TLS.", ["service" = "as above", "backend" = "as above"], BACKENDS);
    growth_refused: IntCounterVec("sidelight_guest_memory_refused_total", "Growth of guests' memory, and of what they put into the host's, that was refused.", ["service" = "as above", "reason" = "`limit` (of the sandbox: --memory-limit, 128 MiB of the host's), `shortage` (of the process: --total-memory)"], NONE);
    memory_limit: IntGauge("sidelight_memory_limit_bytes", "Memory the process may have: from 85 % of it on, guests are kept back.", [], NONE);
    module_info: IntGaugeVec("sidelight_module_info", "1 for each program that is in force.", ["service" = "as above", "digest" = "its SHA-256"], NONE);
    module_load: Histogram("sidelight_module_load_seconds", "Time to load a program: from the cache of compiled ones, or by compiling it.", [], LOADS);
    certificate_expiry: IntGaugeVec("sidelight_tls_certificate_not_after_timestamp_seconds", "When a certificate of the listener for clients expires, since the Unix epoch.", ["certificate" = "its file"], NONE);
    services_unnamed: IntCounter("sidelight_metrics_series_dropped_total", "Services without series of their own, since there were more than 1,000 names.", [], NONE);
    trace_spans: IntCounterVec("sidelight_trace_spans_total", "Spans of traces, by what became of them.", ["result" = "`exported`, `failed` (the collector did not take them), `dropped` (no room in the queue)"], NONE);
    reloads: IntCounterVec("sidelight_config_reloads_total", "Changes of the configuration that were tried.", ["result" = "`ok`, `unchanged`, `failed`"], NONE);
    faulty: IntGauge("sidelight_services_faulty", "Services that come and go whose newest files cannot be used.", [], NONE);
    preparing: IntGauge("sidelight_services_preparing", "Services that come and go whose programs are fetched, compiled or tried.", [], NONE);
    reload_successful: IntGauge("sidelight_config_last_reload_successful", "Whether the last change that was tried is in force: 1 or 0.", [], NONE);
    reload_success_time: IntGauge("sidelight_config_last_reload_success_timestamp_seconds", "When a configuration last came into force, since the Unix epoch.", [], NONE);
    generation: IntGauge("sidelight_config_generation", "Counts the configurations that came into force.", [], NONE);
    build_info: IntGaugeVec("sidelight_build_info", "1, and of which version this process is.", ["version" = "as `sidelight --version`"], NONE);
}

impl Metrics {
    /// Declares every family in a registry of its own.
    pub fn new() -> Self {
        let registry = Registry::new();
        // It is the first of its names.
        let _ = registry.register(Box::new(Process::new()));
        let metrics = Self::declare(registry);
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        // Counters that begin with their first event have no rate then.
        ["ok", "unchanged", "failed"].iter().for_each(|result| drop(metrics.reloads.with_label_values(&[result])));
        ["ok", "error"].iter().for_each(|result| drop(metrics.tls_renewals.with_label_values(&[result])));
        metrics
    }

    /// A counter of which every thread fills a part of its own.
    pub fn count(&self, counter: IntCounter) -> Count {
        Count::new(counter, &self.shards)
    }

    /// A histogram of which every thread fills a part of its own.
    pub fn times(&self, histogram: Histogram) -> Times {
        Times::new(histogram, &self.shards)
    }

    /// What there is now, in a format for Prometheus.
    pub fn text(&self, format: Format) -> String {
        self.log_lines_lost.inc_by(logs::lost().saturating_sub(self.log_lines_lost.get()));
        self.shards.add_up();
        exposition::encode(&self.registry.gather(), format, &self.exemplars)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A gauge, for whoever keeps one.
pub type Gauge = IntGauge;

/// Counts something while it lives.
pub struct Held<G: Borrow<IntGauge>>(G);

impl<G: Borrow<IntGauge>> Held<G> {
    /// Adds one to the gauge until dropped.
    pub fn new(gauge: G) -> Self {
        gauge.borrow().inc();
        Self(gauge)
    }
}

impl<G: Borrow<IntGauge>> Drop for Held<G> {
    fn drop(&mut self) {
        self.0.borrow().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_exported_with_help() {
        let metrics = Metrics::new();
        metrics.requests.with_label_values(&["a", "GET", "200"]).inc();
        let held = Held::new(&metrics.sandboxes);
        assert!(metrics.text(Format::Text).contains("# HELP sidelight_requests_total "));
        assert!(metrics.text(Format::Text).contains("sidelight_requests_total{code=\"200\",method=\"GET\",service=\"a\"} 1"));
        assert!(metrics.text(Format::Text).contains("sidelight_sandboxes 1"));
        drop(held);
        assert!(metrics.text(Format::Text).contains("sidelight_sandboxes 0"));
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for family in FAMILIES {
            assert_eq!(family.kind == "counter", family.name.ends_with("_total"), "{}", family.name);
            assert!(family.kind != "histogram" || family.name.ends_with("_seconds") || family.name.ends_with("_bytes"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(family.labels.iter().all(|(name, values)| !name.is_empty() && !values.is_empty()), "{}", family.name);
        }
    }
}
