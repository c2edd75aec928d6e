//! Kinds of values of the cache: records of options behind their masks (layouts: `fastly:compute` witx, `cache` and
//! `http-cache`). A record is read whatever its mask says; an unknown bit of a mask is UNSUPPORTED.

use std::time::Duration;

use bytes::Bytes;

use super::memory::GuestMemory;
use super::status::{HostError, HostResult, Status};
use super::values::{Lift, Lower, Str};
use crate::sandbox::{GuestRequest, Handle};
use crate::services::cache::{Replace, SurrogateKeys, VaryRule, WriteOptions};

/// Longest metadata of an object, in bytes.
const MAX_METADATA: u32 = 1 << 20;

fn known(mask: u32, bits: u32) -> HostResult<()> {
    // Bit 0 is reserved.
    if mask & !(bits | 1) != 0 { Err(HostError::unsupported("an unknown option of the cache")) } else { Ok(()) }
}

struct Record<'m, 'a> {
    memory: &'m GuestMemory<'a>,
    at: u32,
    mask: u32,
}

impl<'m, 'a> Record<'m, 'a> {
    fn new(slots: &[u32], size: u32, memory: &'m GuestMemory<'a>) -> HostResult<Self> {
        memory.bytes(slots[1], size)?;
        Ok(Self { memory, at: slots[1], mask: slots[0] })
    }

    fn word(&self, offset: u32) -> HostResult<u32> {
        self.memory.u32(self.at + offset)
    }

    fn long(&self, offset: u32) -> HostResult<u64> {
        Ok(u64::from(self.word(offset)?) | u64::from(self.word(offset + 4)?) << 32)
    }

    fn has(&self, bit: u32) -> bool {
        self.mask & bit != 0
    }

    fn text(&self, bit: u32, offset: u32) -> HostResult<Option<Str>> {
        if !self.has(bit) {
            return Ok(None);
        }
        Str::lift(&[self.word(offset)?, self.word(offset + 4)?], self.memory).map(Some)
    }

    fn nanos(&self, bit: u32, offset: u32) -> HostResult<Option<Duration>> {
        if self.has(bit) { Ok(Some(Duration::from_nanos(self.long(offset)?))) } else { Ok(None) }
    }

    fn request(&self, bit: u32, offset: u32) -> HostResult<Option<Handle<GuestRequest>>> {
        if self.has(bit) { Ok(Some(Handle::from_raw(self.word(offset)?))) } else { Ok(None) }
    }
}

/// `cache_lookup_options`: request @0, service @4 and length @8.
#[derive(Clone, Debug)]
pub struct LookupOptions {
    /// A request whose fields choose a variant.
    pub request: Option<Handle<GuestRequest>>,
    /// Another service whose cache it is.
    pub service: Option<Str>,
    /// Whether ranges of what has no known length are given.
    pub always_range: bool,
}

impl Lift for LookupOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, 12, memory)?;
        known(slots[0], 2 | 4 | 8)?;
        Ok(Self { request: record.request(2, 0)?, service: record.text(4, 4)?, always_range: record.has(8) })
    }
}

/// `cache_replace_options`: request @0, strategy @4, service @8 and length @12.
#[derive(Clone, Debug)]
pub struct ReplaceOptions {
    /// As of a lookup.
    pub lookup: LookupOptions,
    /// How others are treated who are about to write the same.
    pub strategy: Replace,
}

impl Lift for ReplaceOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, 16, memory)?;
        known(slots[0], 2 | 4 | 8 | 16)?;
        let strategy = match record.word(4)? {
            _ if !record.has(4) => Replace::default(),
            1 => Replace::Immediate,
            2 => Replace::ImmediateForceMiss,
            3 => Replace::Wait,
            other => return Err(HostError::inval(format!("{other} is no strategy of a replace"))),
        };
        let lookup = LookupOptions { request: record.request(2, 0)?, service: record.text(8, 8)?, always_range: record.has(16) };
        Ok(Self { lookup, strategy })
    }
}

/// `cache_write_options` (80 bytes): max age @0, request @8, vary rule @12, initial age @24, stale-while-revalidate @32,
/// surrogate keys @40, length @48, metadata @56, edge max age @64, service @72.
#[derive(Clone, Debug)]
pub struct CacheWrite {
    /// How the object is written.
    pub options: WriteOptions,
    /// A request whose fields choose the variant.
    pub request: Option<Handle<GuestRequest>>,
    /// Another service whose cache it is.
    pub service: Option<Str>,
}

