//! UDP header (RFC 768).
//!
//! Length contract: [`UdpView::new_header_checked`] wants 8 bytes and a length field of at least 8: enough where the
//! slice is only a packet's first segment. [`UdpView::new_checked`] also wants as many bytes as the length field says;
//! the slice may be longer. A length of 0 (a jumbogram, RFC 2675) is an error.

use super::bytes::{be16, check, need, put, room};
use super::checksum::{Sum, udp_never_zero};
use super::{Format, WireError};
use std::ops::Range;

/// Bytes of the header.
pub const UDP_LEN: usize = 8;
/// Where the checksum stands, in bytes from the header's start.
pub const UDP_CHECKSUM_OFFSET: usize = CHECKSUM.start;

const SRC_PORT: Range<usize> = 0..2;
const DST_PORT: Range<usize> = 2..4;
const LENGTH: Range<usize> = 4..6;
const CHECKSUM: Range<usize> = 6..8;

/// A datagram, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct UdpView<T> {
    bytes: T,
}

#[expect(clippy::len_without_is_empty, reason = "the length field, header included, is never 0")]
impl<T: AsRef<[u8]>> UdpView<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks the header, which has to be in the slice; the payload need not be.
    #[inline]
    pub fn new_header_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self { bytes };
        need(Format::Udp, view.bytes.as_ref(), UDP_LEN)?;
        check(usize::from(view.len()) >= UDP_LEN, Format::Udp, "len", view.len())?;
        Ok(view)
    }

    /// Checks the header and that the whole datagram is in the slice.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self::new_header_checked(bytes)?;
        need(Format::Udp, view.bytes.as_ref(), usize::from(view.len()))?;
        Ok(view)
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The sender's port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16(self.bytes.as_ref(), SRC_PORT)
    }

    /// The receiver's port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16(self.bytes.as_ref(), DST_PORT)
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn len(&self) -> u16 {
        be16(self.bytes.as_ref(), LENGTH)
    }

    /// The checksum; 0 says that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes.as_ref(), CHECKSUM)
    }

    /// What follows the header up to the length field, or to the end of the slice where that comes first.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let bytes = self.bytes.as_ref();
        &bytes[UDP_LEN..usize::from(self.len()).min(bytes.len())]
    }

    /// True when the checksum is right. `pseudo` is the sum of the pseudo-header; the whole datagram has to be in the
    /// slice. A checksum of 0 is not right here: whether it is allowed, the caller knows (RFC 8200, section 8.1).
    #[inline]
    pub fn verify_checksum(&self, pseudo: Sum) -> bool {
        let bytes = self.bytes.as_ref();
        let datagram = &bytes[..usize::from(self.len()).min(bytes.len())];
        self.checksum() != 0 && pseudo.add(datagram).fold() == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> UdpView<T> {
    /// Sets the sender's port.
    #[inline]
    pub fn set_src_port(&mut self, value: u16) {
        put(self.bytes.as_mut(), SRC_PORT, &value.to_be_bytes());
    }

    /// Sets the receiver's port.
    #[inline]
    pub fn set_dst_port(&mut self, value: u16) {
        put(self.bytes.as_mut(), DST_PORT, &value.to_be_bytes());
    }

    /// Sets the bytes of header and payload.
    #[inline]
    pub fn set_len(&mut self, value: u16) {
        put(self.bytes.as_mut(), LENGTH, &value.to_be_bytes());
    }

    /// Sets the checksum as it goes on the wire.
    #[inline]
    pub fn set_checksum(&mut self, value: u16) {
        put(self.bytes.as_mut(), CHECKSUM, &value.to_be_bytes());
    }

    /// Computes the checksum over the datagram, all of which is in the slice, and sets it. `pseudo` is the sum of the
    /// pseudo-header.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo: Sum) {
        self.set_checksum(0);
        let bytes = self.bytes.as_ref();
        let end = usize::from(self.len()).min(bytes.len());
        let sum = pseudo.add(&bytes[..end]).checksum();
        self.set_checksum(udp_never_zero(sum));
    }

    /// The payload, bounded as [`Self::payload`] is.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = usize::from(self.len()).min(self.bytes.as_ref().len());
        &mut self.bytes.as_mut()[UDP_LEN..end]
    }
}

/// The header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// Bytes of header and payload, at least 8.
    pub len: u16,
    /// The checksum as it stands on the wire; 0 for none.
    pub checksum: u16,
}

