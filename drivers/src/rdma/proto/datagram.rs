//! Datagrams: the header in front of each, what adapters put in front of that, and what the two ends say of themselves.
//!
//! ```text
//!  0     1     2        4        6        8                8 + A            8 + 2A
//!  ┌─────┬─────┬────────┬────────┬────────┬────────────────┬────────────────┬─────────
//!  │v. d1│4 / 6│ bytes  │ from   │ to     │ sender         │ receiver       │ payload     big endian
//!  └─────┴─────┴────────┴────────┴────────┴────────────────┴────────────────┴─────────
//! ```
//!
//! `A` is 4 for IPv4 and 16 for IPv6. The addresses are there because InfiniBand's own tell nothing of IP's; over Ethernet (RoCE) the
//! network's header has them as well, and a datagram whose two senders differ is a lie. Views only: nothing here holds a byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::mem::sum;

/// What adapters put in front of every datagram: a global routing header, or IPv4's in the last bytes of that room.
pub const GRH_BYTES: usize = 40;
/// Bytes of the header between two IPv4 addresses.
pub const HEAD_V4_BYTES: usize = 16;
/// Bytes of the header between two IPv6 addresses.
pub const HEAD_V6_BYTES: usize = 40;
/// Bytes of what an end says of itself when it looks for another, and is looked for.
pub const INTRODUCTION_BYTES: usize = 16;
/// Those of them that have to be there.
const LEAST_INTRODUCTION_BYTES: usize = 8;

const VERSION: u8 = 0xd1;
const MAGIC: [u8; 4] = *b"demu";
/// The shortest limit of a datagram that an end may set, header included.
const LEAST_BYTES: u16 = 128;

const IPPROTO_UDP: u8 = 17;
/// InfiniBand's own header follows: RoCE's first version, and InfiniBand.
const IBA: u8 = 0x1b;

/// Who sends to whom, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver, of the same version of IP.
    pub to: SocketAddr,
    /// Bytes of payload.
    pub bytes: u16,
}

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// It is cut off, or longer or shorter than it says.
    Length,
    /// It is of no version that this end speaks, or of nothing like it.
    Version,
    /// Its addresses are not those that it came from and to, or are nobody's.
    Address,
}

impl Head {
    /// Bytes that the header between `from`'s kind of addresses takes.
    #[inline]
    pub fn len_of(ip: IpAddr) -> usize {
        if ip.is_ipv4() { HEAD_V4_BYTES } else { HEAD_V6_BYTES }
    }

    /// Bytes that this takes.
    #[inline]
    pub fn len(&self) -> usize {
        Head::len_of(self.from.ip())
    }

    /// Never.
    #[inline]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header to the front of `out`, if it has room.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let Some((fixed, rest)) = out.split_first_chunk_mut::<8>() else { return };
        let kind = if self.from.is_ipv4() { 4 } else { 6 };
        fixed[..2].copy_from_slice(&[VERSION, kind]);
        fixed[2..4].copy_from_slice(&self.bytes.to_be_bytes());
        fixed[4..6].copy_from_slice(&self.from.port().to_be_bytes());
        fixed[6..8].copy_from_slice(&self.to.port().to_be_bytes());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                if let Some(out) = rest.first_chunk_mut::<8>() {
                    out[..4].copy_from_slice(&from.octets());
                    out[4..].copy_from_slice(&to.octets());
                }
            }
            (from, to) => {
                if let Some(out) = rest.first_chunk_mut::<32>() {
                    out[..16].copy_from_slice(&in_six(from));
                    out[16..].copy_from_slice(&in_six(to));
                }
            }
        }
    }

    /// The header in front of `datagram`, which is all that came behind [`GRH_BYTES`].
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Head, Malformed> {
        let (fixed, rest) = datagram.split_first_chunk::<8>().ok_or(Malformed::Length)?;
        let two = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let (bytes, from_port, to_port) = (two(2), two(4), two(6));
        let (from, to, payload) = match [fixed[0], fixed[1]] {
            [VERSION, 4] => {
                let (&[a, b, c, d, e, f, g, h], payload) =
                    rest.split_first_chunk::<8>().ok_or(Malformed::Length)?;
                (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]), payload)
            }
            [VERSION, 6] => {
                let (from, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Length)?;
                let (to, payload) = rest.split_first_chunk::<16>().ok_or(Malformed::Length)?;
                (IpAddr::from(*from), IpAddr::from(*to), payload)
            }
            _ => return Err(Malformed::Version),
        };
        if payload.len() != usize::from(bytes) {
            return Err(Malformed::Length);
        }
        let nobody = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast() || ip.to_canonical() != ip;
        if nobody(from) || nobody(to) || from_port == 0 || to_port == 0 {
            return Err(Malformed::Address);
        }
        Ok(Head { from: SocketAddr::new(from, from_port), to: SocketAddr::new(to, to_port), bytes })
    }

    /// Whether this came between the addresses that the network's header has.
    ///
    /// # Errors
    /// [`Malformed::Address`] when it did not.
    #[inline]
    pub fn check(&self, network: &[u8; GRH_BYTES]) -> Result<(), Malformed> {
        match ends(network) {
            Some(ends) if ends == (self.from.ip(), self.to.ip()) => Ok(()),
            _ => Err(Malformed::Address),
        }
    }
}

