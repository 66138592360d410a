//! Receiving: the kernel writes each packet straight into a buffer of its own.
//!
//! What it has put together (`UDP_GRO`) comes as one message of packets of one size. Which size has to be known before it comes;
//! it is guessed from what came before ([`Shape`]). Where the guess is wrong, the message is copied into buffers of
//! the right size, and the next guess is another.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::event::{Epoll, Interest};
use weft_ffi::kernel::udp::{IcmpMessage, IcmpRx, Received, UdpRx};

use super::{UnderlayMtu, VXLAN_V4, VXLAN_V6};
use crate::drivers::NativePool;
use crate::drivers::pool::SMALL;
use crate::offload::unfilled::state_of;
use crate::offload::{Checksum, Offload};
use crate::packet::{BufPool, PacketBuf};
use crate::port::{Armed, BURST, Burst, RxLoss, RxQueue};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Bytes of the longest message.
const LONGEST: usize = 65535;
/// Packets in one message at most: the kernel puts no more together.
const PACKETS: usize = 64;
/// Messages longer than this are worth a guess; shorter ones cost little to copy.
const LONG: usize = 4096;
/// Calls without a long message after which none is expected any more.
const PATIENCE: u32 = 16;
/// Messages in a row that were not as expected, before others are expected.
const MISSES: u32 = 2;
/// What routers say is taken so many messages at a time.
const HEARD_AT_ONCE: usize = 4;
/// Jumbo frames that are received at a time: each takes a large buffer.
const JUMBO_AT_ONCE: usize = 16;
/// Large packets that are received at a time: as much as fits in the second-level cache beside the rest.
const LARGE_AT_ONCE: usize = 4;
/// Messages that are asked for when nothing has come: to ask for many costs time even if there are none.
const FEW: usize = 4;
/// Polls between two questions how many packets the kernel had no room for: each is a system call.
const ASK_EVERY: u32 = 4096;
/// Polls between two looks for what routers say, while there is work; it is looked for before the worker sleeps, too.
const LOOK_EVERY: u32 = 64;
/// An ICMP message quotes no more than this.
const ICMP_LONGEST: usize = 1500;

/// How the next messages are expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Bytes of a packet at most.
    size: usize,
    /// Packets of a message at most.
    packets: usize,
    /// Messages at a time.
    messages: usize,
}

impl Shape {
    /// Ordinary packets one by one.
    const SINGLE: Self = Self { size: SMALL, packets: 1, messages: BURST };
    /// Packets that stand for many, as a kernel's VTEP on this machine hands them over.
    const LARGE: Self = Self { size: LONGEST, packets: 1, messages: LARGE_AT_ONCE };
    /// Single packets of an underlay with a large MTU. Their buffers hold whatever comes.
    const JUMBO: Self = Self { size: LONGEST, packets: 1, messages: JUMBO_AT_ONCE };

    /// Packets of this size, put together: one message fills the burst, or nearly.
    fn together(size: usize) -> Self {
        Self { size, packets: LONGEST.div_ceil(size.max(1)).min(PACKETS), messages: 1 }
    }

    /// As this message was, which is one packet or many, on a way that takes packets of `most` bytes.
    fn of(received: &Received, one: bool, most: usize) -> Self {
        match received.segment.filter(|_| !one) {
            _ if received.len <= LONG => Self::SINGLE,
            Some(size) => Self::together(size.into()),
            None if received.len <= most => Self::JUMBO,
            None => Self::LARGE,
        }
    }

    /// Whether its packets go into large buffers.
    fn is_large(self) -> bool {
        self.size > SMALL
    }
}

/// What is expected of the next messages: changed only when it has been wrong for some time, since traffic is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    shape: Shape,
    /// Calls for which long messages are still expected.
    patience: u32,
    /// Calls in a row that were not as expected.
    misses: u32,
}

impl Expected {
    const NEW: Self = Self { shape: Shape::SINGLE, patience: 0, misses: 0 };

    /// The longest of what came with one call was like this.
    fn learn(&mut self, seen: Shape) {
        if seen == Shape::SINGLE {
            self.patience = self.patience.saturating_sub(1);
            if self.patience > 0 {
                return;
            }
        } else {
            self.patience = PATIENCE;
        }
        if seen == self.shape {
            self.misses = 0;
            return;
        }
        self.misses += 1;
        if self.misses >= MISSES {
            (self.shape, self.misses) = (seen, 0);
        }
    }
}

