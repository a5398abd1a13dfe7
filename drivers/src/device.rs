//! The seam below a protocol stack: something that moves bursts of Ethernet frames.
//!
//! A device owns its rings and file descriptors and says what it can do as data ([`Capabilities`]). It never parses
//! more of a frame than its own offloads need. A wrapper (capture, fault injection) is a device too.

use std::io;
use std::os::fd::BorrowedFd;

use crate::mem::{Buf, Pool};
use crate::time::Instant;

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

/// Frames waiting to go out, in order.
///
/// Parts of all frames lie in one flat array, so that a frame of one part costs one `Buf` and nothing is allocated once
/// the queue has reached its working size. The stack pushes at the back, the device takes from the front what it has
/// room for and leaves the rest: a full ring is back-pressure, not loss.
#[derive(Debug)]
pub struct TxQueue {
    parts: Vec<Option<Buf>>,
    frames: Vec<FrameMeta>,
    next_part: usize,
    next_frame: usize,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct FrameMeta {
    parts: u16,
    offload: Offload,
}

/// The frame at the front of a [`TxQueue`].
#[derive(Debug)]
pub struct TxFrame<'a> {
    parts: &'a [Option<Buf>],
    /// What the device is to do on it.
    pub offload: Offload,
}

impl<'a> TxFrame<'a> {
    /// The frame's parts, in order; never empty.
    #[inline]
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &'a Buf> + Clone + use<'a> {
        // A queued part is `Some` until its frame is popped; `frames` only describes queued ones.
        self.parts.iter().map(|part| part.as_ref().unwrap_or_else(|| unreachable!("part of a queued frame")))
    }

    /// The frame's bytes, when it consists of a single part.
    #[inline]
    pub fn single(&self) -> Option<&'a Buf> {
        match self.parts {
            [part] => part.as_ref(),
            _ => None,
        }
    }

    /// Bytes of all parts.
    #[inline]
    pub fn len(&self) -> usize {
        self.parts().map(|part| part.len()).sum()
    }

    /// Whether the frame carries nothing; such a frame is never queued by the stack.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the frame into `to`, which must be at least [`len`](Self::len) bytes; answers the bytes copied.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let mut at = 0;
        for part in self.parts() {
            let end = at + part.len();
            to[at..end].copy_from_slice(part);
            at = end;
        }
        at
    }
}

impl TxQueue {
    /// A queue that asks the stack to stop at `capacity` frames.
    pub fn new(capacity: usize) -> Self {
        TxQueue {
            parts: Vec::with_capacity(capacity * 2),
            frames: Vec::with_capacity(capacity),
            next_part: 0,
            next_frame: 0,
            capacity,
        }
    }

