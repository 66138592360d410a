//! The router's tables: the ends of the tunnels, and the routes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_api::{LocalVtep, Mac, Route, RouteKind, Routes, Vtep, Vteps};
use weft_switch::drop_reason::DropReason;
use weft_switch::ip_tunnel::address_of;
use weft_switch::tables::{self, NO_VTEP, NextHop, Role, Snapshot};
use weft_switch::types::{MacAddr, PortId, Vni};

use crate::compile::tunnel_address;
use crate::daemon::Daemon;
use crate::model::{DirectRouting, Model, Network, NetworkIndex, Node};

/// The far end of a tunnel, and whose it is.
struct FarEnd<'a> {
    /// In the snapshot in force.
    index: Option<u32>,
    node: &'a Node,
    network: &'a Network,
    /// The VTEP's MAC address in that network.
    mac: Option<MacAddr>,
    address: IpAddr,
}

/// What makes a next hop readable.
struct Legend<'a> {
    model: &'a Model,
    networks: NetworkIndex,
    /// The nodes, by their subnets.
    owners: HashMap<IpNet, &'a Node>,
    tables: &'a Snapshot,
    far: HashMap<u32, FarEnd<'a>>,
    names: HashMap<PortId, String>,
    uplink: String,
}

impl Daemon {
    /// The name of the network of a VNI.
    fn network_named(&self, vni: Vni) -> &str {
        self.model.networks.iter().find(|network| network.vni == vni).map_or("", |network| &network.name)
    }

    fn far_ends(&self) -> Vec<FarEnd<'_>> {
        let tables = self.dataplane.snapshot();
        let networks = NetworkIndex::new(&self.model);
        let mut ends: Vec<FarEnd<'_>> = Vec::new();
        if !self.model.encapsulation.is_vxlan() {
            return ends;
        }
        for node in self.model.nodes.iter().filter(|node| node.name != self.node) {
            let first = ends.len();
            for subnet in &node.subnets {
                let Some(address) = tunnel_address(node, subnet) else { continue };
                let Some((_, index)) = networks.of(subnet) else { continue };
                let network = &self.model.networks[index];
                if network.direct_routing == DirectRouting::Always {
                    continue;
                }
                let mac = node.vtep_mac_in(&self.model, index, address.is_ipv6());
                // A node has a handful of ends: no need for a map.
                if ends[first..].iter().any(|end| end.address == address && end.network.vni == network.vni) {
                    continue;
                }
                let index = match route_exactly(tables, subnet) {
                    Some(NextHop::Vtep(index) | NextHop::Direct(index)) => Some(index),
                    Some(NextHop::OnLink(link)) => tables.links.get(link as usize).map(|link| link.vtep),
                    _ => None,
                };
                ends.push(FarEnd { index, node, network, mac, address });
            }
        }
        ends
    }

    /// The node that the VTEP of each index is of.
    pub(in crate::daemon) fn nodes_by_vtep(&self) -> HashMap<u32, String> {
        let ends = self.far_ends().into_iter();
        ends.filter_map(|end| Some((end.index?, end.node.name.clone()))).collect()
    }

    /// The ends of the tunnels; of the far ones only those of the node called `node`, if one is given.
    pub(in crate::daemon) fn list_vteps(&self, node: Option<&str>) -> Vteps {
        let tables = self.dataplane.snapshot();
        let wanted = self.far_ends().into_iter().filter(|end| node.is_none_or(|node| end.node.name == node));
        let vteps = wanted.map(|end| {
            let way = self.ways.by_peer.get(&end.address);
            let compiled = end.index.and_then(|index| tables.vteps.get(index as usize));
            Vtep {
                index: end.index,
                node: end.node.name.clone(),
                network: end.network.name.clone(),
                vni: end.network.vni.get(),
                address: end.address,
                mac: end.mac.map(|mac| Mac(mac.0)),
                next_hop: way.map(|way| way.next_hop),
                next_hop_mac: way.and_then(|way| way.next_hop_mac).map(|mac| Mac(mac.0)),
                source: way.map(|way| way.source),
                mtu: compiled.map(|vtep| vtep.mtu.get() as u32),
                path_mtu: self.path_mtu(end.address),
                resolved: compiled.is_some_and(|vtep| vtep.encap.is_some()),
            }
        });
        let vteps = vteps.collect();
        // The uplink's link-local addresses are in the table too, but no node has its peers there.
        let usable = |address: IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        };
        let local = tables.local_vteps.iter().filter(|own| usable(own.address)).map(|own| LocalVtep {
            network: self.network_named(own.vni).to_owned(),
            vni: own.vni.get(),
            address: own.address,
            mac: Mac(own.mac.0),
        });
        Vteps { vteps, local: local.collect() }
    }

    /// All routes, or the one that a packet to `address` takes.
    pub(in crate::daemon) fn list_routes(&self, address: Option<IpAddr>) -> Routes {
        let tables = self.dataplane.snapshot();
        let legend = Legend {
            model: &self.model,
            networks: NetworkIndex::new(&self.model),
            owners: self
                .model
                .nodes
                .iter()
                .flat_map(|node| node.subnets.iter().map(move |subnet| (*subnet, node)))
                .collect(),
            tables,
            far: self.far_ends().into_iter().filter_map(|end| Some((end.index?, end))).collect(),
            names: self.port_names(),
            uplink: self.mirror.uplink().name,
        };
        let Some(address) = address else {
            let mut routes: Vec<_> = all_routes(tables);
            routes.sort_unstable_by_key(|(to, _)| (to.addr().is_ipv6(), to.network(), to.prefix_len()));
            return Routes {
                routes: routes.iter().map(|(to, next_hop)| legend.route(*to, *next_hop)).collect(),
            };
        };
        let taken = longest(tables, address).filter(|_| is_routed(address));
        let route = taken.map(|(to, next_hop)| {
            let mut route = legend.route(to, next_hop);
            if next_hop == NextHop::Local {
                let there = tables.neighbour(address);
                route.port = there.and_then(|there| legend.names.get(&there.port).cloned());
                route.mtu = there.and_then(|there| legend.mtu_of(there.port));
                // Behind a trusted port may be somebody who can be asked for.
                let nobody = there.is_none() && tables.trusted.is_empty() && !tables.gateway.has(address);
                route.dropped = nobody.then(|| DropReason::NoPod.name().to_owned());
            }
            route
        });
        Routes { routes: route.into_iter().collect() }
    }
}

