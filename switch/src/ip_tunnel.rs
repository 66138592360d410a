//! flannel's tunnels of plain IPv4 packets: in UDP datagrams with nothing between (backend `udp`), and in IPv4 packets (`ipip`,
//! RFC 2003).
//!
//! For the engine the other nodes are neighbours behind one port, [`Role::IpTunnel`](crate::tables::Role::IpTunnel), each with a MAC
//! address that says its underlay address ([`mac_of`]). So a route to a node is one through a neighbour, and neither look-up nor apply
//! knows of the tunnel. The port's driver puts a frame's packet into the tunnel ([`Form::enter`]) and makes frames of what comes out
//! ([`Form::leave`]); what both do needs no kernel.

use std::net::Ipv4Addr;

use crate::classify::{ECN_CE, ECN_ECT_0, ECN_ECT_1, ECN_NOT_ECT};
use crate::offload::unfilled::state_of;
use crate::packet::PacketBuf;
use crate::types::MacAddr;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_LEN, Ipv4Header, Ipv4View};
use crate::wire::udp::UDP_LEN;

/// IPv4 in IPv4 (RFC 2003).
const IPIP: IpProtocol = IpProtocol(4);
/// Of the nodes' MAC addresses: locally administered, and no pod's, gateway's or host's that weft makes.
const PREFIX: [u8; 2] = [0x0a, 0x5e];

/// The MAC address of the node with this underlay address.
pub fn mac_of(node: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = node.octets();
    MacAddr([PREFIX[0], PREFIX[1], a, b, c, d])
}

/// The underlay address that such a MAC address says.
#[inline]
pub fn address_of(mac: MacAddr) -> Option<Ipv4Addr> {
    let [first, second, a, b, c, d] = mac.0;
    ([first, second] == PREFIX).then(|| Ipv4Addr::new(a, b, c, d))
}

/// What the packets are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A UDP datagram each. On their way in and on their way out flanneld counts a hop each, beside those of the nodes' routers.
    Udp,
    /// An IPv4 packet each, whose TTL and don't-fragment flag are those of the packet inside.
    Ipip,
}

/// Why a packet does not go into the tunnel, or comes to nothing out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is no IPv4 packet, or its lengths contradict each other.
    Malformed,
    /// The TTL is used up by the tunnel's own hops.
    Expired,
    /// The outer header says that the way is congested, and the packet inside does not take part (RFC 6040, section 4.2).
    Congested,
}

/// How a packet goes into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// To which node.
    pub to: Ipv4Addr,
    /// The header that goes before the packet. The kernel fills in identification and checksum.
    pub outer: Option<[u8; IPV4_LEN]>,
}

impl Form {
    /// Bytes that are left free in front of what has come in, for [`Self::leave`].
    pub fn front(self) -> usize {
        match self {
            Self::Udp => ETHERNET_LEN,
            // The Ethernet header takes the outer one's place.
            Self::Ipip => 0,
        }
    }

