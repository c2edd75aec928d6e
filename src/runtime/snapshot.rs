//! A service at one moment: settings, platform and guest together; and the table by which a request finds its
//! service. A request pins the snapshot it starts with and keeps it to its last byte.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::Guest;
use super::reuse::Waiting;
use crate::config::Config;
use crate::services::Services;
use crate::services::memory::ServiceMemory;
use crate::services::share::is_due;
use crate::telemetry::clock;
use crate::telemetry::trace::record::Service;

/// One generation of a service. Immutable.
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// Settings.
    pub config: Arc<Config>,
    /// Platform.
    pub services: Arc<Services>,
    /// Program.
    pub guest: Guest,
    /// Its guests that wait for another request.
    pub waiting: Waiting,
    /// Whether its guests tend to compute for long.
    pub tendency: Tendency,
    /// Memory of its guests.
    pub memory: Arc<ServiceMemory>,
    /// How it fares, while it is on trial beside the generation before.
    pub trial: Option<Arc<Trial>>,
    /// Bounds its sandboxes, when it may have fewer than the host. The same in every generation with the same bound.
    pub permits: Option<Arc<Semaphore>>,
    /// Whether it is one of several services.
    pub among: AtomicBool,
    /// Sandboxes that it may have whatever others have, if it is.
    pub few: OnceLock<Arc<Semaphore>>,
    /// What traces call it.
    pub traced: Arc<Service>,
}

impl Snapshot {
    /// A generation whose sandboxes only the host bounds.
    pub fn new(generation: u64, config: Arc<Config>, services: Arc<Services>, guest: Guest) -> Self {
        let traced = Self::traced(generation, &config, &guest);
        Self {
            generation,
            config,
            services,
            guest,
            waiting: Waiting::default(),
            tendency: Tendency::default(),
            memory: Arc::default(),
            trial: None,
            permits: None,
            among: AtomicBool::new(false),
            few: OnceLock::new(),
            traced,
        }
    }

    /// What traces call a generation.
    pub fn traced(generation: u64, config: &Config, guest: &Guest) -> Arc<Service> {
        Arc::new(Service { name: config.name.clone(), digest: guest.digest().to_owned(), generation })
    }
}

/// Whether a program's guests hold up the threads they begin on.
#[derive(Debug, Default)]
pub struct Tendency {
    /// How many of its last guests have computed for long: a mean in which the last counts for an eighth.
    mean: AtomicU32,
    /// When one last kept a thread that serves to itself for long, and until when others begin elsewhere for that: milliseconds of the
    /// process, plus one; 0: never.
    kept: AtomicU64,
    until: AtomicU64,
}

impl Tendency {
    const ALL: u32 = 1 << 16;

    /// What comes less often than this has happened to a guest, on a machine that pauses for example; it is not what its program does.
    const SELDOM: Duration = Duration::from_secs(10);

    /// So many times as long as they were kept, threads that serve are spared: what waits behind them is less than half of a hundredth.
    const SPARED: u32 = 250;

    /// Whether its guests are to begin among those that compute: more than a quarter of the last did, or some could not be made to make way.
    pub fn is_heavy(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        self.mean.load(Ordering::Relaxed) > Self::ALL / 4 || (until != 0 && until > Self::now())
    }

    /// Notes how a guest was. Two at once may count as one.
    pub fn note(&self, heavy: bool) {
        let before = self.mean.load(Ordering::Relaxed);
        let after = if heavy { before + (Self::ALL - before) / 8 } else { before - before.div_ceil(8) };
        // Most are light, and this is not to be written by every thread with every request then.
        if after != before {
            self.mean.store(after, Ordering::Relaxed);
        }
    }

    /// Notes that a guest has kept a thread that serves from all others for so long: within one instruction, or one hostcall, there is no
    /// making way.
    pub fn kept_a_thread(&self, stretch: Duration) {
        self.kept_at(Self::now(), stretch);
    }

