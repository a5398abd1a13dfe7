//! Fast Open (RFC 7413): cookies that we give to clients, and those that servers have given us.
//!
//! A cookie of ours is a keyed hash of both addresses, as Linux's, so that hosts behind one name can share the key; nothing is kept.
//! Those that we were given lie in a table of bounded size, the oldest of which makes room. When connections that used one do
//! worse than they should, the network may be to blame, and the client pauses. Who uses a cookie when is the
//! [handshake](super::handshake)'s and the connection's business.

use core::hash::Hasher;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use demi_drivers::Instant;
use siphasher::sip::SipHasher24;

use super::output::Flow;
use crate::wire::tcp::FastOpen;

/// How long a connection that was reset before its handshake was done counts as one whose handshake is not done (RFC 7413
/// §5.1): who can have a reset sent back could else make us answer without end.
pub(crate) const RESET_NS: u64 = 60 * 1_000_000_000;

/// Data that was sent with a SYN leaves this much room for options, whatever they are: middleboxes add theirs (as Linux).
pub(crate) const OPTION_ROOM: u16 = 40;

/// How a client that uses an experiment's option number goes on (Linux's `try_exp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Try {
    /// With the option of RFC 7413.
    #[default]
    Standard,
    /// With the older one: the standard one got no answer.
    Experimental,
    /// With the standard one for good: neither got any.
    StandardAgain,
}

/// What is remembered of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Server {
    cookie: Option<FastOpen>,
    /// The MSS of its last SYN-ACK; 0: not known.
    mss: u16,
    next: Try,
}

/// A cookie for a server, or the request for one, and the MSS it has named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) option: FastOpen,
    pub(crate) mss: Option<u16>,
}

/// What the layer knows of Fast Open.
pub(crate) struct FastOpens {
    /// Keys of our own cookies: the one in force, and the one before.
    keys: [Option<[u8; 16]>; 2],
    servers: BTreeMap<(IpAddr, IpAddr), Server>,
    /// The servers, in the order in which they were learnt.
    order: VecDeque<(IpAddr, IpAddr)>,
    limit: usize,
    pause: Duration,
    pauses: u32,
    paused_until: Instant,
}

impl FastOpens {
    /// `key` and `backup` make our cookies. Cookies of at most `limit` servers are kept; the client pauses for `pause` when the
    /// network swallows what it sends, and longer each time (zero: never).
    pub(crate) fn new(key: [u8; 16], backup: Option<[u8; 16]>, limit: usize, pause: Duration) -> Self {
        FastOpens {
            keys: [Some(key), backup],
            servers: BTreeMap::new(),
            order: VecDeque::new(),
            limit,
            pause,
            pauses: 0,
            paused_until: Instant::ZERO,
        }
    }

    // ---- server ----

    /// The cookie for a client.
    pub(crate) fn cookie_for(&self, flow: &Flow) -> Option<FastOpen> {
        self.keys[0].and_then(|key| hashed(&key, flow))
    }

    /// Whether `option` carries the cookie of this client, and whether one made with the key in force.
    pub(crate) fn check(&self, flow: &Flow, option: &FastOpen) -> Option<bool> {
        let is = |key: &Option<[u8; 16]>| {
            key.and_then(|key| hashed(&key, flow)).is_some_and(|ours| ours.cookie() == option.cookie())
        };
        self.keys.iter().position(is).map(|place| place == 0)
    }

    // ---- client ----

    /// Whether the client pauses.
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        now < self.paused_until
    }

    /// What to put into a SYN to a server.
    pub(crate) fn ticket(&self, flow: &Flow) -> Ticket {
        let server = self.servers.get(&(flow.local, flow.remote)).copied().unwrap_or_default();
        let mut option = server.cookie.unwrap_or(FastOpen::REQUEST);
        if server.cookie.is_none() {
            option.experimental = server.next == Try::Experimental;
        }
        Ticket { option, mss: Some(server.mss).filter(|&mss| mss > 0) }
    }

    /// A server has answered: with what cookie, if any, and which MSS. `unanswered`: the option that asked for one in vain.
    pub(crate) fn learn(
        &mut self,
        flow: &Flow,
        cookie: Option<FastOpen>,
        mss: u16,
        unanswered: Option<FastOpen>,
    ) {
        let key = (flow.local, flow.remote);
        let cookie = cookie.filter(|cookie| !cookie.cookie().is_empty());
        if self.limit == 0 || (cookie.is_none() && unanswered.is_none() && !self.servers.contains_key(&key)) {
            return;
        }
        if !self.servers.contains_key(&key) {
            if self.servers.len() >= self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.servers.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let server = self.servers.entry(key).or_default();
        server.mss = mss;
        if cookie.is_some() {
            server.cookie = cookie;
            server.next = Try::Standard;
        } else if let Some(asked) = unanswered {
            server.next = match (asked.experimental, server.next) {
                (true, _) => Try::StandardAgain,
                (false, Try::Standard) => Try::Experimental,
                (false, other) => other,
            };
        }
    }

    /// A connection that used Fast Open has done as one does whose network swallows such SYNs, or what follows them.
    pub(crate) fn pause(&mut self, now: Instant) {
        if self.pause.is_zero() {
            return;
        }
        // As Linux: twice as long each time, up to 64 times.
        self.paused_until = now + self.pause * (1 << self.pauses.min(6));
        self.pauses = self.pauses.saturating_add(1);
    }

    /// A connection that used Fast Open went well.
    pub(crate) fn went_well(&mut self) {
        self.pauses = 0;
    }
}

