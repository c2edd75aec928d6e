//! KV stores on this disk: one file for each service, by redb. What is acknowledged has been synced.
//!
//! Writes go to one thread for each file, which puts those that wait into one transaction: many writers share one sync.
//! Reads are snapshots and wait for nobody; they run where reading from a disk may take its time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError, TableHandle as _};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::{Entry, Error, Insert, KvStore, Listing, Mode, Page, Seed, Seeding, joined};
use crate::config::state::Reseed;
use crate::services::data;
use crate::telemetry::clock;

/// The format of what is in the tables.
const FORMAT: u64 = 1;

/// Reads at once, of all stores: a large value takes memory two or three times while it is read.
static READING: Semaphore = Semaphore::const_new(4);

/// Pages kept in memory, in bytes.
const CACHE: usize = 64 << 20;

/// Operations of one transaction, and bytes of values in it, at most.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 32 << 20;

/// Operations that may wait.
const QUEUE: usize = 4096;

/// How often what has expired is taken out.
const SWEEP: Duration = Duration::from_secs(600);

/// Facts about the file.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The table of a store's entries, and that of its seeds.
const ENTRIES: &str = "kv:";
const SEEDS: &str = "seeds:";

type Entries<'t> = TableDefinition<'t, &'static str, &'static [u8]>;

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{}: another process has this file open\n  hint: each process needs a data folder of its own; state that several share goes to Redis",
        .0.display()
    )]
    InUse(PathBuf),
    /// A later version of this host wrote it.
    #[error("{}: a newer version of sidelight has written this file (format {found}, this one knows {FORMAT})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// It is damaged, or the disk fails.
    #[error("{}: {error}\n  hint: the file is left as it is; move it away to begin with an empty one, or put a copy of it back", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb said.
        error: String,
    },
    /// Its folder cannot be had.
    #[error("{}: {error}\n  hint: the folder has to be writable to this process, and the file its own", path.display())]
    Folder {
        /// The folder, or the file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

impl OpenError {
    /// The file, or its folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::InUse(path) | Self::Newer { path, .. } | Self::Damaged { path, .. } | Self::Folder { path, .. } => path,
        }
    }
}

/// The files this process has open. A file is open once, however many generations of a service use it.
#[derive(Default)]
pub struct Files(Mutex<HashMap<PathBuf, Weak<File>>>);

impl Files {
    /// The file of a service, opened now or before.
    pub fn open(&self, folder: &Path, service: &str, readers: &Handle) -> Result<Arc<File>, OpenError> {
        let path = folder.join(file_name(service));
        let mut open = self.0.lock();
        if let Some(file) = open.get(&path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        data::own_folder(folder).map_err(|error| OpenError::Folder { path: folder.to_owned(), error })?;
        // One that was ours until a moment ago is let go of by the thread of its writes, at its own time.
        let mut tries = if open.contains_key(&path) { 100 } else { 0 };
        let file = loop {
            match File::open(&path, readers) {
                Err(OpenError::InUse(_)) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => break result?,
            }
        };
        open.insert(path, Arc::downgrade(&file));
        Ok(file)
    }
}

/// Whether the file of a service can be used, without changing it; one that another process has open is taken for good.
pub fn check(folder: &Path, service: &str) -> Result<(), OpenError> {
    let path = folder.join(file_name(service));
    // One of no bytes is a new one.
    if std::fs::metadata(&path).map_or(true, |found| found.len() == 0) {
        return Ok(());
    }
    match redb::ReadOnlyDatabase::open(&path) {
        Ok(_) | Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch | DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(unopened(&path, error)),
    }
}

fn unopened(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            OpenError::Folder { path: path.to_owned(), error }
        }
        error => OpenError::Damaged { path: path.to_owned(), error: error.to_string() },
    }
}

