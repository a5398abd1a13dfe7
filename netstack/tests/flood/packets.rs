//! What the hand sends, as bytes with right checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_netstack::wire::{checksum, protocol};

use crate::ground::{HAND, VICTIM};

pub(crate) const VICTIM_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const VICTIM_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&VICTIM[..], &HAND, &kind.to_be_bytes(), packet].concat()
}

/// An ARP packet: 1 asks, 2 answers.
pub(crate) fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac, &sender, &[0; 6], &target].concat())
}

/// A neighbour solicitation for the victim.
pub(crate) fn solicit(mac: [u8; 6], from: Ipv6Addr) -> Vec<u8> {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &VICTIM_V6.octets(), &[1, 1], &mac].concat();
    ip(from.into(), VICTIM_V6.into(), protocol::ICMPV6, 255, &message)
}

/// An IP packet; its message gets its checksum.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, number: u8, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let len = message.len() as u32;
    let pseudo = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => checksum::pseudo_v4(src, dst, number, len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => checksum::pseudo_v6(src, dst, number, len),
        _ => panic!("two versions"),
    };
    let place = match number {
        protocol::TCP => Some((16, true)),
        protocol::UDP => Some((6, true)),
        protocol::ICMPV6 => Some((2, true)),
        protocol::ICMP | protocol::IGMP => Some((2, false)),
        _ => None,
    };
    if let Some((at, addresses)) = place {
        let sum = checksum::sum(&message);
        let sum = if addresses { pseudo.then(sum) } else { sum };
        message[at..at + 2].copy_from_slice(&sum.finish().to_be_bytes());
    }
    raw(src, dst, number, hops, 0, 0x4000, &message)
}

/// An IP packet, its message as it is; of IPv4 with that identification and those fragment bits.
pub(crate) fn raw(
    src: IpAddr,
    dst: IpAddr,
    number: u8,
    hops: u8,
    ident: u16,
    bits: u16,
    message: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + message.len() as u16).to_be_bytes());
            header.extend(ident.to_be_bytes());
            header.extend(bits.to_be_bytes());
            header.extend([hops, number, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            let sum = checksum::sum(&header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend(message);
            ethernet(0x0800, &header)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((message.len() as u16).to_be_bytes());
            header.extend([number, hops]);
            header.extend(src.octets());
            header.extend(dst.octets());
            header.extend(message);
            ethernet(0x86dd, &header)
        }
        _ => panic!("two versions"),
    }
}

/// A UDP datagram.
pub(crate) fn udp(src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 + payload.len());
    message.extend(ports.0.to_be_bytes());
    message.extend(ports.1.to_be_bytes());
    message.extend((8 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    ip(src, dst, protocol::UDP, 64, &message)
}

/// The fields of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Segment<'_> {
    pub(crate) fn frame(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4));
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.options);
        bytes.extend(self.payload);
        ip(src, dst, protocol::TCP, 64, &bytes)
    }
}

/// Ports, numbers, flags, window and payload bytes of a TCP frame over IPv4.
pub(crate) fn read(frame: &[u8]) -> Option<((u16, u16), u32, u32, u8, usize)> {
    let packet =
        frame.get(14..).filter(|packet| packet.len() >= 40 && frame[12..14] == [8, 0] && packet[9] == 6)?;
    let tcp = packet.get(20..)?;
    let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let header = usize::from(tcp[12] >> 4) * 4;
    Some(((word(0), word(2)), long(4), long(8), tcp[13], tcp.len() - header))
}

/// Numbers by chance, the same ones in each run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
