//! Default routers, prefixes, the link's MTU and name servers as routers advertise them (RFC 4861 §6.3, RFC 8106), and the
//! solicitations that make them speak (RFC 7559).
//!
//! Everything that is learnt has its time, and its number is bounded: a link full of routers, or one that claims to be, costs no
//! more than these tables. Redirects are not obeyed.

use core::cmp::Reverse;
use core::time::Duration;
use std::net::{IpAddr, Ipv6Addr};

use demi_drivers::Instant;

use super::addresses::{Addresses, delay};
use crate::addr::Cidr;
use crate::egress::Egress;
use crate::hash::Random;
use crate::link_out::Own;
use crate::wire::ethernet::Mac;
use crate::wire::router::{self, Advertisement, Information, Preference, Prefix};
use crate::wire::{ipv6, protocol};

/// All routers on the link (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// First and longest time between solicitations (RFC 7559 §2).
const FIRST_INTERVAL: Duration = Duration::from_secs(4);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Solicitations after which nobody is taken to be there (RFC 4861 §10, MAX_RTR_SOLICITATIONS): programs wait no longer.
const MAX_SOLICITS: u32 = 3;
/// Routers, prefixes and name servers that are remembered.
const MAX_ROUTERS: usize = 8;
const MAX_PREFIXES: usize = 16;
const MAX_SERVERS: usize = 8;

/// An advertisement and how it came.
#[derive(Debug)]
pub(crate) struct Heard<'a> {
    pub(crate) router: Ipv6Addr,
    pub(crate) advertisement: Advertisement<'a>,
}

#[derive(Clone, Copy, Debug)]
struct Router {
    address: Ipv6Addr,
    preference: Preference,
    until: Instant,
    /// It did not answer: others are tried before (RFC 4861 §6.3.6).
    silent: bool,
}

/// What is known of routers.
#[derive(Debug)]
pub(super) struct Routers {
    routers: Vec<Router>,
    /// What the routes were told.
    in_force: Vec<Ipv6Addr>,
    on_link: Vec<(Cidr, Instant)>,
    servers: Vec<(Ipv6Addr, Instant)>,
    solicits: u32,
    interval: Duration,
    /// When to ask (again); never, once a router has answered.
    ask_at: Instant,
}

impl Default for Routers {
    fn default() -> Routers {
        Routers {
            routers: Vec::new(),
            in_force: Vec::new(),
            on_link: Vec::new(),
            servers: Vec::new(),
            solicits: 0,
            interval: FIRST_INTERVAL,
            ask_at: Instant::FAR_FUTURE,
        }
    }
}

impl Routers {
    pub(super) fn start(&mut self, now: Instant, random: &mut Random) {
        self.ask_at = now + delay(random);
    }

    /// Whether a router has spoken, or none is there.
    pub(super) fn is_settled(&self) -> bool {
        self.ask_at == Instant::FAR_FUTURE && self.solicits > 0
            || !self.in_force.is_empty()
            || self.solicits > MAX_SOLICITS
    }

