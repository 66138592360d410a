//! The store in Kubernetes: nodes are annotated with how they are reached, and the controller gives them their subnets.
//!
//! [`Kube::connect`] finds the server and this node, [`Kube::advice`] says what was annotated before, and then the store goes
//! the way of every store ([`crate::store`]). Read `follow` for what is heard, `nodes` for what is made of it.

mod access;
mod annotations;
mod api;
mod follow;
mod nodes;
mod object;
mod patience;
mod pods;
mod write;

use crate::lease::Subnets;
use crate::net_conf::{Backend, NetConf};
use crate::store::{Cluster, Own, Status, StoreError, Update};
use annotations::Names;
use api::{Api, ApiError, Collection};
use follow::{Follower, Said};
use nodes::{NoSubnets, Nodes};
use object::{Node, Object, Read, Reading};
use patience::Backoff;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};
use write::{Writer, Writing};

pub use access::Access;
pub use annotations::{Advice, WrongPrefix};
pub use patience::Patience;
pub use pods::{Pod, Pods};

/// flannel's prefix of annotations.
pub const DEFAULT_PREFIX: &str = "flannel.alpha.coreos.com";
/// Where flannel's manifest mounts the configuration.
pub const DEFAULT_NET_CONF: &str = "/etc/kube-flannel/net-conf.json";

/// How this node is known to Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThisNode {
    /// By its name.
    Named(String),
    /// By a pod that runs on it: ours.
    OfPod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
}

impl ThisNode {
    /// As flanneld reads it: `NODE_NAME`, or else `POD_NAME` and `POD_NAMESPACE`.
    ///
    /// # Errors
    /// None of them is set.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        match (get("NODE_NAME"), get("POD_NAME"), get("POD_NAMESPACE")) {
            (Some(name), ..) => Ok(Self::Named(name)),
            (None, Some(name), Some(namespace)) => Ok(Self::OfPod { namespace, name }),
            _ => Err(StoreError::Settings(
                "which node this is can't be told: set NODE_NAME, or POD_NAME and POD_NAMESPACE, in the environment"
                    .to_owned(),
            )),
        }
    }
}

/// What the store is to be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API server is.
    pub access: Access,
    /// Which node this is.
    pub node: ThisNode,
    /// `--kube-annotation-prefix`, see [`DEFAULT_PREFIX`].
    pub annotation_prefix: String,
    /// `--net-config-path`, see [`DEFAULT_NET_CONF`]. It is read once.
    pub net_conf: PathBuf,
    /// `--set-node-network-unavailable`: whether the node's condition `NetworkUnavailable` is set to `False`.
    pub set_network_unavailable: bool,
    /// How long what may take.
    pub patience: Patience,
}

/// A cluster's store in Kubernetes.
pub struct Kube {
    api: Arc<Api>,
    reading: Arc<Reading>,
    config: NetConf,
    patience: Patience,
    set_network_unavailable: bool,
    me: Own,
    nodes: Nodes,
    subnets: Subnets,
    said: Option<mpsc::Receiver<Said<Node>>>,
    told: Option<Arc<Cluster>>,
    writer: Option<Writer>,
    status: watch::Sender<Status>,
    pods: watch::Sender<Arc<Pods>>,
}

impl Kube {
    /// Reads `net-conf.json`, finds the API server, and learns this node's name. Waits as long as the server does not
    /// answer, if it must be asked.
    ///
    /// # Errors
    /// What an operator must mend: options, files, credentials.
    pub async fn connect(options: Options) -> Result<Self, StoreError> {
        let place = options.net_conf.display().to_string();
        let text = std::fs::read_to_string(&options.net_conf).map_err(|error| {
            StoreError::Settings(format!("{place}: {error}; name it with --net-config-path"))
        })?;
        let config = NetConf::parse(&text)
            .map_err(|error| StoreError::Content { place, reason: error.to_string() })?;
        let names = Names::new(&options.annotation_prefix)
            .map_err(|error| StoreError::Settings(error.to_string()))?;
        let api = Api::new(options.access, options.patience).await;
        let api = api.map_err(|error| StoreError::Settings(error.to_string()))?;
        let own = match options.node {
            ThisNode::Named(name) => name,
            ThisNode::OfPod { namespace, name } => node_of_pod(&api, &namespace, &name).await?,
        };
        check_name(&own)?;
        info!("this is node {own} of the cluster whose Kubernetes API is at {}", api.url());
        Ok(Self {
            nodes: Nodes::new(own.clone(), config.clone()),
            reading: Arc::new(Reading { names, own }),
            api: Arc::new(api),
            config,
            patience: options.patience,
            set_network_unavailable: options.set_network_unavailable,
            me: Own::default(),
            subnets: Subnets::default(),
            said: None,
            told: None,
            writer: None,
            status: watch::Sender::new(Status::new("kubernetes")),
            pods: watch::Sender::new(Arc::default()),
        })
    }

