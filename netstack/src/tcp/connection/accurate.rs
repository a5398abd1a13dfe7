//! Accurate ECN (RFC 9768) of one connection: which of its segments say what of the handshake and of the marks counted, which carry
//! the option, and what is done about what the peer says and about networks that garble it.
//!
//! The counting itself is [`accurate_ecn`]'s. A connection that has agreed to it goes the general way with each segment: the short
//! way knows no flags. One that has not has none of this.

use demi_drivers::Instant;
use demi_drivers::transport::{TcpInfo, TcpState};

use super::super::accurate_ecn::{self, CE, Delivered, NOT_ECT, Received, Seen, Told};
use super::super::config::{EcnOption, TcpConfig};
use super::super::rto::elapsed_ns;
use super::super::seq::{SeqNumber, timestamp_before};
use super::ecn::Mode;
use super::input::Segment;
use super::recovery::Phase;
use super::{Connection, Env, slow};
use crate::wire::tcp::{EcnCounts, MAX_OPTION_BYTES, OptionBytes, SackBlock, Timestamps, flags};

/// What does not get through, as bits with Linux's numbers (`tcpi_accecn_fail_mode`).
mod broken {
    /// The peer's flags, or the code points of our packets: nothing goes out that is capable of ECN, and no marks are believed.
    pub(super) const FLAGS: u8 = 2;
    /// Our option: it is not sent.
    pub(super) const OPTION_OUT: u8 = 4;
    /// The peer's option: it is not believed.
    pub(super) const OPTION_IN: u8 = 8;
}

/// Without the peer's option for so many bytes its counts may have come round, and it begins no more (as Linux).
const LATEST_OPTION_BYTES: u64 = (1 << 23) - 1;
/// Bytes of the whole option in a header.
const OPTION_ROOM: u32 = 12;

/// What Accurate ECN has to remember, once it is agreed on.
#[derive(Clone, Debug)]
pub(super) struct Accurate {
    received: Received,
    delivered: Delivered,
    seen: Seen,
    /// Bits of [`broken`].
    broken: u8,
    /// The next segment carries the option, and the last did.
    option_due: bool,
    option_sent: bool,
    option_at: Instant,
    /// The data that last came again, whole.
    repeated: Option<(SeqNumber, SeqNumber)>,
    /// The code point of the peer's SYN or SYN-ACK; and the next acknowledgement without data tells it.
    arrived: u8,
    reflect: bool,
    /// The acknowledgement that ends the handshake, which tells the code point of ours, is still to come.
    unanswered: bool,
    /// The flags of the present segment have been read as such.
    answers: bool,
    /// The code point of our SYN or SYN-ACK.
    sent: u8,
}

impl Accurate {
    fn new(arrived: u8, last: u8, demand: u8) -> Self {
        Accurate {
            received: Received::new(last, demand),
            delivered: Delivered::default(),
            seen: Seen::No,
            broken: 0,
            option_due: false,
            option_sent: false,
            option_at: Instant::ZERO,
            repeated: None,
            arrived,
            reflect: false,
            unanswered: false,
            answers: false,
            sent: NOT_ECT,
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.broken & bit != 0
    }

    /// Takes note of the first option of the peer.
    fn note_option(&mut self, option: Option<&EcnCounts>) {
        if let Some(option) = option.filter(|_| self.seen < Seen::Counts) {
            self.seen = accurate_ecn::first_seen(option);
            if self.seen == Seen::Broken {
                self.broken |= broken::OPTION_IN;
            }
        }
    }

    /// Whether the peer's flags may tell that what we sent with one code point arrived with another. If not, and that matters, the
    /// network is not to be trusted with any (RFC 9768 §3.2.2.3).
    fn check_answer(&mut self, arrived: u8, config: &TcpConfig) -> bool {
        let lawful = !config.ecn_fallback || accurate_ecn::is_lawful(self.sent, arrived);
        if !lawful {
            self.broken |= broken::FLAGS;
        }
        lawful
    }
}

impl<P> Connection<P> {
    /// Accurate ECN is in use by whoever has been asked for it. `arrived`: the code point of the SYN; `doubtful`: it has come without
    /// the flags, too.
    pub(super) fn accept_accurate(&mut self, arrived: u8, doubtful: bool) {
        let mut accurate = Accurate::new(arrived, arrived, 1);
        accurate.unanswered = true;
        accurate.broken = if doubtful { broken::FLAGS } else { 0 };
        self.start_accurate(accurate);
    }

