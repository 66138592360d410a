//! Guests with vhost-user beside each other and beside ordinary pods: large frames stay whole where the other side takes
//! them, and arrive finished where it does not.

mod across;

use weft_ffi::dpdk::{TxWork, Upper};

use crate::bridge::unfinished::{gso_tcp, tcp_payload};
use crate::lab::frames::{Ip, Mac, TCP, UDP, tcp};
use crate::lab::guest::{Driver, Guest, guest_pod};
use crate::lab::segment::pattern;
use crate::lab::{Frame, Lab, Namespace, Wire, tap_pod};

const ALL: Driver = Driver { offloads: true, spans: true, mtu: 1450 };
const PLAIN: Driver = Driver { offloads: false, spans: true, mtu: 1450 };
const SINGLE: Driver = Driver { offloads: true, spans: false, mtu: 1450 };

/// Addresses of the pods with these numbers.
fn ends(from: u8, to: u8) -> [Ip; 2] {
    [
        Ip::new(&format!("10.244.0.{from}"), &format!("10.244.0.{to}")),
        Ip::new(&format!("fd00:10:244::{from:x}"), &format!("fd00:10:244::{to:x}")),
    ]
}

/// What the sender's driver is told of a TCP frame.
fn work(ip: &Ip, segment: Option<u16>) -> TxWork {
    let v6 = ip.src.is_ipv6();
    let l3_len = if v6 { 40 } else { 20 };
    TxWork { l2_len: 14, l3_len, l4_len: 20, v6, upper: Upper::Tcp, segment, ip_checksum: false }
}

fn all_of(len: usize) -> impl FnMut(&[Frame]) -> bool {
    move |frames| {
        let headers = |frame: &Frame| if frame.bytes[12] == 8 { 54 } else { 74 };
        frames.iter().map(|frame| frame.bytes.len() - headers(frame)).sum::<usize>() >= len
    }
}

/// The frames with all of the payload that a guest got.
fn got(guest: &mut Guest, ip: &Ip, body: &[u8]) -> Vec<Frame> {
    let frames = guest.receive("all of it", all_of(body.len()));
    assert!(tcp_payload(&frames, ip, 0) == body, "{}: not what was sent", guest.name);
    frames
}

#[test]
fn large_frames_stay_whole_between_guests_that_take_them() {
    let lab = Lab::quiet();
    lab.write_cluster(&(guest_pod(&lab, "one", 2) + &guest_pod(&lab, "two", 3)));
    let _weftd = lab.start();
    let (mut one, mut two) = (Guest::start(&lab, "one", 2, ALL), Guest::start(&lab, "two", 3, ALL));
    for ip in ends(2, 3) {
        for len in [500, 20_000, 64_000] {
            let body = pattern(len);
            let (frame, _) = gso_tcp(&ip, (two.mac, one.mac), 1300, &body);
            let deltas = lab.deltas(1, || one.send(&frame, Some(work(&ip, Some(1300)))));
            deltas.assert_only(&[("tx", 1)]).assert_ports(&[("one.rx", 1), ("two.tx", 1)]);
            let frames = got(&mut two, &ip, &body);
            let [arrived] = &frames[..] else { panic!("{} frames", frames.len()) };
            assert_eq!((arrived.gso, arrived.partial.map(|(_, offset)| offset)), (Some(1300), Some(16)));
            assert!(arrived.bytes == frame, "changed on the way, of {len} bytes");
        }
        // A checksum alone.
        let (frame, _) = gso_tcp(&ip, (two.mac, one.mac), 1300, &pattern(700));
        one.send(&frame, Some(work(&ip, None)));
        let frames = got(&mut two, &ip, &pattern(700));
        assert_eq!((frames[0].gso, frames[0].partial.is_some()), (None, true));
    }
    lab.counters_balance();
}

#[test]
fn guests_that_take_none_get_finished_frames() {
    let lab = Lab::quiet();
    lab.write_cluster(
        &[("one", 2), ("plain", 3), ("single", 4)].map(|(name, host)| guest_pod(&lab, name, host)).concat(),
    );
    let _weftd = lab.start();
    let mut one = Guest::start(&lab, "one", 2, ALL);
    let mut plain = Guest::start(&lab, "plain", 3, PLAIN);
    let mut single = Guest::start(&lab, "single", 4, SINGLE);
    let body = pattern(20_000);
    for (host, guest, takes_partial) in [(3, &mut plain, false), (4, &mut single, true)] {
        for ip in ends(2, host) {
            let (frame, _) = gso_tcp(&ip, (guest.mac, one.mac), 1300, &body);
            one.send(&frame, Some(work(&ip, Some(1300))));
            let frames = got(guest, &ip, &body);
            assert_eq!(frames.len(), 16);
            assert!(frames.iter().all(|frame| frame.gso.is_none() && frame.partial.is_none()));
            let (frame, _) = gso_tcp(&ip, (guest.mac, one.mac), 1300, &pattern(700));
            one.send(&frame, Some(work(&ip, None)));
            assert_eq!(got(guest, &ip, &pattern(700))[0].partial.is_some(), takes_partial);
        }
    }
    lab.counters_balance();
    assert_eq!(lab.drops("tx_not_taken") + lab.drops("rx_bad_offload"), 0);
}

