//! The disk tier: objects that are there again after a restart, and that may leave memory without being lost.
//!
//! The bytes of an object are one file; everything else about it is in a list ([`journal`](super::journal)). One thread
//! writes, in the order in which things happen in memory; but purges are before objects that wait to be written. Bytes are checked block by block before anybody gets them: what
//! is damaged is forgotten, and asked for again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::bounds::Bounds;
use super::content::{Content, Kept, Whole};
use super::journal::{self, Journal, Put, Record};
use super::object::{Object, Place};
use super::store::Store;
use crate::http::BodyError;
use crate::services::data::{self, DataError};
use crate::telemetry::{Telemetry, clock};

/// Bytes that are checked together.
const BLOCK: u64 = 64 << 10;

/// Up to this size an object is checked, and is in memory again, before it counts as found.
pub(super) const AT_ONCE: u64 = BLOCK;

/// Objects that may wait to be written; others are not written, and neither are those that leave memory meanwhile.
const WAITING: usize = 4096;

/// What an object on disk costs in memory beside [`Object::meta_weight`]: its place in the list.
const LISTED: u64 = 512;

/// How far clocks may be apart.
const CLOCKS: Duration = Duration::from_secs(1);

/// The list is written anew when it is so much larger than it need be.
const SLACK: u64 = 16 << 20;

/// Objects in files.
pub struct Disk {
    folder: PathBuf,
    bound: u64,
    bounds: Bounds,
    /// Bytes of memory that may be of what is known of objects on disk.
    memory: u64,
    /// Bytes in use.
    used: AtomicU64,
    work: mpsc::Sender<Work>,
    /// What is done before all of `work`.
    urgent: mpsc::Sender<Work>,
    waiting: Arc<AtomicUsize>,
    /// What the list said at the start.
    generations: HashMap<String, u64>,
    position: Mutex<Option<String>>,
    /// Objects of the list, until the store takes them.
    found: Mutex<Vec<Put>>,
    /// For the thread, until it begins.
    writer: Mutex<Option<Writer>>,
    /// Held as long as the folder is this process's.
    _lock: File,
}

/// Something for the thread to do.
enum Work {
    Write(Weak<Object>),
    Remove(u64),
    /// These have been purged.
    Purged(Vec<u64>),
    Soft(u64, u64),
    Generation(String, u64),
    Position(String),
    Older(u64),
    /// Call this when everything before is done, and would be there after a loss of power; not if a purge has failed.
    Flush(Box<dyn FnOnce() + Send>),
    /// Something urgent is there.
    Look,
}

/// The bytes of an object in a file.
#[derive(Clone)]
pub(super) struct DiskBody {
    file: Arc<BodyFile>,
}

pub(super) struct BodyFile {
    id: u64,
    path: PathBuf,
    length: u64,
    sums: Box<[u32]>,
    /// Of no object any more: it is removed when nobody reads it any more.
    unwanted: AtomicBool,
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if *self.unwanted.get_mut() {
            drop(fs::remove_file(&self.path));
        }
    }
}

impl DiskBody {
    fn new(folder: &Path, id: u64, length: u64, sums: Vec<u32>) -> Self {
        let path = body_path(folder, id);
        Self { file: Arc::new(BodyFile { id, path, length, sums: sums.into(), unwanted: AtomicBool::new(false) }) }
    }

    pub(super) fn length(&self) -> u64 {
        self.file.length
    }

    /// Bytes from `at` to the end of a block, checked.
    fn block(&self, at: u64) -> Result<Bytes, BodyError> {
        let damaged = |what: &dyn std::fmt::Display| BodyError::Incomplete(format!("{}: {what}", self.file.path.display()));
        let file = File::open(&self.file.path).map_err(|error| damaged(&error))?;
        let index = at / BLOCK;
        let start = index * BLOCK;
        let mut bytes = BytesMut::zeroed(BLOCK.min(self.file.length - start) as usize);
        file.read_exact_at(&mut bytes, start).map_err(|error| damaged(&error))?;
        if self.file.sums.get(index as usize) != Some(&crc32fast::hash(&bytes)) {
            return Err(damaged(&"it is damaged"));
        }
        Ok(bytes.freeze().slice((at - start) as usize..))
    }

