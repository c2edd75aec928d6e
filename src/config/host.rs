//! What a Fastly service does not know: the process around it. Listener, limits, folders.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::AccessSettings;
use super::host_file::DropIns;
use super::kubernetes::Kubernetes;
use super::traces::Traces;
use super::{Secret, State, Targets};

/// Decided settings of the process. They cannot change while it runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostConfig {
    /// Where HTTP is served.
    pub listen: Vec<Listen>,
    /// Where HTTPS is served.
    pub tls: Option<TlsListener>,
    /// Where operators are served; `None`: nowhere.
    pub admin: Option<Listen>,
    /// What they must show.
    pub admin_token: Option<Secret>,
    /// Whether everybody who reaches it may ask, from other machines, too.
    pub admin_open: bool,
    /// Whether the inspector has requests from before somebody looked.
    pub inspect: bool,
    /// Names that they may know the listener by, beside addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Where metrics and probes are served beside that, to everybody.
    pub probes: Option<Listen>,
    /// Threads that run guests and connections.
    pub threads: usize,
    /// Folder of compiled modules; `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of compiled programs that are kept there, and of fetched ones.
    pub cache_dir_size: u64,
    /// Credentials of OCI registries: a file like docker's `config.json`.
    pub registry_auth: Option<PathBuf>,
    /// Registries that are spoken to without TLS: `HOST:PORT`.
    pub insecure_registries: Vec<String>,
    /// Time in which a program has to be fetched.
    pub fetch_timeout: Duration,
    /// What there is to keep the state of services in.
    pub state: State,
    /// How much the cache of all services takes.
    pub cache: CacheSize,
    /// How long requests in flight may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// Limits of clients and guests.
    pub limits: Limits,
    /// What the guest is told about where it runs.
    pub environment: Environment,
    /// The arguments of a program that is run once, by itself; its output is then the process's.
    pub arguments: Option<Vec<String>>,
    /// Proxies in front that are believed about their clients.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether their connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Where dynamic backends may point.
    pub dynamic_targets: Targets,
    /// Whether https backends may choose HTTP/2 when they are not for gRPC.
    pub backend_http2: bool,
    /// A Pushpin's HTTP address; it goes before the manifest's.
    pub grip_proxy: Option<SocketAddr>,
    /// An import that no host function answers: refuse the module, or trap when it is called.
    pub unknown_imports: UnknownImports,
    /// What is recorded of where guests spend their CPU time.
    pub profile: Option<Profile>,
    /// Whether hostcalls are counted and timed.
    pub hostcall_metrics: bool,
    /// Folder of core dumps of guests that trapped; `None`: there are none.
    pub core_dumps: Option<PathBuf>,
    /// What the access log has of each request.
    pub access: AccessSettings,
    /// What is recorded of requests as traces.
    pub traces: Traces,
    /// Services that come and go.
    pub dropins: Option<DropIns>,
    /// Where more of those come from.
    pub kubernetes: Option<Kubernetes>,
}

/// How much the cache takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSize {
    /// Of memory, for all objects.
    pub memory: u64,
    /// Of one object; larger ones are passed on.
    pub object: u64,
    /// Of the data folder, for objects that are to be there after a restart; 0: none are.
    pub disk: u64,
}

impl Default for CacheSize {
    fn default() -> Self {
        Self { memory: 256 << 20, object: 100 << 20, disk: 0 }
    }
}

/// What is recorded of where guests spend their CPU time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Profile {
    /// Samples of their stacks, by this host.
    Guests(GuestProfiles),
    /// `/tmp/perf-PID.map`, for Linux's perf.
    PerfMap,
    /// `jit-PID.dump` in the working directory, for Linux's perf.
    JitDump,
}

/// Profiles of guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestProfiles {
    /// The folder of the profiles, or the file of the only one.
    pub path: PathBuf,
    /// Whether there is only one.
    pub single: bool,
    /// CPU time from one sample to the next.
    pub interval: Duration,
}

