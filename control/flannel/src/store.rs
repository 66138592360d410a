//! What a store offers: the node's own lease, and the whole of the cluster after each change.
//!
//! Level-triggered: a [`Cluster`] says everything, so nothing of an event that got lost, or of a peer that has changed,
//! stays behind. A store that is lost changes nothing for traffic: what it said last stays in force.

use crate::lease::{Attributes, Subnets, VxlanData};
use crate::net_conf::{Backend, NetConf};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{mpsc, watch};
use weft_types::MacAddr;

/// This node, before it has a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The IPv4 address that it publishes.
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address that it publishes.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The MAC address of its VTEP on the IPv4 underlay.
    pub vtep_mac: Option<MacAddr>,
    /// The same on the IPv6 underlay.
    pub vtep_mac_v6: Option<MacAddr>,
    /// The MAC address of a lease that this node has already goes before those: it is what the others know the node by, also if it was flanneld
    /// that wrote it. Kubernetes says it earlier, in its advice.
    pub inherits: bool,
    /// The subnets that it had before a restart, by `subnet.env`.
    pub previous: Option<Subnets>,
}

impl Own {
    /// Takes over the MAC address of a lease that this node has had before, and returns it, if there is one and that is wanted.
    pub(crate) fn inherit(&mut self, before: &Attributes, config: &NetConf) -> Option<MacAddr> {
        let same = self.inherits && before.backend_type == config.backend.published_type();
        let data = before.backend_data.as_deref().filter(|_| same)?;
        let mac = VxlanData::from_json(data).ok()?.vtep_mac;
        // Who has one for both goes on with one.
        if self.vtep_mac_v6 == self.vtep_mac {
            self.vtep_mac_v6 = Some(mac);
        }
        self.vtep_mac = Some(mac);
        Some(mac)
    }

    /// What it publishes.
    pub fn attributes(&self, config: &NetConf) -> Attributes {
        let data = |mac: Option<MacAddr>| match config.backend {
            Backend::Vxlan(vxlan) => {
                mac.map(|mac| VxlanData { vni: Some(vxlan.vni), vtep_mac: mac }.to_json())
            }
            _ => None,
        };
        let (v4, v6) = (config.network.is_some(), config.ipv6_network.is_some());
        Attributes {
            public_ip: self.public_ip,
            public_ipv6: self.public_ipv6.filter(|_| v6),
            backend_type: config.backend.published_type().to_owned(),
            backend_data: data(self.vtep_mac).filter(|_| v4),
            backend_v6_data: data(self.vtep_mac_v6).filter(|_| v6),
        }
    }
}

/// Finds out whether this node can do what a configuration asks for. It may be asked several times.
pub type Can<'a> = &'a mut (dyn FnMut(&NetConf) -> Result<(), StoreError> + Send);

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The Kubernetes node's name, or the text of the lease's key.
    pub name: String,
    /// Its subnets.
    pub subnets: Subnets,
    /// How it is reached.
    pub attributes: Attributes,
}

/// The whole of a cluster, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What all nodes share.
    pub config: NetConf,
    /// The subnets that this node has a lease of.
    pub own: Subnets,
    /// All other nodes, by their names. One that is told again and has not changed is the same one in memory.
    pub peers: Vec<Arc<Peer>>,
}

/// What a store tells while it runs.
#[derive(Debug)]
pub enum Update {
    /// The cluster is this now.
    Cluster(Arc<Cluster>),
    /// The store can't be reached: what it said last stays in force.
    Lost(StoreError),
    /// It is reached again, and nothing has changed meanwhile that is not told by now.
    Back,
}

/// How a store fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which store it is.
    pub kind: &'static str,
    /// Since when it is reached, or lost.
    pub since: SystemTime,
    /// Why it is lost; none while it is reached.
    pub lost: Option<String>,
    /// When this node's lease ends if it is not renewed. None: it does not end.
    pub lease_until: Option<SystemTime>,
    /// Up to where the store has been read: etcd's revision, or Kubernetes' resource version.
    pub position: Option<String>,
    /// What an operator must mend about the own lease, or others'.
    pub trouble: Option<String>,
}

