//! `packet:IF`: any network interface of this machine, through an AF_PACKET socket with TPACKET_V2 rings.
//!
//! Frames are received and sent through memory shared with the kernel, with one copy each way and one system call a
//! transmitted burst. Partial checksums and segments larger than the MTU, which a peer on the same machine (veth) or a
//! NIC's receive offload produces, are taken as such; checksums and segmentation of what we send are left to the kernel,
//! which has the NIC do it or does it itself.
//!
//! **The kernel sees the same frames.** It is not asked to keep away from the interface: what arrives for an address that
//! the kernel has, it answers as well, with a reset for a TCP port it knows nothing of. So give the stack an address
//! that the kernel does not have: on this interface, or on any other of the machine. Where that cannot be,
//! have the kernel drop what is for us (`nft add rule … tcp dport 7000 drop`; the rings see frames before that).

mod ring;
mod socket;
pub(crate) mod split;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::device::{Capabilities, Device, DeviceStats, RxChecksum, RxFrame, TxFrame, TxQueue};
use crate::mem::{Pool, PoolConfig};
use crate::netdev::{Interface, explain};
use crate::spread::{self, Hash, Spread};
use crate::time::Instant;
use crate::vnet::{self, Gso};
use ring::{Received, RxRing, Shape, TxRing};
#[cfg(feature = "xdp")]
pub(crate) use socket::member;

/// Bytes the kernel puts before a received frame in its ring frame, at most: headers, padding, address, virtio header.
const RX_RESERVE: usize = 112;
/// Bytes of Ethernet header and one VLAN tag, by which frames exceed the MTU.
const FRAME_OVERHEAD: usize = 18;
const VLAN_BYTES: usize = 4;
const ETHER_ADDRESSES_BYTES: usize = 12;
/// Longest frame that is to be cut into segments.
const LONGEST_FRAME: usize = 65_535 + FRAME_OVERHEAD;
/// Parts of a frame that go out in one call.
const MAX_PARTS: usize = 16;
/// How many times nothing has arrived between two looks at the socket's error, which costs a system call.
const IDLE_POLLS: u32 = 64;

/// Which interface, and how much memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    /// The interface's name.
    pub interface: String,
    /// Our Ethernet address; by default the interface's own. With another one, the interface is asked to receive frames
    /// for it as well, or everything if it cannot do that.
    pub mac: Option<[u8; 6]>,
    /// Frames of the receive ring.
    pub rx_frames: usize,
    /// Frames of the transmit ring.
    pub tx_frames: usize,
    /// Memory for received frames. Without large slots, segments larger than the MTU are dropped.
    pub pool: PoolConfig,
    /// Which of several, opened in the order of their numbers, receives which frames; `None`: this one receives all.
    pub fanout: Option<Fanout>,
}

/// One of several that share what arrives at an interface, each with rings of its own (packet(7), `PACKET_FANOUT`). The kernel spreads
/// flows by our own hash ([`crate::spread`]), so that where a reply arrives is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// Names the group: alike for all of it, and unlike those of others at the interface.
    pub group: u16,
    /// Counted from 0; the kernel numbers them as they join.
    pub queue: u16,
    /// How many there will be.
    pub queues: u16,
    /// Alike for all of them, and nobody else's to know.
    pub seed: u32,
}

impl PacketConfig {
    /// The interface `name` with rings of 2,048 and 1,024 frames.
    pub fn new(name: impl Into<String>) -> PacketConfig {
        PacketConfig {
            interface: name.into(),
            mac: None,
            rx_frames: 2048,
            tx_frames: 1024,
            pool: PoolConfig::default(),
            fanout: None,
        }
    }
}

/// An interface opened through AF_PACKET.
#[derive(Debug)]
pub struct Packet {
    name: String,
    interface: String,
    index: i32,
    capabilities: Capabilities,
    pool: Pool,
    socket: OwnedFd,
    /// For frames that a ring frame is too small for; `None` when there can be none.
    large: Option<OwnedFd>,
    rx: RxRing,
    tx: TxRing,
    vnet: bool,
    /// Frames are in the transmit ring that the kernel has not been told of, or had no room for.
    kick_due: bool,
    idle_polls: u32,
    stats: DeviceStats,
    /// Frames the kernel dropped because the ring was full; it forgets them when asked.
    kernel_drops: Cell<u64>,
}