/// The cookie of a client under a key: SipHash-2-4 of its address and ours, as they are in the SYN.
fn hashed(key: &[u8; 16], flow: &Flow) -> Option<FastOpen> {
    let mut hasher = SipHasher24::new_with_key(key);
    let mut bytes = [0; 32];
    let len = match (flow.remote, flow.local) {
        (IpAddr::V4(client), IpAddr::V4(ours)) => {
            bytes[..4].copy_from_slice(&client.octets());
            bytes[4..8].copy_from_slice(&ours.octets());
            8
        }
        (IpAddr::V6(client), IpAddr::V6(ours)) => {
            bytes[..16].copy_from_slice(&client.octets());
            bytes[16..].copy_from_slice(&ours.octets());
            32
        }
        _ => return None,
    };
    hasher.write(bytes.get(..len)?);
    FastOpen::new(&hasher.finish().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: u8) -> Flow {
        Flow {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, remote].into(),
            local_port: 80,
            remote_port: 5000,
        }
    }

    fn of(limit: usize, pause_s: u64) -> FastOpens {
        FastOpens::new([1; 16], Some([2; 16]), limit, Duration::from_secs(pause_s))
    }

    #[test]
    fn a_cookie_is_a_clients_own_under_either_key() {
        let (new, old) = (of(4, 0), FastOpens::new([2; 16], None, 4, Duration::ZERO));
        let cookie = new.cookie_for(&flow(2)).unwrap();
        assert_eq!(new.check(&flow(2), &cookie), Some(true));
        assert_eq!(new.check(&flow(3), &cookie), None);
        assert_eq!(new.check(&flow(2), &old.cookie_for(&flow(2)).unwrap()), Some(false), "the key before");
        assert_eq!(old.check(&flow(2), &cookie), None);
        assert_eq!(new.cookie_for(&Flow { remote_port: 6, ..flow(2) }), Some(cookie), "whatever the port");
    }

    #[test]
    fn cookies_are_linuxs() {
        let key: Vec<u8> = [0xa1a1_a1a1u32, 0xb2b2_b2b2, 0xc3c3_c3c3, 0xd4d4_d4d4]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let flow = Flow { local: [192, 168, 0, 1].into(), remote: [192, 0, 2, 1].into(), ..flow(2) };
        for (key, cookie) in
            [(<[u8; 16]>::try_from(key).unwrap(), 0x3021_b9d8_8901_7eebu64), ([0; 16], 0xb7c1_2350_a90d_c8f5)]
        {
            assert_eq!(hashed(&key, &flow).unwrap().cookie(), cookie.to_be_bytes());
        }
    }

    #[test]
    fn the_oldest_server_makes_room() {
        let mut all = of(2, 0);
        let cookie = FastOpen::new(&[7; 8]);
        for remote in 2..5 {
            all.learn(&flow(remote), cookie, 1400, None);
        }
        assert_eq!(all.ticket(&flow(2)), Ticket { option: FastOpen::REQUEST, mss: None });
        assert_eq!(all.ticket(&flow(4)), Ticket { option: cookie.unwrap(), mss: Some(1400) });
        all.learn(&flow(4), None, 1300, None);
        assert_eq!(all.ticket(&flow(4)), Ticket { option: cookie.unwrap(), mss: Some(1300) });
        assert_eq!((all.servers.len(), all.order.len()), (2, 2));
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_the_old_way_once() {
        let mut all = of(2, 0);
        for experimental in [false, true, false, false] {
            let asked = all.ticket(&flow(2)).option;
            assert_eq!(asked.experimental, experimental);
            all.learn(&flow(2), None, 1460, Some(asked));
        }
    }

    #[test]
    fn pauses_double_until_something_goes_well() {
        let mut all = of(2, 10);
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        all.pause(at(0));
        assert!(all.is_paused(at(9)) && !all.is_paused(at(10)));
        all.pause(at(10));
        assert!(all.is_paused(at(29)) && !all.is_paused(at(30)));
        all.went_well();
        all.pause(at(30));
        assert!(!all.is_paused(at(40)));
        let mut never = of(2, 0);
        never.pause(at(0));
        assert!(!never.is_paused(at(0)));
    }
}
