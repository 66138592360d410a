//! What messages a burst is sent in.
//!
//! A flow has one of a few source ports, which are the sockets' own. Packets of a burst that go the same way and have one size
//! leave as one message, which the kernel, or the NIC, cuts again (`UDP_SEGMENT`). So does a frame that stands for several: the
//! headers of each packet are made in a scratch area, the payload stays where it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_ffi::kernel::udp::{MAX_DATAGRAMS, MAX_MESSAGE, MAX_PIECES, Message};

use super::{VXLAN_V4, VXLAN_V6};
use crate::offload::Checksum;
use crate::offload::checksum::complete;
use crate::offload::segment::{Cursor, Cut};
use crate::packet::PacketBuf;
use crate::port::{BURST, Burst};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Sockets of each family that a queue sends from: as many source ports as its flows have.
pub const SENDERS: usize = 16;

/// Its protocol number.
const UDP: u8 = IpProtocol::UDP.0;
/// The end of a list of packets.
const NONE: u8 = u8::MAX;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The number of its socket among those of its family.
    pub socket: u8,
    /// This node's address.
    pub from: IpAddr,
    /// The other node's, with the tunnel's port.
    pub to: SocketAddr,
    tos: u8,
}

/// What one message is made of.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// A frame that stands for several, to be cut behind the sockets.
    Whole { packet: u8 },
    /// Packets, from the first of the list on, of `size` bytes each but for the last.
    Packets { first: u8, last: u8, count: usize, size: usize, bytes: usize, pieces: usize, closed: bool },
    /// Some of the packets that a frame stands for.
    Cut {
        packet: u8,
        headers: usize,
        headers_len: usize,
        payload: usize,
        size: usize,
        len: usize,
        count: usize,
    },
}

/// What is to be sent of one burst. The lists are used again.
#[derive(Debug)]
pub struct Plan {
    messages: Vec<(Lane, Content)>,
    /// The messages by the socket that they go through, and in order: the number of the socket, those of IPv6 behind the others,
    /// above that of the message ([`INDEX_BITS`]).
    order: Vec<u32>,
    /// Headers of packets that are cut.
    headers: Vec<u8>,
    /// What follows each packet in the same message.
    next: [u8; BURST],
}

/// Bits of a message's number: a burst has some thousand messages at most, of 64 frames that are cut into 1,024 pieces each.
const INDEX_BITS: u32 = 16;

/// Messages that go through one socket, or one frame that goes past it as it is.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    plan: &'a Plan,
    /// Never empty.
    order: &'a [u32],
}

impl Lane {
    /// Read from a tunnel packet as the engine makes it: no options and no extension headers. `None` for everything else, of which
    /// the kernel would send only a part.
    fn of(head: &[u8], port: u16) -> Option<Self> {
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (vxlan, tos, from, to): (_, _, IpAddr, IpAddr) = match head.get(ETHERNET_LEN - 2..ETHERNET_LEN)? {
            [0x08, 0x00] if head.len() >= VXLAN_V4 + VXLAN_LEN => {
                let ip = &head[ETHERNET_LEN..];
                if (ip[0], ip[9]) != (0x45, UDP) {
                    return None;
                }
                let [from, to] = [12, 16].map(|at| ip[at..].first_chunk::<4>());
                (VXLAN_V4, ip[1], Ipv4Addr::from(*from?).into(), Ipv4Addr::from(*to?).into())
            }
            [0x86, 0xdd] if head.len() >= VXLAN_V6 + VXLAN_LEN => {
                let ip = &head[ETHERNET_LEN..];
                if (ip[0] >> 4, ip[6]) != (6, UDP) {
                    return None;
                }
                let [from, to] = [8, 24].map(|at| ip[at..].first_chunk::<16>());
                let tos = ip[0] << 4 | ip[1] >> 4;
                (VXLAN_V6, tos, Ipv6Addr::from(*from?).into(), Ipv6Addr::from(*to?).into())
            }
            _ => return None,
        };
        let udp = vxlan - UDP_LEN;
        if word(udp + 2) != port {
            return None;
        }
        // The port that the engine has chosen by the flow chooses the socket.
        let socket = usize::from(word(udp)) % SENDERS;
        Some(Self { socket: socket as u8, from, to: SocketAddr::new(to, port), tos })
    }

    /// The number of its socket among those of both families.
    fn of_both(&self) -> usize {
        usize::from(self.from.is_ipv6()) * SENDERS + usize::from(self.socket)
    }

    /// Where the VXLAN header is.
    pub(super) fn vxlan(&self) -> usize {
        if self.from.is_ipv6() { VXLAN_V6 } else { VXLAN_V4 }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self { messages: Vec::new(), order: Vec::new(), headers: Vec::new(), next: [NONE; BURST] }
    }
}

