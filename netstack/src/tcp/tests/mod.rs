//! Tests of whole connections: scripts that inject segments and expect segments, and pairs of layers over a bad network.

mod network;
mod script;

mod handshake;
mod receiving;
mod recovery;
mod sending;
mod states;
mod transfer;
mod tuning;
