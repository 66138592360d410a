//! Workers that sleep: no frame, command or hand-over is slept through, whenever it comes; nobody waits for a sleeper; idle
//! ports are not polled.
#![cfg(feature = "drivers")]

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use weft_switch::drivers::{EpollSleeper, Tsc, WorkerWaker};
use weft_switch::packet::{HeapBuf, HeapPool};
use weft_switch::pins::Pins;
use weft_switch::port::{Burst, RxLoss, RxQueue, TxCaps, TxQueue};
use weft_switch::tables::{Place, PodGuard, Port, Role, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId};
use weft_switch::worker::{Clock, Command, Handle, Idle, Parts, Platform, make};
use weft_sync::snapshot::{Publisher, cell};

/// How long the workers poll for nothing, in microseconds.
const SPIN: u64 = 50;
/// Far longer than any wake-up takes: what has not come by then has been slept through.
const PATIENCE: Duration = Duration::from_secs(20);

enum Sockets {}

impl Platform for Sockets {
    type Pool = HeapPool;
    type Rx = SocketRx;
    type Tx = SocketTx;
    type Waker = WorkerWaker;
}

struct SocketRx {
    socket: UnixDatagram,
    tells: bool,
    polls: Arc<AtomicU64>,
}

impl RxQueue<HeapPool> for SocketRx {
    fn rx(&mut self, _: &mut HeapPool, burst: &mut Burst<HeapBuf>) -> RxLoss {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let mut bytes = [0; 2048];
        while !burst.is_full() {
            let Ok(len) = self.socket.recv(&mut bytes) else { break };
            burst.push(HeapBuf::from_bytes(&bytes[..len]));
        }
        RxLoss::default()
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.tells.then(|| self.socket.as_fd())
    }
}

struct SocketTx(UnixDatagram);

impl TxQueue<HeapPool> for SocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    fn tx(&mut self, burst: &mut Burst<HeapBuf>) {
        burst.retain(|frame| self.0.send(&frame.to_vec()).is_err());
    }
}

fn mac(pod: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, pod as u8])
}

fn port(pod: usize) -> PortId {
    PortId::new(pod).unwrap()
}

fn frame(from: usize, to: usize, number: u64) -> Vec<u8> {
    let payload = [[0x88, 0xb5].as_slice(), &number.to_be_bytes(), &[0; 40]].concat();
    [mac(to).0.as_slice(), &mac(from).0, &payload].concat()
}

/// A switch of threads; pod `n` is served by the n-th worker, in turn.
struct Switch {
    publisher: Publisher<Snapshot>,
    handles: Vec<Handle<Sockets>>,
    threads: Vec<JoinHandle<()>>,
    pods: Vec<UnixDatagram>,
    polls: Vec<Arc<AtomicU64>>,
}

fn tables(pods: usize, workers: usize) -> Snapshot {
    let mut tables = Snapshot::default();
    for pod in 0..pods {
        let role = Role::Pod(PodGuard::new(mac(pod), &[]));
        let place = Place::Worker((pod % workers) as u16);
        tables.ports.insert(port(pod), Port { role, mtu: Mtu::new(1500).unwrap(), place, tunnel_gso: false });
        tables.add_pod(port(pod), mac(pod), &[]);
    }
    tables
}

impl Switch {
    fn new(workers: usize, pods: usize, tells: bool) -> Self {
        let (publisher, readers) = cell(Box::new(tables(pods, workers)), workers);
        let (mut sleepers, mut parts) = (Vec::new(), Vec::new());
        for snapshot in readers {
            let (sleeper, waker) = EpollSleeper::new().unwrap();
            sleepers.push(sleeper);
            parts.push(Parts { snapshot, pool: HeapPool::default(), waker });
        }
        let mut switch = Self { publisher, handles: vec![], threads: vec![], pods: vec![], polls: vec![] };
        let cycles_per_ms = cycles_per_ms();
        let idle =
            Idle { spin: Some(cycles_per_ms * SPIN / 1000), beat: Duration::from_millis(1), cycles_per_ms };
        for ((worker, handle), sleeper) in make::<Sockets>(parts, &Pins::default()).into_iter().zip(sleepers)
        {
            switch.handles.push(handle);
            switch.threads.push(thread::spawn(move || worker.run(sleeper, Tsc, idle)));
        }
        for pod in 0..pods {
            let (inside, outside) = UnixDatagram::pair().unwrap();
            outside.set_nonblocking(true).unwrap();
            inside.set_read_timeout(Some(PATIENCE)).unwrap();
            let handle = &switch.handles[pod % workers];
            let polls = Arc::<AtomicU64>::default();
            handle.send(Command::AddTx(port(pod), SocketTx(outside.try_clone().unwrap())));
            handle.send(Command::AddRx(port(pod), SocketRx { socket: outside, tells, polls: polls.clone() }));
            switch.pods.push(inside);
            switch.polls.push(polls);
        }
        switch
    }

    fn carries(&self, from: usize, to: usize, number: u64) {
        carries(&self.pods, from, to, number);
    }

