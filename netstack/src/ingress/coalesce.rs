//! Receive coalescing in software: segments of one flow that arrived one after the other in one burst are taken as one segment.
//!
//! What a device that coalesces by itself would join is joined here: in-order data that its connection expects, each segment with
//! the same acknowledgement, window and timestamps as the first, up to one that is pushed or shorter. Each frame is verified by
//! itself and counted by itself, and its payload stays where it arrived. Whatever does not fit ends the train and is looked at
//! again alone. A burst of one frame never comes here.

use demi_drivers::RxFrame;
use demi_drivers::device::RxChecksum;

use super::expected::{PlainV4, PlainV6, V4_BYTES, V6_BYTES, is_intact};
use crate::stack::Stack;
use crate::tcp::Incoming;
use crate::wire::checksum::Sum;
use crate::wire::tcp::PLAIN_BYTES;

/// Payload bytes of a train, at most: those of the largest IP packet, as with a device that coalesces.
const TRAIN_MAX_BYTES: u32 = 65_535;

/// A train that is being put together.
struct Train {
    /// All of it, as one segment.
    whole: Incoming,
    /// Payload bytes of the first segment: none that follows is longer.
    mss: u32,
    /// Payload bytes there is room for.
    room: u32,
    /// Nothing may be added any more.
    complete: bool,
}

/// A frame of a train's flow.
struct Next {
    segment: Incoming,
    push: bool,
    ect0: bool,
    /// Sum of the addresses and the TCP header.
    sum: Sum,
}

impl Train {
    /// A train that begins with `first`; its connection has offered `window` bytes.
    fn new(first: Incoming, push: bool, window: u32) -> Train {
        let room = window.min(TRAIN_MAX_BYTES);
        Train { whole: first, mss: first.len, room, complete: push || first.len == 0 }
    }

    /// Whether `next` goes on where a train that is not complete ends, and tells nothing else new.
    fn takes(&self, next: &Incoming) -> bool {
        next.len > 0
            && next.len <= self.mss
            && next.seq == self.whole.seq + self.whole.len
            && next.ack == self.whole.ack
            && next.window == self.whole.window
            && next.timestamps == self.whole.timestamps
            && self.whole.len + next.len <= self.room
    }

    fn add(&mut self, next: &Incoming, push: bool) {
        self.whole.len += next.len;
        self.complete = push || next.len < self.mss;
    }
}

impl Stack {
    /// Takes a frame that others of its burst follow, and those of them that belong to it.
    #[inline(never)]
    pub(crate) fn on_train(&mut self, frame: RxFrame) {
        if let Some(frame) = self.on_train_v4(frame).and_then(|frame| self.on_train_other(frame)) {
            self.on_any(frame);
        }
    }

    #[inline(never)]
    fn on_train_other(&mut self, frame: RxFrame) -> Option<RxFrame> {
        let frame = self.on_known_v4(frame)?;
        let frame = self.on_train_v6(frame)?;
        self.on_known_v6(frame)
    }

    /// Gives the frame back, and has done nothing, when it is no segment that a connection expects.
    #[inline(always)]
    fn on_train_v4(&mut self, mut frame: RxFrame) -> Option<RxFrame> {
        let trusted = self.egress.capabilities.lossless_memory;
        if trusted {
            frame.checksum = RxChecksum::Valid;
        }
        let mac = self.egress.mac;
        let Some(first) = PlainV4::parse(&frame.buf, mac, !trusted) else { return Some(frame) };
        let headers = V4_BYTES + PLAIN_BYTES;
        if !is_intact(frame.checksum, first.sum, payload(&frame, headers, &first.segment)) {
            return Some(frame);
        }
        frame.checksum = RxChecksum::Valid;
        let Some(index) = self.tcp.expecting_v4(first.flow, &first.segment) else { return Some(frame) };
        let mut train = Train::new(first.segment, first.push, self.tcp.offered_window(index));
        let verify = !trusted;
        let ect0 = self.gather(&mut train, first.ect0, headers, |frame| {
            let found = PlainV4::parse(&frame.buf, mac, verify).filter(|found| found.flow == first.flow)?;
            Some(Next { segment: found.segment, push: found.push, ect0: found.ect0, sum: found.sum })
        });
        let frames = 1 + self.train.len() as u64;
        let stats = &mut self.egress.stats.v4.ip;
        stats.in_receives += frames;
        stats.in_delivers += frames;
        stats.in_ect0_pkts += ect0;
        self.take_train(index, &train, frame, headers, first.segment.len);
        None
    }

