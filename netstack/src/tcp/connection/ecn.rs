//! Explicit congestion notification (RFC 3168): agreed on in the handshake, marks of the network told to the sender of the data,
//! whose recovery answers them as it would a loss, without one. With DCTCP (RFC 8257) the receiver tells marks one by one; with
//! Accurate ECN, which is agreed on here, too, it counts them, and `accurate` has the rest.
//!
//! The ECN bits of outgoing data lie in the connection's type of service, so the short way carries them without knowing. Marks,
//! and the flags that tell of them, leave it.

use demi_drivers::transport::{CongestionControl, StreamOptions, TcpState};

use super::super::accurate_ecn::{self, Agreed, CE, ECT_0, MASK, NOT_ECT};
use super::super::config::{EcnMode, TcpConfig};
use super::super::output::Output;
use super::accurate::Accurate;
use super::input::Segment;
use super::{AckDue, Connection, Env, slow};
use crate::wire::tcp::{EcnCounts, flags};

/// Both flags, as a SYN asks for ECN (RFC 3168 §6.1.1).
const ASKS: u16 = flags::ECE | flags::CWR;

/// What is asked for in our SYN, then agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    Off,
    /// ECN (RFC 3168).
    Classic,
    /// Accurate ECN (RFC 9768).
    Accurate,
}

/// What a connection remembers of ECN.
#[derive(Clone, Debug)]
pub(super) struct Ecn {
    pub(super) mode: Mode,
    /// What Accurate ECN counts, once it is agreed on.
    pub(super) accurate: Option<Box<Accurate>>,
    /// The peer has sent data, and some of it was capable of ECN.
    heard: bool,
    pub(super) seen: bool,
    /// Acknowledgements carry ECE: a mark has arrived, and the peer has not said that it knows.
    echo: bool,
    /// The next new data carries CWR: we have reduced the window.
    cwr_due: bool,
    /// Every packet is capable of ECN, not only data sent for the first time (RFC 8257 §3.4, as Linux).
    everywhere: bool,
    /// DCTCP's receiver: the last data packet was marked (RFC 8257 §3.2).
    marked: bool,
    /// Bytes acknowledged by segments that carried ECE, and the segments that is; with Accurate ECN, those that arrived marked.
    pub(super) delivered_ce: u64,
    pub(super) delivered_ce_segments: u64,
}

impl Ecn {
    /// For a connection that is about to begin. The other end's SYN says for an accepted one.
    pub(super) fn new(options: &StreamOptions, config: &TcpConfig) -> Self {
        Ecn {
            mode: Mode::Off,
            accurate: None,
            heard: false,
            seen: false,
            echo: false,
            cwr_due: false,
            everywhere: needs_ecn(options, config),
            marked: false,
            delivered_ce: 0,
            delivered_ce_segments: 0,
        }
    }
}

/// Whether the congestion control of a socket cannot do without marks.
fn needs_ecn(options: &StreamOptions, config: &TcpConfig) -> bool {
    options.congestion.unwrap_or(config.congestion) == CongestionControl::Dctcp
}

/// What a listener agrees to with a SYN, of which the flags and the type of service are given.
pub(crate) fn agrees_to_ecn((bits, tos): (u16, u8), options: &StreamOptions, config: &TcpConfig) -> Agreed {
    if accurate_ecn::asks(bits) && config.ecn.agrees_to_accurate() {
        return Agreed::Accurate { arrived: tos & MASK, doubtful: false };
    }
    // RFC 3168 §6.1.1: a SYN must not be capable of ECN itself; one of DCTCP is, and one that asks for more may be.
    let willing = config.ecn != EcnMode::Off && (tos & MASK == NOT_ECT || bits & flags::AE != 0);
    match bits & ASKS == ASKS && (willing || needs_ecn(options, config)) {
        true => Agreed::Classic,
        false => Agreed::No,
    }
}

impl<P> Connection<P> {
    /// The type of service that a user asked for; its ECN bits are not the user's (as Linux).
    pub(super) fn set_tos(&mut self, tos: u8) {
        self.tos = tos & !MASK | self.tos & MASK;
    }

    /// The type of service of what is no new data.
    #[inline]
    pub(super) fn control_tos(&self) -> u8 {
        // RFC 3168 §6.1.4, §6.1.5: neither pure acknowledgements nor what is sent again.
        if self.tos & MASK == 0 || self.cold.ecn.everywhere { self.tos } else { self.tos & !MASK }
    }

