//! Counters as differences: what something has changed, and that it has changed nothing else.

use std::collections::BTreeMap;

use weft_api::{Drops, PortStats, Stats, WorkerState};

use super::{Lab, wait_for};

/// All that weftd counts, at a moment when nothing was on its way.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    stats: Stats,
    drops: Drops,
}

/// What has changed between two moments.
#[derive(Debug)]
pub(crate) struct Deltas {
    /// Drop reasons by name, and `rx`, `tx`, `consumed`, `originated`, `merged` of the whole switch. Without those that have not changed.
    totals: BTreeMap<String, u64>,
    /// By port and counter, such as `web.tx`. Without those that have not changed.
    ports: BTreeMap<String, u64>,
}

impl Lab {
    /// Waits until nothing is on its way.
    pub(crate) fn counters(&self) -> Counters {
        wait_for("the counters to balance", || {
            // The drops between two looks that agree: then they belong together.
            let before = self.stats();
            let drops = self.ask(async |weftd| weftd.drops(true).await).expect("the drops");
            let stats = self.stats();
            // What a worker counts of a burst at its end, it has counted once it sleeps.
            let asleep = stats.workers.iter().all(|worker| worker.state == WorkerState::Sleeping);
            let settled = asleep && before.total == stats.total && stats.total.in_flight() == 0;
            settled.then_some(Counters { stats, drops })
        })
    }

    /// What `work`, which brings so many frames into the switch, changes. Exact only where nobody else sends: see
    /// [`super::Namespace::quiet`] and [`super::Namespace::mute`].
    pub(crate) fn deltas<T>(&self, frames: u64, work: impl FnOnce() -> T) -> Deltas {
        let before = self.counters();
        work();
        let after = wait_for(&format!("{frames} frames to come in"), || {
            let now = self.counters();
            (now.stats.total.rx >= before.stats.total.rx + frames).then_some(now)
        });
        let deltas = before.until(&after);
        assert_eq!(deltas.of("rx"), frames, "others sent too: {deltas:?}");
        deltas
    }
}

impl Counters {
    /// The differences to a later moment.
    pub(crate) fn until(&self, later: &Self) -> Deltas {
        let less = |before: BTreeMap<String, u64>, after: BTreeMap<String, u64>| {
            let changed = after.into_iter().map(|(name, count)| {
                let less = count - before.get(&name).copied().unwrap_or_default();
                (name, less)
            });
            changed.filter(|(_, count)| *count > 0).collect()
        };
        Deltas {
            totals: less(self.totals(), later.totals()),
            ports: less(self.port_counters(), later.port_counters()),
        }
    }

    fn totals(&self) -> BTreeMap<String, u64> {
        let total = self.stats.total;
        let named = [
            ("rx", total.rx),
            ("tx", total.tx),
            ("consumed", total.consumed),
            ("originated", total.originated),
            ("merged", total.merged),
        ];
        let drops = self.drops.total.iter().map(|drop| (drop.reason.clone(), drop.count));
        named.into_iter().map(|(name, count)| (name.to_owned(), count)).chain(drops).collect()
    }

    fn port_counters(&self) -> BTreeMap<String, u64> {
        let of = |port: &PortStats| {
            let named = [
                ("rx", port.rx_packets),
                ("tx", port.tx_packets),
                ("rx_drops", port.rx_drops),
                ("tx_drops", port.tx_drops),
            ];
            named.map(|(name, count)| (format!("{}.{name}", port.name), count))
        };
        self.stats.ports.iter().flat_map(of).collect()
    }
}

impl Deltas {
    /// By how much a counter of a port (`web.rx`, `up0.tx` …) has changed.
    pub(crate) fn port(&self, name: &str) -> u64 {
        self.ports.get(name).copied().unwrap_or_default()
    }

    /// These counters of the whole switch (drop reasons, `tx`, `consumed`, `originated`) have changed by so much,
    /// and no other but `rx`.
    pub(crate) fn assert_only(&self, expected: &[(&str, u64)]) -> &Self {
        let changed: BTreeMap<&str, u64> = self
            .totals
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .filter(|(name, _)| *name != "rx")
            .collect();
        assert_eq!(changed, expected.iter().copied().collect(), "{self:?}");
        self
    }

    /// This counter of the whole switch has not changed.
    pub(crate) fn assert_without(&self, name: &str) -> &Self {
        assert_eq!(self.of(name), 0, "{self:?}");
        self
    }

    /// These counters of ports (`web.rx`, `web.tx`, `up0.rx_drops` …) have changed by so much, and no other.
    pub(crate) fn assert_ports(&self, expected: &[(&str, u64)]) -> &Self {
        let changed: BTreeMap<&str, u64> =
            self.ports.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(changed, expected.iter().copied().collect(), "{self:?}");
        self
    }

    /// So many frames from `port` were dropped for `reason`; nothing else has happened at all.
    pub(crate) fn assert_dropped(&self, port: &str, reason: &str, frames: u64) {
        self.assert_only(&[(reason, frames)]);
        self.assert_ports(&[(&format!("{port}.rx"), frames), (&format!("{port}.rx_drops"), frames)]);
    }

    /// By how much this counter of the whole switch has changed.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.totals.get(name).copied().unwrap_or_default()
    }

    /// How many frames were dropped, for whatever reason.
    pub(crate) fn dropped(&self) -> u64 {
        let ends = ["rx", "tx", "consumed", "originated", "merged"];
        self.totals.iter().filter(|(name, _)| !ends.contains(&name.as_str())).map(|(_, count)| count).sum()
    }
}
