//! Our addresses and the way to others: longest prefix, default gateways, both IP versions, several addresses.
//!
//! Owns the tables, which are as long as the configuration and what [`autoconf`](crate::autoconf) adds to it, within bounds of its
//! own. Says where a packet goes next and from which address (RFC 6724); who lives at a link address is
//! [`neighbor`](crate::neighbor)'s.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::{Cidr, bits_of, link_local};
use crate::config::StackConfig;
use crate::wire::ethernet::Mac;
use crate::wire::ndisc::solicited_node;

/// All hosts on the link (RFC 1112 §4).
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// All nodes on the link (RFC 4291 §2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whose packets go where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// One of our own addresses.
    Loopback,
    /// A group or broadcast address, and the Ethernet address that carries it.
    Group(Mac),
    /// The neighbour that takes it: the destination itself or a router.
    Neighbor(IpAddr),
}

/// What a destination address is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// One of our addresses.
    Ours,
    /// A broadcast address of our networks, or a group we are in.
    Group,
    /// Somebody else's.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    network: Cidr,
    /// `None`: on the link.
    gateway: Option<IpAddr>,
    /// Our IPv4 address to use, on the network of the next hop. In IPv6 it is chosen among all (RFC 6724).
    source: IpAddr,
}

/// Our addresses and routes.
#[derive(Debug)]
pub(crate) struct Routes {
    /// How often an address of ours has come or gone.
    pub(crate) changes: u32,
    /// How often a group has been joined or left, those of our addresses included.
    pub(crate) group_changes: u32,
    own_v4: Vec<Ipv4Addr>,
    own_v6: Vec<Ipv6Addr>,
    broadcasts: Vec<Ipv4Addr>,
    /// Groups we are in, besides all nodes: those of our addresses, with how many of them.
    groups_v6: Vec<(Ipv6Addr, u32)>,
    /// Groups that were joined, in order.
    joined: Vec<IpAddr>,
    /// Those of our addresses that new flows are not to use (RFC 4862 §5.5.4).
    deprecated: Vec<Ipv6Addr>,
    /// Longest prefix first; among equals in order of configuration.
    v4: Vec<Route>,
    v6: Vec<Route>,
}

impl Routes {
    /// The tables that `config` describes, for a station with this Ethernet address.
    ///
    /// # Errors
    /// `InvalidInput` for an address nobody can have, and for a gateway that is on none of our networks.
    pub(crate) fn new(config: &StackConfig, mac: Mac) -> io::Result<Routes> {
        let mut routes = Routes {
            changes: 0,
            group_changes: 0,
            own_v4: Vec::new(),
            own_v6: Vec::new(),
            broadcasts: Vec::new(),
            groups_v6: Vec::new(),
            joined: Vec::new(),
            deprecated: Vec::new(),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        for cidr in &config.addresses {
            routes.add_address(*cidr)?;
        }
        if config.link_local
            && let Some(cidr) = Cidr::new(IpAddr::V6(link_local(mac)), 64)
            && !routes.is_own(cidr.address())
        {
            routes.add_address(cidr)?;
        }
        for route in &config.routes {
            routes.add_gateway(route.destination, route.gateway)?;
        }
        for gateway in &config.gateways {
            let everything = Cidr::new(crate::addr::unspecified_like(*gateway), 0);
            if let Some(everything) = everything {
                routes.add_gateway(everything, *gateway)?;
            }
        }
        Ok(routes)
    }

    /// Adds an address of ours, and the network around it.
    ///
    /// # Errors
    /// `InvalidInput` for an address nobody can have.
    pub(crate) fn add_address(&mut self, cidr: Cidr) -> io::Result<()> {
        let address = cidr.address();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(invalid(format!(
                "address {cidr}: not one a station can have; give one such as 10.0.0.2/24"
            )));
        }
        self.changes = self.changes.wrapping_add(1);
        match address {
            IpAddr::V4(v4) if v4.is_broadcast() || cidr.broadcast() == Some(v4) => {
                return Err(invalid(format!(
                    "address {cidr}: the broadcast address of its network; give a host's"
                )));
            }
            IpAddr::V4(v4) => {
                self.own_v4.push(v4);
                self.broadcasts.extend(cidr.broadcast());
            }
            IpAddr::V6(v6) => {
                self.own_v6.push(v6);
                self.listen(v6);
            }
        }
        self.insert(Route { network: cidr, gateway: None, source: address });
        Ok(())
    }

