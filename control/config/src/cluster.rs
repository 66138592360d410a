//! The embedded default source: one TOML file that says everything. `docs/examples/cluster.toml` shows every
//! setting.
//!
//! ```toml
//! [network]                      # or [[network]] several times, each further one with a name and a VNI of its own
//! name = "default"
//! ipv4 = "10.244.0.0/16"         # the cluster's pod addresses; ipv4, ipv6 or both
//! ipv6 = "fd00:10:244::/56"
//! vni = 1                        # 0 to 16777215, default 1
//! port = 8472                    # UDP, 1 to 65535, default 8472; 8285 with encapsulation = "udp"
//! encapsulation = "vxlan"        # or "udp", "ipip": flannel's backends of these names
//! mtu = 1450                     # bytes inside pods, 576 (ipv6: 1280) to 65535; default: see the model
//! direct_routing = "never"       # or "on-link", "always": nodes whose pods are reached without the tunnel
//!
//! [[node]]
//! name = "worker-1"
//! subnets = ["10.244.1.0/24", "fd00:10:244:1::/64"]
//! public_ip = "192.0.2.1"
//! public_ipv6 = "2001:db8::1"
//! vtep_mac = "02:00:00:00:01:01"
//! vtep_mac_v6 = "02:00:00:00:01:02"
//! vtep_macs = { blue = "02:00:00:00:01:03" }     # in the further networks
//! vtep_macs_v6 = { blue = "02:00:00:00:01:04" }
//!
//! [[pod]]
//! name = "default/web"
//! node = "worker-1"
//! addresses = ["10.244.1.5", "fd00:10:244:1::5"] # with the subnet's mask; or "10.244.1.5/16", the network's
//! mac = "02:00:00:00:05:01"      # default: derived from the name
//! trusted = false                # true: it may send from any address
//! ingress_rate = "100M"          # what it receives, in bits a second; ingress_burst in bits
//! egress_rate = "1G"             # what it sends; egress_burst
//! kind = "tap"                   # with netns, ifname ("eth0")
//! netns = "/run/netns/web"       # or "vhost-user" with socket, mode; or "dpdk" with devargs
//!
//! [[route]]
//! to = "192.0.2.0/24"
//! via = ["10.244.1.5"]           # pods; or kind = "blackhole", "unreachable", "prohibit"
//! node = "worker-1"              # default: all nodes
//! ```

pub(crate) mod table;

use crate::model::{
    Attachment, Bandwidth, DEFAULT_IFNAME, DirectRouting, Encapsulation, Entity, Model, Network, Node, Pod,
    RateLimit, Route, Target, VhostMode, validate, validate_for_all,
};
use crate::settings::{self, FileError, Places, Reader, Section};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use weft_types::{BitRate, Mtu, Vni};

/// Reads and checks the file, as the node named `local_node` sees it.
///
/// # Errors
/// The file can't be read, or anything in it is wrong: then all mistakes are listed, each with its line, and
/// nothing of the file is used.
pub fn load(path: &Path, local_node: &str) -> Result<Model, FileError> {
    parse(path, settings::read(path)?, local_node)
}

fn parse(path: &Path, text: String, local_node: &str) -> Result<Model, FileError> {
    parse_as(path, text, Some(local_node))
}

