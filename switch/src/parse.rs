//! Parse: what a frame is, read once. Only reads; everything after it works on the [`Parsed`].
//!
//! Offsets are bytes from the start of the packet's first segment, which holds all headers ([`HEADERS`]).
//! [`parse_tunnel`] looks through the outer headers of a tunnel packet: the frame described is then the inner one.

mod brief;
mod too_big;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use brief::{Brief, Carries};
pub use too_big::{TooBig, too_big};

use crate::drop_reason::DropReason;
use crate::offload::checksum::udp_checksum_ok;
use crate::packet::PacketBuf;
use crate::tables::Snapshot;
use crate::types::{MacAddr, Vni};
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{self, Ipv6View};
use crate::wire::udp::UdpView;
use crate::wire::vlan::{VLAN_LEN, VlanView};
use crate::wire::vxlan::{VXLAN_LEN, VxlanView};

/// So many bytes of a packet are made contiguous at rx: outer and inner Ethernet, IPv6, UDP and VXLAN headers with
/// room for options and extension headers.
pub const HEADERS: usize = 256;

/// An IP packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// TTL or hop limit.
    pub ttl: u8,
    /// ECN field.
    pub ecn: u8,
    /// What follows the header and its extensions.
    pub protocol: IpProtocol,
    /// A fragment, the first included.
    pub fragment: bool,
    /// Where the transport header begins.
    pub l4: u16,
    /// Source and destination port of TCP, UDP and SCTP; zero without and in fragments.
    pub ports: u32,
    /// Bytes in the packet, header included.
    pub len: u32,
}

/// What an Ethernet frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L3 {
    /// An ARP message, not yet looked into.
    Arp,
    /// An IPv4 packet.
    V4(Ip<Ipv4Addr>),
    /// An IPv6 packet.
    V6(Ip<Ipv6Addr>),
    /// Anything else.
    Other,
}

/// What the outer headers of a tunnel packet said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The sender's underlay address.
    pub src: IpAddr,
    /// The network.
    pub vni: Vni,
    /// Outer ECN field.
    pub ecn: u8,
}

/// A frame, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// Where the (inner) Ethernet header begins: 0 for frames that are no tunnel packets.
    pub l2: u16,
    /// Bytes from there to the end of the frame, padding included.
    pub len: u32,
    /// Destination MAC address.
    pub dst: MacAddr,
    /// Source MAC address.
    pub src: MacAddr,
    /// Bytes of 802.1Q tags between the Ethernet header and what it carries: those of two tags at most.
    pub tags: u8,
    /// The only tag names no VLAN but a priority: for a receiver there is none (IEEE 802.1Q, section 6.9).
    pub priority: bool,
    /// What it carries.
    pub l3: L3,
}

impl Parsed {
    /// Where the IP or ARP header begins.
    #[inline]
    pub fn l3_offset(&self) -> usize {
        usize::from(self.l2) + ETHERNET_LEN + usize::from(self.tags)
    }

    /// True for a frame of another VLAN than the switch's own.
    #[inline]
    pub fn in_vlan(&self) -> bool {
        self.tags > 0 && !self.priority
    }
}

/// Reads the frame of `len` bytes of which `head` are the first, from its Ethernet header at `l2`.
#[inline]
pub fn parse(head: &[u8], len: usize, l2: usize) -> Result<Parsed, DropReason> {
    let frame = head.get(l2..).ok_or(DropReason::EthMalformed)?;
    let eth = EthernetView::new_checked(frame).map_err(|_| DropReason::EthMalformed)?;
    let (dst, src) = (eth.dst(), eth.src());
    if !src.is_unicast() {
        return Err(DropReason::EthMalformed);
    }
    let (at, ethertype) = match eth.ethertype() {
        tag if is_tag(tag) => look_through_tags(head, l2 + ETHERNET_LEN)?,
        ethertype => (l2 + ETHERNET_LEN, ethertype),
    };
    let l3 = match ethertype {
        EtherType::IPV4 => L3::V4(parse_v4(head, len, at)?),
        EtherType::IPV6 => L3::V6(parse_v6(head, len, at)?),
        EtherType::ARP => L3::Arp,
        _ => L3::Other,
    };
    let tags = (at - l2 - ETHERNET_LEN) as u8;
    let priority = usize::from(tags) == VLAN_LEN && names_no_vlan(frame);
    Ok(Parsed { l2: l2 as u16, len: len.saturating_sub(l2) as u32, dst, src, tags, priority, l3 })
}

