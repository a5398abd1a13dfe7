//! The program that says which frames are ours: all others stay the kernel's.
//!
//! It is assembled here, for one Ethernet address and one VLAN or none, and looks our IP addresses up in a map that is filled as they
//! come and go. It owns no state beside that. A frame that it cannot read, the kernel gets.

use super::asm::{Asm, Label, Reg, Width};

/// What the program answers, but for a socket's frames (linux/bpf.h).
pub(super) const PASS: u32 = 2;
/// As a fall-back, in trial runs: there is no socket, and this tells that there would have been one.
pub(super) const DROP: u32 = 1;

/// Bits of the state word: leases are awaited, router advertisements are ours.
pub(super) const DHCP: u32 = 1;
pub(super) const ROUTERS: u32 = 2;

/// Helpers of the kernel.
const LOOKUP: i32 = 1;
const REDIRECT: i32 = 51;
/// Fields of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const QUEUE: i16 = 16;
/// Places on the stack.
const KEY: i16 = -16;
const ZERO: i16 = -20;

/// What the program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) mac: [u8; 6],
    pub(super) vlan: Option<u16>,
    /// Descriptors of the maps: addresses, state, sockets.
    pub(super) addresses: i32,
    pub(super) state: i32,
    pub(super) sockets: i32,
    /// What to answer where the queue has no socket.
    pub(super) fallback: u32,
}

struct Writer {
    asm: Asm,
    shape: Shape,
    /// Where the Ethernet header, with a tag or without, ends.
    l3: i16,
    ours: Label,
    pass: Label,
}

/// The bytes of a field as a load of it gives them.
fn half(bytes: [u8; 2]) -> i32 {
    u16::from_ne_bytes(bytes).into()
}

fn word(bytes: [u8; 4]) -> i32 {
    i32::from_ne_bytes(bytes)
}

impl Writer {
    /// Passes the frame if it is shorter than `bytes` behind the Ethernet header.
    fn need(&mut self, bytes: i16) {
        let pass = self.pass;
        self.asm.copy(Reg::R2, Reg::R7);
        self.asm.add(Reg::R2, (self.l3 + bytes).into());
        self.asm.if_above(Reg::R2, Reg::R8, pass);
    }

    /// `dst` = the field at byte `at` behind the Ethernet header.
    fn field(&mut self, width: Width, dst: Reg, at: i16) {
        self.asm.load(width, dst, Reg::R7, self.l3 + at);
    }

    /// Jumps to `ours` if the key on the stack is in the map.
    fn look_up(&mut self) {
        let (map, ours) = (self.shape.addresses, self.ours);
        self.asm.map(Reg::R1, map);
        self.asm.copy(Reg::R2, Reg::R10);
        self.asm.add(Reg::R2, KEY.into());
        self.asm.call(LOOKUP);
        self.asm.if_not(Reg::R0, 0, ours);
    }

    /// Looks the IPv4 address in R3 up, which the map has as IPv6 maps them.
    fn look_up_v4(&mut self) {
        self.asm.store_value(Width::Double, Reg::R10, KEY, 0);
        self.asm.store_value(Width::Word, Reg::R10, KEY + 8, word([0, 0, 0xff, 0xff]));
        self.asm.store(Width::Word, Reg::R10, KEY + 12, Reg::R3);
        self.look_up();
    }

    /// Passes the frame if a bit of the state is not set.
    fn need_state(&mut self, bit: u32) {
        let pass = self.pass;
        self.asm.store_value(Width::Word, Reg::R10, ZERO, 0);
        self.asm.map(Reg::R1, self.shape.state);
        self.asm.copy(Reg::R2, Reg::R10);
        self.asm.add(Reg::R2, ZERO.into());
        self.asm.call(LOOKUP);
        self.asm.if_equal(Reg::R0, 0, pass);
        self.asm.load(Width::Word, Reg::R0, Reg::R0, 0);
        self.asm.and(Reg::R0, bit as i32);
        self.asm.if_equal(Reg::R0, 0, pass);
    }

    /// For groups, or for our Ethernet address; in our VLAN, if we are in one.
    fn ethernet(&mut self) {
        let (pass, Shape { mac: [a, b, c, d, e, f], vlan, .. }) = (self.pass, self.shape);
        let group = self.asm.label();
        self.asm.load(Width::Byte, Reg::R3, Reg::R7, 0);
        self.asm.and(Reg::R3, 1);
        self.asm.if_not(Reg::R3, 0, group);
        self.asm.load(Width::Word, Reg::R3, Reg::R7, 0);
        self.asm.if_not_word(Reg::R3, word([a, b, c, d]), pass);
        self.asm.load(Width::Half, Reg::R3, Reg::R7, 4);
        self.asm.if_not(Reg::R3, half([e, f]), pass);
        self.asm.place(group);
        if let Some(id) = vlan {
            self.asm.load(Width::Half, Reg::R3, Reg::R7, 12);
            self.asm.if_not(Reg::R3, half([0x81, 0x00]), pass);
            self.asm.load(Width::Half, Reg::R3, Reg::R7, 14);
            self.asm.and(Reg::R3, half([0x0f, 0xff]));
            self.asm.if_not(Reg::R3, half(id.to_be_bytes()), pass);
        }
    }

