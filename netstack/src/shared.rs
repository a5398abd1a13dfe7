//! One of several stacks of one host: each core has one, with a queue of the device, and all have the same addresses.
//!
//! A wrapper around the queue sees to it that each stack gets what it needs. What belongs to another core's flow (a device that
//! spreads otherwise than was agreed, an ICMP error, a packet put together of fragments) is passed there. What all of them
//! must know, ARP and neighbour discovery and group membership queries, each of them gets, wherever it arrived; only the
//! first one answers ([`StackConfig::silent`](crate::StackConfig::silent)). Echo requests and fragments are the first one's, and so are DHCP
//! servers' messages: it tells the others what it has leased.
//!
//! It knows nothing of threads: [`Lanes`] carries the copies.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_drivers::device::DeviceStats;
use demi_drivers::spread::{Arrival, Spread};
use demi_drivers::{Buf, Capabilities, Device, Instant, Pool, RxFrame, TxQueue};

use crate::icmp;
use crate::wire::ethernet::EtherType;
use crate::wire::{icmpv6, ipv4, ipv6, protocol};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Carries copies of frames between the stacks of one host.
pub trait Lanes {
    /// Sends a copy of `frame` to the stack with queue `to`; `false`: there was no room, and it is lost.
    fn send(&mut self, to: u16, frame: &RxFrame) -> bool;

    /// Appends up to `max` frames that others have sent to `into`, in memory of `pool`; answers how many.
    fn receive(&mut self, pool: &Pool, into: &mut Vec<RxFrame>, max: usize) -> usize;
}

/// Whose a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    One(u16),
    Everybody,
}

/// A queue of a device that several stacks share.
pub struct Shared {
    inner: Box<dyn Device>,
    lanes: Box<dyn Lanes>,
    spread: Spread,
    handed_over: u64,
    taken_over: u64,
    lost: u64,
}

impl Shared {
    /// Wraps a queue whose capabilities say how the device spreads what it receives.
    ///
    /// # Errors
    /// `InvalidInput` when they do not.
    pub fn new(inner: Box<dyn Device>, lanes: Box<dyn Lanes>) -> io::Result<Shared> {
        let Some(spread) = inner.capabilities().spread.clone() else {
            let message =
                format!("{}: it does not say which queue a packet arrives at: one core only", inner.name());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        Ok(Shared { inner, lanes, spread, handed_over: 0, taken_over: 0, lost: 0 })
    }

    fn send(&mut self, to: u16, frame: &RxFrame) {
        if self.lanes.send(to, frame) {
            self.handed_over += 1;
        } else {
            self.lost += 1;
        }
    }

    /// Sends what is not ours on; answers whether it stays.
    #[cold]
    #[inline(never)]
    fn part(&mut self, frame: &RxFrame) -> bool {
        match fate(&self.spread, &frame.buf) {
            Fate::One(queue) if queue == self.spread.queue => true,
            Fate::One(queue) => {
                self.send(queue, frame);
                false
            }
            Fate::Everybody => {
                for queue in (0..self.spread.queues).filter(|queue| *queue != self.spread.queue) {
                    if self.lanes.send(queue, frame) {
                        self.handed_over += 1;
                    } else {
                        self.lost += 1;
                    }
                }
                true
            }
        }
    }
}

/// Whose a frame is.
fn fate(spread: &Spread, frame: &[u8]) -> Fate {
    if let Some(queue) = spread.queue_of_frame(frame) {
        return Fate::One(queue);
    }
    let Some((head, packet)) = frame.split_first_chunk::<ETHERNET>() else { return Fate::One(0) };
    match head[12..] {
        [0x08, 0x06] => Fate::Everybody,
        [0x08, 0x00] => fate_v4(spread, packet),
        [0x86, 0xdd] => fate_v6(spread, packet),
        _ => Fate::One(0),
    }
}

fn fate_v4(spread: &Spread, packet: &[u8]) -> Fate {
    let Ok(packet) = ipv4::Packet::new_checked(packet) else { return Fate::One(0) };
    if packet.fragment_offset() > 0 || packet.more_fragments() {
        return Fate::One(0);
    }
    match (packet.protocol(), packet.payload().first()) {
        // RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem quote what they are about.
        (protocol::ICMP, Some(3 | 4 | 5 | 11 | 12)) => quoted_fate(spread, packet.payload()),
        (protocol::IGMP, _) => Fate::Everybody,
        _ => Fate::One(0),
    }
}

fn fate_v6(spread: &Spread, packet: &[u8]) -> Fate {
    let Ok(packet) = ipv6::Packet::new_checked(packet) else { return Fate::One(0) };
    let message = match packet.next_header() {
        protocol::ICMPV6 => packet.payload(),
        // RFC 2711: membership queries have a router alert in front.
        0 => return Fate::Everybody,
        _ => return Fate::One(0),
    };
    match message.first() {
        // RFC 4443 §2.1: errors have the high bit clear.
        Some(..0x80) if message.len() >= icmpv6::HEADER_LEN => quoted_fate(spread, message),
        // RFC 4861: router and neighbour discovery, redirects.
        Some(133..=137) => Fate::Everybody,
        _ => Fate::One(0),
    }
}

/// An error is for who has sent what it quotes: whose the replies to that are.
fn quoted_fate(spread: &Spread, message: &[u8]) -> Fate {
    let quoted = message.get(8..).and_then(icmp::quoted);
    Fate::One(quoted.map_or(0, |quoted| {
        spread.queue_of(&Arrival {
            src: quoted.flow.remote,
            dst: quoted.flow.local,
            src_port: quoted.flow.remote_port,
            dst_port: quoted.flow.local_port,
            udp: quoted.protocol == protocol::UDP,
        })
    }))
}

impl Device for Shared {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        let start = into.len();
        let received = self.inner.rx_burst(now, into, max);
        let mut kept = start;
        for at in start..into.len() {
            let Some(frame) = into.get(at) else { break };
            if self.spread.queue_of_frame(&frame.buf) == Some(self.spread.queue) || self.part(frame) {
                into.swap(kept, at);
                kept += 1;
            }
        }
        into.truncate(kept);
        let room = max.saturating_sub(kept - start);
        let taken = self.lanes.receive(self.inner.pool(), into, room);
        self.taken_over += taken as u64;
        received.map(|_| kept - start + taken)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.inner.tx_burst(now, queue)
    }

