//! Going away without a trace.

use crate::lab::{Namespace, joined, wait_for};
use weft_node::{Device, Error, Lock, Mirror, Neighbours, State, delete_tap, purge};

#[tokio::test]
async fn devices_neighbours_and_files_go_and_nothing_else() {
    let (host, _peer) = joined();
    let pod = Namespace::new();
    host.ip("tuntap add dev weft0 mode tap");
    host.ip("tuntap add dev keep0 mode tap");
    pod.ip("tuntap add dev eth0 mode tap");
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().to_owned();
    let device = |netns: Option<std::path::PathBuf>, name: &str| Device { netns, name: name.to_owned() };
    let state = State {
        devices: vec![
            device(Some(pod.path()), "eth0"),
            device(Some("/run/netns/weft-t-gone".into()), "eth0"),
            device(None, "weft7"),
        ],
        ..State::default()
    };
    state.save(&dir).expect("it is written");
    std::fs::write(dir.join("state.json.corrupt-1"), "x").expect("it is written");
    std::fs::write(dir.join("notes.txt"), "x").expect("it is written");
    host.run(|| async {
        let (mirror, _changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        let peer = "192.0.2.2".parse().expect("an address");
        wait_for("the neighbour", || async {
            crate::paths(&mirror, &[peer]).await.remove(0).ok()?.next_hop_mac
        })
        .await;
    })
    .await;
    assert!(host.ip("neigh show dev up0").contains("proto 87"));
    host.ip("route add 10.244.1.0/24 via 192.0.2.2 dev up0 proto 87");
    host.ip("route add 10.244.2.0/24 via 192.0.2.2 dev up0");

    // Not while weftd runs.
    let lock = Lock::take(&dir).expect("it is free");
    let at = dir.clone();
    let refused = host.run(move || async move { purge(&at, "weft0").await }).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    drop(lock);

    let at = dir.clone();
    let purged = host.run(move || async move { purge(&at, "weft0").await }).await.expect("it is purged");
    assert_eq!(purged.devices, [format!("eth0 in {}", pod.path().display()), "weft0".to_owned()]);
    assert_eq!(purged.files, [dir.join("state.json"), dir.join("state.json.corrupt-1")]);
    assert!(pod.json("link show").iter().all(|link| link["ifname"] == "lo"));
    let left = host.ip("link show");
    assert!(!left.contains("weft0") && left.contains("keep0") && left.contains("up0"), "{left}");
    assert!(!host.ip("neigh show dev up0").contains("proto 87"));
    let routes = host.ip("route show");
    assert!(!routes.contains("10.244.1.0/24") && routes.contains("10.244.2.0/24"), "{routes}");
    assert!(dir.join("notes.txt").exists());

    let at = dir.clone();
    let again = host.run(move || async move { purge(&at, "weft0").await }).await.expect("nothing is left");
    assert_eq!(again, weft_node::Purged::default());
}

#[tokio::test]
async fn a_device_that_is_no_tap_is_left_alone() {
    let host = Namespace::new();
    host.ip("link add weft0 type veth peer name weftpeer");
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().to_owned();
    let refused = host.run(move || async move { purge(&dir, "weft0").await }).await;
    assert!(matches!(refused, Err(Error::NotTap { .. })), "{refused:?}");
    assert!(host.ip("link show").contains("weft0"));
}

#[tokio::test]
async fn what_was_in_a_namespace_that_is_unmounted_is_gone() {
    let host = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    // What is left of it where its name was not removed.
    let left = directory.path().join("left");
    std::fs::write(&left, "").expect("it is written");
    assert!(!delete_tap(Some(&left), "eth0").await.expect("it is gone"));
    let device = Device { netns: Some(left), name: "eth0".to_owned() };
    State { devices: vec![device], ..State::default() }.save(directory.path()).expect("it is saved");
    let dir = directory.path().to_owned();
    let purged = host.run(move || async move { purge(&dir, "weft0").await }).await.expect("it is purged");
    assert_eq!(purged.devices, Vec::<String>::new());
}
