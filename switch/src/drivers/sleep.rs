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
    /// Cycles in [`TURN_US`].
    turn: u64,
    /// What [`preemptions`] said last.
    preempted: u64,
}

impl EpollSleeper {
    /// A sleeper, and what wakes it.
    pub fn new() -> io::Result<(Self, WorkerWaker)> {
        let (epoll, wake) = (Epoll::new()?, Arc::new(EventFd::new()?));
        epoll.add(wake.as_fd(), WAKE, Interest::Read)?;
        let waker = WorkerWaker(wake.clone());
        let events = Events::with_capacity(AT_ONCE);
        let turn = tsc_hz() / 1_000_000 * TURN_US;
        Ok((Self { epoll, wake, events, turn, preempted: 0 }, waker))
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
    fn pause(&mut self) -> bool {
        let before = tsc();
        std::thread::yield_now();
        if tsc().wrapping_sub(before) < self.turn {
            return false;
        }
        // The kernel knows whether it was another thread.
        let preempted = preemptions();
        std::mem::replace(&mut self.preempted, preempted) != preempted
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
