//! How the interface comes by its addresses and keeps them: duplicate address detection and lifetimes in IPv6
//! ([`addresses`]), what routers advertise ([`routers`]), a lease in IPv4 ([`lease`]), and the claims to IPv4 addresses that
//! others dispute ([`claims`]).
//!
//! Owns the addresses that are not in use yet, or not for ever. What is in use it tells the [routes](crate::route); what it
//! has to say goes out through the [egress](crate::egress). It never touches a packet of a socket, and sleeps until its
//! deadline.

mod addresses;
mod claims;
mod lease;
mod routers;

use core::task::{Context, Poll, Waker};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::Instant;

use crate::addr::link_local;
use crate::config::StackConfig;
use crate::egress::Egress;
use crate::hash::Random;
use crate::wire::arp;
use crate::wire::ethernet::Mac;

use addresses::Addresses;
use claims::Claims;
use lease::Lease;
use routers::Routers;

pub(crate) use routers::Heard;

/// Tasks that wait for the interface to have its addresses: more than one is rare.
const MAX_WAITERS: usize = 64;

/// The interface's way to its addresses.
#[derive(Debug)]
pub(crate) struct Autoconf {
    started: bool,
    /// Our link-local address, tried first.
    link_local: Option<Ipv6Addr>,
    addresses: Addresses,
    /// `None`: what routers advertise is not listened to.
    routers: Option<Routers>,
    claims: Claims,
    lease: Option<Lease>,
    random: Random,
    waiters: Vec<Waker>,
}

