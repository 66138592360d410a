//! One packet in DPDK's buffers.

use std::io::{IoSlice, IoSliceMut};
use std::ptr::{self, NonNull, null_mut};
use std::slice;

use arrayvec::ArrayVec;

use super::layout::{Segment, TRAVELS};
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
            return Ok(Self(raw));
        };
        // SAFETY: as above; freeing follows the links, not the lengths.
        unsafe { sys::weft_mbuf_free(raw.as_ptr()) };
        Err(refused)
    }

    #[inline(always)]
    pub(super) fn segment(&self) -> Segment {
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
        self.segment().prefetch();
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

    /// Makes the first segment exactly its first `count` bytes, in a buffer of their own from the same pool; what follows
    /// stays where it is. False, with nothing changed, when the pool is empty, or when the first segment has not more than
    /// `count` bytes or the new one not as much room.
    pub fn split_head(&mut self, count: usize) -> bool {
        let old = self.segment();
        // SAFETY: the pool of a live segment lives.
        let raw = NonNull::new(unsafe { sys::weft_mbuf_alloc(old.pool()) });
        // SAFETY: a fresh segment, ours alone.
        let Some(mut head) = raw.map(|raw| unsafe { Self::from_raw(raw) }) else { return false };
        let fresh = head.segment();
        let room = usize::from(fresh.buf_len()) - usize::from(fresh.data_off());
        if count >= usize::from(old.data_len()) || count > room {
            return false;
        }
        // SAFETY: `count` bytes lie within both buffers, which are different ones.
        unsafe { ptr::copy_nonoverlapping(old.data(), fresh.data(), count) };
        fresh.set_words_of(old);
        fresh.set_data_len(count as u16);
        fresh.set_segments(old.segments() + 1);
        fresh.set_packet_len(old.packet_len());
        old.set_data_off(old.data_off() + count as u16);
        old.set_data_len(old.data_len() - count as u16);
        old.set_segments(1);
        old.set_packet_len(old.data_len().into());
        fresh.set_next_raw(old.as_ptr());
        std::mem::swap(self, &mut head);
        // The old head is the second segment now, and freed with the chain.
        std::mem::forget(head);
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

    /// Whether no packet of the burst has a `meta` word or work for who sends it.
    #[inline]
    pub fn are_plain(burst: &Burst) -> bool {
        burst.iter().fold(0, |flags, packet| flags | packet.segment().flags()) & TRAVELS == 0
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

/// What became of what a driver has delivered.
pub(super) struct Adopted {
    pub(super) malformed: u32,
    pub(super) too_long: u32,
    /// All flags that one of the packets has.
    pub(super) flags: u64,
}

impl Adopted {
    /// Whether the driver has said something of one of the packets that [`Mbuf::rx_checksum`] or [`Mbuf::rx_segment`] tells.
    #[inline]
    pub(super) fn tells(&self) -> bool {
        self.flags & (sys::WEFT_MBUF_RX_L4_MASK | sys::WEFT_MBUF_RX_LRO) != 0
    }
}

/// Adopts the `count` chains that a driver has written behind the burst's end, and has the processor fetch their first bytes.
///
/// # Safety
/// The burst has room for `count` more, and as many live chains have been written there, the caller's alone.
#[inline]
pub(super) unsafe fn adopt_behind(burst: &mut Burst, count: usize, max_len: usize) -> Adopted {
    let old = burst.len();
    let base: *mut *mut sys::rte_mbuf = free_room(burst);
    let (mut odd, mut flags) = (0, 0);
    for index in 0..count {
        // SAFETY: the caller's promise: there are `count`, each live.
        let Some(raw) = NonNull::new(unsafe { base.add(index).read() }) else {
            odd = 1;
            continue;
        };
        // SAFETY: as above.
        let head = unsafe { Segment::new(raw) };
        odd |= head.oddity();
        flags |= head.flags();
        head.prefetch();
    }
    // One segment has no more than 65535 bytes.
    if odd != 0 || flags & sys::WEFT_MBUF_INDIRECT != 0 || max_len < usize::from(u16::MAX) {
        // SAFETY: the caller's promise.
        return unsafe { adopt_one_by_one(burst, count, max_len) };
    }
    // SAFETY: each of the `count` pointers is that of a chain of one segment that is well-formed, as was just seen, and it is nobody
    // else's: an Mbuf.
    unsafe { burst.set_len(old + count) };
    forget_words(burst, old, flags);
    Adopted { malformed: 0, too_long: 0, flags }
}

/// The same where one of them is not of the usual kind.
///
/// # Safety
/// As of [`adopt_behind`].
#[cold]
unsafe fn adopt_one_by_one(burst: &mut Burst, count: usize, max_len: usize) -> Adopted {
    let old = burst.len();
    let mut adopted = Adopted { malformed: 0, too_long: 0, flags: 0 };
    let mut len = old;
    // SAFETY: the caller's promise; `len` never overtakes `index`, so nothing unread is overwritten, and the length
    // covers only what was adopted.
    unsafe {
        let base = burst.as_mut_ptr();
        for index in old..old + count {
            match Mbuf::adopt(base.add(index).cast::<*mut sys::rte_mbuf>().read(), max_len) {
                Ok(mbuf) => {
                    adopted.flags |= mbuf.segment().flags();
                    base.add(len).write(mbuf);
                    len += 1;
                }
                Err(Refused::Malformed) => adopted.malformed += 1,
                Err(Refused::TooLong) => adopted.too_long += 1,
            }
        }
        burst.set_len(len);
    }
    forget_words(burst, old, adopted.flags);
    adopted
}

/// What a driver passes through from inside this process (`net_ring`) may still carry what it was sent with. `flags` are those of all
/// packets from `old` on.
#[inline]
fn forget_words(burst: &mut Burst, old: usize, flags: u64) {
    if flags & TRAVELS == 0 {
        return;
    }
    for packet in burst.iter().skip(old) {
        let head = packet.segment();
        head.set_flags(head.flags() & !TRAVELS);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::{DATA_ROOM, Eal, EalConfig, Mempool};

    /// One way in which a driver can be wrong.
    type Lie = fn(Segment);

    const LIES: [Lie; 7] = [
        |head| head.set_data_len(head.data_len() + 1),
        |head| head.set_packet_len(head.packet_len() - 1),
        |head| head.set_data_off(head.buf_len()),
        |head| head.set_buf_len(head.data_off() + head.data_len() - 1),
        |head| head.set_segments(0),
        |head| head.set_segments(2),
        |head| head.set_refcnt(2),
    ];

    #[test]
    fn a_packet_that_lies_is_found_among_others() {
        let eal =
            Eal::start(&EalConfig { memory: 8 << 20, hugepages: false, ..EalConfig::default() }).unwrap();
        for (index, lie) in LIES.into_iter().enumerate() {
            for place in 0..=3 {
                // Some lies stay with their buffer.
                let pool = Mempool::new(&eal, &format!("{index} {place}"), 32, 0, DATA_ROOM).unwrap();
                let mut burst = Burst::new();
                let mut came: Vec<_> =
                    [100, 5000, 60].into_iter().map(|len| pool.alloc(len).unwrap()).collect();
                came.insert(place, pool.alloc(60).unwrap());
                came[place].set_meta(7);
                lie(came[place].segment());
                burst.push(pool.alloc(1).unwrap());
                let room = free_room(&mut burst);
                for (index, packet) in came.into_iter().enumerate() {
                    // SAFETY: the burst has room for them; they belong to whoever reads them there.
                    unsafe { room.add(index).write(packet.segment().as_ptr()) };
                    std::mem::forget(packet);
                }
                // SAFETY: four live chains were written.
                let adopted = unsafe { adopt_behind(&mut burst, 4, usize::from(u16::MAX)) };
                assert_eq!((adopted.malformed, adopted.too_long), (1, 0), "lie {index} at {place}");
                let lengths: Vec<_> = burst.iter().map(Mbuf::len).collect();
                assert_eq!(lengths, [1, 100, 5000, 60], "lie {index} at {place}");
            }
        }
    }
}
