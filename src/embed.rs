//! This host within another program: in Rust tests of a Compute service.
//!
//! ```no_run
//! use sidelight::embed::{Host, Origin};
//!
//! let origin = Origin::new(|request| http::Response::new(format!("{} {}", request.method(), request.uri()).into()));
//! let host = Host::builder("bin/main.wasm").backend("origin", &origin.url()).start().expect("serves");
//! // With whatever client: here only the address.
//! println!("served on {}", host.url());
//! // Programs may go on after their answers.
//! host.wait_idle();
//! assert!(host.records("events").iter().any(|record| record.text() == "a visit"));
//! assert_eq!(origin.requests().len(), 1);
//! ```
//!
//! Everything is as the binary serves it (the same code does), on threads of its own, on a free loopback port; it ends when it is
//! dropped. `tests/embed.rs` has more.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{Request, Response};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime as Threads;
use tokio::sync::watch;

use crate::app::Exit;
use crate::app::load::Launch;
use crate::app::reload::Reloader;
use crate::app::verdict::Verdict;
use crate::config::settings::{Machine, Settings};
use crate::config::{ModuleSource, Targets};
use crate::http::framing::BodyFraming;
use crate::http::request::RequestReader;
use crate::http::{Body, wire};
use crate::runtime::{Current, Runtime};
use crate::server::{Edge, Hops, local};
use crate::services::Platform;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::{Telemetry, clock};

/// Largest head an [`Origin`] reads.
const MAX_HEAD: usize = 256 << 10;

/// How long an [`Origin`] waits for its peer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long [`Host::wait_idle`] waits.
const IDLE: Duration = Duration::from_secs(60);

/// What a program wrote to a log endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The endpoint's name.
    pub endpoint: String,
    /// The request it was written for.
    pub request_id: String,
    /// What was written.
    pub content: Vec<u8>,
}

impl Record {
    /// The content as text, without a line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).trim_end_matches('\n').to_owned()
    }
}

/// What is to be served.
#[derive(Clone, Debug)]
pub struct Builder {
    program: Result<ModuleSource, String>,
    manifest: String,
    settings: Settings,
    machine: Machine,
}

impl Builder {
    /// A backend by its URL, as `[local_server.backends.NAME]` has it.
    #[must_use]
    pub fn backend(self, name: &str, url: &str) -> Self {
        self.manifest(&format!("[local_server.backends.\"{name}\"]\nurl = \"{url}\"\n"))
    }

    /// More of the manifest: TOML, as in `fastly.toml`. Files it names are in the working directory.
    #[must_use]
    pub fn manifest(mut self, toml: &str) -> Self {
        self.manifest.push_str(toml);
        if !toml.ends_with('\n') {
            self.manifest.push('\n');
        }
        self
    }

    /// Settings of the process; what is left out is as the command line has it by default.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings.or(self.settings);
        self
    }

    /// A folder where compiled modules are kept, so that the next test does not compile again.
    #[must_use]
    pub fn cache_dir(mut self, folder: &Path) -> Self {
        self.machine.cache_dir = Some(folder.to_owned());
        self
    }

    /// Loads the program and serves it on a free loopback port.
    ///
    /// # Errors
    ///
    /// As the binary's: a manifest or a program that cannot be used.
    pub fn start(self) -> Result<Host, Exit> {
        apart(|| self.start_here())
    }

    fn start_here(self) -> Result<Host, Exit> {
        let internal = |error: &dyn std::fmt::Display| Exit::Internal(error.to_string());
        // Whoever embeds this may have one already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let kept = records.clone();
        let telemetry = Telemetry::new().with_log_tap(move |endpoint, request_id, content| {
            let (endpoint, request_id) = (endpoint.to_owned(), request_id.to_owned());
            kept.lock().push(Record { endpoint, request_id, content: content.to_vec() });
        });
        let program = Some(self.program.map_err(Exit::Usage)?);
        let launch = Launch { settings: self.settings, manifest: Some(self.manifest), program, machine: self.machine, ..Launch::default() };
        let host = launch.plan().map_err(|unplanned| unplanned.error)?.host;
        let threads = threads(host.threads).map_err(|error| internal(&error))?;
        let current: Arc<Current> = Arc::default();
        let runtime = Arc::new(Runtime::new(&host, &telemetry).map_err(|error| internal(&error))?);
        let platform = Arc::new(Platform::for_host(&telemetry, &host, runtime.memory()).map_err(|error| internal(&error))?);
        let reloader = Reloader::new(launch, host.clone(), runtime.clone(), platform, current.clone());
        reloader.start(None)?;
        let listener = threads.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(|error| internal(&error))?;
        let addr = listener.local_addr().map_err(|error| internal(&error))?;
        let hops = Hops { trusted: host.trusted_proxies.clone(), proxy_protocol: false };
        let edge = Arc::new(Edge {
            current: current.clone(),
            runtime,
            limits: host.limits,
            hops,
            refused: Throttle::default(),
            access: None,
            unserved: telemetry.metrics.service("_none"),
            telemetry: telemetry.clone(),
        });
        let (stop, stopping) = watch::channel(false);
        {
            let _within = threads.enter();
            current.routes().services().iter().for_each(|service| service.services.backends.start_checks());
            tokio::spawn(local::serve(edge, listener, stopping));
        }
        Ok(Host { addr, records, telemetry, reloader: Arc::new(reloader), stop, threads: Some(threads) })
    }
}

