//! Filling in a partial checksum, for devices that have to do themselves what a NIC's offload does.

use crate::device::ChecksumOffload;

/// Replaces the pseudo header's sum, which the field at `start + offset` holds, by the checksum of all bytes from `start`
/// on. Answers whether the frame was long enough for that; it is unchanged if not.
pub(crate) fn complete(frame: &mut [u8], at: ChecksumOffload) -> bool {
    let field = usize::from(at.start) + usize::from(at.offset);
    let Some(covered) = frame.get(usize::from(at.start)..) else { return false };
    if field + 2 > frame.len() {
        return false;
    }
    // RFC 768: a sum of zero is sent as all ones; TCP's receivers take either.
    let sum = match !fold(covered) {
        0 => 0xffff,
        sum => sum,
    };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The one's complement sum of `bytes` as big-endian 16-bit words, an odd last byte padded with zero (RFC 1071).
pub(crate) fn fold(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 = 0;
    for word in &mut words {
        sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let rest = words.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_checksum_verifies() {
        for len in [20, 21, 22, 23, 24, 1460] {
            let mut frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            // A pseudo header whose sum is 0x1234, and a checksum field 6 bytes into what is covered.
            frame[10..12].copy_from_slice(&0x1234u16.to_be_bytes());
            assert!(complete(&mut frame, ChecksumOffload { start: 4, offset: 6 }));
            let total = u32::from(fold(&frame[4..])) + 0x1234;
            assert_eq!((total >> 16) + (total & 0xffff), 0xffff, "{len} bytes");
        }
    }

    #[test]
    fn a_checksum_field_behind_the_end_changes_nothing() {
        let mut frame = [1; 10];
        assert!(!complete(&mut frame, ChecksumOffload { start: 4, offset: 5 }));
        assert!(!complete(&mut frame, ChecksumOffload { start: 11, offset: 0 }));
        assert!(!complete(&mut frame, ChecksumOffload { start: u16::MAX, offset: u16::MAX }));
        assert_eq!(frame, [1; 10]);
    }
}
