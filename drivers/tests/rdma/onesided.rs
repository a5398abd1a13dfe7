//! One-sided operations on a peer's regions: each kind, from two connections at once against a model, what is refused, what is dropped.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use demi_drivers::Transport;
use demi_drivers::rdma::onesided::{Access, Peer, RegionKey};

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

type Doing<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

fn once<T>(doing: &mut Doing<T>) -> Poll<io::Result<T>> {
    doing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn done<T>(cable: &mut Cable, doing: impl Future<Output = io::Result<T>> + 'static) -> io::Result<T> {
    let mut doing: Doing<T> = Box::pin(doing);
    cable.wait(|_, _| once(&mut doing))
}

/// Both ends of a connection, each with the other's memory.
fn peers(cable: &mut Cable, ip: Ip) -> [Peer; 2] {
    let (one, other) = cable.connected(ip);
    [cable.ends[0].one_sided(one).unwrap(), cable.ends[1].one_sided(other).unwrap()]
}

fn each_kind(ip: Ip) {
    let mut cable = Cable::new();
    let [peer, _] = peers(&mut cable, ip);
    let region = cable.ends[1].register(10_000, Access::ALL).unwrap();
    region.write_at(3, b"there").unwrap();
    let key = RegionKey::from_bytes(&region.key().to_bytes()).unwrap();

    let read = done(&mut cable, peer.read(&key, 3, 5)).unwrap();
    assert_eq!(&read[..], b"there");
    for (offset, len) in [(100, 1), (200, 64), (1000, 1500), (3001, 5000)] {
        let bytes = pattern(offset, len);
        let from = cable.ends[0].pool().copy_from_slice(&bytes).unwrap();
        done(&mut cable, peer.write(&key, offset as u64, from)).unwrap();
        let mut there = vec![0; len];
        region.read_at(offset, &mut there).unwrap();
        assert_eq!(there, bytes, "{len} bytes at {offset}");
        let back = done(&mut cable, peer.read(&key, offset as u64, len)).unwrap();
        assert_eq!(back[..], bytes[..]);
    }
    region.store(8, 40).unwrap();
    assert_eq!(done(&mut cable, peer.fetch_add(&key, 8, 2)).unwrap(), 40);
    assert_eq!(done(&mut cable, peer.compare_swap(&key, 8, 41, 7)).unwrap(), 42);
    assert_eq!(done(&mut cable, peer.compare_swap(&key, 8, 42, 7)).unwrap(), 42);
    assert_eq!(region.load(8).unwrap(), 7);
    assert_eq!(done(&mut cable, peer.fetch_add(&key, 8, u64::MAX)).unwrap(), 7);
    assert_eq!(region.load(8).unwrap(), 6, "it wraps");
}

#[test]
fn each_kind_of_operation_does_what_it_says_over_ipv4() {
    if machine_has_rdma() {
        each_kind(Ip::V4);
    }
}

#[test]
fn each_kind_of_operation_does_what_it_says_over_ipv6() {
    if machine_has_rdma() {
        each_kind(Ip::V6);
    }
}

#[test]
fn what_a_key_does_not_allow_is_refused_before_it_is_sent() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let [peer, _] = peers(&mut cable, Ip::V4);
    let region = cable.ends[1].register(64, Access::READ).unwrap();
    let key = region.key();
    let from = cable.ends[0].pool().copy_from_slice(b"x").unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(done(&mut cable, peer.write(&key, 0, from))), io::ErrorKind::PermissionDenied);
    let add = done(&mut cable, peer.fetch_add(&key, 0, 1)).map(drop);
    assert_eq!(kind(add), io::ErrorKind::PermissionDenied);
    for (offset, bytes) in [(60, 5), (u64::MAX, 1), (65, 0)] {
        let read = done(&mut cable, peer.read(&key, offset, bytes)).map(drop);
        assert_eq!(kind(read), io::ErrorKind::InvalidInput, "{bytes} bytes at {offset}");
    }
    assert_eq!(
        done(&mut cable, peer.read(&key, 0, 64)).unwrap().len(),
        64,
        "the connection has not suffered"
    );
}

