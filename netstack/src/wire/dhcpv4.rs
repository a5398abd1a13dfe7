//! DHCP for IPv4 (RFC 2131, RFC 2132): what a client asks and what a server answers.
//!
//! Options that come in several parts are joined (RFC 3396), also from the fields that may be lent to them (option 52). What a
//! server may tell any number of is cut off at bounds of our own.

use core::time::Duration;
use std::net::Ipv4Addr;

use smallvec::SmallVec;

use super::Malformed;
use super::ethernet::Mac;

/// Port of clients.
pub const CLIENT_PORT: u16 = 68;
/// Port of servers.
pub const SERVER_PORT: u16 = 67;
/// Bytes of a client's message: the least that relays of BOOTP pass on (RFC 1542 §2.1).
pub const REQUEST_LEN: usize = 300;

/// Bytes before the options, the magic number included.
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Routes, and addresses of one kind, that are read.
const MAX_ROUTES: usize = 64;
const MAX_ADDRESSES: usize = 8;

/// Kind of a message (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who leases addresses?
    Discover,
    /// I do, for example this one.
    Offer,
    /// I want that one (still).
    Request,
    /// It is somebody else's.
    Decline,
    /// You have it.
    Ack,
    /// You have not.
    Nak,
    /// I do not need it any more.
    Release,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Discover,
            2 => Kind::Offer,
            3 => Kind::Request,
            4 => Kind::Decline,
            5 => Kind::Ack,
            6 => Kind::Nak,
            7 => Kind::Release,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        match self {
            Kind::Discover => 1,
            Kind::Offer => 2,
            Kind::Request => 3,
            Kind::Decline => 4,
            Kind::Ack => 5,
            Kind::Nak => 6,
            Kind::Release => 7,
        }
    }
}

/// A client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub kind: Kind,
    /// Number of the transaction.
    pub xid: u32,
    /// Seconds since it began to want it.
    pub secs: u16,
    /// The answer is to be broadcast: the client has no address to receive it at.
    pub broadcast: bool,
    /// The client's address, if it is in use.
    pub client: Ipv4Addr,
    /// The client's station.
    pub mac: Mac,
    /// The address it wants.
    pub requested: Option<Ipv4Addr>,
    /// The server it wants it from.
    pub server: Option<Ipv4Addr>,
}

impl Request {
    /// Writes the message.
    pub fn emit(&self, out: &mut [u8; REQUEST_LEN]) {
        out.fill(0);
        // A request, over Ethernet, addresses of 6 bytes.
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.secs.to_be_bytes());
        out[10] = u8::from(self.broadcast) << 7;
        out[12..16].copy_from_slice(&self.client.octets());
        out[28..34].copy_from_slice(&self.mac.0);
        out[236..240].copy_from_slice(&MAGIC);
        let mut options: SmallVec<[u8; 64]> = SmallVec::new();
        options.extend([53, 1, self.kind.number()]);
        // RFC 2132 §9.14: who we are, by our station.
        options.extend([61, 7, 1]);
        options.extend(self.mac.0);
        for (code, address) in [(50, self.requested), (54, self.server)] {
            if let Some(address) = address {
                options.extend([code, 4]);
                options.extend(address.octets());
            }
        }
        if matches!(self.kind, Kind::Discover | Kind::Request) {
            // The largest answer, and what we want to know. RFC 3442: classless routes before routers.
            options.extend([57, 2, 0x05, 0xdc]);
            options.extend([55, 8, 1, 121, 3, 6, 15, 26, 58, 59]);
        }
        options.push(255);
        for (to, from) in out[FIXED..].iter_mut().zip(options) {
            *to = from;
        }
    }
}

/// A route of a lease: a network, and the router to it; unspecified: on the link (RFC 3442).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub network: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix_len: u8,
    /// The router.
    pub router: Ipv4Addr,
}

