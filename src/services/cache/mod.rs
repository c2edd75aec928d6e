//! The cache: one store for all services of a process, with two faces. The core cache is used as it is; what HTTP makes
//! of it is in [`http_cache`](super::http_cache).
//!
//! ```text
//! Cache (a service's part) ──▶ Store: entries by key ──▶ Object: options, age, hits ──▶ Content: bytes, readers
//!        │ lookup                │ waiters, flights                                       ▲
//!        ▼                       │                                                        │
//!   Lookup ─▶ Outcome ─▶ Found, Obligation ─────── insert ──▶ Filler (a BodySink) ────────┘
//! ```
//!
//! [`bounds`] decides what stays in memory, [`disk`] keeps what has to outlive the process, [`space`] finds what a purge
//! names.

mod bounds;
mod content;
pub mod disk;
mod entry;
pub mod fanout;
pub mod inspect;
mod journal;
pub mod key;
mod lookup;
mod object;
mod space;
mod store;
mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::HeaderMap;

use crate::http::body::BodyWriter;
use crate::services::redis::Unavailable;
use crate::telemetry::clock;

pub use entry::{MAX_RULES, MAX_VARIANTS};
pub use key::{Face, Key, MAX_KEY, MAX_SURROGATE_KEYS, SurrogateKeys, VaryRule};
pub use lookup::{Found, Lookup, Obligation, Outcome};
pub use object::{Object, Phase, StoredHead, WriteOptions};
pub use space::{Owner, Space};
pub use store::{Limits, Store};

use entry::Asked;
use fanout::Fanout;
use object::Place;

/// Something cannot be done with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was given is not valid.
    #[error("{0}")]
    Invalid(&'static str),
    /// Nobody has asked for that.
    #[error("the lookup did not ask for an object to be written")]
    NotAsked,
    /// There is no object to do it with.
    #[error("no object was found")]
    NotFound,
    /// A body of the same lookup is still open.
    #[error("a body of this lookup is still open")]
    BodyOpen,
    /// The process ends.
    #[error("the cache is gone")]
    Gone,
}

/// How an object is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// At once, whoever else is about to.
    #[default]
    Immediate,
    /// At once, and until then there is none.
    ImmediateForceMiss,
    /// After all who are about to.
    Wait,
}

/// One service's part of the cache.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Arc<Store>,
    space: Arc<Space>,
    fanout: Option<Arc<Fanout>>,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Objects with a surrogate key.
    Key {
        /// The key.
        key: String,
        /// Whether they only become stale.
        soft: bool,
    },
    /// All variants of an entry.
    Entry {
        /// Its key.
        key: Key,
        /// Whether they only become stale.
        soft: bool,
    },
    /// Everything of the service.
    All,
}

/// A purge that has been done.
#[derive(Clone, Debug)]
pub struct Purged {
    /// Names it.
    pub id: String,
    /// How many objects it was here; 0 of everything, which nobody counts.
    pub objects: usize,
}

impl Cache {
    /// The part of the service `name`.
    pub fn new(store: &Arc<Store>, name: &str) -> Self {
        Self { store: store.clone(), space: store.space(name), fanout: None }
    }

    /// The same, and how other replicas hear of purges.
    #[must_use]
    pub fn with_fanout(self, fanout: Option<Arc<Fanout>>) -> Self {
        Self { fanout, ..self }
    }

    /// The part of another service.
    pub fn of(&self, service: &str) -> Self {
        Self { space: self.store.space(service), ..self.clone() }
    }

    /// The part of the service with that id, if it lets this one use it.
    pub fn shared_by(&self, service_id: &str) -> Option<Self> {
        let space = self.store.shared(service_id, &self.space)?;
        Some(Self { space, ..self.clone() })
    }

    /// Counts a lookup.
    pub fn count(&self, face: &str, result: &str) {
        self.store.telemetry.metrics.cache_lookups.with_label_values(&[face, result]).inc();
    }

    /// The service's part.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The store that all share.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Most bytes of an object.
    pub fn largest(&self) -> u64 {
        self.store.limits.object
    }

    /// Counts an object that is too large to be kept.
    pub fn too_large(&self) {
        self.store.telemetry.metrics.cache_refusals.inc();
    }

    /// The key of an entry.
    pub fn key(&self, face: Face, key: &[u8]) -> Key {
        Key::new(self.space.name(), face, key)
    }

