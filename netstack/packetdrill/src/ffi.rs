//! The shared object.
