//! TAP: an interface that the kernel or a pod uses, and that weft serves by reading and writing frames.
//!
//! The device is made inside the pod's network namespace, and persists if so asked: its addresses and routes stay
//! when weft ends, however it ends, and weft takes it up again. A device with one queue belongs to one process at a time;
//! the kernel sees to that. Each frame has a virtio-net header before it ([`VnetHdr`]).
//!
//! A multi-queue device is opened with one queue; its further ones ([`TapQueues`]) cost the kernel some milliseconds each, and can
//! be opened while the first is at work. The kernel chooses among them by flow, and has a flow come out of the queue that its other
//! direction went in by; so that no running flow comes out of a queue that nobody reads yet, it is told to use the first one until
//! [`Tap::spread`].

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use arrayvec::ArrayVec;
use libc::{c_int, c_ulong};
use thiserror::Error;

use super::bpf::insn::{Insn, Reg};
use super::bpf::{self, ProgramKind};
use super::interface::{self, IfName};
use super::netns::{self, NetnsError};
use super::{VNET_HDR_LEN, VnetHdr, sys, tun_link};
use crate::dpdk::MAX_SEGMENTS;

/// How a TAP is to be. Everything but `mac` is also applied to a device that is taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// The device outlives the process (and its addresses and routes with it). Default: true.
    pub persist: bool,
    /// Lets further queues be opened later. A device keeps what it was made with. Costs up to a few milliseconds when
    /// the device is made. Default: false.
    pub multi_queue: bool,
    /// Further queues will be opened: all frames come out of the first one until [`Tap::spread`]. Default: false.
    pub hold: bool,
    /// The kernel may hand over frames with checksums that are not filled in, and GSO frames of up to 64 KiB: TCP over both, and UDP
    /// where the kernel can ([`Tap::takes_gso_udp`]). Default: false, every frame is finished.
    pub offloads: bool,
    /// The MAC address of a new device, as its user in the kernel sees it; `None` takes a random one. A device that is
    /// taken up keeps its own: see [`Tap::mac`].
    pub mac: Option<[u8; 6]>,
    /// Frames that the kernel queues for weft before it drops; `None` leaves it (the kernel's default is 500 or 1,000).
    pub queue_len: Option<u32>,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self { persist: true, multi_queue: false, hold: false, offloads: false, mac: None, queue_len: None }
    }
}

/// Whether a device was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapExisted {
    /// It was made now.
    Created,
    /// It was there, nobody had it open, and it was taken up.
    TakenUp,
}

/// Why a TAP could not be opened.
#[derive(Debug, Error)]
pub enum TapError {
    /// The namespace could not be entered.
    #[error("TAP {name}: {source}")]
    Netns {
        /// The device's name.
        name: IfName,
        /// Why.
        source: NetnsError,
    },
    /// /dev/net/tun cannot be opened.
    #[error(
        "TAP {name}: cannot open /dev/net/tun: {source} (is the module tun loaded, and the device there?)"
    )]
    Unavailable {
        /// The device's name.
        name: IfName,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another kind of interface has the name.
    #[error(
        "TAP {name}: {place} has an interface of that name that is no TAP but {kind}; rename or delete it"
    )]
    NotATap {
        /// The device's name.
        name: IfName,
        /// The namespace.
        place: Place,
        /// What it is.
        kind: String,
    },
    /// Another process has it open.
    #[error("TAP {name} in {place} is in use by another process (is another weftd running?)")]
    Busy {
        /// The device's name.
        name: IfName,
        /// The namespace.
        place: Place,
    },
    /// The kernel refused a step.
    #[error("TAP {name} in {place}: cannot {step}: {source}")]
    Step {
        /// The device's name.
        name: IfName,
        /// The namespace.
        place: Place,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A network namespace, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Option<PathBuf>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "network namespace {}", path.display()),
            None => f.write_str("weft's own network namespace"),
        }
    }
}

