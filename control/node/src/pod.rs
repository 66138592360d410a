//! A pod's interface, configured from outside as a CNI plugin would.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::Kernel;
use crate::netns::inside;
use crate::route::Wanted;
use crate::sysctl;
use ipnet::IpNet;
use rtnetlink::Handle;
use std::net::IpAddr;
use std::path::Path;

/// What a pod's interface is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// The interface's name inside the pod; it exists already.
    pub ifname: String,
    /// Its MAC address.
    pub mac: MacBytes,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The pod's addresses, each with the prefix length of the node's subnet.
    pub addresses: Vec<IpNet>,
    /// Addresses that it had before and is not to have any more.
    pub outdated: Vec<IpNet>,
    /// The routes through it, with their next hops.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// The routers on the link, so that the pod need not ask first: a pod that asks while nobody answers asks again a second
    /// later. What the pod knows already stays.
    pub routers: Vec<(IpAddr, MacBytes)>,
}

/// Brings an interface in the network namespace `netns` (none: the current one) into the wanted state. What is so
/// already is not touched, and addresses and routes of others stay. A route through another interface, or one that
/// weft did not make, stays too: then this one adds none to the same destinations.
pub async fn configure_pod(netns: Option<&Path>, interface: PodInterface) -> Result<(), Error> {
    match netns {
        Some(path) => inside(path, move |handle| configure(handle, interface)).await,
        None => configure(Kernel::open()?.into_handle(), interface).await,
    }
}

/// An interface of a pod as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its MAC address, if it has one of six bytes.
    pub mac: Option<MacBytes>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Its addresses, each with its prefix length.
    pub addresses: Vec<IpNet>,
    /// The destinations of all unicast routes of the main table, through this interface and others.
    pub routes: Vec<IpNet>,
}

/// Looks at the interface `ifname` in the network namespace `netns`; none if it is not there.
pub async fn look_at_pod(netns: &Path, ifname: &str) -> Result<Option<PodView>, Error> {
    let name = ifname.to_owned();
    let look = move |handle: Handle| async move {
        let kernel = Kernel(handle);
        let link = match kernel.link(&name).await {
            Ok(link) => link,
            Err(Error::NoInterface { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let addresses = kernel.addresses(link.index).await?.into_iter().map(|address| address.net);
        let routes = kernel.routes(None).await?.into_iter().map(|route| route.destination);
        Ok(Some(PodView {
            mac: link.mac,
            mtu: link.mtu,
            up: link.admin_up,
            addresses: addresses.collect(),
            routes: routes.collect(),
        }))
    };
    inside(netns, look).await
}

async fn configure(handle: Handle, wanted: PodInterface) -> Result<(), Error> {
    let kernel = Kernel(handle);
    let link = kernel.link(&wanted.ifname).await?;
    if wanted.addresses.iter().any(|net| net.addr().is_ipv6()) {
        // Container runtimes switch IPv6 off on interfaces that they know nothing of.
        sysctl::set(&format!("net/ipv6/conf/{}/disable_ipv6", link.name), "0")?;
    }
    sysctl::quiet_ipv6(&link.name)?;
    // As flannel's bridge does: others that remember the address's former owner hear of the new one.
    sysctl::set(&format!("net/ipv4/conf/{}/arp_notify", link.name), "1")?;
    sysctl::set(&format!("net/ipv6/conf/{}/ndisc_notify", link.name), "1")?;
    kernel.set_unbuffered(&link).await?;
    kernel.set_mtu(&link, wanted.mtu).await?;
    if link.mac != Some(wanted.mac) {
        kernel.set_mac(&link, wanted.mac).await?;
    }
    let present = kernel.addresses(link.index).await?;
    for net in &wanted.addresses {
        if !present.iter().any(|address| address.net == *net) {
            kernel.add_address(&link, *net).await?;
        }
    }
    // After the new ones are there, so that the kernel never finds itself without.
    for address in present.iter().filter(|address| wanted.outdated.contains(&address.net)) {
        kernel.delete_address(&link, address).await?;
    }
    for link in [kernel.link("lo").await?, link.clone()] {
        if !link.admin_up {
            kernel.set_link_up(&link, true).await?;
        }
    }
    put_routes(&kernel, link.index, &wanted).await?;
    for (ip, mac) in &wanted.routers {
        kernel.tell_router(link.index, *ip, *mac).await?;
    }
    Ok(())
}

async fn put_routes(kernel: &Kernel, oif: u32, interface: &PodInterface) -> Result<(), Error> {
    let wanted: Vec<_> = interface
        .routes
        .iter()
        .map(|(destination, gateway)| Wanted {
            destination: *destination,
            gateway: Some(*gateway),
            source: None,
            onlink: !interface.addresses.iter().any(|net| net.contains(gateway)),
        })
        .collect();
    let (own, others): (Vec<_>, Vec<_>) =
        kernel.routes(None).await?.into_iter().partition(|route| route.is_weft() && route.oif == oif);
    // First, since the kernel takes only one to a destination.
    for route in own.iter().filter(|route| !wanted.iter().any(|wanted| wanted.is(route, oif))) {
        kernel.delete_route(route).await?;
    }
    for wanted in &wanted {
        let there = own.iter().any(|route| wanted.is(route, oif))
            // Someone else's, who then wants it so.
            || others.iter().any(|route| route.destination == wanted.destination);
        if !there {
            kernel.put_route(oif, wanted).await?;
        }
    }
    Ok(())
}
