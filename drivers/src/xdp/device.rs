//! Bursts: frames out of the rings as `Buf`s, and `Buf`s into them.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::ring::{CONTINUED, Descriptor};
use super::socket::{self, Binding, Bound};
use super::steering::{Awaited, MAX_QUEUES, Steering, Wanted};
use super::umem::{PACKET_HEADROOM, Umem};
use super::{Mode, Verdict, XdpConfig};
use crate::checksum;
use crate::device::{Capabilities, Device, DeviceStats, RxChecksum, RxFrame, TxFrame, TxQueue};
use crate::mem::{Buf, Pool};
use crate::netdev::{Interface, explain};
use crate::packet;
use crate::time::Instant;

/// Bytes of Ethernet header and one VLAN tag, by which frames exceed the MTU.
const FRAME_OVERHEAD: usize = 18;
const ETHERNET_BYTES: usize = 14;
/// Chunks a frame may consist of: what the kernel's own packets have fragments for.
const MAX_CHUNKS: usize = 16;
const MAX_PARTS: usize = 16;
/// Frames taken at most before slots are given in their place.
const BURST: usize = 64;
/// How many times nothing has arrived between two looks at the socket's error, which costs a system call.
const IDLE_POLLS: u32 = 256;
/// How long a loop may sleep while the kernel has something of ours that it does not wake us for.
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// A queue of an interface, opened through AF_XDP. See the [module](super).
pub struct Xdp {
    name: String,
    interface: String,
    index: i32,
    queue: u32,
    /// What the program is to send us while the stack looks for addresses.
    awaited: Awaited,
    busy_poll: bool,
    /// Senders within this machine leave checksums to a link that needs none.
    partial_checksums: bool,
    capabilities: Capabilities,
    mode: Mode,
    umem: Umem,
    bound: Option<Bound>,
    /// Slots that the kernel is to have, to be filled.
    fill_target: u32,
    /// Parts of a frame whose end has not arrived.
    parts: Vec<Buf>,
    /// That frame has lost a part.
    damaged: bool,
    /// Frames are in the transmit ring that the kernel has had no room for.
    kick_due: bool,
    idle_polls: u32,
    stats: DeviceStats,
    steering: Arc<Steering>,
    /// Has the interface receive groups, and what is for our own Ethernet address.
    _member: OwnedFd,
}

