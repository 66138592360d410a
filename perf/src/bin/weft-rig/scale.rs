//! Cost against size, in memory: what the engine itself costs as flows, tables, ports and workers grow. No device is in it.
//!
//! Each point is a switch of its own, and its frames; the same frames without the switch are its floor. All points of a table are
//! measured in short rounds that take turns, so that what else the machine does at a moment touches all of them alike.
//! Whoever asks for the size of a table gets [`FLOWS`] flows, so that the frames cost the same at every size and every entry is used.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use weft_ffi::kernel::clock::{tsc, tsc_hz};
use weft_perf::fixed::{FixedPool, Frames, New, Sink, Source};
use weft_perf::lane::Lane;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};
use weft_switch::port::{BURST, Burst, RxQueue, TxCaps, TxQueue};

use crate::{ScaleArgs, machine};

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Flows,
    Fdb,
    Vteps,
    Routes,
    Pods,
    Workers,
    /// MAC addresses that were learned
    Stations,
    /// Not a size: every packet a new flow, against a thousand flows
    Flood,
    /// The same with addresses that nobody has: every packet another
    Scan,
    /// The same with MAC addresses: a trusted pod sends from another one with every packet
    Macs,
}

/// Flows where another size than theirs is measured: as many as the largest table has entries.
const FLOWS: u32 = 100_000;
/// What a flood is held against.
const FEW: u32 = 1000;
/// Packets of a round at least, and every flow once.
const PACKETS: u32 = 100_000;
/// How long two workers work in a round.
const WORK: Duration = Duration::from_millis(100);
/// Where the inner UDP header of a pod's frame is.
const UDP: usize = 34;
/// Ethernet, IPv4, UDP and VXLAN headers in front of an inner frame.
const TUNNEL: usize = 50;

const LOCAL: [Way; 2] = [Way::Bridge, Way::Route];
const FLAT: [Way; 4] = [Way::Bridge, Way::Route, Way::Encap, Way::Decap];
const OVER_V6: [Way; 4] = [Way::Bridge6, Way::Route6, Way::Encap6, Way::Decap6];

/// One measurement.
struct Point {
    way: Way,
    size: u32,
    /// Its frames, and how many make a round.
    packets: u32,
    lane: Lane,
    floor: Box<dyn FnMut() -> usize>,
    cycles: Vec<f64>,
    floor_cycles: Vec<f64>,
}

impl Point {
    fn new(way: Way, size: u32, sizes: Sizes, flows: u32) -> Result<Self> {
        let scene = Scene::new(sizes)?;
        let frames: Arc<Frames> = Arc::new(scene.frames(way, flows, FrameSize::MIN).collect());
        Self::of(&scene, way, size, || Source::new(frames.clone()), flows)
    }

    fn of(scene: &Scene, way: Way, size: u32, source: impl Fn() -> Source, flows: u32) -> Result<Self> {
        let lane = Lane::of(scene, way, source())?;
        let (cycles, floor_cycles) = (Vec::new(), Vec::new());
        let floor = Box::new(floor(source(), scene.sinks(way)?.len()));
        Ok(Self { way, size, packets: flows.max(PACKETS), lane, floor, cycles, floor_cycles })
    }
}

/// The source and the sinks of a point without the switch between them: a burst is sent in as many parts as it has ports to go to.
fn floor(mut source: Source, ports: usize) -> impl FnMut() -> usize {
    let (mut sink, mut pool) = (Sink::new(TxCaps::NONE), FixedPool::new(0));
    let (mut burst, mut part) = (Burst::new(), Burst::new());
    let each = BURST.div_ceil(ports.min(BURST));
    move || {
        source.rx(&mut pool, &mut burst);
        let count = burst.len();
        if each >= count {
            sink.tx(&mut burst);
        }
        while !burst.is_empty() {
            part.extend(burst.drain(burst.len().saturating_sub(each)..));
            sink.tx(&mut part);
        }
        count
    }
}