/// Device and inode of a file: another one may have taken its place.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// A name that every file system takes, different for different services.
fn file_name(service: &str) -> String {
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

/// An open file.
pub struct File {
    path: PathBuf,
    /// `None` while it is opened anew after a failure.
    database: RwLock<Option<Arc<Database>>>,
    /// Of the file when it was opened.
    identity: Mutex<Option<(u64, u64)>>,
    writes: mpsc::SyncSender<Write>,
    readers: Handle,
}

/// An operation of the writing thread.
struct Write {
    store: Arc<str>,
    action: Action,
    reply: oneshot::Sender<Result<Done, Error>>,
}

enum Action {
    Insert { key: String, value: Bytes, how: Insert },
    Delete { key: String },
    Seed { seeds: Vec<Seed>, when: Reseed },
}

impl Action {
    fn size(&self) -> usize {
        match self {
            Self::Insert { value, .. } => value.len(),
            Self::Delete { .. } => 0,
            Self::Seed { seeds, .. } => seeds.iter().map(|seed| seed.value.len()).sum(),
        }
    }
}

/// Generation, whether there was one, or how many changed.
#[derive(Clone, Copy)]
struct Done(u64);

/// The entry as it is stored: a head of fixed length, metadata, value. Times are milliseconds since the epoch.
struct Record<'a> {
    generation: u64,
    /// 0: never.
    expires: u64,
    written: u64,
    /// The seed that it is, when nobody has written it since.
    seed: Option<[u8; 32]>,
    metadata: &'a [u8],
    value: &'a [u8],
}

const HEAD: usize = 8 + 8 + 8 + 1 + 32 + 4;

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let seed: [u8; 32] = bytes.get(25..57)?.try_into().ok()?;
        let metadata = usize::try_from(u32::from_le_bytes(bytes.get(57..61)?.try_into().ok()?)).ok()?;
        Some(Self {
            generation: number(0)?,
            expires: number(8)?,
            written: number(16)?,
            seed: (*bytes.get(24)? == 1).then_some(seed),
            metadata: bytes.get(HEAD..HEAD + metadata)?,
            value: bytes.get(HEAD + metadata..)?,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.metadata.len() + self.value.len());
        for number in [self.generation, self.expires, self.written] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(u8::from(self.seed.is_some()));
        bytes.extend_from_slice(&self.seed.unwrap_or_default());
        bytes.extend_from_slice(&u32::try_from(self.metadata.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(self.metadata);
        bytes.extend_from_slice(self.value);
        bytes
    }

    fn is_live(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

fn damaged() -> Error {
    Error::Unavailable("an entry is damaged".to_owned())
}

impl File {
    fn open(path: &Path, readers: &Handle) -> Result<Arc<Self>, OpenError> {
        let database = Arc::new(open(path)?);
        let (writes, queue) = mpsc::sync_channel(QUEUE);
        let file = Arc::new(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            identity: Mutex::new(identity(path)),
            writes,
            readers: readers.clone(),
        });
        let this = Arc::downgrade(&file);
        let thread = std::thread::Builder::new().name("sidelight-store".to_owned());
        thread.spawn(move || write(&this, &queue)).map_err(|error| OpenError::Folder { path: path.to_owned(), error })?;
        Ok(file)
    }

    /// The database, opened anew if it has failed.
    fn database(&self) -> Result<Arc<Database>, Error> {
        if let Some(database) = &*self.database.read() {
            return Ok(database.clone());
        }
        let mut slot = self.database.write();
        if slot.is_none() {
            *slot = Some(Arc::new(open(&self.path).map_err(unavailable)?));
            *self.identity.lock() = identity(&self.path);
            tracing::info!(target: "sidelight::state", file = %self.path.display(), "the store can be used again");
        }
        slot.clone().ok_or_else(|| unavailable("it is closed"))
    }

    /// Whether its path still leads to it: what is written to a file that has been deleted is lost.
    fn is_there(&self) -> bool {
        identity(&self.path) == *self.identity.lock()
    }

    /// After a failure redb wants the file opened anew.
    fn failed(&self, error: &Error) {
        tracing::error!(target: "sidelight::state", file = %self.path.display(), "{error}");
        *self.database.write() = None;
    }
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let damaged = |error: &dyn std::fmt::Display| OpenError::Damaged { path: path.to_owned(), error: error.to_string() };
    if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        tracing::warn!(target: "sidelight::state", file = %path.display(), "this file has no bytes and is taken for a new one");
    }
    // Made here, if it is not there: with a mode of its own.
    use std::os::unix::fs::OpenOptionsExt as _;
    drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path));
    let database = redb::Builder::new().set_cache_size(CACHE).create(path).map_err(|error| unopened(path, error))?;
    let found = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("format")?.map(|format| format.value());
            if found.is_none() {
                meta.insert("format", FORMAT)?;
            }
            found
        };
        transaction.commit()?;
        Ok(found.unwrap_or(FORMAT))
    };
    match found().map_err(|error| damaged(&error))? {
        FORMAT => Ok(database),
        found => Err(OpenError::Newer { path: path.to_owned(), found }),
    }
}