    /// Whether all packets are capable of ECN, if it was agreed on, and marks are told one by one.
    pub(super) fn mark_everywhere(&mut self, everywhere: bool) {
        self.cold.ecn.everywhere = everywhere || self.cold.ecn.mode == Mode::Accurate;
    }

    pub(super) fn agree(&mut self, mode: Mode) {
        self.cold.ecn.mode = mode;
        self.cold.ecn.everywhere |= mode == Mode::Accurate;
        self.set_codepoint(if mode == Mode::Off { NOT_ECT } else { ECT_0 });
        self.update_ecn_bit();
    }

    /// What goes out has another code point from now on.
    pub(super) fn set_codepoint(&mut self, codepoint: u8) {
        self.tos = self.tos & !MASK | codepoint;
    }

    /// The code point of our SYN; SYN-ACKs have none.
    pub(super) fn syn_codepoint(&self) -> u8 {
        if self.state == TcpState::SynSent { self.tos & MASK } else { NOT_ECT }
    }

    /// The flags that ask for ECN in our SYN, or agree to it in our SYN-ACK.
    pub(super) fn syn_flags(&mut self, config: &TcpConfig) -> u16 {
        let sent = self.cold.syn_sent;
        if self.state != TcpState::SynSent {
            return match self.cold.ecn.mode {
                Mode::Off => 0,
                Mode::Classic => flags::ECE,
                Mode::Accurate => self.reflect_syn(),
            };
        }
        if sent == 0 {
            let needed = needs_ecn(&self.cold.options, config);
            self.cold.ecn.mode = match config.ecn {
                EcnMode::Accurate => Mode::Accurate,
                EcnMode::On | EcnMode::AccurateOn => Mode::Classic,
                _ if needed => Mode::Classic,
                _ => Mode::Off,
            };
            self.set_codepoint(if needed { ECT_0 } else { NOT_ECT });
        }
        let within = |asking: u32| sent < asking || !config.ecn_fallback;
        match self.cold.ecn.mode {
            // RFC 9768 §3.1.4, as Linux: what is lost once is seldom lost for that.
            Mode::Accurate if within(2) => ASKS | flags::AE,
            // RFC 3168 §6.1.1.1: a SYN that a middlebox may have eaten for it goes again without.
            Mode::Classic if within(1) => ASKS,
            _ => 0,
        }
    }

    /// Takes over what a listener has said to the SYN; see [`agrees_to_ecn`].
    pub(super) fn accept_ecn(&mut self, agreed: Agreed) {
        match agreed {
            Agreed::No => self.agree(Mode::Off),
            Agreed::Classic => self.agree(Mode::Classic),
            Agreed::Accurate { arrived, doubtful } => self.accept_accurate(arrived, doubtful),
        }
    }

    /// Takes the flags of the SYN-ACK, or of a SYN that crossed ours, the type of service of its packet, and its option.
    pub(super) fn finish_ecn(
        &mut self,
        config: &TcpConfig,
        (bits, tos): (u16, u8),
        counts: Option<&EcnCounts>,
    ) {
        let answer = bits & flags::ACK != 0;
        let classic = if answer { bits & ASKS == flags::ECE } else { bits & ASKS == ASKS };
        let mode = match self.cold.ecn.mode {
            Mode::Off => Mode::Off,
            Mode::Accurate if !answer && accurate_ecn::asks(bits) => Mode::Accurate,
            Mode::Accurate if answer && accurate_ecn::reflected(bits).is_some() => Mode::Accurate,
            _ if classic => Mode::Classic,
            _ => Mode::Off,
        };
        match (mode, answer) {
            (Mode::Accurate, true) => self.finish_accurate(config, (bits, tos), counts),
            (Mode::Accurate, false) => self.accept_accurate(tos & MASK, false),
            _ => self.agree(mode),
        }
    }

    /// Flags of a segment that is no SYN. `new_data`: it carries bytes never sent before.
    #[inline]
    pub(super) fn ecn_flags(&mut self, new_data: bool) -> u16 {
        if self.slow & slow::ECN == 0 { 0 } else { self.ecn_flags_due(new_data) }
    }

