//! What a guest uses, measured and bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::services::memory::{HostMemory, Part};
use crate::telemetry::clock;

/// CPU time and memory of one execution. While a stretch runs, it belongs to the thread that runs
/// the guest; between stretches any may read it.
///
/// A stretch is timed with the monotonic clock as long as it is short. What takes longer may have
/// waited for a processor, on a machine with more to do than it can: then the thread's CPU clock
/// says how much of it the guest had.
#[derive(Debug)]
pub struct Meter {
    base: Instant,
    /// Nanoseconds of finished stretches.
    cpu: AtomicU64,
    /// Start of the running stretch, in nanoseconds since `base` plus one; 0: not running.
    running: AtomicU64,
    /// The thread's CPU clock at the start of the running stretch or shortly before, in nanoseconds.
    thread: AtomicU64,
    /// Nanoseconds of CPU time before the current request.
    before: AtomicU64,
    /// Start of the current request, in nanoseconds since `base`.
    turned: AtomicU64,
    /// Requests to backends since the current request began.
    sends: AtomicU32,
    /// Of those, the ones whose response had more header fields than production takes.
    large_heads: AtomicU32,
    /// Whether the current request made more backends than production allows.
    many_backends: AtomicBool,
    /// Lookups of entries of config stores since the current request began.
    lookups: AtomicU32,
    memory: AtomicUsize,
    /// Refusals of memory since they were last counted, by why; whether there were any.
    refused: [AtomicU32; 2],
    memory_refused: AtomicBool,
    memory_short: AtomicBool,
    stopped: AtomicU8,
}

/// Why the host stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Over its CPU limit.
    Cpu,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            base: clock::now(),
            cpu: AtomicU64::new(0),
            running: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            before: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            sends: AtomicU32::new(0),
            large_heads: AtomicU32::new(0),
            many_backends: AtomicBool::new(false),
            lookups: AtomicU32::new(0),
            memory: AtomicUsize::new(0),
            refused: [const { AtomicU32::new(0) }; 2],
            memory_refused: AtomicBool::new(false),
            memory_short: AtomicBool::new(false),
            stopped: AtomicU8::new(0),
        }
    }
}

impl Meter {
    /// The guest gets this thread.
    pub fn resume(&self) {
        let now = clock::now();
        self.running.store(nanos(now.duration_since(self.base)) + 1, Ordering::Relaxed);
        self.thread.store(nanos(clock::thread_cpu_lately(now)), Ordering::Relaxed);
    }

    /// The guest gives its thread up, which it had for so much CPU time.
    pub fn pause(&self) -> Duration {
        let stretch = self.stretch();
        self.cpu.fetch_add(stretch, Ordering::Relaxed);
        self.running.store(0, Ordering::Relaxed);
        Duration::from_nanos(stretch)
    }

