//! Payloads that arrived ahead of a gap, and the SACK blocks that tell the sender of them (RFC 2018, RFC 2883).
//!
//! Bytes are addressed by their distance from the left edge of the stream at the time the queue was last empty, so that keys
//! never wrap. The queue holds each byte once; what it may hold is bounded by the window (checked by the caller) and by a
//! number of buffers.

use std::collections::{BTreeMap, VecDeque};

use demi_drivers::Buf;

use super::rare::Quiet;
use super::seq::SeqNumber;
use crate::wire::tcp::{SackBlock, SackBlocks};

/// SACK blocks remembered in the order their ranges last grew.
const RECENT: usize = 4;

struct Range {
    end: u64,
    bufs: VecDeque<Buf>,
}

/// What arrived out of order.
pub(crate) struct Reassembly {
    /// Ranges by their first byte; never empty, never touching each other.
    ranges: BTreeMap<u64, Range>,
    /// The sequence number that key 0 stands for.
    base: SeqNumber,
    /// A byte of each of the ranges that grew most recently, latest first (RFC 2018 §4).
    recent: VecDeque<u64>,
    /// What arrived twice and has not been told yet (RFC 2883 §4).
    duplicate: Option<SackBlock>,
    bufs: usize,
    bytes: u64,
}

impl Quiet for Reassembly {
    const QUIET: &'static Self = &Reassembly::new();

    fn quiet() -> Self {
        Reassembly::new()
    }
}

/// What became of an out-of-order payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// Some of it was new and is queued.
    Queued,
    /// All of it was here already.
    Duplicate,
    /// There was no room.
    Dropped,
}

impl Reassembly {
    /// Nothing has arrived out of order.
    pub(crate) const fn new() -> Reassembly {
        Reassembly {
            ranges: BTreeMap::new(),
            base: SeqNumber::new(0),
            recent: VecDeque::new(),
            duplicate: None,
            bufs: 0,
            bytes: 0,
        }
    }

    /// Whether there is no gap.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes queued.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Queues `buf`, whose first byte has number `seq` and lies behind `next`, the first byte still missing. At most
    /// `max_bufs` buffers are held. O(log n) for each gap the payload touches.
    pub(crate) fn insert(&mut self, next: SeqNumber, seq: SeqNumber, buf: Buf, max_bufs: usize) -> Inserted {
        if self.ranges.is_empty() {
            self.base = next;
            self.recent.clear();
        }
        let start = u64::from(seq - self.base);
        let end = start + buf.len() as u64;
        if start == end {
            return Inserted::Duplicate;
        }
        // Walk over what of the payload is missing; the ranges that already hold parts of it stay as they are.
        let mut at = start;
        let (mut new, mut full) = (false, false);
        while at < end {
            if let Some((_, held)) = self.ranges.range(..=at).next_back()
                && held.end > at
            {
                // RFC 2883 §4: what of a segment is here already is told, too.
                let held_end = held.end;
                self.extend_duplicate(at, held_end.min(end));
                at = held_end;
                continue;
            }
            let gap_end = self.ranges.range(at..).next().map_or(end, |(&start, _)| start.min(end));
            if self.bufs >= max_bufs {
                full = true;
                break;
            }
            let piece = buf.slice((at - start) as usize, (gap_end - at) as usize);
            self.insert_piece(at, gap_end, piece);
            new = true;
            at = gap_end;
        }
        if new {
            self.note_recent(start.max(self.first_new(start, end)));
            Inserted::Queued
        } else if full {
            Inserted::Dropped
        } else {
            self.duplicate = Some(SackBlock { start: seq.get(), end: (seq + buf.len() as u32).get() });
            self.note_recent(start);
            Inserted::Duplicate
        }
    }

    /// A byte of the payload that is held.
    fn first_new(&self, start: u64, end: u64) -> u64 {
        let held = self.ranges.range(..=start).next_back().filter(|(_, range)| range.end > start);
        match held {
            Some(_) => start,
            None => self.ranges.range(start..end).next().map_or(start, |(&start, _)| start),
        }
    }

    /// Puts a piece that nothing overlaps into the range it touches, on either side, or into one of its own.
    fn insert_piece(&mut self, start: u64, end: u64, piece: Buf) {
        self.bufs += 1;
        self.bytes += end - start;
        let left = self.ranges.range(..start).next_back().filter(|(_, range)| range.end == start);
        let left = left.map(|(&key, _)| key);
        let right = self.ranges.remove(&end);
        let key = left.unwrap_or(start);
        let range = self.ranges.entry(key).or_insert_with(|| Range { end: start, bufs: VecDeque::new() });
        range.bufs.push_back(piece);
        range.end = end;
        if let Some(mut right) = right {
            range.end = right.end;
            // The shorter of the two moves: a buffer moves at most log n times in its life.
            if right.bufs.len() <= range.bufs.len() {
                range.bufs.append(&mut right.bufs);
            } else {
                while let Some(buf) = range.bufs.pop_back() {
                    right.bufs.push_front(buf);
                }
                range.bufs = right.bufs;
            }
        }
    }

