//! The way in: from a received frame to the protocol it is for.
//!
//! Checks in the order of cost and stops at the first that fails, each with its counter: station address, type, lengths, header
//! checksum, destination, source, fragments, transport checksum. What passes is handed on as a view of the received memory; what
//! does not is dropped. Work a frame is constant, and nothing is remembered of frames that are dropped.

mod ahead;
mod coalesce;
mod control;
mod datagram;
mod expected;
mod fragments;
mod neighbors;

use std::net::{IpAddr, Ipv6Addr};

use demi_drivers::device::RxChecksum;
use demi_drivers::{Buf, RxFrame};

use crate::egress::Egress;
use crate::icmp::{self, Complaint};
use crate::route::Destination;
use crate::stack::Stack;
use crate::tcp::IpMeta;
use crate::tcp::output::Flow;
use crate::wire::checksum::{self, Sum};
use crate::wire::ethernet::{EtherType, Frame, HEADER_LEN, Mac};
use crate::wire::{dhcpv4, ipv4, ipv6, ipv6_ext, protocol, udp, vlan};

/// What is known of a packet by the link it came over.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// The station that sent the frame; none for our own packets.
    station: Option<Mac>,
    /// The frame was sent to a group of stations.
    group: bool,
    checksum: RxChecksum,
}

/// A packet's addresses and fields, for the protocols above.
#[derive(Clone, Copy, Debug)]
struct Packet {
    meta: IpMeta,
    protocol: u8,
    /// Sent to a group or broadcast address.
    group: bool,
    /// Bytes of the IP header and its extensions.
    header_len: usize,
    /// Byte of the packet that names the protocol.
    named_at: u32,
}

impl Stack {
    /// Takes a frame from the device.
    #[inline]
    pub(crate) fn on_frame(&mut self, frame: RxFrame) {
        if let Some(frame) = self.on_expected(frame) {
            self.on_any(frame);
        }
    }

    #[inline(never)]
    pub(crate) fn on_any(&mut self, frame: RxFrame) {
        let RxFrame { mut buf, checksum, .. } = frame;
        let stats = &mut self.egress.stats.link;
        stats.in_frames += 1;
        let Ok(frame) = Frame::new_checked(&buf) else {
            stats.in_truncated += 1;
            return;
        };
        let dst = frame.dst();
        let group = dst.is_multicast();
        if dst != self.egress.mac && !group {
            stats.in_other_host += 1;
            return;
        }
        let (src, mut ethertype, mut header_len) = (frame.src(), frame.ethertype(), HEADER_LEN);
        if ethertype == EtherType::VLAN
            && let Ok((tag, _)) = vlan::Repr::parse(frame.payload())
            && tag.vlan == 0
        {
            // 802.1Q §9.6: VLAN 0 only carries a priority.
            (ethertype, header_len) = (tag.ethertype, HEADER_LEN + vlan::TAG_LEN);
        }
        let checksum = if self.egress.capabilities.lossless_memory { RxChecksum::Valid } else { checksum };
        let link = Link { station: Some(src), group, checksum };
        match ethertype {
            EtherType::IPV4 => {
                buf.advance(header_len);
                self.on_ipv4(link, buf);
            }
            EtherType::IPV6 => {
                buf.advance(header_len);
                self.on_ipv6(link, buf);
            }
            EtherType::ARP => {
                stats.in_arp += 1;
                buf.advance(header_len);
                self.on_arp(&buf);
            }
            // Only another of this host's stacks can have sent it: `Shared` hands what the link brings of it to the first one.
            EtherType::NOTICE if self.egress.silent && src == self.egress.mac && header_len == HEADER_LEN => {
                buf.advance(header_len);
                self.on_notice(&buf);
            }
            _ => stats.in_unknown_type += 1,
        }
    }

