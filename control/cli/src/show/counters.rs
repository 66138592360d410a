//! `weft stats`, `weft drops` and `weft worker`: what is counted, and while it is watched how much a second.

use std::collections::HashMap;

use weft_api::{Drops, PortStats, Stats, Workers};

use crate::table::{Table, bytes, list, or_dash, rate};
use crate::view::{Form, Show};

/// How much a counter has grown a second. A dash for one that has gone back or is new: another daemon's, or another
/// port's.
fn growth(now: u64, earlier: Option<u64>, seconds: f64) -> String {
    match earlier.and_then(|earlier| now.checked_sub(earlier)) {
        Some(grown) => rate(grown as f64 / seconds.max(f64::MIN_POSITIVE)),
        None => "-".to_owned(),
    }
}

impl Show for Stats {
    fn show(&self, form: Form) -> String {
        let mut ports = Table::new(
            form,
            &[
                ">PORT",
                "NAME",
                "KIND",
                ">RX PACKETS",
                ">RX BYTES",
                ">RX DROPS",
                ">TX PACKETS",
                ">TX BYTES",
                ">TX DROPS",
            ],
        );
        for port in &self.ports {
            ports.row(vec![
                port.id.to_string(),
                port.name.clone(),
                port.kind.clone(),
                port.rx_packets.to_string(),
                bytes(port.rx_bytes),
                port.rx_drops.to_string(),
                port.tx_packets.to_string(),
                bytes(port.tx_bytes),
                port.tx_drops.to_string(),
            ]);
        }
        let mut workers = Table::new(
            form,
            &[
                ">WORKER",
                ">CORE",
                ">RX PACKETS",
                ">TX PACKETS",
                ">CONSUMED",
                ">ORIGINATED",
                ">MERGED",
                ">DROPS",
                ">BURSTS",
                ">CYCLES/PACKET",
                ">BUSY",
                ">ASLEEP",
                ">SLEEPS",
                "+>WAKES",
                ">HANDED OVER",
                "+>ICMP ERRORS",
                "+>ICMP LIMITED",
                "+>LEARNED",
                "+>MOVED",
                "+>EVENTS LOST",
            ],
        );
        for worker in &self.workers {
            workers.row(vec![
                worker.id.to_string(),
                or_dash(worker.core),
                worker.rx_packets.to_string(),
                worker.tx_packets.to_string(),
                worker.consumed.to_string(),
                worker.originated.to_string(),
                worker.merged.to_string(),
                worker.drops.to_string(),
                worker.bursts.to_string(),
                format!("{:.0}", worker.cycles_per_packet),
                percent(worker.busy),
                percent(worker.asleep),
                worker.sleeps.to_string(),
                worker.wakes.to_string(),
                worker.handed_over.to_string(),
                worker.icmp_sent.to_string(),
                worker.icmp_limited.to_string(),
                worker.learned.to_string(),
                worker.moved.to_string(),
                worker.events_lost.to_string(),
            ]);
        }
        let total = &self.total;
        format!(
            "{}\n{}\nbalance: rx {} + originated {} = tx {} + consumed {} + merged {} + drops {} + in flight {}\n",
            ports.render(),
            workers.render(),
            total.rx,
            total.originated,
            total.tx,
            total.consumed,
            total.merged,
            total.drops,
            total.in_flight()
        )
    }

