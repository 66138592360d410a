//! The usual frames, moved without the library: they lie in one of the guest's buffers (or the header in one and the frame in another),
//! within one region of its memory, with nothing said in the virtio-net header, and fit into one of ours.
//!
//! The library handles every kind of ring and frame, one after the other. Here a burst is gone through in passes, so that the lines that the guest's
//! core has written are all on their way before the first is needed. The first frame that is not usual ends the lane's part, and
//! the library goes on from there: the positions in the ring are the library's, read and written back with every burst.
//!
//! The guest is hostile: whatever lies in its memory is read once and then checked, and addresses lead into the regions that the library has mapped,
//! or nowhere. These regions and the ring's own place change only while a lane is closed: the library's thread closes it before it
//! handles a message of the guest's side, and opens it with what holds after that. So `unsafe` rests on [`Lane::enter`].

use std::cell::UnsafeCell;
use std::ptr::{self, NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering, fence};

use arrayvec::ArrayVec;

use crate::dpdk::layout::{Segment, TRAVELS};
use crate::dpdk::mbuf::{free_front, free_room};
use crate::dpdk::{BURST, Burst, HEADROOM, Mempool, prefetch, sys};

/// Regions that a guest's memory has at most, as far as the library takes them.
const REGIONS: usize = 8;
/// Parts of a virtio-net header (virtio 1.2, section 5.1.6): flags and kind of segmentation, and the number of buffers.
const SAYS: usize = 2;
const BUFFERS_AT: usize = 10;
/// Flags of a descriptor, of the ring of available ones, and where the first entry is in both rings (section 2.7).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const NO_CALL: u16 = 1;
const ENTRIES: usize = 4;
/// Feature bits: VIRTIO_NET_F_MRG_RXBUF and VIRTIO_F_VERSION_1 make the header longer; VIRTIO_RING_F_EVENT_IDX.
const LONG_HEADER: u64 = 1 << 15 | 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
/// A bit of a ring's position that changes four times in its round.
const QUARTER: u16 = 1 << 14;
/// With these nothing but the library will do: VHOST_F_LOG_ALL, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED.
const LIBRARY_ONLY: u64 = 1 << 26 | 1 << 33 | 1 << 34;

/// Guest memory that is mapped here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Region {
    /// The first address as the guest knows it, and the one behind the last.
    start: u64,
    end: u64,
    /// Where the first byte is here.
    host: usize,
}

impl Region {
    /// Where `len` bytes at the guest's address are here, if all of them lie in this region.
    #[inline(always)]
    fn find(&self, address: u64, len: u32) -> Option<usize> {
        let fits = address >= self.start && address < self.end && u64::from(len) <= self.end - address;
        fits.then(|| self.host.wrapping_add((address - self.start) as usize))
    }

    /// Whether `len` bytes from `at` on, as addresses are here, all lie in this region.
    fn has(&self, at: usize, len: usize) -> bool {
        let size = usize::try_from(self.end - self.start).unwrap_or(0);
        at.checked_sub(self.host).and_then(|offset| size.checked_sub(offset)).is_some_and(|left| len <= left)
    }
}

/// A split ring and the memory that its descriptors lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    vid: i32,
    ring: u16,
    descriptors: usize,
    available: usize,
    used: usize,
    /// A power of two.
    size: u16,
    /// Bytes of the virtio-net header.
    header: u32,
    event_idx: bool,
    regions: ArrayVec<Region, REGIONS>,
}

