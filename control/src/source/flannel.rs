//! A cluster of flannel's as a model. Whatever other nodes have written, the outcome is a valid model: what cannot be carried
//! is left out, with a line in the log.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::error;
use weft_flannel::complaints::Complaints;
use weft_flannel::lease::{Subnets, VxlanData};
use weft_flannel::net_conf::{Backend, NetConf};
use weft_flannel::store::{Cluster, Peer, Store, StoreError, Update};
use weft_flannel::subnet_env::SubnetEnv;
use weft_node::{Firewall, Pods, Rules};
use weft_switch::types::{MacAddr, Mtu};

use super::SourceError;
use crate::config::Flannel;
use crate::model::{DirectRouting, Encapsulation, Entity, Model, Network, Node, validate, validate_changed};

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its name in the model.
    pub name: String,
    /// The uplink's IPv4 address, where tunnel packets come in. What is published may be another one.
    pub ipv4: Option<Ipv4Addr>,
    /// The uplink's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its VTEP's MAC address.
    pub vtep_mac: MacAddr,
    /// The uplink's MTU in bytes.
    pub mtu: u32,
}

/// Makes models of clusters.
pub struct Translation {
    own: Own,
    /// What this node goes by, whatever the store says later.
    kept: Option<Subnets>,
    complaints: Complaints,
    /// Of what configuration, and what became of each peer: only those that have changed are read again.
    read: (Option<NetConf>, Vec<Read>),
    /// If all that was read last made a model that was right as it was: this, less its peers.
    sound: Option<Model>,
}

/// A peer, and the node that it is, or why it is none.
type Read = (Arc<Peer>, Result<Node, String>);

/// The MTU inside pods, by flannel's arithmetic.
pub fn pod_mtu(config: &NetConf, uplink: u32) -> u32 {
    let underlay = match config.backend {
        Backend::Vxlan(vxlan) => vxlan.mtu.unwrap_or(uplink),
        _ => uplink,
    };
    underlay.saturating_sub(config.backend.overhead())
}

/// How packets go between the nodes, and by which port where there is one.
pub fn carriage(config: &NetConf) -> (Encapsulation, u16) {
    match config.backend {
        Backend::Vxlan(vxlan) => (Encapsulation::Vxlan, vxlan.port),
        Backend::Udp { port } => (Encapsulation::Udp, port),
        Backend::Ipip { .. } => (Encapsulation::Ipip, Model::DEFAULT_PORT),
        Backend::HostGw | Backend::Alloc => (Encapsulation::Vxlan, Model::DEFAULT_PORT),
    }
}

/// What flannel leaves on the node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// What CNI plugins are told.
    pub env: SubnetEnv,
    /// The rules are made by nftables.
    pub nftables: bool,
}

/// The rules that the node needs for its pods' packets.
pub fn rules(leaves: &Leaves, settings: &Flannel) -> Rules {
    let Leaves { env, nftables } = leaves;
    let v4 = env.networks.first().copied().map(IpNet::V4).zip(env.subnets.v4.map(IpNet::V4));
    let v6 = env.ipv6_networks.first().copied().map(IpNet::V6).zip(env.subnets.v6.map(IpNet::V6));
    let pods = |(network, subnet): (IpNet, IpNet)| Pods { network: network.trunc(), subnet: subnet.trunc() };
    Rules {
        by: if *nftables { Firewall::Nftables } else { Firewall::Iptables },
        pods: [v4, v6].into_iter().flatten().map(pods).collect(),
        masquerade: settings.ip_masq,
        forward: settings.forward_rules,
        random_ports: settings.ip_masq_random,
    }
}

/// A store with the lease that this node has there.
pub enum Joined {
    /// It has said what there is.
    Now(Box<Store>),
    /// It is still to say it: until then what it said last is in force.
    Later {
        /// Ends when it does.
        joining: JoinHandle<Result<(Store, Cluster), StoreError>>,
        /// Hears what is to be left on the node then.
        told: watch::Sender<Leaves>,
        /// Whether this node masquerades.
        ip_masq: bool,
    },
}

/// Sends a model for each change, until nobody receives any more. That the store is lost changes nothing in the model; its status
/// says so. Peers are told of this node once `ready` says that it forwards; dropped, it means that it never will.
pub async fn follow(
    joined: Joined,
    mut translation: Translation,
    ready: oneshot::Receiver<()>,
    updates: mpsc::Sender<Result<Model, SourceError>>,
) {
    if ready.await.is_err() {
        return;
    }
    let mut store = match joined {
        Joined::Now(store) => *store,
        Joined::Later { joining, told, ip_masq } => {
            let Ok(Ok((store, cluster))) = joining.await else { return };
            let leaves = translation.leaves(&cluster, ip_masq);
            told.send_if_modified(|before| std::mem::replace(before, leaves.clone()) != leaves);
            if updates.send(translation.model(&cluster)).await.is_err() {
                return;
            }
            store
        }
    };
    if let Err(error) = store.publish().await {
        error!("this node is not published: {error}");
    }
    let (sender, mut changes) = mpsc::channel(1);
    tokio::spawn(store.run(sender));
    while let Some(update) = changes.recv().await {
        let Update::Cluster(cluster) = update else { continue };
        if updates.send(translation.model(&cluster)).await.is_err() {
            return;
        }
    }
}

