//! Messages on the wire: a header of sixteen bytes, and behind it bytes of the stream, offers, or nothing.
//!
//! ```text
//!  0      1      2            4            6            8                   12                  16
//!  ┌──────┬──────┬────────────┬────────────┬────────────┬───────────────────┬───────────────────┐
//!  │ kind │flags │ credits    │ done       │ 0          │ sequence          │ length            │   big endian
//!  └──────┴──────┴────────────┴────────────┴────────────┴───────────────────┴───────────────────┘
//! ```
//!
//! Whatever a message is for, it returns credits, tells how many offers are done with, and answers a control message: the common
//! message carries what would otherwise be three.

use super::ended::Violation;

/// Bytes in front of every message's payload.
pub const HEADER_BYTES: usize = 16;
/// Bytes of one offer in a message.
pub(super) const OFFER_BYTES: usize = 16;
/// Offers that one message makes at most: with its header, they fill a cache line.
pub(super) const OFFERS_A_MESSAGE: usize = 3;

const FIN: u8 = 1;
const HEARD: u8 = 2;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Bytes of the stream, or its end. Costs a credit.
    Data = 1,
    /// Offers of bytes of the stream. Costs a credit.
    Offer = 2,
    /// Nothing but what the header tells. Costs no credit; the next one has to wait for an answer to this one.
    Control = 3,
    /// The answer to a control message, where nothing else carries it. Costs no credit, and is not answered.
    Answer = 4,
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The stream ends behind this message.
    pub(super) fin: bool,
    /// The other side's last control message has arrived.
    pub(super) heard: bool,
    /// Messages that the other side may send beyond what it could before.
    pub(super) credits: u16,
    /// Offers of the other side's, oldest first, that are done with since the last message.
    pub(super) done: u16,
    /// Counts the messages of this direction.
    pub(super) sequence: u32,
    /// Bytes behind the header.
    pub(super) length: u32,
}

impl Header {
    pub(super) fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = if self.fin { FIN } else { 0 } | if self.heard { HEARD } else { 0 };
        bytes[2..4].copy_from_slice(&self.credits.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.done.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// The header of `message`, whose length it must tell; whether this kind of message may look like that is checked, too.
    pub(super) fn parse(message: &[u8]) -> Result<Header, Violation> {
        let bytes: &[u8; HEADER_BYTES] = message.first_chunk().ok_or(Violation::Short)?;
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = match bytes[0] {
            1 => Kind::Data,
            2 => Kind::Offer,
            3 => Kind::Control,
            4 => Kind::Answer,
            _ => return Err(Violation::Kind),
        };
        let header = Header {
            kind,
            fin: bytes[1] & FIN != 0,
            heard: bytes[1] & HEARD != 0,
            credits: two(2),
            done: two(4),
            sequence: four(8),
            length: four(12),
        };
        if bytes[1] & !(FIN | HEARD) != 0 || two(6) != 0 {
            return Err(Violation::Flags);
        }
        if message.len() - HEADER_BYTES != header.length as usize {
            return Err(Violation::Length);
        }
        match kind {
            Kind::Data if header.length == 0 && !header.fin => Err(Violation::Empty),
            Kind::Data => Ok(header),
            Kind::Offer if header.length == 0 => Err(Violation::Empty),
            Kind::Offer if !header.length.is_multiple_of(OFFER_BYTES as u32) => Err(Violation::Length),
            Kind::Offer if header.length as usize > OFFERS_A_MESSAGE * OFFER_BYTES => Err(Violation::Length),
            Kind::Offer => Ok(header),
            Kind::Control | Kind::Answer if header.fin => Err(Violation::Flags),
            Kind::Control | Kind::Answer if header.length != 0 => Err(Violation::Length),
            Kind::Answer if !header.heard => Err(Violation::Control),
            Kind::Control | Kind::Answer => Ok(header),
        }
    }
}

/// Bytes of the stream that lie in the offering side's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Where they lie.
    pub(super) address: u64,
    /// What opens that memory, and no more of it.
    pub(super) key: u32,
    /// How many they are.
    pub(super) bytes: u32,
}

