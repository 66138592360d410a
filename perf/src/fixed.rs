//! A platform without allocations, locks and devices: a buffer is taken once and then goes round, from the source into
//! the switch, out to the sink, and back to the source of the same thread; dropped, it goes back at once.
//!
//! What it costs beside the switch: the source copies each frame into its buffer, as a NIC would write it.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use weft_switch::memory::NoWake;
use weft_switch::offload::Offload;
use weft_switch::packet::{BufPool, HEADROOM, MAX_CHAIN, PacketBuf};
use weft_switch::port::{BURST, Burst, RxLoss, RxQueue, TxCaps, TxQueue};
use weft_switch::wire::checksum::Sum;
use weft_switch::worker::Platform;
use weft_sync::prefetch::prefetch_bytes;

/// Bytes of a buffer with its headroom: an mbuf's usual size.
const ROOM: usize = 2048;
/// Buffers that go round on a thread: a few bursts, so that they stay in the caches as a NIC's do.
const BUFFERS: usize = 256;

/// The memory of one buffer.
#[derive(Debug)]
struct Slot {
    start: usize,
    end: usize,
    offload: Offload,
    behind: Option<Box<Slot>>,
    room: [u8; ROOM],
}

impl Slot {
    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    fn append(&mut self, other: Box<Self>) {
        match &mut self.behind {
            Some(behind) => behind.append(other),
            end => *end = Some(other),
        }
    }
}

/// A packet in memory that is used again: of one segment, until others are appended. It has a slot as long as it lives.
#[derive(Debug)]
pub struct FixedBuf(Option<Box<Slot>>);

/// Where a buffer ends, its memory is used again.
impl Drop for FixedBuf {
    #[inline]
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut slot) = next {
            next = slot.behind.take();
            // A thread that ends has no list any more: then the memory goes.
            let _ = FREE.try_with(|free| free.borrow_mut().push(Self(Some(slot))));
        }
    }
}

impl FixedBuf {
    /// Takes memory: before the measurement, not in it.
    fn new() -> Self {
        let (start, end) = (HEADROOM, HEADROOM);
        Self(Some(Box::new(Slot { start, end, offload: Offload::default(), behind: None, room: [0; ROOM] })))
    }

    /// Makes it a fresh packet of `len` undefined bytes. False when it has not the room.
    fn renew(&mut self, len: usize) -> bool {
        let fits = len <= ROOM - HEADROOM;
        if let Some(slot) = self.0.as_deref_mut().filter(|_| fits) {
            (slot.start, slot.end, slot.offload) = (HEADROOM, HEADROOM + len, Offload::default());
        }
        fits
    }

    #[inline(always)]
    fn slot(&self) -> &Slot {
        match &self.0 {
            Some(slot) => slot,
            None => unreachable!("only what ends gives its slot away"),
        }
    }

