//! What makes the process look at its files again: that they change, SIGHUP, and `POST /reload`.
//!
//! Folders are watched, not files: editors and Kubernetes put a new file in the old one's place, and a watch on a file
//! stays with the old one. An event only means that it is worth to look; what counts is what is in the files. Where
//! there are no events (some network file systems), files are looked at from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::reload::Reloader;
use super::signals;
use super::verdict::Verdict;
use crate::telemetry::clock;

/// Quiet after an event before the files are looked at: changes come in groups.
const SETTLE: Duration = Duration::from_millis(100);

/// How often files are looked at without an event.
const LOOK: Duration = Duration::from_secs(30);

/// How often folders that are not there are looked for.
const LOOK_SOON: Duration = Duration::from_millis(500);

/// How long whoever asks for a reload waits for services that are got ready beside it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked at how new generations fare.
const JUDGE: Duration = Duration::from_millis(100);

/// Somebody wants a reload.
pub struct Asked {
    /// Whoever does; see [`Verdict::cause`].
    pub cause: &'static str,
    /// Gets the verdict.
    pub reply: oneshot::Sender<Verdict>,
}

/// Asks for a reload, and waits until it is done; `None`: the process ends.
pub async fn ask(reloads: &mpsc::Sender<Asked>, cause: &'static str) -> Option<Verdict> {
    let (reply, verdict) = oneshot::channel();
    reloads.send(Asked { cause, reply }).await.ok()?;
    verdict.await.ok()
}

/// Reloads, one at a time, as long as the process serves.
pub struct Reloads {
    reloader: Arc<Reloader>,
    asked: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
    /// Whether files are watched.
    watch: bool,
}

impl Reloads {
    /// With where to ask for reloads.
    pub fn new(reloader: Arc<Reloader>, watch: bool) -> (Self, mpsc::Sender<Asked>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self { reloader, asked: tokio::sync::Mutex::new(receiver), watch }, sender)
    }

    /// Tells whoever waits for nothing more.
    fn reply(&self, waiting: &mut Vec<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        let pending = self.reloader.pending();
        // What is done is told when it is in force. (In this order: what is pending no more is prepared by then.)
        let (unsettled, now) = (self.reloader.has_prepared(), clock::now());
        let waits = |waiting: &Waiting| {
            let expects = unsettled || waiting.verdict.preparing.iter().any(|name| pending.contains(name));
            expects && waiting.until.is_some_and(|until| now < until)
        };
        for done in waiting.extract_if(.., |waiting| !waits(waiting)) {
            // Whoever asked may be gone.
            drop(done.reply.send(done.verdict));
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Reloader) -> T + Send + 'static) -> Option<T> {
        let reloader = self.reloader.clone();
        match tokio::task::spawn_blocking(move || work(&reloader)).await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "a reload broke off; what was served is served on");
                None
            }
        }
    }
}

/// Somebody who wants to know what became of a reload.
struct Waiting {
    verdict: Verdict,
    reply: oneshot::Sender<Verdict>,
    /// Until when also of the services that are got ready beside it, but for those that are known to take long.
    until: Option<Instant>,
}

/// Adds what has come of a later attempt.
fn merge(waiting: &mut [Waiting], verdict: Option<&Verdict>) {
    for waiting in waiting.iter_mut().filter(|waiting| waiting.until.is_some()) {
        if let Some(verdict) = verdict {
            waiting.verdict = waiting.verdict.clone().and(verdict.clone());
        }
    }
}

/// Watches the folders of files.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    /// Of the files: others in the same folders are of no interest.
    names: Arc<Mutex<BTreeSet<OsString>>>,
    /// Folders of which everything is of interest.
    whole: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// With device and inode: one that is deleted and made again is another.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

/// How it stands with the folders of files.
struct Followed {
    /// One is watched that was not before: something may have changed in it just before.
    new: bool,
    /// One is not there, so that nothing tells when it is.
    missing: bool,
}

