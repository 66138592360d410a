//! The thread that sends and receives: one trial after the other.
//!
//! Everything that a trial needs is made before it; per packet nothing is allocated, locked or asked of the system. The
//! clock is read once a burst each way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Result, anyhow};
use arrayvec::ArrayVec;
use hdrhistogram::Histogram;
use weft_ffi::dpdk::{BURST, Burst, EthRx, EthTx, Mbuf, Mempool};
use weft_ffi::kernel::clock::{tsc, tsc_hz};

use crate::check::{Seen, look};
use crate::frame::{ARP, LONGEST, OUTER, Template, Traffic, fill_arp};
use crate::order::{Flows, Order};
use crate::pace::{BATCH, Pace};
use crate::stamp::{Stamp, ticks_between};
use crate::tracker::{Arrival, Tracker};

/// What one trial is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    /// Tells its packets from those of the trial before.
    pub(crate) number: u8,
    /// Packets a second; `None` for as many as the port takes.
    pub(crate) pps: Option<f64>,
    /// For how long, at most.
    pub(crate) seconds: f64,
    /// How many frames, at most.
    pub(crate) count: u64,
    /// Silence after which no more packets are waited for, in seconds.
    pub(crate) settle: f64,
}

/// What a trial has counted. Packets are test packets where nothing else is said.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Seconds of sending; where nothing is sent, from the first packet to the last.
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) arp_sent: u64,
    /// Due, and not sent because the generator had lost the time.
    pub(crate) given_up: u64,
    /// How often the port took nothing.
    pub(crate) full: u64,
    /// Each counted once.
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) flows_with_loss: u64,
    pub(crate) duplicated: u64,
    /// After one of its flow that was sent later.
    pub(crate) reordered: u64,
    pub(crate) corrupted: u64,
    pub(crate) arp_received: u64,
    /// Frames of others, and of trials before.
    pub(crate) other: u64,
    /// Seconds without a packet while there was sending, at most.
    pub(crate) longest_gap: f64,
    /// Seconds in which the generator did not run, at most.
    pub(crate) longest_pause: f64,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// For whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// How traffic is ordered.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    pub(crate) order: Order,
    /// Sizes by number, in their order.
    pub(crate) sizes: Vec<u8>,
    /// Share of ARP requests among all frames.
    pub(crate) arp: f64,
    pub(crate) seed: u64,
}

/// The queues, and what is sent and received on them.
pub(crate) struct Engine {
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) tx: Option<EthTx>,
    pub(crate) rx: Option<EthRx>,
    pub(crate) pool: Mempool,
    pub(crate) live: Arc<Live>,
    pub(crate) stop: Arc<AtomicBool>,
    source: Source,
    tracker: Tracker,
    /// Bytes of a received chain.
    joined: Vec<u8>,
}

/// What makes packets.
struct Source {
    traffic: Arc<Traffic>,
    templates: Vec<Template>,
    mix: Mix,
    flows: Flows,
    next_size: usize,
    arp_owed: f64,
    /// The pair that asks next: flows keep their order, whatever is asked in between.
    next_asker: usize,
    longest: usize,
    /// Packets of each flow.
    sent_of: Box<[u32]>,
    /// Made and not yet taken by the port, and whose they are.
    pending: Burst,
    pending_flows: ArrayVec<Option<u32>, BURST>,
}

/// After so many seconds no packet is waited for any more, however many are still coming, unless a longer silence was asked for.
const LATEST: f64 = 5.0;
/// Latencies above it count as it, in nanoseconds.
const SLOWEST: u64 = 60_000_000_000;

/// A histogram for latencies, with all the memory that it will need.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, SLOWEST, 3).map_err(|error| anyhow!("no histogram of latencies: {error}"))
}

impl Engine {
    pub(crate) fn new(
        traffic: Arc<Traffic>,
        mix: Mix,
        (tx, rx): (Option<EthTx>, Option<EthRx>),
        pool: Mempool,
        live: Arc<Live>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let source = Source {
            templates: traffic.templates(),
            flows: Flows::new(mix.order, traffic.flows, mix.seed),
            mix,
            next_size: 0,
            arp_owed: 0.0,
            next_asker: 0,
            longest: traffic.longest().max(ARP),
            sent_of: vec![0; traffic.flows as usize].into(),
            pending: Burst::new(),
            pending_flows: ArrayVec::new(),
            traffic: Arc::clone(&traffic),
        };
        let tracker = Tracker::new(traffic.flows);
        Self { traffic, tx, rx, pool, live, stop, source, tracker, joined: vec![0; LONGEST + OUTER] }
    }

