//! Whether one packet continues another, and what the two become: the rules of GRO, as Linux has them for TCP (`tcp_gro_receive`)
//! and, with equal lengths, for UDP. [`super::segment`] cuts a merged frame into the very packets that it was made of; only the
//! identification of IPv4 packets that may not be fragmented, which means nothing (RFC 6864), counts up then where its sender
//! left it as it was.
//!
//! Never merged: fragments, IPv4 options, IPv6 extension headers, tagged frames, TCP with any flag but ACK, PSH and ECE or without
//! data, UDP without a checksum, and what is a frame to be cut already.

use super::layout::{IPV6, TCP, UDP};
use super::{Checksum, Gso, GsoKind, Offload, sum_of};
use crate::packet::PacketBuf;
use crate::parse::{Brief, L3, Parsed};
use crate::wire::checksum::Sum;
use crate::wire::ip::IpProtocol;

const ETH: usize = 14;
const IPV4: usize = 20;
/// Outer headers in front of the inner Ethernet header: Ethernet, IPv4 or IPv6 without anything optional, UDP and VXLAN.
const OUTER4: usize = 50;
const OUTER6: usize = 70;
const VXLAN: usize = 8;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Bytes of IP packet that a merged frame has at most.
const MOST: usize = 65_535;

/// What must be known of a packet that may continue another or be continued. Offsets count from the packet's first byte, outer
/// headers included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    kind: GsoKind,
    /// Where the inner Ethernet header begins.
    l2: u16,
    l4: u16,
    payload_at: u16,
    payload: u16,
    seq: u32,
    /// Of IPv4.
    ident: u16,
    /// IPv4's don't-fragment flag.
    atomic: bool,
    /// Its sender wants it delivered at once: nothing is put behind it.
    push: bool,
    /// The transport checksum needs no look: it is not filled in, or the interface has looked.
    trusted: bool,
}

