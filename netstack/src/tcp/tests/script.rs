//! One layer against a peer that the test plays: segments in and out as short lines, in relative numbers.
//!
//! A line is `FLAGS SEQ[:END] [ack N] [win N] [mss N] [sackOK] [wscale N] [ts VALUE ECHO] [sack A:B]…`, with the flags as
//! tcpdump writes them (`S`, `S.`, `.`, `P.`, `F.`, `R`, `R.`). Numbers count from the two initial sequence numbers, of which the
//! peer's lies just before the wrap. What comes out is written the same way; windows and timestamps only when asked for.

use core::task::{Context, Poll, Waker};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions};
use demi_drivers::{Buf, Instant, Pool, PoolConfig};

use crate::tcp::output::{Flow, Output, Refused, SegmentOut};
use crate::tcp::{IpMeta, Tcp, TcpConfig};
use crate::wire::tcp::{HEADER_BYTES, Header, OptionBytes, Options, SackBlock, Timestamps, flags};

/// The peer's initial sequence number.
pub(super) const PEER_ISS: u32 = u32::MAX - 700;

/// A way out that keeps what is sent.
pub(super) struct ListOutput {
    pub(super) pool: Pool,
    /// Segments sent, headers included, and what they were sent from and to.
    pub(super) sent: Vec<(Flow, Vec<u8>)>,
    pub(super) room: usize,
    pub(super) mtu: u16,
    pub(super) tso_max_bytes: u32,
    pub(super) addresses: Vec<IpAddr>,
    /// Answer every segment with this.
    pub(super) refuse: Option<Refused>,
}

impl ListOutput {
    pub(super) fn new(addresses: Vec<IpAddr>) -> Self {
        ListOutput {
            pool: Pool::new(&PoolConfig::small(4096)).unwrap(),
            sent: Vec::new(),
            room: usize::MAX,
            mtu: 1500,
            tso_max_bytes: 0,
            addresses,
            refuse: None,
        }
    }
}

impl Output for ListOutput {
    type Path = ();

    fn room(&self) -> usize {
        self.room
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ours| ours.is_ipv6() == remote.is_ipv6())
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr)
    }

    fn mtu(&self, _remote: IpAddr) -> u16 {
        self.mtu
    }

    fn tso_max_bytes(&self) -> u32 {
        self.tso_max_bytes
    }

    fn send(
        &mut self,
        flow: &Flow,
        _path: &mut (),
        segment: &SegmentOut<'_>,
        payload: &mut [Buf],
    ) -> Result<(), Refused> {
        if let Some(refused) = self.refuse {
            return Err(refused);
        }
        if self.room == 0 {
            return Err(Refused::Full);
        }
        self.room -= 1;
        assert!(payload.len() <= 15, "a device gathers sixteen parts, one of them the header");
        let bytes: Vec<u8> = payload.iter().flat_map(|part| part.iter().copied()).collect();
        let cut = if segment.gso_bytes == 0 { bytes.len().max(1) } else { usize::from(segment.gso_bytes) };
        let pieces: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(cut).collect() };
        for (at, piece) in pieces.iter().enumerate() {
            let last = at + 1 == pieces.len();
            let header = Header {
                src_port: flow.local_port,
                dst_port: flow.remote_port,
                seq: segment.seq.wrapping_add((at * cut) as u32),
                ack: segment.ack,
                flags: if last { segment.flags } else { segment.flags & !(flags::FIN | flags::PSH) },
                window: segment.window,
                urgent: segment.urgent,
                header_bytes: 0,
            };
            let mut frame = vec![0; HEADER_BYTES + segment.options.len()];
            header.emit(segment.options, &mut frame).expect("options fit");
            frame.extend_from_slice(piece);
            let ip = if flow.local.is_ipv6() { 40 } else { 20 };
            assert!(frame.len() + ip <= usize::from(self.mtu), "{} bytes over the MTU", frame.len() + ip);
            self.sent.push((*flow, frame));
        }
        Ok(())
    }
}

