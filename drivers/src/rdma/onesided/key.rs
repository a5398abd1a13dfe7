//! What a peer needs to know of a region: where it lies, how long it is, what opens it, and for what.

use std::io;

/// What peers may do with a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
    /// Do atomic operations on words of it.
    pub atomic: bool,
}

impl Access {
    /// Reading alone.
    pub const READ: Access = Access { read: true, write: false, atomic: false };
    /// Everything.
    pub const ALL: Access = Access { read: true, write: true, atomic: true };
}

/// The key of a region: plain numbers, to be sent to whom it is to be opened for. Whoever has them can reach the region, and
/// nothing else, until it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionKey {
    address: u64,
    bytes: u64,
    key: u32,
    access: Access,
}

/// What a checked range of a region is called in a request.
pub type Remote = (u64, u32);

impl RegionKey {
    /// Bytes of a key that is sent.
    pub const BYTES: usize = 24;

    /// The key of `bytes` bytes at `address`, which `key` opens.
    pub fn new(address: u64, bytes: u64, key: u32, access: Access) -> RegionKey {
        RegionKey { address, bytes, key, access }
    }

    /// Bytes of the region.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What it opens the region for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.address.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.key.to_be_bytes());
        bytes[20] = u8::from(self.access.read);
        bytes[21] = u8::from(self.access.write);
        bytes[22] = u8::from(self.access.atomic);
        bytes
    }

    /// A key that was received. That a peer has made it up does no harm to this side: the peer's adapter refuses what it does not know.
    ///
    /// # Errors
    /// `InvalidData` for what no key looks like.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> io::Result<RegionKey> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, read, write, atomic, reserved] =
            *bytes;
        let key = RegionKey {
            address: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            bytes: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
            key: u32::from_be_bytes([q, r, s, t]),
            access: Access { read: read == 1, write: write == 1, atomic: atomic == 1 },
        };
        let flags = read <= 1 && write <= 1 && atomic <= 1 && reserved == 0;
        if !flags || key.address.checked_add(key.bytes).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "these bytes are no key of an RDMA region",
            ));
        }
        Ok(key)
    }

    fn range(&self, offset: u64, bytes: u64) -> io::Result<Remote> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes);
        match (end, self.address.checked_add(offset)) {
            (Some(_), Some(address)) => Ok((address, self.key)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes from {offset} on: the region has {}", self.bytes),
            )),
        }
    }

    fn allowed(allowed: bool, what: &str) -> io::Result<()> {
        if allowed {
            return Ok(());
        }
        let text = format!("the region is not open for {what}: its owner has to register it so");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    /// Where a READ of `bytes` from `offset` on goes.
    ///
    /// # Errors
    /// `PermissionDenied`, `InvalidInput`: found out here, since a request that an adapter refuses breaks its connection.
    pub fn to_read(&self, offset: u64, bytes: u64) -> io::Result<Remote> {
        Self::allowed(self.access.read, "reading")?;
        self.range(offset, bytes)
    }

    /// Where a WRITE goes. Errors as [`to_read`](Self::to_read).
    pub fn to_write(&self, offset: u64, bytes: u64) -> io::Result<Remote> {
        Self::allowed(self.access.write, "writing")?;
        self.range(offset, bytes)
    }

    /// Where an atomic operation goes. Errors as [`to_read`](Self::to_read); `InvalidInput` when the word is not aligned.
    pub fn to_word(&self, offset: u64) -> io::Result<Remote> {
        Self::allowed(self.access.atomic, "atomic operations")?;
        let remote = self.range(offset, 8)?;
        if !remote.0.is_multiple_of(8) {
            let text = format!("a word at {offset}: atomic operations take words at multiples of 8");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn ranges_end_within_the_region() {
        let key = RegionKey::new(4096, 100, 7, Access::ALL);
        assert_eq!(key.to_read(0, 100).unwrap(), (4096, 7));
        assert_eq!(key.to_write(90, 10).unwrap(), (4186, 7));
        assert_eq!(key.to_read(100, 0).unwrap(), (4196, 7));
        for (offset, bytes) in [(0, 101), (100, 1), (101, 0), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(
                kind(key.to_read(offset, bytes)),
                Some(io::ErrorKind::InvalidInput),
                "{offset} {bytes}"
            );
        }
    }

    #[test]
    fn words_are_aligned_and_whole() {
        let key = RegionKey::new(4096, 20, 7, Access::ALL);
        assert_eq!(key.to_word(8).unwrap(), (4104, 7));
        assert_eq!(kind(key.to_word(4)), Some(io::ErrorKind::InvalidInput));
        assert_eq!(kind(key.to_word(16)), Some(io::ErrorKind::InvalidInput), "half a word");
    }

    #[test]
    fn what_a_region_is_not_open_for_is_refused_before_it_breaks_a_connection() {
        let key = RegionKey::new(4096, 20, 7, Access::READ);
        assert!(key.to_read(0, 8).is_ok());
        assert_eq!(kind(key.to_write(0, 8)), Some(io::ErrorKind::PermissionDenied));
        assert_eq!(kind(key.to_word(0)), Some(io::ErrorKind::PermissionDenied));
        let none = RegionKey::new(4096, 20, 7, Access::default());
        assert_eq!(kind(none.to_read(0, 8)), Some(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_key_is_read_as_it_was_sent() {
        let key = RegionKey::new(0x7f00_1234_5000, 1 << 30, 0xdead_beef, Access::READ);
        assert_eq!(RegionKey::from_bytes(&key.to_bytes()).unwrap(), key);
        assert_eq!((key.len(), key.is_empty(), key.access()), (1 << 30, false, Access::READ));
    }

    proptest! {
        #[test]
        fn no_key_that_a_peer_makes_up_overflows(
            bytes in any::<[u8; RegionKey::BYTES]>(),
            tame in any::<bool>(),
            offset in any::<u64>(),
            length in any::<u64>(),
        ) {
            let mut bytes = bytes;
            if tame {
                bytes[20..].copy_from_slice(&[1, 1, 1, 0]);
            }
            if let Ok(key) = RegionKey::from_bytes(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
                if let Ok((address, _)) = key.to_read(offset, length) {
                    prop_assert!(address.checked_add(length).is_some());
                }
                let _ = (key.to_write(offset, length), key.to_word(offset));
            }
        }
    }
}
