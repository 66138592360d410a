//! The API's requests, carried out by the daemon's task one after the other.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use weft_api::{
    ApiError, Cni, ConfigReport, Drops, ErrorCode, Fdb, Flows, Mac, Neighbours, Pins, PodSpec, Pods, Ports,
    Routes, Stats, Status, Vteps, Workers,
};

use super::{AT_ONCE, Daemon, attachments, pods};
use crate::api::Backend;
use crate::metrics::Scrape;
use crate::model::Pod;

/// What a client of the API asks the daemon.
pub(super) enum Request {
    /// To look at its state.
    Look(Box<dyn FnOnce(&Daemon) + Send>),
    /// To add a pod.
    Add(Box<PodSpec>, Answer),
    /// To delete a pod.
    Delete(String, Answer),
    /// To list the flows of so long a time, so many at most.
    Flows(Duration, usize, oneshot::Sender<Result<Flows, ApiError>>),
}

/// Where the answer to a change goes.
type Answer = oneshot::Sender<Result<weft_api::Pod, ApiError>>;

/// What becomes of a pod.
enum Change {
    Add(Box<PodSpec>),
    Delete(String),
}

impl Change {
    fn pod(&self) -> &str {
        match self {
            Self::Add(spec) => &spec.name,
            Self::Delete(name) => name,
        }
    }
}

/// The API's side of the daemon: hands requests to its task.
#[derive(Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    /// What the daemon is at before it has a task.
    starting: watch::Receiver<Option<String>>,
}

impl Client {
    /// A client, and where its requests arrive; what `starting` says is why the node is not ready, until it says nothing any more.
    pub(super) fn new(starting: watch::Receiver<Option<String>>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(AT_ONCE);
        (Self { requests, starting }, receiver)
    }

    /// A client of a daemon that never answers.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> (Self, impl Sized) {
        Self::new(watch::channel(None).1)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let ending = || ApiError::new(ErrorCode::NotReady, "weftd is ending");
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())
    }

    /// Has the daemon's task look at its state.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Daemon) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let asked = |answer: oneshot::Sender<T>| {
            Request::Look(Box::new(move |daemon| {
                // Nobody has to be told what nobody waits for any more.
                if !answer.is_closed() {
                    drop(answer.send(look(daemon)));
                }
            }))
        };
        self.ask(asked).await
    }

    /// Everything that is measured.
    pub(crate) async fn scrape(&self) -> Result<Scrape, ApiError> {
        self.look(Daemon::scrape).await
    }

    /// Why the node can't carry its pods' traffic now; nothing when it can.
    pub(crate) async fn not_ready(&self) -> Result<Vec<String>, ApiError> {
        let starting = self.starting.borrow().clone();
        match starting {
            Some(reason) => Ok(vec![reason]),
            None => self.look(Daemon::not_ready).await,
        }
    }
}

impl Backend for Client {
    async fn status(&self) -> Result<Status, ApiError> {
        self.look(Daemon::status).await
    }
    async fn pods(&self, name: Option<String>) -> Result<Pods, ApiError> {
        self.look(move |daemon| daemon.list_pods(name.as_deref())).await
    }
    async fn add_pod(&self, spec: PodSpec) -> Result<weft_api::Pod, ApiError> {
        self.ask(|answer| Request::Add(Box::new(spec), answer)).await?
    }
    async fn delete_pod(&self, name: String) -> Result<weft_api::Pod, ApiError> {
        self.ask(|answer| Request::Delete(name, answer)).await?
    }
    async fn ports(&self, name: Option<String>) -> Result<Ports, ApiError> {
        self.look(move |daemon| daemon.list_ports(name.as_deref())).await
    }
    async fn fdb(&self, port: Option<String>, mac: Option<Mac>) -> Result<Fdb, ApiError> {
        self.look(move |daemon| daemon.list_fdb(port.as_deref(), mac)).await
    }
    async fn neighbours(&self, address: Option<IpAddr>) -> Result<Neighbours, ApiError> {
        self.look(move |daemon| daemon.list_neighbours(address)).await
    }
    async fn vteps(&self, node: Option<String>) -> Result<Vteps, ApiError> {
        self.look(move |daemon| daemon.list_vteps(node.as_deref())).await
    }
    async fn routes(&self, address: Option<IpAddr>) -> Result<Routes, ApiError> {
        self.look(move |daemon| daemon.list_routes(address)).await
    }
    async fn pins(&self, address: Option<IpAddr>, limit: usize) -> Result<Pins, ApiError> {
        self.look(move |daemon| daemon.list_pins(address, limit)).await
    }
    async fn flows(&self, lasts: Duration, limit: usize) -> Result<Flows, ApiError> {
        self.ask(|answer| Request::Flows(lasts, limit, answer)).await?
    }
    async fn workers(&self) -> Result<Workers, ApiError> {
        self.look(Daemon::list_workers).await
    }
    async fn config(&self) -> Result<ConfigReport, ApiError> {
        self.look(Daemon::config_report).await
    }
    async fn stats(&self) -> Result<Stats, ApiError> {
        self.look(Daemon::stats).await
    }
    async fn drops(&self, all: bool) -> Result<Drops, ApiError> {
        self.look(move |daemon| daemon.drops(all)).await
    }
}