    /// Accurate ECN is in use by whoever has asked for it: the SYN-ACK has answered.
    pub(super) fn finish_accurate(
        &mut self,
        config: &TcpConfig,
        (bits, tos): (u16, u8),
        option: Option<&EcnCounts>,
    ) {
        let arrived = tos & accurate_ecn::MASK;
        let mut accurate = Accurate::new(arrived, NOT_ECT, 2);
        accurate.reflect = true;
        accurate.sent = self.syn_codepoint();
        accurate.note_option(option);
        let told = accurate_ecn::reflected(bits).unwrap_or(NOT_ECT);
        if accurate.check_answer(told, config) && arrived == CE {
            accurate.received.count(CE, 1, 0);
        }
        self.start_accurate(accurate);
    }

    fn start_accurate(&mut self, accurate: Accurate) {
        self.cold.ecn.accurate = Some(Box::new(accurate));
        self.agree(Mode::Accurate);
        self.heed_broken();
    }

    /// Nothing goes out capable of ECN where that is not to be trusted.
    fn heed_broken(&mut self) {
        if self.cold.ecn.accurate.as_ref().is_some_and(|accurate| accurate.has(broken::FLAGS)) {
            self.set_codepoint(NOT_ECT);
        }
    }

    /// The flags of our SYN-ACK.
    pub(super) fn reflect_syn(&self) -> u16 {
        match &self.cold.ecn.accurate {
            // As a listener's: those that follow a timeout of one that went again.
            Some(accurate) if self.cold.syn_sent < 3 => accurate_ecn::reflect(accurate.arrived),
            _ => 0,
        }
    }

    /// Takes the acknowledgement of our SYN-ACK, which tells the code point that it arrived with (RFC 9768 §3.2.2.1).
    pub(super) fn take_handshake_ace<O>(&mut self, env: &Env<'_, O>, segment: &Segment) {
        let Some(accurate) = self.cold.ecn.accurate.as_mut().filter(|accurate| accurate.unanswered) else {
            return;
        };
        accurate.unanswered = false;
        accurate.answers = true;
        accurate.note_option(segment.ecn_counts.as_ref());
        // Data may come first, and its flags count already.
        let bare = segment.len == 0 && segment.sack.is_empty();
        match accurate_ecn::reflected(segment.flags) {
            Some(told) if bare && accurate.check_answer(told, &env.common.config) => {
                accurate.delivered.ce_packets = u32::from(told == CE);
            }
            None if accurate_ecn::ace(segment.flags) == 0 => accurate.broken |= broken::FLAGS,
            _ => {}
        }
        self.heed_broken();
    }

    /// The peer's SYN or SYN-ACK has come once more: it waits for the acknowledgement that tells its code point.
    pub(super) fn reflect_again(&mut self, segment: &Segment) {
        if let Some(accurate) = &mut self.cold.ecn.accurate {
            accurate.arrived = segment.tos & accurate_ecn::MASK;
            accurate.reflect = true;
            accurate.note_option(segment.ecn_counts.as_ref());
        }
    }

    /// Whoever has sent it is not answered, or with data.
    pub(super) fn reflect_nothing(&mut self) {
        if let Some(accurate) = &mut self.cold.ecn.accurate {
            accurate.reflect = false;
        }
    }

    /// Counts the code point of an acceptable segment.
    #[cold]
    pub(super) fn count_marks(&mut self, segment: &Segment) {
        // What a device has joined counts as what it was.
        let packets = match segment.len <= u32::from(self.cold.local_mss) {
            true => 1,
            false => segment.len.div_ceil(u32::from(self.rcv_mss).max(1)),
        };
        let ecn = &mut self.cold.ecn;
        let Some(accurate) = &mut ecn.accurate else { return };
        accurate.answers = false;
        let codepoint = segment.tos & accurate_ecn::MASK;
        ecn.seen |= codepoint != NOT_ECT;
        if accurate.received.count(codepoint, packets, segment.len) {
            self.ack_now();
        }
    }

