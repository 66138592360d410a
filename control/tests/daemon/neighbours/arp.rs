//! ARP: questions and their answers, byte for byte.

use crate::lab::frames::{ETHERTYPE_ARP, arp, ethernet};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, NOBODY, Pod, Segment, Station, arp_answer, arp_frame, arp_request, heard,
    stranger,
};

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

#[test]
fn weft_answers_for_the_gateway() {
    let (segment, [mut left, mut right]) = two();
    // Both addresses of the host's, and the one that its own routes go through.
    for target in ["10.244.0.1", "10.244.0.0", "169.254.1.1"] {
        let question = arp_request(&left, target);
        let answer = segment.answer(&mut left, &question);
        assert_eq!(answer, arp_answer(&left, target, GATEWAY_MAC));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn weft_answers_for_a_pod_of_the_node_and_the_pod_hears_nothing() {
    let (segment, [mut left, mut right]) = two();
    for destination in [BROADCAST, right.mac, GATEWAY_MAC] {
        let question = arp_frame(destination, 1, (left.mac, "10.244.0.2"), (NOBODY, "10.244.0.3"));
        let answer = segment.answer(&mut left, &question);
        assert_eq!(answer, arp_answer(&left, "10.244.0.3", right.mac));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn an_answer_is_no_longer_than_a_question_may_be() {
    let (segment, [mut left, _right]) = two();
    for len in [46, 60, 61, 1000] {
        let mut question = arp_request(&left, "10.244.0.1");
        question.resize(len, 0x5a);
        let answer = segment.answer(&mut left, &question);
        assert_eq!(answer[..42], arp_answer(&left, "10.244.0.1", GATEWAY_MAC));
        assert!(answer.len() <= 60, "{answer:02x?}");
        // Nothing from the switch's memory: what the asker said, or nothing.
        assert!(answer[42..].iter().all(|byte| [0, 0x5a].contains(byte)), "{answer:02x?}");
    }
}

#[test]
fn nobody_answers_for_an_address_that_is_free() {
    let (segment, [mut left, mut right]) = two();
    for target in ["10.244.0.99", "10.244.0.255", "10.245.0.1", "198.51.100.1", "0.0.0.0", "255.255.255.255"]
    {
        let question = arp_request(&left, target);
        segment.drops(&mut left, "neighbour_unknown", &question);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn weft_answers_for_pods_elsewhere_with_the_gateways_address() {
    let (segment, [mut left, mut right]) = two();
    // A pod asks for them where its mask covers them.
    for target in ["10.244.1.2", "10.244.1.0", "10.244.1.255"] {
        let question = arp_request(&left, target);
        let answer = segment.answer(&mut left, &question);
        assert_eq!(answer, arp_answer(&left, target, GATEWAY_MAC));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_probe_for_its_own_address_is_not_answered() {
    let (segment, [mut left, mut right]) = two();
    // RFC 5227: from no address. The host may hear of it.
    let probe = arp_frame(BROADCAST, 1, (left.mac, "0.0.0.0"), (NOBODY, "10.244.0.2"));
    for _ in 0..3 {
        segment.carries(&mut left, &["weft0"], &probe);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_probe_for_anothers_address_is_answered() {
    let (segment, [mut left, right]) = two();
    for (target, at) in [("10.244.0.3", right.mac), ("10.244.0.1", GATEWAY_MAC)] {
        let probe = arp_frame(BROADCAST, 1, (left.mac, "0.0.0.0"), (NOBODY, target));
        let answer = segment.answer(&mut left, &probe);
        assert_eq!(answer, arp_frame(left.mac, 2, (at, target), (left.mac, "0.0.0.0")));
    }
}

#[test]
fn an_answer_to_weft_changes_nothing() {
    let (segment, [mut left, mut right]) = two();
    let answer = arp_frame(GATEWAY_MAC, 2, (left.mac, "10.244.0.2"), (GATEWAY_MAC, "10.244.0.1"));
    segment.consumes(&mut left, &answer);
    let question = arp_request(&right, "10.244.0.2");
    assert_eq!(segment.answer(&mut right, &question), arp_answer(&right, "10.244.0.2", left.mac));
}

#[test]
fn a_message_that_is_no_arp_message_is_dropped() {
    let (segment, [mut left, mut right]) = two();
    let good = arp(1, (left.mac, "10.244.0.2"), (NOBODY, "10.244.0.1"));
    for len in [0, 1, 7, 8, 27] {
        let frame = ethernet(BROADCAST, left.mac, ETHERTYPE_ARP, &good[..len]);
        segment.drops(&mut left, "arp_malformed", &frame);
    }
    // Hardware, protocol, and the lengths of their addresses.
    for (at, value) in [(1, 6), (3, 1), (2, 0x86), (4, 8), (5, 16), (4, 0), (5, 0)] {
        let mut other = good.clone();
        other[at] = value;
        let frame = ethernet(BROADCAST, left.mac, ETHERTYPE_ARP, &other);
        segment.drops(&mut left, "arp_malformed", &frame);
    }
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn other_operations_than_question_and_answer_are_not_answered() {
    let (segment, [mut left, mut right]) = two();
    // Reverse ARP, inverse ARP, and one that nobody has.
    for operation in [0, 3, 4, 8, 9, 0x0100, 0xffff] {
        let frame = arp_frame(BROADCAST, operation, (left.mac, "10.244.0.2"), (NOBODY, "10.244.0.1"));
        segment.lab.deltas(1, || left.send(&frame));
    }
    heard(&mut left, &mut right, &[]);
}

#[test]
fn a_question_from_another_pods_address_is_neither_answered_nor_passed_on() {
    let (segment, [mut left, mut right]) = two();
    let forged = arp_frame(BROADCAST, 1, (left.mac, "10.244.0.3"), (NOBODY, "10.244.0.1"));
    segment.drops(&mut left, "spoofed_neighbour", &forged);
    let probe = arp_frame(BROADCAST, 1, (stranger(1), "0.0.0.0"), (NOBODY, "10.244.0.1"));
    segment.drops(&mut left, "spoofed_mac", &probe);
    heard(&mut left, &mut right, &[]);
    heard(&mut right, &mut left, &[]);
}
