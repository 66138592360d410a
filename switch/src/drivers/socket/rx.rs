//! Receiving: the kernel writes each packet straight into a buffer of its own.
//!
//! What it has put together (`UDP_GRO`) comes as one message of packets of one size. Which size has to be known before it comes;
//! it is guessed from what came before ([`Shape`]). Where the guess is wrong, the message is copied into buffers of
//! the right size ([`Delivery`]), and the next guess is another.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::udp::{IcmpRx, Received, UdpRx};

use super::UnderlayMtu;
use super::delivery::{Delivery, Filled};
use super::routers::Routers;
use super::shape::{Expected, LONGEST, PACKETS, Shape};
use crate::drivers::NativePool;
use crate::drivers::messages::{Ask, Took, take_up_to};
use crate::drivers::missed::Missed;
use crate::packet::BufPool;
use crate::port::{Armed, BURST, Burst, RxLoss, RxQueue};

/// Polls between two looks for what routers say, while there is work; it is looked for before the worker sleeps, too.
const LOOK_EVERY: u32 = 64;

/// Receives the tunnel's packets that the kernel lets in.
pub struct SocketRx {
    socket: UdpRx,
    port: u16,
    mtu: UnderlayMtu,
    routers: Option<Routers>,
    expected: Expected,
    ask: Ask,
    /// Ready for the next messages: small ones, and ones that hold the longest message. Those that are used are missing.
    spares: [Vec<Option<Mbuf>>; 2],
    /// Where a message goes on that is longer than its buffers: so much for each. Hardly ever touched.
    spill: Vec<u8>,
    /// What has come in and found no room in the burst.
    waiting: VecDeque<Mbuf>,
    missed: Missed,
}

impl SocketRx {
    /// Receives from this socket, which is bound to `port`, and hears what routers say where `icmp` is given.
    pub fn new(socket: UdpRx, icmp: Option<IcmpRx>, port: u16, mtu: UnderlayMtu) -> io::Result<Self> {
        let routers = icmp.map(|icmp| Routers::new(icmp, socket.as_fd())).transpose()?;
        Ok(Self {
            socket,
            port,
            mtu,
            routers,
            expected: Expected::NEW,
            ask: Ask::NEW,
            spares: [Vec::with_capacity(BURST), Vec::with_capacity(BURST)],
            spill: vec![0; BURST * LONGEST],
            waiting: VecDeque::with_capacity(PACKETS),
            missed: Missed::NEW,
        })
    }

    /// Provides buffers for the next messages; how many messages that is, and for how many packets each.
    fn provide(&mut self, pool: &mut NativePool, room: usize) -> (usize, usize) {
        let Shape { packets, messages, .. } = self.expected.shape;
        let spares = &mut self.spares[self.expected.shape.buffers()];
        let wanted = packets * messages.min(self.ask.messages()).min(room / packets).max(1);
        let mut have = 0;
        while have < wanted {
            if have == spares.len() {
                spares.push(None);
            }
            let spare = &mut spares[have];
            if spare.is_none() {
                *spare = pool.alloc(self.expected.shape.room());
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

    /// Receives once, `most` messages at most.
    fn receive(
        &mut self,
        pool: &mut NativePool,
        burst: &mut Burst<Mbuf>,
        loss: &mut RxLoss,
        most: usize,
    ) -> Took {
        let (messages, packets) = self.provide(pool, burst.remaining_capacity());
        let messages = messages.min(most);
        if messages == 0 {
            // What comes stays in the kernel's queue, which drops and counts when it overflows.
            return Took::NOTHING;
        }
        let shape = self.expected.shape;
        let size = shape.size;
        let all_spares = &mut self.spares[shape.buffers()][..messages * packets];
        let mut told: ArrayVec<(usize, Option<Received>), BURST> = ArrayVec::new();
        let buffers =
            all_spares.chunks_mut(packets).zip(self.spill.chunks_mut(LONGEST)).map(|(spares, spill)| {
                spares.iter_mut().flatten().flat_map(|spare| pieces_mut(spare, size)).chain([spill])
            });
        // An error is the socket's own: the queue stays silent then.
        let count = self.socket.recv(buffers, |index, received| told.push((index, received))).unwrap_or(0);
        self.ask.learn(count);
        if count == 0 {
            return Took::NOTHING;
        }
        self.missed.came();
        let mut next = Shape::SINGLE;
        let mut delivery =
            Delivery { port: self.port, mtu: &self.mtu, burst, waiting: &mut self.waiting, loss };
        for (index, received) in told {
            let filled = Filled {
                size,
                buffers: &mut all_spares[index * packets..(index + 1) * packets],
                spill: &self.spill[index * LONGEST..(index + 1) * LONGEST],
            };
            match delivery.deliver(pool, received, filled) {
                None | Some(Shape::SINGLE) => {}
                Some(seen) => next = seen,
            }
        }
        self.expected.learn(next);
        Took { messages: count, more: count == messages }
    }
}

impl RxQueue<NativePool> for SocketRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        while !burst.is_full() {
            let Some(packet) = self.waiting.pop_front() else { break };
            burst.push(packet);
        }
        // A message is not taken before all of its packets have room: they go on together.
        take_up_to(BURST, |most| {
            if !self.waiting.is_empty() || self.expected.shape.packets > burst.remaining_capacity() {
                return Took::NOTHING;
            }
            let large = self.expected.shape == Shape::LARGE;
            let took = self.receive(pool, burst, &mut loss, most);
            Took { more: took.more && !large, ..took }
        });
        // Behind the tunnel's own: whoever sends many of these takes no room from it.
        if let Some(routers) = &mut self.routers {
            if self.missed.polls() % LOOK_EVERY == 0 {
                routers.look();
            }
            routers.hear(pool, &mut loss, |packet| {
                if let Err(full) = burst.try_push(packet) {
                    self.waiting.push_back(full.element());
                }
            });
        }
        loss.missed = self.missed.poll(|| self.socket.take_dropped());
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.routers.as_ref().map_or(self.socket.as_fd(), |routers| routers.as_fd()))
    }
    fn arm(&mut self) -> Armed {
        if !self.waiting.is_empty() {
            return Armed::Busy;
        }
        if let Some(routers) = &mut self.routers {
            routers.look();
        }
        if self.missed.settle() { Armed::Waits } else { Armed::Busy }
    }
    fn recover(&mut self) -> bool {
        // The kernel tells a socket that is not connected of nothing that would end it.
        true
    }
}

/// The first `size` bytes of a buffer.
fn pieces_mut(buffer: &mut Mbuf, size: usize) -> impl Iterator<Item = &mut [u8]> {
    let mut left = size;
    buffer.pieces_mut().map(move |piece| {
        let here = piece.len().min(left);
        left -= here;
        &mut piece[..here]
    })
}
