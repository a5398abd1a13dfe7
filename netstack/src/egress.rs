//! The way out: from a transport header and payload to a frame in the transmit queue, or to a neighbour's queue while its
//! address is asked for, or back up when the packet is for ourselves.
//!
//! Owns the routes, the neighbours, the transmit queue and the loopback queue. Payload is never copied unless the device takes
//! fewer parts than it has. Never blocks and never grows: what finds no room is refused, and the socket above waits.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::device::ChecksumOffload;
use demi_drivers::{Buf, Capabilities, Device, Instant, Offload, Pool, TxQueue};
use smallvec::SmallVec;

use crate::config::StackConfig;
use crate::fragment::Idents;
use crate::hash::{Keyed, Random};
use crate::link_out::Own;
use crate::neighbor::{Found, GROUP, LOOPBACK, NeighborLimits, Neighbors, Solicit, Waiting};
use crate::path::{PacketFields, Path};
use crate::path_mtu::PathMtus;
use crate::route::{NextHop, Routes};
use crate::stats::Stats;
use crate::tcp::output::Refused;
use crate::wire::checksum::{self, Sum};
use crate::wire::ethernet::{self, EtherType, Mac};
use crate::wire::{arp, ipv4, ipv6, ndisc, protocol};

/// Frames of the stack's own (ARP, ICMP) that are queued beyond the transmit queue's capacity: back-pressure on data must not
/// keep it from being resolved.
const CONTROL_RESERVE: usize = 64;

/// A way that was found.
struct LastWay {
    local: IpAddr,
    remote: IpAddr,
    path: Path,
}

/// Nobody's address.
const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The way out.
pub(crate) struct Egress {
    /// The device's name, for messages.
    pub(crate) name: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) mac: Mac,
    /// Who fills in the checksums of TCP and UDP packets that leave by the device.
    pub(crate) transport_checksum: ChecksumBy,
    /// Largest IP packet that the link carries.
    pub(crate) mtu: u16,
    /// Largest IP packet that is sent, by version: a lease, or a router, may name less.
    pub(crate) mtu_v4: u16,
    pub(crate) mtu_v6: u16,
    /// What is less on the way to some.
    pub(crate) path_mtus: PathMtus,
    pub(crate) pool: Pool,
    pub(crate) routes: Routes,
    pub(crate) neighbors: Neighbors,
    /// The way that was found last, and between whom: connections to one peer often begin one after the other, and what answers
    /// for them without one has none to remember it.
    last_way: LastWay,
    pub(crate) tx: TxQueue,
    /// The device has left frames in it.
    pub(crate) backlogged: bool,
    /// Packets to ourselves, without Ethernet header.
    pub(crate) loopback: VecDeque<Buf>,
    loopback_limit: usize,
    /// Another stack of this host answers for our addresses.
    pub(crate) silent: bool,
    /// Identifications of packets that are cut.
    pub(crate) idents: Idents,
    pub(crate) stats: Stats,
    /// The time of the latest poll or flush.
    pub(crate) now: Instant,
    /// Solicitations to be sent, and packets whose neighbour did not answer: kept for their memory.
    asked: Vec<Solicit>,
    pub(crate) failed: Vec<Waiting>,
}

/// Which way a packet goes once its template is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Wire,
    Loopback,
    /// To the neighbour in this slot, when its link address is known.
    Wait(u16),
}

/// The transport header of a packet, as much as the egress must know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upper {
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// Bytes of the header.
    pub(crate) header_len: usize,
    /// Where its checksum field lies; the header's length when the checksum is in the payload, done already.
    pub(crate) checksum_at: usize,
    /// A device that computes TCP and UDP checksums may compute this one.
    pub(crate) offloadable: bool,
    /// See [`SegmentOut::gso_bytes`](crate::tcp::output::SegmentOut::gso_bytes).
    pub(crate) gso_bytes: u16,
}

/// Who fills in the checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumBy {
    Us,
    Device,
    Nobody,
}

