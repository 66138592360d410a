//! TAP: an ordinary pod's interface, and the host port. A virtio-net header carries checksum and GSO state both ways.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::{MAX_SEGMENTS, Mbuf};
use weft_ffi::kernel::VNET_HDR_LEN;
use weft_ffi::kernel::tap::Tap;

use super::NativePool;
use super::pool::{Room, SMALL};
use crate::offload::virtio;
use crate::packet::PacketBuf;
use crate::port::{BURST, Burst, RxLoss, RxQueue, TxCaps, TxQueue};

/// Ethernet header and one 802.1Q tag, in front of an IP packet.
const LINK_HEADERS: usize = 14 + 4;

/// The longest frame that the kernel hands over: a GSO frame with the longest IP packet, or one of the largest MTU.
const LONGEST: usize = 65535 + LINK_HEADERS;

/// What goes behind the first buffer. One byte more than is taken: the kernel cuts what does not fit without a word.
const TAIL: usize = LONGEST + 1 - SMALL;

/// A burst ends with the frame that brings it over so many bytes, so that large frames are still in the second-level cache when they
/// are sent.
const BURST_BYTES: usize = 256 << 10;

/// Receives what the interface's user sends.
pub struct TapRx(Arc<Tap>);

/// Sends to the interface's user.
pub struct TapTx(Arc<Tap>);

/// The two directions of a TAP's queue.
pub fn tap_queues(tap: Tap) -> (TapRx, TapTx) {
    let tap = Arc::new(tap);
    (TapRx(tap.clone()), TapTx(tap))
}

/// Deletes the device that these are all the open queues of, for ever. Without this a persistent one stays.
pub fn delete_tap(rx: Vec<TapRx>, tx: Vec<TapTx>) -> io::Result<()> {
    drop(rx);
    // It goes when the last of them is closed, at the end of this.
    let mut taps = tx.into_iter().filter_map(|tx| Arc::into_inner(tx.0));
    taps.next().map_or(Ok(()), Tap::delete)
}

impl TapTx {
    /// Lets the kernel spread the device's flows over its queues, each of which has a worker that reads it.
    pub fn spreader(&self) -> Spreader {
        Spreader(Arc::downgrade(&self.0))
    }
}

/// Spreads a TAP's flows over its queues, once all of them are open. Keeps no queue open. The default is of a device that is gone.
#[derive(Default)]
pub struct Spreader(Weak<Tap>);

impl Spreader {
    /// Does it. It may wait for the kernel.
    pub fn spread(&self) -> io::Result<()> {
        // A device that is gone has nothing to spread.
        self.0.upgrade().map_or(Ok(()), |tap| tap.spread())
    }
}

/// Frames of any size that the interface has are taken: its user may have set another MTU, and what is too big for the way out is
/// told so by whoever looks at that.
impl RxQueue<NativePool> for TapRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        self.rx_few(pool, burst, BURST)
    }
    fn rx_few(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>, few: usize) -> RxLoss {
        let mut loss = RxLoss::default();
        let mut bytes = 0;
        let most = burst.len().saturating_add(few).min(burst.capacity());
        while burst.len() < most && bytes < BURST_BYTES {
            let Some((mut head, mut tail)) = pool.room(TAIL) else {
                // The frame stays in the kernel's queue, which drops and counts when it overflows.
                break;
            };
            let mut header = [0; VNET_HDR_LEN];
            let received = {
                let mut room: ArrayVec<IoSliceMut<'_>, MAX_SEGMENTS> = ArrayVec::new();
                head.io_slices_mut(&mut room);
                tail.io_slices_mut(&mut room);
                self.0.recv(&mut header, &mut room)
            };
            let Ok(Some(len)) = received else {
                pool.keep(Room { head: Some(head), tail: Some(tail) });
                break;
            };
            if len > LONGEST {
                pool.keep(Room { head: Some(head), tail: Some(tail) });
                loss.too_long += 1;
                continue;
            }
            if len > SMALL {
                tail.truncate(len - SMALL);
                // Two buffers, or as many small ones as the tail has: never more than a chain may have.
                let _whole = head.append(tail).is_ok();
            } else {
                head.truncate(len);
                pool.keep(Room { head: None, tail: Some(tail) });
            }
            let frame = head;
            match virtio::parse(&header, &frame) {
                Ok(offload) => {
                    let mut frame = frame;
                    frame.set_offload(offload);
                    bytes += len;
                    burst.push(frame);
                }
                Err(_) => loss.bad_offload += 1,
            }
        }
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl TxQueue<NativePool> for TapTx {
    fn caps(&self) -> TxCaps {
        TxCaps { gso_udp: self.0.takes_gso_udp(), ..TxCaps::ALL }
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let mut left = Burst::new();
        let mut open = true;
        for frame in burst.drain(..) {
            let taken = open && {
                let mut header = [0; VNET_HDR_LEN];
                let mut pieces = ArrayVec::new();
                let whole = frame.io_slices(&mut pieces);
                let told = virtio::emit(frame.offload(), &frame, &mut header).is_ok();
                // A frame that cannot be told to the kernel is left, as one that the kernel refuses.
                let sent = if whole && told {
                    self.0.send(&header, &pieces)
                } else {
                    Err(ErrorKind::InvalidData.into())
                };
                // Full: so will it be for the others. An error is this frame's alone.
                open = !matches!(sent, Ok(false));
                matches!(sent, Ok(true))
            };
            if !taken {
                left.push(frame);
            }
        }
        *burst = left;
    }
}
