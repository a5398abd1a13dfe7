//! One-sided operations over RDMA: memory of this side that peers read and write by themselves, and futures that do so to theirs.
//!
//! The side that owns memory [registers](register) it and hands its [key](Region::key) out, over the connection or by any
//! other way. The side that has the key asks its connection for the [peer] at the other end, and reads, writes, swaps and adds: no
//! task of the owner runs for that.
//!
//! An operation owns its buffer until the adapter is through with it, so its future may be dropped at any time. A region that is
//! dropped can be reached no more when the drop returns; an operation with its key then breaks the connection it is made on.
//! The owner sees what peers write by looking: [`Memory::load`] and [`Memory::read_at`] copy, and show eight aligned bytes whole.
//!
//! ```no_run
//! use demi::net::{TcpListener, TcpStream, rdma};
//!
//! # demi::Runtime::new(demi::Config::new())?.block_on(async {
//! // The owner.
//! let region = rdma::register(4096, rdma::Access::READ)?;
//! region.write_at(0, b"answer")?;
//! let (mut stream, _) = TcpListener::bind("10.0.0.1:7000").await?.accept().await?;
//! stream.write_all(&region.key().to_bytes()).await?;
//!
//! // The other side.
//! let mut stream = TcpStream::connect("10.0.0.1:7000").await?;
//! let mut key = [0; rdma::RegionKey::BYTES];
//! stream.read_exact(&mut key).await?;
//! let key = rdma::RegionKey::from_bytes(&key)?;
//! let answer = rdma::peer(&stream)?.read(&key, 0, 6).await?;
//! assert_eq!(&answer[..], b"answer");
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

pub use demi_drivers::rdma::onesided::{Access, Memory, Peer, Region, RegionKey};

use super::{TcpStream, current};
use crate::transports::TransportCell;

/// Makes `bytes` bytes of memory, zeros, that peers may reach, on the runtime's first RDMA device.
///
/// # Errors
/// `Unsupported` when the runtime has no RDMA device; `InvalidInput` for no bytes; `OutOfMemory`, with the limit to raise.
///
/// # Panics
/// Outside of a runtime.
pub fn register(bytes: usize, access: Access) -> io::Result<Region> {
    register_on(current().cells(), bytes, access)
}

/// As [`register`], on the RDMA device that has the address `local`: a region is reached over connections of its own device only.
///
/// # Errors
/// As [`register`]; `AddrNotAvailable` when no device has the address.
///
/// # Panics
/// Outside of a runtime.
pub fn register_at(local: IpAddr, bytes: usize, access: Access) -> io::Result<Region> {
    register_on(current().owning(local)?, bytes, access)
}

fn register_on(cells: &[Rc<TransportCell>], bytes: usize, access: Access) -> io::Result<Region> {
    for cell in cells {
        match cell.call(|transport| transport.register(bytes, access)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            region => return region,
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the runtime has no RDMA device: give it one, as `device = \"rdma:rxe0\"`",
    ))
}

/// One-sided operations on the memory of `stream`'s peer. They end with an error when the stream is closed.
///
/// # Errors
/// `Unsupported` when the stream is not carried by RDMA; `NotConnected`.
pub fn peer(stream: &TcpStream) -> io::Result<Peer> {
    stream.writing().call(|transport, id| transport.one_sided(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::TcpListener;
    use crate::{Config, Runtime};

    #[test]
    fn transports_without_rdma_say_so_and_name_the_cure() {
        let runtime = Runtime::new(Config::new()).unwrap();
        runtime.block_on(async {
            let error = register(64, Access::ALL).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains("rdma:rxe0"), "{error}");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            assert_eq!(peer(&stream).unwrap_err().kind(), io::ErrorKind::Unsupported);
        });
    }
}