    /// As [`on_train_v4`](Self::on_train_v4).
    #[inline(always)]
    fn on_train_v6(&mut self, mut frame: RxFrame) -> Option<RxFrame> {
        let mac = self.egress.mac;
        let Some(first) = PlainV6::parse(&frame.buf, mac) else { return Some(frame) };
        let headers = V6_BYTES + PLAIN_BYTES;
        if !is_intact(frame.checksum, first.sum, payload(&frame, headers, &first.segment)) {
            return Some(frame);
        }
        frame.checksum = RxChecksum::Valid;
        let (remote, local, ports) = (first.remote, first.local, first.ports);
        let Some(index) = self.tcp.expecting_v6(remote, local, ports, &first.segment) else {
            return Some(frame);
        };
        let mut train = Train::new(first.segment, first.push, self.tcp.offered_window(index));
        let ect0 = self.gather(&mut train, first.ect0, headers, |frame| {
            let found = PlainV6::parse(&frame.buf, mac)
                .filter(|found| (found.remote, found.local, found.ports) == (remote, local, ports))?;
            Some(Next { segment: found.segment, push: found.push, ect0: found.ect0, sum: found.sum })
        });
        let frames = 1 + self.train.len() as u64;
        let stats = &mut self.egress.stats.v6.ip;
        stats.in_receives += frames;
        stats.in_delivers += frames;
        stats.in_ect0_pkts += ect0;
        self.take_train(index, &train, frame, headers, first.segment.len);
        None
    }

    /// Adds the frames that go on where the train ends, as `read` reads those of its flow. Answers how many of all were marked
    /// ECT(0), the first included.
    #[inline(always)]
    fn gather(
        &mut self,
        train: &mut Train,
        first_ect0: bool,
        headers: usize,
        read: impl Fn(&RxFrame) -> Option<Next>,
    ) -> u64 {
        let trusted = self.egress.capabilities.lossless_memory;
        let mut ect0 = u64::from(first_ect0);
        while !train.complete
            && let Some(frame) = self.rx.last()
            && let Some(next) = read(frame)
        {
            let known = if trusted { RxChecksum::Valid } else { frame.checksum };
            let intact = || is_intact(known, next.sum, payload(frame, headers, &next.segment));
            if !(train.takes(&next.segment) && intact()) {
                break;
            }
            train.add(&next.segment, next.push);
            ect0 += u64::from(next.ect0);
            self.couple(headers, &next.segment);
        }
        ect0
    }

    /// Moves the payload of the next frame behind the train.
    #[inline(always)]
    fn couple(&mut self, headers: usize, segment: &Incoming) {
        if let Some(RxFrame { mut buf, .. }) = self.rx.pop() {
            buf.advance(headers);
            buf.truncate(segment.len as usize);
            self.train.push(buf);
        }
    }

    #[inline(always)]
    fn take_train(&mut self, index: u32, train: &Train, first: RxFrame, headers: usize, len: u32) {
        self.egress.stats.link.in_frames += 1 + self.train.len() as u64;
        let mut buf = first.buf;
        buf.advance(headers);
        buf.truncate(len as usize);
        let (now, egress) = (self.egress.now, &mut self.egress);
        self.tcp.take_train(now, egress, index, &train.whole, train.mss, buf, &mut self.train);
    }
}

/// What follows the headers of a frame.
#[inline(always)]
fn payload<'a>(frame: &'a RxFrame, headers: usize, segment: &Incoming) -> &'a [u8] {
    frame.buf.get(headers..headers + segment.len as usize).unwrap_or_default()
}
