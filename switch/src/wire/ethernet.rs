//! Ethernet II header (IEEE 802.3, clause 3.2.6; RFC 894).
//!
//! Length contract: [`EthernetView::new_checked`] wants 14 bytes. A length in the type field (802.3 with LLC) is
//! taken as it is: an [`EtherType`] below 0x0600.

use super::bytes::{array, be16, need, put, room};
use super::{Format, WireError};
use crate::types::MacAddr;
use std::fmt;
use std::ops::Range;

/// Bytes of the header.
pub const ETHERNET_LEN: usize = 14;

const DST: Range<usize> = 0..6;
const SRC: Range<usize> = 6..12;
const ETHERTYPE: Range<usize> = 12..14;

/// What an Ethernet frame carries (IANA, "IEEE 802 numbers").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// An 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// An 802.1ad service tag.
    pub const QINQ: Self = Self(0x88a8);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.write_str("IPv4"),
            Self::ARP => f.write_str("ARP"),
            Self::VLAN => f.write_str("802.1Q"),
            Self::QINQ => f.write_str("802.1ad"),
            Self::IPV6 => f.write_str("IPv6"),
            Self(other) => write!(f, "0x{other:04x}"),
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame, from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct EthernetView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> EthernetView<T> {
    /// Over bytes that are known to hold the header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Ethernet, bytes.as_ref(), ETHERNET_LEN)?;
        Ok(Self { bytes })
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// To whom.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        MacAddr(array(self.bytes.as_ref(), DST))
    }

    /// From whom.
    #[inline]
    pub fn src(&self) -> MacAddr {
        MacAddr(array(self.bytes.as_ref(), SRC))
    }

    /// What follows the header.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(be16(self.bytes.as_ref(), ETHERTYPE))
    }

    /// The bytes after the header, padding included.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[ETHERNET_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> EthernetView<T> {
    /// Sets to whom.
    #[inline]
    pub fn set_dst(&mut self, value: MacAddr) {
        put(self.bytes.as_mut(), DST, &value.0);
    }

    /// Sets from whom.
    #[inline]
    pub fn set_src(&mut self, value: MacAddr) {
        put(self.bytes.as_mut(), SRC, &value.0);
    }

    /// Sets what follows.
    #[inline]
    pub fn set_ethertype(&mut self, value: EtherType) {
        put(self.bytes.as_mut(), ETHERTYPE, &value.0.to_be_bytes());
    }

    /// The bytes after the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[ETHERNET_LEN..]
    }
}

/// The header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthernetHeader {
    /// To whom.
    pub dst: MacAddr,
    /// From whom.
    pub src: MacAddr,
    /// What follows.
    pub ethertype: EtherType,
}

impl EthernetHeader {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = ETHERNET_LEN;

    /// Reads it; every header that is long enough is a legal one.
    pub fn parse<T: AsRef<[u8]>>(view: &EthernetView<T>) -> Result<Self, WireError> {
        need(Format::Ethernet, view.bytes.as_ref(), ETHERNET_LEN)?;
        Ok(Self { dst: view.dst(), src: view.src(), ethertype: view.ethertype() })
    }

    /// Writes it; how many bytes that was.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let mut view = EthernetView::new_unchecked(room(Format::Ethernet, to, Self::LEN)?);
        view.set_dst(self.dst);
        view.set_src(self.src);
        view.set_ethertype(self.ethertype);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_ethernet() -> impl proptest::strategy::Strategy<Value = EthernetHeader> {
    use proptest::prelude::*;
    (super::samples::mac(), super::samples::mac(), any::<u16>())
        .prop_map(|(dst, src, ethertype)| EthernetHeader { dst, src, ethertype: EtherType(ethertype) })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_captured_frame_both_ways() {
        let frame = hex(samples::ARP);
        let view = EthernetView::new_checked(&frame[..]).unwrap();
        assert_eq!(view.dst(), MacAddr::BROADCAST);
        assert_eq!(view.src(), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(view.ethertype(), EtherType::ARP);
        assert_eq!(view.payload().len(), 28);
        let mut out = [0xa5; 15];
        assert_eq!(EthernetHeader::parse(&view).unwrap().emit(&mut out), Ok(14));
        assert_eq!((&out[..14], out[14]), (&frame[..14], 0xa5));
    }

    #[test]
    fn errors_say_what_and_how_much() {
        let short = EthernetView::new_checked([0u8; 13]).unwrap_err();
        assert_eq!(short.to_string(), "Ethernet is cut off: 14 bytes are needed, 13 are there");
        let header = EthernetHeader { dst: MacAddr::ZERO, src: MacAddr::ZERO, ethertype: EtherType::IPV4 };
        let narrow = header.emit(&mut [0; 13]).unwrap_err();
        assert_eq!(narrow.to_string(), "no room to write Ethernet: 14 bytes are needed, the buffer has 13");
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_ethernet()) {
            let mut bytes = [0xa5; ETHERNET_LEN];
            header.emit(&mut bytes).unwrap();
            prop_assert_eq!(EthernetHeader::parse(&EthernetView::new_checked(&bytes).unwrap()), Ok(header));
        }
    }
}
