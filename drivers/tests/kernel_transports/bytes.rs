//! Bytes over streams: as views and copies, one by one and in bulk, in order and whole.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use demi_drivers::transport::{ReadCursor, StreamOptions};

use crate::shapes::{V4, V6, listen, pair, pop, pop_exactly, push, push_until_full, read, write_all};
use crate::support::patterned;
use crate::{Limits, Open};

suite![
    echoes_views_over_both_families,
    echoes_copies_over_both_families,
    a_mebibyte_reaches_a_slow_reader_and_comes_back,
    peeking_leaves_the_bytes,
    vectored_writes_arrive_in_order,
    small_pushes_and_writes_keep_their_order,
    a_pop_takes_no_more_than_asked,
    received_views_are_as_large_as_the_flow,
    readable_and_writable_wait_for_what_they_say,
];

fn echoes_views_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let (listener, address) = listen(&mut net, address);
        let peer = thread::spawn(move || {
            let mut peer = TcpStream::connect(address).unwrap();
            for round in 0..100_u8 {
                peer.write_all(&[round; 64]).unwrap();
                let mut back = [0; 64];
                peer.read_exact(&mut back).unwrap();
                assert_eq!(back, [round; 64]);
            }
            peer.local_addr().unwrap()
        });
        let (stream, remote) = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap();
        assert_eq!(net.transport.local_addr(stream).unwrap(), address);
        while let Some(buf) = net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap() {
            assert_eq!(net.transport.peer_addr(stream).unwrap(), remote);
            let mut buf = Some(buf);
            net.wait(|t, cx| t.poll_push(cx, stream, &mut buf)).unwrap();
            assert!(buf.is_none(), "a pushed view is the transport's");
        }
        assert_eq!(peer.join().unwrap(), remote);
        net.transport.close(stream);
        net.transport.close_listener(listener);
        net.settle();
    }
}

fn echoes_copies_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut bytes = [0; 1000];
            while let Ok(count) = peer.read(&mut bytes)
                && count > 0
            {
                peer.write_all(&bytes[..count]).unwrap();
            }
        });
        let stream = net.transport.connect(address, None, &StreamOptions::default()).unwrap();
        net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
        assert_eq!(net.transport.peer_addr(stream).unwrap(), address);
        for round in 0..100_u8 {
            write_all(&mut net, stream, &[round; 64]).unwrap();
            let mut back = Vec::new();
            while back.len() < 64 {
                back.extend(read(&mut net, stream, 64).unwrap());
            }
            assert_eq!(back, [round; 64]);
        }
        net.transport.shutdown(stream, Shutdown::Write).unwrap();
        assert_eq!(read(&mut net, stream, 1).unwrap(), b"");
        peer.join().unwrap();
        net.transport.close(stream);
        net.settle();
    }
}

fn a_mebibyte_reaches_a_slow_reader_and_comes_back(open: Open) {
    const LEN: usize = 1 << 20;
    for by_push in [true, false] {
        let mut net = open(Limits::default());
        let (stream, mut peer) = pair(&mut net);
        let echo = thread::spawn(move || {
            // Everything is read before anything is sent: each side must hold out while the other doesn't read.
            let mut got = vec![0; LEN];
            for part in got.chunks_mut(10_000) {
                peer.read_exact(part).unwrap();
                thread::yield_now();
            }
            peer.write_all(&got).unwrap();
        });
        let sent = patterned(LEN);
        for part in sent.chunks(1500) {
            if by_push {
                push(&mut net, stream, part).unwrap();
            } else {
                write_all(&mut net, stream, part).unwrap();
            }
        }
        let mut got = Vec::new();
        while got.len() < LEN {
            let more =
                if by_push { pop(&mut net, stream).unwrap() } else { read(&mut net, stream, 70_000).ok() };
            got.extend(more.expect("the stream goes on"));
        }
        assert!(got == sent, "what came back differs from what was sent");
        echo.join().unwrap();
        net.transport.close(stream);
        net.settle();
    }
}

fn peeking_leaves_the_bytes(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"look, don't touch").unwrap();
    for _ in 0..3 {
        let mut bytes = [0; 4];
        let count = net.wait(|t, cx| {
            let mut cursor = ReadCursor::new(&mut bytes);
            t.poll_peek(cx, stream, &mut cursor).map_ok(|()| cursor.filled())
        });
        assert_eq!((count.unwrap(), &bytes), (4, b"look"));
    }
    assert_eq!(pop_exactly(&mut net, stream, 17), b"look, don't touch");
    net.transport.close(stream);
    net.settle();
}

