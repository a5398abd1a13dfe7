//! ICMP and ICMPv6 (RFC 792, RFC 1122 §3.2.2, RFC 4443): errors told to others, at a limited rate, and errors told to us, traced
//! back to the flow they are about.
//!
//! Owns the rate limiter alone. Echo is answered in [`ingress`](crate::ingress), in the memory the request came in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::Instant;

use crate::egress::Egress;
use crate::hash::Random;
use crate::tcp::IcmpError;
use crate::tcp::output::Flow;
use crate::wire::{icmpv4, icmpv6, ipv4, ipv6, ipv6_ext, protocol};

/// Bytes an ICMP error has at most, IP header included (RFC 1812 §4.3.2.3).
const MAX_V4_BYTES: usize = 576;
/// Bytes an ICMPv6 error has at most, IP header included (RFC 4443 §2.4 c).
const MAX_V6_BYTES: usize = ipv6::MIN_MTU as usize;
/// Hop limit of messages.
const TTL: u8 = 64;

/// Allows so many errors a second, and short bursts.
///
/// How many of a burst are let through varies at random: a limit that is exact and common to all is a side channel, through which
/// a stranger learns whether somebody else's probe was answered (SAD DNS, CVE-2020-25705).
#[derive(Debug)]
pub(crate) struct Limiter {
    per_second: u32,
    burst: u32,
    tokens: u32,
    refilled: Instant,
    random: Random,
}

impl Limiter {
    pub(crate) fn new(per_second: u32, random: &mut Random) -> Limiter {
        let burst = (per_second / 20).max(1);
        Limiter {
            per_second,
            burst,
            tokens: burst,
            refilled: Instant::ZERO,
            random: Random::new(random.next_key()),
        }
    }

    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let nanos = now.as_nanos().saturating_sub(self.refilled.as_nanos());
        let due = u128::from(nanos) * u128::from(self.per_second) / 1_000_000_000;
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            let full = self.burst.saturating_sub(self.random.below(self.burst / 8 + 1));
            self.tokens = self.tokens.saturating_add(due).min(full.max(1));
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

/// An error to be told to the sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// Nobody listens on the port.
    PortUnreachable,
    /// Nobody handles the protocol; in IPv6 `pointer` is the byte that names it.
    ProtocolUnreachable {
        /// From the start of the IP header.
        pointer: u32,
    },
    /// A fragment did not arrive in time.
    ReassemblyTime,
    /// An IPv6 header field made no sense.
    Problem {
        /// Code of the message.
        code: u8,
        /// From the start of the IP header.
        pointer: u32,
    },
}

/// Tells `complaint` to the sender of an IPv4 packet, whose header and payload are `packet`. The caller has seen that the packet
/// was sent to us alone and by one station.
pub(crate) fn complain_v4(
    egress: &mut Egress,
    limiter: &mut Limiter,
    ours: Ipv4Addr,
    sender: Ipv4Addr,
    packet: &[u8],
    complaint: Complaint,
) {
    // RFC 1122 §3.2.2: an error about an error would be answered by another one.
    if is_error(packet) {
        return;
    }
    if !limiter.allows(egress.now) {
        egress.stats.v4.icmp.out_rate_limited += 1;
        return;
    }
    let room = MAX_V4_BYTES - ipv4::HEADER_LEN - icmpv4::HEADER_LEN;
    let quote = packet.get(..room).unwrap_or(packet);
    let stats = &mut egress.stats.v4.icmp;
    let message = match complaint {
        Complaint::PortUnreachable => icmpv4::Repr::Unreachable { code: 3, quote },
        Complaint::ProtocolUnreachable { .. } => icmpv4::Repr::Unreachable { code: 2, quote },
        Complaint::ReassemblyTime => icmpv4::Repr::TimeExceeded { code: 1, quote },
        Complaint::Problem { code, pointer } => {
            icmpv4::Repr::ParameterProblem { code, pointer: pointer as u8, quote }
        }
    };
    match complaint {
        Complaint::Problem { .. } => stats.out_parm_probs += 1,
        Complaint::ReassemblyTime => stats.out_time_excds += 1,
        _ => stats.out_dest_unreachs += 1,
    }
    stats.out_msgs += 1;
    egress.send_message(ours.into(), sender.into(), protocol::ICMP, TTL, message.len(), |out| {
        let emitted = message.emit(out);
        debug_assert!(emitted.is_ok());
    });
}

