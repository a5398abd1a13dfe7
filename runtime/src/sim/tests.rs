//! Simulations of hosts that talk UDP over a bad wire, and of hosts that do not get on.

use core::future::pending;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{Cause, Report, Sim, SimError};
use crate::net::UdpSocket;
use crate::sync::mpsc;
use crate::time::{Instant, sleep, timeout};

const SERVER: &str = "10.0.0.1:7";

async fn echo() -> io::Result<()> {
    let socket = UdpSocket::bind(SERVER).await?;
    let mut bytes = [0; 1500];
    loop {
        let (count, peer) = socket.recv_from(&mut bytes).await?;
        socket.send_to(&bytes[..count], peer).await?;
    }
}

/// Asks again until it is answered, `rounds` times.
async fn ask(address: &str, rounds: u64) -> io::Result<()> {
    let socket = UdpSocket::bind(format!("{address}:0")).await?;
    let mut bytes = [0; 1500];
    for round in 0..rounds {
        let question = round.to_be_bytes();
        loop {
            socket.send_to(&question, SERVER).await?;
            let answered = timeout(Duration::from_millis(100), async {
                loop {
                    let (count, _) = socket.recv_from(&mut bytes).await?;
                    if bytes[..count] == question {
                        return Ok::<_, io::Error>(());
                    }
                }
            });
            match answered.await {
                Ok(result) => break result?,
                Err(_) => continue,
            }
        }
    }
    Ok(())
}

fn lossy(seed: u64) -> Result<Report, SimError> {
    let mut sim = Sim::new(seed);
    let link = sim.link();
    link.delay = Duration::from_millis(3);
    link.jitter = Duration::from_millis(9);
    (link.loss, link.duplicate, link.corrupt, link.reorder) = (0.2, 0.1, 0.1, 0.1);
    sim.server("echo", ["10.0.0.1/24", "fd00::1/64"], echo);
    sim.host("first", "10.0.0.2/24", || ask("10.0.0.2", 20));
    sim.host("second", "10.0.0.3/24", || ask("10.0.0.3", 20));
    sim.run()
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..10 {
        let (first, second) = (lossy(seed).unwrap(), lossy(seed).unwrap());
        assert_eq!(first, second, "seed {seed}");
        assert!(first.undrained.is_empty());
    }
}

#[test]
fn another_seed_is_another_run() {
    let mut traces: Vec<_> = (0..20).map(|seed| lossy(seed).unwrap().trace).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20);
}

#[test]
fn virtual_time_is_the_wires() {
    let mut sim = Sim::new(1);
    sim.link().delay = Duration::from_secs(600);
    sim.time_limit(Duration::from_secs(86_400));
    sim.server("echo", "10.0.0.1/24", echo);
    sim.host("patient", "10.0.0.2/24", || async {
        // Asking for an Ethernet address gives up after some seconds: the questions are lost, and it is told so or not.
        let start = Instant::now();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3600));
        Ok(())
    });
    assert_eq!(sim.run().unwrap().elapsed, Duration::from_secs(3600));
}

#[test]
fn hosts_that_wait_for_each_other_are_told_of() {
    let mut sim = Sim::new(77);
    sim.host("done", "10.0.0.1/24", || async { Ok(()) });
    for name in ["hen", "egg"] {
        sim.host_over(name, Vec::new(), || async {
            sleep(Duration::from_millis(5)).await;
            pending().await
        });
    }
    sim.server("butler", "10.0.0.2/24", || async { pending().await });
    let error = sim.run().unwrap_err();
    let Cause::Deadlock { waiting } = error.cause() else { panic!("{error}") };
    assert_eq!(waiting, &["hen", "egg"]);
    let says = error.to_string();
    assert!(says.contains("seed 77") && says.contains("`hen`, `egg`") && says.contains("5ms"), "{says}");
}