    /// Takes a packet that we sent to ourselves.
    pub(crate) fn on_loopback(&mut self, packet: Buf) {
        let link = Link { station: None, group: false, checksum: RxChecksum::Valid };
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            self.on_ipv6(link, packet);
        } else {
            self.on_ipv4(link, packet);
        }
    }

    #[inline(always)]
    fn on_ipv4(&mut self, link: Link, mut buf: Buf) {
        let Egress { routes, stats, capabilities, .. } = &mut self.egress;
        let (link_stats, stats) = (&mut stats.link, &mut stats.v4.ip);
        stats.in_receives += 1;
        let packet = match ipv4::Packet::new_checked(&buf) {
            Ok(packet) => packet,
            Err(_) => {
                stats.in_hdr_errors += 1;
                return;
            }
        };
        if link.station.is_some() && !capabilities.lossless_memory && !packet.checksum_ok() {
            stats.in_hdr_errors += 1;
            return;
        }
        stats.count_ecn(packet.tos());
        let (src, dst) = (packet.src(), packet.dst());
        let group = match routes.classify_v4(dst) {
            _ if link.station.is_none() => false,
            Destination::Ours => false,
            Destination::Group => true,
            // A group we are not in is what a better filter would have kept from us, no error.
            Destination::Other => {
                if dst.is_multicast() {
                    link_stats.in_other_host += 1;
                } else {
                    stats.in_addr_errors += 1;
                }
                return;
            }
        };
        // RFC 1122 §3.3.6: what the link sent to many must not be addressed to one.
        let misdirected = link.group && !group;
        if misdirected || link.station.is_some() && routes.is_martian_v4(src) {
            // RFC 1122 §3.2.1.3 a: a host that has no address yet may speak to all.
            if misdirected || !(src.is_unspecified() && dst.is_broadcast()) {
                stats.in_addr_errors += 1;
                return;
            }
        }
        if packet.is_fragment() {
            return self.on_fragment_v4(link, group, buf);
        }
        let total_len = packet.total_len();
        let packet = Packet {
            meta: IpMeta { src: IpAddr::V4(src), dst: IpAddr::V4(dst), tos: packet.tos(), ttl: packet.ttl() },
            protocol: packet.protocol(),
            group,
            header_len: packet.header_len(),
            named_at: 9,
        };
        buf.truncate(total_len);
        match packet.protocol {
            protocol::TCP | protocol::UDP => {
                let len = (total_len - packet.header_len) as u32;
                let pseudo = || checksum::pseudo_v4(src, dst, packet.protocol, len);
                self.on_transport(link, &packet, buf, pseudo);
            }
            protocol::ICMP => self.on_icmpv4(link, &packet, src, dst, buf),
            _ => self.on_unknown_protocol(&packet, &buf),
        }
    }

    #[inline]
    fn on_ipv6(&mut self, link: Link, mut buf: Buf) {
        let Egress { routes, stats, .. } = &mut self.egress;
        let (link_stats, stats) = (&mut stats.link, &mut stats.v6.ip);
        stats.in_receives += 1;
        let packet = match ipv6::Packet::new_checked(&buf) {
            Ok(packet) => packet,
            Err(_) => {
                stats.in_hdr_errors += 1;
                return;
            }
        };
        stats.count_ecn(packet.traffic_class());
        let (src, dst) = (packet.src(), packet.dst());
        let group = match routes.classify_v6(dst) {
            _ if link.station.is_none() => false,
            Destination::Ours => false,
            Destination::Group => true,
            // A group we are not in is what a better filter would have kept from us, no error.
            Destination::Other => {
                if dst.is_multicast() {
                    link_stats.in_other_host += 1;
                } else {
                    stats.in_addr_errors += 1;
                }
                return;
            }
        };
        let misdirected = link.group && !group;
        if misdirected || link.station.is_some() && routes.is_martian_v6(src) {
            stats.in_addr_errors += 1;
            return;
        }
        let (class, hop_limit) = (packet.traffic_class(), packet.hop_limit());
        let total_len = ipv6::HEADER_LEN + packet.payload().len();
        let (next, upper) = match packet.next_header() {
            // The common case: nothing in between.
            next @ (protocol::TCP | protocol::UDP | protocol::ICMPV6) => (next, Ok((0, 6))),
            next => match ipv6_ext::upper_layer(next, packet.payload()) {
                Ok(upper) if upper.fragment.is_some() => {
                    buf.truncate(total_len);
                    return self.on_fragment_v6(link, group, &upper, buf);
                }
                Ok(upper) => (upper.protocol, Ok((upper.offset, upper.named_at))),
                Err(stop) => (next, Err(stop)),
            },
        };
        buf.truncate(total_len);
        let (extensions_len, named_at) = match upper {
            Ok(found) => found,
            Err(stop) => {
                stats.in_hdr_errors += 1;
                return self.on_ipv6_stop(src, dst, group, &buf, stop);
            }
        };
        // The unspecified source is that of duplicate address detection alone (RFC 4291 §2.5.2).
        if src.is_unspecified() && next != protocol::ICMPV6 {
            stats.in_addr_errors += 1;
            return;
        }
        let packet = Packet {
            meta: IpMeta { src: IpAddr::V6(src), dst: IpAddr::V6(dst), tos: class, ttl: hop_limit },
            protocol: next,
            group,
            header_len: ipv6::HEADER_LEN + extensions_len,
            named_at,
        };
        match next {
            protocol::TCP | protocol::UDP => {
                let len = (total_len - packet.header_len) as u32;
                let pseudo = || checksum::pseudo_v6(src, dst, next, len);
                self.on_transport(link, &packet, buf, pseudo);
            }
            protocol::ICMPV6 => self.on_icmpv6(link, &packet, src, dst, buf),
            protocol::NO_NEXT_HEADER => {}
            _ => self.on_unknown_protocol(&packet, &buf),
        }
    }

    /// Takes a TCP segment or UDP datagram, IP header included.
    #[inline]
    fn on_transport(&mut self, link: Link, packet: &Packet, mut buf: Buf, pseudo: impl FnOnce() -> Sum) {
        let v6 = packet.meta.dst.is_ipv6();
        if packet.protocol == protocol::TCP {
            if packet.group {
                // RFC 9293 §3.10.7.2, RFC 1122 §4.2.3.10: a connection has two ends.
                self.egress.stats.version(v6).ip.in_addr_errors += 1;
                return;
            }
            self.egress.stats.version(v6).ip.in_delivers += 1;
            buf.advance(packet.header_len);
            let ok = match link.checksum {
                RxChecksum::Valid => true,
                RxChecksum::Bad => false,
                RxChecksum::Unknown => pseudo().then(checksum::sum(&buf)).is_valid(),
            };
            if ok {
                self.tcp.on_segment(self.egress.now, &mut self.egress, &packet.meta, buf);
            } else {
                self.egress.stats.tcp_in_csum_errors += 1;
            }
            return;
        }
        let stats = self.egress.stats.version(v6);
        stats.ip.in_delivers += 1;
        let stats = &mut stats.udp;
        let Some(segment) = buf.get(packet.header_len..) else { return };
        let Ok(datagram) = udp::Datagram::new_checked(segment) else {
            stats.in_errors += 1;
            return;
        };
        // RFC 768: a sender over IPv4 may leave the checksum out; RFC 8200 §8.1: one over IPv6 may not.
        let ok = match link.checksum {
            RxChecksum::Valid => true,
            RxChecksum::Bad => false,
            RxChecksum::Unknown if datagram.checksum() == 0 => !v6,
            RxChecksum::Unknown => datagram.checksum_ok(pseudo()),
        };
        if !ok {
            stats.in_csum_errors += 1;
            stats.in_errors += 1;
            return;
        }
        let flow = Flow {
            local: packet.meta.dst,
            remote: packet.meta.src,
            local_port: datagram.dst_port(),
            remote_port: datagram.src_port(),
        };
        let (start, len) = (packet.header_len + udp::HEADER_LEN, datagram.payload().len());
        if packet.group {
            if flow.local_port == dhcpv4::CLIENT_PORT && !v6 && self.on_dhcp(&buf.slice(start, len)) {
                return;
            }
            if flow.local.is_multicast() {
                self.egress.stats.version(v6).ip.in_mcast_pkts += 1;
                if !self.groups.admits(flow.local, flow.remote) {
                    return;
                }
            }
            let stats = &mut self.egress.stats.version(v6).udp;
            self.udp.deliver_group(&flow, &buf.slice(start, len), &self.groups, stats);
            return;
        }
        match self.udp.lookup(&flow) {
            Some(socket) => {
                if link.station.is_some() {
                    self.udp.learn(&flow, socket, self.egress.routes.changes);
                }
                buf.advance(start);
                buf.truncate(len);
                self.udp.deliver(socket, &flow, buf, stats);
            }
            None => {
                if flow.local_port == dhcpv4::CLIENT_PORT && !v6 && self.on_dhcp(&buf.slice(start, len)) {
                    return;
                }
                self.egress.stats.version(v6).udp.no_ports += 1;
                self.complain(packet, &buf, Complaint::PortUnreachable);
            }
        }
    }

    #[cold]
    fn on_unknown_protocol(&mut self, packet: &Packet, bytes: &[u8]) {
        let v6 = packet.meta.dst.is_ipv6();
        if packet.protocol == protocol::IGMP && !v6 {
            return self.on_igmp(bytes.get(packet.header_len..).unwrap_or_default());
        }
        self.egress.stats.version(v6).ip.in_unknown_protos += 1;
        let complaint = Complaint::ProtocolUnreachable { pointer: packet.named_at };
        self.complain(packet, bytes, complaint);
    }

    #[cold]
    fn on_ipv6_stop(
        &mut self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        group: bool,
        bytes: &[u8],
        stop: ipv6_ext::Stop,
    ) {
        let ipv6_ext::Stop::Problem { code, pointer, even_multicast } = stop else { return };
        if group && !even_multicast || src.is_unspecified() {
            return;
        }
        let ours = if group { self.egress.routes.source_for(IpAddr::V6(src)) } else { Some(IpAddr::V6(dst)) };
        if let Some(IpAddr::V6(ours)) = ours {
            let complaint = Complaint::Problem { code, pointer };
            icmp::complain_v6(&mut self.egress, &mut self.icmp_limiter, ours, src, bytes, complaint);
        }
    }

    /// Tells the sender of a packet what was wrong with it, unless it was sent to many.
    #[cold]
    fn complain(&mut self, packet: &Packet, bytes: &[u8], complaint: Complaint) {
        if packet.group {
            return;
        }
        let (egress, limiter) = (&mut self.egress, &mut self.icmp_limiter);
        match (packet.meta.dst, packet.meta.src) {
            (IpAddr::V4(ours), IpAddr::V4(sender)) => {
                icmp::complain_v4(egress, limiter, ours, sender, bytes, complaint);
            }
            (IpAddr::V6(ours), IpAddr::V6(sender)) => {
                icmp::complain_v6(egress, limiter, ours, sender, bytes, complaint);
            }
            _ => {}
        }
    }
}
