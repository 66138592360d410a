//! How a worker sleeps and is woken, and its clock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use weft_ffi::kernel::clock::{tsc, tsc_hz};
use weft_ffi::kernel::event::{Epoll, EventFd, Events, Interest};
use weft_ffi::kernel::thread::preemptions;

use crate::types::PortId;
use crate::worker::{Clock, Sleeper, Wake};

/// The number that the worker's own eventfd has; no port has it.
const WAKE: u64 = u64::MAX;
/// Descriptors shown by one wait; the others come with the next.
const AT_ONCE: usize = 64;

/// A thread that works with the worker, such as a sender or receiver in a pod, has the core for less than that, in microseconds, and waits
/// again. Who has it longer has other work, and the next turn may be milliseconds away.
const TURN_US: u64 = 200;
/// Less than it takes to change to another thread and back, more than to give a core away that nobody wants.
const SWITCH_US: u64 = 2;

/// Wakes a worker through its eventfd.
#[derive(Debug, Clone)]
pub struct WorkerWaker(Arc<EventFd>);

impl Wake for WorkerWaker {
    fn wake(&self) {
        self.0.notify();
    }
}

/// Waits by epoll.
#[derive(Debug)]
pub struct EpollSleeper {
    epoll: Epoll,
    wake: Arc<EventFd>,
    events: Events,
    turns: Turns,
}

/// Tells another thread's long turn from an interrupt or a pause of the whole machine: the kernel counts how often the core was
/// taken, each short turn and whatever happened during work included.
#[derive(Debug)]
struct Turns {
    /// Cycles in [`TURN_US`].
    long: u64,
    /// Cycles in [`SWITCH_US`].
    some: u64,
    /// What [`preemptions`] said last.
    known: u64,
}

impl Turns {
    fn new(cycles_per_us: u64) -> Self {
        Self { long: cycles_per_us * TURN_US, some: cycles_per_us * SWITCH_US, known: 0 }
    }

    /// Whether another thread had a long turn, since giving the core away took so many cycles. The kernel is asked only if
    /// anybody can have had one at all.
    fn is_long(&mut self, took: u64, preemptions: impl FnOnce() -> u64) -> bool {
        if took < self.some {
            return false;
        }
        let count = preemptions();
        std::mem::replace(&mut self.known, count) != count && took >= self.long
    }
}

impl EpollSleeper {
    /// A sleeper, and what wakes it.
    pub fn new() -> io::Result<(Self, WorkerWaker)> {
        let (epoll, wake) = (Epoll::new()?, Arc::new(EventFd::new()?));
        epoll.add(wake.as_fd(), WAKE, Interest::Read)?;
        let waker = WorkerWaker(wake.clone());
        let events = Events::with_capacity(AT_ONCE);
        let turns = Turns::new(tsc_hz() / 1_000_000);
        Ok((Self { epoll, wake, events, turns }, waker))
    }
}

impl Sleeper for EpollSleeper {
    fn add(&mut self, fd: BorrowedFd<'_>, port: PortId) -> io::Result<()> {
        self.epoll.add(fd, port.index() as u64, Interest::Read)
    }
    fn remove(&mut self, fd: BorrowedFd<'_>) {
        // It fails for a descriptor that was not added, and then there is nothing to do.
        let _ = self.epoll.remove(fd);
    }
    fn wait(&mut self, timeout: Option<Duration>, mut ready: impl FnMut(PortId, bool)) -> bool {
        // An error here would be of the set itself; the worker then polls on, as after a timeout.
        if self.epoll.wait(timeout, &mut self.events).is_err() {
            return false;
        }
        for event in self.events.iter() {
            if event.token == WAKE {
                self.wake.drain();
            } else if let Ok(port) = PortId::new(event.token as usize) {
                ready(port, event.error);
            }
        }
        !self.events.is_empty()
    }
    fn pause(&mut self, first: bool) -> bool {
        if first {
            self.turns.known = preemptions();
        }
        let before = tsc();
        std::thread::yield_now();
        self.turns.is_long(tsc().wrapping_sub(before), preemptions)
    }
}

/// The processor's time-stamp counter.
#[derive(Debug, Clone, Copy)]
pub struct Tsc;

impl Clock for Tsc {
    #[inline]
    fn cycles(&self) -> u64 {
        tsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Giving the core away takes so many microseconds; the kernel's count by then.
    fn is_long(turns: &mut Turns, took: u64, count: u64) -> bool {
        turns.is_long(took * 1000, || count)
    }

    #[test]
    fn a_long_turn_is_one_in_which_the_core_was_taken() {
        let mut turns = Turns::new(1000);
        turns.known = 5;
        assert!(!is_long(&mut turns, 500, 5), "an interrupt");
        assert!(is_long(&mut turns, 500, 6));
        assert!(!is_long(&mut turns, 500, 6), "an interrupt, later");
    }

    #[test]
    fn short_turns_do_not_make_an_interrupt_a_long_one() {
        let mut turns = Turns::new(1000);
        assert!(!is_long(&mut turns, 20, 1));
        assert!(!is_long(&mut turns, 150, 2));
        assert!(!is_long(&mut turns, 500, 2));
    }

    #[test]
    fn the_kernel_is_not_asked_when_nobody_had_a_turn() {
        assert!(!Turns::new(1000).is_long(500, || panic!("asked")));
    }
}
