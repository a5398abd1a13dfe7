//! Goodput over loss, round trip and algorithm, in a committed table: what a change of loss recovery or congestion control
//! does to transfers shows as a difference in `GOODPUT.md`, on virtual time and to the byte.
//!
//! `DEMI_WRITE=1` writes the table anew. Linux's own figures, which a person measures with
//! `cargo run --release -p demi-benches --bin goodput -- --write`, stand beside ours from `linux.toml`.

use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpStream};
use demi::sim::Sim;
use demi::time::timeout;
use demi_drivers::PoolConfig;
use serde::Deserialize;

use crate::hosts::ADDRESS;

/// Frames lost in each direction, of a hundred.
const LOSSES: [f64; 6] = [0.0, 0.1, 1.0, 5.0, 10.0, 30.0];
const ROUND_TRIPS_MS: [u64; 4] = [1, 20, 100, 300];
/// Every algorithm that the configuration may come to know; those that it does not know yet have no column.
const ALGORITHMS: [&str; 4] = ["cubic", "newreno", "dctcp", "bbr"];
/// How long a transfer is watched, from when it is connected.
const WATCHED: Duration = Duration::from_secs(20);
/// The link of the large table.
const RATE_BITS_PER_S: u64 = 100_000_000;
const QUEUE_BYTES: usize = 512 << 10;

/// One transfer.
#[derive(Clone, Copy)]
struct Case {
    loss_percent: f64,
    round_trip_ms: u64,
    algorithm: &'static str,
    rate_bits_per_s: u64,
    buffer_bytes: Option<usize>,
    watched: Duration,
}

impl Case {
    /// Payload delivered, in kB/s: the mean of some seeds where chance has a say.
    fn goodput(&self) -> f64 {
        let seeds = match (self.loss_percent > 0.0, self.algorithm) {
            (false, _) => 1,
            // On a long path the first loss decides, whenever it comes; but not for a model of the path.
            (true, algorithm) if algorithm != "bbr" && self.round_trip_ms >= 100 => 12,
            (true, _) => 3,
        };
        let all: u64 = (0..seeds).map(|seed| self.delivered(seed)).sum();
        all as f64 / seeds as f64 / self.watched.as_secs_f64() / 1000.0
    }

    fn delivered(&self, seed: u64) -> u64 {
        let Case { watched, .. } = *self;
        let mut sim = Sim::new(seed);
        // The handshake may take long where three frames of ten are lost.
        sim.time_limit(Duration::from_secs(3600));
        let wire = sim.wire();
        wire.ring_frames = 4096;
        wire.pool = PoolConfig { slots: 24_000, huge_pages: false, ..PoolConfig::default() };
        wire.link.rate_bits_per_s = self.rate_bits_per_s;
        wire.link.queue_bytes = if self.rate_bits_per_s > 0 { QUEUE_BYTES } else { 0 };
        wire.link.delay = Duration::from_millis(self.round_trip_ms) / 2;
        wire.link.loss = self.loss_percent / 100.0;
        sim.stacks(|_, stack| (stack.tcp.syn_retries, stack.tcp.syn_ack_retries) = (20, 20));
        let host = |address: &str| {
            let config = Config::new().address(address).congestion(self.algorithm);
            match self.buffer_bytes {
                Some(bytes) => config.send_buffer_bytes(bytes as u64).recv_buffer_bytes(bytes as u64),
                None => config,
            }
        };
        let delivered = Rc::new(Cell::new(0));
        let count = delivered.clone();
        sim.host_with("server", host("10.0.0.1/24"), move || async move {
            let (mut stream, _) = TcpListener::bind(ADDRESS).await?.accept().await?;
            let read = async {
                while let Some(bytes) = stream.pop().await? {
                    count.set(count.get() + bytes.len() as u64);
                }
                io::Result::Ok(())
            };
            timeout(watched, read).await.unwrap_or(Ok(()))
        });
        sim.server_with("client", host("10.0.0.2/24"), async || {
            // Of three frames that ask for the server's Ethernet address one may not be enough.
            let mut stream = loop {
                if let Ok(stream) = TcpStream::connect(ADDRESS).await {
                    break stream;
                }
            };
            let bytes = vec![7; 64 << 10];
            while stream.write_all(&bytes).await.is_ok() {}
            Ok(())
        });
        sim.run().unwrap_or_else(|error| panic!("{error}"));
        delivered.get()
    }
}

/// Figures measured elsewhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Linux {
    /// On what, in a sentence.
    about: String,
    column: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    /// kB/s: a row a round trip, a number a loss.
    kilobytes_per_s: Vec<Vec<f64>>,
}

fn algorithms() -> Vec<&'static str> {
    let known = |name: &&&str| Config::new().congestion(**name).check().is_ok();
    ALGORITHMS.iter().filter(known).copied().collect()
}

