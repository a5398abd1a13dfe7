//! What a frame costs through a device of ours, beside a loop in C over the same rings: frames of 60 bytes that arrive over a veth go
//! back to who sent them, one at a time and in bursts.
//!
//! Time is that of receiving and sending, system calls and the far end of the veth included; putting frames on the wire is not
//! counted. With `--icount` the instructions of the program itself are counted as well, by callgrind. Makes a network namespace, so it
//! takes root.

use std::ffi::CString;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use demi_benches::c_loops::Reflector;
use demi_benches::kit::{Args, Figure, Flag, Group, Reporter, Run, Unit, measure};
use demi_benches::{icount, veth};
use demi_drivers::packet::{Packet, PacketConfig};
use demi_drivers::xdp::{Xdp, XdpConfig};
use demi_drivers::{Device, Offload, RxFrame, TxQueue};

const FLAGS: &[Flag] = &[
    Flag { name: "icount", value: None, help: "count instructions as well, under callgrind" },
    Flag {
        name: "count",
        value: Some("DEV:PEER:BURST"),
        help: "be what is counted (for the benchmark's own use)",
    },
    Flag { name: "operations", value: Some("N"), help: "frames of that (1000)" },
];

const BURSTS: [usize; 3] = [1, 4, 32];
const DEVICES: [&str; 2] = ["packet", "xdp"];
const PEERS: [&str; 2] = ["demi", "C"];
/// Bytes of a frame without its checksum: the shortest.
const FRAME: usize = 60;
/// The stations at both ends of each veth.
const NEAR: &str = "02:00:00:00:00:01";
const FAR: &str = "02:00:00:00:00:02";
/// The address that frames are for.
const OURS: [u8; 4] = [10, 79, 0, 2];
/// Frames counted in the shorter of two runs.
const COUNTED: u64 = 3_200;

fn main() {
    let args = Args::parse("A frame through a device and back, beside the same in C.", FLAGS);
    let done = match args.text("count") {
        Some(what) => counted(what, args.number("operations", 1000)),
        None => veth::own_network().and_then(|()| {
            compare_times(&args);
            if args.has("icount") { compare_counts(&args) } else { Ok(()) }
        }),
    };
    if let Err(error) = done {
        eprintln!("reflect: {error}");
        std::process::exit(1);
    }
}

fn case(device: &str, burst: usize) -> String {
    format!("{device}, burst {burst}")
}

fn compare_times(args: &Args) {
    let mut groups = Vec::new();
    for device in DEVICES {
        for burst in BURSTS {
            let mut group = Group::new(case(device, burst), Unit::Nanos);
            for peer in PEERS {
                group = group.peer(peer, move || open(device, peer, burst).expect("a veth and its rings"));
            }
            groups.push(group);
        }
    }
    measure("reflect", args, groups);
}

/// Instructions a frame, each counted in a process of its own under callgrind: twice, and the difference taken.
fn compare_counts(args: &Args) -> io::Result<()> {
    let program = std::env::current_exe()?;
    let mut reporter = Reporter::new(args.has("json"));
    for device in DEVICES {
        for burst in BURSTS {
            let case = format!("{}, counted", case(device, burst));
            if !args.wants_case(&case) {
                continue;
            }
            for peer in PEERS.into_iter().filter(|peer| args.wants_peer(peer)) {
                let count = count(&program, &format!("{device}:{peer}:{burst}"))?;
                reporter.add(Figure {
                    bench: "reflect",
                    peer: peer.to_owned(),
                    case: case.clone(),
                    unit: "instructions",
                    median: count,
                    min: count,
                    max: count,
                    samples: 1,
                    more_is_better: false,
                });
            }
        }
    }
    reporter.finish();
    Ok(())
}

fn count(program: &Path, what: &str) -> io::Result<f64> {
    let collect = |frames: u64| {
        let args = ["--count", what, "--operations", &frames.to_string()].map(str::to_owned);
        icount::collect(program, "reflect::measured*", &args)
    };
    let (short, long) = (collect(COUNTED)?, collect(2 * COUNTED)?);
    Ok(long.saturating_sub(short) as f64 / COUNTED as f64)
}

fn counted(what: &str, frames: u64) -> io::Result<()> {
    let mut words = what.split(':');
    let (Some(device), Some(peer), Some(Ok(burst))) =
        (words.next(), words.next(), words.next().map(str::parse::<usize>))
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("--count {what}: DEV:PEER:BURST")));
    };
    veth::own_network()?;
    black_box(open(device, peer, burst)?(frames));
    Ok(())
}

