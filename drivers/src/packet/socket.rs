//! Making and setting up AF_PACKET sockets, and saying what is wrong when that fails (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::ring::{self, RxRing, Shape, TxRing};
use crate::netdev::explain;

/// `struct packet_mreq`.
#[repr(C)]
struct Membership {
    ifindex: i32,
    kind: u16,
    address_bytes: u16,
    address: [u8; 8],
}

/// A socket with its rings, bound to an interface.
#[derive(Debug)]
pub(super) struct Ringed {
    pub(super) socket: OwnedFd,
    pub(super) rx: RxRing,
    pub(super) tx: TxRing,
    /// Whether the kernel puts a virtio header before each frame, and expects one.
    pub(super) vnet: bool,
}

/// The ring layout of `tpacket2_hdr`: the second of an enumeration that begins at 0.
const TPACKET_V2: i32 = 1;
/// Bytes of receive buffer for frames larger than a ring frame.
const LARGE_FRAME_BYTES: i32 = 8 << 20;
/// Bytes of frames handed to the interface that it has not sent yet.
const SEND_BYTES: i32 = 8 << 20;

/// Opens the socket that both rings belong to. Frames arrive from here on.
pub(super) fn open(name: &str, index: i32, rx: Shape, tx: Shape) -> io::Result<Ringed> {
    let socket = raw_socket(name)?;
    let fd = socket.as_fd();
    let step = |doing: &str| {
        let doing = format!("{name}: {doing}");
        move |error: io::Error| {
            let cure = match error.raw_os_error() {
                Some(libc::ENOMEM | libc::ENOBUFS) => "no memory for the rings: ask for fewer frames",
                _ => "",
            };
            explain(&error, &doing, cure)
        }
    };
    set(fd, libc::PACKET_VERSION, &TPACKET_V2).map_err(step("set the ring version"))?;
    // Without it partial checksums and large segments are still told apart, by the status word; nothing is offloaded.
    let vnet = set(fd, libc::PACKET_VNET_HDR, &1i32).is_ok();
    // Frames that do not fit a ring frame go to the socket's own queue, and leave a mark in the ring.
    set(fd, libc::PACKET_COPY_THRESH, &1i32).map_err(step("set the copy threshold"))?;
    set(fd, libc::PACKET_LOSS, &1i32).map_err(step("skip malformed frames"))?;
    set(fd, libc::PACKET_RX_RING, &rx.request()).map_err(step("make the receive ring"))?;
    set(fd, libc::PACKET_TX_RING, &tx.request()).map_err(step("make the transmit ring"))?;
    // Frames need not pass through queueing disciplines, and our own are not to come back. Old kernels may lack either;
    // the stack drops frames from its own address anyway.
    let _ = set(fd, libc::PACKET_QDISC_BYPASS, &1i32);
    let _ = set(fd, libc::PACKET_IGNORE_OUTGOING, &1i32);
    buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, LARGE_FRAME_BYTES);
    buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BYTES);
    let (rx, tx) = ring::map(fd, rx, tx).map_err(step("map the rings"))?;
    bind(fd, index, libc::ETH_P_ALL as u16).map_err(step("bind"))?;
    Ok(Ringed { socket, rx, tx, vnet })
}

/// Fanout by a program, and its flag that keeps frames of our own from coming back (linux/if_packet.h).
const PACKET_FANOUT_CBPF: i32 = 6;
const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: i32 = 0x4000;

/// Joins a fanout group, with the program that says which of its sockets a frame goes to.
pub(super) fn fan_out(socket: BorrowedFd<'_>, group: u16, program: &[libc::sock_filter]) -> io::Result<()> {
    let join = |flags: i32| {
        set(socket, libc::PACKET_FANOUT, &(i32::from(group) | (PACKET_FANOUT_CBPF | flags) << 16))
    };
    // Kernels before 5.17 know no such flag; the stack drops frames from its own address anyway.
    match join(PACKET_FANOUT_FLAG_IGNORE_OUTGOING) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => join(0)?,
        joined => joined?,
    }
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    set(socket, libc::PACKET_FANOUT_DATA, &program)
}

