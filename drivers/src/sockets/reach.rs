//! How specifically the kernel's sockets reach an address: from the interfaces' own addresses and prefixes.

use std::net::IpAddr;
use std::ptr;

use super::address::RawAddress;

/// Bits of the longest match: all for an address of this machine, the prefix of an interface's network, 0 for the default
/// route.
pub(crate) fn bits(remote: IpAddr) -> u8 {
    let remote = remote.to_canonical();
    if remote.is_loopback() {
        return width(remote);
    }
    interfaces()
        .into_iter()
        .filter_map(|(own, mask)| {
            if own == remote {
                return Some(width(remote));
            }
            let prefix = leading_ones(mask?);
            (common_bits(own, remote)? >= prefix).then_some(prefix)
        })
        .max()
        .unwrap_or(0)
}

pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn leading_ones(mask: IpAddr) -> u8 {
    match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones() as u8,
        IpAddr::V6(mask) => mask.to_bits().leading_ones() as u8,
    }
}

pub(crate) fn common_bits(one: IpAddr, other: IpAddr) -> Option<u8> {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => Some((one.to_bits() ^ other.to_bits()).leading_zeros() as u8),
        (IpAddr::V6(one), IpAddr::V6(other)) => Some((one.to_bits() ^ other.to_bits()).leading_zeros() as u8),
        _ => None,
    }
}

/// Every address of every interface that is up, with its netmask; empty when the kernel doesn't say.
pub(crate) fn interfaces() -> Vec<(IpAddr, Option<IpAddr>)> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `list` is writable; on success it points to a list that is ours to free.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: `next` is null or an entry of the list, which is freed only below.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let up = entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0;
        if let (true, Some(address)) = (up, decode(entry.ifa_addr)) {
            found.push((address, decode(entry.ifa_netmask)));
        }
    }
    // SAFETY: `list` came from `getifaddrs`, and nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

fn decode(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null, or an address of the list, whose family is always there.
    let family = unsafe { address.as_ref() }?.sa_family;
    let bytes = match libc::c_int::from(family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    let mut raw = RawAddress::empty();
    // SAFETY: an address of that family has that many bytes, and `raw` has room for either.
    unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut raw).cast::<u8>(), bytes) };
    raw.decode().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_kernels_own_and_the_rest_at_least_by_default() {
        assert_eq!(bits("127.0.0.1".parse().unwrap()), 32);
        assert_eq!(bits("127.9.9.9".parse().unwrap()), 32);
        assert_eq!(bits("::1".parse().unwrap()), 128);
        assert_eq!(bits("::ffff:127.0.0.1".parse().unwrap()), 32);
        // TEST-NET-3 (RFC 5737) is nobody's network.
        assert_eq!(bits("203.0.113.1".parse().unwrap()), 0);
        for (own, _) in interfaces() {
            assert_eq!(bits(own), width(own), "{own} is this machine's");
        }
    }
}
