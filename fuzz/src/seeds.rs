//! Inputs to begin with: every kind of frame that the stack knows, right but for what a fuzzer will change, and one story for each
//! thing that a target can tell. `cargo run --no-default-features --example seeds` writes them into `corpus/`; what fuzzing adds to them is chosen by hand
//! (see `CONTRIBUTING.md`).

use std::net::{IpAddr, Ipv6Addr};

use crate::frames::{self, PEER_MAC, Segment, V6, protocol};

/// What tells a stack where its peer is.
pub fn neighbours(v6: bool) -> Vec<Vec<u8>> {
    if !v6 {
        let request =
            [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER_MAC, &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 1]].concat();
        return vec![frames::ethernet(0x0806, &request)];
    }
    let solicit = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &V6.0.octets(), &[1, 1], &PEER_MAC].concat();
    vec![frames::ip(V6.1.into(), V6.0.into(), protocol::ICMPV6, 255, &solicit)]
}

fn message(src: IpAddr, dst: Ipv6Addr, hops: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frames::ip(src, dst.into(), protocol::ICMPV6, hops, bytes);
    if dst.is_multicast() {
        let octets = dst.octets();
        frame[..6].copy_from_slice(&[0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]);
    }
    frame
}

/// A router advertisement: a lifetime, a prefix, an MTU, a name server, the router's address.
pub fn advertisement() -> Vec<u8> {
    let mut bytes = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 7, 8, 0, 0, 0, 0]);
    bytes.extend("2001:db8::".parse::<Ipv6Addr>().expect("an address").octets());
    bytes.extend([5, 1, 0, 0, 0, 0, 5, 0]);
    bytes.extend([25, 3, 0, 0, 0, 0, 14, 16]);
    bytes.extend("2001:db8::53".parse::<Ipv6Addr>().expect("an address").octets());
    bytes.extend([1, 1]);
    bytes.extend(PEER_MAC);
    bytes
}

/// Options of a DHCP server: mask, router, name server, lease, renewal, rebinding, domain, MTU, classless routes.
pub fn lease() -> Vec<u8> {
    let mut bytes = vec![1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 2, 6, 8, 10, 0, 0, 53, 10, 0, 0, 54];
    bytes.extend([51, 4, 0, 0, 14, 16, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0, 12, 78]);
    bytes.extend([15, 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 26, 2, 5, 120]);
    bytes.extend([121, 8, 24, 192, 0, 2, 10, 0, 0, 9, 255]);
    bytes
}

