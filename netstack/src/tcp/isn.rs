//! Numbers a stranger must not guess: initial sequence numbers (RFC 6528), timestamp offsets, ports, and the flow table's key.
//!
//! All come from one 16-byte secret through SipHash. The datapath never hashes with it.

use std::net::IpAddr;

use demi_drivers::Instant;
use siphasher::sip::SipHasher24;

use super::config::TcpConfig;
use super::output::Flow;
use super::seq::SeqNumber;

/// What a hash is for; no two uses see the same one.
#[derive(Clone, Copy)]
enum Use {
    Isn,
    Timestamp,
    Random,
    SynCookie,
    SynCookiePeriod,
    FastOpen,
}

/// Words of the longest message that is hashed: its use, two IPv6 addresses, ports and more.
const MESSAGE_WORDS: usize = 6;

/// The layer's secret.
pub(crate) struct Secret {
    key: [u8; 16],
    drawn: u64,
    /// The last timestamp offset, and whose it is: connections between the same two hosts often begin one after the other.
    offset: Option<(IpAddr, IpAddr, u32)>,
    /// Set by tests alone: see [`TcpConfig`].
    fixed_isn: Option<u32>,
    fixed_timestamp_offset: Option<u32>,
}

impl Secret {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Secret { key, drawn: 0, offset: None, fixed_isn: None, fixed_timestamp_offset: None }
    }

    /// This secret, with the numbers that `config` fixes.
    pub(crate) fn with_fixed(self, config: &TcpConfig) -> Self {
        let TcpConfig { fixed_isn, fixed_timestamp_offset, .. } = *config;
        Secret { fixed_isn, fixed_timestamp_offset, ..self }
    }

    /// `what` is all there is of it but its use: one message of whole words, so that no two of one use are the same bytes.
    fn hash<const N: usize>(&self, of: Use, what: [u64; N]) -> u64 {
        let mut message = [[0; 8]; MESSAGE_WORDS];
        let words = core::iter::once(of as u64).chain(what);
        for (place, word) in message.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        let bytes = message.as_flattened();
        SipHasher24::new_with_key(&self.key).hash(bytes.get(..8 * (1 + N)).unwrap_or(bytes))
    }

    /// A hash of two hosts, and of what else belongs to them. IPv4 and IPv6 differ in length.
    fn hash_hosts(&self, of: Use, local: IpAddr, remote: IpAddr, what: u64) -> u64 {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let hosts = u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits());
                self.hash(of, [hosts, what])
            }
            (local, remote) => {
                let [local, remote] = [local, remote].map(|address| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                    IpAddr::V6(v6) => v6.to_bits(),
                });
                let halves = [local, remote].map(|bits| [(bits >> 64) as u64, bits as u64]);
                let [[a, b], [c, d]] = halves;
                self.hash(of, [a, b, c, d, what])
            }
        }
    }

    fn hash_flow(&self, of: Use, flow: &Flow, more: u32) -> u64 {
        let ports = u32::from(flow.local_port) << 16 | u32::from(flow.remote_port);
        self.hash_hosts(of, flow.local, flow.remote, u64::from(more) << 32 | u64::from(ports))
    }

    /// The initial sequence number of a new connection: a hash of its addresses and ports, and a clock, so that it differs
    /// between flows without pattern and grows within one (RFC 6528 §3). The clock ticks every 64 ns, as Linux's.
    pub(crate) fn isn(&self, flow: &Flow, now: Instant) -> SeqNumber {
        let clock = (now.as_nanos() >> 6) as u32;
        SeqNumber::new(
            self.fixed_isn.unwrap_or_else(|| (self.hash_flow(Use::Isn, flow, 0) as u32).wrapping_add(clock)),
        )
    }

    /// What is added to the millisecond clock in timestamps: the same for all connections between two hosts, so that
    /// timestamps order successive ones (RFC 6191), and no way to learn our uptime (RFC 7323 §7.1).
    pub(crate) fn timestamp_offset(&mut self, local: IpAddr, remote: IpAddr) -> u32 {
        if let Some(offset) = self.fixed_timestamp_offset {
            return offset;
        }
        match self.offset {
            Some((ours, theirs, offset)) if ours == local && theirs == remote => offset,
            _ => {
                let offset = self.hash_hosts(Use::Timestamp, local, remote, 0) as u32;
                self.offset = Some((local, remote, offset));
                offset
            }
        }
    }

    /// A hash of a flow for SYN cookies: of a period, or of all time.
    pub(crate) fn cookie(&self, flow: &Flow, period: Option<u32>) -> u32 {
        let of = if period.is_some() { Use::SynCookiePeriod } else { Use::SynCookie };
        self.hash_flow(of, flow, period.unwrap_or(0)) as u32
    }

    /// The key of Fast Open cookies, where none is configured.
    pub(crate) fn fast_open_key(&self) -> [u8; 16] {
        let [low, high] = [0, 1].map(|half| self.hash(Use::FastOpen, [half]));
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    /// A number that nobody can foretell.
    pub(crate) fn random(&mut self) -> u64 {
        self.drawn += 1;
        self.hash(Use::Random, [self.drawn])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn flow(port: u16) -> Flow {
        Flow { local: [10, 0, 0, 1].into(), remote: [10, 0, 0, 2].into(), local_port: 80, remote_port: port }
    }

    #[test]
    fn isns_differ_by_flow_and_by_secret() {
        let (a, b) = (Secret::new([1; 16]), Secret::new([2; 16]));
        let of_a: HashSet<_> = (0..1000).map(|port| a.isn(&flow(port), Instant::ZERO)).collect();
        assert!(of_a.len() > 998, "{} of 1000 differ", of_a.len());
        let shared = (0..1000).filter(|&port| of_a.contains(&b.isn(&flow(port), Instant::ZERO))).count();
        assert!(shared < 3, "{shared} shared by two secrets");
        let steps: HashSet<_> = (0..100)
            .map(|port| a.isn(&flow(port + 1), Instant::ZERO) - a.isn(&flow(port), Instant::ZERO))
            .collect();
        assert!(steps.len() > 98, "no constant step from port to port");
    }

    #[test]
    fn isns_of_one_flow_grow_with_the_clock() {
        let secret = Secret::new([3; 16]);
        let (then, later) = (Instant::from_millis(7), Instant::from_millis(7) + Duration::from_millis(1));
        assert_eq!(secret.isn(&flow(1), later) - secret.isn(&flow(1), then), 1_000_000 / 64);
    }

    #[test]
    fn timestamp_offsets_are_one_a_pair_of_hosts() {
        let mut secret = Secret::new([3; 16]);
        let [ours, peer, other] = [1, 2, 3].map(|host| IpAddr::from([10, 0, 0, host]));
        let offset = secret.timestamp_offset(ours, peer);
        assert_eq!(secret.timestamp_offset(ours, peer), offset);
        assert_ne!(secret.timestamp_offset(ours, other), offset);
        assert_ne!(secret.timestamp_offset(peer, ours), offset);
        assert_eq!(secret.timestamp_offset(ours, peer), offset);
    }

    #[test]
    fn a_test_may_fix_where_numbers_begin() {
        let config =
            TcpConfig { fixed_isn: Some(5), fixed_timestamp_offset: Some(6), ..TcpConfig::default() };
        let mut secret = Secret::new([3; 16]).with_fixed(&config);
        assert_eq!(secret.isn(&flow(1), Instant::from_millis(7)), SeqNumber::new(5));
        assert_eq!(secret.timestamp_offset(flow(1).local, flow(1).remote), 6);
    }

    #[test]
    fn random_numbers_do_not_repeat() {
        let mut secret = Secret::new([4; 16]);
        let drawn: HashSet<_> = (0..10_000).map(|_| secret.random()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
