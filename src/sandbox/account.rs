//! Memory of the host that a guest fills: bodies that it builds, fields, secrets, what it gets from stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::limits::Meter;
use crate::services::memory::{HostMemory, ServiceMemory};

/// Bytes that all of it may come to.
const MAX_HELD: usize = 128 << 20;

/// What a piece costs beside its bytes.
const PIECE_COST: usize = 128;

/// The process is asked, and the service's share noted, in steps of this many bytes.
const STEP: usize = 1 << 20;

/// How much one sandbox has. What it charges for may outlive it: a body that is still being sent is counted until it is sent.
#[derive(Debug)]
pub struct Account {
    host: Arc<HostMemory>,
    service: Arc<ServiceMemory>,
    meter: Arc<Meter>,
    held: AtomicUsize,
}

/// It is too much, for this sandbox or for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuchHeld {
    /// The sandbox has all it may have.
    #[error("bodies, fields and values of this sandbox hold more than {} MiB", MAX_HELD >> 20)]
    Limit,
    /// The process is short of memory.
    #[error("the process is short of memory (--total-memory)")]
    Short,
}

/// So many bytes of an account; given back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

/// Bytes with their charge.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Account {
    /// Of a sandbox whose guest has just begun.
    pub fn new(host: Arc<HostMemory>, service: Arc<ServiceMemory>, meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self { host, service, meter, held: AtomicUsize::new(0) })
    }

    /// What measures its guest.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Charges for a thing of that many bytes.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, TooMuchHeld> {
        let bytes = bytes + PIECE_COST;
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let after = before + bytes;
        self.note(before, after);
        let charge = Charge { account: self.clone(), bytes };
        // A refusal gives it back.
        if after > MAX_HELD {
            self.meter.refuse_memory(false);
            return Err(TooMuchHeld::Limit);
        }
        let step = |bytes: usize| bytes / STEP * STEP;
        if step(after) > step(before) && !self.host.grants(&self.service, step(before), step(after)) {
            self.meter.refuse_memory(true);
            return Err(TooMuchHeld::Short);
        }
        Ok(charge)
    }

    /// Whether the process is so short of memory that a guest of this service could not begin now.
    pub fn is_short(&self) -> bool {
        !self.host.admits(&self.service)
    }

    /// Charges for bytes as long as anybody has them.
    pub fn keep(self: &Arc<Self>, bytes: Bytes) -> Result<Bytes, TooMuchHeld> {
        self.keep_with(bytes, 0)
    }

    /// As [`keep`](Self::keep), and for `more` bytes that come and go with them.
    pub fn keep_with(self: &Arc<Self>, bytes: Bytes, more: usize) -> Result<Bytes, TooMuchHeld> {
        if bytes.is_empty() && more == 0 {
            return Ok(bytes);
        }
        let charge = self.charge(bytes.len() + more)?;
        Ok(Bytes::from_owner(Charged { bytes, _charge: charge }))
    }

    /// Tells the service what is its share, in whole steps.
    fn note(&self, before: usize, after: usize) {
        let (before, after) = (before / STEP, after / STEP);
        if before != after {
            self.service.moved(before * STEP, after * STEP);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.note(before, before - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(most: u64) -> (Arc<Account>, Arc<ServiceMemory>) {
        let service = Arc::new(ServiceMemory::default());
        (Account::new(Arc::new(HostMemory::new(Some(most))), service.clone(), Arc::default()), service)
    }

    #[test]
    fn what_is_kept_counts_until_nobody_has_it() {
        let (account, service) = account(u64::MAX);
        let kept = account.keep(Bytes::from(vec![1; 3 << 20])).expect("room");
        assert_eq!(account.held(), (3 << 20) + PIECE_COST);
        assert_eq!(service.bytes(), 3 << 20);
        let part = kept.slice(5..6);
        drop(kept);
        assert_eq!(account.held(), (3 << 20) + PIECE_COST);
        assert_eq!(part, [1_u8][..]);
        drop(part);
        assert_eq!((account.held(), service.bytes()), (0, 0));
    }

    #[test]
    fn what_is_refused_does_not_count() {
        let (account, service) = account(u64::MAX);
        let first = account.charge(MAX_HELD - 1000).expect("room");
        assert_eq!(account.charge(1000).err(), Some(TooMuchHeld::Limit));
        assert!(account.charge(100).is_ok());
        assert_eq!(account.meter().take_refusals(), (1, 0));
        drop(first);
        assert_eq!((account.held(), service.bytes()), (0, 0));
        account.charge(1000).expect("room again");
    }

    #[test]
    fn a_process_that_is_short_of_memory_refuses_steps() {
        // It has more than this already.
        let (account, service) = account(1 << 20);
        let small = account.charge(1000).expect("less than a step");
        assert_eq!(account.charge(STEP).err(), Some(TooMuchHeld::Short));
        assert_eq!(account.meter().take_refusals(), (0, 1));
        drop(small);
        assert_eq!((account.held(), service.bytes()), (0, 0));
    }
}
