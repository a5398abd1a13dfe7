//! Packets that a script gives to the stack.

use std::net::SocketAddr;

use demi_netstack::wire::tcp::flags;

use super::flow::{Flow, pattern_bytes};
use super::{Runner, State, Stimulus};
use crate::packet::{self, IcmpNames, IpFields, TcpFields, protocol};
use crate::script::{Ecn, IcmpSpec, IpSpec, PacketBody, PacketSpec, Quoted, TcpOption, TcpSpec};

/// The window of inbound segments that name none.
const DEFAULT_WINDOW: u16 = 0;
/// Time to live of inbound packets that name none.
const DEFAULT_TTL: u8 = 255;

impl Runner {
    /// Gives a packet to the stack.
    pub(super) fn inject(&mut self, spec: &PacketSpec) -> Result<(), String> {
        match &spec.body {
            PacketBody::Tcp(tcp) => self.inject_tcp(spec, tcp),
            PacketBody::Udp(len) => self.inject_udp(spec, *len),
            PacketBody::Icmp(icmp) => self.inject_icmp(&spec.ip, icmp),
        }
    }

    fn ip_fields(&self, spec: &IpSpec, source: SocketAddr, destination: SocketAddr) -> IpFields {
        IpFields {
            source: source.ip(),
            destination: destination.ip(),
            tos: spec.tos.unwrap_or(0) & !3 | spec.ecn.map_or(spec.tos.unwrap_or(0) & 3, Ecn::bits),
            ttl: spec.ttl.unwrap_or(DEFAULT_TTL),
            flow_label: spec.flow_label.unwrap_or(0),
        }
    }

    /// The conversation of an inbound TCP packet; it is made if there is none.
    fn inbound_flow(&mut self, ports: Option<(u16, u16)>) -> usize {
        let (local_ip, remote_ip) = (self.flags.local(self.version), self.flags.remote(self.version));
        let Some((source, destination)) = ports else {
            if let Some(current) = self.current {
                return current;
            }
            self.next_remote_port += 1;
            let remote = SocketAddr::new(remote_ip, self.next_remote_port);
            return self.add_flow(Flow::new(SocketAddr::new(local_ip, self.local_port), remote, false));
        };
        let found = self.flows.iter().rposition(|flow| match flow.script_ports {
            Some(script) => script == (source, destination),
            None => (flow.remote.port(), flow.local.port()) == (source, destination),
        });
        if let Some(found) = found {
            self.current = Some(found);
            return found;
        }
        let (local, remote) = (SocketAddr::new(local_ip, destination), SocketAddr::new(remote_ip, source));
        let mut flow = Flow::new(local, remote, false);
        flow.script_ports = ports;
        self.add_flow(flow)
    }

    pub(super) fn add_flow(&mut self, flow: Flow) -> usize {
        self.flows.push(flow);
        self.current = Some(self.flows.len() - 1);
        self.flows.len() - 1
    }

    fn inject_tcp(&mut self, spec: &PacketSpec, tcp: &TcpSpec) -> Result<(), String> {
        let index = self.inbound_flow(spec.ports);
        let state = self.state_of(index);
        let Some(flow) = self.flows.get_mut(index) else { return Ok(()) };
        let syn = tcp.flags.has(flags::SYN);
        let fresh_syn = syn && !tcp.flags.has(flags::ACK) && state == Some(State::Listen);
        if syn && (flow.remote_isn.is_none() || fresh_syn) {
            flow.remote_isn = Some(tcp.seq);
        }
        let stimulus = flow.classify(tcp);
        let ip = self.ip_fields(&spec.ip, self.flows[index].remote, self.flows[index].local);
        let flow = &mut self.flows[index];
        let fields = TcpFields {
            source_port: flow.remote.port(),
            destination_port: flow.local.port(),
            seq: tcp.seq,
            ack: tcp.ack.map_or(0, |ack| flow.to_live(ack)),
            flags: tcp.flags.0,
            window: tcp.window.unwrap_or(DEFAULT_WINDOW),
            urgent: tcp.urgent.unwrap_or(0),
        };
        let options: Vec<TcpOption> = flow.inbound_options(tcp.options.as_deref().unwrap_or_default());
        let payload = pattern_bytes(flow.peer_offset(tcp.seq.wrapping_add(u32::from(syn))), tcp.len);
        let completes = tcp.ack.is_some() && tcp.ack == flow.sent_end && stimulus != Stimulus::OutOfWindow;
        if completes && !tcp.flags.has(flags::RST) {
            flow.handshake_done = true;
        }
        if stimulus == Stimulus::Reset && state == Some(State::SynReceived) {
            flow.given_up = true;
        }
        let segment = packet::tcp(&ip, &fields, &options, &payload);
        self.host.link.send(&packet::ip(&ip, protocol::TCP, &segment));
        self.note(state, stimulus);
        // A segment with data that also acknowledges, or with FIN, is an event of each kind.
        if stimulus == Stimulus::Fin && tcp.len > 0 {
            self.note(state, Stimulus::Data);
        }
        Ok(())
    }

