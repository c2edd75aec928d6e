//! Settings of the process as they are given: on the command line, in the environment, in the host file. Each may be
//! left out; what is given further in front counts, and what nobody gives is as [`HostConfig`]'s parts have it by default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::AccessSettings;
use super::host::{CacheSize, Environment, GuestLimits, HostConfig, Limits, Listen, Profile, ReuseLimits, TlsListener, UnknownImports};
use super::host_file::DropIns;
use super::traces::TraceSettings;
use super::{Secret, State, Targets, state};

/// Sets of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// What protects the host is enforced, the rest of production's limits reported.
    Staging,
    /// All of production's limits are enforced.
    Production,
}

/// What is so on a machine, for one of its users.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Cores.
    pub cores: usize,
    /// The user's folder of compiled and fetched modules.
    pub cache_dir: Option<PathBuf>,
    /// The user's credentials of OCI registries.
    pub registry_auth: Option<PathBuf>,
    /// Its variables whose names begin with `OTEL_`.
    pub opentelemetry: BTreeMap<String, String>,
}

/// How much the cache takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the fields of CacheSize")]
pub struct CacheSettings {
    pub memory: Option<u64>,
    pub object: Option<u64>,
    pub disk: Option<u64>,
}

impl CacheSettings {
    fn or(self, other: Self) -> Self {
        Self { memory: self.memory.or(other.memory), object: self.object.or(other.object), disk: self.disk.or(other.disk) }
    }

    fn decide(self) -> CacheSize {
        let default = CacheSize::default();
        CacheSize {
            memory: self.memory.unwrap_or(default.memory),
            object: self.object.unwrap_or(default.object),
            disk: self.disk.unwrap_or(default.disk),
        }
    }
}

/// `[metrics]` of a host file.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsTable {
    /// Whether hostcalls are counted and timed; default: true.
    pub hostcalls: Option<bool>,
}

/// Everything that can be given.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as the fields of HostConfig")]
pub struct Settings {
    pub listen: Option<Vec<Listen>>,
    pub tls: Option<TlsListener>,
    pub admin: Option<Listen>,
    pub admin_token: Option<Secret>,
    pub admin_open: Option<bool>,
    pub inspect: Option<bool>,
    pub admin_hosts: Option<Vec<String>>,
    pub probes: Option<Listen>,
    pub threads: Option<usize>,
    /// Within: `None` for no folder.
    pub cache_dir: Option<Option<PathBuf>>,
    pub cache_dir_size: Option<u64>,
    pub registry_auth: Option<PathBuf>,
    pub insecure_registries: Option<Vec<String>>,
    /// Time in which a program has to be fetched.
    pub fetch_timeout: Option<Duration>,
    /// Of `services_dir`, without the host file's rules for it.
    pub services_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub redis: Option<state::Redis>,
    pub cache: CacheSettings,
    pub drain_timeout: Option<Duration>,
    pub limits: LimitSettings,
    pub environment: EnvironmentSettings,
    pub trusted_proxies: Option<Vec<IpNet>>,
    pub proxy_protocol: Option<bool>,
    pub dynamic_targets: Option<Targets>,
    pub backend_http2: Option<bool>,
    pub grip_proxy: Option<SocketAddr>,
    pub unknown_imports: Option<UnknownImports>,
    pub profile: Option<Profile>,
    pub hostcall_metrics: Option<bool>,
    pub core_dumps: Option<PathBuf>,
    pub access: Option<AccessSettings>,
    pub traces: TraceSettings,
}

/// Limits, of the process and of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the fields of Limits and GuestLimits")]
pub struct LimitSettings {
    pub preset: Option<Preset>,
    pub sandboxes: Option<u32>,
    pub queue_timeout: Option<Duration>,
    /// Bytes.
    pub memory: Option<usize>,
    pub cpu: Option<Duration>,
    pub cpu_report: Option<Duration>,
    pub backend_requests: Option<u32>,
    pub config_lookups: Option<u32>,
    pub kv_writes_per_second: Option<u32>,
    pub kv: Option<u64>,
    pub dynamic_backends: Option<u32>,
    /// Bytes.
    pub fields: Option<usize>,
    pub wall: Option<Duration>,
    pub reuse_requests: Option<u32>,
    pub reuse_idle: Option<Duration>,
    pub reuse_lifetime: Option<Duration>,
    /// Bytes.
    pub reuse_memory: Option<usize>,
    /// Bytes.
    pub total_memory: Option<u64>,
    /// Bytes.
    pub keep_resident: Option<usize>,
    /// Bytes.
    pub head: Option<usize>,
    /// Bytes.
    pub uri: Option<usize>,
    pub h2_streams: Option<u32>,
    pub head_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub client_timeout: Option<Duration>,
    pub tunnel_idle: Option<Duration>,
}