impl Profile {
    /// Reads Viceroy's `KIND[,PATH[,SAMPLE]]`. `single`: one profile, of a program that is run once.
    pub fn parse(text: &str, single: bool) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let (path, interval) = (parts.next().filter(|path| !path.is_empty()), parts.next());
        match kind {
            "perfmap" => Ok(Self::PerfMap),
            "jitdump" => Ok(Self::JitDump),
            "guest" => {
                let interval = interval.map_or(Ok(Duration::from_micros(50)), humantime::parse_duration);
                let interval = interval.map_err(|error| format!("{error}; the third part is a time: guest,FOLDER,1ms"))?;
                if interval < Duration::from_micros(10) {
                    return Err("samples cannot be closer than 10us".to_owned());
                }
                let path = path.unwrap_or(if single { "guest-profile.json" } else { "guest-profiles" }).into();
                Ok(Self::Guests(GuestProfiles { path, single, interval }))
            }
            other => Err(format!("`{other}` is no kind of profile; expected guest[,PATH[,SAMPLE]], perfmap or jitdump")),
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket's file.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `HOST:PORT`, by number or by name, or `unix:FILE`. Of a name's addresses the first IPv4 one, as curl and browsers
    /// try 127.0.0.1 for `localhost`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: takes the socket's file, as in unix:/run/sidelight.sock".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let what = |error: std::io::Error| {
            format!("{error}; expected HOST:PORT, for example 127.0.0.1:7676, [::1]:7676 or localhost:7676, or unix:FILE")
        };
        let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(what)?.collect();
        let preferred = found.iter().find(|address| address.is_ipv4()).or(found.first());
        preferred.copied().map(Self::Tcp).ok_or_else(|| format!("`{text}` has no address"))
    }
}

/// HTTPS for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsListener {
    /// Where.
    pub address: Listen,
    /// PEM files: certificate chain and key. The first is for clients that name no other's host.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Whether clients are asked for certificates.
    pub clients: Option<ClientCertificates>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientCertificates {
    /// PEM file of those who may issue them.
    pub roots: PathBuf,
    /// Whether a client without a good one is refused; otherwise the guest is told.
    pub required: bool,
}

/// What to do about imports that are not part of the ABI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownImports {
    /// Refuse the module and name them all.
    #[default]
    LinkError,
    /// Load the module; a call traps.
    Trap,
}

/// How long a sandbox may go on with further requests (production does not tell its figures).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReuseLimits {
    /// Requests of one sandbox, the first included; 1 is no reuse.
    pub requests: u32,
    /// How long a guest may wait for its next request.
    pub idle: Duration,
    /// Age at which a sandbox gets no more requests.
    pub lifetime: Duration,
    /// Linear memory in bytes above which a sandbox gets no more requests.
    pub memory: usize,
}

impl Default for ReuseLimits {
    fn default() -> Self {
        Self { requests: 100, idle: Duration::from_secs(10), lifetime: Duration::from_secs(120), memory: 128 << 20 }
    }
}

