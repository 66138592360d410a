//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! Length contract: [`ArpView::new_checked`] wants 28 bytes, and that hardware, protocol and their address lengths
//! are those of Ethernet and IPv4. The operation is not checked: whoever answers looks at it.

use super::bytes::{array, be16, check, need, put, room};
use super::{Format, WireError};
use crate::types::MacAddr;
use std::net::Ipv4Addr;
use std::ops::Range;

/// Bytes of the message; what follows in a frame is padding.
pub const ARP_LEN: usize = 28;
/// Operation: who has this address?
pub const REQUEST: u16 = 1;
/// Operation: I have.
pub const REPLY: u16 = 2;

const HTYPE: Range<usize> = 0..2;
const PTYPE: Range<usize> = 2..4;
const HLEN: usize = 4;
const PLEN: usize = 5;
const OP: Range<usize> = 6..8;
const SENDER_MAC: Range<usize> = 8..14;
const SENDER_IP: Range<usize> = 14..18;
const TARGET_MAC: Range<usize> = 18..24;
const TARGET_IP: Range<usize> = 24..28;

const HTYPE_ETHERNET: u16 = 1;
const PTYPE_IPV4: u16 = 0x0800;

/// A message.
#[derive(Debug, Clone, Copy)]
pub struct ArpView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> ArpView<T> {
    /// Over bytes that are known to hold a message.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that a message is there and that it is about Ethernet and IPv4.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        need(Format::Arp, b, ARP_LEN)?;
        check(be16(b, HTYPE) == HTYPE_ETHERNET, Format::Arp, "htype", be16(b, HTYPE))?;
        check(be16(b, PTYPE) == PTYPE_IPV4, Format::Arp, "ptype", be16(b, PTYPE))?;
        check(b[HLEN] == 6, Format::Arp, "hlen", b[HLEN])?;
        check(b[PLEN] == 4, Format::Arp, "plen", b[PLEN])?;
        Ok(Self { bytes })
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The operation: [`REQUEST`], [`REPLY`] or another.
    #[inline]
    pub fn op(&self) -> u16 {
        be16(self.bytes.as_ref(), OP)
    }

    /// Who says it.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(array(self.bytes.as_ref(), SENDER_MAC))
    }

    /// Who says it; 0.0.0.0 in a probe (RFC 5227, section 2.1.1).
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes.as_ref(), SENDER_IP))
    }

    /// To whom; without meaning in a request.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(array(self.bytes.as_ref(), TARGET_MAC))
    }

    /// To whom, or about whom in a request.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes.as_ref(), TARGET_IP))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> ArpView<T> {
    /// Writes what every message about Ethernet and IPv4 begins with.
    #[inline]
    pub fn set_ethernet_ipv4(&mut self) {
        let b = self.bytes.as_mut();
        put(b, HTYPE, &HTYPE_ETHERNET.to_be_bytes());
        put(b, PTYPE, &PTYPE_IPV4.to_be_bytes());
        b[HLEN] = 6;
        b[PLEN] = 4;
    }

    /// Sets the operation.
    #[inline]
    pub fn set_op(&mut self, value: u16) {
        put(self.bytes.as_mut(), OP, &value.to_be_bytes());
    }

    /// Sets who says it.
    #[inline]
    pub fn set_sender_mac(&mut self, value: MacAddr) {
        put(self.bytes.as_mut(), SENDER_MAC, &value.0);
    }

    /// Sets who says it.
    #[inline]
    pub fn set_sender_ip(&mut self, value: Ipv4Addr) {
        put(self.bytes.as_mut(), SENDER_IP, &value.octets());
    }

    /// Sets to whom.
    #[inline]
    pub fn set_target_mac(&mut self, value: MacAddr) {
        put(self.bytes.as_mut(), TARGET_MAC, &value.0);
    }

    /// Sets to whom.
    #[inline]
    pub fn set_target_ip(&mut self, value: Ipv4Addr) {
        put(self.bytes.as_mut(), TARGET_IP, &value.octets());
    }
}

/// A message, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpPacket {
    /// [`REQUEST`], [`REPLY`] or another.
    pub op: u16,
    /// Who says it.
    pub sender_mac: MacAddr,
    /// Who says it.
    pub sender_ip: Ipv4Addr,
    /// To whom.
    pub target_mac: MacAddr,
    /// To or about whom.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = ARP_LEN;

    /// Reads it, with the checks of [`ArpView::new_checked`].
    pub fn parse<T: AsRef<[u8]>>(view: &ArpView<T>) -> Result<Self, WireError> {
        let view = ArpView::new_checked(view.bytes.as_ref())?;
        Ok(Self {
            op: view.op(),
            sender_mac: view.sender_mac(),
            sender_ip: view.sender_ip(),
            target_mac: view.target_mac(),
            target_ip: view.target_ip(),
        })
    }

    /// Writes it; how many bytes that was.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let mut view = ArpView::new_unchecked(room(Format::Arp, to, Self::LEN)?);
        view.set_ethernet_ipv4();
        view.set_op(self.op);
        view.set_sender_mac(self.sender_mac);
        view.set_sender_ip(self.sender_ip);
        view.set_target_mac(self.target_mac);
        view.set_target_ip(self.target_ip);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_arp() -> impl proptest::strategy::Strategy<Value = ArpPacket> {
    use super::samples::{ipv4, mac};
    use proptest::prelude::*;
    (any::<u16>(), mac(), ipv4(), mac(), ipv4()).prop_map(
        |(op, sender_mac, sender_ip, target_mac, target_ip)| ArpPacket {
            op,
            sender_mac,
            sender_ip,
            target_mac,
            target_ip,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_captured_request_both_ways() {
        let bytes = &hex(samples::ARP)[14..];
        let request = ArpPacket {
            op: REQUEST,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender_ip: Ipv4Addr::new(10, 244, 1, 2),
            target_mac: MacAddr::ZERO,
            target_ip: Ipv4Addr::new(10, 244, 1, 9),
        };
        assert_eq!(ArpPacket::parse(&ArpView::new_checked(bytes).unwrap()), Ok(request));
        let mut out = [0xa5; ARP_LEN];
        assert_eq!(request.emit(&mut out), Ok(ARP_LEN));
        assert_eq!(out, bytes);
    }

    #[test]
    fn other_hardware_and_protocols_are_refused_by_name() {
        let good = hex(samples::ARP)[14..].to_vec();
        for (at, field) in [(1, "htype"), (2, "ptype"), (HLEN, "hlen"), (PLEN, "plen")] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            match ArpView::new_checked(&bytes[..]) {
                Err(WireError::BadField { format: Format::Arp, field: named, .. }) => {
                    assert_eq!(named, field)
                }
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn emit_then_parse(packet in any_arp()) {
            let mut bytes = [0xa5; ARP_LEN];
            packet.emit(&mut bytes).unwrap();
            prop_assert_eq!(ArpPacket::parse(&ArpView::new_checked(bytes).unwrap()), Ok(packet));
        }
    }
}
