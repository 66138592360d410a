//! DPDK's buffers and devices, from outside. EAL starts once in a process, so this is one test with sections.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::*;

/// Asks again until it is so; a minute at most.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::yield_now();
    }
}

fn fill(packet: &mut Mbuf, seed: u8) -> Vec<u8> {
    let bytes: Vec<u8> = (0..packet.len()).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    assert!(packet.write_at(0, &bytes));
    bytes
}

fn bytes_of(packet: &Mbuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.for_each_segment(|segment| bytes.extend_from_slice(segment));
    bytes
}

fn affinity() -> Vec<u8> {
    let mut set = [0u8; 128];
    // SAFETY: the kernel writes at most the 128 bytes that it is told of.
    unsafe { libc::sched_getaffinity(0, set.len(), set.as_mut_ptr().cast()) };
    set.to_vec()
}

#[test]
fn buffers_and_devices() {
    let before = affinity();
    let eal = Eal::start(&EalConfig { memory: 40 << 20, ..EalConfig::default() }).unwrap();
    assert_eq!(affinity(), before, "EAL has moved its caller to other CPUs");
    assert!(matches!(Eal::start(&EalConfig::default()), Err(EalError::StartedBefore)));
    let run = Path::new("/var/run/dpdk").join(format!("weft-{}", std::process::id()));
    assert!(!run.exists(), "{} was left behind", run.display());

    pool_errors_name_the_pool(&eal);
    let pool = Mempool::new(&eal, "test", 8192, 256, DATA_ROOM).unwrap();
    counts_add_up(&eal, &pool);
    two_sizes_make_one_packet(&eal, &pool);
    threads_give_their_caches_back(&eal, &pool);
    chains_behave_like_the_model(&pool);
    chains_are_joined(&pool);
    vectored_io_sees_every_segment(&pool);
    meta_is_zero_when_fresh(&eal, &pool);
    null_receives_and_swallows(&eal, &pool);
    ring_returns_what_was_sent(&eal, &pool);
    pcap_round_trip(&eal, &pool);
    attach_errors_are_clear(&eal, &pool);
    devices_come_and_go(&eal, &pool);
    busy_devices_close_later(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "a buffer was lost");
}

fn pool_errors_name_the_pool(eal: &Eal) {
    let error = |name: &str, count, cache, room| Mempool::new(eal, name, count, cache, room).unwrap_err();
    assert!(matches!(error("", 64, 0, DATA_ROOM), PoolError::Name(_)));
    assert!(matches!(error("a name that DPDK can't hold", 64, 0, DATA_ROOM), PoolError::Name(_)));
    assert!(matches!(error("p", 64, 513, DATA_ROOM), PoolError::Cache { .. }));
    assert!(matches!(error("p", 64, 60, DATA_ROOM), PoolError::Cache { .. }));
    assert!(matches!(error("p", 64, 0, 128), PoolError::Room { .. }));
    assert!(error("huge", 4_000_000, 0, DATA_ROOM).to_string().contains("dataplane.memory"));
    let once = Mempool::new(eal, "once", 64, 0, DATA_ROOM).unwrap();
    assert!(matches!(error("once", 64, 0, DATA_ROOM), PoolError::Refused { .. }));
    drop(once);
    assert!(Mempool::new(eal, "once", 64, 0, DATA_ROOM).is_ok(), "the name was not free again");
}

