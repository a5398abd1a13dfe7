//! The example programs over RDMA, unchanged but for `DEMI_DEVICE`, in a guest whose kernel has the devices: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

mod kv;
mod programs;
mod support;
