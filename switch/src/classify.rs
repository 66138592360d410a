//! Classify: what is to be done with a frame, by the tables of the current snapshot. Tier 2 of the packet path: reads
//! the snapshot and the frame's headers; allocates nothing, locks nothing, writes nothing but its own [`LastHits`].
//!
//! The order of the questions is written once, in [`classify`].

pub(crate) mod bridge;
mod guard;
pub mod neighbour;
mod next_hop;
pub(crate) mod pinned;
mod route;
pub mod usual;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drop_reason::DropReason;
use crate::ip_tunnel::address_of;
use crate::offload::Gso;
use crate::parse::{L3, Outer, Parsed};
use crate::stations::Stations;
use crate::tables::{Neighbour, NextHop, Port, Role, Snapshot};
use crate::types::{MacAddr, Mtu, PortId, Vni};
use bridge::bridge;
use next_hop::Target;
pub(crate) use next_hop::{way_back, way_to};
use route::{Family, route};

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing, for this reason.
    Drop(DropReason),
    /// Nothing, for this reason, and the sender is told.
    Reject {
        /// What it is counted under.
        reason: DropReason,
        /// What the sender is told.
        error: IcmpError,
    },
    /// Nothing: it was for weft itself, and has been read.
    Consume,
    /// Nothing: a router of the underlay says that a tunnel packet was too big. To be told on.
    PathMtu,
    /// Send the frame as it is to this port.
    Bridge(PortId),
    /// Send the frame as it is to several ports.
    Flood(Scope),
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
    /// Send the IP packet to another node, as it is.
    OnLink {
        /// To whom.
        to: Neighbour,
        /// As in `Deliver`.
        hop: bool,
    },
    /// Cut the IPv4 packet into fragments and send each.
    Fragment {
        /// Where they go.
        way: Way,
        /// As in `Deliver`.
        hop: bool,
        /// What the way out carries.
        mtu: Mtu,
    },
    /// Ask the stations behind the trusted ports which of them has the destination; the packet itself is dropped. Its sender is told
    /// once they have been silent for long enough.
    Solicit,
    /// Tell the control side what an ARP or neighbour discovery message claims; then as with the action of the same name.
    Tell {
        /// What is told.
        news: News,
        /// What is done with the message.
        then: Then,
    },
}

/// A way that an IP packet leaves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a neighbour.
    Neighbour(Neighbour),
    /// To another node, without the tunnel.
    OnLink(Neighbour),
    /// Through the tunnel to the VTEP of this index.
    Vtep(u32),
}

/// What the sender of a packet is told that was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// Time Exceeded: TTL or hop limit used up on the way.
    TimeExceeded,
    /// Destination Unreachable: no route.
    NoRoute,
    /// As `NoRoute`, said as flannel's `udp` backend says that no node has the destination.
    NoNode,
    /// Destination Unreachable: the route is there, the host is not.
    HostUnreachable,
    /// Destination Unreachable: forbidden.
    Prohibited,
    /// Destination Unreachable, IPv6 only: a link-local source, and a destination that is not on the link (RFC 4443, section 3.1).
    BeyondScope,
    /// Fragmentation Needed or Packet Too Big.
    TooBig {
        /// What the way out carries, in bytes of IP packet.
        mtu: u16,
    },
}

/// What is to be done with a frame that is not routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// [`Action::Drop`].
    Drop(DropReason),
    /// [`Action::Consume`].
    Consume,
    /// [`Action::Bridge`].
    Bridge(PortId),
    /// [`Action::Flood`].
    Flood(Scope),
    /// [`Action::Hairpin`].
    Hairpin(Reply),
}

impl Action {
    /// The frame itself becomes another: an answer, or one that a router sends.
    #[inline]
    pub(crate) fn rewrites(&self) -> bool {
        matches!(
            self,
            Self::Hairpin(_)
                | Self::Deliver { .. }
                | Self::Encap { .. }
                | Self::OnLink { .. }
                | Self::Fragment { .. }
        )
    }
}

impl From<Then> for Action {
    #[inline]
    fn from(then: Then) -> Self {
        match then {
            Then::Drop(reason) => Self::Drop(reason),
            Then::Consume => Self::Consume,
            Then::Bridge(to) => Self::Bridge(to),
            Then::Flood(scope) => Self::Flood(scope),
            Then::Hairpin(reply) => Self::Hairpin(reply),
        }
    }
}

/// What the control side is told of an ARP or neighbour discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Where a station behind a trusted port is: new, or elsewhere than before.
    Neighbour,
    /// Its sender says that it has an address that is another's.
    Claimed,
    /// Its sender would like to have an address that is another's.
    Probed,
}

