//! The 802.1Q tag (IEEE 802.1Q, clause 9.6), as it stands in a frame after the type field that announced it: the
//! tag control information, then the type of what follows.
//!
//! Length contract: [`VlanView::new_checked`] wants 4 bytes. Whether the VLAN number is a legal one, only
//! [`VlanTag::parse`] and [`VlanId::new`] say.

use super::bytes::{be16, check, need, put, room};
use super::ethernet::EtherType;
use super::{Format, WireError};
use std::fmt;
use std::ops::Range;

/// Bytes that a tag adds to a frame.
pub const VLAN_LEN: usize = 4;

const TCI: Range<usize> = 0..2;
const ETHERTYPE: Range<usize> = 2..4;

const PCP_SHIFT: u32 = 13;
const DEI: u16 = 1 << 12;
const VID: u16 = 0x0fff;

/// A VLAN number, 0 to 4094 (IEEE 802.1Q, table 9-2): 0 tags a priority and no VLAN, 4095 is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// No VLAN: the tag only carries a priority.
    pub const PRIORITY: Self = Self(0);

    /// Checks the range.
    pub fn new(value: u16) -> Result<Self, WireError> {
        check(value < VID, Format::Vlan, "vid", value)?;
        Ok(Self(value))
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tag, from its control information on (the frame's 15th byte).
#[derive(Debug, Clone, Copy)]
pub struct VlanView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> VlanView<T> {
    /// Over bytes that are known to hold the tag.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the tag is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Vlan, bytes.as_ref(), VLAN_LEN)?;
        Ok(Self { bytes })
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    #[inline]
    fn tci(&self) -> u16 {
        be16(self.bytes.as_ref(), TCI)
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub fn pcp(&self) -> u8 {
        (self.tci() >> PCP_SHIFT) as u8
    }

    /// Drop eligible.
    #[inline]
    pub fn dei(&self) -> bool {
        self.tci() & DEI != 0
    }

    /// The VLAN number as it stands there, 0 to 4095.
    #[inline]
    pub fn vid(&self) -> u16 {
        self.tci() & VID
    }

    /// What follows the tag.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(be16(self.bytes.as_ref(), ETHERTYPE))
    }

    /// The bytes after the tag.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[VLAN_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> VlanView<T> {
    /// Sets the priority's low three bits.
    #[inline]
    pub fn set_pcp(&mut self, value: u8) {
        let tci = self.tci() & (DEI | VID) | u16::from(value & 7) << PCP_SHIFT;
        put(self.bytes.as_mut(), TCI, &tci.to_be_bytes());
    }

    /// Sets whether it may be dropped first.
    #[inline]
    pub fn set_dei(&mut self, value: bool) {
        let tci = self.tci() & !DEI | if value { DEI } else { 0 };
        put(self.bytes.as_mut(), TCI, &tci.to_be_bytes());
    }

    /// Sets the VLAN.
    #[inline]
    pub fn set_vid(&mut self, value: VlanId) {
        let tci = self.tci() & !VID | value.0;
        put(self.bytes.as_mut(), TCI, &tci.to_be_bytes());
    }

    /// Sets what follows.
    #[inline]
    pub fn set_ethertype(&mut self, value: EtherType) {
        put(self.bytes.as_mut(), ETHERTYPE, &value.0.to_be_bytes());
    }
}

/// The tag, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanTag {
    /// Priority code point, 0 to 7.
    pub pcp: u8,
    /// Drop eligible.
    pub dei: bool,
    /// The VLAN.
    pub vid: VlanId,
    /// What follows.
    pub ethertype: EtherType,
}

impl VlanTag {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = VLAN_LEN;

    /// Reads it. VLAN 4095 is an error.
    pub fn parse<T: AsRef<[u8]>>(view: &VlanView<T>) -> Result<Self, WireError> {
        need(Format::Vlan, view.bytes.as_ref(), VLAN_LEN)?;
        Ok(Self {
            pcp: view.pcp(),
            dei: view.dei(),
            vid: VlanId::new(view.vid())?,
            ethertype: view.ethertype(),
        })
    }

    /// Writes it; how many bytes that was. A priority above 7 is an error.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        check(self.pcp <= 7, Format::Vlan, "pcp", self.pcp)?;
        let mut view = VlanView::new_unchecked(room(Format::Vlan, to, Self::LEN)?);
        view.set_pcp(self.pcp);
        view.set_dei(self.dei);
        view.set_vid(self.vid);
        view.set_ethertype(self.ethertype);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_vlan() -> impl proptest::strategy::Strategy<Value = VlanTag> {
    use proptest::prelude::*;
    (0u8..8, any::<bool>(), 0u16..4095, any::<u16>()).prop_map(|(pcp, dei, vid, ethertype)| VlanTag {
        pcp,
        dei,
        vid: VlanId(vid),
        ethertype: EtherType(ethertype),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_both_ways() {
        // Priority 5, drop eligible, VLAN 0x123, IPv4.
        let bytes = [0xb1, 0x23, 0x08, 0x00, 0x45];
        let view = VlanView::new_checked(bytes).unwrap();
        let tag = VlanTag { pcp: 5, dei: true, vid: VlanId(0x123), ethertype: EtherType::IPV4 };
        assert_eq!(VlanTag::parse(&view), Ok(tag));
        assert_eq!(view.payload(), [0x45]);
        let mut out = [0; 4];
        assert_eq!(tag.emit(&mut out), Ok(4));
        assert_eq!(out, bytes[..4]);
    }

    #[test]
    fn vlan_4095_is_reserved() {
        let reserved = WireError::BadField { format: Format::Vlan, field: "vid", value: 4095 };
        assert_eq!(VlanId::new(4094).map(VlanId::get), Ok(4094));
        assert_eq!(VlanId::new(4095), Err(reserved));
        let view = VlanView::new_checked([0x0f, 0xff, 0x08, 0x00]).unwrap();
        assert_eq!(view.vid(), 4095);
        assert_eq!(VlanTag::parse(&view), Err(reserved));
        assert_eq!(reserved.to_string(), "802.1Q: the field vid cannot be 4095");
    }

    #[test]
    fn a_setter_leaves_its_neighbours() {
        let mut view = VlanView::new_unchecked([0xff; 4]);
        view.set_vid(VlanId::PRIORITY);
        assert_eq!((view.pcp(), view.dei(), view.vid()), (7, true, 0));
        view.set_pcp(0);
        assert_eq!((view.pcp(), view.dei(), view.vid()), (0, true, 0));
        let wrong = VlanTag { pcp: 8, dei: false, vid: VlanId::PRIORITY, ethertype: EtherType::ARP };
        assert!(matches!(wrong.emit(&mut [0; 4]), Err(WireError::BadField { field: "pcp", value: 8, .. })));
    }

    proptest! {
        #[test]
        fn emit_then_parse(tag in any_vlan()) {
            let mut bytes = [0xa5; VLAN_LEN];
            tag.emit(&mut bytes).unwrap();
            prop_assert_eq!(VlanTag::parse(&VlanView::new_checked(bytes).unwrap()), Ok(tag));
        }
    }
}
