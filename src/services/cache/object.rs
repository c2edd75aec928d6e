//! One cached object: its bytes, how long it is good for, and what was stored beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::content::Content;
use super::key::{Key, SurrogateKeys, Variant, VaryRule};
use super::space::Space;
use crate::http::ResponseHead;

/// What an object costs beside what was stored: tables, counters, links (see `docs/performance.md`).
const OVERHEAD: u64 = 1290;

/// How an object is written. Times count from when the object was made, not from when it is stored.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// How old it may become and be fresh.
    pub max_age: Duration,
    /// How old it is.
    pub initial_age: Duration,
    /// How long after that it may be used while it is revalidated (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// How long after that it may be used if revalidation fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// What tells variants apart.
    pub vary: VaryRule,
    /// What purges find it by.
    pub surrogate_keys: SurrogateKeys,
    /// How many bytes it has, if that is known in front.
    pub length: Option<u64>,
    /// Bytes of the writer's own.
    pub user_metadata: Bytes,
    /// Whether it must not be stored where it outlives the process.
    pub sensitive: bool,
    /// The head of the response that it is.
    pub head: Option<StoredHead>,
}

impl WriteOptions {
    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |head| head.fields.len());
        self.vary.bytes() + self.surrogate_keys.held() as usize + self.user_metadata.len() + head
    }
}

/// The head of a stored response, in little memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    status: StatusCode,
    fields: Bytes,
}

impl StoredHead {
    /// A head as it is to be found again.
    pub fn new(head: &ResponseHead) -> Self {
        let size = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 6).sum();
        let mut fields = BytesMut::with_capacity(size);
        for (name, value) in &head.headers {
            fields.put_u16_le(name.as_str().len() as u16);
            fields.put_u32_le(value.len() as u32);
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.extend_from_slice(value.as_bytes());
        }
        Self { status: head.status, fields: fields.freeze() }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What [`encoded`](Self::encoded) gave.
    pub(super) fn decode(status: u16, fields: Bytes) -> Option<Self> {
        Some(Self { status: StatusCode::from_u16(status).ok()?, fields })
    }

    pub(super) fn encoded(&self) -> (u16, &Bytes) {
        (self.status.as_u16(), &self.fields)
    }

    /// The head.
    pub fn head(&self) -> ResponseHead {
        let mut headers = HeaderMap::with_capacity(16);
        let mut at = 0;
        while let Some((name, value)) = self.field(&mut at) {
            headers.append(name, value);
        }
        ResponseHead { status: self.status, version: Version::HTTP_11, headers, ..ResponseHead::default() }
    }

    fn field(&self, at: &mut usize) -> Option<(HeaderName, HeaderValue)> {
        let name_length = usize::from(u16::from_le_bytes(*self.fields.get(*at..)?.first_chunk()?));
        let value_length = u32::from_le_bytes(*self.fields.get(*at + 2..)?.first_chunk()?) as usize;
        let start = *at + 6;
        let name = HeaderName::from_bytes(self.fields.get(start..start + name_length)?).ok()?;
        let end = start + name_length + value_length;
        self.fields.get(start + name_length..end)?;
        let value = HeaderValue::from_maybe_shared(self.fields.slice(start + name_length..end)).ok()?;
        *at = end;
        Some((name, value))
    }
}

/// How good an object is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As new.
    Fresh,
    /// Good enough while somebody gets a new one.
    WhileRevalidating,
    /// Good enough if a new one cannot be had.
    IfError,
    /// Only to be asked about.
    Stale,
}

