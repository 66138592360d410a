//! Many messages with one system call: the lists that the kernel reads and writes during it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use libc::c_int;

use crate::kernel::sys;

/// `SO_MEMINFO` and the place of the drops in what it says (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const MEMINFO_DROPS: usize = 8;

/// Messages and the pieces of memory that they consist of. The pointers in it are valid only within the call that has filled it.
pub(super) struct Batch {
    pub(super) messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    piece_counts: Vec<usize>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

// SAFETY: the pointers are followed only within a call that fills the lists anew, and needs `&mut` for that.
unsafe impl Send for Batch {}

impl Batch {
    /// Takes no memory for so many messages, and pieces of all of them together.
    pub(super) fn new(messages: usize, pieces: usize) -> Self {
        Self {
            messages: Vec::with_capacity(messages),
            pieces: Vec::with_capacity(pieces),
            piece_counts: Vec::with_capacity(messages),
        }
    }

    /// Adds a message of the pieces that `push` appends.
    #[inline]
    pub(super) fn add(&mut self, push: impl FnOnce(&mut Vec<libc::iovec>)) {
        let before = self.pieces.len();
        push(&mut self.pieces);
        self.piece_counts.push(self.pieces.len() - before);
    }

    /// Lists the messages for the kernel, once all are added: their pieces move while they grow. `complete` is given each with what of `with`
    /// belongs to it, and fills in the address and the control data. How many messages that is.
    #[inline]
    pub(super) fn list<T>(
        &mut self,
        with: impl IntoIterator<Item = T>,
        complete: impl Fn(&mut libc::msghdr, T),
    ) -> usize {
        let mut rest = self.pieces.as_mut_slice();
        for (count, with) in self.piece_counts.iter().zip(with) {
            let (mine, others) = rest.split_at_mut(*count);
            rest = others;
            // SAFETY: a C struct of pointers and numbers, for which zero is a value.
            let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
            message.msg_iov = mine.as_mut_ptr();
            message.msg_iovlen = mine.len() as _;
            complete(&mut message, with);
            self.messages.push(libc::mmsghdr { msg_hdr: message, msg_len: 0 });
        }
        self.messages.len()
    }

    /// The pieces of the message of this place.
    pub(super) fn pieces_of(&mut self, message: usize) -> &mut [libc::iovec] {
        let start: usize = self.piece_counts[..message].iter().sum();
        &mut self.pieces[start..start + self.piece_counts[message]]
    }

    /// Receives the listed messages without waiting; how many have come. Nothing to receive is 0.
    ///
    /// # Safety
    /// What the messages name is still there and nobody else's: the bytes of the pieces, the addresses and the control data.
    pub(super) unsafe fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        loop {
            // SAFETY: the caller has seen to what the messages name, and the pieces have not moved since they were listed. No timeout is
            // given.
            let received = sys::check(unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.messages.as_mut_ptr(),
                    self.messages.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            });
            match received {
                Ok(received) => return Ok(received as usize),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(0),
                    _ => {
                        self.forget();
                        return Err(error);
                    }
                },
            }
        }
    }

    /// No pointer outlives the borrow of what it leads to. Also to be called before messages are added: a panic of the caller's may have
    /// left some behind.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.piece_counts.clear();
    }
}

/// Bytes that the kernel may write to.
#[inline]
pub(super) fn to_write(piece: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() }
}

/// Bytes that the kernel only reads, since it sends them.
#[inline]
pub(super) fn to_read(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

/// Packets that the kernel had thrown away when it was asked last, most of them because nobody fetched them in time.
#[derive(Debug, Default)]
pub(super) struct Dropped(u32);

impl Dropped {
    /// Asks; how many more they are.
    pub(super) fn take(&mut self, socket: &impl AsFd) -> u32 {
        let info: io::Result<[u32; 9]> = sys::get_option(socket.as_fd(), libc::SOL_SOCKET, SO_MEMINFO);
        let now = info.map_or(self.0, |info| info[MEMINFO_DROPS]);
        now.wrapping_sub(std::mem::replace(&mut self.0, now))
    }
}
