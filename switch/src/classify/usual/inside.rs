//! Tunnel packets with IPv6 inside, outside or both, read and decided at once. The rules are those of [`Usual::look_through`](super::Usual::look_through),
//! which stays apart: a loop over a burst that holds all four kinds makes each of them dearer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{Action, ECN_CE, ECN_NOT_ECT, Ingress};
use super::headers::{TRANSPORT, is_routable, is_to_be_cut, is_unicast, macs, part, read_v4, read_v6};
use super::way::{By, Out};
use super::{Look, Wish, brief};
use crate::classify::route::Family;
use crate::offload::checksum::udp_checksum_ok;
use crate::packet::PacketBuf;
use crate::parse::{Brief, Carries, Ip};
use crate::tables::Snapshot;
use crate::types::Vni;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UdpHeader;
use crate::wire::vxlan::{FLAG_VNI, VXLAN_LEN};

/// What the packet before has found.
#[derive(Default)]
pub(super) struct Inside {
    /// The local end of the tunnel, its MAC address, and the other end, in this network.
    ends: Option<(IpAddr, u64, IpAddr, u32)>,
    routed4: Option<(Ipv4Addr, Out)>,
    routed6: Option<(Ipv6Addr, Out)>,
}

/// A family's header.
trait Header: Family + Into<IpAddr> {
    const ETHERTYPE: u16;
    const CARRIES: Carries;
    /// Bytes of it.
    const LEN: usize;
    /// The header that stands at `at` in a frame of `end` bytes, and the beginning of what follows.
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>>;
    fn routed(inside: &mut Inside) -> &mut Option<(Self, Out)>;
    /// Where, in a tunnel packet, the UDP header begins, and the inner frame.
    const UDP: usize = ETHERNET_LEN + Self::LEN;
    const INNER: usize = Self::UDP + UdpHeader::LEN + VXLAN_LEN;
}

impl Header for Ipv4Addr {
    const ETHERTYPE: u16 = EtherType::IPV4.0;
    const CARRIES: Carries = Carries::V4;
    const LEN: usize = IPV4_LEN;
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>> {
        read_v4(part(head, at), at, end)
    }
    fn routed(inside: &mut Inside) -> &mut Option<(Self, Out)> {
        &mut inside.routed4
    }
}

impl Header for Ipv6Addr {
    const ETHERTYPE: u16 = EtherType::IPV6.0;
    const CARRIES: Carries = Carries::V6;
    const LEN: usize = IPV6_LEN;
    fn read(head: &[u8], at: usize, end: usize) -> Option<Ip<Self>> {
        read_v6(part(head, at), at, end)
    }
    fn routed(inside: &mut Inside) -> &mut Option<(Self, Out)> {
        &mut inside.routed6
    }
}

impl Inside {
    /// What is to be done with the packet; `None` where that is another's to say.
    #[inline(never)]
    pub(super) fn decide(
        &mut self,
        tables: &Snapshot,
        from: &Ingress<'_>,
        frame: &impl PacketBuf,
    ) -> Option<(Action, Brief)> {
        let head: &[u8; Ipv6Addr::INNER + ETHERNET_LEN] = frame.head().first_chunk()?;
        let ethertype = |at| macs(part(head, at)).2;
        match (ethertype(0), ethertype(Ipv6Addr::INNER)) {
            (Ipv4Addr::ETHERTYPE, _) => self.through::<Ipv4Addr, Ipv6Addr>(tables, from, frame),
            (Ipv6Addr::ETHERTYPE, Ipv4Addr::ETHERTYPE) => {
                self.through::<Ipv6Addr, Ipv4Addr>(tables, from, frame)
            }
            (Ipv6Addr::ETHERTYPE, _) => self.through::<Ipv6Addr, Ipv6Addr>(tables, from, frame),
            _ => None,
        }
    }

    fn through<O: Header, I: Header>(
        &mut self,
        tables: &Snapshot,
        from: &Ingress<'_>,
        frame: &impl PacketBuf,
    ) -> Option<(Action, Brief)> {
        let least = O::INNER + ETHERNET_LEN + I::LEN + TRANSPORT;
        let head = frame.head().get(..least)?;
        let (_, src, ethertype) = macs(part(head, 0));
        if ethertype != O::ETHERTYPE || !is_unicast(src) || is_to_be_cut(frame) {
            return None;
        }
        let outer = O::read(head, ETHERNET_LEN, frame.len())?;
        let udp_len = usize::from(u16::from_be_bytes(*part(head, O::UDP + 4)));
        let vxlan = u64::from_be_bytes(*part(head, O::UDP + UdpHeader::LEN));
        let end = O::UDP + udp_len;
        if outer.protocol != IpProtocol::UDP
            || outer.ports as u16 != tables.vxlan_port
            || end < least
            || end > ETHERNET_LEN + outer.len as usize
            || vxlan & !(0xff_ffff << 8) != u64::from(FLAG_VNI) << 56
            || !udp_checksum_ok(frame, ETHERNET_LEN, O::UDP)
        {
            return None;
        }
        let local = self.local_mac(tables, (outer.dst.into(), outer.src.into()), (vxlan >> 8) as u32)?;
        let (dst, src, ethertype) = macs(part(head, O::INNER));
        if dst != local || src == local || !is_unicast(src) || ethertype != I::ETHERTYPE {
            return None;
        }
        let ip = I::read(head, O::INNER + ETHERNET_LEN, end)?;
        if outer.ecn == ECN_CE && ip.ecn == ECN_NOT_ECT || !is_routable(&ip) {
            return None;
        }
        let by = By { tables, from, hop: true, confirmed: false };
        let action = by.forward(I::routed(self), &ip)?;
        let look = Look { ip, wish: Wish::Route, len: (end - O::INNER) as u32, outer_ecn: outer.ecn };
        Some((action, brief(&look, action, I::CARRIES)))
    }

    /// The MAC address of this node's end of a tunnel, if the other end is a peer.
    fn local_mac(&mut self, tables: &Snapshot, (own, peer): (IpAddr, IpAddr), vni: u32) -> Option<u64> {
        match self.ends {
            Some((last, mac, last_peer, last_vni)) if (last, last_peer, last_vni) == (own, peer, vni) => {
                Some(mac)
            }
            _ => {
                let local =
                    tables.local_vteps.iter().find(|local| local.address == own && local.vni.get() == vni)?;
                if !tables.peers.accepts(peer, Vni::new(vni).ok()?) {
                    return None;
                }
                let mac = local.mac.to_bits();
                self.ends = Some((own, mac, peer, vni));
                Some(mac)
            }
        }
    }
}
