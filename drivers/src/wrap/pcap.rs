//! Capturing what passes a device as pcapng (draft-ietf-opsawg-pcapng), for tshark and Wireshark.
//!
//! Owns the writer; several devices can share one capture. What is written is what would be on the wire: a checksum that
//! was left to the device is filled in, in the capture alone. A writer that fails ends the capture, not the traffic.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::checksum;
use crate::device::{Capabilities, Device, DeviceStats, RxChecksum, RxFrame, TxQueue};
use crate::mem::Pool;
use crate::time::Instant;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_MACADDR: u16 = 6;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;

/// Which way a frame went, as seen from the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It was received.
    Inbound,
    /// It was sent.
    Outbound,
}

/// One capture, of one interface or several. Cloning it is cheap; all clones write to one place.
#[derive(Clone)]
pub struct Capture {
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    /// `None` once it has failed.
    writer: Option<Box<dyn Write>>,
    /// Blocks not written yet.
    blocks: Vec<u8>,
    interfaces: u32,
    /// What `Instant::ZERO` is, in nanoseconds since the Unix epoch.
    zero_unix_ns: u64,
}

impl Capture {
    /// A capture that is written to `writer`, a burst of frames at a time. Frames are stamped in nanoseconds since
    /// 1970 plus `zero_unix_ns`, the Unix time at which the device's clock showed 0: 0 for a simulation.
    ///
    /// # Errors
    /// What the writer said to the first block.
    pub fn new(writer: impl Write + 'static, zero_unix_ns: u64) -> io::Result<Capture> {
        let mut blocks = Vec::new();
        block(&mut blocks, SECTION_HEADER, |body| {
            body.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
            body.extend(1u16.to_ne_bytes());
            body.extend(0u16.to_ne_bytes());
            body.extend(u64::MAX.to_ne_bytes());
            option(body, SHB_USERAPPL, b"demi");
            option(body, OPT_END, &[]);
        });
        let mut writer: Box<dyn Write> = Box::new(writer);
        writer.write_all(&blocks)?;
        blocks.clear();
        let inner = Inner { writer: Some(writer), blocks, interfaces: 0, zero_unix_ns };
        Ok(Capture { inner: Rc::new(RefCell::new(inner)) })
    }

    /// Adds an interface; answers the number by which frames name it.
    pub fn add_interface(&self, name: &str, mac: [u8; 6]) -> u32 {
        let mut inner = self.inner.borrow_mut();
        let number = inner.interfaces;
        inner.interfaces += 1;
        block(&mut inner.blocks, INTERFACE_DESCRIPTION, |body| {
            body.extend(LINKTYPE_ETHERNET.to_ne_bytes());
            body.extend(0u16.to_ne_bytes());
            body.extend(0u32.to_ne_bytes());
            option(body, IF_NAME, name.as_bytes());
            option(body, IF_MACADDR, &mac);
            option(body, IF_TSRESOL, &[9]);
            option(body, OPT_END, &[]);
        });
        inner.write();
        number
    }

    /// Writes one frame down, for captures of what no [`Pcap`] is around: a [wire's](crate::wire::WireHandle::set_observer)
    /// observer.
    pub fn record(&self, interface: u32, now: Instant, direction: Direction, frame: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.frame(interface, now, direction, |body| body.extend_from_slice(frame));
        inner.write();
    }
}

impl Inner {
    /// Appends a frame, whose bytes `bytes` appends.
    fn frame(
        &mut self,
        interface: u32,
        now: Instant,
        direction: Direction,
        bytes: impl FnOnce(&mut Vec<u8>),
    ) {
        let at = self.zero_unix_ns.saturating_add(now.as_nanos());
        block(&mut self.blocks, ENHANCED_PACKET, |body| {
            body.extend(interface.to_ne_bytes());
            body.extend(((at >> 32) as u32).to_ne_bytes());
            body.extend((at as u32).to_ne_bytes());
            let lengths = body.len();
            body.extend([0; 8]);
            let start = body.len();
            bytes(body);
            let length = ((body.len() - start) as u32).to_ne_bytes();
            body[lengths..lengths + 4].copy_from_slice(&length);
            body[lengths + 4..lengths + 8].copy_from_slice(&length);
            pad(body, start);
            let flags: u32 = match direction {
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            };
            option(body, EPB_FLAGS, &flags.to_ne_bytes());
            option(body, OPT_END, &[]);
        });
    }

    /// Hands what was appended to the writer.
    fn write(&mut self) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write_all(&self.blocks).and_then(|()| writer.flush())
        {
            eprintln!("demi: the packet capture ends here: {error}");
            self.writer = None;
        }
        self.blocks.clear();
    }
}

