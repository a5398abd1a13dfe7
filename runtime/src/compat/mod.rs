//! What other crates of the ecosystem need.

mod pinned;

pub use pinned::Pinned;
