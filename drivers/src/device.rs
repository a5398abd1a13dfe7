//! The seam below a protocol stack: something that moves bursts of Ethernet frames.
//!
//! A device owns its rings and file descriptors and says what it can do as data ([`Capabilities`]). It never parses
//! more of a frame than its own offloads need. A wrapper (capture, fault injection) is a device too.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::mem::{Buf, Pool};
use crate::spread::Spread;
use crate::time::Instant;
pub use crate::tx_queue::{TxFrame, TxQueue};

/// What a device can do, fixed once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Largest IP packet in bytes (Ethernet header not counted).
    pub mtu: u16,
    /// The device's own Ethernet address.
    pub mac: [u8; 6],
    /// The device fills in TCP and UDP checksums of frames whose [`Offload::checksum`] is set.
    pub tx_checksum: bool,
    /// The device tells of received frames whether their TCP or UDP checksum was verified ([`RxFrame::checksum`]).
    pub rx_checksum: bool,
    /// Largest TCP payload, in bytes, that the device cuts into segments by itself (`Offload::gso_bytes`); 0: none.
    pub tso_max_bytes: u32,
    /// Parts a transmitted frame may consist of; 1: the device wants one contiguous `Buf`.
    pub max_parts: usize,
    /// Frames the device moves in one call without being asked again.
    pub burst: usize,
    /// Receive (and transmit) queue pairs the device could open. One device value drives one of them.
    pub queues: u16,
    /// How received packets are spread over queues, when other cores drive others; `None`: all are ours.
    pub spread: Option<Spread>,
    /// Checksums need not be verified nor computed at all: both ends are in one memory.
    pub lossless_memory: bool,
}

impl Capabilities {
    /// A plain device: no offloads, gathers up to 16 parts, bursts of 32.
    pub fn new(mac: [u8; 6], mtu: u16) -> Self {
        Capabilities {
            mtu,
            mac,
            tx_checksum: false,
            rx_checksum: false,
            tso_max_bytes: 0,
            max_parts: 16,
            burst: 32,
            queues: 1,
            spread: None,
            lossless_memory: false,
        }
    }
}

/// What is known of a received frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: the stack verifies it.
    #[default]
    Unknown,
    /// The device verified it, or the sender's kernel left it to a link that cannot corrupt (a partial checksum).
    Valid,
    /// The device found it wrong.
    Bad,
}

/// A received frame, from its Ethernet header on.
#[derive(Debug)]
pub struct RxFrame {
    /// The frame's bytes.
    pub buf: Buf,
    /// State of the TCP or UDP checksum.
    pub checksum: RxChecksum,
    /// Payload bytes of each segment when the device (or the sending kernel) coalesced several into this frame; 0: one.
    pub gro_bytes: u16,
}

const _: () = assert!(size_of::<Buf>() == 16 && size_of::<RxFrame>() <= 24);

impl RxFrame {
    /// A frame of which nothing but the bytes is known.
    #[inline]
    pub fn new(buf: Buf) -> Self {
        RxFrame { buf, checksum: RxChecksum::Unknown, gro_bytes: 0 }
    }
}

/// Work the device is to do on a transmitted frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Fill in the checksum: sum from byte `start` of the frame to its end, stored at `start + offset`. The field already
    /// holds the pseudo header's sum (virtio's convention).
    pub checksum: Option<ChecksumOffload>,
    /// Cut the TCP payload into segments of this many bytes; 0: send as is.
    pub gso_bytes: u16,
    /// Bytes of all headers (Ethernet, IP, TCP); meaningful when `gso_bytes` is not 0.
    pub header_bytes: u16,
    /// The frame carries IPv6; meaningful when `gso_bytes` is not 0.
    pub ipv6: bool,
}

/// Where a checksum to be filled in starts and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumOffload {
    /// First byte covered, from the start of the frame.
    pub start: u16,
    /// Where the 16-bit sum is stored, from `start`.
    pub offset: u16,
}

/// Something that moves bursts of Ethernet frames: one receive and one transmit queue of it.
pub trait Device {
    /// What to call the device in messages: its device string, `tap:demi0`.
    fn name(&self) -> &str;

    /// What the device can do. Fixed once it is open.
    fn capabilities(&self) -> &Capabilities;

    /// The memory received frames are put in, and that transmitted ones best come from.
    fn pool(&self) -> &Pool;

    /// Appends up to `max` received frames to `into`; answers how many. Never blocks.
    ///
    /// # Errors
    /// The device is gone (an unplugged NIC, a deleted interface). A lack of slots is not an error: frames stay with the
    /// device, which drops and counts what it cannot hold.
    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize>;

    /// Sends frames from the front of `queue`, in order, and leaves those the device has no room for; answers how many
    /// were taken. Never blocks.
    ///
    /// # Errors
    /// The device is gone.
    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize>;

    /// Takes a packet (from its IP header on) that was put together of fragments, if it belongs to another core's stack; gives it
    /// back if it is ours.
    fn hand_over(&mut self, packet: Buf) -> Option<Buf> {
        Some(packet)
    }

    /// Tells the stacks of this host's other cores something that they cannot hear for themselves: a lease in force, or nothing any more.
    /// It reaches each of them once, or again; `false`: not all, try later. A device that one stack has to itself has nobody to tell.
    fn tell_fellows(&mut self, notice: &[u8]) -> bool {
        let _ = notice;
        true
    }

    /// Says which addresses are the stack's from now on, and which groups it is in, its addresses' own ones included: for devices that
    /// receive nothing else. Called when they change, which is rare.
    ///
    /// # Errors
    /// The device cannot tell frames to those from others.
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        let _ = addresses;
        Ok(())
    }

    /// A file descriptor that polls readable when a frame has arrived, for devices that have one.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The longest that a wait may last without a look at the device, for one whose descriptor does not tell everything: it has to be asked
    /// for ([`wait_fd`](Self::wait_fd)) before each wait, says nothing of room, and may come a moment too late; or there is none
    /// at all, and yet there may be frames at any time. `None`: the descriptor, or [`deadline`](Self::deadline), is all that is needed.
    fn max_wait(&self) -> Option<Duration> {
        None
    }

    /// When the next frame that is already under way will arrive, for simulated devices; the runtime wakes then.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Counters of the device since it was opened.
    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }
}

/// Counters of a device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames dropped on receipt: no slot, or the ring was full.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that the device refused (too long for it, link down).
    pub tx_dropped: u64,
    /// Times the device had no room and left frames in the queue.
    pub tx_full: u64,
    /// Frames passed to the stacks of other cores.
    pub handed_over: u64,
    /// Frames that other cores' stacks have passed to this one.
    pub taken_over: u64,
    /// Frames for other cores' stacks for which there was no room on the way.
    pub hand_over_lost: u64,
}