    pub(super) fn name_servers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.servers.iter().map(|(address, _)| *address)
    }

    pub(super) fn deadline(&self) -> Instant {
        let routers = self.routers.iter().map(|router| router.until);
        let rest = self.on_link.iter().map(|(_, until)| *until);
        let servers = self.servers.iter().map(|(_, until)| *until);
        routers.chain(rest).chain(servers).fold(self.ask_at, Instant::min)
    }

    /// `src`: our link-local address, once it is ours. `waits`: it will be soon.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        egress: &mut Egress,
        src: Option<Ipv6Addr>,
        waits: bool,
        random: &mut Random,
    ) {
        if now >= self.ask_at {
            if waits {
                self.ask_at = now + Duration::from_millis(100);
            } else {
                self.solicit(now, egress, src.unwrap_or(Ipv6Addr::UNSPECIFIED), random);
            }
        }
        self.servers.retain(|(_, until)| now < *until);
        let expired: Vec<Cidr> =
            self.on_link.iter().filter(|(_, until)| now >= *until).map(|(network, _)| *network).collect();
        for network in expired {
            self.off_link(egress, network);
        }
        if self.routers.iter().any(|router| now >= router.until) {
            self.routers.retain(|router| now < router.until);
            self.put_in_force(egress);
            if self.routers.is_empty() {
                // RFC 7559 §2.1: without a router, others are looked for.
                self.ask_at = now;
            }
        }
    }

    fn solicit(&mut self, now: Instant, egress: &mut Egress, src: Ipv6Addr, random: &mut Random) {
        let mut body = [0; router::SOLICITATION_LEN];
        let len = router::solicit(src, ALL_ROUTERS, egress.mac, &mut body);
        let own = Own { src, dst: ALL_ROUTERS, protocol: protocol::ICMPV6, ttl: 255, tos: 0, alert: false };
        egress.stats.link.out_solicits += 1;
        egress.stats.v6.icmp.out_msgs += 1;
        egress.send_own_v6(Mac::for_multicast_v6(ALL_ROUTERS), &own, &body[..len]);
        self.solicits = self.solicits.saturating_add(1);
        // RFC 7559 §2, RFC 8415 §15: twice as long each time, varied by a tenth.
        let millis = self.interval.as_millis() as u32;
        let varied = millis - millis / 10 + random.below(millis / 5 + 1);
        self.ask_at = now + Duration::from_millis(varied.into());
        self.interval = (self.interval * 2).min(LONGEST_INTERVAL);
    }

    pub(super) fn on_advertisement(
        &mut self,
        egress: &mut Egress,
        heard: &Heard<'_>,
        addresses: &mut Addresses,
        random: &mut Random,
    ) {
        let Heard { router, advertisement } = heard;
        egress.stats.link.in_router_advertisements += 1;
        self.update_router(egress, *router, advertisement);
        egress.neighbors.set_times(advertisement.reachable_ms, advertisement.retrans_ms);
        for information in advertisement.information() {
            match information {
                // The caller has told the neighbours.
                Information::LinkAddress(_) => {}
                Information::Prefix(prefix) => self.on_prefix(egress, &prefix, addresses, random),
                Information::Mtu(mtu) => {
                    // RFC 4861 §6.3.4: not below what IPv6 needs, nor above what the link carries.
                    let largest = u32::from(egress.mtu);
                    if (u32::from(ipv6::MIN_MTU)..=largest).contains(&mtu) {
                        egress.mtu_v6 = mtu as u16;
                    }
                }
                Information::NameServers(time, servers) => {
                    for server in servers {
                        self.on_server(egress.now, Ipv6Addr::from(*server), time);
                    }
                }
            }
        }
    }

    fn update_router(&mut self, egress: &mut Egress, address: Ipv6Addr, advertisement: &Advertisement<'_>) {
        let Advertisement { preference, lifetime, .. } = *advertisement;
        let known = self.routers.iter().position(|router| router.address == address);
        let until = egress.now + lifetime;
        match known {
            Some(at) if lifetime.is_zero() => drop(self.routers.remove(at)),
            Some(at) => {
                if let Some(router) = self.routers.get_mut(at) {
                    (router.until, router.preference, router.silent) = (until, preference, false);
                }
            }
            None if lifetime.is_zero() || self.routers.len() >= MAX_ROUTERS => {}
            None => self.routers.push(Router { address, preference, until, silent: false }),
        }
        if !lifetime.is_zero() {
            // RFC 4861 §6.3.7: a router has answered.
            (self.ask_at, self.interval) = (Instant::FAR_FUTURE, FIRST_INTERVAL);
            self.solicits = self.solicits.max(1);
        }
        self.put_in_force(egress);
    }

    /// A router does not answer (others are tried first, then), or is none any more.
    pub(super) fn lost(&mut self, egress: &mut Egress, address: Ipv6Addr, for_good: bool) {
        if for_good {
            self.routers.retain(|router| router.address != address);
        } else if self.routers.iter().filter(|router| !router.silent).any(|router| router.address != address)
        {
            let lost = self.routers.iter_mut().filter(|router| router.address == address);
            lost.for_each(|router| router.silent = true);
        } else {
            // RFC 4861 §6.3.6: when none answers, they take turns.
            self.routers.iter_mut().for_each(|router| router.silent = router.address == address);
        }
        self.put_in_force(egress);
    }

    fn put_in_force(&mut self, egress: &mut Egress) {
        self.routers.sort_by_key(|router| (router.silent, Reverse(router.preference)));
        let routers: Vec<Ipv6Addr> = self.routers.iter().map(|router| router.address).collect();
        if routers != self.in_force {
            egress.routes.set_default_routers(&self.in_force, &routers);
            egress.neighbors.forget_paths();
            self.in_force = routers;
        }
    }

    fn on_prefix(
        &mut self,
        egress: &mut Egress,
        prefix: &Prefix,
        addresses: &mut Addresses,
        random: &mut Random,
    ) {
        let Prefix { prefix: bits, len, on_link, autonomous, valid, preferred } = *prefix;
        let outlived = match (preferred, valid) {
            (Some(preferred), Some(valid)) => preferred > valid,
            (None, Some(_)) => true,
            _ => false,
        };
        if len > 128 || bits.is_unicast_link_local() || bits.is_multicast() || bits.is_loopback() || outlived
        {
            return;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let network = Ipv6Addr::from_bits(bits.to_bits() & mask);
        // A prefix of nothing would have all of the world on the link.
        if on_link
            && len > 0
            && let Some(network) = Cidr::new(IpAddr::V6(network), len)
        {
            self.update_on_link(egress, network, valid);
        }
        // RFC 4862 §5.5.3 d: prefix and interface identifier make up the 128 bits.
        if autonomous && len == 64 {
            let identifier = crate::addr::link_local(egress.mac).to_bits() & u128::from(u64::MAX);
            let address = Ipv6Addr::from_bits(network.to_bits() | identifier);
            addresses.advertise(egress, address, preferred, valid, random);
        }
    }

    fn update_on_link(&mut self, egress: &mut Egress, network: Cidr, valid: Option<Duration>) {
        let until = valid.map_or(Instant::FAR_FUTURE, |valid| egress.now + valid);
        let full = self.on_link.len() >= MAX_PREFIXES;
        let known = self.on_link.iter_mut().find(|(other, _)| *other == network);
        match known {
            // RFC 4861 §6.3.4
            Some(_) if valid.is_some_and(|valid| valid.is_zero()) => self.off_link(egress, network),
            Some((_, known)) => *known = until,
            None if valid.is_some_and(|valid| valid.is_zero()) || full => {}
            None => {
                self.on_link.push((network, until));
                egress.routes.add_on_link(network);
                egress.neighbors.forget_paths();
            }
        }
    }

    fn off_link(&mut self, egress: &mut Egress, network: Cidr) {
        self.on_link.retain(|(other, _)| *other != network);
        egress.routes.remove_on_link(network);
        egress.neighbors.forget_paths();
    }

    fn on_server(&mut self, now: Instant, address: Ipv6Addr, time: Option<Duration>) {
        self.servers.retain(|(server, _)| *server != address);
        let until = time.map_or(Instant::FAR_FUTURE, |time| now + time);
        if until > now
            && !address.is_multicast()
            && !address.is_unspecified()
            && self.servers.len() < MAX_SERVERS
        {
            self.servers.push((address, until));
        }
    }
}
