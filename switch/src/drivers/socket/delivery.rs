//! What becomes of a message that has come in: packets as they would have come from a wire, each with its state.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use weft_ffi::kernel::udp::Received;

use super::shape::Shape;
use super::{MACS, TTL, UnderlayMtu, VXLAN_V4, VXLAN_V6, put_addresses};
use crate::offload::unfilled::state_of;
use crate::offload::{Checksum, Offload};
use crate::packet::{BufPool, PacketBuf};
use crate::port::{Burst, RxLoss};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// On the way of messages into the burst.
pub struct Delivery<'a, B> {
    /// The tunnel's.
    pub port: u16,
    /// What the overlay carries follows from it.
    pub mtu: &'a UnderlayMtu,
    /// Where the packets go.
    pub burst: &'a mut Burst<B>,
    /// And those that have no room there.
    pub waiting: &'a mut VecDeque<B>,
    /// What had to be given up.
    pub loss: &'a mut RxLoss,
}

/// Where a message lies.
pub struct Filled<'a, B> {
    /// So many bytes at the beginning of each buffer.
    pub size: usize,
    /// Each is longer than that. Those that become packets are taken out.
    pub buffers: &'a mut [Option<B>],
    /// What had no room in them.
    pub spill: &'a [u8],
}

/// What the packets of one message have in common.
struct Alike {
    headers: Headers,
    /// What the overlay carries.
    mtu: usize,
    /// The size of the datagrams that one packet stands for.
    told: Option<u16>,
}

impl<B: PacketBuf> Delivery<'_, B> {
    /// Makes packets of a message, and says how it was; nothing of one that is given up. `None` is a message that the kernel did
    /// not say all of.
    pub fn deliver(
        &mut self,
        pool: &mut impl BufPool<Buf = B>,
        received: Option<Received>,
        filled: Filled<'_, B>,
    ) -> Option<Shape> {
        let headers = received.as_ref().and_then(|received| Headers::new(received, self.port));
        let (Some(received), Some(headers)) = (received, headers) else {
            self.loss.malformed += 1;
            return None;
        };
        if received.truncated {
            self.loss.too_long += 1;
            return None;
        }
        let one = is_one(filled.buffers, &received);
        let mtu = self.mtu.overlay(headers.is_v6());
        let alike = Alike { headers, mtu, told: received.segment.filter(|_| one) };
        self.split(pool, &received, filled, &alike);
        Some(Shape::of(&received, one, mtu + ETHERNET_LEN + VXLAN_LEN))
    }

    /// Where the guess was right, the buffers become packets; else the bytes are copied.
    fn split(
        &mut self,
        pool: &mut impl BufPool<Buf = B>,
        received: &Received,
        filled: Filled<'_, B>,
        alike: &Alike,
    ) {
        let Filled { size, buffers, spill } = filled;
        let whole = received.len.max(1);
        let each = received.segment.filter(|_| alike.told.is_none()).map_or(whole, usize::from).min(whole);
        let packets = whole.div_ceil(each);
        let len = |packet: usize| each.min(received.len - packet * each);
        let guessed = if packets == 1 { each <= size } else { each == size };
        if guessed && packets <= buffers.len() {
            for (packet, buffer) in buffers.iter_mut().take(packets).enumerate() {
                let Some(mut buffer) = buffer.take() else { return };
                buffer.truncate(len(packet));
                self.give(buffer, alike);
            }
            return;
        }
        let filled = buffers.iter().flatten().flat_map(|buffer| pieces(buffer, size));
        let mut from = Pieces { rest: &[], next: filled.chain([spill]) };
        for packet in 0..packets {
            let mut copy = pool.alloc(len(packet));
            from.take(len(packet), copy.as_mut());
            match copy {
                Some(copy) => self.give(copy, alike),
                None => self.loss.no_buffer += 1,
            }
        }
    }

    /// Puts the outer headers before a packet, finds out what is still to be done about it, and passes it on.
    #[inline]
    fn give(&mut self, mut packet: B, alike: &Alike) {
        let Alike { headers, mtu, told } = alike;
        if !headers.put_before(&mut packet) {
            self.loss.too_long += 1;
            return;
        }
        let offload = state_of(&packet, headers.len + VXLAN_LEN, *mtu, *told);
        packet.set_offload(match offload.checksum {
            // The kernel has checked the outer one.
            Checksum::Unverified => Offload { checksum: Checksum::Verified, ..offload },
            _ => offload,
        });
        if let Err(full) = self.burst.try_push(packet) {
            self.waiting.push_back(full.element());
        }
    }
}

