//! KV stores on this disk: one file for each service, by redb. What is acknowledged has been synced.
//!
//! Writes go to one thread for each file, which puts those that wait into one transaction: many writers share one sync.
//! Reads are snapshots and wait for nobody; they run where reading from a disk may take its time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError, TableHandle as _};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::files::Owner;
use super::{Entry, Error, Insert, KvStore, Listing, Mode, Page, Seed, Seeding, joined};
use crate::config::state::Reseed;
use crate::telemetry::clock;
use crate::telemetry::throttle::Throttle;

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

/// In it, the number of the last transaction.
const NUMBER: &str = "transaction";

/// The table of a store's entries, and that of its seeds.
const ENTRIES: &str = "kv:";
const SEEDS: &str = "seeds:";

type Entries<'t> = TableDefinition<'t, &'static str, &'static [u8]>;

/// What an entry costs beside its bytes.
const EACH: u64 = 128;

/// How often the log says that a file cannot be used.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Of a file system, what services that come and go leave to others: a tenth.
const RESERVE: u64 = 10;

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{}: another process has this file open\n  hint: each process needs a data folder of its own, and `sidelight kv` asks one that serves by --admin HOST:PORT; state that several share goes to Redis",
        .0.display()
    )]
    InUse(PathBuf),
    /// It is another service's, which is gone.
    #[error("{}: this file is of an earlier service of the same name", .0.display())]
    AnothersNow(PathBuf),
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
            Self::InUse(path)
            | Self::AnothersNow(path)
            | Self::Newer { path, .. }
            | Self::Damaged { path, .. }
            | Self::Folder { path, .. } => path,
        }
    }
}

