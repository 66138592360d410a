//! Cuts a GSO frame into finished frames, as a NIC with TSO and USO would.
//!
//! Per frame it costs one copy of the payload and its sum; the headers are put together on the stack.

use thiserror::Error;

use super::layout::{self, IPV6, Layout, TCP, UDP};
use super::{Checksum, Gso, GsoKind, Offload, sum_of};
use crate::drop_reason::DropReason;
use crate::packet::{BufPool, PacketBuf};
use crate::wire::checksum::{Sum, udp_never_zero};

/// Headers longer than this are not cut: Ethernet, 802.1Q tags, the longest IPv4 and TCP headers, or IPv6 with a good deal of
/// extension headers.
const MAX_HEADERS: usize = 256;

/// A frame becomes at most this many: 64 KiB in payloads of 64 bytes. Without a bound a guest could have 65,000 frames
/// made by sending one.
pub const MAX_FRAMES: usize = 1024;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A frame that was given up, wholly or in part.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{} after {given} frames", reason.name())]
pub struct Unfinished {
    /// Why.
    pub reason: DropReason,
    /// Frames that were given out before; they stay sent.
    pub given: usize,
}

impl Unfinished {
    /// Nothing was given out.
    pub(super) fn before_all(reason: DropReason) -> Self {
        Self { reason, given: 0 }
    }
}

/// Gives `out` the frames that `buf` stands for, finished and in order, and returns how many. Where they are is found
/// from the frame: Ethernet, at most two 802.1Q tags, IPv4 with or without options or IPv6 with or without extension headers,
/// TCP or UDP. A frame of one segment's payload is finished where it is.
///
/// IPv4's identification counts up; TCP's FIN and PSH are on the last frame only and CWR on the first only. A UDP
/// checksum of 0 over IPv4 that was the sender's choice stays 0.
///
/// # Errors
/// [`DropReason::GsoMalformed`] when the headers contradict the state, or it would be more than [`MAX_FRAMES`].
/// A tunnel packet is such a contradiction: segment first, then encapsulate. [`DropReason::TxNoBuffer`] when the
/// pool runs dry.
pub fn segment<P: BufPool>(
    pool: &mut P,
    mut buf: P::Buf,
    mut out: impl FnMut(&mut P, P::Buf),
) -> Result<usize, Unfinished> {
    let mut cut = Cut::of(&buf).ok_or(Unfinished::before_all(DropReason::GsoMalformed))?;
    let count = cut.count();
    if count == 1 {
        let payload = sum_of(&buf, cut.headers_len(), cut.payload_of(0).1);
        if !buf.write_at(0, cut.headers_for(0, payload)) {
            return Err(Unfinished::before_all(DropReason::GsoMalformed));
        }
        buf.set_offload(Offload::default());
        out(pool, buf);
        return Ok(1);
    }
    let mut payload = Cursor::new(buf.pieces(), cut.headers_len());
    for index in 0..count {
        let no_buffer = Unfinished { reason: DropReason::TxNoBuffer, given: index };
        let (_, len) = cut.payload_of(index);
        let mut frame = pool.alloc(cut.headers_len() + len).ok_or(no_buffer)?;
        payload.fill(&mut frame, cut.headers_len());
        let sum = sum_of(&frame, cut.headers_len(), len);
        if !frame.write_at(0, cut.headers_for(index, sum)) {
            return Err(no_buffer);
        }
        frame.set_offload(Offload::default());
        out(pool, frame);
    }
    Ok(count)
}

/// Fills `to` from `at` to its end with what `from` has from `offset` on.
pub(crate) fn copy(from: &impl PacketBuf, offset: usize, to: &mut impl PacketBuf, at: usize) {
    Cursor::new(from.pieces(), offset).fill(to, at);
}

/// A place in a chain that only goes forward, so that what copies piece by piece does not begin at the first segment each time.
pub(crate) struct Cursor<'a, I: Iterator<Item = &'a [u8]>> {
    here: &'a [u8],
    behind: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Cursor<'a, I> {
    /// At `offset` bytes behind the beginning of these segments.
    pub(crate) fn new(mut segments: I, mut offset: usize) -> Self {
        let mut here: &[u8] = &[];
        for segment in segments.by_ref() {
            if offset < segment.len() {
                here = &segment[offset..];
                break;
            }
            offset -= segment.len();
        }
        Self { here, behind: segments }
    }

