//! What both ends say before the first message: the hello, in rdma_cm's private data, and the refusal of a stranger's.
//!
//! ```text
//!  0        4  5  6        8        10       12       16       20       24       28       32
//!  ┌────────┬──┬──┬────────┬────────┬────────┬────────┬────────┬────────┬────────┬────────┐
//!  │ "demi" │v.│≥ │features│credits │offers  │message │ offer  │ inline │ 0      │ 0      │   big endian
//!  └────────┴──┴──┴────────┴────────┴────────┴─bytes──┴─bytes──┴─bytes──┴────────┴────────┘
//! ```
//!
//! Connect requests over rdma_cm's TCP port space carry 56 bytes of private data over InfiniBand and RoCE (the IP addresses take
//! 36 of the 92 there are), and 512 over iWARP; accepting and rejecting carry more. Adapters hand the whole area up, padded with
//! zeros, so bytes behind the hello mean nothing.

use std::fmt;
use std::io;

use super::message::HEADER_BYTES;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 32;
/// Bytes of a rejection.
pub const REJECT_BYTES: usize = 8;
/// The version of the protocol that this code speaks.
pub const VERSION: u8 = 1;
/// The oldest version that it still speaks.
pub(super) const LEAST_VERSION: u8 = 1;
/// The fewest credits that a side grants: one message on its way while another is being read.
pub const LEAST_CREDITS: u16 = 2;
/// The shortest limit of a message that a side may set.
pub const LEAST_MESSAGE_BYTES: u32 = 128;

const MAGIC: [u8; 4] = *b"demi";
const REJECT_MAGIC: [u8; 4] = *b"demr";

/// Bit of [`Hello::features`]: this side reads what it is offered (rendezvous).
pub const READS_OFFERS: u16 = 1;

/// What one side is, and grants the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest version that it speaks.
    pub version: u8,
    /// The oldest version that it speaks.
    pub least_version: u8,
    /// What it can do beyond the least; unknown bits mean nothing to the other side.
    pub features: u16,
    /// Messages that the other side may send before it is granted more.
    pub credits: u16,
    /// Offers that the other side may have open at a time.
    pub offers: u16,
    /// The longest message that it takes, header included: its receives are that long.
    pub message_bytes: u32,
    /// The longest offer that it takes.
    pub offer_bytes: u32,
    /// What it sends inline, for the other side's statistics.
    pub inline_bytes: u32,
}

/// Why a hello was refused. What a rejection carries, so that the other side can say it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The other end does not speak this protocol.
    Stranger = 1,
    /// The two ends speak no common version.
    Version = 2,
    /// Limits that nobody can work with.
    Limits = 3,
    /// The listener's queue is full, or there is no memory for another connection.
    Busy = 4,
    /// Nobody listens there any more.
    Closed = 5,
}

impl Refusal {
    /// What an application sees when its connection was refused, by this side or by the other.
    pub fn error(self) -> io::Error {
        io::Error::new(
            match self {
                Refusal::Stranger | Refusal::Version | Refusal::Limits => io::ErrorKind::ConnectionAborted,
                Refusal::Busy | Refusal::Closed => io::ErrorKind::ConnectionRefused,
            },
            self.to_string(),
        )
    }

    /// The rejection's private data.
    pub fn emit(self) -> [u8; REJECT_BYTES] {
        let mut bytes = [0; REJECT_BYTES];
        bytes[..4].copy_from_slice(&REJECT_MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self as u8;
        bytes
    }

    /// What a rejection's private data says; `None` when it is not this protocol's: then nobody listened.
    pub fn parse(bytes: &[u8]) -> Option<Refusal> {
        let bytes: &[u8; REJECT_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != REJECT_MAGIC {
            return None;
        }
        match bytes[5] {
            1 => Some(Refusal::Stranger),
            2 => Some(Refusal::Version),
            3 => Some(Refusal::Limits),
            4 => Some(Refusal::Busy),
            5 => Some(Refusal::Closed),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Stranger => "the other end of the RDMA connection does not speak demi's protocol",
            Refusal::Version => {
                "the two ends of the RDMA connection speak no common version of demi's protocol: update the older one"
            }
            Refusal::Limits => "the other end of the RDMA connection announced limits that nobody can work with",
            Refusal::Busy => "connection refused: the RDMA listener's backlog or its memory is full",
            Refusal::Closed => "connection refused: the RDMA listener is closed",
        })
    }
}

impl Hello {
    /// The private data of a connect request, or of its acceptance.
    pub fn emit(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version;
        bytes[5] = self.least_version;
        bytes[6..8].copy_from_slice(&self.features.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.credits.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.offers.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.message_bytes.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.offer_bytes.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.inline_bytes.to_be_bytes());
        bytes
    }

