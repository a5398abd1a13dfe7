//! Bursts: frames from DPDK as `Buf`s, and `Buf`s to DPDK as frames.
//!
//! What is received is adopted where it lies. What is sent goes whole if nobody else looks at its slot: the mbuf in front of it is
//! handed over, and DPDK gives it back to the allocator. If somebody does (what TCP may have to send again), or if the slot
//! is a large one, an envelope shows it, and keeps one view until DPDK is through.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::time::{Duration, Instant as Clock};

use demi_dpdk_sys as sys;

use super::eal::Attached;
use super::mbuf::Mbuf;
use super::memory::{self, MBUF_BYTES};
use super::port::{BURST, Port};
use super::queue::DpdkQueue;
use super::wait::Interrupt;
use super::{DpdkConfig, Link, offload};
use crate::device::{Capabilities, Device, DeviceStats, RxFrame, TxFrame, TxQueue};
use crate::mem::home::SlotClass;
use crate::mem::{Buf, Pool};
use crate::time::Instant;

/// Free slots that stay with the pool when it gives others back.
const KEEP: usize = 128;
/// Bytes of a segment at most, so that its length fits an mbuf.
const SEGMENT_BYTES: usize = 32 * 1024;
/// Bursts that found nothing between two looks at whether the hardware is there.
const IDLE_POLLS: u32 = 1 << 16;
/// How long closing a queue waits for frames that other queues' port still has.
const CLOSE_WAIT: Duration = Duration::from_millis(100);

/// A queue of a DPDK port. See the [module](super).
pub struct Dpdk {
    // Dropped in this order, see `Drop`: the port closes while the pool is there to take its slots back.
    queue: Option<DpdkQueue>,
    pool: Pool,
    number: u16,
    index: u16,
    small: *mut sys::rte_mempool,
    envelopes: *mut sys::rte_mempool,
    returns: *mut c_void,
    capabilities: Capabilities,
    name: String,
    scratch: [*mut sys::rte_mbuf; BURST],
    frames: Frames,
    idle_polls: u32,
    interrupt: Interrupt,
    stats: DeviceStats,
    _attached: Attached,
}

/// Frames about to be sent.
struct Frames {
    mbufs: [*mut sys::rte_mbuf; BURST],
    count: usize,
    /// Of each part of each frame of several parts, in order: its slot goes with it.
    whole: Vec<bool>,
    /// The driver has to look at them first.
    prepare: bool,
}

impl Dpdk {
    /// Opens a port, starting DPDK if this is the first, and answers its first queue's device.
    ///
    /// # Errors
    /// One line with cause and cure: what DPDK says of its arguments, memory and devices (`InvalidInput`, `OutOfMemory`,
    /// `PermissionDenied`); `NotFound` when there is no such port; `AddrInUse` when it is open already.
    pub fn open(config: &DpdkConfig) -> io::Result<Dpdk> {
        let first = Dpdk::open_queues(config)?.into_iter().next();
        first.ok_or_else(|| io::Error::other("dpdk: the port has no queue"))?.start()
    }

    /// As [`open`](Self::open), with all queues that the device string (`queues=`) or `config` asks for: one for each thread to
    /// [`start`](DpdkQueue::start). The port is closed with the last of them.
    ///
    /// ```no_run
    /// use demi_drivers::dpdk::{Dpdk, DpdkConfig};
    /// let config = DpdkConfig { queues: 4, ..DpdkConfig::new("-a 0000:00:04.0") };
    /// for queue in Dpdk::open_queues(&config)? {
    ///     std::thread::spawn(move || {
    ///         let device = queue.start()?;
    ///         // …a stack over it, and a loop that polls that.
    ///         # drop(device);
    ///         std::io::Result::Ok(())
    ///     });
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_queues(config: &DpdkConfig) -> io::Result<Vec<DpdkQueue>> {
        Ok(DpdkQueue::all(Port::open(config)?))
    }

    /// As [`open`](Self::open), for one of several threads that share a port: queue `index` of those that `config` asks for. Whichever thread
    /// comes first opens the port; the others name the same arguments and find theirs.
    ///
    /// # Errors
    /// As [`open`](Self::open); `InvalidInput` when the port has no such queue.
    pub fn open_shared(config: &DpdkConfig, index: u16) -> io::Result<Dpdk> {
        super::queue::shared(config, index)?.start()
    }

