//! Frames with 802.1Q tags: carried by MAC address like others, neither routed nor answered where the tag
//! names a VLAN, and no way round the guard.

use crate::lab::frames::{Checksum, Ip, Mac, UDP, ethernet, tagged, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY, GATEWAY_MAC, NOBODY, Pod, Segment, Station, UNKNOWN, arp_frame, arp_request, dad,
    heard, host_heard, multicast_mac, nd_body, nd_frame, pattern, plain, solicitation, stranger,
};

const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

fn packet(ends: (Mac, Mac), from: &str, to: &str) -> Vec<u8> {
    let ip = Ip::new(from, to);
    ip.frame(ends.0, ends.1, UDP, &udp(&ip, (1, 2), Checksum::Valid, b"behind a tag"))
}

/// The frame behind each kind of tags that is looked through.
fn tags(frame: &[u8]) -> Vec<Vec<u8>> {
    vec![
        tagged(frame, CUSTOMER, 5),
        // VLAN 0: for the receiver it is as if there were none.
        tagged(frame, CUSTOMER, 0),
        tagged(frame, SERVICE, 5),
        tagged(&tagged(frame, CUSTOMER, 5), SERVICE, 6),
        tagged(&tagged(frame, CUSTOMER, 0), CUSTOMER, 0),
    ]
}

/// The frame behind those that name a VLAN, or more than one tag.
fn vlans(frame: &[u8]) -> Vec<Vec<u8>> {
    let priority = tagged(frame, CUSTOMER, 0);
    tags(frame).into_iter().filter(|frame| *frame != priority).collect()
}

#[test]
fn a_tagged_frame_is_carried_with_its_tags() {
    let (segment, [mut left, mut right]) = two();
    let mut expected = Vec::new();
    for inner in [
        plain(right.mac, left.mac, "of no known protocol"),
        packet((right.mac, left.mac), &left.ips[0], &right.ips[0]),
        packet((right.mac, left.mac), &left.ips[1], &right.ips[1]),
    ] {
        expected.extend(tags(&inner));
        // Priority 7, discard eligible, the highest VLAN.
        expected.push(tagged(&inner, CUSTOMER, 0xfffe));
    }
    for frame in &expected {
        segment.carries(&mut left, &["right"], frame);
    }
    let expected: Vec<_> = expected.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
}

