//! A worker: one thread that owns receive and transmit queues and takes each burst all the way.
//!
//! [`Worker::round`] polls once and is all that tests and simulations need; [`Worker::run`] is the thread's loop with
//! commands, sleep and accounting. [`make`] makes the workers of a switch with the rings between them.

mod burst;
mod learn;
mod merge;
mod outbox;
mod pace;
mod pin;
mod read;
mod receivers;
mod run;
mod sample;
mod takes;

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender, unbounded};
use weft_sync::counter::Counter;
use weft_sync::ring::{Consumer, Producer, ring};
use weft_sync::sleep::SleepFlag;
use weft_sync::snapshot::Reader;

use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::Events;
use crate::packet::BufPool;
use crate::pins::Pins;
use crate::port::{BURST, Burst, RxQueue, TxQueue};
use crate::questions::Questions;
use crate::stations::Stations;
use crate::tables::{Rates, Snapshot};
use crate::types::{Generation, PortId};
use outbox::Outbox;
use pace::{Accounts, PortAccounts, TICKS_PER_MS, heed};
use read::Notes;
use receivers::Receivers;
pub use run::{Clock, Idle, Sleeper};
use sample::Sampling;
use takes::Takes;

/// Packets that wait in the ring from one worker to another at most.
const HANDOVER: usize = 1024;
/// And their bytes. Else a worker that is held up would keep the buffers of all ports, 64 KiB each.
const HANDOVER_BYTES: u64 = 4 << 20;

/// The drivers that a switch is built with: DPDK and the kernel in the daemon, memory in tests.
pub trait Platform: 'static {
    /// Where packets come from.
    type Pool: BufPool + Send;
    /// Receive queues.
    type Rx: RxQueue<Self::Pool> + Send;
    /// Transmit queues.
    type Tx: TxQueue<Self::Pool> + Send;
    /// Wakes a worker that sleeps.
    type Waker: Wake;
}

/// Wakes one worker's [`Sleeper`], from any thread.
pub trait Wake: Clone + Send + Sync + 'static {
    /// Makes the worker's wait end, or its next one if it is not waiting.
    fn wake(&self);
}

/// The buffers of a platform.
pub type Buf<P> = <<P as Platform>::Pool as BufPool>::Buf;

/// What the control side tells a worker.
pub enum Command<P: Platform> {
    /// Receive from this queue.
    AddRx(PortId, P::Rx),
    /// Send to this queue.
    AddTx(PortId, P::Tx),
    /// Give the port's queues back. By then no snapshot that a worker can hold names the port.
    Remove(PortId, Sender<Queues<P>>),
    /// Say so when everything before this has been carried out.
    Tell(Sender<()>),
    /// End.
    Stop,
}

/// The queues of a port that a worker gave back; to be closed by the control side, which may block.
pub struct Queues<P: Platform> {
    /// Its receive queue.
    pub rx: Option<P::Rx>,
    /// Its transmit queue.
    pub tx: Option<P::Tx>,
}

/// The worker's end of what it shares with the control side and the other workers.
#[derive(Clone)]
pub struct Handle<P: Platform> {
    commands: Sender<Command<P>>,
    broken: Receiver<PortId>,
    waker: P::Waker,
    counters: Arc<WorkerCounters>,
    events: Events,
    sampling: Arc<Sampling>,
    stations: Stations,
    pins: Pins,
}

impl<P: Platform> Handle<P> {
    /// The connections whose answers go to the host: one table for all workers.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What the workers have learned: one table for all of them.
    pub fn learned(&self) -> &Stations {
        &self.stations
    }

    /// Has the worker tell of one packet in so many ([`crate::event::Event::Flow`]); of none at 0.
    pub fn sample_flows(&self, one_in: u32) {
        self.sampling.set(one_in);
    }

    /// What the worker has to tell.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// A port whose receive queue has failed for good since the last call, such as one whose device was deleted. The
    /// worker leaves it alone; it is to be removed.
    pub fn take_broken(&self) -> Option<PortId> {
        self.broken.try_recv().ok()
    }

    /// Gives a command. It is carried out at the worker's next round; false when the worker has ended.
    pub fn send(&self, command: Command<P>) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.waker.wake();
        sent
    }

    /// What the worker has counted.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }
}

