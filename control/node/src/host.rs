//! The host's own port into the switch, a TAP that weftd has made: its addresses, and the routes that lead the
//! host's packets for pods into it.
//!
//! The host owns both the `.0` address (the source that flannel's nodes use towards pods of other nodes) and the
//! `.1` address (which pods of this node see, as with flannel's bridge), each with a full prefix length, so that no
//! network or broadcast address comes of it. Since `.1` is local, it can't be the next hop that leads into the
//! switch. That is a link-local address, which nobody answers for: its neighbour entry is permanent.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::{ADDR_GEN_MODE_NONE, Kernel};
use crate::route::Wanted;
use crate::sysctl::{self, Settings};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The next hop of the host's IPv4 routes into the switch.
pub const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The next hop of the host's IPv6 routes into the switch.
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What the host's port is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The TAP's name, such as `weft0`; it exists already.
    pub name: String,
    /// Its MAC address.
    pub mac: MacBytes,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The first address of each of the node's subnets: the source towards pods of other nodes.
    pub zero_addresses: Vec<IpAddr>,
    /// The gateway's address in each of the node's subnets: the source towards pods of this node.
    pub gateway_addresses: Vec<IpAddr>,
    /// The node's own subnets.
    pub local_subnets: Vec<IpNet>,
    /// The networks of all pods of the cluster.
    pub networks: Vec<IpNet>,
    /// The gateway's MAC address: where the host sends what is for pods.
    pub gateway_mac: MacBytes,
}

impl HostPort {
    fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.zero_addresses.iter().chain(&self.gateway_addresses).map(|ip| IpNet::from(*ip))
    }

    fn routes(&self) -> Vec<Wanted> {
        let route = |destination: &IpNet, sources: &[IpAddr]| {
            let (v4, gateway) = match destination {
                IpNet::V4(_) => (true, IpAddr::V4(NEXT_HOP_V4)),
                IpNet::V6(_) => (false, IpAddr::V6(NEXT_HOP_V6)),
            };
            // With several networks, the address that is in the same one.
            let near = sources.iter().copied().find(|ip| destination.contains(ip));
            let source = near.or_else(|| sources.iter().copied().find(|ip| ip.is_ipv4() == v4));
            Wanted { destination: destination.trunc(), gateway: Some(gateway), source, onlink: true }
        };
        let local = self.local_subnets.iter().map(|net| route(net, &self.gateway_addresses));
        // A cluster of one node may have a subnet as large as the network; the local route is the right one then.
        let remote = self.networks.iter().filter(|net| !self.local_subnets.contains(net));
        let mut routes: Vec<_> = local.chain(remote.map(|net| route(net, &self.zero_addresses))).collect();
        // What the switch itself says to the host, ICMP errors, comes from the next hop's address: the host takes nothing
        // from its own. And it takes them only from where its routes lead, if rp_filter is on.
        if routes.iter().any(|route| route.gateway == Some(IpAddr::V4(NEXT_HOP_V4))) {
            let destination = IpNet::from(IpAddr::V4(NEXT_HOP_V4));
            routes.push(Wanted { destination, gateway: None, source: None, onlink: false });
        }
        routes
    }
}

/// Brings the host's port into the wanted state; what is so already is not touched. Addresses and routes of this
/// interface that are not wanted (any more) are removed, except what the kernel itself made.
pub async fn configure_host_port(wanted: HostPort) -> Result<(), Error> {
    let kernel = Kernel::open()?;
    let link = kernel.link(&wanted.name).await?;
    Settings::of_interface("ipv6", &link.name)?.quiet()?;
    if link.addr_gen_mode.is_some_and(|mode| mode != ADDR_GEN_MODE_NONE) {
        kernel.set_addr_gen_mode(&link, ADDR_GEN_MODE_NONE).await?;
    }
    kernel.set_unbuffered(&link).await?;
    kernel.set_mac_and_mtu(&link, wanted.mac, wanted.mtu).await?;
    let present = kernel.addresses(link.index).await?;
    for net in wanted.addresses() {
        if !present.iter().any(|address| address.net == net) {
            kernel.add_address(&link, net).await?;
        }
    }
    if !link.admin_up {
        kernel.set_link_up(&link, true).await?;
    }
    let routes = wanted.routes();
    put_neighbours(&kernel, link.index, &routes, wanted.gateway_mac).await?;
    let present = kernel.routes(None).await?;
    for route in &routes {
        if present.iter().any(|there| route.is(there, link.index)) {
            continue;
        }
        if present.iter().any(|there| there.collides(route) && there.oif != link.index) {
            tracing::warn!("the route to {} led elsewhere and now leads to {}", route.destination, link.name);
        }
        kernel.put_route(link.index, route).await?;
    }
    // The wanted ones are in place before the others go: no packet finds a gap.
    for there in kernel.routes(Some(link.index)).await? {
        if !there.is_kernel() && !routes.iter().any(|route| route.is(&there, link.index)) {
            kernel.delete_route(&there).await?;
        }
    }
    for address in kernel.addresses(link.index).await? {
        if !wanted.addresses().any(|net| net == address.net) {
            kernel.delete_address(&link, &address).await?;
        }
    }
    Ok(())
}

async fn put_neighbours(kernel: &Kernel, index: u32, routes: &[Wanted], mac: MacBytes) -> Result<(), Error> {
    let present = kernel.neighbours().await?;
    for next_hop in [IpAddr::V4(NEXT_HOP_V4), IpAddr::V6(NEXT_HOP_V6)] {
        if !routes.iter().any(|route| route.gateway == Some(next_hop)) {
            continue;
        }
        let there = present
            .iter()
            .any(|(on, ip, entry)| *on == index && *ip == next_hop && entry.fixed && entry.mac == Some(mac));
        if !there {
            kernel.set_permanent_neighbour(index, next_hop, mac).await?;
        }
    }
    Ok(())
}

/// The MTU of an interface, in bytes.
pub async fn interface_mtu(name: &str) -> Result<u32, Error> {
    Ok(Kernel::open()?.link(name).await?.mtu)
}

/// The range of ports that the kernel gives to sockets (`net.ipv4.ip_local_port_range`), both ends included.
pub fn local_port_range() -> Result<(u16, u16), Error> {
    sysctl::local_port_range()
}
