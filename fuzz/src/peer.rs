//! The other end of one TCP connection, as a fuzzer plays it: it knows the real sequence numbers, and chooses how far from them to be.
//!
//! It is also the judge of what the stack sends on that connection: the payload is what the application wrote, no segment is larger
//! than our MSS nor beyond the window we offered, acknowledgements and the right edge of the stack's window never go back. What the
//! peer itself sends is [`sent_byte`] of its place in the stream, however often and in whatever pieces, so that the application must
//! read exactly that.

use crate::frames::{self, Segment, protocol};

/// Flags.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const PSH: u8 = 8;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// The smallest MSS that the stack believes in.
const MIN_MSS: u16 = 48;

/// The byte that the peer sends at that place of its stream.
pub fn sent_byte(offset: u32) -> u8 {
    (offset ^ offset >> 8 ^ offset >> 16) as u8 ^ 0x5a
}

/// The byte that the application writes at that place.
pub fn written_byte(offset: u32) -> u8 {
    (offset.wrapping_mul(7) ^ offset >> 8 ^ offset >> 17) as u8 ^ 0xa5
}

/// What a peer says of itself in its SYN.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The connection is one of IPv6.
    pub v6: bool,
    /// Initial sequence number.
    pub iss: u32,
    /// The MSS option.
    pub mss: Option<u16>,
    /// The window scale option.
    pub scale: Option<u8>,
    /// The SACK-permitted option.
    pub sack: bool,
    /// The timestamps option.
    pub timestamps: bool,
}

/// A peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it said.
    pub offer: Offer,
    /// Its port and the stack's.
    pub ports: (u16, u16),
    /// The stack's initial sequence number.
    pub irs: Option<u32>,
    /// Next byte of its stream, counted from 0.
    pub next: u32,
    /// The furthest it has sent, counted from its SYN.
    pub furthest: u32,
    /// Places at which it has sent a FIN.
    pub fins: Vec<u32>,
    /// What it has of the stack's stream, counted from the stack's SYN: ranges in order.
    pub received: Vec<(u32, u32)>,
    /// Several connections have had these ports: what was read or written is no longer one stream.
    pub reborn: bool,
    /// The stack has sent something behind its SYN: the handshake is done.
    pub talked: bool,
    /// It has sent a SYN without options, too: the stack may have taken that one.
    bare_syn: bool,
    window: u16,
    clock: u32,
    echo: u32,
    /// The stack's shift, once both have agreed on scaling.
    their_shift: u8,
    our_shift: u8,
    uses_timestamps: bool,
    ack: Option<u32>,
    edge: Option<u32>,
    offered: u32,
}

impl Peer {
    /// A peer that has not said anything yet.
    pub fn new(offer: Offer, ports: (u16, u16)) -> Peer {
        Peer {
            offer,
            ports,
            irs: None,
            next: 0,
            furthest: 0,
            fins: Vec::new(),
            received: Vec::new(),
            reborn: false,
            talked: false,
            bare_syn: false,
            window: 0xffff,
            clock: 1000,
            echo: 0,
            their_shift: 0,
            our_shift: 0,
            uses_timestamps: false,
            ack: None,
            edge: None,
            offered: 0,
        }
    }

