//! What runs out: slots, ring entries, sockets, descriptors, the peer's patience.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::task::Poll;
use std::thread;

use demi_drivers::transport::{DatagramOptions, StreamOptions};

use crate::shapes::{V4, accept, listen, pair, pop_exactly};
use crate::support::{self, Driver, patterned};
use crate::{Limits, Open};

suite![
    an_empty_pool_waits_for_a_slot,
    a_reader_that_pauses_holds_the_peer_back,
    a_small_pool_serves_many_connections,
    a_small_ring_serves_many_connections,
    the_limit_of_sockets_is_an_error_with_a_cure,
    running_out_of_descriptors_is_told_and_survived,
];

fn an_empty_pool_waits_for_a_slot(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let pool = net.transport.pool().clone();
    let mut hoard: Vec<_> = std::iter::from_fn(|| pool.alloc(1)).collect();
    let sent = patterned(3 << 20);
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        peer.write_all(&copy).unwrap();
        peer
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let part = net.wait(|t, cx| {
            let part = t.poll_pop(cx, stream, usize::MAX);
            if part.is_pending() {
                // A slot comes back, as when the application drops what it had.
                hoard.pop();
            }
            part
        });
        got.extend_from_slice(&part.unwrap().unwrap());
    }
    assert!(got == sent, "what arrived is what was sent");
    drop(writer.join().unwrap());
    net.transport.close(stream);
    net.settle();
}

fn a_reader_that_pauses_holds_the_peer_back(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let sent = patterned(16 << 20);
    peer.set_nonblocking(true).unwrap();
    // What the peer may send while nobody reads is bounded by the kernel's buffers and by a few slots.
    let mut at = 0;
    let mut refusals = 0;
    while refusals < 5 {
        match peer.write(&sent[at..]) {
            Ok(count) => (at, refusals) = (at + count, 0),
            Err(_) => refusals += 1,
        }
        net.turn();
    }
    assert!(at < sent.len(), "nobody read, and yet all {at} bytes were taken");
    assert!(net.transport.pool().stats().slots_out < 2048, "{:?}", net.transport.pool().stats());
    peer.set_nonblocking(false).unwrap();
    let rest = sent[at..].to_vec();
    let writer = thread::spawn(move || {
        peer.write_all(&rest).unwrap();
        peer
    });
    assert!(pop_exactly(&mut net, stream, sent.len()) == sent, "what arrived is what was sent");
    drop(writer.join().unwrap());
    net.transport.close(stream);
    net.settle();
}

fn a_small_pool_serves_many_connections(open: Open) {
    serve_many(open(Limits { slots: Some(32), ..Limits::default() }));
}

fn a_small_ring_serves_many_connections(open: Open) {
    serve_many(open(Limits { entries: Some(8), ..Limits::default() }));
}

/// Echoes what forty peers send at once.
fn serve_many(mut net: Driver) {
    let (listener, address) = listen(&mut net, V4);
    let peers: Vec<_> = (0..40_u8)
        .map(|number| {
            thread::spawn(move || {
                let mut peer = TcpStream::connect(address).unwrap();
                let mut reader = peer.try_clone().unwrap();
                let sent: Vec<u8> = patterned(50_000).iter().map(|byte| byte ^ number).collect();
                let copy = sent.clone();
                let writer = thread::spawn(move || {
                    peer.write_all(&copy).unwrap();
                    peer.shutdown(Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                reader.read_to_end(&mut got).unwrap();
                writer.join().unwrap();
                assert!(got == sent, "connection {number} got back what it sent");
            })
        })
        .collect();
    // One task's work for all connections, as fair as a loop over them is.
    let flag = net.flag();
    let (mut open_ones, mut left) = (Vec::new(), peers.len());
    while left > 0 {
        while let Poll::Ready(accepted) = net.poll_with(&flag, |t, cx| t.poll_accept(cx, listener)) {
            open_ones.push((accepted.unwrap().0, None));
        }
        for (stream, kept) in &mut open_ones {
            if kept.is_none() {
                match net.poll_with(&flag, |t, cx| t.poll_pop(cx, *stream, usize::MAX)) {
                    Poll::Ready(Ok(Some(buf))) => *kept = Some(buf),
                    Poll::Ready(Ok(None)) => {
                        net.transport.close(*stream);
                        left -= 1;
                    }
                    Poll::Ready(Err(error)) if error.kind() == ErrorKind::NotConnected => {}
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending => {}
                }
            }
            if kept.is_some()
                && let Poll::Ready(result) = net.poll_with(&flag, |t, cx| t.poll_push(cx, *stream, kept))
            {
                result.unwrap();
            }
        }
        net.turn();
    }
    for peer in peers {
        peer.join().unwrap();
    }
    drop(open_ones);
    net.transport.close_listener(listener);
    net.settle();
}

fn the_limit_of_sockets_is_an_error_with_a_cure(open: Open) {
    let mut net = open(Limits { sockets: Some(2), ..Limits::default() });
    let (listener, address) = listen(&mut net, V4);
    let _peers = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
    let first = accept(&mut net, listener);
    let error = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("max_sockets"), "{error}");
    let error = net.transport.bind_datagram(V4.parse().unwrap(), &DatagramOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    // The one that found no room is still in the queue.
    net.transport.close(first);
    while net.transport.usage().streams > 0 {
        net.turn();
    }
    let second = accept(&mut net, listener);
    net.transport.close(second);
    net.transport.close_listener(listener);
    net.settle();
}

fn running_out_of_descriptors_is_told_and_survived(open: Open) {
    let _alone = support::alone();
    let few = support::few_descriptors();
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    net.turn();
    let taken = few.take_all();
    peer.connect(&address.into()).unwrap();
    let error = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err();
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    let error = net.transport.connect(address, None, &StreamOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    drop(taken);
    let stream = accept(&mut net, listener);
    peer.send(b"patience").unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 8), b"patience");
    drop(peer);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.settle();
}
