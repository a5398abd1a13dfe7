//! The virtio network header (virtio 1.2 §5.1.6): how TAP and AF_PACKET tell what was or is to be done to a frame.
//!
//! Owns nothing; turns [`Offload`] into the header's bytes, and the header's bytes into what a receiver may rely on.

use crate::device::{Offload, RxChecksum};

/// Bytes of the header without the number of buffers: what AF_PACKET uses.
pub(crate) const SHORT_BYTES: usize = 10;
/// Bytes of the header with the number of buffers: what we ask of TAP.
pub(crate) const BYTES: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP type when the sender's segments carry ECN's CWR.
const GSO_ECN: u8 = 0x80;

/// Largest TCP payload that fits an IP packet together with the largest headers: 65,535 less IPv4's 20 and TCP's 60.
pub(crate) const TSO_MAX_BYTES: u32 = 65_455;

/// What a received header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// State of the frame's checksum.
    pub(crate) checksum: RxChecksum,
    /// What was coalesced into the frame.
    pub(crate) gso: Gso,
}

/// What a received frame was coalesced from, and the payload bytes of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    /// Nothing: it is one packet.
    None,
    /// TCP segments.
    Tcp(u16),
    /// UDP datagrams of this size, whose header begins at byte `header_at` of the frame.
    Udp { bytes: u16, header_at: u16 },
    /// Something this crate never asked for.
    Unknown,
}

/// Reads a header, of which only the first [`SHORT_BYTES`] tell anything.
#[inline]
pub(crate) fn parse(header: &[u8; SHORT_BYTES]) -> Received {
    let [flags, kind, _, _, size_0, size_1, start_0, start_1, _, _] = *header;
    let checksum =
        if flags & (F_NEEDS_CSUM | F_DATA_VALID) == 0 { RxChecksum::Unknown } else { RxChecksum::Valid };
    let bytes = u16::from_ne_bytes([size_0, size_1]);
    let gso = match kind & !GSO_ECN {
        GSO_NONE => Gso::None,
        GSO_TCPV4 | GSO_TCPV6 => Gso::Tcp(bytes),
        GSO_UDP_L4 => Gso::Udp { bytes, header_at: u16::from_ne_bytes([start_0, start_1]) },
        _ => Gso::Unknown,
    };
    Received { checksum, gso }
}

/// The header for a frame that is to be sent, with the number of buffers.
#[inline]
pub(crate) fn emit(offload: &Offload) -> [u8; BYTES] {
    let mut header = [0; BYTES];
    header[..SHORT_BYTES].copy_from_slice(&emit_short(offload));
    header
}

/// The header for a frame that is to be sent.
#[inline]
pub(crate) fn emit_short(offload: &Offload) -> [u8; SHORT_BYTES] {
    let mut header = [0; SHORT_BYTES];
    let Some(checksum) = offload.checksum else { return header };
    header[0] = F_NEEDS_CSUM;
    header[6..8].copy_from_slice(&checksum.start.to_ne_bytes());
    header[8..10].copy_from_slice(&checksum.offset.to_ne_bytes());
    // Segments need checksums of their own, so one cannot be had without the other.
    if offload.gso_bytes > 0 {
        header[1] = if offload.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        header[2..4].copy_from_slice(&offload.header_bytes.to_ne_bytes());
        header[4..6].copy_from_slice(&offload.gso_bytes.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ChecksumOffload;

    fn short(header: [u8; BYTES]) -> [u8; SHORT_BYTES] {
        header[..SHORT_BYTES].try_into().unwrap()
    }

    #[test]
    fn what_is_asked_of_the_kernel_reads_back() {
        let checksum = Some(ChecksumOffload { start: 34, offset: 16 });
        let plain = short(emit(&Offload::default()));
        assert_eq!(plain, [0; SHORT_BYTES]);
        assert_eq!(parse(&plain), Received { checksum: RxChecksum::Unknown, gso: Gso::None });
        for (ipv6, kind) in [(false, GSO_TCPV4), (true, GSO_TCPV6)] {
            let offload = Offload { checksum, gso_bytes: 1448, header_bytes: 66, ipv6 };
            let header = short(emit(&offload));
            assert_eq!((header[0], header[1]), (F_NEEDS_CSUM, kind));
            assert_eq!(parse(&header), Received { checksum: RxChecksum::Valid, gso: Gso::Tcp(1448) });
        }
    }

    #[test]
    fn segmentation_without_a_checksum_is_not_asked_for() {
        let offload = Offload { gso_bytes: 1448, header_bytes: 66, ..Offload::default() };
        assert_eq!(emit(&offload), [0; BYTES]);
    }

    #[test]
    fn the_kernels_other_kinds_are_told_apart() {
        let mut header = [0; SHORT_BYTES];
        header[0] = F_DATA_VALID;
        header[1] = GSO_TCPV4 | GSO_ECN;
        header[4..6].copy_from_slice(&500u16.to_ne_bytes());
        assert_eq!(parse(&header), Received { checksum: RxChecksum::Valid, gso: Gso::Tcp(500) });
        header[1] = GSO_UDP_L4;
        header[6..8].copy_from_slice(&34u16.to_ne_bytes());
        assert_eq!(parse(&header).gso, Gso::Udp { bytes: 500, header_at: 34 });
        header[1] = 3;
        assert_eq!(parse(&header).gso, Gso::Unknown);
    }
}
