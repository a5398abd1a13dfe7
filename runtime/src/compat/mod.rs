//! What other crates of the ecosystem need beside the traits in [`io`](crate::io).

#[cfg(feature = "hyper")]
pub mod hyper;
mod pinned;

pub use pinned::Pinned;