impl Content {
    fn segment(&self) -> Option<u16> {
        match *self {
            Self::Packets { count, size, .. } => (count > 1).then_some(size as u16),
            Self::Cut { count, headers_len, size, .. } => (count > 1).then_some((headers_len + size) as u16),
            Self::Whole { .. } => None,
        }
    }
}

impl Plan {
    /// Plans for a burst to `port`, whose packets are finished where they have to be. Returns those that cannot be sent, a bit
    /// each. `whole` makes a frame that stands for so many ready to go as it is, if it may.
    pub fn make<B: PacketBuf>(
        &mut self,
        burst: &mut Burst<B>,
        port: u16,
        mut whole: impl FnMut(&mut B, &Lane, usize) -> bool,
    ) -> u64 {
        self.messages.clear();
        self.order.clear();
        self.headers.clear();
        // By socket: the message that the next packet may go with.
        let mut last = [None; 2 * SENDERS];
        let mut left = 0;
        for (index, packet) in burst.iter_mut().enumerate() {
            let lane = Lane::of(packet.head(), port);
            let Some(lane) = lane.filter(|lane| finish(packet, lane)) else {
                left |= 1 << index;
                continue;
            };
            let last = &mut last[lane.of_both()];
            if packet.offload().gso.is_some() {
                *last = None;
                // One that is no more than one packet is none that the kernel would finish.
                let count = Cut::of_tunnel(packet, lane.vxlan() + VXLAN_LEN).map_or(0, |cut| cut.count());
                if count > 1 && whole(packet, &lane, count) {
                    self.push(lane, Content::Whole { packet: index as u8 });
                } else if !self.cut(index as u8, packet, lane) {
                    left |= 1 << index;
                }
                continue;
            }
            let joined = last.is_some_and(|last: usize| self.join(last, index as u8, packet, lane));
            if !joined {
                *last = Some(self.messages.len());
                let size = packet.len() - lane.vxlan();
                self.next[index] = NONE;
                let content = Content::Packets {
                    first: index as u8,
                    last: index as u8,
                    count: 1,
                    size,
                    bytes: size,
                    pieces: packet.segments(),
                    closed: false,
                };
                self.push(lane, content);
            }
        }
        // Of one flow they are in order already.
        self.order.sort_unstable();
        left
    }

    fn push(&mut self, lane: Lane, content: Content) {
        self.order.push((lane.of_both() as u32) << INDEX_BITS | self.messages.len() as u32);
        self.messages.push((lane, content));
    }

