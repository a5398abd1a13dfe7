//! ICMP for IPv4 (RFC 792, RFC 1191): echo, and the errors that quote the packet they are about.

use super::Malformed;
use super::checksum;

/// Bytes of the header that all messages share.
pub const HEADER_LEN: usize = 8;

/// A message as values. Errors carry the packet they are about: its IP header and at least 8 bytes of what it carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repr<'a> {
    /// Echo request.
    EchoRequest {
        /// Identifier.
        ident: u16,
        /// Sequence number.
        seq: u16,
        /// What is to be sent back.
        data: &'a [u8],
    },
    /// Echo reply.
    EchoReply {
        /// Identifier.
        ident: u16,
        /// Sequence number.
        seq: u16,
        /// What the request carried.
        data: &'a [u8],
    },
    /// Destination unreachable, for any reason but the next.
    Unreachable {
        /// Which: 0 network, 1 host, 2 protocol, 3 port, …
        code: u8,
        /// The packet.
        quote: &'a [u8],
    },
    /// Fragmentation needed and DF set (RFC 1191).
    TooBig {
        /// MTU of the next hop; 0 from routers older than RFC 1191.
        mtu: u16,
        /// The packet.
        quote: &'a [u8],
    },
    /// Time exceeded.
    TimeExceeded {
        /// 0 in transit, 1 in reassembly.
        code: u8,
        /// The packet.
        quote: &'a [u8],
    },
    /// Parameter problem.
    ParameterProblem {
        /// Which.
        code: u8,
        /// Byte of the packet it is about.
        pointer: u8,
        /// The packet.
        quote: &'a [u8],
    },
    /// Any other message.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// What follows the header.
        data: &'a [u8],
    },
}

impl<'a> Repr<'a> {
    /// The message that `bytes`, the payload of an IPv4 packet, hold.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Checksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Repr<'a>, Malformed> {
        let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if !checksum::sum(bytes).is_valid() {
            return Err(Malformed::Checksum);
        }
        let [kind, code, _, _, a, b, c, d] = *header;
        let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ok(match (kind, code, first, second) {
            (8, 0, ident, seq) => Repr::EchoRequest { ident, seq, data },
            (0, 0, ident, seq) => Repr::EchoReply { ident, seq, data },
            // The first of the unused bytes may give the quote's length (RFC 4884), which nothing here needs.
            (3, 4, _, mtu) => Repr::TooBig { mtu, quote: data },
            (3, code, ..) => Repr::Unreachable { code, quote: data },
            (11, code, ..) => Repr::TimeExceeded { code, quote: data },
            (12, code, ..) => Repr::ParameterProblem { code, pointer: a, quote: data },
            (kind, code, ..) => Repr::Other { kind, code, rest: [a, b, c, d], data },
        })
    }

    fn fields(&self) -> (u8, u8, [u8; 4], &'a [u8]) {
        let echo = |ident: u16, seq: u16| {
            let ([a, b], [c, d]) = (ident.to_be_bytes(), seq.to_be_bytes());
            [a, b, c, d]
        };
        match *self {
            Repr::EchoRequest { ident, seq, data } => (8, 0, echo(ident, seq), data),
            Repr::EchoReply { ident, seq, data } => (0, 0, echo(ident, seq), data),
            Repr::Unreachable { code, quote } => (3, code, [0; 4], quote),
            Repr::TooBig { mtu, quote } => (3, 4, echo(0, mtu), quote),
            Repr::TimeExceeded { code, quote } => (11, code, [0; 4], quote),
            Repr::ParameterProblem { code, pointer, quote } => (12, code, [pointer, 0, 0, 0], quote),
            Repr::Other { kind, code, rest, data } => (kind, code, rest, data),
        }
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        HEADER_LEN + self.fields().3.len()
    }

    /// Never: a message has a header at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the message, checksum included, at the start of `out`.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] when `out` is shorter than [`len`](Self::len).
    pub fn emit(&self, out: &mut [u8]) -> Result<(), Malformed> {
        let (kind, code, rest, data) = self.fields();
        let out = out.get_mut(..HEADER_LEN + data.len()).ok_or(Malformed::NoRoom)?;
        let (header, body) = out.split_first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::NoRoom)?;
        let [a, b, c, d] = rest;
        *header = [kind, code, 0, 0, a, b, c, d];
        body.copy_from_slice(data);
        let sum = checksum::sum(header).then(checksum::sum(data)).finish();
        header[2..4].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(which in 0..6, numbers: (u16, u16, u8), data: Vec<u8>) {
            let (first, second, byte) = numbers;
            let data = &data[..];
            let repr = match which {
                0 => Repr::EchoRequest { ident: first, seq: second, data },
                1 => Repr::EchoReply { ident: first, seq: second, data },
                2 => Repr::Unreachable { code: byte % 4, quote: data },
                3 => Repr::TooBig { mtu: first, quote: data },
                4 => Repr::TimeExceeded { code: byte, quote: data },
                _ => Repr::ParameterProblem { code: 0, pointer: byte, quote: data },
            };
            let mut bytes = vec![0; repr.len()];
            repr.emit(&mut bytes).unwrap();
            prop_assert_eq!(Repr::parse(&bytes), Ok(repr));
            bytes[4] ^= 0x10;
            prop_assert_eq!(Repr::parse(&bytes), Err(Malformed::Checksum));
        }

        #[test]
        fn every_message_with_a_right_checksum_parses(mut bytes in proptest::collection::vec(any::<u8>(), 8..64)) {
            bytes[2..4].fill(0);
            let sum = checksum::sum(&bytes).finish();
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(Repr::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn short_buffers_are_refused_both_ways() {
        assert_eq!(Repr::parse(&[8; 7]), Err(Malformed::Truncated));
        let echo = Repr::EchoRequest { ident: 1, seq: 1, data: b"x" };
        assert_eq!(echo.emit(&mut [0; 8]), Err(Malformed::NoRoom));
    }
}
