//! One burst, all the way: rx, parse, look up and classify, merge, apply, tx. This is the order of the stages.

use arrayvec::ArrayVec;
use weft_sync::prefetch::prefetch_bytes;

use super::learn::learn;
use super::merge::merge;
use super::outbox::Outbox;
use super::sample::sample;
use super::{Buf, HANDOVER, Platform, Worker};
use crate::apply::{Applier, Outcome};
use crate::classify::{Action, Ingress, LastHits, classify, classify_tunnel};
use crate::drop_reason::DropReason;
use crate::packet::PacketBuf;
use crate::parse::{HEADERS, L3, Outer, Parsed, parse, parse_tunnel, too_big};
use crate::port::{BURST, Burst, RxLoss, RxQueue};
use crate::stations::{Stations, seconds};
use crate::tables::{Role, Snapshot};
use crate::types::{MacAddr, PortId};

/// What the stages before apply have found out about a frame.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) parsed: Parsed,
    outer: Option<Outer>,
    pub(super) action: Action,
}

/// Stands in for what could not be parsed; its action is a drop.
const UNREAD: Parsed =
    Parsed { l2: 0, len: 0, dst: MacAddr::ZERO, src: MacAddr::ZERO, tags: 0, priority: false, l3: L3::Other };

impl<P: Platform> Worker<P> {
    /// Takes one burst from this port's receive queue; how many frames it had.
    pub(super) fn poll(&mut self, from: PortId) -> usize {
        let Self {
            snapshot,
            pool,
            rx,
            outbox,
            counters,
            frames,
            ident,
            now,
            events,
            sampling,
            until_sample,
            stations,
            questions,
            ..
        } = self;
        let Some(slot) = rx.get_mut(from) else { return 0 };
        let loss = slot.queue.rx(pool, frames);
        let lost = count_loss(loss, outbox);
        let received = frames.len() + lost;
        if received == 0 {
            slot.empty = slot.empty.saturating_add(1);
            return 0;
        }
        slot.empty = 0;
        let port_counters = counters.port(from);
        counters.bursts.add(1);
        counters.rx.add(received as u64);
        port_counters.rx_packets.add(received as u64);
        port_counters.rx_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());

        let tables = snapshot.load();
        let second = seconds(*now);
        let mut reads = read_burst(tables, stations, second, from, frames);
        if tables.ports.get(from).is_some_and(|port| matches!(port.role, Role::Trusted)) {
            learn(
                tables,
                stations,
                second,
                from,
                &reads,
                &mut |limit| slot.buckets.moves.take(limit, *now),
                counters,
            );
        }
        let one_in = sampling.one_in();
        if one_in > 0 {
            sample(one_in, until_sample, from, &reads, events, counters);
        }
        let failed = merge(outbox.takes(), frames, &mut reads, counters);
        let mut applier = Applier {
            tables,
            pool,
            ident,
            from,
            now: *now,
            buckets: &mut slot.buckets,
            questions,
            counters,
            events,
        };
        let mut ends = Ends {
            tables,
            outbox,
            dropped: (lost + failed) as u64,
            is_dropped: false,
            consumed: 0,
            originated: 0,
        };
        apply_burst(&mut applier, frames, &reads, &mut ends);
        port_counters.rx_drops.add(ends.dropped);
        counters.consumed.add(ends.consumed);
        counters.originated.add(ends.originated);
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
    ] {
        outbox.drop(reason, count as usize);
        lost += count as usize;
    }
    lost
}

/// Parses and classifies every frame. Only reads.
#[inline]
fn read_burst<B: PacketBuf>(
    tables: &Snapshot,
    stations: &Stations,
    now: u32,
    from: PortId,
    frames: &mut Burst<B>,
) -> ArrayVec<Read, BURST> {
    for frame in frames.iter_mut() {
        let have = frame.head().len();
        if have < HEADERS && have < frame.len() {
            let want = HEADERS.min(frame.len());
            // Where the first segment has no room for them, parse finds what is missing.
            frame.pull_up(want);
        }
        prefetch_bytes(frame.head());
    }
    let Some(port) = tables.ports.get(from) else {
        let unknown = Read { parsed: UNREAD, outer: None, action: Action::Drop(DropReason::RxPortUnknown) };
        return frames.iter().map(|_| unknown).collect();
    };
    let ingress = Ingress { id: from, port, stations, now };
    let mut last = LastHits::default();
    if matches!(port.role, Role::Uplink) {
        frames.iter().map(|frame| read_tunnel(tables, &mut last, &ingress, frame)).collect()
    } else {
        frames.iter().map(|frame| read_plain(tables, &mut last, &ingress, frame)).collect()
    }
}

#[inline]
fn read_plain<B: PacketBuf>(tables: &Snapshot, last: &mut LastHits, from: &Ingress<'_>, frame: &B) -> Read {
    match parse(frame.head(), frame.len(), 0) {
        Ok(parsed) => {
            let action = classify(tables, last, from, frame.head(), &parsed, frame.offload().gso);
            Read { parsed, outer: None, action }
        }
        Err(reason) => Read { parsed: UNREAD, outer: None, action: Action::Drop(reason) },
    }
}

#[inline]
fn read_tunnel<B: PacketBuf>(tables: &Snapshot, last: &mut LastHits, from: &Ingress<'_>, frame: &B) -> Read {
    match parse_tunnel(frame, tables) {
        Ok((parsed, outer)) => {
            let gso = frame.offload().gso;
            let action = classify_tunnel(tables, last, from, frame.head(), &parsed, &outer, gso);
            Read { parsed, outer: Some(outer), action }
        }
        Err(DropReason::NotTunnel) => Read { parsed: UNREAD, outer: None, action: not_tunnel(tables, frame) },
        Err(reason) => Read { parsed: UNREAD, outer: None, action: Action::Drop(reason) },
    }
}

/// No tunnel packet, but what a router says about one may be.
#[cold]
fn not_tunnel<B: PacketBuf>(tables: &Snapshot, frame: &B) -> Action {
    match too_big(frame, tables) {
        Some(_) => Action::PathMtu,
        None => Action::Drop(DropReason::NotTunnel),
    }
}

#[inline]
fn apply_burst<P: Platform>(
    applier: &mut Applier<'_, P::Pool>,
    frames: &mut Burst<Buf<P>>,
    reads: &[Read],
    ends: &mut Ends<'_, P>,
) {
    for (frame, read) in frames.drain(..).zip(reads) {
        ends.is_dropped = false;
        applier.apply(frame, &read.parsed, read.outer.as_ref(), read.action, ends);
    }
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
    #[inline]
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
