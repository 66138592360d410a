//! What a packet costs, without devices: from rx to tx, and the stages that are worth a look of their own.
//!
//! "platform" is the share of the source and the sink: to be taken off the ways through the switch.
//! Everything is run once more before it is measured, with its allocations counted: one of them ends the run.
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hash::{BuildHasher, BuildHasherDefault};
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_perf::fixed::{FixedBuf, FixedPool, Frames, Sink, Source};
use weft_perf::lane::Lane;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};
use weft_switch::apply::{Applier, Outcome};
use weft_switch::classify::usual::{Look, Usual};
use weft_switch::classify::{Action, Ingress, LastHits, classify, classify_tunnel};
use weft_switch::counters::WorkerCounters;
use weft_switch::drop_reason::DropReason;
use weft_switch::event::Events;
use weft_switch::limits::Buckets;
use weft_switch::offload::{Checksum, Offload};
use weft_switch::packet::{BufPool, PacketBuf};
use weft_switch::parse::{Brief, parse, parse_tunnel};
use weft_switch::port::{BURST, Burst, RxQueue, TxCaps, TxQueue};
use weft_switch::questions::Questions;
use weft_switch::stations::Stations;
use weft_switch::tables::{KeyHasher, NextHop, Routes, Snapshot, v4_key};
use weft_switch::types::{MacAddr, PortId, Vni};
use weft_switch::wire::checksum::Sum;

/// A frame of the shortest length, and one that nearly fills the link.
const SIZES: [FrameSize; 2] = [FrameSize::MIN, FrameSize::Bytes(1400)];

fn scene() -> Scene {
    Scene::new(Sizes::default()).unwrap()
}

fn frames(way: Way, flows: u32, size: FrameSize) -> Arc<Frames> {
    Arc::new(scene().frames(way, flows, size).collect())
}

/// How often something is done while its allocations are counted.
const COUNTED: usize = 1000;

/// Has it shown that it allocates nothing, then measured.
#[track_caller]
fn bench<T>(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, mut body: impl FnMut() -> T) {
    // What is taken once, such as a thread's buffers, is taken here.
    black_box(body());
    let seen = allocation_counter::measure(|| (0..COUNTED).for_each(|_| drop(black_box(body()))));
    assert_eq!(seen.count_total, 0, "it allocates");
    group.bench_function(id, |b| b.iter(&mut body));
}

/// Throughput is in frames: the time of an iteration is a burst's, divided by it a frame's.
fn pipeline(c: &mut Criterion) {
    for size in SIZES {
        let mut group = c.benchmark_group(format!("pipeline/{size}"));
        group.throughput(Throughput::Elements(BURST as u64));
        let (mut source, mut sink) = (Source::new(frames(Way::Bridge, 1, size)), Sink::new(TxCaps::NONE));
        let (mut pool, mut burst) = (FixedPool::new(0), Burst::new());
        bench(&mut group, BenchmarkId::from_parameter("platform"), || {
            source.rx(&mut pool, &mut burst);
            sink.tx(&mut burst);
        });
        for way in Way::ALL {
            for flows in [1, 1000] {
                let mut lane = Lane::new(way, flows, size).unwrap();
                bench(&mut group, BenchmarkId::new(way.name(), flows), || assert_eq!(lane.burst(), BURST));
                assert_eq!(lane.counts().2, 0, "a way that drops measures nothing");
            }
        }
        group.finish();
    }
}

/// Frames whose checksum the sender has left to be filled in, to ways out that take only finished ones, beside those that are
/// finished: the difference is the sum over the frame.
fn finishing(c: &mut Criterion) {
    let partial = Checksum::Partial { start: 34, offset: 6 };
    for size in SIZES {
        let mut group = c.benchmark_group(format!("finish/{size}"));
        group.throughput(Throughput::Elements(BURST as u64));
        for way in [Way::Bridge, Way::Encap] {
            for (name, checksum) in
                [("unverified", Checksum::Unverified), ("verified", Checksum::Verified), ("partial", partial)]
            {
                let source = Source::new(frames(way, 1000, size)).in_state(Offload { checksum, gso: None });
                let mut lane = Lane::of(&scene(), way, source).unwrap();
                bench(&mut group, BenchmarkId::new(way.name(), name), || assert_eq!(lane.burst(), BURST));
                assert_eq!(lane.counts().2, 0, "a way that drops measures nothing");
            }
        }
        group.finish();
    }
}

