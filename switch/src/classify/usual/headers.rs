//! Headers as they usually are, read by offsets that are known when this is compiled: without options and extensions, whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::route::Family;
use super::Usual;
use super::way::Out;
use crate::packet::PacketBuf;
use crate::parse::{Carries, Ip};
use crate::tables::{Peers, v4_key};
use crate::types::Vni;
use crate::wire::checksum::ipv4_header_ok;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::VXLAN_LEN;

/// Of the transport header so much must be there: as much as UDP has.
pub(super) const TRANSPORT: usize = UdpHeader::LEN;

/// No MAC address has so many bits.
const NOBODY: u64 = u64::MAX;

/// What the packet before has found, of one family.
pub(super) struct Seen<A: Headers> {
    /// The last source that was let through: MAC and IP address.
    pub(super) source: (u64, A),
    /// The local VTEP of the last tunnel packet, and its MAC address.
    pub(super) local: Option<(A::Vtep, u64)>,
    /// Whose it was.
    pub(super) peer: Option<A::Vtep>,
    /// Where the last destination leads.
    pub(super) routed: Option<(A, Out)>,
}

impl<A: Headers> Default for Seen<A> {
    fn default() -> Self {
        Self { source: (NOBODY, A::UNSPECIFIED), local: None, peer: None, routed: None }
    }
}

/// A family's header.
pub(super) trait Headers: Family + Into<IpAddr> {
    const ETHERTYPE: u16;
    const CARRIES: Carries;
    /// Bytes of it.
    const LEN: usize;
    /// Around a tunnel packet's UDP header the checksum may be missing.
    const UNSUMMED: bool;
    /// An end of a tunnel: underlay address and network.
    type Vtep: Copy + Eq;
    fn vtep(self, vni: u32) -> Self::Vtep;
    fn accepts(peers: &Peers, vtep: Self::Vtep) -> bool;
    fn seen<'u>(usual: &'u mut Usual<'_>) -> &'u mut Seen<Self>;
    /// The header that stands at `at` in a frame of `end` bytes, and the beginning of what follows.
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>>;
    /// Headers of a plain frame.
    const PLAIN: usize = ETHERNET_LEN + Self::LEN + TRANSPORT;
    /// Where, in a tunnel packet, the UDP header begins, and the inner frame.
    const UDP: usize = ETHERNET_LEN + Self::LEN;
    const INNER: usize = Self::UDP + UdpHeader::LEN + VXLAN_LEN;
}

impl Headers for Ipv4Addr {
    const ETHERTYPE: u16 = EtherType::IPV4.0;
    const CARRIES: Carries = Carries::V4;
    const LEN: usize = IPV4_LEN;
    const UNSUMMED: bool = true;
    type Vtep = u64;
    #[inline(always)]
    fn vtep(self, vni: u32) -> u64 {
        v4_key(self.to_bits(), vni)
    }
    #[inline(always)]
    fn accepts(peers: &Peers, vtep: u64) -> bool {
        peers.accepts_v4(vtep)
    }
    #[inline(always)]
    fn seen<'u>(usual: &'u mut Usual<'_>) -> &'u mut Seen<Self> {
        &mut usual.v4
    }
    #[inline(always)]
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>> {
        let head: &[u8; IPV4_LEN + TRANSPORT] = part(head, at);
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
}

impl Headers for Ipv6Addr {
    const ETHERTYPE: u16 = EtherType::IPV6.0;
    const CARRIES: Carries = Carries::V6;
    const LEN: usize = IPV6_LEN;
    const UNSUMMED: bool = false;
    type Vtep = (Ipv6Addr, u32);
    #[inline(always)]
    fn vtep(self, vni: u32) -> (Ipv6Addr, u32) {
        (self, vni)
    }
    fn accepts(peers: &Peers, (address, vni): (Ipv6Addr, u32)) -> bool {
        Vni::new(vni).is_ok_and(|vni| peers.accepts(address.into(), vni))
    }
    #[inline(always)]
    fn seen<'u>(usual: &'u mut Usual<'_>) -> &'u mut Seen<Self> {
        &mut usual.v6
    }
    /// Only with TCP or UDP right behind it: what else may follow is another's to read.
    #[inline(always)]
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>> {
        let head: &[u8; IPV6_LEN + TRANSPORT] = part(head, at);
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
}

/// It stands for several packets: how long they are is more than a length. What else its state says is not asked here.
#[inline(always)]
pub(super) fn is_to_be_cut(frame: &impl PacketBuf) -> bool {
    !frame.is_plain() && frame.offload().gso.is_some()
}

#[inline(always)]
pub(super) fn is_routable<A: Family>(ip: &Ip<A>) -> bool {
    ip.dst.is_destination() && ip.src.is_source()
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