    fn note_recent(&mut self, at: u64) {
        let Some((start, end)) = self.range_around(at) else { return };
        self.recent.retain(|&other| !(start..end).contains(&other));
        self.recent.push_front(at);
        self.recent.truncate(RECENT);
    }

    fn range_around(&self, at: u64) -> Option<(u64, u64)> {
        let (&start, range) = self.ranges.range(..=at).next_back()?;
        (range.end > at).then_some((start, range.end))
    }

    /// Remembers that the bytes from `start` to `end` arrived again, to be told in the next acknowledgement.
    pub(crate) fn note_duplicate(&mut self, start: SeqNumber, end: SeqNumber) {
        self.duplicate = Some(SackBlock { start: start.get(), end: end.get() });
    }

    /// As [`note_duplicate`](Self::note_duplicate), by place; what is to be told already grows if it touches.
    fn extend_duplicate(&mut self, start: u64, end: u64) {
        let (start, end) = (self.base + start as u32, self.base + end as u32);
        match self.duplicate {
            None => self.note_duplicate(start, end),
            Some(told) => {
                let (first, last) = (SeqNumber::new(told.start), SeqNumber::new(told.end));
                if start.at_or_before(last) && first.at_or_before(end) {
                    self.note_duplicate(first.earlier(start), last.later(end));
                }
            }
        }
    }

    /// Duplicates are not told.
    pub(crate) fn forget_duplicate(&mut self) {
        self.duplicate = None;
    }

    /// Whether one is to be told.
    pub(crate) fn has_duplicate(&self) -> bool {
        self.duplicate.is_some()
    }

    /// Takes what has become in order now that every byte before `next` has arrived, and hands it to `deliver` piece by piece;
    /// answers the new first missing byte. What of it the in-order data has covered again is to be told (RFC 2883 §4).
    pub(crate) fn deliver(&mut self, next: SeqNumber, mut deliver: impl FnMut(Buf)) -> SeqNumber {
        let mut at = u64::from(next - self.base);
        if let Some((&start, range)) = self.ranges.first_key_value()
            && start < at
            && self.duplicate.is_none()
        {
            let (start, end) = (self.base + start as u32, self.base + range.end.min(at) as u32);
            self.note_duplicate(start, end);
        }
        while let Some(first) = self.ranges.first_entry() {
            if *first.key() > at {
                break;
            }
            let (mut start, range) = first.remove_entry();
            for mut buf in range.bufs {
                self.bufs -= 1;
                self.bytes -= buf.len() as u64;
                let end = start + buf.len() as u64;
                if end > at {
                    // In-order data may have covered the beginning meanwhile.
                    buf.advance(at.saturating_sub(start) as usize);
                    deliver(buf);
                    at = end;
                }
                start = end;
            }
        }
        if self.ranges.is_empty() {
            self.recent.clear();
        }
        self.base + at as u32
    }

    /// Whether an acknowledgement has something to tell beyond its number.
    #[inline]
    pub(crate) fn has_blocks(&self) -> bool {
        !self.ranges.is_empty() || self.duplicate.is_some()
    }

