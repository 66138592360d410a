//! Reading and writing fields by range: big-endian, as every format here is.

use super::{Format, WireError};
use std::ops::Range;

/// The bytes of `field`. Panics when they are not there or not `N`: ranges are constants and lengths are checked.
#[inline(always)]
pub(super) fn array<const N: usize>(bytes: &[u8], field: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[field]);
    out
}

/// The 16-bit number in `field`.
#[inline(always)]
pub(super) fn be16(bytes: &[u8], field: Range<usize>) -> u16 {
    u16::from_be_bytes(array(bytes, field))
}

/// The 32-bit number in `field`.
#[inline(always)]
pub(super) fn be32(bytes: &[u8], field: Range<usize>) -> u32 {
    u32::from_be_bytes(array(bytes, field))
}

/// Writes `value` over `field`, which has the same length.
#[inline(always)]
pub(super) fn put(bytes: &mut [u8], field: Range<usize>, value: &[u8]) {
    bytes[field].copy_from_slice(value);
}

/// Checks that a header of `need` bytes is in `bytes`.
#[inline(always)]
pub(super) fn need(format: Format, bytes: &[u8], need: usize) -> Result<(), WireError> {
    if bytes.len() < need {
        return Err(WireError::Truncated { format, need, have: bytes.len() });
    }
    Ok(())
}

/// The first `need` bytes of the buffer that an owned form is written into.
#[inline]
pub(super) fn room(format: Format, bytes: &mut [u8], need: usize) -> Result<&mut [u8], WireError> {
    let have = bytes.len();
    bytes.get_mut(..need).ok_or(WireError::NoRoom { format, need, have })
}

/// `Ok` when `fine`, else the error that names the field.
#[inline(always)]
pub(super) fn check(
    fine: bool,
    format: Format,
    field: &'static str,
    value: impl Into<u64>,
) -> Result<(), WireError> {
    if fine { Ok(()) } else { Err(WireError::BadField { format, field, value: value.into() }) }
}
