//! Views of slots: [`BufMut`], the only one of its slot, and [`Buf`], one of several.

use core::ops::{Deref, DerefMut};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::SLOT_HEADER;
use super::pool::{PoolInner, SlotHeader};

/// A read-only view of a slot. Clones, splits and trims share the slot and never copy; the slot goes back to its pool with
/// the last of them. Not `Send`: a pool belongs to one core.
pub struct Buf {
    slot: NonNull<SlotHeader>,
    /// First byte shown, from the start of the data area. Invariant: `offset + len <= capacity`.
    offset: u32,
    len: u32,
    _not_send: PhantomData<*const ()>,
}

/// The only view of a slot: its owner may write, grow into the tailroom, and prepend into the headroom.
pub struct BufMut {
    slot: NonNull<SlotHeader>,
    /// As in [`Buf`].
    offset: u32,
    len: u32,
    _not_send: PhantomData<*const ()>,
}

/// A slot given to hardware or to the kernel, which may write it while no Rust view exists. Dropping it leaks the slot:
/// only whoever knows that the device is done may take it back, with [`BufMut::from_raw`].
#[derive(Debug)]
pub struct RawSlot {
    slot: NonNull<SlotHeader>,
}

#[inline]
fn data_of(slot: NonNull<SlotHeader>) -> NonNull<u8> {
    // SAFETY: the data area begins `SLOT_HEADER` bytes into the slot, which is larger than that.
    unsafe { slot.cast::<u8>().add(SLOT_HEADER) }
}

/// # Safety
/// `slot` is out.
#[inline]
unsafe fn header<'a>(slot: NonNull<SlotHeader>) -> &'a SlotHeader {
    // SAFETY: an outstanding slot's header stays in place, and only shared references to it are made.
    unsafe { slot.as_ref() }
}

impl Buf {
    /// Bytes shown.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no byte is shown.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is the only view of its slot.
    #[inline]
    pub fn is_unique(&self) -> bool {
        // SAFETY: a `Buf` shows an outstanding slot.
        unsafe { header(self.slot) }.refs.get() == 1
    }

    /// Bytes before the view, in the same slot.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Drops the first `count` bytes from the view; all of them when there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = (count as u64).min(u64::from(self.len)) as u32;
        self.offset += count;
        self.len -= count;
    }

    /// Keeps the first `len` bytes of the view; all of them when there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = (len as u64).min(u64::from(self.len)) as u32;
    }

    /// The `len` bytes from `start` on as a view of their own; shorter where this view ends.
    #[inline]
    pub fn slice(&self, start: usize, len: usize) -> Buf {
        let mut part = self.clone();
        part.advance(start);
        part.truncate(len);
        part
    }

    /// The first `at` bytes, and the rest.
    #[inline]
    pub fn split_at(mut self, at: usize) -> (Buf, Buf) {
        let head = self.split_to(at);
        (head, self)
    }

    /// Takes the first `at` bytes (all, when there are fewer) off this view.
    #[inline]
    pub fn split_to(&mut self, at: usize) -> Buf {
        let mut head = self.clone();
        head.truncate(at);
        self.advance(at);
        head
    }

    /// The view as the only one of its slot, if it is.
    ///
    /// # Errors
    /// The view itself, when another one shares its slot.
    #[inline]
    pub fn try_into_mut(self) -> Result<BufMut, Buf> {
        if !self.is_unique() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        Ok(BufMut { slot: this.slot, offset: this.offset, len: this.len, _not_send: PhantomData })
    }

    /// The `len` bytes right before the view, to be written, and the view's own: where a protocol header goes in front of a
    /// payload that stays queued for retransmission. [`widened`](Self::widened) then shows both.
    ///
    /// `None` when another view shares the slot (it might show the bytes to be written, or a device might still be reading
    /// them) or when the headroom is shorter than `len`.
    #[inline(always)]
    pub fn front_mut(&mut self, len: usize) -> Option<(&mut [u8], &[u8])> {
        if !self.is_unique() || len > self.offset as usize {
            return None;
        }
        let offset = self.offset as usize - len;
        // SAFETY: the `len` bytes before the view are in the data area (checked), initialised (rule 4), and shown by nobody:
        // this is the only view of the slot and begins behind them. No other can be made while it is borrowed.
        let front = unsafe { std::slice::from_raw_parts_mut(data_of(self.slot).as_ptr().add(offset), len) };
        Some((front, &**self))
    }

    /// A second view that begins `len` bytes earlier; `None` when the headroom is shorter.
    #[inline(always)]
    pub fn widened(&self, len: usize) -> Option<Buf> {
        if len > self.offset as usize {
            return None;
        }
        // The bytes in front are initialised (rule 4), and nobody writes them while two views exist (rule 3).
        let mut wide = self.clone();
        wide.offset -= len as u32;
        wide.len += len as u32;
        Some(wide)
    }

    /// Writes `len` bytes right before the view and answers a second view that shows them followed by this one's. `None`, with
    /// nothing written, as [`front_mut`](Self::front_mut).
    #[inline]
    pub fn with_header(&mut self, len: usize, write: impl FnOnce(&mut [u8], &[u8])) -> Option<Buf> {
        let (front, rest) = self.front_mut(len)?;
        write(front, rest);
        self.widened(len)
    }

    /// Where the slot begins: its header.
    #[cfg(any(feature = "dpdk", feature = "xdp"))]
    #[inline]
    pub(crate) fn slot_start(&self) -> NonNull<u8> {
        self.slot.cast()
    }

    /// The slot's header.
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(super) fn header(&self) -> &SlotHeader {
        // SAFETY: a `Buf` shows an outstanding slot.
        unsafe { header(self.slot) }
    }

    /// A view of nothing of a slot that begins at `start`.
    ///
    /// # Safety
    /// The slot is out, and one of the views that its count tells of is this one from now on.
    #[cfg(any(feature = "dpdk", feature = "xdp"))]
    #[inline]
    pub(super) unsafe fn of_slot(start: NonNull<u8>) -> Buf {
        Buf { slot: start.cast(), offset: 0, len: 0, _not_send: PhantomData }
    }

    /// Position of the slot among those of its size, for devices that address memory by slot.
    #[inline]
    pub fn slot_index(&self) -> u32 {
        // SAFETY: a `Buf` shows an outstanding slot.
        unsafe { header(self.slot) }.index
    }
}

