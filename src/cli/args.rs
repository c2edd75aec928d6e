//! The arguments of `serve` and its kin. Nothing has a default here: what is not given may be in a host file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::app::Exit;
use crate::app::load::Launch;
use crate::config::access::AccessSettings;
use crate::config::host::{ClientCertificates, Listen, Profile, TlsListener, UnknownImports};
use crate::config::settings::{CacheSettings, EnvironmentSettings, LimitSettings, Machine, Preset, Settings};
use crate::config::state::Redis;
use crate::config::traces::{Protocol, Sample, TraceSettings};
use crate::config::{ModuleSource, Secret, Targets};
use crate::telemetry::logs;

/// Sets of limits, as the command line spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PresetName {
    Staging,
    Production,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnknownImport {
    LinkError,
    Trap,
}

/// What is to be served, and how.
#[derive(Args, Debug)]
pub struct Serve {
    /// The manifest (a .toml or .json file; default ./fastly.toml), the host file (default ./sidelight.toml, if it is
    /// there), and the program (default bin/main.wasm beside the manifest; also a package.tar.gz, https://…#sha256=DIGEST,
    /// oci://REGISTRY/REPOSITORY:TAG), in any order.
    #[arg(value_name = "FILE", num_args = 0..=3)]
    files: Vec<String>,

    /// The manifest, or the host file; may be given twice, for both.
    #[arg(short = 'C', long = "config", value_name = "FILE", env = "SIDELIGHT_CONFIG", value_delimiter = ',')]
    config: Vec<PathBuf>,

    /// Take what [local_server] lacks from the manifest's [setup].
    #[arg(long, env = "SIDELIGHT_USE_SETUP")]
    use_setup: bool,

    /// Do not read files again when they change; SIGHUP and POST /reload still do.
    #[arg(long, env = "SIDELIGHT_NO_WATCH")]
    pub no_watch: bool,

    /// Where to serve HTTP: HOST:PORT (port 0 takes a free one) or unix:FILE; several with commas [default: 127.0.0.1:7676].
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_ADDR", value_delimiter = ',')]
    addr: Option<Vec<Listen>>,

    /// Where to serve operators: the inspector at /inspector/, GET /metrics, /livez, /readyz, /status, POST /reload, KV stores
    /// under /kv, purges under /service and /purge, the cache under /cache (all of them: /openapi.json); nowhere by default.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_ADMIN")]
    admin: Option<Listen>,

    /// A file with the token that operators must show (Authorization: Bearer); none by default.
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,

    /// Serve operators on an address that other machines reach without a token: something in front sees to who may ask.
    #[arg(long, env = "SIDELIGHT_ADMIN_OPEN")]
    admin_open: bool,

    /// Record requests for the inspector also while nobody looks at it.
    #[arg(long, env = "SIDELIGHT_INSPECT")]
    inspect: bool,

    /// Names that browsers may know the operators' address by, with commas, beside addresses and localhost.
    #[arg(long, value_name = "NAMES", env = "SIDELIGHT_ADMIN_HOSTS", value_delimiter = ',')]
    admin_host: Option<Vec<String>>,

    /// Where to serve metrics and probes beside that, to everybody: GET /metrics, /livez, /readyz; nowhere by default.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_PROBES")]
    probes: Option<Listen>,

    /// Proxies in front, networks and addresses with commas, that are believed about their clients:
    /// X-Forwarded-For, X-Forwarded-Proto and Forwarded count when they come from these.
    #[arg(long, value_name = "NETS", env = "SIDELIGHT_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Option<Vec<IpNet>>,

    /// Connections are from trusted proxies only, and begin with a PROXY header (version 1 or 2).
    #[arg(long, env = "SIDELIGHT_PROXY_PROTOCOL")]
    proxy_protocol: bool,

    #[command(flatten)]
    tls: TlsArgs,

