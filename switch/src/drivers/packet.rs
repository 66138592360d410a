//! AF_PACKET: the uplink on an ordinary interface, beside the kernel. Frames come in through a ring that the kernel fills,
//! and go out in batches; a virtio-net header carries checksum and GSO state both ways.

use std::os::fd::{AsFd, BorrowedFd};

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::VNET_HDR_LEN;
use weft_ffi::kernel::packet::{LinkState, PacketTx, RxRing};

use super::NativePool;
use crate::offload::virtio;
use crate::packet::{BufPool, MAX_PACKET, PacketBuf};
use crate::port::{Burst, RxLoss, RxQueue, TxCaps, TxQueue};

/// Receives what comes in by the interface and passes the socket's filter.
pub struct PacketSocketRx(pub RxRing);

/// Sends through the interface.
pub struct PacketSocketTx(pub PacketTx);

impl RxQueue<NativePool> for PacketSocketRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        while !burst.is_full() {
            let Some(frame) = self.0.next_frame() else { break };
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
                    burst.push(packet);
                }
                Err(_) => loss.bad_offload += 1,
            }
        }
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
    fn recover(&mut self) -> bool {
        matches!(self.0.link_state(), Ok(LinkState::Up | LinkState::Down))
    }
}

impl TxQueue<NativePool> for PacketSocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps { partial_checksum: true, ..TxCaps::NONE }
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let mut refused: Burst<usize> = Burst::new();
        let frames = burst.iter().map(|frame| {
            let mut header = [0; VNET_HDR_LEN];
            virtio::emit(frame.offload(), frame, &mut header);
            (header, frame.pieces())
        });
        let report = self.0.send_batch(frames, |index, _| refused.extend([index])).unwrap_or_default();
        let done = report.sent + report.failed;
        let mut index = 0;
        burst.retain(|_| {
            let left = index >= done || refused.contains(&index);
            index += 1;
            left
        });
    }
}
