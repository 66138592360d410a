//! Owns the dataplane: DPDK, the workers' threads, the ports' queues and the publication of snapshots.
//!
//! Used from one task of the control side. What has to wait for the workers (a port's removal) waits asynchronously; no worker
//! ever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;
use tracing::{info, warn};
use weft_ffi::dpdk::{
    DATA_ROOM, Eal, EalConfig, EalError, EthPort, LARGE_ROOM, MemoryKind, Mempool, PoolError, VhostPort,
};
use weft_ffi::kernel::clock::{tsc, tsc_hz};
use weft_switch::counters::WorkerCounters;
use weft_switch::drivers::{EpollSleeper, Native, NativePool, Rx, Tsc, Tx};
use weft_switch::drop_reason::DropReason;
use weft_switch::event::Event;
use weft_switch::pins::{Pin, Pins};
use weft_switch::stations::{Station, seconds};
use weft_switch::tables::Snapshot;
use weft_switch::types::{Generation, MAX_PORTS, MacAddr, PortId};
use weft_switch::worker::{Command, Handle, Idle, Parts, make};
use weft_sync::snapshot::{Publisher, cell};

use crate::{config, conntrack};

mod close;

pub use close::Closing;
use close::gather;

/// Mbufs that a worker keeps at hand.
const POOL_CACHE: u32 = 256;
/// Large ones: those of a burst.
const LARGE_CACHE: u32 = 32;
/// Large ones for each worker that there should be whatever the memory is.
const LARGE_PER_WORKER: u32 = 32;
/// How long a worker may take to pass a burst boundary or to obey before that is a defect worth a message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the dataplane could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// DPDK.
    #[error("cannot start DPDK: {0}")]
    Eal(#[from] EalError),
    /// Packet buffers.
    #[error("cannot make the packet buffers (dataplane.memory): {0}")]
    Pool(#[from] PoolError),
    /// A worker.
    #[error("cannot start worker {0}: {1}")]
    Worker(usize, io::Error),
    /// None free.
    #[error(
        "dataplane.hugepages is \"require\", but too few are free: reserve some (sysctl vm.nr_hugepages=128), or set \"auto\""
    )]
    NoHugepages,
    /// A core that is not there.
    #[error("dataplane.cores: there is no CPU core {0} for this process; there are {1:?}")]
    NoCore(usize, Vec<usize>),
}

/// What holds a port open beside its queues, to be closed after them.
#[derive(Default)]
pub enum Device {
    /// A TAP or a packet socket: the queues are all there is.
    #[default]
    Queues,
    /// A vhost-user socket.
    Vhost(VhostPort),
    /// A DPDK device.
    Eth(EthPort),
}

/// What a port has counted, summed over the workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Frames and bytes received.
    pub rx: (u64, u64),
    /// Frames and bytes sent.
    pub tx: (u64, u64),
    /// Frames received and dropped; frames that could not be sent.
    pub drops: (u64, u64),
    /// Frames that had to wait for the port's limit; how often nothing more was taken from it for that.
    pub held: (u64, u64),
}

struct PortRecord {
    device: Device,
    /// What its number had counted before it was this port.
    before: PortTotals,
}

/// How busy a worker was in the last second, and how much of it asleep.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: u64,
    busy: u64,
    busy_share: f64,
    asleep: u64,
    asleep_share: f64,
}

/// One worker as the control side sees it.
pub struct WorkerSide {
    handle: Handle<Native>,
    /// The core that it is pinned to.
    pub core: Option<usize>,
    sample: Sample,
    thread: Option<JoinHandle<()>>,
}

impl WorkerSide {
    /// What it has counted.
    pub fn counters(&self) -> &WorkerCounters {
        self.handle.counters()
    }

    /// The share of time that it was busy, 0 to 1, over the last sampling period.
    pub fn busy(&self) -> f64 {
        self.sample.busy_share
    }

    /// The share of time that it slept, 0 to 1, over the last sampling period.
    pub fn asleep(&self) -> f64 {
        self.sample.asleep_share
    }
}

/// The running dataplane.
pub struct Dataplane {
    eal: Eal,
    pool: Mempool,
    large_pool: Mempool,
    buffers: usize,
    publisher: Publisher<Snapshot>,
    pins: Pins,
    /// How often the pins were swept.
    sweeps: usize,
    workers: Vec<WorkerSide>,
    ports: BTreeMap<PortId, PortRecord>,
    next_port: usize,
}

