//! Packet memory: one heap for the device and the application.
//!
//! A [`Pool`] is a region of memory cut into fixed *slots*. Each slot begins with its own header, so a [`Buf`] made from a
//! received frame is pointer arithmetic:
//!
//! ```text
//!  slot ─► ┌────────────┬──────────────┬───────────────────────────┬───────────┐
//!          │ SlotHeader │  headroom    │  what the Buf shows       │ tailroom  │
//!          │  64 bytes  │  192 bytes   │                           │           │
//!          └────────────┴──────────────┴───────────────────────────┴───────────┘
//!                       ▲ data                ▲ data + offset        len
//! ```
//!
//! ## Who may touch what
//! 1. A slot is *free* (on its pool's free list) or *out*: shown by one [`BufMut`], or by `refs ≥ 1` [`Buf`]s.
//! 2. A `BufMut` is the only view of its slot, and may write any byte of its data area.
//! 3. A `Buf` reads only its own bytes. A byte of a shared slot is written only through [`Buf::front_mut`], which
//!    requires `refs == 1`, and gives only bytes outside the view it was called on.
//! 4. Every byte of every data area is initialised from the start (fresh pages are zero), and stays so.
//! 5. The count is not atomic, so nothing here is `Send`. What crosses threads is a copy.
//! 6. A pool's memory lives until its last handle and its last outstanding slot are gone, in whichever order.
//!
//! Exhaustion is `None`, never a panic, and [`Pool::poll_alloc`] waits for a slot.

mod buf;
#[cfg(feature = "dpdk")]
pub(crate) mod home;
#[cfg(any(feature = "dpdk", feature = "xdp"))]
pub(crate) mod lend;
mod pool;
mod prefetch;
mod region;
mod sum;
#[cfg(feature = "xdp")]
pub(crate) mod umem;

pub use buf::{Buf, BufMut, RawSlot};
pub use pool::{Pool, PoolConfig, PoolStats};
pub use prefetch::{prefetch, prefetch_lines};
pub use sum::sum;

/// Bytes kept free in front of received data and of buffers made for sending: enough for every header a stack prepends
/// (virtio 12, Ethernet 14, VLAN 4, IPv6 40, TCP 60) with room to spare.
pub const HEADROOM: usize = 192;

/// Bytes of the header that each slot begins with.
pub const SLOT_HEADER: usize = 64;