impl Offer {
    pub(super) fn emit(&self) -> [u8; OFFER_BYTES] {
        let mut bytes = [0; OFFER_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.key.to_be_bytes());
        bytes[12..].copy_from_slice(&self.bytes.to_be_bytes());
        bytes
    }

    /// An offer of at most `most` bytes.
    pub(super) fn parse(bytes: &[u8; OFFER_BYTES], most: u32) -> Result<Offer, Violation> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        let offer = Offer {
            address: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            key: u32::from_be_bytes([i, j, k, l]),
            bytes: u32::from_be_bytes([m, n, o, p]),
        };
        let fits = offer.bytes > 0
            && offer.bytes <= most
            && offer.address.checked_add(u64::from(offer.bytes)).is_some();
        if fits { Ok(offer) } else { Err(Violation::OfferLength) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: Kind, length: u32) -> Header {
        Header { kind, fin: false, heard: false, credits: 3, done: 1, sequence: 77, length }
    }

    fn message(header: Header) -> Vec<u8> {
        let mut bytes = header.emit().to_vec();
        bytes.resize(HEADER_BYTES + header.length as usize, 0);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for (kind, length) in [(Kind::Data, 5), (Kind::Offer, 48), (Kind::Control, 0)] {
            assert_eq!(Header::parse(&message(header(kind, length))), Ok(header(kind, length)));
        }
        let fin = Header { fin: true, ..header(Kind::Data, 0) };
        assert_eq!(Header::parse(&message(fin)), Ok(fin));
        let answer = Header { heard: true, ..header(Kind::Answer, 0) };
        assert_eq!(Header::parse(&message(answer)), Ok(answer));
        let offer = Offer { address: 0x7f00_0000_1000, key: 0xdead_beef, bytes: 65_536 };
        assert_eq!(Offer::parse(&offer.emit(), 65_536), Ok(offer));
    }

    #[test]
    fn lies_are_told_apart() {
        let parse = |header: Header| Header::parse(&message(header));
        assert_eq!(Header::parse(&[1; 15]), Err(Violation::Short));
        assert_eq!(parse(header(Kind::Data, 0)), Err(Violation::Empty));
        assert_eq!(parse(header(Kind::Offer, 0)), Err(Violation::Empty));
        assert_eq!(parse(header(Kind::Offer, 15)), Err(Violation::Length));
        assert_eq!(parse(header(Kind::Offer, 64)), Err(Violation::Length));
        assert_eq!(parse(header(Kind::Control, 1)), Err(Violation::Length));
        assert_eq!(parse(Header { fin: true, ..header(Kind::Control, 0) }), Err(Violation::Flags));
        assert_eq!(parse(header(Kind::Answer, 0)), Err(Violation::Control));
        let mut bytes = message(header(Kind::Data, 9));
        bytes.pop();
        assert_eq!(Header::parse(&bytes), Err(Violation::Length));
        for (at, value, what) in [(0, 5, Violation::Kind), (1, 4, Violation::Flags), (7, 1, Violation::Flags)]
        {
            let mut bytes = message(header(Kind::Data, 9));
            bytes[at] = value;
            assert_eq!(Header::parse(&bytes), Err(what));
        }
    }

    #[test]
    fn offers_of_nothing_of_too_much_and_beyond_the_last_address_are_refused() {
        let refused = |offer: Offer| Offer::parse(&offer.emit(), 4096) == Err(Violation::OfferLength);
        assert!(refused(Offer { address: 0, key: 0, bytes: 0 }));
        assert!(refused(Offer { address: 0, key: 0, bytes: 4097 }));
        assert!(refused(Offer { address: u64::MAX - 10, key: 0, bytes: 11 }));
        assert!(!refused(Offer { address: u64::MAX - 11, key: 0, bytes: 11 }));
    }

    proptest! {
        #[test]
        fn a_header_that_is_read_is_the_one_that_would_be_written(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            tame in any::<bool>(),
        ) {
            if tame && bytes.len() >= HEADER_BYTES {
                bytes[0] %= 5;
                bytes[1] &= 3;
                bytes[6..8].fill(0);
                let length = (bytes.len() - HEADER_BYTES) as u32;
                bytes[12..16].copy_from_slice(&length.to_be_bytes());
            }
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(&header.emit()[..], &bytes[..HEADER_BYTES]);
            }
        }
    }
}
