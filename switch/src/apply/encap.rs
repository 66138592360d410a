//! Puts a frame into a tunnel packet: RFC 7348 as Linux does it for flannel.
//!
//! The outer header comes prepared; what is patched in is the lengths, the IPv4 identification and checksum, ECN and
//! the UDP source port. The inner Ethernet header is replaced by the one between the two VTEPs, which the block holds.

use crate::classify::{ECN_CE, ECN_ECT_0};
use crate::drop_reason::DropReason;
use crate::flow_hash;
use crate::offload::{Checksum, Offload};
use crate::packet::PacketBuf;
use crate::parse::{L3, Parsed};
use crate::tables::{SourcePorts, Vtep};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::vxlan::VXLAN_LEN;

const UDP_LEN: usize = 8;

/// Encapsulates a frame. `ident` is the worker's running IPv4 identification.
///
/// An unfinished frame stays so: whoever sends the packet cuts it up or fills the inner checksum in, and then knows what
/// the outer lengths and the outer checksum are. The checksum is 0 until then, and lengths beyond 16 bits are cut off.
#[inline]
pub(super) fn encap<B: PacketBuf>(
    packet: &mut B,
    parsed: &Parsed,
    vtep: &Vtep,
    ports: SourcePorts,
    ident: &mut u16,
) -> Result<(), DropReason> {
    let Some(encap) = &vtep.encap else { return Err(DropReason::VtepUnresolved) };
    let (ecn, ethertype, hash) = match parsed.l3 {
        L3::V4(ip) => (ip.ecn, [0x08, 0x00], flow_hash::v4(&ip)),
        L3::V6(ip) => (ip.ecn, [0x86, 0xdd], flow_hash::v6(&ip)),
        _ => return Err(DropReason::NotIp),
    };
    // Congestion that the inner header tells of is not told again by the outer one (RFC 3168, section 9.1.1).
    let ecn = if ecn == ECN_CE { ECN_ECT_0 } else { ecn };

    let block = &encap.block[..usize::from(encap.len)];
    let Some(head) = packet.prepend(block.len() - ETHERNET_LEN) else { return Err(DropReason::NoHeadroom) };
    let Some(head) = head.get_mut(..block.len()) else { return Err(DropReason::EthMalformed) };
    head.copy_from_slice(block);
    head[block.len() - 2..].copy_from_slice(&ethertype);
    let udp_at = block.len() - ETHERNET_LEN - VXLAN_LEN - UDP_LEN;
    head[udp_at..udp_at + 2].copy_from_slice(&ports.pick(hash).to_be_bytes());

    let unfinished = unfinished(packet.offload(), block.len() - ETHERNET_LEN)?;
    let udp_len = packet.len() - udp_at;
    let udp_len = match unfinished {
        Some(Offload { gso: Some(_), .. }) => udp_len as u16,
        _ => u16::try_from(udp_len).map_err(|_| DropReason::MtuExceeded)?,
    };
    let head = packet.head_mut();
    head[udp_at + 4..udp_at + 6].copy_from_slice(&udp_len.to_be_bytes());
    if encap.is_v4() {
        let total = match unfinished {
            Some(Offload { gso: Some(_), .. }) => udp_len.wrapping_add(20),
            _ => udp_len.checked_add(20).ok_or(DropReason::MtuExceeded)?,
        };
        *ident = ident.wrapping_add(1).max(1);
        let sum = encap.sum.add_u16(total).add_u16(*ident).add_u16(u16::from(ecn));
        let ip = &mut head[ETHERNET_LEN..];
        ip[1] = ecn;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[4..6].copy_from_slice(&ident.to_be_bytes());
        ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    } else {
        let ip = &mut head[ETHERNET_LEN..];
        ip[1] = ecn << 4;
        ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
    }
    if let Some(unfinished) = unfinished {
        packet.set_offload(unfinished);
    } else if vtep.checksum || !encap.is_v4() {
        // Left to the way out: a NIC or the kernel fills it in, or `offload::finish` does.
        let pseudo = encap.pseudo.add_u16(udp_len).fold();
        head[udp_at + 6..udp_at + 8].copy_from_slice(&pseudo.to_be_bytes());
        let checksum = Checksum::Partial { start: udp_at as u16, offset: 6 };
        packet.set_offload(Offload { checksum, gso: None });
    } else if packet.offload() != Offload::default() {
        packet.set_offload(Offload::default());
    }
    Ok(())
}

/// What is left to be done about the inner frame, in the place that it has behind `grown` bytes of outer headers.
#[inline]
fn unfinished(offload: Offload, grown: usize) -> Result<Option<Offload>, DropReason> {
    if offload.is_finished() {
        return Ok(None);
    }
    offload.shift(grown as isize).map(Some).ok_or(DropReason::ChecksumPlace)
}
