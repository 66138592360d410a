//! The bridge: frames by MAC address between the ports of a node's segment.

mod flood;
mod guard;
mod learning;
mod reserved;
pub(crate) mod unfinished;
mod unicast;
mod vlan;