impl Legend<'_> {
    fn route(&self, to: IpNet, next_hop: NextHop) -> Route {
        let blank = Route {
            to,
            kind: RouteKind::Local,
            via: Vec::new(),
            node: None,
            network: None,
            port: None,
            mtu: None,
            dropped: None,
        };
        match next_hop {
            NextHop::Local => blank,
            NextHop::Host => {
                let host = self.tables.gateway.host;
                let port = host.and_then(|host| self.names.get(&host.port).cloned());
                Route {
                    kind: RouteKind::Host,
                    port,
                    mtu: host.and_then(|host| self.mtu_of(host.port)),
                    ..blank
                }
            }
            NextHop::Vtep(index) => {
                let far = self.far.get(&index);
                let mtu = self.tables.vteps.get(index as usize).map(|vtep| vtep.mtu.get() as u32);
                Route {
                    kind: RouteKind::Vtep,
                    via: far.map(|far| far.address).into_iter().collect(),
                    node: far.map(|far| far.node.name.clone()),
                    network: far.map(|far| far.network.name.clone()),
                    port: Some(self.uplink.clone()),
                    mtu,
                    ..blank
                }
            }
            NextHop::OnLink(index) => {
                let port = self.tables.links.get(index as usize).map(|link| link.to.port);
                Route {
                    port: Some(self.uplink.clone()),
                    mtu: port.and_then(|port| self.mtu_of(port)),
                    ..self.route(to, NextHop::Direct(NO_VTEP))
                }
            }
            NextHop::Direct(_) => {
                let (node, network) = (self.owners.get(&to), self.networks.of(&to));
                Route {
                    kind: RouteKind::Direct,
                    via: node.and_then(|node| tunnel_address(node, &to)).into_iter().collect(),
                    node: node.map(|node| node.name.clone()),
                    network: network.map(|(_, index)| self.model.networks[index].name.clone()),
                    ..self.route(to, NextHop::Host)
                }
            }
            NextHop::Hop(index) => {
                let hop = self.tables.hops.get(index as usize);
                let port = hop.map(|hop| hop.port);
                let role = port.and_then(|port| self.tables.ports.get(port)).map(|port| &port.role);
                if matches!(role, Some(Role::IpTunnel(_))) {
                    let (node, network) = (self.owners.get(&to), self.networks.of(&to));
                    return Route {
                        kind: RouteKind::Vtep,
                        via: hop.and_then(|hop| address_of(hop.mac)).map(IpAddr::V4).into_iter().collect(),
                        node: node.map(|node| node.name.clone()),
                        network: network.map(|(_, index)| self.model.networks[index].name.clone()),
                        port: Some(self.uplink.clone()),
                        mtu: port.and_then(|port| self.mtu_of(port)),
                        ..blank
                    };
                }
                Route {
                    kind: RouteKind::Hop,
                    via: hop.map(|hop| self.addresses_of(hop, &to)).unwrap_or_default(),
                    port: port.and_then(|port| self.names.get(&port).cloned()),
                    mtu: port.and_then(|port| self.mtu_of(port)),
                    ..blank
                }
            }
            NextHop::Group(index) => {
                let members = self.tables.groups.get(index as usize).map(AsRef::as_ref).unwrap_or_default();
                // The compiler puts no group into a group; one would be left out here.
                let members = members.iter().filter(|member| !matches!(member, NextHop::Group(_)));
                let via = members.flat_map(|member| self.route(to, *member).via).collect();
                Route { kind: RouteKind::Group, via, ..blank }
            }
            NextHop::Unreachable => Route { kind: RouteKind::Unreachable, ..blank },
            NextHop::Prohibit => Route { kind: RouteKind::Prohibit, ..blank },
            NextHop::Blackhole => Route { kind: RouteKind::Blackhole, ..blank },
        }
    }

    fn mtu_of(&self, port: PortId) -> Option<u32> {
        self.tables.ports.get(port).map(|port| port.mtu.get() as u32)
    }

    /// A neighbour's addresses of the family of `to`.
    fn addresses_of(&self, hop: &tables::Neighbour, to: &IpNet) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = match to {
            IpNet::V4(_) => {
                let all = self.tables.neighbours4.iter().filter(|(_, there)| *there == hop);
                all.map(|(address, _)| IpAddr::V4(*address)).collect()
            }
            IpNet::V6(_) => {
                let all = self.tables.neighbours6.iter().filter(|(_, there)| *there == hop);
                all.map(|(address, _)| IpAddr::V6(*address)).collect()
            }
        };
        addresses.sort_unstable();
        addresses
    }
}

