//! Further requests in the same sandbox: guests that wait for one, and requests that look for a
//! sandbox.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::execute::{Execution, Stay};
use crate::sandbox::{Delivery, Meter, NextRequests, Parcel, Received};
use crate::telemetry::clock;
use crate::telemetry::metrics::{Gauge, Held};

/// The guests of one snapshot that wait for a request, and the requests that wait for a guest.
pub struct Waiting {
    state: Mutex<State>,
}

struct State {
    open: bool,
    /// The longest waiting first.
    guests: Vec<WaitingGuest>,
    requests: VecDeque<oneshot::Sender<WaitingGuest>>,
}

/// A guest that waits.
pub struct WaitingGuest {
    sender: oneshot::Sender<Delivery>,
    execution: Arc<Execution>,
    thread: ThreadId,
    _counted: Held<Gauge>,
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
        Self { state: Mutex::new(State { open: true, guests: Vec::new(), requests: VecDeque::new() }) }
    }
}

impl Waiting {
    /// A guest that waits: the last on this thread, whose memory is warm, else the last of all.
    pub fn take(&self) -> Option<WaitingGuest> {
        let thread = thread::current().id();
        let mut state = self.state.lock();
        loop {
            let last = state.guests.len().checked_sub(1)?;
            let own = state.guests.iter().rposition(|guest| guest.thread == thread);
            let guest = state.guests.remove(own.unwrap_or(last));
            if !guest.sender.is_closed() {
                return Some(guest);
            }
        }
    }

    /// The next guest that begins to wait, for a request that has found neither guest nor sandbox.
    pub fn next(&self) -> oneshot::Receiver<WaitingGuest> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.requests.retain(|request| !request.is_closed());
        state.requests.push_back(sender);
        receiver
    }

    /// No guest gets another request from here; those that wait end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.guests.clear();
    }

    fn add(&self, mut guest: WaitingGuest) {
        let mut state = self.state.lock();
        while let Some(request) = state.requests.pop_front() {
            match request.send(guest) {
                Ok(()) => return,
                Err(same) => guest = same,
            }
        }
        if state.open {
            state.guests.retain(|guest| !guest.sender.is_closed());
            state.guests.push(guest);
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
    fn wait(&self) -> Option<oneshot::Receiver<Delivery>> {
        let Stay { runtime, snapshot } = &*self.stay;
        let limits = &snapshot.config.limits.reuse;
        let spent = self.served.load(Ordering::Relaxed) >= limits.requests
            || clock::now().duration_since(self.begun) >= limits.lifetime
            || self.execution.meter.memory() > limits.memory;
        if spent {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        snapshot.waiting.add(WaitingGuest {
            sender,
            execution: self.execution.clone(),
            thread: thread::current().id(),
            _counted: Held::new(runtime.telemetry.metrics.sandboxes_waiting.clone()),
        });
        Some(receiver)
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