    /// Bytes from `at` on, a block at most.
    pub(super) async fn read(&self, at: u64, content: &Content) -> Result<Bytes, BodyError> {
        let body = self.clone();
        let read = tokio::task::spawn_blocking(move || body.block(at)).await;
        let read = read.unwrap_or_else(|_| Err(BodyError::Incomplete("reading it has failed".to_owned())));
        if let Err(error) = &read {
            tracing::warn!(target: "sidelight::cache", %error, "a cached object is damaged and forgotten");
            if let Some(object) = content.object() {
                object.go();
            }
        }
        read
    }

    /// All of them.
    pub(super) fn all(&self) -> Result<Bytes, BodyError> {
        if self.file.length <= BLOCK {
            return if self.file.length == 0 { Ok(Bytes::new()) } else { self.block(0) };
        }
        let mut all = BytesMut::with_capacity(self.file.length as usize);
        while (all.len() as u64) < self.file.length {
            all.extend_from_slice(&self.block(all.len() as u64)?);
        }
        Ok(all.freeze())
    }
}

fn unusable(folder: &Path, error: &io::Error) -> DataError {
    DataError::Setting(format!("{}: {error}\n  hint: the cache is kept there (--cache-disk, cache.disk_mib)", folder.display()))
}

impl Disk {
    /// The files in a folder, made if it is not there. A list that is worthless is begun anew, with a message.
    ///
    /// What is known of the objects takes `memory` bytes at most.
    pub(super) fn open(data_dir: &Path, bound: u64, largest: u64, memory: u64) -> Result<Self, DataError> {
        let folder = data_dir.join("cache");
        let fail = |error: io::Error| unusable(&folder, &error);
        data::own_folder(&folder.join("bodies")).map_err(fail)?;
        let lock = File::create(folder.join("lock")).map_err(fail)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text =
                format!("{}: another process keeps its cache there\n  hint: each process needs a data folder of its own", folder.display());
            return Err(DataError::Setting(text));
        }
        let list = folder.join("list");
        let fail_list = |error: io::Error| unusable(&list, &error);
        let mut known = Known::default();
        let journal = match journal::read(&list) {
            Ok((records, end)) => {
                records.into_iter().for_each(|(record, size)| known.apply(record, size));
                known.check(&folder);
                Journal::open(&list, end).map_err(fail_list)?
            }
            Err(journal::Damage::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                Journal::create(&list, std::iter::empty()).map_err(fail_list)?
            }
            Err(damage) => {
                tracing::warn!(target: "sidelight::cache", file = %list.display(), %damage, "the list of cached objects is passed over: the cache begins empty");
                Journal::create(&list, std::iter::empty()).map_err(fail_list)?
            }
        };
        known.sweep(&folder);
        let (work, queue) = mpsc::channel();
        let (urgent, first) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let found: Vec<Put> = known.puts.values().map(|listed| listed.put.clone()).collect();
        let generations = known.generations.clone();
        let position = Mutex::new(known.position.clone());
        let writer = Writer {
            folder: folder.clone(),
            journal,
            known,
            queue,
            first,
            waiting: waiting.clone(),
            troubled: false,
            lost: false,
            files: HashMap::new(),
        };
        Ok(Self {
            folder,
            bound,
            bounds: Bounds::new(bound, largest),
            memory: memory.max(1),
            used: AtomicU64::new(0),
            work,
            urgent,
            waiting,
            generations,
            position,
            found: Mutex::new(found),
            writer: Mutex::new(Some(writer)),
            _lock: lock,
        })
    }

    /// Puts what is here into the store, and begins to write.
    pub(super) fn begin(&self, store: &Arc<Store>) {
        let mut found = std::mem::take(&mut *self.found.lock());
        found.sort_unstable_by_key(|put| put.inserted);
        let mut bodies = HashMap::new();
        let (count, mut objects) = (found.len(), 0);
        for put in found {
            let (id, body) = (put.id, put.body);
            let space = store.space(&put.service);
            // One from the future has been written with another clock: how old it is nobody knows.
            if put.generation != space.generation() || put.inserted > clock::unix() + CLOCKS {
                self.send(Work::Remove(id));
                continue;
            }
            let body = match bodies.get(&body).and_then(Weak::upgrade) {
                Some(file) => DiskBody { file },
                None => DiskBody::new(&self.folder, body, put.length, put.sums),
            };
            bodies.insert(body.file.id, Arc::downgrade(&body.file));
            let whole = Whole { length: put.length, trailers: None, bytes: Kept::Disk(body.clone()) };
            let content = Content::whole(whole, space.in_flight.clone());
            content.is_on_disk(body);
            let mut options = put.options;
            let inserted = match store.at_unix(put.inserted) {
                Ok(at) => at,
                Err(before) => {
                    // It was there before this process was.
                    options.initial_age = options.initial_age.saturating_add(before);
                    0
                }
            };
            let place = Place {
                key: put.key,
                variant: super::key::Variant::from_bits(put.variant),
                space,
                generation: put.generation,
                about: put.about.into(),
            };
            let object = Arc::new(Object::new(id, place, options, inserted, false, content));
            object.set_purged_at(put.purged_at);
            object.content.belongs_to(&object);
            store.found_again(&object);
            self.hold(store, &object);
            objects += 1;
        }
        if count > 0 {
            tracing::info!(target: "sidelight::cache", objects, "cached objects are here from before");
        }
        if let Some(mut writer) = self.writer.lock().take() {
            writer.files = bodies;
            let store = Arc::downgrade(store);
            let started = std::thread::Builder::new().name("sidelight-cache".to_owned()).spawn(move || writer.run(&store));
            if let Err(error) = started {
                tracing::error!(target: "sidelight::cache", %error, "the cache is not written to disk");
            }
        }
    }

    fn send(&self, work: Work) {
        // Without the thread, nothing is written any more.
        drop(self.work.send(work));
    }

    /// A purge, or who waits for purges. What is purged is not written any more, so it may be before what is purged.
    fn urge(&self, work: Work) {
        drop(self.urgent.send(work));
        self.send(Work::Look);
    }

    /// Counts an object that is on disk; others may have to leave.
    fn hold(&self, store: &Store, object: &Arc<Object>) {
        let Some(body) = object.content.on_disk() else { return };
        let size = body.length() + object.meta_weight();
        // What is known of it is in memory, whatever has a disk's room: small objects with much beside them weigh more.
        let known = object.meta_weight() + object.about.len() as u64 + LISTED;
        let share = u128::from(known) * u128::from(self.bound) / u128::from(self.memory);
        object.on_disk.store(size, Ordering::Relaxed);
        self.used.fetch_add(size, Ordering::Relaxed);
        for left in self.bounds.keep(object.clone(), size.max(u64::try_from(share).unwrap_or(u64::MAX))) {
            self.left(&left);
            self.send(Work::Remove(left.id));
            if left.content.get().is_some_and(|whole| matches!(whole.bytes, Kept::Disk(_))) {
                store.drop_object(&left);
            } else {
                left.content.is_off_disk();
            }
        }
        // It may have gone meanwhile.
        if object.is_gone() {
            self.bounds.remove(object);
            self.left(object);
        }
    }

    fn left(&self, object: &Object) {
        self.used.fetch_sub(object.on_disk.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The highest number that an object has.
    pub(super) fn last_id(&self) -> u64 {
        self.found.lock().iter().map(|put| put.id.max(put.body)).max().unwrap_or(0)
    }

    /// Objects, bytes, and the most bytes.
    pub(super) fn used(&self) -> (usize, u64, u64) {
        (self.bounds.count(), self.used.load(Ordering::Relaxed), self.bound)
    }

    pub(super) fn generation(&self, service: &str) -> u64 {
        self.generations.get(service).copied().unwrap_or(0)
    }

    pub(super) fn position(&self) -> Option<String> {
        self.position.lock().clone()
    }

    pub(super) fn set_position(&self, position: &str) {
        *self.position.lock() = Some(position.to_owned());
        self.send(Work::Position(position.to_owned()));
    }

    pub(super) fn move_on(&self, by: Duration) {
        self.send(Work::Older(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)));
    }

    pub(super) fn set_generation(&self, service: &str, generation: u64) {
        self.urge(Work::Generation(service.to_owned(), generation));
    }

    /// Writes an object, in a while.
    pub(super) fn write(&self, object: &Arc<Object>, telemetry: &Telemetry) {
        let whole = object.content.get();
        let fits = whole.is_some_and(|whole| whole.trailers.is_none() && whole.length <= self.bound);
        if object.options.sensitive || object.pass || !fits {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            // The disk is behind; what is asked for again is written then.
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            telemetry.metrics.cache_disk_skipped.inc();
            return;
        }
        self.send(Work::Write(Arc::downgrade(object)));
    }

    /// An object leaves memory: whether it is here.
    pub(super) fn take_over(&self, object: &Arc<Object>) -> bool {
        let Some(body) = object.content.on_disk() else { return false };
        object.content.put(Whole { length: body.length(), trailers: None, bytes: Kept::Disk(body) });
        true
    }

    /// An object has been used.
    pub(super) fn touch(&self, object: &Object) {
        self.bounds.touch(object);
    }

    pub(super) fn remove(&self, object: &Object) {
        self.bounds.remove(object);
        self.left(object);
        self.send(Work::Remove(object.id));
    }

    pub(super) fn note_soft(&self, object: &Object) {
        self.urge(Work::Soft(object.id, object.purged_at()));
    }

    /// These have been purged, and leave tables later.
    pub(super) fn note_purged(&self, objects: Vec<u64>) {
        if !objects.is_empty() {
            self.urge(Work::Purged(objects));
        }
    }

    /// Waits until the purges before this are on disk, no longer than `limit`; whether they are.
    pub(super) async fn purges_are_kept(&self, limit: Duration) -> bool {
        let (done, wait) = tokio::sync::oneshot::channel();
        // Who is gone does not wait.
        self.urge(Work::Flush(Box::new(move || done.send(()).unwrap_or(()))));
        matches!(tokio::time::timeout(limit, wait).await, Ok(Ok(())))
    }

    pub(super) fn each(&self, look: impl FnMut(&Arc<Object>)) {
        self.bounds.each(look);
    }

    /// Waits until what is known is on disk, no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = mpsc::channel();
        self.send(Work::Flush(Box::new(move || done.send(()).unwrap_or(()))));
        // Too late is too late.
        let _ = wait.recv_timeout(limit);
    }

    /// Nothing is written until what is returned is dropped.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> mpsc::Sender<()> {
        let (go_on, wait) = mpsc::channel::<()>();
        self.send(Work::Flush(Box::new(move || wait.recv().unwrap_or(()))));
        go_on
    }
}

