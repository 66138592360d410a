//! What the dataplane looks up: one immutable [`Snapshot`] with a generation number. The control side compiles the
//! whole desired state into one and publishes it; a worker loads it once a burst.
//!
//! All tables are built once and only read after that, so they need no lock and no atomic.

mod hash;
mod ports;
mod rates;
mod routes;
mod shared;
mod vteps;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use hash::NEAR;
pub use hash::{KeyHasher, Map};
pub use ports::{Place, PodGuard, Port, Ports, Role};
pub use rates::{LEAST_BURST_MS, PortRates, Rate, Rates};
pub use routes::{NO_VTEP, NextHop, Prefix, Routes};
pub use shared::Shared;
pub(crate) use vteps::BLOCK_V4;
pub(crate) use vteps::Plain;
pub use vteps::{Encap, LocalVtep, Outer, Peers, SourcePorts, Vtep, Vteps, v4_key};

use crate::classify::pinned::is_here;
use crate::limits::Limits;
use crate::types::{Generation, MacAddr, PortId};

/// Where a pod of this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The port that it is behind.
    pub port: PortId,
}

/// Another node that weft exchanges pods' packets with as they are: on the link of the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its MAC address there, and the uplink's port.
    pub to: Neighbour,
    /// Its VTEP: what comes out of the tunnel all the same is answered there. [`NO_VTEP`]: it has none.
    pub vtep: u32,
}

/// The gateway that weft is for its pods, and the host behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gateway {
    /// The MAC address of the gateway's every address.
    pub mac: MacAddr,
    /// The gateway's addresses: the first of each of the node's subnets, and the next hops that the host port's
    /// routes name.
    pub v4: Vec<Ipv4Addr>,
    /// As `v4`.
    pub v6: Vec<Ipv6Addr>,
    /// The node's IPv4 subnets, and the gateway's address in each: what the router itself says comes from there.
    pub subnets4: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// As `subnets4`.
    pub subnets6: Vec<(Ipv6Addr, u8, Ipv6Addr)>,
    /// Where packets for the host go, once there is a host port.
    pub host: Option<Neighbour>,
}

impl Gateway {
    /// True for an address of the gateway's.
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.contains(&v4),
            IpAddr::V6(v6) => self.v6.contains(&v6),
        }
    }

    /// The gateway's address in the node's subnet that has `address`: the smallest, where several have.
    pub fn for_v4(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let having = self.subnets4.iter().filter(|(net, len, _)| address.masked(*len) == net.masked(*len));
        having.max_by_key(|(_, len, _)| *len).map(|(_, _, own)| *own)
    }

    /// True for an address that names one of the node's IPv4 subnets, or all in it: no station has it. A subnet of two or one
    /// has none such (RFC 1122, section 3.2.1.3; RFC 3021).
    pub fn is_nobodys(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else { return false };
        self.subnets4.iter().any(|(net, len, _)| {
            let hosts = u32::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
            let first = net.to_bits() & !hosts;
            *len < 31 && (v4.to_bits() == first || v4.to_bits() == first | hosts)
        })
    }

    /// As [`Self::for_v4`].
    pub fn for_v6(&self, address: Ipv6Addr) -> Option<Ipv6Addr> {
        let having = self.subnets6.iter().filter(|(net, len, _)| address.masked(*len) == net.masked(*len));
        having.max_by_key(|(_, len, _)| *len).map(|(_, _, own)| *own)
    }
}

/// Everything that the workers look up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Which publication this is.
    pub generation: Generation,
    /// The switch's ports.
    pub ports: Ports,
    /// MAC address to port, for the pods of this node.
    pub fdb: Map<MacAddr, PortId>,
    /// IPv4 address to pod, for the pods of this node.
    pub neighbours4: Map<Ipv4Addr, Neighbour>,
    /// IPv6 address to pod, for the pods of this node.
    pub neighbours6: Map<Ipv6Addr, Neighbour>,
    /// Which of the neighbours' addresses were learned from what stations behind trusted ports said. The others are
    /// configured, and nobody may claim them.
    pub learned: Map<IpAddr, ()>,
    /// The gateway and the host.
    pub gateway: Gateway,
    /// Longest prefix match over IPv4 destinations. What it does not know goes to the host.
    pub routes4: Routes<Ipv4Addr>,
    /// As `routes4`.
    pub routes6: Routes<Ipv6Addr>,
    /// Pods of this node that routes lead through; routes name them by index.
    pub hops: Vec<Neighbour>,
    /// Nodes that are reached without the tunnel; routes name them by index. From their subnets, and from nowhere else, such
    /// packets are taken.
    pub links: Vec<Link>,
    /// The MAC address that they know this node by.
    pub uplink_mac: MacAddr,
    /// Next hops that cost the same; routes name them by index. None is a group, and none of them is empty.
    pub groups: Shared<Vec<Box<[NextHop]>>>,
    /// The ports of the segment: where broadcasts go. Pods and the host.
    pub segment: Vec<PortId>,
    /// Those of them that are trusted: where an unknown station may be.
    pub trusted: Vec<PortId>,
    /// How many MAC addresses are learned behind one port at most.
    pub learn_limit: u32,
    /// Seconds after which a learned MAC address that sends nothing is forgotten (IEEE 802.1Q: 10 to 1,000,000).
    pub ageing: u32,
    /// What is limited, and how.
    pub limits: Limits,
    /// How fast frames may go to ports and come from them.
    pub rates: Rates,
    /// The far ends of the tunnels; routes name them by index.
    pub vteps: Shared<Vteps>,
    /// This node's ends of the tunnels.
    pub local_vteps: Vec<LocalVtep>,
    /// The UDP port of the tunnel.
    pub vxlan_port: u16,
    /// Whose tunnel packets are taken.
    pub peers: Shared<Peers>,
    /// From which UDP ports weft sends the tunnel's packets.
    pub source_ports: SourcePorts,
    /// Where the tunnel is flannel's `udp`: the address that flanneld answers from when no node has a destination.
    pub udp_proxy: Option<Ipv4Addr>,
}

