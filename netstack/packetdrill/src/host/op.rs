//! Calls that may have to wait: connect, accept, receive, send, poll. Each is a value that is tried until it is done.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::task::Poll;

use demi_drivers::transport::{ReadCursor, TcpState};
use demi_drivers::{Instant, Transport};

use super::{Descriptor, Errno, Host, Kind, Result, State, as_seen, canonical, cx};

/// A call under way.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Connect {
        fd: i32,
        to: Option<SocketAddr>,
        begun: bool,
    },
    /// `accept4`: with `SOCK_NONBLOCK` in `flags` the new descriptor does not block.
    Accept {
        fd: i32,
        flags: i32,
    },
    Receive {
        fd: i32,
        max: usize,
        flags: i32,
        got: Vec<u8>,
    },
    Send {
        fd: i32,
        bytes: Vec<u8>,
        to: Option<SocketAddr>,
        flags: i32,
        sent: usize,
    },
    /// Descriptors and the events wanted of them; the time to give up.
    Poll {
        fds: Vec<(i32, i16)>,
        until: Option<Instant>,
    },
    EpollWait {
        fd: i32,
        max: usize,
        until: Option<Instant>,
    },
}

/// What a call has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// What it returns.
    pub(crate) value: i64,
    /// Bytes received.
    pub(crate) bytes: Vec<u8>,
    /// The peer's address.
    pub(crate) address: Option<SocketAddr>,
    /// `MSG_TRUNC` and the like.
    pub(crate) flags: i32,
    /// Events found by `poll`, one a descriptor.
    pub(crate) revents: Vec<i16>,
    /// Events and data found by `epoll_wait`.
    pub(crate) events: Vec<(u32, u64)>,
}

impl Done {
    fn value(value: i64) -> Done {
        Done { value, ..Done::default() }
    }
}

/// `None`: it has to wait.
type Step<T> = Option<Result<T>>;

fn step<T>(poll: Poll<std::io::Result<T>>) -> Step<T> {
    match poll {
        Poll::Ready(result) => Some(result.map_err(Errno::from)),
        Poll::Pending => None,
    }
}

/// A call that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    op: Op,
    /// When it gives up.
    pub(crate) until: Instant,
    /// What it has answered, and when.
    pub(crate) answer: Option<(Instant, Result<Done>)>,
}

impl Waiting {
    /// A call that could not be answered at once; if it may not wait, what it answers instead.
    pub(crate) fn new(host: &Host, mut op: Op) -> core::result::Result<Waiting, Result<Done>> {
        match host.patience(&op) {
            Some(until) => Ok(Waiting { op, until, answer: None }),
            None => Err(op.unready()),
        }
    }

    /// Tries the call again; answers whether it has returned now.
    pub(crate) fn step(&mut self, host: &mut Host) -> bool {
        if self.answer.is_some() {
            return false;
        }
        let over = self.until <= host.now;
        let answer = host.step(&mut self.op).or_else(|| over.then(|| self.op.unready()));
        self.answer = answer.map(|result| (host.now, result));
        self.answer.is_some()
    }
}

impl Op {
    /// What it answers when it may not wait any longer.
    fn unready(&mut self) -> Result<Done> {
        match self {
            Op::Connect { .. } => Err(Errno(libc::EINPROGRESS)),
            Op::Send { sent, .. } if *sent > 0 => Ok(Done::value(*sent as i64)),
            Op::Receive { got, .. } if !got.is_empty() => {
                Ok(Done { value: got.len() as i64, bytes: core::mem::take(got), ..Done::default() })
            }
            Op::Send { flags, .. } if *flags & libc::MSG_FASTOPEN != 0 => Err(Errno(libc::EINPROGRESS)),
            _ => Err(Errno(libc::EAGAIN)),
        }
    }
}

impl Host {
    /// Tries a call. `None`: it would have to wait.
    pub(crate) fn step(&mut self, op: &mut Op) -> Step<Done> {
        match op {
            Op::Connect { fd, to, begun } => self.step_connect(*fd, *to, begun),
            Op::Accept { fd, flags } => self.step_accept(*fd, *flags),
            Op::Receive { fd, max, flags, got } => self.step_receive(*fd, *max, *flags, got),
            Op::Send { fd, bytes, to, flags, sent } => self.step_send(*fd, bytes, *to, *flags, sent),
            Op::Poll { fds, until } => {
                let revents: Vec<i16> =
                    fds.iter().map(|(fd, events)| self.poll_events(*fd, *events)).collect();
                let ready = revents.iter().filter(|events| **events != 0).count();
                let over = until.is_some_and(|until| until <= self.now);
                (ready > 0 || over).then(|| Ok(Done { value: ready as i64, revents, ..Done::default() }))
            }
            Op::EpollWait { fd, max, until } => match self.epoll_events(*fd, *max) {
                Err(errno) => Some(Err(errno)),
                Ok(events) => {
                    let over = until.is_some_and(|until| until <= self.now);
                    let value = events.len() as i64;
                    (value > 0 || over).then(|| Ok(Done { value, events, ..Done::default() }))
                }
            },
        }
    }

