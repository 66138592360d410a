//! Compiles the routes that lead through pods, or nowhere.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_switch::tables::{NextHop, Snapshot};

use super::{Ends, Sources, add_route, tunnel_address};
use crate::model::{Model, Node, Target};

/// The further routes: those of all nodes, then those of this node alone, which go before them.
pub(super) fn add(tables: &mut Snapshot, ends: &Ends, from: &Sources<'_>) {
    if from.model.routes.is_empty() {
        return;
    }
    let owners = Owners::new(from.model);
    let mut hops = HashMap::new();
    let (own, all): (Vec<_>, Vec<_>) = from
        .model
        .routes
        .iter()
        .filter(|route| route.node.as_ref().is_none_or(|node| *node == from.own.name))
        .partition(|route| route.node.is_some());
    for route in all.into_iter().chain(own) {
        let next_hop = match &route.target {
            Target::Unreachable => NextHop::Unreachable,
            Target::Prohibit => NextHop::Prohibit,
            Target::Blackhole => NextHop::Blackhole,
            Target::Via(via) => {
                let mut ways: Vec<_> = via
                    .iter()
                    .filter_map(|address| through(tables, &mut hops, ends, from, &owners, *address))
                    .collect();
                // Two pods of one node are behind one tunnel; each counts.
                match (ways.len(), ways.pop()) {
                    (_, None) => NextHop::Unreachable,
                    (1, Some(only)) => only,
                    (_, Some(last)) => {
                        ways.push(last);
                        tables.groups.push(ways.into_boxed_slice());
                        NextHop::Group(tables.groups.len() as u32 - 1)
                    }
                }
            }
        };
        add_route(tables, &route.to, next_hop);
    }
}

/// The way to the pod with this address. `None` while there is none: its port is not open.
fn through(
    tables: &mut Snapshot,
    hops: &mut HashMap<IpAddr, u32>,
    ends: &Ends,
    from: &Sources<'_>,
    owners: &Owners<'_>,
    address: IpAddr,
) -> Option<NextHop> {
    let (subnet, owner) = owners.of(address)?;
    if owner.name == from.own.name {
        let neighbour = tables.neighbour(address)?;
        let index = *hops.entry(address).or_insert_with(|| {
            tables.hops.push(neighbour);
            tables.hops.len() as u32 - 1
        });
        return Some(NextHop::Hop(index));
    }
    let (_, network) = from.networks.of(&subnet)?;
    let end = *ends.0.get(&(network, tunnel_address(owner, &subnet)?))?;
    Some(if from.model.encapsulation.is_vxlan() { NextHop::Vtep(end) } else { NextHop::Hop(end) })
}

/// Whose pod an address is, found by binary search: subnets do not overlap.
struct Owners<'a>(Vec<(IpNet, &'a Node)>);

impl<'a> Owners<'a> {
    fn new(model: &'a Model) -> Self {
        let all = model.nodes.iter().flat_map(|node| node.subnets.iter().map(move |subnet| (*subnet, node)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(subnet, _)| subnet.network());
        Self(all)
    }

    fn of(&self, address: IpAddr) -> Option<(IpNet, &'a Node)> {
        let after = self.0.partition_point(|(subnet, _)| subnet.network() <= address);
        self.0.get(after.checked_sub(1)?).copied().filter(|(subnet, _)| subnet.contains(&address))
    }
}