impl Status {
    /// Of a store that has not been reached yet.
    pub fn new(kind: &'static str) -> Self {
        let lost = Some("it has not been reached yet".to_owned());
        Self { kind, since: SystemTime::now(), lost, lease_until: None, position: None, trouble: None }
    }

    /// The same, now that it is reached.
    #[must_use]
    pub fn connected(&self) -> Self {
        match self.lost {
            None => self.clone(),
            Some(_) => Self { since: SystemTime::now(), lost: None, ..self.clone() },
        }
    }

    /// The same, now that it is lost.
    #[must_use]
    pub fn lost(&self, reason: String) -> Self {
        let since = if self.lost.is_some() { self.since } else { SystemTime::now() };
        Self { since, lost: Some(reason), ..self.clone() }
    }
}

/// What is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It can't be reached, or does not answer: it is tried again.
    #[error("{store} can't be reached: {reason}")]
    Unreachable {
        /// Which one.
        store: String,
        /// Why not.
        reason: String,
    },
    /// It refuses us: an operator must mend it.
    #[error("{store} refuses: {reason}")]
    Refused {
        /// Which one.
        store: String,
        /// Why, and what to do.
        reason: String,
    },
    /// What it holds is not as it must be.
    #[error("{place}: {reason}")]
    Content {
        /// The key, or the object.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Something given to it is not as it must be, such as a file of a key.
    #[error("{0}")]
    Settings(String),
    /// There is no subnet left.
    #[error(
        "all subnets from {min} to {max} are taken: enlarge the network, or delete leases of nodes that are gone"
    )]
    Full {
        /// The first one.
        min: String,
        /// The last one.
        max: String,
    },
}

/// Where a cluster's nodes meet.
// A daemon has one of them.
#[allow(clippy::large_enum_variant)]
pub enum Store {
    /// etcd, version 3.
    Etcd(crate::etcd::Etcd),
    /// Kubernetes.
    Kube(Box<crate::kube::Kube>),
}

impl Store {
    /// Takes a lease. What can pass is tried again, with a line in the log; so it may take as long as the store is away.
    ///
    /// # Errors
    /// What an operator must mend.
    pub async fn acquire(&mut self, own: &Own) -> Result<Cluster, StoreError> {
        self.acquire_if(own, &mut |_| Ok(())).await
    }

    /// The same, if this node can do what the configuration asks for: nothing of it is written before.
    ///
    /// # Errors
    /// What an operator must mend, in the store or by `can`.
    pub async fn acquire_if(&mut self, own: &Own, can: Can<'_>) -> Result<Cluster, StoreError> {
        match self {
            Self::Etcd(store) => store.acquire(own, can).await,
            Self::Kube(store) => {
                can(store.config())?;
                store.acquire(own).await
            }
        }
    }

    /// The MAC address of the lease that this node had before, if [`Store::acquire`] has taken it over.
    pub fn inherited_mac(&self) -> Option<MacAddr> {
        match self {
            Self::Etcd(store) => store.inherited_mac(),
            Self::Kube(_) => None,
        }
    }

    /// Tells the others that this node forwards. In etcd the lease says so by itself.
    ///
    /// # Errors
    /// What an operator must mend.
    pub async fn publish(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Etcd(_) => Ok(()),
            Self::Kube(store) => {
                store.publish().await;
                Ok(())
            }
        }
    }

    /// How it fares, also while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        match self {
            Self::Etcd(store) => store.status(),
            Self::Kube(store) => store.status(),
        }
    }

    /// Keeps the lease and tells each change, until nobody receives any more. To be called after [`Store::acquire`].
    pub async fn run(self, updates: mpsc::Sender<Update>) {
        match self {
            Self::Etcd(store) => store.run(updates).await,
            Self::Kube(store) => store.run(updates).await,
        }
    }
}
