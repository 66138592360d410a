//! IPv4 header with options (RFC 791, section 3.1).
//!
//! Length contract: [`Ipv4View::new_header_checked`] wants version 4, a header of at least 20 bytes that is in the
//! slice, and a total length that holds the header: enough where the slice is only a packet's first segment.
//! [`Ipv4View::new_checked`] also wants the whole packet in the slice. A slice longer than the packet is legal:
//! short Ethernet frames are padded. The checksum is not checked: [`Ipv4View::verify_checksum`] does that.

mod options;
pub use options::{Ipv4Option, Ipv4Options, OPTION_END, OPTION_LSRR, OPTION_NOP, OPTION_SSRR};

use super::bytes::{array, be16, check, need, put, room};
use super::checksum::{Sum, update16};
use super::ip::IpProtocol;
use super::{Format, WireError};
use arrayvec::ArrayVec;
use std::net::Ipv4Addr;
use std::ops::Range;

/// Bytes of a header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of the longest header.
pub const IPV4_MAX_LEN: usize = 60;
/// Bytes of the longest options.
pub const IPV4_MAX_OPTIONS: usize = IPV4_MAX_LEN - IPV4_LEN;

const VERSION_IHL: usize = 0;
const DSCP_ECN: usize = 1;
const FIRST_WORD: Range<usize> = 0..2;
const TOTAL_LEN: Range<usize> = 2..4;
const IDENT: Range<usize> = 4..6;
const FRAGMENT: Range<usize> = 6..8;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const TTL_WORD: Range<usize> = 8..10;
const CHECKSUM: Range<usize> = 10..12;
const SRC: Range<usize> = 12..16;
const DST: Range<usize> = 16..20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// A packet, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4View<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks the header, which has to be in the slice; the payload need not be.
    #[inline]
    pub fn new_header_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self { bytes };
        let b = view.bytes.as_ref();
        need(Format::Ipv4, b, IPV4_LEN)?;
        check(b[VERSION_IHL] >> 4 == 4, Format::Ipv4, "version", b[VERSION_IHL] >> 4)?;
        let header_len = view.header_len();
        check(header_len >= IPV4_LEN, Format::Ipv4, "header_len", header_len as u64)?;
        need(Format::Ipv4, b, header_len)?;
        let total_len = view.total_len();
        check(usize::from(total_len) >= header_len, Format::Ipv4, "total_len", total_len)?;
        Ok(view)
    }

    /// Checks the header and that the whole packet is in the slice.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self::new_header_checked(bytes)?;
        need(Format::Ipv4, view.bytes.as_ref(), usize::from(view.total_len()))?;
        Ok(view)
    }

    /// The bytes again.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// Bytes of the header with its options, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[VERSION_IHL] & 0x0f) * 4
    }

    /// Differentiated services code point, 0 to 63 (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.bytes.as_ref()[DSCP_ECN] >> 2
    }

    /// Congestion notification, 0 to 3 (RFC 3168, section 5).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.bytes.as_ref()[DSCP_ECN] & 3
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn total_len(&self) -> u16 {
        be16(self.bytes.as_ref(), TOTAL_LEN)
    }

    /// Identification of a datagram's fragments.
    #[inline]
    pub fn ident(&self) -> u16 {
        be16(self.bytes.as_ref(), IDENT)
    }

    #[inline]
    fn fragment_word(&self) -> u16 {
        be16(self.bytes.as_ref(), FRAGMENT)
    }

    /// Not to be fragmented on the way.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.fragment_word() & DONT_FRAGMENT != 0
    }

    /// More fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.fragment_word() & MORE_FRAGMENTS != 0
    }

    /// Where in its datagram this fragment's payload stands, in bytes; a multiple of 8.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.fragment_word() & OFFSET) << 3
    }

    /// A part of a datagram and not the whole.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment_word() & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Hops that are left.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes.as_ref()[TTL]
    }

    /// What it carries.
    #[inline]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.bytes.as_ref()[PROTOCOL])
    }

    /// The header's checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes.as_ref(), CHECKSUM)
    }

    /// From whom.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes.as_ref(), SRC))
    }

    /// To whom.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes.as_ref(), DST))
    }

    /// The options as they stand there, 0 to 40 bytes.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes.as_ref()[IPV4_LEN..self.header_len()]
    }

    /// What follows the header up to the total length, or to the end of the slice where that comes first.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.payload_range()]
    }

    #[inline]
    fn payload_range(&self) -> Range<usize> {
        self.header_len()..usize::from(self.total_len()).min(self.bytes.as_ref().len())
    }

    /// True when the header's checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        Sum::new().add(&self.bytes.as_ref()[..self.header_len()]).fold() == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4View<T> {
    /// Sets the version to 4 and the header's length: 20 to 60 bytes, a multiple of 4.
    #[inline]
    pub fn set_header_len(&mut self, bytes: usize) {
        self.bytes.as_mut()[VERSION_IHL] = 0x40 | (bytes / 4) as u8 & 0x0f;
    }

    /// Sets the code point's low six bits.
    #[inline]
    pub fn set_dscp(&mut self, value: u8) {
        let byte = &mut self.bytes.as_mut()[DSCP_ECN];
        *byte = value << 2 | *byte & 3;
    }

    /// Sets the congestion bits; the checksum is then wrong.
    #[inline]
    pub fn set_ecn(&mut self, value: u8) {
        let byte = &mut self.bytes.as_mut()[DSCP_ECN];
        *byte = *byte & !3 | value & 3;
    }

    /// Sets the congestion bits and corrects the checksum for it.
    #[inline]
    pub fn set_ecn_updating(&mut self, value: u8) {
        let old = be16(self.bytes.as_ref(), FIRST_WORD);
        self.set_ecn(value);
        let new = be16(self.bytes.as_ref(), FIRST_WORD);
        self.set_checksum(update16(self.checksum(), old, new));
    }

    /// Sets the bytes of header and payload.
    #[inline]
    pub fn set_total_len(&mut self, value: u16) {
        put(self.bytes.as_mut(), TOTAL_LEN, &value.to_be_bytes());
    }

    /// Sets the identification.
    #[inline]
    pub fn set_ident(&mut self, value: u16) {
        put(self.bytes.as_mut(), IDENT, &value.to_be_bytes());
    }

    #[inline]
    fn set_fragment_bits(&mut self, clear: u16, set: u16) {
        let word = self.fragment_word() & !clear | set;
        put(self.bytes.as_mut(), FRAGMENT, &word.to_be_bytes());
    }

    /// Sets whether it may be fragmented.
    #[inline]
    pub fn set_dont_fragment(&mut self, value: bool) {
        self.set_fragment_bits(DONT_FRAGMENT, if value { DONT_FRAGMENT } else { 0 });
    }

    /// Sets whether more fragments follow.
    #[inline]
    pub fn set_more_fragments(&mut self, value: bool) {
        self.set_fragment_bits(MORE_FRAGMENTS, if value { MORE_FRAGMENTS } else { 0 });
    }

    /// Sets the fragment's place, in bytes; the low three bits are lost.
    #[inline]
    pub fn set_fragment_offset(&mut self, bytes: u16) {
        self.set_fragment_bits(OFFSET, bytes >> 3);
    }

    /// Sets the hops that are left.
    #[inline]
    pub fn set_ttl(&mut self, value: u8) {
        self.bytes.as_mut()[TTL] = value;
    }

    /// One hop less, with the checksum corrected (RFC 1624); what is left. Zero stays zero: the caller has to see
    /// before that the packet may not be forwarded.
    #[inline]
    pub fn decrement_ttl(&mut self) -> u8 {
        // Not read again after it is written: a load of two bytes that waits for a store of one costs more than all the rest.
        let old = be16(self.bytes.as_ref(), TTL_WORD);
        let new = old.checked_sub(0x0100).unwrap_or(old);
        self.set_checksum(update16(self.checksum(), old, new));
        let [ttl, _] = new.to_be_bytes();
        self.set_ttl(ttl);
        ttl
    }

    /// Sets what it carries.
    #[inline]
    pub fn set_protocol(&mut self, value: IpProtocol) {
        self.bytes.as_mut()[PROTOCOL] = value.0;
    }

    /// Sets the checksum as it goes on the wire.
    #[inline]
    pub fn set_checksum(&mut self, value: u16) {
        put(self.bytes.as_mut(), CHECKSUM, &value.to_be_bytes());
    }

    /// Sets from whom.
    #[inline]
    pub fn set_src(&mut self, value: Ipv4Addr) {
        put(self.bytes.as_mut(), SRC, &value.octets());
    }

    /// Sets to whom.
    #[inline]
    pub fn set_dst(&mut self, value: Ipv4Addr) {
        put(self.bytes.as_mut(), DST, &value.octets());
    }

    /// Computes the header's checksum and sets it.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let header_len = self.header_len();
        let sum = Sum::new().add(&self.bytes.as_ref()[..header_len]).checksum();
        self.set_checksum(sum);
    }

    /// The options.
    #[inline]
    pub fn options_mut(&mut self) -> &mut [u8] {
        let end = self.header_len();
        &mut self.bytes.as_mut()[IPV4_LEN..end]
    }

    /// The payload, bounded as [`Self::payload`] is.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.payload_range();
        &mut self.bytes.as_mut()[range]
    }
}

