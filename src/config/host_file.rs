//! `sidelight.toml`, the host file: what a Fastly service does not know, and the services of the process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;
use toml::Spanned;

use super::access::{AccessField, AccessSettings};
use super::diagnostics::{Problem, Sources};
use super::document::{Node, Value};
use super::host::{ClientCertificates, Listen, TlsListener, UnknownImports};
use super::settings::{CacheSettings, EnvironmentSettings, LimitSettings, MetricsTable, Preset, Settings};
use super::traces::{Sample, TraceSettings, TraceTable};
use super::{ModuleSource, Secret, Targets, manifest, shape, state};

/// The host file. What is left out is as the command line's defaults have it; the command line and `SIDELIGHT_…` variables
/// go before it. Times are written `500ms`, `10s`, `2m`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostFile {
    /// Where to serve HTTP: `HOST:PORT` or `unix:FILE`.
    #[schemars(with = "Option<Vec<String>>")]
    listen: Option<Vec<Spanned<String>>>,
    /// Where to serve operators: the inspector, metrics, probes, reloads, stores, the cache.
    #[schemars(with = "Option<String>")]
    admin: Option<Spanned<String>>,
    /// A file with the token that operators must show.
    #[schemars(with = "Option<String>")]
    admin_token_file: Option<Spanned<String>>,
    /// Whether it may be reached from other machines without a token.
    admin_open: Option<bool>,
    /// Whether requests are recorded for the inspector also while nobody looks.
    inspect: Option<bool>,
    /// Names that browsers may know the operators' address by, beside addresses and `localhost`.
    admin_hosts: Option<Vec<String>>,
    /// Where to serve metrics and probes beside that, to everybody.
    #[schemars(with = "Option<String>")]
    probes: Option<Spanned<String>>,
    /// HTTPS for clients.
    tls: Option<Tls>,
    /// Networks and addresses of proxies that are believed about their clients.
    #[schemars(with = "Option<Vec<String>>")]
    trusted_proxies: Option<Vec<Spanned<String>>>,
    /// Whether their connections begin with a PROXY header.
    proxy_protocol: Option<bool>,
    /// Threads for guests and connections.
    #[schemars(range(min = 1))]
    threads: Option<u16>,
    /// Folder of compiled and fetched modules; empty: none.
    #[schemars(with = "Option<String>")]
    cache_dir: Option<Spanned<String>>,
    /// Credentials of OCI registries: a file like docker's `config.json`, or a mounted pull secret.
    #[schemars(with = "Option<String>")]
    registry_auth: Option<Spanned<String>>,
    /// Folder of the stores of services that are kept on disk, a file for each service; none by default.
    #[schemars(with = "Option<String>")]
    data_dir: Option<Spanned<String>>,
    /// A server that speaks Redis's protocol, for state that replicas share.
    redis: Option<Redis>,
    /// How much the cache of all services takes.
    cache: CacheTable,
    /// What is measured.
    metrics: MetricsTable,
    /// What the access log has of each request, in its order: names of fields; default: no access log.
    access_log: Option<Vec<AccessField>>,
    /// A folder for core dumps of guests that trap; none by default.
    #[schemars(with = "Option<String>")]
    core_dumps: Option<Spanned<String>>,
    /// OpenTelemetry traces of requests.
    traces: TraceTable,
    /// How long requests in flight may take to end after SIGTERM.
    #[schemars(with = "Option<String>")]
    drain_timeout: Option<Spanned<String>>,
    /// Where dynamic backends may point: `any`, `none`, or rules.
    #[schemars(with = "Option<Vec<String>>")]
    dynamic_backends: Option<Vec<Spanned<String>>>,
    /// Whether https backends may choose HTTP/2.
    backend_http2: Option<bool>,
    /// Where a Pushpin takes HTTP.
    #[schemars(with = "Option<String>")]
    grip_proxy: Option<Spanned<String>>,
    /// What to do about imports that are not part of the ABI.
    unknown_imports: Option<UnknownImports>,
    /// Limits of the host, and of services that have none of their own.
    limits: HostLimits,
    /// What guests are told about where they run.
    environment: Surroundings,
    /// Services by name.
    #[schemars(with = "BTreeMap<String, Service>")]
    services: BTreeMap<Spanned<String>, Service>,
}