/// Appends a block of a type, whose body `body` appends; its length goes before and behind it.
fn block(to: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend(kind.to_ne_bytes());
    to.extend([0; 4]);
    body(to);
    let length = ((to.len() + 4 - start) as u32).to_ne_bytes();
    to[start + 4..start + 8].copy_from_slice(&length);
    to.extend(length);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    let start = body.len();
    body.extend_from_slice(value);
    pad(body, start);
}

/// Pads what begins at `start` to a multiple of four bytes.
fn pad(body: &mut Vec<u8>, start: usize) {
    let padded = start + (body.len() - start).next_multiple_of(4);
    body.resize(padded, 0);
}

/// A device whose frames are captured.
pub struct Pcap {
    inner: Box<dyn Device>,
    capture: Capture,
    interface: u32,
    /// Frames about to be sent, one after the other, and where each ends.
    pending: Vec<u8>,
    ends: Vec<usize>,
}

impl Pcap {
    /// Captures what passes `device` to `writer`. Times are those of the device's clock; see [`Capture::new`] for the
    /// time of day.
    ///
    /// # Errors
    /// What the writer said to the first block.
    pub fn new(device: Box<dyn Device>, writer: impl Write + 'static) -> io::Result<Pcap> {
        Ok(Pcap::into_capture(device, Capture::new(writer, 0)?))
    }

    /// Captures what passes `device` as one more interface of `capture`.
    pub fn into_capture(device: Box<dyn Device>, capture: Capture) -> Pcap {
        let interface = capture.add_interface(device.name(), device.capabilities().mac);
        Pcap { inner: device, capture, interface, pending: Vec::new(), ends: Vec::new() }
    }
}

impl Device for Pcap {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        let before = into.len();
        let count = self.inner.rx_burst(now, into, max)?;
        if count > 0 {
            let mut inner = self.capture.inner.borrow_mut();
            for frame in into.iter().skip(before) {
                inner.frame(self.interface, now, Direction::Inbound, |body| {
                    let start = body.len();
                    body.extend_from_slice(&frame.buf);
                    if frame.checksum == RxChecksum::Valid {
                        checksum::refill(&mut body[start..]);
                    }
                });
            }
            inner.write();
        }
        Ok(count)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.pending.clear();
        self.ends.clear();
        for frame in queue.iter() {
            let start = self.pending.len();
            for part in frame.parts() {
                self.pending.extend_from_slice(part);
            }
            if let Some(partial) = frame.offload.checksum {
                checksum::complete(&mut self.pending[start..], partial);
            }
            self.ends.push(self.pending.len());
        }
        let count = self.inner.tx_burst(now, queue)?;
        if count > 0 {
            let mut inner = self.capture.inner.borrow_mut();
            let mut start = 0;
            for &end in self.ends.iter().take(count) {
                let frame = &self.pending[start..end];
                inner.frame(self.interface, now, Direction::Outbound, |body| body.extend_from_slice(frame));
                start = end;
            }
            inner.write();
        }
        Ok(count)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.inner.set_addresses(addresses)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn max_wait(&self) -> Option<Duration> {
        self.inner.max_wait()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.stats()
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Capture({} interfaces)", self.inner.borrow().interfaces)
    }
}

