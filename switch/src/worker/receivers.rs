//! A worker's receive queues: which are polled in every round, and which are armed and tell by their descriptor.
//!
//! A round costs what the polled ones cost, however many are armed; an event finds its queue by the port's number.

use super::Platform;
use crate::limits::Buckets;
use crate::port::{Armed, RxQueue};
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
}

pub(super) struct Receivers<P: Platform> {
    /// By port number.
    slots: Vec<Option<Box<RxSlot<P>>>>,
    /// The ports that are polled.
    active: Vec<PortId>,
    /// Where in `active` the round begins: where ways out are full, each is the first in its turn.
    first: usize,
}

impl<P: Platform> Receivers<P> {
    pub(super) fn new() -> Self {
        let slots = (0..MAX_PORTS).map(|_| None).collect();
        Self { slots, active: Vec::with_capacity(MAX_PORTS), first: 0 }
    }

    /// Takes a queue, to be polled until it has been empty for a while. `told`: its descriptor is with the sleeper.
    pub(super) fn add(&mut self, port: PortId, queue: P::Rx, told: bool) {
        let buckets = Buckets::default();
        let slot = RxSlot { queue, told, waits: told, active: true, empty: 0, together: None, buckets };
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
        self.active.retain(|active| *active != port);
        self.first = 0;
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

    /// A round is over.
    #[inline]
    pub(super) fn turn(&mut self) {
        self.first = if self.first + 1 < self.active.len() { self.first + 1 } else { 0 };
    }

    /// The port's descriptor has something, or an error. False if the queue has failed for good: it is left alone.
    pub(super) fn notice(&mut self, port: PortId, error: bool) -> bool {
        let Some(slot) = self.slots[port.index()].as_deref_mut() else { return true };
        if error && !slot.queue.recover() {
            (slot.active, slot.told) = (false, false);
            self.leave(port);
            return false;
        }
        if !slot.active {
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
