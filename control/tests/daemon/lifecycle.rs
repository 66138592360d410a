//! A weftd that starts, ends, is killed, and is purged.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_api::State;

use crate::lab::{Lab, Namespace, tap_pod, tap_spec, wait_for};

/// Gateways of the default routes of one family.
fn default_routes(namespace: &Namespace, family: u8) -> Vec<Value> {
    let routes = namespace.json(&format!("-{family} route show default"));
    routes.into_iter().map(|route| route["gateway"].clone()).collect()
}

#[test]
fn its_version_is_asked_for_as_flannelds_is_too() {
    for flag in ["-version", "--version"] {
        let output = Command::new(env!("CARGO_BIN_EXE_weftd")).arg(flag).output().unwrap();
        assert!(output.status.success(), "{flag}: {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("weftd {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_pod_has_its_interface_and_reaches_the_node() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();

    let dropped = |address: &str| {
        let address = address.parse().unwrap();
        let taken = lab.ask(async |weftd| weftd.route_to(address).await).expect("a route");
        taken.routes[0].dropped.clone()
    };
    for (address, reason) in [("10.244.0.99", Some("no_pod")), ("10.244.0.2", None), ("10.244.0.1", None)] {
        assert_eq!(dropped(address).as_deref(), reason, "{address}");
    }
    let listed = lab.pods().pods.remove(0);
    let link = web.json("-d link show dev eth0").remove(0);
    assert_eq!(link["linkinfo"]["info_kind"], "tun");
    assert_eq!(link["address"], listed.mac.to_string());
    // The underlay's 1500 less Ethernet, VXLAN, UDP and IPv4.
    assert_eq!((link["mtu"].as_u64(), listed.mtu), (Some(1450), 1450));
    let (_, _, mut addresses) = web.identity("eth0");
    addresses.retain(|address| !address.contains("fe80"));
    assert_eq!(addresses, ["\"10.244.0.2\"/24", "\"fd00:10:244::2\"/64"]);
    assert_eq!(default_routes(&web, 4), ["10.244.0.1"]);
    assert_eq!(default_routes(&web, 6), ["fd00:10:244::1"]);

    for address in ["10.244.0.1", "10.244.0.0", "fd00:10:244::1", "fd00:10:244::", "172.16.0.1"] {
        assert!(web.pings(address), "the pod does not reach {address}");
    }
    for address in ["10.244.0.2", "fd00:10:244::2"] {
        assert!(lab.node.pings(address), "the node does not reach {address}");
    }
    let file = fs::symlink_metadata(lab.socket()).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o7777, 0o660);
    let status = lab.status();
    assert_eq!((status.state, status.pods, status.network.pod_mtu), (State::Ready, 1, 1450));
    lab.counters_balance();
}

/// A pod of the file and one of the API are as they were, and talk, though nobody has touched them.
fn survives(end: impl FnOnce(&Lab, crate::lab::Weftd)) {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    lab.add(&tap_spec("db", 3, &db.path())).unwrap();
    assert!(web.pings("10.244.0.3"));
    let before = (web.identity("eth0"), db.identity("eth0"), lab.node.identity("weft0"));
    let (pods, vtep) = (lab.pods().pods, fs::read_to_string(lab.state_dir().join("state.json")).unwrap());

    end(&lab, weftd);
    let there = || (web.identity("eth0"), db.identity("eth0"), lab.node.identity("weft0"));
    assert_eq!(there(), before, "without weftd");
    let _weftd = lab.start();
    assert_eq!(there(), before, "with the next weftd");
    assert!(web.pings("10.244.0.3"));
    assert!(db.pings("fd00:10:244::2"));
    assert!(lab.node.pings("10.244.0.3"));
    assert_eq!(fs::read_to_string(lab.state_dir().join("state.json")).unwrap(), vtep);
    for (now, then) in lab.pods().pods.iter().zip(&pods) {
        assert_eq!(
            (&now.name, now.mac, now.origin, now.state),
            (&then.name, then.mac, then.origin, then.state)
        );
    }
    assert_eq!(lab.pods().pods.len(), 2);
}

#[test]
fn pods_survive_a_restart() {
    survives(|lab, weftd| {
        let took = weftd.stop();
        assert!(took < Duration::from_secs(5), "{took:?}");
        // An end that takes long is cut short; what is left then the next weftd removes.
        assert!(took > Duration::from_millis(700) || !lab.socket().exists(), "the socket is left");
    });
}

#[test]
fn pods_survive_a_crash() {
    survives(|_, weftd| weftd.crash());
}

#[test]
fn purge_takes_everything_away_but_not_under_a_running_weftd() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    lab.add(&tap_spec("db", 3, &db.path())).unwrap();

    let purge = || {
        let state = lab.state_dir();
        let work = move |_| async move { weft_node::purge(&state, "weft0").await };
        lab.wait_on(weft_node::inside(&lab.node.path(), work))
    };
    let refused = purge().unwrap_err().to_string();
    assert!(refused.contains("already runs"), "{refused}");
    // With another state directory the lock tells nothing; the TAP that weftd holds does.
    let elsewhere = tempfile::tempdir().unwrap();
    let state = elsewhere.path().to_owned();
    let work = move |_| async move { weft_node::purge(&state, "weft0").await };
    let refused = lab.wait_on(weft_node::inside(&lab.node.path(), work)).unwrap_err().to_string();
    assert!(refused.contains("\"weft0\" is held open by a program"), "{refused}");
    assert!(lab.node.has_interface("weft0") && web.pings("10.244.0.3"));

    weftd.stop();
    assert!(web.has_interface("eth0") && db.has_interface("eth0") && lab.node.has_interface("weft0"));
    let purged = purge().unwrap();
    assert_eq!(purged.devices.len(), 3, "{purged:?}");
    for namespace in [&web, &db] {
        assert_eq!(namespace.interfaces(), Vec::<String>::new());
    }
    assert_eq!(lab.node.interfaces(), ["up0"]);
    assert!(!lab.state_dir().join("state.json").exists());
    // 87 is weft's protocol number.
    assert_eq!(lab.node.ip("neigh show proto 87").trim(), "", "neighbours of weft's are left");

    // And from the beginning: the API's pod is forgotten.
    let _weftd = lab.start();
    wait_for("the pod to be there", || web.reaches("10.244.0.1").then_some(()));
    assert_eq!(lab.pods().pods.len(), 1);
}
