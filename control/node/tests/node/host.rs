//! The host's port.

use crate::lab::Namespace;
use weft_node::{Error, HostPort, configure_host_port, interface_mtu, local_port_range};

fn wanted() -> HostPort {
    let ips = |texts: [&str; 2]| texts.map(|ip| ip.parse().expect("an address")).to_vec();
    let nets = |texts: [&str; 2]| texts.map(|net| net.parse().expect("a prefix")).to_vec();
    HostPort {
        name: "weft0".to_owned(),
        mac: [0x02, 0, 0, 0, 0, 0x10],
        mtu: 1450,
        zero_addresses: ips(["10.244.1.0", "fd00:1::"]),
        gateway_addresses: ips(["10.244.1.1", "fd00:1::1"]),
        local_subnets: nets(["10.244.1.0/24", "fd00:1::/64"]),
        networks: nets(["10.244.0.0/16", "fd00::/16"]),
        gateway_mac: [0x02, 0, 0, 0, 0, 0x01],
    }
}

fn node() -> Namespace {
    let node = Namespace::new();
    node.ip("tuntap add dev weft0 mode tap");
    node
}

async fn configure(node: &Namespace, port: HostPort) {
    node.run(|| configure_host_port(port)).await.expect("it is configured");
}

fn addresses(node: &Namespace) -> Vec<String> {
    let link = &node.json("addr show dev weft0")[0];
    let one = |a: &serde_json::Value| format!("{}/{}", a["local"].as_str().expect("text"), a["prefixlen"]);
    let mut all: Vec<String> = link["addr_info"].as_array().expect("a list").iter().map(one).collect();
    all.sort();
    all
}

/// What `ip route get` says: source, next hop, interface.
fn way(node: &Namespace, destination: &str) -> (String, String, String) {
    let route = &node.json(&format!("route get {destination}"))[0];
    let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
    (text("prefsrc"), text("gateway"), text("dev"))
}

fn everything(node: &Namespace) -> String {
    let words =
        ["addr show", "route show table all", "-6 route show table all", "neigh show", "-6 neigh show"];
    words.map(|words| node.ip(words)).join("\n")
}

fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
    (a.to_owned(), b.to_owned(), c.to_owned())
}

#[tokio::test]
async fn the_host_reaches_pods_through_its_port_with_flannels_addresses() {
    let node = node();
    configure(&node, wanted()).await;
    assert_eq!(addresses(&node), ["10.244.1.0/32", "10.244.1.1/32", "fd00:1::/128", "fd00:1::1/128"]);
    let link = &node.json("-d link show dev weft0")[0];
    assert_eq!((link["mtu"].as_u64(), link["address"].as_str()), (Some(1450), Some("02:00:00:00:00:10")));
    assert_eq!(link["inet6_addr_gen_mode"], "none");

    // Pods of other nodes see .0, pods of this one .1; the host's own addresses stay local.
    assert_eq!(way(&node, "10.244.7.9"), three("10.244.1.0", "169.254.1.1", "weft0"));
    assert_eq!(way(&node, "10.244.1.9"), three("10.244.1.1", "169.254.1.1", "weft0"));
    assert_eq!(way(&node, "fd00:7::9"), three("fd00:1::", "fe80::1", "weft0"));
    assert_eq!(way(&node, "fd00:1::9"), three("fd00:1::1", "fe80::1", "weft0"));
    // The switch's ICMP errors come from there.
    assert_eq!(way(&node, "169.254.1.1"), three("10.244.1.0", "", "weft0"));
    for own in ["10.244.1.0", "10.244.1.1", "fd00:1::1"] {
        assert_eq!(node.json(&format!("route get {own}"))[0]["type"], "local", "{own}");
    }
    for next_hop in ["169.254.1.1", "fe80::1"] {
        let entry = &node.json(&format!("neigh show {next_hop} dev weft0"))[0];
        assert_eq!(entry["lladdr"], "02:00:00:00:00:01");
        assert_eq!(entry["state"][0], "PERMANENT");
    }

    let before = everything(&node);
    configure(&node, wanted()).await;
    assert_eq!(everything(&node), before);
}

#[tokio::test]
async fn what_is_not_wanted_any_more_goes_and_strangers_stay() {
    let node = node();
    node.ip("link add other0 type veth peer name otherpeer");
    node.ip("addr add 198.51.100.1/24 dev other0");
    node.ip("link set other0 up");
    node.ip("route add 203.0.113.0/24 via 198.51.100.2");
    let others = node.ip("route show dev other0");
    configure(&node, wanted()).await;
    node.ip("addr add 172.16.0.1/24 dev weft0");
    node.ip("route add 172.17.0.0/16 dev weft0");

    // Another subnet, another network, another MAC address of the gateway, and IPv4 alone.
    let mut changed = wanted();
    changed.zero_addresses = vec!["10.8.3.0".parse().expect("an address")];
    changed.gateway_addresses = vec!["10.8.3.1".parse().expect("an address")];
    changed.local_subnets = vec!["10.8.3.0/24".parse().expect("a prefix")];
    changed.networks = vec!["10.8.0.0/16".parse().expect("a prefix")];
    changed.gateway_mac = [0x02, 0, 0, 0, 0, 0x02];
    configure(&node, changed).await;

    assert_eq!(addresses(&node), ["10.8.3.0/32", "10.8.3.1/32"]);
    assert_eq!(way(&node, "10.8.9.9"), three("10.8.3.0", "169.254.1.1", "weft0"));
    let destinations: Vec<_> = node
        .json("route show dev weft0")
        .iter()
        .map(|r| r["dst"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(destinations, ["10.8.0.0/16", "10.8.3.0/24", "169.254.1.1"]);
    assert!(!node.ip("-6 route show dev weft0").contains("fd00"));
    assert_eq!(node.json("neigh show 169.254.1.1 dev weft0")[0]["lladdr"], "02:00:00:00:00:02");
    assert_eq!(node.ip("route show dev other0"), others);
}

/// A node that comes from flannel still has its bridge, with the subnet's route and the gateway's address.
#[tokio::test]
async fn the_route_of_flannels_bridge_is_taken_over() {
    let node = node();
    node.ip("link add cni0 type veth peer name cnipeer");
    node.ip("addr add 10.244.1.1/24 dev cni0");
    node.ip("link set cni0 up");
    configure(&node, wanted()).await;
    assert_eq!(way(&node, "10.244.1.9"), three("10.244.1.1", "169.254.1.1", "weft0"));
}

#[tokio::test]
async fn a_missing_port_is_named() {
    let node = Namespace::new();
    let error = node.run(|| configure_host_port(wanted())).await.expect_err("no such interface");
    assert!(matches!(&error, Error::NoInterface { name, .. } if name == "weft0"), "{error}");
}

#[tokio::test]
async fn the_mtu_and_the_port_range_are_the_namespaces_own() {
    let node = node();
    node.ip("link set weft0 mtu 1377");
    assert_eq!(node.run(|| interface_mtu("weft0")).await.expect("it is read"), 1377);
    node.sysctl("ipv4/ip_local_port_range", "40000 50001").await;
    let range = node.run(|| async { local_port_range() }).await.expect("it is read");
    assert_eq!(range, (40000, 50001));
}
