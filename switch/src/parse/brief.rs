//! What the stages behind classify need of a frame that was parsed, in a few numbers: a burst of them stays in the first-level
//! cache beside the headers. Who needs more reads the frame again, since that is no usual case.

use super::{L3, Outer, Parsed, parse};
use crate::flow_hash;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// It could not be read: nothing else that a [`Brief`] says holds.
    Unread,
    /// An IPv4 packet.
    V4,
    /// An IPv6 packet.
    V6,
    /// Anything else.
    Other,
}

/// The main points of a [`Parsed`]. Offsets are from the start of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// Where the (inner) Ethernet header begins: 0 for frames that are no tunnel packets.
    pub l2: u16,
    /// Where the IP header begins.
    pub l3: u16,
    /// Where the transport header begins; 0 without an IP packet.
    pub l4: u16,
    /// What it carries.
    pub carries: Carries,
    /// The ECN field of the IP packet.
    pub ecn: u8,
    /// That of the tunnel packet, where it is one.
    pub outer_ecn: u8,
    /// [`Parsed::priority`].
    pub priority: bool,
    /// Bytes from `l2` to the end of the frame, padding included.
    pub len: u32,
    /// Bytes of the IP packet.
    pub ip_len: u32,
    /// [`flow_hash`], where it is an IP packet that goes into a tunnel.
    pub hash: u32,
}

const _: () = assert!(
    size_of::<Brief>() == 24,
    "chosen by `pipeline`: with all of a Parsed a packet costs a fifth more"
);

impl Brief {
    /// Of what could not be parsed.
    pub const UNREAD: Self = Self {
        l2: 0,
        l3: 0,
        l4: 0,
        carries: Carries::Unread,
        ecn: 0,
        outer_ecn: 0,
        priority: false,
        len: 0,
        ip_len: 0,
        hash: 0,
    };

    /// Of a parsed frame, and of the tunnel packet that it came in.
    pub fn of(parsed: &Parsed, outer: Option<&Outer>) -> Self {
        let (carries, l4, ecn, ip_len, hash) = match &parsed.l3 {
            L3::V4(ip) => (Carries::V4, ip.l4, ip.ecn, ip.len, flow_hash::v4(ip)),
            L3::V6(ip) => (Carries::V6, ip.l4, ip.ecn, ip.len, flow_hash::v6(ip)),
            _ => (Carries::Other, 0, 0, 0, 0),
        };
        Self {
            l2: parsed.l2,
            l3: parsed.l3_offset() as u16,
            l4,
            carries,
            ecn,
            outer_ecn: outer.map_or(0, |outer| outer.ecn),
            priority: parsed.priority,
            len: parsed.len,
            ip_len,
            hash,
        }
    }

    /// It came out of the tunnel, and is still in its packet.
    #[inline]
    pub fn is_in_tunnel(&self) -> bool {
        self.l2 > 0
    }

    /// All of what it was made from, out of the frame as it was read, whose first bytes `head` are. `None` when that could not be
    /// read.
    pub fn read_again(&self, head: &[u8]) -> Option<Parsed> {
        if self.carries == Carries::Unread {
            return None;
        }
        let end = usize::from(self.l2) + self.len as usize;
        parse(&head[..head.len().min(end)], end, self.l2.into()).ok()
    }

    /// Where the IP packet ends.
    #[inline]
    pub fn ip_end(&self) -> usize {
        usize::from(self.l3) + self.ip_len as usize
    }

    /// It carries an IP packet.
    #[inline]
    pub fn is_ip(&self) -> bool {
        matches!(self.carries, Carries::V4 | Carries::V6)
    }
}
