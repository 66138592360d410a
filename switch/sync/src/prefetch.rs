//! Asks the processor to fetch a line that will be needed soon. A hint: it changes nothing and can't fault.

/// Fetches the first cache line of `value` to be read.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Fetches the cache line with the first of `bytes` to be read; nothing when there is none.
#[inline(always)]
pub fn prefetch_bytes(bytes: &[u8]) {
    if let Some(first) = bytes.first() {
        line(first);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: PREFETCHT0 belongs to SSE, which every x86-64 has; it reads nothing that the program can see and
    // faults for no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn line(_at: *const u8) {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn any_reference_will_do() {
        prefetch_read(&7_u64);
        prefetch_read("text");
        prefetch_read(&());
        prefetch_bytes(&[]);
        prefetch_bytes(&[1, 2, 3]);
    }
}
