//! Devices around devices: what passes through them is written down, harmed, or put on a VLAN.

pub mod fault;
pub mod pcap;
pub mod vlan;
