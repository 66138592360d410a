//! How large packets are inside pods.

use ipnet::IpNet;
use weft_switch::types::Mtu;

use crate::model::{DirectRouting, Encapsulation, Model, NetworkIndex, Node, Pod};

/// Bytes of outer headers over an IPv4 underlay: inner Ethernet, VXLAN, UDP, IPv4.
pub(super) const OVERHEAD_V4: u32 = 50;
/// As [`OVERHEAD_V4`], over an IPv6 underlay.
pub(super) const OVERHEAD_V6: u32 = 70;

/// Bytes of outer headers: of VXLAN, over IPv6 or not; or of what flannel's backends have, over IPv4.
pub(super) fn overhead(encapsulation: Encapsulation, over_v6: bool) -> u32 {
    match encapsulation {
        Encapsulation::Vxlan if over_v6 => OVERHEAD_V6,
        Encapsulation::Vxlan => OVERHEAD_V4,
        Encapsulation::Udp => 28,
        Encapsulation::Ipip => 20,
    }
}

/// The MTU of each network inside pods, in bytes: the configured one, or what the underlay leaves after the outer headers. All
/// of it where there are none.
pub struct Mtus {
    networks: NetworkIndex,
    each: Vec<u32>,
}

impl Mtus {
    /// Over an uplink of this MTU.
    pub fn new(model: &Model, uplink: u32) -> Self {
        let some_over_v6 = model.nodes.iter().any(|node| node.public_ipv6.is_some());
        let each = model.networks.iter().map(|network| {
            let overhead = match network.direct_routing {
                DirectRouting::Always => 0,
                _ => overhead(model.encapsulation, some_over_v6 && network.ipv6.is_some()),
            };
            let left = uplink.saturating_sub(overhead);
            network.mtu.map_or(left, |mtu| mtu.get() as u32)
        });
        Self { networks: NetworkIndex::new(model), each: each.collect() }
    }

    /// Of the network with this index in the model; 0 if there is none.
    pub fn of_network(&self, index: usize) -> u32 {
        self.each.get(index).copied().unwrap_or_default()
    }

    /// Of a pod: the smallest where it has addresses in several networks, or an MTU of its own.
    pub fn of_pod(&self, pod: &Pod) -> u32 {
        let networks = self.smallest(pod.addresses.iter().map(|net| net.addr().into()));
        pod.mtu.map_or(networks, |mtu| networks.min(mtu.get() as u32))
    }

    /// Of the host port: the smallest of the networks that the node has subnets in.
    pub fn of_host(&self, own: &Node) -> u32 {
        self.smallest(own.subnets.iter().copied())
    }

    fn smallest(&self, parts: impl Iterator<Item = IpNet>) -> u32 {
        let of_each =
            parts.filter_map(|part| self.networks.of(&part)).map(|(_, index)| self.of_network(index));
        of_each.min().unwrap_or_else(|| self.of_network(0))
    }
}

/// A link's MTU as the tables hold it: one out of range counts as the nearest in range.
pub(super) fn checked(bytes: u32) -> Mtu {
    Mtu::new(bytes.min(65535)).unwrap_or(Mtu::SMALLEST)
}
