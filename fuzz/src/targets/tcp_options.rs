//! TCP options: any forty bytes in a SYN, a SYN-ACK or a segment. What is read of them is what the other reader of the same bytes
//! reads, and the connection they lead to keeps to it.

use std::io::IoSlice;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{ListenOptions, StreamOptions};
use demi_netstack::wire::tcp;

use crate::frames::{Segment, parts};
use crate::host::{Host, config, once};
use crate::input::Input;
use crate::peer::{ACK, PSH, SYN, find_option};

/// Options of the handshake, then options of segments.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let (v6, active) = (how & 1 != 0, how & 2 != 0);
    let mut handshake = input.run().to_vec();
    handshake.truncate(40);
    handshake.resize(handshake.len().next_multiple_of(4), 0);
    read(&handshake);
    let mut host = Host::new(config());
    host.neighbours = true;
    let mut segment =
        Segment { ports: (5000, 80), seq: 1000, window: 0xffff, options: &handshake, ..Segment::default() };
    let listener = host.stack.listen("[::]:80".parse().expect("an address"), &ListenOptions::default());
    let listener = listener.expect("a free port");
    let (stream, their_seq) = if active {
        let remote = if v6 { "[fd00::2]:5000" } else { "10.0.0.2:5000" };
        let local = if v6 { "[::]:81" } else { "0.0.0.0:81" };
        let (remote, local) = (remote.parse().expect("an address"), local.parse().expect("an address"));
        let stream = host.stack.connect(remote, Some(local), &StreamOptions::default()).expect("a route");
        segment.ports.1 = 81;
        resolve(&mut host, v6);
        let sent = host.settle();
        let seq =
            sent.iter().find_map(|frame| tcp_of(frame)).map_or_else(|| host_seq(&mut host), |(seq, ..)| seq);
        (segment.flags, segment.ack) = (SYN | ACK, seq.wrapping_add(1));
        host.ask(segment.frame(v6));
        assert!(
            once(|cx| host.stack.poll_connect(cx, stream)).is_some_and(|done| done.is_ok()),
            "a SYN-ACK is one"
        );
        (stream, seq)
    } else {
        segment.flags = SYN;
        resolve(&mut host, v6);
        let sent = host.ask(segment.frame(v6));
        let Some((seq, options)) = sent.iter().find_map(|frame| tcp_of(frame)) else {
            panic!("a SYN that nobody answers")
        };
        assert!(find_option(&options, 2).is_some(), "a SYN-ACK without an MSS");
        let (stamps, empty) = (tcp::Options::parse(&handshake).timestamps, []);
        let echo = find_option(&options, 8).map(|stamp| {
            [
                &[1, 1, 8, 10][..],
                &stamps.map_or(0, |stamps| stamps.value.wrapping_add(1)).to_be_bytes(),
                &stamp[..4],
            ]
            .concat()
        });
        assert_eq!(stamps.is_some(), echo.is_some(), "timestamps are agreed on by both");
        let options = echo.as_deref().unwrap_or(&empty);
        let ack = Segment { seq: 1001, ack: seq.wrapping_add(1), flags: ACK, options, ..segment.clone() };
        host.ask(ack.frame(v6));
        let accepted =
            once(|cx| host.stack.poll_accept(cx, listener)).expect("a finished handshake").expect("no error");
        (accepted.0, seq)
    };
    let info = host.stack.tcp_info(stream).expect("an open stream");
    assert!(info.send_mss_bytes >= 8 && info.send_mss_bytes <= 1460, "an MSS of {}", info.send_mss_bytes);
    assert!(info.send_window_scale <= 14);
    let written = once(|cx| host.stack.poll_write(cx, stream, &[IoSlice::new(&[7; 3000])]));
    assert!(written.is_some_and(|count| count.is_ok_and(|count| count > 0)));
    host.settle();
    let mut seq = 1001u32;
    while !input.is_empty() {
        let how = input.u8();
        let options = input.run();
        read(options);
        let payload = [7; 10];
        let payload = &payload[..usize::from(how & 7)];
        let segment = Segment {
            seq,
            ack: their_seq.wrapping_add(1 + u32::from(how >> 3) * 97),
            flags: ACK | PSH,
            options,
            payload,
            ports: segment.ports,
            window: 0xffff,
        };
        host.ask(segment.frame(v6));
        let mut into = [0; 64];
        let mut cursor = demi_drivers::transport::ReadCursor::new(&mut into);
        match once(|cx| host.stack.poll_read(cx, stream, &mut cursor)) {
            Some(Ok(())) => seq = seq.wrapping_add(cursor.filled() as u32),
            Some(Err(_)) => return,
            None => {}
        }
        host.pass(Duration::from_millis(50));
    }
}

/// The sequence number of a SYN that went out after its neighbour was found.
fn host_seq(host: &mut Host) -> u32 {
    let sent = host.pass(Duration::from_secs(2));
    sent.iter().find_map(|frame| tcp_of(frame)).expect("a SYN").0
}

/// Tells the stack where the peer is.
pub fn resolve(host: &mut Host, v6: bool) {
    for frame in crate::seeds::neighbours(v6) {
        host.ask(frame);
    }
}

fn tcp_of(frame: &[u8]) -> Option<(u32, Vec<u8>)> {
    let parts = parts(frame).filter(|parts| parts.protocol == 6)?;
    let header = usize::from(parts.message[12] >> 4) * 4;
    Some((u32::from_be_bytes(parts.message[4..8].try_into().ok()?), parts.message[20..header].to_vec()))
}

/// Reads options with both readers.
fn read(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(40)];
    let ours = tcp::Options::parse(bytes);
    assert!(ours.window_scale.is_none_or(|shift| shift <= 14));
    let mut left = bytes;
    let mut known = (None, None, false, None);
    while !left.is_empty() {
        let Ok((rest, option)) = smoltcp::wire::TcpOption::parse(left) else { return };
        match option {
            smoltcp::wire::TcpOption::EndOfList => break,
            smoltcp::wire::TcpOption::MaxSegmentSize(mss) => known.0 = Some(mss),
            smoltcp::wire::TcpOption::WindowScale(shift) => known.1 = Some(shift.min(14)),
            smoltcp::wire::TcpOption::SackPermitted => known.2 = true,
            smoltcp::wire::TcpOption::TimeStamp { tsval, tsecr } => known.3 = Some((tsval, tsecr)),
            _ => {}
        }
        left = rest;
    }
    let stamps = ours.timestamps.map(|stamps| (stamps.value, stamps.echo));
    assert_eq!((ours.mss, ours.window_scale, ours.sack_permitted, stamps), known, "of {bytes:02x?}");
}
