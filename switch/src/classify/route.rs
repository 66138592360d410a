//! The router: IP packets by their destination's longest prefix (RFC 1812; RFC 8200).
//!
//! What cannot be forwarded is rejected, which tells the sender, or dropped in silence: where the route says so, where there is
//! nobody to tell, and where a way is missing only for the moment. While the kernel looks for the MAC address of the way
//! to a peer, an error would end connections that a second later could be made.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::next_hop::{Target, member, resolve};
use super::{Action, IcmpError, Ingress, LastHits, Reply, Way};
use crate::drop_reason::DropReason;
use crate::flow_hash;
use crate::offload::{Gso, GsoKind};
use crate::parse::{Ip, Parsed};
use crate::tables::{Encap, Neighbour, PodGuard, Prefix, Role, Routes, Snapshot, Vtep};
use crate::types::Mtu;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_LEN, Ipv4Options, Ipv4View};
use crate::wire::tcp::TCP_LEN;
use crate::wire::udp::UdpHeader;

/// An address family as the router sees it.
pub(crate) trait Family: Prefix {
    fn routes(tables: &Snapshot) -> &Routes<Self>;
    fn neighbour(self, tables: &Snapshot) -> Option<Neighbour>;
    fn is_gateway(self, tables: &Snapshot) -> bool;
    /// A unicast address that routers forward from (RFC 1812, section 5.3.7; RFC 4291, section 2.5).
    fn is_source(self) -> bool;
    /// A unicast address that routers forward to.
    fn is_destination(self) -> bool;
    /// A source that routers do not forward from, but may answer on its link: an IPv6 link-local address.
    fn is_on_link(self) -> bool;
    /// What a pod may send from.
    fn allowed(self, guard: &PodGuard, protocol: IpProtocol) -> bool;
    fn last(last: &mut LastHits) -> &mut Option<(Self, Target)>;
    /// Why a packet with such options is not forwarded.
    fn bad_options(head: &[u8], parsed: &Parsed, ip: &Ip<Self>) -> Option<DropReason>;
    /// What the tunnel to this VTEP counts as carrying.
    fn tunnel_mtu(tables: &Snapshot, far: &Vtep) -> Mtu;
    /// Whether a packet that is too big may be cut.
    fn may_be_cut(head: &[u8], parsed: &Parsed) -> bool;
    fn flow_hash(ip: &Ip<Self>) -> u32;
    const ECHO: (IpProtocol, u8, Reply);
    const UNSPECIFIED: Self;
}

impl Family for Ipv4Addr {
    fn routes(tables: &Snapshot) -> &Routes<Self> {
        &tables.routes4
    }
    #[inline]
    fn neighbour(self, tables: &Snapshot) -> Option<Neighbour> {
        tables.neighbours4.get(&self).copied()
    }
    #[inline]
    fn is_gateway(self, tables: &Snapshot) -> bool {
        tables.gateway.v4.contains(&self)
    }
    #[inline]
    fn is_source(self) -> bool {
        // By number, not by byte: what is taken apart is kept in parts, and waits for itself when it is read as a whole.
        self.is_destination() && self.to_bits() >> 16 != 169 << 8 | 254
    }
    /// Link-local ones too, as Linux does: nodes serve name resolution and metadata to their pods there.
    #[inline]
    fn is_destination(self) -> bool {
        let first = self.to_bits() >> 24;
        first != 0 && first != 127 && first < 224
    }
    /// There is no message for it.
    fn is_on_link(self) -> bool {
        false
    }
    #[inline]
    fn allowed(self, guard: &PodGuard, _: IpProtocol) -> bool {
        guard.has_v4(self)
    }
    #[inline]
    fn last(last: &mut LastHits) -> &mut Option<(Self, Target)> {
        &mut last.v4
    }
    #[inline]
    fn bad_options(head: &[u8], parsed: &Parsed, ip: &Ip<Self>) -> Option<DropReason> {
        if usize::from(ip.l4) == parsed.l3_offset() + IPV4_LEN { None } else { bad_options(head, parsed) }
    }
    #[inline]
    fn tunnel_mtu(_: &Snapshot, far: &Vtep) -> Mtu {
        far.mtu
    }
    fn may_be_cut(head: &[u8], parsed: &Parsed) -> bool {
        Ipv4View::new_header_checked(&head[parsed.l3_offset()..]).is_ok_and(|ip| !ip.dont_fragment())
    }
    #[inline]
    fn flow_hash(ip: &Ip<Self>) -> u32 {
        flow_hash::v4(ip)
    }
    const ECHO: (IpProtocol, u8, Reply) = (IpProtocol::ICMP, 8, Reply::Echo4);
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
}

