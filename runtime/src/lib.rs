//! demi.