fn counts_add_up(eal: &Eal, pool: &Mempool) {
    assert_eq!((pool.in_use(), pool.available()), (0, 8192));
    let packet = pool.alloc(60).unwrap();
    assert_eq!((packet.len(), packet.segment_count(), packet.head().len()), (60, 1, 60));
    let chain = pool.alloc(65535).unwrap();
    assert_eq!(chain.len(), 65535);
    assert_eq!(chain.head().len(), 2048);
    assert_eq!(pool.in_use(), 1 + chain.segment_count());
    drop((packet, chain));
    assert_eq!(pool.in_use(), 0);

    let most = 2048 + (MAX_SEGMENTS - 1) * 2176;
    assert_eq!(pool.alloc(most).unwrap().segment_count(), MAX_SEGMENTS);
    assert!(pool.alloc(most + 1).is_none());

    let small = Mempool::new(eal, "small", 63, 0, DATA_ROOM).unwrap();
    let held: Vec<Mbuf> = std::iter::from_fn(|| small.alloc(100)).collect();
    assert_eq!((held.len(), small.available()), (63, 0));
    assert!(small.alloc(5000).is_none());
    drop(held);
    let mut burst = Burst::new();
    assert_eq!(small.alloc_burst(64, 64, &mut burst), 0, "all or none");
    assert_eq!(small.alloc_burst(3000, 1, &mut burst), 0, "one segment each");
    assert_eq!(small.alloc_burst(64, 60, &mut burst), 60);
    assert!(burst.iter().all(|packet| packet.len() == 64));
    Mbuf::free_burst(&mut burst);
    assert_eq!(small.in_use(), 0);
}

/// A small buffer with a large one behind it holds the longest frame; each goes back to its own pool.
fn two_sizes_make_one_packet(eal: &Eal, pool: &Mempool) {
    let large = Mempool::new(eal, "large", 31, 4, LARGE_ROOM).unwrap();
    let room = usize::from(LARGE_ROOM);
    assert!(large.alloc_behind(room + 1).is_none());
    let mut packet = pool.alloc(2048).unwrap();
    let behind = large.alloc_behind(room).unwrap();
    assert_eq!((behind.len(), behind.segment_count(), behind.head().len()), (room, 1, room));
    packet.append(behind).unwrap();
    let bytes = fill(&mut packet, 3);
    assert_eq!((packet.len(), packet.segment_count()), (2048 + room, 2));
    assert_eq!(bytes_of(&packet), bytes);
    assert_eq!((pool.in_use(), large.in_use()), (1, 1));
    packet.truncate(2048);
    assert_eq!((packet.segment_count(), large.in_use()), (1, 0));
    drop(packet);
    let held: Vec<Mbuf> = std::iter::from_fn(|| large.alloc_behind(1)).collect();
    assert_eq!((held.len(), pool.in_use()), (31, 0));
}

fn threads_give_their_caches_back(eal: &Eal, pool: &Mempool) {
    let eal = eal.clone();
    let worker_pool = pool.clone();
    thread::spawn(move || {
        let _registered = eal.register_thread().unwrap();
        let mut burst = Burst::new();
        for _ in 0..10 {
            worker_pool.alloc_burst(64, 64, &mut burst);
            burst.clear();
        }
    })
    .join()
    .unwrap();
    // A thread without a cache of its own reaches every buffer.
    let held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc(1)).collect();
    assert_eq!(held.len(), 8192);
}