    #[inline(always)]
    fn slot_mut(&mut self) -> &mut Slot {
        match &mut self.0 {
            Some(slot) => slot,
            None => unreachable!("only what ends gives its slot away"),
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::successors(Some(self.slot()), |slot| slot.behind.as_deref())
    }

    /// Each segment by itself.
    fn unchain(mut self) -> impl Iterator<Item = Self> {
        let mut next = self.0.take();
        std::iter::from_fn(move || {
            let mut slot = next.take()?;
            next = slot.behind.take();
            Some(Self(Some(slot)))
        })
    }
}

impl PacketBuf for FixedBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        self.slot().bytes()
    }
    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        let slot = self.slot_mut();
        &mut slot.room[slot.start..slot.end]
    }
    #[inline]
    fn len(&self) -> usize {
        self.slots().map(|slot| slot.end - slot.start).sum()
    }
    #[inline]
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let slot = self.slot_mut();
        slot.start = slot.start.checked_sub(count)?;
        Some(self.head_mut())
    }
    #[inline]
    fn trim_front(&mut self, count: usize) -> bool {
        let slot = self.slot_mut();
        let fits = count <= slot.end - slot.start;
        if fits {
            slot.start += count;
        }
        fits
    }
    /// Segments that are cut off whole stay, empty: who gives buffers back must not lose them.
    #[inline]
    fn truncate(&mut self, mut len: usize) {
        let mut next = Some(self.slot_mut());
        while let Some(slot) = next {
            let kept = len.min(slot.end - slot.start);
            slot.end = slot.start + kept;
            len -= kept;
            next = slot.behind.as_deref_mut();
        }
    }
    #[inline]
    fn pull_up(&mut self, count: usize) -> bool {
        count <= self.head().len()
    }
    fn segments(&self) -> usize {
        self.slots().count()
    }
    fn append(&mut self, mut other: Self) -> Result<(), Self> {
        if self.segments() + other.segments() > MAX_CHAIN {
            return Err(other);
        }
        if let Some(slot) = other.0.take() {
            self.slot_mut().append(slot);
        }
        Ok(())
    }
    fn for_each_segment(&self, mut see: impl FnMut(&[u8])) {
        self.pieces().for_each(&mut see);
    }
    fn for_each_segment_mut(&mut self, mut see: impl FnMut(&mut [u8])) {
        let mut next = Some(self.slot_mut());
        while let Some(slot) = next {
            see(&mut slot.room[slot.start..slot.end]);
            next = slot.behind.as_deref_mut();
        }
    }
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.slots().map(Slot::bytes)
    }
    fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for bytes in self.pieces() {
            let at = skip.min(bytes.len());
            skip -= at;
            let bytes = &bytes[at..];
            let count = bytes.len().min(to.len() - done);
            to[done..done + count].copy_from_slice(&bytes[..count]);
            done += count;
        }
        done
    }
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool {
        let end = offset.saturating_add(from.len());
        if end > self.len() {
            return false;
        }
        let (mut skip, mut left) = (offset, from);
        self.for_each_segment_mut(|bytes| {
            let at = skip.min(bytes.len());
            skip -= at;
            let (now, later) = left.split_at(left.len().min(bytes.len() - at));
            bytes[at..at + now.len()].copy_from_slice(now);
            left = later;
        });
        true
    }
    #[inline]
    fn offload(&self) -> Offload {
        self.slot().offload
    }
    #[inline]
    fn set_offload(&mut self, offload: Offload) {
        self.slot_mut().offload = offload;
    }
}

/// Gives buffers that it took memory for when it was made. They do not come back: where they end, the thread has them.
#[derive(Debug)]
pub struct FixedPool(Vec<FixedBuf>);

impl FixedPool {
    /// A pool of so many buffers.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| FixedBuf::new()).collect())
    }
}

impl BufPool for FixedPool {
    type Buf = FixedBuf;
    fn alloc(&mut self, len: usize) -> Option<FixedBuf> {
        let mut buf = self.0.pop()?;
        buf.renew(len).then_some(buf)
    }
}

/// Frames in one piece of memory, each from the beginning of a cache line, as a NIC's buffers are.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where each begins, in [`LINE`]s, and its bytes.
    places: Vec<(u32, u16)>,
}

const LINE: usize = 64;
/// Lines of a frame that hold all headers, a tunnel's included.
const HEADER_LINES: usize = 2;

impl FromIterator<Vec<u8>> for Frames {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(frames: I) -> Self {
        let mut all = Self::default();
        for frame in frames {
            all.places.push(((all.bytes.len() / LINE) as u32, frame.len() as u16));
            all.bytes.extend(frame);
            all.bytes.resize(all.bytes.len().next_multiple_of(LINE), 0);
        }
        all
    }
}

impl Frames {
    /// How many.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The frame after that of this number, in a circle.
    #[inline]
    fn after(&self, index: usize) -> usize {
        if index + 1 == self.len() { 0 } else { index + 1 }
    }

    /// Has the frame fetched that comes a burst later: as from a NIC, it is near when it is read, however many frames there are.
    #[inline]
    fn prefetch_after(&self, index: usize) {
        let later = index + BURST;
        let frame = self.get(if later < self.len() { later } else { index });
        frame.chunks(LINE).take(HEADER_LINES).for_each(prefetch_bytes);
    }

    #[inline]
    fn get(&self, index: usize) -> &[u8] {
        let (line, len) = self.places[index];
        let at = line as usize * LINE;
        &self.bytes[at..at + usize::from(len)]
    }
}

thread_local! {
    /// The thread's buffers that nobody uses: what was used last comes first, as in a pool's cache.
    static FREE: RefCell<Vec<FixedBuf>> = const { RefCell::new(Vec::new()) };
}

/// Has the calling thread own [`BUFFERS`], and room to give back more than it took.
#[cold]
fn fill(free: &mut Vec<FixedBuf>) {
    free.reserve(2 * BUFFERS);
    while free.len() < BUFFERS {
        free.push(FixedBuf::new());
    }
}

