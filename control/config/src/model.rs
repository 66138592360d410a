//! The desired state as plain data: which networks, which nodes, which pods, which further routes. Every source (a file, the API,
//! later etcd and Kubernetes) produces a [`Model`]; [`validate`] says everything that is wrong with it; the
//! compiler turns a valid one into a snapshot for the workers. Nothing here does I/O.
//!
//! Read the types first, then [`validate`]: after it has passed, the rest of the control side needs no
//! checks.

mod networks;
mod text;
mod validate;

#[cfg(test)]
mod tests;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use weft_types::{BitRate, MacAddr, Mtu, Vni};

pub use networks::NetworkIndex;
pub(crate) use validate::names;
pub use validate::{Entity, Invalid, Part, validate, validate_changed, validate_for_all, validate_pods};

/// The whole desired state of a node, its peers among it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The pod networks, at least one. They do not overlap, and each is a VXLAN network of its own; the router of each
    /// node joins those that the node has subnets of.
    pub networks: Vec<Network>,
    /// The UDP port of all tunnels, the same on all nodes. flannel on Linux uses 8472, RFC 7348 says 4789.
    pub port: u16,
    /// What the tunnels' packets are in, the same on all nodes.
    #[serde(default, skip_serializing_if = "Encapsulation::is_vxlan")]
    pub encapsulation: Encapsulation,
    /// Every node of the cluster, this one among them.
    pub nodes: Vec<Node>,
    /// The pods. Those of other nodes may be listed (one file for the whole cluster); only the own ones get
    /// ports.
    pub pods: Vec<Pod>,
    /// Routes to what is behind pods, and to what must not be reached.
    #[serde(default)]
    pub routes: Vec<Route>,
}

impl Model {
    /// The UDP port where none is configured: flannel's, which is the Linux kernel's.
    pub const DEFAULT_PORT: u16 = 8472;

    /// The UDP port of [`Encapsulation::Udp`] where none is configured: flannel's.
    pub const DEFAULT_UDP_PORT: u16 = 8285;

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The pods that live on the node of that name.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> + 'a {
        self.pods.iter().filter(move |p| p.node == node)
    }
}

/// A network that pods have their addresses of. flannel's `net-conf.json` says the same of its only one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Unique.
    pub name: String,
    /// All IPv4 pod addresses of the network; each node's IPv4 subnets are parts of it.
    pub ipv4: Option<Ipv4Net>,
    /// All IPv6 pod addresses of the network; each node's IPv6 subnets are parts of it.
    pub ipv6: Option<Ipv6Net>,
    /// The VXLAN network identifier that all nodes use, no two networks the same. flannel's default is 1.
    #[serde(with = "text::vni")]
    pub vni: Vni,
    /// The MTU inside pods, in bytes. None: the underlay's MTU, less the tunnel's headers (50, or 70 over
    /// IPv6) unless there is no tunnel.
    #[serde(with = "text::mtu", default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Which nodes' pods are reached without the tunnel.
    #[serde(default, skip_serializing_if = "DirectRouting::is_never")]
    pub direct_routing: DirectRouting,
}

/// What pods' packets are in on their way to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// VXLAN (RFC 7348).
    #[default]
    Vxlan,
    /// UDP with nothing between, as with flannel's backend `udp`: one network, of IPv4.
    Udp,
    /// IPv4 (RFC 2003), as with flannel's backend `ipip`: one network, of IPv4.
    Ipip,
}

impl Encapsulation {
    /// The usual one.
    pub fn is_vxlan(&self) -> bool {
        *self == Self::Vxlan
    }

    /// Its name in files, and flannel's for the backend.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Udp => "udp",
            Self::Ipip => "ipip",
        }
    }
}

/// Which nodes' pods are reached without the tunnel: by the node's own stack, with the other node as the next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectRouting {
    /// None.
    #[default]
    Never,
    /// Those on the same link as this one, as with flannel's `DirectRouting`. The others have the tunnel.
    OnLink,
    /// All, as with flannel's backend `host-gw`. Those that are not on the same link are not reached at all.
    Always,
}

impl DirectRouting {
    /// Everything goes through the tunnel.
    pub fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

impl Network {
    /// The name of the first network where none is given.
    pub const DEFAULT_NAME: &str = "default";
    /// The VNI of the first network where none is configured: flannel's.
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

