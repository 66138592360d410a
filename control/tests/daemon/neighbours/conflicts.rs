//! Two that claim one address: nobody believes the second, and it is reported.

use serde_json::Value;
use weft_api::State;

use crate::lab::frames::Mac;
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, NOBODY, Pod, Segment, Station, advertisement, arp_answer, arp_frame, arp_request,
    dad, heard, multicast_mac, stranger, text,
};
use crate::lab::wait_for;

fn three() -> (Segment, [Station; 3]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("vm")])
}

/// Waits until it is reported that this station has claimed the address so often, and nobody else has.
fn reported(segment: &Segment, address: &str, by: Mac, port: &str, count: u64) {
    wait_for(&format!("the report that {port} claims {address}"), || {
        let conflicts = segment.lab.conflicts(address);
        let [conflict] = &conflicts[..] else { return None };
        assert_eq!((&conflict["mac"], &conflict["port"]), (&text(by).into(), &port.into()));
        assert!(conflict["count"].as_u64() <= Some(count), "{conflict}");
        (conflict["count"] == count).then_some(())
    });
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let seen = segment.lab.conflicts(address)[0]["last_seen"].as_u64().expect("a time");
    assert!((now - 60..=now).contains(&seen), "{seen}, now {now}");
}

#[test]
fn a_pod_that_claims_anothers_address_is_reported() {
    let (segment, [mut left, mut right, mut vm]) = three();
    for (v4, v6) in
        [("10.244.0.3", "fd00:10:244::3"), ("10.244.0.1", "fd00:10:244::1"), ("10.244.0.4", "fd00:10:244::4")]
    {
        let claims = [
            arp_frame(BROADCAST, 1, (left.mac, v4), (NOBODY, v4)),
            arp_frame(BROADCAST, 2, (left.mac, v4), (left.mac, v4)),
            arp_frame(BROADCAST, 1, (left.mac, v4), (NOBODY, "10.244.0.99")),
        ];
        segment.drops_each(&mut left, "spoofed_neighbour", &claims);
        reported(&segment, v4, left.mac, "left", 3);
        let all = multicast_mac("ff02::1");
        let own = (left.ips[1].as_str(), "ff02::1");
        let claim = advertisement(all, left.mac, own, 0x20, (v6, left.mac));
        segment.drops(&mut left, "spoofed_neighbour", &claim);
        reported(&segment, v6, left.mac, "left", 1);
    }
    heard(&mut right, &mut left, &[]);
    heard(&mut vm, &mut left, &[]);
}

#[test]
fn a_pod_that_probes_for_anothers_address_is_answered_and_reported() {
    let (segment, [mut left, right, _vm]) = three();
    let probe = arp_frame(BROADCAST, 1, (left.mac, "0.0.0.0"), (NOBODY, "10.244.0.3"));
    let answer = segment.answer(&mut left, &probe);
    assert_eq!(answer, arp_frame(left.mac, 2, (right.mac, "10.244.0.3"), (left.mac, "0.0.0.0")));
    reported(&segment, "10.244.0.3", left.mac, "left", 1);
    let probe = dad(left.mac, "fd00:10:244::3");
    segment.answer(&mut left, &probe);
    reported(&segment, "fd00:10:244::3", left.mac, "left", 1);
}

#[test]
fn a_trusted_station_cannot_take_what_is_configured() {
    let (segment, [mut left, mut right, mut vm]) = three();
    for (v4, v6) in [
        ("10.244.0.2", "fd00:10:244::2"),
        ("10.244.0.1", "fd00:10:244::1"),
        ("10.244.1.2", "fd00:10:244:1::2"),
    ] {
        let by = stranger(1);
        let claims = [
            arp_frame(BROADCAST, 1, (by, v4), (NOBODY, v4)),
            arp_frame(right.mac, 2, (by, v4), (right.mac, "10.244.0.3")),
        ];
        segment.drops_each(&mut vm, "neighbour_taken", &claims);
        reported(&segment, v4, by, "vm", 2);
        let claim = advertisement(multicast_mac("ff02::1"), by, (v6, "ff02::1"), 0x20, (v6, by));
        segment.drops(&mut vm, "neighbour_taken", &claim);
        reported(&segment, v6, by, "vm", 1);
    }
    heard(&mut right, &mut left, &[]);
    let question = arp_request(&right, "10.244.0.2");
    assert_eq!(segment.answer(&mut right, &question), arp_answer(&right, "10.244.0.2", left.mac));
    left.drain();
}

