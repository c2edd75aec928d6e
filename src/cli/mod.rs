//! The command line. It only gathers options; [`app`](crate::app) acts on them.
//!
//! `sidelight serve [FASTLY.TOML] [APP.WASM]` is our own spelling. Viceroy's
//! (`sidelight -v -C FILE --addr HOST:PORT APP.WASM`) is the same without the word.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::app::{self, Exit};
use crate::config::host::{ClientCertificates, Environment, Limits, Listen, ReuseLimits, TlsListener, UnknownImports};
use crate::config::{HostConfig, Targets};
use crate::hostcalls;
use crate::telemetry::logs;

/// Runs compiled Fastly Compute programs in front of real services.
#[derive(Parser, Debug)]
#[command(name = "sidelight", version, args_conflicts_with_subcommands = true, arg_required_else_help = false)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 1 internal error, 2 bad arguments, 3 bad manifest, 4 bad module, 5 cannot listen, 6 requests were cut off at shutdown."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve a program (what happens without a subcommand, too).
    Serve(Box<Serve>),
    /// Run a program once, by itself: its arguments follow, its output and exit code are this process's.
    Run(Run),
    /// List every call of the Compute ABI and how far this host has it.
    Hostcalls {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Listing::Table)]
        format: Listing,
    },
}

#[derive(Args, Debug)]
struct Run {
    /// The manifest.
    #[arg(short = 'C', long = "config", value_name = "FASTLY.TOML", env = "SIDELIGHT_CONFIG")]
    config: Option<PathBuf>,

    /// Where dynamic backends may point, as in serve.
    #[arg(long, value_name = "RULES", default_value = "any", env = "SIDELIGHT_DYNAMIC_BACKENDS")]
    dynamic_backends: Targets,

    /// More log, on standard error: -v warnings of libraries too, -vv debug, -vvv trace. RUST_LOG wins.
    #[arg(short, long = "verbose", action = clap::ArgAction::Count)]
    verbose: u8,

    /// Folder of compiled modules [default: sidelight in the user's cache folder].
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// The program.
    #[arg(value_name = "APP.WASM")]
    program: PathBuf,

    /// Its arguments.
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Listing {
    /// Columns for people.
    Table,
    /// Tab-separated: module, name, signature, status, file, note.
    Tsv,
}

/// Sets of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    Staging,
    Production,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnknownImport {
    LinkError,
    Trap,
}

#[derive(Args, Debug)]
struct Serve {
    /// The manifest (a .toml file; default ./fastly.toml) and the program (default bin/main.wasm
    /// beside the manifest), in any order.
    #[arg(value_name = "FILE", num_args = 0..=2)]
    files: Vec<PathBuf>,

    /// The manifest.
    #[arg(short = 'C', long = "config", value_name = "FASTLY.TOML", env = "SIDELIGHT_CONFIG")]
    config: Option<PathBuf>,

    /// Where to serve HTTP: HOST:PORT (port 0 takes a free one) or unix:FILE; several with commas.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7676", env = "SIDELIGHT_ADDR", value_delimiter = ',')]
    addr: Vec<Listen>,

    /// Where to serve /metrics and /healthz; nowhere by default.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_ADMIN")]
    admin: Option<Listen>,

    /// Proxies in front, networks and addresses with commas, that are believed about their clients:
    /// X-Forwarded-For, X-Forwarded-Proto and Forwarded count when they come from these.
    #[arg(long, value_name = "NETS", env = "SIDELIGHT_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Vec<IpNet>,

    /// Connections are from trusted proxies only, and begin with a PROXY header (version 1 or 2).
    #[arg(long, env = "SIDELIGHT_PROXY_PROTOCOL", requires = "trusted_proxies")]
    proxy_protocol: bool,

    #[command(flatten)]
    tls: TlsArgs,

    /// More log: -v also of libraries, -vv debug, -vvv trace. RUST_LOG wins.
    #[arg(short, long = "verbose", action = clap::ArgAction::Count)]
    verbose: u8,

