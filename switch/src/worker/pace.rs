//! Limits of rates: what a pod may receive and send.
//!
//! # What is limited, and how
//!
//! Each direction of a limited port has one token bucket ([`Account`]) for all workers, so that a port with a queue for each of
//! them keeps to its rate exactly, and its flows stay with their workers. Dropping what exceeds the rate would not let TCP
//! come near it: what exceeds it waits.
//!
//! - **To a pod** ([`Shaper`]): frames wait in a queue of the worker that sends them, bounded in bytes, in frames and by what all
//!   queues of the worker hold. What finds it full is dropped. A frame that is let in is never too large: a GSO frame may exceed
//!   the bucket and the queue by itself, and those behind it wait for longer.
//! - **From a pod** ([`Gate`]): nothing is taken from the port while its bucket is in debt, so frames wait where the pod has them:
//!   in its interface's or in its guest's ring. Of the frames that a driver brings beyond those the bucket takes, it keeps the rest of one burst.
//!
//! Order is kept in both: one queue, first in, first out, and what comes goes behind what waits.
//!
//! # What it costs
//!
//! A port without a limit: whether there is one, once a burst. One with a limit: the length on the wire and a compare and swap for each
//! frame. A worker that waits for nothing else sleeps until the first bucket is out of debt, and [`BATCH`] longer, so that it is
//! not woken for each frame, nor asks a pod for each; what the rate brings meanwhile is in the bucket.

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) use weft_sync::account::Account;
use weft_sync::account::Bounds;

use crate::offload::wire_len;
use crate::packet::{BufPool, PacketBuf};
use crate::port::{BURST, Burst, RxLoss, RxQueue};
use crate::tables::{LEAST_BURST_MS, Rate};
use crate::types::{MAX_PORTS, PortId};

/// Ticks of a millisecond: 64 of each nanosecond, so that a short frame at 100 Gbit/s is not rounded by more than 0.1 %.
pub(super) const TICKS_PER_MS: u64 = 64_000_000;

/// How much longer than it must a worker waits, in ticks: 0.2 ms.
pub(super) const BATCH: u64 = TICKS_PER_MS / 5;

/// Bytes of the largest frame on the wire for which anything is owed. More would be one of 64 KiB with packets of a few bytes.
const LARGEST: u64 = 8 << 20;

/// How long the queue in front of a pod may be, in milliseconds of its rate, and in bytes: at the most what a fast pod sends within
/// a millisecond, and at the least some of a sender's large frames. Such a sender makes frames of 64 KiB at any rate, since it goes by the
/// shortest way that it has seen. Where two fill the queue, the third is a whole window at the end of which nothing tells of its
/// loss: at 10 Mbit/s TCP stood still then until its timers ended, again and again.
const QUEUE_MS: u64 = 50;
const QUEUE_BYTES: [u64; 2] = [256 << 10, 1 << 20];
/// And in frames, each of which holds a buffer.
const QUEUE_FRAMES: usize = 1024;
/// Bytes of buffers in all such queues of a worker. Beyond that each has its reserve, so that a pod that is flooded takes
/// from the others only what is more; and whoever is in no queue finds memory.
pub(super) const HELD_BYTES: u64 = 4 << 20;
const RESERVE: u64 = 64 << 10;

/// Of an ordinary link: by it is estimated how many frames the bucket has tokens for.
const USUAL_FRAME: u64 = 1500;

/// Bytes of the buffers that a frame takes: of a small one, or of a large one behind it, where it is not made of a few small ones.
fn held_by(frame: &impl PacketBuf) -> u64 {
    if frame.len() <= 2048 { 2 << 10 } else { 64 << 10 }
}

/// A rate, in the units of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    rate: Rate,
    /// Ticks a byte, times 2^20.
    per_byte: u64,
    bounds: Bounds,
    /// Bytes that may wait, and one frame more.
    room: u64,
}

impl Pace {
    pub(super) fn of(rate: Rate) -> Self {
        let bits = rate.per_second.get();
        // A byte a second takes 8 * 64 * 10^9 ticks at 1 bit/s; bits are 1,000 at least.
        let per_byte = (((8000 * u128::from(TICKS_PER_MS)) << 20) / u128::from(bits)) as u64;
        let room = (bits / 8000 * QUEUE_MS).clamp(QUEUE_BYTES[0], QUEUE_BYTES[1]);
        let mut pace = Self { rate, per_byte, bounds: Bounds { burst: 0, debt: 0 }, room };
        let burst = rate.burst.map_or(0, |bits| pace.cost(bits / 8));
        pace.bounds = Bounds { burst: burst.max(LEAST_BURST_MS * TICKS_PER_MS), debt: pace.cost(LARGEST) };
        pace
    }