fn vectored_writes_arrive_in_order(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let parts: Vec<Vec<u8>> = (0..2000_usize).map(|n| patterned(n % 7 * 100)).collect();
    let whole: Vec<u8> = parts.concat();
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    let mut views: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut views[..];
    while !rest.is_empty() {
        let count = net.wait(|t, cx| t.poll_write(cx, stream, rest)).unwrap();
        IoSlice::advance_slices(&mut rest, count);
    }
    assert_eq!(net.wait(|t, cx| t.poll_write(cx, stream, &[])).unwrap(), 0);
    assert_eq!(net.wait(|t, cx| t.poll_write(cx, stream, &[IoSlice::new(b"")])).unwrap(), 0);
    net.transport.close(stream);
    net.settle();
    assert!(reader.join().unwrap() == whole, "the parts arrived in another order");
}

fn small_pushes_and_writes_keep_their_order(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let mut whole = Vec::new();
    for number in 0..3000_u32 {
        let bytes = format!("{number},");
        whole.extend(bytes.as_bytes());
        if number % 3 == 0 {
            push(&mut net, stream, bytes.as_bytes()).unwrap();
        } else {
            write_all(&mut net, stream, bytes.as_bytes()).unwrap();
        }
        if number % 100 == 0 {
            let large = patterned(40_000);
            whole.extend(&large);
            write_all(&mut net, stream, &large[..30_000]).unwrap();
            push(&mut net, stream, &large[30_000..]).unwrap();
        }
        if number % 7 == 0 {
            net.turn();
        }
    }
    push(&mut net, stream, b"").unwrap();
    net.transport.close(stream);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    net.settle();
    assert!(reader.join().unwrap() == whole, "the bytes arrived in another order");
}

fn a_pop_takes_no_more_than_asked(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let sent = patterned(10_000);
    peer.write_all(&sent).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let part = net.wait(|t, cx| t.poll_pop(cx, stream, 999)).unwrap().unwrap();
        assert!((1..=999).contains(&part.len()), "{} bytes", part.len());
        got.extend_from_slice(&part);
    }
    assert!(got == sent, "the parts make the whole");
    net.transport.close(stream);
    net.settle();
}

fn received_views_are_as_large_as_the_flow(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let small = net.transport.pool().small_capacity();
    for _ in 0..3 {
        let sent = patterned(8 << 20);
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            peer.write_all(&copy).unwrap();
            peer
        });
        let (mut got, mut largest) = (Vec::new(), 0);
        while got.len() < sent.len() {
            let part = pop(&mut net, stream).unwrap().expect("the stream goes on");
            largest = largest.max(part.len());
            got.extend(part);
        }
        assert!(got == sent, "what arrived is what was sent");
        assert!(largest > small, "eight mebibytes came in views of at most {largest} bytes");
        peer = writer.join().unwrap();
        for round in 0..50_u8 {
            peer.write_all(&[round; 100]).unwrap();
            let part =
                net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap().expect("the stream goes on");
            assert_eq!(&part[..], [round; 100]);
        }
        // Nothing small keeps a large slot.
        peer.write_all(b"held").unwrap();
        let taken = net.transport.pool().stats().large_slots_out;
        let held = net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap();
        assert_eq!(net.transport.pool().stats().large_slots_out, taken);
        drop(held);
    }
    drop(peer);
    net.transport.close(stream);
    net.settle();
}

fn readable_and_writable_wait_for_what_they_say(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    net.wait(|t, cx| t.poll_writable(cx, stream)).unwrap();
    let flag = net.flag();
    for _ in 0..3 {
        net.turn();
        assert!(net.poll_with(&flag, |t, cx| t.poll_readable(cx, stream)).is_pending());
    }
    peer.write_all(b"x").unwrap();
    net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 1), b"x");
    let sent = push_until_full(&mut net, stream, &patterned(60_000));
    assert!(net.poll_with(&flag, |t, cx| t.poll_writable(cx, stream)).is_pending());
    let reader = thread::spawn(move || {
        let mut left = sent;
        let mut bytes = vec![0; 1 << 16];
        while left > 0 {
            left -= peer.read(&mut bytes).unwrap();
        }
        peer
    });
    net.wait(|t, cx| t.poll_writable(cx, stream)).unwrap();
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    drop(reader.join().unwrap());
    net.transport.close(stream);
    net.settle();
}
