//! Where the headers of a frame are, found from the frame itself.

use crate::packet::PacketBuf;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Not looked behind: it covers what follows, so nothing there is left to be filled in or cut.
pub(super) const AH: u8 = 51;
pub(super) const ICMPV6: u8 = 58;

const ETH: usize = 14;
const VLAN: usize = 4;
/// 802.1Q tags that are looked through at most, as when the frame is parsed.
const TAGS: usize = 2;
pub(super) const IPV6: usize = 40;

/// Extension headers that are walked over at most. More is nothing that anybody sends.
const EXTENSIONS: usize = 8;

/// The outermost headers of an IP packet in an Ethernet frame with at most two 802.1Q tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the IP header begins.
    pub(super) l3: usize,
    /// Whether it is IPv6's.
    pub(super) v6: bool,
    /// Where the IP header ends, without IPv6's extension headers: what lies before is addresses and MACs.
    pub(super) l3_end: usize,
    /// Where the upper-layer header begins.
    pub(super) l4: usize,
    /// Its protocol.
    pub(super) protocol: u8,
    /// The packet is a fragment of another.
    pub(super) fragment: bool,
}

impl Layout {
    /// The same places, counted from `start`, which lies before all of them.
    pub(super) fn from(self, start: usize) -> Self {
        Self { l3: self.l3 - start, l3_end: self.l3_end - start, l4: self.l4 - start, ..self }
    }
}

/// `N` bytes at `offset`; `None` where the frame is shorter.
pub(super) fn bytes_at<const N: usize>(buf: &impl PacketBuf, offset: usize) -> Option<[u8; N]> {
    if let Some(bytes) = buf.head().get(offset..).and_then(|rest| rest.first_chunk()) {
        return Some(*bytes);
    }
    let mut bytes = [0; N];
    (buf.read_at(offset, &mut bytes) == N).then_some(bytes)
}

/// `None` when the frame is cut off or not IP.
pub(super) fn find(buf: &impl PacketBuf) -> Option<Layout> {
    find_at(buf, 0)
}

/// The same of a frame that begins at `start`, such as the one in a tunnel packet. Offsets count from the packet's first byte.
pub(super) fn find_at(buf: &impl PacketBuf, start: usize) -> Option<Layout> {
    let mut l3 = start + ETH;
    let mut ether_type = u16::from_be_bytes(bytes_at(buf, l3 - 2)?);
    for _ in 0..TAGS {
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            break;
        }
        l3 += VLAN;
        ether_type = u16::from_be_bytes(bytes_at(buf, l3 - 2)?);
    }
    match ether_type {
        0x0800 => ipv4(buf, l3),
        0x86dd => ipv6(buf, l3),
        _ => None,
    }
}

fn ipv4(buf: &impl PacketBuf, l3: usize) -> Option<Layout> {
    let header: [u8; 20] = bytes_at(buf, l3)?;
    let l4 = l3 + usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || l4 < l3 + 20 || l4 > buf.len() {
        return None;
    }
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    Some(Layout { l3, v6: false, l3_end: l4, l4, protocol: header[9], fragment })
}

fn ipv6(buf: &impl PacketBuf, l3: usize) -> Option<Layout> {
    let header: [u8; IPV6] = bytes_at(buf, l3)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let l3_end = l3 + IPV6;
    let (mut l4, mut protocol, mut fragment) = (l3_end, header[6], false);
    for _ in 0..EXTENSIONS {
        let length = match protocol {
            // Hop-by-hop, routing, destination options (RFC 8200, section 4): in units of 8 bytes, without the first.
            0 | 43 | 60 => (usize::from(bytes_at::<2>(buf, l4)?[1]) + 1) * 8,
            44 => {
                fragment = true;
                8
            }
            _ => return (l4 <= buf.len()).then_some(Layout { l3, v6: true, l3_end, l4, protocol, fragment }),
        };
        protocol = bytes_at::<1>(buf, l4)?[0];
        l4 += length;
    }
    None
}
