//! Output of a worker: grouped by port, sent once a burst; handed over where another worker owns the queue.

use std::sync::Arc;

use super::pace::{Accounts, BATCH, Shaper, is_due, until};
use super::takes::Takes;
use super::{Buf, HANDOVER_BYTES, Platform, Road, Wake};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::offload::finish::{finish, takes};
use crate::offload::is_too_many;
use crate::packet::PacketBuf;
use crate::port::{Burst, TxCaps, TxLoss, TxQueue};
use crate::tables::{Place, Rate, Snapshot};
use crate::types::{MAX_PORTS, PortId};

struct TxSlot<P: Platform> {
    queue: P::Tx,
    staged: Burst<Buf<P>>,
    /// What the other workers have been told that the queue takes.
    told: TxCaps,
    /// The limit of what may be sent.
    shaper: Option<Box<Shaper<Buf<P>>>>,
}

/// What waits for the limits of ports.
struct Delay {
    accounts: Accounts,
    /// As of the round, in ticks.
    now: u64,
    /// The ports that frames wait for.
    ports: Vec<PortId>,
    /// When the first of those frames may go, or earlier.
    next: u64,
    /// Bytes of buffers that they hold.
    held: u64,
}

pub(super) struct Outbox<P: Platform> {
    index: u16,
    /// By port number.
    slots: Vec<Option<Box<TxSlot<P>>>>,
    /// Ports with something staged.
    touched: Vec<PortId>,
    /// The port that was sent to last in this burst, if its queue is this worker's.
    last: Option<PortId>,
    /// By worker number; `None` at this worker's own.
    roads: Vec<Option<Road<P>>>,
    counters: Arc<WorkerCounters>,
    takes: Takes,
    delay: Delay,
}

impl<P: Platform> Outbox<P> {
    pub(super) fn new(
        index: u16,
        roads: Vec<Option<Road<P>>>,
        counters: Arc<WorkerCounters>,
        takes: Takes,
        accounts: Accounts,
    ) -> Self {
        let slots = (0..MAX_PORTS).map(|_| None).collect();
        let (touched, ports) = (Vec::with_capacity(MAX_PORTS), Vec::with_capacity(MAX_PORTS));
        let delay = Delay { accounts, now: 0, ports, next: 0, held: 0 };
        Self { index, slots, touched, last: None, roads, counters, takes, delay }
    }

    /// What the ports take, as far as it is known.
    #[inline]
    pub(super) fn takes(&self) -> &Takes {
        &self.takes
    }

    pub(super) fn add(&mut self, port: PortId, queue: P::Tx) {
        drop(self.remove(port));
        let told = queue.caps();
        self.takes.set(port, told);
        let slot = TxSlot { queue, staged: Burst::new(), told, shaper: None };
        self.slots[port.index()] = Some(Box::new(slot));
    }

    pub(super) fn remove(&mut self, port: PortId) -> Option<P::Tx> {
        self.takes.set(port, TxCaps::NONE);
        let slot = self.slots[port.index()].take()?;
        if let Some(shaper) = slot.shaper.as_deref().filter(|shaper| shaper.len() > 0) {
            self.drop(DropReason::TxPortGone, shaper.len());
            self.counters.port(port).tx_drops.add(shaper.len() as u64);
            self.delay.held = self.delay.held.saturating_sub(shaper.held());
            self.delay.ports.retain(|other| *other != port);
        }
        Some(slot.queue)
    }

    /// Sets the limit of what is sent to a port.
    pub(super) fn limit(&mut self, port: PortId, rate: Option<Rate>) {
        let Some(slot) = &mut self.slots[port.index()] else { return };
        let Delay { now, next, .. } = &mut self.delay;
        match (&mut slot.shaper, rate) {
            (None, None) => {}
            (None, Some(rate)) => {
                slot.shaper = Some(Box::new(Shaper::new(rate, *now)));
            }
            (Some(shaper), rate) => shaper.set(rate, *now),
        }
        *next = *now;
        if slot.shaper.as_deref().is_some_and(Shaper::is_over) {
            slot.shaper = None;
        }
    }

    /// What time it is, in ticks.
    #[inline]
    pub(super) fn set_time(&mut self, now: u64) {
        self.delay.now = now;
    }