/// Reads and checks a text as the node of that name sees it, or else as one that all nodes have; `path` is for the
/// messages.
pub(crate) fn parse_as(path: &Path, text: String, local_node: Option<&str>) -> Result<Model, FileError> {
    let reader = Reader::new(path, text)?;
    let root = reader.root();
    root.require("network", "add [network] with ipv4, ipv6 or both, such as ipv4 = \"10.244.0.0/16\"");
    let (networks, tunnels, network_places) = read_networks(root.one_or_more("network"));
    let (nodes, node_places): (Vec<_>, Vec<_>) = root.tables("node").into_iter().map(read_node).unzip();
    let (pods, pod_places): (Vec<_>, Vec<_>) = root.tables("pod").into_iter().map(read_pod).unzip();
    let (routes, route_places): (Vec<_>, Vec<_>) = root.tables("route").into_iter().map(read_route).unzip();
    let places = root.done();
    // What could not be read has left a gap that would make other things look wrong: so first things first.
    reader.verdict()?;
    let pods = complete(&nodes, pods);
    let Tunnels { port, encapsulation } = tunnels;
    let routes = routes.into_iter().flatten().collect();
    let model = Model { networks, port, encapsulation, nodes, pods, routes };
    let verdict = match local_node {
        Some(node) => validate(&model, node),
        None => validate_for_all(&model),
    };
    for invalid in verdict.err().unwrap_or_default() {
        let owner = match invalid.entity {
            Entity::Cluster => None,
            Entity::Network(index) => network_places.get(index),
            Entity::Node(index) => node_places.get(index),
            Entity::Pod(index) => pod_places.get(index),
            Entity::Route(index) => route_places.get(index),
        };
        let owner = owner.unwrap_or(&places);
        let at = owner.of(invalid.field, invalid.part.as_ref());
        reader.report(at, owner.name(&invalid.setting()), invalid.reason, invalid.remedy);
    }
    reader.verdict()?;
    Ok(model)
}

const DIRECT_ROUTING: [(&str, DirectRouting); 3] =
    [("never", DirectRouting::Never), ("on-link", DirectRouting::OnLink), ("always", DirectRouting::Always)];

const ENCAPSULATION: [(&str, Encapsulation); 3] =
    [("vxlan", Encapsulation::Vxlan), ("udp", Encapsulation::Udp), ("ipip", Encapsulation::Ipip)];

/// What the tunnels of all networks have in common.
struct Tunnels {
    port: u16,
    encapsulation: Encapsulation,
}

/// The networks, and what they have in common.
fn read_networks(sections: Vec<Section<'_>>) -> (Vec<Network>, Tunnels, Vec<Places>) {
    let mut networks = Vec::new();
    let mut places = Vec::new();
    let mut port: Option<u16> = None;
    let mut encapsulation: Option<Encapsulation> = None;
    for section in sections {
        if !networks.is_empty() {
            section
                .require("name", "only the first network needs none: give this one a name, such as \"blue\"");
            section.require("vni", "give it a VNI that no other network has, such as vni = 2");
        }
        let name = section.text("name", "a short name, such as \"blue\"");
        let vni = section.integer("vni", 0..=0xff_ffff).and_then(|n| Vni::new(n as u32).ok());
        networks.push(Network {
            name: name.map_or(Network::DEFAULT_NAME, |found| found.value).to_owned(),
            ipv4: section.parsed("ipv4", "an IPv4 network, such as \"10.244.0.0/16\""),
            ipv6: section.parsed("ipv6", "an IPv6 network, such as \"fd00:10:244::/56\""),
            vni: vni.unwrap_or(Network::DEFAULT_VNI),
            mtu: section.integer("mtu", 576..=65535).and_then(|n| Mtu::new(n as u32).ok()),
            direct_routing: section.choice("direct_routing", &DIRECT_ROUTING).unwrap_or_default(),
        });
        if let Some(given) = section.integer("port", 1..=65535).map(|n| n as u16) {
            match port {
                Some(first) if first != given => section.wrong(
                    "port",
                    format!("{given} is given, but an earlier network has {first}"),
                    "all networks have the same UDP port: give it once",
                ),
                _ => port = Some(given),
            }
        }
        if let Some(given) = section.choice("encapsulation", &ENCAPSULATION) {
            match encapsulation {
                Some(first) if first != given => section.wrong(
                    "encapsulation",
                    format!("{:?} is given, but an earlier network has {:?}", given.as_str(), first.as_str()),
                    "all networks have the same encapsulation: give it once",
                ),
                _ => encapsulation = Some(given),
            }
        }
        places.push(section.done());
    }
    let encapsulation = encapsulation.unwrap_or_default();
    let port = port.unwrap_or(match encapsulation {
        Encapsulation::Udp => Model::DEFAULT_UDP_PORT,
        Encapsulation::Vxlan | Encapsulation::Ipip => Model::DEFAULT_PORT,
    });
    (networks, Tunnels { port, encapsulation }, places)
}

