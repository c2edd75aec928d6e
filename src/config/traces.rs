//! What is recorded of requests as traces, and where they go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Secret;

/// Decided settings of traces.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traces {
    /// Where they go; `None`: nowhere.
    pub export: Option<Export>,
    /// Which requests are traced.
    pub sample: Sample,
    /// Whether a client's decision about a trace goes before `sample`.
    pub parent_based: bool,
    /// What a client's trace context counts for.
    pub parent: Trust,
    /// Which hostcalls get spans.
    pub hostcalls: HostcallSpans,
    /// From when on a hostcall is slow.
    pub slow_hostcall: Duration,
    /// Hostcalls of one request that are recorded; of more, only how many there were.
    pub max_hostcalls: usize,
    /// Whether requests that failed are kept, sampled or not.
    pub keep_errors: bool,
    /// From when on requests are kept for being slow, sampled or not.
    pub keep_slow: Option<Duration>,
    /// What a request says in `x-sidelight-trace` to be traced.
    pub force: Option<Secret>,
    /// Which backends learn of the trace, where the backend does not say.
    pub propagate: Propagate,
    /// Whether programs see the trace context in their requests.
    pub tell_guest: bool,
    /// More attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// What could not be used of `OTEL_…` variables.
    pub warnings: Vec<String>,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Export {
    /// The URL that spans are sent to.
    pub endpoint: String,
    /// How.
    pub protocol: Protocol,
    /// Fields (of gRPC: metadata) of every request.
    pub headers: Vec<(String, Secret)>,
    /// Whether they are compressed.
    pub gzip: bool,
    /// Roots to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// Certificate and key for the collector, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// How long one export may take, further tries included.
    pub timeout: Duration,
    /// Spans that may wait; more are dropped and counted.
    pub queue: usize,
    /// Spans of one request at most.
    pub batch: usize,
    /// How long spans are gathered.
    pub delay: Duration,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
pub enum Protocol {
    /// OTLP over HTTP, protobuf.
    #[default]
    #[serde(rename = "http/protobuf")]
    Http,
    /// OTLP over gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Sample {
    /// This share of them, by their trace's id: 0 to 1.
    Ratio(f64),
    /// So many a second.
    PerSecond(f64),
}

impl FromStr for Sample {
    type Err = String;

    /// `all`, `none`, `1%`, `0.01`, `10/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| *number >= 0.0 && number.is_finite());
        let read = match text {
            "all" => Some(Self::Ratio(1.0)),
            "none" => Some(Self::Ratio(0.0)),
            _ => match (text.strip_suffix('%'), text.strip_suffix("/s")) {
                (Some(percent), _) => number(percent).filter(|percent| *percent <= 100.0).map(|percent| Self::Ratio(percent / 100.0)),
                (_, Some(rate)) => number(rate).map(Self::PerSecond),
                (None, None) => number(text).filter(|ratio| *ratio <= 1.0).map(Self::Ratio),
            },
        };
        read.ok_or_else(|| format!("`{text}` does not say which requests are traced; expected all, none, 1%, 0.01 or 10/s"))
    }
}

/// What the trace context of a client counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Its trace goes on here.
    #[default]
    Adopt,
    /// A new trace begins, with a link to it.
    Link,
    /// It is not looked at.
    Ignore,
}

/// Which hostcalls get spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostcallSpans {
    /// None.
    Off,
    /// None; the guest's span says how many there were, and how long they took.
    Summary,
    /// Those that were slow, and those that sent a request.
    Slow,
    /// All.
    #[default]
    All,
}

/// Which backends learn of the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagate {
    /// All.
    Always,
    /// Those at addresses that are not of the public Internet.
    #[default]
    Internal,
    /// None.
    Never,
}

