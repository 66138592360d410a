//! The control side of weftd: [`source`] → [`model`] → validate → [`mod@compile`] → publish, and the [`api`] and the [`metrics`].
//!
//! Read [`model`] first, then [`daemon`], which joins everything.

pub mod api;
pub mod compile;
mod conntrack;
pub mod daemon;
pub mod dataplane;
pub mod metrics;
pub mod ports;
pub mod reload;
pub mod rules;
pub mod source;
pub mod supervisor;

pub use weft_config::{cluster, config, model, settings};