    /// Frames queued.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames.len() - self.next_frame
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next_frame == self.frames.len()
    }

    /// Frames that still fit before back-pressure.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }

    /// Queues a frame of one part.
    #[inline]
    pub fn push(&mut self, frame: Buf, offload: Offload) {
        self.parts.push(Some(frame));
        self.frames.push(FrameMeta { parts: 1, offload });
    }

    /// Queues a frame made of `head` followed by `rest`.
    #[inline]
    pub fn push_parts(&mut self, head: Buf, rest: impl IntoIterator<Item = Buf>, offload: Offload) {
        let before = self.parts.len();
        self.parts.push(Some(head));
        self.parts.extend(rest.into_iter().map(Some));
        let parts = u16::try_from(self.parts.len() - before).unwrap_or(u16::MAX);
        self.frames.push(FrameMeta { parts, offload });
    }

    /// The frame at the front.
    #[inline]
    pub fn front(&self) -> Option<TxFrame<'_>> {
        let meta = self.frames.get(self.next_frame)?;
        let parts = &self.parts[self.next_part..self.next_part + usize::from(meta.parts)];
        Some(TxFrame { parts, offload: meta.offload })
    }

    /// The `index`th frame from the front, for devices that look ahead to fill a burst.
    pub fn iter(&self) -> impl Iterator<Item = TxFrame<'_>> {
        let mut part = self.next_part;
        self.frames[self.next_frame..].iter().map(move |meta| {
            let first = part;
            part += usize::from(meta.parts);
            TxFrame { parts: &self.parts[first..part], offload: meta.offload }
        })
    }

    /// Shows frames to `send`, from the front on, until it answers `false` or all have been shown, and drops those for which
    /// it answered `true`: they have been sent, or never will be. Answers their number.
    ///
    /// What a device that copies frames wants: the queue is put in order once a burst, not once a frame.
    #[inline]
    pub fn pop_while(&mut self, mut send: impl FnMut(&TxFrame<'_>) -> bool) -> usize {
        let mut part = self.next_part;
        let mut sent = 0;
        for meta in &self.frames[self.next_frame..] {
            let end = part + usize::from(meta.parts);
            let Some(parts) = self.parts.get(part..end) else { break };
            if !send(&TxFrame { parts, offload: meta.offload }) {
                break;
            }
            part = end;
            sent += 1;
        }
        if self.next_frame + sent == self.frames.len() {
            self.clear();
        } else {
            self.parts[self.next_part..part].fill(None);
            self.next_part = part;
            self.next_frame += sent;
            self.compact();
        }
        sent
    }

    /// Moves what is left to the front when a device that never drains the queue would make it grow.
    fn compact(&mut self) {
        if self.next_frame >= self.capacity {
            self.parts.drain(..self.next_part);
            self.frames.drain(..self.next_frame);
            self.next_part = 0;
            self.next_frame = 0;
        }
    }

    /// Drops the frame at the front: it has been sent, or never will be.
    #[inline]
    pub fn pop(&mut self) {
        self.pop_with(drop);
    }

    /// Takes the frame at the front, handing each of its parts to `take`: for devices that keep the parts until the
    /// hardware has sent them.
    #[inline]
    pub fn pop_with(&mut self, mut take: impl FnMut(Buf)) {
        let Some(meta) = self.frames.get(self.next_frame) else { return };
        let end = self.next_part + usize::from(meta.parts);
        for part in &mut self.parts[self.next_part..end] {
            if let Some(buf) = part.take() {
                take(buf);
            }
        }
        self.next_part = end;
        self.next_frame += 1;
        if self.next_frame == self.frames.len() {
            self.clear();
        } else {
            self.compact();
        }
    }

    /// Drops everything that is queued.
    #[inline]
    pub fn clear(&mut self) {
        self.parts.clear();
        self.frames.clear();
        self.next_part = 0;
        self.next_frame = 0;
    }
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

    /// A file descriptor that polls readable when a frame has arrived, for devices that have one.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolConfig;

    fn queue_of(pool: &Pool, frames: &[&[&str]]) -> TxQueue {
        let mut queue = TxQueue::new(3);
        for parts in frames {
            let mut parts = parts.iter().map(|part| pool.copy_from_slice(part.as_bytes()).unwrap());
            let head = parts.next().unwrap();
            queue.push_parts(head, parts, Offload::default());
        }
        queue
    }

    fn text(frame: &TxFrame<'_>) -> String {
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn frames_are_popped_until_the_device_is_full_and_the_rest_stays_in_order() {
        let pool = Pool::new(&PoolConfig::small(16)).unwrap();
        let mut queue = queue_of(&pool, &[&["a", "b"], &["c"], &["d", "e", "f"], &["g"]]);
        let mut sent = Vec::new();
        let count = queue.pop_while(|frame| {
            let room = sent.len() < 2;
            if room {
                sent.push((text(frame), frame.single().is_some()));
            }
            room
        });
        assert_eq!((count, queue.len()), (2, 2));
        assert_eq!(sent, [("ab".to_string(), false), ("c".to_string(), true)]);
        assert_eq!(pool.stats().slots_out, 4, "what was sent is given back at once");
        queue.pop();
        assert_eq!(text(&queue.front().unwrap()), "g");
        queue.push(pool.copy_from_slice(b"h").unwrap(), Offload::default());
        let mut rest = String::new();
        assert_eq!(
            queue.pop_while(|frame| {
                rest += &text(frame);
                true
            }),
            2
        );
        assert_eq!((rest.as_str(), queue.is_empty(), pool.stats().slots_out), ("gh", true, 0));
    }

    #[test]
    fn a_queue_that_is_never_empty_does_not_grow() {
        let pool = Pool::new(&PoolConfig::small(16)).unwrap();
        let mut queue = queue_of(&pool, &[&["x"], &["x"]]);
        for _ in 0..1000 {
            queue.push(pool.copy_from_slice(b"x").unwrap(), Offload::default());
            let mut first = true;
            assert_eq!(queue.pop_while(|_| std::mem::take(&mut first)), 1);
        }
        assert!(queue.parts.capacity() <= 16 && queue.frames.capacity() <= 16);
    }
}
