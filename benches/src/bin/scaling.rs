//! How the cost of an echo grows: with the number of connections, each in its turn, and with the payload.
//!
//! Two whole hosts in memory on one core, checksums on, as in `stack_echo`. smoltcp is beside us where that ends within a run.

use demi_benches::kit::{Args, Flag, Group, Unit, measure};
use demi_benches::stack::demi::{AT_ONCE, Style};
use demi_benches::stack::{self, Echo, Protocol};

const FLAGS: &[Flag] = &[
    Flag {
        name: "connections",
        value: Some("N,N,..."),
        help: "connections, one case for each (1 to 1000000; with less than a second a case to 1000)",
    },
    Flag {
        name: "at-once",
        value: Some("N,N,..."),
        help: "connections of which 32 are busy at once, one case for each (32 to 960000; multiples of 32)",
    },
    Flag {
        name: "payload",
        value: Some("BYTES,..."),
        help: "bytes a request, one case for each (1 to 1048576; with less than a second a case to 65536)",
    },
];

/// More sockets than this would take smoltcp milliseconds a round trip.
#[cfg(feature = "peers")]
const SMOLTCP_CONNECTIONS: usize = 1_000;

fn main() {
    let args = Args::parse("Cost of a TCP echo over connections and payload, in memory.", FLAGS);
    let short = args.number("seconds", 2.0) < 1.0;
    let connections = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
    let at_once = [32, 320, 3_200, 32_000, 96_000, 960_000];
    let payloads = [1, 16, 64, 256, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20];
    let mut groups = Vec::new();
    for pairs in args.numbers("connections", if short { &connections[..4] } else { &connections }) {
        groups.push(by_connections(pairs));
    }
    for pairs in args.numbers("at-once", if short { &at_once[..2] } else { &at_once }) {
        groups.push(by_connections_at_once(pairs));
    }
    for bytes in args.numbers("payload", if short { &payloads[..8] } else { &payloads }) {
        groups.push(by_payload(bytes));
    }
    measure("scaling", &args, groups);
}

fn by_connections(pairs: usize) -> Group {
    let case = Echo { protocol: Protocol::Tcp, pairs, checksums: true };
    let group = Group::new(format!("{pairs} connections, 64 B"), Unit::Nanos)
        .peer("demi", move || stack::demi::echo(case, Style::Owned));
    #[cfg(feature = "peers")]
    if pairs <= SMOLTCP_CONNECTIONS {
        return group.peer("smoltcp", move || stack::smoltcp::echo(case));
    }
    group
}

/// As a busy server has it: many requests arrive at once.
fn by_connections_at_once(pairs: usize) -> Group {
    Group::new(format!("{pairs} connections, 64 B, {AT_ONCE} at once"), Unit::Nanos)
        .peer("demi", move || stack::demi::echo_at_once(pairs))
}

fn by_payload(bytes: usize) -> Group {
    let group = Group::new(format!("{bytes} B, 1 connection"), Unit::Nanos)
        .peer("demi", move || stack::demi::payload(bytes));
    #[cfg(feature = "peers")]
    let group = group.peer("smoltcp", move || stack::smoltcp::payload(bytes));
    group
}
