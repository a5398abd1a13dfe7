//! ICMPv6 (RFC 4443): echo, and the errors that quote the packet they are about. Neighbour discovery, which it carries too, is
//! in [`ndisc`](super::ndisc).

use std::net::Ipv6Addr;

use super::checksum::{self, Sum};
use super::{Malformed, protocol};

/// Bytes of the header that all messages share.
pub const HEADER_LEN: usize = 8;

/// A message as values. Errors carry as much of the packet they are about as fits.
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
    /// Destination unreachable.
    Unreachable {
        /// Which: 0 no route, 1 prohibited, 3 address, 4 port, …
        code: u8,
        /// The packet.
        quote: &'a [u8],
    },
    /// Packet too big (RFC 8201).
    TooBig {
        /// MTU of the next hop.
        mtu: u32,
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
        /// 0 header field, 1 next header type, 2 option.
        code: u8,
        /// Byte of the packet it is about.
        pointer: u32,
        /// The packet.
        quote: &'a [u8],
    },
    /// Any other message, neighbour discovery's included.
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

/// The pseudo header's sum for a message of `len` bytes.
pub fn pseudo_header(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Sum {
    checksum::pseudo_v6(src, dst, protocol::ICMPV6, u32::try_from(len).unwrap_or(u32::MAX))
}

impl<'a> Repr<'a> {
    /// The message that `bytes`, the upper layer of an IPv6 packet from `src` to `dst`, hold.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Checksum`].
    pub fn parse(src: Ipv6Addr, dst: Ipv6Addr, bytes: &'a [u8]) -> Result<Repr<'a>, Malformed> {
        let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if !pseudo_header(src, dst, bytes.len()).then(checksum::sum(bytes)).is_valid() {
            return Err(Malformed::Checksum);
        }
        let [kind, code, _, _, a, b, c, d] = *header;
        let (ident, seq) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let word = u32::from_be_bytes([a, b, c, d]);
        Ok(match (kind, code) {
            (128, 0) => Repr::EchoRequest { ident, seq, data },
            (129, 0) => Repr::EchoReply { ident, seq, data },
            (1, code) => Repr::Unreachable { code, quote: data },
            (2, _) => Repr::TooBig { mtu: word, quote: data },
            (3, code) => Repr::TimeExceeded { code, quote: data },
            (4, code) => Repr::ParameterProblem { code, pointer: word, quote: data },
            (kind, code) => Repr::Other { kind, code, rest: [a, b, c, d], data },
        })
    }

    fn fields(&self) -> (u8, u8, [u8; 4], &'a [u8]) {
        let echo = |ident: u16, seq: u16| {
            let ([a, b], [c, d]) = (ident.to_be_bytes(), seq.to_be_bytes());
            [a, b, c, d]
        };
        match *self {
            Repr::EchoRequest { ident, seq, data } => (128, 0, echo(ident, seq), data),
            Repr::EchoReply { ident, seq, data } => (129, 0, echo(ident, seq), data),
            Repr::Unreachable { code, quote } => (1, code, [0; 4], quote),
            Repr::TooBig { mtu, quote } => (2, 0, mtu.to_be_bytes(), quote),
            Repr::TimeExceeded { code, quote } => (3, code, [0; 4], quote),
            Repr::ParameterProblem { code, pointer, quote } => (4, code, pointer.to_be_bytes(), quote),
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

    /// Whether the message tells of an error (RFC 4443 §2.1: types below 128), which must never be answered by one.
    pub fn is_error(&self) -> bool {
        self.fields().0 < 128
    }

    /// Writes the message, checksum included, at the start of `out`.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] when `out` is shorter than [`len`](Self::len).
    pub fn emit(&self, src: Ipv6Addr, dst: Ipv6Addr, out: &mut [u8]) -> Result<(), Malformed> {
        let (kind, code, rest, data) = self.fields();
        let out = out.get_mut(..HEADER_LEN + data.len()).ok_or(Malformed::NoRoom)?;
        let pseudo = pseudo_header(src, dst, out.len());
        let (header, body) = out.split_first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::NoRoom)?;
        let [a, b, c, d] = rest;
        *header = [kind, code, 0, 0, a, b, c, d];
        body.copy_from_slice(data);
        let sum = pseudo.then(checksum::sum(header)).then(checksum::sum(data)).finish();
        header[2..4].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(which in 0..6, numbers: (u16, u16, u8, u32), data: Vec<u8>) {
            let (first, second, byte, word) = numbers;
            let data = &data[..];
            let repr = match which {
                0 => Repr::EchoRequest { ident: first, seq: second, data },
                1 => Repr::EchoReply { ident: first, seq: second, data },
                2 => Repr::Unreachable { code: byte, quote: data },
                3 => Repr::TooBig { mtu: word, quote: data },
                4 => Repr::TimeExceeded { code: byte, quote: data },
                _ => Repr::ParameterProblem { code: byte, pointer: word, quote: data },
            };
            let mut bytes = vec![0; repr.len()];
            repr.emit(A, B, &mut bytes).unwrap();
            prop_assert_eq!(Repr::parse(A, B, &bytes), Ok(repr));
            let elsewhere = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
            prop_assert_eq!(Repr::parse(A, elsewhere, &bytes), Err(Malformed::Checksum));
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes: Vec<u8>) {
            if let Ok(repr) = Repr::parse(A, B, &bytes) {
                prop_assert_eq!(repr.len(), bytes.len());
            }
        }
    }
}
