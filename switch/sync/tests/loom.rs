//! The protocols under loom, which tries the interleavings and the values that the C11 memory model lets a load see.
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p weft-sync --release`.
//!
//! What a protocol protects is a [`Guarded`]: loom fails the model when a read of it does not happen before its drop.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use weft_sync::account::{Account, Bounds};
use weft_sync::learned::{Learn, LearnTable, Rules};
use weft_sync::pins::{Hit, Key, Life, Pin, PinTable};
use weft_sync::ring::{Consumer, ring};
use weft_sync::sleep::SleepFlag;
use weft_sync::snapshot::{Publisher, Reader, cell};

/// Explores all interleavings with at most `preemptions` forced switches between threads.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A value that is read through a shared reference and "written" by its drop.
struct Guarded(UnsafeCell<u64>);

impl Guarded {
    fn boxed(value: u64) -> Box<Self> {
        Box::new(Self(UnsafeCell::new(value)))
    }
    fn get(&self) -> u64 {
        // SAFETY: the protocol under test is what makes this sound; loom checks it.
        self.0.with(|value| unsafe { *value })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: as in `get`.
        self.0.with_mut(|value| unsafe { *value = u64::MAX });
    }
}

// SAFETY: as in `Guarded::get`.
unsafe impl Sync for Guarded {}

fn cell_of(readers: usize) -> (Publisher<Guarded>, Vec<Reader<Guarded>>) {
    cell(Guarded::boxed(1), readers)
}

/// One reader that moves on while two snapshots are published and reclaimed.
#[test]
fn snapshot_load_against_publish_and_reclaim() {
    explore(3, || {
        let (mut publisher, mut readers) = cell_of(1);
        let mut reader = readers.remove(0);
        let worker = thread::spawn(move || {
            let mut last = 0;
            for _ in 0..3 {
                let now = reader.load().get();
                assert!((1..=3).contains(&now) && now >= last);
                last = now;
            }
        });
        for value in 2..=3 {
            assert_eq!(publisher.publish(Guarded::boxed(value)), value);
            publisher.reclaim();
        }
        assert_eq!(publisher.current().get(), 3);
        worker.join().unwrap();
        publisher.reclaim();
        assert_eq!(publisher.retired(), 0);
    });
}

/// A reader that goes to sleep and comes back: the store of its line and the load of the pointer must not pass each
/// other.
#[test]
fn snapshot_a_reader_comes_online_against_reclaim() {
    explore(3, || {
        let (mut publisher, mut readers) = cell_of(1);
        let mut reader = readers.remove(0);
        let worker = thread::spawn(move || {
            assert!(reader.load().get() >= 1);
            reader.offline();
            assert!(reader.load().get() >= 1);
        });
        publisher.publish(Guarded::boxed(2));
        publisher.reclaim();
        worker.join().unwrap();
        publisher.reclaim();
        assert_eq!(publisher.retired(), 0);
    });
}

/// What control does before it takes a port away: once a publication is passed, no reader uses, or will load, anything
/// older.
#[test]
fn snapshot_passed_means_that_nothing_older_is_in_use() {
    explore(3, || {
        let (mut publisher, mut readers) = cell_of(1);
        let mut reader = readers.remove(0);
        let port = Arc::new(UnsafeCell::new(0));
        let used = port.clone();
        let worker = thread::spawn(move || {
            for _ in 0..2 {
                if reader.load().get() == 1 {
                    // SAFETY: only while the snapshot that names the port is loaded; loom checks it.
                    used.with(|port| unsafe { *port });
                }
                reader.offline();
            }
        });
        let second = publisher.publish(Guarded::boxed(2));
        if publisher.passed(second) {
            // SAFETY: nobody uses the port any more; loom checks it.
            port.with_mut(|port| unsafe { *port = 1 });
        }
        worker.join().unwrap();
    });
}

/// Two readers, one that stays behind: the slower one decides.
#[test]
fn snapshot_two_readers() {
    explore(2, || {
        let (mut publisher, readers) = cell_of(2);
        let workers: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                thread::spawn(move || {
                    assert!(reader.load().get() >= 1);
                    assert!(reader.load().get() >= 1);
                })
            })
            .collect();
        publisher.publish(Guarded::boxed(2));
        publisher.reclaim();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

/// The publisher goes first: what it leaves behind is used to the end, and freed by the last reader.
#[test]
fn snapshot_readers_outlive_the_publisher() {
    explore(3, || {
        let (mut publisher, mut readers) = cell_of(1);
        let mut reader = readers.remove(0);
        let worker = thread::spawn(move || {
            let first = reader.load().get();
            assert!(reader.load().get() >= first);
        });
        publisher.publish(Guarded::boxed(2));
        drop(publisher);
        worker.join().unwrap();
    });
}

/// Batches and single items through a ring of two, round its end; what is left over is dropped once.
#[test]
fn ring_order_and_ownership() {
    explore(3, || {
        let (mut to, mut from) = ring::<Box<Guarded>>(2);
        let producer = thread::spawn(move || {
            let mut next = 1;
            let mut items = std::iter::from_fn(|| {
                next += 1;
                (next <= 4).then(|| Guarded::boxed(next - 1))
            });
            to.push_from(&mut items);
            if let Some(item) = items.next() {
                let _full = to.push(item);
            }
        });
        let mut expected = 1;
        for _ in 0..2 {
            from.pop_into(2, |item| {
                assert_eq!(item.get(), expected);
                expected += 1;
            });
        }
        if let Some(item) = from.pop() {
            assert_eq!(item.get(), expected);
        }
        producer.join().unwrap();
    });
}

/// A slot that was given back is filled again only after the item was moved out of it.
#[test]
fn ring_a_slot_is_used_again() {
    explore(3, || {
        let (mut to, mut from) = ring::<u64>(1);
        let producer = thread::spawn(move || {
            to.push(1).unwrap();
            match to.push(2) {
                Ok(()) => 2,
                Err(back) => back - 1,
            }
        });
        let mut taken = 0;
        for _ in 0..2 {
            if let Some(item) = from.pop() {
                taken += 1;
                assert_eq!(item, taken);
            }
        }
        let pushed = producer.join().unwrap();
        while let Some(item) = from.pop() {
            taken += 1;
            assert_eq!(item, taken);
        }
        assert_eq!(taken, pushed);
    });
}

/// Stands for an eventfd. A worker that waits for ever is a deadlock, which loom reports.
#[derive(Default)]
struct Event {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn write(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_one();
    }
    fn wait_and_clear(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.changed.wait(set).unwrap();
        }
        *set = false;
    }
}

/// Takes `count` items, sleeping when there is nothing.
fn work(flag: &SleepFlag, event: &Event, rings: &mut [Consumer<u64>], count: usize) {
    let mut taken = 0;
    loop {
        taken += rings.iter_mut().map(|ring| ring.pop_into(2, drop)).sum::<usize>();
        if taken == count {
            return;
        }
        flag.announce();
        if rings.iter().all(|ring| ring.is_empty()) {
            event.wait_and_clear();
        }
        flag.awake();
    }
}

#[test]
fn sleep_no_wake_up_is_lost() {
    explore(3, || {
        let (flag, event) = (Arc::new(SleepFlag::new()), Arc::new(Event::default()));
        let (mut to, from) = ring(2);
        let worker = {
            let (flag, event) = (flag.clone(), event.clone());
            thread::spawn(move || work(&flag, &event, &mut [from], 2))
        };
        for item in 0..2 {
            to.push(item).unwrap();
            if flag.must_wake() {
                event.write();
            }
        }
        worker.join().unwrap();
    });
}

/// Two producers: the one that finds the flag taken down already relies on the other's wake-up.
#[test]
fn sleep_two_producers_and_one_wake_up() {
    explore(2, || {
        let (flag, event) = (Arc::new(SleepFlag::new()), Arc::new(Event::default()));
        let (mut rings, mut producers) = (Vec::new(), Vec::new());
        for item in 0..2 {
            let (mut to, from) = ring(1);
            rings.push(from);
            let (flag, event) = (flag.clone(), event.clone());
            producers.push(thread::spawn(move || {
                to.push(item).unwrap();
                if flag.must_wake() {
                    event.write();
                }
            }));
        }
        work(&flag, &event, &mut rings, 2);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Has the same first bucket as [`MAC`] with the seed below, so that its place is before the one that is taken beside it.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 4];
const RULES: Rules = Rules { ageing: 100, limit: 4 };

/// Two buckets of two places each, so that every address may be in every place.
fn learn_table() -> Arc<LearnTable> {
    Arc::new(LearnTable::new(4, 3, 1))
}

/// What must hold when all is quiet: the counts are those of the entries, and no address is there twice.
fn check_learned(table: &LearnTable) -> usize {
    let entries: Vec<_> = table.iter().collect();
    for (index, entry) in entries.iter().enumerate() {
        assert!(entries[..index].iter().all(|other| other.mac != entry.mac), "{entries:?}");
    }
    for port in 0..3 {
        let behind = entries.iter().filter(|entry| entry.port == port).count();
        assert_eq!(table.count_of(port) as usize, behind, "{entries:?}");
    }
    entries.len()
}

/// Two workers learn the same address behind different ports, while a place before it becomes free: they may take different
/// places, one entry is left, and no look-up misses it on the way there.
#[test]
fn learned_the_same_address_at_once() {
    explore(2, || {
        let table = learn_table();
        table.learn(OTHER, 0, 1, RULES, || true);
        let workers: Vec<_> = [1, 2]
            .map(|port| {
                let table = table.clone();
                thread::spawn(move || {
                    let learned = table.learn(MAC, port, 1, RULES, || true);
                    assert!(!matches!(learned, Learn::Full | Learn::PortFull | Learn::Busy));
                    assert!(table.lookup(MAC, 1, 100).is_some(), "a look-up misses it");
                })
            })
            .into();
        table.forget_port(0);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(check_learned(&table), 1);
        assert!(matches!(table.lookup(MAC, 1, 100), Some(1 | 2)));
    });
}

/// A look-up during a move finds the station, behind one port or the other.
#[test]
fn learned_a_move_against_a_lookup() {
    explore(3, || {
        let table = learn_table();
        table.learn(MAC, 1, 1, RULES, || true);
        let mover = table.clone();
        let mover = thread::spawn(move || {
            assert_eq!(mover.learn(MAC, 2, 2, RULES, || true), Learn::Moved);
        });
        let mut last = 1;
        for _ in 0..2 {
            let found = table.lookup(MAC, 2, 100).unwrap();
            assert!((found == 1 || found == 2) && found >= last, "{found} after {last}");
            last = found;
        }
        mover.join().unwrap();
        assert_eq!(table.lookup(MAC, 2, 100), Some(2));
        assert_eq!(check_learned(&table), 1);
    });
}

/// Two moves of one address, and a port that goes meanwhile: the counts stay right.
#[test]
fn learned_moves_against_each_other_and_against_forgetting() {
    explore(2, || {
        let table = learn_table();
        table.learn(MAC, 0, 1, RULES, || true);
        let movers: Vec<_> = [1, 2]
            .map(|port| {
                let table = table.clone();
                thread::spawn(move || table.learn(MAC, port, 1, RULES, || true))
            })
            .into();
        table.forget_port(1);
        for mover in movers {
            mover.join().unwrap();
        }
        check_learned(&table);
    });
}

/// Forgetting by age against the frame that is heard just then: the address is there, or it is not, and is learned by the
/// next frame.
#[test]
fn learned_a_sweep_against_learning() {
    explore(3, || {
        let table = learn_table();
        table.learn(MAC, 1, 1, RULES, || true);
        let worker = table.clone();
        let worker = thread::spawn(move || {
            worker.learn(MAC, 1, 101, RULES, || true);
            worker.learn(OTHER, 1, 101, RULES, || true);
        });
        table.sweep(101, 100);
        worker.join().unwrap();
        check_learned(&table);
        table.learn(MAC, 1, 101, RULES, || true);
        table.learn(OTHER, 1, 101, RULES, || true);
        assert_eq!(check_learned(&table), 2);
    });
}

/// Kind 0 is over after 10 seconds, kind 1 after 100.
const LIVES: &[Life] = &[Life::unsure(10), Life::sure(100)];

/// Two buckets of two places each, so that every key may be in every place.
fn pin_table() -> Arc<PinTable> {
    Arc::new(PinTable::new(4, LIVES, 1))
}

/// The words agree, so that a key made of parts of two is known.
fn pin_key(number: u64) -> Key {
    [number, !number]
}

fn pin(table: &PinTable, number: u64, kind: u8, now: u32) -> Pin {
    table.pin(&table.hashed(pin_key(number)), now, |_| Some(kind))
}

/// What must hold when all is quiet: every entry's key is whole and there once, and the count is right.
fn check_pins(table: &PinTable, now: u32) -> Vec<u64> {
    let mut numbers: Vec<_> = table.iter(now).map(|entry| entry.key[0]).collect();
    assert!(table.iter(now).all(|entry| entry.key[1] == !entry.key[0]), "a key of two");
    assert_eq!(table.len(), numbers.len());
    numbers.sort_unstable();
    let all = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "a key is there twice");
    numbers
}

/// Two workers pin the same flow: one entry is left, whichever places they took, and no look-up misses it on the way there.
#[test]
fn pins_of_the_same_flow_at_once() {
    explore(2, || {
        let table = pin_table();
        pin(&table, 7, 1, 1);
        let workers: Vec<_> = [1, 1]
            .map(|number| {
                let table = table.clone();
                thread::spawn(move || {
                    let pinned = pin(&table, number, 1, 1);
                    assert!(matches!(pinned, Pin::Pinned | Pin::Known), "{pinned:?}");
                    assert!(table.has(&table.hashed(pin_key(number)), 1), "a look-up misses it");
                })
            })
            .into();
        // A place before theirs may become free meanwhile.
        table.sweep((0, 1), 1, 0, |key| key[0] != 7);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(check_pins(&table, 1), [1]);
    });
}

/// A place is given to another key while a look-up reads it: neither its own key nor the other is found wrongly, and never a third.
#[test]
fn pins_a_look_up_against_a_displacement() {
    explore(2, || {
        let table = pin_table();
        for number in 0..4 {
            assert_eq!(pin(&table, number, u8::from(number > 0), 1), Pin::Pinned);
        }
        let writer = table.clone();
        let writer = thread::spawn(move || assert_eq!(pin(&writer, 9, 1, 2), Pin::Displaced));
        // The parts of the old key and of the new one; the first has the check of the old one.
        for mixed in [[0, !9], [9, !0]] {
            assert_eq!(table.hit(&table.hashed(mixed), 2, Some), Hit::Miss);
        }
        let new = table.hashed(pin_key(9));
        let seen = table.has(&new, 2);
        assert!(!seen || table.has(&new, 2), "what was there stays");
        assert!(table.iter(2).all(|entry| entry.key[1] == !entry.key[0]), "a key of two");
        writer.join().unwrap();
        assert_eq!(check_pins(&table, 2), [1, 2, 3, 9]);
    });
}

/// A look-up that refreshes an entry, a sweep that finds it old, and one who takes its place: the count stays right, and what is refreshed
/// before it is swept stays.
#[test]
fn pins_a_refresh_against_a_sweep_and_a_displacement() {
    explore(2, || {
        let table = pin_table();
        for number in 0..4 {
            assert_eq!(pin(&table, number, u8::from(number > 0), 1), Pin::Pinned);
        }
        let reader = table.clone();
        let reader = thread::spawn(move || {
            let hit = reader.hit(&reader.hashed(pin_key(0)), 10, Some);
            assert!(matches!(hit, Hit::Refreshed | Hit::Known | Hit::Miss), "{hit:?}");
        });
        let writer = table.clone();
        let writer = thread::spawn(move || {
            let pinned = pin(&writer, 9, 1, 10);
            assert!(matches!(pinned, Pin::Pinned | Pin::Displaced), "{pinned:?}");
        });
        table.sweep((0, 1), 11, 0, |_| true);
        reader.join().unwrap();
        writer.join().unwrap();
        assert!(check_pins(&table, 10).contains(&9));
    });
}

/// Two workers pin the same flow, and a third key takes a place, perhaps that of the entry which is to stay: no key is there twice, none is
/// lost that was not displaced, and the count is right.
#[test]
fn pins_of_the_same_flow_against_a_displacement() {
    explore(2, || {
        let table = pin_table();
        // Two places are left, which both copies take before there is anything to displace.
        for number in [3, 5] {
            assert_eq!(pin(&table, number, 1, 1), Pin::Pinned);
        }
        let workers: Vec<_> = [1, 1]
            .map(|number| {
                let table = table.clone();
                thread::spawn(move || assert_ne!(pin(&table, number, 0, 1), Pin::Refused))
            })
            .into();
        let displaced = pin(&table, 9, 1, 1) == Pin::Displaced;
        for worker in workers {
            worker.join().unwrap();
        }
        let there = check_pins(&table, 1);
        assert!(there.contains(&1) || displaced, "{there:?}");
    });
}

/// Two workers change an entry's kind at once, as packets of both directions do: no change is lost.
#[test]
fn pins_two_changes_of_one_entry() {
    explore(3, || {
        // Kinds as sets of what was seen: 1 by the one, 2 by the other.
        const SETS: &[Life] = &[Life::unsure(10); 4];
        let table = Arc::new(PinTable::new(4, SETS, 1));
        pin(&table, 1, 0, 1);
        let other = table.clone();
        let other = thread::spawn(move || {
            let hit = other.hit(&other.hashed(pin_key(1)), 1, |kind| Some(kind | 1));
            assert_eq!(hit, Hit::Refreshed);
        });
        assert_eq!(table.hit(&table.hashed(pin_key(1)), 1, |kind| Some(kind | 2)), Hit::Refreshed);
        other.join().unwrap();
        assert_eq!(table.iter(1).next().map(|entry| entry.kind), Some(3));
    });
}

/// Two takers of one bucket: each taking counts, and none passes while the bucket is in debt.
#[test]
fn account_takings_are_not_lost() {
    explore(3, || {
        const BOUNDS: Bounds = Bounds { burst: 10, debt: 1000 };
        const NOW: u64 = 500;
        let account = Arc::new(Account::new());
        let other = account.clone();
        let taker = thread::spawn(move || (0..2).filter(|_| other.take(6, BOUNDS, NOW).is_ok()).count());
        let here = (0..2).filter(|_| account.take(6, BOUNDS, NOW).is_ok()).count();
        let there = taker.join().unwrap();
        // 10, then 4, then in debt.
        assert_eq!(here + there, 2);
        assert_eq!(account.balance(BOUNDS, NOW), -2);
    });
}

/// Two that go by a bucket at once, with old debts in it: it is filled once, and what either takes is paid for.
#[test]
fn account_is_filled_once() {
    explore(3, || {
        const BOUNDS: Bounds = Bounds { burst: 10, debt: 1000 };
        const NOW: u64 = 500;
        let account = Arc::new(Account::new());
        assert_eq!(account.take(NOW + 40, BOUNDS, 0), Ok(()));
        let join = |account: &Account| {
            account.join(BOUNDS, NOW);
            (0..2).filter(|_| account.take(6, BOUNDS, NOW).is_ok()).count()
        };
        let other = account.clone();
        let taker = thread::spawn(move || join(&other));
        let taken = join(&account) + taker.join().unwrap();
        assert_eq!(account.balance(BOUNDS, NOW), 10 - 6 * taken as i64);
        assert_eq!(taken, 2);
    });
}
