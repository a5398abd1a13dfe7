//! The sent log: what is in flight, when it was sent and how often, and what the peer says of it.
//!
//! It exists while more than one burst is outstanding. Segments that were sent at the same time and share a fate make one record;
//! a record is cut where the peer holds, or we send again, a part of it. Two orders run through the records: by position, which
//! acknowledgements and SACK blocks follow (RFC 2018), and by the time of the last transmission, which loss detection follows
//! (RFC 8985 §5.2). Finding a place takes O(log n); whatever walks records changes each for good or stops at the first it leaves.
//!
//! The number of records is bounded. When bursts alone reach [`MAX_BURSTS`], neighbours merge in pairs and count as sent when the
//! later of the two was: send times then are as coarse as the distance of two bursts, the older the coarser, and never too
//! early; nothing is measured by them any more. When a peer's blocks make more records than segments could ([`MAX_RECORDS`] apart), further
//! blocks only count where they cover whole records: bytes that are not marked are taken for missing, which is safe.
//!
//! What is lost, and what follows, is recovery's to say; the log carries out and counts.

mod rate;
mod records;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use demi_drivers::Instant;

pub(crate) use rate::{Delivery, RateSample};
use records::NONE;
pub(crate) use records::{Count, Record, mark};

/// A byte's place in the stream. It never wraps. The FIN is the byte behind the last.
pub(crate) type Position = u64;

/// Records that bursts may make: as many segments as 6 MiB are, the most that Linux would have in flight, too. A record takes less memory
/// than the header of the slot its segment lies in.
const MAX_BURSTS: usize = 4096;
/// What a small segment carries (RFC 9293 §3.7.1, the default MSS).
const SMALL_SEGMENT_BYTES: u32 = 536;
/// Records that a peer's SACK blocks may make beyond one a small segment.
const MAX_RECORDS: usize = 1024;
/// Records that there can be: retransmissions cut a few more.
const HARD_MAX: usize = 3 * MAX_BURSTS;
/// Records that are looked at for the exact time at which the next may count as lost.
const LOOK_AHEAD: usize = 32;
/// A burst that has just been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// Bytes of each segment but the last.
    pub(crate) size: u32,
    pub(crate) at: Instant,
}

/// What a look at send times found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimedOut {
    /// Counts as lost from now on, retransmissions included.
    pub(crate) lost: Count,
    /// The retransmissions of it.
    pub(crate) again: Count,
    /// When the last of what may be lost before long was sent.
    pub(crate) waiting: Option<Instant>,
}

/// The log.
#[derive(Debug)]
pub(crate) struct SentLog {
    records: Vec<Record>,
    /// Records not in use, chained by `newer`.
    free: u16,
    /// Records by position.
    order: VecDeque<u16>,
    /// The two ends of the order of time.
    oldest: u16,
    newest: u16,
    all: Count,
    sacked: Count,
    lost: Count,
    retrans: Count,
    /// No lost record that is not sent again lies before this.
    lost_from: Position,
    /// Behind the highest byte that the peer holds.
    sacked_end: Position,
    /// Everything missing below has been marked for what the peer holds above.
    marked_below: Position,
    pub(crate) delivery: Delivery,
    /// What the last acknowledgement told of the path.
    pub(crate) sample: RateSample,
}

impl Default for SentLog {
    fn default() -> Self {
        SentLog {
            records: Vec::new(),
            free: NONE,
            order: VecDeque::new(),
            oldest: NONE,
            newest: NONE,
            all: Count::default(),
            sacked: Count::default(),
            lost: Count::default(),
            retrans: Count::default(),
            lost_from: 0,
            sacked_end: 0,
            marked_below: 0,
            delivery: Delivery::default(),
            sample: RateSample::default(),
        }
    }
}

/// What it is like.
impl SentLog {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Behind the last byte it tells of.
    pub(crate) fn end(&self) -> Option<Position> {
        self.order.back().map(|&id| self.record(id).end)
    }

    /// The first record.
    pub(crate) fn head(&self) -> Option<&Record> {
        self.order.front().map(|&id| self.record(id))
    }

