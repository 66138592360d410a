//! Takes a frame out of its tunnel packet.

use crate::classify::{ECN_CE, ECN_NOT_ECT};
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
    if outer.ecn == ECN_CE {
        let ip = &mut packet.head_mut()[ETHERNET_LEN..];
        match parsed.l3 {
            L3::V4(inner) if inner.ecn != ECN_NOT_ECT => {
                let mut view = Ipv4View::new_header_checked(ip).map_err(|_| DropReason::Ipv4Malformed)?;
                view.set_ecn_updating(ECN_CE);
            }
            L3::V6(inner) if inner.ecn != ECN_NOT_ECT => {
                let mut view = Ipv6View::new_header_checked(ip).map_err(|_| DropReason::Ipv6Malformed)?;
                view.set_ecn(ECN_CE);
            }
            _ => {}
        }
    }
    Ok(())
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
