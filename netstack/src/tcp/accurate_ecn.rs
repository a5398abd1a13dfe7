//! Accurate ECN (RFC 9768): three flags of each segment count the marked packets that its sender has received, an option counts
//! bytes by code point.
//!
//! Pure counting, no connection: what the flags of the handshake say, what a receiver counts and is about to tell, what the sender
//! of the data makes of three bits and perhaps an option. Where the RFC leaves a choice it is Linux's. Who sends what when is
//! [`connection::ecn`](super::connection)'s business.

use crate::wire::tcp::{EcnCounts, flags};

/// The two bits in the type of service or traffic class (RFC 3168 §5).
pub(crate) const MASK: u8 = 3;
/// Not capable of ECN.
pub(crate) const NOT_ECT: u8 = 0;
/// Capable, the code point of experiments.
const ECT_1: u8 = 1;
/// Capable, the code point that senders use.
pub(crate) const ECT_0: u8 = 2;
/// Congestion experienced.
pub(crate) const CE: u8 = 3;

/// What the counters begin with, so that zeroes are told from counts (RFC 9768 §3.2.1).
const FIRST_PACKETS: u32 = 5;
/// The most that the three bits say.
const MAX_ACE: u32 = 7;
/// A count of bytes in the option, and the sign of a difference of two.
const COUNT_MASK: u32 = 0x00ff_ffff;
const COUNT_SIGN: u32 = 0x0080_0000;
/// Bytes of a code point after which the option is sent, lest the peer loses count (as Linux).
const TELL_EACH_BYTES_SHIFT: u32 = 22;
/// Marks that are told at once, whatever else waits (RFC 9768 §3.2.2.5.1 has it at no more than 7).
const MAX_UNTOLD: u32 = 6;
/// Weight of the newest acknowledgement in the average of what they cover, its fraction's bits, and the average, in segments, beyond
/// which large acknowledgements are usual and no sign of lost ones (as Linux).
const AVERAGE_SHIFT: u32 = 6;
const USUAL_SEGMENTS: u32 = 4 << AVERAGE_SHIFT;

/// What a listener has agreed to with a SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// Nothing.
    #[default]
    No,
    /// ECN (RFC 3168).
    Classic,
    /// Accurate ECN. `arrived`: the code point of the SYN's packet. `doubtful`: the SYN has come without the flags, too.
    Accurate { arrived: u8, doubtful: bool },
}

/// The three bits.
pub(crate) fn ace(bits: u16) -> u8 {
    ((bits & flags::ACE) >> 6) as u8
}

/// RFC 9768 §3.1.2: whether a SYN asks for it. Any flags do that neither ask for RFC 3168 nor for nothing.
pub(crate) fn asks(bits: u16) -> bool {
    !matches!(bits & flags::ACE, 0 | ASKS_CLASSIC)
}

const ASKS_CLASSIC: u16 = flags::CWR | flags::ECE;

/// The flags that tell the code point which a SYN, or a SYN-ACK, arrived with (RFC 9768, tables 2 and 3).
pub(crate) fn reflect(codepoint: u8) -> u16 {
    match codepoint & MASK {
        NOT_ECT => flags::CWR,
        ECT_1 => flags::CWR | flags::ECE,
        ECT_0 => flags::AE,
        _ => flags::AE | flags::CWR,
    }
}

/// The code point that such flags tell; `None`: they tell none.
pub(crate) fn reflected(bits: u16) -> Option<u8> {
    [NOT_ECT, ECT_1, ECT_0, CE].into_iter().find(|&codepoint| reflect(codepoint) == bits & flags::ACE)
}

/// Whether the network may have made `arrived` of `sent` (RFC 9768 §3.2.2.3). What is not capable stays so, and what is capable stays
/// that; nobody takes a mark off.
pub(crate) fn is_lawful(sent: u8, arrived: u8) -> bool {
    sent == arrived || (sent != NOT_ECT && arrived != NOT_ECT && sent != CE)
}

