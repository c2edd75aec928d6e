//! The only writer of what is served: reads the plan, builds what has changed, and puts it in force at once, or leaves
//! everything as it was and says why.
//!
//! A service whose settings, files and program are as they were keeps its snapshot, so that reloading one leaves
//! the others alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::Exit;
use super::load::{Launch, Plan, ServicePlan, Unplanned};
use tracing::field;

use crate::config::diagnostics::Report;
use crate::config::{Config, HostConfig, Secret, Smoke};
use crate::runtime::source::{SourceError, Store};
use crate::runtime::{Current, Guest, LoadError, Routes, Runtime, Snapshot, Target, Trial};
use crate::services::data::DataError;
use crate::services::{BuildError, Platform, Services};
use crate::telemetry::secrets;
use crate::telemetry::trace::spans::TARGET;
use crate::telemetry::{Telemetry, clock};

/// Attempts that `status` remembers.
const HISTORY: usize = 20;

/// Answers after which a trial that fails is ended early.
const ENOUGH: u64 = 10;

/// Time for the request that a new generation must answer.
const SMOKE: Duration = Duration::from_secs(10);

/// How often a set of files that changes while it is read is read again.
const TRIES: usize = 5;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In force.
    Ok,
    /// Everything is as it was.
    Unchanged,
    /// Nothing was changed.
    Failed,
}

/// An attempt to change what is served, as operators are told of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What became of it.
    pub result: Outcome,
    /// What made us try: `start`, `signal`, `files`, `request`, `poll`, `trial`.
    pub cause: &'static str,
    /// The generation in force afterwards.
    pub generation: u64,
    /// Services that are new or not as they were.
    pub changed: Vec<String>,
    /// Of those, the ones that take only some of the requests at first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_trial: Vec<String>,
    /// Services whose newest generation has failed its trial: the one before answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<String>,
    /// Services that are gone.
    pub removed: Vec<String>,
    /// Settings that differ and take effect only at the next start.
    pub restart_needed: Vec<&'static str>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same, fault by fault, when documents are at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Report>,
    /// When it began, in seconds since the epoch.
    pub at: u64,
    /// How long it took.
    pub ms: u64,
}

/// A service, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The generation it came with.
    pub generation: u64,
    /// Hosts; none: every one.
    pub hosts: Vec<String>,
    /// Paths; none: every one.
    pub paths: Vec<String>,
    /// Where its program is from.
    pub module: String,
    /// SHA-256 of its program.
    pub digest: String,
    /// How it fares, while the one before still takes some requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
}

/// A generation on trial, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct TrialStatus {
    /// Of a hundred requests.
    pub percent: u8,
    /// Its answers so far.
    pub answered: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Until it takes over.
    pub seconds_left: u64,
    /// SHA-256 of the program that takes the other requests.
    pub stable_digest: String,
}

/// What is in force, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Version of this host.
    pub version: &'static str,
    /// Counts what came into force.
    pub generation: u64,
    /// Whether the last attempt is not in force.
    pub degraded: bool,
    /// What state is kept in and cannot be used now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<String>,
    /// Seconds since the start.
    pub uptime: u64,
    /// What is served.
    pub services: Vec<ServiceStatus>,
    /// Attempts, the last first.
    pub reloads: Vec<Verdict>,
}

/// A service in force, and what it was made of.
#[derive(Clone)]
struct Loaded {
    plan: ServicePlan,
    /// Of the files that its settings name.
    files: [u8; 32],
    snapshot: Arc<Snapshot>,
    /// When it is new and not all requests are its yet.
    trial: Option<OnTrial>,
    /// What was tried after it and taken back: it is not tried again.
    rejected: Option<Made>,
}

/// What a generation is made of.
#[derive(Clone, PartialEq)]
struct Made {
    config: Config,
    files: [u8; 32],
    digest: String,
}

/// A trial of a generation.
#[derive(Clone)]
struct OnTrial {
    trial: Arc<Trial>,
    until: Instant,
    max_failed_percent: u8,
    /// Who answers the other requests, and takes over again if it fails.
    stable: Arc<Loaded>,
}

