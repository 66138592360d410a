//! Headers as they usually are, read by offsets that are known when this is compiled: without options and extensions, whole.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::route::Family;
use crate::offload::checksum::udp_checksum_ok;
use crate::packet::PacketBuf;
use crate::parse::Ip;
use crate::wire::checksum::{ipv4_header_ok, udp4_ok};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::VXLAN_LEN;

/// Of the transport header so much must be there: as much as UDP has.
pub(super) const TRANSPORT: usize = UdpHeader::LEN;
/// Headers of a frame over IPv4, and over IPv6.
pub(super) const PLAIN4: usize = ETHERNET_LEN + IPV4_LEN + TRANSPORT;
pub(super) const PLAIN6: usize = ETHERNET_LEN + IPV6_LEN + TRANSPORT;
/// Where, in a tunnel packet over IPv4, the UDP header begins, the inner frame and the inner IP header.
pub(super) const OUTER_UDP: usize = ETHERNET_LEN + IPV4_LEN;
pub(super) const INNER: usize = OUTER_UDP + UdpHeader::LEN + VXLAN_LEN;
pub(super) const INNER_IP: usize = INNER + ETHERNET_LEN;
/// Headers of a tunnel packet with IPv4 inside and outside.
pub(super) const TUNNEL4: usize = INNER + PLAIN4;

/// It stands for several packets: how long they are is more than a length. What else its state says is not asked here.
#[inline(always)]
pub(super) fn is_to_be_cut(frame: &impl PacketBuf) -> bool {
    !frame.is_plain() && frame.offload().gso.is_some()
}

/// Whether the checksum of the outer UDP packet, which ends at `end`, is right or need not be looked at.
#[inline(always)]
pub(super) fn outer_sum_ok(frame: &impl PacketBuf, end: usize) -> bool {
    match frame.head().get(OUTER_UDP - 2 * size_of::<Ipv4Addr>()..end) {
        Some(bytes) if frame.is_plain() => udp4_ok(bytes, (end - OUTER_UDP) as u16),
        _ => udp_checksum_ok(frame, ETHERNET_LEN, OUTER_UDP),
    }
}

#[inline(always)]
pub(super) fn is_routable<A: Family>(ip: &Ip<A>) -> bool {
    ip.dst.is_destination() && ip.src.is_source()
}

/// An IPv4 header without options and the beginning of what follows, which stand at `at` in a frame of `end` bytes.
#[inline(always)]
pub(super) fn read_v4(head: &[u8; IPV4_LEN + TRANSPORT], at: usize, end: usize) -> Option<Ip<Ipv4Addr>> {
    let total = u16::from_be_bytes(*part(head, 2));
    let fragment = u16::from_be_bytes(*part(head, 6)) & 0x3fff;
    if head[0] != 0x45
        || fragment != 0
        || usize::from(total) < IPV4_LEN + TRANSPORT
        || at + usize::from(total) > end
        || !ipv4_header_ok(part(head, 0))
    {
        return None;
    }
    Some(Ip {
        src: Ipv4Addr::from_bits(u32::from_be_bytes(*part(head, 12))),
        dst: Ipv4Addr::from_bits(u32::from_be_bytes(*part(head, 16))),
        ttl: head[8],
        ecn: head[1] & 3,
        protocol: IpProtocol(head[9]),
        fragment: false,
        l4: (at + IPV4_LEN) as u16,
        ports: u32::from_be_bytes(*part(head, IPV4_LEN)),
        len: total.into(),
    })
}

/// An IPv6 header with TCP or UDP behind it.
#[inline(always)]
pub(super) fn read_v6(head: &[u8; IPV6_LEN + TRANSPORT], at: usize, end: usize) -> Option<Ip<Ipv6Addr>> {
    let payload = usize::from(u16::from_be_bytes(*part(head, 4)));
    let protocol = IpProtocol(head[6]);
    if head[0] >> 4 != 6
        || payload < TRANSPORT
        || at + IPV6_LEN + payload > end
        || !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP)
    {
        return None;
    }
    Some(Ip {
        src: Ipv6Addr::from_bits(u128::from_be_bytes(*part(head, 8))),
        dst: Ipv6Addr::from_bits(u128::from_be_bytes(*part(head, 24))),
        ttl: head[7],
        ecn: head[1] >> 4 & 3,
        protocol,
        fragment: false,
        l4: (at + IPV6_LEN) as u16,
        ports: u32::from_be_bytes(*part(head, IPV6_LEN)),
        len: (IPV6_LEN + payload) as u32,
    })
}

/// Destination and source as numbers, and what the frame carries.
#[inline(always)]
pub(super) fn macs(head: &[u8; ETHERNET_LEN]) -> (u64, u64, u16) {
    let dst = u64::from_be_bytes(*part(head, 0)) >> 16;
    let src = u64::from_be_bytes(*part(head, 6));
    (dst, src >> 16, src as u16)
}

#[inline(always)]
pub(super) fn is_multicast(mac: u64) -> bool {
    mac & 1 << 40 != 0
}

#[inline(always)]
pub(super) fn is_unicast(mac: u64) -> bool {
    !is_multicast(mac) && mac != 0
}

/// The `N` bytes at `at`, which are constants: no check is left when it is compiled.
#[inline(always)]
pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
}
