//! One burst, all the way: rx, parse, look up and classify, merge, apply, tx. This is the order of the stages.

use arrayvec::ArrayVec;

use super::learn::learn;
use super::merge::merge;
use super::outbox::Outbox;
use super::pin::heed_pins;
use super::read::{Read, read_burst};
use super::sample::sample;
use super::{Buf, HANDOVER, Platform, Worker};
use crate::apply::{Applier, Outcome};
use crate::drop_reason::DropReason;
use crate::packet::{BufPool, PacketBuf};
use crate::port::{BURST, Burst, RxLoss, RxQueue};
use crate::stations::seconds;
use crate::tables::{Role, Snapshot};
use crate::types::PortId;

impl<P: Platform> Worker<P> {
    /// Takes one burst from this port's receive queue; how many frames it had. `next`: the port after it.
    pub(super) fn poll(&mut self, from: PortId, next: Option<PortId>) -> usize {
        let Self {
            snapshot,
            pool,
            rx,
            outbox,
            counters,
            frames,
            notes,
            ident,
            now,
            events,
            sampling,
            until_sample,
            stations,
            pins,
            questions,
            accounts,
            ticks,
            ..
        } = self;
        let Some(slot) = rx.get_mut(from) else { return 0 };
        let mut is_shut = false;
        let loss = match &mut slot.gate {
            None => slot.queue.rx(pool, frames),
            Some(gate) => {
                let loss = gate.rx(&mut slot.queue, pool, frames, &accounts.of(from).from, *ticks);
                is_shut = gate.is_shut();
                counters.port(from).paused.add(is_shut.into());
                if gate.is_over() {
                    slot.gate = None;
                }
                loss
            }
        };
        let lost = count_loss(loss, outbox);
        let received = frames.len() + lost;
        if received == 0 {
            slot.empty = slot.empty.saturating_add(1);
            if is_shut {
                rx.note_shut(from, *ticks);
            }
            return 0;
        }
        slot.empty = 0;
        if let Some(to) = slot.together {
            outbox.expect(to);
        }
        let port_counters = counters.port(from);
        counters.bursts.add(1);
        counters.rx.add(received as u64);
        port_counters.rx_packets.add(received as u64);

        let tables = snapshot.load();
        let second = seconds(*now);
        let (reads, bytes) = read_burst(tables, stations, second, from, frames, notes);
        port_counters.rx_bytes.add(bytes);
        heed_pins(tables, pins, second, from, (frames, &mut *reads), counters);
        if tables.ports.get(from).is_some_and(|port| matches!(port.role, Role::Trusted)) {
            learn(
                tables,
                stations,
                second,
                from,
                (frames, reads),
                &mut |limit| slot.buckets.moves.take(limit, *now),
                counters,
            );
        }
        let one_in = sampling.one_in();
        if one_in > 0 {
            sample(one_in, until_sample, from, (frames, reads), events, counters);
        }
        let mut applier = Applier {
            tables,
            vteps: &tables.vteps,
            pool,
            ident,
            from,
            now: *now,
            buckets: &mut slot.buckets,
            questions,
            counters,
            events,
        };
        let together = way_of_all(&applier, frames, reads);
        // What leaves as it came needs no look at each whether it could be merged.
        let failed = match together {
            Some(to) if outbox.takes().of(to).is_none() => 0,
            _ => merge(outbox.takes(), frames, reads, counters),
        };
        let mut ends = Ends {
            tables,
            outbox,
            dropped: (lost + failed) as u64,
            is_dropped: false,
            consumed: 0,
            originated: 0,
        };
        apply_burst(&mut applier, frames, reads, together, &mut ends);
        slot.together = together;
        if is_shut {
            rx.note_shut(from, *ticks);
        }
        port_counters.rx_drops.add(ends.dropped);
        counters.consumed.add(ends.consumed);
        counters.originated.add(ends.originated);
        if let Some(next) = next.and_then(|port| rx.get_mut(port)) {
            next.queue.expect();
        }
        outbox.flush(pool);
        received
    }

