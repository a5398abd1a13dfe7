//! Calls of the socket interface: made as a script writes them, and what they answer compared with what it expects.

use std::net::SocketAddr;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::TcpState;

use super::flow::{Flow, pattern_bytes};
use super::{Pending, Runner, State, Stimulus, seconds};
use crate::flags::IpVersion;
use crate::host::{Done, EpollChange, Errno, Op, OptionValue, Waiting};
use crate::script::{CallSpec, Expr, Place};

/// A call that was made: it has answered, or it has to wait.
enum Made {
    Done(Result<Done, Errno>),
    Waits(Op),
}

impl From<Result<i64, Errno>> for Made {
    fn from(result: Result<i64, Errno>) -> Made {
        Made::Done(result.map(|value| Done { value, ..Done::default() }))
    }
}

impl Runner {
    /// Makes a call. `base_us`: the time that its end counts from.
    pub(super) fn call(&mut self, place: Place, call: &CallSpec, base_us: i64) -> Result<(), String> {
        let made = match self.make(call)? {
            Made::Waits(op) => Waiting::new(&self.host, op),
            Made::Done(result) => Err(result),
        };
        let waiting = match made {
            Ok(waiting) => waiting,
            Err(result) => {
                if let Some(end_us) = call.end_us {
                    let (now, due) = (self.micros(self.host.now), base_us + end_us);
                    if (now - due).abs() > self.flags.tolerance_us {
                        return Err(format!(
                            "{} was to return at {} and did at once",
                            call.name,
                            seconds(due)
                        ));
                    }
                }
                self.finish(call, result)?;
                return self.settle();
            }
        };
        let end_us = base_us + call.end_us.unwrap_or(0);
        self.pending = Some(Pending { place, call: call.clone(), waiting, end_us });
        self.settle()?;
        if call.end_us.is_some() {
            return Ok(());
        }
        // It blocks, though the script says that it returns at once: packets on their way may still make it.
        let limit = self.host.now + Duration::from_micros(self.flags.tolerance_us.unsigned_abs());
        let waits =
            |runner: &Runner| runner.pending.as_ref().is_some_and(|pending| pending.waiting.answer.is_none());
        while waits(self) && self.host.now < limit {
            self.tick(limit)?;
        }
        match self.pending.take().and_then(|pending| pending.waiting.answer) {
            Some((_, result)) => self.finish(call, result),
            None => Err(format!("{} blocks: give it an end, as in `0...0.1 {}(…)`", call.name, call.name)),
        }
    }

    fn argument(call: &CallSpec, at: usize) -> Result<&Expr, String> {
        call.arguments.get(at).ok_or_else(|| format!("{} takes more than {at} arguments", call.name))
    }

    /// The real descriptor of an argument.
    fn fd(&self, call: &CallSpec, at: usize) -> Result<i32, String> {
        self.real_fd(Runner::argument(call, at)?.number()?)
    }

    fn real_fd(&self, script: i64) -> Result<i32, String> {
        Ok(self.fds.get(&script).copied().unwrap_or(script as i32))
    }

    /// The address in an argument; what is left open is the peer or our own.
    fn address(&self, call: &CallSpec, at: usize, default: SocketAddr) -> Result<SocketAddr, String> {
        let address = match Runner::argument(call, at)? {
            Expr::Ellipsis => default,
            other => other.address()?,
        };
        Ok(match address {
            SocketAddr::V4(v4) if self.version == IpVersion::V4MappedV6 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            other => other,
        })
    }