    fn inject_udp(&mut self, spec: &PacketSpec, len: usize) -> Result<(), String> {
        let local_port = self.host.datagram_ports().next().unwrap_or(self.flags.bind_port);
        let (source, destination) = spec.ports.unwrap_or((self.flags.connect_port, local_port));
        let remote = SocketAddr::new(self.flags.remote(self.version), source);
        let local = SocketAddr::new(self.flags.local(self.version), destination);
        let ip = self.ip_fields(&spec.ip, remote, local);
        let datagram = packet::udp(&ip, source, destination, &pattern_bytes(0, len));
        self.host.link.send(&packet::ip(&ip, protocol::UDP, &datagram));
        Ok(())
    }

    fn inject_icmp(&mut self, spec: &IpSpec, icmp: &IcmpSpec) -> Result<(), String> {
        let v6 = self.version.is_v6();
        let kind = IcmpNames::of(v6).find(&icmp.kind, icmp.code.as_deref())?;
        let local = SocketAddr::new(self.flags.local(self.version), 0);
        let remote = SocketAddr::new(self.flags.remote(self.version), 0);
        let ip = self.ip_fields(spec, remote, local);
        let mut rest = [0; 4];
        if let Some(id) = icmp.echo_id {
            rest[..2].copy_from_slice(&id.to_be_bytes());
        }
        if let Some(mtu) = icmp.mtu {
            rest = if v6 { mtu.to_be_bytes() } else { (mtu & 0xffff).to_be_bytes() };
        }
        let body = match icmp.quoted {
            Some(quoted) => self.quote(quoted)?,
            None if icmp.kind.starts_with("echo") => pattern_bytes(0, 56),
            None => self.quote(Quoted::Tcp { seq: 0, len: 0 })?,
        };
        let message = packet::icmp(&ip, kind.kind, kind.code, rest, &body);
        let protocol = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        self.host.link.send(&packet::ip(&ip, protocol, &message));
        Ok(())
    }

    /// A packet of the stack's as a router would quote it: the IP header and what RFC 1812 §4.3.2.3 asks for at least of the
    /// rest.
    fn quote(&self, quoted: Quoted) -> Result<Vec<u8>, String> {
        let spec = IpSpec { ttl: Some(64), ..IpSpec::default() };
        let (ip, protocol, whole, kept) = match quoted {
            Quoted::Tcp { seq, len } => {
                let flow = self.current.and_then(|current| self.flows.get(current));
                let flow = flow.ok_or("there is no conversation that this message could be about")?;
                let ip = self.ip_fields(&spec, flow.local, flow.remote);
                let fields = TcpFields {
                    source_port: flow.local.port(),
                    destination_port: flow.remote.port(),
                    seq: flow.to_live(seq),
                    ack: flow.acked.unwrap_or(0),
                    flags: flags::ACK,
                    window: 0,
                    urgent: 0,
                };
                (ip, protocol::TCP, packet::tcp(&ip, &fields, &[], &vec![0; len]), 20)
            }
            Quoted::Udp { len } => {
                let local_port = self.host.datagram_ports().next().unwrap_or(self.flags.bind_port);
                let local = SocketAddr::new(self.flags.local(self.version), local_port);
                let remote = SocketAddr::new(self.flags.remote(self.version), self.flags.connect_port);
                let ip = self.ip_fields(&spec, local, remote);
                (ip, protocol::UDP, packet::udp(&ip, local_port, remote.port(), &pattern_bytes(0, len)), 8)
            }
            Quoted::Raw { .. } => return Err("quotes of raw packets are not supported".to_owned()),
        };
        let mut packet = packet::ip(&ip, protocol, &whole);
        packet.truncate(packet.len() - whole.len() + kept);
        Ok(packet)
    }
}

impl Flow {
    /// What decides a segment's fate (RFC 9293 §3.10.7), as far as the other end can tell.
    fn classify(&self, tcp: &TcpSpec) -> Stimulus {
        let before = |a: u32, b: u32| (a.wrapping_sub(b) as i32) < 0;
        let ack = tcp.flags.has(flags::ACK);
        let occupied = tcp.len as u32 + u32::from(tcp.flags.has(flags::FIN));
        let expected = self.acked;
        if tcp.flags.has(flags::RST) {
            // Without a window to lie in, what counts is whether it acknowledges the SYN.
            let exact = match expected {
                Some(expected) => tcp.seq == expected,
                None => tcp.ack.is_some() && tcp.ack == self.sent_end,
            };
            return if exact { Stimulus::Reset } else { Stimulus::OtherReset };
        }
        if tcp.flags.has(flags::SYN) {
            return if ack { Stimulus::SynAck } else { Stimulus::Syn };
        }
        if let (Some(expected), Some(end)) = (expected, self.window_end) {
            let in_window = if occupied == 0 {
                !before(tcp.seq, expected) && !before(end, tcp.seq)
            } else {
                before(expected, tcp.seq.wrapping_add(occupied)) && before(tcp.seq, end)
            };
            if !in_window {
                return Stimulus::OutOfWindow;
            }
        }
        if !ack {
            return Stimulus::NoAck;
        }
        if let (Some(acked), Some(sent)) = (tcp.ack, self.sent_end)
            && before(sent, acked)
        {
            return Stimulus::BadAck;
        }
        match (tcp.flags.has(flags::FIN), expected) {
            (_, Some(expected)) if occupied > 0 && before(expected, tcp.seq) => Stimulus::Gap,
            (true, _) => Stimulus::Fin,
            (false, _) if tcp.len > 0 => Stimulus::Data,
            _ => Stimulus::Ack,
        }
    }
}
