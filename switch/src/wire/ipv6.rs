//! IPv6 fixed header (RFC 8200, section 3). The walk over the extension headers is [`transport`].
//!
//! Length contract: [`Ipv6View::new_header_checked`] wants version 6 and 40 bytes: enough where the slice is only a
//! packet's first segment. [`Ipv6View::new_checked`] also wants the whole payload in the slice, which may be longer
//! (Ethernet padding).

mod extensions;
pub use extensions::{Fragment, MAX_EXTENSIONS, Transport, transport};

use super::bytes::{array, be16, be32, check, need, put, room};
use super::ip::IpProtocol;
use super::{Format, WireError};
use std::net::Ipv6Addr;
use std::ops::Range;

/// Bytes of the fixed header.
pub const IPV6_LEN: usize = 40;

const VERSION_CLASS_FLOW: Range<usize> = 0..4;
const PAYLOAD_LEN: Range<usize> = 4..6;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
const SRC: Range<usize> = 8..24;
const DST: Range<usize> = 24..40;

const FLOW_LABEL: u32 = 0x000f_ffff;
const CLASS_SHIFT: u32 = 20;

/// A packet, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6View<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6View<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks the fixed header, which has to be in the slice; the payload need not be.
    #[inline]
    pub fn new_header_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self { bytes };
        need(Format::Ipv6, view.bytes.as_ref(), IPV6_LEN)?;
        check(view.version() == 6, Format::Ipv6, "version", view.version())?;
        Ok(view)
    }

    /// Checks the fixed header and that the whole packet is in the slice.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self::new_header_checked(bytes)?;
        need(Format::Ipv6, view.bytes.as_ref(), IPV6_LEN + usize::from(view.payload_len()))?;
        Ok(view)
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    #[inline]
    fn first_word(&self) -> u32 {
        be32(self.bytes.as_ref(), VERSION_CLASS_FLOW)
    }

    /// 6.
    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes.as_ref()[0] >> 4
    }

    /// Code point and congestion bits.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.first_word() >> CLASS_SHIFT) as u8
    }

    /// Differentiated services code point, 0 to 63 (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// Congestion notification, 0 to 3 (RFC 3168, section 5).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// The flow label, 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.first_word() & FLOW_LABEL
    }

    /// Bytes after the fixed header. 0 also in a jumbogram (RFC 2675), which is not supported.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        be16(self.bytes.as_ref(), PAYLOAD_LEN)
    }

    /// What follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> IpProtocol {
        IpProtocol(self.bytes.as_ref()[NEXT_HEADER])
    }

    /// Hops that are left.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[HOP_LIMIT]
    }

    /// From whom.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes.as_ref(), SRC))
    }

    /// To whom.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes.as_ref(), DST))
    }

    /// What follows the fixed header up to the payload length, or to the end of the slice where that comes first.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.payload_range()]
    }

    #[inline]
    fn payload_range(&self) -> Range<usize> {
        IPV6_LEN..(IPV6_LEN + usize::from(self.payload_len())).min(self.bytes.as_ref().len())
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6View<T> {
    /// Sets version 6, traffic class and the low 20 bits of the flow label.
    #[inline]
    pub fn set_first_word(&mut self, traffic_class: u8, flow_label: u32) {
        let word = 6 << 28 | u32::from(traffic_class) << CLASS_SHIFT | flow_label & FLOW_LABEL;
        put(self.bytes.as_mut(), VERSION_CLASS_FLOW, &word.to_be_bytes());
    }

    /// Sets code point and congestion bits.
    #[inline]
    pub fn set_traffic_class(&mut self, value: u8) {
        self.set_first_word(value, self.flow_label());
    }

    /// Sets the code point's low six bits.
    #[inline]
    pub fn set_dscp(&mut self, value: u8) {
        self.set_traffic_class(value << 2 | self.ecn());
    }

    /// Sets the congestion bits.
    #[inline]
    pub fn set_ecn(&mut self, value: u8) {
        self.set_traffic_class(self.traffic_class() & !3 | value & 3);
    }

    /// Sets the label's low 20 bits.
    #[inline]
    pub fn set_flow_label(&mut self, value: u32) {
        self.set_first_word(self.traffic_class(), value);
    }

    /// Sets the bytes after the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, value: u16) {
        put(self.bytes.as_mut(), PAYLOAD_LEN, &value.to_be_bytes());
    }

    /// Sets what follows.
    #[inline]
    pub fn set_next_header(&mut self, value: IpProtocol) {
        self.bytes.as_mut()[NEXT_HEADER] = value.0;
    }

    /// Sets the hops that are left.
    #[inline]
    pub fn set_hop_limit(&mut self, value: u8) {
        self.bytes.as_mut()[HOP_LIMIT] = value;
    }

    /// One hop less; what is left. Zero stays zero: the caller has to see before that the packet may not be
    /// forwarded.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> u8 {
        let left = self.hop_limit().saturating_sub(1);
        self.set_hop_limit(left);
        left
    }

    /// Sets from whom.
    #[inline]
    pub fn set_src(&mut self, value: Ipv6Addr) {
        put(self.bytes.as_mut(), SRC, &value.octets());
    }

    /// Sets to whom.
    #[inline]
    pub fn set_dst(&mut self, value: Ipv6Addr) {
        put(self.bytes.as_mut(), DST, &value.octets());
    }

    /// The payload, bounded as [`Self::payload`] is.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.payload_range();
        &mut self.bytes.as_mut()[range]
    }
}

