//! The examples are programs, one a file beside this one; `cargo run --release --example NAME -- --help` tells of each. What several of
//! them share is here.

/// What the server `kv` and those who read its memory over RDMA have in common.
pub mod kv {
    #[cfg(feature = "rdma")]
    pub mod client;
    pub mod layout;
    pub mod reply;
}
