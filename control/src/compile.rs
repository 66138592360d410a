//! Compile: the desired state and the node's facts in, one snapshot for the dataplane out. A pure function, so that the
//! same state always gives the same tables. Linear in the number of nodes and pods, because every change compiles anew.

mod direct;
mod mtu;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;
use ipnet::IpNet;
use weft_node::{NEXT_HOP_V4, NEXT_HOP_V6};
use weft_switch::ip_tunnel::mac_of;
use weft_switch::limits::Limits;
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, NO_VTEP, Neighbour, NextHop, Outer, Peers, Place, PodGuard, Port, PortRates,
    Rate, Role, Shared, Snapshot, SourcePorts, Vtep,
};
use weft_switch::types::{Generation, MacAddr, PortId};

use crate::model::{
    Bandwidth, DirectRouting, Encapsulation, Model, Network, NetworkIndex, Node, RateLimit, gateway,
};

pub use direct::direct_routes;
pub use mtu::Mtus;
use mtu::{OVERHEAD_V4, OVERHEAD_V6, checked, overhead};

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
    /// The tunnel's UDP port that it serves: the network's, once that could be had.
    pub vxlan_port: u16,
    /// Its port takes tunnel packets whose inner frame is unfinished ([`weft_switch::port::TxCaps::gso_tunnel`]).
    pub tunnel_gso: bool,
    /// The kernel sends the tunnel's packets itself: next hops are its business.
    pub kernel_resolves: bool,
    /// It brings and takes pods' packets without a tunnel too.
    pub plain: bool,
}

/// The ways to the peers, by underlay address: of thousands, in each snapshot.
pub type PeerWays = AHashMap<IpAddr, Way>;

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
    /// The MAC addresses of this node's VTEPs, by the network's name, where the desired state gives them none.
    pub vtep_macs: BTreeMap<String, MacAddr>,
    /// The interface that the tunnels run over.
    pub uplink: Uplink,
    /// The host port and the MAC address of the host's side of it.
    pub host: Option<(OpenPort, MacAddr)>,
    /// The pods' ports that are open, by pod name.
    pub ports: HashMap<String, OpenPort>,
    /// What pods are limited to by whoever is asked before the desired state, by pod name.
    pub bandwidth: HashMap<String, Bandwidth>,
    /// The ways to the peers, by underlay address.
    pub ways: Arc<PeerWays>,
    /// Subnets of peers to which the kernel has a route without the tunnel.
    pub direct: HashSet<IpNet>,
    /// The range of the tunnel's UDP source ports.
    pub source_ports: SourcePorts,
    /// Fill the outer UDP checksum in over IPv4 too.
    pub outer_checksum: bool,
    /// Take tunnel packets from unknown senders.
    pub accept_unknown: bool,
    /// Stations that were learned behind trusted ports.
    pub learned: Vec<(IpAddr, MacAddr, PortId)>,
    /// What the ways to peers carry, in bytes of outer IP packet, where that is known to be less than the uplink does.
    pub path_mtus: HashMap<IpAddr, u32>,
    /// What is limited, and how.
    pub limits: Limits,
    /// Seconds after which a learned MAC address that sends nothing is forgotten.
    pub ageing: u32,
    /// How many MAC addresses are learned behind one port at most.
    pub learn_limit: u32,
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

/// What all steps read.
struct Sources<'a> {
    model: &'a Model,
    networks: NetworkIndex,
    facts: &'a Facts,
    own: &'a Node,
}

/// Makes the tables. `model` has been validated against `facts.node`.
pub fn compile(model: &Model, facts: &Facts, generation: Generation) -> Snapshot {
    let mut tables = Snapshot {
        generation,
        vxlan_port: facts.uplink.vxlan_port,
        uplink_mac: facts.uplink.mac,
        source_ports: facts.source_ports,
        peers: Shared::new(Peers::new(facts.accept_unknown)),
        learn_limit: facts.learn_limit,
        ageing: facts.ageing,
        limits: facts.limits,
        ..Snapshot::default()
    };
    // A pod address that no node has leads nowhere, rather than to the host and back.
    let nets = model.networks.iter().flat_map(|network| network.nets());
    nets.for_each(|net| add_route(&mut tables, &net, NextHop::Unreachable));
    if let Some(own) = model.node(&facts.node) {
        let from = Sources { model, networks: NetworkIndex::new(model), facts, own };
        own_node(&mut tables, &from);
        let mut ends = Ends::default();
        make_room(&mut tables, model);
        let peers = model.nodes.iter().filter(|peer| peer.name != facts.node);
        peers.for_each(|peer| far_node(&mut tables, &mut ends, &from, peer));
        routes::add(&mut tables, &ends, &from);
    }
    learned(&mut tables, facts);
    tables
}