    /// Sends what has waited for a port's limit for long enough; how many frames that was. To be called between bursts.
    #[inline]
    pub(super) fn release(&mut self, pool: &mut P::Pool) -> usize {
        let Delay { ports, next, now, .. } = &self.delay;
        if ports.is_empty() || !is_due(*next, *now) { 0 } else { self.release_due(pool) }
    }

    fn release_due(&mut self, pool: &mut P::Pool) -> usize {
        let Self { slots, delay, counters, takes, .. } = self;
        let Delay { accounts, now, ports, next, held } = delay;
        let (mut released, mut first) = (0, u64::MAX);
        ports.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            let Some(shaper) = &mut slot.shaper else { return false };
            shaper.release(&mut slot.staged, &accounts.of(*port).to, *now, held);
            let (waits, is_over) = (shaper.len() > 0, shaper.is_over());
            if waits {
                first = first.min(until(shaper.due(), *now));
            }
            released += slot.staged.len();
            if !slot.staged.is_empty() {
                send(slot, pool, *port, counters, takes);
            }
            if is_over {
                slot.shaper = None;
            }
            waits
        });
        *next = now.wrapping_add(first);
        released
    }

    /// How long a worker that has nothing else to do may sleep while frames wait, in ticks.
    pub(super) fn wait(&self) -> Option<u64> {
        let Delay { ports, next, now, .. } = &self.delay;
        (!ports.is_empty()).then(|| until(*next, *now).saturating_add(BATCH))
    }

    /// One frame less, for `reason`.
    pub(super) fn drop(&self, reason: DropReason, count: usize) {
        self.counters.drops(reason).add(count as u64);
    }

    /// One frame less for this port, for `reason`.
    pub(super) fn drop_for(&self, to: PortId, reason: DropReason) {
        self.counters.drops(reason).add(1);
        self.counters.port(to).tx_drops.add(1);
    }

    /// To be sent with the burst, by whichever worker has the port's queue.
    #[inline(always)]
    pub(super) fn send(&mut self, tables: &Snapshot, pool: &mut P::Pool, to: PortId, packet: Buf<P>) {
        if self.last != Some(to) {
            match tables.ports.get(to).map(|port| port.place) {
                Some(Place::Worker(worker)) if worker != self.index => {
                    return self.hand_over(worker, to, packet);
                }
                Some(_) => self.last = Some(to),
                None => return self.drop(DropReason::TxPortGone, 1),
            }
        }
        self.stage(pool, to, packet);
    }

    /// Something will probably be sent to the port in a moment.
    #[inline]
    pub(super) fn expect(&self, to: PortId) {
        if let Some(slot) = &self.slots[to.index()] {
            slot.queue.expect();
        }
    }

    /// As [`Self::send`] with every frame of the burst, in one piece where that can be.
    #[inline]
    pub(super) fn send_all(
        &mut self,
        tables: &Snapshot,
        pool: &mut P::Pool,
        to: PortId,
        frames: &mut Burst<Buf<P>>,
    ) {
        let place = tables.ports.get(to).map(|port| port.place);
        let here = place.is_some_and(|place| !matches!(place, Place::Worker(other) if other != self.index));
        match &mut self.slots[to.index()] {
            Some(slot) if here && slot.staged.is_empty() => {
                std::mem::swap(&mut slot.staged, frames);
                flush(slot, pool, to, &self.counters, &self.takes, &mut self.delay);
            }
            _ => frames.drain(..).for_each(|packet| self.send(tables, pool, to, packet)),
        }
    }

    fn hand_over(&mut self, worker: u16, to: PortId, packet: Buf<P>) {
        let Some(road) = self.roads.get_mut(usize::from(worker)).and_then(Option::as_mut) else {
            return self.drop(DropReason::TxPortGone, 1);
        };
        road.staged.push((to, packet));
        if road.staged.is_full() {
            hand_over(road, &self.counters);
        }
    }

    /// To be sent with the burst, by this worker.
    #[inline]
    pub(super) fn stage(&mut self, pool: &mut P::Pool, to: PortId, packet: Buf<P>) {
        let Some(slot) = &mut self.slots[to.index()] else {
            self.counters.port(to).tx_drops.add(1);
            return self.drop(DropReason::TxPortGone, 1);
        };
        if slot.staged.is_empty() {
            slot.queue.expect();
            self.touched.push(to);
        }
        slot.staged.push(packet);
        if slot.staged.is_full() {
            flush(slot, pool, to, &self.counters, &self.takes, &mut self.delay);
            self.touched.retain(|port| *port != to);
        }
    }

    /// Sends all that is staged, and wakes the workers that were handed something.
    #[inline]
    pub(super) fn flush(&mut self, pool: &mut P::Pool) {
        self.last = None;
        for to in self.touched.drain(..) {
            if let Some(slot) = &mut self.slots[to.index()] {
                flush(slot, pool, to, &self.counters, &self.takes, &mut self.delay);
            }
        }
        for road in self.roads.iter_mut().flatten() {
            if !road.staged.is_empty() {
                hand_over(road, &self.counters);
            }
        }
    }
}

