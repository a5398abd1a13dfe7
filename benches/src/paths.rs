//! The hot paths whose instructions are counted: each a function that runs so many operations of one path, with nothing in
//! it that time or chance could change from run to run.

use std::future::poll_fn;
use std::hint::black_box;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use demi_drivers::{Pool, PoolConfig};

use crate::kit::Run;
use crate::stack::demi::{self as ours, Style};
use crate::stack::{BULK_BYTES, Echo, Protocol};

/// A path: its name, and what builds it. The built path runs the operations it is asked for.
pub type Path = (&'static str, fn() -> Box<dyn FnMut(u64)>);

/// Every path, in the order they are reported.
pub const PATHS: &[Path] = &[
    ("buf_alloc_free", buf_alloc_free),
    ("buf_clone_split", buf_clone_split),
    ("sum_64", sum_64),
    ("sum_1460", sum_1460),
    ("yield", yields),
    ("yield_1000", yields_1000),
    ("spawn_join", spawn_join),
    ("spawn_many_join", spawn_many_join),
    ("oneshot", oneshot),
    ("timer_insert_drop", timer_insert_drop),
    ("timer_fire", timer_fire),
    ("tcp_echo", tcp_echo),
    ("udp_echo", udp_echo),
    ("tcp_echo_copied", tcp_echo_copied),
    ("tcp_echo_unsummed", tcp_echo_unsummed),
    ("tcp_echo_100", tcp_echo_100),
    ("udp_echo_copied", udp_echo_copied),
    ("udp_echo_unsummed", udp_echo_unsummed),
    ("tcp_bulk", tcp_bulk),
    ("tcp_bulk_copied", tcp_bulk_copied),
    ("connect_close", connect_close),
];

/// The path called `name`.
pub fn find(name: &str) -> Option<&'static Path> {
    PATHS.iter().find(|(known, _)| *known == name)
}

fn pool() -> Pool {
    Pool::new(&PoolConfig::small(64)).expect("memory for 64 slots")
}

/// A slot taken from its pool and given back.
fn buf_alloc_free() -> Box<dyn FnMut(u64)> {
    let pool = pool();
    Box::new(move |operations| {
        for _ in 0..operations {
            drop(black_box(pool.alloc(1514)));
        }
    })
}

/// A view cloned, split in two, and both dropped.
fn buf_clone_split() -> Box<dyn FnMut(u64)> {
    let buf = pool().copy_from_slice(&[7; 1460]).expect("a free slot");
    Box::new(move |operations| {
        for _ in 0..operations {
            let mut rest = black_box(&buf).clone();
            drop(black_box((rest.split_to(730), rest)));
        }
    })
}

/// The checksum of a small payload.
fn sum_64() -> Box<dyn FnMut(u64)> {
    sum::<64>()
}

/// The checksum of a full packet.
fn sum_1460() -> Box<dyn FnMut(u64)> {
    sum::<1460>()
}

fn sum<const BYTES: usize>() -> Box<dyn FnMut(u64)> {
    let bytes = [7u8; BYTES];
    Box::new(move |operations| {
        for _ in 0..operations {
            black_box(demi_drivers::mem::sum(black_box(&bytes)));
        }
    })
}

fn runtime() -> demi::Runtime {
    demi::Runtime::builder().transports(Vec::new()).build().expect("a runtime")
}

/// One task that yields: a wake, a turn through the ready queue, a poll.
fn yields() -> Box<dyn FnMut(u64)> {
    let runtime = runtime();
    Box::new(move |operations| {
        runtime.block_on(async move {
            for _ in 0..operations {
                demi::task::yield_now().await;
            }
        });
    })
}

/// A thousand tasks that yield in turn; an operation is one of them.
fn yields_1000() -> Box<dyn FnMut(u64)> {
    let runtime = runtime();
    Box::new(move |operations| {
        runtime.block_on(async move {
            let each = operations.div_ceil(1000);
            let yields = move || async move {
                for _ in 0..each {
                    demi::task::yield_now().await;
                }
            };
            let tasks: Vec<_> = (0..1000).map(|_| demi::spawn(yields())).collect();
            for task in tasks {
                task.await.expect("a task that does not panic");
            }
        });
    })
}

/// A task spawned and awaited.
fn spawn_join() -> Box<dyn FnMut(u64)> {
    let runtime = runtime();
    Box::new(move |operations| {
        runtime.block_on(async move {
            for number in 0..operations {
                let task = demi::spawn(async move { black_box(number) });
                black_box(task.await.expect("a task that does not panic"));
            }
        });
    })
}

