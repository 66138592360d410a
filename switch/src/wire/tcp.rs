//! TCP header with options (RFC 9293, section 3.1).
//!
//! Length contract: [`TcpView::new_checked`] wants a data offset of at least 5 and the whole header with its options
//! in the slice. The payload need not be in it: TCP has no length field.

use super::bytes::{be16, be32, check, need, put, room};
use super::checksum::Sum;
use super::{Format, WireError};
use arrayvec::ArrayVec;
use std::ops::{BitOr, Range};

/// Bytes of a header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of the longest options.
pub const TCP_MAX_OPTIONS: usize = 40;
/// Where the checksum stands, in bytes from the header's start.
pub const TCP_CHECKSUM_OFFSET: usize = CHECKSUM.start;

const SRC_PORT: Range<usize> = 0..2;
const DST_PORT: Range<usize> = 2..4;
const SEQ: Range<usize> = 4..8;
const ACK: Range<usize> = 8..12;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: Range<usize> = 14..16;
const CHECKSUM: Range<usize> = 16..18;
const URGENT: Range<usize> = 18..20;

/// The eight control bits (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// Sequence numbers are synchronised.
    pub const SYN: Self = Self(0x02);
    /// The connection is reset.
    pub const RST: Self = Self(0x04);
    /// Give the data to the application.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion was seen (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// True when all of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These without `flags`.
    #[inline]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

impl BitOr for TcpFlags {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A segment, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct TcpView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> TcpView<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header and its options are there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        let view = Self { bytes };
        need(Format::Tcp, view.bytes.as_ref(), TCP_LEN)?;
        check(view.header_len() >= TCP_LEN, Format::Tcp, "header_len", view.header_len() as u64)?;
        need(Format::Tcp, view.bytes.as_ref(), view.header_len())?;
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

    /// Number of the first byte of the payload.
    #[inline]
    pub fn seq(&self) -> u32 {
        be32(self.bytes.as_ref(), SEQ)
    }

    /// Number of the next byte that the sender wants.
    #[inline]
    pub fn ack(&self) -> u32 {
        be32(self.bytes.as_ref(), ACK)
    }

    /// Bytes of the header with its options, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[DATA_OFFSET] >> 4) * 4
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.bytes.as_ref()[FLAGS])
    }

    /// How much the sender takes, before scaling.
    #[inline]
    pub fn window(&self) -> u16 {
        be16(self.bytes.as_ref(), WINDOW)
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes.as_ref(), CHECKSUM)
    }

    /// The urgent pointer.
    #[inline]
    pub fn urgent(&self) -> u16 {
        be16(self.bytes.as_ref(), URGENT)
    }

    /// The options as they stand there, 0 to 40 bytes.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes.as_ref()[TCP_LEN..self.header_len()]
    }

    /// What follows the header, to the end of the slice: bound the slice by IP's length first.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_len()..]
    }

    /// True when the checksum over the whole slice is right. `pseudo` is the sum of the pseudo-header.
    #[inline]
    pub fn verify_checksum(&self, pseudo: Sum) -> bool {
        pseudo.add(self.bytes.as_ref()).fold() == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> TcpView<T> {
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

    /// Sets the number of the payload's first byte.
    #[inline]
    pub fn set_seq(&mut self, value: u32) {
        put(self.bytes.as_mut(), SEQ, &value.to_be_bytes());
    }

    /// Sets the number of the next byte that the sender wants.
    #[inline]
    pub fn set_ack(&mut self, value: u32) {
        put(self.bytes.as_mut(), ACK, &value.to_be_bytes());
    }

    /// Sets the header's length: 20 to 60 bytes, a multiple of 4. Clears the reserved bits.
    #[inline]
    pub fn set_header_len(&mut self, bytes: usize) {
        self.bytes.as_mut()[DATA_OFFSET] = ((bytes / 4) as u8) << 4;
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, value: TcpFlags) {
        self.bytes.as_mut()[FLAGS] = value.0;
    }

    /// Sets how much the sender takes.
    #[inline]
    pub fn set_window(&mut self, value: u16) {
        put(self.bytes.as_mut(), WINDOW, &value.to_be_bytes());
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, value: u16) {
        put(self.bytes.as_mut(), CHECKSUM, &value.to_be_bytes());
    }

    /// Sets the urgent pointer.
    #[inline]
    pub fn set_urgent(&mut self, value: u16) {
        put(self.bytes.as_mut(), URGENT, &value.to_be_bytes());
    }

    /// The options.
    #[inline]
    pub fn options_mut(&mut self) -> &mut [u8] {
        let end = self.header_len();
        &mut self.bytes.as_mut()[TCP_LEN..end]
    }

    /// Computes the checksum over the whole slice and sets it. `pseudo` is the sum of the pseudo-header.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo: Sum) {
        self.set_checksum(0);
        let sum = pseudo.add(self.bytes.as_ref()).checksum();
        self.set_checksum(sum);
    }
}

/// The header, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpHeader {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// Number of the payload's first byte.
    pub seq: u32,
    /// Number of the next byte wanted.
    pub ack: u32,
    /// The control bits.
    pub flags: TcpFlags,
    /// How much the sender takes.
    pub window: u16,
    /// The checksum as it stands on the wire.
    pub checksum: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The options, padded to a multiple of 4 bytes.
    pub options: ArrayVec<u8, TCP_MAX_OPTIONS>,
}

