//! Two hosts on one thread over memory, as `stack_echo`, `stack_bulk` and `connect_rate` drive them.
//!
//! Each stack is one file: it builds a pair of hosts joined by a wire in memory and answers with a [`Run`](crate::kit::Run)
//! for each kind of traffic. A round trip is one request and one reply, so four passes through the stack.

pub mod demi;
#[cfg(feature = "peers")]
pub mod smoltcp;

/// A protocol to echo over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One byte stream a pair.
    Tcp,
    /// One datagram socket a side and pair.
    Udp,
}

/// What an echo bench asks for.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// Over which protocol.
    pub protocol: Protocol,
    /// Pairs of sockets; a round trip on each in turn.
    pub pairs: usize,
    /// Whether both hosts compute and verify checksums.
    pub checksums: bool,
}

/// Payload of an echo, in bytes.
pub const ECHO_BYTES: usize = 64;
/// Payload bytes that one operation of the bulk bench moves.
pub const BULK_BYTES: u64 = 64 * 1024;

impl Echo {
    /// The case's name.
    pub fn name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let sums = if self.checksums { "on" } else { "off" };
        let pairs = match self.pairs {
            pairs if pairs >= 1000 && pairs % 1000 == 0 => format!("{}k", pairs / 1000),
            pairs => pairs.to_string(),
        };
        format!("{protocol} {ECHO_BYTES} B, {pairs} pairs, sums {sums}")
    }
}