    /// How log lines look.
    #[arg(long, value_enum, default_value_t = logs::Format::Text, env = "SIDELIGHT_LOG_FORMAT")]
    log_format: logs::Format,

    /// Accepted for Viceroy's sake: the guest's standard output is always logged.
    #[arg(long, hide = true)]
    log_stdout: bool,

    /// Accepted for Viceroy's sake: the guest's standard error is always logged.
    #[arg(long, hide = true)]
    log_stderr: bool,

    /// Where dynamic backends may point: any, none, or a list of public (addresses of the public
    /// Internet), networks, addresses, names and *.names, with commas.
    #[arg(long, value_name = "RULES", default_value = "public", env = "SIDELIGHT_DYNAMIC_BACKENDS")]
    dynamic_backends: Targets,

    /// Speak HTTP/2 to https backends that offer it; production speaks HTTP/1.1 unless they are for gRPC.
    #[arg(long, env = "SIDELIGHT_BACKEND_HTTP2")]
    backend_http2: bool,

    /// Where a Pushpin takes HTTP, for programs that hand clients to Fanout.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_GRIP_PROXY", value_parser = address)]
    grip_proxy: Option<SocketAddr>,

    /// Viceroy's spelling: --grip-proxy 127.0.0.1:PORT.
    #[arg(long, value_name = "PORT", hide = true, conflicts_with = "grip_proxy")]
    local_pushpin_proxy_port: Option<u16>,

    /// What to do about imports that are not part of the ABI.
    #[arg(long, value_enum, default_value_t = UnknownImport::LinkError)]
    unknown_import_behavior: UnknownImport,

    /// Folder of compiled modules [default: sidelight in the user's cache folder].
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Compile at every start.
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    guest: GuestArgs,
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

    /// Sandboxes that may run at once.
    #[arg(long, value_name = "N", default_value_t = 1000, env = "SIDELIGHT_MAX_SANDBOXES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_sandboxes: u32,

    /// How long a request waits for a free sandbox before it gets 503.
    #[arg(long, value_name = "TIME", default_value = "1s", env = "SIDELIGHT_QUEUE_TIMEOUT", value_parser = humantime::parse_duration)]
    queue_timeout: Duration,

    /// Which limits of production are enforced: those that protect the host, the others being reported; or all (CPU time,
    /// requests to backends, dynamic backends, header fields).
    #[arg(long, value_enum, default_value_t = Preset::Staging, env = "SIDELIGHT_LIMITS")]
    limits: Preset,

    /// CPU time after which a guest is stopped [default: 5s; 50ms with --limits production].
    #[arg(long, value_name = "TIME", env = "SIDELIGHT_CPU_LIMIT", value_parser = humantime::parse_duration)]
    cpu_limit: Option<Duration>,

    /// Requests to backends that one request may lead to [default: 1000; 32 with --limits production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_BACKEND_REQUESTS")]
    max_backend_requests: Option<u32>,

    /// Backends that a program may make in one sandbox [default: 1000; 200 with --limits production].
    #[arg(long, value_name = "N", env = "SIDELIGHT_MAX_DYNAMIC_BACKENDS")]
    max_dynamic_backends: Option<u32>,

    /// Header fields of a request (more is 503) and of a backend's response (more is a failed send), in KiB [default: what
    /// --max-head allows; 69 with --limits production].
    #[arg(long, value_name = "KIB", env = "SIDELIGHT_MAX_FIELDS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_fields: Option<u32>,

    /// CPU time above which a guest is reported: production's limit.
    #[arg(long, value_name = "TIME", default_value = "50ms", env = "SIDELIGHT_CPU_REPORT", value_parser = humantime::parse_duration)]
    cpu_report: Duration,

    /// Time after which a guest is stopped, waiting included.
    #[arg(long, value_name = "TIME", default_value = "2m", env = "SIDELIGHT_WALL_LIMIT", value_parser = humantime::parse_duration)]
    wall_limit: Duration,

