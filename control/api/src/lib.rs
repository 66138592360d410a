//! The control API of weftd, version 1: its types, and clients over the UNIX socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1` | [`Index`]: what there is |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/pods` (`?name=POD`) | [`Pods`] |
//! | `POST /v1/pods` with a [`PodSpec`] | 201 and the [`Pod`] |
//! | `DELETE /v1/pods/{name}` | the [`Pod`] that was removed |
//! | `GET /v1/ports` (`?name=PORT`) | [`Ports`] |
//! | `GET /v1/fdb` (`?port=PORT`, `?mac=MAC`) | [`Fdb`] |
//! | `GET /v1/neigh` (`?address=ADDRESS`) | [`Neighbours`] |
//! | `GET /v1/vteps` (`?node=NODE`) | [`Vteps`] |
//! | `GET /v1/routes` (`?match=ADDRESS`: the one route to the address) | [`Routes`] |
//! | `GET /v1/pins` (`?address=ADDRESS`, `?limit=1000`) | [`Pins`] |
//! | `GET /v1/flows` (`?seconds=1&limit=100`) | [`Flows`], after that time |
//! | `GET /v1/workers` | [`Workers`] |
//! | `GET /v1/config` | [`ConfigReport`] |
//! | `GET /v1/stats` | [`Stats`] |
//! | `GET /v1/drops` (`?all=true`: the reasons that never happened too) | [`Drops`] |
//! | `GET /v1/openapi.json` | all this as an OpenAPI 3.1 document |
//!
//! Every answer is JSON. One that is no success carries an [`ApiError`]. A connection serves one request.
//!
//! Within version 1 a field keeps its name, meaning and unit. Fields may be added, so readers ignore those that
//! they don't know; a request with a field that the daemon does not know is refused, because it would not be heeded.

pub mod blocking;
#[cfg(feature = "client")]
mod client;
mod config;
mod error;
mod fdb;
mod flow;
mod mac;
mod neighbour;
mod pin;
mod pod;
mod port;
mod route;
mod stats;
mod status;
mod vtep;
mod worker;

#[cfg(feature = "client")]
pub use client::{Client, ClientError};
pub use config::{ConfigReport, Pending, Sections};
pub use error::{ApiError, ErrorCode};
pub use fdb::{Fdb, FdbEntry, FdbKind};
pub use flow::{FLOW_LIMIT, FLOW_LIMIT_MAX, FLOW_SECONDS, FLOW_SECONDS_MAX, Flow, FlowVerdict, Flows};
pub use mac::{Mac, MacError};
pub use neighbour::{Conflict, Neighbour, NeighbourKind, NeighbourState, Neighbours};
pub use pin::{PIN_LIMIT, PIN_LIMIT_MAX, Pin, Pins};
pub use pod::{
    Bandwidth, Cni, Origin, Pod, PodPort, PodRoute, PodSpec, PodState, Pods, SpecError, VhostMode,
    is_pod_name,
};
pub use port::{Port, PortRole, Ports};
pub use route::{Route, RouteKind, Routes};
pub use stats::{Drop, Drops, PortStats, Stats, Total, WorkerState, WorkerStats};
pub use status::{LargeFrames, Memory, Network, Peer, Source, State, Status, Store, Uplink};
pub use vtep::{LocalVtep, Vtep, Vteps};
pub use worker::{Worker, Workers};

use serde::{Deserialize, Serialize};

/// Where weftd listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/weft/weftd.sock";

/// Where weftd keeps what must outlive it when nothing else is said.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/weft";

/// The host's own port when nothing else is said.
pub const DEFAULT_HOST_PORT: &str = "weft0";

/// The network interface in a TAP pod when its specification names none.
pub const DEFAULT_IFNAME: &str = "eth0";

/// A request's body at most, in bytes. A longer one is answered with 413.
pub const BODY_LIMIT: usize = 64 * 1024;

/// The answer to `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Index {
    /// The daemon's version, such as `0.1.0`.
    pub version: String,
    /// Methods and paths, such as `GET /v1/status`.
    pub resources: Vec<String>,
}
