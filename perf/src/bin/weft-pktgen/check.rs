//! What a received frame is: one of ours and whole, one of ours and damaged, or somebody else's.
//!
//! It is read with nothing but its bytes, apart from the switch's own parser, which it is there to judge.

use crate::frame::{Traffic, sum16};
use crate::stamp::{PATTERN, Stamp};

/// A frame's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A test frame, with the whole payload, the addresses and the ports of its flow.
    Whole(Stamp),
    /// A test frame in which something is wrong.
    Damaged,
    /// ARP.
    Arp,
    /// Anything else.
    Other,
}

const ETHERNET: usize = 14;
const UDP: usize = 8;
const VXLAN: usize = 8;

/// Looks at a frame, and into a tunnel.
#[inline]
pub(crate) fn look(traffic: &Traffic, frame: &[u8]) -> Seen {
    match udp(traffic, frame) {
        Ok((ip, udp)) if udp_port(udp) == traffic.vxlan_port => inside(traffic, ip, udp),
        Ok((ip, udp)) => test_frame(traffic, ip, udp),
        Err(seen) => seen,
    }
}

/// A tunnel's inner frame.
fn inside(traffic: &Traffic, ip: &[u8], udp_header: &[u8]) -> Seen {
    let inner = udp_header.get(UDP + VXLAN..).unwrap_or_default();
    let seen = match udp(traffic, inner) {
        Ok((ip, udp)) => test_frame(traffic, ip, udp),
        Err(seen) => seen,
    };
    match seen {
        Seen::Whole(_) if sum16(ip) != 0xffff || udp_header[UDP] != 8 => Seen::Damaged,
        seen => seen,
    }
}

fn udp_port(udp: &[u8]) -> u16 {
    u16::from_be_bytes([udp[2], udp[3]])
}

