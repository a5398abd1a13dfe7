//! Reading and writing: buffers, readiness, and the traits of the ecosystem on demi's streams.
//!
//! [`TcpStream`](crate::net::TcpStream) and all its halves implement `AsyncRead`, `AsyncWrite` and `AsyncBufRead` of the
//! `futures` crate, tokio's `AsyncRead` and `AsyncWrite` behind the feature `tokio`, and hyper's `rt::Read` and
//! `rt::Write` behind the feature `hyper`. Reading into a caller's memory never zeroes it first. `AsyncBufRead` shows the
//! memory that was received into, and copies nothing.

mod buffers;
mod futures;
#[cfg(feature = "hyper")]
mod hyper;
mod ready;
#[cfg(feature = "tokio")]
mod tokio;

pub use buffers::{alloc, buf, copy_of};
pub(crate) use buffers::{alloc_from, poll_alloc_from};
pub use ready::{Interest, Ready};

/// Calls a macro for each type that reads, and one for each that writes.
macro_rules! for_each_half {
    ($reads:ident, $writes:ident) => {
        $reads!([] crate::net::TcpStream);
        $reads!(['a] crate::net::ReadHalf<'a>);
        $reads!([] crate::net::OwnedReadHalf);
        $writes!([] crate::net::TcpStream);
        $writes!(['a] crate::net::WriteHalf<'a>);
        $writes!([] crate::net::OwnedWriteHalf);
    };
}
use for_each_half;
