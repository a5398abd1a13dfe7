//! What the application has written and the peer has not acknowledged, by sequence number.
//!
//! Pushed buffers are kept as they are, never copied; written bytes are copied into slots that each make one segment. The queue
//! knows which bytes exist and where; which of them are sent, lost or selectively acknowledged is the connection's business.

use demi_drivers::{Buf, Pool};
use smallvec::SmallVec;

use super::fifo::Fifo;
use super::seq::SeqNumber;

/// Parts of one segment; more are copied together. Leaves room for the header among a device's usual sixteen.
const MAX_PARTS: usize = 12;

/// Pushed buffers this small are copied behind the previous one when that has room: a header and a slot cost more.
const COPY_MAX_BYTES: usize = 256;

struct Chunk {
    start: SeqNumber,
    buf: Buf,
}

impl Chunk {
    fn end(&self) -> SeqNumber {
        self.start + self.buf.len() as u32
    }
}

/// The queue. Its bytes are the sequence numbers from `start()` to `end()`.
pub(crate) struct SendQueue {
    chunks: Fifo<Chunk>,
    start: SeqNumber,
    end: SeqNumber,
    /// Where the last segment was found: the next one is most likely there or one further.
    cursor: usize,
}

impl SendQueue {
    /// An empty queue whose first byte will have number `start`.
    pub(crate) fn new(start: SeqNumber) -> Self {
        SendQueue { chunks: Fifo::default(), start, end: start, cursor: 0 }
    }

    /// The first byte not acknowledged.
    #[cfg(test)]
    pub(crate) fn start(&self) -> SeqNumber {
        self.start
    }

    /// The number behind the last byte written: the FIN's, once there is one.
    #[inline]
    pub(crate) fn end(&self) -> SeqNumber {
        self.end
    }

