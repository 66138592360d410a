//! The control API's server side: HTTP and JSON over a UNIX socket. What is served is in `weft-api`; who knows the
//! answers implements [`Backend`].
//!
//! Order of reading: `listen` makes the socket, `serve` guards the connections (those of the metrics too), `routes` says
//! what there is and what it asks, `document` says the same as OpenAPI.

mod document;
mod listen;
mod routes;
mod serve;
#[cfg(test)]
mod tests;

pub use listen::{BindError, SocketFile, bind};
pub use serve::{Limits, Listener, serve, serve_routes, serve_with};

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use weft_api::{
    ApiError, ConfigReport, Drops, Fdb, Flows, Mac, Neighbours, Pins, Pod, PodSpec, Pods, Ports, Routes,
    Stats, Status, Vteps, Workers,
};

/// Who knows the answers.
///
/// Each call runs in a task of its own and is not cancelled when its client goes away, so that a pod is never half
/// made; a panic in one is the answer 500.
pub trait Backend: Send + Sync + 'static {
    /// How the daemon is.
    fn status(&self) -> impl Future<Output = Result<Status, ApiError>> + Send;
    /// All pods of this node, in the order of their names, or the one of this name.
    fn pods(&self, name: Option<String>) -> impl Future<Output = Result<Pods, ApiError>> + Send;
    /// Makes a pod. Its shape has been checked, what depends on the node has not.
    fn add_pod(&self, spec: PodSpec) -> impl Future<Output = Result<Pod, ApiError>> + Send;
    /// Removes a pod and answers with what it was. The name is any text.
    fn delete_pod(&self, name: String) -> impl Future<Output = Result<Pod, ApiError>> + Send;
    /// All ports, or the one of this name.
    fn ports(&self, name: Option<String>) -> impl Future<Output = Result<Ports, ApiError>> + Send;
    /// The forwarding database: all, or what is behind this port or this MAC address.
    fn fdb(
        &self,
        port: Option<String>,
        mac: Option<Mac>,
    ) -> impl Future<Output = Result<Fdb, ApiError>> + Send;
    /// All neighbours, or what is known of this address.
    fn neighbours(
        &self,
        address: Option<IpAddr>,
    ) -> impl Future<Output = Result<Neighbours, ApiError>> + Send;
    /// The ends of the tunnels: all, or those to this node.
    fn vteps(&self, node: Option<String>) -> impl Future<Output = Result<Vteps, ApiError>> + Send;
    /// All routes, or the one that a packet to this address takes.
    fn routes(&self, address: Option<IpAddr>) -> impl Future<Output = Result<Routes, ApiError>> + Send;
    /// The connection pins: of this address on either side or all, so many at most.
    fn pins(
        &self,
        address: Option<IpAddr>,
        limit: usize,
    ) -> impl Future<Output = Result<Pins, ApiError>> + Send;
    /// The flows of so long a time from now on, so many at most.
    fn flows(&self, lasts: Duration, limit: usize) -> impl Future<Output = Result<Flows, ApiError>> + Send;
    /// What the workers are at.
    fn workers(&self) -> impl Future<Output = Result<Workers, ApiError>> + Send;
    /// The settings: what is in force, and what the file says.
    fn config(&self) -> impl Future<Output = Result<ConfigReport, ApiError>> + Send;
    /// Counters of ports and workers.
    fn stats(&self) -> impl Future<Output = Result<Stats, ApiError>> + Send;
    /// Drops by reason; with `all` the reasons too that never happened.
    fn drops(&self, all: bool) -> impl Future<Output = Result<Drops, ApiError>> + Send;
}