impl UdpHeader {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = UDP_LEN;

    /// Reads it, with the checks of [`UdpView::new_header_checked`].
    pub fn parse<T: AsRef<[u8]>>(view: &UdpView<T>) -> Result<Self, WireError> {
        let view = UdpView::new_header_checked(view.bytes.as_ref())?;
        Ok(Self {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            len: view.len(),
            checksum: view.checksum(),
        })
    }

    /// Writes it; how many bytes that was. A length below 8 is an error.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        check(usize::from(self.len) >= UDP_LEN, Format::Udp, "len", self.len)?;
        let mut view = UdpView::new_unchecked(room(Format::Udp, to, Self::LEN)?);
        view.set_src_port(self.src_port);
        view.set_dst_port(self.dst_port);
        view.set_len(self.len);
        view.set_checksum(self.checksum);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_udp() -> impl proptest::strategy::Strategy<Value = UdpHeader> {
    use proptest::prelude::*;
    (any::<u16>(), any::<u16>(), 8u16.., any::<u16>())
        .prop_map(|(src_port, dst_port, len, checksum)| UdpHeader { src_port, dst_port, len, checksum })
}

#[cfg(test)]
mod tests {
    use super::super::ip::IpProtocol;
    use super::super::ipv4::Ipv4View;
    use super::super::ipv6::Ipv6View;
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn captured_datagrams_both_ways() {
        let frame = hex(samples::UDP4);
        let ip = Ipv4View::new_checked(&frame[14..]).unwrap();
        let udp = UdpView::new_checked(ip.payload()).unwrap();
        let header = UdpHeader { src_port: 40000, dst_port: 53, len: 12, checksum: 0x6d94 };
        assert_eq!(UdpHeader::parse(&udp), Ok(header));
        assert_eq!(udp.payload(), b"weft");
        let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::UDP, 12);
        assert!(udp.verify_checksum(pseudo) && !udp.verify_checksum(pseudo.add_u16(1)));
        let mut out = [0xa5; 8];
        assert_eq!(header.emit(&mut out), Ok(8));
        assert_eq!(out, ip.payload()[..8]);
    }

    #[test]
    fn checksums_are_those_of_the_kernel() {
        let frame = hex(samples::UDP4);
        let ip = Ipv4View::new_checked(&frame[14..]).unwrap();
        let mut udp = UdpView::new_checked(ip.payload().to_vec()).unwrap();
        udp.set_checksum(0);
        udp.fill_checksum(Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::UDP, 12));
        assert_eq!(udp.checksum(), 0x6d94);

        let frame = hex(samples::UDP6);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let mut udp = UdpView::new_checked(ip.payload().to_vec()).unwrap();
        let pseudo = Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::UDP, 13);
        assert!(udp.verify_checksum(pseudo));
        udp.fill_checksum(pseudo);
        assert_eq!(udp.checksum(), 0x6a78);
    }

    #[test]
    fn no_checksum_is_not_a_right_one() {
        let mut udp = UdpView::new_unchecked([0u8; 8]);
        udp.set_len(8);
        // The length is the only word, and the pseudo-header here makes the sum all ones.
        assert!(!udp.verify_checksum(Sum::new().add_u16(0xffff - 8)));
        udp.fill_checksum(Sum::new().add_u16(0xffff - 8));
        assert_eq!(udp.checksum(), 0xffff);
        assert!(udp.verify_checksum(Sum::new().add_u16(0xffff - 8)));
    }

    #[test]
    fn the_length_field_is_held_against_the_slice() {
        let bytes = [0, 1, 0, 2, 0, 9, 0, 0];
        let cut = WireError::Truncated { format: Format::Udp, need: 9, have: 8 };
        assert_eq!(UdpView::new_checked(bytes).unwrap_err(), cut);
        assert!(UdpView::new_header_checked(bytes).unwrap().payload().is_empty());
        let short = WireError::BadField { format: Format::Udp, field: "len", value: 7 };
        assert_eq!(UdpView::new_header_checked([0, 1, 0, 2, 0, 7, 0, 0]).unwrap_err(), short);
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_udp()) {
            let mut bytes = [0xa5; UDP_LEN];
            header.emit(&mut bytes).unwrap();
            prop_assert_eq!(UdpHeader::parse(&UdpView::new_header_checked(bytes).unwrap()), Ok(header));
        }
    }
}
