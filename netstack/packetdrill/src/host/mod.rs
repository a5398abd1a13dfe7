//! The socket interface of C over one stack: descriptors, blocking and non-blocking calls, `errno`.
//!
//! Owns the stack, the device below it, the descriptors and the virtual time. A call that may block is an [`Op`]: it is tried,
//! and tried again when something may have changed, by whoever has the time to wait. Nothing here blocks.

mod device;
mod errno;
mod op;
mod options;
mod ready;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::task::{Context, Waker};
use std::time::Duration;

use demi_drivers::transport::{
    DatagramId, DatagramOptions, KeepAlive, ListenOptions, ListenerId, StreamId, StreamOptions, TcpInfo,
    TcpState,
};
use demi_drivers::{Instant, Transport};
use demi_netstack::{Cidr, Stack};

use crate::command::Settings;
use crate::flags::{Flags, IpVersion};
use device::Memory;

pub(crate) use device::Link;
pub(crate) use errno::Errno;
pub(crate) use op::{Done, Op, Waiting};
pub(crate) use options::OptionValue;
pub(crate) use ready::{EpollChange, Watch};

/// When a host's time begins: late enough that nothing lies before zero.
pub(crate) const START: Instant = Instant::from_millis(1_000_000);
/// Turns at one time before a host counts as restless.
const MAX_TURNS: usize = 1000;
/// Descriptors that a process has open from the start.
const FIRST_FD: i32 = 3;

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// A stack with the socket interface above it.
pub(crate) struct Host {
    pub(crate) stack: Stack,
    pub(crate) link: Link,
    pub(crate) now: Instant,
    fds: BTreeMap<i32, Descriptor>,
    keepalive: KeepAlive,
    /// Connects may send data with the SYN.
    fast_open_client: bool,
}

/// An open descriptor.
struct Descriptor {
    nonblocking: bool,
    kind: Kind,
}

enum Kind {
    Tcp(Box<Tcp>),
    Udp(Box<Udp>),
    Epoll(Vec<Watch>),
}

/// A TCP socket.
struct Tcp {
    state: State,
    v6: bool,
    only_v6: bool,
    local: Option<SocketAddr>,
    options: StreamOptions,
    /// Connections at a time whose data may come with the SYN (`TCP_FASTOPEN`).
    fast_open: Option<u32>,
    /// How long connections wait for data before they are accepted (`TCP_DEFER_ACCEPT`).
    defer_accept: Option<Duration>,
    /// What keepalive is to be like when it is turned on.
    keepalive: KeepAlive,
    /// Connections taken from the listener to see whether there are any.
    accepted: VecDeque<(StreamId, SocketAddr)>,
    /// An error that was noticed and not told yet.
    error: Option<Errno>,
    recv_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    shut_read: bool,
    shut_write: bool,
}

enum State {
    /// Neither connects nor listens.
    Fresh,
    Listening(ListenerId),
    /// The result of the connect has not been told.
    Connecting(StreamId),
    Connected(StreamId),
}

/// A UDP socket.
struct Udp {
    v6: bool,
    only_v6: bool,
    id: Option<DatagramId>,
    local: Option<SocketAddr>,
    options: DatagramOptions,
    connected: bool,
}

impl Tcp {
    fn stream(&self) -> Option<StreamId> {
        match self.state {
            State::Connecting(id) | State::Connected(id) => Some(id),
            _ => None,
        }
    }
}