impl Packet {
    /// Opens the interface, which must exist and be up.
    ///
    /// # Errors
    /// `InvalidInput` when no interface can be called that, or a slot of the pool holds less than a frame; `NotFound` when
    /// there is none; `NetworkDown` when it is down; `PermissionDenied` without CAP_NET_RAW; `OutOfMemory` when there is
    /// no memory for the rings.
    pub fn open(config: &PacketConfig) -> io::Result<Packet> {
        let name = format!("packet:{}", config.interface);
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
        let mtu = interface.mtu()?;
        let own_mac = interface.mac()?;
        let frame_bytes = usize::from(mtu) + FRAME_OVERHEAD;
        let pool = Pool::new(&config.pool)?;
        if pool.max_capacity() < frame_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{name}: the pool's slots hold {} bytes, a frame of MTU {mtu} is up to {frame_bytes}: \
                     make slots larger or the MTU smaller",
                    pool.max_capacity()
                ),
            ));
        }
        let rx = Shape::holding(frame_bytes + RX_RESERVE, config.rx_frames);
        let tx = Shape::holding(frame_bytes + RX_RESERVE, config.tx_frames);
        let opened = socket::open(&name, index, rx, tx)?;
        socket::join(opened.socket.as_fd(), index, config.mac.filter(|mac| *mac != own_mac))
            .map_err(|error| explain(&error, &format!("{name}: receive multicast frames"), ""))?;
        if let Some(fanout) = config.fanout {
            socket::fan_out(opened.socket.as_fd(), fanout.group, &spread::program(fanout.seed)).map_err(
                |error| {
                    explain(&error, &format!("{name}: share the interface among {} cores", fanout.queues), "")
                },
            )?;
        }
        let large = if opened.vnet { Some(socket::open_large(&name, index)?) } else { None };
        let mut capabilities = Capabilities::new(config.mac.unwrap_or(own_mac), mtu);
        capabilities.tx_checksum = opened.vnet;
        capabilities.rx_checksum = true;
        capabilities.tso_max_bytes = if opened.vnet { vnet::TSO_MAX_BYTES } else { 0 };
        capabilities.max_parts = MAX_PARTS;
        capabilities.spread = config.fanout.map(|fanout| Spread {
            queue: fanout.queue,
            queues: fanout.queues,
            hash: Hash::Mix { seed: fanout.seed },
        });
        Ok(Packet {
            name,
            interface: config.interface.clone(),
            index,
            capabilities,
            pool,
            socket: opened.socket,
            large,
            rx: opened.rx,
            tx: opened.tx,
            vnet: opened.vnet,
            kick_due: false,
            idle_polls: 0,
            stats: DeviceStats::default(),
            kernel_drops: Cell::new(0),
        })
    }

    /// Looks, now and then, at what happened to the interface while nothing arrived.
    #[cold]
    fn check(&mut self) -> io::Result<()> {
        self.idle_polls = 0;
        let error = socket::take_error(self.socket.as_fd());
        if error == 0 {
            return Ok(());
        }
        // An interface that went down may come up again; one that is gone, or another by now, does not.
        match Interface::named(&self.interface)?.index() {
            Ok(index) if index == self.index => Ok(()),
            _ => Err(self.gone(&io::Error::from_raw_os_error(error))),
        }
    }

    fn gone(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}: was the interface deleted?", self.name))
    }

    /// Tells the kernel of the frames in the transmit ring.
    fn kick(&mut self) -> io::Result<()> {
        // SAFETY: sends nothing but what is in the ring; no memory is passed.
        let answer = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        self.kick_due = answer < 0;
        if answer >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::ENETDOWN) => Ok(()),
            Some(libc::ENXIO | libc::ENODEV) => Err(self.gone(&error)),
            // The kernel has skipped a frame it did not like; the others are still to go.
            _ => {
                self.stats.tx_dropped += 1;
                Ok(())
            }
        }
    }

    /// Sends the frame at the front of the queue, which no ring frame holds. Answers whether it is done with.
    fn send_large(&mut self, queue: &mut TxQueue) -> io::Result<bool> {
        if self.kick_due {
            self.kick()?;
        }
        let Some(frame) = queue.front() else { return Ok(false) };
        let bytes = frame.len();
        let sent = match &self.large {
            Some(socket) if frame.offload.gso_bytes > 0 && bytes <= LONGEST_FRAME => {
                write(socket.as_fd(), &frame)
            }
            _ => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
        };
        match sent.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) => {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += bytes as u64;
            }
            Err((Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR), _)) => return Ok(false),
            Err((Some(libc::ENXIO | libc::ENODEV), error)) => return Err(self.gone(&error)),
            Err(_) => self.stats.tx_dropped += 1,
        }
        queue.pop();
        Ok(true)
    }

    /// Puts frames into the transmit ring until it is full, or until one comes that it cannot hold. Answers how many were
    /// taken from the queue.
    fn fill_ring(&mut self, queue: &mut TxQueue) -> usize {
        let Packet { tx, vnet, stats, kick_due, .. } = self;
        let header_bytes = if *vnet { vnet::SHORT_BYTES } else { 0 };
        let room = tx.capacity() - header_bytes;
        queue.pop_while(|frame| {
            let bytes = frame.len();
            if frame.offload.gso_bytes > 0 || bytes > room {
                return false;
            }
            let put = tx.put(|data| {
                if let Some(header) = data.first_chunk_mut::<{ vnet::SHORT_BYTES }>()
                    && header_bytes > 0
                {
                    *header = vnet::emit_short(&frame.offload);
                }
                header_bytes + frame.copy_to(&mut data[header_bytes..header_bytes + bytes])
            });
            if put {
                stats.tx_frames += 1;
                stats.tx_bytes += bytes as u64;
                *kick_due = true;
            }
            put
        })
    }
}

