//! ARP (RFC 826) and neighbour discovery (RFC 4861) from the wire: questions about us are answered, answers to us are believed.

use std::net::{IpAddr, Ipv6Addr};

use super::Packet;
use crate::neighbor::Evidence;
use crate::route::{ALL_NODES, Destination};
use crate::stack::Stack;
use crate::wire::ethernet::Mac;
use crate::wire::{arp, ndisc};

impl Stack {
    #[cold]
    pub(super) fn on_arp(&mut self, bytes: &[u8]) {
        let Ok(packet) = arp::Repr::parse(bytes) else {
            self.egress.stats.link.in_neighbor_ignored += 1;
            return;
        };
        let egress = &mut self.egress;
        let for_us = egress.routes.classify_v4(packet.target_ip) == Destination::Ours;
        let sender = packet.sender_ip;
        // An address conflict is not settled by believing the other side.
        let believable = packet.sender_mac.is_unicast() && !egress.routes.is_martian_v4(sender);
        if packet.operation == arp::Operation::Request && for_us && packet.sender_mac.is_unicast() {
            // RFC 5227 §2.1.1: a probe has no sender address; it is answered, and teaches nothing.
            if sender.is_unspecified() || believable {
                egress.answer_arp(packet.sender_mac, sender, packet.target_ip);
            }
        }
        if !believable {
            egress.stats.link.in_neighbor_ignored += 1;
            return;
        }
        let (now, address, mac) = (egress.now, IpAddr::V4(sender), packet.sender_mac);
        let released = match packet.operation {
            // RFC 826: a request for us teaches the asker's address, others' requests only update it.
            arp::Operation::Request if for_us => egress.neighbors.learned(now, address, mac),
            _ => {
                let solicited = for_us && packet.target_mac == egress.mac;
                let evidence = Evidence { solicited, overriding: true };
                egress.neighbors.advertised(now, address, Some(mac), evidence)
            }
        };
        if let Some(slot) = released {
            egress.release(slot);
        }
    }

    #[cold]
    pub(super) fn on_ndisc(&mut self, packet: &Packet, src: Ipv6Addr, dst: Ipv6Addr, message: ndisc::Repr) {
        let egress = &mut self.egress;
        let now = egress.now;
        let released = match message {
            ndisc::Repr::Solicitation { target, source_mac } => {
                // RFC 4861 §7.1.1: without a source it is duplicate address detection, sent to the target's group, and teaches
                // nothing.
                let detection = src.is_unspecified();
                let valid = !detection || packet.group && source_mac.is_none();
                if !valid || egress.routes.classify_v6(target) != Destination::Ours {
                    egress.stats.link.in_neighbor_ignored += 1;
                    return;
                }
                let mac = source_mac.filter(|mac| mac.is_unicast() && !detection);
                let slot = mac.and_then(|mac| egress.neighbors.learned(now, IpAddr::V6(src), mac));
                let answer = ndisc::Repr::Advertisement {
                    target,
                    target_mac: Some(egress.mac),
                    router: false,
                    solicited: !detection,
                    overriding: true,
                };
                egress.stats.link.out_advertisements += 1;
                match (detection, mac) {
                    // RFC 4861 §7.2.4
                    (true, _) => {
                        egress.send_ndisc(Mac::for_multicast_v6(ALL_NODES), target, ALL_NODES, &answer)
                    }
                    (false, Some(mac)) => egress.send_ndisc(mac, target, src, &answer),
                    (false, None) => egress.send_ndisc_routed(target, src, &answer),
                }
                slot
            }
            ndisc::Repr::Advertisement { target, target_mac, solicited, overriding, .. } => {
                let believable = target_mac.is_none_or(Mac::is_unicast)
                    && !egress.routes.is_martian_v6(target)
                    // RFC 4861 §7.1.2: an advertisement to many answers nobody.
                    && !(solicited && dst.is_multicast());
                if !believable {
                    egress.stats.link.in_neighbor_ignored += 1;
                    return;
                }
                let evidence = Evidence { solicited, overriding };
                egress.neighbors.advertised(now, IpAddr::V6(target), target_mac, evidence)
            }
            // Addresses and routers are configured here, not learnt.
            ndisc::Repr::Router(_) => {
                egress.stats.link.in_neighbor_ignored += 1;
                None
            }
        };
        if let Some(slot) = released {
            self.egress.release(slot);
        }
    }
}
