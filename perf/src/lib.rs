//! What the benchmarks run on.
//!
//! [`scene`] is the node under load: its tables, the frames, and what another switch must be told to do the same work. [`fixed`] is a
//! platform that costs next to nothing, so that what is measured is the engine; [`lane`] is a switch on it with one way through it
//! under load. [`capture`] reads and writes the files that DPDK programs take their frames from.

pub mod capture;
pub mod fixed;
pub mod lane;
pub mod scene;
