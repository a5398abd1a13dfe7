//! One socket: its receive queue, its peer, its waiters.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::verbs::cm::Id;
use super::{as_seen_by, canonical};
use crate::mem::Buf;
use crate::sockets::remember;
use crate::transport::{DatagramOptions, Handle};

/// What a waiting datagram costs beyond its bytes: the slot it lies in. Linux counts as much for a small one.
const OVERHEAD_BYTES: usize = 768;
/// Bytes that may wait, unless the socket's user says otherwise: Linux's default.
pub(super) const RECV_BUFFER_BYTES: usize = 212_992;

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    /// Its own.
    pub(super) handle: Handle,
    /// Held for what dropping them does: nobody finds the port any more. None where another core hears for this one.
    pub(super) ids: Vec<Id>,
    /// What it is bound to, IPv4's in its own form; an unspecified address is all of its kind.
    pub(super) bound: SocketAddr,
    /// Its user's addresses are IPv6's.
    pub(super) v6: bool,
    pub(super) options: DatagramOptions,
    /// The peer, when connected, and our address towards it.
    pub(super) remote: Option<SocketAddr>,
    own: Option<IpAddr>,
    queue: VecDeque<(Buf, SocketAddr)>,
    queued_bytes: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// In the list of those that wait for room.
    pub(super) waits: bool,
    /// What the next call fails with.
    pub(super) error: Option<io::ErrorKind>,
    /// The device is no more.
    pub(super) gone: bool,
    /// Where the latest datagram went: its receiver as it was named, and what is known of that.
    pub(super) latest: Option<(SocketAddr, Handle)>,
}

impl Socket {
    /// A socket that is found by `ids`.
    pub(super) fn new(
        handle: Handle,
        ids: Vec<Id>,
        bound: SocketAddr,
        v6: bool,
        options: DatagramOptions,
    ) -> Socket {
        Socket {
            handle,
            ids,
            bound,
            v6,
            options,
            remote: None,
            own: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            reader: None,
            writer: None,
            waits: false,
            error: None,
            gone: false,
            latest: None,
        }
    }

    /// How well it fits a datagram: 0 is not at all.
    #[inline]
    pub(super) fn score(&self, from: SocketAddr, to: IpAddr) -> u8 {
        let bound = self.bound.ip();
        let (is_ours, exact) = match bound.is_unspecified() {
            true => (bound.is_ipv4() == to.is_ipv4() || bound.is_ipv6() && !self.options.only_v6, 0),
            false => (bound == to, 1),
        };
        match self.remote {
            _ if !is_ours => 0,
            None => 1 + exact,
            Some(remote) if remote == from && self.own.is_none_or(|own| own == to) => 3 + exact,
            Some(_) => 0,
        }
    }

