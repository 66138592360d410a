//! `virtio_net_hdr`: how TAP, AF_PACKET and guests tell a frame's state (virtio 1.2, section 5.1.6; the kernel's
//! `linux/virtio_net.h`). 10 bytes, or 12 with the number of buffers; little-endian, which is also the "native" of
//! the machines that weft runs on.
//!
//! | at | field | |
//! |---|---|---|
//! | 0 | flags | 1: checksum wanted, 2: checksum checked |
//! | 1 | gso_type | 0, 1 TCPv4, 3 UFO, 4 TCPv6, 5 UDP datagrams; + 0x80 with ECN |
//! | 2 | hdr_len | bytes of headers: a hint, which lies |
//! | 4 | gso_size | payload bytes of each packet |
//! | 6 | csum_start | from the start of the frame |
//! | 8 | csum_offset | from there |
//! | 10 | num_buffers | |

use thiserror::Error;

use super::layout::{self, AH, ICMP, ICMPV6, TCP, UDP, bytes_at};
use super::{Checksum, Gso, GsoKind, Offload};
use crate::packet::PacketBuf;

/// Bytes of the header without the number of buffers.
pub const HEADER: usize = 10;
/// Bytes of the header with it.
pub const HEADER_MRG: usize = 12;
/// Bytes of the header of a tunnel packet (virtio 1.4; `struct virtio_net_hdr_v1_hash_tunnel`).
pub const HEADER_TUNNEL: usize = 24;

pub(super) const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
pub(super) const GSO_TCPV4: u8 = 1;
/// Old UDP segmentation, into IP fragments, which nobody is offered.
pub(super) const GSO_UFO: u8 = 3;
pub(super) const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
pub(super) const GSO_ECN: u8 = 0x80;
const GSO_UDP_TUNNEL_V4: u8 = 0x20;
const GSO_UDP_TUNNEL_V6: u8 = 0x40;
/// The outer UDP checksum is to be filled in too.
const UDP_TUNNEL_CSUM: u8 = 8;

/// A header that contradicts its frame, or that can't be written.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum VirtioError {
    /// No room for the header.
    #[error("virtio-net header of {0} bytes; it has 10, or 12 with the number of buffers")]
    HeaderLength(usize),
    /// The checksum's field is neither the upper layer's own nor in its payload.
    #[error(
        "checksum wanted at {start}+{offset}, which is no checksum behind the IP header of the frame of {len} bytes"
    )]
    ChecksumPlace {
        /// Where the sum begins.
        start: u16,
        /// Where the field is from there.
        offset: u16,
        /// The frame's length.
        len: usize,
    },
    /// A kind of segmentation that is not offered: UFO or an unknown number.
    #[error("GSO type {0:#x} is not offered")]
    GsoType(u8),
    /// Segments of no bytes.
    #[error("GSO with a segment size of 0")]
    GsoSize,
    /// Forbidden by virtio 1.2, sections 5.1.6.2.1 and 5.1.6.4.1; no kernel or guest does it.
    #[error("GSO without a checksum to be filled in")]
    GsoWithoutChecksum,
}

/// The state of `frame` by the header that came with it. Trusts neither: the checksum's field must lie in the frame,
/// and behind its IP header with all extension headers, and there it must be the field of TCP, UDP or ICMP or lie behind
/// that header. Else a pod could have the checksum written over an address, a port, a message's type, or the protocol that
/// an extension header announces, after those were checked.
/// For the same reason it may not be in an ICMPv6 message, which carries addresses (neighbour discovery), nor behind an
/// authentication header: everybody sends these with their checksums.
///
/// The start may lie deep in the frame: the kernel's VTEP sends tunnel packets over a veth with the *inner* checksum
/// not filled in and the inner kind of GSO. `hdr_len` is not looked at. "Checked" is taken at its word from a guest too: the
/// most it gains is that its own bad data arrives, which a good checksum would have got it as well.
pub fn parse(header: &[u8], frame: &impl PacketBuf) -> Result<Offload, VirtioError> {
    let fields: &[u8; HEADER] = header.first_chunk().ok_or(VirtioError::HeaderLength(header.len()))?;
    let word = |at: usize| u16::from_le_bytes([fields[at], fields[at + 1]]);
    let (flags, gso_type, size) = (fields[0], fields[1], word(4));

    let checksum = if flags & NEEDS_CSUM != 0 {
        let (start, offset) = (word(6), word(8));
        if !is_place_of_checksum(frame, start.into(), offset.into()) {
            return Err(VirtioError::ChecksumPlace { start, offset, len: frame.len() });
        }
        Checksum::Partial { start, offset }
    } else if flags & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unverified
    };

    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => return Ok(Offload { checksum, gso: None }),
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 => GsoKind::Udp,
        _ => return Err(VirtioError::GsoType(gso_type)),
    };
    if size == 0 {
        return Err(VirtioError::GsoSize);
    }
    if !matches!(checksum, Checksum::Partial { .. }) {
        return Err(VirtioError::GsoWithoutChecksum);
    }
    Ok(Offload { checksum, gso: Some(Gso { kind, size, ecn: gso_type & GSO_ECN != 0 }) })
}

