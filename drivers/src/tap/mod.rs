//! `tap:NAME`: a virtual Ethernet cable to the kernel of this machine, through /dev/net/tun.
//!
//! The kernel holds one end, an interface called NAME; we hold the other, with an Ethernet address of our own, so the
//! machine can ping and curl a stack in this process. Checksums are left to a cable that cannot corrupt, in both
//! directions, and large TCP segments cross it whole (the virtio header says so). A call moves one frame: that is all
//! /dev/net/tun offers.
//!
//! The interface is made if it is missing and then goes with the process, however that ends; one that the administrator
//! made (`ip tuntap add NAME mode tap user YOU`) needs no privilege and stays. What address the kernel's end has is the
//! administrator's business, too, `ip addr add 10.0.0.1/24 dev NAME`, or [`TapConfig::host_address`] for convenience.

mod open;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::device::{Capabilities, Device, DeviceStats, RxFrame, TxFrame, TxQueue};
use crate::mem::{Pool, PoolConfig};
use crate::spread::Spread;
use crate::time::Instant;
use crate::vnet::{self, Gso};

/// Longest frame the kernel hands over: a whole IP packet behind Ethernet and VLAN headers.
const LONGEST_FRAME: usize = 65_535 + 18;
/// Parts of a frame that go out in one call.
const MAX_PARTS: usize = 16;

/// Which interface, and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Our end's Ethernet address; by default one that follows from the name, so that the kernel's neighbour entry outlives
    /// a restart.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes; by default what the interface has (1500 when it is new).
    pub mtu: Option<u16>,
    /// An address for the kernel's end, with the bits of network around it that it then routes here.
    pub host_address: Option<(IpAddr, u8)>,
    /// Take frames with partial checksums, and TCP segments larger than the MTU.
    pub offload: bool,
    /// Which of several queues of the interface this is, each opened by itself and all with this field; `None`: the only one. The
    /// kernel sends a flow to the queue that has sent of it last, and knows nothing of our hash: the first packet of a
    /// flow may arrive at another queue than the hash says.
    pub spread: Option<Spread>,
    /// Memory for frames. Without large slots the kernel is not asked for segments larger than the MTU.
    pub pool: PoolConfig,
}

impl TapConfig {
    /// The interface `name` with everything else as it comes.
    pub fn new(name: impl Into<String>) -> TapConfig {
        TapConfig {
            name: name.into(),
            mac: None,
            mtu: None,
            host_address: None,
            offload: true,
            spread: None,
            pool: PoolConfig::default(),
        }
    }
}

/// An open TAP interface.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: File,
    capabilities: Capabilities,
    pool: Pool,
    stats: DeviceStats,
    /// A frame that is not larger than the MTU lies in a slot of this capacity.
    frame_bytes: usize,
    /// Where the end of a frame longer than that goes when no large slot is free.
    /// Empty when the kernel sends nothing larger than the MTU.
    sink: Vec<u8>,
}

impl Tap {
    /// Opens the interface, making it if there is none, and brings it up.
    ///
    /// # Errors
    /// `NotFound` when the machine has no /dev/net/tun; `PermissionDenied` without CAP_NET_ADMIN (for an interface that is
    /// not the user's own); `ResourceBusy` when another process holds it; `InvalidInput` when it cannot be called that, when
    /// there is such an interface but no TAP, or when a slot of the pool holds less than a frame.
    pub fn open(config: &TapConfig) -> io::Result<Tap> {
        open::open(config)
    }

