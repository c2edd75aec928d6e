//! The list of what is on disk: records one after another, each with its length and checksum. What is at the end and not
//! whole was being written when the process ended; anything else that is not as it should be makes the list worthless,
//! since a purge may be what is missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::key::{Key, SurrogateKeys, VaryRule};
use super::object::{StoredHead, WriteOptions};
use crate::config::files;

/// What a file of this format begins with.
const MAGIC: &[u8; 8] = b"SLcache1";

/// What a record costs beside its content.
const FRAME: usize = 8;

/// No record is larger.
const MAX_RECORD: usize = 4 << 20;

/// An object on disk.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) id: u64,
    /// The file of its bytes.
    pub(super) body: u64,
    pub(super) key: Key,
    pub(super) service: String,
    pub(super) generation: u64,
    pub(super) about: String,
    /// What chose its variant, by the names of its vary rule.
    pub(super) variant: u128,
    /// When it was inserted, since the Unix epoch.
    pub(super) inserted: Duration,
    /// Age at which it was made stale; `u64::MAX`: it was not.
    pub(super) purged_at: u64,
    pub(super) options: WriteOptions,
    pub(super) length: u64,
    /// Of each block of its bytes.
    pub(super) sums: Vec<u32>,
}

/// A change of what is on disk.
#[derive(Clone, Debug)]
pub(super) enum Record {
    Put(Box<Put>),
    Remove(u64),
    Soft(u64, u64),
    Generation(String, u64),
    Position(String),
    /// Everything before it has become so much older, in nanoseconds.
    Older(u64),
}

/// Why a list is worthless.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is damaged at byte {0}")]
    At(usize),
    #[error("it is of another format")]
    Format,
}

