//! Receiving: a ring in memory that the kernel fills and we empty, without a system call per frame.
//!
//! The ring is `TPACKET_V2`: version 3 packs frames tightly, but hands a block over only when it is full or a timer of
//! milliseconds runs out. With version 2 each frame has a slot of fixed size and is there at once; the slot must hold a 64 KiB
//! GSO frame, so a small frame takes as much of the ring as a large one.

use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, tpacket2_hdr};

use super::{Filter, PacketError, bind, bound_index, failed, index_of};
use crate::kernel::interface::IfName;
use crate::kernel::{VNET_HDR_LEN, VnetHdr, sys};

/// The kernel allocates the ring in blocks of this many bytes.
const BLOCK: usize = 1 << 20;
/// The smallest slot: room for the kernel's own header and the start of a frame.
const MIN_SLOT: usize = 256;
/// `TPACKET_ALIGNMENT` of linux/if_packet.h.
const SLOT_ALIGNMENT: usize = 16;

/// How to receive.
#[derive(Debug, Clone)]
pub struct RxOptions {
    /// Which frames; `None`: all that come in.
    pub filter: Option<Filter>,
    /// Bytes of a slot: a multiple of 16 from 256 to 1 MiB. A longer frame (with about 100 bytes of the kernel's own) is cut off.
    /// Default: 68 KiB, which holds a 64 KiB GSO frame in a tunnel's headers, 15 slots in 1 MiB.
    pub slot: usize,
    /// Memory for the ring of each socket in MiB, never swapped, 1 to 1,024. Default: 16 (240 slots of the default size).
    /// More lets a worker be away longer before frames are lost.
    pub ring_mib: usize,
}

impl Default for RxOptions {
    fn default() -> Self {
        Self { filter: None, slot: 68 << 10, ring_mib: 16 }
    }
}

/// What the kernel counted since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxStats {
    /// Frames that passed the filter and found room.
    pub received: u64,
    /// Frames that passed the filter and found the ring full, or whose GSO state a virtio-net header cannot hold.
    pub dropped: u64,
}

/// The socket's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Frames can come in.
    Up,
    /// It is down. Frames come again by themselves once it is up.
    Down,
    /// It has been deleted. Another of the same name needs another socket.
    Gone,
}

/// A ring of received frames. It belongs to one worker; several can share an interface's load, see [`RxRing::open_fanout`].
#[derive(Debug)]
pub struct RxRing {
    // Unmapped before the socket is closed, though the order would not matter.
    memory: Mapping,
    socket: OwnedFd,
    interface: IfName,
    slot: usize,
    slots: usize,
    next: usize,
    malformed: u64,
}