impl std::fmt::Debug for Pcap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pcap({})", self.inner.name())
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::device::{ChecksumOffload, Offload};
    use crate::mem::PoolConfig;
    use crate::wire::{LinkConfig, Wire, WireConfig};

    /// A file in memory that can be read while it is written.
    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Debug, PartialEq)]
    struct Frame {
        interface: u32,
        unix_ns: u128,
        flags: u32,
        bytes: Vec<u8>,
    }

    /// The interfaces' names and the frames of a capture, as another reader reads it.
    fn read(file: &Shared) -> (Vec<String>, Vec<Frame>) {
        let bytes = file.0.borrow().clone();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut names, mut frames) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => {
                    assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                    names.extend(interface.options.iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    }));
                }
                Block::EnhancedPacket(frame) => {
                    let flags = frame.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Flags(flags) => Some(*flags),
                        _ => None,
                    });
                    assert_eq!(frame.original_len as usize, frame.data.len());
                    frames.push(Frame {
                        interface: frame.interface_id,
                        unix_ns: frame.timestamp.as_nanos(),
                        flags: flags.unwrap(),
                        bytes: frame.data.to_vec(),
                    });
                }
                other => panic!("a block nobody wrote: {other:?}"),
            }
        }
        (names, frames)
    }

    #[test]
    fn frames_of_both_directions_and_all_lengths_read_back() {
        let file = Shared::default();
        let zero_unix_ns = 1_700_000_000_123_456_789;
        let capture = Capture::new(file.clone(), zero_unix_ns).unwrap();
        let link = LinkConfig { delay: Duration::from_nanos(7), ..LinkConfig::default() };
        let config = WireConfig { link, pool: PoolConfig::small(64), ..WireConfig::default() };
        let mut ends: Vec<_> = Wire::new(1, config)
            .unwrap()
            .into_iter()
            .map(|end| Pcap::into_capture(Box::new(end), capture.clone()))
            .collect();
        let mut expected = Vec::new();
        for (index, len) in [60, 61, 62, 63, 1514].into_iter().enumerate() {
            let now = Instant::from_micros(index as u64);
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let (sender, receiver) = (index % 2, (index + 1) % 2);
            let mut queue = TxQueue::new(1);
            let whole = ends[sender].pool().copy_from_slice(&bytes).unwrap();
            queue.push_parts(whole.slice(0, 14), [whole.slice(14, len)], Offload::default());
            ends[sender].tx_burst(now, &mut queue).unwrap();
            let mut got = Vec::new();
            assert_eq!(ends[receiver].deadline(), Some(now.plus_nanos(7)));
            ends[receiver].rx_burst(now.plus_nanos(7), &mut got, 1).unwrap();
            let unix_ns = u128::from(zero_unix_ns + now.as_nanos());
            let bytes = || bytes.clone();
            expected.push(Frame { interface: sender as u32, unix_ns, flags: 2, bytes: bytes() });
            expected.push(Frame {
                interface: receiver as u32,
                unix_ns: unix_ns + 7,
                flags: 1,
                bytes: bytes(),
            });
        }
        let (names, frames) = read(&file);
        assert_eq!(names, ["wire:0", "wire:1"]);
        assert_eq!(frames, expected);
    }

    #[test]
    fn only_frames_that_the_device_took_are_captured_and_their_checksums_are_complete() {
        let file = Shared::default();
        let config = WireConfig {
            ring_frames: 1,
            checksum_offload: true,
            pool: PoolConfig::small(16),
            ..WireConfig::default()
        };
        let mut ends = Wire::new(1, config).unwrap().into_iter();
        let mut sender = Pcap::new(Box::new(ends.next().unwrap()), file.clone()).unwrap();
        // UDP over IPv4 with the pseudo header's sum where the checksum goes.
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 33, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 9, 0, 13, 0x14, 0x21]);
        frame.extend(*b"hello");
        let checksum = Some(ChecksumOffload { start: 34, offset: 6 });
        let mut queue = TxQueue::new(2);
        for _ in 0..2 {
            let buf = sender.pool().copy_from_slice(&frame).unwrap();
            queue.push(buf, Offload { checksum, ..Offload::default() });
        }
        assert_eq!(sender.tx_burst(Instant::ZERO, &mut queue).unwrap(), 1, "the ring holds one");
        let mut complete = frame.clone();
        checksum::refill(&mut complete);
        assert_ne!(complete, frame);
        let captured = read(&file).1;
        assert_eq!(captured.len(), 1);
        assert_eq!(captured[0].bytes, complete);

        let far_file = Shared::default();
        let mut receiver = Pcap::new(Box::new(ends.next().unwrap()), far_file.clone()).unwrap();
        let mut got = Vec::new();
        receiver.rx_burst(Instant::ZERO, &mut got, 1).unwrap();
        assert_eq!(&got[0].buf[..], &frame[..], "the frame itself is as the sender left it");
        assert_eq!(read(&far_file).1[0].bytes, complete);
    }

    #[test]
    fn a_writer_that_fails_ends_the_capture_and_not_the_traffic() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Capture::new(Full(10), 0).is_err());
        let config = WireConfig { pool: PoolConfig::small(16), ..WireConfig::default() };
        let mut ends = Wire::new(1, config).unwrap().into_iter();
        let mut sender = Pcap::new(Box::new(ends.next().unwrap()), Full(200)).unwrap();
        for _ in 0..10 {
            let mut queue = TxQueue::new(1);
            queue.push(sender.pool().copy_from_slice(&[0; 60]).unwrap(), Offload::default());
            assert_eq!(sender.tx_burst(Instant::ZERO, &mut queue).unwrap(), 1);
        }
        assert_eq!(sender.stats().tx_frames, 10);
    }
}
