//! A tiny assembler of eBPF: instructions by name, jumps by label (Documentation/bpf/standardization/instruction-set.rst).
//!
//! Owns nothing but the code. Whether a program is a good one, the kernel's verifier says.

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    /// What a call answers, and the program.
    R0 = 0,
    /// Arguments of a call, which it spoils.
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    /// Kept over calls.
    R6 = 6,
    R7 = 7,
    R8 = 8,
    /// End of the stack.
    R10 = 10,
}

/// How many bytes a load or a store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// A place in the code, to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Code that is being written.
#[derive(Debug, Default)]
pub(super) struct Asm {
    code: Vec<u64>,
    /// Where each label is; `None` until it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps to be completed.
    jumps: Vec<(usize, Label)>,
}

const LDX_MEM: u8 = 0x61;
const STX_MEM: u8 = 0x63;
const ST_MEM: u8 = 0x62;
const LD_IMM64: u8 = 0x18;
const ALU64_K: u8 = 0x07;
const MOV64_K: u8 = 0xb7;
const MOV64_X: u8 = 0xbf;
const AND64_K: u8 = 0x57;
const OR64_K: u8 = 0x47;
const JA: u8 = 0x05;
const JEQ_K: u8 = 0x15;
const JNE_K: u8 = 0x55;
const JNE_X: u8 = 0x5d;
const JGT_X: u8 = 0x2d;
/// As `JNE_K` of the lower 32 bits.
const JNE32_K: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The constant of `LD_IMM64` is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;

fn encode(op: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    // `struct bpf_insn`: bytes in memory order, fields in the machine's own.
    let [offset_0, offset_1] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src };
    u64::from_ne_bytes([op, registers, offset_0, offset_1, a, b, c, d])
}

impl Asm {
    fn put(&mut self, op: u8, dst: Reg, src: u8, offset: i16, value: i32) {
        self.code.push(encode(op, dst as u8, src, offset, value));
    }

    /// `dst = value`.
    pub(super) fn set(&mut self, dst: Reg, value: i32) {
        self.put(MOV64_K, dst, 0, 0, value);
    }

    /// `dst = src`.
    pub(super) fn copy(&mut self, dst: Reg, src: Reg) {
        self.put(MOV64_X, dst, src as u8, 0, 0);
    }

    /// `dst = value`, of 64 bits.
    pub(super) fn set_wide(&mut self, dst: Reg, value: u64) {
        self.put(LD_IMM64, dst, 0, 0, value as i32);
        self.code.push(encode(0, 0, 0, 0, (value >> 32) as i32));
    }

    /// `dst` = the map whose descriptor is `fd`.
    pub(super) fn map(&mut self, dst: Reg, fd: i32) {
        self.put(LD_IMM64, dst, PSEUDO_MAP_FD, 0, fd);
        self.code.push(0);
    }

    /// `dst += value`.
    pub(super) fn add(&mut self, dst: Reg, value: i32) {
        self.put(ALU64_K, dst, 0, 0, value);
    }

    /// `dst &= value`.
    pub(super) fn and(&mut self, dst: Reg, value: i32) {
        self.put(AND64_K, dst, 0, 0, value);
    }

    /// `dst |= value`.
    pub(super) fn or(&mut self, dst: Reg, value: i32) {
        self.put(OR64_K, dst, 0, 0, value);
    }

    /// `dst` = what `src + offset` points to.
    pub(super) fn load(&mut self, width: Width, dst: Reg, src: Reg, offset: i16) {
        self.put(LDX_MEM | width as u8, dst, src as u8, offset, 0);
    }

    /// What `dst + offset` points to = `src`.
    pub(super) fn store(&mut self, width: Width, dst: Reg, offset: i16, src: Reg) {
        self.put(STX_MEM | width as u8, dst, src as u8, offset, 0);
    }

    /// What `dst + offset` points to = `value`.
    pub(super) fn store_value(&mut self, width: Width, dst: Reg, offset: i16, value: i32) {
        self.put(ST_MEM | width as u8, dst, 0, offset, value);
    }