/// One worker.
pub struct Worker<P: Platform> {
    snapshot: Reader<Snapshot>,
    pool: P::Pool,
    commands: Receiver<Command<P>>,
    broken: Sender<PortId>,
    rx: Receivers<P>,
    outbox: Outbox<P>,
    inboxes: Vec<Inbox<P>>,
    sleeping: Arc<SleepFlag>,
    counters: Arc<WorkerCounters>,
    frames: Burst<Buf<P>>,
    notes: Box<Notes>,
    /// The identification of the last IPv4 header that this worker made.
    ident: u16,
    /// In milliseconds, as of the round.
    now: u64,
    /// The same in the unit that rates are limited by.
    ticks: u64,
    accounts: Accounts,
    /// The limits in force, and the snapshot that said so; none when there are new queues to be limited.
    limits: (Rates, Option<Generation>),
    events: Events,
    stations: Stations,
    pins: Pins,
    questions: Questions,
    sampling: Arc<Sampling>,
    /// Packets until the next sample.
    until_sample: u32,
}

/// What a worker is made of.
pub struct Parts<P: Platform> {
    /// Its view of the tables.
    pub snapshot: Reader<Snapshot>,
    /// Where it takes buffers from.
    pub pool: P::Pool,
    /// Wakes it.
    pub waker: P::Waker,
}

/// Makes the workers of a switch, with a ring from each to each other. All have the same `pins`.
pub fn make<P: Platform>(parts: Vec<Parts<P>>, pins: &Pins) -> Vec<(Worker<P>, Handle<P>)> {
    let count = parts.len();
    let (stations, takes, accounts) = (Stations::default(), Takes::default(), Accounts::default());
    let flags: Vec<_> = (0..count).map(|_| Arc::new(SleepFlag::new())).collect();
    let wakers: Vec<_> = parts.iter().map(|part| part.waker.clone()).collect();
    let mut inboxes: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    let mut roads: Vec<Vec<Option<Road<P>>>> = Vec::new();
    for from in 0..count {
        let mut row = Vec::new();
        for to in 0..count {
            row.push((from != to).then(|| {
                let (producer, consumer) = ring(HANDOVER);
                let taken = Arc::new(Counter::new());
                inboxes[to].push(Inbox { ring: consumer, taken: taken.clone() });
                Road {
                    ring: producer,
                    given: 0,
                    taken,
                    sleeping: flags[to].clone(),
                    waker: wakers[to].clone(),
                    staged: ArrayVec::new(),
                }
            }));
        }
        roads.push(row);
    }
    let mut workers = Vec::new();
    for (index, (((part, inboxes), roads), sleeping)) in
        parts.into_iter().zip(inboxes).zip(roads).zip(flags).enumerate()
    {
        let (commands, receiver) = unbounded();
        let counters = Arc::new(WorkerCounters::default());
        let (broken, broken_ports) = unbounded();
        let (events, sampling) = (Events::default(), Arc::new(Sampling::default()));
        let handle = Handle {
            commands,
            broken: broken_ports,
            waker: part.waker,
            counters: counters.clone(),
            events: events.clone(),
            sampling: sampling.clone(),
            stations: stations.clone(),
            pins: pins.clone(),
        };
        let worker = Worker {
            snapshot: part.snapshot,
            pool: part.pool,
            commands: receiver,
            broken,
            rx: Receivers::new(),
            outbox: Outbox::new(index as u16, roads, counters.clone(), takes.clone(), accounts.clone()),
            inboxes,
            sleeping,
            counters,
            frames: Burst::new(),
            notes: Box::default(),
            // Workers begin far apart: the identification is to differ between packets of one source and destination.
            ident: (index as u16).wrapping_mul(0x3fd7),
            now: 0,
            ticks: 0,
            accounts: accounts.clone(),
            limits: (Rates::default(), None),
            events,
            stations: stations.clone(),
            pins: pins.clone(),
            questions: Questions::default(),
            sampling,
            until_sample: 0,
        };
        workers.push((worker, handle));
    }
    workers
}

/// What another worker hands over.
struct Inbox<P: Platform> {
    ring: Consumer<(PortId, Buf<P>)>,
    /// The bytes that were taken out so far.
    taken: Arc<Counter>,
}

