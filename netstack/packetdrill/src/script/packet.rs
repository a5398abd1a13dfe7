//! Packets as scripts write them.

use std::fmt;

use demi_netstack::wire::tcp::flags;

/// Whether a packet is given to the stack or expected from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// A packet line.
#[derive(Clone, Debug)]
pub(crate) struct PacketSpec {
    pub(crate) direction: Direction,
    pub(crate) ip: IpSpec,
    /// Source and destination port, when the script names them.
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) body: PacketBody,
}

/// What a script says of the IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpSpec {
    pub(crate) ecn: Option<Ecn>,
    /// The whole type of service or traffic class.
    pub(crate) tos: Option<u8>,
    pub(crate) ttl: Option<u8>,
    pub(crate) flow_label: Option<u32>,
}

/// ECN bits of the IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    None,
    Ect0,
    Ect1,
    Ce,
    /// ECT(0) or ECT(1).
    Ect01,
}

impl Ecn {
    /// The bits; ECT(0) where either would do.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Ecn::None => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 | Ecn::Ect01 => 2,
            Ecn::Ce => 3,
        }
    }

    pub(crate) fn matches(self, tos: u8) -> bool {
        match self {
            Ecn::Ect01 => matches!(tos & 3, 1 | 2),
            one => tos & 3 == one.bits(),
        }
    }
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum PacketBody {
    Tcp(TcpSpec),
    /// Payload bytes.
    Udp(usize),
    Icmp(IcmpSpec),
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct TcpSpec {
    pub(crate) flags: TcpFlags,
    pub(crate) seq: u32,
    pub(crate) len: usize,
    pub(crate) ack: Option<u32>,
    pub(crate) window: Option<u16>,
    pub(crate) urgent: Option<u16>,
    /// `None`: any (`<...>`).
    pub(crate) options: Option<Vec<TcpOption>>,
}

/// The flags of a TCP header: the eight of RFC 9293, and AE (RFC 9768) as bit 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpFlags(pub(crate) u16);

impl TcpFlags {
    const LETTERS: [(u16, char); 7] = [
        (flags::SYN, 'S'),
        (flags::FIN, 'F'),
        (flags::RST, 'R'),
        (flags::PSH, 'P'),
        (flags::URG, 'U'),
        (flags::ECE, 'E'),
        (flags::CWR, 'W'),
    ];

    /// Reads flags: letters, a point for ACK, a digit for the three bits AE, CWR and ECE.
    pub(crate) fn parse(text: &str) -> Result<TcpFlags, String> {
        let mut bits = 0;
        for c in text.chars() {
            bits |= match c {
                '.' => flags::ACK,
                'A' => flags::AE,
                '0'..='7' => (c as u16 - '0' as u16) << 6,
                c => match Self::LETTERS.iter().find(|(_, letter)| *letter == c) {
                    Some(&(bit, _)) => bit,
                    None => {
                        return Err(format!("'{c}' is no TCP flag: expected some of S F R P . U E W A 0-7"));
                    }
                },
            };
        }
        Ok(TcpFlags(bits))
    }

    pub(crate) fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        for (bit, letter) in Self::LETTERS {
            if self.has(bit) {
                write!(f, "{letter}")?;
            }
        }
        if self.has(flags::AE) {
            f.write_str("A")?;
        }
        if self.has(flags::ACK) { f.write_str(".") } else { Ok(()) }
    }
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TcpOption {
    Eol,
    Nop,
    Mss(u16),
    WindowScale(u8),
    SackPermitted,
    Sack(Vec<(u32, u32)>),
    Timestamps {
        value: u32,
        echo: u32,
    },
    Md5(Vec<u8>),
    FastOpen(Vec<u8>),
    FastOpenExperimental(Vec<u8>),
    /// Accurate ECN (RFC 9768), ECT(1) first or ECT(0), with its counts as they are on the wire.
    EcnCounts {
        ect1_first: bool,
        counts: Vec<u32>,
    },
    /// Any other, or one that is malformed: its kind and what follows its length.
    Other(u8, Vec<u8>),
}

impl TcpOption {
    /// The counts of an Accurate ECN option, in their order.
    pub(crate) fn ecn_names(ect1_first: bool) -> [&'static str; 3] {
        if ect1_first { ["e1b", "ceb", "e0b"] } else { ["e0b", "ceb", "e1b"] }
    }
}

impl fmt::Display for TcpOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match self {
            TcpOption::Eol => f.write_str("eol"),
            TcpOption::Nop => f.write_str("nop"),
            TcpOption::Mss(mss) => write!(f, "mss {mss}"),
            TcpOption::WindowScale(shift) => write!(f, "wscale {shift}"),
            TcpOption::SackPermitted => f.write_str("sackOK"),
            TcpOption::Sack(blocks) => {
                f.write_str("sack")?;
                blocks.iter().try_for_each(|(start, end)| write!(f, " {start}:{end}"))
            }
            TcpOption::Timestamps { value, echo } => write!(f, "TS val {value} ecr {echo}"),
            TcpOption::Md5(digest) => write!(f, "md5 {}", hex(digest)),
            TcpOption::FastOpen(cookie) => write!(f, "FO {}", hex(cookie)),
            TcpOption::FastOpenExperimental(cookie) => write!(f, "FOEXP {}", hex(cookie)),
            TcpOption::EcnCounts { ect1_first, counts } => {
                f.write_str("ECN")?;
                let mut named = TcpOption::ecn_names(*ect1_first).into_iter().zip(counts);
                named.try_for_each(|(name, count)| write!(f, " {name} {count}"))
            }
            TcpOption::Other(kind, bytes) => write!(f, "option {kind} {}", hex(bytes)),
        }
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Debug)]
pub(crate) struct IcmpSpec {
    pub(crate) kind: String,
    pub(crate) code: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) echo_id: Option<u16>,
    /// The packet it is about.
    pub(crate) quoted: Option<Quoted>,
}

/// A packet of the stack's that an ICMP message quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoted {
    Tcp { seq: u32, len: usize },
    Udp { len: usize },
    Raw { len: usize },
}
