//! A pod's interface.

use crate::lab::Namespace;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;
use weft_node::{Error, PodInterface, configure_pod, look_at_pod};

const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

fn wanted() -> PodInterface {
    PodInterface {
        outdated: Vec::new(),
        ifname: "eth0".to_owned(),
        mac: [0x02, 0, 0, 0, 0, 0x07],
        mtu: 1450,
        addresses: ["10.244.1.7/24", "fd00:1::7/64"].map(|net| net.parse().expect("a prefix")).to_vec(),
        routes: [("0.0.0.0/0", "10.244.1.1"), ("::/0", "fd00:1::1")].map(route).to_vec(),
        routers: ["10.244.1.1", "fd00:1::1"].map(|ip| (ip.parse().expect("an address"), GATEWAY)).to_vec(),
    }
}

fn route((to, via): (&str, &str)) -> (IpNet, IpAddr) {
    (to.parse().expect("a prefix"), via.parse().expect("an address"))
}

fn pod() -> Namespace {
    let pod = Namespace::new();
    pod.ip("tuntap add dev eth0 mode tap");
    pod
}

fn everything(pod: &Namespace) -> String {
    ["addr show", "route show table all", "-6 route show table all"].map(|words| pod.ip(words)).join("\n")
}

#[tokio::test]
async fn a_pod_gets_its_interface_and_a_second_run_changes_nothing() {
    let pod = pod();
    pod.ip("link set lo down");
    pod.ip("addr add 192.0.2.1/32 dev eth0");
    configure_pod(&pod.path(), wanted()).await.expect("it is configured");

    let link = &pod.json("addr show dev eth0")[0];
    assert_eq!(link["mtu"], 1450);
    assert_eq!(link["address"], "02:00:00:00:00:07");
    assert!(link["flags"].as_array().expect("flags").iter().any(|flag| flag == "UP"));
    let addresses: Vec<String> = link["addr_info"]
        .as_array()
        .expect("addresses")
        .iter()
        .map(|a| format!("{}/{}", a["local"].as_str().expect("text"), a["prefixlen"]))
        .collect();
    for expected in ["192.0.2.1/32", "10.244.1.7/24", "fd00:1::7/64"] {
        assert!(addresses.iter().any(|a| a == expected), "{expected} in {addresses:?}");
    }
    assert!(!pod.ip("-6 addr show dev eth0").contains("tentative"));
    assert!(pod.ip("link show dev lo").contains("UP"));
    let v4 = &pod.json("route show default")[0];
    assert_eq!((v4["gateway"].as_str(), v4["dev"].as_str()), (Some("10.244.1.1"), Some("eth0")));
    let v6 = &pod.json("-6 route show default")[0];
    assert_eq!((v6["gateway"].as_str(), v6["dev"].as_str()), (Some("fd00:1::1"), Some("eth0")));
    let settings = pod
        .run(|| async {
            ["accept_ra", "accept_dad", "dad_transmits"].map(|name| {
                std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/eth0/{name}")).expect("it is there")
            })
        })
        .await;
    assert_eq!(settings.map(|value| value.trim().to_owned()), ["0", "0", "0"]);

    let before = everything(&pod);
    configure_pod(&pod.path(), wanted()).await.expect("it is configured again");
    assert_eq!(everything(&pod), before);
}

#[tokio::test]
async fn a_pod_knows_its_gateway_and_keeps_what_it_knew_before() {
    let pod = pod();
    configure_pod(&pod.path(), wanted()).await.expect("it is configured");
    for ip in ["10.244.1.1", "fd00:1::1"] {
        let known = pod.ip(&format!("neigh show {ip} dev eth0"));
        assert!(known.contains("lladdr 02:00:00:00:00:01") && !known.contains("PERMANENT"), "{known}");
    }
    pod.ip("neigh replace fd00:1::1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    configure_pod(&pod.path(), wanted()).await.expect("it is configured");
    let kept = pod.ip("neigh show fd00:1::1 dev eth0");
    assert!(kept.contains("lladdr 02:00:00:00:00:99") && kept.contains("PERMANENT"), "{kept}");
}

#[tokio::test]
async fn a_gateway_outside_of_the_pods_prefix_is_on_the_link() {
    let pod = pod();
    let mut interface = wanted();
    interface.addresses = vec!["10.244.1.7/32".parse().expect("a prefix")];
    interface.routes = vec![route(("0.0.0.0/0", "169.254.1.1"))];
    configure_pod(&pod.path(), interface).await.expect("it is configured");
    let route = pod.ip("route show default");
    assert!(route.contains("via 169.254.1.1") && route.contains("onlink"), "{route}");
}

#[tokio::test]
async fn only_our_own_default_route_is_replaced() {
    let pod = pod();
    configure_pod(&pod.path(), wanted()).await.expect("it is configured");
    let mut moved = wanted();
    moved.routes = vec![route(("0.0.0.0/0", "10.244.1.254"))];
    configure_pod(&pod.path(), moved.clone()).await.expect("it is configured");
    assert!(pod.ip("route show default").starts_with("default via 10.244.1.254 dev eth0"));
    assert_eq!(pod.json("route show default").len(), 1);

    // A pod with another interface that has the default route keeps it.
    pod.ip("route del default");
    pod.ip("link add eth1 type veth peer name ethpeer");
    pod.ip("link set eth1 up");
    pod.ip("route add default dev eth1");
    configure_pod(&pod.path(), moved).await.expect("it is configured");
    let routes = pod.json("route show default");
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0]["dev"], "eth1");
}

