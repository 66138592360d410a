//! Neighbour discovery: questions and their answers, byte for byte.

use crate::lab::frames::{ICMPV6, Ip, Mac, icmp};
use crate::lab::segment::{
    GATEWAY, GATEWAY_MAC, Pod, Segment, Station, advertisement, dad, heard, multicast_mac, nd_body, nd_frame,
    solicitation, solicited_node, stranger,
};

const LEFT: &str = "fd00:10:244::2";
const RIGHT: &str = "fd00:10:244::3";
/// Flags of an advertisement.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

/// The answer to a station: `target` is at this MAC address.
fn answer_to(asker: &Station, target: &str, at: Mac, router: u8) -> Vec<u8> {
    let ips = (target, asker.ips[1].as_str());
    advertisement(asker.mac, at, ips, router | SOLICITED | OVERRIDE, (target, at))
}

#[test]
fn weft_answers_for_the_gateway() {
    let (segment, [mut left, mut right]) = two();
    for target in [GATEWAY[1], "fd00:10:244::", "fe80::1"] {
        let question = solicitation(&left, target);
        let answer = segment.answer(&mut left, &question);
        assert_eq!(answer, answer_to(&left, target, GATEWAY_MAC, ROUTER), "{target}");
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn weft_answers_for_a_pod_of_the_node_and_the_pod_hears_nothing() {
    let (segment, [mut left, mut right]) = two();
    let question = solicitation(&left, RIGHT);
    let answer = segment.answer(&mut left, &question);
    assert_eq!(answer, answer_to(&left, RIGHT, right.mac, 0));
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_question_to_one_station_is_answered_too() {
    let (segment, [mut left, mut right]) = two();
    // As a kernel asks whether an entry still holds: with and without its own address in it.
    for option in [Some((1, left.mac)), None] {
        for (target, to, at, router) in
            [(RIGHT, right.mac, right.mac, 0), (GATEWAY[1], GATEWAY_MAC, GATEWAY_MAC, ROUTER)]
        {
            let question = nd_frame(to, left.mac, (LEFT, target), 135, [0; 4], &nd_body(target, option));
            let answer = segment.answer(&mut left, &question);
            assert_eq!(answer, answer_to(&left, target, at, router), "{target}");
        }
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn weft_answers_for_pods_elsewhere_with_the_gateways_address() {
    let (segment, [mut left, mut right]) = two();
    for target in ["fd00:10:244:1::2", "fd00:10:244:1::"] {
        let question = solicitation(&left, target);
        let answer = segment.answer(&mut left, &question);
        // A router's address, but not a router with this address; and whoever has it may say otherwise (RFC 4861, 7.2.8).
        let ips = (target, LEFT);
        let expected = advertisement(left.mac, GATEWAY_MAC, ips, SOLICITED, (target, GATEWAY_MAC));
        assert_eq!(answer, expected, "{target}");
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn nobody_answers_for_an_address_that_is_free() {
    let (segment, [mut left, mut right]) = two();
    for target in ["fd00:10:244::99", "fd00:10:244:7::1", "2001:db8::1", "fe80::99"] {
        let question = solicitation(&left, target);
        segment.drops(&mut left, "neighbour_unknown", &question);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn duplicate_address_detection_for_its_own_address_is_not_answered() {
    let (segment, [mut left, mut right]) = two();
    let probe = dad(left.mac, LEFT);
    for _ in 0..3 {
        segment.carries(&mut left, &["weft0"], &probe);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn duplicate_address_detection_for_anothers_address_is_answered_to_all() {
    let (segment, [mut left, mut right]) = two();
    for (target, at, router) in [(RIGHT, right.mac, 0), (GATEWAY[1], GATEWAY_MAC, ROUTER)] {
        let probe = dad(left.mac, target);
        let answer = segment.answer(&mut left, &probe);
        // To all nodes, and not "solicited": nobody with an address has asked (RFC 4861 section 7.2.4).
        let all = multicast_mac("ff02::1");
        let expected = advertisement(all, at, (target, "ff02::1"), router | OVERRIDE, (target, at));
        assert_eq!(answer, expected, "{target}");
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_link_local_address_is_free_unless_somebody_has_it() {
    let (segment, [mut left, mut right]) = two();
    // Made from the MAC address, as kernels do, and any other.
    let [a, b, c, d, e, f] = left.mac;
    let own = format!("fe80::{:02x}{b:02x}:{c:02x}ff:fe{d:02x}:{e:02x}{f:02x}", a ^ 2);
    for target in [own.as_str(), "fe80::1234"] {
        let probe = dad(left.mac, target);
        left.send(&probe);
    }
    heard(&mut left, &mut right, &[]);
    // The gateway's own is not free.
    let probe = dad(left.mac, "fe80::1");
    let answer = segment.answer(&mut left, &probe);
    assert_eq!(answer[..6], multicast_mac("ff02::1"));
}

#[test]
fn a_message_from_beyond_a_router_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let (group, mac) = solicited_node(RIGHT);
    for hop_limit in [0, 1, 64, 254] {
        let mut ip = Ip::new(LEFT, &group);
        ip.ttl = hop_limit;
        let message = icmp(&ip, (135, 0), [0; 4], &nd_body(RIGHT, Some((1, left.mac))));
        let frame = ip.frame(mac, left.mac, ICMPV6, &message);
        segment.drops(&mut left, "nd_malformed", &frame);
    }
    heard(&mut left, &mut right, &[]);
}

#[test]
fn a_message_with_a_wrong_checksum_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let own = advertisement(right.mac, left.mac, (LEFT, RIGHT), OVERRIDE, (LEFT, left.mac));
    for good in [solicitation(&left, RIGHT), dad(left.mac, RIGHT), own] {
        // The checksum, the target, and the last byte.
        for at in [14 + 40 + 2, 14 + 40 + 3, 14 + 40 + 23, good.len() - 1] {
            let mut wrong = good.clone();
            wrong[at] ^= 0x01;
            segment.drops(&mut left, "nd_checksum", &wrong);
        }
        let mut absent = good.clone();
        absent[14 + 40 + 2..14 + 40 + 4].fill(0);
        segment.drops(&mut left, "nd_checksum", &absent);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_message_whose_options_make_no_sense_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let (group, group_mac) = solicited_node(RIGHT);
    let target = nd_body(RIGHT, None);
    let [a, b, c, d, e, f] = left.mac;
    for options in [
        // Of length 0: an unwary receiver stays here for ever.
        &[1, 0, a, b, c, d, e, f][..],
        &[14, 0, 0, 0, 0, 0, 0, 0],
        &[1, 1, a, b, c, d, e, f, 14, 0, 0, 0, 0, 0, 0, 0],
        // Longer than the message, and cut off.
        &[1, 2, a, b, c, d, e, f],
        &[1, 255, a, b, c, d, e, f],
        &[1],
        &[1, 1],
        &[1, 1, a, b, c, d, e],
    ] {
        for kind in [135, 136] {
            let body = [&target[..], options].concat();
            let frame = nd_frame(group_mac, left.mac, (LEFT, &group), kind, [0; 4], &body);
            segment.drops(&mut left, "nd_malformed", &frame);
        }
    }
    // Without a target, or with a part of one.
    for len in [0, 1, 8, 15] {
        for kind in [135, 136] {
            let frame = nd_frame(group_mac, left.mac, (LEFT, &group), kind, [0; 4], &target[..len]);
            segment.drops(&mut left, "nd_malformed", &frame);
        }
    }
    // An option that nobody knows is passed over.
    let body = [&target[..], &[200, 1, 0, 0, 0, 0, 0, 0, 1, 1, a, b, c, d, e, f]].concat();
    let question = nd_frame(group_mac, left.mac, (LEFT, &group), 135, [0; 4], &body);
    assert_eq!(segment.answer(&mut left, &question), answer_to(&left, RIGHT, right.mac, 0));
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_message_that_contradicts_itself_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let (group, group_mac) = solicited_node(RIGHT);
    let all = multicast_mac("ff02::1");
    let mut ip = Ip::new(LEFT, &group);
    ip.ttl = 255;
    let frames = [
        // From no address, but with a MAC address that has it.
        nd_frame(group_mac, left.mac, ("::", &group), 135, [0; 4], &nd_body(RIGHT, Some((1, left.mac)))),
        // About a group (RFC 4861 sections 7.1.1 and 7.1.2).
        nd_frame(group_mac, left.mac, (LEFT, &group), 135, [0; 4], &nd_body("ff02::1", None)),
        nd_frame(all, left.mac, (LEFT, "ff02::1"), 136, [0; 4], &nd_body("ff02::1", None)),
        // An answer to all that says that it was asked for.
        nd_frame(all, left.mac, (LEFT, "ff02::1"), 136, [SOLICITED, 0, 0, 0], &nd_body(LEFT, None)),
        // A code that is not 0.
        ip.frame(
            group_mac,
            left.mac,
            ICMPV6,
            &icmp(&ip, (135, 1), [0; 4], &nd_body(RIGHT, Some((1, left.mac)))),
        ),
    ];
    segment.drops_each(&mut left, "nd_malformed", &frames);
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_question_behind_extension_headers_is_read() {
    let (segment, [mut left, mut right]) = two();
    let (group, group_mac) = solicited_node(RIGHT);
    let mut ip = Ip::new(LEFT, &group);
    ip.ttl = 255;
    let message = icmp(&ip, (135, 0), [0; 4], &nd_body(RIGHT, Some((1, left.mac))));
    // Hop-by-hop options and destination options, each of padding.
    let hop_by_hop = [&[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    let destination = [&[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    let both = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &destination].concat();
    for (next, payload) in [(0, hop_by_hop), (60, destination), (0, both)] {
        let question = ip.frame(group_mac, left.mac, next, &payload);
        assert_eq!(segment.answer(&mut left, &question), answer_to(&left, RIGHT, right.mac, 0));
    }
    // Nor do they hide a lie.
    let lie = icmp(&ip, (136, 0), [OVERRIDE, 0, 0, 0], &nd_body(RIGHT, Some((2, left.mac))));
    let frame = ip.frame(group_mac, left.mac, 60, &[&[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &lie].concat());
    segment.drops(&mut left, "spoofed_neighbour", &frame);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_message_in_fragments_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let (group, group_mac) = solicited_node(RIGHT);
    let all = multicast_mac("ff02::1");
    let fragment = |to: &str, mac: Mac, kind: u8, body: &[u8], more: u8| {
        let mut ip = Ip::new(LEFT, to);
        ip.ttl = 255;
        let message = icmp(&ip, (kind, 0), [0; 4], body);
        ip.frame(mac, left.mac, 44, &[&[ICMPV6, 0, 0, more, 0, 0, 0, 1][..], &message].concat())
    };
    // The whole in one fragment (RFC 6980), and one that is not the last.
    let frames: Vec<_> = [0, 1]
        .into_iter()
        .flat_map(|more| {
            [
                fragment(&group, group_mac, 135, &nd_body(RIGHT, Some((1, left.mac))), more),
                fragment("ff02::1", all, 136, &nd_body(LEFT, Some((2, stranger(1)))), more),
                fragment("ff02::1", all, 134, &[0; 24], more),
                fragment(RIGHT, right.mac, 137, &[0; 32], more),
            ]
        })
        .collect();
    segment.drops_each(&mut left, "nd_fragment", &frames);
    heard(&mut right, &mut left, &[]);
}
