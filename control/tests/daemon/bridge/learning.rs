//! Stations behind trusted ports: what they send teaches the bridge where they are.

use crate::lab::frames::{Mac, tagged};
use crate::lab::segment::{
    BROADCAST, GATEWAY_MAC, Pod, Segment, Station, assert_copies, heard, plain, pod_entry, stranger, text,
};
use crate::lab::{Deltas, wait_for};

fn four(settings: &str) -> (Segment, [Station; 4]) {
    let pods = [Pod::Plain("left"), Pod::Plain("right"), Pod::Trusted("one"), Pod::Trusted("two")];
    Segment::with(&format!("[bridge]\n{settings}"), pods)
}

/// Where a frame of `from` to this station goes.
fn sought(segment: &Segment, from: &mut Station, station: Mac) -> Deltas {
    let frame = plain(station, from.mac, "to a station");
    segment.lab.deltas(1, || from.send(&frame))
}

/// The station speaks up behind this port.
fn speaks(segment: &Segment, behind: &mut Station, to: (&str, Mac), station: Mac) {
    let frame = plain(to.1, station, "here I am");
    segment.carries(behind, &[to.0], &frame);
}

#[test]
fn who_speaks_behind_a_trusted_port_is_found_there() {
    let (segment, [mut left, mut right, mut one, mut two]) = four("");
    let to = ("left", left.mac);
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one", "two"], 1);
    speaks(&segment, &mut one, to, stranger(1));
    speaks(&segment, &mut two, to, stranger(2));
    for (station, port) in [(stranger(1), "one"), (stranger(2), "two")] {
        assert_copies(&sought(&segment, &mut left, station), "left", &[port], 1);
        assert_copies(&sought(&segment, &mut right, station), "right", &[port], 1);
    }
    // From behind one port to behind the other, and to behind the same.
    let across = plain(stranger(2), stranger(1), "across");
    segment.carries(&mut one, &["two"], &across);
    let back = plain(stranger(1), one.mac, "back");
    segment.drops(&mut one, "same_port", &back);
    two.receive_bytes("frame", &across);
}

#[test]
fn any_frame_teaches_whatever_becomes_of_it() {
    let (segment, [mut left, _right, mut one, mut two]) = four("flood_rate = 0");
    // A broadcast over the limit, one to nobody, one with a tag, one to the gateway that is not IP.
    let frames = [
        plain(BROADCAST, stranger(1), "to all"),
        plain(stranger(99), stranger(2), "to nobody"),
        tagged(&plain(BROADCAST, stranger(3), "to a VLAN"), 0x8100, 9),
    ];
    segment.drops_each(&mut one, "flood_limited", &frames);
    let frame = plain(GATEWAY_MAC, stranger(4), "to the gateway");
    segment.drops(&mut one, "not_ip", &frame);
    for station in 1..=4 {
        assert_copies(&sought(&segment, &mut left, stranger(station)), "left", &["one"], 1);
    }
    heard(&mut two, &mut left, &[]);
}

#[test]
fn a_station_that_moves_is_found_where_it_is() {
    let (segment, [mut left, _right, mut one, mut two]) = four("");
    let to = ("left", left.mac);
    for _ in 0..2 {
        speaks(&segment, &mut one, to, stranger(1));
        assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
        speaks(&segment, &mut two, to, stranger(1));
        assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["two"], 1);
    }
    assert_eq!(segment.lab.counted("moved"), 3);
    assert_eq!(segment.lab.counted("moves_limited"), 0);
}

#[test]
fn moves_that_are_too_many_are_not_believed() {
    let (segment, [mut left, _right, mut one, mut two]) = four("move_rate = 0");
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    // Its frames go where they go; only where it is stays as it was.
    speaks(&segment, &mut two, to, stranger(1));
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
    assert_eq!(segment.lab.counted("moved"), 0);
    assert_eq!(segment.lab.counted("moves_limited"), 1);
    // Who is new has not moved.
    speaks(&segment, &mut two, to, stranger(2));
    assert_copies(&sought(&segment, &mut left, stranger(2)), "left", &["two"], 1);
}

#[test]
fn a_port_has_its_fill_of_stations() {
    let (segment, [mut left, _right, mut one, mut two]) = four("learn_limit = 2");
    let to = ("left", left.mac);
    for station in 1..=3 {
        speaks(&segment, &mut one, to, stranger(station));
    }
    for station in 1..=2 {
        assert_copies(&sought(&segment, &mut left, stranger(station)), "left", &["one"], 1);
    }
    assert_copies(&sought(&segment, &mut left, stranger(3)), "left", &["one", "two"], 1);
    assert_eq!(segment.lab.counted("learn_limited"), 1);
    // Those that are known stay so, and the other port has a limit of its own.
    speaks(&segment, &mut one, to, stranger(1));
    speaks(&segment, &mut two, to, stranger(3));
    assert_copies(&sought(&segment, &mut left, stranger(3)), "left", &["two"], 1);
    assert_eq!(segment.lab.counted("learn_limited"), 1);
}

#[test]
fn a_limit_of_0_learns_nothing() {
    let (segment, [mut left, _right, mut one, mut two]) = four("learn_limit = 0");
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one", "two"], 1);
    // A trusted pod's own address need not be learned.
    assert_copies(&sought(&segment, &mut left, one.mac), "left", &["one"], 1);
    assert_copies(&sought(&segment, &mut left, two.mac), "left", &["two"], 1);
    speaks(&segment, &mut two, to, stranger(1));
}

