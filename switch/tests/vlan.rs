//! Frames with 802.1Q tags: carried by their MAC addresses, neither routed nor answered unless the tag is a priority only; no way round what untrusted pods may
//! send; and their checksums and sizes are finished like those of others.

mod trusted;
mod world;

use etherparse::{LaxSlicedPacket, PacketBuilder, TransportSlice, VlanSlice};
use trusted::{At, Came, OTHER, OTHER_MAC, POD, Room, STATION};
use weft_switch::drop_reason::DropReason;
use weft_switch::offload::{Checksum, Offload, virtio};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::TxCaps;
use weft_switch::types::Mtu;
use world::{GATEWAY, HOST_MAC, POD_MAC, VTEP_MAC, World, ipv4_frame};

const BROADCAST: [u8; 6] = [0xff; 6];
const PRIORITY: [u8; 4] = [0x81, 0, 0xe0, 0];
const CUSTOMER: [u8; 4] = [0x81, 0, 0, 7];
const SERVICE: [u8; 4] = [0x88, 0xa8, 0, 9];

/// The tags that a frame may have.
const STACKS: [&[[u8; 4]]; 5] =
    [&[PRIORITY], &[CUSTOMER], &[SERVICE], &[SERVICE, CUSTOMER], &[CUSTOMER, CUSTOMER]];

fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

fn own6(last: u16) -> [u8; 16] {
    std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, last).octets()
}

fn udp6(src: [u8; 16], ports: (u16, u16), dst: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], dst).ipv6(src, own6(6), 9).udp(ports.0, ports.1);
    builder.write(&mut frame, b"over six").unwrap();
    frame
}

fn arp(sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let eth = [&BROADCAST[..], &POD_MAC[0], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&eth[..], &sender_mac, &sender, &[0; 6], &target].concat()
}

/// A neighbour discovery message of the pod's with this target and this link-layer address option.
fn nd(kind: u8, option: u8, target: [u8; 16], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let body = [&target[..], &[option, 1], &mac].concat();
    let to = [0x33, 0x33, 0, 0, 0, 1];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let builder = PacketBuilder::ethernet2(POD_MAC[0], to).ipv6(own6(5), all_nodes, 255);
    builder.icmpv6_raw(kind, 0, [0x20, 0, 0, 0]).write(&mut frame, &body).unwrap();
    frame
}

#[test]
fn tagged_frames_go_by_their_addresses_as_they_are() {
    let mut room = Room::new();
    for tags in STACKS {
        let to_pod = tagged(&ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 1, b"tagged"), tags);
        assert_eq!(room.send(At::Pod, &to_pod), Came::carried(&to_pod, &[At::Other]));
        let odd = tagged(&[&OTHER_MAC[..], &POD_MAC[0], &[0x88, 0xb5, 1, 2, 3]].concat(), tags);
        assert_eq!(room.send(At::Pod, &odd), Came::carried(&odd, &[At::Other]));
        let to_all = tagged(&ipv4_frame(POD_MAC[0], BROADCAST, POD, [255; 4], 1, b"tagged"), tags);
        let others = [At::Host, At::Other, At::Vm, At::Router];
        assert_eq!(room.send(At::Pod, &to_all), Came::carried(&to_all, &others));
        // A station is learned by its tagged frames, and found by others'.
        let from = tagged(&ipv4_frame(STATION, OTHER_MAC, [192, 168, 1, 1], [192, 168, 1, 2], 1, b""), tags);
        assert_eq!(room.send(At::Vm, &from), Came::carried(&from, &[At::Other]));
        let back = tagged(&ipv4_frame(POD_MAC[0], STATION, POD, OTHER, 1, b""), tags);
        assert_eq!(room.send(At::Pod, &back), Came::carried(&back, &[At::Vm]));
    }
}

