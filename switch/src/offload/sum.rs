//! The Internet checksum's sum over a part of a packet, whichever way it is cut into segments.

use crate::packet::PacketBuf;
use crate::wire::checksum::Sum;

/// The sum of `len` bytes from `start` on, or of as many as the packet has.
pub(crate) fn sum_of(buf: &impl PacketBuf, start: usize, len: usize) -> Sum {
    let mut sum = Sum::new();
    let (mut skip, mut left) = (start, len);
    buf.for_each_segment(|segment| {
        let from = skip.min(segment.len());
        skip -= from;
        let take = left.min(segment.len() - from);
        left -= take;
        sum = sum.add(&segment[from..from + take]);
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
    fn nothing_and_all_ones() {
        assert_eq!(sum_of(&HeapBuf::from_bytes(&[]), 0, 9).checksum(), 0xffff);
        let ones = HeapBuf::from_bytes(&[0xff; 65_535]);
        assert_eq!(sum_of(&ones, 0, 65_535).checksum(), by_the_book(&[0xff; 65_535]));
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