    fn kept_at(&self, now: u64, stretch: Duration) {
        let last = self.kept.swap(now, Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < millis(Self::SELDOM) {
            self.until.fetch_max(now + millis((stretch * Self::SPARED).max(Self::SELDOM)), Ordering::Relaxed);
        }
    }

    fn now() -> u64 {
        static BEGUN: LazyLock<Instant> = LazyLock::new(clock::now);
        millis(clock::now().saturating_duration_since(*BEGUN)) + 1
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A new generation that takes some of its service's requests until it is known to be good.
#[derive(Debug)]
pub struct Trial {
    /// Of a hundred requests.
    share: u64,
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Trial {
    /// One that takes `share` of a hundred requests.
    pub fn new(share: u8) -> Self {
        Self { share: share.into(), asked: AtomicU64::new(0), answered: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Whether the next request is one of its, evenly.
    fn takes(&self) -> bool {
        is_due(&self.asked, self.share)
    }

    /// Notes an answer; `failed`: by the guest's end or with a 5xx.
    pub fn note(&self, failed: bool) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers so far, and how many of them failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Who answers for a service.
#[derive(Clone)]
pub struct Target {
    /// The generation that is known to be good.
    pub stable: Arc<Snapshot>,
    /// The one on trial.
    pub candidate: Option<Arc<Snapshot>>,
}

impl Target {
    fn choose(&self) -> &Arc<Snapshot> {
        match &self.candidate {
            Some(candidate) if candidate.trial.as_ref().is_some_and(|trial| trial.takes()) => candidate,
            Some(_) | None => &self.stable,
        }
    }
}

impl From<Arc<Snapshot>> for Target {
    fn from(stable: Arc<Snapshot>) -> Self {
        Self { stable, candidate: None }
    }
}

/// Which requests are for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Host names in lower case, without port; `*.name` takes every name below. None: every host.
    pub hosts: Vec<String>,
    /// What paths begin with, in whole segments; none: every path.
    pub paths: Vec<String>,
    /// Header fields that a request must have, with these values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Services by host, path and header fields. Immutable: a change makes another.
#[derive(Default)]
pub struct Routes {
    services: Vec<Arc<Snapshot>>,
    /// The one that takes every request, when there is no other.
    only: Option<Target>,
    exact: HashMap<Box<str>, Vec<Prefix>>,
    /// By what comes behind the `*`, the longest first.
    below: Vec<(Box<str>, Vec<Prefix>)>,
    any: Vec<Prefix>,
}

/// What paths begin with, which header fields there must be, and whose such requests are.
struct Prefix {
    path: Box<str>,
    headers: Arc<[(HeaderName, HeaderValue)]>,
    service: Target,
}

impl Prefix {
    fn fits(&self, path: &str, headers: &HeaderMap) -> bool {
        path.strip_prefix(&*self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && self.headers.iter().all(|(name, value)| headers.get(name) == Some(value))
    }
}

impl Routes {
    /// A table of services and what is theirs.
    pub fn new(services: impl IntoIterator<Item = (Route, Target)>) -> Self {
        let services: Vec<(Route, Target)> = services.into_iter().collect();
        let all = services.iter().flat_map(|(_, service)| [Some(&service.stable), service.candidate.as_ref()]).flatten();
        let mut routes = Self { services: all.cloned().collect(), ..Self::default() };
        routes.services.iter().for_each(|service| service.among.store(services.len() > 1, Ordering::Relaxed));
        if let [(route, service)] = services.as_slice()
            && *route == Route::default()
        {
            routes.only = Some(service.clone());
            return routes;
        }
        for (route, service) in services {
            let headers: Arc<[_]> = route.headers.clone().into();
            let every = [String::new()];
            let paths = if route.paths.is_empty() { &every[..] } else { &route.paths[..] };
            let mut add = |host: Option<&str>| {
                let list = match host {
                    None => &mut routes.any,
                    Some(host) => match host.strip_prefix('*') {
                        None => routes.exact.entry(host.into()).or_default(),
                        Some(suffix) => match routes.below.iter().position(|(known, _)| **known == *suffix) {
                            Some(at) => &mut routes.below[at].1,
                            None => {
                                routes.below.push((suffix.into(), Vec::new()));
                                let last = routes.below.len() - 1;
                                &mut routes.below[last].1
                            }
                        },
                    },
                };
                list.extend(paths.iter().map(|path| Prefix {
                    path: path.trim_end_matches('/').into(),
                    headers: headers.clone(),
                    service: service.clone(),
                }));
            };
            if route.hosts.is_empty() {
                add(None);
            }
            route.hosts.iter().for_each(|host| add(Some(host)));
        }
        routes.below.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        for list in routes.exact.values_mut().chain(routes.below.iter_mut().map(|(_, list)| list)).chain([&mut routes.any]) {
            list.sort_by_key(|prefix| std::cmp::Reverse((prefix.path.len(), prefix.headers.len())));
        }
        routes
    }

    /// All services, those on trial too.
    pub fn services(&self) -> &[Arc<Snapshot>] {
        &self.services
    }

    /// Whose a request is: the most exact host decides, then the longest path, then the most header fields. `host` is without
    /// its port.
    pub fn find(&self, host: &str, path: &str, headers: &HeaderMap) -> Option<&Arc<Snapshot>> {
        if let Some(only) = &self.only {
            return Some(only.choose());
        }
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let exact = self.exact.get(host).map(Vec::as_slice);
        let below = self.below.iter().filter(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix));
        let lists = exact.into_iter().chain(below.map(|(_, list)| list.as_slice())).chain([self.any.as_slice()]);
        lists.into_iter().find_map(|list| list.iter().find(|prefix| prefix.fits(path, headers))).map(|prefix| prefix.service.choose())
    }
}

/// The services that new requests find.
pub struct Current(ArcSwap<Routes>);

impl Default for Current {
    /// Nothing yet.
    fn default() -> Self {
        Self::new(Routes::default())
    }
}

impl Current {
    /// Starts with `routes`.
    pub fn new(routes: Routes) -> Self {
        Self(ArcSwap::from_pointee(routes))
    }

    /// Starts with one service that takes every request.
    pub fn only(snapshot: Snapshot) -> Self {
        Self::new(Routes::new([(Route::default(), Arc::new(snapshot).into())]))
    }

    /// The snapshot for one request, if it is anybody's. `host` is without its port.
    pub fn pin(&self, host: &str, path: &str, headers: &HeaderMap) -> Option<Arc<Snapshot>> {
        self.0.load().find(host, path, headers).cloned()
    }

    /// All there is now.
    pub fn routes(&self) -> Arc<Routes> {
        self.0.load_full()
    }

    /// What new requests find from now on. Guests of snapshots that are not there any more get no more requests.
    pub fn publish(&self, routes: Routes) {
        let old = self.0.swap(Arc::new(routes));
        let new = self.0.load();
        for gone in old.services.iter().filter(|service| !new.services.iter().any(|kept| Arc::ptr_eq(kept, service))) {
            gone.waiting.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tendency_comes_and_goes() {
        let tendency = Tendency::default();
        tendency.note(true);
        tendency.note(true);
        assert!(!tendency.is_heavy());
        tendency.note(true);
        assert!(tendency.is_heavy());
        (0..40).for_each(|_| tendency.note(true));
        let needed = (1..100).find(|_| {
            tendency.note(false);
            !tendency.is_heavy()
        });
        assert_eq!(needed, Some(11));
        (0..200).for_each(|_| tendency.note(false));
        assert_eq!(tendency.mean.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_keeps_threads_is_elsewhere_for_longer() {
        let tendency = Tendency::default();
        let until = || tendency.until.load(Ordering::Relaxed);
        let long = Duration::from_millis(100);
        for at in [1, 20_000, 40_000] {
            tendency.kept_at(at, long);
            assert_eq!(until(), 0);
        }
        tendency.kept_at(45_000, long);
        assert_eq!(until(), 70_000);
        tendency.kept_at(46_000, Duration::from_millis(12));
        assert_eq!(until(), 70_000);
        // A process of now is younger than that.
        assert!(tendency.is_heavy());
        tendency.kept_at(80_000, long);
        assert_eq!(until(), 70_000);
    }
}
