//! Classify: what is to be done with a frame, by the tables of the current snapshot. Tier 2 of the packet path: reads
//! the snapshot and the frame's headers; allocates nothing, locks nothing, writes nothing but its own [`LastHits`].
//!
//! The order of the questions is written once, in [`classify`].

mod neighbour;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::drop_reason::DropReason;
use crate::offload::{Gso, GsoKind};
use crate::parse::{Ip, L3, Outer, Parsed};
use crate::tables::{Neighbour, NextHop, PodGuard, Port, Prefix, Role, Routes, Snapshot};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing, for this reason.
    Drop(DropReason),
    /// Nothing: it was for weft itself, and has been read.
    Consume,
    /// Send the frame as it is to this port.
    Bridge(PortId),
    /// Make it the answer and send it back.
    Hairpin(Reply),
    /// Send the IP packet to a neighbour.
    Deliver {
        /// To whom.
        to: Neighbour,
        /// Whether this is a hop: TTL or hop limit less one.
        hop: bool,
    },
    /// Send the IP packet through the tunnel.
    Encap {
        /// To the VTEP of this index.
        vtep: u32,
        /// As in `Deliver`.
        hop: bool,
    },
}

/// An answer that is made from the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// ARP: the address asked for is at this MAC address.
    Arp(MacAddr),
    /// Neighbour advertisement: the address asked for is at this MAC address.
    Neighbour {
        /// Where it is.
        mac: MacAddr,
        /// It is the gateway's: a router.
        router: bool,
    },
    /// ICMP echo, IPv4.
    Echo4,
    /// ICMP echo, IPv6.
    Echo6,
}

/// One-entry caches in front of the tables, for the length of a burst: packets of one flow come in a row. Keyed on
/// all that the answer depends on, and made anew for every burst, so never stale.
#[derive(Debug, Default)]
pub struct LastHits {
    fdb: Option<(MacAddr, Option<PortId>)>,
    v4: Option<(Ipv4Addr, Target)>,
    v6: Option<(Ipv6Addr, Target)>,
}

/// Where a destination address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Neighbour(Neighbour),
    Host,
    Vtep(u32),
    Nowhere(DropReason),
}

/// What a frame came in by.
pub struct Ingress<'a> {
    /// The port.
    pub id: PortId,
    /// What the tables say of it.
    pub port: &'a Port,
}

