//! Programs on several cores, over the kernel's sockets.
//!
//! A machine may have one core only: the cores are then as many threads on it, which is what the tests are about.

mod ending;
mod serving;
mod signals;
mod spawning;
mod support;
