//! The pool: slots in one region, in a few sizes, on free lists.

use core::task::{Context, Poll, Waker};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ptr::NonNull;

use super::buf::BufMut;
#[cfg(feature = "dpdk")]
use super::home::{Home, Homed};
use super::region::Region;
use super::{HEADROOM, SLOT_HEADER};

/// What begins every slot. One cache line; the data area follows.
#[repr(C, align(64))]
pub(super) struct SlotHeader {
    /// Views of the slot; 0 while it is free.
    pub(super) refs: Cell<u32>,
    /// Bytes of the data area.
    pub(super) capacity: u32,
    /// The pool the slot goes back to.
    pub(super) pool: NonNull<PoolInner>,
    /// Next free slot, while this one is free.
    next: Cell<Option<NonNull<SlotHeader>>>,
    /// Which of the pool's sizes this is: 0 small, 1 large.
    pub(super) class: u32,
    /// Position among the slots of its size.
    pub(super) index: u32,
}

const _: () = assert!(size_of::<SlotHeader>() == SLOT_HEADER);

/// Sizes and number of a pool's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes a small slot occupies, header and headroom included; a multiple of 64. 2048 holds any frame of MTU 1500.
    pub slot_bytes: usize,
    /// Small slots.
    pub slots: usize,
    /// Bytes a large slot occupies, header and headroom included; a multiple of 64.
    pub large_slot_bytes: usize,
    /// Large slots; 0: none.
    pub large_slots: usize,
    /// Use huge pages when the machine has them free.
    pub huge_pages: bool,
}

impl Default for PoolConfig {
    /// 8,192 slots of 2 KiB and 256 of 68 KiB; untouched pages cost nothing.
    fn default() -> Self {
        PoolConfig {
            slot_bytes: 2048,
            slots: 8192,
            large_slot_bytes: 68 * 1024,
            large_slots: 256,
            huge_pages: true,
        }
    }
}

impl PoolConfig {
    /// `slots` small slots of 2 KiB and no large ones.
    pub fn small(slots: usize) -> Self {
        PoolConfig { slots, large_slots: 0, huge_pages: false, ..PoolConfig::default() }
    }
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Small slots in all.
    pub slots: usize,
    /// Small slots that are out, but for those that a device keeps to fill them.
    pub slots_out: usize,
    /// Large slots in all.
    pub large_slots: usize,
    /// Large slots that are out.
    pub large_slots_out: usize,
    /// Allocations refused because no slot was free.
    pub exhausted: u64,
    /// Whether the memory lies on huge pages.
    pub huge_pages: bool,
}

pub(super) struct Class {
    free: Cell<Option<NonNull<SlotHeader>>>,
    pub(super) out: Cell<u32>,
    pub(super) total: u32,
    /// Bytes of each data area.
    capacity: u32,
    stride: usize,
    first: NonNull<u8>,
    /// Slots handed out at least once; those beyond have no header yet, so that untouched pages stay untouched. In a pool that has
    /// a home: slots that are here, out or free, and not there.
    pub(super) fresh: Cell<u32>,
}

/// What the slots lie in.
pub(super) enum Memory {
    /// Mapped for this pool.
    Mapped(Region),
    /// A device's.
    #[cfg(feature = "dpdk")]
    Homed(Box<dyn Home>),
}

impl Memory {
    /// Where small slots come from and go to, if not from the pool's own region.
    #[cfg(feature = "dpdk")]
    pub(super) fn home(&self) -> Option<&dyn Home> {
        match self {
            Memory::Mapped(_) => None,
            Memory::Homed(home) => Some(&**home),
        }
    }

    fn huge_pages(&self) -> bool {
        match self {
            Memory::Mapped(region) => region.huge(),
            #[cfg(feature = "dpdk")]
            Memory::Homed(home) => home.huge_pages(),
        }
    }
}

pub(super) struct PoolInner {
    pub(super) small: Class,
    large: Class,
    handles: Cell<usize>,
    waiting: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
    exhausted: Cell<u64>,
    /// Small slots that are out to be filled by a device.
    #[cfg(feature = "xdp")]
    to_fill: Cell<u32>,
    pub(super) memory: Memory,
}

/// A handle to a region of slots. Cloning it is cheap; all clones are one pool.
///
/// ```
/// use demi_drivers::{Pool, PoolConfig};
/// let pool = Pool::new(&PoolConfig::small(64))?;
/// let mut buf = pool.alloc(5).expect("a fresh pool has slots");
/// buf.put_slice(b"hello");
/// let buf = buf.freeze();
/// let (he, llo) = buf.clone().split_at(2);
/// assert_eq!((&he[..], &llo[..]), (&b"he"[..], &b"llo"[..]));
/// drop((buf, he, llo));
/// assert_eq!(pool.stats().slots_out, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Pool {
    pub(super) inner: NonNull<PoolInner>,
}

