//! Bytes: small and large, copied and not, both ways, more than anybody has room for.

use std::task::{Context, Poll, Waker};

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
