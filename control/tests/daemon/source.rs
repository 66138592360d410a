//! A cluster file that changes while weftd runs.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use weft_api::{PodState, State};

use crate::lab::{Lab, Namespace, nodes, tap_pod, wait_for};

#[test]
fn an_edit_takes_effect_and_a_wrong_one_changes_nothing() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();

    let stream = web.stream("10.244.0.1");
    lab.flows_from("web");
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    wait_for("the new pod", || {
        lab.pods().pods.iter().any(|p| p.name == "db" && p.state == PodState::Up).then_some(())
    });
    assert!(db.pings("10.244.0.2"));

    let (generation, pods) = (lab.status().generation, lab.pods());
    let wrong = tap_pod("db", 3, &db).replace("10.244.0.3", "10.244.0.2");
    let line =
        nodes(&[0, 1]).lines().count() + tap_pod("web", 2, &web).lines().count() + wrong.lines().count();
    lab.write_cluster(&(tap_pod("web", 2, &web) + &wrong));
    let error = wait_for("the refusal", || lab.status().source.last_error);
    assert!(error.contains(&format!("cluster.toml:{line}:")) && error.contains("10.244.0.2"), "{error}");
    let status = lab.status();
    assert_eq!((status.generation, status.state), (generation, State::Degraded));
    assert!(status.problems.iter().any(|problem| problem.contains("10.244.0.2")), "{:?}", status.problems);
    assert_eq!(lab.pods(), pods);
    assert!(db.pings("10.244.0.2"));
    lab.flows_from("web");
    stream.assert_unbroken();

    lab.write_cluster(&tap_pod("db", 3, &db));
    wait_for("the first pod to be gone", || (lab.pods().pods.len() == 1).then_some(()));
    let status = wait_for("a status without a problem", || {
        Some(lab.status()).filter(|status| status.state == State::Ready)
    });
    assert_eq!(status.source.last_error, None);
    assert_eq!(web.interfaces(), Vec::<String>::new());
    assert!(db.pings("10.244.0.1"));
    lab.counters_balance();
}

#[test]
fn sighup_has_the_file_read_again() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    // Behind a link, changes are not seen at once: the link's folder has none.
    let folder = lab.path("elsewhere");
    fs::create_dir(&folder).unwrap();
    fs::rename(lab.path("cluster.toml"), folder.join("cluster.toml")).unwrap();
    symlink(folder.join("cluster.toml"), lab.path("cluster.toml")).unwrap();
    let weftd = lab.start();

    let text = fs::read_to_string(folder.join("cluster.toml")).unwrap() + &tap_pod("db", 3, &db);
    fs::write(folder.join("cluster.toml"), text).unwrap();
    weftd.signal(Signal::SIGHUP);
    wait_for("the new pod", || {
        lab.pods().pods.iter().any(|p| p.name == "db" && p.state == PodState::Up).then_some(())
    });
    weftd.says("is read again on demand");
    assert!(db.pings("10.244.0.2"));
}

#[test]
fn a_pod_that_gets_another_address_has_only_that() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    let stream = db.stream("10.244.0.1");
    lab.flows_from("db");

    lab.write_cluster(&(tap_pod("web", 5, &web) + &tap_pod("db", 3, &db)));
    wait_for("the new address", || db.reaches("10.244.0.5").then_some(()));
    let (_, _, addresses) = web.identity("eth0");
    assert!(addresses.len() == 2 && addresses[0].contains("10.244.0.5"), "{addresses:?}");
    assert!(web.pings("10.244.0.3") && web.pings("fd00:10:244::3"), "it sends from the new ones");
    stream.assert_unbroken();
    lab.counters_balance();
}

#[test]
fn a_pod_with_another_name_keeps_its_interface() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    let (index, ..) = web.identity("eth0");

    lab.write_cluster(&(tap_pod("www", 2, &web) + &tap_pod("db", 3, &db)));
    wait_for("the new name", || {
        lab.pods().pods.iter().any(|p| p.name == "www" && p.state == PodState::Up).then_some(())
    });
    wait_for("its traffic", || db.reaches("10.244.0.2").then_some(()));
    assert_eq!(web.identity("eth0").0, index);
    assert_eq!(lab.status().problems, Vec::<String>::new());
}

#[test]
fn a_pod_that_is_removed_while_weftd_is_down_leaves_nothing() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    lab.start().crash();
    assert!(web.has_interface("eth0"));

    lab.write_cluster(&tap_pod("db", 3, &db));
    let _weftd = lab.start();
    assert!(!web.has_interface("eth0"));
    assert!(db.pings("10.244.0.1"));
}

/// What the kernel has said of a peer is not asked for again until it says that something is different.
#[test]
fn a_way_that_changes_is_taken_at_once() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    let next_hop = || lab.status().peers[0].next_hop.map(|hop| hop.to_string());
    let wait = |expected: Option<&str>| {
        wait_for("the way to b", || (next_hop().as_deref() == expected).then_some(()));
    };
    wait(Some("172.16.0.2"));
    lab.node.ip("route add 172.16.0.2/32 via 172.16.0.9 dev up0 onlink");
    wait(Some("172.16.0.9"));
    lab.node.ip("route replace unreachable 172.16.0.2/32");
    wait(None);
    wait_for("the problem", || {
        lab.status().problems.iter().find(|text| text.contains("172.16.0.2")).cloned()
    });
    // A change of something else does not lose it.
    lab.write_cluster(&(tap_pod("web", 2, &web).replace("10.244.0.2", "10.244.0.7")));
    wait_for("the pod's new address", || web.pings("10.244.0.1").then_some(()));
    assert!(lab.status().problems.iter().any(|text| text.contains("172.16.0.2")));
    lab.node.ip("route del unreachable 172.16.0.2/32");
    wait(Some("172.16.0.2"));
    wait_for("a status without a problem", || (lab.status().state == State::Ready).then_some(()));
}
