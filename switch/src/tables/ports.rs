//! The switch's ports as the dataplane knows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::{MacAddr, Mtu, PortId, Vni};

/// Who may be behind a pod's port: what it sends from must be among this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodGuard {
    /// The pod's MAC address.
    pub mac: MacAddr,
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
}

impl PodGuard {
    /// A pod with this MAC address and these IP addresses.
    pub fn new(mac: MacAddr, addresses: &[IpAddr]) -> Self {
        let v4 = addresses.iter().filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None });
        let v6 = addresses.iter().filter_map(|a| if let IpAddr::V6(v6) = a { Some(*v6) } else { None });
        Self { mac, v4: v4.collect(), v6: v6.collect() }
    }

    /// True for an IPv4 address of the pod.
    #[inline]
    pub fn has_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.contains(&address)
    }

    /// True for the link-local address that follows from the pod's MAC address (RFC 4291, appendix A): the only one
    /// that it can be known to have.
    pub fn has_link_local(&self, address: Ipv6Addr) -> bool {
        let [a, b, c, d, e, f] = self.mac.0;
        address.octets() == [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    /// True for an IPv6 address of the pod.
    #[inline]
    pub fn has_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.contains(&address)
    }
}

/// What a port is for, and so which way its packets take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A pod: bridged, routed, and held to its own addresses.
    Pod(PodGuard),
    /// A pod that may send from any MAC and IP address: what it sends from is learned.
    Trusted,
    /// The node's own stack: routed; what it sends has been routed by the kernel already.
    Host,
    /// The underlay: only the tunnel's packets are taken.
    Uplink,
    /// A tunnel of plain packets, which its driver takes out ([`crate::ip_tunnel`]): the other nodes are its neighbours. Taken is what comes
    /// from those that are known under this number ([`crate::tables::Peers`]).
    IpTunnel(Vni),
}

impl Role {
    /// Behind the port are other nodes: what comes from one of them is not sent to another.
    #[inline]
    pub fn is_tunnel(&self) -> bool {
        matches!(self, Self::Uplink | Self::IpTunnel(_))
    }
}

/// Which worker sends to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Every worker has a transmit queue of its own.
    Each,
    /// The one transmit queue is with the worker of this index; the others hand packets over.
    Worker(u16),
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// What it is for.
    pub role: Role,
    /// The largest IP packet that is sent to it. For the uplink: of the underlay.
    pub mtu: Mtu,
    /// Where its transmit queue is.
    pub place: Place,
    /// Of an uplink: its queues take tunnel packets whose inner frame is unfinished
    /// ([`crate::port::TxCaps::gso_tunnel`]).
    pub tunnel_gso: bool,
}

/// The ports by their number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ports(Vec<Option<Port>>);

impl Ports {
    /// The port of this number.
    #[inline]
    pub fn get(&self, id: PortId) -> Option<&Port> {
        self.0.get(id.index())?.as_ref()
    }

    /// Sets the port of this number.
    pub fn insert(&mut self, id: PortId, port: Port) {
        if self.0.len() <= id.index() {
            self.0.resize(id.index() + 1, None);
        }
        self.0[id.index()] = Some(port);
    }
}
