//! Packets of the stack's own that need no neighbour: their link address is known, or computed from a group.
//!
//! Reports of group membership, router solicitations, questions of a host that has no address yet. They may use the reserve
//! beyond the transmit queue's capacity, so that back-pressure on data does not silence them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::egress::Egress;
use crate::wire::checksum;
use crate::wire::ethernet::{self, EtherType, Mac};
use crate::wire::{ipv4, ipv6, protocol, udp};

/// The IPv4 option "router alert" (RFC 2113).
const ALERT_V4: [u8; 4] = [148, 4, 0, 0];
/// A hop-by-hop header with the IPv6 option "router alert" for multicast listener discovery (RFC 2711), before ICMPv6.
const ALERT_V6: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// The fields of such a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<A> {
    pub(crate) src: A,
    pub(crate) dst: A,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// Routers are to look at it although it is not for them.
    pub(crate) alert: bool,
}

impl Egress {
    /// Sends `body` over IPv4 to the station `mac`.
    pub(crate) fn send_own_v4(&mut self, mac: Mac, own: &Own<Ipv4Addr>, body: &[u8]) {
        let alert: &[u8] = if own.alert { &ALERT_V4 } else { &[] };
        let header = ipv4::Repr {
            src: own.src,
            dst: own.dst,
            protocol: own.protocol,
            tos: own.tos,
            ttl: own.ttl,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: (alert.len() + body.len()) as u16,
        };
        let mut front = [0; ipv4::HEADER_LEN + ALERT_V4.len()];
        if let Some((fixed, options)) = front.split_first_chunk_mut() {
            header.emit(fixed);
            options.copy_from_slice(&ALERT_V4);
            if own.alert {
                fixed[0] += 1;
                fixed[10..12].fill(0);
                let sum = checksum::sum_array(fixed).then(checksum::sum(&ALERT_V4)).finish();
                fixed[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        self.stats.v4.ip.out_requests += 1;
        let link = ethernet::Repr { dst: mac, src: self.mac, ethertype: EtherType::IPV4 };
        self.send_link(&link, &[&front[..ipv4::HEADER_LEN + alert.len()], body]);
    }

    /// Sends `body` over IPv6 to the station `mac`.
    pub(crate) fn send_own_v6(&mut self, mac: Mac, own: &Own<Ipv6Addr>, body: &[u8]) {
        let alert: &[u8] = if own.alert { &ALERT_V6 } else { &[] };
        let header = ipv6::Repr {
            src: own.src,
            dst: own.dst,
            next_header: if own.alert { protocol::HOP_BY_HOP } else { own.protocol },
            traffic_class: own.tos,
            flow_label: 0,
            hop_limit: own.ttl,
            payload_len: (alert.len() + body.len()) as u16,
        };
        let mut front = [0; ipv6::HEADER_LEN];
        header.emit(&mut front);
        self.stats.v6.ip.out_requests += 1;
        let link = ethernet::Repr { dst: mac, src: self.mac, ethertype: EtherType::IPV6 };
        self.send_link(&link, &[&front, alert, body]);
    }

    /// Sends a datagram to everybody on the link, as a host may that has no address yet (RFC 2131 §4.1).
    pub(crate) fn broadcast_datagram(&mut self, ports: (u16, u16), payload: &[u8]) {
        let (src, dst) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let own = Own { src, dst, protocol: protocol::UDP, ttl: 64, tos: 0, alert: false };
        let mut header = [0; udp::HEADER_LEN];
        write_udp(&mut header, src, dst, ports, payload);
        let Some(mut body) = self.pool.alloc(header.len() + payload.len()) else {
            self.stats.link.out_discards += 1;
            return;
        };
        body.put_slice(&header);
        body.put_slice(payload);
        self.send_own_v4(Mac::BROADCAST, &own, &body);
    }

    /// Sends a datagram from one of our addresses that no socket has sent.
    pub(crate) fn send_datagram(&mut self, src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16), payload: &[u8]) {
        let len = udp::HEADER_LEN + payload.len();
        self.send_message(src.into(), dst.into(), protocol::UDP, 64, len, |out| {
            if let Some((header, behind)) = out.split_first_chunk_mut() {
                write_udp(header, src, dst, ports, payload);
                behind.copy_from_slice(payload);
            }
        });
    }
}

fn write_udp(
    header: &mut [u8; udp::HEADER_LEN],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ports: (u16, u16),
    payload: &[u8],
) {
    let repr = udp::Repr { src_port: ports.0, dst_port: ports.1, payload_len: payload.len() as u16 };
    let len = (udp::HEADER_LEN + payload.len()) as u32;
    let pseudo = checksum::pseudo_v4(src, dst, protocol::UDP, len);
    repr.emit(header, repr.checksum(pseudo, checksum::sum(payload)));
}
