//! Receive-side scaling: which queue a NIC puts a flow's frames in.
//!
//! Read back from the port once it is started, so that it is what the hardware does and not what was asked of it. The hash itself is
//! computed by [`Spread`](crate::spread::Spread), like everybody's.

use demi_dpdk_sys as sys;

use crate::spread::Hash;

/// The longest key, and the largest table, that any driver has.
const KEY_ROOM: usize = 64;
const TABLE_ROOM: usize = 4096;
/// The shortest key that hashes IPv6 flows.
const LEAST_KEY: usize = 40;

/// How a started port chooses the queue of a received frame: Toeplitz over addresses and ports, and a table that the hash is looked up
/// in. `None`: it does not say.
pub(super) fn hash_of(port: u16) -> Option<Hash> {
    let (mut key, mut table) = (vec![0; KEY_ROOM], vec![0; TABLE_ROOM]);
    // SAFETY: the port is started, and both vectors have the room that is told.
    let (key_bytes, entries) = unsafe {
        (
            sys::demi_dpdk_port_rss_key(port, key.as_mut_ptr(), KEY_ROOM as u16),
            sys::demi_dpdk_port_rss_table(port, table.as_mut_ptr(), TABLE_ROOM as u16),
        )
    };
    key.truncate(usize::try_from(key_bytes).ok()?);
    table.truncate(usize::try_from(entries).ok()?);
    let usable = key.len() >= LEAST_KEY && table.len().is_power_of_two();
    usable.then(|| Hash::Toeplitz { key: key.into(), table: table.into() })
}