impl Deref for Buf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `offset + len <= capacity`; the bytes are initialised (rule 4); while a `Buf` shows them nobody writes them
        // (rule 3).
        unsafe {
            std::slice::from_raw_parts(
                data_of(self.slot).as_ptr().add(self.offset as usize),
                self.len as usize,
            )
        }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Buf {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: a `Buf` shows an outstanding slot.
        let refs = &unsafe { header(self.slot) }.refs;
        // 2^32 views of one slot would need 64 GiB of views: the count cannot wrap before memory ends, save by leaking.
        refs.set(refs.get().checked_add(1).unwrap_or_else(|| std::process::abort()));
        Buf { slot: self.slot, offset: self.offset, len: self.len, _not_send: PhantomData }
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a `Buf` shows an outstanding slot.
        let refs = &unsafe { header(self.slot) }.refs;
        let left = refs.get() - 1;
        refs.set(left);
        if left == 0 {
            // SAFETY: that was the last view.
            unsafe { PoolInner::give_back(self.slot) };
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

impl PartialEq for Buf {
    fn eq(&self, other: &Buf) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Buf {}

impl BufMut {
    /// The owner of a slot just taken off the free list, showing nothing, `offset` bytes in.
    #[inline]
    pub(super) fn from_free(slot: NonNull<SlotHeader>, offset: usize) -> BufMut {
        BufMut { slot, offset: offset as u32, len: 0, _not_send: PhantomData }
    }

    /// Bytes shown.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no byte is shown.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes before the view.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Bytes that can still be appended.
    #[inline]
    pub fn tailroom(&self) -> usize {
        (self.slot_capacity() - self.offset - self.len) as usize
    }

    #[inline]
    fn slot_capacity(&self) -> u32 {
        // SAFETY: a `BufMut` shows an outstanding slot.
        unsafe { header(self.slot) }.capacity
    }

    /// All of the data area.
    #[inline]
    fn area(&mut self) -> &mut [u8] {
        let capacity = self.slot_capacity() as usize;
        // SAFETY: the data area is `capacity` initialised bytes (rule 4), and this is the slot's only view (rule 2).
        unsafe { std::slice::from_raw_parts_mut(data_of(self.slot).as_ptr(), capacity) }
    }

    /// The bytes behind the view, as many as can be appended; whatever was there before shows.
    /// Write some, then [`grow`](Self::grow).
    #[inline]
    pub fn tail_mut(&mut self) -> &mut [u8] {
        let end = (self.offset + self.len) as usize;
        &mut self.area()[end..]
    }

    /// Extends the view over `count` bytes of the tailroom; over all of it when there are fewer.
    #[inline]
    pub fn grow(&mut self, count: usize) {
        self.len += count.min(self.tailroom()) as u32;
    }

    /// Appends as much of `bytes` as fits; answers how much.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) -> usize {
        let tail = self.tail_mut();
        let count = bytes.len().min(tail.len());
        tail[..count].copy_from_slice(&bytes[..count]);
        self.len += count as u32;
        count
    }

    /// Extends the view over the `count` bytes before it and answers them to be written; `None` when the headroom is
    /// shorter.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.offset as usize {
            return None;
        }
        self.offset -= count as u32;
        self.len += count as u32;
        let start = self.offset as usize;
        Some(&mut self.area()[start..start + count])
    }

    /// Drops the first `count` bytes from the view; all of them when there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = (count as u64).min(u64::from(self.len)) as u32;
        self.offset += count;
        self.len -= count;
    }

    /// Keeps the first `len` bytes of the view; all of them when there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = (len as u64).min(u64::from(self.len)) as u32;
    }

    /// Empties the view and lets it begin `headroom` bytes into the data area (at its end when that is shorter).
    #[inline]
    pub fn reset(&mut self, headroom: usize) {
        self.offset = (headroom as u64).min(u64::from(self.slot_capacity())) as u32;
        self.len = 0;
    }

    /// An empty view, filled with `bytes` and made one that can be shared. They fit, as the caller has seen to.
    #[inline(always)]
    pub(super) fn filled(mut self, bytes: &[u8]) -> Buf {
        let end = self.offset as usize + bytes.len();
        assert!(self.len == 0 && end <= self.slot_capacity() as usize, "the bytes fit");
        // SAFETY: the bytes from `offset` to `end` are in the data area (checked), and nobody else shows them (rule 2), so
        // `bytes` does not overlap them.
        unsafe {
            let to = data_of(self.slot).as_ptr().add(self.offset as usize);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.len = bytes.len() as u32;
        self.freeze()
    }

    /// Makes the view one that can be shared.
    #[inline]
    pub fn freeze(self) -> Buf {
        let this = ManuallyDrop::new(self);
        Buf { slot: this.slot, offset: this.offset, len: this.len, _not_send: PhantomData }
    }

    /// Address of the first byte shown, for the kernel or a device. Valid while the slot is out.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let offset = self.offset as usize;
        self.area()[offset..].as_mut_ptr()
    }

    /// Position of the slot among those of its size.
    #[inline]
    pub fn slot_index(&self) -> u32 {
        // SAFETY: a `BufMut` shows an outstanding slot.
        unsafe { header(self.slot) }.index
    }

    /// Gives the slot to a device or to the kernel. It counts as out until [`from_raw`](Self::from_raw).
    #[inline]
    pub fn into_raw(self) -> RawSlot {
        let this = ManuallyDrop::new(self);
        RawSlot { slot: this.slot }
    }

    /// Takes back a slot that a device has filled, showing `len` bytes from `offset` of the data area on (less where the data
    /// area ends).
    ///
    /// # Safety
    /// The device is done with the slot: it will neither read nor write it any more.
    #[inline]
    pub unsafe fn from_raw(raw: RawSlot, offset: usize, len: usize) -> BufMut {
        let mut buf = BufMut::from_free(raw.slot, 0);
        buf.reset(offset);
        buf.grow(len);
        buf
    }
}