/// Frames of every kind.
pub fn templates() -> Vec<Vec<u8>> {
    let (src4, dst4) = frames::to_us(false);
    let local: IpAddr = frames::PEER_LOCAL.into();
    let all: Ipv6Addr = "ff02::1".parse().expect("a group");
    let syn_options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let syn = Segment {
        ports: (5000, 80),
        seq: 1000,
        flags: 2,
        window: 65535,
        options: &syn_options,
        ..Segment::default()
    };
    let data = Segment {
        ports: (5000, 80),
        seq: 1001,
        ack: 1,
        flags: 24,
        window: 500,
        payload: b"hello",
        ..Segment::default()
    };
    let quoted =
        Segment { ports: (80, 5000), seq: 1, ack: 1001, flags: 16, window: 500, ..Segment::default() };
    let quote = |v6: bool| {
        let (peer, ours) = frames::to_us(v6);
        frames::ip(ours, peer, protocol::TCP, 64, &quoted.bytes())[14..].to_vec()
    };
    let mut templates = neighbours(false);
    templates.extend(neighbours(true));
    let mut reply = templates[0].clone();
    reply[21] = 2;
    templates.push(reply);
    for v6 in [false, true] {
        templates.push(syn.frame(v6));
        templates.push(data.frame(v6));
        templates.push(frames::udp(v6, 5000, 80, b"question"));
        let (src, dst) = frames::to_us(v6);
        let (echo, too_big, refused) = if v6 { (128, [2, 0], [1, 4]) } else { (8, [3, 4], [3, 3]) };
        let number = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        templates.push(frames::ip(src, dst, number, 64, &[echo, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3]));
        for [kind, code] in [too_big, refused] {
            let head = [kind, code, 0, 0, 0, 0, 5, 0];
            templates.push(frames::ip(src, dst, number, 64, &[&head[..], &quote(v6)].concat()));
        }
    }
    templates.push(message(local, all, 255, &advertisement()));
    let advertise = [&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &V6.1.octets(), &[2, 1], &PEER_MAC].concat();
    templates.push(message(V6.1.into(), V6.0, 255, &advertise));
    templates.push(message(
        local,
        all,
        1,
        &[&[130, 0, 0, 0, 0, 100, 0, 0][..], &[0; 16], &[2, 125, 0, 0]].concat(),
    ));
    templates.push(frames::ip(src4, dst4, protocol::IGMP, 1, &[0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]));
    let mut offer = vec![0; 240];
    offer[..4].copy_from_slice(&[2, 1, 6, 0]);
    offer[16..20].copy_from_slice(&[10, 0, 0, 9]);
    offer[28..34].copy_from_slice(&crate::host::OUR_MAC);
    offer[236..240].copy_from_slice(&[99, 130, 83, 99]);
    offer.extend([53, 1, 2, 54, 4, 10, 0, 0, 2]);
    offer.extend(lease());
    templates.push(frames::udp(false, 67, 68, &offer));
    templates.push(frames::ethernet(0x8100, &[&[0, 0, 8, 0][..], &syn.frame(false)[14..]].concat()));
    // Hop-by-hop options, a routing header with nothing left, a fragment, then UDP.
    let (src, dst) = frames::to_us(true);
    let mut datagram = frames::udp_message(5000, 80, b"deep");
    frames::sum_message(src, dst, protocol::UDP, &mut datagram);
    let chain =
        [&[43, 0, 1, 4, 0, 0, 0, 0][..], &[60, 0, 0, 0, 0, 0, 0, 0], &[17, 0, 1, 4, 0, 0, 0, 0], &datagram]
            .concat();
    templates.push(frames::ip_raw(src, dst, 0, 64, &chain));
    templates.push(frames::ip_raw(
        src,
        dst,
        44,
        64,
        &[&[17, 0, 0, 1, 0, 0, 0, 9][..], &datagram[..8]].concat(),
    ));
    templates
}

/// A run of bytes as [`Input::run`](crate::input::Input::run) reads it.
fn run(bytes: &[u8]) -> Vec<u8> {
    match bytes.len() {
        0..255 => [&[bytes.len() as u8][..], bytes].concat(),
        len => [&[255, (len >> 8) as u8, len as u8][..], bytes].concat(),
    }
}

