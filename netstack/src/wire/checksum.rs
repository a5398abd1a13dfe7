//! The Internet checksum (RFC 1071): sums of byte strings, joined in any split, folded to sixteen bits.
//!
//! A [`Sum`] is kept in the machine's own byte order and swapped once at the end, which RFC 1071 §2(B) allows, and it knows
//! whether an odd number of bytes went in, so that the parts of a frame can be summed one by one wherever they were cut. It never
//! decides where a checksum lies in a header.

use std::net::{Ipv4Addr, Ipv6Addr};

use demi_drivers::mem;

/// The sum of some bytes, not folded yet.
///
/// ```
/// use demi_netstack::wire::checksum::{Sum, sum};
/// let whole = sum(b"odd and even");
/// assert_eq!(sum(b"odd").then(sum(b" and even")).finish(), whole.finish());
/// assert_eq!(Sum::default().finish(), 0xffff);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Sum of 16-bit words in native order; the carries are folded in at the end.
    words: u64,
    /// An odd number of bytes went in: the next one is the second of its word.
    odd: bool,
}

impl Sum {
    /// This sum continued by that of the bytes that follow.
    #[inline]
    #[must_use]
    pub fn then(self, next: Sum) -> Sum {
        // RFC 1071 §2(B): a string that starts at an odd offset contributes its sum with the bytes swapped.
        let words = if self.odd { u64::from(fold(next.words).swap_bytes()) } else { next.words };
        Sum { words: add(self.words, words), odd: self.odd ^ next.odd }
    }

    /// This sum with a 16-bit field added that lies at an even offset.
    #[inline]
    #[must_use]
    pub fn word(self, value: u16) -> Sum {
        Sum { words: add(self.words, u64::from(value.to_be())), odd: self.odd }
    }

    /// The sum of a few 16-bit fields that lie at even offsets.
    #[inline]
    #[must_use]
    pub fn of_words<const N: usize>(values: [u16; N]) -> Sum {
        // RFC 1071 §2(B): added up in host order, and swapped once.
        let sum = values.iter().fold(0u32, |sum, value| sum + u32::from(*value));
        Sum { words: u64::from(fold(u64::from(sum)).to_be()), odd: false }
    }

    /// The sum of some 64-bit words of a header, as values.
    #[inline]
    #[must_use]
    pub(crate) fn of_octets<const N: usize>(values: [u64; N]) -> Sum {
        let words = values.iter().fold(0u64, |sum, value| add(sum, value.to_be()));
        Sum { words, odd: false }
    }

    /// The folded sum, in host order: what a field that is to be completed by a device is pre-filled with.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the folded sum, in host order.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// Whether the summed bytes, their checksum field included, are as they were sent.
    #[inline]
    pub fn is_valid(self) -> bool {
        fold(self.words) == 0xffff
    }
}

/// `a + b` with the carry out of the top added back in: one's complement addition survives it.
#[inline]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// The sixteen bits of a one's complement sum.
#[inline]
fn fold(words: u64) -> u16 {
    // A number added to itself with its halves swapped has their sum, carry included, in the upper half.
    let words = (words.wrapping_add(words.rotate_left(32)) >> 32) as u32;
    (words.wrapping_add(words.rotate_left(16)) >> 16) as u16
}

/// The sum of a header of known length: a few additions, inlined.
#[inline(always)]
pub fn sum_array<const N: usize>(bytes: &[u8; N]) -> Sum {
    const { assert!(N.is_multiple_of(4)) };
    let (octets, rest) = bytes.as_chunks::<8>();
    let mut words = rest.first_chunk().map_or(0, |quad| u64::from(u32::from_ne_bytes(*quad)));
    for octet in octets {
        words = add(words, u64::from_ne_bytes(*octet));
    }
    Sum { words, odd: false }
}

/// The sum of `bytes`.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    Sum { words: mem::sum(bytes), odd: bytes.len() % 2 == 1 }
}

/// The pseudo header of TCP, UDP and the like over IPv4 (RFC 9293 §3.1): `len` is that of the transport header and payload.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u32) -> Sum {
    let addresses = u64::from(u32::from_ne_bytes(src.octets())) + u64::from(u32::from_ne_bytes(dst.octets()));
    pseudo_rest(addresses, protocol, len)
}

/// The pseudo header of upper layers over IPv6 (RFC 8200 §8.1).
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Sum {
    let mut addresses = 0u64;
    for octets in [src.octets(), dst.octets()] {
        let (quads, _) = octets.as_chunks::<4>();
        for quad in quads {
            addresses += u64::from(u32::from_ne_bytes(*quad));
        }
    }
    pseudo_rest(addresses, protocol, len)
}

#[inline]
fn pseudo_rest(addresses: u64, protocol: u8, len: u32) -> Sum {
    let words = addresses + u64::from(len.to_be()) + u64::from(u16::from(protocol).to_be());
    Sum { words, odd: false }
}

/// The checksum field after a 16-bit word it covers has changed from `old` to `new` (RFC 1624, equation 3). All in host order.
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u64::from(!checksum) + u64::from(!old) + u64::from(new);
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §1 word by word, big endian.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_rfcs_own_example() {
        // RFC 1071 §3: 0001 f203 f4f5 f6f7 sums to ddf2.
        let sum = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn pseudo_headers_are_the_sum_of_their_fields() {
        let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7));
        let mut bytes = [a.octets(), b.octets()].concat();
        bytes.extend([0, 6, 0x12, 0x34]);
        assert_eq!(pseudo_v4(a, b, 6, 0x1234).finish(), naive(&bytes));

        let (a, b): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "fe80::ff:fe00:1".parse().unwrap());
        let mut bytes = [a.octets(), b.octets()].concat();
        bytes.extend([0, 1, 0x12, 0x34, 0, 0, 0, 17]);
        assert_eq!(pseudo_v6(a, b, 17, 0x1_1234).finish(), naive(&bytes));
    }

    proptest! {
        #[test]
        fn equals_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&bytes).finish(), naive(&bytes));
        }

        #[test]
        fn any_split_gives_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            cuts in proptest::collection::vec(0usize..400, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut total = Sum::default();
            let mut from = 0;
            for cut in cuts {
                total = total.then(sum(&bytes[from..cut]));
                from = cut;
            }
            prop_assert_eq!(total.finish(), naive(&bytes));
        }

        #[test]
        fn bytes_with_their_checksum_are_valid_and_a_flipped_bit_is_not(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..100),
            bit in any::<proptest::sample::Index>(),
        ) {
            bytes[2..4].fill(0);
            let checksum = sum(&bytes).finish();
            bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(sum(&bytes).is_valid());
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!sum(&bytes).is_valid());
        }

        #[test]
        fn an_updated_checksum_is_that_of_the_changed_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..60),
            new in any::<u16>(),
        ) {
            bytes.extend([1, 2]);
            let before = sum(&bytes).finish();
            let old = u16::from_be_bytes([bytes[0], bytes[1]]);
            bytes[..2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), naive(&bytes));
        }
    }
}
