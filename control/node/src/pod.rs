//! A pod's interface, configured from outside as a CNI plugin would.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::{Kernel, Link, family};
use crate::netns::{Crew, inside};
use crate::route::Wanted;
use crate::sysctl::Settings;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use rtnetlink::Handle;
use std::net::IpAddr;
use std::path::Path;

/// What a pod's interface is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// The interface's name inside the pod; it is there by then.
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

/// Brings an interface in the network namespace `netns` into the wanted state. What is so already is not touched, and addresses
/// and routes of others stay. A route through another interface, or one that weft did not make, stays too: then this one adds none
/// to the same destinations.
pub async fn configure_pod(netns: &Path, interface: PodInterface) -> Result<(), Error> {
    inside(netns, move |handle| configure(handle, interface, None)).await
}

/// A pod's interface that has been made or taken up.
#[derive(Debug)]
pub struct Made<T> {
    /// What it is to whoever made it.
    pub what: T,
    /// Its number if it is new: nobody has done anything to it yet.
    pub new: Option<u32>,
}

/// Has a thread of `crew` make a pod's interface by `make`, which may block, in the network namespace at `netns`, and bring it into the
/// wanted state. If the kernel refuses the state, `undo` gets what was made.
pub async fn make_pod<T, E>(
    crew: &Crew,
    netns: &Path,
    interface: PodInterface,
    make: impl FnOnce() -> Result<Made<T>, E> + Send + 'static,
    undo: fn(T),
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let work = move |handle: Handle| async move {
        let Made { what, new } = make()?;
        match configure(handle, interface, new).await {
            Ok(()) => Ok(what),
            Err(error) => {
                undo(what);
                Err(error.into())
            }
        }
    };
    crew.inside(netns, work).await
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

async fn configure(handle: Handle, wanted: PodInterface, new: Option<u32>) -> Result<(), Error> {
    let kernel = Kernel(handle);
    let link = match new {
        Some(index) => Link::new(index, &wanted.ifname),
        None => kernel.link(&wanted.ifname).await?,
    };
    let ipv6 = Settings::of_interface("ipv6", &link.name)?;
    if wanted.addresses.iter().any(|net| net.addr().is_ipv6()) {
        // Container runtimes switch IPv6 off on interfaces that they know nothing of.
        ipv6.set("disable_ipv6", "0")?;
    }
    ipv6.quiet()?;
    // As flannel's bridge does: others that remember the address's former owner hear of the new one.
    ipv6.set("ndisc_notify", "1")?;
    Settings::of_interface("ipv4", &link.name)?.set("arp_notify", "1")?;
    kernel.set_unbuffered(&link).await?;
    kernel.set_mac_and_mtu(&link, wanted.mac, wanted.mtu).await?;
    for net in &wanted.addresses {
        kernel.add_address(&link, *net).await?;
    }
    // After the new ones are there, so that the kernel never finds itself without.
    if !wanted.outdated.is_empty() {
        let present = kernel.addresses(link.index).await?;
        for address in present.iter().filter(|address| wanted.outdated.contains(&address.net)) {
            kernel.delete_address(&link, address).await?;
        }
    }
    kernel.set_loopback_up().await?;
    if !link.admin_up {
        kernel.set_link_up(&link, true).await?;
    }
    put_routes(&kernel, &link, &wanted).await?;
    for (ip, mac) in &wanted.routers {
        kernel.tell_router(link.index, *ip, *mac).await?;
    }
    Ok(())
}

async fn put_routes(kernel: &Kernel, link: &Link, interface: &PodInterface) -> Result<(), Error> {
    let oif = link.index;
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
    let mut present = Vec::new();
    for of in [AddressFamily::Inet, AddressFamily::Inet6] {
        // An interface that was down until now has none that could go.
        if link.admin_up || wanted.iter().any(|route| family(route.destination.addr()) == of) {
            present.extend(kernel.routes_of(of, None).await?);
        }
    }
    let (own, others): (Vec<_>, Vec<_>) =
        present.into_iter().partition(|route| route.is_weft() && route.oif == oif);
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