    /// Copies into `to` from `at` to its end, as far as there is something left, and goes on behind that.
    fn fill(&mut self, to: &mut impl PacketBuf, at: usize) {
        let mut skip = at;
        to.for_each_segment_mut(|segment| {
            let from = skip.min(segment.len());
            skip -= from;
            self.copy(&mut segment[from..]);
        });
    }

    fn copy(&mut self, mut to: &mut [u8]) {
        self.take(to.len(), |piece| {
            let (now, later) = std::mem::take(&mut to).split_at_mut(piece.len());
            now.copy_from_slice(piece);
            to = later;
        });
    }

    /// Shows the next `len` bytes, or as many as there are, and goes on behind them.
    pub(crate) fn take(&mut self, mut len: usize, mut see: impl FnMut(&'a [u8])) {
        while len > 0 {
            if self.here.is_empty() {
                match self.behind.next() {
                    Some(segment) => self.here = segment,
                    None => return,
                }
            }
            let (now, later) = self.here.split_at(self.here.len().min(len));
            see(now);
            len -= now.len();
            self.here = later;
        }
    }

    /// What the next `len` bytes sum up to; goes on behind them.
    pub(crate) fn sum(&mut self, len: usize) -> Sum {
        let mut sum = Sum::new();
        self.take(len, |piece| sum = sum.add(piece));
        sum
    }
}

/// A frame that can be cut, and how: for [`segment`], and for a driver that cuts while it sends. Offsets count from the
/// packet's first byte.
pub(crate) struct Cut {
    /// The original's headers, of a tunnel packet the inner ones. `headers_for` writes into them what differs from frame to frame.
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
    /// Where in the packet they begin.
    at: usize,
    /// Counts from where they begin.
    layout: Layout,
    gso: Gso,
    /// Bytes of payload in all.
    payload: usize,
    /// The checksum is to be 0: a UDP sender's choice.
    no_checksum: bool,
    /// Fields as they are in the original.
    ident: u16,
    seq: u32,
    flags: u8,
    /// What the IPv4 header sums up to, and the pseudo-header with the transport header: without what differs.
    l3_sum: Sum,
    l4_sum: Sum,
}

impl Cut {
    /// `None` when the headers contradict the state.
    fn of(buf: &impl PacketBuf) -> Option<Self> {
        Self::of_tunnel(buf, 0)
    }

    /// Of the frame in a tunnel packet, which begins at `at`. The outer headers are the caller's. `None` when the inner
    /// headers contradict the state.
    pub(crate) fn of_tunnel(buf: &impl PacketBuf, at: usize) -> Option<Self> {
        let offload = buf.offload();
        let gso = offload.gso.filter(|gso| gso.size > 0)?;
        let layout = layout::find_at(buf, at).filter(|layout| !layout.fragment)?;
        let (protocol, field) = match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => (TCP, 16),
            GsoKind::Udp => (UDP, 6),
        };
        let version_fits = gso.kind == GsoKind::Udp || layout.v6 == (gso.kind == GsoKind::Tcp6);
        if layout.protocol != protocol || !version_fits {
            return None;
        }
        if let Checksum::Partial { start, offset } = offload.checksum {
            // Else the state speaks of another packet, such as the one in a tunnel.
            if usize::from(start) != layout.l4 || offset != field {
                return None;
            }
        }
        let layout = layout.from(at);

        let mut headers = [0; MAX_HEADERS];
        let available = buf.read_at(at, &mut headers);
        let l4 = headers[..available].get(layout.l4..)?;
        let transport = if protocol == UDP { 8 } else { usize::from(*l4.get(12)? >> 4) * 4 };
        if (protocol == TCP && transport < 20) || transport > l4.len() {
            return None;
        }
        let len = buf.len() - at;
        let headers_len = layout.l4 + transport;
        let payload = len - headers_len;

