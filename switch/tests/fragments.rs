//! IPv4 packets that are too big for their way and may be cut: the pieces are what RFC 791 says, and etherparse, which shares
//! nothing with weft, makes the packet of them again.

mod world;

use std::collections::HashSet;

use etherparse::defrag::IpDefragPool;
use etherparse::{Ipv4HeaderSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use weft_switch::drop_reason::DropReason;
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::Port;
use weft_switch::types::{Mtu, PortId};

use world::{FIRST_POD, GATEWAY, Node, POD_MAC, Underlay, VTEP_MAC, World, fill_ipv4_checksum, ipv4_frame};

const POD: [u8; 4] = [10, 244, 0, 5];
const OTHER: [u8; 4] = [10, 244, 0, 6];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const FAR: [u8; 4] = [10, 244, 1, 7];

/// A node whose second pod's port carries `mtu` bytes.
fn node(mtu: usize, caps: TxCaps) -> (Node, MemPort) {
    let mut node = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let other = MemPort::with_caps(caps);
    node.add_pod(0, OTHER, OTHER_MAC, &other);
    set_mtu(&mut node, FIRST_POD + 1, mtu);
    (node, other)
}

fn set_mtu(node: &mut Node, port: usize, mtu: usize) {
    let mut tables = node.tables();
    let id = PortId::new(port).unwrap();
    let port = Port { mtu: Mtu::new(mtu as u32).unwrap(), ..tables.ports.get(id).unwrap().clone() };
    tables.ports.insert(id, port);
    node.switch.publish(tables);
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 7) >> 3) as u8 ^ i as u8).collect()
}

/// Puts options into a frame without any, and gives the packet this identification and fragment word.
fn with_header(mut frame: Vec<u8>, options: &[u8], ident: u16, word: u16) -> Vec<u8> {
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + (options.len() / 4) as u8;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[18..20].copy_from_slice(&ident.to_be_bytes());
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    fill_ipv4_checksum(&mut frame[14..34 + options.len()]);
    frame
}

fn header(frame: &[u8]) -> Ipv4HeaderSlice<'_> {
    let header = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap();
    let words = header.slice().chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    assert_eq!(words.sum::<u32>() % 0xffff, 0, "the header's checksum");
    assert_eq!(usize::from(header.total_len()), frame.len() - 14);
    header
}

/// The payload of the datagram whose fragments these are, in this order; the last one completes it and none before.
fn reassembled(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    for (index, frame) in frames.iter().enumerate() {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let made = pool.process_sliced_packet(&packet, (), ()).unwrap();
        assert_eq!(made.is_some(), index + 1 == frames.len(), "piece {index} of {}", frames.len());
        if let Some(made) = made {
            return made.payload;
        }
    }
    panic!("nothing was sent");
}

fn sent(port: &MemPort) -> Vec<Vec<u8>> {
    let frames = port.take();
    assert!(frames.iter().all(|frame| frame.offload() == Offload::default()), "finished");
    frames.iter().map(HeapBuf::to_vec).collect()
}

fn inject(node: &mut Node, frame: &[u8]) {
    node.pod.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
}

#[test]
fn a_packet_is_cut_for_a_smaller_port() {
    let (mut node, other) = node(600, TxCaps::NONE);
    let payload = bytes(1400);
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &payload);
    let frame = with_header(frame, &[], 0x4711, 0);
    let before = node.counts();
    inject(&mut node, &frame);
    node.assert_changed(
        &before,
        &[("rx", 1), ("originated", 2), ("fragments", 3), ("tx", 3)],
        "three pieces",
    );
    let pieces = sent(&other);
    let places: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let ip = header(piece);
            assert_eq!((ip.identification(), ip.ttl(), ip.dont_fragment()), (0x4711, 8, false));
            assert_eq!((ip.source(), ip.destination(), ip.protocol().0), (POD, OTHER, 253));
            assert_eq!((&piece[..6], &piece[6..12]), (&OTHER_MAC[..], &GATEWAY[0][..]));
            (ip.fragments_offset().byte_offset(), ip.more_fragments(), piece.len() - 34)
        })
        .collect();
    assert_eq!(places, [(0, true, 576), (576, true, 576), (1152, false, 248)], "8 bytes are the unit");
    assert_eq!(reassembled(&pieces), payload);
}

