//! AF_XDP sockets: made, told of their memory and rings, bound; and what is wrong, when that fails.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::ring::{Descriptor, Offsets, Ring};
use super::steering::patiently;
use crate::mem::umem::Layout;
use crate::netdev::explain;

/// Options and flags of linux/if_xdp.h.
const MMAP_OFFSETS: i32 = 1;
const RX_RING: i32 = 2;
const TX_RING: i32 = 3;
const UMEM_REG: i32 = 4;
const UMEM_FILL_RING: i32 = 5;
const UMEM_COMPLETION_RING: i32 = 6;
const STATISTICS: i32 = 7;
const COPY: u16 = 1 << 1;
const ZERO_COPY: u16 = 1 << 2;
const USE_NEED_WAKEUP: u16 = 1 << 3;
const USE_SG: u16 = 1 << 4;
/// Where each ring is mapped from.
const RX_PAGE: libc::off_t = 0;
const TX_PAGE: libc::off_t = 0x8000_0000;
const FILL_PAGE: libc::off_t = 0x1_0000_0000;
const COMPLETION_PAGE: libc::off_t = 0x1_8000_0000;
/// Options of the socket layer that libc has no names for on all machines.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;

/// `struct xdp_umem_reg`.
#[repr(C)]
struct UmemReg {
    address: u64,
    bytes: u64,
    chunk_bytes: u32,
    headroom: u32,
    flags: u32,
    tx_metadata_bytes: u32,
}

/// `struct sockaddr_xdp`.
#[repr(C)]
struct Address {
    family: u16,
    flags: u16,
    interface: u32,
    queue: u32,
    shared_umem_fd: u32,
}

/// `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid_descriptors: u64,
    pub(super) tx_invalid_descriptors: u64,
    pub(super) rx_ring_full: u64,
    pub(super) fill_ring_empty: u64,
    pub(super) tx_ring_empty: u64,
}

/// How to bind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) interface: u32,
    pub(super) queue: u32,
    /// Try without copies first.
    pub(super) zero_copy: bool,
    /// Frames may be larger than a chunk.
    pub(super) several: bool,
    pub(super) rx_frames: u32,
    pub(super) tx_frames: u32,
    pub(super) busy_poll_us: u32,
}

/// A bound socket and its rings.
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    pub(super) rx: Ring<Descriptor>,
    pub(super) tx: Ring<Descriptor>,
    pub(super) fill: Ring<u64>,
    pub(super) completion: Ring<u64>,
    pub(super) zero_copy: bool,
    /// Frames can be sent and received as several chunks.
    pub(super) several: bool,
}

/// Opens a socket on the memory that `layout` describes. Each attempt takes a new one: a socket that a driver has refused is of no
/// use any more.
pub(super) fn open(name: &str, layout: &Layout, binding: &Binding) -> io::Result<Bound> {
    let mut refusal = None;
    let ways = [(true, true), (true, false), (false, true), (false, false)];
    for (zero_copy, several) in ways {
        if (zero_copy && !binding.zero_copy) || (several && !binding.several && !zero_copy) {
            continue;
        }
        match attempt(name, layout, binding, zero_copy, several) {
            Ok(bound) => return Ok(bound),
            Err(Refused::Final(error)) => return Err(error),
            Err(Refused::Way(error)) => refusal = Some(error),
        }
    }
    let error = refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
    let cure = match error.raw_os_error() {
        Some(libc::EBUSY) => "the queue is taken: end the other program, or take another queue",
        Some(libc::EINVAL) => "there is no such queue (ethtool -l), or the kernel is older than 5.9",
        Some(libc::ENETDOWN) => "the interface is down: ip link set it up",
        Some(libc::ENODEV) => "the interface is gone",
        Some(libc::EPERM | libc::EACCES) => {
            "no CAP_NET_RAW: run as root, or setcap cap_net_raw+ep the program"
        }
        _ => "",
    };
    Err(explain(&error, &format!("{name}: bind to queue {}", binding.queue), cure))
}

/// Why an attempt came to nothing.
enum Refused {
    /// Another way may do.
    Way(io::Error),
    /// No way will.
    Final(io::Error),
}