    /// Linear memory of one sandbox, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, env = "SIDELIGHT_MEMORY_LIMIT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    memory_limit: u32,

    /// Requests one sandbox may serve when its program asks for more than one; 1 is no reuse.
    #[arg(long, value_name = "N", default_value_t = 100, env = "SIDELIGHT_REUSE_REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    reuse_requests: u32,

    /// How long a program may wait for its next request.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "SIDELIGHT_REUSE_IDLE", value_parser = humantime::parse_duration)]
    reuse_idle: Duration,

    /// Age at which a sandbox gets no more requests.
    #[arg(long, value_name = "TIME", default_value = "2m", env = "SIDELIGHT_REUSE_LIFETIME", value_parser = humantime::parse_duration)]
    reuse_lifetime: Duration,

    /// Linear memory above which a sandbox gets no more requests, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128, env = "SIDELIGHT_REUSE_MEMORY", value_parser = clap::value_parser!(u32).range(1..=4096))]
    reuse_memory: u32,

    /// Memory each idle sandbox slot may keep resident, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 2048, env = "SIDELIGHT_KEEP_RESIDENT", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    keep_resident: u32,

    /// Longest request head, in KiB; more is 431.
    #[arg(long, value_name = "KIB", default_value_t = 128, env = "SIDELIGHT_MAX_HEAD", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_head: u32,

    /// Longest path and query, in bytes; more is 414.
    #[arg(long, value_name = "BYTES", default_value_t = 8192, env = "SIDELIGHT_MAX_URI", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_uri: u32,

    /// Streams a client may have open on one HTTP/2 connection.
    #[arg(long, value_name = "N", default_value_t = 100, env = "SIDELIGHT_H2_STREAMS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    h2_streams: u32,

    /// Time for a whole request head.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "SIDELIGHT_HEAD_TIMEOUT", value_parser = humantime::parse_duration)]
    head_timeout: Duration,

    /// How long an idle connection stays open.
    #[arg(long, value_name = "TIME", default_value = "60s", env = "SIDELIGHT_IDLE_TIMEOUT", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,

    /// Longest pause a client may make in sending a body or taking a response.
    #[arg(long, value_name = "TIME", default_value = "60s", env = "SIDELIGHT_CLIENT_TIMEOUT", value_parser = humantime::parse_duration)]
    client_timeout: Duration,

    /// How long requests in flight may take to end after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "SIDELIGHT_DRAIN_TIMEOUT", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What the guest is told")]
struct GuestArgs {
    /// FASTLY_POP.
    #[arg(long, default_value_t = Environment::default().pop, env = "SIDELIGHT_POP")]
    pop: String,

    /// FASTLY_REGION.
    #[arg(long, default_value_t = Environment::default().region, env = "SIDELIGHT_REGION")]
    region: String,

    /// FASTLY_HOSTNAME.
    #[arg(long, default_value_t = Environment::default().hostname, env = "SIDELIGHT_HOSTNAME")]
    hostname: String,

    /// FASTLY_SERVICE_VERSION. SDKs take 0 for a local test server and skip things.
    #[arg(long, default_value_t = Environment::default().service_version, env = "SIDELIGHT_SERVICE_VERSION")]
    service_version: u32,

    /// FASTLY_CUSTOMER_ID.
    #[arg(long, default_value_t = Environment::default().customer_id, env = "SIDELIGHT_CUSTOMER_ID")]
    customer_id: String,

    /// Whether FASTLY_IS_STAGING is 1 (true) or 0 (false).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, env = "SIDELIGHT_STAGING")]
    staging: bool,
}

/// An address of another process.
fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<Listen>()? {
        Listen::Tcp(address) => Ok(address),
        Listen::Unix(_) => Err("a Unix socket cannot be used here".to_owned()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("`{text}` is no address and no network (10.0.0.0/8, 2001:db8::/32)"))
}

/// Reads the arguments and does what they say.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let serve = match cli.command {
        Some(Command::Hostcalls { format }) => {
            print_hostcalls(format);
            return ExitCode::SUCCESS;
        }
        Some(Command::Run(run)) => return once(run),
        Some(Command::Serve(serve)) => *serve,
        None => cli.serve,
    };
    #[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
    let filter = std::env::var("RUST_LOG").ok();
    logs::start(serve.verbose, serve.log_format, filter.as_deref());
    let outcome = files(&serve).and_then(|(manifest, program)| app::serve(manifest.as_deref(), &program, host(&serve)?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("error: {exit}");
            ExitCode::from(exit.code())
        }
    }
}

