//! Limits of rates, by a clock that the test moves: what passes is as much as the rate allows, whatever the size of the frames, the
//! direction and the number of workers; nothing changes its place; and a limit may change or go while frames wait.

mod packets;
mod world;

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use packets::{Packet, TCP, UDP};
use weft_switch::drop_reason::DropReason;
use weft_switch::memory::{Memory, NoWake};
use weft_switch::packet::{HeapBuf, HeapPool, PacketBuf};
use weft_switch::pins::Pins;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{Place, PortRates, Rate, Snapshot};
use weft_switch::types::{BitRate, PortId};
use weft_switch::worker::{Clock, Command, Handle, Idle, Parts, Sleeper, make};
use weft_sync::snapshot::cell;

use world::{FIRST_POD, Node, POD_MAC, Underlay};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// In nanoseconds.
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Short,
    Mtu,
    Large,
}

impl Frame {
    const ALL: [Self; 3] = [Self::Short, Self::Mtu, Self::Large];

    /// Bytes of the payload, and of one packet's headers and payload.
    fn sizes(self) -> (usize, usize, usize) {
        match self {
            Self::Short => (22, 42, 22),
            Self::Mtu => (1398, 66, 1398),
            Self::Large => (64_000, 66, 1398),
        }
    }

    /// Bytes on the wire: each packet has headers.
    fn wire(self) -> u64 {
        let (payload, headers, size) = self.sizes();
        (payload + payload.div_ceil(size) * headers) as u64
    }

    /// The rates at which it is tried, in bits a second.
    fn rates(self) -> [u64; 3] {
        let fastest = if self == Self::Short { 1_000_000_000 } else { 10_000_000_000 };
        [1_000_000, 100_000_000, fastest]
    }

    fn make(self) -> HeapBuf {
        let (payload, _, size) = self.sizes();
        let protocol = if self == Self::Short { UDP } else { TCP };
        let mut packet = Packet::new(protocol, "10.244.0.5", "10.244.0.9", payload);
        (packet.src_mac, packet.dst_mac) = (POD_MAC[0], OTHER_MAC);
        match self {
            Self::Large => packet.gso(size as u16),
            Self::Short | Self::Mtu => packet.complete(),
        }
    }

    /// One that says which it is. Nobody here looks at its checksum.
    fn numbered(self, made: &HeapBuf, number: u32) -> HeapBuf {
        let mut frame = made.clone();
        assert!(frame.write_at(self.sizes().1, &number.to_be_bytes()));
        frame
    }