/// Places in arrays of counts by code point.
fn place(codepoint: u8) -> usize {
    usize::from(codepoint.wrapping_sub(1) & MASK).min(2)
}

/// What the counts of an option begin with, by the same places (RFC 9768 §3.2.1).
const FIRST_BYTES: [u32; 3] = [1, 1, 0];

/// What a receiver has counted, and has to tell.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Marked packets, with data or without.
    pub(crate) ce_packets: u32,
    /// Payload bytes by code point: ECT(1), ECT(0), CE.
    pub(crate) bytes: [u32; 3],
    /// Marked packets that no segment has told of.
    untold: u32,
    /// The code point of the last packet.
    last: u8,
    /// The next data is to be acknowledged at once.
    urgent: bool,
    /// Counts, from the first, that have changed since the last option.
    pub(crate) least: u8,
    /// Options that go out even if they are not sent always.
    pub(crate) demand: u8,
}

impl Received {
    /// Nothing counted. `last`: the code point of the SYN.
    pub(crate) fn new(last: u8, demand: u8) -> Self {
        Received { ce_packets: 0, bytes: [0; 3], untold: 0, last, urgent: false, least: 0, demand }
    }

    /// Counts `packets` packets of one code point with together `len` bytes of payload. Answers whether that is to be told at once.
    pub(crate) fn count(&mut self, codepoint: u8, packets: u32, len: u32) -> bool {
        let codepoint = codepoint & MASK;
        let marked = codepoint == CE;
        if marked {
            self.ce_packets = self.ce_packets.wrapping_add(packets);
            self.untold = self.untold.saturating_add(packets);
        }
        if codepoint != NOT_ECT && len > 0 {
            // The option's order.
            let told_by = [1, 3, 2][place(codepoint)];
            self.least = self.least.max(told_by);
            let count = &mut self.bytes[place(codepoint)];
            let before = *count;
            *count = count.wrapping_add(len);
            if (*count ^ before) >> TELL_EACH_BYTES_SHIFT != 0 {
                self.demand = self.demand.max(1);
            }
        }
        let changed = self.last != codepoint;
        if changed || marked {
            self.last = codepoint;
            // RFC 9768 §3.2.3.3: two, so that the latter tells of the new code point alone.
            self.demand = 2;
        }
        // RFC 9768 §3.2.2.5.1, but no acknowledgement answers another.
        self.urgent |= changed || self.untold >= MAX_UNTOLD;
        if len == 0 { false } else { core::mem::take(&mut self.urgent) }
    }

    /// Flags of a segment, which tells of all marks.
    pub(crate) fn tell(&mut self) -> u16 {
        self.untold = 0;
        self.flags()
    }

    /// The flags that tell of all marks.
    pub(crate) fn flags(&self) -> u16 {
        ((self.ce_packets.wrapping_add(FIRST_PACKETS) & MAX_ACE) as u16) << 6
    }

    /// The option that tells of all bytes.
    pub(crate) fn option(&self) -> EcnCounts {
        let [ect1, ect0, ce] = core::array::from_fn(|at| self.bytes[at].wrapping_add(FIRST_BYTES[at]));
        EcnCounts::new(ect1, ce, ect0)
    }

    /// The option has gone out.
    pub(crate) fn option_sent(&mut self) {
        self.least = 0;
        self.demand = self.demand.saturating_sub(1);
    }
}

/// The option of a SYN-ACK: nothing has been counted yet.
pub(crate) fn first_option() -> EcnCounts {
    Received::new(NOT_ECT, 0).option()
}

/// What is known of the peer's option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// It has not come.
    #[default]
    No,
    /// It has, without any count.
    Empty,
    /// It has.
    Counts,
    /// Something on the way has set it to zero, or takes it out.
    Broken,
}

