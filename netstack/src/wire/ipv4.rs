//! IPv4 (RFC 791): a header of 20 to 60 bytes, its own checksum, a payload that may be a fragment. Options are skipped, never
//! interpreted: nothing on today's networks needs them, and source routes must not be obeyed.

use std::net::Ipv4Addr;

use super::Malformed;
use super::checksum::{self, Sum};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Don't Fragment, in the flags and offset field.
const DONT_FRAGMENT: u16 = 0x4000;
/// More Fragments, in the flags and offset field.
const MORE_FRAGMENTS: u16 = 0x2000;

/// A packet whose header, options and payload are known to lie within its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of `bytes` as a packet. Bytes behind the total length are link padding and cut off.
    ///
    /// # Errors
    /// [`Malformed::Version`]; [`Malformed::Length`] when the header length is below 20 or above the total length;
    /// [`Malformed::Truncated`] when the total length is more than there is.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < HEADER_LEN || total_len < header_len {
            return Err(Malformed::Length);
        }
        let rest = rest.get(..total_len - HEADER_LEN).ok_or(Malformed::Truncated)?;
        let (options, payload) = rest.split_at_checked(header_len - HEADER_LEN).ok_or(Malformed::Length)?;
        Ok(Packet { header, options, payload })
    }

    /// Whether the header's checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        let mut total = checksum::sum_array(self.header);
        if !self.options.is_empty() {
            total = total.then(checksum::sum(self.options));
        }
        total.is_valid()
    }

    /// Bytes of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// Type of service, ECN bits included.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Identification of the packet a fragment belongs to.
    #[inline]
    pub fn ident(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    #[inline]
    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Routers must not cut the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Another fragment follows.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Where the payload goes in the whole packet, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.flags_and_offset() & 0x1fff) << 3
    }

    /// Whether this is less than a whole packet.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | 0x1fff) != 0
    }

    /// Time To Live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[12], self.header[13], self.header[14], self.header[15])
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[16], self.header[17], self.header[18], self.header[19])
    }

    /// Options as they came, not interpreted.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header without options, as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Type of service, ECN bits included.
    pub tos: u8,
    /// Time To Live.
    pub ttl: u8,
    /// Identification; 0 in packets that are never cut (RFC 6864 §4.1).
    pub ident: u16,
    /// Routers must not cut the packet.
    pub dont_fragment: bool,
    /// Another fragment follows.
    pub more_fragments: bool,
    /// Where the payload goes in the whole packet, in bytes; a multiple of 8.
    pub fragment_offset: u16,
    /// Bytes of the payload; header and payload together are at most 65,535.
    pub payload_len: u16,
}

impl Repr {
    /// The values of a packet's header; its options are left out.
    pub fn parse(packet: &Packet<'_>) -> Repr {
        Repr {
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            tos: packet.tos(),
            ttl: packet.ttl(),
            ident: packet.ident(),
            dont_fragment: packet.dont_fragment(),
            more_fragments: packet.more_fragments(),
            fragment_offset: packet.fragment_offset(),
            payload_len: packet.payload().len() as u16,
        }
    }

    /// Writes the header, checksum included.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let total_len = self.payload_len.saturating_add(HEADER_LEN as u16);
        let mut flags = self.fragment_offset >> 3;
        if self.dont_fragment {
            flags |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            flags |= MORE_FRAGMENTS;
        }
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&total_len.to_be_bytes());
        out[4..6].copy_from_slice(&self.ident.to_be_bytes());
        out[6..8].copy_from_slice(&flags.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..].copy_from_slice(&self.dst.octets());
        let sum = checksum::sum_array(out).finish();
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    /// The pseudo header of the payload's own checksum.
    #[inline]
    pub fn pseudo_header(&self) -> Sum {
        checksum::pseudo_v4(self.src, self.dst, self.protocol, u32::from(self.payload_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet_of(repr: &Repr) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + usize::from(repr.payload_len)];
        repr.emit(bytes.first_chunk_mut().unwrap());
        bytes
    }

    fn any_repr() -> impl Strategy<Value = Repr> {
        (any::<([u8; 4], [u8; 4], u8, u8, u8, u16)>(), any::<(bool, bool)>(), 0u16..0x2000, 0u16..=1500)
            .prop_map(
                |(
                    (src, dst, protocol, tos, ttl, ident),
                    (dont_fragment, more_fragments),
                    offset,
                    payload_len,
                )| Repr {
                    src: src.into(),
                    dst: dst.into(),
                    protocol,
                    tos,
                    ttl,
                    ident,
                    dont_fragment,
                    more_fragments,
                    fragment_offset: offset << 3,
                    payload_len,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back_with_a_right_checksum(repr in any_repr(), padding in 0usize..50) {
            let mut bytes = packet_of(&repr);
            bytes.resize(bytes.len() + padding, 0xaa);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert!(packet.checksum_ok());
            prop_assert_eq!(Repr::parse(&packet), repr);
            bytes[8] ^= 1;
            prop_assert!(!Packet::new_checked(&bytes).unwrap().checksum_ok());
        }

        #[test]
        fn lengths_that_lie_never_reach_beyond_the_bytes(mut bytes: Vec<u8>, version_ihl in 0x40u8..0x50) {
            if let Some(first) = bytes.first_mut() {
                *first = version_ihl;
            }
            if let Ok(packet) = Packet::new_checked(&bytes) {
                prop_assert!(packet.total_len() <= bytes.len());
                prop_assert!(packet.header_len() >= HEADER_LEN);
                prop_assert_eq!(packet.options().len() + packet.payload().len() + 20, packet.total_len());
            }
        }
    }

    #[test]
    fn each_lie_has_its_error() {
        let repr = Repr {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            protocol: 17,
            tos: 0,
            ttl: 64,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: 8,
        };
        let good = packet_of(&repr);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Packet::new_checked(&bytes).err()
        };
        assert_eq!(with(0, 0x44), Some(Malformed::Length), "a header of 16 bytes");
        assert_eq!(with(0, 0x4f), Some(Malformed::Length), "a header longer than the packet");
        assert_eq!(with(0, 0x65), Some(Malformed::Version));
        assert_eq!(with(3, 19), Some(Malformed::Length), "a total shorter than the header");
        assert_eq!(with(3, 29), Some(Malformed::Truncated), "a total longer than the bytes");
        assert_eq!(with(0, 0x46), None, "options are skipped");
        assert_eq!(Packet::new_checked(&good[..19]).err(), Some(Malformed::Truncated));
    }
}
