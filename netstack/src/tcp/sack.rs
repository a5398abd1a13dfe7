//! The scoreboard: which of the bytes in flight the peer says it holds (RFC 2018), and what follows for recovery (RFC 6675).
//!
//! A bounded, sorted list of ranges. It answers what is selectively acknowledged, what counts as lost and how much is still
//! on the way; when to send is recovery's business.

use smallvec::SmallVec;

use super::seq::SeqNumber;
use crate::wire::tcp::SackBlock;

/// Ranges kept. A block that would make more is not taken in: its bytes then count as not received, which is safe. It bounds
/// the work a hostile peer can cause with each acknowledgement.
const MAX_RANGES: usize = 128;

/// Segments behind a hole after which it counts as lost (RFC 6675 §2, DupThresh).
pub(crate) const DUP_THRESHOLD: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: SeqNumber,
    end: SeqNumber,
}

/// What the blocks of one acknowledgement told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// Bytes told for the first time.
    pub(crate) new_bytes: u32,
    /// A block told of bytes that arrived twice (RFC 2883).
    pub(crate) duplicate: bool,
    /// Blocks that made no sense.
    pub(crate) discarded: u32,
}

/// The scoreboard.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    /// Sorted, apart from each other, all above what is acknowledged.
    ranges: SmallVec<[Range; 4]>,
    bytes: u32,
}

impl Scoreboard {
    /// Whether nothing is selectively acknowledged.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes selectively acknowledged.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Takes in the blocks of an acknowledgement of `ack`, when bytes up to `max` have been sent.
    pub(crate) fn update(
        &mut self,
        una: SeqNumber,
        ack: SeqNumber,
        max: SeqNumber,
        blocks: &[SackBlock],
    ) -> Update {
        let mut update = Update::default();
        self.acknowledge(ack);
        for (at, block) in blocks.iter().enumerate() {
            let (start, end) = (SeqNumber::new(block.start), SeqNumber::new(block.end));
            // RFC 2883 §4: the first block is a duplicate if it lies below the acknowledgement, or within the second.
            let within_next = || {
                blocks.get(1).is_some_and(|next| {
                    start.at_or_after(SeqNumber::new(next.start))
                        && end.at_or_before(SeqNumber::new(next.end))
                })
            };
            if at == 0
                && start.before(end)
                && end.at_or_before(max)
                && (end.at_or_before(ack) || within_next())
            {
                update.duplicate = true;
                continue;
            }
            // Inverted, beyond what was sent, or from before: nothing a sane receiver tells.
            if !start.before(end) || end.after(max) || start.before(una) || end.at_or_before(ack) {
                update.discarded += 1;
                continue;
            }
            update.new_bytes += self.insert(start.later(ack), end);
        }
        update
    }

    fn insert(&mut self, mut start: SeqNumber, mut end: SeqNumber) -> u32 {
        let first =
            self.ranges.iter().position(|range| range.end.at_or_after(start)).unwrap_or(self.ranges.len());
        let mut last = first;
        let mut merged = 0;
        while let Some(range) = self.ranges.get(last)
            && range.start.at_or_before(end)
        {
            start = start.earlier(range.start);
            end = end.later(range.end);
            merged += range.end - range.start;
            last += 1;
        }
        if first == last && self.ranges.len() >= MAX_RANGES {
            return 0;
        }
        if first == last {
            self.ranges.insert(first, Range { start, end });
        } else {
            self.ranges[first] = Range { start, end };
            self.ranges.drain(first + 1..last);
        }
        let new = (end - start) - merged;
        self.bytes += new;
        new
    }

    /// Drops what lies before `ack`.
    pub(crate) fn acknowledge(&mut self, ack: SeqNumber) {
        let gone = self.ranges.iter().position(|range| range.end.after(ack)).unwrap_or(self.ranges.len());
        for range in self.ranges.drain(..gone) {
            self.bytes -= range.end - range.start;
        }
        if let Some(first) = self.ranges.first_mut()
            && first.start.before(ack)
        {
            self.bytes -= ack - first.start;
            first.start = ack;
        }
    }

