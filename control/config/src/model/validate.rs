//! Everything that can be wrong with a [`Model`], said at once: what, why, and what to do. Linear in the
//! number of entries (with sorting), so that a cluster of thousands of nodes is checked in milliseconds.
//!
//! Network and nodes are here; pods are in `pods`, names and paths in `names`.

pub(crate) mod names;
mod pods;

use super::{Model, Node};
use ipnet::IpNet;
use names::name_part;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use weft_types::MacAddr;

/// A part of a [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// `Model::network`.
    Network,
    /// The node with this index in `Model::nodes`.
    Node(usize),
    /// The pod with this index in `Model::pods`.
    Pod(usize),
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
    /// For a setting that is a list: the index of the wrong element.
    pub item: Option<usize>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Invalid {
    /// The setting with the index of its element: `subnets[1]`.
    pub fn setting(&self) -> String {
        match self.item {
            Some(item) => format!("{}[{item}]", self.field),
            None => self.field.to_owned(),
        }
    }

    /// What has the setting: `network`, `node "a"`.
    pub fn owner(&self) -> String {
        match self.entity {
            Entity::Network => "network".to_owned(),
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
/// Everything that is wrong, in the order network, nodes, pods. The model must not be used then.
pub fn validate(model: &Model, local_node: &str) -> Result<(), Vec<Invalid>> {
    let mut findings = Findings::default();
    check_network(model, &mut findings);
    check_nodes(model, local_node, &mut findings);
    pods::check(model, &mut findings);
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
    fn network(&mut self, field: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.add(Entity::Network, "", (field, None), reason.into(), remedy.into());
    }

    fn add(
        &mut self,
        entity: Entity,
        name: &str,
        (field, item): (&'static str, Option<usize>),
        reason: String,
        remedy: String,
    ) {
        self.0.push(Invalid { entity, name: name.to_owned(), field, item, reason, remedy });
    }
}

/// Remembers the first entry that has a value; says which one had it already.
struct Seen<K>(HashMap<K, usize>);

impl<K: Eq + std::hash::Hash> Seen<K> {
    fn new() -> Self {
        Self(HashMap::new())
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

fn check_network(model: &Model, to: &mut Findings) {
    let network = &model.network;
    if network.ipv4.is_none() && network.ipv6.is_none() {
        to.network(
            "ipv4",
            "neither ipv4 nor ipv6 is set",
            "set at least one, such as ipv4 = \"10.244.0.0/16\", the cluster's pod network",
        );
    }
    for (field, net) in [("ipv4", network.ipv4.map(IpNet::V4)), ("ipv6", network.ipv6.map(IpNet::V6))] {
        let Some(net) = net else { continue };
        if net.trunc() != net {
            to.network(
                field,
                format!("{net} has bits set after the prefix"),
                format!("write {}", net.trunc()),
            );
        } else if let Some(what) = unusable(net.network()) {
            to.network(
                field,
                format!("{net} is {what}, no pod can have such an address"),
                "use a private range, such as 10.244.0.0/16 or fd00:10:244::/56",
            );
        }
    }
    if network.port == 0 {
        to.network("port", "0 is no UDP port", "use 8472, as flannel does, or another within 1 to 65535");
    }
    if let (Some(mtu), Some(_)) = (network.mtu, network.ipv6) {
        if mtu.get() < 1280 {
            to.network(
                "mtu",
                format!("{} is less than IPv6 needs (1280, RFC 8200)", mtu.get()),
                "raise it to 1280 at least, or leave ipv6 out",
            );
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

fn check_nodes(model: &Model, local_node: &str, to: &mut Findings) {
    let nodes = &model.nodes;
    let local = model.node(local_node);
    if local.is_none() {
        to.add(
            Entity::Network,
            "",
            ("node", None),
            format!("this node, {local_node:?}, is not among the {} listed", nodes.len()),
            "add a [[node]] with that name, or set [node] name in weftd's configuration to one that is listed"
                .to_owned(),
        );
    }
    let mut names = Seen::new();
    let mut public_ips: Seen<IpAddr> = Seen::new();
    let mut macs: Seen<MacAddr> = Seen::new();
    for (index, node) in nodes.iter().enumerate() {
        let entity = Entity::Node(index);
        let mut add = |field: &'static str, item: Option<usize>, reason: String, remedy: &str| {
            to.add(entity, &node.name, (field, item), reason, remedy.to_owned());
        };
        if let Err(why) = name_part(&node.name) {
            add("name", None, why, "name it as Kubernetes would, such as \"worker-1\"");
        } else if names.before(node.name.as_str(), index).is_some() {
            add(
                "name",
                None,
                "another node has the same name".to_owned(),
                "give each node one name of its own",
            );
        }
        check_public_ips(model, local, node, &mut |field, reason, remedy: &str| {
            add(field, None, reason, remedy)
        });
        for (field, ip) in
            [("public_ip", node.public_ip.map(IpAddr::V4)), ("public_ipv6", node.public_ipv6.map(IpAddr::V6))]
        {
            if let Some(first) = ip.and_then(|ip| public_ips.before(ip, index)) {
                let reason = format!("node {:?} has the same address", nodes[first].name);
                add(field, None, reason, "give each node its own underlay address");
            }
        }
        if node.vtep_mac.is_none() && node.name != local_node {
            add(
                "vtep_mac",
                None,
                "a peer's VTEP has no MAC address".to_owned(),
                "set vtep_mac to the address of flannel.<VNI> there, or to the one that weftd there reports",
            );
        }
        let pair = [("vtep_mac", node.vtep_mac), ("vtep_mac_v6", node.vtep_mac_v6)];
        for (field, mac) in pair.into_iter().filter_map(|(field, mac)| Some((field, mac?))) {
            if !mac.is_unicast() {
                let what = if mac == MacAddr::ZERO { "the zero address" } else { "a group address" };
                add(
                    field,
                    None,
                    format!("{mac} is {what}, no station can have it"),
                    "use a unicast address, one whose first byte is even, such as 02:00:00:00:00:01",
                );
            } else if let Some(first) = macs.before(mac, index).filter(|first| *first != index) {
                let reason = format!("{mac} is the VTEP of node {:?} too", nodes[first].name);
                add(field, None, reason, "give each node's VTEP a MAC address of its own");
            }
        }
    }
    check_subnets(model, to);
}

/// One node's underlay addresses: there, usable, and such that this node can reach them.
fn check_public_ips(
    model: &Model,
    local: Option<&Node>,
    node: &Node,
    add: &mut dyn FnMut(&'static str, String, &str),
) {
    let addresses =
        [("public_ip", node.public_ip.map(IpAddr::V4)), ("public_ipv6", node.public_ipv6.map(IpAddr::V6))];
    for (field, ip) in addresses.into_iter().filter_map(|(field, ip)| Some((field, ip?))) {
        if let Some(what) = unusable(ip) {
            add(field, format!("{ip} is {what}"), "use the address that the other nodes reach this node by");
        } else if in_network(model, ip) {
            add(
                field,
                format!("{ip} is inside the pod network, so the tunnel would run through itself"),
                "use an address of the underlay",
            );
        }
    }
    let has_ipv4 = node.subnets.iter().any(|s| matches!(s, IpNet::V4(_)));
    let has_ipv6 = node.subnets.iter().any(|s| matches!(s, IpNet::V6(_)));
    if node.public_ip.is_none() && (has_ipv4 || node.public_ipv6.is_none()) {
        let why = if has_ipv4 { "the node's IPv4 pods are" } else { "the node is" };
        add(
            "public_ip",
            format!("missing, but {why} reached by it"),
            "set it to the node's underlay address",
        );
    }
    let Some(local) = local.filter(|l| l.name != node.name) else { return };
    let shared = (node.public_ip.is_some() && local.public_ip.is_some())
        || (node.public_ipv6.is_some() && local.public_ipv6.is_some());
    let any = |n: &Node| n.public_ip.is_some() || n.public_ipv6.is_some();
    if has_ipv6 && !shared && any(node) && any(local) {
        let (field, family) =
            if node.public_ip.is_none() { ("public_ip", "IPv4") } else { ("public_ipv6", "IPv6") };
        add(
            field,
            format!("missing, but this node, {:?}, has only an {family} underlay address", local.name),
            "give both nodes an underlay address of the same family",
        );
    }
}

fn in_network(model: &Model, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => model.network.ipv4.is_some_and(|n| n.contains(&a)),
        IpAddr::V6(a) => model.network.ipv6.is_some_and(|n| n.contains(&a)),
    }
}

fn check_subnets(model: &Model, to: &mut Findings) {
    let mut sound: Vec<(IpNet, usize, usize)> = Vec::new();
    for (index, node) in model.nodes.iter().enumerate() {
        let mut add = |item, reason: String, remedy: String| {
            to.add(Entity::Node(index), &node.name, ("subnets", item), reason, remedy);
        };
        if node.subnets.is_empty() {
            add(None, "the node has none".to_owned(), "give it its part of the pod network".to_owned());
        }
        for (item, subnet) in node.subnets.iter().enumerate() {
            let network = match subnet {
                IpNet::V4(_) => model.network.ipv4.map(IpNet::V4),
                IpNet::V6(_) => model.network.ipv6.map(IpNet::V6),
            };
            let (family, smallest) = match subnet {
                IpNet::V4(_) => ("ipv4", 30),
                IpNet::V6(_) => ("ipv6", 126),
            };
            if subnet.trunc() != *subnet {
                let remedy = format!("write {}", subnet.trunc());
                add(Some(item), format!("{subnet} has bits set after the prefix"), remedy);
            } else if subnet.prefix_len() > smallest {
                add(
                    Some(item),
                    format!("{subnet} has no room for a gateway and a pod"),
                    format!("use a prefix length of {smallest} or less"),
                );
            } else if let Some(network) = network {
                if network.contains(subnet) {
                    sound.push((*subnet, index, item));
                } else {
                    add(
                        Some(item),
                        format!("{subnet} is outside the network {network}"),
                        format!("use a part of {network}, or widen {family} in [network]"),
                    );
                }
            } else {
                add(
                    Some(item),
                    format!("the network has no {family}"),
                    format!("set {family} in [network], or remove {subnet}"),
                );
            }
        }
    }
    // Networks are either disjoint or one holds the other: sorted by their first address, the wider one
    // first, an overlap is with the last one that was not inside another.
    sound.sort_by_key(|(net, index, item)| (net.network(), net.prefix_len(), *index, *item));
    let mut outer: Option<(IpNet, usize)> = None;
    for (subnet, index, item) in sound {
        let Some((wider, owner)) = outer.filter(|(o, _)| o.contains(&subnet)) else {
            outer = Some((subnet, index));
            continue;
        };
        let other = &model.nodes[owner].name;
        let reason = if wider == subnet {
            format!("{subnet} is a subnet of node {other:?} already")
        } else {
            format!("{subnet} is a part of {wider}, a subnet of node {other:?}")
        };
        let remedy = "give each node subnets that no other has".to_owned();
        to.add(Entity::Node(index), &model.nodes[index].name, ("subnets", Some(item)), reason, remedy);
    }
}

/// The all-ones address of an IPv4 subnet.
fn broadcast(subnet: &IpNet) -> Option<IpAddr> {
    match subnet {
        IpNet::V4(net) => Some(IpAddr::V4(net.broadcast())),
        IpNet::V6(_) => None,
    }
}

/// The subnet-router anycast address of IPv6 (RFC 4291, 2.6.1) and the zero address of IPv4 are one and the
/// same: that of the network. flannel gives it to its tunnel device, weft to the host port.
fn zero_address(subnet: &IpNet) -> IpAddr {
    subnet.network()
}
