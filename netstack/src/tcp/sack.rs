//! SACK blocks as they come in: which make sense, which tell of a duplicate (RFC 2018, RFC 2883).
//!
//! What the peer holds is written down in the sent log; here is only decided what a block means.

use super::seq::SeqNumber;
use crate::wire::tcp::SackBlock;

/// What blocks are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// First number not acknowledged, the acknowledgement that carries the blocks taken into account.
    pub(crate) una: SeqNumber,
    /// Behind the highest number sent.
    pub(crate) max: SeqNumber,
    /// Where the recovery that may have been needless began, if duplicates still have to be told apart.
    pub(crate) undo_from: Option<SeqNumber>,
    /// The largest window the peer ever offered.
    pub(crate) max_window: u32,
}

/// First and last number of a block.
pub(crate) fn edges(block: &SackBlock) -> (SeqNumber, SeqNumber) {
    (SeqNumber::new(block.start), SeqNumber::new(block.end))
}

/// Where the first of `blocks` tells of bytes that arrived twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicate {
    /// Below the acknowledgement.
    Below,
    /// Within what is out of order.
    OutOfOrder,
}

/// Whether the first block tells of a duplicate (RFC 2883 §4): it lies below the acknowledgement, or within the second.
pub(crate) fn duplicate(blocks: &[SackBlock], ack: SeqNumber) -> Option<Duplicate> {
    let (start, end) = edges(blocks.first()?);
    if start.before(ack) {
        return Some(Duplicate::Below);
    }
    let (next_start, next_end) = edges(blocks.get(1)?);
    (end.at_or_before(next_end) && start.at_or_after(next_start)).then_some(Duplicate::OutOfOrder)
}

/// Whether a block can be true.
pub(crate) fn is_valid(block: &SackBlock, duplicate: bool, bounds: &Bounds) -> bool {
    let (start, end) = edges(block);
    // Inverted, or beyond what was sent.
    if end.after(bounds.max) || !start.before(end) || !start.before(bounds.max) {
        return false;
    }
    // The number acknowledged is the next one expected: a block that begins there is nonsense.
    if start.after(bounds.una) {
        return true;
    }
    let Some(undo_from) = bounds.undo_from.filter(|_| duplicate) else { return false };
    if end.after(bounds.una) {
        return false;
    }
    // From the recovery on, or across its beginning by no more than a window.
    start.at_or_after(undo_from) || (end.after(undo_from) && start.at_or_after(end - bounds.max_window))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNA: SeqNumber = SeqNumber::new(u32::MAX - 500);

    fn block(start: i64, end: i64) -> SackBlock {
        let number = |at: i64| (i64::from(UNA.get()) + at) as u32;
        SackBlock { start: number(start), end: number(end) }
    }

    fn bounds(undo_from: Option<i64>) -> Bounds {
        let undo_from = undo_from.map(|at| edges(&block(at, at)).0);
        Bounds { una: UNA, max: UNA + 10_000, undo_from, max_window: 5000 }
    }

    #[test]
    fn the_first_block_tells_of_a_duplicate_below_or_within_the_second() {
        assert_eq!(duplicate(&[], UNA), None);
        assert_eq!(duplicate(&[block(-100, 0)], UNA), Some(Duplicate::Below));
        assert_eq!(duplicate(&[block(100, 200)], UNA), None);
        assert_eq!(duplicate(&[block(100, 200), block(100, 300)], UNA), Some(Duplicate::OutOfOrder));
        assert_eq!(duplicate(&[block(100, 400), block(100, 300)], UNA), None);
        assert_eq!(duplicate(&[block(100, 200), block(500, 600)], UNA), None);
    }

    #[test]
    fn blocks_lie_in_what_is_in_flight() {
        for (start, end, valid) in [
            (1000, 2000, true),
            (1, 10_000, true),
            (0, 1000, false),
            (-10, 1000, false),
            (2000, 1000, false),
            (1000, 1000, false),
            (9000, 10_001, false),
            (20_000, 21_000, false),
        ] {
            assert_eq!(is_valid(&block(start, end), false, &bounds(None)), valid, "{start}..{end}");
        }
    }

    #[test]
    fn duplicates_of_the_past_count_back_to_the_last_recovery() {
        assert!(!is_valid(&block(-1000, 0), true, &bounds(None)));
        assert!(is_valid(&block(-1000, 0), true, &bounds(Some(-1000))));
        assert!(is_valid(&block(-1500, -500), true, &bounds(Some(-1000))), "across its beginning");
        assert!(!is_valid(&block(-2000, -1000), true, &bounds(Some(-1000))));
        assert!(!is_valid(&block(-7000, -500), true, &bounds(Some(-1000))), "more than a window");
        assert!(!is_valid(&block(-500, 500), true, &bounds(Some(-1000))));
    }
}
