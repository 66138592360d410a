//! What the benchmarks run on: the engine on a platform that costs next to nothing, so that what is measured is the
//! engine.
//!
//! [`fixed`] is the platform: buffers that are used again and again, ports that are rings. [`lane`] is a switch on it
//! with one way through it under load.

pub mod fixed;
pub mod lane;
