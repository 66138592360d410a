//! The cell for immutable snapshots: control publishes, workers load, nobody waits for anybody.
//!
//! The scheme is quiescent-state based reclamation (QSBR). Publications are numbered. A reader keeps, in a line of its
//! own, the number that it has come to; it moves on in [`Reader::load`], once a burst, where the borrow of `&mut self`
//! proves that nothing of the snapshot before is held any more. The publisher keeps what it has replaced until every
//! reader's number is at least that of the replacement, or the reader is offline (asleep, or gone).
//!
//! # Why this is right
//!
//! * *A reader that moves on.* It reads the number `n` (acquire), so it sees the pointer of publication `n` or a newer
//!   one; then it stores `n` in its line (release). The publisher that reads `n` there (acquire) comes after every
//!   access that the reader made to what `n` replaced. Until that store its line holds an older number, which keeps
//!   more alive, not less. The pointer may be newer than `n`: such a snapshot is kept for a reader at `n` as well.
//! * *A reader that comes online.* It stores 0, which keeps everything alive, and only then reads number and pointer;
//!   the publisher stores pointer and number, and only then reads the readers' lines. Between the two steps each has
//!   a sequentially consistent fence, so at least one sees the other: the publisher the 0, or the reader the new pointer.
//! * *Who frees.* The publisher, in [`Publisher::reclaim`]. If it is dropped first, what is left is freed together with
//!   the cell by whoever is the last to let go of it.
//!
//! The models are in `tests/loom.rs`: `snapshot_*`.

use std::collections::VecDeque;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use crossbeam_utils::CachePadded;

use crate::atomics::{Acquire, Arc, AtomicPtr, AtomicU64, Relaxed, Release, SeqCst, fence};

/// The number of a reader that holds nothing.
const OFFLINE: u64 = u64::MAX;
/// The number of a reader that is about to read the pointer: below every publication.
const ARRIVING: u64 = 0;
/// The number of the initial snapshot.
const FIRST: u64 = 1;

/// What every reader looks at once a burst. Number and pointer share a line.
struct Latest<T> {
    /// Stored after the pointer: whoever reads a number sees its snapshot, or a newer one.
    number: AtomicU64,
    snapshot: AtomicPtr<T>,
}

struct Shared<T> {
    latest: CachePadded<Latest<T>>,
    /// One line for each reader, written by it alone.
    readers: Box<[CachePadded<AtomicU64>]>,
    /// What the publisher had not freed when it was dropped.
    left: Mutex<VecDeque<Replaced<T>>>,
}

/// A snapshot that is current no more.
struct Replaced<T> {
    /// The publication that took its place.
    by: u64,
    snapshot: NonNull<T>,
}

impl<T> Replaced<T> {
    /// # Safety
    /// `snapshot` came from `Box::into_raw`, no reader has it or can get it, and nobody frees it again.
    unsafe fn free(self) {
        // SAFETY: the caller's word, the same three points.
        drop(unsafe { Box::from_raw(self.snapshot.as_ptr()) });
    }
}

// SAFETY: the pointers in it own their snapshots. Those are read through `&T` on the readers' threads (`T: Sync`)
// and dropped on any of the threads (`T: Send`). All the rest is atomics and a mutex.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above; nothing in it is written but through atomics and the mutex.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Nobody but this thread has the cell: both are read for the last time.
        let current = self.latest.snapshot.load(Acquire);
        // SAFETY: it came from `Box::into_raw` in `cell` or `publish`; what is current is in no list of replaced
        // ones; publisher and readers, which alone could reach it, are gone.
        drop(unsafe { Box::from_raw(current) });
        for replaced in self.left.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: taken out of the list, so freed once; no reader is left.
            unsafe { replaced.free() };
        }
    }
}

/// A cell that holds `initial` (publication 1), its one publisher and `readers` readers. The readers begin offline:
/// one that is never used holds nothing up.
pub fn cell<T: Send + Sync>(initial: Box<T>, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let shared = Arc::new(Shared {
        latest: CachePadded::new(Latest {
            number: AtomicU64::new(FIRST),
            snapshot: AtomicPtr::new(Box::into_raw(initial)),
        }),
        readers: (0..readers).map(|_| CachePadded::new(AtomicU64::new(OFFLINE))).collect(),
        left: Mutex::new(VecDeque::new()),
    });
    let readers = (0..readers)
        .map(|index| Reader { shared: shared.clone(), index, number: OFFLINE, held: ptr::null() })
        .collect();
    (Publisher { shared, number: FIRST, replaced: VecDeque::new() }, readers)
}