        let word = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let length =
            if layout.v6 { usize::from(word(layout.l3 + 4)) + IPV6 } else { word(layout.l3 + 2).into() };
        if length != len - layout.l3 {
            return None;
        }
        let (mut seq, mut flags, mut no_checksum) = (0, 0, false);
        if protocol == TCP {
            seq = u32::from(word(layout.l4 + 4)) << 16 | u32::from(word(layout.l4 + 6));
            flags = headers[layout.l4 + 13];
            if flags & (SYN | RST) != 0 {
                return None;
            }
        } else {
            let partial = matches!(offload.checksum, Checksum::Partial { .. });
            no_checksum = !partial && !layout.v6 && word(layout.l4 + 6) == 0;
        }
        let ident = word(layout.l3 + 4);
        let (l3_sum, l4_sum) = (Sum::new(), Sum::new());
        let mut cut = Self {
            headers,
            headers_len,
            at,
            layout,
            gso,
            payload,
            no_checksum,
            ident,
            seq,
            flags,
            l3_sum,
            l4_sum,
        };
        cut.sum_what_stays();
        (cut.count() <= MAX_FRAMES).then_some(cut)
    }

    /// Sums up the headers once, with 0 in place of all that differs.
    fn sum_what_stays(&mut self) {
        let Layout { l3, v6, l3_end, l4, protocol, .. } = self.layout;
        let mut blank = |at: usize, len: usize| self.headers[at..at + len].fill(0);
        if protocol == TCP {
            blank(l4 + 4, 4);
            blank(l4 + 13, 1);
            blank(l4 + 16, 2);
        } else {
            blank(l4 + 4, 4);
        }
        if !v6 {
            blank(l3 + 2, 4);
            blank(l3 + 10, 2);
            self.l3_sum = Sum::new().add(&self.headers[l3..l3_end]);
        }
        let addresses = if v6 { l3 + 8..l3 + IPV6 } else { l3 + 12..l3 + 20 };
        let pseudo = Sum::new().add(&self.headers[addresses]).add_u16(protocol.into());
        self.l4_sum = pseudo.add(&self.headers[l4..self.headers_len]);
    }

    /// How many frames it becomes.
    pub(crate) fn count(&self) -> usize {
        self.payload.div_ceil(self.gso.size.into()).max(1)
    }

    /// How long the headers of each frame are.
    pub(crate) fn headers_len(&self) -> usize {
        self.headers_len
    }

    /// Where the payload of frame `index` is in the original, and how long.
    pub(crate) fn payload_of(&self, index: usize) -> (usize, usize) {
        let done = index * usize::from(self.gso.size);
        (self.at + self.headers_len + done, (self.payload - done).min(self.gso.size.into()))
    }

    /// The headers of frame `index`, finished, whose payload sums up to `payload`.
    pub(crate) fn headers_for(&mut self, index: usize, payload: Sum) -> &[u8] {
        let Layout { l3, v6, l4, protocol, .. } = self.layout;
        let last = index + 1 == self.count();
        let done = index * usize::from(self.gso.size);
        let len = (self.payload - done).min(self.gso.size.into());
        // The lengths fit: the original's did, and these are not longer.
        let l3_len = (self.headers_len - l3 + len) as u16;
        let l4_len = (self.headers_len - l4 + len) as u16;
        let headers = &mut self.headers[..self.headers_len];
        let mut put = |at: usize, value: u16| headers[at..at + 2].copy_from_slice(&value.to_be_bytes());

        if v6 {
            put(l3 + 4, l3_len - IPV6 as u16);
        } else {
            let ident = self.ident.wrapping_add(index as u16);
            put(l3 + 2, l3_len);
            put(l3 + 4, ident);
            put(l3 + 10, self.l3_sum.add_u16(l3_len).add_u16(ident).checksum());
        }
        let mut flags = self.flags;
        if !last {
            flags &= !(FIN | PSH);
        }
        if index > 0 {
            flags &= !CWR;
        }
        let mut sum = self.l4_sum.add_u16(l4_len);
        let field = if protocol == TCP {
            let seq = self.seq.wrapping_add(done as u32);
            sum = sum.add_u32(seq).add_u16(flags.into());
            put(l4 + 4, (seq >> 16) as u16);
            put(l4 + 6, seq as u16);
            l4 + 16
        } else {
            sum = sum.add_u16(l4_len);
            put(l4 + 4, l4_len);
            l4 + 6
        };
        if !self.no_checksum {
            // The transport header's length is even, so the payload's words lie as they were summed.
            let sum = sum.add_sum(payload).checksum();
            put(field, if protocol == UDP { udp_never_zero(sum) } else { sum });
        }
        if protocol == TCP {
            headers[l4 + 13] = flags;
        }
        headers
    }
}
