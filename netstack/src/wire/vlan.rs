//! The 802.1Q tag between an Ethernet header and its payload: priority, drop eligibility, VLAN number, inner type.

use super::Malformed;
use super::ethernet::EtherType;

/// Bytes of the tag.
pub const TAG_LEN: usize = 4;

/// A tag as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Priority code point, 0 to 7.
    pub priority: u8,
    /// The frame may be dropped first under congestion.
    pub drop_eligible: bool,
    /// VLAN number, 12 bits; 0 only carries a priority.
    pub vlan: u16,
    /// Type of what follows the tag.
    pub ethertype: EtherType,
}

impl Repr {
    /// The tag at the start of `bytes`, and what follows it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<(Repr, &[u8]), Malformed> {
        let ([a, b, c, d], payload) = bytes.split_first_chunk::<TAG_LEN>().ok_or(Malformed::Truncated)?;
        let control = u16::from_be_bytes([*a, *b]);
        let tag = Repr {
            priority: (control >> 13) as u8,
            drop_eligible: control & 0x1000 != 0,
            vlan: control & 0x0fff,
            ethertype: EtherType(u16::from_be_bytes([*c, *d])),
        };
        Ok((tag, payload))
    }

    /// Writes the tag.
    pub fn emit(&self, out: &mut [u8; TAG_LEN]) {
        let control =
            u16::from(self.priority & 7) << 13 | u16::from(self.drop_eligible) << 12 | (self.vlan & 0x0fff);
        out[..2].copy_from_slice(&control.to_be_bytes());
        out[2..].copy_from_slice(&self.ethertype.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn emit_is_the_inverse_of_parse(bytes: [u8; TAG_LEN]) {
            let (tag, rest) = Repr::parse(&bytes).unwrap();
            prop_assert!(rest.is_empty());
            let mut out = [0; TAG_LEN];
            tag.emit(&mut out);
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn three_bytes_are_no_tag() {
        assert_eq!(Repr::parse(&[0; 3]), Err(Malformed::Truncated));
    }
}
