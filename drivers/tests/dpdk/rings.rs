//! Ports that are rings in memory, as a user without any privilege.

use demi_drivers::dpdk::rings::Rings;
use demi_drivers::{Device, Instant, Offload, TxQueue};

use super::common::drop_privileges;
use super::support::{SMALL, case, close, frame, open, receive, send, send_one};

#[test]
fn a_frame_keeps_its_memory_from_sender_to_receiver() {
    case("rings::a_frame_keeps_its_memory_from_sender_to_receiver", || {
        drop_privileges();
        let mut loops = open(&format!("{SMALL} --vdev=net_ring0"));
        assert_eq!(loops.driver(), "net_ring");
        assert!(loops.link().is_some_and(|link| link.up));
        let buf = loops.pool().copy_from_slice(&frame(1, 64)).unwrap();
        let address = buf.as_ptr();
        send_one(&mut loops, buf);
        assert_eq!(loops.pool().stats().slots_out, 0, "its slot went with it");
        let got = receive(&mut loops, 1);
        assert_eq!(&got[0].buf[..], frame(1, 64));
        assert_eq!(got[0].buf.as_ptr(), address, "the frame was copied");
        assert_eq!(loops.pool().stats().slots_out, 1);
        drop(got);
        let stats = loops.stats();
        assert_eq!((stats.tx_frames, stats.tx_bytes, stats.rx_frames, stats.rx_bytes), (1, 64, 1, 64));
        assert!(loops.extended_stats().iter().any(|(name, count)| name == "rx_good_packets" && *count == 1));
        close([loops]);
    });
}

#[test]
fn what_may_be_sent_again_stays_as_it_is() {
    case("rings::what_may_be_sent_again_stays_as_it_is", || {
        let mut loops = open(&format!("{SMALL} --vdev=net_ring0"));
        let kept = loops.pool().copy_from_slice(&frame(7, 200)).unwrap();
        let mut queue = TxQueue::new(64);
        for part in [kept.clone(), kept.clone(), kept.slice(0, 100)] {
            queue.push(part, Offload::default());
        }
        send(&mut loops, &mut queue);
        let got = receive(&mut loops, 3);
        assert_eq!([got[0].buf.len(), got[1].buf.len(), got[2].buf.len()], [200, 200, 100]);
        assert_ne!(got[0].buf.as_ptr(), kept.as_ptr(), "a receiver may write to what it was given");
        assert!(kept.is_unique(), "the device holds a view that it has sent");
        drop((got, kept));
        assert_eq!(loops.pool().stats().slots_out, 0);
        close([loops]);
    });
}

#[test]
fn frames_of_parts_arrive_whole() {
    case("rings::frames_of_parts_arrive_whole", || {
        let mut loops = open(&format!("{SMALL} --vdev=net_ring0"));
        let pool = loops.pool().clone();
        let all = frame(3, 1500);
        let mut queue = TxQueue::new(64);
        let buf = |bytes: &[u8]| pool.copy_from_slice(bytes).unwrap();
        queue.push_parts(buf(&all[..54]), [buf(&all[54..1000]), buf(&all[1000..])], Offload::default());
        // A large slot, and more parts than a device gathers.
        let large = frame(4, 40_000);
        queue.push(buf(&large), Offload::default());
        let many = frame(5, 64 + 40 * 10);
        let shared = buf(&many);
        queue.push_parts(
            shared.slice(0, 64),
            (0..40).map(|at| shared.slice(64 + at * 10, 10)),
            Offload::default(),
        );
        drop(shared);
        send(&mut loops, &mut queue);
        let got = receive(&mut loops, 3);
        assert!(got[0].buf[..] == all[..] && got[1].buf[..] == large[..] && got[2].buf[..] == many[..]);
        drop((got, pool));
        let stats = loops.pool().stats();
        assert_eq!((stats.slots_out, stats.large_slots_out), (0, 0));
        close([loops]);
    });
}