/// The `N` bytes at `at`.
#[inline(always)]
fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<&[u8; N]> {
    head.get(at..)?.first_chunk()
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Piece {
    /// `None` for a packet that is never merged.
    #[inline]
    pub(crate) fn of(buf: &impl PacketBuf, parsed: &Parsed) -> Option<Self> {
        let (head, offload) = (buf.head(), buf.offload());
        let (l2, l3) = (usize::from(parsed.l2), parsed.l3_offset());
        let (protocol, l4, fragment, len, v6) = match parsed.l3 {
            L3::V4(ip) => (ip.protocol, usize::from(ip.l4), ip.fragment, ip.len, false),
            L3::V6(ip) => (ip.protocol, usize::from(ip.l4), ip.fragment, ip.len, true),
            _ => return None,
        };
        let plain = l4 == l3 + if v6 { IPV6 } else { IPV4 };
        if !plain
            || fragment
            || parsed.tags > 0
            || offload.gso.is_some()
            || !matches!(l2, 0 | OUTER4 | OUTER6)
        {
            return None;
        }
        let end = l3 + len as usize;
        let (kind, field, header, seq, push) = match protocol {
            IpProtocol::TCP => {
                let tcp: &[u8; 20] = bytes(head, l4)?;
                let (header, flags) = (usize::from(tcp[12] >> 4) * 4, tcp[13]);
                if header < 20 || flags & ACK == 0 || flags & !(ACK | PSH | ECE) != 0 {
                    return None;
                }
                let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
                (if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 }, 16, header, seq, flags & PSH != 0)
            }
            IpProtocol::UDP => {
                let udp: &[u8; 8] = bytes(head, l4)?;
                if word(udp, 6) == 0 || usize::from(word(udp, 4)) != end - l4 {
                    return None;
                }
                (GsoKind::Udp, 6, 8, 0, false)
            }
            _ => return None,
        };
        let payload_at = l4 + header;
        if payload_at >= end || payload_at > head.len() {
            return None;
        }
        let trusted = match offload.checksum {
            Checksum::Partial { start, offset } if usize::from(start) == l4 => {
                if offset != field {
                    return None;
                }
                true
            }
            // The outer one is not filled in; nobody has looked at the inner one.
            Checksum::Partial { start, .. } if usize::from(start) < l2 => false,
            Checksum::Partial { .. } => return None,
            // It spoke of the outermost packet.
            Checksum::Verified => l2 == 0,
            Checksum::Unverified => false,
        };
        let (ident, atomic) = if v6 { (0, true) } else { (word(head, l3 + 4), head[l3 + 6] & 0x40 != 0) };
        Some(Self {
            kind,
            l2: l2 as u16,
            l4: l4 as u16,
            payload_at: payload_at as u16,
            payload: (end - payload_at) as u16,
            seq,
            ident,
            atomic,
            push,
            trusted,
        })
    }

    /// What it would be merged into.
    pub(crate) fn kind(&self) -> GsoKind {
        self.kind
    }

    fn is_v6(&self) -> bool {
        usize::from(self.l4 - self.l2) == ETH + IPV6
    }

    /// Every header field is the same that is the same in all packets that a frame is cut into.
    #[inline]
    fn has_headers_of(&self, other: &Self, head: &[u8], other_head: &[u8]) -> bool {
        let places = |piece: &Self| (piece.kind, piece.l2, piece.l4, piece.payload_at);
        if places(self) != places(other) {
            return false;
        }
        let (l2, l4, end) = (usize::from(self.l2), usize::from(self.l4), usize::from(self.payload_at));
        let l3 = l2 + ETH;
        // Both have all headers in their first segment, so no slice is cut short.
        let same = |at: usize, len: usize| head.get(at..at + len) == other_head.get(at..at + len);
        let outer = match l2 {
            0 => true,
            // All but the length, the identification, the checksums and the source port.
            OUTER4 => same(ETH, 2) && same(20, 4) && same(26, 8) && same(36, 2) && same(l2 - VXLAN, VXLAN),
            _ => same(ETH, 4) && same(20, 34) && same(56, 2) && same(l2 - VXLAN, VXLAN),
        };
        let inner = if self.is_v6() {
            same(l2, ETH + 4) && same(l3 + 6, IPV6 - 6)
        } else {
            same(l2, ETH + 2) && same(l3 + 6, 4) && same(l3 + 12, 8)
        };
        let transport = match self.kind {
            GsoKind::Udp => same(l4, 4),
            // Ports, acknowledgement, length of the header; flags but for PSH, window; urgent pointer and options.
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                same(l4, 4)
                    && same(l4 + 8, 5)
                    && (head[l4 + 13] ^ other_head[l4 + 13]) & !PSH == 0
                    && same(l4 + 14, 2)
                    && same(l4 + 18, end - l4 - 18)
            }
        };
        outer && inner && transport
    }

    /// The sum over the packet is what it should be.
    #[inline]
    fn checksum_ok(&self, buf: &impl PacketBuf) -> bool {
        if self.trusted {
            return true;
        }
        let l4 = usize::from(self.l4);
        let len = usize::from(self.payload_at) - l4 + usize::from(self.payload);
        let pseudo = self.pseudo(buf.head(), len);
        pseudo.add_sum(sum_of(buf, l4, len)).fold() == 0xffff
    }

    /// The pseudo-header for a transport header and payload of `len` bytes.
    #[inline]
    fn pseudo(&self, head: &[u8], len: usize) -> Sum {
        let l4 = usize::from(self.l4);
        let addresses = if self.is_v6() { l4 - 32..l4 } else { l4 - 8..l4 };
        let protocol = if self.kind == GsoKind::Udp { UDP } else { TCP };
        let addresses = head.get(addresses).unwrap_or_default();
        Sum::new().add(addresses).add_u16(protocol.into()).add_u16(len as u16)
    }
}

/// Packets of which each continues the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    first: Piece,
    /// Of the last piece.
    ident: u16,
    /// All have the same identification; not known before there are two.
    fixed_ident: bool,
    next_seq: u32,
    /// Payload bytes of all pieces.
    payload: u32,
    pieces: u8,
    /// Somebody has looked at the first piece's checksum.
    checked: bool,
    push: bool,
    /// Nothing can follow.
    closed: bool,
}

