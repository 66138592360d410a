//! A tunnel of plain IPv4 packets through the kernel's sockets: flannel's `udp` and `ipip`. What is made of packets on their way is in
//! [`crate::ip_tunnel`].

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::udp::{IP_BATCH, IpReceived, IpRx, IpTx, Refusal};

use super::NativePool;
use super::messages::{Ask, Took, take_up_to};
use super::missed::Missed;
use super::socket::UnderlayMtu;
use crate::ip_tunnel::{Entry, Form, Unfit};
use crate::packet::BufPool;
use crate::port::{Armed, BURST, Burst, RxLoss, RxQueue, TxCaps, TxLoss, TxQueue};
use crate::types::MacAddr;
use crate::wire::ethernet::ETHERNET_LEN;

const _: () = assert!(IP_BATCH >= BURST, "a burst goes with one call");

/// Bytes of the longest message: what the kernel has put together of several packets.
const LONGEST: usize = 65535;

/// Receives what comes out of the tunnel.
pub struct IpTunnelRx {
    socket: IpRx,
    form: Form,
    /// To whom the frames are.
    gateway: MacAddr,
    mtu: UnderlayMtu,
    /// Ready for the next messages, each of `room` bytes.
    spares: Vec<Mbuf>,
    room: usize,
    /// Where a message goes on that is longer: so much for each. Touched only by what the kernel has put together.
    spill: Vec<u8>,
    ask: Ask,
    missed: Missed,
}

impl IpTunnelRx {
    /// Receives from this socket, for the gateway with this MAC address, packets as long as the underlay carries.
    pub fn new(socket: IpRx, form: Form, gateway: MacAddr, mtu: UnderlayMtu) -> Self {
        let spares = Vec::with_capacity(BURST);
        let spill = vec![0; BURST * LONGEST];
        Self { socket, form, gateway, mtu, spares, room: 0, spill, ask: Ask::NEW, missed: Missed::NEW }
    }

    /// Provides buffers for the next messages; how many.
    fn provide(&mut self, pool: &mut NativePool, most: usize) -> usize {
        let room = ETHERNET_LEN + self.mtu.underlay();
        if room != self.room {
            self.room = room;
            self.spares.clear();
        }
        let wanted = most.min(self.ask.messages());
        while self.spares.len() < wanted {
            let Some(spare) = pool.alloc(room) else { break };
            self.spares.push(spare);
        }
        self.spares.len().min(wanted)
    }

    /// Receives once, `most` messages at most.
    fn receive(
        &mut self,
        pool: &mut NativePool,
        burst: &mut Burst<Mbuf>,
        loss: &mut RxLoss,
        most: usize,
    ) -> Took {
        let count = self.provide(pool, burst.remaining_capacity().min(most));
        if count == 0 {
            // What comes stays in the kernel's queue, which drops and counts when it overflows.
            return Took::NOTHING;
        }
        let front = self.form.front();
        let mut told: ArrayVec<Option<IpReceived>, BURST> = ArrayVec::new();
        let spills = self.spill.chunks_mut(LONGEST);
        let buffers = self.spares[..count]
            .iter_mut()
            .zip(spills)
            .map(|(spare, spill)| pieces_from(spare, front).chain([spill]));
        // An error is the socket's own: the queue stays silent then.
        let received = self.socket.recv(buffers, |message| told.push(message)).unwrap_or(0);
        self.ask.learn(received);
        if received > 0 {
            self.missed.came();
        }
        let (mtu, usual) = (self.mtu.underlay().saturating_sub(self.form.outer_len()), self.room - front);
        let filled = self.spares.drain(..received).zip(self.spill.chunks(LONGEST));
        for (message, (mut packet, spill)) in told.into_iter().zip(filled) {
            match message {
                None => loss.malformed += 1,
                Some(IpReceived { len, truncated, .. })
                    if truncated || self.form == Form::Udp && len > usual =>
                {
                    loss.too_long += 1;
                }
                Some(IpReceived { from, len, .. }) => {
                    if len > usual {
                        let Some(longer) = lengthen(pool, &packet, &spill[..len - usual]) else {
                            loss.no_buffer += 1;
                            continue;
                        };
                        packet = longer;
                    }
                    packet.truncate(front + len);
                    match self.form.leave(&mut packet, from, self.gateway, mtu) {
                        Ok(()) => burst.push(packet),
                        Err(Unfit::Malformed) => loss.malformed += 1,
                        Err(Unfit::Expired) => loss.expired += 1,
                        Err(Unfit::Congested) => loss.congested += 1,
                    }
                }
            }
        }
        Took { messages: received, more: received == count }
    }
}