    /// One trial, from its first packet to the last that is waited for.
    pub(crate) fn run(&mut self, trial: &Trial) -> Result<Tally> {
        let mut tally = Tally::new()?;
        self.tracker.clear();
        self.source.sent_of.fill(0);
        let hz = tsc_hz() as f64;
        let ticks = |seconds: f64| (seconds * hz) as u64;
        let ns_per_tick = 1e9 / hz;
        self.drain();
        let start = tsc();
        let mut pace = Pace::new(trial.pps, hz, start);
        let end = start + ticks(trial.seconds);
        let (mut sending, mut stopped_at) = (self.tx.is_some(), start);
        let (mut first, mut last, mut before) = (None, start, start);
        let (mut burst, mut left) = (Burst::new(), trial.count);
        loop {
            let now = tsc();
            tally.longest_pause = tally.longest_pause.max(now.wrapping_sub(before) as f64 / hz);
            before = now;
            let over = now >= end || self.stop.load(Relaxed);
            if sending && (over || (left == 0 && self.source.pending.is_empty())) {
                sending = false;
                stopped_at = now;
                if self.rx.is_some() {
                    tally.note_gap(now.wrapping_sub(last), hz);
                }
                last = last.max(now);
            }
            if sending {
                if self.source.pending.is_empty() {
                    let due = pace.due(now).min(usize::try_from(left).unwrap_or(usize::MAX));
                    let made = self.source.make(due, trial.number, now, &self.pool);
                    tally.given_up += (due - made) as u64;
                    left -= made as u64;
                }
                self.send(&mut tally);
            }
            if let Some(rx) = &mut self.rx {
                if rx.rx(&mut burst) > 0 {
                    let at = tsc();
                    let ours = self.receive(&mut burst, trial.number, at, ns_per_tick, &mut tally);
                    if ours > 0 {
                        if sending || (self.tx.is_none() && first.is_some()) {
                            tally.note_gap(at.wrapping_sub(last), hz);
                        }
                        first.get_or_insert(at);
                        last = at;
                    }
                }
            }
            let done = match (&self.tx, &self.rx) {
                // What is still in a ring that is shared with the other end goes with the port.
                (Some(_), None) => !sending && now >= stopped_at + ticks(trial.settle),
                (Some(_), Some(_)) => {
                    let silent = now >= last + ticks(trial.settle)
                        || now >= stopped_at + ticks(trial.settle.max(LATEST));
                    !sending && (silent || tally.received == tally.sent)
                }
                (None, _) => over || (first.is_some() && now >= last + ticks(trial.settle)),
            };
            if done {
                break;
            }
        }
        self.source.take_back();
        tally.given_up += pace.given_up;
        tally.seconds = match self.tx {
            Some(_) => stopped_at.wrapping_sub(start) as f64 / hz,
            None => first.map_or(0.0, |first| last.wrapping_sub(first) as f64 / hz),
        };
        if self.rx.is_some() {
            let sent = self.tx.is_some().then_some(&self.source.sent_of[..]);
            (tally.lost, tally.flows_with_loss) = self.tracker.missing(sent);
        }
        Ok(tally)
    }

    /// Throws away what is left from before, such as a switch's first floods.
    fn drain(&mut self) {
        let (Some(rx), Some(_)) = (&mut self.rx, &self.tx) else { return };
        let mut burst = Burst::new();
        // A port that never runs dry is one that makes packets itself.
        for _ in 0..1000 {
            if rx.rx(&mut burst) == 0 {
                break;
            }
            Mbuf::free_burst(&mut burst);
        }
    }

    #[inline]
    fn send(&mut self, tally: &mut Tally) {
        let (Some(tx), source) = (&mut self.tx, &mut self.source) else { return };
        if source.pending.is_empty() {
            return;
        }
        let took = tx.tx(&mut source.pending);
        if took == 0 {
            tally.full += 1;
            return;
        }
        let packets = source.pending_flows.drain(..took).flatten().count() as u64;
        tally.sent += packets;
        tally.arp_sent += took as u64 - packets;
        self.live.sent.store(tally.sent, Relaxed);
    }

    /// Counts a burst and frees it; how many test packets it had.
    #[inline]
    fn receive(
        &mut self,
        burst: &mut Burst,
        trial: u8,
        at: u64,
        ns_per_tick: f64,
        tally: &mut Tally,
    ) -> usize {
        let mut stamps = ArrayVec::<Stamp, BURST>::new();
        burst.iter().for_each(Mbuf::prefetch);
        for packet in burst.iter() {
            let seen = if packet.segment_count() == 1 {
                look(&self.traffic, packet.head())
            } else {
                let len = packet.read_at(0, &mut self.joined);
                look(&self.traffic, &self.joined[..len])
            };
            match seen {
                Seen::Whole(stamp) if stamp.trial == trial => {
                    self.tracker.prefetch(stamp.flow);
                    stamps.push(stamp);
                }
                Seen::Damaged => tally.corrupted += 1,
                Seen::Arp => tally.arp_received += 1,
                Seen::Whole(_) | Seen::Other => tally.other += 1,
            }
        }
        Mbuf::free_burst(burst);
        for stamp in &stamps {
            match self.tracker.note(stamp.flow, stamp.seq) {
                Arrival::InOrder => tally.received += 1,
                Arrival::Late => {
                    tally.received += 1;
                    tally.reordered += 1;
                }
                Arrival::Again => {
                    tally.duplicated += 1;
                    continue;
                }
            }
            let ns = ticks_between(stamp.ticks, at) as f64 * ns_per_tick;
            tally.latency.saturating_record((ns as u64).max(1));
        }
        self.live.received.store(tally.received, Relaxed);
        stamps.len()
    }
}

