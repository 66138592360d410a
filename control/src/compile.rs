//! Compile: the desired state and the node's facts in, one snapshot for the dataplane out. A pure function, so that the
//! same state always gives the same tables.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_node::{NEXT_HOP_V4, NEXT_HOP_V6};
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, Neighbour, NextHop, Outer, Peers, Place, PodGuard, Port, Role, Snapshot,
    SourcePorts, Vtep,
};
use weft_switch::types::{Generation, MacAddr, Mtu, PortId};

use crate::model::{Model, Node, gateway};

/// Bytes of outer headers over an IPv4 underlay: inner Ethernet, VXLAN, UDP, IPv4.
const OVERHEAD_V4: u32 = 50;
/// As [`OVERHEAD_V4`], over an IPv6 underlay.
const OVERHEAD_V6: u32 = 70;

/// The way over the underlay to one peer, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// The next hop: a router, or the peer itself.
    pub next_hop: IpAddr,
    /// Its MAC address, once the kernel has resolved it.
    pub next_hop_mac: Option<MacAddr>,
    /// The route's MTU, where it has one of its own.
    pub mtu: Option<u32>,
}

/// The interface that the tunnels run over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its port; `None` while the interface is gone.
    pub port: Option<PortId>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A port of this node that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPort {
    /// Its number.
    pub id: PortId,
    /// The worker that owns its queues.
    pub place: Place,
}

/// What compiling needs to know of this node beside the desired state.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This node's name.
    pub node: String,
    /// The MAC address of this node's VTEP, where the desired state gives it none.
    pub vtep_mac: MacAddr,
    /// The interface that the tunnels run over.
    pub uplink: Uplink,
    /// The host port and the MAC address of the host's side of it.
    pub host: Option<(OpenPort, MacAddr)>,
    /// The pods' ports that are open, by pod name.
    pub ports: HashMap<String, OpenPort>,
    /// The ways to the peers, by underlay address.
    pub ways: HashMap<IpAddr, Way>,
    /// The range of the tunnel's UDP source ports.
    pub source_ports: SourcePorts,
    /// Fill the outer UDP checksum in over IPv4 too.
    pub outer_checksum: bool,
    /// Take tunnel packets from unknown senders.
    pub accept_unknown: bool,
}

/// The MTU inside pods, in bytes: the configured one, or what the underlay leaves after the outer headers.
pub fn pod_mtu(model: &Model, uplink_mtu: u32) -> u32 {
    let over_v6 = model.network.ipv6.is_some() && model.nodes.iter().any(|node| node.public_ipv6.is_some());
    let overhead = if over_v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
    model.network.mtu.map_or(uplink_mtu.saturating_sub(overhead), |mtu| mtu.get() as u32)
}

/// The underlay address that traffic to a subnet of `node` is tunnelled to: of the subnet's own family as flannel has
/// it, with IPv6 in the IPv4 tunnel where the node has no IPv6 underlay.
pub fn tunnel_address(node: &Node, subnet: &IpNet) -> Option<IpAddr> {
    let (v4, v6) = (node.public_ip.map(IpAddr::V4), node.public_ipv6.map(IpAddr::V6));
    match subnet {
        IpNet::V4(_) => v4.or(v6),
        IpNet::V6(_) => v6.or(v4),
    }
}

