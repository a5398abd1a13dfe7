//! Flows of datagrams that were seen lately, and the socket each is for.
//!
//! A small direct-mapped table: what it holds was checked once, with both addresses, and holds as long as no socket and no address
//! of ours comes or goes. It saves the checks and the look-up, never decides anything: what it does not hold goes the general way.
//! Two flows that want one place take it from each other.

use std::net::SocketAddr;

use crate::tcp::FlowV4;

/// Places: a page of them.
const PLACES: usize = 128;
/// Bits of the hash that choose a place.
const PLACE_BITS: u32 = PLACES.ilog2();

/// Both ends of a flow of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowV6 {
    pub(crate) remote: u128,
    pub(crate) local: u128,
    /// The peer's port in the upper half, ours in the lower.
    pub(crate) ports: u32,
}

/// What can be a key of the table.
pub(crate) trait Key: Copy + Eq {
    /// Some 64 bits of it; they need not hide anything, since a collision costs no more than the general way.
    fn bits(&self) -> u64;
}

impl Key for FlowV4 {
    #[inline(always)]
    fn bits(&self) -> u64 {
        FlowV4::bits(self)
    }
}

impl Key for FlowV6 {
    #[inline(always)]
    fn bits(&self) -> u64 {
        (self.remote as u64) ^ (self.remote >> 64) as u64 ^ u64::from(self.ports).rotate_left(29)
    }
}

/// The state of sockets and addresses in which something was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) sockets: u32,
    pub(crate) addresses: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place<K> {
    flow: K,
    epoch: Epoch,
    found: Found,
}

/// What was found out about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The socket that its datagrams are for.
    pub(crate) socket: u32,
    /// The sender as that socket's user sees it. Whole, as it is queued: an address put together from what a header says, and copied
    /// at once, waits for its parts to reach the cache.
    pub(crate) from: SocketAddr,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Known<K> {
    /// Empty until the first flow is learnt.
    places: Vec<Option<Place<K>>>,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Known { places: Vec::new() }
    }
}

impl<K: Key> Known<K> {
    #[inline(always)]
    fn at(flow: &K) -> usize {
        // Fibonacci hashing: neighbouring ports and addresses spread over the places.
        (flow.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACE_BITS)) as usize
    }

    /// The place of what is known of `flow`.
    #[inline(always)]
    pub(crate) fn find(&self, flow: &K, epoch: Epoch) -> Option<usize> {
        let at = Self::at(flow);
        let place = self.places.get(at)?.as_ref()?;
        (place.flow == *flow && place.epoch == epoch).then_some(at)
    }

    /// What lies in a place that was found.
    #[inline(always)]
    pub(crate) fn at_place(&self, at: usize) -> Option<&Found> {
        Some(&self.places.get(at)?.as_ref()?.found)
    }

    /// Datagrams of `flow` are as `found` says, and nothing is wrong with its addresses.
    pub(crate) fn learn(&mut self, flow: K, found: Found, epoch: Epoch) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        if let Some(place) = self.places.get_mut(Self::at(&flow)) {
            *place = Some(Place { flow, epoch, found });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> FlowV4 {
        FlowV4::new(0x0a00_0001_0a00_0002, u32::from(port) << 16 | 53)
    }

    impl<K: Key> Known<K> {
        fn known(&self, flow: &K, epoch: Epoch) -> Option<Found> {
            self.find(flow, epoch).and_then(|at| self.at_place(at).copied())
        }
    }

    fn found(socket: u32) -> Found {
        Found { socket, from: SocketAddr::from(([10, 0, 0, 1], 7)) }
    }

    #[test]
    fn what_was_learnt_holds_until_something_changes() {
        let (mut known, epoch) = (Known::default(), Epoch { sockets: 1, addresses: 1 });
        assert_eq!(known.known(&flow(1), epoch), None);
        known.learn(flow(1), found(7), epoch);
        assert_eq!(known.known(&flow(1), epoch), Some(found(7)));
        assert_eq!(known.known(&flow(2), epoch), None);
        assert_eq!(known.known(&flow(1), Epoch { sockets: 2, ..epoch }), None);
        assert_eq!(known.known(&flow(1), Epoch { addresses: 2, ..epoch }), None);
        known.learn(flow(1), found(8), Epoch { sockets: 2, ..epoch });
        assert_eq!(known.known(&flow(1), Epoch { sockets: 2, ..epoch }), Some(found(8)));
    }

    #[test]
    fn flows_that_differ_little_have_places_of_their_own() {
        let (mut known, epoch) = (Known::default(), Epoch { sockets: 0, addresses: 0 });
        for port in 0..32 {
            known.learn(flow(40_000 + port), found(u32::from(port)), epoch);
        }
        let kept = (0..32).filter(|port| known.known(&flow(40_000 + port), epoch).is_some()).count();
        assert!(kept >= 24, "{kept} of 32");
        let mut known = Known::default();
        let v6 = |host: u128| FlowV6 { remote: 0xfd00 << 112 | host, local: 0xfd00 << 112 | 1, ports: 53 };
        for host in 2..34 {
            known.learn(v6(host), found(host as u32), epoch);
        }
        let kept = (2..34).filter(|host| known.known(&v6(*host), epoch) == Some(found(*host as u32))).count();
        assert!(kept >= 24, "{kept} of 32");
    }
}
