//! The kinds of values hostcalls take and give. Each knows how many wasm parameters it is made of,
//! how it is read from them and from guest memory, and how a result is stored.

use std::net::IpAddr;
use std::ops::Deref;

use smallvec::SmallVec;

use super::memory::GuestMemory;
use super::status::{ErrorDetail, HostError, HostResult, Status};
use crate::http::body::MAX_CHUNK;
use crate::sandbox::Handle;

/// Longest text a guest may pass: header names and values, names, URIs.
pub const MAX_STR: u32 = 65_535;

/// A value the guest passes.
pub trait Lift: Sized {
    /// Wasm parameters it takes.
    const SLOTS: usize;
    /// Reads it. `slots` starts at this value's first parameter and goes on to the call's last.
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self>;
}

/// A value handed back through out-pointers.
pub trait Lower: Sized {
    /// Wasm parameters (out-pointers and buffer sizes) it takes.
    const SLOTS: usize;
    /// Stores it. `slots` starts at this value's first parameter.
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()>;
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: Lift),*> Lift for ($($name,)*) {
            const SLOTS: usize = 0 $(+ $name::SLOTS)*;
            #[allow(unused_variables, unused_mut, unused_assignments, reason = "the empty and the last case")]
            fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
                let mut at = 0;
                Ok(($({
                    let value = $name::lift(&slots[at..], memory)?;
                    at += $name::SLOTS;
                    value
                },)*))
            }
        }

        impl<$($name: Lower),*> Lower for ($($name,)*) {
            const SLOTS: usize = 0 $(+ $name::SLOTS)*;
            #[allow(unused_variables, unused_mut, unused_assignments, non_snake_case, reason = "the empty and the last case")]
            fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
                let ($($name,)*) = self;
                let mut at = 0;
                $(
                    $name.lower(&slots[at..], memory)?;
                    at += $name::SLOTS;
                )*
                Ok(())
            }
        }
    };
}
tuples!();
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);

impl Lift for u32 {
    const SLOTS: usize = 1;
    fn lift(slots: &[u32], _: &GuestMemory<'_>) -> HostResult<Self> {
        Ok(slots[0])
    }
}

impl Lower for u32 {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put_u32(slots[0], self)
    }
}

/// Two bytes, not four: `status_get`, ports.
impl Lower for u16 {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put(slots[0], &self.to_le_bytes())
    }
}

impl Lower for u64 {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put(slots[0], &self.to_le_bytes())
    }
}

/// Stored as a u32, 0 or 1.
impl Lower for bool {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put_u32(slots[0], u32::from(self))
    }
}

impl<T> Lift for Handle<T> {
    const SLOTS: usize = 1;
    fn lift(slots: &[u32], _: &GuestMemory<'_>) -> HostResult<Self> {
        Ok(Self::from_raw(slots[0]))
    }
}

impl<T> Lower for Handle<T> {
    const SLOTS: usize = 1;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put_u32(slots[0], self.raw())
    }
}

/// Bytes the guest passes by pointer and length, at most [`MAX_STR`] of them.
#[derive(Clone, Debug, Default)]
pub struct Str(SmallVec<[u8; 64]>);

impl Deref for Str {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Self {
        Self(SmallVec::from_slice(text.as_bytes()))
    }
}

impl Str {
    /// The bytes as text; INVAL when they are not UTF-8.
    pub fn text(&self) -> HostResult<&str> {
        std::str::from_utf8(self).map_err(|_| HostError::inval("not UTF-8"))
    }
}

impl Lift for Str {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let text = text_at(slots, memory)?;
        memory.note_name(slots[0], slots[1]);
        Ok(text)
    }
}

fn text_at(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Str> {
    let (ptr, len) = (slots[0], slots[1]);
    if len > MAX_STR {
        return Err(HostError::inval("text longer than 65535 bytes"));
    }
    Ok(Str(SmallVec::from_slice(memory.bytes(ptr, len)?)))
}

/// Text that is nobody's business: the content of a secret.
#[derive(Clone)]
pub struct Hidden(pub Str);

impl Lift for Hidden {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        text_at(slots, memory).map(Self)
    }
}

/// Data the guest writes. Longer pieces are cut: the call says how much it took.
#[derive(Clone, Debug)]
pub struct Bytes64K(pub bytes::Bytes);

