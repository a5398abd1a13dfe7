//! Our IPv6 addresses on their way into use and out of it: duplicate address detection before an address is used (RFC 4862
//! §5.4), preference and validity of those that were made of an advertised prefix (§5.5.3, §5.5.4).
//!
//! An address that is being tried out receives nothing and sends nothing but the question whether somebody has it; one that
//! somebody has is never used. Addresses made of prefixes are bounded in number.

use core::time::Duration;
use std::net::Ipv6Addr;

use demi_drivers::Instant;

use crate::egress::Egress;
use crate::hash::Random;
use crate::wire::ethernet::Mac;
use crate::wire::ndisc::{self, solicited_node};

/// Upper bound of the random time before the first question (RFC 4861 §10, MAX_RTR_SOLICITATION_DELAY).
pub(super) const MAX_DELAY: Duration = Duration::from_secs(1);
/// How long an answer is waited for (RFC 4861 §10, RETRANS_TIMER); one question is asked (RFC 4862 §5.1,
/// DupAddrDetectTransmits).
const RETRANS: Duration = Duration::from_secs(1);
/// Addresses made of prefixes, as in Linux (`max_addresses`).
const MAX_ADVERTISED: usize = 16;
/// A prefix's validity cannot be cut below this at once by who is not authenticated (RFC 4862 §5.5.3 e).
const TWO_HOURS: Duration = Duration::from_secs(7200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The question has not been asked yet.
    Waiting,
    /// It has.
    Asked,
    Preferred,
    /// Of use to flows that have it (RFC 4862 §5.5.4).
    Deprecated,
    /// Somebody else's.
    Duplicate,
}

#[derive(Debug)]
struct Address {
    address: Ipv6Addr,
    state: State,
    advertised: bool,
    /// When the detection goes on.
    at: Instant,
    preferred_until: Instant,
    valid_until: Instant,
}

impl Address {
    fn is_tentative(&self) -> bool {
        matches!(self.state, State::Waiting | State::Asked)
    }

    fn deadline(&self) -> Instant {
        let next = match self.state {
            State::Waiting | State::Asked => self.at,
            State::Preferred => self.preferred_until,
            State::Deprecated | State::Duplicate => Instant::FAR_FUTURE,
        };
        next.min(self.valid_until)
    }
}

/// The addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    detect: bool,
    all: Vec<Address>,
}

impl Addresses {
    pub(super) fn new(detect: bool) -> Addresses {
        Addresses { detect, all: Vec::new() }
    }

    /// Adds an address that was configured, to be tried out once there is a time. The routes listen for it already.
    pub(super) fn add_configured(&mut self, address: Ipv6Addr) {
        let far = Instant::FAR_FUTURE;
        let state = State::Waiting;
        let at = Instant::ZERO;
        self.all.push(Address {
            address,
            state,
            advertised: false,
            at,
            preferred_until: far,
            valid_until: far,
        });
    }

    pub(super) fn start(&mut self, now: Instant, random: &mut Random) {
        // RFC 4862 §5.4.2: hosts that start together do not speak together. One delay does for all addresses of one.
        let first = now + delay(random);
        self.all.iter_mut().for_each(|address| address.at = first);
    }

    /// Whether an address is being tried out, `but` one.
    pub(super) fn any_tentative(&self, but: Option<Ipv6Addr>) -> bool {
        self.all.iter().any(|entry| entry.is_tentative() && Some(entry.address) != but)
    }

    pub(super) fn is_tentative(&self, address: Ipv6Addr) -> bool {
        self.all.iter().any(|other| other.address == address && other.is_tentative())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.all.iter().map(Address::deadline).min().unwrap_or(Instant::FAR_FUTURE)
    }

    pub(super) fn poll(&mut self, now: Instant, egress: &mut Egress) {
        let mut changed = false;
        for entry in &mut self.all {
            if now >= entry.valid_until {
                egress.routes.withhold_v6(entry.address);
                egress.routes.unlisten(entry.address);
                changed = true;
            } else if entry.state == State::Waiting && now >= entry.at {
                ask(egress, entry.address);
                (entry.state, entry.at) = (State::Asked, now + RETRANS);
            } else if entry.state == State::Asked && now >= entry.at {
                entry.state = State::Preferred;
                egress.routes.assign_v6(entry.address);
                changed = true;
            }
            if entry.state == State::Preferred && now >= entry.preferred_until {
                entry.state = State::Deprecated;
                egress.routes.set_deprecated(entry.address, true);
                changed = true;
            }
        }
        self.all.retain(|entry| now < entry.valid_until);
        if changed {
            egress.neighbors.forget_paths();
        }
    }

    /// Somebody has `target`, or tries it out like us.
    pub(super) fn on_claim(&mut self, egress: &mut Egress, target: Ipv6Addr) -> bool {
        let entry = self.all.iter_mut().find(|entry| entry.address == target && entry.is_tentative());
        let Some(entry) = entry else { return false };
        entry.state = State::Duplicate;
        egress.routes.unlisten(target);
        egress.stats.link.address_conflicts += 1;
        true
    }

    /// Makes or renews the address of a prefix that is advertised with these times (RFC 4862 §5.5.3); `None`: for ever.
    pub(super) fn advertise(
        &mut self,
        egress: &mut Egress,
        address: Ipv6Addr,
        preferred: Option<Duration>,
        valid: Option<Duration>,
        random: &mut Random,
    ) {
        let now = egress.now;
        let until = |time: Option<Duration>| time.map_or(Instant::FAR_FUTURE, |time| now + time);
        let (preferred_until, valid_until) = (until(preferred), until(valid));
        if let Some(entry) = self.all.iter_mut().find(|entry| entry.address == address) {
            if !entry.advertised {
                return;
            }
            entry.preferred_until = preferred_until;
            let remaining = entry.valid_until.since(now);
            if valid.is_none_or(|valid| valid > TWO_HOURS || valid > remaining) {
                entry.valid_until = valid_until;
            } else if remaining > TWO_HOURS {
                entry.valid_until = now + TWO_HOURS;
            }
            if entry.state == State::Deprecated && now < preferred_until {
                entry.state = State::Preferred;
                egress.routes.set_deprecated(address, false);
                egress.neighbors.forget_paths();
            }
            return;
        }
        let advertised = self.all.iter().filter(|entry| entry.advertised).count();
        if valid.is_some_and(|valid| valid.is_zero()) || advertised >= MAX_ADVERTISED {
            return;
        }
        egress.routes.listen(address);
        let at = if self.detect { now + delay(random) } else { now };
        let state = if self.detect { State::Waiting } else { State::Asked };
        self.all.push(Address { address, state, advertised: true, at, preferred_until, valid_until });
        if !self.detect {
            self.poll(now, egress);
        }
    }
}

/// Asks everybody whether he has `target` (RFC 4862 §5.4.2).
fn ask(egress: &mut Egress, target: Ipv6Addr) {
    let group = solicited_node(target);
    let question = ndisc::Repr::Solicitation { target, source_mac: None };
    egress.stats.link.out_solicits += 1;
    egress.send_ndisc(Mac::for_multicast_v6(group), Ipv6Addr::UNSPECIFIED, group, &question);
}

/// A random time up to [`MAX_DELAY`].
pub(super) fn delay(random: &mut Random) -> Duration {
    Duration::from_millis(random.below(MAX_DELAY.as_millis() as u32).into())
}
