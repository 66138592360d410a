//! A node's own segment: bridging, questions about neighbours, the gateway's host, and who may send from what.

mod world;

use weft_switch::drop_reason::DropReason;
use weft_switch::offload::{Checksum, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::port::{MemPort, TxCaps};

use world::{GATEWAY, HOST_MAC, Node, POD_MAC, Underlay, ipv4_frame, ipv6_frame};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const OTHER: [u8; 4] = [10, 244, 0, 6];
const POD: [u8; 4] = [10, 244, 0, 5];

/// A node with two pods.
fn node() -> (Node, MemPort) {
    let mut node = Node::new(0, Underlay::V4, 1, TxCaps::NONE);
    let other = MemPort::default();
    node.add_pod(0, OTHER, OTHER_MAC, &other);
    (node, other)
}

fn step(node: &mut Node, port: &MemPort, frame: &[u8]) {
    port.inject(HeapBuf::from_bytes(frame));
    node.switch.step();
}

fn arp(op: u8, src: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(src);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
    frame.extend(src);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn pods_of_a_node_are_bridged_untouched() {
    let (mut node, other) = node();
    let frame = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 1, b"same segment");
    let pod = node.pod.clone();
    step(&mut node, &pod, &frame);
    assert_eq!(other.take().iter().map(HeapBuf::to_vec).collect::<Vec<_>>(), [frame]);
    node.assert_balanced();
}

#[test]
fn through_the_gateway_it_is_a_hop() {
    let (mut node, other) = node();
    let pod = node.pod.clone();
    step(&mut node, &pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, b"x"));
    let expected = ipv4_frame(GATEWAY[0], OTHER_MAC, POD, OTHER, 8, b"x");
    assert_eq!(other.take()[0].to_vec(), expected);
    step(&mut node, &pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 1, b"x"));
    assert_eq!(node.drops(DropReason::TtlExceeded), 1);
    assert!(other.take().is_empty());
}

#[test]
fn the_host_is_no_hop_in_either_direction() {
    let (mut node, _) = node();
    let (pod, host) = (node.pod.clone(), node.host.clone());
    step(&mut node, &pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [192, 0, 2, 9], 64, b"out"));
    assert_eq!(host.take()[0].to_vec(), ipv4_frame(GATEWAY[0], HOST_MAC[0], POD, [192, 0, 2, 9], 64, b"out"));
    step(&mut node, &host, &ipv4_frame(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 1], POD, 64, b"in"));
    assert_eq!(pod.take()[0].to_vec(), ipv4_frame(GATEWAY[0], POD_MAC[0], [10, 244, 0, 1], POD, 64, b"in"));
    // From the host to another node's pod: from the .0 address, and the kernel has counted its hop.
    step(
        &mut node,
        &host,
        &ipv4_frame(HOST_MAC[0], GATEWAY[0], [10, 244, 0, 0], [10, 244, 1, 7], 64, b"far"),
    );
    let wire = node.uplink.take()[0].to_vec();
    assert_eq!(wire[50 + 14 + 8], 64);
    node.assert_balanced();
}

#[test]
fn the_zero_the_gateway_and_link_local_addresses_are_the_hosts() {
    let (mut node, _) = node();
    let (pod, host) = (node.pod.clone(), node.host.clone());
    for to in [[10, 244, 0, 0], [10, 244, 0, 1], [169, 254, 169, 254]] {
        step(&mut node, &pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD, to, 64, b"node"));
        assert_eq!(host.take().len(), 1, "{to:?}");
    }
}

#[test]
fn arp_is_answered_for_the_gateway_and_for_pods() {
    let (mut node, other) = node();
    let pod = node.pod.clone();
    for (target, mac) in [([10, 244, 0, 1], GATEWAY[0]), (OTHER, OTHER_MAC)] {
        step(&mut node, &pod, &arp(1, POD_MAC[0], POD, target));
        let answers = pod.take();
        assert_eq!(answers.len(), 1);
        let answer = answers[0].to_vec();
        assert_eq!(answer[..6], POD_MAC[0]);
        assert_eq!(answer[6..12], mac);
        assert_eq!(answer[20..22], [0, 2], "a reply");
        assert_eq!((&answer[22..28], &answer[28..32]), (&mac[..], &target[..]));
        assert_eq!((&answer[32..38], &answer[38..42]), (&POD_MAC[0][..], &POD[..]));
    }
    assert!(other.take().is_empty(), "nobody else is asked");
    node.assert_balanced();
}

