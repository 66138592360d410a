//! Recognises what a kernel VTEP on the same machine (over veth) leaves to do, where nobody says a word about it: a UDP or XDP
//! socket gets the inner checksum as it was never filled in, and a frame that stands for several as one packet, larger than any link.
//!
//! A checksum field that was never filled in holds the pseudo-header's sum. A right checksum equals that sum once in 65,536
//! packets, so the whole sum decides then. A wrong checksum does not equal it, but for the same odds, and stays wrong.

use super::layout::{self, Layout, TCP, UDP, bytes_at};
use super::sum::sum_of;
use super::{Checksum, Gso, GsoKind, Offload};
use crate::packet::PacketBuf;
use crate::wire::checksum::Sum;

/// Where TCP has its header's length, its flags and its checksum.
const TCP_LEN: usize = 12;
const TCP_FLAGS: usize = 13;
const _: () = assert!(TCP_FLAGS == TCP_LEN + 1, "both are read at once");
const TCP_CHECKSUM: usize = 16;
const CWR: u8 = 0x80;
const UDP_CHECKSUM: usize = 6;

/// What is still to be done about the inner packet of a tunnel packet, whose inner Ethernet header begins at `inner`; at 0 it is a
/// packet without a tunnel.
///
/// A TCP packet of more than `mtu` bytes, what is carried on this way, is taken for one that stands for several, of
/// the size that fits. `told` is the size of datagrams that the kernel has told of; only it can say that of UDP, since a
/// large datagram is nothing unusual.
///
/// Nothing is said of what has no TCP or UDP checksum, or of a fragment.
#[inline]
pub fn state_of(buf: &impl PacketBuf, inner: usize, mtu: usize, told: Option<u16>) -> Offload {
    recognise(buf, inner, mtu, told).unwrap_or_default()
}

fn recognise(buf: &impl PacketBuf, inner: usize, mtu: usize, told: Option<u16>) -> Option<Offload> {
    let layout = layout::find_at(buf, inner).filter(|layout| !layout.fragment)?;
    let Layout { l3, v6, l4, protocol, .. } = layout;
    let offset = match protocol {
        TCP => TCP_CHECKSUM,
        UDP => UDP_CHECKSUM,
        _ => return None,
    };
    let len = match v6 {
        false => usize::from(u16::from_be_bytes(bytes_at(buf, l3 + 2)?)),
        true => layout::IPV6 + usize::from(u16::from_be_bytes(bytes_at(buf, l3 + 4)?)),
    };
    let end = l3 + len;
    if end > buf.len() || end < l4 + offset + 2 {
        return None;
    }
    let addresses = match v6 {
        false => Sum::new().add(&bytes_at::<8>(buf, l3 + 12)?),
        true => Sum::new().add(&bytes_at::<32>(buf, l3 + 8)?),
    };
    let pseudo = addresses.add_u16(protocol.into()).add_u16((end - l4) as u16);
    if u16::from_be_bytes(bytes_at(buf, l4 + offset)?) != pseudo.fold() {
        return None;
    }
    let gso = gso(buf, &layout, len, mtu, told);
    // What stands for several has not been on a wire.
    if gso.is_none() && is_right(buf, pseudo, l4, end) {
        return None;
    }
    let checksum = Checksum::Partial { start: u16::try_from(l4).ok()?, offset: offset as u16 };
    Some(Offload { checksum, gso })
}

fn gso(buf: &impl PacketBuf, layout: &Layout, len: usize, mtu: usize, told: Option<u16>) -> Option<Gso> {
    let l3_len = layout.l4 - layout.l3;
    if layout.protocol == UDP {
        let size = told.filter(|size| *size > 0 && l3_len + 8 + usize::from(*size) < len)?;
        return Some(Gso { kind: GsoKind::Udp, size, ecn: false });
    }
    let [header_len, flags] = bytes_at(buf, layout.l4 + TCP_LEN)?;
    let headers = l3_len + usize::from(header_len >> 4) * 4;
    let fits = mtu.checked_sub(headers).filter(|fits| *fits > 0 && len > mtu && headers < len)?;
    // Where the kernel tells it: no more than fits here, though.
    let size = told.map_or(fits, |told| usize::from(told).clamp(1, fits));
    let kind = if layout.v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
    Some(Gso { kind, size: u16::try_from(size).ok()?, ecn: flags & CWR != 0 })
}

/// Whether the checksum is right as it stands.
#[cold]
fn is_right(buf: &impl PacketBuf, pseudo: Sum, l4: usize, end: usize) -> bool {
    pseudo.add_sum(sum_of(buf, l4, end - l4)).fold() == 0xffff
}