    /// Its SYN, or, if it has heard one, its SYN-ACK.
    pub fn syn(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(mss) = self.offer.mss {
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        if self.offer.sack {
            options.extend([4, 2]);
        }
        if self.offer.timestamps {
            options.extend([8, 10]);
            options.extend(self.clock.to_be_bytes());
            options.extend(self.echo.to_be_bytes());
        }
        if let Some(shift) = self.offer.scale {
            options.extend([3, 3, shift]);
        }
        let ack = self.irs.map_or(0, |irs| irs.wrapping_add(1));
        let flags = if self.irs.is_some() { SYN | ACK } else { SYN };
        self.offered = self.offered.max(u32::from(self.window) + 1);
        self.segment(self.offer.iss, ack, flags, &options, &[])
    }

    /// What of the stack's stream it has without a gap, counted from the stack's SYN.
    pub fn contiguous(&self) -> u32 {
        self.received.first().filter(|range| range.0 == 0).map_or(1, |range| range.1)
    }

    /// The end of what it has.
    pub fn highest(&self) -> u32 {
        self.received.last().map_or(1, |range| range.1)
    }

    /// Sets the window it offers from now on, before scaling.
    pub fn set_window(&mut self, window: u16) {
        self.window = window;
    }

    /// Lets its timestamp clock go on, or back.
    pub fn tick(&mut self, by: i32) {
        self.clock = self.clock.wrapping_add_signed(by);
    }

    /// A segment: `len` bytes of its stream from `offset` on, acknowledging up to `ack` of the stack's, which holds `blocks`.
    pub fn data(&mut self, offset: u32, len: usize, flags: u8, ack: u32, blocks: &[(u32, u32)]) -> Vec<u8> {
        let payload: Vec<u8> = (0..len as u32).map(|at| sent_byte(offset.wrapping_add(at))).collect();
        let irs = self.irs.unwrap_or(0);
        let mut options = Vec::new();
        if self.uses_timestamps {
            options.extend([1, 1, 8, 10]);
            options.extend(self.clock.to_be_bytes());
            options.extend(self.echo.to_be_bytes());
        }
        let room = (40 - options.len() - 4) / 8;
        if !blocks.is_empty() {
            let blocks = &blocks[..blocks.len().min(room)];
            options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                options.extend(irs.wrapping_add(*start).to_be_bytes());
                options.extend(irs.wrapping_add(*end).to_be_bytes());
            }
        }
        let end = offset.wrapping_add(len as u32);
        if flags & FIN != 0 {
            self.fins.push(end);
        }
        // A SYN may be the one that the stack takes: the stream then begins there.
        self.reborn |= flags & SYN != 0 && !self.talked;
        if flags & ACK != 0 {
            let edge = ack.wrapping_add(u32::from(self.window) << self.our_shift);
            // What acknowledges what was never sent offers nothing.
            if (1..1 << 30).contains(&edge.wrapping_sub(self.offered)) {
                self.offered = edge;
            }
        }
        let relative = end.wrapping_add(1 + u32::from(flags & FIN != 0) + u32::from(flags & SYN != 0));
        // No window reaches further than this (RFC 7323 §2.3): nobody takes what lies beyond.
        let in_reach = relative.wrapping_sub(self.ack.unwrap_or(1)) <= 1 << 30;
        if in_reach && relative.wrapping_sub(self.furthest) as i32 > 0 {
            self.furthest = relative;
        }
        let seq = self.offer.iss.wrapping_add(1).wrapping_add(offset);
        self.segment(seq, irs.wrapping_add(ack), flags, &options, &payload)
    }

    /// The acknowledgement an honest peer would send, with the blocks it would report.
    pub fn acknowledge(&mut self) -> Vec<u8> {
        let ack = self.contiguous();
        let blocks: Vec<(u32, u32)> =
            self.received.iter().rev().copied().filter(|range| range.0 > ack).take(4).collect();
        let blocks = if self.offer.sack { &blocks[..] } else { &[] };
        self.data(self.next, 0, ACK, ack, blocks)
    }

    fn segment(&mut self, seq: u32, ack: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        self.bare_syn |= flags & SYN != 0 && !options.starts_with(&[2]);
        let segment = Segment { ports: self.ports, seq, ack, flags, window: self.window, options, payload };
        segment.frame(self.offer.v6)
    }

    /// Judges a frame of the stack; whether it was a segment of this connection.
    pub fn observe(&mut self, frame: &[u8]) -> bool {
        let Some(parts) = frames::parts(frame) else { return false };
        let message = parts.message;
        if parts.protocol != protocol::TCP || parts.fragment {
            return false;
        }
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        if (word(2), word(0)) != self.ports {
            return false;
        }
        let (seq, ack, flags, window) = (long(4), long(8), message[13], word(14));
        let header = usize::from(message[12] >> 4) * 4;
        let (options, payload) = (&message[20..header], &message[header..]);
        if flags & RST != 0 {
            return true;
        }
        self.talked |= flags & (SYN | ACK) == ACK;
        if flags & SYN != 0 {
            self.on_syn(seq, ack, flags, options);
        }
        let Some(irs) = self.irs else { return true };
        if let Some(at) = find_option(options, 8) {
            self.echo = u32::from_be_bytes([at[0], at[1], at[2], at[3]]);
        }
        let relative = seq.wrapping_sub(irs);
        let end = relative.wrapping_add(payload.len() as u32);
        self.judge_payload(relative, payload);
        if flags & SYN == 0 && !payload.is_empty() {
            merge(&mut self.received, (relative, end));
        }
        if flags & SYN != 0 {
            merge(&mut self.received, (0, 1));
        }
        if flags & FIN != 0 {
            merge(&mut self.received, (end, end.wrapping_add(1)));
        }
        if flags & ACK != 0 {
            self.judge_ack(ack, window, flags);
        }
        true
    }

