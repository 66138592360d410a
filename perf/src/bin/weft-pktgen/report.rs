//! What was measured, as a table and as JSON.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;
use weft_ffi::dpdk::EthStats;

use crate::engine::{Tally, Trial};

/// One trial.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrialReport {
    /// Packets a second that were asked for; null: as many as the port takes.
    pub(crate) asked_pps: Option<f64>,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) sent: Option<Sent>,
    #[serde(flatten)]
    pub(crate) received: Option<Received>,
    /// The longest time in which the generator did not run: what it saw of gaps and latencies may be its own.
    pub(crate) own_pause_ms: f64,
}

/// The sending side.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sent {
    pub(crate) sent: u64,
    pub(crate) sent_pps: f64,
    /// Bits a second on a wire, with preamble and gap.
    pub(crate) sent_wire_bps: f64,
    pub(crate) arp_sent: u64,
    /// Packets that were due and not sent, because the generator had lost the time or the buffers.
    pub(crate) given_up: u64,
    /// How often the port took nothing.
    pub(crate) port_full: u64,
}

/// The receiving side.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Received {
    pub(crate) received: u64,
    pub(crate) received_pps: f64,
    pub(crate) lost: u64,
    /// Share of what was sent.
    pub(crate) loss: f64,
    pub(crate) flows_with_loss: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupted: u64,
    pub(crate) arp_received: u64,
    pub(crate) other: u64,
    pub(crate) longest_gap_ms: f64,
    /// Null if nothing arrived.
    pub(crate) latency_us: Option<Latency>,
}

/// In microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            min: us(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: us(histogram.max()),
        })
    }
}

impl TrialReport {
    /// Of a trial with packets of so many bits on the wire, that has sent, received or both.
    pub(crate) fn new(trial: &Trial, tally: &Tally, wire_bits: f64, sends: bool, receives: bool) -> Self {
        let seconds = tally.seconds;
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let sent = sends.then(|| Sent {
            sent: tally.sent,
            sent_pps: rate(tally.sent),
            sent_wire_bps: rate(tally.sent) * wire_bits,
            arp_sent: tally.arp_sent,
            given_up: tally.given_up,
            port_full: tally.full,
        });
        let all = if sends { tally.sent } else { tally.received + tally.lost };
        let received = receives.then(|| Received {
            received: tally.received,
            received_pps: rate(tally.received),
            lost: tally.lost,
            loss: if all > 0 { tally.lost as f64 / all as f64 } else { 0.0 },
            flows_with_loss: tally.flows_with_loss,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
            arp_received: tally.arp_received,
            other: tally.other,
            longest_gap_ms: tally.longest_gap * 1e3,
            latency_us: Latency::of(&tally.latency),
        });
        let asked_pps = trial.pps.filter(|_| sends);
        Self { asked_pps, seconds, sent, received, own_pause_ms: tally.longest_pause * 1e3 }
    }

    /// The share of what was sent that is lost.
    pub(crate) fn loss(&self) -> f64 {
        self.received.as_ref().map_or(0.0, |received| received.loss)
    }

    pub(crate) fn corrupted(&self) -> u64 {
        self.received.as_ref().map_or(0, |received| received.corrupted)
    }

    /// The share of what was asked for that was sent.
    pub(crate) fn offered(&self) -> f64 {
        match (&self.sent, self.asked_pps) {
            (Some(sent), Some(asked)) if self.seconds > 0.0 => {
                (sent.sent + sent.arp_sent) as f64 / (asked * self.seconds)
            }
            _ => 1.0,
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, words: String| {
            // A String takes everything.
            let _ = writeln!(text, "{label:<10} {words}");
        };
        if let Some(sent) = &self.sent {
            let (pps, bits) = (si(sent.sent_pps), si(sent.sent_wire_bps));
            let words = format!(
                "{} packets in {:.3} s: {pps}pps, {bits}bit/s on the wire",
                grouped(sent.sent),
                self.seconds
            );
            line("sent", words);
            if let Some(asked) = self.asked_pps.filter(|_| self.offered() < 0.99) {
                let words = format!(
                    "{}pps, and {} % of it were sent: {}",
                    si(asked),
                    digits(100.0 * self.offered()),
                    self.why_less()
                );
                line("asked", words);
            }
        }
        if let Some(received) = &self.received {
            let Received { lost, duplicated, reordered, corrupted, other, .. } = *received;
            let packets = grouped(received.received);
            line("received", format!("{packets} packets: {}pps", si(received.received_pps)));
            let of = if received.flows_with_loss > 0 {
                format!(", of {} flows", grouped(received.flows_with_loss))
            } else {
                String::new()
            };
            line("lost", format!("{} ({:.4} %{of})", grouped(lost), 100.0 * received.loss));
            line(
                "wrong",
                format!(
                    "{} corrupted, {} duplicated, {} reordered",
                    grouped(corrupted),
                    grouped(duplicated),
                    grouped(reordered)
                ),
            );
            let arp_sent = self.sent.as_ref().map_or(0, |sent| sent.arp_sent);
            if arp_sent + received.arp_received + other > 0 {
                let asked =
                    format!("{} ARP sent, {} received", grouped(arp_sent), grouped(received.arp_received));
                line("beside", format!("{asked}, {} other frames", grouped(other)));
            }
            if let Some(latency) = &received.latency_us {
                let Latency { p50, p99, p999, max, .. } = *latency;
                let [p50, p99, p999, max] = [p50, p99, p999, max].map(digits);
                line("latency", format!("p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs, max {max} µs"));
            }
            let (gap, own) = (digits(received.longest_gap_ms), digits(self.own_pause_ms));
            line(
                "gap",
                format!(
                    "{gap} ms without a packet at most; the generator itself paused for {own} ms at most"
                ),
            );
        }
        text
    }

    fn why_less(&self) -> &'static str {
        match &self.sent {
            Some(sent) if sent.port_full > 0 => "the port did not take more",
            _ => "this core is too slow, or is shared",
        }
    }
}