/// The same operations on a chain and on lists of bytes: what switch/src/packet.rs promises of a buffer.
fn chains_behave_like_the_model(pool: &Mempool) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..300 {
        let mut packet = pool.alloc([0, 1, 60, 2048, 2049, 9000, 65535][random(7)]).unwrap();
        let mut model: Vec<Vec<u8>> = Vec::new();
        fill(&mut packet, round as u8);
        packet.for_each_segment(|segment| model.push(segment.to_vec()));
        let mut headroom = 128;
        for _ in 0..30 {
            let total: usize = model.iter().map(Vec::len).sum();
            match random(6) {
                0 => {
                    let count = random(80);
                    let grown = packet.prepend(count).map(|head| head[..count].fill(0xab)).is_some();
                    assert_eq!(grown, count <= headroom);
                    if grown {
                        headroom -= count;
                        model[0].splice(0..0, vec![0xab; count]);
                    }
                }
                1 => {
                    let count = random(100);
                    let fits = count <= model[0].len();
                    assert_eq!(packet.trim_front(count), fits);
                    if fits {
                        headroom += count;
                        model[0].drain(..count);
                    }
                }
                2 => {
                    let len = total - random(3000).min(total) + random(20);
                    packet.truncate(len);
                    let mut left = len;
                    for segment in &mut model {
                        segment.truncate(left);
                        left -= segment.len();
                    }
                    if len < total {
                        while model.len() > 1 && model.last().is_some_and(Vec::is_empty) {
                            model.pop();
                        }
                    }
                }
                3 => {
                    let count = random(400) + model[0].len() - random(100).min(model[0].len());
                    let done = packet.pull_up(count);
                    assert_eq!(done, count <= total && (count <= 2176 || count <= model[0].len()));
                    if done && count > model[0].len() && headroom + count > 2176 {
                        headroom = 128.min(2176 - count);
                    }
                    while done && model[0].len() < count {
                        let take = (count - model[0].len()).min(model[1].len());
                        let moved: Vec<u8> = model[1].drain(..take).collect();
                        model[0].extend(moved);
                        if model[1].is_empty() {
                            model.remove(1);
                        }
                    }
                }
                4 => {
                    let (offset, mut to) = (random(total + 10), vec![0; random(5000)]);
                    let flat: Vec<u8> = model.iter().flatten().copied().collect();
                    let expected = flat.get(offset..).unwrap_or(&[]);
                    let expected = &expected[..expected.len().min(to.len())];
                    assert_eq!(packet.read_at(offset, &mut to), expected.len());
                    assert_eq!(&to[..expected.len()], expected);
                }
                _ => {
                    let (offset, from) = (random(total + 10), vec![random(256) as u8; random(5000)]);
                    let fits = offset + from.len() <= total;
                    assert_eq!(packet.write_at(offset, &from), fits);
                    let places = model.iter_mut().flatten().skip(offset).zip(&from);
                    places.filter(|_| fits).for_each(|(to, from)| *to = *from);
                }
            }
            let mut seen = Vec::new();
            packet.for_each_segment(|segment| seen.push(segment.to_vec()));
            assert_eq!(seen, model, "round {round}");
            assert_eq!(packet.len(), model.iter().map(Vec::len).sum::<usize>());
            assert_eq!(
                (packet.head(), packet.is_empty()),
                (model[0].as_slice(), model.iter().all(Vec::is_empty))
            );
        }
        assert!(!packet.write_at(usize::MAX, &[1]));
    }
    assert_eq!(pool.in_use(), 0, "segments that were cut off were not freed");
}

fn chains_are_joined(pool: &Mempool) {
    let (mut packet, mut other) = (pool.alloc(3000).unwrap(), pool.alloc(5000).unwrap());
    let bytes = [fill(&mut packet, 1), fill(&mut other, 2)[40..].to_vec()].concat();
    assert!(other.trim_front(40));
    packet.set_meta(7);
    other.set_meta(9);
    let segments = packet.segment_count() + other.segment_count();
    packet.append(other).unwrap();
    assert_eq!((packet.len(), packet.segment_count(), packet.meta()), (7960, segments, 7));
    assert_eq!(bytes_of(&packet), bytes);
    packet.truncate(3001);
    assert_eq!(bytes_of(&packet), bytes[..3001]);

    let mut chain = pool.alloc(10).unwrap();
    for _ in 1..MAX_SEGMENTS {
        let mut front = pool.alloc(10).unwrap();
        front.append(chain).unwrap();
        chain = front;
    }
    let refused = chain.append(pool.alloc(10).unwrap()).unwrap_err();
    assert_eq!((refused.len(), refused.segment_count()), (10, 1));
    assert_eq!((chain.len(), chain.segment_count()), (10 * MAX_SEGMENTS, MAX_SEGMENTS));
}

fn vectored_io_sees_every_segment(pool: &Mempool) {
    let mut packet = pool.alloc(9000).unwrap();
    let bytes = fill(&mut packet, 7);
    let mut slices = ArrayVec::<IoSlice<'_>, MAX_SEGMENTS>::new();
    assert!(packet.io_slices(&mut slices));
    assert_eq!(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(), bytes);
    while !slices.is_full() {
        slices.push(IoSlice::new(&[]));
    }
    assert!(!packet.io_slices(&mut slices), "no room, and nobody said so");
    drop(slices);
    let mut slices = ArrayVec::<IoSliceMut<'_>, MAX_SEGMENTS>::new();
    assert!(packet.io_slices_mut(&mut slices));
    slices.iter_mut().for_each(|slice| slice.fill(0x5a));
    drop(slices);
    assert_eq!(bytes_of(&packet), vec![0x5a; 9000]);
}

