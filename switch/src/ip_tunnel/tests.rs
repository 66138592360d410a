//! What goes into such a tunnel and comes out of it; etherparse is the judge of bytes.

use etherparse::{Ipv4Header as Judge, PacketBuilder};

use super::*;
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::HeapBuf;

const A: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const GATEWAY: MacAddr = MacAddr([0xa, 0x58, 10, 244, 1, 1]);

/// Of a packet in the tunnel.
const MTU: usize = 1480;

/// A pod's frame to the node B, as apply leaves it.
fn frame(ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(GATEWAY.0, mac_of(B).0).ipv4([10, 244, 0, 5], [10, 244, 1, 7], ttl);
    builder.udp(1000, 2000).write(&mut frame, payload).unwrap();
    frame
}

/// With this first byte but one of the IP header, and the flags and offset.
fn with(mut frame: Vec<u8>, tos: u8, fragment: u16) -> Vec<u8> {
    frame[15] = tos;
    frame[20..22].copy_from_slice(&fragment.to_be_bytes());
    fill(&mut frame[14..34]);
    frame
}

fn fill(header: &mut [u8]) {
    let (judge, _) = Judge::from_slice(header).unwrap();
    header[10..12].copy_from_slice(&judge.calc_header_checksum().to_be_bytes());
}

fn header(bytes: &[u8]) -> Judge {
    let (header, _) = Judge::from_slice(bytes).unwrap();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    header
}

/// What goes to the kernel.
fn entered(form: Form, bytes: &[u8]) -> Result<(Ipv4Addr, Vec<u8>), Unfit> {
    let mut packet = HeapBuf::from_segments(&[&bytes[..60.min(bytes.len())], &bytes[60.min(bytes.len())..]]);
    let entry = form.enter(&mut packet, A)?;
    assert_eq!(packet.len(), bytes.len(), "the frame keeps its length");
    let outer = entry.outer.as_ref().map_or(&[][..], |outer| outer.as_slice());
    Ok((entry.to, [outer, &packet.to_vec()[ETHERNET_LEN..]].concat()))
}

/// What becomes of such bytes from the kernel.
fn left(form: Form, bytes: &[u8]) -> Result<Vec<u8>, Unfit> {
    left_as(form, bytes).map(|packet| packet.to_vec())
}

fn left_as(form: Form, bytes: &[u8]) -> Result<HeapBuf, Unfit> {
    let packet = [vec![0xee; form.front()], bytes.to_vec()].concat();
    let cut = packet.len().min(16);
    let mut packet = HeapBuf::from_segments(&[&packet[..cut], &packet[cut..]]);
    form.leave(&mut packet, A, GATEWAY, MTU)?;
    Ok(packet)
}

fn set_ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    packet[8] = ttl;
    fill(&mut packet[..20]);
    packet
}

#[test]
fn addresses_and_their_macs() {
    assert_eq!(mac_of(A), MacAddr([0x0a, 0x5e, 172, 16, 0, 1]));
    assert_eq!(address_of(mac_of(B)), Some(B));
    assert_eq!(address_of(GATEWAY), None);
}

/// flanneld counts a hop before it sends and one after it has received; nothing else changes.
#[test]
fn udp_takes_the_packet_alone_and_a_hop_each_way() {
    let frame = frame(9, b"datagram");
    let (to, datagram) = entered(Form::Udp, &frame).unwrap();
    assert_eq!((to, &datagram), (B, &set_ttl(frame[14..].to_vec(), 8)));
    let expected = [&GATEWAY.0[..], &mac_of(A).0, &[8, 0], &set_ttl(frame[14..].to_vec(), 7)].concat();
    assert_eq!(left(Form::Udp, &datagram).unwrap(), expected);
}

#[test]
fn udp_drops_what_has_no_hop_left() {
    for ttl in [0, 1] {
        assert_eq!(entered(Form::Udp, &frame(ttl, b"")), Err(Unfit::Expired));
        assert_eq!(left(Form::Udp, &frame(ttl, b"")[14..]), Err(Unfit::Expired));
    }
    assert!(entered(Form::Udp, &frame(2, b"")).is_ok());
    assert_eq!(left(Form::Udp, &frame(2, b"")[14..]).unwrap()[22], 1);
}

/// As the kernel's device sends with TTL, TOS and path MTU discovery of 0.
#[test]
fn ipip_has_a_header_with_ttl_and_flag_of_the_packet_inside() {
    for (dont_fragment, ttl) in [(true, 9), (false, 255)] {
        // Differentiated services are the pods' own; the flag of a fragment too.
        let frame = with(frame(ttl, b"datagram"), 0x2e << 2, u16::from(dont_fragment) << 14);
        let (to, packet) = entered(Form::Ipip, &frame).unwrap();
        let outer = header(&packet);
        assert_eq!((to, outer.source, outer.destination), (B, A.octets(), B.octets()));
        assert_eq!((outer.time_to_live, outer.dont_fragment, outer.protocol.0), (ttl, dont_fragment, 4));
        assert_eq!((outer.dscp.value(), outer.ecn.value()), (0, 0));
        assert_eq!((usize::from(outer.total_len), outer.identification), (packet.len(), 0));
        assert_eq!(packet[20..], frame[14..], "what is inside stays");
        let expected = [&GATEWAY.0[..], &mac_of(A).0, &[8, 0], &frame[14..]].concat();
        assert_eq!(left(Form::Ipip, &packet).unwrap(), expected, "no hop but the routers'");
    }
}

