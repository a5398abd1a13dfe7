//! Which queue of a device a received packet belongs to, when several cores drive one each.
//!
//! A flow stays on one queue: TCP and UDP packets are spread by a hash of their addresses and ports. Everything else, and
//! fragments, which lack ports, belong to queue 0. A UDP port that was given out by us (one of the ephemeral range) is different:
//! its socket may talk to anybody, so the port itself says whose it is; and what DHCP servers send belongs to queue 0, which no kernel or
//! NIC knows, so it is handed over. Where the kernel spreads for us, it runs
//! [`program`], which computes the same in classic BPF; where a NIC does, [`Hash::Toeplitz`] has its key and table.
//!
//! The queue that a reply will arrive at is known before a connection is made, so its local port can be chosen for it.

use std::net::IpAddr;
use std::sync::Arc;

/// UDP ports whose number says whose they are: the range that ephemeral ports are from by default (RFC 6056, Linux).
pub const OWNED_PORTS: (u16, u16) = (32768, 60999);

/// The UDP port of DHCP clients (RFC 2131 §4.1): the first core is one for all.
const DHCP_CLIENT: u16 = 68;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Odd constants that mix well: the golden ratio's, and one of MurmurHash3's finalizer.
const MIX_PORTS: u32 = 0x9e37_79b9;
const MIX: u32 = 0x85eb_ca6b;

/// How a device spreads what it receives, and which queue is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Our queue, counted from 0.
    pub queue: u16,
    /// Queues there are, each of which a core drives.
    pub queues: u16,
    /// The hash.
    pub hash: Hash,
}

/// A hash of addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Our own, as [`program`] computes it; the seed is nobody else's to know.
    Mix {
        /// Makes the hash unlike those of other processes.
        seed: u32,
    },
    /// A NIC's: Toeplitz with this key, whose low bits choose from the table.
    Toeplitz {
        /// At least 40 bytes.
        key: Arc<[u8]>,
        /// Queues; a power of two of them.
        table: Arc<[u16]>,
    },
}

/// The addresses and ports of a received packet: from `src` to `dst`, which is us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The peer.
    pub src: IpAddr,
    /// Our address.
    pub dst: IpAddr,
    /// The peer's port.
    pub src_port: u16,
    /// Ours.
    pub dst_port: u16,
    /// UDP, else TCP.
    pub udp: bool,
}

impl Spread {
    /// The queue that a packet belongs to.
    pub fn queue_of(&self, arrival: &Arrival) -> u16 {
        let (first, last) = OWNED_PORTS;
        if arrival.udp && (first..=last).contains(&arrival.dst_port) {
            return arrival.dst_port % self.queues.max(1);
        }
        if arrival.udp && arrival.dst_port == DHCP_CLIENT {
            return 0;
        }
        match &self.hash {
            Hash::Mix { seed } => (mix(*seed, arrival) % u32::from(self.queues.max(1))) as u16,
            Hash::Toeplitz { key, table } => {
                let hash = toeplitz(key, arrival) as usize;
                table.get(hash & table.len().wrapping_sub(1)).copied().unwrap_or(0)
            }
        }
    }

    /// Whether a packet belongs to our queue.
    pub fn is_ours(&self, arrival: &Arrival) -> bool {
        self.queue_of(arrival) == self.queue
    }

    /// The queue that a frame belongs to, by the headers that [`program`] looks at. `None`: not TCP or UDP in one piece, so
    /// there is more to be looked at than this knows of; the queue is 0.
    pub fn queue_of_frame(&self, frame: &[u8]) -> Option<u16> {
        let packet = frame.get(14..)?;
        let (src, dst, protocol, ports) = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = packet.first_chunk::<20>()?;
                if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
                    return None;
                }
                let address =
                    |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                (address(12), address(16), header[9], packet.get(usize::from(header[0] & 15) * 4..)?)
            }
            [0x86, 0xdd] => {
                let header = packet.first_chunk::<40>()?;
                let src: [u8; 16] = *header[8..].first_chunk()?;
                let dst: [u8; 16] = *header[24..].first_chunk()?;
                (src.into(), dst.into(), header[6], packet.get(40..)?)
            }
            _ => return None,
        };
        let &[a, b, c, d] = ports.first_chunk::<4>()?;
        (matches!(protocol, TCP | UDP)).then(|| {
            self.queue_of(&Arrival {
                src,
                dst,
                src_port: u16::from_be_bytes([a, b]),
                dst_port: u16::from_be_bytes([c, d]),
                udp: protocol == UDP,
            })
        })
    }
}

/// An address folded to 32 bits.
fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

