//! Wire formats: what the bytes of each protocol mean, and nothing about what to do with them.
//!
//! Every protocol file has one shape. A *view* over bytes whose `new_checked` proves once that every field the accessors read
//! is there (fixed headers become `&[u8; N]`, so that reading a field is one load); a *`Repr`*, the same as plain values, with
//! `parse` from the view and `emit` into bytes, each the other's inverse. What does not parse is [`Malformed`]; nothing here
//! panics on any input, allocates, or keeps state.

pub mod arp;
pub mod checksum;
pub mod dhcpv4;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ipv6_ext;
pub mod membership;
pub mod ndisc;
pub mod router;
pub mod tcp;
pub mod udp;
pub mod vlan;

use core::fmt;

/// Why bytes are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end before the header, or before the length a header gives.
    Truncated,
    /// A version or type field names another protocol than the one expected.
    Version,
    /// A length field contradicts itself: a header shorter than its fixed part, a total shorter than the header.
    Length,
    /// The checksum is wrong.
    Checksum,
    /// A field holds a value that its RFC forbids.
    Field,
    /// The buffer to emit into is too short.
    NoRoom,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "truncated",
            Malformed::Version => "of another version or type",
            Malformed::Length => "inconsistent length",
            Malformed::Checksum => "wrong checksum",
            Malformed::Field => "forbidden field value",
            Malformed::NoRoom => "buffer too short",
        })
    }
}

impl std::error::Error for Malformed {}

/// Numbers of the protocols carried by IP (IANA, "Protocol Numbers").
pub mod protocol {
    /// IPv6 Hop-by-Hop Options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 Routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 Destination Options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}