/// Cycles for a packet, over a round.
fn round(run: &mut dyn FnMut() -> usize, packets: u32) -> f64 {
    let begin = tsc();
    let mut done = 0;
    while done < packets as usize {
        done += run();
    }
    (tsc() - begin) as f64 / done as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len => (sorted[(len - 1) / 2] + sorted[len / 2]) / 2.0,
    }
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn run(args: &ScaleArgs) -> Result<()> {
    ensure!(!args.core.is_empty(), "--core: name a CPU");
    machine::pin(args.core[0])?;
    let whats = if args.what.is_empty() { What::value_variants() } else { &args.what };
    for what in whats {
        match what {
            What::Workers => workers(args)?,
            _ => points(*what, args)?,
        }
    }
    Ok(())
}

fn of(ways: &[Way], sizes: &[u32], point: impl Fn(Way, u32) -> Result<Point>) -> Result<Vec<Point>> {
    ways.iter().flat_map(|way| sizes.iter().map(|size| point(*way, *size))).collect()
}

fn make(what: What) -> Result<Vec<Point>> {
    let full = Sizes::default();
    match what {
        What::Flows => {
            let point = |way, flows| Point::new(way, flows, full, flows);
            let mut points = of(&FLAT, &[1, 10, 100, 1000, 10_000, 100_000, 1_000_000], point)?;
            points.extend(of(&OVER_V6, &[1, 1000, 100_000], point)?);
            Ok(points)
        }
        What::Fdb => of(&[Way::Bridge], &[10, 100, 1000, 10_000, 100_000], |way, macs| {
            Point::new(way, macs, Sizes { macs, pods: full.pods.min(macs), ..full }, FLOWS)
        }),
        What::Vteps => of(&[Way::Encap, Way::Decap], &[1, 10, 100, 1000, 5000], |way, vteps| {
            Point::new(way, vteps, Sizes { vteps, routes: vteps, ..full }, FLOWS)
        }),
        What::Routes => of(&[Way::Encap], &[1, 10, 100, 1000, 5000], |way, routes| {
            Point::new(way, routes, Sizes { routes, vteps: full.vteps.min(routes), ..full }, FLOWS)
        }),
        What::Pods => of(&[Way::Bridge, Way::Route, Way::Decap], &[1, 10, 50, 100, 250], |way, ports| {
            Point::new(way, ports, Sizes { pods: ports + 1, macs: ports + 1, ports, ..full }, FLOWS)
        }),
        What::Stations => of(&[Way::Bridge], &[10, 100, 1000, 10_000], |way, macs| {
            Point::new(way, macs, Sizes { macs, pods: 2, trusted: true, ..full }, FLOWS)
        }),
        What::Flood => {
            floods(&FLAT, full, |way| New::Ports(if way.is_tunnelled() { TUNNEL + UDP } else { UDP }))
        }
        What::Scan => floods(&[Way::Route], full, |_| New::Destination),
        What::Macs => floods(&[Way::Bridge], Sizes { trusted: true, ..full }, |_| New::Station),
        What::Workers => Ok(Vec::new()),
    }
}

/// The same frames as they are, of [`FEW`] flows, and each with something new.
fn floods(ways: &[Way], sizes: Sizes, what: impl Fn(Way) -> New) -> Result<Vec<Point>> {
    of(ways, &[FEW, u32::MAX], |way, flows| {
        let scene = Scene::new(sizes)?;
        let frames: Arc<Frames> = Arc::new(scene.frames(way, FEW, FrameSize::MIN).collect());
        let source = || match flows {
            FEW => Source::new(frames.clone()),
            _ => Source::new(frames.clone()).with_new(what(way)),
        };
        Point::of(&scene, way, flows, source, FEW)
    })
}

