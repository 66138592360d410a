//! Takes a frame out of its tunnel packet.

use crate::classify::{ECN_CE, ECN_ECT_0, ECN_ECT_1};
use crate::drop_reason::DropReason;
use crate::offload::{Checksum, Offload};
use crate::packet::PacketBuf;
use crate::parse::{Brief, Carries};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::Ipv6View;

/// Cuts the outer headers off and carries their congestion mark over (RFC 6040, section 4.2).
#[inline]
pub(super) fn decap<B: PacketBuf>(packet: &mut B, brief: &Brief) -> Result<(), DropReason> {
    let cut = usize::from(brief.l2);
    if !packet.is_plain() {
        packet.set_offload(inner_offload(packet.offload(), cut, brief)?);
    }
    if !packet.trim_front(cut) {
        return Err(DropReason::VxlanMalformed);
    }
    match mark(brief) {
        Some(mark) => set_mark(packet, brief, mark),
        None => Ok(()),
    }
}

/// The mark that the inner header gets from the outer one, where it is not to stay as it is (RFC 6040, figure 4; as
/// Linux does it).
#[inline]
fn mark(brief: &Brief) -> Option<u8> {
    match (brief.outer_ecn, brief.ecn) {
        (ECN_CE, ECN_ECT_0 | ECN_ECT_1) => Some(ECN_CE),
        (ECN_ECT_1, ECN_ECT_0) => Some(ECN_ECT_1),
        _ => None,
    }
}

#[cold]
fn set_mark<B: PacketBuf>(packet: &mut B, brief: &Brief, mark: u8) -> Result<(), DropReason> {
    let ip = packet.head_mut().get_mut(ETHERNET_LEN..).unwrap_or_default();
    match brief.carries {
        Carries::V4 => {
            Ipv4View::new_header_checked(ip).map_err(|_| DropReason::Ipv4Malformed)?.set_ecn_updating(mark)
        }
        Carries::V6 => {
            Ipv6View::new_header_checked(ip).map_err(|_| DropReason::Ipv6Malformed)?.set_ecn(mark);
        }
        Carries::Other | Carries::Unread => {}
    }
    Ok(())
}

/// A partial checksum is the inner packet's if it begins behind the inner headers; if it was the outer UDP header's, the
/// inner packet is complete, and nobody has checked it. In between it would be written over what has been checked.
fn inner_offload(offload: Offload, cut: usize, brief: &Brief) -> Result<Offload, DropReason> {
    if !brief.is_ip() {
        return Err(DropReason::InnerNotIp);
    }
    if let Checksum::Partial { start, .. } = offload.checksum {
        if (cut..usize::from(brief.l4)).contains(&usize::from(start)) {
            return Err(DropReason::ChecksumPlace);
        }
    }
    match offload.shift(-(cut as isize)) {
        Some(inner) => Ok(inner),
        None if offload.gso.is_some() => Err(DropReason::GsoMalformed),
        None => Ok(Offload::default()),
    }
}
