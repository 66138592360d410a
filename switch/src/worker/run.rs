//! The worker's thread: rounds while there is work, sleep when there is none.
//!
//! A queue with a descriptor is polled as long as it brings frames. After [`EMPTY_ROUNDS`] without one it is armed and
//! left alone until the descriptor is readable, so that idle ports cost nothing. Queues without a descriptor are
//! polled in every round, and at a slow beat while the worker sleeps.
//!
//! No wake-up is lost: the worker announces that it will sleep, then looks at its rings and commands once more, then
//! waits; who pushes asks after pushing whether sleep was announced (`weft_sync::sleep`). A new snapshot wakes nobody:
//! a sleeper holds none, so that nobody waits for it, and takes the newest when it wakes.
//!
//! # Ports with a limit
//!
//! A port that has brought all that it may is not polled, and its descriptor is taken from the sleeper: it would be readable all the time.
//! The worker sleeps until the first limit lets something through, and no longer than [`LONGEST_HOLD`].
//!
//! # A core that others want too
//!
//! Spinning saves the wake-up, of the worker and often of the whole core, but must not keep from working whoever is to bring the
//! work: the sender's or the receiver's thread may want that very core. So each empty round gives the core away once. Such a
//! thread takes its turn, waits again, and the worker goes on without having slept: measured, half the latency of sleeping each
//! time. A thread that keeps the core is another matter: then the worker sleeps instead of spinning for [`SHARED_MS`],
//! since asleep it is woken by the frame itself, and the scheduler prefers a thread that wakes to one that has given its turn
//! away. A worker with work takes its turn as any thread does.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::pace::TICKS_PER_MS;
use super::{Platform, Worker};
use crate::port::RxQueue;
use crate::types::PortId;

/// Rounds without a frame after which a queue is armed.
const EMPTY_ROUNDS: u8 = 8;
/// While there is work, the descriptors of armed queues are looked at once in so many rounds.
const LOOK_EVERY: u32 = 8;

/// The same for a worker that never sleeps and has nothing to do.
const LOOK_SELDOM: u32 = 1024;

/// How long a core counts as shared after another thread kept it, in milliseconds: at first, and at most. It doubles each time that this
/// happens again within the longest time.
const SHARED_MS: [u64; 2] = [2, 128];

/// How long a worker sleeps at most while a limit holds something up: limits may change, and a snapshot wakes nobody.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// Frames of a round from which on they come in crowds.
const CROWD: usize = 4;

