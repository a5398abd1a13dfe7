//! DHCP: what servers answer to a client that asks; the transaction's number and our address are filled in, as a server would.

use std::time::Duration;

use demi_drivers::Transport;
use demi_netstack::wire::dhcpv4;

use crate::frames::{self, parts, protocol};
use crate::host::{Host, OUR_MAC, config};
use crate::input::Input;

/// Bytes before the options.
const FIXED: usize = 240;

/// Replies: a byte of decisions, four bytes of address, a run of options.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut config = config();
    config.addresses.retain(|cidr| cidr.address().is_ipv6());
    config.gateways.retain(|gateway| gateway.is_ipv6());
    config.dhcp = true;
    config.detect_duplicates = input.u8() & 1 != 0;
    let mut host = Host::new(config);
    let mut xid = [0; 4];
    note(&host.pass(Duration::from_secs(15)), &mut xid);
    while !input.is_empty() {
        let how = input.u8();
        let address = input.u32().to_be_bytes();
        let options = input.run();
        let mut reply = vec![0; FIXED];
        reply[..4].copy_from_slice(&[2, 1, 6, 0]);
        reply[4..8].copy_from_slice(&if how & 1 == 0 { xid } else { address });
        reply[16..20].copy_from_slice(&if how & 2 == 0 { [10, 0, 0, address[3]] } else { address });
        reply[28..34].copy_from_slice(&OUR_MAC);
        if how & 4 != 0 {
            // Options lent the fields of names (option 52).
            let (file, name) = (input.take(128), input.take(64));
            reply[108..108 + file.len()].copy_from_slice(file);
            reply[44..44 + name.len()].copy_from_slice(name);
        }
        reply[236..240].copy_from_slice(&[99, 130, 83, 99]);
        let kind = [53, 1, if how & 8 == 0 { 2 } else { 5 + (how >> 7) }, 54, 4, 10, 0, 0, 2];
        if how & 16 == 0 {
            reply.extend(kind);
        }
        reply.extend(options);
        parse(&reply);
        let (src, dst) = frames::to_us(false);
        let dst = if how & 32 == 0 { "255.255.255.255".parse().expect("an address") } else { dst };
        let mut frame = frames::ip(src, dst, protocol::UDP, 64, &frames::udp_message(67, 68, &reply));
        if how & 32 == 0 {
            frame[..6].fill(0xff);
        }
        if frame.len() <= 1514 {
            note(&host.ask(frame), &mut xid);
        }
        if how & 64 != 0 {
            note(&host.pass(Duration::from_secs(1 << (input.u8() & 15))), &mut xid);
        }
        assert!(host.stack.addresses().len() <= 4);
        assert!(host.stack.name_servers().len() <= 16);
        assert!(host.stack.mtu() >= 576, "an MTU of {}", host.stack.mtu());
    }
    assert_eq!(host.stack.pool().stats().slots_out, 0, "messages are kept");
}

/// Remembers the number of the latest transaction.
fn note(sent: &[Vec<u8>], xid: &mut [u8; 4]) {
    for frame in sent {
        let Some(parts) = parts(frame).filter(|parts| parts.protocol == protocol::UDP) else { continue };
        if parts.message[2..4] == [0, 67] {
            assert!(parts.message.len() >= 8 + FIXED && parts.message[8 + 236..8 + 240] == [99, 130, 83, 99]);
            xid.copy_from_slice(&parts.message[12..16]);
        }
    }
}

fn parse(bytes: &[u8]) {
    let Ok(reply) = dhcpv4::Reply::parse(bytes) else { return };
    assert!(reply.prefix_len.is_none_or(|len| len <= 32));
    assert!(reply.routers.len() <= 8 && reply.name_servers.len() <= 8 && reply.routes.len() <= 64);
    assert!(reply.routes.iter().all(|route| route.prefix_len <= 32));
}
