//! Bytes: small and large, copied and not, both ways, more than anybody has room for.

use std::task::{Context, Poll, Waker};

use demi_drivers::transport::StreamId;
use demi_drivers::{PoolConfig, Transport};

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

fn round_trips(ip: Ip) {
    let mut cable = Cable::new();
    let (one, other) = cable.connected(ip);
    for size in [1, 15, 100, 128, 1000, 1840, 1841, 5000, 40_000] {
        let bytes = pattern(size, size);
        cable.write_all(0, one, &bytes);
        assert_eq!(cable.read_exact(1, other, size), bytes, "{size} bytes");
        cable.write_all(1, other, &bytes);
        assert_eq!(cable.read_exact(0, one, size), bytes, "{size} bytes back");
    }
}

#[test]
fn bytes_of_any_length_make_the_round_trip_over_ipv4() {
    if machine_has_rdma() {
        round_trips(Ip::V4);
    }
}

#[test]
fn bytes_of_any_length_make_the_round_trip_over_ipv6() {
    if machine_has_rdma() {
        round_trips(Ip::V6);
    }
}

#[test]
fn what_is_pushed_and_popped_is_not_copied_on_its_way_back() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    for round in 0..50 {
        let bytes = pattern(round, 700);
        let buf = cable.ends[0].pool().copy_from_slice(&bytes).unwrap();
        cable.push(0, one, buf);
        let echo = cable.wait(|ends, cx| ends[1].poll_pop(cx, other, usize::MAX)).unwrap().unwrap();
        cable.push(1, other, echo);
        let back = cable.wait(|ends, cx| ends[0].poll_pop(cx, one, usize::MAX)).unwrap().unwrap();
        assert_eq!(back[..], bytes[..]);
    }
    cable.wait(|ends, cx| ends[1].poll_drained(cx, other)).unwrap();
}

/// Pushes `total` bytes in buffers of `size`, while the other end takes them.
fn transfer(cable: &mut Cable, total: usize, size: usize) {
    let (one, other) = cable.connected(Ip::V4);
    let (mut sent, mut received) = (0, 0);
    let mut next = None;
    let mut cx = Context::from_waker(Waker::noop());
    while received < total {
        while sent < total {
            if next.is_none() {
                let pool = cable.ends[0].pool().clone();
                let Some(mut buf) = pool.alloc_spare(size) else { break };
                buf.put_slice(&pattern(sent, size.min(total - sent)));
                next = Some(buf.freeze());
            }
            let len = next.as_ref().map_or(0, |buf| buf.len());
            match cable.ends[0].poll_push(&mut cx, one, &mut next) {
                Poll::Ready(result) => {
                    result.unwrap();
                    sent += len;
                    if sent == total {
                        cable.ends[0].shutdown(one, std::net::Shutdown::Write).unwrap();
                    }
                }
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(popped) = cable.ends[1].poll_pop(&mut cx, other, usize::MAX) {
            let Some(buf) = popped.unwrap() else {
                assert_eq!(received, total, "the end came too early");
                break;
            };
            assert!(buf[..] == pattern(received, buf.len())[..], "wrong bytes at {received}");
            received += buf.len();
        }
        cable.turn();
    }
    assert_eq!(cable.wait(|ends, cx| ends[1].poll_pop(cx, other, 1)).unwrap(), None);
    cable.wait(|ends, cx| ends[0].poll_drained(cx, one)).unwrap();
    cable.ends[1].close(other);
    cable.ends[0].close(one);
    cable.settle();
}

#[test]
fn megabytes_cross_in_small_messages() {
    if machine_has_rdma() {
        transfer(&mut Cable::new(), 4 << 20, 1500);
    }
}

#[test]
fn megabytes_cross_by_rendezvous() {
    if machine_has_rdma() {
        transfer(&mut Cable::new(), 16 << 20, 60_000);
    }
}

#[test]
fn a_pool_with_few_slots_is_slow_and_never_stuck() {
    if !machine_has_rdma() {
        return;
    }
    let pool = PoolConfig { slots: 64, large_slots: 4, huge_pages: false, ..PoolConfig::default() };
    let few = || Cable::with(|config| config.pool = pool.clone());
    transfer(&mut few(), 1 << 20, 1500);
    transfer(&mut few(), 1 << 20, 60_000);
}

#[test]
fn a_reader_that_does_not_read_stops_its_writer_and_nobody_else() {
    if !machine_has_rdma() {
        return;
    }
    // The writer that is stopped fills its send buffer, and leaves slots to the other.
    let mut cable = Cable::with(|config| config.pool.slots = 4096);
    let (listener, address) = cable.listen(Ip::V4, 1);
    let (stuck, unread) = cable.connect(listener, address);
    let (one, other) = cable.connect(listener, address);
    let mut cx = Context::from_waker(Waker::noop());
    let bytes = pattern(0, 10_000);
    let mut written = 0;
    let mut quiet = 0;
    while quiet < 100 {
        match cable.ends[0].poll_write(&mut cx, stuck, &[std::io::IoSlice::new(&bytes)]) {
            Poll::Ready(count) => {
                written += count.unwrap();
                quiet = 0;
            }
            Poll::Pending => quiet += 1,
        }
        cable.turn();
        assert!(written < 8 << 20, "nobody reads, and nobody stops");
    }
    cable.write_all(0, one, b"not held up");
    assert_eq!(cable.read_exact(1, other, 11), b"not held up");
    cable.ends[0].shutdown(stuck, std::net::Shutdown::Write).unwrap();
    let mut received = 0;
    loop {
        let more = cable.read(1, unread, 100_000).unwrap();
        if more.is_empty() {
            break;
        }
        received += more.len();
    }
    assert_eq!(received, written);
}

#[test]
fn many_connections_share_one_queue_of_receives() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| config.receives = 64);
    let (listener, address) = cable.listen(Ip::V4, 1);
    let pairs: Vec<_> = (0..50).map(|_| cable.connect(listener, address)).collect();
    for round in 0..3 {
        for (number, (one, _)) in pairs.iter().enumerate() {
            cable.write_all(0, *one, &pattern(number + round, 3000));
        }
        for (number, (_, other)) in pairs.iter().enumerate().rev() {
            assert_eq!(
                cable.read_exact(1, *other, 3000),
                pattern(number + round, 3000),
                "connection {number}"
            );
        }
    }
    for (one, other) in pairs {
        cable.ends[0].close(one);
        cable.ends[1].close(other);
    }
    cable.settle();
}

