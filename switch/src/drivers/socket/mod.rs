//! The uplink as UDP sockets in the kernel, which makes the outer headers, routes, resolves and filters.
//!
//! The engine speaks of whole tunnel packets: [`SocketRx`] puts headers in front of what comes in, so that what a receiver checks
//! is checked in one place, and [`SocketTx`] reads from the headers where the rest is to go.
//!
//! What is made of bytes needs no kernel: [`Delivery`] makes packets of messages, [`Plan`] messages of packets. Both are public
//! for those who test them.

mod delivery;
mod plan;
mod routers;
mod rx;
mod shape;
mod tx;
mod whole;

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use delivery::{Delivery, Filled};
pub use plan::{Lane, Plan, SENDERS, Share};
pub use rx::SocketRx;
pub use shape::Shape;
pub use tx::SocketTx;
pub use weft_ffi::kernel::udp::Received;

use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Where a tunnel packet has its VXLAN header.
const VXLAN_V4: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
const VXLAN_V6: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

/// From nobody to nobody: the kernel has taken the frame's own header off, and nothing depends on it.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const TTL: u8 = 64;

fn put_addresses(ip: &mut [u8], from: Ipv6Addr, to: Ipv6Addr) {
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..40].copy_from_slice(&to.octets());
}

/// The MTU of the underlay, which the control side keeps up to date while the queues are at work.
#[derive(Debug, Clone)]
pub struct UnderlayMtu(Arc<AtomicU32>);

impl UnderlayMtu {
    /// In bytes.
    pub fn new(mtu: u32) -> Self {
        Self(Arc::new(AtomicU32::new(mtu)))
    }

    /// From now on.
    pub fn set(&self, mtu: u32) {
        self.0.store(mtu, Ordering::Relaxed);
    }

    /// In bytes, of a packet without a tunnel.
    pub(super) fn underlay(&self) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }

    /// What is left for an inner IP packet.
    pub(super) fn overlay(&self, v6: bool) -> usize {
        let outer = if v6 { IPV6_LEN } else { IPV4_LEN } + UDP_LEN + VXLAN_LEN + ETHERNET_LEN;
        (self.0.load(Ordering::Relaxed) as usize).saturating_sub(outer)
    }
}