/// Every seed: target, name, bytes.
pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds: Vec<(&'static str, String, Vec<u8>)> = Vec::new();
    let mut add =
        |target: &'static str, name: &str, bytes: Vec<u8>| seeds.push((target, name.to_owned(), bytes));
    for (number, frame) in templates().into_iter().enumerate() {
        let name = format!("frame-{number:02}");
        let mut other = vec![0];
        other.extend(run(&frame));
        add("ethernet", &name, other);
        add("vnet", &name, [&[1, 5, 62, 0, 100, 0, 34, 0, 6, 0][..], &frame].concat());
        match [frame[12], frame[13]] {
            [8, 0] => {
                add("ipv4", &name, [&[2][..], &run(&frame[14..])].concat());
                let which = match frame[23] {
                    6 => 3,
                    17 => 4,
                    1 => 5,
                    _ => 1,
                };
                add("differential", &format!("ip-{number:02}"), [&[1][..], &frame[14..]].concat());
                add("differential", &name, [&[which][..], &frame[34..]].concat());
                if frame[23] == 17 && frame.len() > 280 {
                    add("differential", &format!("dhcp-{number:02}"), [&[7][..], &frame[42..]].concat());
                }
                if frame[23] == protocol::IGMP {
                    add("groups", &name, [&[0][..], &run(&frame[34..]), &[3, 0, 2, 0, 18]].concat());
                }
            }
            [0x86, 0xdd] => {
                add("ipv6", &name, [&[0, frame[20]][..], &run(&frame[54..])].concat());
                add("differential", &format!("ip-{number:02}"), [&[2][..], &frame[14..]].concat());
                if frame[20] == protocol::ICMPV6 {
                    add("differential", &name, [&[6][..], &frame[54..]].concat());
                    add(
                        "neighbors",
                        &name,
                        [&[0, 0][..], &run(&frame[54..]), &[37], &run(&frame[54..])].concat(),
                    );
                }
                if frame[54] == 130 {
                    add(
                        "groups",
                        &name,
                        [&[1][..], &run(&frame[54..]), &[0x11], &run(&frame[54..])].concat(),
                    );
                }
            }
            _ => add("differential", &name, [&[0][..], &frame[14..]].concat()),
        }
        add("stack", &name, vec![0, 1, number as u8, 140, 0, 1, number as u8, 140, 3, 100, 20]);
    }
    add(
        "dhcp",
        "lease",
        [&[0, 0, 0, 0, 0, 9][..], &run(&lease()), &[8, 0, 0, 0, 9], &run(&lease()), &[72, 0, 0, 0, 9, 0, 12]]
            .concat(),
    );
    add("dhcp", "lent", [&[0, 4, 0, 0, 0, 9][..], &run(&[52, 1, 3]), &lease(), &[0; 150]].concat());
    for (name, options) in [
        ("linux", &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7][..]),
        ("zero-length", &[2, 0, 3, 1]),
        ("twice", &[2, 4, 0, 1, 2, 4, 255, 255, 3, 3, 15, 3, 3, 255]),
        ("small", &[2, 4, 0, 0]),
        ("cut", &[8, 10, 1, 2, 3]),
    ] {
        for how in 0..4 {
            let blocks = [1, 1, 5, 18, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 8, 0];
            let story = [&[how][..], &run(options), &[0x0d], &run(options), &[0x10], &run(&blocks)].concat();
            add("tcp_options", &format!("{name}-{how}"), story);
        }
    }
    for how in 0..=1 {
        add(
            "icmp",
            &format!("too-big-{how}"),
            vec![
                how,
                0x80,
                if how == 0 { 3 } else { 2 },
                if how == 0 { 4 } else { 0 },
                0,
                0,
                2,
                0,
                0x80,
                3,
                3,
                0,
                0,
                0,
                0,
            ],
        );
        add(
            "icmp",
            &format!("nearly-{how}"),
            vec![how, 0x81, 3, 4, 0, 0, 2, 0, 24, 255, 0xf8, 3, 1, 0, 0, 0, 0, 0x82, 3, 4, 0, 0, 0, 0, 30],
        );
        // Four pieces out of order; two that overlap; a lie about the end; time.
        let six = how << 7;
        add(
            "reassembly",
            &format!("tiles-{how}"),
            vec![six | 5, 10, 9, six | 5, 0, 9, six | 5, 30, 200, six | 5, 20, 9],
        );
        add(
            "reassembly",
            &format!("overlaps-{how}"),
            vec![six | 6, 0, 9, six | 6, 5, 9, six | 6, 15, 200, 0xff, six | 6, 0, 9],
        );
        add(
            "reassembly",
            &format!("lies-{how}"),
            vec![six | 0x77, 0, 9, six | 7, 0, 9, six | 0x77, 10, 200, six | 7, 10, 200],
        );
        for (number, fates) in [
            &[0u8; 8][..],
            &[7, 0, 8, 9, 10, 0, 40, 3, 11, 0, 20, 12, 1, 13, 0, 0, 9, 9, 14],
            &[9, 9, 9, 0, 0, 7, 7, 9, 14, 29, 1, 2, 3, 4, 45, 9, 9, 9, 9],
        ]
        .iter()
        .enumerate()
        {
            add(
                "link",
                &format!("fates-{number}-{how}"),
                [&[how | 60, 20, 0, 10, 0][..], &[0; 12], fates, fates, fates].concat(),
            );
        }
    }
    for how in [0x20u8, 0x21, 0x30, 0x31, 0x2c, 0x60, 0x80, 0xa2, 0x08] {
        for shape in [2u8, 0x16, 0x3a, 0x4f] {
            let stories: [&[u8]; 6] = [
                // Exchange, the peer ends, we end.
                &[0, 100, 6, 4, 0, 2, 11, 8, 2, 2, 5, 200],
                // A hole, filled; then retransmissions for want of acknowledgements.
                &[1, 1 | 6 << 2, 50, 1, 4, 100, 0, 250, 6, 30, 0, 0x35, 250, 2],
                // Selective acknowledgements with holes, then a timeout.
                &[
                    6, 60, 0, 0x44, 60, 90, 120, 90, 200, 40, 0x44, 60, 90, 120, 90, 0x64, 10, 10, 30, 30,
                    0x35, 100, 2, 2,
                ],
                // Closed windows and probes.
                &[9, 0, 6, 40, 0, 0x35, 200, 0x35, 200, 0x19, 255, 255, 2],
                // Resets and SYNs at the edges; an error of the path.
                &[0x0a, 4, 0x4a, 4, 0xaa, 8, 15, 0, 2, 128, 6, 20, 0, 15, 0, 2, 128, 10, 0],
                // Simultaneous ends, then TIME-WAIT.
                &[8, 11, 2, 0x35, 255, 14, 11, 2],
            ];
            for (number, story) in stories.iter().enumerate() {
                add(
                    "tcp_peer",
                    &format!("{how:02x}-{shape:02x}-{number}"),
                    [&[how, shape][..], story].concat(),
                );
            }
        }
    }
    dns(&mut add);
    config(&mut add);
    packetdrill(&mut add);
    rdma(&mut add);
    seeds
}

