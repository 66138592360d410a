//! SCTP common header (RFC 9260, section 3.1). Its CRC32c is carried and neither checked nor computed: the switch
//! changes nothing that it covers.
//!
//! Length contract: [`SctpView::new_checked`] wants 12 bytes.

use super::bytes::{be16, be32, need, put, room};
use super::{Format, WireError};
use std::ops::Range;

/// Bytes of the common header.
pub const SCTP_LEN: usize = 12;

const SRC_PORT: Range<usize> = 0..2;
const DST_PORT: Range<usize> = 2..4;
const VERIFICATION_TAG: Range<usize> = 4..8;
const CHECKSUM: Range<usize> = 8..12;

/// A packet, from its header's first byte.
#[derive(Debug, Clone, Copy)]
pub struct SctpView<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> SctpView<T> {
    /// Over bytes that are known to hold a header.
    #[inline]
    pub fn new_unchecked(bytes: T) -> Self {
        Self { bytes }
    }

    /// Checks that the header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, WireError> {
        need(Format::Sctp, bytes.as_ref(), SCTP_LEN)?;
        Ok(Self { bytes })
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

    /// Which association it belongs to.
    #[inline]
    pub fn verification_tag(&self) -> u32 {
        be32(self.bytes.as_ref(), VERIFICATION_TAG)
    }

    /// The CRC32c over the packet, as it stands there.
    #[inline]
    pub fn checksum(&self) -> u32 {
        be32(self.bytes.as_ref(), CHECKSUM)
    }

    /// The chunks.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[SCTP_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> SctpView<T> {
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

    /// Sets which association it belongs to.
    #[inline]
    pub fn set_verification_tag(&mut self, value: u32) {
        put(self.bytes.as_mut(), VERIFICATION_TAG, &value.to_be_bytes());
    }

    /// Sets the CRC32c.
    #[inline]
    pub fn set_checksum(&mut self, value: u32) {
        put(self.bytes.as_mut(), CHECKSUM, &value.to_be_bytes());
    }
}

/// The common header, owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpHeader {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// Which association it belongs to.
    pub verification_tag: u32,
    /// The CRC32c as it stands on the wire.
    pub checksum: u32,
}

impl SctpHeader {
    /// Bytes that [`Self::emit`] writes.
    pub const LEN: usize = SCTP_LEN;

    /// Reads it.
    pub fn parse<T: AsRef<[u8]>>(view: &SctpView<T>) -> Result<Self, WireError> {
        let view = SctpView::new_checked(view.bytes.as_ref())?;
        Ok(Self {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            verification_tag: view.verification_tag(),
            checksum: view.checksum(),
        })
    }

    /// Writes it; how many bytes that was.
    pub fn emit(&self, to: &mut [u8]) -> Result<usize, WireError> {
        let mut view = SctpView::new_unchecked(room(Format::Sctp, to, Self::LEN)?);
        view.set_src_port(self.src_port);
        view.set_dst_port(self.dst_port);
        view.set_verification_tag(self.verification_tag);
        view.set_checksum(self.checksum);
        Ok(Self::LEN)
    }
}

#[cfg(test)]
pub(crate) fn any_sctp() -> impl proptest::strategy::Strategy<Value = SctpHeader> {
    use proptest::prelude::*;
    (any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>()).prop_map(
        |(src_port, dst_port, verification_tag, checksum)| SctpHeader {
            src_port,
            dst_port,
            verification_tag,
            checksum,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_both_ways() {
        // Ports 36412 and 38412 (S1AP, NGAP), then the first byte of a DATA chunk.
        let bytes = [0x8e, 0x3c, 0x96, 0x0c, 0x01, 0x02, 0x03, 0x04, 0xaa, 0xbb, 0xcc, 0xdd, 0x00];
        let view = SctpView::new_checked(bytes).unwrap();
        let header = SctpHeader {
            src_port: 36412,
            dst_port: 38412,
            verification_tag: 0x0102_0304,
            checksum: 0xaabb_ccdd,
        };
        assert_eq!(SctpHeader::parse(&view), Ok(header));
        assert_eq!(view.payload(), [0x00]);
        let mut out = [0; 12];
        assert_eq!(header.emit(&mut out), Ok(12));
        assert_eq!(out, bytes[..12]);
    }

    proptest! {
        #[test]
        fn emit_then_parse(header in any_sctp()) {
            let mut bytes = [0xa5; SCTP_LEN];
            header.emit(&mut bytes).unwrap();
            prop_assert_eq!(SctpHeader::parse(&SctpView::new_checked(bytes).unwrap()), Ok(header));
        }
    }
}
