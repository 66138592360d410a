//! What has arrived of each flow, by the numbers that its packets carry.

use weft_sync::prefetch::prefetch_read;

/// What one packet's number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Later than all before it. Those in between are missing so far.
    InOrder,
    /// Missing so far.
    Late,
    /// There before, or so late that nobody knows.
    Again,
}

/// A flow: the number that is expected next, how many below it are missing, and which of the last 64.
#[derive(Clone, Copy, Default)]
struct Flow {
    next: u32,
    missing: u32,
    /// Bit n: number `next` - 1 - n has arrived.
    window: u64,
}

const WINDOW: u32 = u64::BITS;

/// All flows of a trial. Numbers begin at 0.
pub(crate) struct Tracker {
    flows: Box<[Flow]>,
}

impl Tracker {
    pub(crate) fn new(flows: u32) -> Self {
        Self { flows: vec![Flow::default(); flows as usize].into() }
    }

    /// For a new trial.
    pub(crate) fn clear(&mut self) {
        self.flows.fill(Flow::default());
    }

    /// Asks the processor for a flow's line.
    #[inline]
    pub(crate) fn prefetch(&self, flow: u32) {
        if let Some(flow) = self.flows.get(flow as usize) {
            prefetch_read(flow);
        }
    }

    /// Notes an arrival.
    #[inline]
    pub(crate) fn note(&mut self, flow: u32, seq: u32) -> Arrival {
        let Some(flow) = self.flows.get_mut(flow as usize) else { return Arrival::Again };
        let ahead = seq.wrapping_sub(flow.next);
        // Numbers go round after 2^32 packets: half of them are ahead.
        if ahead < 1 << 31 {
            flow.window = match ahead + 1 {
                shift if shift < WINDOW => flow.window << shift | 1,
                _ => 1,
            };
            flow.missing = flow.missing.saturating_add(ahead);
            flow.next = seq.wrapping_add(1);
            return Arrival::InOrder;
        }
        let behind = flow.next.wrapping_sub(1).wrapping_sub(seq);
        if behind >= WINDOW || flow.window >> behind & 1 == 1 {
            return Arrival::Again;
        }
        flow.window |= 1 << behind;
        flow.missing = flow.missing.saturating_sub(1);
        Arrival::Late
    }

    /// How many are missing, and of how many flows. `sent` says how many each flow has sent; without it what was lost at
    /// a flow's end is not known.
    pub(crate) fn missing(&self, sent: Option<&[u32]>) -> (u64, u64) {
        let mut sum = (0, 0);
        for (index, flow) in self.flows.iter().enumerate() {
            let tail = sent.and_then(|sent| sent.get(index)).map_or(0, |sent| sent.wrapping_sub(flow.next));
            let missing = u64::from(flow.missing) + u64::from(tail);
            sum.0 += missing;
            sum.1 += u64::from(missing > 0);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn gaps_are_missing_until_they_are_filled() {
        let mut tracker = Tracker::new(2);
        assert_eq!(tracker.note(0, 0), Arrival::InOrder);
        assert_eq!(tracker.note(0, 3), Arrival::InOrder);
        assert_eq!(tracker.missing(None), (2, 1));
        assert_eq!(tracker.note(0, 1), Arrival::Late);
        assert_eq!(tracker.note(0, 1), Arrival::Again);
        assert_eq!(tracker.note(0, 3), Arrival::Again);
        assert_eq!(tracker.missing(None), (1, 1));
        assert_eq!(tracker.missing(Some(&[5, 2])), (4, 2), "with what was lost at the end");
        assert_eq!(tracker.note(2, 0), Arrival::Again, "there is no such flow");
    }

    #[test]
    fn numbers_go_round() {
        let mut tracker = Tracker::new(1);
        tracker.flows[0].next = u32::MAX;
        assert_eq!(tracker.note(0, u32::MAX), Arrival::InOrder);
        assert_eq!(tracker.note(0, 1), Arrival::InOrder);
        assert_eq!(tracker.note(0, 0), Arrival::Late);
        assert_eq!(tracker.missing(Some(&[3])), (1, 1));
    }

    proptest! {
        /// Against a set, for whatever is not later than the window.
        #[test]
        fn it_counts_as_a_set_does(arrivals in prop::collection::vec(0_u32..60, 1..200)) {
            let mut tracker = Tracker::new(1);
            let mut there = HashSet::new();
            for seq in arrivals {
                let highest = there.iter().max().copied();
                let expected = match there.insert(seq) {
                    false => Arrival::Again,
                    true if highest.is_none_or(|highest| seq > highest) => Arrival::InOrder,
                    true => Arrival::Late,
                };
                prop_assert_eq!(tracker.note(0, seq), expected);
                let highest = there.iter().max().copied().unwrap_or(0);
                prop_assert_eq!(tracker.missing(None).0, u64::from(highest) + 1 - there.len() as u64);
            }
        }
    }
}
