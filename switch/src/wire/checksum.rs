//! The Internet checksum (RFC 1071), over chains of any lengths, and its incremental update (RFC 1624).
//!
//! A [`Sum`] takes the bytes in order; it remembers whether an odd number came so far, so that the segments of a
//! chain may have any length. Nothing is inverted until [`Sum::checksum`].

use super::ip::IpProtocol;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A one's complement sum that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Of 16-bit words in network order; far from overflow, as each step adds less than 2^18.
    total: u64,
    /// The next byte is the low half of a word.
    odd: bool,
}

impl Sum {
    /// Of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self { total: 0, odd: false }
    }

    /// IPv4's pseudo-header (RFC 768; RFC 9293, section 3.1). `len`: bytes of the transport header and its payload.
    #[inline]
    pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, len: usize) -> Self {
        Self::new()
            .add_u32(u32::from(src))
            .add_u32(u32::from(dst))
            .add_u16(u16::from(protocol.0))
            .add_u32(len as u32)
    }

    /// IPv6's pseudo-header (RFC 8200, section 8.1). `len`: bytes of the upper-layer header and its payload.
    #[inline]
    pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: IpProtocol, len: usize) -> Self {
        Self::new().add(&src.octets()).add(&dst.octets()).add_u32(len as u32).add_u32(u32::from(protocol.0))
    }

    /// With the next bytes.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "`sum + bytes` would read as arithmetic")]
    pub fn add(self, bytes: &[u8]) -> Self {
        // Whole words are summed as the machine reads them and turned round once: the sum does not depend on the
        // byte order (RFC 1071, section 2 (B)).
        let words = u16::from_be(fold(sum_native(bytes)));
        Self { total: self.total + self.placed(words), odd: self.odd ^ (bytes.len() % 2 == 1) }
    }

    /// With the next two bytes.
    #[inline]
    pub fn add_u16(self, value: u16) -> Self {
        Self { total: self.total + self.placed(value), odd: self.odd }
    }

    /// With the next four bytes.
    #[inline]
    pub fn add_u32(self, value: u32) -> Self {
        self.add_u16((value >> 16) as u16).add_u16(value as u16)
    }

    /// The sum, not inverted: what the checksum field of a packet with a partial checksum holds, and 0xffff over
    /// bytes whose checksum is right.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.total)
    }

    /// The sum inverted, as it goes into a packet. UDP has a rule on top: [`udp_never_zero`].
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// A sum of words that began after an odd number of bytes has its bytes the other way round.
    #[inline]
    fn placed(self, words: u16) -> u64 {
        u64::from(if self.odd { words.swap_bytes() } else { words })
    }
}

/// Adds carries back until 16 bits are left.
#[inline]
fn fold(total: u64) -> u16 {
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    total as u16
}

/// The sum of the bytes as 16-bit words in the machine's order, an odd byte padded with zero.
#[inline]
fn sum_native(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut total = 0u64;
    for word in &mut words {
        let mut array = [0; 8];
        array.copy_from_slice(word);
        let (sum, carry) = total.overflowing_add(u64::from_ne_bytes(array));
        total = sum + u64::from(carry);
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let (sum, carry) = total.overflowing_add(u64::from_ne_bytes(last));
    sum + u64::from(carry)
}

/// The checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// What a UDP sender writes for a computed checksum: all ones in place of zero, which would mean "none" (RFC 768).
#[inline]
pub fn udp_never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}
