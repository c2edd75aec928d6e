//! Builds every layer in order, serves until a signal, drains.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::host::Listen;
use crate::config::{Config, ConfigError, HostConfig, HttpVersions};
use crate::runtime::{Current, LoadError, Outcome, Runtime, Snapshot, Waiting};
use crate::server::admin::Admin;
use crate::server::certificates::{Certificates, Renewal, TlsError};
use crate::server::listener::{Bound, File};
use crate::server::tls::Secure;
use crate::server::{Edge, Hops, Plain};
use crate::services::backend::Connector;
use crate::services::{BuildError, Services};
use crate::telemetry::{Telemetry, clock};

/// How often a drain looks whether it is over.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// Bad arguments.
    #[error("{0}")]
    Usage(String),
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
        hint: &'static str,
    },
    /// TLS for clients cannot work.
    #[error("TLS cannot be served\n{0}")]
    Tls(#[from] TlsError),
    /// Something of ours.
    #[error("{0}")]
    Internal(String),
}

/// Exit code when requests had to be cut off at shutdown.
const CUT_OFF: i32 = 6;

impl Exit {
    /// The process's exit code; the command line's help lists them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Usage(_) | Self::Tls(_) => 2,
            Self::Manifest(_) => 3,
            Self::Module(_) => 4,
            Self::Listen { .. } => 5,
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

/// Reads the manifest, and adds what the command line says of a service.
fn read(manifest: Option<&Path>, host: &HostConfig) -> Result<Config, Exit> {
    let mut config = match manifest {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Exit::Manifest(format!("{}: {error}\n  hint: -C FILE says where it is", path.display())))?;
            Config::from_manifest(&text, path)?
        }
        None => Config::bare(),
    };
    config.dynamic_targets = host.dynamic_targets.clone();
    if host.backend_http2 {
        config
            .backends
            .values_mut()
            .filter(|backend| backend.http == HttpVersions::One)
            .for_each(|backend| backend.http = HttpVersions::Either);
    }
    config.grip_proxy = host.grip_proxy.or(config.grip_proxy);
    for note in &config.notes {
        if note.important {
            tracing::warn!("{}", note.text);
        } else {
            tracing::debug!("{}", note.text);
        }
    }
    Ok(config)
}

/// Runs `program` once, by itself, with a request to nobody; gives its exit code.
pub fn run(manifest: Option<&Path>, program: &Path, host: HostConfig) -> Result<u8, Exit> {
    let internal = |error: &dyn std::fmt::Display| Exit::Internal(error.to_string());
    drop(rustls::crypto::ring::default_provider().install_default());
    let telemetry = Telemetry::new();
    let config = read(manifest, &host)?;
    let services = Services::build(&config, &Arc::new(Connector::new()), &telemetry)?;
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(host.threads).enable_all().build();
    threads.map_err(|error| internal(&error))?.block_on(async {
        services.backends.start_checks();
        let runtime = Arc::new(Runtime::new(&host, &telemetry).map_err(|error| internal(&error))?);
        let guest = runtime.load(program, &config)?;
        let waiting = Waiting::default();
        waiting.close();
        let snapshot = Snapshot { generation: 1, config: Arc::new(config), services: Arc::new(services), guest, waiting };
        Ok(match runtime.run_once(Arc::new(snapshot)).await {
            Outcome::Finished => 0,
            Outcome::Exited(code) => u8::try_from(code).unwrap_or(1),
            Outcome::Trapped(_) | Outcome::CpuLimit | Outcome::WallLimit | Outcome::MemoryLimit | Outcome::HostFailed(_) => 134,
        })
    })
}