#[test]
fn a_region_that_is_gone_is_reached_no_more_and_breaks_the_connection_that_tries() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    let peer = cable.ends[0].one_sided(one).unwrap();
    let region = cable.ends[1].register(64, Access::ALL).unwrap();
    let key = region.key();
    drop(region);
    assert!(done(&mut cable, peer.read(&key, 0, 8)).is_err());
    let from = cable.ends[0].pool().copy_from_slice(b"more").unwrap();
    assert!(done(&mut cable, peer.write(&key, 0, from)).is_err(), "it is known at once");
    assert!(cable.read(0, one, 10).is_err());
    cable.ends[0].close(one);
    cable.ends[1].abort(other);
    cable.settle();
    assert_eq!(cable.ends[0].one_sided(one).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn two_connections_add_and_swap_as_one_after_the_other() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let [first, _] = peers(&mut cable, Ip::V4);
    let [second, back] = peers(&mut cable, Ip::V6);
    let there = cable.ends[1].register(64, Access::ALL).unwrap();
    let here = cable.ends[0].register(64, Access::ALL).unwrap();
    let mut adding: Vec<Doing<u64>> = Vec::new();
    for _ in 0..40 {
        // More than a connection takes at a time.
        adding.push(Box::pin(first.fetch_add(&there.key(), 0, 1)));
        adding.push(Box::pin(second.fetch_add(&there.key(), 0, 1)));
        adding.push(Box::pin(back.fetch_add(&here.key(), 8, 3)));
    }
    let mut seen = Vec::new();
    cable.wait(|_, _| {
        adding.retain_mut(|doing| match once(doing) {
            Poll::Pending => true,
            Poll::Ready(was) => {
                seen.push(was.unwrap());
                false
            }
        });
        if adding.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    seen.sort_unstable();
    let mut expected: Vec<u64> = (0..80).chain((0..40).map(|at| at * 3)).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected, "each sees a value that no other saw");
    assert_eq!((there.load(0).unwrap(), here.load(8).unwrap()), (80, 120));
}

#[test]
fn a_future_dropped_at_any_moment_loses_no_buffer() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let [peer, _] = peers(&mut cable, Ip::V4);
    let region = cable.ends[1].register(8192, Access::ALL).unwrap();
    let out = cable.ends[0].pool().stats().slots_out;
    for turns in 0..12 {
        let mut read: Option<Doing<_>> = Some(Box::pin(peer.read(&region.key(), 0, 1000)));
        let from = cable.ends[0].pool().copy_from_slice(&pattern(turns, 1000)).unwrap();
        let mut write: Option<Doing<_>> = Some(Box::pin(peer.write(&region.key(), 4000, from)));
        for _ in 0..turns {
            read = read.and_then(|mut read| once(&mut read).is_pending().then_some(read));
            write = write.and_then(|mut write| once(&mut write).is_pending().then_some(write));
            cable.turn();
        }
        drop((read, write));
    }
    // The connection still works, and in the end every buffer is back.
    assert_eq!(done(&mut cable, peer.read(&region.key(), 0, 8)).unwrap().len(), 8);
    cable.wait(
        |ends, _| if ends[0].pool().stats().slots_out <= out { Poll::Ready(()) } else { Poll::Pending },
    );
}

#[test]
fn operations_under_way_when_a_connection_is_reset_come_back_with_an_error() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    let peer = cable.ends[0].one_sided(one).unwrap();
    let region = cable.ends[1].register(8192, Access::ALL).unwrap();
    let mut reads: Vec<Doing<_>> =
        (0..50).map(|_| Box::pin(peer.read(&region.key(), 0, 1000)) as Doing<_>).collect();
    assert!(reads.iter_mut().all(|read| once(read).is_pending()));
    let now = cable.now();
    cable.ends[0].flush(now).unwrap();
    cable.ends[1].abort(other);
    let mut failed = 0;
    cable.wait(|_, _| {
        reads.retain_mut(|read| match once(read) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failed += usize::from(result.is_err());
                false
            }
        });
        if reads.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    assert!(failed > 0, "most of them had not begun");
    cable.ends[0].close(one);
    cable.settle();
}