    fn asked(&self, stale: bool, replaces: bool) -> Asked {
        Asked { space: self.space.clone(), stale, replaces }
    }

    /// What is usable now. Nobody waits, and nobody is asked to write.
    pub fn lookup(&self, key: &Key, headers: &HeaderMap) -> Option<Found> {
        self.store.look(key, headers)
    }

    /// What is usable, or the duty to write it, or the wait for whoever has that. `stale`: what is past its time is of
    /// use.
    pub fn transaction(&self, key: Key, headers: &HeaderMap, stale: bool, about: &dyn Fn() -> Arc<str>) -> Lookup {
        self.store.ask(key, headers, self.asked(stale, false), about).into()
    }

    /// Begins an object, whoever else is about to.
    pub fn insert(&self, key: Key, headers: &HeaderMap, about: Arc<str>, options: WriteOptions) -> Result<(BodyWriter, Found), Error> {
        let variant = options.vary.variant(headers);
        let place = Place { key, variant, space: self.space.clone(), generation: self.space.generation(), about };
        let (filler, object) = self.store.begin(place, options, None).ok_or(Error::Gone)?;
        let found = Found::new(object, Phase::Fresh, 0, self.store.now());
        Ok((BodyWriter::into_sink(Box::new(filler)), found))
    }

    /// What there is, and the duty to replace it.
    pub fn replace(&self, key: Key, headers: &HeaderMap, how: Replace, about: Arc<str>) -> Lookup {
        let asked = self.asked(false, true);
        match how {
            Replace::Wait => self.store.ask(key, headers, asked, &|| about.clone()).into(),
            Replace::Immediate => {
                // No flight: others go on as if nobody had asked.
                let found = self.store.look(&key, headers);
                Outcome { found, ..Outcome::default() }.into()
            }
            Replace::ImmediateForceMiss => {
                let found = self.store.look(&key, headers);
                let mut outcome = self.store.take_off(key, headers, &asked, about);
                if let Some(found) = &found {
                    self.store.drop_object(&found.object);
                }
                outcome.found = found;
                outcome.into()
            }
        }
    }

    /// Forgets something here; how many objects.
    pub fn apply(&self, purge: &Purge) -> usize {
        let (kind, objects) = match purge {
            Purge::Key { key, soft } => (if *soft { "soft" } else { "hard" }, self.store.purge(&self.space, key, *soft)),
            Purge::Entry { key, soft } => ("url", self.store.purge_entry(key, *soft)),
            Purge::All => {
                self.store.purge_all(&self.space);
                ("all", 0)
            }
        };
        self.store.telemetry.metrics.cache_purges.with_label_values(&[kind]).inc();
        objects
    }

    /// Forgets something here, on disk too, and tells all replicas. An error: it is done here, and they have not heard of it.
    pub async fn purge_everywhere(&self, purge: &Purge) -> Result<Purged, Unavailable> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let objects = self.apply(purge);
        let some = objects > 0 || matches!(purge, Purge::All);
        if some && !self.store.purges_are_kept(PURGES).await {
            tracing::error!(target: "sidelight::cache", service = self.space.name(), "a purge is not on disk: what was purged may be found after a restart");
        }
        let id = format!("{}-{}-{}", std::process::id(), clock::unix().as_secs(), COUNT.fetch_add(1, Ordering::Relaxed));
        if let Some(fanout) = &self.fanout {
            fanout.publish(self.space.name(), purge).await?;
        }
        let counted = (!matches!(purge, Purge::All)).then_some(objects);
        tracing::info!(target: "sidelight::cache", service = self.space.name(), ?purge, objects = counted, id, "purged");
        Ok(Purged { id, objects })
    }

    /// Forgets an entry here, since what it is of may have changed.
    pub fn invalidate(&self, key: &Key) {
        self.store.purge_entry(key, false);
    }

    /// What there is under a key that is past its time, or not.
    pub fn stale(&self, key: &Key, headers: &HeaderMap) -> Option<Arc<Object>> {
        self.store.look_stale(key, headers)
    }
}

/// How long a purge waits for the disk.
const PURGES: Duration = Duration::from_secs(5);

/// For how long requests do without the cache, if nothing is said.
pub const PASS_TIME: Duration = Duration::from_secs(120);
