//! Further requests in the same sandbox: guests that wait for one, and requests that look for a
//! sandbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::execute::{Execution, Stay};
use super::snapshot::Snapshot;
use crate::sandbox::{Delivery, Meter, NextRequests, Parcel, Received, Wait};
use crate::services::memory::Shortage;
use crate::telemetry::clock;
use crate::telemetry::metrics::Held;

/// The guests of one snapshot that wait for a request, and the requests that wait for a guest.
pub struct Waiting {
    state: Mutex<State>,
    /// Requests that went to a guest of another thread, while others were served, since one had a new sandbox instead.
    crossed: AtomicU32,
}

/// After so many requests that crossed to a guest of another thread, the next has a new sandbox on its own, if there is room: a busy
/// thread soon has guests enough, and a quiet host does not start one for each of its threads.
const CROSSINGS: u32 = 8;

struct State {
    open: bool,
    /// By the thread they are on; the longest waiting first.
    guests: Vec<(ThreadId, Queue<WaitingGuest>)>,
    requests: Queue<oneshot::Sender<WaitingGuest>>,
}

impl State {
    fn any(&mut self) -> Option<WaitingGuest> {
        self.guests.iter_mut().find_map(|(_, guests)| guests.last())
    }
}

/// Up to this many are not looked through.
const FEW: usize = 32;

/// Those that wait. Whoever loses interest stays in it until it has grown to twice those that had not: what that costs does not grow
/// with it.
struct Queue<T> {
    waiting: VecDeque<T>,
    look_at: usize,
}

impl<T> Queue<T> {
    const fn new() -> Self {
        Self { waiting: VecDeque::new(), look_at: FEW }
    }

    fn push(&mut self, new: T, gone: impl Fn(&T) -> bool) {
        if self.waiting.len() >= self.look_at {
            self.waiting.retain(|one| !gone(one));
            self.look_at = FEW.max(2 * self.waiting.len());
        }
        self.waiting.push_back(new);
    }
}

impl Queue<WaitingGuest> {
    fn last(&mut self) -> Option<WaitingGuest> {
        std::iter::from_fn(|| self.waiting.pop_back()).find(|guest| !guest.sender.is_closed())
    }

    fn first(&mut self) -> Option<WaitingGuest> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|guest| !guest.sender.is_closed())
    }
}

/// A guest that waits.
pub struct WaitingGuest {
    sender: oneshot::Sender<Delivery>,
    execution: Arc<Execution>,
}

/// Where a guest waits.
pub enum Found {
    /// On the thread that asks.
    Here(WaitingGuest),
    /// On another, if any does.
    MaybeElsewhere,
    /// Nowhere.
    Nobody,
}

/// What runs a request that was given to a waiting guest, and where the request comes back to when
/// the guest ends without having taken it.
pub type Delivered = (Arc<Execution>, oneshot::Receiver<Box<Parcel>>);

impl WaitingGuest {
    /// Gives it a request. An error when the guest has stopped waiting.
    pub fn deliver(self, parcel: Box<Parcel>) -> Result<Delivered, Box<Parcel>> {
        let (delivery, mut returned) = Delivery::new(parcel);
        match self.sender.send(delivery) {
            Ok(()) => Ok((self.execution, returned)),
            Err(delivery) => match delivery.take() {
                Some(parcel) => Err(parcel),
                // Cannot be: only the guest takes it. The request is answered as lost then.
                None => {
                    returned.close();
                    Ok((self.execution, returned))
                }
            },
        }
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self { state: Mutex::new(State { open: true, guests: Vec::new(), requests: Queue::new() }), crossed: AtomicU32::new(0) }
    }
}

impl Waiting {
    /// A guest that waits on this thread: the last, whose memory is warm.
    pub fn take(&self) -> Found {
        let mut state = self.state.lock();
        // Programs that stay for no further request have never had any.
        if state.guests.is_empty() {
            return Found::Nobody;
        }
        let thread = thread::current().id();
        let own = state.guests.iter_mut().find(|(of, _)| *of == thread).and_then(|(_, guests)| guests.last());
        own.map_or(Found::MaybeElsewhere, Found::Here)
    }

    /// Whether a request that finds no guest on its thread had better have a new sandbox there: waking another thread and being woken by
    /// it costs about as much.
    pub fn crosses_too_often(&self) -> bool {
        self.crossed.load(Ordering::Relaxed) >= CROSSINGS
    }

    /// The request that asks gets a new sandbox on its thread.
    pub fn stays(&self) {
        self.crossed.store(0, Ordering::Relaxed);
    }

    /// A guest that waits on any thread. `sandboxes` is how many there are: while all of them wait, requests come one after another, which
    /// one guest serves as well as several.
    pub fn take_any(&self, sandboxes: usize) -> Option<WaitingGuest> {
        let mut state = self.state.lock();
        let waiting: usize = state.guests.iter().map(|(_, guests)| guests.waiting.len()).sum();
        let guest = state.any()?;
        drop(state);
        if sandboxes > waiting {
            self.crossed.fetch_add(1, Ordering::Relaxed);
        }
        Some(guest)
    }

