//! The only writer of what is served: reads the plan, builds what has changed, and puts it in force at once, or leaves
//! everything as it was and says why.
//!
//! A service whose settings, files and program are as they were keeps its snapshot, so that reloading one leaves
//! the others alone.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::Exit;
use super::files::{digest, files_of, settings_files, settle};
use super::load::{DIFFERENT, Launch, Plan, ServicePlan, Taken, part_of_anothers};
use super::loaded::{Loaded, Made, OnTrial};
use super::prepare::{Preparer, Readiness, Wanted};
use super::refusal::{Refusal, descriptors_of};
use super::restart;
use super::verdict::{Outcome, ServiceFault, ServiceStatus, Status, TrialStatus, Verdict};
use tracing::field;

use crate::config::diagnostics::Report;
use crate::config::{Config, HostConfig, Secret};
use crate::runtime::{Current, Guest, Routes, Runtime, Snapshot, Trial};
use crate::services::cache::Purge;
use crate::services::{Platform, Services, descriptors};
use crate::telemetry::secrets;
use crate::telemetry::trace::spans::TARGET;
use crate::telemetry::{Telemetry, clock};

/// Attempts that `status` remembers.
const HISTORY: usize = 20;

/// How long the KV stores on disk of services that come and go are kept when they are gone.
const KEPT: Duration = Duration::from_secs(3600);

/// The cause of attempts for services that are ready by now.
const PREPARED: &str = "prepared";

/// How often a set of files that changes while it is read is read again.
const TRIES: usize = 6;

/// How long it is waited for that nobody writes what is to be read, where nobody asks for it.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// Of a service that comes and goes, how many secrets are redacted in what is shown, and bytes of them.
const SECRETS: usize = 250;
const SECRET_BYTES: usize = 256 << 10;

/// No digest of files.
const UNSEEN: [u8; 32] = [0; 32];

#[derive(Clone)]
struct State {
    generation: u64,
    loaded: BTreeMap<String, Loaded>,
    /// Every file that what is in force, or the last attempt, was made from.
    files: BTreeSet<PathBuf>,
    /// Their contents at the last attempt.
    seen: [u8; 32],
    /// Documents that have said something.
    written: Arc<BTreeSet<PathBuf>>,
    history: Vec<Verdict>,
    /// Services that come and go whose newest files cannot be used.
    faulty: Vec<ServiceFault>,
    /// Services whose time is over, and since when.
    expired: BTreeMap<String, String>,
    /// Services that come and go, and are got ready.
    preparing: Vec<String>,
    /// Services that come and go, faulty ones, too; nothing: it is not known.
    known: Option<BTreeSet<String>>,
}

/// Every service, those that come and go and are faulty, and those of them that are not ready yet.
type Built = (Vec<Loaded>, Vec<ServiceFault>, Vec<String>);

/// Builds and swaps.
pub struct Reloader {
    launch: Launch,
    host: HostConfig,
    platform: Arc<Platform>,
    preparer: Preparer,
    telemetry: Telemetry,
    current: Arc<Current>,
    /// Held by whoever makes the next state, however long that takes.
    turn: Mutex<()>,
    /// Held for moments only: operators ask for it while programs are fetched and compiled.
    state: Mutex<State>,
    begun: Instant,
    attempts: watch::Sender<u64>,
    /// Of services with fewer sandboxes than the host, by name and number, as long as anybody has them.
    permits: Mutex<BTreeMap<(String, u32), Weak<Semaphore>>>,
    /// Whether somebody else tells of faulty services.
    quiet: bool,
}

impl Reloader {
    /// For a host that has started as `host` says; nothing is served yet.
    pub fn new(launch: Launch, host: HostConfig, runtime: Arc<Runtime>, platform: Arc<Platform>, current: Arc<Current>) -> Self {
        let telemetry = platform.telemetry.clone();
        let state = State {
            generation: 0,
            loaded: BTreeMap::new(),
            files: BTreeSet::new(),
            seen: [0; 32],
            written: Arc::default(),
            history: Vec::new(),
            faulty: Vec::new(),
            expired: BTreeMap::new(),
            preparing: Vec::new(),
            known: None,
        };
        let (state, begun) = (Mutex::new(state), clock::now());
        let preparer = Preparer::new(&host, runtime, platform.clone());
        Self {
            launch,
            host,
            platform,
            preparer,
            telemetry,
            current,
            turn: Mutex::default(),
            state,
            begun,
            attempts: watch::Sender::new(0),
            permits: Mutex::default(),
            quiet: false,
        }
    }

