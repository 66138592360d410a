//! Pods that can't be added: an error that names the thing, and everything as it was before.

use std::fs;
use std::path::PathBuf;

use weft_api::{ClientError, ErrorCode, PodPort, PodSpec, VhostMode};

use crate::lab::{Lab, Namespace, spec, tap_pod, tap_spec, wait_for};

/// The request is refused with this code and these words, and nothing of it remains.
fn refused(lab: &Lab, spec: &PodSpec, code: ErrorCode, names: &[&str]) {
    let before = (lab.pods(), lab.stats().ports.len(), fs::read(lab.state_dir().join("state.json")).unwrap());
    let error = match lab.add(spec) {
        Err(ClientError::Api(error)) => error,
        other => panic!("{spec:?} is not refused: {other:?}"),
    };
    println!("{error}");
    assert_eq!(error.code, code, "{error}");
    for name in names {
        assert!(error.error.contains(name), "{name:?} is not in the message: {error}");
    }
    let after = (lab.pods(), lab.stats().ports.len(), fs::read(lab.state_dir().join("state.json")).unwrap());
    assert_eq!(after, before, "{spec:?} left something behind");
    assert!(lab.status().problems.is_empty(), "{:?}", lab.status().problems);
}

#[test]
fn a_pod_that_cannot_be_added_leaves_nothing_behind() {
    let lab = Lab::new();
    let (web, new) = (Namespace::new("web"), Namespace::new("new"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    let devices = web.identity("eth0");

    let nowhere = PathBuf::from("/run/netns/weft-t-nowhere");
    refused(
        &lab,
        &tap_spec("new", 3, &nowhere),
        ErrorCode::Refused,
        &["pod new", "/run/netns/weft-t-nowhere"],
    );
    let file = lab.path("weftd.toml");
    refused(&lab, &tap_spec("new", 3, &file), ErrorCode::Refused, &["pod new", file.to_str().unwrap()]);

    new.ip("link add eth0 type bridge");
    refused(
        &lab,
        &tap_spec("new", 3, &new.path()),
        ErrorCode::Refused,
        &["pod new", "eth0", "no TAP", "bridge"],
    );
    new.ip("link del eth0");

    let mut outside = tap_spec("new", 3, &new.path());
    outside.addresses = vec!["10.244.1.3".parse().unwrap()];
    refused(&lab, &outside, ErrorCode::Refused, &["new", "10.244.1.3", "10.244.0.0/24"]);
    refused(&lab, &tap_spec("new", 2, &new.path()), ErrorCode::Refused, &["new", "10.244.0.2", "\"web\""]);
    refused(&lab, &tap_spec("new", 1, &new.path()), ErrorCode::Refused, &["10.244.0.1", "gateway"]);
    refused(&lab, &tap_spec("web", 3, &new.path()), ErrorCode::Conflict, &["pod web"]);
    refused(&lab, &tap_spec("new", 3, &web.path()), ErrorCode::Refused, &["new", "\"web\""]);

    let long = PodPort::VhostUser { socket: lab.path(&"x".repeat(120)), mode: VhostMode::Server };
    refused(&lab, &spec("new", 3, long), ErrorCode::Refused, &["\"new\"", "socket", "107"]);
    let nowhere = PodPort::VhostUser { socket: lab.path("no/such/dir/s"), mode: VhostMode::Server };
    refused(&lab, &spec("new", 3, nowhere), ErrorCode::Refused, &["pod new", "no/such/dir/s"]);
    for (devargs, names) in [
        ("net_nosuch0", ["pod new", "net_nosuch0"]),
        ("net_pcap0,rx_pcap=/no/such/file", ["pod new", "net_pcap0"]),
    ] {
        let port = PodPort::Dpdk { devargs: devargs.to_owned() };
        refused(&lab, &spec("new", 3, port), ErrorCode::Refused, &names);
    }
    let blank = PodPort::Dpdk { devargs: "net_null0, no-rx=1".to_owned() };
    refused(&lab, &spec("new", 3, blank), ErrorCode::Refused, &["new", "net_null0, no-rx=1"]);

    assert_eq!(new.interfaces(), Vec::<String>::new(), "a device was left in the pod");
    assert_eq!(web.identity("eth0"), devices);
    assert!(web.pings("10.244.0.1"));
    lab.counters_balance();

    // After all that it is still possible.
    lab.add(&tap_spec("new", 3, &new.path())).unwrap();
    assert!(web.pings("10.244.0.3"));
}

#[test]
fn the_same_pod_twice_is_one_and_a_pod_of_the_file_is_not_deleted_here() {
    let lab = Lab::new();
    let (web, new) = (Namespace::new("web"), Namespace::new("new"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    let first = lab.add(&tap_spec("new", 3, &new.path())).unwrap();
    let again = lab.add(&tap_spec("new", 3, &new.path())).unwrap();
    assert_eq!(first, again);
    for (name, code) in [("web", ErrorCode::Conflict), ("nobody", ErrorCode::NotFound)] {
        match lab.delete(name) {
            Err(ClientError::Api(error)) => {
                assert_eq!((error.code, error.error.contains(name)), (code, true), "{error}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(lab.pods().pods.len(), 2);
}

#[test]
fn a_deleted_pod_is_gone_and_the_others_notice_nothing() {
    let lab = Lab::new();
    let (web, db, old) = (Namespace::new("web"), Namespace::new("db"), Namespace::new("old"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    lab.add(&tap_spec("old", 4, &old.path())).unwrap();
    assert!(web.pings("10.244.0.4"));

    let stream = web.stream("10.244.0.3");
    lab.flows_from("web");
    lab.delete("old").unwrap();
    lab.flows_from("web");
    stream.assert_unbroken();
    assert_eq!(old.interfaces(), Vec::<String>::new(), "the device stays in the pod");
    let unanswered = lab.drops("neighbour_unknown");
    web.ip("neigh flush dev eth0");
    assert!(!web.reaches("10.244.0.4"));
    wait_for("nobody to know the address", || (lab.drops("neighbour_unknown") > unanswered).then_some(()));
    lab.counters_balance();
    assert_eq!(lab.pods().pods.len(), 2);
}
