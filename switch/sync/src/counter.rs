//! Counters that one thread writes and any thread reads.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// A count that one thread writes, with a plain load and store and no locked instruction, and any thread reads.
///
/// A reader sees some value that the counter had, never a torn one; it says nothing about the order of two counters.
/// Wraps at 2^64. There is nothing here for loom: no other memory depends on the value.
#[derive(Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At 0.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `count`. To be called by one thread only, the counter's owner: two that add at the same time lose counts
    /// (and break no memory).
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Counters of one thread, on lines that it shares with nobody: a neighbour's counting does not slow it down.
#[derive(Debug)]
pub struct CounterBlock<const N: usize>(CachePadded<[Counter; N]>);

impl<const N: usize> CounterBlock<N> {
    /// All at 0.
    pub const fn new() -> Self {
        Self(CachePadded::new([const { Counter::new() }; N]))
    }

    /// All values, each read for itself.
    pub fn values(&self) -> [u64; N] {
        std::array::from_fn(|index| self.0[index].get())
    }
}

impl<const N: usize> Default for CounterBlock<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deref for CounterBlock<N> {
    type Target = [Counter; N];
    #[inline]
    fn deref(&self) -> &[Counter; N] {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_adds_another_reads_what_was_there() {
        let block = CounterBlock::<3>::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1000).for_each(|_| block[1].add(2)));
            let mut last = 0;
            while last < 2000 {
                let now = block[1].get();
                assert!(now >= last && now % 2 == 0, "{now} after {last}");
                last = now;
                std::hint::spin_loop();
            }
        });
        assert_eq!(block.values(), [0, 2000, 0]);
    }

    #[test]
    fn it_wraps_and_has_the_layout_of_its_number() {
        let counter = Counter::new();
        counter.add(u64::MAX);
        counter.add(3);
        assert_eq!(counter.get(), 2);
        assert_eq!(size_of::<Counter>(), 8);
        assert_eq!(align_of::<CounterBlock<1>>(), align_of::<CachePadded<u8>>());
    }
}
