//! Sending: a batch of frames with one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::c_int;

use super::{PacketError, bind, failed, index_of};
use crate::kernel::interface::IfName;
use crate::kernel::{VNET_HDR_LEN, VnetHdr, sys};

/// Frames that go to the kernel with one call at most.
pub const TX_BATCH: usize = 64;

/// How to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxOptions {
    /// Goes straight to the driver, past the interface's queueing discipline and the host's egress rules. May save time per frame,
    /// but a frame that finds the driver's queue full is lost at once, and shaping that the host's owner has set up is
    /// passed by. Default: false.
    pub bypass_qdisc: bool,
    /// Bytes of frames that may wait in the kernel before it takes no more. Default: 8 MiB.
    pub send_buffer: u32,
}

impl Default for TxOptions {
    fn default() -> Self {
        Self { bypass_qdisc: false, send_buffer: 8 << 20 }
    }
}

/// Why a batch ended before its last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStop {
    /// The kernel takes no more just now: try the rest again later.
    Full,
    /// The interface is down. It can be sent to again once it is up.
    Down,
    /// The interface has been deleted, or the socket itself is broken: it is of no more use.
    Gone,
}

/// What became of a batch: `sent + failed` frames from its front are done with, the rest is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxReport {
    /// Frames that the kernel took.
    pub sent: usize,
    /// Frames that the kernel refused, each told to the caller.
    pub failed: usize,
    /// Why there is a rest; `None` if there is none.
    pub stop: Option<TxStop>,
}

/// A socket that sends through one interface. It receives nothing.
#[derive(Debug)]
pub struct PacketTx {
    socket: OwnedFd,
    interface: IfName,
    // What the kernel reads during a call. The pointers in it are valid only within `send_batch`.
    headers: Box<[VnetHdr; TX_BATCH]>,
    pieces: Vec<libc::iovec>,
    piece_counts: Vec<usize>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers are followed only within `send_batch`, which fills the lists anew and needs `&mut self`.
unsafe impl Send for PacketTx {}

impl PacketTx {
    /// A socket that sends through `interface`.
    pub fn open(interface: IfName, options: TxOptions) -> Result<Self, PacketError> {
        let index = index_of(interface)?;
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
            .map_err(failed(interface, "open a packet socket (this needs CAP_NET_RAW)"))?;
        let fd = socket.as_fd();
        let one: c_int = 1;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &one)
            .map_err(failed(interface, "ask for virtio-net headers"))?;
        if options.bypass_qdisc {
            sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &one)
                .map_err(failed(interface, "pass by the queueing discipline"))?;
        }
        // The kernel doubles what it is told, for its own overhead.
        let half = (options.send_buffer / 2).min(i32::MAX as u32) as c_int;
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &half)
            .map_err(failed(interface, "set the size of the send buffer"))?;
        bind(fd, index, 0).map_err(failed(interface, "bind to it"))?;
        Ok(Self {
            socket,
            interface,
            headers: Box::new([[0; VNET_HDR_LEN]; TX_BATCH]),
            pieces: Vec::with_capacity(TX_BATCH * 8),
            piece_counts: Vec::with_capacity(TX_BATCH),
            messages: Vec::with_capacity(TX_BATCH),
        })
    }

    /// The interface's name when the socket was opened.
    pub fn interface(&self) -> IfName {
        self.interface
    }

    /// Sends frames in order, each a virtio-net header and the pieces that make up the frame. A frame that the kernel
    /// refuses (too long: `EMSGSIZE`; a header that contradicts it: `EINVAL`; no room in the device's queue: `ENOBUFS`)
    /// is told to `refused` with its place in `frames`, and the others go on.
    ///
    /// Takes no memory per frame, once it has seen a batch of as many pieces.
    pub fn send_batch<'a, F, P>(
        &mut self,
        frames: F,
        mut refused: impl FnMut(usize, io::Error),
    ) -> TxReport
    where
        F: IntoIterator<Item = (VnetHdr, P)>,
        P: IntoIterator<Item = &'a [u8]>,
    {
        let mut report = TxReport::default();
        let mut frames = frames.into_iter();
        loop {
            let count = self.gather(&mut frames);
            if count == 0 {
                return report;
            }
            self.flush(count, &mut report, &mut refused);
            self.forget();
            if report.stop.is_some() || count < TX_BATCH {
                return report;
            }
        }
    }

    /// Lists up to [`TX_BATCH`] frames for the kernel.
    fn gather<'a, P>(&mut self, frames: &mut impl Iterator<Item = (VnetHdr, P)>) -> usize
    where
        P: IntoIterator<Item = &'a [u8]>,
    {
        // A panic of the caller's may have left something behind.
        self.forget();
        for (header, (vnet_hdr, pieces)) in self.headers.iter_mut().zip(frames) {
            *header = vnet_hdr;
            let before = self.pieces.len();
            self.pieces.push(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HDR_LEN });
            self.pieces.extend(pieces.into_iter().map(|piece| libc::iovec {
                // The kernel only reads what it sends.
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            self.piece_counts.push(self.pieces.len() - before);
        }
        // Only now, since the list of pieces may have moved while it grew.
        let mut rest = self.pieces.as_mut_slice();
        for count in &self.piece_counts {
            let (mine, others) = rest.split_at_mut(*count);
            rest = others;
            self.messages.push(libc::mmsghdr { msg_hdr: message(mine), msg_len: 0 });
        }
        self.messages.len()
    }

    /// No pointer outlives the borrow of the frames.
    fn forget(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.piece_counts.clear();
    }

    fn flush(
        &mut self,
        count: usize,
        report: &mut TxReport,
        refused: &mut impl FnMut(usize, io::Error),
    ) {
        let mut done = 0;
        while done < count {
            let rest = self.messages.get_mut(done..).unwrap_or_default();
            // SAFETY: the messages name pieces in `self.pieces`, and those name headers in `self.headers` and bytes that
            // the caller lends for the whole of `send_batch`; none of them has moved since `gather`. The kernel reads the pieces and
            // writes only each message's `msg_len`.
            let taken = sys::check(unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            });
            let error = match taken {
                Ok(taken) => {
                    // Fewer than asked: the next one has failed, and the next call says why.
                    done += taken as usize;
                    report.sent += taken as usize;
                    continue;
                }
                Err(error) => error,
            };
            report.stop = match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => Some(TxStop::Full),
                Some(libc::ENETDOWN) => Some(TxStop::Down),
                Some(libc::ENXIO | libc::ENODEV | libc::EBADF | libc::ENOTSOCK | libc::ENOSYS) => {
                    Some(TxStop::Gone)
                }
                _ => {
                    refused(report.sent + report.failed, error);
                    report.failed += 1;
                    done += 1;
                    continue;
                }
            };
            return;
        }
    }
}

impl AsFd for PacketTx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message of these pieces, to the address that the socket is bound to.
fn message(pieces: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: a C struct of pointers and numbers, for which zero is a value: no address, no control data, no flags.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_name = ptr::null_mut();
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    message
}