#[test]
fn a_full_ring_leaves_frames_in_the_queue_and_a_full_pool_leaves_them_in_the_ring() {
    case("rings::a_full_ring_leaves_frames_in_the_queue_and_a_full_pool_leaves_them_in_the_ring", || {
        let rings = Rings::new(SMALL).unwrap();
        let [near, far] = rings.crossed("short", 256).unwrap();
        let mut near = open(&format!("port={near}"));
        let mut far = open(&format!("port={far}"));
        let mut queue = TxQueue::new(1000);
        for number in 0..400 {
            queue.push(near.pool().copy_from_slice(&frame(number, 60)).unwrap(), Offload::default());
        }
        near.tx_burst(Instant::ZERO, &mut queue).unwrap();
        assert_eq!(queue.len(), 400 - 255, "a ring of 256 holds 255");
        assert!(near.stats().tx_full > 0);
        // All slots of the receiver's but 20.
        let taken: Vec<_> = (0..512 - 20).map(|_| far.pool().alloc(1).unwrap()).collect();
        let mut got = Vec::new();
        for _ in 0..10 {
            far.rx_burst(Instant::ZERO, &mut got, 32).unwrap();
        }
        assert_eq!(got.len(), 20, "there is room for 20");
        assert_eq!(far.pool().stats().slots_out, 512);
        drop(taken);
        while got.len() < 400 {
            near.tx_burst(Instant::ZERO, &mut queue).unwrap();
            got.extend(receive(&mut far, 1));
        }
        for (number, received) in got.iter().enumerate() {
            assert!(received.buf[..] == frame(number as u64, 60)[..], "frame {number}");
        }
        assert_eq!(far.stats().rx_dropped, 0);
        drop(got);
        close([near, far]);
    });
}

#[test]
fn a_million_frames_leave_every_buffer_where_it_was() {
    case("rings::a_million_frames_leave_every_buffer_where_it_was", || {
        let mut loops = open(&format!("{SMALL} --vdev=net_ring0"));
        let mut queue = TxQueue::new(64);
        let (mut sent, mut got) = (0u64, 0u64);
        let mut frames = Vec::new();
        let mut kept = Vec::new();
        while got < 1_000_000 {
            while sent < 1_000_000 && queue.room() > 32 && loops.pool().has_spare() {
                let buf = loops.pool().copy_from_slice(&frame(sent, 60)).unwrap();
                // Every third is kept for a while, as TCP keeps what is not acknowledged.
                if sent.is_multiple_of(3) {
                    kept.push(buf.clone());
                }
                queue.push(buf, Offload::default());
                sent += 1;
            }
            loops.tx_burst(Instant::ZERO, &mut queue).unwrap();
            loops.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
            for received in frames.drain(..) {
                assert_eq!(received.buf[14..22], got.to_be_bytes(), "frames are out of order");
                got += 1;
            }
            if kept.len() > 100 {
                kept.clear();
            }
        }
        kept.clear();
        assert_eq!(loops.pool().stats().slots_out, 0);
        close([loops]);
    });
}

#[test]
fn a_closed_port_opens_again_and_views_outlive_it() {
    case("rings::a_closed_port_opens_again_and_views_outlive_it", || {
        let arguments = format!("{SMALL} --vdev=net_ring0 --vdev=net_ring1");
        let mut second = open(&format!("{arguments} port=net_ring1"));
        for round in 0..3 {
            let mut first = open(&format!("{arguments} port=net_ring0"));
            assert_eq!(first.name(), "dpdk:net_ring0");
            let buf = first.pool().copy_from_slice(&frame(round, 64)).unwrap();
            send_one(&mut first, buf);
            let got = receive(&mut first, 1);
            drop(first);
            assert_eq!(&got[0].buf[..], frame(round, 64), "a view outlives its device");
        }
        let buf = second.pool().copy_from_slice(&frame(9, 64)).unwrap();
        send_one(&mut second, buf);
        assert_eq!(&receive(&mut second, 1)[0].buf[..], frame(9, 64));
        close([second]);
    });
}
