//! One segment of an mbuf chain, field by field. The only place that knows where an mbuf's fields are.

use std::ffi::c_char;
use std::mem::offset_of;
use std::ptr::NonNull;

use super::sys;

/// The flag that says that the `meta` word was set. Drivers write all flags of a packet they receive, so it is 0 on what is fresh,
/// whatever the word says. A constant saves a load per packet; DPDK gives out free flags from the other end.
const META: u64 = sys::WEFT_MBUF_LAST_FREE;

/// The word itself is where drivers leave a hash of what they receive, which nobody here asks for, and which means nothing to those
/// that send: in the mbuf's first cache line, which is at hand whenever the packet is.
const META_AT: usize = sys::WEFT_MBUF_HASH as usize;

const _: () = assert!(sys::WEFT_MBUF_HASH_SIZE as usize >= size_of::<u64>());

/// The four numbers that drivers write as one when they hand a buffer out.
#[repr(C)]
struct Rearm {
    data_off: u16,
    refcnt: u16,
    segments: u16,
    port: u16,
}

const _: () = {
    let at = sys::WEFT_MBUF_REARM as usize;
    assert!(offset_of!(Rearm, data_off) + at == sys::WEFT_MBUF_DATA_OFF as usize);
    assert!(offset_of!(Rearm, refcnt) + at == sys::WEFT_MBUF_REFCNT as usize);
    assert!(offset_of!(Rearm, segments) + at == sys::WEFT_MBUF_NB_SEGS as usize);
    assert!(size_of::<Rearm>() == size_of::<u64>());
};

/// What these say of one segment that nobody else refers to, and which of their bits say it.
const SINGLE: u64 = rearm(1, 1);
const SINGLE_BITS: u64 = rearm(u16::MAX, u16::MAX);

const fn rearm(refcnt: u16, segments: u16) -> u64 {
    let ([a, b], [c, d]) = (refcnt.to_ne_bytes(), segments.to_ne_bytes());
    u64::from_ne_bytes([0, 0, a, b, c, d, 0, 0])
}

/// Has DPDK give nobody else the `meta` word's flag. False when somebody has it.
pub(super) fn register_meta() -> bool {
    let mut name = [0; 64];
    for (to, from) in name.iter_mut().zip(b"weft_meta") {
        *to = *from as c_char;
    }
    let flag = sys::rte_mbuf_dynflag { name, flags: 0 };
    // SAFETY: EAL runs (the caller's duty); the structure is complete and is copied.
    unsafe { sys::rte_mbuf_dynflag_register_bitnum(&flag, META.trailing_zeros()) >= 0 }
}

/// One segment.
///
/// Invariant: points to a live mbuf that whoever holds the `Segment` has to himself (through an owned chain), so that
/// its fields can be read and written. [`Self::new`] is where this is promised; the rest is safe because of it.
#[derive(Clone, Copy)]
pub(super) struct Segment(NonNull<sys::rte_mbuf>);

macro_rules! fields {
    ($($get:ident, $set:ident: $type:ty = $offset:ident;)+) => { $(
        #[inline(always)]
        pub(super) fn $get(self) -> $type {
            // SAFETY: the invariant of Segment; offset and type are those of the C structure.
            unsafe { self.field::<$type>(sys::$offset as usize).read() }
        }
        #[inline(always)]
        #[allow(dead_code)]
        pub(super) fn $set(self, value: $type) {
            // SAFETY: as above.
            unsafe { self.field::<$type>(sys::$offset as usize).write(value) }
        }
    )+ };
}