    #[cold]
    fn ecn_flags_due(&mut self, new_data: bool) -> u16 {
        if self.cold.ecn.mode == Mode::Accurate {
            return self.tell_marks();
        }
        let ecn = &mut self.cold.ecn;
        let mut bits = if ecn.echo { flags::ECE } else { 0 };
        if new_data && core::mem::take(&mut ecn.cwr_due) {
            bits |= flags::CWR;
            self.update_ecn_bit();
        }
        bits
    }

    /// The next new data has something to tell that only one segment may carry, or that devices take for that.
    #[inline]
    pub(super) fn cwr_due(&self) -> bool {
        self.slow & slow::ECN != 0 && (self.cold.ecn.cwr_due || self.tells_cwr())
    }

    /// The window has been reduced, for whatever reason: the peer is told (RFC 3168 §6.1.2).
    pub(super) fn tell_reduced(&mut self) {
        if self.cold.ecn.mode == Mode::Classic {
            self.cold.ecn.cwr_due = true;
            self.update_ecn_bit();
        }
    }

    /// The window has not been reduced after all.
    pub(super) fn withdraw_reduced(&mut self) {
        self.cold.ecn.cwr_due = false;
        self.update_ecn_bit();
    }

    /// Sees whether a segment echoes a mark, and tells congestion control. Answers whether: then recovery reduces the window, once a
    /// round trip (RFC 3168 §6.1.2).
    #[inline]
    pub(super) fn take_echo<O>(&mut self, env: &mut Env<'_, O>, segment: &Segment) -> bool {
        let mode = self.cold.ecn.mode;
        let echoes = mode == Mode::Classic && segment.flags & (flags::ECE | flags::SYN) == flags::ECE;
        if echoes {
            self.on_echo(env, segment);
        }
        echoes
    }

    #[cold]
    fn on_echo<O>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        let acked = segment.ack.since(self.snd_una);
        self.cold.ecn.delivered_ce += u64::from(acked);
        let segments = u64::from(acked.div_ceil(u32::from(self.snd_mss).max(1)));
        self.cold.ecn.delivered_ce_segments += segments;
        env.common.stats.delivered_ce += segments;
        self.cold.congestion.on_marked(acked, segment.ack, self.snd_max);
    }

    /// Takes the flags and ECN bits of a segment that brings data, before the data.
    pub(super) fn take_marks<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        if self.cold.ecn.mode != Mode::Classic || segment.len == 0 {
            return;
        }
        if segment.flags & flags::CWR != 0 {
            self.cold.ecn.echo = false;
            // As Linux: the sender's window may be down to one segment.
            self.ack_now();
        }
        let codepoint = segment.tos & MASK;
        if self.cold.ecn.everywhere {
            if codepoint != NOT_ECT {
                self.echo_each(env, codepoint == CE);
            }
        } else if codepoint == CE && !self.cold.ecn.echo {
            self.cold.ecn.echo = true;
            self.enter_quick_mode(2);
        } else if codepoint == NOT_ECT && self.cold.ecn.seen {
            // As Linux: what is not capable of ECN has been sent again, and its sender waits for the answer.
            self.enter_quick_mode(2);
        }
        self.cold.ecn.heard = true;
        self.cold.ecn.seen |= codepoint != NOT_ECT;
        self.update_ecn_bit();
    }

    /// RFC 8257 §3.2: acknowledgements say of each packet whether it was marked; one that was delayed does not cover both kinds.
    fn echo_each<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, marked: bool) {
        if self.cold.ecn.marked != marked {
            if self.ack_due == AckDue::Delayed {
                self.cold.ecn.echo = self.cold.ecn.marked;
                self.update_ecn_bit();
                let _ = self.send_ack(env);
            }
            self.ack_now();
        }
        self.cold.ecn.marked = marked;
        self.cold.ecn.echo = marked;
    }

    /// Whether ECN was agreed on, and whether the peer has made use of it.
    pub(super) fn ecn_in_use(&self) -> (bool, bool) {
        (self.cold.ecn.mode != Mode::Off, self.cold.ecn.seen)
    }

    fn update_ecn_bit(&mut self) {
        let ecn = &self.cold.ecn;
        // The first data tells whether the peer makes use of ECN; after that its code point need not be looked at.
        let curious = ecn.mode == Mode::Classic && !ecn.heard;
        // Accurate ECN is about every segment.
        if ecn.mode == Mode::Accurate || ecn.echo || ecn.cwr_due || ecn.marked || curious {
            self.slow |= slow::ECN;
        } else {
            self.slow &= !slow::ECN;
        }
    }
}