impl Lift for CacheWrite {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        const REQUEST: u32 = 1 << 1;
        const VARY: u32 = 1 << 2;
        const INITIAL_AGE: u32 = 1 << 3;
        const REVALIDATE: u32 = 1 << 4;
        const KEYS: u32 = 1 << 5;
        const LENGTH: u32 = 1 << 6;
        const METADATA: u32 = 1 << 7;
        const SENSITIVE: u32 = 1 << 8;
        const EDGE_MAX_AGE: u32 = 1 << 9;
        const SERVICE: u32 = 1 << 10;
        let record = Record::new(slots, 80, memory)?;
        known(slots[0], 0x7fe)?;
        let max_age = Duration::from_nanos(record.long(0)?);
        if record.nanos(EDGE_MAX_AGE, 64)?.is_some_and(|edge| edge > max_age) {
            return Err(HostError::inval("the max age of the edge is more than the max age"));
        }
        let user_metadata = match (record.has(METADATA), record.word(60)?) {
            (false, _) => Bytes::new(),
            (true, length) if length > MAX_METADATA => {
                return Err(HostError::Status(Status::LimitExceeded, "metadata of more than 1 MiB".into()));
            }
            (true, length) => Bytes::copy_from_slice(memory.bytes(record.word(56)?, length)?),
        };
        let options = WriteOptions {
            max_age,
            vary: vary(record.text(VARY, 12)?)?,
            initial_age: record.nanos(INITIAL_AGE, 24)?.unwrap_or_default(),
            stale_while_revalidate: record.nanos(REVALIDATE, 32)?.unwrap_or_default(),
            surrogate_keys: SurrogateKeys::parse(&record.text(KEYS, 40)?.unwrap_or_default()),
            length: if record.has(LENGTH) { Some(record.long(48)?) } else { None },
            user_metadata,
            sensitive: record.has(SENSITIVE),
            ..WriteOptions::default()
        };
        Ok(Self { options, request: record.request(REQUEST, 8)?, service: record.text(SERVICE, 72)? })
    }
}

fn vary(text: Option<Str>) -> HostResult<VaryRule> {
    Ok(text.map(|text| VaryRule::parse(&text)).transpose()?.unwrap_or_default())
}

/// Bits of `cache_lookup_state` and `http_cache_lookup_state`.
pub mod state {
    /// There is an object.
    pub const FOUND: u32 = 1;
    /// It may be used.
    pub const USABLE: u32 = 2;
    /// Its time is over.
    pub const STALE: u32 = 4;
    /// The guest has to write one, or to say that there is none.
    pub const MUST_INSERT_OR_UPDATE: u32 = 8;
    /// It may be used if no other can be had; of the HTTP cache only.
    pub const USABLE_IF_ERROR: u32 = 16;
}

/// `cache_get_body_options`: from @0, to @8.
#[derive(Clone, Copy, Debug)]
pub struct BodyRange {
    /// The first byte.
    pub from: Option<u64>,
    /// The last byte; without `from`: how many of the last.
    pub to: Option<u64>,
}

impl Lift for BodyRange {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, 16, memory)?;
        known(slots[0], 2 | 4)?;
        let long = |bit, offset| if record.has(bit) { record.long(offset).map(Some) } else { Ok(None) };
        Ok(Self { from: long(2, 0)?, to: long(4, 8)? })
    }
}

/// `http_cache_lookup_options`: key @0 and length @4, backend @8 and length @12.
#[derive(Clone, Debug)]
pub struct HttpLookup {
    /// In place of the default key.
    pub key: Option<[u8; 32]>,
    /// Where a request would be sent.
    pub backend: Option<Str>,
}

impl Lift for HttpLookup {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, 16, memory)?;
        known(slots[0], 2 | 4)?;
        let key = match record.text(2, 0)? {
            None => None,
            Some(key) => Some(<[u8; 32]>::try_from(&*key).map_err(|_| HostError::inval("a key of the HTTP cache has 32 bytes"))?),
        };
        Ok(Self { key, backend: record.text(4, 8)? })
    }
}

