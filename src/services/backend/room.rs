//! How many connections a backend may have at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::slots::Slot;

/// A bound on connections.
#[derive(Debug)]
pub struct Room {
    most: usize,
    used: AtomicUsize,
    /// Something has become free: a place, or a connection.
    freed: Notify,
}

/// One connection's place among those of all services, and among those of its backend where they are bounded.
#[derive(Debug)]
pub struct Place {
    _slot: Slot,
    _bounded: Option<Bounded>,
}

impl Place {
    /// Of these.
    pub fn new(slot: Slot, bounded: Option<Bounded>) -> Self {
        Self { _slot: slot, _bounded: bounded }
    }
}

/// One connection's part of a [`Room`]; free again when it is dropped.
#[derive(Debug)]
pub struct Bounded(Arc<Room>);

impl Drop for Bounded {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl Room {
    /// Room for `most` connections.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// A place, if there is one.
    pub fn enter(self: &Arc<Self>) -> Option<Bounded> {
        let more = |used| (used < self.most).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Bounded(self.clone()))
    }

    /// Whether there is no place.
    pub fn is_full(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.most
    }

    /// A connection with a place is free for somebody else.
    pub fn tell(&self) {
        self.freed.notify_one();
    }

    /// Waits until something may have become free.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_given_back() {
        let room = Room::new(2);
        let (one, two) = (room.enter(), room.enter());
        assert!(one.is_some() && two.is_some() && room.is_full() && room.enter().is_none());
        drop(one);
        room.freed().await;
        assert!(room.enter().is_some());
    }
}
