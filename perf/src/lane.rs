//! A switch in memory with endless frames on one way: the engine under load, without devices.

use std::sync::{Arc, Mutex};

use weft_switch::memory::{NoSleep, NoWake};
use weft_switch::pins::Pins;
use weft_switch::port::TxCaps;
use weft_switch::tables::Snapshot;
use weft_switch::types::{MacAddr, PortId};
use weft_switch::worker::{Command, Handle, Parts, Worker, make};
use weft_sync::learned::Rules;
use weft_sync::snapshot::{Publisher, cell};

use crate::fixed::{Fixed, FixedPool, Frames, Sink, Source};
use crate::scene::{FrameSize, Scene, SceneError, Sizes, Way};

/// One worker of a switch with one source, and a sink for each port that frames leave by.
pub struct Lane {
    worker: Worker<Fixed>,
    handle: Handle<Fixed>,
    way: Way,
    sinks: Vec<PortId>,
    /// Keeps the tables.
    _publisher: Arc<Mutex<Publisher<Snapshot>>>,
}

impl Lane {
    /// A lane in a full node of a cluster of 100, with so many flows.
    pub fn new(way: Way, flows: u32, size: FrameSize) -> Result<Self, SceneError> {
        let scene = Scene::new(Sizes::default())?;
        let frames: Frames = scene.frames(way, flows, size).collect();
        Self::of(&scene, way, Source::new(Arc::new(frames)))
    }

    /// A lane in this scene with this source.
    pub fn of(scene: &Scene, way: Way, source: Source) -> Result<Self, SceneError> {
        let mut lanes = Self::idle(scene, way, 1)?;
        let mut lane = lanes.remove(0);
        lane.begin(source)?;
        Ok(lane)
    }

    /// The workers of one switch, as lanes that have no source yet.
    pub fn idle(scene: &Scene, way: Way, workers: usize) -> Result<Vec<Self>, SceneError> {
        let tables = scene.tables()?;
        let rules = Rules { ageing: tables.ageing, limit: tables.learn_limit };
        let (publisher, readers) = cell(Box::new(tables), workers);
        let publisher = Arc::new(Mutex::new(publisher));
        let parts =
            readers.into_iter().map(|snapshot| Parts { snapshot, pool: FixedPool::new(8), waker: NoWake });
        let (sinks, stations) = (scene.sinks(way)?, scene.stations()?);
        let lane = |(worker, handle)| Self {
            worker,
            handle,
            way,
            sinks: sinks.clone(),
            _publisher: publisher.clone(),
        };
        let lanes: Vec<_> = make(parts.collect(), &Pins::default()).into_iter().map(lane).collect();
        if let Some(lane) = lanes.first() {
            lane.learn(&stations, rules);
        }
        Ok(lanes)
    }

    /// Gives the worker its queues. Called on the thread that it works on: the buffers belong to that.
    pub fn begin(&mut self, source: Source) -> Result<(), SceneError> {
        let caps = if self.way == Way::Merge { TxCaps::ALL } else { TxCaps::NONE };
        for sink in &self.sinks {
            self.handle.send(Command::AddTx(*sink, Sink::new(caps)));
        }
        let from = Scene::source(self.way)?;
        if !self.sinks.contains(&from) {
            // For what the switch has to say to who sends.
            self.handle.send(Command::AddTx(from, Sink::new(caps)));
        }
        self.handle.send(Command::AddRx(from, source));
        self.worker.obey(&mut NoSleep);
        Ok(())
    }

    /// Has the workers know the stations that are in no table.
    fn learn(&self, stations: &[(MacAddr, PortId)], rules: Rules) {
        for (mac, port) in stations {
            self.handle.learned().learn(*mac, *port, 0, rules, || false);
        }
    }

    /// Takes one burst all the way; how many frames it had.
    #[inline]
    pub fn burst(&mut self) -> usize {
        self.worker.round()
    }

    /// Frames that have come in, were sent, and were dropped. One that became part of another was sent with it.
    pub fn counts(&self) -> (u64, u64, u64) {
        let counters = self.handle.counters();
        (counters.rx.get(), counters.tx.get() + counters.merged.get(), counters.all_drops())
    }
}
