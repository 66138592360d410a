//! Questions about neighbours, answered in place: ARP (RFC 826, RFC 1027) and neighbour discovery (RFC 4861).
//!
//! weft answers for the gateway with the gateway's MAC address and for pods of the node with their own, and knows a
//! pod's addresses before it speaks, so no question is passed on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Action, Reply};
use crate::drop_reason::DropReason;
use crate::parse::{Ip, Parsed};
use crate::tables::{PodGuard, Snapshot};
use crate::types::MacAddr;
use crate::wire::arp::{self, ArpView};
use crate::wire::checksum::Sum;
use crate::wire::ip::IpProtocol;
use crate::wire::ndp::{NeighbourAdvertView, NeighbourSolicitView};

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// What is to be done with an ARP message.
pub(super) fn arp(tables: &Snapshot, guard: Option<&PodGuard>, head: &[u8], parsed: &Parsed) -> Action {
    let Ok(message) = ArpView::new_checked(&head[parsed.l3_offset()..]) else {
        return Action::Drop(DropReason::ArpMalformed);
    };
    let (sender, target) = (message.sender_ip(), message.target_ip());
    let claimed = (sender != Ipv4Addr::UNSPECIFIED).then_some(sender);
    if guard.is_some_and(|g| g.mac != message.sender_mac() || claimed.is_some_and(|ip| !g.has_v4(ip))) {
        return Action::Drop(DropReason::SpoofedNeighbour);
    }
    // Answers and announcements tell nothing new; a pod that probes for its own address must hear nothing (RFC 5227).
    let own = claimed == Some(target) || guard.is_some_and(|g| g.has_v4(target));
    if message.op() != arp::REQUEST || own {
        return Action::Consume;
    }
    match owner(tables, target.into(), tables.gateway.v4.contains(&target)) {
        Some((mac, _)) => Action::Hairpin(Reply::Arp(mac)),
        None => Action::Drop(DropReason::NeighbourUnknown),
    }
}

/// True for the messages of neighbour discovery, and for those whose type cannot be seen: [`nd`] drops them, where
/// another port's receiver would find it behind the first segment.
#[inline]
pub(super) fn is_nd(ip: &Ip<Ipv6Addr>, head: &[u8]) -> bool {
    ip.protocol == IpProtocol::ICMPV6
        && !ip.fragment
        && matches!(head.get(usize::from(ip.l4)), Some(ROUTER_SOLICITATION..=REDIRECT) | None)
}

/// What is to be done with a neighbour discovery message.
pub(super) fn nd(
    tables: &Snapshot,
    guard: Option<&PodGuard>,
    head: &[u8],
    parsed: &Parsed,
    ip: &Ip<Ipv6Addr>,
) -> Action {
    let l4 = usize::from(ip.l4);
    let end = parsed.l3_offset() + ip.len as usize;
    let Some(body) = head.get(l4..end).filter(|_| ip.ttl == 255) else {
        return Action::Drop(DropReason::NdMalformed);
    };
    if Sum::pseudo_v6(ip.src, ip.dst, IpProtocol::ICMPV6, body.len()).add(body).fold() != 0xffff {
        return Action::Drop(DropReason::NdChecksum);
    }
    match body.first() {
        Some(&NEIGHBOUR_SOLICITATION) => solicitation(tables, guard, body, ip),
        Some(&NEIGHBOUR_ADVERTISEMENT) => advertisement(guard, body),
        Some(&ROUTER_SOLICITATION) => Action::Drop(DropReason::RouterSolicitation),
        _ => Action::Drop(DropReason::NotForwarded),
    }
}

fn solicitation(tables: &Snapshot, guard: Option<&PodGuard>, body: &[u8], ip: &Ip<Ipv6Addr>) -> Action {
    let Ok(message) = NeighbourSolicitView::new_checked(body) else {
        return Action::Drop(DropReason::NdMalformed);
    };
    let Ok(source) = message.source_link_layer() else {
        return Action::Drop(DropReason::NdMalformed);
    };
    if guard.is_some_and(|g| source.is_some_and(|mac| mac != g.mac)) {
        return Action::Drop(DropReason::SpoofedNeighbour);
    }
    let target = message.target();
    // Duplicate address detection, for its own address or one that is nobody's: silence means that it is free.
    let own = target == ip.src || guard.is_some_and(|g| g.has_v6(target));
    if own || (ip.src.is_unspecified() && target.is_unicast_link_local()) {
        return Action::Consume;
    }
    match owner(tables, target.into(), tables.gateway.v6.contains(&target)) {
        Some((mac, router)) => Action::Hairpin(Reply::Neighbour { mac, router }),
        None => Action::Drop(DropReason::NeighbourUnknown),
    }
}

fn advertisement(guard: Option<&PodGuard>, body: &[u8]) -> Action {
    let Ok(message) = NeighbourAdvertView::new_checked(body) else {
        return Action::Drop(DropReason::NdMalformed);
    };
    let target = message.target();
    if guard.is_some_and(|g| !g.has_v6(target) && !target.is_unicast_link_local()) {
        return Action::Drop(DropReason::SpoofedNeighbour);
    }
    Action::Consume
}

/// The MAC address that answers for `address`, and whether it is the gateway's.
fn owner(tables: &Snapshot, address: IpAddr, gateway: bool) -> Option<(MacAddr, bool)> {
    if gateway {
        return Some((tables.gateway.mac, true));
    }
    tables.neighbour(address).map(|neighbour| (neighbour.mac, false))
}