/// Waits for descriptors: epoll in the daemon.
pub trait Sleeper {
    /// `fd` belongs to the receive queue of `port`.
    fn add(&mut self, fd: BorrowedFd<'_>, port: PortId) -> io::Result<()>;
    /// `fd` is about to be closed.
    fn remove(&mut self, fd: BorrowedFd<'_>);
    /// Waits until a descriptor is readable, the worker is woken, or `timeout` has passed (`None`: for ever), and shows
    /// the ports whose descriptors are readable (or have an error: `true`). False if nothing of that happened in time.
    fn wait(&mut self, timeout: Option<Duration>, ready: impl FnMut(PortId, bool)) -> bool;
    /// Lets another thread have the core, if one waits for it; true if one kept it for long. `first`: the worker has worked or
    /// slept since the last time.
    fn pause(&mut self, first: bool) -> bool;
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

/// Whether other threads want the core.
struct Shared {
    until: u64,
    /// How long the last time was, in cycles.
    last: u64,
    least: u64,
    most: u64,
    /// Frames of a round with work, eight times the average over some rounds.
    crowd: usize,
}

impl Shared {
    fn new(now: u64, cycles_per_ms: u64) -> Self {
        let [least, most] = SHARED_MS.map(|ms| ms * cycles_per_ms);
        Self { until: now, last: 0, least, most, crowd: 0 }
    }

    fn is(&self, now: u64) -> bool {
        (self.until.wrapping_sub(now) as i64) > 0
    }

    /// A round had so many frames.
    fn note(&mut self, work: usize) {
        self.crowd = self.crowd - self.crowd / 8 + work;
    }

    /// A thread has kept the core. Who does so once is soon done; who does it again and again has work. Where frames come in crowds
    /// they lose nothing by sleep, which lets more of them come together, and a sender on this core gains by it.
    fn begin(&mut self, now: u64) {
        if self.crowd >= 8 * CROWD {
            self.last = self.most;
            self.until = now.wrapping_add(self.last);
            return;
        }
        let again = self.last > 0 && now.wrapping_sub(self.until) < self.most;
        self.last = if again { (2 * self.last).min(self.most) } else { self.least };
        self.until = now.wrapping_add(self.last);
    }
}

impl<P: Platform> Worker<P> {
    /// Runs until it is told to stop.
    pub fn run(mut self, mut sleeper: impl Sleeper, clock: impl Clock, idle: Idle) {
        let mut rounds = 0u32;
        let mut before = clock.cycles();
        let mut last_work = before;
        let mut shared = Shared::new(before, idle.cycles_per_ms);
        let mut first = true;
        // Ticks a cycle, times 2^24.
        let ticks = (TICKS_PER_MS << 24) / idle.cycles_per_ms.max(1);
        loop {
            if !self.commands.is_empty() && !self.obey(&mut sleeper) {
                return;
            }
            // As of the end of the last round, pause or sleep: whatever took its time is over.
            self.now = before / idle.cycles_per_ms.max(1);
            self.ticks = ((u128::from(before) * u128::from(ticks)) >> 24) as u64;
            let work = self.round();
            self.rx.show(&mut sleeper);
            let now = clock.cycles();
            rounds = rounds.wrapping_add(1);
            if work > 0 {
                self.counters.busy_cycles.add(now.wrapping_sub(before));
                last_work = now;
                shared.note(work);
                before = now;
                first = true;
                if idle.spin.is_some() {
                    self.rx.rest(EMPTY_ROUNDS);
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
            self.rx.hide(&mut sleeper);
            if !shared.is(now) && now.wrapping_sub(last_work) < spin {
                self.rx.rest(EMPTY_ROUNDS);
                // What has come does not wait out another thread's turn.
                if self.look(&mut sleeper, Some(Duration::ZERO)) {
                    continue;
                }
                let is_taken = sleeper.pause(std::mem::take(&mut first));
                // Another thread's turn is no work of this one.
                before = clock.cycles();
                if is_taken {
                    shared.begin(before);
                }
                continue;
            }
            // This round has found all of them empty.
            self.rx.rest(0);
            if !self.rx.keep_awake() {
                self.sleep(&mut sleeper, &clock, idle.beat);
                before = clock.cycles();
                first = true;
            }
        }
    }

    /// Waits for descriptors, and takes up the queues that have something. False if nothing has.
    fn look(&mut self, sleeper: &mut impl Sleeper, timeout: Option<Duration>) -> bool {
        let (rx, mut broken) = (&mut self.rx, None);
        let woken = sleeper.wait(timeout, |port, error| {
            if !rx.notice(port, error) {
                broken = Some(port);
            }
        });
        // One at a time is enough: errors are reported until the descriptor is removed.
        let Some(port) = broken else { return woken };
        if let Some(fd) = self.rx.get_mut(port).and_then(|slot| slot.queue.wait_fd()) {
            sleeper.remove(fd);
        }
        // Nobody hears it only when the control side has gone.
        let _ = self.broken.send(port);
        woken
    }

    fn sleep(&mut self, sleeper: &mut impl Sleeper, clock: &impl Clock, beat: Duration) {
        self.sleeping.announce();
        if self.commands.is_empty() && self.inboxes.iter().all(|inbox| inbox.ring.is_empty()) {
            self.snapshot.offline();
            self.counters.sleeps.add(1);
            self.counters.asleep.begin(clock.cycles());
            // What is still polled cannot tell, and limits let more through as time goes by.
            let beat = (self.rx.polled() > 0).then_some(beat);
            let limits = [self.rx.wait(self.ticks), self.outbox.wait()].into_iter().flatten().min();
            let limits = limits.map(|ticks| {
                Duration::from_nanos(ticks.div_ceil(TICKS_PER_MS / 1_000_000)).min(LONGEST_HOLD)
            });
            let woken = self.look(sleeper, beat.into_iter().chain(limits).min());
            self.counters.asleep.end(clock.cycles());
            self.counters.wakes.add(woken.into());
        }
        self.sleeping.awake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many milliseconds a core counts as shared after a long turn that began when rounds had brought so many frames each.
    fn shared_for(work: usize) -> u64 {
        let mut shared = Shared::new(0, 1);
        (0..50).for_each(|_| shared.note(work));
        shared.begin(0);
        (0..1000).find(|now| !shared.is(*now)).unwrap()
    }

    #[test]
    fn frames_that_come_in_crowds_lose_nothing_by_sleep() {
        assert_eq!([0, 1, 2].map(shared_for), [SHARED_MS[0]; 3]);
        assert_eq!([8, 64].map(shared_for), [SHARED_MS[1]; 2]);
    }
}
