//! Packets that a script expects of the stack: each is compared to the byte of its options, and to the byte of its payload with what
//! the application wrote.

use std::fmt::Write;
use std::net::SocketAddr;

use demi_netstack::wire::tcp::flags;

use super::flow::pattern_bytes;
use super::{Runner, seconds};
use crate::packet::{Body, IcmpNames, Packet, TcpSegment};
use crate::script::{Ecn, IcmpSpec, IpSpec, PacketBody, PacketSpec, Quoted, TcpFlags, TcpOption, TcpSpec};

impl Runner {
    /// Waits for the next packet and compares it with `spec`; it is due between `from` and `to`. Answers when it was sent.
    pub(super) fn expect(&mut self, spec: &PacketSpec, from: i64, to: i64) -> Result<i64, String> {
        let tolerance_us = self.flags.tolerance_us;
        let limit = self.instant(to.saturating_add(tolerance_us));
        self.settle()?;
        let (when, bytes) = loop {
            if let Some(packet) = self.host.link.receive() {
                break packet;
            }
            if self.host.now >= limit {
                let expected = show_spec(spec);
                return Err(format!("nothing was sent until {}:\n    expected {expected}", seconds(to)));
            }
            self.tick(limit)?;
        };
        let sent_us = self.micros(when);
        let mut differences = Vec::new();
        let packet = match Packet::read(&bytes) {
            Ok(packet) => packet,
            Err(what) => return Err(format!("the stack sent {what}: {bytes:02x?}")),
        };
        let packet = self.coalesced(spec, packet);
        let actual = self.show_packet(&packet);
        if sent_us < from - tolerance_us || sent_us > to + tolerance_us {
            let (due, sent) = (seconds(if sent_us < from { from } else { to }), seconds(sent_us));
            differences.push(format!("it was due at {due} and sent at {sent}"));
        }
        self.compare(spec, &packet, sent_us, &mut differences);
        if differences.is_empty() {
            return Ok(sent_us);
        }
        let (expected, differences) = (show_spec(spec), differences.join("; "));
        Err(format!("{differences}\n    expected {expected}\n    actual   {actual}"))
    }

    /// A segment that the script expects longer than it is, with those that follow it: where scripts come from, a device cuts
    /// large segments up, and the expected one is what it was before. All but the last of the pieces are of one length.
    fn coalesced(&mut self, spec: &PacketSpec, mut packet: Packet) -> Packet {
        let (PacketBody::Tcp(expected), Body::Tcp(first)) = (&spec.body, &mut packet.body) else {
            return packet;
        };
        let piece = first.payload.len();
        while piece > 0 && first.payload.len() < expected.len && first.payload.len().is_multiple_of(piece) {
            let Some((_, bytes)) = self.host.link.peek() else { break };
            let Ok(Packet { ip, body: Body::Tcp(next) }) = Packet::read(&bytes) else { break };
            let mut wanted = first.fields;
            wanted.seq = first.fields.seq.wrapping_add(first.payload.len() as u32);
            // Of the flags the first's hold, and PSH and FIN of the last.
            let last = flags::PSH | flags::FIN;
            wanted.flags = next.fields.flags & last | first.fields.flags & !last;
            let follows = next.fields == wanted && next.options == first.options && ip == packet.ip;
            let fits =
                next.payload.len() <= piece && first.payload.len() + next.payload.len() <= expected.len;
            if !follows || !fits || next.payload.is_empty() || first.fields.flags & last != 0 {
                break;
            }
            first.fields.flags = next.fields.flags;
            first.payload.extend_from_slice(&next.payload);
            let _ = self.host.link.receive();
        }
        packet
    }

