//! A KV store in this process: gone when it ends.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use super::{Entry, Error, Insert, KvStore, Listing, Mode, Page, Seed, Seeding, joined};
use crate::config::state::Reseed;
use crate::services::memory::HostMemory;
use crate::telemetry::clock;

/// Bytes that one store may hold: the memory is the host's.
const MAX_BYTES: usize = 512 << 20;

/// What an entry costs beside its bytes.
const EACH: usize = 128;

/// Writes between two looks at what has expired.
const SWEEP: u32 = 1024;

/// A store in memory.
pub struct Memory {
    inner: RwLock<Inner>,
    host: Arc<HostMemory>,
}

impl Memory {
    /// An empty one, in a process that has so much memory.
    pub fn new(host: Arc<HostMemory>) -> Self {
        Self { inner: RwLock::default(), host }
    }
}

#[derive(Default)]
struct Inner {
    records: BTreeMap<Box<str>, Record>,
    /// What was last put in as a seed.
    seeds: HashMap<Box<str>, [u8; 32]>,
    bytes: usize,
    generation: u64,
    writes: u32,
}

struct Record {
    entry: Entry,
    /// Since the epoch.
    expires: Option<Duration>,
    /// Since the epoch.
    written: Duration,
    /// The seed that it is, when nobody has written it since.
    seed: Option<[u8; 32]>,
}

impl Record {
    fn is_live(&self, now: Duration) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    fn size(&self, key: &str) -> usize {
        key.len() + self.entry.value.len() + self.entry.metadata.len() + EACH
    }
}

impl Inner {
    fn live(&self, key: &str, now: Duration) -> Option<&Record> {
        self.records.get(key).filter(|record| record.is_live(now))
    }

    fn remove(&mut self, key: &str) -> Option<Record> {
        let record = self.records.remove(key)?;
        self.bytes -= record.size(key);
        Some(record)
    }

    /// A seed is put in however short of memory `host` is.
    fn put(
        &mut self,
        host: Option<&HostMemory>,
        key: &str,
        value: Bytes,
        metadata: Bytes,
        expires: Option<Duration>,
        seed: Option<[u8; 32]>,
    ) -> Result<u64, Error> {
        let now = clock::unix();
        self.writes += 1;
        if self.writes >= SWEEP {
            self.writes = 0;
            self.sweep(now);
        }
        let record = Record { entry: Entry { value, metadata, generation: self.generation + 1 }, expires, written: now, seed };
        let before = self.records.get(key).map_or(0, |record| record.size(key));
        let bytes = self.bytes - before + record.size(key);
        if bytes > MAX_BYTES && bytes > self.bytes {
            return Err(Error::Unavailable(format!("it holds {} MiB, which is all it may", MAX_BYTES >> 20)));
        }
        if bytes > self.bytes && host.is_some_and(|host| !host.keeps(bytes - self.bytes)) {
            return Err(Error::Unavailable("the process is short of memory (--total-memory)".to_owned()));
        }
        self.generation += 1;
        self.bytes = bytes;
        self.records.insert(key.into(), record);
        Ok(self.generation)
    }

    fn sweep(&mut self, now: Duration) {
        let mut freed = 0;
        self.records.retain(|key, record| {
            let live = record.is_live(now);
            if !live {
                freed += record.size(key);
            }
            live
        });
        self.bytes -= freed;
    }
}

#[async_trait]
impl KvStore for Memory {
    async fn lookup(&self, key: &str) -> Result<Option<Entry>, Error> {
        let inner = self.inner.read();
        let Some(record) = inner.records.get(key) else { return Ok(None) };
        // Most have no end: no clock for those.
        let live = record.expires.is_none() || record.is_live(clock::unix());
        Ok(live.then(|| record.entry.clone()))
    }

    async fn insert(&self, key: &str, value: Bytes, how: &Insert) -> Result<u64, Error> {
        let now = clock::unix();
        let mut inner = self.inner.write();
        let before = inner.live(key, now);
        if how.if_generation.is_some() && how.if_generation != before.map(|record| record.entry.generation) {
            return Err(Error::Precondition);
        }
        if let Some(before) = before
            && now.saturating_sub(before.written) < how.interval
        {
            return Err(Error::TooMany);
        }
        let value = match (how.mode, before) {
            (Mode::Add, Some(_)) => return Err(Error::Precondition),
            (Mode::Append, Some(before)) => joined(&before.entry.value, &value)?,
            (Mode::Prepend, Some(before)) => joined(&value, &before.entry.value)?,
            // A copy: what it is a part of may be larger, and on its sandbox's account.
            (Mode::Overwrite, _) | (Mode::Add | Mode::Append | Mode::Prepend, None) => Bytes::copy_from_slice(&value),
        };
        inner.put(Some(&self.host), key, value, how.metadata.clone(), how.ttl.map(|ttl| now.saturating_add(ttl)), None)
    }

    async fn delete(&self, key: &str) -> Result<bool, Error> {
        let removed = self.inner.write().remove(key);
        Ok(removed.is_some_and(|record| record.is_live(clock::unix())))
    }

    async fn list(&self, page: &Page) -> Result<Listing, Error> {
        let now = clock::unix();
        let inner = self.inner.read();
        let from = match page.after.as_deref() {
            Some(after) if after >= page.prefix.as_str() => Bound::Excluded(after),
            Some(_) | None => Bound::Included(page.prefix.as_str()),
        };
        let within = inner.records.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&page.prefix));
        let mut keys = within.filter(|(_, record)| record.is_live(now)).map(|(key, _)| String::from(&**key));
        let limit = page.limit as usize;
        let found = keys.by_ref().take(limit).collect();
        Ok(Listing { keys: found, more: keys.next().is_some() })
    }

    async fn seed(&self, seeds: &[Seed], when: Reseed) -> Result<usize, Error> {
        let now = clock::unix();
        let mut changed = 0;
        let mut inner = self.inner.write();
        let gone: Vec<Box<str>> = inner.seeds.keys().filter(|key| !seeds.iter().any(|seed| *seed.key == ***key)).cloned().collect();
        for key in gone {
            let last = inner.seeds.remove(&key);
            if inner.live(&key, now).is_some_and(|record| record.seed.is_some() && record.seed == last) {
                inner.remove(&key);
                changed += 1;
            }
        }
        for seed in seeds {
            let digest = seed.digest();
            let last = inner.seeds.get(seed.key.as_str()).copied();
            let seeding = Seeding::decide(digest, last, inner.live(&seed.key, now).map(|record| record.seed), when);
            if seeding == Seeding::Write {
                inner.put(None, &seed.key, seed.value.clone(), seed.metadata.clone(), None, Some(digest))?;
                changed += 1;
            }
            if seeding != Seeding::Keep {
                inner.seeds.insert(seed.key.as_str().into(), digest);
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        super::super::contract::check(async || Arc::new(Memory::new(Arc::new(HostMemory::new(None)))) as Arc<dyn KvStore>).await;
    }

    #[tokio::test]
    async fn it_takes_no_more_when_the_process_is_short_of_memory() {
        // It has more than this already.
        let store = Memory::new(Arc::new(HostMemory::new(Some(1 << 20))));
        let refused = store.insert("a", Bytes::from_static(b"1"), &Insert::default()).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        let seed = Seed { key: "b".to_owned(), value: Bytes::from_static(b"2"), metadata: Bytes::new() };
        assert_eq!(store.seed(&[seed], Reseed::Always).await.expect("a seed is the operator's"), 1);
        store.insert("b", Bytes::from_static(b"1"), &Insert::default()).await.expect("it is no larger");
    }
}