#[test]
fn arp_that_is_no_question_for_others_is_not_answered() {
    let (mut node, other) = node();
    let (pod, host) = (node.pod.clone(), node.host.clone());
    let silent = [
        arp(1, POD_MAC[0], [0; 4], POD), // a probe for its own address (RFC 5227)
        arp(1, POD_MAC[0], POD, POD),    // an announcement
        arp(2, POD_MAC[0], POD, [10, 244, 0, 1]), // an answer to everybody
    ];
    for (frame, kept) in silent.iter().zip([0, 1, 1]) {
        step(&mut node, &pod, frame);
        assert!(pod.take().is_empty());
        assert_eq!(other.take().len(), kept, "another pod may keep what is announced");
        assert_eq!(host.take().len(), 1, "the host may keep the address");
    }
    let mut to_the_gateway = arp(2, POD_MAC[0], POD, [10, 244, 0, 1]);
    to_the_gateway[..6].copy_from_slice(&GATEWAY[0]);
    step(&mut node, &pod, &to_the_gateway);
    assert_eq!((node.consumed(), node.all_drops()), (1, 0));
    step(&mut node, &pod, &arp(1, POD_MAC[0], POD, [10, 244, 0, 99]));
    assert_eq!(node.drops(DropReason::NeighbourUnknown), 1);
    node.assert_balanced();
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let (mut node, other) = node();
    let pod = node.pod.clone();
    let cases: [(Vec<u8>, DropReason); 7] = [
        (ipv4_frame(OTHER_MAC, OTHER_MAC, POD, OTHER, 64, b""), DropReason::SpoofedMac),
        (ipv4_frame(POD_MAC[0], OTHER_MAC, [10, 244, 0, 9], OTHER, 64, b""), DropReason::SpoofedIp),
        (ipv4_frame(POD_MAC[0], GATEWAY[0], OTHER, [10, 244, 1, 7], 64, b""), DropReason::SpoofedIp),
        (ipv6_frame(POD_MAC[0], GATEWAY[0], 1, 0, 64, b""), DropReason::SpoofedIp),
        (arp(1, POD_MAC[0], OTHER, [10, 244, 0, 1]), DropReason::SpoofedNeighbour),
        (arp(2, POD_MAC[0], [10, 244, 0, 1], OTHER), DropReason::SpoofedNeighbour),
        (
            {
                let mut frame = arp(1, POD_MAC[0], POD, [10, 244, 0, 1]);
                frame[22..28].copy_from_slice(&OTHER_MAC);
                frame
            },
            DropReason::SpoofedNeighbour,
        ),
    ];
    for (number, (frame, reason)) in cases.iter().enumerate() {
        let (before, all) = (node.drops(*reason), node.all_drops());
        step(&mut node, &pod, frame);
        assert_eq!(node.drops(*reason), before + 1, "case {number}");
        assert_eq!(node.all_drops(), all + 1);
    }
    assert!(other.take().is_empty() && node.uplink.take().is_empty() && node.host.take().is_empty());
    node.assert_balanced();
}

#[test]
fn what_leads_nowhere_has_its_reason() {
    let (mut node, _) = node();
    let pod = node.pod.clone();
    let mut tagged = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 64, b"");
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut odd = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 64, b"");
    odd[12..14].copy_from_slice(&[0x88, 0xcc]);
    let big = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 1, 7], 64, &[0; 1431]);
    let cases = [
        (ipv4_frame(POD_MAC[0], [2, 9, 9, 9, 9, 9], POD, OTHER, 64, b""), DropReason::FdbMiss),
        (ipv4_frame(POD_MAC[0], POD_MAC[0], POD, POD, 64, b""), DropReason::SamePort),
        (
            ipv4_frame(POD_MAC[0], [1, 0x80, 0xc2, 0, 0, 0xe], POD, [255; 4], 64, b""),
            DropReason::ReservedAddress,
        ),
        (ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 77, 1], 64, b""), DropReason::RouteUnreachable),
        (ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 0, 77], 64, b""), DropReason::NoPod),
        (ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [224, 0, 0, 1], 64, b""), DropReason::NotRoutable),
        (ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [127, 0, 0, 1], 64, b""), DropReason::NotRoutable),
        (tagged, DropReason::VlanTagged),
        (odd, DropReason::NotIp),
        (big, DropReason::MtuExceeded),
        (vec![0; 13], DropReason::EthMalformed),
    ];
    for (number, (frame, reason)) in cases.iter().enumerate() {
        let (before, all) = (node.drops(*reason), node.all_drops());
        step(&mut node, &pod, frame);
        assert_eq!(node.drops(*reason), before + 1, "case {number}: {}", reason.name());
        assert_eq!(node.all_drops(), all + 1, "case {number}");
    }
    node.assert_balanced();
}

