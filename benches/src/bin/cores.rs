//! What a request costs on one core and on two: an echo server over AF_PACKET or the kernel's sockets, a queue or a listener a core, the kernel
//! at the other end of a veth. Makes its own network namespaces, so it takes root.
//!
//! On a machine with cores to spare the requests a second tell how a server scales. On one where the load generator needs a core
//! of the server's, the time that each of the server's cores has spent on a request tells: what two cores serve of what one does is twice
//! the cost on one, divided by that on two. With `--icount` the instructions of the server are counted instead of its time, by
//! callgrind, which is the same again tomorrow.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use demi::Config;
use demi_benches::icount;
use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag, machine, report::number};
use demi_benches::load::LoadConfig;
use demi_benches::veth::{self, INTERFACE, SERVER, SERVING, Server};

const FLAGS: &[Flag] = &[
    Flag { name: "device", value: Some("NAME"), help: "packet, uring or posix (packet)" },
    Flag { name: "cores", value: Some("N,N,..."), help: "cores of the server, one case for each (1,2)" },
    Flag { name: "connections", value: Some("N"), help: "connections (64)" },
    Flag { name: "payload", value: Some("BYTES"), help: "bytes a request (64)" },
    Flag { name: "load-core", value: Some("N"), help: "core of the load generator (the last one)" },
    Flag { name: "icount", value: None, help: "count instructions, under callgrind" },
    Flag { name: "serve", value: Some("CORES"), help: "be the server (for the benchmark's own use)" },
];

const PORT: u16 = 7000;

fn main() {
    let args = Args::parse("What a request costs on one core and on several.", FLAGS);
    let done = match args.text("serve") {
        Some(cores) => serve(cores, &args),
        None => compare(&args),
    };
    if let Err(error) = done {
        eprintln!("cores: {error}");
        std::process::exit(1);
    }
}

/// Time that the calling thread has spent so far, in its own code and in the kernel.
fn spent() -> (Duration, Duration) {
    // SAFETY: all zeros is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable during the call, which cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    (time(usage.ru_utime), time(usage.ru_stime))
}

