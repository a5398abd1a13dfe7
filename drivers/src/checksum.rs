//! Filling in checksums, for devices that have to do themselves what a NIC's offload does, and for captures.

use crate::device::ChecksumOffload;
use crate::mem;

const TCP: u8 = 6;
const UDP: u8 = 17;

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

/// Computes the TCP or UDP checksum of a frame whose own may be a partial one: for captures, which show what would be on
/// the wire. Frames of anything else stay as they are, and so do fragments and packets with IPv6 extension headers.
pub(crate) fn refill(frame: &mut [u8]) {
    let Some((pseudo_sum, protocol, start, end)) = transport(frame) else { return };
    // Short frames are padded behind the packet.
    let Some(frame) = frame.get_mut(..end) else { return };
    let field = match protocol {
        TCP => 16,
        // RFC 768: zero means that the sender has computed none.
        UDP if frame.get(start + 6..start + 8) != Some(&[0, 0]) => 6,
        _ => return,
    };
    if let Some(bytes) = frame.get_mut(start + field..start + field + 2) {
        bytes.copy_from_slice(&pseudo_sum.to_be_bytes());
        complete(frame, ChecksumOffload { start: start as u16, offset: field as u16 });
    }
}

/// Whether a frame's TCP or UDP checksum is a partial one, as the kernel sends it over links within one machine: the field holds the
/// pseudo header's sum and nothing else. One in 65,536 frames with a wrong checksum looks like that, which is as many as any
/// checksum lets pass.
#[cfg(feature = "xdp")]
#[inline]
pub(crate) fn is_partial(frame: &[u8]) -> bool {
    if let Some(partial) = is_partial_v4(frame) {
        return partial;
    }
    let Some((pseudo_sum, protocol, start, _)) = transport(frame) else { return false };
    let field = match protocol {
        TCP => start + 16,
        UDP => start + 6,
        _ => return false,
    };
    frame.get(field..field + 2) == Some(&pseudo_sum.to_be_bytes())
}

/// As [`is_partial`], for TCP and UDP over IPv4 without a tag, options or fragments, which most frames are; `None` for all others.
#[cfg(feature = "xdp")]
#[inline]
fn is_partial_v4(frame: &[u8]) -> Option<bool> {
    const START: usize = 34;
    let headers: &[u8; START] = frame.first_chunk()?;
    let word = |at: usize| [headers[at], headers[at + 1], headers[at + 2], headers[at + 3]];
    let matches = |at: usize, mask: [u8; 4], wanted: [u8; 4]| {
        u32::from_ne_bytes(word(at)) & u32::from_ne_bytes(mask) == u32::from_ne_bytes(wanted)
    };
    // Ethertype, version and length of the header; no fragment.
    if !matches(12, [0xff, 0xff, 0xff, 0], [8, 0, 0x45, 0]) || !matches(18, [0, 0, 0x3f, 0xff], [0; 4]) {
        return None;
    }
    let bytes = u16::from_be_bytes([headers[16], headers[17]]).checked_sub((START - 14) as u16)?;
    if START + usize::from(bytes) > frame.len() {
        return None;
    }
    let protocol = headers[23];
    let field = match protocol {
        TCP => frame.get(START + 16..START + 18)?,
        UDP => frame.get(START + 6..START + 8)?,
        _ => return Some(false),
    };
    // A one's complement sum is the same in either order of bytes (RFC 1071 §2 B), so that all of it stays as it lies.
    let addresses = u64::from(u32::from_ne_bytes(word(26))) + u64::from(u32::from_ne_bytes(word(30)));
    let sum = addresses + u64::from(u16::from(protocol).to_be()) + u64::from(bytes.to_be());
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    Some((sum as u16).to_ne_bytes() == *field)
}

/// The pseudo header's sum, the protocol, where its header begins and where the packet ends, if a frame holds one whole.
fn transport(frame: &[u8]) -> Option<(u16, u8, usize, usize)> {
    let (kind, ip) = match frame.get(12..)? {
        [0x81, 0x00, _, _, high, low, ..] => ([*high, *low], 18),
        [high, low, ..] => ([*high, *low], 14),
        _ => return None,
    };
    let header = frame.get(ip..)?;
    let length = |at: usize| Some(usize::from(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?])));
    let (addresses, protocol, start, end) = match kind {
        [0x08, 0x00] => {
            let whole = length(6)? & 0x3fff == 0;
            let start = ip + usize::from(header.first()? & 15) * 4;
            (header.get(12..20).filter(|_| whole)?, *header.get(9)?, start, ip + length(2)?)
        }
        [0x86, 0xdd] => (header.get(8..40)?, *header.get(6)?, ip + 40, ip + 40 + length(4)?),
        _ => return None,
    };
    let bytes = end.checked_sub(start).filter(|_| end <= frame.len())? as u32;
    let mut sum = u32::from(fold(addresses)) + u32::from(protocol) + (bytes & 0xffff) + (bytes >> 16);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    Some((sum as u16, protocol, start, end))
}

