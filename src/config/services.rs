//! `[services.NAME]` of a host file, and `service.toml` of a folder that is dropped in: one service of several.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::diagnostics::{Problem, misleads};
use super::document::{Key, Node, Value};
use super::host_file::{Decide, HostLimits, Surroundings, environment};
use super::settings::{EnvironmentSettings, LimitSettings};
use super::{ModuleSource, Targets};

/// Nobody is asked more often than this whether a program has moved.
const LEAST_POLL: Duration = Duration::from_secs(1);

/// `[services.NAME]`. Beside these it may have every key of a manifest's `[local_server]`, `sidelight`, `name` and
/// `service_id`: they are put over the manifest, key by key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Service {
    /// Host names; `*.name` takes every name below. None: every host that is no other's.
    #[schemars(with = "Vec<String>")]
    hosts: Vec<Spanned<String>>,
    /// What paths begin with; none: every path.
    #[schemars(with = "Vec<String>")]
    paths: Vec<Spanned<String>>,
    /// Header fields that a request must have, with these values; none: no matter which.
    #[schemars(with = "BTreeMap<String, String>")]
    headers: BTreeMap<Spanned<String>, String>,
    /// When it is served no longer (RFC 3339, as in 2026-12-01T00:00:00Z).
    #[schemars(with = "Option<String>")]
    expires: Option<Spanned<String>>,
    /// Its `fastly.toml`.
    #[schemars(with = "Option<String>")]
    manifest: Option<Spanned<String>>,
    /// Its program: a file (a module, or a package), `https://…#sha256=…` or `oci://…`; default: `bin/main.wasm` beside the
    /// manifest.
    #[schemars(with = "Option<String>")]
    module: Option<Spanned<String>>,
    /// How often to look whether the tag of an `oci://` program has moved.
    #[schemars(with = "Option<String>")]
    poll: Option<Spanned<String>>,
    /// How a new generation takes over; default: at once.
    rollout: Option<Rollout>,
    /// Whether `[setup]` of the manifest is used where its `local_server` is silent.
    use_setup: bool,
    /// Limits of its guests.
    limits: HostLimits,
    /// What its guests are told.
    environment: Surroundings,
    /// Where its dynamic backends may point.
    #[schemars(with = "Option<Vec<String>>")]
    dynamic_backends: Option<Vec<Spanned<String>>>,
}

/// `rollout` of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollout {
    /// Percentage of requests that a new generation takes at first; default: all.
    #[serde(default = "all")]
    #[schemars(range(min = 1, max = 100))]
    percent: u8,
    /// For how long.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    time: Option<Spanned<String>>,
    /// Above which percentage of failed answers (a guest that failed, a 5xx) it is taken back; default: 5.
    #[serde(default = "few")]
    #[schemars(range(min = 0, max = 100))]
    max_failed_percent: u8,
    /// A request that it must answer first.
    #[serde(default)]
    smoke: Option<Smoke>,
}

fn all() -> u8 {
    100
}

fn few() -> u8 {
    5
}

/// A request that a new generation must answer before it gets any of clients'.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Smoke {
    /// Its path and query.
    #[schemars(with = "String")]
    path: Spanned<String>,
    /// Its host; default: the service's first, or localhost.
    #[serde(default)]
    host: Option<String>,
    /// The status of the answer; default: 200.
    #[serde(default = "ok")]
    #[schemars(range(min = 200, max = 599))]
    status: u16,
}

fn ok() -> u16 {
    200
}

/// Keys of a service that are ours and not a manifest's.
const OWN: [&str; 12] = [
    "hosts",
    "paths",
    "headers",
    "expires",
    "manifest",
    "module",
    "poll",
    "rollout",
    "use_setup",
    "limits",
    "environment",
    "dynamic_backends",
];

/// A service as the host file has it.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Its name, and where it stands.
    pub name: Spanned<String>,
    /// Lower case.
    pub hosts: Vec<String>,
    /// Each begins with a slash.
    pub paths: Vec<String>,
    /// Header fields and their values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// When it is served no longer.
    pub expires: Option<SystemTime>,
    /// Its manifest, if it has one.
    pub manifest: Option<(Spanned<String>, PathBuf)>,
    /// Its program.
    pub module: Option<ModuleSource>,
    /// How often to look whether it has moved.
    pub poll: Option<Duration>,
    /// How a new generation takes over.
    pub rollout: Option<super::Rollout>,
    /// As the field of the manifest's reading.
    pub use_setup: bool,
    /// Limits.
    pub limits: LimitSettings,
    /// What guests are told.
    pub environment: EnvironmentSettings,
    /// Where dynamic backends may point.
    pub dynamic_targets: Option<Targets>,
    /// What is put over the manifest: a document like it.
    pub overrides: Node,
}

