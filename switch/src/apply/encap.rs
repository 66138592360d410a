//! Puts a frame into a tunnel packet: RFC 7348 as Linux does it for flannel.
//!
//! The outer header comes prepared; what is patched in is the lengths, the IPv4 identification and checksum, ECN and
//! the UDP source port. The inner Ethernet header is replaced by the one between the two VTEPs, which the block holds.

use crate::classify::{ECN_CE, ECN_ECT_0};
use crate::drop_reason::DropReason;
use crate::offload::{Checksum, Offload};
use crate::packet::PacketBuf;
use crate::parse::{Brief, Carries};
use crate::tables::{BLOCK_V4, Plain, SourcePorts, Vtep, Vteps};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::vxlan::VXLAN_LEN;

const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;
/// How much longer a frame becomes over IPv4: the inner Ethernet header, the last in the block, lies over the one that it had.
const GROWS_V4: usize = BLOCK_V4 - ETHERNET_LEN;
/// Where the UDP header is over IPv4.
const UDP_V4: usize = ETHERNET_LEN + IPV4_LEN;

/// Encapsulates a frame. `ident` is the worker's running IPv4 identification.
///
/// An unfinished frame stays so: whoever sends the packet cuts it up or fills the inner checksum in, and then knows what
/// the outer lengths and the outer checksum are. The checksum is 0 until then, and lengths beyond 16 bits are cut off.
#[inline]
pub(super) fn encap<B: PacketBuf>(
    packet: &mut B,
    brief: &Brief,
    vteps: &Vteps,
    index: u32,
    ports: SourcePorts,
    ident: &mut u16,
) -> Result<(), DropReason> {
    let quick = vteps.quick(index).ok_or(DropReason::VtepUnresolved)?;
    let plain = if packet.is_plain() { vteps.plain(index, quick) } else { None };
    if plain.is_none() && !quick.is_resolved() {
        return Err(DropReason::VtepUnresolved);
    }
    let ethertype = match brief.carries {
        Carries::V4 => [0x08, 0x00],
        Carries::V6 => [0x86, 0xdd],
        Carries::Other | Carries::Unread => return Err(DropReason::NotIp),
    };
    // Congestion that the inner header tells of is not told again by the outer one (RFC 3168, section 9.1.1).
    let ecn = if brief.ecn == ECN_CE { ECN_ECT_0 } else { brief.ecn };
    let patch = Patch { ethertype, ecn, source_port: ports.pick(brief.hash) };
    match plain {
        Some(plain) => over_v4(packet, &plain, &patch, ident),
        None => over_any(packet, vteps.get(index as usize), &patch, ident),
    }
}

/// What differs from packet to packet beside lengths, identification and checksums.
struct Patch {
    /// Of the inner Ethernet header.
    ethertype: [u8; 2],
    ecn: u8,
    source_port: u16,
}

/// The usual case: a finished frame, over IPv4, without an outer checksum. [`over_any`] would do the same.
#[inline]
fn over_v4<B: PacketBuf>(
    packet: &mut B,
    plain: &Plain<'_>,
    patch: &Patch,
    ident: &mut u16,
) -> Result<(), DropReason> {
    let inner = packet.len();
    let Ok(total) = u16::try_from(inner + GROWS_V4 - ETHERNET_LEN) else {
        return Err(DropReason::MtuExceeded);
    };
    let Some(head) = packet.prepend(GROWS_V4) else { return Err(DropReason::NoHeadroom) };
    let Some(head) = head.first_chunk_mut::<BLOCK_V4>() else { return Err(DropReason::EthMalformed) };
    *head = *plain.block();
    *ident = ident.wrapping_add(1).max(1);
    head[15] = patch.ecn;
    head[16..18].copy_from_slice(&total.to_be_bytes());
    head[18..20].copy_from_slice(&ident.to_be_bytes());
    head[24..26].copy_from_slice(&plain.checksum(total, *ident, patch.ecn).to_be_bytes());
    head[UDP_V4..UDP_V4 + 2].copy_from_slice(&patch.source_port.to_be_bytes());
    head[UDP_V4 + 4..UDP_V4 + 6].copy_from_slice(&(total - IPV4_LEN as u16).to_be_bytes());
    head[BLOCK_V4 - 2..].copy_from_slice(&patch.ethertype);
    Ok(())
}

/// Every other case.
fn over_any<B: PacketBuf>(
    packet: &mut B,
    vtep: Option<&Vtep>,
    patch: &Patch,
    ident: &mut u16,
) -> Result<(), DropReason> {
    let Some(Vtep { encap: Some(encap), checksum, .. }) = vtep else {
        return Err(DropReason::VtepUnresolved);
    };
    let block = encap.block();
    let Some(head) = packet.prepend(block.len() - ETHERNET_LEN) else { return Err(DropReason::NoHeadroom) };
    let Some(head) = head.get_mut(..block.len()) else { return Err(DropReason::EthMalformed) };
    head.copy_from_slice(block);
    head[block.len() - 2..].copy_from_slice(&patch.ethertype);
    let udp_at = block.len() - ETHERNET_LEN - VXLAN_LEN - UDP_LEN;
    head[udp_at..udp_at + 2].copy_from_slice(&patch.source_port.to_be_bytes());

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
        let ip = &mut head[ETHERNET_LEN..];
        ip[1] = patch.ecn;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[4..6].copy_from_slice(&ident.to_be_bytes());
        ip[10..12].copy_from_slice(&encap.checksum(total, *ident, patch.ecn).to_be_bytes());
    } else {
        let ip = &mut head[ETHERNET_LEN..];
        ip[1] = patch.ecn << 4;
        ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
    }
    if let Some(unfinished) = unfinished {
        packet.set_offload(unfinished);
    } else if *checksum || !encap.is_v4() {
        // Left to the way out: a NIC or the kernel fills it in, or `offload::finish` does.
        let pseudo = encap.pseudo(udp_len);
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