/// The thread of a file's writes: until nobody has the file.
fn write(file: &Weak<File>, queue: &mpsc::Receiver<Write>) {
    loop {
        let first = match queue.recv_timeout(SWEEP) {
            Ok(first) => first,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(file) = file.upgrade()
                    && let Ok(database) = file.database()
                    && let Err(error) = sweep(&database)
                {
                    tracing::warn!(target: "sidelight::state", %error, "what has expired could not be taken out");
                }
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let mut size = first.action.size();
        let mut batch = vec![first];
        while batch.len() < BATCH && size < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            size += next.action.size();
            batch.push(next);
        }
        // Whoever waits for these writes holds the file.
        let Some(file) = file.upgrade() else { continue };
        let database = match file.database() {
            Ok(database) => database,
            Err(error) => {
                batch.into_iter().for_each(|write| drop(write.reply.send(Err(error.clone()))));
                continue;
            }
        };
        if !file.is_there() {
            let error = unavailable(format!("{} has been deleted or replaced", file.path.display()));
            drop(database);
            file.failed(&error);
            batch.into_iter().for_each(|write| drop(write.reply.send(Err(error.clone()))));
            continue;
        }
        let done = apply(&database, &batch);
        drop(database);
        match done {
            Ok(results) => {
                // A receiver that is gone did not want to know.
                batch.into_iter().zip(results).for_each(|(write, result)| drop(write.reply.send(result)));
            }
            Err(error) => {
                let error = unavailable(error);
                file.failed(&error);
                batch.into_iter().for_each(|write| drop(write.reply.send(Err(error.clone()))));
            }
        }
    }
}

/// All of them in one transaction. An error: none of them has happened.
fn apply(database: &Database, batch: &[Write]) -> Result<Vec<Result<Done, Error>>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut results = Vec::with_capacity(batch.len());
    {
        let mut meta = transaction.open_table(META)?;
        let mut generation = meta.get("generation")?.map_or(0, |generation| generation.value());
        let before = generation;
        for write in batch {
            results.push(one(&transaction, &mut generation, write)?);
        }
        if generation != before {
            meta.insert("generation", generation)?;
        }
    }
    transaction.commit()?;
    Ok(results)
}

fn one(transaction: &redb::WriteTransaction, generation: &mut u64, write: &Write) -> Result<Result<Done, Error>, redb::Error> {
    let name = format!("{ENTRIES}{}", write.store);
    let mut entries = transaction.open_table(Entries::new(&name))?;
    let now = millis(clock::unix());
    match &write.action {
        Action::Insert { key, value, how } => {
            let record = {
                let stored = entries.get(key.as_str())?;
                let before = stored.as_ref().and_then(|stored| Record::read(stored.value())).filter(|record| record.is_live(now));
                if how.if_generation.is_some() && how.if_generation != before.as_ref().map(|before| before.generation) {
                    return Ok(Err(Error::Precondition));
                }
                if before.as_ref().is_some_and(|before| now.saturating_sub(before.written) < millis(how.interval)) {
                    return Ok(Err(Error::TooMany));
                }
                let value = match (how.mode, &before) {
                    (Mode::Add, Some(_)) => return Ok(Err(Error::Precondition)),
                    (Mode::Append, Some(before)) => joined(before.value, value),
                    (Mode::Prepend, Some(before)) => joined(value, before.value),
                    (Mode::Overwrite, _) | (Mode::Add | Mode::Append | Mode::Prepend, None) => Ok(value.clone()),
                };
                let value = match value {
                    Ok(value) => value,
                    Err(error) => return Ok(Err(error)),
                };
                *generation += 1;
                let expires = how.ttl.map_or(0, |ttl| now.saturating_add(millis(ttl)).max(1));
                Record { generation: *generation, expires, written: now, seed: None, metadata: &how.metadata, value: &value }.bytes()
            };
            entries.insert(key.as_str(), record.as_slice())?;
            Ok(Ok(Done(*generation)))
        }
        Action::Delete { key } => {
            let removed = entries.remove(key.as_str())?;
            let live = removed.as_ref().and_then(|stored| Record::read(stored.value())).is_some_and(|record| record.is_live(now));
            Ok(Ok(Done(live.into())))
        }
        Action::Seed { seeds, when } => {
            let name = format!("{SEEDS}{}", write.store);
            let mut known = transaction.open_table(Entries::new(&name))?;
            let mark = |entries: &redb::Table<'_, &'static str, &'static [u8]>, key: &str| -> Result<_, redb::Error> {
                let stored = entries.get(key)?;
                let record = stored.as_ref().and_then(|stored| Record::read(stored.value())).filter(|record| record.is_live(now));
                Ok(record.map(|record| record.seed))
            };
            let mut changed = 0;
            let mut gone = Vec::new();
            for item in known.iter()? {
                let (key, digest) = item?;
                if !seeds.iter().any(|seed| seed.key == key.value()) {
                    gone.push((key.value().to_owned(), <[u8; 32]>::try_from(digest.value()).ok()));
                }
            }
            for (key, last) in gone {
                known.remove(key.as_str())?;
                if let Some(Some(mark)) = mark(&entries, &key)?
                    && Some(mark) == last
                {
                    entries.remove(key.as_str())?;
                    changed += 1;
                }
            }
            for seed in seeds {
                let digest = seed.digest();
                let last = known.get(seed.key.as_str())?.and_then(|last| <[u8; 32]>::try_from(last.value()).ok());
                let seeding = Seeding::decide(digest, last, mark(&entries, &seed.key)?, *when);
                if seeding == Seeding::Write {
                    *generation += 1;
                    let (metadata, value) = (seed.metadata.as_ref(), seed.value.as_ref());
                    let record = Record { generation: *generation, expires: 0, written: now, seed: Some(digest), metadata, value };
                    entries.insert(seed.key.as_str(), record.bytes().as_slice())?;
                    changed += 1;
                }
                if seeding != Seeding::Keep {
                    known.insert(seed.key.as_str(), digest.as_slice())?;
                }
            }
            Ok(Ok(Done(changed)))
        }
    }
}