impl Lift for Bytes64K {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let len = slots[1].min(MAX_CHUNK as u32);
        Ok(Self(bytes::Bytes::copy_from_slice(memory.bytes(slots[0], len)?)))
    }
}

/// A list of handles, by pointer and count.
#[derive(Clone, Debug)]
pub struct Handles(pub SmallVec<[u32; 8]>);

/// Most handles one `select` takes.
const MAX_HANDLES: u32 = 16_384;

impl Lift for Handles {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let (ptr, count) = (slots[0], slots[1]);
        if count > MAX_HANDLES {
            return Err(HostError::inval("more than 16384 handles"));
        }
        let words = memory.bytes(ptr, count * 4)?.chunks_exact(4);
        Ok(Self(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()))
    }
}

/// The size of the result buffer that follows: for a call that must know it before it runs. Takes
/// no parameter of its own.
#[derive(Clone, Copy, Debug)]
pub struct Capacity(pub usize);

impl Lift for Capacity {
    const SLOTS: usize = 0;
    fn lift(slots: &[u32], _: &GuestMemory<'_>) -> HostResult<Self> {
        Ok(Self(slots[1] as usize))
    }
}

/// Bytes for a guest's buffer: pointer, size, and where the written length goes. A buffer that is
/// too small stays untouched, and the length it would have needed is stored.
#[derive(Clone, Debug)]
pub struct Buf<T>(pub T);

impl<T: AsRef<[u8]>> Lower for Buf<T> {
    const SLOTS: usize = 3;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        let bytes = self.0.as_ref();
        let (ptr, size, written) = (slots[0], slots[1], slots[2]);
        memory.put_u32(written, bytes.len() as u32)?;
        if bytes.len() > size as usize {
            return Err(too_small());
        }
        memory.put(ptr, bytes)
    }
}

/// An IP address: 4 or 16 bytes for a buffer of 16, and the length.
impl Lower for IpAddr {
    const SLOTS: usize = 2;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        let (ptr, written) = (slots[0], slots[1]);
        match self {
            Self::V4(ip) => {
                memory.put(ptr, &ip.octets())?;
                memory.put_u32(written, 4)
            }
            Self::V6(ip) => {
                memory.put(ptr, &ip.octets())?;
                memory.put_u32(written, 16)
            }
        }
    }
}

/// A digest of 16 bytes, for a buffer of 16, and the length.
#[derive(Clone, Copy, Debug)]
pub struct Digest16(pub [u8; 16]);

impl Lower for Digest16 {
    const SLOTS: usize = 2;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        memory.put(slots[0], &self.0)?;
        memory.put_u32(slots[1], 16)
    }
}

#[cold]
fn too_small() -> HostError {
    HostError::Status(Status::BufferLength, "the guest's buffer is too small".into())
}

/// Many values, paged: buffer, size, cursor, where the next cursor goes (−1 after the last value;
/// the pointer may be null), where the written length goes. Each value is followed by NUL; only
/// whole values are written.
#[derive(Clone, Debug, Default)]
pub struct Paged(SmallVec<[u8; 512]>);

impl Paged {
    /// All the values, in order. They must not hold NUL.
    pub fn new<T: AsRef<[u8]>>(values: impl Iterator<Item = T>) -> Self {
        let mut all = SmallVec::new();
        for value in values {
            all.extend_from_slice(value.as_ref());
            all.push(0);
        }
        Self(all)
    }
}

