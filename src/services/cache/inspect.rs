//! What is in the cache, for people.

use std::time::Duration;

use serde::Serialize;

use super::content::Kept;
use super::key::Key;
use super::object::{Object, Phase};
use super::store::Store;

/// One object.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The entry's key: 64 hexadecimal digits.
    pub key: String,
    /// The service.
    pub service: String,
    /// A response's address, or a key of the core cache.
    pub about: String,
    /// A response's status; none: it is of the core cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `fresh`, `stale-while-revalidate`, `stale-if-error`, `stale`, or `pass`: a mark that requests like this do without the
    /// cache.
    pub state: &'static str,
    /// Bytes that are there.
    pub size: u64,
    /// Whether that is all of it.
    pub whole: bool,
    /// `memory` or `disk`.
    pub tier: &'static str,
    /// How often it has been used.
    pub hits: u64,
    /// Seconds.
    pub age: f64,
    /// Seconds.
    pub max_age: f64,
    /// Seconds.
    pub stale_while_revalidate: f64,
    /// Seconds.
    pub stale_if_error: f64,
    /// Names of fields that tell variants apart.
    pub vary: String,
    /// What purges find it by.
    pub surrogate_keys: String,
    /// Whether it stays off disks.
    pub sensitive: bool,
}

/// Which objects.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this service.
    pub service: Option<String>,
    /// What its address or key holds.
    pub about: Option<String>,
    /// Of this entry.
    pub key: Option<Key>,
    /// With this surrogate key.
    pub surrogate_key: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// How much there is.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Objects in memory.
    pub objects: usize,
    /// Their bytes, what they cost included.
    pub bytes: u64,
    /// Bytes of objects that are being written.
    pub writing: u64,
    /// Most bytes of memory.
    pub bound: u64,
    /// Most bytes of one object.
    pub largest: u64,
    /// Objects on disk.
    pub disk_objects: usize,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Most bytes of the disk.
    pub disk_bound: u64,
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

impl Store {
    /// Objects that a filter lets through, those of one entry together.
    pub fn views(&self, filter: &Filter) -> Vec<View> {
        let now = self.now();
        let mut found = Vec::new();
        let mut look = |object: &std::sync::Arc<Object>| {
            let other = filter.service.as_ref().is_some_and(|service| service != object.space.name())
                || filter.about.as_ref().is_some_and(|about| !object.about.contains(about.as_str()))
                || filter.surrogate_key.as_ref().is_some_and(|key| !object.options.surrogate_keys.iter().any(|own| **own == **key));
            if !other && found.len() < filter.limit {
                found.push(view(object, now));
            }
        };
        match &filter.key {
            Some(key) => self.entry(key).iter().for_each(&mut look),
            None => self.each(&mut look),
        }
        found
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        let (bytes, writing, objects) = self.used();
        let (disk_objects, disk_bytes, disk_bound) = self.disk.as_ref().map_or((0, 0, 0), |disk| disk.used());
        Totals { objects, bytes, writing, bound: self.limits.memory, largest: self.limits.object, disk_objects, disk_bytes, disk_bound }
    }
}

fn view(object: &Object, now: u64) -> View {
    let options = &object.options;
    let whole = object.content.get();
    View {
        key: object.key.hex(),
        service: object.space.name().to_owned(),
        about: object.about.to_string(),
        status: options.head.as_ref().map(|head| head.status().as_u16()),
        state: match object.phase_at(now) {
            Phase::Fresh if object.pass => "pass",
            Phase::Fresh => "fresh",
            Phase::WhileRevalidating => "stale-while-revalidate",
            Phase::IfError => "stale-if-error",
            Phase::Stale => "stale",
        },
        size: object.content.size(),
        whole: whole.is_some(),
        tier: match whole.as_ref().map(|whole| &whole.bytes) {
            Some(Kept::Disk(_)) => "disk",
            Some(Kept::Memory(_)) | None => "memory",
        },
        hits: object.hits(),
        age: seconds(object.age_at(now)),
        max_age: seconds(options.max_age),
        stale_while_revalidate: seconds(options.stale_while_revalidate),
        stale_if_error: seconds(options.stale_if_error),
        vary: options.vary.to_string(),
        surrogate_keys: options.surrogate_keys.to_string(),
        sensitive: options.sensitive,
    }
}
