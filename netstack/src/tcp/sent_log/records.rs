//! The records of the log: their storage, their two orders, and how they are cut and joined.
//!
//! Nothing here knows why.

use std::collections::VecDeque;

use demi_drivers::Instant;

use super::{Position, SentLog, TimedOut};

/// Capacity that an empty log keeps.
const KEEP: usize = 64;
/// No record.
pub(super) const NONE: u16 = u16::MAX;

/// What is known of a record, as bits.
pub(crate) mod mark {
    /// The peer holds it.
    pub(crate) const SACKED: u8 = 1;
    /// It counts as lost.
    pub(crate) const LOST: u8 = 2;
    /// It was sent again, and that is in flight.
    pub(crate) const RETRANS: u8 = 4;
    /// It was sent again at some time.
    pub(crate) const EVER: u8 = 8;
    /// The application had no more to send when it was sent.
    pub(crate) const APP_LIMITED: u8 = 16;
    /// Parts of it were sent earlier than it says.
    pub(crate) const COARSE: u8 = 32;
}

/// Bytes from `start` to `end` that share all that follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// When it was last sent.
    pub(crate) sent_at: Instant,
    /// Bytes delivered in all when it was sent; when the last of them was; when what that acknowledged was sent.
    pub(super) delivered: u64,
    pub(super) delivered_at: Instant,
    pub(super) first_sent_at: Instant,
    /// Segments, and bytes of each but the last.
    pub(crate) segments: u32,
    pub(super) size: u32,
    /// Bits of [`mark`].
    pub(crate) marks: u8,
    /// Neighbours in the order of time.
    pub(super) older: u16,
    pub(super) newer: u16,
}

impl Record {
    pub(crate) fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Whether it is known when each byte was sent, and that the one transmission is what is answered: then the answer measures the
    /// round trip (RFC 6298 §3, Karn's algorithm).
    pub(crate) fn is_timed(&self) -> bool {
        !self.has(mark::EVER | mark::COARSE)
    }

    pub(crate) fn bytes(&self) -> u32 {
        (self.end - self.start) as u32
    }

    /// Whether it is on its way, as far as we know: then it has a place in the order of time.
    pub(super) fn in_flight(&self) -> bool {
        !self.has(mark::SACKED) && (!self.has(mark::LOST) || self.has(mark::RETRANS))
    }

    /// Whether `next`, which follows it in the stream, can be told by the same record.
    pub(super) fn joins(&self, next: &Record) -> bool {
        if self.marks != next.marks {
            return false;
        }
        // Of what the peer holds nobody asks when it was sent.
        self.has(mark::SACKED)
            || (self.sent_at == next.sent_at
                && self.delivered == next.delivered
                && self.bytes() == self.segments * self.size
                && (next.size == self.size || (next.segments == 1 && next.bytes() <= self.size)))
    }
}

/// Bytes and segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) bytes: u32,
    pub(crate) segments: u32,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u32, segments: u32) {
        self.bytes += bytes;
        self.segments += segments;
    }

    pub(super) fn take(&mut self, bytes: u32, segments: u32) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.segments = self.segments.saturating_sub(segments);
    }
}

impl SentLog {
    pub(super) fn record(&self, id: u16) -> &Record {
        &self.records[usize::from(id)]
    }

    pub(super) fn record_mut(&mut self, id: u16) -> &mut Record {
        &mut self.records[usize::from(id)]
    }

    pub(super) fn allocate(&mut self, record: Record) -> u16 {
        if self.free == NONE {
            self.records.push(record);
            return (self.records.len() - 1) as u16;
        }
        let id = self.free;
        self.free = self.record(id).newer;
        *self.record_mut(id) = record;
        id
    }

    pub(super) fn release(&mut self, id: u16) {
        let free = self.free;
        self.record_mut(id).newer = free;
        self.free = id;
    }

    /// The log is empty.
    pub(super) fn forget(&mut self) {
        self.records.clear();
        self.free = NONE;
        (self.oldest, self.newest) = (NONE, NONE);
        (self.all, self.sacked) = (Count::default(), Count::default());
        (self.lost, self.retrans) = (Count::default(), Count::default());
        if self.records.capacity() > KEEP {
            self.records.shrink_to(KEEP);
            self.order.shrink_to(KEEP);
        }
    }

    /// Where in the order by position the record lies that holds `at`, or the first behind it.
    pub(super) fn place(&self, at: Position) -> usize {
        self.order.partition_point(|&id| self.record(id).end <= at)
    }

    /// Makes a record begin at `at`, if there are fewer than `max`, and answers where in the order it lies. Without room it
    /// is the record behind.
    pub(super) fn cut(&mut self, at: Position, max: usize) -> usize {
        let place = self.place(at);
        let Some(&id) = self.order.get(place) else { return place };
        let left = *self.record(id);
        if left.start >= at {
            return place;
        }
        if self.order.len() >= max {
            return place + 1;
        }
        let left_segments =
            (((at - left.start) as u32).div_ceil(left.size.max(1))).clamp(1, left.segments.max(1));
        let right_segments = left.segments.saturating_sub(left_segments).max(1);
        // A segment that is cut in two counts twice from now on.
        let more = left_segments + right_segments - left.segments;
        self.count_more(&left, more);
        let right = Record { start: at, segments: right_segments, ..left };
        let new = self.allocate(right);
        let kept = self.record_mut(id);
        kept.end = at;
        kept.segments = left_segments;
        if left.in_flight() {
            let record = self.record_mut(new);
            record.older = id;
            match left.newer {
                NONE => self.newest = new,
                newer => self.record_mut(newer).older = new,
            }
            self.record_mut(id).newer = new;
        }
        self.order.insert(place + 1, new);
        place + 1
    }