/// `[traces]`. What is not said is as `OTEL_…` variables say.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TraceTable {
    /// Where spans go: an `http(s)://` URL of an OTLP collector; over HTTP, `/v1/traces` is put behind it.
    #[schemars(with = "Option<String>")]
    pub endpoint: Option<Spanned<String>>,
    /// How; default: `http/protobuf`.
    pub protocol: Option<Protocol>,
    /// Fields (of gRPC: metadata) of every request to it.
    pub headers: BTreeMap<String, String>,
    /// A file with the value of `authorization`.
    #[schemars(with = "Option<String>")]
    pub authorization_file: Option<Spanned<String>>,
    /// Whether requests to it are compressed.
    pub gzip: Option<bool>,
    /// Roots to trust instead of the system's, PEM.
    #[schemars(with = "Option<String>")]
    pub ca_file: Option<Spanned<String>>,
    /// Certificate chain for the collector, PEM.
    #[schemars(with = "Option<String>")]
    pub certificate_file: Option<Spanned<String>>,
    /// Its key; default: in the same file.
    #[schemars(with = "Option<String>")]
    pub key_file: Option<Spanned<String>>,
    /// How long an export may take; default: 10s.
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Spanned<String>>,
    /// Spans that may wait; more are dropped and counted. Default: 32768.
    #[schemars(range(min = 1))]
    pub queue: Option<u32>,
    /// Spans that go out at once, about; default: 2048.
    #[schemars(range(min = 1))]
    pub batch: Option<u32>,
    /// For how long spans are gathered; default: 1s.
    #[schemars(with = "Option<String>")]
    pub delay: Option<Spanned<String>>,
    /// Which requests are traced, unless their client's trace context says: `all`, `none`, `1%`, `10/s`; default: all.
    #[schemars(with = "Option<String>")]
    pub sample: Option<Spanned<String>>,
    /// What a client's trace context counts for; default: adopt.
    pub parent: Option<Trust>,
    /// Which hostcalls get spans; default: all.
    pub hostcalls: Option<HostcallSpans>,
    /// From when on a hostcall is slow; default: 1ms.
    #[schemars(with = "Option<String>")]
    pub slow_hostcall: Option<Spanned<String>>,
    /// Hostcalls of a request that get spans at most; default: 512.
    pub max_hostcalls: Option<u16>,
    /// Whether requests that failed are kept, sampled or not.
    pub keep_errors: Option<bool>,
    /// From when on requests are kept for being slow, sampled or not.
    #[schemars(with = "Option<String>")]
    pub keep_slow: Option<Spanned<String>>,
    /// A file with what a request says in `x-sidelight-trace` to be traced.
    #[schemars(with = "Option<String>")]
    pub force_file: Option<Spanned<String>>,
    /// Which backends learn of the trace, where the backend does not say; default: internal.
    pub propagate: Option<Propagate>,
    /// Whether programs see the trace context in their requests; default: true.
    pub tell_guest: Option<bool>,
}

/// What can be said about traces; what nobody says is as [`TraceSettings::decide`] has it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as the fields of Traces and Export")]
pub struct TraceSettings {
    /// As it is given: over HTTP, `/v1/traces` goes behind.
    pub endpoint: Option<String>,
    pub protocol: Option<Protocol>,
    pub headers: Option<Vec<(String, Secret)>>,
    pub gzip: Option<bool>,
    pub ca: Option<PathBuf>,
    pub client: Option<(PathBuf, PathBuf)>,
    pub timeout: Option<Duration>,
    pub queue: Option<usize>,
    pub batch: Option<usize>,
    pub delay: Option<Duration>,
    pub sample: Option<Sample>,
    pub parent: Option<Trust>,
    pub hostcalls: Option<HostcallSpans>,
    pub slow_hostcall: Option<Duration>,
    pub max_hostcalls: Option<usize>,
    pub keep_errors: Option<bool>,
    pub keep_slow: Option<Duration>,
    pub force: Option<Secret>,
    pub propagate: Option<Propagate>,
    pub tell_guest: Option<bool>,
}