#[test]
fn what_fits_is_left_whole_and_one_byte_more_is_not() {
    let (mut node, other) = node(600, TxCaps::NONE);
    for (len, pieces) in [(580, 1), (581, 2), (1156, 2), (1157, 3)] {
        let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &bytes(len));
        inject(&mut node, &with_header(frame, &[], 1, 0));
        let frames = sent(&other);
        assert_eq!(frames.len(), pieces, "{len} bytes");
        assert!(frames.iter().all(|frame| frame.len() <= 614));
    }
    node.assert_balanced();
}

#[test]
fn an_identification_of_zero_stays() {
    let (mut node, other) = node(600, TxCaps::NONE);
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &bytes(900));
    inject(&mut node, &with_header(frame, &[], 0, 0));
    assert!(sent(&other).iter().all(|piece| header(piece).identification() == 0));
}

#[test]
fn options_go_where_their_copied_bit_says() {
    let (mut node, other) = node(600, TxCaps::NONE);
    // Record route (not copied), router alert (copied), no operation, timestamp (not copied), security (copied), end.
    let options: &[u8] = &[7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 1, 68, 8, 5, 0, 0, 0, 0, 0, 130, 3, 0x55, 0];
    let payload = bytes(1400);
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &payload);
    inject(&mut node, &with_header(frame, options, 9, 0));
    let pieces = sent(&other);
    let later = [148, 4, 0, 0, 130, 3, 0x55, 0];
    assert_eq!(header(&pieces[0]).options(), options);
    for piece in &pieces[1..] {
        assert_eq!(header(piece).options(), later);
    }
    // 600 - 44 in the first is no multiple of 8, 600 - 28 is none either.
    assert_eq!(pieces[0].len() - 14 - 44, 552);
    assert_eq!(pieces[1].len() - 14 - 28, 568);
    assert_eq!(reassembled(&pieces), payload);
}

#[test]
fn a_fragment_is_cut_further_and_stays_in_its_place() {
    let (mut node, other) = node(600, TxCaps::NONE);
    let payload = bytes(4000);
    let mut all = Vec::new();
    for (at, end) in [(0, 1400), (1400, 2800), (2800, 4000)] {
        let word = (at / 8) as u16 | if end < 4000 { 0x2000 } else { 0 };
        let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &payload[at..end]);
        inject(&mut node, &with_header(frame, &[], 77, word));
        let pieces = sent(&other);
        assert_eq!(pieces.len(), 3);
        let last = header(pieces.last().unwrap());
        assert_eq!(last.more_fragments(), end < 4000, "as the packet itself said");
        all.extend(pieces);
    }
    assert_eq!(reassembled(&all), payload);
    node.assert_balanced();
}

#[test]
fn a_fragment_past_the_largest_datagram_is_dropped() {
    let (mut node, other) = node(600, TxCaps::NONE);
    // From there on 711 bytes are left of the 65,535.
    for (len, goes) in [(711, true), (712, false), (1000, false)] {
        let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &bytes(len));
        let frame = with_header(frame, &[], 77, 64_824 / 8);
        let before = node.counts();
        inject(&mut node, &frame);
        assert_eq!(sent(&other).len(), if goes { 2 } else { 0 }, "{len}");
        if !goes {
            node.assert_changed(&before, &[("rx", 1), ("fragment_overflow", 1)], "too far");
        }
    }
}

