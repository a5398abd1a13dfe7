//! Addresses with prefixes, and the few questions about addresses that the layers above ask in the same words.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use crate::wire::ethernet::Mac;

/// An address and how many of its leading bits name its network: `10.0.0.2/24`, `fd00::2/64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// `address` in a network of `prefix_len` bits; `None` when the address has fewer.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Cidr> {
        (prefix_len <= bits_of(address)).then_some(Cidr { address, prefix_len })
    }

    /// The address, host bits included.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the network.
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Whether `other` lies in the network; never across IP versions.
    #[inline]
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.checked_shr(32 - u32::from(self.prefix_len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.checked_shr(128 - u32::from(self.prefix_len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The address of all of an IPv4 network's hosts; `None` for IPv6, and for networks of two or fewer addresses
    /// (RFC 3021).
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) if self.prefix_len <= 30 => {
                Some(Ipv4Addr::from_bits(address.to_bits() | u32::MAX >> self.prefix_len))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrError(String);

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address with a prefix such as 10.0.0.2/24 or fd00::2/64", self.0)
    }
}

impl std::error::Error for CidrError {}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `ADDRESS/PREFIX`; an address alone has a prefix of all its bits.
    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let parse = || {
            let (address, prefix_len) = match text.split_once('/') {
                Some((address, prefix_len)) => (address, Some(prefix_len.parse().ok()?)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            Cidr::new(address, prefix_len.unwrap_or(bits_of(address)))
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

/// Bits of an address: 32 or 128.
pub(crate) fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The link-local address that a station makes of its Ethernet address (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// The address as 128 bits, IPv4 in its mapped form: one shape for keys of tables.
#[inline]
pub(crate) fn key_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => 0xffff_0000_0000 | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `address` as the stack thinks of it: IPv4-mapped IPv6 addresses (RFC 4291 §2.5.5.2) are IPv4.
#[inline]
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// `address` as a socket of that family shows it: IPv6 sockets show IPv4 peers in the mapped form.
#[inline]
pub(crate) fn as_seen_by(v6_socket: bool, address: IpAddr, port: u16) -> SocketAddr {
    match address {
        IpAddr::V4(v4) if v6_socket => SocketAddr::V6(SocketAddrV6::new(v4.to_ipv6_mapped(), port, 0, 0)),
        _ => SocketAddr::new(address, port),
    }
}

/// The unspecified address of the other's version.
#[inline]
pub(crate) fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_contain_their_own_and_nothing_else() {
        assert!(cidr("10.1.2.3/24").contains("10.1.2.255".parse().unwrap()));
        assert!(!cidr("10.1.2.3/24").contains("10.1.3.3".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").contains("255.1.1.1".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(cidr("fd00::1/64").contains("fd00::ffff:0:0:1".parse().unwrap()));
        assert!(!cidr("fd00::1/128").contains("fd00::2".parse().unwrap()));
        assert!(cidr("::/0").contains("fe80::1".parse().unwrap()));
    }

    #[test]
    fn broadcast_addresses_exist_where_there_is_room_for_one() {
        assert_eq!(cidr("10.1.2.3/24").broadcast(), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(cidr("10.1.2.3/0").broadcast(), Some(Ipv4Addr::BROADCAST));
        assert_eq!(cidr("10.1.2.3/31").broadcast(), None);
        assert_eq!(cidr("fd00::1/64").broadcast(), None);
    }

    #[test]
    fn what_is_no_address_with_a_prefix_is_refused_with_an_example() {
        for text in ["", "10.0.0.1/33", "fd00::/129", "10.0.0/8", "10.0.0.1/x", "10.0.0.1/-1"] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("10.0.0.2/24"), "{error}");
        }
        assert_eq!(cidr("10.0.0.1").prefix_len(), 32);
        assert_eq!(cidr("fd00::5/64").to_string(), "fd00::5/64");
    }

    #[test]
    fn link_local_addresses_flip_the_universal_bit() {
        let mac = Mac([0x02, 0x00, 0x5e, 0x10, 0x20, 0x30]);
        assert_eq!(link_local(mac), "fe80::5eff:fe10:2030".parse::<Ipv6Addr>().unwrap());
    }
}
