//! ICMP and ICMPv6 from the wire: echo is answered, in the memory the request came in; errors go to the flow they quote.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::{Buf, Offload};

use super::{Link, Packet};
use crate::autoconf::Heard;
use crate::egress::Egress;
use crate::icmp::{self, Quoted, Told};
use crate::path::{PacketFields, Path};
use crate::stack::Stack;
use crate::wire::ethernet::{self, Mac};
use crate::wire::{Malformed, checksum, icmpv4, icmpv6, ipv4, ipv6, membership, ndisc, protocol, router};

/// Hop limit of echo replies.
const TTL: u8 = 64;

impl Stack {
    #[cold]
    pub(super) fn on_icmpv4(&mut self, link: Link, packet: &Packet, src: Ipv4Addr, dst: Ipv4Addr, buf: Buf) {
        let stats = &mut self.egress.stats.v4;
        stats.ip.in_delivers += 1;
        let stats = &mut stats.icmp;
        stats.in_msgs += 1;
        let Some(bytes) = buf.get(packet.header_len..) else { return };
        let message = match icmpv4::Repr::parse(bytes) {
            Ok(message) => message,
            Err(error) => {
                stats.in_errors += 1;
                stats.in_csum_errors += u64::from(error == Malformed::Checksum);
                return;
            }
        };
        match message {
            icmpv4::Repr::EchoRequest { ident, seq, data } => {
                stats.in_echos += 1;
                // RFC 1122 §3.2.2.6: a request to many may be ignored; answering would make us an amplifier.
                if packet.group {
                    return;
                }
                stats.out_msgs += 1;
                stats.out_echo_replies += 1;
                if let Some(station) = link.station.filter(|_| self.egress.echoes_in_place(packet, &buf)) {
                    return self.echo_in_place(packet, IpAddr::V4(dst), station, buf);
                }
                let reply = icmpv4::Repr::EchoReply { ident, seq, data };
                self.egress.send_message(dst.into(), src.into(), protocol::ICMP, TTL, reply.len(), |out| {
                    let emitted = reply.emit(out);
                    debug_assert!(emitted.is_ok());
                });
                return;
            }
            icmpv4::Repr::EchoReply { .. } => stats.in_echo_replies += 1,
            icmpv4::Repr::Unreachable { .. } => stats.in_dest_unreachs += 1,
            icmpv4::Repr::TooBig { .. } => {
                stats.in_dest_unreachs += 1;
                stats.in_pkt_too_bigs += 1;
            }
            icmpv4::Repr::TimeExceeded { .. } => stats.in_time_excds += 1,
            icmpv4::Repr::ParameterProblem { .. } => stats.in_parm_probs += 1,
            icmpv4::Repr::Other { .. } => {}
        }
        if let Some((told, quote)) = icmp::error_v4(&message)
            && let Some(quoted) = icmp::quoted(quote)
        {
            self.on_told(told, &quoted);
        }
    }

    #[cold]
    pub(super) fn on_icmpv6(&mut self, link: Link, packet: &Packet, src: Ipv6Addr, dst: Ipv6Addr, buf: Buf) {
        let stats = &mut self.egress.stats.v6;
        stats.ip.in_delivers += 1;
        let stats = &mut stats.icmp;
        stats.in_msgs += 1;
        let Some(bytes) = buf.get(packet.header_len..) else { return };
        let message = match icmpv6::Repr::parse(src, dst, bytes) {
            Ok(message) => message,
            Err(error) => {
                stats.in_errors += 1;
                stats.in_csum_errors += u64::from(error == Malformed::Checksum);
                return;
            }
        };
        match message {
            icmpv6::Repr::EchoRequest { ident, seq, data } => {
                stats.in_echos += 1;
                if src.is_unspecified() {
                    return;
                }
                // RFC 4443 §4.2: a request to a group is answered from one of our addresses.
                let ours =
                    if packet.group { self.egress.routes.source_for(src.into()) } else { Some(dst.into()) };
                let Some(IpAddr::V6(ours)) = ours else { return };
                let stats = &mut self.egress.stats.v6.icmp;
                stats.out_msgs += 1;
                stats.out_echo_replies += 1;
                let in_place = !packet.group && self.egress.echoes_in_place(packet, &buf);
                if let Some(station) = link.station.filter(|_| in_place) {
                    return self.echo_in_place(packet, IpAddr::V6(ours), station, buf);
                }
                let reply = icmpv6::Repr::EchoReply { ident, seq, data };
                self.egress.send_message(
                    ours.into(),
                    src.into(),
                    protocol::ICMPV6,
                    TTL,
                    reply.len(),
                    |out| {
                        let emitted = reply.emit(ours, src, out);
                        debug_assert!(emitted.is_ok());
                    },
                );
                return;
            }
            icmpv6::Repr::EchoReply { .. } => stats.in_echo_replies += 1,
            icmpv6::Repr::Unreachable { .. } => stats.in_dest_unreachs += 1,
            icmpv6::Repr::TooBig { .. } => stats.in_pkt_too_bigs += 1,
            icmpv6::Repr::TimeExceeded { .. } => stats.in_time_excds += 1,
            icmpv6::Repr::ParameterProblem { .. } => stats.in_parm_probs += 1,
            icmpv6::Repr::Other { kind: router::ADVERTISEMENT, .. } => {
                return match router::Advertisement::parse(&message, src, packet.meta.ttl) {
                    Ok(Some(advertisement)) => self.on_advertisement(&Heard { router: src, advertisement }),
                    _ => self.egress.stats.v6.icmp.in_errors += 1,
                };
            }
            icmpv6::Repr::Other { kind: membership::MLD_QUERY, .. } => {
                return match membership::Query::parse_mld(&message, src, packet.meta.ttl) {
                    Ok(Some(query)) => self.on_query(&query, true),
                    _ => self.egress.stats.v6.icmp.in_errors += 1,
                };
            }
            icmpv6::Repr::Other { .. } => {
                return match ndisc::Repr::parse(&message, packet.meta.ttl) {
                    Ok(Some(message)) => self.on_ndisc(link, packet, src, dst, message),
                    Ok(None) => {}
                    Err(_) => self.egress.stats.v6.icmp.in_errors += 1,
                };
            }
        }
        if let Some((told, quote)) = icmp::error_v6(&message)
            && let Some(quoted) = icmp::quoted(quote)
        {
            self.on_told(told, &quoted);
        }
    }