/// Opens the socket for frames that are too large for the transmit ring; it receives nothing.
pub(super) fn open_large(name: &str, index: i32) -> io::Result<OwnedFd> {
    let socket = raw_socket(name)?;
    let step = |error: io::Error| explain(&error, &format!("{name}: set up the socket for large frames"), "");
    // The queueing discipline is where the kernel cuts segments for interfaces that cannot.
    set(socket.as_fd(), libc::PACKET_VNET_HDR, &1i32).map_err(step)?;
    buffer(socket.as_fd(), libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BYTES);
    bind(socket.as_fd(), index, 0).map_err(step)?;
    Ok(socket)
}

fn raw_socket(name: &str) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: makes a new descriptor and touches no memory. Protocol 0 receives nothing until it is bound to one.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        let cure = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "no CAP_NET_RAW: run as root, or setcap cap_net_raw+ep the program"
            }
            Some(libc::EAFNOSUPPORT) => "the kernel was built without AF_PACKET",
            _ => "",
        };
        return Err(explain(&error, &format!("{name}: open an AF_PACKET socket"), cure));
    }
    // SAFETY: `fd` was just made and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T: Copy>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    set_at(socket, libc::SOL_PACKET, option, value)
}

fn set_at<T: Copy>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the option's value is the `bytes` bytes of `value`, which are only read.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), bytes)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sizes a socket buffer: beyond the machine's limit if we may, up to it if not.
fn buffer(socket: BorrowedFd<'_>, force: i32, plain: i32, bytes: i32) {
    if set_at(socket, libc::SOL_SOCKET, force, &bytes).is_err() {
        let _ = set_at(socket, libc::SOL_SOCKET, plain, &bytes);
    }
}

fn bind(socket: BorrowedFd<'_>, index: i32, protocol: u16) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let bytes = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a `sockaddr_ll` of that size, and only read.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), bytes) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the interface receive all multicast frames, and those for `mac` if it is not its own. Ends with the socket.
pub(super) fn join(socket: BorrowedFd<'_>, index: i32, mac: Option<[u8; 6]>) -> io::Result<()> {
    let member = |kind: i32, mac: Option<[u8; 6]>| {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.unwrap_or_default());
        let address_bytes = if mac.is_some() { 6 } else { 0 };
        let membership = Membership { ifindex: index, kind: kind as u16, address_bytes, address };
        set_membership(socket, &membership)
    };
    member(libc::PACKET_MR_ALLMULTI, None)?;
    match mac {
        None => Ok(()),
        // Not every interface can filter for a second address.
        Some(mac) => {
            member(libc::PACKET_MR_UNICAST, Some(mac)).or_else(|_| member(libc::PACKET_MR_PROMISC, None))
        }
    }
}

/// As [`join`], for who receives by other means: ends with the descriptor.
#[cfg(feature = "xdp")]
pub(crate) fn member(name: &str, index: i32, mac: Option<[u8; 6]>) -> io::Result<OwnedFd> {
    let socket = raw_socket(name)?;
    join(socket.as_fd(), index, mac)
        .map_err(|error| explain(&error, &format!("{name}: receive multicast frames"), ""))?;
    Ok(socket)
}

fn set_membership(socket: BorrowedFd<'_>, membership: &Membership) -> io::Result<()> {
    let bytes = size_of::<Membership>() as libc::socklen_t;
    // SAFETY: `membership` is laid out as `struct packet_mreq`, is that long, and is only read.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(membership).cast(),
            bytes,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Frames the kernel had no room for since it was last asked.
pub(super) fn take_drops(socket: BorrowedFd<'_>) -> u64 {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut bytes = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: PACKET_STATISTICS writes at most `bytes` bytes of a `tpacket_stats`, which `stats` is.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut stats).cast(),
            &mut bytes,
        )
    };
    if answer < 0 { 0 } else { u64::from(stats.tp_drops) }
}

/// The error the socket was left with, which is thereby cleared; 0: none.
pub(super) fn take_error(socket: BorrowedFd<'_>) -> i32 {
    let mut error = 0i32;
    let mut bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: SO_ERROR writes at most `bytes` bytes of an `int`, which `error` is.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            std::ptr::from_mut(&mut error).cast(),
            &mut bytes,
        );
    }
    error
}
