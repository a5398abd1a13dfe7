//! What a junk packet costs: floods whose instructions are counted. A run is so many packets of one flood through a stack, in bursts, as
//! a device hands them over; a ceiling is committed beside each, well above what it takes today, so that no change makes a stranger's
//! packet expensive unnoticed.

use demi_drivers::transport::{ListenOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};
use demi_netstack::wire::{checksum, protocol};
use demi_netstack::{Stack, StackConfig};

/// A flood: its name, what builds it, and the most instructions that one of its packets may take, wire included.
pub type Flood = (&'static str, fn() -> Box<dyn FnMut(u64)>, f64);

/// Every flood.
pub const FLOODS: &[Flood] = &[
    ("flood_syn", syns, 6_000.0),
    ("flood_stray_ack", stray_acks, 4_500.0),
    ("flood_gaps", gaps, 6_000.0),
    ("flood_fragments", fragments, 4_500.0),
    ("flood_closed_port", closed_port, 2_000.0),
    ("flood_arp", arps, 3_000.0),
];

/// Different packets of a flood.
const PACKETS: u32 = 4096;
const BURST: usize = 64;
const HOST: [u8; 4] = [10, 0, 0, 1];
const STRANGER: [u8; 4] = [10, 0, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Ground {
    stack: Stack,
    hand: WireEnd,
    queue: TxQueue,
    frames: Vec<RxFrame>,
    now: Instant,
}

impl Ground {
    fn new() -> Ground {
        let wire = WireConfig { pool: PoolConfig::small(8192), ..WireConfig::default() };
        let mut ends = Wire::new(1, wire).expect("memory for a wire").into_iter();
        let (end, hand) = (ends.next().expect("two ends"), ends.next().expect("two ends"));
        let mut config = StackConfig {
            addresses: vec!["10.0.0.1/24".parse().expect("an address")],
            secret: [7; 16],
            ..StackConfig::default()
        };
        // Answers are limited by time, which stands still here: as good as none.
        config.limits.icmp_errors_per_second = 1000;
        let mut stack = Stack::new(Box::new(end), config).expect("a stack");
        let address = "0.0.0.0:80".parse().expect("an address");
        stack.listen(address, &ListenOptions::default()).expect("a free port");
        let mut ground = Ground {
            stack,
            hand,
            queue: TxQueue::new(BURST),
            frames: Vec::new(),
            now: Instant::from_millis(1000),
        };
        ground.send(&[arp(STRANGER, STRANGER_MAC)], 0, 1);
        ground
    }

    /// Sends `count` packets from the `first` on, and lets the stack take them.
    fn send(&mut self, packets: &[Vec<u8>], first: usize, count: usize) {
        for at in first..first + count {
            if let Some(buf) = self.hand.pool().copy_from_slice(&packets[at % packets.len()]) {
                self.queue.push(buf, Offload::default());
            }
        }
        self.hand.tx_burst(self.now, &mut self.queue).expect("a wire");
        while self.stack.poll(self.now).expect("a wire") > 0 {}
        self.stack.flush(self.now).expect("a wire");
        self.frames.clear();
        while self.hand.rx_burst(self.now, &mut self.frames, BURST).expect("a wire") > 0 {}
    }

    /// A run of a flood of these packets, again and again.
    fn flood(mut self, packets: Vec<Vec<u8>>) -> Box<dyn FnMut(u64)> {
        let mut next = 0;
        Box::new(move |operations| {
            let mut left = operations as usize;
            while left > 0 {
                let count = left.min(BURST);
                self.send(&packets, next, count);
                next += count;
                left -= count;
                // A hundred thousand packets a second.
                self.now = self.now.plus_nanos(10_000 * count as u64);
            }
        })
    }
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&HOST_MAC[..], &STRANGER_MAC, &kind.to_be_bytes(), packet].concat()
}

fn arp(sender: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &sender, &[0; 6], &HOST].concat())
}

fn ipv4(src: [u8; 4], number: u8, ident: u16, bits: u16, message: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + message.len() as u16).to_be_bytes());
    header.extend(ident.to_be_bytes());
    header.extend(bits.to_be_bytes());
    header.extend([64, number, 0, 0]);
    header.extend(src);
    header.extend(HOST);
    let sum = checksum::sum(&header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(message);
    ethernet(0x0800, &header)
}