impl TraceSettings {
    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        macro_rules! or {
            ($($field:ident),+) => { Self { $($field: self.$field.or(other.$field)),+ } };
        }
        or!(
            endpoint,
            protocol,
            headers,
            gzip,
            ca,
            client,
            timeout,
            queue,
            batch,
            delay,
            sample,
            parent,
            hostcalls,
            slow_hostcall,
            max_hostcalls,
            keep_errors,
            keep_slow,
            force,
            propagate,
            tell_guest
        )
    }

    /// Decided, with `OTEL_…` variables for what is not said (OpenTelemetry's specification of environment variables).
    pub fn decide(self, variables: &BTreeMap<String, String>) -> Traces {
        let mut otel = Variables { variables, warnings: Vec::new() };
        let off = otel.flag("OTEL_SDK_DISABLED") || otel.text("OTEL_TRACES_EXPORTER") == Some("none");
        let protocol = self.protocol.unwrap_or_else(|| otel.protocol());
        let endpoint = match self.endpoint {
            Some(base) => Some(of_base(&base, protocol)),
            None if off => None,
            None => match (otel.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), otel.text("OTEL_EXPORTER_OTLP_ENDPOINT")) {
                (Some(whole), _) => Some(whole.to_owned()),
                (None, Some(base)) => Some(of_base(base, protocol)),
                (None, None) => None,
            },
        };
        let export = endpoint.map(|endpoint| Export {
            endpoint,
            protocol,
            headers: self.headers.unwrap_or_else(|| otel.headers()),
            gzip: self.gzip.unwrap_or_else(|| otel.exporter("COMPRESSION").as_deref() == Some("gzip")),
            ca: self.ca.or_else(|| otel.exporter("CERTIFICATE").map(PathBuf::from)),
            client: self.client.or_else(|| {
                let certificate = otel.exporter("CLIENT_CERTIFICATE")?;
                Some((certificate.into(), otel.exporter("CLIENT_KEY")?.into()))
            }),
            timeout: self.timeout.or_else(|| otel.exporter_millis("TIMEOUT")).unwrap_or(Duration::from_secs(10)),
            queue: self.queue.or_else(|| otel.number("OTEL_BSP_MAX_QUEUE_SIZE")).unwrap_or(32_768).max(1),
            batch: self.batch.or_else(|| otel.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")).unwrap_or(2048).max(1),
            delay: self.delay.or_else(|| otel.millis("OTEL_BSP_SCHEDULE_DELAY")).unwrap_or(Duration::from_secs(1)),
        });
        let (sample, parent_based) = match self.sample {
            Some(sample) => (sample, true),
            None => otel.sampler(),
        };
        Traces {
            export,
            sample,
            parent_based,
            parent: self.parent.unwrap_or_else(|| otel.trust()),
            hostcalls: self.hostcalls.unwrap_or_default(),
            slow_hostcall: self.slow_hostcall.unwrap_or(Duration::from_millis(1)),
            max_hostcalls: self.max_hostcalls.unwrap_or(512),
            keep_errors: self.keep_errors.unwrap_or(false),
            keep_slow: self.keep_slow,
            force: self.force,
            propagate: self.propagate.unwrap_or_default(),
            tell_guest: self.tell_guest.unwrap_or(true),
            resource: otel.resource(),
            warnings: otel.warnings,
        }
    }
}

impl Default for Traces {
    fn default() -> Self {
        TraceSettings::default().decide(&BTreeMap::new())
    }
}

/// The URL for spans, of one for all signals.
fn of_base(base: &str, protocol: Protocol) -> String {
    match protocol {
        Protocol::Grpc => base.to_owned(),
        // Many give the whole of it.
        Protocol::Http if base.ends_with("/v1/traces") => base.to_owned(),
        Protocol::Http => format!("{}/v1/traces", base.trim_end_matches('/')),
    }
}

