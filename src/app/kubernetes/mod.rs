//! Services from a Kubernetes cluster: ConfigMaps and Secrets with the label `sidelight.dev/service`.
//!
//! They are written into the folder of services that come and go, so that what follows is the same as for folders that somebody
//! else has put there. Events at the objects say what became of them.

mod folders;
mod parts;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt as _, watcher::Event as Watched};
use kube::{Api, Client};
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::sync::mpsc;

use super::reload::Reloader;
use super::watch::{self, Asked};
use crate::config::kubernetes::Kubernetes;
use crate::runtime::source::chained as chain;
use crate::telemetry::clock;
use parts::{LABEL, Object, Part, Whole};

/// Quiet after a change before it is put in force: changes come in groups.
const SETTLE: Duration = Duration::from_millis(200);

/// Longest time that further changes put one off.
const AT_MOST: Duration = Duration::from_secs(2);

/// How often a cluster that does not answer is asked again at first.
const AGAIN: Duration = Duration::from_secs(1);

/// And at most.
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// How often it is looked whether the time of a service is over.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is tried to delete an object.
const DELETE_AGAIN: Duration = Duration::from_secs(60);

/// Bytes of a note of an event.
const NOTE: usize = 1000;

/// Follows the objects of a cluster as long as the process serves.
pub struct Cluster {
    /// Which.
    pub settings: Kubernetes,
    /// Where services are written.
    pub folder: PathBuf,
    /// Where to ask for reloads.
    pub reloads: mpsc::Sender<Asked>,
    /// What is in force.
    pub reloader: Arc<Reloader>,
    /// Whether everything that the cluster had at the start is known.
    pub known: Arc<AtomicBool>,
}

/// Objects of one kind.
struct Known<K> {
    now: HashMap<String, K>,
    /// While all are told anew.
    next: HashMap<String, K>,
    complete: bool,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { now: HashMap::new(), next: HashMap::new(), complete: false }
    }
}

impl<K: Object + kube::ResourceExt> Known<K> {
    /// Whether that is worth a look.
    fn hear(&mut self, event: Watched<K>) -> bool {
        match event {
            Watched::Init => self.next.clear(),
            Watched::InitApply(object) => drop(self.next.insert(object.name_any(), object)),
            Watched::InitDone => {
                self.now = std::mem::take(&mut self.next);
                self.complete = true;
            }
            Watched::Apply(object) => drop(self.now.insert(object.name_any(), object)),
            Watched::Delete(object) => drop(self.now.remove(&object.name_any())),
        }
        self.complete
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.now.values().filter_map(Object::part)
    }
}

/// What was said last of an object.
type Told = HashMap<(&'static str, String), String>;

/// One session with a cluster.
struct Session<'a> {
    cluster: &'a Cluster,
    client: Client,
    namespace: String,
    reporter: Reporter,
    told: Told,
    /// Whether it was said that events cannot be written.
    mute: bool,
    /// When the next service is over.
    end: Option<SystemTime>,
    /// What was put in force last, and what kept all of it out.
    last: Option<(BTreeMap<String, Whole>, Option<String>)>,
}

#[async_trait]
impl BackgroundService for Cluster {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.follow() => {}
        }
    }
}

