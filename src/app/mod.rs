//! Builds every layer in order, serves until a signal, reloads, drains.
//!
//! [`load`] reads files into a plan, [`reload`] builds it and puts it in force, [`watch`] says when to, [`drain`] ends
//! the process.

pub mod cache;
#[cfg(target_os = "linux")]
pub mod confine;
pub mod drain;
pub mod expire;
mod faults;
mod files;
mod kubernetes;
pub mod kv;
pub mod load;
mod loaded;
mod operate;
pub mod prepare;
pub mod refusal;
pub mod reload;
pub mod restart;
pub mod signals;
pub mod verdict;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::background::background_service;
use sd_notify::NotifyState;

use crate::config::diagnostics::Report;
use crate::config::host::Listen;
use crate::config::{ConfigError, HostConfig};
#[cfg(target_os = "linux")]
use crate::runtime::compiler::Compiler;
use crate::runtime::source::Store;
use crate::runtime::{Current, LoadError, Outcome, Runtime, Snapshot};
use crate::server::admin::guard::Guard;
use crate::server::admin::{Admin, Operate, Probes};
use crate::server::certificates::{Certificates, Renewal, TlsError};
use crate::server::listener::{Bound, ForOperators};
use crate::server::tls::Secure;
use crate::server::{Edge, Hops, Plain};
use crate::services::{BuildError, Platform, Services, data, descriptors};
use crate::telemetry::access::AccessLog;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::trace::export::Exporter;
use crate::telemetry::{Telemetry, logs};

use drain::Drain;
use kubernetes::Cluster;
use load::{Launch, Plan};
use operate::Control;
use reload::Reloader;
use signals::Shutdown;
use verdict::Status;
use watch::Reloads;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// Bad arguments.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The manifest cannot be used.
    #[error("the manifest cannot be used\n{0}")]
    Manifest(String),
    /// The program cannot be run.
    #[error("the program cannot be run\n{0}")]
    Module(#[from] LoadError),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}\n  hint: {hint}")]
    Listen {
        /// Which address.
        address: Listen,
        /// What the system said.
        error: std::io::Error,
        /// What to do.
        hint: String,
    },
    /// TLS for clients cannot work.
    #[error("TLS cannot be served\n{0}")]
    Tls(#[from] TlsError),
    /// Some of several services cannot be served.
    #[error("{text}")]
    Services {
        /// As of the first of them.
        code: u8,
        /// Each by its name.
        text: String,
    },
    /// Something of ours.
    #[error("{0}")]
    Internal(String),
}

impl Exit {
    /// The process's exit code; the command line's help lists them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Usage(_) | Self::Tls(_) => 2,
            Self::Manifest(_) => 3,
            Self::Module(_) => 4,
            Self::Listen { .. } => 5,
            Self::NotFound(_) => 7,
            Self::Services { code, .. } => *code,
        }
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::Manifest(error.to_string())
    }
}

