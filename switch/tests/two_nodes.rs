//! Two weft nodes joined by a simulated link, stepped by the test: what a pod sends on one node arrives at the other's pod
//! as a router and a tunnel must leave it, and every frame is accounted for.

mod world;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use weft_switch::drop_reason::DropReason;
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};

use world::{GATEWAY, Node, POD_MAC, Underlay, World, ipv4_frame, ipv6_frame};

#[test]
fn a_packet_crosses_the_tunnel_with_two_hops_less() {
    for (underlay, overhead) in [(Underlay::V4, 50), (Underlay::V6, 70)] {
        let mut world = World::new(underlay, TxCaps::NONE);
        let sent = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, 7], 64, b"hello");
        world.a.pod.inject(HeapBuf::from_bytes(&sent));
        let on_wire = world.carry();

        assert_eq!(on_wire.len(), 1);
        assert_eq!(on_wire[0].len(), sent.len() + overhead);
        let arrived = world.b.pod.take();
        assert_eq!(arrived.len(), 1);
        let bytes = arrived[0].to_vec();
        let expected = ipv4_frame(GATEWAY[1], POD_MAC[1], [10, 244, 0, 5], [10, 244, 1, 7], 62, b"hello");
        assert_eq!(bytes, expected, "{underlay:?}");
        world.assert_balanced();
    }
}

#[test]
fn ipv6_inside_crosses_both_underlays() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let mut world = World::new(underlay, TxCaps::NONE);
        world.a.pod.inject(HeapBuf::from_bytes(&ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 1, 64, b"six")));
        world.carry();
        let arrived = world.b.pod.take();
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].to_vec(), ipv6_frame(GATEWAY[1], POD_MAC[1], 0, 1, 62, b"six"));
        world.assert_balanced();
    }
}

#[test]
fn the_outer_headers_are_flannels() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let inner = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, 7], 64, b"x");
    world.a.pod.inject(HeapBuf::from_bytes(&inner));
    let wire = world.carry().remove(0);
    assert_eq!(wire[0..12], [2, 0, 0, 0, 0xb, 0, 2, 0, 0, 0, 0xa, 0], "underlay MACs");
    let packet = SlicedPacket::from_ethernet(&wire).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let ip = ip.header();
    assert_eq!((ip.source(), ip.destination()), ([172, 16, 0, 1], [172, 16, 0, 2]));
    assert_eq!((ip.ttl(), ip.dont_fragment(), ip.dcp().value(), ip.ecn().value()), (64, false, 0, 0));
    assert_ne!(ip.identification(), 0);
    assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP") };
    assert_eq!((udp.destination_port(), udp.checksum()), (8472, 0));
    assert!((32768..60999).contains(&udp.source_port()));
    assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, 1, 0], "VXLAN header, VNI 1");
    assert_eq!(udp.payload()[8..22], [2, 0xf, 0, 0, 0, 1, 2, 0xf, 0, 0, 0, 0, 8, 0], "between the VTEPs");
    assert_eq!(udp.payload().len(), 8 + inner.len());
}

#[test]
fn over_ipv6_the_outer_checksum_is_valid() {
    let mut world = World::new(Underlay::V6, TxCaps::NONE);
    let inner = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, 7], 64, b"odd");
    world.a.pod.inject(HeapBuf::from_bytes(&inner));
    let wire = world.carry().remove(0);
    let packet = SlicedPacket::from_ethernet(&wire).unwrap();
    let (Some(etherparse::NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) =
        (&packet.net, &packet.transport)
    else {
        panic!("no UDP over IPv6")
    };
    let header = udp.to_header();
    let expected = header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap();
    assert_eq!(udp.checksum(), expected);
    assert_ne!(udp.checksum(), 0);
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_differ() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    for host in 0..20u8 {
        for _ in 0..2 {
            let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, host + 2], 64, b"");
            world.a.pod.inject(HeapBuf::from_bytes(&frame));
        }
    }
    let ports: Vec<[u8; 2]> = world.carry().iter().map(|wire| [wire[34], wire[35]]).collect();
    assert!(ports.chunks(2).all(|pair| pair[0] == pair[1]));
    let distinct: std::collections::HashSet<_> = ports.iter().collect();
    assert!(distinct.len() >= 18, "{} ports for 20 flows", distinct.len());
}

