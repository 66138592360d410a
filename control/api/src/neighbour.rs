//! Neighbours, IP address to MAC address, and who contradicts them: `GET /v1/neigh`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Mac;

/// The answer to `GET /v1/neigh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Neighbours {
    /// In the order of their addresses.
    pub entries: Vec<Neighbour>,
    /// Addresses that a second station claims.
    pub conflicts: Vec<Conflict>,
}

/// Who has an IP address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Neighbour {
    /// The address.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// Its MAC address; null while the kernel does not know that of an underlay neighbour.
    pub mac: Option<Mac>,
    /// The number of the port that it is behind; without for the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_id: Option<u16>,
    /// The port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// How it is known.
    pub kind: NeighbourKind,
    /// Whether the MAC address is known; of underlay neighbours only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NeighbourState>,
    /// Seconds since it was last heard of; of learned ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}

/// How a neighbour is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NeighbourKind {
    /// A pod of this node, from the desired state.
    Static,
    /// A station behind a trusted port, from what it said.
    Learned,
    /// The gateway's own address: the switch answers for it.
    Gateway,
    /// A next hop on the way to another node, from the kernel.
    Underlay,
}

impl NeighbourKind {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Learned => "learned",
            Self::Gateway => "gateway",
            Self::Underlay => "underlay",
        }
    }
}

/// Whether the MAC address of a neighbour on the underlay is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// It is.
    Resolved,
    /// Not yet, or no more: what goes there is dropped as `vtep_unresolved`.
    Unresolved,
    /// That is the kernel's business: with the uplink `socket` it resolves the address when there is something to send.
    Kernel,
}

/// A station that claims another's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Conflict {
    /// What it claims.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// The station that claims it.
    pub mac: Mac,
    /// The name of the port that the claim came in by.
    pub port: String,
    /// How often it was claimed.
    pub count: u64,
    /// When it was claimed last, in seconds since 1970-01-01 UTC.
    pub last_seen: u64,
}
