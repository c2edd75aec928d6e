//! Kinds of values of stores and edge data: records of options, addresses, and results that carry an error of their own.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::memory::GuestMemory;
use super::status::{HostError, HostResult};
use super::values::{Buf, Lift, Lower, Str};
use crate::sandbox::Handle;
use crate::services::kv_store::{Error as KvError, Insert, MAX_METADATA, Mode};

/// An IP address the guest passes: 4 or 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub IpAddr);

impl Lift for Address {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let bytes = match slots[1] {
            length @ (4 | 16) => memory.bytes(slots[0], length)?,
            _ => return Err(HostError::inval("an address has 4 or 16 bytes")),
        };
        match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(v4), _) => Ok(Self(v4.into())),
            (_, Ok(v6)) => Ok(Self(v6.into())),
            _ => Err(HostError::inval("an address has 4 or 16 bytes")),
        }
    }
}

/// What an access list says: the handle of a body, or `None` for nothing. Behind it goes an `acl_error`: 1 ok, 2 no
/// content.
#[derive(Clone, Copy, Debug)]
pub struct AclFound(pub Option<u32>);

impl Lower for AclFound {
    const SLOTS: usize = 2;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        if let Some(body) = self.0 {
            memory.put_u32(slots[0], body)?;
        }
        memory.put_u32(slots[1], if self.0.is_some() { 1 } else { 2 })
    }
}

/// What `check_rate` takes: rate counter, entry, delta, window, limit, penalty box, time in it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as the calls name them")]
pub struct CheckRate {
    pub counter: Str,
    pub entry: Str,
    pub delta: u32,
    /// Seconds.
    pub window: u32,
    /// Per second.
    pub limit: u32,
    pub penalty_box: Str,
    /// Seconds.
    pub ttl: u32,
}

impl Lift for CheckRate {
    const SLOTS: usize = 10;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        Ok(Self {
            counter: Str::lift(slots, memory)?,
            entry: Str::lift(&slots[2..], memory)?,
            delta: slots[4],
            window: slots[5],
            limit: slots[6],
            penalty_box: Str::lift(&slots[7..], memory)?,
            ttl: slots[9],
        })
    }
}

/// `shield_backend_config` (16 bytes) behind its mask.
#[derive(Clone, Copy, Debug)]
pub struct ShieldOptions {
    /// Longest wait for a response.
    pub first_byte: Option<Duration>,
    /// Longest silence within one.
    pub between_bytes: Option<Duration>,
}

impl Lift for ShieldOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        const CACHE_KEY: u32 = 2;
        const FIRST_BYTE: u32 = 4;
        const BETWEEN_BYTES: u32 = 8;
        let (mask, ptr) = (slots[0], slots[1]);
        memory.bytes(ptr, 16)?;
        if mask & !(CACHE_KEY | FIRST_BYTE | BETWEEN_BYTES) != 0 {
            return Err(HostError::inval("an unknown option of a shield's backend"));
        }
        if mask & CACHE_KEY != 0 {
            // For the cache on the way to it, which is not there.
            Str::lift(&[memory.u32(ptr)?, memory.u32(ptr + 4)?], memory)?.text()?;
        }
        let millis = |bit: u32, offset: u32| -> HostResult<Option<Duration>> {
            if mask & bit == 0 {
                return Ok(None);
            }
            Ok(Some(Duration::from_millis(memory.u32(ptr + offset)?.into())))
        };
        Ok(Self { first_byte: millis(FIRST_BYTE, 8)?, between_bytes: millis(BETWEEN_BYTES, 12)? })
    }
}

/// Options of lookups and deletes: there are none yet, behind a mask and in a record of 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct KvOptions;

impl Lift for KvOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        memory.bytes(slots[1], 4)?;
        if slots[0] != 0 { Err(HostError::unsupported("an unknown option")) } else { Ok(Self) }
    }
}

/// `kv_insert_config` (32 bytes) behind its mask: mode @0, metadata pointer @8 and length @12, seconds to live @16,
/// generation @24. What is wrong with it is told when the body has been taken.
#[derive(Debug)]
pub struct KvInsertOptions(pub HostResult<Insert>);

impl Lift for KvInsertOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        memory.bytes(slots[1], 32)?;
        match insert(slots[0], slots[1], memory) {
            Err(HostError::Trap(reason)) => Err(HostError::Trap(reason)),
            result => Ok(Self(result)),
        }
    }
}

fn insert(mask: u32, ptr: u32, memory: &GuestMemory<'_>) -> HostResult<Insert> {
    const BACKGROUND_FETCH: u32 = 1 << 1;
    const RESERVED: u32 = 1 << 2;
    const METADATA: u32 = 1 << 3;
    const TIME_TO_LIVE: u32 = 1 << 4;
    const IF_GENERATION: u32 = 1 << 5;
    if mask & !(BACKGROUND_FETCH | RESERVED | METADATA | TIME_TO_LIVE | IF_GENERATION) != 0 {
        return Err(HostError::unsupported("an unknown option"));
    }
    let word = |offset: u32| memory.u32(ptr + offset);
    let mode = match word(0)? {
        0 => Mode::Overwrite,
        1 => Mode::Add,
        2 => Mode::Append,
        3 => Mode::Prepend,
        other => return Err(HostError::inval(format!("{other} is no mode of an insert"))),
    };
    let metadata = if mask & METADATA != 0 {
        let length = word(12)?;
        if length == 0 || length as usize > MAX_METADATA {
            return Err(HostError::inval("metadata have 1 to 2000 bytes"));
        }
        let bytes = memory.bytes(word(8)?, length)?;
        std::str::from_utf8(bytes).map_err(|_| HostError::inval("not UTF-8"))?;
        Bytes::copy_from_slice(bytes)
    } else {
        Bytes::new()
    };
    let ttl = if mask & TIME_TO_LIVE != 0 { Some(Duration::from_secs(word(16)?.into())) } else { None };
    let if_generation = if mask & IF_GENERATION != 0 { Some(u64::from(word(24)?) | u64::from(word(28)?) << 32) } else { None };
    Ok(Insert { mode, if_generation, metadata, ttl, interval: Duration::ZERO })
}