/// What a burst of frames is read by, where the switch's tables are near and where they are not; and the same with what is asked
/// when this says nothing.
fn usual(c: &mut Criterion) {
    let many = Sizes { vteps: 5000, routes: 5000, macs: 100_000, ..Sizes::default() };
    for (place, sizes) in [("near", Sizes::default()), ("far", many)] {
        let scene = Scene::new(sizes).unwrap();
        let (tables, stations) = (scene.tables().unwrap(), Stations::default());
        let mut group = c.benchmark_group(format!("usual, tables {place}"));
        group.throughput(Throughput::Elements(BURST as u64));
        for way in [Way::Bridge, Way::Route, Way::Encap, Way::Decap] {
            let id = Scene::source(way).unwrap();
            let from = Ingress { id, port: tables.ports.get(id).unwrap(), stations: &stations, now: 0 };
            let burst = burst_of(&scene, way);
            let mut looks = [Look::UNKNOWN; BURST];
            bench(&mut group, BenchmarkId::new("look", way.name()), || {
                let mut usual = Usual::new(&tables, &from);
                look_at(&mut usual, way, black_box(&burst), &mut looks);
            });
            let mut decided = [(Action::Consume, Brief::UNREAD); BURST];
            bench(&mut group, BenchmarkId::new("decide", way.name()), || {
                let mut usual = Usual::new(&tables, &from);
                for (look, (action, brief)) in black_box(&looks).iter().zip(&mut decided) {
                    assert!(usual.decide(look, action, brief));
                }
            });
            if Usual::new(&tables, &from).must_confirm() {
                bench(&mut group, BenchmarkId::new("confirm", way.name()), || {
                    let usual = Usual::new(&tables, &from);
                    for (frame, (action, brief)) in black_box(&burst).iter().zip(&decided) {
                        assert!(usual.confirm(frame, *action, brief));
                    }
                });
            }
            bench(&mut group, BenchmarkId::new("parse and classify", way.name()), || {
                at_length(&tables, &from, way, black_box(&burst))
            });
        }
        for way in [Way::Bridge6, Way::Route6, Way::Encap6, Way::Decap6] {
            let id = Scene::source(way).unwrap();
            let from = Ingress { id, port: tables.ports.get(id).unwrap(), stations: &stations, now: 0 };
            let burst = burst_of(&scene, way);
            bench(&mut group, BenchmarkId::new("look and decide", way.name()), || {
                let mut usual = Usual::new(&tables, &from);
                for frame in black_box(&burst) {
                    let decided = usual.decide_other(frame, &Look::UNKNOWN);
                    assert!(black_box(decided).is_some());
                }
            });
            bench(&mut group, BenchmarkId::new("parse and classify", way.name()), || {
                at_length(&tables, &from, way, black_box(&burst))
            });
        }
        group.finish();
    }
}

/// A burst of as many flows.
fn burst_of(scene: &Scene, way: Way) -> Burst<FixedBuf> {
    let mut pool = FixedPool::new(BURST);
    let frames = scene.frames(way, BURST as u32, FrameSize::MIN);
    frames.map(|frame| packet(&mut pool, &frame)).collect()
}

fn packet(pool: &mut FixedPool, frame: &[u8]) -> FixedBuf {
    let mut packet = pool.alloc(frame.len()).unwrap();
    packet.head_mut().copy_from_slice(frame);
    packet
}

fn look_at(usual: &mut Usual<'_>, way: Way, burst: &Burst<FixedBuf>, looks: &mut [Look<Ipv4Addr>; BURST]) {
    for (frame, look) in burst.iter().zip(looks) {
        match way.is_tunnelled() {
            true => usual.look_through(frame, look),
            false => usual.look(frame, look),
        }
        usual.prefetch(look);
    }
}

