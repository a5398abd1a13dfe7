//! The floor of a TCP echo: the least a receiver must do for one 64-byte request, written by hand over plain memory.
//!
//! Parse Ethernet, IPv4 and TCP, verify both checksums, find the flow in an open-addressed table, update its sequence
//! numbers, copy the payload out, write the reply's headers and its checksum. No stack, no executor, no options but
//! timestamps. What a whole stack costs above this is what its generality costs.

use std::hint::black_box;

use demi_benches::kit::sample::timed;
use demi_benches::kit::{Args, Group, Run, Unit, measure};

const HEADERS: usize = 14 + 20 + 32;
const PAYLOAD: usize = 64;
const FRAME: usize = HEADERS + PAYLOAD;

fn main() {
    let args = Args::parse("Lower bound of one TCP echo, by hand.", &[]);
    let groups = [1, 1_000, 100_000].map(|flows| {
        Group::new(format!("tcp echo, {flows} flows"), Unit::Nanos).peer("floor", move || build(flows))
    });
    measure("floor", &args, groups.into());
}

/// Sum of big-endian 16-bit words modulo 2^16 - 1, not folded; any order of bytes gives the same fold.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = 0u64;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        lanes += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut tail = [0u8; 4];
    let rest = words.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    lanes + u64::from(u32::from_ne_bytes(tail))
}

/// Folds to 16 bits in the machine's byte order.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of TCP's pseudo header, from the addresses in the IPv4 header.
#[inline]
fn pseudo(frame: &[u8; FRAME], length: u16) -> u64 {
    sum(&frame[26..34]) + u64::from(6u16.to_be()) + u64::from(length.to_be())
}

#[derive(Clone, Copy, Default)]
struct Flow {
    key: u64,
    next: u32,
    sent: u32,
    timestamp: u32,
    bytes: u64,
}

struct Table {
    slots: Vec<Flow>,
    mask: usize,
}