    /// Bytes queued.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.end - self.start
    }

    /// Appends a buffer, of which bytes up to `sent` have been sent: those stay where they are.
    #[inline(always)]
    pub(crate) fn push(&mut self, buf: Buf, sent: SeqNumber) {
        if self.chunks.is_empty() && !buf.is_empty() {
            self.append(buf);
        } else {
            self.push_behind(buf, sent);
        }
    }

    #[inline(always)]
    fn append(&mut self, buf: Buf) {
        let len = buf.len() as u32;
        self.chunks.push_back(Chunk { start: self.end, buf });
        self.end += len;
    }

    #[inline(never)]
    fn push_behind(&mut self, buf: Buf, sent: SeqNumber) {
        let joins = buf.len() <= COPY_MAX_BYTES && self.append_to_tail(&buf, sent, buf.len()) == buf.len();
        if !joins {
            self.append(buf);
        }
    }

    /// Copies `bytes` to the end of the last chunk if that is not shared, nothing behind `sent` begins in it, and all (or, when
    /// `at_least` is smaller, as many) of them fit. Answers how many were copied.
    fn append_to_tail(&mut self, bytes: &[u8], sent: SeqNumber, at_least: usize) -> usize {
        // A chunk that is partly sent may be shown by a device at this moment; its view must not change.
        let Some(tail) = self.chunks.back() else { return 0 };
        if tail.start.before(sent) || !tail.buf.is_unique() {
            return 0;
        }
        let Some(Chunk { start, buf }) = self.chunks.pop_back() else { return 0 };
        let mut copied = 0;
        let buf = match buf.try_into_mut() {
            Ok(mut tail) => {
                if tail.tailroom() >= at_least {
                    copied = tail.put_slice(bytes);
                }
                tail.freeze()
            }
            Err(shared) => shared,
        };
        self.chunks.push_back(Chunk { start, buf });
        self.end += copied as u32;
        copied
    }

    /// Copies bytes of `bytes` into slots of `pool`, a segment of `mss` bytes into each; answers how many, fewer when the pool is
    /// exhausted. `sent` is as in [`push`](Self::push).
    pub(crate) fn write(&mut self, mut bytes: &[u8], pool: &Pool, sent: SeqNumber, mss: usize) -> usize {
        let total = bytes.len();
        let mss = mss.max(1);
        // Of small segments as many as fit: a peer with an MSS of 48 must not have a slot for every 48 bytes that wait for it.
        let mss = mss * (pool.small_capacity() / mss).max(1);
        let tail_room = self.chunks.back().map_or(0, |tail| mss.saturating_sub(tail.buf.len()));
        if tail_room > 0 && !bytes.is_empty() {
            let part = &bytes[..bytes.len().min(tail_room)];
            let copied = self.append_to_tail(part, sent, 1);
            bytes = &bytes[copied..];
        }
        while !bytes.is_empty() {
            // A whole segment's room each, so that later writes fill it up.
            // Without large slots small ones do: a device may keep those it has sent for as long as it sends nothing more.
            let fits = |most: usize| pool.alloc_spare(bytes.len().min(most));
            let some = pool.alloc_spare(mss).or_else(|| fits(mss)).or_else(|| fits(pool.small_capacity()));
            let Some(mut slot) = some else { break };
            let copied = slot.put_slice(&bytes[..bytes.len().min(mss)]);
            if copied == 0 {
                break;
            }
            self.chunks.push_back(Chunk { start: self.end, buf: slot.freeze() });
            self.end += copied as u32;
            bytes = &bytes[copied..];
        }
        total - bytes.len()
    }

    /// Drops what lies before `upto`: it has been acknowledged. Amortised O(1).
    #[inline(always)]
    pub(crate) fn acknowledge(&mut self, upto: SeqNumber) {
        if upto == self.end && self.chunks.pop_only() {
            (self.start, self.cursor) = (upto, 0);
        } else {
            self.acknowledge_some(upto);
        }
    }

    #[inline(never)]
    fn acknowledge_some(&mut self, upto: SeqNumber) {
        let upto = upto.earlier(self.end);
        if upto.at_or_before(self.start) {
            return;
        }
        self.start = upto;
        while let Some(front) = self.chunks.front_mut() {
            if front.end().after(upto) {
                let gone = upto.since(front.start);
                front.buf.advance(gone as usize);
                front.start += gone;
                break;
            }
            self.chunks.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    /// Drops everything from `from` on, sent or not.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.start = self.end;
        self.cursor = 0;
    }

    /// The chunk that holds `seq`.
    #[inline]
    fn find(&self, seq: SeqNumber) -> Option<usize> {
        for at in [self.cursor, self.cursor + 1] {
            if let Some(chunk) = self.chunks.get(at)
                && seq.within(chunk.start, chunk.end())
            {
                return Some(at);
            }
        }
        if !seq.within(self.start, self.end) {
            return None;
        }
        // Relative to the start, positions are plain numbers.
        let offset = seq - self.start;
        let at = self.chunks.partition_point(|chunk| chunk.start - self.start <= offset);
        at.checked_sub(1)
    }

    /// The `len` bytes from `seq` on as they lie, if they are one whole buffer, or none: the usual case, in which headers may go
    /// right in front.
    #[inline]
    pub(crate) fn whole(&mut self, seq: SeqNumber, len: u32) -> Option<&mut [Buf]> {
        if len == 0 {
            return Some(&mut []);
        }
        let is_next = self.chunks.get(self.cursor).is_some_and(|chunk| chunk.start == seq);
        if !is_next {
            self.cursor = self.find(seq)?;
        }
        let chunk = self.chunks.get_mut(self.cursor)?;
        (chunk.start == seq && chunk.buf.len() as u32 == len).then(|| core::slice::from_mut(&mut chunk.buf))
    }

    /// The last buffer, if it begins at `seq`.
    #[inline(always)]
    pub(crate) fn last_whole(&mut self, seq: SeqNumber) -> Option<&mut Buf> {
        self.chunks.back_mut().filter(|chunk| chunk.start == seq).map(|chunk| &mut chunk.buf)
    }

    /// The `len` bytes from `seq` on as a view of the one buffer that they are a part of; `None` when they lie in several, or are
    /// [all of one](Self::whole).
    #[inline]
    pub(crate) fn part(&mut self, seq: SeqNumber, len: u32) -> Option<Buf> {
        self.cursor = self.find(seq)?;
        let chunk = self.chunks.get(self.cursor)?;
        let (skip, len) = ((seq - chunk.start) as usize, len as usize);
        let is_part = len < chunk.buf.len() && skip + len <= chunk.buf.len();
        is_part.then(|| chunk.buf.slice(skip, len))
    }

    /// How many of the `most` bytes from `seq` on one segment can gather without joining parts.
    pub(crate) fn gatherable(&self, seq: SeqNumber, most: u32) -> u32 {
        let Some(first) = self.find(seq) else { return 0 };
        let end = self.chunks.iter_from(first).take(MAX_PARTS).last().map_or(seq, Chunk::end);
        end.since(seq).min(most)
    }

    /// Views of the `len` bytes from `seq` on, in order. `None` when they are not all queued, or when they lie in too many parts
    /// and `pool` has no slot to join them.
    #[inline(never)]
    pub(crate) fn gather(&self, seq: SeqNumber, len: u32, pool: &Pool) -> Option<SmallVec<[Buf; 4]>> {
        let first = self.find(seq)?;
        let mut parts: SmallVec<[Buf; 4]> = SmallVec::new();
        let mut skip = (seq - self.chunks.get(first)?.start) as usize;
        let mut left = len as usize;
        let mut joined = None;
        for chunk in self.chunks.iter_from(first) {
            let part = chunk.buf.slice(skip, left);
            skip = 0;
            left -= part.len();
            if parts.len() == MAX_PARTS && joined.is_none() {
                let mut slot = pool.alloc(len as usize)?;
                for part in parts.drain(..) {
                    slot.put_slice(&part);
                }
                joined = Some(slot);
            }
            match &mut joined {
                Some(slot) => {
                    slot.put_slice(&part);
                }
                None => parts.push(part),
            }
            if left == 0 {
                break;
            }
        }
        if let Some(slot) = joined {
            parts.push(slot.freeze());
        }
        (left == 0).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use demi_drivers::PoolConfig;
    use proptest::prelude::*;

    use super::*;

    fn pool() -> Pool {
        Pool::new(&PoolConfig::small(512)).unwrap()
    }

    #[test]
    fn what_waits_for_a_peer_of_small_segments_takes_no_slot_a_segment() {
        let pool = pool();
        let mut queue = SendQueue::new(SeqNumber::new(100));
        let bytes = vec![7; 100_000];
        let written = queue.write(&bytes, &pool, SeqNumber::new(100), 48);
        let slots = pool.stats().slots_out;
        assert_eq!(written, bytes.len());
        assert!(slots <= 70, "{slots} slots of 1,792 bytes for 100,000");
        let parts = segment(&mut queue, SeqNumber::new(148), 48, &pool).unwrap();
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 48);
    }

    #[test]
    fn without_large_slots_small_ones_do() {
        let pool =
            Pool::new(&PoolConfig { large_slots: 1, huge_pages: false, slots: 512, ..PoolConfig::default() });
        let pool = pool.unwrap();
        let held = pool.alloc(pool.max_capacity()).expect("the only one");
        let mut queue = SendQueue::new(SeqNumber::new(100));
        let bytes = vec![7; 100_000];
        assert_eq!(queue.write(&bytes, &pool, SeqNumber::new(100), 60_000), bytes.len());
        drop(held);
        assert_eq!(pool.stats().large_slots_out, 0);
    }

    fn segment(queue: &mut SendQueue, seq: SeqNumber, len: u32, pool: &Pool) -> Option<Vec<Buf>> {
        match queue.whole(seq, len) {
            Some(parts) => Some(parts.to_vec()),
            None => queue.gather(seq, len, pool).map(|parts| parts.to_vec()),
        }
    }

    fn bytes_of(queue: &mut SendQueue, pool: &Pool, seq: SeqNumber, len: u32) -> Vec<u8> {
        segment(queue, seq, len, pool).unwrap().iter().flat_map(|part| part.to_vec()).collect()
    }

    #[test]
    fn a_pushed_buffer_goes_out_as_itself_and_its_parts_as_views() {
        let (pool, start) = (pool(), SeqNumber::new(u32::MAX - 2));
        let mut queue = SendQueue::new(start);
        let buf = pool.copy_from_slice(&[7; 1000]).unwrap();
        queue.push(buf, start);
        let whole = queue.whole(start, 1000).unwrap();
        assert!(whole.len() == 1 && whole[0].is_unique(), "headers can go in front");
        assert!(queue.whole(start + 10, 100).is_none());
        assert!(!queue.gather(start + 10, 100, &pool).unwrap()[0].is_unique());
        assert_eq!(pool.stats().slots_out, 1);
        assert!(queue.gather(start + 990, 11, &pool).is_none(), "beyond the end");
        queue.acknowledge(start + 1000);
        assert_eq!((queue.len(), pool.stats().slots_out), (0, 0));
    }

    #[test]
    fn small_writes_share_a_slot_until_it_is_sent() {
        let (pool, start) = (pool(), SeqNumber::new(5));
        let mut queue = SendQueue::new(start);
        for _ in 0..10 {
            assert_eq!(queue.write(b"0123456789", &pool, start, 1000), 10);
        }
        assert_eq!((queue.len(), queue.chunks.iter_from(0).count()), (100, 1));
        // The first ten bytes went out: the slot may be with the device.
        assert_eq!(queue.write(b"x", &pool, start + 10, 1000), 1);
        assert_eq!(queue.chunks.iter_from(0).count(), 2);
        assert_eq!(queue.write(&[1; 2500], &pool, start + 10, 1000), 2500);
        assert_eq!(
            queue.chunks.iter_from(0).map(|chunk| chunk.buf.len()).collect::<Vec<_>>(),
            [100, 1000, 1000, 501]
        );
    }

    #[test]
    fn a_slot_somebody_else_looks_at_is_not_written_to() {
        let (pool, start) = (pool(), SeqNumber::new(5));
        let mut queue = SendQueue::new(start);
        let buf = pool.copy_from_slice(b"abc").unwrap();
        let kept = buf.clone();
        queue.push(buf, start);
        queue.push(pool.copy_from_slice(b"def").unwrap(), start);
        assert_eq!((queue.chunks.iter_from(0).count(), &kept[..]), (2, &b"abc"[..]));
        assert_eq!(bytes_of(&mut queue, &pool, start, 6), b"abcdef");
    }

    #[test]
    fn a_segment_of_very_many_parts_is_joined() {
        let (pool, start) = (pool(), SeqNumber::new(5));
        let mut queue = SendQueue::new(start);
        let mut views = Vec::new();
        for byte in 0..40 {
            let buf = pool.copy_from_slice(&[byte; 3]).unwrap();
            views.push(buf.clone());
            queue.push(buf, start);
        }
        let expected: Vec<u8> = (0..40).flat_map(|byte| [byte; 3]).collect();
        assert_eq!(bytes_of(&mut queue, &pool, start, 120), expected);
        assert_eq!(queue.gather(start, 120, &pool).unwrap().len(), 1);
    }

    #[test]
    fn an_exhausted_pool_takes_what_fits() {
        let pool = Pool::new(&PoolConfig::small(2)).unwrap();
        let mut queue = SendQueue::new(SeqNumber::new(0));
        assert_eq!(queue.write(&[1; 5000], &pool, SeqNumber::new(0), 1000), 2000);
        assert_eq!(queue.write(&[1; 1], &pool, SeqNumber::new(0), 1000), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Write(usize),
        Send(usize),
        Acknowledge(usize),
        Look(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..1500).prop_map(Step::Push),
            (0usize..3000).prop_map(Step::Write),
            (0usize..2000).prop_map(Step::Send),
            (0usize..3000).prop_map(Step::Acknowledge),
            (0usize..5000, 0usize..2000).prop_map(|(at, len)| Step::Look(at, len)),
        ]
    }

    proptest! {
        #[test]
        fn holds_the_bytes_a_plain_vector_holds(
            start in any::<u32>(),
            steps in proptest::collection::vec(step(), 1..60),
        ) {
            let (pool, start) = (pool(), SeqNumber::new(start));
            let mut queue = SendQueue::new(start);
            let (mut model, mut sent, mut acked, mut next) = (Vec::new(), 0usize, 0usize, 0u8);
            let mut fresh = |len: usize| -> Vec<u8> {
                (0..len).map(|_| { next = next.wrapping_add(1); next }).collect()
            };
            for step in steps {
                match step {
                    Step::Push(len) => {
                        let bytes = fresh(len);
                        if let Some(buf) = pool.copy_from_slice(&bytes) {
                            queue.push(buf, start + sent as u32);
                            model.extend(bytes);
                        }
                    }
                    Step::Write(len) => {
                        let bytes = fresh(len);
                        let taken = queue.write(&bytes, &pool, start + sent as u32, 700);
                        model.extend(&bytes[..taken]);
                    }
                    Step::Send(len) => sent = (sent + len).min(model.len()),
                    Step::Acknowledge(len) => {
                        acked = (acked + len).min(sent);
                        queue.acknowledge(start + acked as u32);
                    }
                    Step::Look(at, len) => {
                        let at = (acked + at).min(model.len());
                        let len = len.min(model.len() - at);
                        let seen = segment(&mut queue, start + at as u32, len as u32, &pool)
                            .map(|parts| parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
                        if let Some(seen) = seen {
                            prop_assert_eq!(&seen, &model[at..at + len]);
                        }
                    }
                }
                prop_assert_eq!(queue.start(), start + acked as u32);
                prop_assert_eq!(queue.len() as usize, model.len() - acked);
            }
        }
    }
}
