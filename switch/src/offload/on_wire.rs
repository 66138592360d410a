//! How many bytes a frame has on the wire, one that stands for several as its packets.

use super::layout::bytes_at;
use super::segment::MAX_FRAMES;
use super::{Checksum, GsoKind};
use crate::packet::PacketBuf;

/// Headers of a packet of which is not said where they end: Ethernet, IPv4 and TCP.
const USUAL: u64 = 54;

/// Ethernet headers included, preamble and checksum not.
pub(crate) fn wire_len(frame: &impl PacketBuf) -> u64 {
    let (packets, headers) = packets_of(frame);
    frame.len() as u64 + (packets - 1) * headers
}

/// It stands for more packets than are ever made of one. Whoever it is for would pay for the headers of each, many times its bytes.
pub(crate) fn is_too_many(frame: &impl PacketBuf) -> bool {
    packets_of(frame).0 > MAX_FRAMES as u64
}

/// How many packets the frame stands for, and bytes of each one's headers.
fn packets_of(frame: &impl PacketBuf) -> (u64, u64) {
    if frame.is_plain() {
        return (1, 0);
    }
    let offload = frame.offload();
    let Some(gso) = offload.gso else { return (1, 0) };
    let headers = match offload.checksum {
        Checksum::Partial { start, .. } => {
            let start = usize::from(start);
            let upper = match gso.kind {
                GsoKind::Udp => 8,
                GsoKind::Tcp4 | GsoKind::Tcp6 => {
                    bytes_at::<1>(frame, start + 12).map_or(20, |[offset]| u64::from(offset >> 4) * 4)
                }
            };
            start as u64 + upper
        }
        Checksum::Unverified | Checksum::Verified => USUAL,
    };
    let payload = (frame.len() as u64).saturating_sub(headers);
    (payload.div_ceil(u64::from(gso.size.max(1))).max(1), headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Gso, Offload};
    use crate::packet::HeapBuf;

    #[test]
    fn each_packet_has_headers_of_its_own() {
        // 14 + 20 + 32 bytes of headers, 3,500 of payload.
        let mut bytes = vec![0; 66 + 3500];
        bytes[34 + 12] = 8 << 4;
        let mut frame = HeapBuf::from_segments(&[&bytes[..40], &bytes[40..]]);
        assert_eq!(wire_len(&frame), 3566);
        let gso = |kind, size| Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind, size, ecn: false }),
        };
        frame.set_offload(gso(GsoKind::Tcp4, 1000));
        assert_eq!(wire_len(&frame), 3566 + 3 * 66);
        frame.set_offload(gso(GsoKind::Tcp4, 3500));
        assert_eq!(wire_len(&frame), 3566);
        frame.set_offload(gso(GsoKind::Udp, 1762));
        assert_eq!(wire_len(&frame), 3566 + 42);
        // A state that contradicts the frame.
        let checksum = Checksum::Partial { start: 60000, offset: 16 };
        frame.set_offload(Offload { checksum, ..gso(GsoKind::Tcp4, 1) });
        assert_eq!(wire_len(&frame), 3566);
    }

    #[test]
    fn more_packets_than_are_made_of_a_frame_are_too_many() {
        let mut bytes = vec![0; 54 + 2048];
        bytes[34 + 12] = 5 << 4;
        let mut frame = HeapBuf::from_bytes(&bytes);
        assert!(!is_too_many(&frame));
        for (size, too_many) in [(1, true), (2, false), (3000, false)] {
            let checksum = Checksum::Partial { start: 34, offset: 16 };
            let gso = Some(Gso { kind: GsoKind::Tcp4, size, ecn: false });
            frame.set_offload(Offload { checksum, gso });
            assert_eq!(is_too_many(&frame), too_many, "{size}");
        }
    }
}