/// `kv_list_config` (24 bytes) behind its mask: mode @0, cursor @4 and length @8, limit @12, prefix @16 and length @20.
#[derive(Clone, Debug)]
pub struct KvListOptions {
    /// Whether the list need not be of this moment.
    pub eventual: bool,
    /// Where an earlier list ended.
    pub cursor: Option<String>,
    /// How many keys.
    pub limit: Option<u32>,
    /// What they begin with.
    pub prefix: Option<String>,
}

impl Lift for KvListOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        const CURSOR: u32 = 1 << 1;
        const LIMIT: u32 = 1 << 2;
        const PREFIX: u32 = 1 << 3;
        let (mask, ptr) = (slots[0], slots[1]);
        memory.bytes(ptr, 24)?;
        if mask & !(CURSOR | LIMIT | PREFIX) != 0 {
            return Err(HostError::unsupported("an unknown option"));
        }
        let word = |offset: u32| memory.u32(ptr + offset);
        let text = |bit: u32, offset: u32| {
            if mask & bit == 0 {
                return Ok(None);
            }
            let text = Str::lift(&[word(offset)?, word(offset + 4)?], memory)?;
            if text.is_empty() {
                return Err(HostError::inval("an option that is said to be there is empty"));
            }
            Ok(Some(text.text()?.to_owned()))
        };
        let eventual = match word(0)? {
            0 => false,
            1 => true,
            other => return Err(HostError::inval(format!("{other} is no mode of a list"))),
        };
        let limit = if mask & LIMIT != 0 { Some(word(12)?) } else { None };
        Ok(Self { eventual, cursor: text(CURSOR, 4)?, limit, prefix: text(PREFIX, 16)? })
    }
}

/// The size of the buffer for metadata behind the place of a body. Takes no parameter of its own.
#[derive(Clone, Copy, Debug)]
pub struct MetadataRoom(pub usize);

impl Lift for MetadataRoom {
    const SLOTS: usize = 0;
    fn lift(slots: &[u32], _: &GuestMemory<'_>) -> HostResult<Self> {
        Ok(Self(slots[2] as usize))
    }
}

/// An entry for a guest.
#[derive(Clone, Debug)]
pub struct KvTaken<G = u64> {
    /// The handle of its value; `None`: there is no room for the metadata.
    pub body: Option<u32>,
    /// Its metadata.
    pub metadata: Bytes,
    /// Its generation.
    pub generation: G,
}

impl KvTaken {
    /// With as much of the generation as the older call has room for.
    pub fn narrow(self) -> KvTaken<u32> {
        KvTaken { body: self.body, metadata: self.metadata, generation: (self.generation & u64::from(u32::MAX)) as u32 }
    }
}

/// The result of an operation of a KV store, and behind it a `kv_error`. What there is none of is not written.
#[derive(Clone, Debug)]
pub struct KvAnswer<T> {
    result: Option<T>,
    error: u32,
}

impl<T> KvAnswer<T> {
    /// It went well.
    pub fn ok(result: T) -> Self {
        Self { result: Some(result), error: 1 }
    }

    /// There is no such key.
    pub fn not_found() -> Self {
        Self { result: None, error: 3 }
    }

    /// It failed.
    pub fn failed(error: &KvError) -> Self {
        let error = match error {
            KvError::BadRequest(_) => 2,
            KvError::Precondition => 4,
            KvError::TooLarge => 5,
            KvError::Unavailable(_) => 6,
            KvError::TooMany => 7,
        };
        Self { result: None, error }
    }

    /// With another result.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> KvAnswer<U> {
        KvAnswer { result: self.result.map(change), error: self.error }
    }
}

impl Lower for KvAnswer<()> {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put_u32(slots[0], self.error)
    }
}

impl<T> Lower for KvAnswer<Option<Handle<T>>> {
    const SLOTS: usize = 2;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        if let Some(Some(handle)) = self.result {
            handle.lower(slots, memory)?;
        }
        memory.put_u32(slots[1], self.error)
    }
}

impl<G: Lower> Lower for KvAnswer<Option<KvTaken<G>>> {
    const SLOTS: usize = 6;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        if let Some(Some(taken)) = self.result {
            Buf(taken.metadata).lower(&slots[1..], memory)?;
            taken.generation.lower(&slots[4..], memory)?;
            if let Some(body) = taken.body {
                memory.put_u32(slots[0], body)?;
            }
        } else {
            memory.put_u32(slots[3], 0)?;
        }
        memory.put_u32(slots[5], self.error)
    }
}
