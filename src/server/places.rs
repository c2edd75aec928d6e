//! Connections that are there, and which of them go when there are too many: those that nothing is done for, the longest first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::telemetry::clock::{self, Ticks};

/// Set in a place whose connection ends.
const GONE: u32 = 1 << 31;

/// What a connection is at.
#[derive(Debug)]
pub struct Place {
    /// How many of its requests are under way, or [`GONE`].
    requests: AtomicU32,
    /// Since when there has been none, in ticks.
    since: AtomicU64,
}

impl Default for Place {
    fn default() -> Self {
        Self { requests: AtomicU32::new(0), since: AtomicU64::new(clock::ticks().0) }
    }
}

impl Place {
    /// One more request is under way, until [`Place::end`]; false: the connection is of no more use.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.requests.fetch_add(1, Ordering::AcqRel) & GONE == 0
    }

    /// One of them is not any more.
    pub fn end(&self) {
        self.since.store(clock::ticks().0, Ordering::Relaxed);
        self.requests.fetch_sub(1, Ordering::AcqRel);
    }

    /// Ends it, unless there is a request under way.
    fn give_up(&self) -> bool {
        self.requests.compare_exchange(0, GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// The connections of some listeners, in the order in which they came.
#[derive(Debug, Default)]
pub struct Places(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    all: BTreeMap<u64, (Arc<Place>, AbortHandle)>,
}

/// Keeps a connection among the others.
pub struct Kept {
    places: Arc<Places>,
    number: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Behind the lock: there are handles of tasks in it.
        let gone = self.places.0.lock().all.remove(&self.number);
        drop(gone);
    }
}

impl Places {
    /// Adds a connection. `spawn` begins to serve it, and must keep what it is given as long as it does.
    pub fn add(self: &Arc<Self>, spawn: impl FnOnce(Arc<Place>, Kept) -> AbortHandle) {
        let place = Arc::new(Place::default());
        // All the time: one that ends at once must find itself.
        let mut held = self.0.lock();
        let number = held.next;
        held.next += 1;
        let handle = spawn(place.clone(), Kept { places: self.clone(), number });
        held.all.insert(number, (place, handle));
    }

    /// Ends the one that came first, whatever it is at, if there are `most` or more.
    pub fn end_oldest(&self, most: usize) -> bool {
        let mut held = self.0.lock();
        // It has no part in what comes later.
        let oldest = if held.all.len() < most { None } else { held.all.pop_first() };
        oldest.map(|(_, (_, handle))| handle.abort()).is_some()
    }

    /// Ends up to `most` that nothing has been done for at least `quiet`, those first that have waited longest; how many.
    pub fn end_waiting(&self, most: usize, quiet: Duration) -> usize {
        let now = clock::ticks();
        let held = self.0.lock();
        let waiting = held.all.values().filter(|(place, _)| place.requests.load(Ordering::Relaxed) == 0);
        let waiting = waiting.map(|(place, handle)| (Ticks(place.since.load(Ordering::Relaxed)), place, handle));
        let mut waiting: Vec<_> = waiting.filter(|(since, ..)| clock::between(*since, now) >= quiet).collect();
        waiting.sort_unstable_by_key(|(since, ..)| *since);
        let ended = waiting.into_iter().filter(|(_, place, _)| place.give_up()).take(most);
        ended.map(|(.., handle)| handle.abort()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(places: &Arc<Places>) -> Arc<Place> {
        let mut added = None;
        places.add(|place, kept| {
            added = Some(place);
            tokio::spawn(async move {
                let _kept = kept;
                std::future::pending::<()>().await;
            })
            .abort_handle()
        });
        added.expect("a place")
    }

    async fn left(places: &Places, count: usize) {
        while places.0.lock().all.len() != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_that_have_waited_longest_end() {
        let places = Arc::new(Places::default());
        let all: Vec<_> = (0..5).map(|_| add(&places)).collect();
        // The first is at work, the second was until now.
        assert!(all[0].begin() && all[1].begin());
        all[1].end();
        assert_eq!(places.end_waiting(2, Duration::ZERO), 2);
        left(&places, 3).await;
        assert!(!all[2].begin() && !all[3].begin());
        assert_eq!(places.end_waiting(10, Duration::from_secs(3600)), 0);
        assert_eq!(places.end_waiting(10, Duration::ZERO), 2);
        left(&places, 1).await;
        assert_eq!(places.end_waiting(10, Duration::ZERO), 0);
        all[0].end();
        assert_eq!(places.end_waiting(10, Duration::ZERO), 1);
        left(&places, 0).await;
    }

    #[tokio::test]
    async fn the_oldest_ends() {
        let places = Arc::new(Places::default());
        let _all: Vec<_> = (0..3).map(|_| add(&places)).collect();
        assert!(!places.end_oldest(4) && places.end_oldest(3));
        left(&places, 2).await;
        assert_eq!(places.0.lock().all.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test]
    async fn one_that_is_over_at_once_is_not_kept() {
        let places = Arc::new(Places::default());
        places.add(|_, kept| tokio::spawn(async move { drop(kept) }).abort_handle());
        left(&places, 0).await;
    }
}