impl Lower for Paged {
    const SLOTS: usize = 5;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        let (ptr, size, cursor, next, written) = (slots[0], slots[1] as usize, slots[2] as usize, slots[3], slots[4]);
        let mut fits: &[u8] = &[];
        let mut start = 0;
        let mut ended: i64 = -1;
        for (index, value) in self.0.split_inclusive(|b| *b == 0).enumerate() {
            if index < cursor {
                start += value.len();
                continue;
            }
            if fits.len() + value.len() > size {
                if fits.is_empty() {
                    memory.put_u32(written, value.len() as u32)?;
                    return Err(too_small());
                }
                ended = index as i64;
                break;
            }
            fits = &self.0[start..start + fits.len() + value.len()];
        }
        memory.put(ptr, fits)?;
        memory.put_u32(written, fits.len() as u32)?;
        if next != 0 {
            memory.put(next, &ended.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A result with a `send_error_detail` in front of its out-pointers, which is written whether the
/// call fails or not.
#[derive(Debug)]
pub struct WithDetail<T> {
    /// What the detail says.
    pub detail: ErrorDetail,
    /// The result proper.
    pub result: HostResult<T>,
}

impl<T: Lower> Lower for WithDetail<T> {
    const SLOTS: usize = 1 + T::SLOTS;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        // tag u32 @0, mask u32 @4, DNS rcode u16 @8, DNS info u16 @10, TLS alert u8 @12, h2 frame u8
        // @13, h2 code u32 @16. The mask says which optional fields are set.
        // In comes a mask of the fields that the guest wants, out one of those that are there.
        const RCODE: u32 = 2;
        const ALERT: u32 = 8;
        const H2: u32 = 16;
        let ptr = slots[0];
        let at = |offset| ptr.wrapping_add(offset);
        let wanted = memory.u32(at(4))?;
        let mut there = 0;
        memory.put_u32(ptr, self.detail.tag)?;
        if let Some(rcode) = self.detail.dns_rcode.filter(|_| wanted & RCODE != 0) {
            memory.put(at(8), &rcode.to_le_bytes())?;
            there |= RCODE;
        }
        if let Some(alert) = self.detail.tls_alert.filter(|_| wanted & ALERT != 0) {
            memory.put(at(12), &[alert])?;
            there |= ALERT;
        }
        if let Some((frame, code)) = self.detail.h2.filter(|_| wanted & H2 != 0) {
            memory.put(at(13), &[frame])?;
            memory.put_u32(at(16), code)?;
            there |= H2;
        }
        memory.put_u32(at(4), there)?;
        self.result?.lower(&slots[1..], memory)
    }
}

/// The result of `pending_req_select_v2`: detail, position, response and body. Detail and position
/// are written whether the request failed or not.
#[derive(Debug)]
pub struct DetailedSelect {
    /// What the detail says.
    pub detail: ErrorDetail,
    /// Which request it was.
    pub index: u32,
    /// Response and body handles.
    pub result: HostResult<(u32, u32)>,
}

impl Lower for DetailedSelect {
    const SLOTS: usize = 4;
    fn lower(self, slots: &[u32], memory: &mut GuestMemory<'_>) -> HostResult<()> {
        self.index.lower(&slots[1..], memory)?;
        let Self { detail, result, .. } = self;
        // The detail's slot, then those of the handles.
        WithDetail { detail, result }.lower(&[slots[0], slots[2], slots[3]], memory)
    }
}

/// `inspect_info` (24 bytes) behind its mask: corp, workspace and client address, each by pointer and length.
#[derive(Clone, Debug)]
pub struct InspectRecord {
    /// The address to take for the client's.
    pub client: Option<IpAddr>,
}

impl Lift for InspectRecord {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        const CORP: u32 = 2;
        const WORKSPACE: u32 = 4;
        const CLIENT: u32 = 8;
        let (mask, ptr) = (slots[0], slots[1]);
        memory.bytes(ptr, 24)?;
        let field = |offset: u32| {
            let length = memory.u32(ptr + offset + 4)?;
            if length == 0 || length > MAX_STR {
                return Err(HostError::inval("a field that is said to be there is empty or too long"));
            }
            memory.bytes(memory.u32(ptr + offset)?, length)
        };
        for (bit, offset) in [(CORP, 0), (WORKSPACE, 8)] {
            if mask & bit != 0 {
                std::str::from_utf8(field(offset)?).map_err(|_| HostError::inval("not UTF-8"))?;
            }
        }
        if mask & CLIENT == 0 {
            return Ok(Self { client: None });
        }
        let octets = field(16)?;
        let client = match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
            (Ok(v4), _) => IpAddr::from(v4),
            (_, Ok(v6)) => IpAddr::from(v6),
            _ => return Err(HostError::inval("an address has 4 or 16 bytes")),
        };
        Ok(Self { client: Some(client) })
    }
}

/// `cache_override_v3`'s record of 20 bytes: TTL, stale-while-revalidate, surrogate keys by pointer
/// and length, lookup timeout in milliseconds.
#[derive(Clone, Debug)]
pub struct CacheOverrideRecord {
    /// Seconds.
    pub ttl: u32,
    /// Seconds.
    pub stale_while_revalidate: u32,
    /// Space separated.
    pub surrogate_keys: Vec<u8>,
    /// Milliseconds.
    pub lookup_timeout: u32,
}

