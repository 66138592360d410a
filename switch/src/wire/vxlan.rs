//! VXLAN header (RFC 7348, section 5).
//!
//! Length contract: [`VxlanView::new_checked`] wants 8 bytes. RFC 7348 has receivers ignore the reserved bits; Linux
//! drops a packet that has one set, and a switch among Linux nodes does the same: [`VxlanView::is_strict`].

use super::bytes::{array, be32, check, need, put, room};
use super::{Format, WireError};
use crate::types::Vni;
use std::ops::Range;

/// Bytes of the header.
pub const VXLAN_LEN: usize = 8;
/// The UDP port that Linux, and so flannel, uses when told nothing.
pub const VXLAN_PORT_LINUX: u16 = 8472;
/// The UDP port that IANA gave out.
pub const VXLAN_PORT_IANA: u16 = 4789;
/// The flags byte with only "the VNI is valid" set.
pub const FLAG_VNI: u8 = 0x08;

const FLAGS: usize = 0;
const RESERVED1: Range<usize> = 1..4;
const VNI: Range<usize> = 4..7;
const RESERVED2: usize = 7;

const FIRST_WORD: Range<usize> = 0..4;
const SECOND_WORD: Range<usize> = 4..8;

/// A VXLAN packet, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct VxlanView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> VxlanView<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Vxlan, bytes.as_ref(), VXLAN_LEN)?;
        Ok(Self { bytes })
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The flags: [`FLAG_VNI`] and seven reserved bits.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.bytes.as_ref()[FLAGS]
    }

    /// The reserved bytes after the flags.
    #[inline]
    pub fn reserved1(&self) -> [u8; 3] {
        array(self.bytes.as_ref(), RESERVED1)
    }

    /// The reserved byte after the VNI.
    #[inline]
    pub fn reserved2(&self) -> u8 {
        self.bytes.as_ref()[RESERVED2]
    }

    /// Which overlay network.
    #[inline]
    pub fn vni(&self) -> Vni {
        let [a, b, c, _] = be32(self.bytes.as_ref(), SECOND_WORD).to_be_bytes();
        Vni::from_be_bytes([a, b, c])
    }

    /// True when the flags are exactly [`FLAG_VNI`] and every reserved bit is zero, as Linux demands.
    #[inline]
    pub fn is_strict(&self) -> bool {
        be32(self.bytes.as_ref(), FIRST_WORD) == u32::from(FLAG_VNI) << 24 && self.reserved2() == 0
    }

    /// The inner frame.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[VXLAN_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> VxlanView<T> {
    /// Sets the flags to [`FLAG_VNI`] and every reserved bit to zero.
    #[inline]
    pub fn set_strict(&mut self) {
        let b = self.bytes.as_mut();
        b[FLAGS] = FLAG_VNI;
        b[RESERVED1].fill(0);
        b[RESERVED2] = 0;
    }

    /// Sets which overlay network.
    #[inline]
    pub fn set_vni(&mut self, value: Vni) {
        let [_, vni @ ..] = value.get().to_be_bytes();
        put(self.bytes.as_mut(), VNI, &vni);
    }
}

/// The header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanHeader {
    /// Which overlay network.
    pub vni: Vni,
}

impl VxlanHeader {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = VXLAN_LEN;

    /// Reads it. Other flags and reserved bits that are set are errors, as Linux has it.
    pub fn parse<T: AsRef<[u8]>>(view: &VxlanView<T>) -> Result<Self, WireError> {
        let view = VxlanView::new_checked(view.bytes.as_ref())?;
        check(view.flags() == FLAG_VNI, Format::Vxlan, "flags", view.flags())?;
        let [a, b, c] = view.reserved1();
        let reserved1 = u32::from_be_bytes([0, a, b, c]);
        check(reserved1 == 0, Format::Vxlan, "reserved1", reserved1)?;
        check(view.reserved2() == 0, Format::Vxlan, "reserved2", view.reserved2())?;
        Ok(Self { vni: view.vni() })
    }

    /// Writes it; how many bytes that was.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let mut view = VxlanView::new_unchecked(room(Format::Vxlan, to, Self::LEN)?);
        view.set_strict();
        view.set_vni(self.vni);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_vxlan() -> impl proptest::strategy::Strategy<Value = VxlanHeader> {
    use proptest::strategy::Strategy;
    super::samples::vni().prop_map(|vni| VxlanHeader { vni })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_captured_header_both_ways() {
        let frame = hex(samples::VXLAN);
        let view = VxlanView::new_checked(&frame[42..]).unwrap();
        let header = VxlanHeader { vni: Vni::new(1).unwrap() };
        assert!(view.is_strict());
        assert_eq!(VxlanHeader::parse(&view), Ok(header));
        assert_eq!(view.payload().len(), 14 + 36);
        let mut out = [0xa5; 8];
        assert_eq!(header.emit(&mut out), Ok(8));
        assert_eq!(out, frame[42..50]);
    }

    #[test]
    fn every_reserved_bit_counts() {
        let good = [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0];
        assert_eq!(VxlanView::new_unchecked(good).vni().get(), 0x12_3456);
        for bit in 0..64 {
            let mut bytes = good;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            let view = VxlanView::new_checked(bytes).unwrap();
            let in_vni = (32..56).contains(&bit);
            assert_eq!(view.is_strict(), in_vni, "bit {bit}");
            assert_eq!(VxlanHeader::parse(&view).is_ok(), in_vni, "bit {bit}");
        }
        let group = VxlanView::new_unchecked([0x88, 0, 0, 7, 0, 0, 1, 0]);
        let flags = WireError::BadField { format: Format::Vxlan, field: "flags", value: 0x88 };
        assert_eq!(VxlanHeader::parse(&group), Err(flags));
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_vxlan()) {
            let mut bytes = [0xa5; VXLAN_LEN];
            header.emit(&mut bytes).unwrap();
            prop_assert_eq!(VxlanHeader::parse(&VxlanView::new_checked(bytes).unwrap()), Ok(header));
        }
    }
}
