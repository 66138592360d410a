//! weft's own workers between DPDK's own devices: for each worker a `net_pcap` device that delivers a capture without end, and a
//! `net_null` device that takes everything. What is measured is the whole program; what counts is what the sinks have counted.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use weft_ffi::dpdk::{DATA_ROOM, Eal, EalConfig, EthConfig, EthPort, HEADROOM, LARGE_ROOM, Mempool};
use weft_ffi::kernel::clock::{tsc, tsc_hz};
use weft_perf::capture;
use weft_perf::scene::{Scene, Sizes};
use weft_switch::drivers::{EpollSleeper, Native, NativePool, Rx, Tsc, Tx};
use weft_switch::drop_reason::DropReason;
use weft_switch::pins::Pins;
use weft_switch::tables::Snapshot;
use weft_switch::worker::{Command, Handle, Idle, Parts, make};
use weft_sync::counter::Counter;
use weft_sync::snapshot::{Publisher, cell};

use crate::{CoreArgs, machine};

/// Buffers that are on their way: caches of threads, bursts, what a device holds.
const IN_FLIGHT: u32 = 4096;
/// As a node's workers have it.
const POOL_CACHE: u32 = 256;
/// Up to so many frames in a capture the buffers are as large as a node's: a million of those would be 2.4 GiB.
const FEW: u32 = 200_000;
/// Large buffers: nothing here needs one.
const LARGE_BUFFERS: u32 = 8;
/// How long a frame may take, the first one above all: a worker that starts, a kernel that gives it its core.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may come where frames were dropped: there will never be all of them.
const REST: Duration = Duration::from_secs(1);

/// What the source will bring.
struct Load {
    frames: u32,
    longest: usize,
}

impl Load {
    fn of(path: &Path) -> Result<Self> {
        let mut load = Self { frames: 0, longest: 0 };
        for frame in capture::read(path)? {
            load.longest = load.longest.max(frame?.len());
            load.frames += 1;
        }
        ensure!(load.frames > 0, "there is no frame in it");
        Ok(load)
    }

    /// Bytes of a buffer. `net_pcap` repeats only frames in one piece.
    fn room(&self, wanted: Option<u16>) -> Result<u16> {
        let least =
            (usize::from(HEADROOM) + self.longest).next_multiple_of(64).max(usize::from(HEADROOM) + 64);
        let room = match wanted {
            Some(bytes) => bytes.checked_add(HEADROOM).context("--buffer: too large")?,
            None if self.frames <= FEW => DATA_ROOM,
            None => least.try_into()?,
        };
        ensure!(usize::from(room) >= least, "--buffer: the longest frame has {} bytes", self.longest);
        Ok(room)
    }
}

/// One worker's devices.
struct Pair {
    source: EthPort,
    sink: EthPort,
}

impl Pair {
    fn attach(eal: &Eal, index: usize, args: &CoreArgs, pcap: &Path, pool: &Mempool) -> Result<Self> {
        let pcap = in_devargs(pcap)?;
        let (source, sink) = match &args.sink_pcap {
            None => {
                (format!("net_pcap{index},rx_pcap={pcap},infinite_rx=1"), format!("net_null{index},no-rx=1"))
            }
            Some(out) => (
                format!("net_pcap{index},rx_pcap={pcap}"),
                format!("net_pcap{},tx_pcap={}", index + args.core.len(), in_devargs(out)?),
            ),
        };
        let config = EthConfig::default();
        Ok(Self {
            source: EthPort::attach(eal, &source, pool, &config)?,
            sink: EthPort::attach(eal, &sink, pool, &config)?,
        })
    }
}

fn in_devargs(path: &Path) -> Result<&str> {
    let text = path.to_str().filter(|text| !text.contains([',', '=', '"', '[', ']']));
    text.with_context(|| format!("{}: DPDK takes no such file name", path.display()))
}

/// Workers with their devices, at work.
struct Rig {
    pairs: Vec<Pair>,
    handles: Vec<Handle<Native>>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Keeps the tables.
    _publisher: Publisher<Snapshot>,
}

