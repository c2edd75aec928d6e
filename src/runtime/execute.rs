//! One execution: from instantiation to outcome, under limits.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{StatusCode, Uri};
use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wasmtime::{Instance, Store, Trap, UpdateDeadline, WasmBacktrace, WasmCoreDump};
use wasmtime_wasi::I32Exit;

use super::engine::TABLE_ELEMENTS;
use super::profile::{Recording, Sampler};
use super::reuse::Source;
use super::{Guest, Permit, Runtime, Snapshot, Unserved, tidy, wasi};
use crate::abi::GuestState;
use crate::config::{Config, GuestLimits};
use crate::http::{Body, RequestHead};
use crate::sandbox::limits::Stopped;
use crate::sandbox::{Account, Bounds, Client, Current, DownstreamRequest, MemoryLimiter, Meter, Parcel, Received, Reply, Sandbox};
use crate::services::memory::Part;
use crate::telemetry::clock;
use crate::telemetry::metrics::Held;
use crate::telemetry::service::ServiceMetrics;

/// CPU time after which a guest leaves the thread of its connection for the threads that guests of
/// its kind share: one tick of the epoch.
const LIGHT: Duration = Duration::from_millis(5);

/// A stretch without a tick in which it made way: one instruction or hostcall that takes long.
const LONG: Duration = Duration::from_millis(10);

/// Frames of a guest's stack that the log shows.
const MAX_FRAMES: usize = 16;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Came to its end, or exited with 0.
    Finished,
    /// Exited with another code.
    Exited(i32),
    /// Trapped; the text is for the log.
    Trapped(String),
    /// Used more CPU time than it may.
    CpuLimit,
    /// Took longer than it may.
    WallLimit,
    /// Asked for more memory than it may have, and did not survive the refusal.
    MemoryLimit,
    /// The same, and it could have had it if the process were not short of memory.
    MemoryShort,
    /// The host failed: a bug of ours.
    HostFailed(String),
}

impl Outcome {
    /// The label in metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Exited(_) => "exited",
            Self::Trapped(_) => "trapped",
            Self::CpuLimit => "cpu_limit",
            Self::WallLimit => "wall_limit",
            Self::MemoryLimit => "memory_limit",
            Self::MemoryShort => "memory_short",
            Self::HostFailed(_) => "host_failed",
        }
    }

    /// Name and detail.
    pub fn told(&self) -> String {
        let detail = self.detail();
        if detail.is_empty() { self.name().to_owned() } else { format!("{}: {detail}", self.name()) }
    }

    /// What the log says beyond the name.
    fn detail(&self) -> String {
        match self {
            Self::Finished => String::new(),
            Self::CpuLimit => "it used more CPU time than it may (--cpu-limit)".to_owned(),
            Self::WallLimit => "it took longer than it may (--wall-limit)".to_owned(),
            Self::MemoryLimit => "it wanted more memory than it may have (--memory-limit)".to_owned(),
            Self::MemoryShort => "it wanted more memory, of which this host is short (--total-memory)".to_owned(),
            Self::Exited(code) => format!("exit code {code}"),
            Self::Trapped(reason) | Self::HostFailed(reason) => reason.clone(),
        }
    }
}

/// What a sandbox and those around it share as long as it is there. Cores that serve the same service would otherwise take the
/// counts of what they share from each other, several times a request.
pub struct Stay {
    pub(super) runtime: Arc<Runtime>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Stay {
    /// Of a sandbox for a snapshot's guest.
    pub fn new(runtime: &Arc<Runtime>, snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self { runtime: runtime.clone(), snapshot })
    }
}

/// A guest that runs, seen from outside.
#[derive(Debug)]
pub struct Execution {
    /// What it has used.
    pub meter: Arc<Meter>,
    current: Current,
    outcome: OnceLock<Outcome>,
    ended: Notify,
}

impl Execution {
    /// One that begins with a request.
    pub fn new(request: &DownstreamRequest) -> Arc<Self> {
        let meter = Arc::new(Meter::default());
        let current = Current::new(request.received.id.clone(), request.trace.clone());
        Arc::new(Self { meter, current, outcome: OnceLock::new(), ended: Notify::new() })
    }