/// Takes out what has expired, of every store.
fn sweep(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let names: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    let now = millis(clock::unix());
    for name in names.iter().filter(|name| name.starts_with(ENTRIES)) {
        let mut entries = transaction.open_table(Entries::new(name))?;
        entries.retain(|_, stored| Record::read(stored).is_none_or(|record| record.is_live(now)))?;
    }
    transaction.commit()?;
    Ok(())
}

/// One store of a file.
pub struct Embedded {
    file: Arc<File>,
    name: Arc<str>,
}

impl Embedded {
    /// The store of that name.
    pub fn new(file: Arc<File>, name: &str) -> Self {
        Self { file, name: name.into() }
    }

    async fn write(&self, action: Action) -> Result<Done, Error> {
        let (reply, done) = oneshot::channel();
        let write = Write { store: self.name.clone(), action, reply };
        match self.file.writes.try_send(write) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(_)) => return Err(unavailable("too many writes wait for the disk")),
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(unavailable("it is closed")),
        }
        done.await.unwrap_or_else(|_| Err(unavailable("the thread of its writes has ended")))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database, &str) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Error> {
        let (file, name) = (self.file.clone(), format!("{ENTRIES}{}", self.name));
        let work = move || {
            let database = file.database()?;
            let result = read(&database, &name);
            drop(database);
            result.map_err(|error| match error {
                ReadError::Ours(error) => error,
                ReadError::Redb(error) => {
                    let error = unavailable(error);
                    file.failed(&error);
                    error
                }
            })
        };
        // It is never closed.
        let _reading = READING.acquire().await;
        self.file.readers.spawn_blocking(work).await.unwrap_or_else(|error| Err(unavailable(error)))
    }
}