/// The sum is over the whole datagram, so it is filled in before that is cut.
#[test]
fn a_checksum_is_filled_in_first() {
    let (mut node, other) = node(600, TxCaps::ALL);
    let payload = bytes(1301);
    let mut right = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, OTHER, 9).udp(4000, 53);
    builder.write(&mut right, &payload).unwrap();
    right = with_header(right, &[], 5, 0);
    let mut partial = right.clone();
    let words = [&POD[..], &OTHER, &[0, 17], &right[38..40]].concat();
    let sum: u32 = words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    partial[40..42].copy_from_slice(&(folded as u16).to_be_bytes());
    let mut frame = HeapBuf::from_segments(&[&partial[..300], &partial[300..]]);
    frame.set_offload(Offload { checksum: Checksum::Partial { start: 34, offset: 6 }, gso: None });
    node.pod.inject(frame);
    node.switch.step();
    assert_eq!(reassembled(&sent(&other)), right[34..], "as its sender would have written it");
}

/// A frame that stands for several is cut into those first; each is a datagram with fragments of its own.
#[test]
fn the_packets_of_a_gso_frame_are_cut_each() {
    for kind in [GsoKind::Tcp4, GsoKind::Udp] {
        let (mut node, other) = node(600, TxCaps::ALL);
        let payload = bytes(2500);
        let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, OTHER, 9);
        let mut frame = Vec::new();
        let (headers, offset) = if kind == GsoKind::Udp {
            builder.udp(4000, 53).write(&mut frame, &payload).unwrap();
            (8, 6)
        } else {
            builder.tcp(4000, 80, 1, 9000).write(&mut frame, &payload).unwrap();
            (20, 16)
        };
        let frame = with_header(frame, &[], 1000, 0);
        let mut frame = HeapBuf::from_bytes(&frame);
        let gso = Some(Gso { kind, size: 1000, ecn: false });
        frame.set_offload(Offload { checksum: Checksum::Partial { start: 34, offset }, gso });
        let before = node.counts();
        node.pod.inject(frame);
        node.switch.step();
        let moved = [("rx", 1), ("originated", 4), ("fragments", 4), ("tx", 5)];
        node.assert_changed(&before, &moved, "two packets of two fragments, one that fits");
        let frames = sent(&other);
        let mut found = Vec::new();
        for (index, pieces) in [&frames[..2], &frames[2..4], &frames[4..]].into_iter().enumerate() {
            assert!(pieces.iter().all(|piece| piece.len() <= 614));
            assert!(pieces.iter().all(|piece| header(piece).identification() == 1000 + index as u16));
            let whole = if index < 2 { reassembled(pieces) } else { pieces[0][34..].to_vec() };
            assert_transport(&whole, if kind == GsoKind::Udp { 17 } else { 6 });
            found.extend_from_slice(&whole[headers..]);
        }
        assert_eq!(found, payload, "{kind:?}");
    }
}