    pub(super) fn over(queue: DpdkQueue) -> io::Result<Dpdk> {
        let attached = Attached::here();
        let memory = &queue.memory;
        memory.returns.own();
        // SAFETY: the memory's slots are as a pool wants them: behind an mbuf, or pieces of their own, 64-aligned, and headers
        // are mbufs' private areas, which DPDK leaves to us.
        let pool = unsafe { Pool::at_home(memory.homed()?) };
        let mut capabilities = queue.port.capabilities.clone();
        if let Some(spread) = &mut capabilities.spread {
            spread.queue = queue.index;
        }
        Ok(Dpdk {
            pool,
            number: queue.port.number,
            index: queue.index,
            small: memory.small(),
            envelopes: memory.envelopes(),
            returns: memory.returns.context(),
            capabilities,
            name: queue.port.name.clone(),
            scratch: [null_mut(); BURST],
            frames: Frames { mbufs: [null_mut(); BURST], count: 0, whole: Vec::new(), prepare: false },
            idle_polls: 0,
            interrupt: Interrupt::of(
                queue.port.number,
                queue.index,
                &queue.port.driver,
                queue.port.interrupts,
            ),
            stats: DeviceStats::default(),
            queue: Some(queue),
            _attached: attached,
        })
    }

    fn port(&self) -> Option<&Port> {
        self.queue.as_ref().map(|queue| &*queue.port)
    }

    /// The driver's name: `net_af_packet`, `net_ixgbe`.
    pub fn driver(&self) -> &str {
        self.port().map_or("", |port| &port.driver)
    }

    /// The state of the link now, if the driver knows it.
    pub fn link(&self) -> Option<Link> {
        self.port()?.link()
    }

    /// All counters of the driver's, by its names for them, those of other queues included. Takes a moment.
    pub fn extended_stats(&self) -> Vec<(String, u64)> {
        self.port().map_or(Vec::new(), Port::extended)
    }

    /// The port's number, and where it receives.
    #[cfg(feature = "dpdk-rings")]
    pub(super) fn raw(&self) -> (u16, *mut sys::rte_mempool) {
        (self.number, self.small)
    }

    /// Looks whether the hardware is there.
    #[cold]
    fn check(&mut self) -> io::Result<()> {
        self.idle_polls = 0;
        // SAFETY: the port is open.
        if unsafe { sys::demi_dpdk_port_removed(self.number) } {
            let message = format!("{}: the device was removed", self.name);
            return Err(io::Error::new(io::ErrorKind::NotConnected, message));
        }
        // Drivers give back what was sent when something new is to be sent; who waits for memory sends nothing.
        // SAFETY: the queue is this thread's.
        unsafe { sys::demi_dpdk_tx_done(self.number, self.index) };
        Ok(())
    }

    /// A copy of a frame that is not one whole mbuf of ours; the original goes back to where it came from.
    #[cold]
    fn copied(&mut self, mbuf: *mut sys::rte_mbuf, bytes: usize) -> Option<Buf> {
        let copy = self.pool.alloc(bytes).map(|mut slot| {
            // SAFETY: the slot has room for that many bytes, which are those of all the mbuf's segments.
            unsafe { sys::demi_dpdk_copy(mbuf, slot.tail_mut().as_mut_ptr().cast()) };
            slot.grow(bytes);
            slot.freeze()
        });
        // SAFETY: it was received, and is ours to free, once.
        unsafe { sys::demi_dpdk_free(mbuf) };
        copy
    }

    /// Makes frames of what is at the front of `queue`, a burst at most.
    #[inline]
    fn build(&mut self, queue: &TxQueue) {
        self.frames.count = 0;
        self.frames.whole.clear();
        self.frames.prepare = false;
        for frame in queue.iter().take(BURST) {
            let mbuf = match frame.single() {
                Some(part) => match self.whole(part) {
                    Some(mbuf) => Some(mbuf),
                    None => self.enveloped(part),
                },
                None => self.chain(&frame),
            };
            let Some(mbuf) = mbuf else { break };
            if frame.offload.checksum.is_some() {
                self.ask(&frame, mbuf);
            }
            self.frames.mbufs[self.frames.count] = mbuf;
            self.frames.count += 1;
        }
    }

    /// Tells the driver what to do on a frame.
    fn ask(&mut self, frame: &TxFrame<'_>, head: *mut sys::rte_mbuf) {
        if let Some(first) = frame.parts().next()
            && let Some(ask) = offload::of(&frame.offload, first)
        {
            // SAFETY: the mbuf is ours.
            unsafe { sys::demi_dpdk_ask(head, &raw const ask) };
            self.frames.prepare = true;
        }
    }

    /// The mbuf in front of the slot of `part`, if it can go with it: nobody else looks at it.
    #[inline]
    fn whole(&self, part: &Buf) -> Option<*mut sys::rte_mbuf> {
        if !part.is_unique() || self.pool.class_of(part) != Some(SlotClass::Small) {
            return None;
        }
        let mbuf = mbuf_of(part);
        // SAFETY: a small slot of ours has its mbuf in front. Only the queue's view shows it, which is given up once the frame
        // is sent, so that the mbuf is ours to write, and then DPDK's.
        unsafe { Mbuf::new(mbuf) }.show(part.headroom(), part.len());
        Some(mbuf)
    }

