//! The ends of the tunnels: `GET /v1/vteps`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Mac;

/// The answer to `GET /v1/vteps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vteps {
    /// Those of the other nodes, in the order of the nodes in the desired state.
    pub vteps: Vec<Vtep>,
    /// This node's.
    pub local: Vec<LocalVtep>,
}

/// The far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vtep {
    /// Its number in the snapshot in force; null while there is none, such as without an uplink.
    pub index: Option<u32>,
    /// The node's name.
    pub node: String,
    /// The name of the network that it carries.
    pub network: String,
    /// The network's VXLAN network identifier.
    pub vni: u32,
    /// The underlay address that is sent to.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// The MAC address that inner frames are sent to; null where the desired state has none.
    pub mac: Option<Mac>,
    /// The router on the way to it, or its own address on the same link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub next_hop: Option<IpAddr>,
    /// The next hop's MAC address, once the kernel has resolved it. With the uplink `socket` only the kernel needs it, and it may
    /// be left out although packets can be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mac: Option<Mac>,
    /// The address that is sent from, by the kernel's route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub source: Option<IpAddr>,
    /// The largest inner IP packet, in bytes; null while it has no number.
    pub mtu: Option<u32>,
    /// What the path carries, in bytes of outer IP packet, where a router has said that it is less than the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Whether packets can be sent to it.
    pub resolved: bool,
}

/// This node's end of the tunnels of one network over one underlay address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LocalVtep {
    /// The network's name.
    pub network: String,
    /// The network's VXLAN network identifier.
    pub vni: u32,
    /// The underlay address that peers send to.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// The MAC address that peers send inner frames to.
    pub mac: Mac,
}
