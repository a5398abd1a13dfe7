//! # demi-netstack: Ethernet to TCP as a pure state machine
//!
//! Bytes, time and calls in; bytes, wakes and a deadline out. Nothing here reads a clock, does I/O, spawns, or knows the
//! executor.

#![forbid(unsafe_code)]

pub mod tcp;
pub mod wire;
