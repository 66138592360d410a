//! The platform in memory: a switch without devices, threads and clock. For tests, fuzzing and benches.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use weft_sync::snapshot::{Publisher, cell};

use crate::packet::HeapPool;
use crate::pins::Pins;
use crate::port::MemPort;
use crate::stations::Stations;
use crate::tables::Snapshot;
use crate::types::{Generation, PortId};
use crate::worker::{Command, Handle, Parts, Platform, Queues, Sleeper, Wake, Worker, make};

/// Ports in memory.
#[derive(Debug)]
pub enum Memory {}

impl Platform for Memory {
    type Pool = HeapPool;
    type Rx = MemPort;
    type Tx = MemPort;
    type Waker = NoWake;
}

/// Nobody sleeps.
#[derive(Debug, Clone, Copy)]
pub struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// Nobody sleeps.
#[derive(Debug, Clone, Copy)]
pub struct NoSleep;

impl Sleeper for NoSleep {
    fn add(&mut self, _: BorrowedFd<'_>, _: PortId) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: BorrowedFd<'_>) {}
    fn wait(&mut self, _: Option<Duration>, _: impl FnMut(PortId, bool)) -> bool {
        false
    }
    fn pause(&mut self, _: bool) -> bool {
        false
    }
}

/// Connection pins that a switch has room for: few, since there are many switches.
const PINS: usize = 1024;

/// A switch in memory, stepped by its owner.
pub struct MemSwitch {
    publisher: Publisher<Snapshot>,
    workers: Vec<(Worker<Memory>, Handle<Memory>)>,
}

impl MemSwitch {
    /// A switch with so many workers and no port.
    pub fn new(workers: usize) -> Self {
        Self::with_pins(workers, PINS)
    }

    /// The same with room for so many connection pins.
    pub fn with_pins(workers: usize, pins: usize) -> Self {
        let (publisher, readers) = cell(Box::<Snapshot>::default(), workers);
        let parts =
            readers.into_iter().map(|snapshot| Parts { snapshot, pool: HeapPool::default(), waker: NoWake });
        Self { publisher, workers: make(parts.collect(), &Pins::new(pins)) }
    }

    /// Publishes tables; their generation is set to the next one.
    pub fn publish(&mut self, mut tables: Snapshot) {
        tables.generation = Generation(self.publisher.current().generation.0 + 1);
        self.publisher.publish(Box::new(tables));
        self.publisher.reclaim();
    }

    /// Has a worker take its buffers from this pool, such as one that is empty.
    pub fn set_pool(&mut self, worker: usize, pool: HeapPool) {
        self.workers[worker].0.set_pool(pool);
    }

    /// Gives a port's queues to a worker.
    pub fn attach(&mut self, worker: usize, id: PortId, port: &MemPort) {
        let (_, handle) = &self.workers[worker];
        handle.send(Command::AddTx(id, port.clone()));
        handle.send(Command::AddRx(id, port.clone()));
    }

    /// Takes a port's queues back from a worker, which does so at the next [`Self::step`].
    pub fn detach(&self, worker: usize, id: PortId) -> Receiver<Queues<Memory>> {
        let (done, queues) = bounded(1);
        self.workers[worker].1.send(Command::Remove(id, done));
        queues
    }

    /// True when every worker has passed a burst boundary since the last [`Self::publish`].
    pub fn passed(&self) -> bool {
        self.publisher.passed(self.publisher.publication())
    }

    /// Sets every worker's time, in milliseconds.
    pub fn set_time(&mut self, now: u64) {
        self.workers.iter_mut().for_each(|(worker, _)| worker.set_time(now));
    }

    /// The same in nanoseconds, for limits of rates.
    pub fn set_nanos(&mut self, now: u64) {
        self.workers.iter_mut().for_each(|(worker, _)| worker.set_nanos(now));
    }

    /// One round of every worker, in their order; how many packets that moved.
    pub fn step(&mut self) -> usize {
        (0..self.workers.len()).map(|worker| self.step_worker(worker)).sum()
    }

    /// One round of one worker, as if the others were slow; how many packets that moved.
    pub fn step_worker(&mut self, worker: usize) -> usize {
        let (worker, _) = &mut self.workers[worker];
        worker.obey(&mut NoSleep);
        worker.round()
    }

    /// What the workers have learned.
    pub fn learned(&self) -> Option<&Stations> {
        self.handles().next().map(Handle::learned)
    }

    /// The connections whose answers go to the host.
    pub fn pins(&self) -> Option<&Pins> {
        self.handles().next().map(Handle::pins)
    }

    /// The workers' handles, for their counters.
    pub fn handles(&self) -> impl Iterator<Item = &Handle<Memory>> {
        self.workers.iter().map(|(_, handle)| handle)
    }
}