    /// Data has come again, all of it, where the left edge was not long ago. When that is the answer to the option once more, the
    /// option does not get through.
    pub(super) fn count_repeated<O>(&mut self, env: &Env<'_, O>, segment: &Segment) {
        let end = segment.seq + segment.len;
        if end.at_or_after(self.rcv_acked) {
            self.count_marks(segment);
        }
        let Some(accurate) = &mut self.cold.ecn.accurate else { return };
        let repeated = Some((segment.seq, end));
        if accurate.repeated == repeated && accurate.option_sent && env.common.config.dsack {
            accurate.broken |= broken::OPTION_OUT;
        }
        accurate.repeated = repeated;
    }

    /// The flags of a segment that is no SYN.
    pub(super) fn tell_marks(&mut self) -> u16 {
        let over = self.orphan && self.state == TcpState::TimeWait;
        match &mut self.cold.ecn.accurate {
            // As Linux, where what is left of a connection counts no more.
            Some(accurate) if !over => accurate.received.tell(),
            _ => 0,
        }
    }

    /// The flags of an acknowledgement without data, which may have to tell of the handshake instead. `bits`: what they were.
    pub(super) fn reflect_due(&mut self, bits: u16) -> u16 {
        let Some(accurate) = &mut self.cold.ecn.accurate else { return bits };
        match core::mem::take(&mut accurate.reflect) && bits & flags::RST == 0 {
            true => bits & !flags::ACE | accurate_ecn::reflect(accurate.arrived),
            false => bits,
        }
    }

    /// Data has gone out, with an acknowledgement that has told all there is to tell.
    #[cold]
    pub(super) fn told_with_data<O>(&mut self, env: &Env<'_, O>) {
        self.reflect_nothing();
        self.schedule_counts(env);
    }

    /// The flags of the next segment have CWR set, which devices that cut segments leave to the first of them (RFC 3168).
    #[cold]
    pub(super) fn tells_cwr(&self) -> bool {
        self.cold.ecn.accurate.as_ref().is_some_and(|accurate| accurate.received.flags() & flags::CWR != 0)
    }

    /// Decides whether the next segment carries the option (RFC 9768 §3.2.3.3).
    #[cold]
    pub(super) fn schedule_counts<O>(&mut self, env: &Env<'_, O>) {
        let Some(accurate) = &mut self.cold.ecn.accurate else { return };
        let (mode, beacon) = (env.common.config.ecn_option, u64::from(env.common.config.ecn_option_beacon));
        let wanted = match mode {
            EcnOption::Never => false,
            EcnOption::OnChange => {
                accurate.received.demand > 0
                    || beacon > 0
                        && elapsed_ns(env.now, accurate.option_at).saturating_mul(beacon)
                            >= self.rtt.srtt_ns()
            }
            EcnOption::Always | EcnOption::Persistent => true,
        };
        let passes = mode == EcnOption::Persistent || !accurate.has(broken::OPTION_OUT);
        accurate.option_due = wanted && passes && accurate.seen != Seen::No;
    }

    /// Bytes of each segment that the option takes, beside what SACK blocks do.
    #[cold]
    pub(super) fn counts_room(&self, has_blocks: bool) -> u32 {
        if !self.cold.ecn.accurate.as_ref().is_some_and(|accurate| accurate.option_due) {
            return 0;
        }
        // Together they may take all there is; blocks alone, without timestamps, leave one word.
        if has_blocks { if self.ts_ok { 0 } else { MAX_OPTION_BYTES as u32 - 36 } } else { OPTION_ROOM }
    }

    /// The options of a segment, with that of Accurate ECN if it is due.
    #[cold]
    pub(super) fn counting_options(
        &mut self,
        now: Instant,
        timestamps: Option<Timestamps>,
        blocks: &[SackBlock],
    ) -> OptionBytes {
        let Some(accurate) = self.cold.ecn.accurate.as_mut().filter(|accurate| accurate.option_due) else {
            if let Some(accurate) = &mut self.cold.ecn.accurate {
                accurate.option_sent = false;
            }
            return OptionBytes::for_segment(timestamps, blocks);
        };
        let counts = accurate.received.option();
        let least = usize::from(accurate.received.least);
        let (options, fits) = OptionBytes::for_counting_segment(timestamps, &counts, least, blocks);
        accurate.option_sent = fits;
        if fits {
            accurate.received.option_sent();
            accurate.option_at = now;
        }
        options
    }