/// The one's complement sum of `bytes` as big-endian 16-bit words, an odd last byte padded with zero (RFC 1071).
pub(crate) fn fold(bytes: &[u8]) -> u16 {
    let words = mem::sum(bytes);
    // A number added to itself with its halves swapped has their sum, carry included, in the upper half.
    let words = (words.wrapping_add(words.rotate_left(32)) >> 32) as u32;
    u16::from_be((words.wrapping_add(words.rotate_left(16)) >> 16) as u16)
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

    /// A UDP datagram of five bytes over IPv4.
    fn datagram(checksum: u16) -> Vec<u8> {
        let mut frame = vec![0xee; 12];
        frame.extend([8, 0, 0x45, 0, 0, 33, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 9, 0, 13]);
        frame.extend(checksum.to_be_bytes());
        frame.extend(*b"hello");
        frame
    }

    #[test]
    fn a_partial_checksum_is_replaced_by_the_right_one() {
        // Addresses, protocol, length; ports, length; the payload.
        let expected = {
            let words = [0x0a00, 1, 0x0a00, 2, 17, 13, 7, 9, 13, 0x6865, 0x6c6c, 0x6f00u32];
            let sum: u32 = words.iter().sum();
            !(((sum >> 16) + (sum & 0xffff)) as u16)
        };
        for before in [0x1234, 0xffff, expected] {
            let mut frame = datagram(before);
            refill(&mut frame);
            assert_eq!(frame, datagram(expected));
            let mut tagged = datagram(before);
            tagged.splice(12..12, [0x81, 0, 0, 7]);
            refill(&mut tagged);
            assert_eq!(tagged[44..46], expected.to_be_bytes());
            let mut padded = datagram(before);
            padded.resize(60, 0xff);
            refill(&mut padded);
            assert_eq!(padded[40..42], expected.to_be_bytes());
        }
        let mut none = datagram(0);
        refill(&mut none);
        assert_eq!(none, datagram(0), "the sender has computed none");
    }

    /// [`is_partial`] by the general way alone.
    #[cfg(feature = "xdp")]
    fn is_partial_in_general(frame: &[u8]) -> bool {
        let Some((sum, protocol, start, _)) = transport(frame) else { return false };
        let field = match protocol {
            TCP => start + 16,
            UDP => start + 6,
            _ => return false,
        };
        frame.get(field..field + 2) == Some(&sum.to_be_bytes())
    }

    #[cfg(feature = "xdp")]
    proptest::proptest! {
        #[test]
        fn a_partial_checksum_is_known_by_the_short_way_as_by_the_general_one(
            addresses: [u8; 8], tcp: bool, tagged: bool, options: bool, payload in 0usize..40, padding in 0usize..20,
            flip in proptest::option::of((0usize..60, 1u8..)),
        ) {
            let ip_words = if options { 6 } else { 5 };
            let header = if tcp { 20 } else { 8 };
            let total = (ip_words * 4 + header + payload) as u16;
            let mut frame = vec![0x02; 12];
            if tagged {
                frame.extend([0x81, 0, 0, 7]);
            }
            frame.extend([8, 0, 0x40 | ip_words as u8, 0xb9]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, if tcp { TCP } else { UDP }, 0, 0]);
            frame.extend(addresses);
            frame.extend(vec![1; ip_words * 4 - 20]);
            let start = frame.len();
            frame.extend((0..header + payload).map(|at| at as u8));
            frame.extend(vec![0; padding]);
            let (sum, ..) = transport(&frame).unwrap();
            let field = start + if tcp { 16 } else { 6 };
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            proptest::prop_assert!(is_partial(&frame));
            if let Some((at, bits)) = flip {
                let at = at % frame.len();
                frame[at] ^= bits;
                proptest::prop_assert_eq!(is_partial(&frame), is_partial_in_general(&frame));
            }
            for end in 0..frame.len() {
                proptest::prop_assert_eq!(is_partial(&frame[..end]), is_partial_in_general(&frame[..end]));
            }
        }
    }

    #[test]
    fn frames_that_hold_no_whole_packet_stay_as_they_are() {
        let mut fragment = datagram(1);
        fragment[20] = 0x20;
        let mut other = datagram(1);
        other[23] = 1;
        let short: Vec<_> = (0..42).map(|bytes| datagram(1)[..bytes].to_vec()).collect();
        for mut frame in short.into_iter().chain([fragment, other]) {
            let before = frame.clone();
            refill(&mut frame);
            assert_eq!(frame, before);
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

    proptest::proptest! {
        #[test]
        fn no_frame_does_harm(
            mut frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
            kind in 0..3usize,
        ) {
            if let Some(field) = frame.get_mut(12..14) {
                field.copy_from_slice(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00]][kind]);
            }
            let bytes = frame.len();
            refill(&mut frame);
            proptest::prop_assert_eq!(frame.len(), bytes);
        }
    }
}
