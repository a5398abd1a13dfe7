//! A link between two network namespaces that is as slow, long and lossy as one likes: each host has a veth, and between
//! their other ends a thread carries the frames. This kernel has no netem; packet sockets and a clock do what it would.
//!
//! Owns the namespaces, which go when it is dropped. What it does to a frame is what `wire` of the simulations does: so much
//! of the link's time, a place in a queue of so many bytes, a delay, and a chance to be lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a link is like, in both directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// 0: no limit.
    pub(crate) rate_bits_per_s: u64,
    /// Bytes that wait for the link at most.
    pub(crate) queue_bytes: u64,
    pub(crate) round_trip: Duration,
    /// Frames lost of a hundred, in each direction.
    pub(crate) loss_percent: f64,
}

/// The TAP interface of a host that has one.
pub(crate) const TAP: &str = "tap0";

/// What is at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The kernel's own stack.
    Kernel,
    /// Ours, on a packet socket.
    Packet,
    /// Ours, on a TAP interface: the kernel there forwards between it and the link.
    Tap,
}

impl End {
    /// The kernel's own stack is there.
    pub(crate) fn is_kernel(self) -> bool {
        self == End::Kernel
    }

    /// The address that the stack at this end has, at the host `at`.
    pub(crate) fn address(self, at: usize) -> Ipv4Addr {
        match self {
            End::Kernel | End::Packet => Ipv4Addr::new(10, 78, 0, at as u8 + 1),
            End::Tap => Ipv4Addr::new(10, 78, at as u8 + 1, 2),
        }
    }
}

/// Two hosts and their link.
#[derive(Debug)]
pub(crate) struct Link {
    hosts: [String; 2],
    middle: String,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Link {
    /// The link between two hosts. Their ends of it are `10.78.0.1` and `10.78.0.2`; behind them may be a network of a TAP interface's.
    pub(crate) fn new(shape: Shape, ends: [End; 2], seed: u64) -> io::Result<Link> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |role: &str| format!("demi-goodput-{}-{number}-{role}", std::process::id());
        let stop = Arc::new(AtomicBool::new(false));
        let mut link = Link { hosts: [name("a"), name("b")], middle: name("link"), stop, carrier: None };
        for namespace in link.hosts.iter().chain([&link.middle]) {
            run(&format!("ip netns add {namespace}"))?;
        }
        for (at, (host, end)) in link.hosts.iter().zip(ends).enumerate() {
            let (middle, inside) = (&link.middle, format!("ip netns exec {host}"));
            run(&format!("ip -n {host} link add eth0 type veth peer name end{at} netns {middle}"))?;
            // Frames on the link are frames, and their checksums are there.
            run(&format!("{inside} ethtool -K eth0 tx off tso off gso off gro off"))?;
            run(&format!("ip netns exec {middle} ethtool -K end{at} tx off tso off gso off gro off"))?;
            for (namespace, device) in [(host, "eth0".to_owned()), (middle, format!("end{at}"))] {
                run(&format!("ip netns exec {namespace} sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1"))?;
                run(&format!("ip -n {namespace} link set {device} up txqueuelen 10000"))?;
            }
            let (ours, theirs) = (at + 1, 2 - at);
            if end != End::Packet {
                run(&format!("ip -n {host} addr add 10.78.0.{ours}/24 dev eth0"))?;
                run(&format!("ip -n {host} route add 10.78.{theirs}.0/24 via 10.78.0.{theirs}"))?;
                // What was learnt of one transfer is not to help the next.
                run(&format!("{inside} sysctl -qw net.ipv4.tcp_no_metrics_save=1"))?;
            }
            if end == End::Tap {
                run(&format!("ip -n {host} tuntap add {TAP} mode tap"))?;
                run(&format!("ip -n {host} addr add 10.78.{ours}.1/24 dev {TAP}"))?;
                run(&format!("ip -n {host} link set {TAP} up txqueuelen 10000"))?;
                run(&format!("{inside} sysctl -qw net.ipv4.ip_forward=1"))?;
            }
        }
        let ports = inside(&link.middle, || Ok([port("end0")?, port("end1")?]))?;
        let stop = Arc::clone(&link.stop);
        link.carrier = Some(thread::spawn(move || carry(&ports, shape, seed, &stop)));
        Ok(link)
    }