impl Egress {
    pub(crate) fn new(
        device: &dyn Device,
        config: &StackConfig,
        routes: Routes,
        mtu: u16,
        random: &mut Random,
    ) -> Egress {
        let limits = &config.limits;
        let neighbor_limits = NeighborLimits {
            entries: limits.neighbors,
            packets_per_entry: limits.packets_per_neighbor,
            packets: limits.neighbor_packets,
        };
        let capabilities = device.capabilities().clone();
        Egress {
            name: device.name().to_owned(),
            mac: Mac(capabilities.mac),
            transport_checksum: if capabilities.lossless_memory {
                ChecksumBy::Nobody
            } else if capabilities.tx_checksum {
                ChecksumBy::Device
            } else {
                ChecksumBy::Us
            },
            mtu,
            mtu_v4: mtu,
            mtu_v6: mtu,
            path_mtus: PathMtus::default(),
            pool: device.pool().clone(),
            routes,
            neighbors: Neighbors::new(neighbor_limits, Keyed::new(random)),
            last_way: LastWay { local: UNSPECIFIED, remote: UNSPECIFIED, path: Path::default() },
            tx: TxQueue::new(limits.tx_queue_frames.max(1)),
            backlogged: false,
            loopback: VecDeque::new(),
            loopback_limit: limits.loopback_packets.max(1),
            silent: config.silent,
            idents: Idents::new(random),
            stats: Stats::default(),
            now: Instant::ZERO,
            asked: Vec::new(),
            failed: Vec::new(),
            capabilities,
        }
    }

    /// Sends `payload`, the bytes of its parts in order, behind a transport header that `fill` writes with an empty checksum
    /// field, answering its sum. The parts stay the caller's.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent then.
    #[inline]
    pub(crate) fn emit(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        path: &mut Path,
        upper: &Upper,
        payload: &mut [Buf],
        fill: impl FnOnce(&mut [u8]) -> Sum,
    ) -> Result<(), Refused> {
        if self.tx.room() == 0 {
            return Err(Refused::Full);
        }
        let way = if !self.neighbors.is_current(path.neighbor, path.generation) {
            self.find_way(local, remote, path)?
        } else if path.neighbor == LOOPBACK {
            Way::Loopback
        } else {
            Way::Wire
        };
        if way == Way::Loopback && self.loopback.len() >= self.loopback_limit {
            return Err(Refused::Full);
        }
        let payload_len: usize = match &*payload {
            [only] => only.len(),
            parts => parts.iter().map(|part| part.len()).sum(),
        };
        let packet_len = upper.header_len + payload_len;
        let Ok(upper_len) = u16::try_from(packet_len) else { return Err(Refused::Unreachable) };
        let fields =
            PacketFields { protocol: upper.protocol, tos: upper.tos, ttl: upper.ttl, payload_len: upper_len };
        let by = self.checksum_by(upper, way);
        let path = &*path;
        let (v6, front_len) = (path.is_v6(), path.header_len());
        let head_len = front_len + upper.header_len;
        let offload = Offload {
            checksum: (by == ChecksumBy::Device)
                .then_some(ChecksumOffload { start: front_len as u16, offset: upper.checksum_at as u16 }),
            gso_bytes: upper.gso_bytes,
            header_bytes: head_len as u16,
            ipv6: v6,
        };
        // One part with room in front, and nobody else looking: the headers go there.
        let in_place = match payload {
            [only] if only.is_unique() && only.headroom() >= head_len => {
                only.with_header(head_len, |front, rest| {
                    write_headers(path, &fields, upper, by, front, || checksum::sum(rest), fill);
                })
            }
            _ => {
                let max_parts = if way == Way::Loopback { 1 } else { self.capabilities.max_parts };
                let copy = !payload.is_empty() && payload.len() >= max_parts;
                let Some(mut head) = self.pool.alloc(if copy { payload_len } else { 0 }) else {
                    self.stats.version(v6).ip.out_discards += 1;
                    return Err(Refused::Full);
                };
                if copy {
                    for part in &*payload {
                        head.put_slice(part);
                    }
                }
                let sum = || payload.iter().fold(Sum::default(), |sum, part| sum.then(checksum::sum(part)));
                if let Some(front) = head.prepend(head_len) {
                    write_headers(path, &fields, upper, by, front, sum, fill);
                }
                if !copy && !payload.is_empty() {
                    self.stats.version(v6).ip.out_requests += 1;
                    self.dispatch_parts(way, head.freeze(), payload, offload);
                    return Ok(());
                }
                Some(head.freeze())
            }
        };
        let Some(frame) = in_place else { return Err(Refused::Full) };
        self.stats.version(v6).ip.out_requests += 1;
        match way {
            Way::Wire => self.tx.push(frame, offload),
            _ => self.dispatch_parts(way, frame, &[], offload),
        }
        Ok(())
    }

