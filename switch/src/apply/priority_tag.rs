//! Takes a priority tag off what weft answers or routes: to a receiver such a frame is untagged (IEEE 802.1Q, section 6.9).

use crate::drop_reason::DropReason;
use crate::packet::PacketBuf;
use crate::parse::{L3, Parsed};
use crate::wire::vlan::VLAN_LEN;

/// Bytes of the two MAC addresses, which stand before a tag.
const MACS: usize = 12;

/// Cuts the frame's only tag out; what the frame is then.
#[cold]
pub(super) fn strip<B: PacketBuf>(packet: &mut B, parsed: &Parsed) -> Result<Parsed, DropReason> {
    let offload = packet.offload().shift(-(VLAN_LEN as isize)).ok_or(DropReason::ChecksumPlace)?;
    let start = packet.head_mut().get_mut(..MACS + VLAN_LEN).ok_or(DropReason::VlanMalformed)?;
    start.copy_within(..MACS, VLAN_LEN);
    if !packet.trim_front(VLAN_LEN) {
        return Err(DropReason::VlanMalformed);
    }
    packet.set_offload(offload);
    let l3 = match parsed.l3 {
        L3::V4(mut ip) => {
            ip.l4 -= VLAN_LEN as u16;
            L3::V4(ip)
        }
        L3::V6(mut ip) => {
            ip.l4 -= VLAN_LEN as u16;
            L3::V6(ip)
        }
        other => other,
    };
    Ok(Parsed { tags: 0, priority: false, len: parsed.len - VLAN_LEN as u32, l3, ..*parsed })
}