/// Brings full bursts of the same frames, one after the other in a circle.
#[derive(Debug)]
pub struct Source {
    frames: Arc<Frames>,
    next: usize,
    fresh: Option<Fresh>,
    state: Offload,
}

/// Makes each frame another one than all before.
#[derive(Debug)]
struct Fresh {
    what: New,
    number: u32,
}

/// What is new about each frame.
#[derive(Debug, Clone, Copy)]
pub enum New {
    /// The flow: the ports in the UDP header, which is at this place.
    Ports(usize),
    /// The IPv4 destination, in 10.0.0.0/9, where a scene has nobody. The frames are plain.
    Destination,
    /// The source's MAC address. It is none of a scene's.
    Station,
}

/// Takes everything and gives the buffers back.
#[derive(Debug)]
pub struct Sink {
    caps: TxCaps,
    sent: u64,
}

impl Source {
    /// A source of these frames, of which there is at least one, each with room for a tunnel's headers in a buffer.
    pub fn new(frames: Arc<Frames>) -> Self {
        FREE.with_borrow_mut(fill);
        Self { frames, next: 0, fresh: None, state: Offload::default() }
    }

    /// The same frames, but each time with something new: 2^32 of it, or for destinations 2^23, come before one comes again.
    pub fn with_new(self, what: New) -> Self {
        Self { fresh: Some(Fresh { what, number: 0 }), ..self }
    }

    /// The same frames in this state.
    pub fn in_state(self, state: Offload) -> Self {
        Self { state, ..self }
    }
}

impl Fresh {
    #[inline]
    fn mark(&mut self, frame: &mut [u8]) {
        // An odd step: every number once, and neighbours differ in all parts.
        self.number = self.number.wrapping_add(0x9e37_79b1);
        let number = self.number.to_be_bytes();
        match self.what {
            New::Ports(at) => {
                if let Some(udp) = frame.get_mut(at..at + 8) {
                    udp[0..4].copy_from_slice(&number);
                    udp[6..8].fill(0);
                }
            }
            New::Destination => {
                if let Some(ip) = frame.get_mut(14..34) {
                    ip[10..12].fill(0);
                    ip[16..20].copy_from_slice(&(10 << 24 | self.number >> 9).to_be_bytes());
                    let sum = Sum::new().add(ip).checksum();
                    ip[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            New::Station => {
                if let Some(source) = frame.get_mut(6..12) {
                    source[..2].copy_from_slice(&[2, 0xee]);
                    source[2..].copy_from_slice(&number);
                }
            }
        }
    }
}

impl RxQueue<FixedPool> for Source {
    #[inline]
    fn rx(&mut self, _: &mut FixedPool, burst: &mut Burst<FixedBuf>) -> RxLoss {
        let Self { frames, next, fresh, state } = self;
        FREE.with_borrow_mut(|free| {
            let room = burst.remaining_capacity();
            if free.len() < room {
                fill(free);
            }
            for _ in 0..room {
                let Some(mut buf) = free.pop() else { break };
                let frame = frames.get(*next);
                frames.prefetch_after(*next);
                *next = frames.after(*next);
                if buf.renew(frame.len()) {
                    buf.head_mut().copy_from_slice(frame);
                }
                if let Some(fresh) = fresh {
                    fresh.mark(buf.head_mut());
                }
                if *state != Offload::default() {
                    buf.set_offload(*state);
                }
                burst.push(buf);
            }
        });
        RxLoss::default()
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Sink {
    /// A sink that takes `caps` unfinished.
    pub fn new(caps: TxCaps) -> Self {
        Self { caps, sent: 0 }
    }

    /// Buffers that have reached it: frames, or the segments of merged ones.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl TxQueue<FixedPool> for Sink {
    #[inline]
    fn caps(&self) -> TxCaps {
        self.caps
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<FixedBuf>) {
        FREE.with_borrow_mut(|free| {
            let before = free.len();
            for buf in burst.drain(..) {
                match buf.slot().behind {
                    None => free.push(buf),
                    Some(_) => free.extend(buf.unchain()),
                }
            }
            self.sent += (free.len() - before) as u64;
        });
    }
}

/// The platform.
#[derive(Debug)]
pub enum Fixed {}

impl Platform for Fixed {
    type Pool = FixedPool;
    type Rx = Source;
    type Tx = Sink;
    type Waker = NoWake;
}
