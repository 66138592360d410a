//! ICMP for IPv6 (RFC 4443): the header that all messages share, and echo's fields. Neighbour discovery is in
//! [`super::ndp`].
//!
//! Length contract: [`Icmpv6View::new_checked`] wants 8 bytes, which every message but a few without a body has. The
//! checksum covers a pseudo-header and the whole message, so [`Icmpv6View::verify_checksum`] and
//! [`Icmpv6View::fill_checksum`] take the slice as the message: bound it by IPv6's length first.

use super::bytes::{array, be16, check, need, put, room};
use super::checksum::Sum;
use super::ip::IpProtocol;
use super::{Format, WireError};
use std::net::Ipv6Addr;
use std::ops::Range;

/// Bytes of the header.
pub const ICMPV6_LEN: usize = 8;

/// Type: the destination cannot be reached.
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// Type: it does not fit; the last four bytes of the header are the MTU.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: hop limit used up.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: send this back.
pub const ECHO_REQUEST: u8 = 128;
/// Type: answer to an echo request.
pub const ECHO_REPLY: u8 = 129;
/// Type: which routers are there? (RFC 4861, section 4.1)
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type: I am a router (RFC 4861, section 4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type: who has this address? (RFC 4861, section 4.3)
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type: I have (RFC 4861, section 4.4).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Type: that way is better (RFC 4861, section 4.5).
pub const REDIRECT: u8 = 137;
/// Code of [`DESTINATION_UNREACHABLE`]: no route.
pub const CODE_NO_ROUTE: u8 = 0;
/// Code of [`DESTINATION_UNREACHABLE`]: forbidden by an administrator.
pub const CODE_PROHIBITED: u8 = 1;
/// Code of [`DESTINATION_UNREACHABLE`]: beyond the scope of the source address.
pub const CODE_BEYOND_SCOPE: u8 = 2;
/// Code of [`DESTINATION_UNREACHABLE`]: no such host on the link.
pub const CODE_ADDRESS_UNREACHABLE: u8 = 3;
/// Code of [`TIME_EXCEEDED`]: on the way.
pub const CODE_HOP_LIMIT_EXCEEDED: u8 = 0;

const TYPE: usize = 0;
const CODE: usize = 1;
const CHECKSUM: Range<usize> = 2..4;
const REST: Range<usize> = 4..8;
const ECHO_IDENT: Range<usize> = 4..6;
const ECHO_SEQ: Range<usize> = 6..8;

/// A message, from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv6View<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmpv6View<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Icmpv6, bytes.as_ref(), ICMPV6_LEN)?;
        Ok(Self { bytes })
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The type.
    #[inline]
    pub fn icmp_type(&self) -> u8 {
        self.bytes.as_ref()[TYPE]
    }

    /// The code within the type.
    #[inline]
    pub fn code(&self) -> u8 {
        self.bytes.as_ref()[CODE]
    }

    /// The checksum over pseudo-header and message.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes.as_ref(), CHECKSUM)
    }

    /// The last four bytes of the header, whose meaning is the type's.
    #[inline]
    pub fn rest(&self) -> [u8; 4] {
        array(self.bytes.as_ref(), REST)
    }

    /// Echo: which asker.
    #[inline]
    pub fn echo_ident(&self) -> u16 {
        be16(self.bytes.as_ref(), ECHO_IDENT)
    }

    /// Echo: which question.
    #[inline]
    pub fn echo_seq(&self) -> u16 {
        be16(self.bytes.as_ref(), ECHO_SEQ)
    }

    /// What the next hop carries, of [`PACKET_TOO_BIG`].
    #[inline]
    pub fn mtu(&self) -> u32 {
        u32::from_be_bytes(self.rest())
    }

    /// True for messages that report an error, which are never answered with one (RFC 4443, section 2.4 (e)); a
    /// redirect is not answered with one either.
    #[inline]
    pub fn is_error(&self) -> bool {
        self.icmp_type() < 128 || self.icmp_type() == REDIRECT
    }

    /// True for the five messages of neighbour discovery (RFC 4861, section 4).
    #[inline]
    pub fn is_neighbour_discovery(&self) -> bool {
        (ROUTER_SOLICITATION..=REDIRECT).contains(&self.icmp_type())
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[ICMPV6_LEN..]
    }

    /// True when the checksum over pseudo-header and slice is right.
    #[inline]
    pub fn verify_checksum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        sum(self.bytes.as_ref(), src, dst).fold() == 0xffff
    }
}

#[inline]
fn sum(message: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> Sum {
    Sum::pseudo_v6(src, dst, IpProtocol::ICMPV6, message.len()).add(message)
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6View<T> {
    /// Sets the type.
    #[inline]
    pub fn set_icmp_type(&mut self, value: u8) {
        self.bytes.as_mut()[TYPE] = value;
    }

    /// Sets the code.
    #[inline]
    pub fn set_code(&mut self, value: u8) {
        self.bytes.as_mut()[CODE] = value;
    }

    /// Sets the checksum as it goes on the wire.
    #[inline]
    pub fn set_checksum(&mut self, value: u16) {
        put(self.bytes.as_mut(), CHECKSUM, &value.to_be_bytes());
    }

    /// Sets the last four bytes of the header.
    #[inline]
    pub fn set_rest(&mut self, value: [u8; 4]) {
        put(self.bytes.as_mut(), REST, &value);
    }

    /// Sets echo's asker.
    #[inline]
    pub fn set_echo_ident(&mut self, value: u16) {
        put(self.bytes.as_mut(), ECHO_IDENT, &value.to_be_bytes());
    }

    /// Sets echo's question.
    #[inline]
    pub fn set_echo_seq(&mut self, value: u16) {
        put(self.bytes.as_mut(), ECHO_SEQ, &value.to_be_bytes());
    }

    /// Computes the checksum over pseudo-header and slice and sets it.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv6Addr, dst: Ipv6Addr) {
        self.set_checksum(0);
        let checksum = sum(self.bytes.as_ref(), src, dst).checksum();
        self.set_checksum(checksum);
    }
}

/// The header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmpv6Header {
    /// The type.
    pub icmp_type: u8,
    /// The code.
    pub code: u8,
    /// The last four bytes of the header.
    pub rest: [u8; 4],
}

