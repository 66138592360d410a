//! The control API of weftd, version 1: its types, and a client over the UNIX socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1` | [`Index`]: what there is |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/pods` | [`Pods`] |
//! | `POST /v1/pods` with a [`PodSpec`] | 201 and the [`Pod`] |
//! | `DELETE /v1/pods/{name}` | the [`Pod`] that was removed |
//! | `GET /v1/stats` | [`Stats`] |
//! | `GET /v1/drops` (`?all=true`: the reasons that never happened too) | [`Drops`] |
//!
//! Every answer is JSON. One that is no success carries an [`ApiError`]. A connection serves one request.
//!
//! Within version 1 a field keeps its name, meaning and unit. Fields may be added, so readers ignore those that
//! they don't know; a request with a field that the daemon does not know is refused, because it would not be heeded.

mod client;
mod error;
mod mac;
mod pod;
mod stats;
mod status;

pub use client::{Client, ClientError};
pub use error::{ApiError, ErrorCode};
pub use mac::{Mac, MacError};
pub use pod::{Origin, Pod, PodPort, PodSpec, PodState, Pods, SpecError, VhostMode};
pub use stats::{Drop, Drops, PortStats, Stats, Total, WorkerStats};
pub use status::{Memory, Network, Peer, Source, State, Status, Uplink};

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
pub struct Index {
    /// The daemon's version, such as `0.1.0`.
    pub version: String,
    /// Methods and paths, such as `GET /v1/status`.
    pub resources: Vec<String>,
}