    #[inline]
    fn checksum_by(&self, upper: &Upper, way: Way) -> ChecksumBy {
        if upper.checksum_at >= upper.header_len || way == Way::Loopback {
            ChecksumBy::Nobody
        } else if upper.offloadable {
            self.transport_checksum
        } else {
            ChecksumBy::Us
        }
    }

    /// Hands a frame of several parts, or one that does not go to the wire at once, on its way.
    pub(crate) fn dispatch_parts(&mut self, way: Way, mut head: Buf, rest: &[Buf], offload: Offload) {
        match way {
            Way::Wire => self.tx.push_parts(head, rest.iter().cloned(), offload),
            Way::Loopback => {
                head.advance(ethernet::HEADER_LEN);
                self.loopback.push_back(head);
            }
            Way::Wait(slot) => {
                head.advance(ethernet::HEADER_LEN);
                let parts = core::iter::once(head).chain(rest.iter().cloned()).collect();
                self.neighbors.wait(slot, Waiting { parts, offload });
            }
        }
    }

    /// Finds the way from `local` to `remote` and builds the template.
    #[cold]
    #[inline(never)]
    pub(crate) fn find_way(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        path: &mut Path,
    ) -> Result<Way, Refused> {
        let last = &self.last_way;
        if last.local == local
            && last.remote == remote
            && self.neighbors.is_current(last.path.neighbor, last.path.generation)
        {
            *path = last.path.clone();
            return Ok(if path.neighbor == LOOPBACK { Way::Loopback } else { Way::Wire });
        }
        path.generation = 0;
        let Some(hop) = self.routes.next_hop(remote) else {
            self.stats.version(remote.is_ipv6()).ip.out_no_routes += 1;
            return Err(Refused::Unreachable);
        };
        let (way, slot, generation, mac) = match hop {
            NextHop::Loopback => {
                (Way::Loopback, LOOPBACK, self.neighbors.generation(LOOPBACK), Mac::default())
            }
            NextHop::Group(mac) => (Way::Wire, GROUP, self.neighbors.generation(GROUP), mac),
            NextHop::Neighbor(neighbor) => {
                let (found, solicit) = self.neighbors.lookup(self.now, neighbor);
                if let Some(solicit) = solicit {
                    self.send_solicit(solicit);
                }
                match found {
                    Found::Ready { slot, generation, mac } => (Way::Wire, slot, generation, mac),
                    Found::Unresolved { slot } => (Way::Wait(slot), slot, 0, Mac::default()),
                    Found::TableFull => return Err(Refused::Unreachable),
                }
            }
        };
        path.build(self.mac, mac, local, remote);
        (path.neighbor, path.generation) = (slot, generation);
        if generation != 0 {
            self.last_way = LastWay { local, remote, path: path.clone() };
        }
        Ok(way)
    }

    /// Lets the packets that waited for the address of a slot go.
    pub(crate) fn release(&mut self, slot: u16) {
        let mac = self.neighbors.mac(slot);
        while let Some(Waiting { mut parts, offload }) = self.neighbors.next_waiting(slot) {
            let Some(first) = parts.first_mut() else { continue };
            let ethertype = if first.first().is_some_and(|byte| byte >> 4 == 6) {
                EtherType::IPV6
            } else {
                EtherType::IPV4
            };
            let header = ethernet::Repr { dst: mac, src: self.mac, ethertype };
            let in_place = first.with_header(ethernet::HEADER_LEN, |front, _| {
                if let Some(front) = front.first_chunk_mut() {
                    header.emit(front);
                }
            });
            if let Some(frame) = in_place {
                let rest: SmallVec<[Buf; 2]> = parts.drain(1..).collect();
                self.tx.push_parts(frame, rest, offload);
            } else if let Some(frame) = self.join(&header, &parts) {
                self.tx.push(frame, offload);
            } else {
                self.stats.link.out_discards += 1;
            }
        }
    }