    /// The first load: a failure is the end. Services that come and go are waited for, so long at most; without a bound, for all.
    pub fn start(&self, patience: Option<Duration>) -> Result<(), Exit> {
        self.attempt("start").map_err(|refusal| *refusal.exit)?;
        let until = patience.map(|patience| clock::now() + patience);
        while self.preparer.wait(until) {
            drop(self.reload(PREPARED));
        }
        Ok(())
    }

    /// The same, whose log has nothing of faulty services.
    pub fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// Waits until a service that comes and goes is ready, or known to take long.
    pub async fn told(&self) {
        self.preparer.told().await;
    }

    /// Whether something is ready, or cannot be got ready, that is not in force.
    pub fn has_prepared(&self) -> bool {
        self.preparer.has_news()
    }

    /// Puts in force what is ready by now.
    pub fn take_prepared(&self) -> Option<Verdict> {
        self.preparer.take_news().then(|| self.reload(PREPARED))
    }

    /// Services that are got ready, and are not known to take long.
    pub fn pending(&self) -> Vec<String> {
        self.preparer.pending_shortly()
    }

    /// Time since it was made.
    pub fn age(&self) -> Duration {
        clock::now().duration_since(self.begun)
    }

    /// Counts attempts.
    pub fn attempts(&self) -> watch::Receiver<u64> {
        self.attempts.subscribe()
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
        if digest(&files) == seen {
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

    /// When the next service is over.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.state.lock().loaded.values().filter_map(|loaded| loaded.plan.expires).min()
    }

    /// What is in force.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let field = |(name, value): &(HeaderName, HeaderValue)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        let service = |(name, loaded): (&String, &Loaded)| ServiceStatus {
            name: name.clone(),
            generation: loaded.snapshot.generation,
            hosts: loaded.plan.route.hosts.clone(),
            paths: loaded.plan.route.paths.clone(),
            headers: loaded.plan.route.headers.iter().map(field).collect(),
            expires: loaded.plan.expires.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
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
            degraded: state
                .history
                .iter()
                .rfind(|verdict| verdict.cause != "expiry")
                .is_some_and(|last| last.result == Outcome::Failed || !last.rejected.is_empty()),
            away: self.preparer.away(),
            uptime: self.age().as_secs(),
            services: state.loaded.iter().map(service).collect(),
            faulty: state.faulty.clone(),
            preparing: state.preparing.clone(),
            expired: state.expired.clone(),
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
            faulty: Vec::new(),
            preparing: Vec::new(),
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
        // What breaks off changes nothing, and is no end of reloading.
        let built = catch_unwind(AssertUnwindSafe(|| self.build(&mut state, &mut verdict)));
        let result = built.unwrap_or_else(|_| {
            state = self.state.lock().clone();
            (verdict.changed, verdict.removed) = (Vec::new(), Vec::new());
            Err((Exit::Internal("reading and building it broke off: a fault of this host; the log has more".to_owned()),).into())
        });
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
        // Looks in vain are not worth remembering.
        let well = |verdict: &Verdict| verdict.result != Outcome::Failed && verdict.rejected.is_empty();
        let in_vain = verdict.result == Outcome::Unchanged && matches!(cause, "poll" | PREPARED);
        if !in_vain || state.history.last().is_none_or(|last| well(last) != well(&verdict)) {
            remember(&mut state, verdict.clone());
        }
        *self.state.lock() = state;
        self.attempts.send_modify(|attempts| *attempts += 1);
        result.map(|()| verdict)
    }