    /// Reads one frame; `None`: there is none, or no slot for it.
    fn read(&mut self) -> io::Result<Option<RxFrame>> {
        loop {
            let Some(mut first) = self.pool.alloc(self.frame_bytes) else { return Ok(None) };
            let mut large = if self.sink.is_empty() { None } else { self.pool.alloc(LONGEST_FRAME) };
            let mut header = [0; vnet::BYTES];
            let room = first.tailroom().min(self.frame_bytes);
            let rest = match &mut large {
                // The rest of a long frame is read to where it will stay; its beginning is copied in front of it.
                Some(large) => large.tail_mut().get_mut(room..).unwrap_or_default(),
                None => &mut self.sink[..],
            };
            let parts = [part(&mut header), part(&mut first.tail_mut()[..room]), part(rest)];
            // SAFETY: `parts` names three pieces of memory that are ours to write and live until the call is over.
            let count = unsafe { libc::readv(self.file.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
            let Ok(count) = usize::try_from(count) else {
                return no_frame(&io::Error::last_os_error(), &self.name).map(|()| None);
            };
            let len = count.saturating_sub(vnet::BYTES);
            let received = vnet::parse(&short(&header));
            let gro_bytes = match received.gso {
                Gso::None => Some(0),
                Gso::Tcp(bytes) => Some(bytes),
                // Never asked for.
                Gso::Udp { .. } | Gso::Unknown => None,
            };
            let buf = if len <= room {
                first.grow(len);
                Some(first)
            } else {
                large.map(|mut large| {
                    large.put_slice(&first.tail_mut()[..room]);
                    large.grow(len - room);
                    large
                })
            };
            let (Some(buf), Some(gro_bytes)) = (buf, gro_bytes) else {
                self.stats.rx_dropped += 1;
                continue;
            };
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += len as u64;
            return Ok(Some(RxFrame { buf: buf.freeze(), checksum: received.checksum, gro_bytes }));
        }
    }
}

/// How a write ended.
enum Written {
    Sent,
    Refused,
    Full,
}

/// Writes one frame with its header.
fn write(file: &File, name: &str, frame: &TxFrame<'_>) -> io::Result<Written> {
    let header = vnet::emit(&frame.offload);
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut parts = [empty; MAX_PARTS + 1];
    parts[0] = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
    let mut used = 1;
    for buf in frame.parts() {
        let Some(part) = parts.get_mut(used) else { return Ok(Written::Refused) };
        *part = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        used += 1;
    }
    // SAFETY: the first `used` parts name the header and the frame's views, which live until the call is over and are only
    // read.
    let count = unsafe { libc::writev(file.as_raw_fd(), parts.as_ptr(), used as i32) };
    if count >= 0 {
        return Ok(Written::Sent);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(Written::Full),
        // The interface is down, or the kernel did not like the frame.
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EFAULT) => Ok(Written::Refused),
        _ => Err(gone(&error, name)),
    }
}

/// Whether a failed read only means that nothing is there.
fn no_frame(error: &io::Error, name: &str) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::EIO) => Ok(()),
        _ => Err(gone(error, name)),
    }
}

fn gone(error: &io::Error, name: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}: was the interface deleted?"))
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn short(header: &[u8; vnet::BYTES]) -> [u8; vnet::SHORT_BYTES] {
    let [a, b, c, d, e, f, g, h, i, j, ..] = *header;
    [a, b, c, d, e, f, g, h, i, j]
}

impl Device for Tap {
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
        for count in 0..max {
            match self.read()? {
                Some(frame) => into.push(frame),
                None => return Ok(count),
            }
        }
        Ok(max)
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let Tap { file, name, stats, .. } = self;
        let mut failed = None;
        let taken = queue.pop_while(|frame| match write(file, name, frame) {
            Ok(Written::Sent) => {
                stats.tx_frames += 1;
                stats.tx_bytes += frame.len() as u64;
                true
            }
            Ok(Written::Refused) => {
                stats.tx_dropped += 1;
                true
            }
            Ok(Written::Full) => {
                stats.tx_full += 1;
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        failed.map_or(Ok(taken), Err)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }
}

/// Bytes a slot must hold for a frame of an interface with this MTU: Ethernet header and a VLAN tag on top.
fn frame_bytes(mtu: u16) -> usize {
    usize::from(mtu) + 18
}
