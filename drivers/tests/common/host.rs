//! A host by hand: raw frames on a device, against the kernel's sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant as Clock};

use demi_drivers::device::{ChecksumOffload, RxChecksum};
use demi_drivers::park::Parker;
use demi_drivers::{Buf, Device, Instant, Offload, RxFrame, TxQueue};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
const LIMIT: Duration = Duration::from_secs(10);

/// Our side's addresses, and the kernel's.
pub(crate) const OURS_4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const KERNELS_4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const OURS_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const KERNELS_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// A device and the addresses on its two sides.
pub(crate) struct Host<'a> {
    pub(crate) device: &'a mut dyn Device,
    pub(crate) peer_mac: [u8; 6],
    queue: TxQueue,
    parker: Parker,
    waiting: Vec<RxFrame>,
}

/// A transport header with its payload, as received.
pub(crate) struct Packet {
    pub(crate) frame: RxFrame,
    /// Where the transport header begins.
    at: usize,
}

impl Packet {
    pub(crate) fn field(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.frame.buf[self.at + offset], self.frame.buf[self.at + offset + 1]])
    }

    pub(crate) fn number(&self, offset: usize) -> u32 {
        u32::from(self.field(offset)) << 16 | u32::from(self.field(offset + 2))
    }

    pub(crate) fn tcp_flags(&self) -> u8 {
        self.frame.buf[self.at + 13]
    }

    pub(crate) fn tcp_payload(&self) -> &[u8] {
        let header = usize::from(self.frame.buf[self.at + 12] >> 4) * 4;
        &self.frame.buf[self.at + header..]
    }

    pub(crate) fn udp_payload(&self) -> &[u8] {
        &self.frame.buf[self.at + 8..]
    }
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .fold(sum, |sum, pair| sum + (u64::from(pair[0]) << 8) + u64::from(pair.get(1).copied().unwrap_or(0)))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The pseudo header's sum (RFC 9293 §3.1, RFC 8200 §8.1).
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, bytes: usize) -> u64 {
    add(add(bytes as u64 + u64::from(protocol), &octets(from)), &octets(to))
}