pub(super) fn unopened(path: &Path, error: DatabaseError) -> OpenError {
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

/// An open file.
pub struct File {
    path: PathBuf,
    /// `None` while it is opened anew after a failure.
    database: RwLock<Option<Arc<Database>>>,
    /// Of the file when it was opened.
    identity: Mutex<Option<(u64, u64)>>,
    owner: Owner,
    /// Bytes that it may have.
    most: AtomicU64,
    /// Why it could not be read, and written, the last time.
    troubles: [Mutex<Option<String>>; 2],
    told: Throttle,
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

/// Of a file's troubles.
const READS: usize = 0;
const WRITES: usize = 1;

impl File {
    pub(super) fn open(path: &Path, owner: &Owner, readers: &Handle) -> Result<Arc<Self>, OpenError> {
        let database = Arc::new(open(path, owner)?);
        let (writes, queue) = mpsc::sync_channel(QUEUE);
        let file = Arc::new(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            identity: Mutex::new(identity(path)),
            owner: owner.clone(),
            most: AtomicU64::new(owner.most),
            troubles: Default::default(),
            told: Throttle::default(),
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
            *slot = Some(Arc::new(open(&self.path, &self.owner).map_err(unavailable)?));
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
    fn failed(&self, what: usize, error: &Error) {
        *self.troubles[what].lock() = Some(error.to_string());
        if self.told.is_due(TELL_AGAIN) {
            let service = &self.owner.service;
            tracing::error!(target: "sidelight::state", service, file = %self.path.display(), "its KV stores cannot be {}: {error}", ["read", "written"][what]);
        }
        *self.database.write() = None;
    }

    /// Whether the last transaction is this one, as far as that can be found out.
    fn has_reached(&self, number: u64) -> bool {
        let last = |database: &Database| -> Result<Option<u64>, redb::Error> {
            Ok(database.begin_read()?.open_table(META)?.get(NUMBER)?.map(|number| number.value()))
        };
        for _ in 0..20 {
            match self.database() {
                Ok(database) => return last(&database).is_ok_and(|last| last == Some(number)),
                // Somebody still reads from the one before.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        false
    }

    fn is_well(&self, what: usize) {
        let mut trouble = self.troubles[what].lock();
        if trouble.is_some() {
            *trouble = None;
        }
    }

    /// What cannot be done with it now.
    pub(super) fn trouble(&self) -> Option<String> {
        let told = |what: usize| self.troubles[what].lock().as_ref().map(|error| (["read", "written"][what], error.clone()));
        let (what, error) = told(WRITES).or_else(|| told(READS))?;
        Some(format!("KV stores of service `{}` cannot be {what}: {error}", self.owner.service))
    }

    /// Whether it is that service's, and not an earlier one's of the same name.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.owner.since.is_none() || owner.since.is_none() || self.owner.since == owner.since
    }

    pub(super) fn may_have(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Why a service that comes and goes may write no more: what is left of the disk is others'.
    fn is_kept_back(&self) -> Option<Error> {
        if !self.owner.dropin {
            return None;
        }
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        let short = disk.f_bavail < disk.f_blocks / RESERVE;
        short.then(|| unavailable("the disk is nearly full, and what is left of it is not for services that come and go"))
    }
}

fn open(path: &Path, owner: &Owner) -> Result<Database, OpenError> {
    let damaged = |error: &dyn std::fmt::Display| OpenError::Damaged { path: path.to_owned(), error: error.to_string() };
    if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        tracing::warn!(target: "sidelight::state", file = %path.display(), "this file has no bytes and is taken for a new one");
    }
    // Made here, if it is not there: with a mode of its own.
    use std::os::unix::fs::OpenOptionsExt as _;
    drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path));
    let database = redb::Builder::new().set_cache_size(CACHE).create(path).map_err(|error| unopened(path, error))?;
    let found = || -> Result<(u64, Option<u64>), redb::Error> {
        let transaction = database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            let since = meta.get("since")?.map(|since| since.value());
            if format.is_none() {
                meta.insert("format", FORMAT)?;
            }
            if let (None, Some(since)) = (since, owner.since) {
                meta.insert("since", since)?;
            }
            // One that was written before there was a count.
            if format.is_none_or(|format| format == FORMAT) && meta.get("bytes")?.is_none() {
                meta.insert("bytes", count(&transaction)?)?;
            }
            (format.unwrap_or(FORMAT), since)
        };
        transaction.commit()?;
        Ok(found)
    };
    match found().map_err(|error| damaged(&error))? {
        (FORMAT, Some(since)) if owner.since.is_some_and(|now| now != since) => Err(OpenError::AnothersNow(path.to_owned())),
        (FORMAT, _) => Ok(database),
        (found, _) => Err(OpenError::Newer { path: path.to_owned(), found }),
    }
}

/// What an entry counts for.
fn size(key: &str, stored: &[u8]) -> u64 {
    key.len() as u64 + stored.len() as u64 + EACH
}

/// Bytes of all entries of all stores.
fn count(transaction: &redb::WriteTransaction) -> Result<u64, redb::Error> {
    let names: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    let mut bytes = 0;
    for name in names.iter().filter(|name| name.starts_with(ENTRIES)) {
        for item in transaction.open_table(Entries::new(name))?.iter()? {
            let (key, stored) = item?;
            bytes += size(key.value(), stored.value());
        }
    }
    Ok(bytes)
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
            file.failed(WRITES, &error);
            batch.into_iter().for_each(|write| drop(write.reply.send(Err(error.clone()))));
            continue;
        }
        let room = Room { most: file.most.load(Ordering::Relaxed), none: file.is_kept_back() };
        let done = apply(&database, &batch, &room);
        drop(database);
        match done {
            Ok(results) => {
                file.is_well(WRITES);
                // A receiver that is gone did not want to know.
                batch.into_iter().zip(results).for_each(|(write, result)| drop(write.reply.send(result)));
            }
            Err(Unapplied { error, perhaps }) => {
                let full = is_full(&error);
                let error = unavailable(error);
                file.failed(WRITES, &error);
                // On a full disk what fails may be what comes after all was written.
                let results = match perhaps.filter(|(number, _)| full && file.has_reached(*number)) {
                    Some((_, results)) => results,
                    None => vec![Err(error); batch.len()],
                };
                batch.into_iter().zip(results).for_each(|(write, result)| drop(write.reply.send(result)));
            }
        }
    }
}

/// Whether it is room that is missing. (After any other failure, what can be read need not be on the disk.)
fn is_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

/// How much may be written.
struct Room {
    /// Bytes in all.
    most: u64,
    /// Why nothing more may be.
    none: Option<Error>,
}

impl Room {
    /// Whether there may be `after` bytes, where there are `now`. A seed is put in however much there is.
    fn allows(&self, now: u64, after: u64) -> Result<(), Error> {
        match &self.none {
            _ if after <= now => Ok(()),
            Some(error) => Err(error.clone()),
            None if after > self.most => {
                Err(unavailable(format!("its service's stores hold {} MiB, which is all they may (limits.kv_mib)", self.most >> 20)))
            }
            None => Ok(()),
        }
    }
}

/// What a file counts.
#[derive(Clone, Copy, PartialEq)]
struct Counts {
    generation: u64,
    bytes: u64,
}

type Results = Vec<Result<Done, Error>>;

/// Why a transaction has failed.
struct Unapplied {
    error: redb::Error,
    /// Its number, and what has come of it, if it has happened all the same.
    perhaps: Option<(u64, Results)>,
}