    fn on_syn(&mut self, seq: u32, ack: u32, flags: u8, options: &[u8]) {
        // At one instant, the same ends have the same initial number: that of the SYN it answers tells then.
        let relative = ack.wrapping_sub(self.offer.iss);
        // And who has sent something behind its SYN sends none again on that connection.
        let answers_another =
            self.talked || flags & ACK != 0 && self.ack.is_some_and(|before| before != relative);
        if self.irs.is_some_and(|irs| irs != seq) || answers_another {
            self.reborn = true;
        }
        if self.irs != Some(seq) || answers_another {
            (self.ack, self.edge) = (None, None);
            self.received.clear();
        }
        self.irs = Some(seq);
        let theirs = find_option(options, 3).map(|shift| shift[0]);
        let answered = flags & ACK != 0;
        if let (Some(theirs), Some(ours)) = (theirs, self.offer.scale) {
            assert!(theirs <= 14, "a window shift of {theirs}");
            (self.their_shift, self.our_shift) = (theirs, ours.min(14));
        } else if answered {
            (self.their_shift, self.our_shift) = (0, 0);
        }
        assert!(!answered || theirs.is_none() || self.offer.scale.is_some(), "scaling that nobody offered");
        let timestamps = find_option(options, 8).is_some();
        assert!(!answered || !timestamps || self.offer.timestamps, "timestamps that nobody offered");
        self.uses_timestamps = timestamps && self.offer.timestamps;
        let sack = find_option(options, 4).is_some();
        assert!(!answered || !sack || self.offer.sack, "SACK that nobody offered");
    }

    fn judge_payload(&self, relative: u32, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let default = if self.offer.v6 { 1220 } else { 536 };
        let told = self.offer.mss.filter(|mss| *mss > 0).unwrap_or(default).max(MIN_MSS);
        let mss = if self.bare_syn { told.max(default) } else { told };
        assert!(payload.len() <= usize::from(mss), "{} bytes of payload for an MSS of {mss}", payload.len());
        if self.reborn || self.bare_syn {
            // What was said last, and of which stream, is not known here.
            return;
        }
        let end = relative.wrapping_add(payload.len() as u32);
        let beyond = end.wrapping_sub(self.offered) as i32;
        assert!(payload.len() == 1 || beyond <= 0, "{beyond} bytes beyond the window that was offered");
        for (at, byte) in payload.iter().enumerate() {
            let offset = relative.wrapping_sub(1).wrapping_add(at as u32);
            assert_eq!(*byte, written_byte(offset), "byte {offset} of what was written");
        }
    }

    fn judge_ack(&mut self, ack: u32, window: u16, flags: u8) {
        if self.reborn {
            return;
        }
        let relative = ack.wrapping_sub(self.offer.iss);
        let ahead = relative.wrapping_sub(self.furthest.max(1)) as i32;
        assert!(ahead <= 0, "it acknowledges {ahead} bytes that nobody has sent");
        let back = self.ack.map_or(0, |before| before.wrapping_sub(relative) as i32);
        assert!(back <= 0, "an acknowledgement goes {back} bytes back");
        self.ack = Some(relative);
        let shift = if flags & SYN != 0 { 0 } else { self.their_shift };
        let edge = relative.wrapping_add(u32::from(window) << shift);
        let back = self.edge.map_or(0, |before| before.wrapping_sub(edge) as i32);
        // RFC 7323 §2.4: what the scale cannot say may be rounded down.
        assert!(back < 1 << shift, "the window's right edge goes {back} bytes back");
        self.edge = Some(edge);
    }
}

/// The body of the first option of a kind.
pub fn find_option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => return None,
            1 => options = rest,
            _ => {
                let len = usize::from(*rest.first()?);
                if kind == wanted {
                    return options.get(2..len);
                }
                options = options.get(len.max(2)..)?;
            }
        }
    }
    None
}

/// Adds a range to ranges in order.
fn merge(ranges: &mut Vec<(u32, u32)>, new: (u32, u32)) {
    ranges.push(new);
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.0 <= last.1 => last.1 = last.1.max(range.1),
            _ => merged.push(range),
        }
    }
    *ranges = merged;
}
