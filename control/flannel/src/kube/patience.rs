//! How long the store waits for what, and how it tries again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long the store waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, for the head of an answer, and between two pieces of an answer.
    pub answer: Duration,
    /// Between two pieces of a watch. Servers send a bookmark a minute where nothing happens; a watch that is silent for
    /// longer hangs on a connection that is no more, and is begun again where it stood.
    pub silence: Duration,
    /// How long the server is asked to keep a watch.
    pub watch: Duration,
    /// Before something is tried again for the first time.
    pub first_retry: Duration,
    /// Before something is tried again at most.
    pub last_retry: Duration,
    /// How long further changes are collected after one was told; the first one is told at once.
    pub gather: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            watch: Duration::from_secs(290),
            first_retry: Duration::from_millis(100),
            last_retry: Duration::from_secs(30),
            gather: Duration::from_millis(10),
        }
    }
}

/// Waiting times that double, up to an end. Each is drawn from its upper half, so that thousands of nodes that lost
/// their server together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// The next waiting time, not less than what a server asked for (but no longer than ten minutes on its word).
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        const ON_A_WORD: Duration = Duration::from_secs(600);
        let full = self.next;
        self.next = (full * 2).min(self.last);
        let drawn = full / 2 + spread(full / 2);
        drawn.max(asked.map_or(Duration::ZERO, |asked| asked.min(ON_A_WORD) + spread(full / 2)))
    }

    /// What was tried has gone well.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random part of `most`. Nobody must be unable to guess it, so the standard library's keys of hash maps will do.
pub(super) fn spread(most: Duration) -> Duration {
    let random = (RandomState::new().hash_one(0u8) >> 32) as u32;
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_end_and_begin_anew() {
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, last);
        for full in [100, 200, 400, 800, 1000, 1000] {
            let (full, drawn) = (Duration::from_millis(full), backoff.next(None));
            assert!(full / 2 <= drawn && drawn <= full, "{drawn:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= first);
    }

    #[test]
    fn a_servers_word_counts_within_reason() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let asked = Duration::from_secs(3);
        assert!(backoff.next(Some(asked)) >= asked);
        assert!(backoff.next(Some(Duration::from_secs(1 << 40))) < Duration::from_secs(602));
        assert!(backoff.next(Some(Duration::ZERO)) > Duration::ZERO);
    }

    #[test]
    fn not_everybody_waits_equally_long() {
        let most = Duration::from_secs(1);
        let drawn: std::collections::BTreeSet<_> = (0..50).map(|_| spread(most)).collect();
        assert!(drawn.len() > 40 && drawn.iter().all(|d| *d <= most), "{drawn:?}");
    }
}
