//! Getting a service's program ready: it is fetched, compiled, and tried with a request if its settings want that.
//!
//! Services that come and go are got ready beside reloads ([`Preparer::wanted`]), so that one whose program comes slowly or takes minutes to
//! compile holds up nobody else's changes: what was served of it is served on, and the others go first. A few threads do it, each
//! one step; a program that takes more than a little to compile goes behind those that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::files::digest;
use super::load::ServicePlan;
use super::refusal::Refusal;
use super::verdict;
use crate::config::diagnostics::Report;
use crate::config::{Config, HostConfig, ModuleSource, Smoke};
use crate::runtime::compiler::Effort;
use crate::runtime::source::{MAX_SIZE, SourceError, Store};
use crate::runtime::{Guest, LoadError, Runtime, Snapshot};
use crate::services::backend::operators::Operators;
use crate::services::cache::Purge;
use crate::services::{Platform, Services};
use crate::telemetry::clock;
use crate::telemetry::trace::spans::TARGET;

/// Time for the request that a new generation must answer.
const SMOKE: Duration = Duration::from_secs(10);

/// Time to fetch a program of a service that comes and goes: at first, and behind others that take no longer.
const FETCH: Duration = Duration::from_secs(10);
const FETCH_LONG: Duration = Duration::from_secs(120);

/// How many are fetched at once, of either kind, and how many answer their first request.
const FETCHERS: usize = 4;
const SMOKERS: usize = 8;

/// A second behind smaller ones for so many bytes, and no longer than this.
const BEHIND: u64 = 64 << 10;
const MOST_BEHIND: Duration = Duration::from_secs(60);

/// A program that took too much to compile is compiled again when somebody asks for it after this time.
const AGAIN: Duration = Duration::from_secs(600);

/// What of the process's memory a program of a service that comes and goes may have, while it is got ready.
const SHARE: u64 = 8;

/// What a service is got ready from. When it differs, the service is got ready anew.
#[derive(Clone, PartialEq)]
pub struct Wanted {
    /// Its settings.
    pub config: Config,
    /// Digest of the files that they name.
    pub files: [u8; 32],
    /// Where its program is.
    pub module: ModuleSource,
    /// The file's digest, if it is one.
    pub source: Option<[u8; 32]>,
    /// The request that it must answer.
    smoke: Option<Smoke>,
}

impl Wanted {
    /// As the plan and the files are now.
    pub fn of(plan: &ServicePlan, files: [u8; 32]) -> Self {
        Self {
            config: plan.config.clone(),
            files,
            module: plan.module.clone(),
            source: plan.module.file().map(|file| digest(&BTreeSet::from([file.to_owned()]))),
            smoke: plan.rollout.as_ref().and_then(|rollout| rollout.smoke.clone()),
        }
    }
}

/// How it stands with a service that is wanted.
pub enum Readiness {
    /// Its program.
    Ready(Guest),
    /// What is wrong with it.
    Faulty(String, Vec<Report>),
    /// It is worked on.
    Pending,
}

/// Gets services ready.
pub struct Preparer {
    shared: Arc<Shared>,
    /// Of services that do not come and go.
    store: Store,
}

struct Shared {
    runtime: Arc<Runtime>,
    platform: Arc<Platform>,
    /// Of services that come and go.
    store: Store,
    bench: Mutex<Bench>,
    /// Something on the bench is not as it was.
    moved: Condvar,
    /// The same, for whoever reloads.
    told: Notify,
}

#[derive(Default)]
struct Bench {
    entries: BTreeMap<String, Entry>,
    count: u64,
    /// Something is done that nobody has taken yet.
    news: bool,
    /// Threads that work are there.
    manned: bool,
    /// They end.
    over: bool,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fetch,
    /// It comes slowly.
    FetchLong,
    Compile,
    /// It takes more than small ones.
    CompileLong,
    /// It takes more than most.
    Thorough,
    Smoke,
    Done,
}

impl Stage {
    /// Whether nobody should wait for it.
    fn takes_long(self) -> bool {
        matches!(self, Self::FetchLong | Self::Thorough)
    }
}

