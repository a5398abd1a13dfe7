//! Receive-side scaling: which queue a NIC puts a flow's frames in.
//!
//! Read back from the port once it is started, so that it is what the hardware does and not what was asked of it. Owns the key and the
//! table; computes the hash of a flow by them.

use demi_dpdk_sys as sys;

/// The longest key, and the largest table, that any driver has.
const KEY_ROOM: usize = 64;
const TABLE_ROOM: usize = 4096;

/// How a port chooses the queue of a received frame: Toeplitz over addresses and ports, and a table that the hash is looked up in.
///
/// The key is a symmetric one where the port lets it be set: both directions of a flow then have the same hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    key: Vec<u8>,
    table: Vec<u16>,
}

impl Rss {
    /// What a started port has; `None`: it does not say.
    pub(super) fn of(port: u16) -> Option<Rss> {
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
        (key.len() > 4 && table.len().is_power_of_two()).then_some(Rss { key, table })
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The Toeplitz hash of `input`: source address, destination address, source port, destination port, in network byte order.
    pub fn hash(&self, input: &[u8]) -> u32 {
        let mut hash = 0;
        for (at, byte) in input.iter().enumerate() {
            for bit in 0..8 {
                if byte & (0x80 >> bit) != 0 {
                    hash ^= self.window(at * 8 + bit);
                }
            }
        }
        hash
    }

    /// The 32 bits of the key from bit `first` on; zeros behind its end.
    fn window(&self, first: usize) -> u32 {
        let byte = |at: usize| u64::from(self.key.get(at).copied().unwrap_or(0));
        let start = first / 8;
        let five = (0..5).fold(0, |bits, at| bits << 8 | byte(start + at));
        (five >> (8 - first % 8)) as u32
    }

    /// The queue that a frame with this hash is received by.
    pub fn queue(&self, hash: u32) -> u16 {
        // Not empty: a power of two.
        self.table.get(hash as usize & (self.table.len() - 1)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microsoft's key and examples, "Verifying the RSS hash calculation".
    #[test]
    fn dpdk_hashes_as_the_published_examples_say() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let rss = Rss { key: key.to_vec(), table: vec![0, 1, 2, 3] };
        // 66.9.149.187:2794 to 161.142.100.80:1766, and 199.92.111.2:14230 to 65.69.140.83:4739.
        let flows = [
            ([66, 9, 149, 187, 161, 142, 100, 80], [2794u16, 1766], 0x51cc_c178),
            ([199, 92, 111, 2, 65, 69, 140, 83], [14230, 4739], 0xc626_b0ea),
        ];
        for (addresses, ports, hash) in flows {
            let input = [&addresses[..], &ports[0].to_be_bytes(), &ports[1].to_be_bytes()].concat();
            assert_eq!(rss.hash(&input), hash);
            assert_eq!(rss.queue(hash), (hash & 3) as u16);
            assert_eq!(rss.hash(&addresses), [0x323e_8fc2, 0xd718_262a][usize::from(hash == 0xc626_b0ea)]);
        }
    }

    #[test]
    fn dpdk_hashes_both_directions_alike_with_a_symmetric_key() {
        let rss = Rss { key: [0x6d, 0x5a].repeat(20), table: vec![0; 128] };
        let there = [10, 0, 0, 1, 10, 0, 0, 2, 0x1b, 0x58, 0x80, 1];
        let back = [10, 0, 0, 2, 10, 0, 0, 1, 0x80, 1, 0x1b, 0x58];
        assert_eq!(rss.hash(&there), rss.hash(&back));
    }
}