/// As the packets are read that are not usual.
fn at_length(tables: &Snapshot, from: &Ingress<'_>, way: Way, burst: &Burst<FixedBuf>) {
    let mut last = LastHits::default();
    for frame in burst {
        let head = frame.head();
        let read = if way.is_tunnelled() {
            let (parsed, outer) = parse_tunnel(frame, tables).unwrap();
            let action = classify_tunnel(tables, &mut last, from, head, &parsed, &outer, None);
            (action, Brief::of(&parsed, Some(&outer)))
        } else {
            let parsed = parse(head, frame.len(), 0).unwrap();
            (classify(tables, &mut last, from, head, &parsed, None), Brief::of(&parsed, None))
        };
        black_box(&read);
    }
}

fn reading(c: &mut Criterion) {
    let (tables, mut pool) = (scene().tables().unwrap(), FixedPool::new(2));
    let mut group = c.benchmark_group("parse");
    for way in [Way::Route, Way::Decap, Way::DecapValid] {
        let frame = scene().frames(way, 1, FrameSize::MIN).next().unwrap();
        if !way.is_tunnelled() {
            // By reference: handing the result out by value would cost more than parsing.
            bench(&mut group, BenchmarkId::from_parameter("plain"), || {
                black_box(&parse(black_box(&frame), frame.len(), 0));
            });
            continue;
        }
        let packet = packet(&mut pool, &frame);
        assert!(parse_tunnel(&packet, &tables).is_ok());
        bench(&mut group, BenchmarkId::from_parameter(way.name()), || {
            black_box(&parse_tunnel(black_box(&packet), &tables));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("checksum");
    for length in [20, 64, 1400, 9000] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        bench(&mut group, BenchmarkId::from_parameter(length), || {
            Sum::new().add(black_box(&bytes)).checksum()
        });
    }
    group.finish();
}

fn hashing(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    let hasher = BuildHasherDefault::<KeyHasher>::default();
    bench(&mut group, BenchmarkId::from_parameter("mac"), || {
        hasher.hash_one(black_box(MacAddr([2, 0, 0, 0, 1, 7])))
    });
    bench(&mut group, BenchmarkId::from_parameter("ipv4"), || {
        hasher.hash_one(black_box(Ipv4Addr::new(10, 244, 1, 7)))
    });
    bench(&mut group, BenchmarkId::from_parameter("ipv6"), || {
        hasher.hash_one(black_box(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 7)))
    });
    let peer = v4_key(Ipv4Addr::new(172, 16, 0, 7).to_bits(), 1);
    bench(&mut group, BenchmarkId::from_parameter("peer"), || hasher.hash_one(black_box(peer)));
    group.finish();
}

/// Keys come in an order that the processor cannot guess, and each entry is asked for as often as any other.
fn lookup(c: &mut Criterion) {
    let mut at = 0u32;
    let mut next = move |of: u32| {
        at = at.wrapping_add(0x9e37_79b1);
        ((u64::from(at) * u64::from(of)) >> 32) as u32
    };
    let mut group = c.benchmark_group("lookup");
    for macs in [250, 100_000] {
        let tables = Scene::new(Sizes { macs, ..Sizes::default() }).unwrap().tables().unwrap();
        bench(&mut group, BenchmarkId::new("fdb", macs), || {
            let [a, b, c, d] = next(macs).to_be_bytes();
            let found = tables.fdb.get(&MacAddr([2, 0, a, b, c, d]));
            assert!(found.is_some());
            found.copied()
        });
    }
    let tables = scene().tables().unwrap();
    bench(&mut group, BenchmarkId::new("pods", 250), || {
        let found = tables.neighbours4.get(&Ipv4Addr::from_bits(0x0af4_0002 + next(250)));
        assert!(found.is_some());
        found.copied()
    });
    for nodes in [100, 5000] {
        let mut routes = Routes::default();
        for node in 0..nodes {
            routes.insert(Ipv4Addr::from_bits(0x0a00_0000 | node << 8), 24, NextHop::Vtep(node));
        }
        bench(&mut group, BenchmarkId::new("routes", nodes), || {
            let found = routes.lookup(Ipv4Addr::from_bits(0x0a00_0007 | next(nodes) << 8));
            assert!(found.is_some());
            found
        });
    }
    for vteps in [99, 5000] {
        let sizes = Sizes { vteps, routes: vteps, ..Sizes::default() };
        let (tables, vni) = (Scene::new(sizes).unwrap().tables().unwrap(), Vni::new(1).unwrap());
        bench(&mut group, BenchmarkId::new("peers", vteps), || {
            let known = tables.peers.accepts(Ipv4Addr::from_bits(0xac10_0002 + next(vteps)).into(), vni);
            assert!(known);
            known
        });
    }
    group.finish();
}

/// Keeps the packet, to be used again.
#[derive(Default)]
struct Keep(Option<FixedBuf>);

impl Outcome<FixedPool> for Keep {
    fn send(&mut self, _: &mut FixedPool, _: PortId, packet: FixedBuf) {
        self.0 = Some(packet);
    }
    fn drop(&mut self, reason: DropReason) {
        panic!("dropped: {reason:?}");
    }
    fn drop_copy(&mut self, _: PortId, reason: DropReason) {
        panic!("dropped: {reason:?}");
    }
    fn consume(&mut self) {
        panic!("consumed");
    }
    fn originate(&mut self, _: usize) {
        panic!("originated");
    }
}

/// Puts the frame into the packet again, whatever headers it has or lacks.
fn renew(packet: &mut FixedBuf, frame: &[u8]) {
    let len = packet.len();
    match frame.len().checked_sub(len) {
        Some(more) => drop(packet.prepend(more)),
        None => drop(packet.trim_front(len - frame.len())),
    }
    packet.head_mut().copy_from_slice(frame);
}

/// Carrying a way's action out on one packet, each time on the frame as it came in: "copy" is the share of putting that there.
fn applying(c: &mut Criterion) {
    let (tables, stations, counters) =
        (scene().tables().unwrap(), Stations::default(), WorkerCounters::default());
    let (events, mut questions, mut buckets) = (Events::default(), Questions::default(), Buckets::default());
    let (mut ident, mut pool) = (0, FixedPool::new(8));
    let mut group = c.benchmark_group("apply");
    for way in [Way::Bridge, Way::Route, Way::Encap, Way::Decap] {
        let frame = scene().frames(way, 1, FrameSize::MIN).next().unwrap();
        let mut packet = pool.alloc(frame.len()).unwrap();
        renew(&mut packet, &frame);
        bench(&mut group, BenchmarkId::new("copy", way.name()), || {
            renew(black_box(&mut packet), black_box(&frame));
        });
        let id = Scene::source(way).unwrap();
        let ingress = Ingress { id, port: tables.ports.get(id).unwrap(), stations: &stations, now: 0 };
        let mut last = LastHits::default();
        let (brief, action) = if way.is_tunnelled() {
            let (parsed, outer) = parse_tunnel(&packet, &tables).unwrap();
            let action = classify_tunnel(&tables, &mut last, &ingress, packet.head(), &parsed, &outer, None);
            (Brief::of(&parsed, Some(&outer)), action)
        } else {
            let parsed = parse(&frame, frame.len(), 0).unwrap();
            let action = classify(&tables, &mut last, &ingress, packet.head(), &parsed, None);
            (Brief::of(&parsed, None), action)
        };
        let mut keep = Keep(Some(packet));
        let mut applier = Applier {
            tables: &tables,
            pool: &mut pool,
            ident: &mut ident,
            from: id,
            now: 0,
            buckets: &mut buckets,
            questions: &mut questions,
            counters: &counters,
            events: &events,
        };
        bench(&mut group, BenchmarkId::from_parameter(way.name()), || {
            let mut packet = keep.0.take().unwrap();
            renew(&mut packet, black_box(&frame));
            applier.apply(packet, &brief, action, &mut keep);
        });
        assert!(keep.0.is_some());
    }
    group.finish();
}

criterion_group!(benches, pipeline, finishing, usual, reading, hashing, lookup, applying);
criterion_main!(benches);