impl Table {
    fn slot_of(&self, key: u64) -> usize {
        let mixed = u128::from(key ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        ((mixed >> 64) as usize ^ mixed as usize) & self.mask
    }

    #[inline]
    fn find(&mut self, key: u64) -> Option<&mut Flow> {
        let mut at = self.slot_of(key);
        loop {
            match self.slots[at].key {
                found if found == key => return Some(&mut self.slots[at]),
                0 => return None,
                _ => at = (at + 1) & self.mask,
            }
        }
    }
}

/// The flow's key: the peer's address and both ports.
#[inline]
fn key_of(frame: &[u8; FRAME]) -> u64 {
    let address = u32::from_ne_bytes([frame[26], frame[27], frame[28], frame[29]]);
    let ports = u32::from_ne_bytes([frame[34], frame[35], frame[36], frame[37]]);
    u64::from(address) << 32 | u64::from(ports)
}

fn request(flow: u32) -> [u8; FRAME] {
    let mut frame = [0u8; FRAME];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((FRAME - 14) as u16).to_be_bytes());
    frame[22] = 64;
    frame[23] = 6;
    frame[26..30].copy_from_slice(&[10, 0, (flow >> 16) as u8, 2]);
    frame[30..34].copy_from_slice(&[10, 0, 0, 1]);
    frame[34..36].copy_from_slice(&(flow as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&7000u16.to_be_bytes());
    frame[46] = 8 << 4;
    frame[47] = 0x18;
    frame[54..58].copy_from_slice(&[1, 1, 8, 10]);
    for (at, byte) in frame[HEADERS..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    let ip = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&ip.to_ne_bytes());
    let tcp = !fold(sum(&frame[34..]) + pseudo(&frame, (FRAME - 34) as u16));
    frame[50..52].copy_from_slice(&tcp.to_ne_bytes());
    frame
}

/// One echo: `frame` in, `reply` out.
#[inline(never)]
fn echo(table: &mut Table, frame: &[u8; FRAME], reply: &mut [u8; FRAME]) -> bool {
    let length = (FRAME - 34) as u16;
    if frame[12..14] != [8, 0] || frame[14] != 0x45 || frame[23] != 6 {
        return false;
    }
    if fold(sum(&frame[14..34])) != 0xffff || fold(sum(&frame[34..]) + pseudo(frame, length)) != 0xffff {
        return false;
    }
    let Some(flow) = table.find(key_of(frame)) else { return false };
    let sequence = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
    if sequence != flow.next {
        return false;
    }
    // The generator replays the same frame, so what is expected next stays as it is; the write is still paid.
    flow.next = black_box(sequence);
    flow.timestamp = u32::from_be_bytes([frame[58], frame[59], frame[60], frame[61]]);
    flow.bytes += PAYLOAD as u64;
    let sent = flow.sent;
    flow.sent = sent.wrapping_add(PAYLOAD as u32);
    let acknowledged = sequence.wrapping_add(PAYLOAD as u32);

    reply[HEADERS..].copy_from_slice(&frame[HEADERS..]);
    reply[..6].copy_from_slice(&frame[6..12]);
    reply[6..12].copy_from_slice(&frame[..6]);
    reply[12..26].copy_from_slice(&frame[12..26]);
    reply[24..26].copy_from_slice(&[0, 0]);
    reply[26..30].copy_from_slice(&frame[30..34]);
    reply[30..34].copy_from_slice(&frame[26..30]);
    reply[34..36].copy_from_slice(&frame[36..38]);
    reply[36..38].copy_from_slice(&frame[34..36]);
    reply[38..42].copy_from_slice(&sent.to_be_bytes());
    reply[42..46].copy_from_slice(&acknowledged.to_be_bytes());
    reply[46..50].copy_from_slice(&[8 << 4, 0x18, 0xff, 0xff]);
    reply[50..54].copy_from_slice(&[0; 4]);
    reply[54..58].copy_from_slice(&[1, 1, 8, 10]);
    reply[58..62].copy_from_slice(&flow.timestamp.to_be_bytes());
    reply[62..66].copy_from_slice(&flow.timestamp.to_be_bytes());
    let ip = !fold(sum(&reply[14..34]));
    reply[24..26].copy_from_slice(&ip.to_ne_bytes());
    let tcp = !fold(sum(&reply[34..]) + pseudo(reply, length));
    reply[50..52].copy_from_slice(&tcp.to_ne_bytes());
    true
}

fn build(flows: u32) -> Run {
    let slots = (flows as usize * 2).next_power_of_two().max(16);
    let mut table = Table { slots: vec![Flow::default(); slots], mask: slots - 1 };
    // A device writes its frames to memory that is in the cache, so one buffer is made to look like each flow's request in
    // turn: addresses, ports and the two checksums are all that differs.
    let differing: Vec<(u64, u16, u16)> = (1..=flows)
        .map(|flow| {
            let frame = request(flow);
            let ip = u16::from_ne_bytes([frame[24], frame[25]]);
            let tcp = u16::from_ne_bytes([frame[50], frame[51]]);
            let key = key_of(&frame);
            let mut at = table.slot_of(key);
            while table.slots[at].key != 0 {
                at = (at + 1) & table.mask;
            }
            table.slots[at].key = key;
            (key, ip, tcp)
        })
        .collect();
    let mut frame = request(1);
    let mut reply = [0u8; FRAME];
    let mut at = 0;
    Box::new(move |operations| {
        timed(|| {
            for _ in 0..operations {
                let (key, ip, tcp) = differing[at];
                frame[26..30].copy_from_slice(&((key >> 32) as u32).to_ne_bytes());
                frame[34..38].copy_from_slice(&(key as u32).to_ne_bytes());
                frame[24..26].copy_from_slice(&ip.to_ne_bytes());
                frame[50..52].copy_from_slice(&tcp.to_ne_bytes());
                let done = echo(&mut table, black_box(&frame), &mut reply);
                assert!(done, "the request was refused");
                black_box(&reply);
                at = if at + 1 == differing.len() { 0 } else { at + 1 };
            }
        })
    })
}