/// `[cache]`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct CacheTable {
    /// Memory for objects; default: 256.
    #[schemars(range(min = 1))]
    memory_mib: Option<u32>,
    /// Largest object; larger ones are passed on; default: 100.
    #[schemars(range(min = 1))]
    object_mib: Option<u32>,
    /// Room in `data_dir` for objects that are to be there after a restart; default: 0, none.
    disk_mib: Option<u32>,
}

impl CacheTable {
    fn settings(self) -> CacheSettings {
        let mib = |given: Option<u32>| given.map(|mib| u64::from(mib) << 20);
        CacheSettings { memory: mib(self.memory_mib), object: mib(self.object_mib), disk: mib(self.disk_mib) }
    }
}

/// `[redis]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Redis {
    /// `redis://HOST:PORT`, or `rediss://` for TLS; of a cluster, some of its nodes.
    #[schemars(with = "UrlOrUrls")]
    url: UrlOrUrls,
    /// A file with the password.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    password_file: Option<Spanned<String>>,
    /// Whether it is a cluster; default: if there are several URLs.
    #[serde(default)]
    cluster: Option<bool>,
    /// What the names of all its keys begin with; default: sidelight.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    prefix: Option<Spanned<String>>,
    /// Longest wait for a connection and for an answer; default: 1s.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    timeout: Option<Spanned<String>>,
}

/// One URL, or several. Never shown: it may have a password.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(untagged)]
enum UrlOrUrls {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl std::fmt::Debug for UrlOrUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UrlOrUrls(…)")
    }
}

/// `[tls]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// Where: `HOST:PORT` or `unix:FILE`.
    #[schemars(with = "String")]
    listen: Spanned<String>,
    /// Certificates; the first is for clients that name no other's host.
    certificates: Vec<Certificate>,
    /// Who may issue clients' certificates, PEM; asks clients for them.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    client_ca: Option<Spanned<String>>,
    /// Whether a client without a good one is refused.
    #[serde(default)]
    client_certificate_required: bool,
}

/// A certificate chain and its key, PEM files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Certificate {
    /// The chain.
    #[schemars(with = "String")]
    certificate: Spanned<String>,
    /// The key; default: in the same file.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    key: Option<Spanned<String>>,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct HostLimits {
    /// Which of production's limits are enforced.
    preset: Option<Preset>,
    /// Sandboxes at once.
    #[schemars(range(min = 1, max = 10_000))]
    sandboxes: Option<u32>,
    /// How long a request waits for one.
    #[schemars(with = "Option<String>")]
    queue_timeout: Option<Spanned<String>>,
    /// Linear memory of one.
    #[schemars(range(min = 1, max = 4096))]
    memory_mib: Option<u32>,
    /// CPU time after which a guest is stopped.
    #[schemars(with = "Option<String>")]
    cpu: Option<Spanned<String>>,
    /// CPU time above which it is reported.
    #[schemars(with = "Option<String>")]
    cpu_report: Option<Spanned<String>>,
    /// Requests to backends that one request may lead to.
    backend_requests: Option<u32>,
    /// Entries of config stores that one request may look up.
    config_lookups: Option<u32>,
    /// Writes of one key of a KV store within a second; 0: no limit.
    kv_writes_per_second: Option<u32>,
    /// Backends that a sandbox may make.
    dynamic_backends: Option<u32>,
    /// Header fields of a request or response.
    #[schemars(range(min = 1, max = 1024))]
    fields_kib: Option<u32>,
    /// Time after which a guest is stopped.
    #[schemars(with = "Option<String>")]
    wall: Option<Spanned<String>>,
    /// Requests of one sandbox.
    #[schemars(range(min = 1))]
    reuse_requests: Option<u32>,
    /// How long a program may wait for its next request.
    #[schemars(with = "Option<String>")]
    reuse_idle: Option<Spanned<String>>,
    /// Age at which a sandbox gets no more requests.
    #[schemars(with = "Option<String>")]
    reuse_lifetime: Option<Spanned<String>>,
    /// Memory above which it gets no more.
    #[schemars(range(min = 1, max = 4096))]
    reuse_memory_mib: Option<u32>,
    /// Memory each idle slot may keep resident; of the host only.
    #[schemars(range(max = 1_048_576))]
    keep_resident_kib: Option<u32>,
    /// Longest request head; of the host only.
    #[schemars(range(min = 1, max = 1024))]
    head_kib: Option<u32>,
    /// Longest path and query in bytes; of the host only.
    #[schemars(range(min = 1, max = 65_536))]
    uri: Option<u32>,
    /// Streams of an HTTP/2 connection; of the host only.
    #[schemars(range(min = 1, max = 10_000))]
    h2_streams: Option<u32>,
    /// Time for a request head; of the host only.
    #[schemars(with = "Option<String>")]
    head_timeout: Option<Spanned<String>>,
    /// How long an idle connection stays open; of the host only.
    #[schemars(with = "Option<String>")]
    idle_timeout: Option<Spanned<String>>,
    /// Longest pause of a client within a body; of the host only.
    #[schemars(with = "Option<String>")]
    client_timeout: Option<Spanned<String>>,
}

