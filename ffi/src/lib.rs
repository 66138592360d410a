//! (in the making)

pub mod kernel;