/// Puts what is staged into the ring at once, and drops what has no room there.
fn hand_over<P: Platform>(road: &mut Road<P>, counters: &WorkerCounters) {
    let room = road.ring.room(road.staged.len());
    let mut fits = 0;
    // As far as it is known: what is taken out at this moment may count a little longer.
    let most = road.taken.get().wrapping_add(HANDOVER_BYTES);
    for (_, packet) in road.staged.iter().take(room) {
        let given = road.given.wrapping_add(packet.len() as u64);
        if most.wrapping_sub(given) > HANDOVER_BYTES {
            break;
        }
        (road.given, fits) = (given, fits + 1);
    }
    let pushed = road.ring.push_from(&mut road.staged.drain(..fits));
    counters.handed_over.add(pushed as u64);
    for (to, _) in road.staged.drain(..) {
        counters.drops(DropReason::HandoverFull).add(1);
        counters.port(to).tx_drops.add(1);
    }
    if road.sleeping.must_wake() {
        road.waker.wake();
    }
}

fn flush<P: Platform>(
    slot: &mut TxSlot<P>,
    pool: &mut P::Pool,
    to: PortId,
    counters: &WorkerCounters,
    tell: &Takes,
    delay: &mut Delay,
) {
    if let Some(shaper) = &mut slot.shaper {
        hold_back(shaper, &mut slot.staged, to, counters, delay);
        if slot.staged.is_empty() {
            return;
        }
    }
    send(slot, pool, to, counters, tell);
}

/// Leaves of a burst what may go now. What may not waits, or is dropped where enough waits.
fn hold_back<B: PacketBuf>(
    shaper: &mut Shaper<B>,
    burst: &mut Burst<B>,
    to: PortId,
    counters: &WorkerCounters,
    delay: &mut Delay,
) {
    let Delay { accounts, now, ports, next, held } = delay;
    let (account, port) = (&accounts.of(to).to, counters.port(to));
    let (mut ready, waited) = (Burst::new(), shaper.len() > 0);
    for frame in burst.drain(..) {
        if is_too_many(&frame) {
            counters.drops(DropReason::GsoMalformed).add(1);
            port.tx_drops.add(1);
        } else if shaper.passes(&frame, account, *now) {
            ready.push(frame);
        } else if shaper.push(frame, held).is_ok() {
            port.delayed.add(1);
        } else {
            counters.drops(DropReason::RateLimited).add(1);
            port.tx_drops.add(1);
        }
    }
    *burst = ready;
    if !waited && shaper.len() > 0 {
        ports.push(to);
        *next = *now;
    }
}

fn send<P: Platform>(
    slot: &mut TxSlot<P>,
    pool: &mut P::Pool,
    to: PortId,
    counters: &WorkerCounters,
    tell: &Takes,
) {
    let caps = slot.queue.caps();
    if caps != slot.told {
        slot.told = caps;
        tell.set(to, caps);
    }
    let load = measure(&slot.staged);
    if load.plain || slot.staged.iter().all(|packet| packet.is_plain() || takes(caps, packet)) {
        transmit(&mut slot.queue, &mut slot.staged, load, to, counters);
    } else {
        finish_and_transmit(slot, caps, pool, to, counters);
    }
}

