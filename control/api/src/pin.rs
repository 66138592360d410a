//! Connection pins, flows that go to the host port wherever they would go by themselves: `GET /v1/pins`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How many pins are listed where nobody says how many.
pub const PIN_LIMIT: usize = 1000;
/// How many are listed at most.
pub const PIN_LIMIT_MAX: usize = 100_000;

/// The answer to `GET /v1/pins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pins {
    /// How many there are.
    pub count: u64,
    /// How many there is room for.
    pub capacity: u64,
    /// What that room takes, in bytes.
    pub memory_bytes: u64,
    /// Pins that had to go before their time, for others, since the start.
    pub evicted: u64,
    /// Those that were asked for, the youngest first, and no more than were asked for.
    pub entries: Vec<Pin>,
}

/// One pin: the answers of a connection that the node's kernel translates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pin {
    /// Where the answers come from.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub src: IpAddr,
    /// The pod of this node that they are for.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub dst: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Source port; of an ICMP echo the identifier; 0 where there is none.
    pub src_port: u16,
    /// Destination port, as `src_port`.
    pub dst_port: u16,
    /// What was seen of the connection: `opening`, `opened`, `unanswered`, `established`, `closed_by_pod`, `closed_by_other`, `closed`, `reset` (TCP), `asked`,
    /// `answered` (UDP), `echo` (ICMP), `other`; `fragments` for what has no ports.
    pub state: String,
    /// Seconds since a packet of it was seen.
    pub age_s: u64,
    /// Seconds until it is forgotten, if there is none.
    pub expires_s: u64,
}