impl Dataplane {
    /// Starts DPDK and the workers, which have nothing to do yet. `file_prefix` tells apart what DPDK leaves in the file
    /// system. `subnets`: the node's, whose pods' connections the kernel may translate already.
    pub fn start(
        settings: &config::Dataplane,
        file_prefix: &str,
        subnets: Vec<IpNet>,
    ) -> Result<Self, StartError> {
        let cores = cores(settings)?;
        let pins = Pins::new(settings.pins as usize);
        let is_own = move |address: IpAddr| subnets.iter().any(|subnet| subnet.contains(&address));
        // Before DPDK, which takes its time: few connections are known by the time that the workers start.
        if let Err(error) = conntrack::read_beside(pins.clone(), is_own, Self::second) {
            warn!("the kernel's connections are not read: {error}");
        }
        let Buffers { small, large } = Buffers::of(settings.memory as usize, settings.workers);
        let eal = Eal::start(&EalConfig {
            memory: Mempool::bytes_for(small, DATA_ROOM) + Mempool::bytes_for(large, LARGE_ROOM),
            file_prefix: Some(file_prefix.to_owned()),
            hugepages: settings.hugepages != config::Hugepages::Never,
            ..EalConfig::default()
        })?;
        if settings.hugepages == config::Hugepages::Require && eal.memory() != MemoryKind::Hugepages {
            return Err(StartError::NoHugepages);
        }
        info!("{small} packet buffers, and {large} for large frames, in {}", eal.memory());
        let pool = Mempool::new(&eal, "weft", small, POOL_CACHE, DATA_ROOM)?;
        let large_cache = LARGE_CACHE.min(large / (4 * settings.workers as u32).max(1));
        let large_pool = Mempool::new(&eal, "weft-large", large, large_cache, LARGE_ROOM)?;
        let (publisher, readers) = cell(Box::<Snapshot>::default(), settings.workers);
        let mut sleepers = Vec::new();
        let mut parts = Vec::new();
        for (index, snapshot) in readers.into_iter().enumerate() {
            let (sleeper, waker) = EpollSleeper::new().map_err(|e| StartError::Worker(index, e))?;
            sleepers.push(sleeper);
            parts.push(Parts { snapshot, pool: NativePool::new(pool.clone(), large_pool.clone()), waker });
        }
        let idle = Idle {
            spin: match settings.idle {
                config::Idle::Poll => None,
                config::Idle::Adaptive => Some(tsc_hz() / 1_000_000 * u64::from(settings.spin_us)),
            },
            beat: Duration::from_micros(settings.poll_beat_us.into()),
            cycles_per_ms: tsc_hz() / 1000,
        };
        let mut dataplane = Self {
            eal,
            pool,
            large_pool,
            buffers: small as usize + large as usize,
            publisher,
            pins: pins.clone(),
            sweeps: 0,
            workers: Vec::new(),
            ports: BTreeMap::new(),
            next_port: 0,
        };
        for (index, ((worker, handle), sleeper)) in
            make::<Native>(parts, &pins).into_iter().zip(sleepers).enumerate()
        {
            let (core, eal) = (cores.get(index).copied(), dataplane.eal.clone());
            let body = move || {
                let pinned =
                    core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
                if !pinned {
                    warn!("worker {index} could not be pinned to core {core:?}");
                }
                // Without it packets still move, only without the pool's cache.
                let registered = eal.register_thread();
                if let Err(error) = &registered {
                    warn!("worker {index} has no buffer cache: {error}");
                }
                worker.run(sleeper, Tsc, idle);
            };
            let thread = std::thread::Builder::new()
                .name(format!("weft-worker-{index}"))
                .spawn(body)
                .map_err(|e| StartError::Worker(index, e))?;
            let sample = Sample { at: tsc(), ..Sample::default() };
            dataplane.workers.push(WorkerSide { handle, core, sample, thread: Some(thread) });
        }
        Ok(dataplane)
    }

    /// DPDK, for those that open ports.
    pub fn eal(&self) -> &Eal {
        &self.eal
    }

    /// The packet buffers that devices receive into: the small ones.
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// How many packet buffers there are, of both sizes.
    pub fn buffers(&self) -> usize {
        self.buffers
    }

    /// How many of them nobody holds.
    pub fn free_buffers(&self) -> usize {
        self.pool.available() + self.large_pool.available()
    }

    /// The workers.
    pub fn workers(&self) -> &[WorkerSide] {
        &self.workers
    }

    /// A number for a new port. Numbers are used again as late as possible, so that no packet that is still on its way
    /// to the old port meets the new one.
    pub fn new_port(&mut self) -> Option<PortId> {
        for _ in 0..MAX_PORTS {
            let id = PortId::new(self.next_port).ok()?;
            self.next_port = (self.next_port + 1) % MAX_PORTS;
            if !self.ports.contains_key(&id) {
                let before = self.raw_totals(id);
                self.ports.insert(id, PortRecord { device: Device::Queues, before });
                return Some(id);
            }
        }
        None
    }

    /// Gives back a number that no queue was attached for.
    pub fn forget_port(&mut self, id: PortId) {
        self.ports.remove(&id);
    }

