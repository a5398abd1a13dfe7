//! The address that a DHCP server leases us, in force: what the [client](crate::dhcp) says is done here.
//!
//! Owns what was put in force, to take it back as it was. The address is announced like any other, and given back when
//! somebody else insists that it is his.
//!
//! Of several stacks of one host the first one leases. It tells the others by passing on the server's acknowledgement once that is in
//! force, or nothing when it is not any more; they do the same with it, and ask, time and announce nothing themselves.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr};

use demi_drivers::Instant;

use super::arp_request;
use super::claims::Claims;
use crate::addr::Cidr;
use crate::dhcp::{Action, Client};
use crate::egress::Egress;
use crate::hash::Random;
use crate::wire::arp;
use crate::wire::dhcpv4::{CLIENT_PORT, REQUEST_LEN, Reply, Request, SERVER_PORT};
use crate::wire::ethernet::Mac;

/// Upper bound of the random time before the first message: hosts that start together do not ask together.
const MAX_DELAY_MS: u32 = 100;
/// The smallest MTU that a lease may name (RFC 2132 §5.1 has 68; below this nothing useful is left).
const MIN_MTU: u16 = 576;

/// When the other stacks are told again, if there was no room to tell them.
const TELL_INTERVAL: Duration = Duration::from_millis(10);

/// The lease.
#[derive(Debug)]
pub(super) struct Lease {
    /// It is another stack's, which tells of it: the client never begins.
    follows: bool,
    client: Client,
    /// The message that the client's lease is from.
    acknowledgement: Vec<u8>,
    /// When the other stacks are to be told.
    tell_at: Instant,
    in_force: Option<Cidr>,
    name_servers: Vec<Ipv4Addr>,
    domain: Option<String>,
}

impl Lease {
    pub(super) fn new(mac: Mac, follows: bool) -> Lease {
        Lease {
            follows,
            client: Client::new(mac),
            acknowledgement: Vec::new(),
            tell_at: Instant::FAR_FUTURE,
            in_force: None,
            name_servers: Vec::new(),
            domain: None,
        }
    }