/// Some frames are not what the far side takes: finishes these in software, in order with the others.
#[cold]
fn finish_and_transmit<P: Platform>(
    slot: &mut TxSlot<P>,
    caps: TxCaps,
    pool: &mut P::Pool,
    to: PortId,
    counters: &WorkerCounters,
) {
    let TxSlot { queue, staged, .. } = slot;
    let mut ready = Burst::new();
    for packet in staged.drain(..) {
        let finished = finish(pool, packet, caps, |_, piece| {
            ready.push(piece);
            if ready.is_full() {
                let load = measure(&ready);
                transmit(queue, &mut ready, load, to, counters);
            }
        });
        // One frame came; what ended is what was given out, and the rest that was given up as one.
        let ends = match finished {
            Ok(given) => given,
            Err(unfinished) => {
                counters.drops(unfinished.reason).add(1);
                counters.port(to).tx_drops.add(1);
                unfinished.given + 1
            }
        };
        counters.originated.add(ends.saturating_sub(1) as u64);
    }
    let load = measure(&ready);
    transmit(queue, &mut ready, load, to, counters);
}

/// What a burst has in it.
#[derive(Clone, Copy)]
struct Load {
    packets: u64,
    bytes: u64,
    /// Nothing is left to be done about any packet.
    plain: bool,
}

#[inline]
fn measure<B: PacketBuf>(burst: &Burst<B>) -> Load {
    let mut load = Load { packets: burst.len() as u64, bytes: 0, plain: true };
    for packet in burst {
        load.bytes += packet.len() as u64;
        load.plain &= packet.is_plain();
    }
    load
}

/// Sends, counts, and drops what the port did not take.
fn transmit<Q: TxQueue<Pool>, Pool: crate::packet::BufPool>(
    queue: &mut Q,
    burst: &mut Burst<Pool::Buf>,
    load: Load,
    to: PortId,
    counters: &WorkerCounters,
) {
    queue.tx(burst);
    // Nothing, nearly always.
    let left = measure(burst);
    counters.tx.add(load.packets - left.packets);
    let port = counters.port(to);
    port.tx_packets.add(load.packets - left.packets);
    port.tx_bytes.add(load.bytes - left.bytes);
    let left = left.packets;
    if left > 0 {
        let TxLoss { refused, unreachable, too_long, expired } = queue.take_loss();
        let known = [
            (DropReason::TxRefused, refused),
            (DropReason::TxUnreachable, unreachable),
            (DropReason::TxTooLong, too_long),
            (DropReason::TunnelTtl, expired),
        ];
        let mut not_taken = left;
        for (reason, count) in known {
            let count = u64::from(count).min(not_taken);
            counters.drops(reason).add(count);
            not_taken -= count;
        }
        counters.drops(DropReason::TxNotTaken).add(not_taken);
        port.tx_drops.add(left);
        burst.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{HeapBuf, HeapPool};

    /// Takes nothing, and says so much about why.
    struct Full(TxLoss);

    impl TxQueue<HeapPool> for Full {
        fn caps(&self) -> TxCaps {
            TxCaps::NONE
        }
        fn tx(&mut self, _burst: &mut Burst<HeapBuf>) {}
        fn take_loss(&mut self) -> TxLoss {
            self.0
        }
    }

    #[test]
    fn what_is_left_is_counted_once_by_its_reason() {
        let reasons = [
            DropReason::TxRefused,
            DropReason::TxUnreachable,
            DropReason::TxTooLong,
            DropReason::TunnelTtl,
            DropReason::TxNotTaken,
        ];
        for (loss, expected) in [
            (TxLoss::default(), [0, 0, 0, 0, 6]),
            (TxLoss { refused: 1, unreachable: 2, too_long: 1, expired: 1 }, [1, 2, 1, 1, 1]),
            // Never more than there were.
            (TxLoss { refused: 4, unreachable: 4, too_long: 4, expired: 4 }, [4, 2, 0, 0, 0]),
        ] {
            let counters = WorkerCounters::default();
            let port = PortId::new(1).expect("a number");
            let mut burst: Burst<HeapBuf> = (0..6).map(|_| HeapBuf::from_bytes(&[0; 60])).collect();
            let load = measure(&burst);
            transmit::<_, HeapPool>(&mut Full(loss), &mut burst, load, port, &counters);
            assert_eq!(reasons.map(|reason| counters.drops(reason).get()), expected);
            assert_eq!((counters.tx.get(), counters.port(port).tx_drops.get(), burst.len()), (0, 6, 0));
        }
    }
}
