//! TIME-WAIT: what is left of a connection that this end closed first, as a small record instead of a connection.
//!
//! A record answers a retransmitted FIN, keeps old duplicates away from the next connection of the same four-tuple, and lets
//! that one in early where RFC 6191 shows it safe. All records live equally long, so that expiry is a queue.

use std::collections::VecDeque;
use std::time::Duration;

use demi_drivers::Instant;

use super::output::Flow;
use super::seq::{SeqNumber, timestamp_before};
use crate::wire::tcp::{Header, Timestamps, flags};

/// What is left of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) flow: Flow,
    /// Hash of `flow` in the flow table.
    pub(crate) hash: u32,
    /// The next number we would send.
    pub(crate) snd_nxt: SeqNumber,
    /// The next number we expect: the one behind the peer's FIN.
    pub(crate) rcv_nxt: SeqNumber,
    /// The window field of our last acknowledgement.
    pub(crate) window_field: u16,
    /// The peer's latest timestamp, when timestamps are in use.
    pub(crate) ts_recent: Option<u32>,
    /// What is added to our clock in timestamps.
    pub(crate) ts_offset: u32,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// When it began, or was last renewed.
    pub(crate) since: Instant,
}

/// What a segment does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Nothing.
    Ignore,
    /// Answer with an acknowledgement.
    Acknowledge,
    /// The peer's FIN again: answer, and wait anew.
    Renew,
    /// Gone: the peer has reset it.
    Remove,
    /// A new connection may begin, with a sequence number of ours beyond this one.
    Reuse(SeqNumber),
}

impl Record {
    /// What to do about a segment of `len` payload bytes (RFC 9293 §3.10.7.4, RFC 6191).
    pub(crate) fn on_segment(
        &self,
        header: &Header,
        len: u32,
        timestamps: Option<Timestamps>,
    ) -> Disposition {
        let seq = SeqNumber::new(header.seq);
        let has = |flag: u16| header.flags & flag != 0;
        // RFC 7323 §5: a timestamp from before marks an old duplicate.
        let old = match (self.ts_recent, timestamps) {
            (Some(recent), Some(timestamps)) => timestamp_before(timestamps.value, recent),
            _ => false,
        };
        if has(flags::RST) {
            // RFC 5961 §3: only the one number expected is believed.
            return if seq == self.rcv_nxt && !old { Disposition::Remove } else { Disposition::Ignore };
        }
        if has(flags::SYN) && !has(flags::ACK) {
            // RFC 6191 §2: a later timestamp, or a sequence number beyond the old ones, shows it to be new.
            let newer = match (self.ts_recent, timestamps) {
                (Some(recent), Some(timestamps)) => timestamp_before(recent, timestamps.value),
                _ => false,
            };
            if newer || (!old && seq.after(self.rcv_nxt)) {
                return Disposition::Reuse(self.snd_nxt + 65_537);
            }
        }
        if has(flags::FIN) && !has(flags::SYN) && seq + len == self.rcv_nxt - 1 && !old {
            return Disposition::Renew;
        }
        // Anything but the bare acknowledgement that is expected is answered with where we stand.
        if len == 0 && seq == self.rcv_nxt && !has(flags::SYN) && !has(flags::FIN) {
            return Disposition::Ignore;
        }
        Disposition::Acknowledge
    }
}

struct Entry {
    record: Option<Record>,
    generation: u32,
    /// When something that was not expected was last answered; `FAR_FUTURE`: never.
    answered: Instant,
}

/// All records, oldest first.
pub(crate) struct TimeWait {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Position, generation and expiry; in the order of expiry. A renewed record is in it twice, and the first is void.
    queue: VecDeque<(u32, u32, Instant)>,
    lifetime_ns: u64,
    limit: usize,
}

impl TimeWait {
    /// No records. Each lives `lifetime_ns`; there are at most `limit`.
    pub(crate) fn new(lifetime_ns: u64, limit: usize) -> Self {
        TimeWait {
            entries: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            lifetime_ns,
            limit: limit.min(1 << 30),
        }
    }