fn meta_is_zero_when_fresh(eal: &Eal, pool: &Mempool) {
    for _ in 0..2 {
        let mut held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc(64)).collect();
        for packet in &mut held {
            assert_eq!(packet.meta(), 0);
            packet.set_meta(u64::MAX);
            assert_eq!(packet.meta(), u64::MAX);
        }
        held[0].set_meta(0);
        assert_eq!(held[0].meta(), 0);
    }
    // A ring hands over the very same buffer.
    let mut port = EthPort::attach(eal, "net_ring_meta", pool, &EthConfig::default()).unwrap();
    let (mut rx, mut tx) = port.split();
    let mut burst = Burst::new();
    pool.alloc_burst(64, 1, &mut burst);
    burst[0].set_meta(42);
    assert_eq!(tx[0].tx(&mut burst), 1);
    assert_eq!(rx[0].rx(&mut burst), 1);
    assert_eq!(burst[0].meta(), 0);
}

fn null_receives_and_swallows(eal: &Eal, pool: &Mempool) {
    let mut port = EthPort::attach(eal, "net_null0,size=96", pool, &EthConfig::default()).unwrap();
    let (mut rx, mut tx) = port.split();
    let (mut rx, mut tx) = (rx.remove(0), tx.remove(0));
    let mut burst = Burst::new();
    burst.push(pool.alloc(1).unwrap());
    assert_eq!(rx.rx(&mut burst), BURST - 1, "the burst's free room is filled");
    assert_eq!(burst[1].len(), 96);
    assert_eq!(rx.rx(&mut burst), 0, "a full burst stays as it is");
    assert_eq!(tx.tx(&mut burst), BURST);
    assert!(burst.is_empty());
    assert!(port.link().up);
    assert_ne!(port.mac(), [0; 6]);
    let stats = port.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets), (BURST as u64 - 1, BURST as u64));
    drop((rx, tx));
    port.close().unwrap();
}

fn ring_returns_what_was_sent(eal: &Eal, pool: &Mempool) {
    let config = EthConfig { mtu: 1500, ..EthConfig::default() };
    let mut port = EthPort::attach(eal, "net_ring_bytes", pool, &config).unwrap();
    let (mut rx, mut tx) = port.split();
    let (mut sent, mut burst) = (Vec::new(), Burst::new());
    for seed in 0..40 {
        let mut packet = pool.alloc(60 + usize::from(seed) * 37).unwrap();
        sent.push(fill(&mut packet, seed));
        burst.push(packet);
    }
    assert_eq!(tx[0].tx(&mut burst), 40);
    let mut back = Burst::new();
    assert_eq!(rx[0].rx(&mut back), 40);
    assert_eq!(back.iter().map(bytes_of).collect::<Vec<_>>(), sent);
    assert_eq!(rx[0].take_malformed(), 0);
    // A few of them, as many as every driver can be asked for, and none is lost.
    back.clear();
    burst.clear();
    pool.alloc_burst(64, 20, &mut burst);
    assert_eq!(tx[0].tx(&mut burst), 20);
    for (few, came) in [(0, 0), (1, 8), (8, 8), (64, 4)] {
        assert_eq!(rx[0].rx_few(&mut back, few), came, "{few} are asked for");
    }
    // What the ring has no room for stays, in order.
    let mut taken = 0;
    loop {
        burst.clear();
        pool.alloc_burst(64, BURST, &mut burst);
        burst.iter_mut().enumerate().for_each(|(at, packet)| packet.head_mut()[0] = at as u8);
        let now = tx[0].tx(&mut burst);
        taken += now;
        assert_eq!(burst.len(), BURST - now);
        if now < BURST {
            assert_eq!(burst.first().map(|packet| packet.head()[0]), Some(now as u8));
            break;
        }
    }
    burst.clear();
    back.clear();
    while rx[0].rx(&mut back) > 0 {
        taken -= back.len();
        Mbuf::free_burst(&mut back);
    }
    assert_eq!(taken, 0);
}

