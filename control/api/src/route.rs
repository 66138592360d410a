//! Routes of the pod networks: `GET /v1/routes`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/routes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Routes {
    /// In the order of their destinations, IPv4 first. With `?match=ADDRESS` the one that a packet to the address takes, or
    /// none where there is no way.
    pub routes: Vec<Route>,
}

/// Where packets to a prefix go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Route {
    /// The destinations.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub to: IpNet,
    /// What becomes of them.
    pub kind: RouteKind,
    /// The next hops: underlay addresses of nodes, or addresses of pods. Several cost the same.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub via: Vec<IpAddr>,
    /// The node that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The name of the network that the destinations are of, where it leads to another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The name of the port that packets leave by. A `local` route has one with `?match=ADDRESS` only: that of the pod
    /// with the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The largest IP packet on this way, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The reason by which packets are dropped, where no pod of this node has the address. With `?match=ADDRESS` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// What becomes of packets to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// To the pod of this node that has the address.
    Local,
    /// To the node's own stack.
    Host,
    /// Through the tunnel to another node.
    Vtep,
    /// To another node without the tunnel.
    Direct,
    /// To a pod of this node that routes on.
    Hop,
    /// To one of several next hops, chosen by flow.
    Group,
    /// Nowhere; the sender is told that the host is unreachable.
    Unreachable,
    /// Nowhere; the sender is told that it is forbidden.
    Prohibit,
    /// Nowhere; nobody is told.
    Blackhole,
}

impl RouteKind {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Host => "host",
            Self::Vtep => "vtep",
            Self::Direct => "direct",
            Self::Hop => "hop",
            Self::Group => "group",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Blackhole => "blackhole",
        }
    }
}
