//! The router: IP packets by their destination's longest prefix.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Action, Ingress, LastHits, Reply};
use crate::drop_reason::DropReason;
use crate::offload::{Gso, GsoKind};
use crate::parse::{Ip, Parsed};
use crate::tables::{Neighbour, NextHop, PodGuard, Prefix, Role, Routes, Snapshot};
use crate::wire::ip::IpProtocol;

/// Where a destination address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Neighbour(Neighbour),
    Host,
    Vtep(u32),
    /// In the node's own subnet; who has it is to be asked.
    Unknown,
    Nowhere(DropReason),
}

/// An address family as the router sees it.
pub(super) trait Family: Prefix {
    fn routes(tables: &Snapshot) -> &Routes<Self>;
    fn neighbour(self, tables: &Snapshot) -> Option<Neighbour>;
    fn is_gateway(self, tables: &Snapshot) -> bool;
    /// A unicast address that routers forward from (RFC 1812, section 5.3.7; RFC 4291, section 2.5).
    fn is_source(self) -> bool;
    /// A unicast address that routers forward to.
    fn is_destination(self) -> bool;
    /// What a pod may send from.
    fn allowed(self, guard: &PodGuard, protocol: IpProtocol) -> bool;
    fn last(last: &mut LastHits) -> &mut Option<(Self, Target)>;
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
        let [first, second, ..] = self.octets();
        self.is_destination() && !(first == 169 && second == 254)
    }
    /// Link-local ones too, as Linux does: nodes serve name resolution and metadata to their pods there.
    #[inline]
    fn is_destination(self) -> bool {
        let [first, ..] = self.octets();
        first != 0 && first != 127 && first < 224
    }
    #[inline]
    fn allowed(self, guard: &PodGuard, _: IpProtocol) -> bool {
        guard.has_v4(self)
    }
    #[inline]
    fn last(last: &mut LastHits) -> &mut Option<(Self, Target)> {
        &mut last.v4
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
    const ECHO: (IpProtocol, u8, Reply) = (IpProtocol::ICMPV6, 128, Reply::Echo6);
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
}

/// Where `dst` leads.
#[inline]
fn resolve<A: Family>(tables: &Snapshot, dst: A) -> Target {
    match A::routes(tables).lookup(dst) {
        Some(NextHop::Local) => {
            let nobody =
                if tables.trusted.is_empty() { Target::Nowhere(DropReason::NoPod) } else { Target::Unknown };
            dst.neighbour(tables).map_or(nobody, Target::Neighbour)
        }
        Some(NextHop::Vtep(vtep)) => Target::Vtep(vtep),
        Some(NextHop::Unreachable | NextHop::Prohibit | NextHop::Blackhole) => {
            Target::Nowhere(DropReason::NoRoute)
        }
        Some(NextHop::Hop(_) | NextHop::Group(_)) => Target::Nowhere(DropReason::NoRoute),
        Some(NextHop::Host) | None => Target::Host,
    }
}

/// How long the IP packet is on its way out: for a frame that stands for several, the longest of them.
#[inline]
pub(super) fn packet_len<A>(head: &[u8], parsed: &Parsed, ip: &Ip<A>, gso: Option<Gso>) -> usize {
    let Some(gso) = gso else { return ip.len as usize };
    let l4 = usize::from(ip.l4);
    let transport = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => head.get(l4 + 12).map_or(20, |byte| usize::from(byte >> 4) * 4),
        GsoKind::Udp => 8,
    };
    (l4.saturating_sub(parsed.l3_offset()) + transport + usize::from(gso.size)).min(ip.len as usize)
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
    let (echo_protocol, echo_type, echo_reply) = A::ECHO;
    if ip.protocol == echo_protocol
        && matches!(from.port.role, Role::Pod(_) | Role::Trusted)
        && !ip.fragment
        && ip.src != A::UNSPECIFIED
        && head.get(usize::from(ip.l4)) == Some(&echo_type)
        && ip.dst.is_gateway(tables)
    {
        let fits = packet_len(head, parsed, ip, gso) <= from.port.mtu.get();
        return if fits { Action::Hairpin(echo_reply) } else { Action::Drop(DropReason::MtuExceeded) };
    }
    if !ip.dst.is_destination() || !ip.src.is_source() {
        return Action::Drop(DropReason::NotRoutable);
    }
    let target = match *A::last(last) {
        Some((dst, target)) if dst == ip.dst => target,
        _ => {
            let target = resolve(tables, ip.dst);
            *A::last(last) = Some((ip.dst, target));
            target
        }
    };
    // What comes from the host has been routed by its kernel; what goes to the host will be.
    let hop = !matches!(from.port.role, Role::Host);
    let (action, mtu) = match target {
        Target::Unknown => return Action::Solicit,
        Target::Nowhere(reason) => return Action::Drop(reason),
        Target::Neighbour(to) => (Action::Deliver { to, hop }, tables.ports.get(to.port).map(|p| p.mtu)),
        Target::Host => match tables.gateway.host {
            Some(to) if to.port == from.id => return Action::Drop(DropReason::SamePort),
            Some(to) => return Action::Deliver { to, hop: false },
            None => return Action::Drop(DropReason::NoRoute),
        },
        Target::Vtep(_) if matches!(from.port.role, Role::Uplink) => {
            return Action::Drop(DropReason::TunnelToTunnel);
        }
        Target::Vtep(vtep) => match tables.vteps.get(vtep as usize) {
            Some(far) if far.encap.is_some() => (Action::Encap { vtep, hop }, Some(far.mtu)),
            _ => return Action::Drop(DropReason::VtepUnresolved),
        },
    };
    if hop && ip.ttl <= 1 {
        return Action::Drop(DropReason::TtlExceeded);
    }
    let Some(mtu) = mtu else { return Action::Drop(DropReason::NoPod) };
    if packet_len(head, parsed, ip, gso) > mtu.get() {
        return Action::Drop(DropReason::MtuExceeded);
    }
    action
}
