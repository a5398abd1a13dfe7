//! # demi-netstack: Ethernet to TCP as a pure state machine
//!
//! Bytes, time and calls in; bytes, wakes and a deadline out. Nothing here reads a clock, does I/O, spawns, or knows the
//! executor: a [`Stack`] over a device is a [`Transport`](demi_drivers::Transport), and whoever drives it owns its time.
//!
//! ## The layers
//!
//! ```text
//!            sockets: poll_read · poll_push · poll_send_to · …            (transport)
//!      ┌───────────────┬───────────────┐
//!      │      tcp      │      udp      │   connections and sockets, found in O(1)
//!      ├───────────────┴───────┬───────┤
//!      │   ingress             │ icmp  │   frame → packet → protocol, every check in order of cost
//!      │                       └───────┤
//!      │   egress: route, neighbor, path, loopback                      protocol → packet → frame
//!      ├───────────────────────────────┤
//!      │   wire: what the bytes mean, and nothing else                  views, Reprs, checksums
//!      └───────────────────────────────┘
//!            Device: rx_burst · tx_burst                                  (demi-drivers)
//! ```
//!
//! An arrow points down only. `wire` keeps no state. `route` knows our addresses and who is next on the way to an address; `neighbor`
//! knows at which link address that one lives, or asks; `path` is both, prebuilt as the bytes of a header. `egress` owns those and
//! the queue to the device, and is what TCP and UDP send through. `ingress` takes frames apart. `stack` owns it all and gives each its
//! turn.
//!
//! ## How a frame comes in
//!
//! The device puts it into a slot of its pool and hands up a [`Buf`](demi_drivers::Buf), a view of that slot. `ingress` compares the
//! station address, reads the type, and checks the IP header's lengths, checksum, destination and source; each check that fails
//! counts and drops. The view then shows the segment alone: TCP takes it as it is and queues (a view of) its payload in the
//! connection; UDP queues the payload in the socket. The task that waits is woken; it takes the view out and reads the bytes where
//! the device put them. Nothing was copied or allocated.
//!
//! ## How a packet goes out
//!
//! A socket hands down a payload and the flow it belongs to, with the [`Path`] it remembers: one cache line that holds Ethernet and
//! IP headers as bytes, and which neighbour (and which generation of it) they were built for. One compare says whether that still
//! holds. If it does, the headers are copied into the headroom in front of the payload, lengths and checksums are written, and the
//! frame is in the queue. If somebody else still looks at the payload's slot (a retransmission while the first copy is with the
//! device, the second segment of a large buffer), headers get a slot of their own and the frame is a chain of two.
//!
//! If the path does not hold, it is built anew: `route` names the next hop, `neighbor` its link address. When that is not known the
//! packet waits there, bounded, while ARP or neighbour discovery asks; when nobody answers, the flow is told, as an ICMP error
//! would. A packet to one of our own addresses goes to a queue that `ingress` reads at the next turn.
//!
//! ## What is off the path
//!
//! A fragment goes to `reassembly`, and what it completes comes in as if it had never been cut; `fragment` cuts what UDP sends beyond
//! the MTU. `autoconf` has the addresses that are being tried out, advertised (SLAAC) or leased (`dhcp`), and tells `route` of those
//! in use; `groups` has the multicast groups and tells routers of them. Their timers, and the neighbours', share one deadline, which
//! is all that a turn looks at.
//!
//! ## What is bounded
//!
//! Every table and queue ([`Limits`], [`tcp::TcpConfig`]), the frames and timers handled in a turn, the errors sent a second. A
//! queue that is full upwards drops and counts; one that is full downwards refuses, and the socket waits. Memory that runs out is the
//! same as a full queue.
//!
//! ## What arrives is hostile
//!
//! Lengths that lie, options that never end, extension headers in chains, addresses nobody can have, checksums that are wrong: all
//! are counted in [`Stats`], none panics. What must not be guessed (ports, sequence numbers, hash keys) is keyed by
//! [`StackConfig::secret`].

#![forbid(unsafe_code)]

mod addr;
mod autoconf;
mod config;
mod dhcp;
mod egress;
mod fragment;
mod front;
mod gone;
mod groups;
mod hash;
mod icmp;
mod ingress;
mod link_out;
mod neighbor;
mod path;
mod path_mtu;
mod reassembly;
mod route;
mod segment_out;
mod shared;
mod stack;
mod stats;
pub mod tcp;
mod transport;
mod udp;
pub mod wire;

pub use addr::{Cidr, CidrError, link_local};
pub use config::{Limits, StackConfig, StaticRoute};
pub use path::Path;
pub use shared::{Lanes, Shared};
pub use stack::Stack;
pub use stats::{IcmpStats, IpStats, LinkStats, Stats, UdpStats, VersionStats};
