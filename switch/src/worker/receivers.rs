//! A worker's receive queues: which are polled in every round, and which are armed and tell by their descriptor.
//!
//! A round costs what the polled ones cost, however many are armed; an event finds its queue by the port's number.

use super::pace::{Gate, is_due, until};
use super::{Buf, Platform, Sleeper};
use crate::limits::Buckets;
use crate::port::{Armed, RxQueue};
use crate::tables::Rate;
use crate::types::{MAX_PORTS, PortId};

pub(super) struct RxSlot<P: Platform> {
    pub(super) queue: P::Rx,
    /// It has a descriptor, which is with the sleeper.
    told: bool,
    /// The worker can sleep: the descriptor will tell of frames.
    waits: bool,
    /// Polled in every round; otherwise it is armed and its descriptor says when it has something.
    active: bool,
    /// Rounds without a frame.
    pub(super) empty: u8,
    /// Where its last burst was sent as a whole: the next one probably is, too.
    pub(super) together: Option<PortId>,
    /// What this port has left of what is limited.
    pub(super) buckets: Buckets,
    /// The limit of what may come from it.
    pub(super) gate: Option<Box<Gate<Buf<P>>>>,
    /// It is in [`Receivers::shut`], and so not polled.
    shut: bool,
}

pub(super) struct Receivers<P: Platform> {
    /// By port number.
    slots: Vec<Option<Box<RxSlot<P>>>>,
    /// The ports that are polled.
    active: Vec<PortId>,
    /// Where in `active` the round begins: where ways out are full, each is the first in its turn.
    first: usize,
    /// The ports that have brought as much as their limits allow for now.
    shut: Vec<PortId>,
    /// When the first of them may bring more, in ticks, or earlier.
    next: u64,
    /// Those whose descriptors have been taken from the sleeper, since they would wake it for what is not taken.
    hidden: Vec<PortId>,
}

impl<P: Platform> Receivers<P> {
    pub(super) fn new() -> Self {
        let slots = (0..MAX_PORTS).map(|_| None).collect();
        let ports = || Vec::with_capacity(MAX_PORTS);
        Self { slots, active: ports(), first: 0, shut: ports(), next: 0, hidden: ports() }
    }

    /// Takes a queue, to be polled until it has been empty for a while. `told`: its descriptor is with the sleeper.
    pub(super) fn add(&mut self, port: PortId, queue: P::Rx, told: bool) {
        let buckets = Buckets::default();
        let (gate, shut) = (None, false);
        let slot =
            RxSlot { queue, told, waits: told, active: true, empty: 0, together: None, buckets, gate, shut };
        self.remove(port);
        self.slots[port.index()] = Some(Box::new(slot));
        self.active.push(port);
    }

    pub(super) fn remove(&mut self, port: PortId) -> Option<P::Rx> {
        let slot = self.slots[port.index()].take()?;
        self.leave(port);
        Some(slot.queue)
    }

    fn leave(&mut self, port: PortId) {
        for ports in [&mut self.active, &mut self.shut, &mut self.hidden] {
            ports.retain(|other| *other != port);
        }
        self.first = 0;
    }

    /// Frames that came from the port and wait for its limit.
    pub(super) fn held(&self, port: PortId) -> usize {
        let slot = self.slots[port.index()].as_deref();
        slot.and_then(|slot| slot.gate.as_deref()).map_or(0, Gate::len)
    }

    /// Sets the limit of what comes from a port.
    pub(super) fn limit(&mut self, port: PortId, rate: Option<Rate>, now: u64) {
        let Some(slot) = self.slots[port.index()].as_deref_mut() else { return };
        match (&mut slot.gate, rate) {
            (None, None) => {}
            (None, Some(rate)) => slot.gate = Some(Box::new(Gate::new(rate, now))),
            (Some(gate), rate) => gate.set(rate, now),
        }
        self.next = now;
        if slot.gate.as_deref().is_some_and(|gate| gate.is_over() && !slot.shut) {
            slot.gate = None;
        }
    }

    /// Has the ports rest that have brought as much as they may, and those polled again that may bring more. To be called
    /// between rounds.
    #[inline]
    pub(super) fn heed_limits(&mut self, now: u64) {
        if !self.shut.is_empty() && is_due(self.next, now) {
            self.open_due(now);
        }
    }