impl Cluster {
    async fn follow(&self) {
        let client = self.client().await;
        let namespace = self.settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        tracing::info!(namespace, "services are ConfigMaps and Secrets with the label {LABEL}");
        let reporter = Reporter { controller: "sidelight".to_owned(), instance: instance() };
        let maps = objects::<ConfigMap>(&client, &namespace);
        let secrets = objects::<Secret>(&client, &namespace);
        let mut session = Session { cluster: self, client, namespace, reporter, told: Told::new(), mute: false, end: None, last: None };
        let mut attempts = self.reloader.attempts();
        let (mut maps, mut secrets) = (std::pin::pin!(maps), std::pin::pin!(secrets));
        let (mut configs, mut secret) = (Known::default(), Known::default());
        let mut looked = tokio::time::interval(LOOK);
        // When what has changed is put in force, and when at the latest.
        let mut due: Option<(tokio::time::Instant, tokio::time::Instant)> = None;
        loop {
            let changed = tokio::select! {
                Some(event) = maps.next() => heard("ConfigMaps", &session.namespace, event).is_some_and(|event| configs.hear(event)),
                Some(event) = secrets.next() => heard("Secrets", &session.namespace, event).is_some_and(|event| secret.hear(event)),
                () = tokio::time::sleep_until(due.map_or_else(tokio::time::Instant::now, |(at, _)| at)), if due.is_some() => {
                    due = None;
                    if session.put(Whole::of(configs.parts().chain(secret.parts()))).await {
                        self.known.store(true, Ordering::Relaxed);
                    }
                    false
                }
                // What was got ready beside reloads is ready.
                Ok(()) = attempts.changed() => {
                    session.report().await;
                    false
                }
                // The condition is looked at when the wait begins, the time when it is over.
                _ = looked.tick(), if self.settings.delete_expired && session.end.is_some() => {
                    if session.end.is_some_and(|end| end <= clock::wall()) {
                        session.delete_what_is_over(Whole::of(configs.parts().chain(secret.parts()))).await;
                    }
                    false
                }
            };
            if changed && configs.complete && secret.complete {
                let now = tokio::time::Instant::now();
                let latest = due.map_or(now + AT_MOST, |(_, latest)| latest);
                due = Some(((now + SETTLE).min(latest), latest));
            }
        }
    }

    /// A connection to the cluster. It is tried until it works: what was served before a restart is served meanwhile.
    async fn client(&self) -> Client {
        let mut wait = AGAIN;
        loop {
            match Client::try_default().await {
                Ok(client) => return client,
                Err(error) => {
                    tracing::error!(
                        "the Kubernetes cluster cannot be reached: {error}\n  hint: in a Pod, its service account's token must be mounted; \
                         elsewhere KUBECONFIG says how"
                    );
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(AGAIN_AT_MOST);
                }
            }
        }
    }
}

