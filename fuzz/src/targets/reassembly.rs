//! Fragments of IPv4 and IPv6 against a model: a datagram arrives exactly when its pieces tile it, and not at all once two of them
//! overlapped (RFC 5722).
//!
//! The model is a list of pieces a packet, kept as long as the stack keeps them; only what a model as simple as that can know is
//! asserted. Bounds are large here, so that nothing is pushed out; the flood tests have those.

use std::collections::BTreeMap;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::DatagramOptions;

use crate::frames::{self, protocol};
use crate::host::{Host, config, once};
use crate::input::Input;

/// Datagrams are told apart by their identification, and each has a length and bytes of its own.
const IDENTS: usize = 8;
/// Pieces that wait at a time: fewer than the stack lets one packet have.
const MOST_PIECES: usize = 120;

#[derive(Default)]
struct Model {
    /// Offset, end, last.
    pieces: Vec<(usize, usize, bool)>,
    refused: bool,
}

enum Expected {
    Nothing,
    Datagram(usize),
}

impl Model {
    fn add(&mut self, start: usize, end: usize, last: bool) -> Expected {
        if self.refused || self.pieces.contains(&(start, end, last)) {
            return Expected::Nothing;
        }
        let total = self.pieces.iter().find(|piece| piece.2).map(|piece| piece.1);
        let overlaps = self.pieces.iter().any(|piece| piece.0 < end && start < piece.1);
        let beyond = match (total, last) {
            (Some(total), false) => end > total,
            (Some(total), true) => end != total,
            (None, true) => self.pieces.iter().any(|piece| piece.1 > end),
            (None, false) => false,
        };
        if overlaps || beyond {
            self.refused = true;
            self.pieces.clear();
            return Expected::Nothing;
        }
        self.pieces.push((start, end, last));
        let held: usize = self.pieces.iter().map(|piece| piece.1 - piece.0).sum();
        match self.pieces.iter().find(|piece| piece.2) {
            Some(piece) if piece.1 == held => Expected::Datagram(held),
            _ => Expected::Nothing,
        }
    }
}

/// The whole message of a packet: a UDP datagram with its checksum.
fn message(v6: bool, ident: usize) -> Vec<u8> {
    let (src, dst) = frames::to_us(v6);
    let len = [9, 16, 40, 47, 120, 333, 512, 1001][ident % IDENTS];
    let payload: Vec<u8> = (0..len).map(|at| (at * 31 + ident * 7) as u8).collect();
    let mut message = frames::udp_message(5000, 7, &payload);
    frames::sum_message(src, dst, protocol::UDP, &mut message);
    message
}

fn fragment(v6: bool, ident: usize, start: usize, last: bool, bytes: &[u8]) -> Vec<u8> {
    let (src, dst) = frames::to_us(v6);
    if v6 {
        let field = (start as u16) | u16::from(!last);
        let ident = ident as u32;
        let header = [&[protocol::UDP, 0][..], &field.to_be_bytes(), &ident.to_be_bytes(), bytes].concat();
        return frames::ip_raw(src, dst, 44, 64, &header);
    }
    let mut frame = frames::ip_raw(src, dst, protocol::UDP, 64, bytes);
    frame[18..20].copy_from_slice(&(ident as u16).to_be_bytes());
    let field = (start / 8) as u16 | u16::from(!last) << 13;
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    let header_sum = |header: &[u8]| {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    };
    frame[24..26].fill(0);
    let sum = header_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Three bytes a fragment: which packet and what lies it tells, where the piece begins, how long it is.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut config = config();
    config.limits.reassembly_fragments = Some(4 * MOST_PIECES);
    let mut host = Host::new(config);
    let socket = host.stack.bind_datagram("[::]:7".parse().expect("an address"), &DatagramOptions::default());
    let socket = socket.expect("a free port");
    let mut models: BTreeMap<(bool, usize), Model> = BTreeMap::new();
    let mut sent = 0;
    while !input.is_empty() {
        let which = input.u8();
        sent += 1;
        if which == 0xff || sent > MOST_PIECES {
            // All that waits is given up.
            sent = 0;
            host.pass(Duration::from_secs(70));
            models.clear();
            assert_eq!(host.stack.pool().stats().slots_out, 0, "fragments are kept beyond their time");
            continue;
        }
        let (v6, ident) = (which & 0x80 != 0, usize::from(which) % IDENTS);
        let message = message(v6, ident);
        let start = usize::from(input.u8()) * 8 % message.len().next_multiple_of(8);
        let end = (start + 8 + usize::from(input.u8()) * 8).min(message.len());
        let lies = which >> 4 & 7 == 7;
        let last = (end == message.len()) != lies;
        if start == 0 && last {
            continue; // A packet in one piece is no fragment.
        }
        host.inject(fragment(v6, ident, start, last, &message[start..end]));
        host.settle();
        let received =
            once(|cx| host.stack.poll_recv_from(cx, socket)).map(|received| received.expect("no error"));
        // Of those that say that others follow, the length is a multiple of eight (RFC 791 §3.2).
        let expected = if !last && !(end - start).is_multiple_of(8) {
            Expected::Nothing
        } else {
            models.entry((v6, ident)).or_default().add(start, end, last)
        };
        match (expected, received) {
            (Expected::Nothing, None) => {}
            (Expected::Nothing, Some(_)) => panic!("a datagram out of pieces that do not tile it"),
            (Expected::Datagram(held), received) => {
                models.remove(&(v6, ident));
                // Where a lie made it shorter, its UDP header tells.
                assert_eq!(held == message.len(), received.is_some(), "{held} of {} bytes", message.len());
                if let Some((datagram, _)) = received {
                    assert!(datagram[..] == message[8..], "a datagram that nobody has sent");
                }
            }
        }
    }
    host.pass(Duration::from_secs(70));
    assert_eq!(host.stack.pool().stats().slots_out, 0, "fragments are kept beyond their time");
}