/// Runs `work` on a thread of its own: it waits, which the caller's, if it runs futures, must not.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn threads(count: usize) -> std::io::Result<Threads> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(count).thread_name("sidelight").enable_all().build()
}

/// A service that is served.
pub struct Host {
    addr: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    telemetry: Telemetry,
    reloader: Arc<Reloader>,
    stop: watch::Sender<bool>,
    threads: Option<Threads>,
}

impl Host {
    /// Of a program: a path, or as the command line takes it.
    pub fn builder(program: impl AsRef<Path>) -> Builder {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Builder {
            program: ModuleSource::parse(&program.as_ref().to_string_lossy(), Path::new("")),
            manifest: String::new(),
            // Tests' origins are on loopback.
            settings: Settings { dynamic_targets: "any".parse::<Targets>().ok(), ..Settings::default() },
            machine: Machine { cores, ..Machine::default() },
        }
    }

    /// Where it is served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What programs have written to a log endpoint, in order.
    pub fn records(&self, endpoint: &str) -> Vec<Record> {
        self.records.lock().iter().filter(|record| record.endpoint == endpoint).cloned().collect()
    }

    /// Waits until no guest runs, at most a minute; whether that is so then. Programs may go on after their answers.
    pub fn wait_idle(&self) -> bool {
        let metrics = &self.telemetry.metrics;
        let deadline = clock::now() + IDLE;
        loop {
            if metrics.requests_in_flight.get().max(metrics.sandboxes.get() - metrics.sandboxes_waiting.get()) == 0 {
                return true;
            }
            if clock::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The program and its files again, if they have changed; what came of it.
    pub fn reload(&self) -> Verdict {
        apart(|| {
            let _within = self.threads.as_ref().map(Threads::enter);
            self.reloader.reload("request")
        })
    }

    /// Metrics in the Prometheus text format.
    pub fn metrics(&self) -> String {
        self.telemetry.metrics.text(crate::telemetry::exposition::Format::Text)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // Not waiting: this may be within another runtime.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// What answers the requests of an origin.
type Answer = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

/// An HTTP/1.1 origin whose answers a function makes, on a free loopback port, until it is dropped.
pub struct Origin {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    threads: Option<Threads>,
}

impl Origin {
    /// Answers each request with what `answer` makes of it.
    ///
    /// # Panics
    ///
    /// When there is no port or no thread to be had.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its origin")]
    pub fn new(answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Request<Bytes>>>> = Arc::default();
        let threads = threads(1).expect("threads");
        let listener = apart(|| threads.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (answer, kept): (Arc<Answer>, _) = (Arc::new(answer), seen.clone());
        threads.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, answer.clone(), kept.clone()));
            }
        });
        Self { addr, seen, threads: Some(threads) }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.seen.lock().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Requests of one connection, one after another. Whatever goes wrong ends it.
async fn converse(stream: TcpStream, answer: Arc<Answer>, seen: Arc<Mutex<Vec<Request<Bytes>>>>) {
    let (reading, mut writing) = stream.into_split();
    let mut reader = RequestReader::new(reading);
    while let Ok(head) = reader.head(MAX_HEAD).await {
        let mut body = BytesMut::new();
        loop {
            match reader.chunk().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        reader.begin();
        let is_head = head.method == ::http::Method::HEAD;
        let mut request = Request::new(body.freeze());
        (*request.method_mut(), *request.uri_mut(), *request.version_mut()) = (head.method, head.target, head.version);
        *request.headers_mut() = head.headers;
        let (mut parts, body) = answer(&request).into_parts();
        seen.lock().push(request);
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let framing = if is_head { BodyFraming::None } else { BodyFraming::Length(body.len() as u64) };
        let bytes = wire::response_head(parts.status, &parts.headers);
        if wire::write_message(&mut writing, bytes, framing, &mut Body::from(body), PATIENCE).await.is_err() || !head.persistent {
            return;
        }
    }
}
