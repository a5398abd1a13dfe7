//! Queues on threads of their own, and rings between threads, whose ends free each other's memory.

use std::sync::atomic::{AtomicBool, Ordering};

use demi_drivers::dpdk::rings::Rings;
use demi_drivers::dpdk::{Dpdk, DpdkQueue};
use demi_drivers::spread::{Hash, Spread};
use demi_drivers::{Device, Instant, Offload, TxQueue};

use super::support::{SMALL, case, config, frame, receive, send_one};

#[test]
fn two_threads_exchange_frames_that_each_may_send_again() {
    case("threads::two_threads_exchange_frames_that_each_may_send_again", || {
        let rings = Rings::new(SMALL).unwrap();
        let ports = rings.crossed("pair", 1024).unwrap();
        let done = [AtomicBool::new(false), AtomicBool::new(false)];
        std::thread::scope(|scope| {
            for (side, port) in ports.into_iter().enumerate() {
                let done = &done;
                scope.spawn(move || {
                    let mut device = Dpdk::open(&config(&format!("port={port}"))).unwrap();
                    let mut queue = TxQueue::new(64);
                    let (mut sent, mut got) = (0u64, 0u64);
                    let (mut kept, mut frames) = (Vec::new(), Vec::new());
                    while got < 100_000 || !done[1 - side].load(Ordering::Acquire) || !queue.is_empty() {
                        while sent < 100_000 && queue.room() > 32 && device.pool().has_spare() {
                            let buf = device.pool().copy_from_slice(&frame(sent, 100)).unwrap();
                            kept.push(buf.clone());
                            queue.push(buf, Offload::default());
                            sent += 1;
                        }
                        device.tx_burst(Instant::ZERO, &mut queue).unwrap();
                        if device.rx_burst(Instant::ZERO, &mut frames, 32).unwrap() == 0 {
                            std::thread::yield_now();
                        }
                        for received in frames.drain(..) {
                            assert_eq!(received.buf[14..22], got.to_be_bytes(), "frames are out of order");
                            got += 1;
                        }
                        kept.retain(|buf| !buf.is_unique());
                        if got == 100_000 {
                            done[side].store(true, Ordering::Release);
                        }
                    }
                    // What the other side has freed comes back with the next look.
                    device.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
                    kept.retain(|buf| !buf.is_unique());
                    assert!(kept.is_empty() && frames.is_empty(), "{} views are out", kept.len());
                });
            }
        });
        drop(rings);
        assert_eq!(demi_drivers::dpdk::lost_buffers(), 0, "buffers are lost");
    });
}

#[test]
fn every_queue_of_a_port_works_on_its_own_thread() {
    case("threads::every_queue_of_a_port_works_on_its_own_thread", || {
        // Each queue of net_ring is a loop of its own.
        let queues =
            Dpdk::open_queues(&config(&format!("{SMALL} -l 0,1 --vdev=net_ring0 queues=2"))).unwrap();
        assert_eq!(queues.len(), 2);
        std::thread::scope(|scope| {
            for queue in queues {
                scope.spawn(move || {
                    let index = u64::from(queue.index());
                    let mut device = queue.start().unwrap();
                    assert_eq!(device.capabilities().queues, 2);
                    for number in 0..1000 {
                        let buf = device.pool().copy_from_slice(&frame(index << 32 | number, 64)).unwrap();
                        send_one(&mut device, buf);
                        let got = receive(&mut device, 1);
                        assert_eq!(&got[0].buf[..], frame(index << 32 | number, 64), "queue {index}");
                    }
                });
            }
        });
        assert_eq!(demi_drivers::dpdk::lost_buffers(), 0, "buffers are lost");
    });
}

#[test]
fn a_port_says_which_queue_a_flow_comes_to() {
    case("threads::a_port_says_which_queue_a_flow_comes_to", || {
        let spreads = |arguments: &str| -> Vec<_> {
            let queues = Dpdk::open_queues(&config(&format!("{SMALL} -l 0,1 {arguments}"))).unwrap();
            let spread = |queue: DpdkQueue| queue.start().unwrap().capabilities().spread.clone();
            queues.into_iter().map(spread).collect()
        };
        let devices = "--vdev=net_null0 --vdev=net_ring0";
        let null = spreads(&format!("{devices} port=net_null0 queues=2"));
        let first = null[0].as_ref().expect("two queues");
        let Hash::Toeplitz { key, table } = &first.hash else { panic!("net_null has a key and a table") };
        assert!(key.len() >= 40 && table.iter().all(|queue| *queue < 2), "{first:?}");
        assert_eq!(null[1], Some(Spread { queue: 1, ..first.clone() }));
        let ring = spreads(&format!("{devices} port=net_ring0 queues=2"));
        let first = ring[0].as_ref().expect("two queues");
        assert!(matches!(first.hash, Hash::Mix { .. }), "a ring hashes nothing: {first:?}");
        assert_eq!(ring[1], Some(Spread { queue: 1, ..first.clone() }), "both agree");
        assert_eq!(spreads(&format!("{devices} port=net_ring0")), [None]);
    });
}

#[test]
fn threads_that_name_the_same_port_share_it() {
    case("threads::threads_that_name_the_same_port_share_it", || {
        let config = || {
            let one = config(&format!("{SMALL} -l 0,1 --vdev=net_ring0"));
            demi_drivers::dpdk::DpdkConfig { queues: 2, ..one }
        };
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for index in [1, 0] {
                    scope.spawn(move || {
                        let mut device = Dpdk::open_shared(&config(), index).unwrap();
                        let buf = device.pool().copy_from_slice(&frame(u64::from(index), 64)).unwrap();
                        send_one(&mut device, buf);
                        assert_eq!(&receive(&mut device, 1)[0].buf[..], frame(u64::from(index), 64));
                    });
                }
            });
        }
        let error = Dpdk::open_shared(&config(), 2).unwrap_err();
        assert!(error.to_string().contains("no queue 2"), "{error}");
        drop(Dpdk::open_shared(&config(), 0).unwrap());
    });
}