    /// A frame of several parts.
    fn chain(&mut self, frame: &TxFrame<'_>) -> Option<*mut sys::rte_mbuf> {
        let parts = frame.parts();
        let count = parts.len();
        if count > self.capabilities.max_parts {
            // More than the device gathers: one part, by copy.
            let bytes = frame.len();
            let mut slot = self.pool.alloc(bytes)?;
            frame.copy_to(slot.tail_mut());
            slot.grow(bytes);
            let head = self.enveloped(&slot.freeze())?;
            self.frames.whole.resize(self.frames.whole.len() + count, false);
            return Some(head);
        }
        let (mut head, mut last): (*mut sys::rte_mbuf, *mut sys::rte_mbuf) = (null_mut(), null_mut());
        for part in parts {
            let whole = self.whole(part);
            let Some(mbuf) = whole.or_else(|| self.enveloped(part)) else {
                if !head.is_null() {
                    // SAFETY: a frame of ours that is not sent.
                    unsafe { sys::demi_dpdk_undo(head) };
                }
                return None;
            };
            self.frames.whole.push(whole.is_some());
            if head.is_null() {
                head = mbuf;
            } else {
                // SAFETY: all three are of this frame, which is ours.
                unsafe { sys::demi_dpdk_chain(head, last, mbuf) };
            }
            // SAFETY: a chain that was just made.
            last = unsafe { sys::demi_dpdk_last(mbuf) };
        }
        Some(head)
    }

    /// Envelopes that show `part`, which stays out until DPDK is done with them.
    fn enveloped(&mut self, part: &Buf) -> Option<*mut sys::rte_mbuf> {
        let class = match self.pool.class_of(part) {
            Some(class) => class,
            // Another transport's memory, which this device cannot read.
            None => return self.enveloped(&self.pool.copy_from_slice(part)?),
        };
        let mut head: *mut sys::rte_mbuf = null_mut();
        let mut last: *mut sys::rte_mbuf = null_mut();
        for bytes in part.chunks(SEGMENT_BYTES) {
            let lent = part.lend();
            // SAFETY: the bytes lie in the slot, and stay as they are until the view that was lent is ended, which `done` does.
            // The slot is an mbuf's room, or a piece, as `class` says.
            let mbuf = unsafe {
                sys::demi_dpdk_envelope(
                    self.envelopes,
                    lent.into_raw().cast(),
                    class == SlotClass::Large,
                    bytes.as_ptr().cast_mut().cast(),
                    bytes.len() as u16,
                    Some(memory::done),
                    self.returns,
                )
            };
            if mbuf.is_null() {
                // SAFETY: no envelope holds the view. The frame, as far as there is one, is not sent.
                unsafe {
                    lent.end();
                    if !head.is_null() {
                        sys::demi_dpdk_undo(head);
                    }
                }
                return None;
            }
            if head.is_null() {
                head = mbuf;
            } else {
                // SAFETY: a chain of our own envelopes.
                unsafe { sys::demi_dpdk_chain(head, last, mbuf) };
            }
            last = mbuf;
        }
        (!head.is_null()).then_some(head)
    }

    /// Takes the first `sent` frames off the queue. Nothing is touched of slots that went with them.
    #[inline]
    fn take(&mut self, queue: &mut TxQueue, sent: usize) {
        let Dpdk { frames, pool, stats, .. } = self;
        let mut whole = frames.whole.iter();
        let mut bytes = 0;
        for mbuf in &frames.mbufs[..sent] {
            if queue.front().is_some_and(|frame| frame.single().is_some()) {
                queue.pop_with(|part| {
                    bytes += part.len();
                    if mbuf_of(&part) == *mbuf { pool.surrender(part) } else { drop(part) }
                });
                continue;
            }
            queue.pop_with(|part| {
                bytes += part.len();
                if whole.next() == Some(&true) { pool.surrender(part) } else { drop(part) }
            });
        }
        stats.tx_frames += sent as u64;
        stats.tx_bytes += bytes as u64;
    }

    /// Gives the driver a burst. Answers how many frames it took, and whether it refuses the one behind them for good.
    #[inline]
    fn send(&mut self) -> (usize, bool) {
        let Frames { mbufs, count, prepare, .. } = &mut self.frames;
        let count = *count as u16;
        // SAFETY: the queue is this thread's, and `mbufs` are that many frames, each a chain of ours. Of those that are taken nothing
        // is touched afterwards.
        let (ready, sent) = unsafe {
            let ready = match *prepare {
                true => sys::demi_dpdk_tx_prepare(self.number, self.index, mbufs.as_mut_ptr(), count),
                false => count,
            };
            (ready, sys::demi_dpdk_tx(self.number, self.index, mbufs.as_mut_ptr(), ready))
        };
        for mbuf in &mbufs[usize::from(sent)..usize::from(count)] {
            // SAFETY: neither sent nor freed by the driver, so still ours.
            unsafe { sys::demi_dpdk_undo(*mbuf) };
        }
        (usize::from(sent), sent == ready && ready < count)
    }
}

