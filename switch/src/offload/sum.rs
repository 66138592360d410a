//! The Internet checksum's sum (RFC 1071) over bytes that come in pieces of any length.

use crate::packet::PacketBuf;

/// A one's complement sum under way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    /// Of 16-bit words in the machine's byte order, to be folded.
    total: u64,
    /// An odd number of bytes so far: the next byte is a word's second.
    odd: bool,
}

impl Sum {
    /// Adds the bytes that follow those added before.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // Words of 32 bits into 64: no carry is lost before 2^32 of them, and the compiler makes vectors of it.
        let words = bytes.chunks_exact(4);
        let mut last = [0; 4];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        let mut piece: u64 =
            words.map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
        piece += u64::from(u32::from_ne_bytes(last));
        let piece = fold(piece);
        // A piece that begins in the middle of a word has its bytes the other way round (RFC 1071, section 2 B).
        self.total += u64::from(if self.odd { piece.swap_bytes() } else { piece });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a number of 16 bits; only after an even number of bytes.
    pub(super) fn add_u16(&mut self, value: u16) {
        debug_assert!(!self.odd);
        self.total += u64::from(value.to_be());
    }

    /// Adds the sum of the bytes that follow; only after an even number of bytes.
    pub(super) fn add_sum(&mut self, other: Self) {
        debug_assert!(!self.odd);
        self.total += other.total;
        self.odd = other.odd;
    }

    /// The checksum: the sum folded and inverted, as a number.
    pub(super) fn checksum(self) -> u16 {
        !u16::from_be(fold(self.total))
    }
}

/// One's complement addition of the four halfwords.
fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// The sum of `len` bytes from `start` on, or of as many as the packet has.
pub(super) fn sum_of(buf: &impl PacketBuf, start: usize, len: usize) -> Sum {
    let mut sum = Sum::default();
    let (mut skip, mut left) = (start, len);
    buf.for_each_segment(|segment| {
        let from = skip.min(segment.len());
        skip -= from;
        let take = left.min(segment.len() - from);
        left -= take;
        sum.add(&segment[from..from + take]);
    });
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::HeapBuf;
    use proptest::prelude::*;

    /// Word by word, as RFC 1071 says it.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn nothing_and_all_ones() {
        assert_eq!(Sum::default().checksum(), 0xffff);
        let mut sum = Sum::default();
        sum.add(&[0xff; 65_535]);
        assert_eq!(sum.checksum(), by_the_book(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_are_as_one(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            start in 0usize..50, len in 0usize..200,
        ) {
            let bytes = pieces.concat();
            let segments: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let buf = HeapBuf::from_segments(&segments);
            let end = (start + len).min(bytes.len());
            let expected = by_the_book(bytes.get(start..end).unwrap_or(&[]));
            prop_assert_eq!(sum_of(&buf, start, len).checksum(), expected);
        }
    }
}