#[test]
fn nothing_of_a_vlan_is_routed_or_answered() {
    let mut room = Room::new();
    for tags in &STACKS[1..] {
        for frame in [
            ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 1, 7], 9, b"far"),
            ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, b"near"),
            udp6(own6(5), (1, 2), GATEWAY[0]),
            [&GATEWAY[0][..], &POD_MAC[0], &[0x88, 0xb5, 1]].concat(),
        ] {
            let came = room.send(At::Pod, &tagged(&frame, tags));
            assert_eq!(came, Came::dropped(DropReason::VlanTagged));
        }
        let mut echo =
            ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 0, 1], 9, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        echo[23] = 1;
        world::fill_outer_checksum(&mut echo);
        assert_eq!(room.send(At::Pod, &tagged(&echo, tags)), Came::dropped(DropReason::VlanTagged));
        // Another VLAN's gateway is not weft.
        let others = [At::Host, At::Other, At::Vm, At::Router];
        let question = tagged(&arp(POD_MAC[0], POD, [10, 244, 0, 1]), tags);
        assert_eq!(room.send(At::Pod, &question), Came::carried(&question, &others));
        let question = tagged(&nd(135, 1, own6(1), POD_MAC[0]), tags);
        assert_eq!(room.send(At::Pod, &question), Came::carried(&question, &others));
    }
}

/// IEEE 802.1Q, section 6.9: a frame whose only tag has VLAN 0 is received as an untagged one.
#[test]
fn a_priority_tag_is_none_to_the_gateway() {
    let mut room = Room::with(TxCaps::ALL, |_| {});
    let mut echo =
        ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 0, 1], 9, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    echo[23] = 1;
    world::fill_outer_checksum(&mut echo);
    for frame in [
        arp(POD_MAC[0], POD, [10, 244, 0, 1]),
        arp(POD_MAC[0], POD, OTHER),
        nd(135, 1, own6(1), POD_MAC[0]),
        echo,
        ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, b"near"),
        udp6(own6(5), (1, 2), GATEWAY[0]),
        ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 1, b"at the end of its way"),
    ] {
        let plain = room.send(At::Pod, &frame);
        let came = room.send(At::Pod, &tagged(&frame, &[PRIORITY]));
        assert_eq!((came.to(), &came.drops), (plain.to(), &plain.drops));
        assert_eq!(came.out.len(), 1);
        if plain.drops.is_empty() {
            assert_eq!(came, plain);
        }
    }
    // Into the tunnel: all behind the outer headers is the same, and the length is.
    let far = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 1, 7], 9, b"far");
    let (plain, came) = (room.send(At::Pod, &far), room.send(At::Pod, &tagged(&far, &[PRIORITY])));
    assert_eq!(came.to(), [At::Uplink]);
    assert_eq!(came.only()[42..], plain.only()[42..]);
    // What is still to be done about checksum and size is so where the headers are now.
    for (v6, tcp, payload, gso) in
        [(false, true, 333, None), (true, false, 333, None), (false, true, 5000, Some(1300))]
    {
        let [plain, came] = [&[][..], &[PRIORITY]].map(|tags| {
            let mut frame = unfinished(v6, tcp, payload, tags, gso);
            assert!(frame.write_at(0, &GATEWAY[0]));
            room.send_all(At::Pod, vec![frame]).1
        });
        let seen = |out: &[(At, HeapBuf)]| -> Vec<_> {
            out.iter().map(|(at, frame)| (*at, frame.to_vec(), frame.offload())).collect()
        };
        assert_eq!((seen(&came), came.len(), came[0].0), (seen(&plain), 1, At::Other));
        assert_ne!(came[0].1.offload(), Offload::default());
    }
}