    /// More log: -v also of libraries, -vv debug, -vvv trace. RUST_LOG wins.
    #[arg(short, long = "verbose", action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// How log lines look.
    #[arg(long, value_enum, default_value_t = logs::Format::Text, env = "SIDELIGHT_LOG_FORMAT")]
    pub log_format: logs::Format,

    /// Log a line for each request, with these fields: usual, or names with commas (time, request_id, trace_id, service, client,
    /// method, scheme, host, path, query, version, status, bytes, duration_ms, user_agent, referer).
    #[arg(long, value_name = "FIELDS", env = "SIDELIGHT_ACCESS_LOG", num_args = 0..=1, require_equals = true, default_missing_value = "usual")]
    access_log: Option<AccessSettings>,

    /// Write core dumps of guests that trap into this folder, for wasm debuggers. They hold the guest's memory.
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_CORE_DUMPS")]
    core_dumps: Option<PathBuf>,

    /// Accepted for Viceroy's sake: the guest's standard output is always logged.
    #[arg(long, hide = true)]
    log_stdout: bool,

    /// Accepted for Viceroy's sake: the guest's standard error is always logged.
    #[arg(long, hide = true)]
    log_stderr: bool,

    /// Record where programs spend their CPU time: guest[,FOLDER[,SAMPLE]] (a file for Firefox's profiler for each sandbox, in
    /// guest-profiles, a sample every 50us), perfmap or jitdump (for Linux's perf). Costs speed.
    #[arg(long, value_name = "KIND", env = "SIDELIGHT_PROFILE", value_parser = |text: &str| Profile::parse(text, false))]
    profile: Option<Profile>,

    #[command(flatten)]
    viceroy: ViceroyArgs,

    /// Where dynamic backends may point: any, none, or a list of public (addresses of the public
    /// Internet), networks, addresses, names and *.names, with commas [default: public].
    #[arg(long, value_name = "RULES", env = "SIDELIGHT_DYNAMIC_BACKENDS")]
    dynamic_backends: Option<Targets>,

    /// Speak HTTP/2 to https backends that offer it; production speaks HTTP/1.1 unless they are for gRPC.
    #[arg(long, env = "SIDELIGHT_BACKEND_HTTP2")]
    backend_http2: bool,

    /// Where a Pushpin takes HTTP, for programs that hand clients to Fanout.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_GRIP_PROXY", value_parser = address)]
    grip_proxy: Option<SocketAddr>,

    /// Viceroy's spelling: --grip-proxy 127.0.0.1:PORT.
    #[arg(long, value_name = "PORT", hide = true, conflicts_with = "grip_proxy")]
    local_pushpin_proxy_port: Option<u16>,

    /// What to do about imports that are not part of the ABI [default: link-error].
    #[arg(long, value_enum)]
    unknown_import_behavior: Option<UnknownImport>,

    /// Folder of compiled modules [default: sidelight in the user's cache folder].
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Compiled modules that are kept there, and as much of fetched ones, in MiB: what was not used for longest goes [default: 4096].
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_CACHE_DIR_SIZE", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    cache_dir_size: Option<u32>,

    /// Credentials of OCI registries, a file like docker's config.json [default: docker's].
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_REGISTRY_AUTH")]
    registry_auth: Option<PathBuf>,

    /// Registries that are spoken to without TLS, HOST:PORT with commas, beside those on this machine.
    #[arg(long, value_name = "REGISTRIES", env = "SIDELIGHT_INSECURE_REGISTRIES", value_delimiter = ',')]
    insecure_registry: Option<Vec<String>>,

    /// Time in which a program has to be fetched, of https://… and oci://… [default: 2m].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_FETCH_TIMEOUT", value_parser = some_time)]
    fetch_timeout: Option<Duration>,

    /// Folder of services that come and go: each of its folders with a service.toml is one.
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_SERVICES_DIR")]
    services_dir: Option<PathBuf>,

