//! The pool that packet buffers come from.

use std::ffi::CString;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use thiserror::Error;

use super::layout::Segment;
use super::mbuf::{MAX_SEGMENTS, Mbuf};
use super::{Burst, Eal, MemoryKind, error_text, last_error, sys};

/// Free bytes in front of a fresh packet.
pub const HEADROOM: u16 = sys::WEFT_MBUF_HEADROOM as u16;

/// The usual buffer: a full-size frame with tunnel headers, and [`HEADROOM`].
pub const DATA_ROOM: u16 = 2048 + HEADROOM;

/// A large buffer, for what follows the first [`DATA_ROOM`] of a GSO frame: nearly all that an mbuf's 16-bit length can say, in
/// whole cache lines.
pub const LARGE_ROOM: u16 = 65472;

/// Why there is no pool.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// The name is empty, too long for DPDK or has a NUL.
    #[error("{0:?} is no name for a buffer pool: take 1 to 24 bytes without NUL")]
    Name(String),
    /// A segment must hold its headroom and something more.
    #[error("pool {name}: a buffer of {room} bytes is too small, it needs at least {} bytes", HEADROOM + 64)]
    Room {
        /// The pool.
        name: String,
        /// Bytes asked for.
        room: u16,
    },
    /// DPDK's caches are limited, and all of them together must leave something in the pool.
    #[error(
        "pool {name}: a cache of {cache} does not go with {count} buffers: at most 512, and two thirds of the pool"
    )]
    Cache {
        /// The pool.
        name: String,
        /// Entries asked for.
        cache: u32,
        /// Buffers in the pool.
        count: u32,
    },
    /// DPDK did not make it.
    #[error(
        "pool {name}: DPDK has no room for {count} buffers ({reason}): enlarge dataplane.memory or make the pool smaller"
    )]
    Refused {
        /// The pool.
        name: String,
        /// Buffers asked for.
        count: u32,
        /// DPDK's words.
        reason: String,
    },
}

struct Pool {
    raw: NonNull<sys::rte_mempool>,
    data_room: u16,
    name: String,
    eal: Eal,
}

/// A pool of packet buffers in DPDK's memory. A clone is the same pool. When the last one goes, the memory is given
/// back, unless packets are still out: then pool and memory stay for good, with a line in the log.
#[derive(Clone)]
pub struct Mempool(Arc<Pool>);

