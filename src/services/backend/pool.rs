//! Idle connections of one backend.
//!
//! pingora's pool gives each idle connection a task that watches it, and wakes that task at every
//! use: two context switches a request. Here a connection is looked at when it is taken, and one
//! task per pool, which lives only while there are idle connections, drops the dead and the old.
//!
//! A connection wakes the thread it was made on, whoever uses it, so threads take their own. Now and then one of another thread is
//! lent, which saves a quiet service its handshakes; a thread that is busy had better make its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, ReadBuf};

use super::room::{Place, Room};
use crate::services::descriptors;
use crate::telemetry::clock;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How many connections are lent to other threads than their own, in how long.
const LOANS: u32 = 8;
const LOANS_IN: Duration = Duration::from_millis(100);

/// Idle connections of all pools, as far as they have told.
static IDLE: AtomicUsize = AtomicUsize::new(0);

/// Counts connections that are lent to other threads than their own.
#[derive(Debug, Default)]
pub struct Loans {
    since: Option<Instant>,
    count: u32,
}

impl Loans {
    /// Whether one more may be lent now; counts it.
    pub fn one_more(&mut self) -> bool {
        let now = clock::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= LOANS_IN) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count <= LOANS
    }
}

/// What a connection has behind it.
#[derive(Debug)]
pub struct Life {
    /// The thread it was made on, whose events it has.
    home: ThreadId,
    /// When it was made.
    pub since: Instant,
    /// Requests it has carried.
    pub uses: u32,
    /// Its place among connections; it has none only in tests.
    pub place: Option<Place>,
}

impl Life {
    /// Of a connection that this thread has just made.
    pub fn new(place: Option<Place>) -> Self {
        Self { home: thread::current().id(), since: clock::now(), uses: 0, place }
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new(None)
    }
}

/// Idle connections of one backend.
pub struct Pool {
    state: Mutex<State>,
    /// Most connections kept.
    capacity: usize,
    /// How long one is kept.
    keep: Duration,
    room: Option<Arc<Room>>,
}

#[derive(Default)]
struct State {
    /// The longest unused first.
    idle: VecDeque<Idle>,
    /// Whether a task looks after them.
    swept: bool,
    /// How many [`IDLE`] has of them: told once a second, for a count that every request changes would be one that all threads wait for.
    told: usize,
    loans: Loans,
}

struct Idle {
    stream: Stream,
    life: Life,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(capacity: usize, keep: Duration, room: Option<Arc<Room>>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), capacity, keep, room })
    }

    /// How many there are.
    pub fn idle(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// A connection that was alive just now: the one of this thread's that was used last, else the one that any did, if it may be
    /// lent. Where connections are bounded, it may.
    pub fn take(&self) -> Option<(Stream, Life)> {
        let thread = thread::current().id();
        loop {
            let mut idle = {
                let mut state = self.state.lock();
                let own = state.idle.iter().rposition(|idle| idle.life.home == thread);
                let taken = match own {
                    Some(own) => own,
                    None => {
                        let last = state.idle.len().checked_sub(1)?;
                        if self.room.is_none() && !state.loans.one_more() {
                            return None;
                        }
                        last
                    }
                };
                state.idle.remove(taken)?
            };
            if clock::now().duration_since(idle.since) < self.keep && is_quiet(&mut idle.stream) {
                return Some((idle.stream, idle.life));
            }
        }
    }

    /// Keeps a connection between exchanges. Must be called within a runtime.
    pub fn put(self: &Arc<Self>, stream: Stream, life: Life) {
        let swept = {
            let mut state = self.state.lock();
            if state.idle.len() >= self.capacity
                || IDLE.load(Ordering::Relaxed) >= descriptors::most_idle() && state.idle.len() >= state.told
            {
                // With none of its own to give up, this one is.
                if state.idle.pop_front().is_none() {
                    return;
                }
            }
            state.idle.push_back(Idle { stream, life, since: clock::now() });
            if !state.swept {
                state.tell();
            }
            std::mem::replace(&mut state.swept, true)
        };
        if let Some(room) = &self.room {
            room.tell();
        }
        if !swept {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Drops what is dead or old; false when nothing is left, and with it the need for sweeping.
    fn clean(&self) -> bool {
        let now = clock::now();
        let mut state = self.state.lock();
        state.idle.retain_mut(|idle| now.duration_since(idle.since) < self.keep && is_quiet(&mut idle.stream));
        state.swept = !state.idle.is_empty();
        state.tell();
        state.swept
    }
}

impl State {
    fn tell(&mut self) {
        let (before, now) = (self.told, self.idle.len());
        if before != now {
            // What shrinks wraps around, as the sum does.
            IDLE.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
            self.told = now;
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        IDLE.fetch_sub(self.told, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use pingora::protocols::l4::stream::Stream as L4Stream;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Box::new(L4Stream::from(near.expect("a connection"))), far.expect("a connection").0)
    }

    #[tokio::test]
    async fn one_task_sweeps_however_often_the_pool_was_empty() {
        let pool = Pool::new(8, Duration::from_secs(60), None);
        let (mut stream, _far) = pair().await;
        for _ in 0..10 {
            pool.put(stream, Life::default());
            tokio::task::yield_now().await;
            (stream, _) = pool.take().expect("a live connection");
        }
        assert_eq!(Arc::weak_count(&pool), 1);
    }

    #[tokio::test]
    async fn a_connection_with_something_to_read_is_not_given_out() {
        let pool = Pool::new(8, Duration::from_secs(60), None);
        let (closed, far) = pair().await;
        pool.put(closed, Life::default());
        drop(far);
        let (talking, mut far) = pair().await;
        pool.put(talking, Life::default());
        far.write_all(b"x").await.expect("a connection");
        // Until the runtime has heard of both.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn a_connection_is_lent_to_other_threads_now_and_then() {
        let pool = Pool::new(8, Duration::from_secs(60), None);
        let (mut stream, _far) = pair().await;
        let mut life = Life::default();
        let elsewhere = || {
            let pool = pool.clone();
            thread::spawn(move || pool.take()).join().expect("a thread")
        };
        // However long that takes on a busy machine: what is lent stays its own thread's.
        pool.state.lock().loans = Loans { since: Some(clock::now() + Duration::from_secs(600)), count: 0 };
        for _ in 0..LOANS {
            pool.put(stream, life);
            (stream, life) = elsewhere().expect("a loan");
        }
        pool.put(stream, life);
        assert!(elsewhere().is_none());
        assert!(pool.take().is_some());
        let mut loans = Loans { since: Some(clock::now()), count: LOANS };
        tokio::time::sleep(LOANS_IN).await;
        assert!(loans.one_more());
    }

    #[tokio::test]
    async fn the_oldest_goes_when_there_are_too_many() {
        let pool = Pool::new(1, Duration::from_secs(60), None);
        let (first, _first) = pair().await;
        let (second, _second) = pair().await;
        let id = second.id();
        pool.put(first, Life::default());
        pool.put(second, Life::default());
        assert_eq!(pool.take().map(|(stream, _)| stream.id()), Some(id));
        assert!(pool.take().is_none());
    }
}