    fn hand_over(&mut self, packet: Buf) -> Option<Buf> {
        let kind: [u8; 2] = match packet.first().map(|first| first >> 4) {
            Some(4) => [0x08, 0x00],
            Some(6) => [0x86, 0xdd],
            _ => return Some(packet),
        };
        let Some(mut frame) = self.inner.pool().alloc(ETHERNET + packet.len()) else { return Some(packet) };
        frame.put_slice(&self.inner.capabilities().mac);
        frame.put_slice(&[2, 0, 0, 0, 0, 0]);
        frame.put_slice(&kind);
        frame.put_slice(&packet);
        let frame = RxFrame::new(frame.freeze());
        match self.spread.queue_of_frame(&frame.buf) {
            Some(queue) if queue != self.spread.queue => {
                self.send(queue, &frame);
                None
            }
            _ => Some(packet),
        }
    }

    fn tell_fellows(&mut self, notice: &[u8]) -> bool {
        let Some(mut frame) = self.inner.pool().alloc(ETHERNET + notice.len()) else { return false };
        let mac = self.inner.capabilities().mac;
        let EtherType(kind) = EtherType::NOTICE;
        for part in [&mac[..], &mac, &kind.to_be_bytes(), notice] {
            frame.put_slice(part);
        }
        let frame = RxFrame::new(frame.freeze());
        let (lost, ours) = (self.lost, self.spread.queue);
        for queue in (0..self.spread.queues).filter(|queue| *queue != ours) {
            self.send(queue, &frame);
        }
        lost == self.lost
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.inner.set_addresses(addresses)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn max_wait(&self) -> Option<Duration> {
        self.inner.max_wait()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.inner.stats();
        (stats.handed_over, stats.taken_over, stats.hand_over_lost) =
            (self.handed_over, self.taken_over, self.lost);
        stats
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use demi_drivers::spread::Hash;
    use demi_drivers::wire::{Wire, WireConfig, WireEnd};

    use super::*;
    use crate::wire::checksum;

    /// A wire's end that says it is the second of four queues.
    struct Second(WireEnd, Capabilities);

    impl Device for Second {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn capabilities(&self) -> &Capabilities {
            &self.1
        }
        fn pool(&self) -> &Pool {
            self.0.pool()
        }
        fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
            self.0.rx_burst(now, into, max)
        }
        fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
            self.0.tx_burst(now, queue)
        }
    }