/// For each shape of limits: a session and its peer, two sessions; both with steps drawn by lot. And what is read before there is one.
fn rdma(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    let mut lot = 1u32;
    let mut steps = |count: usize| -> Vec<u8> {
        let mut draw = || {
            lot = lot.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (lot >> 24) as u8
        };
        (0..count).map(|_| draw()).collect()
    };
    for shape in [[0x00, 0x00], [0x1b, 0x40], [0x6e, 0x81], [0xd5, 0x5e], [0xff, 0x1f]] {
        let name = format!("{:02x}-{:02x}", shape[0], shape[1]);
        for role in 0..4 {
            let story = [&[0, shape[0], shape[1], 0x66, 0x18, role][..], &steps(300)].concat();
            add("rdma_peer", &format!("hostile-{name}-{role}"), story);
        }
        for other in [[0x00, 0x00], [0x9c, 0x45]] {
            let story = [&[2][..], &shape, &other, &[0], &steps(700)].concat();
            add("rdma_peer", &format!("pair-{name}-{:02x}", other[0]), story);
        }
    }
    let limits =
        [0, 1, 0, 32, 0, 16, 0, 0, 32, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, versions) in [("hello", [1, 1]), ("newer", [9, 1]), ("future", [9, 2])] {
        add("rdma_peer", name, [&b"\x03demi"[..], &versions, &limits].concat());
    }
    add("rdma_peer", "rejection", b"\x03demr\x01\x04\0\0".to_vec());
    add("rdma_peer", "stranger", b"\x03GET / HTTP/1.1\r\n\r\n".to_vec());
}