/// Limits of one service. Durations are wall-clock unless they say CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestLimits {
    /// Sandboxes that may run at once; no more than those of the host are ever there.
    pub sandboxes: u32,
    /// How long a request waits for a free sandbox before it gets 503.
    pub queue_timeout: Duration,
    /// Linear memory of one sandbox, in bytes. Production: 128 MiB.
    pub memory: usize,
    /// CPU time after which a guest is stopped.
    pub cpu: Duration,
    /// CPU time above which a guest is reported: production's limit, 50 ms.
    pub cpu_report: Duration,
    /// Requests to backends that one request from a client may lead to; a further send is LIMITEXCEEDED.
    pub backend_requests: u32,
    /// Above how many of them a request is reported: production's limit, 32.
    pub backend_requests_report: u32,
    /// Entries of config stores that one request may look up; a further lookup is LIMITEXCEEDED.
    pub config_lookups: u32,
    /// Above how many of them a request is reported: production's limit, 32.
    pub config_lookups_report: u32,
    /// Writes of one key of a KV store that may follow each other within a second; a further one is TOO_MANY_REQUESTS.
    /// Production's limit: 1; 0 is no limit.
    pub kv_writes_per_second: u32,
    /// Bytes of all KV stores of a service on disk: keys, metadata, values.
    pub kv: u64,
    /// Backends that a guest may make in one sandbox; a further one is LIMITEXCEEDED.
    pub dynamic_backends: u32,
    /// Above how many of them a sandbox is reported: production's limit, 200.
    pub dynamic_backends_report: u32,
    /// Bytes of all header fields of one request or response, as HTTP/1.1 writes them. A request with more is answered
    /// 503, a backend's response with more is a failed send.
    pub fields: usize,
    /// Above how many of them a head is reported: production's limit, 69 KB.
    pub fields_report: usize,
    /// Time after which a guest is stopped, waiting included. Production: 2 min.
    pub wall: Duration,
    /// Further requests in a sandbox, for guests that ask for them.
    pub reuse: ReuseLimits,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            sandboxes: 1000,
            queue_timeout: Duration::from_secs(1),
            memory: 128 << 20,
            cpu: Duration::from_secs(5),
            cpu_report: Duration::from_millis(50),
            backend_requests: 1000,
            backend_requests_report: 32,
            config_lookups: u32::MAX,
            config_lookups_report: 32,
            kv_writes_per_second: 0,
            kv: 4 << 30,
            dynamic_backends: 1000,
            dynamic_backends_report: 200,
            fields: usize::MAX,
            fields_report: 69 << 10,
            wall: Duration::from_secs(120),
            reuse: ReuseLimits::default(),
        }
    }
}

impl GuestLimits {
    /// With everything that is only reported by default enforced, as production does.
    #[must_use]
    pub fn as_production(self) -> Self {
        Self {
            cpu: self.cpu_report,
            backend_requests: self.backend_requests_report,
            dynamic_backends: self.dynamic_backends_report,
            config_lookups: self.config_lookups_report,
            kv_writes_per_second: 1,
            fields: self.fields_report,
            ..self
        }
    }
}

/// Limits of the process and its clients. Durations are wall-clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Sandboxes that may run at once, of all services: the pool's size.
    pub sandboxes: u32,
    /// Most linear memory of any sandbox, in bytes: the size of the pool's slots.
    pub memory: usize,
    /// Memory of the whole process, in bytes, from 85 % of which on guests are kept back. `None`: what its control group or the machine has.
    pub total_memory: Option<u64>,
    /// Memory each free pool slot may keep resident, in bytes.
    pub keep_resident: usize,
    /// Of a service that has none of its own.
    pub guest: GuestLimits,
    /// Longest request line target, in bytes; more is 414.
    pub uri: usize,
    /// Longest request head, in bytes; more is 431.
    pub head: usize,
    /// Streams a client may have open on one HTTP/2 connection.
    pub h2_streams: u32,
    /// Time for a whole request head, from its first byte.
    pub head_timeout: Duration,
    /// How long an idle keep-alive connection stays open.
    pub idle_timeout: Duration,
    /// Longest pause a client may make inside a request body, or in taking a response.
    pub client_timeout: Duration,
    /// How long nothing may come either way between a client and the backend that has taken it over (WebSockets).
    pub tunnel_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let guest = GuestLimits::default();
        Self {
            sandboxes: guest.sandboxes,
            memory: guest.memory,
            total_memory: None,
            keep_resident: 2 << 20,
            guest,
            uri: 8192,
            head: 128 << 10,
            h2_streams: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(600),
        }
    }
}

/// The guest's `FASTLY_*` variables that do not come from the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// `FASTLY_POP`, three letters in production.
    pub pop: String,
    /// `FASTLY_REGION`.
    pub region: String,
    /// `FASTLY_HOSTNAME`.
    pub hostname: String,
    /// `FASTLY_SERVICE_VERSION`; SDKs take "0" as a local test server, so 1 by default.
    pub service_version: u32,
    /// `FASTLY_CUSTOMER_ID`.
    pub customer_id: String,
    /// `FASTLY_IS_STAGING`: "1" unless told otherwise, since this is a staging host.
    pub staging: bool,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            pop: "SDL".to_owned(),
            region: "Sidelight".to_owned(),
            hostname: "localhost".to_owned(),
            service_version: 1,
            customer_id: "0000000000000000000000".to_owned(),
            staging: true,
        }
    }
}
