//! The two families of addresses: who the host and its peer are in each, and how a segment of the peer's becomes a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_netstack::wire::checksum;

/// The peer's link address.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

fn packet_v6(next_header: u8, hops: u8, to: Ipv6Addr, mut payload: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    let len = payload.len() as u32;
    let sum = checksum::pseudo_v6(PEER_V6, to, next_header, len).then(checksum::sum(&payload)).finish();
    payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([next_header, hops]);
    packet.extend(PEER_V6.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

impl Family {
    pub(crate) fn host(self) -> IpAddr {
        match self {
            Family::V4 => HOST_V4.into(),
            Family::V6 => HOST_V6.into(),
        }
    }

    pub(crate) fn peer(self) -> IpAddr {
        match self {
            Family::V4 => PEER_V4.into(),
            Family::V6 => PEER_V6.into(),
        }
    }

    pub(crate) fn prefix_bits(self) -> u8 {
        match self {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    /// The frame of a segment from the peer to a host with that link address.
    pub(crate) fn frame(self, mac: [u8; 6], mut segment: Vec<u8>) -> Vec<u8> {
        if self == Family::V6 {
            let packet = packet_v6(6, 64, HOST_V6, segment, 16);
            return [&mac[..], &PEER_MAC, &[0x86, 0xdd], &packet].concat();
        }
        let len = segment.len() as u32;
        let sum = checksum::pseudo_v4(PEER_V4, HOST_V4, 6, len).then(checksum::sum(&segment)).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut header = vec![0x45, 0];
        header.extend((20 + segment.len() as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        header.extend(PEER_V4.octets());
        header.extend(HOST_V4.octets());
        let sum = checksum::sum(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&mac[..], &PEER_MAC, &[8, 0], &header, &segment].concat()
    }

    /// The segment in a frame to the peer, if it is one.
    pub(crate) fn segment(self, frame: &[u8]) -> Option<&[u8]> {
        let packet = frame.get(14..)?;
        match self {
            Family::V4 => {
                let is_tcp = frame[12..14] == [8, 0]
                    && packet.len() >= 40
                    && packet[9] == 6
                    && packet[16..20] == PEER_V4.octets();
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                packet.get(20..total).filter(|_| is_tcp)
            }
            Family::V6 => {
                let is_tcp = frame[12..14] == [0x86, 0xdd]
                    && packet.len() >= 60
                    && packet[6] == 6
                    && packet[24..40] == PEER_V6.octets();
                let len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                packet.get(40..40 + len).filter(|_| is_tcp)
            }
        }
    }

    /// A frame in which the peer asks for the host's link address, and so tells its own.
    pub(crate) fn introduction(self) -> Vec<u8> {
        if self == Family::V4 {
            let (from, to) = (PEER_V4.octets(), HOST_V4.octets());
            let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER_MAC, &from, &[0; 6], &to].concat();
            return [&[0xff; 6][..], &PEER_MAC, &[8, 6], &arp].concat();
        }
        // RFC 4861 §4.3, to the solicited-node group (RFC 4291 §2.7.1).
        let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &HOST_V6.octets(), &[1, 1], &PEER_MAC].concat();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
        let packet = packet_v6(58, 255, group, solicitation, 2);
        [&[0x33, 0x33, 0xff, 0, 0, 1][..], &PEER_MAC, &[0x86, 0xdd], &packet].concat()
    }
}