fn read_node(section: Section<'_>) -> (Node, Places) {
    const MAC: &str = "a MAC address, such as \"02:00:00:00:01:01\"";
    const MAC_VALUE: &str = "\"02:00:00:00:01:01\"";
    section.require("name", "give the node's name, such as name = \"worker-1\"");
    section.require("subnets", "give the node's pod subnets, such as subnets = [\"10.244.1.0/24\"]");
    let node = Node {
        name: text(&section, "name", "the node's name, such as \"worker-1\""),
        subnets: section.parsed_list("subnets", "a list such as [\"10.244.1.0/24\"]").unwrap_or_default(),
        public_ip: section.parsed("public_ip", "an IPv4 address, such as \"192.0.2.1\""),
        public_ipv6: section.parsed("public_ipv6", "an IPv6 address, such as \"2001:db8::1\""),
        vtep_mac: section.parsed("vtep_mac", MAC),
        vtep_mac_v6: section.parsed("vtep_mac_v6", MAC),
        vtep_macs: section.parsed_map("vtep_macs", MAC_VALUE).unwrap_or_default(),
        vtep_macs_v6: section.parsed_map("vtep_macs_v6", MAC_VALUE).unwrap_or_default(),
    };
    (node, section.done())
}

/// What `kind` says.
#[derive(Clone, Copy)]
enum Kind {
    Tap,
    VhostUser,
    Dpdk,
}

/// A pod with the addresses as they are written.
type WrittenPod = (Pod, Vec<Address>);

fn read_pod(section: Section<'_>) -> (WrittenPod, Places) {
    section.require("name", "give the pod's name, such as name = \"default/web\"");
    section.require("node", "say where it lives, such as node = \"worker-1\"");
    section.require("addresses", "give its addresses, such as addresses = [\"10.244.1.5\"]");
    section.require("kind", "write \"tap\", \"vhost-user\" or \"dpdk\"");
    let name = text(&section, "name", "the pod's name, such as \"default/web\"");
    let node = text(&section, "node", "the name of a node");
    let addresses = section.parsed_list("addresses", "a list such as [\"10.244.1.5\"]").unwrap_or_default();
    let mac = section.parsed("mac", "a MAC address, such as \"02:00:00:00:05:01\"");
    let trusted = section.boolean("trusted").unwrap_or_default();
    let bandwidth = Bandwidth {
        ingress: read_limit(&section, "ingress_rate", "ingress_burst"),
        egress: read_limit(&section, "egress_rate", "egress_burst"),
    };
    let kinds = [("tap", Kind::Tap), ("vhost-user", Kind::VhostUser), ("dpdk", Kind::Dpdk)];
    let attachment = match section.choice("kind", &kinds) {
        Some(Kind::Tap) => {
            section
                .require("netns", "a tap needs it: write the namespace's file, such as \"/run/netns/web\"");
            let netns = text(&section, "netns", "the namespace's file, such as \"/run/netns/web\"").into();
            let ifname =
                section.text("ifname", "a name such as \"eth0\"").map_or(DEFAULT_IFNAME, |f| f.value);
            Attachment::Tap { netns, ifname: ifname.to_owned() }
        }
        Some(Kind::VhostUser) => {
            section.require(
                "socket",
                "vhost-user needs it: write the socket, such as \"/run/weft/vhost/web.sock\"",
            );
            let socket = text(&section, "socket", "the socket, such as \"/run/weft/vhost/web.sock\"").into();
            let modes = [("client", VhostMode::Client), ("server", VhostMode::Server)];
            Attachment::VhostUser { socket, mode: section.choice("mode", &modes).unwrap_or_default() }
        }
        Some(Kind::Dpdk) => {
            section.require("devargs", "dpdk needs it: write the device, such as \"net_memif0,role=server\"");
            let devargs = text(&section, "devargs", "the device, such as \"net_memif0,role=server\"");
            Attachment::Dpdk { devargs }
        }
        None => {
            // The kind is reported already; what belongs to any kind is not to be called unknown on top of
            // it.
            section.ask_nothing_of(&["netns", "ifname", "socket", "mode", "devargs"]);
            Attachment::Dpdk { devargs: String::new() }
        }
    };
    let (mtu, routes) = (None, None);
    let pod = Pod { name, node, attachment, addresses: Vec::new(), mac, trusted, mtu, routes, bandwidth };
    ((pod, addresses), section.done())
}

