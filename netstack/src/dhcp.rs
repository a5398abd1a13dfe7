//! A DHCP client (RFC 2131 §4.4) as a state machine: messages and time in, [`Action`]s out.
//!
//! ```text
//!          ┌────────────── refused, or nobody answers ──────────────┐
//!          ▼                                                        │
//!        Init ──► Selecting ──► Requesting ──► Probing ──► Bound ──► Renewing ──► Rebinding
//!          ▲       discover      request       ask the      T1        T2            │
//!          │                                   link           ▲______________________│ extended
//!          └────────────────────── somebody has it ─────┘     └────── the lease ends ─► Init
//! ```
//!
//! Owns the lease and the times. Never looks at a packet or an interface: [`autoconf`](crate::autoconf) sends what is to be sent
//! and puts the lease in force.

use core::time::Duration;
use std::net::Ipv4Addr;

use demi_drivers::Instant;

use crate::hash::Random;
use crate::wire::dhcpv4::{Kind, Reply, Request};
use crate::wire::ethernet::Mac;

/// First and longest time between two messages that are not answered (RFC 2131 §4.1).
const FIRST_INTERVAL_MS: u32 = 4_000;
const LONGEST_INTERVAL_MS: u32 = 64_000;
/// Requests for an offered address before another is looked for.
const MAX_REQUESTS: u32 = 4;
/// Shortest time between two requests for more time (RFC 2131 §4.4.5).
const MIN_RENEWAL: Duration = Duration::from_secs(60);
/// Shortest lease: one that is shorter would be all renewal.
const MIN_LEASE: Duration = Duration::from_secs(10);
/// Wait before all begins anew, after an address was refused or was somebody else's (RFC 2131 §3.1.5).
const REFUSED_WAIT: Duration = Duration::from_secs(10);
/// Questions to the link whether somebody has the address, and the time after each. RFC 5227 would ask for seconds; the server
/// has asked already, as RFC 2131 §2.2 wants.
const PROBES: u32 = 2;
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this to everybody.
    Broadcast(Request),
    /// Send this from the leased address to its server.
    Unicast(Request, Ipv4Addr),
    /// Ask the link whether somebody has this address.
    Probe(Ipv4Addr),
    /// Put the lease in force.
    Bound,
    /// It goes on.
    Extended,
    /// Stop using the address at once.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    Selecting,
    Requesting,
    Probing,
    Bound,
    Renewing,
    Rebinding,
}

/// The client.
#[derive(Debug)]
pub(crate) struct Client {
    mac: Mac,
    state: State,
    xid: u32,
    /// Since when it wants something.
    began: Instant,
    /// Messages sent in this state.
    sent: u32,
    at: Instant,
    /// What was offered, or is leased.
    reply: Option<Reply>,
    renew_at: Instant,
    rebind_at: Instant,
    expires_at: Instant,
}

impl Client {
    pub(crate) fn new(mac: Mac) -> Client {
        let far = Instant::FAR_FUTURE;
        Client {
            mac,
            state: State::Init,
            xid: 0,
            began: Instant::ZERO,
            sent: 0,
            at: far,
            reply: None,
            renew_at: far,
            rebind_at: far,
            expires_at: far,
        }
    }

    /// Begins.
    pub(crate) fn start(&mut self, at: Instant) {
        (self.state, self.at, self.reply) = (State::Init, at, None);
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        match self.state {
            State::Bound => self.renew_at,
            State::Renewing => self.at.min(self.rebind_at),
            State::Rebinding => self.at.min(self.expires_at),
            _ => self.at,
        }
    }

