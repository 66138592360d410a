//! What a worker tells the control side: tier 3 of the packet path. Events are rare by construction (limited, sampled, or about a
//! change), small, and lost with a count when nobody takes them; no packet waits for them.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::types::{MacAddr, PortId};

/// Events that wait at most, for each worker.
const WAITING: usize = 4096;

/// Something that the control side should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A station behind `port` claims an address that belongs to another: an ARP message or neighbour advertisement
    /// with the address of a pod, of the gateway, or of the host.
    Conflict {
        /// Where the claim came in.
        port: PortId,
        /// Who claims it.
        mac: MacAddr,
        /// What is claimed.
        address: IpAddr,
    },
    /// A station behind a trusted port says where an address is that no pod has.
    Neighbour {
        /// Where it came in.
        port: PortId,
        /// The station.
        mac: MacAddr,
        /// Its address.
        address: IpAddr,
    },
    /// A router on the underlay says that a tunnel packet to `peer` was too big.
    PathMtu {
        /// The outer destination of the packet that was too big.
        peer: IpAddr,
        /// What the path carries, in bytes of outer IP packet.
        mtu: u16,
    },
    /// A sampled packet.
    Flow(FlowSample),
}

/// One packet out of many, for the list of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowSample {
    /// Where it came in.
    pub port: PortId,
    /// Source address, inside the tunnel where there is one.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination port, 0 without.
    pub ports: (u16, u16),
    /// Bytes of the IP packet; of a GSO frame all of them.
    pub bytes: u32,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a sampled packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Sent to this port.
    Port(PortId),
    /// Sent through the tunnel to the VTEP of this index.
    Tunnel(u32),
    /// Sent to several ports.
    Flooded,
    /// Answered by the switch.
    Answered,
    /// Taken by the switch.
    Consumed,
    /// Dropped, for the reason of this index.
    Dropped(u8),
}

/// The queue between one worker and the control side. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Events(Arc<ArrayQueue<Event>>);

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(ArrayQueue::new(WAITING)))
    }
}

impl Events {
    /// Tells it; false, with the event lost, when too many wait.
    #[inline]
    pub fn tell(&self, event: Event) -> bool {
        self.0.push(event).is_ok()
    }

    /// The oldest that waits.
    pub fn take(&self) -> Option<Event> {
        self.0.pop()
    }
}
