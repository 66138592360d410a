//! How many packets the kernel had no room for. Each question is a system call: it is asked now and then, and after the last poll before the
//! worker sleeps, so that no loss stays untold.

/// Polls between two questions.
const EVERY: u32 = 4096;

/// When a queue's kernel is to be asked.
pub(super) struct Missed {
    /// Since it was asked.
    polls: u32,
    /// Nothing has come in since it was asked.
    settled: bool,
}

impl Missed {
    pub(super) const NEW: Self = Self { polls: 0, settled: true };

    /// Something has come in.
    #[inline]
    pub(super) fn came(&mut self) {
        self.settled = false;
    }

    /// Polls since the kernel was asked.
    #[inline]
    pub(super) fn polls(&self) -> u32 {
        self.polls
    }

    /// The end of a poll. Where it is time, `ask` says how many more were missed.
    #[inline]
    pub(super) fn poll(&mut self, ask: impl FnOnce() -> u32) -> u32 {
        self.polls += 1;
        if self.polls < EVERY {
            return 0;
        }
        *self = Self::NEW;
        ask()
    }

    /// The worker wants to sleep: whether all is told. If not, the next poll asks.
    pub(super) fn settle(&mut self) -> bool {
        if !self.settled {
            self.polls = EVERY;
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_now_and_then_and_before_sleep_if_something_came() {
        let mut missed = Missed::NEW;
        let lost: Vec<u32> = (0..2 * EVERY).map(|_| missed.poll(|| 7)).collect();
        assert_eq!((lost.iter().sum(), lost[EVERY as usize - 1]), (14, 7));
        assert!(missed.settle());
        assert_eq!((missed.poll(|| 7), missed.polls()), (0, 1), "nothing to tell of");
        missed.came();
        assert!(!missed.settle());
        assert_eq!(missed.poll(|| 7), 7);
        assert!(missed.settle());
    }
}