    /// Removes an IPv4 address of ours with its network and what is reached from it.
    pub(crate) fn remove_v4(&mut self, cidr: Cidr) {
        let address = cidr.address();
        let IpAddr::V4(v4) = address else { return };
        self.changes = self.changes.wrapping_add(1);
        self.own_v4.retain(|own| *own != v4);
        self.v4.retain(|route| route.source != address);
        let networks = self.v4.iter().filter(|route| route.gateway.is_none());
        self.broadcasts = networks.filter_map(|route| route.network.broadcast()).collect();
    }

    /// Has `address`, without a network around it: whether its neighbours are on the link is told apart (RFC 5942).
    pub(crate) fn assign_v6(&mut self, address: Ipv6Addr) {
        self.changes = self.changes.wrapping_add(1);
        if !self.own_v6.contains(&address) {
            self.own_v6.push(address);
        }
    }

    /// Takes an address of ours out of use; its network, and its group, stay.
    pub(crate) fn withhold_v6(&mut self, address: Ipv6Addr) {
        self.changes = self.changes.wrapping_add(1);
        self.own_v6.retain(|own| *own != address);
        self.deprecated.retain(|own| *own != address);
    }

    /// Lets new flows use one of our addresses, or not.
    pub(crate) fn set_deprecated(&mut self, address: Ipv6Addr, deprecated: bool) {
        self.deprecated.retain(|own| *own != address);
        if deprecated {
            self.deprecated.push(address);
        }
    }

    /// Takes packets to the solicited-node group of `address`, ours or about to become so.
    pub(crate) fn listen(&mut self, address: Ipv6Addr) {
        self.group_changes = self.group_changes.wrapping_add(1);
        let group = solicited_node(address);
        match self.groups_v6.iter_mut().find(|(other, _)| *other == group) {
            Some((_, members)) => *members += 1,
            None => self.groups_v6.push((group, 1)),
        }
    }

    /// Undoes [`listen`](Self::listen).
    pub(crate) fn unlisten(&mut self, address: Ipv6Addr) {
        self.group_changes = self.group_changes.wrapping_add(1);
        let group = solicited_node(address);
        for (other, members) in &mut self.groups_v6 {
            *members -= u32::from(*other == group);
        }
        self.groups_v6.retain(|(_, members)| *members > 0);
    }

    /// Adds a network whose hosts are on the link.
    pub(crate) fn add_on_link(&mut self, network: Cidr) {
        let source = network.address();
        self.insert(Route { network, gateway: None, source });
    }

    /// Removes a network that [`add_on_link`](Self::add_on_link) added.
    pub(crate) fn remove_on_link(&mut self, network: Cidr) {
        let gone = Route { network, gateway: None, source: network.address() };
        let table = if gone.source.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        table.retain(|route| *route != gone);
    }

    /// Adds a network behind a router.
    ///
    /// # Errors
    /// `InvalidInput` when the router is on none of our networks.
    pub(crate) fn add_gateway(&mut self, network: Cidr, gateway: IpAddr) -> io::Result<()> {
        if network.address().is_ipv4() != gateway.is_ipv4() {
            return Err(invalid(format!("gateway {gateway} of {network}: of another IP version")));
        }
        let table = if gateway.is_ipv4() { &self.v4 } else { &self.v6 };
        let link = table.iter().find(|route| route.gateway.is_none() && route.network.contains(gateway));
        let Some(link) = link.filter(|link| link.source != gateway) else {
            return Err(invalid(format!(
                "gateway {gateway}: not a neighbour on any network of ours; give an address with a prefix that covers it"
            )));
        };
        let source = link.source;
        self.insert(Route { network, gateway: Some(gateway), source });
        Ok(())
    }

    /// Adds a network that is reached from `source`: through `gateway`, or on the link (RFC 3442).
    pub(crate) fn add_leased(&mut self, network: Cidr, gateway: Option<IpAddr>, source: Ipv4Addr) {
        self.insert(Route { network, gateway, source: IpAddr::V4(source) });
    }