pub(crate) fn run(args: &CoreArgs) -> Result<()> {
    ensure!(args.sink_pcap.is_none() || args.core.len() == 1, "--sink-pcap goes with one --core");
    let mut pcap = args.pcap.clone();
    // A file without a name: whatever ends this program, nothing stays.
    let cut;
    if let Some(count) = args.count {
        cut = tempfile::tempfile()?;
        let frames = capture::read(&pcap).with_context(|| format!("cannot read {}", pcap.display()))?;
        pcap = format!("/proc/self/fd/{}", cut.as_raw_fd()).into();
        capture::write(&pcap, frames.map_while(Result::ok).take(count as usize))?;
    }
    let load = Load::of(&pcap).with_context(|| format!("cannot use {}", args.pcap.display()))?;
    let room = load.room(args.buffer)?;
    let buffers = (load.frames + IN_FLIGHT) * args.core.len() as u32;
    let eal = Eal::start(&EalConfig {
        memory: Mempool::bytes_for(buffers, room) + Mempool::bytes_for(LARGE_BUFFERS, LARGE_ROOM),
        hugepages: !args.no_huge,
        extra: args.huge_dir.iter().map(|dir| format!("--huge-dir={}", dir.display())).collect(),
        ..EalConfig::default()
    })?;
    let pool = Mempool::new(&eal, "weft", buffers, POOL_CACHE, room)?;
    let large = Mempool::new(&eal, "weft-large", LARGE_BUFFERS, 0, LARGE_ROOM)?;
    let hz = tsc_hz();
    let rig = Rig::start(&eal, args, &pcap, &pool, &large)?;
    let (packets, cycles) = match args.sink_pcap {
        None => rig.measure(args),
        Some(_) => rig.drain(load.frames),
    };
    let Rig { pairs, handles, .. } = rig.stop()?;
    let sum =
        |counter: fn(&Handle<Native>) -> &Counter| handles.iter().map(|h| counter(h).get()).sum::<u64>();
    let (rx, tx) = (sum(|h| &h.counters().rx), sum(|h| &h.counters().tx));
    let other_in = sum(|h| &h.counters().originated);
    let other_out = sum(|h| &h.counters().consumed) + sum(|h| &h.counters().merged);
    let dropped =
        |reason: &DropReason| handles.iter().map(|h| h.counters().drops(*reason).get()).sum::<u64>();
    let drops: Map<String, Value> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), dropped(reason)))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name, count.into()))
        .collect();
    let delivered: u64 = pairs.iter().map(|pair| pair.sink.stats().tx_packets).sum();
    let taken: u64 = pairs.iter().map(|pair| pair.source.stats().rx_packets).sum();
    ensure!(packets > 0, "nothing came out; dropped: {}", Value::from(drops));
    let seconds = cycles as f64 / hz as f64;
    println!(
        "{}",
        json!({
            "way": args.way.name(),
            "packets": packets,
            "seconds": seconds,
            "mpps": packets as f64 / seconds / 1e6,
            "cycles_per_packet": cycles as f64 / packets as f64,
            "tsc_hz": hz,
            "rx": rx,
            "tx": tx,
            "sink": delivered,
            "drops": drops,
            "workers": args.core.len(),
            "memory": eal.memory().to_string(),
            "frames": load.frames,
            "buffers": buffers,
            "buffer_bytes": room,
        })
    );
    let all_drops: u64 = DropReason::ALL.iter().map(dropped).sum();
    ensure!(
        rx + other_in == tx + other_out + all_drops,
        "the counters do not add up: {rx} in and {other_in} made, {tx} out, {other_out} kept, {all_drops} dropped"
    );
    ensure!(
        taken == rx && delivered == tx,
        "the devices have counted {taken} in and {delivered} out, weft {rx} and {tx}"
    );
    ensure!(rx == tx, "{} of {rx} frames did not come out: what is measured is not their way", rx - tx);
    Ok(())
}