/// The IPv4 header and the datagram behind it, of at least a UDP header, cut to what the headers say; else what the
/// frame is.
#[inline]
fn udp<'a>(traffic: &Traffic, frame: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Seen> {
    let mut at = ETHERNET;
    let mut kind = word(frame, 12).ok_or(Seen::Other)?;
    for _ in 0..2 {
        if kind == 0x8100 || kind == 0x88a8 {
            kind = word(frame, at + 2).ok_or(Seen::Other)?;
            at += 4;
        }
    }
    if kind == 0x0806 {
        return Err(Seen::Arp);
    }
    let packet = frame.get(at..).unwrap_or_default();
    if kind != 0x0800 || packet.len() < 20 || packet[0] >> 4 != 4 || packet[9] != 17 {
        return Err(Seen::Other);
    }
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let ports = (word(packet, header), word(packet, header + 2));
    let (Some(src), Some(dst)) = ports else { return Err(Seen::Other) };
    if header < 20 || fragment || total < header + UDP || total > packet.len() {
        // Cut short on its way, or with a damaged header: as far as it can be seen whose it is.
        let ours = traffic.has_ports(src, dst);
        return Err(if ours { Seen::Damaged } else { Seen::Other });
    }
    Ok((&packet[..header], &packet[header..total]))
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// A datagram that should be a test frame's.
#[inline]
fn test_frame(traffic: &Traffic, ip: &[u8], udp: &[u8]) -> Seen {
    let (src, dst) = (u16::from_be_bytes([udp[0], udp[1]]), udp_port(udp));
    let stamp = udp[UDP..]
        .split_first_chunk()
        .and_then(|(words, rest)| Some((Stamp::read(traffic.key, words)?, rest)));
    let Some((stamp, rest)) = stamp else {
        return if traffic.has_ports(src, dst) { Seen::Damaged } else { Seen::Other };
    };
    if stamp.flow >= traffic.flows {
        return Seen::Damaged;
    }
    let (pair, src_port, dst_port) = traffic.flow(stamp.flow);
    let pair = &traffic.pairs[pair];
    let right = (src, dst) == (src_port, dst_port)
        && ip[12..16] == pair.src.octets()
        && ip[16..20] == pair.dst.octets()
        && ip[8] > 0
        && sum16(ip) == 0xffff
        && usize::from(u16::from_be_bytes([udp[4], udp[5]])) == udp.len()
        && udp[6..8] == [0, 0]
        && traffic.sizes.contains(&(ETHERNET + ip.len() + udp.len() + crate::frame::FCS))
        && *rest == PATTERN[..rest.len()];
    if right { Seen::Whole(stamp) } else { Seen::Damaged }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ARP, OUTER, fill_arp};
    use crate::plan::{Pair, Tunnel};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use weft_switch::types::{MacAddr, Vni};

    fn traffic(tunnel: bool) -> Traffic {
        let tunnel = tunnel.then(|| Tunnel {
            src_mac: MacAddr([2, 10, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 10, 0, 0, 0, 2]),
            src: [172, 16, 0, 1].into(),
            dst: [172, 16, 0, 2].into(),
            vni: Vni::new(0x00ab_cdef).unwrap(),
        });
        let pair = |last| Pair {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, last]),
            src: [10, 244, 0, 2].into(),
            dst: [10, 244, 0, last].into(),
            tunnel,
        };
        let pairs = vec![pair(3), pair(4), pair(5)];
        Traffic { flows: 1_000_000, pairs, sizes: vec![64, 594, 1464], port: 9000, vxlan_port: 8472, key: 1 }
    }

    fn frame(traffic: &Traffic, flow: u32, size: usize) -> (Vec<u8>, Stamp) {
        let templates = traffic.templates();
        let (pair, src, dst) = traffic.flow(flow);
        let template = &templates[pair * traffic.sizes.len() + size];
        let stamp = Stamp { flow, trial: 3, seq: 77, ticks: 123_456 };
        let mut bytes = vec![0xee; template.len()];
        template.fill(&mut bytes, (src, dst), &stamp, traffic.key);
        (bytes, stamp)
    }

    #[test]
    fn frames_are_what_an_independent_parser_expects() {
        for flow in [0, 1, 59_999, 999_999] {
            let traffic = traffic(false);
            for (index, size) in traffic.sizes.iter().enumerate() {
                let (bytes, _) = frame(&traffic, flow, index);
                assert_eq!(bytes.len(), size - 4);
                let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let (pair, src, dst) = traffic.flow(flow);
                assert_eq!(header.destination, traffic.pairs[pair].dst.octets());
                let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port(), udp.destination_port()), (src, dst));
                assert_eq!(usize::from(udp.length()), bytes.len() - 34);
            }
        }
    }

    #[test]
    fn flows_differ() {
        let traffic = traffic(false);
        let mut seen = std::collections::HashSet::new();
        assert!((0..traffic.flows).all(|flow| seen.insert(traffic.flow(flow))));
        assert!((0..traffic.flows).step_by(997).all(|flow| {
            let (_, src, dst) = traffic.flow(flow);
            traffic.has_ports(src, dst)
        }));
        traffic.check().unwrap();
    }

    #[test]
    fn frames_are_known_again_in_a_tunnel_or_not() {
        for tunnel in [false, true] {
            let traffic = traffic(tunnel);
            let (bytes, stamp) = frame(&traffic, 4711, 1);
            assert_eq!(look(&traffic, &bytes), Seen::Whole(stamp));
            // Out of the tunnel, and with padding.
            let inner = if tunnel { &bytes[OUTER..] } else { &bytes };
            let mut padded = inner.to_vec();
            padded.extend([0; 6]);
            assert_eq!(look(&traffic, &padded), Seen::Whole(stamp));
            // With a VLAN tag.
            let mut tagged = inner.to_vec();
            tagged.splice(12..12, [0x81, 0, 0, 5]);
            assert_eq!(look(&traffic, &tagged), Seen::Whole(stamp));
        }
    }

    /// From the IP header on no byte may change, but for TTL and checksum together.
    #[test]
    fn any_changed_byte_behind_the_ethernet_header_is_seen() {
        let traffic = traffic(false);
        let (bytes, stamp) = frame(&traffic, 3, 1);
        for at in ETHERNET..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let seen = look(&traffic, &changed);
                assert!(!matches!(seen, Seen::Whole(_)), "bit {bit} of byte {at}");
            }
        }
        let mut routed = bytes.clone();
        routed[22] -= 1;
        assert_eq!(look(&traffic, &routed), Seen::Damaged);
        let sum = u16::from_be_bytes([routed[24], routed[25]]) + 0x100;
        routed[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(look(&traffic, &routed), Seen::Whole(stamp));
        for cut in ETHERNET + 28..bytes.len() {
            assert_eq!(look(&traffic, &bytes[..cut]), Seen::Damaged, "cut to {cut}");
        }
    }

    #[test]
    fn what_is_not_ours_is_let_be() {
        let traffic = traffic(false);
        let (bytes, _) = frame(&traffic, 3, 0);
        for len in 0..ETHERNET + 24 {
            assert_eq!(look(&traffic, &bytes[..len]), Seen::Other, "{len} bytes");
        }
        let mut other = bytes.clone();
        other[36..38].copy_from_slice(&53_u16.to_be_bytes());
        other[50] ^= 1;
        assert_eq!(look(&traffic, &other), Seen::Other);
        let mut arp = [0; ARP];
        fill_arp(&mut arp, &traffic.pairs[0]);
        assert_eq!(look(&traffic, &arp), Seen::Arp);
    }
}