/// The side that replaces the snapshot. There is one; it belongs to control.
pub struct Publisher<T: Send + Sync> {
    shared: Arc<Shared<T>>,
    number: u64,
    /// Oldest first.
    replaced: VecDeque<Replaced<T>>,
}

// SAFETY: `replaced` owns its snapshots, which may be dropped on any thread (`T: Send`); `shared` may be sent.
unsafe impl<T: Send + Sync> Send for Publisher<T> {}

impl<T: Send + Sync> Publisher<T> {
    /// Makes `next` the snapshot that every [`Reader::load`] from now on returns, and gives the number of this
    /// publication. What it replaces stays in memory until [`Self::reclaim`].
    pub fn publish(&mut self, next: Box<T>) -> u64 {
        let latest = &self.shared.latest;
        // Only the publisher stores here, so this is what it stored last.
        let old = latest.snapshot.load(Relaxed);
        latest.snapshot.store(Box::into_raw(next), Release);
        self.number += 1;
        latest.number.store(self.number, Release);
        if let Some(snapshot) = NonNull::new(old) {
            self.replaced.push_back(Replaced { by: self.number, snapshot });
        }
        self.number
    }

    /// Frees what no reader can hold any more, on this thread; how many that were. Never waits.
    pub fn reclaim(&mut self) -> usize {
        let reached = self.reached();
        let mut freed = 0;
        while self.replaced.front().is_some_and(|oldest| oldest.by <= reached) {
            let Some(replaced) = self.replaced.pop_front() else { break };
            // SAFETY: taken out of the list, so freed once. Every reader's number is at least that of the publication
            // that replaced it, or the reader is offline and will find that publication or a newer one (head of
            // this file); so no reader has it, and none can get it.
            unsafe { replaced.free() };
            freed += 1;
        }
        freed
    }

    /// True when every reader has come to `publication` or is offline: nothing older is in use, nor will it be again.
    /// Control waits for it before it takes away what only the older snapshots named, such as a port. Once true
    /// it stays true in this sense, though a reader that is just coming online can make a later call say false for
    /// a moment.
    pub fn passed(&self, publication: u64) -> bool {
        self.reached() >= publication
    }

    /// The publication that the reader of this index has come to; `None` while it is offline, and for an index that no
    /// reader has.
    pub fn reached_by(&self, reader: usize) -> Option<u64> {
        let number = self.shared.readers.get(reader)?.load(Relaxed);
        (number != OFFLINE && number != ARRIVING).then_some(number)
    }

    /// How many replaced snapshots are still in memory.
    pub fn retired(&self) -> usize {
        self.replaced.len()
    }

    /// The number of the last publication.
    pub fn publication(&self) -> u64 {
        self.number
    }

    /// What was published last.
    pub fn current(&self) -> &T {
        // SAFETY: what is current is freed only after a `publish` and a `reclaim`, which take `&mut self`, or with the
        // cell, which `self.shared` keeps.
        unsafe { &*self.shared.latest.snapshot.load(Relaxed) }
    }

    /// The lowest number among the readers. The fence comes after the stores of every publication so far and before
    /// the loads: the other half is in [`Reader::load`].
    fn reached(&self) -> u64 {
        fence(SeqCst);
        self.shared.readers.iter().map(|number| number.load(Acquire)).min().unwrap_or(OFFLINE)
    }
}

impl<T: Send + Sync> Drop for Publisher<T> {
    /// Frees what can be freed; the rest goes with the cell, since readers may outlive the publisher.
    fn drop(&mut self) {
        self.reclaim();
        let mut left = self.shared.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.append(&mut self.replaced);
    }
}

impl<T: Send + Sync> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("publication", &self.number)
            .field("retired", &self.retired())
            .finish()
    }
}

/// The side that a worker has. Dropping it takes it offline for good.
pub struct Reader<T: Send + Sync> {
    shared: Arc<Shared<T>>,
    /// Which of the lines is its own.
    index: usize,
    /// What is in that line.
    number: u64,
    /// Valid while `number` is not [`OFFLINE`].
    held: *const T,
}

// SAFETY: `held` is a shared borrow of a `T: Sync` that the cell keeps for this reader, on whatever thread it is;
// `shared` may be sent.
unsafe impl<T: Send + Sync> Send for Reader<T> {}

