//! Ports: `GET /v1/ports`.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ports {
    /// In the order of their numbers.
    pub ports: Vec<Port>,
}

/// A port of the switch. "rx" is what the switch received from it, "tx" what it sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// Its number, used again after it is gone.
    pub id: u16,
    /// The pod's name, or the interface.
    pub name: String,
    /// How it is attached: `tap`, `vhost-user`, `dpdk`, `host` or `uplink`.
    pub kind: String,
    /// What it is for.
    pub role: PortRole,
    /// The largest IP packet that is sent to it, in bytes.
    pub mtu: u32,
    /// The worker that owns its queues; null where every worker has queues of its own.
    pub worker: Option<u16>,
    /// Whether the other side is there: a guest that has connected, an interface that is up.
    pub connected: bool,
    /// Frames received. A GSO frame counts once.
    pub rx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub tx_bytes: u64,
    /// Frames from this port that were dropped.
    pub rx_drops: u64,
    /// Frames that were to be sent to this port, and dropped because it did not take them.
    pub tx_drops: u64,
    /// Frames to this port that had to wait because of its limit.
    #[serde(default)]
    pub delayed: u64,
    /// How often nothing more was taken from this port for a while because of its limit.
    #[serde(default)]
    pub paused: u64,
    /// MAC addresses that are learned behind it now.
    pub learned: u32,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PortRole {
    /// A pod that is held to its own addresses.
    Pod,
    /// A pod that may send from any address; what it sends from is learned.
    Trusted,
    /// The node's own stack.
    Host,
    /// The underlay.
    Uplink,
}

impl PortRole {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Trusted => "trusted",
            Self::Host => "host",
            Self::Uplink => "uplink",
        }
    }
}