#[inline]
fn is_tag(ethertype: EtherType) -> bool {
    matches!(ethertype, EtherType::VLAN | EtherType::QINQ)
}

/// True for a frame whose first tag is a customer's and carries a priority only.
#[cold]
fn names_no_vlan(frame: &[u8]) -> bool {
    EthernetView::new_checked(frame).is_ok_and(|eth| eth.ethertype() == EtherType::VLAN)
        && VlanView::new_checked(&frame[ETHERNET_LEN..]).is_ok_and(|tag| tag.vid() == 0)
}

/// Where what follows the tags at `at` begins, and what it is.
#[cold]
fn look_through_tags(head: &[u8], mut at: usize) -> Result<(usize, EtherType), DropReason> {
    const MOST: usize = 2;
    for _ in 0..MOST {
        let tag = VlanView::new_checked(&head[at..]).map_err(|_| DropReason::VlanMalformed)?;
        at += VLAN_LEN;
        if !is_tag(tag.ethertype()) {
            return Ok((at, tag.ethertype()));
        }
    }
    Err(DropReason::VlanDepth)
}

#[inline]
fn ports(head: &[u8], l4: usize, protocol: IpProtocol) -> u32 {
    match protocol {
        IpProtocol::TCP | IpProtocol::UDP | IpProtocol::SCTP => {
            head.get(l4..l4 + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        }
        _ => 0,
    }
}

#[inline]
fn parse_v4(head: &[u8], len: usize, at: usize) -> Result<Ip<Ipv4Addr>, DropReason> {
    let ip = Ipv4View::new_header_checked(&head[at..]).map_err(|_| DropReason::Ipv4Malformed)?;
    let total = usize::from(ip.total_len());
    if at + total > len {
        return Err(DropReason::Ipv4Malformed);
    }
    if !ip.verify_checksum() {
        return Err(DropReason::Ipv4Checksum);
    }
    let (fragment, protocol) = (ip.is_fragment(), ip.protocol());
    let l4 = at + ip.header_len();
    Ok(Ip {
        src: ip.src(),
        dst: ip.dst(),
        ttl: ip.ttl(),
        ecn: ip.ecn(),
        protocol,
        fragment,
        l4: l4 as u16,
        ports: if fragment { 0 } else { ports(&head[..head.len().min(at + total)], l4, protocol) },
        len: total as u32,
    })
}

#[inline]
fn parse_v6(head: &[u8], len: usize, at: usize) -> Result<Ip<Ipv6Addr>, DropReason> {
    let ip = Ipv6View::new_header_checked(&head[at..]).map_err(|_| DropReason::Ipv6Malformed)?;
    let total = ipv6::IPV6_LEN + usize::from(ip.payload_len());
    if at + total > len {
        return Err(DropReason::Ipv6Malformed);
    }
    let packet = &head[..head.len().min(at + total)];
    let (mut protocol, mut l4, mut fragment) = (ip.next_header(), at + ipv6::IPV6_LEN, false);
    if !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP | IpProtocol::ICMPV6) {
        let transport = ipv6::transport(&packet[l4..], protocol).map_err(|_| DropReason::Ipv6Malformed)?;
        (protocol, l4, fragment) = (transport.protocol, l4 + transport.offset, transport.fragment.is_some());
    }
    Ok(Ip {
        src: ip.src(),
        dst: ip.dst(),
        ttl: ip.hop_limit(),
        ecn: ip.ecn(),
        protocol,
        fragment,
        l4: l4 as u16,
        ports: if fragment { 0 } else { ports(packet, l4, protocol) },
        len: total as u32,
    })
}

