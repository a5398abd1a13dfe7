//! ARP (RFC 826) and neighbour discovery (RFC 4861) from the wire: questions about us are answered, answers to us are believed.

use std::net::{IpAddr, Ipv6Addr};

use super::{Link, Packet};
use crate::autoconf::Heard;
use crate::neighbor::Evidence;
use crate::route::{ALL_NODES, Destination};
use crate::stack::Stack;
use crate::wire::ethernet::Mac;
use crate::wire::router::Information;
use crate::wire::{arp, ndisc};

impl Stack {
    #[cold]
    pub(super) fn on_arp(&mut self, bytes: &[u8]) {
        let Ok(packet) = arp::Repr::parse(bytes) else {
            self.egress.stats.link.in_neighbor_ignored += 1;
            return;
        };
        self.autoconf.on_arp(&mut self.egress, &packet);
        self.set_alarm();
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
    pub(super) fn on_ndisc(
        &mut self,
        link: Link,
        packet: &Packet,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        message: ndisc::Repr,
    ) {
        if link.station != Some(self.egress.mac) && self.is_claim(src, &message) {
            return;
        }
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
                egress.stats.link.out_advertisements += u64::from(!egress.silent);
                match (detection, mac) {
                    _ if egress.silent => {}
                    // RFC 4861 §7.2.4
                    (true, _) => {
                        egress.send_ndisc(Mac::for_multicast_v6(ALL_NODES), target, ALL_NODES, &answer)
                    }
                    (false, Some(mac)) => egress.send_ndisc(mac, target, src, &answer),
                    (false, None) => egress.send_ndisc_routed(target, src, &answer),
                }
                slot
            }
            ndisc::Repr::Advertisement { target, target_mac, router, solicited, overriding } => {
                let believable = target_mac.is_none_or(Mac::is_unicast)
                    && !egress.routes.is_martian_v6(target)
                    // RFC 4861 §7.1.2: an advertisement to many answers nobody.
                    && !(solicited && dst.is_multicast());
                if !believable {
                    egress.stats.link.in_neighbor_ignored += 1;
                    return;
                }
                if !router {
                    // RFC 4861 §7.2.5: what was a router is none any more.
                    self.autoconf.on_router_lost(egress, target, true);
                }
                let evidence = Evidence { solicited, overriding };
                egress.neighbors.advertised(now, IpAddr::V6(target), target_mac, evidence)
            }
            // Advertisements are heard elsewhere; solicitations are for routers; redirects are not obeyed.
            ndisc::Repr::Router(_) => {
                egress.stats.link.in_neighbor_ignored += 1;
                None
            }
        };
        if let Some(slot) = released {
            self.egress.release(slot);
        }
    }

    /// Whether a message claims an address that we are trying out: it does so no other way (RFC 4862 §5.4.3, §5.4.4).
    fn is_claim(&mut self, src: Ipv6Addr, message: &ndisc::Repr) -> bool {
        let target = match *message {
            ndisc::Repr::Solicitation { target, .. } if src.is_unspecified() => target,
            ndisc::Repr::Advertisement { target, .. } => target,
            _ => return false,
        };
        let claimed = self.autoconf.on_claim_v6(&mut self.egress, target);
        if claimed {
            self.set_alarm();
        }
        claimed
    }

    /// Takes what a router advertises.
    #[cold]
    pub(super) fn on_advertisement(&mut self, heard: &Heard<'_>) {
        let now = self.egress.now;
        for information in heard.advertisement.information() {
            if let Information::LinkAddress(mac) = information
                && mac.is_unicast()
                && let Some(slot) = self.egress.neighbors.learned(now, IpAddr::V6(heard.router), mac)
            {
                self.egress.release(slot);
            }
        }
        let before = (self.egress.mtu_v4, self.egress.mtu_v6);
        self.autoconf.on_advertisement(&mut self.egress, heard);
        self.fit_mtu(before);
        self.set_alarm();
    }

    /// Takes a datagram to the port of DHCP clients, if we are one.
    #[cold]
    pub(super) fn on_dhcp(&mut self, payload: &[u8]) -> bool {
        let before = (self.egress.mtu_v4, self.egress.mtu_v6);
        let taken = self.autoconf.on_dhcp(&mut self.egress, payload);
        self.fit_mtu(before);
        self.set_alarm();
        taken
    }

    /// Takes what the first of this host's stacks says of the lease.
    #[cold]
    pub(super) fn on_notice(&mut self, notice: &[u8]) {
        let before = (self.egress.mtu_v4, self.egress.mtu_v6);
        self.autoconf.on_notice(&mut self.egress, notice);
        self.fit_mtu(before);
        self.set_alarm();
    }

    fn fit_mtu(&mut self, before: (u16, u16)) {
        let now = (self.egress.mtu_v4, self.egress.mtu_v6);
        if now != before {
            self.udp.limit_mtu(now.0.min(now.1));
        }
    }
}
