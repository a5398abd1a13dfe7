//! How connections end: half-closes, resets, closes with bytes on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::shapes::{
    drains_once_the_peer_reads, pair, pop, pop_exactly, push, push_until_full, read, write_all,
};
use crate::support::patterned;
use crate::{Limits, Open};

suite![
    bytes_behind_a_shutdown_are_refused_while_reads_go_on,
    the_peers_fin_ends_reading_and_stays,
    shutting_down_reading_wakes_the_reader_with_the_end,
    a_reset_is_seen_as_connection_reset,
    abort_resets_the_peer,
    closing_with_unread_bytes_resets_the_peer,
    drained_waits_for_the_kernel_to_take_the_bytes,
    closing_delivers_what_is_queued,
    a_closed_connection_whose_peer_never_reads_is_given_up,
];

fn bytes_behind_a_shutdown_are_refused_while_reads_go_on(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    push(&mut net, stream, b"last words").unwrap();
    net.transport.shutdown(stream, Shutdown::Write).unwrap();
    assert_eq!(push(&mut net, stream, b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(write_all(&mut net, stream, b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words");
    peer.write_all(b"answer").unwrap();
    assert_eq!(pop(&mut net, stream).unwrap().as_deref(), Some(&b"answer"[..]));
    drop(peer);
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    net.transport.close(stream);
    net.settle();
}

fn the_peers_fin_ends_reading_and_stays(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"bye").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 3), b"bye");
    for _ in 0..3 {
        assert_eq!(pop(&mut net, stream).unwrap(), None);
        assert_eq!(read(&mut net, stream, 10).unwrap(), b"");
        net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    }
    push(&mut net, stream, b"still here").unwrap();
    net.transport.close(stream);
    net.settle();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"still here");
}

fn shutting_down_reading_wakes_the_reader_with_the_end(open: Open) {
    let mut net = open(Limits::default());
    let (stream, peer) = pair(&mut net);
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 100)).is_pending());
    net.transport.shutdown(stream, Shutdown::Read).unwrap();
    assert!(flag.take(), "the reader is woken");
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    drop(peer);
    net.transport.close(stream);
    net.settle();
}

fn a_reset_is_seen_as_connection_reset(open: Open) {
    let mut net = open(Limits::default());
    let (stream, peer) = pair(&mut net);
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let lost = push(&mut net, stream, b"anybody?")
        .and_then(|()| net.wait(|t, cx| t.poll_drained(cx, stream)))
        .and_then(|()| push(&mut net, stream, b"no?"))
        .and_then(|()| net.wait(|t, cx| t.poll_drained(cx, stream)));
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::BrokenPipe);
    net.transport.close(stream);
    net.settle();
}

fn abort_resets_the_peer(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    net.transport.abort(stream);
    assert_eq!(net.transport.peer_addr(stream).unwrap_err().kind(), ErrorKind::NotConnected);
    net.settle();
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Even with a view that the kernel has taken a part of.
    let (stream, mut peer) = pair(&mut net);
    push_until_full(&mut net, stream, &patterned(60_000));
    net.transport.abort(stream);
    net.settle();
    let lost = std::iter::repeat_with(|| peer.read(&mut [0; 60_000])).find(|got| !matches!(got, Ok(1..)));
    assert_eq!(lost.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn closing_with_unread_bytes_resets_the_peer(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"never read").unwrap();
    net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    net.transport.close(stream);
    net.settle();
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn drained_waits_for_the_kernel_to_take_the_bytes(open: Open) {
    let mut net = open(Limits::default());
    let (stream, peer) = pair(&mut net);
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    drains_once_the_peer_reads(net, stream, peer);
}

fn closing_delivers_what_is_queued(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let part = patterned(60_000);
    let sent = push_until_full(&mut net, stream, &part);
    net.transport.close(stream);
    let usage = net.transport.usage();
    assert_eq!((usage.streams, usage.closing, usage.descriptors), (1, 1, 1));
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), ErrorKind::NotConnected);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    net.settle();
    let got = reader.join().unwrap();
    assert_eq!(got.len(), sent);
    assert!(got.chunks(part.len()).all(|chunk| chunk == part), "what was delivered is what was pushed");
}

fn a_closed_connection_whose_peer_never_reads_is_given_up(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    push_until_full(&mut net, stream, &patterned(60_000));
    assert_eq!(net.transport.deadline(), None);
    net.transport.close(stream);
    let deadline = net.transport.deadline().expect("a closing connection has a deadline");
    net.transport.poll(deadline - Duration::from_nanos(1)).unwrap();
    assert_eq!(net.transport.usage().closing, 1);
    net.transport.poll(deadline).unwrap();
    net.settle();
    assert_eq!(net.transport.deadline(), None);
    let lost = std::iter::repeat_with(|| peer.read(&mut [0; 60_000])).find(|got| !matches!(got, Ok(1..)));
    assert_eq!(lost.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}