impl OnTrial {
    /// Whether it has failed more often than it may. `over`: few answers will do.
    fn has_failed(&self, over: bool) -> bool {
        let (answered, failed) = self.trial.counts();
        let enough = answered >= ENOUGH || (over && answered > 0);
        enough && failed * 100 > u64::from(self.max_failed_percent) * answered
    }
}

impl Loaded {
    fn made(&self) -> Made {
        Made { config: self.plan.config.clone(), files: self.files, digest: self.snapshot.guest.digest().to_owned() }
    }

    fn target(&self) -> Target {
        match &self.trial {
            None => self.snapshot.clone().into(),
            Some(trial) => Target { stable: trial.stable.snapshot.clone(), candidate: Some(self.snapshot.clone()) },
        }
    }
}

#[derive(Clone)]
struct State {
    generation: u64,
    loaded: BTreeMap<String, Loaded>,
    /// Every file that what is in force, or the last attempt, was made from.
    files: BTreeSet<PathBuf>,
    /// Their contents at the last attempt.
    seen: [u8; 32],
    history: Vec<Verdict>,
}

/// Builds and swaps.
pub struct Reloader {
    launch: Launch,
    host: HostConfig,
    runtime: Arc<Runtime>,
    platform: Arc<Platform>,
    store: Store,
    telemetry: Telemetry,
    current: Arc<Current>,
    /// Held by whoever makes the next state, however long that takes.
    turn: Mutex<()>,
    /// Held for moments only: operators ask for it while programs are fetched and compiled.
    state: Mutex<State>,
    begun: Instant,
}

/// Why nothing was changed.
struct Refusal {
    error: String,
    problems: Vec<Report>,
    exit: Box<Exit>,
}

impl From<Unplanned> for Refusal {
    fn from(unplanned: Unplanned) -> Self {
        let error = unplanned.error;
        Self { problems: error.reports(), error: error.to_string(), exit: Box::new(error.into()) }
    }
}

fn unbuilt(errors: Vec<BuildError>) -> Refusal {
    let problems = errors.iter().filter_map(report).collect();
    Refusal { problems, ..(errors,).into() }
}

/// A fault of data, for programs.
fn report(error: &BuildError) -> Option<Report> {
    let (what, source) = match error {
        BuildError::Data { what, source } => (what, source),
        BuildError::File(error) => {
            let text = error.to_string();
            let (message, hint) =
                text.split_once("\n  hint: ").map_or((text.as_str(), None), |(message, hint)| (message, Some(hint.to_owned())));
            return Some(Report { file: error.path().to_owned(), line: None, column: None, message: message.to_owned(), hint });
        }
        BuildError::Backend { .. } => return None,
    };
    let (file, line, column, text) = match source {
        DataError::Read { path, error } => (path.clone(), None, None, error.to_string()),
        DataError::Form { path, line, column, message } => (path.clone(), Some(*line), Some(*column), message.clone()),
        DataError::Content { path, message } => (path.clone(), None, None, message.clone()),
        DataError::Variable(_) | DataError::Setting(_) => (PathBuf::new(), None, None, source.to_string()),
    };
    let (message, hint) = match text.split_once("\n  hint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (text.as_str(), source.hint().map(str::to_owned)),
    };
    Some(Report { file, line, column, message: format!("{what}: {message}"), hint })
}

impl<E: Into<Exit>> From<(E,)> for Refusal {
    fn from((error,): (E,)) -> Self {
        let exit = Box::new(error.into());
        Self { error: exit.to_string(), problems: Vec::new(), exit }
    }
}

impl Reloader {
    /// For a host that has started as `host` says; nothing is served yet.
    pub fn new(launch: Launch, host: HostConfig, runtime: Arc<Runtime>, platform: Arc<Platform>, current: Arc<Current>) -> Self {
        let telemetry = platform.telemetry.clone();
        let state = State { generation: 0, loaded: BTreeMap::new(), files: BTreeSet::new(), seen: [0; 32], history: Vec::new() };
        let (state, begun) = (Mutex::new(state), clock::now());
        let store = Store::new(host.cache_dir.as_deref(), host.registry_auth.clone());
        Self { launch, host, runtime, platform, store, telemetry, current, turn: Mutex::default(), state, begun }
    }

    /// The first load: a failure is the end.
    pub fn start(&self) -> Result<(), Exit> {
        self.attempt("start").map(drop).map_err(|refusal| *refusal.exit)
    }

