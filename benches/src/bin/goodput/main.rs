//! Goodput over a shaped link: Linux to Linux, us to Linux and Linux to us, on the same link in the same run.
//!
//! The link is a thread between two network namespaces (see [`link`]), so this takes root. `--table` measures Linux over the
//! cells of the simulations' table and writes its file, `runtime/tests/sim/goodput/linux.toml`.

mod ends;
mod link;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag};

use ends::Sender;
use link::{End, Shape};

const FLAGS: &[Flag] = &[
    Flag { name: "table", value: None, help: "measure Linux for the simulations' table, and write its file" },
    Flag { name: "device", value: Some("NAME"), help: "our device: packet or tap (packet)" },
    Flag { name: "at-once", value: Some("N"), help: "transfers measured at a time (1; with --table 4)" },
    Flag { name: "loss", value: Some("PERCENT,..."), help: "frames lost in each direction (0,0.1,1,5)" },
    Flag { name: "rtt-ms", value: Some("MS,..."), help: "round trips (1,20)" },
    Flag { name: "rate-mbit", value: Some("N"), help: "rate of the link; 0: none (100)" },
];

/// As in the simulations' table.
const TABLE_LOSSES: [f64; 6] = [0.0, 0.1, 1.0, 5.0, 10.0, 30.0];
const TABLE_ROUND_TRIPS_MS: [f64; 4] = [1.0, 20.0, 100.0, 300.0];
const TABLE_SECONDS: f64 = 20.0;
/// Transfers that the mean is taken of, where chance has a say.
const TABLE_RUNS: usize = 3;
const QUEUE_BYTES: u64 = 512 << 10;

const SENDERS: [Sender; 9] = {
    const fn sender(name: &'static str, stack: End, algorithm: &'static str, receiver: End) -> Sender {
        Sender { name, stack, algorithm, receiver }
    }
    [
        sender("linux-reno", End::Kernel, "reno", End::Kernel),
        sender("linux-cubic", End::Kernel, "cubic", End::Kernel),
        sender("linux-bbr", End::Kernel, "bbr", End::Kernel),
        sender("demi-newreno to linux", End::Packet, "newreno", End::Kernel),
        sender("demi-cubic to linux", End::Packet, "cubic", End::Kernel),
        sender("demi-bbr to linux", End::Packet, "bbr", End::Kernel),
        sender("linux-reno to demi", End::Kernel, "reno", End::Packet),
        sender("linux-cubic to demi", End::Kernel, "cubic", End::Packet),
        sender("linux-bbr to demi", End::Kernel, "bbr", End::Packet),
    ]
};

fn main() {
    let args = Args::parse("Goodput over a shaped link, beside Linux's on the same link.", FLAGS);
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        println!(
            "{}",
            Object::default().text("bench", "goodput").text("skipped", "needs root, for namespaces").finish()
        );
        return;
    }
    let result = if args.has("table") { table(&args) } else { beside(&args) };
    if let Err(error) = result {
        eprintln!("goodput: {error}");
        std::process::exit(1);
    }
}

/// One transfer to be measured.
#[derive(Clone, Copy)]
struct Case {
    sender: Sender,
    loss_percent: f64,
    round_trip_ms: f64,
    rate_mbit: u64,
    seconds: f64,
}

impl Case {
    /// kB/s.
    fn measure(&self, seed: u64) -> io::Result<f64> {
        let shape = Shape {
            rate_bits_per_s: self.rate_mbit * 1_000_000,
            queue_bytes: QUEUE_BYTES,
            round_trip: Duration::from_secs_f64(self.round_trip_ms / 1000.0),
            loss_percent: self.loss_percent,
        };
        let watched = Duration::from_secs_f64(self.seconds);
        Ok(ends::goodput(self.sender, shape, watched, seed)? / 1000.0)
    }
}

/// The senders that this machine has, of both stacks.
fn senders(args: &Args) -> io::Result<Vec<Sender>> {
    let device = match args.text("device") {
        None | Some("packet") => End::Packet,
        Some("tap") => End::Tap,
        Some(other) => return Err(io::Error::other(format!("--device {other}: packet or tap"))),
    };
    let wanted = args.text("peer").map(|names| names.split(',').collect::<Vec<_>>());
    let has = |sender: &Sender| match sender.stack {
        End::Kernel => ends::kernel_has(sender.algorithm),
        End::Packet | End::Tap => demi::Config::new().congestion(sender.algorithm).check().is_ok(),
    };
    let is_wanted = |sender: &Sender| {
        wanted.as_ref().is_none_or(|names| names.iter().any(|name| sender.name.contains(name)))
    };
    let on = |end: End| if end.is_kernel() { end } else { device };
    let senders = SENDERS.into_iter().filter(|sender| is_wanted(sender) && has(sender));
    let placed = |sender: Sender| Sender { stack: on(sender.stack), receiver: on(sender.receiver), ..sender };
    Ok(senders.map(placed).collect())
}