    /// What all nodes share.
    pub fn config(&self) -> &NetConf {
        &self.config
    }

    /// The name of this node.
    pub fn node(&self) -> &str {
        &self.reading.own
    }

    /// The pods of this node: told anew whenever one has changed, once [`crate::store::Store::run`] runs.
    pub fn pods(&self) -> watch::Receiver<Arc<Pods>> {
        self.pods.subscribe()
    }

    /// How the store fares, also while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// What this node is annotated with, before anything of its own is decided. Waits until the node is registered.
    ///
    /// # Errors
    /// What an operator must mend; nothing at this time.
    pub async fn advice(&self) -> Result<Advice, StoreError> {
        let path = format!("/api/v1/nodes/{}", self.reading.own);
        let node =
            insist(&self.api, &path, "this node", |json| match Read::<Node>::from(json, &self.reading) {
                Some(Read { object: Some(node), .. }) => Ok(node),
                Some(Read { complaint: Some(complaint), .. }) => Err(complaint),
                _ => Err("the answer is no node".to_owned()),
            })
            .await;
        Ok(node.notes.advice(|complaint| warn!("node {}: {complaint}; it does not count", self.reading.own)))
    }

    pub(crate) async fn acquire(&mut self, own: &Own) -> Result<Cluster, StoreError> {
        self.me = own.clone();
        let fields = match self.config.backend {
            // Nobody carries packets, so nobody else is of interest.
            Backend::Alloc => Some(format!("metadata.name={}", self.reading.own)),
            _ => None,
        };
        let nodes = Collection { path: "/api/v1/nodes".to_owned(), fields };
        let mut said = self.follow::<Node>(nodes, "nodes");
        let (mut listed, mut waits_for) = (false, None);
        loop {
            let Some(word) = said.recv().await else {
                return Err(StoreError::Settings("the list of nodes has ended; report this".to_owned()));
            };
            listed |= matches!(word, Said::All(_));
            self.hear(word);
            if !listed {
                continue;
            }
            match self.nodes.own_subnets() {
                Ok(subnets) => {
                    self.subnets = subnets;
                    break;
                }
                Err(NoSubnets::Wrong(reason)) => {
                    return Err(StoreError::Content { place: format!("node {}", self.reading.own), reason });
                }
                Err(reason) if waits_for.as_ref() != Some(&reason) => {
                    warn!("node {}: {reason}; waiting", self.reading.own);
                    waits_for = Some(reason);
                }
                Err(_) => {}
            }
        }
        self.said = Some(said);
        let cluster = self.nodes.cluster(self.subnets, &self.me);
        self.told = Some(Arc::new(cluster.clone()));
        Ok(cluster)
    }

    /// Begins to say what peers must know; [`Kube::run`] goes on with it.
    pub(crate) async fn publish(&mut self) {
        let mut writer = Writer::new(
            Arc::clone(&self.reading),
            self.me.attributes(&self.config),
            self.config.clone(),
            self.set_network_unavailable,
            self.patience,
        );
        if let Some(writing) = writer.due(&self.api, self.nodes.own()) {
            let wrote = writing.await;
            writer.done(wrote);
        }
        self.writer = Some(writer);
    }

    fn follow<T: Object>(&self, of: Collection, called: &'static str) -> mpsc::Receiver<Said<T>> {
        const WAITING: usize = 256;
        let (to, said) = mpsc::channel(WAITING);
        let follower = Follower::new(self.api.twin(), (of, called), Arc::clone(&self.reading), to);
        tokio::spawn(follower.run());
        said
    }

    pub(crate) async fn run(mut self, updates: mpsc::Sender<Update>) {
        let (Some(mut said), Some(mut told)) = (self.said.take(), self.told.take()) else { return };
        let fields = format!("spec.nodeName={}", self.reading.own);
        let pods = Collection { path: "/api/v1/pods".to_owned(), fields: Some(fields) };
        let mut of_pods = self.follow::<Pod>(pods, "pods");
        let mut pods = pods::Known::default();
        let mut writing = None;
        let (mut changed, mut not_before) = (false, Instant::now());
        let (mut lost, mut told_lost) = (None::<StoreError>, None);
        loop {
            if let (Some(writer), None) = (&mut self.writer, &writing) {
                writing = writer.due(&self.api, self.nodes.own());
            }
            let later = self.writer.as_ref().and_then(Writer::waits_until);
            let tells = changed && Instant::now() >= not_before;
            tokio::select! {
                word = said.recv() => {
                    let Some(word) = word else { return };
                    let mut words = vec![word];
                    // What is there by now is one change.
                    while let Ok(word) = said.try_recv() {
                        words.push(word);
                    }
                    for word in words {
                        match &word {
                            Said::Lost(error) => lost = Some(store_error(&self.api, error)),
                            Said::Back => lost = None,
                            _ => {}
                        }
                        changed |= self.hear(word);
                    }
                }
                word = of_pods.recv() => {
                    let Some(word) = word else { return };
                    if pods.take(word) {
                        self.pods.send_replace(Arc::new(pods.pods.clone()));
                    }
                }
                permit = updates.reserve(), if tells || lost != told_lost => {
                    let Ok(permit) = permit else { return };
                    if tells {
                        changed = false;
                        let cluster = self.cluster();
                        if cluster != *told {
                            told = Arc::new(cluster);
                            permit.send(Update::Cluster(Arc::clone(&told)));
                            not_before = Instant::now() + self.patience.gather;
                        }
                    } else {
                        told_lost.clone_from(&lost);
                        permit.send(lost.clone().map_or(Update::Back, Update::Lost));
                    }
                }
                () = sleep_until(not_before), if changed && !tells => {}
                Some(wrote) = end_of(&mut writing) => {
                    writing = None;
                    if let Some(writer) = &mut self.writer {
                        writer.done(wrote);
                    }
                }
                () = sleep_until(later.unwrap_or(not_before)), if later.is_some() => {}
                () = updates.closed() => return,
            }
        }
    }