    fn ipv4(&mut self) {
        let (ours, pass) = (self.ours, self.pass);
        self.field(Width::Word, Reg::R3, 16);
        self.look_up_v4();
        // What a DHCP server answers to an address that is not ours yet (RFC 2131 §4.1): UDP to port 68, no options, no
        // fragment.
        self.need(24);
        self.field(Width::Byte, Reg::R3, 0);
        self.asm.if_not(Reg::R3, 0x45, pass);
        self.field(Width::Byte, Reg::R3, 9);
        self.asm.if_not(Reg::R3, 17, pass);
        self.field(Width::Half, Reg::R3, 6);
        self.asm.and(Reg::R3, half([0x1f, 0xff]));
        self.asm.if_not(Reg::R3, 0, pass);
        self.field(Width::Half, Reg::R3, 22);
        self.asm.if_not(Reg::R3, half(68u16.to_be_bytes()), pass);
        self.need_state(DHCP);
        self.asm.go(ours);
    }

    fn arp(&mut self) {
        let (ours, pass) = (self.ours, self.pass);
        self.need(28);
        // Who asks for our address, or answers to it; or says that it is theirs (RFC 5227 §2.4).
        self.field(Width::Word, Reg::R3, 24);
        self.look_up_v4();
        self.field(Width::Word, Reg::R3, 14);
        self.look_up_v4();
        // Who answers a probe for an address that is not ours yet: to nobody's address, at our station.
        self.field(Width::Word, Reg::R3, 24);
        self.asm.if_not(Reg::R3, 0, pass);
        self.asm.load(Width::Byte, Reg::R3, Reg::R7, 0);
        self.asm.and(Reg::R3, 1);
        self.asm.if_equal(Reg::R3, 0, ours);
        self.asm.go(pass);
    }

    fn ipv6(&mut self) {
        let (ours, pass) = (self.ours, self.pass);
        let all_nodes = [[0xff, 2, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]].map(u64::from_ne_bytes);
        self.need(40);
        self.field(Width::Double, Reg::R3, 24);
        self.asm.store(Width::Double, Reg::R10, KEY, Reg::R3);
        self.field(Width::Double, Reg::R3, 32);
        self.asm.store(Width::Double, Reg::R10, KEY + 8, Reg::R3);
        self.look_up();
        // To all nodes: a router's advertisement, or who says that an address is theirs (RFC 4861 §4.2, §4.4).
        for (half, at) in all_nodes.into_iter().zip([24, 32]) {
            self.field(Width::Double, Reg::R3, at);
            self.asm.set_wide(Reg::R4, half);
            self.asm.if_unlike(Reg::R3, Reg::R4, pass);
        }
        self.field(Width::Byte, Reg::R3, 6);
        self.asm.if_not(Reg::R3, 58, pass);
        self.need(56);
        let routers = self.asm.label();
        self.field(Width::Byte, Reg::R3, 40);
        self.asm.if_equal(Reg::R3, 134, routers);
        self.asm.if_not(Reg::R3, 136, pass);
        // Ours, or about to become so: then we are in its solicited-node group (RFC 4291 §2.7.1).
        self.need(64);
        self.asm.set_wide(Reg::R3, all_nodes[0]);
        self.asm.store(Width::Double, Reg::R10, KEY, Reg::R3);
        self.asm.store_value(Width::Word, Reg::R10, KEY + 8, word([0, 0, 0, 1]));
        self.field(Width::Word, Reg::R3, 60);
        self.asm.or(Reg::R3, word([0xff, 0, 0, 0]));
        self.asm.store(Width::Word, Reg::R10, KEY + 12, Reg::R3);
        self.look_up();
        self.asm.go(pass);
        self.asm.place(routers);
        self.need_state(ROUTERS);
        self.asm.go(ours);
    }
}

/// The code.
pub(super) fn assemble(shape: Shape) -> Option<Vec<u64>> {
    let mut asm = Asm::default();
    let [ours, pass, ipv4, ipv6, arp] = [(); 5].map(|()| asm.label());
    let l3 = if shape.vlan.is_some() { 18 } else { 14 };
    let mut writer = Writer { asm, shape, l3, ours, pass };
    // R6: the context. R7: the frame. R8: its end.
    writer.asm.copy(Reg::R6, Reg::R1);
    writer.asm.load(Width::Word, Reg::R7, Reg::R1, DATA);
    writer.asm.load(Width::Word, Reg::R8, Reg::R1, DATA_END);
    writer.need(20);
    writer.ethernet();
    writer.field(Width::Half, Reg::R3, -2);
    for (kind, label) in [([0x08, 0x00], ipv4), ([0x86, 0xdd], ipv6), ([0x08, 0x06], arp)] {
        writer.asm.if_equal(Reg::R3, half(kind), label);
    }
    writer.asm.place(pass);
    writer.asm.set(Reg::R0, PASS as i32);
    writer.asm.exit();
    writer.asm.place(ours);
    writer.asm.load(Width::Word, Reg::R2, Reg::R6, QUEUE);
    writer.asm.map(Reg::R1, shape.sockets);
    writer.asm.set(Reg::R3, shape.fallback as i32);
    writer.asm.call(REDIRECT);
    writer.asm.exit();
    writer.asm.place(ipv4);
    writer.ipv4();
    writer.asm.place(arp);
    writer.arp();
    writer.asm.place(ipv6);
    writer.ipv6();
    writer.asm.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_no_loose_ends_and_few_instructions() {
        for vlan in [None, Some(7)] {
            let shape =
                Shape { mac: [2, 0, 0, 0, 0, 1], vlan, addresses: 3, state: 4, sockets: 5, fallback: PASS };
            let code = assemble(shape).unwrap();
            assert!(code.len() < 200, "{} instructions", code.len());
        }
    }
}