/// RFC 6040, figure 4, and what Linux writes.
#[test]
fn ipip_carries_congestion_marks() {
    let (not, one, zero, ce) = (ECN_NOT_ECT, ECN_ECT_1, ECN_ECT_0, ECN_CE);
    for (inner, outer) in [(not, not), (one, one), (zero, zero), (ce, zero)] {
        let (_, packet) = entered(Form::Ipip, &with(frame(9, b""), inner, 0)).unwrap();
        assert_eq!((packet[1], packet[21]), (outer, inner));
    }
    for (outer, inner, expected) in [
        (not, not, Some(not)),
        (zero, not, Some(not)),
        (one, not, Some(not)),
        (ce, not, None),
        (ce, zero, Some(ce)),
        (ce, one, Some(ce)),
        (one, zero, Some(one)),
        (zero, one, Some(one)),
        (zero, ce, Some(ce)),
        (not, zero, Some(zero)),
    ] {
        let (_, mut packet) = entered(Form::Ipip, &with(frame(9, b""), inner, 0)).unwrap();
        packet[1] = outer;
        fill(&mut packet[..20]);
        let ecn = left(Form::Ipip, &packet).map(|frame| {
            header(&frame[14..]);
            frame[15]
        });
        assert_eq!(ecn, expected.ok_or(Unfit::Congested), "{outer} outside, {inner} inside");
    }
}

#[test]
fn ipip_takes_an_outer_header_with_options_and_what_follows_the_packet_off() {
    let frame = frame(9, b"datagram");
    let (_, packet) = entered(Form::Ipip, &frame).unwrap();
    let mut outer = packet[..20].to_vec();
    outer[0] = 0x47;
    outer[2..4].copy_from_slice(&(packet.len() as u16 + 8).to_be_bytes());
    outer.extend([1; 8]);
    let padded = [&outer[..], &packet[20..], &[0; 6]].concat();
    assert_eq!(left(Form::Ipip, &padded).unwrap()[14..], frame[14..]);
}

/// A TCP packet with so much payload, whose checksum is right or only the pseudo-header's sum, in a packet from A.
fn tcp(payload: usize, filled_in: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2(GATEWAY.0, mac_of(B).0);
    let builder = ethernet.ipv4([10, 244, 0, 5], [10, 244, 1, 7], 9).tcp(1000, 2000, 1, 500).ack(1);
    builder.write(&mut frame, &vec![7; payload]).unwrap();
    if !filled_in {
        let (_, tcp) = frame.split_at(34);
        let len = (tcp.len() as u16).to_be_bytes();
        let words = [&frame[26..34], &[0, 6], &len].concat();
        let sum: u32 = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
        frame[50..52].copy_from_slice(&folded.to_be_bytes());
    }
    entered(Form::Ipip, &frame).unwrap().1
}

/// What a kernel has put together, or not yet taken apart, is cut and summed by whoever sends it on.
#[test]
fn ipip_recognises_large_packets_and_sums_that_are_not_filled_in() {
    let partial = Checksum::Partial { start: 34, offset: 16 };
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: (MTU - 40) as u16, ecn: false });
    for (packet, expected) in [
        (tcp(64_000, false), Offload { checksum: partial, gso }),
        (tcp(1441, false), Offload { checksum: partial, gso }),
        (tcp(1440, false), Offload { checksum: partial, gso: None }),
        (tcp(0, false), Offload { checksum: partial, gso: None }),
        (tcp(1440, true), Offload::default()),
        // Larger than the tunnel carries, but finished: nobody put it together.
        (tcp(3000, true), Offload::default()),
    ] {
        let frame = left_as(Form::Ipip, &packet).unwrap();
        assert_eq!(frame.offload(), expected, "{} bytes", packet.len());
        assert_eq!(frame.to_vec()[14..], packet[20..]);
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let good = frame(9, b"datagram");
    for form in [Form::Udp, Form::Ipip] {
        let (_, sent) = entered(form, &good).unwrap();
        for len in 0..form_header(form) {
            assert_eq!(left(form, &sent[..len]), Err(Unfit::Malformed), "{form:?}, cut to {len}");
        }
        let mut longer = good.clone();
        longer.push(0);
        let mut to_nobody = good.clone();
        to_nobody[..6].copy_from_slice(&GATEWAY.0);
        let mut v6 = good.clone();
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        for frame in [longer, to_nobody, v6, good[..33].to_vec()] {
            assert_eq!(entered(form, &frame), Err(Unfit::Malformed), "{form:?}: {frame:02x?}");
        }
    }
    let (_, packet) = entered(Form::Ipip, &good).unwrap();
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        packet
    };
    for (packet, what) in [
        (changed(0, 0x65), "another version"),
        (changed(0, 0x44), "a header of 16 bytes"),
        (changed(3, 39), "no room for a header inside"),
        (changed(3, packet[3] + 1), "more than there is"),
        (changed(6, 0x20), "a first fragment"),
        (changed(7, 1), "a later fragment"),
        (changed(9, 17), "something else inside"),
        (changed(20, 0x60), "another version inside"),
    ] {
        assert_eq!(left(Form::Ipip, &packet), Err(Unfit::Malformed), "{what}");
    }
}

/// Bytes that must be there: what is cut off behind them is the engine's to find.
fn form_header(form: Form) -> usize {
    match form {
        Form::Udp => 20,
        // The outer length says what is missing, whatever it is.
        Form::Ipip => 20 + 20 + 8 + "datagram".len(),
    }
}