fn attempt(
    name: &str,
    layout: &Layout,
    binding: &Binding,
    zero_copy: bool,
    several: bool,
) -> Result<Bound, Refused> {
    let step = |doing: &str, cure: &'static str| {
        let doing = format!("{name}: {doing}");
        move |error: io::Error| Refused::Final(explain(&error, &doing, cure))
    };
    let socket = make(name).map_err(Refused::Final)?;
    let fd = socket.as_fd();
    let area = UmemReg {
        address: layout.base.as_ptr().addr() as u64,
        bytes: layout.bytes as u64,
        chunk_bytes: layout.small_bytes as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_bytes: 0,
    };
    set(fd, libc::SOL_XDP, UMEM_REG, &area).map_err(step(
        "register the packet memory",
        "raise the limit of locked memory (ulimit -l), or make the pool smaller",
    ))?;
    let rings = step("make the rings", "ring sizes are powers of two; ask for fewer frames");
    let sizes = [
        (UMEM_FILL_RING, binding.rx_frames),
        (UMEM_COMPLETION_RING, binding.tx_frames),
        (RX_RING, binding.rx_frames),
        (TX_RING, binding.tx_frames),
    ];
    let sized = || sizes.iter().try_for_each(|(option, frames)| set(fd, libc::SOL_XDP, *option, frames));
    sized().map_err(rings)?;
    let map = || {
        let [rx, tx, fill, completion] = offsets(fd)?;
        Ok((
            Ring::map(fd, RX_PAGE, &rx, binding.rx_frames)?,
            Ring::map(fd, TX_PAGE, &tx, binding.tx_frames)?,
            Ring::map(fd, FILL_PAGE, &fill, binding.rx_frames)?,
            Ring::map(fd, COMPLETION_PAGE, &completion, binding.tx_frames)?,
        ))
    };
    let (rx, tx, fill, completion) = map().map_err(step("map the rings", ""))?;
    if binding.busy_poll_us > 0 {
        let busy = || {
            set(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32)?;
            set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &binding.busy_poll_us)?;
            set(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &64i32)
        };
        busy().map_err(step(
            "ask for busy polling",
            "the kernel is older than 5.11, or CAP_NET_ADMIN is missing",
        ))?;
    }
    let mut flags = USE_NEED_WAKEUP | if zero_copy { ZERO_COPY } else { COPY };
    if several {
        flags |= USE_SG;
    }
    let address = Address {
        family: libc::AF_XDP as u16,
        flags,
        interface: binding.interface,
        queue: binding.queue,
        shared_umem_fd: 0,
    };
    patiently(|| bind(fd, &address)).map_err(Refused::Way)?;
    Ok(Bound { socket, rx, tx, fill, completion, zero_copy, several })
}

fn make(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        let cure = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "no CAP_NET_RAW: run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf+ep the program"
            }
            Some(libc::EAFNOSUPPORT) => "the kernel was built without AF_XDP",
            _ => "",
        };
        return Err(explain(&error, &format!("{name}: open an AF_XDP socket"), cure));
    }
    // SAFETY: `fd` was just made and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T: ?Sized>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let bytes = size_of_val(value) as libc::socklen_t;
    // SAFETY: the option's value is the `bytes` bytes of `value`, which are only read.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), bytes)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option of the socket's into `value`, which is plain numbers.
fn get<T: Copy>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &mut T) -> io::Result<usize> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: at most `bytes` bytes are written, to `value`, of which any bytes are a value.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, std::ptr::from_mut(value).cast(), &mut bytes)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes as usize) }
}

/// Where the parts of the rings lie: received, transmitted, fill, completion.
fn offsets(socket: BorrowedFd<'_>) -> io::Result<[Offsets; 4]> {
    let mut raw = [[0u64; 4]; 4];
    if get(socket, libc::SOL_XDP, MMAP_OFFSETS, &mut raw)? != size_of_val(&raw) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is older than 5.4"));
    }
    Ok(raw.map(|[producer, consumer, descriptors, flags]| Offsets { producer, consumer, descriptors, flags }))
}

fn bind(socket: BorrowedFd<'_>, address: &Address) -> io::Result<()> {
    let bytes = size_of::<Address>() as libc::socklen_t;
    // SAFETY: `address` is laid out as `struct sockaddr_xdp`, and only read.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(address).cast(), bytes) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel send what is in the ring.
pub(super) fn kick_tx(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: sends nothing but what is in the ring; no memory is passed.
    let answer = unsafe { libc::sendto(fd, std::ptr::null(), 0, flags, std::ptr::null(), 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the driver look for frames, and at the fill ring.
pub(super) fn kick_rx(socket: BorrowedFd<'_>) {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: receives nothing but into the ring; no memory is passed. What goes wrong, the socket's error tells.
    unsafe { libc::recvfrom(fd, std::ptr::null_mut(), 0, flags, std::ptr::null_mut(), std::ptr::null_mut()) };
}

/// What the kernel has counted since the socket was made.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> Statistics {
    let mut statistics = Statistics::default();
    let _ = get(socket, libc::SOL_XDP, STATISTICS, &mut statistics);
    statistics
}

/// The error the socket was left with, which is thereby cleared; 0: none.
pub(super) fn take_error(socket: BorrowedFd<'_>) -> i32 {
    let mut error = 0i32;
    let _ = get(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error);
    error
}
