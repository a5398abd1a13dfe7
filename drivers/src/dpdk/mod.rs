//! `dpdk:EAL ARGS`: any DPDK port, a NIC bound to vfio-pci or a virtual device of DPDK's.
//!
//! The arguments are DPDK's own, as its environment abstraction layer (EAL) takes them, with our words among them:
//!
//! ```text
//! dpdk:-a 0000:00:04.0                                   a NIC, by its PCI address
//! dpdk:-a 0000:00:04.0 queues=4                          four queue pairs, one a core
//! dpdk:--vdev=net_af_packet0,iface=eth1                  a kernel interface, to try things out
//! dpdk:--no-huge -m 64 --vdev=net_ring0                  a ring in memory, without any privilege
//! dpdk:--vdev=net_tap0 --vdev=net_tap1 port=net_tap1     the second of two ports
//! ```
//!
//! `port=` is a port's number or its device's name (the first that is free by default), `queues=` how many queue pairs it gets,
//! `rx_descriptors=` and `tx_descriptors=` how deep each is (1,024). What the environment variable `DEMI_DPDK_ARGS` holds is added. Unless
//! the arguments say otherwise, DPDK keeps to the core it is started on, leaves nothing in shared folders (`--in-memory`), looks at no
//! PCI device when only virtual ones are named, and logs nothing: what it has to say becomes part of an error.
//!
//! DPDK starts once a process, with the first device; further ones name the same arguments, or none, and another port.
//! A port is stopped, closed and detached with its last queue, and can be opened again.
//!
//! **Memory.** A received mbuf is a [`Buf`](crate::Buf) where it lies: the pool's slots are DPDK's mbufs (`memory.rs`). What is sent
//! goes without a copy, too, as many segments as the frame has parts.
//!
//! **Cores.** [`Dpdk::open_queues`] answers a [`DpdkQueue`] for each queue pair: send each to its thread and [`start`](DpdkQueue::start) it
//! there. Each has memory of its own, and what it shares with the others is DPDK's business. The port spreads flows over the
//! queues by a symmetric hash where it can, and [`Capabilities::spread`](crate::Capabilities::spread) says how; of a port that does not
//! say, frames may come to any queue.
//!
//! **Waiting.** A loop that does not spin sleeps until the receive queue's interrupt, where the driver has one (most NICs on vfio-pci,
//! net_tap); else it looks every 100 µs.

//!
//! **Drivers.** Run here: net_ring, net_af_packet, net_tap, net_memif, and by hand net_af_xdp, which wants huge pages (and `busy_budget=0`
//! on kernels without busy polling), and keeps its receive buffers when it is closed. DPDK's net_af_packet knows nothing of partial
//! checksums and frames larger than the MTU, which a peer on the same machine sends: `ethtool -K PEER tx off`; and it cuts
//! datagrams that arrive in fragments to its `framesz=`. [`packet`](crate::packet) has none of these limits.

mod args;
mod device;
mod eal;
mod explain;
mod mbuf;
mod memory;
mod offload;
mod port;
mod queue;
#[cfg(feature = "dpdk-rings")]
pub mod rings;
mod rss;
mod wait;

pub use device::Dpdk;
pub use memory::lost_buffers;
pub use queue::DpdkQueue;

use std::time::Duration;

use crate::mem::PoolConfig;

/// The release of DPDK that this was built against: `22.11.11`.
pub const BUILT_AGAINST: &str = demi_dpdk_sys::VERSION;

/// Which port, and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// What follows `dpdk:` in a device string.
    pub arguments: String,
    /// Our Ethernet address; by default the port's own. A port that cannot be given one receives everything.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes; by default what the port has.
    pub mtu: Option<u16>,
    /// How long opening waits for the link to come up, which a NIC may take seconds to negotiate; what is sent before is lost.
    pub link_wait: Duration,
    /// Queue pairs, unless the arguments say (`queues=`).
    pub queues: u16,
    /// Memory of each queue. Slots are as large as the MTU needs, and at least 2 KiB; the rings' own share comes on top.
    pub pool: PoolConfig,
}

impl DpdkConfig {
    /// The port that `arguments` name, with one queue.
    pub fn new(arguments: impl Into<String>) -> DpdkConfig {
        DpdkConfig {
            arguments: arguments.into(),
            mac: None,
            mtu: None,
            link_wait: Duration::from_secs(3),
            queues: 1,
            pool: PoolConfig::default(),
        }
    }
}

/// The state of a port's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Whether frames get through.
    pub up: bool,
    /// Whether both ends may send at once.
    pub full_duplex: bool,
    /// Mbit/s; 0: not known.
    pub speed_mbps: u32,
}