/// What guests are told about where they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the fields of Environment")]
pub struct EnvironmentSettings {
    pub pop: Option<String>,
    pub region: Option<String>,
    pub hostname: Option<String>,
    pub service_version: Option<u32>,
    pub customer_id: Option<String>,
    pub staging: Option<bool>,
}

macro_rules! or {
    ($first:ident, $second:ident: $($field:ident),+) => {
        Self { $($field: $first.$field.or($second.$field)),+ }
    };
}

impl LimitSettings {
    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        or!(self, other: preset, sandboxes, queue_timeout, memory, cpu, cpu_report, backend_requests, config_lookups, kv_writes_per_second, kv,
            dynamic_backends, fields, wall,
            reuse_requests, reuse_idle, reuse_lifetime, reuse_memory, total_memory, keep_resident, head, uri, h2_streams, head_timeout, idle_timeout,
            client_timeout, tunnel_idle)
    }

    /// Limits of a service, given those of the host.
    pub fn guest(&self, base: &GuestLimits) -> GuestLimits {
        let base = match self.preset {
            Some(Preset::Production) => base.clone().as_production(),
            Some(Preset::Staging) | None => base.clone(),
        };
        let cpu_report = self.cpu_report.unwrap_or(base.cpu_report);
        GuestLimits {
            sandboxes: self.sandboxes.unwrap_or(base.sandboxes),
            queue_timeout: self.queue_timeout.unwrap_or(base.queue_timeout),
            memory: self.memory.unwrap_or(base.memory),
            cpu: self.cpu.unwrap_or(if self.preset == Some(Preset::Production) { cpu_report } else { base.cpu }),
            cpu_report,
            backend_requests: self.backend_requests.unwrap_or(base.backend_requests),
            config_lookups: self.config_lookups.unwrap_or(base.config_lookups),
            kv_writes_per_second: self.kv_writes_per_second.unwrap_or(base.kv_writes_per_second),
            kv: self.kv.unwrap_or(base.kv),
            dynamic_backends: self.dynamic_backends.unwrap_or(base.dynamic_backends),
            fields: self.fields.unwrap_or(base.fields),
            wall: self.wall.unwrap_or(base.wall),
            reuse: ReuseLimits {
                requests: self.reuse_requests.unwrap_or(base.reuse.requests),
                idle: self.reuse_idle.unwrap_or(base.reuse.idle),
                lifetime: self.reuse_lifetime.unwrap_or(base.reuse.lifetime),
                memory: self.reuse_memory.unwrap_or(base.reuse.memory),
            },
            ..base
        }
    }

    fn host(&self) -> Limits {
        let default = Limits::default();
        let guest = self.guest(&default.guest);
        Limits {
            sandboxes: guest.sandboxes,
            memory: guest.memory,
            guest,
            total_memory: self.total_memory,
            keep_resident: self.keep_resident.unwrap_or(default.keep_resident),
            uri: self.uri.unwrap_or(default.uri),
            head: self.head.unwrap_or(default.head),
            h2_streams: self.h2_streams.unwrap_or(default.h2_streams),
            head_timeout: self.head_timeout.unwrap_or(default.head_timeout),
            idle_timeout: self.idle_timeout.unwrap_or(default.idle_timeout),
            client_timeout: self.client_timeout.unwrap_or(default.client_timeout),
            tunnel_idle: self.tunnel_idle.unwrap_or(default.tunnel_idle),
        }
    }
}

impl EnvironmentSettings {
    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        or!(self, other: pop, region, hostname, service_version, customer_id, staging)
    }

    /// What guests are told, where nothing else is said: `base`.
    pub fn decide(&self, base: &Environment) -> Environment {
        let Self { pop, region, hostname, service_version, customer_id, staging } = self.clone();
        Environment {
            pop: pop.unwrap_or_else(|| base.pop.clone()),
            region: region.unwrap_or_else(|| base.region.clone()),
            hostname: hostname.unwrap_or_else(|| base.hostname.clone()),
            service_version: service_version.unwrap_or(base.service_version),
            customer_id: customer_id.unwrap_or_else(|| base.customer_id.clone()),
            staging: staging.unwrap_or(base.staging),
        }
    }
}

