//! One connection and a peer that keeps real sequence numbers: everything a TCP can receive at any distance from what it expects, in
//! every state, while the application reads, writes, and closes.
//!
//! What the application reads is what the peer has sent, in order; what the stack sends is judged by [`Peer`]. When both ends are
//! gone, so is everything the stack had of the connection.

use std::io::IoSlice;
use std::net::Shutdown;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{
    CongestionControl, KeepAlive, ListenOptions, ListenerId, ReadCursor, StreamId, StreamOptions, TcpState,
};
use demi_netstack::tcp::EcnMode;

use crate::frames::{self, protocol};
use crate::host::{Host, config, once};
use crate::input::Input;
use crate::peer::{ACK, FIN, Offer, PSH, Peer, RST, SYN, sent_byte, written_byte};
use crate::targets::tcp_options::resolve;

/// After this time everything a stack remembers of a dead connection is gone: retransmissions to an orphan, FIN-WAIT-2, TIME-WAIT.
const FORGOTTEN: Duration = Duration::from_secs(4000);

struct Story {
    host: Host,
    peer: Peer,
    listener: ListenerId,
    stream: Option<StreamId>,
    read: u32,
    written: u32,
    /// Another connection was accepted meanwhile: which bytes belong to which is not followed.
    several: bool,
}

/// The first bytes are the handshake; then one step a byte of decisions.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(mut story) = Story::begin(&mut input) else { return };
    while !input.is_empty() {
        story.step(&mut input);
        story.read();
    }
    story.end();
}

impl Story {
    fn begin(input: &mut Input<'_>) -> Option<Story> {
        let how = input.u8();
        let shape = input.u8();
        let v6 = how & 1 != 0;
        let offer = Offer {
            v6,
            iss: if how & 2 != 0 { u32::MAX - u32::from(shape) * 50 } else { 1000 },
            mss: [None, Some(1460), Some(0), Some(48), Some(88), Some(536), Some(9000), Some(1)]
                [usize::from(how >> 5)],
            scale: [None, Some(0), Some(7), Some(14)][usize::from(shape & 3)],
            sack: how & 4 == 0,
            timestamps: how & 8 == 0,
        };
        let mut config = config();
        config.tcp.congestion = [
            CongestionControl::Cubic,
            CongestionControl::NewReno,
            CongestionControl::None,
            CongestionControl::Cubic,
        ][usize::from(shape >> 2 & 3)];
        config.tcp.recv_buffer_bytes = [512 << 10, 4096, 65_536, 2304][usize::from(shape >> 4 & 3)];
        config.tcp.send_buffer_bytes = [64 << 10, 4096][usize::from(shape >> 6 & 1)];
        if shape & 128 != 0 {
            config.tcp.ecn = EcnMode::Accurate;
        }
        let mut host = Host::new(config);
        host.neighbours = true;
        resolve(&mut host, v6);
        let listener = host
            .stack
            .listen("[::]:80".parse().expect("an address"), &ListenOptions::default())
            .expect("a free port");
        let mut peer = Peer::new(offer, (5000, 80));
        let mut stream = None;
        if how & 16 != 0 {
            let remote = if v6 { "[fd00::2]:5000" } else { "10.0.0.2:5000" };
            let options = StreamOptions::default();
            stream = host.stack.connect(remote.parse().expect("an address"), None, &options).ok();
            let local = host.stack.local_addr(stream?).expect("an open stream");
            peer.ports.1 = local.port();
            for frame in host.settle() {
                peer.observe(&frame);
            }
        }
        let mut story = Story { host, peer, listener, stream, read: 0, written: 0, several: false };
        if shape & 0x80 == 0 {
            // Most stories begin with a whole handshake.
            let syn = story.peer.syn();
            story.send(syn);
            if how & 16 == 0 {
                let ack = story.peer.acknowledge();
                story.send(ack);
                story.accept();
                assert!(story.stream.is_some(), "a handshake that leads to nothing");
            }
        }
        Some(story)
    }

    fn send(&mut self, frame: Vec<u8>) {
        if frame.len() <= 1514 {
            let sent = self.host.ask(frame);
            self.observe(&sent);
        }
    }

    fn observe(&mut self, sent: &[Vec<u8>]) {
        for frame in sent {
            self.peer.observe(frame);
        }
    }