impl RawSlot {
    /// The slot that begins at `start`.
    ///
    /// # Safety
    /// A slot begins there, has been made a `RawSlot`, and is not taken back by more than one of them.
    #[cfg(feature = "xdp")]
    #[inline]
    pub(super) unsafe fn at(start: NonNull<u8>) -> RawSlot {
        RawSlot { slot: start.cast() }
    }

    /// Address of byte `offset` of the data area.
    #[inline]
    pub fn address(&self, offset: usize) -> *mut u8 {
        data_of(self.slot).as_ptr().wrapping_add(offset)
    }

    /// Bytes of the data area.
    #[inline]
    pub fn capacity(&self) -> usize {
        // SAFETY: a raw slot is out until it is taken back.
        unsafe { header(self.slot) }.capacity as usize
    }
}

impl Deref for BufMut {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `offset + len <= capacity`, initialised (rule 4); nobody else shows the slot (rule 2).
        unsafe {
            std::slice::from_raw_parts(
                data_of(self.slot).as_ptr().add(self.offset as usize),
                self.len as usize,
            )
        }
    }
}

impl DerefMut for BufMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.offset as usize, self.len as usize);
        &mut self.area()[start..start + len]
    }
}

impl Drop for BufMut {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this was the slot's only view.
        unsafe { PoolInner::give_back(self.slot) };
    }
}

impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufMut({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADROOM, Pool, PoolConfig};
    use super::*;

    fn pool(slots: usize) -> Pool {
        Pool::new(&PoolConfig::small(slots)).unwrap()
    }

    #[test]
    fn views_share_one_slot_and_the_last_gives_it_back() {
        let pool = pool(1);
        let mut buf = pool.copy_from_slice(b"0123456789").unwrap();
        assert!(pool.alloc(1).is_none(), "one slot only");
        let head = buf.split_to(4);
        let middle = buf.slice(1, 3);
        assert_eq!((&head[..], &buf[..], &middle[..]), (&b"0123"[..], &b"456789"[..], &b"567"[..]));
        drop((head, buf));
        assert_eq!(pool.stats().slots_out, 1);
        drop(middle);
        assert_eq!(pool.stats().slots_out, 0);
        assert!(pool.alloc(1).is_some());
        assert_eq!(pool.stats().exhausted, 1);
    }

    #[test]
    fn a_header_goes_in_front_only_while_nobody_else_looks() {
        let pool = pool(1);
        let mut payload = pool.copy_from_slice(b"payload").unwrap();
        let frame = payload.with_header(4, |front, rest| {
            front.copy_from_slice(b"head");
            assert_eq!(rest, b"payload");
        });
        let frame = frame.unwrap();
        assert_eq!((&frame[..], &payload[..]), (&b"headpayload"[..], &b"payload"[..]));
        assert!(payload.with_header(4, |_, _| unreachable!()).is_none(), "the frame is still out");
        drop(frame);
        assert!(payload.with_header(HEADROOM + 1, |_, _| unreachable!()).is_none(), "no such headroom");
        assert!(payload.with_header(HEADROOM, |_, _| ()).is_some());
    }

    #[test]
    fn growing_and_prepending_stop_at_the_slots_ends() {
        let pool = pool(1);
        let mut buf = pool.alloc(10).unwrap();
        let room = buf.tailroom();
        assert_eq!(buf.put_slice(&vec![7; room + 100]), room);
        assert_eq!(buf.tailroom(), 0);
        buf.grow(5);
        assert_eq!(buf.len(), room);
        assert!(buf.prepend(HEADROOM + 1).is_none());
        buf.prepend(HEADROOM).unwrap().fill(9);
        assert_eq!((buf[0], buf[HEADROOM], buf.headroom()), (9, 7, 0));
        let buf = buf.freeze();
        assert!(buf.is_unique());
        let other = buf.clone();
        let buf = buf.try_into_mut().unwrap_err();
        drop(other);
        assert!(buf.try_into_mut().is_ok());
    }

    #[test]
    fn a_slot_outlives_its_pools_last_handle() {
        let pool = pool(2);
        let buf = pool.copy_from_slice(b"still here").unwrap();
        let raw = pool.alloc(8).unwrap().into_raw();
        drop(pool);
        assert_eq!(&buf[..], b"still here");
        drop(buf);
        // SAFETY: no device was ever told of the slot.
        drop(unsafe { BufMut::from_raw(raw, 0, 8) });
    }

    #[test]
    fn large_buffers_come_from_large_slots_and_waiters_are_woken() {
        use core::task::{Context, Poll, Waker};
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let config = PoolConfig { slots: 1, large_slots: 1, huge_pages: false, ..PoolConfig::default() };
        let pool = Pool::new(&config).unwrap();
        let large = pool.alloc(65_536).unwrap();
        assert!(large.tailroom() >= 65_536);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(pool.poll_alloc(&mut cx, 1_000_000).is_ready(), "never possible: says so at once");
        assert!(pool.poll_alloc(&mut cx, 60_000).is_pending());
        drop(large);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(pool.poll_alloc(&mut cx, 60_000), Poll::Ready(Some(_))));
        let small = pool.alloc(10).unwrap();
        let spilled = pool.alloc(10).unwrap();
        assert!(
            spilled.tailroom() > small.tailroom(),
            "small requests use large slots when the small are gone"
        );
    }

    #[test]
    fn what_can_wait_leaves_slots_to_what_cannot() {
        use core::task::{Context, Waker};
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let mut held: Vec<_> = core::iter::from_fn(|| pool.alloc_spare(100)).collect();
        assert_eq!((held.len(), pool.has_spare()), (56, false));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pool.poll_alloc_spare(&mut cx, 100).is_pending());
        held.extend(core::iter::from_fn(|| pool.alloc(100)));
        assert_eq!(held.len(), 64);
        held.truncate(55);
        assert!(pool.poll_alloc_spare(&mut cx, 100).is_ready() && pool.has_spare());
    }
}
