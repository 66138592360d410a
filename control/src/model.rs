//! The desired state as plain data: which network, which nodes, which pods. Every source (a file, the API,
//! later etcd and Kubernetes) produces a [`Model`]; [`validate`] says everything that is wrong with it; the
//! compiler turns a valid one into a snapshot for the workers. Nothing here does I/O.
//!
//! Read the types first, then [`validate`]: after it has passed, the rest of the control side needs no
//! checks.

mod text;
mod validate;

#[cfg(test)]
mod tests;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use weft_switch::types::{MacAddr, Mtu, Vni};

pub(crate) use validate::names;
pub use validate::{Entity, Invalid, validate};

/// The whole desired state of a node, its peers among it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What all nodes have in common.
    pub network: Network,
    /// Every node of the cluster, this one among them.
    pub nodes: Vec<Node>,
    /// The pods. Those of other nodes may be listed (one file for the whole cluster); only the own ones get
    /// ports.
    pub pods: Vec<Pod>,
}

impl Model {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The pods that live on the node of that name.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> + 'a {
        self.pods.iter().filter(move |p| p.node == node)
    }
}

/// What all nodes of the cluster have in common. flannel's `net-conf.json` says the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// All IPv4 pod addresses of the cluster; each node's IPv4 subnets are parts of it.
    pub ipv4: Option<Ipv4Net>,
    /// All IPv6 pod addresses of the cluster; each node's IPv6 subnets are parts of it.
    pub ipv6: Option<Ipv6Net>,
    /// The VXLAN network identifier that all nodes use. flannel's default is 1.
    #[serde(with = "text::vni")]
    pub vni: Vni,
    /// The UDP port of the tunnels, the same on all nodes. flannel on Linux uses 8472, RFC 7348 says 4789.
    pub port: u16,
    /// The MTU inside pods, in bytes. None: the underlay's MTU less the tunnel's headers (50, or 70 over
    /// IPv6).
    #[serde(with = "text::mtu", default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
}

impl Network {
    /// The VNI where none is configured: flannel's.
    pub const DEFAULT_VNI: Vni = {
        let one = Vni::new(1);
        let vni = match &one {
            Ok(vni) => *vni,
            Err(_) => panic!("1 is a VNI"),
        };
        // A constant can't run the destructor of the error that is not there.
        std::mem::forget(one);
        vni
    };
    /// The UDP port where none is configured: flannel's, which is the Linux kernel's.
    pub const DEFAULT_PORT: u16 = 8472;
}

/// A node of the cluster: a tunnel endpoint with its pod subnets behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique; the Kubernetes node name where there is Kubernetes.
    pub name: String,
    /// The pod subnets that are routed to this node, without host bits. The first address after the network's
    /// is the gateway, see [`gateway`].
    pub subnets: Vec<IpNet>,
    /// The IPv4 address of the underlay where this node receives VXLAN. Needed where the node has IPv4
    /// subnets.
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address of the underlay where this node receives VXLAN. Without it, IPv6 pods are carried by
    /// the IPv4 tunnel.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The MAC address of the node's VTEP: the inner destination of what is routed to it. Needed of peers;
    /// where the own node has none, one is made and kept.
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac: Option<MacAddr>,
    /// The MAC address of the VTEP on the IPv6 underlay, where it differs: flannel has a device of its own
    /// for it (`flannel-v6.<VNI>`). See [`Node::vtep_mac_over_v6`].
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac_v6: Option<MacAddr>,
}

impl Node {
    /// The MAC address of the VTEP on the IPv6 underlay: the one given for it, or else that of the IPv4
    /// underlay.
    pub fn vtep_mac_over_v6(&self) -> Option<MacAddr> {
        self.vtep_mac_v6.or(self.vtep_mac)
    }

    /// The subnet of this node that holds the address.
    pub fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.subnets.iter().copied().find(|s| s.contains(&address))
    }
}

/// The gateway of a pod subnet: the network's address plus one, as flannel has it. None for a subnet of one
/// address.
pub fn gateway(subnet: &IpNet) -> Option<IpAddr> {
    let next = match subnet.network() {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits().checked_add(1)?)),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits().checked_add(1)?)),
    };
    subnet.contains(&next).then_some(next)
}

/// A pod: a port of the switch with the addresses that live behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Unique: `namespace/name`, or a plain name.
    pub name: String,
    /// The name of the node where it lives.
    pub node: String,
    /// How it is joined to the switch.
    pub attachment: Attachment,
    /// Its addresses, each within a subnet of its node, with that subnet's prefix length (or that of one
    /// address). There may be several of a family.
    pub addresses: Vec<IpNet>,
    /// Its MAC address. None: one that is derived from the name, see [`Pod::mac_or_derived`].
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// It may send from any MAC and IP address, such as a virtual machine that bridges or routes for others.
    #[serde(default)]
    pub trusted: bool,
}

impl Pod {
    /// The given MAC address, or else one made from the name alone: the same after every restart and on every
    /// node, unicast and locally administered (IEEE 802-2014, 8.4). [`validate`] reports the unlikely clash.
    pub fn mac_or_derived(&self) -> MacAddr {
        self.mac.unwrap_or_else(|| derived_mac(&self.name))
    }
}

/// FNV-1a of 64 bits, then a finishing mix, because FNV's upper bits hardly move for short names.
fn derived_mac(name: &str) -> MacAddr {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// How a pod is joined to the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attachment {
    /// A TAP interface that is made inside the pod's network namespace: an ordinary pod.
    Tap {
        /// The network namespace's file, such as `/run/netns/x` or `/proc/<pid>/ns/net`. Absolute.
        netns: PathBuf,
        /// The name of the interface inside.
        #[serde(default = "default_ifname")]
        ifname: String,
    },
    /// A vhost-user socket: a virtual machine or a DPDK application with virtio-user.
    VhostUser {
        /// The UNIX socket. Absolute, at most 107 bytes.
        socket: PathBuf,
        /// Who makes the socket.
        #[serde(default)]
        mode: VhostMode,
    },
    /// A DPDK device (memif, a virtual function …), given to the pod as a whole.
    Dpdk {
        /// DPDK's device arguments, such as `net_memif0,role=server,socket=/run/x.sock`.
        devargs: String,
    },
}

/// The name of a TAP inside a pod where none is given: what CNI calls the first interface.
pub const DEFAULT_IFNAME: &str = "eth0";

fn default_ifname() -> String {
    DEFAULT_IFNAME.to_owned()
}

/// Which side makes a vhost-user socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VhostMode {
    /// The guest's side makes the socket and weft connects to it, again after the guest was restarted. With
    /// it a guest survives a restart of weft, so it is the default.
    #[default]
    Client,
    /// weft makes the socket and the guest's side connects.
    Server,
}
