//! `sidelight.toml`, the host file: what a Fastly service does not know, and the services of the process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use toml::Spanned;

use super::access::{AccessField, AccessSettings};
use super::diagnostics::{Problem, Sources};
use super::document::{Key, Node, Value};
use super::host::{ClientCertificates, Listen, TlsListener, UnknownImports};
use super::kubernetes::{Kubernetes, KubernetesTable};
use super::services::{Service, ServiceEntry};
use super::settings::{CacheSettings, EnvironmentSettings, LimitSettings, MetricsTable, Preset, Settings};
use super::traces::{Sample, TraceSettings, TraceTable};
use super::{Secret, Targets, manifest, shape, state};

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
    /// Compiled modules that are kept there, and as much of fetched ones.
    #[schemars(range(min = 1, max = 16_777_216))]
    cache_dir_mib: Option<u32>,
    /// Credentials of OCI registries: a file like docker's `config.json`, or a mounted pull secret.
    #[schemars(with = "Option<String>")]
    registry_auth: Option<Spanned<String>>,
    /// Registries that are spoken to without TLS, `HOST:PORT`, beside those on this machine.
    insecure_registries: Option<Vec<String>>,
    /// Time in which a program has to be fetched; "2m" unless told otherwise.
    #[schemars(with = "Option<String>")]
    fetch_timeout: Option<Spanned<String>>,
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
    /// A folder of services that come and go: each of its folders with a `service.toml` is one.
    #[schemars(with = "Option<String>")]
    services_dir: Option<Spanned<String>>,
    /// Hosts that those may have: names, and `*.name` for every name below; default: any.
    #[schemars(with = "Option<Vec<String>>")]
    services_hosts: Option<Vec<Spanned<String>>>,
    /// Services from a Kubernetes cluster.
    kubernetes: KubernetesTable,
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
pub(super) struct HostLimits {
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
    /// All KV stores of a service on disk.
    #[schemars(range(min = 1, max = 16_777_216))]
    kv_mib: Option<u32>,
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
    /// Memory of the whole process, towards which guests are kept back; of the host only.
    #[schemars(range(min = 16, max = 16_777_216))]
    total_memory_mib: Option<u32>,
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
    /// How long nothing may come either way of a WebSocket; of the host only.
    #[schemars(with = "Option<String>")]
    tunnel_idle: Option<Spanned<String>>,
}

impl HostLimits {
    /// Keys that are given and that only the host has.
    pub(super) fn of_the_host(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("total_memory_mib", self.total_memory_mib.is_some()),
            ("keep_resident_kib", self.keep_resident_kib.is_some()),
            ("head_kib", self.head_kib.is_some()),
            ("uri", self.uri.is_some()),
            ("h2_streams", self.h2_streams.is_some()),
            ("head_timeout", self.head_timeout.is_some()),
            ("idle_timeout", self.idle_timeout.is_some()),
            ("client_timeout", self.client_timeout.is_some()),
            ("tunnel_idle", self.tunnel_idle.is_some()),
        ];
        keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key)
    }
}

/// `[environment]`: `FASTLY_…` variables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Surroundings {
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

/// A host file, decided.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Settings of the process.
    pub settings: Settings,
    /// Services, in the order of their names.
    pub services: Vec<ServiceEntry>,
    /// Services that come and go.
    pub dropins: Option<DropIns>,
    /// Where more of those come from.
    pub kubernetes: Option<Kubernetes>,
}

/// A folder of services that come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropIns {
    /// The folder; each of its folders is a service of that name.
    pub folder: PathBuf,
    /// Hosts they may have, in lower case; `*.name` is every name below; none: any.
    pub hosts: Vec<String>,
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
        let dropins = decide.dropins(&file);
        let host = Self { settings: decide.settings(&file), services, dropins, kubernetes: file.kubernetes.decide() };
        if decide.problems.is_empty() { Ok(host) } else { Err(decide.problems) }
    }

    /// Decides one service that has a document of its own: what `[services.NAME]` of a host file would have.
    pub fn decide_service(name: &str, document: Node, sources: &Sources) -> Result<ServiceEntry, Vec<Problem>> {
        let place = document.span.start..document.span.start;
        let table = |key: &str, node| Node {
            span: place.clone(),
            value: Value::Table(vec![(Key { span: place.clone(), name: key.to_owned() }, node)]),
        };
        let host = Self::decide(&table("services", table(name, document)), sources)?;
        host.services.into_iter().next().ok_or_else(Vec::new)
    }
}