#[test]
fn tags_are_no_way_round_anti_spoofing() {
    let mut room = Room::new();
    let foreign_mac = ipv4_frame(OTHER_MAC, BROADCAST, POD, OTHER, 9, b"");
    let mut server4 = Vec::new();
    let builder = PacketBuilder::ethernet2(POD_MAC[0], OTHER_MAC).ipv4(POD, OTHER, 9).udp(67, 68);
    builder.write(&mut server4, &[0; 300]).unwrap();
    let mut redirect = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &[5, 1, 0, 0, 10, 244, 0, 5]);
    redirect[23] = 1;
    world::fill_outer_checksum(&mut redirect);
    let cases = [
        (foreign_mac, DropReason::SpoofedMac),
        (ipv4_frame(POD_MAC[0], OTHER_MAC, OTHER, POD, 9, b""), DropReason::SpoofedIp),
        (ipv4_frame(POD_MAC[0], BROADCAST, [10, 244, 0, 1], POD, 9, b""), DropReason::SpoofedIp),
        (udp6(own6(6), (1, 2), OTHER_MAC), DropReason::SpoofedIp),
        (udp6(own6(5), (547, 546), OTHER_MAC), DropReason::DhcpServer),
        (server4, DropReason::DhcpServer),
        (redirect, DropReason::Redirect),
        (arp(POD_MAC[0], OTHER, [10, 244, 0, 99]), DropReason::SpoofedNeighbour),
        (arp(OTHER_MAC, POD, [10, 244, 0, 99]), DropReason::SpoofedNeighbour),
        (arp(OTHER_MAC, [0; 4], [10, 244, 0, 99]), DropReason::SpoofedNeighbour),
        (nd(136, 2, own6(1), POD_MAC[0]), DropReason::SpoofedNeighbour),
        (nd(136, 2, own6(5), OTHER_MAC), DropReason::SpoofedNeighbour),
        (nd(135, 1, own6(6), OTHER_MAC), DropReason::SpoofedNeighbour),
        (nd(134, 1, [0; 16], POD_MAC[0]), DropReason::RouterAdvertisement),
        (nd(137, 2, own6(6), POD_MAC[0]), DropReason::Redirect),
    ];
    for tags in STACKS {
        for (number, (frame, reason)) in cases.iter().enumerate() {
            let came = room.send(At::Pod, &tagged(frame, tags));
            assert_eq!(came.drops, [(reason.name(), 1)].into(), "case {number} behind {tags:x?}");
            assert!(came.out.is_empty());
        }
        // What the pod says of itself is carried.
        let own = tagged(&nd(136, 2, own6(5), POD_MAC[0]), tags);
        assert_eq!(room.send(At::Pod, &own).to(), [At::Host, At::Other, At::Vm, At::Router]);
    }
}

#[test]
fn the_rules_of_the_bridge_hold_with_tags() {
    let mut room = Room::new();
    for tags in STACKS {
        for (mac, reason) in [
            (GATEWAY[0], DropReason::MacOfGateway),
            (HOST_MAC[0], DropReason::MacOfHost),
            (POD_MAC[0], DropReason::MacOfPod),
        ] {
            let frame = tagged(&ipv4_frame(mac, OTHER_MAC, POD, OTHER, 9, b""), tags);
            assert_eq!(room.send(At::Vm, &frame), Came::dropped(reason));
        }
        let bpdu = [&[1, 0x80, 0xc2, 0, 0, 0][..], &POD_MAC[0], &[0, 38, 0x42, 0x42, 3]].concat();
        let bpdu = tagged(&bpdu, tags);
        assert_eq!(room.send(At::Pod, &bpdu), Came::dropped(DropReason::ReservedAddress));
    }
}

#[test]
fn two_tags_and_no_more_and_each_of_them_whole() {
    let mut room = Room::new();
    let frame = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, b"deep");
    for tags in [[CUSTOMER; 3], [SERVICE, SERVICE, CUSTOMER], [PRIORITY; 3]] {
        for (from, frame) in [(At::Pod, frame.clone()), (At::Vm, tagged(&frame, &[CUSTOMER]))] {
            assert_eq!(room.send(from, &tagged(&frame, &tags)), Came::dropped(DropReason::VlanDepth));
        }
    }
    for tags in STACKS {
        let whole = tagged(&frame, tags);
        for len in 15..14 + 4 * tags.len() {
            assert_eq!(room.send(At::Pod, &whole[..len]), Came::dropped(DropReason::VlanMalformed), "{len}");
        }
        for len in 14 + 4 * tags.len()..whole.len() {
            assert_eq!(room.send(At::Pod, &whole[..len]), Came::dropped(DropReason::Ipv4Malformed), "{len}");
        }
    }
}

