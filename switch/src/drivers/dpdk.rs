//! DPDK's own: the mbuf as packet, ethdevs and vhost-user ports as queues.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use weft_ffi::dpdk::{
    EthOffloads, EthRx, EthTx, Guest, MAX_SEGMENTS, Mbuf, RxChecksum, TxWork, Upper, VhostRx, VhostTx,
};

use super::NativePool;
use crate::offload::finish::takes;
use crate::offload::nic::{self, Told, Work};
use crate::offload::{Offload, checksum};
use crate::packet::PacketBuf;
use crate::port::{Armed, BURST, Burst, RxLoss, RxQueue, TxCaps, TxQueue};

/// How often a burst is offered to a guest that takes it in parts.
const GUEST_TRIES: usize = 8;
/// A guest's buffer without mergeable ones holds such a frame (virtio 1.2, section 5.1.6.3.1).
const SURE_TO_FIT: usize = 1514;

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
    #[inline]
    fn is_plain(&self) -> bool {
        self.meta() == 0
    }
}

/// Gives the packets behind the first `old` their states, by what the driver has said of them; how many were thrown away because it
/// contradicts them.
fn take_states(burst: &mut Burst<Mbuf>, old: usize) -> u32 {
    let mut contradicted = Burst::<usize>::new();
    for (index, frame) in burst.iter_mut().enumerate().skip(old) {
        let segment = frame.rx_segment();
        let told = match frame.rx_checksum() {
            RxChecksum::Unknown | RxChecksum::Bad if segment.is_none() => continue,
            RxChecksum::Unknown | RxChecksum::Bad => Told::Unknown,
            RxChecksum::Good => Told::Right,
            RxChecksum::Missing => Told::Missing,
        };
        match nic::taken(told, segment, frame) {
            Ok(offload) => frame.set_offload(offload),
            Err(_) => contradicted.push(index),
        }
    }
    for index in contradicted.iter().rev() {
        burst.remove(*index);
    }
    contradicted.len() as u32
}

/// The far side of a queue, as its driver serves it.
#[derive(Clone, Copy)]
struct FarSide {
    caps: TxCaps,
    /// The device fills in the checksums of the IPv4 headers that it makes.
    ip_checksum: bool,
    /// It is a guest.
    guest: bool,
}

impl FarSide {
    fn of_device(offloads: EthOffloads) -> Self {
        let caps = TxCaps {
            partial_checksum: offloads.checksum,
            gso_tcp4: offloads.tso,
            gso_tcp6: offloads.tso,
            segments: offloads.tso_segments,
            ..TxCaps::NONE
        };
        Self { caps, ip_checksum: offloads.ip_checksum, guest: false }
    }

    fn of_guest(guest: Guest) -> Self {
        let caps = TxCaps {
            partial_checksum: guest.takes_partial(),
            gso_tcp4: guest.takes_tso4(),
            gso_tcp6: guest.takes_tso6(),
            ..TxCaps::NONE
        };
        Self { caps, ip_checksum: false, guest: true }
    }

    /// Tells the driver what is to be done to each frame, and returns those of which it can't be told: the far side does not take them
    /// (any more), or their headers are nothing that it knows how to cut. To be called where one frame has a state or work.
    fn tell(self, burst: &mut Burst<Mbuf>) -> Burst<Mbuf> {
        let mut unfit = Burst::<usize>::new();
        for (index, frame) in burst.iter_mut().enumerate() {
            if frame.meta() == 0 {
                frame.set_tx_work(None);
            } else if !(takes(self.caps, frame) && self.tell_one(frame)) {
                unfit.push(index);
            }
        }
        let mut left = Burst::new();
        for index in unfit.iter().rev() {
            left.insert(0, burst.remove(*index));
        }
        left
    }

    fn tell_one(self, frame: &mut Mbuf) -> bool {
        let work = match nic::told(frame) {
            Ok(None) => return frame.set_tx_work(None),
            // A NIC's driver and the vhost library make pseudo-headers, of plain headers only.
            Ok(Some(work)) if work.plain || (self.guest && work.segment.is_some()) => work,
            Ok(Some(_)) | Err(_) => return frame.set_tx_work(None) && fill_in(frame),
        };
        let headers = work.l2_len + work.l3_len + work.l4_len;
        let upper = if work.tcp { Upper::Tcp } else { Upper::Udp };
        let Work { l2_len, l3_len, l4_len, v6, segment, .. } = work;
        let work = TxWork { l2_len, l3_len, l4_len, v6, upper, segment, ip_checksum: self.ip_checksum };
        if !(frame.pull_up(headers) && frame.set_tx_work(Some(&work))) {
            return fill_in(frame);
        }
        !self.guest || segment.is_none() || VhostTx::keep_sum(frame, headers)
    }
}

/// Finishes here what cannot be told. False for what would have to be cut.
#[cold]
fn fill_in(frame: &mut Mbuf) -> bool {
    frame.offload().gso.is_none() && checksum::complete(frame).is_ok()
}

impl RxQueue<NativePool> for EthRx {
    #[inline]
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        RxQueue::rx_few(self, pool, burst, BURST)
    }
    #[inline]
    fn rx_few(&mut self, _: &mut NativePool, burst: &mut Burst<Mbuf>, few: usize) -> RxLoss {
        let old = burst.len();
        let came = EthRx::rx_few(self, burst, few);
        let bad_offload = if came > 0 && self.has_told() { take_states(burst, old) } else { 0 };
        RxLoss { malformed: self.take_malformed(), bad_offload, ..RxLoss::default() }
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl TxQueue<NativePool> for EthTx {
    fn caps(&self) -> TxCaps {
        FarSide::of_device(self.offloads()).caps
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        if Mbuf::are_plain(burst) {
            EthTx::tx(self, burst);
            return;
        }
        let untold = FarSide::of_device(self.offloads()).tell(burst);
        EthTx::tx(self, burst);
        burst.extend(untold);
    }
}

impl RxQueue<NativePool> for VhostRx {
    #[inline]
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        RxQueue::rx_few(self, pool, burst, BURST)
    }
    #[inline]
    fn rx_few(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>, few: usize) -> RxLoss {
        let old = burst.len();
        let came = VhostRx::rx_few(self, pool.small(), burst, few);
        let bad_offload = if came > 0 && self.has_told() { take_states(burst, old) } else { 0 };
        RxLoss {
            malformed: self.take_malformed(),
            too_long: self.take_too_long(),
            bad_offload,
            ..RxLoss::default()
        }
    }
    #[inline]
    fn expect(&self) {
        VhostRx::expect(self);
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
        self.guest().map_or(TxCaps::NONE, |guest| FarSide::of_guest(guest).caps)
    }
    #[inline]
    fn expect(&self) {
        VhostTx::expect(self);
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let Some(guest) = self.guest() else { return };
        let mut left =
            if Mbuf::are_plain(burst) { Burst::new() } else { FarSide::of_guest(guest).tell(burst) };
        // A guest that takes some is at work and may take more in a moment; one that takes none is not waited for.
        let mut tries = GUEST_TRIES;
        while tries > 0 && !burst.is_empty() {
            if VhostTx::tx(self, guest, burst) > 0 {
                tries -= 1;
                continue;
            }
            // In front is a frame that the guest has no room for; if no buffer of it is large enough, those behind may still fit.
            if guest.spans_buffers() || burst.first().is_none_or(|frame| frame.len() <= SURE_TO_FIT) {
                break;
            }
            left.push(burst.remove(0));
        }
        burst.extend(left);
    }
}