/// Receives the tunnel's packets that the kernel lets in.
pub struct SocketRx {
    socket: UdpRx,
    port: u16,
    mtu: UnderlayMtu,
    routers: Option<Routers>,
    expected: Expected,
    /// Messages that are asked for next.
    ask: usize,
    /// Ready for the next messages: small ones, and ones that hold the longest message. Those that are used are missing.
    spares: [Vec<Option<Mbuf>>; 2],
    /// Where a message goes on that is longer than its buffers: so much for each. Hardly ever touched.
    spill: Vec<u8>,
    /// What has come in and found no room in the burst.
    waiting: VecDeque<Mbuf>,
    /// Polls since the kernel was asked.
    polls: u32,
    /// Nothing has come in since the kernel was asked.
    settled: bool,
}

/// What routers say is one worker's to hear.
struct Routers {
    icmp: IcmpRx,
    /// Stands for its sockets and the tunnel's.
    any: Epoll,
    /// To be looked at in the next poll.
    look: bool,
}

impl SocketRx {
    /// Receives from this socket, which is bound to `port`, and hears what routers say where `icmp` is given.
    pub fn new(socket: UdpRx, icmp: Option<IcmpRx>, port: u16, mtu: UnderlayMtu) -> io::Result<Self> {
        let routers = icmp.map(|icmp| {
            let any = Epoll::new()?;
            for fd in icmp.fds().chain([socket.as_fd()]) {
                any.add(fd, 0, Interest::Read)?;
            }
            Ok::<_, io::Error>(Routers { icmp, any, look: true })
        });
        Ok(Self {
            socket,
            port,
            mtu,
            routers: routers.transpose()?,
            expected: Expected::NEW,
            ask: FEW,
            spares: [Vec::with_capacity(BURST), Vec::with_capacity(BURST)],
            spill: vec![0; BURST * LONGEST],
            waiting: VecDeque::with_capacity(PACKETS),
            polls: 0,
            settled: true,
        })
    }

    /// Provides buffers for the next messages; how many messages that is, and for how many packets each.
    fn provide(&mut self, pool: &mut NativePool, room: usize) -> (usize, usize) {
        let Shape { packets, messages, .. } = self.expected.shape;
        let large = self.expected.shape.is_large();
        let spares = &mut self.spares[usize::from(large)];
        let wanted = packets * messages.min(self.ask).min(room / packets).max(1);
        let mut have = 0;
        while have < wanted {
            if have == spares.len() {
                spares.push(None);
            }
            let spare = &mut spares[have];
            if spare.is_none() {
                *spare = pool.alloc(if large { LONGEST } else { SMALL });
            }
            if spare.is_none() {
                break;
            }
            have += 1;
        }
        match have / packets {
            // Less than one message needs: what does not fit is copied.
            0 => (usize::from(have > 0), have),
            messages => (messages, packets),
        }
    }

    /// Receives once. False when there is nothing more.
    fn receive(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>, loss: &mut RxLoss) -> bool {
        let (messages, packets) = self.provide(pool, burst.remaining_capacity());
        if messages == 0 {
            // What comes stays in the kernel's queue, which drops and counts when it overflows.
            return false;
        }
        let Shape { size, .. } = self.expected.shape;
        let all_spares = &mut self.spares[usize::from(self.expected.shape.is_large())][..messages * packets];
        let mut told: ArrayVec<(usize, Option<Received>), BURST> = ArrayVec::new();
        let buffers =
            all_spares.chunks_mut(packets).zip(self.spill.chunks_mut(LONGEST)).map(|(spares, spill)| {
                spares.iter_mut().flatten().flat_map(|spare| pieces_mut(spare, size)).chain([spill])
            });
        // An error is the socket's own: the queue stays silent then.
        let count = self.socket.recv(buffers, |index, received| told.push((index, received))).unwrap_or(0);
        self.ask = (2 * count).clamp(FEW, BURST);
        if count == 0 {
            return false;
        }
        self.settled = false;
        let mut next = Shape::SINGLE;
        for (index, received) in told {
            let headers = received.as_ref().and_then(|received| Headers::new(received, self.port));
            let (Some(received), Some(headers)) = (received, headers) else {
                loss.malformed += 1;
                continue;
            };
            if received.truncated {
                loss.too_long += 1;
                continue;
            }
            let spares = &mut all_spares[index * packets..(index + 1) * packets];
            let one = is_one(spares, &received);
            let mtu = self.mtu.overlay(headers.is_v6());
            let seen = Shape::of(&received, one, mtu + ETHERNET_LEN + VXLAN_LEN);
            if seen != Shape::SINGLE {
                next = seen;
            }
            let mut delivery = Delivery {
                mtu,
                headers,
                told: received.segment.filter(|_| one),
                burst,
                waiting: &mut self.waiting,
                loss,
            };
            let spill = &self.spill[index * LONGEST..(index + 1) * LONGEST];
            delivery.deliver(pool, spares, spill, size, &received);
        }
        self.expected.learn(next);
        count == messages
    }

