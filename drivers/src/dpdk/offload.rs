//! What the stack asks a device to do on a frame, in DPDK's terms.
//!
//! The stack says where a checksum starts and goes, as virtio does; DPDK wants the lengths of the headers. Owns nothing.

use demi_dpdk_sys as sys;

use crate::device::Offload;

/// Where the checksum lies in a UDP header; in a TCP header it lies elsewhere.
const UDP_CHECKSUM_AT: u16 = 6;
const ETHER_BYTES: u16 = 14;
const VLAN_BYTES: u16 = 4;

/// The lengths, for a frame that begins with `head`; `None`: nothing is asked for.
#[inline]
pub(super) fn of(offload: &Offload, head: &[u8]) -> Option<sys::demi_dpdk_offload> {
    let checksum = offload.checksum?;
    let tagged = matches!(head.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
    let l2_bytes = ETHER_BYTES + if tagged { VLAN_BYTES } else { 0 };
    // The version is the first half byte of either IP header.
    let ipv6 = head.get(usize::from(l2_bytes)).is_some_and(|byte| byte >> 4 == 6);
    let segmented = offload.gso_bytes > 0;
    Some(sys::demi_dpdk_offload {
        l2_bytes,
        l3_bytes: checksum.start.saturating_sub(l2_bytes),
        l4_bytes: if segmented { offload.header_bytes.saturating_sub(checksum.start) } else { 0 },
        segment_bytes: offload.gso_bytes,
        ipv6,
        udp: checksum.offset == UDP_CHECKSUM_AT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ChecksumOffload;

    fn head(tag: bool, version: u8) -> Vec<u8> {
        let mut head = vec![0; 12];
        if tag {
            head.extend([0x81, 0, 0, 7]);
        }
        head.extend(if version == 6 { [0x86, 0xdd] } else { [8, 0] });
        head.push(version << 4 | 5);
        head
    }

    #[test]
    fn header_lengths_follow_from_where_the_checksum_starts() {
        let checksum = |start, offset| Some(ChecksumOffload { start, offset });
        let plain = Offload { checksum: checksum(34, 16), ..Offload::default() };
        let asked = of(&plain, &head(false, 4)).unwrap();
        assert_eq!((asked.l2_bytes, asked.l3_bytes, asked.segment_bytes), (14, 20, 0));
        assert_eq!((asked.ipv6, asked.udp), (false, false));
        let tagged = Offload { checksum: checksum(58, 6), ..Offload::default() };
        let asked = of(&tagged, &head(true, 6)).unwrap();
        assert_eq!((asked.l2_bytes, asked.l3_bytes, asked.ipv6, asked.udp), (18, 40, true, true));
        let large = Offload { gso_bytes: 1448, header_bytes: 86, ipv6: true, checksum: checksum(54, 16) };
        let asked = of(&large, &head(false, 6)).unwrap();
        assert_eq!((asked.l3_bytes, asked.l4_bytes, asked.segment_bytes), (40, 32, 1448));
        assert!(of(&Offload::default(), &head(false, 4)).is_none());
    }
}
