//! The load generator by itself: loads any TCP echo server and tells latency and rate.
//!
//! Closed loop by default; `--rate` makes it an open loop whose latencies count from when each request was due.

use std::net::SocketAddr;
use std::time::Duration;

use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag, machine};
use demi_benches::load::{Load, LoadConfig};

const FLAGS: &[Flag] = &[
    Flag { name: "connect", value: Some("ADDR:PORT"), help: "the echo server (127.0.0.1:7000)" },
    Flag { name: "connections", value: Some("N,N,..."), help: "connections, one run for each number (1)" },
    Flag { name: "payload", value: Some("BYTES"), help: "bytes a request (64)" },
    Flag { name: "depth", value: Some("N"), help: "requests under way on a connection (1)" },
    Flag { name: "rate", value: Some("N"), help: "open loop: requests a second over all connections" },
    Flag { name: "warmup", value: Some("S"), help: "time before counting (0.5)" },
    Flag { name: "spin", value: None, help: "poll for replies without blocking" },
];

fn main() {
    let args = Args::parse("Load on a TCP echo server from one core.", FLAGS);
    if let Err(error) = run(&args) {
        eprintln!("loadgen: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> std::io::Result<()> {
    let address = args.text("connect").unwrap_or("127.0.0.1:7000");
    let address: SocketAddr = address.parse().map_err(|_| {
        std::io::Error::other(format!(
            "--connect {address}: not an address and port (for example 127.0.0.1:7000)"
        ))
    })?;
    if args.has("core") {
        machine::pin(args.number("core", 0))?;
    }
    machine::raise_descriptor_limit();
    if !args.has("json") {
        println!(
            "{:>11} {:>7} {:>5} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9}",
            "connections",
            "payload",
            "depth",
            "rate wanted",
            "replies/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us"
        );
    }
    for connections in args.numbers("connections", &[1]) {
        let config = LoadConfig {
            address,
            connections,
            payload_bytes: args.number("payload", 64),
            depth: args.number("depth", 1),
            rate: args.has("rate").then(|| args.number("rate", 10_000.0)),
            spin: args.has("spin"),
        };
        let mut load = Load::connect(config.clone())?;
        load.run(Duration::from_secs_f64(args.number("warmup", 0.5)))?;
        let result = load.run(Duration::from_secs_f64(args.number("seconds", 2.0)))?;
        let percentiles = [50.0, 99.0, 99.9, 100.0].map(|percent| result.percentile_us(percent));
        if args.has("json") {
            let line = Object::default()
                .text("bench", "loadgen")
                .text("server", &address.to_string())
                .number("connections", connections as f64)
                .number("payload_bytes", config.payload_bytes as f64)
                .number("depth", config.depth as f64)
                .number("rate_wanted", config.rate.unwrap_or(0.0))
                .number("replies", result.replies as f64)
                .number("seconds", result.elapsed.as_secs_f64())
                .number("replies_per_s", result.rate())
                .number("p50_us", percentiles[0])
                .number("p99_us", percentiles[1])
                .number("p999_us", percentiles[2])
                .number("max_us", percentiles[3]);
            println!("{}", line.finish());
        } else {
            let wanted = config.rate.map_or("closed".to_string(), |rate| format!("{rate:.0}"));
            println!(
                "{connections:>11} {:>7} {:>5} {wanted:>12} {:>11.0} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
                config.payload_bytes,
                config.depth,
                result.rate(),
                percentiles[0],
                percentiles[1],
                percentiles[2],
                percentiles[3],
            );
        }
    }
    Ok(())
}
