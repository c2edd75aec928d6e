//! Running guests: the engine, loading modules, one execution from instantiation to outcome.
//!
//! [`Runtime::serve`] gives a request to a guest that waits for one, or to a new sandbox when one is
//! free or comes free in time. Nothing here knows HTTP connections.

pub mod code_cache;
pub mod compiler;
pub mod engine;
pub mod execute;
pub mod guest;
pub mod profile;
pub mod publish;
pub mod reuse;
pub mod snapshot;
pub mod source;
pub mod tidy;
pub mod wasi;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Engine, Linker};

use crate::abi::GuestState;
use crate::config::HostConfig;
use crate::config::host::{GuestProfiles, Profile, UnknownImports};
use crate::hostcalls;
use crate::sandbox::downstream::Answer;
use crate::sandbox::{DownstreamRequest, Parcel, Reply, Responder};
use crate::services::memory::{HostMemory, Shortage};
use crate::telemetry::{Telemetry, clock};

pub use execute::{Execution, Outcome, Stay};
pub use guest::{Guest, LoadError};
pub use reuse::Waiting;
pub use snapshot::{Current, Route, Routes, Snapshot, Target, Trial};

use compiler::Compiler;
use profile::Session;
use reuse::{Found, Resting, WaitingGuest};

/// CPU time from one sample to the next, of a profile for somebody who waits for it.
const SAMPLE: Duration = Duration::from_millis(1);

/// How often it is looked how much memory the process has.
const SAMPLE_OF_MEMORY: Duration = Duration::from_millis(20);

/// A block that the allocator asks the kernel for, in bytes. Nobody touches it.
const LARGE: usize = 64 << 20;

/// Most threads that compile a program.
const COMPILERS: usize = 4;

/// By how much threads that compute for long stand back behind those that serve. A processor that both want is then shared nearly one to
/// ten, and whoever serves has it as soon as it has something to do.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// What every guest of the process shares.
pub struct Runtime {
    engine: Engine,
    linker: Linker<GuestState>,
    sandboxes: Arc<Semaphore>,
    /// How many it has in all.
    places: usize,
    /// Of several services, those have a part in this that have more than a few: a quarter of all is left for those with few.
    common: Arc<Semaphore>,
    arguments: Option<Vec<String>>,
    unknown_imports: UnknownImports,
    cache: Option<code_cache::CodeCache>,
    /// Who compiles; `None`: this process.
    compiler: Option<Arc<Compiler>>,
    /// As what.
    compiled: engine::Compiled,
    programs: guest::Programs,
    profiles: Option<GuestProfiles>,
    /// Where core dumps go, if there are any.
    core_dumps: Option<PathBuf>,
    /// A profile that is being recorded for somebody who waits for it.
    session: ArcSwapOption<Session>,
    /// How often the epoch ticks meanwhile, in nanoseconds.
    finer: Arc<AtomicU64>,
    telemetry: Telemetry,
    /// Where guests go that compute for long; always there until this is dropped.
    heavy: Option<tokio::runtime::Runtime>,
    /// What the process has of memory.
    memory: Arc<HostMemory>,
    /// Where guests wait for further requests.
    resting: Arc<Resting>,
}

/// A request that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unserved {
    /// No service has the request's host and path.
    #[error("no service has this host and path")]
    NoService,
    /// No sandbox came free in time.
    #[error("no sandbox came free in time")]
    Overloaded {
        /// Its service has as many as it may have; else the process has.
        own: bool,
    },
    /// The process was short of memory, and its service had much of it, or all together.
    #[error("the process was short of memory")]
    NoMemory,
    /// The guest ended without answering.
    #[error("the guest ended without an answer: {}", .0.told())]
    Ended(Outcome),
}

impl Unserved {
    /// Its name in traces and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::Overloaded { .. } => "overloaded",
            Self::NoMemory => "no_memory",
            Self::Ended(Outcome::Finished) => "no_answer",
            Self::Ended(outcome) => outcome.name(),
        }
    }
}

/// A request that a guest works on.
pub struct Serving {
    answer: Answer,
    execution: Arc<Execution>,
}

impl Serving {
    /// The guest's next reply.
    pub async fn reply(&mut self) -> Result<Reply, Unserved> {
        match self.answer.next().await {
            Some(reply) => Ok(reply),
            None => Err(Unserved::Ended(self.execution.outcome().await.clone())),
        }
    }