    /// Takes what routers say.
    fn hear(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>, loss: &mut RxLoss) {
        let Some(routers) = self.routers.as_mut().filter(|routers| routers.look) else { return };
        routers.look = false;
        let mut buffer = [0; ICMP_LONGEST];
        for _ in 0..HEARD_AT_ONCE {
            let Some(message) = routers.icmp.next(&mut buffer) else { return };
            let (headers, len) = headers_of(message);
            let Some(mut packet) = pool.alloc(headers.len() + len) else {
                loss.no_buffer += 1;
                continue;
            };
            packet.write_at(0, &headers);
            packet.write_at(headers.len(), &buffer[..len]);
            if let Err(full) = burst.try_push(packet) {
                self.waiting.push_back(full.element());
            }
        }
        routers.look = true;
    }
}

impl RxQueue<NativePool> for SocketRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        while !burst.is_full() {
            let Some(packet) = self.waiting.pop_front() else { break };
            burst.push(packet);
        }
        self.polls += 1;
        if let Some(routers) = self.routers.as_mut().filter(|_| self.polls % LOOK_EVERY == 0) {
            routers.look = true;
        }
        // A message is not taken before all of its packets have room: they go on together.
        while self.waiting.is_empty() && self.expected.shape.packets <= burst.remaining_capacity() {
            let large = self.expected.shape == Shape::LARGE;
            if !self.receive(pool, burst, &mut loss) || large {
                break;
            }
        }
        // Behind the tunnel's own: whoever sends many of these takes no room from it.
        self.hear(pool, burst, &mut loss);
        if self.polls >= ASK_EVERY {
            (self.polls, self.settled) = (0, true);
            loss.missed = self.socket.take_dropped();
        }
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.routers.as_ref().map_or(self.socket.as_fd(), |routers| routers.any.as_fd()))
    }
    fn arm(&mut self) -> Armed {
        if !self.waiting.is_empty() {
            return Armed::Busy;
        }
        if let Some(routers) = &mut self.routers {
            routers.look = true;
        }
        // The last poll before sleep asks, so that no loss stays untold.
        if !self.settled {
            self.polls = ASK_EVERY;
        }
        if self.settled { Armed::Waits } else { Armed::Busy }
    }
    fn recover(&mut self) -> bool {
        // The kernel tells a socket that is not connected of nothing that would end it.
        true
    }
}

/// On the way of one message into the burst.
struct Delivery<'a, B> {
    headers: Headers,
    /// What the overlay carries.
    mtu: usize,
    /// The size of the datagrams that one packet stands for.
    told: Option<u16>,
    burst: &'a mut Burst<B>,
    waiting: &'a mut VecDeque<B>,
    loss: &'a mut RxLoss,
}