// SAFETY: DPDK's pools are made for many threads at a time: get and put are lock-free, the counters are read loosely,
// and the per-thread caches are chosen by the calling thread's own lcore number.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Mempool {
    /// A pool of `count` buffers of `data_room` bytes each ([`DATA_ROOM`] unless there is a reason), of which every
    /// registered thread keeps up to one and a half times `cache` at hand (0 to 512).
    pub fn new(eal: &Eal, name: &str, count: u32, cache: u32, data_room: u16) -> Result<Self, PoolError> {
        let name = name.to_owned();
        let c_name = match CString::new(name.as_str()) {
            Ok(c_name) if (1..25).contains(&name.len()) => c_name,
            _ => return Err(PoolError::Name(name)),
        };
        if data_room < HEADROOM + 64 {
            return Err(PoolError::Room { name, room: data_room });
        }
        if cache > sys::WEFT_MEMPOOL_CACHE_MAX || u64::from(cache) * 3 > u64::from(count) * 2 {
            return Err(PoolError::Cache { name, cache, count });
        }
        // Without hugepages "contiguous for a device" means "within 4 KiB", which would nearly double the memory, and
        // no device reads these buffers anyway.
        let flags = match eal.memory() {
            MemoryKind::Ordinary => sys::WEFT_MEMPOOL_NO_IOVA_CONTIG,
            MemoryKind::Hugepages => 0,
        };
        let refused = |reason| PoolError::Refused { name: name.clone(), count, reason };
        let room = PoolPrivate { mbuf_data_room_size: data_room, mbuf_priv_size: 0, flags: 0 };
        // SAFETY: EAL runs; the name is NUL-terminated and copied. The object is an mbuf with its buffer behind it, the
        // private area is what rte_pktmbuf_pool_init expects and is passed a complete `room`. Objects are initialised
        // by DPDK's own function before anything is taken.
        let raw = unsafe {
            let raw = sys::rte_mempool_create_empty(
                c_name.as_ptr(),
                count,
                sys::WEFT_MBUF_SIZE + u32::from(data_room),
                cache,
                size_of::<PoolPrivate>() as u32,
                -1,
                flags,
            );
            let raw = NonNull::new(raw).ok_or_else(|| refused(last_error()))?;
            let mut code = sys::rte_mempool_set_ops_byname(raw.as_ptr(), c"ring_mp_mc".as_ptr(), null_mut());
            if code == 0 {
                sys::rte_pktmbuf_pool_init(raw.as_ptr(), (&raw const room).cast_mut().cast());
                code = sys::rte_mempool_populate_default(raw.as_ptr());
            }
            if code < 0 {
                sys::rte_mempool_free(raw.as_ptr());
                return Err(refused(error_text(code)));
            }
            sys::rte_mempool_obj_iter(raw.as_ptr(), Some(sys::rte_pktmbuf_init), null_mut());
            raw
        };
        Ok(Self(Arc::new(Pool { raw, data_room, name, eal: eal.clone() })))
    }

    /// Bytes of DPDK's memory that a pool of this size takes, a little rounded up: for [`super::EalConfig::memory`].
    pub fn bytes_for(count: u32, data_room: u16) -> usize {
        // The object's header, its padding against equal cache sets, and its place in the ring.
        let each = 64 + sys::WEFT_MBUF_SIZE as usize + usize::from(data_room).next_multiple_of(64) + 64 + 16;
        count as usize * each + (1 << 20)
    }

    /// A packet of `len` undefined bytes with [`HEADROOM`] in front, as a chain where one buffer is too small; the
    /// buffers behind the first are filled to their end. `None` when the pool is empty or the chain would have more
    /// than [`MAX_SEGMENTS`] buffers.
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<Mbuf> {
        let room = usize::from(self.0.data_room);
        if len > room - usize::from(HEADROOM) {
            return self.alloc_chain(len);
        }
        // SAFETY: the pool is live.
        let raw = NonNull::new(unsafe { sys::weft_mbuf_alloc(self.as_ptr()) })?;
        // SAFETY: a fresh mbuf is nobody else's, and has one segment, no successor, refcnt 1, HEADROOM and no data.
        unsafe {
            let head = Segment::new(raw);
            head.set_data_len(len as u16);
            head.set_packet_len(len as u32);
            Some(Mbuf::from_raw(raw))
        }
    }

    /// One buffer of `len` undefined bytes from its very beginning, without headroom: to go behind another. `None` when the pool is
    /// empty or `len` is more than a buffer has.
    #[inline]
    pub fn alloc_behind(&self, len: usize) -> Option<Mbuf> {
        if len > usize::from(self.0.data_room) {
            return None;
        }
        // SAFETY: the pool is live.
        let raw = NonNull::new(unsafe { sys::weft_mbuf_alloc(self.as_ptr()) })?;
        // SAFETY: as in `alloc`; `len` bytes from the buffer's beginning lie within it.
        unsafe {
            let head = Segment::new(raw);
            head.set_data_off(0);
            head.set_data_len(len as u16);
            head.set_packet_len(len as u32);
            Some(Mbuf::from_raw(raw))
        }
    }

    #[cold]
    fn alloc_chain(&self, len: usize) -> Option<Mbuf> {
        let room = usize::from(self.0.data_room);
        let first = room - usize::from(HEADROOM);
        let count = 1 + (len - first).div_ceil(room);
        if count > MAX_SEGMENTS {
            return None;
        }
        let mut raw = [null_mut(); MAX_SEGMENTS];
        // SAFETY: the pool is live, and `raw` has room for `count`.
        if unsafe { sys::weft_mbuf_alloc_bulk(self.as_ptr(), raw.as_mut_ptr(), count as u32) } != 0 {
            return None;
        }
        let mut left = len;
        let mut next = null_mut();
        // Their data is placed from the front, their links from the back.
        for (index, &mbuf) in raw[..count].iter().enumerate() {
            // SAFETY: DPDK has filled `count` pointers to fresh mbufs, nobody else's.
            let segment = unsafe { Segment::new(NonNull::new_unchecked(mbuf)) };
            let here = left.min(if index == 0 { first } else { room });
            if index > 0 {
                segment.set_data_off(0);
            }
            segment.set_data_len(here as u16);
            left -= here;
        }
        for &mbuf in raw[..count].iter().rev() {
            // SAFETY: as above.
            unsafe { Segment::new(NonNull::new_unchecked(mbuf)) }.set_next_raw(next);
            next = mbuf;
        }
        // SAFETY: the chain is complete: `count` segments, all data within the buffers, their sum `len`, refcnt 1 each.
        unsafe {
            let head = NonNull::new_unchecked(next);
            Segment::new(head).set_segments(count as u16);
            Segment::new(head).set_packet_len(len as u32);
            Some(Mbuf::from_raw(head))
        }
    }

    /// Appends `count` packets of `len` undefined bytes, as far as the burst has room; all of them or none, and how
    /// many that was. `len` must fit into one buffer behind [`HEADROOM`]; else none.
    pub fn alloc_burst(&self, len: usize, count: usize, burst: &mut Burst) -> usize {
        let count = count.min(burst.remaining_capacity());
        if len > usize::from(self.0.data_room - HEADROOM) || count == 0 {
            return 0;
        }
        let old = burst.len();
        // SAFETY: the pool is live, the burst has room for `count` more, and an Mbuf is a pointer. What DPDK writes there
        // are fresh mbufs, well-formed with no data; the length is set only when all of them are there.
        unsafe {
            let free = burst.as_mut_ptr().add(old).cast::<*mut sys::rte_mbuf>();
            if sys::weft_mbuf_alloc_bulk(self.as_ptr(), free, count as u32) != 0 {
                return 0;
            }
            for index in 0..count {
                let head = Segment::new(NonNull::new_unchecked(*free.add(index)));
                head.set_data_len(len as u16);
                head.set_packet_len(len as u32);
            }
            burst.set_len(old + count);
        }
        count
    }

    /// Buffers that are out: in packets, in devices' rings. Exact only while nothing moves.
    pub fn in_use(&self) -> usize {
        // SAFETY: the pool is live.
        unsafe { sys::rte_mempool_in_use_count(self.as_ptr()) as usize }
    }

    /// Buffers that are free, those in threads' caches among them. Exact only while nothing moves.
    pub fn available(&self) -> usize {
        // SAFETY: the pool is live.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) as usize }
    }

    /// Bytes of one buffer.
    pub fn data_room(&self) -> usize {
        usize::from(self.0.data_room)
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.0.raw.as_ptr()
    }
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool").field("name", &self.0.name).field("in_use", &self.in_use()).finish()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool is live until the call below.
        let out = unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) };
        if out == 0 {
            // SAFETY: this was the last handle and every buffer is back, so that nobody refers to the pool.
            unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
        } else {
            tracing::warn!(
                "pool {} goes with {out} buffers still in use: its memory is not given back",
                self.name
            );
            // The buffers outlive the pool's handles, so EAL must not end either.
            std::mem::forget(self.eal.clone());
        }
    }
}

/// What DPDK keeps with each pool of mbufs.
type PoolPrivate = sys::rte_pktmbuf_pool_private;
