//! The further queues of TAPs: a port comes with one, since each costs the kernel some milliseconds and a lock that every new pod needs
//! too, and gets the others when nothing is being opened any more. Then each worker has its own, and the port's flows spread over
//! them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use weft_switch::drivers::{Rx, Spreader, Tx};
use weft_switch::tables::Place;
use weft_switch::types::PortId;

use super::Daemon;
use crate::compile::OpenPort;
use crate::dataplane::Closing;
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

/// A port that has all its queues.
struct Complete {
    id: PortId,
    spreader: Spreader,
    /// Why its flows were not spread when it was tried last.
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
    /// Ports with all their queues, whose flows are to be spread.
    complete: Vec<Complete>,
    /// Those whose flows could not be spread, which is to be tried again.
    unspread: Vec<Complete>,
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
            unspread: Vec::new(),
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

    /// Whether a queue could not be opened, or a port's flows not be spread.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty() || !self.unspread.is_empty()
    }

    /// What has failed has another try.
    pub(super) fn try_again(&mut self) {
        self.waiting.extend(self.failed.drain(..));
        self.complete.append(&mut self.unspread);
    }

    /// The ports that lack a queue, and why, as of the last try.
    pub(super) fn lacking(&self) -> impl Iterator<Item = (PortId, &str)> {
        let running = self.running.iter().map(|(job, _)| job);
        let jobs = self.failed.iter().chain(&self.waiting).chain(running);
        jobs.filter_map(|job| Some((job.id, job.error.as_deref()?)))
    }

    /// The ports whose flows all stay with one worker, and why, as of the last try.
    fn unshared(&self) -> impl Iterator<Item = (PortId, &str)> {
        let ports = self.unspread.iter().chain(&self.complete);
        ports.filter_map(|port| Some((port.id, port.error.as_deref()?)))
    }

    /// A port is about to be closed: nothing more is opened for it, and what was being opened is closed.
    async fn forget(&mut self, id: PortId) {
        self.waiting.retain(|job| job.id != id);
        self.failed.retain(|job| job.id != id);
        self.complete.retain(|port| port.id != id);
        self.unspread.retain(|port| port.id != id);
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
            self.spread.complete.push(Complete { id, spreader, error: None });
        } else {
            self.spread.waiting.push_front(job);
        }
    }

    async fn publish_complete(&mut self) {
        let complete = std::mem::take(&mut self.spread.complete);
        let mut changed = false;
        for complete in &complete {
            if let Some(port) = self.open_port(complete.id) {
                changed |= port.place != Place::Each;
                port.place = Place::Each;
            }
        }
        if changed {
            // Who sends by its own queue must have it, and nobody may be given frames before.
            self.dataplane.obeyed().await;
            self.publish(&Arc::clone(&self.model));
        }
        match tokio::task::spawn_blocking(move || spread(complete)).await {
            Ok(unspread) => self.spread.unspread.extend(unspread),
            Err(error) => warn!("spreading the flows of ports broke off: {error}"),
        }
    }

    /// What is worth knowing about ports that lack queues, or whose flows are all with one worker.
    pub(super) fn spread_notes(&self) -> impl Iterator<Item = String> + '_ {
        const LACKING: &str =
            "not every worker has a queue of its own, so that some hand its frames over; it is tried again";
        const UNSHARED: &str = "all its flows stay with one worker; it is tried again";
        let names = self.port_names();
        let lacking = self.spread.lacking().map(|(id, why)| (id, LACKING, why));
        let unshared = self.spread.unshared().map(|(id, why)| (id, UNSHARED, why));
        lacking.chain(unshared).map(move |(id, what, why)| {
            let name = names.get(&id).map_or("?", String::as_str);
            format!("port {name}: {what}: {why}")
        })
    }

    fn open_port(&mut self, id: PortId) -> Option<&mut OpenPort> {
        let pods = self.pods.values_mut().map(|open| &mut open.port);
        pods.chain(self.host.as_mut().map(|host| &mut host.port)).find(|port| port.id == id)
    }

    /// Takes ports away that the snapshot published last no longer names.
    pub(super) async fn close_ports(&mut self, ports: &[Closing]) {
        for port in ports {
            self.spread.forget(port.id).await;
        }
        self.dataplane.remove(ports).await;
    }
}

/// Spreads the flows of these ports; those whose flows the kernel would not spread.
fn spread(ports: Vec<Complete>) -> Vec<Complete> {
    let unspread = ports.into_iter().filter_map(|port| {
        let error = port.spreader.spread().err()?.to_string();
        if port.error.as_ref() != Some(&error) {
            warn!("port {}: all its flows stay with one worker, which is tried again: {error}", port.id);
        }
        Some(Complete { error: Some(error), ..port })
    });
    unspread.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn flows_that_could_not_be_spread_are_told_of_and_tried_again() {
        let (id, other) = (PortId::new(1).expect("a number"), PortId::new(2).expect("a number"));
        let port = |id| Complete { id, spreader: Spreader::default(), error: Some("no room".to_owned()) };
        let mut ports = Spread::new();
        ports.unspread.extend([port(id), port(other)]);
        assert!(ports.has_failed());
        assert_eq!(ports.unshared().collect::<Vec<_>>(), [(id, "no room"), (other, "no room")]);
        ports.forget(other).await;
        ports.try_again();
        assert!(!ports.has_failed());
        assert_eq!(ports.unshared().collect::<Vec<_>>(), [(id, "no room")], "until it has been tried");
        assert!(ports.next().await.is_none(), "it is time for what is complete");
        // A device that is gone has nothing left to spread.
        let unspread = spread(std::mem::take(&mut ports.complete));
        assert!(unspread.is_empty() && ports.unshared().next().is_none());
    }
}
