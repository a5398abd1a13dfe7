//! A thousand connections over one queue of receives: all of them live at once, and nothing of them is left.

use std::process::Command;
use std::task::Poll;

use demi_drivers::Transport;
use demi_drivers::transport::StreamOptions;

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

/// Connections that are open at once.
const CONNECTIONS: usize = 1000;

/// Queue pairs of both devices, as the kernel counts them.
fn queue_pairs() -> usize {
    let output = Command::new("rdma").args(["resource", "show", "qp"]).output().expect("iproute2's rdma");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("type RC")).count()
}

#[test]
fn a_thousand_connections_exchange_bytes_and_leave_nothing() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| {
        config.pool.slots = 8192;
        config.receives = 2048;
    });
    let (listener, address) = {
        let mut options = demi_drivers::transport::ListenOptions::default();
        options.backlog = CONNECTIONS as u32;
        let any = std::net::SocketAddr::new(Ip::V4.of(1), 0);
        let listener = cable.ends[1].listen(any, &options).unwrap();
        (listener, cable.ends[1].listener_addr(listener).unwrap())
    };
    let pools = cable.ends.each_ref().map(|end| end.pool().stats());
    let before = queue_pairs();
    let mut pairs = Vec::with_capacity(CONNECTIONS);
    while pairs.len() < CONNECTIONS {
        // Some at a time: handshakes overlap.
        let connecting: Vec<_> = (0..50)
            .map(|_| cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap())
            .collect();
        for one in connecting {
            cable.wait(|ends, cx| ends[0].poll_connect(cx, one)).unwrap();
            let from = cable.ends[0].local_addr(one).unwrap();
            pairs.push((one, from));
        }
    }
    let mut accepted = std::collections::HashMap::new();
    while accepted.len() < CONNECTIONS {
        let (other, from) = cable.wait(|ends, cx| ends[1].poll_accept(cx, listener)).unwrap();
        accepted.insert(from, other);
    }
    let pairs: Vec<_> = pairs.into_iter().map(|(one, from)| (one, accepted[&from])).collect();
    assert_eq!(queue_pairs() - before, 2 * CONNECTIONS);
    assert_eq!(cable.ends[0].usage().streams, CONNECTIONS);

    for (number, (one, _)) in pairs.iter().enumerate() {
        cable.write_all(0, *one, &pattern(number, 300));
    }
    for (number, (_, other)) in pairs.iter().enumerate().rev() {
        assert_eq!(cable.read_exact(1, *other, 300), pattern(number, 300), "connection {number}");
        cable.write_all(1, *other, &pattern(number + 1, 200));
    }
    for (number, (one, other)) in pairs.iter().enumerate() {
        assert_eq!(cable.read_exact(0, *one, 200), pattern(number + 1, 200), "connection {number}");
        if number % 50 == 0 {
            // By rendezvous.
            let mut buf = cable.ends[0].pool().alloc(40_000).unwrap();
            buf.put_slice(&pattern(number, 40_000));
            cable.push(0, *one, buf.freeze());
            assert_eq!(cable.read_exact(1, *other, 40_000), pattern(number, 40_000), "connection {number}");
        }
    }
    for (number, (one, other)) in pairs.into_iter().enumerate() {
        match number % 3 {
            0 => cable.ends[0].abort(one),
            1 => cable.ends[1].abort(other),
            _ => {}
        }
        cable.ends[0].close(one);
        cable.ends[1].close(other);
    }
    cable.settle();
    cable.wait(|ends, _| {
        let now = ends.each_ref().map(|end| end.pool().stats());
        let same = now.iter().zip(&pools).all(|(now, before)| {
            (now.slots_out, now.large_slots_out) == (before.slots_out, before.large_slots_out)
        });
        if same { Poll::Ready(()) } else { Poll::Pending }
    });
    assert_eq!(queue_pairs(), before);
}

#[test]
fn connections_that_share_few_requests_all_get_their_turn() {
    if !machine_has_rdma() {
        return;
    }
    // Messages that ask for no completion would take all of them, and wait for one another.
    let mut cable = Cable::with(|config| config.requests = 32);
    let (listener, address) = cable.listen(Ip::V4, 1);
    let pairs: Vec<_> = (0..50).map(|_| cable.connect(listener, address)).collect();
    for round in 0..10 {
        for (number, (one, _)) in pairs.iter().enumerate() {
            cable.write_all(0, *one, &pattern(number + round, 50));
        }
        for (number, (_, other)) in pairs.iter().enumerate() {
            assert_eq!(cable.read_exact(1, *other, 50), pattern(number + round, 50), "connection {number}");
        }
    }
}