impl RxRing {
    /// Receives all that comes in by `interface` and passes the filter. What this host sends is not seen.
    pub fn open(interface: IfName, options: &RxOptions) -> Result<Self, PacketError> {
        let index = index_of(interface)?;
        let refuse = |reason| Err(PacketError::Options { interface, reason });
        let slot = options.slot;
        if !(MIN_SLOT..=BLOCK).contains(&slot) || slot % SLOT_ALIGNMENT != 0 {
            return refuse("a slot must have a multiple of 16 bytes from 256 to 1 MiB");
        }
        if !(1..=1024).contains(&options.ring_mib) {
            return refuse("a ring must have 1 to 1024 MiB");
        }
        let slots = options.ring_mib * (BLOCK / slot);

        // Protocol 0: nothing is received until everything is set and `bind` names the interface.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
            .map_err(failed(interface, "open a packet socket (this needs CAP_NET_RAW)"))?;
        let fd = socket.as_fd();
        let set = |option, value: c_int, step| {
            sys::set_option(fd, libc::SOL_PACKET, option, &value).map_err(failed(interface, step))
        };
        set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as c_int, "choose the ring's version")?;
        set(libc::PACKET_VNET_HDR, 1, "ask for virtio-net headers")?;
        set(libc::PACKET_IGNORE_OUTGOING, 1, "leave out what this host sends (needs Linux 4.20)")?;
        if let Some(filter) = &options.filter {
            filter.attach(fd).map_err(failed(interface, "attach the filter"))?;
        }
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: options.ring_mib as u32,
            tp_frame_size: slot as u32,
            tp_frame_nr: slots as u32,
        };
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
            .map_err(failed(interface, "get memory for the ring"))?;
        let memory = Mapping::new(fd, options.ring_mib * BLOCK).map_err(failed(interface, "map the ring"))?;
        bind(fd, index, libc::ETH_P_ALL as u16).map_err(failed(interface, "bind to it"))?;
        Ok(Self { memory, socket, interface, slot, slots, next: 0, malformed: 0 })
    }

    /// Opens `members` rings that share the interface's frames by their flow's hash: a flow stays with one member, and in
    /// order. The group is new, so no other program is in it.
    pub fn open_fanout(
        interface: IfName,
        options: &RxOptions,
        members: usize,
    ) -> Result<Vec<Self>, PacketError> {
        if !(1..=256).contains(&members) {
            return Err(PacketError::Options { interface, reason: "a fanout group has 1 to 256 members" });
        }
        let mut rings = Vec::with_capacity(members);
        let mut group = None;
        for _ in 0..members {
            let ring = Self::open(interface, options)?;
            if members > 1 {
                group =
                    Some(ring.join(group).map_err(failed(interface, "share its frames (PACKET_FANOUT)"))?);
            }
            rings.push(ring);
        }
        Ok(rings)
    }

    /// Joins a fanout group, or makes one whose number the kernel chooses. Returns its number.
    fn join(&self, group: Option<u16>) -> io::Result<u16> {
        // The group takes the members' place in the kernel's list of listeners, so it must be told about outgoing
        // frames too. Kernels that do not know the flag ignore it; the tunnel's filter refuses such frames as well.
        let mut flags = libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        if group.is_none() {
            flags |= libc::PACKET_FANOUT_FLAG_UNIQUEID;
        }
        let wanted = u32::from(group.unwrap_or(0)) | ((libc::PACKET_FANOUT_HASH | flags) << 16);
        sys::set_option(self.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, &(wanted as c_int))?;
        let joined: c_int = sys::get_option(self.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(joined as u16)
    }

    /// The interface's name when the ring was opened.
    pub fn interface(&self) -> IfName {
        self.interface
    }

    /// How many frames the ring holds.
    pub fn capacity(&self) -> usize {
        self.slots
    }

    /// The oldest frame that has not been taken, if there is one. Costs no system call.
    #[inline]
    pub fn next_frame(&mut self) -> Option<RingFrame<'_>> {
        loop {
            let slot = self.slot_at(self.next);
            // SAFETY: `slot_at` gives the start of a slot within the mapping, aligned to 16 bytes, where the kernel keeps
            // a `tpacket2_hdr`. Its status is the word by which the two sides hand the slot over; both use it atomically.
            let status = unsafe { AtomicU32::from_ptr(slot.as_ptr().cast()) }.load(Ordering::Acquire);
            if status & libc::TP_STATUS_USER == 0 {
                return None;
            }
            self.next = if self.next + 1 == self.slots { 0 } else { self.next + 1 };
            // SAFETY: the status says that the slot is ours, so the kernel does not write to it until we give it back;
            // the acquiring load above makes what it wrote visible. The header lies within the slot.
            let header = unsafe { slot.cast::<tpacket2_hdr>().read() };
            let frame = RingFrame { slot, header, status, ring: PhantomData };
            let start = usize::from(header.tp_mac);
            let room = self.slot.checked_sub(start);
            let sound = start >= size_of::<tpacket2_hdr>() + VNET_HDR_LEN
                && room.is_some_and(|room| header.tp_snaplen as usize <= room);
            if sound {
                return Some(frame);
            }
            // Frames that are not as the kernel's interface says are given back unread: `frame` is dropped here.
            drop(frame);
            self.malformed += 1;
        }
    }

    #[inline]
    fn slot_at(&self, number: usize) -> NonNull<u8> {
        let per_block = BLOCK / self.slot;
        let offset = (number / per_block) * BLOCK + (number % per_block) * self.slot;
        debug_assert!(offset + self.slot <= self.memory.len);
        // SAFETY: `number` is below `slots`, so the slot lies within the mapping.
        unsafe { self.memory.start.add(offset) }
    }

    /// What the kernel counted since the last call. A system call: not for every burst.
    pub fn stats(&mut self) -> io::Result<RxStats> {
        let stats: libc::tpacket_stats =
            sys::get_option(self.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        let malformed = std::mem::take(&mut self.malformed);
        // The kernel's first number counts the second in.
        let received = u64::from(stats.tp_packets.wrapping_sub(stats.tp_drops));
        Ok(RxStats {
            received: received.saturating_sub(malformed),
            dropped: u64::from(stats.tp_drops) + malformed,
        })
    }

    /// How the interface is, to be called when epoll reports an error on the socket. It takes the error from the
    /// socket, which would be reported for ever otherwise. A ring whose interface is gone must be closed.
    pub fn link_state(&self) -> io::Result<LinkState> {
        let error: c_int = sys::get_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR)?;
        if bound_index(self.as_fd())?.is_none() {
            return Ok(LinkState::Gone);
        }
        match error {
            0 => Ok(LinkState::Up),
            libc::ENETDOWN => Ok(LinkState::Down),
            other => Err(io::Error::from_raw_os_error(other)),
        }
    }
}

