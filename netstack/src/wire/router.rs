//! Router discovery (RFC 4861 §4.1, §4.2): the solicitation that asks routers to speak, and the advertisement that tells of
//! them, of prefixes (§4.6.2), of the link's MTU, and of name servers (RFC 8106).

use core::time::Duration;
use std::net::Ipv6Addr;

use super::ethernet::Mac;
use super::{Malformed, icmpv6};

/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 133;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 134;
/// Bytes of a solicitation with its link-address option, ICMPv6 header included.
pub const SOLICITATION_LEN: usize = 16;
/// Options looked at before the rest is left alone.
const MAX_OPTIONS: usize = 64;

/// Writes a solicitation from the station `mac`, checksum included; without a source address the option is left out
/// (RFC 4861 §4.1). Answers its length.
pub fn solicit(src: Ipv6Addr, dst: Ipv6Addr, mac: Mac, out: &mut [u8; SOLICITATION_LEN]) -> usize {
    let [a, b, c, d, e, f] = mac.0;
    let option = [1, 1, a, b, c, d, e, f];
    let data = if src.is_unspecified() { &[][..] } else { &option };
    let message = icmpv6::Repr::Other { kind: SOLICITATION, code: 0, rest: [0; 4], data };
    match message.emit(src, dst, out) {
        Ok(()) => message.len(),
        Err(_) => 0,
    }
}

/// How much a router wants to be used (RFC 4191 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    /// Only if there is no other.
    Low,
    /// As any other.
    Medium,
    /// Rather than others.
    High,
}

/// A prefix information option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix, its other bits as they came.
    pub prefix: Ipv6Addr,
    /// Its bits.
    pub len: u8,
    /// Hosts with this prefix are on the link.
    pub on_link: bool,
    /// Addresses may be made of it (RFC 4862).
    pub autonomous: bool,
    /// How long it is valid; `None`: for ever.
    pub valid: Option<Duration>,
    /// How long addresses made of it are preferred; `None`: for ever.
    pub preferred: Option<Duration>,
}

/// What an option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Information<'a> {
    /// The router's link address.
    LinkAddress(Mac),
    /// A prefix.
    Prefix(Prefix),
    /// The link's MTU.
    Mtu(u32),
    /// Name servers, 16 bytes each, and how long they may be used.
    NameServers(Option<Duration>, &'a [[u8; 16]]),
}

/// An advertisement whose options are known to end where they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement<'a> {
    /// Hop limit of packets that leave the link; 0: not told.
    pub hop_limit: u8,
    /// How much the router wants to be used.
    pub preference: Preference,
    /// How long it is a default router; zero: it is none.
    pub lifetime: Duration,
    /// How long a neighbour is trusted after it was heard of, in milliseconds; 0: not told.
    pub reachable_ms: u32,
    /// Time between two solicitations of a neighbour, in milliseconds; 0: not told.
    pub retrans_ms: u32,
    options: &'a [u8],
}

impl<'a> Advertisement<'a> {
    /// The advertisement in an ICMPv6 message that came with this source and hop limit; `None` when it is none.
    ///
    /// # Errors
    /// As RFC 4861 §6.1.2 validates.
    pub fn parse(
        message: &icmpv6::Repr<'a>,
        src: Ipv6Addr,
        hop_limit: u8,
    ) -> Result<Option<Advertisement<'a>>, Malformed> {
        let &icmpv6::Repr::Other { kind: ADVERTISEMENT, code, rest, data } = message else { return Ok(None) };
        if hop_limit != 255 || code != 0 || !src.is_unicast_link_local() {
            return Err(Malformed::Field);
        }
        let (times, options) = data.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
        let mut left = options;
        while let [_, eighths, ..] = *left {
            if eighths == 0 {
                return Err(Malformed::Length);
            }
            left = left.get(usize::from(eighths) * 8..).ok_or(Malformed::Truncated)?;
        }
        if !left.is_empty() {
            return Err(Malformed::Truncated);
        }
        let [hop_limit, flags, a, b] = rest;
        let [c, d, e, f, g, h, i, j] = *times;
        let lifetime = u16::from_be_bytes([a, b]);
        Ok(Some(Advertisement {
            hop_limit,
            preference: match flags >> 3 & 3 {
                1 => Preference::High,
                3 => Preference::Low,
                // RFC 4191 §2.2: the reserved value is read as the ordinary one.
                _ => Preference::Medium,
            },
            lifetime: Duration::from_secs(lifetime.into()),
            reachable_ms: u32::from_be_bytes([c, d, e, f]),
            retrans_ms: u32::from_be_bytes([g, h, i, j]),
            options,
        }))
    }

    /// What the options say, in order; those that are unknown or too short are left out.
    pub fn information(&self) -> impl Iterator<Item = Information<'a>> + use<'a> {
        let mut left = self.options;
        let options = core::iter::from_fn(move || {
            let eighths = *left.get(1)?;
            let (option, rest) = left.split_at_checked(usize::from(eighths) * 8)?;
            left = rest;
            Some(option)
        });
        options.take(MAX_OPTIONS).filter_map(information)
    }
}