    fn count_more(&mut self, record: &Record, segments: u32) {
        self.all.add(0, segments);
        for (mark, count) in [
            (mark::SACKED, &mut self.sacked),
            (mark::LOST, &mut self.lost),
            (mark::RETRANS, &mut self.retrans),
        ] {
            if record.has(mark) {
                count.add(0, segments);
            }
        }
    }

    /// Takes a piece of `record` out of all counts.
    pub(super) fn uncount(&mut self, record: &Record, bytes: u32, segments: u32) {
        self.all.take(bytes, segments);
        if record.has(mark::SACKED) {
            self.sacked.take(bytes, segments);
        }
        self.uncount_fate(record, bytes, segments);
    }

    pub(super) fn uncount_fate(&mut self, record: &Record, bytes: u32, segments: u32) {
        if record.has(mark::LOST) {
            self.lost.take(bytes, segments);
        }
        if record.has(mark::RETRANS) {
            self.retrans.take(bytes, segments);
        }
    }

    /// A record counts as lost, or the retransmission of one does.
    pub(super) fn lose(&mut self, id: u16, found: &mut TimedOut) {
        let record = *self.record(id);
        let (bytes, segments) = (record.bytes(), record.segments);
        if record.has(mark::SACKED) || !record.in_flight() {
            return;
        }
        self.unlink(id);
        if record.has(mark::RETRANS) {
            self.retrans.take(bytes, segments);
            found.again.add(bytes, segments);
        }
        if !record.has(mark::LOST) {
            self.lost.add(bytes, segments);
        }
        found.lost.add(bytes, segments);
        let kept = self.record_mut(id);
        kept.marks = (kept.marks | mark::LOST) & !mark::RETRANS;
        self.lost_from = self.lost_from.min(record.start);
    }

    /// Joins the record at `at` with the one before it, if one record can tell of both.
    pub(super) fn join_left(&mut self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return false };
        let (Some(&left), Some(&right)) = (self.order.get(before), self.order.get(at)) else { return false };
        let joins = self.record(left).joins(self.record(right));
        if joins {
            self.absorb(at);
        }
        joins
    }

    /// Gives what the record at `at` tells of to the one before it.
    pub(super) fn absorb(&mut self, at: usize) {
        let (left, right) = (self.order[at - 1], self.order[at]);
        let next = *self.record(right);
        self.unlink(right);
        self.order.remove(at);
        self.release(right);
        let kept = self.record_mut(left);
        // Only what the peer holds may differ in time; should it take that back, it counts as sent when the later was.
        let coarse = if kept.sent_at == next.sent_at { 0 } else { mark::COARSE };
        if kept.sent_at < next.sent_at {
            *kept = Record { start: kept.start, segments: kept.segments, size: kept.size, ..next };
        }
        kept.marks |= coarse;
        kept.end = next.end;
        kept.segments += next.segments;
        kept.size = kept.size.max(next.size);
    }

    /// Joins neighbours in pairs, so that there is room for more. O(n), after which n/2 more fit.
    pub(super) fn coalesce(&mut self) {
        let mut kept = VecDeque::with_capacity(self.order.capacity());
        let mut alone: Option<u16> = None;
        let order = core::mem::take(&mut self.order);
        for id in order {
            let next = *self.record(id);
            match alone.take() {
                Some(left) if (self.record(left).marks ^ next.marks) & !mark::COARSE == 0 => {
                    // It counts as sent when the later of the two was, and lies there in the order of time.
                    let first = *self.record(left);
                    let (keep, drop) = if first.sent_at <= next.sent_at { (id, left) } else { (left, id) };
                    self.unlink(drop);
                    self.release(drop);
                    let joined = self.record_mut(keep);
                    joined.marks |= first.marks | next.marks;
                    if first.sent_at != next.sent_at {
                        joined.marks |= mark::COARSE;
                    }
                    joined.start = first.start;
                    joined.end = next.end;
                    joined.segments = first.segments + next.segments;
                    joined.size = first.size.max(next.size);
                    kept.push_back(keep);
                }
                Some(left) => {
                    kept.push_back(left);
                    alone = Some(id);
                }
                None => alone = Some(id),
            }
        }
        kept.extend(alone);
        self.order = kept;
    }

    pub(super) fn unlink(&mut self, id: u16) {
        let Record { older, newer, .. } = *self.record(id);
        if older == NONE && self.oldest != id {
            return;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.record_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.record_mut(newer).older = older,
        }
        let record = self.record_mut(id);
        (record.older, record.newer) = (NONE, NONE);
    }

    pub(super) fn link_newest(&mut self, id: u16) {
        let newest = self.newest;
        match newest {
            NONE => self.oldest = id,
            newest => self.record_mut(newest).newer = id,
        }
        let record = self.record_mut(id);
        (record.older, record.newer) = (newest, NONE);
        self.newest = id;
    }

    /// Puts a record in its place in the order of time; what comes back is nearly always old.
    pub(super) fn link_by_time(&mut self, id: u16) {
        let Record { sent_at, end, .. } = *self.record(id);
        let mut newer = self.oldest;
        while newer != NONE && (self.record(newer).sent_at, self.record(newer).end) < (sent_at, end) {
            newer = self.record(newer).newer;
        }
        if newer == NONE {
            return self.link_newest(id);
        }
        let older = self.record(newer).older;
        match older {
            NONE => self.oldest = id,
            older => self.record_mut(older).newer = id,
        }
        self.record_mut(newer).older = id;
        let record = self.record_mut(id);
        (record.older, record.newer) = (older, newer);
    }
}