    fn compare(&mut self, spec: &PacketSpec, packet: &Packet, sent_us: i64, differences: &mut Vec<String>) {
        compare_ip(&spec.ip, packet, differences);
        match (&spec.body, &packet.body) {
            (PacketBody::Tcp(tcp), Body::Tcp(segment)) => {
                self.compare_tcp(spec, tcp, packet, segment, sent_us, differences);
            }
            (PacketBody::Udp(len), Body::Udp { source_port, destination_port, payload }) => {
                if payload.len() != *len {
                    differences.push(format!("it has {} bytes of payload, not {len}", payload.len()));
                }
                if spec.ports.is_some_and(|ports| ports != (*source_port, *destination_port)) {
                    differences.push(format!("its ports are {source_port}>{destination_port}"));
                }
                if *payload != pattern_bytes(0, payload.len()) {
                    differences.push("its payload is not what was written".to_owned());
                }
            }
            (PacketBody::Icmp(icmp), Body::Icmp { kind, rest, body }) => {
                let names = IcmpNames::of(packet.ip.source.is_ipv6());
                match names.find(&icmp.kind, icmp.code.as_deref()) {
                    Ok(expected) if expected == *kind => {}
                    Ok(_) => differences.push(format!("it is {}", names.name(*kind))),
                    Err(message) => differences.push(message),
                }
                if let Some(mtu) = icmp.mtu
                    && u32::from_be_bytes(*rest) != mtu
                {
                    differences.push(format!("it says mtu {}", u32::from_be_bytes(*rest)));
                }
                compare_quote(icmp, body, differences);
            }
            _ => differences.push("it is a packet of another protocol".to_owned()),
        }
    }

    fn compare_tcp(
        &mut self,
        spec: &PacketSpec,
        tcp: &TcpSpec,
        packet: &Packet,
        segment: &TcpSegment,
        sent_us: i64,
        differences: &mut Vec<String>,
    ) {
        let fields = &segment.fields;
        let Some(index) = self.flow_of(packet, segment) else {
            differences.push("it belongs to no conversation of the script".to_owned());
            return;
        };
        let (tick_us, tolerance_us) = (self.flags.timestamp_tick_us, self.flags.tolerance_us);
        let Some(flow) = self.flows.get_mut(index) else { return };
        if let Some((source, destination)) = spec.ports {
            // The script's name for a port that the stack has chosen.
            let script = *flow.script_ports.get_or_insert((destination, source));
            if script != (destination, source) {
                differences.push(format!("it goes from port {} to {}", script.1, script.0));
            }
        }
        let actual_flags = TcpFlags(fields.flags);
        if actual_flags.has(flags::SYN) {
            flow.learn_local_isn(tcp.seq, fields.seq);
        }
        if actual_flags != tcp.flags {
            differences.push(format!("its flags are {actual_flags}, not {}", tcp.flags));
        }
        let seq = flow.to_script(fields.seq);
        if (seq, segment.payload.len()) != (tcp.seq, tcp.len) {
            differences.push(format!(
                "it is {}, not {}",
                range(seq, segment.payload.len()),
                range(tcp.seq, tcp.len)
            ));
        }
        if tcp.ack.unwrap_or(0) != fields.ack {
            differences.push(format!("ack is {}, not {}", fields.ack, tcp.ack.unwrap_or(0)));
        }
        if let Some(window) = tcp.window
            && window != fields.window
        {
            differences.push(format!("win is {}, not {window}", fields.window));
        }
        if tcp.urgent.unwrap_or(0) != fields.urgent {
            differences.push(format!("urg is {}, not {}", fields.urgent, tcp.urgent.unwrap_or(0)));
        }
        if let Some(expected) = &tcp.options {
            let (mut actual, mut expected) = (segment.options.clone(), expected.clone());
            if self.flags.any_option_order {
                bare(&mut actual);
                bare(&mut expected);
            }
            for (actual, expected) in actual.iter_mut().zip(&expected) {
                if let (
                    TcpOption::Timestamps { value: live, .. },
                    TcpOption::Timestamps { value: script, .. },
                ) = (actual, expected)
                {
                    match flow.learn_timestamp(*script, *live, sent_us, tick_us, tolerance_us) {
                        Ok(()) => *live = *script,
                        Err(difference) => differences.push(difference),
                    }
                }
            }
            if actual != expected {
                differences.push(format!("its options are <{}>", list(&actual)));
            }
        }
        if !segment.payload.is_empty() {
            // A SYN comes before what it carries.
            let syn = u32::from(actual_flags.has(flags::SYN));
            let offset = flow.written_offset(fields.seq.wrapping_add(syn));
            let written = offset.and_then(|offset| flow.written.get(offset..offset + segment.payload.len()));
            if written != Some(&segment.payload[..]) {
                differences.push("its payload is not what was written".to_owned());
            }
        }
        flow.sent(segment);
    }