impl Translation {
    /// For this node.
    pub fn new(own: Own) -> Self {
        Self { own, kept: None, complaints: Complaints::default(), read: Default::default(), sound: None }
    }

    /// The same, for a node whose pods have addresses of these subnets.
    #[must_use]
    pub fn keeping(self, subnets: Subnets) -> Self {
        Self { kept: Some(subnets), ..self }
    }

    /// What this node is to have of the cluster beside the model.
    pub fn leaves(&self, cluster: &Cluster, ip_masq: bool) -> Leaves {
        let config = &cluster.config;
        let env = SubnetEnv {
            networks: config.network.into_iter().collect(),
            ipv6_networks: config.ipv6_network.into_iter().collect(),
            subnets: self.kept.unwrap_or(cluster.own),
            mtu: pod_mtu(config, self.own.mtu),
            ip_masq,
        };
        Leaves { env, nftables: config.nftables }
    }

    /// The cluster as a model that is valid.
    ///
    /// # Errors
    /// What is wrong with the cluster as a whole, or with this node in it.
    pub fn model(&mut self, cluster: &Cluster) -> Result<Model, SourceError> {
        let mut model = self.without_peers(cluster)?;
        let mut fresh = self.read_peers(cluster).into_iter().peekable();
        if let Some(kept) = self.kept.filter(|kept| *kept != cluster.own) {
            let what = format!(
                "the store gives it {} now; {kept} stays in use until weftd is restarted",
                cluster.own
            );
            self.complaints.say("this node", what);
        }
        let (own, complaints, without_peers) = (&self.own, &mut self.complaints, model.clone());
        model.nodes.reserve(self.read.1.len());
        let mut changed = Vec::new();
        for (index, (peer, node)) in self.read.1.iter().enumerate() {
            let is_fresh = fresh.next_if_eq(&index).is_some();
            match node {
                Ok(node) => {
                    changed.extend(is_fresh.then_some(model.nodes.len()));
                    model.nodes.push(node.clone());
                }
                Err(reason) => {
                    complaints.say(&format!("node {}", peer.name), format!("{reason}; it is left out"))
                }
            }
        }
        // The judge of what is right is the one who judges files as well.
        let mut judged = match self.sound.take() {
            Some(before) if before == without_peers => validate_changed(&model, &own.name, &changed),
            _ => validate(&model, &own.name),
        };
        self.sound = judged.is_ok().then_some(without_peers);
        while let Err(findings) = judged {
            let mut bad = BTreeSet::new();
            for finding in &findings {
                match finding.entity {
                    Entity::Node(index) if index > 0 => {
                        let what = format!("{}: {}; it is left out", finding.setting(), finding.reason);
                        complaints.say(&format!("node {}", finding.name), what);
                        bad.insert(index);
                    }
                    _ => {}
                }
            }
            if bad.is_empty() {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                return Err(SourceError::Store(lines.join("; ")));
            }
            let mut index = 0;
            model.nodes.retain(|_| {
                index += 1;
                !bad.contains(&(index - 1))
            });
            judged = validate(&model, &own.name);
        }
        complaints.end();
        Ok(model)
    }

    /// Reads those peers that are not what they were; which these are, by their places.
    fn read_peers(&mut self, cluster: &Cluster) -> Vec<usize> {
        let (config, before) = std::mem::take(&mut self.read);
        let same = config.as_ref() == Some(&cluster.config);
        // Both are in the order of the names.
        let mut before = before.into_iter().filter(|_| same).peekable();
        let carried = !matches!(cluster.config.backend, Backend::Alloc);
        let mut fresh = Vec::new();
        let read = |(place, peer): (usize, &Arc<Peer>)| {
            while before.next_if(|(old, _)| old.name < peer.name).is_some() {}
            let known = before.next_if(|(old, _)| Arc::ptr_eq(old, peer));
            known.unwrap_or_else(|| {
                fresh.push(place);
                (Arc::clone(peer), node(peer, &cluster.config, &self.own))
            })
        };
        let read = cluster.peers.iter().filter(|_| carried).enumerate().map(read).collect();
        self.read = (Some(cluster.config.clone()), read);
        fresh
    }