impl Segment {
    /// # Safety
    /// `mbuf` is live and nobody else uses it as long as the segment is used.
    #[inline(always)]
    pub(super) unsafe fn new(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    #[inline(always)]
    fn field<T>(self, offset: usize) -> *mut T {
        self.0.as_ptr().cast::<u8>().wrapping_add(offset).cast()
    }

    fields! {
        buf_addr, set_buf_addr: *mut u8 = WEFT_MBUF_BUF_ADDR;
        data_off, set_data_off: u16 = WEFT_MBUF_DATA_OFF;
        refcnt, set_refcnt: u16 = WEFT_MBUF_REFCNT;
        segments, set_segments: u16 = WEFT_MBUF_NB_SEGS;
        rearm, set_rearm: u64 = WEFT_MBUF_REARM;
        flags, set_flags: u64 = WEFT_MBUF_OL_FLAGS;
        packet_len, set_packet_len: u32 = WEFT_MBUF_PKT_LEN;
        data_len, set_data_len: u16 = WEFT_MBUF_DATA_LEN;
        buf_len, set_buf_len: u16 = WEFT_MBUF_BUF_LEN;
        next_raw, set_next_raw: *mut sys::rte_mbuf = WEFT_MBUF_NEXT;
        pool, set_pool: *mut sys::rte_mempool = WEFT_MBUF_POOL;
        tx_offload, set_tx_offload: u64 = WEFT_MBUF_TX_OFFLOAD;
    }

    #[inline(always)]
    pub(super) fn as_ptr(self) -> *mut sys::rte_mbuf {
        self.0.as_ptr()
    }

    /// The segment behind this one, which belongs to the same owner.
    #[inline(always)]
    pub(super) fn next(self) -> Option<Self> {
        NonNull::new(self.next_raw()).map(Self)
    }

    /// Where the data begins.
    #[inline(always)]
    pub(super) fn data(self) -> *mut u8 {
        self.buf_addr().wrapping_add(self.data_off() as usize)
    }

    /// Asks the processor to fetch the first bytes of the data. Nothing happens on processors other than x86-64.
    #[inline(always)]
    pub(super) fn prefetch(self) {
        super::prefetch(self.data().addr());
    }

    /// True if the data lies within the buffer.
    #[inline(always)]
    pub(super) fn is_sound(self) -> bool {
        self.data_off() as usize + self.data_len() as usize <= self.buf_len() as usize
    }

    /// What travels with a packet beside its bytes, from another one's head: what is to be done by who sends it, and the
    /// `meta` word.
    pub(super) fn set_words_of(self, from: Self) {
        self.set_flags(from.flags() & sys::WEFT_MBUF_TX_ALL);
        self.set_tx_offload(from.tx_offload());
        self.set_meta(from.meta());
    }

    /// 0 for what drivers usually hand out: one segment, nobody else's, with lengths that agree. All of it is in the mbuf's first cache
    /// line, and nothing is decided here, so that who looks at a burst decides once. (The flags are not looked at.)
    #[inline(always)]
    pub(super) fn oddity(self) -> u64 {
        let len = u32::from(self.data_len());
        let end = u32::from(self.data_off()) + len;
        // The highest bit is set when the data ends behind the buffer.
        let room = u32::from(self.buf_len()).wrapping_sub(end);
        (self.rearm() ^ SINGLE) & SINGLE_BITS | u64::from((len ^ self.packet_len()) | room >> 31)
    }

    #[inline(always)]
    pub(super) fn meta(self) -> u64 {
        if self.flags() & META == 0 {
            return 0;
        }
        // SAFETY: the invariant of Segment; as many bytes are there.
        unsafe { self.field::<u64>(META_AT).read_unaligned() }
    }

    #[inline(always)]
    pub(super) fn set_meta(self, meta: u64) {
        if meta == 0 {
            self.set_flags(self.flags() & !META);
        } else {
            // SAFETY: as in `meta`.
            unsafe { self.field::<u64>(META_AT).write_unaligned(meta) };
            self.set_flags(self.flags() | META);
        }
    }
}

/// The flags of what travels with a packet beside its bytes: a `meta` word, work for who sends it.
pub(super) const TRAVELS: u64 = META | sys::WEFT_MBUF_TX_ALL;

#[cfg(test)]
mod tests {
    use super::*;

    /// An mbuf without a buffer: nothing here follows its pointers.
    #[repr(C, align(64))]
    struct Bare([u8; sys::WEFT_MBUF_SIZE as usize]);

    impl Bare {
        fn segment(&mut self) -> Segment {
            // SAFETY: as large and aligned as an mbuf, ours alone, and any bytes will do for its numbers.
            unsafe { Segment::new(NonNull::from(&mut self.0).cast()) }
        }
    }

    /// Numbers around every bound.
    const NUMBERS: [u16; 8] = [0, 1, 2, 128, 2047, 2048, 0x8000, 0xffff];

    #[test]
    fn only_what_is_usual_is_not_odd() {
        let mut bare = Bare([0; 128]);
        let segment = bare.segment();
        let mut usual = 0;
        for (refcnt, segments) in NUMBERS.iter().flat_map(|a| NUMBERS.map(|b| (*a, b))) {
            for (data_off, data_len) in NUMBERS.iter().flat_map(|a| NUMBERS.map(|b| (*a, b))) {
                for (buf_len, more) in
                    NUMBERS.iter().flat_map(|a| [0, 1, 0x1_0000, u32::MAX].map(|b| (*a, b)))
                {
                    let packet_len = u32::from(data_len).wrapping_add(more);
                    segment.set_refcnt(refcnt);
                    segment.set_segments(segments);
                    segment.set_data_off(data_off);
                    segment.set_data_len(data_len);
                    segment.set_buf_len(buf_len);
                    segment.set_packet_len(packet_len);
                    let is_usual = refcnt == 1 && segments == 1 && more == 0 && segment.is_sound();
                    assert_eq!(segment.oddity() == 0, is_usual);
                    usual += u32::from(is_usual);
                }
            }
        }
        assert!(usual > 0);
    }

    #[test]
    fn the_word_is_nobody_elses() {
        let mut bare = Bare([0; 128]);
        let segment = bare.segment();
        assert_eq!(segment.meta(), 0);
        segment.set_meta(u64::MAX);
        assert_eq!((segment.meta(), segment.flags()), (u64::MAX, META));
        assert_eq!((segment.data_len(), segment.packet_len(), segment.buf_len()), (0, 0, 0));
        assert_eq!((segment.rearm(), segment.tx_offload()), (0, 0));
        assert!(segment.pool().is_null() && segment.next().is_none() && segment.buf_addr().is_null());
        segment.set_meta(0);
        assert_eq!((segment.meta(), segment.flags()), (0, 0));
    }
}