impl<'a> Host<'a> {
    pub(crate) fn new(device: &'a mut dyn Device, peer_mac: [u8; 6]) -> Host<'a> {
        Host { device, peer_mac, queue: TxQueue::new(64), parker: Parker::new(), waiting: Vec::new() }
    }

    /// Sends one frame, whole or in two parts.
    pub(crate) fn send(&mut self, frame: &[u8], cut_at: usize, offload: Offload) {
        let (head, rest) = frame.split_at(cut_at.min(frame.len()));
        let pool = self.device.pool().clone();
        let buf = |bytes: &[u8]| -> Buf { pool.copy_from_slice(bytes).unwrap() };
        if rest.is_empty() {
            self.queue.push(buf(head), offload);
        } else {
            // Parts that any slot holds; 21,000 bytes are 14 of them, and devices gather 16.
            self.queue.push_parts(buf(head), rest.chunks(1_600).map(buf), offload);
        }
        let start = Clock::now();
        while !self.queue.is_empty() {
            self.device.tx_burst(Instant::ZERO, &mut self.queue).unwrap();
            assert!(start.elapsed() < LIMIT, "the device takes no frames");
        }
    }

    /// The next frame that arrives.
    pub(crate) fn receive(&mut self) -> RxFrame {
        let start = Clock::now();
        while self.waiting.is_empty() {
            assert!(start.elapsed() < LIMIT, "nothing has arrived");
            if self.device.rx_burst(Instant::ZERO, &mut self.waiting, 32).unwrap() == 0 {
                self.parker.park(self.device.wait_fd(), Some(Duration::from_millis(100))).unwrap();
            }
        }
        self.waiting.remove(0)
    }

    /// The next packet of a protocol that is for our addresses; ARP is answered on the way, the rest is passed over.
    fn packet(&mut self, protocol: u8) -> Packet {
        loop {
            let frame = self.receive();
            let bytes = &frame.buf[..];
            let at = match (&bytes[12..14], bytes.len()) {
                ([8, 6], 42..) if bytes[20..22] == [0, 1] && bytes[38..42] == OURS_4.octets() => {
                    self.answer_arp(&frame.buf);
                    continue;
                }
                ([8, 0], 34..) if bytes[23] == protocol && bytes[30..34] == OURS_4.octets() => 34,
                ([0x86, 0xdd], 54..) if bytes[20] == protocol && bytes[38..54] == OURS_6.octets() => 54,
                _ => continue,
            };
            return Packet { frame, at };
        }
    }

    fn answer_arp(&mut self, request: &[u8]) {
        let mac = self.device.capabilities().mac;
        let mut reply = request[..42].to_vec();
        reply[..6].copy_from_slice(&request[6..12]);
        reply[6..12].copy_from_slice(&mac);
        reply[21] = 2;
        reply[32..42].copy_from_slice(&request[22..32]);
        reply[22..28].copy_from_slice(&mac);
        reply[28..32].copy_from_slice(&OURS_4.octets());
        self.send(&reply, usize::MAX, Offload::default());
    }

    pub(crate) fn udp(&mut self) -> Packet {
        self.packet(UDP)
    }

    pub(crate) fn tcp(&mut self) -> Packet {
        self.packet(TCP)
    }

    /// Wraps a transport header and payload in IP and Ethernet, and sends it. The checksum, whose field lies `field` bytes into
    /// it, is left to the device if that can do it. `gso`: bytes of each segment.
    fn send_transport(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        mut body: Vec<u8>,
        field: usize,
        gso: u16,
    ) {
        let mac = self.device.capabilities().mac;
        let mut frame = [&self.peer_mac[..], &mac[..]].concat();
        if from.is_ipv4() {
            let total = (20 + body.len()) as u16;
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
        }
        frame.extend(octets(from));
        frame.extend(octets(to));
        if from.is_ipv4() {
            let sum = !fold(add(0, &frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let start = frame.len();
        let pseudo = pseudo_header(from, to, protocol, body.len());
        let offloaded = self.device.capabilities().tx_checksum;
        let sum = if offloaded { fold(pseudo) } else { !fold(add(pseudo, &body)) };
        body[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let header_bytes = if protocol == TCP { usize::from(body[12] >> 4) * 4 } else { 8 };
        let checksum = ChecksumOffload { start: start as u16, offset: field as u16 };
        let offload = Offload {
            checksum: offloaded.then_some(checksum),
            gso_bytes: gso,
            header_bytes: (start + header_bytes) as u16,
            ipv6: from.is_ipv6(),
        };
        frame.extend(body);
        self.send(&frame, start + header_bytes, offload);
    }

    pub(crate) fn send_udp(&mut self, from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) {
        let mut body = Vec::new();
        body.extend(ports.0.to_be_bytes());
        body.extend(ports.1.to_be_bytes());
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        self.send_transport(from, to, UDP, body, 6, 0);
    }

    pub(crate) fn send_tcp(
        &mut self,
        (from, to): (IpAddr, IpAddr),
        ports: (u16, u16),
        (seq, ack): (u32, u32),
        flags: u8,
        options: &[u8],
        payload: &[u8],
        gso: u16,
    ) {
        let mut body = Vec::new();
        body.extend(ports.0.to_be_bytes());
        body.extend(ports.1.to_be_bytes());
        body.extend(seq.to_be_bytes());
        body.extend(ack.to_be_bytes());
        body.extend([((5 + options.len() / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(options);
        body.extend(payload);
        self.send_transport(from, to, TCP, body, 16, gso);
    }

    /// Whether the bytes of a received packet carry a right checksum, the device's word aside.
    pub(crate) fn verifies(packet: &Packet) -> bool {
        let bytes = &packet.frame.buf[..];
        let (from, to, protocol) = if packet.at == 34 {
            let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
            (IpAddr::from(address(26)), IpAddr::from(address(30)), bytes[23])
        } else {
            let address = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap().into();
            (IpAddr::V6(address(22)), IpAddr::V6(address(38)), bytes[20])
        };
        let body = &bytes[packet.at..];
        fold(add(pseudo_header(from, to, protocol, body.len()), body)) == 0xffff
    }

    /// Echoes a datagram of the kernel's back to it, and says what the device knew of its checksum.
    pub(crate) fn echo_udp(&mut self, from: IpAddr, to: IpAddr) -> RxChecksum {
        let packet = self.udp();
        let payload = packet.udp_payload().to_vec();
        let known = packet.frame.checksum == RxChecksum::Valid;
        assert!(known || Self::verifies(&packet), "the checksum is wrong");
        self.send_udp(from, to, (packet.field(2), packet.field(0)), &payload);
        packet.frame.checksum
    }
}
