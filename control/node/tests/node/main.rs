//! weft-node against a real kernel, in network namespaces that each test makes for itself. Needs root and iproute2.

mod crew;
mod direct;
mod host;
mod lab;
mod mirror;
mod pod;
mod purge;
mod state;

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_node::{Mirror, Path, PathError};

/// The kernel's ways to these destinations, in their order, which the mirror follows from now on.
async fn paths(mirror: &Mirror, destinations: &[IpAddr]) -> Vec<Result<Path, PathError>> {
    let mut sorted = destinations.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    mirror.follow(&sorted).await;
    let all = all_paths(mirror);
    destinations.iter().map(|destination| all[destination].clone()).collect()
}

/// What the mirror says of all that it follows.
fn all_paths(mirror: &Mirror) -> BTreeMap<IpAddr, Result<Path, PathError>> {
    let mut all = BTreeMap::new();
    mirror.each_path(|destination, path| {
        all.insert(destination, path);
    });
    all
}
