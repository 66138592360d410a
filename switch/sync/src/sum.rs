//! The sum under the Internet checksum (RFC 1071), in the processor's wide registers where it has them. It is here and not with
//! the wire formats because asking for them is `unsafe`.

/// Shorter pieces are summed eight bytes a step: headers gain nothing from wide registers.
const WIDE: usize = 128;

/// The sum of the bytes as 16-bit words in the machine's order, an odd byte padded with zero, not yet folded: of less than 4 GiB far
/// from overflow.
#[inline]
pub fn sum_native(bytes: &[u8]) -> u64 {
    if bytes.len() < WIDE {
        return narrow(bytes);
    }
    long(bytes)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn long(bytes: &[u8]) -> u64 {
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all that the function asks for.
        return unsafe { avx2(bytes) };
    }
    narrow(bytes)
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn long(bytes: &[u8]) -> u64 {
    narrow(bytes)
}

/// [`lanes`], compiled for registers of 32 bytes.
///
/// # Safety
/// The processor has AVX2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
unsafe fn avx2(bytes: &[u8]) -> u64 {
    lanes(bytes)
}

/// Lanes of 32 bits that take 16 at a time, so that no carry is lost: two registers' worth, for the even words and for the odd ones.
/// A plain loop, which the compiler makes wide instructions of.
#[inline(always)]
fn lanes(bytes: &[u8]) -> u64 {
    const LANES: usize = 16;
    const STEP: usize = LANES * 4;
    /// A lane takes 65,536 words.
    const MOST: usize = STEP << 16;
    let mut total = 0;
    for part in bytes.chunks(MOST) {
        let (mut even, mut odd) = ([0u32; LANES], [0u32; LANES]);
        let mut steps = part.chunks_exact(STEP);
        for step in &mut steps {
            for lane in 0..LANES {
                let at = lane * 4;
                let two = u32::from_ne_bytes([step[at], step[at + 1], step[at + 2], step[at + 3]]);
                even[lane] += two & 0xffff;
                odd[lane] += two >> 16;
            }
        }
        total += even.iter().chain(&odd).map(|lane| u64::from(*lane)).sum::<u64>();
        total += narrow(steps.remainder());
    }
    total
}

/// Eight bytes into 128 bits: the carries go to the upper half and are added back once, at the end. Two such sums, so that neither
/// addition waits for the other.
#[inline(always)]
fn narrow(bytes: &[u8]) -> u64 {
    let word = |word: &[u8; 8]| u128::from(u64::from_ne_bytes(*word));
    let (mut total, mut other) = (0u128, 0u128);
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first_chunk() {
        total += word(first);
        let Some((second, after)) = after.split_first_chunk() else {
            rest = after;
            break;
        };
        other += word(second);
        rest = after;
    }
    total += other;
    if let Some((word, after)) = rest.split_first_chunk() {
        total += u128::from(u32::from_ne_bytes(*word));
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk() {
        total += u128::from(u16::from_ne_bytes(*word));
        rest = after;
    }
    if let [last] = rest {
        total += u128::from(u16::from_ne_bytes([*last, 0]));
    }
    let (carries, low) = ((total >> 64) as u64, total as u64);
    carries + (low >> 32) + (low & 0xffff_ffff)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fold(mut sum: u64) -> u64 {
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    /// Word by word, as RFC 1071 says it.
    fn by_the_book(bytes: &[u8]) -> u64 {
        let pair = |pair: &[u8]| u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        bytes.chunks(2).map(pair).sum()
    }

    #[test]
    fn every_length_and_alignment_is_as_the_book_has_it() {
        let noise: Vec<u8> = (0..4096u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | (at % 3 == 0) as u8)
            .collect();
        for start in 0..9 {
            for len in (0..600).chain([1448, 1449, 2047, 4000]) {
                let bytes = &noise[start..start + len];
                let expected = fold(by_the_book(bytes));
                assert_eq!(fold(sum_native(bytes)), expected, "{len} from {start}");
                assert_eq!(fold(lanes(bytes)), expected, "{len} from {start}, in lanes");
            }
        }
    }

    #[test]
    fn no_carry_is_lost_in_the_largest_of_ones() {
        let len = if cfg!(miri) { 70_000 } else { 9 << 20 };
        let ones = vec![0xff; len];
        for part in [&ones[..], &ones[1..], &ones[..65_535]] {
            assert_eq!(fold(sum_native(part)), fold(by_the_book(part)));
            assert_eq!(fold(lanes(part)), fold(by_the_book(part)));
        }
    }
}