impl TcpHeader {
    /// Bytes that [`Self::emit`] writes.
    pub fn len(&self) -> usize {
        TCP_LEN + self.options.len()
    }

    /// Never: a header has at least 20 bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads it, with the checks of [`TcpView::new_checked`].
    pub fn parse<T: AsRef<[u8]>>(view: &TcpView<T>) -> Result<Self, WireError> {
        let view = TcpView::new_checked(view.bytes.as_ref())?;
        Ok(Self {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
            checksum: view.checksum(),
            urgent: view.urgent(),
            options: view.options().iter().copied().collect(),
        })
    }

    /// Writes it; how many bytes that was. Options that are no multiple of 4 bytes are an error.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let len = self.len();
        check(len % 4 == 0, Format::Tcp, "header_len", len as u64)?;
        let mut view = TcpView::new_unchecked(room(Format::Tcp, to, len)?);
        view.set_src_port(self.src_port);
        view.set_dst_port(self.dst_port);
        view.set_seq(self.seq);
        view.set_ack(self.ack);
        view.set_header_len(len);
        view.set_flags(self.flags);
        view.set_window(self.window);
        view.set_checksum(self.checksum);
        view.set_urgent(self.urgent);
        view.options_mut().copy_from_slice(&self.options);
        Ok(len)
    }
}

#[cfg(test)]
pub(crate) fn any_tcp() -> impl proptest::strategy::Strategy<Value = TcpHeader> {
    use super::samples::options;
    use proptest::prelude::*;
    let numbers = (any::<u32>(), any::<u32>());
    let words = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
    (numbers, words, any::<u8>(), options()).prop_map(
        |((seq, ack), (src_port, dst_port, window, checksum, urgent), flags, options)| TcpHeader {
            src_port,
            dst_port,
            seq,
            ack,
            flags: TcpFlags(flags),
            window,
            checksum,
            urgent,
            options,
        },
    )
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
    fn a_captured_syn_both_ways() {
        let frame = hex(samples::TCP4);
        let ip = Ipv4View::new_checked(&frame[14..]).unwrap();
        let tcp = TcpView::new_checked(ip.payload()).unwrap();
        let header = TcpHeader {
            src_port: 40100,
            dst_port: 80,
            seq: 0x9eb8_3386,
            ack: 0,
            flags: TcpFlags::SYN,
            window: 64240,
            checksum: 0xc9a8,
            urgent: 0,
            options: hex("020405b40402080a43e3b85a000000000103030a").into_iter().collect(),
        };
        assert_eq!(TcpHeader::parse(&tcp), Ok(header.clone()));
        assert_eq!((tcp.header_len(), tcp.payload().len()), (40, 0));
        let mut out = [0xa5; 40];
        assert_eq!(header.emit(&mut out), Ok(40));
        assert_eq!(out, ip.payload());
    }

    #[test]
    fn checksums_are_those_of_the_kernel() {
        let frame = hex(samples::TCP4);
        let ip = Ipv4View::new_checked(&frame[14..]).unwrap();
        let mut tcp = TcpView::new_checked(ip.payload().to_vec()).unwrap();
        let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::TCP, ip.payload().len());
        assert!(tcp.verify_checksum(pseudo));
        tcp.fill_checksum(pseudo);
        assert_eq!(tcp.checksum(), 0xc9a8);

        let frame = hex(samples::TCP6);
        let ip = Ipv6View::new_checked(&frame[14..]).unwrap();
        let mut tcp = TcpView::new_checked(ip.payload().to_vec()).unwrap();
        let pseudo = Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::TCP, ip.payload().len());
        assert!(tcp.verify_checksum(pseudo));
        tcp.fill_checksum(pseudo);
        assert_eq!(tcp.checksum(), 0xdcfd);
    }

    #[test]
    fn the_header_with_its_options_has_to_be_there() {
        let mut bytes = hex(samples::TCP4)[34..].to_vec();
        assert!(TcpView::new_checked(&bytes[..]).is_ok());
        let cut = WireError::Truncated { format: Format::Tcp, need: 40, have: 39 };
        assert_eq!(TcpView::new_checked(&bytes[..39]).unwrap_err(), cut);
        bytes[DATA_OFFSET] = 0x40;
        let short = WireError::BadField { format: Format::Tcp, field: "header_len", value: 16 };
        assert_eq!(TcpView::new_checked(&bytes[..]).unwrap_err(), short);
    }

    #[test]
    fn flags_are_a_set() {
        let flags = TcpFlags::FIN | TcpFlags::PSH | TcpFlags::CWR;
        assert!(
            flags.contains(TcpFlags::FIN | TcpFlags::CWR) && !flags.contains(TcpFlags::FIN | TcpFlags::ACK)
        );
        assert_eq!(flags.without(TcpFlags::FIN | TcpFlags::PSH), TcpFlags::CWR);
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_tcp()) {
            let mut bytes = vec![0xa5; header.len()];
            prop_assert_eq!(header.emit(&mut bytes), Ok(header.len()));
            prop_assert_eq!(TcpHeader::parse(&TcpView::new_checked(&bytes).unwrap()), Ok(header));
        }
    }
}
