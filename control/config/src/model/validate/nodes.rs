//! What can be wrong with nodes, but for their subnets.

use super::super::{DirectRouting, Model, NetworkIndex, Node};
use super::names::name_part;
use super::{Entity, Findings, Part, Seen, unusable};
use ahash::AHashMap;
use ipnet::IpNet;
use std::net::IpAddr;
use weft_types::MacAddr;

pub(super) fn check(model: &Model, networks: &NetworkIndex, local_node: Option<&str>, to: &mut Findings) {
    let nodes = &model.nodes;
    let local = local_node.and_then(|name| model.node(name));
    if let (Some(local_node), None) = (local_node, local) {
        to.add(
            Entity::Cluster,
            "",
            ("node", None),
            format!("this node, {local_node:?}, is not among the {} listed", nodes.len()),
            "add a [[node]] with that name, or set [node] name in weftd's configuration to one that is listed"
                .to_owned(),
        );
    }
    let mut names = Seen::of(nodes.len());
    let mut public_ips: Seen<IpAddr> = Seen::of(nodes.len());
    let mut macs: Seen<(usize, MacAddr)> = Seen::of(nodes.len());
    let names_of_networks: AHashMap<&str, usize> =
        model.networks.iter().enumerate().map(|(index, network)| (network.name.as_str(), index)).collect();
    let mut needed = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let entity = Entity::Node(index);
        let mut add = |field: &'static str, part: Option<Part>, reason: String, remedy: &str| {
            to.add(entity, &node.name, (field, part), reason, remedy.to_owned());
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
        check_public_ips(networks, local, node, &mut |field, reason, remedy: &str| {
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
        needed_networks(networks, node, &mut needed);
        let tunnelled = |network: &usize| {
            model.encapsulation.is_vxlan()
                && model
                    .networks
                    .get(*network)
                    .is_none_or(|network| network.direct_routing != DirectRouting::Always)
        };
        let peer = Some(node.name.as_str()) != local_node;
        for network in needed.iter().copied().filter(|network| peer && tunnelled(network)) {
            if node.vtep_mac_in(model, network, false).is_none() {
                let (field, part, what) = match network {
                    0 => ("vtep_mac", None, String::new()),
                    _ => {
                        let name = &model.networks[network].name;
                        ("vtep_macs", Some(Part::Key(name.clone())), format!(" in network {name:?}"))
                    }
                };
                let reason = format!("a peer's VTEP has no MAC address{what}");
                let remedy = format!(
                    "set {field} to the address of flannel.<VNI> there, or to the one that weftd there reports"
                );
                add(field, part, reason, &remedy);
            }
        }
        for (field, part, network, mac) in given_macs(node, &names_of_networks) {
            let Some(network) = network else {
                let reason = match (part.as_ref(), model.networks.first()) {
                    (Some(Part::Key(name)), Some(first)) if *name == first.name => {
                        format!("{name:?} is the first network, whose MAC address is vtep_mac")
                    }
                    _ => "there is no such network".to_owned(),
                };
                add(field, part, reason, "name a [[network]] beside the first one");
                continue;
            };
            if !mac.is_unicast() {
                let what = if mac == MacAddr::ZERO { "the zero address" } else { "a group address" };
                let reason = format!("{mac} is {what}, no station can have it");
                let remedy = "use a unicast address, one whose first byte is even, such as 02:00:00:00:00:01";
                add(field, part, reason, remedy);
            } else if let Some(first) = macs.before((network, mac), index).filter(|first| *first != index) {
                let reason = format!("{mac} is the VTEP of node {:?} too", nodes[first].name);
                add(field, part, reason, "give each node's VTEP a MAC address of its own");
            }
        }
    }
}

/// Whether two nodes have something that only one may have.
pub(super) fn share(one: &Node, other: &Node) -> bool {
    let both = |a: Option<MacAddr>, b: Option<MacAddr>| a.is_some() && a == b;
    let macs = |node: &Node| [node.vtep_mac, node.vtep_mac_v6];
    let further = |node: &Node| !node.vtep_macs.is_empty() || !node.vtep_macs_v6.is_empty();
    (one.public_ip.is_some() && one.public_ip == other.public_ip)
        || (one.public_ipv6.is_some() && one.public_ipv6 == other.public_ipv6)
        || macs(one).into_iter().any(|mac| macs(other).into_iter().any(|its| both(mac, its)))
        || one.subnets.iter().any(|net| other.subnets.iter().any(|its| net.contains(its) || its.contains(net)))
        || one.name == other.name
        // Of networks beside the first: seldom, and not worth being told apart here.
        || (further(one) && further(other))
}

/// The networks that a node is in: those of its subnets; the first as long as it has none.
fn needed_networks(networks: &NetworkIndex, node: &Node, needed: &mut Vec<usize>) {
    needed.clear();
    needed.extend(node.subnets.iter().filter_map(|subnet| networks.of(subnet)).map(|(_, index)| index));
    if needed.is_empty() {
        needed.push(0);
    }
    needed.sort_unstable();
    needed.dedup();
}

/// A VTEP's MAC address as it is given: setting, part of it, network (none: an unknown one), address.
type GivenMac = (&'static str, Option<Part>, Option<usize>, MacAddr);

fn given_macs<'a>(
    node: &'a Node,
    networks: &'a AHashMap<&str, usize>,
) -> impl Iterator<Item = GivenMac> + 'a {
    let first = [("vtep_mac", node.vtep_mac), ("vtep_mac_v6", node.vtep_mac_v6)];
    let first = first.into_iter().filter_map(|(field, mac)| Some((field, None, Some(0), mac?)));
    let further = [("vtep_macs", &node.vtep_macs), ("vtep_macs_v6", &node.vtep_macs_v6)];
    let further = further.into_iter().flat_map(move |(field, macs)| {
        macs.iter().map(move |(name, mac)| {
            let network = networks.get(name.as_str()).copied().filter(|index| *index != 0);
            (field, Some(Part::Key(name.clone())), network, *mac)
        })
    });
    first.chain(further)
}

/// One node's underlay addresses: there, usable, and such that this node can reach them.
fn check_public_ips(
    networks: &NetworkIndex,
    local: Option<&Node>,
    node: &Node,
    add: &mut dyn FnMut(&'static str, String, &str),
) {
    let addresses =
        [("public_ip", node.public_ip.map(IpAddr::V4)), ("public_ipv6", node.public_ipv6.map(IpAddr::V6))];
    for (field, ip) in addresses.into_iter().filter_map(|(field, ip)| Some((field, ip?))) {
        if let Some(what) = unusable(ip) {
            add(field, format!("{ip} is {what}"), "use the address that the other nodes reach this node by");
        } else if networks.of_address(ip).is_some() {
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