/// What became of a received ring frame.
enum Taken {
    /// This many frames were made of it.
    Frames(usize),
    /// It could not be used.
    Dropped,
    /// No slot is free: it stays where it is.
    NoSlot,
}

/// Sends a frame in one call, with its header.
fn write(socket: BorrowedFd<'_>, frame: &TxFrame<'_>) -> io::Result<()> {
    let header = vnet::emit(&frame.offload);
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut parts = [empty; MAX_PARTS + 1];
    parts[0] = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: vnet::SHORT_BYTES };
    let mut used = 1;
    for buf in frame.parts() {
        let Some(part) = parts.get_mut(used) else {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        };
        *part = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        used += 1;
    }
    // SAFETY: the first `used` parts name the header and the frame's views, which live until the call is over and are only
    // read.
    let count = unsafe { libc::writev(socket.as_raw_fd(), parts.as_ptr(), used as i32) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads a frame that did not fit its ring frame from the socket's own queue, into a large slot.
fn read_large(socket: BorrowedFd<'_>, pool: &Pool, vnet: bool) -> Option<crate::mem::BufMut> {
    let mut header = [0u8; vnet::SHORT_BYTES];
    let mut slot = pool.alloc(LONGEST_FRAME);
    let data = slot.as_mut().map(|slot| slot.tail_mut()).unwrap_or_default();
    let room = data.len();
    let header_bytes = if vnet { header.len() } else { 0 };
    let parts = [
        libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header_bytes },
        libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: room },
    ];
    // SAFETY: both parts name memory that is ours to write and lives until the call is over. What does not fit is lost, and
    // the frame is off the queue in any case.
    let count = unsafe { libc::readv(socket.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
    let len = usize::try_from(count).ok()?.checked_sub(header_bytes)?;
    let mut slot = slot?;
    slot.grow(len);
    (len > 0 && len <= room).then_some(slot)
}

/// What nearly every received ring frame is: one packet, whole, without a VLAN tag. `None` for any other, and while there is no slot.
#[inline(always)]
fn take_plain(received: &Received<'_>, pool: &Pool, vnet: bool) -> Option<RxFrame> {
    let status = received.header.tp_status;
    let frame = received.frame();
    let plain = status & (libc::TP_STATUS_COPY | libc::TP_STATUS_VLAN_VALID) == 0
        && received.header.tp_snaplen == received.header.tp_len
        && frame.len() >= ETHER_ADDRESSES_BYTES + 2;
    if !plain {
        return None;
    }
    let known = status & (libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_CSUM_VALID) != 0;
    let mut checksum = if known { RxChecksum::Valid } else { RxChecksum::Unknown };
    if vnet {
        let info = vnet::parse(received.before()?);
        if info.gso != Gso::None {
            return None;
        }
        if info.checksum == RxChecksum::Valid {
            checksum = RxChecksum::Valid;
        }
    }
    let mut buf = pool.alloc(frame.len())?;
    buf.put_slice(frame);
    Some(RxFrame { buf: buf.freeze(), checksum, gro_bytes: 0 })
}

/// Makes frames of what is at our place in the receive ring, whatever it is.
#[inline(never)]
fn take(
    received: &Received<'_>,
    socket: BorrowedFd<'_>,
    pool: &Pool,
    vnet: bool,
    into: &mut Vec<RxFrame>,
) -> Taken {
    let status = received.header.tp_status;
    let mut info = match received.before::<{ vnet::SHORT_BYTES }>() {
        Some(header) if vnet => vnet::parse(header),
        _ => vnet::Received { checksum: RxChecksum::Unknown, gso: Gso::None },
    };
    if status & (libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_CSUM_VALID) != 0 {
        info.checksum = RxChecksum::Valid;
    }
    let large = if received.header.tp_snaplen == received.header.tp_len {
        None
    } else if status & libc::TP_STATUS_COPY != 0 {
        let Some(slot) = read_large(socket, pool, vnet) else { return Taken::Dropped };
        Some(slot)
    } else {
        return Taken::Dropped;
    };
    let frame = large.as_ref().map_or(received.frame(), |large| &large[..]);
    if frame.len() < ETHER_ADDRESSES_BYTES + 2 {
        return Taken::Dropped;
    }
    let gro_bytes = match info.gso {
        Gso::None => 0,
        Gso::Tcp(bytes) => bytes,
        Gso::Udp { bytes, header_at } => {
            return match split::datagrams(frame, header_at.into(), bytes.into(), pool, into) {
                Some(count) => Taken::Frames(count),
                None => Taken::Dropped,
            };
        }
        Gso::Unknown => return Taken::Dropped,
    };
    let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
            0 => 0x8100,
            _ => received.header.tp_vlan_tpid,
        };
        (u32::from(tpid) << 16 | u32::from(received.header.tp_vlan_tci)).to_be_bytes()
    });
    let is_large = large.is_some();
    if is_large && tag.is_none() {
        into.extend(large.map(|buf| RxFrame { buf: buf.freeze(), checksum: info.checksum, gro_bytes }));
        return Taken::Frames(1);
    }
    let Some(mut buf) = pool.alloc(frame.len() + VLAN_BYTES) else {
        // A large frame is off the socket's queue already, and cannot stay.
        return if is_large { Taken::Dropped } else { Taken::NoSlot };
    };
    match tag {
        None => {
            buf.put_slice(frame);
        }
        // The kernel takes a VLAN tag out of the frame; it goes back where it was, behind the addresses.
        Some(tag) => {
            let (addresses, rest) = frame.split_at(ETHER_ADDRESSES_BYTES);
            buf.put_slice(addresses);
            buf.put_slice(&tag);
            buf.put_slice(rest);
        }
    }
    into.push(RxFrame { buf: buf.freeze(), checksum: info.checksum, gro_bytes });
    Taken::Frames(1)
}

