//! Safe types over DPDK and the kernel's packet interfaces. This crate is the only one with C in it.
//!
//! [`dpdk`] has the environment, the packet buffer and the ports that DPDK drives; [`kernel`] has what crosses into the
//! kernel, and knows no packet buffer.

pub mod dpdk;
pub mod kernel;