/// The fixed header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Code point and congestion bits.
    pub traffic_class: u8,
    /// The flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes that follow.
    pub payload_len: u16,
    /// What follows.
    pub next_header: IpProtocol,
    /// Hops that are left.
    pub hop_limit: u8,
    /// From whom.
    pub src: Ipv6Addr,
    /// To whom.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = IPV6_LEN;

    /// Reads it, with the checks of [`Ipv6View::new_header_checked`].
    pub fn parse<T: AsRef<[u8]>>(view: &Ipv6View<T>) -> Result<Self, WireError> {
        let view = Ipv6View::new_header_checked(view.bytes.as_ref())?;
        Ok(Self {
            traffic_class: view.traffic_class(),
            flow_label: view.flow_label(),
            payload_len: view.payload_len(),
            next_header: view.next_header(),
            hop_limit: view.hop_limit(),
            src: view.src(),
            dst: view.dst(),
        })
    }

    /// Writes it; how many bytes that was. A flow label of more than 20 bits is an error.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        check(self.flow_label <= FLOW_LABEL, Format::Ipv6, "flow_label", self.flow_label)?;
        let mut view = Ipv6View::new_unchecked(room(Format::Ipv6, to, Self::LEN)?);
        view.set_first_word(self.traffic_class, self.flow_label);
        view.set_payload_len(self.payload_len);
        view.set_next_header(self.next_header);
        view.set_hop_limit(self.hop_limit);
        view.set_src(self.src);
        view.set_dst(self.dst);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_ipv6() -> impl proptest::strategy::Strategy<Value = Ipv6Header> {
    use super::samples::ipv6;
    use proptest::prelude::*;
    (any::<u8>(), 0u32..1 << 20, 0u16..1500, any::<u8>(), any::<u8>(), ipv6(), ipv6()).prop_map(
        |(traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst)| Ipv6Header {
            traffic_class,
            flow_label,
            payload_len,
            next_header: IpProtocol(next_header),
            hop_limit,
            src,
            dst,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, hex};
    use super::*;
    use proptest::prelude::*;

    fn captured() -> Vec<u8> {
        hex(samples::UDP6)[14..].to_vec()
    }

    #[test]
    fn a_captured_header_both_ways() {
        let bytes = captured();
        let view = Ipv6View::new_checked(&bytes[..]).unwrap();
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: 0x12923,
            payload_len: 13,
            next_header: IpProtocol::UDP,
            hop_limit: 64,
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::9".parse().unwrap(),
        };
        assert_eq!((view.version(), view.payload()), (6, &bytes[40..]));
        assert_eq!(Ipv6Header::parse(&view), Ok(header));
        let mut out = [0xa5; 40];
        assert_eq!(header.emit(&mut out), Ok(40));
        assert_eq!(out, bytes[..40]);
    }

    #[test]
    fn padding_is_legal_and_a_first_segment_too() {
        let mut padded = captured();
        padded.resize(64, 0);
        assert_eq!(Ipv6View::new_checked(&padded[..]).unwrap().payload().len(), 13);
        let first = &captured()[..48];
        let cut = WireError::Truncated { format: Format::Ipv6, need: 53, have: 48 };
        assert_eq!(Ipv6View::new_checked(first).unwrap_err(), cut);
        assert_eq!(Ipv6View::new_header_checked(first).unwrap().payload(), &first[40..]);
    }

    #[test]
    fn ipv4_is_not_ipv6() {
        let wrong = Ipv6View::new_checked([0x45; 40]).unwrap_err();
        assert_eq!(wrong, WireError::BadField { format: Format::Ipv6, field: "version", value: 4 });
    }

    #[test]
    fn a_setter_leaves_its_neighbours() {
        let mut view = Ipv6View::new_unchecked([0xff; 40]);
        view.set_first_word(0, 0xabcde);
        view.set_ecn(0xff);
        assert_eq!((view.version(), view.traffic_class(), view.flow_label()), (6, 3, 0xabcde));
        view.set_dscp(46);
        assert_eq!((view.dscp(), view.ecn(), view.flow_label()), (46, 3, 0xabcde));
        view.set_flow_label(0xfff0_0001);
        assert_eq!((view.version(), view.traffic_class(), view.flow_label()), (6, 0xbb, 1));
        view.set_hop_limit(1);
        assert_eq!((view.decrement_hop_limit(), view.decrement_hop_limit()), (0, 0));
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_ipv6()) {
            let mut bytes = [0xa5; IPV6_LEN];
            header.emit(&mut bytes).unwrap();
            prop_assert_eq!(Ipv6Header::parse(&Ipv6View::new_header_checked(bytes).unwrap()), Ok(header));
        }
    }
}
