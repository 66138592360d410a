//! Stations behind trusted ports whose addresses nobody has configured: they answer for themselves.

use crate::lab::frames::{Checksum, Ip, Mac, UDP, udp};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, NOBODY, Pod, Segment, Station, advertisement, arp_answer, arp_frame, arp_request,
    heard, host_heard, nd_body, nd_frame, solicitation, solicited_node, stranger,
};
use crate::lab::wait_for;

const V4: &str = "10.244.0.77";
const V6: &str = "fd00:10:244::77";

fn four() -> (Segment, [Station; 4]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("one"), Pod::Trusted("two")])
}

/// The station that has the two addresses tells the asker so.
fn answers(to: &Station, station: Mac) -> [Vec<u8>; 2] {
    [
        arp_frame(to.mac, 2, (station, V4), (to.mac, &to.ips[0])),
        advertisement(to.mac, station, (V6, &to.ips[1]), 0x60, (V6, station)),
    ]
}

fn packet(ends: (Mac, Mac), from: &str, to: &str) -> Vec<u8> {
    let ip = Ip::new(from, to);
    ip.frame(ends.0, ends.1, UDP, &udp(&ip, (1, 2), Checksum::Valid, b"to a station"))
}

#[test]
fn a_question_for_an_unknown_address_goes_to_trusted_ports_only() {
    let (segment, [mut left, mut right, mut one, mut two]) = four();
    let mut host = segment.host();
    let questions = [arp_request(&left, V4), solicitation(&left, V6)];
    for question in &questions {
        segment.carries(&mut left, &["one", "two"], question);
    }
    let expected: Vec<_> = questions.iter().map(Vec::as_slice).collect();
    heard(&mut one, &mut left, &expected);
    heard(&mut two, &mut left, &expected);
    heard(&mut right, &mut left, &[]);
    host_heard(&mut host, &mut left, &[]);
    // From a trusted port to the other.
    let question = arp_frame(BROADCAST, 1, (one.mac, "10.244.0.4"), (NOBODY, V4));
    segment.carries(&mut one, &["two"], &question);
}

#[test]
fn the_stations_answer_reaches_the_asker_and_weft_remembers_it() {
    let (segment, [mut left, mut right, mut one, mut two]) = four();
    for (question, answer) in
        [arp_request(&left, V4), solicitation(&left, V6)].iter().zip(answers(&left, stranger(1)))
    {
        segment.carries(&mut left, &["one", "two"], question);
        segment.carries(&mut one, &["left"], &answer);
        left.receive_bytes("answer", &answer);
    }
    segment.lab.wait_for_neighbour(V4, stranger(1), "one");
    segment.lab.wait_for_neighbour(V6, stranger(1), "one");
    assert_eq!(segment.lab.neighbours(V4)[0]["kind"], "learned");
    // Now weft answers whoever asks, with the station's own address.
    let question = arp_request(&right, V4);
    assert_eq!(segment.answer(&mut right, &question), arp_answer(&right, V4, stranger(1)));
    let question = solicitation(&right, V6);
    let answer = segment.answer(&mut right, &question);
    assert_eq!(answer, answers(&right, stranger(1))[1]);
    // And what is sent there arrives, by the bridge and by the router.
    let frame = packet((stranger(1), right.mac), "10.244.0.3", V4);
    segment.carries(&mut right, &["one"], &frame);
    one.receive_bytes("frame", &frame);
    let frame = packet((GATEWAY_MAC, right.mac), "fd00:10:244::3", V6);
    segment.carries(&mut right, &["one"], &frame);
    let routed = one.receive("packet", |seen| (seen.bytes[6..12] == GATEWAY_MAC).then(|| seen.bytes.clone()));
    assert_eq!(routed[..6], stranger(1));
    two.drain();
    heard(&mut two, &mut right, &[]);
}

#[test]
fn an_entry_is_confirmed_by_the_station_itself() {
    let (segment, [mut left, _right, mut one, mut two]) = four();
    for answer in answers(&left, stranger(1)) {
        one.send(&answer);
    }
    segment.lab.wait_for_neighbour(V4, stranger(1), "one");
    segment.lab.wait_for_neighbour(V6, stranger(1), "one");
    // As kernels ask whether somebody is still there: if weft answered, nobody would ever notice that it is gone.
    let frames = [
        arp_frame(stranger(1), 1, (left.mac, &left.ips[0]), (NOBODY, V4)),
        nd_frame(stranger(1), left.mac, (&left.ips[1], V6), 135, [0; 4], &nd_body(V6, Some((1, left.mac)))),
    ];
    for frame in &frames {
        segment.carries(&mut left, &["one"], frame);
    }
    heard(&mut one, &mut left, &[&frames[0], &frames[1]]);
    heard(&mut two, &mut left, &[]);
}

#[test]
fn a_probe_for_a_stations_address_is_answered_by_the_station() {
    let (segment, [mut left, _right, mut one, _two]) = four();
    for answer in answers(&left, stranger(1)) {
        one.send(&answer);
    }
    segment.lab.wait_for_neighbour(V4, stranger(1), "one");
    let probe = arp_frame(BROADCAST, 1, (left.mac, "0.0.0.0"), (NOBODY, V4));
    segment.carries(&mut left, &["one", "two"], &probe);
    one.receive_bytes("probe", &probe);
}

