//! Where to damage a frame, for everything that injects faults.
//!
//! One bit at a time, since the Internet checksum is certain to find that; and neither in the Ethernet header nor in ARP,
//! which nothing protects but the Ethernet checksum, which a frame on a device has already passed.

use crate::rng::Rng;

/// Bytes of an Ethernet header; MTUs do not count it.
pub(crate) const ETHERNET_BYTES: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];

/// A bit of `frame` to flip, counted from its first; `None`: there is none to flip.
pub(crate) fn bit_to_flip(rng: &mut Rng, frame: &[u8]) -> Option<usize> {
    let bits = frame.len().checked_sub(ETHERNET_BYTES)? as u64 * 8;
    let protected = frame[12..ETHERNET_BYTES] != ARP;
    (bits > 0 && protected).then(|| ETHERNET_BYTES * 8 + rng.below(bits) as usize)
}

/// Flips the bit that [`bit_to_flip`] chose.
pub(crate) fn flip(frame: &mut [u8], bit: usize) {
    if let Some(byte) = frame.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// A length to cut a frame of `bytes` bytes to, that loses at least one byte and none of the Ethernet header; `None`: there
/// is nothing behind that.
pub(crate) fn length_to_cut_to(rng: &mut Rng, bytes: usize) -> Option<usize> {
    let behind = bytes.checked_sub(ETHERNET_BYTES).filter(|behind| *behind > 0)?;
    Some(ETHERNET_BYTES + rng.below(behind as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_arp_are_spared_and_short_frames_survive() {
        let mut rng = Rng::new(1, 1);
        let mut frame = [0u8; 20];
        for _ in 0..200 {
            let bit = bit_to_flip(&mut rng, &frame).unwrap();
            assert!((ETHERNET_BYTES * 8..20 * 8).contains(&bit));
            assert!((ETHERNET_BYTES..20).contains(&length_to_cut_to(&mut rng, 20).unwrap()));
        }
        flip(&mut frame, 15 * 8 + 3);
        assert_eq!(frame[15], 8);
        frame[12..14].copy_from_slice(&ARP);
        assert_eq!(bit_to_flip(&mut rng, &frame), None);
        for bytes in [0, 13, 14] {
            assert_eq!(bit_to_flip(&mut rng, &frame[..bytes]), None);
            assert_eq!(length_to_cut_to(&mut rng, bytes), None);
        }
    }
}
