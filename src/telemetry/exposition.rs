//! Metrics as Prometheus reads them, and as people do.

use std::fmt::Write;

use prometheus::TextEncoder;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Exemplars};
use super::metrics::FAMILIES;
use super::process;

/// What a scraper is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` field prefers; the text format unless it asks for OpenMetrics (RFC 9110, 12.5.1).
    pub fn accepted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut known) = (1.0_f32, true);
            for part in parts {
                match part.split_once('=') {
                    Some((name, value)) if name.eq_ignore_ascii_case("q") => quality = value.trim().parse().unwrap_or(0.0),
                    Some((name, value)) if name.eq_ignore_ascii_case("version") => known = ["1.0.0", "0.0.1", "0.0.4"].contains(&value),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if known => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" if known => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Families in a format.
pub(super) fn encode(families: &[MetricFamily], format: Format, exemplars: &Exemplars) -> String {
    match format {
        Format::Text => TextEncoder::new().encode_to_string(families).unwrap_or_default(),
        Format::OpenMetrics => open_metrics(families, exemplars),
    }
}

/// OpenMetrics 1.0: counters are named without `_total`, which their samples have; buckets have floating-point bounds;
/// there is an end.
fn open_metrics(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::with_capacity(16 << 10);
    for family in families {
        let kind = family.get_field_type();
        let name = match kind {
            MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
            _ => family.name(),
        };
        let (word, suffix) = match kind {
            MetricType::COUNTER => ("counter", "_total"),
            MetricType::HISTOGRAM => ("histogram", ""),
            _ => ("gauge", ""),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {word}\n", escaped(family.help()));
        for metric in family.get_metric() {
            match kind {
                MetricType::COUNTER => sample(&mut text, name, suffix, metric, None, metric.get_counter().get_value(), None),
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let count = histogram.get_sample_count();
                    let examples = exemplars.of(name, metric.get_label());
                    let mut below = f64::NEG_INFINITY;
                    let mut example = |bound: f64| {
                        let found = examples.iter().rev().find(|example| example.value > below && example.value <= bound);
                        below = bound;
                        found
                    };
                    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
                        let bound = format!("{:?}", bucket.upper_bound());
                        let example = example(bucket.upper_bound());
                        sample(&mut text, name, "_bucket", metric, Some(&bound), bucket.cumulative_count() as f64, example);
                    }
                    sample(&mut text, name, "_bucket", metric, Some("+Inf"), count as f64, example(f64::INFINITY));
                    sample(&mut text, name, "_sum", metric, None, histogram.get_sample_sum(), None);
                    sample(&mut text, name, "_count", metric, None, count as f64, None);
                }
                _ => sample(&mut text, name, suffix, metric, None, metric.get_gauge().get_value(), None),
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn sample(text: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<&str>, value: f64, example: Option<&Exemplar>) {
    let labels = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).chain(bound.map(|bound| ("le", bound)));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let _ = match labels.as_slice() {
        [] => write!(text, "{name}{suffix} {value}"),
        labels => write!(text, "{name}{suffix}{{{}}} {value}", labels.join(",")),
    };
    if let Some(Exemplar { value, trace, at }) = example {
        let _ = write!(text, " # {{trace_id=\"{trace}\"}} {value} {}.{:03}", at.as_secs(), at.subsec_millis());
    }
    text.push('\n');
}

/// As in help texts and label values.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The reference of all families, in Markdown.
pub fn reference() -> String {
    let mut text = "| metric | type | labels | what |\n|---|---|---|---|\n".to_owned();
    for family in FAMILIES {
        let labels: Vec<String> = family.labels.iter().map(|(name, values)| format!("`{name}`: {values}")).collect();
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", family.name, family.kind, labels.join("; "), family.help);
    }
    for (name, kind, help) in process::FAMILIES {
        let _ = writeln!(text, "| `{name}` | {kind} |  | {help} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;
    use crate::telemetry::trace::context::TraceId;

    #[test]
    fn what_scrapers_accept() {
        // As Prometheus sends them.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let cases = [
            (prometheus, Format::OpenMetrics),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Text),
            ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
            ("application/openmetrics-text; version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0.1, text/plain;q=0.9", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
        ];
        for (accept, format) in cases {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn open_metrics_of_every_kind() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("a_total", "Says \"a\"."), &["of"]).expect("a counter");
        let gauge = IntGauge::new("b", "B.").expect("a gauge");
        let histogram = Histogram::with_opts(HistogramOpts::new("c_seconds", "C.").buckets(vec![0.5, 1.0])).expect("a histogram");
        registry.register(Box::new(counter.clone())).expect("registered");
        registry.register(Box::new(gauge.clone())).expect("registered");
        registry.register(Box::new(histogram.clone())).expect("registered");
        counter.with_label_values(&["x\"\\\ny"]).inc_by(3);
        gauge.set(-2);
        histogram.observe(0.25);
        histogram.observe(4.0);
        let expected = "# HELP a Says \\\"a\\\".\n# TYPE a counter\na_total{of=\"x\\\"\\\\\\ny\"} 3\n# HELP b B.\n# TYPE b gauge\nb -2\n\
                        # HELP c_seconds C.\n# TYPE c_seconds histogram\nc_seconds_bucket{le=\"0.5\"} 1\nc_seconds_bucket{le=\"1.0\"} 1\n\
                        c_seconds_bucket{le=\"+Inf\"} 2\nc_seconds_sum 4.25\nc_seconds_count 2\n# EOF\n";
        let exemplars = Exemplars::default();
        assert_eq!(encode(&registry.gather(), Format::OpenMetrics, &exemplars), expected);
        exemplars.note("c_seconds", &[], 0.25, TraceId(0xab));
        exemplars.note("c_seconds", &[("of", "another")], 0.75, TraceId(1));
        exemplars.note("c_seconds", &[], 4.0, TraceId(0xcd));
        let text = encode(&registry.gather(), Format::OpenMetrics, &exemplars);
        let of = |bound: &str| text.lines().find(|line| line.contains(bound)).expect("a bucket").to_owned();
        let trace = "000000000000000000000000000000";
        assert!(of("le=\"0.5\"").starts_with(&format!("c_seconds_bucket{{le=\"0.5\"}} 1 # {{trace_id=\"{trace}ab\"}} 0.25 ")));
        assert_eq!(of("le=\"1.0\""), "c_seconds_bucket{le=\"1.0\"} 1");
        assert!(of("le=\"+Inf\"").contains(&format!("# {{trace_id=\"{trace}cd\"}} 4 ")));
    }
}
