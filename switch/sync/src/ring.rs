//! A bounded ring from one thread to one other: how a worker hands packets to the worker that owns the queue.
//!
//! Two indices that only grow (they wrap with `usize`): the producer writes `tail`, the consumer `head`, each in a line
//! of its own. Each side remembers what it last saw of the other's index and looks again only when that says full or
//! empty, and each publishes its own index once a batch: a batch of 64 moves two lines between the cores beside the
//! items, not 128.
//!
//! # Why this is right
//!
//! A slot between `head` and `tail` belongs to the consumer, all others to the producer. The producer fills a slot and
//! then stores `tail` (release); the consumer reads `tail` (acquire) before it takes from the slot. The same holds for
//! `head` the other way round. Neither half can be cloned and all that moves an index takes `&mut self`, so each
//! index has one writer. The model is `ring_*` in `tests/loom.rs`.

use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::atomics::{Acquire, Arc, AtomicUsize, Relaxed, Release, UnsafeCell};

struct Shared<T> {
    /// Items taken so far; written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Items pushed so far; written by the producer.
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

impl<T> Shared<T> {
    #[inline]
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[index & (self.slots.len() - 1)]
    }
}

// SAFETY: an item goes in on one thread and comes out on another, which `T: Send` allows. No two threads reach the
// same slot at a time (head of this file), so nothing is asked of `T: Sync`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let tail = self.tail.load(Relaxed);
        let mut head = self.head.load(Relaxed);
        while head != tail {
            // SAFETY: both halves are gone; slots from `head` to `tail` hold items that nobody took, each visited once.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// A ring with room for `capacity` items.
///
/// # Panics
/// When `capacity` is not a power of two; 0 is none.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a ring's capacity must be a power of two, not {capacity}");
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    (Producer { shared: shared.clone(), tail: 0, head_seen: 0 }, Consumer { shared, head: 0, tail_seen: 0 })
}

/// The half that pushes.
pub struct Producer<T: Send> {
    shared: Arc<Shared<T>>,
    /// What `Shared::tail` holds.
    tail: usize,
    /// What `Shared::head` held when this side last looked: the ring has at least this much room.
    head_seen: usize,
}

impl<T: Send> Producer<T> {
    /// How many items the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// How many items can be pushed now. Looks at the consumer's line only when fewer than `want` were known to fit.
    /// The room does not shrink but by pushing.
    #[inline]
    pub fn room(&mut self, want: usize) -> usize {
        let room = self.capacity() - self.tail.wrapping_sub(self.head_seen);
        if room >= want {
            return room;
        }
        self.head_seen = self.shared.head.load(Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Pushes one item, or gives it back when the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.room(1) == 0 {
            return Err(item);
        }
        // SAFETY: there is room, so the slot at `tail` is the producer's, and holds no item.
        self.shared.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(item) });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Release);
        Ok(())
    }

    /// Pushes what `items` gives until it ends or the ring is full, and publishes all at once; how many. No item is
    /// taken from `items` that does not fit. A `drain` drops what it has not given when it is dropped itself, so ask
    /// for the room first:
    ///
    /// ```
    /// # let (mut to, _from) = weft_sync::ring::ring(2);
    /// # let mut burst = vec![1, 2, 3];
    /// let fits = to.room(burst.len()).min(burst.len());
    /// to.push_from(&mut burst.drain(..fits));
    /// assert_eq!(burst, [3]);
    /// ```
    #[inline]
    pub fn push_from(&mut self, items: &mut impl Iterator<Item = T>) -> usize {
        let room = self.room(items.size_hint().1.unwrap_or(usize::MAX));
        let mut count = 0;
        // Should `items` panic, then what it gave before is lost, not dropped twice: `tail` has not moved.
        while count < room {
            let Some(item) = items.next() else { break };
            // SAFETY: `count` is below the room, so the slot is the producer's, and holds no item.
            self.shared.slot(self.tail.wrapping_add(count)).with_mut(|slot| unsafe { (*slot).write(item) });
            count += 1;
        }
        if count > 0 {
            self.tail = self.tail.wrapping_add(count);
            self.shared.tail.store(self.tail, Release);
        }
        count
    }

    /// True when the consumer has taken everything.
    pub fn is_empty(&self) -> bool {
        self.shared.head.load(Acquire) == self.tail
    }
}

/// The half that takes out, in the order in which the items were pushed.
pub struct Consumer<T: Send> {
    shared: Arc<Shared<T>>,
    /// What `Shared::head` holds.
    head: usize,
    /// What `Shared::tail` held when this side last looked: the ring has at least this many items.
    tail_seen: usize,
}

