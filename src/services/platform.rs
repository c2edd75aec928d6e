//! What services have in common and keep from one generation to the next: threads for state, links, open files.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

use super::backend::Connector;
use super::data::DataError;
use super::kv_store::embedded::Files;
use super::log::Queue;
use super::redis::{self, Redis};
use crate::config::Secret;
use crate::config::state::Redis as RedisSettings;
use crate::telemetry::Telemetry;

/// Settings, and the password that their file has.
type LinkKey = (RedisSettings, Option<Secret>);

/// What outlives every generation of every service.
pub struct Platform {
    /// Of backends.
    pub connector: Arc<Connector>,
    /// Embedded stores.
    pub files: Files,
    /// What everything counts into.
    pub telemetry: Telemetry,
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
        Self::build(telemetry, false)
    }

    /// One to find out with whether a configuration is right: no store is opened, and nobody is connected to.
    pub fn for_trial(telemetry: &Telemetry) -> std::io::Result<Self> {
        Self::build(telemetry, true)
    }

    fn build(telemetry: &Telemetry, trial: bool) -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).max_blocking_threads(16).thread_name("sidelight-state").enable_all().build()?;
        Ok(Self {
            connector: Arc::new(Connector::new()),
            files: Files::default(),
            telemetry: telemetry.clone(),
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

    pub(super) fn add_queue(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
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
        away.map(|link| format!("{} cannot be used: {}", link.place(), link.loss())).collect()
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