/// One that sends back, at the far end of a veth of its own.
fn open(device: &str, peer: &str, burst: usize) -> io::Result<Run> {
    let (near, far) = (format!("{device}-{peer}-{burst}a"), format!("{device}-{peer}-{burst}b"));
    for line in [
        format!("ip link add {near} address {NEAR} type veth peer name {far} address {FAR}"),
        format!("sysctl -qw net.ipv6.conf.{near}.disable_ipv6=1 net.ipv6.conf.{far}.disable_ipv6=1"),
        format!("ip link set {near} up"),
        format!("ip link set {far} up"),
    ] {
        veth::run(&line)?;
    }
    let generator = Generator::new(&near)?;
    let link = Link(near);
    match (device, peer) {
        ("packet", "demi") => {
            Ok(run(link, generator, burst, ours(Box::new(Packet::open(&PacketConfig::new(far))?), burst)))
        }
        ("xdp", "demi") => {
            let config = XdpConfig { addresses: vec![OURS.into()], ..XdpConfig::new(far) };
            Ok(run(link, generator, burst, ours(Box::new(Xdp::open(&config)?), burst)))
        }
        ("packet", _) => Ok(run(link, generator, burst, in_c(Reflector::packet(&far)?))),
        _ => Ok(run(link, generator, burst, in_c(Reflector::xdp(&far)?))),
    }
}

/// A veth, gone with this value.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        // The namespace takes it along, if nothing else does.
        let _ = veth::run(&format!("ip link del {}", self.0));
    }
}

fn run(link: Link, generator: Generator, burst: usize, mut reflect: impl FnMut(usize) + 'static) -> Run {
    Box::new(move |operations| {
        let _ = &link;
        let mut elapsed = Duration::ZERO;
        let mut left = operations as usize;
        while left > 0 {
            generator.send(burst).expect("an interface that is up");
            let start = Instant::now();
            measured(&mut reflect, burst);
            elapsed += start.elapsed();
            left = left.saturating_sub(burst);
        }
        elapsed
    })
}

/// What is counted: its name is callgrind's to find.
#[inline(never)]
fn measured(reflect: &mut impl FnMut(usize), frames: usize) {
    reflect(black_box(frames));
}

/// Through our device: received as buffers, stations swapped, sent.
fn ours(mut device: Box<dyn Device>, burst: usize) -> impl FnMut(usize) {
    let mut into: Vec<RxFrame> = Vec::with_capacity(64);
    let mut queue = TxQueue::new(64);
    move |mut frames| {
        let now = demi_drivers::Instant::ZERO;
        while frames > 0 {
            device.rx_burst(now, &mut into, burst).expect("an interface that is up");
            if into.is_empty() {
                continue;
            }
            frames = frames.saturating_sub(into.len());
            for RxFrame { mut buf, .. } in into.drain(..) {
                buf.advance(12);
                let swapped = buf.with_header(12, |stations, _| {
                    let (to, from) = stations.split_at_mut(6);
                    to.swap_with_slice(from);
                });
                drop(buf);
                queue.push(swapped.expect("a frame of one view"), Offload::default());
            }
            device.tx_burst(now, &mut queue).expect("an interface that is up");
            assert_eq!(queue.len(), 0, "the ring has room for a burst");
        }
    }
}

fn in_c(mut reflector: Reflector) -> impl FnMut(usize) {
    move |frames| reflector.reflect(frames as u32).expect("an interface that is up")
}

/// Puts frames on the wire.
struct Generator {
    socket: OwnedFd,
    frame: [u8; FRAME],
}

impl Generator {
    /// One at the interface `near`.
    fn new(near: &str) -> io::Result<Generator> {
        let mut frame = [0; FRAME];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        // UDP over IPv4 from .1 to the address; nobody looks further.
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
        frame[26..34].copy_from_slice(&[10, 79, 0, 1, 10, 79, 0, 2]);
        frame[34..40].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x58, 0, 26]);
        let name = CString::new(near)?;
        // SAFETY: a string that ends in zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: makes a descriptor, which is taken over at once.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeroes are an address; its size is told.
        let answer = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index as i32;
            let bytes = size_of_val(&address) as libc::socklen_t;
            libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), bytes)
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(Generator { socket, frame }) }
    }

    fn send(&self, frames: usize) -> io::Result<()> {
        for _ in 0..frames {
            // SAFETY: the frame lives until the call has copied it.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), self.frame.as_ptr().cast(), FRAME, 0) };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}