/// An address family as the router sees it.
trait Family: Prefix {
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

/// What is to be done with a frame from a pod or the host.
#[inline]
pub fn classify(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    gso: Option<Gso>,
) -> Action {
    let guard = match &from.port.role {
        Role::Pod(guard) => Some(guard),
        Role::Host | Role::Uplink => None,
    };
    if guard.is_some_and(|guard| guard.mac != parsed.src) {
        return Action::Drop(DropReason::SpoofedMac);
    }
    match parsed.l3 {
        L3::Arp => return neighbour::arp(tables, guard, head, parsed),
        L3::Vlan => return Action::Drop(DropReason::VlanTagged),
        L3::V4(ip) if guard.is_some_and(|guard| !ip.src.allowed(guard, ip.protocol)) => {
            return Action::Drop(DropReason::SpoofedIp);
        }
        L3::V6(ip) if guard.is_some_and(|guard| !ip.src.allowed(guard, ip.protocol)) => {
            return Action::Drop(DropReason::SpoofedIp);
        }
        L3::V6(ip) if neighbour::is_nd(&ip, head) => return neighbour::nd(tables, guard, head, parsed, &ip),
        _ => {}
    }
    if parsed.dst == tables.gateway.mac {
        match parsed.l3 {
            L3::V4(ip) => route(tables, last, from, head, parsed, &ip, gso),
            L3::V6(ip) => route(tables, last, from, head, parsed, &ip, gso),
            _ => Action::Drop(DropReason::NotIp),
        }
    } else if parsed.dst.is_multicast() {
        Action::Drop(DropReason::NotForwarded)
    } else {
        bridge(tables, last, from, head, parsed, gso)
    }
}

/// What is to be done with an inner frame out of the tunnel, which [`crate::parse::parse_tunnel`] has let through.
#[inline]
pub fn classify_tunnel(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    outer: &Outer,
    gso: Option<Gso>,
) -> Action {
    let ecn = match parsed.l3 {
        L3::V4(ip) => ip.ecn,
        L3::V6(ip) => ip.ecn,
        _ => return Action::Drop(DropReason::InnerNotIp),
    };
    if outer.ecn == ECN_CE && ecn == ECN_NOT_ECT {
        return Action::Drop(DropReason::EcnIllegal);
    }
    match parsed.l3 {
        L3::V4(ip) => route(tables, last, from, head, parsed, &ip, gso),
        L3::V6(ip) => route(tables, last, from, head, parsed, &ip, gso),
        _ => Action::Drop(DropReason::InnerNotIp),
    }
}

/// Where `dst` leads.
#[inline]
fn resolve<A: Family>(tables: &Snapshot, dst: A) -> Target {
    match A::routes(tables).lookup(dst) {
        Some(NextHop::Local) => {
            dst.neighbour(tables).map_or(Target::Nowhere(DropReason::NoPod), Target::Neighbour)
        }
        Some(NextHop::Vtep(vtep)) => Target::Vtep(vtep),
        Some(NextHop::Unreachable) => Target::Nowhere(DropReason::NoRoute),
        Some(NextHop::Host) | None => Target::Host,
    }
}

/// How long the IP packet is on its way out: for a frame that stands for several, the longest of them.
#[inline]
fn packet_len<A>(head: &[u8], parsed: &Parsed, ip: &Ip<A>, gso: Option<Gso>) -> usize {
    let Some(gso) = gso else { return ip.len as usize };
    let l4 = usize::from(ip.l4);
    let transport = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => head.get(l4 + 12).map_or(20, |byte| usize::from(byte >> 4) * 4),
        GsoKind::Udp => 8,
    };
    (l4.saturating_sub(parsed.l3_offset()) + transport + usize::from(gso.size)).min(ip.len as usize)
}

/// ECN field: the packet does not take part (RFC 3168).
pub const ECN_NOT_ECT: u8 = 0;
/// ECN field: takes part, one of two codes (RFC 3168).
pub const ECN_ECT_1: u8 = 1;
/// ECN field: takes part, the ordinary code (RFC 3168).
pub const ECN_ECT_0: u8 = 2;
/// ECN field: congestion experienced (RFC 3168).
pub const ECN_CE: u8 = 3;

#[inline]
fn bridge(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    gso: Option<Gso>,
) -> Action {
    let found = match last.fdb {
        Some((mac, found)) if mac == parsed.dst => found,
        _ => {
            let found = tables.fdb.get(&parsed.dst).copied();
            last.fdb = Some((parsed.dst, found));
            found
        }
    };
    let Some(to) = found else { return Action::Drop(DropReason::FdbMiss) };
    if to == from.id {
        return Action::Drop(DropReason::SamePort);
    }
    // The frame goes on as it is, so it counts with what follows the IP packet in it.
    let len = match (gso, parsed.l3) {
        (Some(_), L3::V4(ip)) => packet_len(head, parsed, &ip, gso),
        (Some(_), L3::V6(ip)) => packet_len(head, parsed, &ip, gso),
        _ => (parsed.len as usize).saturating_sub(ETHERNET_LEN),
    };
    match tables.ports.get(to) {
        Some(port) if len > port.mtu.get() => Action::Drop(DropReason::MtuExceeded),
        Some(_) => Action::Bridge(to),
        None => Action::Drop(DropReason::FdbMiss),
    }
}

#[inline]
fn route<A: Family>(
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
        && matches!(from.port.role, Role::Pod(_))
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
