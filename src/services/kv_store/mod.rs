//! KV stores: values by key with metadata, generations and times to live.
//!
//! [`KvStore`] is what an implementation does; [`Store`] is one as guests have it, with production's limits and with
//! metrics. Every implementation passes the one suite in `contract`.

pub mod embedded;
pub mod files;
pub mod memory;
pub mod redis;
pub mod seeds;

#[cfg(test)]
pub mod contract;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Histogram;
use sha2::{Digest, Sha256};

use crate::config::state::Reseed;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::{Telemetry, clock};

/// Most bytes of a value: production's limit.
pub const MAX_VALUE: usize = 25_000_000;

/// Most bytes of metadata: production's limit.
pub const MAX_METADATA: usize = 2000;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Keys of one page, if nothing is said.
pub const PAGE: u32 = 100;

/// Most keys of one page.
pub const MAX_PAGE: u32 = 1000;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// What the writer put beside it; empty: nothing.
    pub metadata: Bytes,
    /// Changes with every write, and never comes again.
    pub generation: u64,
}

/// What becomes of a value that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is replaced.
    #[default]
    Overwrite,
    /// It stays, and the write fails.
    Add,
    /// The new value goes behind it.
    Append,
    /// The new value goes in front of it.
    Prepend,
}

/// How a value is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Insert {
    /// What becomes of a value that is there already.
    pub mode: Mode,
    /// The generation that must be there for the write to happen.
    pub if_generation: Option<u64>,
    /// At most [`MAX_METADATA`] bytes.
    pub metadata: Bytes,
    /// After this time it is gone.
    pub ttl: Option<Duration>,
    /// Least time since the last write of the same key.
    pub interval: Duration,
}

/// Which keys to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What they begin with.
    pub prefix: String,
    /// The key behind which the list begins.
    pub after: Option<String>,
    /// How many at most, not 0.
    pub limit: u32,
}

/// Keys in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The keys.
    pub keys: Vec<String>,
    /// Whether there are more.
    pub more: bool,
}

/// A value that is there before the service has written any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Its key, checked.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Its metadata.
    pub metadata: Bytes,
}

impl Seed {
    /// Tells apart what has been put in before.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update((self.metadata.len() as u64).to_le_bytes());
        digest.update(&self.metadata);
        digest.update(&self.value);
        digest.finalize().into()
    }
}

/// Why an operation did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be asked for.
    #[error("{0}")]
    BadRequest(&'static str),
    /// Another generation is there, or none, or one where none should be.
    #[error("what is stored is not what the write wants to be there")]
    Precondition,
    /// Over [`MAX_VALUE`].
    #[error("a value has at most {MAX_VALUE} bytes")]
    TooLarge,
    /// Too soon after the last write of the key.
    #[error("the key was written a moment ago")]
    TooMany,
    /// It cannot be had now. A write may have happened or not.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
}

impl Error {
    /// As metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::Precondition => "precondition_failed",
            Self::TooLarge => "payload_too_large",
            Self::TooMany => "too_many_requests",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Named storage. Keys are text of 1 to 1024 bytes. What is acknowledged is durable, as far as the implementation is.
/// Operations need no caller that waits: a write that has begun is finished.
#[async_trait]
pub trait KvStore: Send + Sync + 'static {
    /// `None`: there is none. An error: it is not known.
    async fn lookup(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Writes, and gives the new generation.
    async fn insert(&self, key: &str, value: Bytes, how: &Insert) -> Result<u64, Error>;

    /// Whether there was one.
    async fn delete(&self, key: &str) -> Result<bool, Error>;

    /// A page of keys.
    async fn list(&self, page: &Page) -> Result<Listing, Error>;

    /// Puts seeds in, as [`Reseed`] says, and takes out those that were put in earlier, are no more among them, and have
    /// not been written by anybody else. Gives how many values changed.
    async fn seed(&self, seeds: &[Seed], when: Reseed) -> Result<usize, Error>;
}

/// What a seed does to what is there, by the rules of [`Reseed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seeding {
    /// It is put in.
    Write,
    /// It is noted, and nothing changes.
    Note,
    /// Nothing changes.
    Keep,
}