fn is_place_of_checksum(frame: &impl PacketBuf, start: usize, offset: usize) -> bool {
    let Some(found) = layout::find(frame).filter(|_| start + offset + 2 <= frame.len()) else { return false };
    // The checksum's own place, and the bytes of the shortest header.
    let (field, header) = match found.protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        ICMP => (2, 8),
        ICMPV6 | AH => return false,
        _ => (offset, 0),
    };
    let own = start == found.l4 && offset == field;
    (own || start >= found.l4 + header) && !found.fragment
}

/// Writes the header for `frame` in state `offload` to `to`, whose length says which of the two it is. `hdr_len` of a
/// GSO frame is where its payload begins.
pub fn emit(offload: Offload, frame: &impl PacketBuf, to: &mut [u8]) -> Result<(), VirtioError> {
    if to.len() != HEADER && to.len() != HEADER_MRG {
        return Err(VirtioError::HeaderLength(to.len()));
    }
    to.fill(0);
    if let Some(num_buffers) = to.get_mut(HEADER..HEADER_MRG) {
        // virtio 1.2, section 5.1.6.4.1; the kernel does not look.
        num_buffers.copy_from_slice(&1u16.to_le_bytes());
    }
    match offload.checksum {
        Checksum::Unverified => {}
        Checksum::Verified => to[0] = DATA_VALID,
        Checksum::Partial { start, offset } => {
            to[0] = NEEDS_CSUM;
            to[6..8].copy_from_slice(&start.to_le_bytes());
            to[8..10].copy_from_slice(&offset.to_le_bytes());
        }
    }
    if let Some(gso) = offload.gso {
        let Checksum::Partial { start, .. } = offload.checksum else {
            return Err(VirtioError::GsoWithoutChecksum);
        };
        let kind = match gso.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        to[1] = if gso.ecn { kind | GSO_ECN } else { kind };
        to[2..4].copy_from_slice(&header_len(frame, start.into(), gso.kind).to_le_bytes());
        to[4..6].copy_from_slice(&gso.size.to_le_bytes());
    }
    Ok(())
}

/// Where a tunnel packet has its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelPlaces {
    /// The outer packet is IPv6.
    pub v6: bool,
    /// The outer UDP header, in bytes from the start of the frame.
    pub udp: u16,
    /// The inner IP header.
    pub inner: u16,
}

/// Writes the header for a tunnel packet whose inner packet is a GSO frame, and whose outer UDP checksum is to be filled in: the field holds
/// the pseudo-header's sum.
pub fn emit_tunnel(
    offload: Offload,
    places: TunnelPlaces,
    frame: &impl PacketBuf,
    to: &mut [u8; HEADER_TUNNEL],
) -> Result<(), VirtioError> {
    let (plain, tunnel) = to.split_at_mut(HEADER);
    emit(offload, frame, plain)?;
    plain[0] |= UDP_TUNNEL_CSUM;
    plain[1] |= if places.v6 { GSO_UDP_TUNNEL_V6 } else { GSO_UDP_TUNNEL_V4 };
    // In between are the number of buffers and a hash, which a TAP does not look at.
    tunnel.fill(0);
    tunnel[10..12].copy_from_slice(&places.udp.to_le_bytes());
    tunnel[12..14].copy_from_slice(&places.inner.to_le_bytes());
    Ok(())
}

/// Where the payload of a GSO frame begins; not past the frame, which the kernel would refuse.
fn header_len(frame: &impl PacketBuf, l4: usize, kind: GsoKind) -> u16 {
    let transport = match kind {
        GsoKind::Udp => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            bytes_at::<1>(frame, l4 + 12).map_or(20, |[offset]| usize::from(offset >> 4) * 4)
        }
    };
    (l4 + transport).min(frame.len()).try_into().unwrap_or(u16::MAX)
}
