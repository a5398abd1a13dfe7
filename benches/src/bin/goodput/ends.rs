//! The two ends of a transfer, the kernel's or ours: one sends as long as it is let, the other counts what arrives.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use demi::config::Config;

use crate::link::{End, Link, Shape, TAP, inside};

const PORT: u16 = 7000;
/// The longest that a handshake may take.
const CONNECT: Duration = Duration::from_secs(60);

/// A sender: what stack, and which of its algorithms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) name: &'static str,
    pub(crate) stack: End,
    pub(crate) algorithm: &'static str,
    /// The receiver's stack.
    pub(crate) receiver: End,
}

/// Whether the kernel lets a socket of a namespace have an algorithm.
pub(crate) fn kernel_has(algorithm: &str) -> bool {
    let socket = TcpListener::bind("127.0.0.1:0");
    socket.and_then(|socket| set_congestion(socket.as_raw_fd(), algorithm)).is_ok()
}

fn set_congestion(socket: i32, algorithm: &str) -> io::Result<()> {
    // SAFETY: the name is readable, and as long as is said.
    let answer = unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            algorithm.as_ptr().cast(),
            algorithm.len() as u32,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Payload that arrives within `watched` of the connection's acceptance, in bytes a second.
pub(crate) fn goodput(sender: Sender, shape: Shape, watched: Duration, seed: u64) -> io::Result<f64> {
    let link = Link::new(shape, [sender.stack, sender.receiver], seed)?;
    let address = SocketAddr::from((sender.receiver.address(1), PORT));
    let stop = AtomicBool::new(false);
    let ready = AtomicBool::new(false);
    let bytes = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let result = inside(link.host(1), || match sender.receiver {
                End::Kernel => kernel_receives(address, watched, &ready),
                end => we_receive(end, address, watched, &ready, sender.algorithm),
            });
            stop.store(true, Ordering::Relaxed);
            ready.store(true, Ordering::Relaxed);
            result
        });
        while !ready.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        let sent = inside(link.host(0), || match sender.stack {
            End::Kernel => kernel_sends(address, &stop, sender.algorithm),
            end => we_send(end, address, &stop, sender.algorithm),
        });
        let received = receiver.join().unwrap_or_else(|_| Err(io::Error::other("the receiver has panicked")));
        received.map_err(|error| match sent {
            Ok(()) => error,
            Err(sent) => io::Error::new(error.kind(), format!("{error}; the sender: {sent}")),
        })
    })?;
    Ok(bytes as f64 / watched.as_secs_f64())
}

fn kernel_receives(address: SocketAddr, watched: Duration, ready: &AtomicBool) -> io::Result<u64> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    ready.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < CONNECT => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    };
    let end = Instant::now() + watched;
    let mut bytes = vec![0; 256 << 10];
    let mut count = 0;
    while let left @ 1.. = end.saturating_duration_since(Instant::now()).as_micros() {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_micros(left as u64)))?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => count += read as u64,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn kernel_sends(address: SocketAddr, stop: &AtomicBool, algorithm: &str) -> io::Result<()> {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => break stream,
            Err(error) if stop.load(Ordering::Relaxed) || start.elapsed() > CONNECT => return Err(error),
            Err(_) => {}
        }
    };
    set_congestion(stream.as_raw_fd(), algorithm)?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let bytes = vec![7; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A runtime of ours at the host `at`.
fn ours(end: End, at: usize, algorithm: &str) -> io::Result<demi::Runtime> {
    let config = match end {
        End::Tap => Config::new().device(format!("tap:{TAP}")).gateway(format!("10.78.{}.1", at + 1)),
        End::Packet | End::Kernel => Config::new().device("packet:eth0"),
    };
    let config = config
        .address(format!("{}/24", end.address(at)))
        .detect_duplicates(false)
        .idle("park")
        .pool_slots(32_768)
        .huge_pages(false)
        .drain_ms(0)
        .congestion(algorithm);
    demi::Runtime::new(config)
}

fn we_receive(
    end: End,
    address: SocketAddr,
    watched: Duration,
    ready: &AtomicBool,
    algorithm: &str,
) -> io::Result<u64> {
    // What we send is acknowledgements: any algorithm of ours will do.
    let algorithm = if algorithm == "reno" { "newreno" } else { "cubic" };
    ours(end, 1, algorithm)?.block_on(async {
        let listener = demi::net::TcpListener::bind(address).await?;
        ready.store(true, Ordering::Relaxed);
        let accepted = demi::time::timeout(CONNECT, listener.accept()).await;
        let (mut stream, _) = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut count = 0;
        let read = async {
            while let Some(bytes) = stream.pop().await? {
                count += bytes.len() as u64;
            }
            io::Result::Ok(())
        };
        demi::time::timeout(watched, read).await.unwrap_or(Ok(()))?;
        Ok(count)
    })
}

fn we_send(end: End, address: SocketAddr, stop: &AtomicBool, algorithm: &str) -> io::Result<()> {
    ours(end, 0, algorithm)?.block_on(async {
        let mut stream = loop {
            match demi::net::TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(error) if stop.load(Ordering::Relaxed) => return Err(error),
                Err(_) => {}
            }
        };
        let bytes = vec![7; 64 << 10];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(written) = demi::time::timeout(Duration::from_millis(100), stream.write(&bytes)).await {
                written?;
            }
        }
        Ok(())
    })
}