impl Seeding {
    /// `last`: what was put in under the key before; `now`: the mark of what is there, `None` inside for the service's own.
    fn decide(digest: [u8; 32], last: Option<[u8; 32]>, now: Option<Option<[u8; 32]>>, when: Reseed) -> Self {
        match (when, last, now) {
            (_, Some(last), Some(Some(now))) if last == digest && now == digest => Self::Keep,
            (Reseed::Always, _, _) => Self::Write,
            (Reseed::Changed, Some(last), _) if last == digest => Self::Keep,
            // The service's own value, or one that it has deleted.
            (Reseed::Changed, _, Some(None)) | (Reseed::Changed, Some(_), None) => Self::Note,
            (Reseed::Changed, _, Some(Some(_))) | (Reseed::Changed, None, None) => Self::Write,
        }
    }
}

/// A KV store of a service.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn KvStore>,
    probe: Arc<Probe>,
    seeds: Arc<[Seed]>,
    reseed: Reseed,
}

struct Probe {
    service: String,
    store: String,
    told: Throttle,
    kind: &'static str,
    telemetry: Telemetry,
    times: [Histogram; OPERATIONS.len()],
}

/// How often the log says that a store cannot be used.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// As metrics have them.
const OPERATIONS: [&str; 4] = ["lookup", "insert", "delete", "list"];

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("kind", &self.probe.kind).finish_non_exhaustive()
    }
}

impl Store {
    /// One of a service and of that name, which counts into `telemetry` as `kind`.
    pub fn new(
        (service, store): (&str, &str),
        inner: Arc<dyn KvStore>,
        kind: &'static str,
        seeds: Vec<Seed>,
        reseed: Reseed,
        telemetry: &Telemetry,
    ) -> Self {
        let times = OPERATIONS.map(|operation| telemetry.metrics.store_time.with_label_values(&["kv", kind, operation]));
        let (service, store) = (service.to_owned(), store.to_owned());
        let probe = Probe { service, store, told: Throttle::default(), kind, telemetry: telemetry.clone(), times };
        Self { inner, probe: Arc::new(probe), seeds: seeds.into(), reseed }
    }

    async fn timed<T>(&self, operation: usize, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let begun = clock::now();
        let result = work.await;
        self.probe.times[operation].observe(clock::now().duration_since(begun).as_secs_f64());
        if let Err(error) = &result {
            let labels = ["kv", self.probe.kind, OPERATIONS[operation], error.name()];
            self.probe.telemetry.metrics.store_errors.with_label_values(&labels).inc();
            if let Error::Unavailable(_) = error
                && self.probe.told.is_due(TELL_AGAIN)
            {
                let Probe { service, store, kind, .. } = &*self.probe;
                tracing::warn!(target: "sidelight::state", service, store, kind, operation = OPERATIONS[operation], "{error}");
            }
        }
        result
    }

    /// As [`KvStore::lookup`].
    pub async fn lookup(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.timed(0, self.inner.lookup(key)).await
    }

    /// As [`KvStore::insert`].
    pub async fn insert(&self, key: &str, value: Bytes, how: &Insert) -> Result<u64, Error> {
        if value.len() > MAX_VALUE {
            return self.timed(1, std::future::ready(Err(Error::TooLarge))).await;
        }
        self.timed(1, self.inner.insert(key, value, how)).await
    }

    /// As [`KvStore::delete`].
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        self.timed(2, self.inner.delete(key)).await
    }

    /// As [`KvStore::list`].
    pub async fn list(&self, page: &Page) -> Result<Listing, Error> {
        self.timed(3, self.inner.list(page)).await
    }

    /// Puts those of its seeds in that are not there and never were.
    pub async fn seed_missing(&self) -> Result<usize, Error> {
        self.inner.seed(&self.seeds, Reseed::Changed).await
    }

    /// Puts its seeds in.
    pub async fn seed(&self) -> Result<usize, Error> {
        self.inner.seed(&self.seeds, self.reseed).await
    }
}

/// A value behind or in front of another, if that is not too long.
fn joined(first: &[u8], second: &[u8]) -> Result<Bytes, Error> {
    if first.len() + second.len() > MAX_VALUE {
        return Err(Error::TooLarge);
    }
    Ok([first, second].concat().into())
}