    /// Until when a call that has to wait may; `None`: it may not, for its descriptor or the call itself says so.
    fn patience(&self, op: &Op) -> Option<Instant> {
        let (fd, flags) = match op {
            Op::Connect { fd, .. } | Op::Accept { fd, .. } => (*fd, 0),
            Op::Receive { fd, flags, .. } | Op::Send { fd, flags, .. } => (*fd, *flags),
            Op::Poll { until, .. } | Op::EpollWait { until, .. } => {
                return Some(until.unwrap_or(Instant::FAR_FUTURE));
            }
        };
        let descriptor = self.fds.get(&fd)?;
        if descriptor.nonblocking || flags & libc::MSG_DONTWAIT != 0 {
            return None;
        }
        let timeout = match (&descriptor.kind, op) {
            (Kind::Tcp(tcp), Op::Accept { .. } | Op::Receive { .. }) => tcp.recv_timeout,
            (Kind::Tcp(tcp), _) => tcp.send_timeout,
            _ => None,
        };
        Some(timeout.map_or(Instant::FAR_FUTURE, |timeout| self.now + timeout))
    }

    /// The error that a socket has noticed before, once.
    fn noticed(&mut self, fd: i32) -> Option<Errno> {
        self.tcp(fd).ok()?.error.take()
    }

    fn step_connect(&mut self, fd: i32, to: Option<SocketAddr>, begun: &mut bool) -> Step<Done> {
        if matches!(self.fds.get(&fd), Some(Descriptor { kind: Kind::Udp(_), .. })) {
            return Some(self.connect_datagram(fd, to));
        }
        let tcp = match self.tcp(fd) {
            Ok(tcp) => tcp,
            Err(errno) => return Some(Err(errno)),
        };
        match tcp.state {
            State::Listening(_) | State::Connected(_) => return Some(Err(Errno(libc::EISCONN))),
            State::Fresh => {
                let Some(to) = to else { return Some(Err(Errno(libc::EAFNOSUPPORT))) };
                if to.is_ipv6() != tcp.v6 {
                    return Some(Err(Errno(libc::EAFNOSUPPORT)));
                }
                let (local, options) = (tcp.local, tcp.options.clone());
                // The unspecified address is this host (Linux), which is reached over its own.
                let local = local.map(|local| match local.ip().is_unspecified() {
                    true => SocketAddr::new(Host::any(canonical(to).is_ipv6()).ip(), local.port()),
                    false => canonical(local),
                });
                match self.stack.connect(canonical(to), local, &options) {
                    Ok(stream) => {
                        if let Ok(tcp) = self.tcp(fd) {
                            tcp.state = State::Connecting(stream);
                        }
                        *begun = true;
                        if options.fast_open_connect
                            && self.stack.poll_connect(&mut cx(), stream).is_ready()
                            && let Ok(tcp) = self.tcp(fd)
                        {
                            // It waits for the first write.
                            tcp.state = State::Connected(stream);
                            return Some(Ok(Done::value(0)));
                        }
                    }
                    Err(error) => return Some(Err(error.into())),
                }
                return None;
            }
            State::Connecting(_) => {}
        }
        let stream = tcp.stream()?;
        if let Some(errno) = self.noticed(fd) {
            return Some(Err(errno));
        }
        match step(self.stack.poll_connect(&mut cx(), stream)) {
            None if *begun => None,
            None => Some(Err(Errno(libc::EALREADY))),
            Some(Ok(())) => {
                // A connection that failed, and told so already, is no connection.
                let closed = self.stack.tcp_info(stream).is_ok_and(|info| info.state == TcpState::Closed);
                let tcp = self.tcp(fd).ok()?;
                if closed {
                    tcp.state = State::Fresh;
                    self.stack.close(stream);
                    return Some(Err(Errno(libc::ECONNABORTED)));
                }
                tcp.state = State::Connected(stream);
                Some(Ok(Done::value(0)))
            }
            Some(Err(errno)) => {
                // As Linux: the socket may be used for another attempt.
                if let Ok(tcp) = self.tcp(fd) {
                    tcp.state = State::Fresh;
                }
                self.stack.close(stream);
                Some(Err(errno))
            }
        }
    }