    fn number(self, frame: &HeapBuf) -> u32 {
        let mut number = [0; 4];
        frame.read_at(self.sizes().1, &mut number);
        u32::from_be_bytes(number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limited {
    Sender,
    Receiver,
}

/// A pod that sends as fast as it can to another one.
struct Lab {
    node: Node,
    receiver: MemPort,
    frame: Frame,
    made: HeapBuf,
    next: u32,
    now: u64,
}

fn id(pod: usize) -> PortId {
    PortId::new(FIRST_POD + pod).unwrap()
}

fn rate(bits: u64) -> Rate {
    Rate { per_second: BitRate::new(bits).unwrap(), burst: None }
}

impl Lab {
    /// With several workers the receiver's is another than the sender's.
    fn new(frame: Frame, workers: usize) -> Self {
        let caps = if frame == Frame::Large { TxCaps::ALL } else { TxCaps::NONE };
        let mut node = Node::new(0, Underlay::V4, workers, caps);
        let receiver = MemPort::with_caps(caps);
        node.add_pod(workers - 1, [10, 244, 0, 9], OTHER_MAC, &receiver);
        Self { node, receiver, frame, made: frame.make(), next: 0, now: SECOND }
    }

    fn limit(&mut self, limited: Limited, rate: Option<Rate>, place: Option<Place>) {
        let tables = self.tables(limited, rate, place);
        self.node.switch.publish(tables);
    }

    fn tables(&self, limited: Limited, rate: Option<Rate>, place: Option<Place>) -> Snapshot {
        let mut tables = self.node.tables();
        if rate.is_some() {
            let (port, rates) = match limited {
                Limited::Sender => (id(0), PortRates { from: rate, to: None }),
                Limited::Receiver => (id(1), PortRates { from: None, to: rate }),
            };
            tables.rates.insert(port, rates);
        }
        for port in [id(0), id(1)] {
            let mut there = tables.ports.get(port).unwrap().clone();
            there.place = place.unwrap_or(there.place);
            tables.ports.insert(port, there);
        }
        tables
    }

    /// Goes on for `step`, with so many frames offered; the numbers of those that arrived.
    fn step(&mut self, step: u64, offered: usize) -> Vec<u32> {
        self.now += step;
        self.node.switch.set_nanos(self.now);
        for _ in self.node.pod.waiting()..offered {
            self.node.pod.inject(self.frame.numbered(&self.made, self.next));
            self.next += 1;
        }
        // What is offered to a queue that is full is dropped, so this ends.
        while self.node.switch.step() > 0 {}
        self.receiver.take().iter().map(|frame| self.frame.number(frame)).collect()
    }

    /// What passed of what the rate allows, while frames always wait.
    fn share(&mut self, bits: u64) -> f64 {
        let each = self.frame.wire() * 8 * SECOND / bits;
        // Steps of less than the bucket holds, as a worker makes them, and enough frames to tell 1 %.
        let step = (4 * each).clamp(250_000, 5 * MS);
        let offered = usize::try_from(2 * step / each).unwrap().clamp(4, 4096);
        let steps = (100 * each / step).max(400);
        for _ in 0..steps / 5 {
            self.step(step, offered);
        }
        let (began, mut arrived) = (self.now, Vec::new());
        for _ in 0..steps {
            arrived.extend(self.step(step, offered));
        }
        assert!(arrived.is_sorted_by(|a, b| a < b), "out of order");
        arrived.len() as f64 * each as f64 / (self.now - began) as f64
    }

    fn assert_share(&mut self, bits: u64, what: &str) {
        let share = self.share(bits);
        assert!((0.97..1.03).contains(&share), "{what}: {share:.4}");
    }

    /// Lets all go that waits, and compares what came with what went.
    fn assert_balanced(&mut self, limited: Limited) {
        self.limit(limited, None, None);
        for _ in 0..200 {
            self.step(MS, 0);
        }
        self.node.assert_balanced();
    }

    fn port(&self, port: PortId) -> [u64; 3] {
        let counters = || self.node.switch.handles().map(|handle| handle.counters().port(port));
        [
            counters().map(|port| port.delayed.get()).sum(),
            counters().map(|port| port.paused.get()).sum(),
            counters().map(|port| port.tx_drops.get()).sum(),
        ]
    }
}

#[test]
fn a_pod_gets_as_much_as_its_rate_allows() {
    for frame in Frame::ALL {
        for workers in [1, 2] {
            for bits in frame.rates() {
                for limited in [Limited::Sender, Limited::Receiver] {
                    let mut lab = Lab::new(frame, workers);
                    lab.limit(limited, Some(rate(bits)), None);
                    let what = format!("{limited:?}, {workers} workers, {bits} bit/s of {frame:?}");
                    lab.assert_share(bits, &what);
                    let [delayed, paused, dropped] = match limited {
                        Limited::Sender => lab.port(id(0)),
                        Limited::Receiver => lab.port(id(1)),
                    };
                    match limited {
                        Limited::Sender => assert!(paused > 0 && dropped == 0 && delayed == 0, "{what}"),
                        Limited::Receiver => assert!(paused == 0 && dropped > 0 && delayed > 0, "{what}"),
                    }
                    assert_eq!(lab.node.drops(DropReason::RateLimited), dropped);
                    lab.assert_balanced(limited);
                }
            }
        }
    }
}

#[test]
fn workers_that_serve_one_pod_share_its_rate() {
    for frame in Frame::ALL {
        let bits = 200_000_000;
        for limited in [Limited::Sender, Limited::Receiver] {
            let mut lab = Lab::new(frame, 2);
            let (sender, receiver) = (lab.node.pod.clone(), lab.receiver.clone());
            // Each has a queue of both; the pod's frames come by either.
            lab.node.switch.attach(1, id(0), &sender);
            lab.node.switch.attach(0, id(1), &receiver);
            lab.limit(limited, Some(rate(bits)), Some(Place::Each));
            let each = frame.wire() * 8 * SECOND / bits;
            let step = (2 * each).clamp(250_000, 5 * MS);
            let offered = usize::try_from(4 * step / each).unwrap().clamp(8, 4096);
            (0..20).for_each(|_| drop(lab.step(step, offered)));
            let began = lab.now;
            let arrived: usize = (0..300).map(|_| lab.step(step, offered).len()).sum();
            let share = arrived as f64 * each as f64 / (lab.now - began) as f64;
            assert!((0.97..1.03).contains(&share), "{limited:?}, {frame:?}: {share:.4}");
        }
    }
}

#[test]
fn a_limit_changes_and_goes_while_frames_wait_and_none_changes_its_place() {
    for limited in [Limited::Sender, Limited::Receiver] {
        let mut lab = Lab::new(Frame::Mtu, 1);
        let mut arrived = Vec::new();
        // Slow enough that each change finds frames waiting.
        let rates =
            [Some(1_000_000), Some(50_000_000), Some(5_000), Some(1_000_000_000), None, Some(2_000_000)];
        for bits in rates {
            lab.limit(limited, bits.map(rate), None);
            let before = arrived.len();
            (0..50).for_each(|_| arrived.extend(lab.step(MS, 30)));
            let seen = (arrived.len() - before) as f64 * Frame::Mtu.wire() as f64 * 8.0 * 20.0;
            match bits {
                None => assert!(arrived.len() - before >= 1000, "{limited:?}: no limit"),
                // Within 50 ms the bucket's 10 ms count, and what was bought by the last frame.
                Some(bits) => {
                    let most = bits as f64 * 1.2 + 2.0 * Frame::Mtu.wire() as f64 * 8.0 * 20.0;
                    assert!(seen <= most, "{limited:?}: {seen} of {bits}");
                }
            }
        }
        assert!(arrived.is_sorted_by(|a, b| a < b), "{limited:?}: out of order");
        lab.assert_balanced(limited);
    }
}

#[test]
fn a_frame_larger_than_the_bucket_passes_and_is_paid_for_and_an_old_debt_holds_nobody_up() {
    let mut lab = Lab::new(Frame::Large, 1);
    lab.limit(Limited::Receiver, Some(rate(1_000_000)), None);
    assert_eq!(lab.step(MS, 2).len(), 1, "64 KiB, where the bucket has 1.25");
    // Half a second each.
    let waited = (1..2000).take_while(|_| lab.step(MS, 0).is_empty()).count();
    assert!((500..540).contains(&waited), "{waited} ms");
    // The rate rises: what is owed is little by the new one.
    assert_eq!(lab.step(MS, 2).len(), 0);
    lab.limit(Limited::Receiver, Some(rate(10_000_000_000)), None);
    assert!((0..10).map(|_| lab.step(MS, 0).len()).sum::<usize>() > 0);
}

#[test]
fn what_a_pod_did_not_use_is_saved_up_to_its_burst() {
    for (burst, bits) in [(Some(8 * 146_400), 100 * 1464 * 8), (None, 15_000_000)] {
        let mut lab = Lab::new(Frame::Mtu, 1);
        lab.limit(Limited::Receiver, Some(Rate { burst, ..rate(bits) }), None);
        lab.step(10 * SECOND, 0);
        // 146,400 bytes of 1,464 each; or 10 ms of the rate, 18,750 bytes. And the one that is owed.
        let most = burst.map_or(12, |_| 100) + 1;
        let passed = lab.step(1, 200).len();
        assert!((most..=most + 1).contains(&passed), "{passed}, burst {burst:?}");
    }
}

#[test]
fn queues_together_hold_no_more_than_a_part_of_the_memory_and_each_at_least_a_frame() {
    const PODS: usize = 40;
    let mut lab = Lab::new(Frame::Large, 1);
    let receivers: Vec<_> = (0..PODS).map(|_| MemPort::with_caps(TxCaps::ALL)).collect();
    let mac = |pod: usize| [2, 0, 0, 0, 1, pod as u8];
    for (pod, port) in receivers.iter().enumerate() {
        lab.node.add_pod(0, [10, 244, 0, 20 + pod as u8], mac(pod), port);
    }
    // Each would have room for 5 of them.
    let slow = PortRates { to: Some(rate(100_000_000)), from: None };
    let mut tables = lab.node.tables();
    (0..PODS).for_each(|pod| tables.rates.insert(id(2 + pod), slow));
    lab.node.switch.publish(tables);
    lab.now += 1;
    lab.node.switch.set_nanos(lab.now);
    for _ in 0..10 {
        for pod in 0..PODS {
            let mut packet = Packet::new(TCP, "10.244.0.5", &format!("10.244.0.{}", 20 + pod), 64_000);
            (packet.src_mac, packet.dst_mac) = (POD_MAC[0], mac(pod));
            lab.node.pod.inject(packet.gso(1398));
        }
        while lab.node.switch.step() > 0 {}
    }
    let delayed: Vec<_> = (0..PODS).map(|pod| lab.port(id(2 + pod))[0]).collect();
    assert!(delayed.iter().all(|frames| *frames >= 1), "{delayed:?}");
    // 4 MiB, and a frame each.
    let all: u64 = delayed.iter().sum();
    assert!((64..=64 + PODS as u64).contains(&all), "{all}: {delayed:?}");
    // As those that wait go, others may come.
    for _ in 0..100 {
        lab.now += MS;
        lab.node.switch.set_nanos(lab.now);
        while lab.node.switch.step() > 0 {}
    }
    let waited: u64 = receivers.iter().map(|port| port.take().len() as u64).sum();
    assert!(waited >= all, "{waited} of {all}");
    lab.node.assert_balanced();
}

#[test]
fn what_waits_when_a_port_goes_is_counted() {
    for limited in [Limited::Sender, Limited::Receiver] {
        let mut lab = Lab::new(Frame::Mtu, 1);
        lab.limit(limited, Some(rate(1_000)), None);
        (0..20).for_each(|_| drop(lab.step(MS, 40)));
        let port = if limited == Limited::Sender { id(0) } else { id(1) };
        let queues = lab.node.switch.detach(0, port);
        lab.node.switch.step();
        assert!(queues.try_recv().is_ok());
        lab.node.assert_balanced();
        let reason = match limited {
            Limited::Sender => DropReason::RxPortUnknown,
            Limited::Receiver => DropReason::TxPortGone,
        };
        // Of the sender's, nearly all wait in its own queue.
        assert!(lab.node.drops(reason) > 0 || limited == Limited::Sender, "{limited:?}");
    }
}

/// One cycle is a nanosecond, and each look takes a microsecond.
struct Ticks(Cell<u64>);

impl Clock for &Ticks {
    fn cycles(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

/// Sleeps by moving the clock, until so many frames have arrived.
struct Sleep<'a> {
    clock: &'a Ticks,
    handle: &'a Handle<Memory>,
    receiver: MemPort,
    arrived: usize,
    wanted: usize,
    longest: &'a Cell<Duration>,
    naps: &'a Cell<usize>,
}

impl Sleeper for Sleep<'_> {
    fn add(&mut self, _: BorrowedFd<'_>, _: PortId) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: BorrowedFd<'_>) {}
    fn wait(&mut self, timeout: Option<Duration>, _: impl FnMut(PortId, bool)) -> bool {
        if timeout == Some(Duration::ZERO) {
            return false;
        }
        self.arrived += self.receiver.take().len();
        if self.arrived >= self.wanted {
            self.handle.send(Command::Stop);
            return false;
        }
        let timeout = timeout.expect("it would sleep for ever");
        self.longest.set(self.longest.get().max(timeout));
        self.naps.set(self.naps.get() + 1);
        assert!(self.naps.get() < 1000, "{} of {} frames arrived", self.arrived, self.wanted);
        self.clock.0.set(self.clock.0.get() + timeout.as_nanos() as u64);
        false
    }
    fn pause(&mut self, _: bool) -> bool {
        false
    }
}

#[test]
fn a_worker_sleeps_until_a_limit_lets_something_through_and_no_longer() {
    const FRAMES: usize = 6;
    for limited in [Limited::Sender, Limited::Receiver] {
        let lab = Lab::new(Frame::Mtu, 1);
        // A frame takes 11.7 ms.
        let tables = lab.tables(limited, Some(rate(1_000_000)), None);
        let (_publisher, readers) = cell(Box::new(tables), 1);
        let parts =
            readers.into_iter().map(|snapshot| Parts { snapshot, pool: HeapPool::default(), waker: NoWake });
        let (worker, handle) = make::<Memory>(parts.collect(), &Pins::default()).remove(0);
        let (sender, receiver) = (MemPort::default(), MemPort::default());
        for (port, queue) in [(id(0), &sender), (id(1), &receiver)] {
            handle.send(Command::AddTx(port, queue.clone()));
            handle.send(Command::AddRx(port, queue.clone()));
        }
        (0..FRAMES as u32).for_each(|number| sender.inject(lab.frame.numbered(&lab.made, number)));
        let clock = Ticks(Cell::new(SECOND));
        let (longest, naps) = (Cell::new(Duration::ZERO), Cell::new(0));
        let (wanted, arrived) = (FRAMES, 0);
        let sleep = Sleep {
            clock: &clock,
            handle: &handle,
            receiver,
            arrived,
            wanted,
            longest: &longest,
            naps: &naps,
        };
        // Without a descriptor ports are polled during sleep, here once an hour.
        let idle = Idle { spin: Some(0), beat: Duration::from_secs(3600), cycles_per_ms: MS };
        worker.run(sleep, &clock, idle);
        let took = clock.0.get() - SECOND;
        // The bucket pays for most of the first frame, and the last one is paid for afterwards.
        assert!((48 * MS..75 * MS).contains(&took), "{limited:?}: {} ms", took / MS);
        assert!(longest.get() < Duration::from_millis(13), "{limited:?}: {:?}", longest.get());
        assert!(naps.get() < 3 * FRAMES, "{limited:?}: {} naps", naps.get());
    }
}
