//! The rings of an AF_PACKET socket (packet_mmap, TPACKET_V2): frames in memory that we share with the kernel.
//!
//! A frame belongs to whoever its status word says. All reads and writes of shared memory are here, behind methods that
//! look at the status first.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a frame to be sent begins in its ring frame: behind the header, aligned to 16.
const TX_OFFSET: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);

/// The shared mapping of both rings.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are what `mmap` answered, and both rings, which held the mapping, are gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Size of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of a ring frame: a power of two, so that frames lie one after the other across blocks.
    pub(super) frame_bytes: usize,
    /// Number of frames.
    pub(super) frames: usize,
}

impl Shape {
    /// A ring of at least `frames` frames that hold `payload_bytes` each.
    pub(super) fn holding(payload_bytes: usize, frames: usize) -> Shape {
        let frame_bytes = payload_bytes.next_power_of_two().max(2048);
        let per_block = Shape::block_bytes(frame_bytes) / frame_bytes;
        Shape { frame_bytes, frames: frames.max(1).next_multiple_of(per_block) }
    }

    /// Bytes the kernel allocates in one piece: a multiple of the page size.
    fn block_bytes(frame_bytes: usize) -> usize {
        frame_bytes.max(1 << 16)
    }

    fn bytes(self) -> usize {
        self.frame_bytes * self.frames
    }

    /// What the kernel is asked for.
    pub(super) fn request(self) -> libc::tpacket_req {
        let block = Shape::block_bytes(self.frame_bytes);
        libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (self.bytes() / block) as u32,
            tp_frame_size: self.frame_bytes as u32,
            tp_frame_nr: self.frames as u32,
        }
    }
}

/// A ring of ours in the mapping, and our place in it.
#[derive(Debug)]
struct Ring {
    first: NonNull<u8>,
    shape: Shape,
    next: usize,
    _mapping: Rc<Mapping>,
}

impl Ring {
    /// First byte of the frame at our place.
    #[inline]
    fn frame(&self) -> NonNull<u8> {
        // SAFETY: `next < frames`, and `frames * frame_bytes` bytes from `first` on are mapped.
        unsafe { self.first.add(self.next * self.shape.frame_bytes) }
    }

    /// Status word of the frame at our place: whose it is.
    #[inline]
    fn status(&self) -> &AtomicU32 {
        // SAFETY: a ring frame begins with a `tpacket2_hdr`, whose first field is the 32-bit status; frames are aligned to
        // 2048 bytes; both sides access the word atomically.
        unsafe { self.frame().cast::<AtomicU32>().as_ref() }
    }

    #[inline]
    fn advance(&mut self) {
        self.next += 1;
        if self.next == self.shape.frames {
            self.next = 0;
        }
    }
}

/// The ring the kernel puts received frames in.
#[derive(Debug)]
pub(super) struct RxRing(Ring);

/// The ring we put frames to be sent in.
#[derive(Debug)]
pub(super) struct TxRing(Ring);

/// Maps both rings of a socket that was told of them.
pub(super) fn map(socket: BorrowedFd<'_>, rx: Shape, tx: Shape) -> io::Result<(RxRing, TxRing)> {
    let bytes = rx.bytes() + tx.bytes();
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            socket.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base =
        NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mmap answered the null page"))?;
    let mapping = Rc::new(Mapping { base, bytes });
    // SAFETY: the transmit ring follows the receive ring in the mapping, which was made for both.
    let tx_first = unsafe { base.add(rx.bytes()) };
    let ring = |first, shape| Ring { first, shape, next: 0, _mapping: mapping.clone() };
    Ok((RxRing(ring(base, rx)), TxRing(ring(tx_first, tx))))
}

/// A received frame, ours until it is released.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// Status word, header fields.
    pub(super) header: libc::tpacket2_hdr,
    /// The frame, as much of it as the kernel put in the ring, and before it whatever the kernel put in front.
    bytes: &'a [u8],
    frame_at: usize,
}

impl<'a> Received<'a> {
    /// The frame's bytes.
    #[inline]
    pub(super) fn frame(&self) -> &'a [u8] {
        &self.bytes[self.frame_at..]
    }

    /// The `N` bytes right before the frame.
    #[inline]
    pub(super) fn before<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.bytes[..self.frame_at].last_chunk()
    }
}

impl RxRing {
    /// The frame at our place, if the kernel has put one there.
    #[inline]
    pub(super) fn peek(&self) -> Option<Received<'_>> {
        let ring = &self.0;
        if ring.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the status says that the frame is ours, so the kernel does not write it until `release`; it begins with
        // a valid header of plain integers.
        let header = unsafe { ring.frame().cast::<libc::tpacket2_hdr>().read() };
        // SAFETY: the whole ring frame is mapped and, as above, not written by the kernel; `self` stays borrowed.
        let whole = unsafe { std::slice::from_raw_parts(ring.frame().as_ptr(), ring.shape.frame_bytes) };
        let frame_at = usize::from(header.tp_mac).min(whole.len());
        let end = frame_at.saturating_add(header.tp_snaplen as usize).min(whole.len());
        Some(Received { header, bytes: &whole[..end], frame_at })
    }

    /// Gives the frame at our place back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        self.0.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.0.advance();
    }
}