impl Daemon {
    /// Carries out requests in their order. A client that has gone away meanwhile does not matter.
    pub(super) async fn answer(&mut self, requests: &mut Vec<Request>) {
        let mut changes = Vec::new();
        for request in requests.drain(..) {
            let change = match request {
                Request::Add(spec, answer) => (Change::Add(spec), answer),
                Request::Delete(name, answer) => (Change::Delete(name), answer),
                Request::Look(look) => {
                    self.change(&mut changes).await;
                    look(self);
                    continue;
                }
                Request::Flows(lasts, limit, answer) => {
                    self.watch_flows(lasts, limit, answer);
                    continue;
                }
            };
            // A pod's second change builds on the first.
            if changes.iter().any(|(earlier, _): &(Change, _)| earlier.pod() == change.0.pod()) {
                self.change(&mut changes).await;
            }
            changes.push(change);
        }
        self.change(&mut changes).await;
    }

    /// Adds and deletes pods, each whole or not at all, and all in one go: what a change costs is mostly there once.
    async fn change(&mut self, changes: &mut Vec<(Change, Answer)>) {
        if changes.is_empty() {
            return;
        }
        let (mut added, mut deleted) = (Vec::new(), Vec::new());
        for (change, answer) in changes.drain(..) {
            match change {
                Change::Add(spec) => added.push((spec, answer)),
                Change::Delete(name) => match self.forget(&name) {
                    Ok(shown) => deleted.push((shown, answer)),
                    Err(error) => drop(answer.send(Err(error))),
                },
            }
        }
        let added = self.take_in(added);
        if added.is_empty() && deleted.is_empty() {
            return;
        }
        self.reconcile().await;
        let (mut there, mut refused) = (Vec::new(), Vec::new());
        for (name, answer) in added {
            match self.failed.remove(&name) {
                None => there.push((name, answer)),
                Some(error) => {
                    self.drop_pod(&name);
                    let error = ApiError::new(ErrorCode::Refused, format!("pod {name}: {error}"));
                    refused.push((answer, error));
                }
            }
        }
        if !refused.is_empty() {
            self.reconcile().await;
        }
        if !there.is_empty() {
            self.dataplane.obeyed().await;
        }
        for (name, answer) in there {
            drop(answer.send(self.show(&name)));
        }
        refused.into_iter().for_each(|(answer, error)| drop(answer.send(Err(error))));
        let any_deleted = !deleted.is_empty();
        deleted.into_iter().for_each(|(shown, answer)| drop(answer.send(Ok(shown))));
        // What was refused because of such a pod may be right now.
        if let Some(model) = self.pending.take_if(|_| any_deleted) {
            self.take_model(Ok(model)).await;
        }
    }

    /// Takes pods into the desired state. Those that can't be, or are there, have their answer; the names of the others.
    fn take_in(&mut self, specs: Vec<(Box<PodSpec>, Answer)>) -> Vec<(String, Answer)> {
        let mut wanted = Vec::new();
        for (spec, answer) in specs {
            let pod = attachments::wanted(&spec, &self.node, self.model.node(&self.node));
            if let Some(cni) = spec.cni.as_ref().filter(|cni| pods::is_no_netns(&cni.netns)) {
                let text = format!("pod {}: {} is no network namespace", pod.name, cni.netns.display());
                drop(answer.send(Err(ApiError::new(ErrorCode::Refused, text))));
                continue;
            }
            match self.model.pods_of(&self.node).find(|there| there.name == pod.name) {
                None => wanted.push((pod, spec.cni, answer)),
                // The same again is no error: a caller that did not hear the answer may ask once more.
                Some(there)
                    if *there == pod
                        && self.cni.get(&pod.name) == spec.cni.as_ref()
                        && self.pods.contains_key(&pod.name) =>
                {
                    drop(answer.send(self.show(&pod.name)));
                }
                Some(_) => {
                    let text =
                        format!("pod {} exists already; delete it first, or choose another name", pod.name);
                    drop(answer.send(Err(ApiError::new(ErrorCode::Conflict, text))));
                }
            }
        }
        let (taken, refused) = self.take_pods(wanted);
        for (answer, text) in refused {
            drop(answer.send(Err(ApiError::new(ErrorCode::Refused, text))));
        }
        taken.into_iter().map(|(answer, name)| (name, answer)).collect()
    }

    /// Takes a pod that was added out of the desired state; what it was.
    fn forget(&mut self, name: &str) -> Result<weft_api::Pod, ApiError> {
        if let Some((pod, cni, why)) = self.take_unfit(name) {
            return Ok(weft_api::Pod { cni, error: Some(why), ..self.show_one(&pod) });
        }
        let shown = self.show(name)?;
        if !self.drop_pod(name) {
            let text = format!("pod {name} comes from the configuration's source; remove it there");
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        Ok(shown)
    }

    /// Takes a pod out of those that do not fit any more.
    fn take_unfit(&mut self, name: &str) -> Option<(Pod, Option<Cni>, String)> {
        let at = self.unfit.iter().position(|(stored, _)| stored.name == name)?;
        let (pod, cni) = attachments::restore(&self.unfit.get(at)?.0, &self.node).ok()?;
        let (_, why) = self.unfit.remove(at);
        Some((pod, cni, why))
    }

    fn show(&self, name: &str) -> Result<weft_api::Pod, ApiError> {
        self.list_pods(Some(name)).pods.pop().ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                format!("there is no pod {name} on this node; see `weft pod list`"),
            )
        })
    }
}