    /// The addresses of both families, as far as there are.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        [self.ipv4.map(IpNet::V4), self.ipv6.map(IpNet::V6)].into_iter().flatten()
    }
}

/// A node of the cluster: a tunnel endpoint with its pod subnets behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique; the Kubernetes node name where there is Kubernetes.
    pub name: String,
    /// The pod subnets that are routed to this node, without host bits, of any of the networks. The first address after the network's
    /// is the gateway, see [`gateway`].
    pub subnets: Vec<IpNet>,
    /// The IPv4 address of the underlay where this node receives VXLAN. Needed where the node has IPv4
    /// subnets.
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address of the underlay where this node receives VXLAN. Without it, IPv6 pods are carried by
    /// the IPv4 tunnel.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The MAC address of the node's VTEP in the first network: the inner destination of what is routed to it. Needed of peers;
    /// where the own node has none, one is made and kept.
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac: Option<MacAddr>,
    /// The MAC address of the VTEP on the IPv6 underlay, where it differs: flannel has a device of its own
    /// for it (`flannel-v6.<VNI>`). See [`Node::vtep_mac_in`].
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac_v6: Option<MacAddr>,
    /// As `vtep_mac`, for the further networks, by their names.
    #[serde(with = "text::macs", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vtep_macs: BTreeMap<String, MacAddr>,
    /// As `vtep_mac_v6`, for the further networks, by their names.
    #[serde(with = "text::macs", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vtep_macs_v6: BTreeMap<String, MacAddr>,
}

impl Node {
    /// The MAC address of the VTEP in a network of `model`, as far as one is given. On the IPv6 underlay (`over_v6`) it is
    /// the one given for that, or else that of the IPv4 underlay.
    pub fn vtep_mac_in(&self, model: &Model, network: usize, over_v6: bool) -> Option<MacAddr> {
        let (v4, v6) = match network {
            0 => (self.vtep_mac, self.vtep_mac_v6),
            _ => {
                let name = &model.networks.get(network)?.name;
                (self.vtep_macs.get(name).copied(), self.vtep_macs_v6.get(name).copied())
            }
        };
        if over_v6 { v6.or(v4) } else { v4 }
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
    /// Its addresses, each within a subnet of its node, with that subnet's prefix length, that of one address, or that
    /// of the network: then it takes all pods of the network to be on its link, and weft answers for those of other
    /// nodes. There may be several of a family.
    pub addresses: Vec<IpNet>,
    /// Its MAC address. None: one that is derived from the name, see [`Pod::mac_or_derived`].
    #[serde(with = "text::mac", default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Whether it may send from any MAC and IP address: a router, a firewall, a bridge to other stations. What it sends
    /// from is learned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
    /// The MTU of its interface where that is to be less than its network's.
    #[serde(with = "text::mtu", default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// The routes inside an ordinary pod. None: the default routes by the gateways of its subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<PodRoute>>,
    /// How fast it may receive and send.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// How fast a pod may receive and send. Bytes on the wire count, with Ethernet headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What it receives. None: as fast as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RateLimit>,
    /// What it sends. None: as fast as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<RateLimit>,
}

impl Bandwidth {
    /// Both ways as fast as it can.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// This, and `other` where this says nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { ingress: self.ingress.or(other.ingress), egress: self.egress.or(other.egress) }
    }
}

/// A limit of a pod's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// On average, in bits a second.
    #[serde(with = "text::rate")]
    pub rate: BitRate,
    /// At once after a pause, in bits. None: what the rate brings in 10 ms, which is the least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

/// A route inside a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRoute {
    /// The destinations, without host bits.
    pub to: IpNet,
    /// The next hop. None: the gateway of the pod's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// A route beside those to the nodes' subnets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destinations, without host bits. Not within a node's subnet, whose addresses are pods'.
    pub to: IpNet,
    /// Where they are.
    pub target: Target,
    /// The only node that has the route, instead of what all nodes have to the same destinations. None: all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Where a [`Route`] leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Through one of these pods, of whichever node; several cost the same. Addresses of `to`'s family.
    Via(Vec<IpAddr>),
    /// Nowhere, and senders are told that it can't be reached.
    Unreachable,
    /// Nowhere, and senders are told that it is forbidden.
    Prohibit,
    /// Nowhere, and nobody is told.
    Blackhole,
}
