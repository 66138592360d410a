//! Where a destination leads: the route's next hop, and the choice among several that cost the same.

use super::route::Family;
use super::{Ingress, Way};
use crate::drop_reason::DropReason;
use crate::flow_hash::{again, choose};
use crate::parse::{Ip, L3, Parsed};
use crate::tables::{Link, Neighbour, NextHop, Role, Snapshot};
use crate::types::PortId;

/// Where a destination address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the pod that has the address.
    Neighbour(Neighbour),
    /// To a pod that routes on.
    Hop(Neighbour),
    Host,
    Vtep(u32),
    /// To another node, by the node's own stack.
    Direct(u32),
    /// To another node on the uplink's link.
    OnLink(Link),
    /// To one of the group's next hops: which one is chosen for each packet.
    Group(u32),
    /// In the node's own subnet; who has it is to be asked.
    Unknown,
    Nowhere(DropReason),
}

/// Where `dst` leads.
#[inline]
pub(super) fn resolve<A: Family>(tables: &Snapshot, dst: A) -> Target {
    match A::routes(tables).lookup(dst) {
        Some(next_hop) => target(tables, dst, next_hop),
        None => Target::Host,
    }
}

#[inline]
fn target<A: Family>(tables: &Snapshot, dst: A, next_hop: NextHop) -> Target {
    match next_hop {
        NextHop::Local => {
            let nobody =
                if tables.trusted.is_empty() { Target::Nowhere(DropReason::NoPod) } else { Target::Unknown };
            dst.neighbour(tables).map_or(nobody, Target::Neighbour)
        }
        NextHop::Vtep(vtep) => Target::Vtep(vtep),
        NextHop::Direct(vtep) => Target::Direct(vtep),
        NextHop::OnLink(link) => {
            let link = tables.links.get(link as usize);
            link.map_or(Target::Nowhere(DropReason::NoRoute), |link| Target::OnLink(*link))
        }
        NextHop::Host => Target::Host,
        NextHop::Hop(hop) => {
            let hop = tables.hops.get(hop as usize);
            hop.map_or(Target::Nowhere(DropReason::NoRoute), |hop| Target::Hop(*hop))
        }
        NextHop::Group(group) => Target::Group(group),
        NextHop::Unreachable => Target::Nowhere(DropReason::RouteUnreachable),
        NextHop::Prohibit => Target::Nowhere(DropReason::RouteProhibited),
        NextHop::Blackhole => Target::Nowhere(DropReason::RouteBlackhole),
    }
}

/// The group's next hop for this packet, by its flow: never another group. One that cannot be used (unresolved, gone, the
/// port that the packet came by, or the tunnel for what came out of it) is passed over as long as another can be:
/// its flows are spread over those, and all other flows stay where they are.
pub(super) fn member<A: Family>(tables: &Snapshot, from: &Ingress<'_>, group: u32, ip: &Ip<A>) -> Target {
    let members = tables.groups.get(group as usize).map_or(&[][..], |members| members);
    let hash = again(A::flow_hash(ip));
    let target = |next_hop: &NextHop| match target(tables, ip.dst, *next_hop) {
        Target::Group(_) => Target::Nowhere(DropReason::NoRoute),
        target => target,
    };
    let usable = |target: &Target| match target {
        Target::Neighbour(to) => tables.ports.get(to.port).is_some(),
        Target::Hop(to) => to.port != from.id && tables.ports.get(to.port).is_some(),
        Target::Host | Target::Direct(_) => tables.gateway.host.is_some_and(|host| host.port != from.id),
        Target::Vtep(vtep) => {
            !from.port.role.is_tunnel()
                && tables.vteps.get(*vtep as usize).is_some_and(|vtep| vtep.encap.is_some())
        }
        // No group has one: routes through other nodes' pods need the tunnel.
        Target::OnLink(_) | Target::Group(_) | Target::Unknown | Target::Nowhere(_) => false,
    };
    let chosen = members.get(choose(hash, members.len())).map(target);
    if let Some(target) = chosen.filter(usable) {
        return target;
    }
    let left = || members.iter().map(target).filter(usable);
    let instead = left().nth(choose(again(hash), left().count()));
    instead.or(chosen).unwrap_or(Target::Nowhere(DropReason::NoRoute))
}

/// The way back to who sent the packet: what the switch itself has to say about it goes there. `None` where there is none.
///
/// A pod's is the port it came by. What came from the host goes to the host, whatever the source: what its kernel sends for
/// others it may have translated, and only it knows back. What came out of the tunnel is answered into the tunnel and
/// nowhere else, so that no peer can have the switch speak to a pod by inventing its address; what came by the uplink without one,
/// to a node that does without. Behind a trusted
/// port may be many: theirs is where the tables say, and the port itself where they don't know.
pub(crate) fn way_back(tables: &Snapshot, from: PortId, parsed: &Parsed) -> Option<Way> {
    let port = tables.ports.get(from)?;
    let behind = Way::Neighbour(Neighbour { mac: parsed.src, port: from });
    let known = |fits: &dyn Fn(&Way) -> bool| match parsed.l3 {
        L3::V4(ip) => way_to(tables, ip.src, fits),
        // On every link there may be one with a link-local address: it is where the packet came from.
        L3::V6(ip) if ip.src.is_unicast_link_local() => None,
        L3::V6(ip) => way_to(tables, ip.src, fits),
        _ => None,
    };
    match port.role {
        Role::Pod(_) => Some(behind),
        Role::Host => tables.gateway.host.map(Way::Neighbour),
        Role::Trusted => Some(known(&|_| true).unwrap_or(behind)),
        Role::Uplink if parsed.l2 > 0 => known(&|way| matches!(way, Way::Vtep(_))),
        Role::Uplink => known(&|way| matches!(way, Way::OnLink(_))),
        Role::IpTunnel(_) => known(&|way| matches!(way, Way::Neighbour(to) if to.port == from)),
    }
}

/// The way to `address` for a packet that the switch itself makes, if it `fits`. Of next hops that cost the same, the first
/// that can be used and fits.
pub(crate) fn way_to<A: Family>(tables: &Snapshot, address: A, fits: impl Fn(&Way) -> bool) -> Option<Way> {
    let host = || tables.gateway.host.map(Way::Neighbour).filter(&fits);
    let tunnel = |vtep: u32| {
        let resolved = tables.vteps.get(vtep as usize)?.encap.is_some();
        resolved.then_some(Way::Vtep(vtep)).filter(&fits)
    };
    let way = |target| match target {
        Target::Neighbour(to) | Target::Hop(to) => {
            tables.ports.get(to.port).map(|_| Way::Neighbour(to)).filter(&fits)
        }
        Target::Host => host(),
        Target::Vtep(vtep) => tunnel(vtep),
        Target::Direct(vtep) => host().or_else(|| tunnel(vtep)),
        Target::OnLink(link) => Some(Way::OnLink(link.to)).filter(&fits).or_else(|| tunnel(link.vtep)),
        Target::Group(_) | Target::Unknown | Target::Nowhere(_) => None,
    };
    match resolve(tables, address) {
        Target::Group(group) => {
            let members = tables.groups.get(group as usize)?;
            members.iter().find_map(|next_hop| way(target(tables, address, *next_hop)))
        }
        target => way(target),
    }
}