    fn open_due(&mut self, now: u64) {
        let Self { slots, active, shut, next, .. } = self;
        let mut first = u64::MAX;
        shut.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            let open = slot.gate.as_deref_mut().is_none_or(|gate| {
                let open = gate.open(now);
                if !open {
                    first = first.min(until(gate.due(), now));
                }
                open
            });
            if open && slot.shut {
                slot.shut = false;
                (slot.active, slot.empty) = (true, 0);
                active.push(*port);
            } else if !open && !slot.shut {
                slot.shut = true;
                slot.active = false;
                active.retain(|active| active != port);
            }
            !open
        });
        *next = now.wrapping_add(first);
        self.first = if self.first < self.active.len() { self.first } else { 0 };
    }

    /// The port's limit is reached: it rests from the next round on.
    pub(super) fn note_shut(&mut self, port: PortId, now: u64) {
        self.next = now;
        if !self.shut.contains(&port) {
            self.shut.push(port);
        }
    }

    /// How long until one of those that rest may bring more.
    pub(super) fn wait(&self, now: u64) -> Option<u64> {
        (!self.shut.is_empty()).then(|| until(self.next, now))
    }

    /// The worker is about to wait: what it is not to be woken for is taken from the sleeper.
    #[inline]
    pub(super) fn hide(&mut self, sleeper: &mut impl Sleeper) {
        for port in &self.shut {
            let Some(slot) = self.slots[port.index()].as_deref() else { continue };
            if slot.shut && slot.told && !self.hidden.contains(port) {
                if let Some(fd) = slot.queue.wait_fd() {
                    sleeper.remove(fd);
                    self.hidden.push(*port);
                }
            }
        }
    }

    /// Those that are polled again are given back to the sleeper.
    #[inline]
    pub(super) fn show(&mut self, sleeper: &mut impl Sleeper) {
        if self.hidden.is_empty() {
            return;
        }
        let Self { slots, hidden, .. } = self;
        hidden.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            if !slot.shut {
                // As with a new one: what cannot be waited for is polled.
                slot.told = slot.queue.wait_fd().is_some_and(|fd| sleeper.add(fd, *port).is_ok());
                slot.waits = slot.told;
            }
            slot.shut
        });
    }

    #[inline]
    pub(super) fn get_mut(&mut self, port: PortId) -> Option<&mut RxSlot<P>> {
        self.slots[port.index()].as_deref_mut()
    }

    /// How many are polled.
    #[inline]
    pub(super) fn polled(&self) -> usize {
        self.active.len()
    }

    /// The one that is polled as this of a round; the next round begins with the next one ([`Self::turn`]).
    #[inline]
    pub(super) fn at(&self, turn: usize) -> Option<PortId> {
        let at = self.first + turn;
        self.active.get(if at < self.active.len() { at } else { at - self.active.len() }).copied()
    }

    /// The one that is polled after this one of a round, in the next round if it is the last.
    #[inline]
    pub(super) fn after(&self, turn: usize) -> Option<PortId> {
        self.at(if turn + 1 < self.active.len() { turn + 1 } else { 1 })
    }

    /// A round is over. The next one begins so many queues later.
    #[inline]
    pub(super) fn turn(&mut self, turns: usize) {
        let (first, count) = (self.first + turns, self.active.len());
        // Without a division, which is dear here; some may have left the round.
        let first = if first < count { first } else { first - count };
        self.first = if first < count { first } else { 0 };
    }

    /// The port's descriptor has something, or an error. False if the queue has failed for good: it is left alone.
    pub(super) fn notice(&mut self, port: PortId, error: bool) -> bool {
        let Some(slot) = self.slots[port.index()].as_deref_mut() else { return true };
        if error && !slot.queue.recover() {
            (slot.active, slot.told) = (false, false);
            self.leave(port);
            return false;
        }
        if !slot.active && !slot.shut {
            slot.queue.disarm();
            (slot.active, slot.empty) = (true, 0);
            self.active.push(port);
        }
        true
    }

    /// Arms the queues that have brought nothing for so many rounds.
    pub(super) fn rest(&mut self, rounds: u8) {
        let Self { slots, active, .. } = self;
        active.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            if slot.empty >= rounds && slot.told {
                slot.empty = 0;
                let armed = slot.queue.arm();
                slot.active = armed != Armed::Waits;
                slot.waits = armed != Armed::Mute;
            }
            slot.active
        });
        self.first = if self.first < self.active.len() { self.first } else { 0 };
    }

    /// A queue that can be armed is not yet, so the worker must not sleep.
    pub(super) fn keep_awake(&self) -> bool {
        self.active.iter().any(|port| self.slots[port.index()].as_ref().is_some_and(|slot| slot.waits))
    }
}