impl Parts {
    /// As the library has them now. `None` where the lane is of no use.
    ///
    /// # Safety
    /// Called from the library's callbacks, while the device exists and has memory.
    pub(super) unsafe fn of(vid: i32, ring: u16) -> Option<Self> {
        let mut features = 0;
        // SAFETY: the caller's promise.
        let code = unsafe { sys::rte_vhost_get_negotiated_features(vid, &mut features) };
        if code != 0 || features & LIBRARY_ONLY != 0 {
            return None;
        }
        let known = super::state::ring_of(vid, usize::from(ring))?;
        // SAFETY: unions of pointers; the ring is a split one.
        let (descriptors, available, used) = unsafe {
            (
                known.__bindgen_anon_1.desc.expose_provenance(),
                known.__bindgen_anon_2.avail.expose_provenance(),
                known.__bindgen_anon_3.used.expose_provenance(),
            )
        };
        let aligned = descriptors % 16 == 0 && available % 2 == 0 && used % 4 == 0;
        if descriptors == 0 || available == 0 || used == 0 || !aligned || !known.size.is_power_of_two() {
            return None;
        }
        let header = if features & LONG_HEADER != 0 { 12 } else { 10 };
        // SAFETY: the caller's promise.
        let regions = unsafe { regions_of(vid) }?;
        // The library knows of rings that end outside of the guest's memory, and keeps away from them, but does not say so.
        let size = usize::from(known.size);
        let parts = [
            (descriptors, size * size_of::<Descriptor>()),
            (available, ENTRIES + size * size_of::<u16>() + size_of::<u16>()),
            (used, ENTRIES + size * size_of::<u64>() + size_of::<u16>()),
        ];
        if !parts.iter().all(|(at, len)| regions.iter().any(|region| region.has(*at, *len))) {
            return None;
        }
        let event_idx = features & EVENT_IDX != 0;
        Some(Self { vid, ring, descriptors, available, used, size: known.size, header, event_idx, regions })
    }

    #[inline(always)]
    fn find(&self, last: &mut Region, address: u64, len: u32) -> Option<usize> {
        last.find(address, len).or_else(|| {
            let (region, host) = self.regions.iter().find_map(|r| Some((*r, r.find(address, len)?)))?;
            *last = region;
            Some(host)
        })
    }
}

/// # Safety
/// As of [`Parts::of`].
unsafe fn regions_of(vid: i32) -> Option<ArrayVec<Region, REGIONS>> {
    let mut table = ptr::null_mut();
    // SAFETY: the device exists; the table is allocated for the caller, has as many regions as it says, and is freed with the C library.
    unsafe {
        if sys::rte_vhost_get_mem_table(vid, &mut table) != 0 || table.is_null() {
            return None;
        }
        let count = (*table).nregions as usize;
        let regions = (*table).regions.as_slice(count).iter().map(|region| Region {
            start: region.guest_phys_addr,
            end: region.guest_phys_addr.saturating_add(region.size),
            host: region.host_user_addr as usize,
        });
        let regions = (count <= REGIONS).then(|| regions.collect());
        libc::free(table.cast());
        regions
    }
}

/// What the library's thread lends a ring's worker.
#[derive(Default)]
pub(super) struct Lane {
    /// Raised while the worker uses `parts`.
    inside: Inside,
    /// 0 while it is closed, else which opening it is: one after the other, none twice in a long time.
    open: AtomicU32,
    openings: AtomicU32,
    parts: UnsafeCell<Parts>,
}

#[derive(Default)]
#[repr(align(128))]
struct Inside(AtomicBool);

// SAFETY: `parts` is written by the library's thread alone, while the lane is closed and its worker outside, and read by that worker alone, who
// looks whether it is open after it has said that it is inside. Both are sequentially consistent, so one of them sees the other.
unsafe impl Sync for Lane {}

impl Lane {
    /// On return the worker is outside, and stays there. It is inside for one burst at most and waits for nothing there.
    pub(super) fn close(&self) {
        self.open.store(0, Ordering::SeqCst);
        while self.inside.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    /// # Safety
    /// Called by the library's thread alone, after [`Self::close`]; what the parts lead to stays until the next one.
    pub(super) unsafe fn open(&self, parts: Parts) {
        // SAFETY: closed, so nobody reads them.
        unsafe { *self.parts.get() = parts };
        let number = self.openings.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        self.open.store(number, Ordering::SeqCst);
    }

    /// The ring, which stays as it is until the guard is dropped, and which opening this is. To be called by the ring's only worker.
    #[inline(always)]
    pub(super) fn enter(&self) -> Option<(u32, Ring<'_>)> {
        if self.open.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.inside.0.store(true, Ordering::SeqCst);
        let leave = Leave(&self.inside.0);
        let number = self.open.load(Ordering::SeqCst);
        // SAFETY: open, and it can't be closed for good before `leave` is dropped.
        (number != 0).then(|| (number, Ring { parts: unsafe { &*self.parts.get() }, _leave: leave }))
    }
}

struct Leave<'a>(&'a AtomicBool);