impl<T: Send> Consumer<T> {
    /// How many items the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// How many items are known to be there; looks at the producer's line only when that is none.
    #[inline]
    fn ready(&mut self) -> usize {
        if self.tail_seen == self.head {
            self.tail_seen = self.shared.tail.load(Acquire);
        }
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Takes one item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.ready() == 0 {
            return None;
        }
        // SAFETY: the slot at `head` holds an item; it is read once, since `head` moves past it now.
        let item = self.shared.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Release);
        Some(item)
    }

    /// Hands up to `max` items to `take` and gives all their slots back at once; how many. It may be fewer than there
    /// are: a call looks at the producer's line only when nothing is known to be there. 0 means that the ring was
    /// empty (or `max` is 0).
    #[inline]
    pub fn pop_into(&mut self, max: usize, mut take: impl FnMut(T)) -> usize {
        let count = self.ready().min(max);
        if count == 0 {
            return 0;
        }
        // Also when `take` panics: what was handed out must not be found in the ring again.
        let mut batch = Batch { consumer: self };
        for _ in 0..count {
            take(batch.next());
        }
        count
    }

    /// True when there is nothing to take. Looks at the producer's line, so that it is right after
    /// [`crate::sleep::SleepFlag::announce`].
    pub fn is_empty(&self) -> bool {
        self.shared.tail.load(Acquire) == self.head
    }
}

/// Publishes the consumer's index when the batch ends.
struct Batch<'a, T: Send> {
    consumer: &'a mut Consumer<T>,
}

impl<T: Send> Batch<'_, T> {
    /// The next item; there must be one (`Consumer::ready`).
    #[inline]
    fn next(&mut self) -> T {
        let Consumer { shared, head, tail_seen } = &mut *self.consumer;
        debug_assert_ne!(*head, *tail_seen);
        // SAFETY: `pop_into` asks for no more than are ready, so the slot holds an item; it is read once, since `head`
        // moves past it now and is published before the consumer can be used again.
        let item = shared.slot(*head).with(|slot| unsafe { (*slot).assume_init_read() });
        *head = head.wrapping_add(1);
        item
    }
}

impl<T: Send> Drop for Batch<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.shared.head.store(self.consumer.head, Release);
    }
}

impl<T: Send> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("capacity", &self.capacity()).field("pushed", &self.tail).finish()
    }
}

impl<T: Send> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("capacity", &self.capacity()).field("taken", &self.head).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc as StdArc;

    #[test]
    fn first_in_first_out_until_full_and_round_the_end() {
        let (mut to, mut from) = ring(4);
        for round in 0..10 {
            for item in 0..4 {
                assert_eq!(to.push(round * 4 + item), Ok(()));
            }
            assert_eq!(to.push(99), Err(99));
            assert!(!from.is_empty() && !to.is_empty());
            for item in 0..4 {
                assert_eq!(from.pop(), Some(round * 4 + item));
            }
            assert_eq!(from.pop(), None);
            assert!(from.is_empty() && to.is_empty());
        }
    }

    #[test]
    fn a_batch_takes_no_item_that_does_not_fit() {
        let (mut to, mut from) = ring(4);
        let mut items = 0..7;
        assert_eq!(to.push_from(&mut items), 4);
        assert_eq!(items, 4..7);
        assert_eq!(to.push_from(&mut items), 0);
        let mut seen = Vec::new();
        assert_eq!(from.pop_into(3, |item| seen.push(item)), 3);
        assert_eq!((to.room(3), to.push_from(&mut items)), (3, 3));
        while from.pop_into(8, |item| seen.push(item)) > 0 {}
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_ring_of_one_works() {
        let (mut to, mut from) = ring(1);
        assert_eq!(
            (to.push(1), to.push(2), from.pop(), to.push(3), from.pop()),
            (Ok(()), Err(2), Some(1), Ok(()), Some(3))
        );
    }

    #[test]
    #[should_panic(expected = "power of two, not 3")]
    fn other_capacities_are_refused() {
        ring::<u8>(3);
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        let item = StdArc::new(());
        let (mut to, mut from) = ring(8);
        to.push_from(&mut (0..5).map(|_| item.clone()));
        drop(from.pop());
        drop(to);
        assert_eq!(StdArc::strong_count(&item), 5);
        drop(from);
        assert_eq!(StdArc::strong_count(&item), 1);
    }

    #[test]
    fn a_panic_in_the_middle_of_a_batch_drops_nothing_twice() {
        let item = StdArc::new(());
        let (mut to, mut from) = ring(8);
        to.push_from(&mut (0..5).map(|_| item.clone()));
        let mut count = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            from.pop_into(5, |_| {
                count += 1;
                assert!(count < 3, "the third breaks it");
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(StdArc::strong_count(&item), 3);
        assert_eq!(from.pop_into(5, drop), 2);
        assert_eq!(StdArc::strong_count(&item), 1);
    }

    #[test]
    fn halves_go_to_other_threads_though_items_are_not_sync() {
        fn sendable<T: Send>(_: &T) {}
        let (to, from) = ring::<std::cell::Cell<u8>>(2);
        sendable(&to);
        sendable(&from);
    }
}
