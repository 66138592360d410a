//! Takes a frame out of its tunnel packet.

use crate::classify::{ECN_CE, ECN_ECT_0, ECN_ECT_1};
use crate::drop_reason::DropReason;
use crate::offload::{Checksum, Offload};
use crate::packet::PacketBuf;
use crate::parse::{L3, Outer, Parsed};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::Ipv6View;

/// Cuts the outer headers off and carries their congestion mark over (RFC 6040, section 4.2).
#[inline]
pub(super) fn decap<B: PacketBuf>(packet: &mut B, parsed: &Parsed, outer: &Outer) -> Result<(), DropReason> {
    let cut = usize::from(parsed.l2);
    let offload = packet.offload();
    if offload != Offload::default() {
        packet.set_offload(inner_offload(offload, cut, parsed)?);
    }
    if !packet.trim_front(cut) {
        return Err(DropReason::VxlanMalformed);
    }
    let Some(mark) = mark(outer, parsed) else { return Ok(()) };
    let ip = &mut packet.head_mut()[ETHERNET_LEN..];
    match parsed.l3 {
        L3::V4(_) => {
            Ipv4View::new_header_checked(ip).map_err(|_| DropReason::Ipv4Malformed)?.set_ecn_updating(mark)
        }
        L3::V6(_) => {
            Ipv6View::new_header_checked(ip).map_err(|_| DropReason::Ipv6Malformed)?.set_ecn(mark);
        }
        _ => {}
    }
    Ok(())
}

/// The mark that the inner header gets from the outer one, where it is not to stay as it is (RFC 6040, figure 4; as
/// Linux does it).
#[inline]
fn mark(outer: &Outer, parsed: &Parsed) -> Option<u8> {
    let inner = match parsed.l3 {
        L3::V4(ip) => ip.ecn,
        L3::V6(ip) => ip.ecn,
        _ => return None,
    };
    match (outer.ecn, inner) {
        (ECN_CE, ECN_ECT_0 | ECN_ECT_1) => Some(ECN_CE),
        (ECN_ECT_1, ECN_ECT_0) => Some(ECN_ECT_1),
        _ => None,
    }
}

/// A partial checksum is the inner packet's if it begins behind the inner headers; if it was the outer UDP header's, the
/// inner packet is complete, and nobody has checked it. In between it would be written over what has been checked.
fn inner_offload(offload: Offload, cut: usize, parsed: &Parsed) -> Result<Offload, DropReason> {
    let l4 = match parsed.l3 {
        L3::V4(ip) => usize::from(ip.l4),
        L3::V6(ip) => usize::from(ip.l4),
        _ => return Err(DropReason::InnerNotIp),
    };
    if let Checksum::Partial { start, .. } = offload.checksum {
        if (cut..l4).contains(&usize::from(start)) {
            return Err(DropReason::ChecksumPlace);
        }
    }
    match offload.shift(-(cut as isize)) {
        Some(inner) => Ok(inner),
        None if offload.gso.is_some() => Err(DropReason::GsoMalformed),
        None => Ok(Offload::default()),
    }
}