impl Xdp {
    /// Opens the queue of an interface, which must exist and be up.
    ///
    /// # Errors
    /// One line with cause and cure: `InvalidInput` when no interface can be called that, the pool's slots are of a wrong size or
    /// there is no such queue; `NotFound` when there is no such interface; `NetworkDown` when it is down; `PermissionDenied`
    /// without CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF; `ResourceBusy` when the queue is taken or another program attached, after
    /// two seconds.
    pub fn open(config: &XdpConfig) -> io::Result<Xdp> {
        let name = match config.queue {
            0 => format!("xdp:{}", config.interface),
            queue => format!("xdp:{}@{queue}", config.interface),
        };
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {what}"));
        if config.queue >= MAX_QUEUES {
            return Err(invalid(format!("queue {}: there are no more than {MAX_QUEUES}", config.queue)));
        }
        let interface = Interface::named(&config.interface)?;
        let index = interface.index().map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => io::Error::new(
                io::ErrorKind::NotFound,
                format!("{name}: there is no such interface: see ip link"),
            ),
            _ => explain(&error, &format!("{name}: find the interface"), ""),
        })?;
        if !interface.is_up()? {
            return Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                format!("{name}: the interface is down: ip link set {} up", config.interface),
            ));
        }
        let slot = config.pool.slot_bytes;
        if !matches!(slot, 2048 | 4096) {
            return Err(invalid(format!("slots of {slot} bytes: AF_XDP takes 2048 or 4096")));
        }
        if config.pool.large_slots > 0 && !config.pool.large_slot_bytes.is_multiple_of(slot) {
            return Err(invalid(format!("large slots: make their size a multiple of {slot}")));
        }
        if !config.rx_frames.is_power_of_two() || !config.tx_frames.is_power_of_two() {
            return Err(invalid("rings have a power of two of frames".to_owned()));
        }
        let mtu = interface.mtu()?;
        let own_mac = interface.mac()?;
        let mac = config.mac.unwrap_or(own_mac);
        let large = usize::from(mtu) + FRAME_OVERHEAD > slot - PACKET_HEADROOM;
        let member = packet::member(&name, index, config.mac.filter(|mac| *mac != own_mac))?;
        let pool = Pool::new(&config.pool)?;
        let umem = Umem::new(pool).ok_or_else(|| invalid("the pool has no memory of its own".to_owned()))?;
        let wanted = Wanted {
            index: index.unsigned_abs(),
            mac,
            vlan: config.vlan,
            frags: large,
            generic: !config.native,
        };
        let steering = Steering::attach(&name, &config.interface, wanted)?;
        let binding = Binding {
            interface: wanted.index,
            queue: config.queue,
            zero_copy: config.zero_copy && steering.native,
            several: large || !steering.native,
            rx_frames: config.rx_frames,
            tx_frames: config.tx_frames,
            busy_poll_us: config.busy_poll_us,
        };
        let bound = socket::open(&name, umem.layout(), &binding)?;
        let mode = Mode { native: steering.native, zero_copy: bound.zero_copy, multi_buffer: bound.several };
        if large && !mode.multi_buffer {
            return Err(invalid(format!(
                "MTU {mtu} takes frames of several slots, which this kernel or driver has not: \
                 ip link set {} mtu {}",
                config.interface,
                slot - PACKET_HEADROOM - FRAME_OVERHEAD
            )));
        }
        steering
            .add_queue(config.queue, bound.socket.as_fd())
            .map_err(|error| explain(&error, &format!("{name}: steer frames to the socket"), ""))?;
        let mut capabilities = Capabilities::new(mac, mtu);
        let partial_checksums = interface.is_virtual();
        capabilities.rx_checksum = partial_checksums;
        capabilities.max_parts = MAX_PARTS;
        capabilities.burst = BURST;
        capabilities.queues = config.spread.as_ref().map_or(1, |spread| spread.queues);
        capabilities.spread = config.spread.clone();
        let slots = u32::try_from(config.pool.slots).unwrap_or(u32::MAX);
        let mut xdp = Xdp {
            name,
            interface: config.interface.clone(),
            index,
            queue: config.queue,
            awaited: Awaited { dhcp: config.dhcp, routers: config.router_discovery },
            busy_poll: config.busy_poll_us > 0,
            partial_checksums,
            capabilities,
            mode,
            umem,
            bound: Some(bound),
            fill_target: config.rx_frames.min(slots / 4).max(1),
            parts: Vec::new(),
            damaged: false,
            kick_due: false,
            idle_polls: 0,
            stats: DeviceStats::default(),
            steering,
            _member: member,
        };
        xdp.refill();
        xdp.set_addresses(&config.addresses)?;
        Ok(xdp)
    }

    /// How the queue is driven.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What would become of a frame, from its Ethernet header on, if it arrived now: says where frames go when they do not come.
    ///
    /// # Errors
    /// What the kernel says of the trial: `InvalidInput` for a frame without an Ethernet header.
    pub fn verdict(&self, frame: &[u8]) -> io::Result<Verdict> {
        self.steering.verdict(frame)
    }

    /// Gives the kernel slots to fill, as many as it is to have.
    #[inline]
    fn refill(&mut self) {
        let Xdp { umem, bound: Some(Bound { fill, socket, .. }), fill_target, .. } = self else { return };
        let wanted = fill_target.saturating_sub(umem.to_fill());
        if wanted == 0 {
            return;
        }
        let room = fill.room(wanted).min(wanted);
        for _ in 0..room {
            let Some(chunk) = umem.give() else { break };
            fill.put(chunk);
        }
        fill.publish();
        if fill.needs_wakeup() {
            socket::kick_rx(socket.as_fd());
        }
    }

    /// Takes back what has been sent.
    #[inline]
    fn reclaim(&mut self) {
        let Xdp { umem, bound: Some(Bound { completion, .. }), .. } = self else { return };
        if umem.sending() == 0 {
            return;
        }
        let mut any = false;
        while let Some(address) = completion.next() {
            umem.end(address);
            any = true;
        }
        if any {
            completion.release();
        }
    }

    /// Tells the kernel of the frames in the transmit ring.
    fn kick(&mut self) -> io::Result<()> {
        self.kick_due = false;
        loop {
            let Some(bound) = &mut self.bound else { return Ok(()) };
            if !bound.tx.needs_wakeup() {
                return Ok(());
            }
            let before = bound.tx.pending();
            if before == 0 {
                return Ok(());
            }
            let Err(error) = socket::kick_tx(bound.socket.as_fd()) else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    // The kernel copies a bounded number at a time, and none while it has told us of too many that it has sent.
                    let after = bound.tx.pending();
                    self.reclaim();
                    if after < before {
                        continue;
                    }
                    self.kick_due = true;
                    return Ok(());
                }
                Some(libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::ENETDOWN) => {
                    self.kick_due = true;
                    return Ok(());
                }
                Some(libc::ENXIO | libc::ENODEV) => return Err(self.gone(&error)),
                // The kernel has skipped a frame it did not like; the others are still to go.
                _ => {
                    self.stats.tx_dropped += 1;
                    if bound.tx.pending() >= before {
                        self.kick_due = true;
                        return Ok(());
                    }
                }
            }
        }
    }

    fn gone(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}: was the interface deleted?", self.name))
    }

    /// Looks, now and then, at what happened to the interface while nothing arrived.
    #[cold]
    fn check(&mut self) -> io::Result<()> {
        self.idle_polls = 0;
        let Some(bound) = &self.bound else { return Ok(()) };
        let error = socket::take_error(bound.socket.as_fd());
        if error == 0 {
            return Ok(());
        }
        match Interface::named(&self.interface)?.index() {
            Ok(index) if index == self.index => Ok(()),
            _ => Err(self.gone(&io::Error::from_raw_os_error(error))),
        }
    }

    /// A frame that has come in several parts, in one slot.
    #[cold]
    fn join(&mut self) -> Option<Buf> {
        let bytes = self.parts.iter().map(Buf::len).sum();
        let whole = !std::mem::take(&mut self.damaged);
        let joined = self.umem.pool().alloc(bytes).filter(|_| whole).map(|mut slot| {
            for part in &self.parts {
                slot.put_slice(part);
            }
            slot.freeze()
        });
        self.parts.clear();
        joined
    }

    /// Takes one descriptor's worth.
    #[inline]
    fn take(&mut self, descriptor: Descriptor, into: &mut Vec<RxFrame>) {
        let part = self.umem.take(descriptor.address, descriptor.bytes as usize).map(|slot| slot.freeze());
        let buf = if descriptor.options & CONTINUED == 0 && self.parts.is_empty() && !self.damaged {
            part
        } else {
            self.damaged |= part.is_none();
            self.parts.extend(part);
            if descriptor.options & CONTINUED != 0 {
                return;
            }
            self.join()
        };
        let Some(buf) = buf.filter(|buf| buf.len() >= ETHERNET_BYTES) else {
            self.stats.rx_dropped += 1;
            return;
        };
        let partial = self.partial_checksums && checksum::is_partial(&buf);
        let checksum = if partial { RxChecksum::Valid } else { RxChecksum::Unknown };
        self.stats.rx_frames += 1;
        self.stats.rx_bytes += buf.len() as u64;
        into.push(RxFrame { buf, checksum, gro_bytes: 0 });
    }

    /// Puts the frame at the front of the queue into the ring. Answers whether it is done with.
    #[inline]
    fn send(&mut self, queue: &mut TxQueue) -> bool {
        let Some(frame) = queue.front() else { return false };
        let bytes = frame.len();
        let at = frame.single().and_then(|part| self.umem.sendable(part));
        let done = match at {
            Some(at) => {
                if !self.has_room(1) {
                    return false;
                }
                let mut sent = false;
                queue.pop_with(|part| sent = self.put(at, part, 0));
                if !sent {
                    self.stats.tx_dropped += 1;
                    return true;
                }
                true
            }
            None => self.send_parts(queue, bytes),
        };
        if done {
            self.stats.tx_frames += 1;
            self.stats.tx_bytes += bytes as u64;
        }
        done
    }

    #[inline]
    fn has_room(&mut self, wanted: u32) -> bool {
        self.bound.as_mut().is_some_and(|bound| bound.tx.room(wanted) >= wanted)
    }

    #[inline(always)]
    fn put(&mut self, address: u64, part: Buf, options: u32) -> bool {
        let Some(bound) = &mut self.bound else { return false };
        let bytes = part.len() as u32;
        let lent = self.umem.lend(address, part);
        if lent {
            bound.tx.put(Descriptor { address, bytes, options });
        }
        lent
    }

    /// Sends a frame that lies in several places, or not where the kernel could send it from.
    #[inline(never)]
    fn send_parts(&mut self, queue: &mut TxQueue, bytes: usize) -> bool {
        let Some(frame) = queue.front() else { return false };
        let in_one = bytes <= self.umem.chunk_bytes() - PACKET_HEADROOM;
        // The kernel copies anyway when it is not the driver that sends, and takes a page for each part.
        let gather = self.mode.multi_buffer && (self.mode.zero_copy || !in_one);
        if gather && let Some(chunks) = self.chunks(&frame) {
            if !self.has_room(chunks.len() as u32) {
                return false;
            }
            let last = chunks.len() - 1;
            for (number, (at, chunk)) in chunks.into_iter().enumerate() {
                self.put(at, chunk, if number < last { CONTINUED } else { 0 });
            }
            queue.pop();
            return true;
        }
        if !in_one {
            self.stats.tx_dropped += 1;
            queue.pop();
            return false;
        }
        if !self.has_room(1) {
            return false;
        }
        let Some(mut slot) = self.umem.pool().alloc_small() else { return false };
        let tail = slot.tail_mut();
        frame.copy_to(&mut tail[..bytes]);
        slot.grow(bytes);
        let copy = slot.freeze();
        let at = self.umem.sendable(&copy);
        let sent = at.is_some_and(|at| self.put(at, copy, 0));
        queue.pop();
        sent
    }

    /// A frame's parts, cut where chunks end; `None` if they are too many, or not all in our memory.
    fn chunks(&self, frame: &TxFrame<'_>) -> Option<Vec<(u64, Buf)>> {
        let chunk = self.umem.chunk_bytes();
        let mut chunks = Vec::with_capacity(MAX_CHUNKS);
        for part in frame.parts() {
            let mut rest = part.clone();
            while !rest.is_empty() {
                let at = self.umem.layout().offset_of(&rest)?;
                let piece = rest.split_to(chunk - at % chunk);
                if chunks.len() == MAX_CHUNKS {
                    return None;
                }
                chunks.push((at as u64, piece));
            }
        }
        (!chunks.is_empty()).then_some(chunks)
    }
}