    /// Keeps `device` open as long as the port is.
    pub fn hold(&mut self, id: PortId, device: Device) {
        if let Some(record) = self.ports.get_mut(&id) {
            record.device = device;
        }
    }

    /// The device behind a port.
    pub fn device(&self, id: PortId) -> Option<&Device> {
        self.ports.get(&id).map(|record| &record.device)
    }

    /// Has a worker send to a queue, from its next round on.
    pub fn attach_tx(&self, worker: usize, id: PortId, queue: Tx) {
        if let Some(side) = self.workers.get(worker) {
            side.handle.send(Command::AddTx(id, queue));
        }
    }

    /// Has a worker receive from a queue. The port must be in the snapshot published last.
    pub fn attach_rx(&self, worker: usize, id: PortId, queue: Rx) {
        if let Some(side) = self.workers.get(worker) {
            side.handle.send(Command::AddRx(id, queue));
        }
    }

    /// Waits until every worker has carried out what it was told before this. It forwards by the newest snapshot from then on: a
    /// worker has no packet in hand while it obeys, and looks for the newest with the next.
    pub async fn obeyed(&self) {
        let mut told = Vec::new();
        for side in &self.workers {
            let (done, answer) = crossbeam_channel::bounded(1);
            side.handle.send(Command::Tell(done));
            told.push(answer);
        }
        let answers = gather(told, Instant::now() + PATIENCE).await;
        if answers.len() < self.workers.len() {
            warn!("a worker does not obey");
        }
    }

    /// Publishes the next snapshot, which `make` makes for its generation. Its parts that are as they were stay those of the one before.
    pub fn publish(&mut self, make: impl FnOnce(Generation) -> Snapshot) -> Generation {
        let before = self.publisher.current();
        let generation = Generation(before.generation.0 + 1);
        let mut next = Box::new(make(generation));
        next.keep(before);
        self.publisher.publish(next);
        self.publisher.reclaim();
        generation
    }

    /// The generation published last.
    pub fn generation(&self) -> Generation {
        self.publisher.current().generation
    }

    /// The snapshot published last.
    pub fn snapshot(&self) -> &Snapshot {
        self.publisher.current()
    }

    /// The generation of the snapshot that a worker uses; `None` while it sleeps.
    pub fn generation_of(&self, worker: usize) -> Option<Generation> {
        // Publications and generations are counted together: each publication makes one generation.
        let behind = self.publisher.publication() - self.publisher.reached_by(worker)?;
        Some(Generation(self.generation().0.saturating_sub(behind)))
    }

    /// The time by which workers learn, in seconds.
    fn second() -> u32 {
        seconds(tsc() / (tsc_hz() / 1000).max(1))
    }