    fn connect_datagram(&mut self, fd: i32, to: Option<SocketAddr>) -> Result<Done> {
        let id = self.datagram(fd)?;
        self.stack.connect_datagram(id, to)?;
        if let Kind::Udp(udp) = &mut self.descriptor(fd)?.kind {
            udp.connected = to.is_some();
        }
        Ok(Done::value(0))
    }

    /// The UDP socket of a descriptor, which takes any port if it has none.
    fn datagram(&mut self, fd: i32) -> Result<demi_drivers::transport::DatagramId> {
        let Kind::Udp(udp) = &self.descriptor(fd)?.kind else { return Err(Errno(libc::EOPNOTSUPP)) };
        if let Some(id) = udp.id {
            return Ok(id);
        }
        let local = udp.local.unwrap_or(Host::any(udp.v6));
        let mut options = udp.options.clone();
        options.only_v6 = udp.only_v6;
        let id = self.stack.bind_datagram(local, &options)?;
        if let Kind::Udp(udp) = &mut self.descriptor(fd)?.kind {
            udp.id = Some(id);
        }
        Ok(id)
    }

    fn step_accept(&mut self, fd: i32, flags: i32) -> Step<Done> {
        let tcp = match self.tcp(fd) {
            Ok(tcp) => tcp,
            Err(errno) => return Some(Err(errno)),
        };
        let State::Listening(listener) = tcp.state else { return Some(Err(Errno(libc::EINVAL))) };
        let (v6, options, keepalive) = (tcp.v6, tcp.options.clone(), tcp.keepalive);
        let (recv_timeout, send_timeout) = (tcp.recv_timeout, tcp.send_timeout);
        let taken = tcp.accepted.pop_front().map(Ok);
        let taken = taken.or_else(|| step(self.stack.poll_accept(&mut cx(), listener)))?;
        let (stream, peer) = match taken {
            Ok(taken) => taken,
            Err(errno) => return Some(Err(errno)),
        };
        let tcp = super::Tcp {
            state: State::Connected(stream),
            v6,
            only_v6: false,
            local: None,
            options,
            fast_open: None,
            defer_accept: None,
            keepalive,
            accepted: Default::default(),
            error: None,
            recv_timeout,
            send_timeout,
            shut_read: false,
            shut_write: false,
        };
        let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        let value = self.insert(Descriptor { nonblocking, kind: Kind::Tcp(Box::new(tcp)) });
        Some(Ok(Done { value: value.into(), address: Some(as_seen(peer, v6)), ..Done::default() }))
    }

    fn step_receive(&mut self, fd: i32, max: usize, flags: i32, got: &mut Vec<u8>) -> Step<Done> {
        if matches!(self.fds.get(&fd), Some(Descriptor { kind: Kind::Udp(_), .. })) {
            return self.receive_datagram(fd, max, flags);
        }
        let stream = match self.tcp(fd).map(|tcp| tcp.stream()) {
            Ok(Some(stream)) => stream,
            Ok(None) => return Some(Err(Errno(libc::ENOTCONN))),
            Err(errno) => return Some(Err(errno)),
        };
        if flags & libc::MSG_OOB != 0 {
            // Urgent data is delivered in line (RFC 6093): there is none apart.
            return Some(Err(Errno(libc::EINVAL)));
        }
        if let Some(errno) = self.noticed(fd) {
            return Some(Err(errno));
        }
        if max == 0 {
            return Some(Ok(Done::value(0)));
        }
        let mut memory = vec![0; max - got.len()];
        let mut cursor = ReadCursor::new(&mut memory);
        let polled = match flags & libc::MSG_PEEK != 0 {
            true => self.stack.poll_peek(&mut cx(), stream, &mut cursor),
            false => self.stack.poll_read(&mut cx(), stream, &mut cursor),
        };
        let filled = cursor.filled();
        let result = match step(polled)? {
            Ok(()) => {
                got.extend_from_slice(memory.get(..filled).unwrap_or_default());
                let wants_more = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
                if wants_more && filled > 0 && got.len() < max {
                    return None;
                }
                Ok(Done { value: got.len() as i64, bytes: core::mem::take(got), ..Done::default() })
            }
            Err(_) if !got.is_empty() => {
                Ok(Done { value: got.len() as i64, bytes: core::mem::take(got), ..Done::default() })
            }
            Err(errno) => Err(errno),
        };
        Some(result)
    }