    /// Folder of the KV stores of services, a file for each service; without one (and without --redis) they are in memory
    /// and gone at the end.
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// A server that speaks Redis's protocol, for state that replicas share (KV stores, rate counters, penalty boxes, purges):
    /// redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss:// for TLS; several nodes of a cluster with commas.
    #[arg(long, value_name = "URL", env = "SIDELIGHT_REDIS", hide_env_values = true)]
    redis: Option<String>,

    /// Memory for cached objects, of all services, in MiB; default: 256, or a quarter of what the process may have if that is less.
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_CACHE_MEMORY", value_parser = clap::value_parser!(u32).range(1..))]
    cache_memory: Option<u32>,

    /// Largest cached object, in MiB; larger ones are passed on; default: 100.
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_CACHE_OBJECT", value_parser = clap::value_parser!(u32).range(1..))]
    cache_object: Option<u32>,

    /// Room in the data folder for cached objects that are to be there after a restart, in MiB; default: 0, none are.
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_CACHE_DISK")]
    cache_disk: Option<u32>,

    /// Compile at every start (of cached responses, see sidelight.cache in docs/caching.md).
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    traces: TraceArgs,

    #[command(flatten)]
    guest: GuestArgs,
}

/// Viceroy's flags that mean nothing here, or not yet.
#[derive(Args, Debug)]
struct ViceroyArgs {
    #[arg(long = "experimental_modules", hide = true, value_name = "MODULE")]
    experimental_modules: Vec<String>,

    #[arg(long, hide = true)]
    adapt: bool,

    #[arg(long, hide = true)]
    wasm_exceptions: bool,

    #[arg(long, hide = true)]
    wasm_gc: bool,

    #[arg(long, hide = true)]
    wasm_cm_gc: bool,

    /// The Fastly CLI's, passed on.
    #[arg(long, hide = true)]
    debug: bool,
}

impl ViceroyArgs {
    fn notes(&self) -> impl Iterator<Item = String> {
        let given = [
            ("--experimental_modules", !self.experimental_modules.is_empty(), "there are no such modules here"),
            ("--adapt", self.adapt, "components are not run yet"),
            ("--wasm-exceptions", self.wasm_exceptions, "programs with exceptions are not run yet"),
            ("--wasm-gc", self.wasm_gc, "programs with garbage collection are not run yet"),
            ("--wasm-cm-gc", self.wasm_cm_gc, "components are not run yet"),
        ];
        given.into_iter().filter(|(_, given, _)| *given).map(|(flag, _, why)| format!("{flag} has no effect: {why}"))
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "TLS for clients")]
struct TlsArgs {
    /// Where to serve HTTPS; nowhere by default.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_TLS_ADDR", requires = "tls_cert")]
    tls_addr: Option<Listen>,

    /// Certificate chain, PEM; several times for several hosts. The first serves unknown names.
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_TLS_CERT", value_delimiter = ',', requires = "tls_addr")]
    tls_cert: Vec<PathBuf>,

    /// Its private key, PEM, in the order of the certificates [default: in the certificate's file].
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_TLS_KEY", value_delimiter = ',', requires = "tls_cert")]
    tls_key: Vec<PathBuf>,

    /// Ask clients for certificates of these issuers, PEM; programs learn what came.
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_CLIENT_CA", requires = "tls_addr")]
    client_ca: Option<PathBuf>,

    /// Refuse clients without a good certificate.
    #[arg(long, env = "SIDELIGHT_CLIENT_CERT_REQUIRED", requires = "client_ca")]
    client_cert_required: bool,
}