fn all_routes(tables: &Snapshot) -> Vec<(IpNet, NextHop)> {
    let v4 = tables.routes4.iter().map(|(to, len, next_hop)| (net(to.into(), len), next_hop));
    let v6 = tables.routes6.iter().map(|(to, len, next_hop)| (net(to.into(), len), next_hop));
    let mut routes: Vec<_> = v4.chain(v6).collect();
    for unspecified in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let everything = net(unspecified, 0);
        if tables.gateway.host.is_some() && route_exactly(tables, &everything).is_none() {
            routes.push((everything, NextHop::Host));
        }
    }
    routes
}

/// The route that a packet takes. What the tables do not know goes to the host, where there is one.
fn longest(tables: &Snapshot, address: IpAddr) -> Option<(IpNet, NextHop)> {
    let found = match address {
        IpAddr::V4(v4) => tables.routes4.longest(v4),
        IpAddr::V6(v6) => tables.routes6.longest(v6),
    };
    let (len, next_hop) = found.or_else(|| tables.gateway.host.map(|_| (0, NextHop::Host)))?;
    Some((net(address, len).trunc(), next_hop))
}

fn route_exactly(tables: &Snapshot, to: &IpNet) -> Option<NextHop> {
    match to {
        IpNet::V4(to) => tables.routes4.get(to.network(), to.prefix_len()),
        IpNet::V6(to) => tables.routes6.get(to.network(), to.prefix_len()),
    }
}

/// Whether the switch routes to an address at all.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_loopback() && v4.octets()[0] < 240 && v4.octets()[0] != 0
        }
        IpAddr::V6(v6) => {
            !v6.is_multicast() && !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local()
        }
    }
}

fn net(address: IpAddr, len: u8) -> IpNet {
    IpNet::new(address, len).unwrap_or_else(|_| address.into())
}
