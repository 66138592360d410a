//! Sending: the kernel gathers each message from where its bytes lie.
//!
//! A flow has one of a few source ports, which are the sockets' own. Packets of a burst that go the same way and have one size
//! leave as one message, which the kernel, or the NIC, cuts again (`UDP_SEGMENT`). So does a frame that stands for several: the
//! headers of each packet are made in a scratch area, the payload stays where it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::udp::{
    Family, MAX_MESSAGE, MAX_PIECES, MAX_SEGMENTS, Message, Refusal, UdpError, UdpTx,
};
use weft_ffi::kernel::whole::WholeTx;

use super::whole::{Ports, Whole, ready};
use super::{VXLAN_V4, VXLAN_V6};
use crate::drivers::NativePool;
use crate::offload::Checksum;
use crate::offload::checksum::complete;
use crate::offload::segment::{Cursor, Cut};
use crate::packet::PacketBuf;
use crate::port::{BURST, Burst, TxCaps, TxLoss, TxQueue};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Sockets of each family that a queue sends from: as many source ports as its flows have.
pub const SENDERS: usize = 16;

/// Its protocol number.
const UDP: u8 = 17;
/// The end of a list of packets.
const NONE: u8 = u8::MAX;

/// Sends tunnel packets.
pub struct SocketTx {
    v4: UdpTx,
    /// `None` on a kernel without IPv6.
    v6: Option<UdpTx>,
    /// The tunnel's, at every node.
    port: u16,
    /// Takes frames that stand for several as they are, where the kernel has such a way.
    whole: Option<Whole>,
    plan: Plan,
    loss: TxLoss,
}

/// The packets of a burst that are not sent, a bit each, by the first reason that there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Left {
    all: u64,
    refused: u64,
    unreachable: u64,
    too_long: u64,
}

impl Left {
    /// The kernel has said this about these packets.
    fn add(&mut self, packets: u64, why: Refusal) {
        let new = packets & !self.all;
        self.all |= new;
        match why {
            Refusal::Filtered => self.refused |= new,
            Refusal::Unreachable => self.unreachable |= new,
            Refusal::TooLong => self.too_long |= new,
            Refusal::Other => {}
        }
    }

    fn loss(self) -> TxLoss {
        TxLoss {
            refused: self.refused.count_ones(),
            unreachable: self.unreachable.count_ones(),
            too_long: self.too_long.count_ones(),
        }
    }
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    /// Of the family's sockets.
    pub(super) socket: u8,
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
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
struct Plan {
    messages: Vec<(Lane, Content)>,
    /// Headers of packets that are cut.
    headers: Vec<u8>,
    /// What follows each packet in the same message.
    next: [u8; BURST],
}

impl SocketTx {
    /// Opens the sockets of a tunnel whose nodes all have this port; `whole` takes frames that stand for several.
    pub fn open(port: u16, whole: Option<WholeTx>) -> Result<Self, UdpError> {
        let v4 = UdpTx::open(Family::V4, SENDERS)?;
        let v6 = match UdpTx::open(Family::V6, SENDERS) {
            Err(error) if error.is_without_family() => None,
            other => Some(other?),
        };
        let ports = Ports { v4: ports(&v4), v6: v6.as_ref().map(ports).unwrap_or_default() };
        let whole = whole.map(|tx| Whole::new(tx, ports));
        Ok(Self { v4, v6, port, whole, plan: Plan::new(), loss: TxLoss::default() })
    }
}

impl TxQueue<NativePool> for SocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps::TUNNEL
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let whole = |packet: &mut Mbuf, lane: &Lane| {
            let open = self.whole.as_ref().filter(|whole| whole.is_open(lane.to.ip()));
            open.is_some_and(|whole| ready(packet, lane, whole.ports()))
        };
        let mut left = Left { all: self.plan.make(burst, self.port, whole), ..Left::default() };
        self.plan.send(burst, &mut self.v4, self.whole.as_mut(), false, &mut left);
        match &mut self.v6 {
            Some(v6) => self.plan.send(burst, v6, self.whole.as_mut(), true, &mut left),
            None => left.all |= self.plan.packets_where(|lane| lane.from.is_ipv6()),
        }
        self.prove(left);
        if left.all == 0 {
            Mbuf::free_burst(burst);
            return;
        }
        self.loss = left.loss();
        let mut index = 0;
        burst.retain(|_| {
            index += 1;
            left.all >> (index - 1) & 1 == 1
        });
    }
    fn take_loss(&mut self) -> TxLoss {
        std::mem::take(&mut self.loss)
    }
}

impl SocketTx {
    /// Notes which destinations the kernel has cut frames for, so that the next ones may go whole.
    fn prove(&mut self, left: Left) {
        let Self { v4, v6, whole: Some(whole), plan, .. } = self else { return };
        for (lane, content) in &plan.messages {
            let Content::Cut { packet, count: 2.., .. } = *content else { continue };
            let to = lane.to.ip();
            let cuts = if to.is_ipv4() { v4.cuts(to) } else { v6.as_ref().is_some_and(|v6| v6.cuts(to)) };
            if left.all >> packet & 1 == 0 && cuts && !whole.is_open(to) {
                whole.prove(to);
            }
        }
    }
}

