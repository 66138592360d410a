//! The underlay as weft sees it: the uplink interface, and the ways to the peers behind it.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::{Kernel, Link};
use ipnet::IpNet;
use std::net::IpAddr;

/// The interface that leads to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The kernel's index of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: MacBytes,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses, in flannel's order of preference: global before link-local, permanent before dynamic,
    /// lasting before temporary. Deprecated and tentative ones are left out.
    pub addresses: Vec<IpNet>,
    /// Set up, and its carrier is there.
    pub up: bool,
}

impl Uplink {
    /// The preferred IPv4 address, which flannel would publish as the node's.
    pub fn ipv4(&self) -> Option<std::net::Ipv4Addr> {
        self.addresses.iter().find_map(|net| match net {
            IpNet::V4(v4) => Some(v4.addr()),
            IpNet::V6(_) => None,
        })
    }

    /// The preferred IPv6 address.
    pub fn ipv6(&self) -> Option<std::net::Ipv6Addr> {
        self.addresses.iter().find_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(v6) => Some(v6.addr()),
        })
    }
}

/// The kernel's way to one destination, through the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The peer's underlay address.
    pub destination: IpAddr,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// The uplink's index.
    pub oif: u32,
    /// The gateway, or the destination itself where it is on the link.
    pub next_hop: IpAddr,
    /// The next hop's MAC address; none while the kernel resolves it.
    pub next_hop_mac: Option<MacBytes>,
    /// The route's or the path's MTU in bytes, where the kernel knows one that differs from the interface's.
    pub mtu: Option<u32>,
}

/// Why there is no way to a destination through the uplink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The kernel has no route.
    #[error("the kernel has no route to {destination}: {reason}")]
    NoRoute {
        /// The peer's underlay address.
        destination: IpAddr,
        /// The kernel's words.
        reason: String,
    },
    /// The route leaves by another interface.
    #[error("the route to {destination} leaves by {interface}, not by the uplink {uplink}")]
    OtherInterface {
        /// The peer's underlay address.
        destination: IpAddr,
        /// The interface that the kernel would use.
        interface: String,
        /// The uplink.
        uplink: String,
    },
    /// The destination is this node, a broadcast or a multicast address.
    #[error("{destination} is no other node: it is an address of this one, or not a single host's")]
    NotAPeer {
        /// The peer's underlay address.
        destination: IpAddr,
    },
}

/// The interface of the IPv4 default route, else of the IPv6 one, as flannel chooses it. Of several default routes
/// the one with the lowest metric counts.
pub async fn default_uplink() -> Result<Uplink, Error> {
    let kernel = Kernel::open()?;
    let name = default_name(&kernel).await?;
    read_uplink(&kernel, &name).await
}

/// The facts about the interface of this name.
pub async fn uplink(name: &str) -> Result<Uplink, Error> {
    read_uplink(&Kernel::open()?, name).await
}

pub(crate) async fn default_name(kernel: &Kernel) -> Result<String, Error> {
    let routes = kernel.routes(None).await?;
    let best = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .min_by_key(|route| (route.destination.addr().is_ipv6(), route.priority))
        .ok_or(Error::NoDefaultRoute)?;
    let links = kernel.links().await?;
    let link = links.into_iter().find(|link| link.index == best.oif).ok_or(Error::NoDefaultRoute)?;
    Ok(link.name)
}

pub(crate) async fn read_uplink(kernel: &Kernel, name: &str) -> Result<Uplink, Error> {
    let link = kernel.link(name).await?;
    let Link { index, name, mtu, running, .. } = link;
    let mac = link.mac.ok_or_else(|| Error::NotEthernet { name: name.clone() })?;
    let mut addresses = kernel.addresses(index).await?;
    addresses.retain(|address| address.usable);
    addresses.sort_by_key(|address| address.rank);
    let addresses = addresses.into_iter().map(|address| address.net).collect();
    Ok(Uplink { index, name, mac, mtu, addresses, up: running })
}