#[test]
fn tags_do_not_count_against_the_mtu() {
    let mut room = Room::new();
    for tags in STACKS {
        let full = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &[1; 1430]);
        let sent = tagged(&full, tags);
        assert_eq!(room.send(At::Pod, &sent), Came::carried(&sent, &[At::Other]));
        let over = tagged(&ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &[1; 1431]), tags);
        assert_eq!(room.send(At::Pod, &over), Came::dropped(DropReason::MtuExceeded));
        let to_all = tagged(&ipv4_frame(POD_MAC[0], BROADCAST, POD, OTHER, 9, &[1; 1431]), tags);
        assert_eq!(room.send(At::Pod, &to_all).drops, [("flood_too_big", 4)].into());
    }
    assert_eq!(Mtu::new(1450).unwrap().get(), 20 + 1430);
}

/// RFC 7348, section 6.1: an inner frame with a tag is to be dropped.
#[test]
fn a_tag_inside_the_tunnel_is_dropped_and_one_outside_is_no_tunnel_packet() {
    for tags in STACKS {
        let mut world = World::new(world::Underlay::V4, TxCaps::NONE);
        let inner = ipv4_frame(VTEP_MAC[0], VTEP_MAC[1], POD, [10, 244, 1, 7], 9, b"inside");
        let good = world.encapsulated_by_kernel(&inner);
        world.b.uplink.inject(HeapBuf::from_bytes(&world.encapsulated_by_kernel(&tagged(&inner, tags))));
        world.b.uplink.inject(HeapBuf::from_bytes(&tagged(&good, tags)));
        world.b.switch.step();
        assert!(world.b.pod.take().is_empty());
        assert_eq!((world.b.drops(DropReason::InnerTagged), world.b.drops(DropReason::NotTunnel)), (1, 1));
        world.b.uplink.inject(HeapBuf::from_bytes(&good));
        world.b.switch.step();
        assert_eq!((world.b.pod.take().len(), world.b.all_drops()), (1, 2));
        world.assert_balanced();
    }
}

/// The transport checksum as etherparse computes it, which knows nothing of weft.
fn assert_checksum(frame: &[u8], tags: usize) -> usize {
    let packet = LaxSlicedPacket::from_ethernet(frame).unwrap();
    let seen = match packet.vlan {
        None => 0,
        Some(VlanSlice::SingleVlan(_)) => 1,
        Some(VlanSlice::DoubleVlan(_)) => 2,
    };
    assert_eq!(seen, tags);
    let (l3, payload) = (14 + 4 * tags, packet.transport.unwrap());
    let v4 = frame[l3] >> 4 == 4;
    let header4 = || etherparse::Ipv4HeaderSlice::from_slice(&frame[l3..]).unwrap().to_header();
    let header6 = || etherparse::Ipv6HeaderSlice::from_slice(&frame[l3..]).unwrap().to_header();
    match payload {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = if v4 {
                assert_eq!(header4().header_checksum, header4().calc_header_checksum());
                header.calc_checksum_ipv4(&header4(), tcp.payload())
            } else {
                header.calc_checksum_ipv6(&header6(), tcp.payload())
            };
            assert_eq!(tcp.checksum(), sum.unwrap());
            tcp.payload().len()
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = if v4 {
                header.calc_checksum_ipv4(&header4(), udp.payload())
            } else {
                header.calc_checksum_ipv6(&header6(), udp.payload())
            };
            assert_eq!(udp.checksum(), sum.unwrap());
            udp.payload().len()
        }
        other => panic!("{other:?}"),
    }
}

