//! # demi-drivers: packet memory and devices
//!
//! The lowest layer of demi. It owns the memory that packets live in ([`Buf`], [`Pool`]), the two seams that carry
//! the whole design, and every implementation of them:
//!
//! - [`Device`] moves bursts of Ethernet frames. A protocol stack turns one into a transport.
//! - [`Transport`] moves bytes and datagrams between sockets. The kernel's sockets are one, a stack over a
//!   [`Device`] is another.
//!
//! Nothing here knows a protocol above its own frames, and nothing here knows the executor: readiness is told through
//! [`core::task::Waker`]s alone.

mod checksum;
mod damage;
pub mod device;
#[cfg(feature = "dpdk")]
pub mod dpdk;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod mem;
mod netdev;
pub mod packet;
pub mod park;
pub mod posix;
#[cfg(any(test, fuzzing, feature = "rdma"))]
pub mod rdma;
mod rng;
mod sockets;
pub mod spread;
pub mod tap;
pub mod time;
pub mod transport;
mod tx_queue;
#[cfg(feature = "uring")]
pub mod uring;
mod vnet;
pub mod wire;
pub mod wrap;
#[cfg(feature = "xdp")]
pub mod xdp;

pub use device::{Capabilities, Device, Offload, RxFrame, TxQueue};
pub use mem::{Buf, BufMut, Pool, PoolConfig};
pub use time::Instant;
pub use transport::Transport;