    /// Records that blocks may make: more than there are segments, were each a small one, and not as many as there are bytes.
    fn max_records(&self) -> usize {
        (self.all.bytes / SMALL_SEGMENT_BYTES).min(MAX_BURSTS as u32) as usize + MAX_RECORDS
    }

    /// Segments outstanding.
    pub(crate) fn segments(&self) -> u32 {
        self.all.segments
    }

    /// What the peer holds.
    pub(crate) fn sacked(&self) -> Count {
        self.sacked
    }

    /// Bytes delivered that no acknowledgement number tells of: out of order, twice, or told of and taken back.
    pub(crate) fn delivered_out_of_order(&self) -> u64 {
        u64::from(self.sacked.bytes) + self.delivery.duplicate + self.delivery.taken_back
    }

    /// What counts as lost, whether it was sent again or not.
    pub(crate) fn lost(&self) -> Count {
        self.lost
    }

    /// Retransmissions in flight.
    pub(crate) fn retrans(&self) -> Count {
        self.retrans
    }

    /// Bytes in flight: sent, and neither held by the peer nor lost; and sent again (RFC 6675 §4, SetPipe).
    pub(crate) fn pipe(&self) -> u32 {
        (self.all.bytes + self.retrans.bytes).saturating_sub(self.sacked.bytes + self.lost.bytes)
    }

    /// Behind the highest byte that the peer holds, if it holds any out of order.
    pub(crate) fn sacked_end(&self) -> Option<Position> {
        (self.sacked.bytes > 0).then_some(self.sacked_end)
    }

    /// Where the last segment begins and ends, unless the peer holds it.
    pub(crate) fn last_segment(&self) -> Option<(Position, Position)> {
        let record = self.record(*self.order.back()?);
        if record.has(mark::SACKED) {
            return None;
        }
        let whole = u64::from(record.segments.saturating_sub(1)) * u64::from(record.size);
        Some(((record.start + whole).min(record.end - 1), record.end))
    }

    /// The first range that is lost and not sent again.
    pub(crate) fn next_lost(&mut self) -> Option<(Position, Position)> {
        if self.lost.bytes == 0 {
            return None;
        }
        // What is passed over here is not looked at again: whatever becomes lost before `lost_from` moves it back.
        let from = self.place(self.lost_from);
        for at in from..self.order.len() {
            let record = *self.record(self.order[at]);
            if record.has(mark::LOST) && !record.has(mark::RETRANS) {
                self.lost_from = record.start;
                return Some((record.start, record.end));
            }
            self.lost_from = record.end;
        }
        None
    }

    /// Whether the byte at `at` is neither held by the peer nor in flight again; and where what shares its record ends.
    pub(crate) fn missing(&self, at: Position) -> Option<Position> {
        let record = self.record(*self.order.get(self.place(at))?);
        (!record.has(mark::SACKED | mark::RETRANS) && record.start <= at).then_some(record.end)
    }

    /// Where whole segments of the record that begins at `at` end, of at most `most` bytes.
    pub(crate) fn whole_segments(&self, at: Position, most: u32) -> Position {
        let Some(&id) = self.order.get(self.place(at)) else { return at };
        let record = self.record(id);
        if record.start != at || record.size == 0 {
            return at;
        }
        if record.bytes() <= most { record.end } else { at + u64::from(most / record.size * record.size) }
    }
}