fn tcp(src: [u8; 4], port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(port.to_be_bytes());
    segment.extend(80u16.to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x60, flags, 0xff, 0xff, 0, 0, 0, 0]);
    // An MSS in SYNs, else nothing.
    segment.extend(if flags & 2 != 0 { [2, 4, 5, 180] } else { [1, 1, 1, 1] });
    segment.extend(payload);
    let pseudo = checksum::pseudo_v4(src.into(), HOST.into(), protocol::TCP, segment.len() as u32);
    let sum = pseudo.then(checksum::sum(&segment)).finish();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(src, protocol::TCP, 0, 0x4000, &segment)
}

/// A number that looks like chance, the same in each run.
fn scattered(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1).rotate_left(15).wrapping_mul(0x85eb_ca6b)
}

fn syns() -> Box<dyn FnMut(u64)> {
    let packet = |number| {
        let [a, b, c, d] = scattered(number).to_be_bytes();
        tcp([10, 0, 0, 100 + a % 100], u16::from_be_bytes([b | 4, c]), u32::from(d) << 20, 0, 2, &[])
    };
    Ground::new().flood((0..PACKETS).map(packet).collect())
}

fn stray_acks() -> Box<dyn FnMut(u64)> {
    let packet =
        |number| tcp(STRANGER, 1024 + number as u16, scattered(number), scattered(!number), 16, b"data");
    Ground::new().flood((0..PACKETS).map(packet).collect())
}

/// One byte of every two, on a connection of the stranger's, so that each is a range of its own.
fn gaps() -> Box<dyn FnMut(u64)> {
    let mut ground = Ground::new();
    let syn = tcp(STRANGER, 1000, 5000, 0, 2, &[]);
    if let Some(buf) = ground.hand.pool().copy_from_slice(&syn) {
        ground.queue.push(buf, Offload::default());
    }
    ground.hand.tx_burst(ground.now, &mut ground.queue).expect("a wire");
    while ground.stack.poll(ground.now).expect("a wire") > 0 {}
    ground.stack.flush(ground.now).expect("a wire");
    ground.frames.clear();
    ground.hand.rx_burst(ground.now, &mut ground.frames, BURST).expect("a wire");
    let answer = ground.frames.iter().find(|frame| frame.buf[12..14] == [8, 0]).expect("a SYN-ACK");
    let seq = u32::from_be_bytes([answer.buf[38], answer.buf[39], answer.buf[40], answer.buf[41]]);
    let first = seq.wrapping_add(1);
    ground.send(&[tcp(STRANGER, 1000, 5001, first, 16, &[])], 0, 1);
    let packet = |number: u32| tcp(STRANGER, 1000, 5002 + 2 * number, first, 16, b"x");
    ground.flood((0..PACKETS).map(packet).collect())
}

fn fragments() -> Box<dyn FnMut(u64)> {
    let packet = |number| {
        let chance = scattered(number);
        let bits = 0x2000 | ((chance >> 16) as u16 % 100);
        ipv4([10, 0, 0, 100 + chance as u8 % 100], protocol::UDP, number as u16, bits, &[7; 256])
    };
    Ground::new().flood((0..PACKETS).map(packet).collect())
}

fn closed_port() -> Box<dyn FnMut(u64)> {
    let packet = |number: u32| {
        let port = (1000 + number as u16).to_be_bytes();
        ipv4(STRANGER, protocol::UDP, 0, 0x4000, &[&[4, 0][..], &port, &[0, 24, 0, 0], &[7; 16]].concat())
    };
    Ground::new().flood((0..PACKETS).map(packet).collect())
}

fn arps() -> Box<dyn FnMut(u64)> {
    let packet = |number: u32| arp([10, 0, 0, 3 + number as u8 % 250], STRANGER_MAC);
    Ground::new().flood((0..PACKETS).map(packet).collect())
}

/// The flood called `name`.
pub fn find(name: &str) -> Option<&'static Flood> {
    FLOODS.iter().find(|(known, ..)| *known == name)
}
