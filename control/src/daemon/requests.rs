//! The API's requests, carried out by the daemon's task one after the other.

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use weft_api::{ApiError, ErrorCode, PodPort as ApiPort, PodSpec};
use weft_switch::types::MacAddr;

use super::{Daemon, Request, pods};
use crate::api::Backend;
use crate::model::{Attachment, Model, Pod, VhostMode};

/// The API's side of the daemon: hands requests to its task.
pub struct Client(mpsc::Sender<Request>);

impl Client {
    /// A client, and where its requests arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let ending = || ApiError::new(ErrorCode::NotReady, "weftd is ending");
        let (answer, answered) = oneshot::channel();
        self.0.send(request(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())
    }
}

impl Backend for Client {
    async fn status(&self) -> Result<weft_api::Status, ApiError> {
        self.ask(Request::Status).await
    }
    async fn pods(&self) -> Result<weft_api::Pods, ApiError> {
        self.ask(Request::Pods).await
    }
    async fn add_pod(&self, spec: PodSpec) -> Result<weft_api::Pod, ApiError> {
        self.ask(|answer| Request::Add(spec, answer)).await?
    }
    async fn delete_pod(&self, name: String) -> Result<weft_api::Pod, ApiError> {
        self.ask(|answer| Request::Delete(name, answer)).await?
    }
    async fn stats(&self) -> Result<weft_api::Stats, ApiError> {
        self.ask(Request::Stats).await
    }
    async fn drops(&self, all: bool) -> Result<weft_api::Drops, ApiError> {
        self.ask(|answer| Request::Drops(all, answer)).await
    }
}

impl Daemon {
    /// Carries out one request. A client that has gone away meanwhile does not matter.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Pods(answer) => drop(answer.send(self.list_pods())),
            Request::Add(spec, answer) => drop(answer.send(self.add_pod(spec).await)),
            Request::Delete(name, answer) => drop(answer.send(self.delete_pod(&name).await)),
            Request::Stats(answer) => drop(answer.send(self.stats())),
            Request::Drops(all, answer) => drop(answer.send(self.drops(all))),
        }
    }

    /// Adds a pod whole or not at all.
    async fn add_pod(&mut self, spec: PodSpec) -> Result<weft_api::Pod, ApiError> {
        let pod = self.pod_of(&spec);
        if let Some(there) = self.desired().pods_of(&self.node).find(|there| there.name == pod.name) {
            // The same again is no error: a caller that did not hear the answer may ask once more.
            if *there == pod && self.pods.contains_key(&pod.name) {
                return self.show(&pod.name);
            }
            let text = format!("pod {} exists already; delete it first, or choose another name", pod.name);
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let mut model: Model = self.desired();
        model.pods.push(pod.clone());
        pods::check(&model, &self.node).map_err(|text| ApiError::new(ErrorCode::Refused, text))?;
        self.added.insert(pod.name.clone(), pod.clone());
        self.reconcile().await;
        if let Some(error) = self.failed.remove(&pod.name) {
            self.added.remove(&pod.name);
            self.reconcile().await;
            return Err(ApiError::new(ErrorCode::Refused, format!("pod {}: {error}", pod.name)));
        }
        self.show(&pod.name)
    }

    async fn delete_pod(&mut self, name: &str) -> Result<weft_api::Pod, ApiError> {
        let shown = self.show(name)?;
        if self.added.remove(name).is_none() {
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
        self.list_pods().pods.into_iter().find(|pod| pod.name == name).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                format!("there is no pod {name} on this node; see `weft pod list`"),
            )
        })
    }

    /// What a specification asks for, with the prefix lengths that this node's subnets have.
    fn pod_of(&self, spec: &PodSpec) -> Pod {
        let own = self.model.node(&self.node);
        let net = |address| match own.and_then(|own| own.subnet_of(address)) {
            Some(subnet) => IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| address.into()),
            None => IpNet::from(address),
        };
        let mut pod = Pod {
            name: spec.name.clone(),
            node: self.node.clone(),
            attachment: attachment(&spec.port),
            addresses: spec.addresses.iter().copied().map(net).collect(),
            mac: spec.mac.map(|mac| MacAddr(mac.0)),
            trusted: false,
        };
        pod.mac = Some(pod.mac_or_derived());
        pod
    }
}

fn attachment(port: &ApiPort) -> Attachment {
    match port {
        ApiPort::Tap { netns, ifname } => Attachment::Tap { netns: netns.clone(), ifname: ifname.clone() },
        ApiPort::VhostUser { socket, mode } => Attachment::VhostUser {
            socket: socket.clone(),
            mode: match mode {
                weft_api::VhostMode::Client => VhostMode::Client,
                weft_api::VhostMode::Server => VhostMode::Server,
            },
        },
        ApiPort::Dpdk { devargs } => Attachment::Dpdk { devargs: devargs.clone() },
    }
}