    /// The lease, or the offer that may become it.
    pub(crate) fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// Whether there is a lease in force.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound | State::Renewing | State::Rebinding)
    }

    /// The address that is being tried out.
    pub(crate) fn probed(&self) -> Option<Ipv4Addr> {
        (self.state == State::Probing).then(|| self.reply.as_ref().map(|reply| reply.address))?
    }

    /// What is due; to be called until nothing is.
    pub(crate) fn poll(&mut self, now: Instant, random: &mut Random) -> Option<Action> {
        if now < self.deadline() {
            return None;
        }
        match self.state {
            State::Init => {
                self.xid = random.next_u64() as u32;
                self.began = now;
                self.enter(State::Selecting, now);
                self.poll(now, random)
            }
            State::Selecting => {
                self.back_off(now, random);
                Some(Action::Broadcast(self.request(Kind::Discover, now)))
            }
            State::Requesting if self.sent >= MAX_REQUESTS => {
                self.start(now);
                self.poll(now, random)
            }
            State::Requesting => {
                self.back_off(now, random);
                let mut request = self.request(Kind::Request, now);
                let offer = self.reply.as_ref()?;
                (request.requested, request.server) = (Some(offer.address), offer.server);
                Some(Action::Broadcast(request))
            }
            State::Probing if self.sent >= PROBES => {
                self.enter(State::Bound, now);
                Some(Action::Bound)
            }
            State::Probing => {
                self.sent += 1;
                self.at = now + PROBE_INTERVAL;
                self.reply.as_ref().map(|reply| Action::Probe(reply.address))
            }
            State::Bound => {
                self.xid = random.next_u64() as u32;
                self.began = now;
                self.enter(State::Renewing, now);
                self.poll(now, random)
            }
            State::Renewing if now >= self.rebind_at => {
                self.enter(State::Rebinding, now);
                self.poll(now, random)
            }
            State::Rebinding if now >= self.expires_at => {
                self.start(now);
                Some(Action::Lost)
            }
            State::Renewing | State::Rebinding => {
                // RFC 2131 §4.4.5: after half of the time that is left.
                let end = if self.state == State::Renewing { self.rebind_at } else { self.expires_at };
                self.at = now + (end.since(now) / 2).max(MIN_RENEWAL);
                let mut request = self.request(Kind::Request, now);
                let lease = self.reply.as_ref()?;
                request.client = lease.address;
                match (self.state, lease.server) {
                    (State::Renewing, Some(server)) => Some(Action::Unicast(request, server)),
                    _ => Some(Action::Broadcast(request)),
                }
            }
        }
    }

    /// A server has answered.
    pub(crate) fn on_reply(&mut self, now: Instant, reply: Reply) -> Option<Action> {
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (self.state, reply.kind) {
            (State::Selecting, Kind::Offer) => {
                // RFC 2131 §4.3.1: without these an offer is none.
                if reply.server.is_some() && is_usable(reply.address) {
                    self.reply = Some(reply);
                    self.enter(State::Requesting, now);
                }
                None
            }
            (State::Requesting, Kind::Ack) => {
                let offered = self.reply.as_ref().map(|offer| offer.address);
                if offered != Some(reply.address) {
                    return None;
                }
                self.lease(now, reply);
                self.enter(State::Probing, now);
                None
            }
            (State::Renewing | State::Rebinding, Kind::Ack) => {
                let leased = self.reply.as_ref().map(|lease| lease.address);
                if leased != Some(reply.address) {
                    return None;
                }
                self.lease(now, reply);
                self.enter(State::Bound, now);
                Some(Action::Extended)
            }
            (State::Requesting, Kind::Nak) => {
                self.start(now + REFUSED_WAIT);
                None
            }
            (State::Renewing | State::Rebinding, Kind::Nak) => {
                self.start(now);
                Some(Action::Lost)
            }
            _ => None,
        }
    }

    /// Somebody else has the address: it is given back (RFC 2131 §3.1.5), and another one is looked for later.
    pub(crate) fn decline(&mut self, now: Instant, random: &mut Random) -> Option<Action> {
        let lease = self.reply.take()?;
        self.xid = random.next_u64() as u32;
        let mut request = self.request(Kind::Decline, now);
        request.broadcast = false;
        (request.requested, request.server, request.secs) = (Some(lease.address), lease.server, 0);
        self.start(now + REFUSED_WAIT);
        Some(Action::Broadcast(request))
    }

    fn enter(&mut self, state: State, now: Instant) {
        (self.state, self.sent, self.at) = (state, 0, now);
    }

    /// Sets the time of the next attempt: twice as long each time, a second more or less (RFC 2131 §4.1).
    fn back_off(&mut self, now: Instant, random: &mut Random) {
        let interval_ms = (FIRST_INTERVAL_MS << self.sent).min(LONGEST_INTERVAL_MS);
        // Beyond that the interval is the longest one, and the shift would lose bits.
        self.sent = (self.sent + 1).min(8);
        let varied_ms = interval_ms - 1000 + random.below(2001);
        self.at = now + Duration::from_millis(varied_ms.into());
    }

    fn request(&self, kind: Kind, now: Instant) -> Request {
        let secs = now.since(self.began).as_secs().min(u16::MAX.into()) as u16;
        Request {
            kind,
            xid: self.xid,
            secs,
            broadcast: !self.is_bound(),
            client: Ipv4Addr::UNSPECIFIED,
            mac: self.mac,
            requested: None,
            server: None,
        }
    }

    /// Keeps a lease, with times that are in order.
    fn lease(&mut self, now: Instant, mut reply: Reply) {
        let far = Instant::FAR_FUTURE;
        (self.renew_at, self.rebind_at, self.expires_at) = match reply.lease {
            None => (far, far, far),
            Some(lease) => {
                let lease = lease.max(MIN_LEASE);
                // RFC 2131 §4.4.5: half, and seven eighths.
                let rebind = reply.rebind.filter(|rebind| *rebind < lease).unwrap_or(lease / 8 * 7);
                let renew = reply.renew.filter(|renew| *renew < rebind && !renew.is_zero());
                let renew = renew.unwrap_or((lease / 2).min(rebind));
                (now + renew, now + rebind, now + lease)
            }
        };
        if let Some(before) = &self.reply {
            reply.server = reply.server.or(before.server);
        }
        self.reply = Some(reply);
    }
}

