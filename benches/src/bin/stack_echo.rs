//! A 64-byte echo between two whole hosts in memory: wire to application to wire, four passes through the stack.
//!
//! TCP and UDP, one pair of sockets to 100,000, checksums computed and verified or left out. Ours runs through the
//! executor and the public API on both sides; smoltcp, whose cost grows with the number of its sockets, is called
//! directly and left out of the cases it would spend minutes in.

use demi_benches::kit::{Args, Group, Unit, measure};
use demi_benches::stack::demi::Style;
use demi_benches::stack::{self, Echo, Protocol};

/// More sockets than this would take smoltcp milliseconds a round trip.
#[cfg(feature = "peers")]
const SMOLTCP_PAIRS: usize = 1_000;

fn main() {
    let args = Args::parse("64 B echo of two hosts in memory, nanoseconds a round trip.", &[]);
    let mut groups = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for pairs in [1, 1_000, 10_000, 100_000] {
            for checksums in [true, false] {
                // One datagram socket or ten thousand is one look-up either way.
                if (pairs > 1 && !checksums) || (protocol == Protocol::Udp && pairs > 1_000) {
                    continue;
                }
                groups.push(group(Echo { protocol, pairs, checksums }));
            }
        }
    }
    measure("stack_echo", &args, groups);
}

fn group(case: Echo) -> Group {
    let group = [Style::Owned, Style::Copied]
        .into_iter()
        .fold(Group::new(case.name(), Unit::Nanos), |group, style| {
            group.peer(style.name(), move || stack::demi::echo(case, style))
        });
    #[cfg(feature = "peers")]
    if case.pairs <= SMOLTCP_PAIRS {
        return group.peer("smoltcp", move || stack::smoltcp::echo(case));
    }
    group
}
