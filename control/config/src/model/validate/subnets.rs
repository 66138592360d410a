//! What can be wrong with the nodes' subnets.

use super::super::{Model, NetworkIndex};
use super::networks::field_of;
use super::{Entity, Findings, Part};
use ipnet::IpNet;

/// The subnets that are as they should be, sorted: none overlaps another.
pub(super) struct Subnets(Vec<(IpNet, usize)>);

impl Subnets {
    /// The subnet that holds all of `part`, and the index of its node.
    pub(super) fn holding(&self, part: &IpNet) -> Option<(IpNet, usize)> {
        let after = self.0.partition_point(|(net, _)| net.network() <= part.network());
        self.0.get(after.checked_sub(1)?).copied().filter(|(net, _)| net.contains(part))
    }
}

pub(super) fn check(model: &Model, networks: &NetworkIndex, to: &mut Findings) -> Subnets {
    let mut sound: Vec<(IpNet, usize, usize)> = Vec::new();
    for (index, node) in model.nodes.iter().enumerate() {
        let mut add = |item: Option<usize>, reason: String, remedy: String| {
            to.add(Entity::Node(index), &node.name, ("subnets", item.map(Part::Item)), reason, remedy);
        };
        if node.subnets.is_empty() {
            add(None, "the node has none".to_owned(), "give it its part of the pod network".to_owned());
        }
        for (item, subnet) in node.subnets.iter().enumerate() {
            let smallest = match subnet {
                IpNet::V4(_) => 30,
                IpNet::V6(_) => 126,
            };
            if subnet.trunc() != *subnet {
                let remedy = format!("write {}", subnet.trunc());
                add(Some(item), format!("{subnet} has bits set after the prefix"), remedy);
            } else if subnet.prefix_len() > smallest {
                let reason = format!("{subnet} has no room for a gateway and a pod");
                add(Some(item), reason, format!("use a prefix length of {smallest} or less"));
            } else if networks.of(subnet).is_some() {
                sound.push((*subnet, index, item));
            } else {
                let (reason, remedy) = outside(model, subnet);
                add(Some(item), reason, remedy);
            }
        }
    }
    // As with networks: an overlap is with the last one that was not inside another.
    sound.sort_by_key(|(net, index, item)| (net.network(), net.prefix_len(), *index, *item));
    let mut disjoint: Vec<(IpNet, usize)> = Vec::with_capacity(sound.len());
    for (subnet, index, item) in sound {
        let Some((wider, owner)) = disjoint.last().copied().filter(|(wider, _)| wider.contains(&subnet))
        else {
            disjoint.push((subnet, index));
            continue;
        };
        let other = &model.nodes[owner].name;
        let reason = if wider == subnet {
            format!("{subnet} is a subnet of node {other:?} already")
        } else {
            format!("{subnet} is a part of {wider}, a subnet of node {other:?}")
        };
        let remedy = "give each node subnets that no other has".to_owned();
        let part = Some(Part::Item(item));
        to.add(Entity::Node(index), &model.nodes[index].name, ("subnets", part), reason, remedy);
    }
    Subnets(disjoint)
}

/// Why a subnet is of no network, and what to do.
fn outside(model: &Model, subnet: &IpNet) -> (String, String) {
    let field = field_of(subnet);
    let nets: Vec<String> = model
        .networks
        .iter()
        .flat_map(|network| network.nets())
        .filter(|net| net.addr().is_ipv4() == subnet.addr().is_ipv4())
        .map(|net| net.to_string())
        .take(4)
        .collect();
    match &nets[..] {
        [] => {
            (format!("the network has no {field}"), format!("set {field} in [network], or remove {subnet}"))
        }
        [net] => (
            format!("{subnet} is outside the network {net}"),
            format!("use a part of {net}, or widen {field} in [network]"),
        ),
        nets => (
            format!("{subnet} is not within one of the networks ({} …)", nets.join(", ")),
            "use a part of one of them, or add a [[network]]".to_owned(),
        ),
    }
}
