//! The protocols under loom, which tries the interleavings and the values that the C11 memory model lets a load see.
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p weft-sync --release`.
//!
//! What a protocol protects is a [`Guarded`]: loom fails the model when a read of it does not happen before its drop.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

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
