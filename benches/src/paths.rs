//! The hot paths whose instructions are counted: each a function that runs so many operations of one path, with nothing in
//! it that time or chance could change from run to run.

use std::hint::black_box;

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
    ("yield", yields),
    ("spawn_join", spawn_join),
    ("spawn_many_join", spawn_many_join),
    ("tcp_echo", tcp_echo),
    ("udp_echo", udp_echo),
    ("tcp_echo_copied", tcp_echo_copied),
    ("tcp_bulk", tcp_bulk),
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

/// A 64-byte TCP echo of two hosts, wire to task to wire and back.
fn tcp_echo() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, Style::Owned)
}

/// A 64-byte UDP echo of two hosts.
fn udp_echo() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Udp, Style::Owned)
}

/// A 64-byte TCP echo by `read` and `write_all`.
fn tcp_echo_copied() -> Box<dyn FnMut(u64)> {
    echo(Protocol::Tcp, Style::Copied)
}

fn echo(protocol: Protocol, style: Style) -> Box<dyn FnMut(u64)> {
    timed(ours::echo(Echo { protocol, pairs: 1, checksums: true }, style))
}

/// A segment of 1448 bytes of a long transfer, buffer to buffer, acknowledgements included.
fn tcp_bulk() -> Box<dyn FnMut(u64)> {
    let mut run = timed(ours::bulk(true, Style::Owned));
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