impl Snapshot {
    /// True for an address of one of the node's subnets that a station can have.
    pub fn in_subnet(&self, address: IpAddr) -> bool {
        !self.gateway.is_nobodys(address)
            && match address {
                IpAddr::V4(v4) => self.gateway.for_v4(v4).is_some(),
                IpAddr::V6(v6) => self.gateway.for_v6(v6).is_some(),
            }
    }

    /// Whether what is sent to `address` goes to a pod of this node, which has it or routes on.
    pub fn leads_to_a_pod(&self, address: IpAddr) -> bool {
        is_here(self, address)
    }

    /// The pod of this node that has `address`.
    pub fn neighbour(&self, address: IpAddr) -> Option<Neighbour> {
        match address {
            IpAddr::V4(v4) => self.neighbours4.get(&v4).copied(),
            IpAddr::V6(v6) => self.neighbours6.get(&v6).copied(),
        }
    }

    /// Adds a neighbour that was learned, unless the address is a configured one's.
    pub fn add_learned(&mut self, address: IpAddr, neighbour: Neighbour) {
        if self.neighbour(address).is_some() {
            return;
        }
        self.learned.insert(address, ());
        match address {
            IpAddr::V4(v4) => drop(self.neighbours4.insert(v4, neighbour)),
            IpAddr::V6(v6) => drop(self.neighbours6.insert(v6, neighbour)),
        }
    }

    /// Has the parts that are as they were in the snapshot before from there.
    pub fn keep(&mut self, before: &Self) {
        self.routes4.keep(&before.routes4);
        self.routes6.keep(&before.routes6);
        self.groups.keep(&before.groups);
        self.vteps.keep(&before.vteps);
        self.peers.keep(&before.peers);
    }

    /// Adds a pod of this node to every table that tells where it is.
    pub fn add_pod(&mut self, port: PortId, mac: MacAddr, addresses: &[IpAddr]) {
        self.fdb.insert(mac, port);
        for address in addresses {
            match address {
                IpAddr::V4(v4) => drop(self.neighbours4.insert(*v4, Neighbour { mac, port })),
                IpAddr::V6(v6) => drop(self.neighbours6.insert(*v6, Neighbour { mac, port })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_speaks_from_the_smallest_subnet_that_has_the_address() {
        let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let subnets4 = vec![
            (v4("0.0.0.0"), 0, v4("10.0.0.1")),
            (v4("10.244.1.0"), 24, v4("10.244.1.1")),
            (v4("10.244.0.0"), 16, v4("10.244.0.1")),
            (v4("1.2.3.4"), 32, v4("1.2.3.5")),
        ];
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let subnets6 = vec![(v6("fd00::"), 64, v6("fd00::1")), (v6("::2"), 128, v6("::3"))];
        let gateway = Gateway { subnets4, subnets6, ..Gateway::default() };
        for (address, own) in [
            ("10.244.1.9", "10.244.1.1"),
            ("10.244.2.9", "10.244.0.1"),
            ("1.2.3.4", "1.2.3.5"),
            ("1.2.3.5", "10.0.0.1"),
        ] {
            assert_eq!(gateway.for_v4(v4(address)), Some(v4(own)));
        }
        assert_eq!(gateway.for_v6(v6("fd00::9")), Some(v6("fd00::1")));
        assert_eq!(gateway.for_v6(v6("::2")), Some(v6("::3")));
        assert_eq!((gateway.for_v6(v6("fd01::9")), gateway.for_v6(v6("::1"))), (None, None));
    }
}