/// Nobody sleeps on a waker here: what waits is tried again.
fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// An IPv4 address in the IPv6 form goes as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Host {
    /// A host with the addresses and the link of `flags`, whose stack is told `settings`.
    pub(crate) fn new(flags: &Flags, version: IpVersion, settings: &Settings) -> io::Result<Host> {
        let (device, link) = Memory::new(flags.mtu(version), flags.segment_bytes)?;
        let mut config = settings.stack.clone();
        let (local, gateway) = (flags.local(version), flags.gateway(version));
        let prefix = if local.is_ipv6() { 48 } else { 16 };
        let invalid =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("{local}/{prefix} is no address"));
        config.addresses = vec![Cidr::new(local, prefix).ok_or_else(invalid)?];
        config.gateways = vec![gateway];
        // The same numbers in every run.
        config.secret = *b"packetdrill-runs";
        let fast_open_client = config.tcp.fast_open.client;
        let stack = Stack::new(Box::new(device), config)?;
        let keepalive = settings.keepalive;
        Ok(Host { stack, link, now: START, fds: BTreeMap::new(), keepalive, fast_open_client })
    }

    // ---- time ----

    /// Lets the stack work at the present time until nothing is left to do; `between` runs in the middle of each turn, as
    /// the tasks of a runtime would, and answers whether it did something.
    pub(crate) fn settle(&mut self, mut between: impl FnMut(&mut Host) -> bool) -> io::Result<()> {
        let mut idle = 0;
        for _ in 0..MAX_TURNS {
            let events = self.stack.poll(self.now)?;
            let acted = between(self);
            self.stack.flush(self.now)?;
            let busy = events > 0 || acted || self.link.is_busy();
            // What a flush has put into the stack's own queues is due at once; the rest waits for a timer's next tick.
            let due = self.stack.deadline().is_some_and(|deadline| deadline <= self.now);
            idle = if busy { 0 } else { idle + 1 };
            if !busy && (!due || idle > 2) {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("the stack does not come to rest at {:?}", self.now)))
    }

    /// The next time, not after `limit`, at which something happens by itself.
    pub(crate) fn next_event(&self, limit: Instant) -> Instant {
        self.stack.deadline().map_or(limit, |deadline| deadline.max(self.now).min(limit))
    }

    // ---- descriptors ----

    fn insert(&mut self, descriptor: Descriptor) -> i32 {
        let fd = (FIRST_FD..).find(|fd| !self.fds.contains_key(fd)).unwrap_or(FIRST_FD);
        self.fds.insert(fd, descriptor);
        fd
    }

    /// Gives a descriptor another number, which must be free.
    pub(crate) fn renumber(&mut self, from: i32, to: i32) {
        if let Some(descriptor) = self.fds.remove(&from) {
            self.fds.insert(to, descriptor);
        }
    }

    fn descriptor(&mut self, fd: i32) -> Result<&mut Descriptor> {
        self.fds.get_mut(&fd).ok_or(Errno(libc::EBADF))
    }

    fn tcp(&mut self, fd: i32) -> Result<&mut Tcp> {
        match &mut self.descriptor(fd)?.kind {
            Kind::Tcp(tcp) => Ok(tcp),
            Kind::Udp(_) => Err(Errno(libc::EOPNOTSUPP)),
            Kind::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    fn is_v6(&mut self, fd: i32) -> Result<bool> {
        match &self.descriptor(fd)?.kind {
            Kind::Tcp(tcp) => Ok(tcp.v6),
            Kind::Udp(udp) => Ok(udp.v6),
            Kind::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    /// The connection of a descriptor.
    pub(crate) fn stream_of(&self, fd: i32) -> Option<StreamId> {
        match &self.fds.get(&fd)?.kind {
            Kind::Tcp(tcp) => tcp.stream(),
            _ => None,
        }
    }

    /// Descriptors of connections, and their connections.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (i32, StreamId)> + '_ {
        self.fds.keys().filter_map(|fd| Some((*fd, self.stream_of(*fd)?)))
    }

    /// Local addresses of UDP sockets.
    pub(crate) fn datagram_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.fds.values().filter_map(|descriptor| match &descriptor.kind {
            Kind::Udp(udp) => Some(self.stack.datagram_addr(udp.id?).ok()?.port()),
            _ => None,
        })
    }

    /// Whether a socket listens on `port`.
    pub(crate) fn listens_on(&self, port: u16) -> bool {
        self.fds.values().any(|descriptor| match &descriptor.kind {
            Kind::Tcp(tcp) => match tcp.state {
                State::Listening(id) => self.stack.listener_addr(id).is_ok_and(|local| local.port() == port),
                _ => false,
            },
            _ => false,
        })
    }

    /// Whether a TCP socket listens; `None`: it is none.
    pub(crate) fn is_listening(&self, fd: i32) -> Option<bool> {
        match &self.fds.get(&fd)?.kind {
            Kind::Tcp(tcp) => Some(matches!(tcp.state, State::Listening(_))),
            _ => None,
        }
    }

    /// What `TCP_INFO` answers.
    pub(crate) fn info(&self, fd: i32) -> Result<TcpInfo> {
        let stream = self.stream_of(fd).ok_or(Errno(libc::EINVAL))?;
        Ok(self.stack.tcp_info(stream)?)
    }

    // ---- calls that never wait ----

    /// `socket(2)`; `kind` may carry `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
    pub(crate) fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<i32> {
        let v6 = match domain {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return Err(Errno(libc::EAFNOSUPPORT)),
        };
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        let kind = match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Kind::Tcp(Box::new(Tcp {
                state: State::Fresh,
                v6,
                only_v6: false,
                local: None,
                options: StreamOptions::default(),
                fast_open: None,
                defer_accept: None,
                keepalive: self.keepalive,
                accepted: VecDeque::new(),
                error: None,
                recv_timeout: None,
                send_timeout: None,
                shut_read: false,
                shut_write: false,
            })),
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Kind::Udp(Box::new(Udp {
                v6,
                only_v6: false,
                id: None,
                local: None,
                options: DatagramOptions::default(),
                connected: false,
            })),
            (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
            _ => return Err(Errno(libc::EINVAL)),
        };
        Ok(self.insert(Descriptor { nonblocking, kind }))
    }

    /// `bind(2)`
    pub(crate) fn bind(&mut self, fd: i32, local: SocketAddr) -> Result<()> {
        if self.is_v6(fd)? != local.is_ipv6() {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        let ip = canonical(local).ip();
        if !ip.is_unspecified() && !ip.is_multicast() && !self.stack.addresses().contains(&ip) {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        let taken = self.is_taken(fd, local);
        match &mut self.descriptor(fd)?.kind {
            Kind::Tcp(tcp) => {
                if tcp.local.is_some() || !matches!(tcp.state, State::Fresh) {
                    return Err(Errno(libc::EINVAL));
                }
                if taken {
                    return Err(Errno(libc::EADDRINUSE));
                }
                tcp.local = Some(local);
                Ok(())
            }
            Kind::Udp(udp) => {
                if udp.id.is_some() {
                    return Err(Errno(libc::EINVAL));
                }
                let mut options = udp.options.clone();
                options.only_v6 = udp.only_v6;
                udp.local = Some(local);
                let id = self.stack.bind_datagram(local, &options)?;
                if let Kind::Udp(udp) = &mut self.descriptor(fd)?.kind {
                    udp.id = Some(id);
                }
                Ok(())
            }
            Kind::Epoll(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    /// Whether another TCP socket is bound to an address, and the two may not share it.
    fn is_taken(&self, fd: i32, local: SocketAddr) -> bool {
        let Some(Descriptor { kind: Kind::Tcp(own), .. }) = self.fds.get(&fd) else { return false };
        local.port() != 0
            && self.fds.iter().any(|(other_fd, other)| {
                let Kind::Tcp(other) = &other.kind else { return false };
                let Some(bound) = other.local.filter(|bound| bound.port() == local.port()) else {
                    return false;
                };
                let listening = matches!(other.state, State::Listening(_));
                let both_reuse = own.options.reuse_address && other.options.reuse_address && !listening;
                let shared = both_reuse || (own.options.reuse_port && other.options.reuse_port);
                let overlaps =
                    bound.ip() == local.ip() || bound.ip().is_unspecified() || local.ip().is_unspecified();
                *other_fd != fd && overlaps && !shared
            })
    }

    /// The address that stands for "any" on a socket of that version.
    fn any(v6: bool) -> SocketAddr {
        let ip = if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        SocketAddr::new(ip, 0)
    }

    /// `listen(2)`
    pub(crate) fn listen(&mut self, fd: i32, backlog: i32) -> Result<()> {
        let tcp = self.tcp(fd)?;
        match tcp.state {
            State::Fresh => {}
            State::Listening(_) => return Ok(()),
            _ => return Err(Errno(libc::EINVAL)),
        }
        let mut options = ListenOptions::default();
        // Linux lets one more wait than it was told; a negative number is a large one.
        options.backlog = u32::try_from(backlog).map_or(4096, |backlog| backlog.min(4096)) + 1;
        options.only_v6 = tcp.only_v6;
        options.fast_open = tcp.fast_open;
        options.defer_accept = tcp.defer_accept;
        options.stream = tcp.options.clone();
        let local = tcp.local.unwrap_or(Host::any(tcp.v6));
        let id = self.stack.listen(canonical(local), &options)?;
        self.tcp(fd)?.state = State::Listening(id);
        Ok(())
    }

    /// `shutdown(2)`
    pub(crate) fn shutdown(&mut self, fd: i32, how: i32) -> Result<()> {
        let shutdown = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno(libc::EINVAL)),
        };
        if let Kind::Udp(udp) = &self.descriptor(fd)?.kind {
            return if udp.connected { Ok(()) } else { Err(Errno(libc::ENOTCONN)) };
        }
        let tcp = self.tcp(fd)?;
        if let State::Listening(id) = tcp.state
            && how != libc::SHUT_WR
        {
            tcp.state = State::Fresh;
            self.stack.close_listener(id);
            return Ok(());
        }
        let stream = tcp.stream().ok_or(Errno(libc::ENOTCONN))?;
        if self.stack.tcp_info(stream)?.state == TcpState::SynSent {
            // As Linux: the attempt is given up.
            self.tcp(fd)?.state = State::Fresh;
            self.stack.close(stream);
            return Ok(());
        }
        let tcp = self.tcp(fd)?;
        tcp.shut_read |= how != libc::SHUT_WR;
        tcp.shut_write |= how != libc::SHUT_RD;
        Ok(self.stack.shutdown(stream, shutdown)?)
    }

    /// `close(2)`
    pub(crate) fn close(&mut self, fd: i32) -> Result<()> {
        let descriptor = self.fds.remove(&fd).ok_or(Errno(libc::EBADF))?;
        for other in self.fds.values_mut() {
            if let Kind::Epoll(watches) = &mut other.kind {
                watches.retain(|watch| watch.fd != fd);
            }
        }
        match descriptor.kind {
            Kind::Tcp(tcp) => match tcp.state {
                State::Fresh => {}
                State::Listening(id) => {
                    self.stack.close_listener(id);
                    tcp.accepted.iter().for_each(|(stream, _)| self.stack.abort(*stream));
                }
                State::Connecting(id) | State::Connected(id) => self.stack.close(id),
            },
            Kind::Udp(udp) => udp.id.into_iter().for_each(|id| self.stack.close_datagram(id)),
            Kind::Epoll(_) => {}
        }
        Ok(())
    }

    /// `fcntl(2)`, of which F_GETFL and F_SETFL.
    pub(crate) fn fcntl(&mut self, fd: i32, command: i32, argument: i32) -> Result<i32> {
        let descriptor = self.descriptor(fd)?;
        match command {
            libc::F_GETFL => Ok(libc::O_RDWR | if descriptor.nonblocking { libc::O_NONBLOCK } else { 0 }),
            libc::F_SETFL => {
                descriptor.nonblocking = argument & libc::O_NONBLOCK != 0;
                Ok(0)
            }
            libc::F_GETFD | libc::F_SETFD => Ok(0),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// `ioctl(2)` that answer a number: SIOCINQ, SIOCOUTQ, SIOCOUTQNSD; and FIONBIO, which takes one.
    pub(crate) fn ioctl(&mut self, fd: i32, request: u64, argument: i32) -> Result<i32> {
        const SIOCOUTQNSD: u64 = 0x894b;
        if request == libc::FIONBIO {
            self.descriptor(fd)?.nonblocking = argument != 0;
            return Ok(0);
        }
        if let Kind::Udp(udp) = &self.descriptor(fd)?.kind {
            let Some(id) = udp.id.filter(|_| request == libc::FIONREAD) else { return Ok(0) };
            return Ok(match self.stack.poll_peek_from(&mut cx(), id) {
                std::task::Poll::Ready(Ok((buf, _))) => buf.len() as i32,
                _ => 0,
            });
        }
        if !matches!(request, libc::FIONREAD | libc::TIOCOUTQ | SIOCOUTQNSD) {
            return Err(Errno(libc::EINVAL));
        }
        let tcp = self.tcp(fd)?;
        if matches!(tcp.state, State::Listening(_)) {
            return Err(Errno(libc::EINVAL));
        }
        let Ok(info) = self.info(fd) else { return Ok(0) };
        let bytes = match request {
            libc::FIONREAD => info.unread_bytes,
            _ if matches!(info.state, TcpState::SynSent | TcpState::SynReceived | TcpState::Closed) => 0,
            libc::TIOCOUTQ => info.unacked_bytes + info.not_sent_bytes,
            _ => info.not_sent_bytes,
        };
        Ok(bytes as i32)
    }

    /// `getsockname(2)`
    pub(crate) fn local_addr(&mut self, fd: i32) -> Result<SocketAddr> {
        let address = match &self.descriptor(fd)?.kind {
            Kind::Tcp(tcp) => match tcp.state {
                State::Fresh => tcp.local.unwrap_or(Host::any(tcp.v6)),
                State::Listening(id) => self.stack.listener_addr(id)?,
                State::Connecting(id) | State::Connected(id) => self.stack.local_addr(id)?,
            },
            Kind::Udp(udp) => match udp.id {
                Some(id) => self.stack.datagram_addr(id)?,
                None => Host::any(udp.v6),
            },
            Kind::Epoll(_) => return Err(Errno(libc::ENOTSOCK)),
        };
        let v6 = self.is_v6(fd)?;
        Ok(as_seen(address, v6))
    }

    /// `getpeername(2)`
    pub(crate) fn peer_addr(&mut self, fd: i32) -> Result<SocketAddr> {
        let none = Errno(libc::ENOTCONN);
        let address = match &self.descriptor(fd)?.kind {
            Kind::Tcp(tcp) => {
                let id = tcp.stream().ok_or(none)?;
                self.stack.peer_addr(id)?
            }
            Kind::Udp(udp) => {
                let id = udp.id.ok_or(none)?;
                self.stack.datagram_peer(id)?
            }
            Kind::Epoll(_) => return Err(Errno(libc::ENOTSOCK)),
        };
        let v6 = self.is_v6(fd)?;
        Ok(as_seen(address, v6))
    }
}

/// An address as a socket of that version shows it: IPv4 in the IPv6 form on an IPv6 socket.
fn as_seen(address: SocketAddr, v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}
