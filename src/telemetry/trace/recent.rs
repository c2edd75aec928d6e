//! The latest requests, for the inspector. Nothing is kept unless somebody looks: each look keeps recording on for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Finished, Trace};
use crate::telemetry::clock::{self, Ticks};

/// How long a look keeps recording on.
const LOOK: Duration = Duration::from_secs(15);

/// Requests that are kept.
pub const CAPACITY: usize = 500;

/// Bytes that they may take, about.
const MAX_BYTES: usize = 32 << 20;

/// Requests in flight that are remembered before those that are over are sorted out.
const SWEEP: usize = 1024;

/// The latest requests.
#[derive(Default)]
pub struct Recent {
    /// Until when somebody looks, in ticks.
    until: AtomicU64,
    ring: Mutex<Ring>,
    live: Mutex<Vec<Weak<Trace>>>,
}

#[derive(Default)]
struct Ring {
    /// The number of the newest.
    newest: u64,
    bytes: usize,
    kept: VecDeque<(u64, Arc<Finished>)>,
}

/// What there is to see.
pub struct Seen {
    /// The number of the newest.
    pub newest: u64,
    /// Requests that were not kept though they came later than what was asked for.
    pub missed: u64,
    /// Those asked for, the oldest first, with their numbers.
    pub requests: Vec<(u64, Arc<Finished>)>,
    /// Those in flight.
    pub live: Vec<Arc<Trace>>,
}

impl Recent {
    /// Whether somebody looks.
    pub fn is_watched(&self, now: Ticks) -> bool {
        now.0 < self.until.load(Ordering::Relaxed)
    }

    /// Records from now on, whether or not somebody looks.
    pub fn watch_always(&self) {
        self.until.store(u64::MAX, Ordering::Relaxed);
    }

    /// Notes a request in flight.
    pub fn begin(&self, trace: &Arc<Trace>) {
        let mut live = self.live.lock();
        if live.len() >= SWEEP {
            live.retain(|trace| trace.strong_count() > 0);
        }
        live.push(Arc::downgrade(trace));
    }

    /// Keeps a request that is over.
    pub fn keep(&self, trace: Arc<Finished>) {
        let mut ring = self.ring.lock();
        ring.newest += 1;
        ring.bytes += trace.bytes();
        let number = ring.newest;
        ring.kept.push_back((number, trace));
        while ring.kept.len() > CAPACITY || ring.bytes > MAX_BYTES {
            let Some((_, oldest)) = ring.kept.pop_front() else { return };
            ring.bytes -= oldest.bytes();
        }
    }

    /// The requests behind a number.
    pub fn look(&self, after: u64) -> Seen {
        let until = clock::ticks().0 + (clock::ticks_per_second() * LOOK.as_secs_f64()) as u64;
        self.until.fetch_max(until, Ordering::Relaxed);
        let live: Vec<Arc<Trace>> = {
            let mut live = self.live.lock();
            live.retain(|trace| trace.strong_count() > 0);
            live.iter().filter_map(Weak::upgrade).collect()
        };
        let ring = self.ring.lock();
        // Of one that began anew there is nothing yet.
        let after = if after > ring.newest { 0 } else { after };
        let oldest = ring.kept.front().map_or(ring.newest + 1, |(number, _)| *number);
        let requests = ring.kept.iter().filter(|(number, _)| *number > after).cloned().collect();
        let missed = if after == 0 { 0 } else { oldest.saturating_sub(after + 1) };
        Seen { newest: ring.newest, missed, requests, live }
    }

    /// A request by its id.
    pub fn find(&self, id: &str) -> Option<(u64, Arc<Finished>)> {
        self.ring.lock().kept.iter().rev().find(|(_, trace)| &*trace.recording.asked.id == id).cloned()
    }
}
