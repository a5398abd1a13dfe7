//! Echo servers on kernel sockets beside each other: CPU time a request, requests a second, p99.
//!
//! Every server runs in a process of its own, pinned to one core, the load generator to another. All servers of a case are
//! up at once with their connections open, and take short samples in turn; those whose turn it is not are stopped, so that
//! one that spins costs the others nothing. CPU time is the server process's own clock, to the nanosecond. One sample can
//! differ twofold from the next: look at the best third, which is what the last columns show.
//!
//! First a closed loop, as fast as each server answers; then an open one, where requests come by the clock, at a rate that even
//! the slowest server of the case keeps up with, and a latency counts from when its request was due.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag, machine, report::number};
use demi_benches::load::{Load, LoadConfig};

const FLAGS: &[Flag] = &[
    Flag { name: "servers", value: Some("NAME,..."), help: "servers to compare (all that echo_server has)" },
    Flag {
        name: "connections",
        value: Some("N,N,..."),
        help: "connections, one case for each number (1,64,1000)",
    },
    Flag { name: "payload", value: Some("BYTES"), help: "bytes a request (64)" },
    Flag { name: "depth", value: Some("N"), help: "requests under way on a connection (1)" },
    Flag { name: "load", value: Some("KIND,..."), help: "closed, open: loops to load the servers by (both)" },
    Flag {
        name: "rate",
        value: Some("N"),
        help: "requests a second of the open loop (half of what the slowest server's closed loop came to)",
    },
    Flag { name: "samples", value: Some("N"), help: "samples a server and loop (12; with --seconds 3)" },
    Flag {
        name: "sample-ms",
        value: Some("MS"),
        help: "time of a sample (250; with --seconds that, shared out)",
    },
    Flag { name: "server-core", value: Some("N"), help: "core of the servers (0)" },
    Flag { name: "load-core", value: Some("N"), help: "core of the load generator (1)" },
    Flag { name: "spin", value: None, help: "the generator polls without blocking" },
];

const ALL: &str = "demi-uring,demi-uring-park,demi-posix,raw-uring,raw-epoll,tokio,monoio,compio,glommio";

fn main() {
    let args = Args::parse("Echo servers on kernel sockets, side by side.", FLAGS);
    if let Err(error) = run(&args) {
        eprintln!("kernel_echo: {error}");
        std::process::exit(1);
    }
}

