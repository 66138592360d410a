//! The bridge: frames between the ports of the segment, by MAC address.

use super::route::packet_len;
use super::{Action, Ingress, LastHits};
use crate::drop_reason::DropReason;
use crate::offload::Gso;
use crate::parse::{L3, Parsed};
use crate::tables::Snapshot;
use crate::wire::ethernet::ETHERNET_LEN;

#[inline]
pub(super) fn bridge(
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
