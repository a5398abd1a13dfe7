//! Half-open connections: what a listener remembers of a SYN until the handshake is done, as a small record instead of a
//! connection.
//!
//! A record answers the SYN and sends the answer again until it is acknowledged; what it makes of a segment is a pure function of
//! both. Whoever floods a listener with SYNs costs `HalfOpen::BYTES` each, up to the configured number; beyond that the answer is
//! a [cookie](super::syn_cookie), which costs none. Becoming a connection is the [handshake](super::handshake)'s business.

use demi_drivers::Instant;
use demi_drivers::transport::Handle;

use super::accurate_ecn::{self, Agreed, MASK};
use super::output::Flow;
use super::rto::elapsed_ns;
use super::seq::{SeqNumber, timestamp_before};
use super::slots::Slots;
use super::timer::Wheel;
use crate::wire::tcp::{Header, Options, Timestamps, flags};

/// Window scale of a SYN that names none.
const NO_SCALE: u8 = u8::MAX;

/// What is remembered of a SYN.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpen {
    pub(crate) flow: Flow,
    /// The peer's window, as its SYN says it, and its MSS; 0: it names none.
    pub(crate) window: u16,
    mss: u16,
    /// Shift of the peer's windows.
    scale: u8,
    timestamps: bool,
    sack: bool,
    /// What was agreed on of ECN.
    pub(crate) ecn: Agreed,
    /// The handshake is done, but for the data that the listener waits for.
    pub(crate) acked: bool,
    /// Transmissions of the SYN-ACK.
    pub(crate) sent: u8,
    /// Hash of `flow` in the flow table.
    pub(crate) hash: u32,
    /// The listener whose SYN it was.
    pub(crate) listener: Handle,
    /// Our initial sequence number, and the peer's.
    pub(crate) iss: SeqNumber,
    pub(crate) irs: SeqNumber,
    /// The peer's latest timestamp.
    pub(crate) ts_recent: u32,
    /// What is added to our clock in timestamps.
    pub(crate) ts_offset: u32,
    /// Bytes of the window that the SYN-ACK offers.
    pub(crate) offered: u16,
    /// Timeouts, those included after which nothing was sent.
    pub(crate) timeouts: u8,
    /// When the SYN-ACK was first sent.
    pub(crate) sent_at: Instant,
    /// When an answer that nobody had asked for was last sent; zero: never.
    challenged_at: Instant,
}

// What the configuration says of it.
const _: () = assert!(HalfOpen::BYTES <= 176);

/// What a segment does to a half-open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing.
    Ignore,
    /// The SYN again: the SYN-ACK again.
    SynAck,
    /// Tell the peer where we stand, as far as the limits of that let it.
    Challenge,
    /// An old duplicate by its timestamp: as [`Answer::Challenge`].
    Paws,
    /// A SYN that opens something else: as [`Answer::Challenge`].
    OtherSyn,
    /// It acknowledges what was never sent: a RST from where it believes us to be.
    Reject(SeqNumber),
    /// The peer has reset it.
    Forget,
    /// The handshake is done.
    Complete,
}

impl HalfOpen {
    /// Memory of a half-open connection: its record, and its places in the timer wheel and, at most half full, in the flow table.
    const BYTES: usize = size_of::<Option<HalfOpen>>() + 4 + Wheel::ENTRY_BYTES + 16;

    /// What a SYN says, and the sequence number chosen for it.
    pub(crate) fn new(
        flow: &Flow,
        (hash, listener): (u32, Handle),
        (header, options, ecn): (&Header, &Options, Agreed),
        (iss, ts_offset, offered): (SeqNumber, u32, u16),
        now: Instant,
    ) -> Self {
        HalfOpen {
            flow: *flow,
            window: header.window,
            mss: options.mss.unwrap_or(0),
            scale: options.window_scale.unwrap_or(NO_SCALE),
            timestamps: options.timestamps.is_some(),
            sack: options.sack_permitted,
            ecn,
            acked: false,
            sent: 0,
            hash,
            listener,
            iss,
            irs: SeqNumber::new(header.seq),
            ts_recent: options.timestamps.map_or(0, |timestamps| timestamps.value),
            ts_offset,
            offered,
            timeouts: 0,
            sent_at: now,
            challenged_at: Instant::ZERO,
        }
    }

    /// The SYN has come again, in a packet with this type of service: what it says of Accurate ECN is news (RFC 9768 §3.1.5).
    pub(crate) fn syn_again(&mut self, bits: u16, tos: u8) {
        if let Agreed::Accurate { arrived, doubtful } = &mut self.ecn {
            *arrived = tos & MASK;
            // Its sender has been told nothing by the flags, or the flags do not get through: as Linux.
            *doubtful |= accurate_ecn::ace(bits) == 0;
        }
    }

    /// The options of the SYN.
    pub(crate) fn options(&self) -> Options {
        Options {
            mss: Some(self.mss).filter(|&mss| mss > 0),
            window_scale: Some(self.scale).filter(|&scale| scale != NO_SCALE),
            sack_permitted: self.sack,
            timestamps: self.timestamps.then_some(Timestamps { value: self.ts_recent, echo: 0 }),
            ..Options::default()
        }
    }

