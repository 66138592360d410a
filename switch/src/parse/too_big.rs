//! What a router of the underlay says about a tunnel packet that was too big for it: Fragmentation Needed (RFC 1191) and
//! Packet Too Big (RFC 4443, section 3.2).
//!
//! Anybody on the underlay can send such a message. It is believed only if it quotes a packet that this node can have
//! sent: from one of its tunnel ends to a known peer's, and larger than what the router says it carries (RFC 5927, section 7).

use std::net::IpAddr;

use super::{L3, parse};
use crate::offload::checksum::icmp_checksum_ok;
use crate::packet::PacketBuf;
use crate::tables::Snapshot;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::icmp::{self, ICMP_LEN, IcmpView};
use crate::wire::icmpv6::{self, ICMPV6_LEN, Icmpv6View};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{IPV6_LEN, Ipv6View};
use crate::wire::udp::{UDP_LEN, UdpView};
use crate::wire::vxlan::VXLAN_LEN;

/// What every IPv4 link carries at least (RFC 791): less is no MTU.
const LEAST_V4: u16 = 68;
/// As [`LEAST_V4`] for IPv6 (RFC 8200, section 5).
const LEAST_V6: u32 = 1280;
/// The VXLAN header and the inner Ethernet header.
const INSIDE_UDP: usize = VXLAN_LEN + ETHERNET_LEN;

/// A tunnel packet was too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig {
    /// This node's end of the tunnel, from which the packet was.
    pub local: IpAddr,
    /// Where the packet was sent to.
    pub peer: IpAddr,
    /// What the path carries, in bytes of outer IP packet.
    pub mtu: u16,
    /// Bytes of the outer headers, from the outer IP header to the inner one.
    pub overhead: u16,
    /// Where what the packet carried begins in the quote: its VXLAN header.
    pub vxlan: usize,
    /// Where the quote ends.
    pub end: usize,
}

/// Reads such a message; `None` for everything else that comes from the underlay.
pub fn too_big<B: PacketBuf>(packet: &B, tables: &Snapshot) -> Option<TooBig> {
    let head = packet.head();
    let told = match parse(head, packet.len(), 0).ok()?.l3 {
        L3::V4(ip) if ip.protocol == IpProtocol::ICMP && !ip.fragment => {
            let end = ETHERNET_LEN + ip.len as usize;
            let message = head.get(usize::from(ip.l4)..end.min(head.len()))?;
            let icmp = IcmpView::new_checked(message).ok()?;
            let about = (icmp.icmp_type(), icmp.code());
            if about != (icmp::DESTINATION_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED) {
                return None;
            }
            let quoted = Ipv4View::new_header_checked(icmp.payload()).ok()?;
            let first = quoted.fragment_offset() == 0 && quoted.protocol() == IpProtocol::UDP;
            let mtu = icmp.next_hop_mtu();
            let local = IpAddr::V4(quoted.src());
            if !first || mtu < LEAST_V4 || mtu >= quoted.total_len() || local != IpAddr::V4(ip.dst) {
                return None;
            }
            let udp = usize::from(ip.l4) + ICMP_LEN + quoted.header_len();
            let overhead = quoted.header_len() + UDP_LEN + INSIDE_UDP;
            let to = (local, quoted.dst().into(), mtu, overhead);
            icmp_checksum_ok(packet, ip.l4.into(), end, None).then_some((to, udp, end))
        }
        L3::V6(ip) if ip.protocol == IpProtocol::ICMPV6 && !ip.fragment => {
            let end = ETHERNET_LEN + ip.len as usize;
            let message = head.get(usize::from(ip.l4)..end.min(head.len()))?;
            let icmp = Icmpv6View::new_checked(message).ok()?;
            let quoted = Ipv6View::new_header_checked(icmp.payload()).ok()?;
            let len = (IPV6_LEN + usize::from(quoted.payload_len())) as u32;
            let local = IpAddr::V6(quoted.src());
            let about = icmp.icmp_type() == icmpv6::PACKET_TOO_BIG && quoted.next_header() == IpProtocol::UDP;
            if !about || icmp.mtu() < LEAST_V6 || icmp.mtu() >= len || local != IpAddr::V6(ip.dst) {
                return None;
            }
            let mtu = icmp.mtu().min(u16::MAX.into()) as u16;
            let udp = usize::from(ip.l4) + ICMPV6_LEN + IPV6_LEN;
            let to = (local, quoted.dst().into(), mtu, IPV6_LEN + UDP_LEN + INSIDE_UDP);
            icmp_checksum_ok(packet, ip.l4.into(), end, Some((ip.src, ip.dst))).then_some((to, udp, end))
        }
        _ => None,
    };
    let ((local, peer, mtu, overhead), udp_at, end) = told?;
    let udp = UdpView::new_header_checked(head.get(udp_at..end.min(head.len()))?).ok()?;
    let mut ours = tables.local_vteps.iter().filter(|own| own.address == local);
    let known = ours.any(|own| tables.peers.accepts(peer, own.vni));
    let vxlan = udp_at + UDP_LEN;
    (known && udp.dst_port() == tables.vxlan_port).then_some(TooBig {
        local,
        peer,
        mtu,
        overhead: overhead as u16,
        vxlan,
        end,
    })
}
