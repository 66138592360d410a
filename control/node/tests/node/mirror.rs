//! The mirror of the underlay.

use crate::lab::{Namespace, PATIENCE, joined, mac, wait_for};
use std::net::IpAddr;
use weft_node::{Error, Mirror, Neighbours, Path, PathError, default_uplink, uplink};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The path to one destination, once its next hop has a MAC address.
async fn resolved(mirror: &Mirror, destination: &str) -> Path {
    wait_for("the kernel resolves the next hop", || async {
        let path = crate::paths(mirror, &[ip(destination)]).await.remove(0).expect("there is a path");
        path.next_hop_mac.is_some().then_some(path)
    })
    .await
}

#[tokio::test]
async fn the_uplink_is_the_default_routes_interface() {
    let (here, _there) = joined();
    here.ip("link add other0 type veth peer name otherpeer");
    let none = here.run(default_uplink).await;
    assert!(matches!(none, Err(Error::NoDefaultRoute)), "{none:?}");

    // Without IPv4's, IPv6's default route counts; with both, IPv4's; of two, the one with the lower metric.
    here.ip("-6 route add default via 2001:db8::2");
    assert_eq!(here.run(default_uplink).await.expect("one").name, "up0");
    here.ip("link set other0 up");
    here.ip("route add default dev other0 metric 50");
    assert_eq!(here.run(default_uplink).await.expect("one").name, "other0");
    here.ip("route add default via 192.0.2.2 metric 10");
    let found = here.run(default_uplink).await.expect("one");
    assert_eq!((found.name.as_str(), found.mtu, found.up), ("up0", 1500, true));
    assert_eq!(found.mac, mac(&here, "up0"));
    assert_eq!(found.ipv4(), Some("192.0.2.1".parse().expect("an address")));
    // Link-local comes after global, though the kernel made it first or lists it last.
    assert_eq!(found.ipv6(), Some("2001:db8::1".parse().expect("an address")));
}

#[tokio::test]
async fn an_unknown_interface_is_answered_with_those_there_are() {
    let (here, _there) = joined();
    let error = here.run(|| uplink("eno7")).await.expect_err("no such interface");
    let text = error.to_string();
    assert!(text.contains("\"eno7\"") && text.contains("up0") && text.contains("lo"), "{text}");
}

