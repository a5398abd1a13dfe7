//! Ethernet II frames: destination, source, type. No preamble, no trailing checksum: devices keep those to themselves.

use core::fmt;

use super::Malformed;

/// Bytes of the header.
pub const HEADER_LEN: usize = 14;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether the address is all stations'.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }

    /// Whether the address is a group's; broadcast is one.
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether the address can be one station's: neither a group's nor all zeros.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Mac::default()
    }

    /// The group address that carries an IPv4 multicast group (RFC 1112 §6.4).
    pub fn for_multicast_v4(group: std::net::Ipv4Addr) -> Mac {
        let [_, b, c, d] = group.octets();
        Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address that carries an IPv6 multicast group (RFC 2464 §7).
    pub fn for_multicast_v6(group: std::net::Ipv6Addr) -> Mac {
        let [.., c, d, e, f] = group.octets();
        Mac([0x33, 0x33, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// An 802.1Q tag.
    pub const VLAN: EtherType = EtherType(0x8100);
    /// A host's own, between its stacks; never on a link (IEEE 802 calls it "local experimental 1").
    pub const NOTICE: EtherType = EtherType(0x88b5);
}

/// A frame whose header is known to be there.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A view of `bytes` as a frame.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when there are fewer than 14.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
        Ok(Frame { header, payload })
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = *self.header;
        Mac([a, b, c, d, e, f])
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        Mac([a, b, c, d, e, f])
    }

    /// Type of the payload.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(u16::from_be_bytes([self.header[12], self.header[13]]))
    }

    /// What follows the header, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A frame's header as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// Type of the payload.
    pub ethertype: EtherType,
}

impl Repr {
    /// The header of `frame`.
    #[inline]
    pub fn parse(frame: &Frame<'_>) -> Repr {
        Repr { dst: frame.dst(), src: frame.src(), ethertype: frame.ethertype() }
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        out[..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        out[12..].copy_from_slice(&self.ethertype.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_map_to_their_ethernet_addresses() {
        assert_eq!(Mac::for_multicast_v4("239.129.2.3".parse().unwrap()).to_string(), "01:00:5e:01:02:03");
        assert_eq!(
            Mac::for_multicast_v6("ff02::1:ff28:9c5a".parse().unwrap()).to_string(),
            "33:33:ff:28:9c:5a"
        );
        assert!(Mac::BROADCAST.is_multicast() && !Mac::default().is_unicast());
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(dst: [u8; 6], src: [u8; 6], ethertype: u16) {
            let repr = Repr { dst: Mac(dst), src: Mac(src), ethertype: EtherType(ethertype) };
            let mut bytes = [0; HEADER_LEN];
            repr.emit(&mut bytes);
            prop_assert_eq!(Repr::parse(&Frame::new_checked(&bytes).unwrap()), repr);
        }

        #[test]
        fn any_bytes_are_a_frame_or_too_short(bytes: Vec<u8>) {
            match Frame::new_checked(&bytes) {
                Ok(frame) => prop_assert_eq!(frame.payload().len(), bytes.len() - HEADER_LEN),
                Err(error) => prop_assert_eq!((error, bytes.len() < HEADER_LEN), (Malformed::Truncated, true)),
            }
        }
    }
}