impl TxRing {
    /// Longest frame, with what goes before it, that a ring frame holds.
    pub(super) fn capacity(&self) -> usize {
        self.0.shape.frame_bytes - TX_OFFSET
    }

    /// Has `write` fill the frame at our place, if it is free, with what is to be sent; it answers the bytes written, 0 to
    /// send nothing after all. Answers whether there was room.
    #[inline]
    pub(super) fn put(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let ring = &mut self.0;
        let status = ring.status().load(Ordering::Acquire);
        if status != libc::TP_STATUS_AVAILABLE && status & libc::TP_STATUS_WRONG_FORMAT == 0 {
            return false;
        }
        let capacity = ring.shape.frame_bytes - TX_OFFSET;
        // SAFETY: the status says that the frame is ours, so the kernel neither reads nor writes it until the store below;
        // `capacity` bytes from `TX_OFFSET` on are in it; `&mut self` makes this the only view.
        let data = unsafe { std::slice::from_raw_parts_mut(ring.frame().as_ptr().add(TX_OFFSET), capacity) };
        let bytes = write(data).min(capacity);
        if bytes == 0 {
            return true;
        }
        // SAFETY: as above, and the frame begins with a header whose fields are plain integers.
        unsafe { (*ring.frame().cast::<libc::tpacket2_hdr>().as_ptr()).tp_len = bytes as u32 };
        ring.status().store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        ring.advance();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_frames_are_powers_of_two_that_fill_blocks() {
        for (payload, frames) in [(1, 1), (1614, 100), (2049, 512), (9100, 64), (70_000, 3)] {
            let shape = Shape::holding(payload, frames);
            let request = shape.request();
            assert!(shape.frame_bytes >= payload && shape.frame_bytes.is_power_of_two());
            assert!(shape.frames >= frames);
            assert_eq!(request.tp_block_size as usize % 4096, 0);
            let per_block = request.tp_block_size / request.tp_frame_size;
            assert_eq!(request.tp_frame_nr, per_block * request.tp_block_nr, "{request:?}");
        }
    }

    /// A ring in ordinary memory, whose kernel the test plays.
    fn ring(frames: usize) -> Ring {
        let bytes = 2048 * frames;
        // SAFETY: an anonymous private mapping touches no existing memory.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        let base = NonNull::new(base.cast::<u8>()).unwrap();
        let shape = Shape { frame_bytes: 2048, frames };
        Ring { first: base, shape, next: 0, _mapping: Rc::new(Mapping { base, bytes }) }
    }

    #[test]
    fn a_transmit_ring_takes_as_many_frames_as_it_has_and_goes_round() {
        let mut tx = TxRing(ring(2));
        let put = |tx: &mut TxRing| tx.put(|data| data[..3].len());
        assert!(put(&mut tx) && put(&mut tx));
        assert!(!put(&mut tx), "both frames wait for the kernel");
        // The kernel has sent the first one.
        tx.0.status().store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        assert!(tx.put(|_| 0), "there is room, though nothing was put there");
        assert!(put(&mut tx));
        assert!(!put(&mut tx));
        // It did not like the second one: the place is ours again.
        tx.0.status().store(libc::TP_STATUS_WRONG_FORMAT, Ordering::Release);
        assert!(put(&mut tx));
    }

    #[test]
    fn a_receive_ring_shows_frames_in_order_and_never_beyond_their_place() {
        let mut rx = RxRing(ring(2));
        assert!(rx.peek().is_none());
        let fill = |rx: &RxRing, mac: u16, snaplen: u32| {
            // SAFETY: the frame is mapped and nobody looks at it: its status is the kernel's.
            unsafe {
                let header = rx.0.frame().cast::<libc::tpacket2_hdr>().as_ptr();
                (*header).tp_mac = mac;
                (*header).tp_snaplen = snaplen;
                rx.0.frame().as_ptr().add(100).write(0x5a);
            }
            rx.0.status().store(libc::TP_STATUS_USER, Ordering::Release);
        };
        fill(&rx, 100, 60);
        let frame = rx.peek().unwrap();
        assert_eq!((frame.frame().len(), frame.frame()[0]), (60, 0x5a));
        assert_eq!(frame.before::<10>(), Some(&[0; 10]));
        rx.release();
        assert!(rx.peek().is_none());
        fill(&rx, 2040, 60);
        assert_eq!(rx.peek().unwrap().frame().len(), 8);
        rx.release();
        fill(&rx, u16::MAX, u32::MAX);
        assert_eq!(rx.peek().unwrap().frame().len(), 0);
    }
}