    /// Reads everything again and puts it in force if it can be. Takes as long as compiling does: not for a thread that
    /// serves requests.
    pub fn reload(&self, cause: &'static str) -> Verdict {
        match self.attempt(cause) {
            Ok(verdict) => verdict,
            Err(_) => self.state.lock().history.last().cloned().unwrap_or_else(|| self.verdict(cause, Outcome::Failed)),
        }
    }

    /// As [`reload`](Self::reload), if any file is not as it was at the last attempt.
    pub fn reload_if_changed(&self) -> Option<Verdict> {
        let (files, seen) = {
            let state = self.state.lock();
            (state.files.clone(), state.seen)
        };
        if digest(files.iter().map(PathBuf::as_path)) == seen {
            return None;
        }
        Some(self.reload("files"))
    }

    /// What requests find.
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// The documents that were given.
    pub fn documents(&self) -> &[PathBuf] {
        &self.launch.documents
    }

    /// Every file that matters.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.state.lock().files.clone()
    }

    /// How often to look whether a program has moved, if that is asked for.
    pub fn poll(&self) -> Option<Duration> {
        let state = self.state.lock();
        let movable = state.loaded.values().filter(|loaded| loaded.plan.module.may_move());
        movable.filter_map(|loaded| loaded.plan.poll).min()
    }

    /// What is in force.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let service = |(name, loaded): (&String, &Loaded)| ServiceStatus {
            name: name.clone(),
            generation: loaded.snapshot.generation,
            hosts: loaded.plan.route.hosts.clone(),
            paths: loaded.plan.route.paths.clone(),
            module: loaded.plan.module.to_string(),
            digest: loaded.snapshot.guest.digest().to_owned(),
            trial: loaded.trial.as_ref().map(|trial| {
                let (answered, failed) = trial.trial.counts();
                TrialStatus {
                    percent: loaded.plan.rollout.as_ref().map_or(100, |rollout| rollout.percent),
                    answered,
                    failed,
                    seconds_left: trial.until.saturating_duration_since(clock::now()).as_secs(),
                    stable_digest: trial.stable.snapshot.guest.digest().to_owned(),
                }
            }),
        };
        Status {
            version: env!("CARGO_PKG_VERSION"),
            generation: state.generation,
            degraded: state.history.last().is_some_and(|last| last.result == Outcome::Failed || !last.rejected.is_empty()),
            away: self.platform.degraded(),
            uptime: clock::now().duration_since(self.begun).as_secs(),
            services: state.loaded.iter().map(service).collect(),
            reloads: state.history.iter().rev().cloned().collect(),
        }
    }

    fn verdict(&self, cause: &'static str, result: Outcome) -> Verdict {
        Verdict {
            result,
            cause,
            generation: 0,
            changed: Vec::new(),
            on_trial: Vec::new(),
            rejected: Vec::new(),
            removed: Vec::new(),
            restart_needed: Vec::new(),
            error: None,
            problems: Vec::new(),
            at: clock::unix().as_secs(),
            ms: 0,
        }
    }

    fn attempt(&self, cause: &'static str) -> Result<Verdict, Refusal> {
        // One at a time; whoever comes meanwhile sees what this one has done.
        let _turn = self.turn.lock();
        let span = tracing::info_span!(target: TARGET, "reload", cause, result = field::Empty, generation = field::Empty).entered();
        let mut state = self.state.lock().clone();
        let begun = clock::now();
        let mut verdict = self.verdict(cause, Outcome::Ok);
        let result = self.build(&mut state, &mut verdict);
        verdict.generation = state.generation;
        let rejected = state.loaded.iter().filter(|(_, loaded)| loaded.rejected.is_some());
        verdict.rejected = rejected.map(|(name, _)| name.clone()).collect();
        verdict.ms = u64::try_from(clock::now().duration_since(begun).as_millis()).unwrap_or(u64::MAX);
        if let Err(refusal) = &result {
            verdict.result = Outcome::Failed;
            verdict.error = Some(refusal.error.clone());
            verdict.problems.clone_from(&refusal.problems);
        }
        let named = match verdict.result {
            Outcome::Ok => "ok",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "failed",
        };
        span.record("result", named).record("generation", verdict.generation);
        self.tell(&verdict);
        remember(&mut state, verdict.clone());
        *self.state.lock() = state;
        result.map(|()| verdict)
    }

    /// Has nothing that is shown show what is secret now.
    fn know_secrets(&self) {
        let host = &self.host;
        let headers = host.traces.export.iter().flat_map(|export| export.headers.iter().map(|(_, secret)| secret));
        let mut all: Vec<Secret> = host.admin_token.iter().chain(&host.traces.force).chain(headers).cloned().collect();
        for service in self.current.routes().services() {
            all.extend(service.config.facts.fastly_keys.iter().cloned());
            all.extend(service.services.secret_stores.values().flat_map(|store| store.values()));
        }
        secrets::know(all.iter());
    }

    fn tell(&self, verdict: &Verdict) {
        let metrics = &self.telemetry.metrics;
        let result = match verdict.result {
            Outcome::Ok => "ok",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "failed",
        };
        if verdict.cause != "start" {
            metrics.reloads.with_label_values(&[result]).inc();
        }
        let well = verdict.result != Outcome::Failed && verdict.rejected.is_empty();
        metrics.reload_successful.set(i64::from(well));
        metrics.generation.set(i64::try_from(verdict.generation).unwrap_or(i64::MAX));
        self.know_secrets();
        metrics.module_info.reset();
        for service in self.current.routes().services() {
            let labels = [metrics.label(&service.config.name), service.guest.digest()];
            metrics.module_info.with_label_values(&labels).set(1);
        }
        if verdict.result == Outcome::Ok {
            metrics.reload_success_time.set(i64::try_from(clock::unix().as_secs()).unwrap_or(i64::MAX));
        }
        let Verdict { generation, ms, .. } = verdict;
        match verdict.result {
            Outcome::Failed if verdict.cause == "start" => {}
            Outcome::Failed if verdict.cause == "trial" => {
                tracing::error!(generation, "{}", verdict.error.as_deref().unwrap_or_default());
            }
            Outcome::Failed => {
                let error = verdict.error.as_deref().unwrap_or_default();
                tracing::error!(
                    cause = verdict.cause,
                    generation,
                    "the new configuration cannot be used; the last good one serves on\n{error}"
                );
            }
            Outcome::Unchanged if verdict.cause == "poll" => tracing::debug!(generation, ms, "no tag has moved"),
            Outcome::Unchanged if well => {
                tracing::info!(cause = verdict.cause, generation, ms, "nothing to change: what the files say is what is served");
            }
            Outcome::Unchanged => {
                tracing::info!(cause = verdict.cause, generation, ms, "nothing has changed since a generation was taken back")
            }
            Outcome::Ok => {
                let (changed, removed) = (verdict.changed.join(", "), verdict.removed.join(", "));
                tracing::info!(cause = verdict.cause, generation, changed, removed, ms, "configuration in force");
            }
        }
        if !verdict.restart_needed.is_empty() {
            tracing::warn!("changed, and in force only after a restart: {}", verdict.restart_needed.join(", "));
        }
    }

    fn build(&self, state: &mut State, verdict: &mut Verdict) -> Result<(), Refusal> {
        let mut tries = TRIES;
        let (plan, built) = loop {
            let plan = match self.launch.plan() {
                Ok(plan) => plan,
                Err(unplanned) => {
                    // What is in force is watched on, too.
                    state.files.extend(unplanned.documents.iter().cloned());
                    state.seen = digest(state.files.iter().map(PathBuf::as_path));
                    return Err(unplanned.into());
                }
            };
            let files = files_of(&plan);
            let before = digest(files.iter().map(PathBuf::as_path));
            let built = self.services(state, &plan);
            // All of it must be of one moment: a mounted volume is swapped as a whole.
            tries -= 1;
            if digest(files.iter().map(PathBuf::as_path)) != before && tries > 0 {
                continue;
            }
            let in_force = state.loaded.values().flat_map(|loaded| loaded.plan.files());
            state.files = match &built {
                Ok(_) => files,
                Err(_) => files.into_iter().chain(in_force).collect(),
            };
            state.seen = digest(state.files.iter().map(PathBuf::as_path));
            break (plan, built?);
        };
        verdict.restart_needed = needs_restart(&self.host, &plan.host);
        let name = |loaded: &Loaded| loaded.plan.config.name.clone();
        let kept =
            |loaded: &Loaded| state.loaded.get(&loaded.plan.config.name).is_some_and(|old| Arc::ptr_eq(&old.snapshot, &loaded.snapshot));
        verdict.changed = built.iter().filter(|loaded| !kept(loaded)).map(name).collect();
        let gone = state.loaded.keys().filter(|name| !built.iter().any(|loaded| loaded.plan.config.name == **name));
        verdict.removed = gone.cloned().collect();
        let rerouted =
            built.iter().any(|loaded| state.loaded.get(&loaded.plan.config.name).is_none_or(|old| old.plan.route != loaded.plan.route));
        // Whoever asks for a reload may want seeds back that are there no more.
        let asked = matches!(verdict.cause, "signal" | "request");
        if verdict.changed.is_empty() && verdict.removed.is_empty() && !rerouted {
            verdict.result = Outcome::Unchanged;
            if asked {
                state.loaded.values().for_each(|loaded| loaded.snapshot.services.seed(&self.platform));
            }
            return Ok(());
        }
        // Before any request finds them.
        built.iter().filter(|loaded| asked || !kept(loaded)).for_each(|loaded| loaded.snapshot.services.seed(&self.platform));
        verdict.on_trial = built.iter().filter(|loaded| !kept(loaded) && loaded.trial.is_some()).map(name).collect();
        state.loaded = built.into_iter().map(|loaded| (loaded.plan.config.name.clone(), loaded)).collect();
        self.publish(state);
        Ok(())
    }

    /// Puts in force what `state` has.
    fn publish(&self, state: &mut State) {
        let routes = Routes::new(state.loaded.values().map(|loaded| (loaded.plan.route.clone(), loaded.target())));
        // At the start there is no runtime yet; whoever makes one starts the checks.
        if Handle::try_current().is_ok() {
            routes.services().iter().for_each(|service| service.services.backends.start_checks());
        }
        self.current.publish(routes);
        state.generation += 1;
    }

    /// Whether a new generation is on trial.
    pub fn has_trials(&self) -> bool {
        self.state.lock().loaded.values().any(|loaded| loaded.trial.is_some())
    }

    /// Ends the trials that are over, or have failed.
    pub fn judge(&self) {
        let _turn = self.turn.lock();
        let mut state = self.state.lock();
        let now = clock::now();
        let mut ended = Vec::new();
        for (name, loaded) in &mut state.loaded {
            let Some(trial) = &loaded.trial else { continue };
            let over = now >= trial.until;
            let (answered, failed) = trial.trial.counts();
            if trial.has_failed(over) {
                let mut stable = (*trial.stable).clone();
                stable.rejected = Some(loaded.made());
                let share = format!("{failed} of {answered} answers of the new generation of `{name}` failed");
                *loaded = stable;
                ended.push((name.clone(), Some(format!("{share}; the one before has taken over again"))));
            } else if over {
                loaded.trial = None;
                ended.push((name.clone(), None));
            }
        }
        for (name, error) in ended {
            self.publish(&mut state);
            let result = if error.is_some() { Outcome::Failed } else { Outcome::Ok };
            let verdict = Verdict { generation: state.generation, changed: vec![name], error, ..self.verdict("trial", result) };
            self.tell(&verdict);
            remember(&mut state, verdict);
        }
    }

    /// Every service of a plan: what is as it was, and the rest built anew.
    fn services(&self, state: &State, plan: &Plan) -> Result<Vec<Loaded>, Refusal> {
        let mut loaded = Vec::with_capacity(plan.services.len());
        let (mut errors, mut problems, mut first) = (Vec::new(), Vec::new(), None);
        for service in &plan.services {
            match self.service(state.loaded.get(&service.config.name), service, state.generation + 1) {
                Ok(service) => loaded.push(service),
                Err(refusal) => {
                    let name = &service.config.name;
                    errors.push(if plan.services.len() > 1 { format!("service `{name}`: {}", refusal.error) } else { refusal.error });
                    problems.extend(refusal.problems);
                    first.get_or_insert(refusal.exit);
                }
            }
        }
        match first {
            None => Ok(loaded),
            Some(exit) if plan.services.len() > 1 => {
                let text = errors.join("\n");
                let exit = Box::new(Exit::Services { code: exit.code(), text: text.clone() });
                Err(Refusal { error: text, problems, exit })
            }
            Some(exit) => Err(Refusal { error: errors.join("\n"), problems, exit }),
        }
    }

    fn service(&self, before: Option<&Loaded>, plan: &ServicePlan, generation: u64) -> Result<Loaded, Refusal> {
        let config = &plan.config;
        let files = digest(settings_files(config).iter().map(PathBuf::as_path));
        let guest = load(&self.store, &self.runtime, plan).map_err(|error| (error,))?;
        if let Some(before) = before
            && before.plan.config == *config
            && before.files == files
            && before.snapshot.guest.digest() == guest.digest()
        {
            return Ok(Loaded { plan: plan.clone(), ..before.clone() });
        }
        let made = Made { config: config.clone(), files, digest: guest.digest().to_owned() };
        if let Some(before) = before
            && before.rejected.as_ref() == Some(&made)
        {
            return Ok(before.clone());
        }
        for note in &config.notes {
            if note.important {
                tracing::warn!(service = config.name, "{}", note.text);
            } else {
                tracing::info!(service = config.name, "{}", note.text);
            }
        }
        let stable = before.map(|before| before.trial.as_ref().map_or_else(|| Arc::new(before.clone()), |trial| trial.stable.clone()));
        let trial = match (stable, &plan.rollout) {
            (Some(stable), Some(rollout)) if rollout.percent < 100 => Some(OnTrial {
                trial: Arc::new(Trial::new(rollout.percent)),
                until: clock::now() + rollout.time,
                max_failed_percent: rollout.max_failed_percent,
                stable,
            }),
            _ => None,
        };
        let previous = before.map(|before| &*before.snapshot.services);
        let services = Arc::new(Services::build(config, previous, &self.platform).map_err(unbuilt)?);
        let snapshot = Snapshot {
            trial: trial.as_ref().map(|trial| trial.trial.clone()),
            permits: self.permits(before, config),
            ..Snapshot::new(generation, Arc::new(config.clone()), services, guest)
        };
        let snapshot = Arc::new(snapshot);
        if let Some(smoke) = plan.rollout.as_ref().and_then(|rollout| rollout.smoke.as_ref()) {
            snapshot.services.seed(&self.platform);
            self.smoke(&snapshot, smoke).map_err(|told| {
                let path = PathBuf::from(plan.module.to_string());
                (LoadError::Smoke { path, request: format!("{}{}", smoke.host, smoke.path), told },)
            })?;
        }
        Ok(Loaded { plan: plan.clone(), files, snapshot, trial, rejected: None })
    }

    /// Has a new generation answer a request of ours.
    fn smoke(&self, snapshot: &Arc<Snapshot>, smoke: &Smoke) -> Result<(), String> {
        let work = async {
            match tokio::time::timeout(SMOKE, self.runtime.ask(snapshot.clone(), &smoke.host, &smoke.path)).await {
                Ok(Ok(status)) if status.as_u16() == smoke.status => Ok(()),
                Ok(Ok(status)) => Err(format!("it answered {} and not {}", status.as_u16(), smoke.status)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("it did not answer within {SMOKE:?}")),
            }
        };
        match Handle::try_current() {
            Ok(handle) => handle.block_on(work),
            // The start.
            Err(_) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
                runtime.block_on(work)
            }
        }
    }

    fn permits(&self, before: Option<&Loaded>, config: &Config) -> Option<Arc<Semaphore>> {
        let wanted = config.limits.sandboxes;
        if wanted >= self.host.limits.sandboxes {
            return None;
        }
        let same = before.filter(|before| before.plan.config.limits.sandboxes == wanted);
        let kept = same.and_then(|before| before.snapshot.permits.clone());
        Some(kept.unwrap_or_else(|| Arc::new(Semaphore::new(wanted as usize))))
    }
}