/// The way to another worker.
struct Road<P: Platform> {
    ring: Producer<(PortId, Buf<P>)>,
    /// The bytes that were put into the ring so far.
    given: u64,
    /// And those that the other worker has taken out.
    taken: Arc<Counter>,
    sleeping: Arc<SleepFlag>,
    waker: P::Waker,
    /// What goes into the ring with the burst.
    staged: ArrayVec<(PortId, Buf<P>), BURST>,
}

impl<P: Platform> Worker<P> {
    /// Carries out the commands that wait. False when one of them was to stop.
    pub fn obey(&mut self, sleeper: &mut impl Sleeper) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::AddRx(port, queue) => {
                    // One that cannot be waited for is polled, as those without a descriptor are.
                    let told = queue.wait_fd().is_some_and(|fd| sleeper.add(fd, port).is_ok());
                    self.rx.add(port, queue, told);
                    self.limits.1 = None;
                }
                Command::AddTx(port, queue) => {
                    self.outbox.add(port, queue);
                    self.limits.1 = None;
                }
                Command::Remove(port, done) => {
                    self.empty_inboxes();
                    self.give_up_held(port);
                    let rx = self.rx.remove(port);
                    if let Some(fd) = rx.as_ref().and_then(|queue| queue.wait_fd()) {
                        sleeper.remove(fd);
                    }
                    // Nobody waits for the answer only if the control side has given up, and then the queues may go here.
                    let _ = done.send(Queues { rx, tx: self.outbox.remove(port) });
                }
                // As above: nobody waits only if the control side has given up.
                Command::Tell(done) => drop(done.send(())),
                Command::Stop => return false,
            }
        }
        true
    }

    /// Takes buffers from this pool from now on.
    pub fn set_pool(&mut self, pool: P::Pool) {
        self.pool = pool;
    }

    /// Sets the time, in milliseconds since some point in the past. [`Self::run`] does so in every round.
    pub fn set_time(&mut self, now: u64) {
        (self.now, self.ticks) = (now, now.wrapping_mul(TICKS_PER_MS));
    }

    /// The same in nanoseconds.
    pub fn set_nanos(&mut self, now: u64) {
        (self.now, self.ticks) = (now / 1_000_000, now.wrapping_mul(TICKS_PER_MS / 1_000_000));
    }

    /// What came from a port and waited for its limit is dropped: the port goes.
    fn give_up_held(&self, port: PortId) {
        let held = self.rx.held(port) as u64;
        if held > 0 {
            let counters = self.counters.port(port);
            counters.rx_packets.add(held);
            counters.rx_drops.add(held);
            self.counters.rx.add(held);
            self.counters.drops(DropReason::RxPortUnknown).add(held);
        }
    }

    /// Limits the ports' rates as the newest snapshot says.
    fn take_limits(&mut self) {
        let Self { snapshot, rx, outbox, limits: (limits, of), accounts, ticks, .. } = self;
        let tables = snapshot.load();
        if of.is_none() || *limits != tables.rates {
            for port in limits.ports().chain(tables.rates.ports()) {
                let (before, rates) = (limits.get(port), tables.rates.get(port));
                let PortAccounts { to, from } = accounts.of(port);
                heed(to, before.to, rates.to, *ticks);
                heed(from, before.from, rates.from, *ticks);
                rx.limit(port, rates.from, *ticks);
                outbox.limit(port, rates.to);
            }
            limits.clone_from(&tables.rates);
        }
        *of = Some(tables.generation);
    }

    /// Polls every active receive queue and every ring once, or fewer where a command comes; how many packets that brought. Each round is a burst
    /// boundary, with or without packets: who waits for it is not held up by a worker that has nothing to do.
    pub fn round(&mut self) -> usize {
        self.outbox.set_time(self.ticks);
        if self.limits.1 != Some(self.snapshot.load().generation) {
            self.take_limits();
        }
        self.rx.heed_limits(self.ticks);
        let mut work = self.outbox.release(&mut self.pool);
        let mut turns = 1;
        for turn in 0..self.rx.polled() {
            let Some(port) = self.rx.at(turn) else { continue };
            let received = self.poll(port, self.rx.after(turn));
            work += received;
            // A command does not wait for what hundreds of ports have to say, each to all the others.
            if received > 0 && !self.commands.is_empty() {
                turns = turn + 1;
                break;
            }
        }
        self.rx.turn(turns);
        self.rx.heed_limits(self.ticks);
        work + self.take_in()
    }
}