/// The ports of a family's sockets, by their numbers.
fn ports(tx: &UdpTx) -> [u16; SENDERS] {
    let mut ports = [0; SENDERS];
    ports.iter_mut().zip(tx.ports()).for_each(|(to, port)| *to = *port);
    ports
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

    /// Where the VXLAN header is.
    pub(super) fn vxlan(&self) -> usize {
        if self.from.is_ipv6() { VXLAN_V6 } else { VXLAN_V4 }
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
    fn new() -> Self {
        Self { messages: Vec::new(), headers: Vec::new(), next: [NONE; BURST] }
    }

    /// Plans for a burst to `port`, whose packets are finished where they have to be. Returns those that cannot be sent, a bit
    /// each. `whole` makes a frame that stands for several ready to go as it is, if it may.
    fn make<B: PacketBuf>(
        &mut self,
        burst: &mut Burst<B>,
        port: u16,
        mut whole: impl FnMut(&mut B, &Lane) -> bool,
    ) -> u64 {
        self.messages.clear();
        self.headers.clear();
        // By family and socket: the message that the next packet may go with.
        let mut last = [[None; SENDERS]; 2];
        let mut left = 0;
        for (index, packet) in burst.iter_mut().enumerate() {
            let lane = Lane::of(packet.head(), port);
            let Some(lane) = lane.filter(|lane| finish(packet, lane)) else {
                left |= 1 << index;
                continue;
            };
            let last = &mut last[usize::from(lane.from.is_ipv6())][usize::from(lane.socket)];
            if packet.offload().gso.is_some() {
                *last = None;
                if whole(packet, &lane) {
                    self.messages.push((lane, Content::Whole { packet: index as u8 }));
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
                self.messages.push((lane, content));
            }
        }
        left
    }

    /// Puts a packet into a message that was planned before, if it goes the same way and is no longer.
    fn join(&mut self, message: usize, index: u8, packet: &impl PacketBuf, lane: Lane) -> bool {
        let Some((its, Content::Packets { last, count, size, bytes, pieces, closed, .. })) =
            self.messages.get_mut(message)
        else {
            return false;
        };
        let len = packet.len() - lane.vxlan();
        let fits =
            *count < MAX_SEGMENTS && *bytes + len <= MAX_MESSAGE && *pieces + packet.segments() <= MAX_PIECES;
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
        for start in (0..total).step_by(at_once.min(MAX_SEGMENTS)) {
            let count = (total - start).min(at_once).min(MAX_SEGMENTS);
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
            self.messages.push((lane, content));
        }
        true
    }

    /// Sends what goes over IPv6, or what does not, and notes what the kernel did not take.
    fn send<'a>(
        &'a self,
        packets: &'a [Mbuf],
        tx: &mut UdpTx,
        mut whole: Option<&mut Whole>,
        v6: bool,
        left: &mut Left,
    ) {
        let mut sockets = 0u64;
        for (lane, _) in self.messages.iter().filter(|(lane, _)| lane.from.is_ipv6() == v6) {
            sockets |= 1 << lane.socket;
        }
        while sockets != 0 {
            let socket = sockets.trailing_zeros() as u8;
            sockets &= sockets - 1;
            let through =
                |(lane, _): &&'a (Lane, Content)| lane.from.is_ipv6() == v6 && lane.socket == socket;
            let is_whole = |message: &(Lane, Content)| matches!(message.1, Content::Whole { .. });
            let mut rest = self.messages.as_slice();
            // In the order of the burst: what goes whole between the others, too.
            while !rest.is_empty() {
                let run = rest.iter().position(|message| is_whole(message) && through(&message));
                let (mine, behind) = rest.split_at(run.unwrap_or(rest.len()));
                let mine = || mine.iter().filter(through).filter(|message| !is_whole(message));
                let messages = mine().map(|(lane, content)| Message {
                    to: lane.to,
                    from: lane.from,
                    tos: lane.tos,
                    segment: content.segment(),
                    pieces: |show: &mut dyn FnMut(&'a [u8])| self.show(packets, lane, content, show),
                });
                tx.send(usize::from(socket), messages, |index, error| {
                    let refused = mine().nth(index);
                    left.add(refused.map_or(0, |(_, content)| self.packets_of(content)), error.into());
                });
                rest = behind;
                if let Some(((lane, Content::Whole { packet }), behind)) = rest.split_first() {
                    let sent =
                        whole.as_mut().is_some_and(|whole| whole.send(&packets[usize::from(*packet)], lane));
                    if !sent {
                        left.add(1 << packet, Refusal::Other);
                    }
                    rest = behind;
                }
            }
        }
    }

    /// The packets that go such a way, a bit each.
    fn packets_where(&self, lane: impl Fn(&Lane) -> bool) -> u64 {
        let there = self.messages.iter().filter(|(its, _)| lane(its));
        there.fold(0, |bits, (_, content)| bits | self.packets_of(content))
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
