//! A cluster with a store that runs.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use weft_flannel::kube::{Access, Kube, Options, Patience, Pods, ThisNode};
use weft_flannel::store::{Cluster, Own, Peer, Status, Store, Update};

use crate::server::Server;

/// How long a wait may take on a slow machine before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PREFIX: &str = "flannel.alpha.coreos.com";

pub(crate) const VXLAN: &str = r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL: &str = r#"{"Network":"10.0.0.0/8","IPv6Network":"fd00:10::/32","EnableIPv6":true,
                                  "Backend":{"Type":"vxlan"}}"#;

/// A node as the kubelet registers it and the controller gives it a subnet: without anything of flannel's.
pub(crate) fn bare_node(index: u16) -> Value {
    let [high, low] = index.to_be_bytes();
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": format!("n{index}"), "uid": format!("00000000-0000-0000-0000-{index:012}"),
            "creationTimestamp": format!("2026-01-{:02}T{:02}:00:00Z", 1 + index / 24 % 28, index % 24),
            "labels": {"kubernetes.io/hostname": format!("n{index}")},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {"f:annotations": {}}}}]
        },
        "spec": {"podCIDR": format!("10.{high}.{low}.0/24"), "podCIDRs": [format!("10.{high}.{low}.0/24")]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": public_ip(index)}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-02-01T00:00:00Z"}]
        }
    })
}

/// A node that flanneld runs on.
pub(crate) fn node(index: u16) -> Value {
    let mut node = bare_node(index);
    let annotations = &mut node["metadata"]["annotations"];
    annotations[format!("{PREFIX}/backend-data")] = json!(backend_data(&mac(index)));
    annotations[format!("{PREFIX}/backend-type")] = json!("vxlan");
    annotations[format!("{PREFIX}/kube-subnet-manager")] = json!("true");
    annotations[format!("{PREFIX}/public-ip")] = json!(public_ip(index));
    node
}

pub(crate) fn annotate(node: &mut Value, name: &str, value: &str) {
    node["metadata"]["annotations"][format!("{PREFIX}/{name}")] = json!(value);
}

pub(crate) fn public_ip(index: u16) -> String {
    let [high, low] = index.to_be_bytes();
    format!("172.16.{high}.{low}")
}

pub(crate) fn mac(index: u16) -> String {
    let [high, low] = index.to_be_bytes();
    format!("02:00:00:00:{high:02x}:{low:02x}")
}

pub(crate) fn backend_data(mac: &str) -> String {
    format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)
}

/// Node `n1` of a cluster.
pub(crate) struct Lab {
    pub(crate) server: Server,
    dir: TempDir,
    pub(crate) patience: Patience,
    pub(crate) set_network_unavailable: bool,
}

impl Lab {
    /// With the nodes `n1` (bare) to `n3`.
    pub(crate) fn new(net_conf: &str) -> Self {
        let lab = Self::empty(Server::start(), net_conf);
        lab.server.put("nodes", bare_node(1));
        lab.server.put("nodes", node(2));
        lab.server.put("nodes", node(3));
        lab
    }

    pub(crate) fn empty(server: Server, net_conf: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("weft-t-").tempdir().unwrap();
        fs::write(dir.path().join("net-conf.json"), net_conf).unwrap();
        let patience = Patience {
            answer: Duration::from_secs(20),
            silence: Duration::from_secs(20),
            watch: Duration::from_secs(60),
            first_retry: Duration::from_millis(5),
            last_retry: Duration::from_millis(100),
            gather: Duration::from_millis(2),
        };
        Self { server, dir, patience, set_network_unavailable: true }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            access: Access { url: Some(self.server.url()), kubeconfig: None },
            node: ThisNode::Named("n1".to_owned()),
            annotation_prefix: PREFIX.to_owned(),
            net_conf: self.path("net-conf.json"),
            set_network_unavailable: self.set_network_unavailable,
            patience: self.patience,
        }
    }

    pub(crate) async fn connect(&self) -> Kube {
        Kube::connect(self.options()).await.unwrap()
    }

    /// A store that has told the cluster once and published, and runs.
    pub(crate) async fn run(&self) -> Running {
        Running::of(self.connect().await).await
    }

    /// What a store that has just come sees.
    pub(crate) async fn fresh(&self) -> Cluster {
        let mut store = Store::Kube(Box::new(self.connect().await));
        timeout(PATIENCE, store.acquire(&own())).await.unwrap().unwrap()
    }
}

