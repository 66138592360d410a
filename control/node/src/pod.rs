//! A pod's interface, configured from outside as a CNI plugin would.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::Kernel;
use crate::netns::inside;
use crate::route::Wanted;
use crate::sysctl;
use ipnet::IpNet;
use rtnetlink::Handle;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    /// The gateways of the default routes, at most one per family.
    pub gateways: Vec<IpAddr>,
}

/// Brings an interface in the network namespace `netns` (none: the current one) into the wanted state. What is so
/// already is not touched, and addresses of others stay. A default route through another interface, or one that
/// weft did not make, stays too: then this one adds none for that family.
pub async fn configure_pod(netns: Option<&Path>, interface: PodInterface) -> Result<(), Error> {
    match netns {
        Some(path) => inside(path, move |handle| configure(handle, interface)).await,
        None => configure(Kernel::open()?.into_handle(), interface).await,
    }
}

/// True if the network namespace `netns` (none: the current one) has an interface `ifname`.
pub async fn pod_interface_exists(netns: Option<&Path>, ifname: &str) -> Result<bool, Error> {
    let name = ifname.to_owned();
    let look = move |handle: Handle| async move {
        let links = Kernel(handle).links().await?;
        Ok(links.iter().any(|link| link.name == name))
    };
    match netns {
        Some(path) => inside(path, look).await,
        None => look(Kernel::open()?.into_handle()).await,
    }
}

async fn configure(handle: Handle, wanted: PodInterface) -> Result<(), Error> {
    let kernel = Kernel(handle);
    let link = kernel.link(&wanted.ifname).await?;
    if wanted.addresses.iter().any(|net| net.addr().is_ipv6()) {
        // Container runtimes switch IPv6 off on interfaces that they know nothing of.
        sysctl::set(&format!("net/ipv6/conf/{}/disable_ipv6", link.name), "0")?;
    }
    sysctl::quiet_ipv6(&link.name)?;
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
    for gateway in &wanted.gateways {
        put_default_route(&kernel, link.index, *gateway, &wanted.addresses).await?;
    }
    Ok(())
}

async fn put_default_route(
    kernel: &Kernel,
    oif: u32,
    gateway: IpAddr,
    addresses: &[IpNet],
) -> Result<(), Error> {
    let all = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let Ok(destination) = IpNet::new(all, 0) else { return Ok(()) };
    let onlink = !addresses.iter().any(|net| net.contains(&gateway));
    let wanted = Wanted { destination, gateway: Some(gateway), source: None, onlink };
    let mut there = false;
    let mut outdated = Vec::new();
    for route in kernel.routes(None).await?.into_iter().filter(|route| route.destination == destination) {
        if route.is_weft() && route.oif == oif && !wanted.is(&route, oif) {
            outdated.push(route);
        } else {
            // Ours, or someone else's, who then wants it so.
            there = true;
        }
    }
    for route in &outdated {
        kernel.delete_route(route).await?;
    }
    if there { Ok(()) } else { kernel.put_route(oif, &wanted).await }
}