/// Measures so many cases at a time; their results in order. `tell` hears of each as it comes.
fn measure(cases: &[Case], at_once: usize, tell: impl Fn(&Case, f64) + Sync) -> io::Result<Vec<f64>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    results.lock().map_err(|_| io::Error::other("poisoned"))?.resize_with(cases.len(), || Ok(0.0));
    std::thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { break };
                    let result = case.measure(at as u64 + 1);
                    if let Ok(figure) = &result {
                        tell(case, *figure);
                    }
                    if let Ok(mut results) = results.lock() {
                        results[at] = result;
                    }
                }
            });
        }
    });
    results.into_inner().map_err(|_| io::Error::other("poisoned"))?.into_iter().collect()
}

/// Parses a list of numbers.
fn numbers(args: &Args, name: &str, default: &[f64]) -> Vec<f64> {
    match args.text(name) {
        None => default.to_vec(),
        Some(list) => list.split(',').filter_map(|number| number.trim().parse().ok()).collect(),
    }
}

/// All senders beside each other, cell by cell.
fn beside(args: &Args) -> io::Result<()> {
    let seconds = args.number("seconds", 5.0);
    let short = seconds < 1.0;
    let losses = numbers(args, "loss", if short { &[1.0] } else { &[0.0, 0.1, 1.0, 5.0] });
    let round_trips = numbers(args, "rtt-ms", if short { &[1.0] } else { &[1.0, 20.0] });
    let rate_mbit = args.number("rate-mbit", 100);
    let senders = senders(args)?;
    let mut cases = Vec::new();
    for &round_trip_ms in &round_trips {
        for &loss_percent in &losses {
            cases.extend(senders.iter().map(|&sender| Case {
                sender,
                loss_percent,
                round_trip_ms,
                rate_mbit,
                seconds,
            }));
        }
    }
    let json = args.has("json");
    measure(&cases, args.number("at-once", 1), |case, figure| {
        let cell =
            format!("{} ms, {} % lost, {} Mbit/s", case.round_trip_ms, case.loss_percent, case.rate_mbit);
        if json {
            let line = Object::default().text("bench", "goodput").text("case", &cell);
            let line = line.text("peer", case.sender.name).text("unit", "kB/s").number("median", figure);
            println!("{}", line.finish());
        } else {
            println!("{cell:32} {:24} {figure:10.1} kB/s", case.sender.name);
        }
    })?;
    Ok(())
}

/// Transfers to take the mean of.
fn runs(loss_percent: f64) -> usize {
    if loss_percent > 0.0 { TABLE_RUNS } else { 1 }
}

/// Linux to Linux over the simulations' cells, into the file that their table reads.
fn table(args: &Args) -> io::Result<()> {
    let kernels: Vec<_> = senders(args)?
        .into_iter()
        .filter(|sender| sender.stack.is_kernel() && sender.receiver.is_kernel())
        .collect();
    let mut cases = Vec::new();
    for sender in &kernels {
        for round_trip_ms in TABLE_ROUND_TRIPS_MS {
            for loss_percent in TABLE_LOSSES {
                let seconds = args.number("seconds", TABLE_SECONDS);
                let case = Case { sender: *sender, loss_percent, round_trip_ms, rate_mbit: 100, seconds };
                cases.extend(std::iter::repeat_n(case, runs(loss_percent)));
            }
        }
    }
    let figures = measure(&cases, args.number("at-once", 4), |case, figure| {
        println!("{} {} ms {} %: {figure:.1}", case.sender.name, case.round_trip_ms, case.loss_percent);
    })?;
    let mut all = figures.into_iter();
    let mut mean = |loss_percent: f64| {
        let runs = runs(loss_percent);
        all.by_ref().take(runs).sum::<f64>() / runs as f64
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!(
        "# Written by `cargo run --release -p demi-benches --bin goodput -- --table`.\n\
         about = \"\"\"\n\
         In italics Linux's own, Linux {} to Linux with its default buffers, the mean of three transfers of {} s (at 0 % one): two network\n\
         namespaces, and between them a thread that carries frames between packet sockets and does to them what the simulation's wire\n\
         does.\n\
         \"\"\"\n",
        release.split('.').take(2).collect::<Vec<_>>().join("."),
        args.number("seconds", TABLE_SECONDS)
    );
    for sender in &kernels {
        text.push_str(&format!("\n[[column]]\nname = \"{}\"\nkilobytes_per_s = [\n", sender.name));
        for _ in TABLE_ROUND_TRIPS_MS {
            let row = TABLE_LOSSES.map(|loss_percent| format!("{:.1}", mean(loss_percent)));
            text.push_str(&format!("    [{}],\n", row.join(", ")));
        }
        text.push_str("]\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/tests/sim/goodput/linux.toml");
    std::fs::write(path, text)?;
    println!(
        "written: {path}; DEMI_WRITE=1 cargo test -p demi-runtime --test sim goodput takes it into the table"
    );
    Ok(())
}