impl Device for Xdp {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        self.umem.pool()
    }

    fn rx_burst(&mut self, _now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        self.reclaim();
        if self.kick_due {
            self.kick()?;
        }
        let before = into.len();
        let mut seen = 0;
        while into.len() - before < max && seen < BURST {
            let Some(descriptor) = self.bound.as_mut().and_then(|bound| bound.rx.next()) else { break };
            self.take(descriptor, into);
            seen += 1;
        }
        if let Some(bound) = &self.bound {
            if seen > 0 {
                bound.rx.release();
            } else if self.busy_poll || bound.fill.needs_wakeup() {
                socket::kick_rx(bound.socket.as_fd());
            }
        }
        self.refill();
        if seen > 0 {
            self.idle_polls = 0;
        } else {
            self.idle_polls += 1;
            if self.idle_polls >= IDLE_POLLS {
                self.check()?;
            }
        }
        Ok(into.len() - before)
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.reclaim();
        let before = queue.len();
        while !queue.is_empty() {
            let left = queue.len();
            self.send(queue);
            if queue.len() == left {
                self.stats.tx_full += 1;
                break;
            }
        }
        let taken = before - queue.len();
        if taken > 0 || self.kick_due {
            if let Some(bound) = &self.bound {
                bound.tx.publish();
            }
            self.kick()?;
            self.reclaim();
        }
        Ok(taken)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.steering.set_addresses(self.queue, addresses, self.awaited).map_err(|error| {
            explain(&error, &format!("{}: have the program steer to our addresses", self.name), "")
        })
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bound.as_ref().map(|bound| bound.socket.as_fd())
    }

    fn max_wait(&self) -> Option<Duration> {
        // The descriptor tells of frames that arrive, and of nothing that has left.
        (self.kick_due || self.umem.sending() > 0).then_some(BUSY_WAIT)
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats;
        if let Some(bound) = &self.bound {
            let counted = socket::statistics(bound.socket.as_fd());
            stats.rx_dropped += counted.rx_dropped + counted.rx_ring_full;
            stats.tx_dropped += counted.tx_invalid_descriptors;
        }
        stats
    }
}

impl Drop for Xdp {
    fn drop(&mut self) {
        self.steering.remove_queue(self.queue);
        self.parts.clear();
        // Closes the socket: no frame is put into the memory any more by the kernel.
        drop(self.bound.take());
        if !self.mode.zero_copy {
            // SAFETY: the kernel copies while a system call or its receive path runs, and closing has waited for both. What was
            // sent has been copied.
            unsafe { self.umem.take_all() };
        }
    }
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp")
            .field("name", &self.name)
            .field("mode", &self.mode)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