    /// The next guest that begins to wait, for a request that has found neither guest nor sandbox; one that has begun since it looked is
    /// there at once.
    pub fn next(&self) -> oneshot::Receiver<WaitingGuest> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        match state.any() {
            // The receiver is there: it arrives.
            Some(guest) => drop(sender.send(guest)),
            None => state.requests.push(sender, oneshot::Sender::is_closed),
        }
        receiver
    }

    /// How many guests wait, and such as have stopped.
    fn len(&self) -> usize {
        self.state.lock().guests.iter().map(|(_, guests)| guests.waiting.len()).sum()
    }

    /// Sends a guest that waits away, the one that began first on its thread; false: there was none.
    fn send_away(&self) -> bool {
        let mut state = self.state.lock();
        // Whoever waits learns from the dropped sender that there is no further request.
        state.guests.iter_mut().find_map(|(_, guests)| guests.first()).is_some()
    }

    /// No guest gets another request from here; those that wait end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.guests.clear();
    }

    /// One begins to wait; true: no other has before it.
    fn add(&self, mut guest: WaitingGuest) -> bool {
        let mut state = self.state.lock();
        let first = state.guests.is_empty();
        while let Some(request) = state.requests.waiting.pop_front() {
            match request.send(guest) {
                Ok(()) => return false,
                Err(same) => guest = same,
            }
        }
        if state.open {
            let thread = thread::current().id();
            let at = state.guests.iter().position(|(of, _)| *of == thread).unwrap_or_else(|| {
                state.guests.push((thread, Queue::new()));
                state.guests.len() - 1
            });
            if let Some((_, guests)) = state.guests.get_mut(at) {
                guests.push(guest, |guest| guest.sender.is_closed());
            }
        }
        first && state.open
    }
}

/// The snapshots that have had guests that wait. They are sent away when others need their places, or their memory.
#[derive(Default)]
pub struct Resting(Mutex<Vec<Weak<Snapshot>>>);

impl Resting {
    fn add(&self, snapshot: &Arc<Snapshot>) {
        let mut snapshots = self.0.lock();
        snapshots.retain(|one| one.strong_count() > 0);
        snapshots.push(Arc::downgrade(snapshot));
    }

    /// Sends one away, of those that have the most; false: nobody waits.
    pub fn send_one_away(&self) -> bool {
        let snapshots = self.0.lock();
        let most = snapshots.iter().filter_map(Weak::upgrade).max_by_key(|snapshot| snapshot.waiting.len());
        most.is_some_and(|snapshot| snapshot.waiting.send_away())
    }

    /// Sends all away.
    pub fn send_all_away(&self) {
        for snapshot in self.0.lock().iter().filter_map(Weak::upgrade) {
            while snapshot.waiting.send_away() {}
        }
    }
}

/// Where one sandbox gets its further requests.
pub struct Source {
    stay: Arc<Stay>,
    execution: Arc<Execution>,
    begun: Instant,
    served: AtomicU32,
}

impl Source {
    /// For the sandbox of `execution`, which has its first request already.
    pub fn new(stay: Arc<Stay>, execution: Arc<Execution>) -> Self {
        Self { stay, execution, begun: clock::now(), served: AtomicU32::new(1) }
    }
}

impl NextRequests for Source {
    fn wait(&self) -> Option<Wait> {
        let Stay { runtime, snapshot } = &*self.stay;
        let limits = &snapshot.config.limits.reuse;
        let spent = self.served.load(Ordering::Relaxed) >= limits.requests
            || runtime.memory.shortage() > Shortage::None
            || clock::now().duration_since(self.begun) >= limits.lifetime
            || self.execution.meter.memory() > limits.memory;
        if spent {
            return None;
        }
        let counted = Held::new(runtime.telemetry.metrics.sandboxes_waiting.clone());
        let (sender, request) = oneshot::channel();
        if snapshot.waiting.add(WaitingGuest { sender, execution: self.execution.clone() }) {
            runtime.resting.add(snapshot);
        }
        Some(Wait { request, counted })
    }

    fn turn(&self, done: &Received, meter: &Meter) {
        let Stay { runtime, snapshot } = &*self.stay;
        self.served.fetch_add(1, Ordering::Relaxed);
        runtime.account(&snapshot.services.metrics, &snapshot.config.limits, &done.id, meter);
        runtime.telemetry.metrics.sandboxes_reused.inc();
        meter.turn();
    }

    fn patience(&self) -> Duration {
        let limits = &self.stay.snapshot.config.limits.reuse;
        limits.idle.min(limits.lifetime.saturating_sub(clock::now().duration_since(self.begun)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_have_given_up_do_not_pile_up() {
        let waiting = Waiting::default();
        let patient: Vec<_> = (0..100).map(|_| waiting.next()).collect();
        for _ in 0..10_000 {
            drop(waiting.next());
        }
        let state = waiting.state.lock();
        assert!(state.requests.waiting.len() <= 2 * patient.len(), "{}", state.requests.waiting.len());
        assert_eq!(state.requests.waiting.iter().filter(|request| !request.is_closed()).count(), patient.len());
    }
}
