//! Where connection pins ([`crate::pins`]) come in: behind both ways of classifying, since they change nothing but the end of what those
//! have said. A frame that they let pass to a pod here goes to the host port instead if its flow is pinned, however it was to get there:
//! over the bridge, by the router, out of the tunnel, whole or in pieces. So the usual way and the long one stay equal with pins as they are
//! without, and a node without pins asks once a burst.

use std::net::IpAddr;

use super::{Action, Way, way_to};
use crate::drop_reason::DropReason;
use crate::parse::{Brief, Carries};
use crate::pins::{Subject, subject};
use crate::tables::{Neighbour, Snapshot};
use crate::types::PortId;
use crate::wire::ethernet::ETHERNET_LEN;

/// Which flow has to be looked up before this is done with a frame, if any. `head`: its first bytes, as they were parsed.
///
/// What is refused stays refused, but for the frame's size and its TTL: these are the kernel's to judge if the frame goes there.
#[inline]
pub(crate) fn in_question(
    tables: &Snapshot,
    host: Neighbour,
    head: &[u8],
    brief: &Brief,
    action: Action,
) -> Option<Subject> {
    let to_a_pod = match action {
        Action::Bridge(to) => has_pods(tables, host, to),
        Action::Deliver { to, .. } | Action::Fragment { way: Way::Neighbour(to), .. } => {
            has_pods(tables, host, to.port)
        }
        Action::Reject { reason: DropReason::TtlExceeded | DropReason::MtuExceeded, .. }
        | Action::Drop(DropReason::MtuExceeded)
        | Action::Solicit => true,
        // To a station that has not spoken yet.
        Action::Flood(_) => head.get(usize::from(brief.l2)).is_some_and(|first| first & 1 == 0),
        _ => false,
    };
    // In a VLAN the host is nobody's gateway.
    let untagged = brief.priority || usize::from(brief.l3) == usize::from(brief.l2) + ETHERNET_LEN;
    if to_a_pod && untagged { subject(head, brief) } else { None }
}

/// Whether the port's neighbours are this node's pods: neither the host, nor other nodes behind a tunnel of plain packets.
#[inline]
fn has_pods(tables: &Snapshot, host: Neighbour, port: PortId) -> bool {
    port != host.port && tables.ports.get(port).is_some_and(|port| !port.role.is_tunnel())
}

/// What is done with a frame whose flow is pinned. No hop: the kernel takes one.
#[inline]
pub(crate) fn to_host(host: Neighbour) -> Action {
    Action::Deliver { to: host, hop: false }
}

/// Whether a packet from the host port is sent on, so that there can be an answer.
#[inline]
pub(crate) fn is_sent_on(action: Action) -> bool {
    matches!(
        action,
        Action::Bridge(_)
            | Action::Deliver { .. }
            | Action::Encap { .. }
            | Action::OnLink { .. }
            | Action::Fragment { .. }
    )
}

/// The source of the IP packet in a frame.
#[inline]
pub(crate) fn source(head: &[u8], brief: &Brief) -> Option<IpAddr> {
    let ip = head.get(usize::from(brief.l3)..)?;
    match brief.carries {
        Carries::V4 => ip.get(12..)?.first_chunk::<4>().map(|address| (*address).into()),
        Carries::V6 => ip.get(8..)?.first_chunk::<16>().map(|address| (*address).into()),
        Carries::Other | Carries::Unread => None,
    }
}

/// Whether the address leads to a pod of this node, or through one: then the answers to it do not pass the host by themselves.
pub(crate) fn is_here(tables: &Snapshot, address: IpAddr) -> bool {
    let Some(host) = tables.gateway.host else { return false };
    let near = |way: &Way| matches!(way, Way::Neighbour(to) if has_pods(tables, host, to.port));
    match address {
        IpAddr::V4(v4) => way_to(tables, v4, near).is_some(),
        IpAddr::V6(v6) => way_to(tables, v6, near).is_some(),
    }
}