impl Source {
    /// Makes so many packets, or none if there are no buffers.
    #[inline]
    fn make(&mut self, count: usize, trial: u8, now: u64, pool: &Mempool) -> usize {
        let count = pool.alloc_burst(self.longest, count.min(BATCH as usize), &mut self.pending);
        for packet in self.pending.iter_mut().take(count) {
            self.arp_owed += self.mix.arp;
            if self.arp_owed >= 1.0 {
                self.arp_owed -= 1.0;
                packet.truncate(ARP);
                if let Some(bytes) = packet.head_mut().first_chunk_mut() {
                    fill_arp(bytes, &self.traffic.pairs[self.next_asker]);
                }
                self.next_asker = (self.next_asker + 1) % self.traffic.pairs.len();
                self.pending_flows.push(None);
                continue;
            }
            let flow = self.flows.next();
            let (pair, src, dst) = self.traffic.flow(flow);
            let size = usize::from(self.mix.sizes[self.next_size]);
            self.next_size = if self.next_size + 1 == self.mix.sizes.len() { 0 } else { self.next_size + 1 };
            let template = &self.templates[pair * self.traffic.sizes.len() + size];
            if template.len() < self.longest {
                packet.truncate(template.len());
            }
            let seq = &mut self.sent_of[flow as usize];
            let stamp = Stamp { flow, trial, seq: *seq, ticks: now };
            *seq = seq.wrapping_add(1);
            template.fill(packet.head_mut(), (src, dst), &stamp, self.traffic.key);
            self.pending_flows.push(Some(flow));
        }
        count
    }

    /// What the port has not taken was not sent: the last of their flows.
    fn take_back(&mut self) {
        Mbuf::free_burst(&mut self.pending);
        for flow in self.pending_flows.drain(..).flatten() {
            let seq = &mut self.sent_of[flow as usize];
            *seq = seq.wrapping_sub(1);
        }
    }
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            seconds: 0.0,
            sent: 0,
            arp_sent: 0,
            given_up: 0,
            full: 0,
            received: 0,
            lost: 0,
            flows_with_loss: 0,
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            arp_received: 0,
            other: 0,
            longest_gap: 0.0,
            longest_pause: 0.0,
            latency: histogram()?,
        })
    }

    fn note_gap(&mut self, ticks: u64, hz: f64) {
        self.longest_gap = self.longest_gap.max(ticks as f64 / hz);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FCS;
    use crate::order::Sizes;
    use crate::plan::{Ranges, addresses, macs};
    use crate::ports::{Ports, Setup};
    use std::time::Duration;

    /// What a trial allocates it allocates at its beginning: however many packets follow, it is the same.
    #[test]
    fn nothing_is_allocated_for_a_packet() {
        let sizes: Sizes = "imix".parse().unwrap();
        let ranges = Ranges {
            src_mac: macs("02:00:00:00:00:01").unwrap(),
            dst_mac: macs("02:00:00:00:00:02+10").unwrap(),
            src: addresses("10.0.0.1").unwrap(),
            dst: addresses("10.0.1.1+10").unwrap(),
            tunnel: None,
        };
        let traffic = Arc::new(Traffic {
            flows: 1000,
            pairs: ranges.pairs().unwrap(),
            sizes: sizes.0.iter().map(|(size, _)| *size).collect(),
            port: 9000,
            vxlan_port: 8472,
            key: 1,
        });
        let setup = Setup {
            devices: vec!["net_ring0".to_owned()],
            buffers: 4096,
            descriptors: 1024,
            longest: 1464 - FCS,
            link_wait: Duration::from_secs(10),
            hugepages: false,
        };
        let (ports, tx, rx) = Ports::open(&setup).unwrap();
        let _registered = ports.eal.register_thread().unwrap();
        let mix = Mix { order: Order::Zipf(1.0), sizes: sizes.sequence(), arp: 0.1, seed: 1 };
        let queues = (Some(tx), Some(rx));
        let (pool, live, stop) = (ports.pool.clone(), Arc::default(), Arc::default());
        let mut engine = Engine::new(traffic, mix, queues, pool, live, stop);
        let mut allocated = Vec::new();
        for count in [64, 20_000, 50_000] {
            let trial = Trial { number: 0, pps: None, seconds: 60.0, count, settle: 5.0 };
            let mut tally = None;
            let seen = allocation_counter::measure(|| tally = engine.run(&trial).ok());
            let tally = tally.unwrap();
            assert_eq!((tally.received, tally.lost, tally.corrupted), (tally.sent, 0, 0));
            assert_eq!((tally.arp_received, tally.arp_sent + tally.sent), (tally.arp_sent, count));
            allocated.push(seen.count_total);
        }
        assert!(allocated.iter().all(|count| *count == allocated[0] && *count < 10), "{allocated:?}");
    }
}
