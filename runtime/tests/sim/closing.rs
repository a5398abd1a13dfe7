//! How connections end: lost and doubled FINs, data behind a half-close, both ends at once, what a main that has returned
//! leaves behind.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi::net::{TcpListener, TcpStream};
use demi::sim::wire::Verdict;
use demi::sim::{Cause, Sim};

use crate::hosts::{ADDRESS, CLIENT, FIN, SERVER, answer, ask, flow, tcp_flags, two};
use crate::support::{Hand, run, soon};
use crate::traffic::Sending;

#[test]
fn a_fin_that_is_lost_is_sent_again() {
    let mut sim = soon(1);
    let lost = Rc::new(Cell::new(0));
    let count = lost.clone();
    sim.on_wire(move |wire| {
        wire.set_filter(move |frame| {
            let is_fin = tcp_flags(frame.bytes).is_some_and(|flags| flags & FIN != 0);
            if is_fin && count.get() < 3 {
                count.set(count.get() + 1);
                return Verdict::Drop;
            }
            Verdict::Pass
        });
    });
    two(
        &mut sim,
        async |mut stream| answer(&mut stream, &flow(5000), &flow(3000)).await,
        async |mut stream| ask(&mut stream, &flow(5000), &flow(3000)).await,
    );
    run(sim);
    assert_eq!(lost.get(), 3);
}

#[test]
fn data_arrives_in_fin_wait_and_pushes_after_the_peers_half_close_finish() {
    for sending in [Sending::Write(10_000), Sending::Push(60_000), Sending::Push(100)] {
        let mut back = flow(400_000);
        back.sending = sending;
        let answered = back.clone();
        let mut sim = soon(2);
        two(
            &mut sim,
            async move |mut stream| {
                answer(&mut stream, &flow(10), &answered).await?;
                stream.drained().await
            },
            async move |mut stream| ask(&mut stream, &flow(10), &back).await,
        );
        run(sim);
    }
}

#[test]
fn every_frame_twice_fins_included_is_no_harm() {
    let mut sim = soon(3);
    sim.link().duplicate = 1.0;
    two(
        &mut sim,
        async |mut stream| answer(&mut stream, &flow(100_000), &flow(90_000)).await,
        async |mut stream| ask(&mut stream, &flow(100_000), &flow(90_000)).await,
    );
    run(sim);
}

#[test]
fn both_ends_may_close_at_once() {
    let mut sim = soon(4);
    let end = async |mut stream: TcpStream| {
        demi::time::sleep(Duration::from_secs(1)).await;
        ask(&mut stream, &flow(0), &flow(0)).await
    };
    two(&mut sim, end, end);
    let report = run(sim);
    assert!(report.elapsed < Duration::from_secs(2), "{:?}", report.elapsed);
}

#[test]
fn a_client_that_leaves_with_its_last_bytes_lost_still_delivers_them() {
    let mut sim: Sim = soon(5);
    sim.on_wire(|wire| {
        let mut seen = 0;
        wire.set_filter(move |frame| {
            seen += u32::from(frame.from == CLIENT);
            if frame.from == CLIENT && (4..12).contains(&seen) { Verdict::Drop } else { Verdict::Pass }
        });
    });
    two(
        &mut sim,
        async |mut stream| flow(20_000).receive(&mut stream).await,
        async |mut stream| flow(20_000).send(&mut stream).await,
    );
    run(sim);
}

#[test]
fn what_main_has_written_is_delivered_after_it_returns() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        (sim.link().delay, sim.link().loss) = (Duration::from_millis(40), 0.1);
        two(
            &mut sim,
            async |mut stream| flow(100_000).receive(&mut stream).await,
            // Dropped with bytes on the way: the host goes on delivering them.
            async |mut stream| flow(100_000).send(&mut stream).await,
        );
        run(sim);
    }
}

#[test]
fn what_cannot_be_delivered_is_told_of_when_the_drain_time_is_over() {
    let mut sim = soon(6);
    sim.drain_limit(Duration::from_secs(3));
    let hand = Hand::on(&mut sim);
    sim.server("server", "10.0.0.1/24", async || {
        let listener = TcpListener::bind(ADDRESS).await?;
        let _stream = listener.accept().await?;
        std::future::pending().await
    });
    sim.host("client", "10.0.0.2/24", move || async move {
        let mut stream = TcpStream::connect(ADDRESS).await?;
        hand.wire().set_partitioned(SERVER, CLIENT, true);
        stream.write_all(b"too late").await
    });
    let report = sim.run().unwrap();
    assert!(report.undrained.contains(&("client".to_owned(), 1)), "{report:?}");
}

#[test]
fn two_ends_that_wait_for_each_other_are_a_deadlock_and_named() {
    let mut sim = soon(7);
    // Never written to, and never closed.
    let wait = async |mut stream: TcpStream| stream.read(&mut [0]).await.map(drop);
    two(&mut sim, wait, wait);
    let error = sim.run().unwrap_err();
    assert!(matches!(error.cause(), Cause::Deadlock { waiting } if waiting.len() == 2), "{error}");
}