    /// A frame of one part, copied from `parts`.
    fn join(&self, header: &ethernet::Repr, parts: &[Buf]) -> Option<Buf> {
        let mut frame = self.pool.alloc(parts.iter().map(|part| part.len()).sum())?;
        for part in parts {
            frame.put_slice(part);
        }
        header.emit(frame.prepend(ethernet::HEADER_LEN)?.first_chunk_mut()?);
        Some(frame.freeze())
    }

    /// Runs the neighbours' timers; packets to those who did not answer are left in `failed`.
    pub(crate) fn poll_neighbors(&mut self) -> usize {
        let mut asked = core::mem::take(&mut self.asked);
        let events = self.neighbors.poll(self.now, |solicit| asked.push(solicit), &mut self.failed);
        for solicit in asked.drain(..) {
            self.send_solicit(solicit);
        }
        self.asked = asked;
        events
    }

    /// Drops everything that waits to be sent or looped back: there is no device to take it.
    #[cold]
    pub(crate) fn clear(&mut self) {
        self.tx.clear();
        self.loopback.clear();
        self.failed.clear();
        self.neighbors.drop_waiting();
    }

    /// Queues a frame of the stack's own; it may use the reserve beyond the queue's capacity.
    pub(crate) fn push_control(&mut self, frame: Buf) -> bool {
        let room = self.tx.room() > 0 || self.tx.len() < self.tx_capacity() + CONTROL_RESERVE;
        if room {
            self.tx.push(frame, Offload::default());
        } else {
            self.stats.link.out_discards += 1;
        }
        room
    }

    fn tx_capacity(&self) -> usize {
        self.tx.len() + self.tx.room()
    }