/// The header, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// Congestion notification, 0 to 3.
    pub ecn: u8,
    /// Bytes that follow the header.
    pub payload_len: u16,
    /// Identification.
    pub ident: u16,
    /// Not to be fragmented.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// The fragment's place in bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// Hops that are left.
    pub ttl: u8,
    /// What it carries.
    pub protocol: IpProtocol,
    /// From whom.
    pub src: Ipv4Addr,
    /// To whom.
    pub dst: Ipv4Addr,
    /// The options, padded to a multiple of 4 bytes.
    pub options: ArrayVec<u8, IPV4_MAX_OPTIONS>,
}

impl Ipv4Header {
    /// Bytes that [`Self::emit`] writes.
    pub fn len(&self) -> usize {
        IPV4_LEN + self.options.len()
    }

    /// Never: a header has at least 20 bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads it, with the checks of [`Ipv4View::new_header_checked`]. A wrong checksum is an error.
    pub fn parse<T: AsRef<[u8]>>(view: &Ipv4View<T>) -> Result<Self, WireError> {
        let view = Ipv4View::new_header_checked(view.bytes.as_ref())?;
        check(view.verify_checksum(), Format::Ipv4, "checksum", view.checksum())?;
        Ok(Self {
            dscp: view.dscp(),
            ecn: view.ecn(),
            payload_len: view.total_len() - view.header_len() as u16,
            ident: view.ident(),
            dont_fragment: view.dont_fragment(),
            more_fragments: view.more_fragments(),
            fragment_offset: view.fragment_offset(),
            ttl: view.ttl(),
            protocol: view.protocol(),
            src: view.src(),
            dst: view.dst(),
            options: view.options().iter().copied().collect(),
        })
    }

