//! A table of things addressed by [`Handle`]: a position, and a generation that tells its users apart.

use demi_drivers::transport::Handle;

struct Slot<T> {
    /// Counts the users; a handle is good as long as it matches.
    generation: u32,
    value: Option<T>,
}

/// The table. Positions are reused, last freed first; memory is kept.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slots<T> {
    /// A table for at most `limit` values.
    pub(crate) fn new(limit: usize) -> Self {
        Slots { slots: Vec::new(), free: Vec::new(), limit: limit.min(u32::MAX as usize >> 2) }
    }

    /// Values in the table.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Puts a value in; the value again when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Handle, T> {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.value = Some(value);
            return Ok(Handle { index, generation: slot.generation });
        }
        if self.slots.len() >= self.limit {
            return Err(value);
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot { generation: 1, value: Some(value) });
        Ok(Handle { index, generation: 1 })
    }

    /// Takes the value at a position out; handles to it go stale.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// The value at a position, whoever it belongs to.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.value.as_ref()
    }

    /// The value at a position, whoever it belongs to.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.value.as_mut()
    }

    /// The value a handle stands for.
    #[inline]
    pub(crate) fn get(&self, handle: Handle) -> Option<&T> {
        let slot = self.slots.get(handle.index as usize)?;
        if slot.generation == handle.generation { slot.value.as_ref() } else { None }
    }

    /// The value a handle stands for.
    #[inline]
    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation == handle.generation { slot.value.as_mut() } else { None }
    }

    /// The handle of the value at a position.
    pub(crate) fn handle_of(&self, index: u32) -> Option<Handle> {
        let slot = self.slots.get(index as usize)?;
        slot.value.as_ref()?;
        Some(Handle { index, generation: slot.generation })
    }

    /// Positions there are, taken or not.
    pub(crate) fn positions(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Makes all handles to a value stale and leaves it in place.
    pub(crate) fn invalidate(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.generation = slot.generation.wrapping_add(1);
        }
    }

    /// All values. For control paths: no datapath loops over all sockets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_does_not_reach_the_next_user_of_its_position() {
        let mut slots = Slots::new(2);
        let a = slots.insert('a').unwrap();
        assert_eq!(slots.remove(a.index), Some('a'));
        assert_eq!(slots.remove(a.index), None);
        let b = slots.insert('b').unwrap();
        assert_eq!(a.index, b.index);
        assert_eq!((slots.get(a), slots.get(b), slots.at(b.index)), (None, Some(&'b'), Some(&'b')));
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.handle_of(b.index), Some(b));
        slots.insert('c').unwrap();
        assert!(slots.is_full());
        assert_eq!(slots.insert('d'), Err('d'));
        assert_eq!(slots.iter().collect::<String>(), "bc");
    }
}
