//! Conversations between a hand-made host on a device and the kernel's sockets on the other side of it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use demi_drivers::device::RxChecksum;

use super::host::{ACK, FIN, Host, KERNELS_4, KERNELS_6, OURS_4, OURS_6, PSH, Packet, SYN};

/// Payload of a segment on the wire.
const SEGMENT: u16 = 1400;
/// Bytes sent each way.
const BULK: usize = 200_000;

fn sides() -> [(IpAddr, IpAddr); 2] {
    [(OURS_4.into(), KERNELS_4.into()), (OURS_6.into(), KERNELS_6.into())]
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// A UDP socket of the kernel's, made in its namespace.
fn kernel_udp(namespace: &File, address: IpAddr) -> UdpSocket {
    let here = super::current();
    super::enter(namespace);
    let socket = UdpSocket::bind((address, 0)).unwrap();
    super::enter(&here);
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// What the kernel has counted in a namespace: packets by protocol, and by interface.
fn kernel_counters(namespace: &File) -> String {
    let here = super::current();
    super::enter(namespace);
    let files = ["snmp", "snmp6", "netstat", "dev", "softnet_stat"];
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let texts = files.map(read).join("\n");
    super::enter(&here);
    texts
}

/// The kernel sends datagrams with partial checksums, the host echoes them with partial checksums, over IPv4 and IPv6.
pub(crate) fn datagrams_are_echoed(host: &mut Host<'_>, namespace: &File) {
    for (ours, kernels) in sides() {
        let socket = kernel_udp(namespace, kernels);
        for bytes in [1, 100, 1400] {
            let sent = pattern(bytes);
            let mut got = vec![0; 2000];
            let mut echo = || {
                socket.send_to(&sent, (ours, 7)).unwrap();
                let offloaded = host.device.capabilities().rx_checksum;
                let checksum = host.echo_udp(ours, kernels);
                let expected = if offloaded { RxChecksum::Valid } else { RxChecksum::Unknown };
                assert_eq!(checksum, expected, "{bytes} bytes from {kernels}");
                socket.recv_from(&mut got)
            };
            // A kernel may drop a datagram, and one whose machine is short of everything else does. Why, its counters tell.
            let echoed = echo().or_else(|error| {
                println!("the echo to {kernels} is late: {error}\n{}", kernel_counters(namespace));
                echo()
            });
            let (count, from) = echoed.unwrap();
            assert_eq!((from, &got[..count]), (SocketAddr::new(ours, 7), &sent[..]));
        }
    }
}

/// The kernel connects to the host; large segments go both ways, uncut if the device says so. Answers the largest payload
/// that was received at once.
pub(crate) fn a_connection_carries_large_segments(host: &mut Host<'_>, namespace: &File) -> usize {
    sides().map(|(ours, kernels)| connection(host, namespace, ours, kernels)).into_iter().max().unwrap_or(0)
}

/// The next segment of a connection, given our port and the kernel's.
fn segment(host: &mut Host<'_>, ports: (u16, u16)) -> Packet {
    loop {
        let segment = host.tcp();
        if (segment.field(2), segment.field(0)) == ports {
            return segment;
        }
    }
}

fn connection(host: &mut Host<'_>, namespace: &File, ours: IpAddr, kernels: IpAddr) -> usize {
    let namespace = namespace.try_clone().unwrap();
    let kernel = std::thread::spawn(move || {
        super::enter(&namespace);
        let mut stream = TcpStream::connect((ours, 7)).unwrap();
        let mut got = vec![0; BULK];
        stream.read_exact(&mut got).unwrap();
        assert!(got == pattern(BULK), "what the kernel received differs from what was sent");
        stream.write_all(&got).unwrap();
    });
    // What is left of the connection before is passed over, here and below.
    let syn = loop {
        let segment = host.tcp();
        if segment.tcp_flags() & (SYN | ACK) == SYN {
            break segment;
        }
    };
    let ports = (syn.field(2), syn.field(0));
    let mut peer = syn.number(4).wrapping_add(1);
    let mut next = 1_000_000_000u32;
    let sides = (ours, kernels);
    // Options: MSS, no-operation, window scale by 2^7.
    let [high, low] = SEGMENT.to_be_bytes();
    host.send_tcp(sides, ports, (next, peer), SYN | ACK, &[2, 4, high, low, 1, 3, 3, 7], &[], 0);
    next = next.wrapping_add(1);
    assert_eq!(segment(host, ports).number(8), next, "the kernel acknowledges our SYN");

    let data = pattern(BULK);
    let uncut = host.device.capabilities().tso_max_bytes as usize;
    let at_once = if uncut > 0 { 21_000 } else { usize::from(SEGMENT) };
    for part in data.chunks(at_once) {
        let gso = if part.len() > usize::from(SEGMENT) { SEGMENT } else { 0 };
        host.send_tcp(sides, ports, (next, peer), ACK | PSH, &[], part, gso);
        next = next.wrapping_add(part.len() as u32);
        // One part at a time: it is to be acknowledged whole before the next one goes.
        while segment(host, ports).number(8) != next {}
    }
    let mut got = Vec::new();
    let mut largest = 0;
    while got.len() < BULK {
        let segment = segment(host, ports);
        let payload = segment.tcp_payload();
        if segment.number(4) != peer || payload.is_empty() {
            continue;
        }
        assert!(
            payload.len() <= usize::from(SEGMENT) || segment.frame.gro_bytes == SEGMENT,
            "{} bytes at once, as segments of {}",
            payload.len(),
            segment.frame.gro_bytes
        );
        largest = largest.max(payload.len());
        got.extend_from_slice(payload);
        peer = peer.wrapping_add(payload.len() as u32);
        host.send_tcp(sides, ports, (next, peer), ACK, &[], &[], 0);
    }
    assert!(got == data, "what came back differs from what was sent");
    host.send_tcp(sides, ports, (next, peer), FIN | ACK, &[], &[], 0);
    kernel.join().unwrap();
    largest
}