    /// CPU time so far, the running stretch included.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed) + self.stretch())
    }

    /// CPU time for the current request so far.
    pub fn request_cpu(&self) -> Duration {
        self.cpu().saturating_sub(Duration::from_nanos(self.before.load(Ordering::Relaxed)))
    }

    /// Time since the current request began.
    pub fn request_time(&self) -> Duration {
        clock::now().duration_since(self.base).saturating_sub(Duration::from_nanos(self.turned.load(Ordering::Relaxed)))
    }

    /// Another request begins.
    pub fn turn(&self) {
        self.before.store(nanos(self.cpu()), Ordering::Relaxed);
        self.turned.store(nanos(clock::now().duration_since(self.base)), Ordering::Relaxed);
        self.sends.store(0, Ordering::Relaxed);
        self.large_heads.store(0, Ordering::Relaxed);
        self.many_backends.store(false, Ordering::Relaxed);
        self.lookups.store(0, Ordering::Relaxed);
    }

    /// Counts a request to a backend; gives how many there were for the current request, this one included.
    pub fn send(&self) -> u32 {
        self.sends.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Requests to backends for the current request.
    pub fn request_sends(&self) -> u32 {
        self.sends.load(Ordering::Relaxed)
    }

    /// Counts a lookup of an entry of a config store; gives how many there were for the current request, this one included.
    pub fn lookup(&self) -> u32 {
        self.lookups.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Such lookups for the current request.
    pub fn request_lookups(&self) -> u32 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Counts a response with more header fields than production takes.
    pub fn large_head(&self) {
        self.large_heads.fetch_add(1, Ordering::Relaxed);
    }

    /// Such responses for the current request.
    pub fn request_large_heads(&self) -> u32 {
        self.large_heads.load(Ordering::Relaxed)
    }

    /// Notes that there are more dynamic backends than production allows.
    pub fn many_backends(&self) {
        self.many_backends.store(true, Ordering::Relaxed);
    }

    /// Whether the current request made them.
    pub fn made_many_backends(&self) -> bool {
        self.many_backends.load(Ordering::Relaxed)
    }

    /// Nanoseconds of CPU time in the running stretch, if there is one.
    fn stretch(&self) -> u64 {
        let since = self.running.load(Ordering::Relaxed);
        if since == 0 {
            return 0;
        }
        let elapsed = (nanos(clock::now().duration_since(self.base)) + 1).saturating_sub(since);
        if elapsed <= nanos(clock::LATELY) {
            return elapsed;
        }
        nanos(clock::thread_cpu()).saturating_sub(self.thread.load(Ordering::Relaxed)).min(elapsed)
    }

    /// Linear memory in bytes.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Whether the guest asked for more memory than it may have.
    pub fn memory_refused(&self) -> bool {
        self.memory_refused.load(Ordering::Relaxed)
    }

    /// Whether it could have had it, if the process were not short of memory.
    pub fn memory_short(&self) -> bool {
        self.memory_short.load(Ordering::Relaxed)
    }

    /// Notes that the guest asked for memory in vain: since it has all it may have, or since the process is `short` of it.
    pub fn refuse_memory(&self, short: bool) {
        self.refused[usize::from(short)].fetch_add(1, Ordering::Relaxed);
        self.memory_refused.store(true, Ordering::Relaxed);
        if short {
            self.memory_short.store(true, Ordering::Relaxed);
        }
    }

    /// How often memory was refused since this was last asked: since it was more than the guest may have, and since the process was
    /// short of it.
    pub fn take_refusals(&self) -> (u32, u32) {
        if !self.memory_refused() {
            return (0, 0);
        }
        let [limit, short] = &self.refused;
        (limit.swap(0, Ordering::Relaxed), short.swap(0, Ordering::Relaxed))
    }

    /// Notes why the host stops the guest.
    pub fn stop(&self, why: Stopped) {
        self.stopped.store(
            match why {
                Stopped::Cpu => 1,
            },
            Ordering::Relaxed,
        );
    }

    /// Why the host stopped the guest, if it did.
    pub fn stopped(&self) -> Option<Stopped> {
        (self.stopped.load(Ordering::Relaxed) == 1).then_some(Stopped::Cpu)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bounds linear memory and tables.
#[derive(Debug)]
pub struct MemoryLimiter {
    memory: usize,
    table: usize,
    host: Arc<HostMemory>,
    part: Part,
    meter: Arc<Meter>,
}

impl MemoryLimiter {
    /// At most `memory` bytes and `table` elements, and of what the process may have.
    pub fn new(memory: usize, table: usize, host: Arc<HostMemory>, part: Part, meter: Arc<Meter>) -> Self {
        Self { memory, table, host, part, meter }
    }
}

impl wasmtime::ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let granted = if desired > self.memory {
            self.meter.refuse_memory(false);
            false
        // What it begins with is not there before it is touched, and was decided about when it got its place.
        } else if current > 0 && !self.host.grants(self.part.service(), current, desired) {
            self.meter.refuse_memory(true);
            false
        } else {
            self.meter.memory.store(desired, Ordering::Relaxed);
            self.part.set(desired);
            true
        };
        Ok(granted)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table)
    }
}
