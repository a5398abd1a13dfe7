//! IPv6 (RFC 8200): the fixed header of 40 bytes. What may stand between it and the payload is in
//! [`ipv6_ext`](super::ipv6_ext).

use std::net::Ipv6Addr;

use super::Malformed;
use super::checksum::{self, Sum};

/// Bytes of the header.
pub const HEADER_LEN: usize = 40;

/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5).
pub const MIN_MTU: u16 = 1280;

/// A packet whose payload is known to lie within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of `bytes` as a packet. Bytes behind the payload length are link padding and cut off.
    ///
    /// # Errors
    /// [`Malformed::Version`]; [`Malformed::Truncated`] when the payload length is more than there is.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = rest.get(..payload_len).ok_or(Malformed::Truncated)?;
        Ok(Packet { header, payload })
    }

    /// Traffic class, ECN bits included.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Type of what follows the header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop Limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.header;
        rest.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        self.header.last_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }

    /// What follows the header: extension headers, then the upper layer's.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Type of what follows the header.
    pub next_header: u8,
    /// Traffic class, ECN bits included.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop Limit.
    pub hop_limit: u8,
    /// Bytes behind the header.
    pub payload_len: u16,
}

impl Repr {
    /// The values of a packet's header.
    pub fn parse(packet: &Packet<'_>) -> Repr {
        Repr {
            src: packet.src(),
            dst: packet.dst(),
            next_header: packet.next_header(),
            traffic_class: packet.traffic_class(),
            flow_label: packet.flow_label(),
            hop_limit: packet.hop_limit(),
            payload_len: packet.payload().len() as u16,
        }
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0x000f_ffff);
        out[..4].copy_from_slice(&first.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..].copy_from_slice(&self.dst.octets());
    }

    /// The pseudo header of the upper layer's checksum, for a packet without extension headers.
    #[inline]
    pub fn pseudo_header(&self) -> Sum {
        checksum::pseudo_v6(self.src, self.dst, self.next_header, u32::from(self.payload_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(
            addresses: [[u8; 16]; 2],
            small: (u8, u8, u8),
            flow_label in 0u32..1 << 20,
            payload_len in 0u16..1500,
            padding in 0usize..20,
        ) {
            let repr = Repr {
                src: addresses[0].into(),
                dst: addresses[1].into(),
                next_header: small.0,
                traffic_class: small.1,
                flow_label,
                hop_limit: small.2,
                payload_len,
            };
            let mut bytes = vec![0; HEADER_LEN + usize::from(payload_len) + padding];
            repr.emit(bytes.first_chunk_mut().unwrap());
            prop_assert_eq!(Repr::parse(&Packet::new_checked(&bytes).unwrap()), repr);
        }

        #[test]
        fn a_payload_length_never_reaches_beyond_the_bytes(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() {
                *first = 0x60;
            }
            match Packet::new_checked(&bytes) {
                Ok(packet) => prop_assert!(packet.payload().len() + HEADER_LEN <= bytes.len()),
                Err(error) => prop_assert_eq!(error, Malformed::Truncated),
            }
        }
    }
}
