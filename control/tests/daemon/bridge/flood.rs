//! Frames that go to more than one: broadcast, multicast, and what nobody is known to be.

use std::time::Instant;

use crate::lab::Wire;
use crate::lab::frames::{Checksum, Ip, UDP, ethernet, tagged, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, Pod, Segment, UNKNOWN, arp_answer, arp_request, assert_copies, contains, heard,
    host_heard, multicast_mac, not_on_the_underlay, pattern, plain, stranger,
};

#[test]
fn a_broadcast_reaches_the_whole_segment_but_not_its_sender_nor_the_underlay() {
    let (segment, [mut left, mut right, mut vm]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")]);
    let (mut host, mut underlay) = (segment.host(), Wire::open(&segment.lab.peer, "up0"));
    let frame = plain(BROADCAST, left.mac, "to everybody here");
    segment.carries(&mut left, &["right", "vm", "weft0"], &frame);
    heard(&mut right, &mut left, &[&frame]);
    heard(&mut vm, &mut left, &[&frame]);
    host_heard(&mut host, &mut left, &[&frame]);
    heard(&mut left, &mut right, &[]);
    not_on_the_underlay(&segment, &mut underlay, &mut left, "to everybody here");
}

#[test]
fn a_multicast_goes_as_far_as_a_broadcast() {
    let (segment, [mut left, mut right, mut vm]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")]);
    let (mut host, mut underlay) = (segment.host(), Wire::open(&segment.lab.peer, "up0"));
    let mut frames = Vec::new();
    for (from, to) in [
        ("10.244.0.2", "224.0.0.1"),
        ("10.244.0.2", "239.1.2.3"),
        ("fd00:10:244::2", "ff02::fb"),
        ("fd00:10:244::2", "ff0e::1234"),
        ("fe80::2", "ff02::1"),
    ] {
        let ip = Ip::new(from, to);
        let segment = udp(&ip, (1, 2), Checksum::Valid, b"to a group of receivers");
        frames.push(ip.frame(multicast_mac(to), left.mac, UDP, &segment));
    }
    for to in ["10.244.0.255", "255.255.255.255"] {
        let ip = Ip::new("10.244.0.2", to);
        let segment = udp(&ip, (1, 2), Checksum::Valid, b"to a group of receivers");
        frames.push(ip.frame(BROADCAST, left.mac, UDP, &segment));
    }
    frames.push(plain([3, 0, 0, 0, 0, 1], left.mac, "to a group of receivers"));
    for frame in &frames {
        segment.carries(&mut left, &["right", "vm", "weft0"], frame);
    }
    let expected: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    heard(&mut right, &mut left, &expected);
    heard(&mut vm, &mut left, &expected);
    host_heard(&mut host, &mut left, &expected);
    heard(&mut left, &mut right, &[]);
    not_on_the_underlay(&segment, &mut underlay, &mut left, "to a group of receivers");
}

#[test]
fn the_hosts_broadcast_reaches_the_pods() {
    let (segment, [mut left, mut vm]) = Segment::of([Pod::Plain("left"), Pod::Trusted("vm")]);
    let (mut host, mut underlay) = (segment.host(), Wire::open(&segment.lab.peer, "up0"));
    let frame = plain(BROADCAST, host.mac, "from the host to everybody");
    let deltas = segment.lab.deltas(1, || host.send(&frame));
    assert_copies(&deltas, "weft0", &["left", "vm"], 1);
    assert_eq!(left.receive("broadcast", |seen| Some(seen.bytes.clone())), frame);
    assert_eq!(vm.receive("broadcast", |seen| Some(seen.bytes.clone())), frame);
    not_on_the_underlay(&segment, &mut underlay, &mut left, "from the host to everybody");
}

#[test]
fn a_routed_packet_to_a_group_stays_where_it_is() {
    let (segment, [mut left, mut right]) = Segment::of([Pod::Plain("left"), Pod::Plain("right")]);
    for (from, to) in
        [("10.244.0.2", "224.0.0.1"), ("10.244.0.2", "255.255.255.255"), ("fd00:10:244::2", "ff02::1")]
    {
        let ip = Ip::new(from, to);
        let frame = ip.frame(GATEWAY_MAC, left.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, b""));
        segment.drops(&mut left, "not_routable", &frame);
    }
    heard(&mut right, &mut left, &[]);
}

#[test]
fn an_unknown_station_is_looked_for_behind_trusted_ports_only() {
    let (segment, [mut left, mut right, mut one, mut two]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("one"), Pod::Trusted("two")]);
    let (mut host, mut underlay) = (segment.host(), Wire::open(&segment.lab.peer, "up0"));
    let from_left = plain(stranger(1), left.mac, "who has seen it?");
    segment.carries(&mut left, &["one", "two"], &from_left);
    let from_one = plain(stranger(1), one.mac, "who has seen it?");
    segment.carries(&mut one, &["two"], &from_one);
    heard(&mut right, &mut left, &[]);
    heard(&mut one, &mut left, &[&from_left]);
    host_heard(&mut host, &mut left, &[]);
    assert_eq!(two.receive("frame", |seen| Some(seen.bytes.clone())), from_left);
    heard(&mut two, &mut one, &[&from_one]);
    not_on_the_underlay(&segment, &mut underlay, &mut left, "who has seen it?");
}