/// As [`complain_v4`], for IPv6.
pub(crate) fn complain_v6(
    egress: &mut Egress,
    limiter: &mut Limiter,
    ours: Ipv6Addr,
    sender: Ipv6Addr,
    packet: &[u8],
    complaint: Complaint,
) {
    // RFC 4443 §2.4 e
    if is_error(packet) {
        return;
    }
    if !limiter.allows(egress.now) {
        egress.stats.v6.icmp.out_rate_limited += 1;
        return;
    }
    let room = MAX_V6_BYTES - ipv6::HEADER_LEN - icmpv6::HEADER_LEN;
    let quote = packet.get(..room).unwrap_or(packet);
    let stats = &mut egress.stats.v6.icmp;
    let message = match complaint {
        Complaint::PortUnreachable => icmpv6::Repr::Unreachable { code: 4, quote },
        // RFC 8200 §4: an unrecognized next header is a parameter problem, code 1.
        Complaint::ProtocolUnreachable { pointer } => {
            icmpv6::Repr::ParameterProblem { code: 1, pointer, quote }
        }
        Complaint::ReassemblyTime => icmpv6::Repr::TimeExceeded { code: 1, quote },
        Complaint::Problem { code, pointer } => icmpv6::Repr::ParameterProblem { code, pointer, quote },
    };
    match complaint {
        Complaint::ReassemblyTime => stats.out_time_excds += 1,
        Complaint::PortUnreachable => stats.out_dest_unreachs += 1,
        _ => stats.out_parm_probs += 1,
    }
    stats.out_msgs += 1;
    egress.send_message(ours.into(), sender.into(), protocol::ICMPV6, TTL, message.len(), |out| {
        let emitted = message.emit(ours, sender, out);
        debug_assert!(emitted.is_ok());
    });
}

/// Whether a packet carries an error itself, or a redirect. What is not there to be read is none.
fn is_error(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let header_len = usize::from(packet[0] & 0x0f) * 4;
            // RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem.
            packet.get(9) == Some(&protocol::ICMP)
                && matches!(packet.get(header_len), Some(3 | 4 | 5 | 11 | 12))
        }
        Some(6) => {
            let (Some(next), Some(rest)) = (packet.get(6), packet.get(ipv6::HEADER_LEN..)) else {
                return false;
            };
            match ipv6_ext::upper_layer(*next, rest) {
                Ok(upper) => {
                    upper.protocol == protocol::ICMPV6
                        && rest.get(upper.offset).is_some_and(|kind| *kind < 128 || *kind == 137)
                }
                Err(_) => false,
            }
        }
        _ => false,
    }
}

/// What an error told to us says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The packet did not arrive.
    Error(IcmpError),
    /// The path carries packets of at most so many bytes; 0: fewer than that packet had.
    PathMtu(u16),
}

/// A packet of ours that an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) protocol: u8,
    /// As seen from here.
    pub(crate) flow: Flow,
    /// TCP's sequence number; 0 for others.
    pub(crate) seq: u32,
}

/// The error that an ICMP message tells of, and the packet it quotes; `None` for messages that are no errors.
pub(crate) fn error_v4<'a>(message: &icmpv4::Repr<'a>) -> Option<(Told, &'a [u8])> {
    Some(match *message {
        icmpv4::Repr::Unreachable { code, quote } => (Told::Error(unreachable_v4(code)), quote),
        icmpv4::Repr::TooBig { mtu, quote } => (Told::PathMtu(mtu), quote),
        icmpv4::Repr::TimeExceeded { quote, .. } => (Told::Error(IcmpError::TimeExceeded), quote),
        icmpv4::Repr::ParameterProblem { quote, .. } => (Told::Error(IcmpError::ParameterProblem), quote),
        _ => return None,
    })
}

fn unreachable_v4(code: u8) -> IcmpError {
    // RFC 1812 §5.2.7.1
    match code {
        0 | 6 | 11 => IcmpError::NetworkUnreachable,
        2 | 3 => IcmpError::ConnectionRefused,
        9 | 10 | 13 => IcmpError::Prohibited,
        _ => IcmpError::HostUnreachable,
    }
}

