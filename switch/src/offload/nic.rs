//! How NICs, and guests behind DPDK's vhost library, tell a frame's state: not with the places of a virtio-net header, but
//! with what kind of checksum is missing and how long the headers are. The frame says the rest.
//!
//! What is told is as hostile as a virtio-net header. It is made into one, with the places that the frame has, and goes through the
//! same check: [`super::virtio::parse`].

use super::layout::{self, IPV6, Layout, TCP, UDP, bytes_at};
use super::virtio::{self, VirtioError};
use super::{Checksum, Gso, GsoKind, Offload};
use crate::packet::PacketBuf;
use crate::wire::checksum::Sum;

/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
const CWR: u8 = 0x80;

/// What was told of a received frame's TCP or UDP checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing, or that it is wrong: the frame goes on as it is, and its receiver sees to it.
    Unknown,
    /// It is right.
    Right,
    /// It is to be filled in.
    Missing,
}

/// The state of a received frame; `segment` is the payload of each packet, if it stands for several. Where the checksum is missing,
/// the pseudo-header's sum is written to its field, so that it is there whoever sent the frame. (Not so where options or extension
/// headers may name another destination than the header does; there the sender's is kept.)
///
/// # Errors
/// What was told contradicts the frame.
pub fn taken(told: Told, segment: Option<u16>, frame: &mut impl PacketBuf) -> Result<Offload, VirtioError> {
    if told != Told::Missing && segment.is_none() {
        let checksum = if told == Told::Right { Checksum::Verified } else { Checksum::Unverified };
        return Ok(Offload { checksum, gso: None });
    }
    let nowhere = VirtioError::ChecksumPlace { start: 0, offset: 0, len: frame.len() };
    let found = layout::find(frame).ok_or(nowhere)?;
    let start = u16::try_from(found.l4).map_err(|_| nowhere)?;
    let (offset, kind) = match found.protocol {
        TCP if found.v6 => (16, virtio::GSO_TCPV6),
        TCP => (16, virtio::GSO_TCPV4),
        UDP => (6, virtio::GSO_UFO),
        _ => return Err(nowhere),
    };
    let mut header = [0; virtio::HEADER];
    header[0] = virtio::NEEDS_CSUM;
    if let Some(size) = segment {
        // The sender's word for it is lost on the way here; a TCP sender that uses ECN sets both together.
        let flags = bytes_at::<1>(frame, found.l4 + 13).filter(|_| found.protocol == TCP);
        let ecn = flags.is_some_and(|[flags]| flags & CWR != 0);
        header[1] = if ecn { kind | virtio::GSO_ECN } else { kind };
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&u16::to_le_bytes(offset));
    let offload = virtio::parse(&header, frame)?;
    if is_plain(&found) {
        let sum = pseudo_sum(frame, &found).ok_or(nowhere)?;
        frame.write_at(found.l4 + usize::from(offset), &sum.to_be_bytes());
    }
    Ok(offload)
}

/// The IP header has neither options nor extension headers.
fn is_plain(found: &Layout) -> bool {
    found.l4 - found.l3 == if found.v6 { IPV6 } else { IPV4 }
}

/// `None` when the IP header's length does not leave room for itself.
fn pseudo_sum(frame: &impl PacketBuf, found: &Layout) -> Option<u16> {
    let (sum, len) = if found.v6 {
        let header: [u8; IPV6] = bytes_at(frame, found.l3)?;
        (Sum::new().add(&header[8..]), u16::from_be_bytes([header[4], header[5]]))
    } else {
        let header: [u8; IPV4] = bytes_at(frame, found.l3)?;
        let len = u16::from_be_bytes([header[2], header[3]]).checked_sub(IPV4 as u16)?;
        (Sum::new().add(&header[12..]), len)
    };
    Some(sum.add_u16(found.protocol.into()).add_u16(len).fold())
}

/// What is to be told of a frame that is sent, if there is something to be done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Bytes in front of the IP header.
    pub l2_len: usize,
    /// Bytes from there to the transport header.
    pub l3_len: usize,
    /// Bytes of the transport header.
    pub l4_len: usize,
    /// The IP header is IPv6's.
    pub v6: bool,
    /// TCP; else UDP.
    pub tcp: bool,
    /// Payload bytes of each TCP segment, if it is to be cut.
    pub segment: Option<u16>,
    /// The IP header has neither options nor extension headers. Who makes a pseudo-header of it gets the right one.
    pub plain: bool,
}

/// A frame's state cannot be told by lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold;

/// What is to be told of `frame`; `None` when nothing is to be done.
///
/// # Errors
/// The missing checksum is not that of the outermost TCP or UDP header, or the frame is to be cut into something else than TCP. (The
/// first can be filled in here: [`super::checksum::complete`].)
pub fn told(frame: &impl PacketBuf) -> Result<Option<Work>, Untold> {
    let Offload { checksum, gso } = frame.offload();
    let Checksum::Partial { start, offset } = checksum else {
        return if gso.is_none() { Ok(None) } else { Err(Untold) };
    };
    let found = layout::find(frame).filter(|found| !found.fragment).ok_or(Untold)?;
    let field = match found.protocol {
        TCP => 16,
        UDP => 6,
        _ => return Err(Untold),
    };
    if usize::from(start) != found.l4 || offset != field {
        return Err(Untold);
    }
    let tcp = found.protocol == TCP;
    let segment = match gso {
        None => None,
        Some(Gso { kind: GsoKind::Tcp4, size, .. }) if tcp && !found.v6 => Some(size),
        Some(Gso { kind: GsoKind::Tcp6, size, .. }) if tcp && found.v6 => Some(size),
        Some(_) => return Err(Untold),
    };
    let l4_len = if tcp {
        let [words] = bytes_at::<1>(frame, found.l4 + 12).ok_or(Untold)?;
        usize::from(words >> 4) * 4
    } else {
        8
    };
    if (tcp && l4_len < 20) || found.l4 + l4_len > frame.len() {
        return Err(Untold);
    }
    let (l2_len, l3_len) = (found.l3, found.l4 - found.l3);
    Ok(Some(Work { l2_len, l3_len, l4_len, v6: found.v6, tcp, segment, plain: is_plain(&found) }))
}