    /// How the guest ends; its replies are of no interest.
    pub async fn outcome(&self) -> Outcome {
        self.execution.outcome().await.clone()
    }
}

/// Room for a sandbox: of its service, if that has a limit of its own, and of the host.
pub struct Permit {
    _service: Option<OwnedSemaphorePermit>,
    _share: Option<OwnedSemaphorePermit>,
    _host: OwnedSemaphorePermit,
}

/// How many of so many sandboxes a service may have in any case, one at least.
fn few_of(places: usize) -> usize {
    if places < 4 { 0 } else { (places / 16).max(1) }
}

/// What runs a request: a guest that waits for one, or room for a new one.
enum Place {
    Waiting(WaitingGuest),
    New(Permit),
}

/// The runtime cannot start.
#[derive(Debug, thiserror::Error)]
#[error("starting the wasm engine: {0:#}{hint}", hint = room(.0))]
pub struct EngineError(#[from] wasmtime::Error);

/// What to do when there is no address space for the pool of sandboxes.
fn room(error: &wasmtime::Error) -> &'static str {
    if format!("{error:#}").contains("failed to reserve") {
        "\n  hint: each sandbox reserves 4 GiB of address space, which is not memory: lift the bound (ulimit -v unlimited, LimitAS= of a unit), or lower --max-sandboxes"
    } else {
        ""
    }
}

/// Looks how much memory the process has, and says when it is short of it.
fn watch(memory: Arc<HostMemory>, resting: Arc<Resting>) -> impl FnMut() + Send + 'static {
    let (mut last, mut told) = (clock::now(), Shortage::None);
    move || {
        if clock::now().duration_since(last) < SAMPLE_OF_MEMORY {
            return;
        }
        last = clock::now();
        memory.read();
        let shortage = memory.shortage();
        if shortage > Shortage::None {
            resting.send_all_away();
            // What is free goes back to the kernel when somebody frees, some time later; nobody might.
            let mut block = Vec::<u8>::new();
            drop(block.try_reserve_exact(LARGE));
            drop(std::hint::black_box(block));
        }
        let (used_mib, limit_mib) = (memory.used() >> 20, memory.most() >> 20);
        match shortage {
            same if same == told => return,
            Shortage::None => tracing::info!(target: "sidelight::limits", used_mib, limit_mib, "memory is no longer short"),
            // Back from worse: that was said.
            Shortage::Large if told == Shortage::All => return,
            Shortage::Large => tracing::warn!(
                target: "sidelight::limits",
                used_mib,
                limit_mib,
                "memory is short: large guests get no more (--total-memory; --memory-limit and --max-sandboxes bound what guests take)"
            ),
            Shortage::All => tracing::warn!(
                target: "sidelight::limits",
                used_mib,
                limit_mib,
                "memory is nearly used up: guests get no more, and new ones wait (--total-memory; --memory-limit and --max-sandboxes bound what guests take)"
            ),
        }
        told = shortage;
    }
}

/// Lets other threads go before this one. Elsewhere than on Linux it would be the whole process that stands back.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread that computes keeps the priority of those that serve");
    }
}

impl Runtime {
    /// The engine with its pool of sandboxes, and the linked ABI.
    pub fn new(config: &HostConfig, telemetry: &Telemetry) -> Result<Self, EngineError> {
        Self::with_imports(config, telemetry, |_| Ok(()))
    }

