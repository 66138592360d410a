//! Who says unasked where an address is: gratuitous ARP and unsolicited advertisements.

use crate::lab::frames::{Checksum, Ip, UDP, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, NOBODY, Pod, Segment, Station, advertisement, arp_frame, arp_request, heard,
    host_heard, multicast_mac, nd_body, nd_frame, solicitation, stranger,
};

const OVERRIDE: u8 = 0x20;

fn three() -> (Segment, [Station; 3]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")])
}

/// Both forms of gratuitous ARP (RFC 5227 section 3) and an unsolicited advertisement (RFC 4861 section 7.2.6).
fn announcements(from: &Station, [v4, v6]: [&str; 2]) -> [Vec<u8>; 3] {
    [
        arp_frame(BROADCAST, 1, (from.mac, v4), (NOBODY, v4)),
        arp_frame(BROADCAST, 2, (from.mac, v4), (from.mac, v4)),
        advertisement(multicast_mac("ff02::1"), from.mac, (v6, "ff02::1"), OVERRIDE, (v6, from.mac)),
    ]
}

#[test]
fn a_pods_own_address_is_told_to_all_who_may_keep_it() {
    let (segment, [mut left, mut right, mut vm]) = three();
    let mut host = segment.host();
    let frames = announcements(&left, ["10.244.0.2", "fd00:10:244::2"]);
    for frame in &frames {
        segment.carries(&mut left, &["right", "vm", "weft0"], frame);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(&mut vm, &mut left, &expected);
    host_heard(&mut host, &mut left, &expected);
    heard(&mut right, &mut left, &expected);
    heard(&mut left, &mut right, &[]);
}

#[test]
fn anothers_address_is_not() {
    let (segment, [mut left, mut right, mut vm]) = three();
    for ips in [
        ["10.244.0.3", "fd00:10:244::3"],
        ["10.244.0.1", "fd00:10:244::1"],
        ["10.244.0.4", "fd00:10:244::4"],
        ["10.244.1.2", "fd00:10:244:1::2"],
        ["10.244.0.99", "fd00:10:244::99"],
    ] {
        // Their own addresses in front, so that nothing but the message itself is at fault.
        let [request, reply, _] = announcements(&left, ips);
        let own = (left.ips[1].as_str(), "ff02::1");
        let told = advertisement(multicast_mac("ff02::1"), left.mac, own, OVERRIDE, (ips[1], left.mac));
        segment.drops_each(&mut left, "spoofed_neighbour", &[request, reply, told]);
    }
    heard(&mut vm, &mut left, &[]);
    heard(&mut right, &mut left, &[]);
    // Nobody believes it.
    let question = arp_request(&right, "10.244.0.4");
    let answer = segment.answer(&mut right, &question);
    assert_eq!(answer[6..12], vm.mac);
}

#[test]
fn an_answer_to_one_station_reaches_that_one() {
    let (segment, [mut left, mut right, _vm]) = three();
    let frames = [
        arp_frame(right.mac, 2, (left.mac, "10.244.0.2"), (right.mac, "10.244.0.3")),
        advertisement(right.mac, left.mac, (&left.ips[1], &right.ips[1]), 0x60, (&left.ips[1], left.mac)),
        // Without the option, as an answer to one station may be.
        nd_frame(
            right.mac,
            left.mac,
            (&left.ips[1], &right.ips[1]),
            136,
            [0x40, 0, 0, 0],
            &nd_body(&left.ips[1], None),
        ),
    ];
    for frame in &frames {
        segment.carries(&mut left, &["right"], frame);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
    // One to the gateway ends there.
    let frame = advertisement(
        GATEWAY_MAC,
        left.mac,
        (&left.ips[1], "fd00:10:244::1"),
        0x60,
        (&left.ips[1], left.mac),
    );
    segment.consumes(&mut left, &frame);
}

#[test]
fn a_trusted_stations_address_is_told_to_all() {
    let (segment, [mut left, mut right, mut vm]) = three();
    let mut host = segment.host();
    for ips in [["10.244.0.4", "fd00:10:244::4"], ["10.244.0.50", "fd00:10:244::50"]] {
        let frames = announcements(&vm, ips);
        for frame in &frames {
            segment.carries(&mut vm, &["left", "right", "weft0"], frame);
        }
        let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        heard(&mut left, &mut vm, &expected);
        heard(&mut right, &mut left, &expected);
        host_heard(&mut host, &mut left, &expected);
    }
}

#[test]
fn an_address_moves_between_trusted_pods_and_the_traffic_follows() {
    let (segment, [mut left, mut one, mut two]) =
        Segment::of([Pod::Plain("left"), Pod::Trusted("one"), Pod::Trusted("two")]);
    let vip = ["10.244.0.50", "fd00:10:244::50"];
    // Each time in another form, and to and fro.
    for form in [0, 1] {
        for at in [&mut one, &mut two] {
            let port = at.name;
            let frames = announcements(at, vip);
            // IPv6 has but one form.
            for (frame, address) in [(&frames[form], vip[0]), (&frames[2], vip[1])] {
                at.send(frame);
                segment.lab.wait_for_neighbour(address, at.mac, port);
                // To move is no conflict; to move back and forth is, as two do who both have the address.
                let conflicts = segment.lab.conflicts(address).len();
                assert_eq!(conflicts > 0, form > 0, "{address} at {port}");
            }
            let question = arp_request(&left, vip[0]);
            let answer = arp_frame(left.mac, 2, (at.mac, vip[0]), (left.mac, &left.ips[0]));
            left.drain();
            assert_eq!(segment.answer(&mut left, &question), answer);
            let question = solicitation(&left, vip[1]);
            let flags = 0x40 | OVERRIDE;
            let answer = advertisement(left.mac, at.mac, (vip[1], &left.ips[1]), flags, (vip[1], at.mac));
            assert_eq!(segment.answer(&mut left, &question), answer);
            // And by the router.
            for (family, address) in vip.into_iter().enumerate() {
                let frame = routed(&left, family, address);
                segment.carries(&mut left, &[port], &frame);
                let arrived = at.receive("routed packet", |seen| {
                    (seen.bytes[6..12] == GATEWAY_MAC).then(|| seen.bytes.clone())
                });
                assert_eq!(arrived[..6], at.mac);
            }
        }
    }
}

/// A UDP packet by way of the gateway.
fn routed(from: &Station, family: usize, to: &str) -> Vec<u8> {
    let ip = Ip::new(&from.ips[family], to);
    ip.frame(GATEWAY_MAC, from.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, b"to an address that moves"))
}

#[test]
fn an_address_of_a_station_may_move_with_its_station() {
    let (segment, [mut left, mut one, mut two]) =
        Segment::of([Pod::Plain("left"), Pod::Trusted("one"), Pod::Trusted("two")]);
    // A machine that migrates: same MAC address, another port.
    for at in [&mut one, &mut two] {
        let claim = arp_frame(BROADCAST, 1, (stranger(1), "10.244.0.60"), (NOBODY, "10.244.0.60"));
        at.send(&claim);
        segment.lab.wait_for_neighbour("10.244.0.60", stranger(1), at.name);
        let frame = routed(&left, 0, "10.244.0.60");
        segment.carries(&mut left, &[at.name], &frame);
    }
}
