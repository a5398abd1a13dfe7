//! The RDMA transport against itself, over the kernel's own adapters at the two ends of a cable, in a guest: `cargo xtask test
//! --tier rdma`. Both ends are driven by one thread, in turns; nothing asserts on time.

mod bulk;
mod connecting;
mod cores;
mod datagrams;
mod ends;
mod hostile;
mod killed;
mod many;
mod model;
mod onesided;
mod raw_peer;
mod strangers;
mod streams;
mod support;