/// A server process; it ends with this value.
struct Server {
    name: String,
    process: Child,
    load: Load,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    cpu_ns: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Server {
    fn start(name: &str, args: &Args, connections: usize) -> io::Result<Server> {
        let program = std::env::current_exe()?.with_file_name("echo_server");
        let core = args.number("server-core", 0usize).to_string();
        let mut process = Command::new(&program)
            .args(["--peer", name, "--listen", "127.0.0.1:0", "--core", &core])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let program = program.display();
                io::Error::new(
                    error.kind(),
                    format!("cannot run {program}, which must be built beside this: {error}"),
                )
            })?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
        let Some(address) = address.and_then(|text| text.parse().ok()) else {
            // It has said why on its standard error.
            process.kill()?;
            process.wait()?;
            return Err(io::Error::other(format!("the server {name} did not start")));
        };
        let config = LoadConfig {
            address,
            connections,
            payload_bytes: args.number("payload", 64),
            depth: args.number("depth", 1),
            rate: None,
            spin: args.has("spin"),
        };
        // Some servers bind by themselves after they have said where.
        let begin = Instant::now();
        let load = loop {
            match Load::connect(config.clone()) {
                Ok(load) => break load,
                Err(error) if begin.elapsed() > Duration::from_secs(3) => {
                    process.kill()?;
                    process.wait()?;
                    return Err(error);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        Ok(Server { name: name.into(), process, load, samples: Vec::new() })
    }

    fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.process.id() as i32, signal) };
    }

    fn sample(&mut self, time: Duration) -> io::Result<()> {
        self.signal(libc::SIGCONT);
        // The first replies after a stop pay for it.
        self.load.run(time / 10)?;
        let before = machine::cpu_time(self.process.id())?;
        let result = self.load.run(time)?;
        let cpu = machine::cpu_time(self.process.id())? - before;
        self.signal(libc::SIGSTOP);
        self.samples.push(Sample {
            cpu_ns: cpu.as_nanos() as f64 / result.replies.max(1) as f64,
            rate: result.rate(),
            p50_us: result.percentile_us(50.0),
            p99_us: result.percentile_us(99.0),
        });
        Ok(())
    }

    /// Median and the mean of the better third of one column.
    fn column(&self, value: impl Fn(&Sample) -> f64, more_is_better: bool) -> (f64, f64) {
        let mut values: Vec<f64> = self.samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        if more_is_better {
            values.reverse();
        }
        let third = values.len().div_ceil(3);
        let best = values[..third].iter().sum::<f64>() / third.max(1) as f64;
        (values[values.len() / 2], best)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that is gone already is all we want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loop {
    /// The next one when the last one is answered.
    Closed,
    /// So many a second.
    Open(f64),
}

/// How many samples a server takes, and how long each.
#[derive(Clone, Copy)]
struct Plan {
    samples: usize,
    time: Duration,
}

impl Plan {
    fn of(args: &Args, servers: usize) -> Plan {
        let (samples, sample_ms) = if args.has("seconds") {
            let all_ms = 1000.0 * args.number("seconds", 2.0f64);
            (3, (all_ms / (3 * servers.max(1)) as f64).max(10.0))
        } else {
            (12, 250.0)
        };
        let sample_ms: f64 = args.number("sample-ms", sample_ms);
        Plan {
            samples: args.number("samples", samples).max(1),
            time: Duration::from_secs_f64(sample_ms / 1000.0),
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    machine::raise_descriptor_limit();
    machine::pin(args.number("load-core", 1))?;
    let loads: Vec<&str> = args.text("load").unwrap_or("closed,open").split(',').collect();
    if let Some(other) = loads.iter().find(|load| !matches!(**load, "closed" | "open")) {
        return Err(io::Error::other(format!("--load {other}: closed or open")));
    }
    if !args.has("json") {
        println!(
            "{:>11} {:<15} {:<15} {:>14} {:>10} {:>12} {:>12} {:>9} {:>9}",
            "connections",
            "load",
            "server",
            "cpu ns/request",
            "best third",
            "requests/s",
            "best third",
            "p50 us",
            "p99 us"
        );
    }
    for connections in args.numbers("connections", &[1, 64, 1000]) {
        let mut servers = Vec::new();
        for name in args.text("servers").unwrap_or(ALL).split(',').filter(|name| args.wants_peer(name)) {
            let server = Server::start(name, args, connections)?;
            server.signal(libc::SIGSTOP);
            servers.push(server);
        }
        let plan = Plan::of(args, servers.len());
        if loads.contains(&"closed") {
            measure(args, connections, &mut servers, plan, Loop::Closed)?;
        }
        if loads.contains(&"open") {
            let rate = match args.number("rate", 0.0) {
                0.0 => rate_for_all(&mut servers, plan)?,
                rate => rate,
            };
            measure(args, connections, &mut servers, plan, Loop::Open(rate))?;
        }
    }
    Ok(())
}

/// Interleaved samples of all servers, and their figures.
fn measure(
    args: &Args,
    connections: usize,
    servers: &mut [Server],
    plan: Plan,
    load: Loop,
) -> io::Result<()> {
    for server in &mut *servers {
        server.samples.clear();
        server.load.set_rate(match load {
            Loop::Closed => None,
            Loop::Open(rate) => Some(rate),
        });
    }
    let count = servers.len();
    for round in 0..plan.samples {
        for turn in 0..count {
            servers[(turn + round) % count].sample(plan.time)?;
        }
    }
    for server in servers {
        print(args, connections, load, server);
    }
    Ok(())
}

/// Half of what the slowest server's closed loop came to; a single round of one, when none has run.
fn rate_for_all(servers: &mut [Server], plan: Plan) -> io::Result<f64> {
    let mut slowest = f64::INFINITY;
    for server in servers {
        if server.samples.is_empty() {
            server.sample(plan.time)?;
        }
        slowest = slowest.min(server.column(|sample| sample.rate, true).0);
    }
    // To a hundred requests, so that runs can be told apart and repeated by `--rate`.
    Ok((slowest / 200.0).round().max(1.0) * 100.0)
}

fn print(args: &Args, connections: usize, load: Loop, server: &Server) {
    let (cpu, best_cpu) = server.column(|sample| sample.cpu_ns, false);
    let (rate, best_rate) = server.column(|sample| sample.rate, true);
    let (p50, best_p50) = server.column(|sample| sample.p50_us, false);
    let (p99, best_p99) = server.column(|sample| sample.p99_us, false);
    let (kind, wanted) = match load {
        Loop::Closed => ("closed", "closed".to_string()),
        Loop::Open(rate) => ("open", format!("open, {rate:.0}/s")),
    };
    if args.has("json") {
        let case = |what: &str| format!("{connections} connections, {kind} loop, {what}");
        let figures = [
            (case("cpu"), "ns/request", cpu, best_cpu),
            (case("rate"), "requests/s", rate, best_rate),
            (case("p50"), "us", p50, best_p50),
            (case("p99"), "us", p99, best_p99),
        ];
        for (case, unit, median, best) in figures {
            // By the clock, the rate is what was asked for.
            if kind == "open" && unit == "requests/s" {
                continue;
            }
            let line = Object::default()
                .text("bench", "kernel_echo")
                .text("peer", &server.name)
                .text("case", &case)
                .text("unit", unit)
                .number("median", median)
                .number("best_third", best)
                .number("samples", server.samples.len() as f64);
            println!("{}", line.finish());
        }
    } else {
        println!(
            "{connections:>11} {wanted:<15} {:<15} {:>14} {:>10} {:>12} {:>12} {:>9} {:>9}",
            server.name,
            number(cpu),
            number(best_cpu),
            number(rate),
            number(best_rate),
            number(best_p50),
            number(best_p99),
        );
    }
}
