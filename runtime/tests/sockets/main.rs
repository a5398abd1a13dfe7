//! Sockets over the kernel's loopback, on every transport that has one.

mod cancel;
mod compat;
mod names;
mod several;
mod split;
mod support;
mod tcp;
mod udp;