#[test]
fn large_frames_pass_between_guests_and_ordinary_pods() {
    let lab = Lab::quiet();
    let namespace = Namespace::mute("web");
    lab.write_cluster(&(guest_pod(&lab, "one", 2) + &tap_pod("web", 3, &namespace)));
    let _weftd = lab.start();
    let mut one = Guest::start(&lab, "one", 2, ALL);
    let mut web = Wire::open(&namespace, "eth0");
    let body = pattern(20_000);
    for (there, back) in ends(2, 3).into_iter().zip(ends(3, 2)) {
        let (frame, _) = gso_tcp(&there, (web.mac, one.mac), 1300, &body);
        one.send(&frame, Some(work(&there, Some(1300))));
        let (mut frames, mut enough) = (Vec::new(), all_of(body.len()));
        web.receive("all of it", |frame| {
            frames.push(frame.clone());
            enough(&frames).then_some(())
        });
        assert!(tcp_payload(&frames, &there, 0) == body, "not what was sent");

        let (frame, header) = gso_tcp(&back, (one.mac, web.mac), 1300, &body);
        web.send_unfinished(&frame, header);
        got(&mut one, &back, &body);
    }
    lab.counters_balance();
    assert_eq!(lab.drops("tx_not_taken") + lab.drops("rx_bad_offload"), 0);
}

/// A frame of no use to anybody.
fn contradictory(ip: &Ip, ends: (Mac, Mac), protocol: u8) -> Vec<u8> {
    ip.frame(ends.0, ends.1, protocol, &tcp(ip, (11, 12), (1000, 0x10), &pattern(100)))
}

#[test]
fn what_a_guest_says_against_its_frame_is_counted() {
    const SCTP: u8 = 132;
    let lab = Lab::quiet();
    lab.write_cluster(&(guest_pod(&lab, "one", 2) + &guest_pod(&lab, "two", 3)));
    let _weftd = lab.start();
    let (mut one, two) = (Guest::start(&lab, "one", 2, ALL), Guest::start(&lab, "two", 3, ALL));
    for ip in ends(2, 3) {
        // The checksum of a protocol whose checksum is another.
        let frame = contradictory(&ip, (two.mac, one.mac), SCTP);
        let deltas = lab.deltas(1, || one.send(&frame, Some(work(&ip, None))));
        deltas.assert_dropped("one", "rx_bad_offload", 1);
        // To be cut as TCP, which it is not: the library ignores that, and the frame is too long.
        let frame = ip.frame(two.mac, one.mac, UDP, &pattern(3000));
        let deltas = lab.deltas(1, || one.send(&frame, Some(work(&ip, Some(1300)))));
        assert_eq!(deltas.dropped(), 1, "{deltas:?}");
        // Pieces of no bytes.
        let (frame, _) = gso_tcp(&ip, (two.mac, one.mac), 1300, &pattern(3000));
        let deltas = lab.deltas(1, || one.send(&frame, Some(work(&ip, Some(0)))));
        assert_eq!(deltas.dropped(), 1, "{deltas:?}");
    }
}

#[test]
fn jumbo_frames_pass_and_one_that_fits_no_buffer_holds_nothing_up() {
    let lab = Lab::quiet();
    for namespace in [&lab.node, &lab.peer] {
        namespace.ip("link set up0 mtu 9050");
    }
    lab.write_cluster(
        &[("one", 2), ("two", 3), ("single", 4)].map(|(name, host)| guest_pod(&lab, name, host)).concat(),
    );
    let _weftd = lab.start();
    let jumbo = Driver { mtu: 9000, ..PLAIN };
    let (mut one, mut two) = (Guest::start(&lab, "one", 2, jumbo), Guest::start(&lab, "two", 3, jumbo));
    // Its buffers are of 2 KiB each.
    let mut single = Guest::start(&lab, "single", 4, Driver { offloads: false, ..SINGLE });
    for (ip, len) in ends(2, 3).into_iter().zip([9000 - 40, 9000 - 60]) {
        let body = pattern(len);
        let frame = |to| ip.frame(to, one.mac, TCP, &tcp(&ip, (11, 12), (1000, 0x10), &body));
        let whole = frame(two.mac);
        one.send(&whole, None);
        let frames = two.receive("the jumbo frame", |frames| !frames.is_empty());
        assert!(frames[0].bytes == whole && frames[0].partial.is_none());
    }
    for ip in ends(2, 4) {
        let frame =
            |len| ip.frame(single.mac, one.mac, TCP, &tcp(&ip, (11, 12), (1000, 0x10), &pattern(len)));
        let (long, short) = (frame(8000), frame(100));
        let before = lab.drops("tx_not_taken");
        one.send(&long, None);
        one.send(&short, None);
        let frames = single.receive("the short frame", |frames| !frames.is_empty());
        assert!(frames[0].bytes == short);
        lab.counters_balance();
        assert_eq!(lab.drops("tx_not_taken") - before, 1);
    }
}