#[tokio::test]
async fn a_pod_has_the_routes_that_are_wanted_and_is_seen_as_it_is() {
    let pod = pod();
    let mut interface = wanted();
    interface.routes.push(route(("10.244.0.0/16", "10.244.1.1")));
    configure_pod(&pod.path(), interface.clone()).await.expect("it is configured");
    let seen = look_at_pod(&pod.path(), "eth0").await.expect("it is read").expect("it is there");
    assert_eq!((seen.mac, seen.mtu, seen.up), (Some(interface.mac), 1450, true));
    assert!(interface.addresses.iter().all(|net| seen.addresses.contains(net)), "{seen:?}");
    assert!(interface.routes.iter().all(|(to, _)| seen.routes.contains(to)), "{seen:?}");
    assert_eq!(look_at_pod(&pod.path(), "eth1").await.expect("it is read"), None);

    // Those of others stay, those of weft's that are not wanted any more go.
    pod.ip("route add 192.0.2.0/24 via 10.244.1.9");
    interface.routes.retain(|(to, _)| to.prefix_len() != 0);
    configure_pod(&pod.path(), interface).await.expect("it is configured again");
    let routes = pod.ip("route show");
    assert!(routes.contains("10.244.0.0/16 via 10.244.1.1") && routes.contains("192.0.2.0/24"), "{routes}");
    assert!(!routes.contains("default") && !pod.ip("-6 route show").contains("default"), "{routes}");
}

#[tokio::test]
async fn ipv6_that_a_runtime_switched_off_is_switched_on_for_a_pod_that_has_it() {
    let pod = pod();
    pod.sysctl("ipv6/conf/eth0/disable_ipv6", "1").await;
    configure_pod(&pod.path(), wanted()).await.expect("it is configured");
    assert!(pod.ip("-6 addr show dev eth0").contains("fd00:1::7/64"));
}

#[tokio::test]
async fn a_new_interface_has_no_queueing_and_a_chosen_one_stays() {
    for chosen in [None, Some("pfifo")] {
        let pod = Namespace::new();
        pod.ip("tuntap add dev eth0 mode tap multi_queue");
        if let Some(kind) = chosen {
            pod.tc(&format!("qdisc add dev eth0 root {kind}"));
        }
        configure_pod(&pod.path(), wanted()).await.expect("it is configured");
        let shown = pod.tc("qdisc show dev eth0");
        assert!(shown.starts_with(&format!("qdisc {}", chosen.unwrap_or("noqueue"))), "{shown}");
    }
}

#[tokio::test]
async fn errors_name_the_namespace_and_the_interface() {
    let gone = Path::new("/run/netns/weft-t-gone");
    let error = configure_pod(gone, wanted()).await.expect_err("no such namespace");
    assert!(matches!(error, Error::Namespace { .. }) && error.to_string().contains("weft-t-gone"), "{error}");
    let no_namespace = Path::new("/proc/self/status");
    let error = configure_pod(no_namespace, wanted()).await.expect_err("no namespace");
    assert!(error.to_string().contains("/proc/self/status"), "{error}");
    // Another kind of namespace; and what nobody writes to, which opens only then.
    let fifo = std::env::temp_dir().join(format!("weft-t-fifo-{}", std::process::id()));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("it is made");
    for other in [Path::new("/proc/self/ns/mnt"), &fifo] {
        let error = configure_pod(other, wanted()).await.expect_err("no network namespace");
        let text = error.to_string();
        assert!(text.contains(other.to_str().expect("text")), "{text}");
    }
    std::fs::remove_file(&fifo).expect("it is removed");

    let pod = pod();
    let mut other = wanted();
    other.ifname = "eth1".to_owned();
    let error = configure_pod(&pod.path(), other).await.expect_err("no such interface");
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");

    // Nor is it there by another of its names, or by one that none can have.
    pod.ip("link property add dev eth0 altname pod0");
    for name in ["pod0", "a-name-that-is-too-long"] {
        let other = PodInterface { ifname: name.to_owned(), ..wanted() };
        let error = configure_pod(&pod.path(), other).await.expect_err("no such interface");
        assert!(matches!(error, Error::NoInterface { .. }), "{name}: {error}");
    }
}