    /// Takes over what was said; whether the nodes say something else now.
    fn hear(&mut self, word: Said<Node>) -> bool {
        self.status.send_if_modified(|status| {
            let now = match &word {
                Said::Lost(error) => status.lost(store_error(&self.api, error).to_string()),
                Said::At(version) => Status { position: Some(version.clone()), ..status.connected() },
                _ => status.connected(),
            };
            std::mem::replace(status, now.clone()) != now
        });
        self.nodes.take(word)
    }

    /// The cluster as it is now. Without subnets, or with such as can't be, this node keeps those that it had.
    fn cluster(&mut self) -> Cluster {
        let trouble = match self.nodes.own_subnets() {
            Ok(subnets) => {
                self.subnets = subnets;
                None
            }
            Err(reason) => {
                Some(format!("node {}: {reason}; {} stays in use", self.reading.own, self.subnets))
            }
        };
        self.status.send_if_modified(|status| {
            let news = status.trouble != trouble;
            if let Some(trouble) = trouble.as_ref().filter(|_| news) {
                warn!("{trouble}");
            }
            status.trouble = trouble;
            news
        });
        self.nodes.cluster(self.subnets, &self.me)
    }
}

/// None while nothing is on its way.
async fn end_of(writing: &mut Option<Writing>) -> Option<Result<(), ApiError>> {
    match writing {
        Some(writing) => Some(writing.await),
        None => None,
    }
}

fn store_error(api: &Api, error: &ApiError) -> StoreError {
    let (store, reason) = (format!("the Kubernetes API at {}", api.url()), error.to_string());
    match error.is_forbidden() {
        true => StoreError::Refused {
            store,
            reason: format!("{reason}; weft's rights are in deploy/kubernetes/rbac.yaml"),
        },
        false => StoreError::Unreachable { store, reason },
    }
}

/// Asks for an object until it is there and can be read.
async fn insist<T>(api: &Api, path: &str, what: &str, read: impl Fn(&str) -> Result<T, String>) -> T {
    let mut backoff = Backoff::new(api.patience().first_retry, api.patience().last_retry);
    let mut said = None;
    loop {
        let got = api.get(path).await;
        let (reason, asked) = match got {
            Ok(json) => match read(&String::from_utf8_lossy(&json)) {
                Ok(object) => return object,
                Err(reason) => (format!("{what}: {reason}"), None),
            },
            Err(error) if error.is_not_found() => (format!("{what} is not registered ({error})"), None),
            Err(error) => (store_error(api, &error).to_string(), error.retry_after()),
        };
        if said.as_ref() != Some(&reason) {
            warn!("{reason}; it is tried again");
            said = Some(reason);
        }
        sleep(backoff.next(asked)).await;
    }
}

async fn node_of_pod(api: &Api, namespace: &str, name: &str) -> Result<String, StoreError> {
    #[derive(serde::Deserialize)]
    struct Placed {
        spec: Spec,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        node_name: Option<String>,
    }
    check_name(namespace)?;
    check_name(name)?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let what = format!("pod {namespace}/{name}");
    Ok(insist(api, &path, &what, |json| {
        let placed: Placed = serde_json::from_str(json).map_err(|error| error.to_string())?;
        placed.spec.node_name.filter(|name| !name.is_empty()).ok_or_else(|| "it has no nodeName".to_owned())
    })
    .await)
}

/// Names become parts of paths.
fn check_name(name: &str) -> Result<(), StoreError> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match !name.is_empty() && name.bytes().all(ok) && name.bytes().any(|b| b != b'.') {
        true => Ok(()),
        false => Err(StoreError::Settings(format!(
            "{name:?} is no name of Kubernetes: look at NODE_NAME, POD_NAME and POD_NAMESPACE in the environment"
        ))),
    }
}
