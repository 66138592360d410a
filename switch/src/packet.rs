//! The one buffer that the engine works on, as a trait: DPDK's mbuf in the daemon (`drivers`), [`HeapBuf`] in
//! tests, fuzzing and benches.
//!
//! A packet is a chain of segments. Its headers are contiguous in the first one (`head`), pulled up once at rx
//! where they are not; the rest is payload that the switch carries and does not look into. Beside its bytes a
//! packet carries its [`Offload`] state.

use crate::offload::Offload;

/// Free bytes in front of a fresh packet: an outer Ethernet, IPv6, UDP and VXLAN header fit twice.
pub const HEADROOM: usize = 128;

/// The longest packet that the switch carries: a 64 KiB GSO frame with Ethernet, 802.1Q and tunnel headers.
pub const MAX_PACKET: usize = 65535 + 14 + 4 + 70;

/// Segments that a packet has at most when others were appended to it.
pub const MAX_CHAIN: usize = 64;

/// One packet, owned.
pub trait PacketBuf: Sized + Send + 'static {
    /// The bytes of the first segment.
    fn head(&self) -> &[u8];
    /// The bytes of the first segment.
    fn head_mut(&mut self) -> &mut [u8];
    /// Bytes in all segments.
    fn len(&self) -> usize;
    /// True without a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Grows the first segment by `count` bytes in front, whose contents are undefined, and returns the whole
    /// first segment. `None`, with nothing changed, without the headroom.
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]>;
    /// Cuts `count` bytes off the front of the first segment. False, with nothing changed, when it has fewer.
    fn trim_front(&mut self, count: usize) -> bool;
    /// Cuts the packet to `len` bytes over all segments; nothing happens when it is shorter.
    fn truncate(&mut self, len: usize);
    /// Moves bytes so that the first segment has at least `count`. False, with nothing lost, when the packet or
    /// the first segment's room is too short.
    fn pull_up(&mut self, count: usize) -> bool;
    /// How many segments there are, those without a byte as well.
    fn segments(&self) -> usize;
    /// Puts the bytes of `other` behind its own, by chaining; the [`Offload`] stays what it was. `other` comes back, with
    /// nothing changed, when that would be more than [`MAX_CHAIN`].
    ///
    /// # Errors
    /// `other`.
    fn append(&mut self, other: Self) -> Result<(), Self>;
    /// Shows every segment in order.
    fn for_each_segment(&self, see: impl FnMut(&[u8]));
    /// The same, to be written to.
    fn for_each_segment_mut(&mut self, see: impl FnMut(&mut [u8]));
    /// The bytes of every segment in order.
    fn pieces(&self) -> impl Iterator<Item = &[u8]>;
    /// Copies from `offset` into `to` as far as the packet goes; how many bytes that was.
    fn read_at(&self, offset: usize, to: &mut [u8]) -> usize;
    /// Copies `from` over the bytes at `offset`. False, with nothing changed, when it would end past the packet.
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool;
    /// What is still to be done about checksums and size.
    fn offload(&self) -> Offload;
    /// Sets what [`Self::offload`] says.
    fn set_offload(&mut self, offload: Offload);
    /// Nothing is to be done about it, and nothing is known of it: [`Self::offload`] is the default.
    #[inline]
    fn is_plain(&self) -> bool {
        self.offload() == Offload::default()
    }
}

/// Where fresh packets come from.
pub trait BufPool {
    /// What it gives.
    type Buf: PacketBuf;
    /// A packet of `len` undefined bytes with [`HEADROOM`] in front, as a chain where one segment is too small.
    /// `None` when the pool is empty or `len` is over [`MAX_PACKET`].
    fn alloc(&mut self, len: usize) -> Option<Self::Buf>;
}

/// The in-memory twin of the mbuf: segments on the heap.
#[derive(Debug, Clone)]
pub struct HeapBuf {
    /// Each a vector and where its bytes begin in it.
    segments: Vec<(Vec<u8>, usize)>,
    offload: Offload,
}