    /// The hello in private data, if this side can talk to whoever sent it.
    ///
    /// # Errors
    /// Why it cannot: what [`Refusal::emit`] tells the other side.
    pub fn parse(bytes: &[u8]) -> Result<Hello, Refusal> {
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(Refusal::Stranger)?;
        if *magic != MAGIC {
            return Err(Refusal::Stranger);
        }
        // The versions come first, so that a later layout cannot be misread as this one.
        let &[version, least_version, ..] = rest else { return Err(Refusal::Stranger) };
        if least_version > version || least_version > VERSION || version < LEAST_VERSION {
            return Err(Refusal::Version);
        }
        let bytes: &[u8; HELLO_BYTES] = bytes.first_chunk().ok_or(Refusal::Limits)?;
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let hello = Hello {
            version,
            least_version,
            features: two(6),
            credits: two(8),
            offers: two(10),
            message_bytes: four(12),
            offer_bytes: four(16),
            inline_bytes: four(20),
        };
        let reads = hello.features & READS_OFFERS != 0;
        let usable = hello.credits >= LEAST_CREDITS
            && hello.message_bytes >= LEAST_MESSAGE_BYTES
            && hello.message_bytes <= i32::MAX as u32
            && (!reads || (hello.offers > 0 && hello.offer_bytes > 0));
        if usable { Ok(hello) } else { Err(Refusal::Limits) }
    }

    /// Bytes of the stream that one message to this side carries at most.
    pub fn payload_bytes(&self) -> usize {
        (self.message_bytes as usize).saturating_sub(HEADER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            least_version: LEAST_VERSION,
            features: READS_OFFERS,
            credits: 32,
            offers: 8,
            message_bytes: 8192,
            offer_bytes: 1 << 20,
            inline_bytes: 128,
        }
    }

    #[test]
    fn a_hello_is_read_as_it_was_written_and_fits_the_smallest_private_data() {
        let mut bytes = hello().emit().to_vec();
        assert!(bytes.len() <= 56);
        assert_eq!(Hello::parse(&bytes), Ok(hello()));
        bytes.resize(196, 0);
        assert_eq!(Hello::parse(&bytes), Ok(hello()), "the padding of InfiniBand's messages");
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(Hello::parse(&[]), Err(Refusal::Stranger));
        assert_eq!(Hello::parse(b"dem"), Err(Refusal::Stranger));
        assert_eq!(Hello::parse(b"demi"), Err(Refusal::Stranger));
        assert_eq!(Hello::parse(&[0; 56]), Err(Refusal::Stranger));
    }

    #[test]
    fn a_newer_version_that_still_speaks_ours_is_welcome_and_one_that_does_not_is_refused() {
        let newer = Hello { version: 9, features: 0xff01, ..hello() };
        assert_eq!(Hello::parse(&newer.emit()), Ok(newer));
        let future = Hello { version: 9, least_version: VERSION + 1, ..hello() };
        assert_eq!(Hello::parse(&future.emit()[..6]), Err(Refusal::Version), "whatever its layout");
        let past = Hello { version: 0, least_version: 0, ..hello() };
        assert_eq!(Hello::parse(&past.emit()), Err(Refusal::Version));
        let crossed = Hello { version: 1, least_version: 2, ..hello() };
        assert_eq!(Hello::parse(&crossed.emit()), Err(Refusal::Version));
    }

    #[test]
    fn limits_that_nobody_can_work_with_are_refused() {
        for bad in [
            Hello { credits: 1, ..hello() },
            Hello { message_bytes: 16, ..hello() },
            Hello { message_bytes: u32::MAX, ..hello() },
            Hello { offers: 0, ..hello() },
            Hello { offer_bytes: 0, ..hello() },
        ] {
            assert_eq!(Hello::parse(&bad.emit()), Err(Refusal::Limits), "{bad:?}");
        }
        assert_eq!(Hello::parse(&hello().emit()[..31]), Err(Refusal::Limits), "cut off");
        let without = Hello { features: 0, offers: 0, offer_bytes: 0, ..hello() };
        assert_eq!(Hello::parse(&without.emit()), Ok(without));
    }

    #[test]
    fn a_rejection_says_why_and_any_other_private_data_says_nothing() {
        let all = [Refusal::Stranger, Refusal::Version, Refusal::Limits, Refusal::Busy, Refusal::Closed];
        for refusal in all {
            assert_eq!(Refusal::parse(&refusal.emit()), Some(refusal));
            assert!(!refusal.error().to_string().contains('\n'));
        }
        assert_eq!(Refusal::parse(&[]), None);
        assert_eq!(Refusal::parse(&[0; 148]), None);
        assert_eq!(Refusal::parse(&hello().emit()), None);
    }
}