    /// What to do about a segment with `len` bytes of payload: RFC 9293 §3.10.7.4 in SYN-RECEIVED. `timestamps`: in use, and the
    /// segment's.
    pub(crate) fn on_segment(&self, header: &Header, len: u32, timestamps: Option<Timestamps>) -> Answer {
        let has = |flag: u16| header.flags & flag != 0;
        let (seq, ack) = (SeqNumber::new(header.seq), SeqNumber::new(header.ack));
        let (syn, reset) = (has(flags::SYN), has(flags::RST));
        let expected = self.irs + 1;
        if let Some(timestamps) = timestamps
            && timestamp_before(timestamps.value, self.ts_recent)
            && !reset
        {
            // RFC 7323 §5.3, R1: an old duplicate.
            return Answer::Paws;
        }
        if syn && seq == self.irs && !has(flags::ACK) && !reset {
            return Answer::SynAck;
        }
        let occupied = len + u32::from(syn) + u32::from(has(flags::FIN));
        let acceptable = seq.at_or_before(expected + u32::from(self.offered))
            && if occupied == 0 { seq.at_or_after(expected) } else { (seq + occupied).after(expected) };
        if !acceptable {
            return if reset { Answer::Ignore } else { Answer::Challenge };
        }
        if reset {
            // RFC 5961 §3.2: only a RST at exactly the expected number is believed.
            return if seq == expected { Answer::Forget } else { Answer::Challenge };
        }
        if syn && seq != self.irs {
            // RFC 5961 §4
            return Answer::OtherSyn;
        }
        if !has(flags::ACK) {
            return Answer::Ignore;
        }
        if ack != self.iss + 1 { Answer::Reject(ack) } else { Answer::Complete }
    }

    /// Whether the record's own limit lets another unasked-for answer out.
    pub(crate) fn may_challenge(&mut self, now: Instant, interval_ns: u64) -> bool {
        let allowed =
            self.challenged_at == Instant::ZERO || elapsed_ns(now, self.challenged_at) >= interval_ns;
        if allowed {
            self.challenged_at = now;
        }
        allowed
    }
}

/// All half-open connections, and when their SYN-ACKs go out again.
pub(crate) struct HalfOpens {
    pub(crate) slots: Slots<HalfOpen>,
    pub(crate) wheel: Wheel,
}

impl HalfOpens {
    /// None, and at most `limit`.
    pub(crate) fn new(limit: usize, now: Instant) -> Self {
        HalfOpens { slots: Slots::new(limit), wheel: Wheel::new(now) }
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<HalfOpen> {
        self.wheel.disarm(index);
        self.slots.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> HalfOpen {
        let flow = Flow {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            local_port: 80,
            remote_port: 5000,
        };
        let options = Options {
            mss: Some(1000),
            window_scale: Some(0),
            timestamps: Some(Timestamps { value: 50, echo: 0 }),
            ..Options::default()
        };
        let listener = Handle { index: 0, generation: 1 };
        let numbers = (SeqNumber::new(700), 0, 1000);
        HalfOpen::new(
            &flow,
            (0, listener),
            (&segment(flags::SYN, 100, 0), &options, Agreed::No),
            numbers,
            Instant::ZERO,
        )
    }

    fn segment(flags: u16, seq: u32, ack: u32) -> Header {
        Header { src_port: 5000, dst_port: 80, seq, ack, flags, window: 9, urgent: 0, header_bytes: 20 }
    }

    #[test]
    fn a_record_loses_nothing_of_the_syn() {
        let options = record().options();
        assert_eq!((options.mss, options.window_scale, options.sack_permitted), (Some(1000), Some(0), false));
        assert_eq!(options.timestamps, Some(Timestamps { value: 50, echo: 0 }));
    }

    #[test]
    fn segments_are_answered_as_in_syn_received() {
        let (record, ack) = (record(), flags::ACK);
        let at = |flags, seq, ackno, len| record.on_segment(&segment(flags, seq, ackno), len, None);
        assert_eq!(at(flags::SYN, 100, 0, 0), Answer::SynAck);
        assert_eq!(at(flags::SYN, 100, 0, 50), Answer::SynAck, "with data, too");
        assert_eq!(at(flags::SYN, 300, 0, 0), Answer::OtherSyn);
        assert_eq!(at(ack, 101, 701, 0), Answer::Complete);
        assert_eq!(at(ack, 111, 701, 10), Answer::Complete, "behind a gap");
        assert_eq!(at(ack | flags::FIN, 101, 701, 10), Answer::Complete);
        assert_eq!(at(ack, 101, 777, 0), Answer::Reject(SeqNumber::new(777)));
        assert_eq!(at(0, 101, 701, 5), Answer::Ignore);
        assert_eq!(at(ack, 5000, 701, 5), Answer::Challenge, "beyond the window");
        assert_eq!(at(ack, 90, 701, 0), Answer::Challenge, "before it");
        assert_eq!(at(flags::RST, 101, 0, 0), Answer::Forget);
        assert_eq!(at(flags::RST, 102, 0, 0), Answer::Challenge);
        assert_eq!(at(flags::RST, 9000, 0, 0), Answer::Ignore);
        let late = Some(Timestamps { value: 40, echo: 0 });
        assert_eq!(record.on_segment(&segment(ack, 101, 701), 0, late), Answer::Paws);
    }
}