impl Pool {
    /// Maps memory for `config` and cuts it into slots.
    ///
    /// # Errors
    /// `InvalidInput` when a slot is too small for its header and headroom or not a multiple of 64; otherwise what `mmap`
    /// said.
    pub fn new(config: &PoolConfig) -> io::Result<Pool> {
        let smallest = SLOT_HEADER + HEADROOM + 64;
        for (what, bytes, slots) in [
            ("slot_bytes", config.slot_bytes, config.slots),
            ("large_slot_bytes", config.large_slot_bytes, config.large_slots),
        ] {
            let fits = bytes >= smallest && bytes % 64 == 0 && bytes <= 1 << 30;
            if slots > 0 && !(fits && u32::try_from(slots).is_ok()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{what} = {bytes}: must be a multiple of 64 and at least {smallest}"),
                ));
            }
        }
        let small_bytes = config.slot_bytes.checked_mul(config.slots);
        let large_bytes = config.large_slot_bytes.checked_mul(config.large_slots);
        let total = small_bytes.zip(large_bytes).and_then(|(small, large)| small.checked_add(large));
        let (Some(small_bytes), Some(total)) = (small_bytes, total) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the pool is larger than the address space",
            ));
        };
        let region = Region::map(total, config.huge_pages).map_err(|error| {
            let PoolConfig { slots, slot_bytes, large_slots, large_slot_bytes, .. } = config;
            io::Error::new(
                error.kind(),
                format!(
                    "no memory for a pool of {slots} slots of {slot_bytes} bytes and {large_slots} of {large_slot_bytes}: \
                     {error}: take fewer"
                ),
            )
        })?;
        let class = |offset: usize, stride: usize, total: usize| Class {
            free: Cell::new(None),
            out: Cell::new(0),
            total: total as u32,
            capacity: stride.saturating_sub(SLOT_HEADER) as u32,
            stride,
            // SAFETY: `offset` is within the mapping: the small slots' bytes, which the region was sized for.
            first: unsafe { region.base().add(offset) },
            fresh: Cell::new(0),
        };
        let inner = PoolInner {
            small: class(0, config.slot_bytes, config.slots),
            large: class(small_bytes, config.large_slot_bytes, config.large_slots),
            handles: Cell::new(1),
            waiting: Cell::new(false),
            waiters: RefCell::new(Vec::new()),
            exhausted: Cell::new(0),
            #[cfg(feature = "xdp")]
            to_fill: Cell::new(0),
            memory: Memory::Mapped(region),
        };
        Ok(Pool { inner: NonNull::from(Box::leak(Box::new(inner))) })
    }

    /// A pool whose slots lie in a device's memory.
    ///
    /// # Safety
    /// As [`Pool::at_home`] says.
    #[cfg(feature = "dpdk")]
    pub(super) unsafe fn over(homed: Homed) -> Pool {
        let Homed { home, small, small_capacity, small_total, large, large_capacity } = homed;
        let class = |capacity: u32, total: u32| Class {
            free: Cell::new(None),
            out: Cell::new(0),
            total,
            capacity,
            stride: 0,
            first: NonNull::dangling(),
            fresh: Cell::new(0),
        };
        let inner = PoolInner {
            small: class(small_capacity, small_total),
            large: class(large_capacity, large.len() as u32),
            handles: Cell::new(1),
            waiting: Cell::new(false),
            waiters: RefCell::new(Vec::new()),
            exhausted: Cell::new(0),
            #[cfg(feature = "xdp")]
            to_fill: Cell::new(0),
            memory: Memory::Homed(home),
        };
        let pool = Pool { inner: NonNull::from(Box::leak(Box::new(inner))) };
        let inner = pool.inner();
        for (class, number, slots) in [(&inner.small, 0, small), (&inner.large, 1, large)] {
            for (index, slot) in slots.into_iter().enumerate() {
                let slot = slot.cast::<SlotHeader>();
                let header = SlotHeader {
                    refs: Cell::new(0),
                    capacity: class.capacity,
                    pool: pool.inner,
                    next: Cell::new(None),
                    class: number,
                    index: index as u32,
                };
                // SAFETY: the caller's promise: the header is 64-aligned memory that the device leaves alone.
                unsafe { slot.write(header) };
                if number == 1 {
                    class.fresh.set(class.fresh.get() + 1);
                    // SAFETY: a large slot is this pool's alone, and its header was just written.
                    unsafe { class.put_free(slot) };
                }
            }
        }
        pool
    }

    #[inline]
    pub(super) fn inner(&self) -> &PoolInner {
        // SAFETY: a handle keeps the `PoolInner` alive (rule 6), and only shared references to it are ever made.
        unsafe { self.inner.as_ref() }
    }

    /// An empty buffer with room for `capacity` bytes behind [`HEADROOM`]; `None` when no slot is free, or when `capacity`
    /// is more than [`max_capacity`](Self::max_capacity).
    #[inline]
    pub fn alloc(&self, capacity: usize) -> Option<BufMut> {
        let inner = self.inner();
        let needed = capacity.checked_add(HEADROOM)?;
        if needed <= inner.small.capacity as usize
            && let Some(slot) = inner.take(&inner.small, self.inner)
        {
            return Some(BufMut::from_free(slot, HEADROOM));
        }
        self.alloc_large(needed)
    }

    #[cold]
    #[inline(never)]
    fn alloc_large(&self, needed: usize) -> Option<BufMut> {
        let inner = self.inner();
        if needed <= inner.large.capacity as usize
            && let Some(slot) = inner.take(&inner.large, self.inner)
        {
            return Some(BufMut::from_free(slot, HEADROOM));
        }
        inner.exhausted.set(inner.exhausted.get() + 1);
        None
    }

    /// As [`alloc`](Self::alloc), for what can wait: `None` already when few slots are left, one in eight, up to 256. Those
    /// are for what must not wait for anybody: frames that arrive, acknowledgements and headers of frames that leave. Without
    /// them, a pool full of bytes to send would never hear that some have arrived.
    #[inline]
    pub fn alloc_spare(&self, capacity: usize) -> Option<BufMut> {
        if self.has_spare() {
            return self.alloc(capacity);
        }
        self.alloc_large(capacity.checked_add(HEADROOM)?)
    }

    /// Whether more slots are free than [`alloc_spare`](Self::alloc_spare) leaves.
    #[inline]
    pub fn has_spare(&self) -> bool {
        let small = &self.inner().small;
        small.total - small.out.get() > small.kept()
    }

    /// Whether so little is left that those who receive have to choose what they keep: a quarter.
    #[inline]
    pub fn is_scarce(&self) -> bool {
        let small = &self.inner().small;
        small.total - small.out.get() <= small.total / 4
    }

    /// Free slots, and how many of them [`alloc_spare`](Self::alloc_spare) leaves.
    pub fn left(&self) -> (usize, usize) {
        let small = &self.inner().small;
        ((small.total - small.out.get()) as usize, small.kept() as usize)
    }

    /// As [`alloc_spare`](Self::alloc_spare), waiting for a slot. Wakes whoever waits when one comes back.
    ///
    /// Cancel safe: giving up the wait loses nothing. Answers `None` at once when `capacity` is more than the pool's
    /// largest slot holds.
    pub fn poll_alloc_spare(&self, cx: &mut Context<'_>, capacity: usize) -> Poll<Option<BufMut>> {
        self.poll_with(cx, capacity, Self::alloc_spare)
    }

    /// As [`alloc`](Self::alloc), waiting for a slot. Wakes whoever waits when one comes back.
    ///
    /// Cancel safe: giving up the wait loses nothing. Answers `None` at once when `capacity` is more than the pool's
    /// largest slot holds.
    pub fn poll_alloc(&self, cx: &mut Context<'_>, capacity: usize) -> Poll<Option<BufMut>> {
        self.poll_with(cx, capacity, Self::alloc)
    }

    #[inline]
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        capacity: usize,
        alloc: fn(&Self, usize) -> Option<BufMut>,
    ) -> Poll<Option<BufMut>> {
        if capacity > self.max_capacity() {
            return Poll::Ready(None);
        }
        if let Some(buf) = alloc(self, capacity) {
            return Poll::Ready(Some(buf));
        }
        let inner = self.inner();
        let mut waiters = inner.waiters.borrow_mut();
        if !waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        inner.waiting.set(true);
        Poll::Pending
    }

    /// A buffer holding a copy of `bytes`; `None` when no slot is free or none is large enough.
    #[inline]
    pub fn copy_from_slice(&self, bytes: &[u8]) -> Option<super::Buf> {
        let inner = self.inner();
        if bytes.len() <= (inner.small.capacity as usize).saturating_sub(HEADROOM)
            && let Some(slot) = inner.take(&inner.small, self.inner)
        {
            return Some(BufMut::from_free(slot, HEADROOM).filled(bytes));
        }
        self.copy_from_slice_large(bytes)
    }

    #[cold]
    #[inline(never)]
    fn copy_from_slice_large(&self, bytes: &[u8]) -> Option<super::Buf> {
        let mut buf = self.alloc_large(bytes.len().checked_add(HEADROOM)?)?;
        buf.put_slice(bytes);
        Some(buf.freeze())
    }

    /// Bytes that fit in a small slot behind its headroom.
    #[inline]
    pub fn small_capacity(&self) -> usize {
        (self.inner().small.capacity as usize).saturating_sub(HEADROOM)
    }

    /// Bytes that fit in the largest slot behind its headroom.
    #[inline]
    pub fn max_capacity(&self) -> usize {
        let inner = self.inner();
        let large = if inner.large.total == 0 { 0 } else { inner.large.capacity };
        (inner.small.capacity.max(large) as usize).saturating_sub(HEADROOM)
    }

    /// How full the pool is.
    pub fn stats(&self) -> PoolStats {
        let inner = self.inner();
        PoolStats {
            slots: inner.small.total as usize,
            slots_out: inner.slots_out(),
            large_slots: inner.large.total as usize,
            large_slots_out: inner.large.out.get() as usize,
            exhausted: inner.exhausted.get(),
            huge_pages: inner.memory.huge_pages(),
        }
    }

    /// First byte and length of the pool's memory, for registering it with a device. That of a pool whose memory is a device's already
    /// is of no length.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        match &self.inner().memory {
            Memory::Mapped(region) => (region.base(), region.bytes()),
            #[cfg(feature = "dpdk")]
            Memory::Homed(_) => (NonNull::dangling(), 0),
        }
    }

    /// Whether all of `part` lies in [`region`](Self::region).
    #[cfg(any(test, feature = "rdma", fuzzing))]
    #[inline]
    pub(crate) fn covers(&self, part: &[u8]) -> bool {
        let (base, bytes) = self.region();
        let from = part.as_ptr().addr().wrapping_sub(base.as_ptr().addr());
        from < bytes && part.len() <= bytes - from
    }
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        let inner = self.inner();
        inner.handles.set(inner.handles.get() + 1);
        Pool { inner: self.inner }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let inner = self.inner();
        inner.handles.set(inner.handles.get() - 1);
        // SAFETY: `self.inner` came from `Box::leak` and this handle, just given up, kept it alive until here.
        unsafe { PoolInner::release_if_unused(self.inner) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

impl PoolInner {
    #[inline]
    fn take(&self, class: &Class, pool: NonNull<PoolInner>) -> Option<NonNull<SlotHeader>> {
        let slot = match class.free.get() {
            Some(slot) => {
                // SAFETY: a slot on the free list has a written header and no other user (rule 1).
                class.free.set(unsafe { slot.as_ref() }.next.get());
                slot
            }
            None => class.carve(pool, core::ptr::eq(class, &self.large))?,
        };
        // SAFETY: as above; nobody else looks at a free slot's count.
        unsafe { slot.as_ref() }.refs.set(1);
        class.out.set(class.out.get() + 1);
        Some(slot)
    }

    /// Puts a slot that nothing shows any more back on its free list, and frees the pool if that was the last user.
    ///
    /// # Safety
    /// `slot` is out, of this pool, and nothing will use it any more.
    #[inline]
    pub(super) unsafe fn give_back(slot: NonNull<SlotHeader>) {
        // SAFETY: the caller's promise; an outstanding slot keeps its pool alive (rule 6).
        let (header, inner) = unsafe { (slot.as_ref(), slot.as_ref().pool.as_ref()) };
        let class = if header.class == 0 { &inner.small } else { &inner.large };
        header.next.set(class.free.get());
        class.free.set(Some(slot));
        class.out.set(class.out.get() - 1);
        if inner.waiting.get() || inner.handles.get() == 0 {
            // SAFETY: the header's pool is alive until this very call may release it.
            unsafe { PoolInner::given_back_cold(header.pool) };
        }
    }

    /// # Safety
    /// `inner` is alive.
    #[cold]
    #[inline(never)]
    unsafe fn given_back_cold(inner: NonNull<PoolInner>) {
        // SAFETY: alive, says the caller, and the handle taken here keeps it so while wakers run foreign code, which may
        // drop every other handle and slot.
        let waiters = unsafe {
            let inner = inner.as_ref();
            inner.handles.set(inner.handles.get() + 1);
            inner.waiting.set(false);
            core::mem::take(&mut *inner.waiters.borrow_mut())
        };
        for waker in waiters {
            waker.wake();
        }
        // SAFETY: kept alive by the handle above, which is given up here; this is the last use.
        unsafe {
            inner.as_ref().handles.set(inner.as_ref().handles.get() - 1);
            PoolInner::release_if_unused(inner);
        }
    }

    /// # Safety
    /// `inner` is alive; not used by the caller afterwards unless it holds a handle or a slot.
    unsafe fn release_if_unused(inner: NonNull<PoolInner>) {
        // SAFETY: alive, says the caller.
        let unused = unsafe {
            let inner = inner.as_ref();
            inner.handles.get() == 0 && inner.small.out.get() == 0 && inner.large.out.get() == 0
        };
        if unused {
            #[cfg(feature = "dpdk")]
            // SAFETY: alive, says the caller.
            unsafe { inner.as_ref() }.give_home(0);
            // SAFETY: it came from `Box::leak`, and with no handle and no slot out nothing can reach it any more.
            drop(unsafe { Box::from_raw(inner.as_ptr()) });
        }
    }
}

#[cfg(feature = "xdp")]
impl Pool {
    /// Takes a small slot, and no large one in its place.
    #[inline]
    pub(super) fn take_small(&self) -> Option<NonNull<SlotHeader>> {
        let inner = self.inner();
        inner.take(&inner.small, self.inner)
    }
}

impl PoolInner {
    /// Small slots that somebody uses.
    fn slots_out(&self) -> usize {
        let out = self.small.out.get();
        #[cfg(feature = "xdp")]
        let out = out - self.to_fill.get();
        out as usize
    }
}

#[cfg(feature = "xdp")]
impl PoolInner {
    /// A device has one small slot more to fill, or one less.
    #[inline]
    pub(super) fn count_to_fill(&self, more: bool) {
        let count = self.to_fill.get();
        self.to_fill.set(if more { count + 1 } else { count.saturating_sub(1) });
    }

    /// The large slots.
    pub(super) fn large(&self) -> &Class {
        &self.large
    }
}

#[cfg(feature = "xdp")]
impl Class {
    /// Where the first slot begins.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.first
    }

    /// Bytes from one slot to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

impl Class {
    /// Slots that are not for what can wait.
    #[inline]
    fn kept(&self) -> u32 {
        (self.total / 8).min(256)
    }

    /// Takes a slot off the free list.
    #[cfg(feature = "dpdk")]
    pub(super) fn take_free(&self) -> Option<NonNull<SlotHeader>> {
        let slot = self.free.get()?;
        // SAFETY: a slot on the free list has a written header and no other user (rule 1).
        self.free.set(unsafe { slot.as_ref() }.next.get());
        Some(slot)
    }

    /// Puts a slot on the free list.
    ///
    /// # Safety
    /// It is of this class, has its header, and nobody else uses it.
    #[cfg(feature = "dpdk")]
    pub(super) unsafe fn put_free(&self, slot: NonNull<SlotHeader>) {
        // SAFETY: nobody else uses the slot, says the caller.
        unsafe { slot.as_ref() }.next.set(self.free.get());
        self.free.set(Some(slot));
    }

    /// Writes the header of the next slot that was never used.
    #[cold]
    #[inline(never)]
    fn carve(&self, pool: NonNull<PoolInner>, large: bool) -> Option<NonNull<SlotHeader>> {
        #[cfg(feature = "dpdk")]
        {
            // SAFETY: the pool is alive: this is one of its classes.
            let inner = unsafe { pool.as_ref() };
            if let Some(home) = inner.memory.home() {
                return if large { None } else { inner.fetch(home) };
            }
        }
        let index = self.fresh.get();
        if index == self.total {
            return None;
        }
        self.fresh.set(index + 1);
        // SAFETY: `index < total` slots of `stride` bytes lie in the region, which was mapped for them.
        let slot = unsafe { self.first.add(index as usize * self.stride) }.cast::<SlotHeader>();
        let header = SlotHeader {
            refs: Cell::new(0),
            capacity: self.capacity,
            pool,
            next: Cell::new(None),
            class: u32::from(large),
            index,
        };
        // SAFETY: the slot is mapped, 64-aligned (page-aligned base, strides of 64), and nobody's yet.
        unsafe { slot.write(header) };
        Some(slot)
    }
}