impl From<Vec<BuildError>> for Exit {
    fn from(errors: Vec<BuildError>) -> Self {
        Self::Manifest(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

/// How long a start waits for programs of services that come and go, before it serves those that are ready.
const START: std::time::Duration = std::time::Duration::from_secs(10);

/// Fewer file descriptors than this are worth a word.
const FEW: usize = 1024;

/// How long the end waits for records of log endpoints.
pub const FLUSH: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs a plan's program once, by itself, with a request to nobody; gives its exit code.
pub fn run(launch: &Launch, arguments: Vec<String>) -> Result<u8, Exit> {
    let internal = |error: &dyn std::fmt::Display| Exit::Internal(error.to_string());
    drop(rustls::crypto::ring::default_provider().install_default());
    let telemetry = Telemetry::new();
    let Plan { mut host, services, .. } = launch.plan().map_err(|unplanned| unplanned.error)?;
    host.arguments = Some(arguments);
    let Some(plan) = services.into_iter().next() else { return Err(Exit::Usage("there is no program to run".to_owned())) };
    for note in plan.config.notes.iter().filter(|note| note.important) {
        tracing::warn!("{}", note.text);
    }
    let platform = Platform::new(&telemetry).map_err(|error| internal(&error))?;
    let services = Arc::new(Services::build(&plan.config, None, &platform)?);
    services.seed(&platform);
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(host.threads).enable_all().build();
    threads.map_err(|error| internal(&error))?.block_on(async {
        services.backends.start_checks();
        let runtime = Arc::new(Runtime::new(&host, &telemetry).map_err(|error| internal(&error))?);
        let guest = tokio::task::block_in_place(|| prepare::load(&Store::of(&host), &runtime, &plan))?;
        let snapshot = Snapshot::new(1, Arc::new(plan.config), services, guest);
        snapshot.waiting.close();
        let outcome = runtime.run_once(Arc::new(snapshot)).await;
        platform.flush_logs(FLUSH).await;
        Ok(match outcome {
            Outcome::Finished => 0,
            Outcome::Exited(code) => u8::try_from(code).unwrap_or(1),
            Outcome::Trapped(_)
            | Outcome::CpuLimit
            | Outcome::WallLimit
            | Outcome::MemoryLimit
            | Outcome::MemoryShort
            | Outcome::HostFailed(_) => 134,
        })
    })
}

/// What no single setting says.
fn sound(host: &HostConfig) -> Result<(), Exit> {
    if host.proxy_protocol && host.trusted_proxies.is_empty() {
        let hint = "  hint: --trusted-proxies (or trusted_proxies in the host file) says who may";
        return Err(Exit::Usage(format!("the PROXY protocol is on, and nobody is trusted to speak it\n{hint}")));
    }
    if let Some(Listen::Tcp(address)) = &host.admin
        && !address.ip().is_loopback()
        && host.admin_token.is_none()
        && !host.admin_open
    {
        let hint = "  hint: --admin-token-file FILE; or --admin-open, if something in front sees to who may ask; metrics and probes alone: --probes";
        return Err(Exit::Usage(format!("--admin {address} can be reached from other machines, and everybody may ask there\n{hint}")));
    }
    Ok(())
}

/// What is to be written to can be.
fn writable(host: &HostConfig) -> Result<(), Exit> {
    let folders = [("--data-dir", host.state.data_dir.as_ref()), ("--core-dumps", host.core_dumps.as_ref())];
    for (option, folder) in folders {
        let Some(folder) = folder else { continue };
        let hint = "  hint: it has to be a folder that this process may write to; it is made if it is not there";
        data::make_file_in(folder).map_err(|error| Exit::Usage(format!("{option} {}: {error}\n{hint}", folder.display())))?;
    }
    Ok(())
}

/// Everything that serving would find out before it listens, with the same code.
pub fn check(launch: &Launch) -> Result<Status, (Exit, Vec<Report>)> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let telemetry = Telemetry::new();
    let plan = launch.plan().map_err(|unplanned| (Exit::from(unplanned.error.clone()), unplanned.error.reports()))?;
    sound(&plan.host).map_err(|exit| (exit, Vec::new()))?;
    if let Some(export) = &plan.host.traces.export {
        Exporter::check(export).map_err(|error| (Exit::Usage(format!("traces: {error}")), Vec::new()))?;
    }
    if let Some(tls) = &plan.host.tls {
        Certificates::read(tls).map_err(|error| (error.into(), Vec::new()))?;
    }
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut))]
    let mut runtime = Runtime::new(&plan.host, &telemetry).map_err(|error| (Exit::Internal(error.to_string()), Vec::new()))?;
    // Within the bounds that serving has.
    #[cfg(target_os = "linux")]
    match Compiler::start() {
        Ok(compiler) => runtime.compile_apart(Arc::new(compiler)),
        Err(error) => tracing::debug!(%error, "programs are compiled in this process"),
    }
    let platform = Platform::for_trial(&telemetry).map_err(|error| (Exit::Internal(error.to_string()), Vec::new()))?;
    let reloader = Reloader::new(launch.clone(), plan.host, Arc::new(runtime), Arc::new(platform), Arc::default()).quiet();
    let problems = |reloader: &Reloader| reloader.status().reloads.into_iter().next().map(|first| first.problems).unwrap_or_default();
    reloader.start(None).map_err(|exit| (exit, problems(&reloader)))?;
    let status = reloader.status();
    if status.faulty.is_empty() {
        return Ok(status);
    }
    let text = status.faulty.iter().map(|fault| fault.error.as_str()).collect::<Vec<_>>().join("\n");
    let problems = status.faulty.into_iter().flat_map(|fault| fault.problems).collect();
    Err((Exit::Services { code: 3, text }, problems))
}

