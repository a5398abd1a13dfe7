//! Buffers to fill and send, from the running runtime's memory.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use demi_drivers::{Buf, BufMut, Pool};

/// An empty buffer with room for `capacity` bytes, if one is free now.
///
/// With several devices it comes from the first one's memory; a socket's own `alloc` takes it from where that socket
/// sends, which saves a copy.
///
/// # Errors
/// `InvalidInput` when no buffer is that large; `WouldBlock` when none is free; `Unsupported` in a runtime without a
/// device.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let mut buf = demi::buf(100)?;
/// buf.put_slice(b"hello");
/// assert_eq!(&buf.freeze()[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn buf(capacity: usize) -> io::Result<BufMut> {
    with_pool(|pool| match pool.alloc_spare(capacity) {
        Some(buf) => Ok(buf),
        None if capacity > pool.max_capacity() => Err(too_large(pool, capacity)),
        None => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "no buffer is free: wait with demi::io::alloc, or raise pool_slots",
        )),
    })?
}

/// A buffer that holds a copy of `bytes`, if one is free now.
///
/// # Errors
/// As [`buf`].
///
/// # Panics
/// Outside of a runtime.
pub fn copy_of(bytes: &[u8]) -> io::Result<Buf> {
    let mut copy = buf(bytes.len())?;
    copy.put_slice(bytes);
    Ok(copy.freeze())
}

/// As [`buf`], waiting until one is free.
///
/// # Errors
/// `InvalidInput` when no buffer is that large; `Unsupported` in a runtime without a device.
///
/// # Cancel safety
/// Cancel safe: nothing is lost.
///
/// # Panics
/// Outside of a runtime.
pub async fn alloc(capacity: usize) -> io::Result<BufMut> {
    let pool = with_pool(Pool::clone)?;
    alloc_from(&pool, capacity).await
}

pub(crate) async fn alloc_from(pool: &Pool, capacity: usize) -> io::Result<BufMut> {
    poll_fn(|cx| poll_alloc_from(pool, cx, capacity)).await
}

#[inline]
pub(crate) fn poll_alloc_from(
    pool: &Pool,
    cx: &mut Context<'_>,
    capacity: usize,
) -> Poll<io::Result<BufMut>> {
    pool.poll_alloc_spare(cx, capacity).map(|buf| buf.ok_or_else(|| too_large(pool, capacity)))
}

fn with_pool<T>(f: impl FnOnce(&Pool) -> T) -> io::Result<T> {
    crate::context::with(|runtime| Ok(f(runtime.transports().pool()?)))
}

#[cold]
fn too_large(pool: &Pool, capacity: usize) -> io::Error {
    let most = pool.max_capacity();
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("a buffer of {capacity} bytes: the largest holds {most}: raise pool_large_slot_bytes"),
    )
}
