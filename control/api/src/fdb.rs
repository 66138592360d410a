//! The forwarding database, MAC address to port: `GET /v1/fdb`.

use serde::{Deserialize, Serialize};

use crate::Mac;

/// The answer to `GET /v1/fdb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fdb {
    /// In the order of their MAC addresses.
    pub entries: Vec<FdbEntry>,
}

/// Where frames to a MAC address go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FdbEntry {
    /// The MAC address.
    pub mac: Mac,
    /// The number of the port that it is behind; null for the gateway, which is the switch itself.
    pub port_id: Option<u16>,
    /// The port's name.
    pub port: Option<String>,
    /// How it came here.
    pub kind: FdbKind,
    /// Seconds since a frame came from it; of learned ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}

/// How an entry came into the forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FdbKind {
    /// From the desired state: a pod's or the host's.
    Static,
    /// From a frame of a trusted port.
    Learned,
    /// The gateway's: what is sent there is routed.
    Gateway,
}

impl FdbKind {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Learned => "learned",
            Self::Gateway => "gateway",
        }
    }
}
