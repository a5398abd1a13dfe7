//! The packet memory that the kernel reads and writes, and who has which chunk of it.
//!
//! A table says for each chunk what the kernel holds of it: a slot to be filled, or so many views to be sent. An address that the
//! kernel names is believed only as far as the table says so, and when the socket is closed, the table says what there is to be taken
//! back.

use crate::mem::umem::Layout;
use crate::mem::{Buf, BufMut, Pool, RawSlot};

/// Bytes that the kernel leaves in front of a received frame (`XDP_PACKET_HEADROOM`): a slot's header and headroom.
pub(super) const PACKET_HEADROOM: usize = crate::mem::SLOT_HEADER + crate::mem::HEADROOM;
const _: () = assert!(PACKET_HEADROOM == 256);

/// The mark of a slot that the kernel may fill.
const TO_FILL: u16 = u16::MAX;

/// A pool's memory, shared with the kernel.
#[derive(Debug)]
pub(super) struct Umem {
    pool: Pool,
    layout: Layout,
    shift: u32,
    /// By chunk: [`TO_FILL`], or the number of views being sent.
    held: Box<[u16]>,
    to_fill: u32,
    sending: u32,
}

impl Umem {
    /// `None` for a pool that has no memory of its own.
    pub(super) fn new(pool: Pool) -> Option<Umem> {
        let layout = pool.layout()?;
        let chunks = layout.bytes / layout.small_bytes;
        Some(Umem {
            pool,
            layout,
            shift: layout.small_bytes.trailing_zeros(),
            held: vec![0; chunks].into_boxed_slice(),
            to_fill: 0,
            sending: 0,
        })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Slots that the kernel has, to be filled.
    #[inline]
    pub(super) fn to_fill(&self) -> u32 {
        self.to_fill
    }

    /// Views that the kernel has, to be sent.
    #[inline]
    pub(super) fn sending(&self) -> u32 {
        self.sending
    }

    /// Bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> usize {
        1 << self.shift
    }

    #[inline]
    fn held(&mut self, offset: u64) -> Option<&mut u16> {
        self.held.get_mut((offset >> self.shift) as usize)
    }

    /// Gives the kernel a slot to fill: answers its chunk's address. `None` when none is free.
    #[inline]
    pub(super) fn give(&mut self) -> Option<u64> {
        let slot = self.pool.alloc_small()?;
        let offset = self.layout.offset_of(&slot)? as u64 & !(self.chunk_bytes() as u64 - 1);
        let held = self.held(offset)?;
        debug_assert_eq!(*held, 0, "a free slot is nobody's");
        *held = TO_FILL;
        self.to_fill += 1;
        self.pool.count_to_fill(true);
        let _: RawSlot = slot.into_raw();
        Some(offset)
    }

    /// Takes back what the kernel has filled: `bytes` at `offset`. `None` if it was given no such thing.
    #[inline]
    pub(super) fn take(&mut self, offset: u64, bytes: usize) -> Option<BufMut> {
        let held = self.held(offset)?;
        if *held != TO_FILL {
            return None;
        }
        *held = 0;
        self.to_fill -= 1;
        self.pool.count_to_fill(false);
        // SAFETY: the table said that the slot was given as a raw one, and says so no more.
        let (raw, within) = unsafe { self.layout.raw(offset as usize) }?;
        // SAFETY: the kernel has named it in the ring of received frames (or is through with the socket), and does not touch it
        // any more.
        Some(unsafe { BufMut::from_raw(raw, within, bytes) })
    }

    /// Where `part` begins, if the kernel can send it as it lies: in one chunk of this memory.
    #[inline]
    pub(super) fn sendable(&self, part: &[u8]) -> Option<u64> {
        let offset = self.layout.offset_of(part)?;
        let chunk = self.chunk_bytes();
        ((offset & (chunk - 1)) + part.len() <= chunk).then_some(offset as u64)
    }