    /// What each socket has to send, and what goes past it in between.
    pub fn shares(&self) -> impl Iterator<Item = Share<'_>> {
        let whole = move |place: &u32| matches!(self.entry(*place).1, Content::Whole { .. });
        let together = move |a: &u32, b: &u32| a >> INDEX_BITS == b >> INDEX_BITS && !whole(a) && !whole(b);
        self.order.chunk_by(together).map(|order| Share { plan: self, order })
    }

    fn entry(&self, place: u32) -> &(Lane, Content) {
        &self.messages[place as usize & ((1 << INDEX_BITS) - 1)]
    }

    /// The ways that frames were cut for, each with the number of the frame.
    pub(super) fn cuts(&self) -> impl Iterator<Item = (&Lane, u8)> {
        self.messages.iter().filter_map(|(lane, content)| match *content {
            Content::Cut { packet, count: 2.., .. } => Some((lane, packet)),
            _ => None,
        })
    }

    /// Puts a packet into a message that was planned before, if it goes the same way and is no longer.
    fn join(&mut self, message: usize, index: u8, packet: &impl PacketBuf, lane: Lane) -> bool {
        let Some((its, Content::Packets { last, count, size, bytes, pieces, closed, .. })) =
            self.messages.get_mut(message)
        else {
            return false;
        };
        let len = packet.len() - lane.vxlan();
        let fits = *count < MAX_DATAGRAMS
            && *bytes + len <= MAX_MESSAGE
            && *pieces + packet.segments() <= MAX_PIECES;
        if *its != lane || *closed || len > *size || !fits {
            return false;
        }
        self.next[usize::from(*last)] = index;
        self.next[usize::from(index)] = NONE;
        *last = index;
        *count += 1;
        *bytes += len;
        *pieces += packet.segments();
        // Only the last one may be shorter.
        *closed = len < *size;
        true
    }

    /// Plans the packets that a frame stands for, and makes their headers. False when the frame contradicts its state.
    fn cut(&mut self, index: u8, packet: &impl PacketBuf, lane: Lane) -> bool {
        let Some(mut cut) = Cut::of_tunnel(packet, lane.vxlan() + VXLAN_LEN) else { return false };
        let Some(vxlan) = packet.head().get(lane.vxlan()..lane.vxlan() + VXLAN_LEN) else { return false };
        let headers_len = VXLAN_LEN + cut.headers_len();
        let size = cut.payload_of(0).1;
        let total = cut.count();
        // A packet as large as that cannot be: the state comes from outside.
        let Some(at_once) = MAX_MESSAGE.checked_div(headers_len + size).filter(|count| *count > 0) else {
            return false;
        };
        let mut payloads = Cursor::new(packet.pieces(), cut.payload_of(0).0);
        for start in (0..total).step_by(at_once.min(MAX_DATAGRAMS)) {
            let count = (total - start).min(at_once).min(MAX_DATAGRAMS);
            let (headers, payload) = (self.headers.len(), cut.payload_of(start).0);
            let mut len = 0;
            for segment in start..start + count {
                let bytes = cut.payload_of(segment).1;
                len += bytes;
                let sum = payloads.sum(bytes);
                self.headers.extend_from_slice(vxlan);
                self.headers.extend_from_slice(cut.headers_for(segment, sum));
            }
            let content = Content::Cut { packet: index, headers, headers_len, payload, size, len, count };
            self.push(lane, content);
        }
        true
    }

    /// The packets that a message is made of, a bit each.
    fn packets_of(&self, content: &Content) -> u64 {
        match *content {
            Content::Packets { first, .. } => self.list(first).fold(0, |bits, index| bits | 1 << index),
            Content::Cut { packet, .. } | Content::Whole { packet } => 1 << packet,
        }
    }

    /// The packets of a list.
    fn list(&self, first: u8) -> impl Iterator<Item = u8> + '_ {
        std::iter::successors(Some(first), |index| {
            Some(self.next[usize::from(*index)]).filter(|next| *next != NONE)
        })
    }

    /// Shows a message's bytes.
    fn show<'a>(
        &'a self,
        packets: &'a [impl PacketBuf],
        lane: &Lane,
        content: &Content,
        show: &mut dyn FnMut(&'a [u8]),
    ) {
        match *content {
            Content::Whole { .. } => {}
            Content::Packets { first, .. } => {
                for index in self.list(first) {
                    let mut skip = lane.vxlan();
                    for piece in packets[usize::from(index)].pieces() {
                        let piece = &piece[skip.min(piece.len())..];
                        skip = 0;
                        show(piece);
                    }
                }
            }
            Content::Cut { packet, headers, headers_len, payload, size, len, count } => {
                let headers = self.headers[headers..headers + count * headers_len].chunks(headers_len);
                let mut payloads = Cursor::new(packets[usize::from(packet)].pieces(), payload);
                let mut left = len;
                for headers in headers {
                    show(headers);
                    payloads.take(size.min(left), &mut *show);
                    left = left.saturating_sub(size);
                }
            }
        }
    }
}

impl<'a> Share<'a> {
    fn first(&self) -> &'a Lane {
        &self.entry(self.order[0]).0
    }

    fn entry(&self, place: u32) -> &'a (Lane, Content) {
        self.plan.entry(place)
    }

    /// The number of the frame that goes as it is, and its way; `None` for messages.
    pub fn whole(&self) -> Option<(usize, &'a Lane)> {
        match self.entry(self.order[0]) {
            (lane, Content::Whole { packet }) => Some((usize::from(*packet), lane)),
            _ => None,
        }
    }

    /// Whether they go over IPv6.
    pub fn is_v6(&self) -> bool {
        self.first().from.is_ipv6()
    }

    /// The number of the socket among those of its family.
    pub fn socket(&self) -> usize {
        self.first().socket.into()
    }

    /// What is to be sent of the burst that the plan was made for.
    #[expect(clippy::type_complexity, reason = "closures have no names")]
    pub fn messages<B: PacketBuf>(
        self,
        packets: &'a [B],
    ) -> impl Iterator<Item = Message<impl FnOnce(&mut dyn FnMut(&'a [u8]))>> {
        self.order.iter().map(move |place| {
            let (lane, content) = self.entry(*place);
            Message {
                to: lane.to,
                from: lane.from,
                tos: lane.tos,
                segment: content.segment(),
                pieces: move |show: &mut dyn FnMut(&'a [u8])| self.plan.show(packets, lane, content, show),
            }
        })
    }

    /// The packets that the message of this place is made of, a bit each.
    pub fn packets_of(&self, message: usize) -> u64 {
        self.order.get(message).map_or(0, |place| self.plan.packets_of(&self.entry(*place).1))
    }

    /// The packets that all of them are made of, a bit each.
    pub fn packets(&self) -> u64 {
        (0..self.order.len()).fold(0, |bits, message| bits | self.packets_of(message))
    }
}

/// Fills in an inner checksum that nothing else fills in. The outer one is the kernel's in any case.
fn finish(packet: &mut impl PacketBuf, lane: &Lane) -> bool {
    let offload = packet.offload();
    match offload.checksum {
        Checksum::Partial { start, .. } if offload.gso.is_none() && usize::from(start) > lane.vxlan() => {
            complete(packet).is_ok()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests;
