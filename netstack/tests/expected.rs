//! The short way of expected segments: it takes what the general way would take, and nothing that is damaged, forged or cut.

mod common;

use std::cell::RefCell;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use common::{Hosts, config, once};
use demi_drivers::transport::{ListenOptions, StreamId, StreamOptions, Transport};
use demi_drivers::wire::{Verdict, Wire, WireConfig, WireEnd, WireHandle};
use demi_drivers::{Device, Instant, Offload, TxQueue};
use demi_netstack::Stack;
use demi_netstack::tcp::TcpConfig;

/// Bytes of payload a message.
const MESSAGE: usize = 64;

/// Two hosts with one connection, and a hand on their wire.
struct Pair {
    hosts: Hosts,
    wire: WireHandle,
    /// A third end, for frames of nobody.
    hand: WireEnd,
    client: StreamId,
    server: StreamId,
}

impl Pair {
    fn new(wire: WireConfig, tcp: TcpConfig, address: &str) -> Pair {
        let mut ends = Wire::new(1, WireConfig { ends: 3, ..wire }).unwrap();
        let (wire, hand) = (ends[0].handle(), ends.pop().unwrap());
        let mut number = 0;
        let hosts: Vec<Stack> = ends
            .into_iter()
            .map(|end| {
                number += 1;
                let config = demi_netstack::StackConfig { tcp: tcp.clone(), ..config(number) };
                Stack::new(Box::new(end), config).unwrap()
            })
            .collect();
        let mut hosts = Hosts { hosts: hosts.try_into().unwrap(), now: Instant::from_millis(1000) };
        let listener = hosts.hosts[1].listen(address.parse().unwrap(), &ListenOptions::default()).unwrap();
        let mut options = StreamOptions::default();
        options.nodelay = true;
        let client = hosts.hosts[0].connect(address.parse().unwrap(), None, &options).unwrap();
        hosts.settle();
        let (server, _) = once(|cx| hosts.hosts[1].poll_accept(cx, listener)).unwrap().unwrap();
        let mut pair = Pair { hosts, wire, hand, client, server };
        // The acknowledgements of a young connection are behind us, and both neighbours are known.
        for _ in 0..20 {
            pair.send(0, &[1; MESSAGE]);
            pair.hosts.settle();
            assert_eq!(pair.receive(1), [1; MESSAGE]);
            pair.send(1, &[2; MESSAGE]);
            pair.hosts.settle();
            assert_eq!(pair.receive(0), [2; MESSAGE]);
        }
        pair
    }

    fn stream(&self, host: usize) -> StreamId {
        [self.client, self.server][host]
    }

    fn send(&mut self, from: usize, bytes: &[u8]) {
        let stream = self.stream(from);
        let host = &mut self.hosts.hosts[from];
        let mut buf = Some(host.pool().copy_from_slice(bytes).unwrap());
        once(|cx| host.poll_push(cx, stream, &mut buf)).unwrap().unwrap();
    }

    fn receive(&mut self, at: usize) -> Vec<u8> {
        let stream = self.stream(at);
        let host = &mut self.hosts.hosts[at];
        let mut all = Vec::new();
        while let Some(Ok(Some(buf))) = once(|cx| host.poll_pop(cx, stream, usize::MAX)) {
            all.extend_from_slice(&buf);
        }
        all
    }