/// A hundred tasks spawned, then awaited one after the other; an operation is one of them.
fn spawn_many_join() -> Box<dyn FnMut(u64)> {
    let runtime = runtime();
    Box::new(move |operations| {
        runtime.block_on(async move {
            let mut tasks = Vec::with_capacity(100);
            for _ in 0..operations.div_ceil(100) {
                tasks.extend((0..100u64).map(|number| demi::spawn(async move { black_box(number) })));
                for task in tasks.drain(..) {
                    black_box(task.await.expect("a task that does not panic"));
                }
            }
        });
    })
}

/// A oneshot made, sent by another task and received.
fn oneshot() -> Box<dyn FnMut(u64)> {
    use demi::sync::{mpsc, oneshot};

    let runtime = runtime();
    let (asks, mut asked) = runtime.block_on(async { mpsc::channel::<oneshot::Sender<u64>>(1) });
    runtime.block_on(async move {
        demi::spawn(async move {
            while let Some(answer) = asked.recv().await {
                answer.send(7).expect("a receiver that waits");
            }
        });
    });
    Box::new(move |operations| {
        let asks = asks.clone();
        runtime.block_on(async move {
            for _ in 0..operations {
                let (sender, receiver) = oneshot::channel();
                asks.send(sender).await.expect("the other task");
                black_box(receiver.await.expect("an answer"));
            }
        });
    })
}

/// A far timer set and taken back.
fn timer_insert_drop() -> Box<dyn FnMut(u64)> {
    let runtime = runtime();
    Box::new(move |operations| {
        runtime.block_on(async move {
            for _ in 0..operations {
                let mut sleep = pin!(demi::time::sleep(Duration::from_secs(3600)));
                poll_fn(|cx| {
                    assert!(sleep.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            }
        });
    })
}

/// A timer that fires and wakes its task, on a clock that moves when nothing else is to be done.
fn timer_fire() -> Box<dyn FnMut(u64)> {
    let runtime =
        demi::Runtime::builder().transports(Vec::new()).start_paused(true).build().expect("a runtime");
    Box::new(move |operations| {
        runtime.block_on(async move {
            for _ in 0..operations.div_ceil(100) {
                let tasks: Vec<_> = (0..100)
                    .map(|ms| demi::spawn(demi::time::sleep(Duration::from_millis(1 + ms % 3))))
                    .collect();
                for task in tasks {
                    task.await.expect("a task that does not panic");
                }
            }
        });
    })
}

/// A 64-byte TCP echo of two hosts, wire to task to wire and back.
fn tcp_echo() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, 1, true, Style::Owned)
}

/// A 64-byte UDP echo of two hosts.
fn udp_echo() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Udp, 1, true, Style::Owned)
}

/// A 64-byte TCP echo by `read` and `write_all`.
fn tcp_echo_copied() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, 1, true, Style::Copied)
}

/// A 64-byte TCP echo over memory that needs no checksums.
fn tcp_echo_unsummed() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, 1, false, Style::Owned)
}

/// A 64-byte TCP echo over each of a hundred connections in turn.
fn tcp_echo_100() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, 100, true, Style::Owned)
}

/// A 64-byte UDP echo by `recv` and `send`.
fn udp_echo_copied() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Udp, 1, true, Style::Copied)
}

/// A 64-byte UDP echo over memory that needs no checksums.
fn udp_echo_unsummed() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Udp, 1, false, Style::Owned)
}

fn echo(protocol: Protocol, pairs: usize, checksums: bool, style: Style) -> Box<dyn FnMut(u64)> {
    timed(ours::echo(Echo { protocol, pairs, checksums }, style))
}

/// A segment of 1448 bytes of a long transfer, buffer to buffer, acknowledgements included.
fn tcp_bulk() -> Box<dyn FnMut(u64)> {
    bulk(Style::Owned)
}

/// As `tcp_bulk`, by `write_all` and `read`.
fn tcp_bulk_copied() -> Box<dyn FnMut(u64)> {
    bulk(Style::Copied)
}

fn bulk(style: Style) -> Box<dyn FnMut(u64)> {
    let mut run = timed(ours::bulk(true, style));
    Box::new(move |operations| run(operations * 1448 / BULK_BYTES))
}

/// A connection opened and closed by both ends.
fn connect_close() -> Box<dyn FnMut(u64)> {
    timed(ours::connections(true))
}

/// A run of a benchmark, without the time it took.
fn timed(mut run: Run) -> Box<dyn FnMut(u64)> {
    Box::new(move |operations| {
        run(operations);
    })
}