/// Every underlay address that this node must be able to reach.
pub fn peer_addresses(model: &Model, node: &str) -> Vec<IpAddr> {
    let peers = model.nodes.iter().filter(|peer| peer.name != node);
    let mut addresses: Vec<_> = peers
        .flat_map(|peer| peer.subnets.iter().filter_map(|subnet| tunnel_address(peer, subnet)))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The MAC address of the gateway that weft is: made from the gateway's first address, so that it is the same after every
/// restart and pods' neighbour caches stay right.
pub fn gateway_mac(node: &Node) -> MacAddr {
    let addresses: Vec<_> = node.subnets.iter().filter_map(gateway).collect();
    let v4 = addresses.iter().find_map(|a| if let IpAddr::V4(v4) = a { Some(v4.octets()) } else { None });
    let tail = v4.unwrap_or_else(|| match addresses.first() {
        Some(IpAddr::V6(v6)) => {
            let bits = v6.to_bits();
            ((bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32).to_be_bytes()
        }
        _ => [0; 4],
    });
    MacAddr([0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]])
}

/// Makes the tables. `model` has been validated against `facts.node`.
pub fn compile(model: &Model, facts: &Facts, generation: Generation) -> Snapshot {
    let mut tables = Snapshot {
        generation,
        vxlan_port: model.network.port,
        source_ports: facts.source_ports,
        peers: Peers::new(facts.accept_unknown),
        ..Snapshot::default()
    };
    networks(&mut tables, model);
    if let Some(own) = model.node(&facts.node) {
        own_node(&mut tables, model, facts, own);
        let peers = model.nodes.iter().filter(|peer| peer.name != facts.node);
        peers.for_each(|peer| far_node(&mut tables, model, facts, own, peer));
    }
    tables
}

/// A pod address that no node has leads nowhere, rather than to the host and back.
fn networks(tables: &mut Snapshot, model: &Model) {
    let networks = [model.network.ipv4.map(IpNet::V4), model.network.ipv6.map(IpNet::V6)];
    networks.into_iter().flatten().for_each(|network| add_route(tables, &network, NextHop::Unreachable));
}

fn add_route(tables: &mut Snapshot, to: &IpNet, next_hop: NextHop) {
    match to {
        IpNet::V4(net) => tables.routes4.insert(net.network(), net.prefix_len(), next_hop),
        IpNet::V6(net) => tables.routes6.insert(net.network(), net.prefix_len(), next_hop),
    }
}

fn own_node(tables: &mut Snapshot, model: &Model, facts: &Facts, own: &Node) {
    let underlay = mtu(facts.uplink.mtu);
    // What a port takes may be more than the MTU that the pod was told: a peer whose IPv4 tunnel carries 20 bytes more
    // than the IPv6 one may use them, and neither a TAP nor a guest minds.
    let largest = facts.uplink.mtu.saturating_sub(OVERHEAD_V4);
    let pods = mtu(pod_mtu(model, facts.uplink.mtu).max(largest));
    if let Some(port) = facts.uplink.port {
        tables.ports.insert(port, Port { role: Role::Uplink, mtu: underlay, place: Place::Each });
    }

    let mut gateways =
        Gateway { mac: gateway_mac(own), v4: vec![NEXT_HOP_V4], v6: vec![NEXT_HOP_V6], ..Gateway::default() };
    for subnet in &own.subnets {
        add_route(tables, subnet, NextHop::Local);
        // The subnet's first two addresses are the host's: the one it sends from to other nodes, and the gateway's.
        let zero = subnet.network();
        for address in [Some(zero), gateway(subnet)].into_iter().flatten() {
            add_route(tables, &IpNet::from(address), NextHop::Host);
            match address {
                IpAddr::V4(address) => gateways.v4.push(address),
                IpAddr::V6(address) => gateways.v6.push(address),
            }
        }
        let len = subnet.prefix_len();
        match (zero, gateway(subnet)) {
            (IpAddr::V4(net), Some(IpAddr::V4(own))) => gateways.subnets4.push((net, len, own)),
            (IpAddr::V6(net), Some(IpAddr::V6(own))) => gateways.subnets6.push((net, len, own)),
            _ => {}
        }
    }
    if let Some((port, mac)) = facts.host {
        gateways.host = Some(Neighbour { mac, port: port.id });
        tables.ports.insert(port.id, Port { role: Role::Host, mtu: pods, place: port.place });
        tables.segment.push(port.id);
    }
    tables.gateway = gateways;

    for pod in model.pods_of(&facts.node) {
        let Some(port) = facts.ports.get(&pod.name) else { continue };
        let addresses: Vec<_> = pod.addresses.iter().map(IpNet::addr).collect();
        let role = if pod.trusted {
            tables.trusted.push(port.id);
            Role::Trusted
        } else {
            Role::Pod(PodGuard::new(pod.mac_or_derived(), &addresses))
        };
        tables.ports.insert(port.id, Port { role, mtu: pods, place: port.place });
        tables.add_pod(port.id, pod.mac_or_derived(), &addresses);
        tables.segment.push(port.id);
    }

    let published = [own.public_ip.map(IpAddr::V4), own.public_ipv6.map(IpAddr::V6)];
    let mut addresses: Vec<_> =
        facts.uplink.addresses.iter().copied().chain(published.into_iter().flatten()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    tables.local_vteps = addresses
        .into_iter()
        .map(|address| LocalVtep { vni: model.network.vni, mac: own_vtep_mac(own, facts, address), address })
        .collect();
}

/// The MAC address of this node's VTEP on the underlay of `address`' family.
pub fn own_vtep_mac(own: &Node, facts: &Facts, address: IpAddr) -> MacAddr {
    let given = if address.is_ipv4() { own.vtep_mac } else { own.vtep_mac_over_v6() };
    given.unwrap_or(facts.vtep_mac)
}

fn far_node(tables: &mut Snapshot, model: &Model, facts: &Facts, own: &Node, peer: &Node) {
    let published = [peer.public_ip.map(IpAddr::V4), peer.public_ipv6.map(IpAddr::V6)];
    published.into_iter().flatten().for_each(|address| tables.peers.insert(address, model.network.vni));
    let mut ends: Vec<(IpAddr, u32)> = Vec::new();
    for subnet in &peer.subnets {
        let (Some(address), Some(uplink)) = (tunnel_address(peer, subnet), facts.uplink.port) else {
            add_route(tables, subnet, NextHop::Unreachable);
            continue;
        };
        let known = ends.iter().find(|(end, _)| *end == address).map(|(_, index)| *index);
        let index = known.unwrap_or_else(|| {
            let index = tables.vteps.len() as u32;
            tables.vteps.push(far_vtep(model, facts, own, peer, address, uplink));
            ends.push((address, index));
            index
        });
        add_route(tables, subnet, NextHop::Vtep(index));
    }
}

fn far_vtep(model: &Model, facts: &Facts, own: &Node, peer: &Node, address: IpAddr, uplink: PortId) -> Vtep {
    let overhead = if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let way = facts.ways.get(&address);
    let underlay = way.and_then(|way| way.mtu).map_or(facts.uplink.mtu, |mtu| mtu.min(facts.uplink.mtu));
    let far_mac = if address.is_ipv4() { peer.vtep_mac } else { peer.vtep_mac_over_v6() };
    let encap = way.and_then(|way| {
        let published =
            if address.is_ipv4() { own.public_ip.map(IpAddr::V4) } else { own.public_ipv6.map(IpAddr::V6) };
        let source = published.filter(|ip| facts.uplink.addresses.contains(ip)).unwrap_or(way.source);
        let outer = Outer {
            src_mac: facts.uplink.mac,
            dst_mac: way.next_hop_mac?,
            src: source,
            dst: address,
            port: model.network.port,
        };
        Encap::new(&outer, model.network.vni, own_vtep_mac(own, facts, address), far_mac?)
    });
    Vtep { encap, uplink, mtu: mtu(underlay.saturating_sub(overhead)), checksum: facts.outer_checksum }
}

/// A link's MTU as the tables hold it: one out of range counts as the nearest in range.
fn mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes.min(65535)).unwrap_or(Mtu::SMALLEST)
}
