//! Bounds-checked access to a guest's linear memory. A pointer outside of it is the guest's bug
//! and ends the guest, as in production.

use super::status::{HostError, HostResult};

/// A guest's linear memory.
pub struct GuestMemory<'a>(&'a mut [u8]);

impl<'a> GuestMemory<'a> {
    /// The memory behind `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    /// `len` bytes at `ptr`.
    pub fn bytes(&self, ptr: u32, len: u32) -> HostResult<&[u8]> {
        let start = ptr as usize;
        self.0.get(start..start + len as usize).ok_or_else(|| outside(ptr, len))
    }

    /// Stores `bytes` at `ptr`.
    pub fn put(&mut self, ptr: u32, bytes: &[u8]) -> HostResult<()> {
        let start = ptr as usize;
        match self.0.get_mut(start..start + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(outside(ptr, bytes.len() as u32)),
        }
    }

    /// A little-endian u32 at `ptr`.
    pub fn u32(&self, ptr: u32) -> HostResult<u32> {
        let mut word = [0; 4];
        word.copy_from_slice(self.bytes(ptr, 4)?);
        Ok(u32::from_le_bytes(word))
    }

    /// Stores a u32 at `ptr`.
    pub fn put_u32(&mut self, ptr: u32, value: u32) -> HostResult<()> {
        self.put(ptr, &value.to_le_bytes())
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