#[test]
fn a_pods_own_address_stays_where_it_is() {
    let (segment, [mut left, mut right, mut one, two]) = four("");
    for (source, destination) in [(right.mac, left.mac), (left.mac, BROADCAST), (two.mac, left.mac)] {
        let frame = plain(destination, source, "with a pod's address");
        segment.drops(&mut one, "mac_of_pod", &frame);
        segment.drops(&mut one, "mac_of_pod", &tagged(&frame, 0x8100, 4));
    }
    let (at_right, at_two) = (right.mac, two.mac);
    assert_copies(&sought(&segment, &mut left, at_right), "left", &["right"], 1);
    assert_copies(&sought(&segment, &mut left, at_two), "left", &["two"], 1);
    heard(&mut left, &mut right, &[]);
}

#[test]
fn the_gateways_and_the_hosts_own_addresses_stay_where_they_are() {
    let (segment, [mut left, mut right, mut one, _two]) = four("");
    let mut host = segment.host();
    for (source, reason) in [(GATEWAY_MAC, "mac_of_gateway"), (host.mac, "mac_of_host")] {
        for destination in [left.mac, BROADCAST, stranger(1)] {
            let frame = plain(destination, source, "with weft's own address");
            segment.drops(&mut one, reason, &frame);
            segment.drops(&mut one, reason, &tagged(&frame, 0x88a8, 4));
        }
    }
    crate::lab::segment::host_heard(&mut host, &mut left, &[]);
    heard(&mut left, &mut right, &[]);
}

#[test]
fn an_untrusted_pod_teaches_nothing() {
    let (segment, [mut left, mut right, mut one, _two]) = four("");
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    for station in [stranger(1), stranger(2)] {
        let frame = plain(left.mac, station, "forged");
        segment.drops(&mut right, "spoofed_mac", &frame);
    }
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
    assert_copies(&sought(&segment, &mut left, stranger(2)), "left", &["one", "two"], 1);
    assert_eq!(segment.lab.counted("moved"), 0);
}

#[test]
fn a_new_configuration_forgets_nobody_and_a_removed_port_all_of_its_own() {
    let (segment, [mut left, right, mut one, mut two]) = four("");
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    speaks(&segment, &mut two, to, stranger(2));
    let generation = segment.lab.status().generation;
    let entries = |left: &Station, two: &Station| {
        pod_entry("left", 2, &left.namespace, false) + &pod_entry("two", 5, &two.namespace, true)
    };
    segment.lab.write_cluster(&(entries(&left, &two) + &pod_entry("one", 4, &one.namespace, true)));
    wait_for("the pod to go", || {
        let status = segment.lab.status();
        (status.generation > generation && segment.lab.pods().pods.len() == 3).then_some(())
    });
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
    assert_copies(&sought(&segment, &mut left, stranger(2)), "left", &["two"], 1);
    assert_copies(&sought(&segment, &mut left, right.mac), "left", &["one", "two"], 1);

    segment.lab.write_cluster(&entries(&left, &two));
    wait_for("the pod to go", || (segment.lab.pods().pods.len() == 2).then_some(()));
    // Unknown: looked for behind all trusted ports, of which one is left.
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["two"], 1);
    assert_copies(&sought(&segment, &mut left, stranger(2)), "left", &["two"], 1);
    assert_eq!(segment.lab.fdb(stranger(1)), Vec::<serde_json::Value>::new());
    assert_eq!(segment.lab.fdb(stranger(2))[0]["port"], "two");
}

#[test]
fn who_falls_silent_is_forgotten_and_who_goes_on_is_not() {
    let (segment, [mut left, _right, mut one, _two]) = four("ageing_s = 10");
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    speaks(&segment, &mut one, to, stranger(2));
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
    // To be spoken to is no sign of life.
    wait_for("the silent one to be forgotten", || {
        speaks(&segment, &mut one, to, stranger(2));
        std::thread::sleep(std::time::Duration::from_millis(200));
        (sought(&segment, &mut left, stranger(1)).of("tx") == 2).then_some(())
    });
    assert_copies(&sought(&segment, &mut left, stranger(2)), "left", &["one"], 1);
    speaks(&segment, &mut one, to, stranger(1));
    assert_copies(&sought(&segment, &mut left, stranger(1)), "left", &["one"], 1);
}

#[test]
fn the_fdb_tells_what_is_where_and_why() {
    let (segment, [left, right, mut one, two]) = four("");
    let mut left = left;
    let to = ("left", left.mac);
    speaks(&segment, &mut one, to, stranger(1));
    let kinds = [
        (left.mac, "left", "static"),
        (right.mac, "right", "static"),
        (two.mac, "two", "static"),
        (stranger(1), "one", "learned"),
    ];
    for (mac, port, kind) in kinds {
        let entries = segment.lab.fdb(mac);
        assert_eq!(entries.len(), 1, "{}: {entries:?}", text(mac));
        assert_eq!((&entries[0]["port"], &entries[0]["kind"]), (&port.into(), &kind.into()));
        let age = entries[0]["age_s"].as_u64();
        assert_eq!(age.is_some(), kind == "learned", "{entries:?}");
        assert!(age.is_none_or(|age| age < 30), "{entries:?}");
    }
    assert_eq!(segment.lab.fdb(GATEWAY_MAC)[0]["kind"], "gateway");
    // Who is sought is not known for that.
    sought(&segment, &mut left, stranger(2));
    assert_eq!(segment.lab.fdb(stranger(2)), Vec::<serde_json::Value>::new());
    // Twice the same makes no second entry.
    speaks(&segment, &mut one, to, stranger(1));
    assert_eq!(segment.lab.fdb(stranger(1)).len(), 1);
    let ports = segment.lab.get("/v1/ports");
    let learned = |name: &str| {
        let ports = ports["ports"].as_array().expect("ports");
        ports.iter().find(|port| port["name"] == name).map(|port| port["learned"].clone())
    };
    assert_eq!(learned("one"), Some(1.into()));
    assert_eq!(learned("two"), Some(0.into()));
}
