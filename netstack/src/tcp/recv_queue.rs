//! Bytes received in order and not read yet: views of the received frames, in a row.

use demi_drivers::Buf;

use super::fifo::Fifo;

/// Payloads this small are copied behind the previous one when that has room, so that a sender of single bytes cannot
/// occupy a slot with each of them.
const COPY_MAX_BYTES: usize = 256;

/// The queue.
#[derive(Default)]
pub(crate) struct RecvQueue {
    bufs: Fifo<Buf>,
    bytes: u32,
}

impl RecvQueue {
    /// Bytes queued.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether nothing is queued.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a payload.
    #[inline(always)]
    pub(crate) fn push(&mut self, buf: Buf) {
        let len = buf.len() as u32;
        if len == 0 {
            return;
        }
        self.bytes += len;
        if buf.len() <= COPY_MAX_BYTES && !self.bufs.is_empty() {
            return self.push_small(buf);
        }
        self.bufs.push_back(buf);
    }

    /// Appends a payload while memory is short: where the one before it has room, as a copy, however long it is.
    pub(crate) fn push_packed(&mut self, buf: Buf) {
        self.bytes += buf.len() as u32;
        if !buf.is_empty() {
            self.push_small(buf);
        }
    }

    #[inline(never)]
    fn push_small(&mut self, buf: Buf) {
        let Some(tail) = self.bufs.pop_back() else { return self.bufs.push_back(buf) };
        match tail.try_into_mut() {
            Ok(mut tail) if tail.tailroom() >= buf.len() => {
                tail.put_slice(&buf);
                self.bufs.push_back(tail.freeze());
            }
            Ok(tail) => self.bufs.extend([tail.freeze(), buf]),
            Err(tail) => self.bufs.extend([tail, buf]),
        }
    }

    /// Takes at most `max` bytes as one view; `None` when there are none, or `max` is 0.
    #[inline]
    pub(crate) fn pop(&mut self, max: usize) -> Option<Buf> {
        let front = self.bufs.front_mut()?;
        let buf = if front.len() > max {
            if max == 0 {
                return None;
            }
            front.split_to(max)
        } else {
            self.bufs.pop_front()?
        };
        self.bytes -= buf.len() as u32;
        Some(buf)
    }

    /// Hands bytes from the front to `copy`, which says how many it took, until it takes fewer than it was given; drops what
    /// was taken unless `keep`.
    pub(crate) fn copy(&mut self, keep: bool, mut copy: impl FnMut(&[u8]) -> usize) {
        if keep {
            for buf in self.bufs.iter_from(0) {
                if copy(buf) < buf.len() {
                    break;
                }
            }
            return;
        }
        while let Some(front) = self.bufs.front_mut() {
            let taken = copy(front).min(front.len());
            self.bytes -= taken as u32;
            if taken < front.len() {
                front.advance(taken);
                break;
            }
            self.bufs.pop_front();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.bufs.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use demi_drivers::{Pool, PoolConfig};

    use super::*;

    #[test]
    fn single_bytes_do_not_occupy_a_slot_each() {
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let mut queue = RecvQueue::default();
        for byte in 0..100 {
            queue.push(pool.copy_from_slice(&[byte]).unwrap());
        }
        assert_eq!((pool.stats().slots_out, queue.bytes()), (1, 100));
        let all = queue.pop(usize::MAX).unwrap();
        assert!(all.iter().copied().eq(0..100));
    }

    #[test]
    fn what_is_packed_fills_slots_before_it_takes_another() {
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let mut queue = RecvQueue::default();
        let room = pool.small_capacity() - demi_drivers::mem::HEADROOM;
        for part in 0..4 {
            queue.push_packed(pool.copy_from_slice(&vec![part; room / 3]).unwrap());
        }
        assert_eq!((pool.stats().slots_out, queue.bytes() as usize), (2, room / 3 * 4));
        let first = queue.pop(usize::MAX).unwrap();
        assert!(first.len() == room / 3 * 3 && first.chunks(room / 3).map(|part| part[0]).eq(0..3));
        assert_eq!(queue.pop(usize::MAX).unwrap()[..], vec![3; room / 3][..]);
    }

    #[test]
    fn pop_and_copy_take_what_is_asked_for() {
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let mut queue = RecvQueue::default();
        queue.push(pool.copy_from_slice(&[1; 300]).unwrap());
        queue.push(pool.copy_from_slice(&[2; 300]).unwrap());
        assert_eq!(queue.pop(10).unwrap().len(), 10);
        assert_eq!(queue.pop(0), None);
        assert_eq!(queue.pop(1000).unwrap().len(), 290, "one view at a time");
        let mut seen = 0;
        queue.copy(true, |bytes| {
            seen += bytes.len();
            bytes.len()
        });
        assert_eq!((seen, queue.bytes()), (300, 300));
        queue.copy(false, |bytes| bytes.len().min(7));
        assert_eq!(queue.bytes(), 293);
        queue.clear();
        assert!(queue.is_empty() && queue.pop(1).is_none());
        assert_eq!(pool.stats().slots_out, 0);
    }
}