#[test]
fn the_only_trusted_port_does_not_look_for_others() {
    let (segment, [mut vm, mut right]) = Segment::of([Pod::Trusted("vm"), Pod::Plain("right")]);
    let frame = plain(stranger(1), vm.mac, "to nobody");
    segment.drops(&mut vm, "fdb_miss", &frame);
    heard(&mut right, &mut vm, &[]);
}

#[test]
fn what_is_too_long_for_the_segment_is_flooded_to_nobody() {
    let (segment, [mut left, mut right, _third]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Plain("third")]);
    left.namespace.ip("link set eth0 mtu 1600");
    let fits = ethernet(BROADCAST, left.mac, UNKNOWN, &pattern(1450));
    let too_long = ethernet(BROADCAST, left.mac, UNKNOWN, &pattern(1451));
    segment.carries(&mut left, &["right", "third", "weft0"], &fits);
    // Each copy is judged by the port that it would leave by, and counted there.
    let deltas = segment.lab.deltas(1, || left.send(&too_long));
    deltas.assert_only(&[("flood_too_big", 3), ("originated", 2)]);
    let lost = [("left.rx", 1), ("right.tx_drops", 1), ("third.tx_drops", 1), ("weft0.tx_drops", 1)];
    deltas.assert_ports(&lost);
    heard(&mut right, &mut left, &[&fits]);
}

#[test]
fn a_rate_of_0_floods_nothing_and_leaves_the_rest_alone() {
    let settings = "[bridge]\nflood_rate = 0";
    let (segment, [mut left, mut vm]) = Segment::with(settings, [Pod::Plain("left"), Pod::Trusted("vm")]);
    let frames = [
        plain(BROADCAST, left.mac, "broadcast"),
        plain(multicast_mac("ff02::1"), left.mac, "multicast"),
        plain(stranger(1), left.mac, "unknown"),
        tagged(&plain(BROADCAST, left.mac, "broadcast"), 0x8100, 7),
    ];
    segment.drops_each(&mut left, "flood_limited", &frames);
    // What has one receiver is not limited.
    let frame = plain(vm.mac, left.mac, "unicast");
    segment.carries(&mut left, &["vm"], &frame);
    heard(&mut vm, &mut left, &[&frame]);
    let question = arp_request(&left, "10.244.0.1");
    assert_eq!(segment.answer(&mut left, &question), arp_answer(&left, "10.244.0.1", GATEWAY_MAC));
}

#[test]
fn what_is_too_much_is_not_flooded_and_no_other_port_suffers() {
    const SENT: u64 = 300;
    let settings = "[bridge]\nflood_rate = 10";
    let (segment, [mut left, mut right, mut third]) =
        Segment::with(settings, [Pod::Plain("left"), Pod::Plain("right"), Pod::Plain("third")]);
    let frame = plain(BROADCAST, left.mac, "again and again");
    let begin = Instant::now();
    let deltas = segment.lab.deltas(SENT, || (0..SENT).for_each(|_| left.send(&frame)));
    // One at once, and ten copies a second, of which each is three.
    let most = 2 + begin.elapsed().as_millis() as u64 / 300;
    let flooded = SENT - deltas.of("flood_limited");
    assert!((1..=most).contains(&flooded), "{flooded} of {SENT}, {most} at most: {deltas:?}");
    deltas.assert_only(&[
        ("tx", 3 * flooded),
        ("originated", 2 * flooded),
        ("flood_limited", SENT - flooded),
    ]);
    let mut seen = 0;
    let marker = plain(third.mac, left.mac, "the end");
    left.send(&marker);
    third.receive("end", |frame| {
        seen += u64::from(contains(&frame.bytes, b"again and again"));
        (frame.bytes == marker).then_some(())
    });
    assert_eq!(seen, flooded);
    // Another port has its own.
    let frame = plain(BROADCAST, right.mac, "for the first time");
    segment.carries(&mut right, &["left", "third", "weft0"], &frame);
}
