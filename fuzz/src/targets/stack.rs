//! The whole stack as a stranger, an application and a clock see it: inject a packet, make a call, let time pass, in any order.

use std::io::IoSlice;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{
    DatagramId, DatagramOptions, Interface, ListenOptions, ListenerId, Membership, StreamId, StreamOptions,
};
use demi_netstack::tcp::EcnMode;

use crate::frames;
use crate::host::{Host, config, once};
use crate::input::Input;
use crate::seeds;
use crate::targets::tcp_options::resolve;

/// Sockets of each kind at a time.
const SOCKETS: usize = 8;

struct World {
    host: Host,
    streams: Vec<StreamId>,
    listeners: Vec<ListenerId>,
    datagrams: Vec<DatagramId>,
    /// What the stack has sent: answers are made of it.
    sent: Vec<Vec<u8>>,
    templates: Vec<Vec<u8>>,
}

/// One step a byte of decisions.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let mut config = config();
    config.detect_duplicates = how & 1 != 0;
    config.router_discovery = how & 2 != 0;
    config.dhcp = how & 4 != 0;
    if how & 32 != 0 {
        config.tcp.ecn = EcnMode::Accurate;
    }
    let mut world = World {
        host: Host::with_mtu(config, if how & 8 == 0 { 1500 } else { 1280 }),
        streams: Vec::new(),
        listeners: Vec::new(),
        datagrams: Vec::new(),
        sent: Vec::new(),
        templates: seeds::templates(),
    };
    if how & 16 == 0 {
        resolve(&mut world.host, false);
        resolve(&mut world.host, true);
    }
    while !input.is_empty() {
        match input.u8() {
            code @ 0..=99 => world.inject(code, &mut input),
            code @ 100..=139 => {
                let unit = [1, 50, 1000, 30_000][usize::from(code & 3)];
                let sent = world.host.pass(Duration::from_millis(unit * u64::from(input.u8())));
                world.keep(sent);
            }
            code => world.call(code - 140, &mut input),
        }
    }
    world.end();
}

impl World {
    fn keep(&mut self, sent: Vec<Vec<u8>>) {
        self.sent.extend(sent);
        let old = self.sent.len().saturating_sub(16);
        self.sent.drain(..old);
    }

    fn inject(&mut self, code: u8, input: &mut Input<'_>) {
        let mut frame = match code % 4 {
            0 => input.run().to_vec(),
            1 | 2 => self.templates[input.below(self.templates.len())].clone(),
            // What the stack has sent, sent back with its ends changed over.
            _ => match self.sent.len() {
                0 => return,
                len => back(&self.sent[len - 1 - input.below(len)]),
            },
        };
        for _ in 0..code / 4 % 5 {
            let at = usize::from(input.u16());
            let value = input.u8();
            if let Some(byte) = frame.get_mut(at % 128) {
                *byte = value;
            }
        }
        match code / 20 {
            0 | 1 => frames::mend(&mut frame, true),
            2 | 3 => frames::mend(&mut frame, false),
            _ => frame.truncate(usize::from(input.u8())),
        }
        if frame.len() <= 1514 {
            let sent = self.host.ask(frame);
            self.keep(sent);
        }
    }

