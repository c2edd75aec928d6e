//! How short of memory the whole process is, and who may still have some.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::process;

/// A guest no larger than this, in bytes, may grow as long as there is anything: who takes much is kept back first.
const SMALL: usize = 32 << 20;

/// Memory of the process and what it may have, in bytes. It is used memory that counts, not what guests have asked for and not
/// touched: readings of it, some 50 a second, and what has been granted since the last one.
///
/// A container that takes more than it may is killed with all that is in it. So from 85 % on guests above 32 MiB get no more, nor do those of
/// a service that has a tenth of it, and none of its guests begins: what is left is for the others. From 95 % on no guest gets more, nor does
/// one begin.
#[derive(Debug)]
pub struct HostMemory {
    most: u64,
    used: AtomicU64,
    granted: AtomicU64,
}

/// What a service has in bytes: linear memory of its guests (those with little are not counted), and what they have put into the host's.
#[derive(Debug, Default)]
pub struct ServiceMemory(AtomicU64);

/// A guest with less than this is not worth a count that all of its service would write to.
const COUNTED: usize = 4 << 20;

impl ServiceMemory {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Something of it had `before` bytes and has `after` now.
    pub fn moved(&self, before: usize, after: usize) {
        // What shrinks wraps around, as the sum does.
        self.0.fetch_add((after as u64).wrapping_sub(before as u64), Ordering::Relaxed);
    }
}

/// The linear memory of one guest.
#[derive(Debug)]
pub struct Part {
    of: Arc<ServiceMemory>,
    bytes: usize,
}

impl Part {
    /// Of a guest that begins.
    pub fn new(of: Arc<ServiceMemory>) -> Self {
        Self { of, bytes: 0 }
    }

    /// Whose it is.
    pub fn service(&self) -> &ServiceMemory {
        &self.of
    }

    /// The guest has so much now.
    pub fn set(&mut self, bytes: usize) {
        if bytes >= COUNTED {
            let bytes = self.bytes.max(bytes);
            self.of.moved(self.bytes, bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.of.moved(self.bytes, 0);
        }
    }
}

/// How short it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// There is enough.
    None,
    /// Large guests get no more.
    Large,
    /// Nobody gets any more.
    All,
}

/// What processes have that compile for this one, in bytes.
static COMPILERS: AtomicU64 = AtomicU64::new(0);

/// What they had when that was told last.
pub fn of_compilers() -> u64 {
    COMPILERS.load(Ordering::Relaxed)
}

/// Takes note of what they have.
pub fn compilers_have(bytes: u64) {
    COMPILERS.store(bytes, Ordering::Relaxed);
}

impl HostMemory {
    /// `most`: bytes the process may have; by default what its control group or the machine has.
    pub fn new(most: Option<u64>) -> Self {
        let most = most.or_else(process::memory_limit).unwrap_or(u64::MAX);
        Self { most, used: AtomicU64::new(process::memory_used().unwrap_or(0)), granted: AtomicU64::new(0) }
    }

    /// Of a process that nobody bounds.
    pub fn unbounded() -> Arc<Self> {
        Arc::new(Self::new(Some(u64::MAX)))
    }

    /// Bytes the process may have.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Bytes it had at the last reading, with what processes have that compile for it.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Looks how much is used now.
    pub fn read(&self) {
        if let Some(used) = process::memory_used() {
            self.used.store(used + COMPILERS.load(Ordering::Relaxed), Ordering::Relaxed);
            self.granted.store(0, Ordering::Relaxed);
        }
    }

    /// How short it was at the last reading.
    pub fn shortage(&self) -> Shortage {
        self.with(self.used())
    }

    /// Whether a guest of a service may begin.
    pub fn admits(&self, service: &ServiceMemory) -> bool {
        match self.shortage() {
            Shortage::None => true,
            Shortage::Large => !self.is_large(service),
            Shortage::All => false,
        }
    }

    fn is_large(&self, service: &ServiceMemory) -> bool {
        service.bytes() > self.most / 10
    }

    fn with(&self, used: u64) -> Shortage {
        let at = |percent| self.most / 100 * percent;
        match used {
            used if used >= at(95) => Shortage::All,
            used if used >= at(85) => Shortage::Large,
            _ => Shortage::None,
        }
    }

    /// Whether something may be kept for longer, that no guest holds. From 85 % on it may not.
    pub fn keeps(&self, bytes: usize) -> bool {
        let used = self.used().saturating_add(self.granted.load(Ordering::Relaxed)).saturating_add(bytes as u64);
        let kept = self.with(used) == Shortage::None;
        if kept {
            self.granted.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        kept
    }

    /// Whether a guest of a service may grow to `desired` bytes. What it has from the start is not asked for here.
    pub fn grants(&self, service: &ServiceMemory, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        let used = self.used().saturating_add(self.granted.load(Ordering::Relaxed)).saturating_add(more);
        let granted = match self.with(used) {
            Shortage::None => true,
            Shortage::Large => desired <= SMALL && !self.is_large(service),
            Shortage::All => false,
        };
        if granted {
            self.granted.fetch_add(more, Ordering::Relaxed);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn at(used: usize) -> HostMemory {
        HostMemory { most: 1000 << 20, used: AtomicU64::new((used * MIB) as u64), granted: AtomicU64::new(0) }
    }

    #[test]
    fn large_ones_are_kept_back_first() {
        assert_eq!(at(849).shortage(), Shortage::None);
        assert_eq!(at(850).shortage(), Shortage::Large);
        assert_eq!(at(950).shortage(), Shortage::All);
        let service = Arc::new(ServiceMemory::default());
        assert!(at(840).grants(&service, 60 * MIB, 65 * MIB));
        assert!(!at(840).grants(&service, 60 * MIB, 71 * MIB));
        assert!(at(840).grants(&service, 20 * MIB, 31 * MIB));
        assert!(!at(940).grants(&service, 20 * MIB, 31 * MIB));
        // Many small ones are a large one.
        let mut parts: Vec<Part> = (0..4).map(|_| Part::new(service.clone())).collect();
        parts.iter_mut().for_each(|part| part.set(30 * MIB));
        assert!(!at(840).grants(&service, 20 * MIB, 31 * MIB) && !at(860).admits(&service));
        assert!(at(840).grants(&service, 20 * MIB, 25 * MIB) && at(840).admits(&service));
        let other = Arc::new(ServiceMemory::default());
        assert!(at(860).grants(&other, 20 * MIB, 31 * MIB) && at(860).admits(&other) && !at(960).admits(&other));
        parts.truncate(3);
        assert!(at(860).admits(&service));
    }

    #[test]
    fn what_is_granted_counts_until_the_next_reading() {
        let (memory, service) = (at(500), ServiceMemory::default());
        let granted = (0..100).filter(|_| memory.grants(&service, 28 * MIB, 128 * MIB)).count();
        assert_eq!(granted, 3);
        memory.read();
        assert!(memory.used() < 500 << 20, "this test's process is small");
        assert!(memory.grants(&service, 28 * MIB, 128 * MIB));
    }

    #[test]
    fn what_the_machine_has_is_known() {
        let memory = HostMemory::new(None);
        assert!(memory.used() > 1 << 20);
        #[cfg(target_os = "linux")]
        assert!(memory.most() > memory.used() && memory.most() < 1 << 50, "{memory:?}");
        assert_eq!(HostMemory::new(Some(7)).most(), 7);
    }
}