impl Family for Ipv6Addr {
    fn routes(tables: &Snapshot) -> &Routes<Self> {
        &tables.routes6
    }
    #[inline]
    fn neighbour(self, tables: &Snapshot) -> Option<Neighbour> {
        tables.neighbours6.get(&self).copied()
    }
    #[inline]
    fn is_gateway(self, tables: &Snapshot) -> bool {
        tables.gateway.v6.contains(&self)
    }
    #[inline]
    fn is_source(self) -> bool {
        self.is_destination()
    }
    #[inline]
    fn is_destination(self) -> bool {
        !self.is_unspecified() && !self.is_loopback() && !self.is_multicast() && !self.is_unicast_link_local()
    }
    fn is_on_link(self) -> bool {
        self.is_unicast_link_local()
    }
    /// Its own addresses; link-local ones, which do not leave the segment; and none at all before it has one, for
    /// duplicate address detection (RFC 4862).
    #[inline]
    fn allowed(self, guard: &PodGuard, protocol: IpProtocol) -> bool {
        guard.has_v6(self)
            || self.is_unicast_link_local()
            || (self.is_unspecified() && protocol == IpProtocol::ICMPV6)
    }
    #[inline]
    fn last(last: &mut LastHits) -> &mut Option<(Self, Target)> {
        &mut last.v6
    }
    /// Extension headers are for the ends. A routing header is for the node that the packet is addressed to, which the
    /// router never is (RFC 8200, section 4.4).
    #[inline]
    fn bad_options(_: &[u8], _: &Parsed, _: &Ip<Self>) -> Option<DropReason> {
        None
    }
    #[inline]
    fn tunnel_mtu(tables: &Snapshot, far: &Vtep) -> Mtu {
        if far.mtu >= Mtu::SMALLEST_V6 { far.mtu } else { least_v6(tables, far) }
    }
    /// Only by its sender (RFC 8200, section 5).
    fn may_be_cut(_: &[u8], _: &Parsed) -> bool {
        false
    }
    #[inline]
    fn flow_hash(ip: &Ip<Self>) -> u32 {
        flow_hash::v6(ip)
    }
    const ECHO: (IpProtocol, u8, Reply) = (IpProtocol::ICMPV6, 128, Reply::Echo6);
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
}

/// A path that carries too little for IPv6, or is said to, is not this node's to judge as long as its own link takes the tunnel
/// packet: over IPv4 routers may cut it, since it has no don't-fragment flag, and a forged message must not end all
/// connections. Only where the uplink itself carries less there is nothing to be done.
#[cold]
fn least_v6(tables: &Snapshot, far: &Vtep) -> Mtu {
    let overhead = far.encap.as_ref().map_or(0, Encap::overhead);
    let uplink = tables.ports.get(far.uplink).map_or(0, |uplink| uplink.mtu.get());
    if uplink >= Mtu::SMALLEST_V6.get() + overhead { Mtu::SMALLEST_V6 } else { far.mtu }
}

/// Options are forwarded as they are, but for a source route: with it a pod could get past what the tables say (RFC 7126,
/// sections 4.3 and 4.4). What cannot be read to its end could hide one.
#[cold]
fn bad_options(head: &[u8], parsed: &Parsed) -> Option<DropReason> {
    let Ok(ip) = Ipv4View::new_header_checked(&head[parsed.l3_offset()..]) else {
        return Some(DropReason::Ipv4Options);
    };
    Ipv4Options::new(ip.options()).find_map(|option| match option {
        Ok(option) if option.is_source_route() => Some(DropReason::SourceRouted),
        Ok(_) => None,
        Err(_) => Some(DropReason::Ipv4Options),
    })
}

/// The route leads nowhere, or to nobody.
#[cold]
pub(super) fn nowhere(reason: DropReason) -> Action {
    let error = match reason {
        DropReason::RouteBlackhole => return Action::Drop(reason),
        DropReason::RouteProhibited => IcmpError::Prohibited,
        DropReason::NoRoute => IcmpError::NoRoute,
        _ => IcmpError::HostUnreachable,
    };
    Action::Reject { reason, error }
}

/// No address to forward from, or none to forward to.
#[cold]
fn not_routable<A: Family>(ip: &Ip<A>) -> Action {
    let reason = DropReason::NotRoutable;
    if ip.src.is_on_link() && ip.dst.is_destination() {
        return Action::Reject { reason, error: IcmpError::BeyondScope };
    }
    Action::Drop(reason)
}

/// The way out carries less.
#[cold]
fn too_big<A: Family>(head: &[u8], parsed: &Parsed, way: Way, hop: bool, mtu: Mtu) -> Action {
    if A::may_be_cut(head, parsed) {
        return Action::Fragment { way, hop, mtu };
    }
    // 65,535 at most: an MTU has 16 bits.
    let error = IcmpError::TooBig { mtu: mtu.get() as u16 };
    Action::Reject { reason: DropReason::MtuExceeded, error }
}

