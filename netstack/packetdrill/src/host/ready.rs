//! Readiness: `poll` and `epoll`.

use std::task::Poll;

use demi_drivers::Transport;
use demi_drivers::transport::TcpState;

use super::{Descriptor, Errno, Host, Kind, Result, State, cx};

/// A descriptor that an epoll watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub(crate) fd: i32,
    events: u32,
    data: u64,
    /// What was reported last, and how much had happened on the connection by then: for edges.
    reported: u32,
    seen: u64,
    /// One shot, and it has been fired.
    spent: bool,
}

/// What `epoll_ctl` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpollChange {
    Add { events: u32, data: u64 },
    Modify { events: u32, data: u64 },
    Remove,
}

const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;

impl Host {
    /// What `poll` finds of the events wanted.
    pub(super) fn poll_events(&mut self, fd: i32, wanted: i16) -> i16 {
        if fd < 0 {
            return 0;
        }
        if !self.fds.contains_key(&fd) {
            return libc::POLLNVAL;
        }
        self.readiness(fd) & (wanted | libc::POLLERR | libc::POLLHUP)
    }

    fn readiness(&mut self, fd: i32) -> i16 {
        let Ok(descriptor) = self.descriptor(fd) else { return 0 };
        match &mut descriptor.kind {
            Kind::Epoll(_) => 0,
            Kind::Udp(udp) => {
                let Some(id) = udp.id else { return libc::POLLOUT | libc::POLLWRNORM };
                let mut events = 0;
                if self.stack.poll_datagram_readable(&mut cx(), id).is_ready() {
                    events |= libc::POLLIN | libc::POLLRDNORM;
                }
                if self.stack.poll_datagram_writable(&mut cx(), id).is_ready() {
                    events |= libc::POLLOUT | libc::POLLWRNORM;
                }
                events
            }
            Kind::Tcp(tcp) => match tcp.state {
                State::Fresh => libc::POLLOUT | libc::POLLWRNORM | libc::POLLHUP,
                State::Listening(id) => {
                    if tcp.accepted.is_empty()
                        && let Poll::Ready(Ok(taken)) = self.stack.poll_accept(&mut cx(), id)
                        && let Ok(tcp) = self.tcp(fd)
                    {
                        tcp.accepted.push_back(taken);
                    }
                    let any = self.tcp(fd).is_ok_and(|tcp| !tcp.accepted.is_empty());
                    if any { libc::POLLIN | libc::POLLRDNORM } else { 0 }
                }
                State::Connecting(_) | State::Connected(_) => self.stream_readiness(fd),
            },
        }
    }

    fn stream_readiness(&mut self, fd: i32) -> i16 {
        let Some(stream) = self.stream_of(fd) else { return 0 };
        let Ok(info) = self.stack.tcp_info(stream) else { return 0 };
        if info.state == TcpState::Closed
            && let Ok(Some(error)) = self.stack.take_error(stream)
            && let Ok(tcp) = self.tcp(fd)
        {
            // It can be asked for once only, and has to be told to whoever calls next.
            tcp.error = Some(error.into());
        }
        let Ok(tcp) = self.tcp(fd) else { return 0 };
        let (shut_read, shut_write, error) = (tcp.shut_read, tcp.shut_write, tcp.error.is_some());
        // What Fast Open lets be written before the handshake is done can be read then, too.
        let early = self.stack.poll_writable(&mut cx(), stream).is_ready();
        if matches!(info.state, TcpState::SynSent | TcpState::SynReceived) && !early {
            return 0;
        }
        let closed = matches!(info.state, TcpState::Closed | TcpState::TimeWait);
        let peer_done =
            matches!(info.state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing) || closed;
        let read_done = shut_read || peer_done;
        let mut events = 0;
        if error {
            events |= libc::POLLERR;
        }
        if info.state == TcpState::Closed || ((shut_write || closed) && read_done) {
            events |= libc::POLLHUP;
        }
        if read_done {
            events |= libc::POLLIN | libc::POLLRDNORM | libc::POLLRDHUP;
        }
        if info.unread_bytes > 0 {
            events |= libc::POLLIN | libc::POLLRDNORM;
        }
        if shut_write || closed || self.stack.poll_writable(&mut cx(), stream).is_ready() {
            events |= libc::POLLOUT | libc::POLLWRNORM;
        }
        events
    }

    /// `epoll_create(2)`
    pub(crate) fn epoll_create(&mut self) -> i32 {
        self.insert(Descriptor { nonblocking: false, kind: Kind::Epoll(Vec::new()) })
    }

    /// `epoll_ctl(2)`
    pub(crate) fn epoll_ctl(&mut self, epoll: i32, fd: i32, change: EpollChange) -> Result<()> {
        self.descriptor(fd)?;
        let Kind::Epoll(watches) = &mut self.descriptor(epoll)?.kind else { return Err(Errno(libc::EINVAL)) };
        let at = watches.iter().position(|watch| watch.fd == fd);
        match (change, at) {
            (EpollChange::Add { .. }, Some(_)) => Err(Errno(libc::EEXIST)),
            (EpollChange::Add { events, data }, None) => {
                watches.push(Watch { fd, events, data, reported: 0, seen: u64::MAX, spent: false });
                Ok(())
            }
            (EpollChange::Modify { events, data }, Some(at)) => {
                watches[at] = Watch { fd, events, data, reported: 0, seen: u64::MAX, spent: false };
                Ok(())
            }
            (EpollChange::Remove, Some(at)) => {
                watches.remove(at);
                Ok(())
            }
            (_, None) => Err(Errno(libc::ENOENT)),
        }
    }

    /// What `epoll_wait` finds, at most `max`.
    pub(super) fn epoll_events(&mut self, epoll: i32, max: usize) -> Result<Vec<(u32, u64)>> {
        let Kind::Epoll(watches) = &self.descriptor(epoll)?.kind else { return Err(Errno(libc::EINVAL)) };
        let mut watches = watches.clone();
        let mut found = Vec::new();
        for watch in &mut watches {
            if watch.spent || found.len() >= max {
                continue;
            }
            let always = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
            let ready = self.readiness(watch.fd) as u16 as u32 & (watch.events | always);
            let seen = self.happened(watch.fd);
            let edge = ready & !watch.reported != 0 || seen != watch.seen;
            if ready != 0 && (watch.events & EDGE == 0 || edge) {
                found.push((ready, watch.data));
                watch.seen = seen;
                watch.spent = watch.events & ONE_SHOT != 0;
            }
            watch.reported = ready;
        }
        if let Kind::Epoll(kept) = &mut self.descriptor(epoll)?.kind {
            *kept = watches;
        }
        Ok(found)
    }

    /// Counts what wakes a waiter for edges: bytes that arrive.
    fn happened(&self, fd: i32) -> u64 {
        self.info(fd).map_or(0, |info| info.bytes_received)
    }
}
