//! A server in a process and a network namespace of its own, at the far end of a veth: what benchmarks of devices have at the other
//! end of a wire that one machine can have alone. Takes root; namespaces and links end with the processes.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::{Load, LoadConfig};

/// The server's address; its network has 24 bits.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
/// Its end of the link.
pub const INTERFACE: &str = "dv1";

/// Runs a command that must work.
///
/// # Errors
/// That it did not, and what it said.
pub fn run(line: &str) -> io::Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Puts this process into a network namespace of its own. To be called before it has other threads.
///
/// # Errors
/// The kernel's: it takes root.
pub fn own_network() -> io::Result<()> {
    // SAFETY: changes this thread's namespace, and no memory; no other thread has been made.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("make a network namespace: {error}: run as root")));
    }
    run("ip link set lo up")
}

/// In the server's process: waits for its end of the link, and brings it up. What is to be known by who started it, it says on its
/// standard output, [`SERVING`] first.
///
/// # Errors
/// That something of it did not work.
pub fn await_link() -> io::Result<()> {
    own_network()?;
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    run(&format!("sysctl -qw net.ipv6.conf.{INTERFACE}.disable_ipv6=1"))?;
    run(&format!("ip link set {INTERFACE} up"))
}

/// What a server says when it can be talked to.
pub const SERVING: &str = "serving";

/// A server's process, which ends with this value, and with it the veth.
#[derive(Debug)]
pub struct Server {
    process: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts `command`, which has to call [`await_link`], and makes the link to it, of `queues` queues a direction; this process
    /// has to be in a namespace of its own.
    ///
    /// # Errors
    /// That something of it did not work.
    pub fn start(mut command: Command, queues: usize, before_up: &[&str]) -> io::Result<Server> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let Some(output) = process.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let input = process.stdin.take();
        let mut server = Server { process, input, lines: BufReader::new(output).lines() };
        server.wait_for("ready")?;
        let many = format!("numrxqueues {queues} numtxqueues {queues}");
        let id = server.process.id();
        run(&format!("ip link add dv0 {many} type veth peer name {INTERFACE} {many} netns {id}"))?;
        run("ip addr add 10.79.0.1/24 dev dv0")?;
        before_up.iter().try_for_each(|line| run(line))?;
        run("ip link set dv0 up")?;
        if let Some(input) = &mut server.input {
            input.write_all(b"\n")?;
        }
        server.wait_for(SERVING)?;
        Ok(server)
    }

    fn wait_for(&mut self, what: &str) -> io::Result<()> {
        match self.lines.next() {
            Some(Ok(line)) if line == what => Ok(()),
            _ => Err(io::Error::other(format!("the server ended before it was {what}"))),
        }
    }

    /// Tells the server to end, by the end of its standard input; what it says before it does.
    ///
    /// # Errors
    /// That its output could not be read.
    pub fn end(mut self) -> io::Result<Vec<String>> {
        self.input = None;
        let said = self.lines.by_ref().collect();
        self.process.wait()?;
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is gone already is all we want.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = run("ip link del dv0");
    }
}

/// In a server's process: a flag that is set at the end of its standard input.
pub fn told_to_end() -> std::sync::Arc<std::sync::atomic::AtomicBool> {
    let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = told.clone();
    std::thread::spawn(move || {
        // However it ends, it ends.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    told
}

/// Connects to a server that has only just begun.
///
/// # Errors
/// The last attempt's, after five seconds.
pub fn connect(config: &LoadConfig) -> io::Result<Load> {
    let begin = Instant::now();
    loop {
        match Load::connect(config.clone()) {
            Ok(load) => return Ok(load),
            Err(error) if begin.elapsed() > Duration::from_secs(5) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
