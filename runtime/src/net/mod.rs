//! TCP and UDP sockets, with the names and signatures that tokio's users know, over whatever carries the runtime's traffic.
//!
//! What is new beside them: [`TcpStream::push`] and [`TcpStream::pop`] move [`Buf`](crate::Buf)s, views into the memory
//! that the device receives into and sends from, and copy nothing; [`UdpSocket::recv_many`] and
//! [`UdpSocket::send_many`] move bursts.
//!
//! A socket belongs to the runtime it was made in and to that runtime's thread. Dropping it closes it, wherever that
//! happens. Every async method says what becomes of its bytes when its future is dropped: unless it says otherwise, none
//! is lost.

mod addr;
mod connection;
mod dns;
mod eyeballs;
mod listener;
mod listing;
mod methods;
mod owned;
#[cfg(feature = "rdma")]
pub mod rdma;
mod socket;
mod split;
mod stream;
mod udp;
mod waiters;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use smallvec::SmallVec;

pub use addr::ToSocketAddrs;
pub(crate) use connection::Connection;
pub use demi_drivers::transport::{
    CongestionControl, DatagramOptions, FastOpenFailure, KeepAlive, Protocol, SocketEntry, SocketTimer,
    StreamOptions, TcpInfo, TcpState, TimerKind,
};
#[cfg(feature = "dns")]
pub(crate) use dns::Resolver;
#[cfg(all(fuzzing, feature = "dns"))]
pub(crate) use dns::fuzzing as dns_fuzzing;
pub use dns::lookup_host;
pub use listener::{Incoming, TcpListener};
pub use listing::{Counters, Sockets, counters, sockets};
pub use owned::{OwnedReadHalf, OwnedWriteHalf, ReuniteError};
pub use socket::TcpSocket;
pub use split::{ReadHalf, WriteHalf};
pub use stream::TcpStream;
pub use udp::{Datagram, UdpSocket};

use crate::transports::{TransportCell, TransportSet};

/// What packets carry as Time To Live or Hop Limit when nobody says otherwise (RFC 1700, and Linux).
const DEFAULT_TTL: u8 = 64;

/// The transports of the runtime that is running.
///
/// # Panics
/// Outside of a runtime.
#[track_caller]
fn current() -> Rc<TransportSet> {
    crate::context::with(|runtime| runtime.transports().clone())
}

/// Waits until the runtime's devices have the addresses that they can have for now: none is being tried out, leased, or
/// hoped for from a router any more. A runtime waits for that before it begins, for as long as its configuration says
/// (`address_wait_ms`); kernel transports have their addresses at once.
///
/// # Cancel safety
/// Cancel safe: it only looks.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// demi::net::configured().await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn configured() {
    let set = current();
    std::future::poll_fn(|cx| set.poll_configured(cx)).await;
}

/// Opens `local` on each of `cells`, on the port that the first one took; all of them or none. With a free port to choose,
/// one that the first took and another has not free is tried again.
fn bind_all<T>(
    cells: &[Rc<TransportCell>],
    local: SocketAddr,
    mut open: impl FnMut(&Rc<TransportCell>, SocketAddr) -> io::Result<(T, SocketAddr)>,
) -> io::Result<SmallVec<[T; 1]>> {
    const ATTEMPTS: usize = 16;
    let mut attempt = 0;
    'again: loop {
        attempt += 1;
        let mut members = SmallVec::new();
        let mut taken = local;
        for cell in cells {
            match open(cell, taken) {
                Ok((member, bound)) => {
                    members.push(member);
                    taken.set_port(bound.port());
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && local.port() == 0
                        && !members.is_empty()
                        && attempt < ATTEMPTS =>
                {
                    continue 'again;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(members);
    }
}

/// `error` with what was tried in front, of the same kind; unless the transport has said it already.
#[cold]
fn with_context(error: io::Error, tried: fmt::Arguments<'_>) -> io::Error {
    let (tried, said) = (tried.to_string(), error.to_string());
    if said.starts_with(&tried) {
        return error;
    }
    io::Error::new(error.kind(), format!("{tried}: {said}"))
}

fn checked_ttl(ttl: u32) -> io::Result<u8> {
    let checked = u8::try_from(ttl).ok().filter(|ttl| *ttl > 0);
    checked.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a TTL of {ttl}: it must be 1 to 255"))
    })
}

fn checked_tos(tos: u32) -> io::Result<u8> {
    u8::try_from(tos).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a type of service of {tos}: it must be 0 to 255"),
        )
    })
}

fn debug_connection(f: &mut fmt::Formatter<'_>, name: &str, connection: &Connection) -> fmt::Result {
    let mut out = f.debug_struct(name);
    if let Ok(local) = connection.local_addr() {
        out.field("local", &local);
    }
    if let Ok(peer) = connection.peer_addr() {
        out.field("peer", &peer);
    }
    out.field("device", &connection.cell().name()).finish()
}
