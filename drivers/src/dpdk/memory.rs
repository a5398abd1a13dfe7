//! A queue's packet memory, made by DPDK: what a [`Pool`](crate::Pool)'s slots lie in.
//!
//! A small slot is what follows an mbuf: the slot's header fills the mbuf's private area, and its data area is the mbuf's room.
//! So the way from a received mbuf to a `Buf`, and back, is an addition:
//!
//! ```text
//!  mbuf ─► ┌───────────┬────────────┬──────────────────────────────┐
//!          │ rte_mbuf  │ SlotHeader │  room: headroom, frame, tail │
//!          │ 128 bytes │  64 bytes  │                              │
//!          └───────────┴────────────┴──────────────────────────────┘
//!                slot ─►            ▲ buf_addr
//! ```
//!
//! Large slots are plain pieces of DPDK's memory, and *envelopes* are mbufs without room of their own, which what cannot be given
//! away is attached to. This file owns the three allocators; it knows nothing of ports.

use std::ffi::{CString, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use demi_dpdk_sys as sys;

use super::eal::{self, Eal};
use super::explain;
use crate::mem::home::{BULK, Home, Homed};
use crate::mem::lend::Lent;
use crate::mem::{HEADROOM, PoolConfig, SLOT_HEADER};

/// Bytes of `struct rte_mbuf`: two cache lines.
pub(super) const MBUF_BYTES: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_MBUF_BYTES as usize;
/// What DPDK leaves free in front of a received frame.
const DPDK_HEADROOM: usize = 128;
/// Receive buffers have at least this many bytes: hardware takes them in whole KiB.
const LEAST_ROOM: usize = 2048;
/// Ethernet header, two VLAN tags and the checksum that some NICs leave behind the frame.
const FRAME_OVERHEAD: usize = 26;
/// The longest room that an mbuf tells of.
const LONGEST_ROOM: usize = 65_472;
/// Mbufs that DPDK keeps at hand for a thread.
const CACHE: usize = 256;
/// More than any frame has parts, for the burst under way.
const BURST_ENVELOPES: usize = 1024;

/// Buffers that were not back when their memory was freed, since the process began.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Buffers that a device has kept when it was closed, since the process began. Anything but 0 is an error, here or in DPDK's driver.
pub fn lost_buffers() -> usize {
    LOST.load(Ordering::Relaxed)
}

/// One of DPDK's allocators.
#[derive(Debug)]
struct Mempool {
    raw: NonNull<sys::rte_mempool>,
    count: usize,
}

impl Mempool {
    fn available(&self) -> usize {
        // SAFETY: the allocator lives as long as `self`.
        unsafe { sys::demi_dpdk_pool_available(self.raw.as_ptr()) as usize }
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        let missing = self.count.saturating_sub(self.available());
        if missing > 0 {
            // Whoever has them still (frames in a ring that another port will receive) reads them: the memory has to stay.
            LOST.fetch_add(missing, Ordering::Relaxed);
            return;
        }
        // SAFETY: made by DPDK, and nobody has anything of it any more.
        unsafe { sys::demi_dpdk_pool_free(self.raw.as_ptr()) };
    }
}

/// Views that other threads have finished with: two of our queues joined by a ring free each other's.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// The thread that the queue's slots belong to, by an address that no other thread has.
    owner: AtomicUsize,
    pending: AtomicBool,
    slots: Mutex<Vec<usize>>,
}

thread_local! {
    static MARK: u8 = const { 0 };
}