/// `OTEL_…` variables. Empty is as not there; what cannot be read is warned of and not used, as the specification has it.
struct Variables<'a> {
    variables: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn warn(&mut self, name: &str, expected: &str) {
        let warning = format!("{name}, or a part of it, is not used: expected {expected}");
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn number(&mut self, name: &str) -> Option<usize> {
        let read = self.text(name)?.parse().ok();
        if read.is_none() {
            self.warn(name, "a number");
        }
        read
    }

    fn millis(&mut self, name: &str) -> Option<Duration> {
        self.number(name).map(|millis| Duration::from_millis(millis as u64))
    }

    /// Of traces, else of all signals.
    fn exporter(&self, name: &str) -> Option<String> {
        let of_traces = self.text(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
        of_traces.or_else(|| self.text(&format!("OTEL_EXPORTER_OTLP_{name}"))).map(str::to_owned)
    }

    fn exporter_millis(&mut self, name: &str) -> Option<Duration> {
        self.millis(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| self.millis(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn protocol(&mut self) -> Protocol {
        match self.exporter("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Protocol::Http,
            Some("grpc") => Protocol::Grpc,
            Some(_) => {
                self.warn("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf or grpc");
                Protocol::Http
            }
        }
    }

    fn headers(&mut self) -> Vec<(String, Secret)> {
        let text = self.exporter("HEADERS").unwrap_or_default();
        self.pairs("OTEL_EXPORTER_OTLP_HEADERS", &text).into_iter().map(|(name, value)| (name, Secret::new(value.into_bytes()))).collect()
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let text = self.text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().to_owned();
        let mut pairs = self.pairs("OTEL_RESOURCE_ATTRIBUTES", &text);
        if let Some(name) = self.text("OTEL_SERVICE_NAME").map(str::to_owned) {
            pairs.retain(|(key, _)| key != "service.name");
            pairs.push(("service.name".to_owned(), name));
        }
        pairs
    }

    /// `a=b,c=d`, values percent-encoded (the form of W3C baggage).
    fn pairs(&mut self, name: &str, text: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => pairs.push((key.trim().to_owned(), decoded(value.trim()))),
                _ => self.warn(name, "NAME=VALUE,…"),
            }
        }
        pairs
    }

    fn sampler(&mut self) -> (Sample, bool) {
        let name = self.text("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on").to_owned();
        let argument = self.text("OTEL_TRACES_SAMPLER_ARG").map(str::to_owned);
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let sample = match root {
            "always_on" => Sample::Ratio(1.0),
            "always_off" => Sample::Ratio(0.0),
            "traceidratio" => match argument.as_deref().map_or(Ok(1.0), str::parse::<f64>) {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Sample::Ratio(ratio),
                _ => {
                    self.warn("OTEL_TRACES_SAMPLER_ARG", "0 to 1");
                    Sample::Ratio(1.0)
                }
            },
            _ => {
                self.warn("OTEL_TRACES_SAMPLER", "always_on, always_off, traceidratio, or parentbased_ and one of these");
                return (Sample::Ratio(1.0), true);
            }
        };
        (sample, parent_based)
    }

    fn trust(&mut self) -> Trust {
        let Some(list) = self.text("OTEL_PROPAGATORS").map(str::to_owned) else { return Trust::Adopt };
        let names: Vec<&str> = list.split(',').map(str::trim).collect();
        if names.iter().any(|name| !["tracecontext", "baggage", "none"].contains(name)) {
            self.warn("OTEL_PROPAGATORS", "tracecontext, baggage or none");
        }
        if names.contains(&"none") { Trust::Ignore } else { Trust::Adopt }
    }
}

/// Percent-decoded; what is no code stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let code = match (first, behind) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = behind.get(if code.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(variables: &[(&str, &str)]) -> Traces {
        TraceSettings::default().decide(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn samples() {
        for (text, sample) in [
            ("all", Sample::Ratio(1.0)),
            ("none", Sample::Ratio(0.0)),
            ("1%", Sample::Ratio(0.01)),
            ("0.25", Sample::Ratio(0.25)),
            ("10/s", Sample::PerSecond(10.0)),
            ("0.5/s", Sample::PerSecond(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(sample), "{text}");
        }
        for text in ["", "1.5", "101%", "-1", "some", "nan", "inf/s"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
    }

    #[test]
    fn variables_of_opentelemetry() {
        assert_eq!(decide(&[]).export, None);
        let export = decide(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, authorization=Bearer%20x"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "7"),
        ]);
        let headers = vec![("a".to_owned(), Secret::new(b"b".to_vec())), ("authorization".to_owned(), Secret::new(b"Bearer x".to_vec()))];
        let export = export.export.expect("an export");
        assert_eq!((export.endpoint.as_str(), export.gzip, export.queue), ("http://c:4318/v1/traces", true, 7));
        assert_eq!((export.timeout, export.headers), (Duration::from_millis(250), headers));
        let of_traces = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/x")];
        assert_eq!(decide(&of_traces).export.expect("an export").endpoint, "http://b/x");
        let grpc = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let export = decide(&grpc).export.expect("an export");
        assert_eq!((export.endpoint.as_str(), export.protocol), ("http://a:4317", Protocol::Grpc));
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(decide(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), off]).export, None);
        }
        let ratio = decide(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")]);
        assert_eq!((ratio.sample, ratio.parent_based), (Sample::Ratio(0.1), false));
        let resource = decide(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,k8s.pod.name=p%2Cq"), ("OTEL_SERVICE_NAME", "b")]).resource;
        assert_eq!(resource, [("k8s.pod.name".to_owned(), "p,q".to_owned()), ("service.name".to_owned(), "b".to_owned())]);
        assert_eq!(decide(&[("OTEL_PROPAGATORS", "none")]).parent, Trust::Ignore);
        let wrong = [
            ("OTEL_TRACES_SAMPLER", "most"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_PROPAGATORS", "xray"),
        ];
        let traces = decide(&wrong);
        assert_eq!((traces.warnings.len(), traces.sample), (4, Sample::Ratio(1.0)), "{:?}", traces.warnings);
    }

    #[test]
    fn what_is_said_goes_before_variables() {
        let said =
            TraceSettings { endpoint: Some("http://said".to_owned()), sample: Some(Sample::PerSecond(1.0)), ..TraceSettings::default() };
        let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/x"), ("OTEL_TRACES_SAMPLER", "always_off")];
        let traces = said.decide(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        assert_eq!((traces.export.expect("an export").endpoint.as_str(), traces.sample), ("http://said/v1/traces", Sample::PerSecond(1.0)));
    }
}