#[test]
fn a_gso_frame_from_a_kernel_vtep_is_cut_for_a_guest_and_kept_for_a_tap() {
    for (caps, frames) in [(TxCaps::NONE, 3), (TxCaps::ALL, 1)] {
        let mut world = World::new(Underlay::V4, caps);
        // As a kernel VTEP over veth hands it over: the inner checksum holds the pseudo-header's sum only.
        let payload: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
        let builder = PacketBuilder::ethernet2([2, 0xf, 0, 0, 0, 0], [2, 0xf, 0, 0, 0, 1])
            .ipv4([10, 244, 0, 5], [10, 244, 1, 7], 63)
            .tcp(1000, 2000, 7, 100)
            .ack(9)
            .psh();
        let mut inner = Vec::new();
        builder.write(&mut inner, &payload).unwrap();
        inner[14 + 20 + 16..][..2].copy_from_slice(&[0, 0]);
        let mut frame = HeapBuf::from_bytes(&world.encapsulated_by_kernel(&inner));
        let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, ecn: false });
        frame.set_offload(Offload { checksum: Checksum::Partial { start: 50 + 34, offset: 16 }, gso });
        world.b.uplink.inject(frame);
        world.b.switch.step();

        let arrived = world.b.pod.take();
        assert_eq!(arrived.len(), frames);
        if frames == 1 {
            assert_eq!(
                arrived[0].offload(),
                Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso }
            );
            assert_eq!(arrived[0].to_vec()[54..], payload);
        } else {
            let mut got = Vec::new();
            for frame in &arrived {
                let bytes = frame.to_vec();
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (&packet.net, &packet.transport)
                else {
                    panic!("no TCP")
                };
                let header = tcp.to_header();
                assert_eq!(tcp.sequence_number() as usize, 7 + got.len());
                let sum = header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap();
                assert_eq!(tcp.checksum(), sum);
                got.extend_from_slice(tcp.payload());
            }
            assert_eq!(got, payload);
        }
        world.assert_balanced();
    }
}

#[test]
fn each_wrong_tunnel_packet_has_its_own_reason() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: &[(Spoil, DropReason)] = &[
        (|f| f[26 + 3] = 99, DropReason::VtepUnknown),
        (|f| f[30 + 3] = 99, DropReason::NotTunnel),
        (|f| f[36..38].copy_from_slice(&[0, 80]), DropReason::NotTunnel),
        (|f| f[20] = 0x20, DropReason::OuterFragment),
        (|f| f[21] = 4, DropReason::NotTunnel),
        (|f| (f[20], f[37]) = (0x20, 80), DropReason::NotTunnel),
        (|f| f[40..42].copy_from_slice(&[1, 2]), DropReason::OuterUdpChecksum),
        (|f| f[38..40].copy_from_slice(&[0xff, 0]), DropReason::OuterUdpMalformed),
        (|f| f[42] = 0x00, DropReason::VxlanReserved),
        (|f| f[42] = 0x88, DropReason::VxlanReserved),
        (|f| f[45] = 1, DropReason::VxlanReserved),
        (|f| f[49] = 1, DropReason::VxlanReserved),
        (|f| f[48] = 2, DropReason::VniUnknown),
        (|f| f[50 + 5] = 9, DropReason::InnerMacWrong),
        (|f| f[56..62].copy_from_slice(&[2, 0xf, 0, 0, 0, 1]), DropReason::InnerMacOwn),
        (|f| f[62..64].copy_from_slice(&[8, 6]), DropReason::InnerNotIp),
        (|f| f[64] = 0x43, DropReason::InnerIpMalformed),
        (|f| f[64 + 12] ^= 1, DropReason::InnerIpChecksum),
        (|f| f[14] = 0x43, DropReason::OuterIpMalformed),
        (|f| f[6] = 1, DropReason::EthMalformed),
        (|f| f[50 + 6] = 1, DropReason::InnerEthMalformed),
        (|f| f[15] = 3, DropReason::EcnIllegal),
    ];
    for (number, (spoil, reason)) in cases.iter().enumerate() {
        let mut world = World::new(Underlay::V4, TxCaps::NONE);
        let inner = ipv4_frame(
            [2, 0xf, 0, 0, 0, 0],
            [2, 0xf, 0, 0, 0, 1],
            [10, 244, 0, 5],
            [10, 244, 1, 7],
            63,
            b"x",
        );
        let mut frame = world.encapsulated_by_kernel(&inner);
        world.b.uplink.inject(HeapBuf::from_bytes(&frame));
        world.b.switch.step();
        assert_eq!(world.b.pod.take().len(), 1, "the unspoilt frame passes");

        // Without an outer UDP checksum the spoilt field itself is what is wrong.
        frame[40..42].copy_from_slice(&[0, 0]);
        spoil(&mut frame);
        let header =
            [DropReason::OuterIpMalformed, DropReason::InnerIpMalformed, DropReason::InnerIpChecksum];
        if !header.contains(reason) {
            world::fill_outer_checksum(&mut frame);
        }
        let before = world.b.all_drops();
        world.b.uplink.inject(HeapBuf::from_bytes(&frame));
        world.b.switch.step();
        assert_eq!(world.b.drops(*reason), 1, "case {number}: {}", reason.name());
        assert_eq!(world.b.all_drops(), before + 1);
        assert!(world.b.pod.take().is_empty());
        world.assert_balanced();
    }
}