/// What an option says when it comes first (RFC 9768 §3.2.3.2.4).
pub(crate) fn first_seen(option: &EcnCounts) -> Seen {
    let mut counts = option.iter().map(|(_, count)| count);
    match (counts.next(), counts.nth(1)) {
        (None, _) => Seen::Empty,
        (Some(0), _) | (_, Some(0)) => Seen::Broken,
        _ => Seen::Counts,
    }
}

/// An acknowledgement, as far as its marks are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) bits: u16,
    /// The option, unless it is not to be believed.
    pub(crate) option: Option<&'a EcnCounts>,
    /// Bytes and segments newly delivered.
    pub(crate) bytes: u32,
    pub(crate) segments: u32,
    pub(crate) mss: u32,
    /// These are known, not guessed from duplicate acknowledgements.
    pub(crate) exact: bool,
    /// Options have come, and what has none may be reckoned on by what it delivers.
    pub(crate) counting: bool,
}

/// What the sender of the data has been told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivered {
    /// Packets that arrived marked.
    pub(crate) ce_packets: u32,
    /// Bytes by code point: ECT(1), ECT(0), CE.
    pub(crate) bytes: [u32; 3],
    /// The code point of which alone all bytes have arrived of late: what comes without an option counts for it.
    estimate: Option<u8>,
    /// Segments an acknowledgement covers on average, with `AVERAGE_SHIFT` bits of fraction.
    average: u32,
}

impl Delivered {
    /// Takes what an acknowledgement tells. Answers how many packets have newly arrived marked, and how many bytes that were, if
    /// the option says.
    pub(crate) fn take(&mut self, told: &Told<'_>) -> (u32, Option<u32>) {
        let ce_before = self.bytes[place(CE)];
        let valid = self.take_option(told);
        let ce_bytes = self.bytes[place(CE)].wrapping_sub(ce_before);
        if told.segments > 0 {
            let newest = told.segments << AVERAGE_SHIFT;
            self.average = match self.average {
                0 => newest,
                average => ((average << AVERAGE_SHIFT) - average + newest) >> AVERAGE_SHIFT,
            }
            .min(0xffff);
        }
        let packets = self.newly_marked(told, valid.then_some(ce_bytes));
        self.ce_packets = self.ce_packets.wrapping_add(packets);
        (packets, valid.then_some(ce_bytes))
    }

    /// How often the three bits have moved on (RFC 9768 §3.2.2.5.2, appendix A.2).
    fn newly_marked(&self, told: &Told<'_>, ce_bytes: Option<u32>) -> u32 {
        let moved =
            u32::from(ace(told.bits)).wrapping_sub(FIRST_PACKETS).wrapping_sub(self.ce_packets) & MAX_ACE;
        let segments = told.segments;
        if segments <= MAX_ACE {
            return moved;
        }
        // Acknowledgements may have been lost, and the bits have come round meanwhile: as often as could be.
        let most = segments - (segments.wrapping_sub(moved) & MAX_ACE);
        let Some(ce_bytes) = ce_bytes else {
            return if self.average > USUAL_SEGMENTS { moved } else { most };
        };
        if ce_bytes == 0 {
            return moved;
        }
        if segments > 2 * MAX_ACE + 1 && told.exact {
            if told.bytes <= ce_bytes {
                return most;
            }
            let share = u64::from(ce_bytes) * u64::from(segments);
            let estimate = share.div_ceil(u64::from(told.bytes)) as u32;
            return most.min(moved + (estimate & !MAX_ACE));
        }
        let (ce_bytes, mss) = (u64::from(ce_bytes), u64::from(told.mss));
        if ce_bytes <= u64::from(moved) * mss && ce_bytes < u64::from(most) * mss / 2 { moved } else { most }
    }