fn information(option: &[u8]) -> Option<Information<'_>> {
    let word = |at: usize| option.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    match *option.first()? {
        1 => {
            let &[_, _, a, b, c, d, e, f] = option.first_chunk::<8>()?;
            Some(Information::LinkAddress(Mac([a, b, c, d, e, f])))
        }
        3 => {
            let prefix: &[u8; 16] = option.get(16..)?.first_chunk()?;
            Some(Information::Prefix(Prefix {
                prefix: Ipv6Addr::from(*prefix),
                len: *option.get(2)?,
                on_link: option.get(3)? & 0x80 != 0,
                autonomous: option.get(3)? & 0x40 != 0,
                valid: lifetime(word(4)?),
                preferred: lifetime(word(8)?),
            }))
        }
        5 => Some(Information::Mtu(word(4)?)),
        25 => {
            let (servers, _) = option.get(8..)?.as_chunks::<16>();
            Some(Information::NameServers(lifetime(word(4)?), servers))
        }
        _ => None,
    }
}

/// RFC 4861 §4.6.2: all ones are infinity.
fn lifetime(seconds: u32) -> Option<Duration> {
    (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    /// An advertisement's ICMPv6 fields and body, as bytes of a router would be.
    fn message(data: &[u8]) -> icmpv6::Repr<'_> {
        icmpv6::Repr::Other { kind: ADVERTISEMENT, code: 0, rest: [64, 0x08, 0x07, 0x08], data }
    }

    #[test]
    fn an_advertisement_is_read_to_its_last_option() {
        let mut data = vec![0, 0, 0x75, 0x30, 0, 0, 3, 0xe8];
        data.extend([1, 1, 2, 0, 0, 0, 0, 9]);
        data.extend([5, 1, 0, 0, 0, 0, 5, 0x14]);
        data.extend([200, 1, 0, 0, 0, 0, 0, 0]);
        data.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        data.extend("2001:db8::".parse::<Ipv6Addr>().unwrap().octets());
        data.extend([25, 3, 0, 0, 0, 0, 0, 60]);
        data.extend("2001:db8::53".parse::<Ipv6Addr>().unwrap().octets());
        let advertisement = Advertisement::parse(&message(&data), ROUTER, 255).unwrap().unwrap();
        assert_eq!(advertisement.preference, Preference::High);
        assert_eq!(advertisement.lifetime, Duration::from_secs(1800));
        assert_eq!((advertisement.reachable_ms, advertisement.retrans_ms), (30_000, 1000));
        let all: Vec<_> = advertisement.information().collect();
        let server = "2001:db8::53".parse::<Ipv6Addr>().unwrap().octets();
        let prefix = Prefix {
            prefix: "2001:db8::".parse().unwrap(),
            len: 64,
            on_link: true,
            autonomous: true,
            valid: Some(Duration::from_secs(3600)),
            preferred: None,
        };
        let expected = [
            Information::LinkAddress(Mac([2, 0, 0, 0, 0, 9])),
            Information::Mtu(1300),
            Information::Prefix(prefix),
            Information::NameServers(Some(Duration::from_secs(60)), &[server]),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn what_a_router_on_the_link_cannot_have_sent_is_refused() {
        let data = [0; 8];
        let parse =
            |src: &str, hop_limit| Advertisement::parse(&message(&data), src.parse().unwrap(), hop_limit);
        assert!(parse("fe80::1", 255).is_ok());
        assert_eq!(parse("fe80::1", 254), Err(Malformed::Field), "it came through a router");
        assert_eq!(parse("2001:db8::1", 255), Err(Malformed::Field));
        for wrong in
            [&[0; 7][..], &[0; 10], &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]]
        {
            assert!(Advertisement::parse(&message(wrong), ROUTER, 255).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_solicitation_without_a_source_has_no_option() {
        let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
        for (src, len) in [(ROUTER, 16), (Ipv6Addr::UNSPECIFIED, 8)] {
            let mut out = [0; SOLICITATION_LEN];
            assert_eq!(solicit(src, all_routers, Mac([2, 0, 0, 0, 0, 1]), &mut out), len);
            let message = icmpv6::Repr::parse(src, all_routers, &out[..len]).unwrap();
            assert!(matches!(message, icmpv6::Repr::Other { kind: SOLICITATION, code: 0, .. }));
        }
    }

    proptest! {
        #[test]
        fn any_options_end_within_themselves(data: Vec<u8>) {
            if let Ok(Some(advertisement)) = Advertisement::parse(&message(&data), ROUTER, 255) {
                prop_assert!(advertisement.information().count() <= MAX_OPTIONS);
            }
        }
    }
}