/// A server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it says.
    pub kind: Kind,
    /// Number of the transaction.
    pub xid: u32,
    /// The client's station.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
    /// The server (option 54).
    pub server: Option<Ipv4Addr>,
    /// Bits of the address's network (option 1).
    pub prefix_len: Option<u8>,
    /// Routers, the preferred one first (option 3).
    pub routers: SmallVec<[Ipv4Addr; 2]>,
    /// Name servers, the preferred one first (option 6).
    pub name_servers: SmallVec<[Ipv4Addr; 4]>,
    /// The domain to look names up in (option 15).
    pub domain: Option<String>,
    /// The link's MTU (option 26).
    pub mtu: Option<u16>,
    /// How long the address is leased (option 51); `None` in a lease: for ever.
    pub lease: Option<Duration>,
    /// When to ask the server for more time (option 58).
    pub renew: Option<Duration>,
    /// When to ask anybody (option 59).
    pub rebind: Option<Duration>,
    /// Classless routes (option 121); if there are some, `routers` is to be ignored.
    pub routes: SmallVec<[Route; 2]>,
}

impl Reply {
    /// The server's message in `bytes`, the payload of a datagram.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Version`] for what is no server's message to an Ethernet station;
    /// [`Malformed::Field`] without a kind.
    pub fn parse(bytes: &[u8]) -> Result<Reply, Malformed> {
        let (fixed, options) = bytes.split_first_chunk::<FIXED>().ok_or(Malformed::Truncated)?;
        if fixed[..3] != [2, 1, 6] || fixed[236..] != MAGIC {
            return Err(Malformed::Version);
        }
        let overload = find(&[options], 52).first().copied().unwrap_or(0);
        let (file, name) = (&fixed[108..236], &fixed[44..108]);
        let nothing: &[u8] = &[];
        let areas = [
            options,
            if overload & 1 != 0 { file } else { nothing },
            if overload & 2 != 0 { name } else { nothing },
        ];
        let find = |code| find(&areas, code);
        let address = |code| find(code).first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
        let seconds = |code| find(code).first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let time = |code| {
            let seconds = seconds(code).filter(|seconds| *seconds != u32::MAX)?;
            Some(Duration::from_secs(seconds.into()))
        };
        let kind = find(53).first().copied().and_then(Kind::from_number).ok_or(Malformed::Field)?;
        let [m0, m1, m2, m3, m4, m5] = [fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33]];
        Ok(Reply {
            kind,
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            mac: Mac([m0, m1, m2, m3, m4, m5]),
            address: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            server: address(54),
            prefix_len: address(1).and_then(prefix_len),
            routers: addresses(&find(3)),
            name_servers: addresses(&find(6)),
            domain: domain(&find(15)),
            mtu: find(26).first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)),
            lease: time(51),
            renew: time(58),
            rebind: time(59),
            routes: routes(&find(121)),
        })
    }
}

/// The value of an option, its parts joined; empty when it is not there.
fn find(areas: &[&[u8]], wanted: u8) -> SmallVec<[u8; 32]> {
    let mut value = SmallVec::new();
    for area in areas {
        let mut left = *area;
        while let [code, rest @ ..] = left {
            match code {
                0 => left = rest,
                255 => break,
                _ => {
                    let [len, rest @ ..] = rest else { break };
                    let Some((option, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
                    if *code == wanted {
                        value.extend_from_slice(option);
                    }
                    left = rest;
                }
            }
        }
    }
    value
}

fn addresses<A: smallvec::Array<Item = Ipv4Addr>>(bytes: &[u8]) -> SmallVec<A> {
    let (addresses, _) = bytes.as_chunks::<4>();
    addresses.iter().take(MAX_ADDRESSES).map(|octets| Ipv4Addr::from(*octets)).collect()
}

/// Bits of a mask, if it is one.
fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX).then(|| bits.leading_ones() as u8)
}

/// A domain's name, if it can be one.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(bytes).ok()?.trim_end_matches(['\0', '.']);
    let fits = !text.is_empty() && text.len() <= 253;
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    (fits && plain).then(|| text.to_owned())
}