/// The server's process: says of each core what it has served and spent when it is told to end.
fn serve(cores: &str, args: &Args) -> io::Result<()> {
    veth::await_link()?;
    let ends = veth::told_to_end();
    let config = Config::default().cores(cores).idle("park").pool_slots(4096).huge_pages(false);
    let config = match args.text("device").unwrap_or("packet") {
        "packet" => config
            .device(format!("packet:{INTERFACE}"))
            .address(format!("{SERVER}/24"))
            .detect_duplicates(false),
        kernel => {
            veth::run(&format!("ip addr add {SERVER}/24 dev {INTERFACE}"))?;
            config.device(kernel)
        }
    };
    let served = demi::run(config, move || {
        let ends = ends.clone();
        async move {
            let listener = demi::net::TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
            if demi::this_core().index() + 1 == demi::cores().len() {
                println!("{SERVING}");
            }
            let requests = Rc::new(Cell::new(0u64));
            let count = Rc::clone(&requests);
            demi::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let count = Rc::clone(&count);
                    demi::spawn(async move {
                        while let Ok(Some(buf)) = stream.pop().await {
                            count.set(count.get() + 1);
                            if stream.push(buf).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            });
            let before = spent();
            while !ends.load(Ordering::Relaxed) {
                demi::time::sleep(Duration::from_millis(20)).await;
            }
            let after = spent();
            io::Result::Ok((requests.get(), after.0 - before.0, after.1 - before.1))
        }
    })?;
    for core in served {
        let (requests, user, system) = core?;
        println!("{requests} {} {}", user.as_nanos(), system.as_nanos());
    }
    Ok(())
}

/// What one run of the server came to.
struct Served {
    /// Of each core.
    requests: Vec<f64>,
    user_ns: f64,
    system_ns: f64,
    /// A second, as the load generator saw it.
    rate: f64,
    /// Of the whole process, when they are counted.
    instructions: Option<f64>,
}

impl Served {
    fn total(&self) -> f64 {
        self.requests.iter().sum()
    }

    /// The largest share of a core, of what an even one would be.
    fn unevenness(&self) -> f64 {
        let most = self.requests.iter().copied().fold(0.0, f64::max);
        most * self.requests.len() as f64 / self.total()
    }
}

fn measure(cores: usize, time: Duration, args: &Args) -> io::Result<Served> {
    let list = (0..cores).map(|core| core.to_string()).collect::<Vec<_>>().join(",");
    let program = std::env::current_exe()?;
    let counted = args.has("icount");
    let log = std::env::temp_dir().join(format!("demi-cores-{}.log", std::process::id()));
    let mut command = if counted { callgrind(&program, &log) } else { Command::new(program) };
    command.args(["--serve", &list, "--device", args.text("device").unwrap_or("packet")]);
    let server = Server::start(command, cores.max(1), &[])?;
    let config = LoadConfig {
        address: SocketAddr::from((SERVER, PORT)),
        connections: args.number("connections", 64),
        payload_bytes: args.number("payload", 64),
        ..LoadConfig::default()
    };
    let mut load = veth::connect(&config)?;
    let result = load.run(time)?;
    let rate = result.rate();
    drop(load);
    let said = server.end()?;
    let mut served = Served { requests: Vec::new(), user_ns: 0.0, system_ns: 0.0, rate, instructions: None };
    for line in said {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        if let (Some(requests), Some(user), Some(system)) = (numbers.next(), numbers.next(), numbers.next()) {
            served.requests.push(requests);
            served.user_ns += user;
            served.system_ns += system;
        }
    }
    if served.requests.len() != cores || served.total() == 0.0 {
        return Err(io::Error::other(format!(
            "{} of {cores} cores have said what they served",
            served.requests.len()
        )));
    }
    if counted {
        let text = std::fs::read_to_string(&log)?;
        std::fs::remove_file(&log)?;
        served.instructions = icount::collected(&text).map(|count| count as f64);
    }
    Ok(served)
}

fn callgrind(program: &PathBuf, log: &std::path::Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--fair-sched=yes"]);
    command.arg(format!("--log-file={}", log.display())).arg(program);
    command
}

fn compare(args: &Args) -> io::Result<()> {
    veth::own_network()?;
    machine::raise_descriptor_limit();
    let has = std::thread::available_parallelism().map_or(1, usize::from);
    machine::pin(args.number("load-core", has - 1))?;
    let (cases, beyond): (Vec<usize>, Vec<usize>) =
        args.numbers("cores", &[1, 2]).into_iter().partition(|cores| *cores <= has);
    for cores in beyond {
        eprintln!("cores: {cores} cores: this machine has {has}");
    }
    if cases.is_empty() {
        return Err(io::Error::other(format!("--cores: this machine has {has}")));
    }
    let time = Duration::from_secs_f64(args.number("seconds", 4.0) / cases.len() as f64);
    if !args.has("json") {
        println!(
            "{:>5} {:>12} {:>10} {:>10} {:>13} {:>9} {:>9}",
            "cores", "requests/s", "user ns", "system ns", "instructions", "uneven", "capacity"
        );
    }
    let mut first = None;
    for cores in cases {
        let served = measure(cores, time, args)?;
        let (user, system) = (served.user_ns / served.total(), served.system_ns / served.total());
        let instructions = match served.instructions {
            None => None,
            Some(all) => {
                // What starting costs falls out of the difference of two runs.
                let longer = measure(cores, 2 * time, args)?;
                let more = longer.total() - served.total();
                longer.instructions.map(|count| (count - all) / more)
            }
        };
        let cost = instructions.unwrap_or(user + system);
        let one = *first.get_or_insert(cost / cores as f64);
        let capacity = one * cores as f64 / cost;
        if !args.has("json") {
            println!(
                "{cores:>5} {:>12} {:>10} {:>10} {:>13} {:>9} {capacity:>9.2}",
                number(served.rate),
                number(user),
                number(system),
                instructions.map_or_else(|| "-".to_owned(), number),
                number(served.unevenness()),
            );
            continue;
        }
        let case = format!("{cores} cores, {}", args.text("device").unwrap_or("packet"));
        for (what, unit, value) in [
            ("rate", "requests/s", Some(served.rate)),
            ("user", "ns", Some(user)),
            ("system", "ns", Some(system)),
            ("instructions", "instructions", instructions),
            ("capacity", "cores", Some(capacity)),
        ] {
            if let Some(value) = value {
                let line = Object::default().text("bench", "cores").text("case", &case);
                let line = line.text("peer", what).text("unit", unit).number("median", value);
                println!("{}", line.finish());
            }
        }
    }
    Ok(())
}