    fn own(&self) -> SocketAddr {
        SocketAddr::new(self.flags.local(self.version), self.flags.bind_port)
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.flags.remote(self.version), self.flags.connect_port)
    }

    /// The state before a call, for the table of states and events.
    fn state_of_fd(&self, fd: i32) -> Option<State> {
        match self.host.info(fd) {
            Ok(info) => Some(info.state.into()),
            Err(_) => {
                self.host.is_listening(fd).map(|listens| if listens { State::Listen } else { State::Closed })
            }
        }
    }

    fn make(&mut self, call: &CallSpec) -> Result<Made, String> {
        let argument = |at| Runner::argument(call, at);
        let flags = |at| call.arguments.get(at).map_or(Ok(0), Expr::int);
        match call.name.as_str() {
            "socket" => {
                let domain = match argument(0)? {
                    Expr::Ellipsis if self.version == IpVersion::V4 => libc::AF_INET,
                    Expr::Ellipsis => libc::AF_INET6,
                    other => other.int()?,
                };
                Ok(self.host.socket(domain, argument(1)?.int()?, argument(2)?.int()?).map(i64::from).into())
            }
            "bind" => {
                let local = self.address(call, 1, self.own())?;
                let fd = self.fd(call, 0)?;
                Ok(self.host.bind(fd, local).map(|()| 0).into())
            }
            "listen" => {
                let fd = self.fd(call, 0)?;
                self.note(self.state_of_fd(fd), Stimulus::Listen);
                let result = self.host.listen(fd, argument(1)?.int()?);
                if result.is_ok() {
                    // What comes next without ports is a new conversation.
                    self.current = None;
                    if let Ok(local) = self.host.local_addr(fd) {
                        self.local_port = local.port();
                    }
                }
                Ok(result.map(|()| 0).into())
            }
            "accept" => {
                let fd = self.fd(call, 0)?;
                Ok(self.try_op(Op::Accept { fd, flags: 0 }))
            }
            "accept4" => {
                let fd = self.fd(call, 0)?;
                Ok(self.try_op(Op::Accept { fd, flags: flags(3)? }))
            }
            "connect" => {
                let fd = self.fd(call, 0)?;
                self.note(self.state_of_fd(fd), Stimulus::Connect);
                let to = Some(self.address(call, 1, self.peer())?);
                let made = self.try_op(Op::Connect { fd, to, begun: false });
                self.add_active_flow(fd);
                Ok(made)
            }
            "read" | "recv" | "recvfrom" => {
                let fd = self.fd(call, 0)?;
                self.note(self.state_of_fd(fd), Stimulus::Receive);
                let flags = if call.name == "read" { 0 } else { flags(3)? };
                Ok(self.try_op(Op::Receive { fd, max: argument(2)?.size()?, flags, got: Vec::new() }))
            }
            "readv" | "recvmsg" => {
                let fd = self.fd(call, 0)?;
                self.note(self.state_of_fd(fd), Stimulus::Receive);
                let message = argument(1)?;
                let (buffers, flags) = match message.field("msg_iov") {
                    Some(field) => (field.value.buffers()?, flags(2)?),
                    None => (message.buffers()?, 0),
                };
                let max = buffers.iter().map(|(_, len)| len).sum();
                Ok(self.try_op(Op::Receive { fd, max, flags, got: Vec::new() }))
            }
            "write" | "send" | "sendto" => {
                let flags = if call.name == "write" { 0 } else { flags(3)? };
                let to = match (call.name.as_str(), call.arguments.get(4)) {
                    ("sendto", Some(_)) => Some(self.address(call, 4, self.peer())?),
                    _ => None,
                };
                let text = match argument(1)? {
                    Expr::Str(text) => Some(text.clone()),
                    _ => None,
                };
                self.send(call, vec![(text, argument(2)?.size()?)], flags, to)
            }
            "writev" | "sendmsg" => {
                let message = argument(1)?;
                let (buffers, flags) = match message.field("msg_iov") {
                    Some(field) => (field.value.buffers()?, flags(2)?),
                    None => (message.buffers()?, 0),
                };
                let connected =
                    message.field("msg_name").is_none_or(|name| name.argument == Some(Expr::Ellipsis));
                let to = (!connected).then(|| self.peer());
                self.send(call, buffers, flags, to)
            }
            "shutdown" => {
                let fd = self.fd(call, 0)?;
                self.note(self.state_of_fd(fd), Stimulus::Shutdown);
                let how = argument(1)?.int()?;
                if how != libc::SHUT_WR
                    && let Some(flow) = self.flow_of_fd(fd)
                {
                    flow.read = None;
                }
                Ok(self.host.shutdown(fd, how).map(|()| 0).into())
            }
            "close" => {
                let fd = self.fd(call, 0)?;
                self.note_close(fd);
                if let Some(flow) = self.flow_of_fd(fd) {
                    flow.given_up = true;
                }
                if self.subject == Some(fd) {
                    self.subject = None;
                }
                let script = argument(0)?.number()?;
                self.fds.remove(&script);
                Ok(self.host.close(fd).map(|()| 0).into())
            }
            "fcntl" => {
                let fd = self.fd(call, 0)?;
                Ok(self.host.fcntl(fd, argument(1)?.int()?, flags(2)?).map(i64::from).into())
            }
            "ioctl" => {
                let fd = self.fd(call, 0)?;
                let request = argument(1)?.number()? as u64;
                let value = if request == libc::FIONBIO { argument(2)?.int()? } else { 0 };
                let result = self.host.ioctl(fd, request, value);
                if let (Ok(value), Expr::List(expected)) = (&result, argument(2)?)
                    && let [expected] = expected.as_slice()
                    && !expected.is_any()
                    && request != libc::FIONBIO
                {
                    same("the number", expected.number()?, i64::from(*value))?;
                }
                Ok(result.map(|_| 0).into())
            }
            "setsockopt" => {
                let fd = self.fd(call, 0)?;
                let (level, name) = (argument(1)?.int()?, argument(2)?.int()?);
                let value = argument(3)?.option_value()?;
                Ok(self.host.set_option(fd, level, name, &value).map(|()| 0).into())
            }
            "getsockopt" => self.get_option(call),
            "poll" => {
                let Expr::List(entries) = argument(0)? else { return Err("poll takes an array".to_owned()) };
                let entry = |entry: &Expr| -> Result<(i32, i16), String> {
                    let get = |name: &str| {
                        entry.field(name).ok_or_else(|| format!("{name} is missing in {}", entry.show()))
                    };
                    Ok((self.real_fd(get("fd")?.value.number()?)?, get("events")?.value.int()? as i16))
                };
                let fds = entries.iter().map(entry).collect::<Result<_, _>>()?;
                let until = self.until(argument(2)?.number()?);
                Ok(self.try_op(Op::Poll { fds, until }))
            }
            "epoll_create" | "epoll_create1" => {
                let fd = self.host.epoll_create();
                Ok(Ok(i64::from(fd)).into())
            }
            "epoll_ctl" => {
                let (epoll, fd) = (self.fd(call, 0)?, self.fd(call, 2)?);
                let operation = argument(1)?.int()?;
                let change = match operation {
                    libc::EPOLL_CTL_DEL => EpollChange::Remove,
                    _ => {
                        let event = argument(3)?;
                        let events =
                            event.field("events").ok_or("events are missing")?.value.number()? as u32;
                        let data = epoll_data(event)?.unwrap_or(0);
                        match operation {
                            libc::EPOLL_CTL_ADD => EpollChange::Add { events, data },
                            libc::EPOLL_CTL_MOD => EpollChange::Modify { events, data },
                            other => return Err(format!("{other} is no operation of epoll_ctl")),
                        }
                    }
                };
                Ok(self.host.epoll_ctl(epoll, fd, change).map(|()| 0).into())
            }
            "epoll_wait" => {
                let fd = self.fd(call, 0)?;
                let until = self.until(argument(3)?.number()?);
                Ok(self.try_op(Op::EpollWait { fd, max: argument(2)?.size()?, until }))
            }
            "getsockname" | "getpeername" => {
                let fd = self.fd(call, 0)?;
                let result = match call.name.as_str() {
                    "getsockname" => self.host.local_addr(fd),
                    _ => self.host.peer_addr(fd),
                };
                Ok(Made::Done(result.map(|address| Done { address: Some(address), ..Done::default() })))
            }
            other => Err(format!("the call {other} is not supported")),
        }
    }

    /// When a timeout in milliseconds is over; negative: never.
    fn until(&self, millis: i64) -> Option<demi_drivers::Instant> {
        u64::try_from(millis).ok().map(|millis| self.host.now + Duration::from_millis(millis))
    }

    fn try_op(&mut self, mut op: Op) -> Made {
        match self.host.step(&mut op) {
            Some(result) => Made::Done(result),
            None => Made::Waits(op),
        }
    }

    fn note_close(&mut self, fd: i32) {
        let state = self.state_of_fd(fd);
        let lingers = self.host.option(fd, libc::SOL_SOCKET, libc::SO_LINGER);
        let aborts = lingers == Ok(OptionValue::Linger { on: true, seconds: 0 });
        self.note(state, if aborts { Stimulus::Abort } else { Stimulus::Close });
    }

    /// Sends buffers: contents that the script leaves open are those of the pattern.
    fn send(
        &mut self,
        call: &CallSpec,
        buffers: Vec<(Option<String>, usize)>,
        flags: i32,
        to: Option<SocketAddr>,
    ) -> Result<Made, String> {
        let fd = self.fd(call, 0)?;
        self.note(self.state_of_fd(fd), Stimulus::Send);
        let mut nobody = Vec::new();
        let written = self.flow_of_fd(fd).map_or(&mut nobody, |flow| &mut flow.written);
        let before = written.len();
        let mut bytes = Vec::new();
        for (text, len) in buffers {
            match text {
                // Latin-1: `\xNN` is one byte.
                Some(text) => bytes.extend(text.chars().map(|c| c as u8).take(len)),
                None => bytes.extend(pattern_bytes(before + bytes.len(), len)),
            }
        }
        // They may go out before the call returns.
        written.extend_from_slice(&bytes);
        let total = bytes.len();
        let fast_open = (flags & libc::MSG_FASTOPEN != 0 && before == 0).then(|| bytes.clone());
        let made = self.try_op(Op::Send { fd, bytes, to, flags, sent: 0 });
        let kept = match &made {
            Made::Done(Ok(done)) => done.value as usize,
            Made::Done(Err(_)) => 0,
            // One that may not wait has sent what it could.
            Made::Waits(op) => match Waiting::new(&self.host, op.clone()) {
                Ok(_) => total,
                Err(done) => done.map_or(0, |done| done.value as usize),
            },
        };
        if let Some(bytes) = fast_open {
            // The conversation has begun with it.
            self.add_active_flow(fd);
            let flow = self.flow_of_fd(fd).filter(|flow| flow.written.is_empty());
            flow.into_iter().for_each(|flow| flow.written.extend_from_slice(&bytes));
        }
        if let Some(flow) = self.flow_of_fd(fd) {
            flow.written.truncate(before + kept);
        }
        Ok(made)
    }

    /// The conversation of a descriptor's connection.
    fn flow_of_fd(&mut self, fd: i32) -> Option<&mut Flow> {
        let stream = self.host.stream_of(fd)?;
        let local = self.host.stack.local_addr(stream).ok()?;
        let peer = self.host.stack.peer_addr(stream).ok();
        self.flows
            .iter_mut()
            .rev()
            .find(|flow| flow.local == local && peer.is_none_or(|peer| peer == flow.remote))
    }

    /// A connect has begun: its packets are a new conversation.
    fn add_active_flow(&mut self, fd: i32) {
        let Some(stream) = self.host.stream_of(fd) else { return };
        let (Ok(local), Ok(remote)) = (self.host.stack.local_addr(stream), self.host.stack.peer_addr(stream))
        else {
            return;
        };
        self.subject = Some(fd);
        let known = self.flows.iter().any(|flow| (flow.local, flow.remote) == (local, remote) && flow.active);
        let begins =
            self.host.info(fd).is_ok_and(|info| info.state == TcpState::SynSent && info.segments_out == 0);
        if !known || begins {
            self.add_flow(Flow::new(local, remote, true));
        }
    }

    fn get_option(&mut self, call: &CallSpec) -> Result<Made, String> {
        let fd = self.fd(call, 0)?;
        let (level, name) = (Runner::argument(call, 1)?.int()?, Runner::argument(call, 2)?.int()?);
        let expected = Runner::argument(call, 3)?;
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_INFO) {
            return Ok(self.host.info(fd).map(|_| 0).into());
        }
        let result = self.host.option(fd, level, name);
        if let (Ok(value), false) = (&result, expected.is_any()) {
            let matches = match (value, expected) {
                (_, Expr::List(list)) if list.as_slice() == [Expr::Ellipsis] => true,
                // What `SO_ERROR` answers is written as the error's name.
                (OptionValue::Int(value), Expr::List(list)) => match list.as_slice() {
                    [Expr::Word(word)] if Errno::named(word).is_some() => {
                        Errno::named(word) == Some(Errno(*value))
                    }
                    [number] => number.int()? == *value,
                    _ => false,
                },
                (value, expected) => expected.option_value()? == *value,
            };
            if !matches {
                return Err(format!("the option is {value:?}, not {}", expected.show()));
            }
        }
        Ok(result.map(|_| 0).into())
    }

    /// Compares what a call has answered with what the script expects.
    pub(super) fn finish(&mut self, call: &CallSpec, result: Result<Done, Errno>) -> Result<(), String> {
        let name = &call.name;
        let done = match (result, &call.errno) {
            (Err(errno), expected) => {
                let expected_value = if call.result.is_any() { -1 } else { call.result.number()? };
                let same_errno =
                    expected.as_deref().is_none_or(|expected| Errno::named(expected) == Some(errno));
                if expected_value == -1 && same_errno {
                    return Ok(());
                }
                let wanted = expected.clone().unwrap_or_else(|| call.result.show());
                return Err(format!("{name} failed with {}, not {wanted}", errno.name()));
            }
            (Ok(done), Some(errno)) if Errno::named(errno).is_some() => {
                return Err(format!("{name} answered {} and did not fail with {errno}", done.value));
            }
            (Ok(done), _) => done,
        };
        let makes_fd =
            matches!(name.as_str(), "socket" | "accept" | "accept4" | "epoll_create" | "epoll_create1");
        let real = done.value as i32;
        if makes_fd {
            let script = if call.result.is_any() { done.value } else { call.result.number()? };
            if script < 0 {
                return Err(format!("{name} answered {} and did not fail", done.value));
            }
            self.fds.insert(script, real);
            if name.starts_with("accept") {
                self.subject = Some(real);
            }
        } else if !call.result.is_any() {
            same(&format!("{name}'s answer"), call.result.number()?, done.value)?;
        }
        match name.as_str() {
            "read" | "recv" | "recvfrom" | "readv" | "recvmsg" => self.check_received(call, &done),
            "poll" => check_poll(call, &done),
            "epoll_wait" => check_epoll(call, &done),
            "accept" | "accept4" | "getsockname" | "getpeername" => check_address(call, 1, &done),
            _ => Ok(()),
        }
    }

    /// Compares the bytes read with those that the script's packets carried.
    fn check_received(&mut self, call: &CallSpec, done: &Done) -> Result<(), String> {
        if let Some(Expr::Str(text)) = call.arguments.get(1) {
            let text: Vec<u8> = text.chars().map(|c| c as u8).collect();
            if text.get(..done.bytes.len()) != Some(&done.bytes[..]) {
                return Err(format!("the bytes read are {:?}", String::from_utf8_lossy(&done.bytes)));
            }
            return Ok(());
        }
        let flags =
            call.arguments.get(if call.name == "recvmsg" { 2 } else { 3 }).map_or(Ok(0), Expr::int)?;
        if call.name == "recvmsg"
            && let Some(expected) = call.arguments.get(1).and_then(|message| message.field("msg_flags"))
            && !expected.value.is_any()
        {
            same("msg_flags", expected.value.number()?, i64::from(done.flags))?;
        }
        if call.name == "recvfrom" {
            check_address(call, 4, done)?;
        }
        let fd = self.fd(call, 0)?;
        let Some(flow) = self.flow_of_fd(fd) else { return Ok(()) };
        let Some(read) = flow.read else { return Ok(()) };
        if done.bytes != pattern_bytes(read, done.bytes.len()) {
            return Err("the bytes read are not those that were sent".to_owned());
        }
        if flags & libc::MSG_PEEK == 0 {
            flow.read = Some(read + done.bytes.len());
        }
        Ok(())
    }
}

