//! The worker's loop, with a clock and a sleeper that the test moves: when it polls for nothing, when it gives its core away,
//! when it sleeps; and that ports take turns.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use weft_switch::memory::{MemSwitch, Memory, NoWake};
use weft_switch::packet::{HeapBuf, HeapPool};
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

/// What the worker did between two sleeps: how often it gave its core away.
struct Script<'a> {
    handle: Handle<Memory>,
    clock: &'a Ticks,
    /// At which of the times somebody took the core.
    taken: Option<u32>,
    pauses: u32,
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
            return false;
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
    fn pause(&mut self) -> bool {
        self.pauses += 1;
        assert!(self.pauses < 10_000, "it never sleeps");
        self.taken == Some(self.pauses)
    }
}

/// How often a worker without work gives its core away before each sleep. It polls for 100 µs.
fn pauses(taken: Option<u32>, sleeps: &[u64]) -> Vec<u32> {
    let (_publisher, readers) = cell(Box::<Snapshot>::default(), 1);
    let parts =
        readers.into_iter().map(|snapshot| Parts { snapshot, pool: HeapPool::default(), waker: NoWake });
    let (worker, handle) = make::<Memory>(parts.collect()).remove(0);
    let (clock, mut seen) = (Ticks(Cell::new(0)), Vec::new());
    let (port, sleeps) = (MemPort::default(), sleeps.to_vec());
    handle.send(Command::AddRx(PortId::new(0).unwrap(), port.clone()));
    let script = Script { handle, clock: &clock, taken, pauses: 0, seen: &mut seen, sleeps, port };
    let idle = Idle { spin: Some(100_000), beat: Duration::from_millis(1), cycles_per_ms: 1_000_000 };
    worker.run(script, &clock, idle);
    seen
}

#[test]
fn a_worker_that_has_its_core_for_itself_polls_for_the_time_that_was_set_after_each_frame() {
    let seen = pauses(None, &[1, 1]);
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|pauses| (50..=100).contains(pauses)), "{seen:?}");
}

#[test]
fn a_worker_whose_core_another_wants_sleeps_at_once() {
    assert_eq!(pauses(Some(1), &[]), [1]);
    assert_eq!(pauses(Some(5), &[]), [5]);
}

#[test]
fn a_core_counts_as_shared_for_a_while() {
    assert_eq!(pauses(Some(1), &[1, 20, 50, 50, 1]), [1, 0, 0, 0, 1, 0]);
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