impl<T: Send + Sync> Reader<T> {
    /// Marks the burst boundary (nothing that was loaded before is held any more) and gives the current snapshot.
    ///
    /// Costs one load while nothing has changed. After a publication it also stores to this reader's own line.
    /// Coming back from [`Self::offline`] costs a full fence.
    #[inline]
    pub fn load(&mut self) -> &T {
        let number = self.shared.latest.number.load(Acquire);
        if number != self.number {
            self.move_on(number);
        }
        // SAFETY: `held` was read from the cell after this reader's line said `ARRIVING` or an older number, and the
        // line says `self.number` since: the publisher keeps everything from that publication on, and `held` is
        // of it or newer. The line changes only through `&mut self`, which the returned borrow excludes.
        unsafe { &*self.held }
    }

    #[cold]
    fn move_on(&mut self, mut number: u64) {
        let latest = &self.shared.latest;
        let own = &self.shared.readers[self.index];
        if self.number == OFFLINE {
            own.store(ARRIVING, Relaxed);
            // The other half is in `Publisher::reached`.
            fence(SeqCst);
            number = latest.number.load(Acquire);
        }
        self.held = latest.snapshot.load(Acquire);
        own.store(number, Release);
        self.number = number;
    }

    /// Gives up the snapshot, before the worker sleeps: a sleeper holds nothing up. [`Self::load`] takes it online
    /// again.
    pub fn offline(&mut self) {
        self.held = ptr::null();
        self.number = OFFLINE;
        self.shared.readers[self.index].store(OFFLINE, Release);
    }
}

impl<T: Send + Sync> Drop for Reader<T> {
    fn drop(&mut self) {
        self.offline();
    }
}

impl<T: Send + Sync> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let publication = (self.number != OFFLINE).then_some(self.number);
        f.debug_struct("Reader").field("index", &self.index).field("publication", &publication).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts itself while it lives.
    struct Counted<'a>(u32, &'a AtomicUsize);
    impl<'a> Counted<'a> {
        fn boxed(value: u32, alive: &'a AtomicUsize) -> Box<Self> {
            alive.fetch_add(1, Relaxed);
            Box::new(Self(value, alive))
        }
    }
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Relaxed);
        }
    }

    #[test]
    fn an_old_snapshot_goes_when_the_last_reader_has_passed_it() {
        let alive = AtomicUsize::new(0);
        let (mut publisher, mut readers) = cell(Counted::boxed(1, &alive), 2);
        assert_eq!((readers[0].load().0, readers[1].load().0, publisher.current().0), (1, 1, 1));
        assert_eq!(publisher.publish(Counted::boxed(2, &alive)), 2);
        assert_eq!((publisher.reclaim(), publisher.retired(), publisher.passed(2)), (0, 1, false));
        assert_eq!(readers[0].load().0, 2);
        assert_eq!((publisher.reclaim(), publisher.passed(2), publisher.passed(1)), (0, false, true));
        assert_eq!(readers[1].load().0, 2);
        assert!(publisher.passed(2) && !publisher.passed(3));
        assert_eq!((publisher.reclaim(), publisher.retired(), alive.load(Relaxed)), (1, 0, 1));
        assert_eq!((publisher.publication(), publisher.current().0), (2, 2));
    }

    #[test]
    fn who_is_offline_or_gone_or_never_came_holds_nothing_up() {
        let alive = AtomicUsize::new(0);
        let (mut publisher, mut readers) = cell(Counted::boxed(1, &alive), 3);
        readers[0].load();
        readers[1].load();
        publisher.publish(Counted::boxed(2, &alive));
        readers[0].offline();
        assert_eq!(publisher.reclaim(), 0);
        drop(readers.remove(1));
        assert_eq!((publisher.reclaim(), alive.load(Relaxed)), (1, 1));
        assert_eq!(readers[0].load().0, 2);
        let third = publisher.publish(Counted::boxed(3, &alive));
        assert!(!publisher.passed(third));
        assert_eq!(readers[0].load().0, 3);
        assert!(publisher.passed(third));
    }

    #[test]
    fn readers_outlive_the_publisher_and_nothing_leaks() {
        let alive = AtomicUsize::new(0);
        let (mut publisher, mut readers) = cell(Counted::boxed(1, &alive), 2);
        readers[0].load();
        publisher.publish(Counted::boxed(2, &alive));
        readers[1].load();
        publisher.publish(Counted::boxed(3, &alive));
        drop(publisher);
        assert_eq!(alive.load(Relaxed), 3);
        assert_eq!((readers[0].load().0, readers[1].load().0), (3, 3));
        drop(readers);
        assert_eq!(alive.load(Relaxed), 0);
    }

    #[test]
    fn without_readers_everything_old_goes_at_once() {
        let (mut publisher, readers) = cell(Box::new(1), 0);
        assert!(readers.is_empty());
        let second = publisher.publish(Box::new(2));
        assert!(publisher.passed(second));
        assert_eq!(publisher.reclaim(), 1);
    }
}