#[test]
fn what_is_done_is_counted() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    for _ in 0..10 {
        cable.write_all(0, one, &pattern(0, 1000));
        assert_eq!(cable.read_exact(1, other, 1000), pattern(0, 1000));
    }
    assert_eq!((cable.count(0, "RdmaActiveOpens"), cable.count(1, "RdmaPassiveOpens")), (1, 1));
    assert_eq!((cable.count(0, "RdmaOutOctets"), cable.count(1, "RdmaInOctets")), (10_000, 10_000));
    assert!(cable.count(0, "RdmaOutMessages") >= cable.count(1, "RdmaInMessages"));
    assert!(cable.count(1, "RdmaInMessages") >= 10);
    let bytes = pattern(0, 50_000);
    let buf = cable.ends[0].pool().copy_from_slice(&bytes).unwrap();
    cable.push(0, one, buf);
    assert_eq!(cable.read_exact(1, other, 50_000), bytes);
    assert_eq!((cable.count(0, "RdmaOffers"), cable.count(1, "RdmaReadOctets")), (1, 50_000));
    // A reader that does not read holds its peer up, once.
    assert_eq!(cable.count(0, "RdmaCreditStalls"), 0);
    for _ in 0..60 {
        let buf = cable.ends[0].pool().copy_from_slice(&pattern(0, 1800)).unwrap();
        cable.push(0, one, buf);
        cable.turn();
    }
    (0..100).for_each(|_| _ = cable.turn());
    assert_eq!(cable.count(0, "RdmaCreditStalls"), 1);
    cable.ends[0].abort(one);
    (0..100).for_each(|_| _ = cable.turn());
    assert!(cable.read(1, other, 1 << 20).is_ok(), "what came before it is read");
    cable.ends[1].close(other);
    cable.settle();
    assert_eq!((cable.count(0, "RdmaResets"), cable.count(1, "RdmaResets")), (1, 1));
}

#[test]
fn receives_that_early_connections_have_too_many_of_go_to_later_ones_and_come_back() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| {
        config.receives = 96;
        config.credits = 64;
    });
    let (listener, address) = cable.listen(Ip::V4, 1);
    let early = cable.connect(listener, address);
    let late: Vec<_> = (0..8).map(|_| cable.connect(listener, address)).collect();
    // How many messages its peer sends ahead of a reader that does not read.
    let ahead = |cable: &mut Cable, (one, other): (StreamId, StreamId)| {
        let before = cable.count(1, "RdmaInOctets");
        let bytes = pattern(0, 1500);
        for _ in 0..80 {
            let buf = cable.ends[0].pool().copy_from_slice(&bytes).unwrap();
            cable.push(0, one, buf);
        }
        let stalls = cable.count(0, "RdmaCreditStalls");
        cable.wait(|ends, _| {
            let stalled = |(name, count): &(String, u64)| name == "RdmaCreditStalls" && *count > stalls;
            if ends[0].counters().iter().any(stalled) { Poll::Ready(()) } else { Poll::Pending }
        });
        (0..100).for_each(|_| _ = cable.turn());
        let came = (cable.count(1, "RdmaInOctets") - before) / 1500;
        for _ in 0..80 {
            assert_eq!(cable.read_exact(1, other, 1500), bytes);
        }
        came
    };
    let first = ahead(&mut cable, early);
    assert!(first >= 30, "it came first: {first}");
    for _ in 0..3 {
        ahead(&mut cable, early);
    }
    // Until a quarter is free for those who come next.
    let fair = ahead(&mut cable, early);
    assert!(fair <= 24, "{fair} of 96 receives for one of nine connections");
    for (one, other) in late {
        cable.ends[0].abort(one);
        cable.ends[1].abort(other);
    }
    cable.wait(|ends, _| match ends.iter().all(|end| end.usage().streams == 1) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    for _ in 0..10 {
        ahead(&mut cable, early);
    }
    let alone = ahead(&mut cable, early);
    assert!(alone >= 40, "{alone} of 96 receives for the only connection");
}