    /// Ticks that so many bytes take; what could not be counted, as long as can be.
    #[inline]
    fn cost(&self, bytes: u64) -> u64 {
        let ticks = (u128::from(bytes) * u128::from(self.per_byte)) >> 20;
        u64::try_from(ticks).unwrap_or(u64::MAX).min(1 << 61)
    }

    /// Takes what a frame costs, or says how long to wait.
    #[inline]
    fn take(&self, account: &Account, frame: &impl PacketBuf, now: u64) -> Result<(), u64> {
        account.take(self.cost(wire_len(frame)), self.bounds, now)
    }
}

/// The buckets of a port. On a line of their own, since workers write to them.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct PortAccounts {
    pub(super) to: Account,
    pub(super) from: Account,
}

/// The buckets of all ports, shared by all workers.
#[derive(Debug, Clone)]
pub(super) struct Accounts(Arc<[PortAccounts]>);

impl Default for Accounts {
    fn default() -> Self {
        Self((0..MAX_PORTS).map(|_| PortAccounts::default()).collect())
    }
}

impl Accounts {
    #[inline]
    pub(super) fn of(&self, port: PortId) -> &PortAccounts {
        &self.0[port.index()]
    }
}

/// A worker has seen that the limit of an account has come or gone: the first one that sees it come fills the bucket. Queues may
/// come and go meanwhile, as a guest likes, and get nothing by it.
pub(super) fn heed(account: &Account, before: Option<Rate>, rate: Option<Rate>, now: u64) {
    match (before, rate) {
        (None, Some(rate)) => account.join(Pace::of(rate).bounds, now),
        (Some(_), None) => account.leave(),
        (None, None) | (Some(_), Some(_)) => {}
    }
}

/// Whether `time` has come.
#[inline]
pub(super) fn is_due(time: u64, now: u64) -> bool {
    now.wrapping_sub(time) as i64 >= 0
}

/// How long until then, in ticks.
#[inline]
pub(super) fn until(time: u64, now: u64) -> u64 {
    u64::try_from(time.wrapping_sub(now) as i64).unwrap_or(0)
}

/// The frames that wait for a pod, in one worker.
pub(super) struct Shaper<B> {
    /// None: no limit any more, and what waits goes at once.
    pace: Option<Pace>,
    waiting: VecDeque<B>,
    bytes: u64,
    /// Bytes of the buffers that they hold.
    held: u64,
    /// When the first of them may go.
    due: u64,
}

impl<B: PacketBuf> Shaper<B> {
    pub(super) fn new(rate: Rate, now: u64) -> Self {
        let waiting = VecDeque::with_capacity(QUEUE_FRAMES);
        Self { pace: Some(Pace::of(rate)), waiting, bytes: 0, held: 0, due: now }
    }

    /// How many frames wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing waits, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.pace.is_none() && self.waiting.is_empty()
    }

    /// From now on it is this.
    pub(super) fn set(&mut self, rate: Option<Rate>, now: u64) {
        if self.pace.map(|pace| pace.rate) != rate {
            self.pace = rate.map(Pace::of);
            self.due = now;
        }
    }

    /// Whether the frame may go now, in its turn.
    pub(super) fn passes(&mut self, frame: &B, account: &Account, now: u64) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        let Some(pace) = &self.pace else { return true };
        match pace.take(account, frame, now) {
            Ok(()) => true,
            Err(debt) => {
                self.due = now.wrapping_add(debt);
                false
            }
        }
    }

    /// Has it wait. `held`: what all queues of the worker hold.
    ///
    /// # Errors
    /// The frame, where enough wait.
    pub(super) fn push(&mut self, frame: B, held: &mut u64) -> Result<(), B> {
        let room = self.pace.map_or(QUEUE_BYTES[1], |pace| pace.room);
        let is_full = self.bytes >= room
            || self.waiting.len() >= QUEUE_FRAMES
            || *held >= HELD_BYTES && self.held >= RESERVE;
        if is_full && !self.waiting.is_empty() {
            return Err(frame);
        }
        self.bytes += frame.len() as u64;
        self.held += held_by(&frame);
        *held += held_by(&frame);
        self.waiting.push_back(frame);
        Ok(())
    }

    /// What its frames hold.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Puts what may go by now behind `ready`, as far as there is room.
    pub(super) fn release(&mut self, ready: &mut Burst<B>, account: &Account, now: u64, held: &mut u64) {
        if !is_due(self.due, now) {
            return;
        }
        while let Some(frame) = self.waiting.front().filter(|_| !ready.is_full()) {
            if let Some(Err(debt)) = self.pace.map(|pace| pace.take(account, frame, now)) {
                self.due = now.wrapping_add(debt);
                return;
            }
            self.bytes = self.bytes.saturating_sub(frame.len() as u64);
            self.held = self.held.saturating_sub(held_by(frame));
            *held = held.saturating_sub(held_by(frame));
            ready.extend(self.waiting.pop_front());
        }
    }

    /// When the first of them may go.
    pub(super) fn due(&self) -> u64 {
        self.due
    }
}