/// An open TAP with one queue. It may be used by two threads, one that receives and one that sends.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: IfName,
    index: u32,
    multi_queue: bool,
    gso_udp: bool,
}

/// Opens further queues of a multi-queue TAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapQueues {
    name: IfName,
    index: u32,
    gso_udp: bool,
}

impl TapQueues {
    /// Opens one queue more, in the namespace at `netns` (`None`: this thread's), where the device is. The kernel gives it
    /// frames from then on.
    ///
    /// # Errors
    /// Among others when the device is gone.
    pub fn open(self, netns: Option<&Path>) -> Result<Tap, TapError> {
        let place = Place(netns.map(Path::to_owned));
        netns::run_in(netns, || self.open_here(&place))
            .map_err(|source| TapError::Netns { name: self.name, source })?
    }

    fn open_here(self, place: &Place) -> Result<Tap, TapError> {
        const STEP: &str = "open a further queue";
        let Self { name, index, gso_udp } = self;
        let failed = |source| TapError::Step { name, place: place.clone(), step: STEP, source };
        // A pod may have given it another name.
        let now = interface::name_of(index).map_err(failed)?;
        let file = open_tun(name)?;
        attach(&file, now, libc::IFF_MULTI_QUEUE).map_err(failed)?;
        // Had the device gone in between, the kernel would have made another, which goes with its only queue.
        if interface::index(now).map_err(failed)? != index {
            return Err(failed(io::Error::from_raw_os_error(libc::ENODEV)));
        }
        Ok(Tap { file, name, index, multi_queue: true, gso_udp })
    }
}

impl Tap {
    /// Makes a TAP of that name in the namespace at `netns` (`None`: this thread's), or takes up the one that is there.
    ///
    /// The device is not set up: it has no addresses and is down when it is new.
    pub fn open(
        netns: Option<&Path>,
        name: IfName,
        options: TapOptions,
    ) -> Result<(Self, TapExisted), TapError> {
        let place = Place(netns.map(Path::to_owned));
        netns::run_in(netns, || open_here(name, options, &place))
            .map_err(|source| TapError::Netns { name, source })?
    }

    /// The same, of a thread that has entered the namespace at `netns` already.
    pub fn open_inside(
        netns: &Path,
        name: IfName,
        options: TapOptions,
    ) -> Result<(Self, TapExisted), TapError> {
        open_here(name, options, &Place(Some(netns.to_owned())))
    }

    /// Its name when it was opened; a pod may have changed it since.
    pub fn name(&self) -> IfName {
        self.name
    }

    /// Its number in its namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// True if further queues can be opened: what the device was made with.
    pub fn multi_queue(&self) -> bool {
        self.multi_queue
    }

    /// What opens further queues; `None` for a device that was made for one.
    pub fn queues(&self) -> Option<TapQueues> {
        self.multi_queue.then_some(TapQueues { name: self.name, index: self.index, gso_udp: self.gso_udp })
    }

    /// True if the kernel knows UDP GSO (USO) at its TAPs, and so may be given such frames: since 6.2. Only of a device that was opened with
    /// [`TapOptions::offloads`].
    pub fn takes_gso_udp(&self) -> bool {
        self.gso_udp
    }

    /// Every queue that is to be open has its reader: from now on the kernel chooses by flow.
    pub fn spread(&self) -> io::Result<()> {
        sys::ioctl_int(self.as_fd(), TUNSETSTEERINGEBPF, -1)
    }