    /// How it ended, once it has.
    pub async fn outcome(&self) -> &Outcome {
        loop {
            let ended = self.ended.notified();
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            ended.await;
        }
    }

    fn end(&self, outcome: Outcome) {
        // Called once.
        drop(self.outcome.set(outcome));
        self.ended.notify_waiters();
    }
}

impl Runtime {
    /// Runs the snapshot's guest for a request, in a task of its own. The answer goes through the
    /// parcel's responder; the guest may go on for longer, and for further requests.
    pub fn start(self: &Arc<Self>, snapshot: Arc<Snapshot>, parcel: Parcel, permit: Permit) -> Arc<Execution> {
        let stay = Stay::new(self, snapshot);
        let execution = Execution::new(&parcel.request);
        let watched = execution.clone();
        // In a box: tokio aligns a task to cache lines, which is dear for a large one.
        tokio::spawn(Box::pin(async move {
            let ending = Ending(execution.clone());
            let Stay { runtime, snapshot } = &*stay;
            let sandbox_exists = Held::new(&runtime.telemetry.metrics.sandboxes);
            let state = runtime.state(&stay, parcel, &execution);
            let recording = runtime.recording(&snapshot.guest, state.sandbox.id());
            let store = runtime.store(&stay, state, recording.as_ref().map(Recording::sampler));
            let running = runtime.execute(stay.clone(), store, recording, execution.meter.clone());
            // A panic in a hostcall is this request's failure and nobody else's.
            let outcome = match AssertUnwindSafe(running).catch_unwind().await {
                Ok(outcome) => outcome,
                Err(panic) => Outcome::HostFailed(panic_text(&*panic)),
            };
            drop(permit);
            drop(sandbox_exists);
            runtime.report(&snapshot.services.metrics, &snapshot.config, &outcome, &execution.meter, &execution.current.id());
            if let Some(trace) = execution.current.take_trace() {
                trace.ended(outcome.name(), || outcome.detail());
            }
            execution.end(outcome);
            drop(ending);
        }));
        watched
    }

    /// The status of the snapshot's answer to a request from nobody; its body is read to its end.
    pub async fn ask(self: &Arc<Self>, snapshot: Arc<Snapshot>, host: &str, path: &str) -> Result<StatusCode, Unserved> {
        let mut serving = self.serve(snapshot, of_nobody(host, path)).await?;
        loop {
            match serving.reply().await? {
                Reply::Early(_) => {}
                Reply::Final(mut response) => {
                    while let Ok(Some(_)) = response.body.chunk().await {}
                    return Ok(response.head.status);
                }
                Reply::HandOff(_) => return Ok(StatusCode::SWITCHING_PROTOCOLS),
                Reply::Failed { .. } => return Ok(StatusCode::BAD_GATEWAY),
            }
        }
    }

    /// Runs the snapshot's program once, for a request from nobody, to its end. What it answers goes nowhere.
    pub async fn run_once(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Outcome {
        match self.serve(snapshot, of_nobody("example.com", "/")).await {
            Ok(serving) => serving.outcome().await,
            Err(Unserved::Ended(outcome)) => outcome,
            Err(Unserved::Overloaded { .. } | Unserved::NoMemory | Unserved::NoService) => {
                Outcome::HostFailed("there is no sandbox".to_owned())
            }
        }
    }

    async fn execute(&self, stay: Arc<Stay>, store: Store<GuestState>, recording: Option<Recording>, meter: Arc<Meter>) -> Outcome {
        let wall = stay.snapshot.config.limits.wall;
        let kept = stay.clone();
        // A program most of whose guests move sooner or later would hold up those beside it for a tick with each of them.
        let heavy_from_the_start = kept.snapshot.tendency.is_heavy();
        let mut running = OnCpu {
            work: Box::pin(async move { stay.runtime.run(&stay.snapshot, store, recording).await }),
            meter: meter.clone(),
            stay: kept.clone(),
            leave_after: (!heavy_from_the_start).then_some(LIGHT),
        };
        let (mut moved, mut has_moved) = (None, false);
        let whole = async {
            if !heavy_from_the_start {
                if let Stretch::Done(result) = (&mut running).await {
                    return result;
                }
                has_moved = true;
                self.telemetry.metrics.guests_heavy.inc();
            }
            running.leave_after = None;
            let Some(heavy) = &self.heavy else { return Err(wasmtime::Error::msg("the runtime is going away")) };
            let moved = moved.insert(JoinSet::new());
            moved.spawn_on(running, heavy.handle());
            match moved.join_next().await {
                Some(Ok(Stretch::Done(result))) => result,
                // As it would have been on this thread.
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Ok(Stretch::Heavy) | Err(_)) | None => Err(wasmtime::Error::msg("the guest's task ended early")),
            }
        };
        let outcome = match Self::within_wall_limit(wall, whole, &meter).await {
            Some(Ok(())) => Outcome::Finished,
            Some(Err(error)) => judge(&error, &meter),
            None => {
                // Its sandbox must be gone before another may take its place.
                if let Some(mut moved) = moved {
                    moved.shutdown().await;
                }
                Outcome::WallLimit
            }
        };
        // One that was reused and now waits has forgotten; that it has moved is known. One that never waited had no occasion to move.
        let computed = !has_moved && meter.request_cpu() > LIGHT;
        if computed {
            self.telemetry.metrics.guests_heavy.inc();
        }
        kept.snapshot.tendency.note(computed || has_moved);
        outcome
    }

