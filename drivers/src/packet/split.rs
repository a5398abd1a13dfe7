//! Cutting a burst of UDP datagrams that a kernel peer sent as one frame (UDP_SEGMENT) back into datagrams.
//!
//! A NIC would have done it; between the ends of a veth nobody does, and an AF_PACKET socket cannot ask for it.

use crate::device::{RxChecksum, RxFrame};
use crate::mem::Pool;

const UDP_HEADER_BYTES: usize = 8;

/// Cuts `frame`, whose UDP header begins at `udp_at`, into datagrams of `bytes` bytes of payload each (the last one may be
/// shorter), and appends them to `into`. Answers how many; `None`, with nothing appended, when the frame is not what it
/// says it is or no slots are free.
///
/// Their UDP checksums remain partial, and valid by the sender's word.
pub(crate) fn datagrams(
    frame: &[u8],
    udp_at: usize,
    bytes: usize,
    pool: &Pool,
    into: &mut Vec<RxFrame>,
) -> Option<usize> {
    let ip_at = match frame.get(12..14)? {
        [0x81, 0x00] => 18,
        _ => 14,
    };
    let payload_at = udp_at + UDP_HEADER_BYTES;
    if bytes == 0 || udp_at < ip_at + 20 || payload_at >= frame.len() {
        return None;
    }
    let (headers, payload) = frame.split_at(payload_at);
    let before = into.len();
    for (index, part) in payload.chunks(bytes).enumerate() {
        let Some(mut buf) = pool.alloc(headers.len() + part.len()) else {
            into.truncate(before);
            return None;
        };
        buf.put_slice(headers);
        buf.put_slice(part);
        let udp_bytes = (UDP_HEADER_BYTES + part.len()) as u16;
        buf[udp_at + 4..udp_at + 6].copy_from_slice(&udp_bytes.to_be_bytes());
        let ip = &mut buf[ip_at..udp_at];
        let ip_bytes = ip.len() as u16;
        if ip[0] >> 4 == 4 {
            set_ipv4(ip, ip_bytes.saturating_add(udp_bytes), index as u16);
        } else {
            // Payload length: everything behind the fixed 40 bytes (RFC 8200 §3).
            let payload_bytes = ip_bytes.saturating_add(udp_bytes).saturating_sub(40);
            ip[4..6].copy_from_slice(&payload_bytes.to_be_bytes());
        }
        into.push(RxFrame { buf: buf.freeze(), checksum: RxChecksum::Valid, gro_bytes: 0 });
    }
    Some(into.len() - before)
}

/// Gives an IPv4 header its total length and, counted on from the first datagram's, its identification; mends the checksum.
fn set_ipv4(ip: &mut [u8], total_bytes: u16, index: u16) {
    let identification = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index);
    ip[2..4].copy_from_slice(&total_bytes.to_be_bytes());
    ip[4..6].copy_from_slice(&identification.to_be_bytes());
    ip[10..12].fill(0);
    let sum = !crate::checksum::fold(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolConfig;

    fn ipv4_frame(payload: usize) -> Vec<u8> {
        let mut frame = vec![0xaa; 42 + payload];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..18].copy_from_slice(&[0x45, 0, 0xff, 0xff]);
        frame[18..20].copy_from_slice(&0xffffu16.to_be_bytes());
        for (at, byte) in frame[42..].iter_mut().enumerate() {
            *byte = at as u8;
        }
        frame
    }

    #[test]
    fn datagrams_get_lengths_identifications_and_checksums_of_their_own() {
        let pool = Pool::new(&PoolConfig::small(8)).unwrap();
        let frame = ipv4_frame(250);
        let mut out = Vec::new();
        assert_eq!(datagrams(&frame, 34, 100, &pool, &mut out), Some(3));
        let mut payload = Vec::new();
        for (index, (datagram, bytes)) in out.iter().zip([100u16, 100, 50]).enumerate() {
            let buf = &datagram.buf;
            assert_eq!(buf.len(), 42 + usize::from(bytes));
            assert_eq!(buf[16..18], (28 + bytes).to_be_bytes());
            assert_eq!(buf[18..20], 0xffffu16.wrapping_add(index as u16).to_be_bytes());
            assert_eq!(crate::checksum::fold(&buf[14..34]), 0xffff, "IPv4 header checksum");
            assert_eq!(buf[38..40], (8 + bytes).to_be_bytes());
            payload.extend_from_slice(&buf[42..]);
        }
        assert_eq!(payload, frame[42..]);
    }

    #[test]
    fn ipv6_datagrams_and_tagged_frames_are_cut_too() {
        let pool = Pool::new(&PoolConfig::small(8)).unwrap();
        let mut frame = vec![0; 4 + 62 + 30];
        frame[12..18].copy_from_slice(&[0x81, 0, 0, 7, 0x86, 0xdd]);
        frame[18] = 0x60;
        let mut out = Vec::new();
        assert_eq!(datagrams(&frame, 58, 20, &pool, &mut out), Some(2));
        assert_eq!((&out[0].buf[22..24], &out[1].buf[22..24]), (&[0, 28][..], &[0, 18][..]));
    }

    proptest::proptest! {
        #[test]
        fn no_frame_and_no_header_position_does_harm(
            frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            udp_at in 0..320usize,
            bytes in 0..300usize,
        ) {
            let pool = Pool::new(&PoolConfig::small(8)).unwrap();
            let mut out = Vec::new();
            let count = datagrams(&frame, udp_at, bytes, &pool, &mut out);
            proptest::prop_assert_eq!(count.unwrap_or(0), out.len());
        }
    }

    #[test]
    fn frames_that_lie_about_themselves_and_a_pool_without_room_give_nothing() {
        let pool = Pool::new(&PoolConfig::small(2)).unwrap();
        let frame = ipv4_frame(250);
        let mut out = Vec::new();
        for (frame, udp_at, bytes) in [
            (&frame[..], 34, 0),
            (&frame[..], 20, 100),
            (&frame[..], 290, 100),
            (&frame[..], usize::from(u16::MAX), 100),
            (&frame[..13], 34, 100),
            (&[][..], 0, 100),
        ] {
            assert_eq!(datagrams(frame, udp_at, bytes, &pool, &mut out), None);
        }
        assert_eq!(datagrams(&frame, 34, 100, &pool, &mut out), None, "two slots for three datagrams");
        assert!(out.is_empty());
        assert_eq!(pool.stats().slots_out, 0);
    }
}