    fn show_since(&self, form: Form, earlier: &Self, seconds: f64) -> String {
        let before: HashMap<_, _> = earlier.ports.iter().map(|port| ((port.id, &port.name), port)).collect();
        let mut ports = Table::new(
            form,
            &[
                ">PORT",
                "NAME",
                "KIND",
                ">RX PACKETS/S",
                ">RX BITS/S",
                ">RX DROPS/S",
                ">TX PACKETS/S",
                ">TX BITS/S",
                ">TX DROPS/S",
                "+>RX PACKETS",
                "+>RX BYTES",
                "+>TX PACKETS",
                "+>TX BYTES",
            ],
        );
        for port in &self.ports {
            let was = before.get(&(port.id, &port.name)).copied();
            let grown = |read: fn(&PortStats) -> u64| growth(read(port), was.map(read), seconds);
            ports.row(vec![
                port.id.to_string(),
                port.name.clone(),
                port.kind.clone(),
                grown(|port| port.rx_packets),
                grown(|port| port.rx_bytes.saturating_mul(8)),
                grown(|port| port.rx_drops),
                grown(|port| port.tx_packets),
                grown(|port| port.tx_bytes.saturating_mul(8)),
                grown(|port| port.tx_drops),
                port.rx_packets.to_string(),
                bytes(port.rx_bytes),
                port.tx_packets.to_string(),
                bytes(port.tx_bytes),
            ]);
        }
        let mut workers = Table::new(
            form,
            &[
                ">WORKER",
                ">CORE",
                ">RX PACKETS/S",
                ">TX PACKETS/S",
                ">DROPS/S",
                ">BURSTS/S",
                ">BUSY",
                ">ASLEEP",
                ">SLEEPS/S",
                ">HANDED OVER/S",
            ],
        );
        for worker in &self.workers {
            let was = earlier.workers.iter().find(|was| was.id == worker.id);
            workers.row(vec![
                worker.id.to_string(),
                or_dash(worker.core),
                growth(worker.rx_packets, was.map(|was| was.rx_packets), seconds),
                growth(worker.tx_packets, was.map(|was| was.tx_packets), seconds),
                growth(worker.drops, was.map(|was| was.drops), seconds),
                growth(worker.bursts, was.map(|was| was.bursts), seconds),
                percent(worker.busy),
                percent(worker.asleep),
                growth(worker.sleeps, was.map(|was| was.sleeps), seconds),
                growth(worker.handed_over, was.map(|was| was.handed_over), seconds),
            ]);
        }
        format!("{}\n{}", ports.render(), workers.render())
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

impl Show for Drops {
    fn show(&self, form: Form) -> String {
        if self.total.is_empty() {
            return "no drops\n".to_owned();
        }
        let mut total = Table::new(form, &["REASON", ">COUNT", "MEANING"]);
        for drop in &self.total {
            total.row(vec![drop.reason.clone(), drop.count.to_string(), drop.explain.clone()]);
        }
        total.render()
    }

    fn show_since(&self, form: Form, earlier: &Self, seconds: f64) -> String {
        if self.total.is_empty() {
            return "no drops\n".to_owned();
        }
        let mut total = Table::new(form, &["REASON", ">COUNT", ">DROPS/S", "MEANING"]);
        for drop in &self.total {
            // A reason that was not there had not happened.
            let was = earlier.total.iter().find(|was| was.reason == drop.reason).map_or(0, |was| was.count);
            total.row(vec![
                drop.reason.clone(),
                drop.count.to_string(),
                growth(drop.count, Some(was), seconds),
                drop.explain.clone(),
            ]);
        }
        total.render()
    }
}

impl Show for Workers {
    fn show(&self, form: Form) -> String {
        let mut table = Table::new(
            form,
            &[
                ">WORKER",
                ">CORE",
                "STATE",
                ">BUSY",
                ">ASLEEP",
                "+>BUSY SECONDS",
                "+>ASLEEP SECONDS",
                ">CYCLES/PACKET",
                ">RX PACKETS",
                ">TX PACKETS",
                ">DROPS",
                ">GENERATION",
                "PORTS",
            ],
        );
        for worker in &self.workers {
            let stats = &worker.stats;
            table.row(vec![
                stats.id.to_string(),
                or_dash(stats.core),
                stats.state.to_string(),
                percent(stats.busy),
                percent(stats.asleep),
                format!("{:.1}", stats.busy_seconds),
                format!("{:.1}", stats.asleep_seconds),
                format!("{:.0}", stats.cycles_per_packet),
                stats.rx_packets.to_string(),
                stats.tx_packets.to_string(),
                stats.drops.to_string(),
                or_dash(worker.generation),
                list(&worker.ports),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_only_of_what_was_there_before() {
        assert_eq!(growth(300, Some(100), 2.0), "100");
        assert_eq!(growth(100, Some(300), 2.0), "-", "another daemon's counter");
        assert_eq!(growth(100, None, 2.0), "-", "a new port's counter");
    }
}