/// Serves until the process is told to stop. `watch`: whether files that change are read again by themselves.
pub fn serve(launch: Launch, watch: bool) -> Result<(), Exit> {
    let internal = |error: &dyn std::fmt::Display| Exit::Internal(error.to_string());
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    // Where the kernel hands out huge pages to everybody, a sandbox that touches a few KiB would get 2 MiB, and the next one too.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("huge pages cannot be refused: {error}");
    }
    descriptors::raise();
    // Before nothing can be started any more.
    #[cfg(target_os = "linux")]
    let compiler = Compiler::start().map(Arc::new);
    #[cfg(target_os = "linux")]
    if let Err(error) = confine::confine() {
        tracing::info!("{error}");
    }
    if rustix::process::geteuid().is_root() {
        tracing::warn!(
            "this process is root, which it has no need of: what breaks out of it would be root, too. Run it as a user of its own (a port below 1024 takes CAP_NET_BIND_SERVICE and no more)"
        );
    }
    let host = launch.plan().map_err(|unplanned| unplanned.error)?.host;
    sound(&host)?;
    if descriptors::all() < FEW {
        let (all, clients) = (descriptors::all(), descriptors::most_clients());
        tracing::warn!(all, clients, "this process may have few file descriptors, and so few clients (ulimit -n, LimitNOFILE=)");
    }
    writable(&host)?;
    let telemetry = Telemetry::new().with_traces(host.traces.clone()).map_err(|error| Exit::Usage(format!("traces: {error}")))?;
    if let Some(export) = &host.traces.export {
        tracing::info!(target: "sidelight::traces", sample = ?host.traces.sample, "traces go to {}", export.endpoint);
    } else if host.traces.keep_errors || host.traces.keep_slow.is_some() || host.traces.force.is_some() {
        tracing::warn!(target: "sidelight::traces", "[traces] has no endpoint: nothing is exported");
    }
    if host.inspect {
        telemetry.tracer.recent().watch_always();
    }
    if !host.hostcall_metrics {
        telemetry.metrics.calls.switch_off();
    }
    for warning in &host.traces.warnings {
        tracing::warn!(target: "sidelight::traces", "{warning}");
    }
    let listeners: Vec<Bound> = host.listen.iter().map(|address| bind(address, "--addr")).collect::<Result<_, _>>()?;
    let secure = match &host.tls {
        Some(tls) => Some((Arc::new(Certificates::read(tls)?), bind(&tls.address, "--tls-addr")?)),
        None => None,
    };
    let admin = host.admin.as_ref().map(|address| bind(address, "--admin")).transpose()?;
    let probed = host.probes.as_ref().map(|address| bind(address, "--probes")).transpose()?;
    let files =
        listeners.iter().chain(secure.as_ref().map(|(_, bound)| bound)).chain(&admin).chain(&probed).filter_map(Bound::file).collect();
    let mut runtime = Runtime::new(&host, &telemetry).map_err(|error| internal(&error))?;
    #[cfg(target_os = "linux")]
    match compiler {
        Ok(compiler) => runtime.compile_apart(compiler),
        Err(error) => tracing::warn!(%error, "programs are compiled in this process: no other one can be started for it"),
    }
    let runtime = Arc::new(runtime);
    let current: Arc<Current> = Arc::default();
    let platform = Platform::for_host(&telemetry, &host, runtime.memory()).map_err(|error| Exit::Manifest(error.to_string()))?;
    platform.connector.operators().are_at(admin.iter().chain(&probed).filter_map(Bound::tcp).collect());
    let platform = Arc::new(platform);
    let reloader = Arc::new(Reloader::new(launch, host.clone(), runtime.clone(), platform.clone(), current.clone()));
    // Programs may take their time to be fetched.
    let shutdown_signal = Box::new(Shutdown::listen(&platform.background()));
    reloader.start(Some(START))?;
    // Before anybody is told that it serves.
    shutdown_signal.serves();

    let mut server = Server::new_with_opt_and_conf(None, server_conf(&host));
    server.bootstrap();
    let hops = Hops { trusted: host.trusted_proxies.clone(), proxy_protocol: host.proxy_protocol };
    let running = runtime.clone();
    let edge = Arc::new(Edge {
        current: current.clone(),
        runtime,
        limits: host.limits.clone(),
        hops,
        refused: Throttle::default(),
        telemetry: telemetry.clone(),
        access: AccessLog::new(&host.access, logs::format()),
        unserved: telemetry.metrics.service("_none"),
    });
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.url("http")).collect();
    for listener in listeners {
        server.add_service(listener.serve("http", Plain(edge.clone()), host.threads, &telemetry.metrics));
    }
    if let Some((certificates, secure)) = secure {
        tracing::info!("Listening on {}", secure.url("https"));
        certificates.tell(&telemetry);
        server.add_service(secure.serve("https", Secure { edge, certificates: certificates.clone() }, host.threads, &telemetry.metrics));
        server.add_service(background_service("certificates", Renewal { certificates, telemetry: telemetry.clone() }));
    }
    let (reloads, ask) = Reloads::new(reloader.clone(), watch);
    let known = Arc::new(AtomicBool::new(host.kubernetes.is_none() || !reloader.status().services.is_empty()));
    if let (Some(settings), Some(from)) = (host.kubernetes.clone(), &host.dropins) {
        let (folder, reloads) = (from.folder.clone(), ask.clone());
        let cluster = Cluster { settings, folder, reloads, reloader: reloader.clone(), known: known.clone() };
        server.add_service(background_service("kubernetes", cluster));
    }
    let control: Arc<dyn Operate> = Arc::new(Control {
        reloader: reloader.clone(),
        platform: platform.clone(),
        runtime: running,
        host: host.clone(),
        ask,
        known,
        complete: AtomicBool::new(false),
    });
    let metrics = telemetry.metrics.clone();
    let watching = Probes { telemetry: telemetry.clone(), control: control.clone(), draining: Arc::default() };
    if let Some(admin) = admin {
        let guard = Guard {
            token: host.admin_token.clone(),
            hosts: host.admin_hosts.clone(),
            unreachable: matches!(host.admin, Some(Listen::Unix(_))),
        };
        let operator = Admin { telemetry: telemetry.clone(), control, guard, probes: watching.clone() };
        let url = admin.url("http");
        tracing::info!("metrics on {url}/metrics, the inspector on {url}/inspector/");
        server.add_service(admin.serve("admin", ForOperators(Arc::new(HttpServer::new_app(operator))), 1, &metrics));
    }
    if let Some(probes) = probed {
        tracing::info!("probes on {}/readyz", probes.url("http"));
        server.add_service(probes.serve("probes", ForOperators(Arc::new(HttpServer::new_app(watching))), 1, &metrics));
    }
    server.add_service(background_service("reloads", reloads));
    server.add_service(background_service("drain", Drain { telemetry, current, files, limit: host.drain_timeout, platform }));
    for service in reloader.status().services {
        let hosts = if service.hosts.is_empty() { "every host".to_owned() } else { service.hosts.join(", ") };
        let paths = if service.paths.is_empty() { String::new() } else { format!(" {}", service.paths.join(", ")) };
        let (program, sha256) = (&service.module, &service.digest[..16]);
        tracing::info!(service = service.name, program, sha256, "serves {hosts}{paths}");
    }
    for address in addresses {
        tracing::info!("Listening on {address}");
    }
    // The sockets are there: whoever connects from now on is served.
    tell_supervisor(NotifyState::Ready);
    server.run(RunArgs { shutdown_signal });
    Ok(())
}

