//! The worker's thread: rounds while there is work, sleep when there is none.
//!
//! A queue with a descriptor is polled as long as it brings frames. After [`EMPTY_ROUNDS`] without one it is armed and
//! left alone until the descriptor is readable, so that idle ports cost nothing. Queues without a descriptor are
//! polled in every round, and at a slow beat while the worker sleeps.
//!
//! No wake-up is lost: the worker announces that it will sleep, then looks at its rings and commands once more, then
//! waits; who pushes asks after pushing whether sleep was announced (`weft_sync::sleep`).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Platform, Worker};
use crate::port::{Armed, RxQueue};
use crate::types::PortId;

/// Rounds without a frame after which a queue is armed.
const EMPTY_ROUNDS: u8 = 8;
/// While there is work, the descriptors of armed queues are looked at once in so many rounds.
const LOOK_EVERY: u32 = 8;

/// The same for a worker that never sleeps and has nothing to do.
const LOOK_SELDOM: u32 = 1024;

/// Waits for descriptors: epoll in the daemon.
pub trait Sleeper {
    /// `fd` belongs to the receive queue of `port`.
    fn add(&mut self, fd: BorrowedFd<'_>, port: PortId) -> io::Result<()>;
    /// `fd` is about to be closed.
    fn remove(&mut self, fd: BorrowedFd<'_>);
    /// Waits until a descriptor is readable, the worker is woken, or `timeout` has passed (`None`: for ever), and shows
    /// the ports whose descriptors are readable (or have an error: `true`).
    fn wait(&mut self, timeout: Option<Duration>, ready: impl FnMut(PortId, bool));
}

/// The time-stamp counter.
pub trait Clock {
    /// Cycles since some point in the past.
    fn cycles(&self) -> u64;
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Cycles without work after which it sleeps; `None`: it never does.
    pub spin: Option<u64>,
    /// How often queues without a descriptor are polled during sleep.
    pub beat: Duration,
    /// How fast the clock counts: what time limits and ageing go by.
    pub cycles_per_ms: u64,
}

impl<P: Platform> Worker<P> {
    /// Runs until it is told to stop.
    pub fn run(mut self, mut sleeper: impl Sleeper, clock: impl Clock, idle: Idle) {
        let mut rounds = 0u32;
        let mut before = clock.cycles();
        let mut last_work = before;
        loop {
            if !self.commands.is_empty() && !self.obey(&mut sleeper) {
                return;
            }
            // As of the last look at the clock, which is a round ago at most.
            self.now = before / idle.cycles_per_ms.max(1);
            let work = self.round();
            let now = clock.cycles();
            rounds = rounds.wrapping_add(1);
            if work > 0 {
                self.counters.busy_cycles.add(now.wrapping_sub(before));
                last_work = now;
                before = now;
                if idle.spin.is_some() {
                    self.rest_empty_queues();
                }
                if rounds % LOOK_EVERY == 0 {
                    self.look(&mut sleeper, Some(Duration::ZERO));
                }
                continue;
            }
            before = now;
            let Some(spin) = idle.spin else {
                // Never sleeps, so nothing is armed; only errors are looked for, now and then.
                if rounds % LOOK_SELDOM == 0 {
                    self.look(&mut sleeper, Some(Duration::ZERO));
                }
                std::hint::spin_loop();
                continue;
            };
            self.rest_empty_queues();
            self.look(&mut sleeper, Some(Duration::ZERO));
            if now.wrapping_sub(last_work) < spin {
                std::hint::spin_loop();
                continue;
            }
            if self.rx.iter().any(|slot| slot.active && slot.waits) {
                continue;
            }
            self.sleep(&mut sleeper, idle.beat);
            before = clock.cycles();
        }
    }

    /// Waits for descriptors, and takes up the queues that have something.
    fn look(&mut self, sleeper: &mut impl Sleeper, timeout: Option<Duration>) {
        let (rx, mut broken) = (&mut self.rx, None);
        sleeper.wait(timeout, |port, error| {
            let Some(slot) = rx.iter_mut().find(|slot| slot.port == port) else { return };
            if error && !slot.queue.recover() {
                (slot.active, slot.told) = (false, false);
                broken = Some(port);
            } else if !slot.active {
                slot.queue.disarm();
                slot.active = true;
                slot.empty = 0;
            }
        });
        // One at a time is enough: errors are reported until the descriptor is removed.
        let Some(slot) = rx.iter().find(|slot| Some(slot.port) == broken) else { return };
        if let Some(fd) = slot.queue.wait_fd() {
            sleeper.remove(fd);
        }
        // Nobody hears it only when the control side has gone.
        let _ = self.broken.send(slot.port);
    }

    /// Arms the queues that have brought nothing for a while.
    fn rest_empty_queues(&mut self) {
        for slot in &mut self.rx {
            if slot.active && slot.empty >= EMPTY_ROUNDS && slot.told {
                slot.empty = 0;
                let armed = slot.queue.arm();
                slot.active = armed != Armed::Waits;
                slot.waits = armed != Armed::Mute;
            }
        }
    }

    fn sleep(&mut self, sleeper: &mut impl Sleeper, beat: Duration) {
        self.sleeping.announce();
        if self.commands.is_empty() && self.inboxes.iter().all(|inbox| inbox.is_empty()) {
            self.snapshot.offline();
            self.counters.sleeps.add(1);
            let polled = self.rx.iter().any(|slot| slot.active && !slot.waits);
            self.look(sleeper, polled.then_some(beat));
        }
        self.sleeping.awake();
    }
}
