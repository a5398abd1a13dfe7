//! When to give up on connections that the application has closed and whose bytes the kernel hasn't taken yet.
//!
//! Owns deadlines only. A stream that ends in time leaves its deadline behind; whoever takes it finds a stale handle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;
use crate::transport::Handle;

/// Deadlines of closing streams, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    deadlines: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Closing {
    pub(crate) fn add(&mut self, deadline: Instant, stream: Handle) {
        self.deadlines.push(Reverse((deadline, stream.index, stream.generation)));
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, _, _))| *deadline)
    }

    /// A stream whose deadline has passed.
    #[inline]
    pub(crate) fn due(&mut self, now: Instant) -> Option<Handle> {
        if self.next()? > now {
            return None;
        }
        self.deadlines.pop().map(|Reverse((_, index, generation))| Handle { index, generation })
    }
}
