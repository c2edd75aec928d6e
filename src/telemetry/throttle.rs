//! What may happen all the time and is worth saying now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clock;

/// When something was last said.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    /// Whether it is to be said now: it was not within `time`.
    pub fn is_due(&self, time: Duration) -> bool {
        let now = clock::now();
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| now.duration_since(last) >= time);
        if due {
            *last = Some(now);
        }
        due
    }
}