fn this_thread() -> usize {
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

impl Returns {
    /// What is told to the envelopes' callback.
    pub(super) fn context(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Makes the calling thread the owner.
    pub(super) fn own(&self) {
        self.owner.store(this_thread(), Ordering::Relaxed);
    }

    /// Whether [`drain`](Self::drain) has something to do.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Drops the views that others have finished with. For the owner.
    #[cold]
    pub(super) fn drain(&self) {
        self.pending.store(false, Ordering::Relaxed);
        let slots = std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in slots {
            // SAFETY: pushed by `done`, once for each view, whose envelope was freed; and this is the owner's thread.
            unsafe { Lent::from_raw(slot as *mut u8).end() };
        }
    }
}

/// DPDK is done with a view.
///
/// # Safety
/// For envelopes only: `context` is the `Returns` of the slot's queue, `slot` a view that was lent.
pub(super) unsafe extern "C" fn done(context: *mut c_void, slot: *mut c_void) {
    // SAFETY: the memory that the `Returns` belong to outlives its envelopes.
    let returns = unsafe { &*context.cast::<Returns>() };
    if returns.owner.load(Ordering::Relaxed) == this_thread() {
        // SAFETY: the envelope that held the view is being freed, and this is the pool's thread.
        unsafe { Lent::from_raw(slot.cast()).end() };
        return;
    }
    returns.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot as usize);
    returns.pending.store(true, Ordering::Relaxed);
}

/// A queue's allocators.
#[derive(Debug)]
pub(super) struct Memory {
    small: Mempool,
    envelopes: Mempool,
    large: Option<Mempool>,
    small_room: usize,
    large_room: usize,
    slots: usize,
    pub(super) returns: Returns,
    /// Last: the allocators go before DPDK does.
    _eal: Eal,
}

// SAFETY: DPDK's allocators are for use by many threads at once (rte_mempool.h); all else is plain data and atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// What a queue needs.
#[derive(Clone, Debug)]
pub(super) struct MemoryConfig<'a> {
    /// The device's name, for messages.
    pub(super) name: &'a str,
    /// The port and queue it is for.
    pub(super) port: u16,
    pub(super) queue: u16,
    pub(super) mtu: u16,
    pub(super) rx_descriptors: u16,
    pub(super) tx_descriptors: u16,
    /// The NUMA node; negative: any.
    pub(super) socket: i32,
    pub(super) pool: &'a PoolConfig,
}

impl Memory {
    /// Makes the allocators.
    pub(super) fn new(eal: &Eal, config: &MemoryConfig<'_>) -> io::Result<Arc<Memory>> {
        let pool = config.pool;
        let room = (DPDK_HEADROOM + LEAST_ROOM)
            .max((HEADROOM + usize::from(config.mtu) + FRAME_OVERHEAD).next_multiple_of(64))
            .max(pool.slot_bytes.saturating_sub(SLOT_HEADER).next_multiple_of(64))
            .min(LONGEST_ROOM);
        // What waits in the rings and in DPDK's cache is not the application's.
        let rings = usize::from(config.rx_descriptors) + usize::from(config.tx_descriptors);
        let small = pool.slots.max(64) + rings + 2 * CACHE;
        let envelopes = usize::from(config.tx_descriptors) + BURST_ENVELOPES + 2 * CACHE;
        let large_bytes = pool.large_slot_bytes.next_multiple_of(64);
        let what = |count: usize, bytes: usize| {
            format!(
                "{}: no memory for {count} buffers of {bytes} bytes: fewer with pool_slots or pool_large_slots, more with \
                 -m or vm.nr_hugepages",
                config.name
            )
        };
        let create = |kind: char, count: usize, bytes: usize| -> io::Result<Mempool> {
            static SERIAL: AtomicUsize = AtomicUsize::new(0);
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let name = format!("demi{}.{}.{serial}{kind}", config.port, config.queue);
            let name = CString::new(name).map_err(io::Error::other)?;
            let number = u32::try_from(count).map_err(|_| io::Error::other(what(count, bytes)))?;
            let mut error = 0;
            // SAFETY: DPDK runs; the name lives until the calls are over, which copy it.
            let raw = unsafe {
                match kind {
                    's' => sys::demi_dpdk_slots_create(
                        name.as_ptr(),
                        number,
                        CACHE as u32,
                        bytes as u16,
                        config.socket,
                        &raw mut error,
                    ),
                    'e' => sys::demi_dpdk_envelopes_create(
                        name.as_ptr(),
                        number,
                        CACHE as u32,
                        config.socket,
                        &raw mut error,
                    ),
                    _ => sys::demi_dpdk_pieces_create(
                        name.as_ptr(),
                        number,
                        bytes as u32,
                        config.socket,
                        &raw mut error,
                    ),
                }
            };
            match NonNull::new(raw) {
                Some(raw) => Ok(Mempool { raw, count }),
                None => Err(explain::error(&what(count, bytes), error, &eal::take_log())),
            }
        };
        let large = match pool.large_slots {
            0 => None,
            count => Some(create('l', count, large_bytes)?),
        };
        Ok(Arc::new(Memory {
            small: create('s', small, room)?,
            envelopes: create('e', envelopes, MBUF_BYTES)?,
            large,
            small_room: room,
            large_room: large_bytes.saturating_sub(SLOT_HEADER),
            slots: pool.slots.max(64),
            returns: Returns::default(),
            _eal: eal.again(),
        }))
    }

