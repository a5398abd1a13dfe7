//! `xdp:IF[@QUEUE]`: a queue of a network interface, through AF_XDP: the driver puts frames into our memory, and the kernel keeps the
//! interface and everything else that arrives at it.
//!
//! A frame is received into a slot of the pool and is a [`Buf`](crate::Buf) by arithmetic; what is sent goes out of the slot it lies in,
//! which stays out until the kernel says that it is done. The interface's driver moves the bytes itself where it can
//! (*zero-copy*); else the kernel copies them once each way. The program that steers frames runs in the driver (*native*), or, where that
//! cannot be, before the kernel's stack (*generic*). What it came to be, [`Xdp::mode`] says.
//!
//! ## What is ours
//! The program looks at destinations: our IP addresses, our IPv6 addresses' and our joined groups, ARP and neighbour discovery about our
//! addresses, all at our Ethernet address (or to a group) and in our VLAN. That is ours alone; the kernel never sees it,
//! so nothing answers in our place. Everything else is the kernel's alone, as without us. A frame cannot go to both, which
//! leaves three for which somebody has to go without:
//!
//! - **DHCP's answers** (UDP to port 68) come to us while we have no IPv4 address and are to lease one. A kernel that leases
//!   one for itself at the same time may have to ask twice.
//! - **Router advertisements** come to us if we configure ourselves. A kernel that lives on them should be given its routes by
//!   hand, or we our `address`.
//! - **Broadcasts** are the kernel's, and so is a group until a socket of ours joins it.
//!
//! ## Queues
//! A socket has one queue of the interface: frames that the NIC puts into another one go to the kernel. So either let the
//! interface have as many queues as there are cores that drive them (`ethtool -L IF combined 1`), or have the NIC put our flows
//! where we are (`ethtool -N IF flow-type tcp4 dst-ip … action QUEUE`). All queues of an interface share one program and one map of
//! sockets: whichever thread opens one first attaches it, and the last one to go takes it off.
//!
//! ## Links within a machine
//! A kernel that sends to us over veth leaves checksums half done, and AF_XDP does not say so. On interfaces without hardware
//! behind them, a field that holds the pseudo header's sum and nothing else is taken for that. With native XDP, veth carries frames
//! of MTU 3,500 at most to one slot; larger ones come in several.
//!
//! ## Memory
//! The pool is the kernel's to read and write as long as the socket is open. When a zero-copy socket is closed, the driver may be
//! a moment longer at it than closing takes, so slots that it had are not used again, nor is their memory unmapped.

mod asm;
mod bpf;
mod device;
mod program;
mod ring;
mod socket;
mod steering;
mod umem;

use std::net::IpAddr;

pub use device::Xdp;
pub use steering::Verdict;

use crate::mem::PoolConfig;
use crate::spread::Spread;

/// Which queue of which interface, how, and how much memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// The interface's name.
    pub interface: String,
    /// Its queue, counted from 0.
    pub queue: u32,
    /// Our Ethernet address; by default the interface's own.
    pub mac: Option<[u8; 6]>,
    /// Only frames of this VLAN are ours; `None`: only frames without a tag.
    pub vlan: Option<u16>,
    /// Addresses and groups that are ours from the start; others come with
    /// [`Device::set_addresses`](crate::Device::set_addresses).
    pub addresses: Vec<IpAddr>,
    /// The stack leases an IPv4 address: what DHCP servers answer is ours until it has one.
    pub dhcp: bool,
    /// The stack configures itself by what routers advertise: their advertisements are ours.
    pub router_discovery: bool,
    /// Frames of the rings that are received into: a power of two.
    pub rx_frames: u32,
    /// Frames of the rings that are sent from: a power of two.
    pub tx_frames: u32,
    /// Run the program in the driver, if that can be.
    pub native: bool,
    /// Have the driver move the bytes without a copy, if it can.
    pub zero_copy: bool,
    /// The driver looks for frames only when we ask it to, for so many microseconds at most (`SO_PREFER_BUSY_POLL`): no interrupts
    /// beside us on this core. 0: it does so by itself. Useful with `napi_defer_hard_irqs` and `gro_flush_timeout` set for
    /// the interface, and with a loop that spins.
    pub busy_poll_us: u32,
    /// The packet memory. Slots are 2,048 or 4,096 bytes, and large ones a multiple of that.
    pub pool: PoolConfig,
    /// Which of several queues this is, each driven by another core; `None`: the only one.
    pub spread: Option<Spread>,
}

impl XdpConfig {
    /// Queue 0 of the interface `name`, with rings of 2,048 frames.
    pub fn new(name: impl Into<String>) -> XdpConfig {
        XdpConfig {
            interface: name.into(),
            queue: 0,
            mac: None,
            vlan: None,
            addresses: Vec::new(),
            dhcp: false,
            router_discovery: false,
            rx_frames: 2048,
            tx_frames: 2048,
            native: true,
            zero_copy: true,
            busy_poll_us: 0,
            pool: PoolConfig::default(),
            spread: None,
        }
    }
}

/// How a queue came to be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mode {
    /// The program runs in the driver.
    pub native: bool,
    /// The driver moves the bytes without a copy.
    pub zero_copy: bool,
    /// Frames may be larger than a slot.
    pub multi_buffer: bool,
}