/// `[environment]`: `FASTLY_…` variables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Surroundings {
    /// `FASTLY_POP`.
    pop: Option<String>,
    /// `FASTLY_REGION`.
    region: Option<String>,
    /// `FASTLY_HOSTNAME`.
    hostname: Option<String>,
    /// `FASTLY_SERVICE_VERSION`.
    service_version: Option<u32>,
    /// `FASTLY_CUSTOMER_ID`.
    customer_id: Option<String>,
    /// `FASTLY_IS_STAGING`.
    staging: Option<bool>,
}

/// `[services.NAME]`. Beside these it may have every key of a manifest's `[local_server]`, `sidelight`, `name` and
/// `service_id`: they are put over the manifest, key by key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Service {
    /// Host names; `*.name` takes every name below. None: every host that is no other's.
    #[schemars(with = "Vec<String>")]
    hosts: Vec<Spanned<String>>,
    /// What paths begin with; none: every path.
    #[schemars(with = "Vec<String>")]
    paths: Vec<Spanned<String>>,
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
struct Rollout {
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
const OWN: [&str; 10] =
    ["hosts", "paths", "manifest", "module", "poll", "rollout", "use_setup", "limits", "environment", "dynamic_backends"];

/// A service as the host file has it.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Its name, and where it stands.
    pub name: Spanned<String>,
    /// Lower case.
    pub hosts: Vec<String>,
    /// Each begins with a slash.
    pub paths: Vec<String>,
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

/// A host file, decided.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Settings of the process.
    pub settings: Settings,
    /// Services, in the order of their names.
    pub services: Vec<ServiceEntry>,
}

/// Whether a document is a host file and not a service's manifest.
pub fn is_host_file(document: &Node) -> bool {
    const MANIFESTS: [&str; 6] = ["local_server", "manifest_version", "setup", "scripts", "language", "authors"];
    let Value::Table(entries) = &document.value else { return false };
    let known = schema()["properties"].as_object();
    let has = |key: &str| known.is_some_and(|known| known.contains_key(key));
    !entries.iter().any(|(key, _)| MANIFESTS.contains(&key.name.as_str())) && entries.iter().any(|(key, _)| has(&key.name))
}

/// The JSON Schema of a host file.
pub fn schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
        let mut host = schemars::schema_for!(HostFile).to_value();
        let mut manifest = manifest::schema().clone();
        partial(&mut manifest);
        let definitions = manifest["$defs"].as_object().cloned().unwrap_or_default();
        let local = definitions.get("LocalServer").map(|local| local["properties"].clone()).unwrap_or_default();
        for (name, definition) in definitions {
            host["$defs"][format!("{PREFIX}{name}")] = definition;
        }
        let service = &mut host["$defs"]["Service"];
        let own = ["name", "service_id", "sidelight"].map(|key| (key.to_owned(), manifest["properties"][key].clone()));
        if let (Some(properties), Some(local)) = (service["properties"].as_object_mut(), local.as_object()) {
            properties.extend(own);
            properties.extend(local.clone());
        }
        service["additionalProperties"] = Json::Bool(false);
        host
    });
    &SCHEMA
}

/// What the definitions of a manifest are called in the host file's schema.
const PREFIX: &str = "Override";

/// Makes a schema one of documents of which any part may be left out.
fn partial(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            fields.remove("required");
            if let Some(Json::String(path)) = fields.get_mut("$ref")
                && let Some(name) = path.strip_prefix("#/$defs/")
            {
                *path = format!("#/$defs/{PREFIX}{name}");
            }
            fields.values_mut().for_each(partial);
        }
        Json::Array(items) => items.iter_mut().for_each(partial),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