/// A limit of a pod's rate.
fn read_limit(section: &Section<'_>, rate: &'static str, burst: &'static str) -> Option<RateLimit> {
    let limit = section.parsed::<BitRate>(rate, "bits a second, such as \"100M\"");
    let at_once = section.integer(burst, 1..=i64::MAX).map(|bits| bits as u64);
    if at_once.is_some() && !section.has(rate) {
        section.wrong(burst, "there is no rate that it belongs to", format!("give {rate} too, or remove it"));
    }
    Some(RateLimit { rate: limit?, burst: at_once })
}

/// A route; none if it does not say where it leads.
fn read_route(section: Section<'_>) -> (Option<Route>, Places) {
    section.require("to", "give the destinations, such as to = \"192.0.2.0/24\"");
    let to = section.parsed("to", "a network, such as \"192.0.2.0/24\"");
    let via = section.parsed_list("via", "a list of pods' addresses, such as [\"10.244.1.9\"]");
    let kinds = [
        ("unreachable", Target::Unreachable),
        ("prohibit", Target::Prohibit),
        ("blackhole", Target::Blackhole),
    ];
    let kind = section.choice("kind", &kinds);
    let node = section.text("node", "the name of a node").map(|found| found.value.to_owned());
    match (section.has("via"), section.has("kind")) {
        (true, true) => {
            section.wrong("kind", "via is given as well", "a route has one of the two: remove the other")
        }
        (false, false) => {
            section
                .require("via", "say where it leads, such as via = [\"10.244.1.9\"] or kind = \"blackhole\"");
        }
        _ => {}
    }
    let target = kind.or(via.map(Target::Via));
    let route = to.zip(target).map(|(to, target)| Route { to, target, node });
    (route, section.done())
}

fn text(section: &Section<'_>, name: &'static str, wanted: &str) -> String {
    section.text(name, wanted).map(|found| found.value.to_owned()).unwrap_or_default()
}

/// An address with or without a prefix length.
struct Address(IpAddr, Option<u8>);

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.contains('/') {
            true => text.parse().ok().map(|net: IpNet| Self(net.addr(), Some(net.prefix_len()))),
            false => text.parse().ok().map(|ip| Self(ip, None)),
        };
        parsed.ok_or_else(|| format!("{text:?} is no IP address"))
    }
}

/// Gives each address its prefix length: as written, or that of the node's subnet it is in.
fn complete(nodes: &[Node], pods: Vec<WrittenPod>) -> Vec<Pod> {
    let by_name: HashMap<&str, &Node> = nodes.iter().map(|n| (n.name.as_str(), n)).collect();
    let complete_one = |(mut pod, written): WrittenPod| {
        let node = by_name.get(pod.node.as_str());
        pod.addresses = written
            .into_iter()
            .map(|Address(ip, length)| {
                let subnet = || node.and_then(|n| n.subnet_of(ip)).map(|s| s.prefix_len());
                // An address outside of all subnets is found by the validation.
                length.or_else(subnet).and_then(|l| IpNet::new(ip, l).ok()).unwrap_or_else(|| IpNet::from(ip))
            })
            .collect();
        pod
    };
    pods.into_iter().map(complete_one).collect()
}

#[cfg(test)]
mod tests;
