//! The platform: what a Compute program asks its surroundings for. A [`Services`] is built from a
//! [`Config`](crate::config::Config) and lives in a snapshot; what outlives it is in a [`Platform`].

pub mod acl;
pub mod backend;
pub mod cache;
pub mod config_store;
pub mod data;
pub mod descriptors;
pub mod device;
pub mod erl;
pub mod geo;
pub mod http_cache;
pub mod kv_store;
pub mod log;
pub mod memory;
pub mod platform;
pub mod redis;
pub mod secret_store;
pub mod share;
pub mod shielding;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::config::state::{Keep, KeepRates};

use crate::telemetry::service::ServiceMetrics;
use crate::telemetry::trace::Origin;
use ::http::HeaderValue;
use data::DataError;
use http_cache::decisions::Asker;
use http_cache::readthrough::Sender;
use kv_store::files::Owner;
use kv_store::memory::Memory;

pub use backend::Backends;
pub use platform::Platform;

/// The bundle of one service's platform parts.
pub struct Services {
    /// Where requests can be sent.
    pub backends: Backends,
    /// Named log endpoints.
    pub logs: log::Endpoints,
    /// Config stores, which are dictionaries, too.
    pub config_stores: HashMap<String, Arc<config_store::ConfigStore>>,
    /// Secret stores.
    pub secret_stores: HashMap<String, Arc<secret_store::SecretStore>>,
    /// Access lists.
    pub acls: HashMap<String, Arc<acl::Acl>>,
    /// Where addresses are.
    pub geo: geo::Geo,
    /// What user agents stand for.
    pub devices: device::Devices,
    /// KV stores.
    pub kv_stores: BTreeMap<String, kv_store::Store>,
    /// Those of them that are in memory: the next generation takes them over.
    in_memory: HashMap<String, Arc<Memory>>,
    /// What some of them are kept with.
    redis: Option<Arc<redis::Redis>>,
    /// Whether its returns are followed.
    followed: AtomicBool,
    /// Rate counters and penalty boxes.
    pub rates: Arc<dyn erl::Rates>,
    /// The ones in memory, if they are: taken over likewise.
    rates_in_memory: Arc<erl::memory::Memory>,
    /// Other places.
    pub shields: shielding::Shields,
    /// The cache.
    pub cache: cache::Cache,
    /// Why responses are in it or not.
    pub decisions: Arc<http_cache::decisions::Decisions>,
    /// What is counted of it.
    pub metrics: Arc<ServiceMetrics>,
    /// Its name.
    name: Arc<str>,
    /// This host's name in `X-Served-By`.
    served_by: HeaderValue,
    /// Whether responses are cached.
    caches: bool,
}

/// A part could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A backend's TLS settings cannot work.
    #[error("backend `{name}`: {source}")]
    Backend {
        /// The backend.
        name: String,
        /// What is wrong with it.
        source: backend::tls::TlsConfigError,
    },
    /// What it is made of cannot be used.
    #[error("{what}: {source}")]
    Data {
        /// The part.
        what: String,
        /// What is wrong with it.
        source: DataError,
    },
    /// A file of embedded stores cannot be opened.
    #[error(transparent)]
    File(#[from] kv_store::embedded::OpenError),
}

/// How often seeds are tried again while their store cannot be used.
const RETRY: Duration = Duration::from_secs(2);