    pub(super) fn start(&mut self, now: Instant, random: &mut Random) {
        if !self.follows {
            self.client.start(now + Duration::from_millis(random.below(MAX_DELAY_MS).into()));
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.client.deadline().min(self.tell_at)
    }

    /// What the other stacks are to be told by `now`: the acknowledgement of what is in force; empty, when nothing is.
    pub(super) fn news(&self, now: Instant) -> Option<&[u8]> {
        let notice = if self.in_force.is_some() { &self.acknowledgement[..] } else { &[] };
        (self.tell_at <= now).then_some(notice)
    }

    /// They were told, or not all of them.
    pub(super) fn told(&mut self, now: Instant, all: bool) {
        self.tell_at = if all { Instant::FAR_FUTURE } else { now + TELL_INTERVAL };
    }

    /// The stack that leases says what is in force.
    pub(super) fn on_notice(&mut self, egress: &mut Egress, claims: &mut Claims, notice: &[u8]) {
        if !self.follows {
            return;
        }
        match Reply::parse(notice) {
            Ok(reply) if self.put_in_force(egress, claims, &reply) => {}
            _ => self.take_back(egress, claims),
        }
    }

    pub(super) fn is_bound(&self) -> bool {
        self.in_force.is_some()
    }

    pub(super) fn name_servers(&self) -> &[Ipv4Addr] {
        &self.name_servers
    }

    pub(super) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    pub(super) fn poll(
        &mut self,
        now: Instant,
        egress: &mut Egress,
        claims: &mut Claims,
        random: &mut Random,
    ) {
        while let Some(action) = self.client.poll(now, random) {
            self.run(egress, claims, action, random);
        }
    }

    /// A datagram to the port of clients.
    pub(super) fn on_message(
        &mut self,
        egress: &mut Egress,
        claims: &mut Claims,
        payload: &[u8],
        random: &mut Random,
    ) {
        let Ok(reply) = Reply::parse(payload) else {
            egress.stats.v4.udp.in_errors += 1;
            return;
        };
        let mut heard = reply.clone();
        let action = self.client.on_reply(egress.now, reply);
        if let Some(lease) = self.client.reply() {
            // One that does not say which server it is from is from that of the offer.
            heard.server = heard.server.or(lease.server);
            if *lease == heard {
                self.acknowledgement.clear();
                self.acknowledgement.extend_from_slice(payload);
            }
        }
        if let Some(action) = action {
            self.run(egress, claims, action, random);
        }
    }

    /// Another station's ARP packet: it has the address that we try out, or tries it out like us (RFC 5227 §2.1.1).
    pub(super) fn on_arp(&mut self, egress: &mut Egress, packet: &arp::Repr, random: &mut Random) {
        let Some(probed) = self.client.probed() else { return };
        let probes = packet.sender_ip.is_unspecified() && packet.target_ip == probed;
        if packet.sender_ip != probed && !probes {
            return;
        }
        egress.stats.link.address_conflicts += 1;
        if let Some(Action::Broadcast(request)) = self.client.decline(egress.now, random) {
            broadcast(egress, &request);
        }
    }

    /// Somebody else insists on the leased address.
    pub(super) fn give_up(
        &mut self,
        egress: &mut Egress,
        claims: &mut Claims,
        address: Ipv4Addr,
        random: &mut Random,
    ) {
        if self.in_force.is_none_or(|cidr| cidr.address() != IpAddr::V4(address)) {
            return;
        }
        let declined = self.client.decline(egress.now, random);
        self.take_back(egress, claims);
        if let Some(Action::Broadcast(request)) = declined {
            broadcast(egress, &request);
        }
    }

    fn run(&mut self, egress: &mut Egress, claims: &mut Claims, action: Action, random: &mut Random) {
        match action {
            Action::Broadcast(request) => broadcast(egress, &request),
            Action::Unicast(request, server) => {
                let mut bytes = [0; REQUEST_LEN];
                request.emit(&mut bytes);
                egress.send_datagram(request.client, server, (CLIENT_PORT, SERVER_PORT), &bytes);
            }
            Action::Probe(address) => {
                egress.stats.link.out_solicits += 1;
                let probe = arp_request(egress.mac, Ipv4Addr::UNSPECIFIED, address);
                egress.send_arp(Mac::BROADCAST, &probe);
            }
            Action::Bound | Action::Extended => {
                let leased = self.client.reply().cloned();
                if !leased.is_some_and(|reply| self.put_in_force(egress, claims, &reply))
                    && let Some(Action::Broadcast(request)) = self.client.decline(egress.now, random)
                {
                    broadcast(egress, &request);
                }
            }
            Action::Lost => self.take_back(egress, claims),
        }
    }

    /// Puts what is leased in force; `false` when nobody can have that address.
    fn put_in_force(&mut self, egress: &mut Egress, claims: &mut Claims, reply: &Reply) -> bool {
        let prefix_len = reply.prefix_len.filter(|len| *len > 0).unwrap_or(classful(reply.address));
        let Some(cidr) = Cidr::new(IpAddr::V4(reply.address), prefix_len) else { return false };
        let moved = self.in_force != Some(cidr);
        // Routes may change with every renewal: all is put in force anew.
        if let Some(before) = self.in_force.take() {
            egress.routes.remove_v4(before);
        }
        if egress.routes.is_own(IpAddr::V4(reply.address)) || egress.routes.add_address(cidr).is_err() {
            return false;
        }
        self.in_force = Some(cidr);
        let everything = (Ipv4Addr::UNSPECIFIED, 0);
        // RFC 3442: classless routes, if there are some, replace the routers.
        let router = reply.routers.first().filter(|_| reply.routes.is_empty());
        let default = router.map(|router| (everything, *router));
        let classless = reply.routes.iter().map(|route| ((route.network, route.prefix_len), route.router));
        for ((network, len), router) in classless.chain(default) {
            let gateway = (!router.is_unspecified()).then_some(IpAddr::V4(router));
            if let Some(network) = Cidr::new(IpAddr::V4(network), len) {
                egress.routes.add_leased(network, gateway, reply.address);
            }
        }
        if let Some(mtu) = reply.mtu.filter(|mtu| *mtu >= MIN_MTU) {
            egress.mtu_v4 = egress.mtu.min(mtu);
        }
        self.name_servers = reply.name_servers.to_vec();
        self.domain = reply.domain.clone();
        egress.neighbors.forget_paths();
        if self.follows {
            return true;
        }
        self.tell_at = egress.now;
        if moved {
            claims.announce(egress.now, reply.address);
        }
        true
    }

    fn take_back(&mut self, egress: &mut Egress, claims: &mut Claims) {
        let Some(cidr) = self.in_force.take() else { return };
        egress.routes.remove_v4(cidr);
        egress.mtu_v4 = egress.mtu;
        egress.neighbors.forget_paths();
        if let IpAddr::V4(address) = cidr.address() {
            claims.drop(address);
        }
        self.name_servers.clear();
        self.domain = None;
        if !self.follows {
            self.tell_at = egress.now;
        }
    }
}

fn broadcast(egress: &mut Egress, request: &Request) {
    let mut bytes = [0; REQUEST_LEN];
    request.emit(&mut bytes);
    egress.broadcast_datagram((CLIENT_PORT, SERVER_PORT), &bytes);
}

/// Bits of the network of an address whose mask was not told (RFC 950 §2).
fn classful(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}