/// The transport checksum of a datagram from POD to OTHER is right.
fn assert_transport(payload: &[u8], protocol: u8) {
    let mut frame = [&[0; 12][..], &[8, 0, 0x45, 0], &(20 + payload.len() as u16).to_be_bytes()].concat();
    frame.extend([0, 0, 0, 0, 9, protocol, 0, 0]);
    frame.extend(POD.iter().chain(&OTHER));
    frame.extend(payload);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    match packet.transport.unwrap() {
        TransportSlice::Udp(udp) => {
            let sum = udp.to_header().calc_checksum_ipv4_raw(POD, OTHER, udp.payload()).unwrap();
            assert_eq!(sum, udp.checksum());
        }
        TransportSlice::Tcp(tcp) => {
            let sum = tcp.to_header().calc_checksum_ipv4_raw(POD, OTHER, tcp.payload()).unwrap();
            assert_eq!(sum, tcp.checksum());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn through_the_tunnel_every_piece_goes_by_itself_and_by_one_way() {
    for (underlay, mtu) in [(Underlay::V4, 1450), (Underlay::V6, 1430)] {
        let mut world = World::new(underlay, TxCaps::NONE);
        let payload = bytes(4000);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(POD_MAC[0], GATEWAY[0]).ipv4(POD, FAR, 64).udp(4000, 53);
        builder.write(&mut frame, &payload).unwrap();
        let frame = with_header(frame, &[], 0xbeef, 0);
        let before = world.a.counts();
        world.a.pod.inject(HeapBuf::from_segments(&[&frame[..1000], &frame[1000..]]));
        let wire = world.carry();
        let moved = [("rx", 1), ("originated", 2), ("fragments", 3), ("tx", 3)];
        world.a.assert_changed(&before, &moved, "three tunnel packets");
        let udp = if underlay == Underlay::V4 { 34 } else { 54 };
        let ports: HashSet<_> = wire.iter().map(|packet| packet[udp..udp + 2].to_vec()).collect();
        assert_eq!(ports.len(), 1, "all take the way of the datagram's flow");
        assert!(wire.iter().all(|packet| packet.len() <= 1514));
        let arrived = sent(&world.b.pod);
        assert!(arrived.iter().all(|piece| piece.len() <= 14 + mtu && header(piece).ttl() == 62));
        assert_eq!(reassembled(&arrived), frame[34..], "{underlay:?}");
        world.assert_balanced();
    }
}

#[test]
fn out_of_the_tunnel_into_a_smaller_port() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    set_mtu(&mut world.b, FIRST_POD, 700);
    let payload = bytes(1300);
    let inner = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], POD, FAR, 63, &payload);
    let frame = world.encapsulated_by_kernel(&with_header(inner, &[], 3, 0));
    world.b.uplink.inject(HeapBuf::from_bytes(&frame));
    world.b.switch.step();
    let moved = [("rx", 1), ("originated", 1), ("fragments", 2), ("tx", 2)];
    world.b.assert_changed(&Default::default(), &moved, "two pieces");
    let pieces = sent(&world.b.pod);
    assert!(pieces.iter().all(|piece| piece.len() <= 714 && header(piece).ttl() == 62));
    assert_eq!(reassembled(&pieces), payload);
}

#[test]
fn padding_is_not_cut_into_the_pieces() {
    let (mut node, other) = node(600, TxCaps::NONE);
    let payload = bytes(900);
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &payload);
    inject(&mut node, &[with_header(frame, &[], 8, 0), vec![0xee; 50]].concat());
    assert_eq!(reassembled(&sent(&other)), payload);
}

#[test]
fn bridged_frames_are_not_cut() {
    let (mut node, other) = node(600, TxCaps::NONE);
    let before = node.counts();
    let frame = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &bytes(900));
    inject(&mut node, &with_header(frame, &[], 1, 0));
    node.assert_changed(&before, &[("rx", 1), ("mtu_exceeded", 1)], "a bridge does not cut");
    assert!(other.take().is_empty());
}

#[test]
fn pieces_that_a_port_does_not_take_are_counted_each() {
    let (mut node, other) = node(600, TxCaps::NONE);
    other.limit(Some(1));
    let before = node.counts();
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &bytes(1400));
    inject(&mut node, &with_header(frame, &[], 1, 0));
    let reason = DropReason::TxNotTaken.name();
    let moved = [("rx", 1), ("originated", 2), ("fragments", 3), ("tx", 1), (reason, 2)];
    node.assert_changed(&before, &moved, "one of three");
}

#[derive(Debug, Clone)]
struct Sent {
    to_far: bool,
    payload: usize,
    /// As they stand in the header: of legal options, padded.
    options: Vec<u8>,
    ident: u16,
    /// Flags and offset as the sender set them.
    word: u16,
    segments: Vec<usize>,
}

