//! Which UDP socket a datagram belongs to: O(1) at any number of sockets.
//!
//! A port leads to its *groups*, the sockets bound to one address (or to any); there are at most as many as the stack has
//! addresses. Connected sockets are found by both ends in a hash table, which is asked only on ports that have some. Owns
//! ports and bindings; knows nothing of queues or options.

use std::net::IpAddr;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use crate::addr::key_of;
use crate::hash::{Keyed, Random};
use crate::tcp::output::Flow;

/// What a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// `None`: any address.
    pub(crate) address: Option<IpAddr>,
    /// Receives IPv4 (an address of it, or any).
    pub(crate) v4: bool,
    /// Receives IPv6.
    pub(crate) v6: bool,
    pub(crate) port: u16,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
}

impl Binding {
    fn overlaps(&self, other: &Group) -> bool {
        let versions = self.v4 && other.v4 || self.v6 && other.v6;
        let addresses = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        versions && addresses
    }
}

/// Sockets of one port bound to the same address.
#[derive(Debug)]
struct Group {
    address: Option<IpAddr>,
    v4: bool,
    v6: bool,
    /// Sockets bound here, connected ones included, and how many of them share the address by which option.
    members: u32,
    sharing_address: u32,
    sharing_port: u32,
    /// Those that are not connected.
    receivers: SmallVec<[u32; 1]>,
}

impl Group {
    fn is_of(&self, binding: &Binding) -> bool {
        (self.address, self.v4, self.v6) == (binding.address, binding.v4, binding.v6)
    }
}

#[derive(Debug, Default)]
struct Port {
    groups: SmallVec<[Group; 1]>,
    connected: u32,
}

/// Both ends of a connected socket, addresses in one shape for both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    local: u128,
    remote: u128,
    ports: u32,
}

impl core::hash::Hash for Ends {
    #[inline]
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        state.write_u128(self.local);
        state.write_u128(self.remote);
        state.write_u32(self.ports);
    }
}

impl From<&Flow> for Ends {
    #[inline]
    fn from(flow: &Flow) -> Ends {
        Ends {
            local: key_of(flow.local),
            remote: key_of(flow.remote),
            ports: u32::from(flow.local_port) << 16 | u32::from(flow.remote_port),
        }
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    /// By port number: 1 + the index in `used`; 0: nobody. Untouched pages of it cost nothing.
    ports: Vec<u32>,
    used: Slab<Port>,
    connected: HashMap<Ends, u32, Keyed>,
    keyed: Keyed,
    random: Random,
}

impl Table {
    pub(crate) fn new(random: &mut Random) -> Table {
        let keyed = Keyed::new(random);
        Table {
            ports: vec![0; 1 << 16],
            used: Slab::new(),
            connected: HashMap::with_hasher(keyed),
            keyed,
            random: Random::new(random.next_key()),
        }
    }

    #[inline]
    fn port(&self, port: u16) -> Option<&Port> {
        let index = *self.ports.get(usize::from(port))?;
        self.used.get((index as usize).wrapping_sub(1))
    }

    fn port_mut(&mut self, port: u16) -> Option<&mut Port> {
        let index = *self.ports.get(usize::from(port))?;
        self.used.get_mut((index as usize).wrapping_sub(1))
    }

    /// Whether a socket so bound would take datagrams from one that does not share.
    pub(crate) fn is_free(&self, binding: &Binding) -> bool {
        let Some(port) = self.port(binding.port) else { return true };
        port.groups.iter().filter(|group| binding.overlaps(group)).all(|group| {
            binding.reuse_port && group.members == group.sharing_port
                || binding.reuse_address && group.members == group.sharing_address
        })
    }

    /// A port of the range `first..=last` that nobody uses and that is ours, chosen at random (RFC 6056 §3.3.1).
    pub(crate) fn free_port(
        &mut self,
        (first, last): (u16, u16),
        is_ours: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let (first, last) = (first.max(1), last.max(1));
        let count = u32::from(last.checked_sub(first)?) + 1;
        let start = self.random.below(count);
        (0..count)
            .map(|step| first + ((start + step) % count) as u16)
            .find(|port| self.ports.get(usize::from(*port)) == Some(&0) && is_ours(*port))
    }