impl RxQueue<NativePool> for IpTunnelRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        take_up_to(BURST, |most| self.receive(pool, burst, &mut loss, most));
        loss.missed = self.missed.poll(|| self.socket.take_dropped());
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
    fn arm(&mut self) -> Armed {
        if self.missed.settle() { Armed::Waits } else { Armed::Busy }
    }
    fn recover(&mut self) -> bool {
        // The kernel tells a socket that is not connected of nothing that would end it.
        true
    }
}

/// Sends into the tunnel.
pub struct IpTunnelTx {
    socket: IpTx,
    form: Form,
    /// This node's underlay address.
    own: Ipv4Addr,
    loss: TxLoss,
}

impl IpTunnelTx {
    /// Sends by this socket, which is bound to `own`.
    pub fn new(socket: IpTx, form: Form, own: Ipv4Addr) -> Self {
        Self { socket, form, own, loss: TxLoss::default() }
    }
}

impl TxQueue<NativePool> for IpTunnelTx {
    /// Each packet is a message of its own, so what stands for several is cut before.
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let mut loss = TxLoss::default();
        // A bit for each packet that is not sent.
        let mut left = 0u64;
        let mut entries: ArrayVec<(usize, Entry), BURST> = ArrayVec::new();
        for (index, frame) in burst.iter_mut().enumerate() {
            match self.form.enter(frame, self.own) {
                Ok(entry) => entries.push((index, entry)),
                Err(unfit) => {
                    left |= 1 << index;
                    loss.expired += u32::from(unfit == Unfit::Expired);
                }
            }
        }
        let messages = entries.iter().map(|(index, entry)| {
            let outer = entry.outer.iter().map(|header| header.as_slice());
            (entry.to, outer.chain(pieces_behind(&burst[*index], ETHERNET_LEN)))
        });
        self.socket.send(messages, |place, error| {
            left |= 1 << entries[place].0;
            match Refusal::from(error) {
                Refusal::Filtered => loss.refused += 1,
                Refusal::Unreachable => loss.unreachable += 1,
                Refusal::TooLong => loss.too_long += 1,
                Refusal::Other => {}
            }
        });
        if left == 0 {
            Mbuf::free_burst(burst);
            return;
        }
        self.loss = loss;
        let mut index = 0;
        burst.retain(|_| {
            index += 1;
            left >> (index - 1) & 1 == 1
        });
    }
    fn take_loss(&mut self) -> TxLoss {
        std::mem::take(&mut self.loss)
    }
}

/// A packet of these bytes, and the rest behind them.
#[cold]
fn lengthen(pool: &mut NativePool, packet: &Mbuf, rest: &[u8]) -> Option<Mbuf> {
    let mut longer = pool.alloc(packet.len() + rest.len())?;
    let mut at = 0;
    for piece in packet.pieces().chain([rest]) {
        longer.write_at(at, piece);
        at += piece.len();
    }
    Some(longer)
}

/// The bytes of a buffer but for the first so many.
fn pieces_from(buffer: &mut Mbuf, mut skip: usize) -> impl Iterator<Item = &mut [u8]> {
    buffer.pieces_mut().map(move |piece| {
        let here = skip.min(piece.len());
        skip -= here;
        &mut piece[here..]
    })
}

/// As [`pieces_from`], to be read.
fn pieces_behind(packet: &Mbuf, mut skip: usize) -> impl Iterator<Item = &[u8]> {
    packet.pieces().map(move |piece| {
        let here = skip.min(piece.len());
        skip -= here;
        &piece[here..]
    })
}