    /// Puts other default routers in the place of those that were told of by advertisements; the first is used.
    pub(crate) fn set_default_routers(&mut self, before: &[Ipv6Addr], routers: &[Ipv6Addr]) {
        let Some(everything) = Cidr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0) else { return };
        let default = |router: &Ipv6Addr| Route {
            network: everything,
            gateway: Some(IpAddr::V6(*router)),
            // Marks it as learnt.
            source: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.v6.retain(|route| !before.iter().any(|router| *route == default(router)));
        for router in routers {
            self.insert(default(router));
        }
    }

    /// Behind the routes whose prefixes are as long: among equals, the first stays the one that is used.
    fn insert(&mut self, route: Route) {
        let table = if route.network.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let at = table.partition_point(|other| other.network.prefix_len() >= route.network.prefix_len());
        table.insert(at, route);
    }

    /// Our addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.own_v4.iter().copied().map(IpAddr::V4).chain(self.own_v6.iter().copied().map(IpAddr::V6))
    }

    /// Our addresses and the groups we are in, but for those that everybody is in.
    pub(crate) fn listened_to(&self) -> Vec<IpAddr> {
        let groups = self.address_groups().map(IpAddr::V6).filter(|group| !self.has_joined(*group));
        self.addresses().chain(groups).chain(self.joined.iter().copied()).collect()
    }

    /// Whether `address` is configured on the interface.
    #[inline]
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.own_v4.contains(&v4),
            IpAddr::V6(v6) => self.own_v6.contains(&v6),
        }
    }

    /// Whether packets to `address` come back to us: our own addresses and the loopback network.
    #[inline]
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.is_own(address) || address.is_loopback()
    }

    /// What a packet from the wire to `address` is to us. Loopback addresses must not be on the wire (RFC 1122 §3.2.1.3).
    #[inline]
    pub(crate) fn classify_v4(&self, address: Ipv4Addr) -> Destination {
        if self.own_v4.contains(&address) {
            Destination::Ours
        } else if address.is_broadcast()
            || address == ALL_HOSTS
            || self.broadcasts.contains(&address)
            || address.is_multicast() && self.has_joined(IpAddr::V4(address))
        {
            Destination::Group
        } else {
            Destination::Other
        }
    }

    /// As [`classify_v4`](Self::classify_v4).
    #[inline]
    pub(crate) fn classify_v6(&self, address: Ipv6Addr) -> Destination {
        if self.own_v6.contains(&address) {
            Destination::Ours
        } else if address == ALL_NODES
            || self.groups_v6.iter().any(|(group, _)| *group == address)
            || address.is_multicast() && self.has_joined(IpAddr::V6(address))
        {
            Destination::Group
        } else {
            Destination::Other
        }
    }

    fn has_joined(&self, group: IpAddr) -> bool {
        self.joined.binary_search(&group).is_ok()
    }

    /// Takes packets to `group`.
    pub(crate) fn join(&mut self, group: IpAddr) {
        self.group_changes = self.group_changes.wrapping_add(1);
        if let Err(at) = self.joined.binary_search(&group) {
            self.joined.insert(at, group);
        }
    }

    /// Undoes [`join`](Self::join).
    pub(crate) fn leave(&mut self, group: IpAddr) {
        self.group_changes = self.group_changes.wrapping_add(1);
        if let Ok(at) = self.joined.binary_search(&group) {
            self.joined.remove(at);
        }
    }

    /// The solicited-node groups of our addresses, and of those that are about to become ours.
    pub(crate) fn address_groups(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.groups_v6.iter().map(|(group, _)| *group)
    }

    /// Whether no packet from the wire can honestly come from `address` (RFC 1122 §3.2.1.3, RFC 4291 §2.7).
    #[inline]
    pub(crate) fn is_martian_v4(&self, address: Ipv4Addr) -> bool {
        let first = address.octets()[0];
        // 0/8, 127/8, multicast, class E and broadcast; our own; our networks' broadcast addresses.
        first == 0
            || first == 127
            || first >= 224
            || self.own_v4.contains(&address)
            || self.broadcasts.contains(&address)
    }

    /// As [`is_martian_v4`](Self::is_martian_v4); `::` is left to the caller, since duplicate address detection uses it.
    #[inline]
    pub(crate) fn is_martian_v6(&self, address: Ipv6Addr) -> bool {
        address.is_multicast()
            || address.is_loopback()
            || self.own_v6.contains(&address)
            || address.to_ipv4_mapped().is_some()
    }

    /// Whether `address` reaches more than one station.
    pub(crate) fn is_group(&self, address: IpAddr) -> bool {
        address.is_multicast() || self.is_broadcast(address)
    }

    /// Whether `address` is all of a network's stations.
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_broadcast() || self.broadcasts.contains(&v4),
            IpAddr::V6(_) => false,
        }
    }

    fn route(&self, remote: IpAddr) -> Option<&Route> {
        let table = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        table.iter().find(|route| route.network.contains(remote))
    }

    /// Where packets to `remote` go next; `None`: nowhere.
    pub(crate) fn next_hop(&self, remote: IpAddr) -> Option<NextHop> {
        if self.is_local(remote) {
            return Some(NextHop::Loopback);
        }
        match remote {
            _ if remote.is_unspecified() => None,
            IpAddr::V4(v4) if v4.is_multicast() => Some(NextHop::Group(Mac::for_multicast_v4(v4))),
            IpAddr::V6(v6) if v6.is_multicast() => Some(NextHop::Group(Mac::for_multicast_v6(v6))),
            _ if self.is_broadcast(remote) => Some(NextHop::Group(Mac::BROADCAST)),
            _ => self.route(remote).map(|route| NextHop::Neighbor(route.gateway.unwrap_or(remote))),
        }
    }

    /// Our address to use towards `remote`; `None`: there is no way there.
    pub(crate) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        if self.is_local(remote) {
            return Some(remote);
        }
        if self.is_group(remote) {
            return match remote {
                IpAddr::V4(_) => {
                    let on_net = self.v4.iter().find(|route| route.network.contains(remote));
                    on_net.map(|route| route.source).or_else(|| self.own_v4.first().copied().map(IpAddr::V4))
                }
                IpAddr::V6(group) => self.select_v6(group).map(IpAddr::V6),
            };
        }
        if remote.is_unspecified() {
            return None;
        }
        let route = self.route(remote)?;
        match remote {
            IpAddr::V4(_) => Some(route.source),
            IpAddr::V6(remote) => self.select_v6(remote).map(IpAddr::V6),
        }
    }

    /// The best of our addresses towards `remote` (RFC 6724 §5); of equals, the first.
    fn select_v6(&self, remote: Ipv6Addr) -> Option<Ipv6Addr> {
        let preference = |own: &Ipv6Addr| {
            let (scope, wanted) = (scope(*own), scope(remote));
            // Rule 2: the smallest scope that reaches as far as the destination; if none does, the largest.
            let reaches = scope >= wanted;
            let scope = if reaches { 0xff - scope } else { scope };
            // Rule 3; rule 6; rule 8.
            let usable = !self.deprecated.contains(own);
            let alike = label(*own) == label(remote);
            let common = (own.to_bits() ^ remote.to_bits()).leading_zeros().min(64);
            (*own == remote, reaches, scope, usable, alike, common)
        };
        self.own_v6.iter().copied().rev().max_by_key(preference)
    }

    /// Bits of the route that leads to `remote`: all of them for our own addresses.
    pub(crate) fn reach(&self, remote: IpAddr) -> Option<u8> {
        if self.is_own(remote) {
            return Some(bits_of(remote));
        }
        match remote {
            IpAddr::V4(v4) if v4.is_loopback() => Some(8),
            IpAddr::V6(v6) if v6.is_loopback() => Some(128),
            _ if self.is_group(remote) => self.source_for(remote).map(|_| 0),
            _ => self.route(remote).map(|route| route.network.prefix_len()),
        }
    }
}