const VARY: u32 = 1 << 1;
const INITIAL_AGE: u32 = 1 << 2;
const REVALIDATE: u32 = 1 << 3;
const KEYS: u32 = 1 << 4;
const LENGTH: u32 = 1 << 5;
const SENSITIVE: u32 = 1 << 6;
const IF_ERROR: u32 = 1 << 7;

/// The record's size: SDKs that do not know stale-if-error have no room for it.
fn http_size(mask: u32) -> u32 {
    if mask & IF_ERROR != 0 { 56 } else { 48 }
}

/// `http_cache_write_options` (56 bytes): max age @0, vary rule @8, initial age @16, stale-while-revalidate @24, surrogate
/// keys @32, length @40, stale-if-error @48.
#[derive(Clone, Debug)]
pub struct HttpWrite(pub WriteOptions);

impl Lift for HttpWrite {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, http_size(slots[0]), memory)?;
        known(slots[0], 0xfe)?;
        Ok(Self(WriteOptions {
            max_age: Duration::from_nanos(record.long(0)?),
            vary: vary(record.text(VARY, 8)?)?,
            initial_age: record.nanos(INITIAL_AGE, 16)?.unwrap_or_default(),
            stale_while_revalidate: record.nanos(REVALIDATE, 24)?.unwrap_or_default(),
            surrogate_keys: SurrogateKeys::parse(&record.text(KEYS, 32)?.unwrap_or_default()),
            length: if record.has(LENGTH) { Some(record.long(40)?) } else { None },
            stale_if_error: record.nanos(IF_ERROR, 48)?.unwrap_or_default(),
            sensitive: record.has(SENSITIVE),
            ..WriteOptions::default()
        }))
    }
}

/// What a guest wants to know of suggested options, and its buffers for what has no fixed size.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    mask: u32,
    vary: (u32, u32),
    keys: (u32, u32),
}

impl Lift for Wanted {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, http_size(slots[0]), memory)?;
        known(slots[0], 0xfe)?;
        Ok(Self { mask: slots[0], vary: (record.word(8)?, record.word(12)?), keys: (record.word(32)?, record.word(36)?) })
    }
}

/// Options for a guest: a mask and a record of those it wants.
#[derive(Clone, Debug)]
pub struct Suggested {
    /// What it wants.
    pub wanted: Wanted,
    /// All of them.
    pub options: WriteOptions,
}

/// Nanoseconds, as many as fit.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Lower for Suggested {
    const SLOTS: usize = 2;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        let Self { wanted, options } = self;
        let (mask_at, at) = (slots[0], slots[1]);
        let wants = |bit: u32| wanted.mask & bit != 0;
        let mut mask = wanted.mask & (INITIAL_AGE | REVALIDATE | IF_ERROR | VARY | KEYS);
        memory.put(at, &[0; 56][..http_size(wanted.mask) as usize])?;
        memory.put(at, &nanos(options.max_age).to_le_bytes())?;
        for (bit, offset, time) in [
            (INITIAL_AGE, 16, options.initial_age),
            (REVALIDATE, 24, options.stale_while_revalidate),
            (IF_ERROR, 48, options.stale_if_error),
        ] {
            if wants(bit) {
                memory.put(at + offset, &nanos(time).to_le_bytes())?;
            }
        }
        if let (true, Some(length)) = (wants(LENGTH), options.length) {
            mask |= LENGTH;
            memory.put(at + 40, &length.to_le_bytes())?;
        }
        if wants(SENSITIVE) && options.sensitive {
            mask |= SENSITIVE;
        }
        let mut fits = true;
        for (bit, offset, (buffer, size), text) in
            [(VARY, 8, wanted.vary, options.vary.to_string()), (KEYS, 32, wanted.keys, options.surrogate_keys.to_string())]
        {
            if !wants(bit) {
                continue;
            }
            memory.put_u32(at + offset, buffer)?;
            memory.put_u32(at + offset + 4, text.len() as u32)?;
            if text.len() <= size as usize {
                memory.put(buffer, text.as_bytes())?;
            } else {
                fits = false;
            }
        }
        memory.put_u32(mask_at, mask)?;
        if fits { Ok(()) } else { Err(HostError::Status(Status::BufferLength, "the guest's buffer is too small".into())) }
    }
}