    /// The conversation that a packet of the stack's belongs to.
    fn flow_of(&self, packet: &Packet, segment: &TcpSegment) -> Option<usize> {
        let local = SocketAddr::new(packet.ip.source, segment.fields.source_port);
        let remote = SocketAddr::new(packet.ip.destination, segment.fields.destination_port);
        self.flows.iter().rposition(|flow| (flow.local, flow.remote) == (local, remote))
    }

    pub(super) fn flow_of_packet(&self, bytes: &[u8]) -> Option<usize> {
        let packet = Packet::read(bytes).ok()?;
        match &packet.body {
            Body::Tcp(segment) => self.flow_of(&packet, segment),
            _ => None,
        }
    }

    /// A packet in the notation of scripts.
    pub(super) fn show(&self, bytes: &[u8]) -> String {
        match Packet::read(bytes) {
            Ok(packet) => self.show_packet(&packet),
            Err(what) => what,
        }
    }

    fn show_packet(&self, packet: &Packet) -> String {
        let ecn = ["", "[ect1] ", "[ect0] ", "[ce] "][usize::from(packet.ip.tos & 3)];
        match &packet.body {
            Body::Tcp(segment) => {
                let fields = &segment.fields;
                let flow = self.flow_of(packet, segment).and_then(|index| self.flows.get(index));
                let ports = match flow {
                    Some(_) => String::new(),
                    None => format!("{}>{} ", fields.source_port, fields.destination_port),
                };
                let seq = flow.map_or(fields.seq, |flow| flow.to_script(fields.seq));
                let mut options = segment.options.clone();
                for option in &mut options {
                    if let (TcpOption::Timestamps { value, .. }, Some(flow)) = (option, flow) {
                        *value = flow.script_timestamp(*value);
                    }
                }
                let tcp = TcpSpec {
                    flags: TcpFlags(fields.flags),
                    seq,
                    len: segment.payload.len(),
                    ack: (fields.flags & flags::ACK != 0).then_some(fields.ack),
                    window: Some(fields.window),
                    urgent: (fields.urgent != 0).then_some(fields.urgent),
                    options: Some(options),
                };
                format!("> {ecn}{ports}{}", show_tcp(&tcp))
            }
            Body::Udp { source_port, destination_port, payload } => {
                format!("> {ecn}udp {source_port}>{destination_port} ({})", payload.len())
            }
            Body::Icmp { kind, rest, .. } => {
                let name = IcmpNames::of(packet.ip.source.is_ipv6()).name(*kind);
                format!("> {ecn}icmp {name} ({})", u32::from_be_bytes(*rest))
            }
        }
    }
}

impl super::flow::Flow {
    /// Takes note of what the stack has told.
    fn sent(&mut self, segment: &TcpSegment) {
        let fields = &segment.fields;
        let has = |bit: u16| fields.flags & bit != 0;
        let syn = has(flags::SYN);
        if has(flags::RST) {
            return;
        }
        if syn {
            let scale = segment.options.iter().find_map(|option| match option {
                TcpOption::WindowScale(shift) => Some(*shift),
                _ => None,
            });
            self.local_scale = scale.unwrap_or(0);
        }
        if has(flags::ACK) {
            self.acked = Some(fields.ack);
            let window = u32::from(fields.window) << if syn { 0 } else { self.local_scale.min(14) };
            let end = fields.ack.wrapping_add(window);
            // A window once offered stays.
            self.window_end = match self.window_end {
                Some(old) if (end.wrapping_sub(old) as i32) < 0 => Some(old),
                _ => Some(end),
            };
        }
        let occupied = segment.payload.len() as u32 + u32::from(syn) + u32::from(has(flags::FIN));
        let end = self.to_script(fields.seq).wrapping_add(occupied);
        self.sent_end = match self.sent_end {
            Some(old) if (end.wrapping_sub(old) as i32) < 0 => Some(old),
            _ => Some(end),
        };
    }
}