    /// As [`Self::new`], with functions of the caller's that guests can import too.
    pub fn with_imports(
        config: &HostConfig,
        telemetry: &Telemetry,
        more: impl FnOnce(&mut Linker<GuestState>) -> wasmtime::Result<()>,
    ) -> Result<Self, EngineError> {
        // Each of them that compiles takes some 30 MiB for a large program: no more of them than cores are given, and no more than
        // a small container has room for. Whoever embeds this may have a pool already.
        drop(
            rayon::ThreadPoolBuilder::new()
                .num_threads(config.threads.clamp(1, COMPILERS))
                .thread_name(|_| "compiling".to_owned())
                .start_handler(|_| stand_back())
                .build_global(),
        );
        let heavy = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("heavy guests")
            .on_thread_start(stand_back)
            .enable_all()
            .build()
            .map_err(|error| wasmtime::Error::msg(format!("starting threads for heavy guests: {error}")))?;
        let engine = engine::build(&config.limits, config.profile.as_ref(), config.core_dumps.is_some())?;
        let finer: Arc<AtomicU64> = Arc::default();
        let memory = Arc::new(HostMemory::new(config.limits.total_memory));
        let resting: Arc<Resting> = Arc::default();
        telemetry.metrics.memory_limit.set(i64::try_from(memory.most()).unwrap_or(i64::MAX));
        engine::tick(&engine, config.profile.as_ref(), &finer, watch(memory.clone(), resting.clone()))?;
        let mut linker = Linker::new(&engine);
        hostcalls::link_all(&mut linker, telemetry)?;
        wasi::link(&mut linker)?;
        more(&mut linker)?;
        let places = config.limits.sandboxes as usize;
        Ok(Self {
            engine,
            linker,
            sandboxes: Arc::new(Semaphore::new(places)),
            places,
            common: Arc::new(Semaphore::new(places - places / 4 - few_of(places))),
            arguments: config.arguments.clone(),
            unknown_imports: config.unknown_imports,
            compiler: None,
            compiled: engine::Compiled::new(config.profile.as_ref(), config.core_dumps.is_some()),
            cache: config.cache_dir.as_deref().and_then(|folder| code_cache::CodeCache::open(folder, config.cache_dir_size)),
            programs: guest::Programs::default(),
            profiles: match &config.profile {
                Some(Profile::Guests(profiles)) => Some(profiles.clone()),
                Some(Profile::PerfMap | Profile::JitDump) | None => None,
            },
            core_dumps: config.core_dumps.clone(),
            session: ArcSwapOption::empty(),
            finer,
            telemetry: telemetry.clone(),
            heavy: Some(heavy),
            memory,
            resting,
        })
    }

    /// Programs are compiled by another process from now on.
    pub fn compile_apart(&mut self, compiler: Arc<Compiler>) {
        self.compiler = Some(compiler);
    }

    /// What it cannot do now.
    pub fn degraded(&self) -> Vec<String> {
        self.compiler.iter().filter_map(|compiler| compiler.trouble()).map(str::to_owned).collect()
    }

    /// Memory of the process.
    pub fn memory(&self) -> &Arc<HostMemory> {
        &self.memory
    }

    /// Has a guest answer a request. Whoever drops what this gives has lost interest in the answer; the
    /// guest goes on all the same.
    pub async fn serve(self: &Arc<Self>, snapshot: Arc<Snapshot>, request: DownstreamRequest) -> Result<Serving, Unserved> {
        let (responder, answer) = Responder::new();
        let mut parcel = Parcel { request, responder };
        loop {
            let guest = match self.place(&snapshot).await? {
                Place::New(permit) => return Ok(Serving { answer, execution: self.start(snapshot, parcel, permit) }),
                Place::Waiting(guest) => guest,
            };
            parcel = *match guest.deliver(Box::new(parcel)) {
                Err(refused) => refused,
                Ok((execution, returned)) => match returned.await {
                    Ok(untaken) => untaken,
                    // It has taken it.
                    Err(_) => return Ok(Serving { answer, execution }),
                },
            };
        }
    }

    /// Waits, within the queue timeout, for what can run a request.
    async fn place(&self, snapshot: &Snapshot) -> Result<Place, Unserved> {
        match snapshot.waiting.take() {
            Found::Here(guest) => return Ok(Place::Waiting(guest)),
            Found::MaybeElsewhere => {
                if snapshot.waiting.crosses_too_often()
                    && let Some(permit) = self.room(snapshot)
                {
                    snapshot.waiting.stays();
                    return Ok(Place::New(permit));
                }
                if let Some(guest) = snapshot.waiting.take_any(self.places - self.free()) {
                    return Ok(Place::Waiting(guest));
                }
            }
            Found::Nobody => {}
        }
        if let Some(permit) = self.room(snapshot) {
            return Ok(Place::New(permit));
        }
        let waiting = snapshot.waiting.next();
        let either = async {
            tokio::select! {
                biased;
                Ok(guest) = waiting => Ok(Place::Waiting(guest)),
                Some(permit) = self.wait_for_room(snapshot) => Ok(Place::New(permit)),
                else => Err(Unserved::Overloaded { own: false }),
            }
        };
        tokio::time::timeout(snapshot.config.limits.queue_timeout, either).await.unwrap_or_else(|_| {
            match self.memory.admits(&snapshot.memory) {
                true => {
                    let own = snapshot.permits.as_ref().is_some_and(|permits| permits.available_permits() == 0);
                    Err(Unserved::Overloaded { own })
                }
                false => Err(Unserved::NoMemory),
            }
        })
    }