#[tokio::test]
async fn changes_of_the_uplink_are_told_and_others_are_not() {
    let (here, there) = joined();
    here.ip("link add other0 type veth peer name otherpeer");
    let namespace = here.name().to_owned();
    let there_path = there.path();
    here.run(move || async move {
        let ip = |words: &str| {
            let all = ["-n", &namespace].into_iter().chain(words.split_whitespace());
            let status = std::process::Command::new("ip").args(all).status().expect("ip runs");
            assert!(status.success(), "ip {words}");
        };
        let (mirror, mut changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        // The link-local address may still have been on its way.
        wait_for("IPv6 is ready", || async { (mirror.uplink().addresses.len() == 3).then_some(()) }).await;
        changes.mark_unchanged();

        ip("link set other0 up mtu 1400");
        ip("addr add 198.51.100.1/24 dev other0");
        // A change that counts comes after them, so they have been worked off when it is seen.
        ip("link set up0 mtu 1400");
        let before = *changes.borrow();
        wait_for("the MTU", || async { (mirror.uplink().mtu == 1400).then_some(()) }).await;
        wait_for("the change is told", || async { (*changes.borrow() > before).then_some(()) }).await;

        changes.mark_unchanged();
        ip("addr add 192.0.2.77/24 dev up0");
        changes.changed().await.expect("it lives");
        assert!(mirror.uplink().addresses.iter().any(|net| net.to_string() == "192.0.2.77/24"));

        let name = there_path.file_name().and_then(|n| n.to_str()).expect("a name");
        let down = std::process::Command::new("ip").args(["-n", name, "link", "set", "up0", "down"]).status();
        assert!(down.expect("ip runs").success());
        wait_for("the carrier is lost", || async { (!mirror.uplink().up).then_some(()) }).await;

        // An interface that vanishes and comes back with another index is the same uplink.
        let index = mirror.uplink().index;
        ip("link del up0");
        wait_for("it is gone", || async { mirror.uplink().addresses.is_empty().then_some(()) }).await;
        assert!(!mirror.uplink().up);
        ip("link add up0 type veth peer name uppeer");
        ip("link set uppeer up");
        ip("link set up0 up");
        wait_for("it is back", || async { mirror.uplink().up.then_some(()) }).await;
        assert_ne!(mirror.uplink().index, index);
    })
    .await;
}

#[tokio::test]
async fn paths_are_the_kernels_and_missing_neighbours_are_resolved() {
    let (here, there) = joined();
    here.ip("link add other0 type veth peer name otherpeer");
    here.ip("link set other0 up");
    here.ip("route add 203.0.113.0/24 via 192.0.2.2 mtu 1300");
    here.ip("route add 198.51.100.0/24 dev other0");
    here.ip("addr add 192.0.2.9/24 dev up0");
    let peer = mac(&there, "up0");
    let index = here.json("link show dev up0")[0]["ifindex"].as_u64();
    here.run(move || async move {
        let (mirror, mut changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        let all =
            ["192.0.2.2", "203.0.113.5", "2001:db8::2", "198.51.100.7", "192.0.2.1", "10.1.1.1"].map(ip);
        changes.mark_unchanged();
        crate::paths(&mirror, &all).await;
        changes.changed().await.expect("a resolved neighbour is told");
        let paths = wait_for("all neighbours are resolved", || async {
            let paths = crate::paths(&mirror, &all).await;
            let done = |path: &Result<Path, PathError>| !matches!(path, Ok(p) if p.next_hop_mac.is_none());
            paths.iter().all(done).then_some(paths)
        })
        .await;

        let direct = paths[0].as_ref().expect("on the link");
        assert_eq!(u64::from(direct.oif), index.expect("an index"));
        assert_eq!((direct.source, direct.next_hop, direct.mtu), (ip("192.0.2.1"), all[0], None));
        assert_eq!(direct.next_hop_mac, Some(peer));
        let routed = paths[1].as_ref().expect("behind the gateway");
        assert_eq!((routed.destination, routed.next_hop), (all[1], ip("192.0.2.2")));
        assert_eq!((routed.next_hop_mac, routed.mtu), (Some(peer), Some(1300)));
        let v6 = paths[2].as_ref().expect("on the link");
        assert_eq!((v6.source, v6.next_hop, v6.next_hop_mac), (ip("2001:db8::1"), all[2], Some(peer)));
        let other = paths[3].as_ref().expect_err("by another interface").to_string();
        assert!(other.contains("other0") && other.contains("up0"), "{other}");
        assert_eq!(paths[4], Err(PathError::NotAPeer { destination: all[4] }));
        assert!(matches!(paths[5], Err(PathError::NoRoute { .. })), "{:?}", paths[5]);
    })
    .await;
    // The kernel keeps them resolved, and they carry weft's number.
    let neighbours = here.ip("neigh show dev up0");
    let line = neighbours.lines().find(|line| line.starts_with("192.0.2.2 ")).expect("it is there");
    assert!(line.contains("managed") && line.contains("proto 87"), "{line}");
}

#[tokio::test]
async fn a_route_that_moves_is_told() {
    let (here, _there) = joined();
    here.ip("route add 203.0.113.0/24 via 192.0.2.2");
    here.ip("neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev up0 nud permanent");
    let namespace = here.name().to_owned();
    here.run(move || async move {
        let (mirror, mut changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        resolved(&mirror, "203.0.113.1").await;
        changes.mark_unchanged();
        let status = std::process::Command::new("ip")
            .args(["-n", &namespace, "route", "add", "203.0.113.1/32", "via", "192.0.2.3"])
            .status();
        assert!(status.expect("ip runs").success());
        let moved = async {
            loop {
                // Of the first next hop's MAC address something may be told yet.
                changes.changed().await.expect("it lives");
                let path = crate::paths(&mirror, &[ip("203.0.113.1")]).await.remove(0).expect("a path");
                if path.next_hop == ip("192.0.2.3") {
                    return path;
                }
            }
        };
        let path = tokio::time::timeout(PATIENCE, moved).await.expect("the move is told");
        assert_eq!(path.next_hop_mac, Some([2, 0, 0, 0, 0, 3]));
    })
    .await;
}

/// Which destinations are asked about again follows from the route; that of all is the default route.
#[tokio::test]
async fn a_default_route_that_moves_is_told_and_another_networks_is_not() {
    let (here, _there) = joined();
    here.ip("route add default via 192.0.2.2");
    here.ip("-6 route add default via 2001:db8::2");
    let namespace = here.name().to_owned();
    here.run(move || async move {
        let ip_command = |words: &str| {
            let all = ["-n", &namespace].into_iter().chain(words.split_whitespace());
            assert!(std::process::Command::new("ip").args(all).status().expect("ip runs").success());
        };
        let (mirror, mut changes) = Mirror::start(Some("up0"), Neighbours::Leave).await.expect("it starts");
        wait_for("IPv6 is ready", || async { (mirror.uplink().addresses.len() == 3).then_some(()) }).await;
        let all = ["203.0.113.1", "2001:db8:7::1"].map(ip);
        let next_hop =
            |index: usize| crate::all_paths(&mirror)[&all[index]].clone().expect("there is a path").next_hop;
        let edition = mirror.follow(&all).await;
        assert_eq!((next_hop(0), next_hop(1)), (ip("192.0.2.2"), ip("2001:db8::2")));
        assert_eq!(mirror.follow(&all).await, edition, "nothing has changed");

        changes.mark_unchanged();
        let before = *changes.borrow();
        ip_command("route add 10.244.7.0/24 via 192.0.2.3");
        ip_command("-6 route replace default via 2001:db8::3");
        changes.changed().await.expect("it lives");
        assert_eq!((next_hop(0), next_hop(1)), (ip("192.0.2.2"), ip("2001:db8::3")));
        ip_command("route replace default via 192.0.2.3");
        changes.changed().await.expect("it lives");
        assert_eq!((next_hop(0), next_hop(1)), (ip("192.0.2.3"), ip("2001:db8::3")));
        assert_eq!(*changes.borrow(), before + 2, "of the pods' network nothing was told");
        assert!(mirror.follow(&all).await > edition);
    })
    .await;
}

#[tokio::test]
async fn a_peers_new_mac_address_is_followed_without_any_traffic() {
    let (here, there) = joined();
    // The kernel's timers in small, or this would take half a minute.
    for (name, value) in [
        ("base_reachable_time_ms", "200"),
        ("delay_first_probe_time", "1"),
        ("interval_probe_time_ms", "200"),
        ("retrans_time_ms", "50"),
    ] {
        here.sysctl(&format!("ipv4/neigh/up0/{name}"), value).await;
    }
    let there_name = there.name().to_owned();
    here.run(move || async move {
        let (mirror, changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        resolved(&mirror, "192.0.2.2").await;
        let before = *changes.borrow();
        let words = ["-n", &there_name, "link", "set", "up0", "address", "02:00:00:00:00:99"];
        assert!(std::process::Command::new("ip").args(words).status().expect("ip runs").success());
        wait_for("the new MAC address", || async {
            let told = *changes.borrow() > before;
            let path = crate::paths(&mirror, &[ip("192.0.2.2")]).await.remove(0).expect("there is a path");
            (told && path.next_hop_mac == Some([2, 0, 0, 0, 0, 0x99])).then_some(())
        })
        .await;
    })
    .await;
}

/// The kernel's own housekeeping of a neighbour is no news: the MAC address stays.
#[tokio::test]
async fn a_neighbour_that_goes_stale_and_back_is_not_told() {
    let (here, _there) = joined();
    let namespace = here.name().to_owned();
    here.run(move || async move {
        let ip_command = |words: &str| {
            let all = ["-n", &namespace].into_iter().chain(words.split_whitespace());
            assert!(std::process::Command::new("ip").args(all).status().expect("ip runs").success());
        };
        let (mirror, changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        wait_for("IPv6 is ready", || async { (mirror.uplink().addresses.len() == 3).then_some(()) }).await;
        let path = resolved(&mirror, "192.0.2.2").await;
        let known = path.next_hop_mac.expect("it is resolved");
        let text = known.map(|byte| format!("{byte:02x}")).join(":");
        // The resolution itself is told a moment later; a change that is told after it makes sure that it was.
        ip_command("addr add 192.0.2.77/24 dev up0");
        wait_for("the fence", || async { (mirror.uplink().addresses.len() == 4).then_some(()) }).await;
        let before = *changes.borrow();
        for state in ["stale", "reachable", "stale", "reachable", "delay"] {
            ip_command(&format!("neigh replace 192.0.2.2 lladdr {text} dev up0 nud {state}"));
        }
        // Another neighbour's MAC address is no news either: no path needs it.
        ip_command("neigh add 192.0.2.55 lladdr 02:00:00:00:00:55 dev up0 nud reachable");
        // This one is, and comes after them all: the count moves by it alone.
        ip_command("addr add 192.0.2.78/24 dev up0");
        let seen = || async { (mirror.uplink().addresses.len() == 5).then_some(()) };
        wait_for("the last change is seen", seen).await;
        assert_eq!(*changes.borrow(), before + 1);
    })
    .await;
}

#[tokio::test]
async fn only_wefts_own_neighbours_are_dropped_with_the_peer() {
    let (here, _there) = joined();
    here.ip("neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev up0 nud permanent");
    here.ip("neigh add 192.0.2.4 dev up0 managed");
    let lines = |namespace: &Namespace| namespace.ip("neigh show dev up0");
    let before = lines(&here);
    here.run(move || async move {
        let (mirror, _changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        let all = ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(ip);
        wait_for("the neighbours", || async {
            let paths = crate::paths(&mirror, &all).await;
            assert_eq!(paths[1].as_ref().expect("a path").next_hop_mac, Some([2, 0, 0, 0, 0, 3]));
            paths[0].as_ref().expect("a path").next_hop_mac.map(|_| ())
        })
        .await;
        crate::paths(&mirror, &[]).await;
    })
    .await;
    let after = lines(&here);
    assert!(!after.contains("192.0.2.2 "), "{after}");
    assert!(after.contains("192.0.2.3 lladdr 02:00:00:00:00:03 PERMANENT"), "{after}");
    let theirs = after.lines().find(|line| line.starts_with("192.0.2.4 ")).expect("it is still there");
    assert!(theirs.contains("managed") && !theirs.contains("proto"), "before: {before} after: {after}");
}

#[tokio::test]
async fn lost_notifications_cost_one_more_reading() {
    let (here, _there) = joined();
    here.ip("neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev up0 nud permanent");
    let directory = tempfile::tempdir().expect("a directory");
    let batch = directory.path().join("batch");
    let routes: String =
        (0..20_000_u32).map(|n| format!("route add 10.{}.{}.0/24 dev up0\n", n / 256, n % 256)).collect();
    std::fs::write(
        &batch,
        routes + "neigh replace 192.0.2.3 lladdr 02:00:00:00:00:04 dev up0 nud permanent\n",
    )
    .expect("it is written");
    let namespace = here.name().to_owned();
    here.run(move || async move {
        let (mirror, _changes) = Mirror::start(Some("up0"), Neighbours::Keep).await.expect("it starts");
        let next_hop_mac = || async {
            crate::paths(&mirror, &[ip("192.0.2.3")]).await.remove(0).expect("there is a path").next_hop_mac
        };
        assert_eq!(next_hop_mac().await, Some([2, 0, 0, 0, 0, 3]));
        // The runtime's only thread stands here, so nobody reads the notifications, the buffer overflows, and the
        // last one, which alone says something of the neighbour, is lost.
        let status = std::process::Command::new("ip").args(["-n", &namespace, "-b"]).arg(&batch).status();
        assert!(status.expect("ip runs").success());
        wait_for("the neighbour's last state is seen", || async {
            (next_hop_mac().await == Some([2, 0, 0, 0, 0, 4])).then_some(())
        })
        .await;
        // And the mirror still listens.
        let words = ["-n", &namespace, "link", "set", "up0", "mtu", "1235"];
        assert!(std::process::Command::new("ip").args(words).status().expect("ip runs").success());
        wait_for("a later change is seen", || async { (mirror.uplink().mtu == 1235).then_some(()) }).await;
    })
    .await;
}
