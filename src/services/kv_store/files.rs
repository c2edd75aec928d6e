//! The files of embedded stores: one for each service. Those of services that come and go are in a folder of their own, belong to the
//! service that made them (a later one of the same name begins with nothing), and are removed some time after it is gone.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::DatabaseError;
use tokio::runtime::Handle;

use super::embedded::{File, OpenError, unopened};
use crate::config::Config;
use crate::services::data;
use crate::telemetry::clock;

/// Where the files of services that come and go are.
const DROPINS: &str = "dropins";

/// Whose stores they are, and how much there may be of them.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its service's name.
    pub service: String,
    /// Bytes of keys, metadata and values of all its stores.
    pub most: u64,
    /// Whether it is a service that comes and goes.
    pub dropin: bool,
    /// Since when there is that service, in milliseconds since the epoch, if that is known.
    pub since: Option<u64>,
}

impl Owner {
    /// Of a service.
    pub fn of(config: &Config) -> Self {
        Self {
            service: config.name.clone(),
            most: config.limits.kv,
            dropin: config.dropin.is_some(),
            since: config.dropin.as_ref().and_then(|dropin| dropin.since),
        }
    }

    fn path(&self, folder: &Path) -> PathBuf {
        let folder = if self.dropin { folder.join(DROPINS) } else { folder.to_owned() };
        folder.join(file_name(&self.service))
    }
}

/// The files this process has open. A file is open once, however many generations of a service use it.
#[derive(Default)]
pub struct Files {
    open: Mutex<HashMap<PathBuf, Weak<File>>>,
    /// Held by whoever opens or removes one, however long that takes: a file that was not closed well is read as a whole.
    turn: Mutex<()>,
    /// Files of services that are not there, and since when that is known.
    orphans: Mutex<HashMap<PathBuf, Instant>>,
}

impl Files {
    /// The file of a service, opened now or before.
    pub fn open(&self, folder: &Path, owner: &Owner, readers: &Handle) -> Result<Arc<File>, OpenError> {
        let path = owner.path(folder);
        let _turn = self.turn.lock();
        let (known, file) = {
            let open = self.open.lock();
            (open.contains_key(&path), open.get(&path).and_then(Weak::upgrade))
        };
        if let Some(file) = file {
            if file.is_of(owner) {
                file.may_have(owner.most);
                return Ok(file);
            }
            // Whoever still has it finds that it is gone.
            remove(&path)?;
        }
        let above = path.parent().unwrap_or(folder);
        data::own_folder(above).map_err(|error| OpenError::Folder { path: folder.to_owned(), error })?;
        // One that was ours until a moment ago is let go of by the thread of its writes, at its own time.
        let mut tries = if known { 100 } else { 0 };
        let file = loop {
            match File::open(&path, owner, readers) {
                Err(OpenError::InUse(_)) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                // What another service of the same name has left.
                Err(OpenError::AnothersNow(_)) => {
                    tracing::info!(target: "sidelight::state", service = owner.service, "its KV stores begin anew: what is there is of an earlier service of the same name");
                    remove(&path)?;
                }
                result => break result?,
            }
        };
        let mut open = self.open.lock();
        open.retain(|_, file| file.strong_count() > 0);
        open.insert(path, Arc::downgrade(&file));
        Ok(file)
    }

    /// Removes the files of services that come and go and are not among `names`, when that has been so for `time`.
    pub fn tidy(&self, folder: &Path, names: &BTreeSet<&str>, time: Duration) {
        let expected: BTreeSet<String> = names.iter().map(|name| file_name(name)).collect();
        let Ok(entries) = std::fs::read_dir(folder.join(DROPINS)) else { return };
        let now = clock::now();
        let _turn = self.turn.lock();
        let mut orphans = self.orphans.lock();
        let mut found = HashMap::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|kind| kind != "redb")
                || path.file_name().and_then(|name| name.to_str()).is_none_or(|name| expected.contains(name))
                // One that has come since the names were taken.
                || self.open.lock().get(&path).is_some_and(|file| file.strong_count() > 0)
            {
                continue;
            }
            let since = orphans.get(&path).copied().unwrap_or(now);
            if now.duration_since(since) < time {
                found.insert(path, since);
                continue;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::info!(target: "sidelight::state", file = %path.display(), "removed: its service is gone"),
                Err(error) => {
                    tracing::warn!(target: "sidelight::state", file = %path.display(), %error, "its service is gone, and it cannot be removed");
                    // Tried again after the same time.
                    found.insert(path, now);
                }
            }
        }
        *orphans = found;
    }

    /// What cannot be read or written now.
    pub fn troubles(&self) -> Vec<String> {
        self.open.lock().values().filter_map(Weak::upgrade).filter_map(|file| file.trouble()).collect()
    }
}

fn remove(path: &Path) -> Result<(), OpenError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(OpenError::Folder { path: path.to_owned(), error }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the file of a service can be used, without changing it; one that another process has open is taken for good.
pub fn check(folder: &Path, owner: &Owner) -> Result<(), OpenError> {
    let path = owner.path(folder);
    // One of no bytes is a new one.
    if std::fs::metadata(&path).map_or(true, |found| found.len() == 0) {
        return Ok(());
    }
    match redb::ReadOnlyDatabase::open(&path) {
        Ok(_) | Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch | DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(unopened(&path, error)),
    }
}

/// A name that every file system takes, different for different services.
pub(super) fn file_name(service: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for byte in service.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !name.is_empty()) {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    name.push_str(".redb");
    name
}