/// The layer under test, and the peer's view of the conversation.
pub(super) struct Script {
    pub(super) tcp: Tcp<()>,
    pub(super) out: ListOutput,
    pub(super) now: Instant,
    pub(super) us: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Our initial sequence number, once it has been seen.
    pub(super) iss: Option<u32>,
    /// The window and timestamps of the last segment that came out.
    pub(super) window: u16,
    pub(super) timestamps: Option<Timestamps>,
    pub(super) stream: Option<StreamId>,
    pub(super) listener: Option<ListenerId>,
}

pub(super) fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Script {
    pub(super) fn new(config: TcpConfig) -> Self {
        Script::between(config, "10.0.0.1", "10.0.0.2")
    }

    pub(super) fn between(config: TcpConfig, us: &str, peer: &str) -> Self {
        let us = SocketAddr::new(us.parse().unwrap(), 80);
        let now = Instant::from_millis(1_000_000);
        Script {
            tcp: Tcp::new(config, [7; 16], now),
            out: ListOutput::new(vec![us.ip()]),
            now,
            us,
            peer: SocketAddr::new(peer.parse().unwrap(), 5000),
            iss: None,
            window: 0,
            timestamps: None,
            stream: None,
            listener: None,
        }
    }

    /// Without timestamps, SACK and window scaling, unless a test is about them; acknowledgements at once.
    pub(super) fn plain() -> TcpConfig {
        TcpConfig { timestamps: false, sack: false, window_scaling: false, ..TcpConfig::default() }
    }

    pub(super) fn sack() -> TcpConfig {
        TcpConfig { timestamps: false, window_scaling: false, ..TcpConfig::default() }
    }

    pub(super) fn listen(&mut self, options: &ListenOptions) {
        self.listener = Some(self.tcp.listen(&self.out, self.us, options).unwrap());
    }

    /// Starts connecting to the peer, from port 80.
    pub(super) fn connect(&mut self, options: &StreamOptions) {
        let stream = self.tcp.connect(self.now, &mut self.out, self.peer, Some(self.us), options).unwrap();
        self.stream = Some(stream);
        self.flush();
    }

    /// An accepted connection whose peer has said `syn` (after `S 0`); what came out is forgotten.
    pub(super) fn accepted(config: TcpConfig, syn: &str) -> Self {
        let mut script = Script::new(config);
        script.accept(syn);
        script
    }

    pub(super) fn accept(&mut self, syn: &str) {
        self.accept_with_window(syn, 65535);
    }

    /// As [`accept`](Self::accept), from a peer whose window is `window`.
    pub(super) fn accept_with_window(&mut self, syn: &str, window: u16) {
        self.listen(&ListenOptions::default());
        self.recv(&format!("S 0 {syn}"));
        self.flush();
        self.sent();
        self.recv(&format!(". 1 ack 1 win {window}"));
        let Poll::Ready(Ok((stream, peer))) = self.tcp.poll_accept(&mut cx(), self.listener.unwrap()) else {
            panic!("not accepted");
        };
        assert_eq!(peer, self.peer);
        self.stream = Some(stream);
        self.flush();
        assert_eq!(self.sent(), [""; 0]);
    }

    pub(super) fn stream(&self) -> StreamId {
        self.stream.unwrap()
    }

    /// The peer's segment arrives; nothing is flushed yet.
    pub(super) fn recv(&mut self, line: &str) {
        let bytes = self.encode(line);
        self.recv_bytes(&bytes);
    }

    pub(super) fn recv_bytes(&mut self, bytes: &[u8]) {
        let buf = self.out.pool.copy_from_slice(bytes).unwrap();
        let meta = IpMeta { src: self.peer.ip(), dst: self.us.ip(), tos: 0, ttl: 64 };
        self.tcp.on_segment(self.now, &mut self.out, &meta, buf);
    }

    /// The peer's segment arrives and the turn ends: what comes out.
    pub(super) fn turn(&mut self, line: &str) -> Vec<String> {
        self.recv(line);
        self.end()
    }

    /// The turn ends: what comes out.
    pub(super) fn end(&mut self) -> Vec<String> {
        self.flush();
        self.sent()
    }

    pub(super) fn flush(&mut self) {
        self.tcp.flush(self.now, &mut self.out);
    }

    /// Time passes, timers run as they fall due: what comes out.
    pub(super) fn wait(&mut self, duration: Duration) -> Vec<String> {
        let end = self.now + duration;
        self.flush();
        loop {
            let next = self.tcp.deadline().filter(|&next| next <= end).unwrap_or(end);
            self.now = next.max(self.now);
            let ran = self.tcp.poll_timers(self.now, &mut self.out);
            self.flush();
            if ran == 0 && next >= end {
                return self.sent();
            }
        }
    }

    pub(super) fn wait_ms(&mut self, ms: u64) -> Vec<String> {
        self.wait(Duration::from_millis(ms))
    }

    /// The application writes `len` bytes.
    pub(super) fn write(&mut self, len: usize) {
        let bytes = vec![b'x'; len];
        let stream = self.stream();
        let written = self.tcp.poll_write(&mut cx(), &self.out, stream, &[io::IoSlice::new(&bytes)]);
        assert!(matches!(written, Poll::Ready(Ok(written)) if written == len), "{written:?}");
    }

    /// The application reads everything there is: how many bytes, and whether the end has been reached.
    pub(super) fn read(&mut self) -> (usize, bool) {
        let (stream, mut bytes) = (self.stream(), 0);
        loop {
            match self.tcp.poll_pop(&mut cx(), stream, usize::MAX) {
                Poll::Ready(Ok(Some(buf))) => {
                    for byte in buf.iter() {
                        assert_eq!(*byte, b'p');
                    }
                    bytes += buf.len();
                }
                Poll::Ready(Ok(None)) => return (bytes, true),
                Poll::Pending => return (bytes, false),
                Poll::Ready(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// The error that reading gives.
    pub(super) fn read_error(&mut self) -> Option<io::ErrorKind> {
        let stream = self.stream();
        match self.tcp.poll_pop(&mut cx(), stream, usize::MAX) {
            Poll::Ready(Err(error)) => Some(error.kind()),
            _ => None,
        }
    }

    pub(super) fn close(&mut self) {
        let stream = self.stream();
        self.tcp.close(self.now, &mut self.out, stream);
    }

    /// Asserts that nothing is left of any connection.
    pub(super) fn nothing_left(&self) {
        let usage = self.tcp.usage();
        assert_eq!((usage.streams, usage.closing, usage.time_wait), (0, 0, 0));
        assert_eq!(self.tcp.deadline(), None, "no timer is armed");
        assert_eq!(self.out.pool.stats().slots_out, 0, "no slot is held");
    }

    /// What has come out since the last call.
    pub(super) fn sent(&mut self) -> Vec<String> {
        let sent = core::mem::take(&mut self.out.sent);
        sent.iter().map(|(flow, bytes)| self.decode(flow, bytes)).collect()
    }

    fn encode(&self, line: &str) -> Vec<u8> {
        let mut words = line.split_whitespace();
        let bits = words.next().unwrap().chars().fold(0, |bits, letter| {
            bits | match letter {
                'S' => flags::SYN,
                'F' => flags::FIN,
                'R' => flags::RST,
                'P' => flags::PSH,
                '.' => flags::ACK,
                '-' => 0,
                other => panic!("flag {other}"),
            }
        });
        let number = |word: &str| word.parse::<i64>().unwrap_or_else(|_| panic!("{word} in {line}"));
        let peer = |relative: i64| PEER_ISS.wrapping_add(relative as u32);
        let ours = |relative: i64| self.iss.unwrap_or(0).wrapping_add(relative as u32);
        let range = words.next().unwrap();
        let (start, end) = range.split_once(':').unwrap_or((range, range));
        let (start, end) = (number(start), number(end));
        let mut header = Header {
            src_port: self.peer.port(),
            dst_port: self.us.port(),
            seq: peer(start),
            ack: 0,
            flags: bits,
            window: 65535,
            urgent: 0,
            header_bytes: 0,
        };
        let (mut mss, mut sack_ok, mut scale, mut timestamps, mut blocks) =
            (None, false, None, None, Vec::new());
        while let Some(word) = words.next() {
            match word {
                "sackOK" => sack_ok = true,
                "ack" => header.ack = ours(number(words.next().unwrap())),
                "win" => header.window = number(words.next().unwrap()) as u16,
                "mss" => mss = Some(number(words.next().unwrap()) as u16),
                "wscale" => scale = Some(number(words.next().unwrap()) as u8),
                "ts" => {
                    let value = number(words.next().unwrap()) as u32;
                    let echo = words.next().unwrap();
                    // `last`: what we sent last, as a peer does.
                    let echo = match echo {
                        "last" => self.timestamps.map_or(0, |last| last.value),
                        echo => number(echo) as u32,
                    };
                    timestamps = Some(Timestamps { value, echo });
                }
                "sack" => {
                    let (a, b) = words.next().unwrap().split_once(':').unwrap();
                    blocks.push(SackBlock { start: ours(number(a)), end: ours(number(b)) });
                }
                other => panic!("{other} in {line}"),
            }
        }
        let options = if let Some(mss) = mss {
            OptionBytes::for_syn(mss, sack_ok, timestamps, scale)
        } else {
            OptionBytes::for_segment(timestamps, &blocks)
        };
        let mut bytes = vec![0; 20 + options.as_slice().len()];
        header.emit(options.as_slice(), &mut bytes).unwrap();
        bytes.extend(std::iter::repeat_n(b'p', (end - start) as usize));
        bytes
    }

    fn decode(&mut self, flow: &Flow, bytes: &[u8]) -> String {
        let header = Header::parse(bytes).unwrap();
        assert_eq!((flow.local, flow.local_port), (self.us.ip(), self.us.port()));
        let header_bytes = usize::from(header.header_bytes);
        let options = Options::parse(&bytes[HEADER_BYTES..header_bytes]);
        let has = |flag| header.flags & flag != 0;
        if has(flags::SYN) {
            self.iss = Some(header.seq);
        }
        self.window = header.window;
        self.timestamps = options.timestamps;
        let ours = |seq: u32| i64::from(seq.wrapping_sub(self.iss.unwrap_or(0)) as i32);
        let peer = |seq: u32| i64::from(seq.wrapping_sub(PEER_ISS) as i32);
        let mut line = String::new();
        for (flag, letter) in
            [(flags::SYN, 'S'), (flags::FIN, 'F'), (flags::RST, 'R'), (flags::PSH, 'P'), (flags::ACK, '.')]
        {
            if has(flag) {
                line.push(letter);
            }
        }
        let start = ours(header.seq);
        let len = (bytes.len() - header_bytes) as i64;
        if len > 0 {
            line += &format!(" {start}:{}", start + len);
        } else {
            line += &format!(" {start}");
        }
        if has(flags::ACK) {
            line += &format!(" ack {}", peer(header.ack));
        }
        if let Some(mss) = options.mss {
            line += &format!(" mss {mss}");
        }
        if options.sack_permitted {
            line += " sackOK";
        }
        if options.timestamps.is_some() && has(flags::SYN) {
            line += " ts";
        }
        if let Some(scale) = options.window_scale {
            line += &format!(" wscale {scale}");
        }
        for block in options.sack.as_slice() {
            line += &format!(" sack {}:{}", peer(block.start), peer(block.end));
        }
        line
    }
}