    /// Enters `socket`, not connected, under `binding`.
    pub(crate) fn bind(&mut self, socket: u32, binding: &Binding) {
        let Some(slot) = self.ports.get_mut(usize::from(binding.port)) else { return };
        if *slot == 0 {
            *slot = self.used.insert(Port::default()) as u32 + 1;
        }
        let Some(port) = self.used.get_mut(*slot as usize - 1) else { return };
        let at = match port.groups.iter().position(|group| group.is_of(binding)) {
            Some(at) => at,
            None => {
                port.groups.push(Group {
                    address: binding.address,
                    v4: binding.v4,
                    v6: binding.v6,
                    members: 0,
                    sharing_address: 0,
                    sharing_port: 0,
                    receivers: SmallVec::new(),
                });
                port.groups.len() - 1
            }
        };
        let group = &mut port.groups[at];
        group.members += 1;
        group.sharing_address += u32::from(binding.reuse_address);
        group.sharing_port += u32::from(binding.reuse_port);
        group.receivers.push(socket);
    }

    /// Removes `socket`, which must not be connected, from under `binding`.
    pub(crate) fn unbind(&mut self, socket: u32, binding: &Binding) {
        self.remove_receiver(socket, binding);
        let Some(port) = self.port_mut(binding.port) else { return };
        if let Some(at) = port.groups.iter().position(|group| group.is_of(binding)) {
            let group = &mut port.groups[at];
            group.members -= 1;
            group.sharing_address -= u32::from(binding.reuse_address);
            group.sharing_port -= u32::from(binding.reuse_port);
            if group.members == 0 {
                port.groups.remove(at);
            }
        }
        if port.groups.is_empty()
            && let Some(slot) = self.ports.get_mut(usize::from(binding.port))
        {
            self.used.remove(*slot as usize - 1);
            *slot = 0;
        }
    }

    fn remove_receiver(&mut self, socket: u32, binding: &Binding) {
        let group = self
            .port_mut(binding.port)
            .and_then(|port| port.groups.iter_mut().find(|group| group.is_of(binding)));
        if let Some(group) = group
            && let Some(at) = group.receivers.iter().position(|receiver| *receiver == socket)
        {
            group.receivers.swap_remove(at);
        }
    }

    /// Moves a bound socket to where only datagrams of `flow` find it; `false` when another socket has that flow.
    pub(crate) fn connect(&mut self, socket: u32, binding: &Binding, flow: &Flow) -> bool {
        if self.connected.contains_key(&Ends::from(flow)) {
            return false;
        }
        self.remove_receiver(socket, binding);
        self.connected.insert(Ends::from(flow), socket);
        if let Some(port) = self.port_mut(binding.port) {
            port.connected += 1;
        }
        true
    }

    /// Undoes [`connect`](Self::connect).
    pub(crate) fn disconnect(&mut self, socket: u32, binding: &Binding, flow: &Flow) {
        if self.connected.remove(&Ends::from(flow)).is_none() {
            return;
        }
        if let Some(port) = self.port_mut(binding.port) {
            port.connected -= 1;
            if let Some(group) = port.groups.iter_mut().find(|group| group.is_of(binding)) {
                group.receivers.push(socket);
            }
        }
    }

    /// The socket that a datagram of `flow` (as seen from here) is for: a connected one, else one bound to the address, else one
    /// bound to any.
    #[inline]
    pub(crate) fn lookup(&self, flow: &Flow) -> Option<u32> {
        let port = self.port(flow.local_port)?;
        if port.connected > 0
            && let Some(socket) = self.connected.get(&Ends::from(flow))
        {
            return Some(*socket);
        }
        let v6 = flow.local.is_ipv6();
        let mut best = None;
        for group in &port.groups {
            if group.receivers.is_empty() {
                continue;
            }
            match group.address {
                Some(address) if address == flow.local => {
                    best = Some(group);
                    break;
                }
                // Of two that listen to any address, the one that asked for this version alone is the closer match.
                None if (if v6 { group.v6 } else { group.v4 })
                    && best.is_none_or(|found: &Group| found.v4 && found.v6) =>
                {
                    best = Some(group);
                }
                _ => {}
            }
        }
        let group = best?;
        match group.receivers.as_slice() {
            [only] => Some(*only),
            receivers if group.sharing_port == group.members => {
                // Sockets that share a port share its flows, each flow staying with one.
                let hash = core::hash::BuildHasher::hash_one(&self.keyed, Ends::from(flow));
                let at = (((hash >> 32) * receivers.len() as u64) >> 32) as usize;
                receivers.get(at).copied()
            }
            receivers => receivers.last().copied(),
        }
    }

    /// The connected socket of exactly this flow.
    pub(crate) fn lookup_connected(&self, flow: &Flow) -> Option<u32> {
        self.connected.get(&Ends::from(flow)).copied()
    }