    fn receive_datagram(&mut self, fd: i32, max: usize, flags: i32) -> Step<Done> {
        let id = match self.datagram(fd) {
            Ok(id) => id,
            Err(errno) => return Some(Err(errno)),
        };
        let polled = match flags & libc::MSG_PEEK != 0 {
            true => self.stack.poll_peek_from(&mut cx(), id),
            false => self.stack.poll_recv_from(&mut cx(), id),
        };
        let v6 = self.is_v6(fd).unwrap_or(false);
        let too_long = |errno| if errno == Errno(libc::EINVAL) { Errno(libc::EMSGSIZE) } else { errno };
        Some(step(polled)?.map_err(too_long).map(|(buf, from)| {
            let kept = buf.len().min(max);
            let whole = flags & libc::MSG_TRUNC != 0;
            Done {
                value: if whole { buf.len() } else { kept } as i64,
                bytes: buf.get(..kept).unwrap_or_default().to_vec(),
                address: Some(as_seen(from, v6)),
                flags: if kept < buf.len() { libc::MSG_TRUNC } else { 0 },
                ..Done::default()
            }
        }))
    }

    fn step_send(
        &mut self,
        fd: i32,
        bytes: &[u8],
        to: Option<SocketAddr>,
        flags: i32,
        sent: &mut usize,
    ) -> Step<Done> {
        if matches!(self.fds.get(&fd), Some(Descriptor { kind: Kind::Udp(_), .. })) {
            return self.send_datagram(fd, bytes, to);
        }
        let unsupported = libc::MSG_OOB;
        if flags & unsupported != 0 {
            return Some(Err(Errno(libc::EOPNOTSUPP)));
        }
        if flags & libc::MSG_FASTOPEN != 0
            && let Err(errno) = self.begin_fast_open(fd, to, *sent)
        {
            return Some(Err(errno));
        }
        let stream = match self.tcp(fd).map(|tcp| tcp.stream()) {
            Ok(Some(stream)) => stream,
            Ok(None) => return Some(Err(Errno(libc::EPIPE))),
            Err(errno) => return Some(Err(errno)),
        };
        if let Some(errno) = self.noticed(fd) {
            return Some(Err(errno));
        }
        loop {
            let rest = bytes.get(*sent..).unwrap_or_default();
            match step(self.stack.poll_write(&mut cx(), stream, &[IoSlice::new(rest)]))? {
                Ok(written) => {
                    *sent += written;
                    if *sent >= bytes.len() || written == 0 || rest.is_empty() {
                        return Some(Ok(Done::value(*sent as i64)));
                    }
                }
                Err(_) if *sent > 0 => return Some(Ok(Done::value(*sent as i64))),
                Err(errno) => return Some(Err(errno)),
            }
        }
    }

    /// `MSG_FASTOPEN`: a connect whose first data is what is sent.
    fn begin_fast_open(&mut self, fd: i32, to: Option<SocketAddr>, sent: usize) -> Result<()> {
        if !self.fast_open_client {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let tcp = self.tcp(fd)?;
        match tcp.state {
            State::Fresh => {}
            State::Listening(_) => return Err(Errno(libc::EISCONN)),
            State::Connecting(_) => return Ok(()),
            State::Connected(_) if sent > 0 => return Ok(()),
            State::Connected(_) => return Err(Errno(libc::EISCONN)),
        }
        let Some(to) = to else { return Err(Errno(libc::ENOTCONN)) };
        let asked = core::mem::replace(&mut tcp.options.fast_open_connect, true);
        let begun = self.step_connect(fd, Some(to), &mut false);
        let tcp = self.tcp(fd)?;
        tcp.options.fast_open_connect = asked;
        if let State::Connected(stream) = tcp.state {
            // It waits for what is sent now.
            tcp.state = State::Connecting(stream);
        }
        match begun {
            Some(Err(errno)) => Err(errno),
            _ => Ok(()),
        }
    }

    fn send_datagram(&mut self, fd: i32, bytes: &[u8], to: Option<SocketAddr>) -> Step<Done> {
        let id = match self.datagram(fd) {
            Ok(id) => id,
            Err(errno) => return Some(Err(errno)),
        };
        let connected =
            matches!(self.fds.get(&fd), Some(Descriptor { kind: Kind::Udp(udp), .. }) if udp.connected);
        if to.is_none() && !connected {
            return Some(Err(Errno(libc::EDESTADDRREQ)));
        }
        let Some(buf) = self.stack.pool().copy_from_slice(bytes) else {
            return Some(Err(Errno(libc::EMSGSIZE)));
        };
        let polled = self.stack.poll_send_to(&mut cx(), id, &mut Some(buf), to);
        Some(match step(polled)? {
            Ok(()) => Ok(Done::value(bytes.len() as i64)),
            Err(Errno(libc::EINVAL)) => Err(Errno(libc::EMSGSIZE)),
            Err(errno) => Err(errno),
        })
    }
}