    /// Lets host 0 send `message`, and the wire carry `damage`d what it was sent in. Later frames pass.
    fn send_damaged(&mut self, message: &[u8], damage: impl Fn(&mut Vec<u8>)) {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&kept);
        self.wire.set_filter(move |frame| {
            if frame.from == 0 && keep.borrow().is_empty() {
                *keep.borrow_mut() = frame.bytes.to_vec();
                return Verdict::Drop;
            }
            Verdict::Pass
        });
        self.send(0, message);
        self.hosts.turn();
        let mut frame = kept.take();
        assert!(frame.len() > message.len(), "it was sent");
        // What comes now is not kept.
        kept.borrow_mut().push(0);
        damage(&mut frame);
        let mut queue = TxQueue::new(1);
        queue.push(self.hand.pool().copy_from_slice(&frame).unwrap(), Offload::default());
        self.hand.tx_burst(self.hosts.now, &mut queue).unwrap();
        self.hosts.settle();
    }

    /// Lets host 0 send `messages` in one turn, and takes the frames off the wire.
    fn intercept(&mut self, messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&kept);
        self.wire.set_filter(move |frame| {
            keep.borrow_mut().push(frame.bytes.to_vec());
            Verdict::Drop
        });
        for message in messages {
            self.send(0, message);
        }
        self.hosts.hosts[0].flush(self.hosts.now).unwrap();
        self.wire.clear_filter();
        assert_eq!(kept.borrow().len(), messages.len(), "each message fits a segment");
        kept.take()
    }

    /// Puts frames on the wire, to arrive in one burst.
    fn inject(&mut self, frames: &[Vec<u8>]) {
        let mut queue = TxQueue::new(frames.len());
        for frame in frames {
            queue.push(self.hand.pool().copy_from_slice(frame).unwrap(), Offload::default());
        }
        self.hand.tx_burst(self.hosts.now, &mut queue).unwrap();
    }

    /// How many segments host 1 has taken, and how many of them joined to the one before, while `act` ran.
    fn coalesced(&mut self, act: impl FnOnce(&mut Pair)) -> (u64, u64) {
        let count = |pair: &Pair| {
            let stats = pair.hosts.hosts[1].tcp_stats();
            (stats.in_segs, stats.recv_coalesce)
        };
        let before = count(self);
        act(self);
        let after = count(self);
        (after.0 - before.0, after.1 - before.1)
    }

    /// The other end resets what is left, so that nothing lingers.
    fn close(mut self) {
        self.wire.clear_filter();
        for host in 0..2 {
            let stream = self.stream(host);
            self.hosts.hosts[host].shutdown(stream, Shutdown::Both).unwrap();
            self.hosts.hosts[host].close(stream);
        }
        self.hosts.pass(Duration::from_secs(200));
        for host in &self.hosts.hosts {
            assert_eq!((host.usage().streams, host.pool().stats().slots_out), (0, 0));
        }
    }
}

fn plain() -> WireConfig {
    WireConfig::default()
}

const ADDRESSES: [&str; 2] = ["10.0.0.2:80", "[fd00::2]:80"];

#[test]
fn no_flipped_bit_reaches_the_reader() {
    for address in ADDRESSES {
        let headers = if address.starts_with('[') { 14 + 40 + 32 } else { 14 + 20 + 32 };
        let mut pair = Pair::new(plain(), TcpConfig::default(), address);
        for bit in 0..(headers + MESSAGE) * 8 {
            let message = [bit as u8; MESSAGE];
            pair.send_damaged(&message, |bytes| bytes[bit / 8] ^= 0x80 >> (bit % 8));
            let mut received = pair.receive(1);
            // What nobody vouches for (the sender's link address, an IPv6 hop limit) may change; else it comes again.
            for _ in 0..20 {
                if received.len() == MESSAGE {
                    break;
                }
                pair.hosts.pass(Duration::from_secs(1));
                received.extend(pair.receive(1));
            }
            assert_eq!(received, message, "{address}, bit {bit}");
            // The reply settles what the loss has left behind.
            pair.send(1, &message);
            pair.hosts.pass(Duration::from_millis(300));
            assert_eq!(pair.receive(0), message, "{address}, bit {bit}");
        }
        pair.close();
    }
}

#[test]
fn a_frame_that_is_cut_or_padded_is_told_apart() {
    for address in ADDRESSES {
        let mut pair = Pair::new(plain(), TcpConfig::default(), address);
        let whole = if address.starts_with('[') { 14 + 40 + 32 } else { 14 + 20 + 32 } + MESSAGE;
        for len in (0..whole).chain([whole + 1, whole + 7, whole + 200]) {
            let message = [len as u8; MESSAGE];
            pair.send_damaged(&message, |bytes| bytes.resize(len, 0xee));
            let mut received = pair.receive(1);
            if len > whole {
                assert_eq!(received, message, "{address}: an Ethernet frame may be padded");
            } else {
                assert_eq!(received, [], "{address}, cut to {len}");
                pair.hosts.pass(Duration::from_secs(5));
                received = pair.receive(1);
            }
            assert_eq!(received, message, "{address}, {len} bytes");
            pair.send(1, &message);
            pair.hosts.pass(Duration::from_millis(300));
            assert_eq!(pair.receive(0), message);
        }
        pair.close();
    }
}

#[test]
fn it_is_what_an_echo_takes_with_each_checksum_offload() {
    for wire in [
        plain(),
        WireConfig { checksum_offload: true, ..plain() },
        WireConfig { lossless_memory: true, ..plain() },
    ] {
        for address in ADDRESSES {
            let mut pair = Pair::new(wire.clone(), TcpConfig::default(), address);
            let before = pair.hosts.hosts[1].tcp_stats().clone();
            for number in 0..100 {
                pair.send(0, &[number; MESSAGE]);
                pair.hosts.settle();
                let request = pair.receive(1);
                pair.send(1, &request);
                pair.hosts.settle();
                assert_eq!(pair.receive(0), [number; MESSAGE]);
            }
            let after = pair.hosts.hosts[1].tcp_stats();
            assert_eq!(after.hp_hits - before.hp_hits, 100, "{address}, {wire:?}");
            assert_eq!(pair.hosts.hosts[1].stats().tcp_in_csum_errors, 0);
            pair.close();
        }
    }
}