impl Autoconf {
    /// What `config` asks for; addresses that are to be tried first are taken out of use until then.
    pub(crate) fn new(config: &StackConfig, egress: &mut Egress, random: &mut Random) -> Autoconf {
        let mut addresses = Addresses::new(config.detect_duplicates);
        let mut claims = Claims::default();
        let own: Vec<IpAddr> = egress.routes.addresses().collect();
        if config.detect_duplicates {
            for address in own {
                match address {
                    IpAddr::V4(v4) => claims.add(v4),
                    IpAddr::V6(v6) => {
                        egress.routes.withhold_v6(v6);
                        addresses.add_configured(v6);
                    }
                }
            }
        }
        Autoconf {
            started: false,
            link_local: config.link_local.then(|| link_local(egress.mac)),
            addresses,
            routers: config.router_discovery.then(Routers::default),
            claims,
            lease: config.dhcp.then(|| Lease::new(egress.mac, config.silent)),
            random: Random::new(random.next_key()),
            waiters: Vec::new(),
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        if !self.started {
            let idle = self.lease.is_none() && self.routers.is_none();
            let settled = idle && self.addresses.deadline() == Instant::FAR_FUTURE && self.claims.is_quiet();
            return if settled { Instant::FAR_FUTURE } else { Instant::ZERO };
        }
        let routers = self.routers.as_ref().map_or(Instant::FAR_FUTURE, Routers::deadline);
        let lease = self.lease.as_ref().map_or(Instant::FAR_FUTURE, Lease::deadline);
        self.addresses.deadline().min(self.claims.deadline()).min(routers).min(lease)
    }

    /// Does what is due.
    pub(crate) fn poll(&mut self, egress: &mut Egress) -> usize {
        let now = egress.now;
        if now < self.deadline() {
            return 0;
        }
        if !self.started {
            self.started = true;
            self.addresses.start(now, &mut self.random);
            self.claims.start(now);
            if let Some(routers) = &mut self.routers {
                routers.start(now, &mut self.random);
            }
            if let Some(lease) = &mut self.lease {
                lease.start(now, &mut self.random);
            }
        }
        self.addresses.poll(now, egress);
        if let Some(routers) = &mut self.routers {
            // RFC 4862 §5.5.1: with our link-local address as the source, if we will have one.
            let src = self.link_local.filter(|address| egress.routes.is_own(IpAddr::V6(*address)));
            let waits = self.link_local.is_some_and(|address| self.addresses.is_tentative(address));
            routers.poll(now, egress, src, waits, &mut self.random);
        }
        if let Some(lease) = &mut self.lease {
            lease.poll(now, egress, &mut self.claims, &mut self.random);
        }
        self.claims.poll(now, egress);
        self.wake();
        1
    }

    // ---- what is heard ----

    /// A router has advertised itself.
    pub(crate) fn on_advertisement(&mut self, egress: &mut Egress, heard: &Heard<'_>) {
        let Some(routers) = &mut self.routers else { return };
        routers.on_advertisement(egress, heard, &mut self.addresses, &mut self.random);
        self.wake();
    }

    /// A neighbour that was taken for a router says that it is none, or does not answer any more.
    pub(crate) fn on_router_lost(&mut self, egress: &mut Egress, address: Ipv6Addr, for_good: bool) {
        if let Some(routers) = &mut self.routers {
            routers.lost(egress, address, for_good);
        }
    }

    /// Somebody tries out an address that we are trying out, or says that it is his (RFC 4862 §5.4.3, §5.4.4). Answers
    /// whether it is such an address: the message is then nobody else's.
    pub(crate) fn on_claim_v6(&mut self, egress: &mut Egress, target: Ipv6Addr) -> bool {
        let refused = self.addresses.on_claim(egress, target);
        if refused {
            self.wake();
        }
        refused
    }

    /// An ARP packet of another station.
    pub(crate) fn on_arp(&mut self, egress: &mut Egress, packet: &arp::Repr) {
        if packet.sender_mac == egress.mac {
            return;
        }
        if let Some(lease) = &mut self.lease {
            lease.on_arp(egress, packet, &mut self.random);
        }
        if egress.routes.is_own(IpAddr::V4(packet.sender_ip)) {
            egress.stats.link.address_conflicts += 1;
            if egress.silent {
                // The first stack has heard it, too, and answers for all.
                return;
            }
            let again = self.claims.on_conflict(egress, packet.sender_ip);
            if let Some(lease) = self.lease.as_mut().filter(|_| again) {
                lease.give_up(egress, &mut self.claims, packet.sender_ip, &mut self.random);
            }
        }
    }

    /// A datagram to the port of DHCP clients; `false` when we are none.
    pub(crate) fn on_dhcp(&mut self, egress: &mut Egress, payload: &[u8]) -> bool {
        let Some(lease) = &mut self.lease else { return false };
        lease.on_message(egress, &mut self.claims, payload, &mut self.random);
        self.wake();
        true
    }

    /// The first of the host's stacks says what it has leased.
    pub(crate) fn on_notice(&mut self, egress: &mut Egress, notice: &[u8]) {
        let Some(lease) = &mut self.lease else { return };
        lease.on_notice(egress, &mut self.claims, notice);
        self.wake();
    }

    // ---- what others ask ----

    /// What the host's other stacks are to be told by now; [`told`](Self::told) says whether they were.
    pub(crate) fn news(&self, now: Instant) -> Option<&[u8]> {
        self.lease.as_ref().and_then(|lease| lease.news(now))
    }

    /// They were, or will have to be told again.
    pub(crate) fn told(&mut self, now: Instant, all: bool) {
        if let Some(lease) = &mut self.lease {
            lease.told(now, all);
        }
    }

    /// Waits until the interface has the addresses that it can have for now.
    pub(crate) fn poll_configured(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_configured() {
            return Poll::Ready(());
        }
        if !self.waiters.iter().any(|waker| waker.will_wake(cx.waker())) && self.waiters.len() < MAX_WAITERS {
            self.waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn is_configured(&self) -> bool {
        self.deadline() != Instant::ZERO
            // Nobody waits for the address that every interface has, and that few programs use.
            && !self.addresses.any_tentative(self.link_local)
            && self.routers.as_ref().is_none_or(Routers::is_settled)
            && self.lease.as_ref().is_none_or(Lease::is_bound)
    }

    fn wake(&mut self) {
        if !self.waiters.is_empty() && self.is_configured() {
            self.waiters.drain(..).for_each(Waker::wake);
        }
    }

    /// Name servers that were told of, IPv4's first.
    pub(crate) fn name_servers(&self) -> Vec<IpAddr> {
        let leased = self.lease.iter().flat_map(|lease| lease.name_servers().iter().copied().map(IpAddr::V4));
        let told = self.routers.iter().flat_map(|routers| routers.name_servers().map(IpAddr::V6));
        leased.chain(told).collect()
    }

    /// The domain that the lease names.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.lease.as_ref().and_then(Lease::domain)
    }
}

/// An ARP request for `target` from `sender`; from nobody, it is a probe, and from the target itself an announcement
/// (RFC 5227 §1.1).
fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> arp::Repr {
    arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: mac,
        sender_ip: sender,
        target_mac: Mac::default(),
        target_ip: target,
    }
}