/// All of them in one transaction.
fn apply(database: &Database, batch: &[Write], room: &Room) -> Result<Results, Unapplied> {
    let begun = || {
        let transaction = database.begin_write()?;
        let (number, results) = fill(&transaction, batch, room)?;
        Ok((transaction, number, results))
    };
    let (transaction, number, results) = begun().map_err(|error| Unapplied { error, perhaps: None })?;
    match transaction.commit() {
        Ok(()) => Ok(results),
        Err(error) => Err(Unapplied { error: error.into(), perhaps: Some((number, results)) }),
    }
}

/// What a transaction is to do, and its number.
fn fill(transaction: &redb::WriteTransaction, batch: &[Write], room: &Room) -> Result<(u64, Results), redb::Error> {
    let mut results = Vec::with_capacity(batch.len());
    let transaction_number;
    {
        let mut meta = transaction.open_table(META)?;
        let number = |name: &str| -> Result<u64, redb::Error> { Ok(meta.get(name)?.map_or(0, |number| number.value())) };
        let mut counts = Counts { generation: number("generation")?, bytes: number("bytes")? };
        let before = counts;
        transaction_number = number(NUMBER)? + 1;
        for write in batch {
            results.push(one(transaction, &mut counts, write, room)?);
        }
        if counts.generation != before.generation {
            meta.insert("generation", counts.generation)?;
        }
        if counts.bytes != before.bytes {
            meta.insert("bytes", counts.bytes)?;
        }
        meta.insert(NUMBER, transaction_number)?;
    }
    Ok((transaction_number, results))
}

fn one(transaction: &redb::WriteTransaction, counts: &mut Counts, write: &Write, room: &Room) -> Result<Result<Done, Error>, redb::Error> {
    let name = format!("{ENTRIES}{}", write.store);
    let mut entries = transaction.open_table(Entries::new(&name))?;
    let now = millis(clock::unix());
    match &write.action {
        Action::Insert { key, value, how } => {
            let (record, after) = {
                let stored = entries.get(key.as_str())?;
                let had = stored.as_ref().map_or(0, |stored| size(key, stored.value()));
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
                let expires = how.ttl.map_or(0, |ttl| now.saturating_add(millis(ttl)).max(1));
                let generation = counts.generation + 1;
                let record = Record { generation, expires, written: now, seed: None, metadata: &how.metadata, value: &value }.bytes();
                let after = counts.bytes.saturating_sub(had) + size(key, &record);
                if let Err(error) = room.allows(counts.bytes, after) {
                    return Ok(Err(error));
                }
                (record, after)
            };
            *counts = Counts { generation: counts.generation + 1, bytes: after };
            entries.insert(key.as_str(), record.as_slice())?;
            Ok(Ok(Done(counts.generation)))
        }
        Action::Delete { key } => {
            let removed = entries.remove(key.as_str())?;
            counts.bytes = counts.bytes.saturating_sub(removed.as_ref().map_or(0, |stored| size(key, stored.value())));
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
                    let removed = entries.remove(key.as_str())?;
                    counts.bytes = counts.bytes.saturating_sub(removed.map_or(0, |stored| size(&key, stored.value())));
                    changed += 1;
                }
            }
            for seed in seeds {
                let digest = seed.digest();
                let last = known.get(seed.key.as_str())?.and_then(|last| <[u8; 32]>::try_from(last.value()).ok());
                let seeding = Seeding::decide(digest, last, mark(&entries, &seed.key)?, *when);
                if seeding == Seeding::Write {
                    counts.generation += 1;
                    let (metadata, value) = (seed.metadata.as_ref(), seed.value.as_ref());
                    let record = Record { generation: counts.generation, expires: 0, written: now, seed: Some(digest), metadata, value };
                    let record = record.bytes();
                    let before = entries.insert(seed.key.as_str(), record.as_slice())?.map_or(0, |stored| size(&seed.key, stored.value()));
                    counts.bytes = counts.bytes.saturating_sub(before) + size(&seed.key, &record);
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
    let mut freed = 0;
    for name in names.iter().filter(|name| name.starts_with(ENTRIES)) {
        let mut entries = transaction.open_table(Entries::new(name))?;
        entries.retain(|key, stored| {
            let live = Record::read(stored).is_none_or(|record| record.is_live(now));
            if !live {
                freed += size(key, stored);
            }
            live
        })?;
    }
    if freed > 0 {
        let mut meta = transaction.open_table(META)?;
        let bytes = meta.get("bytes")?.map_or(0, |bytes| bytes.value());
        meta.insert("bytes", bytes.saturating_sub(freed))?;
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
            if result.is_ok() {
                file.is_well(READS);
            }
            result.map_err(|error| match error {
                ReadError::Ours(error) => error,
                ReadError::Redb(error) => {
                    let error = unavailable(error);
                    file.failed(READS, &error);
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
mod tests;