fn any_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1u8]),
        (select(vec![7u8, 68, 82, 130, 136, 148, 205, 222]), vec(any::<u8>(), 0..9))
            .prop_map(|(kind, data)| [&[kind, data.len() as u8 + 2][..], &data].concat()),
    ];
    vec(option, 0..5).prop_map(|options| {
        let mut bytes: Vec<u8> = options.concat();
        bytes.truncate(if bytes.len() > 40 { 0 } else { bytes.len() });
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let word = prop_oneof![
        4 => Just(0u16),
        2 => Just(0x4000),
        2 => (0u16..0x1fff).prop_map(|offset| offset | 0x2000),
        1 => 0u16..0x2000,
        1 => any::<u16>(),
    ];
    let lens = prop_oneof![0usize..9000, 500usize..1500, Just(65_000usize)];
    (any::<bool>(), lens, any_options(), any::<u16>(), word, vec(20usize..3000, 0..4)).prop_map(
        |(to_far, payload, options, ident, word, segments)| Sent {
            to_far,
            payload,
            options,
            ident,
            word,
            segments,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is sent over ways of whatever size: nothing leaves that is larger than its way, and what leaves is what was
    /// sent, whole or in fragments that are it again.
    #[test]
    fn nothing_is_larger_than_its_way_and_nothing_is_lost(
        mtu in 576usize..1600, tunnel in 576usize..1600, packets in vec(any_sent(), 1..12),
    ) {
        let (mut node, other) = node(mtu, TxCaps::NONE);
        let mut tables = node.tables();
        let id = PortId::new(FIRST_POD + 1).unwrap();
        let port = Port { mtu: Mtu::new(mtu as u32).unwrap(), ..tables.ports.get(id).unwrap().clone() };
        tables.ports.insert(id, port);
        tables.vteps.edit(0, |vtep| vtep.mtu = Mtu::new(tunnel as u32).unwrap());
        node.switch.publish(tables);
        for packet in packets {
            let payload = bytes(packet.payload);
            let to = if packet.to_far { FAR } else { OTHER };
            let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, to, 9, &payload);
            let frame = with_header(frame, &packet.options, packet.ident, packet.word);
            let mut rest = frame.as_slice();
            let mut segments = Vec::new();
            for len in &packet.segments {
                let (segment, after) = rest.split_at((*len).min(rest.len()));
                segments.push(segment);
                rest = after;
            }
            segments.push(rest);
            let before = node.drops(DropReason::MtuExceeded) + node.drops(DropReason::FragmentOverflow);
            node.pod.inject(HeapBuf::from_segments(&segments));
            while node.switch.step() > 0 {}
            node.assert_balanced();
            let dropped = node.drops(DropReason::MtuExceeded) + node.drops(DropReason::FragmentOverflow) - before;

            let limit = if packet.to_far { tunnel } else { mtu };
            let pieces: Vec<Vec<u8>> = if packet.to_far {
                sent(&node.uplink).iter().map(|packet| packet[50..].to_vec()).collect()
            } else {
                sent(&other)
            };
            node.pod.take();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= 14 + limit));
            let too_big = frame.len() - 14 > limit;
            let offset = usize::from(packet.word & 0x1fff) * 8;
            if too_big && (packet.word & 0x4000 != 0 || offset + payload.len() > 65_535) {
                prop_assert!(pieces.is_empty() && dropped == 1);
                continue;
            }
            prop_assert_eq!(dropped, 0);
            if !too_big {
                prop_assert_eq!(pieces.len(), 1);
                prop_assert_eq!(&pieces[0][34 + packet.options.len()..], &payload[..]);
                continue;
            }
            // Side by side they are the packet again, with what it said of its own place and of more to follow.
            let mut at = offset;
            for (index, piece) in pieces.iter().enumerate() {
                let ip = header(piece);
                let last = index + 1 == pieces.len();
                prop_assert_eq!(usize::from(ip.fragments_offset().byte_offset()), at);
                prop_assert_eq!(ip.more_fragments(), !last || packet.word & 0x2000 != 0);
                prop_assert_eq!(ip.identification(), packet.ident);
                let data = &piece[14 + ip.slice().len()..];
                prop_assert!(last || data.len() % 8 == 0);
                prop_assert_eq!(data, &payload[at - offset..at - offset + data.len()]);
                at += data.len();
            }
            prop_assert_eq!(at, offset + payload.len());
            if packet.word & 0x3fff == 0 {
                prop_assert_eq!(reassembled(&pieces), payload);
            }
        }
    }
}
