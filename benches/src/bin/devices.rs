//! One TCP echo server over each device in turn, the kernel's sockets at the other end of a veth: round trips of one connection,
//! and requests a second of many. Makes its own network namespaces, so it takes root; they end with it.
//!
//! Server and load generator run on a core each. The kernel's end is the same for all, so what differs is the server's side; the
//! row `kernel` is that of ordinary sockets and threads.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use demi::{Config, Runtime};
use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag, machine, report::number};
use demi_benches::load::LoadConfig;
use demi_benches::veth::{self, INTERFACE, SERVER, SERVING, Server};

const FLAGS: &[Flag] = &[
    Flag { name: "devices", value: Some("DEV,..."), help: "devices to compare (all)" },
    Flag { name: "connections", value: Some("N,N,..."), help: "connections, one case for each (1,64)" },
    Flag { name: "payload", value: Some("BYTES"), help: "bytes a request (64)" },
    Flag { name: "samples", value: Some("N"), help: "samples a device (5)" },
    Flag { name: "sample-ms", value: Some("MS"), help: "time of a sample (500)" },
    Flag { name: "server-core", value: Some("N"), help: "core of the servers (0)" },
    Flag { name: "load-core", value: Some("N"), help: "core of the load generator (1)" },
    Flag { name: "serve", value: Some("DEV"), help: "be the server (for the benchmark's own use)" },
];

/// What is compared: a short name, and what `device` is told.
const DEVICES: &[(&str, &str)] = &[
    ("kernel", ""),
    ("packet", "packet:dv1"),
    ("xdp", "xdp:dv1"),
    ("xdp-busy", "xdp:dv1,busy"),
    #[cfg(feature = "dpdk")]
    ("dpdk-af_packet", "dpdk:--no-huge --no-shconf -m 256 --no-pci --vdev=net_af_packet0,iface=dv1"),
    #[cfg(feature = "dpdk")]
    ("dpdk-af_xdp", "dpdk:--no-huge --no-shconf -m 256 --no-pci --vdev=net_af_xdp0,iface=dv1"),
];

const PORT: u16 = 7000;

fn main() {
    let args = Args::parse("Echo over each device, the kernel at the other end of a veth.", FLAGS);
    let done = match args.text("serve") {
        Some(device) => serve(device, &args),
        None => compare(&args),
    };
    if let Err(error) = done {
        eprintln!("devices: {error}");
        std::process::exit(1);
    }
}

/// The server's process: has a namespace of its own, says so, and serves once its end of the veth is there.
fn serve(device: &str, args: &Args) -> io::Result<()> {
    veth::await_link()?;
    machine::pin(args.number("server-core", 0))?;
    let Some(&(_, device)) = DEVICES.iter().find(|(name, _)| *name == device) else {
        let names: Vec<_> = DEVICES.iter().map(|(name, _)| *name).collect();
        let what = format!("no device {device}: there are {}", names.join(", "));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    if device.is_empty() {
        veth::run(&format!("ip addr add {SERVER}/24 dev {INTERFACE}"))?;
        return kernel();
    }
    let config = Config::default()
        .device(device)
        .address([format!("{SERVER}/24").as_str()])
        .detect_duplicates(false)
        .idle("spin");
    Runtime::new(config)?.block_on(async {
        let listener = demi::net::TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
        println!("{SERVING}");
        loop {
            let (mut stream, _) = listener.accept().await?;
            demi::spawn(async move {
                while let Ok(Some(buf)) = stream.pop().await {
                    if stream.push(buf).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}

/// Ordinary sockets, a thread each.
fn kernel() -> io::Result<()> {
    let listener = TcpListener::bind((SERVER, PORT))?;
    println!("{SERVING}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

fn start(device: &str, args: &Args) -> io::Result<Server> {
    let core = args.number("server-core", 0usize).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve", device, "--server-core", &core]);
    // DPDK's drivers of kernel interfaces do not say that a checksum is left to the hardware, of which there is none.
    let whole: &[&str] = if device.starts_with("dpdk") { &["ethtool -K dv0 tx off"] } else { &[] };
    Server::start(command, 1, whole)
        .map_err(|error| io::Error::new(error.kind(), format!("over {device}: {error}")))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn compare(args: &Args) -> io::Result<()> {
    veth::own_network()?;
    machine::raise_descriptor_limit();
    machine::pin(args.number("load-core", 1))?;
    let time = Duration::from_millis(args.number("sample-ms", 500));
    let samples: usize = args.number("samples", 5).max(1);
    if !args.has("json") {
        println!(
            "{:>11} {:<15} {:>12} {:>9} {:>9}",
            "connections", "device", "requests/s", "p50 us", "p99 us"
        );
    }
    for connections in args.numbers("connections", &[1, 64]) {
        let all: Vec<_> = DEVICES.iter().map(|(name, _)| *name).collect();
        let devices = args.text("devices").map_or(all, |names| names.split(',').collect());
        for device in devices.into_iter().filter(|device| args.wants_peer(device)) {
            let server = start(device, args)?;
            let config = LoadConfig {
                address: SocketAddr::from((SERVER, PORT)),
                connections,
                payload_bytes: args.number("payload", 64),
                depth: 1,
                rate: None,
                spin: true,
            };
            let mut load = veth::connect(&config)?;
            load.run(time / 5)?;
            let results = (0..samples).map(|_| load.run(time)).collect::<io::Result<Vec<_>>>()?;
            let rate = median(results.iter().map(|result| result.rate()).collect());
            let [p50, p99] = [50.0, 99.0]
                .map(|percent| median(results.iter().map(|result| result.percentile_us(percent)).collect()));
            drop((load, server));
            if !args.has("json") {
                println!(
                    "{connections:>11} {device:<15} {:>12} {:>9} {:>9}",
                    number(rate),
                    number(p50),
                    number(p99)
                );
                continue;
            }
            for (what, unit, value) in [("rate", "requests/s", rate), ("p50", "us", p50), ("p99", "us", p99)]
            {
                let line = Object::default()
                    .text("bench", "devices")
                    .text("peer", device)
                    .text("case", &format!("{connections} connections, {what}"))
                    .text("unit", unit)
                    .number("median", value)
                    .number("samples", samples as f64);
                println!("{}", line.finish());
            }
        }
    }
    Ok(())
}