#[test]
fn errors_and_panics_name_their_host() {
    let run = |main: fn() -> core::future::Ready<io::Result<()>>| {
        let mut sim = Sim::new(5);
        sim.server("bad", "10.0.0.1/24", main);
        sim.host("good", "10.0.0.2/24", || async {
            sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        sim.run().unwrap_err().to_string()
    };
    let failed = run(|| core::future::ready(Err(io::Error::other("no milk"))));
    assert_eq!(failed, "simulation with seed 5, 0ns after its start: host `bad` failed: no milk");
    let panicked = run(|| panic!("spilt"));
    assert!(panicked.contains("host `bad` panicked") && panicked.ends_with("spilt"), "{panicked}");
}

#[test]
fn what_cannot_be_set_up_is_told_of() {
    let mut sim = Sim::new(5);
    sim.host("odd", "10.0.0.1/99", || async { Ok(()) });
    let error = sim.run().unwrap_err();
    assert!(matches!(error.cause(), Cause::Setup { host, .. } if host == "odd"), "{error}");
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let mut sim = Sim::new(6);
    sim.time_limit(Duration::from_secs(10));
    sim.host("sleeper", "10.0.0.1/24", || async {
        loop {
            sleep(Duration::from_secs(3)).await;
        }
    });
    let error = sim.run().unwrap_err();
    assert!(matches!(error.cause(), Cause::TimeLimit { waiting } if waiting == &["sleeper"]), "{error}");
    assert_eq!(error.after(), Duration::from_secs(9));
}

#[test]
fn a_link_can_be_cut_and_mended_while_hosts_talk() {
    let hand = Rc::new(RefCell::new(None));
    let lost = Rc::new(Cell::new(false));
    let mut sim = Sim::new(8);
    sim.server("echo", "10.0.0.1/24", echo);
    sim.on_wire({
        let hand = Rc::clone(&hand);
        move |wire| *hand.borrow_mut() = Some(wire)
    });
    sim.host("cutter", "10.0.0.2/24", {
        let lost = Rc::clone(&lost);
        move || async move {
            ask("10.0.0.2", 1).await?;
            let wire = hand.borrow().clone().ok_or_else(|| io::Error::other("no wire"))?;
            wire.set_partitioned(0, 1, true);
            lost.set(timeout(Duration::from_secs(2), ask("10.0.0.2", 1)).await.is_err());
            wire.set_partitioned(0, 1, false);
            ask("10.0.0.2", 1).await
        }
    });
    sim.run().unwrap();
    assert!(lost.get());
}

#[test]
fn hosts_on_one_thread_may_share_a_channel() {
    // Not a network, but a way for a test's hosts to agree: wakes reach the other runtime through its inbox.
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut sim = Sim::new(9);
    sim.host_over("a", Vec::new(), move || async move {
        for number in 0..5 {
            sleep(Duration::from_millis(1)).await;
            sender.send(number).map_err(io::Error::other)?;
        }
        Ok(())
    });
    sim.host_over("b", Vec::new(), move || async move {
        let mut numbers = Vec::new();
        while let Some(number) = receiver.recv().await {
            numbers.push(number);
        }
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        Ok(())
    });
    assert_eq!(sim.run().unwrap().elapsed, Duration::from_millis(5));
}

#[test]
fn blocking_work_takes_no_virtual_time() {
    let mut sim = Sim::new(10);
    sim.host("thinker", "10.0.0.1/24", || async {
        let start = Instant::now();
        let sum =
            crate::task::spawn_blocking(|| (0..1000u64).sum::<u64>()).await.map_err(io::Error::other)?;
        assert_eq!((sum, start.elapsed()), (499_500, Duration::ZERO));
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_host_that_stands_still_answers_when_it_goes_on() {
    let mut sim = Sim::new(11);
    sim.link().delay = Duration::from_millis(1);
    sim.server("echo", "10.0.0.1/24", echo);
    sim.freeze("echo", Duration::from_secs(1), Duration::from_secs(9));
    sim.host("client", "10.0.0.2/24", || async {
        let start = Instant::now();
        ask("10.0.0.2", 1).await?;
        sleep(Duration::from_secs(2)).await;
        ask("10.0.0.2", 1).await?;
        assert_eq!(start.elapsed().as_secs(), 10);
        Ok(())
    });
    let _ = sim.run().unwrap();
}

#[test]
fn a_clock_that_jumps_fires_what_was_due_and_the_wire_keeps_its_own_time() {
    let mut sim = Sim::new(12);
    sim.link().delay = Duration::from_millis(100);
    sim.server("echo", "10.0.0.1/24", echo);
    sim.leap("echo", Duration::ZERO, Duration::from_secs(5));
    sim.leap("client", Duration::from_millis(300), Duration::from_secs(3600));
    sim.host("client", "10.0.0.2/24", || async {
        let start = Instant::now();
        let socket = UdpSocket::bind("10.0.0.2:0").await?;
        socket.send_to(b"?", SERVER).await?;
        let mut bytes = [0; 10];
        socket.recv_from(&mut bytes).await?;
        // Four crossings, and the jump in their midst.
        assert_eq!(start.elapsed(), Duration::from_secs(3600) + Duration::from_millis(400));
        Ok(())
    });
    let report = sim.run().unwrap();
    assert_eq!(report.elapsed, Duration::from_millis(400));
}

#[test]
fn a_rebooted_host_has_forgotten_all_and_says_nothing_of_it() {
    let lives = Rc::new(Cell::new(0));
    let serve = |lives: &Rc<Cell<u32>>| {
        let lives = lives.clone();
        move || async move {
            lives.set(lives.get() + 1);
            echo().await
        }
    };
    let run = |seed| {
        let mut sim = Sim::new(seed);
        sim.link().delay = Duration::from_millis(1);
        sim.server("echo", "10.0.0.1/24", serve(&lives));
        sim.reboot("echo", Duration::from_secs(1), Duration::from_secs(1), serve(&lives));
        sim.reboot("echo", Duration::from_secs(4), Duration::from_secs(1), serve(&lives));
        // It has ended by then.
        sim.reboot("client", Duration::from_secs(8), Duration::from_secs(1), pending::<io::Result<()>>);
        sim.host("client", "10.0.0.2/24", || async {
            for _ in 0..4 {
                ask("10.0.0.2", 2).await?;
                sleep(Duration::from_millis(1800)).await;
            }
            Ok(())
        });
        sim.host("clock", "10.0.0.3/24", || async {
            sleep(Duration::from_secs(20)).await;
            Ok(())
        });
        sim.run().unwrap()
    };
    let report = run(13);
    assert_eq!(lives.get(), 3);
    assert_eq!(run(13), report, "a run with power cuts repeats itself");
}
