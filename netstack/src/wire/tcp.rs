//! The TCP header (RFC 9293 §3.1): a checked reader of hostile bytes, and a writer. Options are `options`'s.
//!
//! It knows where fields lie and what makes a header senseless; what a segment means is the connection's business.

mod options;

use super::checksum::{self, Sum, sum_array};
use options::kind;
pub use options::{EcnCounts, FastOpen, OptionBytes, Options, SackBlock, SackBlocks, Timestamps};

/// Bytes of a header without options.
pub const HEADER_BYTES: usize = 20;
/// Bytes of the longest header.
pub const MAX_HEADER_BYTES: usize = 60;
/// Bytes of the longest options.
pub const MAX_OPTION_BYTES: usize = 40;
/// Where the checksum lies, from the start of the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// Most SACK blocks that fit in a header.
pub const MAX_SACK_BLOCKS: usize = 4;
/// Window scale shifts beyond this are taken for it (RFC 7323 §2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

/// Bits of the header's 13th and 14th byte.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u16 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u16 = 0x02;
    /// Reset the connection.
    pub const RST: u16 = 0x04;
    /// Push: hand the data to the application.
    pub const PSH: u16 = 0x08;
    /// The acknowledgement number is meant.
    pub const ACK: u16 = 0x10;
    /// The urgent pointer is meant.
    pub const URG: u16 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u16 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u16 = 0x80;
    /// Accurate ECN (RFC 9768): on a SYN; then, with the two above, three bits that count marks.
    pub const AE: u16 = 0x100;
    /// The three bits of Accurate ECN (RFC 9768 §3.2.2).
    pub const ACE: u16 = AE | CWR | ECE;
    /// All flags there are.
    pub const ALL: u16 = 0x1ff;
}

/// Why bytes are no TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than a header has.
    Truncated,
    /// The data offset is below five words, or points behind the end.
    DataOffset,
}

/// The fixed part of a header, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sender's port.
    pub src_port: u16,
    /// Receiver's port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`flags`].
    pub flags: u16,
    /// Window, not scaled yet.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Bytes of the header, options included: 20 to 60.
    pub header_bytes: u8,
}

impl Header {
    /// Reads the header of a segment; the options are the bytes from 20 to `header_bytes`, which are there.
    ///
    /// # Errors
    /// [`Malformed`], for bytes that are no segment.
    #[inline]
    pub fn parse(segment: &[u8]) -> Result<Header, Malformed> {
        let Some(fixed) = segment.first_chunk::<HEADER_BYTES>() else { return Err(Malformed::Truncated) };
        let header_bytes = (fixed[12] >> 4) * 4;
        if usize::from(header_bytes) < HEADER_BYTES || usize::from(header_bytes) > segment.len() {
            return Err(Malformed::DataOffset);
        }
        Ok(Header {
            src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
            dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
            seq: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ack: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            flags: u16::from_be_bytes([fixed[12], fixed[13]]) & flags::ALL,
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            urgent: u16::from_be_bytes([fixed[18], fixed[19]]),
            header_bytes,
        })
    }

    /// Writes the header and `options` to the start of `to`, with a checksum of 0; answers the bytes written, which are
    /// 20 and those of the options. `header_bytes` is not looked at.
    ///
    /// `None`, with nothing written, when `to` is too short, or `options` longer than 40 bytes or no multiple of four.
    #[inline]
    pub fn emit(&self, options: &[u8], to: &mut [u8]) -> Option<usize> {
        self.emit_summed(options, to)?;
        Some(HEADER_BYTES + options.len())
    }

    /// As [`emit`](Self::emit), answering the sum of what was written: it is at hand in registers, where reading it back from
    /// memory would wait for the stores.
    #[inline]
    pub fn emit_summed(&self, options: &[u8], to: &mut [u8]) -> Option<Sum> {
        let total = HEADER_BYTES + options.len();
        if options.len() > MAX_OPTION_BYTES || !options.len().is_multiple_of(4) {
            return None;
        }
        let (fixed, rest) = to.get_mut(..total)?.split_first_chunk_mut::<HEADER_BYTES>()?;
        let ports_seq = u64::from(self.src_port) << 48 | u64::from(self.dst_port) << 32 | u64::from(self.seq);
        let ack_window = u64::from(self.ack) << 32
            | (total as u64 / 4) << 28
            | u64::from(self.flags) << 16
            | u64::from(self.window);
        fixed[0..8].copy_from_slice(&ports_seq.to_be_bytes());
        fixed[8..16].copy_from_slice(&ack_window.to_be_bytes());
        fixed[16..20].copy_from_slice(&u32::from(self.urgent).to_be_bytes());
        let sum = Sum::of_octets([ports_seq, ack_window, u64::from(self.urgent)]);
        // Timestamps alone are what all but a few segments carry: a copy of known length.
        if let (Ok(from), Some(to)) = (<&[u8; 12]>::try_from(options), rest.first_chunk_mut::<12>()) {
            *to = *from;
            return Some(sum.then(sum_array(from)));
        }
        rest.copy_from_slice(options);
        Some(sum.then(checksum::sum(options)))
    }
}

/// Bytes of a [`Plain`] header.
pub const PLAIN_BYTES: usize = 32;

/// The header that nearly all segments of a connection with timestamps have: nothing but them for options, no flag but ACK and
/// perhaps PSH. Read and written at a stroke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Source port in the upper half, destination port in the lower.
    pub ports: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The data is to be handed to the application.
    pub push: bool,
    /// Window, not scaled.
    pub window: u16,
    /// The timestamps option.
    pub timestamps: Timestamps,
}

