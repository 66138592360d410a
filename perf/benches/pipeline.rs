//! What a packet costs, without devices: from rx to tx, and the stages that are worth a look of their own.
//!
//! "platform" is the share of the source and the sink: to be taken off the ways through the switch.
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hash::{BuildHasher, BuildHasherDefault};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_perf::fixed::{FixedBuf, FixedPool, Frames, Sink, Source};
use weft_perf::lane::Lane;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};
use weft_switch::apply::{Applier, Outcome};
use weft_switch::classify::{Ingress, LastHits, classify, classify_tunnel};
use weft_switch::counters::WorkerCounters;
use weft_switch::drop_reason::DropReason;
use weft_switch::event::Events;
use weft_switch::limits::Buckets;
use weft_switch::packet::{BufPool, PacketBuf};
use weft_switch::parse::{Brief, parse, parse_tunnel};
use weft_switch::port::{BURST, Burst, RxQueue, TxCaps, TxQueue};
use weft_switch::questions::Questions;
use weft_switch::stations::Stations;
use weft_switch::tables::{KeyHasher, NextHop, Routes};
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

/// Throughput is in frames: the time of an iteration is a burst's, divided by it a frame's.
fn pipeline(c: &mut Criterion) {
    for size in SIZES {
        let mut group = c.benchmark_group(format!("pipeline/{size}"));
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function("platform", |b| {
            let (mut source, mut sink) = (Source::new(frames(Way::Bridge, 1, size)), Sink::new(TxCaps::NONE));
            let (mut pool, mut burst) = (FixedPool::new(0), Burst::new());
            b.iter(|| {
                source.rx(&mut pool, &mut burst);
                sink.tx(&mut burst);
            });
        });
        for way in Way::ALL {
            for flows in [1, 1000] {
                let mut lane = Lane::new(way, flows, size).unwrap();
                group.bench_function(BenchmarkId::new(way.name(), flows), |b| {
                    b.iter(|| assert_eq!(lane.burst(), BURST));
                });
                assert_eq!(lane.counts().2, 0, "a way that drops measures nothing");
            }
        }
        group.finish();
    }
}

fn reading(c: &mut Criterion) {
    let (tables, mut pool) = (scene().tables().unwrap(), FixedPool::new(2));
    let mut group = c.benchmark_group("parse");
    for way in [Way::Route, Way::Decap, Way::DecapValid] {
        let frame = scene().frames(way, 1, FrameSize::MIN).next().unwrap();
        if !way.is_tunnelled() {
            group.bench_function("plain", |b| {
                // By reference: handing the result out by value would cost more than parsing.
                b.iter(|| {
                    black_box(&parse(black_box(&frame), frame.len(), 0));
                });
            });
            continue;
        }
        let mut packet = pool.alloc(frame.len()).unwrap();
        packet.head_mut().copy_from_slice(&frame);
        assert!(parse_tunnel(&packet, &tables).is_ok());
        group.bench_function(way.name(), |b| {
            b.iter(|| {
                black_box(&parse_tunnel(black_box(&packet), &tables));
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("checksum");
    for length in [20, 64, 1400, 9000] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |b| {
            b.iter(|| Sum::new().add(black_box(&bytes)).checksum());
        });
    }
    group.finish();
}

fn hashing(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    let hasher = BuildHasherDefault::<KeyHasher>::default();
    group.bench_function("mac", |b| b.iter(|| hasher.hash_one(black_box(MacAddr([2, 0, 0, 0, 1, 7])))));
    group.bench_function("ipv4", |b| b.iter(|| hasher.hash_one(black_box(Ipv4Addr::new(10, 244, 1, 7)))));
    let peer = (Ipv4Addr::new(172, 16, 0, 7).to_ipv6_mapped(), 1u32);
    group.bench_function("peer", |b| b.iter(|| hasher.hash_one(black_box(peer))));
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
        group.bench_function(BenchmarkId::new("fdb", macs), |b| {
            b.iter(|| {
                let [a, b, c, d] = next(macs).to_be_bytes();
                let found = tables.fdb.get(&MacAddr([2, 0, a, b, c, d]));
                assert!(found.is_some());
                found.copied()
            });
        });
    }
    let tables = scene().tables().unwrap();
    group.bench_function(BenchmarkId::new("pods", 250), |b| {
        b.iter(|| {
            let found = tables.neighbours4.get(&Ipv4Addr::from_bits(0x0af4_0002 + next(250)));
            assert!(found.is_some());
            found.copied()
        });
    });
    for nodes in [100, 5000] {
        let mut routes = Routes::default();
        for node in 0..nodes {
            routes.insert(Ipv4Addr::from_bits(0x0a00_0000 | node << 8), 24, NextHop::Vtep(node));
        }
        group.bench_function(BenchmarkId::new("routes", nodes), |b| {
            b.iter(|| {
                let found = routes.lookup(Ipv4Addr::from_bits(0x0a00_0007 | next(nodes) << 8));
                assert!(found.is_some());
                found
            });
        });
    }
    for vteps in [99, 5000] {
        let sizes = Sizes { vteps, routes: vteps, ..Sizes::default() };
        let (tables, vni) = (Scene::new(sizes).unwrap().tables().unwrap(), Vni::new(1).unwrap());
        group.bench_function(BenchmarkId::new("peers", vteps), |b| {
            b.iter(|| {
                let known = tables.peers.accepts(Ipv4Addr::from_bits(0xac10_0002 + next(vteps)).into(), vni);
                assert!(known);
                known
            });
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
        group.bench_function(BenchmarkId::new("copy", way.name()), |b| {
            b.iter(|| renew(black_box(&mut packet), black_box(&frame)));
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
        group.bench_function(way.name(), |b| {
            b.iter(|| {
                let mut packet = keep.0.take().unwrap();
                renew(&mut packet, black_box(&frame));
                applier.apply(packet, &brief, action, &mut keep);
            });
        });
        assert!(keep.0.is_some());
    }
    group.finish();
}

criterion_group!(benches, pipeline, reading, hashing, lookup, applying);
criterion_main!(benches);