impl Drop for Leave<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A ring whose parts hold as long as this lives.
pub(super) struct Ring<'a> {
    parts: &'a Parts,
    _leave: Leave<'a>,
}

/// What became of a burst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) count: usize,
    /// The next one is for the library.
    pub(super) unusual: bool,
    /// The guest wants to be told.
    pub(super) call: bool,
}

/// One buffer of the guest's, or the two that header and frame have for themselves, where they are here.
#[derive(Clone, Copy, Default)]
struct Buffer {
    header: usize,
    frame: usize,
    /// Bytes of the frame, or that there is room for.
    len: u32,
    /// Its number.
    head: u16,
}

impl Ring<'_> {
    /// Appends what the guest has sent, as far as it is usual and the burst has room, and no more than `few`.
    #[inline]
    pub(super) fn take(&self, pool: &Mempool, burst: &mut Burst, few: usize) -> Moved {
        let (taken, used) = self.positions();
        let heads = self.available(taken, few.min(burst.remaining_capacity()));
        let most = (pool.data_room() - usize::from(HEADROOM)) as u32;
        let mut buffers = ArrayVec::<Buffer, BURST>::new();
        let mut region = self.parts.regions.first().copied().unwrap_or_default();
        for head in &heads {
            match self.filled(&mut region, *head) {
                Some(buffer) if buffer.len <= most => {
                    prefetch(buffer.header);
                    prefetch(buffer.frame + buffer.len as usize - 1);
                    buffers.push(buffer);
                }
                _ => break,
            }
        }
        let mut count = buffers.len();
        let mut unusual = count < heads.len();
        let room: *mut *mut sys::rte_mbuf = free_room(burst);
        // SAFETY: the burst has room for `count` pointers, which become fresh segments that are nobody else's.
        if count == 0 || unsafe { sys::weft_mbuf_alloc_bulk(pool.as_ptr(), room, count as u32) } != 0 {
            // From an empty pool nothing is taken.
            return Moved { unusual: unusual && count == 0, ..Moved::default() };
        }
        for (index, buffer) in buffers.iter().enumerate() {
            // SAFETY: the header and the frame lie in mapped memory of the guest's (`filled`), which changes at any time and of which a copy is
            // used; the segment is live, ours, and has room for `most` bytes.
            unsafe {
                let says = with_exposed_provenance::<[u8; SAYS]>(buffer.header).read_volatile();
                if says != [0; SAYS] {
                    (count, unusual) = (index, true);
                    break;
                }
                let segment = Segment::new(NonNull::new_unchecked(room.add(index).read()));
                copy(with_exposed_provenance(buffer.frame), segment.data(), buffer.len as usize);
                segment.set_data_len(buffer.len as u16);
                segment.set_packet_len(buffer.len);
            }
            self.give_back(used, index, buffer.head, 0);
        }
        // SAFETY: of the `buffers.len()` segments the first `count` are packets now, of one segment each and well-formed; the rest is freed.
        unsafe {
            sys::rte_pktmbuf_free_bulk(room.add(count), (buffers.len() - count) as u32);
            burst.set_len(burst.len() + count);
        }
        Moved { count, unusual, call: self.finish(taken, used, count) }
    }

    /// Copies packets from the front of the burst to the guest and frees them, as far as they are usual and it has room.
    #[inline]
    pub(super) fn give(&self, burst: &mut Burst) -> Moved {
        let (taken, used) = self.positions();
        let heads = self.available(taken, burst.len());
        let mut buffers = ArrayVec::<Buffer, BURST>::new();
        let mut region = self.parts.regions.first().copied().unwrap_or_default();
        for (packet, head) in burst.iter().zip(&heads) {
            let segment = packet.segment();
            let usual = segment.flags() & TRAVELS == 0 && segment.segments() == 1;
            match self.empty(&mut region, *head) {
                Some(buffer) if usual && segment.packet_len() <= buffer.len => {
                    prefetch_for_writing(buffer.header);
                    prefetch_for_writing(buffer.frame + segment.packet_len() as usize - 1);
                    buffers.push(buffer);
                }
                _ => break,
            }
        }
        let count = buffers.len();
        let unusual = count < heads.len();
        if count == 0 {
            return Moved { unusual, ..Moved::default() };
        }
        for (index, (packet, buffer)) in burst.iter().zip(&buffers).enumerate() {
            let (segment, header) = (packet.segment(), self.parts.header);
            let len = segment.packet_len();
            // SAFETY: the buffer is mapped memory of the guest's with room for the header and `len` bytes (`empty`); the segment has `len` bytes.
            unsafe {
                let to = with_exposed_provenance_mut::<u8>(buffer.header);
                to.cast::<u64>().write_unaligned(0);
                to.add(size_of::<u64>()).cast::<u16>().write_unaligned(0);
                if header as usize > BUFFERS_AT {
                    to.add(BUFFERS_AT).cast::<u16>().write_unaligned(1u16.to_le());
                }
                copy(segment.data(), with_exposed_provenance_mut(buffer.frame), len as usize);
            }
            self.give_back(used, index, buffer.head, header + len);
        }
        let call = self.finish(taken, used, count);
        free_front(burst, count);
        Moved { count, unusual, call }
    }

    /// How many of the guest's buffers were taken from the ring so far, and how many were given back.
    #[inline(always)]
    fn positions(&self) -> (u16, u16) {
        let (mut taken, mut used) = (0, 0);
        // SAFETY: the device exists, and the ring is this worker's; two numbers are written.
        unsafe { sys::rte_vhost_get_vring_base(self.parts.vid, self.parts.ring, &mut taken, &mut used) };
        (taken, used)
    }

    /// The numbers of the next available buffers, `want` at most. Their descriptors are being fetched.
    #[inline(always)]
    fn available(&self, taken: u16, want: usize) -> ArrayVec<u16, BURST> {
        let Parts { available, size, descriptors, .. } = *self.parts;
        // SAFETY: the ring lies in mapped memory, is aligned, and has `size` entries behind two numbers. The guest's writes before its number
        // are seen after it.
        let made = unsafe { AtomicU16::from_ptr(with_exposed_provenance_mut(available + 2)) };
        let waiting = u16::from_le(made.load(Ordering::Acquire)).wrapping_sub(taken);
        let count = usize::from(waiting.min(size)).min(want);
        let mut heads = ArrayVec::new();
        for position in 0..count {
            let entry = usize::from(taken.wrapping_add(position as u16) & (size - 1));
            // SAFETY: as above; `entry` is below `size`.
            let head = u16::from_le(unsafe {
                with_exposed_provenance::<u16>(available + ENTRIES + entry * 2).read_volatile()
            });
            if head >= size {
                // There is no such descriptor: the ring is stuck there, with the library too.
                break;
            }
            prefetch(descriptors + usize::from(head) * size_of::<Descriptor>());
            heads.push(head);
        }
        heads
    }

    #[inline(always)]
    fn descriptor(&self, number: u16) -> Option<Descriptor> {
        let at = self.parts.descriptors + usize::from(number) * size_of::<Descriptor>();
        // SAFETY: there are `size` descriptors in mapped memory. The guest may write to them meanwhile: what is read may be torn, and is checked
        // as it was read.
        (number < self.parts.size)
            .then(|| unsafe { with_exposed_provenance::<Descriptor>(at).read_volatile() }.to_native())
    }

    /// A buffer that the guest has filled, with its parts in mapped memory.
    #[inline(always)]
    fn filled(&self, region: &mut Region, head: u16) -> Option<Buffer> {
        let header = self.parts.header;
        let first = self.descriptor(head)?;
        if first.flags == 0 && first.len > header {
            let at = self.parts.find(region, first.address, first.len)?;
            return Some(Buffer { header: at, frame: at + header as usize, len: first.len - header, head });
        }
        // The older way: the header by itself.
        if first.flags != NEXT || first.len != header {
            return None;
        }
        let second = self.descriptor(first.next)?;
        if second.flags != 0 || second.len == 0 {
            return None;
        }
        let at = self.parts.find(region, first.address, header)?;
        let frame = self.parts.find(region, second.address, second.len)?;
        Some(Buffer { header: at, frame, len: second.len, head })
    }

    /// A buffer that the guest wants to have filled, likewise.
    #[inline(always)]
    fn empty(&self, region: &mut Region, head: u16) -> Option<Buffer> {
        let header = self.parts.header;
        let only = self.descriptor(head)?;
        if only.flags != WRITE || only.len < header {
            return None;
        }
        let at = self.parts.find(region, only.address, only.len)?;
        Some(Buffer { header: at, frame: at + header as usize, len: only.len - header, head })
    }

    /// Writes down that the buffer is the guest's again: the `index`th of a burst, with `len` bytes in it.
    #[inline(always)]
    fn give_back(&self, used: u16, index: usize, head: u16, len: u32) {
        let entry = usize::from(used.wrapping_add(index as u16) & (self.parts.size - 1));
        let word = u64::from(head) | u64::from(len) << 32;
        let at = self.parts.used + ENTRIES + entry * size_of::<u64>();
        // SAFETY: the ring lies in mapped memory and has `size` entries of eight bytes behind two numbers; it is aligned to four.
        unsafe { with_exposed_provenance_mut::<u64>(at).write_unaligned(word.to_le()) };
    }

    /// Shows the guest that `count` buffers more are its own again; whether it wants to be told.
    #[inline(always)]
    fn finish(&self, taken: u16, used: u16, count: usize) -> bool {
        if count == 0 {
            return false;
        }
        let Parts { vid, ring, available, size, event_idx, .. } = *self.parts;
        let (taken, now) = (taken.wrapping_add(count as u16), used.wrapping_add(count as u16));
        // SAFETY: the rings lie in mapped memory and are aligned; behind the available ones' entries is the number that the guest waits for.
        unsafe {
            let shown = AtomicU16::from_ptr(with_exposed_provenance_mut(self.parts.used + 2));
            shown.store(now.to_le(), Ordering::Release);
            sys::rte_vhost_set_vring_base(vid, ring, taken, now);
            // One of us sees the other: the guest what is new, or we that it waits.
            fence(Ordering::SeqCst);
            if event_idx {
                let at = available + ENTRIES + usize::from(size) * 2;
                let event = u16::from_le(with_exposed_provenance::<u16>(at).read_volatile());
                // The library, which has the last word, counts from its last call: it must not fall behind by a whole round of the number.
                now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(used)
                    || (now ^ used) & QUARTER != 0
            } else {
                u16::from_le(with_exposed_provenance::<u16>(available).read_volatile()) & NO_CALL == 0
            }
        }
    }
}

/// As it lies in the table (virtio 1.2, section 2.7.5).
#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    #[inline(always)]
    fn to_native(self) -> Self {
        Self {
            address: u64::from_le(self.address),
            len: u32::from_le(self.len),
            flags: u16::from_le(self.flags),
            next: u16::from_le(self.next),
        }
    }
}

/// Copies `len` bytes: short frames, as most are, without a call.
///
/// # Safety
/// As of [`ptr::copy_nonoverlapping`], but that others may write to `from` meanwhile.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    const STEP: usize = size_of::<u128>();
    const SHORT: usize = 8 * STEP;
    // SAFETY: the caller's promise; every step lies within the first `len` bytes, the last two over each other.
    unsafe {
        if !(STEP..=SHORT).contains(&len) {
            return ptr::copy_nonoverlapping(from, to, len);
        }
        let step = |at: usize| {
            to.add(at).cast::<u128>().write_unaligned(from.add(at).cast::<u128>().read_unaligned());
        };
        let mut at = 0;
        while at + STEP < len {
            step(at);
            at += STEP;
        }
        step(len - STEP);
    }
}

/// As [`prefetch`], of what will be written.
#[inline(always)]
fn prefetch_for_writing(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see and faults for no address; processors without this one do nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
