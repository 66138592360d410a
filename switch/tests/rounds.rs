//! The worker's loop, with a clock and a sleeper that the test moves: when it polls for nothing, when it gives its core away,
//! when it sleeps; and that ports take turns.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use weft_switch::memory::{MemSwitch, Memory, NoSleep, NoWake};
use weft_switch::packet::{HeapBuf, HeapPool};
use weft_switch::pins::Pins;
use weft_switch::port::MemPort;
use weft_switch::tables::{Place, PodGuard, Port, Role, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId};
use weft_switch::worker::{Clock, Command, Handle, Idle, Parts, Sleeper, make};
use weft_sync::snapshot::cell;

/// Each look takes a microsecond of 1000 cycles.
struct Ticks(Cell<u64>);

impl Clock for &Ticks {
    fn cycles(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

/// What happens besides.
#[derive(Clone, Copy)]
enum Act {
    Nothing,
    /// This time somebody took the core and kept it.
    Taken(u32),
    /// This time somebody had the core for a millisecond and sent a frame.
    Turn(u32),
    /// After so many times a frame came, and a look showed it.
    Seen(u32),
}

/// What the worker did between two sleeps: how often it gave its core away.
struct Script<'a> {
    handle: &'a Handle<Memory>,
    clock: &'a Ticks,
    act: Act,
    pauses: u32,
    /// Before how many of them a frame waited.
    late: &'a Cell<u32>,
    /// Frames received by the last of them.
    received: u64,
    seen: &'a mut Vec<u32>,
    /// How long each sleep is, in milliseconds, until a frame comes to this port; then the end.
    sleeps: Vec<u64>,
    port: MemPort,
}

impl Sleeper for Script<'_> {
    fn add(&mut self, _: BorrowedFd<'_>, _: PortId) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: BorrowedFd<'_>) {}
    fn wait(&mut self, timeout: Option<Duration>, _: impl FnMut(PortId, bool)) -> bool {
        if timeout == Some(Duration::ZERO) {
            let seen = matches!(self.act, Act::Seen(after) if after == self.pauses);
            if seen {
                self.act = Act::Nothing;
                self.port.inject(HeapBuf::from_bytes(&[0; 60]));
            }
            return seen;
        }
        self.seen.push(std::mem::take(&mut self.pauses));
        if self.sleeps.is_empty() {
            self.handle.send(Command::Stop);
        } else {
            let slept = self.sleeps.remove(0) * 1_000_000;
            self.clock.0.set(self.clock.0.get() + slept);
            self.port.inject(HeapBuf::from_bytes(&[0; 60]));
        }
        true
    }
    fn pause(&mut self, first: bool) -> bool {
        let before = std::mem::replace(&mut self.received, self.handle.counters().rx.get());
        assert_eq!(first, self.pauses == 0 || self.received > before);
        self.late.set(self.late.get() + u32::from(self.port.waits()));
        self.pauses += 1;
        assert!(self.pauses < 10_000, "it never sleeps");
        if matches!(self.act, Act::Turn(at) if at == self.pauses) {
            self.clock.0.set(self.clock.0.get() + 1_000_000);
            self.port.inject(HeapBuf::from_bytes(&[0; 60]));
        }
        matches!(self.act, Act::Taken(at) if at == self.pauses)
    }
}

/// What a worker does that polls for 100 µs.
struct Run {
    /// How often it gives its core away before each sleep.
    pauses: Vec<u32>,
    /// Before how many of those a frame waited.
    late: u32,
    /// Cycles of work.
    busy: u64,
    /// Frames received.
    received: u64,
}

fn run(act: Act, sleeps: &[u64]) -> Run {
    let (_publisher, readers) = cell(Box::<Snapshot>::default(), 1);
    let parts =
        readers.into_iter().map(|snapshot| Parts { snapshot, pool: HeapPool::default(), waker: NoWake });
    let (worker, handle) = make::<Memory>(parts.collect(), &Pins::default()).remove(0);
    let (clock, late, mut seen) = (Ticks(Cell::new(0)), Cell::new(0), Vec::new());
    let (port, sleeps) = (MemPort::default(), sleeps.to_vec());
    handle.send(Command::AddRx(PortId::new(0).unwrap(), port.clone()));
    let script = Script {
        handle: &handle,
        clock: &clock,
        act,
        pauses: 0,
        late: &late,
        received: 0,
        seen: &mut seen,
        sleeps,
        port,
    };
    let idle = Idle { spin: Some(100_000), beat: Duration::from_millis(1), cycles_per_ms: 1_000_000 };
    worker.run(script, &clock, idle);
    let counters = handle.counters();
    Run { pauses: seen, late: late.get(), busy: counters.busy_cycles.get(), received: counters.rx.get() }
}

