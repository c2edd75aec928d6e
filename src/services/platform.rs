//! What services have in common and keep from one generation to the next: threads for state, links, open files.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

use super::backend::Connector;
use super::cache::fanout::Fanout;
use super::cache::{Limits, Store};
use super::data::DataError;
use super::http_cache::decisions::Decisions;
use super::kv_store::files::Files;
use super::log::Queue;
use super::memory::{HostMemory, Shortage};
use super::redis::{self, Redis};
use crate::config::host::CacheSize;
use crate::config::state::Redis as RedisSettings;
use crate::config::{HostConfig, Secret};
use crate::telemetry::Telemetry;

/// Settings, and the password that their file has.
type LinkKey = (RedisSettings, Option<Secret>);

const NO_FOLDER: &str =
    "the cache is to be kept on disk, too, and there is no folder for that\n  hint: --data-dir FOLDER, or data_dir in the host file";

/// What outlives every generation of every service.
pub struct Platform {
    /// Of backends.
    pub connector: Arc<Connector>,
    /// Embedded stores.
    pub files: Files,
    /// What everything counts into.
    pub telemetry: Telemetry,
    /// Memory of the process.
    pub memory: Arc<HostMemory>,
    /// Of all services.
    pub cache: Arc<Store>,
    /// Why responses are in it or not.
    pub decisions: Arc<Decisions>,
    fanouts: Mutex<HashMap<RedisSettings, Weak<Fanout>>>,
    /// Of log endpoints.
    queues: Mutex<Vec<Weak<Queue>>>,
    links: Mutex<HashMap<LinkKey, Weak<Redis>>>,
    /// `None` only while it ends.
    runtime: Option<Runtime>,
    /// Whether nothing may be opened, made or sent.
    trial: bool,
}

impl Platform {
    /// One to serve with.
    pub fn new(telemetry: &Telemetry) -> std::io::Result<Self> {
        Self::build(telemetry, HostMemory::unbounded(), Store::new(Limits::default(), telemetry), false)
    }

    /// One to serve with, with a cache of that size, in a process with so much `memory`.
    pub fn for_host(telemetry: &Telemetry, host: &HostConfig, memory: &Arc<HostMemory>) -> Result<Self, DataError> {
        let internal = |error: std::io::Error| DataError::Setting(error.to_string());
        let mut limits = Limits { memory: host.cache.memory, object: host.cache.object };
        // Nobody has said how large, and a small container has other things in it, too.
        if limits.memory == CacheSize::default().memory {
            limits.memory = limits.memory.min(memory.most() / 4);
        }
        if limits.object > limits.memory && host.cache.object != CacheSize::default().object {
            let mib = limits.memory >> 20;
            tracing::warn!(target: "sidelight::cache", "objects of more than {mib} MiB are not cached, whatever cache-object says: there is no more memory");
        }
        let cache = match (host.cache.disk, &host.state.data_dir) {
            (0, _) => Store::new(limits, telemetry),
            (_, None) => return Err(DataError::Setting(NO_FOLDER.to_owned())),
            (bytes, Some(folder)) => Store::with_disk(limits, telemetry, folder, bytes)?,
        };
        Self::build(telemetry, memory.clone(), cache, false).map_err(internal)
    }

    /// One to find out with whether a configuration is right: no store is opened, and nobody is connected to.
    pub fn for_trial(telemetry: &Telemetry) -> std::io::Result<Self> {
        Self::build(telemetry, HostMemory::unbounded(), Store::new(Limits::default(), telemetry), true)
    }

    fn build(telemetry: &Telemetry, memory: Arc<HostMemory>, cache: Arc<Store>, trial: bool) -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).max_blocking_threads(16).thread_name("sidelight-state").enable_all().build()?;
        Ok(Self {
            connector: Arc::new(Connector::new()),
            files: Files::default(),
            telemetry: telemetry.clone(),
            memory,
            cache,
            decisions: Arc::default(),
            fanouts: Mutex::default(),
            queues: Mutex::default(),
            links: Mutex::default(),
            runtime: Some(runtime),
            trial,
        })
    }

    /// Whether nothing may be opened, made or sent.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Where work of state is done.
    pub fn background(&self) -> Handle {
        // It is there until the end.
        self.runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    /// Whether these settings can be used, as far as that can be found out without connecting.
    pub fn check_redis(&self, settings: &RedisSettings) -> Result<(), DataError> {
        redis::nodes(settings, redis::password(settings)?.as_ref()).map(drop)
    }

    /// The link of these settings, made now or before.
    pub fn redis(&self, settings: &RedisSettings) -> Result<Arc<Redis>, DataError> {
        let password = redis::password(settings)?;
        let mut links = self.links.lock();
        let key = (settings.clone(), password);
        if let Some(link) = links.get(&key).and_then(Weak::upgrade) {
            return Ok(link);
        }
        let link = Redis::new(settings, key.1.as_ref(), &self.background(), &self.telemetry)?;
        links.retain(|_, link| link.strong_count() > 0);
        links.insert(key, Arc::downgrade(&link));
        Ok(link)
    }

    /// The log of purges that is kept there.
    pub(super) fn fanout(&self, settings: &RedisSettings, redis: &Arc<Redis>) -> Arc<Fanout> {
        let mut fanouts = self.fanouts.lock();
        if let Some(fanout) = fanouts.get(settings).and_then(Weak::upgrade) {
            return fanout;
        }
        let fanout = Fanout::start(redis.clone(), &self.cache, &self.background());
        fanouts.retain(|_, fanout| fanout.strong_count() > 0);
        fanouts.insert(settings.clone(), Arc::downgrade(&fanout));
        fanout
    }

    pub(super) fn add_queue(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }

    /// Waits, for `limit` at most, until what is cached is on disk, if it is to be there.
    pub async fn flush_cache(&self, limit: Duration) {
        let cache = self.cache.clone();
        drop(self.background().spawn_blocking(move || cache.flush(limit)).await);
    }

    /// Waits, for `limit` at most, until the records that wait for log endpoints have been delivered.
    pub async fn flush_logs(&self, limit: Duration) {
        let queues: Vec<_> = self.queues.lock().iter().filter_map(Weak::upgrade).collect();
        let flush = queues.iter().map(|queue| async {
            if tokio::time::timeout(limit, queue.flush()).await.is_err() {
                let (endpoint, records) = (queue.name(), queue.waiting());
                tracing::warn!(target: "sidelight::state", endpoint, records, "records that wait for a log endpoint are lost");
            }
        });
        futures_util::future::join_all(flush).await;
    }

    /// What cannot be used now, each with its place.
    pub fn degraded(&self) -> Vec<String> {
        let links = self.links.lock();
        let away = links.values().filter_map(Weak::upgrade).filter(|link| !link.is_up());
        let away = away.map(|link| format!("{} cannot be used: {}", link.place(), link.loss()));
        let short = match self.memory.shortage() {
            Shortage::None => None,
            Shortage::Large => Some("memory is short: large guests get no more"),
            Shortage::All => Some("memory is nearly used up: guests get no more, and new ones wait"),
        };
        away.chain(short.map(str::to_owned)).chain(self.files.troubles()).chain(self.telemetry.troubles.all()).collect()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // It may be dropped where one must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