#[test]
fn a_trusted_station_cannot_give_anothers_mac_address() {
    let (segment, [left, mut right, mut vm]) = three();
    let host = segment.host().mac;
    for at in [left.mac, GATEWAY_MAC, host, BROADCAST, multicast_mac("ff02::1"), [0; 6]] {
        let mut claim = arp_frame(BROADCAST, 2, (vm.mac, "10.244.0.80"), (NOBODY, "10.244.0.80"));
        claim[14 + 8..14 + 14].copy_from_slice(&at);
        segment.drops(&mut vm, "neighbour_mac", &claim);
        let target = "fd00:10:244::80";
        let all = multicast_mac("ff02::1");
        let claim = advertisement(all, vm.mac, (target, "ff02::1"), 0x20, (target, at));
        segment.drops(&mut vm, "neighbour_mac", &claim);
    }
    heard(&mut right, &mut vm, &[]);
    assert_eq!(segment.lab.neighbours("10.244.0.80"), Vec::<Value>::new());
}

#[test]
fn what_harms_nobody_is_no_conflict() {
    let (segment, [mut left, _right, mut vm]) = three();
    // A free address, its own, and one that two trusted stations share.
    let forged = arp_frame(BROADCAST, 1, (left.mac, "10.244.0.99"), (NOBODY, "10.244.0.99"));
    segment.drops(&mut left, "spoofed_neighbour", &forged);
    let own = [
        arp_frame(BROADCAST, 1, (left.mac, "10.244.0.2"), (NOBODY, "10.244.0.2")),
        arp_frame(BROADCAST, 1, (left.mac, "0.0.0.0"), (NOBODY, "10.244.0.2")),
        dad(left.mac, "fd00:10:244::2"),
    ];
    // An announcement is for all, a probe for those whom weft can't speak for.
    for (frame, to) in own.iter().zip([&["right", "vm", "weft0"][..], &["vm", "weft0"], &["vm", "weft0"]]) {
        segment.carries(&mut left, to, frame);
    }
    for number in [1, 2] {
        let by = stranger(number);
        vm.send(&arp_frame(BROADCAST, 1, (by, "10.244.0.90"), (NOBODY, "10.244.0.90")));
        segment.lab.wait_for_neighbour("10.244.0.90", by, "vm");
    }
    // One that is, so that what came before must have been told by now.
    let claim = arp_frame(BROADCAST, 1, (left.mac, "10.244.0.3"), (NOBODY, "10.244.0.3"));
    segment.drops(&mut left, "spoofed_neighbour", &claim);
    reported(&segment, "10.244.0.3", left.mac, "left", 1);
    let all = segment.lab.get("/v1/neigh");
    assert_eq!(all["conflicts"].as_array().map(Vec::len), Some(1), "{all}");
}

#[test]
fn the_status_speaks_of_a_conflict() {
    let (segment, [mut left, _right, _vm]) = three();
    assert_eq!(segment.lab.status().notes, Vec::<String>::new());
    let claim = arp_frame(BROADCAST, 2, (left.mac, "10.244.0.3"), (left.mac, "10.244.0.3"));
    segment.drops(&mut left, "spoofed_neighbour", &claim);
    let status = wait_for("a note", || Some(segment.lab.status()).filter(|status| !status.notes.is_empty()));
    assert_eq!(status.notes.len(), 1, "{status:?}");
    for word in ["10.244.0.3", "left", &text(left.mac)] {
        assert!(status.notes[0].contains(word), "{word}: {status:?}");
    }
    // No pod can make the node unwell by what it claims.
    assert_eq!((status.state, status.problems), (State::Ready, Vec::new()));
}
