//! Frames that stand for several, handed to the kernel as they are: it cuts them last of all, or has the NIC do it, and where the
//! other node is on the same machine nobody does.
//!
//! That way passes by the packet filter, IPsec and the answers that a socket gets. So it is taken only to a destination that a socket
//! has just reached with such a frame, cut by the kernel, which is found out anew every [`BELIEVED`]: what forbids the one soon ends
//! the other. Headers are as from the socket that the flow has. That peers are behind the uplink's interface, the control side sees to.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::whole::{TUNNEL_HDR_LEN, WholeTx};

use super::plan::{Lane, SENDERS};
use crate::offload::virtio::{HEADER_TUNNEL, TunnelPlaces, emit_tunnel};
use crate::packet::PacketBuf;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

const _: () = assert!(TUNNEL_HDR_LEN == HEADER_TUNNEL);

/// Destinations that are remembered at most; frames to others go by sockets.
const KNOWN: usize = 64;
/// How long what was found out about a destination is believed.
const BELIEVED: Duration = Duration::from_millis(100);
/// How long nothing goes this way after the kernel has refused a frame.
const REFUSED: Duration = Duration::from_secs(10);

/// The ports of the sockets, of each family.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ports {
    pub(super) v4: [u16; SENDERS],
    pub(super) v6: [u16; SENDERS],
}

/// The way for such frames.
#[derive(Debug)]
pub(super) struct Whole {
    tx: WholeTx,
    ports: Ports,
    proved: Proved,
    /// The next IPv4 packet's identification: each of a frame's pieces has one of its own.
    ident: u16,
}

/// Which destinations a socket has reached, and when.
#[derive(Debug, Default)]
struct Proved {
    destinations: ArrayVec<(IpAddr, Instant), KNOWN>,
    refused: Option<Instant>,
}

impl Proved {
    fn has(&self, to: IpAddr, now: Instant) -> bool {
        self.destinations.iter().any(|(known, until)| *known == to && now < *until)
    }

    fn add(&mut self, to: IpAddr, now: Instant) {
        if self.refused.is_some_and(|since| now < since + REFUSED) {
            return;
        }
        self.refused = None;
        self.destinations.retain(|(known, until)| *known != to && now < *until);
        // One that does not fit goes on by sockets.
        let _full = self.destinations.try_push((to, now + BELIEVED));
    }

    fn forget(&mut self, to: IpAddr) {
        self.destinations.retain(|(known, _)| *known != to);
    }

    fn refuse(&mut self, now: Instant) {
        self.destinations.clear();
        self.refused = Some(now);
    }
}

impl Whole {
    pub(super) fn new(tx: WholeTx, ports: Ports) -> Self {
        Self { tx, ports, proved: Proved::default(), ident: 0 }
    }

    /// True if frames to there may go this way now.
    pub(super) fn is_open(&self, to: IpAddr, now: Instant) -> bool {
        self.proved.has(to, now)
    }

    /// A socket has reached the destination with a frame that the kernel has cut.
    #[cold]
    pub(super) fn prove(&mut self, to: IpAddr, now: Instant) {
        self.proved.add(to, now);
    }

    /// Writes the outer headers of a frame that stands for so many packets, as [`ready`] says.
    pub(super) fn ready(&mut self, packet: &mut impl PacketBuf, lane: &Lane, count: usize) -> bool {
        let ident = self.ident;
        self.ident = ident.wrapping_add(count as u16);
        ready(packet, lane, &self.ports, ident)
    }

    /// Sends a frame that was made ready. False if the kernel did not take it.
    pub(super) fn send(&mut self, packet: &Mbuf, lane: &Lane) -> bool {
        let udp = (lane.vxlan() - UDP_LEN) as u16;
        let inner = (lane.vxlan() + VXLAN_LEN + ETHERNET_LEN) as u16;
        let places = TunnelPlaces { v6: lane.from.is_ipv6(), udp, inner };
        let mut header = [0; HEADER_TUNNEL];
        let mut pieces = ArrayVec::new();
        let told = emit_tunnel(packet.offload(), places, packet, &mut header).is_ok();
        if !(told && packet.io_slices(&mut pieces)) {
            return false;
        }
        match self.tx.send(&header, &pieces) {
            Ok(taken) => taken,
            // Of this frame: the next one there goes through a socket, which may carry what this way does not.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                self.proved.forget(lane.to.ip());
                false
            }
            Err(_) => {
                self.proved.refuse(Instant::now());
                false
            }
        }
    }
}

/// Writes what a socket would write into the outer headers: the port, over IPv4 the identification, and of the checksum the
/// pseudo-header's sum. False for a frame that is too long for one packet.
pub(super) fn ready(packet: &mut impl PacketBuf, lane: &Lane, ports: &Ports, ident: u16) -> bool {
    let udp = lane.vxlan() - UDP_LEN;
    let (len, socket) = (packet.len() - udp, usize::from(lane.socket));
    if packet.len() - ETHERNET_LEN > usize::from(u16::MAX) {
        return false;
    }
    let (sum, port) = match (lane.from, lane.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (Sum::pseudo_v4(from, to, IpProtocol::UDP, len), ports.v4.get(socket))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            (Sum::pseudo_v6(from, to, IpProtocol::UDP, len), ports.v6.get(socket))
        }
        _ => return false,
    };
    let (Some(port), Some(header)) = (port, packet.head_mut().get_mut(udp..udp + UDP_LEN)) else {
        return false;
    };
    header[..2].copy_from_slice(&port.to_be_bytes());
    header[6..].copy_from_slice(&sum.fold().to_be_bytes());
    if lane.from.is_ipv4() {
        let ip = &mut packet.head_mut()[ETHERNET_LEN..udp];
        ip[4..6].copy_from_slice(&ident.to_be_bytes());
        ip[10..12].fill(0);
        let checksum = Sum::new().add(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, begin: Instant) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn what_a_socket_has_found_out_is_believed_for_a_time() {
        let begin = Instant::now();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let mut proved = Proved::default();
        assert!(!proved.has(a, begin));
        proved.add(a, begin);
        assert!(proved.has(a, at(99, begin)) && !proved.has(b, begin));
        assert!(!proved.has(a, at(100, begin)), "asked anew");
        proved.add(b, at(50, begin));
        proved.add(a, at(60, begin));
        assert!(proved.has(a, at(150, begin)) && proved.has(b, at(140, begin)));
    }

    #[test]
    fn a_refusal_sends_everything_through_sockets_for_a_time() {
        let begin = Instant::now();
        let to: IpAddr = "192.0.2.1".parse().unwrap();
        let mut proved = Proved::default();
        proved.add(to, begin);
        proved.refuse(begin);
        assert!(!proved.has(to, begin));
        proved.add(to, at(9_999, begin));
        assert!(!proved.has(to, at(9_999, begin)));
        proved.add(to, at(10_000, begin));
        assert!(proved.has(to, at(10_001, begin)));
    }

    #[test]
    fn more_destinations_than_are_remembered_go_through_sockets() {
        let begin = Instant::now();
        let mut proved = Proved::default();
        let address = |number: usize| IpAddr::from([10, 0, 0, number as u8]);
        (0..KNOWN + 1).for_each(|number| proved.add(address(number), begin));
        assert!(proved.has(address(KNOWN - 1), begin) && !proved.has(address(KNOWN), begin));
        // When they have aged there is room again.
        proved.add(address(KNOWN), at(100, begin));
        assert!(proved.has(address(KNOWN), at(100, begin)));
    }
}