fn remember(state: &mut State, verdict: Verdict) {
    if state.history.len() >= HISTORY {
        state.history.remove(0);
    }
    state.history.push(verdict);
}

impl ServicePlan {
    /// Its program and the files its settings name, those in folders that they name included.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = settings_files(&self.config);
        files.extend(self.module.file().map(Path::to_owned));
        files
    }
}

/// Gets a service's program and loads it.
pub fn load(store: &Store, runtime: &Runtime, plan: &ServicePlan) -> Result<Guest, LoadError> {
    let name = PathBuf::from(plan.module.to_string());
    let _span = tracing::info_span!(target: TARGET, "load program", service = plan.config.name, program = %plan.module).entered();
    match store.read(&plan.module) {
        Ok(wasm) => runtime.load_bytes(&wasm, &name, &plan.config),
        // The file's own errors have hints of their own.
        Err(SourceError::File { .. }) => runtime.load(&name, &plan.config),
        Err(error) => Err(LoadError::Source { path: name, error }),
    }
}

/// Files that settings name; of a folder the folder itself, those below it, and the files in all of them.
fn settings_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in config.files() {
        within(path, &mut files);
    }
    files
}

fn within(path: &Path, files: &mut Vec<PathBuf>) {
    files.push(path.to_owned());
    if let Some(names) = names(path) {
        // Hidden ones are no data; Kubernetes keeps its copies there.
        names.iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")).for_each(|name| within(&path.join(name), files));
    }
}

