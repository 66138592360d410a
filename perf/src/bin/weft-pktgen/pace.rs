//! When packets are due.
//!
//! Time that the generator itself has lost, because others had its core, is made up for in small part only: bursts that
//! nobody asked for would measure the buffers on the way. What was given up is counted, and what counts is what was sent.

/// Packets that are sent together at most.
pub(crate) const BATCH: u64 = 32;
/// Seconds of sending that a batch may be for.
const BATCH_TIME: f64 = 4e-6;
/// Seconds of delay that are made up for.
const CATCH_UP: f64 = 100e-6;

/// Packets at a rate, by ticks of the time stamp counter.
pub(crate) struct Pace {
    start: u64,
    /// Packets a tick; `None` for as many as the port takes.
    rate: Option<f64>,
    batch: u64,
    most: u64,
    done: u64,
    /// Packets that were not sent in time, and will not be.
    pub(crate) given_up: u64,
}

impl Pace {
    /// `pps` packets a second from `start` on, of a counter that runs at `hz`.
    pub(crate) fn new(pps: Option<f64>, hz: f64, start: u64) -> Self {
        let packets = |seconds: f64| pps.map_or(0, |pps| (pps * seconds) as u64);
        Self {
            start,
            rate: pps.map(|pps| pps / hz),
            batch: packets(BATCH_TIME).clamp(1, BATCH),
            most: packets(CATCH_UP).max(BATCH),
            done: 0,
            given_up: 0,
        }
    }

    /// How many are to be sent now, at most [`BATCH`]. They count as sent.
    #[inline]
    pub(crate) fn due(&mut self, now: u64) -> usize {
        let Some(rate) = self.rate else { return BATCH as usize };
        let due = (now.wrapping_sub(self.start) as f64 * rate) as u64;
        let mut late = due.saturating_sub(self.done);
        if late < self.batch {
            return 0;
        }
        if late > self.most {
            self.given_up += late - self.most;
            self.done += late - self.most;
            late = self.most;
        }
        let count = late.min(BATCH);
        self.done += count;
        count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: f64 = 2e9;

    #[test]
    fn what_is_due_is_sent_and_no_more() {
        for rate in [1.0, 1234.0, 123_456.0, 7_654_321.0] {
            let mut pace = Pace::new(Some(rate), HZ, 1000);
            let sent: usize = (0..=2_000_000_u64).map(|step| pace.due(1000 + step * 1000)).sum();
            let sent = sent as f64;
            assert!(sent <= rate && sent >= rate - 32.0, "{sent} sent in a second at {rate} a second");
            assert_eq!(pace.given_up, 0);
        }
    }

    #[test]
    fn lost_time_is_made_up_for_in_small_part() {
        let mut pace = Pace::new(Some(1_000_000.0), HZ, 0);
        assert_eq!(pace.due(0), 0);
        let half = 1_000_000_000;
        let sent: usize = (0..100).map(|_| pace.due(half)).sum();
        assert_eq!((sent, pace.given_up), (100, 499_900));
    }

    #[test]
    fn without_a_rate_there_is_always_more() {
        let mut pace = Pace::new(None, HZ, 0);
        assert_eq!((pace.due(0), pace.due(0)), (32, 32));
    }
}