    /// Takes the option. Answers whether the bytes by code point are known.
    fn take_option(&mut self, told: &Told<'_>) -> bool {
        let Some(option) = told.option else {
            let Some(codepoint) = self.estimate.filter(|_| told.counting) else { return false };
            let count = &mut self.bytes[place(codepoint)];
            *count = count.wrapping_add(told.bytes);
            return true;
        };
        let (before, mut known) = (self.estimate, self.estimate.is_some());
        let (mut changed, mut ambiguous) = (false, false);
        for (codepoint, told) in option.iter() {
            let at = place(codepoint);
            let count = &mut self.bytes[at];
            let step = told.wrapping_sub(FIRST_BYTES[at]).wrapping_sub(*count) & COUNT_MASK;
            let back = step & COUNT_SIGN != 0;
            *count = count.wrapping_add(if back { step | !COUNT_MASK } else { step });
            if step == 0 {
                continue;
            }
            let other = before != Some(codepoint);
            if other && !changed {
                (self.estimate, changed) = (Some(codepoint), true);
            } else if other {
                (known, ambiguous) = (false, true);
            }
            if back {
                (known, ambiguous) = (false, true);
            }
        }
        if ambiguous {
            self.estimate = None;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODEPOINTS: [u8; 4] = [NOT_ECT, ECT_1, ECT_0, CE];

    fn bits(ace: u8) -> u16 {
        u16::from(ace) << 6
    }

    fn told(ace: u8, segments: u32) -> Told<'static> {
        Told {
            bits: bits(ace),
            option: None,
            bytes: segments * 1000,
            segments,
            mss: 1000,
            exact: true,
            counting: true,
        }
    }

    #[test]
    fn flags_of_the_handshake_tell_each_code_point_and_are_read_back() {
        for codepoint in CODEPOINTS {
            assert_eq!(reflected(reflect(codepoint) | flags::ACK), Some(codepoint));
        }
        for other in [0, 1, 5, 7] {
            assert_eq!(reflected(bits(other)), None);
        }
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|ace| asks(bits(ace) | flags::SYN)), {
            [false, true, true, false, true, true, true, true]
        });
    }

    #[test]
    fn the_network_may_mark_what_is_capable_and_nothing_else() {
        for sent in CODEPOINTS {
            for arrived in CODEPOINTS {
                let changes = matches!((sent, arrived), (ECT_0, ECT_1 | CE) | (ECT_1, ECT_0 | CE));
                assert_eq!(is_lawful(sent, arrived), sent == arrived || changes, "{sent} to {arrived}");
            }
        }
    }

    #[test]
    fn counters_begin_at_five_and_the_bytes_not_at_zero() {
        let mut received = Received::new(NOT_ECT, 0);
        assert_eq!(ace(received.tell()), 5);
        assert_eq!(received.option(), EcnCounts::new(1, 0, 1));
        for (packets, ace_after) in [(1, 6), (1, 7), (1, 0), (8, 0), (7, 7)] {
            received.count(CE, packets, 0);
            assert_eq!(ace(received.tell()), ace_after);
        }
        assert_eq!(received.bytes, [0; 3], "acknowledgements have no payload");
    }

    #[test]
    fn a_change_of_code_point_is_told_at_once_and_by_two_options() {
        let mut received = Received::new(ECT_0, 0);
        assert!(!received.count(ECT_0, 1, 100));
        assert_eq!((received.demand, received.least), (0, 3));
        assert!(received.count(CE, 1, 100));
        assert_eq!(received.demand, 2);
        received.option_sent();
        assert_eq!((received.demand, received.least), (1, 0));
        assert!(!received.count(CE, 1, 100), "a mark after a mark is told with the next acknowledgement");
        assert!(received.count(ECT_0, 1, 100));
        assert_eq!(received.option(), EcnCounts::new(1, 200, 201));
    }

    #[test]
    fn marks_on_acknowledgements_are_told_with_data_and_not_by_another_acknowledgement() {
        let mut received = Received::new(ECT_0, 0);
        for _ in 0..9 {
            assert!(!received.count(CE, 1, 0));
        }
        assert!(received.count(CE, 1, 1));
    }

    #[test]
    fn sixth_untold_mark_is_urgent() {
        let mut received = Received::new(CE, 0);
        let told: Vec<bool> = (0..7).map(|_| received.count(CE, 1, 10)).collect();
        assert_eq!(told, [false, false, false, false, false, true, true]);
        received.tell();
        assert!(!received.count(CE, 1, 10));
    }

    #[test]
    fn four_mebibytes_of_a_code_point_demand_an_option() {
        let mut received = Received::new(ECT_0, 0);
        received.count(ECT_0, 1, (1 << 22) - 1);
        assert_eq!(received.demand, 0);
        received.count(ECT_0, 1, 1);
        assert_eq!(received.demand, 1);
    }

    #[test]
    fn few_segments_cannot_bring_the_bits_round() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(&told(5, 7)), (0, None));
        assert_eq!(delivered.take(&told(0, 7)), (3, None));
        assert_eq!(delivered.take(&told(7, 7)), (7, None));
        assert_eq!(delivered.ce_packets, 10);
    }

    #[test]
    fn many_segments_with_no_option_may_have_brought_them_round() {
        let mut delivered = Delivered::default();
        delivered.take(&told(5, 1));
        assert_eq!(delivered.take(&told(5, 9)).0, 8);
        assert_eq!(delivered.take(&told(6, 30)).0, 25);
        let mut stretched = Delivered::default();
        stretched.take(&told(5, 10));
        assert_eq!(stretched.take(&told(6, 10)).0, 1, "large acknowledgements are usual here");
    }

    #[test]
    fn the_option_says_how_often() {
        let option = |ce: u32, ect0: u32| EcnCounts::new(1, ce, ect0 + 1);
        let with = |delivered: &mut Delivered, ace, segments, option: &EcnCounts| {
            delivered.take(&Told { option: Some(option), ..told(ace, segments) })
        };
        let mut delivered = Delivered::default();
        // The first option makes ECT(0) the estimate, from the second on counts are known.
        assert_eq!(with(&mut delivered, 5, 1, &option(0, 1000)), (0, None));
        assert_eq!(with(&mut delivered, 5, 9, &option(0, 10_000)), (0, Some(0)), "none");
        assert_eq!(delivered.take(&told(5, 9)), (0, Some(0)), "without one, what arrives is ECT(0)");
        assert_eq!(delivered.bytes, [0, 19_000, 0]);
        let mut marked = Delivered::default();
        with(&mut marked, 6, 1, &option(1000, 0));
        assert_eq!(with(&mut marked, 6, 8, &option(9000, 0)), (8, Some(8000)), "all eight");
        assert_eq!(with(&mut marked, 6, 16, &option(25_000, 0)), (16, Some(16_000)));
        assert_eq!(marked.ce_packets, 25);
    }

    #[test]
    fn counts_of_24_bits_wrap_and_old_options_take_back() {
        let mut delivered = Delivered { bytes: [0, 0xff_fff0, 0], ..Delivered::default() };
        let at = |delivered: &mut Delivered, ect0: u32| {
            let option = EcnCounts::new(1, 0, ect0 & COUNT_MASK);
            delivered.take(&Told { option: Some(&option), ..told(5, 1) })
        };
        at(&mut delivered, 0x100_0001 + 20);
        assert_eq!(delivered.bytes[1], 0x100_0014);
        assert_eq!(at(&mut delivered, 11), (0, None), "an option that was overtaken");
        assert_eq!(delivered.bytes[1], 0x100_000a);
    }

    #[test]
    fn an_option_of_zeroes_is_broken() {
        assert_eq!(first_seen(&EcnCounts::default()), Seen::Empty);
        assert_eq!(first_seen(&EcnCounts::new(1, 0, 1)), Seen::Counts);
        assert_eq!(first_seen(&EcnCounts::new(0, 0, 1)), Seen::Broken);
        assert_eq!(first_seen(&EcnCounts::new(1, 0, 0)), Seen::Broken);
        assert_eq!(first_seen(&first_option()), Seen::Counts);
    }
}
