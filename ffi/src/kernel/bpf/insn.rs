//! An assembler for the few eBPF instructions that are needed (RFC 9669): the programs are short, and so neither a compiler nor
//! its run-time is.

/// One instruction as the kernel reads it: `struct bpf_insn` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(in crate::kernel) struct Insn {
    code: u8,
    /// Destination and source.
    registers: u8,
    offset: i16,
    value: i32,
}

/// A register. R0 is what a call or the program returns, R1 to R5 a call's arguments, which are lost in it; R6 to R9 are kept;
/// R10 is the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::kernel) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R10 = 10,
}

/// Bytes of a load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::kernel) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// What a jump looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::kernel) enum Jump {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
    Less = 0xa0,
}

impl Insn {
    const fn new(code: u8, to: Reg, from: u8, offset: i16, value: i32) -> Self {
        let (to, from) = (to as u8, from);
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        Self { code, registers, offset, value }
    }

    /// `to = from`
    pub(in crate::kernel) const fn copy(to: Reg, from: Reg) -> Self {
        Self::new(0xbf, to, from as u8, 0, 0)
    }

    /// `to = value`
    pub(in crate::kernel) const fn set(to: Reg, value: i32) -> Self {
        Self::new(0xb7, to, 0, 0, value)
    }

    /// `to += value`
    pub(in crate::kernel) const fn add(to: Reg, value: i32) -> Self {
        Self::new(0x07, to, 0, 0, value)
    }

    /// `to += from`
    pub(in crate::kernel) const fn add_register(to: Reg, from: Reg) -> Self {
        Self::new(0x0f, to, from as u8, 0, 0)
    }

    /// `to &= value`
    pub(in crate::kernel) const fn and(to: Reg, value: i32) -> Self {
        Self::new(0x57, to, 0, 0, value)
    }

    /// `to <<= bits`
    pub(in crate::kernel) const fn shift_left(to: Reg, bits: i32) -> Self {
        Self::new(0x67, to, 0, 0, bits)
    }

    /// `to = *(size *)(from + offset)`
    pub(in crate::kernel) const fn load(size: Size, to: Reg, from: Reg, offset: i16) -> Self {
        Self::new(0x61 | size as u8, to, from as u8, offset, 0)
    }

    /// `*(size *)(to + offset) = from`
    pub(in crate::kernel) const fn store(size: Size, to: Reg, offset: i16, from: Reg) -> Self {
        Self::new(0x63 | size as u8, to, from as u8, offset, 0)
    }

    /// `*(size *)(to + offset) = value`
    pub(in crate::kernel) const fn store_value(size: Size, to: Reg, offset: i16, value: i32) -> Self {
        Self::new(0x62 | size as u8, to, 0, offset, value)
    }

    /// Calls the kernel's function of this number.
    pub(in crate::kernel) const fn call(function: i32) -> Self {
        Self::new(0x85, Reg::R0, 0, 0, function)
    }

    /// Returns R0.
    pub(in crate::kernel) const fn exit() -> Self {
        Self::new(0x95, Reg::R0, 0, 0, 0)
    }
}

/// A place that jumps lead to, by the program's own naming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) struct Label(pub(in crate::kernel) &'static str);

/// A program that grows from its first instruction to its last.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Assembler {
    code: Vec<Insn>,
    /// Jumps, by their place, and where to.
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    /// Appends instructions.
    pub(in crate::kernel) fn add(&mut self, code: &[Insn]) -> &mut Self {
        self.code.extend_from_slice(code);
        self
    }

    /// `to = the map`
    pub(in crate::kernel) fn set_map(&mut self, to: Reg, map: std::os::fd::BorrowedFd<'_>) -> &mut Self {
        /// `BPF_PSEUDO_MAP_FD`: the value is a descriptor.
        const OF_A_MAP: u8 = 1;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&map);
        // It takes two places; the second has the number's upper half.
        self.add(&[Insn::new(0x18, to, OF_A_MAP, 0, fd), Insn::new(0, Reg::R0, 0, 0, 0)])
    }

    /// Goes to `label`.
    pub(in crate::kernel) fn go(&mut self, label: Label) -> &mut Self {
        self.jump(Insn::new(0x05, Reg::R0, 0, 0, 0), label)
    }

    /// Goes to `label` if the lower 32 bits of `left` are so to `right`.
    pub(in crate::kernel) fn go_if(&mut self, left: Reg, how: Jump, right: i32, label: Label) -> &mut Self {
        self.jump(Insn::new(0x06 | how as u8, left, 0, 0, right), label)
    }

    /// Goes to `label` if `left` is so to the register `right`.
    pub(in crate::kernel) fn go_if_register(
        &mut self,
        left: Reg,
        how: Jump,
        right: Reg,
        label: Label,
    ) -> &mut Self {
        self.jump(Insn::new(0x0d | how as u8, left, right as u8, 0, 0), label)
    }

    /// Goes to `label` if all of `left` is so to `right`.
    pub(in crate::kernel) fn go_if_all(
        &mut self,
        left: Reg,
        how: Jump,
        right: i32,
        label: Label,
    ) -> &mut Self {
        self.jump(Insn::new(0x05 | how as u8, left, 0, 0, right), label)
    }

    fn jump(&mut self, insn: Insn, label: Label) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.add(&[insn])
    }

    /// What comes next is `label`.
    pub(in crate::kernel) fn label(&mut self, label: Label) -> &mut Self {
        self.labels.push((label, self.code.len()));
        self
    }

    /// The finished program. `None` when a jump leads to a label that is not there, or too far.
    pub(in crate::kernel) fn finish(mut self) -> Option<Vec<Insn>> {
        for (at, label) in self.jumps {
            let (_, target) = self.labels.iter().find(|(known, _)| *known == label)?;
            // A jump counts from the instruction after it.
            let distance = i16::try_from(*target as isize - at as isize - 1).ok()?;
            self.code.get_mut(at)?.offset = distance;
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels() {
        const END: Label = Label("end");
        let mut program = Assembler::default();
        program.go_if(Reg::R1, Jump::Equal, 7, END).add(&[Insn::set(Reg::R0, 1)]).go(END);
        program.add(&[Insn::exit()]).label(END).add(&[Insn::exit()]);
        let code = program.finish().unwrap();
        assert_eq!(code.iter().map(|insn| insn.offset).collect::<Vec<_>>(), [3, 0, 1, 0, 0]);
        let mut lost = Assembler::default();
        lost.go(END);
        assert_eq!(lost.finish(), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_have_the_bytes_of_the_standard() {
        let bytes = |insn: Insn| {
            let value = insn.value.to_le_bytes();
            let offset = insn.offset.to_le_bytes();
            [insn.code, insn.registers, offset[0], offset[1], value[0], value[1], value[2], value[3]]
        };
        // As llvm-mc writes them.
        assert_eq!(bytes(Insn::copy(Reg::R6, Reg::R1)), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(Insn::load(Size::Half, Reg::R3, Reg::R7, 12)), [0x69, 0x73, 12, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(Insn::load(Size::Byte, Reg::R3, Reg::R7, 20)), [0x71, 0x73, 20, 0, 0, 0, 0, 0]);
        assert_eq!(
            bytes(Insn::store(Size::Word, Reg::R10, -8, Reg::R3)),
            [0x63, 0x3a, 0xf8, 0xff, 0, 0, 0, 0]
        );
        assert_eq!(bytes(Insn::exit()), [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }
}
