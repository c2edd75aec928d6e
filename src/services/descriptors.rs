//! File descriptors of the process, and whose they are.
//!
//! Clients, connections to backends, what services have open, and operators each have a share of their own: whoever
//! has used theirs up waits or is refused, and the others go on. The shares follow from `ulimit -n`, which [`raise`] puts as high as it
//! may be.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

/// What the process has of its own, whatever it does: listeners, pipes, what is open for moments.
const BASE: usize = 64;

/// The same for each processor: its threads' timers and queues of events.
const OF_A_PROCESSOR: usize = 8;

/// Connections of each of the operators' two listeners: of all descriptors one in so many, and no more than this.
const OPERATORS: usize = 16;
const MOST_OPERATORS: usize = 128;

/// Each share has some, however few there are.
const LEAST: usize = 8;

/// How many there may be, all in all.
static ALL: LazyLock<usize> = LazyLock::new(|| {
    let most = getrlimit(Resource::Nofile).current;
    // Nobody has so many, and what is computed of it stays in range.
    most.map_or(1 << 24, |most| usize::try_from(most).unwrap_or(usize::MAX).min(1 << 24))
});

/// What services have open, as far as it is known from their settings.
static FILES: AtomicUsize = AtomicUsize::new(0);

/// Raises the limit as far as this process may, before anything asks for it.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of file descriptors stays as it is");
        }
    }
}

/// How many the process may have.
pub fn all() -> usize {
    *ALL
}

fn operators(all: usize) -> usize {
    (all / OPERATORS).clamp(LEAST, MOST_OPERATORS)
}

/// What is there for services, clients and backends.
static FREE: LazyLock<usize> = LazyLock::new(|| free(*ALL));

fn free(all: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // With very many processors, there are fewer threads than that.
    let of_processors = (OF_A_PROCESSOR * processors).min(all / 8);
    all.saturating_sub(BASE + of_processors + 2 * operators(all))
}

/// How many services may have open.
pub fn most_files() -> usize {
    (*FREE / 3).max(2 * LEAST)
}

/// Takes note of how many they have open.
pub fn services_have(files: usize) {
    FILES.store(files, Ordering::Relaxed);
}

fn for_connections() -> usize {
    FREE.saturating_sub(FILES.load(Ordering::Relaxed))
}

/// How many clients there are.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// One of them, counted as long as this is there.
#[derive(Debug)]
pub struct Client(());

impl Client {
    /// One more.
    pub fn new() -> Self {
        CLIENTS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether there are as many clients as there may be: connections had better go after an answer.
pub fn is_full() -> bool {
    CLIENTS.load(Ordering::Relaxed) >= most_clients()
}

/// How many connections each of the operators' listeners may have.
pub fn most_operators() -> usize {
    operators(*ALL)
}

/// How many clients there may be: more than connections to backends, of which a client that waits for one has one.
pub fn most_clients() -> usize {
    (for_connections() / 7 * 4).max(LEAST)
}

/// How many connections to backends there may be.
pub fn most_connections() -> usize {
    (for_connections() / 7 * 3).max(LEAST)
}

/// How many of them may be idle.
pub fn most_idle() -> usize {
    (most_connections() / 3).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_something_to_others() {
        for most in [0, 64, 256, 1024, 20_000, 1 << 20, 1 << 24] {
            let (operators, free) = (operators(most), free(most));
            assert!(free + 2 * operators <= most.max(2 * LEAST) && (LEAST..=MOST_OPERATORS).contains(&operators));
            assert!(most < 1024 || free > most / 2, "{most}: {free}");
        }
        assert!(most_clients() + most_connections() <= all().max(2 * LEAST));
    }
}