#[test]
fn a_tunnel_packet_cut_anywhere_is_dropped_once() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let inner =
        ipv4_frame([2, 0xf, 0, 0, 0, 0], [2, 0xf, 0, 0, 0, 1], [10, 244, 0, 5], [10, 244, 1, 7], 63, b"x");
    let frame = world.encapsulated_by_kernel(&inner);
    for len in 0..frame.len() {
        world.b.uplink.inject(HeapBuf::from_bytes(&frame[..len]));
        world.b.switch.step();
        assert_eq!(world.b.all_drops(), len as u64 + 1, "cut to {len}");
    }
    assert!(world.b.pod.take().is_empty());
    world.assert_balanced();
}

#[test]
fn congestion_marks_are_carried_over() {
    // (outer, inner) -> inner as it arrives (RFC 6040).
    for (outer, inner, arrives) in [(3u8, 2u8, 3u8), (3, 1, 3), (3, 3, 3), (0, 2, 2), (2, 2, 2), (0, 0, 0)] {
        let mut world = World::new(Underlay::V4, TxCaps::NONE);
        let mut packet = ipv4_frame(
            [2, 0xf, 0, 0, 0, 0],
            [2, 0xf, 0, 0, 0, 1],
            [10, 244, 0, 5],
            [10, 244, 1, 7],
            63,
            b"x",
        );
        packet[15] = inner;
        world::fill_ipv4_checksum(&mut packet[14..34]);
        let mut frame = world.encapsulated_by_kernel(&packet);
        frame[15] = outer;
        world::fill_outer_checksum(&mut frame);
        world.b.uplink.inject(HeapBuf::from_bytes(&frame));
        world.b.switch.step();
        let arrived = world.b.pod.take().remove(0).to_vec();
        assert_eq!(arrived[15], arrives, "outer {outer}, inner {inner}");
        assert!(SlicedPacket::from_ethernet(&arrived).is_ok());
        let mut checked = arrived[14..34].to_vec();
        world::fill_ipv4_checksum(&mut checked);
        assert_eq!(checked, arrived[14..34], "the header checksum is right");
    }
}

#[test]
fn the_senders_mark_is_copied_but_congestion_is_not_told_twice() {
    for (inner, outer) in [(0u8, 0u8), (1, 1), (2, 2), (3, 2)] {
        let mut world = World::new(Underlay::V4, TxCaps::NONE);
        let mut frame = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, 7], 64, b"x");
        frame[15] = inner | 0x48;
        world::fill_ipv4_checksum(&mut frame[14..34]);
        world.a.pod.inject(HeapBuf::from_bytes(&frame));
        assert_eq!(world.carry()[0][15], outer, "DSCP 0 and ECN {outer} for {inner}");
    }
}

#[test]
fn a_full_port_costs_its_own_packets_only() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    world.b.pod.limit(Some(3));
    for _ in 0..10 {
        let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], [10, 244, 0, 5], [10, 244, 1, 7], 64, b"x");
        world.a.pod.inject(HeapBuf::from_bytes(&frame));
    }
    world.carry();
    assert_eq!(world.b.pod.take().len(), 3);
    assert_eq!(world.b.drops(DropReason::TxNotTaken), 7);
    world.assert_balanced();
}

#[test]
fn a_port_of_another_worker_is_reached_through_its_ring() {
    let mut node = Node::new(1, Underlay::V4, 2, TxCaps::NONE);
    let other = MemPort::default();
    node.add_pod(1, [10, 244, 1, 8], [2, 0, 0, 0, 1, 8], &other);
    for number in 0..100u8 {
        let frame =
            ipv4_frame(POD_MAC[1], [2, 0, 0, 0, 1, 8], [10, 244, 1, 7], [10, 244, 1, 8], 64, &[number]);
        node.pod.inject(HeapBuf::from_bytes(&frame));
    }
    while node.switch.step() > 0 {}
    let arrived: Vec<u8> = other.take().iter().map(|frame| *frame.to_vec().last().unwrap()).collect();
    assert_eq!(arrived, (0..100).collect::<Vec<u8>>(), "all there, in order");
    assert_eq!(node.handed_over(), 100);
    node.assert_balanced();
}

/// A frame of a jumbo underlay, or one that the kernel has put together, is a chain.
#[test]
fn a_tunnel_packet_may_be_longer_than_its_first_segment() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let inner = ipv4_frame(
        [2, 0xf, 0, 0, 0, 0],
        [2, 0xf, 0, 0, 0, 1],
        [10, 244, 0, 5],
        [10, 244, 1, 7],
        63,
        &[7; 1200],
    );
    let mut frame = world.encapsulated_by_kernel(&inner);
    for checksum in [true, false] {
        if !checksum {
            frame[40..42].fill(0);
        }
        world.b.uplink.inject(HeapBuf::from_segments(&[&frame[..300], &frame[300..]]));
        world.b.switch.step();
        assert_eq!(world.b.pod.take().remove(0).to_vec()[34..], inner[34..], "with a checksum: {checksum}");
    }
    world.assert_balanced();
}