impl Decide<'_> {
    fn rollout(&mut self, from: &Rollout, hosts: &[String]) -> super::Rollout {
        let smoke = from.smoke.as_ref().map(|smoke| {
            let host = smoke.host.clone().or_else(|| hosts.iter().find(|host| !host.starts_with('*')).cloned());
            let host = host.unwrap_or_else(|| "localhost".to_owned());
            if !smoke.path.get_ref().starts_with('/') || format!("http://{host}{}", smoke.path.get_ref()).parse::<::http::Uri>().is_err() {
                self.problem(&smoke.path, "this is no path", "for example /healthz");
            }
            super::Smoke { host, path: smoke.path.get_ref().clone(), status: smoke.status }
        });
        let time = self.time(from.time.as_ref()).unwrap_or(Duration::from_secs(60));
        super::Rollout { percent: from.percent, time, max_failed_percent: from.max_failed_percent, smoke }
    }

    fn module(&mut self, text: &Spanned<String>) -> Option<ModuleSource> {
        let folder = self.sources.file(text.span().start).parent().unwrap_or(Path::new(""));
        match ModuleSource::parse(text.get_ref(), folder) {
            Ok(source) => Some(source),
            Err(error) => {
                self.problems.push(Problem::at(text.span(), error));
                None
            }
        }
    }

    /// A host, or every name below one.
    pub(super) fn host(&mut self, host: &Spanned<String>) -> String {
        let mut text = host.get_ref().to_ascii_lowercase();
        // With the root's dot it is the same name.
        if text.len() > 1 && text.ends_with('.') {
            text.pop();
        }
        let plain = text.strip_prefix("*.").unwrap_or(&text);
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
        let has_port = plain.contains(':') && !(plain.starts_with('[') && plain.ends_with(']'));
        if plain.is_empty() || has_port || !plain.bytes().all(fine) {
            self.problem(host, format!("`{text}` is no host"), "for example shop.example.com or *.preview.example.com, without a port");
        }
        text
    }

    fn header(&mut self, name: &Spanned<String>, value: &str) -> Option<(HeaderName, HeaderValue)> {
        match (name.get_ref().parse(), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => Some((name, value)),
            _ => {
                self.problem(
                    name,
                    format!("`{}` = `{value}` is no header field", name.get_ref()),
                    "for example headers = { x-preview = \"123\" }",
                );
                None
            }
        }
    }

    fn expires(&mut self, text: &Spanned<String>) -> Option<SystemTime> {
        let time = humantime::parse_rfc3339(text.get_ref());
        if time.is_err() {
            self.problem(text, format!("`{}` is no point in time", text.get_ref()), "for example 2026-12-01T00:00:00Z");
        }
        time.ok()
    }

    pub(super) fn service(&mut self, name: &Spanned<String>, from: &Service, document: &Node) -> ServiceEntry {
        if name.get_ref().is_empty() {
            self.problem(name, "a service needs a name", "[services.NAME]");
        }
        if ["_none", "_other"].contains(&name.get_ref().as_str()) {
            self.problem(
                name,
                "metrics have this name for requests of no service, and for services beyond the first thousand",
                "call it otherwise",
            );
        }
        if name.get_ref().contains(misleads) {
            self.problem(
                name,
                "a service's name cannot have letters that do not show, or that turn the direction of reading",
                "call it otherwise",
            );
        }
        let hosts: Vec<String> = from.hosts.iter().map(|host| self.host(host)).collect();
        let headers = from.headers.iter().filter_map(|(name, value)| self.header(name, value)).collect();
        for path in from.paths.iter().filter(|path| !path.get_ref().starts_with('/')) {
            self.problem(path, "a path begins with a slash", "for example /api");
        }
        for key in from.limits.of_the_host() {
            let message = format!("service `{}` has limits.{key}, which only the host has", name.get_ref());
            self.problem(name, message, "it belongs to [limits], outside of the services");
        }
        ServiceEntry {
            rollout: from.rollout.as_ref().map(|rollout| self.rollout(rollout, &hosts)),
            hosts,
            headers,
            expires: from.expires.as_ref().and_then(|text| self.expires(text)),
            paths: from.paths.iter().map(|path| path.get_ref().clone()).collect(),
            manifest: from.manifest.as_ref().map(|file| (file.clone(), self.path(file))),
            module: from.module.as_ref().and_then(|text| self.module(text)),
            poll: self.some_time(from.poll.as_ref()).map(|time| time.max(LEAST_POLL)),
            use_setup: from.use_setup,
            limits: self.limits(&from.limits),
            environment: environment(&from.environment),
            dynamic_targets: self.targets(from.dynamic_backends.as_ref()),
            overrides: overrides(name, document),
            name: name.clone(),
        }
    }
}

/// The keys of a service that are a manifest's, as a manifest has them.
fn overrides(name: &Spanned<String>, document: &Node) -> Node {
    let place = name.span();
    let table = |entries| Node { span: place.clone(), value: Value::Table(entries) };
    let service = document.get("services").and_then(|services| services.get(name.get_ref()));
    let Some(Value::Table(entries)) = service.map(|service| &service.value) else { return table(Vec::new()) };
    let (mut top, mut local) = (Vec::new(), Vec::new());
    for (key, node) in entries.iter().filter(|(key, _)| !OWN.contains(&key.name.as_str())) {
        let list = if matches!(key.name.as_str(), "name" | "service_id" | "sidelight") { &mut top } else { &mut local };
        list.push((key.clone(), node.clone()));
    }
    if !local.is_empty() {
        top.push((Key { span: place.clone(), name: "local_server".to_owned() }, table(local)));
    }
    table(top)
}