enum ReadError {
    Ours(Error),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// A table to be read; `None`: nobody has written to it yet.
fn table(database: &Database, name: &str) -> Result<Option<redb::ReadOnlyTable<&'static str, &'static [u8]>>, ReadError> {
    match database.begin_read()?.open_table(Entries::new(name)) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl KvStore for Embedded {
    async fn lookup(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.read(move |database, name| {
            let Some(table) = table(database, name)? else { return Ok(None) };
            let Some(stored) = table.get(key.as_str())? else { return Ok(None) };
            let record = Record::read(stored.value()).ok_or_else(|| ReadError::Ours(damaged()))?;
            Ok(record.is_live(millis(clock::unix())).then(|| Entry {
                value: Bytes::copy_from_slice(record.value),
                metadata: Bytes::copy_from_slice(record.metadata),
                generation: record.generation,
            }))
        })
        .await
    }

    async fn insert(&self, key: &str, value: Bytes, how: &Insert) -> Result<u64, Error> {
        let Done(generation) = self.write(Action::Insert { key: key.to_owned(), value, how: how.clone() }).await?;
        Ok(generation)
    }

    async fn delete(&self, key: &str) -> Result<bool, Error> {
        let Done(removed) = self.write(Action::Delete { key: key.to_owned() }).await?;
        Ok(removed > 0)
    }

    async fn list(&self, page: &Page) -> Result<Listing, Error> {
        let page = page.clone();
        self.read(move |database, name| {
            let mut listing = Listing::default();
            let Some(table) = table(database, name)? else { return Ok(listing) };
            let from = page.after.as_deref().filter(|after| *after >= page.prefix.as_str());
            let now = millis(clock::unix());
            for item in table.range(from.unwrap_or(&page.prefix)..)? {
                let (key, stored) = item?;
                if !key.value().starts_with(&page.prefix) {
                    break;
                }
                let live = Record::read(stored.value()).is_some_and(|record| record.is_live(now));
                if !live || from == Some(key.value()) {
                    continue;
                }
                if listing.keys.len() == page.limit as usize {
                    listing.more = true;
                    break;
                }
                listing.keys.push(key.value().to_owned());
            }
            Ok(listing)
        })
        .await
    }

    async fn seed(&self, seeds: &[Seed], when: Reseed) -> Result<usize, Error> {
        let Done(changed) = self.write(Action::Seed { seeds: seeds.to_vec(), when }).await?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn open_in(folder: &Path, files: &Files) -> Result<Embedded, OpenError> {
        Ok(Embedded::new(files.open(folder, "shop", &Handle::current())?, "store"))
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::default();
        let file = files.open(folder.path(), "shop", &Handle::current()).expect("opens");
        let count = std::sync::atomic::AtomicUsize::new(0);
        let fresh = async || {
            let name = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
            Arc::new(Embedded::new(file.clone(), &name)) as Arc<dyn KvStore>
        };
        super::super::contract::check(fresh).await;
    }

    #[tokio::test]
    async fn what_is_written_is_there_the_next_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let generation = {
            let store = open_in(folder.path(), &Files::default()).expect("opens");
            store.insert("k", "v".into(), &Insert { metadata: "m".into(), ..Insert::default() }).await.expect("writes")
        };
        // The thread of its writes lets go of the file at its own time.
        let store = loop {
            match open_in(folder.path(), &Files::default()) {
                Err(OpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => break other.expect("opens"),
            }
        };
        let entry = store.lookup("k").await.expect("looks up").expect("is there");
        assert_eq!((entry.value, entry.metadata, entry.generation), ("v".into(), "m".into(), generation));
        assert!(store.insert("k", "w".into(), &Insert::default()).await.expect("writes") > generation);
    }

    #[tokio::test]
    async fn a_second_process_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::default();
        let _first = open_in(folder.path(), &files).expect("opens");
        assert!(open_in(folder.path(), &files).is_ok(), "another generation of this process shares it");
        let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is in use").to_string();
        assert!(error.contains("shop.redb: another process has this file open") && error.contains("hint: "), "{error}");
    }

    #[tokio::test]
    async fn damaged_and_newer_files_are_left_as_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop.redb");
        {
            let database = open(&path).expect("makes one");
            let transaction = database.begin_write().expect("begins");
            transaction.open_table(META).expect("opens").insert("format", 2).expect("inserts");
            transaction.commit().expect("commits");
        }
        let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is newer");
        assert!(error.to_string().contains("a newer version of sidelight has written this file (format 2, this one knows 1)"), "{error}");

        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
        file.set_len(1000).expect("truncates");
        let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is truncated");
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        file.write_all_at(b"not a database", 0).expect("writes");
        let error = open_in(folder.path(), &Files::default()).map(drop).expect_err("is no database");
        assert!(error.to_string().contains("the file is left as it is"), "{error}");
        assert_eq!(std::fs::read(&path).expect("reads").len(), 1000);
    }

    #[tokio::test]
    async fn a_file_that_is_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open_in(folder.path(), &Files::default()).expect("opens");
        store.insert("k", "v".into(), &Insert::default()).await.expect("writes");
        std::fs::remove_file(folder.path().join("shop.redb")).expect("deletes");
        assert!(matches!(store.insert("k", "w".into(), &Insert::default()).await, Err(Error::Unavailable(_))), "not into nowhere");
        store.insert("k", "x".into(), &Insert::default()).await.expect("into a new one");
        assert!(folder.path().join("shop.redb").exists());
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("shop.example-1_a"), "shop.example-1_a.redb");
        assert_eq!(file_name("../a b"), "%2e.%2fa%20b.redb");
        assert_eq!(file_name(""), ".redb");
    }
}