    /// Room for a sandbox, if there is some now.
    fn room(&self, snapshot: &Snapshot) -> Option<Permit> {
        if !self.memory.admits(&snapshot.memory) {
            return None;
        }
        let service = match &snapshot.permits {
            Some(permits) => Some(permits.clone().try_acquire_owned().ok()?),
            None => None,
        };
        let share = match self.few(snapshot) {
            Some(few) => Some(few.clone().try_acquire_owned().or_else(|_| self.common.clone().try_acquire_owned()).ok()?),
            None => None,
        };
        Some(Permit { _service: service, _share: share, _host: self.sandboxes.clone().try_acquire_owned().ok()? })
    }

    /// The few sandboxes that a service may have whatever others have, if there are others.
    fn few<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<Semaphore>> {
        let shares = self.places >= 4 && snapshot.among.load(Ordering::Relaxed);
        shares.then(|| snapshot.few.get_or_init(|| Arc::new(Semaphore::new(few_of(self.places)))))
    }

    /// Room for a sandbox. `None` never comes: nobody closes the semaphores.
    async fn wait_for_room(&self, snapshot: &Snapshot) -> Option<Permit> {
        // The service's first: one that has all it may have does not take from the others.
        let service = match &snapshot.permits {
            Some(permits) => Some(permits.clone().acquire_owned().await.ok()?),
            None => None,
        };
        let share = match self.few(snapshot) {
            None => None,
            Some(few) => Some(match few.clone().try_acquire_owned().or_else(|_| self.common.clone().try_acquire_owned()) {
                Ok(permit) => permit,
                Err(_) => {
                    self.resting.send_one_away();
                    tokio::select! {
                        permit = few.clone().acquire_owned() => permit.ok()?,
                        permit = self.common.clone().acquire_owned() => permit.ok()?,
                    }
                }
            }),
        };
        loop {
            // Before it takes a place that another service could use meanwhile.
            while !self.memory.admits(&snapshot.memory) {
                tokio::time::sleep(SAMPLE_OF_MEMORY).await;
            }
            let host = match self.sandboxes.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    // Of another service, since a guest of its own would have had the request.
                    self.resting.send_one_away();
                    self.sandboxes.clone().acquire_owned().await.ok()?
                }
            };
            if self.memory.admits(&snapshot.memory) {
                return Some(Permit { _service: service, _share: share, _host: host });
            }
        }
    }

    /// Records where guests of a program spend their CPU time, for a while: a profile for profiler.firefox.com. `None`: another
    /// one is being recorded.
    pub async fn profile(&self, guest: &Guest, time: Duration) -> Option<wasmtime::Result<Vec<u8>>> {
        let session = match Session::begin(&self.engine, guest, SAMPLE) {
            Ok(session) => Arc::new(session),
            Err(error) => return Some(Err(error)),
        };
        if self.session.compare_and_swap(&None::<Arc<Session>>, Some(session.clone())).is_some() {
            return None;
        }
        self.finer.store(u64::try_from(SAMPLE.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let ending = EndOfSession(self);
        tokio::time::sleep(time).await;
        drop(ending);
        // Not for a thread that serves requests: it resolves every address.
        let finished = tokio::task::spawn_blocking(move || session.finish()).await;
        Some(finished.unwrap_or_else(|error| Err(wasmtime::Error::msg(error.to_string()))))
    }

    /// Sandboxes that are free.
    pub fn free(&self) -> usize {
        self.sandboxes.available_permits()
    }
}

/// Ends a session, also when nobody waits for it any more.
struct EndOfSession<'a>(&'a Runtime);

impl Drop for EndOfSession<'_> {
    fn drop(&mut self) {
        self.0.session.store(None);
        self.0.finer.store(0, Ordering::Relaxed);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Dropping it would block, which asynchronous code must not.
        if let Some(heavy) = self.heavy.take() {
            heavy.shutdown_background();
        }
    }
}
