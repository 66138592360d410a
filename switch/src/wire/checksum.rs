//! The Internet checksum (RFC 1071), over chains of any lengths, and its incremental update (RFC 1624).
//!
//! A [`Sum`] takes the bytes in order; it remembers whether an odd number came so far, so that the segments of a
//! chain may have any length. Nothing is inverted until [`Sum::checksum`].

use super::ip::IpProtocol;
use std::net::{Ipv4Addr, Ipv6Addr};
use weft_sync::sum::sum_native;

/// A one's complement sum that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Of 16-bit words in network order; far from overflow, as each step adds less than 2^16.
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

    /// With the next bytes, whose sum is known already.
    #[inline]
    pub fn add_sum(self, following: Self) -> Self {
        Self { total: self.total + self.placed(following.fold()), odd: self.odd ^ following.odd }
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

/// True when the checksum of an IPv4 header without options is right: its words as numbers, since every packet comes here.
#[inline(always)]
pub fn ipv4_header_ok(header: &[u8; 20]) -> bool {
    let word = |at: usize| {
        u64::from(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) as u32 + (sum as u32 >> 16) + (sum as u32 & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

/// True when the checksum of a UDP packet over IPv4 is right: of `len` bytes, which stand at the end of `bytes` right behind the IP
/// addresses. As [`ipv4_header_ok`].
#[inline(always)]
pub fn udp4_ok(bytes: &[u8], len: u16) -> bool {
    let pseudo = u64::from(u16::from(IpProtocol::UDP.0).to_be()) + u64::from(len.to_be());
    fold(sum_native(bytes) + pseudo) == 0xffff
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::new().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.fold(), sum.checksum()), (0xddf2, 0x220d));
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: with equation 2 this one would give 0xffff.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        for len in [0, 1, 2, 3, 7, 8, 9, 65535, 65536, 1 << 20] {
            assert_eq!(Sum::new().add(&vec![0xff; len]).fold(), naive(&vec![0xff; len]), "{len}");
        }
    }

    #[test]
    fn udp_writes_zero_as_ones() {
        assert_eq!(udp_never_zero(0), 0xffff);
        assert_eq!(udp_never_zero(0xffff), 0xffff);
        assert_eq!(udp_never_zero(1), 1);
    }

    proptest! {
        #[test]
        fn a_header_is_right_where_its_sum_is(mut header: [u8; 20], right: bool, carry: bool) {
            if carry {
                header[..10].fill(0xff);
            }
            if right {
                header[10..12].fill(0);
                let checksum = Sum::new().add(&header).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            prop_assert_eq!(ipv4_header_ok(&header), Sum::new().add(&header).fold() == 0xffff);
        }

        #[test]
        fn equal_to_the_plain_loop(bytes in vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::new().add(&bytes).fold(), naive(&bytes));
        }

        #[test]
        fn a_chain_sums_to_what_its_bytes_do(segments in vec(vec(any::<u8>(), 0..40), 0..12)) {
            let sum = segments.iter().fold(Sum::new(), |sum, segment| sum.add(segment));
            prop_assert_eq!(sum.fold(), naive(&segments.concat()));
            let sums = segments.iter().fold(Sum::new(), |sum, segment| sum.add_sum(Sum::new().add(segment)));
            prop_assert_eq!(sums, sum);
        }

        #[test]
        fn numbers_stand_where_bytes_would(
            before in vec(any::<u8>(), 0..5), a: u16, b: u32, after in vec(any::<u8>(), 0..5),
        ) {
            let sum = Sum::new().add(&before).add_u16(a).add_u32(b).add(&after);
            let bytes = [&before[..], &a.to_be_bytes(), &b.to_be_bytes(), &after].concat();
            prop_assert_eq!(sum.fold(), naive(&bytes));
        }

        #[test]
        fn pseudo_headers_are_their_bytes(s: u32, d: u32, s6: u128, d6: u128, protocol: u8, len in 0u32..70_000) {
            let [.., high, low] = len.to_be_bytes();
            let bytes = [&s.to_be_bytes()[..], &d.to_be_bytes(), &[0, protocol, high, low]].concat();
            if len <= 0xffff {
                let sum = Sum::pseudo_v4(s.into(), d.into(), IpProtocol(protocol), len as usize);
                prop_assert_eq!(sum.fold(), naive(&bytes));
            }
            let bytes = [&s6.to_be_bytes()[..], &d6.to_be_bytes(), &len.to_be_bytes(), &[0, 0, 0, protocol]];
            let sum = Sum::pseudo_v6(s6.into(), d6.into(), IpProtocol(protocol), len as usize);
            prop_assert_eq!(sum.fold(), naive(&bytes.concat()));
        }

        /// Both of one's complement's zeros are right in a packet; computing gives only one of them.
        #[test]
        fn an_update_is_as_good_as_a_new_sum(words in vec(any::<u16>(), 1..40), at: prop::sample::Index, new: u16) {
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let before = Sum::new().add(&bytes(&words)).checksum();
            let mut changed = words.clone();
            let place = &mut changed[at.index(words.len())];
            let updated = update16(before, *place, new);
            *place = new;
            // All words zero is no packet: there the two zeros are told apart.
            if changed.iter().any(|word| *word != 0) {
                prop_assert_eq!(Sum::new().add(&bytes(&changed)).add_u16(updated).fold(), 0xffff);
            }
        }
    }
}
