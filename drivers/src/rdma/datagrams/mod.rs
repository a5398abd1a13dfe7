//! Datagrams: sockets, the peers they send to, and one queue pair that carries all of it.
//!
//! A port is one of the connection manager's for datagrams, so whoever binds it twice is refused by the kernel, be it in another
//! program. Whoever sends to a port has the manager ask for its queue pair first (InfiniBand's service resolution), which tells a port
//! that nobody has from one that is silent; what was learnt is asked again every few seconds while it is used. In front of each
//! datagram is a header ([`proto::datagram`](super::proto::datagram)) by which the one queue pair's datagrams find their sockets.
//!
//! ```text
//!  socket ── poll_send_to ──► Peer ── known? ──► DatagramQueue ── flush: one doorbell ──► adapter
//!                              └─ not yet: waits, bounded; asked for by rdma_cm
//!  socket ◄── its queue, bounded ── port and addresses ── header, checked ◄── slot ◄── adapter
//! ```
//!
//! What has no room is dropped and counted, as UDP's is; nothing here is sent twice, cut up, or put in order.

mod calls;
mod deliver;
mod peers;
mod resolve;
mod socket;
#[cfg(test)]
mod tests;

use core::task::Waker;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::fellows::Fellow;
use super::verbs::cm::{Id, Kind};
use super::verbs::ud::DatagramQueue;
use crate::sockets::table::Table;
use crate::time::Instant;
use crate::transport::{Handle, Protocol, SocketEntry, TcpState};
use peers::Peers;
use socket::Socket;

/// What is counted, under the names that Linux has for UDP's.
#[derive(Debug, Default)]
struct Counters {
    in_datagrams: u64,
    out_datagrams: u64,
    /// Headers that are wrong, or lie, and completions that failed.
    in_errors: u64,
    no_ports: u64,
    /// Datagrams that found their socket's queue full.
    rcvbuf_errors: u64,
    /// Datagrams that found too many waiting in all sockets.
    mem_errors: u64,
    /// Datagrams whose peer was not found, or not in time.
    unresolved: u64,
}

/// Sockets by what leads to them.
type Index<K> = HashMap<K, SmallVec<[Handle; 1]>>;

/// The sockets of a transport, and what they share.
#[derive(Debug)]
pub(super) struct Datagrams {
    sockets: Table<Socket>,
    ports: Index<u16>,
    /// Connected sockets by their peer.
    connected: Index<SocketAddr>,
    peers: Peers,
    /// From the first socket on.
    queue: Option<DatagramQueue>,
    /// Sockets that wait for room in the queue.
    senders: Vec<Handle>,
    /// Datagrams that wait in all sockets, and how many may.
    queued: usize,
    queued_limit: usize,
    /// The queue pair has failed: it is made anew when it is flushed.
    failed: bool,
    counters: Counters,
    /// By which whoever is asked knows this transport again.
    who: u64,
}

impl Datagrams {
    /// No sockets yet, in which `queued_limit` datagrams may wait.
    pub(super) fn new(queued_limit: usize) -> Datagrams {
        Datagrams {
            sockets: Table::new(),
            ports: Index::new(),
            connected: Index::new(),
            peers: Peers::new(),
            queue: None,
            senders: Vec::new(),
            queued: 0,
            queued_limit: queued_limit.max(1),
            failed: false,
            counters: Counters::default(),
            who: RandomState::new().build_hasher().finish(),
        }
    }

    /// Sockets open.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Datagrams that are in line or with the adapter.
    pub(super) fn unsent(&self) -> usize {
        self.queue.as_ref().map_or(0, DatagramQueue::unsent)
    }

    /// Whether receives are missing for which there was no slot.
    #[inline]
    #[cfg(test)]
    pub(super) fn is_short(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.missing() > 0)
    }

    /// When something is to be done though nothing happens.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.peers.deadline()
    }

    /// The device is gone: every socket hears of it.
    pub(super) fn lose(&mut self, wakes: &mut Vec<Waker>) {
        self.senders.clear();
        for socket in self.sockets.iter_mut() {
            socket.gone = true;
            socket.wake_both(wakes);
        }
    }

    /// Every socket, as `ss` lists it.
    pub(super) fn list(&self) -> impl Iterator<Item = SocketEntry> + '_ {
        self.sockets.iter().map(|socket| {
            let state = if socket.remote.is_some() { TcpState::Established } else { TcpState::Closed };
            let mut entry = SocketEntry::new(Protocol::Udp, state, socket.local_addr());
            (entry.remote, entry.recv_queue) = (socket.peer_addr(), socket.queued_bytes() as u64);
            entry
        })
    }

    /// What hears a port is this core's now.
    pub(super) fn take_ears(&mut self, to: Handle, ids: Vec<Id>) {
        if let Some(socket) = self.sockets.get_mut(to) {
            socket.ids.extend(ids);
        }
    }

    /// This core serves nothing any more.
    pub(super) fn leave(&mut self, fellow: &Fellow) {
        for socket in self.sockets.iter_mut() {
            fellow.leave(Kind::Datagrams, socket.bound, socket.handle, std::mem::take(&mut socket.ids));
        }
    }

    /// What was counted.
    pub(super) fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let counters = &self.counters;
        [
            ("RdmaUdpInDatagrams", counters.in_datagrams),
            ("RdmaUdpOutDatagrams", counters.out_datagrams),
            ("RdmaUdpInErrors", counters.in_errors),
            ("RdmaUdpNoPorts", counters.no_ports),
            ("RdmaUdpRcvbufErrors", counters.rcvbuf_errors),
            ("RdmaUdpMemErrors", counters.mem_errors),
            ("RdmaUdpUnresolved", counters.unresolved),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
    }
}

fn enter<K: std::hash::Hash + Eq>(index: &mut Index<K>, key: K, handle: Handle) {
    index.entry(key).or_default().push(handle);
}

fn leave<K: std::hash::Hash + Eq>(index: &mut Index<K>, key: K, handle: Handle) {
    if let Some(handles) = index.get_mut(&key) {
        handles.retain(|one| *one != handle);
        if handles.is_empty() {
            index.remove(&key);
        }
    }
}

/// `address` without what names a link, and IPv4's in its own form.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `address` as the user of a socket sees it that is IPv6's, or not.
fn as_seen_by(v6: bool, address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

#[cold]
fn no_destination() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the UDP socket has no peer: connect it, or send to an address",
    )
}

#[cold]
fn too_long(len: usize, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "a datagram of {len} bytes does not fit a packet of the RDMA device: send at most {limit}, or raise the MTU of its interface"
        ),
    )
}