    /// Lends a view to the kernel, which has its chunk's address from [`sendable`](Self::sendable). Answers `false`, with
    /// the view dropped, when there are too many of one chunk.
    #[inline]
    pub(super) fn lend(&mut self, offset: u64, part: Buf) -> bool {
        match self.held(offset) {
            Some(held) if *held < TO_FILL - 1 => *held += 1,
            _ => return false,
        }
        self.sending += 1;
        part.into_lent();
        true
    }

    /// Ends the view that was lent with this address, if there is one.
    #[inline]
    pub(super) fn end(&mut self, offset: u64) {
        match self.held(offset) {
            Some(held) if *held != TO_FILL && *held > 0 => *held -= 1,
            _ => return,
        }
        self.sending -= 1;
        // SAFETY: the table said that a view of this chunk, which is one slot's, is lent, and now says that it is not.
        if let Some(lent) = unsafe { self.layout.lent(offset as usize) } {
            // SAFETY: the kernel is done with it; the pool is this thread's.
            unsafe { lent.end() };
        }
    }

    /// Takes everything back.
    ///
    /// # Safety
    /// The kernel is through with the memory.
    pub(super) unsafe fn take_all(&mut self) {
        for chunk in 0..self.held.len() {
            let offset = (chunk as u64) << self.shift;
            match self.held[chunk] {
                0 => {}
                TO_FILL => drop(self.take(offset + PACKET_HEADROOM as u64, 0)),
                views => (0..views).for_each(|_| self.end(offset)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolConfig;

    fn umem(slots: usize) -> Umem {
        Umem::new(Pool::new(&PoolConfig::small(slots)).unwrap()).unwrap()
    }

    #[test]
    fn a_filled_slot_is_taken_once_and_only_if_it_was_given() {
        let mut umem = umem(4);
        let chunk = umem.give().unwrap();
        assert!(umem.take(chunk + 2048, 60).is_none(), "another chunk");
        let frame = umem.take(chunk + 256, 60).unwrap();
        assert_eq!((frame.len(), frame.headroom()), (60, 192));
        assert!(umem.take(chunk + 256, 60).is_none(), "taken already");
        drop(frame);
        assert_eq!(umem.pool().stats().slots_out, 0);
        assert!(umem.take(u64::MAX, 60).is_none() && umem.take(1 << 40, 60).is_none());
    }

    #[test]
    fn a_view_is_out_until_it_is_sent_as_often_as_it_was_lent() {
        let mut umem = umem(4);
        let buf = umem.pool().copy_from_slice(b"twice").unwrap();
        let at = umem.sendable(&buf).unwrap();
        assert!(umem.lend(at, buf.clone()) && umem.lend(at, buf));
        umem.end(at);
        assert_eq!(umem.pool().stats().slots_out, 1);
        umem.end(at);
        assert_eq!((umem.pool().stats().slots_out, umem.sending()), (0, 0));
        umem.end(at);
        umem.end(u64::MAX);
        assert_eq!(umem.sending(), 0, "what was not lent is not ended");
    }

    #[test]
    fn at_the_end_everything_comes_back() {
        let mut umem = umem(8);
        let buf = umem.pool().copy_from_slice(b"being sent").unwrap();
        let at = umem.sendable(&buf).unwrap();
        assert!(umem.lend(at, buf));
        let given = std::iter::from_fn(|| umem.give()).count();
        assert_eq!((given, umem.pool().stats().slots_out), (7, 1));
        // SAFETY: there is no kernel in this.
        unsafe { umem.take_all() };
        assert_eq!((umem.pool().stats().slots_out, umem.to_fill(), umem.sending()), (0, 0, 0));
    }

    #[test]
    fn what_lies_elsewhere_or_in_two_chunks_cannot_be_sent_as_it_lies() {
        let config = PoolConfig { slots: 4, large_slots: 1, huge_pages: false, ..PoolConfig::default() };
        let umem = Umem::new(Pool::new(&config).unwrap()).unwrap();
        let large = umem.pool().copy_from_slice(&[1; 10_000]).unwrap();
        assert!(umem.sendable(&large).is_none());
        assert!(umem.sendable(&large.slice(0, 100)).is_some());
        assert!(umem.sendable(b"elsewhere").is_none());
    }
}
