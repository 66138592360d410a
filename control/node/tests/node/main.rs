//! weft-node against a real kernel, in network namespaces that each test makes for itself. Needs root and iproute2.

mod direct;
mod host;
mod lab;
mod mirror;
mod pod;
mod purge;
mod state;

use std::net::IpAddr;

use weft_node::{Mirror, Path, PathError};

/// The kernel's ways to these destinations, in their order, which the mirror follows from now on.
async fn paths(mirror: &Mirror, destinations: &[IpAddr]) -> Vec<Result<Path, PathError>> {
    mirror.follow(destinations).await;
    destinations.iter().map(|destination| mirror.path(*destination)).collect()
}