/// Reads a frame from the underlay: the outer headers with everything that a receiver must check of them, then the
/// inner frame. The order of the checks is Linux' own (vxlan_rcv), with the sender checked besides.
pub fn parse_tunnel<B: PacketBuf>(packet: &B, tables: &Snapshot) -> Result<(Parsed, Outer), DropReason> {
    let head = packet.head();
    let outer = parse(head, packet.len(), 0).map_err(of_the_outer_headers)?;
    let (src, dst, protocol, fragment, ecn, udp_at, end) = match outer.l3 {
        _ if outer.tags > 0 => return Err(DropReason::NotTunnel),
        L3::V4(ip) => (ip.src.into(), ip.dst.into(), ip.protocol, ip.fragment, ip.ecn, ip.l4, ip.len),
        L3::V6(ip) => (ip.src.into(), IpAddr::V6(ip.dst), ip.protocol, ip.fragment, ip.ecn, ip.l4, ip.len),
        _ => return Err(DropReason::NotTunnel),
    };
    let mut ours = tables.local_vteps.iter().skip_while(|local| local.address != dst).peekable();
    if protocol != IpProtocol::UDP || ours.peek().is_none() {
        return Err(DropReason::NotTunnel);
    }
    if fragment {
        return Err(of_a_piece(head, udp_at, tables.vxlan_port));
    }
    let (udp_at, end) = (usize::from(udp_at), ETHERNET_LEN + end as usize);
    let udp = UdpView::new_header_checked(&head[udp_at..]).map_err(|_| DropReason::OuterUdpMalformed)?;
    if udp.dst_port() != tables.vxlan_port {
        return Err(DropReason::NotTunnel);
    }
    let udp_len = usize::from(udp.len());
    if udp_at + udp_len > end {
        return Err(DropReason::OuterUdpMalformed);
    }
    // Absent is allowed over IPv4 (RFC 768) but not over IPv6: flannel has no agreement on that (RFC 6935).
    if !udp_checksum_ok(packet, ETHERNET_LEN, udp_at) {
        return Err(DropReason::OuterUdpChecksum);
    }

    let vxlan_at = udp_at + 8;
    if udp_len < 8 + VXLAN_LEN {
        return Err(DropReason::VxlanMalformed);
    }
    let vxlan = VxlanView::new_checked(&head[vxlan_at..]).map_err(|_| DropReason::VxlanMalformed)?;
    if !vxlan.is_strict() {
        return Err(DropReason::VxlanReserved);
    }
    let vni = vxlan.vni();
    // Goes on where the address was found: the VTEPs are gone through once.
    let local = ours.find(|local| local.vni == vni && local.address == dst);
    let local = local.ok_or(DropReason::VniUnknown)?;
    if !tables.peers.accepts(src, vni) {
        return Err(DropReason::VtepUnknown);
    }
    let inner_at = vxlan_at + VXLAN_LEN;
    let inner = parse(&head[..head.len().min(udp_at + udp_len)], udp_at + udp_len, inner_at);
    let inner = inner.map_err(of_the_inner_headers)?;
    if inner.tags > 0 {
        return Err(DropReason::InnerTagged);
    }
    if inner.src == local.mac {
        return Err(DropReason::InnerMacOwn);
    }
    if inner.dst != local.mac {
        return Err(DropReason::InnerMacWrong);
    }
    if !matches!(inner.l3, L3::V4(_) | L3::V6(_)) {
        return Err(DropReason::InnerNotIp);
    }
    Ok((inner, Outer { src, vni, ecn }))
}

/// Why a piece of an outer packet is dropped. Only the first one has the port, so it speaks for all.
#[cold]
fn of_a_piece(head: &[u8], udp_at: u16, vxlan_port: u16) -> DropReason {
    let ip = &head[ETHERNET_LEN..];
    let offset = match (Ipv4View::new_header_checked(ip), Ipv6View::new_header_checked(ip)) {
        (Ok(v4), _) => v4.fragment_offset(),
        (_, Ok(v6)) => ipv6::transport(&ip[ipv6::IPV6_LEN..], v6.next_header())
            .map_or(0, |transport| transport.fragment.map_or(0, |fragment| fragment.offset)),
        _ => return DropReason::OuterIpMalformed,
    };
    let port = usize::from(udp_at) + 2;
    if offset == 0 && head.get(port..port + 2) == Some(&vxlan_port.to_be_bytes()) {
        DropReason::OuterFragment
    } else {
        DropReason::NotTunnel
    }
}

/// A drop reason of [`parse`] told apart from that of a pod's frame.
#[cold]
fn of_the_outer_headers(reason: DropReason) -> DropReason {
    match reason {
        DropReason::Ipv4Malformed | DropReason::Ipv6Malformed => DropReason::OuterIpMalformed,
        DropReason::Ipv4Checksum => DropReason::OuterIpChecksum,
        other => other,
    }
}

/// As [`of_the_outer_headers`], behind the VXLAN header.
#[cold]
fn of_the_inner_headers(reason: DropReason) -> DropReason {
    match reason {
        DropReason::EthMalformed => DropReason::InnerEthMalformed,
        DropReason::Ipv4Malformed | DropReason::Ipv6Malformed => DropReason::InnerIpMalformed,
        DropReason::Ipv4Checksum => DropReason::InnerIpChecksum,
        other => other,
    }
}