/// RFC 3442: a prefix's length, as many of its bytes as matter, the router.
fn routes(mut bytes: &[u8]) -> SmallVec<[Route; 2]> {
    let mut routes = SmallVec::new();
    while let [prefix_len @ 0..=32, rest @ ..] = bytes {
        let significant = usize::from(prefix_len.div_ceil(8));
        let Some((network, rest)) = rest.split_at_checked(significant) else { break };
        let Some((router, rest)) = rest.split_first_chunk::<4>() else { break };
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(network);
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix_len)).unwrap_or(0);
        let network = Ipv4Addr::from_bits(Ipv4Addr::from(octets).to_bits() & mask);
        routes.push(Route { network, prefix_len: *prefix_len, router: Ipv4Addr::from(*router) });
        if routes.len() >= MAX_ROUTES {
            break;
        }
        bytes = rest;
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&7u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 0, 50]);
        bytes[28..34].copy_from_slice(&MAC.0);
        bytes[236..240].copy_from_slice(&MAGIC);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn an_answer_is_read_with_all_that_we_ask_for() {
        let options = [
            &[53, 1, 5, 0, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0, 12, 78][..],
            &[1, 4, 255, 255, 255, 0, 3, 8, 10, 0, 0, 1, 10, 0, 0, 2, 6, 4, 9, 9, 9, 9, 26, 2, 5, 120],
            &[15, 12],
            b"example.org.",
            &[121, 14, 24, 192, 168, 7, 10, 0, 0, 9, 0, 10, 0, 0, 1, 32],
            &[121, 8, 10, 1, 2, 3, 0, 0, 0, 0, 255, 53, 1, 6],
        ];
        let parsed = Reply::parse(&reply(&options.concat())).unwrap();
        assert_eq!((parsed.kind, parsed.xid, parsed.mac), (Kind::Ack, 7, MAC));
        assert_eq!(parsed.address, Ipv4Addr::new(10, 0, 0, 50));
        assert_eq!(parsed.server, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(parsed.prefix_len, Some(24));
        assert_eq!(parsed.routers[..], [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(parsed.name_servers[..], [Ipv4Addr::new(9, 9, 9, 9)]);
        assert_eq!(parsed.domain.as_deref(), Some("example.org"));
        assert_eq!(parsed.mtu, Some(1400));
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!((parsed.lease, parsed.renew, parsed.rebind), (secs(3600), secs(1800), secs(3150)));
        // The last route came in two parts (RFC 3396).
        let route = |network: [u8; 4], prefix_len, router: [u8; 4]| Route {
            network: network.into(),
            prefix_len,
            router: router.into(),
        };
        let expected = [
            route([192, 168, 7, 0], 24, [10, 0, 0, 9]),
            route([0; 4], 0, [10, 0, 0, 1]),
            route([10, 1, 2, 3], 32, [0; 4]),
        ];
        assert_eq!(parsed.routes[..], expected);
    }

    #[test]
    fn fields_that_are_lent_to_options_are_read_too() {
        let mut bytes = reply(&[53, 1, 2, 52, 1, 3, 255]);
        bytes[108..115].copy_from_slice(&[54, 4, 10, 0, 0, 1, 255]);
        bytes[44..50].copy_from_slice(&[1, 4, 255, 255, 0, 0]);
        let parsed = Reply::parse(&bytes).unwrap();
        assert_eq!((parsed.server, parsed.prefix_len), (Some(Ipv4Addr::new(10, 0, 0, 1)), Some(16)));
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let options =
            [53, 1, 2, 1, 4, 255, 0, 255, 0, 51, 4, 255, 255, 255, 255, 15, 3, b'a', b' ', b'b', 121, 1, 33];
        let parsed = Reply::parse(&reply(&options)).unwrap();
        assert_eq!((parsed.prefix_len, parsed.lease, parsed.domain), (None, None, None));
        assert!(parsed.routes.is_empty());
        assert_eq!(Reply::parse(&reply(&[255])), Err(Malformed::Field));
        assert_eq!(Reply::parse(&reply(&[53, 1, 2])[..239]), Err(Malformed::Truncated));
        let mut request = [0; REQUEST_LEN];
        let kind = Kind::Discover;
        let client = Ipv4Addr::UNSPECIFIED;
        let broadcast = true;
        Request { kind, xid: 1, secs: 0, broadcast, client, mac: MAC, requested: None, server: None }
            .emit(&mut request);
        assert_eq!(Reply::parse(&request), Err(Malformed::Version));
        assert_eq!(request[..12], [1, 1, 6, 0, 0, 0, 0, 1, 0, 0, 0x80, 0]);
    }

    proptest! {
        #[test]
        fn any_options_end_within_themselves(options: Vec<u8>) {
            if let Ok(parsed) = Reply::parse(&reply(&[&[53, 1, 2, 52, 1, 3][..], &options].concat())) {
                prop_assert!(parsed.routes.len() <= MAX_ROUTES && parsed.routers.len() <= MAX_ADDRESSES);
            }
        }
    }
}
