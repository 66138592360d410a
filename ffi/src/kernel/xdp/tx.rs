//! Sending through an AF_XDP socket: frames are copied into its memory, a system call a burst has the kernel take them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use libc::xdp_desc;

use super::ring::{Consumer, Producer};
use super::rx::CONTINUED;
use super::socket::Xsk;

/// How often the kernel is called for one burst at most: one call takes 32 frames.
const CALLS: usize = 8;
/// Buffers of one frame at most, which is what the kernel takes (`MAX_SKB_FRAGS`).
const MAX_PIECES: usize = 17;

/// The sending side of one queue. It belongs to one worker.
#[derive(Debug)]
pub struct XskTx {
    ring: Producer<xdp_desc>,
    completed: Consumer<u64>,
    /// Buffers that are ours, by address.
    free: Vec<u64>,
    /// The interface took nothing the last time.
    stopped: bool,
    first: u64,
    xsk: Arc<Xsk>,
}

impl XskTx {
    /// Sends from the buffers of these numbers.
    pub(super) fn new(
        xsk: Arc<Xsk>,
        ring: Producer<xdp_desc>,
        completed: Consumer<u64>,
        buffers: Range<u32>,
    ) -> Self {
        let address = |number: u32| u64::from(number) * u64::from(xsk.buffer);
        let first = address(buffers.start);
        let free = buffers.rev().map(address).collect();
        Self { ring, completed, free, stopped: false, first, xsk }
    }

    /// The longest frame that can be sent, in bytes.
    pub fn longest(&self) -> usize {
        let pieces = if self.xsk.mode.multi_buffer { MAX_PIECES } else { 1 };
        pieces * self.xsk.buffer as usize
    }

    /// Takes a frame of `len` bytes, which `pieces` are the bytes of; false when there is no room for it, or it is too long. It is
    /// on its way after [`Self::flush`].
    #[inline]
    pub fn push<'a>(&mut self, len: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let buffer = self.xsk.buffer as usize;
        let count = len.div_ceil(buffer);
        if len == 0 || len > self.longest() || self.stopped {
            return false;
        }
        if self.free.len() < count {
            self.reap();
        }
        if self.free.len() < count || !self.ring.has_room(count as u32) {
            return false;
        }
        let mut pieces = pieces.into_iter();
        let mut rest: &[u8] = &[];
        let mut left = len;
        for _ in 0..count {
            let Some(address) = self.free.pop() else { break };
            let here = left.min(buffer);
            let mut filled = 0;
            while filled < here {
                if rest.is_empty() {
                    match pieces.next() {
                        Some(next) => rest = next,
                        // Fewer bytes than was said: what lies in the buffer goes out in their place.
                        None => break,
                    }
                }
                let take = rest.len().min(here - filled);
                let (now, later) = rest.split_at(take);
                if let Some(to) = self.xsk.place(address + filled as u64, take as u32) {
                    // SAFETY: within one of the sending side's buffers (`take` ends within the buffer), which is in `free` and so
                    // neither the kernel's nor lent to anybody; `now` is memory of the caller's, which lies elsewhere.
                    unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), to.as_ptr(), take) };
                }
                filled += take;
                rest = later;
            }
            left -= here;
            let options = if left > 0 { CONTINUED } else { 0 };
            // There is room, as was asked above.
            self.ring.push(xdp_desc { addr: address, len: here as u32, options });
        }
        true
    }

    /// Has the kernel send what was pushed.
    ///
    /// # Errors
    /// The interface is down (`ENETDOWN`) or gone (`ENXIO`). Nothing more is taken until it is back.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        self.ring.submit();
        let mut outcome = Ok(());
        for _ in 0..CALLS {
            // A driver that needs no call is at work on its own; without zero copy each frame is sent within the call.
            if !self.ring.is_behind() || !self.ring.needs_wakeup() {
                break;
            }
            match self.xsk.kick() {
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    // It has done a part, or its queue is full for now.
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    Some(libc::ENOBUFS | libc::EBUSY) => break,
                    _ => {
                        outcome = Err(error);
                        break;
                    }
                },
            }
        }
        self.stopped = outcome.is_err();
        self.xsk.set_behind(outcome.is_ok() && self.ring.needs_wakeup() && self.ring.is_behind());
        outcome
    }

    /// Asks an interface that took nothing whether it does again.
    pub fn retry(&mut self) {
        if self.stopped {
            // The next burst asks again.
            let _ = self.flush();
        }
    }

    /// Takes back the buffers of the frames that were sent.
    fn reap(&mut self) {
        let mut found = false;
        while let Some(address) = self.completed.pop() {
            found = true;
            // An address that is none of ours would be handed out twice.
            if address >= self.first {
                let buffer = address - (address - self.first) % u64::from(self.xsk.buffer);
                self.free.push(buffer);
            }
        }
        if found {
            self.completed.release();
        }
    }
}
