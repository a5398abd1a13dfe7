//! ICMP and ICMPv6: messages of all kinds, and errors that quote a live connection: rightly, nearly, and beyond its end.
//!
//! Whatever is told, the connection goes on: an error about an established one is advice (RFC 5927 §5), and the MTU of a path is never
//! believed below the least there is.

use std::io::IoSlice;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{ListenOptions, ReadCursor};

use crate::frames::{self, protocol};
use crate::host::{Host, config, once};
use crate::input::Input;
use crate::peer::{ACK, Offer, Peer, written_byte};
use crate::targets::tcp_options::resolve;

/// Messages: a byte of decisions, the type, the code, four bytes, what changes in the quote.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let v6 = input.u8() & 1 != 0;
    let mut host = Host::new(config());
    host.neighbours = true;
    resolve(&mut host, v6);
    let listener = host
        .stack
        .listen("[::]:80".parse().expect("an address"), &ListenOptions::default())
        .expect("a free port");
    let offer = Offer { v6, iss: 77, mss: Some(1400), scale: Some(7), sack: true, timestamps: true };
    let mut peer = Peer::new(offer, (5000, 80));
    let syn = peer.syn();
    for frame in host.ask(syn) {
        peer.observe(&frame);
    }
    let first = peer.acknowledge();
    host.ask(first);
    let (stream, _) =
        once(|cx| host.stack.poll_accept(cx, listener)).expect("a connection").expect("no error");
    let mut written = 0u32;
    // The latest segment of ours, for quotes.
    let mut latest: Option<Vec<u8>> = None;
    let mut quiet = 0;
    while !input.is_empty() {
        let how = input.u8();
        let chunk: Vec<u8> = (0..600).map(|at| written_byte(written + at)).collect();
        if how & 0x80 != 0
            && let Some(count) = once(|cx| host.stack.poll_write(cx, stream, &[IoSlice::new(&chunk)]))
        {
            written += count.expect("an open stream") as u32;
        }
        for frame in host.settle() {
            if peer.observe(&frame) {
                latest = Some(frame);
            }
        }
        let (kind, code, rest) = (input.u8(), input.u8(), input.u32().to_be_bytes());
        let mut body = match (&latest, how & 3) {
            (Some(frame), 0..=2) => frame[14..].to_vec(),
            _ => input.run().to_vec(),
        };
        if how & 3 == 1 {
            let at = usize::from(input.u8()) % body.len().max(1);
            if let Some(byte) = body.get_mut(at) {
                *byte ^= input.u8();
            }
        }
        if how & 3 == 2 {
            body.truncate(usize::from(input.u8()));
        }
        let message = [&[kind, code, 0, 0][..], &rest, &body].concat();
        let (src, dst) = frames::to_us(v6);
        let number = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        let frame = frames::ip(src, dst, number, if how & 4 == 0 { 255 } else { 64 }, &message);
        if frame.len() > 1514 {
            continue;
        }
        for frame in host.ask(frame) {
            peer.observe(&frame);
        }
        if how & 8 != 0 {
            for frame in host.pass(Duration::from_millis(u64::from(how >> 4 & 7) * 100)) {
                if peer.observe(&frame) {
                    latest = Some(frame);
                }
            }
        }
        // An honest acknowledgement now and then, so that no timeout ends it.
        quiet += 1;
        if quiet == 4 {
            quiet = 0;
            let ack = peer.acknowledge();
            for frame in host.ask(ack) {
                peer.observe(&frame);
            }
        }
        let info = host.stack.tcp_info(stream).expect("an error by ICMP ended an established connection");
        assert!(info.send_mss_bytes >= 8, "an MSS of {}", info.send_mss_bytes);
    }
    // It still carries data, both ways.
    let data = peer.data(peer.next, 5, ACK, peer.contiguous(), &[]);
    peer.next += 5;
    for frame in host.ask(data) {
        peer.observe(&frame);
    }
    let mut into = [0; 8];
    let mut cursor = ReadCursor::new(&mut into);
    assert!(matches!(once(|cx| host.stack.poll_read(cx, stream, &mut cursor)), Some(Ok(()))));
    assert_eq!(cursor.filled(), 5);
    for _ in 0..400 {
        if peer.contiguous() == written + 1 {
            return;
        }
        let ack = peer.acknowledge();
        let mut sent = host.ask(ack);
        sent.extend(host.pass(Duration::from_millis(300)));
        for frame in sent {
            peer.observe(&frame);
        }
    }
    panic!("{} of {written} bytes arrived", peer.contiguous() - 1);
}
