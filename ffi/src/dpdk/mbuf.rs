//! One packet in DPDK's buffers.

use std::io::{IoSlice, IoSliceMut};
use std::ptr::{self, NonNull, null_mut};
use std::slice;

use arrayvec::ArrayVec;

use super::layout::Segment;
use super::{Burst, HEADROOM, sys};

/// Segments that a chain made here has at most, and that [`Mbuf::io_slices`] shows: 64 KiB in 2 KiB buffers twice.
pub const MAX_SEGMENTS: usize = 64;

/// One packet, owned: a chain of segments, which is freed when this is dropped.
///
/// Invariant: the chain has exactly as many segments as its head says; the data of each lies within its buffer; the
/// packet's length is the sum of theirs; nobody else refers to any of it. `Mbuf::adopt` checks what comes from
/// drivers, everything else keeps it. A driver's wrong length can thus not lead out of a buffer.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: the chain is this value's alone, and the pool takes it back on any thread.
unsafe impl Send for Mbuf {}

const _: () = assert!(size_of::<Option<Mbuf>>() == 8);

impl Mbuf {
    /// # Safety
    /// The chain is live, well-formed (see the invariant of [`Mbuf`]) and from now on this value's alone.
    #[inline(always)]
    pub(super) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// Takes over what a driver has delivered, if its chain is well-formed and has at most `max_len` bytes. Else it
    /// is freed.
    ///
    /// # Safety
    /// `raw` is a live chain of mbufs as DPDK hands it out, the caller's alone.
    #[inline]
    pub(super) unsafe fn adopt(raw: *mut sys::rte_mbuf, max_len: usize) -> Result<Self, Refused> {
        // A driver that delivers NULL has delivered nothing.
        let Some(raw) = NonNull::new(raw) else { return Err(Refused::Malformed) };
        // SAFETY: the caller's promise.
        let head = unsafe { Segment::new(raw) };
        let single = head.segments() == 1
            && u32::from(head.data_len()) == head.packet_len()
            && head.is_sound()
            && head.refcnt() == 1
            && head.flags() & sys::WEFT_MBUF_INDIRECT == 0;
        let refused = if !single && !is_sound_chain(head) {
            Refused::Malformed
        } else if head.packet_len() as usize > max_len {
            Refused::TooLong
        } else {
            // What a driver passes through from inside this process (net_ring) may still carry a word.
            head.set_meta(0);
            return Ok(Self(raw));
        };
        // SAFETY: as above; freeing follows the links, not the lengths.
        unsafe { sys::weft_mbuf_free(raw.as_ptr()) };
        Err(refused)
    }

