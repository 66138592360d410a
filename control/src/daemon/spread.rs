//! The further queues of TAPs: a port comes with one, since each costs the kernel some milliseconds and a lock that every new pod needs
//! too, and gets the others when nothing is being opened any more. Then each worker has its own, and the port's flows spread over
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use weft_switch::drivers::{Rx, Tx};
use weft_switch::tables::Place;
use weft_switch::types::PortId;

use super::Daemon;
use crate::compile::OpenPort;
use crate::ports::FurtherQueues;

/// How long after the last port the further queues of all of them wait.
const QUIET: Duration = Duration::from_millis(250);

/// A port that has queues still to come.
pub(super) struct Job {
    id: PortId,
    queues: FurtherQueues,
    /// The workers that have none so far; the last one is next.
    workers: Vec<usize>,
}

/// A queue, or why there is none.
type Opened = Result<(Rx, Tx), String>;

/// What is to be opened in the background, one after the other.
pub(super) struct Spread {
    waiting: VecDeque<Job>,
    running: Option<(Job, JoinHandle<Opened>)>,
    /// When the first of those that wait may begin.
    from: Instant,
}

impl Spread {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), running: None, from: Instant::now() }
    }

    /// A port was opened, with the queue of `owner` among so many workers.
    pub(super) fn add(&mut self, id: PortId, queues: Option<FurtherQueues>, owner: usize, workers: usize) {
        self.from = Instant::now() + QUIET;
        let missing: Vec<_> = (0..workers).filter(|worker| *worker != owner).collect();
        if let Some(queues) = queues.filter(|_| !missing.is_empty()) {
            self.waiting.push_back(Job { id, queues, workers: missing });
        }
    }

    /// The next queue. May be dropped at any time and asked again.
    pub(super) async fn next(&mut self) -> (Job, Opened) {
        if self.running.is_none() {
            if self.waiting.is_empty() {
                return std::future::pending().await;
            }
            sleep_until(self.from).await;
            if let Some(job) = self.waiting.pop_front() {
                let queues = job.queues.clone();
                let open = move || queues.open().map_err(|error| error.to_string());
                self.running = Some((job, tokio::task::spawn_blocking(open)));
            }
        }
        let opened = match &mut self.running {
            Some((_, handle)) => handle.await.unwrap_or_else(|error| Err(error.to_string())),
            None => return std::future::pending().await,
        };
        match self.running.take() {
            Some((job, _)) => (job, opened),
            None => std::future::pending().await,
        }
    }

    /// A port is about to be closed: nothing more is opened for it, and what was being opened is closed.
    async fn forget(&mut self, id: PortId) {
        self.waiting.retain(|job| job.id != id);
        if let Some((_, handle)) = self.running.take_if(|(job, _)| job.id == id) {
            drop(handle.await);
        }
    }
}

impl Daemon {
    /// Gives a worker its queue of a port; when it was the last, the port is every worker's.
    pub(super) async fn take_queue(&mut self, mut job: Job, opened: Opened) {
        let id = job.id;
        let Some(worker) = job.workers.pop().filter(|_| self.open_port(id).is_some()) else { return };
        match opened {
            Ok((rx, tx)) => {
                self.dataplane.attach_tx(worker, id, tx);
                self.dataplane.attach_rx(worker, id, rx);
            }
            // What it has serves: the others hand over to the first one.
            Err(error) => return warn!("port {id}: not every worker has a queue of its own: {error}"),
        }
        if !job.workers.is_empty() {
            return self.spread.waiting.push_front(job);
        }
        // Who sends by its own queue must have it.
        self.dataplane.obeyed().await;
        if let Some(port) = self.open_port(id) {
            port.place = Place::Each;
        }
        let model = self.desired();
        self.publish(&model);
    }

    fn open_port(&mut self, id: PortId) -> Option<&mut OpenPort> {
        let pods = self.pods.values_mut().map(|open| &mut open.port);
        pods.chain(self.host.as_mut().map(|host| &mut host.port)).find(|port| port.id == id)
    }

    /// Takes a port away that the snapshot published last no longer names.
    pub(super) async fn close_port(&mut self, id: PortId, delete: bool) {
        self.spread.forget(id).await;
        self.dataplane.remove(id, delete).await;
    }
}