/// What stands between a pod that sends too fast and a worker.
pub(super) struct Gate<B> {
    /// None: no limit any more, and what is held goes first.
    pace: Option<Pace>,
    /// What its queue has brought beyond what may go.
    held: Burst<B>,
    /// When more may come; of no meaning unless it is shut.
    due: u64,
    shut: bool,
}

impl<B: PacketBuf> Gate<B> {
    pub(super) fn new(rate: Rate, now: u64) -> Self {
        Self { pace: Some(Pace::of(rate)), held: Burst::new(), due: now, shut: false }
    }

    /// How many frames it holds.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Nothing is held, and nothing will be.
    pub(super) fn is_over(&self) -> bool {
        self.pace.is_none() && self.held.is_empty()
    }

    /// Nothing more is to be taken for a while.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// From now on it is this.
    pub(super) fn set(&mut self, rate: Option<Rate>, now: u64) {
        if self.pace.map(|pace| pace.rate) != rate {
            self.pace = rate.map(Pace::of);
            self.due = now;
        }
    }

    /// Opens it when its time has come; whether it is open.
    pub(super) fn open(&mut self, now: u64) -> bool {
        self.shut &= !is_due(self.due, now);
        !self.shut
    }

    fn shut(&mut self, debt: u64, now: u64) {
        (self.shut, self.due) = (true, now.wrapping_add(debt).wrapping_add(BATCH));
    }

    /// Fills an empty burst with what may come now.
    pub(super) fn rx<P: BufPool<Buf = B>>(
        &mut self,
        queue: &mut impl RxQueue<P>,
        pool: &mut P,
        burst: &mut Burst<B>,
        account: &Account,
        now: u64,
    ) -> RxLoss {
        let Some(pace) = self.pace else {
            if self.held.is_empty() {
                return queue.rx(pool, burst);
            }
            std::mem::swap(burst, &mut self.held);
            return RxLoss::default();
        };
        let balance = account.balance(pace.bounds, now);
        if balance < 0 {
            self.shut(balance.unsigned_abs(), now);
            return RxLoss::default();
        }
        let mut loss = RxLoss::default();
        if self.held.is_empty() {
            let frames = balance.unsigned_abs() / pace.cost(USUAL_FRAME).max(1);
            let few = usize::try_from(frames).unwrap_or(BURST).clamp(1, BURST);
            loss = queue.rx_few(pool, &mut self.held, few);
        }
        let (mut pass, mut owed) = (0, None);
        for frame in &self.held {
            owed = pace.take(account, frame, now).err();
            if owed.is_some() {
                break;
            }
            pass += 1;
        }
        if let Some(debt) = owed {
            self.shut(debt, now);
        }
        burst.extend(self.held.drain(..pass));
        loss
    }

    /// When it opens.
    pub(super) fn due(&self) -> u64 {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::HeapBuf;
    use crate::types::BitRate;

    #[test]
    fn a_flooded_pod_leaves_the_others_their_reserves() {
        let rate = Rate { per_second: BitRate::new(100_000_000).expect("a rate"), burst: None };
        let mut shapers: Vec<Shaper<HeapBuf>> = (0..10).map(|_| Shaper::new(rate, 0)).collect();
        let (flooded, others) = shapers.split_at_mut(1);
        let (mut held, large) = (0, HeapBuf::from_bytes(&[0; 3000]));
        while flooded[0].push(large.clone(), &mut held).is_ok() {}
        assert!(held >= HELD_BYTES, "the flood takes all: {held}");
        let usual = HeapBuf::from_bytes(&[0; 1500]);
        for other in others {
            let waits = (0..100).take_while(|_| other.push(usual.clone(), &mut held).is_ok()).count();
            assert_eq!(waits as u64, RESERVE / (2 << 10));
        }
        // What goes gives its room back.
        let before = held;
        let (mut ready, account) = (Burst::new(), Account::new());
        flooded[0].set(None, 0);
        flooded[0].release(&mut ready, &account, 0, &mut held);
        assert_eq!(before - held, ready.len() as u64 * (64 << 10));
    }
}
