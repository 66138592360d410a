//! How a worker goes to sleep without missing what is handed to it in that moment.
//!
//! | the worker | who hands it something |
//! |---|---|
//! | [`SleepFlag::announce`] | pushes onto its ring |
//! | looks at all its rings; something there: [`SleepFlag::awake`], no sleep | asks [`SleepFlag::must_wake`] |
//! | blocks on its eventfd | if so, writes the eventfd |
//! | reads the eventfd empty, [`SleepFlag::awake`], polls its rings | |
//!
//! # Why this is right
//!
//! Each side stores first (the flag, the ring's index) and then looks at what the other stored, with a sequentially
//! consistent fence between the two. So at least one of them sees the other: the worker finds the item and stays
//! awake, or the producer finds the flag and wakes it. The flag is taken down by the first producer that finds it: of
//! many that hand something to a sleeper, one pays for the system call. The others may rely on that one, since the worker polls
//! all its rings after it wakes.
//!
//! A wake-up may come late, after the worker woke by itself: then its next sleep ends at once, for nothing. The order
//! "empty the eventfd, then poll" is what keeps a wake-up from being swallowed.
//!
//! All writes of the flag are swaps, though stores would do for the worker's: loom orders only swaps against a
//! producer's swap that found nothing to take down. Only those who sleep or wake pay for it. The models are `sleep_*` in
//! `tests/loom.rs`.

use crossbeam_utils::CachePadded;

use crate::atomics::{AcqRel, AtomicBool, Relaxed, SeqCst, fence};

/// One for each worker; shared with all who hand it something.
#[derive(Debug)]
pub struct SleepFlag {
    asleep: CachePadded<AtomicBool>,
}

impl SleepFlag {
    /// Of a worker that is awake.
    pub fn new() -> Self {
        Self { asleep: CachePadded::new(AtomicBool::new(false)) }
    }

    /// The worker is about to sleep. It must look at its rings after this ([`crate::ring::Consumer::is_empty`]) and may
    /// block only when all are empty. Has a full fence.
    pub fn announce(&self) {
        self.asleep.swap(true, AcqRel);
        fence(SeqCst);
    }

    /// The worker does not sleep after all, or has woken up (for whatever reason: a packet, a time-out) and emptied its
    /// eventfd.
    pub fn awake(&self) {
        self.asleep.swap(false, AcqRel);
    }

    /// To be asked after pushing, once a batch. True for one asker per announced sleep: that one must write the eventfd
    /// now. Has a full fence; writes nothing shared while the worker is awake.
    #[must_use = "the worker sleeps on if nobody writes its eventfd"]
    pub fn must_wake(&self) -> bool {
        fence(SeqCst);
        self.asleep.load(Relaxed) && self.asleep.swap(false, AcqRel)
    }
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_asker_per_announced_sleep_must_wake() {
        let flag = SleepFlag::new();
        assert!(!flag.must_wake());
        flag.announce();
        assert!(flag.must_wake());
        assert!(!flag.must_wake());
        flag.announce();
        flag.awake();
        assert!(!flag.must_wake());
    }
}