    #[inline(always)]
    fn segment(&self) -> Segment {
        // SAFETY: the chain is live and ours; a Segment does not outlive the borrow in any function here.
        unsafe { Segment::new(self.0) }
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        let head = self.segment();
        let mut left = head.segments();
        let mut next = Some(head);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let here = next?;
            // The last one's link is in a cache line that a packet of one segment has no need to touch.
            next = if left > 0 { here.next() } else { None };
            Some(here)
        })
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn head(&self) -> &[u8] {
        let head = self.segment();
        // SAFETY: the data lies within the buffer, which is ours and initialised (mapped memory).
        unsafe { slice::from_raw_parts(head.data(), usize::from(head.data_len())) }
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let head = self.segment();
        // SAFETY: as in `head`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(head.data(), usize::from(head.data_len())) }
    }

    /// Bytes in all segments.
    #[inline]
    pub fn len(&self) -> usize {
        self.segment().packet_len() as usize
    }

    /// True without a byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many segments the chain has.
    #[inline]
    pub fn segment_count(&self) -> usize {
        usize::from(self.segment().segments())
    }

    /// A word that travels with the packet and means nothing here; 0 on every packet that is fresh from a pool or a
    /// port.
    #[inline]
    pub fn meta(&self) -> u64 {
        self.segment().meta()
    }

    /// Sets what [`Self::meta`] says.
    #[inline]
    pub fn set_meta(&mut self, meta: u64) {
        self.segment().set_meta(meta);
    }

    /// Asks the processor to fetch the first bytes. Nothing happens on processors other than x86-64.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that could fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.segment().data().cast());
        }
    }

    /// Grows the first segment by `count` bytes in front, whose contents are undefined, and returns the whole first
    /// segment. `None`, with nothing changed, without the headroom.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let head = self.segment();
        if count > usize::from(head.data_off()) {
            return None;
        }
        // Fits: the data's end stays where it was, within a buffer of at most 65535 bytes.
        let grow = count as u16;
        head.set_data_off(head.data_off() - grow);
        head.set_data_len(head.data_len() + grow);
        head.set_packet_len(head.packet_len() + u32::from(grow));
        Some(self.head_mut())
    }

    /// Cuts `count` bytes off the front of the first segment. False, with nothing changed, when it has fewer.
    #[inline]
    pub fn trim_front(&mut self, count: usize) -> bool {
        let head = self.segment();
        let fits = count <= usize::from(head.data_len());
        if fits {
            let cut = count as u16;
            head.set_data_off(head.data_off() + cut);
            head.set_data_len(head.data_len() - cut);
            head.set_packet_len(head.packet_len() - u32::from(cut));
        }
        fits
    }

    /// Cuts the packet to `len` bytes over all segments and frees the segments behind; nothing happens when it is
    /// shorter.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let head = self.segment();
        let mut left = len;
        let mut kept = 0;
        let mut last = head;
        for segment in self.segments() {
            last = segment;
            kept += 1;
            if left <= usize::from(segment.data_len()) {
                break;
            }
            left -= usize::from(segment.data_len());
        }
        // `left` is within the last kept segment: the packet was longer than `len`.
        last.set_data_len(left as u16);
        if kept < head.segments() {
            let rest = last.next_raw();
            last.set_next_raw(null_mut());
            // SAFETY: the rest is cut off from the chain and was ours; freeing follows the links to the end.
            unsafe { sys::weft_mbuf_free(rest) };
        }
        head.set_segments(kept);
        head.set_packet_len(len as u32);
    }

    /// Moves bytes so that the first segment has at least `count`. False, with nothing lost, when the packet or the
    /// first segment's buffer is too short.
    #[inline]
    pub fn pull_up(&mut self, count: usize) -> bool {
        count <= usize::from(self.segment().data_len()) || self.pull_up_slowly(count)
    }

    #[cold]
    fn pull_up_slowly(&mut self, count: usize) -> bool {
        let head = self.segment();
        let room = usize::from(head.buf_len());
        if count > self.len() || count > room {
            return false;
        }
        if usize::from(head.data_off()) + count > room {
            // Too far back in its buffer: forward, with the usual headroom if that fits.
            let start = usize::from(HEADROOM).min(room - count);
            // SAFETY: source and destination lie within the one buffer (start + data_len <= start + count <= room).
            unsafe {
                ptr::copy(head.data(), head.buf_addr().add(start), usize::from(head.data_len()));
            }
            head.set_data_off(start as u16);
        }
        while usize::from(head.data_len()) < count {
            // There is one: the packet has `count` bytes.
            let Some(next) = head.next() else { return false };
            let have = usize::from(head.data_len());
            let take = (count - have).min(usize::from(next.data_len()));
            // SAFETY: the bytes are in the next segment's data and fit behind the head's, in another buffer.
            unsafe { ptr::copy_nonoverlapping(next.data(), head.data().add(have), take) };
            head.set_data_len((have + take) as u16);
            next.set_data_off(next.data_off() + take as u16);
            next.set_data_len(next.data_len() - take as u16);
            if next.data_len() == 0 {
                head.set_next_raw(next.next_raw());
                head.set_segments(head.segments() - 1);
                // SAFETY: cut off from the chain above, and ours.
                unsafe { sys::weft_mbuf_free_seg(next.as_ptr()) };
            }
        }
        true
    }

    /// Puts the bytes of `other` behind these, by linking its segments to the last one; `meta` stays. `other` comes back,
    /// with nothing changed, when the chain would have more than [`MAX_SEGMENTS`].
    ///
    /// Costs a step for each segment here, none for those of `other`: a long chain is built from its end.
    #[inline]
    pub fn append(&mut self, other: Self) -> Result<(), Self> {
        let count = self.segment_count() + other.segment_count();
        if count > MAX_SEGMENTS {
            return Err(other);
        }
        let (head, tail) = (self.segment(), other.segment());
        let last = self.segments().last().unwrap_or(head);
        // From here on the segments are this chain's: nobody else frees them.
        std::mem::forget(other);
        let len = head.packet_len() + tail.packet_len();
        // What lies in the middle of a chain speaks only for itself.
        tail.set_segments(1);
        tail.set_packet_len(tail.data_len().into());
        last.set_next_raw(tail.as_ptr());
        head.set_segments(count as u16);
        head.set_packet_len(len);
        Ok(())
    }

    /// Shows every segment in order.
    #[inline]
    pub fn for_each_segment(&self, mut see: impl FnMut(&[u8])) {
        for segment in self.segments() {
            // SAFETY: the data lies within the buffer; `self` is borrowed while it is shown.
            see(unsafe { slice::from_raw_parts(segment.data(), usize::from(segment.data_len())) });
        }
    }

    /// Copies from `offset` into `to` as far as the packet goes; how many bytes that was.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let mut skip = offset;
        let mut done = 0;
        self.for_each_segment(|bytes| {
            if skip >= bytes.len() {
                skip -= bytes.len();
                return;
            }
            let take = (bytes.len() - skip).min(to.len() - done);
            to[done..done + take].copy_from_slice(&bytes[skip..skip + take]);
            done += take;
            skip = 0;
        });
        done
    }

    /// Copies `from` over the bytes at `offset`. False, with nothing changed, when it would end past the packet.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> bool {
        if offset.checked_add(from.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        let mut skip = offset;
        let mut left = from;
        for segment in self.segments() {
            let len = usize::from(segment.data_len());
            if left.is_empty() {
                break;
            }
            if skip >= len {
                skip -= len;
                continue;
            }
            let (now, later) = left.split_at(left.len().min(len - skip));
            // SAFETY: `skip + now.len()` is within the segment's data, which `self` owns and `from` can't be part of.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), segment.data().add(skip), now.len()) };
            left = later;
            skip = 0;
        }
        true
    }

    /// The bytes of each segment, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.segments().map(|segment| {
            // SAFETY: the data lies within the buffer, and the slice borrows `self`.
            unsafe { slice::from_raw_parts(segment.data(), usize::from(segment.data_len())) }
        })
    }

    /// The bytes of each segment, in order.
    pub fn pieces_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.segments().map(|segment| {
            // SAFETY: as above, `self` is borrowed exclusively, and segments don't overlap: each has its own buffer.
            unsafe { slice::from_raw_parts_mut(segment.data(), usize::from(segment.data_len())) }
        })
    }

    /// Appends the segments for a vectored write, as far as `out` has room. False when they did not all fit.
    pub fn io_slices<'a>(&'a self, out: &mut ArrayVec<IoSlice<'a>, MAX_SEGMENTS>) -> bool {
        self.pieces().all(|bytes| out.try_push(IoSlice::new(bytes)).is_ok())
    }

    /// Appends the segments for a vectored read, as far as `out` has room. False when they did not all fit.
    pub fn io_slices_mut<'a>(&'a mut self, out: &mut ArrayVec<IoSliceMut<'a>, MAX_SEGMENTS>) -> bool {
        self.segments().all(|segment| {
            // SAFETY: as above, `self` is borrowed exclusively, and segments don't overlap: each has its own buffer.
            let bytes = unsafe { slice::from_raw_parts_mut(segment.data(), usize::from(segment.data_len())) };
            out.try_push(IoSliceMut::new(bytes)).is_ok()
        })
    }

    /// Frees all packets of a burst together, which costs less than one by one.
    pub fn free_burst(burst: &mut Burst) {
        free_front(burst, burst.len());
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the chain is ours, and nobody uses it after this.
        unsafe { sys::weft_mbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf").field("len", &self.len()).field("segments", &self.segment_count()).finish()
    }
}