    /// The blocks for the next acknowledgement: a duplicate first (RFC 2883 §4), then the ranges that grew most recently
    /// (RFC 2018 §4). The duplicate is told once.
    pub(crate) fn take_blocks(&mut self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some(duplicate) = self.duplicate.take() {
            blocks.push(duplicate);
        }
        for at in &self.recent {
            if let Some((start, end)) = self.range_around(*at) {
                let start = self.base + start as u32;
                blocks.push(SackBlock { start: start.get(), end: (self.base + end as u32).get() });
            }
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use demi_drivers::{Pool, PoolConfig};
    use proptest::prelude::*;

    use super::*;

    fn pool() -> Pool {
        Pool::new(&PoolConfig::small(2048)).unwrap()
    }

    const NEXT: SeqNumber = SeqNumber::new(u32::MAX - 100);

    fn put(queue: &mut Reassembly, pool: &Pool, at: u32, len: usize) -> Inserted {
        queue.insert(NEXT, NEXT + at, pool.copy_from_slice(&vec![at as u8; len]).unwrap(), 1000)
    }

    fn blocks(queue: &mut Reassembly) -> Vec<(u32, u32)> {
        let blocks = queue.take_blocks();
        let relative = |seq: u32| SeqNumber::new(seq) - NEXT;
        blocks.as_slice().iter().map(|block| (relative(block.start), relative(block.end))).collect()
    }

    #[test]
    fn blocks_tell_the_most_recent_range_first() {
        let (pool, mut queue) = (pool(), Reassembly::new());
        for at in [100, 300, 500, 700, 900] {
            assert_eq!(put(&mut queue, &pool, at, 100), Inserted::Queued);
        }
        assert_eq!(blocks(&mut queue), [(900, 1000), (700, 800), (500, 600), (300, 400)]);
        put(&mut queue, &pool, 400, 50);
        assert_eq!(blocks(&mut queue), [(300, 450), (900, 1000), (700, 800), (500, 600)]);
        put(&mut queue, &pool, 600, 100);
        assert_eq!(blocks(&mut queue), [(500, 800), (300, 450), (900, 1000)]);
    }

    #[test]
    fn a_duplicate_is_told_once_and_first() {
        let (pool, mut queue) = (pool(), Reassembly::new());
        put(&mut queue, &pool, 100, 100);
        put(&mut queue, &pool, 300, 100);
        assert_eq!(put(&mut queue, &pool, 120, 30), Inserted::Duplicate);
        assert_eq!(blocks(&mut queue), [(120, 150), (100, 200), (300, 400)]);
        assert_eq!(blocks(&mut queue), [(100, 200), (300, 400)]);
        assert_eq!(put(&mut queue, &pool, 50, 400), Inserted::Queued, "it closes both gaps");
        assert_eq!(blocks(&mut queue), [(100, 200), (50, 450)], "what was here of it is told");
        assert_eq!(queue.bytes(), 400);
    }

    #[test]
    fn buffers_are_bounded_and_what_does_not_fit_is_dropped() {
        let (pool, mut queue) = (pool(), Reassembly::new());
        for at in 0..10 {
            let buf = pool.copy_from_slice(&[1]).unwrap();
            let expected = if at < 5 { Inserted::Queued } else { Inserted::Dropped };
            assert_eq!(queue.insert(NEXT, NEXT + 2 + 2 * at, buf, 5), expected);
        }
        assert_eq!(pool.stats().slots_out, 5);
        drop(queue);
        assert_eq!(pool.stats().slots_out, 0);
    }

    #[test]
    fn data_that_covers_the_front_leaves_the_rest_and_what_it_covers_is_told() {
        let (pool, mut queue) = (pool(), Reassembly::new());
        put(&mut queue, &pool, 100, 100);
        put(&mut queue, &pool, 300, 10);
        let mut seen = Vec::new();
        assert_eq!(queue.deliver(NEXT + 150, |buf| seen.push(buf.len())), NEXT + 200);
        assert_eq!((seen, queue.bytes()), (vec![50], 10));
        assert_eq!(blocks(&mut queue), [(100, 150), (300, 310)], "RFC 2883 §4");
        assert_eq!(queue.deliver(NEXT + 400, |_| panic!("all covered")), NEXT + 400);
        assert!(queue.is_empty());
        assert_eq!(blocks(&mut queue), [(300, 310)]);
        assert!(!queue.has_blocks(), "told once");
    }

    proptest! {
        #[test]
        fn reassembles_what_a_byte_map_reassembles(
            start in any::<u32>(),
            segments in proptest::collection::vec((0usize..2000, 1usize..300), 1..120),
        ) {
            let pool = pool();
            let stream: Vec<u8> = (0..2400u32).map(|at| (at * 7 + at / 256) as u8).collect();
            let start = SeqNumber::new(start);
            let mut queue = Reassembly::new();
            let mut have = vec![false; stream.len()];
            let (mut next, mut out) = (0usize, Vec::new());
            for (at, len) in segments {
                let end = (at + len).min(stream.len());
                if end <= next {
                    continue;
                }
                let from = at.max(next);
                let buf = pool.copy_from_slice(&stream[from..end]).unwrap();
                let fresh = have[from..end].iter().any(|have| !have);
                let twice = have[from..end].iter().any(|have| *have);
                have[from..end].fill(true);
                if from == next {
                    out.extend_from_slice(&buf);
                    next = end;
                    let reached = queue.deliver(start + next as u32, |buf| out.extend_from_slice(&buf));
                    next = (reached - start) as usize;
                    // The acknowledgement that goes out at once tells what came twice.
                    queue.take_blocks();
                } else {
                    let inserted = queue.insert(start + next as u32, start + from as u32, buf, 4096);
                    prop_assert_eq!(inserted, if fresh { Inserted::Queued } else { Inserted::Duplicate });
                    let blocks = queue.take_blocks();
                    let first = blocks.as_slice()[usize::from(twice)];
                    let (a, b) = ((SeqNumber::new(first.start) - start) as usize, (SeqNumber::new(first.end) - start) as usize);
                    prop_assert!(a <= from.max(a) && b >= end.min(b) && a < end && b > from, "first block is of this segment");
                    for block in blocks.as_slice().iter().skip(usize::from(twice)) {
                        let (a, b) = ((SeqNumber::new(block.start) - start) as usize, (SeqNumber::new(block.end) - start) as usize);
                        prop_assert!(have[a..b].iter().all(|have| *have), "{}..{} held", a, b);
                        prop_assert!(a == 0 || !have[a - 1], "{} begins a range", a);
                        prop_assert!(b == stream.len() || !have[b], "{} ends a range", b);
                    }
                }
                let expected = have.iter().position(|have| !have).unwrap_or(have.len());
                prop_assert_eq!(next, expected);
                prop_assert_eq!(&out[..], &stream[..next]);
                prop_assert_eq!(queue.bytes() as usize, have[next..].iter().filter(|have| **have).count());
                prop_assert_eq!(queue.is_empty(), queue.bytes() == 0);
            }
        }
    }
}
