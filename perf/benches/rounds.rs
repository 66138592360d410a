//! What idle ports cost: the time of a worker's round that moves one burst, with 2 ports beside the busy one that have nothing, and
//! with 250. Both run in the worker's own loop. What the daemon's worker pays besides is one `epoll_wait` each eight rounds, whatever
//! the number of ports: here nobody is asked, and no descriptor is ever ready.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_perf::fixed::{FixedBuf, FixedPool, Sink, Source};
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};
use weft_switch::memory::NoWake;
use weft_switch::pins::Pins;
use weft_switch::port::{Burst, RxLoss, RxQueue, TxCaps};
use weft_switch::types::PortId;
use weft_switch::worker::{Clock, Command, Handle, Idle, Parts, Platform, Sleeper, make};
use weft_sync::snapshot::cell;

/// Looks at the descriptors that are measured; a worker with work has one each eight rounds.
const LOOKS: u32 = 20_000;
const ROUNDS_PER_LOOK: u32 = 8;

#[derive(Clone)]
enum Bench {}

impl Platform for Bench {
    type Pool = FixedPool;
    type Rx = Rx;
    type Tx = Sink;
    type Waker = NoWake;
}

enum Rx {
    Busy(Source),
    /// Asks the kernel each time, as a TAP does.
    Idle(UnixDatagram),
}

impl RxQueue<FixedPool> for Rx {
    #[inline]
    fn rx(&mut self, pool: &mut FixedPool, burst: &mut Burst<FixedBuf>) -> RxLoss {
        match self {
            Self::Busy(source) => source.rx(pool, burst),
            Self::Idle(socket) => {
                let got = socket.recv(&mut [0; 64]);
                assert!(got.is_err(), "nobody sends");
                RxLoss::default()
            }
        }
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Busy(_) => None,
            Self::Idle(socket) => Some(socket.as_fd()),
        }
    }
}

/// Nothing is ever ready. Ends the worker after so many looks, and has it do some rounds before it measures.
struct Stopper<'a> {
    handle: Handle<Bench>,
    looks: u32,
    begin: Option<Instant>,
    took: &'a mut Duration,
}

impl Sleeper for Stopper<'_> {
    fn add(&mut self, _: BorrowedFd<'_>, _: PortId) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: BorrowedFd<'_>) {}
    fn wait(&mut self, _: Option<Duration>, _: impl FnMut(PortId, bool)) -> bool {
        self.looks += 1;
        if self.looks == LOOKS / 10 {
            self.begin = Some(Instant::now());
        } else if self.looks == LOOKS / 10 + LOOKS {
            *self.took = self.begin.map_or(Duration::ZERO, |begin| begin.elapsed());
            self.handle.send(Command::Stop);
        }
        false
    }
    fn pause(&mut self, _: bool) -> bool {
        false
    }
}

/// Counts calls: the loop's time limits are of no interest here.
struct Ticks(std::cell::Cell<u64>);

impl Clock for Ticks {
    fn cycles(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// Nanoseconds of a round with so many idle ports.
fn round(idle: usize) -> f64 {
    let port = |number| PortId::new(number).unwrap();
    let scene = Scene::new(Sizes::default()).unwrap();
    let (_publisher, readers) = cell(Box::new(scene.tables().unwrap()), 1);
    let parts =
        readers.into_iter().map(|snapshot| Parts { snapshot, pool: FixedPool::new(8), waker: NoWake });
    let (worker, handle) = make::<Bench>(parts.collect(), &Pins::default()).remove(0);
    let frames = scene.frames(Way::Bridge, 1, FrameSize::MIN).collect();
    let source = Source::new(Arc::new(frames));
    handle.send(Command::AddTx(scene.sinks(Way::Bridge).unwrap()[0], Sink::new(TxCaps::NONE)));
    handle.send(Command::AddRx(Scene::source(Way::Bridge).unwrap(), Rx::Busy(source)));
    let mut far_ends = Vec::new();
    for number in 0..idle {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far_ends.push(far);
        handle.send(Command::AddRx(port(3 + number), Rx::Idle(near)));
    }
    let mut took = Duration::ZERO;
    let stopper = Stopper { handle: handle.clone(), looks: 0, begin: None, took: &mut took };
    let idle = Idle { spin: Some(u64::MAX), beat: Duration::from_millis(1), cycles_per_ms: 1000 };
    worker.run(stopper, Ticks(std::cell::Cell::new(0)), idle);
    assert!(handle.counters().tx.get() > 0 && handle.counters().all_drops() == 0, "every frame goes its way");
    took.as_nanos() as f64 / f64::from(LOOKS * ROUNDS_PER_LOOK)
}

fn main() {
    // In turn, and the best of each: what else the machine does only adds.
    let mut best = [f64::MAX; 2];
    for _ in 0..5 {
        for (best, idle) in best.iter_mut().zip([2, 250]) {
            *best = best.min(round(idle));
        }
    }
    let [few, many] = best;
    println!(
        "a round of one burst: {few:.0} ns with 2 idle ports, {many:.0} ns with 250: ratio {:.3}",
        many / few
    );
}