/// Why [`Mbuf::adopt`] has freed a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Lengths or links contradict each other.
    Malformed,
    /// Over the limit.
    TooLong,
}

fn is_sound_chain(head: Segment) -> bool {
    let mut sum = 0u64;
    let mut left = head.segments();
    let mut next = Some(head);
    while let Some(segment) = next {
        if left == 0
            || !segment.is_sound()
            || segment.refcnt() != 1
            || segment.flags() & sys::WEFT_MBUF_INDIRECT != 0
        {
            return false;
        }
        sum += u64::from(segment.data_len());
        left -= 1;
        next = segment.next();
    }
    left == 0 && sum == u64::from(head.packet_len())
}

/// Adopts the `count` chains that a driver has written behind the burst's end; how many were malformed and too long.
///
/// # Safety
/// The burst has room for `count` more, and as many live chains have been written there, the caller's alone.
#[inline]
pub(super) unsafe fn adopt_behind(burst: &mut Burst, count: usize, max_len: usize) -> (u32, u32) {
    let (mut malformed, mut too_long) = (0, 0);
    let mut len = burst.len();
    // SAFETY: the caller's promise; `len` never overtakes `index`, so nothing unread is overwritten, and the length
    // covers only what was adopted.
    unsafe {
        let base = burst.as_mut_ptr();
        let from = len;
        for index in from..from + count {
            match Mbuf::adopt(base.add(index).cast::<*mut sys::rte_mbuf>().read(), max_len) {
                Ok(mbuf) => {
                    base.add(len).write(mbuf);
                    len += 1;
                }
                Err(Refused::Malformed) => malformed += 1,
                Err(Refused::TooLong) => too_long += 1,
            }
        }
        burst.set_len(len);
    }
    (malformed, too_long)
}

/// Where DPDK writes the packets that it appends.
#[inline]
pub(super) fn free_room(burst: &mut Burst) -> *mut *mut sys::rte_mbuf {
    let len = burst.len();
    burst.as_mut_ptr().wrapping_add(len).cast()
}

/// Forgets the first `count` packets: they have another owner now.
#[inline]
pub(super) fn forget_front(burst: &mut Burst, count: usize) {
    let left = burst.len() - count.min(burst.len());
    // SAFETY: the rest moves to the front, and the length covers exactly the rest; what was in front is not dropped.
    unsafe {
        let base = burst.as_mut_ptr();
        if left > 0 {
            ptr::copy(base.add(burst.len() - left), base, left);
        }
        burst.set_len(left);
    }
}

/// Frees the first `count` packets.
pub(super) fn free_front(burst: &mut Burst, count: usize) {
    let count = count.min(burst.len());
    // SAFETY: `count` chains that are ours; they are forgotten right after.
    unsafe { sys::rte_pktmbuf_free_bulk(burst.as_mut_ptr().cast(), count as u32) };
    forget_front(burst, count);
}