fn pcap_round_trip(eal: &Eal, pool: &Mempool) {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.pcap"), folder.path().join("second.pcap"));
    // Frames over two buffers need a driver that scatters, and one that takes chains.
    let config = EthConfig { mtu: 9000, ..EthConfig::default() };
    let writer = format!("net_pcap_w,tx_pcap={}", first.display());
    let mut port = EthPort::attach(eal, &writer, pool, &config).unwrap();
    let (_, mut tx) = port.split();
    let mut sent = Vec::new();
    let mut burst = Burst::new();
    for (seed, len) in [60, 61, 1514, 2048, 2049, 5000].into_iter().enumerate() {
        let mut packet = pool.alloc(len).unwrap();
        sent.push(fill(&mut packet, seed as u8));
        burst.push(packet);
    }
    assert_eq!(tx[0].tx(&mut burst), sent.len());
    drop(tx);
    port.close().unwrap();

    let copier = format!("net_pcap_c,rx_pcap={},tx_pcap={}", first.display(), second.display());
    let mut port = EthPort::attach(eal, &copier, pool, &config).unwrap();
    let (mut rx, mut tx) = port.split();
    while rx[0].rx(&mut burst) > 0 {}
    assert_eq!(burst.iter().map(bytes_of).collect::<Vec<_>>(), sent);
    assert!(burst.iter().all(|packet| packet.meta() == 0));
    tx[0].tx(&mut burst);
    drop((rx, tx));
    port.close().unwrap();
    let record_bytes: usize = sent.iter().map(|bytes| 16 + bytes.len()).sum();
    assert_eq!(fs::metadata(&second).unwrap().len() as usize, 24 + record_bytes);
}

fn attach_errors_are_clear(eal: &Eal, pool: &Mempool) {
    let config = EthConfig::default();
    let error = |devargs: &str, config: &EthConfig| EthPort::attach(eal, devargs, pool, config).unwrap_err();
    assert!(matches!(error("net_nothing0", &config), EthError::Probe { .. } | EthError::Arguments(_)));
    assert!(matches!(error("", &config), EthError::Arguments(_)));
    assert!(matches!(error("net_pcap0,rx_pcap=/nowhere/x.pcap", &config), EthError::Probe { .. }));
    assert!(matches!(
        error("net_null0", &EthConfig { tx_queues: 5000, ..config.clone() }),
        EthError::Queues { direction: "tx", wanted: 5000, .. }
    ));
    let _first = EthPort::attach(eal, "net_null0", pool, &config).unwrap();
    assert_eq!(error("net_null0", &config), EthError::Exists { name: "net_null0".to_owned() });
    let mut ports: Vec<EthPort> = (1..32)
        .map(|n| EthPort::attach(eal, &format!("net_null{n},no-rx=1"), pool, &config).unwrap())
        .collect();
    assert!(matches!(error("net_null32", &config), EthError::TooMany { .. }));
    ports.pop();
    EthPort::attach(eal, "net_null32", pool, &config).unwrap();
}

fn devices_come_and_go(eal: &Eal, pool: &Mempool) {
    let mut burst = Burst::new();
    for n in 0..40 {
        let mut port = EthPort::attach(eal, &format!("net_null{n}"), pool, &EthConfig::default()).unwrap();
        let (mut rx, mut tx) = port.split();
        assert_eq!(rx[0].rx(&mut burst), BURST);
        assert_eq!(tx[0].tx(&mut burst), BURST);
        drop((rx, tx));
        port.close().unwrap();
        port.close().unwrap();
    }
    let _again = EthPort::attach(eal, "net_null0", pool, &EthConfig::default()).unwrap();
}

fn busy_devices_close_later(eal: &Eal, pool: &Mempool) {
    let config = EthConfig::default();
    let mut port = EthPort::attach(eal, "net_null_busy", pool, &config).unwrap();
    let (rx, tx) = port.split();
    drop(tx);
    assert!(matches!(port.close(), Err(EthError::Busy { queues: 1, .. })));
    drop(port);
    let worker = thread::spawn(move || {
        let mut rx = rx;
        let mut burst = Burst::new();
        assert_eq!(rx[0].rx(&mut burst), BURST, "a queue works on without its port");
    });
    worker.join().unwrap();
    wait_for("the name to be free again", || EthPort::attach(eal, "net_null_busy", pool, &config).is_ok());
}
