//! The API's requests, carried out by the daemon's task one after the other.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_api::{
    ApiError, ConfigReport, Drops, ErrorCode, Fdb, Flows, Mac, Neighbours, PodSpec, Pods, Ports, Routes,
    Stats, Status, Vteps, Workers,
};

use super::{Daemon, attachments};
use crate::api::Backend;
use crate::metrics::Scrape;

/// What a client of the API asks the daemon.
pub(super) enum Request {
    /// To look at its state.
    Look(Box<dyn FnOnce(&Daemon) + Send>),
    /// To add a pod.
    Add(PodSpec, oneshot::Sender<Result<weft_api::Pod, ApiError>>),
    /// To delete a pod.
    Delete(String, oneshot::Sender<Result<weft_api::Pod, ApiError>>),
    /// To list the flows of so long a time, so many at most.
    Flows(Duration, usize, oneshot::Sender<Result<Flows, ApiError>>),
}

/// The API's side of the daemon: hands requests to its task.
#[derive(Clone)]
pub struct Client(mpsc::Sender<Request>);

impl Client {
    /// A client, and where its requests arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// A client of a daemon that never answers.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> (Self, impl Sized) {
        Self::new()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let ending = || ApiError::new(ErrorCode::NotReady, "weftd is ending");
        let (answer, answered) = oneshot::channel();
        self.0.send(request(answer)).await.map_err(|_| ending())?;
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
        self.look(Daemon::not_ready).await
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
        self.ask(|answer| Request::Add(spec, answer)).await?
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
    /// Carries out one request. A client that has gone away meanwhile does not matter.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Look(look) => look(self),
            Request::Add(spec, answer) => drop(answer.send(self.add_pod(spec).await)),
            Request::Delete(name, answer) => drop(answer.send(self.delete_pod(&name).await)),
            Request::Flows(lasts, limit, answer) => self.watch_flows(lasts, limit, answer),
        }
    }

    /// Adds a pod whole or not at all.
    async fn add_pod(&mut self, spec: PodSpec) -> Result<weft_api::Pod, ApiError> {
        let pod = attachments::wanted(&spec, &self.node, self.model.node(&self.node));
        if let Some(there) = self.model.pods_of(&self.node).find(|there| there.name == pod.name) {
            // The same again is no error: a caller that did not hear the answer may ask once more.
            if *there == pod && self.pods.contains_key(&pod.name) {
                return self.show(&pod.name);
            }
            let text = format!("pod {} exists already; delete it first, or choose another name", pod.name);
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let name = pod.name.clone();
        self.take_pod(pod).map_err(|text| ApiError::new(ErrorCode::Refused, text))?;
        self.reconcile().await;
        if let Some(error) = self.failed.remove(&name) {
            self.drop_pod(&name);
            self.reconcile().await;
            return Err(ApiError::new(ErrorCode::Refused, format!("pod {name}: {error}")));
        }
        self.show(&name)
    }

    async fn delete_pod(&mut self, name: &str) -> Result<weft_api::Pod, ApiError> {
        let shown = self.show(name)?;
        if !self.drop_pod(name) {
            let text = format!("pod {name} comes from the configuration's source; remove it there");
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        self.reconcile().await;
        // What was refused because of this pod may be right now.
        if let Some(model) = self.pending.take() {
            self.take_model(Ok(model)).await;
        }
        Ok(shown)
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
