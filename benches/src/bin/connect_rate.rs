//! Connections opened and closed between two hosts in memory: nanoseconds of both sides for SYN to the last ACK.

use demi_benches::kit::{Args, Group, Unit, measure};
use demi_benches::stack;

fn main() {
    let args = Args::parse("connect + close of two hosts in memory, nanoseconds both sides.", &[]);
    let groups = [true, false].map(|checksums| {
        let case = format!("connect + close, sums {}", if checksums { "on" } else { "off" });
        let group = Group::new(case, Unit::Nanos).peer("demi", move || stack::demi::connections(checksums));
        #[cfg(feature = "peers")]
        let group = group.peer("smoltcp", move || stack::smoltcp::connect(checksums));
        group
    });
    measure("connect_rate", &args, groups.into());
}