fn body_path(folder: &Path, id: u64) -> PathBuf {
    folder.join("bodies").join(format!("{:02x}", id & 0xff)).join(format!("{id:016x}"))
}

/// An object, and how many bytes of the list it takes.
struct Listed {
    put: Put,
    size: u64,
}

/// What the list says.
#[derive(Default)]
struct Known {
    puts: HashMap<u64, Listed>,
    /// How many objects have a file of bytes.
    bodies: HashMap<u64, usize>,
    generations: HashMap<String, u64>,
    position: Option<String>,
    /// Bytes of the list that are of use.
    size: u64,
}

impl Known {
    fn apply(&mut self, record: Record, size: u64) {
        match record {
            Record::Put(put) => {
                *self.bodies.entry(put.body).or_default() += 1;
                self.size += size;
                self.puts.insert(put.id, Listed { put: *put, size });
            }
            Record::Remove(id) => drop(self.remove(id)),
            Record::Soft(id, age) => {
                if let Some(Listed { put, .. }) = self.puts.get_mut(&id) {
                    put.purged_at = put.purged_at.min(age);
                }
            }
            Record::Generation(service, generation) => drop(self.generations.insert(service, generation)),
            Record::Position(position) => self.position = Some(position),
            Record::Older(by) => {
                for Listed { put, .. } in self.puts.values_mut() {
                    put.inserted = put.inserted.saturating_sub(Duration::from_nanos(by));
                }
            }
        }
    }

