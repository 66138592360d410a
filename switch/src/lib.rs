//! The dataplane of weft: bursts of packets in, bursts of packets out.
//!
//! Read [`types`], [`packet`] and [`port`] first, then [`worker`], whose `burst` names the stages in their order:
//! [`parse`], [`classify`], [`apply`]. They look things up in [`tables`].
//!
//! Everything here but `drivers` compiles and is tested with no DPDK, no root and no clock.

pub mod apply;
pub mod classify;
pub mod counters;
#[cfg(feature = "drivers")]
pub mod drivers;
pub mod drop_reason;
pub mod event;
mod flow_hash;
pub mod ip_tunnel;
pub mod limits;
pub mod memory;
pub mod offload;
pub mod packet;
pub mod parse;
pub mod pins;
pub mod port;
pub mod questions;
pub mod stations;
pub mod tables;
pub mod wire;
pub mod worker;

pub use weft_types as types;