/// As [`error_v4`], for ICMPv6.
pub(crate) fn error_v6<'a>(message: &icmpv6::Repr<'a>) -> Option<(Told, &'a [u8])> {
    Some(match *message {
        icmpv6::Repr::Unreachable { code, quote } => {
            let error = match code {
                0 => IcmpError::NetworkUnreachable,
                4 => IcmpError::ConnectionRefused,
                1 | 5 | 6 => IcmpError::Prohibited,
                _ => IcmpError::HostUnreachable,
            };
            (Told::Error(error), quote)
        }
        icmpv6::Repr::TooBig { mtu, quote } => (Told::PathMtu(u16::try_from(mtu).unwrap_or(u16::MAX)), quote),
        icmpv6::Repr::TimeExceeded { quote, .. } => (Told::Error(IcmpError::TimeExceeded), quote),
        // RFC 4443 §3.4: code 1 means that the peer lacks the protocol.
        icmpv6::Repr::ParameterProblem { code: 1, quote, .. } => {
            (Told::Error(IcmpError::ConnectionRefused), quote)
        }
        icmpv6::Repr::ParameterProblem { quote, .. } => (Told::Error(IcmpError::ParameterProblem), quote),
        _ => return None,
    })
}

/// The flow of a packet of ours, of which at least the IP header and 8 bytes are there; the rest may be cut off.
pub(crate) fn quoted(packet: &[u8]) -> Option<Quoted> {
    let (local, remote, protocol, upper) = match packet.first()? >> 4 {
        4 => {
            let header: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            // The ports are in the first fragment only.
            if header_len < ipv4::HEADER_LEN || u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
                return None;
            }
            let address =
                |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            (address(12), address(16), header[9], packet.get(header_len..)?)
        }
        6 => {
            let (header, rest) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
            let upper = ipv6_ext::upper_layer(header[6], rest).ok()?;
            if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return None;
            }
            let local: [u8; 16] = *header[8..].first_chunk()?;
            let remote: [u8; 16] = *header[24..].first_chunk()?;
            (IpAddr::from(local), IpAddr::from(remote), upper.protocol, rest.get(upper.offset..)?)
        }
        _ => return None,
    };
    if !matches!(protocol, protocol::TCP | protocol::UDP) {
        return None;
    }
    let &[a, b, c, d, e, f, g, h] = upper.first_chunk::<8>()?;
    let flow = Flow {
        local,
        remote,
        local_port: u16::from_be_bytes([a, b]),
        remote_port: u16::from_be_bytes([c, d]),
    };
    let seq = if protocol == protocol::TCP { u32::from_be_bytes([e, f, g, h]) } else { 0 };
    Some(Quoted { protocol, flow, seq })
}

/// What a connected UDP socket reports of an error; `None` for errors that may pass by themselves (RFC 1122 §4.2.3.9).
pub(crate) fn udp_error(error: IcmpError) -> Option<io::ErrorKind> {
    match error {
        IcmpError::ConnectionRefused => Some(io::ErrorKind::ConnectionRefused),
        IcmpError::Prohibited => Some(io::ErrorKind::HostUnreachable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flood_gets_the_configured_rate_and_a_short_burst() {
        let mut limiter = Limiter::new(1000, &mut Random::new([1; 16]));
        let burst = (0..1000).filter(|_| limiter.allows(Instant::from_millis(5000))).count();
        assert!((40..=50).contains(&burst), "a burst of {burst}");
        let second = (0..100_000u64)
            .filter(|at| {
                limiter.allows(Instant::from_millis(6000) + core::time::Duration::from_micros(at * 10))
            })
            .count();
        assert!((990..=1060).contains(&second), "{second} in a second");
    }

    #[test]
    fn quotes_lead_back_to_their_flow() {
        let mut packet = vec![0; ipv4::HEADER_LEN];
        let header = ipv4::Repr {
            src: Ipv4Addr::new(10, 0, 0, 2),
            dst: Ipv4Addr::new(10, 0, 0, 9),
            protocol: protocol::TCP,
            tos: 0,
            ttl: 1,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: 1000,
        };
        header.emit(packet.first_chunk_mut().unwrap());
        packet.extend([0x30, 0x39, 0, 80, 0, 0, 1, 0]);
        let flow = Flow {
            local: IpAddr::from([10, 0, 0, 2]),
            remote: IpAddr::from([10, 0, 0, 9]),
            local_port: 12345,
            remote_port: 80,
        };
        assert_eq!(quoted(&packet), Some(Quoted { protocol: protocol::TCP, flow, seq: 256 }));
        packet[7] = 1;
        assert_eq!(quoted(&packet), None, "a later fragment has no ports");
        assert_eq!(quoted(&packet[..27]), None);
    }

    proptest! {
        #[test]
        fn any_quote_is_read_without_harm(mut bytes: Vec<u8>, version in prop::sample::select(vec![0x45u8, 0x4f, 0x60])) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let _ = quoted(&bytes);
        }
    }
}