/// Where the mbuf of a small slot lies.
#[inline]
fn mbuf_of(part: &Buf) -> *mut sys::rte_mbuf {
    part.slot_start().as_ptr().wrapping_sub(MBUF_BYTES).cast()
}

impl Device for Dpdk {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn rx_burst(&mut self, _now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        // SAFETY: the memory that the `Returns` belong to lives as long as the queue.
        let returns = unsafe { &*self.returns.cast::<memory::Returns>() };
        if returns.is_pending() {
            returns.drain();
        }
        if self.interrupt.is_armed() {
            self.interrupt.disarm();
        }
        // Without slots for them frames stay in the ring, and the NIC counts what it has no room for.
        let max = max.min(BURST).min(self.pool.adoptable());
        if max == 0 {
            return Ok(0);
        }
        // SAFETY: the queue is this thread's, and the array has room for a burst.
        let count =
            unsafe { sys::demi_dpdk_rx(self.number, self.index, self.scratch.as_mut_ptr(), max as u16) };
        if count == 0 {
            self.idle_polls += 1;
            if self.idle_polls >= IDLE_POLLS {
                self.check()?;
            }
            return Ok(0);
        }
        self.idle_polls = 0;
        let before = into.len();
        let mut total = 0;
        for at in 0..usize::from(count) {
            let raw = self.scratch[at];
            // SAFETY: it was received, and is ours.
            let mbuf = unsafe { Mbuf::new(raw) };
            let (bytes, checksum, gro_bytes) = (mbuf.bytes(), mbuf.checksum(), mbuf.gro_bytes());
            let buf = if mbuf.is_whole_of(self.small) {
                // SAFETY: an mbuf of this queue's memory, with a slot of ours behind it, showing that many bytes of its room.
                let buf = unsafe {
                    let slot = NonNull::new_unchecked(raw.cast::<u8>().wrapping_add(MBUF_BYTES));
                    self.pool.adopt(slot, mbuf.offset(), bytes)
                };
                Some(buf)
            } else {
                self.copied(raw, bytes)
            };
            let Some(buf) = buf else {
                self.stats.rx_dropped += 1;
                continue;
            };
            total += bytes;
            into.push(RxFrame { buf, checksum, gro_bytes });
        }
        self.stats.rx_frames += (into.len() - before) as u64;
        self.stats.rx_bytes += total as u64;
        self.pool.trim(KEEP);
        Ok(into.len() - before)
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut taken = 0;
        while !queue.is_empty() {
            self.build(queue);
            let (sent, refused) = self.send();
            self.take(queue, sent);
            taken += sent;
            if refused {
                self.stats.tx_dropped += 1;
                queue.pop();
                taken += 1;
            } else if sent < BURST && !queue.is_empty() {
                self.stats.tx_full += 1;
                // What was sent long ago may not have been given back, for lack of anything new to send.
                // SAFETY: the queue is this thread's.
                unsafe { sys::demi_dpdk_tx_done(self.number, self.index) };
                break;
            }
        }
        Ok(taken)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.interrupt.arm()
    }

    fn max_wait(&self) -> Option<Duration> {
        Some(self.interrupt.max_wait())
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats;
        if let Some(port) = self.port() {
            let counted = port.counted();
            // The port's, of all its queues: hardware does not say whose.
            stats.rx_dropped += counted.rx_missed + counted.rx_errors + counted.rx_no_buffer;
            stats.tx_dropped += counted.tx_errors;
        }
        stats
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        let Some(DpdkQueue { port, memory, .. }) = self.queue.take() else { return };
        if self.interrupt.is_armed() {
            self.interrupt.disarm();
        }
        // The last queue closes the port, which gives everything back. Before others do, have it give back what it can.
        let last = std::sync::Arc::into_inner(port).map(drop).is_some();
        let (start, number, index) = (Clock::now(), self.number, self.index);
        while !last && start.elapsed() < CLOSE_WAIT && self.pool.stats().slots_out > 0 {
            // SAFETY: others have the port open, and this queue is still this thread's.
            unsafe { sys::demi_dpdk_tx_done(number, index) };
            memory.returns.drain();
            std::thread::yield_now();
        }
        memory.returns.drain();
    }
}

impl fmt::Debug for Dpdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dpdk").field("name", &self.name).field("stats", &self.stats).finish_non_exhaustive()
    }
}