fn is_usable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::SmallVec;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    struct Bench {
        client: Client,
        random: Random,
        now: Instant,
    }

    fn bench() -> Bench {
        let mut client = Client::new(MAC);
        client.start(Instant::ZERO);
        Bench { client, random: Random::new([6; 16]), now: Instant::ZERO }
    }

    impl Bench {
        fn poll(&mut self) -> Option<Action> {
            self.client.poll(self.now, &mut self.random)
        }

        /// The next thing it does, at its time.
        fn next(&mut self) -> Action {
            self.now = self.now.max(self.client.deadline());
            self.poll().expect("something is due")
        }

        fn reply(&self, kind: Kind, lease_secs: u64) -> Reply {
            Reply {
                kind,
                xid: self.client.xid,
                mac: MAC,
                address: ADDRESS,
                server: Some(SERVER),
                prefix_len: Some(24),
                routers: SmallVec::new(),
                name_servers: SmallVec::new(),
                domain: None,
                mtu: None,
                lease: Some(Duration::from_secs(lease_secs)),
                renew: None,
                rebind: None,
                routes: SmallVec::new(),
            }
        }

        fn answer(&mut self, kind: Kind) -> Option<Action> {
            self.client.on_reply(self.now, self.reply(kind, 3600))
        }

        fn bind(&mut self) {
            assert!(matches!(self.next(), Action::Broadcast(Request { kind: Kind::Discover, .. })));
            assert_eq!(self.answer(Kind::Offer), None);
            let request = self.next();
            let Action::Broadcast(request) = request else { panic!("{request:?}") };
            assert_eq!(
                (request.kind, request.requested, request.server),
                (Kind::Request, Some(ADDRESS), Some(SERVER))
            );
            assert!(request.broadcast && request.client.is_unspecified());
            assert_eq!(self.answer(Kind::Ack), None);
            assert_eq!(self.next(), Action::Probe(ADDRESS));
            assert_eq!(self.next(), Action::Probe(ADDRESS));
            assert_eq!(self.next(), Action::Bound);
            assert_eq!(self.poll(), None);
        }
    }

    #[test]
    fn an_address_is_leased_tried_out_and_bound() {
        let mut bench = bench();
        assert!(!bench.client.is_bound());
        bench.bind();
        assert!(bench.client.is_bound());
        assert_eq!(bench.now, Instant::from_millis(500), "two probes");
        assert_eq!(bench.client.deadline(), Instant::from_millis(1_800_000), "T1 is half of the lease");
    }

    #[test]
    fn a_silent_link_is_asked_with_backoff_for_ever() {
        let mut bench = bench();
        let mut times = Vec::new();
        for _ in 0..8 {
            bench.next();
            times.push(bench.now);
        }
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1].since(pair[0]).as_millis() as u64).collect();
        for (gap, expected) in gaps.into_iter().zip([4000, 8000, 16_000, 32_000, 64_000, 64_000, 64_000]) {
            assert!((expected - 1000..=expected + 1000).contains(&gap), "{gap} ms for {expected}");
        }
        // Half a day of silence: the interval neither overflows nor becomes none.
        for attempt in 8..700 {
            let before = bench.now;
            bench.next();
            let gap = bench.now.since(before).as_millis() as u64;
            assert!((63_000..=65_000).contains(&gap), "{gap} ms before attempt {attempt}");
        }
    }

    #[test]
    fn a_server_that_forgets_its_offer_is_given_up() {
        let mut bench = bench();
        bench.next();
        bench.answer(Kind::Offer);
        for _ in 0..MAX_REQUESTS {
            assert!(matches!(bench.next(), Action::Broadcast(Request { kind: Kind::Request, .. })));
        }
        assert!(matches!(bench.next(), Action::Broadcast(Request { kind: Kind::Discover, .. })));
    }

    #[test]
    fn a_lease_is_renewed_with_its_server_then_with_anybody_and_then_lost() {
        let mut bench = bench();
        bench.bind();
        let start = Instant::ZERO;
        let renewal = bench.next();
        assert_eq!(bench.now.since(start).as_secs(), 1800);
        let Action::Unicast(request, SERVER) = renewal else { panic!("{renewal:?}") };
        assert_eq!((request.client, request.requested, request.server), (ADDRESS, None, None));
        assert!(!request.broadcast);
        assert_eq!(bench.answer(Kind::Ack), Some(Action::Extended));
        assert_eq!(bench.client.deadline(), bench.now + Duration::from_secs(1800));
        // Nobody answers any more.
        let bound = bench.now;
        let mut kinds = (0, 0);
        loop {
            match bench.next() {
                Action::Unicast(..) => kinds.0 += 1,
                Action::Broadcast(request) => {
                    assert_eq!(request.client, ADDRESS);
                    assert!(bench.now.since(bound) >= Duration::from_secs(3150), "T2");
                    kinds.1 += 1;
                }
                Action::Lost => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bench.now.since(bound).as_secs(), 3600);
        assert!((3..=12).contains(&kinds.0) && (2..=8).contains(&kinds.1), "{kinds:?}");
        assert!(matches!(bench.next(), Action::Broadcast(Request { kind: Kind::Discover, .. })));
    }

    #[test]
    fn a_refused_renewal_ends_the_lease_at_once() {
        let mut bench = bench();
        bench.bind();
        bench.next();
        assert_eq!(bench.answer(Kind::Nak), Some(Action::Lost));
        assert!(!bench.client.is_bound());
    }

    #[test]
    fn an_address_that_somebody_has_is_declined_and_another_looked_for_later() {
        let mut bench = bench();
        bench.next();
        bench.answer(Kind::Offer);
        bench.next();
        bench.answer(Kind::Ack);
        assert_eq!(bench.client.probed(), Some(ADDRESS));
        bench.next();
        let declined = bench.client.decline(bench.now, &mut bench.random);
        let Some(Action::Broadcast(request)) = declined else { panic!("{declined:?}") };
        assert_eq!(
            (request.kind, request.requested, request.server),
            (Kind::Decline, Some(ADDRESS), Some(SERVER))
        );
        let before = bench.now;
        assert!(matches!(bench.next(), Action::Broadcast(Request { kind: Kind::Discover, .. })));
        assert_eq!(bench.now.since(before), REFUSED_WAIT);
    }

    #[test]
    fn answers_to_others_or_out_of_turn_change_nothing() {
        let mut bench = bench();
        bench.next();
        let deadline = bench.client.deadline();
        let good = bench.reply(Kind::Offer, 3600);
        for wrong in [
            Reply { xid: good.xid ^ 1, ..good.clone() },
            Reply { mac: Mac([2; 6]), ..good.clone() },
            Reply { server: None, ..good.clone() },
            Reply { address: Ipv4Addr::new(127, 0, 0, 1), ..good.clone() },
            Reply { address: Ipv4Addr::BROADCAST, ..good.clone() },
            Reply { kind: Kind::Ack, ..good.clone() },
            Reply { kind: Kind::Nak, ..good.clone() },
        ] {
            assert_eq!(bench.client.on_reply(bench.now, wrong), None);
            assert_eq!((bench.client.state, bench.client.deadline()), (State::Selecting, deadline));
        }
        bench.client.on_reply(bench.now, good.clone());
        let other = Reply { kind: Kind::Ack, address: Ipv4Addr::new(10, 0, 0, 51), ..good };
        bench.client.on_reply(bench.now, other);
        assert_eq!(bench.client.state, State::Requesting, "not what was offered");
    }

    #[test]
    fn times_of_a_lease_are_put_in_order() {
        for (lease, renew, rebind, expected) in [
            (3600, Some(5000), Some(6000), (1800, 3150, 3600)),
            (3600, Some(3000), Some(2000), (1800, 2000, 3600)),
            (1, None, None, (5, 8, 10)),
        ] {
            let mut bench = bench();
            let secs = |secs: Option<u64>| secs.map(Duration::from_secs);
            let reply = Reply { renew: secs(renew), rebind: secs(rebind), ..bench.reply(Kind::Ack, lease) };
            bench.client.lease(Instant::ZERO, reply);
            let client = &bench.client;
            let got = [client.renew_at, client.rebind_at, client.expires_at].map(|at| at.as_millis() / 1000);
            assert_eq!(got, [expected.0, expected.1, expected.2]);
        }
    }
}
