//! What can be wrong with routes.

use super::super::{DirectRouting, Model, NetworkIndex, Route, Target};
use super::subnets::Subnets;
use super::{Entity, Findings, Part, Seen, not_a_pods, unusable};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;

/// How many pods a route can lead through: more than that no hash shares evenly.
const VIA_MAX: usize = 64;

pub(super) fn check(model: &Model, networks: &NetworkIndex, subnets: &Subnets, to: &mut Findings) {
    let nodes: HashSet<&str> = model.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut seen: Seen<(IpNet, Option<&str>)> = Seen::of(model.routes.len());
    for (index, route) in model.routes.iter().enumerate() {
        let name = route.to.to_string();
        let mut add = |field: &'static str, item: Option<usize>, reason: String, remedy: String| {
            to.add(Entity::Route(index), &name, (field, item.map(Part::Item)), reason, remedy);
        };
        if let Some((reason, remedy)) = wrong_destination(model, subnets, route.to) {
            add("to", None, reason, remedy);
        } else if seen.before((route.to, route.node.as_deref()), index).is_some() {
            let whose = route.node.as_ref().map_or("all nodes".to_owned(), |node| format!("node {node:?}"));
            let reason = format!("there is a route to {} for {whose} already", route.to);
            add("to", None, reason, "write one route; several addresses in its via cost the same".to_owned());
        }
        if let Some(node) = route.node.as_deref().filter(|node| !nodes.contains(node)) {
            let remedy = "name one that is listed, or leave node out for all".to_owned();
            add("node", None, format!("there is no node {node:?}"), remedy);
        }
        check_via(subnets, route, &mut add);
        check_direct(model, networks, subnets, route, &mut add);
    }
}

/// Why there can't be a route to these destinations, and what to do.
fn wrong_destination(model: &Model, subnets: &Subnets, to: IpNet) -> Option<(String, String)> {
    if to.trunc() != to {
        return Some((format!("{to} has bits set after the prefix"), format!("write {}", to.trunc())));
    }
    // A default route begins at the unspecified address and is none.
    let whole = to.addr().is_unspecified() && to.prefix_len() < to.max_prefix_len();
    let what = unusable(to.addr()).filter(|_| !whole);
    let link_local = matches!(to.addr(), IpAddr::V4(a) if a.is_link_local()).then_some("link-local");
    if let Some(what) = what.or(link_local) {
        return Some((format!("{to} is {what}, routers don't forward there"), "remove the route".to_owned()));
    }
    let (subnet, node) = subnets.holding(&to)?;
    let node = &model.nodes[node].name;
    let reason = if subnet == to {
        format!("{to} is a subnet of node {node:?}")
    } else {
        format!("{to} is a part of {subnet}, a subnet of node {node:?}")
    };
    Some((
        reason,
        "the way to pods is known without it: remove the route, or choose other destinations".to_owned(),
    ))
}

fn check_via(
    subnets: &Subnets,
    route: &Route,
    add: &mut dyn FnMut(&'static str, Option<usize>, String, String),
) {
    let Target::Via(via) = &route.target else { return };
    let example = || "name the address of a pod that routes on, such as via = [\"10.244.1.9\"]".to_owned();
    if via.is_empty() {
        add("via", None, "no address is listed".to_owned(), example());
    }
    if via.len() > VIA_MAX {
        let reason = format!("{} addresses are listed, more than {VIA_MAX}", via.len());
        add("via", None, reason, "list fewer".to_owned());
    }
    let mut listed = HashSet::new();
    for (item, address) in via.iter().copied().enumerate() {
        let item = Some(item);
        if address.is_ipv4() != route.to.addr().is_ipv4() {
            let reason = format!("{address} is of another address family than {}", route.to);
            add("via", item, reason, "name the pod's address of the same family".to_owned());
        } else if !listed.insert(address) {
            add("via", item, format!("{address} is listed twice"), "list each once".to_owned());
        } else if let Some((subnet, _)) = subnets.holding(&address.into()) {
            if let Some(what) = not_a_pods(&subnet, address) {
                add("via", item, format!("{address} is {what}, not a pod's address"), example());
            }
        } else {
            add("via", item, format!("{address} is in no node's subnet, so no pod has it"), example());
        }
    }
}

/// Without a tunnel a packet reaches another node only by its own destination, so a route leads through pods of the nodes that
/// have it.
fn check_direct(
    model: &Model,
    networks: &NetworkIndex,
    subnets: &Subnets,
    route: &Route,
    add: &mut dyn FnMut(&'static str, Option<usize>, String, String),
) {
    let Target::Via(via) = &route.target else { return };
    for (item, address) in via.iter().copied().enumerate() {
        let Some((subnet, owner)) = subnets.holding(&address.into()) else { continue };
        let Some((_, network)) = networks.of(&subnet) else { continue };
        let (network, owner) = (&model.networks[network], &model.nodes[owner].name);
        let alone = model.nodes.len() == 1 || route.node.as_ref() == Some(owner);
        if network.direct_routing == DirectRouting::Always && !alone {
            let reason = format!(
                "{address} is a pod of node {owner:?}, and network {:?} has no tunnel that leads other nodes through it \
                 (direct_routing = \"always\")",
                network.name
            );
            let remedy = format!("write node = {owner:?} to the route, or set direct_routing to \"on-link\"");
            add("via", Some(item), reason, remedy);
        }
    }
}