/// A search.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ThroughputReport {
    /// Null if every rate lost packets.
    pub(crate) zero_loss_pps: Option<f64>,
    /// The trial at that rate.
    pub(crate) at_zero_loss: Option<TrialReport>,
    /// As much as the port took, if the search began with that.
    pub(crate) flood: Option<TrialReport>,
    /// Shares of the rate, in per cent.
    pub(crate) at: Vec<ShareReport>,
    /// All of the search, in order.
    pub(crate) trials: Vec<TrialReport>,
}

/// A trial at a share of the rate found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ShareReport {
    pub(crate) percent: f64,
    #[serde(flatten)]
    pub(crate) trial: TrialReport,
}

impl ThroughputReport {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let rate =
            self.zero_loss_pps.map_or_else(|| "none found".to_owned(), |pps| format!("{}pps", si(pps)));
        // A String takes everything.
        let _ = writeln!(text, "without loss  {rate}");
        if let Some(flood) = &self.flood {
            let received = flood.received.as_ref().map_or(0.0, |received| received.received_pps);
            let sent = flood.sent.as_ref().map_or(0.0, |sent| sent.sent_pps);
            let _ = writeln!(text, "flood         {}pps sent, {}pps received", si(sent), si(received));
        }
        if !self.at.is_empty() {
            let _ = writeln!(
                text,
                "\n{:>8}  {:>11}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
                "% of it", "pps", "lost", "p50 µs", "p99 µs", "p99.9 µs", "max µs"
            );
        }
        for ShareReport { percent, trial } in &self.at {
            let (Some(sent), Some(received)) = (&trial.sent, &trial.received) else { continue };
            let _ = write!(text, "{percent:>8}  {:>11}  {:>8}", si(sent.sent_pps), grouped(received.lost));
            if let Some(latency) = &received.latency_us {
                for value in [latency.p50, latency.p99, latency.p999, latency.max] {
                    let _ = write!(text, "  {:>9}", digits(value));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// What the drivers have counted of their own.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct DriverReport {
    /// Not sent.
    pub(crate) tx_errors: u64,
    /// Dropped because no descriptor was free: the generator was too slow to receive.
    pub(crate) rx_missed: u64,
    /// Received wrong.
    pub(crate) rx_errors: u64,
    /// Not received because no buffer was free.
    pub(crate) rx_no_buffer: u64,
}

impl DriverReport {
    pub(crate) fn new((tx, rx): (EthStats, EthStats)) -> Self {
        Self {
            tx_errors: tx.oerrors,
            rx_missed: rx.imissed,
            rx_errors: rx.ierrors,
            rx_no_buffer: rx.rx_nombuf,
        }
    }

    /// For people; empty if there is nothing to say.
    pub(crate) fn table(&self) -> String {
        let Self { tx_errors, rx_missed, rx_errors, rx_no_buffer } = *self;
        if tx_errors + rx_missed + rx_errors + rx_no_buffer == 0 {
            return String::new();
        }
        format!(
            "drivers    {} not sent; {} missed, {} wrong, {} without a buffer\n",
            grouped(tx_errors),
            grouped(rx_missed),
            grouped(rx_errors),
            grouped(rx_no_buffer)
        )
    }
}

/// A number with a unit's prefix, and a space.
fn si(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.3} G", n / 1e9),
        n if n >= 1e6 => format!("{:.3} M", n / 1e6),
        n if n >= 1e3 => format!("{:.3} k", n / 1e3),
        n => format!("{n:.1} "),
    }
}

/// Three digits that count.
fn digits(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 12, 123, 1234, 1_234_567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
        assert_eq!([0.5, 1234.0, 1.5e6, 2e10].map(si), ["0.5 ", "1.234 k", "1.500 M", "20.000 G"]);
        assert_eq!([0.123, 12.34, 1234.5].map(digits), ["0.12", "12.3", "1234"]);
    }
}
