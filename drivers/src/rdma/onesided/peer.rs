//! A peer's memory, as the application sees it: operations as futures that own their buffers.

use core::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;

use super::key::{RegionKey, Remote};
use super::line::Line;
use super::operations::{Kind, Operation};
use crate::mem::{Buf, BufMut, Pool};

/// An operation's memory on this side: slots of the device's pool.
#[derive(Debug)]
pub enum Local {
    /// To be read into; comes back showing what was read.
    Into(BufMut),
    /// To be written from.
    From(Buf),
}

/// One-sided operations on the memory of a connection's peer.
///
/// Operations of one connection begin in the order in which their futures are first polled; a write is done with when the
/// peer's adapter has it, and a later operation sees it. An operation that the peer's adapter refuses (its region is gone) breaks
/// the connection.
///
/// **Cancel safety**: a future that is dropped leaves its buffer with the adapter until it is through; whether the operation is done is
/// then open.
#[derive(Clone, Debug)]
pub struct Peer {
    line: Rc<Line<Local>>,
    pool: Pool,
    fetches: Fetches,
}

/// Operations that bring something back, as far as a device has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetches {
    /// READs.
    pub reads: bool,
    /// Atomic operations.
    pub atomics: bool,
}

impl Peer {
    /// The peer of the connection whose operations `line` takes; `pool` is the device's, which brings into it what it can. For drivers.
    pub fn new(line: Rc<Line<Local>>, pool: &Pool, fetches: Fetches) -> Peer {
        Peer { line, pool: pool.clone(), fetches }
    }

    /// Reads `bytes` bytes of the peer's region from `offset` on.
    ///
    /// # Errors
    /// `PermissionDenied` when the region is not open for reading; `InvalidInput` beyond its end, or for more than one slot of the
    /// pool holds; `Unsupported` over iWARP, unless peers are trusted: they could write to all of the pool then; what ended the
    /// connection.
    pub fn read(
        &self,
        region: &RegionKey,
        offset: u64,
        bytes: usize,
    ) -> impl Future<Output = io::Result<Buf>> + 'static {
        let remote = region.to_read(offset, bytes as u64);
        let this = self.clone();
        async move {
            if !this.fetches.reads {
                let what = "this iWARP device reads only into memory that the peer can write to: set rdma_trust_peers, or ask for it by a message";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            let remote = remote?;
            let mut into = this.slot(bytes).await?;
            if bytes == 0 {
                return Ok(into.freeze());
            }
            // A slot may be longer than what was asked for: the operation says how much is read.
            into.truncate(0);
            let kind = Kind::Read { remote, bytes: bytes as u32 };
            Ok(this.carry_out(kind, Local::Into(into)).await?.freeze())
        }
    }

    /// Writes the bytes of `from` to the peer's region from `offset` on. They are copied first if they lie in no slot of the
    /// device's pool.
    ///
    /// # Errors
    /// `PermissionDenied` when the region is not open for writing; `InvalidInput` beyond its end; what ended the connection.
    pub fn write(
        &self,
        region: &RegionKey,
        offset: u64,
        from: Buf,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let remote = region.to_write(offset, from.len() as u64);
        let this = self.clone();
        async move {
            let remote = remote?;
            if from.is_empty() {
                return Ok(());
            }
            let mut from = from;
            if !this.pool.covers(&from) {
                let mut slot = this.slot(from.len()).await?;
                slot.put_slice(&from);
                from = slot.freeze();
            }
            let operation = Operation { kind: Kind::Write { remote }, memory: Local::From(from) };
            outcome(this.line.carry_out(operation).await).map(drop)
        }
    }

    /// Puts `new` into the word at `offset` if it is `expected`; answers what it was. One adapter's atomic operations exclude each
    /// other.
    ///
    /// # Errors
    /// `PermissionDenied` when the region is not open for atomic operations; `InvalidInput` beyond its end or for a word that is not
    /// aligned to 8; `Unsupported` where an adapter has none (iWARP); what ended the connection.
    pub fn compare_swap(
        &self,
        region: &RegionKey,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> impl Future<Output = io::Result<u64>> + 'static {
        self.atomic(region.to_word(offset), move |remote| Kind::CompareSwap { remote, expected, new })
    }

    /// Adds to the word at `offset`, wrapping; answers what it was.
    ///
    /// # Errors
    /// As [`compare_swap`](Self::compare_swap).
    pub fn fetch_add(
        &self,
        region: &RegionKey,
        offset: u64,
        add: u64,
    ) -> impl Future<Output = io::Result<u64>> + 'static {
        self.atomic(region.to_word(offset), move |remote| Kind::FetchAdd { remote, add })
    }

    fn atomic(
        &self,
        remote: io::Result<Remote>,
        kind: impl FnOnce(Remote) -> Kind + 'static,
    ) -> impl Future<Output = io::Result<u64>> + 'static {
        let this = self.clone();
        async move {
            if !this.fetches.atomics {
                let what = "this RDMA device has no atomic operations: read and write instead";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            let remote = remote?;
            let into = this.slot(size_of::<u64>()).await?;
            let was = this.carry_out(kind(remote), Local::Into(into)).await?.freeze();
            let was = was.first_chunk().copied().ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(u64::from_ne_bytes(was))
        }
    }

    async fn carry_out(&self, kind: Kind, memory: Local) -> io::Result<BufMut> {
        match outcome(self.line.carry_out(Operation { kind, memory }).await)? {
            Local::Into(read) => Ok(read),
            Local::From(_) => Err(io::Error::other("the driver has brought back another operation's memory")),
        }
    }

    async fn slot(&self, bytes: usize) -> io::Result<BufMut> {
        let slot = poll_fn(|cx| self.pool.poll_alloc(cx, bytes)).await;
        slot.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{bytes} bytes in one operation: a slot holds {}, so split it",
                    self.pool.max_capacity()
                ),
            )
        })
    }
}

fn outcome(outcome: Option<super::Outcome<Local>>) -> io::Result<Local> {
    outcome.ok_or(io::ErrorKind::NotConnected)?.into_io()
}