    fn call(&mut self, code: u8, input: &mut Input<'_>) {
        let stack = &mut self.host.stack;
        let which = usize::from(code / 16);
        let stream = self.streams.get(which % self.streams.len().max(1)).copied();
        let datagram = self.datagrams.get(which % self.datagrams.len().max(1)).copied();
        let port = 80 + u16::from(code & 3);
        let remote: SocketAddr = [
            format!("10.0.0.2:{port}"),
            format!("[fd00::2]:{port}"),
            format!("10.0.0.1:{port}"),
            format!("[::1]:{port}"),
            format!("10.9.9.9:{port}"),
            format!("239.1.2.3:{port}"),
        ][usize::from(code / 4) % 6]
            .parse()
            .expect("an address");
        match input.u8() % 16 {
            0 if self.listeners.len() < SOCKETS => {
                let local = SocketAddr::new("::".parse().expect("an address"), port);
                let mut options = ListenOptions::default();
                options.backlog = u32::from(input.u8() & 3) + 1;
                self.listeners.extend(stack.listen(local, &options));
            }
            1 if self.streams.len() < SOCKETS => {
                self.streams.extend(stack.connect(remote, None, &StreamOptions::default()));
            }
            2 if self.datagrams.len() < SOCKETS => {
                let local = SocketAddr::new("::".parse().expect("an address"), port);
                self.datagrams.extend(stack.bind_datagram(local, &DatagramOptions::default()));
            }
            3 => {
                for listener in &self.listeners {
                    if let Some(Ok((stream, _))) = once(|cx| stack.poll_accept(cx, *listener)) {
                        self.streams.push(stream);
                    }
                }
            }
            4 | 5 => {
                let bytes = vec![7; usize::from(input.u16()) % 8192 + 1];
                if let Some(stream) = stream {
                    let _ = once(|cx| stack.poll_write(cx, stream, &[IoSlice::new(&bytes)]));
                }
            }
            6 => {
                if let Some(stream) = stream {
                    let _ = once(|cx| stack.poll_pop(cx, stream, usize::from(input.u8()) + 1));
                }
            }
            7 => {
                if let Some(stream) = stream {
                    let how = [Shutdown::Write, Shutdown::Read, Shutdown::Both][usize::from(input.u8() % 3)];
                    let _ = stack.shutdown(stream, how);
                }
            }
            8 => {
                if let Some(stream) = stream {
                    self.streams.retain(|other| *other != stream);
                    if input.u8() & 1 == 0 { stack.close(stream) } else { stack.abort(stream) }
                }
            }
            9 => {
                if let Some(listener) = self.listeners.pop() {
                    stack.close_listener(listener);
                }
            }
            10 | 11 => {
                let len = usize::from(input.u16()) % 1700;
                if let (Some(socket), Some(buf)) = (datagram, stack.pool().copy_from_slice(&vec![9; len])) {
                    let mut buf = Some(buf);
                    let _ = once(|cx| stack.poll_send_to(cx, socket, &mut buf, Some(remote)));
                }
            }
            12 => {
                if let Some(socket) = datagram {
                    let _ = once(|cx| stack.poll_recv_from(cx, socket));
                }
            }
            13 => {
                if let Some(socket) = datagram {
                    let group = if code & 4 == 0 { "239.1.2.3" } else { "ff02::1234" };
                    let membership = Membership {
                        group: group.parse().expect("a group"),
                        source: None,
                        interface: Interface::Any,
                    };
                    let _ = if code & 8 == 0 {
                        stack.join_group(socket, &membership)
                    } else {
                        stack.leave_group(socket, &membership)
                    };
                }
            }
            14 => {
                if let Some(socket) = datagram {
                    self.datagrams.retain(|other| *other != socket);
                    stack.close_datagram(socket);
                }
            }
            _ => {
                if let Some(stream) = stream {
                    let _ = (stack.tcp_info(stream), stack.take_error(stream), stack.peer_addr(stream));
                }
            }
        }
        let sent = self.host.settle();
        self.keep(sent);
    }

    fn end(mut self) {
        for stream in self.streams.drain(..) {
            self.host.stack.close(stream);
        }
        for listener in self.listeners.drain(..) {
            self.host.stack.close_listener(listener);
        }
        for socket in self.datagrams.drain(..) {
            self.host.stack.close_datagram(socket);
        }
        // Beyond that only leases go on; the addresses of routers may be gone.
        self.host.pass(Duration::from_secs(3000));
        let usage = self.host.stack.usage();
        let left = (usage.streams, usage.listeners, usage.datagrams, usage.closing, usage.time_wait);
        assert_eq!(left, (0, 0, 0, 0, 0), "streams, listeners, datagrams, closing, TIME-WAIT");
        assert_eq!(self.host.stack.pool().stats().slots_out, 0, "slots are kept");
    }
}

/// A frame with its ends changed over: stations, addresses, ports; and of TCP, the numbers.
fn back(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&crate::host::OUR_MAC);
    frame[6..12].copy_from_slice(&frames::PEER_MAC);
    let (addresses, len, ports) = match [frame[12], frame[13]] {
        [8, 0] if frame.len() >= 34 => (26, 4, 14 + usize::from(frame[14] & 15) * 4),
        [0x86, 0xdd] if frame.len() >= 54 => (22, 16, 54),
        _ => return frame,
    };
    let (left, right) = frame.split_at_mut(addresses + len);
    left[addresses..].swap_with_slice(&mut right[..len]);
    let protocol = if len == 4 { frame[23] } else { frame[20] };
    if matches!(protocol, 6 | 17) && frame.len() >= ports + 8 {
        let (left, right) = frame.split_at_mut(ports + 2);
        left[ports..].swap_with_slice(&mut right[..2]);
    }
    if protocol == 6 && frame.len() >= ports + 20 {
        let seq =
            u32::from_be_bytes([frame[ports + 4], frame[ports + 5], frame[ports + 6], frame[ports + 7]]);
        let flags = frame[ports + 13];
        let header = usize::from(frame[ports + 12] >> 4) * 4;
        let payload = frame.len() - (ports + header).min(frame.len());
        let ack = seq.wrapping_add(u32::from(flags & 2) / 2 + u32::from(flags & 1) + payload as u32);
        let theirs: [u8; 4] = [frame[ports + 8], frame[ports + 9], frame[ports + 10], frame[ports + 11]];
        frame[ports + 4..ports + 8].copy_from_slice(&theirs);
        frame[ports + 8..ports + 12].copy_from_slice(&ack.to_be_bytes());
        frame[ports + 13] |= 16;
    }
    frame
}