impl Services {
    /// Opens everything `config` names; all faults are reported together. What is as it was in `previous`, the files behind
    /// it included, is carried over: its connections and what is known of its health, its counts, what its stores in memory
    /// hold. Seeds are not put in yet.
    pub fn build(config: &Config, previous: Option<&Self>, platform: &Platform) -> Result<Self, Vec<BuildError>> {
        let mut errors = Vec::new();
        let stores = &config.stores;
        let config_stores = each(&stores.config, "config store", &mut errors, config_store::ConfigStore::open);
        let secret_stores = each(&stores.secrets, "secret store", &mut errors, secret_store::SecretStore::open);
        let acls = each(&stores.acls, "access list", &mut errors, |path| acl::Acl::open(path));
        let geo = geo::Geo::open(&stores.geo);
        let geo = geo.map_err(|source| errors.push(BuildError::Data { what: "geolocation".to_owned(), source })).unwrap_or_default();
        let devices = device::Devices::open(stores);
        let devices = devices.map_err(|source| errors.push(BuildError::Data { what: "device detection".to_owned(), source }));
        let mut in_memory = HashMap::new();
        let kv_stores = kv_stores(config, previous, platform, &mut in_memory, &mut errors);
        let mut redis = None;
        if let Some(settings) = &config.state.redis {
            let link = if platform.is_trial() { platform.check_redis(settings).map(|()| None) } else { platform.redis(settings).map(Some) };
            redis = link.map_err(|source| errors.push(BuildError::Data { what: "state".to_owned(), source })).unwrap_or_default();
        }
        let cache = cache::Cache::new(&platform.cache, &config.name);
        if !platform.is_trial() {
            cache.space().is_of(cache::Owner {
                service_id: config.service_id.clone(),
                open_to: config.cache_open_to.clone(),
                comes_and_goes: config.dropin.is_some(),
            });
        }
        let fanout = match (&config.state.redis, &redis) {
            (Some(settings), Some(redis)) => Some(platform.fanout(settings, redis)),
            _ => None,
        };
        let rates_in_memory = previous.map(|previous| previous.rates_in_memory.clone()).unwrap_or_default();
        let rates: Arc<dyn erl::Rates> = match (stores.rates.unwrap_or_else(|| config.state.rates()), &config.state.redis) {
            (KeepRates::Redis, Some(_)) if redis.is_some() => match &redis {
                Some(redis) => Arc::new(erl::redis::Shared::new(redis.clone(), &config.name)),
                None => rates_in_memory.clone(),
            },
            (KeepRates::Redis, None) => {
                let source = DataError::Setting(NO_REDIS.to_owned());
                errors.push(BuildError::Data { what: "rate counters".to_owned(), source });
                rates_in_memory.clone()
            }
            (KeepRates::Memory, _) | (KeepRates::Redis, Some(_)) => rates_in_memory.clone(),
        };
        let logs = match log::Endpoints::build(config, previous.map(|previous| &previous.logs), platform) {
            Ok(logs) => Some(logs),
            Err(more) => {
                errors.extend(more);
                None
            }
        };
        let backends = Backends::build(config, previous.map(|previous| &previous.backends), &platform.connector, &platform.telemetry);
        match (backends, devices, logs) {
            (Ok(backends), Ok(devices), Some(logs)) if errors.is_empty() => Ok(Self {
                backends,
                logs,
                config_stores,
                secret_stores,
                acls,
                geo,
                devices,
                kv_stores,
                in_memory,
                redis,
                followed: AtomicBool::new(false),
                rates,
                rates_in_memory,
                shields: shielding::Shields::new(&stores.shields),
                cache: cache.with_fanout(fanout),
                decisions: platform.decisions.clone(),
                metrics: Arc::new(platform.telemetry.metrics.service(&config.name)),
                name: config.name.as_str().into(),
                served_by: served_by(&config.environment),
                caches: config.cache_http,
            }),
            (backends, _, _) => {
                errors.extend(backends.err().unwrap_or_default());
                Err(errors)
            }
        }
    }

    /// Whose decisions about caching are remembered.
    pub fn asker(&self, request_id: &Arc<str>, origin: Option<Origin>) -> Asker {
        Asker { service: self.name.clone(), request_id: request_id.clone(), decisions: self.decisions.clone(), origin }
    }

    /// Who sends requests that a request of a client leads to.
    pub fn sender(&self, request_id: &Arc<str>, origin: Option<Origin>) -> Sender {
        Sender { cache: self.cache.clone(), asker: self.asker(request_id, origin), served_by: self.served_by.clone(), caches: self.caches }
    }

    /// Puts the seeds of its KV stores in. Those of a store that cannot be used now are tried again in the background.
    /// Waits; not for a thread that serves requests.
    pub fn seed(self: &Arc<Self>, platform: &Platform) {
        if platform.is_trial() {
            return;
        }
        let (done, wait) = std::sync::mpsc::channel();
        for (name, store) in &self.kv_stores {
            let (name, store, done, services) = (name.clone(), store.clone(), done.clone(), Arc::downgrade(self));
            platform.background().spawn(async move {
                let mut result = store.seed().await;
                if let Err(error) = &result {
                    tracing::warn!(target: "sidelight::state", store = name, %error, "seeds could not be put in; they are tried again");
                }
                // Whoever waits need not wait for a store that is away.
                drop(done);
                while result.is_err() && services.strong_count() > 0 {
                    tokio::time::sleep(RETRY).await;
                    result = store.seed().await;
                }
                match result {
                    Ok(0) | Err(_) => {}
                    Ok(changed) => tracing::info!(target: "sidelight::state", store = name, changed, "seeds put in"),
                }
            });
        }
        if let Some(redis) = &self.redis
            && !self.followed.swap(true, Ordering::Relaxed)
        {
            // It may come back with nothing in it.
            let (mut returns, services) = (redis.returns(), Arc::downgrade(self));
            platform.background().spawn(async move {
                while returns.changed().await.is_ok() {
                    let Some(services) = services.upgrade() else { return };
                    for store in services.kv_stores.values() {
                        if let Err(error) = store.seed_missing().await {
                            tracing::warn!(target: "sidelight::state", %error, "seeds could not be looked at");
                        }
                    }
                }
            });
        }
        drop(done);
        // Ends when the last of them is dropped.
        let _: Result<(), _> = wait.recv();
    }
}

