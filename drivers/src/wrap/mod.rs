//! Devices around devices: what passes through them is written down, or harmed.

pub mod fault;
pub mod pcap;