#[test]
fn a_peer_without_timestamps_is_served_the_general_way() {
    for address in ADDRESSES {
        let tcp = TcpConfig { timestamps: false, ..TcpConfig::default() };
        let mut pair = Pair::new(plain(), tcp, address);
        pair.send(0, b"no options");
        pair.hosts.settle();
        assert_eq!(pair.receive(1), b"no options");
        pair.close();
    }
}

/// Messages of one full segment each.
fn full_segments(count: usize, address: &str) -> Vec<Vec<u8>> {
    let mss = if address.starts_with('[') { 1428 } else { 1448 };
    (0..count).map(|number| vec![number as u8 + 1; mss]).collect()
}

#[test]
fn segments_of_one_burst_are_taken_as_one() {
    for wire in [plain(), WireConfig { lossless_memory: true, ..plain() }] {
        for address in ADDRESSES {
            let mut pair = Pair::new(wire.clone(), TcpConfig::default(), address);
            let messages = full_segments(8, address);
            let frames = pair.intercept(&messages);
            let taken = pair.coalesced(|pair| {
                pair.inject(&frames);
                pair.hosts.hosts[1].poll(pair.hosts.now).unwrap();
            });
            assert_eq!(taken, (8, 7), "{address}, {wire:?}");
            let mut acknowledgements = 0;
            pair.hosts.hosts[1].flush(pair.hosts.now).unwrap();
            acknowledgements += pair.hosts.hosts[0].poll(pair.hosts.now).unwrap();
            assert_eq!(acknowledgements, 1, "one train, one acknowledgement");
            assert_eq!(pair.receive(1), messages.concat(), "{address}");
            pair.close();
        }
    }
}

#[test]
fn what_does_not_fit_a_train_is_taken_alone() {
    for address in ADDRESSES {
        let headers = if address.starts_with('[') { 14 + 40 + 32 } else { 14 + 20 + 32 };
        // What is done to the frames of a burst of six, and how many of them may be joined to the one before.
        type Change = fn(&mut Vec<Vec<u8>>, usize);
        let changes: [(&str, Change, u64); 5] = [
            ("a flipped bit of the payload", |frames, headers| frames[3][headers + 5] ^= 1, 2),
            ("two that changed places", |frames, _| frames.swap(2, 3), 2),
            ("a frame of somebody else", |frames, _| frames[3][5] ^= 0xff, 2),
            ("a frame cut short", |frames, headers| frames[3].truncate(headers + 100), 2),
            ("one that came twice", |frames, _| frames[3] = frames[2].clone(), 2),
        ];
        for (what, change, joined) in changes {
            let mut pair = Pair::new(plain(), TcpConfig::default(), address);
            let messages = full_segments(6, address);
            let mut frames = pair.intercept(&messages);
            change(&mut frames, headers);
            let (_, coalesced) = pair.coalesced(|pair| {
                pair.inject(&frames);
                pair.hosts.hosts[1].poll(pair.hosts.now).unwrap();
            });
            assert_eq!(coalesced, joined, "{address}: {what}");
            let mut received = pair.receive(1);
            for _ in 0..20 {
                pair.hosts.pass(Duration::from_secs(1));
                received.extend(pair.receive(1));
            }
            assert!(received == messages.concat(), "{address}: {what}: what is missing comes again");
            pair.close();
        }
    }
}

#[test]
fn a_push_or_a_short_segment_ends_a_train() {
    for address in ADDRESSES {
        let mut pair = Pair::new(plain(), TcpConfig::default(), address);
        // The last of what is sent at once is pushed; here three such bursts arrive as one, and one of them ends short.
        let mut messages = Vec::new();
        let mut frames = Vec::new();
        for (count, last_bytes) in [(3, usize::MAX), (3, 700), (2, usize::MAX)] {
            let mut burst = full_segments(count, address);
            burst[count - 1].truncate(last_bytes);
            frames.extend(pair.intercept(&burst));
            messages.extend(burst);
        }
        let taken = pair.coalesced(|pair| {
            pair.inject(&frames);
            pair.hosts.hosts[1].poll(pair.hosts.now).unwrap();
        });
        assert_eq!(taken, (8, 2 + 2 + 1), "{address}: trains of three, three and two");
        pair.hosts.settle();
        assert_eq!(pair.receive(1), messages.concat());
        pair.close();
    }
}

