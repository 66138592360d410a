//! What a step changed: every counter that moved, and by how much.

use std::collections::BTreeMap;

use weft_switch::drop_reason::DropReason;
use weft_switch::event::Event;

use super::Node;

/// Every counter that is not zero, by its name.
pub type Counts = BTreeMap<&'static str, u64>;

impl Node {
    /// All workers' counters together.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for counters in self.switch.handles().map(|handle| handle.counters()) {
            let named = [
                ("rx", &counters.rx),
                ("originated", &counters.originated),
                ("tx", &counters.tx),
                ("consumed", &counters.consumed),
                ("merged", &counters.merged),
                ("fragments", &counters.fragments),
                ("icmp_sent", &counters.icmp_sent),
                ("icmp_limited", &counters.icmp_limited),
                ("events_lost", &counters.events_lost),
                ("events_limited", &counters.events_limited),
            ];
            let drops = DropReason::ALL.iter().map(|reason| (reason.name(), counters.drops(*reason)));
            for (name, counter) in named.into_iter().chain(drops) {
                if counter.get() > 0 {
                    *counts.entry(name).or_default() += counter.get();
                }
            }
        }
        counts
    }

    /// Fails unless exactly these counters have moved since `before`, by so much.
    pub fn assert_changed(&self, before: &Counts, expected: &[(&str, u64)], what: &str) {
        let changed: BTreeMap<&str, u64> = self
            .counts()
            .into_iter()
            .map(|(name, count)| (name, count - before.get(name).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(changed, expected.iter().copied().collect(), "{what}");
        self.assert_balanced();
    }

    /// What the workers have told since last time.
    pub fn take_events(&self) -> Vec<Event> {
        self.switch.handles().flat_map(|handle| std::iter::from_fn(|| handle.events().take())).collect()
    }
}