struct Entry {
    work: Work,
    since: Instant,
    stage: Stage,
    taken: bool,
    done: Option<Result<Guest, Fault>>,
}

/// What whoever does the next step has.
#[derive(Clone)]
struct Work {
    id: u64,
    wanted: Arc<Wanted>,
    /// What runs of it now, if anything does.
    running: Option<Arc<Snapshot>>,
    /// Where guests run.
    threads: Option<Handle>,
    /// What was fetched and is kept nowhere.
    bytes: Option<Arc<Vec<u8>>>,
    guest: Option<Guest>,
    /// How long it stays behind smaller ones that come later.
    behind: Duration,
    /// Set when it is wanted no more.
    gone: Arc<AtomicBool>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.work.gone.store(true, Ordering::Relaxed);
    }
}

struct Fault {
    error: String,
    problems: Vec<Report>,
    /// Whether it may be another time.
    passing: bool,
    /// Whether it took much to find out.
    dear: bool,
}

/// What comes of a step.
enum Step {
    Next(Stage, Work),
    Done(Result<Guest, Fault>),
}

/// The program of a service, loaded.
pub fn load(store: &Store, runtime: &Runtime, plan: &ServicePlan) -> Result<Guest, LoadError> {
    let _span = tracing::info_span!(target: TARGET, "load program", service = plan.config.name, program = %plan.module).entered();
    loaded(runtime, &plan.config, &plan.module, store.read(&plan.module), Effort::Whole)
}

fn loaded(
    runtime: &Runtime,
    config: &Config,
    module: &ModuleSource,
    read: Result<Vec<u8>, SourceError>,
    effort: Effort,
) -> Result<Guest, LoadError> {
    let name = PathBuf::from(module.to_string());
    match read {
        Ok(wasm) => runtime.load_within(&wasm, &name, config, effort),
        // The file's own errors have hints of their own.
        Err(SourceError::File { error }) if module.file().is_some() => Err(LoadError::unread(&name, error)),
        Err(error) => Err(LoadError::Source { path: name, error }),
    }
}

impl Preparer {
    /// What this process cannot do now.
    pub fn away(&self) -> Vec<String> {
        verdict::away(&self.shared.platform, &self.shared.runtime)
    }

    /// For a host.
    pub fn new(host: &HostConfig, runtime: Arc<Runtime>, platform: Arc<Platform>) -> Self {
        let store = Store::of(host);
        let largest = usize::try_from(runtime.memory().most() / SHARE).unwrap_or(usize::MAX).min(MAX_SIZE);
        let shared = Shared {
            store: store.clone().bounded(largest, FETCH, runtime.memory().clone(), platform.connector.operators().clone()),
            runtime,
            platform,
            bench: Mutex::default(),
            moved: Condvar::new(),
            told: Notify::new(),
        };
        Self { shared: Arc::new(shared), store }
    }

    /// A service's program, got now, however long that takes.
    pub fn load(&self, plan: &ServicePlan) -> Result<Guest, Refusal> {
        load(&self.store, &self.shared.runtime, plan).map_err(|error| (error,).into())
    }

    /// Has a program answer the request that it must answer.
    pub fn smoke(&self, wanted: &Wanted, guest: &Guest, running: Option<&Snapshot>) -> Result<(), Refusal> {
        self.shared.smoke(wanted, guest, running)
    }

