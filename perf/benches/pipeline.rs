//! What a packet costs, without devices: from rx to tx, and the stages that are worth a look of their own.
//!
//! "platform" is the share of the source and the sink: to be taken off the ways through the switch.
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_perf::fixed::{FixedPool, circle};
use weft_perf::lane::{Lane, Way, frames, tables};
use weft_switch::parse::parse;
use weft_switch::port::{BURST, Burst, RxQueue, TxCaps, TxQueue};
use weft_switch::tables::{NextHop, Routes};
use weft_switch::wire::checksum::Sum;

/// A frame of the shortest length, and one that fills the link.
const LENGTHS: [usize; 2] = [64, 1400];

/// Throughput is in frames: the time of an iteration is a burst's, divided by it a frame's.
fn pipeline(c: &mut Criterion) {
    for length in LENGTHS {
        let mut group = c.benchmark_group(format!("pipeline/{length}"));
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function("platform", |b| {
            let (mut source, mut sink) = circle(frames(Way::Bridge, 1, length).unwrap(), TxCaps::NONE);
            let (mut pool, mut burst) = (FixedPool::new(0), Burst::new());
            b.iter(|| {
                source.rx(&mut pool, &mut burst);
                sink.tx(&mut burst);
            });
        });
        for way in Way::ALL {
            for flows in [1, 1000] {
                let mut lane = Lane::new(way, flows, length).unwrap();
                group.bench_function(BenchmarkId::new(way.name(), flows), |b| {
                    b.iter(|| assert_eq!(lane.burst(), BURST));
                });
                assert_eq!(lane.counts().2, 0, "a way that drops measures nothing");
            }
        }
        group.finish();
    }
}

fn stages(c: &mut Criterion) {
    let frame = &frames(Way::Route, 1, 64).unwrap()[0];
    c.bench_function("parse", |b| {
        // By reference: handing the result out by value would cost more than parsing.
        b.iter(|| {
            black_box(&parse(black_box(frame), frame.len(), 0));
        });
    });

    let tables = tables().unwrap();
    let mut flow = 0u32;
    c.bench_function("routes/100_nodes", |b| {
        b.iter(|| {
            flow = flow.wrapping_add(0x101);
            tables.routes4.lookup(Ipv4Addr::from_bits(0x0af4_0000 | flow & 0x3fff))
        });
    });
    let mut large = Routes::default();
    for node in 0..5000 {
        large.insert(Ipv4Addr::from_bits(0x0a00_0000 | node << 8), 24, NextHop::Vtep(node));
    }
    c.bench_function("routes/5000_nodes", |b| {
        b.iter(|| {
            flow = flow.wrapping_add(0x101);
            large.lookup(Ipv4Addr::from_bits(0x0a00_0000 | flow & 0xf_ffff))
        });
    });

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

criterion_group!(benches, pipeline, stages);
criterion_main!(benches);
