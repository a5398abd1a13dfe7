//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements, and their link-address options. Router
//! advertisements and redirects are told apart, not read.

use std::net::Ipv6Addr;

use super::ethernet::Mac;
use super::{Malformed, icmpv6};

/// Bytes of a solicitation or advertisement with its link-address option, ICMPv6 header included.
pub const MESSAGE_LEN: usize = 32;

/// Options looked at before the rest is left alone.
const MAX_OPTIONS: usize = 16;

/// A message as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repr {
    /// Who has the target address?
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// The asker's link address; absent in duplicate address detection.
        source_mac: Option<Mac>,
    },
    /// I have the target address.
    Advertisement {
        /// The address told of.
        target: Ipv6Addr,
        /// Its link address; may be absent in the answer to a unicast solicitation.
        target_mac: Option<Mac>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what is cached.
        overriding: bool,
    },
    /// A router solicitation, router advertisement or redirect (types 133, 134 and 137).
    Router(u8),
}

impl Repr {
    /// The neighbour discovery message in an ICMPv6 one; `None` when it is none.
    ///
    /// # Errors
    /// As RFC 4861 §7.1 validates: [`Malformed::Field`] for a code that is not 0, a hop limit below 255 or a multicast target;
    /// [`Malformed::Truncated`]; [`Malformed::Length`] for an option of length 0.
    pub fn parse(message: &icmpv6::Repr<'_>, hop_limit: u8) -> Result<Option<Repr>, Malformed> {
        let &icmpv6::Repr::Other { kind: kind @ 133..=137, code, rest, data } = message else {
            return Ok(None);
        };
        if hop_limit != 255 || code != 0 {
            return Err(Malformed::Field);
        }
        if !matches!(kind, 135 | 136) {
            return Ok(Some(Repr::Router(kind)));
        }
        let (target, options) = data.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
        let target = Ipv6Addr::from(*target);
        if target.is_multicast() {
            return Err(Malformed::Field);
        }
        // Option 1 is the source's link address, 2 the target's.
        let mac = link_address(options, if kind == 135 { 1 } else { 2 })?;
        Ok(Some(if kind == 135 {
            Repr::Solicitation { target, source_mac: mac }
        } else {
            Repr::Advertisement {
                target,
                target_mac: mac,
                router: rest[0] & 0x80 != 0,
                solicited: rest[0] & 0x40 != 0,
                overriding: rest[0] & 0x20 != 0,
            }
        }))
    }

    /// Writes the message as ICMPv6, checksum included, into `out`; answers its length. Router messages are not written.
    pub fn emit(&self, src: Ipv6Addr, dst: Ipv6Addr, out: &mut [u8; MESSAGE_LEN]) -> usize {
        let (kind, flags, target, option, mac) = match *self {
            Repr::Solicitation { target, source_mac } => (135, 0, target, 1, source_mac),
            Repr::Advertisement { target, target_mac, router, solicited, overriding } => {
                let flags = u8::from(router) << 7 | u8::from(solicited) << 6 | u8::from(overriding) << 5;
                (136, flags, target, 2, target_mac)
            }
            Repr::Router(_) => return 0,
        };
        let mut data = [0; MESSAGE_LEN - icmpv6::HEADER_LEN];
        data[..16].copy_from_slice(&target.octets());
        let len = match mac {
            Some(mac) => {
                data[16] = option;
                data[17] = 1;
                data[18..].copy_from_slice(&mac.0);
                data.len()
            }
            None => 16,
        };
        let message = icmpv6::Repr::Other { kind, code: 0, rest: [flags, 0, 0, 0], data: &data[..len] };
        match message.emit(src, dst, out) {
            Ok(()) => message.len(),
            Err(_) => 0,
        }
    }
}

/// The link address in the first option of type `wanted`.
fn link_address(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Malformed> {
    for _ in 0..MAX_OPTIONS {
        let [kind, eighths, ..] = *options else {
            return if options.is_empty() { Ok(None) } else { Err(Malformed::Truncated) };
        };
        // RFC 4861 §4.6: nodes must silently discard a packet with an option of length zero.
        if eighths == 0 {
            return Err(Malformed::Length);
        }
        let (option, after) =
            options.split_at_checked(usize::from(eighths) * 8).ok_or(Malformed::Truncated)?;
        if kind == wanted
            && let Some(&[_, _, a, b, c, d, e, f]) = option.first_chunk::<8>()
        {
            return Ok(Some(Mac([a, b, c, d, e, f])));
        }
        options = after;
    }
    Ok(None)
}

/// The group that whoever has `address` listens to (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., d, e, f] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(d), u16::from_be_bytes([e, f]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    fn parse(bytes: &[u8], hop_limit: u8) -> Result<Option<Repr>, Malformed> {
        Repr::parse(&icmpv6::Repr::parse(A, B, bytes)?, hop_limit)
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(
            advertise: bool, target: [u8; 16], mac: Option<[u8; 6]>, flags: (bool, bool, bool),
        ) {
            let target = Ipv6Addr::from(target);
            prop_assume!(!target.is_multicast());
            let mac = mac.map(Mac);
            let repr = if advertise {
                let (router, solicited, overriding) = flags;
                Repr::Advertisement { target, target_mac: mac, router, solicited, overriding }
            } else {
                Repr::Solicitation { target, source_mac: mac }
            };
            let mut bytes = [0; MESSAGE_LEN];
            let len = repr.emit(A, B, &mut bytes);
            prop_assert_eq!(parse(&bytes[..len], 255), Ok(Some(repr)));
            prop_assert_eq!(parse(&bytes[..len], 254), Err(Malformed::Field), "it came through a router");
        }

        #[test]
        fn any_options_end_within_themselves(kind in 135u8..=136, data: Vec<u8>) {
            let message = icmpv6::Repr::Other { kind, code: 0, rest: [0; 4], data: &data };
            let _ = Repr::parse(&message, 255);
        }
    }

    #[test]
    fn an_option_of_length_zero_is_refused() {
        let mut data = [0; 24];
        data[16] = 1;
        let message = icmpv6::Repr::Other { kind: 135, code: 0, rest: [0; 4], data: &data };
        assert_eq!(Repr::parse(&message, 255), Err(Malformed::Length));
    }

    #[test]
    fn solicited_node_groups_take_the_low_24_bits() {
        let group = solicited_node("4037::1:800:200e:8c6c".parse().unwrap());
        assert_eq!(group, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }
}