    /// Takes an IGMP message. Other hosts' reports are not listened to: version 3 suppresses none (RFC 3376 §A.2).
    #[cold]
    pub(super) fn on_igmp(&mut self, bytes: &[u8]) {
        self.egress.stats.v4.ip.in_delivers += 1;
        match membership::Query::parse_igmp(bytes) {
            Ok(Some(query)) => self.on_query(&query, false),
            Ok(None) => {}
            Err(_) => self.egress.stats.v4.ip.in_hdr_errors += 1,
        }
    }

    fn on_query(&mut self, query: &membership::Query, v6: bool) {
        self.egress.stats.version(v6).ip.in_mcast_queries += 1;
        self.groups.on_query(self.egress.now, query, v6);
        self.set_alarm();
    }

    /// Turns an echo request into its reply where it lies: new headers in front, another type, the checksum changed by as much.
    fn echo_in_place(&mut self, packet: &Packet, ours: IpAddr, station: Mac, buf: Buf) {
        let Ok(mut reply) = buf.try_into_mut() else { return };
        let mut path = Path::default();
        path.build(self.egress.mac, station, ours, packet.meta.src);
        let fields = PacketFields {
            protocol: packet.protocol,
            tos: packet.meta.tos & 0xfc,
            ttl: TTL,
            payload_len: (reply.len() - packet.header_len) as u16,
        };
        if reply.prepend(ethernet::HEADER_LEN).is_none() {
            return;
        }
        let message = path.write(&mut reply, &fields);
        if let [kind, code, a, b, ..] = message {
            let before = u16::from_be_bytes([*kind, *code]);
            *kind = if packet.protocol == protocol::ICMP { 0 } else { 129 };
            let after = u16::from_be_bytes([*kind, *code]);
            // Of the two forms of zero the one that is right even where all else is zero (RFC 1624 §3).
            let sum = match checksum::update(u16::from_be_bytes([*a, *b]), before, after) {
                0 => 0xffff,
                sum => sum,
            };
            [*a, *b] = sum.to_be_bytes();
        }
        let v6 = ours.is_ipv6();
        if self.egress.tx.room() > 0 {
            self.egress.stats.version(v6).ip.out_requests += 1;
            self.egress.tx.push(reply.freeze(), Offload::default());
        } else {
            self.egress.stats.version(v6).ip.out_discards += 1;
        }
    }

    /// Hands an error on to the flow it is about.
    pub(crate) fn on_told(&mut self, told: Told, quoted: &Quoted) {
        let Quoted { protocol, flow, seq } = quoted;
        let now = self.egress.now;
        // What we have not sent, nobody can quote.
        if !self.egress.routes.is_local(flow.local) {
            self.egress.stats.version(flow.local.is_ipv6()).icmp.in_errors += 1;
            return;
        }
        match (*protocol, told) {
            (protocol::TCP, Told::Error(error)) => self.tcp.on_icmp_error(now, flow, *seq, error),
            (protocol::TCP, Told::PathMtu(mtu)) => {
                if self.tcp.on_path_mtu(now, flow, *seq, mtu) {
                    self.egress.path_mtus.learn(flow.remote, mtu, now);
                }
            }
            (_, Told::Error(error)) => {
                if let Some(error) = icmp::udp_error(error) {
                    self.udp.on_error(flow, error);
                }
            }
            (_, Told::PathMtu(mtu)) => {
                if self.udp.on_path_mtu(now, flow, mtu) {
                    self.egress.path_mtus.learn(flow.remote, mtu, now);
                }
            }
        }
    }
}

impl Egress {
    /// Whether a reply can be written over the request: its IP header is plain, nobody else looks at it, and it need not be
    /// cut.
    fn echoes_in_place(&self, packet: &Packet, buf: &Buf) -> bool {
        let plain = if packet.meta.dst.is_ipv6() { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
        packet.header_len == plain
            && buf.is_unique()
            && buf.headroom() >= ethernet::HEADER_LEN
            && buf.len() <= usize::from(self.mtu_towards(packet.meta.dst))
    }
}