    /// Bytes selectively acknowledged that lie before `seq`.
    pub(crate) fn bytes_below(&self, seq: SeqNumber) -> u32 {
        self.ranges.iter().map(|range| range.end.earlier(seq).since(range.start)).sum()
    }

    /// Whether the peer holds what directly follows `ack`: it must have thrown that away before (RFC 2018 §8).
    pub(crate) fn reneged(&self, ack: SeqNumber) -> bool {
        self.ranges.first().is_some_and(|range| range.start.at_or_before(ack))
    }

    /// If the peer holds `seq`: the first byte behind it that it may lack.
    pub(crate) fn skip(&self, seq: SeqNumber) -> SeqNumber {
        match self.ranges.iter().find(|range| range.end.after(seq)) {
            Some(range) if range.start.at_or_before(seq) => range.end,
            _ => seq,
        }
    }

    /// Where the bytes from `seq` on that the peer lacks end, no further than `limit`.
    pub(crate) fn hole_end(&self, seq: SeqNumber, limit: SeqNumber) -> SeqNumber {
        match self.ranges.iter().find(|range| range.start.after(seq)) {
            Some(range) => range.start.earlier(limit),
            None => limit,
        }
    }

    /// The edge below which every byte the peer lacks counts as lost (RFC 6675 §4, IsLost): three ranges above it, or more
    /// than two segments' worth of bytes. `None`: nothing is lost.
    pub(crate) fn lost_below(&self, mss: u32) -> Option<SeqNumber> {
        let (mut ranges, mut bytes) = (0, 0);
        for range in self.ranges.iter().rev() {
            ranges += 1;
            bytes += range.end - range.start;
            if ranges >= DUP_THRESHOLD || bytes > (DUP_THRESHOLD - 1) * mss {
                return Some(range.start);
            }
        }
        None
    }

    /// Bytes still on the way (RFC 6675 §4, SetPipe): those the peer lacks that are not lost, and of those below `lost_below`
    /// the ones sent again, which are the ones below `high_rxt`.
    pub(crate) fn pipe(
        &self,
        una: SeqNumber,
        max: SeqNumber,
        high_rxt: SeqNumber,
        lost_below: Option<SeqNumber>,
    ) -> u32 {
        let lost_below = lost_below.unwrap_or(una);
        let (mut pipe, mut at) = (0, una);
        let mut hole = |start: SeqNumber, end: SeqNumber| {
            // The part beyond the lost edge is under way; the part below it only as far as it was sent again.
            pipe += end.since(start.later(lost_below));
            pipe += end.earlier(high_rxt).earlier(lost_below).since(start);
        };
        for range in &self.ranges {
            hole(at, range.start);
            at = range.end;
        }
        hole(at, max);
        pipe
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNA: SeqNumber = SeqNumber::new(u32::MAX - 5000);

    fn block(start: u32, end: u32) -> SackBlock {
        SackBlock { start: (UNA + start).get(), end: (UNA + end).get() }
    }

    fn ranges(board: &Scoreboard) -> Vec<(u32, u32)> {
        board.ranges.iter().map(|range| (range.start - UNA, range.end - UNA)).collect()
    }

    #[test]
    fn blocks_merge_and_acknowledgements_trim() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        let update = board.update(UNA, UNA, max, &[block(2000, 3000), block(4000, 5000)]);
        assert_eq!(update, Update { new_bytes: 2000, ..Update::default() });
        assert_eq!(board.update(UNA, UNA, max, &[block(2500, 4500)]).new_bytes, 1000);
        assert_eq!((ranges(&board), board.bytes()), (vec![(2000, 5000)], 3000));
        board.update(UNA, UNA + 2200, max, &[block(8000, 9000)]);
        assert_eq!((ranges(&board), board.bytes()), (vec![(2200, 5000), (8000, 9000)], 3800));
        assert!(board.reneged(UNA + 2200) && !board.reneged(UNA + 2000));
    }