/// True for a message that the kernel calls several datagrams, though it is one whose inner packet is: the length that this
/// has in its header goes beyond the first.
fn is_one(buffers: &[Option<impl PacketBuf>], received: &Received) -> bool {
    let Some(size) = received.segment.map(usize::from).filter(|size| *size < received.len) else {
        return true;
    };
    const INNER: usize = VXLAN_LEN + ETHERNET_LEN;
    let head = buffers.first().and_then(Option::as_ref).map_or(&[][..], |buffer| buffer.head());
    let word = |at: usize| {
        head.get(at..at + 2).map_or(0, |bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let inner = match word(INNER - 2) {
        0x0800 => word(INNER + 2),
        0x86dd => IPV6_LEN + word(INNER + 4),
        _ => 0,
    };
    INNER + inner > size
}

/// The outer headers of a message's packets, as far as they are the same.
struct Headers {
    bytes: [u8; VXLAN_V6],
    len: usize,
    /// Over the IPv4 header.
    sum: Sum,
}

impl Headers {
    /// `None` for addresses of two families, which no message has.
    fn new(received: &Received, port: u16) -> Option<Self> {
        let (mut bytes, tos) = ([0; VXLAN_V6], received.tos);
        bytes[..12].copy_from_slice(&MACS);
        let (len, sum) = match (received.from, received.to) {
            (SocketAddr::V4(from), IpAddr::V4(to)) => {
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                let ip = &mut bytes[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN];
                (ip[0], ip[1], ip[8], ip[9]) = (0x45, tos, TTL, IpProtocol::UDP.0);
                ip[12..16].copy_from_slice(&from.ip().octets());
                ip[16..20].copy_from_slice(&to.octets());
                (VXLAN_V4, Sum::new().add(ip))
            }
            (SocketAddr::V6(from), IpAddr::V6(to)) => {
                bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
                let ip = &mut bytes[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN];
                (ip[0], ip[1], ip[6], ip[7]) = (0x60 | tos >> 4, tos << 4, IpProtocol::UDP.0, TTL);
                put_addresses(ip, *from.ip(), to);
                (VXLAN_V6, Sum::new())
            }
            _ => return None,
        };
        // The checksum stays 0: the kernel has checked it.
        bytes[len - UDP_LEN..len - UDP_LEN + 2].copy_from_slice(&received.from.port().to_be_bytes());
        bytes[len - UDP_LEN + 2..len - UDP_LEN + 4].copy_from_slice(&port.to_be_bytes());
        Some(Self { bytes, len, sum })
    }

    fn is_v6(&self) -> bool {
        self.len == VXLAN_V6
    }

    /// False for a packet that is too long for them.
    #[inline]
    fn put_before(&self, packet: &mut impl PacketBuf) -> bool {
        let udp_len = packet.len() + UDP_LEN;
        let ip_len = udp_len + if self.is_v6() { 0 } else { IPV4_LEN };
        let (Ok(udp_len), Ok(ip_len)) = (u16::try_from(udp_len), u16::try_from(ip_len)) else { return false };
        let Some(head) = packet.prepend(self.len).and_then(|head| head.get_mut(..self.len)) else {
            return false;
        };
        head.copy_from_slice(&self.bytes[..self.len]);
        let udp_at = self.len - UDP_LEN;
        head[udp_at + 4..udp_at + 6].copy_from_slice(&udp_len.to_be_bytes());
        let ip = &mut head[ETHERNET_LEN..];
        if self.is_v6() {
            ip[4..6].copy_from_slice(&ip_len.to_be_bytes());
        } else {
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            ip[10..12].copy_from_slice(&self.sum.add_u16(ip_len).checksum().to_be_bytes());
        }
        true
    }
}

/// The first `size` bytes of a buffer.
fn pieces(buffer: &impl PacketBuf, size: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = size;
    buffer.pieces().map(move |piece| {
        let piece = &piece[..piece.len().min(left)];
        left -= piece.len();
        piece
    })
}

/// Bytes in pieces, one behind the other.
struct Pieces<'a, I> {
    rest: &'a [u8],
    next: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Pieces<'a, I> {
    /// Copies the next `len` bytes, or passes them over.
    fn take(&mut self, len: usize, mut to: Option<&mut impl PacketBuf>) {
        let mut done = 0;
        while done < len {
            if self.rest.is_empty() {
                let Some(next) = self.next.next() else { return };
                self.rest = next;
                continue;
            }
            let (now, later) = self.rest.split_at(self.rest.len().min(len - done));
            if let Some(to) = &mut to {
                to.write_at(done, now);
            }
            done += now.len();
            self.rest = later;
        }
    }
}

#[cfg(test)]
mod tests;