    fn send_solicit(&mut self, solicit: Solicit) {
        self.stats.link.out_solicits += 1;
        match solicit.target {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(sender_ip)) = self.routes.source_for(solicit.target) else { return };
                let request = arp::Repr {
                    operation: arp::Operation::Request,
                    sender_mac: self.mac,
                    sender_ip,
                    target_mac: Mac::default(),
                    target_ip: target,
                };
                self.send_arp(solicit.unicast.unwrap_or(Mac::BROADCAST), &request);
            }
            IpAddr::V6(target) => {
                let Some(IpAddr::V6(src)) = self.routes.source_for(solicit.target) else { return };
                let (dst, mac) = match solicit.unicast {
                    Some(mac) => (target, mac),
                    None => {
                        let group = ndisc::solicited_node(target);
                        (group, Mac::for_multicast_v6(group))
                    }
                };
                let message = ndisc::Repr::Solicitation { target, source_mac: Some(self.mac) };
                self.send_ndisc(mac, src, dst, &message);
            }
        }
    }

    /// Sends an ARP packet.
    pub(crate) fn send_arp(&mut self, dst: Mac, packet: &arp::Repr) {
        let header = ethernet::Repr { dst, src: self.mac, ethertype: EtherType::ARP };
        let mut bytes = [0; arp::PACKET_LEN];
        packet.emit(&mut bytes);
        self.send_link(&header, &[&bytes]);
    }

    /// Sends a neighbour discovery message.
    pub(crate) fn send_ndisc(&mut self, mac: Mac, src: Ipv6Addr, dst: Ipv6Addr, message: &ndisc::Repr) {
        let mut body = [0; ndisc::MESSAGE_LEN];
        let len = message.emit(src, dst, &mut body);
        self.stats.v6.icmp.out_msgs += 1;
        // RFC 4861 §7.1: what came through a router is not believed.
        let own = Own { src, dst, protocol: protocol::ICMPV6, ttl: 255, tos: 0, alert: false };
        self.send_own_v6(mac, &own, &body[..len]);
    }

    /// Sends a packet of the stack's own, of parts that are copied.
    pub(crate) fn send_link(&mut self, header: &ethernet::Repr, parts: &[&[u8]]) {
        let frame = self.pool.alloc(parts.iter().map(|part| part.len()).sum()).and_then(|mut frame| {
            for part in parts {
                frame.put_slice(part);
            }
            header.emit(frame.prepend(ethernet::HEADER_LEN)?.first_chunk_mut()?);
            Some(frame.freeze())
        });
        match frame {
            Some(frame) => {
                self.push_control(frame);
            }
            None => self.stats.link.out_discards += 1,
        }
    }

    /// Sends a neighbour discovery message to a station whose link address must be found first.
    pub(crate) fn send_ndisc_routed(&mut self, src: Ipv6Addr, dst: Ipv6Addr, message: &ndisc::Repr) {
        let mut body = [0; ndisc::MESSAGE_LEN];
        let len = message.emit(src, dst, &mut body);
        self.stats.v6.icmp.out_msgs += 1;
        self.send_message(src.into(), dst.into(), protocol::ICMPV6, 255, len, |out| {
            for (to, from) in out.iter_mut().zip(&body) {
                *to = *from;
            }
        });
    }

    /// Largest IP packet that is sent to `remote`.
    pub(crate) fn mtu_towards(&self, remote: IpAddr) -> u16 {
        let link = if remote.is_ipv6() { self.mtu_v6 } else { self.mtu_v4 };
        self.path_mtus.towards(remote, link, self.now)
    }

    /// Sends a message of `len` bytes that `fill` writes whole, checksum included.
    pub(crate) fn send_message(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        ttl: u8,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let message = self.pool.alloc(len).and_then(|mut message| {
            fill(message.tail_mut().get_mut(..len)?);
            message.grow(len);
            Some(message.freeze())
        });
        let upper =
            Upper { protocol, tos: 0, ttl, header_len: 0, checksum_at: 0, offloadable: false, gso_bytes: 0 };
        let sent = message.map(|mut message| {
            let (mtu, path) = (self.mtu_towards(remote), &mut Path::default());
            let overhead = if remote.is_ipv6() { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
            if len + overhead > usize::from(mtu) {
                return self.emit_cut(local, remote, path, &upper, &mut message, mtu, |_| Sum::default());
            }
            let parts = core::slice::from_mut(&mut message);
            self.emit(local, remote, path, &upper, parts, |_| Sum::default())
        });
        if sent != Some(Ok(())) {
            self.stats.version(local.is_ipv6()).ip.out_discards += 1;
        }
    }

    /// Answers who has one of our IPv4 addresses.
    pub(crate) fn answer_arp(&mut self, asker: Mac, asker_ip: Ipv4Addr, ours: Ipv4Addr) {
        if self.silent {
            return;
        }
        self.stats.link.out_advertisements += 1;
        let reply = arp::Repr {
            operation: arp::Operation::Reply,
            sender_mac: self.mac,
            sender_ip: ours,
            target_mac: asker,
            target_ip: asker_ip,
        };
        self.send_arp(asker, &reply);
    }
}

/// Writes all headers of a packet to `front`.
#[inline]
fn write_headers(
    path: &Path,
    fields: &PacketFields,
    upper: &Upper,
    by: ChecksumBy,
    front: &mut [u8],
    payload_sum: impl FnOnce() -> Sum,
    fill: impl FnOnce(&mut [u8]) -> Sum,
) {
    let header = path.write(front, fields);
    let header_sum = fill(header);
    let sum = match by {
        ChecksumBy::Nobody => return,
        ChecksumBy::Device => path.pseudo_header(fields).folded(),
        ChecksumBy::Us => {
            let sum = path.pseudo_header(fields).then(header_sum).then(payload_sum()).finish();
            // RFC 768: a UDP checksum of 0 means "none"; its other representation means 0.
            if sum == 0 && fields.protocol == protocol::UDP { 0xffff } else { sum }
        }
    };
    if let Some(field) = header.get_mut(upper.checksum_at..upper.checksum_at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}