impl AsFd for RxRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

// SAFETY: the mapping belongs to the process, not to the thread that made it, and only this ring points into it.
unsafe impl Send for RxRing {}

/// Memory shared with the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // Populated now, so that the first burst meets no page faults.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and frames borrow the ring that owns it, so none is left.
        let _unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What is known of a received frame's transport checksum, beside what its virtio-net header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxChecksum {
    /// Not filled in; the virtio-net header says where it belongs.
    NotReady,
    /// Checked by the kernel or the NIC.
    Valid,
    /// Nobody has checked it.
    Unknown,
}

/// A VLAN tag that the kernel or the NIC took out of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanTag {
    /// Priority and VLAN number.
    pub tci: u16,
    /// The tag's ethertype: 0x8100 for 802.1Q, 0x88a8 for 802.1ad.
    pub tpid: u16,
}

/// A frame in the ring. Its slot goes back to the kernel when it is dropped; until then the ring gives no other.
#[derive(Debug)]
pub struct RingFrame<'ring> {
    slot: NonNull<u8>,
    header: tpacket2_hdr,
    status: u32,
    ring: PhantomData<&'ring mut RxRing>,
}

impl RingFrame<'_> {
    /// The frame from its Ethernet header on; less than the whole if [`Self::is_truncated`].
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `next_frame` has checked that the range lies within the slot. The slot is ours while `self` lives:
        // the kernel does not write to it, and we don't either.
        unsafe {
            let start = self.slot.add(usize::from(self.header.tp_mac));
            slice::from_raw_parts(start.as_ptr(), self.header.tp_snaplen as usize)
        }
    }

    /// Its virtio-net header, from which checksum and GSO state are read. A place in it counts from the first of [`Self::bytes`].
    #[inline]
    pub fn vnet_hdr(&self) -> VnetHdr {
        // SAFETY: `next_frame` has checked that there are so many bytes between the kernel's header and the frame; the rest as
        // in `bytes`. An array of bytes needs no alignment.
        unsafe { self.slot.add(usize::from(self.header.tp_mac) - VNET_HDR_LEN).cast::<VnetHdr>().read() }
    }

    /// How long the frame was, in bytes.
    #[inline]
    pub fn original_len(&self) -> usize {
        self.header.tp_len as usize
    }

    /// True if the slot was too small for the frame.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.header.tp_snaplen < self.header.tp_len
    }

    /// What is known of its checksum.
    #[inline]
    pub fn checksum(&self) -> RxChecksum {
        if self.status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            RxChecksum::NotReady
        } else if self.status & libc::TP_STATUS_CSUM_VALID != 0 {
            RxChecksum::Valid
        } else {
            RxChecksum::Unknown
        }
    }

    /// The tag that is no longer in the frame.
    #[inline]
    pub fn vlan(&self) -> Option<VlanTag> {
        if self.status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let has_tpid = self.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let tpid = if has_tpid { self.header.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
        Some(VlanTag { tci: self.header.tp_vlan_tci, tpid })
    }
}

impl Drop for RingFrame<'_> {
    fn drop(&mut self) {
        const { assert!(offset_of!(tpacket2_hdr, tp_status) == 0) };
        // SAFETY: as in `next_frame`. The releasing store comes after every read of the slot; from here on it is the kernel's.
        unsafe { AtomicU32::from_ptr(self.slot.as_ptr().cast()) }
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}
