//! What paths carry: the packet sizes that routers have told of (RFC 1191, RFC 8201), by destination.
//!
//! Owns a table of bounded size, the oldest entry of which makes room; each holds for ten minutes and is forgotten then, which is how
//! a path that carries more again is found out. Whether a message is to be believed, whoever it quotes decides before.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use demi_drivers::Instant;

/// How long a size holds (Linux's `mtu_expires`; RFC 1191 §6.3 asks for ten minutes).
pub(crate) const EXPIRY: Duration = Duration::from_secs(600);

/// The smallest packet that a path is taken to carry, whatever routers say: Linux's `min_pmtu`, and RFC 8200 §5.
pub(crate) const MIN_V4: u16 = 552;
pub(crate) const MIN_V6: u16 = 1280;

/// Destinations remembered.
const LIMIT: usize = 4096;

/// `mtu`, or the smallest that is believed.
pub(crate) fn believed(v6: bool, mtu: u16) -> u16 {
    mtu.max(if v6 { MIN_V6 } else { MIN_V4 })
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct PathMtus {
    sizes: BTreeMap<IpAddr, (u16, Instant)>,
    /// The destinations, in the order in which they were learnt.
    order: VecDeque<IpAddr>,
}

impl PathMtus {
    /// The path to `remote` carries packets of at most `mtu` bytes.
    pub(crate) fn learn(&mut self, remote: IpAddr, mtu: u16, now: Instant) {
        let mtu = believed(remote.is_ipv6(), mtu);
        if !self.sizes.contains_key(&remote) {
            if self.sizes.len() >= LIMIT
                && let Some(oldest) = self.order.pop_front()
            {
                self.sizes.remove(&oldest);
            }
            self.order.push_back(remote);
        }
        self.sizes.insert(remote, (mtu, now + EXPIRY));
    }

    /// Largest packet that the path to `remote` is known to carry, if it is less than `link`, the link's.
    pub(crate) fn towards(&self, remote: IpAddr, link: u16, now: Instant) -> u16 {
        match self.sizes.get(&remote) {
            Some(&(mtu, until)) if until > now => mtu.min(link),
            _ => link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_hold_for_ten_minutes_and_never_below_the_floor() {
        let mut all = PathMtus::default();
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fd00::1".parse().unwrap());
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        all.learn(v4, 1400, at(0));
        all.learn(v6, 68, at(0));
        assert_eq!((all.towards(v4, 1500, at(599)), all.towards(v6, 1500, at(1))), (1400, 1280));
        assert_eq!(all.towards(v4, 1500, at(600)), 1500);
        all.learn(v4, 0, at(700));
        assert_eq!((all.towards(v4, 1500, at(701)), all.towards(v4, 500, at(701))), (552, 500));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut all = PathMtus::default();
        let to = |at: usize| IpAddr::from((at as u32).to_be_bytes());
        for at in 0..LIMIT + 1 {
            all.learn(to(at), 1000, Instant::ZERO);
        }
        assert_eq!((all.sizes.len(), all.order.len()), (LIMIT, LIMIT));
        assert_eq!(all.towards(to(0), 1500, Instant::ZERO), 1500);
        assert_eq!(all.towards(to(LIMIT), 1500, Instant::ZERO), 1000);
    }
}
