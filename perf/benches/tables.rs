//! The switch's tables against DPDK's, on the same keys: MAC addresses against `rte_hash`, routes against `rte_fib`. One by one, and
//! bursts of 64 in phases, as the packet path asks. What it takes to make the keys is in all of them: "keys".
#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_ffi::dpdk::{BURST, Eal, EalConfig, Fib, MacHash};
use weft_perf::scene::{Scene, Sizes};
use weft_switch::tables::{NextHop, Routes};
use weft_switch::types::MacAddr;

/// Numbers below a limit in an order that the processor cannot guess.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self, of: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        ((u64::from(self.0) * u64::from(of)) >> 32) as u32
    }
}

fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 0, a, b, c, d]
}

fn address(route: u32) -> u32 {
    0x0a00_0007 + (route << 8)
}

fn macs(c: &mut Criterion, eal: &Eal) {
    let mut group = c.benchmark_group("macs");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut numbers = Numbers(1);
    for count in [250, 10_000, 100_000] {
        let tables = Scene::new(Sizes { macs: count, ..Sizes::default() }).unwrap().tables().unwrap();
        let mut dpdk = MacHash::new(eal, &format!("macs-{count}"), count.next_power_of_two() * 2).unwrap();
        for number in 0..count {
            dpdk.insert(&mac(number), number as usize).unwrap();
            assert!(tables.fdb.get(&MacAddr(mac(number))).is_some());
        }
        let mut keys = || -> [[u8; 6]; BURST] { std::array::from_fn(|_| mac(numbers.next(count))) };
        group.bench_function(BenchmarkId::new("keys", count), |b| {
            b.iter(|| {
                black_box(&keys());
            });
        });
        group.bench_function(BenchmarkId::new("weft", count), |b| {
            b.iter(|| {
                keys().iter().filter(|key| black_box(tables.fdb.get(&MacAddr(**key))).is_some()).count()
            });
        });
        group.bench_function(BenchmarkId::new("weft, in phases", count), |b| {
            b.iter(|| {
                let keys = keys();
                keys.iter().for_each(|key| tables.fdb.prefetch(&MacAddr(*key)));
                keys.iter().filter(|key| black_box(tables.fdb.get(&MacAddr(**key))).is_some()).count()
            });
        });
        group.bench_function(BenchmarkId::new("rte_hash", count), |b| {
            b.iter(|| keys().iter().filter(|key| black_box(dpdk.get(key)).is_some()).count());
        });
        group.bench_function(BenchmarkId::new("rte_hash, bulk", count), |b| {
            let mut values = [0; BURST];
            b.iter(|| {
                assert_eq!(dpdk.get_burst(&keys(), &mut values), u64::MAX);
                black_box(&values);
            });
        });
    }
    group.finish();
}

fn routes(c: &mut Criterion, eal: &Eal) {
    let mut group = c.benchmark_group("routes");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut numbers = Numbers(1);
    for count in [100, 5000] {
        let (mut weft, mut dpdk) =
            (Routes::default(), Fib::new(eal, &format!("routes-{count}"), 8192).unwrap());
        for number in 0..count {
            weft.insert(Ipv4Addr::from_bits(address(number)), 24, NextHop::Vtep(number));
            dpdk.insert(address(number) & !0xff, 24, number).unwrap();
        }
        let mut keys = || -> [u32; BURST] { std::array::from_fn(|_| address(numbers.next(count))) };
        group.bench_function(BenchmarkId::new("keys", count), |b| {
            b.iter(|| {
                black_box(&keys());
            });
        });
        group.bench_function(BenchmarkId::new("weft", count), |b| {
            let found = |key: &&u32| black_box(weft.lookup(Ipv4Addr::from_bits(**key))).is_some();
            b.iter(|| assert_eq!(keys().iter().filter(found).count(), BURST));
        });
        group.bench_function(BenchmarkId::new("weft, in phases", count), |b| {
            let found = |key: &&u32| black_box(weft.lookup(Ipv4Addr::from_bits(**key))).is_some();
            b.iter(|| {
                let keys = keys();
                keys.iter().for_each(|key| weft.prefetch(Ipv4Addr::from_bits(*key)));
                assert_eq!(keys.iter().filter(found).count(), BURST);
            });
        });
        group.bench_function(BenchmarkId::new("rte_fib, bulk", count), |b| {
            let mut next_hops = [0; BURST];
            b.iter(|| {
                dpdk.get_burst(&mut keys(), &mut next_hops);
                black_box(&next_hops);
            });
        });
    }
    group.finish();
}

/// Tables of DPDK's live in its memory, so it is started: with hugepages, if there are some.
fn both(c: &mut Criterion) {
    let eal = Eal::start(&EalConfig { memory: 256 << 20, ..EalConfig::default() }).unwrap();
    macs(c, &eal);
    routes(c, &eal);
}

criterion_group!(benches, both);
criterion_main!(benches);