fn compare_ip(spec: &IpSpec, packet: &Packet, differences: &mut Vec<String>) {
    let ip = &packet.ip;
    if let Some(ecn) = spec.ecn
        && !ecn.matches(ip.tos)
    {
        differences.push(format!("its ECN bits are {}", ip.tos & 3));
    }
    if let Some(tos) = spec.tos
        && tos != ip.tos
    {
        differences.push(format!("its type of service is {:#x}, not {tos:#x}", ip.tos));
    }
    if let Some(ttl) = spec.ttl
        && ttl != ip.ttl
    {
        differences.push(format!("its time to live is {}, not {ttl}", ip.ttl));
    }
    if let Some(label) = spec.flow_label
        && label != ip.flow_label
    {
        differences.push(format!("its flow label is {:#x}, not {label:#x}", ip.flow_label));
    }
}

/// Compares the datagram that an ICMP error of the stack's quotes.
fn compare_quote(icmp: &IcmpSpec, body: &[u8], differences: &mut Vec<String>) {
    let Some(Quoted::Udp { len }) = icmp.quoted else { return };
    let header = match body.first().map(|first| first >> 4) {
        Some(4) => 20,
        _ => 40,
    };
    let quoted =
        body.get(header + 4..header + 6).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    if quoted != Some(len + 8) {
        differences
            .push(format!("it quotes a datagram of {quoted:?} bytes, header included, not {}", len + 8));
    }
}

/// Options without padding, by their kind.
fn bare(options: &mut Vec<TcpOption>) {
    options.retain(|option| !matches!(option, TcpOption::Nop | TcpOption::Eol));
    options.sort_by_key(|option| crate::packet::option_bytes(core::slice::from_ref(option)).first().copied());
}

fn range(seq: u32, len: usize) -> String {
    format!("{seq}:{}({len})", seq.wrapping_add(len as u32))
}

fn list(options: &[TcpOption]) -> String {
    options.iter().map(TcpOption::to_string).collect::<Vec<_>>().join(",")
}

fn show_tcp(tcp: &TcpSpec) -> String {
    let mut text = format!("{} {}", tcp.flags, range(tcp.seq, tcp.len));
    let mut add = |word: &str, value: Option<u32>| {
        if let Some(value) = value {
            let _ = write!(text, " {word} {value}");
        }
    };
    add("ack", tcp.ack);
    add("win", tcp.window.map(u32::from));
    add("urg", tcp.urgent.map(u32::from));
    match &tcp.options {
        None => text.push_str(" <...>"),
        Some(options) if options.is_empty() => {}
        Some(options) => {
            let _ = write!(text, " <{}>", list(options));
        }
    }
    text
}

/// An expected packet in the notation of scripts.
fn show_spec(spec: &PacketSpec) -> String {
    let ecn = match spec.ip.ecn {
        None => "",
        Some(Ecn::None) => "[noecn] ",
        Some(Ecn::Ect0) => "[ect0] ",
        Some(Ecn::Ect1) => "[ect1] ",
        Some(Ecn::Ect01) => "[ect01] ",
        Some(Ecn::Ce) => "[ce] ",
    };
    let ports =
        spec.ports.map(|(source, destination)| format!("{source}>{destination} ")).unwrap_or_default();
    let body = match &spec.body {
        PacketBody::Tcp(tcp) => format!("{ports}{}", show_tcp(tcp)),
        PacketBody::Udp(len) => format!("udp {ports}({len})"),
        PacketBody::Icmp(icmp) => {
            let mtu = icmp.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
            format!(
                "icmp {}{}{mtu}",
                icmp.kind,
                icmp.code.as_deref().map(|code| format!(" {code}")).unwrap_or_default()
            )
        }
    };
    format!("> {ecn}{body}")
}
