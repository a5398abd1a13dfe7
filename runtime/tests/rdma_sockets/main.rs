//! The tests of sockets that hold for every transport, over `rdma:`, in a guest whose kernel has the devices: `cargo xtask test
//! --tier rdma`.
#![cfg(feature = "rdma")]

#[path = "../sockets/cancel.rs"]
mod cancel;
#[path = "../sockets/split.rs"]
mod split;
#[path = "../sockets/support.rs"]
mod support;
#[path = "../sockets/tcp.rs"]
mod tcp;
