//! Neighbour discovery, router advertisements and redirects, on a host that takes its addresses from routers.

use std::time::Duration;

use demi_drivers::Transport;

use crate::frames::{self, protocol};
use crate::host::{Host, config};
use crate::input::Input;

/// Messages: a byte of decisions, then a run that is the ICMPv6 message but for its checksum.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut config = config();
    let how = input.u8();
    config.router_discovery = how & 1 == 0;
    config.detect_duplicates = how & 2 == 0;
    let mut host = Host::new(config);
    host.pass(Duration::from_secs(if how & 4 == 0 { 3 } else { 0 }));
    while !input.is_empty() {
        let how = input.u8();
        let message = input.run();
        let src = match how & 3 {
            0 => frames::PEER_LOCAL,
            1 => frames::V6.1,
            2 => "::".parse().expect("an address"),
            _ => "fe80::ff:fe00:1".parse().expect("an address"),
        };
        let (dst, group) = match how >> 2 & 3 {
            0 => ("ff02::1".parse().expect("an address"), true),
            1 => (frames::V6.0, false),
            2 => ("ff02::1:ff00:1".parse().expect("an address"), true),
            _ => ("fe80::ff:fe00:1".parse().expect("an address"), false),
        };
        let hops = if how & 16 == 0 { 255 } else { 64 };
        let mut frame = frames::ip(src.into(), std::net::IpAddr::V6(dst), protocol::ICMPV6, hops, message);
        if group {
            let octets = dst.octets();
            frame[..6].copy_from_slice(&[0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]);
        }
        let sent = host.ask(frame);
        assert!(sent.len() <= 64, "{} frames in answer to one", sent.len());
        if how & 32 != 0 {
            host.pass(Duration::from_secs(u64::from(input.u8())));
        }
        assert!(host.stack.addresses().len() <= 64, "{} addresses", host.stack.addresses().len());
        assert!(host.stack.name_servers().len() <= 32, "{} name servers", host.stack.name_servers().len());
        assert!(host.stack.mtu() >= 1280, "an MTU of {}", host.stack.mtu());
    }
    host.pass(Duration::from_secs(600));
    assert_eq!(host.stack.pool().stats().slots_out, 0, "messages are kept");
}
