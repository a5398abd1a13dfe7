//! IGMP and MLD: queries of any version to a host that is in groups, and what it reports.

use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{DatagramOptions, Interface, Membership};

use crate::frames::{self, protocol};
use crate::host::{Host, config};
use crate::input::Input;

/// Messages: a byte of decisions, then a run that is the message but for its checksum.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut host = Host::new(config());
    let socket = host.stack.bind_datagram("[::]:7".parse().expect("an address"), &DatagramOptions::default());
    let socket = socket.expect("a free port");
    let memberships =
        ["239.1.2.3", "239.1.2.4", "232.0.0.1", "ff02::1234", "ff35::1", "ff3e::8000:1"].map(|group| {
            let group: std::net::IpAddr = group.parse().expect("a group");
            let source = match group.to_string().as_str() {
                "232.0.0.1" => Some(frames::V4.1.into()),
                "ff35::1" => Some(frames::V6.1.into()),
                _ => None,
            };
            Membership { group, source, interface: Interface::Any }
        });
    for membership in &memberships[..4] {
        host.stack.join_group(socket, membership).expect("room for a group");
    }
    host.settle();
    let mut messages = 0;
    let mut reports = 0;
    while !input.is_empty() {
        let how = input.u8();
        let v6 = how & 1 != 0;
        if how & 2 != 0 {
            let membership = &memberships[input.below(memberships.len())];
            // Joining twice and leaving what one is not in are errors, and nothing else.
            let _ = if how & 4 != 0 {
                host.stack.join_group(socket, membership)
            } else {
                host.stack.leave_group(socket, membership)
            };
            messages += 1;
        } else {
            let message = input.run();
            let hops = if how & 4 == 0 { 1 } else { 64 };
            let group = message.get(if v6 { 8..24 } else { 4..8 });
            let (src, number) = if v6 {
                (frames::PEER_LOCAL.into(), protocol::ICMPV6)
            } else {
                (frames::to_us(false).0, protocol::IGMP)
            };
            let dst: std::net::IpAddr = match (how & 8 != 0, group) {
                (true, Some(&[a, b, c, d])) => [a, b, c, d].into(),
                (true, Some(octets)) if octets.len() == 16 => {
                    <[u8; 16]>::try_from(octets).expect("sixteen").into()
                }
                _ if v6 => "ff02::1".parse().expect("a group"),
                _ => "224.0.0.1".parse().expect("a group"),
            };
            let mut frame = frames::ip(src, dst, number, hops, message);
            match dst {
                std::net::IpAddr::V4(dst) => {
                    let [_, b, c, d] = dst.octets();
                    frame[..6].copy_from_slice(&[1, 0, 0x5e, b & 0x7f, c, d]);
                }
                std::net::IpAddr::V6(dst) => {
                    let octets = dst.octets();
                    frame[..6].copy_from_slice(&[0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]);
                }
            }
            reports += host.ask(frame).len();
            messages += 1;
        }
        if how & 16 != 0 {
            reports += host.pass(Duration::from_millis(100 << (how >> 5))).len();
        }
    }
    reports += host.pass(Duration::from_secs(30_000)).len();
    // A query has one report a group at most, a change of ours twice (RFC 3376 §6.4.1: as often as the robustness says).
    assert!(reports <= 40 * (messages + 1), "{reports} frames for {messages} messages");
    assert_eq!(host.stack.pool().stats().slots_out, 0);
}