/// What a guest with a VLAN interface sends: its checksum holds the sum of the pseudo-header, in a virtio-net header.
fn unfinished(v6: bool, tcp: bool, payload: usize, tags: &[[u8; 4]], gso: Option<u16>) -> HeapBuf {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2(POD_MAC[0], OTHER_MAC);
    let ip = if v6 { eth.ipv6(own6(5), own6(6), 9) } else { eth.ipv4(POD, OTHER, 9) };
    let data: Vec<u8> = (0..payload).map(|i| (i * 7) as u8).collect();
    if tcp {
        ip.tcp(1000, 80, 7, 900).ack(5).psh().write(&mut frame, &data).unwrap();
    } else {
        ip.udp(1000, 80).write(&mut frame, &data).unwrap();
    }
    let l4 = if v6 { 54 } else { 34 };
    let offset = if tcp { 16 } else { 6 };
    let addresses = if v6 { &frame[22..54] } else { &frame[26..34] };
    let protocol = if tcp { 6u32 } else { 17 };
    let words = addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum = words.sum::<u32>() + protocol + (frame.len() - l4) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[l4 + offset..l4 + offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    let frame = tagged(&frame, tags);
    let start = (l4 + 4 * tags.len()) as u16;
    let kind = match (gso.is_some(), tcp, v6) {
        (false, ..) => 0,
        (true, true, false) => 1,
        (true, true, true) => 4,
        (true, false, _) => 5,
    };
    let words = [0, gso.unwrap_or(0), start, offset as u16].map(u16::to_le_bytes).concat();
    let pieces: Vec<&[u8]> = frame.chunks(1501).collect();
    let mut buf = HeapBuf::from_segments(&pieces);
    let state = virtio::parse(&[&[1, kind], &words[..]].concat(), &buf).expect("behind the tags");
    buf.set_offload(state);
    buf
}

#[test]
fn checksums_and_sizes_are_finished_behind_tags() {
    for tags in STACKS {
        for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut room = Room::new();
            let (_, out) = room.send_all(At::Pod, vec![unfinished(v6, tcp, 333, tags, None)]);
            assert_eq!(out.len(), 1);
            assert_eq!(assert_checksum(&out[0].1.to_vec(), tags.len()), 333);
            let (came, out) = room.send_all(At::Pod, vec![unfinished(v6, tcp, 5000, tags, Some(1300))]);
            let lens: Vec<_> = out.iter().map(|(_, f)| assert_checksum(&f.to_vec(), tags.len())).collect();
            assert_eq!((lens, came.originated), (vec![1300, 1300, 1300, 1100], 3), "v6 {v6} tcp {tcp}");
            for (_, piece) in &out {
                assert_eq!(piece.to_vec()[12..12 + 4 * tags.len()], tags.concat()[..]);
            }
        }
    }
}

#[test]
fn a_port_that_takes_unfinished_frames_gets_them_with_their_tags() {
    let mut room = Room::with(TxCaps::ALL, |_| {});
    for tags in STACKS {
        let sent = unfinished(false, true, 5000, tags, Some(1300));
        let (came, out) = room.send_all(At::Pod, vec![sent.clone()]);
        assert_eq!((came.to(), &out[0].1), (vec![At::Other], &sent));
        let mut header = [0; virtio::HEADER];
        virtio::emit(out[0].1.offload(), &out[0].1, &mut header).unwrap();
        let start = 34 + 4 * tags.len() as u16;
        assert_eq!(u16::from_le_bytes([header[6], header[7]]), start);
        assert_eq!(u16::from_le_bytes([header[2], header[3]]), start + 20, "where the payload begins");
        assert_eq!(virtio::parse(&header, &out[0].1), Ok(sent.offload()));
    }
    // Segments that are too long are so behind tags as well.
    let long = unfinished(false, true, 5000, &[CUSTOMER], Some(1411));
    let (came, _) = room.send_all(At::Pod, vec![long]);
    assert_eq!(came, Came::dropped(DropReason::MtuExceeded));
}

#[test]
fn a_checksum_cannot_be_put_into_a_tag_or_a_header_behind_one() {
    for tags in STACKS {
        let frame =
            HeapBuf::from_bytes(&tagged(&ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &[0; 40]), tags));
        let l4 = 34 + 4 * tags.len() as u16;
        for start in 0..l4 {
            let words = [0, 0, start, 6].map(u16::to_le_bytes).concat();
            assert!(virtio::parse(&[&[1, 0], &words[..]].concat(), &frame).is_err(), "{start}");
        }
        let words = [0, 0, l4, 6].map(u16::to_le_bytes).concat();
        let state = Offload { checksum: Checksum::Partial { start: l4, offset: 6 }, gso: None };
        assert_eq!(virtio::parse(&[&[1, 0], &words[..]].concat(), &frame), Ok(state));
    }
    let deep = tagged(&ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 9, &[0; 40]), &[CUSTOMER; 3]);
    let words = [0, 0, 46, 6].map(u16::to_le_bytes).concat();
    assert!(virtio::parse(&[&[1, 0], &words[..]].concat(), &HeapBuf::from_bytes(&deep)).is_err());
}