fn same(what: &str, expected: i64, actual: i64) -> Result<(), String> {
    if expected == actual { Ok(()) } else { Err(format!("{what} is {actual}, not {expected}")) }
}

fn check_poll(call: &CallSpec, done: &Done) -> Result<(), String> {
    let Some(Expr::List(entries)) = call.arguments.first() else { return Ok(()) };
    for (entry, actual) in entries.iter().zip(&done.revents) {
        let Some(expected) = entry.field("revents") else { continue };
        let expected = expected.value.int()? as i16;
        if expected != *actual {
            return Err(format!("revents of {} are {actual:#x}", entry.show()));
        }
    }
    Ok(())
}

/// The data of an epoll event.
fn epoll_data(event: &Expr) -> Result<Option<u64>, String> {
    let field = ["fd", "ptr", "u32", "u64"].into_iter().find_map(|name| event.field(name));
    field.map(|field| field.value.number().map(|number| number as u64)).transpose()
}

fn check_epoll(call: &CallSpec, done: &Done) -> Result<(), String> {
    let expected = match call.arguments.get(1) {
        Some(Expr::List(events)) => events.as_slice(),
        Some(event @ Expr::Record(_)) => core::slice::from_ref(event),
        _ => return Ok(()),
    };
    for (expected, (events, data)) in expected.iter().zip(&done.events) {
        if let Some(field) = expected.field("events") {
            let wanted = field.value.number()? as u32;
            if wanted != *events {
                return Err(format!("the events are {events:#x}, not {}", field.value.show()));
            }
        }
        if let Some(wanted) = epoll_data(expected)?
            && wanted != *data
        {
            return Err(format!("the event is {data}'s, not {wanted}'s"));
        }
    }
    Ok(())
}

fn check_address(call: &CallSpec, at: usize, done: &Done) -> Result<(), String> {
    match call.arguments.get(at) {
        Some(expected @ Expr::Record(_)) => {
            let expected = expected.address()?;
            match done.address {
                Some(actual) if actual == expected => Ok(()),
                actual => Err(format!("the address is {actual:?}, not {expected}")),
            }
        }
        _ => Ok(()),
    }
}
