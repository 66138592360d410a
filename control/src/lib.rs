//! (in the making)

pub mod config;
pub mod model;
pub mod settings;
pub mod source;
