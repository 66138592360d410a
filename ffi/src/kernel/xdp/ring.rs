//! A ring that is shared with the kernel: one side writes entries, the other reads them, each with a counter of its own that runs
//! on without end.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// `XDP_RING_NEED_WAKEUP` of linux/if_xdp.h.
const NEED_WAKEUP: u32 = 1;

/// Memory that is mapped, for as long as this lives.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; what is done with its bytes is up to those who hold it.
unsafe impl Send for Mapping {}
// SAFETY: it only tells where it is.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory of our own.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn of_socket(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::new(len, libc::MAP_SHARED, fd.as_raw_fd(), offset)
    }

    fn new(len: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // Populated now, so that the first burst meets no page faults.
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), len, access, flags | libc::MAP_POPULATE, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, len })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of a `T` at `offset`, if all of it is inside.
    fn place<T>(&self, offset: u64, count: usize) -> io::Result<NonNull<T>> {
        let offset = usize::try_from(offset).ok();
        let end = offset.and_then(|offset| offset.checked_add(count.checked_mul(size_of::<T>())?));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.len && offset % align_of::<T>() == 0 => {
                // SAFETY: within the mapping, as was just checked.
                Ok(unsafe { self.start.add(offset) }.cast())
            }
            _ => Err(io::Error::other("the kernel describes a ring outside of its memory")),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; whoever points into it holds it.
        let _unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What goes through a ring: plain numbers.
pub(super) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for libc::xdp_desc {}

/// What both sides' rings are made of.
#[derive(Debug)]
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Mapping,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers lead into the mapping that is held beside them, and only this ring and the kernel use it.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    fn map(
        fd: BorrowedFd<'_>,
        at: libc::off_t,
        places: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let entries = size as usize * size_of::<T>();
        let len = usize::try_from(places.desc).ok().and_then(|before| before.checked_add(entries));
        let len = len.ok_or_else(|| io::Error::other("the kernel describes a ring without end"))?;
        let memory = Mapping::of_socket(fd, len, at)?;
        Ok(Self {
            producer: memory.place(places.producer, 1)?,
            consumer: memory.place(places.consumer, 1)?,
            flags: memory.place(places.flags, 1)?,
            entries: memory.place(places.desc, size as usize)?,
            size,
            _memory: memory,
            _entries: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping and aligned (`place`); the kernel uses it atomically too.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn entry(&self, count: u32) -> NonNull<T> {
        // SAFETY: the size is a power of two, so the place is below it and within the mapping.
        unsafe { self.entries.add((count & (self.size - 1)) as usize) }
    }
}

/// A ring that we write and the kernel reads.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Shared<T>,
    /// Entries written, among them some that the kernel has not been told of.
    written: u32,
    /// Entries that the kernel had read when we last looked.
    read: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps the ring of `size` entries (a power of two) that the socket has at `at`.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        at: libc::off_t,
        places: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Shared::map(fd, at, places, size)?, written: 0, read: 0 })
    }

    /// True with room for so many entries.
    #[inline]
    pub(super) fn has_room(&mut self, count: u32) -> bool {
        if self.ring.size - self.written.wrapping_sub(self.read) >= count {
            return true;
        }
        self.read = self.ring.consumer().load(Ordering::Acquire);
        self.ring.size.saturating_sub(self.written.wrapping_sub(self.read)) >= count
    }

    /// Writes an entry; false without room. The kernel sees it after [`Self::submit`].
    #[inline]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: the place is one that the kernel has read, which the acquiring load above has made sure of, and it does
        // not look there again before the counter below says so.
        unsafe { self.ring.entry(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Tells the kernel of what was written.
    #[inline]
    pub(super) fn submit(&self) {
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// True while the kernel has not read all that was written.
    #[inline]
    pub(super) fn is_behind(&self) -> bool {
        self.ring.consumer().load(Ordering::Acquire) != self.written
    }

    /// True when the kernel sleeps and wants a call.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel writes and we read.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Shared<T>,
    /// Entries read, among them some whose places the kernel has not been given back.
    read: u32,
    /// Entries that the kernel had written when we last looked.
    written: u32,
}

impl<T: Entry> Consumer<T> {
    /// As [`Producer::map`].
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        at: libc::off_t,
        places: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Shared::map(fd, at, places, size)?, read: 0, written: 0 })
    }

    /// Reads the next entry. Its place is the kernel's again after [`Self::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.read == self.written {
            self.written = self.ring.producer().load(Ordering::Acquire);
            if self.read == self.written {
                return None;
            }
        }
        // SAFETY: the kernel has written it, which the acquiring load has made visible, and leaves it alone until `release`.
        // Entries are plain numbers, of which every bit pattern is one.
        let entry = unsafe { self.ring.entry(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was read back.
    #[inline]
    pub(super) fn release(&self) {
        self.ring.consumer().store(self.read, Ordering::Release);
    }
}