fn dns(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    add("dns", "resolv-conf", b"\x00nameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch a.example b\noptions ndots:2 timeout:3 rotate\n".to_vec());
    add("dns", "hosts", b"\x01127.0.0.1 localhost\n# no\nfd00::1 www www.example.com\n".to_vec());
    add("dns", "name", b"\x02www.example.com.".to_vec());
    let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
    add("dns", "address", [&[4, 0x80, 0x80, 1, 0, 0][..], &address].concat());
    let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 6, 3, b'c', b'd', b'n', 0xc0, 16];
    let target = [0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 9];
    add("dns", "alias", [&[4, 0x80, 0x80, 2, 0, 0][..], &alias, &target].concat());
    // Names that point at themselves.
    add(
        "dns",
        "loop",
        [&[4, 0x80, 0x80, 1, 0, 0][..], &[0xc0, 33, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 33]].concat(),
    );
    let soa = [
        0xc0, 16, 0, 6, 0, 1, 0, 0, 0, 60, 0, 24, 0xc0, 12, 0xc0, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0,
        0, 0, 4, 0, 0, 0, 5,
    ];
    add("dns", "no-name", [&[4, 0x80, 0x83, 0, 1, 0][..], &soa].concat());
    add("dns", "edns", [&[12, 0x80, 0x80, 0, 0, 1][..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat());
    let v6 = [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16][..], &V6.0.octets()].concat();
    add("dns", "address-6", [&[12, 0x80, 0x80, 1, 0, 0][..], &v6].concat());
    add("dns", "raw", [&[3, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0, 0, 1, 0, 1]].concat());
}

fn config(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    let values = [
        ("device", "tap:demi0;packet:eth1"),
        ("address", "10.0.0.2/24, fd00::2/64"),
        ("gateway", "10.0.0.1,fd00::1"),
        ("mac", "02:00:00:00:00:01"),
        ("cores", "0-3"),
        ("spin_us", "50ms"),
        ("mtu", "1500"),
        ("pool_slot_bytes", "2KiB"),
        ("dns_search", "a.example,b"),
        ("seed", "0x1234"),
        ("log", "info"),
        ("huge_pages", "yes"),
    ];
    for (key, value) in values {
        if let Some(at) = demi::Config::KEYS.iter().position(|known| known.name == key) {
            add("config", key, [&[at as u8][..], value.as_bytes()].concat());
        }
    }
    add(
        "config",
        "file",
        b"\xffdevice = \"tap:demi0\"\nmtu = 1400\naddress = [\"10.0.0.2/24\"]\nhuge_pages = false\n".to_vec(),
    );
}

fn packetdrill(add: &mut impl FnMut(&'static str, &str, Vec<u8>)) {
    let scripts = [
        "--tolerance_usecs=4000\n`sysctl -q net.ipv4.tcp_sack=1`\n0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0\n+0 bind(3, ..., ...) = 0\n+0 listen(3, 1) = 0\n+0 < S 0:0(0) win 32792 <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7>\n+0 > S. 0:0(0) ack 1 <...>\n+.1 < . 1:1(0) ack 1 win 257\n+0 accept(3, ..., ...) = 4\n",
        "0.1 < P. 1:1001(1000) ack 1 win 257 <sack 1:2 3:4,nop,nop>\n+0~+.2 > . 1:1(0) ack 1001\n* %{ assert tcpi_unacked == 3, tcpi_unacked }%\n",
        "0 write(4, ..., 1000) = 1000\n+0 > icmp unreachable frag_needed mtu 1200 [1:1001(1000)]\n+0...0.2 read(4, ..., 10) = -1 EAGAIN (Resource temporarily unavailable)\n/* comment */ // other\n",
        "0 sendto(3, ..., 100, 0, {sa_family = AF_INET, sin_port = htons(8080), sin_addr = inet_addr(\"192.0.2.1\")}, 16) = 100\n+0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLOUT}], 1, 0) = 1\n+0 [ect0] > udp (100)\n",
    ];
    for (number, script) in scripts.iter().enumerate() {
        add("packetdrill", &format!("script-{number}"), script.as_bytes().to_vec());
    }
}
