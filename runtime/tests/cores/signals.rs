//! Signals are the process's, and reach whichever core listens.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{again, two_cores};
use demi::signal::{SignalKind, ctrl_c, signal};

/// Sends the process a signal that somebody listens to.
fn send(to: u32, kind: SignalKind) {
    // SAFETY: plain system call.
    let sent = unsafe { libc::kill(to.cast_signed(), kind.as_raw_value()) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_signal_reaches_every_core_that_listens() {
    for idle in ["park", "adaptive", "spin"] {
        let Some(config) = two_cores("posix") else { return };
        let heard = demi::run(config.idle(idle), || async {
            let mut terminations = signal(SignalKind::terminate()).unwrap();
            let (other, mut heard) = (1 - demi::this_core().index(), 0);
            for round in 0..3 {
                // Both listen once both have come here, and both have heard the one before.
                rendezvous(other, round).await;
                if demi::this_core().index() == round % 2 {
                    send(std::process::id(), SignalKind::terminate());
                }
                terminations.recv().await;
                heard += 1;
            }
            heard
        });
        assert_eq!(heard.unwrap(), [3, 3], "idle = {idle}");
    }
}

/// Waits until the other core is in this round as well.
async fn rendezvous(other: usize, round: usize) {
    thread_local! {
        static ROUND: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    // Runs of one thread come after each other: the first core's is the test's own.
    ROUND.set(round + 1);
    while demi::core(other).spawn(|| async { ROUND.get() }).await.unwrap() <= round {}
    // The other one asks, too, and is answered although this one is ahead.
    ROUND.set(round + 1);
}

#[test]
fn ctrl_c_on_any_core_ends_a_program_that_awaits_it_there() {
    const PROGRAM: &str = "CORES_TEST_AWAITS_ON";
    if let Ok(listening) = std::env::var(PROGRAM) {
        let config = two_cores("posix").unwrap();
        demi::run(config, move || {
            let listens = listening.contains(&demi::this_core().index().to_string());
            async move {
                if !listens {
                    return;
                }
                let mut interrupted = std::pin::pin!(ctrl_c());
                // Once polled it listens.
                assert!(futures_util::poll!(interrupted.as_mut()).is_pending());
                let mut out = std::io::stdout().lock();
                writeln!(out, "listening").unwrap();
                drop(out);
                interrupted.await.unwrap();
            }
        })
        .unwrap();
        return;
    }
    if two_cores("posix").is_none() {
        return;
    }
    for listening in ["0", "1", "01"] {
        let name = "signals::ctrl_c_on_any_core_ends_a_program_that_awaits_it_there";
        let mut program =
            again(name).env(PROGRAM, listening).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines().map_while(Result::ok);
        // The harness has written a line without an end before.
        let mut lines = lines.filter(|line| line.ends_with("listening"));
        for core in listening.chars() {
            assert!(lines.next().is_some(), "core {core} does not listen");
        }
        send(program.id(), SignalKind::interrupt());
        // To its end, so that the harness can write there.
        lines.for_each(drop);
        let ended = program.wait().unwrap();
        assert!(ended.success(), "awaited on {listening}: {ended}");
    }
}
