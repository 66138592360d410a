//! Packet buffers: small ones for ordinary frames, large ones for what follows the first two thousand bytes of others.

use weft_ffi::dpdk::{DATA_ROOM, HEADROOM, LARGE_ROOM, Mbuf, Mempool};

use crate::packet::{BufPool, MAX_PACKET};

/// Bytes of a small buffer behind the headroom.
pub(super) const SMALL: usize = (DATA_ROOM - HEADROOM) as usize;

const _: () = assert!(MAX_PACKET <= SMALL + LARGE_ROOM as usize, "two buffers hold the longest packet");

/// Packets are mbufs: a small one, and a large one behind it where that is not enough. When the large ones are all out, a chain of
/// small ones does as well, at more cost.
///
/// A worker has one of its own, with the room that it reads the next frame of unknown length into: whichever part of that the
/// frame does not need stays for the frame after it, on whatever port.
#[derive(Debug)]
pub struct NativePool {
    // Given back before the pools go.
    spare: Room,
    small: Mempool,
    large: Mempool,
}

/// Room for a frame whose length is not known yet.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) head: Option<Mbuf>,
    pub(super) tail: Option<Mbuf>,
}

impl NativePool {
    /// Of these two pools, whose buffers have [`DATA_ROOM`] and [`LARGE_ROOM`].
    pub fn new(small: Mempool, large: Mempool) -> Self {
        Self { spare: Room::default(), small, large }
    }

    /// The small buffers: for devices, which make chains of them.
    pub fn small(&self) -> &Mempool {
        &self.small
    }

    /// A buffer of [`SMALL`] bytes and at least `tail` bytes more that go behind it, from the spare ones where there are some.
    #[inline]
    pub(super) fn room(&mut self, tail: usize) -> Option<(Mbuf, Mbuf)> {
        let Room { head, tail: behind } = std::mem::take(&mut self.spare);
        match (head.or_else(|| self.small.alloc(SMALL)), behind.or_else(|| self.behind(tail))) {
            (Some(head), Some(tail)) => Some((head, tail)),
            (head, tail) => {
                self.spare = Room { head, tail };
                None
            }
        }
    }

    /// Keeps what the last frame did not need, which is as [`Self::room`] gave it.
    #[inline]
    pub(super) fn keep(&mut self, spare: Room) {
        self.spare = spare;
    }

    /// What goes behind a small buffer.
    fn behind(&self, len: usize) -> Option<Mbuf> {
        self.large.alloc_behind(len).or_else(|| self.small.alloc(len))
    }
}

impl BufPool for NativePool {
    type Buf = Mbuf;
    #[inline]
    fn alloc(&mut self, len: usize) -> Option<Mbuf> {
        if len <= SMALL {
            return self.small.alloc(len);
        }
        if len > MAX_PACKET {
            return None;
        }
        let mut packet = self.small.alloc(SMALL)?;
        packet.append(self.behind(len - SMALL)?).ok()?;
        Some(packet)
    }
}