/// Runs a program by itself.
fn once(run: Run) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
    let filter = std::env::var("RUST_LOG").ok().or_else(|| (run.verbose == 0).then(|| "warn".to_owned()));
    logs::start(run.verbose, logs::Format::Text, filter.as_deref());
    // A test suite may take its time.
    const LONG: Duration = Duration::from_secs(24 * 60 * 60);
    let program = run.program.display().to_string();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let host = HostConfig {
        listen: Vec::new(),
        tls: None,
        admin: None,
        threads: cores,
        cache_dir: run.cache_dir.or_else(default_cache_dir),
        drain_timeout: Duration::ZERO,
        limits: Limits { sandboxes: 1, cpu: LONG, cpu_report: LONG, wall: LONG, memory: 4096 << 20, ..Limits::default() },
        environment: Environment::default(),
        arguments: Some(std::iter::once(program).chain(run.arguments).collect()),
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
        dynamic_targets: run.dynamic_backends,
        backend_http2: false,
        grip_proxy: None,
        unknown_imports: UnknownImports::LinkError,
    };
    match app::run(run.config.as_deref(), &run.program, host) {
        Ok(code) => ExitCode::from(code),
        Err(exit) => {
            eprintln!("error: {exit}");
            ExitCode::from(exit.code())
        }
    }
}

/// Which manifest, if any, and which program.
fn files(serve: &Serve) -> Result<(Option<PathBuf>, PathBuf), Exit> {
    let mut manifest = serve.config.clone();
    let mut program = None;
    for file in &serve.files {
        let slot = if file.extension().is_some_and(|extension| extension == "toml") { &mut manifest } else { &mut program };
        if let Some(first) = slot.replace(file.clone()) {
            return Err(Exit::Usage(format!(
                "two files for one thing: {} and {}\n  hint: one manifest (.toml) and one program",
                first.display(),
                file.display()
            )));
        }
    }
    let default = Path::new("fastly.toml");
    if manifest.is_none() && default.exists() {
        manifest = Some(default.to_owned());
    }
    let program = match (program, &manifest) {
        (Some(program), _) => program,
        (None, Some(manifest)) => manifest.parent().unwrap_or(Path::new("")).join("bin/main.wasm"),
        (None, None) => {
            return Err(Exit::Usage(
                "nothing to serve: there is no ./fastly.toml\n  hint: sidelight serve FASTLY.TOML APP.WASM".to_owned(),
            ));
        }
    };
    Ok((manifest, program))
}