impl HeapBuf {
    /// One segment with `bytes` and the usual headroom.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_segments(&[bytes])
    }

    /// A chain of these segments.
    pub fn from_segments(segments: &[&[u8]]) -> Self {
        let segments = segments
            .iter()
            .map(|bytes| {
                let mut room = vec![0; HEADROOM];
                room.extend_from_slice(bytes);
                (room, HEADROOM)
            })
            .collect();
        Self { segments, offload: Offload::default() }
    }

    /// The bytes of all segments.
    pub fn to_vec(&self) -> Vec<u8> {
        self.segments.iter().flat_map(|(room, start)| room[*start..].iter().copied()).collect()
    }

    fn locate(&self, mut offset: usize) -> Option<(usize, usize)> {
        for (index, (room, start)) in self.segments.iter().enumerate() {
            let len = room.len() - start;
            if offset < len {
                return Some((index, start + offset));
            }
            offset -= len;
        }
        None
    }
}

impl PacketBuf for HeapBuf {
    fn head(&self) -> &[u8] {
        let (room, start) = &self.segments[0];
        &room[*start..]
    }
    fn head_mut(&mut self) -> &mut [u8] {
        let (room, start) = &mut self.segments[0];
        &mut room[*start..]
    }
    fn len(&self) -> usize {
        self.segments.iter().map(|(room, start)| room.len() - start).sum()
    }
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let (room, start) = &mut self.segments[0];
        *start = start.checked_sub(count)?;
        Some(&mut room[*start..])
    }
    fn trim_front(&mut self, count: usize) -> bool {
        let (room, start) = &mut self.segments[0];
        let fits = room.len() - *start >= count;
        if fits {
            *start += count;
        }
        fits
    }
    fn truncate(&mut self, mut len: usize) {
        let mut keep = 1;
        for (index, (room, start)) in self.segments.iter_mut().enumerate() {
            let here = (room.len() - *start).min(len);
            room.truncate(*start + here);
            len -= here;
            if here > 0 {
                keep = index + 1;
            }
        }
        self.segments.truncate(keep);
    }
    fn pull_up(&mut self, count: usize) -> bool {
        if self.len() < count {
            return false;
        }
        while self.head().len() < count {
            let missing = count - self.head().len();
            let (room, start) = &mut self.segments[1];
            let take = missing.min(room.len() - *start);
            let moved = room[*start..*start + take].to_vec();
            *start += take;
            self.segments[0].0.extend_from_slice(&moved);
            if self.segments[1].0.len() == self.segments[1].1 {
                self.segments.remove(1);
            }
        }
        true
    }
    fn segments(&self) -> usize {
        self.segments.len()
    }
    fn append(&mut self, mut other: Self) -> Result<(), Self> {
        if self.segments.len() + other.segments.len() > MAX_CHAIN {
            return Err(other);
        }
        self.segments.append(&mut other.segments);
        Ok(())
    }
    fn for_each_segment(&self, mut see: impl FnMut(&[u8])) {
        for (room, start) in &self.segments {
            see(&room[*start..]);
        }
    }
    fn for_each_segment_mut(&mut self, mut see: impl FnMut(&mut [u8])) {
        for (room, start) in &mut self.segments {
            see(&mut room[*start..]);
        }
    }
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|(room, start)| &room[*start..])
    }
    fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let Some((index, at)) = self.locate(offset + done) else { break };
            let from = &self.segments[index].0[at..];
            let take = from.len().min(to.len() - done);
            to[done..done + take].copy_from_slice(&from[..take]);
            done += take;
        }
        done
    }
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool {
        if offset.checked_add(from.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        let mut done = 0;
        while let Some((index, at)) = self.locate(offset + done).filter(|_| done < from.len()) {
            let to = &mut self.segments[index].0[at..];
            let take = to.len().min(from.len() - done);
            to[..take].copy_from_slice(&from[done..done + take]);
            done += take;
        }
        true
    }
    fn offload(&self) -> Offload {
        self.offload
    }
    fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }
}

/// The in-memory twin of the mempool.
#[derive(Debug, Clone)]
pub struct HeapPool {
    /// Bytes in one segment before the chain gets another.
    pub segment: usize,
    /// How many packets it still gives; a test of an empty pool sets it.
    pub left: usize,
}

impl Default for HeapPool {
    fn default() -> Self {
        Self { segment: 2048, left: usize::MAX }
    }
}

impl BufPool for HeapPool {
    type Buf = HeapBuf;
    fn alloc(&mut self, len: usize) -> Option<HeapBuf> {
        if len > MAX_PACKET {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let bytes = vec![0; len];
        let mut segments: Vec<&[u8]> = bytes.chunks(self.segment).collect();
        if segments.is_empty() {
            segments.push(&[]);
        }
        Some(HeapBuf::from_segments(&segments))
    }
}
