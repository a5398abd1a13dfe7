//! Questions and answers as bytes (RFC 1035, RFC 6891): makes a question, judges what comes back, and follows the aliases
//! in it. Never sends anything. The format itself is hickory-proto's.
//!
//! A datagram counts as the answer only with the question's number, its name in the very mixture of cases it was asked in,
//! its kind and its class (RFC 5452 §9.1; the mixture is what the draft "0x20" proposes): whoever cannot see the question
//! has to guess all of that, and the port, at once.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

/// Bytes a server may put into a datagram for us: what fits into any path's packets (RFC 9715).
const MAX_PAYLOAD_BYTES: u16 = 1232;
/// Aliases that are followed within one answer.
const MAX_ALIASES: usize = 16;
/// Addresses that are taken out of one answer.
const MAX_ADDRESSES: usize = 256;
/// The header of a message (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// The kind of address asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A: IPv4.
    V4,
    /// AAAA: IPv6 (RFC 3596).
    V6,
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Kind::V4 => RecordType::A,
            Kind::V6 => RecordType::AAAA,
        }
    }
}

/// A question as it goes out.
#[derive(Debug)]
pub(super) struct Query {
    bytes: Vec<u8>,
    /// Where the question ends within them.
    end: usize,
    name: Name,
    kind: Kind,
}

/// What a message from a server's address is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not the answer to this question, whatever it is.
    Foreign,
    /// The answer, from a server that does not keep the cases of a name; or a lucky guess at all but them.
    CaseLost,
    /// The answer, cut off: the whole of it is to be had over TCP.
    Truncated,
    /// The answer.
    Reply(Reply),
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Addresses, at least one, and for how many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The name has none of this kind; for how many seconds, 0 if it does not say.
    NoneOfKind(u32),
    /// There is no such name; for how many seconds, 0 if it does not say.
    NoName(u32),
    /// The name is an alias of this one, of which the server says nothing; for how many seconds.
    Alias(String, u32),
    /// Its aliases lead nowhere.
    Looped,
    /// The server does not understand the question (as old ones do not understand EDNS).
    NotUnderstood,
    /// The server cannot or will not answer.
    Failed(String),
}

/// `text` as a name that can be asked for, in lower case and without the dot at its end; international names in their
/// ASCII form.
pub(super) fn normal(text: &str) -> Option<String> {
    // RFC 3490 §3.1: dots of other scripts are dots, too, wherever the shape of a name is looked at.
    let text = text.replace(['\u{3002}', '\u{ff0e}', '\u{ff61}'], ".");
    let bare = text.strip_suffix('.').unwrap_or(&text);
    if bare.is_empty() || bare.starts_with('.') || bare.contains("..") || bare.contains('\\') {
        return None;
    }
    let name = if bare.is_ascii() {
        if bare.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return None;
        }
        Name::from_ascii(bare)
    } else {
        Name::from_utf8(bare)
    };
    let ascii = name.ok()?.to_ascii().to_ascii_lowercase();
    Some(ascii.strip_suffix('.').unwrap_or(&ascii).to_owned())
}

impl Query {
    /// A question about `name`, made by [`normal`]. `random` is its number and its mixture of cases.
    pub(super) fn new(name: &str, kind: Kind, edns: bool, random: u64) -> Option<Query> {
        let name = mixed(name, random >> 16)?;
        let mut message = Message::new(random as u16, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(name.clone(), kind.record_type()));
        if edns {
            let mut offer = Edns::new();
            offer.set_max_payload(MAX_PAYLOAD_BYTES);
            message.set_edns(offer);
        }
        let bytes = message.to_vec().ok()?;
        // Behind the name, its kind and its class, two bytes each. It is the first name, so that nothing compresses it.
        let end = HEADER_BYTES + name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
        (end <= bytes.len()).then_some(Query { bytes, end, name, kind })
    }

    /// The message to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What `bytes`, which came in a datagram from the server's address, are to this question.
    pub(super) fn judge(&self, bytes: &[u8]) -> Verdict {
        self.verdict(bytes, false)
    }

    /// As [`judge`](Self::judge), of what came over a connection to the server: the case proves nothing that this does not.
    pub(super) fn judge_any_case(&self, bytes: &[u8]) -> Verdict {
        self.verdict(bytes, true)
    }