/// `purge_options`: a buffer for the answer @0, its size @4, where the written length goes @8. Soft is bit 0 of the mask,
/// the buffer bit 1.
#[derive(Clone, Copy, Debug)]
pub struct PurgeOptions {
    /// Whether objects only become stale.
    pub soft: bool,
    /// A buffer for the answer: where, its size, and where the length goes.
    pub answer: Option<(u32, u32, u32)>,
}

impl Lift for PurgeOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let record = Record::new(slots, 12, memory)?;
        if slots[0] & !3 != 0 {
            return Err(HostError::unsupported("an unknown option of a purge"));
        }
        let answer = if record.has(2) { Some((record.word(0)?, record.word(4)?, record.word(8)?)) } else { None };
        Ok(Self { soft: record.has(1), answer })
    }
}

/// The answer to a purge, for a guest that wants it.
#[derive(Clone, Debug)]
pub struct PurgeAnswer {
    /// Where it goes.
    pub to: Option<(u32, u32, u32)>,
    /// JSON.
    pub text: String,
}

impl Lower for PurgeAnswer {
    const SLOTS: usize = 0;
    fn lower(self, _: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        let Some((buffer, size, written)) = self.to else { return Ok(()) };
        super::values::Buf(self.text).lower(&[buffer, size, written], memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_options_are_where_the_abi_has_them() {
        let mut bytes = vec![0; 256];
        let mut memory = GuestMemory::new(&mut bytes);
        for (at, value) in [(0, 10u64), (24, 3), (32, 4), (48, 7), (64, 9)] {
            memory.put(at, &value.to_le_bytes()).expect("inside");
        }
        memory.put(100, b"accept").expect("inside");
        memory.put(110, b"k1 k2").expect("inside");
        for (at, value) in [(8, 5u32), (12, 100), (16, 6), (40, 110), (44, 5), (56, 110), (60, 2)] {
            memory.put_u32(at, value).expect("inside");
        }
        let CacheWrite { options, request, service } = CacheWrite::lift(&[0x3fe, 0], &memory).expect("options");
        assert_eq!((options.max_age.as_nanos(), options.initial_age.as_nanos(), options.stale_while_revalidate.as_nanos()), (10, 3, 4));
        assert_eq!((options.vary.to_string().as_str(), options.surrogate_keys.to_string().as_str()), ("accept", "k1 k2"));
        assert_eq!((options.length, &options.user_metadata[..], options.sensitive), (Some(7), &b"k1"[..], true));
        assert_eq!((request.map(Handle::raw), service.is_none()), (Some(5), true));
        assert!(CacheWrite::lift(&[1 << 11, 0], &memory).is_err(), "an unknown option");
        assert!(matches!(CacheWrite::lift(&[0, 200], &memory), Err(HostError::Trap(_))), "outside, with an empty mask");
        memory.put(64, &11u64.to_le_bytes()).expect("inside");
        assert!(CacheWrite::lift(&[1 << 9, 0], &memory).is_err(), "the edge's age is more");
    }

    #[test]
    fn suggestions_that_do_not_fit_say_what_they_need() {
        let mut bytes = vec![0; 256];
        let mut memory = GuestMemory::new(&mut bytes);
        for (at, value) in [(8, 200u32), (12, 3), (32, 220), (36, 20)] {
            memory.put_u32(at, value).expect("inside");
        }
        let wanted = Wanted::lift(&[0xfe, 0], &memory).expect("a record");
        let options = WriteOptions {
            max_age: Duration::from_secs(1),
            vary: VaryRule::parse(b"accept").expect("a rule"),
            length: Some(9),
            ..WriteOptions::default()
        };
        let small = Suggested { wanted, options: options.clone() }.lower(&[60, 64], &mut memory);
        assert!(matches!(small, Err(HostError::Status(Status::BufferLength, _))));
        assert_eq!((memory.u32(64 + 12).expect("inside"), memory.u32(60).expect("inside") & VARY), (6, VARY));
        memory.put_u32(12, 6).expect("inside");
        let wanted = Wanted::lift(&[0xfe, 0], &memory).expect("a record");
        Suggested { wanted, options }.lower(&[60, 64], &mut memory).expect("fits");
        assert_eq!(memory.bytes(200, 6).expect("inside"), b"accept");
        assert_eq!((memory.u32(64 + 40).expect("inside"), memory.u32(64 + 36).expect("inside")), (9, 0));
    }
}
