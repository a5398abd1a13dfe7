//! When to give up on connections that the application has closed and whose bytes the kernel hasn't taken yet.
//!
//! Owns deadlines only. A stream that ends in time leaves its deadline behind; whoever takes it finds a stale handle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;
use crate::transport::Handle;

/// Deadlines of closing streams.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Those of this turn: nearly all are gone by the next one, and never cost a place in the heap.
    fresh: Vec<(Instant, Handle)>,
    /// Earliest first.
    deadlines: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Closing {
    pub(crate) fn add(&mut self, deadline: Instant, stream: Handle) {
        self.fresh.push((deadline, stream));
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn next(&self) -> Option<Instant> {
        let fresh = self.fresh.iter().map(|(deadline, _)| *deadline).min();
        let old = self.deadlines.peek().map(|Reverse((deadline, _, _))| *deadline);
        [fresh, old].into_iter().flatten().min()
    }

    /// At a turn's end: forgets those that have ended within it, as `is_closing` says, and files the others.
    #[inline]
    pub(crate) fn settle(&mut self, is_closing: impl Fn(Handle) -> bool) {
        for (deadline, stream) in self.fresh.drain(..) {
            if is_closing(stream) {
                self.deadlines.push(Reverse((deadline, stream.index, stream.generation)));
            }
        }
    }

    /// A stream whose deadline has passed.
    #[inline]
    pub(crate) fn due(&mut self, now: Instant) -> Option<Handle> {
        if let Some(at) = self.fresh.iter().position(|(deadline, _)| *deadline <= now) {
            return Some(self.fresh.swap_remove(at).1);
        }
        let Reverse((deadline, index, generation)) = *self.deadlines.peek()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop();
        Some(Handle { index, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_that_outlive_their_turn_are_filed() {
        let stream = |index| Handle { index, generation: 1 };
        let at = Instant::from_millis;
        let mut closing = Closing::default();
        closing.add(at(20), stream(1));
        closing.add(at(10), stream(2));
        closing.add(at(15), stream(3));
        assert_eq!(closing.next(), Some(at(10)));
        closing.settle(|handle| handle != stream(2));
        assert_eq!(closing.next(), Some(at(15)));
        closing.add(at(12), stream(4));
        assert_eq!(closing.due(at(14)), Some(stream(4)), "also before it was filed");
        assert_eq!(closing.due(at(14)), None);
        assert_eq!((closing.due(at(30)), closing.due(at(30))), (Some(stream(3)), Some(stream(1))));
        assert_eq!((closing.due(at(30)), closing.next()), (None, None));
    }
}
