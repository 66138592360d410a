//! Receiving from an AF_XDP socket, without a system call per frame.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::slice;
use std::sync::Arc;

use arrayvec::ArrayVec;
use libc::xdp_desc;

use super::ring::{Consumer, Producer};
use super::socket::Xsk;

/// Buffers of one frame at most: the kernel has 17 fragments and a head.
pub const MAX_PIECES: usize = 32;
/// `XDP_PKT_CONTD`: the frame goes on in the next buffer.
pub(super) const CONTINUED: u32 = 1;

/// The receiving side of one queue. It belongs to one worker.
#[derive(Debug)]
pub struct XskRx {
    ring: Consumer<xdp_desc>,
    fill: Producer<u64>,
    /// The pieces of the frame that is being put together.
    pieces: ArrayVec<xdp_desc, MAX_PIECES>,
    /// What is left of a frame with too many pieces is thrown away.
    skip: bool,
    /// Buffers have gone back that the kernel has not been told of.
    given_back: bool,
    malformed: u64,
    /// What the kernel had counted when it was last asked.
    told: u64,
    xsk: Arc<Xsk>,
}

impl XskRx {
    /// Gives the kernel the first `buffers` buffers.
    pub(super) fn new(
        xsk: Arc<Xsk>,
        ring: Consumer<xdp_desc>,
        mut fill: Producer<u64>,
        buffers: u32,
    ) -> Self {
        for number in 0..buffers {
            // The ring has a place for each of them, here and later.
            fill.push(u64::from(number) * u64::from(xsk.buffer));
        }
        fill.submit();
        Self {
            ring,
            fill,
            pieces: ArrayVec::new(),
            skip: false,
            given_back: false,
            malformed: 0,
            told: 0,
            xsk,
        }
    }

    /// The oldest frame that has not been taken, if there is one. Costs no system call.
    #[inline]
    pub fn next_frame(&mut self) -> Option<XskFrame<'_>> {
        loop {
            let piece = self.ring.pop()?;
            let more = piece.options & CONTINUED != 0;
            // Descriptors that are not as the kernel's interface says lose their frame, and their buffer.
            let sound = piece.len <= self.xsk.buffer && self.xsk.place(piece.addr, piece.len).is_some();
            if !sound || self.skip || self.pieces.is_full() {
                self.malformed += u64::from(!self.skip);
                if sound {
                    self.give(piece);
                }
                self.drop_pieces();
                self.skip = more;
                continue;
            }
            self.pieces.push(piece);
            if !more {
                return Some(XskFrame { rx: self });
            }
        }
    }

    fn drop_pieces(&mut self) {
        while let Some(piece) = self.pieces.pop() {
            self.give(piece);
        }
    }

    fn give(&mut self, piece: xdp_desc) {
        // The kernel takes any address within a buffer for the buffer.
        self.fill.push(piece.addr);
        self.given_back = true;
    }

    /// Gives the buffers of the frames that are done with back to the kernel: once a burst. Also sees to it that what the
    /// sending side has left in its ring goes on its way.
    #[inline]
    pub fn end_burst(&mut self) {
        if self.given_back {
            self.given_back = false;
            self.ring.release();
            self.fill.submit();
            if self.fill.needs_wakeup() {
                self.xsk.wake_rx();
            }
        }
        if self.xsk.is_behind() {
            // Who sends looks what has become of it.
            let _ = self.xsk.kick();
        }
    }

    /// True while the kernel has not taken all that was sent: it tells nobody when it could go on.
    pub fn has_unsent(&self) -> bool {
        self.xsk.is_behind()
    }

    /// Frames for this queue that found no buffer or no place in the ring, since the last call. A system call: not for
    /// every burst.
    ///
    /// Where a driver without a copy finds no buffer, it counts that itself, as the interface's own loss.
    pub fn lost(&mut self) -> io::Result<u64> {
        let statistics = self.xsk.statistics()?;
        let all = statistics.rx_dropped + statistics.rx_ring_full;
        let lost = all.saturating_sub(std::mem::replace(&mut self.told, all));
        Ok(lost + std::mem::take(&mut self.malformed))
    }
}

impl AsFd for XskRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.xsk.as_fd()
    }
}

/// A frame in the socket's memory. Its buffers go back when it is dropped.
#[derive(Debug)]
pub struct XskFrame<'rx> {
    rx: &'rx mut XskRx,
}

impl XskFrame<'_> {
    /// How long it is.
    #[inline]
    pub fn len(&self) -> usize {
        self.rx.pieces.iter().map(|piece| piece.len as usize).sum()
    }

    /// True without a byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, buffer by buffer.
    #[inline]
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.rx.pieces.iter().filter_map(|piece| {
            let start = self.rx.xsk.place(piece.addr, piece.len)?;
            // SAFETY: within the memory (`place`). The descriptor has made the buffer ours until it is given back, which
            // needs `self`; the kernel does not write to it, and we don't either. No other part of this process uses rx buffers.
            Some(unsafe { slice::from_raw_parts(start.as_ptr(), piece.len as usize) })
        })
    }
}

impl Drop for XskFrame<'_> {
    fn drop(&mut self) {
        self.rx.drop_pieces();
    }
}