    #[test]
    fn blocks_that_make_no_sense_are_discarded() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        let senseless = [block(3000, 2000), block(9000, 10_001), block(1000, 1000)];
        assert_eq!(board.update(UNA, UNA, max, &senseless).discarded, 3);
        let below = SackBlock { start: (UNA - 100).get(), end: (UNA + 100).get() };
        assert_eq!(board.update(UNA, UNA, max, &[block(200, 201), below]).discarded, 1);
        assert_eq!(ranges(&board), [(200, 201)]);
    }

    #[test]
    fn a_duplicate_is_no_news() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        let below = board.update(UNA, UNA + 3000, max, &[block(1000, 2000), block(4000, 5000)]);
        assert_eq!(below, Update { new_bytes: 1000, duplicate: true, discarded: 0 });
        let within = board.update(UNA + 3000, UNA + 3000, max, &[block(4100, 4200), block(4000, 5000)]);
        assert_eq!(within, Update { new_bytes: 0, duplicate: true, discarded: 0 });
    }

    #[test]
    fn holes_are_lost_below_three_ranges_or_two_segments() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        board.update(UNA, UNA, max, &[block(1000, 2000), block(3000, 4000)]);
        assert_eq!(board.lost_below(1000), None, "two ranges, two segments");
        board.update(UNA, UNA, max, &[block(5000, 5100)]);
        assert_eq!(board.lost_below(1000), Some(UNA + 1000));
        board.update(UNA, UNA, max, &[block(5000, 8000)]);
        assert_eq!(board.lost_below(1000), Some(UNA + 5000));
        // Lost: 0..1000, 2000..3000, 4000..5000. On the way: 8000..10000.
        assert_eq!(board.pipe(UNA, max, UNA, board.lost_below(1000)), 2000);
        assert_eq!(board.pipe(UNA, max, UNA + 2500, board.lost_below(1000)), 2000 + 1000 + 500);
        assert_eq!(board.pipe(UNA, max, UNA, None), 10_000 - board.bytes());
    }

    #[test]
    fn walking_the_holes() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        board.update(UNA, UNA, max, &[block(1000, 2000), block(3000, 4000)]);
        assert_eq!(board.skip(UNA) - UNA, 0);
        assert_eq!(board.hole_end(UNA, max) - UNA, 1000);
        assert_eq!(board.skip(UNA + 1000) - UNA, 2000);
        assert_eq!(board.hole_end(UNA + 2000, max) - UNA, 3000);
        assert_eq!(board.hole_end(UNA + 4000, max), max);
    }

    #[test]
    fn ranges_are_bounded() {
        let mut board = Scoreboard::default();
        let max = UNA + 10_000;
        for at in 0..1000 {
            board.update(UNA, UNA, max, &[block(2 * at + 1, 2 * at + 2)]);
        }
        assert_eq!(board.ranges.len(), MAX_RANGES);
        board.update(UNA, UNA, max, &[block(1, 5000)]);
        assert_eq!(ranges(&board), [(1, 5000)]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_byte_map(
            steps in proptest::collection::vec((0u32..900, 1u32..120, proptest::option::of(0u32..200)), 1..60),
            high_rxt in 0u32..1000,
        ) {
            let max = UNA + 1000;
            let mut board = Scoreboard::default();
            let mut held = vec![false; 1000];
            let mut una = 0u32;
            for (start, len, ack) in steps {
                let ack = ack.map_or(una, |step| (una + step).min(1000));
                let end = (start + len).min(1000);
                let before = held[ack as usize..].iter().filter(|held| **held).count();
                let update = board.update(UNA + una, UNA + ack, max, &[block(start, end)]);
                if start >= una && end > ack {
                    held[start as usize..end as usize].fill(true);
                }
                una = ack;
                let now = held[una as usize..].iter().filter(|held| **held).count();
                prop_assert_eq!(board.bytes() as usize, now);
                prop_assert_eq!(update.new_bytes as usize, now - before);

                let lost_below = board.lost_below(50);
                let lost = lost_below.map_or(0, |edge| edge - UNA);
                let pipe = (una..1000).filter(|at| !held[*at as usize] && (*at >= lost || *at < high_rxt)).count();
                prop_assert_eq!(board.pipe(UNA + una, max, UNA + high_rxt.max(una), lost_below) as usize, pipe);
                for at in una..1000 {
                    let skipped = (at..1000).find(|at| !held[*at as usize]).unwrap_or(1000);
                    prop_assert_eq!(board.skip(UNA + at) - UNA, skipped);
                }
            }
        }
    }
}