    /// Queues a datagram of `from` and takes out who waits for it; `false` when there is no room. An empty queue takes any one.
    #[inline]
    pub(super) fn queue(&mut self, payload: Buf, from: SocketAddr, wakes: &mut Vec<Waker>) -> bool {
        let cost = payload.len() + OVERHEAD_BYTES;
        let limit = self.options.recv_buffer_bytes.unwrap_or(RECV_BUFFER_BYTES);
        if self.queued_bytes + cost > limit && !self.queue.is_empty() {
            return false;
        }
        self.queued_bytes += cost;
        self.queue.push_back((payload, from));
        wakes.extend(self.reader.take());
        true
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<(Buf, SocketAddr)> {
        let (payload, from) = self.queue.pop_front()?;
        self.queued_bytes -= payload.len() + OVERHEAD_BYTES;
        Some((payload, as_seen_by(self.v6, from)))
    }

    pub(super) fn front(&self) -> Option<(Buf, SocketAddr)> {
        let (payload, from) = self.queue.front()?;
        Some((payload.clone(), as_seen_by(self.v6, *from)))
    }

    /// Datagrams that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that wait, each datagram counted with what it costs to keep.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Sets or clears the peer, and our address towards it; answers how many datagrams of others were dropped.
    pub(super) fn set_peer(&mut self, peer: Option<(SocketAddr, IpAddr)>) -> usize {
        (self.remote, self.own) = (peer.map(|(remote, _)| remote), peer.map(|(_, own)| own));
        (self.latest, self.error) = (None, None);
        let Some(remote) = self.remote else { return 0 };
        let before = self.queue.len();
        self.queue.retain(|(_, from)| *from == remote);
        self.queued_bytes = self.queue.iter().map(|(payload, _)| payload.len() + OVERHEAD_BYTES).sum();
        before - self.queue.len()
    }

    /// The address of `remote` as it is on the wire, if this socket can send there.
    pub(super) fn reachable(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        let peer = canonical(remote);
        let bound = self.bound.ip();
        let both = bound.is_unspecified() && bound.is_ipv6() && !self.options.only_v6;
        let what = if remote.is_ipv4() && self.v6 || !both && bound.is_ipv4() != peer.is_ipv4() {
            format!("{remote} is of an IP version that the socket's own address is not")
        } else if peer.port() == 0 {
            format!("{remote}: port 0 is nobody's")
        } else if peer.ip().is_unspecified() {
            format!("{remote}: this address is nobody's")
        } else {
            return Ok(peer);
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    /// The pending error.
    #[inline]
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        if self.gone {
            return Some(io::Error::new(io::ErrorKind::NetworkDown, "the RDMA device is gone"));
        }
        self.error.take().map(io::Error::from)
    }

    /// Whether a call would have something to say at once.
    pub(super) fn has_error(&self) -> bool {
        self.gone || self.error.is_some()
    }

    /// Reports a pending error, or remembers who waits for a datagram.
    pub(super) fn wait_to_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(error) = self.take_error() {
            return Poll::Ready(error);
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    pub(super) fn wake_both(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
    }

    /// This end's address, as its user sees it.
    pub(super) fn local_addr(&self) -> SocketAddr {
        match self.own {
            Some(own) => as_seen_by(self.v6, SocketAddr::new(own, self.bound.port())),
            None => as_seen_by(self.v6, self.bound),
        }
    }

    /// The peer's, likewise.
    pub(super) fn peer_addr(&self) -> Option<SocketAddr> {
        self.remote.map(|remote| as_seen_by(self.v6, remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str, options: DatagramOptions) -> Socket {
        let bound: SocketAddr = text.parse().unwrap();
        Socket::new(
            Handle { index: 0, generation: 0 },
            Vec::new(),
            canonical(bound),
            bound.is_ipv6(),
            options,
        )
    }

    #[test]
    fn the_socket_that_says_most_of_a_datagram_has_it() {
        let (from, to) = ("10.77.0.1:5000".parse().unwrap(), "10.77.0.2".parse().unwrap());
        let any = bound("0.0.0.0:7", DatagramOptions::default());
        let exact = bound("10.77.0.2:7", DatagramOptions::default());
        let both = bound("[::]:7", DatagramOptions::default());
        let six = bound("[::]:7", DatagramOptions { only_v6: true, ..DatagramOptions::default() });
        let mut connected = bound("0.0.0.0:7", DatagramOptions::default());
        connected.set_peer(Some((from, to)));
        assert!(any.score(from, to) == both.score(from, to) && any.score(from, to) > 0);
        assert!(exact.score(from, to) > any.score(from, to));
        assert!(connected.score(from, to) > exact.score(from, to));
        assert_eq!(connected.score("10.77.0.1:5001".parse().unwrap(), to), 0);
        assert_eq!(exact.score(from, "10.77.0.3".parse().unwrap()), 0);
        assert_eq!(six.score(from, to), 0);
        assert_eq!(any.score("[fd77::1]:1".parse().unwrap(), "fd77::2".parse().unwrap()), 0);
    }

    #[test]
    fn addresses_of_another_version_and_nobodys_are_refused() {
        let reach = |own: &str, only_v6, to: &str| {
            let options = DatagramOptions { only_v6, ..DatagramOptions::default() };
            bound(own, options).reachable(to.parse().unwrap()).map_err(|error| error.kind())
        };
        let refused = Err(io::ErrorKind::InvalidInput);
        assert_eq!(reach("0.0.0.0:7", false, "10.77.0.2:7"), Ok("10.77.0.2:7".parse().unwrap()));
        assert_eq!(reach("[::]:7", false, "[::ffff:10.77.0.2]:7"), Ok("10.77.0.2:7".parse().unwrap()));
        assert_eq!(reach("[::]:7", true, "[::ffff:10.77.0.2]:7"), refused);
        assert_eq!(reach("[::]:7", false, "10.77.0.2:7"), refused, "IPv4 in its own form");
        assert_eq!(reach("0.0.0.0:7", false, "[fd77::2]:7"), refused);
        assert_eq!(reach("[fd77::1]:7", false, "[::ffff:10.77.0.2]:7"), refused);
        assert_eq!(reach("10.77.0.1:7", false, "10.77.0.2:0"), refused);
        assert_eq!(reach("10.77.0.1:7", false, "0.0.0.0:7"), refused);
    }

    #[test]
    fn a_full_queue_drops_and_a_new_peer_empties_it_of_others() {
        let pool = crate::Pool::new(&crate::PoolConfig::small(16)).unwrap();
        let mut socket = bound(
            "0.0.0.0:7",
            DatagramOptions { recv_buffer_bytes: Some(2000), ..DatagramOptions::default() },
        );
        let (one, other): (SocketAddr, SocketAddr) =
            ("10.77.0.1:1".parse().unwrap(), "10.77.0.1:2".parse().unwrap());
        let mut wakes = Vec::new();
        let mut queue = |socket: &mut Socket, bytes: usize, from| {
            socket.queue(pool.copy_from_slice(&vec![0; bytes]).unwrap(), from, &mut wakes)
        };
        assert!(queue(&mut socket, 200, one));
        assert!(queue(&mut socket, 200, other));
        assert!(!queue(&mut socket, 200, one), "no room");
        assert_eq!(socket.set_peer(Some((other, "10.77.0.2".parse().unwrap()))), 1);
        assert_eq!((socket.queued(), socket.queued_bytes()), (1, 200 + OVERHEAD_BYTES));
        assert_eq!(socket.pop().map(|(_, from)| from), Some(other));
        assert!(queue(&mut socket, 1500, other), "an empty queue takes any one datagram");
        drop(socket);
        assert_eq!(pool.stats().slots_out, 0);
    }
}
