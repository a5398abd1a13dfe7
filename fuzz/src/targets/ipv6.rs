//! IPv6: chains of extension headers, options with what their types ask for, fragments of one piece.

use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{DatagramOptions, ListenOptions};
use demi_netstack::wire::{ipv6, ipv6_ext};

use crate::frames;
use crate::host::{Host, config, once};
use crate::input::Input;

/// Runs of bytes, each a packet: the fixed header is made here from one byte of decisions and the next header's number, the rest
/// is the run.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut host = Host::new(config());
    let listening = host.stack.listen("[::]:80".parse().expect("an address"), &ListenOptions::default());
    listening.expect("a free port");
    let socket = host.stack.bind_datagram("[::]:7".parse().expect("an address"), &DatagramOptions::default());
    let socket = socket.expect("a free port");
    while !input.is_empty() {
        let how = input.u8();
        let (hops, next) = (if how & 1 == 0 { 255 } else { 64 }, input.u8());
        let (mut src, mut dst) = frames::to_us(true);
        if how & 2 != 0 {
            src = frames::PEER_LOCAL.into();
        }
        if how & 4 != 0 {
            dst = "ff02::1".parse().expect("an address");
        }
        let mut frame = frames::ip_raw(src, dst, next, hops, input.run());
        if how & 4 != 0 {
            frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        }
        if how & 8 == 0 {
            frames::mend(&mut frame, how & 16 == 0);
        }
        parse(&frame[14..]);
        let sent = host.ask(frame);
        assert!(sent.len() < 64, "{} frames in answer to one", sent.len());
        while let Some(Ok((datagram, _))) = once(|cx| host.stack.poll_recv_from(cx, socket)) {
            assert!(datagram.len() <= bytes.len(), "more than was sent");
        }
        if how & 32 != 0 {
            host.pass(Duration::from_secs(2));
        }
    }
    host.pass(Duration::from_secs(300));
    assert_eq!(host.stack.usage().streams, 0);
    assert_eq!(host.stack.pool().stats().slots_out, 0, "packets are kept");
}

fn parse(bytes: &[u8]) {
    let Ok(packet) = ipv6::Packet::new_checked(bytes) else { return };
    assert!(packet.payload().len() + ipv6::HEADER_LEN <= bytes.len());
    let mut out = [0; ipv6::HEADER_LEN];
    ipv6::Repr::parse(&packet).emit(&mut out);
    assert_eq!(out, bytes[..ipv6::HEADER_LEN]);
    match ipv6_ext::upper_layer(packet.next_header(), packet.payload()) {
        Ok(upper) => {
            assert!(upper.offset <= packet.payload().len());
            let named = bytes[upper.named_at as usize];
            assert_eq!(named, upper.protocol, "the field that names the protocol");
        }
        Err(ipv6_ext::Stop::Problem { pointer, .. }) => {
            assert!((pointer as usize) < bytes.len(), "a problem at byte {pointer} of {}", bytes.len());
        }
        Err(ipv6_ext::Stop::Drop) => {}
    }
}
