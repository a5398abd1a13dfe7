//! Waits: futures that are dropped, parks and what ends them, a transport that is dropped under everything open.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use demi_drivers::transport::StreamOptions;

use crate::shapes::{V4, accept, bind, listen, pair, pop, pop_exactly, push_until_full};
use crate::support::{self, descriptors, patterned};
use crate::{Limits, Open};

suite![
    dropped_waits_lose_nothing,
    a_watched_descriptor_ends_the_park,
    a_descriptor_no_longer_watched_does_not_end_the_park,
    the_wait_descriptor_tells_that_something_came,
    a_transport_is_dropped_with_everything_open,
];

fn dropped_waits_lose_nothing(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let total = 200_000;
    let peer = thread::spawn(move || {
        let mut peer = TcpStream::connect(address).unwrap();
        let mut reader = peer.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        let sent = patterned(total);
        for part in sent.chunks(1111) {
            peer.write_all(part).unwrap();
            thread::yield_now();
        }
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap() == sent, "every byte came back, once and in order");
    });
    // Each wait is polled once with a waker that nobody keeps, then dropped and started anew: what was there for it must
    // be there for its successor.
    let stream = loop {
        let flag = net.flag();
        if let Poll::Ready(accepted) = net.poll_with(&flag, |t, cx| t.poll_accept(cx, listener)) {
            break accepted.unwrap().0;
        }
        drop(flag);
        net.turn();
    };
    let mut back = VecDeque::new();
    let (mut popped, mut pushed) = (0, 0);
    while pushed < total {
        let flag = net.flag();
        if popped < total
            && let Poll::Ready(got) = net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 700))
        {
            let buf = got.unwrap().expect("the stream goes on");
            popped += buf.len();
            back.push_back(buf);
        }
        if let Some(buf) = back.pop_front() {
            let len = buf.len();
            let mut given = Some(buf);
            match net.poll_with(&flag, |t, cx| t.poll_push(cx, stream, &mut given)) {
                Poll::Ready(result) => {
                    result.unwrap();
                    pushed += len;
                }
                Poll::Pending => {
                    let kept = given.expect("a push that waits has taken nothing");
                    assert_eq!(kept.len(), len);
                    back.push_front(kept);
                }
            }
        }
        drop(flag);
        net.turn();
    }
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.settle();
    peer.join().unwrap();
}

fn a_watched_descriptor_ends_the_park(open: Open) {
    let mut net = open(Limits::default());
    let (mut bell, ringer) = std::os::unix::net::UnixStream::pair().unwrap();
    net.transport.watch(bell.as_raw_fd()).unwrap();
    for _ in 0..3 {
        let ringer = ringer.try_clone().unwrap();
        let ring = thread::spawn(move || (&ringer).write_all(b"!").unwrap());
        // Without the bell this would wait for ever.
        net.transport.park(None).unwrap();
        ring.join().unwrap();
        // It goes on ringing until somebody reads it.
        net.turn();
        net.transport.park(None).unwrap();
        bell.read_exact(&mut [0; 1]).unwrap();
        net.turn();
        net.turn();
        net.transport.park(Some(Duration::from_micros(10))).unwrap();
    }
}

fn a_descriptor_no_longer_watched_does_not_end_the_park(open: Open) {
    let mut net = open(Limits::default());
    let (bell, ringer) = std::os::unix::net::UnixStream::pair().unwrap();
    net.transport.watch(bell.as_raw_fd()).unwrap();
    net.transport.park(Some(Duration::from_micros(10))).unwrap();
    net.transport.unwatch(bell.as_raw_fd());
    while net.turn() > 0 {}
    // What the kernel has to say of the poll that was under way ends a park, once.
    net.transport.park(Some(Duration::from_micros(10))).unwrap();
    while net.turn() > 0 {}
    (&ringer).write_all(b"!").unwrap();
    // A wait may end early for reasons of its own; with the bell, each would.
    let limit = Duration::from_millis(5);
    let lasts = (0..100).any(|_| {
        let start = std::time::Instant::now();
        net.transport.park(Some(limit)).unwrap();
        net.turn();
        start.elapsed() >= limit
    });
    assert!(lasts, "every wait was ended");
    net.transport.unwatch(bell.as_raw_fd());
    net.settle();
}

fn the_wait_descriptor_tells_that_something_came(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let flag = net.flag();
    for round in 0..3 {
        assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 100)).is_pending());
        while net.turn() > 0 {}
        let fd =
            net.transport.wait_fd().expect("a kernel transport can be waited for from outside").as_raw_fd();
        assert!(!support::is_readable(fd, 0), "round {round}: nothing has come");
        peer.write_all(b"ping").unwrap();
        assert!(support::is_readable(fd, 10_000), "round {round}: something has come");
        assert_eq!(pop_exactly(&mut net, stream, 4), b"ping");
    }
    net.transport.close(stream);
    net.settle();
}

fn a_transport_is_dropped_with_everything_open(open: Open) {
    let _alone = support::alone();
    let before = descriptors();
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let mut peers = Vec::new();
    let flag = net.flag();
    for index in 0..20 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&patterned(5000)).unwrap();
        let stream = accept(&mut net, listener);
        match index % 4 {
            // A reader that waits, after some bytes were taken.
            0 => {
                drop(pop_exactly(&mut net, stream, 5000));
                assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 10)).is_pending());
            }
            // A writer that waits, with everything full.
            1 => drop(push_until_full(&mut net, stream, &patterned(60_000))),
            // Closed with bytes on the way.
            2 => {
                push_until_full(&mut net, stream, &patterned(60_000));
                net.transport.close(stream);
            }
            // Accepted and left alone.
            _ => {}
        }
        peers.push(peer);
    }
    let (socket, _) = bind(&mut net, V4);
    assert!(net.poll_with(&flag, |t, cx| t.poll_recv_from(cx, socket)).is_pending());
    // A connection attempt that nobody answers, where the machine has a route for it at all.
    let nowhere = "203.0.113.1:9".parse().unwrap();
    if let Ok(stream) = net.transport.connect(nowhere, None, &StreamOptions::default()) {
        let _ = net.poll_with(&flag, |t, cx| t.poll_connect(cx, stream));
    }
    let pool = net.transport.pool().clone();
    let kept = pool.copy_from_slice(b"outlives its transport").unwrap();
    drop(net);
    assert_eq!(&kept[..], b"outlives its transport");
    let stats = pool.stats();
    assert_eq!((stats.slots_out, stats.large_slots_out), (1, 0), "every other slot came back");
    // Nothing the peers do now reaches memory that was the transport's.
    let slots: Vec<_> = std::iter::from_fn(|| pool.copy_from_slice(&[0xa5; 1792])).collect();
    for peer in &mut peers {
        let _ = peer.write(&patterned(5000));
    }
    drop(peers);
    assert!(slots.iter().all(|slot| slot.iter().all(|byte| *byte == 0xa5)));
    assert_eq!(descriptors(), before);
}
