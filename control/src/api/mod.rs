//! The control API's server side: HTTP and JSON over a UNIX socket. What is served is in `weft-api`; who knows the
//! answers implements [`Backend`].
//!
//! Order of reading: `listen` makes the socket, `serve` guards the connections, `routes` says what there is.

mod listen;
mod routes;
mod serve;
#[cfg(test)]
mod tests;

pub use listen::{BindError, SocketFile, bind};
pub use serve::{Limits, serve, serve_with};

use std::future::Future;

use weft_api::{ApiError, Drops, Pod, PodSpec, Pods, Stats, Status};

/// Who knows the answers.
///
/// Each call runs in a task of its own and is not cancelled when its client goes away, so that a pod is never half
/// made; a panic in one is the answer 500.
pub trait Backend: Send + Sync + 'static {
    /// How the daemon is.
    fn status(&self) -> impl Future<Output = Result<Status, ApiError>> + Send;
    /// All pods of this node, in the order of their names.
    fn pods(&self) -> impl Future<Output = Result<Pods, ApiError>> + Send;
    /// Makes a pod. Its shape has been checked, what depends on the node has not.
    fn add_pod(&self, spec: PodSpec) -> impl Future<Output = Result<Pod, ApiError>> + Send;
    /// Removes a pod and answers with what it was. The name is any text.
    fn delete_pod(&self, name: String) -> impl Future<Output = Result<Pod, ApiError>> + Send;
    /// Counters of ports and workers.
    fn stats(&self) -> impl Future<Output = Result<Stats, ApiError>> + Send;
    /// Drops by reason; with `all` the reasons too that never happened.
    fn drops(&self, all: bool) -> impl Future<Output = Result<Drops, ApiError>> + Send;
}
