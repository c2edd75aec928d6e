//! Connections to backends of all services: there are file descriptors for so many and no more.
//!
//! A service that is asked for much has most of them. The last quarter is for those that have few, so that none waits for what another
//! has taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::services::descriptors;

/// Few: of all connections, one in so many.
const FEW: usize = 16;

/// All of the process.
#[derive(Debug, Default)]
pub struct Slots {
    used: AtomicUsize,
    freed: Notify,
    /// By the services' names, as long as anybody has a connection: one that is removed and comes back has those that are still there.
    services: Mutex<HashMap<String, Weak<Share>>>,
}

/// One service's.
#[derive(Debug)]
pub struct Share {
    slots: Arc<Slots>,
    used: AtomicUsize,
}

/// One connection's; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    share: Arc<Share>,
    /// Nobody was kept from it.
    unused: bool,
}

impl Slots {
    /// The share of the service of that name.
    pub fn of(self: &Arc<Self>, service: &str) -> Arc<Share> {
        let mut services = self.services.lock();
        if let Some(share) = services.get(service).and_then(Weak::upgrade) {
            return share;
        }
        services.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share { slots: self.clone(), used: AtomicUsize::new(0) });
        services.insert(service.to_owned(), Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Room for one more connection, if there is any.
    pub fn enter(self: &Arc<Self>) -> Option<Slot> {
        let most = descriptors::most_connections();
        let (all, own) = (&self.slots.used, &self.used);
        let (before, mine) = (all.fetch_add(1, Ordering::AcqRel), own.fetch_add(1, Ordering::AcqRel));
        if may_have(most, before, mine) {
            return Some(Slot { share: self.clone(), unused: false });
        }
        own.fetch_sub(1, Ordering::AcqRel);
        all.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        let (all, mine) = (self.slots.used.load(Ordering::Acquire), self.used.load(Ordering::Acquire));
        !may_have(descriptors::most_connections(), all, mine)
    }

    /// Waits until a connection has gone, of any service.
    pub async fn freed(&self) {
        self.slots.freed.notified().await;
    }
}

/// Whether a service that has `mine` of `all` connections may have one more, where there are `most`.
fn may_have(most: usize, all: usize, mine: usize) -> bool {
    all < most - most / 4 || (all < most && mine < (most / FEW).max(1))
}

impl Slot {
    /// Gives it back without a word: whoever waits could not have had it any sooner.
    pub fn unused(mut self) {
        self.unused = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.share.used.fetch_sub(1, Ordering::AcqRel);
        self.share.slots.used.fetch_sub(1, Ordering::AcqRel);
        if !self.unused {
            self.share.slots.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_quarter_is_for_those_that_have_few() {
        assert!(may_have(160, 119, 119) && !may_have(160, 120, 120));
        assert!(may_have(160, 120, 9) && !may_have(160, 120, 10));
        assert!(may_have(160, 159, 0) && !may_have(160, 160, 0));
        assert!(may_have(8, 6, 0) && !may_have(8, 6, 1));
    }

    #[tokio::test]
    async fn slots_are_given_back_and_known_by_name() {
        let slots = Arc::new(Slots::default());
        let one = slots.of("a").enter().expect("room");
        assert_eq!(slots.of("a").used.load(Ordering::Relaxed), 1);
        assert_eq!(slots.of("b").used.load(Ordering::Relaxed), 0);
        drop(one);
        slots.of("a").freed().await;
        assert_eq!((slots.used.load(Ordering::Relaxed), slots.of("a").used.load(Ordering::Relaxed)), (0, 0));
    }
}