pub(super) struct Decide<'a> {
    pub(super) sources: &'a Sources,
    pub(super) problems: Vec<Problem>,
}

impl Decide<'_> {
    pub(super) fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem::at(at.span(), message).hint(hint));
    }

    /// Reads a text into what it stands for.
    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, text: Option<&Spanned<String>>, hint: &str) -> Option<T> {
        let text = text?;
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(text, format!("{error:#}"), hint);
                None
            }
        }
    }

    pub(super) fn time(&mut self, text: Option<&Spanned<String>>) -> Option<Duration> {
        self.parse::<humantime::Duration>(text, "a time is written 500ms, 10s, 2m").map(Into::into)
    }

    /// A time that is not nothing.
    pub(super) fn some_time(&mut self, text: Option<&Spanned<String>>) -> Option<Duration> {
        let time = self.time(text)?;
        if let (true, Some(text)) = (time.is_zero(), text) {
            self.problem(text, "this time must be more than nothing", "a time is written 500ms, 10s, 2m");
        }
        Some(time)
    }

    fn listen(&mut self, text: Option<&Spanned<String>>) -> Option<Listen> {
        self.parse(text, "for example 127.0.0.1:7676 or unix:/run/sidelight.sock")
    }

    pub(super) fn path(&self, file: &Spanned<String>) -> PathBuf {
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

    pub(super) fn targets(&mut self, rules: Option<&Vec<Spanned<String>>>) -> Option<Targets> {
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

    fn dropins(&mut self, file: &HostFile) -> Option<DropIns> {
        let hosts: Vec<String> = file.services_hosts.iter().flatten().map(|host| self.host(host)).collect();
        match (&file.services_dir, &file.services_hosts) {
            (Some(folder), _) => Some(DropIns { folder: self.path(folder), hosts }),
            // Where it is, is decided where the folders of the process are known.
            (None, _) if file.kubernetes.is_on() => Some(DropIns { folder: PathBuf::new(), hosts }),
            (None, Some(given)) => {
                if let Some(first) = given.first() {
                    self.problem(first, "services_hosts is for services of services_dir, and there is none", "services_dir = \"services\"");
                }
                None
            }
            (None, None) => None,
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
            cache_dir_size: file.cache_dir_mib.map(|mib| u64::from(mib) << 20),
            cache_dir: file.cache_dir.as_ref().map(|folder| Some(self.path(folder)).filter(|_| !folder.get_ref().is_empty())),
            registry_auth: file.registry_auth.as_ref().map(|file| self.path(file)),
            insecure_registries: file.insecure_registries.clone(),
            fetch_timeout: self.some_time(file.fetch_timeout.as_ref()),
            services_dir: None,
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

    pub(super) fn limits(&mut self, from: &HostLimits) -> LimitSettings {
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
            kv: from.kv_mib.map(|mib| u64::from(mib) << 20),
            dynamic_backends: from.dynamic_backends,
            fields: kib(from.fields_kib),
            wall: self.some_time(from.wall.as_ref()),
            reuse_requests: from.reuse_requests,
            reuse_idle: self.time(from.reuse_idle.as_ref()),
            reuse_lifetime: self.time(from.reuse_lifetime.as_ref()),
            reuse_memory: mib(from.reuse_memory_mib),
            total_memory: from.total_memory_mib.map(|mib| u64::from(mib) << 20),
            keep_resident: kib(from.keep_resident_kib),
            head: kib(from.head_kib),
            uri: from.uri.map(|bytes| bytes as usize),
            h2_streams: from.h2_streams,
            head_timeout: self.some_time(from.head_timeout.as_ref()),
            idle_timeout: self.time(from.idle_timeout.as_ref()),
            client_timeout: self.some_time(from.client_timeout.as_ref()),
            tunnel_idle: self.some_time(from.tunnel_idle.as_ref()),
        }
    }
}

pub(super) fn environment(from: &Surroundings) -> EnvironmentSettings {
    let Surroundings { pop, region, hostname, service_version, customer_id, staging } = from.clone();
    EnvironmentSettings { pop, region, hostname, service_version, customer_id, staging }
}
