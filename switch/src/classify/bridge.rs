//! The bridge: frames between the ports of the segment, by MAC address. Configured addresses first, then what was learned; what
//! neither knows can only be behind a trusted port.

use super::route::packet_len;
use super::{Ingress, LastHits, Scope, Then};
use crate::drop_reason::DropReason;
use crate::offload::Gso;
use crate::parse::{L3, Parsed};
use crate::tables::{Role, Snapshot};
use crate::types::{MacAddr, PortId};
use crate::wire::ethernet::ETHERNET_LEN;

#[inline]
pub(super) fn bridge(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    head: &[u8],
    parsed: &Parsed,
    gso: Option<Gso>,
) -> Then {
    let found = match last.fdb {
        Some((mac, found)) if mac == parsed.dst => found,
        _ => {
            let found =
                tables.fdb.get(&parsed.dst).copied().or_else(|| unconfigured(tables, from, parsed.dst));
            last.fdb = Some((parsed.dst, found));
            found
        }
    };
    let Some(to) = found else { return unknown(tables, from) };
    if to == from.id {
        return Then::Drop(DropReason::SamePort);
    }
    match tables.ports.get(to) {
        Some(port) if payload_len(head, parsed, gso) > port.mtu.get() => Then::Drop(DropReason::MtuExceeded),
        Some(_) => Then::Bridge(to),
        None => Then::Drop(DropReason::FdbMiss),
    }
}

/// The port of an address that is no pod's: the host's, or a learned one. What was learned behind a port is not believed when
/// that port is not trusted any more.
#[cold]
#[inline(never)]
pub(super) fn unconfigured(tables: &Snapshot, from: &Ingress<'_>, mac: MacAddr) -> Option<PortId> {
    if let Some(host) = tables.gateway.host.filter(|host| host.mac == mac) {
        return Some(host.port);
    }
    let port = from.stations.lookup(mac, from.now, tables.ageing)?;
    tables.ports.get(port).is_some_and(|port| matches!(port.role, Role::Trusted)).then_some(port)
}

/// A station that has not spoken yet can be behind a trusted port only.
#[cold]
fn unknown(tables: &Snapshot, from: &Ingress<'_>) -> Then {
    if Scope::Trusted.ports(tables).any(|port| port != from.id) {
        Then::Flood(Scope::Trusted)
    } else {
        Then::Drop(DropReason::FdbMiss)
    }
}

/// Bytes that count against a port's MTU. A bridged frame goes on as it is, so that is all that follows the Ethernet header and the
/// tags, also behind the IP packet.
#[inline]
pub(crate) fn payload_len(head: &[u8], parsed: &Parsed, gso: Option<Gso>) -> usize {
    match (gso, parsed.l3) {
        (Some(_), L3::V4(ip)) => packet_len(head, parsed, &ip, gso),
        (Some(_), L3::V6(ip)) => packet_len(head, parsed, &ip, gso),
        _ => (parsed.len as usize).saturating_sub(ETHERNET_LEN + usize::from(parsed.tags)),
    }
}

/// Why a frame from a trusted port may not have this source: somebody else has the address. Its own configured one is right.
#[inline]
pub(super) fn refuse_source(
    tables: &Snapshot,
    last: &mut LastHits,
    from: &Ingress<'_>,
    source: MacAddr,
) -> Option<DropReason> {
    if last.source == Some(source) {
        return None;
    }
    let refused = refuse_new_source(tables, from, source);
    if refused.is_none() {
        last.source = Some(source);
    }
    refused
}

/// As [`refuse_source`], of a source that the packet before did not have.
pub(super) fn refuse_new_source(
    tables: &Snapshot,
    from: &Ingress<'_>,
    source: MacAddr,
) -> Option<DropReason> {
    if source == tables.gateway.mac {
        return Some(DropReason::MacOfGateway);
    }
    if tables.gateway.host.is_some_and(|host| host.mac == source) {
        return Some(DropReason::MacOfHost);
    }
    if tables.fdb.get(&source).is_some_and(|port| *port != from.id) {
        return Some(DropReason::MacOfPod);
    }
    None
}