    /// Records.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether another record would be one too many.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Adds a record; answers its position.
    pub(crate) fn insert(&mut self, record: Record) -> u32 {
        let expiry = record.since.plus_nanos(self.lifetime_ns);
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(Entry { record: None, generation: 0, answered: Instant::FAR_FUTURE });
                self.entries.len() as u32 - 1
            }
        };
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.record = Some(record);
            entry.answered = Instant::FAR_FUTURE;
            self.queue.push_back((index, entry.generation, expiry));
        }
        index
    }

    /// The record at a position.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Record> {
        self.entries.get(index as usize)?.record.as_ref()
    }

    /// All records. For control paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(|entry| entry.record.as_ref())
    }

    /// Lets the record at a position live its whole time again.
    pub(crate) fn renew(&mut self, index: u32, now: Instant) {
        // Once a second is enough, and keeps a flood of FINs from filling the queue.
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let Some(record) = &mut entry.record else { return };
        if now.since(record.since).as_millis() < 1000 {
            return;
        }
        record.since = now;
        entry.generation = entry.generation.wrapping_add(1);
        self.queue.push_back((index, entry.generation, now.plus_nanos(self.lifetime_ns)));
    }

    /// Whether one more thing that is not expected may be answered, once in `interval`. Without that, two records that a stranger has
    /// told wrong numbers would acknowledge each other for as long as they live.
    pub(crate) fn may_answer(&mut self, index: u32, now: Instant, interval: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(index as usize) else { return false };
        let may = entry.answered == Instant::FAR_FUTURE || now.since(entry.answered) >= interval;
        if may {
            entry.answered = now;
        }
        may
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Record> {
        let entry = self.entries.get_mut(index as usize)?;
        let record = entry.record.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(record)
    }

    fn skip_void(&mut self) {
        while let Some(&(index, generation, _)) = self.queue.front() {
            let live = self
                .entries
                .get(index as usize)
                .is_some_and(|entry| entry.generation == generation && entry.record.is_some());
            if live {
                break;
            }
            self.queue.pop_front();
        }
    }

    /// The hash of the oldest record's flow (or of one that was taken out before).
    pub(crate) fn oldest_hash(&self) -> Option<u32> {
        let &(index, _, _) = self.queue.front()?;
        self.get(index).map(|record| record.hash)
    }

    /// When the oldest record (or one that was taken out before) expires.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.queue.front().map(|&(_, _, expiry)| expiry)
    }

    /// Takes out the oldest record if it has expired at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(u32, Record)> {
        self.skip_void();
        let &(index, _, expiry) = self.queue.front()?;
        if expiry > now {
            return None;
        }
        self.queue.pop_front();
        self.remove(index).map(|record| (index, record))
    }

    /// Takes out the oldest record.
    pub(crate) fn evict(&mut self) -> Option<(u32, Record)> {
        self.expire(Instant::FAR_FUTURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(since: Instant) -> Record {
        Record {
            flow: Flow {
                local: [10, 0, 0, 1].into(),
                remote: [10, 0, 0, 2].into(),
                local_port: 1,
                remote_port: 2,
            },
            hash: 0,
            snd_nxt: SeqNumber::new(5000),
            rcv_nxt: SeqNumber::new(9000),
            window_field: 1000,
            ts_recent: Some(700),
            ts_offset: 0,
            ttl: 64,
            tos: 0,
            since,
        }
    }

    fn on(record: &Record, flags: u16, seq: u32, len: u32, ts: Option<u32>) -> Disposition {
        let header = Header {
            src_port: 2,
            dst_port: 1,
            seq,
            ack: 5000,
            flags,
            window: 0,
            urgent: 0,
            header_bytes: 20,
        };
        record.on_segment(&header, len, ts.map(|value| Timestamps { value, echo: 0 }))
    }

    #[test]
    fn a_syn_with_a_later_timestamp_or_number_may_reuse_the_four_tuple() {
        let mut record = record(Instant::ZERO);
        let reuse = Disposition::Reuse(SeqNumber::new(5000 + 65_537));
        assert_eq!(on(&record, flags::SYN, 1, 0, Some(701)), reuse);
        assert_eq!(on(&record, flags::SYN, 9001, 0, Some(700)), reuse);
        assert_eq!(on(&record, flags::SYN, 9001, 0, Some(699)), Disposition::Acknowledge);
        assert_eq!(on(&record, flags::SYN, 1, 0, Some(700)), Disposition::Acknowledge);
        record.ts_recent = None;
        assert_eq!(on(&record, flags::SYN, 9001, 0, None), reuse);
        assert_eq!(on(&record, flags::SYN, 8000, 0, None), Disposition::Acknowledge);
    }

    #[test]
    fn a_fin_again_renews_and_an_exact_reset_removes() {
        let record = record(Instant::ZERO);
        assert_eq!(on(&record, flags::FIN | flags::ACK, 8999, 0, Some(700)), Disposition::Renew);
        assert_eq!(on(&record, flags::FIN | flags::ACK, 8989, 10, Some(700)), Disposition::Renew);
        assert_eq!(on(&record, flags::RST, 9000, 0, None), Disposition::Remove);
        assert_eq!(on(&record, flags::RST, 9001, 0, None), Disposition::Ignore);
        assert_eq!(on(&record, flags::ACK, 9000, 0, Some(700)), Disposition::Ignore);
        assert_eq!(on(&record, flags::ACK, 9000, 5, Some(700)), Disposition::Acknowledge);
    }

    #[test]
    fn records_expire_in_order_and_renewed_ones_later() {
        let mut all = TimeWait::new(60_000_000_000, 10);
        let second = Instant::from_millis;
        let a = all.insert(record(second(0)));
        let b = all.insert(record(second(1000)));
        all.renew(a, second(30_000));
        all.renew(a, second(30_100));
        assert_eq!(all.expire(second(59_999)).map(|(index, _)| index), None);
        assert_eq!(all.expire(second(61_000)).map(|(index, _)| index), Some(b));
        assert_eq!(all.expire(second(89_999)).map(|(index, _)| index), None);
        assert_eq!(all.deadline(), Some(second(90_000)));
        assert_eq!(all.expire(second(90_000)).map(|(index, _)| index), Some(a));
        assert_eq!((all.len(), all.deadline()), (0, None));
        let c = all.insert(record(second(0)));
        assert!(all.remove(c).is_some() && all.remove(c).is_none());
        assert!(all.evict().is_none());
    }
}
