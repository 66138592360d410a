//! Routes to pods of other nodes that need no tunnel: the other node itself is the next hop. The kernel forwards by them what
//! the switch hands to it, and what comes by the uplink for pods of this node.
//!
//! They are told from the host port's routes, which are weft's too, by their interface: any other than the host port. They
//! are more specific than its route to the whole network.

use crate::error::Error;
use crate::netlink::Kernel;
use crate::route::{Route, Wanted};
use crate::sysctl;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// A route to pods of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectRoute {
    /// The node's subnet.
    pub subnet: IpNet,
    /// The node's own address, of the same family, on the link of the interface.
    pub via: IpAddr,
}

impl DirectRoute {
    fn wanted(&self) -> Wanted {
        // Without a source address, as flannel has it: the host's own packets have the one of the interface.
        Wanted { destination: self.subnet.trunc(), gateway: Some(self.via), source: None, onlink: true }
    }
}

/// Puts these routes on the interface of that number; what is there already is not touched. A route of somebody else's to the
/// same pods is replaced: flannel's, on a node that comes from it. Returns those that could not be made, and why.
pub async fn put_direct_routes(
    interface: u32,
    routes: &[DirectRoute],
) -> Result<Vec<(DirectRoute, Error)>, Error> {
    if routes.is_empty() {
        return Ok(Vec::new());
    }
    let kernel = Kernel::open()?;
    let present = by_destination(kernel.routes(None).await?);
    let mut refused = Vec::new();
    for route in routes {
        let wanted = route.wanted();
        let there = present.get(&wanted.destination).map(Vec::as_slice).unwrap_or_default();
        if there.iter().any(|there| there.is_weft() && wanted.is(there, interface)) {
            continue;
        }
        if there.iter().any(|there| there.collides(&wanted) && !wanted.is(there, interface)) {
            tracing::warn!("the route to {} led elsewhere and now leads to {}", route.subnet, route.via);
        }
        if let Err(error) = kernel.put_route(interface, &wanted).await {
            refused.push((route.clone(), error));
        }
    }
    Ok(refused)
}

/// Removes weft's routes that are neither of the host port nor among these, on whatever interface.
pub async fn drop_direct_routes(host_port: &str, interface: u32, keep: &[DirectRoute]) -> Result<(), Error> {
    let kernel = Kernel::open()?;
    let host_port = kernel.links().await?.into_iter().find(|link| link.name == host_port);
    let host_port = host_port.map(|link| link.index);
    let keep: HashMap<IpNet, Wanted> =
        keep.iter().map(|route| (route.subnet.trunc(), route.wanted())).collect();
    for there in kernel.routes(None).await? {
        let kept = keep.get(&there.destination).is_some_and(|wanted| wanted.is(&there, interface));
        if there.is_weft() && Some(there.oif) != host_port && !kept {
            kernel.delete_route(&there).await?;
        }
    }
    Ok(())
}

fn by_destination(routes: Vec<Route>) -> HashMap<IpNet, Vec<Route>> {
    let mut all: HashMap<IpNet, Vec<Route>> = HashMap::new();
    routes.into_iter().for_each(|route| all.entry(route.destination).or_default().push(route));
    all
}

/// The setting that would have the kernel forward packets of a family, if it does not forward those that come by one of these
/// interfaces.
pub fn forwarding_to_set(interfaces: [&str; 2], v6: bool) -> Option<&'static str> {
    let forwards = |interface: &&str| sysctl::forwards(interface, v6);
    let setting = if v6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
    (!interfaces.iter().all(forwards)).then_some(setting)
}