    /// Every socket that a datagram to a group or broadcast address on `port` is for.
    pub(crate) fn lookup_group(&self, address: IpAddr, port: u16, into: &mut Vec<u32>) {
        let Some(port) = self.port(port) else { return };
        let v6 = address.is_ipv6();
        for group in &port.groups {
            let any = group.address.is_none() && if v6 { group.v6 } else { group.v4 };
            if any || group.address == Some(address) {
                into.extend_from_slice(&group.receivers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(&mut Random::new([5; 16]))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn bound(address: Option<&str>, port: u16) -> Binding {
        let address = address.map(ip);
        Binding {
            address,
            v4: address.is_none_or(|address| address.is_ipv4()),
            v6: address.is_none_or(|address| address.is_ipv6()),
            port,
            reuse_address: false,
            reuse_port: false,
        }
    }

    fn flow(local: &str, remote: &str, ports: (u16, u16)) -> Flow {
        Flow { local: ip(local), remote: ip(remote), local_port: ports.0, remote_port: ports.1 }
    }

    #[test]
    fn the_closest_socket_gets_the_datagram() {
        let mut table = table();
        table.bind(0, &bound(None, 7));
        table.bind(1, &bound(Some("10.0.0.2"), 7));
        table.bind(2, &bound(Some("10.0.0.2"), 9));
        let connected = flow("10.0.0.2", "10.0.0.9", (7, 1000));
        let binding = bound(Some("10.0.0.2"), 7);
        table.bind(3, &binding);
        assert!(table.connect(3, &binding, &connected));
        assert_eq!(table.lookup(&connected), Some(3));
        assert_eq!(table.lookup(&flow("10.0.0.2", "10.0.0.9", (7, 1001))), Some(1));
        assert_eq!(table.lookup(&flow("10.0.0.3", "10.0.0.9", (7, 1001))), Some(0));
        assert_eq!(table.lookup(&flow("fd00::2", "fd00::9", (7, 1001))), Some(0));
        assert_eq!(table.lookup(&flow("10.0.0.3", "10.0.0.9", (9, 1))), None);
        assert_eq!(table.lookup(&flow("10.0.0.2", "10.0.0.9", (8, 1))), None);
        table.disconnect(3, &binding, &connected);
        table.unbind(3, &binding);
        assert_eq!(table.lookup(&connected), Some(1));
    }

    #[test]
    fn sockets_conflict_unless_all_share() {
        let mut table = table();
        table.bind(0, &bound(Some("10.0.0.2"), 7));
        assert!(!table.is_free(&bound(Some("10.0.0.2"), 7)));
        assert!(!table.is_free(&bound(None, 7)), "any address includes that one");
        assert!(table.is_free(&bound(Some("10.0.0.3"), 7)));
        assert!(table.is_free(&Binding { v4: false, ..bound(None, 7) }), "IPv6 only");
        let sharing = Binding { reuse_port: true, ..bound(None, 8) };
        table.bind(1, &sharing);
        assert!(table.is_free(&sharing));
        assert!(!table.is_free(&bound(None, 8)));
        assert!(!table.is_free(&Binding { reuse_port: false, reuse_address: true, ..sharing }));
    }

    #[test]
    fn sockets_that_share_a_port_share_its_flows() {
        let mut table = table();
        let binding = Binding { reuse_port: true, ..bound(None, 8) };
        for socket in 0..4 {
            table.bind(socket, &binding);
        }
        let mut counts = [0; 4];
        for port in 1..=1000 {
            let flow = flow("10.0.0.2", "10.0.0.9", (8, port));
            let socket = table.lookup(&flow).unwrap();
            assert_eq!(table.lookup(&flow), Some(socket), "a flow stays where it is");
            counts[socket as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
        let mut all = Vec::new();
        table.lookup_group(ip("10.0.0.255"), 8, &mut all);
        assert_eq!(all, [0, 1, 2, 3]);
    }

    #[test]
    fn a_port_is_free_again_once_its_last_socket_is_gone() {
        let mut table = table();
        let binding = bound(None, 40_000);
        table.bind(5, &binding);
        assert_eq!(table.free_port((40_000, 40_000), |_| true), None);
        table.unbind(5, &binding);
        assert_eq!(table.free_port((40_000, 40_000), |_| true), Some(40_000));
        assert!(table.used.is_empty());
    }

    #[test]
    fn free_ports_are_within_the_range_and_not_in_a_row() {
        let mut table = table();
        let mut drawn: Vec<u16> = (0..100)
            .map(|socket| {
                let port = table.free_port((50_000, 50_099), |_| true).unwrap();
                table.bind(socket, &bound(None, port));
                port
            })
            .collect();
        assert_eq!(table.free_port((50_000, 50_099), |_| true), None);
        assert!(!drawn.is_sorted());
        drawn.sort_unstable();
        assert_eq!(drawn, (50_000..50_100).collect::<Vec<_>>());
    }
}
