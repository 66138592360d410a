//! Checksum and GSO as states of a packet, and what finishes them in software.
//!
//! A frame enters with a known state (from a TAP's or guest's virtio-net header, or a NIC). Every way out either takes
//! the state as it is or gets the frame finished: its checksum filled in, its payload cut into frames.
//!
//! | file | |
//! |---|---|
//! | [`virtio`] | the state from and to a virtio-net header |
//! | [`nic`] | the state from and to what DPDK's drivers say: kinds and lengths |
//! | [`finish`] | what every way out calls: pass on, fill in or cut |
//! | [`checksum`] | fills in and checks transport checksums over chains |
//! | [`segment`] | cuts GSO frames |
//! | `merge` | the other way round: packets of a flow become one GSO frame |
//! | `on_wire` | what a frame counts as where rates are limited |
//! | [`unfilled`] | the state of what a kernel on the same machine left unfinished without a word |
//!
//! A checksum's place is data from a guest. It is checked once, in [`virtio::parse`], against the frame as it was
//! then; everything later checks only that it stays within the packet.

pub mod checksum;
pub mod finish;
mod layout;
pub(crate) mod merge;
pub mod nic;
mod on_wire;
pub mod segment;
mod sum;
#[cfg(test)]
pub(crate) mod tests;
pub mod unfilled;
pub mod virtio;

pub(crate) use on_wire::{is_too_many, wire_len};
pub(crate) use sum::sum_of;

/// What is known of, or still to be done about, the packet's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Filled in by the sender; nobody has checked it.
    #[default]
    Unverified,
    /// Filled in, and checked by the interface.
    Verified,
    /// Not filled in: the field at `start + offset` holds the pseudo-header's sum; the sum of everything from `start`
    /// to the end of the packet, folded and inverted, is to be put there. Both count from the packet's first byte
    /// (`start`) and from `start` (`offset`). Such a packet has not been on a wire, so its data is as the sender
    /// made it.
    Partial {
        /// Where the sum begins, in bytes from the start of the frame.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
    },
}

/// What kind of packet a GSO frame is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams (USO), over IPv4 or IPv6.
    Udp,
}

/// A frame that stands for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gso {
    /// Into what.
    pub kind: GsoKind,
    /// Payload bytes of each packet but the last; at least 1.
    pub size: u16,
    /// The TCP sender uses ECN: CWR belongs to the first packet only.
    pub ecn: bool,
}

/// The state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Its transport checksum.
    pub checksum: Checksum,
    /// Set if the packet stands for several.
    pub gso: Option<Gso>,
}

/// In a packed state, bits 0 and 1: which kind of [`Checksum`]; 2 and 3: which kind of [`Gso`], 0 for none; 4: ECN.
const VERIFIED: u64 = 1;
const PARTIAL: u64 = 2;
const TCP4: u64 = 1;
const TCP6: u64 = 2;
const UDP: u64 = 3;
/// And from these bits on 16 each.
const START: u32 = 16;
const OFFSET: u32 = 32;
const SIZE: u32 = 48;

impl Offload {
    /// Nothing is left to be done.
    #[inline]
    pub fn is_finished(self) -> bool {
        self.gso.is_none() && !matches!(self.checksum, Checksum::Partial { .. })
    }

    /// As a number, for a field of the mbuf. The default is 0. A [`Gso`] of size 0, which there must not be, is lost.
    pub fn pack(self) -> u64 {
        let checksum = match self.checksum {
            Checksum::Unverified => 0,
            Checksum::Verified => VERIFIED,
            Checksum::Partial { start, offset } => {
                PARTIAL | u64::from(start) << START | u64::from(offset) << OFFSET
            }
        };
        let gso = self.gso.map_or(0, |gso| {
            let kind = match gso.kind {
                GsoKind::Tcp4 => TCP4,
                GsoKind::Tcp6 => TCP6,
                GsoKind::Udp => UDP,
            };
            kind << 2 | u64::from(gso.ecn) << 4 | u64::from(gso.size) << SIZE
        });
        checksum | gso
    }

    /// The state that [`Self::pack`] made a number of. What is no such number gives the default of the part that is wrong.
    pub fn unpack(packed: u64) -> Self {
        let word = |at: u32| (packed >> at) as u16;
        let checksum = match packed & 3 {
            VERIFIED => Checksum::Verified,
            PARTIAL => Checksum::Partial { start: word(START), offset: word(OFFSET) },
            _ => Checksum::Unverified,
        };
        let kind = match packed >> 2 & 3 {
            TCP4 => Some(GsoKind::Tcp4),
            TCP6 => Some(GsoKind::Tcp6),
            UDP => Some(GsoKind::Udp),
            _ => None,
        };
        let gso = kind.map(|kind| Gso { kind, size: word(SIZE), ecn: packed >> 4 & 1 != 0 });
        Self { checksum, gso: gso.filter(|gso| gso.size > 0) }
    }

    /// The state after the frame grew by `delta` bytes in front, or shrank where `delta` is negative: the place of
    /// a partial checksum moves. `Verified` becomes `Unverified`, because it spoke of the outermost packet, which is
    /// another now. `None` when the place would be cut off, or is beyond what the state holds: it belonged to what
    /// was removed.
    pub fn shift(self, delta: isize) -> Option<Self> {
        let checksum = match self.checksum {
            Checksum::Partial { start, offset } => {
                let start = isize::try_from(start).ok()?.checked_add(delta)?;
                Checksum::Partial { start: u16::try_from(start).ok()?, offset }
            }
            Checksum::Verified if delta != 0 => Checksum::Unverified,
            other => other,
        };
        Some(Self { checksum, gso: self.gso })
    }
}
