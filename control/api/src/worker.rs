//! Workers: `GET /v1/workers`.

use serde::{Deserialize, Serialize};

use crate::WorkerStats;

/// The answer to `GET /v1/workers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workers {
    /// In the order of their numbers.
    pub workers: Vec<Worker>,
}

/// A worker: a thread that forwards packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Worker {
    /// What it has counted.
    #[serde(flatten)]
    pub stats: WorkerStats,
    /// The names of the ports whose queues it owns, in their order.
    pub ports: Vec<String>,
    /// The snapshot that it uses; null while it sleeps, and then it takes the newest when it wakes.
    pub generation: Option<u64>,
}
