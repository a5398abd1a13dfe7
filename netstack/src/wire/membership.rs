//! Group membership: IGMP in its versions 1 to 3 (RFC 1112, RFC 2236, RFC 3376), and multicast listener discovery, which is the
//! same for IPv6 as ICMPv6 messages (RFC 2710, RFC 3810). A host hears queries and answers with reports.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::{Malformed, checksum, icmpv6};

/// ICMPv6 type of a query.
pub const MLD_QUERY: u8 = 130;
/// Bytes of a report's header: type, checksum, number of records.
pub const REPORT_HEADER: usize = 8;

/// What a query asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The group it is about; `None`: all.
    pub group: Option<IpAddr>,
    /// How long the answer may take.
    pub max_response: Duration,
    /// The version of the protocol that the router speaks: 1 to 3 of IGMP, 1 or 2 of MLD.
    pub version: u8,
}

impl Query {
    /// The query in `bytes`, the payload of an IPv4 packet; `None` for other messages, which only routers read.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Checksum`]; [`Malformed::Field`] for a group that is none.
    pub fn parse_igmp(bytes: &[u8]) -> Result<Option<Query>, Malformed> {
        let header: &[u8; 8] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        if !checksum::sum(bytes).is_valid() {
            return Err(Malformed::Checksum);
        }
        let [0x11, code, _, _, a, b, c, d] = *header else { return Ok(None) };
        // RFC 3376 §7.1
        let version = match (bytes.len(), code) {
            (8, 0) => 1,
            (8, _) => 2,
            (12.., _) => 3,
            _ => return Err(Malformed::Length),
        };
        let tenths = match version {
            1 => 100,
            2 => u32::from(code),
            _ => float(u32::from(code), 7, 4),
        };
        let group = Ipv4Addr::new(a, b, c, d);
        if !group.is_unspecified() && !group.is_multicast() {
            return Err(Malformed::Field);
        }
        let group = (!group.is_unspecified()).then_some(IpAddr::V4(group));
        Ok(Some(Query { group, max_response: Duration::from_millis(u64::from(tenths) * 100), version }))
    }

    /// The query in an ICMPv6 message that came with this source and hop limit; `None` when it is none.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Length`]; [`Malformed::Field`] for what does not come from the link (RFC 3810
    /// §5.1.14), and for a group that is none.
    pub fn parse_mld(
        message: &icmpv6::Repr<'_>,
        src: Ipv6Addr,
        hop_limit: u8,
    ) -> Result<Option<Query>, Malformed> {
        let &icmpv6::Repr::Other { kind: MLD_QUERY, rest: [a, b, _, _], data, .. } = message else {
            return Ok(None);
        };
        if hop_limit != 1 || !src.is_unicast_link_local() {
            return Err(Malformed::Field);
        }
        let group: &[u8; 16] = data.first_chunk().ok_or(Malformed::Truncated)?;
        // RFC 3810 §8.1
        let version = match data.len() {
            16 => 1,
            20.. => 2,
            _ => return Err(Malformed::Length),
        };
        let code = u32::from(u16::from_be_bytes([a, b]));
        let millis = if version == 1 { code } else { float(code, 15, 12) };
        let group = Ipv6Addr::from(*group);
        if !group.is_unspecified() && !group.is_multicast() {
            return Err(Malformed::Field);
        }
        let group = (!group.is_unspecified()).then_some(IpAddr::V6(group));
        Ok(Some(Query { group, max_response: Duration::from_millis(millis.into()), version }))
    }
}

/// RFC 3376 §4.1.1, RFC 3810 §5.1.3: a number, or from `1 << top` on a mantissa of `mantissa` bits and an exponent of three.
fn float(code: u32, top: u32, mantissa: u32) -> u32 {
    if code < 1 << top {
        return code;
    }
    let fraction = code & ((1 << mantissa) - 1) | 1 << mantissa;
    fraction << ((code >> mantissa & 7) + 3)
}

/// What a record of a report says (RFC 3376 §4.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// We listen to these sources alone.
    IsInclude = 1,
    /// We listen to all but these sources.
    IsExclude = 2,
    /// From now on, to these alone.
    ToInclude = 3,
    /// From now on, to all but these.
    ToExclude = 4,
    /// From now on, to these, too.
    Allow = 5,
    /// From now on, not to these.
    Block = 6,
}

/// A record of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub change: Change,
    /// The group.
    pub group: IpAddr,
    /// The sources, of the group's IP version.
    pub sources: SmallVec<[IpAddr; 2]>,
}

impl Record {
    /// Bytes of the record.
    pub fn len(&self) -> usize {
        let address = if self.group.is_ipv4() { 4 } else { 16 };
        4 + address * (1 + self.sources.len())
    }

    /// Never: a record names a group.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends the record to a report.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let [a, b] = (self.sources.len() as u16).to_be_bytes();
        out.extend([self.change as u8, 0, a, b]);
        for address in core::iter::once(&self.group).chain(&self.sources) {
            match address {
                IpAddr::V4(v4) => out.extend(v4.octets()),
                IpAddr::V6(v6) => out.extend(v6.octets()),
            }
        }
    }
}

/// Writes the header of an IGMPv3 report over the first [`REPORT_HEADER`] bytes of `message`, behind which its records lie.
pub fn finish_igmp(message: &mut [u8], records: u16) {
    finish(message, 0x22, records);
    let sum = checksum::sum(message).finish().to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
}