#[test]
fn a_train_stays_within_the_window() {
    for address in ADDRESSES {
        let tcp = TcpConfig { recv_buffer_bytes: 6000, ..TcpConfig::default() };
        let mut pair = Pair::new(plain(), tcp, address);
        let messages = full_segments(4, address);
        let mut frames = pair.intercept(&messages);
        // The same again, as a sender that does not care for our window would go on.
        let beyond = frames.clone();
        frames.extend(beyond);
        let (_, coalesced) = pair.coalesced(|pair| {
            pair.inject(&frames);
            pair.hosts.hosts[1].poll(pair.hosts.now).unwrap();
        });
        assert_eq!(coalesced, 3, "{address}");
        pair.hosts.settle();
        assert_eq!(pair.receive(1), messages.concat());
        pair.close();
    }
}

/// A frame from the wire must not reach a connection that a host has with itself, whatever its addresses say.
#[test]
fn a_connection_to_ourselves_hears_nothing_from_the_wire() {
    for address in ["127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[fd00::1]:80"] {
        let ends = Wire::new(1, plain()).unwrap();
        let mut ends = ends.into_iter();
        let mut host = Stack::new(Box::new(ends.next().unwrap()), config(1)).unwrap();
        let mut hand = ends.next().unwrap();
        let listener = host.listen(address.parse().unwrap(), &ListenOptions::default()).unwrap();
        let client = host.connect(address.parse().unwrap(), None, &StreamOptions::default()).unwrap();
        let mut now = Instant::from_millis(1000);
        let mut turn = |host: &mut Stack| {
            for _ in 0..10 {
                host.poll(now).unwrap();
                host.flush(now).unwrap();
                now += Duration::from_micros(1);
            }
            now
        };
        let now = turn(&mut host);
        let (server, peer) = once(|cx| host.poll_accept(cx, listener)).unwrap().unwrap();
        // The very segment that the server expects next, but for its sequence number, which is tried all around.
        let info = host.tcp_info(server).unwrap();
        assert_eq!(info.bytes_received, 0);
        let mut forged = Vec::new();
        use demi_netstack::wire::tcp::{PLAIN_BYTES, Plain, Timestamps};
        use demi_netstack::wire::{checksum, ethernet, ipv4, ipv6, protocol};
        let local = host.local_addr(server).unwrap();
        let header = Plain {
            ports: u32::from(peer.port()) << 16 | u32::from(local.port()),
            seq: 0,
            ack: 0,
            push: true,
            window: 1000,
            timestamps: Timestamps { value: 1, echo: 1 },
        };
        let mut tcp = [0; PLAIN_BYTES];
        let sum = header.emit(&mut tcp);
        let len = (PLAIN_BYTES + MESSAGE) as u16;
        let payload = [9; MESSAGE];
        forged.extend_from_slice(&common::mac(0));
        forged.extend_from_slice(&common::mac(1));
        let pseudo = match (peer.ip(), local.ip()) {
            (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
                let mut ip = [0; ipv4::HEADER_LEN];
                ipv4::Repr {
                    src,
                    dst,
                    protocol: protocol::TCP,
                    tos: 0,
                    ttl: 64,
                    ident: 0,
                    dont_fragment: true,
                    more_fragments: false,
                    fragment_offset: 0,
                    payload_len: len,
                }
                .emit(&mut ip);
                forged.extend_from_slice(&ethernet::EtherType::IPV4.0.to_be_bytes());
                forged.extend_from_slice(&ip);
                checksum::pseudo_v4(src, dst, protocol::TCP, len.into())
            }
            (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
                let mut ip = [0; ipv6::HEADER_LEN];
                ipv6::Repr {
                    src,
                    dst,
                    next_header: protocol::TCP,
                    traffic_class: 0,
                    flow_label: 0,
                    hop_limit: 64,
                    payload_len: len,
                }
                .emit(&mut ip);
                forged.extend_from_slice(&ethernet::EtherType::IPV6.0.to_be_bytes());
                forged.extend_from_slice(&ip);
                checksum::pseudo_v6(src, dst, protocol::TCP, len.into())
            }
            _ => unreachable!("both are of one version"),
        };
        let checksum = pseudo.then(sum).then(checksum::sum(&payload)).finish();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        forged.extend_from_slice(&tcp);
        forged.extend_from_slice(&payload);
        let before = host.stats();
        let mut queue = TxQueue::new(4);
        queue.push(hand.pool().copy_from_slice(&forged).unwrap(), Offload::default());
        hand.tx_burst(now, &mut queue).unwrap();
        host.poll(now).unwrap();
        let after = host.stats();
        let delivered = |stats: &demi_netstack::Stats| stats.v4.ip.in_delivers + stats.v6.ip.in_delivers;
        assert_eq!(delivered(&after), delivered(&before), "{address}: a martian is dropped");
        host.close(client);
        host.close(server);
    }
}