    /// Sends what other workers have handed over; how many packets that was.
    pub(super) fn take_in(&mut self) -> usize {
        let Self { inboxes, outbox, pool, .. } = self;
        let mut taken = 0;
        for inbox in inboxes {
            let mut bytes = 0;
            taken += inbox.ring.pop_into(BURST, |(to, packet)| {
                bytes += packet.len() as u64;
                outbox.stage(pool, to, packet);
            });
            inbox.taken.add(bytes);
        }
        if taken > 0 {
            outbox.flush(pool);
        }
        taken
    }

    /// Sends all that the other workers had handed over when this was called. The port that is then taken away, and
    /// whichever has its number next, gets nothing out of the rings that was meant for another.
    pub(super) fn empty_inboxes(&mut self) {
        // One round more than a full ring is bursts: the first can be short, as far as the consumer knew before.
        for _ in 0..=HANDOVER / BURST {
            if self.take_in() == 0 {
                break;
            }
        }
    }
}

/// Counts what a driver had to give up; how many frames that was.
fn count_loss<P: Platform>(loss: RxLoss, outbox: &Outbox<P>) -> usize {
    if loss == RxLoss::default() {
        return 0;
    }
    let mut lost = 0;
    for (count, reason) in [
        (loss.no_buffer, DropReason::RxNoBuffer),
        (loss.bad_offload, DropReason::RxBadOffload),
        (loss.too_long, DropReason::RxTooLong),
        (loss.malformed, DropReason::RxMalformed),
        (loss.missed, DropReason::RxMissed),
        (loss.expired, DropReason::TunnelTtl),
        (loss.congested, DropReason::EcnIllegal),
    ] {
        outbox.drop(reason, count as usize);
        lost += count as usize;
    }
    lost
}

/// Carries all out; `together`: the way of all, if there is one.
#[inline]
fn apply_burst<P: Platform>(
    applier: &mut Applier<'_, P::Pool>,
    frames: &mut Burst<Buf<P>>,
    reads: &[Read],
    together: Option<PortId>,
    ends: &mut Ends<'_, P>,
) {
    let Some(to) = together else {
        for (frame, read) in frames.drain(..).zip(reads) {
            ends.is_dropped = false;
            applier.apply(frame, &read.brief, read.action, ends);
        }
        return;
    };
    let mut lost = ArrayVec::<_, BURST>::new();
    for (index, (frame, read)) in frames.iter_mut().zip(reads).enumerate() {
        if let Err(reason) = applier.change(frame, &read.brief, read.action) {
            lost.push((index, reason));
        }
    }
    for (index, reason) in lost.into_iter().rev() {
        frames.remove(index);
        ends.is_dropped = false;
        ends.drop(reason);
    }
    ends.outbox.send_all(applier.tables, applier.pool, to, frames);
}

/// The one port that all frames of a burst leave by, each as one packet: then none has to be moved by itself.
#[inline]
fn way_of_all<P: BufPool>(
    applier: &Applier<'_, P>,
    frames: &Burst<P::Buf>,
    reads: &[Read],
) -> Option<PortId> {
    let mut all = frames.iter().zip(reads);
    let mut next = || all.next().map(|(frame, read)| applier.way_out(frame, &read.brief, read.action));
    let first = next()??;
    while let Some(way) = next() {
        if way != Some(first) {
            return None;
        }
    }
    Some(first)
}

/// Where a burst's packets end: in the outbox or in the counters.
struct Ends<'a, P: Platform> {
    tables: &'a Snapshot,
    outbox: &'a mut Outbox<P>,
    /// Frames of which something was dropped.
    dropped: u64,
    /// The present frame is among them: it came in once, however many pieces it has become.
    is_dropped: bool,
    consumed: u64,
    originated: u64,
}

impl<P: Platform> Outcome<P::Pool> for Ends<'_, P> {
    #[inline(always)]
    fn send(&mut self, pool: &mut P::Pool, to: PortId, packet: Buf<P>) {
        self.outbox.send(self.tables, pool, to, packet);
    }
    fn drop(&mut self, reason: DropReason) {
        self.outbox.drop(reason, 1);
        self.dropped += u64::from(!self.is_dropped);
        self.is_dropped = true;
    }
    fn drop_copy(&mut self, to: PortId, reason: DropReason) {
        self.outbox.drop_for(to, reason);
    }
    fn consume(&mut self) {
        self.consumed += 1;
    }
    fn originate(&mut self, count: usize) {
        self.originated += count as u64;
    }
}
