//! # demi-dpdk-sys: a thin binding to DPDK
//!
//! What demi's `dpdk` device calls, and nothing else. DPDK's datapath is inline functions in headers, and the layout of its
//! structures changes with each release, so everything goes through a small shim in C (`shim/`), compiled against
//! the installation's own headers: only names that DPDK publishes, the same from 22.11 on. This crate owns no
//! state beyond the shim's captured log, and makes nothing safe: that is the device's part.
//!
//! DPDK is found with pkg-config (`libdpdk`). Shared libraries by default; with the feature `static`, or `DEMI_DPDK_STATIC`
//! set when it is built, every archive of the installation is linked into the program.

// Names are C's, and what bindgen writes is not ours to polish.
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// The release this was built against, as pkg-config names it: `22.11.11`.
pub const VERSION: &str = env!("DEMI_DPDK_VERSION");
