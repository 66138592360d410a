//! The dataplane of weft: bursts of packets in, bursts of packets out. Read [`types`], [`packet`] and [`port`] first.
//!
//! Everything here but `drivers` compiles and is tested with no DPDK, no root and no clock.

pub mod drop_reason;
pub mod offload;
pub mod packet;
pub mod port;
pub mod tables;
pub mod types;
pub mod wire;
