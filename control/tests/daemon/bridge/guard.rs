//! What a pod may send from: its own MAC address and its own IP addresses.

use crate::lab::frames::{Checksum, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ip, Mac, UDP, ethernet, tagged, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, NOBODY, Pod, Segment, Station, arp_frame, dad, heard, multicast_mac, nd_body,
    nd_frame, plain, solicitation, stranger,
};

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

fn packet(ends: (Mac, Mac), from: &str, to: &str) -> Vec<u8> {
    let ip = Ip::new(from, to);
    ip.frame(ends.0, ends.1, UDP, &udp(&ip, (1, 2), Checksum::Valid, b"from whom?"))
}

#[test]
fn another_mac_address_is_refused_whatever_the_frame_is() {
    let (segment, [mut left, mut right]) = two();
    let destinations = [right.mac, GATEWAY_MAC, BROADCAST, multicast_mac("ff02::1"), stranger(1)];
    for source in [stranger(2), right.mac, GATEWAY_MAC] {
        for destination in destinations {
            let frame = plain(destination, source, "forged");
            segment.drops(&mut left, "spoofed_mac", &frame);
            segment.drops(&mut left, "spoofed_mac", &tagged(&frame, 0x8100, 5));
            let frame = packet((destination, source), "10.244.0.2", "10.244.0.3");
            segment.drops(&mut left, "spoofed_mac", &frame);
        }
        let frame = arp_frame(BROADCAST, 1, (source, "10.244.0.2"), (NOBODY, "10.244.0.1"));
        segment.drops(&mut left, "spoofed_mac", &frame);
        segment.drops(&mut left, "spoofed_mac", &dad(source, "fd00:10:244::2"));
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn another_ipv4_address_is_refused_wherever_it_goes() {
    let (segment, [mut left, mut right]) = two();
    for from in ["10.244.0.3", "10.244.0.1", "10.244.1.2", "203.0.113.7", "0.0.0.0", "127.0.0.1", "224.0.0.1"]
    {
        for (mac, to) in [
            (right.mac, "10.244.0.3"),
            (GATEWAY_MAC, "10.244.0.1"),
            (GATEWAY_MAC, "10.244.1.2"),
            (BROADCAST, "255.255.255.255"),
            (multicast_mac("224.0.0.251"), "224.0.0.251"),
        ] {
            let frame = packet((mac, left.mac), from, to);
            segment.drops(&mut left, "spoofed_ip", &frame);
        }
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn another_ipv6_address_is_refused_wherever_it_goes() {
    let (segment, [mut left, mut right]) = two();
    for from in
        ["fd00:10:244::3", "fd00:10:244::1", "fd00:10:244:1::2", "2001:db8::7", "::", "::1", "ff02::1"]
    {
        for (mac, to) in [
            (right.mac, "fd00:10:244::3"),
            (GATEWAY_MAC, "fd00:10:244::1"),
            (GATEWAY_MAC, "fd00:10:244:1::2"),
            (multicast_mac("ff02::fb"), "ff02::fb"),
        ] {
            let frame = packet((mac, left.mac), from, to);
            segment.drops(&mut left, "spoofed_ip", &frame);
        }
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn link_local_addresses_stay_on_the_segment() {
    let (segment, [mut left, mut right]) = two();
    let frame = packet((right.mac, left.mac), "fe80::2", "fe80::3");
    segment.carries(&mut left, &["right"], &frame);
    heard(&mut right, &mut left, &[&frame]);
    let routed = packet((GATEWAY_MAC, left.mac), "fe80::2", "fd00:10:244::3");
    // The sender is told: beyond the scope of the source address (RFC 4443, section 3.1).
    left.drain();
    let deltas = segment.lab.deltas(1, || left.send(&routed));
    deltas.assert_only(&[("not_routable", 1), ("originated", 1), ("tx", 1)]);
    let told = left.receive("an error", |frame| Some(frame.bytes.clone()));
    assert_eq!((told[20], &told[54..56]), (58, &[1, 2][..]), "{told:x?}");
}

#[test]
fn another_sender_in_arp_is_refused() {
    let (segment, [mut left, mut right]) = two();
    let own = left.mac;
    for operation in [1, 2] {
        for destination in [BROADCAST, right.mac, GATEWAY_MAC] {
            for sender in ["10.244.0.3", "10.244.0.1", "10.244.1.2", "10.244.0.99"] {
                let frame = arp_frame(destination, operation, (own, sender), (NOBODY, "10.244.0.3"));
                segment.drops(&mut left, "spoofed_neighbour", &frame);
            }
        }
        // The right MAC address in front, another inside.
        let inside = arp_frame(BROADCAST, operation, (stranger(1), "10.244.0.2"), (NOBODY, "10.244.0.1"));
        let frame = ethernet(BROADCAST, own, ETHERTYPE_ARP, &inside[14..]);
        segment.drops(&mut left, "spoofed_neighbour", &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn another_sender_in_neighbour_discovery_is_refused() {
    let (segment, [mut left, mut right]) = two();
    let ips = ("fd00:10:244::2", "fd00:10:244::3");
    let ask = |option| nd_frame(right.mac, left.mac, ips, 135, [0; 4], &nd_body(ips.1, option));
    let tell = |target, option| {
        let body = nd_body(target, option);
        nd_frame(right.mac, left.mac, ips, 136, [0x60, 0, 0, 0], &body)
    };
    let frames = [
        // Whoever answers would put the option into its table.
        ask(Some((1, stranger(1)))),
        ask(Some((1, right.mac))),
        tell("fd00:10:244::3", Some((2, left.mac))),
        tell("fd00:10:244::1", Some((2, left.mac))),
        tell("fd00:10:244:1::2", Some((2, left.mac))),
        tell("fd00:10:244::99", None),
        // Its own address, but at another's MAC address.
        tell("fd00:10:244::2", Some((2, right.mac))),
    ];
    segment.drops_each(&mut left, "spoofed_neighbour", &frames);
    heard(&mut right, &mut left, &[]);
}

#[test]
fn a_trusted_pod_may_send_from_any_address() {
    let (segment, [mut vm, mut right]) = Segment::of([Pod::Trusted("vm"), Pod::Plain("right")]);
    let mut expected = Vec::new();
    for source in [vm.mac, stranger(1)] {
        expected.push(plain(right.mac, source, "from inside a machine"));
        for (from, to) in [
            ("10.244.0.77", "10.244.0.3"),
            ("203.0.113.7", "10.244.0.3"),
            ("fd00:10:244::77", "fd00:10:244::3"),
            ("2001:db8::7", "fd00:10:244::3"),
        ] {
            expected.push(packet((right.mac, source), from, to));
        }
    }
    for frame in &expected {
        segment.carries(&mut vm, &["right"], frame);
    }
    let expected: Vec<_> = expected.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut vm, &expected);
    // The other way nothing has changed.
    let frame = packet((vm.mac, right.mac), "10.244.0.77", "10.244.0.2");
    segment.drops(&mut right, "spoofed_ip", &frame);
}

#[test]
fn a_trusted_pod_may_ask_and_route_from_any_address() {
    let (segment, [mut vm, _right]) = Segment::of([Pod::Trusted("vm"), Pod::Plain("right")]);
    let inside = stranger(1);
    let question = arp_frame(BROADCAST, 1, (inside, "10.244.0.77"), (NOBODY, "10.244.0.1"));
    let answer = segment.answer(&mut vm, &question);
    assert_eq!(answer, arp_frame(inside, 2, (GATEWAY_MAC, "10.244.0.1"), (inside, "10.244.0.77")));

    // To the host by the router: the sender's own MAC address is not asked for either.
    let mut host = segment.host();
    let frame = packet((GATEWAY_MAC, inside), "10.244.0.77", "10.244.0.1");
    segment.carries(&mut vm, &["weft0"], &frame);
    let arrived = host.receive("packet", |frame| Some(frame.clone()));
    assert_eq!(arrived.bytes[12..14], ETHERTYPE_IPV4.to_be_bytes());
    assert_eq!(arrived.bytes[14..], frame[14..]);
}

#[test]
fn an_untrusted_pod_asks_for_itself() {
    let (segment, [mut left, _right]) = two();
    let question = solicitation(&left, "fd00:10:244::3");
    segment.answer(&mut left, &question);
}
