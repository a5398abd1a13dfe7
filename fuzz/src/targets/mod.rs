//! One protocol, or one seam, a file. Each has a function `run` that takes an input and panics when something is wrong.

pub mod config;
pub mod dhcp;
pub mod differential;
pub mod dns;
pub mod ethernet;
pub mod groups;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod link;
pub mod neighbors;
pub mod packetdrill;
pub mod rdma_peer;
pub mod reassembly;
pub mod stack;
pub mod tcp_options;
pub mod tcp_peer;
pub mod vnet;