/// What happens.
impl SentLog {
    /// New bytes have been sent, right behind those before. `delivered`: bytes delivered in all so far.
    pub(crate) fn push(&mut self, burst: Burst, delivered: u64) {
        debug_assert!(self.end().is_none_or(|end| end == burst.start), "{burst:?} follows {:?}", self.end());
        if burst.start >= burst.end {
            return;
        }
        if self.is_empty() {
            self.delivery.begin(burst.at);
            self.lost_from = burst.start;
            self.sacked_end = burst.start;
            self.marked_below = burst.start;
        }
        let size = burst.size.max(1);
        let bytes = (burst.end - burst.start) as u32;
        let record = Record {
            start: burst.start,
            end: burst.end,
            sent_at: burst.at,
            delivered,
            delivered_at: self.delivery.delivered_at,
            first_sent_at: self.delivery.first_sent_at,
            segments: bytes.div_ceil(size),
            size,
            marks: if self.delivery.is_app_limited() { mark::APP_LIMITED } else { 0 },
            older: NONE,
            newer: NONE,
        };
        self.all.add(bytes, record.segments);
        if self.order.len() >= MAX_BURSTS {
            self.coalesce();
        }
        if let Some(&id) = self.order.back() {
            let full = self.order.len() >= MAX_BURSTS;
            let last = self.record_mut(id);
            if last.joins(&record) || (full && last.in_flight()) {
                if last.sent_at != record.sent_at {
                    last.marks |= mark::COARSE;
                }
                last.end = record.end;
                last.segments += record.segments;
                last.size = last.size.max(record.size);
                last.sent_at = record.sent_at;
                self.unlink(id);
                self.link_newest(id);
                return;
            }
        }
        let id = self.allocate(record);
        self.order.push_back(id);
        self.link_newest(id);
    }

    /// As [`push`](Self::push), of one more segment of the burst that was pushed last: of the same size, sent at the same time.
    /// `false`: it is not that, and nothing has been done.
    #[inline]
    pub(crate) fn push_on(&mut self, burst: &Burst, delivered: u64) -> bool {
        let marks = if self.delivery.is_app_limited() { mark::APP_LIMITED } else { 0 };
        let newest = self.newest;
        let Some(&id) = self.order.back() else { return false };
        let last = self.record_mut(id);
        let goes_on = id == newest
            && last.end == burst.start
            && last.sent_at == burst.at
            && last.size == burst.size
            && burst.end - burst.start == u64::from(burst.size)
            && last.bytes() == last.segments * last.size
            && last.delivered == delivered
            && last.marks == marks;
        if goes_on {
            last.end = burst.end;
            last.segments += 1;
            self.all.add(burst.size, 1);
        }
        goes_on
    }

    /// Everything before `upto` has been acknowledged. `seen` is shown each piece of it, in order.
    pub(crate) fn acknowledge(&mut self, upto: Position, mut seen: impl FnMut(&Record)) {
        while let Some(&id) = self.order.front() {
            let record = *self.record(id);
            if record.start >= upto {
                break;
            }
            let mut gone = record;
            if record.end > upto {
                // The front of a record: its segments are counted by their size.
                gone.end = upto;
                let left =
                    ((record.end - upto) as u32).div_ceil(record.size.max(1)).clamp(1, record.segments);
                gone.segments = record.segments - left;
            }
            self.uncount(&gone, gone.bytes(), gone.segments);
            if !record.has(mark::SACKED) {
                self.delivery.note(&gone);
            }
            seen(&gone);
            if record.end > upto {
                let rest = self.record_mut(id);
                rest.start = upto;
                rest.segments -= gone.segments;
                break;
            }
            self.unlink(id);
            self.order.pop_front();
            self.release(id);
        }
        if self.order.is_empty() {
            self.forget();
        }
    }

    /// The peer holds the bytes from `start` to `end`. `seen` is shown each piece that this is news of, as it was before.
    pub(crate) fn sack(&mut self, start: Position, end: Position, mut seen: impl FnMut(&Record)) {
        let place = self.place(start);
        let held = self.order.get(place).is_some_and(|&id| self.record(id).has(mark::SACKED));
        let mut at = if held { place + 1 } else { self.cut(start, self.max_records()) };
        let mut upto = start;
        while let Some(&id) = self.order.get(at) {
            if self.record(id).start >= end {
                break;
            }
            if !self.record(id).has(mark::SACKED) {
                self.cut(end, self.max_records());
                let record = *self.record(id);
                if record.end > end {
                    // No room for one more: the rest of the block is not taken in.
                    break;
                }
                seen(&record);
                self.delivery.note(&record);
                self.unlink(id);
                self.uncount_fate(&record, record.bytes(), record.segments);
                let kept = self.record_mut(id);
                kept.marks = (kept.marks & (mark::EVER | mark::COARSE)) | mark::SACKED;
                self.sacked.add(record.bytes(), record.segments);
                self.sacked_end = self.sacked_end.max(record.end);
                upto = record.end;
            }
            // What lies beside something the peer holds is one with it.
            if !self.join_left(at) {
                at += 1;
            }
        }
        self.join_left(self.place(upto));
    }

