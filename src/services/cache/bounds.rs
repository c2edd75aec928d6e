//! Which objects stay in memory. The order in which they leave is quick_cache's (S3-FIFO with a memory of what it has let
//! go): a scan of things wanted once does not push out what is wanted often. `docs/decisions/0008-cache.md` has the
//! figures it was chosen by.

use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::object::Object;

/// Typical size of an object, in bytes: for the first size of tables only.
const TYPICAL: u64 = 16 << 10;

pub(super) struct Bounds {
    kept: Cache<u64, (u64, Arc<Object>), Weigh, DefaultHashBuilder, Collect>,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<u64, (u64, Arc<Object>)> for Weigh {
    fn weight(&self, _: &u64, (weight, _): &(u64, Arc<Object>)) -> u64 {
        (*weight).max(1)
    }
}

/// Hands out what had to leave.
#[derive(Clone, Default)]
struct Collect;

impl Lifecycle<u64, (u64, Arc<Object>)> for Collect {
    type RequestState = Vec<Arc<Object>>;

    fn on_evict(&self, left: &mut Vec<Arc<Object>>, _: u64, (_, object): (u64, Arc<Object>)) {
        left.push(object);
    }
}

impl Bounds {
    /// Room for `bytes`.
    pub(super) fn new(bytes: u64, largest: u64) -> Self {
        // Each part has its own share of the room, and the largest object must fit into one.
        let parts = (bytes / largest.max(1) / 4).clamp(1, 16).next_power_of_two() as usize;
        let items = (bytes / TYPICAL).clamp(64, 1 << 20) as usize;
        let mut builder = OptionsBuilder::new();
        builder.shards(parts).estimated_items_capacity(items).weight_capacity(bytes);
        let kept = match builder.build() {
            Ok(options) => Cache::with_options(options, Weigh, DefaultHashBuilder::default(), Collect),
            Err(_) => Cache::with(items, bytes, Weigh, DefaultHashBuilder::default(), Collect),
        };
        Self { kept }
    }

    /// Keeps an object; gives what has to leave, perhaps itself.
    pub(super) fn keep(&self, object: Arc<Object>, weight: u64) -> Vec<Arc<Object>> {
        let mut left = Vec::new();
        self.kept.insert_with_lifecycle(object.id, (weight, object), &mut left);
        left
    }

    /// It has been used.
    pub(super) fn touch(&self, object: &Object) {
        drop(self.kept.get(&object.id));
    }

    /// It has left.
    pub(super) fn remove(&self, object: &Object) {
        drop(self.kept.remove(&object.id));
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.kept.weight()
    }

    /// How many objects.
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }

    /// All of them, in no order.
    pub(super) fn each(&self, mut look: impl FnMut(&Arc<Object>)) {
        for (_, (_, object)) in self.kept.iter() {
            look(&object);
        }
    }
}