    /// The stations behind trusted ports that were learned, in no order.
    pub fn learned(&self) -> impl Iterator<Item = Station> + '_ {
        let (now, ageing) = (Self::second(), self.ageing());
        let table = self.workers.first().map(|side| side.handle.learned());
        table.into_iter().flat_map(move |table| table.iter(now)).filter(move |station| station.age < ageing)
    }

    /// How many stations were learned behind a port.
    pub fn learned_count(&self, id: PortId) -> u32 {
        self.workers.first().map_or(0, |side| side.handle.learned().count(id))
    }

    /// True while a station is known to be behind a port by what it sends.
    pub fn has_learned(&self, mac: MacAddr, id: PortId) -> bool {
        let table = self.workers.first().map(|side| side.handle.learned());
        table.and_then(|table| table.lookup(mac, Self::second(), self.ageing())) == Some(id)
    }

    /// The connections whose answers go to the host port, in no order.
    pub fn pins(&self) -> impl Iterator<Item = Pin> + '_ {
        self.pins.iter(Self::second())
    }

    /// How many there are, and how many there is room for.
    pub fn pin_counts(&self) -> (u64, u64) {
        (self.pins.count() as u64, self.pins.capacity() as u64)
    }

    /// After how many seconds without a frame a station is forgotten.
    pub fn ageing(&self) -> u32 {
        self.publisher.current().ageing
    }

    /// What the workers tell, worker by worker, until nothing waits.
    pub fn take_events(&self) -> impl Iterator<Item = Event> + '_ {
        self.workers.iter().flat_map(|side| std::iter::from_fn(|| side.handle.events().take()))
    }

    /// Has the workers tell of one packet in so many, of none at 0.
    pub fn sample_flows(&self, one_in: u32) {
        self.workers.iter().for_each(|side| side.handle.sample_flows(one_in));
    }

    /// Looks how busy the workers have been since the last call, and makes room for new stations and connections.
    pub fn sample(&mut self) {
        let now = tsc();
        for side in &mut self.workers {
            let counters = side.handle.counters();
            let (busy, (asleep, _)) = (counters.busy_cycles.get(), counters.asleep.until(now));
            let passed = now.wrapping_sub(side.sample.at).max(1);
            let share = |new: u64, old: u64| (new.saturating_sub(old) as f64 / passed as f64).min(1.0);
            side.sample = Sample {
                at: now,
                busy,
                busy_share: share(busy, side.sample.busy),
                asleep,
                asleep_share: share(asleep, side.sample.asleep),
            };
        }
        if let Some(side) = self.workers.first() {
            side.handle.learned().sweep(Self::second(), self.ageing());
        }
        let tables = self.publisher.current();
        self.sweeps = self.sweeps.wrapping_add(1);
        self.pins.sweep(self.sweeps, Self::second(), |address| tables.leads_to_a_pod(address));
        self.publisher.reclaim();
    }

    /// The ports that have broken since the last call.
    pub fn take_broken(&self) -> BTreeSet<PortId> {
        // Each worker tells of its own queue, one perhaps when the port has been closed already.
        let told = self.workers.iter().flat_map(|side| std::iter::from_fn(|| side.handle.take_broken()));
        told.filter(|id| self.ports.contains_key(id)).collect()
    }

    /// What a port has counted since it was made.
    pub fn port_totals(&self, id: PortId) -> PortTotals {
        let (all, before) = (self.raw_totals(id), self.ports.get(&id).map(|r| r.before).unwrap_or_default());
        let less = |a: (u64, u64), b: (u64, u64)| (a.0 - b.0, a.1 - b.1);
        PortTotals {
            rx: less(all.rx, before.rx),
            tx: less(all.tx, before.tx),
            drops: less(all.drops, before.drops),
            held: less(all.held, before.held),
        }
    }

    fn raw_totals(&self, id: PortId) -> PortTotals {
        let mut totals = PortTotals::default();
        for counters in self.workers.iter().map(|side| side.handle.counters().port(id)) {
            totals.rx.0 += counters.rx_packets.get();
            totals.rx.1 += counters.rx_bytes.get();
            totals.tx.0 += counters.tx_packets.get();
            totals.tx.1 += counters.tx_bytes.get();
            totals.drops.0 += counters.rx_drops.get();
            totals.drops.1 += counters.tx_drops.get();
            totals.held.0 += counters.delayed.get();
            totals.held.1 += counters.paused.get();
        }
        totals
    }

    /// How many frames were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|side| side.handle.counters().drops(reason).get()).sum()
    }

    /// Ends the workers. The kernel's devices stay.
    pub fn stop(mut self) {
        for side in &self.workers {
            side.handle.send(Command::Stop);
        }
        for side in &mut self.workers {
            if side.thread.take().is_some_and(|thread| thread.join().is_err()) {
                warn!("a worker ended in a panic");
            }
        }
    }
}

/// The core of each worker: the configured ones; else, where there are more cores than workers, the last ones, so that
/// the first, which most interrupts go to, stays free.
fn cores(settings: &config::Dataplane) -> Result<Vec<usize>, StartError> {
    let there: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    if let Some(missing) = settings.cores.iter().find(|core| !there.contains(core)) {
        return Err(StartError::NoCore(*missing, there));
    }
    if !settings.cores.is_empty() {
        return Ok(settings.cores.clone());
    }
    let skip = there.len().saturating_sub(settings.workers);
    if skip == 0 && there.len() < settings.workers {
        return Ok(Vec::new());
    }
    Ok(there[skip..].to_vec())
}

/// How the memory is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buffers {
    small: u32,
    large: u32,
}

impl Buffers {
    /// Of a quarter of the memory large ones, but enough for each worker's bursts as long as half of it is left: they are needed only
    /// for what is in flight between TAPs and the ways out, and small ones do in their place.
    fn of(bytes: usize, workers: usize) -> Self {
        let most = Self::fit(bytes / 2, LARGE_ROOM);
        let wanted = LARGE_PER_WORKER.saturating_mul(workers as u32).min(most);
        let large = Self::fit(bytes / 4, LARGE_ROOM).max(wanted);
        let rest = bytes.saturating_sub(large as usize * Self::each(LARGE_ROOM));
        Self { small: Self::fit(rest, DATA_ROOM), large }
    }

    fn fit(bytes: usize, room: u16) -> u32 {
        u32::try_from(bytes / Self::each(room)).unwrap_or(u32::MAX)
    }

    /// A pool has a cost of its own, so it is asked for a large one.
    fn each(room: u16) -> usize {
        const MANY: u32 = 1 << 16;
        Mempool::bytes_for(MANY, room).div_ceil(MANY as usize).max(1)
    }
}

/// What DPDK's files of the weftd with this state directory are called: the same after a restart, another for a
/// second weftd.
pub fn file_prefix(state_dir: &Path) -> String {
    let hash =
        state_dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("weft-{hash:016x}")
}