    /// Writes it with its checksum; how many bytes that was. A field outside its range is an error.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let len = self.len();
        let total_len = len + usize::from(self.payload_len);
        check(self.dscp < 64, Format::Ipv4, "dscp", self.dscp)?;
        check(self.ecn < 4, Format::Ipv4, "ecn", self.ecn)?;
        check(self.fragment_offset % 8 == 0, Format::Ipv4, "fragment_offset", self.fragment_offset)?;
        check(len % 4 == 0, Format::Ipv4, "header_len", len as u64)?;
        check(total_len <= usize::from(u16::MAX), Format::Ipv4, "total_len", total_len as u64)?;
        let header = room(Format::Ipv4, to, len)?;
        header[..IPV4_LEN].fill(0);
        let mut view = Ipv4View::new_unchecked(header);
        view.set_header_len(len);
        view.set_dscp(self.dscp);
        view.set_ecn(self.ecn);
        view.set_total_len(total_len as u16);
        view.set_ident(self.ident);
        view.set_dont_fragment(self.dont_fragment);
        view.set_more_fragments(self.more_fragments);
        view.set_fragment_offset(self.fragment_offset);
        view.set_ttl(self.ttl);
        view.set_protocol(self.protocol);
        view.set_src(self.src);
        view.set_dst(self.dst);
        view.options_mut().copy_from_slice(&self.options);
        view.fill_checksum();
        Ok(len)
    }
}

#[cfg(test)]
pub(crate) fn any_ipv4() -> impl proptest::strategy::Strategy<Value = Ipv4Header> {
    use super::samples::{ipv4, options};
    use proptest::prelude::*;
    let bits = (0u8..64, 0u8..4, any::<bool>(), any::<bool>(), 0u16..8192);
    (bits, 0u16..1500, any::<u16>(), any::<u8>(), any::<u8>(), ipv4(), ipv4(), options()).prop_map(
        |(
            (dscp, ecn, dont_fragment, more_fragments, offset),
            payload_len,
            ident,
            ttl,
            protocol,
            src,
            dst,
            options,
        )| {
            Ipv4Header {
                dscp,
                ecn,
                payload_len,
                ident,
                dont_fragment,
                more_fragments,
                fragment_offset: offset * 8,
                ttl,
                protocol: IpProtocol(protocol),
                src,
                dst,
                options,
            }
        },
    )
}

#[cfg(test)]
mod tests;