impl Settings {
    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let limits = self.limits.or(other.limits);
        let environment = self.environment.or(other.environment);
        Self {
            listen: self.listen.or(other.listen),
            tls: self.tls.or(other.tls),
            admin: self.admin.or(other.admin),
            admin_token: self.admin_token.or(other.admin_token),
            admin_open: self.admin_open.or(other.admin_open),
            inspect: self.inspect.or(other.inspect),
            admin_hosts: self.admin_hosts.or(other.admin_hosts),
            probes: self.probes.or(other.probes),
            threads: self.threads.or(other.threads),
            cache_dir: self.cache_dir.or(other.cache_dir),
            cache_dir_size: self.cache_dir_size.or(other.cache_dir_size),
            registry_auth: self.registry_auth.or(other.registry_auth),
            insecure_registries: self.insecure_registries.or(other.insecure_registries),
            fetch_timeout: self.fetch_timeout.or(other.fetch_timeout),
            services_dir: self.services_dir.or(other.services_dir),
            data_dir: self.data_dir.or(other.data_dir),
            redis: self.redis.or(other.redis),
            cache: self.cache.or(other.cache),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            limits,
            environment,
            trusted_proxies: self.trusted_proxies.or(other.trusted_proxies),
            proxy_protocol: self.proxy_protocol.or(other.proxy_protocol),
            dynamic_targets: self.dynamic_targets.or(other.dynamic_targets),
            backend_http2: self.backend_http2.or(other.backend_http2),
            grip_proxy: self.grip_proxy.or(other.grip_proxy),
            unknown_imports: self.unknown_imports.or(other.unknown_imports),
            profile: self.profile.or(other.profile),
            hostcall_metrics: self.hostcall_metrics.or(other.hostcall_metrics),
            core_dumps: self.core_dumps.or(other.core_dumps),
            access: self.access.or(other.access),
            traces: self.traces.or(other.traces),
        }
    }

    /// With defaults for all that is not given.
    pub fn decide(self, machine: &Machine) -> HostConfig {
        HostConfig {
            listen: self.listen.unwrap_or_else(|| vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 7676)))]),
            tls: self.tls,
            admin: self.admin,
            admin_token: self.admin_token,
            admin_open: self.admin_open.unwrap_or(false),
            inspect: self.inspect.unwrap_or(false),
            admin_hosts: self.admin_hosts.unwrap_or_default(),
            probes: self.probes,
            threads: self.threads.unwrap_or(machine.cores.max(1)),
            cache_dir: self.cache_dir.unwrap_or_else(|| machine.cache_dir.clone()),
            cache_dir_size: self.cache_dir_size.unwrap_or(4 << 30),
            registry_auth: self.registry_auth.or_else(|| machine.registry_auth.clone()),
            insecure_registries: self.insecure_registries.unwrap_or_default(),
            fetch_timeout: self.fetch_timeout.unwrap_or(Duration::from_secs(120)),
            state: State { data_dir: self.data_dir, redis: self.redis },
            cache: self.cache.decide(),
            drain_timeout: self.drain_timeout.unwrap_or(Duration::from_secs(30)),
            limits: self.limits.host(),
            environment: self.environment.decide(&Environment::default()),
            arguments: None,
            trusted_proxies: self.trusted_proxies.unwrap_or_default(),
            proxy_protocol: self.proxy_protocol.unwrap_or(false),
            dynamic_targets: self.dynamic_targets.unwrap_or_default(),
            backend_http2: self.backend_http2.unwrap_or(false),
            grip_proxy: self.grip_proxy,
            unknown_imports: self.unknown_imports.unwrap_or_default(),
            profile: self.profile,
            hostcall_metrics: self.hostcall_metrics.unwrap_or(true),
            core_dumps: self.core_dumps,
            access: self.access.unwrap_or_default(),
            traces: self.traces.decide(&machine.opentelemetry),
            dropins: self.services_dir.map(|folder| DropIns { folder, hosts: Vec::new() }),
            // Of the host file only.
            kubernetes: None,
        }
    }
}