/// Serves `program` until the process is told to stop.
pub fn serve(manifest: Option<&Path>, program: &Path, host: HostConfig) -> Result<(), Exit> {
    let internal = |error: &dyn std::fmt::Display| Exit::Internal(error.to_string());
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let telemetry = Telemetry::new();
    let config = read(manifest, &host)?;
    let listeners: Vec<Bound> = host.listen.iter().map(bind).collect::<Result<_, _>>()?;
    let secure = host.tls.as_ref().map(|tls| bind(&tls.address)).transpose()?;
    let admin = host.admin.as_ref().map(bind).transpose()?;
    let files = listeners.iter().chain(&secure).chain(&admin).filter_map(Bound::file).collect();
    let connector = Arc::new(Connector::new());
    let services = Services::build(&config, &connector, &telemetry)?;
    let runtime = Arc::new(Runtime::new(&host, &telemetry).map_err(|error| internal(&error))?);
    let started = clock::now();
    let guest = runtime.load(program, &config)?;
    tracing::info!(program = %program.display(), sha256 = &guest.digest[..16], ms = clock::now().duration_since(started).as_millis(), "program loaded");
    let name = config.name.clone();
    let current = Arc::new(Current::new(Snapshot {
        generation: 1,
        config: Arc::new(config),
        services: Arc::new(services),
        guest,
        waiting: Waiting::default(),
    }));

    let mut server = Server::new_with_opt_and_conf(None, server_conf(&host));
    server.bootstrap();
    let hops = Hops { trusted: host.trusted_proxies.clone(), proxy_protocol: host.proxy_protocol };
    let edge = Arc::new(Edge { current: current.clone(), runtime, limits: host.limits.clone(), hops, telemetry: telemetry.clone() });
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.url("http")).collect();
    for listener in listeners {
        server.add_service(listener.serve("http", Plain(edge.clone()), host.threads));
    }
    if let (Some(secure), Some(tls)) = (secure, &host.tls) {
        tracing::info!("Listening on {}", secure.url("https"));
        let certificates = Arc::new(Certificates::read(tls)?);
        server.add_service(secure.serve("https", Secure { edge, certificates: certificates.clone() }, host.threads));
        server.add_service(background_service("certificates", Renewal { certificates, telemetry: telemetry.clone() }));
    }
    if let Some(admin) = admin {
        tracing::info!("metrics on {}/metrics", admin.url("http"));
        server.add_service(admin.serve("admin", HttpServer::new_app(Admin { telemetry: telemetry.clone() }), 1));
    }
    server.add_service(background_service("health checks", HealthChecks(current.clone())));
    server.add_service(background_service("drain", Drain { telemetry, current, files, limit: host.drain_timeout }));
    for address in addresses {
        tracing::info!(service = name, "Listening on {address}");
    }
    server.run(RunArgs { shutdown_signal: Box::new(Signals) });
    Ok(())
}

fn bind(address: &Listen) -> Result<Bound, Exit> {
    Bound::bind(address).map_err(|error| Exit::Listen {
        address: address.clone(),
        hint: match (error.kind(), address) {
            (std::io::ErrorKind::AddrInUse, Listen::Unix(_)) => "another process serves that socket; stop it, or choose another file",
            (std::io::ErrorKind::AlreadyExists, _) => "choose another with --addr unix:FILE; only a socket that nobody serves is replaced",
            (_, Listen::Unix(_)) => "its folder has to be there, and writable to this process",
            (std::io::ErrorKind::AddrInUse, _) => "something else listens there; stop it, or choose another with --addr HOST:PORT",
            (std::io::ErrorKind::PermissionDenied, _) => "ports below 1024 need a privilege; choose another with --addr HOST:PORT",
            (std::io::ErrorKind::AddrNotAvailable, _) => "that is not an address of this machine",
            (_, Listen::Tcp(_)) => "choose another with --addr HOST:PORT",
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

/// SIGTERM and SIGINT both mean: finish what is in flight and stop.
struct Signals;

fn listen_for(kind: SignalKind) -> Option<Signal> {
    match signal(kind) {
        Ok(signal) => Some(signal),
        Err(error) => {
            tracing::error!(%error, "cannot listen for a signal");
            None
        }
    }
}

async fn either(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) {
    let next = async |signal: &mut Option<Signal>| match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    };
    tokio::select! {
        () = next(terminate) => {}
        () = next(interrupt) => {}
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        either(&mut listen_for(SignalKind::terminate()), &mut listen_for(SignalKind::interrupt())).await;
        ShutdownSignal::GracefulTerminate
    }
}

/// Starts the health checks of static backends; they go on by themselves.
struct HealthChecks(Arc<Current>);

#[async_trait]
impl BackgroundService for HealthChecks {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        self.0.pin().services.backends.start_checks();
        // The tasks live on this service's threads.
        drop(shutdown.wait_for(|stop| *stop).await);
    }
}

/// Ends the process when everything in flight is done, when time is up, or at a second signal.
struct Drain {
    telemetry: Telemetry,
    current: Arc<Current>,
    /// Of Unix sockets, removed at the end.
    files: Vec<File>,
    limit: Duration,
}

impl Drain {
    fn in_flight(&self) -> i64 {
        let metrics = &self.telemetry.metrics;
        metrics.requests_in_flight.get().max(metrics.sandboxes.get())
    }

    async fn idle(&self) {
        // A request whose bytes have arrived but are not read yet gets its chance.
        loop {
            tokio::time::sleep(DRAIN_STEP).await;
            if self.in_flight() == 0 {
                return;
            }
        }
    }
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        self.current.pin().waiting.close();
        tracing::info!(in_flight = self.in_flight(), "stopping: finishing what is in flight");
        let (mut terminate, mut interrupt) = (listen_for(SignalKind::terminate()), listen_for(SignalKind::interrupt()));
        let code = tokio::select! {
            () = self.idle() => {
                tracing::info!("stopped");
                0
            }
            () = tokio::time::sleep(self.limit) => {
                tracing::warn!(cut_off = self.in_flight(), "stopped at the drain timeout");
                CUT_OFF
            }
            () = either(&mut terminate, &mut interrupt) => {
                tracing::warn!(cut_off = self.in_flight(), "stopped at a second signal");
                CUT_OFF
            }
        };
        self.files.iter().for_each(File::remove);
        // pingora would go on sleeping for its whole grace period.
        std::process::exit(code);
    }
}
