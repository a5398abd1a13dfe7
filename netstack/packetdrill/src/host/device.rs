//! The device below the stack: two queues of packets in memory. It answers for every neighbour at once, so that scripts see IP and
//! nothing of the link.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use demi_drivers::device::Capabilities;
use demi_drivers::{Device, Instant, Pool, PoolConfig, RxFrame, TxQueue};

use crate::packet::{self, IpFields, protocol};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ETHERNET_HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];

/// The far end of the device: packets from their IP header on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link(Rc<RefCell<Queues>>);

#[derive(Debug, Default)]
struct Queues {
    /// Frames on their way to the stack.
    rx: VecDeque<Vec<u8>>,
    /// Packets that the stack has sent, and when.
    tx: VecDeque<(Instant, Vec<u8>)>,
}

impl Link {
    /// Gives a packet to the stack.
    pub(crate) fn send(&self, packet: &[u8]) {
        let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 };
        self.0.borrow_mut().rx.push_back(frame(kind, packet));
    }

    /// The next packet that the stack has sent.
    pub(crate) fn receive(&self) -> Option<(Instant, Vec<u8>)> {
        self.0.borrow_mut().tx.pop_front()
    }

    /// The next packet, which stays.
    pub(crate) fn peek(&self) -> Option<(Instant, Vec<u8>)> {
        self.0.borrow().tx.front().cloned()
    }

    /// Whether something is on its way to the stack.
    pub(crate) fn is_busy(&self) -> bool {
        !self.0.borrow().rx.is_empty()
    }
}

/// The device.
pub(crate) struct Memory {
    link: Link,
    pool: Pool,
    capabilities: Capabilities,
    segment_bytes: u16,
    /// One frame as contiguous bytes: kept for its memory.
    scratch: Vec<u8>,
}

impl Memory {
    /// A device of that MTU. `segment_bytes`: what longer segments count as having been coalesced of; 0: they are one.
    pub(crate) fn new(mtu: u16, segment_bytes: u16) -> io::Result<(Memory, Link)> {
        let link = Link::default();
        // Scripts may bring packets as large as IP has them, as a device that coalesces does.
        let pool = Pool::new(&PoolConfig { huge_pages: false, ..PoolConfig::default() })?;
        let capabilities = Capabilities::new(OUR_MAC, mtu);
        Ok((Memory { link: link.clone(), pool, capabilities, segment_bytes, scratch: Vec::new() }, link))
    }
}

fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&OUR_MAC[..], &PEER_MAC, &kind, payload].concat()
}

/// The answer to an ARP request or a neighbour solicitation: whoever is asked for is at the peer's address.
fn neighbour(frame: &[u8]) -> Option<Answer> {
    let kind = frame.get(12..ETHERNET_HEADER)?;
    let body = frame.get(ETHERNET_HEADER..)?;
    if kind == ARP {
        let sender = body.get(14..18)?;
        let target = body.get(24..28)?;
        // RFC 5227 probes and announcements ask for nobody but the sender.
        if body.get(6..8)? != [0, 1] || sender == target || sender == [0; 4] {
            return Some(Answer::None);
        }
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        let reply = [&head[..], &PEER_MAC, target, body.get(8..14)?, sender].concat();
        return Some(Answer::Frame(self::frame(ARP, &reply)));
    }
    if kind != IPV6 || *body.get(6)? != protocol::ICMPV6 {
        return None;
    }
    // RFC 4861: 133 to 137 are neighbour discovery's; RFC 3810: 143 is a multicast listener's report.
    match *body.get(40)? {
        135 => {}
        133..=137 | 130..=132 | 143 => return Some(Answer::None),
        _ => return None,
    }
    let octets = |at: usize| -> Option<[u8; 16]> { body.get(at..)?.first_chunk().copied() };
    let (source, target) = (Ipv6Addr::from(octets(8)?), Ipv6Addr::from(octets(48)?));
    if source.is_unspecified() {
        // Somebody asks whether its own address is taken (RFC 4862 §5.4): it is not.
        return Some(Answer::None);
    }
    let ip = IpFields {
        source: IpAddr::V6(target),
        destination: IpAddr::V6(source),
        tos: 0,
        ttl: 255,
        flow_label: 0,
    };
    let option = [&[2, 1][..], &PEER_MAC].concat();
    let body = [&target.octets()[..], &option].concat();
    // Router, solicited, override.
    let message = packet::icmp(&ip, 136, 0, [0xe0, 0, 0, 0], &body);
    Some(Answer::Frame(self::frame(IPV6, &packet::ip(&ip, protocol::ICMPV6, &message))))
}

enum Answer {
    Frame(Vec<u8>),
    /// It is the link's business, and nobody answers.
    None,
}

impl Device for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn rx_burst(&mut self, _now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        let mut queues = self.link.0.borrow_mut();
        let mut count = 0;
        while count < max {
            let Some(frame) = queues.rx.front() else { break };
            let Some(buf) = self.pool.copy_from_slice(frame) else { break };
            let mut received = RxFrame::new(buf);
            if frame.len() > usize::from(self.capabilities.mtu) + ETHERNET_HEADER {
                received.gro_bytes = self.segment_bytes;
            }
            into.push(received);
            queues.rx.pop_front();
            count += 1;
        }
        Ok(count)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut queues = self.link.0.borrow_mut();
        let scratch = &mut self.scratch;
        Ok(queue.pop_while(|frame| {
            scratch.resize(frame.len(), 0);
            frame.copy_to(scratch);
            match neighbour(scratch) {
                Some(Answer::Frame(answer)) => queues.rx.push_back(answer),
                Some(Answer::None) => {}
                None => {
                    queues.tx.push_back((now, scratch.get(ETHERNET_HEADER..).unwrap_or_default().to_vec()))
                }
            }
            true
        }))
    }
}