    /// A segment that has no room for the option goes without.
    pub(super) fn postpone_counts(&mut self) {
        if let Some(accurate) = &mut self.cold.ecn.accurate {
            accurate.option_due = false;
        }
    }

    /// Takes what an acknowledgement tells of marks. `delivered`: bytes that it newly tells of; `acked`: of these, those in order.
    /// Answers whether packets have arrived marked that were not known of: then recovery reduces the window, once a round trip.
    #[cold]
    pub(super) fn take_ace<O>(
        &mut self,
        env: &mut Env<'_, O>,
        segment: &Segment,
        (delivered, acked): (u32, u32),
        acked_before: u64,
    ) -> bool {
        let mss = u32::from(self.snd_mss).max(1);
        let sent_bytes = self.bytes_acked + u64::from(self.snd_max - self.snd_una);
        let calm = matches!(self.cold.recovery.phase, Phase::Open | Phase::Cwr);
        // Of acknowledgements that tell of nothing new nobody knows the order but by the peer's clock (RFC 9768 §3.2.2.5.2).
        let ordered = delivered > 0
            || segment.timestamps.is_some_and(|stamps| {
                self.ts_ok
                    && segment.seq.at_or_before(self.rcv_acked)
                    && timestamp_before(self.ts_recent, stamps.value)
            });
        let ecn = &mut self.cold.ecn;
        let Some(accurate) = &mut ecn.accurate else { return false };
        if accurate.answers || accurate.has(broken::FLAGS) || !ordered {
            return false;
        }
        if acked > 0 && acked_before <= u64::from(mss) && accurate_ecn::ace(segment.flags) == 0 {
            // RFC 9768 §3.2.2.4: three marks by now are less likely than that something clears the flags.
            accurate.broken |= broken::FLAGS | broken::OPTION_IN;
            self.heed_broken();
            return false;
        }
        accurate.note_option(segment.ecn_counts.as_ref());
        if accurate.seen == Seen::No && sent_bytes >= LATEST_OPTION_BYTES {
            accurate.seen = Seen::Broken;
            accurate.broken |= broken::OPTION_IN;
        }
        let believed = !accurate.has(broken::OPTION_IN);
        let (packets, bytes) = accurate.delivered.take(&Told {
            bits: segment.flags,
            option: segment.ecn_counts.as_ref().filter(|_| believed),
            bytes: delivered,
            segments: delivered.div_ceil(mss),
            mss,
            exact: self.sack_ok || calm,
            counting: believed && accurate.seen != Seen::No,
        });
        if packets == 0 {
            return false;
        }
        let marked = bytes.unwrap_or(packets.saturating_mul(mss)).min(delivered);
        ecn.delivered_ce += u64::from(marked);
        ecn.delivered_ce_segments += u64::from(packets);
        env.common.stats.delivered_ce += u64::from(packets);
        self.cold.congestion.on_marked(marked, segment.ack, self.snd_max);
        true
    }

    /// What has been counted, into Linux's `tcp_info`.
    pub(super) fn tell_counts(&self, info: &mut TcpInfo) {
        info.delivered_ce_segments = self.cold.ecn.delivered_ce_segments;
        let Some(accurate) = &self.cold.ecn.accurate else { return };
        info.accurate_ecn = true;
        info.accurate_ecn_failures = accurate.broken;
        info.accurate_ecn_option = accurate.seen as u8;
        info.delivered_ce_segments = u64::from(accurate.delivered.ce_packets);
        info.received_ce_segments = u64::from(accurate.received.ce_packets);
        info.delivered_ecn_bytes = accurate.delivered.bytes;
        info.received_ecn_bytes = accurate.received.bytes;
    }

    /// Whether acknowledgements are read by [`take_ace`](Self::take_ace).
    #[inline]
    pub(super) fn counts_marks(&self) -> bool {
        self.slow & slow::ECN != 0 && self.cold.ecn.mode == Mode::Accurate
    }
}
