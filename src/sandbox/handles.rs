//! Handles: numbers a guest holds for things of the host. Typed, capped, and a handle that is stale
//! or of another kind is an error.

use std::marker::PhantomData;

/// The number that stands for "no handle" in every table.
pub const INVALID: u32 = u32::MAX - 1;

/// Live entries a table may hold.
const CAPACITY: usize = 8192;

/// A handle on a `T`.
pub struct Handle<T> {
    raw: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> std::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.raw)
    }
}

impl<T> Handle<T> {
    /// No handle.
    pub const NONE: Self = Self::from_raw(INVALID);

    /// The handle a guest's number stands for, valid or not.
    pub const fn from_raw(raw: u32) -> Self {
        Self { raw, kind: PhantomData }
    }

    /// The number for the guest.
    pub const fn raw(self) -> u32 {
        self.raw
    }
}

/// No such handle here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a handle that is open here")]
pub struct BadHandle;

/// The guest holds too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {CAPACITY} handles of one kind")]
pub struct TableFull;

/// Things by handle. The low 16 bits of a handle are its slot, the rest counts the slot's uses, so
/// that a number is not soon given out again.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
}

struct Slot<T> {
    uses: u16,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

/// Keeps the top bits clear of the special numbers.
const USES_MASK: u16 = 0x7fff;

impl<T> Table<T> {
    /// Keeps `value` and gives its handle.
    pub fn insert(&mut self, value: T) -> Result<Handle<T>, TableFull> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < CAPACITY => {
                self.slots.push(Slot { uses: 0, value: None });
                (self.slots.len() - 1) as u16
            }
            None => return Err(TableFull),
        };
        let slot = &mut self.slots[usize::from(index)];
        slot.value = Some(value);
        Ok(Handle::from_raw(u32::from(slot.uses) << 16 | u32::from(index)))
    }

    fn slot<U>(&self, handle: Handle<U>) -> Result<usize, BadHandle> {
        let index = (handle.raw & 0xffff) as usize;
        let uses = handle.raw >> 16;
        match self.slots.get(index) {
            Some(slot) if u32::from(slot.uses) == uses && slot.value.is_some() => Ok(index),
            Some(_) | None => Err(BadHandle),
        }
    }

    /// What the handle stands for.
    pub fn get<U>(&self, handle: Handle<U>) -> Result<&T, BadHandle> {
        let index = self.slot(handle)?;
        self.slots[index].value.as_ref().ok_or(BadHandle)
    }

    /// What the handle stands for, to change it.
    pub fn get_mut<U>(&mut self, handle: Handle<U>) -> Result<&mut T, BadHandle> {
        let index = self.slot(handle)?;
        self.slots[index].value.as_mut().ok_or(BadHandle)
    }

    /// What the handles stand for, each thing once, with the position of its first handle. In no
    /// particular order.
    pub fn get_many_mut(&mut self, handles: &[u32]) -> Result<Vec<(&mut T, usize)>, BadHandle> {
        let mut wanted = Vec::with_capacity(handles.len());
        for (position, raw) in handles.iter().enumerate() {
            wanted.push((self.slot(Handle::<T>::from_raw(*raw))?, position));
        }
        wanted.sort_unstable();
        wanted.dedup_by_key(|(slot, _)| *slot);
        let mut found = Vec::with_capacity(wanted.len());
        let (mut rest, mut passed) = (self.slots.as_mut_slice(), 0);
        for (slot, position) in wanted {
            let (before, after) = std::mem::take(&mut rest).split_at_mut(slot + 1 - passed);
            found.push((before.last_mut().and_then(|slot| slot.value.as_mut()).ok_or(BadHandle)?, position));
            (rest, passed) = (after, slot + 1);
        }
        Ok(found)
    }

    /// Takes the thing out; the handle is dead.
    pub fn take<U>(&mut self, handle: Handle<U>) -> Result<T, BadHandle> {
        let index = self.slot(handle)?;
        let slot = &mut self.slots[index];
        slot.uses = (slot.uses + 1) & USES_MASK;
        self.free.push(index as u16);
        slot.value.take().ok_or(BadHandle)
    }

    /// Everything that is held.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Everything that is held, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// Whether one more can be kept.
    pub fn has_room(&self) -> Result<(), TableFull> {
        if self.len() < CAPACITY { Ok(()) } else { Err(TableFull) }
    }

    /// Things held now.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_is_an_error_even_when_its_slot_is_used_again() {
        let mut table = Table::default();
        let first = table.insert("a").expect("room");
        assert_eq!(first.raw(), 0);
        assert_eq!(table.take(first), Ok("a"));
        let second = table.insert("b").expect("room");
        assert_eq!(table.get(first), Err(BadHandle));
        assert_eq!(table.take(first), Err(BadHandle));
        assert_eq!(table.get(second), Ok(&"b"));
    }

    #[test]
    fn many_at_once() {
        let mut table = Table::default();
        let handles: Vec<u32> = (0..5).map(|i| table.insert(i).expect("room").raw()).collect();
        let mut found = table.get_many_mut(&[handles[3], handles[0], handles[3], handles[4]]).expect("open");
        found.sort();
        assert_eq!(found, [(&mut 0, 1), (&mut 3, 0), (&mut 4, 3)]);
        assert_eq!(table.get_many_mut(&[]).expect("none").len(), 0);
        table.take(Handle::<i32>::from_raw(handles[4])).expect("open");
        assert_eq!(table.get_many_mut(&[handles[0], handles[4]]).err(), Some(BadHandle));
    }

    #[test]
    fn special_numbers_are_never_handles() {
        let table: Table<u8> = Table::default();
        assert_eq!(table.get(Handle::<u8>::NONE), Err(BadHandle));
        assert_eq!(table.get(Handle::<u8>::from_raw(u32::MAX)), Err(BadHandle));
    }

    #[test]
    fn a_table_is_capped() {
        let mut table = Table::default();
        for _ in 0..CAPACITY {
            table.insert(()).expect("room");
        }
        assert_eq!(table.insert(()).err(), Some(TableFull));
        assert_eq!(table.len(), CAPACITY);
    }
}
