//! # demi-fuzz: what reads the bytes of strangers, read by a fuzzer
//!
//! A target is a plain function of bytes that panics when something is wrong ([`TARGETS`]). libFuzzer calls it through
//! `fuzz_targets/`, the replay of the committed corpus calls it as an ordinary test. See `CONTRIBUTING.md` for how to run both.
//!
//! - `input`: bytes as decisions. `frames`: packets with right lengths and checksums, so that what is tested is what lies behind
//!   those checks; and the judge of what the stack sends. `host`: one stack between a fuzzer's hands, with the invariants that
//!   hold whatever comes. `peer`: a TCP that keeps real sequence numbers, for targets that must get beyond the handshake.
//! - `targets`: one protocol, or one seam, a file.
//! - `seeds`: the committed corpus, as code.

#![forbid(unsafe_code)]

pub mod frames;
pub mod host;
pub mod input;
pub mod peer;
pub mod seeds;
pub mod targets;

#[cfg(test)]
mod replay;

/// A target: its name, which is that of its corpus, too, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("config", targets::config::run),
    ("dhcp", targets::dhcp::run),
    ("differential", targets::differential::run),
    ("dns", targets::dns::run),
    ("ethernet", targets::ethernet::run),
    ("groups", targets::groups::run),
    ("icmp", targets::icmp::run),
    ("ipv4", targets::ipv4::run),
    ("ipv6", targets::ipv6::run),
    ("link", targets::link::run),
    ("neighbors", targets::neighbors::run),
    ("packetdrill", targets::packetdrill::run),
    ("rdma_peer", targets::rdma_peer::run),
    ("reassembly", targets::reassembly::run),
    ("stack", targets::stack::run),
    ("tcp_options", targets::tcp_options::run),
    ("tcp_peer", targets::tcp_peer::run),
    ("vnet", targets::vnet::run),
];

/// The target called `name`.
pub fn find(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
