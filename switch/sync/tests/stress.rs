//! The protocols on real threads. Bounded by counts, not by time; smaller under miri.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread;

use weft_sync::learned::{Learn, LearnTable, Rules};
use weft_sync::pins::{Key, Life, Pin, PinTable, WORDS};
use weft_sync::ring::ring;
use weft_sync::sleep::SleepFlag;
use weft_sync::snapshot::cell;

const MANY: usize = if cfg!(miri) { 100 } else { 100_000 };

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A snapshot whose parts agree as long as it lives.
struct Pair(u64, Box<u64>);
impl Pair {
    fn boxed(value: u64) -> Box<Self> {
        ALIVE.fetch_add(1, Relaxed);
        Box::new(Self(value, Box::new(!value)))
    }
}
impl Drop for Pair {
    fn drop(&mut self) {
        *self.1 = self.0;
        ALIVE.fetch_sub(1, Relaxed);
    }
}

/// Ends the readers also when an assertion fails, so that the test fails and does not hang.
struct SetOnDrop<'a>(&'a AtomicBool);
impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn snapshots_are_whole_never_older_than_before_and_all_freed() {
    let (mut publisher, readers) = cell(Pair::boxed(1), 3);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetOnDrop(&done);
        for (index, mut reader) in readers.into_iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                let mut last = 0;
                let mut burst = index;
                while !done.load(Relaxed) {
                    let snapshot = reader.load();
                    assert_eq!(snapshot.0, !*snapshot.1);
                    assert!(snapshot.0 >= last);
                    last = snapshot.0;
                    burst += 1;
                    if burst % 5 == 0 {
                        reader.offline();
                    }
                    if burst % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        for value in 2..=(MANY as u64 / 10) {
            assert_eq!(publisher.publish(Pair::boxed(value)), value);
            publisher.reclaim();
            if value % 16 == 0 {
                thread::yield_now();
            }
        }
        let last = publisher.publication();
        while !publisher.passed(last) {
            thread::yield_now();
        }
        // A reader that is just coming online keeps everything for a moment.
        while publisher.retired() > 0 {
            publisher.reclaim();
            thread::yield_now();
        }
        assert_eq!(ALIVE.load(Relaxed), 1);
    });
    drop(publisher);
    assert_eq!(ALIVE.load(Relaxed), 0);
}

#[test]
fn a_ring_keeps_order_and_loses_nothing() {
    let (mut to, mut from) = ring::<Box<usize>>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            while next < MANY {
                let batch = 1 + next % 7;
                let pushed = to.push_from(&mut (next..(next + batch).min(MANY)).map(Box::new));
                next += pushed;
                if pushed == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < MANY {
            let max = 1 + expected % 11;
            let taken = from.pop_into(max, |item| {
                assert_eq!(*item, expected);
                expected += 1;
            });
            assert!(taken <= max);
            if taken == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(from.pop(), None);
    });
}

