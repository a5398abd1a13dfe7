//! When a connection wants to be looked at even if nothing happens to it: one lazy timer each.
//!
//! A deadline that has moved back leaves its timer as it is: whoever it wakes looks at the connection and sets it anew.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;
use crate::transport::Handle;

/// Timers of connections.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Earliest first.
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Timers {
    /// Wakes `stream` at `deadline`, unless `armed` says that it is woken no later than that already.
    pub(super) fn arm(&mut self, armed: &mut Option<Instant>, deadline: Option<Instant>, stream: Handle) {
        if let Some(deadline) = deadline
            && armed.is_none_or(|armed| deadline < armed)
        {
            *armed = Some(deadline);
            self.heap.push(Reverse((deadline, stream.index, stream.generation)));
        }
    }

    /// The earliest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _, _))| *deadline)
    }

    /// One that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, Handle)> {
        let Reverse((deadline, index, generation)) = *self.heap.peek()?;
        if deadline > now {
            return None;
        }
        self.heap.pop();
        Some((deadline, Handle { index, generation }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_back_costs_no_second_timer() {
        let (at, stream) = (Instant::from_millis, Handle { index: 1, generation: 1 });
        let (mut timers, mut armed) = (Timers::default(), None);
        timers.arm(&mut armed, None, stream);
        assert_eq!((timers.next(), armed), (None, None));
        for deadline in [at(20), at(30), at(25)] {
            timers.arm(&mut armed, Some(deadline), stream);
        }
        assert_eq!((timers.next(), timers.heap.len()), (Some(at(20)), 1));
        timers.arm(&mut armed, Some(at(10)), stream);
        assert_eq!((timers.next(), armed), (Some(at(10)), Some(at(10))));
        assert_eq!(timers.due(at(9)), None);
        assert_eq!(timers.due(at(15)), Some((at(10), stream)));
        assert_eq!(timers.due(at(15)), None);
    }
}