    fn sleeps(&self) -> u64 {
        self.handles.iter().map(|handle| handle.counters().sleeps.get()).sum()
    }

    fn all_sleep(&self) -> bool {
        self.handles.iter().all(|handle| handle.counters().asleep.until(Tsc.cycles()).1)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.send(Command::Stop);
        }
        let ends = self.threads.drain(..).map(JoinHandle::join);
        let ended = ends.filter(Result::is_err).count();
        assert!(ended == 0 || thread::panicking(), "{ended} workers have panicked");
    }
}

/// One frame from pod to pod.
fn carries(pods: &[UnixDatagram], from: usize, to: usize, number: u64) {
    let sent = frame(from, to, number);
    pods[from].send(&sent).unwrap();
    let mut bytes = [0; 2048];
    match pods[to].recv(&mut bytes) {
        Ok(len) => assert_eq!(bytes[..len], sent),
        Err(error) => panic!("frame {number} from {from} to {to} was slept through: {error}"),
    }
}

fn cycles_per_ms() -> u64 {
    let (from, cycles) = (Instant::now(), Tsc.cycles());
    thread::sleep(Duration::from_millis(20));
    ((Tsc.cycles() - cycles) as f64 / from.elapsed().as_secs_f64() / 1000.0) as u64
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Gaps around the time that a worker polls before it sleeps, so that many a frame comes just when it falls asleep.
fn gaps() -> impl Iterator<Item = Duration> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_nanos(state % (SPIN * 3000))
    })
}

/// Frames at such gaps, for some seconds; how many those were.
fn carry_some(pods: &[UnixDatagram], from: usize, to: usize) -> u64 {
    let end = Instant::now() + Duration::from_secs(3);
    let mut number = 0;
    for gap in gaps() {
        let start = Instant::now();
        if start > end {
            break;
        }
        while start.elapsed() < gap {
            std::hint::spin_loop();
        }
        let (from, to) = if number % 2 == 0 { (from, to) } else { (to, from) };
        carries(pods, from, to, number);
        number += 1;
    }
    number
}

impl Switch {
    fn has_slept_and_carried(&self, count: u64) {
        assert!(self.sleeps() > 10, "the workers have hardly slept: {}", self.sleeps());
        let received: u64 = self.handles.iter().map(|handle| handle.counters().rx.get()).sum();
        assert_eq!(received, count);
    }
}

fn stress(workers: usize, tells: bool) {
    let switch = Switch::new(workers, 2, tells);
    let count = carry_some(&switch.pods, 0, 1);
    switch.has_slept_and_carried(count);
}

#[test]
fn no_frame_is_slept_through() {
    stress(1, true);
}

#[test]
fn no_frame_that_another_worker_hands_over_is_slept_through() {
    stress(2, true);
}

#[test]
fn ports_that_cannot_tell_are_polled_at_the_beat() {
    stress(2, false);
}

/// Both workers hand over to each other all the time, and fall asleep in between.
#[test]
fn workers_that_hand_over_to_each_other_do_not_both_sleep() {
    let switch = Switch::new(2, 4, true);
    let pods = &switch.pods;
    let count = thread::scope(|scope| {
        let other = scope.spawn(|| carry_some(pods, 3, 2));
        carry_some(pods, 0, 1) + other.join().unwrap()
    });
    switch.has_slept_and_carried(count);
}

#[test]
fn nobody_waits_for_a_sleeper_and_commands_wake_it() {
    let mut switch = Switch::new(2, 2, true);
    switch.carries(0, 1, 0);
    wait_for("the workers do not sleep", || switch.all_sleep());
    let sleeps = switch.sleeps();
    let publication = switch.publisher.publish(Box::new(tables(1, 2)));
    assert!(switch.publisher.passed(publication), "a sleeper holds up who waits for the new snapshot");
    assert_eq!(switch.publisher.reclaim(), 1);
    assert_eq!(switch.sleeps(), sleeps, "a snapshot wakes nobody");
    for handle in &switch.handles {
        let (done, queues) = bounded(1);
        handle.send(Command::Remove(port(1), done));
        assert!(queues.recv_timeout(PATIENCE).is_ok(), "a command was slept through");
    }
    // What wakes next goes by the new snapshot.
    switch.pods[0].send(&frame(0, 1, 1)).unwrap();
    wait_for("the frame for the port that is gone is not dropped", || {
        switch.handles[0].counters().all_drops() == 1
    });
}

#[test]
fn idle_ports_are_not_polled() {
    let switch = Switch::new(1, 200, true);
    let idle = || switch.polls[2..].iter().map(|polls| polls.load(Ordering::Relaxed)).sum::<u64>();
    switch.carries(0, 1, 0);
    wait_for("the worker does not sleep", || switch.all_sleep());
    let before = idle();
    for number in 0..1000 {
        switch.carries(0, 1, number);
    }
    assert_eq!(idle(), before);
    // Whoever wakes up is served.
    switch.carries(150, 199, 7);
}
