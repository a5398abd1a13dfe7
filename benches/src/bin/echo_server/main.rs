//! One TCP echo server in many hands: `--peer` says on which runtime, or on none.
//!
//! All do the same: accept, then read what there is and write it back, no delay, until the client is gone. Each as its
//! users would write it, tuned where its documentation says how. `kernel_echo` runs them beside each other.

mod ours;
mod raw_epoll;
mod raw_uring;

#[cfg(feature = "peers")]
mod peers;

use std::io;
use std::net::{SocketAddr, TcpListener};

use demi_benches::kit::{Args, Flag, machine};

/// A server: takes a listening socket and serves it for ever.
type Serve = fn(TcpListener) -> io::Result<()>;

/// Bytes a server reads at a time.
const READ_BYTES: usize = 16 * 1024;

const SERVERS: &[(&str, Serve)] = &[
    ("demi-uring", ours::uring),
    ("demi-uring-park", ours::uring_park),
    ("demi-posix", ours::posix),
    ("raw-epoll", raw_epoll::serve),
    ("raw-uring", raw_uring::serve),
    #[cfg(feature = "peers")]
    ("tokio", peers::tokio),
    #[cfg(feature = "peers")]
    ("monoio", peers::monoio),
    #[cfg(feature = "peers")]
    ("compio", peers::compio),
    #[cfg(feature = "peers")]
    ("glommio", peers::glommio),
];

const FLAGS: &[Flag] = &[Flag {
    name: "listen",
    value: Some("ADDR:PORT"),
    help: "where to listen (127.0.0.1:7000; port 0: any)",
}];

fn main() {
    let args = Args::parse("A TCP echo server on the runtime that --peer names.", FLAGS);
    if let Err(error) = run(&args) {
        eprintln!("echo_server: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> io::Result<()> {
    let known: Vec<&str> = SERVERS.iter().map(|(name, _)| *name).collect();
    let wanted = args.text("peer").unwrap_or("");
    let Some((name, serve)) = SERVERS.iter().find(|(name, _)| *name == wanted) else {
        return Err(io::Error::other(format!("--peer must be one of {}", known.join(", "))));
    };
    let address = args.text("listen").unwrap_or("127.0.0.1:7000");
    let address: SocketAddr = address.parse().map_err(|_| {
        io::Error::other(format!("--listen {address}: not an address and port (127.0.0.1:7000)"))
    })?;
    if args.has("core") {
        machine::pin(args.number("core", 0))?;
    }
    machine::raise_descriptor_limit();
    let listener = TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
    println!("listening on {} ({name})", listener.local_addr()?);
    serve(listener)
}