/// Runs cases on all cores; their goodput in kB/s, in order.
fn run(cases: &[Case]) -> Vec<f64> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![0.0; cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                while let Some((at, case)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(at).map(|case| (at, case))
                } {
                    let goodput = case.goodput();
                    done.lock().unwrap()[at] = goodput;
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn figure(kilobytes_per_s: f64) -> String {
    if kilobytes_per_s < 10.0 { format!("{kilobytes_per_s:.1}") } else { format!("{kilobytes_per_s:.0}") }
}

/// A row of a table.
fn row(page: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<_> = cells.into_iter().collect();
    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
}

/// The head of a table, whose cells but the first some stand to the right.
fn head(page: &mut String, left: usize, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<_> = cells.into_iter().collect();
    let rules = (0..cells.len()).map(|at| if at < left { "---" } else { "---:" }.to_owned());
    row(page, cells.iter().cloned());
    row(page, rules);
}

/// All of the page.
fn page() -> String {
    let algorithms = algorithms();
    let linux: Linux = toml::from_str(include_str!("linux.toml")).unwrap();
    let mut cases = Vec::new();
    for round_trip_ms in ROUND_TRIPS_MS {
        for algorithm in &algorithms {
            cases.extend(LOSSES.map(|loss_percent| Case {
                loss_percent,
                round_trip_ms,
                algorithm,
                rate_bits_per_s: RATE_BITS_PER_S,
                buffer_bytes: None,
                watched: WATCHED,
            }));
        }
    }
    let small: Vec<_> = SMOLTCP
        .iter()
        .map(|(loss_percent, _)| Case {
            loss_percent: *loss_percent,
            round_trip_ms: 100,
            algorithm: "newreno",
            rate_bits_per_s: 0,
            buffer_bytes: Some(32 << 10),
            watched: Duration::from_secs(200),
        })
        .collect();
    let large = cases.len();
    cases.extend(small);
    let figures = run(&cases);

    let mut page = String::from(HEAD);
    let losses = || LOSSES.iter().map(|loss| format!("{loss} %"));
    head(&mut page, 2, ["round trip".to_owned(), "sender".to_owned()].into_iter().chain(losses()));
    let mut ours = figures[..large].chunks(LOSSES.len());
    for (at, round_trip_ms) in ROUND_TRIPS_MS.iter().enumerate() {
        for algorithm in &algorithms {
            let cells = ours.next().unwrap_or_default().iter().copied().map(figure);
            row(&mut page, [format!("{round_trip_ms} ms"), (*algorithm).to_owned()].into_iter().chain(cells));
        }
        for Column { name, kilobytes_per_s } in &linux.column {
            let cells = kilobytes_per_s[at].iter().copied().map(figure);
            row(&mut page, [format!("{round_trip_ms} ms"), format!("*{name}*")].into_iter().chain(cells));
        }
    }
    write!(page, "\n{}\n\n{SMALL}", linux.about.trim()).unwrap();
    head(
        &mut page,
        1,
        [String::new()].into_iter().chain(SMOLTCP.iter().map(|(loss, _)| format!("{loss} %"))),
    );
    row(&mut page, ["ours".to_owned()].into_iter().chain(figures[large..].iter().copied().map(figure)));
    row(
        &mut page,
        ["*smoltcp*".to_owned()].into_iter().chain(SMOLTCP.iter().map(|(_, figure)| (*figure).to_owned())),
    );
    page
}

/// smoltcp's own table: loss in percent, kB/s.
const SMOLTCP: [(f64, &str); 5] = [(0.0, "323"), (1.0, "220"), (5.0, "77"), (10.0, "38"), (30.0, "1.2")];

const HEAD: &str = "\
# Goodput over loss, round trip and algorithm

Payload delivered in kB/s, one sender, over a link of 100 Mbit/s (12,500 kB/s; headers leave 11,900) with a queue of 512 KiB
that loses so many frames at random in each direction. Ours is the simulation's, on virtual time, the same on every machine:
the mean of several seeds over 20 s from when the transfer is connected. `DEMI_WRITE=1 cargo test -p demi-runtime --test sim
goodput` writes this page; a test holds it against what the code does.

";

const SMALL: &str = "\
## smoltcp's set-up

Its own simulation's: a round trip of 100 ms, no limit of the rate, buffers of 32 KiB at both ends, NewReno. kB/s.

";

#[test]
fn goodput_is_what_the_committed_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/goodput/GOODPUT.md");
    let page = page();
    if std::env::var_os("DEMI_WRITE").is_some() {
        std::fs::write(&path, &page).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differences: Vec<_> = committed.lines().zip(page.lines()).filter(|(was, is)| was != is).collect();
    let text: Vec<_> = differences.iter().map(|(was, is)| format!("was {was}\n is {is}")).collect();
    assert!(
        committed == page,
        "goodput has changed; if it is for the better, DEMI_WRITE=1 writes {} anew:\n{}",
        path.display(),
        text.join("\n")
    );
}
