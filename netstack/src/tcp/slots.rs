//! A table of things addressed by [`Handle`]: a position, and a generation that tells its users apart.

use demi_drivers::mem;
use demi_drivers::transport::Handle;

/// The table. Positions are reused, last freed first; memory is kept.
///
/// Generations lie apart from the values: they are small enough to stay at hand for all of them, and a value that fills whole
/// cache lines goes on doing so.
pub(crate) struct Slots<T> {
    values: Vec<Option<T>>,
    /// Count the users of each position; a handle is good as long as it matches.
    generations: Vec<u32>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slots<T> {
    /// A table for at most `limit` values.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(u32::MAX as usize >> 2);
        Slots { values: Vec::new(), generations: Vec::new(), free: Vec::new(), limit }
    }

    /// Values in the table.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Puts a value in; the value again when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Handle, T> {
        if let Some(index) = self.free.pop()
            && let (Some(place), Some(&generation)) =
                (self.values.get_mut(index as usize), self.generations.get(index as usize))
        {
            *place = Some(value);
            return Ok(Handle { index, generation });
        }
        if self.values.len() >= self.limit {
            return Err(value);
        }
        let index = self.values.len() as u32;
        self.values.push(Some(value));
        self.generations.push(1);
        Ok(Handle { index, generation: 1 })
    }

    /// Takes the value at a position out; handles to it go stale.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.values.get_mut(index as usize)?.take()?;
        self.invalidate(index);
        self.free.push(index);
        Some(value)
    }

    /// Drops the value at a position where it lies; handles to it go stale.
    pub(crate) fn clear(&mut self, index: u32) {
        if let Some(place) = self.values.get_mut(index as usize)
            && place.is_some()
        {
            *place = None;
            self.invalidate(index);
            self.free.push(index);
        }
    }

    /// The value at a position, whoever it belongs to.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.values.get(index as usize)?.as_ref()
    }

    /// The value at a position, whoever it belongs to.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.values.get_mut(index as usize)?.as_mut()
    }

    #[inline]
    fn is_current(&self, handle: Handle) -> bool {
        self.generations.get(handle.index as usize) == Some(&handle.generation)
    }

    /// Has the processor fetch what a segment touches of the value at a position: its first `LINES` cache lines, and its generation.
    #[inline]
    pub(crate) fn prefetch<const LINES: usize>(&self, index: u32) {
        if let (Some(place), Some(generation)) =
            (self.values.get(index as usize), self.generations.get(index as usize))
        {
            mem::prefetch_lines::<LINES, _>(place);
            mem::prefetch(generation);
        }
    }

    /// The value a handle stands for.
    #[inline]
    pub(crate) fn get(&self, handle: Handle) -> Option<&T> {
        if self.is_current(handle) { self.at(handle.index) } else { None }
    }

    /// The value a handle stands for.
    #[inline]
    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        if self.is_current(handle) { self.at_mut(handle.index) } else { None }
    }

    /// The handle of the value at a position.
    pub(crate) fn handle_of(&self, index: u32) -> Option<Handle> {
        self.at(index)?;
        let generation = *self.generations.get(index as usize)?;
        Some(Handle { index, generation })
    }

    /// Positions there are, taken or not.
    pub(crate) fn positions(&self) -> u32 {
        self.values.len() as u32
    }

    /// Makes all handles to a value stale and leaves it in place.
    pub(crate) fn invalidate(&mut self, index: u32) {
        if let Some(generation) = self.generations.get_mut(index as usize) {
            *generation = generation.wrapping_add(1);
        }
    }

    /// All values. For control paths: no datapath loops over all sockets.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }

    /// All values. For control paths: no datapath loops over all sockets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
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