/// Stations behind ports that are trusted. Configured neighbours go before them.
fn learned(tables: &mut Snapshot, facts: &Facts) {
    for (address, mac, port) in &facts.learned {
        let trusted = tables.ports.get(*port).is_some_and(|port| matches!(port.role, Role::Trusted));
        if trusted && tables.in_subnet(*address) && !tables.gateway.has(*address) {
            tables.add_learned(*address, Neighbour { mac: *mac, port: *port });
        }
    }
}

fn add_route(tables: &mut Snapshot, to: &IpNet, next_hop: NextHop) {
    match to {
        IpNet::V4(net) => tables.routes4.insert(net.network(), net.prefix_len(), next_hop),
        IpNet::V6(net) => tables.routes6.insert(net.network(), net.prefix_len(), next_hop),
    }
}

fn own_node(tables: &mut Snapshot, from: &Sources<'_>) {
    let Sources { model, facts, own, .. } = from;
    let underlay = facts.uplink.mtu;
    let mtus = Mtus::new(model, underlay);
    // What a port takes may be more than the MTU that the pod was told: a peer whose IPv4 tunnel carries 20 bytes more
    // than the IPv6 one may use them, and neither a TAP nor a guest minds.
    let largest = underlay.saturating_sub(overhead(model.encapsulation, false));
    if let Some(port) = facts.uplink.port {
        let place = Place::Each;
        let uplink = match model.encapsulation {
            Encapsulation::Vxlan => {
                let tunnel_gso = facts.uplink.tunnel_gso;
                Port { role: Role::Uplink, mtu: checked(underlay), place, tunnel_gso }
            }
            Encapsulation::Udp | Encapsulation::Ipip => {
                let vni = model.networks.first().map_or(Network::DEFAULT_VNI, |network| network.vni);
                Port { role: Role::IpTunnel(vni), mtu: checked(largest), place, tunnel_gso: false }
            }
        };
        tables.ports.insert(port, uplink);
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
    if model.encapsulation == Encapsulation::Udp {
        tables.udp_proxy = gateways.subnets4.first().map(|(zero, ..)| *zero);
    }
    if let Some((port, mac)) = facts.host {
        gateways.host = Some(Neighbour { mac, port: port.id });
        let takes = checked(mtus.of_host(own).max(largest));
        tables
            .ports
            .insert(port.id, Port { role: Role::Host, mtu: takes, place: port.place, tunnel_gso: false });
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
        let takes = checked(mtus.of_pod(pod).max(largest));
        tables.ports.insert(port.id, Port { role, mtu: takes, place: port.place, tunnel_gso: false });
        tables.add_pod(port.id, pod.mac_or_derived(), &addresses);
        tables.segment.push(port.id);
        let bandwidth = facts.bandwidth.get(&pod.name).copied().unwrap_or_default().or(pod.bandwidth);
        if !bandwidth.is_unlimited() {
            tables.rates.insert(port.id, rates(bandwidth));
        }
    }

    if !model.encapsulation.is_vxlan() {
        return;
    }
    let published = [own.public_ip.map(IpAddr::V4), own.public_ipv6.map(IpAddr::V6)];
    let mut addresses: Vec<_> =
        facts.uplink.addresses.iter().copied().chain(published.into_iter().flatten()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for (index, network) in model.networks.iter().enumerate() {
        let here = addresses.iter().copied().filter_map(|address| {
            let mac = own_vtep_mac(model, own, facts, index, address)?;
            Some(LocalVtep { vni: network.vni, mac, address })
        });
        tables.local_vteps.extend(here);
    }
}

/// A pod's limits, seen from the switch.
fn rates(bandwidth: Bandwidth) -> PortRates {
    let rate = |limit: RateLimit| Rate { per_second: limit.rate, burst: limit.burst };
    PortRates { to: bandwidth.ingress.map(rate), from: bandwidth.egress.map(rate) }
}

/// The MAC address of this node's VTEP in a network, on the underlay of `address`' family: the given one, or the one that
/// was made. `None` if there is neither.
pub fn own_vtep_mac(
    model: &Model,
    own: &Node,
    facts: &Facts,
    network: usize,
    address: IpAddr,
) -> Option<MacAddr> {
    let given = own.vtep_mac_in(model, network, address.is_ipv6());
    given.or_else(|| facts.vtep_macs.get(&model.networks.get(network)?.name).copied())
}

/// The far ends that are in the tables, by network and underlay address: routes of one node to one network share theirs. They are VTEPs, or
/// hops where the tunnel's packets are in no VXLAN.
#[derive(Default)]
struct Ends(AHashMap<(usize, IpAddr), u32>);

/// For as much as the nodes bring: tables that grow on the way are filled several times.
fn make_room(tables: &mut Snapshot, model: &Model) {
    let (mut v4, mut v6) = ([0; 33], [0; 129]);
    for subnet in model.nodes.iter().flat_map(|node| &node.subnets) {
        match subnet {
            IpNet::V4(net) => v4[usize::from(net.prefix_len())] += 1,
            IpNet::V6(net) => v6[usize::from(net.prefix_len())] += 1,
        }
    }
    v4.into_iter().zip(0..).for_each(|(count, len)| tables.routes4.reserve(len, count));
    v6.into_iter().zip(0..).for_each(|(count, len)| tables.routes6.reserve(len, count));
    tables.peers.reserve_v4(model.nodes.iter().filter(|node| node.public_ip.is_some()).count());
    tables.vteps.reserve(model.nodes.len());
}

fn far_node(tables: &mut Snapshot, ends: &mut Ends, from: &Sources<'_>, peer: &Node) {
    let published = [peer.public_ip.map(IpAddr::V4), peer.public_ipv6.map(IpAddr::V6)];
    for subnet in &peer.subnets {
        let Some((_, network)) = from.networks.of(subnet) else { continue };
        let Network { vni, direct_routing, .. } = from.model.networks[network];
        // Both forms are taken from any peer: it decides for itself which one it sends.
        published.into_iter().flatten().for_each(|address| tables.peers.insert(address, vni));
        let direct = !direct_routing.is_never() && from.facts.direct.contains(subnet);
        if !from.model.encapsulation.is_vxlan() {
            let hop = far_hop(tables, ends, from, network, peer);
            let next_hop = match direct {
                true => NextHop::Direct(NO_VTEP),
                false => hop.map_or(NextHop::Unreachable, NextHop::Hop),
            };
            add_route(tables, subnet, next_hop);
            continue;
        }
        if direct_routing == DirectRouting::Always {
            let next_hop = match direct {
                true => direct::next_hop(tables, from, peer, subnet, NO_VTEP),
                false => NextHop::Unreachable,
            };
            add_route(tables, subnet, next_hop);
            continue;
        }
        let (Some(address), Some(uplink)) = (tunnel_address(peer, subnet), from.facts.uplink.port) else {
            // The kernel's own way needs no port of weft's.
            add_route(tables, subnet, if direct { NextHop::Direct(NO_VTEP) } else { NextHop::Unreachable });
            continue;
        };
        let index = *ends.0.entry((network, address)).or_insert_with(|| {
            tables.vteps.push(far_vtep(from, network, peer, address, uplink));
            tables.vteps.len() as u32 - 1
        });
        let next_hop = match direct {
            true => direct::next_hop(tables, from, peer, subnet, index),
            false => NextHop::Vtep(index),
        };
        add_route(tables, subnet, next_hop);
    }
}

/// The peer as a neighbour behind the tunnel of plain packets.
fn far_hop(
    tables: &mut Snapshot,
    ends: &mut Ends,
    from: &Sources<'_>,
    network: usize,
    peer: &Node,
) -> Option<u32> {
    let (address, port) = (peer.public_ip?, from.facts.uplink.port?);
    Some(*ends.0.entry((network, address.into())).or_insert_with(|| {
        tables.hops.push(Neighbour { mac: mac_of(address), port });
        tables.hops.len() as u32 - 1
    }))
}

fn far_vtep(from: &Sources<'_>, network: usize, peer: &Node, address: IpAddr, uplink: PortId) -> Vtep {
    let Sources { model, facts, own, .. } = from;
    let overhead = if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let way = facts.ways.get(&address);
    let underlay = way.and_then(|way| way.mtu).map_or(facts.uplink.mtu, |mtu| mtu.min(facts.uplink.mtu));
    let underlay = facts.path_mtus.get(&address).map_or(underlay, |path| underlay.min(*path));
    let far_mac = peer.vtep_mac_in(model, network, address.is_ipv6());
    let encap = way.and_then(|way| {
        let published =
            if address.is_ipv4() { own.public_ip.map(IpAddr::V4) } else { own.public_ipv6.map(IpAddr::V6) };
        let source = published.filter(|ip| facts.uplink.addresses.contains(ip)).unwrap_or(way.source);
        let outer = Outer {
            src_mac: facts.uplink.mac,
            dst_mac: way.next_hop_mac.or(facts.uplink.kernel_resolves.then_some(MacAddr::ZERO))?,
            src: source,
            dst: address,
            port: facts.uplink.vxlan_port,
        };
        let near_mac = own_vtep_mac(model, own, facts, network, address)?;
        Encap::new(&outer, model.networks[network].vni, near_mac, far_mac?)
    });
    Vtep { encap, uplink, mtu: checked(underlay.saturating_sub(overhead)), checksum: facts.outer_checksum }
}
