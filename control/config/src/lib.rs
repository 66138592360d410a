//! The two files of weft: [`config`] is `weftd.toml`, what this node's daemon is like; [`cluster`] is `cluster.toml`, the
//! desired state of all nodes, read into a [`model`]. Both are read by [`settings`], which says all mistakes at once.
//!
//! Nothing here needs DPDK, root or a running daemon: weftd, `weft config check` and the tests read the same way.

pub mod check;
pub mod cluster;
pub mod config;
pub mod document;
pub mod model;
pub mod settings;
