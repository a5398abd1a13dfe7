//! Private parsers, for the fuzz targets alone: only built under `--cfg fuzzing`, and no part of the interface.

use crate::mem::{Pool, PoolConfig};
use crate::{packet, vnet};

/// Reads a virtio header and, if it says that the frame holds UDP datagrams, cuts them out of it.
pub fn vnet(header: &[u8; vnet::SHORT_BYTES], frame: &[u8]) -> Vec<Vec<u8>> {
    let vnet::Gso::Udp { bytes, header_at } = vnet::parse(header).gso else { return Vec::new() };
    let Ok(pool) = Pool::new(&PoolConfig::small(64)) else { return Vec::new() };
    let mut frames = Vec::new();
    let count = packet::split::datagrams(frame, header_at.into(), bytes.into(), &pool, &mut frames);
    assert_eq!(count.unwrap_or(0), frames.len());
    frames.iter().map(|frame| frame.buf.to_vec()).collect()
}