fn mix(seed: u32, arrival: &Arrival) -> u32 {
    let ports = u32::from(arrival.src_port ^ arrival.dst_port);
    let mut hash = ports.wrapping_mul(MIX_PORTS) ^ fold(arrival.src) ^ fold(arrival.dst) ^ seed;
    hash = (hash ^ hash >> 15).wrapping_mul(MIX);
    hash ^ hash >> 13
}

/// The Toeplitz hash as NICs compute it: for each bit that is set, the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], arrival: &Arrival) -> u32 {
    let mut input = [0u8; 36];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(to) = input.get_mut(len..len + bytes.len()) {
            to.copy_from_slice(bytes);
            len += bytes.len();
        }
    };
    for address in [arrival.src, arrival.dst] {
        match address {
            IpAddr::V4(address) => put(&address.octets()),
            IpAddr::V6(address) => put(&address.octets()),
        }
    }
    put(&arrival.src_port.to_be_bytes());
    put(&arrival.dst_port.to_be_bytes());
    let mut window = key.first_chunk::<4>().map_or(0, |first| u32::from_be_bytes(*first));
    let mut hash = 0;
    for (at, byte) in input.iter().take(len).enumerate() {
        let next = key.get(at + 4).copied().unwrap_or(0);
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

/// Offsets that mean "from the network header on", and "the protocol's number" (linux/filter.h).
const NET: u32 = -0x10_0000i32 as u32;
const PROTOCOL: u32 = -0x1000i32 as u32;

/// The spreading as a classic BPF program for `PACKET_FANOUT_CBPF`: it answers a number whose remainder by the count of
/// queues is the queue.
pub fn program(seed: u32) -> Vec<libc::sock_filter> {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP,
        BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MSH, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_W, BPF_X,
        BPF_XOR,
    };
    const V6: usize = 100;
    const PORTS: usize = 101;
    const ZERO: usize = 103;
    const PORT: usize = 104;
    /// An instruction whose jumps name labels, or the next one.
    struct Step {
        code: u32,
        k: u32,
        yes: Option<usize>,
        no: Option<usize>,
    }
    let mut steps: Vec<(Option<usize>, Step)> = Vec::new();
    {
        let mut put = |at: Option<usize>, code: u32, k: u32, yes: Option<usize>, no: Option<usize>| {
            steps.push((at, Step { code, k, yes, no }));
        };
        let load = |size: u32| BPF_LD | size | BPF_ABS;
        // M[0]: ports. M[1]: addresses. M[2]: the local port.
        put(None, load(BPF_W), PROTOCOL, None, None);
        put(None, BPF_JMP | BPF_JEQ | BPF_K, 0x86dd, Some(V6), None);
        put(None, BPF_JMP | BPF_JEQ | BPF_K, 0x0800, None, Some(ZERO));
        put(None, load(BPF_H), NET + 6, None, None);
        put(None, BPF_JMP | BPF_JSET | BPF_K, 0x3fff, Some(ZERO), None);
        put(None, load(BPF_W), NET + 12, None, None);
        put(None, BPF_ST, 1, None, None);
        put(None, load(BPF_W), NET + 16, None, None);
        put(None, BPF_LDX | BPF_W | BPF_MEM, 1, None, None);
        put(None, BPF_ALU | BPF_XOR | BPF_X, 0, None, None);
        put(None, BPF_ST, 1, None, None);
        put(None, BPF_LDX | BPF_B | BPF_MSH, NET, None, None);
        put(None, load(BPF_B), NET + 9, None, None);
        put(None, BPF_JMP | BPF_JA, 0, Some(PORTS), None);

        put(Some(V6), load(BPF_W), NET + 8, None, None);
        for word in 1..8 {
            put(None, BPF_ST, 1, None, None);
            put(None, load(BPF_W), NET + 8 + word * 4, None, None);
            put(None, BPF_LDX | BPF_W | BPF_MEM, 1, None, None);
            put(None, BPF_ALU | BPF_XOR | BPF_X, 0, None, None);
        }
        put(None, BPF_ST, 1, None, None);
        put(None, BPF_LDX | BPF_W | BPF_IMM, 40, None, None);
        put(None, load(BPF_B), NET + 6, None, None);

        // A: the protocol. X: where its header begins.
        put(Some(PORTS), BPF_JMP | BPF_JEQ | BPF_K, u32::from(TCP), Some(PORT), None);
        put(None, BPF_JMP | BPF_JEQ | BPF_K, u32::from(UDP), None, Some(ZERO));
        put(None, BPF_LD | BPF_H | BPF_IND, NET + 2, None, None);
        put(None, BPF_JMP | BPF_JGE | BPF_K, OWNED_PORTS.0.into(), None, Some(PORT));
        put(None, BPF_JMP | BPF_JGT | BPF_K, OWNED_PORTS.1.into(), Some(PORT), None);
        put(None, BPF_RET | BPF_A, 0, None, None);

        put(Some(PORT), BPF_LD | BPF_H | BPF_IND, NET, None, None);
        put(None, BPF_ST, 0, None, None);
        put(None, BPF_LD | BPF_H | BPF_IND, NET + 2, None, None);
        put(None, BPF_LDX | BPF_W | BPF_MEM, 0, None, None);
        put(None, BPF_ALU | BPF_XOR | BPF_X, 0, None, None);
        put(None, BPF_ALU | BPF_MUL | BPF_K, MIX_PORTS, None, None);
        put(None, BPF_LDX | BPF_W | BPF_MEM, 1, None, None);
        put(None, BPF_ALU | BPF_XOR | BPF_X, 0, None, None);
        put(None, BPF_ALU | BPF_XOR | BPF_K, seed, None, None);
        for (shift, then) in [(15, Some(MIX)), (13, None)] {
            put(None, BPF_ST, 0, None, None);
            put(None, BPF_ALU | BPF_RSH | BPF_K, shift, None, None);
            put(None, BPF_LDX | BPF_W | BPF_MEM, 0, None, None);
            put(None, BPF_ALU | BPF_XOR | BPF_X, 0, None, None);
            if let Some(factor) = then {
                put(None, BPF_ALU | BPF_MUL | BPF_K, factor, None, None);
            }
        }
        put(None, BPF_RET | BPF_A, 0, None, None);
        put(Some(ZERO), BPF_RET | BPF_K, 0, None, None);
    }
    let place = |label: usize| steps.iter().position(|(at, _)| *at == Some(label)).unwrap_or(0);
    let assembled = steps.iter().enumerate().map(|(at, (_, step))| {
        let distance = |label: Option<usize>| label.map_or(0, |label| place(label) - at - 1);
        let always = step.code == BPF_JMP | BPF_JA;
        libc::sock_filter {
            code: step.code as u16,
            jt: if always { 0 } else { distance(step.yes) as u8 },
            jf: distance(step.no) as u8,
            k: if always { distance(step.yes) as u32 } else { step.k },
        }
    });
    assembled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(src: &str, src_port: u16, dst: &str, dst_port: u16, udp: bool) -> Arrival {
        Arrival { src: src.parse().unwrap(), dst: dst.parse().unwrap(), src_port, dst_port, udp }
    }

    #[test]
    fn toeplitz_is_that_of_the_published_verification_suite() {
        let key: Vec<u8> =
            ["6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"]
                .concat()
                .as_bytes()
                .chunks(2)
                .map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap())
                .collect();
        for (src, src_port, dst, dst_port, hash) in [
            ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51cc_c178),
            ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626_b0ea),
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x4020_7d3d),
        ] {
            assert_eq!(toeplitz(&key, &arrival(src, src_port, dst, dst_port, false)), hash, "{src}");
        }
    }

    #[test]
    fn flows_are_spread_evenly_and_each_stays() {
        let spread = Spread { queue: 0, queues: 4, hash: Hash::Mix { seed: 0xdead_beef } };
        let mut counts = [0; 4];
        for port in 1024..9024 {
            let arrival = arrival("10.0.0.1", port, "10.0.0.2", 7000, false);
            let queue = spread.queue_of(&arrival);
            assert_eq!(queue, spread.queue_of(&arrival));
            counts[usize::from(queue)] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_udp_port_of_ours_says_whose_it_is_whoever_sends() {
        let spread = Spread { queue: 1, queues: 3, hash: Hash::Mix { seed: 7 } };
        for peer in ["10.0.0.1", "192.0.2.7", "fd00::1"] {
            for port in [32768, 40_000, 60_999] {
                let arrival =
                    arrival(peer, 53, if peer.contains(':') { "fd00::2" } else { "10.0.0.2" }, port, true);
                assert_eq!(spread.queue_of(&arrival), port % 3);
                assert_eq!(spread.is_ours(&arrival), port % 3 == 1);
            }
        }
    }

    #[test]
    fn the_program_is_one_that_the_kernel_would_take() {
        let program = program(1);
        assert!(program.len() < 128, "{}", program.len());
        for (at, step) in program.iter().enumerate() {
            if u32::from(step.code) & 7 == libc::BPF_JMP {
                let furthest =
                    usize::from(step.jt.max(step.jf)).max(if step.code == 5 { step.k as usize } else { 0 });
                assert!(at + 1 + furthest < program.len(), "step {at} jumps out");
            }
        }
    }
}
