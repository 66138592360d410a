//! A platform without allocations, locks and devices: a buffer is taken once and then goes round, from the source into
//! the switch, out to the sink, and back to the source through a ring.
//!
//! What it costs beside the switch: the source copies each frame into its buffer, as a NIC would write it.

use std::os::fd::BorrowedFd;

use weft_switch::memory::NoWake;
use weft_switch::offload::Offload;
use weft_switch::packet::{BufPool, HEADROOM, PacketBuf};
use weft_switch::port::{Burst, RxLoss, RxQueue, TxCaps, TxQueue};
use weft_switch::worker::Platform;
use weft_sync::ring::{Consumer, Producer, ring};

/// Bytes of a buffer with its headroom: an mbuf's usual size.
const ROOM: usize = 2048;
/// Buffers that go round between a sink and its source: a few bursts, so that they stay in the caches as a NIC's do.
const BUFFERS: usize = 256;

/// The memory of one buffer.
#[derive(Debug)]
struct Slot {
    start: usize,
    end: usize,
    offload: Offload,
    room: [u8; ROOM],
}

/// A packet of one segment in memory that is used again.
#[derive(Debug)]
pub struct FixedBuf(Box<Slot>);

impl FixedBuf {
    /// Takes memory: before the measurement, not in it.
    fn new() -> Self {
        Self(Box::new(Slot { start: HEADROOM, end: HEADROOM, offload: Offload::default(), room: [0; ROOM] }))
    }

    /// Makes it a fresh packet of `len` undefined bytes. False when it has not the room.
    fn renew(&mut self, len: usize) -> bool {
        let fits = len <= ROOM - HEADROOM;
        if fits {
            (self.0.start, self.0.end, self.0.offload) = (HEADROOM, HEADROOM + len, Offload::default());
        }
        fits
    }
}

impl PacketBuf for FixedBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        &self.0.room[self.0.start..self.0.end]
    }
    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.0.room[self.0.start..self.0.end]
    }
    #[inline]
    fn len(&self) -> usize {
        self.0.end - self.0.start
    }
    #[inline]
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        self.0.start = self.0.start.checked_sub(count)?;
        Some(self.head_mut())
    }
    #[inline]
    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.len();
        if fits {
            self.0.start += count;
        }
        fits
    }
    #[inline]
    fn truncate(&mut self, len: usize) {
        self.0.end = self.0.end.min(self.0.start + len);
    }
    #[inline]
    fn pull_up(&mut self, count: usize) -> bool {
        count <= self.len()
    }
    fn segments(&self) -> usize {
        1
    }
    /// As far as the one room goes.
    fn append(&mut self, other: Self) -> Result<(), Self> {
        let end = self.0.end + other.len();
        let Some(to) = self.0.room.get_mut(self.0.end..end) else { return Err(other) };
        to.copy_from_slice(other.head());
        self.0.end = end;
        Ok(())
    }
    fn for_each_segment(&self, mut see: impl FnMut(&[u8])) {
        see(self.head());
    }
    fn for_each_segment_mut(&mut self, mut see: impl FnMut(&mut [u8])) {
        see(self.head_mut());
    }
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.head())
    }
    fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let from = self.head().get(offset..).unwrap_or_default();
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        count
    }
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool {
        let end = offset.saturating_add(from.len());
        self.head_mut().get_mut(offset..end).map(|to| to.copy_from_slice(from)).is_some()
    }
    #[inline]
    fn offload(&self) -> Offload {
        self.0.offload
    }
    #[inline]
    fn set_offload(&mut self, offload: Offload) {
        self.0.offload = offload;
    }
}

/// Gives buffers that it took memory for when it was made. They do not come back.
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

/// Brings full bursts of the same frames, one after the other in a circle, as long as it is switched on.
#[derive(Debug)]
pub struct Source {
    frames: Vec<Vec<u8>>,
    next: usize,
    back: Consumer<FixedBuf>,
}

/// Takes everything, finished, and gives the buffers back to the source.
#[derive(Debug)]
pub struct Sink {
    back: Producer<FixedBuf>,
    sent: u64,
}

/// A source of these frames (at least one, each with room for a tunnel's headers in a buffer) and the sink that
/// everything must reach for its buffers to be used again.
pub fn circle(frames: Vec<Vec<u8>>) -> (Source, Sink) {
    let (mut to, back) = ring(BUFFERS);
    to.push_from(&mut std::iter::repeat_with(FixedBuf::new));
    (Source { frames, next: 0, back }, Sink { back: to, sent: 0 })
}

impl RxQueue<FixedPool> for Source {
    #[inline]
    fn rx(&mut self, _: &mut FixedPool, burst: &mut Burst<FixedBuf>) -> RxLoss {
        let Self { frames, next, back } = self;
        back.pop_into(burst.capacity() - burst.len(), |mut buf| {
            let frame = &frames[*next];
            *next = if *next + 1 == frames.len() { 0 } else { *next + 1 };
            if buf.renew(frame.len()) {
                buf.head_mut().copy_from_slice(frame);
            }
            burst.push(buf);
        });
        RxLoss::default()
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl TxQueue<FixedPool> for Sink {
    #[inline]
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<FixedBuf>) {
        self.sent += self.back.push_from(&mut burst.drain(..)) as u64;
    }
}

impl Sink {
    /// Frames that have reached it.
    pub fn sent(&self) -> u64 {
        self.sent
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
