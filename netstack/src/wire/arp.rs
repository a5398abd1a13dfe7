//! ARP for IPv4 over Ethernet (RFC 826): who has an address, and the answer. Other hardware or protocols do not parse.

use std::net::Ipv4Addr;

use super::Malformed;
use super::ethernet::Mac;

/// Bytes of a packet.
pub const PACKET_LEN: usize = 28;

/// Hardware type 1 (Ethernet), protocol type 0x0800 (IPv4), address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What the sender wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// I have the sender address.
    Reply,
}

/// A packet as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's Ethernet address.
    pub sender_mac: Mac,
    /// The sender's IPv4 address; unspecified in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// The target's Ethernet address; means nothing in a request.
    pub target_mac: Mac,
    /// The address asked for, or the asker's.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// The packet at the start of `bytes`; padding may follow it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Version`] for other hardware or protocols; [`Malformed::Field`] for other
    /// operations.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let packet: &[u8; PACKET_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        if packet[..6] != ETHERNET_IPV4 {
            return Err(Malformed::Version);
        }
        let operation = match [packet[6], packet[7]] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(Malformed::Field),
        };
        let [_, _, _, _, _, _, _, _, rest @ ..] = packet;
        let [m0, m1, m2, m3, m4, m5, i0, i1, i2, i3, n0, n1, n2, n3, n4, n5, j0, j1, j2, j3] = *rest;
        Ok(Repr {
            operation,
            sender_mac: Mac([m0, m1, m2, m3, m4, m5]),
            sender_ip: Ipv4Addr::new(i0, i1, i2, i3),
            target_mac: Mac([n0, n1, n2, n3, n4, n5]),
            target_ip: Ipv4Addr::new(j0, j1, j2, j3),
        })
    }

    /// Writes the packet.
    pub fn emit(&self, out: &mut [u8; PACKET_LEN]) {
        out[..6].copy_from_slice(&ETHERNET_IPV4);
        out[6..8].copy_from_slice(match self.operation {
            Operation::Request => &[0, 1],
            Operation::Reply => &[0, 2],
        });
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender_ip.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..].copy_from_slice(&self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(request: bool, macs: [[u8; 6]; 2], ips: [[u8; 4]; 2]) {
            let repr = Repr {
                operation: if request { Operation::Request } else { Operation::Reply },
                sender_mac: Mac(macs[0]),
                sender_ip: ips[0].into(),
                target_mac: Mac(macs[1]),
                target_ip: ips[1].into(),
            };
            let mut bytes = [0; PACKET_LEN];
            repr.emit(&mut bytes);
            prop_assert_eq!(Repr::parse(&bytes), Ok(repr));
        }

        #[test]
        fn only_ipv4_over_ethernet_parses(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(repr) = Repr::parse(&bytes) {
                let mut again = [0; PACKET_LEN];
                repr.emit(&mut again);
                prop_assert_eq!(&again[..], &bytes[..PACKET_LEN]);
            }
        }
    }
}
