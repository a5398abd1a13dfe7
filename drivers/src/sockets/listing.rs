//! The kernel's sockets as `ss` lists them: what the kernel says of a descriptor, and what the transport holds beside it.
//!
//! Asks the kernel several times a socket: for people and tests. What the kernel no longer tells of a socket (it may be reset at any
//! moment) is left out.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;

use super::info;
use crate::transport::{CongestionControl, Protocol, SocketEntry, TcpState};

/// Bytes or connections that the transport holds in front of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// Taken from the kernel, and not by the application yet.
    pub(crate) received: usize,
    /// Given by the application, and not to the kernel yet.
    pub(crate) to_send: usize,
}

/// A listening socket.
pub(crate) fn listener(socket: &impl AsFd, held: Held) -> Option<SocketEntry> {
    let mut entry = SocketEntry::new(Protocol::Tcp, TcpState::Listen, local(socket)?);
    // Linux keeps how many wait, and how many may, where a connection has what is unacknowledged and what is out of order.
    let info = info::tcp_info(socket).unwrap_or_default();
    entry.recv_queue = u64::from(info.unacked_segments) + held.received as u64;
    entry.send_queue = u64::from(info.sacked_segments);
    Some(entry)
}

/// A connection, or what will be one. `orphan`: the application has closed it.
pub(crate) fn stream(socket: &impl AsFd, held: Held, orphan: bool) -> Option<SocketEntry> {
    let info = info::tcp_info(socket).ok()?;
    let mut entry = SocketEntry::new(Protocol::Tcp, info.state, local(socket)?);
    entry.remote = remote(socket);
    entry.recv_queue = info.unread_bytes + held.received as u64;
    entry.send_queue = info.unacked_bytes + info.not_sent_bytes + held.to_send as u64;
    entry.orphan = orphan;
    entry.congestion = SockRef::from(socket).tcp_congestion().ok().and_then(|name| {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        CongestionControl::from_name(std::str::from_utf8(name).ok()?)
    });
    entry.info = Some(info);
    Some(entry)
}

/// A UDP socket.
pub(crate) fn datagram(socket: &impl AsFd, held: Held) -> Option<SocketEntry> {
    let remote = remote(socket);
    let state = if remote.is_some() { TcpState::Established } else { TcpState::Closed };
    let mut entry = SocketEntry::new(Protocol::Udp, state, local(socket)?);
    entry.remote = remote;
    let (received, to_send) = memory(socket).unwrap_or_default();
    entry.recv_queue = u64::from(received) + held.received as u64;
    entry.send_queue = u64::from(to_send) + held.to_send as u64;
    Some(entry)
}

fn local(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

fn remote(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).peer_addr().ok()?.as_socket()
}

/// Bytes of memory that what was received, and what is to be sent, take up: what `ss` shows as a UDP socket's queues.
fn memory(socket: &impl AsFd) -> Option<(u32, u32)> {
    // linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC is the first of nine numbers, SK_MEMINFO_WMEM_ALLOC the third.
    let mut numbers = [0u32; 9];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `numbers` is writable for `len` bytes, and any bytes are valid numbers.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, numbers.as_mut_ptr().cast(), &mut len)
    };
    (result == 0).then_some((numbers[0], numbers[2]))
}