impl Host {
    /// Decides a host file that has been read from `sources`, or says everything that is wrong with it.
    pub fn decide(document: &Node, sources: &Sources) -> Result<Self, Vec<Problem>> {
        let problems = shape::check(document, schema());
        if !problems.is_empty() {
            return Err(problems);
        }
        let file: HostFile = document.read().map_err(|problem| vec![problem])?;
        let mut decide = Decide { sources, problems: Vec::new() };
        let services = file.services.iter().map(|(name, from)| decide.service(name, from, document)).collect();
        let host = Self { settings: decide.settings(&file), services };
        if decide.problems.is_empty() { Ok(host) } else { Err(decide.problems) }
    }
}

struct Decide<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
}

impl Decide<'_> {
    fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem::at(at.span(), message).hint(hint));
    }

    /// Reads a text into what it stands for.
    fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, text: Option<&Spanned<String>>, hint: &str) -> Option<T> {
        let text = text?;
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(text, format!("{error:#}"), hint);
                None
            }
        }
    }

    fn time(&mut self, text: Option<&Spanned<String>>) -> Option<Duration> {
        self.parse::<humantime::Duration>(text, "a time is written 500ms, 10s, 2m").map(Into::into)
    }

    /// A time that is not nothing.
    fn some_time(&mut self, text: Option<&Spanned<String>>) -> Option<Duration> {
        let time = self.time(text)?;
        if let (true, Some(text)) = (time.is_zero(), text) {
            self.problem(text, "this time must be more than nothing", "a time is written 500ms, 10s, 2m");
        }
        Some(time)
    }

    fn listen(&mut self, text: Option<&Spanned<String>>) -> Option<Listen> {
        self.parse(text, "for example 127.0.0.1:7676 or unix:/run/sidelight.sock")
    }

    fn path(&self, file: &Spanned<String>) -> PathBuf {
        self.sources.file(file.span().start).parent().unwrap_or(Path::new("")).join(file.get_ref())
    }

    fn redis(&mut self, from: &Redis) -> Option<state::Redis> {
        let urls = match &from.url {
            UrlOrUrls::One(url) => url.clone(),
            UrlOrUrls::Several(urls) => urls.join(","),
        };
        let mut redis = match state::Redis::parse(&urls) {
            Ok(redis) => redis,
            Err(error) => {
                self.problems.push(Problem { span: None, message: format!("redis.url: {error}"), hint: None });
                return None;
            }
        };
        if let Some(file) = &from.password_file {
            redis.password_file = Some(self.path(file));
        }
        redis.cluster = from.cluster.unwrap_or(redis.cluster);
        if let Some(prefix) = &from.prefix {
            if prefix.get_ref().is_empty() || prefix.get_ref().contains(['{', '}']) {
                self.problem(prefix, "no prefix: it is empty, or has { or }", "for example sidelight-staging");
            }
            redis.prefix.clone_from(prefix.get_ref());
        }
        redis.timeout = self.some_time(from.timeout.as_ref()).unwrap_or(redis.timeout);
        Some(redis)
    }

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

    fn targets(&mut self, rules: Option<&Vec<Spanned<String>>>) -> Option<Targets> {
        let rules = rules?;
        let text = rules.iter().map(|rule| rule.get_ref().as_str()).collect::<Vec<_>>().join(",");
        match (text.parse(), rules.first()) {
            (Ok(targets), _) => Some(targets),
            (Err(error), Some(first)) => {
                let span = first.span().start..rules.last().map_or(first.span().end, |last| last.span().end);
                self.problems.push(Problem::at(span, error).hint("[\"any\"], [\"none\"], or a list of rules"));
                None
            }
            (Err(_), None) => Some(Targets::none()),
        }
    }

    fn settings(&mut self, file: &HostFile) -> Settings {
        let network = |text: &str| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let trusted = file.trusted_proxies.as_ref().map(|list| {
            let mut read = Vec::new();
            for text in list {
                match network(text.get_ref()) {
                    Ok(network) => read.push(network),
                    Err(_) => {
                        let message = format!("`{}` is no address and no network", text.get_ref());
                        self.problem(text, message, "for example 10.0.0.0/8 or 2001:db8::/32");
                    }
                }
            }
            read
        });
        let tls = file.tls.as_ref().and_then(|tls| {
            let address = self.listen(Some(&tls.listen))?;
            if tls.certificates.is_empty() {
                self.problem(
                    &tls.listen,
                    "HTTPS needs a certificate",
                    "certificates = [{ certificate = \"chain.pem\", key = \"key.pem\" }]",
                );
            }
            let pair = |pair: &Certificate| {
                let certificate = self.path(&pair.certificate);
                let key = pair.key.as_ref().map_or_else(|| certificate.clone(), |key| self.path(key));
                (certificate, key)
            };
            let certificates = tls.certificates.iter().map(pair).collect();
            let required = tls.client_certificate_required;
            let clients = tls.client_ca.as_ref().map(|roots| ClientCertificates { roots: self.path(roots), required });
            Some(TlsListener { address, certificates, clients })
        });
        Settings {
            listen: file.listen.as_ref().map(|list| list.iter().filter_map(|text| self.listen(Some(text))).collect()),
            tls,
            admin: self.listen(file.admin.as_ref()),
            admin_token: self.secret(file.admin_token_file.as_ref()),
            admin_open: file.admin_open,
            inspect: file.inspect,
            admin_hosts: file.admin_hosts.clone(),
            probes: self.listen(file.probes.as_ref()),
            threads: file.threads.map(usize::from),
            cache_dir: file.cache_dir.as_ref().map(|folder| Some(self.path(folder)).filter(|_| !folder.get_ref().is_empty())),
            registry_auth: file.registry_auth.as_ref().map(|file| self.path(file)),
            data_dir: file.data_dir.as_ref().filter(|folder| !folder.get_ref().is_empty()).map(|folder| self.path(folder)),
            redis: file.redis.as_ref().and_then(|redis| self.redis(redis)),
            cache: file.cache.settings(),
            drain_timeout: self.time(file.drain_timeout.as_ref()),
            limits: self.limits(&file.limits),
            environment: environment(&file.environment),
            trusted_proxies: trusted,
            proxy_protocol: file.proxy_protocol,
            dynamic_targets: self.targets(file.dynamic_backends.as_ref()),
            backend_http2: file.backend_http2,
            grip_proxy: self.parse::<SocketAddr>(file.grip_proxy.as_ref(), "for example 127.0.0.1:7677"),
            unknown_imports: file.unknown_imports,
            profile: None,
            hostcall_metrics: file.metrics.hostcalls,
            core_dumps: file.core_dumps.as_ref().map(|folder| self.path(folder)),
            access: file.access_log.as_ref().map(|fields| AccessSettings { fields: fields.clone() }),
            traces: self.traces(&file.traces),
        }
    }

    /// What a file has that nobody is to see.
    fn secret(&mut self, file: Option<&Spanned<String>>) -> Option<Secret> {
        let file = file?;
        let path = self.path(file);
        let read = Secret::of_file(&path);
        if let Err(error) = &read {
            self.problem(file, format!("reading {}: {error}", path.display()), "a file with the secret and nothing else");
        }
        read.ok()
    }

    fn traces(&mut self, from: &TraceTable) -> TraceSettings {
        let mut headers: Vec<_> =
            from.headers.iter().map(|(name, value)| (name.clone(), Secret::new(value.clone().into_bytes()))).collect();
        headers.extend(self.secret(from.authorization_file.as_ref()).map(|value| ("authorization".to_owned(), value)));
        let certificate = from.certificate_file.as_ref().map(|file| self.path(file));
        let key = from.key_file.as_ref().map(|file| self.path(file));
        let count = |given: Option<u32>| given.map(|count| count as usize);
        TraceSettings {
            endpoint: from.endpoint.as_ref().map(|endpoint| endpoint.get_ref().clone()),
            protocol: from.protocol,
            headers: Some(headers).filter(|headers| !headers.is_empty()),
            gzip: from.gzip,
            ca: from.ca_file.as_ref().map(|file| self.path(file)),
            client: certificate.map(|certificate| (certificate.clone(), key.unwrap_or(certificate))),
            timeout: self.time(from.timeout.as_ref()),
            queue: count(from.queue),
            batch: count(from.batch),
            delay: self.time(from.delay.as_ref()),
            sample: self.parse::<Sample>(from.sample.as_ref(), "for example 1% or 10/s"),
            parent: from.parent,
            hostcalls: from.hostcalls,
            slow_hostcall: self.time(from.slow_hostcall.as_ref()),
            max_hostcalls: from.max_hostcalls.map(usize::from),
            keep_errors: from.keep_errors,
            keep_slow: self.time(from.keep_slow.as_ref()),
            force: self.secret(from.force_file.as_ref()),
            propagate: from.propagate,
            tell_guest: from.tell_guest,
        }
    }

    fn limits(&mut self, from: &HostLimits) -> LimitSettings {
        let mib = |given: Option<u32>| given.map(|mib| (mib as usize) << 20);
        let kib = |given: Option<u32>| given.map(|kib| (kib as usize) << 10);
        LimitSettings {
            preset: from.preset,
            sandboxes: from.sandboxes,
            queue_timeout: self.time(from.queue_timeout.as_ref()),
            memory: mib(from.memory_mib),
            cpu: self.some_time(from.cpu.as_ref()),
            cpu_report: self.time(from.cpu_report.as_ref()),
            backend_requests: from.backend_requests,
            config_lookups: from.config_lookups,
            kv_writes_per_second: from.kv_writes_per_second,
            dynamic_backends: from.dynamic_backends,
            fields: kib(from.fields_kib),
            wall: self.some_time(from.wall.as_ref()),
            reuse_requests: from.reuse_requests,
            reuse_idle: self.time(from.reuse_idle.as_ref()),
            reuse_lifetime: self.time(from.reuse_lifetime.as_ref()),
            reuse_memory: mib(from.reuse_memory_mib),
            keep_resident: kib(from.keep_resident_kib),
            head: kib(from.head_kib),
            uri: from.uri.map(|bytes| bytes as usize),
            h2_streams: from.h2_streams,
            head_timeout: self.time(from.head_timeout.as_ref()),
            idle_timeout: self.time(from.idle_timeout.as_ref()),
            client_timeout: self.time(from.client_timeout.as_ref()),
        }
    }

    fn service(&mut self, name: &Spanned<String>, from: &Service, document: &Node) -> ServiceEntry {
        if name.get_ref().is_empty() {
            self.problem(name, "a service needs a name", "[services.NAME]");
        }
        let mut hosts = Vec::new();
        for host in &from.hosts {
            let text = host.get_ref().to_ascii_lowercase();
            let plain = text.strip_prefix("*.").unwrap_or(&text);
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
            let has_port = plain.contains(':') && !(plain.starts_with('[') && plain.ends_with(']'));
            if plain.is_empty() || has_port || !plain.bytes().all(fine) {
                self.problem(host, format!("`{text}` is no host"), "for example shop.example.com or *.preview.example.com, without a port");
            }
            hosts.push(text);
        }
        for path in from.paths.iter().filter(|path| !path.get_ref().starts_with('/')) {
            self.problem(path, "a path begins with a slash", "for example /api");
        }
        let limits = &from.limits;
        let of_the_host = [
            ("keep_resident_kib", limits.keep_resident_kib.is_some()),
            ("head_kib", limits.head_kib.is_some()),
            ("uri", limits.uri.is_some()),
            ("h2_streams", limits.h2_streams.is_some()),
            ("head_timeout", limits.head_timeout.is_some()),
            ("idle_timeout", limits.idle_timeout.is_some()),
            ("client_timeout", limits.client_timeout.is_some()),
        ];
        for (key, _) in of_the_host.iter().filter(|(_, given)| *given) {
            let message = format!("service `{}` has limits.{key}, which only the host has", name.get_ref());
            self.problem(name, message, "it belongs to [limits], outside of the services");
        }
        ServiceEntry {
            rollout: from.rollout.as_ref().map(|rollout| self.rollout(rollout, &hosts)),
            hosts,
            paths: from.paths.iter().map(|path| path.get_ref().clone()).collect(),
            manifest: from.manifest.as_ref().map(|file| (file.clone(), self.path(file))),
            module: from.module.as_ref().and_then(|text| self.module(text)),
            poll: self.some_time(from.poll.as_ref()),
            use_setup: from.use_setup,
            limits: self.limits(&from.limits),
            environment: environment(&from.environment),
            dynamic_targets: self.targets(from.dynamic_backends.as_ref()),
            overrides: overrides(name, document),
            name: name.clone(),
        }
    }
}

fn environment(from: &Surroundings) -> EnvironmentSettings {
    let Surroundings { pop, region, hostname, service_version, customer_id, staging } = from.clone();
    EnvironmentSettings { pop, region, hostname, service_version, customer_id, staging }
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
        top.push((super::document::Key { span: place.clone(), name: "local_server".to_owned() }, table(local)));
    }
    table(top)
}
