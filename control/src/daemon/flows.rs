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
/// Watches at a time.
const WATCHES: usize = 16;
/// Flows that each watch can tell apart, whatever the others have; what comes beyond both bounds is counted as lost.
const OWN_FLOWS: usize = 2_048;
/// Flows over that, of all watches together. With those 8 MiB.
const SHARED_FLOWS: usize = 32_768;

/// What a flow's packets have in common.
type Key = (PortId, IpAddr, IpAddr, u8, (u16, u16), Verdict);

/// Packets and bytes, as estimated from the samples.
#[derive(Default, Clone, Copy)]
struct Tally(u64, u64);

/// Somebody who watches.
struct Watch {
    until: Instant,
    limit: usize,
    /// What the workers had lost when it began.
    lost_before: u64,
    seen: HashMap<Key, Tally>,
    /// Samples of flows that there was no room for.
    over: u64,
    answer: oneshot::Sender<Result<Flows, ApiError>>,
}

impl Watch {
    /// Takes a sample that stands for `one_in` packets. `room` says whether a flow over its own number has a place.
    fn take(&mut self, sample: &FlowSample, one_in: u32, room: bool) {
        let key = (sample.port, sample.src, sample.dst, sample.protocol, sample.ports, sample.verdict);
        if self.seen.len() >= OWN_FLOWS && !room && !self.seen.contains_key(&key) {
            self.over += 1;
            return;
        }
        let Tally(packets, bytes) = self.seen.entry(key).or_default();
        *packets += u64::from(one_in);
        *bytes += u64::from(sample.bytes) * u64::from(one_in);
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
        for at in 0..self.watches.len() {
            let shared: usize =
                self.watches.iter().map(|watch| watch.seen.len().saturating_sub(OWN_FLOWS)).sum();
            self.watches[at].take(sample, self.one_in, shared < SHARED_FLOWS);
        }
    }

    /// How few packets are to be looked at from now on, if that is fewer than before.
    fn note_received(&mut self, received: u64) -> Option<u32> {
        self.rate = received.saturating_sub(self.received);
        self.received = received;
        let wanted = one_in(self.rate);
        (self.any() && wanted > self.one_in).then_some(wanted)
    }
}

/// One packet in so many, a power of two, for a rate in packets a second.
fn one_in(rate: u64) -> u32 {
    u32::try_from((rate / SAMPLES).max(1)).unwrap_or(1 << 30).min(1 << 30).next_power_of_two()
}

impl Daemon {
    /// Told once a second how many frames have been received since the start. A watch that began in a quiet moment samples
    /// less once it is loud.
    pub(super) fn note_received(&mut self, received: u64) {
        if let Some(one_in) = self.flows.note_received(received) {
            // What was sampled before stands for fewer packets.
            self.take_events();
            self.flows.one_in = one_in;
            self.dataplane.sample_flows(one_in);
        }
    }

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
        let lost = self.events_lost().saturating_sub(lost_before) + over;
        let count = seen.len() as u64;
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_unstable_by_key(|(key, Tally(packets, bytes))| {
            (std::cmp::Reverse((*bytes, *packets)), key.1, key.2, key.3, key.4, key.0)
        });
        let (names, nodes) = (self.port_names(), self.nodes_by_vtep());
        let name = |id: PortId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        let flows = seen.into_iter().take(limit).map(|(key, Tally(packets, bytes))| {
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
    fn watches_tell_flows_apart_and_keep_to_their_bounds() {
        let mut watches = Watches { one_in: 1, ..Watches::default() };
        let mut answers = Vec::new();
        let mut begin = |watches: &mut Watches| {
            let (answer, answered) = oneshot::channel();
            answers.push(answered);
            let until = Instant::now();
            watches.watches.push(Watch {
                until,
                limit: 1,
                lost_before: 0,
                seen: HashMap::new(),
                over: 0,
                answer,
            });
        };
        let mut sample = FlowSample {
            port: PortId::new(1).unwrap(),
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            protocol: 17,
            ports: (1, 2),
            bytes: 100,
            verdict: Verdict::Flooded,
        };
        begin(&mut watches);
        watches.take(&sample);
        // Each sample counts as many packets as it stood for when it was taken.
        assert_eq!(watches.note_received(5_000), None);
        assert_eq!(watches.note_received(45_000), Some(4));
        watches.one_in = 4;
        assert_eq!(watches.note_received(45_000), None, "a quiet second changes nothing under way");
        watches.take(&sample);
        sample.verdict = Verdict::Dropped(0);
        watches.take(&sample);
        let tallies = |watch: &Watch| {
            let mut all: Vec<_> =
                watch.seen.values().map(|Tally(packets, bytes)| (*packets, *bytes)).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(tallies(&watches.watches[0]), [(4, 400), (5, 500)]);

        // Who comes first has all that is shared; who comes later its own part all the same.
        let mut flood = |watches: &mut Watches| {
            for number in 0..(SHARED_FLOWS + OWN_FLOWS) as u32 {
                sample.dst = IpAddr::from(number.to_be_bytes());
                watches.take(&sample);
            }
        };
        flood(&mut watches);
        assert_eq!((watches.watches[0].seen.len(), watches.watches[0].over), (SHARED_FLOWS + OWN_FLOWS, 2));
        begin(&mut watches);
        flood(&mut watches);
        assert_eq!(
            (watches.watches[1].seen.len(), watches.watches[1].over),
            (OWN_FLOWS, SHARED_FLOWS as u64)
        );
        assert_eq!(watches.watches[0].over, 4);
    }
}
