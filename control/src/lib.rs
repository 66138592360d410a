//! (in the making)

pub mod model;