#[test]
fn what_a_station_asks_is_answered_and_tells_where_it_is() {
    let (segment, [mut left, _right, mut one, _two]) = four();
    let question = arp_frame(BROADCAST, 1, (stranger(1), V4), (NOBODY, "10.244.0.2"));
    let answer = segment.answer(&mut one, &question);
    assert_eq!(answer, arp_frame(stranger(1), 2, (left.mac, "10.244.0.2"), (stranger(1), V4)));
    segment.lab.wait_for_neighbour(V4, stranger(1), "one");
    let (group, mac) = solicited_node("fd00:10:244::1");
    let body = nd_body("fd00:10:244::1", Some((1, stranger(1))));
    let question = nd_frame(mac, stranger(1), (V6, &group), 135, [0; 4], &body);
    let answer = segment.answer(&mut one, &question);
    let target = "fd00:10:244::1";
    let expected = advertisement(stranger(1), GATEWAY_MAC, (target, V6), 0xe0, (target, GATEWAY_MAC));
    assert_eq!(answer, expected);
    segment.lab.wait_for_neighbour(V6, stranger(1), "one");
    // Between two behind the same port weft keeps out of it.
    let question = arp_frame(BROADCAST, 1, (stranger(2), "10.244.0.78"), (NOBODY, V4));
    segment.drops(&mut one, "same_port", &question);
    left.drain();
}

#[test]
fn a_packet_from_elsewhere_makes_weft_ask() {
    let (segment, [mut left, _right, mut one, mut two]) = four();
    // By the router, of whom the sender is no neighbour.
    for (family, target) in [(0, V4), (1, V6)] {
        let frame = packet((GATEWAY_MAC, left.mac), &left.ips[family], target);
        let deltas = segment.lab.deltas(1, || left.send(&frame));
        assert_eq!(deltas.dropped(), 1, "{deltas:?}");
        for at in [&mut one, &mut two] {
            let question = at.receive("question", |seen| Some(seen.bytes.clone()));
            let expected = if family == 0 {
                arp_frame(BROADCAST, 1, (GATEWAY_MAC, "10.244.0.1"), (NOBODY, target))
            } else {
                let (group, mac) = solicited_node(target);
                let body = nd_body(target, Some((1, GATEWAY_MAC)));
                nd_frame(mac, GATEWAY_MAC, ("fd00:10:244::1", &group), 135, [0; 4], &body)
            };
            assert_eq!(question[..expected.len()], expected);
        }
        let answer = if family == 0 {
            arp_frame(GATEWAY_MAC, 2, (stranger(1), target), (GATEWAY_MAC, "10.244.0.1"))
        } else {
            advertisement(GATEWAY_MAC, stranger(1), (target, "fd00:10:244::1"), 0x60, (target, stranger(1)))
        };
        segment.consumes(&mut two, &answer);
        segment.lab.wait_for_neighbour(target, stranger(1), "two");
        segment.carries(&mut left, &["two"], &frame);
        let arrived = two.receive("packet", |seen| Some(seen.bytes.clone()));
        assert_eq!((&arrived[..6], &arrived[6..12]), (&stranger(1)[..], &GATEWAY_MAC[..]));
    }
}

#[test]
fn a_station_goes_with_its_port() {
    let (segment, [left, _right, mut one, two]) = four();
    for answer in answers(&left, stranger(1)) {
        one.send(&answer);
    }
    segment.lab.wait_for_neighbour(V4, stranger(1), "one");
    let entry = crate::lab::segment::pod_entry;
    segment
        .lab
        .write_cluster(&(entry("left", 2, &left.namespace, false) + &entry("two", 5, &two.namespace, true)));
    wait_for("the station to be forgotten", || {
        (segment.lab.pods().pods.len() == 2 && segment.lab.neighbours(V4).is_empty()).then_some(())
    });
    let mut left = left;
    let question = arp_request(&left, V4);
    segment.carries(&mut left, &["two"], &question);
}

#[test]
fn a_pod_that_comes_takes_its_address_from_a_station() {
    let (segment, [left, right, mut one, two]) = four();
    let claim = arp_frame(BROADCAST, 1, (stranger(1), "10.244.0.9"), (NOBODY, "10.244.0.9"));
    one.send(&claim);
    segment.lab.wait_for_neighbour("10.244.0.9", stranger(1), "one");
    let new = crate::lab::Namespace::mute("new");
    let entry = crate::lab::segment::pod_entry;
    segment.lab.write_cluster(
        &[
            entry("left", 2, &left.namespace, false),
            entry("right", 3, &right.namespace, false),
            entry("one", 4, &one.namespace, true),
            entry("two", 5, &two.namespace, true),
            entry("new", 9, &new, false),
        ]
        .concat(),
    );
    wait_for("the pod", || {
        let entries = segment.lab.neighbours("10.244.0.9");
        (entries.len() == 1 && entries[0]["kind"] == "static" && entries[0]["port"] == "new").then_some(())
    });
    segment.drops(&mut one, "neighbour_taken", &claim);
    let mut left = left;
    left.drain();
    let question = arp_request(&left, "10.244.0.9");
    let at = crate::lab::Wire::open(&new, "eth0").mac;
    assert_eq!(segment.answer(&mut left, &question), arp_answer(&left, "10.244.0.9", at));
}
