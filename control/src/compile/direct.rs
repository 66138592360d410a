//! Which subnets of other nodes can be reached without the tunnel.

use ipnet::IpNet;
use weft_node::DirectRoute;
use weft_switch::tables::{Link, Neighbour, NextHop, Snapshot};

use super::{PeerWays, Sources, tunnel_address};
use crate::model::{DirectRouting, Model, NetworkIndex, Node};

/// The routes that the kernel is to have, as far as the ways to the peers allow, and what is wrong with the others.
///
/// A peer is on the link if the kernel reaches it without a router. The address that counts is that of the subnet's own
/// family, since the peer is the next hop.
pub fn direct_routes(model: &Model, node: &str, ways: &PeerWays) -> (Vec<DirectRoute>, Vec<String>) {
    let (mut routes, mut problems) = (Vec::new(), Vec::new());
    if model.networks.iter().all(|network| network.direct_routing.is_never()) {
        return (routes, problems);
    }
    let networks = NetworkIndex::new(model);
    for peer in model.nodes.iter().filter(|peer| peer.name != node) {
        for subnet in &peer.subnets {
            let Some((_, network)) = networks.of(subnet) else { continue };
            let routing = model.networks[network].direct_routing;
            if routing.is_never() {
                continue;
            }
            let address = tunnel_address(peer, subnet).filter(|ip| ip.is_ipv4() == subnet.addr().is_ipv4());
            let problem = match address.map(|address| (address, ways.get(&address))) {
                Some((address, Some(way))) if way.next_hop == address => {
                    routes.push(DirectRoute { subnet: *subnet, via: address });
                    continue;
                }
                Some((address, Some(way))) => format!("{address} is behind the router {}", way.next_hop),
                // What is wrong with the way is told already.
                Some((_, None)) => continue,
                None => "the node has no underlay address of that family".to_owned(),
            };
            if routing == DirectRouting::Always {
                problems.push(format!(
                    "node {}: its pods {subnet} are not reached: direct_routing is \"always\", and {problem}",
                    peer.name
                ));
            }
        }
    }
    (routes, problems)
}

/// Where packets to such a subnet go: to the kernel, which has a route, or where the uplink takes them as they are, out by it. Both
/// directions go the same way, or a kernel that follows connections would see half of each.
pub(super) fn next_hop(
    tables: &mut Snapshot,
    from: &Sources<'_>,
    peer: &Node,
    subnet: &IpNet,
    vtep: u32,
) -> NextHop {
    let uplink = &from.facts.uplink;
    let on_link = || {
        let port = uplink.port.filter(|_| uplink.plain)?;
        let mac = from.facts.ways.get(&tunnel_address(peer, subnet)?)?.next_hop_mac?;
        Some(Neighbour { mac, port })
    };
    let Some(to) = on_link() else { return NextHop::Direct(vtep) };
    tables.links.push(Link { to, vtep });
    NextHop::OnLink(tables.links.len() as u32 - 1)
}
