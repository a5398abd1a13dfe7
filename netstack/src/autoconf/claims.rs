//! IPv4 addresses that we claim before the whole link, and what is done when somebody else does (RFC 5227).
//!
//! A claim is announced twice. One that is disputed is defended once in ten seconds, for as long as we have the address
//! (§2.4 c): a server does not give way. What is leased gives way the second time (§2.4 b).

use core::time::Duration;
use std::net::Ipv4Addr;

use demi_drivers::Instant;

use super::arp_request;
use crate::egress::Egress;
use crate::wire::ethernet::Mac;

/// Announcements of an address, and the time between them (RFC 5227 §1.1).
const ANNOUNCE_NUM: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// An address is defended once in this time (RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Claim {
    address: Ipv4Addr,
    announcements: u8,
    at: Instant,
    defended: Option<Instant>,
}

/// The claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: Vec<Claim>,
}

impl Claims {
    /// Claims `address` from the start on.
    pub(super) fn add(&mut self, address: Ipv4Addr) {
        self.all.push(Claim {
            address,
            announcements: ANNOUNCE_NUM,
            at: Instant::FAR_FUTURE,
            defended: None,
        });
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.all.iter_mut().for_each(|claim| claim.at = now);
    }

    /// Claims `address` from now on.
    pub(super) fn announce(&mut self, now: Instant, address: Ipv4Addr) {
        self.drop(address);
        self.add(address);
        if let Some(claim) = self.all.last_mut() {
            claim.at = now;
        }
    }

    /// Gives the claim to `address` up.
    pub(super) fn drop(&mut self, address: Ipv4Addr) {
        self.all.retain(|claim| claim.address != address);
    }

    pub(super) fn deadline(&self) -> Instant {
        self.all.iter().map(|claim| claim.at).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Makes the announcements that are due.
    pub(super) fn poll(&mut self, now: Instant, egress: &mut Egress) {
        for claim in self.all.iter_mut().filter(|claim| claim.at <= now) {
            claim.announcements = claim.announcements.saturating_sub(1);
            claim.at = if claim.announcements > 0 { now + ANNOUNCE_INTERVAL } else { Instant::FAR_FUTURE };
            announce(egress, claim.address);
        }
    }

    /// Another station has claimed `address`, too: defends it, unless that was done a moment ago. Answers whether the other
    /// one did so again within that moment.
    pub(super) fn on_conflict(&mut self, egress: &mut Egress, address: Ipv4Addr) -> bool {
        let now = egress.now;
        if !self.all.iter().any(|claim| claim.address == address) {
            self.add(address);
            self.all
                .iter_mut()
                .filter(|claim| claim.address == address)
                .for_each(|claim| claim.announcements = 0);
        }
        let Some(claim) = self.all.iter_mut().find(|claim| claim.address == address) else { return false };
        let again = claim.defended.is_some_and(|last| now.since(last) < DEFEND_INTERVAL);
        if !again {
            claim.defended = Some(now);
            announce(egress, address);
        }
        again
    }
}

fn announce(egress: &mut Egress, address: Ipv4Addr) {
    egress.stats.link.out_announcements += 1;
    let announcement = arp_request(egress.mac, address, address);
    egress.send_arp(Mac::BROADCAST, &announcement);
}
