//! Ethernet, VLAN tags and ARP: what parses is emitted as it was; a stack takes any sequence of such frames.

use std::time::Duration;

use demi_drivers::Transport;
use demi_netstack::wire::{arp, ethernet, vlan};

use crate::frames;
use crate::host::{Host, OUR_MAC, config};
use crate::input::Input;

/// Runs of bytes, each a frame: as it is; to us; an ARP packet.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut host = Host::new(config());
    while !input.is_empty() {
        let how = input.u8();
        let run = input.run();
        let frame = match how & 3 {
            0 => run.to_vec(),
            1 => [&OUR_MAC[..], run].concat(),
            2 => frames::ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1 + (how >> 7)][..], run].concat()),
            _ => frames::ethernet(0x8100, run),
        };
        parse(&frame);
        host.ask(frame);
        if how & 0x40 != 0 {
            host.pass(Duration::from_secs(u64::from(how >> 2 & 15)));
        }
    }
    host.pass(Duration::from_secs(70));
    assert_eq!(host.stack.pool().stats().slots_out, 0, "frames are kept");
}

fn parse(bytes: &[u8]) {
    let Ok(frame) = ethernet::Frame::new_checked(bytes) else {
        assert!(bytes.len() < ethernet::HEADER_LEN);
        return;
    };
    let mut header = [0; ethernet::HEADER_LEN];
    ethernet::Repr::parse(&frame).emit(&mut header);
    assert_eq!(header, bytes[..ethernet::HEADER_LEN]);
    if let Ok((tag, rest)) = vlan::Repr::parse(frame.payload()) {
        let mut out = [0; vlan::TAG_LEN];
        tag.emit(&mut out);
        assert_eq!(out, frame.payload()[..vlan::TAG_LEN]);
        assert_eq!(rest.len() + vlan::TAG_LEN, frame.payload().len());
    }
    if let Ok(packet) = arp::Repr::parse(frame.payload()) {
        let mut out = [0; arp::PACKET_LEN];
        packet.emit(&mut out);
        assert_eq!(out, frame.payload()[..arp::PACKET_LEN]);
    }
}
