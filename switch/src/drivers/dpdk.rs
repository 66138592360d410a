//! DPDK's own: the mbuf as packet, ethdevs and vhost-user ports as queues.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use weft_ffi::dpdk::{EthRx, EthTx, MAX_SEGMENTS, Mbuf, VhostRx, VhostTx};

use super::NativePool;
use crate::offload::Offload;
use crate::packet::PacketBuf;
use crate::port::{Armed, Burst, RxLoss, RxQueue, TxCaps, TxQueue};

/// How often a burst is offered to a guest that takes it in parts.
const GUEST_TRIES: usize = 8;

const _: () = assert!(MAX_SEGMENTS == crate::packet::MAX_CHAIN);

impl PacketBuf for Mbuf {
    #[inline]
    fn head(&self) -> &[u8] {
        Mbuf::head(self)
    }
    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        Mbuf::head_mut(self)
    }
    #[inline]
    fn len(&self) -> usize {
        Mbuf::len(self)
    }
    #[inline]
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        Mbuf::prepend(self, count)
    }
    #[inline]
    fn trim_front(&mut self, count: usize) -> bool {
        Mbuf::trim_front(self, count)
    }
    #[inline]
    fn truncate(&mut self, len: usize) {
        Mbuf::truncate(self, len);
    }
    fn pull_up(&mut self, count: usize) -> bool {
        Mbuf::pull_up(self, count)
    }
    #[inline]
    fn segments(&self) -> usize {
        self.segment_count()
    }
    #[inline]
    fn append(&mut self, other: Self) -> Result<(), Self> {
        Mbuf::append(self, other)
    }
    fn for_each_segment(&self, see: impl FnMut(&[u8])) {
        Mbuf::for_each_segment(self, see);
    }
    fn for_each_segment_mut(&mut self, mut see: impl FnMut(&mut [u8])) {
        if self.segment_count() == 1 {
            return see(Mbuf::head_mut(self));
        }
        let mut segments = ArrayVec::new();
        self.io_slices_mut(&mut segments);
        for bytes in &mut segments {
            see(bytes);
        }
    }
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        Mbuf::pieces(self)
    }
    fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        Mbuf::read_at(self, offset, to)
    }
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool {
        Mbuf::write_at(self, offset, from)
    }
    #[inline]
    fn offload(&self) -> Offload {
        Offload::unpack(self.meta())
    }
    #[inline]
    fn set_offload(&mut self, offload: Offload) {
        self.set_meta(offload.pack());
    }
}

impl RxQueue<NativePool> for EthRx {
    #[inline]
    fn rx(&mut self, _: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        EthRx::rx(self, burst);
        RxLoss { malformed: self.take_malformed(), ..RxLoss::default() }
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl TxQueue<NativePool> for EthTx {
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        EthTx::tx(self, burst);
    }
}

impl RxQueue<NativePool> for VhostRx {
    #[inline]
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        VhostRx::rx(self, pool.small(), burst);
        RxLoss { malformed: self.take_malformed(), too_long: self.take_too_long(), ..RxLoss::default() }
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(VhostRx::wait_fd(self))
    }
    fn arm(&mut self) -> Armed {
        if !self.can_tell() {
            Armed::Mute
        } else if VhostRx::arm(self) {
            Armed::Waits
        } else {
            Armed::Busy
        }
    }
    fn disarm(&mut self) {
        VhostRx::disarm(self);
    }
}

impl TxQueue<NativePool> for VhostTx {
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        // A guest that takes some is at work and may take more in a moment; one that takes none is not waited for.
        for _ in 0..GUEST_TRIES {
            if VhostTx::tx(self, burst) == 0 || burst.is_empty() {
                break;
            }
        }
    }
}
