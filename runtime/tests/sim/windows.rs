//! Windows and queues: slow readers, idle connections, segments of all sizes, devices without room.

use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::time::{Instant, sleep};
use demi_drivers::wrap::fault::{Fault, FaultConfig, Faults};

use crate::hosts::{ADDRESS, CLIENT, SERVER, answer, ask, flow, two};
use crate::support::{Hand, run, soon};
use crate::traffic::{Receiving, Sending};

#[test]
fn a_slow_readers_window_reopens_though_the_update_is_lost() {
    let mut sim = soon(1);
    let hand = Hand::on(&mut sim);
    two(
        &mut sim,
        async move |mut stream| {
            sleep(Duration::from_secs(60)).await;
            // The peer waits for a window of this end, whose update does not get through.
            assert_eq!(stream.info()?.recv_window_bytes >> 10, 0);
            hand.wire().set_partitioned(SERVER, CLIENT, true);
            let mut part = [0; 4096];
            let mut read = 0;
            while read < 100_000 {
                let count = stream.read(&mut part).await?;
                flow(3 << 20).check(read, &part[..count])?;
                read += count as u64;
            }
            sleep(Duration::from_secs(1)).await;
            hand.wire().set_partitioned(SERVER, CLIENT, false);
            while read < 3 << 20 {
                let count = stream.read(&mut part).await?;
                flow(3 << 20).check(read, &part[..count])?;
                read += count as u64;
            }
            assert_eq!(stream.read(&mut part).await?, 0);
            Ok(())
        },
        async |mut stream| {
            flow(3 << 20).send(&mut stream).await?;
            stream.shutdown().await
        },
    );
    run(sim);
}

#[test]
fn a_push_larger_than_any_segment_arrives_whole() {
    let mut large = flow(60_000 * 8);
    (large.sending, large.receiving) = (Sending::Push(60_000), Receiving::Pop);
    let back = large.clone();
    let mut sim = soon(2);
    two(
        &mut sim,
        async move |mut stream| answer(&mut stream, &back, &flow(1)).await,
        async move |mut stream| ask(&mut stream, &large, &flow(1)).await,
    );
    run(sim);
}

#[test]
fn an_idle_connection_survives_hours_and_costs_neither_frames_nor_turns() {
    let mut sim = soon(3);
    sim.time_limit(Duration::from_secs(100 * 3600));
    let hand = Hand::on(&mut sim);
    two(
        &mut sim,
        async move |mut stream| {
            let mut byte = [0];
            while stream.read(&mut byte).await? > 0 {
                stream.write_all(&byte).await?;
            }
            Ok(())
        },
        async move |mut stream| {
            let mut byte = [0];
            for _ in 0..3 {
                stream.write_all(&[7]).await?;
                stream.read_exact(&mut byte).await?;
                // What is still under way, a delayed acknowledgement, has its time.
                sleep(Duration::from_secs(120)).await;
                let frames =
                    || hand.wire().stats(SERVER, CLIENT).sent + hand.wire().stats(CLIENT, SERVER).sent;
                let (sent, before) = (frames(), demi::metrics());
                sleep(Duration::from_secs(20 * 3600)).await;
                assert_eq!(frames(), sent, "frames of an idle connection");
                let turns = demi::metrics().turns - before.turns;
                assert!(turns < 50, "{turns} turns in twenty hours");
            }
            Ok(())
        },
    );
    run(sim);
}

#[test]
fn segments_smaller_than_the_windows_unit_do_not_push_its_edge_past_the_buffer() {
    let mut sim = soon(4);
    sim.wire().pool.slots = 1 << 17;
    sim.wire().pool.huge_pages = false;
    sim.host("server", "10.0.0.1/24", async || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(ADDRESS.parse().unwrap())?;
        socket.set_recv_buffer_size(20_000)?;
        let (mut stream, _) = socket.listen(1)?.accept().await?;
        sleep(Duration::from_secs(600)).await;
        let unread = stream.info()?.unread_bytes;
        assert!((15_000..=21_000).contains(&unread), "{unread} bytes wait in a buffer of 20,000");
        flow(30_000).receive(&mut stream).await
    });
    sim.host("client", "10.0.0.2/24", async || {
        let mut stream = TcpStream::connect(ADDRESS).await?;
        stream.set_nodelay(true)?;
        let mut small = flow(30_000);
        (small.sending, small.send_rest) = (Sending::Write(2), Some((1, Duration::from_micros(100))));
        small.send(&mut stream).await?;
        stream.shutdown().await?;
        stream.drained().await
    });
    run(sim);
}

#[test]
fn a_full_transmit_ring_loses_nothing() {
    for stall in [0.0, 0.6] {
        let mut sim = soon(5);
        let hand = Hand::on(&mut sim);
        sim.stacks(|_, stack| stack.limits.tx_queue_frames = 2);
        sim.devices(move |_, end| {
            let tx = Faults { stall, ..Faults::default() };
            Box::new(Fault::new(Box::new(end), FaultConfig { seed: 5, tx, ..FaultConfig::default() }))
        });
        sim.host("server", "10.0.0.1/24", async || {
            let listener = TcpListener::bind(ADDRESS).await?;
            let mut all = demi::task::JoinSet::new();
            for _ in 0..8 {
                let (mut stream, _) = listener.accept().await?;
                all.spawn(async move { answer(&mut stream, &flow(200_000), &flow(100_000)).await });
            }
            all.join_all().await.into_iter().collect()
        });
        sim.host("client", "10.0.0.2/24", async move || {
            let mut all = demi::task::JoinSet::new();
            for _ in 0..8 {
                all.spawn(async {
                    let mut stream = TcpStream::connect(ADDRESS).await?;
                    ask(&mut stream, &flow(200_000), &flow(100_000)).await?;
                    assert_eq!(stream.info()?.retransmitted_segments, 0, "nothing was lost");
                    Ok(())
                });
            }
            all.join_all().await.into_iter().collect()
        });
        run(sim);
        drop(hand);
    }
}

#[test]
fn a_tiny_send_buffer_and_a_tiny_window_carry_a_stream() {
    let mut sim = soon(6);
    let tiny = |address| Config::new().address(address).send_buffer_bytes(2048).recv_buffer_bytes(2048);
    sim.host_with("server", tiny("10.0.0.1/24"), async || {
        let listener = TcpListener::bind(ADDRESS).await?;
        answer(&mut listener.accept().await?.0, &flow(100_000), &flow(100_000)).await
    });
    sim.host_with("client", tiny("10.0.0.2/24"), async || {
        let start = Instant::now();
        ask(&mut TcpStream::connect(ADDRESS).await?, &flow(100_000), &flow(100_000)).await?;
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        Ok(())
    });
    run(sim);
}

#[test]
fn a_pool_full_of_bytes_to_send_still_hears_that_they_arrived() {
    for sending in [Sending::Write(16 << 10), Sending::Push(1000)] {
        let mut sim = soon(7);
        sim.link().loss = 0.01;
        sim.wire().pool.slots = 64;
        let host =
            |address| Config::new().address(address).send_buffer_bytes(1 << 20).recv_buffer_bytes(1 << 20);
        let mut large = flow(3 << 20);
        large.sending = sending;
        let back = large.clone();
        sim.host_with("server", host("10.0.0.1/24"), async move || {
            let listener = TcpListener::bind(ADDRESS).await?;
            answer(&mut listener.accept().await?.0, &back, &flow(1)).await
        });
        sim.host_with("client", host("10.0.0.2/24"), async move || {
            ask(&mut TcpStream::connect(ADDRESS).await?, &large, &flow(1)).await
        });
        run(sim);
    }
}
