//! A token bucket that several threads take from, in one word.
//!
//! The word is the time at which the bucket is even: what is in it is the time that has passed since then, and while that time
//! is still to come it is in debt. Taking moves it on by what the taken costs; nobody has to fill it. Where nothing was taken for
//! long the past is cut off at the bucket's size.
//!
//! Whoever finds the bucket not in debt may take as much as it wants and leaves the debt to those after it. So what is larger
//! than the bucket passes too, only more seldom, and on average nothing exceeds the rate: a taker that loses the race for the word
//! looks again, and finds what the winner has left.
//!
//! Times count in any unit, the same for all takers, and may wrap. Beside the word is only the count of those that go by it: the first
//! one finds it full, whatever was owed before. The models in `tests/loom.rs` check that no taking is lost.

use crate::atomics::{AcqRel, AtomicU32, AtomicU64, Relaxed};

/// What may be in a bucket, in units of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Saved up at most.
    pub burst: u64,
    /// Owed at most: what is more is forgiven, such as the debt of a rate that was far lower.
    pub debt: u64,
}

/// One bucket.
#[derive(Debug)]
pub struct Account {
    even: AtomicU64,
    users: AtomicU32,
}

impl Account {
    /// Even at the time 0.
    pub fn new() -> Self {
        Self { even: AtomicU64::new(0), users: AtomicU32::new(0) }
    }

    /// One more goes by it, until it says [`Self::leave`]. For the first one it is as full as it can be: a new bucket. Where another
    /// one takes at the same moment, what it takes counts.
    pub fn join(&self, bounds: Bounds, now: u64) {
        // Before the others are told that it is in use: later it may be what one of them has left.
        let even = self.even.load(Relaxed);
        if self.users.fetch_add(1, AcqRel) == 0 {
            let _ = self.even.compare_exchange(even, now.wrapping_sub(bounds.burst), Relaxed, Relaxed);
        }
    }

    /// One that had joined goes by it no more.
    pub fn leave(&self) {
        self.users.fetch_sub(1, AcqRel);
    }

    /// Takes `cost` unless the bucket is in debt.
    ///
    /// # Errors
    /// How long it will be in debt.
    #[inline]
    pub fn take(&self, cost: u64, bounds: Bounds, now: u64) -> Result<(), u64> {
        let mut even = self.even.load(Relaxed);
        loop {
            let from = within(even, bounds, now);
            let owed = from.wrapping_sub(now) as i64;
            if owed > 0 {
                self.forgive(even, from);
                return Err(owed as u64);
            }
            match self.even.compare_exchange_weak(even, from.wrapping_add(cost), Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => even = other,
            }
        }
    }

    /// What is in the bucket, in time; below 0 what it owes.
    #[inline]
    pub fn balance(&self, bounds: Bounds, now: u64) -> i64 {
        let even = self.even.load(Relaxed);
        let from = within(even, bounds, now);
        let balance = now.wrapping_sub(from) as i64;
        if balance < 0 {
            self.forgive(even, from);
        }
        balance
    }

    /// Forgets what is owed beyond the bounds, so that the rest is over in time. Who comes second has nothing to do: others have written
    /// what they found within the bounds.
    #[inline]
    fn forgive(&self, even: u64, from: u64) {
        if from != even {
            let _ = self.even.compare_exchange(even, from, Relaxed, Relaxed);
        }
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

/// The time at which a bucket is even, within its bounds.
#[inline]
fn within(even: u64, Bounds { burst, debt }: Bounds, now: u64) -> u64 {
    let saved = now.wrapping_sub(even) as i64;
    if saved > burst as i64 {
        now.wrapping_sub(burst)
    } else if saved < -(debt as i64) {
        now.wrapping_add(debt)
    } else {
        even
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { burst: 100, debt: 1000 };

    #[test]
    fn it_gives_its_size_at_once_and_then_what_time_brings() {
        let account = Account::new();
        let taken = |now| (0..1000).take_while(|_| account.take(10, BOUNDS, now).is_ok()).count();
        // The last one is owed.
        assert_eq!(taken(5000), 11);
        assert_eq!(account.take(10, BOUNDS, 5009), Err(1));
        assert_eq!([taken(5010), taken(5019), taken(5020)], [1, 0, 1]);
        assert_eq!(taken(9000), 11);
    }

    #[test]
    fn what_is_larger_than_it_passes_and_is_paid_for() {
        let account = Account::new();
        assert_eq!(account.take(500, BOUNDS, 5000), Ok(()));
        assert_eq!(account.balance(BOUNDS, 5000), -400);
        assert_eq!(account.take(1, BOUNDS, 5100), Err(300));
        assert_eq!(account.take(1, BOUNDS, 5400), Ok(()));
    }

    #[test]
    fn old_debts_are_forgiven_and_time_may_wrap() {
        let account = Account::new();
        assert_eq!(account.take(1 << 40, BOUNDS, 5000), Ok(()));
        assert_eq!(account.take(1, BOUNDS, 5000), Err(BOUNDS.debt));
        // What is left of it is paid as time goes by.
        assert_eq!(account.balance(BOUNDS, 5400), -600);
        assert_eq!(account.take(1, BOUNDS, 6000), Ok(()));
        let account = Account { even: AtomicU64::new(u64::MAX - 5), ..Account::new() };
        assert_eq!(account.take(20, BOUNDS, u64::MAX - 5), Ok(()));
        assert_eq!([14, 4].map(|now| account.balance(BOUNDS, now)), [0, -10]);
    }

    #[test]
    fn a_new_one_is_full() {
        let account = Account::new();
        assert_eq!(account.take(1 << 40, BOUNDS, 5000), Ok(()));
        account.join(BOUNDS, 5000);
        assert_eq!(account.balance(BOUNDS, 5000), 100);
        // Who comes second finds what the first has left.
        assert_eq!(account.take(500, BOUNDS, 5000), Ok(()));
        account.join(BOUNDS, 5000);
        account.leave();
        account.join(BOUNDS, 5000);
        assert_eq!(account.balance(BOUNDS, 5000), -400);
        account.leave();
        account.leave();
        account.join(BOUNDS, 5000);
        assert_eq!(account.balance(BOUNDS, 5000), 100);
    }

    #[test]
    fn threads_share_what_there_is() {
        let account = Account::new();
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    let account = &account;
                    scope.spawn(move || (0..1000).filter(|_| account.take(1, BOUNDS, 5000).is_ok()).count())
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap_or(0)).sum()
        });
        assert_eq!(taken, 101);
    }
}