impl Rig {
    fn start(eal: &Eal, args: &CoreArgs, pcap: &Path, pool: &Mempool, large: &Mempool) -> Result<Self> {
        let scene = Scene::new(Sizes::default())?;
        let from = Scene::source(args.way)?;
        let [to] = scene.sinks(args.way)?[..] else { bail!("a way out more than there are sinks") };
        let (publisher, readers) = cell(Box::new(scene.tables()?), args.core.len());
        let (mut parts, mut sleepers) = (Vec::new(), Vec::new());
        for snapshot in readers {
            let (sleeper, waker) = EpollSleeper::new()?;
            sleepers.push(sleeper);
            parts.push(Parts { snapshot, pool: NativePool::new(pool.clone(), large.clone()), waker });
        }
        let idle = Idle { spin: None, beat: Duration::from_micros(100), cycles_per_ms: tsc_hz() / 1000 };
        let mut rig =
            Self { pairs: Vec::new(), handles: Vec::new(), threads: Vec::new(), _publisher: publisher };
        for (index, ((worker, handle), sleeper)) in
            make::<Native>(parts, &Pins::default()).into_iter().zip(sleepers).enumerate()
        {
            let mut pair = Pair::attach(eal, index, args, pcap, pool)?;
            let ((mut rx, _), (_, mut tx)) = (pair.source.split(), pair.sink.split());
            let (rx, tx) = rx.pop().zip(tx.pop()).context("a device without queues")?;
            handle.send(Command::AddTx(to, Tx::Eth(tx)));
            handle.send(Command::AddRx(from, Rx::Eth(rx)));
            let (core, eal) = (args.core[index], eal.clone());
            let body = move || {
                machine::pin(core)?;
                let _registered = eal.register_thread()?;
                worker.run(sleeper, Tsc, idle);
                Ok(())
            };
            rig.threads.push(std::thread::Builder::new().name(format!("weft-worker-{index}")).spawn(body)?);
            rig.handles.push(handle);
            rig.pairs.push(pair);
        }
        Ok(rig)
    }

    /// Frames that have reached the sinks.
    fn delivered(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.sink.stats().tx_packets).sum()
    }

    /// Frames that the workers have dropped.
    fn dropped(&self) -> u64 {
        let of = |handle: &Handle<Native>| {
            DropReason::ALL.iter().map(|reason| handle.counters().drops(*reason).get()).sum::<u64>()
        };
        self.handles.iter().map(of).sum()
    }

    /// Waits until something has reached every sink, or nothing ever will.
    fn wait_for_first(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.pairs.iter().any(|pair| pair.sink.stats().tx_packets == 0) {
            if self.threads.iter().any(JoinHandle::is_finished) || Instant::now() > deadline {
                break;
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Frames that the sinks took while it was measured, and the cycles that passed.
    fn measure(&self, args: &CoreArgs) -> (u64, u64) {
        self.wait_for_first();
        sleep(args.warm_up);
        let (packets, begin) = (self.delivered(), tsc());
        sleep(args.seconds);
        let (packets, cycles) = (self.delivered() - packets, tsc() - begin);
        (packets, cycles)
    }

    /// As [`Self::measure`], of a source that ends: from the first frame until all are through, or nothing more comes.
    fn drain(&self, frames: u32) -> (u64, u64) {
        let begin = tsc();
        self.wait_for_first();
        let (mut last, mut at) = (0, Instant::now());
        let silence = || if self.dropped() > 0 { REST } else { PATIENCE };
        while self.delivered() < u64::from(frames) && at.elapsed() < silence() {
            if self.delivered() > last {
                (last, at) = (self.delivered(), Instant::now());
            }
            sleep(Duration::from_millis(1));
        }
        (self.delivered(), tsc() - begin)
    }

    /// Ends the workers; the devices stay, for their counters.
    fn stop(mut self) -> Result<Self> {
        for handle in &self.handles {
            handle.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(ended) => ended?,
                Err(_) => bail!("a worker ended in a panic"),
            }
        }
        Ok(self)
    }
}