    /// Makes ready what is behind the frame's Ethernet header, to be sent `from` this node. The frame keeps its length.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn enter(self, frame: &mut impl PacketBuf, from: Ipv4Addr) -> Result<Entry, Unfit> {
        let len = frame.len();
        let eth = EthernetView::new_checked(frame.head()).map_err(|_| Unfit::Malformed)?;
        let to = address_of(eth.dst()).filter(|_| eth.ethertype() == EtherType::IPV4);
        let to = to.ok_or(Unfit::Malformed)?;
        let mut ip = packet_of(frame)?;
        if ETHERNET_LEN + usize::from(ip.total_len()) != len {
            return Err(Unfit::Malformed);
        }
        match self {
            Self::Udp => {
                one_hop(&mut ip)?;
                Ok(Entry { to, outer: None })
            }
            Self::Ipip => {
                let header = Ipv4Header {
                    dscp: 0,
                    // As Linux has it (RFC 3168, section 9.1.1, full functionality).
                    ecn: if ip.ecn() == ECN_CE { ECN_ECT_0 } else { ip.ecn() },
                    payload_len: ip.total_len(),
                    ident: 0,
                    dont_fragment: ip.dont_fragment(),
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: ip.ttl(),
                    protocol: IPIP,
                    src: from,
                    dst: to,
                    options: Default::default(),
                };
                let mut outer = [0; IPV4_LEN];
                header.emit(&mut outer).map_err(|_| Unfit::Malformed)?;
                Ok(Entry { to, outer: Some(outer) })
            }
        }
    }

    /// Makes a frame for `gateway` of what has come in `from` a node, behind [`Self::front`] bytes: a datagram, or a packet with its
    /// outer header. Of `mtu` bytes is what one packet in the tunnel has at most.
    ///
    /// A kernel hands raw sockets what it has put together of TCP packets (GRO), or what one on the same machine has not cut yet: it says
    /// nothing of that, and leaves the checksum to whoever cuts.
    ///
    /// # Errors
    /// It comes to nothing.
    pub fn leave(
        self,
        packet: &mut impl PacketBuf,
        from: Ipv4Addr,
        gateway: MacAddr,
        mtu: usize,
    ) -> Result<(), Unfit> {
        match self {
            Self::Udp => {
                make_contiguous(packet, ETHERNET_LEN)?;
                one_hop(&mut packet_of(packet)?)?;
            }
            Self::Ipip => take_out(packet)?,
        }
        let header = EthernetHeader { dst: gateway, src: mac_of(from), ethertype: EtherType::IPV4 };
        header.emit(packet.head_mut()).map_err(|_| Unfit::Malformed)?;
        if self == Self::Ipip {
            packet.set_offload(state_of(packet, 0, mtu, None));
        }
        Ok(())
    }

    /// What the tunnel puts before a packet, on an underlay with IPv4 headers without options.
    pub fn outer_len(self) -> usize {
        match self {
            Self::Udp => IPV4_LEN + UDP_LEN,
            Self::Ipip => IPV4_LEN,
        }
    }
}

/// The header of a frame's packet: with its lengths checked, as far as its first segment goes.
fn packet_of(frame: &mut impl PacketBuf) -> Result<Ipv4View<&mut [u8]>, Unfit> {
    let ip = frame.head_mut().get_mut(ETHERNET_LEN..).ok_or(Unfit::Malformed)?;
    Ipv4View::new_header_checked(ip).map_err(|_| Unfit::Malformed)
}

/// Has the header at `at` in the first segment.
fn make_contiguous(packet: &mut impl PacketBuf, at: usize) -> Result<(), Unfit> {
    let needed = at + IPV4_LEN;
    let there = packet.head().len() >= needed || packet.pull_up(needed);
    there.then_some(()).ok_or(Unfit::Malformed)
}

/// Counts a hop of flanneld's, which says nothing where it is the last one.
fn one_hop(ip: &mut Ipv4View<&mut [u8]>) -> Result<(), Unfit> {
    if ip.ttl() <= 1 {
        return Err(Unfit::Expired);
    }
    ip.decrement_ttl();
    Ok(())
}

/// Takes the outer header off but for the room that an Ethernet header needs, and carries its congestion mark over (RFC 6040,
/// section 4.2).
fn take_out(packet: &mut impl PacketBuf) -> Result<(), Unfit> {
    make_contiguous(packet, 0)?;
    let first = usize::from(packet.head()[0] & 0xf) * 4;
    make_contiguous(packet, first)?;
    let outer = Ipv4View::new_header_checked(packet.head()).map_err(|_| Unfit::Malformed)?;
    let (header, total, ecn) = (outer.header_len(), usize::from(outer.total_len()), outer.ecn());
    if outer.protocol() != IPIP || outer.is_fragment() || total > packet.len() {
        return Err(Unfit::Malformed);
    }
    packet.truncate(total);
    // A header is longer than Ethernet's.
    if total < header + IPV4_LEN || !packet.trim_front(header - ETHERNET_LEN) {
        return Err(Unfit::Malformed);
    }
    let mut ip = packet_of(packet)?;
    match (ecn, ip.ecn()) {
        (ECN_CE, ECN_NOT_ECT) => return Err(Unfit::Congested),
        (ECN_CE, ECN_ECT_0 | ECN_ECT_1) => ip.set_ecn_updating(ECN_CE),
        (ECN_ECT_1, ECN_ECT_0) => ip.set_ecn_updating(ECN_ECT_1),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