impl TlsArgs {
    fn listener(&self) -> Result<Option<TlsListener>, Exit> {
        let Some(address) = self.tls_addr.clone() else { return Ok(None) };
        if !self.tls_key.is_empty() && self.tls_key.len() != self.tls_cert.len() {
            let (keys, certificates) = (self.tls_key.len(), self.tls_cert.len());
            return Err(Exit::Usage(format!(
                "--tls-key is given {keys} times and --tls-cert {certificates} times: give one key for each certificate"
            )));
        }
        let keys = if self.tls_key.is_empty() { &self.tls_cert } else { &self.tls_key };
        let certificates = self.tls_cert.iter().cloned().zip(keys.iter().cloned()).collect();
        let clients = self.client_ca.clone().map(|roots| ClientCertificates { roots, required: self.client_cert_required });
        Ok(Some(TlsListener { address, certificates, clients }))
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Threads for guests and connections [default: the number of cores].
    #[arg(long, value_name = "N", env = "SIDELIGHT_THREADS", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Sandboxes that may run at once [default: 1000].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_SANDBOXES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_sandboxes: Option<u32>,

    /// How long a request waits for a free sandbox before it gets 503 [default: 1s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_QUEUE_TIMEOUT", value_parser = time)]
    queue_timeout: Option<Duration>,

    /// Which limits of production are enforced: those that protect the host, the others being reported; or all (CPU time,
    /// requests to backends, dynamic backends, header fields, config lookups, KV writes) [default: staging].
    #[arg(long, value_enum, env = "SIDELIGHT_LIMITS")]
    limits: Option<PresetName>,

    /// CPU time after which a guest is stopped [default: 5s; 50ms with --limits production].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_CPU_LIMIT", value_parser = some_time)]
    cpu_limit: Option<Duration>,

    /// Requests to backends that one request may lead to [default: 1000; 32 with --limits production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_BACKEND_REQUESTS")]
    max_backend_requests: Option<u32>,

    /// Entries of config stores and dictionaries that one request may look up [default: any number; 32 with --limits
    /// production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_CONFIG_LOOKUPS")]
    max_config_lookups: Option<u32>,

    /// Writes of one key of a KV store within a second; 0: any number [default: 0; 1 with --limits production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_KV_WRITES")]
    max_kv_writes: Option<u32>,

    /// Backends that a program may make in one sandbox [default: 1000; 200 with --limits production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_DYNAMIC_BACKENDS")]
    max_dynamic_backends: Option<u32>,

    /// Header fields of a request (more is 503) and of a backend's response (more is a failed send), in KiB [default: what
    /// --max-head allows; 69 with --limits production].
    #[arg(long, value_name = "KIB", env = "SIDELIGHT_MAX_FIELDS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_fields: Option<u32>,

    /// All KV stores of a service on disk (--data-dir), in MiB; a write of more fails [default: 4096].
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_KV_LIMIT", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    kv_limit: Option<u32>,

    /// CPU time above which a guest is reported: production's limit [default: 50ms].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_CPU_REPORT", value_parser = time)]
    cpu_report: Option<Duration>,

    /// Time after which a guest is stopped, waiting included [default: 2m].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_WALL_LIMIT", value_parser = some_time)]
    wall_limit: Option<Duration>,

    /// Linear memory of one sandbox, in MiB [default: 128].
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_MEMORY_LIMIT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    memory_limit: Option<u32>,

    /// Requests one sandbox may serve when its program asks for more than one; 1 is no reuse [default: 100].
    #[arg(long, value_name = "N", env = "SIDELIGHT_REUSE_REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    reuse_requests: Option<u32>,

    /// How long a program may wait for its next request [default: 10s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_REUSE_IDLE", value_parser = time)]
    reuse_idle: Option<Duration>,

    /// Age at which a sandbox gets no more requests [default: 2m].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_REUSE_LIFETIME", value_parser = time)]
    reuse_lifetime: Option<Duration>,

    /// Linear memory above which a sandbox gets no more requests, in MiB [default: 128].
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_REUSE_MEMORY", value_parser = clap::value_parser!(u32).range(1..=4096))]
    reuse_memory: Option<u32>,

    /// Memory of the whole process, in MiB: from 85 % of it on large guests get no more, from 95 % on no guest does [default: what its
    /// container or the machine has].
    #[arg(long, value_name = "MIB", env = "SIDELIGHT_TOTAL_MEMORY", value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    total_memory: Option<u32>,

    /// Memory each idle sandbox slot may keep resident, in KiB [default: 2048].
    #[arg(long, value_name = "KIB", env = "SIDELIGHT_KEEP_RESIDENT", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    keep_resident: Option<u32>,

    /// Longest request head, in KiB; more is 431 [default: 128].
    #[arg(long, value_name = "KIB", env = "SIDELIGHT_MAX_HEAD", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_head: Option<u32>,

    /// Longest path and query, in bytes; more is 414 [default: 8192].
    #[arg(long, value_name = "BYTES", env = "SIDELIGHT_MAX_URI", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_uri: Option<u32>,

    /// Streams a client may have open on one HTTP/2 connection [default: 100].
    #[arg(long, value_name = "N", env = "SIDELIGHT_H2_STREAMS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    h2_streams: Option<u32>,

    /// Time for a whole request head [default: 10s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_HEAD_TIMEOUT", value_parser = some_time)]
    head_timeout: Option<Duration>,

    /// How long an idle connection stays open [default: 60s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_IDLE_TIMEOUT", value_parser = time)]
    idle_timeout: Option<Duration>,

    /// Longest pause a client may make in sending a body or taking a response [default: 60s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_CLIENT_TIMEOUT", value_parser = some_time)]
    client_timeout: Option<Duration>,

    /// How long nothing may come either way of a WebSocket that a backend has taken over [default: 10m].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_TUNNEL_IDLE", value_parser = some_time)]
    tunnel_idle: Option<Duration>,

    /// How long requests in flight may take to end after SIGTERM [default: 30s].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_DRAIN_TIMEOUT", value_parser = time)]
    drain_timeout: Option<Duration>,
}

impl LimitArgs {
    fn settings(&self) -> LimitSettings {
        let mib = |given: Option<u32>| given.map(|mib| (mib as usize) << 20);
        let kib = |given: Option<u32>| given.map(|kib| (kib as usize) << 10);
        LimitSettings {
            preset: self.limits.map(|preset| match preset {
                PresetName::Staging => Preset::Staging,
                PresetName::Production => Preset::Production,
            }),
            sandboxes: self.max_sandboxes,
            queue_timeout: self.queue_timeout,
            memory: mib(self.memory_limit),
            cpu: self.cpu_limit,
            cpu_report: self.cpu_report,
            backend_requests: self.max_backend_requests,
            config_lookups: self.max_config_lookups,
            kv_writes_per_second: self.max_kv_writes,
            kv: self.kv_limit.map(|mib| u64::from(mib) << 20),
            dynamic_backends: self.max_dynamic_backends,
            fields: kib(self.max_fields),
            wall: self.wall_limit,
            reuse_requests: self.reuse_requests,
            reuse_idle: self.reuse_idle,
            reuse_lifetime: self.reuse_lifetime,
            reuse_memory: mib(self.reuse_memory),
            total_memory: self.total_memory.map(|mib| u64::from(mib) << 20),
            keep_resident: kib(self.keep_resident),
            head: kib(self.max_head),
            uri: self.max_uri.map(|bytes| bytes as usize),
            h2_streams: self.h2_streams,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            client_timeout: self.client_timeout,
            tunnel_idle: self.tunnel_idle,
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Traces (the host file's [traces] and OTEL_… variables say more)")]
struct TraceArgs {
    /// Where OpenTelemetry spans of requests go, by OTLP: http://HOST:4318, or with --otlp-protocol grpc http://HOST:4317;
    /// nowhere by default.
    #[arg(long, value_name = "URL", env = "SIDELIGHT_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,

    /// How: http/protobuf or grpc [default: http/protobuf].
    #[arg(long, value_enum, env = "SIDELIGHT_OTLP_PROTOCOL")]
    otlp_protocol: Option<ProtocolName>,

    /// Which requests are traced, unless their client's trace context says: all, none, 1%, 10/s [default: all].
    #[arg(long, value_name = "WHICH", env = "SIDELIGHT_TRACE")]
    trace: Option<Sample>,
}

/// Protocols, as the command line spells them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolName {
    #[value(name = "http/protobuf")]
    Http,
    Grpc,
}

impl TraceArgs {
    fn settings(&self) -> TraceSettings {
        TraceSettings {
            endpoint: self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
            protocol: self.otlp_protocol.map(|protocol| match protocol {
                ProtocolName::Http => Protocol::Http,
                ProtocolName::Grpc => Protocol::Grpc,
            }),
            sample: self.trace,
            ..TraceSettings::default()
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What the guest is told")]
struct GuestArgs {
    /// FASTLY_POP [default: SDL].
    #[arg(long, env = "SIDELIGHT_POP")]
    pop: Option<String>,

    /// FASTLY_REGION [default: Sidelight].
    #[arg(long, env = "SIDELIGHT_REGION")]
    region: Option<String>,

    /// FASTLY_HOSTNAME [default: localhost].
    #[arg(long, env = "SIDELIGHT_HOSTNAME")]
    hostname: Option<String>,

    /// FASTLY_SERVICE_VERSION. SDKs take 0 for a local test server and skip things [default: 1].
    #[arg(long, env = "SIDELIGHT_SERVICE_VERSION")]
    service_version: Option<u32>,

    /// FASTLY_CUSTOMER_ID [default: 0000000000000000000000].
    #[arg(long, env = "SIDELIGHT_CUSTOMER_ID")]
    customer_id: Option<String>,

    /// Whether FASTLY_IS_STAGING is 1 (true) or 0 (false) [default: true].
    #[arg(long, action = clap::ArgAction::Set, env = "SIDELIGHT_STAGING")]
    staging: Option<bool>,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a time is written 500ms, 10s, 2m"))
}

/// A time that is not nothing.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(time) }
}

/// An address of another process.
fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<Listen>()? {
        Listen::Tcp(address) => Ok(address),
        Listen::Unix(_) => Err("a Unix socket cannot be used here".to_owned()),
    }
}

/// The token of operators.
pub fn token(file: Option<&Path>) -> Result<Option<Secret>, Exit> {
    let read = |file: &Path| Secret::of_file(file).map_err(|error| Exit::Usage(format!("--admin-token-file {}: {error}", file.display())));
    file.map(read).transpose()
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("`{text}` is no address and no network (10.0.0.0/8, 2001:db8::/32)"))
}

/// A server's URL, of which an error shows nothing: it may have a password. Empty is none.
pub fn redis(url: Option<&str>) -> Result<Option<Redis>, Exit> {
    let url = url.filter(|url| !url.is_empty());
    url.map(Redis::parse).transpose().map_err(|error| Exit::Usage(format!("--redis, or SIDELIGHT_REDIS: {error}")))
}

impl Serve {
    /// What all this asks for.
    pub fn launch(&self) -> Result<Launch, Exit> {
        let (documents, program) = self.files()?;
        Ok(Launch { settings: self.settings()?, documents, program, use_setup: self.use_setup, ..machine() })
    }

    /// What was given and has no effect.
    pub fn notes(&self) -> Vec<String> {
        self.viceroy.notes().collect()
    }

    /// Documents and the program, as they are given or as they are found.
    pub fn files(&self) -> Result<(Vec<PathBuf>, Option<ModuleSource>), Exit> {
        let is_document = |file: &Path| file.extension().is_some_and(|extension| extension == "toml" || extension == "json");
        let mut documents = self.config.clone();
        let mut program: Option<ModuleSource> = None;
        for file in &self.files {
            if is_document(Path::new(file)) {
                documents.push(PathBuf::from(file));
                continue;
            }
            let source = ModuleSource::parse(file, Path::new("")).map_err(Exit::Usage)?;
            if let Some(first) = program.replace(source) {
                return Err(Exit::Usage(format!("two programs: {first} and {file}\n  hint: one manifest (.toml) and one program")));
            }
        }
        if documents.len() > 2 {
            return Err(Exit::Usage("more than two documents\n  hint: one manifest and one host file at most".to_owned()));
        }
        // A package has its manifest within.
        let packed = program.as_ref().and_then(ModuleSource::file).is_some_and(|file| {
            let name = file.to_string_lossy();
            name.ends_with(".tar.gz") || name.ends_with(".tgz")
        });
        if documents.is_empty() && !packed {
            // A program by itself is one service.
            let names: &[&str] = if program.is_some() { &["fastly.toml"] } else { &["sidelight.toml", "fastly.toml"] };
            let found = names.iter().map(PathBuf::from).find(|file| file.exists());
            documents.extend(found);
        }
        if documents.is_empty() && program.is_none() {
            return Err(Exit::Usage(
                "nothing to serve: there is no ./fastly.toml\n  hint: sidelight serve APP.WASM, or sidelight serve FASTLY.TOML APP.WASM"
                    .to_owned(),
            ));
        }
        Ok((documents, program))
    }

    fn settings(&self) -> Result<Settings, Exit> {
        let given = |flag: bool| flag.then_some(true);
        let mib = |given: Option<u32>| given.map(|mib| u64::from(mib) << 20);
        Ok(Settings {
            listen: self.addr.clone(),
            tls: self.tls.listener()?,
            admin: self.admin.clone(),
            admin_token: token(self.admin_token_file.as_deref())?,
            admin_open: given(self.admin_open),
            inspect: given(self.inspect),
            admin_hosts: self.admin_host.clone(),
            probes: self.probes.clone(),
            threads: self.limits.threads.map(usize::from),
            cache_dir_size: mib(self.cache_dir_size),
            cache_dir: if self.no_cache { Some(None) } else { self.cache_dir.clone().map(Some) },
            registry_auth: self.registry_auth.clone(),
            insecure_registries: self.insecure_registry.clone(),
            fetch_timeout: self.fetch_timeout,
            services_dir: self.services_dir.clone(),
            data_dir: self.data_dir.clone().filter(|folder| !folder.as_os_str().is_empty()),
            redis: redis(self.redis.as_deref())?,
            cache: CacheSettings { memory: mib(self.cache_memory), object: mib(self.cache_object), disk: mib(self.cache_disk) },
            drain_timeout: self.limits.drain_timeout,
            limits: self.limits.settings(),
            environment: EnvironmentSettings {
                pop: self.guest.pop.clone(),
                region: self.guest.region.clone(),
                hostname: self.guest.hostname.clone(),
                service_version: self.guest.service_version,
                customer_id: self.guest.customer_id.clone(),
                staging: self.guest.staging,
            },
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_protocol: given(self.proxy_protocol),
            dynamic_targets: self.dynamic_backends.clone(),
            backend_http2: given(self.backend_http2),
            grip_proxy: self.grip_proxy.or(self.local_pushpin_proxy_port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))),
            profile: self.profile.clone(),
            hostcall_metrics: None,
            core_dumps: self.core_dumps.clone(),
            access: self.access_log.clone(),
            traces: self.traces.settings(),
            unknown_imports: self.unknown_import_behavior.map(|behavior| match behavior {
                UnknownImport::LinkError => UnknownImports::LinkError,
                UnknownImport::Trap => UnknownImports::Trap,
            }),
        })
    }
}

/// A launch that knows this machine and nothing else.
pub fn machine() -> Launch {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cache_dir =
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache"))).map(|cache| cache.join("sidelight"));
    let docker = folder("DOCKER_CONFIG").or_else(|| folder("HOME").map(|home| home.join(".docker")));
    let registry_auth = docker.map(|docker| docker.join("config.json"));
    let machine = Machine { cores, cache_dir, registry_auth, opentelemetry: opentelemetry() };
    Launch { machine, ..Launch::default() }
}

/// What OpenTelemetry's specification of environment variables is about.
fn opentelemetry() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    let text = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    text.filter(|(name, _)| name.starts_with("OTEL_")).collect()
}

#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
