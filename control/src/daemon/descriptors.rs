//! How many files weftd may have open. Each worker has a queue of each TAP, so a node with many pods needs more than the
//! limit that programs are commonly started with, which they may raise.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// What is open besides the pods' queues: DPDK, the uplink, clients.
const OWN: u64 = 256;
/// Pods that a node commonly has at most: they may come later.
const COMMON: u64 = 250;

/// Raises the limit as far as weftd may, and says if it is too low for so many pods.
pub(super) fn raise(pods: usize, workers: usize) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        Ok(most)
    });
    let (pods, workers) = (COMMON.max(pods as u64), workers as u64);
    match raised {
        Ok(limit) if limit < needed(pods, workers) => warn!(
            "no more than {limit} open files are allowed: {pods} pods with {workers} queues each may need {}; \
             raise the limit (LimitNOFILE=)",
            needed(pods, workers)
        ),
        Ok(limit) => info!("{limit} open files are allowed"),
        Err(error) => warn!("cannot raise the limit of open files: {error}"),
    }
}

fn needed(pods: u64, workers: u64) -> u64 {
    OWN + pods * workers
}
