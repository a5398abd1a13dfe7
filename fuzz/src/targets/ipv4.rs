//! IPv4: header lengths, options, total lengths, protocols. Checksums are mended, so that what lies behind them is reached.

use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{DatagramOptions, ListenOptions};
use demi_netstack::wire::ipv4;

use crate::frames;
use crate::host::{Host, config};
use crate::input::Input;

/// Runs of bytes, each a packet; the first bit of what goes before says whether addresses are ours, the second whether lengths and
/// the third whether checksums are put right.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut host = Host::new(config());
    let listening = host.stack.listen("0.0.0.0:80".parse().expect("an address"), &ListenOptions::default());
    listening.expect("a free port");
    let socket =
        host.stack.bind_datagram("0.0.0.0:7".parse().expect("an address"), &DatagramOptions::default());
    let socket = socket.expect("a free port");
    while !input.is_empty() {
        let how = input.u8();
        let mut frame = frames::ethernet(0x0800, input.run());
        if how & 1 == 0 && frame.len() >= 34 {
            frame[26..30].copy_from_slice(&frames::V4.1.octets());
            frame[30..34].copy_from_slice(&frames::V4.0.octets());
        }
        if how & 4 == 0 {
            frames::mend(&mut frame, how & 2 == 0);
        }
        parse(&frame[14..]);
        host.ask(frame);
        while let Some(Ok((datagram, _))) = crate::host::once(|cx| host.stack.poll_recv_from(cx, socket)) {
            assert!(datagram.len() <= bytes.len(), "more than was sent");
        }
        if how & 8 != 0 {
            host.pass(Duration::from_secs(1));
        }
    }
    // Half-open connections and fragments are forgotten.
    host.pass(Duration::from_secs(300));
    assert_eq!(host.stack.usage().streams, 0);
    assert_eq!(host.stack.pool().stats().slots_out, 0, "packets are kept");
}

fn parse(bytes: &[u8]) {
    let Ok(packet) = ipv4::Packet::new_checked(bytes) else { return };
    assert_eq!(bytes[0] >> 4, 4);
    assert!(packet.header_len() >= ipv4::HEADER_LEN && packet.header_len() <= packet.total_len());
    assert!(packet.total_len() <= bytes.len());
    assert_eq!(packet.header_len() + packet.payload().len(), packet.total_len());
    assert_eq!(packet.options().len(), packet.header_len() - ipv4::HEADER_LEN);
    if packet.header_len() == ipv4::HEADER_LEN && packet.checksum_ok() && bytes[6] & 0x80 == 0 {
        let mut out = [0; ipv4::HEADER_LEN];
        ipv4::Repr::parse(&packet).emit(&mut out);
        // A sum of 0 has two forms.
        if bytes[10..12] != [0xff, 0xff] {
            assert_eq!(out, bytes[..ipv4::HEADER_LEN]);
        }
    }
}
