//! Our stack as a host that is pinged: the kernel's own ping, of several sizes, loses nothing.

use crate::support::{Lab, matrix};

fn every_ping_is_answered(lab: &Lab) {
    let _server = lab.serve("echo", 7000, "");
    // The least that carries a timestamp, an odd one, and nearly the most that fits a packet.
    for bytes in [16, 777, 1400] {
        let line = format!("-c 200 -i 0.005 -W 5 -s {bytes} {}", lab.case.server_ip());
        let report = lab.client("ping").args(&line).must();
        assert!(report.contains("200 packets transmitted, 200 received, 0% packet loss"), "{report}");
    }
}

matrix!(every_ping, crate::ping::every_ping_is_answered, own_stack lossless);
