//! One segment of an mbuf chain, field by field. The only place that knows where an mbuf's fields are.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::sys;

/// Where in the mbuf the `meta` word is, and the flag that says that it was set. Both are known before there is an
/// mbuf: EAL's start registers them. Drivers write all flags of a packet they receive, so the flag is 0 on what is
/// fresh, whatever the word says.
static META_OFFSET: AtomicUsize = AtomicUsize::new(0);
static META_FLAG: AtomicU64 = AtomicU64::new(0);

/// Registers the `meta` word with DPDK. False when there is no room left in the mbuf.
pub(super) fn register_meta() -> bool {
    let mut name = [0; 64];
    for (to, from) in name.iter_mut().zip(b"weft_meta") {
        *to = *from as std::ffi::c_char;
    }
    let field = sys::rte_mbuf_dynfield { name, size: size_of::<u64>(), align: align_of::<u64>(), flags: 0 };
    let flag = sys::rte_mbuf_dynflag { name, flags: 0 };
    // SAFETY: EAL runs (the caller's duty), both structures are complete and are copied.
    let (offset, bit) =
        unsafe { (sys::rte_mbuf_dynfield_register(&field), sys::rte_mbuf_dynflag_register(&flag)) };
    let (Ok(offset), Ok(bit)) = (usize::try_from(offset), u32::try_from(bit)) else { return false };
    if offset + size_of::<u64>() > sys::WEFT_MBUF_SIZE as usize || bit > 63 {
        return false;
    }
    META_OFFSET.store(offset, Ordering::Relaxed);
    META_FLAG.store(1 << bit, Ordering::Relaxed);
    true
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

    #[inline(always)]
    pub(super) fn meta(self) -> u64 {
        if self.flags() & META_FLAG.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        // SAFETY: the invariant of Segment; the offset is that of a registered u64 inside the mbuf.
        unsafe { self.field::<u64>(META_OFFSET.load(Ordering::Relaxed)).read() }
    }

    #[inline(always)]
    pub(super) fn set_meta(self, meta: u64) {
        let flag = META_FLAG.load(Ordering::Relaxed);
        if meta == 0 {
            self.set_flags(self.flags() & !flag);
        } else {
            // SAFETY: as in `meta`.
            unsafe { self.field::<u64>(META_OFFSET.load(Ordering::Relaxed)).write(meta) };
            self.set_flags(self.flags() | flag);
        }
    }
}
