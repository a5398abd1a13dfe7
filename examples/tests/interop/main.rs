//! Interoperation with the kernel and with foreign programs, in network namespaces that each test makes for itself and
//! removes again. Run by `cargo xtask test --tier kernel`; without `DEMI_TIER=kernel`, or without root, every test says
//! `SKIP` and touches nothing.
//!
//! `support` is the laboratory: namespaces, links, loss, servers, clients. `harness` tests the laboratory itself, with
//! kernel programs at both ends. Every other module is one scenario, run over the matrix of device, IP version and loss
//! by [`matrix!`](support::matrix).

mod addressing;
mod algorithms;
#[cfg(feature = "dpdk")]
mod card;
mod datagrams;
mod echo;
mod ends;
mod harness;
mod kv;
mod mistakes;
mod names;
mod ping;
mod strangers;

mod support;
mod transfer;
mod unprivileged;
mod vanish;