fn in_six(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Sender and receiver by the network's header over Ethernet: IPv6's or one like it, or IPv4's behind 20 bytes that may be anything.
///
/// What those are decides nothing unless both could be meant: then IPv4's own checksum does. It is not looked at otherwise, as a
/// datagram from the device to itself may have none.
#[inline]
pub fn ends(network: &[u8; GRH_BYTES]) -> Option<(IpAddr, IpAddr)> {
    let v4: &[u8; 20] = network.last_chunk()?;
    let is_six = network[0] >> 4 == 6 && matches!(network[6], IPPROTO_UDP | IBA);
    let is_four = v4[0] == 0x45 && v4[9] == IPPROTO_UDP;
    if is_four && (!is_six || sum(v4).is_multiple_of(0xffff)) {
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(v4[at], v4[at + 1], v4[at + 2], v4[at + 3]));
        return Some((address(12), address(16)));
    }
    let (_, addresses) = network.split_first_chunk::<8>()?;
    let (from, to) = addresses.split_first_chunk::<16>()?;
    let address = |bytes: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical();
    is_six.then_some((address(from), address(to.first_chunk()?)))
}

/// What an end says of itself: the longest datagram that it takes, header included, and a number by which whoever is asked knows it again.
/// Bytes behind it mean nothing.
pub fn introduce(most: u16, who: u64) -> [u8; INTRODUCTION_BYTES] {
    let mut bytes = [0; INTRODUCTION_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[6..8].copy_from_slice(&most.to_be_bytes());
    bytes[8..].copy_from_slice(&who.to_be_bytes());
    bytes
}

/// The number by which the other end is known again; 0 of one that does not say.
pub fn who(bytes: &[u8]) -> u64 {
    let (_, who) = bytes.split_at_checked(LEAST_INTRODUCTION_BYTES).unwrap_or_default();
    who.first_chunk().map_or(0, |who| u64::from_be_bytes(*who))
}

/// The longest datagram that the other end takes; `None` of one that does not speak this.
pub fn introduced(bytes: &[u8]) -> Option<u16> {
    let bytes: &[u8; LEAST_INTRODUCTION_BYTES] = bytes.first_chunk()?;
    let most = u16::from_be_bytes([bytes[6], bytes[7]]);
    (bytes[..4] == MAGIC && bytes[4] == VERSION && most >= LEAST_BYTES).then_some(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(from: &str, to: &str, bytes: u16) -> Head {
        Head { from: from.parse().unwrap(), to: to.parse().unwrap(), bytes }
    }

    fn datagram(head: &Head) -> Vec<u8> {
        let mut bytes = vec![0x5a; head.len() + usize::from(head.bytes)];
        head.emit(&mut bytes);
        bytes
    }

    /// What an adapter puts in front of a datagram between two addresses; in front of IPv4's, `junk`.
    fn network(from: IpAddr, to: IpAddr, next: u8, junk: u8) -> [u8; GRH_BYTES] {
        let mut grh = [junk; GRH_BYTES];
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let v4 = &mut grh[20..];
                v4.fill(0);
                (v4[0], v4[9]) = (0x45, next);
                v4[12..16].copy_from_slice(&from.octets());
                v4[16..].copy_from_slice(&to.octets());
                let rest = 0xffff - (sum(v4) % 0xffff) as u16;
                v4[10..12].copy_from_slice(&rest.to_ne_bytes());
            }
            (from, to) => {
                grh[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, next, 64]);
                grh[8..24].copy_from_slice(&in_six(from));
                grh[24..].copy_from_slice(&in_six(to));
            }
        }
        grh
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for head in [
            head("10.77.0.1:5000", "10.77.0.2:7", 0),
            head("10.77.0.1:1", "10.77.0.1:65535", 4080),
            head("[fd77::1]:9", "[fd77::2]:53", 17),
        ] {
            assert_eq!(Head::parse(&datagram(&head)), Ok(head));
        }
    }

    #[test]
    fn what_is_cut_off_or_longer_than_it_says_is_refused() {
        for head in [head("10.77.0.1:5000", "10.77.0.2:7", 3), head("[fd77::1]:9", "[fd77::2]:53", 3)] {
            let bytes = datagram(&head);
            for len in 0..bytes.len() {
                assert_eq!(Head::parse(&bytes[..len]), Err(Malformed::Length), "{len} bytes");
            }
            assert_eq!(Head::parse(&[&bytes[..], &[0]].concat()), Err(Malformed::Length));
        }
    }

    #[test]
    fn other_versions_are_refused() {
        let mut bytes = datagram(&head("10.77.0.1:5000", "10.77.0.2:7", 3));
        for (at, value) in [(0, 0xd2), (0, 0), (1, 5), (1, 0)] {
            let before = std::mem::replace(&mut bytes[at], value);
            assert_eq!(Head::parse(&bytes), Err(Malformed::Version), "byte {at} is {value}");
            bytes[at] = before;
        }
    }

    #[test]
    fn nobodys_addresses_are_refused() {
        for bad in [
            head("0.0.0.0:5000", "10.77.0.2:7", 3),
            head("224.0.0.1:5000", "10.77.0.2:7", 3),
            head("10.77.0.1:0", "10.77.0.2:7", 3),
            head("10.77.0.1:1", "10.77.0.2:0", 3),
            head("[::]:1", "[fd77::2]:1", 3),
            head("[::ffff:10.77.0.1]:1", "[fd77::2]:1", 3),
            head("[fd77::1]:1", "[ff02::1]:1", 3),
        ] {
            assert_eq!(Head::parse(&datagram(&bad)), Err(Malformed::Address), "{bad:?}");
        }
    }

    #[test]
    fn a_sender_that_the_network_does_not_know_is_a_lie() {
        for (head, next) in [
            (head("10.77.0.1:5000", "10.77.0.2:7", 3), IPPROTO_UDP),
            (head("[fd77::1]:9", "[fd77::2]:53", 3), IPPROTO_UDP),
            (head("[fd77::1]:9", "[fd77::2]:53", 3), IBA),
        ] {
            for junk in [0, 0x60, 0xff] {
                let honest = network(head.from.ip(), head.to.ip(), next, junk);
                assert_eq!(head.check(&honest), Ok(()));
                let crossed = network(head.to.ip(), head.from.ip(), next, junk);
                assert_eq!(head.check(&crossed), Err(Malformed::Address));
            }
        }
        let four = head("10.77.0.1:5000", "10.77.0.2:7", 3);
        assert_eq!(four.check(&[0; GRH_BYTES]), Err(Malformed::Address), "no header at all");
        let mapped = ["::ffff:10.77.0.1", "::ffff:10.77.0.2"].map(|text| text.parse().unwrap());
        assert_eq!(four.check(&network(mapped[0], mapped[1], IBA, 0)), Ok(()), "RoCE's first version");
    }

    #[test]
    fn what_lies_in_front_of_ipv4s_header_decides_nothing() {
        let (from, to) = ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap());
        let mut bytes = network(from, to, IPPROTO_UDP, 0);
        // What is left of a datagram over IPv6 that was received there before.
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 9, IPPROTO_UDP, 64]);
        assert_eq!(ends(&bytes), Some((from, to)));
        // And a datagram that never left the device has no checksum.
        bytes[..8].fill(0);
        bytes[30..32].fill(0);
        assert_eq!(ends(&bytes), Some((from, to)));
    }

    #[test]
    fn strangers_say_nothing_of_themselves() {
        assert_eq!(introduced(&introduce(1024, 7)), Some(1024));
        let mut padded = introduce(4096, 0x0102_0304).to_vec();
        padded.resize(180, 0);
        assert_eq!(introduced(&padded), Some(4096));
        assert_eq!((who(&padded), who(&padded[..12]), who(&[])), (0x0102_0304, 0, 0));
        assert_eq!(introduced(&introduce(LEAST_BYTES - 1, 7)), None);
        assert_eq!(introduced(b"demi\xd1\0\x10\0"), None);
        assert_eq!(introduced(&introduce(1024, 7)[..7]), None);
        assert_eq!(introduced(&[]), None);
    }

    proptest! {
        #[test]
        fn anything_may_come(
            mut bytes in prop::collection::vec(any::<u8>(), 0..96),
            network in prop::collection::vec(any::<u8>(), GRH_BYTES),
            ours in any::<bool>(), kind in 0u8..8, len in 0u8..64,
        ) {
            if ours && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[VERSION, kind, 0, len]);
            }
            let network: [u8; GRH_BYTES] = network.try_into().unwrap();
            let _ = introduced(&bytes);
            if let Ok(head) = Head::parse(&bytes) {
                prop_assert_eq!(head.len() + usize::from(head.bytes), bytes.len());
                let mut again = bytes.clone();
                again[..head.len()].fill(0);
                head.emit(&mut again);
                prop_assert_eq!(again, bytes);
                if head.check(&network).is_ok() {
                    prop_assert_eq!(ends(&network), Some((head.from.ip(), head.to.ip())));
                }
            }
        }
    }
}