/// How far a frame is flooded: never to where it came from, nor to the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To every port of the segment.
    Segment,
    /// To the trusted ports, behind which unknown stations may be.
    Trusted,
    /// To the trusted ports and the host, which may have the address that is probed for. Other pods cannot.
    Probe,
}

impl Scope {
    /// The ports that it means.
    pub fn ports(self, tables: &Snapshot) -> impl Iterator<Item = PortId> + use<'_> {
        let ports = if self == Self::Segment { &tables.segment } else { &tables.trusted };
        let host = tables.gateway.host.filter(|_| self == Self::Probe).map(|host| host.port);
        ports.iter().copied().chain(host)
    }
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
        /// The gateway speaks for another: what the asker has heard from that one itself holds (RFC 4861, section 7.2.8).
        proxy: bool,
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
    source: Option<MacAddr>,
    fdb: Option<(MacAddr, Option<PortId>)>,
    v4: Option<(Ipv4Addr, Target)>,
    v6: Option<(Ipv6Addr, Target)>,
}

/// What a frame came in by.
pub struct Ingress<'a> {
    /// The port.
    pub id: PortId,
    /// What the tables say of it.
    pub port: &'a Port,
    /// What was learned until then.
    pub stations: &'a Stations,
    /// And when: in seconds, as the stations are kept.
    pub now: u32,
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
    let refused = match &from.port.role {
        Role::Pod(guard) if guard.mac != parsed.src => Some(DropReason::SpoofedMac),
        Role::Pod(guard) => guard::refuse(guard, head, parsed),
        Role::Trusted => bridge::refuse_source(tables, last, from, parsed.src),
        Role::IpTunnel(vni) => (!is_known(tables, parsed.src, *vni)).then_some(DropReason::VtepUnknown),
        Role::Host | Role::Uplink => None,
    };
    if let Some(reason) = refused {
        return Action::Drop(reason);
    }
    if parsed.dst.is_reserved() {
        return Action::Drop(DropReason::ReservedAddress);
    }
    match parsed.l3 {
        L3::Arp => return neighbour::arp(tables, last, from, head, parsed),
        L3::V6(ip) if neighbour::is_nd(&ip, head) => {
            return neighbour::nd(tables, last, from, head, parsed, &ip);
        }
        _ => {}
    }
    if parsed.dst == tables.gateway.mac {
        match parsed.l3 {
            _ if parsed.in_vlan() => Action::Drop(DropReason::VlanTagged),
            L3::V4(ip) => route(tables, last, from, head, parsed, &ip, gso),
            L3::V6(ip) => route(tables, last, from, head, parsed, &ip, gso),
            _ => Action::Drop(DropReason::NotIp),
        }
    } else if parsed.dst.is_multicast() {
        Action::Flood(Scope::Segment)
    } else {
        bridge(tables, last, from, head, parsed, gso).into()
    }
}

/// Whether packets of the node with this MAC address, in a tunnel of plain packets, are taken.
pub(crate) fn is_known(tables: &Snapshot, node: MacAddr, vni: Vni) -> bool {
    address_of(node).is_some_and(|address| tables.peers.accepts(address.into(), vni))
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

/// What is to be done with a frame from the underlay that is no tunnel packet. A pod of a node that is reached without the tunnel
/// may have sent it to one of this node's: then it is routed. All else is none of weft's, whoever sent it.
#[cold]
pub fn classify_plain(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    gso: Option<Gso>,
) -> Action {
    let for_here = parsed.dst == tables.uplink_mac && parsed.tags == 0;
    match parsed.l3 {
        L3::V4(ip) if for_here && is_between_pods(tables, ip.src, ip.dst) => {
            route(tables, last, from, head, parsed, &ip, gso)
        }
        L3::V6(ip) if for_here && is_between_pods(tables, ip.src, ip.dst) => {
            route(tables, last, from, head, parsed, &ip, gso)
        }
        _ => Action::Drop(DropReason::NotTunnel),
    }
}

/// From a subnet of a node that is reached without the tunnel to one of this node's.
fn is_between_pods<A: Family + Into<IpAddr>>(tables: &Snapshot, src: A, dst: A) -> bool {
    matches!(A::routes(tables).lookup(src), Some(NextHop::OnLink(_)))
        && (tables.gateway.has(dst.into()) || tables.in_subnet(dst.into()))
}

/// ECN field: the packet does not take part (RFC 3168).
pub const ECN_NOT_ECT: u8 = 0;
/// ECN field: takes part, one of two codes (RFC 3168).
pub const ECN_ECT_1: u8 = 1;
/// ECN field: takes part, the ordinary code (RFC 3168).
pub const ECN_ECT_0: u8 = 2;
/// ECN field: congestion experienced (RFC 3168).
pub const ECN_CE: u8 = 3;