/// How long the IP packet is on its way out: for a frame that stands for several, the longest of them. A state that contradicts
/// the headers makes no smaller packets of it: nobody could cut it.
#[inline]
pub(super) fn packet_len<A>(head: &[u8], parsed: &Parsed, ip: &Ip<A>, gso: Option<Gso>) -> usize {
    let whole = ip.len as usize;
    let Some(gso) = gso else { return whole };
    let l4 = usize::from(ip.l4);
    let transport = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 if ip.protocol == IpProtocol::TCP => {
            head.get(l4 + 12).map_or(0, |byte| usize::from(byte >> 4) * 4).max(TCP_LEN)
        }
        GsoKind::Udp if ip.protocol == IpProtocol::UDP => UdpHeader::LEN,
        _ => return whole,
    };
    if ip.fragment {
        return whole;
    }
    (l4.saturating_sub(parsed.l3_offset()) + transport + usize::from(gso.size)).min(whole)
}

#[inline]
pub(super) fn route<A: Family>(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    ip: &Ip<A>,
    gso: Option<Gso>,
) -> Action {
    if let Some(reason) = A::bad_options(head, parsed, ip) {
        return Action::Drop(reason);
    }
    let (echo_protocol, echo_type, echo_reply) = A::ECHO;
    if ip.protocol == echo_protocol
        && matches!(from.port.role, Role::Pod(_) | Role::Trusted)
        && !ip.fragment
        && ip.src != A::UNSPECIFIED
        && head.get(usize::from(ip.l4)) == Some(&echo_type)
        && ip.dst.is_gateway(tables)
    {
        // The answer is as long as the question. One that is longer than the link carries cannot have come over it as one
        // frame, by a sender that keeps to the link's MTU, and is not worth cutting up.
        let fits = packet_len(head, parsed, ip, gso) <= from.port.mtu.get();
        return if fits { Action::Hairpin(echo_reply) } else { Action::Drop(DropReason::MtuExceeded) };
    }
    if !ip.dst.is_destination() || !ip.src.is_source() {
        return not_routable(ip);
    }
    let target = match *A::last(last) {
        Some((dst, target)) if dst == ip.dst => target,
        _ => {
            let target = resolve(tables, ip.dst);
            *A::last(last) = Some((ip.dst, target));
            target
        }
    };
    let target = match target {
        Target::Group(group) => member(tables, from, group, ip),
        target => target,
    };
    // What comes from the host has been routed by its kernel; what goes to the host will be.
    let hop = !matches!(from.port.role, Role::Host);
    let (way, mtu) = match target {
        Target::Vtep(_) | Target::Direct(_) | Target::OnLink(_) if from.port.role.is_tunnel() => {
            return Action::Drop(DropReason::TunnelToTunnel);
        }
        Target::Unknown => return Action::Solicit,
        Target::Nowhere(reason) => return nowhere(reason),
        Target::Neighbour(to) => (Way::Neighbour(to), tables.ports.get(to.port).map(|port| port.mtu)),
        // It has sent the packet here to be routed: given back, it would send it again.
        Target::Hop(to) if to.port == from.id => return Action::Drop(DropReason::SamePort),
        Target::Hop(to) => (Way::Neighbour(to), tables.ports.get(to.port).map(|port| port.mtu)),
        Target::Host | Target::Direct(_) => match tables.gateway.host {
            Some(to) if to.port == from.id => return Action::Drop(DropReason::SamePort),
            Some(to) => return Action::Deliver { to, hop: false },
            None => return nowhere(DropReason::NoRoute),
        },
        Target::OnLink(link) => (Way::OnLink(link.to), tables.ports.get(link.to.port).map(|port| port.mtu)),
        Target::Vtep(vtep) => match tables.vteps.get(vtep as usize) {
            Some(far) if far.encap.is_some() => (Way::Vtep(vtep), Some(A::tunnel_mtu(tables, far))),
            _ => return Action::Drop(DropReason::VtepUnresolved),
        },
        // The choice is never another group.
        Target::Group(_) => return nowhere(DropReason::NoRoute),
    };
    if hop && ip.ttl <= 1 {
        return Action::Reject { reason: DropReason::TtlExceeded, error: IcmpError::TimeExceeded };
    }
    let Some(mtu) = mtu else { return nowhere(DropReason::NoPod) };
    if packet_len(head, parsed, ip, gso) > mtu.get() {
        return too_big::<A>(head, parsed, way, hop, mtu);
    }
    match way {
        Way::Neighbour(to) => Action::Deliver { to, hop },
        Way::Vtep(vtep) => Action::Encap { vtep, hop },
        Way::OnLink(to) => Action::OnLink { to, hop },
    }
}