    fn accept(&mut self) {
        while let Some(accepted) = once(|cx| self.host.stack.poll_accept(cx, self.listener)) {
            let (stream, _) = accepted.expect("a listener that is open");
            match self.stream {
                None if !self.peer.reborn => self.stream = Some(stream),
                _ => {
                    self.several = true;
                    self.host.stack.abort(stream);
                }
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let code = input.u8();
        let contiguous = self.peer.contiguous();
        match code & 15 {
            // In order, and everything acknowledged.
            0 => {
                let len = usize::from(input.u8()) * 6;
                let flags = if code & 16 == 0 { ACK | PSH } else { ACK };
                let frame = self.peer.data(self.peer.next, len, flags, contiguous, &[]);
                self.peer.next = self.peer.next.wrapping_add(len as u32);
                self.send(frame);
            }
            // Data at any distance, with any flags.
            1 => {
                let offset = self.peer.next.wrapping_add_signed(input.distance());
                let len = usize::from(input.u8()) * 6;
                let flags = if code & 0xe0 == 0 { input.u8() } else { ACK };
                let ack = contiguous.wrapping_add_signed(if code & 16 == 0 { 0 } else { input.distance() });
                let frame = self.peer.data(offset, len, flags, ack, &[]);
                self.send(frame);
            }
            2 => {
                let frame = self.peer.acknowledge();
                self.send(frame);
            }
            // Any acknowledgement, with blocks that may be true.
            3 => {
                let ack = contiguous.wrapping_add_signed(if code & 16 == 0 { 0 } else { input.distance() });
                let mut blocks = Vec::new();
                for _ in 0..usize::from(code >> 5 & 3) + 1 {
                    let start = contiguous.wrapping_add_signed(input.distance());
                    blocks.push((start, start.wrapping_add_signed(input.distance())));
                }
                let frame = self.peer.data(self.peer.next, 0, ACK, ack, &blocks);
                self.send(frame);
            }
            // Selective acknowledgements of what was really sent, with holes.
            4 => {
                let high = self.peer.highest();
                let span = high.wrapping_sub(contiguous).max(1);
                let mut blocks = Vec::new();
                for _ in 0..usize::from(code >> 5 & 3) + 1 {
                    let start = contiguous.wrapping_add(u32::from(input.u8()) * span / 256);
                    let end = start.wrapping_add(1 + u32::from(input.u8()) * span / 256);
                    blocks.push((start, if end.wrapping_sub(high) as i32 > 0 { high } else { end }));
                }
                // The true left edge, or what a peer had that lost the rest.
                let ack = if code & 16 == 0 {
                    self.peer.received.first().map_or(1, |range| range.1.min(2))
                } else {
                    contiguous
                };
                let frame = self.peer.data(self.peer.next, 0, ACK, ack, &blocks);
                self.send(frame);
            }
            5 => {
                let unit = [1, 40, 1000, 20_000][usize::from(code >> 4 & 3)];
                let sent = self.host.pass(Duration::from_millis(u64::from(input.u8()) * unit));
                self.observe(&sent);
            }
            6 | 7 => self.write(usize::from(input.u16()) % 20_000),
            8 => self.call(code >> 4, input),
            9 => {
                let window = if code & 16 == 0 { u16::from(input.u8()) } else { input.u16() };
                self.peer.set_window(window);
                let frame = self.peer.acknowledge();
                self.send(frame);
            }
            // RST, SYN or FIN near the window's edges.
            10 => {
                let flags = [RST, RST | ACK, SYN, SYN | ACK, FIN | ACK, FIN, 0, SYN | FIN | RST]
                    [usize::from(code >> 5)];
                let offset = self.peer.next.wrapping_add_signed(input.distance());
                let frame = self.peer.data(offset, 0, flags, contiguous, &[]);
                self.send(frame);
            }
            // The orderly end.
            11 => {
                let frame = self.peer.data(self.peer.next, 0, FIN | ACK, contiguous, &[]);
                self.send(frame);
            }
            12 => {
                self.peer.tick(input.distance());
                let frame = self.peer.acknowledge();
                self.send(frame);
            }
            // The same acknowledgement over and over.
            13 => {
                for _ in 0..code >> 4 {
                    let frame = self.peer.acknowledge();
                    self.send(frame);
                }
            }
            14 => {
                let frame = self.peer.syn();
                self.send(frame);
                let frame = self.peer.acknowledge();
                self.send(frame);
                self.accept();
            }
            _ => self.path_error(code, input),
        }
    }

    /// An ICMP error about the latest bytes.
    fn path_error(&mut self, code: u8, input: &mut Input<'_>) {
        let v6 = self.peer.offer.v6;
        let (src, dst) = frames::to_us(v6);
        let seq = self.peer.irs.unwrap_or(0).wrapping_add(self.peer.contiguous());
        let mut quoted = [0; 20];
        quoted[..2].copy_from_slice(&self.peer.ports.1.to_be_bytes());
        quoted[2..4].copy_from_slice(&self.peer.ports.0.to_be_bytes());
        quoted[4..8].copy_from_slice(&seq.wrapping_add_signed(input.distance()).to_be_bytes());
        quoted[12] = 0x50;
        let quote = frames::ip_raw(dst, src, protocol::TCP, 64, &quoted);
        let mtu = input.u16();
        let kind = match (v6, code & 16 == 0) {
            (false, true) => [3, 4, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
            (true, true) => [2, 0, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
            (false, false) => [3, code >> 5, 0, 0, 0, 0, 0, 0],
            (true, false) => [1, code >> 5, 0, 0, 0, 0, 0, 0],
        };
        let number = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        let frame = frames::ip(src, dst, number, 64, &[&kind[..], &quote[14..]].concat());
        self.send(frame);
    }

    fn write(&mut self, len: usize) {
        let Some(stream) = self.stream else { return self.accept() };
        let bytes: Vec<u8> = (0..len as u32).map(|at| written_byte(self.written.wrapping_add(at))).collect();
        if bytes.is_empty() {
            return;
        }
        if let Some(Ok(count)) = once(|cx| self.host.stack.poll_write(cx, stream, &[IoSlice::new(&bytes)])) {
            self.written = self.written.wrapping_add(count as u32);
        }
        let sent = self.host.settle();
        self.observe(&sent);
    }

    fn read(&mut self) {
        let Some(stream) = self.stream else { return self.accept() };
        let mut into = [0; 3000];
        let mut cursor = ReadCursor::new(&mut into);
        let Some(Ok(())) = once(|cx| self.host.stack.poll_read(cx, stream, &mut cursor)) else { return };
        let count = cursor.filled();
        if self.peer.reborn || self.several {
            return;
        }
        for (at, byte) in into[..count].iter().enumerate() {
            let offset = self.read.wrapping_add(at as u32);
            assert_eq!(*byte, sent_byte(offset), "byte {offset} of what was sent");
        }
        if count == 0 {
            let shut = self.peer.fins.contains(&self.read);
            assert!(shut || self.closed(stream), "an end at byte {} that nobody has sent", self.read);
        }
        self.read = self.read.wrapping_add(count as u32);
    }

    fn closed(&self, stream: StreamId) -> bool {
        self.host.stack.tcp_info(stream).is_ok_and(|info| info.state == TcpState::Closed) || self.shut_read()
    }

    fn shut_read(&self) -> bool {
        self.several
    }

    fn call(&mut self, code: u8, input: &mut Input<'_>) {
        let Some(stream) = self.stream else { return self.accept() };
        let stack = &mut self.host.stack;
        match code {
            0..=2 => {
                let _ = stack.shutdown(stream, Shutdown::Write);
            }
            3 => {
                stack.close(stream);
                self.several = true;
            }
            4 => {
                stack.abort(stream);
                self.several = true;
            }
            5..=9 => {
                if let Ok(mut options) = stack.stream_options(stream) {
                    let value = input.u8();
                    options.nodelay = value & 1 != 0;
                    options.cork = value & 2 != 0;
                    let second = Duration::from_secs(9);
                    options.keepalive =
                        (value & 4 != 0).then_some(KeepAlive { idle: second, interval: second, probes: 3 });
                    options.user_timeout = (value & 8 != 0).then_some(second * 30);
                    options.linger = (value & 16 != 0).then_some(second);
                    let _ = stack.set_stream_options(stream, &options);
                }
            }
            10 => {
                let _ = stack.set_quickack(stream, input.u8() & 1 == 0);
            }
            11 => {
                let _ = once(|cx| stack.poll_drained(cx, stream));
            }
            _ => {
                let _ = (stack.tcp_info(stream), stack.take_error(stream));
            }
        }
        let sent = self.host.settle();
        self.observe(&sent);
    }

    fn end(mut self) {
        self.accept();
        if let Some(stream) = self.stream.take() {
            self.host.stack.close(stream);
        }
        self.host.stack.close_listener(self.listener);
        let sent = self.host.pass(FORGOTTEN);
        self.observe(&sent);
        let usage = self.host.stack.usage();
        let left = (usage.streams, usage.listeners, usage.closing, usage.time_wait);
        assert_eq!(left, (0, 0, 0, 0), "streams, listeners, closing, TIME-WAIT");
        assert_eq!(self.host.stack.pool().stats().slots_out, 0, "a connection that is gone keeps slots");
    }
}
