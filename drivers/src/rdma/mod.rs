//! RDMA: reliable connections and datagrams over verbs.
//!
//! [`Rdma`] is a transport: its streams are byte streams like TCP's, between programs that use this library, and their messages go
//! from one program's memory to the other's without either kernel. What the messages mean is [`proto`]'s affair, a pure state
//! machine; everything else here carries out what that asks for.
//!
//! ```text
//!  Rdma ── sockets, a turn of the loop ──► Stream ── proto::Session ── what to send, to read, to open
//!    │                                       │
//!    └──► Adapter ── memory, budgets ────────┴──► verbs ── queue pairs, completions, connection manager
//! ```
//!
//! **Memory.** The pool is registered once, as a whole, and received messages are slots of it. What is pushed is sent from where it lies;
//! long buffers are offered, and the peer's adapter reads them out of this memory, through a window that is open for as long as that
//! takes and shows nothing else. No key of the whole pool ever leaves this machine, unless [`RdmaConfig::trust_peers`] says so.
//!
//! **Datagrams** go by one queue pair of their own, to whom rdma_cm finds: [`proto::datagram`] is what is in front of each.
//!
//! **Queues.** One completion queue, which the loop polls, and one queue of receives for all connections. What is with the adapter never
//! exceeds the completion queue's length, however many connections there are. When the loop waits, it is for a completion channel.
//!
//! **Cores.** Each opens the device for itself; [`Fellows`] is what they share: who listens where, and connections on their way from the core
//! that hears a port to the one whose turn it is.
//!
//! **Building** takes libibverbs, librdmacm and libclang 14, and **running** a device: an adapter's (InfiniBand, RoCE, iWARP), or `rxe`
//! over any interface of the kernel's: `rdma link add rxe0 type rxe netdev eth0`.

#[cfg(feature = "rdma")]
mod abilities;
#[cfg(feature = "rdma")]
mod adapter;
#[cfg(feature = "rdma")]
mod calls;
#[cfg(feature = "rdma")]
mod connect;
#[cfg(feature = "rdma")]
mod counts;
#[cfg(feature = "rdma")]
mod datagrams;
#[cfg(feature = "rdma")]
mod fellows;
#[cfg(feature = "rdma")]
mod listener;
#[cfg(feature = "rdma")]
mod networks;
pub mod onesided;
pub mod proto;
#[cfg(feature = "rdma")]
mod stream;
#[cfg(all(test, feature = "rdma"))]
mod tests;
#[cfg(feature = "rdma")]
mod timers;
#[cfg(feature = "rdma")]
mod transport;
#[cfg(feature = "rdma")]
mod verbs;
#[cfg(feature = "rdma")]
mod wait;

#[cfg(feature = "rdma")]
mod config;

#[cfg(feature = "rdma")]
pub use config::RdmaConfig;
#[cfg(feature = "rdma")]
pub use fellows::Fellows;
#[cfg(feature = "rdma")]
pub use transport::Rdma;