/// What node `n1` says of itself.
pub(crate) fn own() -> Own {
    Own {
        public_ip: Some(public_ip(1).parse().unwrap()),
        public_ipv6: Some("fd01::1".parse().unwrap()),
        vtep_mac: Some(mac(1).parse().unwrap()),
        vtep_mac_v6: Some("02:00:00:00:60:01".parse().unwrap()),
        inherits: false,
        previous: None,
    }
}

/// A store that runs.
pub(crate) struct Running {
    updates: mpsc::Receiver<Update>,
    pub(crate) last: Arc<Cluster>,
    /// How often it was lost, and back.
    pub(crate) lost: usize,
    pub(crate) back: usize,
    pub(crate) pods: watch::Receiver<Arc<Pods>>,
    pub(crate) status: watch::Receiver<Status>,
}

impl Running {
    pub(crate) async fn of(kube: Kube) -> Self {
        let (pods, status) = (kube.pods(), kube.status());
        let mut store = Store::Kube(Box::new(kube));
        let last = Arc::new(timeout(PATIENCE, store.acquire(&own())).await.unwrap().unwrap());
        store.publish().await.unwrap();
        let (to, updates) = mpsc::channel(1);
        tokio::spawn(store.run(to));
        Self { updates, last, lost: 0, back: 0, pods, status }
    }

    /// Takes the next update in.
    pub(crate) async fn step(&mut self) {
        match timeout(PATIENCE, self.updates.recv()).await.expect("an update").expect("the store runs") {
            Update::Cluster(cluster) => self.last = cluster,
            Update::Lost(_) => self.lost += 1,
            Update::Back => self.back += 1,
        }
    }

    /// Takes in whatever comes within that time.
    pub(crate) async fn rest(&mut self, time: Duration) {
        drop(
            timeout(time, async {
                loop {
                    self.step().await;
                }
            })
            .await,
        );
    }

    pub(crate) async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let waiting = timeout(PATIENCE, async {
            while !is(self) {
                self.step().await;
            }
        });
        assert!(waiting.await.is_ok(), "{what}: not within {PATIENCE:?}; the cluster is {:?}", self.last);
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.last.peers.iter().map(|peer| peer.name.as_str()).collect()
    }

    pub(crate) fn peer(&self, name: &str) -> Option<&Peer> {
        self.last.peers.iter().find(|peer| peer.name == name).map(AsRef::as_ref)
    }

    pub(crate) fn data(&self, name: &str) -> String {
        self.peer(name).and_then(|peer| peer.attributes.backend_data.clone()).unwrap_or_default()
    }
}

/// Waits until `is` gives something.
pub(crate) async fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let waiting = timeout(PATIENCE, async {
        loop {
            if let Some(found) = is() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waiting.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

thread_local! {
    static LINES: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The warnings of this thread: a test's tasks are all on its own.
pub(crate) struct Log;

impl Log {
    /// Collects them from now on. One subscriber for all threads: what several that come and go want is not certain.
    pub(crate) fn begin() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::WARN)
                .with_ansi(false)
                .without_time()
                .with_writer(|| Lines)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        LINES.with_borrow_mut(Vec::clear);
        Self
    }

    /// The lines about this.
    pub(crate) fn about(&self, what: &str) -> Vec<String> {
        let text = LINES.with_borrow(|lines| String::from_utf8(lines.clone()).unwrap());
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}

struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