    /// The namespace of a host.
    pub(crate) fn host(&self, at: usize) -> &str {
        &self.hosts[at]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        for namespace in self.hosts.iter().chain([&self.middle]) {
            if let Err(error) = run(&format!("ip netns del {namespace}")) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

/// Runs a command that must work.
fn run(line: &str) -> io::Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{line}`: {}: {}", output.status, said.trim())))
}

/// Runs `call` inside a namespace, on a thread of its own, whose sockets are that namespace's.
pub(crate) fn inside<T: Send>(namespace: &str, call: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: changes the calling thread's namespace, and no memory.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            call()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("a thread inside a namespace has panicked")))
    })
}

/// A packet socket that has the frames of an interface.
fn port(interface: &str) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no memory is passed.
    let socket = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            protocol.into(),
        )
    };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for (level, name, value) in [
        (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20),
    ] {
        let value: libc::c_int = value;
        // SAFETY: the option's value is an int that is readable during the call.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name is a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: all zeros is a value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    // SAFETY: the address is readable during the call, and its length is given.
    let answer = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    };
    if answer == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// One direction.
struct Way {
    /// Frames on their way, and when they arrive.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    busy_until: Instant,
    random: u64,
}

impl Way {
    /// A number between 0 and 1 (SplitMix64).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A frame is handed over.
    fn take(&mut self, frame: &[u8], now: Instant, shape: &Shape) {
        if self.draw() * 100.0 < shape.loss_percent {
            return;
        }
        let mut sent = now;
        if shape.rate_bits_per_s > 0 {
            let start = now.max(self.busy_until);
            let waiting = (start - now).as_secs_f64() * shape.rate_bits_per_s as f64 / 8.0;
            if waiting + frame.len() as f64 > shape.queue_bytes as f64 {
                return;
            }
            let takes = frame.len() as f64 * 8.0 / shape.rate_bits_per_s as f64;
            self.busy_until = start + Duration::from_secs_f64(takes);
            sent = self.busy_until;
        }
        self.under_way.push_back((sent + shape.round_trip / 2, frame.to_vec()));
    }
}

/// Carries frames until it is told to stop.
fn carry(ports: &[OwnedFd; 2], shape: Shape, seed: u64, stop: &AtomicBool) {
    // SAFETY: changes an attribute of the calling thread: it wants to wake when it said, not 50 us later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let way = |random| Way { under_way: VecDeque::new(), busy_until: Instant::now(), random };
    let mut ways = [way(seed), way(seed ^ 0xd134_2543_de82_ef95)];
    let mut frame = vec![0u8; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        for (from, way) in ways.iter_mut().enumerate() {
            // As many as a queue of a network card has; then it is the other direction's turn.
            for _ in 0..256 {
                // SAFETY: the buffer is writable, and as long as is said.
                let count = unsafe {
                    libc::recv(
                        ports[from].as_raw_fd(),
                        frame.as_mut_ptr().cast(),
                        frame.len(),
                        libc::MSG_DONTWAIT,
                    )
                };
                let Ok(count) = usize::try_from(count) else { break };
                way.take(&frame[..count], Instant::now(), &shape);
            }
            let now = Instant::now();
            while way.under_way.front().is_some_and(|(due, _)| *due <= now)
                && let Some((_, frame)) = way.under_way.pop_front()
            {
                // A frame that the kernel has no room for is lost, as on a link.
                // SAFETY: the frame is readable, and as long as is said.
                unsafe { libc::send(ports[1 - from].as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            }
        }
        let next = ways.iter().filter_map(|way| way.under_way.front()).map(|(due, _)| *due).min();
        let wait =
            next.map_or(Duration::from_millis(50), |due| due.saturating_duration_since(Instant::now()));
        let timeout =
            libc::timespec { tv_sec: wait.as_secs() as libc::time_t, tv_nsec: wait.subsec_nanos().into() };
        let mut polled =
            [0, 1].map(|at| libc::pollfd { fd: ports[at].as_raw_fd(), events: libc::POLLIN, revents: 0 });
        // SAFETY: both descriptors' structures and the timeout live during the call.
        unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    }
}
