//! ICMP for IPv4 (RFC 792): the header that all messages share, and echo's fields.
//!
//! Length contract: [`IcmpView::new_checked`] wants 8 bytes. The checksum covers the whole message, so
//! [`IcmpView::verify_checksum`] and [`IcmpView::fill_checksum`] take the slice as the message: bound it by IP's
//! length first.

use super::bytes::{array, be16, check, need, put, room};
use super::checksum::Sum;
use super::{Format, WireError};
use std::ops::Range;

/// Bytes of the header.
pub const ICMP_LEN: usize = 8;

/// Type: answer to an echo request.
pub const ECHO_REPLY: u8 = 0;
/// Type: the destination cannot be reached.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Type: send less, deprecated (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type: that way is better.
pub const REDIRECT: u8 = 5;
/// Type: send this back.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time to live used up.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: a field of the header is wrong.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of [`DESTINATION_UNREACHABLE`]: no route.
pub const CODE_NET_UNREACHABLE: u8 = 0;
/// Code of [`DESTINATION_UNREACHABLE`]: the network is there, the host is not.
pub const CODE_HOST_UNREACHABLE: u8 = 1;
/// Code of [`DESTINATION_UNREACHABLE`]: it does not fit and may not be fragmented; the last two bytes of the header
/// are the MTU (RFC 1191, section 4).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`DESTINATION_UNREACHABLE`]: forbidden by an administrator (RFC 1812, section 5.2.7.1).
pub const CODE_PROHIBITED: u8 = 13;
/// Code of [`TIME_EXCEEDED`]: on the way.
pub const CODE_TTL_EXCEEDED: u8 = 0;

const TYPE: usize = 0;
const CODE: usize = 1;
const CHECKSUM: Range<usize> = 2..4;
const REST: Range<usize> = 4..8;
const ECHO_IDENT: Range<usize> = 4..6;
const ECHO_SEQ: Range<usize> = 6..8;
const NEXT_HOP_MTU: Range<usize> = 6..8;

/// A message, from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct IcmpView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> IcmpView<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Icmp, bytes.as_ref(), ICMP_LEN)?;
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

    /// The checksum over the message.
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

    /// What the next hop carries, of [`CODE_FRAGMENTATION_NEEDED`] (RFC 1191, section 4); 0 from routers of before that.
    #[inline]
    pub fn next_hop_mtu(&self) -> u16 {
        be16(self.bytes.as_ref(), NEXT_HOP_MTU)
    }

    /// True for messages that report an error, which are never answered with one (RFC 1122, section 3.2.2).
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(
            self.icmp_type(),
            DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
        )
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[ICMP_LEN..]
    }

    /// True when the checksum over the slice is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        Sum::new().add(self.bytes.as_ref()).fold() == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> IcmpView<T> {
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

    /// Computes the checksum over the slice and sets it.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = Sum::new().add(self.bytes.as_ref()).checksum();
        self.set_checksum(sum);
    }
}

/// The header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpHeader {
    /// The type.
    pub icmp_type: u8,
    /// The code.
    pub code: u8,
    /// The last four bytes of the header.
    pub rest: [u8; 4],
}

impl IcmpHeader {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = ICMP_LEN;

    /// An error that says no more than its type and code.
    pub const fn error(icmp_type: u8, code: u8) -> Self {
        Self { icmp_type, code, rest: [0; 4] }
    }

    /// It does not fit through a link that carries `mtu` bytes, and may not be fragmented (RFC 1191, section 4).
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        let [high, low] = mtu.to_be_bytes();
        Self { icmp_type: DESTINATION_UNREACHABLE, code: CODE_FRAGMENTATION_NEEDED, rest: [0, 0, high, low] }
    }

    /// Reads it from a whole message. A wrong checksum is an error.
    pub fn parse<T: AsRef<[u8]>>(view: &IcmpView<T>) -> Result<Self, WireError> {
        let view = IcmpView::new_checked(view.bytes.as_ref())?;
        check(view.verify_checksum(), Format::Icmp, "checksum", view.checksum())?;
        Ok(Self { icmp_type: view.icmp_type(), code: view.code(), rest: view.rest() })
    }

    /// Writes it in front of the payload that already stands in `message` behind it, with the checksum over all of
    /// `message`; how many bytes the header is.
    pub fn emit(&self, message: &mut [u8]) -> Result<usize, WireError> {
        room(Format::Icmp, message, Self::LEN)?;
        let mut view = IcmpView::new_unchecked(message);
        view.set_icmp_type(self.icmp_type);
        view.set_code(self.code);
        view.set_rest(self.rest);
        view.fill_checksum();
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_icmp() -> impl proptest::strategy::Strategy<Value = IcmpHeader> {
    use proptest::prelude::*;
    (any::<u8>(), any::<u8>(), any::<[u8; 4]>()).prop_map(|(icmp_type, code, rest)| IcmpHeader {
        icmp_type,
        code,
        rest,
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_captured_echo_request_both_ways() {
        let message = &hex(samples::ICMP)[34..];
        let view = IcmpView::new_checked(message).unwrap();
        assert!(view.verify_checksum() && !view.is_error());
        assert_eq!((view.icmp_type(), view.code()), (ECHO_REQUEST, 0));
        assert_eq!((view.echo_ident(), view.echo_seq()), (0x71aa, 1));
        assert_eq!(view.payload(), [0, 1, 2, 3, 4, 5, 6, 7]);
        let header = IcmpHeader::parse(&view).unwrap();
        let mut out = [&[0xa5; 8], view.payload()].concat();
        assert_eq!(header.emit(&mut out), Ok(8));
        assert_eq!(out, message);
    }

    #[test]
    fn a_wrong_checksum_is_named() {
        let mut message = hex(samples::ICMP)[34..].to_vec();
        message[15] ^= 1;
        let wrong = WireError::BadField { format: Format::Icmp, field: "checksum", value: 0x7a44 };
        assert_eq!(IcmpHeader::parse(&IcmpView::new_checked(message).unwrap()), Err(wrong));
    }

    #[test]
    fn errors_say_what_they_say() {
        let mut message = [0xa5; ICMP_LEN];
        IcmpHeader::fragmentation_needed(1450).emit(&mut message).unwrap();
        let view = IcmpView::new_checked(message).unwrap();
        assert!(view.is_error() && view.verify_checksum());
        assert_eq!((view.icmp_type(), view.code(), view.next_hop_mtu()), (3, 4, 1450));
        IcmpHeader::error(TIME_EXCEEDED, CODE_TTL_EXCEEDED).emit(&mut message).unwrap();
        assert_eq!((message[..2].to_vec(), message[4..].to_vec()), (vec![11, 0], vec![0; 4]));
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_icmp(), payload in samples::payload()) {
            let mut message = [&[0xa5; ICMP_LEN], &payload[..]].concat();
            header.emit(&mut message).unwrap();
            let view = IcmpView::new_checked(&message).unwrap();
            prop_assert_eq!(IcmpHeader::parse(&view), Ok(header));
            prop_assert_eq!(view.payload(), &payload[..]);
        }
    }
}