    /// `None` when a request took too long.
    async fn within_wall_limit<T>(limit: Duration, work: impl Future<Output = T>, meter: &Meter) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut left = limit;
        loop {
            match tokio::time::timeout(left, &mut work).await {
                Ok(result) => return Some(result),
                // The clock may have started again since, for another request.
                Err(_) => left = limit.checked_sub(meter.request_time()).filter(|left| !left.is_zero())?,
            }
        }
    }

    /// Runs the guest. Its recording, if there is one, ends with it.
    async fn run(&self, snapshot: &Snapshot, mut store: Store<GuestState>, _recording: Option<Recording>) -> wasmtime::Result<()> {
        let guest = &snapshot.guest;
        let before = clock::now();
        let instance = Self::enter(guest, &mut store).await?;
        self.telemetry.metrics.instantiate.observe(clock::now().duration_since(before).as_secs_f64());
        let start = instance.get_module_export(&mut store, &guest.program.start).and_then(wasmtime::Extern::into_func);
        let start = start.ok_or_else(|| wasmtime::Error::msg("no function `_start`"))?.typed::<(), ()>(&store)?;
        let ended = start.call_async(&mut store, ()).await;
        if let (Err(error), Some(folder)) = (&ended, &self.core_dumps)
            && let Some(dump) = error.downcast_ref::<WasmCoreDump>()
        {
            let id = store.data().sandbox.id().to_owned();
            // One at a time: each is as large as its guest's memory.
            let Some(_alone) = DUMPING.try_lock() else {
                tracing::debug!(target: "sidelight::guest", request_id = id, "no core dump of the guest: another one is being written");
                return ended;
            };
            // Beside the folder's other files; whoever asked for dumps can wait for one.
            let dump = dump.serialize(&mut store, &guest.digest()[..16]);
            let path = folder.join(format!("{}-{id}.coredump", clock::unix().as_millis()));
            match write_private(folder, &path, &dump) {
                Ok(()) => {
                    tidy::tidy(folder, MOST_DUMPS, &path, |name| name.ends_with(".coredump"));
                    tracing::warn!(target: "sidelight::guest", request_id = id, file = %path.display(), "a core dump of the guest was written")
                }
                Err(error) => tracing::warn!(target: "sidelight::guest", request_id = id, %error, "a core dump could not be written"),
            }
        }
        ended
    }

    /// A sandbox with its limits set, not started.
    pub async fn instantiate(&self, stay: &Arc<Stay>, state: GuestState) -> wasmtime::Result<(Store<GuestState>, Instance)> {
        let mut store = self.store(stay, state, None);
        let instance = Self::enter(&stay.snapshot.guest, &mut store).await?;
        Ok((store, instance))
    }

    fn recording(&self, guest: &Guest, id: &str) -> Option<Recording> {
        Recording::begin(&self.engine, guest, self.profiles.as_ref()?, id)
    }

    /// What a sandbox is made in, with its limits. Made before anything waits: a future that holds the state is moved with it.
    fn store(&self, stay: &Arc<Stay>, state: GuestState, sampler: Option<Sampler>) -> Store<GuestState> {
        let limit = state.sandbox.config.limits.cpu;
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        let stay = stay.clone();
        store.epoch_deadline_callback(move |context| {
            if let Some(sampler) = &sampler {
                sampler.sample(&context);
            }
            let Stay { runtime, snapshot } = &*stay;
            if let Some(sampler) = runtime.session.load().as_ref().and_then(|session| session.sampler(&snapshot.guest.program.digest)) {
                sampler.sample(&context);
            }
            let meter = &context.data().sandbox.meter;
            if meter.request_cpu() > limit {
                meter.stop(Stopped::Cpu);
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }

    async fn enter(guest: &Guest, store: &mut Store<GuestState>) -> wasmtime::Result<Instance> {
        let instance = guest.program.pre.instantiate_async(&mut *store).await?;
        store.data_mut().memory = instance.get_module_export(&mut *store, &guest.program.memory).and_then(wasmtime::Extern::into_memory);
        Ok(instance)
    }

    /// The host state of an execution.
    pub fn state(&self, stay: &Arc<Stay>, parcel: Parcel, execution: &Arc<Execution>) -> GuestState {
        let snapshot = &stay.snapshot;
        let Execution { meter, current, .. } = &**execution;
        // Counts from 1, as in production.
        let generation = snapshot.services.cache.space().generation() + 1;
        let wasi = wasi::context(stay, generation, &parcel.request.received.id, current);
        let limits = &snapshot.config.limits;
        let limiter =
            MemoryLimiter::new(limits.memory, TABLE_ELEMENTS, self.memory.clone(), Part::new(snapshot.memory.clone()), meter.clone());
        let next = Arc::new(Source::new(stay.clone(), execution.clone()));
        let account = Account::new(self.memory.clone(), snapshot.memory.clone(), meter.clone());
        let mut sandbox = Sandbox::new(snapshot.services.clone(), snapshot.config.clone(), parcel, current.clone(), next, account);
        let GuestLimits {
            backend_requests: sends,
            config_lookups: lookups,
            dynamic_backends: dynamic,
            dynamic_backends_report,
            fields,
            fields_report,
            ..
        } = *limits;
        sandbox.bounds = Bounds { sends, lookups, dynamic, dynamic_report: dynamic_backends_report, fields, fields_report };
        GuestState { memory: None, wasi, limiter, sandbox }
    }

    /// Counts what a request that is done has used.
    pub(super) fn account(&self, service: &ServiceMetrics, limits: &GuestLimits, id: &str, meter: &Meter) {
        let metrics = &self.telemetry.metrics;
        let sends = meter.request_sends();
        if sends > limits.backend_requests_report {
            metrics.guest_sends_over.inc();
            tracing::warn!(
                target: "sidelight::limits",
                service = service.name,
                request_id = id,
                backend_requests = sends,
                limit = limits.backend_requests_report,
                "more requests to backends than production allows"
            );
        }
        let lookups = meter.request_lookups();
        if lookups > limits.config_lookups_report {
            metrics.guest_lookups_over.inc();
            tracing::warn!(
                target: "sidelight::limits",
                service = service.name,
                request_id = id,
                config_lookups = lookups,
                limit = limits.config_lookups_report,
                "more lookups of config store entries than production allows"
            );
        }
        if meter.made_many_backends() {
            metrics.guest_backends_over.inc();
        }
        let (limit, shortage) = meter.take_refusals();
        for (reason, count) in [("limit", limit), ("shortage", shortage)] {
            if count > 0 {
                metrics.growth_refused.with_label_values(&[&*service.name, reason]).inc_by(count.into());
            }
        }
        metrics.fields_over.with_label_values(&["response"]).inc_by(meter.request_large_heads().into());
        let cpu = meter.request_cpu();
        service.cpu.observe(cpu.as_secs_f64());
        service.memory.observe(meter.memory() as f64);
        if cpu > limits.cpu_report {
            metrics.guest_cpu_over.inc();
            tracing::warn!(
                target: "sidelight::limits",
                service = service.name,
                request_id = id,
                cpu_ms = millis(cpu),
                limit_ms = millis(limits.cpu_report),
                "a guest used more CPU time than production allows"
            );
        }
    }

    fn report(&self, service: &ServiceMetrics, config: &Config, outcome: &Outcome, meter: &Meter, id: &str) {
        match outcome {
            Outcome::Finished => service.finished.inc(),
            other => self.telemetry.metrics.guests.with_label_values(&[&service.name, other.name()]).inc(),
        }
        self.account(service, &config.limits, id, meter);
        let cpu = meter.request_cpu();
        match outcome {
            Outcome::Finished => {
                tracing::debug!(target: "sidelight::guest", request_id = id, cpu_us = micros(cpu), memory = meter.memory(), "guest finished");
            }
            Outcome::HostFailed(reason) => {
                tracing::error!(target: "sidelight::guest", service = config.name, request_id = id, reason, "the host failed: please report this")
            }
            other => {
                tracing::warn!(
                    target: "sidelight::guest",
                    service = config.name,
                    request_id = id,
                    outcome = other.name(),
                    cpu_ms = millis(cpu),
                    memory = meter.memory(),
                    "guest ended: {}",
                    other.detail()
                );
            }
        }
    }
}

/// Writes what only this user may read.
/// Held by whoever writes a core dump.
static DUMPING: Mutex<()> = Mutex::new(());

/// Bytes of core dumps that are kept: the latest.
const MOST_DUMPS: u64 = 1 << 30;

fn write_private(folder: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    if !folder.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

/// A request that no client has made.
fn of_nobody(host: &str, path: &str) -> DownstreamRequest {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
    let client = Arc::new(Client { address: nobody, server: nobody, secure: false, tls: None });
    let raw_head = Bytes::from(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let received = Received { raw_head, client, h2_fingerprint: None, id: uuid::Uuid::new_v4().to_string().into() };
    let uri = Uri::try_from(format!("http://{host}{path}")).unwrap_or_default();
    let mut head = RequestHead { uri, ..RequestHead::default() };
    if let Ok(host) = HeaderValue::from_str(host) {
        head.headers.insert(header::HOST, host);
    }
    DownstreamRequest { head, body: Body::empty(), received: Arc::new(received), trace: None }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a failed run means.
fn judge(error: &wasmtime::Error, meter: &Meter) -> Outcome {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return if *code == 0 { Outcome::Finished } else { Outcome::Exited(*code) };
    }
    if meter.stopped() == Some(Stopped::Cpu) {
        return Outcome::CpuLimit;
    }
    if meter.memory_refused() && error.is::<Trap>() {
        return if meter.memory_short() { Outcome::MemoryShort } else { Outcome::MemoryLimit };
    }
    Outcome::Trapped(describe(error))
}

/// The cause and where it happened, on one line.
fn describe(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string().replace('\n', " ");
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (i, frame) in backtrace.frames().iter().take(MAX_FRAMES).enumerate() {
            text.push_str(if i == 0 { "; at " } else { " < " });
            match frame.func_name() {
                Some(name) => text.push_str(name),
                None => text.push_str(&format!("function {}", frame.func_index())),
            }
        }
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

/// Ends an execution whose task breaks off: nobody must wait for it for ever.
struct Ending(Arc<Execution>);

impl Drop for Ending {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.end(Outcome::HostFailed("its task broke off".to_owned()));
        }
    }
}

/// How far a guest got on a thread.
enum Stretch<T> {
    Done(T),
    /// It has used so much CPU time that it should go on elsewhere.
    Heavy,
}

/// Tells the meter when the guest is on a thread, and ends when it has been for too long.
struct OnCpu<F> {
    work: Pin<Box<F>>,
    meter: Arc<Meter>,
    stay: Arc<Stay>,
    leave_after: Option<Duration>,
}

impl<F: Future> Future for OnCpu<F> {
    type Output = Stretch<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.meter.resume();
        let polled = self.work.as_mut().poll(context);
        let stretch = self.meter.pause();
        if stretch > LONG && self.leave_after.is_some() {
            self.stay.snapshot.tendency.kept_a_thread(stretch);
        }
        match (polled, self.leave_after) {
            (Poll::Ready(output), _) => Poll::Ready(Stretch::Done(output)),
            (Poll::Pending, Some(limit)) if self.meter.request_cpu() > limit => Poll::Ready(Stretch::Heavy),
            (Poll::Pending, _) => Poll::Pending,
        }
    }
}