/// Tells systemd, if it has started this process (`sd_notify(3)`).
fn tell_supervisor(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told how it stands");
    }
}

/// Binds what `option` names.
fn bind(address: &Listen, option: &'static str) -> Result<Bound, Exit> {
    Bound::bind(address).map_err(|error| Exit::Listen {
        address: address.clone(),
        hint: match (error.kind(), address) {
            (std::io::ErrorKind::AddrInUse, Listen::Unix(_)) => {
                "another process serves that socket; stop it, or choose another file".to_owned()
            }
            (std::io::ErrorKind::AlreadyExists, _) => {
                format!("choose another with {option} unix:FILE; only a socket that nobody serves is replaced")
            }
            (_, Listen::Unix(_)) => "its folder has to be there, and writable to this process".to_owned(),
            (std::io::ErrorKind::AddrInUse, _) => {
                format!("something else listens there; stop it, or choose another with {option} HOST:PORT")
            }
            (std::io::ErrorKind::PermissionDenied, _) => {
                format!("ports below 1024 need a privilege; choose another with {option} HOST:PORT")
            }
            (std::io::ErrorKind::AddrNotAvailable, _) => "that is not an address of this machine".to_owned(),
            (_, Listen::Tcp(_)) => format!("choose another with {option} HOST:PORT"),
        },
        error,
    })
}

fn server_conf(host: &HostConfig) -> ServerConf {
    ServerConf {
        threads: host.threads,
        // A request stays on its connection's thread; guests that compute for long move away from it
        // (`runtime::execute`).
        work_stealing: false,
        // The drain service ends the process; pingora's own wait only has to be longer.
        grace_period_seconds: Some(host.drain_timeout.as_secs() + 60),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}
