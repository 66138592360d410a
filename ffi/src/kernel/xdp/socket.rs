//! One AF_XDP socket: its memory, its four rings, its place at a queue of an interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{ptr, thread};

use libc::c_int;

use super::program::Steering;
use super::ring::{Consumer, Mapping, Producer};
use super::rx::XskRx;
use super::tx::XskTx;
use crate::kernel::sys;

/// How often, and how far apart, a queue that is taken is asked for again: the kernel lets go of a socket's queue
/// a moment after the socket was closed.
const TRIES: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(10);

/// How a socket and its queue share frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// The driver writes into the socket's memory, and reads from it.
    pub(super) zero_copy: bool,
    /// A frame may take several buffers.
    pub(super) multi_buffer: bool,
}

/// The sizes of a socket. Frames are counted in buffers of `buffer` bytes; counts are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) buffer: u32,
    pub(super) rx: u32,
    pub(super) tx: u32,
}

/// Why a socket could not be made: the step and the kernel's word.
pub(super) type Failed = (&'static str, io::Error);

/// What the two sides of a socket share.
#[derive(Debug)]
pub(super) struct Xsk {
    // Closed before the memory is unmapped, though the kernel holds the pages until it is done with them.
    fd: OwnedFd,
    memory: Mapping,
    pub(super) buffer: u32,
    pub(super) mode: Mode,
    /// The kernel has been told of frames that it has not taken yet: somebody must call it again.
    behind: AtomicBool,
    steering: Arc<Steering>,
}

impl Xsk {
    /// Opens a socket for one queue and has the program give it the queue's frames.
    pub(super) fn open(
        interface: u32,
        queue: u32,
        mode: Mode,
        sizes: Sizes,
        steering: &Arc<Steering>,
    ) -> Result<(XskRx, XskTx), Failed> {
        let said = |step: &'static str| move |error| (step, error);
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(said(
            "open an AF_XDP socket (this needs CAP_NET_RAW, and CONFIG_XDP_SOCKETS in the kernel)",
        ))?;
        let memory = Mapping::anonymous((sizes.rx + sizes.tx) as usize * sizes.buffer as usize)
            .map_err(said("get memory"))?;
        let registration = libc::xdp_umem_reg {
            addr: memory.start().as_ptr() as u64,
            len: memory.len() as u64,
            chunk_size: sizes.buffer,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        let set = |option, value: u32| {
            sys::set_option(fd.as_fd(), libc::SOL_XDP, option, &(value as c_int))
                .map_err(said("make its rings"))
        };
        sys::set_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &registration).map_err(said(
            "register its memory (this needs CAP_IPC_LOCK, or a larger limit on locked memory)",
        ))?;
        set(libc::XDP_UMEM_FILL_RING, sizes.rx)?;
        set(libc::XDP_UMEM_COMPLETION_RING, sizes.tx)?;
        set(libc::XDP_RX_RING, sizes.rx)?;
        set(libc::XDP_TX_RING, sizes.tx)?;
        let places: libc::xdp_mmap_offsets =
            sys::get_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
                .map_err(said("find its rings"))?;
        let mapped = said("map its rings");
        let at = |offset: u64| offset as libc::off_t;
        let fill = Producer::map(fd.as_fd(), at(libc::XDP_UMEM_PGOFF_FILL_RING), &places.fr, sizes.rx);
        let completed =
            Consumer::map(fd.as_fd(), at(libc::XDP_UMEM_PGOFF_COMPLETION_RING), &places.cr, sizes.tx);
        let rx = Consumer::map(fd.as_fd(), libc::XDP_PGOFF_RX_RING, &places.rx, sizes.rx);
        let tx = Producer::map(fd.as_fd(), libc::XDP_PGOFF_TX_RING, &places.tx, sizes.tx);
        let (fill, completed) = (fill.map_err(mapped)?, completed.map_err(mapped)?);
        let (rx, tx) = (rx.map_err(mapped)?, tx.map_err(mapped)?);

        let xsk = Arc::new(Self {
            fd,
            memory,
            buffer: sizes.buffer,
            mode,
            behind: AtomicBool::new(false),
            steering: steering.clone(),
        });
        // Some drivers take buffers as soon as the socket is bound.
        let rx = XskRx::new(xsk.clone(), rx, fill, sizes.rx);
        let tx = XskTx::new(xsk.clone(), tx, completed, sizes.rx..sizes.rx + sizes.tx);
        xsk.bind(interface, queue).map_err(said("bind to a queue"))?;
        xsk.steering.give(queue, xsk.as_fd()).map_err(said("give it a queue's frames"))?;
        Ok((rx, tx))
    }

    fn bind(&self, interface: u32, queue: u32) -> io::Result<()> {
        let copies = if self.mode.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        let many = if self.mode.multi_buffer { libc::XDP_USE_SG } else { 0 };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_USE_NEED_WAKEUP | copies | many,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        for _ in 1..TRIES {
            match sys::bind(self.as_fd(), &address) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => thread::sleep(BETWEEN),
                other => return other,
            }
        }
        sys::bind(self.as_fd(), &address)
    }

    /// The memory of the buffers that begins at `address`, if `len` bytes of it are there.
    #[inline]
    pub(super) fn place(&self, address: u64, len: u32) -> Option<ptr::NonNull<u8>> {
        let end = address.checked_add(len.into())?;
        // SAFETY: the place is within the mapping.
        (end <= self.memory.len() as u64).then(|| unsafe { self.memory.start().add(address as usize) })
    }

    /// Has the kernel send what waits in the tx ring. An error does not mean that it has sent nothing.
    pub(super) fn kick(&self) -> io::Result<()> {
        // SAFETY: no address and no data: the kernel reads nothing.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        sys::check_len(sent).map(drop)
    }

    /// Has the kernel look at the fill ring.
    pub(super) fn wake_rx(&self) {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd. What it says does not matter: the call itself wakes the driver.
        let _asked = unsafe { libc::poll(&raw mut poll, 1, 0) };
    }

    pub(super) fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::Relaxed);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        sys::get_option(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)
    }
}

impl AsFd for Xsk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