    type Sent = Rc<RefCell<Vec<(u16, Vec<u8>)>>>;

    /// Remembers what is sent, and gives what it was told to.
    struct List(Sent, Vec<Vec<u8>>);

    impl Lanes for List {
        fn send(&mut self, to: u16, frame: &RxFrame) -> bool {
            self.0.borrow_mut().push((to, frame.buf.to_vec()));
            true
        }
        fn receive(&mut self, pool: &Pool, into: &mut Vec<RxFrame>, max: usize) -> usize {
            let count = self.1.len().min(max);
            into.extend(self.1.drain(..count).map(|bytes| RxFrame::new(buf(pool, &bytes))));
            count
        }
    }

    fn buf(pool: &Pool, bytes: &[u8]) -> Buf {
        let mut slot = pool.alloc(bytes.len()).unwrap();
        slot.put_slice(bytes);
        slot.freeze()
    }

    fn spread() -> Spread {
        Spread { queue: 1, queues: 4, hash: Hash::Mix { seed: 5 } }
    }

    fn shared(given: Vec<Vec<u8>>) -> (Shared, WireEnd, Sent) {
        let mut ends = Wire::new(1, WireConfig::default()).unwrap().into_iter();
        let (ours, far) = (ends.next().unwrap(), ends.next().unwrap());
        let mut capabilities = ours.capabilities().clone();
        capabilities.spread = Some(spread());
        let sent = Sent::default();
        let lanes = Box::new(List(sent.clone(), given));
        (Shared::new(Box::new(Second(ours, capabilities)), lanes).unwrap(), far, sent)
    }

    fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &kind.to_be_bytes(), packet].concat()
    }

    /// A packet from `src` to `dst` (the last byte of 10.0.0.x) with `flags` in the place of the fragment offset.
    fn ip(src: u8, dst: u8, protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
        let len = (20 + payload.len()) as u16;
        let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, src, 10, 0, 0, dst];
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        let sum = checksum::sum(&header).finish().to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [&header[..], payload].concat()
    }

    fn ports(src: u16, dst: u16) -> Vec<u8> {
        [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[0; 16]].concat()
    }

    #[test]
    fn each_frame_goes_to_whom_it_concerns() {
        let spread = spread();
        let home = |src_port, udp| {
            let [src, dst] = [[10, 0, 0, 9], [10, 0, 0, 2]].map(IpAddr::from);
            Fate::One(spread.queue_of(&Arrival { src, dst, src_port, dst_port: 7000, udp }))
        };
        let v4 = |protocol, flags, payload: &[u8]| ethernet(0x0800, &ip(9, 2, protocol, flags, payload));
        assert_eq!(fate(&spread, &ethernet(0x0806, &[0; 28])), Fate::Everybody);
        for port in 1000..1020 {
            assert_eq!(fate(&spread, &v4(6, 0, &ports(port, 7000))), home(port, false));
            assert_eq!(fate(&spread, &v4(17, 0, &ports(port, 7000))), home(port, true));
            // Port unreachable, about what we have sent from port 7000 to that one.
            let quoted = ip(2, 9, 17, 0, &ports(7000, port));
            let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
            assert_eq!(fate(&spread, &v4(1, 0, &error)), home(port, true));
        }
        let echo = [8, 0, 0, 0, 0, 1, 0, 1];
        for frame in [
            v4(1, 0, &echo),
            v4(1, 0, &[3, 3, 0, 0, 0, 0, 0, 0, 0x45]),
            v4(17, 0x2000, &ports(1000, 7000)),
            v4(6, 0x0004, &ports(1000, 7000)),
            v4(47, 0, &[0; 8]),
            ethernet(0x88cc, &[0; 50]),
            // Nobody on the link tells a core what the first one has leased.
            ethernet(0x88b5, &[0; 50]),
            v4(17, 0, &ports(67, 68)),
            vec![0; 5],
        ] {
            assert_eq!(fate(&spread, &frame), Fate::One(0), "{frame:02x?}");
        }
        assert_eq!(fate(&spread, &v4(2, 0, &[0x11, 0, 0, 0, 0, 0, 0, 0])), Fate::Everybody);
        let v6 = |next: u8, payload: &[u8]| {
            let mut header = [0; 40];
            (header[0], header[5], header[6], header[7]) = (0x60, payload.len() as u8, next, 255);
            (header[8], header[24]) = (0xfd, 0xfd);
            ethernet(0x86dd, &[&header[..], payload].concat())
        };
        for kind in 133..=137 {
            assert_eq!(fate(&spread, &v6(58, &[kind, 0, 0, 0, 0, 0, 0, 0])), Fate::Everybody);
        }
        assert_eq!(fate(&spread, &v6(58, &[128, 0, 0, 0, 0, 0, 0, 0])), Fate::One(0));
        assert_eq!(fate(&spread, &v6(44, &[6, 0, 0, 1, 0, 0, 0, 0])), Fate::One(0));
    }

    #[test]
    fn a_burst_is_parted_and_what_others_send_is_added() {
        let passed = ethernet(0x0806, &[7; 46]);
        let (mut shared, mut far, sent) = shared(vec![passed.clone()]);
        let frames: Vec<_> =
            (1000..1040).map(|port| ethernet(0x0800, &ip(9, 2, 6, 0, &ports(port, 7000)))).collect();
        let arp = ethernet(0x0806, &[1; 46]);
        let mut queue = TxQueue::new(64);
        for frame in frames.iter().chain([&arp]) {
            queue.push(buf(far.pool(), frame), demi_drivers::Offload::default());
        }
        let later = Instant::ZERO + Duration::from_secs(1);
        far.tx_burst(Instant::ZERO, &mut queue).unwrap();
        let mut received = Vec::new();
        while shared.rx_burst(later, &mut received, 64).unwrap() > 0 {}
        let received: Vec<Vec<u8>> = received.iter().map(|frame| frame.buf.to_vec()).collect();
        let queue_of = |frame: &[u8]| spread().queue_of_frame(frame);
        let ours = frames.iter().filter(|frame| queue_of(frame) == Some(1)).cloned();
        let mut expected: Vec<_> = ours.chain([arp.clone(), passed]).collect();
        let mut seen = received.clone();
        expected.sort();
        seen.sort();
        assert_eq!(seen, expected);
        for (to, frame) in sent.borrow().iter().filter(|(_, frame)| *frame != arp) {
            assert_eq!(queue_of(frame), Some(*to));
        }
        let copies: Vec<u16> =
            sent.borrow().iter().filter(|(_, frame)| *frame == arp).map(|(to, _)| *to).collect();
        assert_eq!(copies, [0, 2, 3]);
        let stats = shared.stats();
        let others = frames.len() as u64 - (seen.len() as u64 - 2);
        assert_eq!((stats.handed_over, stats.taken_over, stats.hand_over_lost), (others + 3, 1, 0));
    }

    #[test]
    fn a_packet_put_together_goes_to_its_core() {
        let (mut shared, _far, sent) = shared(Vec::new());
        for port in 1000..1020 {
            let packet = ip(9, 2, 17, 0, &ports(port, 7000));
            let queue = spread().queue_of_frame(&ethernet(0x0800, &packet)).unwrap();
            let before = sent.borrow().len();
            let pool = shared.pool().clone();
            let stays = shared.hand_over(buf(&pool, &packet)).is_some();
            assert_eq!((stays, sent.borrow().len() - before), (queue == 1, usize::from(queue != 1)));
        }
    }

    #[test]
    fn what_fellows_are_told_reaches_each_of_them() {
        let (mut shared, _far, sent) = shared(Vec::new());
        assert!(shared.tell_fellows(&[5; 300]));
        let mac = shared.capabilities().mac;
        let frame = [&mac[..], &mac, &[0x88, 0xb5], &[5; 300]].concat();
        assert_eq!(*sent.borrow(), [0, 2, 3].map(|queue| (queue, frame.clone())));
    }

    #[test]
    fn a_device_that_does_not_say_where_packets_arrive_is_for_one_core() {
        let end = Wire::new(1, WireConfig::default()).unwrap().swap_remove(0);
        let error = Shared::new(Box::new(end), Box::new(List(Sent::default(), Vec::new()))).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
