//! The order in which a name's addresses are tried (RFC 6724 §6, as far as it tells IP versions apart): first what there is a
//! route for, IPv6 before IPv4 where there is one for both. Within a version, a name server's order stays: it spreads load.

use std::net::{IpAddr, SocketAddr};

use crate::net::UdpSocket;

/// The port that a route is looked for with: nothing is sent to it.
const DISCARD: u16 = 9;

/// Sorts `addresses`.
pub(super) fn sort(addresses: &mut [IpAddr]) {
    let of = |v6: bool| addresses.iter().copied().find(|address| address.is_ipv6() == v6);
    let (Some(v6), Some(v4)) = (of(true), of(false)) else { return };
    let v6_first = has_route(v6) || !has_route(v4);
    addresses.sort_by_key(|address| address.is_ipv6() != v6_first);
}

/// Whether a socket can be pointed at `address`.
fn has_route(address: IpAddr) -> bool {
    UdpSocket::towards(SocketAddr::new(address, DISCARD)).is_ok()
}