/// `nop nop TS`, and the latter's length (RFC 7323, appendix A).
const PLAIN_OPTIONS: u32 =
    (kind::NOP as u32) << 24 | (kind::NOP as u32) << 16 | (kind::TIMESTAMPS as u32) << 8 | 10;
/// A data offset of eight words, and ACK.
const PLAIN_OFFSET_FLAGS: u16 = (PLAIN_BYTES as u16 / 4) << 12 | flags::ACK;

impl Plain {
    /// Reads the header, if it is such a one. Its checksum and urgent pointer are not looked at.
    #[inline(always)]
    pub fn parse(bytes: &[u8; PLAIN_BYTES]) -> Option<Plain> {
        let (words, _) = bytes.as_chunks::<4>();
        let &[ports, seq, ack, rest, _, options, value, echo] = words else { return None };
        let rest = u32::from_be_bytes(rest);
        let push = (rest >> 16) as u16 & flags::PSH != 0;
        let usual = (rest >> 16) as u16 & !flags::PSH == PLAIN_OFFSET_FLAGS
            && u32::from_be_bytes(options) == PLAIN_OPTIONS;
        usual.then(|| Plain {
            ports: u32::from_be_bytes(ports),
            seq: u32::from_be_bytes(seq),
            ack: u32::from_be_bytes(ack),
            push,
            window: rest as u16,
            timestamps: Timestamps { value: u32::from_be_bytes(value), echo: u32::from_be_bytes(echo) },
        })
    }

    /// Writes the header with a checksum of 0, and answers its sum.
    #[inline(always)]
    pub fn emit(&self, to: &mut [u8; PLAIN_BYTES]) -> Sum {
        let offset_flags = PLAIN_OFFSET_FLAGS | if self.push { flags::PSH } else { 0 };
        let octets = [
            u64::from(self.ports) << 32 | u64::from(self.seq),
            u64::from(self.ack) << 32 | u64::from(offset_flags) << 16 | u64::from(self.window),
            u64::from(PLAIN_OPTIONS),
            u64::from(self.timestamps.value) << 32 | u64::from(self.timestamps.echo),
        ];
        let (places, _) = to.as_chunks_mut::<8>();
        for (place, octet) in places.iter_mut().zip(octets) {
            *place = octet.to_be_bytes();
        }
        Sum::of_octets(octets)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TS: Timestamps = Timestamps { value: 0x0102_0304, echo: 0x0506_0708 };

    #[test]
    fn a_plain_header_is_the_general_one_and_nothing_else_is_plain() {
        let plain = Plain {
            ports: 0x1234_5678,
            seq: 0x9abc_def0,
            ack: 0x1122_3344,
            push: true,
            window: 0x5566,
            timestamps: TS,
        };
        let header = Header {
            src_port: 0x1234,
            dst_port: 0x5678,
            seq: plain.seq,
            ack: plain.ack,
            flags: flags::ACK | flags::PSH,
            window: plain.window,
            urgent: 0,
            header_bytes: 0,
        };
        let (mut bytes, mut general) = ([0xee; PLAIN_BYTES], [0; PLAIN_BYTES]);
        let sum = plain.emit(&mut bytes);
        let general_sum =
            header.emit_summed(OptionBytes::for_segment(Some(TS), &[]).as_slice(), &mut general).unwrap();
        assert_eq!((bytes, sum.finish()), (general, general_sum.finish()));
        assert_eq!(Plain::parse(&bytes), Some(plain));
        // Offset, any other flag, and each byte of the option's head.
        for (at, bit) in
            [(12, 4), (12, 0), (13, 0), (13, 1), (13, 2), (13, 4), (13, 5), (20, 1), (22, 0), (23, 7)]
        {
            let mut other = bytes;
            other[at] ^= 1 << bit;
            assert_eq!(Plain::parse(&other), None, "bit {bit} of byte {at}");
        }
    }

    #[test]
    fn headers_that_lie_about_their_length_are_refused() {
        let mut bytes = [0u8; 24];
        assert_eq!(Header::parse(&bytes[..19]), Err(Malformed::Truncated));
        for (words, good) in [(0, false), (4, false), (5, true), (6, true), (7, false), (15, false)] {
            bytes[12] = words << 4;
            assert_eq!(Header::parse(&bytes).is_ok(), good, "{words} words in 24 bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = Header::parse(&bytes) {
                Options::parse(&bytes[HEADER_BYTES..usize::from(header.header_bytes)]);
            }
            Options::parse(&bytes);
        }

        #[test]
        fn what_is_emitted_parses_to_itself(
            (src_port, dst_port, seq, ack) in any::<(u16, u16, u32, u32)>(),
            (flags, window, urgent) in (0..=flags::ALL, any::<u16>(), any::<u16>()),
            (value, echo, start, end) in any::<(u32, u32, u32, u32)>(),
        ) {
            let ts = Timestamps { value, echo };
            let options = OptionBytes::for_segment(Some(ts), &[SackBlock { start, end }]);
            let header_bytes = (20 + options.as_slice().len()) as u8;
            let header = Header { src_port, dst_port, seq, ack, flags, window, urgent, header_bytes };
            let mut bytes = [0xff; 60];
            prop_assert_eq!(header.emit(options.as_slice(), &mut bytes), Some(usize::from(header_bytes)));
            prop_assert_eq!(Header::parse(&bytes), Ok(header));
            let parsed = Options::parse(&bytes[20..usize::from(header_bytes)]);
            prop_assert_eq!(parsed.timestamps, Some(ts));
            prop_assert_eq!(parsed.sack.as_slice(), &[SackBlock { start, end }]);
        }
    }
}