impl Folders {
    fn new(changed: Arc<Notify>) -> Self {
        let names: Arc<Mutex<BTreeSet<OsString>>> = Arc::default();
        let interesting = names.clone();
        let whole: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let wholly = whole.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let names = interesting.lock();
            // Kubernetes swaps the link `..data`; of a folder itself everything is of interest.
            let is_ours = |path: &PathBuf| {
                path.parent().is_some_and(|folder| wholly.lock().contains(folder))
                    || path.file_name().is_none_or(|name| names.contains(name) || name.as_encoded_bytes().starts_with(b".."))
                    || path.is_dir()
            };
            let gone = event.kind.is_remove() || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
            if !event.kind.is_access() && (event.paths.is_empty() || gone || event.paths.iter().any(is_ours)) {
                changed.notify_one();
            }
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "files cannot be watched; they are looked at every {LOOK:?}")).ok();
        Self { watcher, names, whole, watched: BTreeMap::new() }
    }

    /// Watches the folders of `files`, and no others.
    fn follow(&mut self, files: &BTreeSet<PathBuf>) -> Followed {
        let mut followed = Followed { new: false, missing: false };
        let Some(watcher) = &mut self.watcher else { return followed };
        *self.names.lock() = files.iter().filter_map(|file| file.file_name().map(OsString::from)).collect();
        let folder = |file: &PathBuf| match file.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let folders: BTreeSet<PathBuf> = files.iter().filter(|file| file.is_dir()).cloned().collect();
        let wanted: BTreeSet<PathBuf> = files.iter().map(folder).chain(folders.iter().cloned()).collect();
        *self.whole.lock() = folders;
        let mut watched = BTreeMap::new();
        for folder in wanted {
            let Ok(found) = std::fs::metadata(&folder) else {
                followed.missing = true;
                continue;
            };
            let identity = (found.dev(), found.ino());
            if self.watched.get(&folder) == Some(&identity) {
                watched.insert(folder, identity);
                continue;
            }
            // Of a folder that was there before, and is gone.
            drop(watcher.unwatch(&folder));
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    followed.new = true;
                    watched.insert(folder, identity);
                }
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "a folder cannot be watched; its files are looked at every {LOOK:?}");
                }
            }
        }
        for gone in self.watched.keys().filter(|folder| !watched.contains_key(*folder)) {
            // Its folder may be gone, too.
            drop(watcher.unwatch(gone));
        }
        self.watched = watched;
        followed
    }
}

async fn stopping(shutdown: &mut ShutdownWatch) {
    // An error means that the server is gone: that too is the end.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

#[async_trait]
impl BackgroundService for Reloads {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        for service in self.reloader.current().routes().services() {
            service.services.backends.start_checks();
        }
        let mut asked = self.asked.lock().await;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut hang_up = signals::listen(SignalKind::hangup());
        let changed = Arc::new(Notify::new());
        let mut folders = self.watch.then(|| Folders::new(changed.clone()));
        // Not a sleep: what else happens must not put it off.
        let mut judging = tokio::time::interval(JUDGE);
        judging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.reply(&mut waiting);
            let mut missing = false;
            if let Some(folders) = &mut folders {
                let followed = folders.follow(&self.reloader.files());
                missing = followed.missing;
                if followed.new {
                    let verdict = self.run(Reloader::reload_if_changed).await.flatten();
                    merge(&mut waiting, verdict.as_ref());
                    continue;
                }
            }
            let looked = tokio::time::sleep(if missing { LOOK_SOON } else { LOOK });
            let poll = self.reloader.poll();
            // Not all hosts at once.
            let polled = tokio::time::sleep(poll.map_or(LOOK, |poll| poll.mul_f64(1.0 + 0.1 * f64::from(std::process::id() % 8) / 8.0)));
            let expiry = self.reloader.next_expiry();
            // The clock on the wall may be set meanwhile: it is looked at again after a while.
            let over = tokio::time::sleep(expiry.map_or(LOOK, |at| at.duration_since(clock::wall()).unwrap_or_default().min(LOOK)));
            let patience = waiting.iter().filter_map(|waiting| waiting.until).min();
            let patience = tokio::time::sleep(patience.map_or(LOOK, |until| until.saturating_duration_since(clock::now())));
            let verdict = tokio::select! {
                () = stopping(&mut shutdown) => return,
                () = signals::next(&mut hang_up) => self.run(|reloader| reloader.reload("signal")).await,
                Some(Asked { cause, reply }) = asked.recv() => {
                    let verdict = self.run(move |reloader| reloader.reload(cause)).await;
                    merge(&mut waiting, verdict.as_ref());
                    if let Some(verdict) = verdict {
                        let until = (cause == "request").then(|| clock::now() + PATIENCE);
                        waiting.push(Waiting { verdict, reply, until });
                    }
                    None
                }
                // Somebody is told how it stands.
                () = patience, if !waiting.is_empty() => None,
                () = self.reloader.told() => self.run(Reloader::take_prepared).await.flatten(),
                () = polled, if poll.is_some() => self.run(|reloader| reloader.reload("poll")).await,
                () = over, if expiry.is_some() => self.run(Reloader::expire).await.and(None),
                _ = judging.tick(), if self.reloader.has_trials() => self.run(Reloader::judge).await.and(None),
                () = changed.notified(), if self.watch => {
                    tokio::time::sleep(SETTLE).await;
                    // A folder that was moved away and back is the same, and not watched any more: all are watched anew,
                    // and looked at once more then.
                    if let Some(folders) = &mut folders {
                        folders.watched.clear();
                    }
                    self.run(Reloader::reload_if_changed).await.flatten()
                }
                () = looked => {
                    self.run(Reloader::tidy).await.unwrap_or_default();
                    if self.watch { self.run(Reloader::reload_if_changed).await.flatten() } else { None }
                }
            };
            merge(&mut waiting, verdict.as_ref());
        }
    }
}