    /// Has nothing that is shown show what is secret now.
    fn know_secrets(&self) {
        let host = &self.host;
        let headers = host.traces.export.iter().flat_map(|export| export.headers.iter().map(|(_, secret)| secret));
        let mut all: Vec<Secret> = host.admin_token.iter().chain(&host.traces.force).chain(headers).cloned().collect();
        let routes = self.current.routes();
        let mut services: Vec<_> = routes.services().iter().collect();
        // Where there are too many, those of services that come and go are behind the others.
        services.sort_by_key(|service| service.config.dropin.is_some());
        for service in services {
            all.extend(service.config.facts.fastly_keys.iter().cloned());
            let values = service.services.secret_stores.values().flat_map(|store| store.values());
            if service.config.dropin.is_none() {
                all.extend(values);
                continue;
            }
            // No one of them has all that can be looked for.
            let mut bytes = 0;
            let within = |secret: &Secret| {
                bytes += secret.as_ref().len();
                bytes <= SECRET_BYTES
            };
            all.extend(values.take(SECRETS).take_while(within));
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
        if verdict.cause != "expiry" {
            metrics.reload_successful.set(i64::from(well));
        }
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
        verdict.log(well);
    }

    fn build(&self, state: &mut State, verdict: &mut Verdict) -> Result<(), Refusal> {
        let (begun, mut tries) = (clock::now(), TRIES);
        let mut looked_at = state.files.clone();
        let (plan, built) = loop {
            if !matches!(verdict.cause, "start" | "request" | "signal") {
                settle(&looked_at, begun + SETTLE_WITHIN);
            }
            // What has been seen is what was there before it was read: what changes meanwhile is found changed at the next look.
            let seen = digest(&looked_at);
            tries -= 1;
            let plan = match self.launch.plan_after(&state.written) {
                Ok(plan) => plan,
                Err(unplanned) => {
                    let known = looked_at.len();
                    looked_at.extend(unplanned.documents.iter().cloned());
                    if looked_at.len() > known && tries > 0 {
                        continue;
                    }
                    // What is in force is watched on, too.
                    (state.files, state.seen) = (looked_at, seen);
                    return Err(unplanned.into());
                }
            };
            let files = files_of(&plan);
            if !files.is_subset(&looked_at) && tries > 0 {
                looked_at.extend(files);
                continue;
            }
            let built = self.services(state, &plan, verdict.cause, begun);
            let in_force = state.loaded.values().flat_map(|loaded| loaded.plan.files());
            let watched = if built.is_ok() { files } else { files.into_iter().chain(in_force).collect() };
            let now = digest(&watched);
            // All of it must be of one moment: a mounted volume is swapped as a whole.
            let still = digest(&looked_at) == seen;
            if !still && tries > 0 {
                continue;
            }
            // When it never was, the next look finds it changed.
            (state.files, state.seen) = (watched, if still { now } else { UNSEEN });
            break (plan, built?);
        };
        let (built, faulty, preparing) = built;
        state.written = plan.written.clone();
        let all = plan.services.iter().chain(plan.dropins.iter().filter_map(|dropin| dropin.plan.as_ref().ok()));
        let over = |plan: &ServicePlan| Some((plan.config.name.clone(), humantime::format_rfc3339_seconds(plan.expires?).to_string()));
        state.expired = all.filter(|plan| plan.is_over()).filter_map(over).collect();
        for fault in faulty.iter().filter(|fault| !state.faulty.iter().any(|known| known.error == fault.error)) {
            if !self.quiet {
                let kept = if state.loaded.contains_key(&fault.service) { "; what was served of it is served on" } else { "" };
                tracing::error!(service = fault.service, "a service cannot be used{kept}\n{}", fault.error);
            }
        }
        if plan.host.dropins.as_ref().is_some_and(|from| from.folder.is_dir()) {
            state.known = Some(plan.dropins.iter().map(|dropin| dropin.name.clone()).collect());
        }
        self.telemetry.metrics.faulty.set(i64::try_from(faulty.len()).unwrap_or(i64::MAX));
        self.telemetry.metrics.preparing.set(i64::try_from(preparing.len()).unwrap_or(i64::MAX));
        state.preparing.clone_from(&preparing);
        verdict.preparing = preparing;
        verdict.faulty.clone_from(&faulty);
        state.faulty = faulty;
        verdict.restart_needed = restart::needed(&self.host, &plan.host);
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
            // When they end, how often is looked for others.
            state.loaded = built.into_iter().map(|loaded| (loaded.plan.config.name.clone(), loaded)).collect();
            return Ok(());
        }
        // Before any request finds them.
        built.iter().filter(|loaded| asked || !kept(loaded)).for_each(|loaded| loaded.snapshot.services.seed(&self.platform));
        verdict.on_trial = built.iter().filter(|loaded| !kept(loaded) && loaded.trial.is_some()).map(name).collect();
        let built: BTreeMap<String, Loaded> = built.into_iter().map(|loaded| (loaded.plan.config.name.clone(), loaded)).collect();
        let before = std::mem::replace(&mut state.loaded, built);
        self.publish(state);
        // What services that come and go have cached goes with them. (What is written from now on is not found.)
        for (name, gone) in before.iter().filter(|(_, before)| before.plan.config.dropin.is_some()) {
            if state.loaded.get(name).is_none_or(|now| now.plan.config.dropin != gone.plan.config.dropin) {
                gone.snapshot.services.cache.apply(&Purge::All);
            }
        }
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
        let (mut ended, mut verdicts) = (Vec::new(), Vec::new());
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
            remember(&mut state, verdict.clone());
            verdicts.push(verdict);
        }
        drop(state);
        verdicts.iter().for_each(|verdict| self.tell(verdict));
    }

    /// Ends the services whose time is over.
    pub fn expire(&self) {
        let _turn = self.turn.lock();
        let mut state = self.state.lock();
        let over: Vec<String> = state.loaded.iter().filter(|(_, loaded)| loaded.plan.is_over()).map(|(name, _)| name.clone()).collect();
        if over.is_empty() {
            return;
        }
        state.loaded.retain(|name, _| !over.contains(name));
        self.publish(&mut state);
        let verdict = Verdict { generation: state.generation, removed: over, ..self.verdict("expiry", Outcome::Ok) };
        remember(&mut state, verdict.clone());
        drop(state);
        self.tell(&verdict);
    }

    /// Removes what services that come and go have left behind when they are gone.
    pub fn tidy(&self) {
        let names: BTreeSet<String> = {
            let state = self.state.lock();
            let Some(known) = &state.known else { return };
            known.iter().chain(state.loaded.keys()).cloned().collect()
        };
        if let Some(folder) = &self.host.state.data_dir {
            self.platform.files.tidy(folder, &names.iter().map(String::as_str).collect(), KEPT);
        }
    }

    /// Every service of a plan: what is as it was, and the rest built anew.
    fn services(&self, state: &State, plan: &Plan, cause: &str, begun: Instant) -> Result<Built, Refusal> {
        let mut loaded = Vec::with_capacity(plan.services.len());
        let (wanted, most) = (plan.descriptors(), descriptors::most_files());
        if wanted > most {
            return Err((Exit::Usage(descriptors_of("all services together", wanted, most)),).into());
        }
        let (mut errors, mut problems, mut first) = (Vec::new(), Vec::new(), None);
        for service in plan.services.iter().filter(|service| !service.is_over()) {
            match self.service(state, service, cause) {
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
            None => {
                let (faulty, preparing) = self.dropins(state, plan, (cause, begun), &mut loaded);
                Ok((loaded, faulty, preparing))
            }
            Some(exit) if plan.services.len() > 1 => {
                let text = errors.join("\n");
                let exit = Box::new(Exit::Services { code: exit.code(), text: text.clone() });
                Err(Refusal { error: text, problems, exit })
            }
            Some(exit) => Err(Refusal { error: errors.join("\n"), problems, exit }),
        }
    }

    /// Adds the services that come and go. Each is a case of its own: one that cannot be used stays as it was, and those that
    /// have their requests already go before others that want the same. Gives those that are faulty, and those that are not ready yet.
    fn dropins(
        &self,
        state: &State,
        plan: &Plan,
        (cause, begun): (&str, Instant),
        loaded: &mut Vec<Loaded>,
    ) -> (Vec<ServiceFault>, Vec<String>) {
        let (mut faulty, mut preparing) = (Vec::new(), Vec::new());
        let names: BTreeSet<&str> = plan.services.iter().map(|service| service.config.name.as_str()).collect();
        let mut taken = Taken::default();
        for service in plan.services.iter().filter(|service| !service.is_over()) {
            drop(taken.take(service));
        }
        let mut left = descriptors::most_files().saturating_sub(plan.descriptors());
        let before = |name: &str| state.loaded.get(name).filter(|before| !before.plan.is_over() && !names.contains(name));
        let mut fault = |service: &str, (error, problems): (String, Vec<Report>)| {
            faulty.push(ServiceFault { service: service.to_owned(), error, problems });
        };
        let mut wanted = Vec::new();
        for dropin in &plan.dropins {
            let name = dropin.name.as_str();
            match &dropin.plan {
                Ok(_) if names.contains(name) => {
                    fault(
                        name,
                        (format!("service `{name}`: the host file has a service of that name\n  hint: give it another name"), Vec::new()),
                    );
                }
                Ok(plan) if plan.is_over() => {}
                Ok(plan) => {
                    let new = before(name).is_none_or(|before| before.plan.route != plan.route);
                    wanted.push((new, dropin.since, name, Some(plan)));
                }
                Err(error) => {
                    fault(name, (error.to_string(), error.reports()));
                    wanted.push((false, dropin.since, name, None));
                }
            }
        }
        wanted.sort_by_key(|(new, since, name, _)| (*new, *since, *name));
        self.preparer.keep(&wanted.iter().filter(|(.., plan)| plan.is_some()).map(|(_, _, name, _)| *name).collect());
        let mut others: Vec<&ServicePlan> = Vec::new();
        for (_, _, name, plan) in wanted {
            if let Some(plan) = plan {
                let different = |message| format!("{message}\n  hint: {DIFFERENT}");
                let wants = plan.descriptors();
                let refused = part_of_anothers(&others, plan).or_else(|| taken.take(plan)).map(different);
                let refused = refused.or_else(|| (wants > left).then(|| descriptors_of(&format!("service `{name}`"), wants, left)));
                let built = match refused {
                    None => self.dropin(state, plan, looks(cause, plan).then_some(begun)),
                    Some(message) => Err((message, Vec::new())),
                };
                match built {
                    Ok((built, pending)) => {
                        // A look now and then whether a tag has moved is nobody's business until it has.
                        if pending && (built.is_none() || cause != "poll") {
                            preparing.push(name.to_owned());
                        }
                        if built.is_some() || before(name).is_none() {
                            left -= wants;
                        }
                        if let Some(built) = built {
                            loaded.push(built);
                            others.push(plan);
                            continue;
                        }
                    }
                    Err(why) => fault(name, why),
                }
            }
            // As it was, if nobody else has its requests by now.
            if let Some(before) = before(name)
                && (plan.is_some_and(|plan| plan.route == before.plan.route) || taken.take(&before.plan).is_none())
            {
                left = left.saturating_sub(before.plan.descriptors());
                loaded.push(before.clone());
                others.push(&before.plan);
            }
        }
        descriptors::services_have(descriptors::most_files().saturating_sub(left));
        faulty.sort_by(|a, b| a.service.cmp(&b.service));
        (faulty, preparing)
    }

    /// A service that comes and goes, if it is ready; and whether it is got ready.
    fn dropin(&self, state: &State, plan: &ServicePlan, anew: Option<Instant>) -> Result<(Option<Loaded>, bool), (String, Vec<Report>)> {
        let of = |refusal: Refusal| (refusal.error, refusal.problems);
        let name = &plan.config.name;
        let wanted = Wanted::of(plan, digest(&settings_files(&plan.config).into_iter().collect()));
        let before = state.loaded.get(name);
        let same = before.filter(|before| before.is_as(&wanted));
        let as_it_was = || same.map(|same| Loaded { plan: plan.clone(), ..same.clone() });
        if let Some(same) = same
            && (wanted.source.is_some() || (anew.is_none() && !self.preparer.is_news(name, same.snapshot.guest.digest())))
        {
            if wanted.source.is_some() {
                self.preparer.forget(name);
            }
            return Ok((as_it_was(), false));
        }
        // Another service of the same name is nothing to this one.
        let running = before.filter(|before| before.plan.config.dropin == plan.config.dropin).map(|before| &before.snapshot);
        match self.preparer.wanted(wanted.clone(), anew, running) {
            Readiness::Ready(guest) => {
                let loaded = match self.kept(before, plan, &wanted, &guest) {
                    Some(kept) => kept,
                    None => self.assemble(state, plan, wanted, guest).map_err(of)?,
                };
                Ok((Some(loaded), false))
            }
            Readiness::Faulty(error, problems) => Err((error, problems)),
            // Perhaps it is only looked whether it has moved.
            Readiness::Pending => Ok((as_it_was(), true)),
        }
    }

    fn service(&self, state: &State, plan: &ServicePlan, cause: &str) -> Result<Loaded, Refusal> {
        let before = state.loaded.get(&plan.config.name);
        let wanted = Wanted::of(plan, digest(&settings_files(&plan.config).into_iter().collect()));
        if let Some(same) = before.filter(|before| before.is_as(&wanted))
            && (wanted.source.is_some() || !looks(cause, plan))
        {
            return Ok(Loaded { plan: plan.clone(), ..same.clone() });
        }
        let guest = self.preparer.load(plan)?;
        if let Some(kept) = self.kept(before, plan, &wanted, &guest) {
            return Ok(kept);
        }
        self.preparer.smoke(&wanted, &guest, before.map(|before| &*before.snapshot))?;
        self.assemble(state, plan, wanted, guest)
    }

    /// What is served already, if it is the same program in the same way; or was, and did not do well.
    fn kept(&self, before: Option<&Loaded>, plan: &ServicePlan, wanted: &Wanted, guest: &Guest) -> Option<Loaded> {
        let before = before?;
        if before.plan.config == wanted.config && before.files == wanted.files && before.snapshot.guest.digest() == guest.digest() {
            return Some(Loaded { plan: plan.clone(), source: wanted.source, ..before.clone() });
        }
        let made = Made { config: wanted.config.clone(), files: wanted.files, digest: guest.digest().to_owned() };
        (before.rejected.as_ref() == Some(&made)).then(|| before.clone())
    }

    /// A new generation.
    fn assemble(&self, state: &State, plan: &ServicePlan, wanted: Wanted, guest: Guest) -> Result<Loaded, Refusal> {
        let Wanted { config, files, source, .. } = &wanted;
        let before = state.loaded.get(&config.name);
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
        // Another service of the same name has nothing of what was before it.
        let previous = before.filter(|before| before.plan.config.dropin == config.dropin).map(|before| &*before.snapshot.services);
        let services = Arc::new(Services::build(config, previous, &self.platform)?);
        let snapshot = Snapshot {
            trial: trial.as_ref().map(|trial| trial.trial.clone()),
            permits: self.permits(before, config),
            ..Snapshot::new(state.generation + 1, Arc::new(config.clone()), services, guest)
        };
        Ok(Loaded { plan: plan.clone(), files: *files, source: *source, snapshot: Arc::new(snapshot), trial, rejected: None })
    }

    fn permits(&self, before: Option<&Loaded>, config: &Config) -> Option<Arc<Semaphore>> {
        let wanted = config.limits.sandboxes;
        if wanted >= self.host.limits.sandboxes {
            return None;
        }
        let same = before.filter(|before| before.plan.config.limits.sandboxes == wanted);
        let kept = same.and_then(|before| before.snapshot.permits.clone());
        // One that was taken away and comes back has those guests that are still there.
        let mut known = self.permits.lock();
        known.retain(|_, permits| permits.strong_count() > 0);
        let kept = kept.or_else(|| known.get(&(config.name.clone(), wanted)).and_then(Weak::upgrade));
        let permits = kept.unwrap_or_else(|| Arc::new(Semaphore::new(wanted as usize)));
        known.insert((config.name.clone(), wanted), Arc::downgrade(&permits));
        Some(permits)
    }
}

/// Whether registries are asked, since somebody wants to know whether something has moved.
fn looks(cause: &str, plan: &ServicePlan) -> bool {
    match cause {
        "start" | "signal" | "request" => true,
        "poll" => plan.poll.is_some(),
        _ => false,
    }
}

fn remember(state: &mut State, verdict: Verdict) {
    if state.history.len() >= HISTORY {
        state.history.remove(0);
    }
    state.history.push(verdict);
}