/// Stands for an eventfd: writes add up to one readiness, reading takes it away.
#[derive(Default)]
struct Event(Mutex<bool>, Condvar);
impl Event {
    fn write(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
    fn wait_and_clear(&self) {
        let mut set = self.0.lock().unwrap();
        while !*set {
            set = self.1.wait(set).unwrap();
        }
        *set = false;
    }
}

#[test]
fn a_sleeper_with_two_producers_always_wakes_up() {
    let (flag, event) = (SleepFlag::new(), Event::default());
    let each = MANY / 10;
    let (first, second) = (ring(8), ring(8));
    let mut from = [first.1, second.1];
    thread::scope(|scope| {
        for mut to in [first.0, second.0] {
            let (flag, event) = (&flag, &event);
            scope.spawn(move || {
                for item in 0..each {
                    while to.push(item).is_err() {
                        thread::yield_now();
                    }
                    if flag.must_wake() {
                        event.write();
                    }
                }
            });
        }
        let mut taken = 0;
        while taken < 2 * each {
            let now: usize = from.iter_mut().map(|ring| ring.pop_into(8, drop)).sum();
            taken += now;
            if now == 0 && taken < 2 * each {
                flag.announce();
                if from.iter().all(|ring| ring.is_empty()) {
                    event.wait_and_clear();
                }
                flag.awake();
            }
        }
    });
}

/// Workers learn and move the same few hundred addresses in a table that is too small for them, while control forgets. When all
/// is quiet no address is there twice, and the counts are those of the entries.
#[test]
fn learned_addresses_are_there_once_and_counted() {
    const PORTS: u16 = 4;
    let table = LearnTable::new(128, PORTS.into(), 1);
    let rules = Rules { ageing: 50, limit: 60 };
    let mac = |number: usize| [2, 0, 0, 0, (number >> 8) as u8, number as u8];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3u16)
            .map(|worker| {
                let table = &table;
                scope.spawn(move || {
                    let mut random = usize::from(worker) * 7919 + 1;
                    for step in 0..MANY {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let number = (random >> 33) % 200;
                        let port = (random >> 50) as u16 % PORTS;
                        let now = (step * 400 / MANY) as u32;
                        table.learn(mac(number), port, now, rules, || step % 3 > 0);
                        if let Some(port) = table.lookup(mac(number), now, rules.ageing) {
                            assert!(port < PORTS);
                        }
                    }
                })
            })
            .collect();
        let _end = SetOnDrop(&done);
        let control = scope.spawn(|| {
            let mut round = 0;
            while !done.load(Relaxed) {
                table.sweep(round, rules.ageing);
                table.forget_port((round % u32::from(PORTS)) as u16);
                assert!(table.iter().all(|entry| entry.port < PORTS && entry.mac[0] == 2));
                round = (round + 1) % 400;
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Relaxed);
        control.join().unwrap();
    });
    let mut macs: Vec<_> = table.iter().map(|entry| entry.mac).collect();
    macs.sort_unstable();
    let all = macs.len();
    macs.dedup();
    assert_eq!(macs.len(), all, "an address is there twice");
    for port in 0..PORTS {
        assert_eq!(table.count_of(port) as usize, table.iter().filter(|e| e.port == port).count());
    }
    assert_ne!(table.learn(mac(1), 0, 400, rules, || true), Learn::Busy);
}

/// Workers pin and look up a few hundred flows in a table that is too small for them, while control sweeps. Nobody ever sees a key that was not
/// pinned, and when all is quiet none is there twice.
#[test]
fn pins_are_whole_there_once_and_counted() {
    const FLOWS: u64 = 300;
    const LIVES: &[Life] = &[Life::unsure(20), Life::sure(60), Life::sure(400)];
    let table = PinTable::new(128, LIVES, 1);
    let key = |number: u64| -> Key { std::array::from_fn(|word| number.wrapping_mul(word as u64 * 2 + 1)) };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3u64)
            .map(|worker| {
                let table = &table;
                scope.spawn(move || {
                    let mut random = worker * 7919 + 1;
                    for step in 0..MANY {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let (number, kind) = ((random >> 33) % FLOWS, (random >> 50) as u8 % 3);
                        let now = (step * 400 / MANY) as u32;
                        let hashed = table.hashed(key(number));
                        if random >> 60 == 0 {
                            table.hit(&hashed, now, |_| None);
                        } else if random >> 60 < 8 {
                            table.hit(&hashed, now, Some);
                        } else {
                            assert_ne!(table.pin(&hashed, now, |_| Some(kind)), Pin::Refused);
                        }
                        // Parts of two flows are none.
                        let mut mixed = key(number);
                        mixed[WORDS - 1] = key(number + 1)[WORDS - 1];
                        assert!(!table.has(&table.hashed(mixed), now));
                    }
                })
            })
            .collect();
        let _end = SetOnDrop(&done);
        let control = scope.spawn(|| {
            let mut round = 0;
            while !done.load(Relaxed) {
                table.sweep((0, 1), round, 0, |flow| flow[1] % 7 != u64::from(round) % 7);
                assert!(table.iter(round).all(|entry| (0..FLOWS).any(|number| key(number) == entry.key)));
                round = (round + 1) % 400;
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Relaxed);
        control.join().unwrap();
    });
    let mut keys: Vec<_> = table.iter(0).map(|entry| entry.key).collect();
    assert_eq!(table.len(), keys.len(), "in second 0 nothing is old");
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all, "a flow is there twice");
    assert!(all > 0 && all <= table.capacity());
}