/// What is in a folder; `None`: it is none.
fn names(path: &Path) -> Option<BTreeSet<OsString>> {
    let entries = std::fs::read_dir(path).ok()?;
    Some(entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).collect())
}

fn files_of(plan: &Plan) -> BTreeSet<PathBuf> {
    plan.services.iter().flat_map(ServicePlan::files).chain(plan.documents.iter().cloned()).collect()
}

/// SHA-256 over files: which there are, and what is in them. Times of change are no evidence.
fn digest<'a>(files: impl Iterator<Item = &'a Path>) -> [u8; 32] {
    let mut all = Sha256::new();
    for file in files {
        all.update(file.as_os_str().as_encoded_bytes());
        if let Some(names) = names(file) {
            names.iter().for_each(|name| all.update([name.as_encoded_bytes(), b"/"].concat()));
            continue;
        }
        match std::fs::read(file) {
            // It may be a secret.
            Ok(content) => all.update([&[1][..], &Sha256::digest(Zeroizing::new(content))].concat()),
            Err(_) => all.update([0]),
        }
    }
    all.finalize().into()
}

/// Settings that differ and cannot change while the process runs.
fn needs_restart(now: &HostConfig, wanted: &HostConfig) -> Vec<&'static str> {
    let (a, b) = (&now.limits, &wanted.limits);
    let checks = [
        ("listen", now.listen != wanted.listen),
        ("tls", now.tls != wanted.tls),
        ("admin", now.admin != wanted.admin),
        ("admin_token_file", now.admin_token != wanted.admin_token),
        ("admin_hosts", now.admin_hosts != wanted.admin_hosts),
        ("admin_open", now.admin_open != wanted.admin_open),
        ("probes", now.probes != wanted.probes),
        ("inspect", now.inspect != wanted.inspect),
        ("traces", now.traces != wanted.traces),
        ("metrics", now.hostcall_metrics != wanted.hostcall_metrics),
        ("access_log", now.access != wanted.access),
        ("core_dumps", now.core_dumps != wanted.core_dumps),
        ("threads", now.threads != wanted.threads),
        ("cache", now.cache != wanted.cache || (now.cache.disk > 0 && now.state.data_dir != wanted.state.data_dir)),
        ("cache_dir", now.cache_dir != wanted.cache_dir),
        ("registry_auth", now.registry_auth != wanted.registry_auth),
        ("drain_timeout", now.drain_timeout != wanted.drain_timeout),
        ("trusted_proxies", now.trusted_proxies != wanted.trusted_proxies),
        ("proxy_protocol", now.proxy_protocol != wanted.proxy_protocol),
        ("unknown_imports", now.unknown_imports != wanted.unknown_imports),
        ("limits.sandboxes", a.sandboxes != b.sandboxes),
        ("limits.memory", a.memory != b.memory),
        ("limits.keep_resident", a.keep_resident != b.keep_resident),
        ("limits of clients", (a.uri, a.head, a.h2_streams) != (b.uri, b.head, b.h2_streams)),
        ("timeouts of clients", timeouts(now) != timeouts(wanted)),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn timeouts(host: &HostConfig) -> [Duration; 3] {
    [host.limits.head_timeout, host.limits.idle_timeout, host.limits.client_timeout]
}