fn put_text(into: &mut BytesMut, text: &[u8]) {
    into.put_u32_le(text.len() as u32);
    into.extend_from_slice(text);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Record {
    fn encode(&self, into: &mut BytesMut) {
        match self {
            Self::Put(put) => {
                into.put_u8(1);
                into.put_u64_le(put.id);
                into.put_u64_le(put.body);
                into.extend_from_slice(&put.key.0);
                put_text(into, put.service.as_bytes());
                into.put_u64_le(put.generation);
                put_text(into, put.about.as_bytes());
                into.put_u128_le(put.variant);
                into.put_u64_le(nanos(put.inserted));
                into.put_u64_le(put.purged_at);
                let options = &put.options;
                for time in [options.max_age, options.initial_age, options.stale_while_revalidate, options.stale_if_error] {
                    into.put_u64_le(nanos(time));
                }
                put_text(into, options.vary.to_string().as_bytes());
                put_text(into, options.surrogate_keys.to_string().as_bytes());
                put_text(into, &options.user_metadata);
                match &options.head {
                    Some(head) => {
                        let (status, fields) = head.encoded();
                        into.put_u16_le(status);
                        put_text(into, fields);
                    }
                    None => into.put_u16_le(0),
                }
                into.put_u64_le(put.length);
                for sum in &put.sums {
                    into.put_u32_le(*sum);
                }
            }
            Self::Remove(id) => {
                into.put_u8(2);
                into.put_u64_le(*id);
            }
            Self::Soft(id, age) => {
                into.put_u8(3);
                into.put_u64_le(*id);
                into.put_u64_le(*age);
            }
            Self::Generation(service, generation) => {
                into.put_u8(4);
                into.put_u64_le(*generation);
                put_text(into, service.as_bytes());
            }
            Self::Older(by) => {
                into.put_u8(6);
                into.put_u64_le(*by);
            }
            Self::Position(position) => {
                into.put_u8(5);
                put_text(into, position.as_bytes());
            }
        }
    }

    fn decode(bytes: &mut Bytes) -> Option<Self> {
        let record = match bytes.try_get_u8().ok()? {
            1 => Self::Put(Box::new(put(bytes)?)),
            2 => Self::Remove(bytes.try_get_u64_le().ok()?),
            3 => Self::Soft(bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?),
            4 => {
                let generation = bytes.try_get_u64_le().ok()?;
                Self::Generation(text(bytes)?, generation)
            }
            5 => Self::Position(text(bytes)?),
            6 => Self::Older(bytes.try_get_u64_le().ok()?),
            _ => return None,
        };
        bytes.is_empty().then_some(record)
    }
}

fn piece(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn text(bytes: &mut Bytes) -> Option<String> {
    String::from_utf8(piece(bytes)?.to_vec()).ok()
}

fn put(bytes: &mut Bytes) -> Option<Put> {
    let (id, body) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    let mut key = [0; 32];
    bytes.try_copy_to_slice(&mut key).ok()?;
    let service = text(bytes)?;
    let generation = bytes.try_get_u64_le().ok()?;
    let about = text(bytes)?;
    let variant = bytes.try_get_u128_le().ok()?;
    let inserted = Duration::from_nanos(bytes.try_get_u64_le().ok()?);
    let purged_at = bytes.try_get_u64_le().ok()?;
    let mut times = [Duration::ZERO; 4];
    for time in &mut times {
        *time = Duration::from_nanos(bytes.try_get_u64_le().ok()?);
    }
    let vary = VaryRule::parse(&piece(bytes)?).ok()?;
    let surrogate_keys = SurrogateKeys::parse(&piece(bytes)?);
    // Copied: what is kept must not hold on to all of the list.
    let user_metadata = Bytes::copy_from_slice(&piece(bytes)?);
    let head = match bytes.try_get_u16_le().ok()? {
        0 => None,
        status => Some(StoredHead::decode(status, Bytes::copy_from_slice(&piece(bytes)?))?),
    };
    let length = bytes.try_get_u64_le().ok()?;
    let mut sums = Vec::with_capacity(bytes.len() / 4);
    while !bytes.is_empty() {
        sums.push(bytes.try_get_u32_le().ok()?);
    }
    let [max_age, initial_age, stale_while_revalidate, stale_if_error] = times;
    let options = WriteOptions {
        max_age,
        initial_age,
        stale_while_revalidate,
        stale_if_error,
        vary,
        surrogate_keys,
        length: Some(length),
        user_metadata,
        sensitive: false,
        head,
    };
    Some(Put { id, body, key: Key(key), service, generation, about, variant, inserted, purged_at, options, length, sums })
}

/// A list that is added to.
pub(super) struct Journal {
    file: File,
    size: u64,
}

impl Journal {
    /// An empty one, in place of whatever is there, with what `records` gives.
    pub(super) fn create(path: &Path, records: impl Iterator<Item = Record>) -> io::Result<Self> {
        let partial = path.with_extension("new");
        let mut file = io::BufWriter::new(File::create(&partial)?);
        file.write_all(MAGIC)?;
        let mut size = MAGIC.len() as u64;
        for record in records {
            let bytes = frame(&record);
            file.write_all(&bytes)?;
            size += bytes.len() as u64;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        std::fs::rename(&partial, path)?;
        Ok(Self { file, size })
    }

    /// Goes on with one whose whole records end at `size`.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(size)?;
        Ok(Self { file, size })
    }

    /// Adds a record; how many bytes it takes.
    pub(super) fn add(&mut self, record: &Record) -> io::Result<u64> {
        let bytes = frame(record);
        match self.file.write_all(&bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(bytes.len() as u64)
            }
            Err(error) => {
                // Half of a record must not be in front of others.
                drop(self.file.set_len(self.size));
                Err(error)
            }
        }
    }

    /// What has been added outlives the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

fn frame(record: &Record) -> BytesMut {
    let mut bytes = BytesMut::zeroed(FRAME);
    record.encode(&mut bytes);
    let length = (bytes.len() - FRAME) as u32;
    let sum = crc32fast::hash(&bytes[FRAME..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..FRAME].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// All records of a list, how many bytes each takes, and where the last of them ends.
pub(super) fn read(path: &Path) -> Result<(Vec<(Record, u64)>, u64), Damage> {
    let mut bytes = Bytes::from(files::read(path, u64::MAX)?);
    if !bytes.starts_with(MAGIC) {
        return Err(Damage::Format);
    }
    bytes.advance(MAGIC.len());
    let mut at = MAGIC.len();
    let mut records = Vec::new();
    loop {
        let Some(frame) = bytes.first_chunk::<FRAME>() else { return Ok((records, at as u64)) };
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let sum = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if length > MAX_RECORD {
            return Err(Damage::At(at));
        }
        if bytes.len() < FRAME + length {
            return Ok((records, at as u64));
        }
        let mut content = bytes.slice(FRAME..FRAME + length);
        if crc32fast::hash(&content) != sum {
            return Err(Damage::At(at));
        }
        records.push((Record::decode(&mut content).ok_or(Damage::At(at))?, (FRAME + length) as u64));
        bytes.advance(FRAME + length);
        at += FRAME + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        let head = crate::http::ResponseHead::default();
        Record::Put(Box::new(Put {
            id: 7,
            body: 5,
            key: Key([9; 32]),
            service: "shop".to_owned(),
            generation: 3,
            about: "host/path".to_owned(),
            variant: 1 << 100,
            inserted: Duration::from_secs(1000),
            purged_at: u64::MAX,
            options: WriteOptions {
                max_age: Duration::from_secs(60),
                vary: VaryRule::parse(b"accept").expect("a rule"),
                surrogate_keys: SurrogateKeys::parse(b"a b"),
                head: Some(StoredHead::new(&head)),
                ..WriteOptions::default()
            },
            length: 70_000,
            sums: vec![1, 2],
        }))
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        let mut journal = Journal::create(&path, [example()].into_iter()).expect("makes it");
        for record in [Record::Remove(1), Record::Soft(2, 3), Record::Generation("a".to_owned(), 4), Record::Position("5-6".to_owned())] {
            journal.add(&record).expect("adds");
        }
        let (records, end) = read(&path).expect("reads");
        assert_eq!((records.len(), end), (5, journal.size()));
        assert_eq!(format!("{:?}", records[0].0).replace("length: Some(70000)", "length: None"), format!("{:?}", example()));
        // Half a record at the end, then one byte that is not as it was.
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &whole[..whole.len() - 3]).expect("writes");
        assert_eq!(read(&path).expect("reads").0.len(), 4);
        for at in [3, 8, 20, 60] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).expect("writes");
            let read = read(&path);
            assert!(read.is_err() || read.is_ok_and(|(records, _)| records.is_empty()), "{at}");
        }
    }
}
