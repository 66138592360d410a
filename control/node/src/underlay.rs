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

/// How the uplink is chosen, as flanneld's options say it. What is empty does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Names of interfaces, or addresses of theirs; the first that there is counts.
    pub names: Vec<String>,
    /// Regular expressions on IPv4 addresses first, then on names; after `names`.
    pub patterns: Vec<String>,
    /// The interface by which the kernel reaches this address; after both.
    pub can_reach: Option<IpAddr>,
    /// Where none of these is given: the interface that has this address.
    pub address: Option<IpAddr>,
}

/// The interface that is chosen, and the address by which it was, if it was by one.
pub async fn choose_uplink(choice: &Choice) -> Result<(Uplink, Option<IpAddr>), Error> {
    let kernel = Kernel::open()?;
    let explicit = !choice.names.is_empty() || !choice.patterns.is_empty() || choice.can_reach.is_some();
    if !explicit && choice.address.is_none() {
        let name = default_name(&kernel).await?;
        return Ok((read_uplink(&kernel, &name).await?, None));
    }
    let mut links = kernel.links().await?;
    links.sort_by_key(|link| link.index);
    let mut known = Vec::new();
    for link in links {
        let addresses = kernel.addresses(link.index).await?;
        known.push((link.name, addresses.iter().map(|address| address.net.addr()).collect::<Vec<_>>()));
    }
    let reached = match choice.can_reach {
        // A destination without a route is no match.
        Some(destination) => match kernel.route_to(destination).await {
            Ok(answer) => kernel
                .links()
                .await?
                .into_iter()
                .find(|l| l.index == answer.oif)
                .map(|l| (l.name, answer.source)),
            Err(_) => None,
        },
        None => None,
    };
    let (name, address) = choose(choice, &known, reached)?;
    Ok((read_uplink(&kernel, &name).await?, address))
}

/// Chooses among interfaces with their addresses; `reached` is what the kernel says of `can_reach`.
fn choose(
    choice: &Choice,
    known: &[(String, Vec<IpAddr>)],
    reached: Option<(String, IpAddr)>,
) -> Result<(String, Option<IpAddr>), Error> {
    let with = |ip: IpAddr| {
        let (name, _) = known.iter().find(|(_, addresses)| addresses.contains(&ip))?;
        Some((name.clone(), Some(ip)))
    };
    for wanted in &choice.names {
        let found = match wanted.parse::<IpAddr>() {
            Ok(ip) => with(ip),
            Err(_) => known.iter().find(|(name, _)| name == wanted).map(|(name, _)| (name.clone(), None)),
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    for pattern in &choice.patterns {
        let regex = regex::Regex::new(pattern)
            .map_err(|error| Error::Pattern { pattern: pattern.clone(), reason: error.to_string() })?;
        let addresses = known.iter().flat_map(|(_, addresses)| addresses).filter(|ip| ip.is_ipv4());
        let by_address = addresses.copied().find(|ip| regex.is_match(&ip.to_string())).and_then(with);
        let by_name =
            || known.iter().find(|(name, _)| regex.is_match(name)).map(|(name, _)| (name.clone(), None));
        if let Some(found) = by_address.or_else(by_name) {
            return Ok(found);
        }
    }
    if let Some((name, source)) = reached {
        return Ok((name, Some(source)));
    }
    let explicit = !choice.names.is_empty() || !choice.patterns.is_empty() || choice.can_reach.is_some();
    if let Some(found) = choice.address.filter(|_| !explicit).and_then(with) {
        return Ok(found);
    }
    let mut wanted: Vec<String> = choice.names.clone();
    wanted.extend(choice.patterns.iter().map(|pattern| format!("/{pattern}/")));
    wanted.extend(choice.can_reach.map(|ip| format!("a way to {ip}")));
    if !explicit {
        wanted.extend(choice.address.map(|ip| ip.to_string()));
    }
    let existing: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    Err(Error::NoMatch { wanted: wanted.join(", "), existing: existing.join(", ") })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<(String, Vec<IpAddr>)> {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        vec![
            ("lo".to_owned(), ips(&["127.0.0.1"])),
            ("eth0".to_owned(), ips(&["192.0.2.1", "2001:db8::1"])),
            ("eth1".to_owned(), ips(&["198.51.100.1"])),
        ]
    }

    fn chosen(choice: Choice, reached: Option<(String, IpAddr)>) -> String {
        match choose(&choice, &known(), reached) {
            Ok((name, Some(address))) => format!("{name} by {address}"),
            Ok((name, None)) => name,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_then_patterns_then_ways_then_the_public_address() {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let reached = || Some(("eth1".to_owned(), "198.51.100.1".parse().unwrap()));
        let none = Choice::default();
        let names = |texts: &[&str]| Choice { names: list(texts), ..none.clone() };
        assert_eq!(chosen(names(&["eth7", "eth1", "eth0"]), None), "eth1");
        assert_eq!(chosen(names(&["2001:db8::1"]), None), "eth0 by 2001:db8::1");
        let both = Choice { names: list(&["eth7"]), patterns: list(&["^eth[1-9]$"]), ..none.clone() };
        assert_eq!(chosen(both, None), "eth1");
        let address_first = Choice { patterns: list(&["1"]), ..none.clone() };
        assert_eq!(chosen(address_first, None), "lo by 127.0.0.1");
        let way = Choice {
            patterns: list(&["^wlan"]),
            can_reach: Some("8.8.8.8".parse().unwrap()),
            ..none.clone()
        };
        assert_eq!(chosen(way.clone(), reached()), "eth1 by 198.51.100.1");
        assert!(chosen(way, None).contains("/^wlan/, a way to 8.8.8.8"));
        let public = Choice { address: Some("192.0.2.1".parse().unwrap()), ..none.clone() };
        assert_eq!(chosen(public.clone(), None), "eth0 by 192.0.2.1");
        // It does not choose where something else does.
        assert_eq!(chosen(Choice { names: list(&["eth1"]), ..public }, None), "eth1");
        assert!(chosen(names(&["eth7"]), None).contains("lo, eth0, eth1"));
        assert!(chosen(Choice { patterns: list(&["("]), ..none }, None).contains("no regular expression"));
    }
}