/// As [`finish_igmp`], for an MLDv2 report from `src` to `dst`.
pub fn finish_mld(message: &mut [u8], records: u16, src: Ipv6Addr, dst: Ipv6Addr) {
    finish(message, 143, records);
    let pseudo = icmpv6::pseudo_header(src, dst, message.len());
    let sum = pseudo.then(checksum::sum(message)).finish().to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
}

fn finish(message: &mut [u8], kind: u8, records: u16) {
    let [a, b] = records.to_be_bytes();
    if let Some(header) = message.first_chunk_mut::<REPORT_HEADER>() {
        *header = [kind, 0, 0, 0, 0, 0, a, b];
    }
}

/// A report or a farewell as routers of IGMPv2 read them.
pub fn old_igmp(leaves: bool, group: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = group.octets();
    let mut message = [if leaves { 0x17 } else { 0x16 }, 0, 0, 0, a, b, c, d];
    let sum = checksum::sum(&message).finish().to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// A report or a farewell as routers of MLDv1 read them, from `src` to `dst`.
pub fn old_mld(leaves: bool, group: Ipv6Addr, src: Ipv6Addr, dst: Ipv6Addr) -> [u8; 24] {
    let mut bytes = [0; 24];
    let kind = if leaves { 132 } else { 131 };
    let message = icmpv6::Repr::Other { kind, code: 0, rest: [0; 4], data: &group.octets() };
    let emitted = message.emit(src, dst, &mut bytes);
    debug_assert!(emitted.is_ok());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn igmp(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = checksum::sum(&bytes).finish();
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_querys_length_and_code_tell_its_version() {
        let parse = |bytes: &[u8]| Query::parse_igmp(&igmp(bytes.to_vec())).map(|query| query.unwrap());
        let general =
            |version, millis| Ok(Query { group: None, max_response: Duration::from_millis(millis), version });
        assert_eq!(parse(&[0x11, 0, 0, 0, 0, 0, 0, 0]), general(1, 10_000));
        assert_eq!(parse(&[0x11, 100, 0, 0, 0, 0, 0, 0]), general(2, 10_000));
        assert_eq!(parse(&[0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), general(3, 10_000));
        assert_eq!(parse(&[0x11, 0x80, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), general(3, 12_800), "a float");
        assert_eq!(parse(&[0x11, 1, 0, 0, 239, 1, 2, 3]).unwrap().group, Some([239, 1, 2, 3].into()));
        assert_eq!(parse(&[0x11, 1, 0, 0, 10, 1, 2, 3]), Err(Malformed::Field));
        assert_eq!(parse(&[0x11, 1, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::Length));
        assert_eq!(Query::parse_igmp(&igmp(vec![0x16, 0, 0, 0, 239, 1, 2, 3])), Ok(None));
        assert_eq!(Query::parse_igmp(&[0x11, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::Checksum));
    }

    #[test]
    fn listener_queries_come_from_the_link() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let parse = |data: &[u8], src: Ipv6Addr, hop_limit| {
            let message = icmpv6::Repr::Other { kind: MLD_QUERY, code: 0, rest: [0x27, 0x10, 0, 0], data };
            Query::parse_mld(&message, src, hop_limit)
        };
        let expected = |version| Some(Query { group: None, max_response: Duration::from_secs(10), version });
        assert_eq!(parse(&[0; 16], router, 1), Ok(expected(1)));
        assert_eq!(parse(&[0; 20], router, 1), Ok(expected(2)));
        assert_eq!(parse(&[0; 20], router, 2), Err(Malformed::Field));
        assert_eq!(parse(&[0; 20], "fd00::1".parse().unwrap(), 1), Err(Malformed::Field));
        assert_eq!(parse(&[0; 15], router, 1), Err(Malformed::Truncated));
    }

    #[test]
    fn reports_are_what_the_rfcs_draw() {
        let record = |change, group: &str, sources: &[&str]| Record {
            change,
            group: group.parse().unwrap(),
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        };
        let records =
            [record(Change::ToExclude, "239.1.2.3", &[]), record(Change::Allow, "232.1.1.1", &["10.0.0.9"])];
        let mut message = vec![0; REPORT_HEADER];
        records.iter().for_each(|record| record.emit(&mut message));
        assert_eq!(message.len(), REPORT_HEADER + records.iter().map(Record::len).sum::<usize>());
        finish_igmp(&mut message, 2);
        assert!(checksum::sum(&message).is_valid());
        let body = [4, 0, 0, 0, 239, 1, 2, 3, 5, 0, 0, 1, 232, 1, 1, 1, 10, 0, 0, 9];
        assert_eq!(
            (&message[..2], &message[4..8], &message[8..]),
            (&[0x22, 0][..], &[0, 0, 0, 2][..], &body[..])
        );
        let (src, dst) = ("fe80::2".parse().unwrap(), "ff02::16".parse().unwrap());
        let mut message = vec![0; REPORT_HEADER];
        record(Change::IsInclude, "ff35::1", &["fd00::9"]).emit(&mut message);
        finish_mld(&mut message, 1, src, dst);
        assert!(matches!(icmpv6::Repr::parse(src, dst, &message), Ok(icmpv6::Repr::Other { kind: 143, .. })));
        assert_eq!(message.len(), 8 + 4 + 32);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes: Vec<u8>) {
            let _ = Query::parse_igmp(&bytes);
            let _ = Query::parse_igmp(&if bytes.len() >= 4 { igmp(bytes.clone()) } else { bytes.clone() });
            let message = icmpv6::Repr::Other { kind: MLD_QUERY, code: 0, rest: [0; 4], data: &bytes };
            let _ = Query::parse_mld(&message, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 1);
        }
    }
}
