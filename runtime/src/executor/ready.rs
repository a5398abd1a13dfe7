//! The tasks that want to be polled, first in, first out.
//!
//! A ring of slot numbers. A slot is in it at most once (its `queued` flag says so), so a ring with a place for each slot
//! can never overflow: it grows with the slot table, outside of any wake.

/// A ring of slot numbers.
#[derive(Debug)]
pub(crate) struct Ready {
    /// As many places as a power of two.
    ring: Box<[u32]>,
    /// One less than the number of places.
    mask: usize,
    head: usize,
    tail: usize,
}

impl Default for Ready {
    fn default() -> Self {
        Ready { ring: Box::new([0]), mask: 0, head: 0, tail: 0 }
    }
}

impl Ready {
    /// Makes room for `slots` entries.
    pub(crate) fn reserve(&mut self, slots: usize) {
        if slots <= self.ring.len() {
            return;
        }
        let mut ring = vec![0; slots.next_power_of_two()].into_boxed_slice();
        let len = self.len();
        for (to, from) in ring.iter_mut().zip(self.head..self.tail) {
            *to = self.ring[from & self.mask];
        }
        *self = Ready { mask: ring.len() - 1, ring, head: 0, tail: len };
    }

    /// Appends a slot. The caller keeps each slot in here at most once.
    #[inline]
    pub(crate) fn push(&mut self, slot: u32) {
        debug_assert!(self.len() < self.ring.len(), "a slot was queued twice");
        // SAFETY: there is a power of two of places, and the mask is one less than that.
        *unsafe { self.ring.get_unchecked_mut(self.tail & self.mask) } = slot;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Takes the slot that has waited longest.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.head == self.tail {
            return None;
        }
        // SAFETY: as in `push`.
        let slot = *unsafe { self.ring.get_unchecked(self.head & self.mask) };
        self.head = self.head.wrapping_add(1);
        Some(slot)
    }

    /// Entries queued.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether nothing is queued.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn it_is_a_queue(ops in prop::collection::vec(prop::option::weighted(0.6, any::<u32>()), 0..400)) {
            let mut ready = Ready::default();
            let mut model = VecDeque::new();
            for op in ops {
                match op {
                    Some(slot) => {
                        ready.reserve(model.len() + 1);
                        ready.push(slot);
                        model.push_back(slot);
                    }
                    None => prop_assert_eq!(ready.pop(), model.pop_front()),
                }
                prop_assert_eq!(ready.len(), model.len());
                prop_assert_eq!(ready.is_empty(), model.is_empty());
            }
        }
    }
}
