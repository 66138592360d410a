//! Everything that can be wrong with a [`Model`], said at once: what, why, and what to do. Linear in the
//! number of entries (with sorting), so that a cluster of thousands of nodes is checked in milliseconds.
//!
//! What a finding is, is here; what is looked for in `networks`, `nodes`, `subnets`, `pods` and `routes`; names and paths
//! are in `names`.

pub(crate) mod names;
mod networks;
mod nodes;
mod pods;
mod routes;
mod subnets;

use super::{Model, NetworkIndex, Node, gateway};
use ahash::AHashMap;
use ipnet::IpNet;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// A part of a [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// The model as a whole.
    Cluster,
    /// The network with this index in `Model::networks`.
    Network(usize),
    /// The node with this index in `Model::nodes`.
    Node(usize),
    /// The pod with this index in `Model::pods`.
    Pod(usize),
    /// The route with this index in `Model::routes`.
    Route(usize),
}

/// A part of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Of a list, the element with this index.
    Item(usize),
    /// Of a table, what has this name.
    Key(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(index) => write!(f, "[{index}]"),
            Self::Key(key) => write!(f, ".{key}"),
        }
    }
}

/// One thing that is wrong with a [`Model`]. Its text says where, why and what to do, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The part that is wrong.
    pub entity: Entity,
    /// The name of that part, as far as it has one.
    pub name: String,
    /// The setting, in the words of the file: `subnets`, `netns`. For one that is missing, the name it would
    /// have.
    pub field: &'static str,
    /// For a setting that has parts: the one that is wrong.
    pub part: Option<Part>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Invalid {
    /// The setting with its part: `subnets[1]`, `vtep_macs.blue`.
    pub fn setting(&self) -> String {
        self.part.as_ref().map_or_else(|| self.field.to_owned(), |part| format!("{}{part}", self.field))
    }

    /// What has the setting: `network "default"`, `node "a"`.
    pub fn owner(&self) -> String {
        match self.entity {
            Entity::Cluster => "cluster".to_owned(),
            Entity::Network(_) => format!("network {:?}", self.name),
            Entity::Route(_) => format!("route {}", self.name),
            Entity::Node(_) => format!("node {:?}", self.name),
            Entity::Pod(_) => format!("pod {:?}", self.name),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}; {}", self.owner(), self.setting(), self.reason, self.remedy)
    }
}

impl std::error::Error for Invalid {}

/// Checks the whole model, as the node named `local_node` sees it.
///
/// # Errors
/// Everything that is wrong, in the order networks, nodes, pods, routes. The model must not be used then.
pub fn validate(model: &Model, local_node: &str) -> Result<(), Vec<Invalid>> {
    validate_as(model, Some(local_node))
}

/// Checks the whole model as one that all its nodes have: each of them is the others' peer.
///
/// # Errors
/// As for [`validate`].
pub fn validate_for_all(model: &Model) -> Result<(), Vec<Invalid>> {
    // The only node is nobody's peer.
    let only = if let [only] = &model.nodes[..] { Some(only.name.as_str()) } else { None };
    validate_as(model, only)
}

/// Checks only the pods of a model of which all else is known to be right.
///
/// # Errors
/// As for [`validate`].
pub fn validate_pods(model: &Model) -> Result<(), Vec<Invalid>> {
    let mut findings = Findings::default();
    pods::check(model, &NetworkIndex::new(model), &mut findings);
    if findings.0.is_empty() { Ok(()) } else { Err(findings.0) }
}

/// Checks a model that is as one was that is right, but for these nodes, which are others now or new (and for some that are gone). That
/// these go together with each other and with the rest is found out without looking at the rest by itself; if they don't, the whole is checked.
///
/// # Errors
/// As for [`validate`].
pub fn validate_changed(model: &Model, local_node: &str, changed: &[usize]) -> Result<(), Vec<Invalid>> {
    let others = || model.nodes.iter().enumerate().filter(|(index, _)| !changed.contains(index));
    let few = || {
        let local = others().map(|(_, node)| node).filter(|node| node.name == local_node);
        let nodes = local.chain(changed.iter().filter_map(|index| model.nodes.get(*index)));
        Model {
            networks: model.networks.clone(),
            port: model.port,
            encapsulation: model.encapsulation,
            nodes: nodes.cloned().collect(),
            pods: Vec::new(),
            routes: Vec::new(),
        }
    };
    let apart = |node: &Node| others().all(|(_, other)| !nodes::share(node, other));
    let holds = changed.len() <= FEW
        && model.pods.is_empty()
        && model.routes.is_empty()
        && changed.iter().filter_map(|index| model.nodes.get(*index)).all(apart)
        && validate(&few(), local_node).is_ok();
    if holds { Ok(()) } else { validate(model, local_node) }
}

/// Up to so many changed nodes are compared with each of the others: beyond, checking the whole takes no longer.
const FEW: usize = 16;

fn validate_as(model: &Model, local_node: Option<&str>) -> Result<(), Vec<Invalid>> {
    let mut findings = Findings::default();
    let index = NetworkIndex::new(model);
    networks::check(model, &mut findings);
    nodes::check(model, &index, local_node, &mut findings);
    let subnets = subnets::check(model, &index, &mut findings);
    pods::check(model, &index, &mut findings);
    routes::check(model, &index, &subnets, &mut findings);
    let mut found = findings.0;
    if found.is_empty() {
        return Ok(());
    }
    found.sort_by_key(|i| i.entity);
    Err(found)
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Invalid>);

impl Findings {
    fn add(
        &mut self,
        entity: Entity,
        name: &str,
        (field, part): (&'static str, Option<Part>),
        reason: String,
        remedy: String,
    ) {
        self.0.push(Invalid { entity, name: name.to_owned(), field, part, reason, remedy });
    }
}

/// Remembers the first entry that has a value; says which one had it already.
struct Seen<K>(AHashMap<K, usize>);

impl<K: Eq + std::hash::Hash> Seen<K> {
    /// With room for so many.
    fn of(count: usize) -> Self {
        Self(AHashMap::with_capacity(count))
    }

    fn before(&mut self, key: K, index: usize) -> Option<usize> {
        match self.0.entry(key) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(free) => {
                free.insert(index);
                None
            }
        }
    }
}

/// Why no station can have an address of this range, as far as that is so.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("multicast"),
        _ if address.is_loopback() => Some("loopback"),
        IpAddr::V4(a) if a == Ipv4Addr::BROADCAST => Some("broadcast"),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some("link-local"),
        _ => None,
    }
}

/// What an address of this subnet is, if no pod can have it.
fn not_a_pods(subnet: &IpNet, address: IpAddr) -> Option<String> {
    // The zero address of IPv4 and the subnet-router anycast address of IPv6 (RFC 4291, 2.6.1) are one and the same: that
    // of the network. flannel gives it to its tunnel device, weft to the host port.
    if Some(address) == gateway(subnet) {
        Some(format!("the gateway of {subnet}"))
    } else if address == subnet.network() {
        Some(format!("the host's own address in {subnet}"))
    } else if matches!(subnet, IpNet::V4(net) if address == IpAddr::V4(net.broadcast())) {
        Some(format!("the broadcast address of {subnet}"))
    } else {
        None
    }
}
