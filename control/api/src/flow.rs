//! Flows, from sampled packets: `GET /v1/flows`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Seconds that flows are watched when nothing else is said.
pub const FLOW_SECONDS: u32 = 1;

/// Seconds that flows are watched at most.
pub const FLOW_SECONDS_MAX: u32 = 20;

/// Flows in an answer when nothing else is said.
pub const FLOW_LIMIT: usize = 100;

/// Flows in an answer at most.
pub const FLOW_LIMIT_MAX: usize = 10_000;

/// The answer to `GET /v1/flows`, after the time that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Flows {
    /// Those with the most bytes first.
    pub flows: Vec<Flow>,
    /// How many flows there were, those over the limit among them.
    pub seen: u64,
    /// One packet in so many was looked at in the end; packets and bytes are estimated from them. More traffic, fewer
    /// samples: each counts as many packets as it stood for when it was taken.
    pub sampled_one_in: u32,
    /// Samples that were lost because too many came at once.
    pub lost: u64,
}

/// Packets with the same addresses, protocol and ports that came in by the same port and went the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Flow {
    /// The name of the port that they came in by.
    pub port: String,
    /// Source address, inside the tunnel where there is one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub src: IpAddr,
    /// Destination address.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub dst: IpAddr,
    /// IP protocol number, such as 6 for TCP and 17 for UDP.
    pub protocol: u8,
    /// Source port; 0 without.
    pub sport: u16,
    /// Destination port; 0 without.
    pub dport: u16,
    /// Packets, estimated: samples times [`Flows::sampled_one_in`]. A GSO frame counts once.
    pub packets: u64,
    /// Their bytes of IP packet, estimated likewise.
    pub bytes: u64,
    /// What became of them.
    pub verdict: FlowVerdict,
    /// Where they went: the name of the port, the node at the tunnel's other end, or the drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FlowVerdict {
    /// Sent to a port.
    Port,
    /// Sent through the tunnel.
    Tunnel,
    /// Sent to several ports.
    Flooded,
    /// Answered by the switch.
    Answered,
    /// Taken by the switch.
    Consumed,
    /// Dropped.
    Dropped,
}

impl FlowVerdict {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Tunnel => "tunnel",
            Self::Flooded => "flooded",
            Self::Answered => "answered",
            Self::Consumed => "consumed",
            Self::Dropped => "dropped",
        }
    }
}