impl Device for Packet {
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
        if self.kick_due {
            self.kick()?;
        }
        let before = into.len();
        while into.len() - before < max {
            let Some(received) = self.rx.peek() else { break };
            if let Some(frame) = take_plain(&received, &self.pool, self.vnet) {
                self.stats.rx_frames += 1;
                self.stats.rx_bytes += frame.buf.len() as u64;
                into.push(frame);
                self.rx.release();
                continue;
            }
            let first = into.len();
            match take(&received, self.socket.as_fd(), &self.pool, self.vnet, into) {
                Taken::Frames(count) => self.stats.rx_frames += count as u64,
                Taken::Dropped => self.stats.rx_dropped += 1,
                Taken::NoSlot => break,
            }
            self.stats.rx_bytes += into[first..].iter().map(|frame| frame.buf.len() as u64).sum::<u64>();
            self.rx.release();
        }
        let count = into.len() - before;
        if count > 0 {
            self.idle_polls = 0;
        } else {
            self.idle_polls += 1;
            if self.idle_polls >= IDLE_POLLS {
                self.check()?;
            }
        }
        Ok(count)
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            taken += self.fill_ring(queue);
            let room = self.tx.capacity() - vnet::SHORT_BYTES;
            let Some(next) = queue.front() else { break };
            let large = next.offload.gso_bytes > 0 || next.len() > room;
            if !large || !self.send_large(queue)? {
                self.stats.tx_full += 1;
                break;
            }
            taken += 1;
        }
        if self.kick_due {
            self.kick()?;
        }
        Ok(taken)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.kernel_drops.set(self.kernel_drops.get() + socket::take_drops(self.socket.as_fd()));
        DeviceStats { rx_dropped: self.stats.rx_dropped + self.kernel_drops.get(), ..self.stats }
    }
}
