//! A lot of bytes, with their SHA-256 at both ends; and a path that loses and delays packets.

use std::task::{Context, Poll, Waker};

use demi_drivers::Transport;
use demi_drivers::transport::StreamId;
use sha2::{Digest, Sha256};

use crate::support::{Cable, Faults, Ip, machine_has_rdma, pattern};

/// Bytes of the long transfer.
const GIBIBYTE: u64 = 1 << 30;

/// Pushes `total` bytes from one end to the other in buffers of `size`; answers what each end has hashed. No two buffers are the same.
fn digests(
    cable: &mut Cable,
    (from, one): (usize, StreamId),
    other: StreamId,
    total: u64,
    size: usize,
) -> [[u8; 32]; 2] {
    let to = 1 - from;
    let template = pattern(0, size);
    let (mut sent, mut received) = (0, 0);
    let mut hashes = [Sha256::new(), Sha256::new()];
    let mut next = None;
    let mut cx = Context::from_waker(Waker::noop());
    let pool = cable.ends[from].pool().clone();
    while received < total {
        while sent < total || next.is_some() {
            if next.is_none() {
                let len = usize::try_from(total - sent).unwrap_or(size).min(size);
                let Some(mut buf) = pool.alloc_spare(len) else { break };
                buf.put_slice(&template[..len]);
                let count = sent.to_le_bytes();
                let head = len.min(count.len());
                buf[..head].copy_from_slice(&count[..head]);
                hashes[0].update(&buf[..]);
                sent += len as u64;
                next = Some(buf.freeze());
            }
            match cable.ends[from].poll_push(&mut cx, one, &mut next) {
                Poll::Ready(result) => result.unwrap(),
                Poll::Pending => break,
            }
        }
        while received < total
            && let Poll::Ready(popped) = cable.ends[to].poll_pop(&mut cx, other, usize::MAX)
        {
            let buf = popped.unwrap().expect("the end comes after the bytes");
            hashes[1].update(&buf[..]);
            received += buf.len() as u64;
        }
        cable.turn();
    }
    hashes.map(|hash| hash.finalize().into())
}

#[test]
fn a_gibibyte_crosses_by_rendezvous_and_its_digest_is_the_same() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    let [here, there] = digests(&mut cable, (0, one), other, GIBIBYTE, 60_000);
    assert_eq!(here, there);
    // And some of it back, in messages.
    let [there, here] = digests(&mut cable, (1, other), one, 32 << 20, 1800);
    assert_eq!(here, there);
    cable.ends[0].close(one);
    cable.ends[1].close(other);
    cable.settle();
}

#[test]
fn what_is_lost_on_a_slow_path_is_sent_again_by_the_adapter() {
    if !machine_has_rdma() {
        return;
    }
    let _faults = Faults::new("delay 5ms loss 2%");
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 1);
    let pairs: Vec<_> = (0..10).map(|_| cable.connect(listener, address)).collect();
    for (number, &(one, other)) in pairs.iter().enumerate() {
        let bytes = pattern(number, 5000);
        cable.write_all(0, one, &bytes);
        assert_eq!(cable.read_exact(1, other, 5000), bytes, "connection {number}");
        cable.write_all(1, other, &bytes);
        assert_eq!(cable.read_exact(0, one, 5000), bytes, "connection {number}");
    }
    let (one, other) = pairs[0];
    for size in [1800, 60_000] {
        let [here, there] = digests(&mut cable, (0, one), other, 1 << 20, size);
        assert_eq!(here, there, "in buffers of {size} bytes");
    }
    for (one, other) in pairs {
        cable.ends[0].close(one);
        cable.ends[1].close(other);
    }
    cable.settle();
}

#[test]
fn a_cable_that_is_cut_ends_what_is_under_way_and_nothing_is_left() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let out = cable.ends[0].pool().stats();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
    let peer = cable.ends[0].one_sided(one).unwrap();
    let region = cable.ends[1].register(4096, demi_drivers::rdma::onesided::Access::ALL).unwrap();
    let cut = Faults::new("loss 100%");
    let mut reading = Box::pin(peer.read(&region.key(), 0, 4000));
    cable.write_all(0, one, &pattern(0, 20_000));
    let error = cable.read(0, one, 1).unwrap_err();
    assert!(
        matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::ConnectionReset),
        "{error:?}"
    );
    let read = cable.wait(|_, cx| Future::poll(reading.as_mut(), cx));
    assert!(read.is_err(), "nothing can have come");
    drop((reading, cut));
    cable.ends[0].close(one);
    cable.ends[1].abort(other);
    cable.settle();
    cable.wait(|ends, _| {
        let now = ends[0].pool().stats();
        let same = (now.slots_out, now.large_slots_out) == (out.slots_out, out.large_slots_out);
        if same { Poll::Ready(()) } else { Poll::Pending }
    });
    // The device has not suffered.
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"again");
    assert_eq!(cable.read_exact(1, other, 5), b"again");
}
