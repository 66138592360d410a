//! What the store said last, kept in the state directory: a weftd that starts while the store is away goes on with it, as the
//! kernel's routes would have under flanneld.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;
use weft_flannel::kube::Advice;
use weft_flannel::subnet_env::SubnetEnv;
use weft_switch::types::MacAddr;

use super::Daemon;
use crate::config::SourceKind;
use crate::model::{Model, validate};
use crate::source::flannel::Leaves;

/// How far two writings are apart at least: with 5,000 nodes one is of some hundred kB.
const APART: Duration = Duration::from_secs(10);

/// How long the last writing may take: whoever ends weftd does not wait for a disk.
const LAST_WITHIN: Duration = Duration::from_millis(300);

/// What a store said, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// The kind of the source, in the setting's word.
    source: String,
    /// This node's name.
    pub(super) node: String,
    public_ip: Option<Ipv4Addr>,
    public_ipv6: Option<Ipv6Addr>,
    /// The text of `subnet.env`.
    subnet_env: String,
    /// The node's rules are to be made by nftables.
    #[serde(default)]
    nftables: bool,
    /// The whole cluster, without pods: those that were added are in the state.
    pub(super) model: Model,
}

impl Remembered {
    /// Reads what was kept. What is damaged, or of another kind of source, is not there: the store will say it again.
    pub(super) fn load(state_dir: &Path, source: SourceKind) -> Option<Self> {
        let text = weft_node::load_cluster(state_dir).unwrap_or_else(|error| {
            warn!("{error}; weftd waits for the store");
            None
        })?;
        let remembered: Self = serde_json::from_slice(&text)
            .inspect_err(|error| {
                warn!("what the store said last is damaged: {error}; weftd waits for the store")
            })
            .ok()?;
        let sound =
            remembered.source == source.as_str() && validate(&remembered.model, &remembered.node).is_ok();
        sound.then_some(remembered)
    }

    /// What Kubernetes had said of this node.
    pub(super) fn advice(&self, vtep_mac: MacAddr) -> Advice {
        Advice {
            public_ip: self.public_ip,
            public_ipv6: self.public_ipv6,
            vtep_mac: Some(vtep_mac),
            ..Advice::default()
        }
    }

    /// What is left on the node of it.
    pub(super) fn leaves(&self) -> Leaves {
        Leaves { env: SubnetEnv::parse(&self.subnet_env), nftables: self.nftables }
    }

    /// Whether it was said to a node with these addresses and this MAC address.
    pub(super) fn was_told_to(&self, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>, mac: MacAddr) -> bool {
        let own = self.model.node(&self.node);
        own.is_some_and(|own| {
            own.public_ip == ipv4
                && (own.public_ipv6.is_none() || own.public_ipv6 == ipv6)
                && own.vtep_mac == Some(mac)
        })
    }
}

/// What is being written.
struct Writing {
    /// When it was said.
    said: Option<SystemTime>,
    task: JoinHandle<Result<(), String>>,
}

/// Keeps it.
pub(super) struct Memory {
    source: SourceKind,
    advice: Advice,
    leaves: watch::Receiver<Leaves>,
    /// When that was said which is kept.
    kept: Option<SystemTime>,
    not_before: Instant,
    /// The last writing, which may still be under way.
    writing: Option<Writing>,
    /// Why it failed last.
    failed: Option<String>,
}

impl Memory {
    pub(super) fn new(source: SourceKind, advice: Advice, leaves: watch::Receiver<Leaves>) -> Self {
        let not_before = Instant::now();
        Self { source, advice, leaves, kept: None, not_before, writing: None, failed: None }
    }

    /// Waits for the end of the writing. What could not be written is still to be.
    async fn end_writing(&mut self) {
        let Some(Writing { said, task }) = &mut self.writing else { return };
        let written = task.await.unwrap_or_else(|error| Err(error.to_string()));
        match written {
            Ok(()) => (self.kept, self.failed) = (*said, None),
            Err(error) if self.failed.as_ref() == Some(&error) => {}
            Err(error) => {
                warn!(
                    "{error}; a weftd that starts while the store is away has to wait for it; it is tried again"
                );
                self.failed = Some(error);
            }
        }
        self.writing = None;
    }
}

impl Daemon {
    /// Writes down what the store has said since the last time, if it is time for that.
    pub(super) async fn remember(&mut self) {
        let Some(memory) = &mut self.remembers else { return };
        if memory.writing.as_ref().is_some_and(|writing| writing.task.is_finished()) {
            memory.end_writing().await;
        }
        if memory.not_before <= Instant::now() {
            self.write_down();
        }
    }

    /// Writes down what is left to be, and returns when it is, or has taken too long.
    pub(super) async fn remember_last(&mut self) {
        if timeout(LAST_WITHIN, self.write_last()).await.is_err() {
            warn!("what the store said last is not written: that takes too long");
        }
    }

    async fn write_last(&mut self) {
        self.end_writing().await;
        self.write_down();
        self.end_writing().await;
    }

    async fn end_writing(&mut self) {
        if let Some(memory) = &mut self.remembers {
            memory.end_writing().await;
        }
    }

    /// Begins to write down what is new, unless that is still being done: two writings at a time could end in either order.
    fn write_down(&mut self) {
        let is_due = |memory: &&mut Memory| memory.kept != self.source.loaded && memory.writing.is_none();
        let Some(memory) = self.remembers.as_mut().filter(is_due) else { return };
        memory.not_before = Instant::now() + APART;
        let (model, state_dir) = (Arc::clone(&self.model), self.config.state.dir.clone());
        let (source, node) = (memory.source.as_str().to_owned(), self.node.clone());
        let advice = memory.advice.clone();
        let Leaves { env, nftables } = memory.leaves.borrow().clone();
        let subnet_env = env.to_text();
        let write = move || {
            let model = Model { pods: Vec::new(), ..Model::clone(&model) };
            let (public_ip, public_ipv6) = (advice.public_ip, advice.public_ipv6);
            let remembered = Remembered { source, node, public_ip, public_ipv6, subnet_env, nftables, model };
            let text = serde_json::to_vec(&remembered).map_err(|error| error.to_string());
            text.and_then(|text| {
                weft_node::save_cluster(&state_dir, &text).map_err(|error| error.to_string())
            })
        };
        memory.writing = Some(Writing { said: self.source.loaded, task: tokio::task::spawn_blocking(write) });
    }
}