    /// The bytes from `start` to `end` have arrived twice. Retransmissions of them are no longer in flight. Answers how many
    /// segments of them were sent again, and the lowest of these that the peer was known to hold.
    pub(crate) fn duplicate(&mut self, start: Position, end: Position) -> (u32, Option<Position>) {
        let (mut segments, mut held) = (0, None);
        let mut at = self.place(start);
        while let Some(&id) = self.order.get(at) {
            let record = *self.record(id);
            if record.start >= end {
                break;
            }
            if record.has(mark::EVER) && record.start >= start && record.end <= end {
                segments += record.segments;
                if record.has(mark::SACKED) {
                    held = held.or(Some(record.start));
                }
                if record.has(mark::RETRANS) {
                    self.retrans.take(record.bytes(), record.segments);
                    self.record_mut(id).marks &= !mark::RETRANS;
                    if !self.record(id).in_flight() {
                        self.unlink(id);
                        self.lost_from = self.lost_from.min(record.start);
                    }
                }
            }
            at += 1;
        }
        (segments, held)
    }

    /// The bytes from `start` to `end` have been sent again, as one segment. `counted`: as a retransmission of what was lost, not
    /// as a probe. What the peer holds of them stays as it was.
    pub(crate) fn resent(
        &mut self,
        start: Position,
        end: Position,
        now: Instant,
        delivered: u64,
        counted: bool,
    ) {
        if self.order.len() >= self.max_records() {
            self.coalesce();
        }
        self.cut(end, HARD_MAX);
        let first = self.cut(start, HARD_MAX);
        let (delivered_at, first_sent_at) = (self.delivery.delivered_at, self.delivery.first_sent_at);
        let limited = if self.delivery.is_app_limited() { mark::APP_LIMITED } else { 0 };
        let mut at = first;
        while let Some(&id) = self.order.get(at) {
            let record = *self.record(id);
            if record.start >= end {
                break;
            }
            at += 1;
            if record.has(mark::SACKED) {
                continue;
            }
            self.unlink(id);
            let kept = self.record_mut(id);
            kept.sent_at = now;
            kept.delivered = delivered;
            kept.delivered_at = delivered_at;
            kept.first_sent_at = first_sent_at;
            kept.marks = (kept.marks & !(mark::APP_LIMITED | mark::COARSE)) | mark::EVER | limited;
            if counted && !record.has(mark::RETRANS) {
                kept.marks |= mark::RETRANS;
                self.retrans.add(record.bytes(), record.segments);
            }
            if self.record(id).in_flight() {
                self.link_newest(id);
            }
            // What goes out as one segment is one, if it shared its fate before.
            let joined = at - 1;
            if joined > first && self.record(self.order[joined - 1]).marks == self.record(id).marks {
                self.absorb(joined);
                at = joined;
            }
        }
        let whole = self.order.get(first).map(|&id| (id, *self.record(id)));
        if let Some((id, record)) = whole
            && record.start == start
            && record.end == end
            && !record.has(mark::SACKED)
        {
            self.uncount(&record, 0, record.segments - 1);
            let kept = self.record_mut(id);
            (kept.segments, kept.size) = (1, (end - start) as u32);
        }
        // Segments sent again in the same turn share a record.
        self.join_left(first);
    }

