//! The further queues of TAPs: a port comes with one, since each costs the kernel some milliseconds and a lock that every new pod needs
//! too, and gets the others when nothing is being opened any more. Then each worker has its own, and the port's flows spread over
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use weft_switch::drivers::{Rx, Spreader, Tx};
use weft_switch::tables::Place;
use weft_switch::types::PortId;

use super::Daemon;
use crate::compile::OpenPort;
use crate::ports::FurtherQueues;

/// How long after the last port the further queues of all of them wait.
const QUIET: Duration = Duration::from_millis(250);

/// How long those of one port wait at most, for pods may keep on coming.
const LONGEST: Duration = Duration::from_secs(2);

/// So many ports at most become every worker's by one snapshot: each costs a compilation of all tables, and the first of them should
/// not wait for the last.
const TOGETHER: usize = 16;

/// A port that has queues still to come.
pub(super) struct Job {
    id: PortId,
    queues: FurtherQueues,
    /// The workers that have none so far; the last one is next.
    workers: Vec<usize>,
    since: Instant,
    /// Why there was none when it was tried last.
    error: Option<String>,
}

/// A queue, or why there is none.
type Opened = Result<(Rx, Tx, Spreader), String>;

/// What is to be opened in the background, one after the other.
pub(super) struct Spread {
    waiting: VecDeque<Job>,
    running: Option<(Job, JoinHandle<Opened>)>,
    /// Those that are to be tried again.
    failed: Vec<Job>,
    /// Ports with all their queues, which no snapshot knows of so far.
    complete: Vec<(PortId, Spreader)>,
    /// When nothing more seems to come.
    quiet: Instant,
}

impl Spread {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: None,
            failed: Vec::new(),
            complete: Vec::new(),
            quiet: Instant::now(),
        }
    }

    /// A port was opened, with the queue of `owner` among so many workers.
    pub(super) fn add(&mut self, id: PortId, queues: Option<FurtherQueues>, owner: usize, workers: usize) {
        let since = Instant::now();
        self.quiet = since + QUIET;
        let missing: Vec<_> = (0..workers).filter(|worker| *worker != owner).collect();
        if let Some(queues) = queues.filter(|_| !missing.is_empty()) {
            self.waiting.push_back(Job { id, queues, workers: missing, since, error: None });
        }
    }

    /// The next queue, or nothing when it is time for what is complete. May be dropped at any time and asked again.
    pub(super) async fn next(&mut self) -> Option<(Job, Opened)> {
        if self.running.is_none() {
            let from = self.waiting.front().map(|job| self.quiet.min(job.since + LONGEST));
            let due = from.is_some_and(|from| from <= Instant::now());
            if !self.complete.is_empty() && (!due || self.complete.len() >= TOGETHER) {
                return None;
            }
            let Some(from) = from else { return std::future::pending().await };
            sleep_until(from).await;
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
            Some((job, _)) => Some((job, opened)),
            None => std::future::pending().await,
        }
    }

    /// Whether a queue could not be opened.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// What could not be opened has another try.
    pub(super) fn try_again(&mut self) {
        self.waiting.extend(self.failed.drain(..));
    }

    /// The ports that lack a queue, and why, as of the last try.
    pub(super) fn lacking(&self) -> impl Iterator<Item = (PortId, &str)> {
        let running = self.running.iter().map(|(job, _)| job);
        let jobs = self.failed.iter().chain(&self.waiting).chain(running);
        jobs.filter_map(|job| Some((job.id, job.error.as_deref()?)))
    }

    /// A port is about to be closed: nothing more is opened for it, and what was being opened is closed.
    async fn forget(&mut self, id: PortId) {
        self.waiting.retain(|job| job.id != id);
        self.failed.retain(|job| job.id != id);
        self.complete.retain(|(complete, _)| *complete != id);
        if let Some((_, handle)) = self.running.take_if(|(job, _)| job.id == id) {
            drop(handle.await);
        }
    }
}

impl Daemon {
    /// Gives a worker its queue of a port, or makes the ports that have all of theirs every worker's.
    pub(super) async fn take_queue(&mut self, next: Option<(Job, Opened)>) {
        match next {
            Some((job, opened)) => self.attach_queue(job, opened),
            None => self.publish_complete().await,
        }
    }

    fn attach_queue(&mut self, mut job: Job, opened: Opened) {
        let id = job.id;
        let Some(worker) = job.workers.last().copied().filter(|_| self.open_port(id).is_some()) else {
            return;
        };
        let (rx, tx, spreader) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // What it has serves meanwhile: the other workers hand over to the first one.
                if job.error.as_ref() != Some(&error) {
                    warn!(
                        "port {id}: not every worker has a queue of its own, which is tried again: {error}"
                    );
                }
                job.error = Some(error);
                return self.spread.failed.push(job);
            }
        };
        job.workers.pop();
        job.error = None;
        self.dataplane.attach_tx(worker, id, tx);
        self.dataplane.attach_rx(worker, id, rx);
        if job.workers.is_empty() {
            self.spread.complete.push((id, spreader));
        } else {
            self.spread.waiting.push_front(job);
        }
    }

    async fn publish_complete(&mut self) {
        let complete = std::mem::take(&mut self.spread.complete);
        // Who sends by its own queue must have it, and nobody may be given frames before.
        self.dataplane.obeyed().await;
        for (id, _) in &complete {
            if let Some(port) = self.open_port(*id) {
                port.place = Place::Each;
            }
        }
        let model = self.desired();
        self.publish(&model);
        let spread = move || {
            for (id, spreader) in complete {
                if let Err(error) = spreader.spread() {
                    warn!("port {id}: all its flows stay with one worker: {error}");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(spread).await {
            warn!("spreading the flows of ports broke off: {error}");
        }
    }

    /// What is worth knowing about ports that lack queues.
    pub(super) fn spread_notes(&self) -> impl Iterator<Item = String> + '_ {
        let names = self.port_names();
        self.spread.lacking().map(move |(id, why)| {
            let name = names.get(&id).map_or("?", String::as_str);
            format!(
                "port {name}: not every worker has a queue of its own, so that some hand its frames over; it is tried again: {why}"
            )
        })
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
