//! Our addresses and the way to others: longest prefix, default gateways, both IP versions, several addresses.
//!
//! Owns the tables, which are as long as the configuration. Says where a packet goes next and from which address; who lives at a
//! link address is [`neighbor`](crate::neighbor)'s.

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

#[derive(Clone, Copy, Debug)]
struct Route {
    network: Cidr,
    /// `None`: on the link.
    gateway: Option<IpAddr>,
    /// Our address to use.
    source: IpAddr,
}

/// Our addresses and routes.
#[derive(Debug)]
pub(crate) struct Routes {
    own_v4: Vec<Ipv4Addr>,
    own_v6: Vec<Ipv6Addr>,
    broadcasts: Vec<Ipv4Addr>,
    /// Groups we are in, besides all nodes: those of our addresses.
    groups_v6: Vec<Ipv6Addr>,
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
            own_v4: Vec::new(),
            own_v6: Vec::new(),
            broadcasts: Vec::new(),
            groups_v6: Vec::new(),
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
        for table in [&mut routes.v4, &mut routes.v6] {
            table.sort_by_key(|route| core::cmp::Reverse(route.network.prefix_len()));
        }
        Ok(routes)
    }

    fn add_address(&mut self, cidr: Cidr) -> io::Result<()> {
        let address = cidr.address();
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(invalid(format!(
                "address {cidr}: not one a station can have; give one such as 10.0.0.2/24"
            )));
        }
        let route = Route { network: cidr, gateway: None, source: address };
        match address {
            IpAddr::V4(v4) if v4.is_broadcast() || cidr.broadcast() == Some(v4) => {
                return Err(invalid(format!(
                    "address {cidr}: the broadcast address of its network; give a host's"
                )));
            }
            IpAddr::V4(v4) => {
                self.own_v4.push(v4);
                self.broadcasts.extend(cidr.broadcast());
                self.v4.push(route);
            }
            IpAddr::V6(v6) => {
                self.own_v6.push(v6);
                let group = solicited_node(v6);
                if !self.groups_v6.contains(&group) {
                    self.groups_v6.push(group);
                }
                self.v6.push(route);
            }
        }
        Ok(())
    }

    fn add_gateway(&mut self, network: Cidr, gateway: IpAddr) -> io::Result<()> {
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
        // RFC 6724 §5 rule 2: beyond the link, an address that is valid beyond the link.
        let source = match link.source {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                let global = self.own_v6.iter().find(|address| !address.is_unicast_link_local());
                IpAddr::V6(global.copied().unwrap_or(v6))
            }
            source => source,
        };
        let route = Route { network, gateway: Some(gateway), source };
        if gateway.is_ipv4() {
            self.v4.push(route)
        } else {
            self.v6.push(route)
        }
        Ok(())
    }

    /// Our addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.own_v4.iter().copied().map(IpAddr::V4).chain(self.own_v6.iter().copied().map(IpAddr::V6))
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
        } else if address.is_broadcast() || address == ALL_HOSTS || self.broadcasts.contains(&address) {
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
        } else if address == ALL_NODES || self.groups_v6.contains(&address) {
            Destination::Group
        } else {
            Destination::Other
        }
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
                // RFC 6724 §5 rule 2: the scope of the source is the group's.
                IpAddr::V6(group) => {
                    let link_scope = group.octets()[1] & 0x0f <= 2;
                    let fits = |address: &&Ipv6Addr| address.is_unicast_link_local() == link_scope;
                    self.own_v6.iter().find(fits).or(self.own_v6.first()).copied().map(IpAddr::V6)
                }
            };
        }
        if remote.is_unspecified() {
            return None;
        }
        self.route(remote).map(|route| route.source)
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
}