    /// Counts as lost what was sent up to `limit` and before `newest`, which has been delivered (RFC 8985 §6.2, step 5).
    pub(crate) fn time_out(&mut self, newest: (Instant, Position), limit: Instant) -> TimedOut {
        let mut found = TimedOut::default();
        let mut id = self.oldest;
        while id != NONE {
            let record = *self.record(id);
            if (record.sent_at, record.end) >= newest || record.sent_at > limit {
                break;
            }
            self.lose(id, &mut found);
            id = record.newer;
        }
        for looked in 0.. {
            if id == NONE {
                break;
            }
            let record = self.record(id);
            if (record.sent_at, record.end) >= newest {
                break;
            }
            found.waiting = Some(record.sent_at);
            if looked >= LOOK_AHEAD {
                found.waiting = Some(newest.0);
                break;
            }
            id = record.newer;
        }
        found
    }

    /// Counts the first `bytes` bytes as lost.
    pub(crate) fn lose_head(&mut self, bytes: u32) -> TimedOut {
        let mut found = TimedOut::default();
        if let Some(start) = self.head().map(|head| head.start) {
            self.cut(start + u64::from(bytes), HARD_MAX);
            let id = self.order[0];
            if !self.record(id).has(mark::LOST) {
                self.lose(id, &mut found);
            }
        }
        found
    }

    /// Counts as lost everything below `edge` that the peer does not hold and that never was lost.
    pub(crate) fn lose_below(&mut self, edge: Position) -> TimedOut {
        let mut found = TimedOut::default();
        // What lies below where this has looked before is marked.
        let mut at = self.place(self.marked_below);
        while let Some(&id) = self.order.get(at) {
            let record = *self.record(id);
            if record.start >= edge {
                break;
            }
            self.cut(edge, HARD_MAX);
            if self.record(id).end > edge {
                break;
            }
            if !record.has(mark::LOST) {
                self.lose(id, &mut found);
            }
            at += 1;
        }
        self.marked_below = self.marked_below.max(edge);
        found
    }

    /// Counts everything as lost that the peer does not hold, but for what was sent after `limit` and is not the head.
    pub(crate) fn lose_all(&mut self, limit: Instant) -> TimedOut {
        let mut found = TimedOut::default();
        for at in 0..self.order.len() {
            let id = self.order[at];
            if at > 0 && self.record(id).sent_at > limit {
                continue;
            }
            self.lose(id, &mut found);
        }
        self.lost_from = self.head().map_or(self.lost_from, |head| head.start);
        found
    }

    /// Counts as lost what went out in segments of more than `bytes` bytes.
    pub(crate) fn lose_larger(&mut self, bytes: u32) -> TimedOut {
        let mut found = TimedOut::default();
        for at in 0..self.order.len() {
            let id = self.order[at];
            let record = self.record(id);
            if record.size.min(record.bytes()) > bytes {
                self.lose(id, &mut found);
            }
        }
        found
    }

    /// The position above which the peer holds `segments` segments; everything missing below counts as lost (RFC 6675 §4,
    /// IsLost).
    pub(crate) fn held_above(&self, segments: u32) -> Option<Position> {
        if self.sacked.segments < segments {
            return None;
        }
        let mut left = segments;
        for at in (0..self.place(self.sacked_end)).rev() {
            let record = self.record(*self.order.get(at)?);
            if record.has(mark::SACKED) {
                if record.segments >= left {
                    return Some(record.end - u64::from(left * record.size).min(record.end - record.start));
                }
                left -= record.segments;
            }
        }
        None
    }

    /// Nothing counts as lost any more.
    pub(crate) fn unlose(&mut self) {
        for at in 0..self.order.len() {
            let id = self.order[at];
            let record = self.record_mut(id);
            if record.has(mark::LOST) {
                let listed = record.in_flight();
                record.marks &= !mark::LOST;
                if !listed {
                    self.link_by_time(id);
                }
            }
        }
        self.lost = Count::default();
        self.marked_below = self.head().map_or(0, |head| head.start);
    }

    /// The peer holds nothing any more (RFC 2018 §8).
    pub(crate) fn unsack(&mut self) {
        for at in 0..self.order.len() {
            let id = self.order[at];
            let record = self.record_mut(id);
            if record.has(mark::SACKED) {
                record.marks &= !mark::SACKED;
                self.link_by_time(id);
            }
        }
        self.delivery.taken_back += u64::from(self.sacked.bytes);
        self.sacked = Count::default();
    }
}