impl Lift for CacheOverrideRecord {
    const SLOTS: usize = 1;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let at = |offset| memory.u32(slots[0].saturating_add(offset));
        let keys = Str::lift(&[at(8)?, at(12)?], memory)?;
        Ok(Self { ttl: at(0)?, stale_while_revalidate: at(4)?, surrogate_keys: keys.to_vec(), lookup_timeout: at(16)? })
    }
}

/// The options of `next_request`: a mask (bit 1: there is a timeout; no other is known) and a
/// record of 8 bytes with the timeout in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct NextRequestOptions {
    /// Longest wait.
    pub timeout: Option<std::time::Duration>,
}

impl Lift for NextRequestOptions {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        const TIMEOUT: u32 = 2;
        let mut millis = [0; 8];
        millis.copy_from_slice(memory.bytes(slots[1], 8)?);
        if slots[0] & !TIMEOUT != 0 {
            return Err(HostError::unsupported("an unknown option"));
        }
        let timeout = (slots[0] & TIMEOUT != 0).then(|| std::time::Duration::from_millis(u64::from_le_bytes(millis)));
        Ok(Self { timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(values: &[&str], size: u32, cursor: u32) -> (HostResult<()>, Vec<u8>, i64, u32) {
        let mut bytes = vec![0xee; 128];
        let mut memory = GuestMemory::new(&mut bytes);
        let done = Paged::new(values.iter()).lower(&[0, size, cursor, 100, 108], &mut memory);
        let written = memory.u32(108).expect("inside");
        let mut next = [0; 8];
        next.copy_from_slice(memory.bytes(100, 8).expect("inside"));
        let content = memory.bytes(0, written.min(64)).expect("inside").to_vec();
        (done, content, i64::from_le_bytes(next), written)
    }

    #[test]
    fn pages_hold_whole_values() {
        let (done, content, next, _) = page(&["ab", "c", "def"], 64, 0);
        done.expect("fits");
        assert_eq!((content.as_slice(), next), (&b"ab\0c\0def\0"[..], -1));
        let (done, content, next, _) = page(&["ab", "c", "def"], 6, 0);
        done.expect("fits");
        assert_eq!((content.as_slice(), next), (&b"ab\0c\0"[..], 2));
        let (done, content, next, _) = page(&["ab", "c", "def"], 6, 2);
        done.expect("fits");
        assert_eq!((content.as_slice(), next), (&b"def\0"[..], -1));
        let (done, content, next, _) = page(&[], 0, 0);
        done.expect("fits");
        assert_eq!((content.as_slice(), next), (&b""[..], -1));
    }

    #[test]
    fn a_page_too_small_for_one_value_says_what_it_needs() {
        let (done, _, _, needed) = page(&["abcdef"], 6, 0);
        assert!(matches!(done, Err(HostError::Status(Status::BufferLength, _))));
        assert_eq!(needed, 7);
    }

    #[test]
    fn a_null_ending_cursor_is_tolerated() {
        let mut bytes = vec![0xee; 64];
        let mut memory = GuestMemory::new(&mut bytes);
        Paged::new(["a"].iter()).lower(&[8, 8, 0, 0, 32], &mut memory).expect("lowers");
        assert_eq!(memory.bytes(0, 8).expect("inside"), [0xee; 8]);
    }

    #[test]
    fn a_small_buffer_stays_untouched() {
        let mut bytes = vec![0xee; 64];
        let mut memory = GuestMemory::new(&mut bytes);
        let done = Buf("hello").lower(&[0, 4, 32], &mut memory);
        assert!(matches!(done, Err(HostError::Status(Status::BufferLength, _))));
        assert_eq!(memory.u32(32).expect("inside"), 5);
        assert_eq!(memory.bytes(0, 4).expect("inside"), [0xee; 4]);
    }

    #[test]
    fn the_detail_is_written_when_the_call_fails() {
        let mut bytes = vec![0xee; 64];
        let mut memory = GuestMemory::new(&mut bytes);
        let failed =
            WithDetail::<u32> { detail: ErrorDetail { tag: 23, tls_alert: Some(40), ..ErrorDetail::OK }, result: Err(HostError::none()) };
        assert!(failed.lower(&[8, 40], &mut memory).is_err());
        assert_eq!((memory.u32(8).expect("inside"), memory.u32(12).expect("inside")), (23, 8));
        assert_eq!(memory.bytes(20, 1).expect("inside"), [40]);
        assert_eq!(memory.u32(40).expect("inside"), 0xeeee_eeee);
    }
}
