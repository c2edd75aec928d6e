//! Bounds-checked access to a guest's linear memory. A pointer outside of it is the guest's bug
//! and ends the guest, as in production.

use std::cell::Cell;

use super::status::{HostError, HostResult};

/// Most bytes of a name that are shown.
const LONGEST_NAME: usize = 120;

/// A guest's linear memory.
pub struct GuestMemory<'a> {
    all: &'a mut [u8],
    /// Bytes that went in or out, words apart.
    moved: Cell<u32>,
    /// Where the first name is that came in.
    name: Cell<Option<(u32, u32)>>,
}

impl<'a> GuestMemory<'a> {
    /// The memory behind `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { all: bytes, moved: Cell::new(0), name: Cell::new(None) }
    }

    /// How many bytes went in or out through this, words apart.
    pub fn moved(&self) -> u32 {
        self.moved.get()
    }

    /// Notes that a name came in: of a store, a backend, a field, a key.
    pub fn note_name(&self, ptr: u32, len: u32) {
        if self.name.get().is_none() {
            self.name.set(Some((ptr, len)));
        }
    }

    /// The first name that came in, if it is text; a long one is cut.
    pub fn name(&self) -> Option<&str> {
        let (ptr, len) = self.name.get()?;
        let whole = self.at(ptr, len).ok()?;
        let shown = whole.get(..LONGEST_NAME).unwrap_or(whole);
        let text = match std::str::from_utf8(shown) {
            Ok(text) => text,
            // Cut within a character.
            Err(error) if error.error_len().is_none() => std::str::from_utf8(shown.get(..error.valid_up_to())?).ok()?,
            Err(_) => return None,
        };
        Some(text).filter(|text| !text.is_empty() && !text.contains(char::is_control))
    }

    fn at(&self, ptr: u32, len: u32) -> HostResult<&[u8]> {
        let start = ptr as usize;
        self.all.get(start..start + len as usize).ok_or_else(|| outside(ptr, len))
    }

    fn store(&mut self, ptr: u32, bytes: &[u8]) -> HostResult<()> {
        let start = ptr as usize;
        match self.all.get_mut(start..start + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(outside(ptr, bytes.len() as u32)),
        }
    }

    /// `len` bytes at `ptr`.
    pub fn bytes(&self, ptr: u32, len: u32) -> HostResult<&[u8]> {
        self.moved.set(self.moved.get().saturating_add(len));
        self.at(ptr, len)
    }

    /// Stores `bytes` at `ptr`.
    pub fn put(&mut self, ptr: u32, bytes: &[u8]) -> HostResult<()> {
        self.moved.set(self.moved.get().saturating_add(bytes.len() as u32));
        self.store(ptr, bytes)
    }

    /// A little-endian u32 at `ptr`.
    pub fn u32(&self, ptr: u32) -> HostResult<u32> {
        let mut word = [0; 4];
        word.copy_from_slice(self.at(ptr, 4)?);
        Ok(u32::from_le_bytes(word))
    }

    /// Stores a u32 at `ptr`.
    pub fn put_u32(&mut self, ptr: u32, value: u32) -> HostResult<()> {
        self.store(ptr, &value.to_le_bytes())
    }
}

#[cold]
fn outside(ptr: u32, len: u32) -> HostError {
    HostError::Trap(format!("pointer outside of guest memory: {len} bytes at {ptr:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_inside() {
        let mut bytes = vec![0; 16];
        let mut memory = GuestMemory::new(&mut bytes);
        memory.put_u32(12, 7).expect("inside");
        assert_eq!(memory.u32(12).expect("inside"), 7);
        assert!(matches!(memory.put_u32(13, 7), Err(HostError::Trap(_))));
        assert!(matches!(memory.bytes(u32::MAX, u32::MAX), Err(HostError::Trap(_))));
        assert_eq!(memory.bytes(16, 0).expect("the empty slice at the end").len(), 0);
    }
}