    /// Forgets an object; gives the file of its bytes if it is of no other.
    fn remove(&mut self, id: u64) -> Option<u64> {
        let Listed { put, size } = self.puts.remove(&id)?;
        self.size = self.size.saturating_sub(size);
        let users = self.bodies.get_mut(&put.body)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.bodies.remove(&put.body);
        Some(put.body)
    }

    /// Forgets objects whose bytes are not all there.
    fn check(&mut self, folder: &Path) {
        let whole = |put: &Put| fs::metadata(body_path(folder, put.body)).is_ok_and(|file| file.len() == put.length);
        let lost: Vec<u64> = self.puts.values().map(|listed| &listed.put).filter(|put| !whole(put)).map(|put| put.id).collect();
        if !lost.is_empty() {
            tracing::warn!(target: "sidelight::cache", objects = lost.len(), folder = %folder.display(), "cached objects whose files are not as they were are passed over");
        }
        for id in lost {
            self.remove(id);
        }
    }

    /// Removes files that are of no object.
    fn sweep(&self, folder: &Path) {
        let Ok(parts) = fs::read_dir(folder.join("bodies")) else { return };
        for part in parts.flatten() {
            let Ok(files) = fs::read_dir(part.path()) else { continue };
            for file in files.flatten() {
                let id = file.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
                if !id.is_some_and(|id| self.bodies.contains_key(&id)) {
                    drop(fs::remove_file(file.path()));
                }
            }
        }
    }

    fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let generations = self.generations.iter().map(|(service, generation)| Record::Generation(service.clone(), *generation));
        let position = self.position.iter().map(|position| Record::Position(position.clone()));
        generations.chain(position).chain(self.puts.values().map(|listed| Record::Put(Box::new(listed.put.clone()))))
    }
}

/// The thread that writes.
struct Writer {
    folder: PathBuf,
    journal: Journal,
    known: Known,
    queue: mpsc::Receiver<Work>,
    first: mpsc::Receiver<Work>,
    waiting: Arc<AtomicUsize>,
    /// Whether the last write has failed, and that has been told.
    troubled: bool,
    /// Whether a purge could not be written.
    lost: bool,
    /// The files of bodies, as readers have them.
    files: HashMap<u64, Weak<BodyFile>>,
}

impl Writer {
    fn run(mut self, store: &Weak<Store>) {
        while let Ok(work) = self.queue.recv() {
            while let Ok(urgent) = self.first.try_recv() {
                let done = self.work(urgent, store);
                self.lost |= done.is_err();
                self.note(done, store);
            }
            let done = self.work(work, store);
            self.note(done, store);
            if self.journal.size() > self.known.size * 2 + SLACK {
                match Journal::create(&self.folder.join("list"), self.known.records()) {
                    Ok(journal) => self.journal = journal,
                    Err(error) => self.note(Err(error), store),
                }
            }
        }
    }