#[test]
fn a_worker_that_has_its_core_for_itself_polls_for_the_time_that_was_set_after_each_frame() {
    let seen = run(Act::Nothing, &[1, 1]).pauses;
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|pauses| (30..=100).contains(pauses)), "{seen:?}");
}

#[test]
fn a_worker_whose_core_another_wants_sleeps_at_once() {
    assert_eq!(run(Act::Taken(1), &[]).pauses, [1]);
    assert_eq!(run(Act::Taken(5), &[]).pauses, [5]);
}

#[test]
fn a_core_counts_as_shared_for_a_while() {
    // 2 ms, then 4, 8 and 16.
    assert_eq!(run(Act::Taken(1), &[1, 2, 3, 2, 5, 4, 15]).pauses, [1, 0, 1, 0, 1, 0, 1, 0]);
    // Up to 128 ms, which are not exceeded.
    let often = [3, 5, 9, 17, 33, 65, 127, 2, 127, 2];
    assert_eq!(run(Act::Taken(1), &often).pauses, [1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1]);
    // What did not happen again for as long is forgotten.
    assert_eq!(run(Act::Taken(1), &[3, 200, 1, 2]).pauses, [1, 1, 1, 0, 1]);
}

#[test]
fn a_frame_that_a_look_has_shown_does_not_wait_out_another_threads_turn() {
    let run = run(Act::Seen(3), &[]);
    assert_eq!((run.received, run.late), (1, 0));
}

#[test]
fn another_threads_turn_is_no_work() {
    let run = run(Act::Turn(3), &[]);
    assert_eq!(run.received, 1);
    assert!(run.busy > 0 && run.busy < 100_000, "{} cycles", run.busy);
}

#[test]
fn ports_take_turns_where_the_way_out_is_full() {
    let mac = |pod: usize| MacAddr([2, 0, 0, 0, 0, pod as u8]);
    let ports: Vec<_> = (0..4).map(|_| MemPort::default()).collect();
    let mut switch = MemSwitch::new(1);
    let mut tables = Snapshot::default();
    for (pod, port) in ports.iter().enumerate() {
        let (id, role) = (PortId::new(pod).unwrap(), Role::Pod(PodGuard::new(mac(pod), &[])));
        tables.ports.insert(
            id,
            Port { role, mtu: Mtu::new(1500).unwrap(), place: Place::Worker(0), tunnel_gso: false },
        );
        tables.add_pod(id, mac(pod), &[]);
        switch.attach(0, id, port);
    }
    switch.publish(tables);
    let mut through = [0; 3];
    for _ in 0..30 {
        for (from, port) in ports[..3].iter().enumerate() {
            port.inject(HeapBuf::from_bytes(
                &[&mac(3).0[..], &mac(from).0, &[0x88, 0xb5], &[0; 46]].concat(),
            ));
        }
        ports[3].limit(Some(1));
        switch.step();
        for frame in ports[3].take() {
            through[usize::from(frame.to_vec()[11])] += 1;
        }
    }
    // The turn of the one that never sends is its neighbour's.
    assert!(through.iter().sum::<i32>() == 30 && through.iter().all(|count| *count > 5), "{through:?}");
}

#[test]
fn a_command_does_not_wait_for_the_frames_of_all_ports() {
    let (_publisher, readers) = cell(Box::<Snapshot>::default(), 1);
    let parts =
        readers.into_iter().map(|snapshot| Parts { snapshot, pool: HeapPool::default(), waker: NoWake });
    let (mut worker, handle) = make::<Memory>(parts.collect(), &Pins::default()).remove(0);
    let ports: Vec<_> = (0..3).map(|_| MemPort::default()).collect();
    for (number, port) in ports.iter().enumerate() {
        handle.send(Command::AddRx(PortId::new(number).unwrap(), port.clone()));
    }
    worker.obey(&mut NoSleep);
    let inject = || ports.iter().for_each(|port| port.inject(HeapBuf::from_bytes(&[0; 60])));
    inject();
    assert_eq!(worker.round(), 3);

    inject();
    let (done, answer) = crossbeam_channel::bounded(1);
    handle.send(Command::Tell(done));
    assert_eq!(worker.round(), 1);
    assert!(worker.obey(&mut NoSleep) && answer.try_recv().is_ok());
    // The others come first then.
    assert_eq!(worker.round(), 2);
    assert!(ports.iter().all(|port| !port.waits()));

    // With commands all the time, each has its turn.
    inject();
    for _ in 0..3 {
        handle.send(Command::Tell(crossbeam_channel::bounded(1).0));
        assert_eq!(worker.round(), 1);
        worker.obey(&mut NoSleep);
    }
    assert!(ports.iter().all(|port| !port.waits()));
}