    fn verdict(&self, bytes: &[u8], any_case: bool) -> Verdict {
        let (Some(header), Some(own)) = (bytes.get(..HEADER_BYTES), self.bytes.get(HEADER_BYTES..self.end))
        else {
            return Verdict::Foreign;
        };
        // The number; that it is an answer, to a plain question.
        let is_answer = header[2] & 0b1111_1000 == 0b1000_0000;
        if header[..2] != self.bytes[..2] || !is_answer {
            return Verdict::Foreign;
        }
        let questions = u16::from_be_bytes([header[4], header[5]]);
        if questions == 0 && bytes.len() == HEADER_BYTES {
            // A server that cannot read a question need not repeat it (RFC 6891 §7).
            return match header[3] & 0x0f {
                1 | 4 => Verdict::Reply(Reply::NotUnderstood),
                _ => Verdict::Foreign,
            };
        }
        let Some(question) = bytes.get(HEADER_BYTES..self.end).filter(|_| questions == 1) else {
            return Verdict::Foreign;
        };
        if question != own {
            // No length of a label is a letter, so that ignoring the case of all bytes ignores that of letters alone.
            let kind_and_class = own.len() - 4;
            let same = question[kind_and_class..] == own[kind_and_class..]
                && question[..kind_and_class].eq_ignore_ascii_case(&own[..kind_and_class]);
            match (same, any_case) {
                (false, _) => return Verdict::Foreign,
                (true, false) => return Verdict::CaseLost,
                (true, true) => {}
            }
        }
        if header[2] & 0b10 != 0 {
            return Verdict::Truncated;
        }
        Verdict::Reply(match Message::from_vec(bytes) {
            Ok(message) => self.read(&message),
            Err(error) => Reply::Failed(format!("answers what cannot be read: {error}")),
        })
    }

    /// Reads an answer that is ours.
    fn read(&self, message: &Message) -> Reply {
        let code = message.metadata.response_code;
        match code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => {
                return Reply::NotUnderstood;
            }
            _ => return Reply::Failed(format!("answers `{code}`")),
        }
        let mut owner = &self.name;
        let mut ttl_s = u32::MAX;
        for _ in 0..=MAX_ALIASES {
            let records = || {
                message
                    .answers
                    .iter()
                    .filter(|record| record.dns_class == DNSClass::IN && record.name == *owner)
            };
            let mut addresses = Vec::new();
            for record in records() {
                let address = match (&record.data, self.kind) {
                    (RData::A(address), Kind::V4) => IpAddr::V4(address.0),
                    (RData::AAAA(address), Kind::V6) => IpAddr::V6(address.0),
                    _ => continue,
                };
                if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                    addresses.push(address);
                }
                ttl_s = ttl_s.min(held(record.ttl));
            }
            if !addresses.is_empty() {
                return Reply::Addresses(addresses, ttl_s);
            }
            let alias = records().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((&target.0, held(record.ttl))),
                _ => None,
            });
            let Some((target, alias_ttl_s)) = alias else { return self.absent(message, owner, ttl_s) };
            (owner, ttl_s) = (target, ttl_s.min(alias_ttl_s));
        }
        Reply::Looped
    }

    /// There are no addresses at `owner`, where the aliases end.
    fn absent(&self, message: &Message, owner: &Name, ttl_s: u32) -> Reply {
        // RFC 2308 §5: as long as the zone's SOA says, which has to come along.
        let soa_s = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) if record.name.zone_of(owner) => Some(held(record.ttl).min(soa.minimum)),
            _ => None,
        });
        let absent_s = soa_s.unwrap_or(0).min(ttl_s);
        if message.metadata.response_code == ResponseCode::NXDomain {
            return Reply::NoName(absent_s);
        }
        if *owner != self.name && soa_s.is_none() {
            return match normal(&owner.to_ascii()) {
                Some(target) => Reply::Alias(target, ttl_s),
                None => Reply::Failed("answers with an alias that is no host's name".into()),
            };
        }
        Reply::NoneOfKind(absent_s)
    }
}

/// A time to live; RFC 2181 §8: one with its highest bit set is none.
fn held(ttl_s: u32) -> u32 {
    if ttl_s > i32::MAX as u32 { 0 } else { ttl_s }
}

/// `name` with letters in cases as `bits` have it.
fn mixed(name: &str, bits: u64) -> Option<Name> {
    let mut bits = bits;
    let mut toss = || {
        bits = bits.rotate_right(1);
        bits >> 63 == 1
    };
    let labels = name.split('.').map(|label| {
        let toggled =
            label.bytes().map(|byte| if byte.is_ascii_alphabetic() && toss() { byte ^ 0x20 } else { byte });
        toggled.collect::<Vec<u8>>()
    });
    let labels: Vec<_> = labels.collect();
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