impl<B: PacketBuf> Delivery<'_, B> {
    /// Makes packets of a message that is in these buffers, `size` bytes in each and the rest in `spill`.
    fn deliver(
        &mut self,
        pool: &mut impl BufPool<Buf = B>,
        spares: &mut [Option<B>],
        spill: &[u8],
        size: usize,
        received: &Received,
    ) {
        let whole = received.len.max(1);
        let each = received.segment.filter(|_| self.told.is_none()).map_or(whole, usize::from).min(whole);
        let packets = whole.div_ceil(each);
        let len = |packet: usize| each.min(received.len - packet * each);
        let guessed = if packets == 1 { each <= size } else { each == size };
        if guessed && packets <= spares.len() {
            for (packet, spare) in spares.iter_mut().take(packets).enumerate() {
                let Some(mut buffer) = spare.take() else { return };
                buffer.truncate(len(packet));
                self.give(buffer);
            }
            return;
        }
        let filled = spares.iter().flatten().flat_map(|spare| pieces(spare, size));
        let mut from = Pieces { rest: &[], next: filled.chain([spill]) };
        for packet in 0..packets {
            let mut copy = pool.alloc(len(packet));
            from.take(len(packet), copy.as_mut());
            match copy {
                Some(copy) => self.give(copy),
                None => self.loss.no_buffer += 1,
            }
        }
    }

    /// Puts the outer headers before a packet, finds out what is still to be done about it, and passes it on.
    #[inline]
    fn give(&mut self, mut packet: B) {
        if !self.headers.put_before(&mut packet) {
            self.loss.too_long += 1;
            return;
        }
        let offload = state_of(&packet, self.headers.len + VXLAN_LEN, self.mtu, self.told);
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
fn is_one(spares: &[Option<impl PacketBuf>], received: &Received) -> bool {
    let Some(size) = received.segment.map(usize::from).filter(|size| *size < received.len) else {
        return true;
    };
    const INNER: usize = VXLAN_LEN + ETHERNET_LEN;
    let head = spares.first().and_then(Option::as_ref).map_or(&[][..], |spare| spare.head());
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

/// From nobody to nobody: the kernel has taken the frame's own header off, and nothing depends on it.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const TTL: u8 = 64;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Headers {
    /// `None` for addresses of two families, which no message has.
    fn new(received: &Received, port: u16) -> Option<Self> {
        let (mut bytes, tos) = ([0; VXLAN_V6], received.tos);
        bytes[..12].copy_from_slice(&MACS);
        let (len, sum) = match (received.from, received.to) {
            (SocketAddr::V4(from), IpAddr::V4(to)) => {
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                let ip = &mut bytes[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN];
                (ip[0], ip[1], ip[8], ip[9]) = (0x45, tos, TTL, UDP);
                ip[12..16].copy_from_slice(&from.ip().octets());
                ip[16..20].copy_from_slice(&to.octets());
                (VXLAN_V4, Sum::new().add(ip))
            }
            (SocketAddr::V6(from), IpAddr::V6(to)) => {
                bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
                let ip = &mut bytes[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN];
                (ip[0], ip[1], ip[6], ip[7]) = (0x60 | tos >> 4, tos << 4, UDP, TTL);
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

fn put_addresses(ip: &mut [u8], from: Ipv6Addr, to: Ipv6Addr) {
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..40].copy_from_slice(&to.octets());
}

/// What goes before a router's message to make a frame of it, and how long the message is.
fn headers_of(message: IcmpMessage) -> (ArrayVec<u8, { ETHERNET_LEN + IPV6_LEN }>, usize) {
    let mut headers = ArrayVec::from([0; ETHERNET_LEN + IPV6_LEN]);
    headers[..12].copy_from_slice(&MACS);
    match message {
        IcmpMessage::V4(len) => {
            headers[12..14].copy_from_slice(&[0x08, 0x00]);
            headers.truncate(ETHERNET_LEN);
            (headers, len)
        }
        IcmpMessage::V6 { len, from, to } => {
            headers[12..14].copy_from_slice(&[0x86, 0xdd]);
            let ip = &mut headers[ETHERNET_LEN..];
            (ip[0], ip[6], ip[7]) = (0x60, ICMPV6, TTL);
            ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            put_addresses(ip, from, to);
            (headers, len)
        }
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

fn pieces_mut(buffer: &mut Mbuf, size: usize) -> impl Iterator<Item = &mut [u8]> {
    let mut left = size;
    buffer.pieces_mut().map(move |piece| {
        let here = piece.len().min(left);
        left -= here;
        &mut piece[..here]
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