fn host(serve: &Serve) -> Result<HostConfig, Exit> {
    let limits = &serve.limits;
    let guest = &serve.guest;
    let (all, default) = (limits.limits == Preset::Production, Limits::default());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(HostConfig {
        listen: serve.addr.clone(),
        tls: serve.tls.listener()?,
        admin: serve.admin.clone(),
        threads: limits.threads.map_or(cores, usize::from),
        cache_dir: if serve.no_cache { None } else { serve.cache_dir.clone().or_else(default_cache_dir) },
        drain_timeout: limits.drain_timeout,
        limits: Limits {
            sandboxes: limits.max_sandboxes,
            queue_timeout: limits.queue_timeout,
            memory: (limits.memory_limit as usize) << 20,
            cpu: limits.cpu_limit.unwrap_or(if all { limits.cpu_report } else { default.cpu }),
            cpu_report: limits.cpu_report,
            backend_requests: limits.max_backend_requests.unwrap_or(if all {
                default.backend_requests_report
            } else {
                default.backend_requests
            }),
            backend_requests_report: default.backend_requests_report,
            dynamic_backends: limits.max_dynamic_backends.unwrap_or(if all {
                default.dynamic_backends_report
            } else {
                default.dynamic_backends
            }),
            dynamic_backends_report: default.dynamic_backends_report,
            fields: match limits.max_fields {
                Some(kib) => (kib as usize) << 10,
                None if all => default.fields_report,
                None => default.fields,
            },
            fields_report: default.fields_report,
            wall: limits.wall_limit,
            reuse: ReuseLimits {
                requests: limits.reuse_requests,
                idle: limits.reuse_idle,
                lifetime: limits.reuse_lifetime,
                memory: (limits.reuse_memory as usize) << 20,
            },
            keep_resident: (limits.keep_resident as usize) << 10,
            uri: limits.max_uri as usize,
            h2_streams: limits.h2_streams,
            head: (limits.max_head as usize) << 10,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            client_timeout: limits.client_timeout,
        },
        environment: Environment {
            pop: guest.pop.clone(),
            region: guest.region.clone(),
            hostname: guest.hostname.clone(),
            service_version: guest.service_version,
            customer_id: guest.customer_id.clone(),
            staging: guest.staging,
        },
        trusted_proxies: serve.trusted_proxies.clone(),
        proxy_protocol: serve.proxy_protocol,
        arguments: None,
        dynamic_targets: serve.dynamic_backends.clone(),
        backend_http2: serve.backend_http2,
        grip_proxy: serve.grip_proxy.or(serve.local_pushpin_proxy_port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))),
        unknown_imports: match serve.unknown_import_behavior {
            UnknownImport::LinkError => UnknownImports::LinkError,
            UnknownImport::Trap => UnknownImports::Trap,
        },
    })
}

#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn default_cache_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("sidelight"))
}

fn print_hostcalls(format: Listing) {
    use std::fmt::Write as _;
    let mut out = String::new();
    for entry in hostcalls::listing() {
        let signature = if entry.signature.is_empty() { "-" } else { &entry.signature };
        let (status, note) = (entry.support.name(), entry.support.note());
        // Writing to a String cannot fail.
        let _ = match format {
            Listing::Tsv => writeln!(out, "{}\t{}\t{signature}\t{status}\t{}\t{note}", entry.module, entry.name, entry.file),
            Listing::Table => {
                writeln!(out, "{:<26}{:<44}{signature:<16}{status:<13}{}:{}  {note}", entry.module, entry.name, entry.file, entry.line)
            }
        };
    }
    // A reader that closes early (head, grep -q) is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Serve {
        let cli = Cli::try_parse_from(std::iter::once("sidelight").chain(args.iter().copied())).expect("parses");
        match cli.command {
            Some(Command::Serve(serve)) => *serve,
            _ => cli.serve,
        }
    }

    #[test]
    fn the_arguments_are_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn viceroys_spelling_and_ours_mean_the_same() {
        let theirs = parse(&["-v", "-C", "/a/fastly.toml", "--addr", "127.0.0.1:1", "bin/main.wasm"]);
        let ours = parse(&["serve", "-v", "--addr=127.0.0.1:1", "/a/fastly.toml", "bin/main.wasm"]);
        for serve in [theirs, ours] {
            assert_eq!(files(&serve).expect("both"), (Some("/a/fastly.toml".into()), "bin/main.wasm".into()));
            assert_eq!(serve.addr, [Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))]);
            assert_eq!(serve.verbose, 1);
        }
    }

    #[test]
    fn the_program_is_beside_the_manifest() {
        let serve = parse(&["serve", "/a/fastly.toml"]);
        assert_eq!(files(&serve).expect("both").1, Path::new("/a/bin/main.wasm"));
        let serve = parse(&["serve", "a.toml", "b.toml"]);
        assert!(matches!(files(&serve), Err(Exit::Usage(_))));
    }
}
