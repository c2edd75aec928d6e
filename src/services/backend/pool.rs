//! Idle connections of one backend.
//!
//! pingora's pool gives each idle connection a task that watches it, and wakes that task at every
//! use: two context switches a request. Here a connection is looked at when it is taken, and one
//! task per pool, which lives only while there are idle connections, drops the dead and the old.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::telemetry::clock;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections, the longest unused first.
pub struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    /// Most connections kept.
    capacity: usize,
    /// How long one is kept.
    keep: Duration,
}

struct Idle {
    stream: Stream,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(capacity: usize, keep: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), capacity, keep })
    }

    /// A connection that was alive just now, the one used last.
    pub fn take(&self) -> Option<Stream> {
        loop {
            let mut idle = self.idle.lock().pop_back()?;
            if clock::now().duration_since(idle.since) < self.keep && is_quiet(&mut idle.stream) {
                return Some(idle.stream);
            }
        }
    }

    /// Keeps a connection between exchanges. Must be called within a runtime.
    pub fn put(self: &Arc<Self>, stream: Stream) {
        let first = {
            let mut idle = self.idle.lock();
            if idle.len() >= self.capacity {
                drop(idle.pop_front());
            }
            idle.push_back(Idle { stream, since: clock::now() });
            idle.len() == 1
        };
        if first {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Drops what is dead or old; false when nothing is left.
    fn clean(&self) -> bool {
        let now = clock::now();
        let mut idle = self.idle.lock();
        idle.retain_mut(|idle| now.duration_since(idle.since) < self.keep && is_quiet(&mut idle.stream));
        !idle.is_empty()
    }
}

/// A connection at rest has nothing to read: not an end, and no bytes nobody asked for.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer).is_pending()
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.clean() {
            return;
        }
    }
}
