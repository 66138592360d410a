//! What can be wrong with pods: names, places, addresses, and what they are joined by.

use super::super::{Attachment, Model, NetworkIndex, Node, Pod};
use super::names::{absolute_path, interface_name, name_part, socket_path};
use super::{Entity, Findings, Part, Seen, not_a_pods};
use ahash::AHashMap;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;
use weft_types::MacAddr;

/// Something on a node that can belong to one pod only.
#[derive(PartialEq, Eq, Hash)]
enum Held<'a> {
    Interface(&'a Path, &'a str),
    Socket(&'a Path),
    Device(&'a str),
}

pub(super) fn check(model: &Model, networks: &NetworkIndex, to: &mut Findings) {
    if model.pods.is_empty() {
        return;
    }
    let mut nodes: AHashMap<&str, &Node> = AHashMap::with_capacity(model.nodes.len());
    for node in &model.nodes {
        nodes.entry(&node.name).or_insert(node);
    }
    let mut names = Seen::of(model.pods.len());
    let mut addresses: Seen<IpAddr> = Seen::of(model.pods.len());
    // Pods of one node share a segment, those of different nodes don't: a MAC address may be on two nodes.
    let mut macs: Seen<(&str, MacAddr)> = Seen::of(model.pods.len());
    let mut held: Seen<(&str, Held<'_>)> = Seen::of(model.pods.len());
    for (index, pod) in model.pods.iter().enumerate() {
        let mut add = |field: &'static str, item: Option<usize>, reason: String, remedy: String| {
            to.add(Entity::Pod(index), &pod.name, (field, item.map(Part::Item)), reason, remedy);
        };
        let other = |first: usize| &model.pods[first].name;
        if let Err(why) = pod_name(&pod.name) {
            add("name", None, why, "write \"namespace/name\", or a plain name".to_owned());
        } else if names.before(pod.name.as_str(), index).is_some() {
            let reason = "another pod has the same name".to_owned();
            add("name", None, reason, "give each pod one name of its own".to_owned());
        }
        let node = nodes.get(pod.node.as_str()).copied();
        if node.is_none() {
            let reason = format!("there is no node {:?}", pod.node);
            add("node", None, reason, "add that [[node]], or name one that is listed".to_owned());
        }
        if pod.addresses.is_empty() {
            let remedy = "give it at least one of its node's subnets".to_owned();
            add("addresses", None, "the pod has no address".to_owned(), remedy);
        }
        for (item, address) in pod.addresses.iter().enumerate() {
            if let Some((reason, remedy)) = node.and_then(|node| wrong_address(networks, node, address)) {
                add("addresses", Some(item), reason, remedy);
            } else if let Some(first) = addresses.before(address.addr(), index) {
                let reason = match first == index {
                    true => format!("{} is listed twice", address.addr()),
                    false => format!("pod {:?} has {} too", other(first), address.addr()),
                };
                add("addresses", Some(item), reason, "give each pod addresses of its own".to_owned());
            }
        }
        check_mac(model, pod, node, macs.before((&pod.node, pod.mac_or_derived()), index), &mut add);
        check_attachment(&pod.attachment, &mut add);
        let (field, thing) = holds(&pod.attachment);
        if let Some(first) = held.before((&pod.node, thing), index) {
            let reason = format!("pod {:?} on the same node has the same", other(first));
            add(field, None, reason, "one port belongs to one pod: change one of the two".to_owned());
        }
    }
}

fn pod_name(name: &str) -> Result<(), String> {
    let (first, second) = match name.split_once('/') {
        Some((namespace, name)) => (namespace, Some(name)),
        None => (name, None),
    };
    name_part(first)?;
    second.map_or(Ok(()), name_part)
}

/// Why a pod of this node can't have this address, and what to do.
fn wrong_address(networks: &NetworkIndex, node: &Node, address: &IpNet) -> Option<(String, String)> {
    let ip = address.addr();
    let Some(subnet) = node.subnet_of(ip) else {
        let listed: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        return Some((
            format!("{ip} is outside the subnets of node {:?} ({listed})", node.name),
            "use a free address of one of them".to_owned(),
        ));
    };
    if let Some(what) = not_a_pods(&subnet, ip) {
        return Some((format!("{ip} is {what}"), format!("use another address of {subnet}")));
    }
    let length = address.prefix_len();
    let network = networks.of(&subnet).map(|(net, _)| net);
    let allowed =
        [Some(subnet.prefix_len()), Some(address.max_prefix_len()), network.map(|n| n.prefix_len())];
    (!allowed.contains(&Some(length))).then(|| {
        let or_network = network.map_or_else(String::new, |net| format!(" nor of its network {net}"));
        (
            format!("{address} has neither the prefix length of its subnet {subnet}{or_network}"),
            format!("write {ip}, which means {ip}/{}", subnet.prefix_len()),
        )
    })
}

fn check_mac(
    model: &Model,
    pod: &Pod,
    node: Option<&Node>,
    before: Option<usize>,
    add: &mut dyn FnMut(&'static str, Option<usize>, String, String),
) {
    let mac = pod.mac_or_derived();
    let own = "give the pod a unicast MAC address of its own, such as 02:00:00:00:00:05, or leave mac out"
        .to_owned();
    if !mac.is_unicast() {
        let what = if mac == MacAddr::ZERO { "the zero address" } else { "a group address" };
        add("mac", None, format!("{mac} is {what}, no station can have it"), own);
    } else if let Some(first) =
        before.filter(|first| pod.mac.is_some() || model.pods[*first].name != pod.name)
    {
        // Two that are derived clash once in 2^46 pairs, and then the way out is to set one.
        let made = if pod.mac.is_none() { ", derived from the name," } else { "" };
        let reason = format!("{mac}{made} is that of pod {:?} on the same node", model.pods[first].name);
        add("mac", None, reason, own);
    } else if node.is_some_and(|n| is_vtep(n, mac)) {
        add("mac", None, format!("{mac} is the VTEP of its node"), own);
    }
}

fn is_vtep(node: &Node, mac: MacAddr) -> bool {
    let further = node.vtep_macs.values().chain(node.vtep_macs_v6.values());
    [node.vtep_mac, node.vtep_mac_v6].contains(&Some(mac)) || further.into_iter().any(|other| *other == mac)
}

fn check_attachment(
    attachment: &Attachment,
    add: &mut dyn FnMut(&'static str, Option<usize>, String, String),
) {
    match attachment {
        Attachment::Tap { netns, ifname } => {
            if let Err(why) = absolute_path(netns) {
                add("netns", None, why, "write the whole path, such as \"/run/netns/x\"".to_owned());
            }
            if let Err(why) = interface_name(ifname) {
                add("ifname", None, why, "use a name such as \"eth0\"".to_owned());
            }
        }
        Attachment::VhostUser { socket, .. } => {
            if let Err(why) = socket_path(socket) {
                let remedy = "write the whole path, such as \"/run/weft/vhost/x.sock\", of 107 bytes at most";
                add("socket", None, why, remedy.to_owned());
            }
        }
        Attachment::Dpdk { devargs } => {
            let example = "name the device first, such as \"net_memif0,role=server\"".to_owned();
            if device(devargs).is_empty() {
                add("devargs", None, "no device is named".to_owned(), example);
            } else if devargs.chars().any(|c| c.is_control() || c.is_whitespace()) {
                let reason = format!("{devargs:?} has blanks or control characters");
                add("devargs", None, reason, "separate the arguments by commas alone".to_owned());
            }
        }
    }
}

/// What of its node a port takes for itself, with the setting that says so.
fn holds(attachment: &Attachment) -> (&'static str, Held<'_>) {
    match attachment {
        Attachment::Tap { netns, ifname } => ("ifname", Held::Interface(netns, ifname)),
        Attachment::VhostUser { socket, .. } => ("socket", Held::Socket(socket)),
        Attachment::Dpdk { devargs } => ("devargs", Held::Device(device(devargs))),
    }
}

/// The device in DPDK's device arguments: what stands before the first comma.
fn device(devargs: &str) -> &str {
    devargs.split(',').next().unwrap_or_default()
}