/// The Pod's name, which is its host's.
fn instance() -> Option<String> {
    let name = rustix::system::uname();
    Some(name.nodename().to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

fn objects<K>(client: &Client, namespace: &str) -> impl Stream<Item = watcher::Result<Watched<K>>> + Send + use<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watcher(Api::<K>::namespaced(client.clone(), namespace), watcher::Config::default().labels(LABEL)).default_backoff()
}

fn heard<K>(kind: &str, namespace: &str, event: watcher::Result<Watched<K>>) -> Option<Watched<K>> {
    event
        .inspect_err(|error| {
            tracing::warn!("{kind} of namespace {namespace} cannot be followed: {}; what is served is served on", chain(error));
        })
        .ok()
}

impl Session<'_> {
    /// Puts in force what the cluster has, and says what became of it. Whether it could be written.
    async fn put(&mut self, services: BTreeMap<String, Whole>) -> bool {
        self.end = services.values().filter_map(Whole::end).min();
        let folder = self.cluster.folder.clone();
        let written = tokio::task::spawn_blocking(move || folders::write(&folder, &services).map(|()| services)).await;
        let services = match written {
            Ok(Ok(services)) => services,
            Ok(Err(error)) => {
                tracing::error!(folder = %self.cluster.folder.display(), %error, "services cannot be written; what is served is served on");
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "services cannot be written; what is served is served on");
                return false;
            }
        };
        // The end of the process is no fault.
        let Some(verdict) = watch::ask(&self.cluster.reloads, "kubernetes").await else { return false };
        self.last = Some((services, verdict.error));
        self.report().await;
        true
    }

    /// Says what has become of what the cluster has.
    async fn report(&mut self) {
        let Some((services, error)) = self.last.take() else { return };
        let status = self.cluster.reloader.status();
        let now = clock::wall();
        for (name, whole) in services.iter().filter(|(name, _)| !status.preparing.contains(name)) {
            for (part, why) in &whole.refused {
                self.tell(part, why.clone(), EventType::Warning, "Refused", why.clone()).await;
            }
            let served = status.services.iter().find(|service| service.name == *name);
            let fault = status.faulty.iter().find(|fault| fault.service == *name).map(|fault| fault.error.clone());
            // A host file that cannot be used keeps everybody's changes out.
            let fault = fault.or_else(|| error.clone().filter(|_| served.is_none()));
            let (kind, reason, note) = match (fault, served) {
                (Some(error), Some(_)) => (EventType::Warning, "Refused", format!("what was served before is served on: {error}")),
                (Some(error), None) => (EventType::Warning, "Refused", error),
                (None, _) if whole.is_over(now) || status.expired.contains_key(name) => {
                    (EventType::Normal, "Expired", "its time is over: it is served no longer".to_owned())
                }
                (None, Some(service)) => {
                    let hosts = service.hosts.join(", ");
                    (EventType::Normal, "Served", format!("{hosts} with {} (sha256 {})", service.module, &service.digest[..16]))
                }
                (None, None) => continue,
            };
            for part in &whole.parts {
                let state = format!("{} {reason} {note}", folders::digest(whole));
                self.tell(part, state, kind, reason, note.clone()).await;
            }
        }
        self.told.retain(|(kind, name), _| {
            let mut all = services.values().flat_map(|whole| whole.parts.iter().chain(whole.refused.iter().map(|(part, _)| part)));
            all.any(|part| part.kind == *kind && part.name == *name)
        });
        self.last = Some((services, error));
    }

    /// An event at an object, unless the same was said of it.
    async fn tell(&mut self, part: &Part, state: String, type_: EventType, reason: &str, mut note: String) {
        let key = (part.kind, part.name.clone());
        if self.told.get(&key) == Some(&state) {
            return;
        }
        self.told.insert(key, state);
        if note.len() > NOTE {
            note.truncate(note.floor_char_boundary(NOTE));
            note.push('…');
        }
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: "Serve".to_owned(), secondary: None };
        // One that remembers would count this one as what it said before for the same reason, with the note of then.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let published = recorder.publish(&event, &part.reference(&self.namespace)).await;
        match published {
            Ok(()) => self.mute = false,
            Err(error) if !self.mute => {
                self.mute = true;
                tracing::warn!("events cannot be written: {}; services are served all the same", chain(&error));
            }
            Err(_) => {}
        }
    }

    /// Deletes the objects of services whose time is over, unless they have changed meanwhile.
    async fn delete_what_is_over(&mut self, services: BTreeMap<String, Whole>) {
        let now = clock::wall();
        // What cannot be deleted is tried again after a while.
        self.end = now.checked_add(DELETE_AGAIN);
        for part in services.values().filter(|whole| whole.is_over(now)).flat_map(|whole| &whole.parts) {
            let only = Preconditions { resource_version: Some(part.version.clone()), uid: Some(part.uid.clone()) };
            let how = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            let deleted = match part.kind {
                "Secret" => Api::<Secret>::namespaced(self.client.clone(), &self.namespace).delete(&part.name, &how).await.map(drop),
                _ => Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace).delete(&part.name, &how).await.map(drop),
            };
            match deleted {
                Ok(()) => tracing::info!(service = part.service, "{} {} is deleted: its time is over", part.kind, part.name),
                // Another replica was faster, or it has changed.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    let key = (part.kind, part.name.clone());
                    let state = "not deleted".to_owned();
                    if self.told.insert(key, state.clone()) != Some(state) {
                        tracing::warn!(service = part.service, "{} {} cannot be deleted: {}", part.kind, part.name, chain(&error));
                    }
                }
            }
        }
    }
}