impl Icmpv6Header {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = ICMPV6_LEN;

    /// An error that says no more than its type and code.
    pub const fn error(icmp_type: u8, code: u8) -> Self {
        Self { icmp_type, code, rest: [0; 4] }
    }

    /// It does not fit through a link that carries `mtu` bytes.
    pub const fn packet_too_big(mtu: u32) -> Self {
        Self { icmp_type: PACKET_TOO_BIG, code: 0, rest: mtu.to_be_bytes() }
    }

    /// Reads it from a whole message between these addresses. A wrong checksum is an error.
    pub fn parse<T: AsRef<[u8]>>(
        view: &Icmpv6View<T>,
        src: Ipv6Addr,
        dst: Ipv6Addr,
    ) -> Result<Self, WireError> {
        let view = Icmpv6View::new_checked(view.bytes.as_ref())?;
        check(view.verify_checksum(src, dst), Format::Icmpv6, "checksum", view.checksum())?;
        Ok(Self { icmp_type: view.icmp_type(), code: view.code(), rest: view.rest() })
    }

    /// Writes it in front of the payload that already stands in `message` behind it, with the checksum over all of
    /// `message` between these addresses; how many bytes the header is.
    pub fn emit(&self, message: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<usize, WireError> {
        room(Format::Icmpv6, message, Self::LEN)?;
        let mut view = Icmpv6View::new_unchecked(message);
        view.set_icmp_type(self.icmp_type);
        view.set_code(self.code);
        view.set_rest(self.rest);
        view.fill_checksum(src, dst);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_icmpv6() -> impl proptest::strategy::Strategy<Value = Icmpv6Header> {
    use proptest::prelude::*;
    (any::<u8>(), any::<u8>(), any::<[u8; 4]>()).prop_map(|(icmp_type, code, rest)| Icmpv6Header {
        icmp_type,
        code,
        rest,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ipv6::Ipv6View;
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_captured_echo_request_both_ways() {
        let frame = hex(samples::ICMPV6);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let view = Icmpv6View::new_checked(ip.payload()).unwrap();
        assert!(view.verify_checksum(ip.src(), ip.dst()));
        assert!(!view.is_error() && !view.is_neighbour_discovery());
        assert_eq!((view.icmp_type(), view.code()), (ECHO_REQUEST, 0));
        assert_eq!((view.echo_ident(), view.echo_seq()), (0x71c3, 1));
        let header = Icmpv6Header::parse(&view, ip.src(), ip.dst()).unwrap();
        let mut out = [&[0xa5; 8], view.payload()].concat();
        assert_eq!(header.emit(&mut out, ip.src(), ip.dst()), Ok(8));
        assert_eq!(out, ip.payload());
    }

    #[test]
    fn the_addresses_are_under_the_checksum() {
        let message = hex(samples::ICMPV6)[54..].to_vec();
        let view = Icmpv6View::new_checked(message).unwrap();
        let (src, dst) = ("fd00::1".parse().unwrap(), "fd00::a".parse().unwrap());
        let wrong = WireError::BadField { format: Format::Icmpv6, field: "checksum", value: 0x07d5 };
        assert_eq!(Icmpv6Header::parse(&view, src, dst), Err(wrong));
    }

    #[test]
    fn errors_say_what_they_say() {
        let (src, dst) = ("fd00::1".parse().unwrap(), "fd00::a".parse().unwrap());
        let mut message = [0xa5; ICMPV6_LEN];
        Icmpv6Header::packet_too_big(1430).emit(&mut message, src, dst).unwrap();
        let view = Icmpv6View::new_checked(message).unwrap();
        assert!(view.is_error() && view.verify_checksum(src, dst));
        assert_eq!((view.icmp_type(), view.code(), view.mtu()), (2, 0, 1430));
        assert_eq!(Icmpv6Header::error(DESTINATION_UNREACHABLE, CODE_PROHIBITED).rest, [0; 4]);
    }

    proptest! {
        #[test]
        fn emit_then_parse(
            header in any_icmpv6(), src in samples::ipv6(), dst in samples::ipv6(), payload in samples::payload(),
        ) {
            let mut message = [&[0xa5; ICMPV6_LEN], &payload[..]].concat();
            header.emit(&mut message, src, dst).unwrap();
            let view = Icmpv6View::new_checked(&message).unwrap();
            prop_assert_eq!(Icmpv6Header::parse(&view, src, dst), Ok(header));
            prop_assert_eq!(view.payload(), &payload[..]);
        }
    }
}