    /// Calls the kernel's helper of that number.
    pub(super) fn call(&mut self, helper: i32) {
        self.put(CALL, Reg::R0, 0, 0, helper);
    }

    /// Ends the program.
    pub(super) fn exit(&mut self) {
        self.put(EXIT, Reg::R0, 0, 0, 0);
    }

    /// A label to be placed.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    fn jump(&mut self, op: u8, dst: Reg, src: u8, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(op, dst, src, 0, value);
    }

    /// Jumps.
    pub(super) fn go(&mut self, to: Label) {
        self.jump(JA, Reg::R0, 0, 0, to);
    }

    /// Jumps if `a == value`.
    pub(super) fn if_equal(&mut self, a: Reg, value: i32, to: Label) {
        self.jump(JEQ_K, a, 0, value, to);
    }

    /// Jumps if `a != value`.
    pub(super) fn if_not(&mut self, a: Reg, value: i32, to: Label) {
        self.jump(JNE_K, a, 0, value, to);
    }

    /// Jumps if the lower 32 bits of `a` are not `value`.
    pub(super) fn if_not_word(&mut self, a: Reg, value: i32, to: Label) {
        self.jump(JNE32_K, a, 0, value, to);
    }

    /// Jumps if `a != b`.
    pub(super) fn if_unlike(&mut self, a: Reg, b: Reg, to: Label) {
        self.jump(JNE_X, a, b as u8, 0, to);
    }

    /// Jumps if `a > b`.
    pub(super) fn if_above(&mut self, a: Reg, b: Reg, to: Label) {
        self.jump(JGT_X, a, b as u8, 0, to);
    }

    /// The finished code; `None` if a jump has nowhere to go.
    pub(super) fn finish(mut self) -> Option<Vec<u64>> {
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten()?;
            let distance = i16::try_from(target as i64 - at as i64 - 1).ok()?;
            let mut bytes = self.code[at].to_ne_bytes();
            bytes[2..4].copy_from_slice(&distance.to_ne_bytes());
            self.code[at] = u64::from_ne_bytes(bytes);
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(asm: Asm) -> Vec<[u8; 8]> {
        asm.finish().unwrap().into_iter().map(u64::to_ne_bytes).collect()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut asm = Asm::default();
        asm.load(Width::Word, Reg::R2, Reg::R1, 16);
        asm.store(Width::Double, Reg::R10, -16, Reg::R3);
        asm.store_value(Width::Word, Reg::R10, -4, 7);
        asm.map(Reg::R1, 5);
        asm.set_wide(Reg::R4, 0x1122_3344_5566_7788);
        asm.set(Reg::R3, 2);
        asm.call(51);
        asm.exit();
        assert_eq!(
            bytes(asm),
            [
                [0x61, 0x12, 16, 0, 0, 0, 0, 0],
                [0x7b, 0x3a, 0xf0, 0xff, 0, 0, 0, 0],
                [0x62, 0x0a, 0xfc, 0xff, 7, 0, 0, 0],
                [0x18, 0x11, 0, 0, 5, 0, 0, 0],
                [0; 8],
                [0x18, 0x04, 0, 0, 0x88, 0x77, 0x66, 0x55],
                [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11],
                [0xb7, 3, 0, 0, 2, 0, 0, 0],
                [0x85, 0, 0, 0, 51, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn jumps_go_forward_and_back_to_their_labels() {
        let mut asm = Asm::default();
        let (start, end) = (asm.label(), asm.label());
        asm.place(start);
        asm.if_equal(Reg::R1, 0, end);
        asm.add(Reg::R1, -1);
        asm.go(start);
        asm.place(end);
        asm.exit();
        let code = bytes(asm);
        let distance = |at: usize| i16::from_ne_bytes([code[at][2], code[at][3]]);
        assert_eq!((distance(0), distance(2)), (2, -3));
    }

    #[test]
    fn a_jump_to_nowhere_is_no_program() {
        let mut asm = Asm::default();
        let nowhere = asm.label();
        asm.go(nowhere);
        assert!(asm.finish().is_none());
    }
}
