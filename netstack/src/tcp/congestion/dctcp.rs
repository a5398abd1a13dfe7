//! DCTCP (RFC 8257): the window falls by as much as the share of packets that the network marks, not by half for any of them.
//!
//! It grows as NewReno's, and a loss halves it. Without marks, because the peer has not agreed to ECN, it is NewReno.

use super::super::seq::SeqNumber;
use super::{Acked, Algorithm, Cause, NewReno, Window};

/// The estimate's unit: all packets are marked.
const ONE: u32 = 1024;
/// RFC 8257 §4.2: weight of the newest round trip, as a shift (1/16).
const GAIN_SHIFT: u32 = 4;

/// What DCTCP remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dctcp {
    reno: NewReno,
    /// Share of bytes that were marked, of `ONE`.
    alpha: u32,
    /// The observation window: where it began and ends, and the bytes acknowledged in it by segments that echo a mark.
    begin: Option<SeqNumber>,
    end: SeqNumber,
    marked_bytes: u32,
}

impl Default for Dctcp {
    /// RFC 8257 §3.3: the first mark counts in full.
    fn default() -> Self {
        Dctcp {
            reno: NewReno::default(),
            alpha: ONE,
            begin: None,
            end: SeqNumber::default(),
            marked_bytes: 0,
        }
    }
}

impl Dctcp {
    /// Up to `una` is acknowledged, the last `marked` bytes of it with the echo of a mark; up to `nxt` is sent (RFC 8257 §3.3).
    pub(super) fn observe(&mut self, marked: u32, una: SeqNumber, nxt: SeqNumber) {
        let begin = *self.begin.get_or_insert_with(|| {
            self.end = nxt;
            una - marked
        });
        self.marked_bytes = self.marked_bytes.saturating_add(marked);
        if una.before(self.end) || una == begin {
            return;
        }
        let all = una.since(begin).max(1);
        let share = u64::from(self.marked_bytes.min(all)) * u64::from(ONE >> GAIN_SHIFT) / u64::from(all);
        // As Linux: what no shift takes away any more goes at once.
        let fade = match self.alpha >> GAIN_SHIFT {
            0 => self.alpha,
            fade => fade,
        };
        self.alpha = (self.alpha - fade + share as u32).min(ONE);
        (self.begin, self.end, self.marked_bytes) = (Some(una), nxt, 0);
    }
}

impl Algorithm for Dctcp {
    fn avoid(&mut self, window: &mut Window, ack: &Acked, bytes: u32) {
        self.reno.avoid(window, ack, bytes);
    }

    fn threshold(&mut self, window: &Window, mss: u32, cause: Cause) -> u32 {
        let half = self.reno.threshold(window, mss, cause);
        match cause {
            // RFC 8257 §3.5
            Cause::Loss => half,
            // RFC 8257 §3.3: cwnd * (1 - alpha / 2)
            Cause::Mark => {
                window.cwnd - (u64::from(window.cwnd) * u64::from(self.alpha) / u64::from(2 * ONE)) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { cwnd: 100_000, ssthresh: 50_000 };

    /// Rounds of ten segments, of which the first `marked` are.
    fn rounds(dctcp: &mut Dctcp, count: u32, marked: u32) {
        let mut una = dctcp.end;
        for _ in 0..count {
            for segment in 0..10 {
                una += 1000;
                let bytes = if segment < marked { 1000 } else { 0 };
                dctcp.observe(bytes, una, una + (9 - segment) * 1000 + if segment == 9 { 10_000 } else { 0 });
            }
        }
    }

    #[test]
    fn the_first_mark_halves_and_without_marks_the_estimate_fades() {
        let mut dctcp = Dctcp::default();
        assert_eq!(dctcp.threshold(&WINDOW, 1000, Cause::Mark), 50_000);
        rounds(&mut dctcp, 1, 0);
        assert_eq!(dctcp.alpha, 1024 - 64);
        rounds(&mut dctcp, 200, 0);
        assert_eq!(dctcp.alpha, 0);
        assert_eq!(dctcp.threshold(&WINDOW, 1000, Cause::Mark), 100_000);
        assert_eq!(dctcp.threshold(&WINDOW, 1000, Cause::Loss), 50_000, "a loss is a loss");
    }

    #[test]
    fn the_estimate_becomes_the_share_of_marks() {
        let mut dctcp = Dctcp::default();
        rounds(&mut dctcp, 300, 3);
        assert!((240..=320).contains(&dctcp.alpha), "three in ten: {}", dctcp.alpha);
        rounds(&mut dctcp, 300, 10);
        assert!(dctcp.alpha >= 1000, "all: {}", dctcp.alpha);
    }
}
