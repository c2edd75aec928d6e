//! What waits to be delivered to an endpoint, and the task that delivers it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use super::Record;
use super::sinks::{Failure, Outlet};
use crate::config::Config;
use crate::config::logs::{LogEndpoint, Sink};
use crate::services::data::{self, DataError};
use crate::services::platform::Platform;

/// Times a batch is tried.
const TRIES: u32 = 6;

/// Time before a second try; doubled with every further one.
const PAUSE: Duration = Duration::from_millis(250);

/// How often it is said that records are lost.
const TELL: Duration = Duration::from_secs(10);

/// Bytes that may wait, those that are being delivered included: records are of up to 64 KiB, and there may be many endpoints.
const ROOM: usize = 32 << 20;

/// What a record takes beside its content.
const OVERHEAD: usize = 256;

/// The room that a record has.
struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let room = Self { taken: taken.clone(), bytes };
        (taken.fetch_add(bytes, Ordering::Relaxed) + bytes <= ROOM).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Item {
    Record(Record, Room),
    /// Everything before it has been delivered, or given up.
    Flush(oneshot::Sender<()>),
}

/// The queue of an endpoint.
pub struct Queue {
    name: String,
    settings: LogEndpoint,
    /// What its roots were read from.
    ca: Option<Vec<u8>>,
    sender: mpsc::Sender<Item>,
    taken: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

fn ca(settings: &LogEndpoint) -> Option<&Path> {
    match &settings.sink {
        Sink::Syslog(syslog) => syslog.ca.as_deref(),
        Sink::Http(http) | Sink::Otlp(http) => http.ca.as_deref(),
        Sink::Log | Sink::Stdout | Sink::Stderr | Sink::File(_) | Sink::Redis { .. } => None,
    }
}

impl Queue {
    /// The queue of an endpoint: that of `before`, if it is of the same settings.
    pub fn open(
        service: &Arc<str>,
        name: &str,
        settings: &LogEndpoint,
        config: &Config,
        before: Option<&Arc<Self>>,
        platform: &Platform,
    ) -> Result<Arc<Self>, DataError> {
        let ca = ca(settings).map(data::bytes).transpose()?;
        Outlet::check(settings)?;
        // The link to Redis may be another; what waits for the one before is delivered all the same.
        let same = |before: &&Arc<Self>| before.settings == *settings && before.ca == ca && !matches!(settings.sink, Sink::Redis { .. });
        if let Some(before) = before.filter(same) {
            return Ok(before.clone());
        }
        let outlet = Outlet::open(service, settings, ca.as_deref(), config, platform)?;
        let (sender, receiver) = mpsc::channel(settings.queue);
        let count = |result: &str| platform.telemetry.metrics.log_records.with_label_values(&[result]);
        let queue = Arc::new(Self {
            name: name.to_owned(),
            settings: settings.clone(),
            ca,
            sender,
            taken: Arc::default(),
            dropped: count("dropped"),
        });
        if let Some(outlet) = outlet {
            let deliveries = Deliveries {
                outlet,
                name: name.to_owned(),
                batch: settings.batch,
                gather: settings.flush,
                receiver,
                written: count("written"),
                failed: count("failed"),
            };
            platform.background().spawn(deliveries.run());
            platform.add_queue(&queue);
        }
        Ok(queue)
    }

    /// Puts a record in, if there is room.
    pub fn put(&self, record: Record) {
        let room = Room::take(&self.taken, record.content.len() + OVERHEAD);
        if room.is_none_or(|room| self.sender.try_send(Item::Record(record, room)).is_err()) {
            self.dropped.inc();
        }
    }

    /// Its endpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many records wait, beside those that are being delivered.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// Waits until what is in it now has been delivered, or given up.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.sender.send(Item::Flush(done)).await.is_ok() {
            // An error: its task has ended, and there is nothing left.
            drop(wait.await);
        }
    }
}

struct Deliveries {
    outlet: Outlet,
    name: String,
    batch: usize,
    gather: Duration,
    receiver: mpsc::Receiver<Item>,
    written: IntCounter,
    failed: IntCounter,
}

impl Deliveries {
    /// Until nobody can write any more and everything is delivered.
    async fn run(mut self) {
        let mut told: Option<tokio::time::Instant> = None;
        while let Some(first) = self.receiver.recv().await {
            let (mut records, mut rooms, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
            let mut take = |item: Item| match item {
                Item::Record(record, room) => {
                    records.push(record);
                    rooms.push(room);
                    true
                }
                Item::Flush(done) => {
                    flushes.push(done);
                    false
                }
            };
            let mut gathering = take(first);
            let mut count = 1;
            let until = tokio::time::sleep(if self.outlet.gathers() { self.gather } else { Duration::ZERO });
            tokio::pin!(until);
            while gathering && count < self.batch {
                tokio::select! {
                    biased;
                    item = self.receiver.recv() => match item {
                        Some(item) => {
                            gathering = take(item);
                            count += 1;
                        }
                        None => break,
                    },
                    () = &mut until => break,
                }
            }
            if !records.is_empty() {
                match self.deliver(&records).await {
                    Ok(()) => self.written.inc_by(records.len() as u64),
                    Err(error) => {
                        self.failed.inc_by(records.len() as u64);
                        let now = tokio::time::Instant::now();
                        if told.is_none_or(|told| now.duration_since(told) >= TELL) {
                            told = Some(now);
                            tracing::error!(target: "sidelight::state", endpoint = self.name, records = records.len(), %error, "records of a log endpoint are lost");
                        }
                    }
                }
            }
            drop(rooms);
            flushes.into_iter().for_each(|done| {
                // Whoever waited may be gone.
                let _: Result<(), ()> = done.send(());
            });
        }
    }

    async fn deliver(&mut self, records: &[Record]) -> Result<(), String> {
        let mut pause = PAUSE;
        for tried in 1.. {
            match self.outlet.write(records).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) if tried == TRIES => return Err(error),
                Err(Failure::Passing(error)) if tried == 1 => {
                    tracing::warn!(target: "sidelight::state", endpoint = self.name, %error, "a log endpoint takes nothing; tried again");
                }
                Err(Failure::Passing(_)) => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}