impl Run {
    /// Of one packet; `None` when nothing may follow it.
    #[inline]
    pub(crate) fn of(first: Piece) -> Option<Self> {
        (!first.push).then_some(Self {
            first,
            ident: first.ident,
            fixed_ident: false,
            next_seq: first.seq.wrapping_add(first.payload.into()),
            payload: first.payload.into(),
            pieces: 1,
            checked: false,
            push: false,
            closed: false,
        })
    }

    /// How many packets it is.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.into()
    }

    /// Nothing can follow.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes `piece` in if it is what comes next. `first` is the run's first packet as it came.
    #[inline]
    pub(crate) fn take<B: PacketBuf>(&mut self, first: &B, piece: &Piece, packet: &B) -> bool {
        let size = self.first.payload;
        let headers = usize::from(self.first.payload_at - self.first.l2) - ETH;
        let payload = self.payload + u32::from(piece.payload);
        if piece.seq != self.next_seq && piece.kind != GsoKind::Udp
            || piece.payload > size
            || headers + payload as usize > MOST
            || !self.ident_follows(piece)
            || !piece.has_headers_of(&self.first, packet.head(), first.head())
        {
            return false;
        }
        self.checked = self.checked || self.first.checksum_ok(first);
        if !self.checked || !piece.checksum_ok(packet) {
            return false;
        }
        self.fixed_ident = piece.ident == self.ident;
        self.ident = piece.ident;
        self.next_seq = piece.seq.wrapping_add(piece.payload.into());
        self.payload = payload;
        self.pieces += 1;
        self.push = piece.push;
        self.closed = piece.push || piece.payload < size;
        true
    }

    /// It counts up, or, in packets that may not be fragmented, stays as it is in all of them.
    #[inline]
    fn ident_follows(&self, piece: &Piece) -> bool {
        if self.first.is_v6() {
            return true;
        }
        let counts = piece.ident == self.ident.wrapping_add(1) && (self.pieces == 1 || !self.fixed_ident);
        let stays = piece.ident == self.ident && piece.atomic && (self.pieces == 1 || self.fixed_ident);
        counts || stays
    }

    /// Cuts off a packet that the run has taken, whose IP packet has `len` bytes, what the merged frame has no use for: what
    /// follows the IP packet, and the headers of all but the first. False when they are not in the first segment.
    #[inline]
    pub(crate) fn strip(&self, packet: &mut impl PacketBuf, len: u32, first: bool) -> bool {
        let end = usize::from(self.first.l2) + ETH + len as usize;
        if packet.len() > end {
            packet.truncate(end);
        }
        first || packet.trim_front(self.first.payload_at.into())
    }

    /// Makes the first packet, with the others' payload behind it, the frame that stands for all; `brief` becomes that frame's.
    pub(crate) fn finish(&self, frame: &mut impl PacketBuf, brief: &mut Brief) {
        let Piece { kind, l2, l4, payload_at, payload: size, .. } = self.first;
        let (l4, payload_at) = (usize::from(l4), usize::from(payload_at));
        let l3 = usize::from(l2) + ETH;
        let transport = payload_at - l4 + self.payload as usize;
        let len = payload_at - l3 + self.payload as usize;
        // Within 16 bits: `take` has seen to it.
        let pseudo = self.first.pseudo(frame.head(), transport).fold();
        let head = frame.head_mut();
        let mut put = |at: usize, value: u16| head[at..at + 2].copy_from_slice(&value.to_be_bytes());
        let offset = if kind == GsoKind::Udp { 6 } else { 16 };
        put(l4 + offset, pseudo);
        if kind == GsoKind::Udp {
            put(l4 + 4, transport as u16);
        }
        if self.first.is_v6() {
            put(l3 + 4, (len - IPV6) as u16);
        } else {
            put(l3 + 2, len as u16);
            put(l3 + 10, 0);
            let checksum = Sum::new().add(&head[l3..l3 + IPV4]).checksum();
            head[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        if self.push {
            head[l4 + 13] |= PSH;
        }
        let checksum = Checksum::Partial { start: l4 as u16, offset: offset as u16 };
        frame.set_offload(Offload { checksum, gso: Some(Gso { kind, size, ecn: false }) });
        (brief.len, brief.ip_len) = ((ETH + len) as u32, len as u32);
    }
}