    /// The networks, and this node.
    fn without_peers(&self, cluster: &Cluster) -> Result<Model, SourceError> {
        let (config, own) = (&cluster.config, &self.own);
        let vni = match config.backend {
            Backend::Vxlan(vxlan) => vxlan.vni,
            _ => Network::DEFAULT_VNI,
        };
        let (encapsulation, port) = carriage(config);
        let mtu = pod_mtu(config, own.mtu);
        let mtu = Mtu::new(mtu).map_err(|error| {
            SourceError::Store(format!(
                "what the underlay's MTU leaves for pods: {error}; mend the uplink's MTU"
            ))
        })?;
        let network = Network {
            name: Network::DEFAULT_NAME.to_owned(),
            ipv4: config.network,
            ipv6: config.ipv6_network,
            vni,
            mtu: Some(mtu),
            direct_routing: match config.backend {
                Backend::HostGw => DirectRouting::Always,
                Backend::Vxlan(vxlan) if vxlan.direct_routing => DirectRouting::OnLink,
                Backend::Ipip { direct_routing: true } => DirectRouting::OnLink,
                _ => DirectRouting::Never,
            },
        };
        let this = Node {
            name: own.name.clone(),
            subnets: subnets(&self.kept.unwrap_or(cluster.own)),
            public_ip: own.ipv4,
            public_ipv6: own.ipv6.filter(|_| config.ipv6_network.is_some()),
            vtep_mac: Some(own.vtep_mac),
            vtep_mac_v6: None,
            vtep_macs: Default::default(),
            vtep_macs_v6: Default::default(),
        };
        let (networks, nodes) = (vec![network], vec![this]);
        Ok(Model { networks, port, encapsulation, nodes, pods: Vec::new(), routes: Vec::new() })
    }
}

fn subnets(of: &Subnets) -> Vec<IpNet> {
    [of.v4.map(IpNet::V4), of.v6.map(IpNet::V6)].into_iter().flatten().collect()
}

/// Another node, or why it can't be reached.
fn node(peer: &Peer, config: &NetConf, own: &Own) -> Result<Node, String> {
    let attributes = &peer.attributes;
    let wanted = config.backend.published_type();
    // flannel's `udp` does not ask, and what it publishes is empty.
    let asks = !matches!(config.backend, Backend::Udp { .. });
    if asks && attributes.backend_type != wanted {
        return Err(format!("its backend is {:?}, here it is {wanted:?}", attributes.backend_type));
    }
    let mac = |data: &Option<String>, what: &str| -> Result<Option<MacAddr>, String> {
        let Some(data) = data else { return Ok(None) };
        let data = VxlanData::from_json(data).map_err(|error| format!("its {what} is wrong: {error}"))?;
        let ours = match config.backend {
            Backend::Vxlan(vxlan) => Some(vxlan.vni),
            _ => None,
        };
        match data.vni.filter(|vni| Some(*vni) != ours) {
            Some(vni) => Err(format!("its VNI is {vni}, here it is another")),
            None => Ok(Some(data.vtep_mac)),
        }
    };
    let vtep_mac = mac(&attributes.backend_data, "BackendData")?;
    let vtep_mac_v6 = mac(&attributes.backend_v6_data, "BackendV6Data")?;
    // flannel carries IPv6 over IPv6 only; a tunnel of VXLAN by a device of its own.
    let has_device = vtep_mac_v6.is_some() || !matches!(config.backend, Backend::Vxlan(_));
    let over_v6 = attributes.public_ipv6.is_some() && has_device && own.ipv6.is_some();
    let usable = |net: &IpNet| match net {
        IpNet::V4(_) => attributes.public_ip.is_some(),
        IpNet::V6(_) => over_v6,
    };
    let subnets: Vec<IpNet> = subnets(&peer.subnets).into_iter().filter(usable).collect();
    if subnets.is_empty() {
        return Err("none of its subnets can be reached: it publishes no address for them".to_owned());
    }
    let same_ip = |ip: Option<IpAddr>| {
        ip.is_some() && [own.ipv4.map(IpAddr::V4), own.ipv6.map(IpAddr::V6)].contains(&ip)
    };
    if same_ip(attributes.public_ip.map(IpAddr::V4)) || same_ip(attributes.public_ipv6.map(IpAddr::V6)) {
        return Err("it publishes this node's address".to_owned());
    }
    Ok(Node {
        name: model_name(&peer.name),
        subnets,
        public_ip: attributes.public_ip,
        public_ipv6: attributes.public_ipv6.filter(|_| over_v6),
        vtep_mac: vtep_mac.or(vtep_mac_v6),
        vtep_mac_v6,
        vtep_macs: Default::default(),
        vtep_macs_v6: Default::default(),
    })
}

/// The name in the model: of a key of etcd the IPv4 part, which no two nodes share.
fn model_name(name: &str) -> String {
    name.split('&').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests;