#[test]
fn a_tagged_broadcast_reaches_the_segment_with_its_tags() {
    let (segment, [mut left, mut right, mut vm]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")]);
    let mut frames = tags(&plain(BROADCAST, left.mac, "to a VLAN"));
    frames.extend(tags(&packet((multicast_mac("ff02::fb"), left.mac), &left.ips[1], "ff02::fb")));
    for frame in &frames {
        segment.carries(&mut left, &["right", "vm", "weft0"], frame);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
    heard(&mut vm, &mut left, &expected);
}

#[test]
fn a_tag_does_not_count_against_the_mtu() {
    let (segment, [mut left, mut right]) = two();
    left.namespace.ip("link set eth0 mtu 1600");
    let frame = |len| ethernet(right.mac, left.mac, UNKNOWN, &pattern(len));
    let fits = [tagged(&frame(1450), CUSTOMER, 5), tagged(&tagged(&frame(1450), CUSTOMER, 5), SERVICE, 6)];
    let too_long = tags(&frame(1451));
    for frame in &fits {
        segment.carries(&mut left, &["right"], frame);
    }
    segment.drops_each(&mut left, "mtu_exceeded", &too_long);
    heard(&mut right, &mut left, &[&fits[0], &fits[1]]);
}

#[test]
fn more_than_two_tags_are_not_carried() {
    let (segment, [mut left, mut right]) = two();
    let inner = packet((right.mac, left.mac), &right.ips[0], &right.ips[0]);
    for frame in tags(&inner).iter().filter(|frame| frame.len() == inner.len() + 8) {
        segment.drops(&mut left, "vlan_depth", &tagged(frame, CUSTOMER, 7));
        segment.drops(&mut left, "vlan_depth", &tagged(&tagged(frame, SERVICE, 7), SERVICE, 8));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_frame_that_ends_within_its_tag_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let one = tagged(&plain(right.mac, left.mac, ""), CUSTOMER, 5);
    let two = tagged(&one, SERVICE, 6);
    let frames = [&one[..14], &one[..15], &one[..17], &two[..18], &two[..19], &two[..21]].map(<[u8]>::to_vec);
    segment.drops_each(&mut left, "vlan_malformed", &frames);
    // What is behind the tag is looked at as ever.
    let packet = packet((right.mac, left.mac), &left.ips[0], &right.ips[0]);
    for frame in tags(&packet[..33]) {
        segment.drops(&mut left, "ipv4_malformed", &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn tags_do_not_hide_another_address() {
    let (segment, [mut left, mut right]) = two();
    let own = left.mac;
    for destination in [right.mac, BROADCAST, GATEWAY_MAC] {
        for (from, to) in [("10.244.0.3", "10.244.0.3"), ("0.0.0.0", "255.255.255.255")] {
            segment.drops_each(&mut left, "spoofed_ip", &tags(&packet((destination, own), from, to)));
        }
        let frames = tags(&packet((destination, own), "fd00:10:244::3", "fd00:10:244::3"));
        segment.drops_each(&mut left, "spoofed_ip", &frames);
        segment.drops_each(&mut left, "spoofed_mac", &tags(&plain(destination, stranger(1), "forged")));
        let claim = arp_frame(destination, 2, (own, "10.244.0.3"), (NOBODY, "10.244.0.3"));
        segment.drops_each(&mut left, "spoofed_neighbour", &tags(&claim));
        let body = nd_body("fd00:10:244::3", Some((2, own)));
        let claim = nd_frame(destination, own, ("fd00:10:244::2", "ff02::1"), 136, [0x20, 0, 0, 0], &body);
        segment.drops_each(&mut left, "spoofed_neighbour", &tags(&claim));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn tags_do_not_hide_what_is_a_routers_or_servers_to_say() {
    let (segment, [mut left, mut right]) = two();
    let all = multicast_mac("ff02::1");
    let advertisement = nd_frame(all, left.mac, ("fe80::2", "ff02::1"), 134, [64, 0, 7, 8], &[0; 8]);
    segment.drops_each(&mut left, "router_advertisement", &tags(&advertisement));
    let ip = Ip::new("10.244.0.2", "255.255.255.255");
    let offer = ip.frame(BROADCAST, left.mac, UDP, &udp(&ip, (67, 68), Checksum::Valid, &[2; 240]));
    segment.drops_each(&mut left, "dhcp_server", &tags(&offer));
    heard(&mut right, &mut left, &[]);
}

#[test]
fn nothing_of_a_vlan_is_routed() {
    let (segment, [mut left, mut right]) = two();
    let mut host = segment.host();
    for to in ["10.244.0.3", "10.244.0.1", "10.244.1.2", "198.51.100.1"] {
        let frames = vlans(&packet((GATEWAY_MAC, left.mac), "10.244.0.2", to));
        segment.drops_each(&mut left, "vlan_tagged", &frames);
    }
    let frames = vlans(&packet((GATEWAY_MAC, left.mac), "fd00:10:244::2", "fd00:10:244::3"));
    segment.drops_each(&mut left, "vlan_tagged", &frames);
    let frames = vlans(&plain(GATEWAY_MAC, left.mac, "to the gateway"));
    segment.drops_each(&mut left, "vlan_tagged", &frames);
    heard(&mut right, &mut left, &[]);
    host_heard(&mut host, &mut left, &[]);
}

#[test]
fn nothing_of_a_vlan_is_answered() {
    let (segment, [mut left, mut right]) = two();
    let mut questions = Vec::new();
    for target in [GATEWAY[0], "10.244.0.3"] {
        questions.extend(vlans(&arp_request(&left, target)));
    }
    for target in [GATEWAY[1], "fd00:10:244::3"] {
        questions.extend(vlans(&solicitation(&left, target)));
        questions.extend(vlans(&dad(left.mac, target)));
    }
    for question in &questions {
        // In its VLAN somebody else may answer.
        segment.carries(&mut left, &["right", "weft0"], question);
    }
    heard(&mut left, &mut right, &[]);
}

#[test]
fn a_priority_tag_is_as_none_to_the_gateway() {
    let (segment, [mut left, mut right]) = two();
    for question in [arp_request(&left, GATEWAY[0]), solicitation(&left, GATEWAY[1])] {
        let plain = segment.answer(&mut left, &question);
        assert_eq!(segment.answer(&mut left, &tagged(&question, CUSTOMER, 0)), plain);
    }
    let routed = packet((GATEWAY_MAC, left.mac), "10.244.0.2", "10.244.0.3");
    left.send(&tagged(&routed, CUSTOMER, 0));
    // All behind TTL and checksum is as it was.
    let ethernet = [&right.mac[..], &GATEWAY_MAC, &[8, 0]].concat();
    right.receive("the routed packet, untagged", |frame| {
        (frame.bytes[..14] == ethernet && frame.bytes[26..] == routed[26..]).then_some(())
    });
}
