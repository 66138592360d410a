//! How the daemon is: `GET /v1/status`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::Mac;

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// The daemon's version, such as `0.1.0`.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// This node's name in the cluster.
    pub node: String,
    /// Whether all is well.
    pub state: State,
    /// What is not well, a sentence each. Empty when ready.
    pub problems: Vec<String>,
    /// What is worth knowing and no problem, a sentence each, such as a setting that waits for a restart.
    #[serde(default)]
    pub notes: Vec<String>,
    /// When the daemon started, in seconds since 1970-01-01 UTC.
    pub started_at: u64,
    /// Seconds since the start, by a clock that nobody sets.
    pub uptime_s: u64,
    /// The number of the snapshot that the workers use; 0 before the first.
    pub generation: u64,
    /// Where the desired state comes from.
    pub source: Source,
    /// Memory of the daemon.
    pub memory: Memory,
    /// The way to the other nodes.
    pub uplink: Uplink,
    /// The pod network.
    pub network: Network,
    /// How many workers forward packets.
    pub workers: usize,
    /// The interface by which the host itself reaches pods; null when there is none.
    pub host_port: Option<String>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// How many pods there are, from the file and from the API.
    pub pods: usize,
}

/// Whether all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything that is desired is in force.
    Ready,
    /// It forwards, but not all that is desired is in force; [`Status::problems`] says what.
    Degraded,
}

/// Where the desired state comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Source {
    /// Its kind: `file`, `etcd` or `kubernetes`.
    pub kind: String,
    /// The file; null for a source that is none.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub path: Option<PathBuf>,
    /// When it was last taken over whole, in seconds since 1970-01-01 UTC; null if never.
    pub last_loaded: Option<u64>,
    /// Why its newest content was not taken over; null when it was. The older one stays in force.
    pub last_error: Option<String>,
    /// How the store fares; null for a source that has none.
    #[serde(default)]
    pub store: Option<Store>,
}

/// A store that the nodes of a cluster meet in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Store {
    /// Whether it is reached. What it said last stays in force while it is not.
    pub connected: bool,
    /// Since when it is reached, or is not, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// Why it is not reached; null while it is.
    pub error: Option<String>,
    /// The subnets that this node has by its lease.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub subnets: Vec<IpNet>,
    /// When the lease ends if it is not renewed, in seconds since 1970-01-01 UTC; null if it does not end.
    pub lease_until: Option<u64>,
    /// Up to where the store has been read: etcd's revision.
    pub position: Option<String>,
}

/// Memory of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Memory {
    /// Whether packet buffers lie in huge pages.
    pub hugepages: bool,
    /// Packet buffers that there are.
    pub packet_buffers_total: u64,
    /// Packet buffers that nobody holds now.
    pub packet_buffers_free: u64,
    /// Resident memory of the process, in bytes.
    pub rss_bytes: u64,
}

/// The way to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Uplink {
    /// The node's interface.
    pub interface: String,
    /// How weft uses it: `socket`, `af_packet`, `af_xdp` or `dpdk`; `udp` or `ipip` where the tunnel is one of flannel's of these names.
    pub kind: String,
    /// The interface's MTU, in bytes of IP packet.
    pub mtu: u32,
    /// The node's addresses that peers send to.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// What becomes of frames that stand for several packets.
    #[serde(default)]
    pub large_frames: LargeFrames,
    /// How many of them have gone whole since the uplink was opened.
    #[serde(default)]
    pub whole_frames: u64,
}

/// What becomes of a frame that stands for several packets on its way into the tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LargeFrames {
    /// weft cuts it and sends the packets.
    #[default]
    Cut,
    /// The kernel gets it as one message and cuts that (`UDP_SEGMENT`).
    Kernel,
    /// The kernel gets it as one tunnel packet, to the nodes that this works for; else as with `kernel`.
    Whole,
}

/// The pod network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Network {
    /// Of the whole cluster; null without IPv4.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub ipv4: Option<Ipv4Net>,
    /// Of the whole cluster; null without IPv6.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub ipv6: Option<Ipv6Net>,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// MTU of the pods' interfaces, in bytes of IP packet.
    pub pod_mtu: u32,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Peer {
    /// Its name in the cluster.
    pub name: String,
    /// The pod networks that it carries.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub subnets: Vec<IpNet>,
    /// Those of them that are reached without the tunnel.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub direct: Vec<IpNet>,
    /// Its addresses in the underlay.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub public_ips: Vec<IpAddr>,
    /// The MAC address of its VTEP; null for a peer without a tunnel.
    pub vtep_mac: Option<Mac>,
    /// Whether the way to it is known: down to the next hop's MAC address, or, with the uplink `socket`, where the kernel
    /// resolves that, by a route.
    pub resolved: bool,
    /// The router on the way to it, or its own address on the same link; null when there is no route.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub next_hop: Option<IpAddr>,
}
