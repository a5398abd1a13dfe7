//! Queues on threads of their own, and rings between threads, whose ends free each other's memory.

use std::sync::atomic::{AtomicBool, Ordering};

use demi_drivers::dpdk::Dpdk;
use demi_drivers::dpdk::rings::Rings;
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
        let queues =
            Dpdk::open_queues(&config(&format!("{SMALL} -l 0,1 --vdev=net_null0 queues=2"))).unwrap();
        let rss = queues[0].rss().expect("net_null has a key and a table").clone();
        assert_eq!(queues[1].rss(), Some(&rss));
        assert!(rss.key().len() >= 40, "{} bytes", rss.key().len());
        assert!((0..128).all(|hash| rss.queue(hash) < 2));
        let single = config("port=net_null0");
        assert!(Dpdk::open_queues(&single).is_err(), "it is open");
        drop(queues);
        assert!(Dpdk::open_queues(&single).unwrap()[0].rss().is_none());
    });
}