    /// How it stands with a service that comes and goes; it is got ready if that is not so already. `anew`: what was found out before
    /// this moment may be different now. `running`: what answers its requests.
    pub fn wanted(&self, wanted: Wanted, anew: Option<Instant>, running: Option<&Arc<Snapshot>>) -> Readiness {
        let mut bench = self.shared.bench.lock();
        let name = wanted.config.name.clone();
        if let Some(entry) = bench.entries.get(&name)
            && *entry.work.wanted == wanted
        {
            let now = clock::now();
            match &entry.done {
                None => return Readiness::Pending,
                Some(done) => {
                    let fresh = anew.is_none_or(|moment| entry.since >= moment);
                    match done {
                        Ok(guest) if fresh || wanted.module.file().is_some() => return Readiness::Ready(guest.clone()),
                        Err(fault) if fresh || !fault.passing || (fault.dear && now.duration_since(entry.since) < AGAIN) => {
                            return Readiness::Faulty(fault.error.clone(), fault.problems.clone());
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
            }
        }
        bench.count += 1;
        let stage = if wanted.module.file().is_some() { Stage::Compile } else { Stage::Fetch };
        let size = wanted.module.file().and_then(|file| file.metadata().ok()).map_or(0, |what| what.len());
        let behind = behind(size);
        let work = Work {
            id: bench.count,
            wanted: Arc::new(wanted),
            running: running.cloned(),
            threads: Handle::try_current().ok(),
            bytes: None,
            guest: None,
            behind,
            gone: Arc::default(),
        };
        bench.entries.insert(name, Entry { work, since: clock::now(), stage, taken: false, done: None });
        if !bench.manned {
            bench.manned = true;
            self.man();
        }
        drop(bench);
        self.shared.moved.notify_all();
        Readiness::Pending
    }

    /// Whether a service is ready with another program than that, or cannot be got ready.
    pub fn is_news(&self, name: &str, digest: &str) -> bool {
        let bench = self.shared.bench.lock();
        let done = bench.entries.get(name).and_then(|entry| entry.done.as_ref());
        done.is_some_and(|done| done.as_ref().map_or(true, |guest| guest.digest() != digest))
    }

    /// Forgets what is not among `names`.
    pub fn keep(&self, names: &BTreeSet<&str>) {
        self.shared.bench.lock().entries.retain(|name, _| names.contains(name.as_str()));
    }

    /// Forgets a service that is in force as it is wanted.
    pub fn forget(&self, name: &str) {
        self.shared.bench.lock().entries.remove(name);
    }

    /// What is worked on and not known to take long.
    pub fn pending_shortly(&self) -> Vec<String> {
        let bench = self.shared.bench.lock();
        let shortly = bench.entries.iter().filter(|(_, entry)| !entry.stage.takes_long() && entry.stage != Stage::Done);
        shortly.map(|(name, _)| name.clone()).collect()
    }

    /// Waits until something is done, or known to take long.
    pub async fn told(&self) {
        self.shared.told.notified().await;
    }

    /// Whether something is done that nobody has asked about yet.
    pub fn has_news(&self) -> bool {
        self.shared.bench.lock().news
    }

    /// The same, once.
    pub fn take_news(&self) -> bool {
        std::mem::take(&mut self.shared.bench.lock().news)
    }

    /// As [`take_news`](Self::take_news), but waits for it: until `until`, and not for what takes long; without a moment, for everything.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        let mut bench = self.shared.bench.lock();
        loop {
            if std::mem::take(&mut bench.news) {
                return true;
            }
            let waits = |entry: &Entry| entry.stage != Stage::Done && (until.is_none() || !entry.stage.takes_long());
            if !bench.entries.values().any(waits) {
                return false;
            }
            match until {
                None => self.shared.moved.wait(&mut bench),
                Some(until) => {
                    if self.shared.moved.wait_until(&mut bench, until).timed_out() {
                        return false;
                    }
                }
            }
        }
    }

    /// Starts the threads that work.
    fn man(&self) {
        let stages = std::iter::repeat_n(Stage::Fetch, FETCHERS)
            .chain(std::iter::repeat_n(Stage::FetchLong, FETCHERS))
            .chain([Stage::Compile, Stage::CompileLong, Stage::Thorough])
            .chain(std::iter::repeat_n(Stage::Smoke, SMOKERS));
        for stage in stages {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new().name("prepare".to_owned()).spawn(move || shared.work(stage));
            if let Err(error) = started {
                tracing::error!(%error, "a thread cannot be started: services that come and go may not be got ready; restart this process");
            }
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.bench.lock().over = true;
        self.shared.moved.notify_all();
    }
}

impl Shared {
    /// Does one step of whatever needs it, the oldest first.
    fn work(&self, stage: Stage) {
        loop {
            let (name, work) = {
                let mut bench = self.bench.lock();
                loop {
                    if bench.over {
                        return;
                    }
                    let open = bench.entries.iter_mut().filter(|(_, entry)| entry.stage == stage && !entry.taken);
                    if let Some((name, entry)) = open.min_by_key(|(_, entry)| entry.since + entry.work.behind) {
                        entry.taken = true;
                        break (name.clone(), entry.work.clone());
                    }
                    self.moved.wait(&mut bench);
                }
            };
            let id = work.id;
            let _within = work.threads.clone();
            let _entered = _within.as_ref().map(Handle::enter);
            let step = catch_unwind(AssertUnwindSafe(|| self.step(stage, work))).unwrap_or_else(|_| {
                let error = "getting it ready broke off; the log has more".to_owned();
                Step::Done(Err(Fault { error, problems: Vec::new(), passing: true, dear: true }))
            });
            let mut bench = self.bench.lock();
            let Some(entry) = bench.entries.get_mut(&name).filter(|entry| entry.work.id == id) else { continue };
            entry.taken = false;
            match step {
                Step::Next(next, work) => (entry.stage, entry.work) = (next, work),
                Step::Done(done) => {
                    (entry.stage, entry.done) = (Stage::Done, Some(done));
                    (entry.work.bytes, entry.work.guest, entry.work.running) = (None, None, None);
                    bench.news = true;
                }
            }
            drop(bench);
            self.moved.notify_all();
            self.told.notify_one();
        }
    }

    fn step(&self, stage: Stage, mut work: Work) -> Step {
        let wanted = work.wanted.clone();
        let name = &wanted.config.name;
        match stage {
            Stage::Fetch | Stage::FetchLong => match self.fetch(stage, &work) {
                Ok(bytes) => {
                    // Many may wait; what is kept on disk is read again.
                    let is_kept = self.store.has(&wanted.module);
                    if !is_kept && !self.runtime.memory().keeps(bytes.len()) {
                        let error = SourceError::short_of_memory();
                        return Step::Done(Err(fault(LoadError::Source { path: wanted.module.to_string().into(), error })));
                    }
                    work.behind = behind(bytes.len() as u64);
                    work.bytes = (!is_kept).then(|| Arc::new(bytes));
                    Step::Next(Stage::Compile, work)
                }
                Err(SourceError::Late(_)) if stage == Stage::Fetch => Step::Next(Stage::FetchLong, work),
                Err(error) => Step::Done(Err(fault(LoadError::Source { path: wanted.module.to_string().into(), error }))),
            },
            Stage::Compile | Stage::CompileLong | Stage::Thorough => {
                let _span = tracing::info_span!(target: TARGET, "load program", service = name, program = %wanted.module).entered();
                let (effort, next) = match stage {
                    Stage::Compile => (Effort::Quick, Some(Stage::CompileLong)),
                    Stage::CompileLong => (Effort::Some, Some(Stage::Thorough)),
                    _ => (Effort::Most, None),
                };
                let read = match (&work.bytes, wanted.module.file()) {
                    (Some(bytes), _) => Ok(bytes.to_vec()),
                    (None, Some(_)) => self.store.read(&wanted.module),
                    (None, None) => match self.store.read_kept(&wanted.module) {
                        Some(read) => read,
                        // It has gone to make room for others.
                        None => return Step::Next(Stage::Fetch, work),
                    },
                };
                match loaded(&self.runtime, &wanted.config, &wanted.module, read, effort) {
                    Ok(guest) if wanted.smoke.is_some() && work.running.as_ref().is_none_or(|now| now.guest.digest() != guest.digest()) => {
                        Step::Next(Stage::Smoke, Work { guest: Some(guest), bytes: None, ..work })
                    }
                    Ok(guest) => Step::Done(Ok(guest)),
                    Err(error) => match (&error, next) {
                        (LoadError::TooMuch { .. }, Some(next)) => {
                            tracing::info!(service = name, "its program goes behind others': {}", first_line(&error));
                            Step::Next(next, work)
                        }
                        _ => Step::Done(Err(fault(error))),
                    },
                }
            }
            Stage::Smoke | Stage::Done => match work.guest.take() {
                Some(guest) => Step::Done(match self.smoke(&wanted, &guest, work.running.as_deref()) {
                    Ok(()) => Ok(guest),
                    Err(Refusal { error, problems, .. }) => Err(Fault { error, problems, passing: true, dear: false }),
                }),
                None => Step::Next(Stage::Compile, work),
            },
        }
    }

    /// What the source has, unless nobody wants it any more.
    fn fetch(&self, stage: Stage, work: &Work) -> Result<Vec<u8>, SourceError> {
        let place = match &work.wanted.module {
            // A name is looked at when it is looked up.
            ModuleSource::Url { url, .. } => url.parse::<http::Uri>().ok().filter(|url| url.scheme_str() == Some("http")),
            _ => None,
        };
        let place = place.and_then(|url| Some(format!("{}:{}", url.host()?, url.port_u16().unwrap_or(80))));
        if let Some(address) = place.and_then(|place| self.platform.connector.operators().among(&place)) {
            return Err(SourceError::Content {
                what: Operators::refusal(address),
                hint: "a program is a file beside its settings, or on a server",
            });
        }
        let time = if stage == Stage::Fetch { FETCH } else { FETCH_LONG };
        self.store.clone().within_time(time, work.gone.clone()).read(&work.wanted.module)
    }

    fn smoke(&self, wanted: &Wanted, guest: &Guest, running: Option<&Snapshot>) -> Result<(), Refusal> {
        let Some(smoke) = &wanted.smoke else { return Ok(()) };
        let mut config = wanted.config.clone();
        // It does not go on when nobody waits any more.
        config.limits.wall = config.limits.wall.min(SMOKE);
        let config = Arc::new(config);
        let services = Services::build(&config, running.map(|running| &*running.services), &self.platform)?;
        let services = Arc::new(services);
        // One of the same name was before it, and what that has cached is not its.
        if running.is_none() && config.dropin.is_some() {
            services.cache.apply(&Purge::All);
        }
        services.seed(&self.platform);
        let generation = running.map_or(0, |running| running.generation) + 1;
        let snapshot = Arc::new(Snapshot::new(generation, config, services, guest.clone()));
        let work = async {
            match tokio::time::timeout(SMOKE, self.runtime.ask(snapshot.clone(), &smoke.host, &smoke.path)).await {
                Ok(Ok(status)) if status.as_u16() == smoke.status => Ok(()),
                Ok(Ok(status)) => Err(format!("it answered {} and not {}", status.as_u16(), smoke.status)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("it did not answer within {SMOKE:?}")),
            }
        };
        let answered = match Handle::try_current() {
            Ok(handle) => handle.block_on(work),
            // The start.
            Err(_) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(work),
                Err(error) => Err(error.to_string()),
            },
        };
        snapshot.waiting.close();
        answered.map_err(|told| {
            let path = PathBuf::from(wanted.module.to_string());
            (LoadError::Smoke { path, request: format!("{}{}", smoke.host, smoke.path), told },).into()
        })
    }
}

/// How long a program of so many bytes stays behind smaller ones: what takes little does not wait for what takes much.
fn behind(bytes: u64) -> Duration {
    Duration::from_secs(bytes / BEHIND).min(MOST_BEHIND)
}

fn fault(error: LoadError) -> Fault {
    let dear = matches!(error, LoadError::TooMuch { .. });
    let passing = dear
        || matches!(
            &error,
            LoadError::Source { error: SourceError::Fetch { .. } | SourceError::Late(_) | SourceError::File { .. }, .. }
                | LoadError::Read { .. }
                | LoadError::Unable { .. }
        );
    let refusal = Refusal::from((error,));
    Fault { error: refusal.error, problems: refusal.problems, passing, dear }
}

fn first_line(error: &LoadError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