/// How far an address is valid (RFC 4291 §2.7, RFC 6724 §3.1): link-local 2, global 14, and what groups say.
fn scope(address: Ipv6Addr) -> u8 {
    match address {
        _ if address.is_multicast() => address.octets()[1] & 0x0f,
        _ if address.is_unicast_link_local() || address.is_loopback() => 2,
        _ => 14,
    }
}

/// The label of an address in the default policy table (RFC 6724 §2.1): what has the same one belongs together.
fn label(address: Ipv6Addr) -> u8 {
    let [first, second, ..] = address.segments();
    match (first, second) {
        _ if address.is_loopback() => 0,
        _ if address.to_ipv4_mapped().is_some() => 4,
        _ if address.to_bits() >> 32 == 0 => 3,
        (0x2002, _) => 2,
        (0x2001, 0) => 5,
        (0x3ffe, _) => 12,
        _ if first & 0xfe00 == 0xfc00 => 13,
        _ if first & 0xffc0 == 0xfec0 => 11,
        _ => 1,
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StaticRoute;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn routes() -> Routes {
        let config = StackConfig {
            addresses: ["10.0.0.2/24", "192.168.7.2/16", "fd00::2/64"]
                .map(|text| text.parse().unwrap())
                .into(),
            gateways: ["10.0.0.1", "fe80::1"].map(|text| text.parse().unwrap()).into(),
            routes: vec![StaticRoute {
                destination: "172.16.0.0/12".parse().unwrap(),
                gateway: "192.168.0.9".parse().unwrap(),
            }],
            ..StackConfig::default()
        };
        Routes::new(&config, MAC).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_leads_and_gives_the_source() {
        let routes = routes();
        for (remote, hop, source, reach) in [
            ("10.0.0.77", "10.0.0.77", "10.0.0.2", 24),
            ("192.168.200.1", "192.168.200.1", "192.168.7.2", 16),
            ("172.20.1.1", "192.168.0.9", "192.168.7.2", 12),
            ("8.8.8.8", "10.0.0.1", "10.0.0.2", 0),
            ("fd00::9", "fd00::9", "fd00::2", 64),
            ("2001:db8::1", "fe80::1", "fd00::2", 0),
            ("fe80::5", "fe80::5", "fe80::ff:fe00:1", 64),
        ] {
            let remote = ip(remote);
            assert_eq!(routes.next_hop(remote), Some(NextHop::Neighbor(ip(hop))), "{remote}");
            assert_eq!(routes.source_for(remote), Some(ip(source)), "{remote}");
            assert_eq!(routes.reach(remote), Some(reach), "{remote}");
        }
    }

    #[test]
    fn our_own_addresses_stay_here_and_groups_have_their_ethernet_addresses() {
        let routes = routes();
        for own in ["10.0.0.2", "fd00::2", "127.0.0.1", "::1"] {
            assert_eq!(routes.next_hop(ip(own)), Some(NextHop::Loopback), "{own}");
            assert_eq!(routes.source_for(ip(own)), Some(ip(own)));
        }
        assert_eq!(routes.reach(ip("10.0.0.2")), Some(32));
        assert_eq!(routes.reach(ip("fd00::2")), Some(128));
        assert_eq!(routes.next_hop(ip("192.168.255.255")), Some(NextHop::Group(Mac::BROADCAST)));
        assert_eq!(routes.source_for(ip("192.168.255.255")), Some(ip("192.168.7.2")));
        let all_nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(routes.next_hop(ip("ff02::1")), Some(NextHop::Group(all_nodes)));
        assert_eq!(routes.source_for(ip("ff02::1")), Some(ip("fe80::ff:fe00:1")));
        assert_eq!(routes.source_for(ip("ff05::1")), Some(ip("fd00::2")));
        assert_eq!(routes.next_hop(ip("0.0.0.0")), None);
    }

    #[test]
    fn without_a_route_there_is_no_way() {
        let config =
            StackConfig { addresses: vec!["10.0.0.2/24".parse().unwrap()], ..StackConfig::default() };
        let routes = Routes::new(&config, MAC).unwrap();
        assert_eq!((routes.next_hop(ip("10.0.1.1")), routes.reach(ip("10.0.1.1"))), (None, None));
        assert_eq!(routes.source_for(ip("2001:db8::1")), None);
    }

    #[test]
    fn addresses_are_told_apart() {
        let routes = routes();
        let v4 = |text: &str| routes.classify_v4(text.parse().unwrap());
        assert_eq!(v4("10.0.0.2"), Destination::Ours);
        assert_eq!(v4("10.0.0.255"), Destination::Group);
        assert_eq!(v4("255.255.255.255"), Destination::Group);
        assert_eq!(v4("10.0.0.3"), Destination::Other);
        assert_eq!(v4("127.0.0.1"), Destination::Other, "not from the wire");
        let v6 = |text: &str| routes.classify_v6(text.parse().unwrap());
        assert_eq!(v6("fd00::2"), Destination::Ours);
        assert_eq!(v6("ff02::1:ff00:2"), Destination::Group);
        assert_eq!(v6("ff02::1:ff00:3"), Destination::Other);
        for martian in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.2", "10.0.0.255"] {
            assert!(routes.is_martian_v4(martian.parse().unwrap()), "{martian}");
        }
        assert!(!routes.is_martian_v4("10.0.0.9".parse().unwrap()));
        for martian in ["::1", "ff02::1", "fd00::2", "::ffff:10.0.0.9"] {
            assert!(routes.is_martian_v6(martian.parse().unwrap()), "{martian}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_cure() {
        let error = |addresses: &[&str], gateways: &[&str]| {
            let config = StackConfig {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
                ..StackConfig::default()
            };
            Routes::new(&config, MAC).unwrap_err().to_string()
        };
        assert!(error(&["10.0.0.2/24"], &["10.0.1.1"]).contains("gateway 10.0.1.1: not a neighbour"));
        assert!(error(&["10.0.0.255/24"], &[]).contains("broadcast"));
        assert!(error(&["127.0.0.1/8"], &[]).contains("10.0.0.2/24"));
        assert!(error(&["10.0.0.2/24"], &["10.0.0.2"]).contains("gateway"));
    }

    #[test]
    fn ipv6_sources_are_chosen_as_rfc_6724_says() {
        let config = StackConfig {
            addresses: ["2001:db8:1::2/64", "2001:db8:2::2/64", "fd00::2/64"]
                .map(|text| text.parse().unwrap())
                .into(),
            gateways: vec!["fe80::1".parse().unwrap()],
            ..StackConfig::default()
        };
        let mut routes = Routes::new(&config, MAC).unwrap();
        for (remote, source) in [
            ("2001:db8:2::9", "2001:db8:2::2"), // Rule 8: the longest prefix.
            ("2001:db8:1::9", "2001:db8:1::2"),
            ("fd77::1", "fd00::2"), // Rule 6: unique local addresses among themselves.
            ("2600::1", "2001:db8:1::2"), // Equal: the first.
            ("fe80::9", "fe80::ff:fe00:1"), // Rule 2: no further than need be.
            ("ff02::1", "fe80::ff:fe00:1"),
            ("ff0e::1", "2001:db8:1::2"),
            ("2001:db8:2::2", "2001:db8:2::2"), // Rule 1.
        ] {
            assert_eq!(routes.source_for(ip(remote)), Some(ip(source)), "{remote}");
        }
        let first = "2001:db8:1::2".parse().unwrap();
        routes.set_deprecated(first, true);
        assert_eq!(routes.source_for(ip("2600::1")), Some(ip("2001:db8:2::2")), "rule 3");
        assert!(routes.is_own(ip("2001:db8:1::2")), "a deprecated address is still ours");
        routes.set_deprecated(first, false);
        assert_eq!(routes.source_for(ip("2600::1")), Some(IpAddr::V6(first)));
        routes.withhold_v6(first);
        assert!(!routes.is_own(IpAddr::V6(first)));
        assert_eq!(routes.source_for(ip("2600::1")), Some(ip("2001:db8:2::2")));
    }

    #[test]
    fn an_ipv4_address_goes_with_all_that_was_reached_from_it() {
        let mut routes = routes();
        routes.remove_v4("192.168.7.2/16".parse().unwrap());
        assert!(!routes.is_own(ip("192.168.7.2")));
        assert_eq!(routes.next_hop(ip("172.20.1.1")), Some(NextHop::Neighbor(ip("10.0.0.1"))), "the default");
        assert!(!routes.is_broadcast(ip("192.168.255.255")) && routes.is_broadcast(ip("10.0.0.255")));
    }

    #[test]
    fn default_routers_are_replaced_as_a_whole_and_behind_the_configured_ones() {
        let config = StackConfig { addresses: vec!["fd00::2/64".parse().unwrap()], ..StackConfig::default() };
        let mut routes = Routes::new(&config, MAC).unwrap();
        let (one, two) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let hop = |routes: &Routes| routes.next_hop(ip("2600::1"));
        assert_eq!(hop(&routes), None);
        routes.set_default_routers(&[], &[one, two]);
        assert_eq!(hop(&routes), Some(NextHop::Neighbor(ip("fe80::1"))));
        routes.set_default_routers(&[one, two], &[two]);
        assert_eq!(hop(&routes), Some(NextHop::Neighbor(ip("fe80::2"))));
        routes.set_default_routers(&[two], &[]);
        assert_eq!(hop(&routes), None);
    }
}