fn points(what: What, args: &ScaleArgs) -> Result<()> {
    let mut points = make(what)?;
    // The first round warms up.
    for number in 0..=args.rounds {
        for point in &mut points {
            let cycles = round(&mut || point.lane.burst(), point.packets);
            let floor = round(&mut *point.floor, point.packets);
            if number > 0 {
                point.cycles.push(cycles);
                point.floor_cycles.push(floor);
            }
        }
    }
    for point in &points {
        let (came, _, dropped) = point.lane.counts();
        let fresh = point.size == u32::MAX;
        let right = match what {
            What::Scan if fresh => dropped == came,
            // Among all ports there are a few that a pod may not send from.
            What::Flood if fresh => dropped < came / 1000,
            _ => dropped == 0,
        };
        ensure!(
            right,
            "{}: {dropped} of {came} frames were dropped: what was measured is not their way",
            point.way.name()
        );
        report(args, what, point.way, (!fresh).then_some(point.size), &point.cycles, &point.floor_cycles);
    }
    Ok(())
}

/// One line. `size`: none of which every packet is new.
fn report(args: &ScaleArgs, what: What, way: Way, size: Option<u32>, cycles: &[f64], floor: &[f64]) {
    let name = what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let hz = tsc_hz();
    let (middle, least) = (median(cycles), best(cycles));
    if args.json {
        let row = json!({
            "what": name,
            "way": way.name(),
            "size": size.map_or_else(|| "new".into(), serde_json::Value::from),
            "cycles_per_packet": middle,
            "best": least,
            "floor": median(floor),
            "floor_best": best(floor),
            "mpps": hz as f64 / middle / 1e6,
            "rounds": cycles,
            "tsc_hz": hz,
        });
        println!("{row}");
    } else {
        let size = size.map_or_else(|| "new".to_owned(), |size| size.to_string());
        println!(
            "{name:8} {:7} {size:>8}  {middle:7.1} cycles/packet (best {least:.1}), of which source and sink {:.1}",
            way.name(),
            median(floor),
        );
    }
}

/// One worker and two, each with a source of its own on a CPU of its own.
fn workers(args: &ScaleArgs) -> Result<()> {
    ensure!(args.core.len() >= 2, "--core: two workers need two CPUs");
    for way in LOCAL {
        let scene = Scene::new(Sizes::default())?;
        let frames: Arc<Frames> = Arc::new(scene.frames(way, 1000, FrameSize::MIN).collect());
        let (mut cycles, mut floors) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for number in 0..=args.rounds {
            for count in [1, 2] {
                let cores = &args.core[..count];
                let worked = together(cores, Lane::idle(&scene, way, count)?, |mut lane: Lane| {
                    lane.begin(Source::new(frames.clone()))?;
                    Ok(move || lane.burst())
                })?;
                let looped =
                    together(cores, vec![(); count], |()| Ok(floor(Source::new(frames.clone()), 1)))?;
                if number > 0 {
                    cycles[count - 1].push(worked);
                    floors[count - 1].push(looped);
                }
            }
        }
        for count in [1, 2] {
            report(args, What::Workers, way, Some(count as u32), &cycles[count - 1], &floors[count - 1]);
        }
    }
    Ok(())
}

/// Cycles of time for a packet of all threads together, which work on these CPUs at the same time for [`WORK`].
fn together<T: Send, F: FnMut() -> usize>(
    cores: &[usize],
    each: Vec<T>,
    make: impl Fn(T) -> Result<F> + Sync,
) -> Result<f64> {
    let barrier = Barrier::new(cores.len());
    let cycles = (WORK.as_secs_f64() * tsc_hz() as f64) as u64;
    let rates = std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .zip(each)
            .map(|(core, one)| {
                let (barrier, make) = (&barrier, &make);
                scope.spawn(move || {
                    let run = machine::pin(*core).and_then(|()| make(one));
                    // Whoever cannot work must not let the others wait.
                    barrier.wait();
                    let mut run = run?;
                    // Fills the caches.
                    for _ in 0..1000 {
                        run();
                    }
                    let (begin, mut done) = (tsc(), 0);
                    while tsc() - begin < cycles {
                        done += run();
                    }
                    Ok(done as f64 / (tsc() - begin) as f64)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut rate = 0.0;
    for one in rates {
        let one: Result<f64> = one.map_err(|_| anyhow::anyhow!("a worker ended in a panic"))?;
        rate += one?;
    }
    Ok(1.0 / rate)
}
