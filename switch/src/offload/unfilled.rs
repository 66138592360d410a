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

/// What is still to be done about the inner packet of a tunnel packet, whose inner Ethernet header begins at `inner`.
///
/// A TCP packet of more than `mtu` bytes, what the overlay carries on this way, is taken for one that stands for several, of
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
    if end > buf.len() || end < l4 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::checksum::complete;
    use crate::packet::HeapBuf;
    use crate::wire::checksum::udp_never_zero;
    use proptest::prelude::*;

    /// As many bytes as an outer header has, which nobody looks into.
    const OUTER: usize = 50;
    const INNER: usize = OUTER;

    /// A packet with this payload in an Ethernet frame in a tunnel packet, its transport checksum right.
    fn packet(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let transport = if protocol == TCP { 20 } else { 8 };
        let l4_len = (transport + payload.len()) as u16;
        let mut frame = vec![0x5a; OUTER + 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(l4_len.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend((1..=32).map(|byte: u8| byte.wrapping_mul(7)));
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((l4_len + 20).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 244, 1, 2, 10, 244, 0, 2]);
        }
        let l4 = frame.len();
        frame.extend([0x12, 0x34, 0x56, 0x78]);
        if protocol == TCP {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            frame.extend(l4_len.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(payload);
        let right = udp_never_zero(!sum_from(&frame, l4));
        set_checksum(&mut frame, right);
        frame
    }

    fn places(frame: &[u8]) -> (usize, usize, u8) {
        let v6 = frame[INNER + 12] == 0x86;
        let l4 = INNER + 14 + if v6 { 40 } else { 20 };
        let protocol = if v6 { frame[INNER + 14 + 6] } else { frame[INNER + 14 + 9] };
        (l4, l4 + if protocol == TCP { 16 } else { 6 }, protocol)
    }

    fn pseudo(frame: &[u8]) -> u16 {
        let (l4, _, protocol) = places(frame);
        let addresses =
            if frame[INNER + 12] == 0x86 { INNER + 22..INNER + 54 } else { INNER + 26..INNER + 34 };
        Sum::new().add(&frame[addresses]).add_u16(protocol.into()).add_u16((frame.len() - l4) as u16).fold()
    }

    /// Over the pseudo-header and everything from `l4` on.
    fn sum_from(frame: &[u8], l4: usize) -> u16 {
        Sum::new().add_u16(pseudo(frame)).add(&frame[l4..]).fold()
    }

    fn set_checksum(frame: &mut [u8], checksum: u16) {
        let at = places(frame).1;
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// As a kernel leaves it.
    fn unfilled(mut frame: Vec<u8>) -> Vec<u8> {
        let sum = pseudo(&frame);
        set_checksum(&mut frame, sum);
        frame
    }

    fn state(frame: &[u8], told: Option<u16>) -> Offload {
        state_of(&HeapBuf::from_bytes(frame), INNER, 1450, told)
    }

    fn kinds() -> impl Iterator<Item = (bool, u8)> {
        [(false, TCP), (true, TCP), (false, UDP), (true, UDP)].into_iter()
    }

    #[test]
    fn a_checksum_that_was_never_filled_in_is_partial_and_completes_to_the_right_one() {
        for (v6, protocol) in kinds() {
            for payload in [&b""[..], b"odd", b"even"] {
                let filled = packet(v6, protocol, payload);
                assert_eq!(state(&filled, None), Offload::default());
                let frame = unfilled(filled.clone());
                let (l4, field, _) = places(&frame);
                let checksum = Checksum::Partial { start: l4 as u16, offset: (field - l4) as u16 };
                assert_eq!(state(&frame, None), Offload { checksum, gso: None });
                let mut buf = HeapBuf::from_bytes(&frame);
                buf.set_offload(state(&frame, None));
                complete(&mut buf).unwrap();
                assert_eq!(buf.to_vec(), filled);
            }
        }
    }

    #[test]
    fn a_right_checksum_that_equals_the_pseudo_headers_sum_is_left() {
        for (v6, protocol) in kinds() {
            // The last word of the payload makes the whole sum what the field is to be.
            let mut frame = unfilled(packet(v6, protocol, &[0; 8]));
            let end = frame.len();
            let (l4, ..) = places(&frame);
            let missing = !sum_from(&frame, l4);
            frame[end - 2..].copy_from_slice(&missing.to_be_bytes());
            assert_eq!(sum_from(&frame, l4), 0xffff, "the test's own arithmetic");
            assert_eq!(state(&frame, None), Offload::default());
        }
    }

    #[test]
    fn larger_than_the_overlay_carries_is_several() {
        for v6 in [false, true] {
            let headers = if v6 { 60 } else { 40 };
            let kind = if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
            let gso = |payload: usize, told| state(&unfilled(packet(v6, TCP, &vec![7; payload])), told).gso;
            assert_eq!(gso(1450 - headers, None), None);
            let size = (1450 - headers) as u16;
            assert_eq!(gso(1451 - headers, None), Some(Gso { kind, size, ecn: false }));
            assert_eq!(gso(60_000, None), Some(Gso { kind, size, ecn: false }));
            assert_eq!(gso(60_000, Some(500)), Some(Gso { kind, size: 500, ecn: false }));
            assert_eq!(gso(60_000, Some(9000)), Some(Gso { kind, size, ecn: false }));
            let mut congested = packet(v6, TCP, &[7; 3000]);
            let l4 = places(&congested).0;
            congested[l4 + 13] |= CWR;
            assert_eq!(state(&unfilled(congested), None).gso, Some(Gso { kind, size, ecn: true }));
            // Filled in, it is a large packet and nothing else.
            assert_eq!(state(&packet(v6, TCP, &[7; 3000]), None), Offload::default());
        }
    }

    #[test]
    fn of_datagrams_only_the_kernel_knows_that_they_are_several() {
        for v6 in [false, true] {
            let frame = unfilled(packet(v6, UDP, &[7; 3000]));
            assert_eq!(state(&frame, None).gso, None);
            assert!(matches!(state(&frame, None).checksum, Checksum::Partial { .. }));
            let gso = Gso { kind: GsoKind::Udp, size: 1000, ecn: false };
            assert_eq!(state(&frame, Some(1000)).gso, Some(gso));
            assert_eq!(state(&frame, Some(3000)).gso, None, "one");
        }
    }

    #[test]
    fn nothing_is_said_of_fragments_and_other_protocols() {
        let mut piece = unfilled(packet(false, UDP, b"a piece"));
        piece[INNER + 14 + 6] = 0x20;
        assert_eq!(state(&piece, None), Offload::default());
        let mut other = unfilled(packet(false, UDP, b"other"));
        other[INNER + 14 + 9] = 1;
        assert_eq!(state(&other, None), Offload::default());
        assert_eq!(state(&unfilled(packet(false, UDP, b"cut off"))[..100 - 8], None), Offload::default());
        assert_eq!(state(&[], None), Offload::default());
        let absent = packet(false, UDP, b"none");
        let mut buf = absent.clone();
        set_checksum(&mut buf, 0);
        assert_eq!(state(&buf, None), Offload::default());
    }

    proptest! {
        #[test]
        fn a_wrong_checksum_is_not_repaired(
            v6: bool, udp: bool, payload in prop::collection::vec(any::<u8>(), 0..200), field: u16,
        ) {
            let mut frame = packet(v6, if udp { UDP } else { TCP }, &payload);
            set_checksum(&mut frame, field);
            let never_filled = field == pseudo(&frame) && sum_from(&frame, places(&frame).0) != 0xffff;
            let partial = matches!(state(&frame, None).checksum, Checksum::Partial { .. });
            prop_assert_eq!(partial, never_filled);
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..300), inner in 0usize..200, mtu in 0usize..2000, told: Option<u16>,
        ) {
            let cut = bytes.len() / 2;
            let buf = HeapBuf::from_segments(&[&bytes[..cut], &bytes[cut..]]);
            state_of(&buf, inner, mtu, told);
        }

        #[test]
        fn chains_are_as_one_piece(payload in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
            let frame = unfilled(packet(false, TCP, &payload));
            let (a, b) = frame.split_at(at.min(frame.len()));
            let chain = HeapBuf::from_segments(&[a, b]);
            prop_assert_eq!(state_of(&chain, INNER, 1450, None), state(&frame, None));
        }
    }
}
