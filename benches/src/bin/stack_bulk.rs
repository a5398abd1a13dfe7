//! Bulk transfer between two hosts in memory, both on one core: Gbit/s of payload at an MSS of 1460 bytes.

use demi_benches::kit::{Args, Group, Unit, measure};
use demi_benches::stack::demi::Style;
use demi_benches::stack::{self, BULK_BYTES};

fn main() {
    let args = Args::parse("Bulk transfer of two hosts in memory, Gbit/s of payload.", &[]);
    let groups = [true, false].map(|checksums| {
        let case = format!("bulk, MSS 1460, sums {}", if checksums { "on" } else { "off" });
        let group = [Style::Owned, Style::Copied]
            .into_iter()
            .fold(Group::new(case, Unit::Gbits { bytes: BULK_BYTES }), |group, style| {
                group.peer(style.name(), move || stack::demi::bulk(checksums, style))
            });
        #[cfg(feature = "peers")]
        let group = group.peer("smoltcp", move || stack::smoltcp::bulk(checksums));
        group
    });
    measure("stack_bulk", &args, groups.into());
}
