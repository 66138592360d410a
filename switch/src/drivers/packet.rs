//! AF_PACKET: the uplink on an ordinary interface, beside the kernel. Frames come in through a ring that the kernel fills,
//! and go out in batches; a virtio-net header carries checksum and GSO state both ways.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::packet::{LinkState, PacketTx, RxRing};
use weft_ffi::kernel::{VNET_HDR_LEN, VnetHdr};

use super::NativePool;
use super::missed::Missed;
use crate::offload::segment::{Cut, segment};
use crate::offload::{GsoKind, virtio};
use crate::packet::{BufPool, MAX_PACKET, PacketBuf};
use crate::port::{Armed, Burst, RxLoss, RxQueue, TxCaps, TxQueue};

/// Receives what comes in by the interface and passes the socket's filter.
pub struct PacketSocketRx {
    ring: RxRing,
    missed: Missed,
    /// What has come in and found no room in the burst.
    waiting: VecDeque<Mbuf>,
}

impl PacketSocketRx {
    /// Receives from this ring.
    pub fn new(ring: RxRing) -> Self {
        Self { ring, missed: Missed::NEW, waiting: VecDeque::new() }
    }
}

/// True for tunnel packets of one size in one frame, as UDP sockets on this machine send them (`UDP_SEGMENT`): it is the outer
/// packet that stands for several, not the inner one.
fn is_several(packet: &Mbuf) -> bool {
    let kind = packet.offload().gso.map(|gso| gso.kind);
    kind == Some(GsoKind::Udp) && Cut::of_tunnel(packet, 0).is_some()
}

/// Makes packets of them. Only nodes on the same machine send such frames, so this copies.
#[cold]
fn take_apart(
    pool: &mut NativePool,
    frame: Mbuf,
    burst: &mut Burst<Mbuf>,
    waiting: &mut VecDeque<Mbuf>,
    loss: &mut RxLoss,
) {
    let taken = segment(pool, frame, |_, packet| {
        if let Err(full) = burst.try_push(packet) {
            waiting.push_back(full.element());
        }
    });
    loss.no_buffer += u32::from(taken.is_err());
}

/// Sends through the interface.
pub struct PacketSocketTx(pub PacketTx);

impl RxQueue<NativePool> for PacketSocketRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        while !burst.is_full() {
            let Some(packet) = self.waiting.pop_front() else { break };
            burst.push(packet);
        }
        while !burst.is_full() {
            let Some(frame) = self.ring.next_frame() else { break };
            self.missed.came();
            let bytes = frame.bytes();
            if frame.is_truncated() || bytes.len() > MAX_PACKET {
                loss.too_long += 1;
                continue;
            }
            let Some(mut packet) = pool.alloc(bytes.len()) else {
                loss.no_buffer += 1;
                continue;
            };
            packet.write_at(0, bytes);
            match virtio::parse(&frame.vnet_hdr(), &packet) {
                Ok(offload) => {
                    packet.set_offload(offload);
                    if is_several(&packet) {
                        take_apart(pool, packet, burst, &mut self.waiting, &mut loss);
                    } else {
                        burst.push(packet);
                    }
                }
                Err(_) => loss.bad_offload += 1,
            }
        }
        let dropped =
            || self.ring.stats().map_or(0, |stats| u32::try_from(stats.dropped).unwrap_or(u32::MAX));
        loss.missed = self.missed.poll(dropped);
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }
    fn arm(&mut self) -> Armed {
        if self.missed.settle() && self.waiting.is_empty() { Armed::Waits } else { Armed::Busy }
    }
    fn recover(&mut self) -> bool {
        matches!(self.ring.link_state(), Ok(LinkState::Up | LinkState::Down))
    }
}

impl TxQueue<NativePool> for PacketSocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps { partial_checksum: true, ..TxCaps::NONE }
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let mut headers: Burst<VnetHdr> = Burst::new();
        let mut untold: Burst<Mbuf> = Burst::new();
        let mut frames: Burst<Mbuf> = Burst::new();
        for frame in burst.drain(..) {
            let mut header = [0; VNET_HDR_LEN];
            // A frame that cannot be told to the kernel is left, as one that the kernel refuses.
            if virtio::emit(frame.offload(), &frame, &mut header).is_ok() {
                headers.push(header);
                frames.push(frame);
            } else {
                untold.push(frame);
            }
        }
        let mut refused: Burst<usize> = Burst::new();
        let batch = headers.iter().copied().zip(frames.iter().map(Mbuf::pieces));
        let report = self.0.send_batch(batch, |index, _| refused.extend([index]));
        let done = report.sent + report.failed;
        burst.extend(
            frames
                .into_iter()
                .enumerate()
                .filter_map(|(index, frame)| (index >= done || refused.contains(&index)).then_some(frame)),
        );
        burst.extend(untold);
    }
}