    fn note(&mut self, done: io::Result<()>, store: &Weak<Store>) {
        match done {
            Ok(()) => self.troubled = false,
            Err(error) => {
                if let Some(store) = store.upgrade() {
                    store.telemetry.metrics.cache_disk_errors.inc();
                }
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::error!(target: "sidelight::cache", folder = %self.folder.display(), %error, "the cache cannot be written to disk; it goes on in memory, and tries again with the next object");
                }
            }
        }
    }

    fn add(&mut self, record: Record) -> io::Result<()> {
        let size = self.journal.add(&record)?;
        self.known.apply(record, size);
        Ok(())
    }

    fn work(&mut self, work: Work, store: &Weak<Store>) -> io::Result<()> {
        match work {
            Work::Write(object) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                let Some(store) = store.upgrade() else { return Ok(()) };
                match object.upgrade() {
                    Some(object) => self.write(&object, &store)?,
                    // The disk was behind.
                    None => store.telemetry.metrics.cache_disk_skipped.inc(),
                }
                Ok(())
            }
            Work::Remove(id) => self.remove(id),
            Work::Purged(ids) => ids.into_iter().map(|id| self.remove(id)).fold(Ok(()), Result::and),
            Work::Soft(id, age) if self.known.puts.contains_key(&id) => self.add(Record::Soft(id, age)),
            Work::Soft(..) => Ok(()),
            Work::Generation(service, generation) => self.add(Record::Generation(service, generation)),
            Work::Position(position) => self.add(Record::Position(position)),
            Work::Older(by) => self.add(Record::Older(by)),
            Work::Flush(done) => {
                self.journal.sync()?;
                if !std::mem::take(&mut self.lost) {
                    done();
                }
                Ok(())
            }
            Work::Look => Ok(()),
        }
    }

    /// Without its file an object is passed over when the list is read: where the list cannot be written, that has to do.
    fn remove(&mut self, id: u64) -> io::Result<()> {
        if !self.known.puts.contains_key(&id) {
            return Ok(());
        }
        if let Some(body) = self.known.remove(id) {
            match self.files.remove(&body).and_then(|file| file.upgrade()) {
                Some(file) => file.unwanted.store(true, Ordering::Relaxed),
                None => drop(fs::remove_file(body_path(&self.folder, body))),
            }
        }
        self.journal.add(&Record::Remove(id)).map(drop)
    }

    fn write(&mut self, object: &Arc<Object>, store: &Arc<Store>) -> io::Result<()> {
        if object.is_gone() || self.known.puts.contains_key(&object.id) {
            return Ok(());
        }
        let Some(whole) = object.content.get() else { return Ok(()) };
        let body = match (object.content.on_disk(), &whole.bytes) {
            // The bytes of an object before it, which are the same.
            (Some(body), _) if self.known.bodies.contains_key(&body.file.id) => body,
            (_, Kept::Memory(pieces)) => {
                let path = body_path(&self.folder, object.id);
                match write_body(&path, pieces) {
                    Ok(sums) => DiskBody::new(&self.folder, object.id, whole.length, sums),
                    Err(error) => {
                        drop(fs::remove_file(&path));
                        return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                    }
                }
            }
            (_, Kept::Disk(_)) => return Ok(()),
        };
        let put = Put {
            id: object.id,
            body: body.file.id,
            key: object.key,
            service: object.space.name().to_owned(),
            generation: object.generation,
            about: object.about.to_string(),
            variant: object.variant.to_bits(),
            // The store's time may have been moved on: what counts is how long ago that was.
            inserted: clock::unix().saturating_sub(Duration::from_nanos(store.now().saturating_sub(object.inserted))),
            purged_at: object.purged_at(),
            options: object.options.clone(),
            length: body.length(),
            sums: body.file.sums.to_vec(),
        };
        self.add(Record::Put(Box::new(put)))?;
        self.files.insert(body.file.id, Arc::downgrade(&body.file));
        object.content.is_on_disk(body);
        if let Some(disk) = &store.disk {
            disk.hold(store, object);
        }
        Ok(())
    }
}

/// Writes the bytes of an object; gives the checksum of each block.
fn write_body(path: &Path, pieces: &[(u64, Bytes)]) -> io::Result<Vec<u32>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut sums = Vec::new();
    let (mut sum, mut inside) = (crc32fast::Hasher::new(), 0);
    for (_, piece) in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min((BLOCK - inside) as usize));
            file.write_all(now)?;
            sum.update(now);
            inside += now.len() as u64;
            if inside == BLOCK {
                sums.push(std::mem::take(&mut sum).finalize());
                inside = 0;
            }
            rest = later;
        }
    }
    if inside > 0 {
        sums.push(sum.finalize());
    }
    file.flush()?;
    Ok(sums)
}