    /// Where frames are received.
    pub(super) fn small(&self) -> *mut sys::rte_mempool {
        self.small.raw.as_ptr()
    }

    /// Mbufs that views are attached to.
    pub(super) fn envelopes(&self) -> *mut sys::rte_mempool {
        self.envelopes.raw.as_ptr()
    }

    /// The memory as a pool wants it. To be called once.
    pub(super) fn homed(self: &Arc<Memory>) -> io::Result<Homed> {
        unsafe extern "C" fn visit(context: *mut c_void, object: *mut c_void, _index: u32) {
            // SAFETY: `context` is the vector below, which nobody else uses meanwhile.
            let slots = unsafe { &mut *context.cast::<Vec<NonNull<u8>>>() };
            // SAFETY: the element is an mbuf with its slot behind it, and not null.
            slots.push(unsafe { NonNull::new_unchecked(object.cast::<u8>().add(MBUF_BYTES)) });
        }
        let mut small: Vec<NonNull<u8>> = Vec::with_capacity(self.small.count);
        // SAFETY: `visit` is given the vector and each of the allocator's elements.
        unsafe { sys::demi_dpdk_pool_each(self.small(), Some(visit), std::ptr::from_mut(&mut small).cast()) };
        let mut pieces = Vec::new();
        if let Some(large) = &self.large {
            pieces.resize(large.count, std::ptr::null_mut());
            // SAFETY: the vector has that many places.
            let taken = unsafe {
                sys::demi_dpdk_pool_get(large.raw.as_ptr(), pieces.as_mut_ptr(), large.count as u32)
            };
            if taken != 0 {
                return Err(io::Error::other("dpdk: the memory of a queue was asked for twice"));
            }
        }
        Ok(Homed {
            small,
            small_capacity: self.small_room as u32,
            small_total: self.slots as u32,
            large: pieces.iter().filter_map(|piece| NonNull::new(piece.cast())).collect(),
            large_capacity: self.large_room as u32,
            home: Box::new(MempoolHome { memory: Arc::clone(self), pieces }),
        })
    }
}

/// The allocators behind a pool.
struct MempoolHome {
    memory: Arc<Memory>,
    pieces: Vec<*mut c_void>,
}

// SAFETY: an allocator's elements are handed to one caller at a time, all of them were named by `homed`, and the allocators live as
// long as the `Memory` that is held here.
unsafe impl Home for MempoolHome {
    fn take(&self, slots: &mut [*mut u8; BULK]) -> bool {
        // SAFETY: `slots` has that many places.
        let taken =
            unsafe { sys::demi_dpdk_pool_get(self.memory.small(), slots.as_mut_ptr().cast(), BULK as u32) };
        if taken != 0 {
            return false;
        }
        for slot in slots {
            *slot = slot.wrapping_add(MBUF_BYTES);
        }
        true
    }

    fn take_one(&self) -> Option<NonNull<u8>> {
        let mut mbuf = std::ptr::null_mut();
        // SAFETY: one place for one element.
        let taken = unsafe { sys::demi_dpdk_pool_get(self.memory.small(), &raw mut mbuf, 1) };
        if taken == 0 { NonNull::new(mbuf.cast::<u8>().wrapping_add(MBUF_BYTES)) } else { None }
    }

    fn give(&self, slots: &[*mut u8]) {
        let mut mbufs = [std::ptr::null_mut::<c_void>(); BULK];
        for slots in slots.chunks(BULK) {
            for (mbuf, slot) in mbufs.iter_mut().zip(slots) {
                *mbuf = slot.wrapping_sub(MBUF_BYTES).cast();
            }
            // SAFETY: these are elements of this allocator that are ours alone, and as such as it wants them: one reference, one
            // segment, nothing attached.
            unsafe { sys::demi_dpdk_pool_put(self.memory.small(), mbufs.as_ptr(), slots.len() as u32) };
        }
    }

    fn huge_pages(&self) -> bool {
        // SAFETY: DPDK runs as long as its memory is there.
        unsafe { sys::demi_dpdk_huge_pages() }
    }
}

impl Drop for MempoolHome {
    fn drop(&mut self) {
        if let Some(large) = &self.memory.large {
            // SAFETY: the pool is gone, and with it every user of the pieces, which came from this allocator.
            unsafe {
                sys::demi_dpdk_pool_put(large.raw.as_ptr(), self.pieces.as_ptr(), self.pieces.len() as u32);
            }
        }
    }
}
