//! UDP (RFC 768): two ports, a length, and a checksum that IPv4 senders may leave out.

use super::Malformed;
use super::checksum::{self, Sum};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// A datagram whose payload is known to lie within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
    /// Both of them.
    whole: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// A view of `bytes`, the payload of an IP packet, as a datagram. Bytes behind its length are cut off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Length`] when the length is below 8.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload_len = len.checked_sub(HEADER_LEN).ok_or(Malformed::Length)?;
        let payload = rest.get(..payload_len).ok_or(Malformed::Truncated)?;
        let whole = bytes.get(..len).ok_or(Malformed::Truncated)?;
        Ok(Datagram { header, payload, whole })
    }

    /// Source port; 0: none.
    #[inline]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The checksum field; 0: the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Whether the checksum is right under the pseudo header's sum. Says nothing about one left out.
    #[inline]
    pub fn checksum_ok(&self, pseudo_header: Sum) -> bool {
        pseudo_header.then(checksum::sum(self.whole)).is_valid()
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header in whole words, its checksum apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Source port in the upper half, destination port in the lower.
    pub ports: u32,
    /// Bytes of header and payload.
    pub len: u16,
}

impl Plain {
    /// Reads the header, and its checksum field.
    #[inline(always)]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> (Plain, u16) {
        let octet = u64::from_be_bytes(*bytes);
        (Plain { ports: (octet >> 32) as u32, len: (octet >> 16) as u16 }, octet as u16)
    }

    /// Writes the header with a checksum of 0, and answers its sum.
    #[inline(always)]
    pub fn emit(&self, to: &mut [u8; HEADER_LEN]) -> Sum {
        let octet = u64::from(self.ports) << 32 | u64::from(self.len) << 16;
        *to = octet.to_be_bytes();
        Sum::of_octets([octet])
    }
}

/// A header as values, its checksum apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Bytes of the payload, at most 65,527.
    pub payload_len: u16,
}

impl Repr {
    /// The values of a datagram's header.
    #[inline]
    pub fn parse(datagram: &Datagram<'_>) -> Repr {
        Repr {
            src_port: datagram.src_port(),
            dst_port: datagram.dst_port(),
            payload_len: datagram.payload.len() as u16,
        }
    }

    /// Writes the header with `checksum` in its field.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN], checksum: u16) {
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.saturating_add(HEADER_LEN as u16).to_be_bytes());
        out[6..].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The sum of the header with an empty checksum field.
    #[inline]
    pub fn sum(&self) -> Sum {
        let len = self.payload_len.saturating_add(HEADER_LEN as u16);
        Sum::default().word(self.src_port).word(self.dst_port).word(len)
    }

    /// The checksum of this header in front of bytes that sum to `payload`; never 0, which would mean "none" (RFC 768).
    #[inline]
    pub fn checksum(&self, pseudo_header: Sum, payload: Sum) -> u16 {
        let sum = pseudo_header.then(self.sum()).then(payload).finish();
        if sum == 0 { 0xffff } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    proptest! {
        #[test]
        fn what_is_emitted_parses_back_with_a_right_checksum(
            ports: (u16, u16), payload: Vec<u8>, src: [u8; 16], dst: [u8; 16],
        ) {
            let repr = Repr { src_port: ports.0, dst_port: ports.1, payload_len: payload.len() as u16 };
            let len = (HEADER_LEN + payload.len()) as u32;
            let pseudo = checksum::pseudo_v6(Ipv6Addr::from(src), Ipv6Addr::from(dst), 17, len);
            let mut bytes = vec![0; HEADER_LEN];
            let sum = repr.checksum(pseudo, checksum::sum(&payload));
            repr.emit(bytes.first_chunk_mut().unwrap(), sum);
            bytes.extend_from_slice(&payload);
            let datagram = Datagram::new_checked(&bytes).unwrap();
            prop_assert!(datagram.checksum_ok(pseudo));
            prop_assert_ne!(datagram.checksum(), 0);
            prop_assert_eq!(Repr::parse(&datagram), repr);
        }

        #[test]
        fn a_length_never_reaches_beyond_the_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64), len in 0u16..80) {
            let mut bytes = bytes;
            if let Some(field) = bytes.get_mut(4..6) {
                field.copy_from_slice(&len.to_be_bytes());
            }
            if let Ok(datagram) = Datagram::new_checked(&bytes) {
                prop_assert_eq!(datagram.total_len(), usize::from(len));
                prop_assert!(datagram.total_len() <= bytes.len());
            }
        }
    }
}