/// As production's hosts name themselves: `cache-HOST-POP`.
fn served_by(environment: &crate::config::Environment) -> HeaderValue {
    let name = format!("cache-{}-{}", environment.hostname, environment.pop);
    HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("cache"))
}

const NO_REDIS: &str = "it is to be kept with Redis, and there is none\n  hint: --redis URL, or [redis] in the host file";
const NO_FOLDER: &str =
    "it is to be kept on disk, and there is no folder for that\n  hint: --data-dir FOLDER, or data_dir in the host file";

/// Opens each of several; faults are kept.
fn each<S, T>(
    settings: &BTreeMap<String, S>,
    what: &str,
    errors: &mut Vec<BuildError>,
    open: impl Fn(&S) -> Result<Arc<T>, DataError>,
) -> HashMap<String, Arc<T>> {
    let mut opened = HashMap::new();
    for (name, settings) in settings {
        match open(settings) {
            Ok(one) => drop(opened.insert(name.clone(), one)),
            Err(source) => errors.push(BuildError::Data { what: format!("{what} `{name}`"), source }),
        }
    }
    opened
}

fn kv_stores(
    config: &Config,
    previous: Option<&Services>,
    platform: &Platform,
    in_memory: &mut HashMap<String, Arc<Memory>>,
    errors: &mut Vec<BuildError>,
) -> BTreeMap<String, kv_store::Store> {
    let mut opened = BTreeMap::new();
    // Where that is not what the manifest asks for.
    let in_memory_only = |settings: &crate::config::stores::KvStore| settings.keep.is_none() && config.state.kv() == Keep::Memory;
    if previous.is_none() && !platform.is_trial() && config.stores.kv.values().any(in_memory_only) {
        tracing::info!(
            target: "sidelight::state",
            service = config.name,
            "KV stores are in memory, and what is written to them is gone at the end; --data-dir or --redis keeps it"
        );
    }
    // One fault of the file is enough.
    let mut file = None;
    for (name, settings) in &config.stores.kv {
        let mut fail = |source| errors.push(BuildError::Data { what: format!("KV store `{name}`"), source });
        let seeds = match kv_store::seeds::read(settings) {
            Ok(seeds) => seeds,
            Err(source) => {
                fail(source);
                continue;
            }
        };
        let keep = settings.keep.unwrap_or_else(|| config.state.kv());
        if let (Keep::Embedded, Some(folder), true) = (keep, &config.state.data_dir, platform.is_trial()) {
            if let Err(source) = data::can_make_files(folder) {
                fail(source);
            }
            if let Err(error) = kv_store::files::check(folder, &Owner::of(config)) {
                file.get_or_insert(Err(error));
            }
        }
        let inner: Arc<dyn kv_store::KvStore> = match (keep, &config.state.data_dir, &config.state.redis) {
            (Keep::Embedded, None, _) => {
                fail(DataError::Setting(NO_FOLDER.to_owned()));
                continue;
            }
            (Keep::Redis, _, None) => {
                fail(DataError::Setting(NO_REDIS.to_owned()));
                continue;
            }
            (Keep::Embedded, Some(folder), _) if !platform.is_trial() => {
                let file = file.get_or_insert_with(|| platform.files.open(folder, &Owner::of(config), &platform.background()));
                match file {
                    Ok(file) => Arc::new(kv_store::embedded::Embedded::new(file.clone(), name)),
                    Err(_) => continue,
                }
            }
            (Keep::Redis, _, Some(redis)) if !platform.is_trial() => match platform.redis(redis) {
                Ok(redis) => Arc::new(kv_store::redis::Shared::new(redis, &config.name, name)),
                // It is told once, for all that is kept there.
                Err(_) => continue,
            },
            (Keep::Memory | Keep::Embedded | Keep::Redis, _, _) => {
                let kept = previous.and_then(|previous| previous.in_memory.get(name)).cloned();
                let memory = kept.unwrap_or_else(|| Arc::new(Memory::new(platform.memory.clone())));
                in_memory.insert(name.clone(), memory.clone());
                memory
            }
        };
        opened.insert(
            name.clone(),
            kv_store::Store::new((&config.name, name), inner, keep.name(), seeds, settings.reseed, &platform.telemetry),
        );
    }
    if let Some(Err(error)) = file {
        errors.push(error.into());
    }
    opened
}
