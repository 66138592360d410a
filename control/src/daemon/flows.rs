//! The list of flows: packets are sampled only while somebody watches, and as many of them as the control side can take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_api::{ApiError, Flow, FlowVerdict, Flows};
use weft_switch::drop_reason::DropReason;
use weft_switch::event::{FlowSample, Verdict};
use weft_switch::types::PortId;

use super::Daemon;

/// Samples a second that are aimed at: a quarter of what one worker can tell between two collections.
const SAMPLES: u64 = 10_000;
/// Flows that a watch tells apart; what comes beyond is counted as lost. 8 MiB.
const FLOWS: usize = 65_536;
/// Watches at a time.
const WATCHES: usize = 16;

/// What a flow's packets have in common.
type Key = (PortId, IpAddr, IpAddr, u8, (u16, u16), Verdict);

/// Samples and bytes.
#[derive(Default, Clone, Copy)]
struct Tally(u64, u64);

/// Somebody who watches.
struct Watch {
    until: Instant,
    limit: usize,
    /// What the workers had lost when it began.
    lost_before: u64,
    seen: HashMap<Key, Tally>,
    /// Samples of flows over [`FLOWS`].
    over: u64,
    answer: oneshot::Sender<Result<Flows, ApiError>>,
}

impl Watch {
    fn take(&mut self, sample: &FlowSample) {
        let key = (sample.port, sample.src, sample.dst, sample.protocol, sample.ports, sample.verdict);
        if self.seen.len() >= FLOWS && !self.seen.contains_key(&key) {
            self.over += 1;
            return;
        }
        let Tally(samples, bytes) = self.seen.entry(key).or_default();
        *samples += 1;
        *bytes += u64::from(sample.bytes);
    }
}

/// Everybody who watches, and how much is sampled for them.
#[derive(Default)]
pub(super) struct Watches {
    watches: Vec<Watch>,
    one_in: u32,
    /// Frames that were received until some time, and in the second before it.
    received: u64,
    rate: u64,
}

impl Watches {
    /// Whether anybody watches.
    pub(super) fn any(&self) -> bool {
        !self.watches.is_empty()
    }

    /// Everybody who watches sees it.
    pub(super) fn take(&mut self, sample: &FlowSample) {
        self.watches.iter_mut().for_each(|watch| watch.take(sample));
    }

    /// Told once a second how many frames have been received since the start.
    pub(super) fn note_received(&mut self, received: u64) {
        self.rate = received.saturating_sub(self.received);
        self.received = received;
    }
}

/// One packet in so many, a power of two, for a rate in packets a second.
fn one_in(rate: u64) -> u32 {
    u32::try_from((rate / SAMPLES).max(1)).unwrap_or(1 << 30).min(1 << 30).next_power_of_two()
}

impl Daemon {
    /// Begins to watch, and answers after so long with so many flows at most.
    pub(super) fn watch_flows(
        &mut self,
        lasts: Duration,
        limit: usize,
        answer: oneshot::Sender<Result<Flows, ApiError>>,
    ) {
        if self.flows.watches.len() >= WATCHES {
            let text = format!("{WATCHES} clients watch the flows already: try again in a moment");
            return drop(answer.send(Err(ApiError::not_ready(text))));
        }
        if !self.flows.any() {
            self.flows.one_in = one_in(self.flows.rate);
            // What came before is of nobody's time.
            self.take_events();
            self.dataplane.sample_flows(self.flows.one_in);
        }
        let lost_before = self.events_lost();
        let until = Instant::now() + lasts;
        self.flows.watches.push(Watch { until, limit, lost_before, seen: HashMap::new(), over: 0, answer });
    }

    /// Answers those whose time is up.
    pub(super) fn answer_watches(&mut self) {
        if !self.flows.any() {
            return;
        }
        let now = Instant::now();
        self.flows.watches.retain(|watch| !watch.answer.is_closed());
        let (done, going_on) =
            std::mem::take(&mut self.flows.watches).into_iter().partition(|watch| watch.until <= now);
        self.flows.watches = going_on;
        for watch in done {
            self.answer_watch(watch);
        }
        if !self.flows.any() {
            self.dataplane.sample_flows(0);
        }
    }

    fn answer_watch(&self, watch: Watch) {
        let Watch { limit, lost_before, seen, over, answer, .. } = watch;
        let one_in = u64::from(self.flows.one_in);
        let lost = self.events_lost().saturating_sub(lost_before) + over;
        let count = seen.len() as u64;
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_unstable_by_key(|(key, Tally(samples, bytes))| {
            (std::cmp::Reverse((*bytes, *samples)), key.1, key.2, key.3, key.4, key.0)
        });
        let (names, nodes) = (self.port_names(), self.nodes_by_vtep());
        let name = |id: PortId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        let flows = seen.into_iter().take(limit).map(|(key, Tally(samples, bytes))| {
            let (port, src, dst, protocol, (sport, dport), verdict) = key;
            let (verdict, to) = match verdict {
                Verdict::Port(id) => (FlowVerdict::Port, Some(name(id))),
                Verdict::Tunnel(vtep) => (FlowVerdict::Tunnel, nodes.get(&vtep).cloned()),
                Verdict::Flooded => (FlowVerdict::Flooded, None),
                Verdict::Answered => (FlowVerdict::Answered, None),
                Verdict::Consumed => (FlowVerdict::Consumed, None),
                Verdict::Dropped(reason) => {
                    let reason = DropReason::ALL.get(usize::from(reason));
                    (FlowVerdict::Dropped, reason.map(|reason| reason.name().to_owned()))
                }
            };
            let (packets, bytes) = (samples * one_in, bytes * one_in);
            Flow { port: name(port), src, dst, protocol, sport, dport, packets, bytes, verdict, to }
        });
        let flows = flows.collect();
        drop(answer.send(Ok(Flows { flows, seen: count, sampled_one_in: self.flows.one_in, lost })));
    }

    /// Events that all workers have lost since the start.
    fn events_lost(&self) -> u64 {
        self.dataplane.workers().iter().map(|side| side.counters().events_lost.get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_packets_the_fewer_are_sampled() {
        for (rate, expected) in
            [(0, 1), (9_999, 1), (20_000, 2), (30_000, 4), (5_000_000, 512), (u64::MAX, 1 << 30)]
        {
            assert_eq!(one_in(rate), expected, "{rate} packets a second");
        }
    }

    #[test]
    fn a_watch_tells_flows_apart_and_keeps_to_its_limit() {
        let (answer, _answered) = oneshot::channel();
        let mut watch =
            Watch { until: Instant::now(), limit: 1, lost_before: 0, seen: HashMap::new(), over: 0, answer };
        let mut sample = FlowSample {
            port: PortId::new(1).unwrap(),
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            protocol: 17,
            ports: (1, 2),
            bytes: 100,
            verdict: Verdict::Flooded,
        };
        watch.take(&sample);
        watch.take(&sample);
        sample.verdict = Verdict::Dropped(0);
        watch.take(&sample);
        let mut tallies: Vec<_> =
            watch.seen.values().map(|Tally(samples, bytes)| (*samples, *bytes)).collect();
        tallies.sort_unstable();
        assert_eq!(tallies, [(1, 100), (2, 200)]);
        for number in 0..FLOWS as u32 {
            sample.dst = IpAddr::from(number.to_be_bytes());
            watch.take(&sample);
        }
        assert_eq!((watch.seen.len(), watch.over), (FLOWS, 2));
    }
}