/// One cached object. What changes about it is when it stops being fresh, and how often it was used.
pub struct Object {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) variant: Variant,
    pub(super) space: Arc<Space>,
    /// The service's purges of everything before it.
    pub(super) generation: u64,
    /// What it is, for people.
    pub(super) about: Arc<str>,
    /// How it was written.
    pub(super) options: WriteOptions,
    /// The store's time when it was, in nanoseconds.
    pub(super) inserted: u64,
    /// A mark that this is not to be cached, in place of an object.
    pub(super) pass: bool,
    pub(super) content: Arc<Content>,
    /// Age at which it was made stale, if it was.
    purged_at: AtomicU64,
    gone: AtomicBool,
    hits: AtomicU64,
    /// What it counts for on disk, in bytes; 0: it is not there.
    pub(super) on_disk: AtomicU64,
    /// What was there before, until this one is whole.
    pub(super) previous: Mutex<Option<Arc<Object>>>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("id", &self.id).field("about", &self.about).field("pass", &self.pass).finish_non_exhaustive()
    }
}

/// Where an object belongs.
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) variant: Variant,
    pub(super) space: Arc<Space>,
    pub(super) generation: u64,
    pub(super) about: Arc<str>,
}

impl Object {
    pub(super) fn new(id: u64, place: Place, options: WriteOptions, inserted: u64, pass: bool, content: Arc<Content>) -> Self {
        let Place { key, variant, space, generation, about } = place;
        Self {
            id,
            key,
            variant,
            generation,
            space,
            about,
            options,
            inserted,
            pass,
            content,
            purged_at: AtomicU64::new(u64::MAX),
            gone: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            on_disk: AtomicU64::new(0),
            previous: Mutex::new(None),
        }
    }

    /// How it was written.
    pub fn options(&self) -> &WriteOptions {
        &self.options
    }

    /// How old it is at a time of the store.
    pub(super) fn age_at(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.inserted)).saturating_add(self.options.initial_age)
    }

    pub(super) fn phase_at(&self, now: u64) -> Phase {
        let age = self.age_at(now);
        let fresh = self.options.max_age.min(Duration::from_nanos(self.purged_at.load(Ordering::Acquire)));
        if age < fresh {
            Phase::Fresh
        } else if age < fresh.saturating_add(self.options.stale_while_revalidate) {
            Phase::WhileRevalidating
        } else if age < fresh.saturating_add(self.options.stale_if_error) {
            Phase::IfError
        } else {
            Phase::Stale
        }
    }

    /// Whether it is not to be found any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.generation != self.space.generation()
    }

    /// Makes it not to be found any more; whether it was.
    pub(super) fn go(&self) -> bool {
        !self.gone.swap(true, Ordering::AcqRel)
    }

    /// Makes it stale (a soft purge); whether it was not.
    pub(super) fn soften(&self, now: u64) -> bool {
        let age = u64::try_from(self.age_at(now).as_nanos()).unwrap_or(u64::MAX - 1);
        self.purged_at.fetch_min(age, Ordering::AcqRel) > age
    }

    pub(super) fn purged_at(&self) -> u64 {
        self.purged_at.load(Ordering::Acquire)
    }

    pub(super) fn set_purged_at(&self, age: u64) {
        self.purged_at.store(age, Ordering::Release);
    }

    /// One more use; how many that makes.
    pub(super) fn hit(&self) -> u64 {
        self.hits.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Memory, in bytes: what was stored, and what it costs to have it.
    pub(super) fn weight(&self) -> u64 {
        self.content.get().map_or(0, |whole| whole.held()) + self.meta_weight()
    }

    /// The same without its bytes.
    pub(super) fn meta_weight(&self) -> u64 {
        OVERHEAD + (self.about.len() + self.options.bytes()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_as_it_was() {
        let mut head = ResponseHead { status: StatusCode::GONE, ..ResponseHead::default() };
        for (name, value) in [("a", "1"), ("b", ""), ("a", "2")] {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        head.headers.append("c", HeaderValue::from_bytes(b"\xff").expect("a value"));
        let stored = StoredHead::new(&head);
        let again = stored.head();
        assert_eq!((again.status, again.headers), (head.status, head.headers));
        let (status, fields) = stored.encoded();
        assert_eq!(StoredHead::decode(status, fields.clone()), Some(stored.clone()));
        let broken = StoredHead::decode(200, fields.slice(..fields.len() - 1)).expect("a status");
        assert_eq!(broken.head().headers.len(), 3);
    }
}