#[test]
fn ethernet_padding_does_not_travel() {
    let (mut node, _) = node();
    let pod = node.pod.clone();
    let mut frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 1, 7], 64, b"1");
    let len = frame.len();
    frame.resize(60, 0xee);
    step(&mut node, &pod, &frame);
    assert_eq!(node.uplink.take()[0].to_vec().len(), len + 50);
}

#[test]
fn headers_in_many_segments_are_read_all_the_same() {
    let (mut node, other) = node();
    let frame = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, OTHER, 9, &[7; 600]);
    let pieces: Vec<&[u8]> = frame.chunks(3).collect();
    node.pod.inject(HeapBuf::from_segments(&pieces));
    node.switch.step();
    let expected = ipv4_frame(GATEWAY[0], OTHER_MAC, POD, OTHER, 8, &[7; 600]);
    assert_eq!(other.take()[0].to_vec(), expected);
}

/// A neighbour advertisement that lies, behind an options header, cut so that only the options are in the first segment.
#[test]
fn neighbour_discovery_is_seen_behind_the_first_segment() {
    let (mut node, other) = node();
    let mut frame = [&OTHER_MAC[..], &POD_MAC[0], &[0x86, 0xdd, 0x60, 0, 0, 0, 1, 32, 60, 255]].concat();
    let own: std::net::Ipv6Addr = "fd00:10:244::5".parse().unwrap();
    let peer: std::net::Ipv6Addr = "fd00:10:244::6".parse().unwrap();
    frame.extend([own.octets(), peer.octets()].concat());
    frame.extend([58, 31, 1, 4].iter().chain(&[0; 252]));
    let (options, gateway) = (frame.len(), "fd00:10:244::1".parse::<std::net::Ipv6Addr>().unwrap());
    frame.extend(
        [136, 0, 0, 0, 0x20, 0, 0, 0].iter().chain(&gateway.octets()).chain(&[2, 1]).chain(&POD_MAC[0]),
    );
    let before = node.all_drops();
    for cut in [options, options + 8, frame.len()] {
        node.pod.inject(HeapBuf::from_segments(&[&frame[..cut], &frame[cut..]]));
        node.switch.step();
        assert!(other.take().is_empty(), "cut at {cut}");
    }
    assert_eq!(node.all_drops(), before + 3);
    node.assert_balanced();
}

#[test]
fn an_echo_whose_sum_is_not_filled_in_is_answered_with_a_right_one() {
    let (mut node, _) = node();
    let mut frame =
        ipv4_frame(POD_MAC[0], GATEWAY[0], POD, [10, 244, 0, 1], 64, &[8, 0, 0, 0, 0, 1, 0, 1, 9, 9]);
    frame[23] = 1;
    world::fill_outer_checksum(&mut frame);
    let mut request = HeapBuf::from_bytes(&frame);
    request.set_offload(Offload { checksum: Checksum::Partial { start: 34, offset: 2 }, gso: None });
    node.pod.inject(request);
    node.switch.step();
    let answer = node.pod.take().remove(0).to_vec();
    assert_eq!(answer[34], 0, "an echo reply");
    assert_eq!(weft_switch::wire::checksum::Sum::new().add(&answer[34..]).fold(), 0xffff);
}

#[test]
fn what_is_bridged_is_no_longer_than_the_link_with_all_that_it_carries() {
    let (mut node, other) = node();
    let pod = node.pod.clone();
    let ip = ipv4_frame(POD_MAC[0], OTHER_MAC, POD, OTHER, 64, b"short");
    let mpls = [&OTHER_MAC[..], &POD_MAC[0], &[0x88, 0x47]].concat();
    for mut frame in [ip, mpls] {
        frame.resize(14 + 1450, 0);
        step(&mut node, &pod, &frame);
        assert_eq!(other.take().len(), 1);
        frame.push(0);
        step(&mut node, &pod, &frame);
        assert!(other.take().is_empty());
    }
    assert_eq!(node.drops(DropReason::MtuExceeded), 2);
}