    /// The MAC address that its user in the kernel sees now.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let mut ifreq = self.name.to_ifreq();
        sys::ioctl_ifreq(self.as_fd(), libc::SIOCGIFHWADDR as _, &mut ifreq)?;
        interface::mac_in(&ifreq)
    }

    /// Gives it another MAC address. The device itself is asked, so this works from any namespace.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut ifreq = interface::mac_request(self.name, mac);
        sys::ioctl_ifreq(self.as_fd(), libc::SIOCSIFHWADDR as _, &mut ifreq)
    }

    /// Deletes the device and all that its user in the kernel has set up on it.
    pub fn delete(self) -> io::Result<()> {
        sys::ioctl_value(self.as_fd(), libc::TUNSETPERSIST as _, 0).map(drop)
    }

    /// Receives one frame: its header into `vnet_hdr`, its bytes into `bufs`, one after the other. Returns how many
    /// bytes the frame has, or `None` if there is none.
    ///
    /// The kernel cuts off what does not fit and does not tell. A frame that fills `bufs` to the last byte may have been
    /// cut, so give room for one byte more than the longest frame.
    ///
    /// # Errors
    /// `EBADFD`: the device has been deleted. `InvalidInput`: more than [`MAX_SEGMENTS`] buffers.
    pub fn recv(&self, vnet_hdr: &mut VnetHdr, bufs: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        let mut iovecs = ArrayVec::<libc::iovec, { MAX_SEGMENTS + 1 }>::new();
        if bufs.len() > MAX_SEGMENTS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many buffers for one frame"));
        }
        iovecs.push(libc::iovec { iov_base: vnet_hdr.as_mut_ptr().cast(), iov_len: VNET_HDR_LEN });
        iovecs.extend(
            bufs.iter_mut().map(|buf| libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() }),
        );
        // SAFETY: each entry names a live buffer of that length that this call borrows for writing.
        let read = unsafe { libc::readv(self.file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as c_int) };
        match sys::check_len(read) {
            Ok(read) => match read.checked_sub(VNET_HDR_LEN) {
                Some(len) => Ok(Some(len)),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "the TAP gave less than a header")),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends one frame: `vnet_hdr`, then the bytes of `bufs`, one after the other. False if the kernel takes no more just now.
    ///
    /// # Errors
    /// Of this frame: `EINVAL` for a header that contradicts the frame, or a frame shorter than an Ethernet header; `InvalidInput`
    /// for more than [`MAX_SEGMENTS`] buffers. Of the device: `EIO` while it is down, `EBADFD` once it has been deleted.
    pub fn send(&self, vnet_hdr: &VnetHdr, bufs: &[IoSlice<'_>]) -> io::Result<bool> {
        write_frame(&self.file, vnet_hdr, bufs)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writes one frame with its header to a queue. False if the kernel takes no more just now.
#[inline]
pub(super) fn write_frame(queue: &File, header: &[u8], bufs: &[IoSlice<'_>]) -> io::Result<bool> {
    let mut iovecs = ArrayVec::<IoSlice<'_>, { MAX_SEGMENTS + 1 }>::new();
    iovecs.push(IoSlice::new(header));
    if iovecs.try_extend_from_slice(bufs).is_err() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many buffers for one frame"));
    }
    // SAFETY: an IoSlice has the layout of an iovec on Unix, and each names a live buffer that the kernel only reads.
    let written = unsafe { libc::writev(queue.as_raw_fd(), iovecs.as_ptr().cast(), iovecs.len() as c_int) };
    match sys::check_len(written) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the device in this thread's namespace: /dev/net/tun stays in the namespace in which it was opened.
fn open_here(name: IfName, options: TapOptions, place: &Place) -> Result<(Tap, TapExisted), TapError> {
    let failed = |step| move |source| TapError::Step { name, place: place.clone(), step, source };

    let before = tun_link::find(name).map_err(failed("ask for interfaces of that name"))?;
    // A device can only be opened with the multi-queue flag that it was made with.
    let multi_queue = match &before {
        None => options.multi_queue,
        Some(link) => {
            let Some(tap) = link.tap else {
                let kind = match link.kind.as_str() {
                    "" => "a device of its own".to_owned(),
                    "tun" => "a TUN".to_owned(),
                    other => format!("a {other}"),
                };
                return Err(TapError::NotATap { name, place: place.clone(), kind });
            };
            // The kernel would let us in beside the other process and give each half of the frames.
            if tap.open_queues > 0 {
                return Err(TapError::Busy { name, place: place.clone() });
            }
            tap.multi_queue
        }
    };

    let file = open_tun(name)?;
    let fd = file.as_fd();

    let mut flags = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    if before.is_none() {
        // Somebody may have made it since we asked: then fail rather than share.
        flags |= libc::IFF_TUN_EXCL;
    }
    attach(&file, name, flags).map_err(|source| {
        if source.raw_os_error() == Some(libc::EBUSY) {
            TapError::Busy { name, place: place.clone() }
        } else {
            failed(if before.is_some() { "take it up" } else { "make it" })(source)
        }
    })?;

    // A device that is taken up has the sizes and offloads of its last user: state all of them.
    sys::ioctl_int(fd, libc::TUNSETVNETHDRSZ as _, VNET_HDR_LEN as c_int)
        .map_err(failed("set the size of its headers"))?;
    if multi_queue {
        // Where the kernel has no BPF, flows may change queues as these come.
        let _held = hold(fd, options.hold);
    }
    let gso_udp = set_offloads(fd, options.offloads).map_err(failed("set its offloads"))?;
    let index = interface::index(name).map_err(failed("find its number"))?;
    let tap = Tap { file, name, index, multi_queue, gso_udp };
    if let (None, Some(mac)) = (&before, options.mac) {
        tap.set_mac(mac).map_err(failed("set its MAC address"))?;
    }
    if let Some(frames) = options.queue_len {
        interface::set_tx_queue_len(name, frames).map_err(failed("set the length of its queue"))?;
    }
    // Last, so that a device that could not be made as asked is gone again.
    sys::ioctl_value(tap.as_fd(), libc::TUNSETPERSIST as _, options.persist.into())
        .map_err(failed("set whether it persists"))?;

    Ok((tap, if before.is_some() { TapExisted::TakenUp } else { TapExisted::Created }))
}

/// A descriptor that is no device's yet, and of this thread's namespace.
fn open_tun(name: IfName) -> Result<File, TapError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| TapError::Unavailable { name, source })
}

/// Makes `file` a queue of the TAP of this name, with these flags more.
fn attach(file: &File, name: IfName, flags: c_int) -> io::Result<()> {
    let mut ifreq = name.to_ifreq();
    let flags = flags | libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    ifreq.ifr_ifru.ifru_flags = flags as libc::c_short;
    sys::ioctl_ifreq(file.as_fd(), libc::TUNSETIFF as _, &mut ifreq)
}

/// Says what may come out of the device unfinished: all or nothing. True if UDP GSO is among it.
fn set_offloads(fd: BorrowedFd<'_>, wanted: bool) -> io::Result<bool> {
    const CSUM: c_ulong = 1;
    const TSO4: c_ulong = 2;
    const TSO6: c_ulong = 4;
    const TSO_ECN: c_ulong = 8;
    // Both or none.
    const USO: c_ulong = 0x20 | 0x40;
    const WITHOUT_USO: c_ulong = CSUM | TSO4 | TSO6 | TSO_ECN;

    let set = |flags| sys::ioctl_value(fd, libc::TUNSETOFFLOAD as _, flags);
    if !wanted {
        return set(0).map(|_| false);
    }
    match set(WITHOUT_USO | USO) {
        Ok(_) => Ok(true),
        // Kernels before 6.2.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(WITHOUT_USO).map(|_| false),
        Err(error) => Err(error),
    }
}

/// `_IOR('T', 224, int)` of linux/if_tun.h.
const TUNSETSTEERINGEBPF: c_ulong = 0x8004_54e0;

/// Has all frames come out of the first queue; or, as the last user of the device may have said so, not.
fn hold(fd: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
    if !wanted {
        return sys::ioctl_int(fd, TUNSETSTEERINGEBPF, -1);
    }
    let program = bpf::load(ProgramKind::Filter, "weft_hold", &[Insn::set(Reg::R0, 0), Insn::exit()])?;
    sys::ioctl_int(fd, TUNSETSTEERINGEBPF, program.as_raw_fd())
}
