//! Routes to pods of other nodes without a tunnel.

use crate::lab::{Namespace, joined};
use weft_node::{DirectRoute, drop_direct_routes, forwarding_to_set, put_direct_routes};

fn route(subnet: &str, via: &str) -> DirectRoute {
    DirectRoute { subnet: subnet.parse().expect("a prefix"), via: via.parse().expect("an address") }
}

fn index(node: &Namespace, name: &str) -> u32 {
    node.json(&format!("link show dev {name}"))[0]["ifindex"].as_u64().expect("a number") as u32
}

/// Puts all of them.
async fn put(node: &Namespace, interface: &str, routes: &[DirectRoute]) {
    let (index, routes) = (index(node, interface), routes.to_vec());
    let refused = node.run(move || async move { put_direct_routes(index, &routes).await }).await;
    assert!(refused.as_ref().is_ok_and(Vec::is_empty), "{refused:?}");
}

async fn keep(node: &Namespace, interface: &str, routes: &[DirectRoute]) {
    let (index, routes) = (index(node, interface), routes.to_vec());
    let done = node.run(move || async move { drop_direct_routes("weft0", index, &routes).await }).await;
    done.expect("the others are removed");
}

fn all(node: &Namespace) -> String {
    node.ip("route show") + &node.ip("-6 route show")
}

/// The routes of weft's that are not the host port's.
fn direct(node: &Namespace) -> Vec<String> {
    let text = all(node);
    let lines = text.lines().filter(|line| line.contains("proto 87") && !line.contains("dev weft0"));
    lines.map(|line| line.split(" proto").next().expect("a beginning").to_owned()).collect()
}

#[tokio::test]
async fn they_come_and_go_one_by_one_and_nothing_else_does() {
    let (node, _peer) = joined();
    node.ip("tuntap add dev weft0 mode tap");
    node.ip("link set weft0 up");
    node.ip("route add 10.244.0.0/16 dev weft0 proto 87");
    node.ip("route add 10.77.0.0/16 via 192.0.2.3 dev up0");
    let (b, c) = (route("10.244.1.0/24", "192.0.2.2"), route("10.244.2.0/24", "192.0.2.3"));
    let b6 = route("fd00:10:244:1::/64", "2001:db8::2");
    let before = all(&node);
    put(&node, "up0", &[b.clone(), c.clone(), b6.clone()]).await;
    let three = [
        "10.244.1.0/24 via 192.0.2.2 dev up0",
        "10.244.2.0/24 via 192.0.2.3 dev up0",
        "fd00:10:244:1::/64 via 2001:db8::2 dev up0",
    ];
    assert_eq!(direct(&node), three);
    let made = all(&node);
    put(&node, "up0", &[b.clone(), c.clone(), b6.clone()]).await;
    keep(&node, "up0", &[b.clone(), c.clone(), b6.clone()]).await;
    assert_eq!(all(&node), made, "what is so already is not touched");

    // One has another address, one is gone.
    let moved = route("10.244.1.0/24", "192.0.2.9");
    put(&node, "up0", &[moved.clone(), b6.clone()]).await;
    assert_eq!(direct(&node)[1], three[1], "what is not wanted any more stays until it is said so");
    keep(&node, "up0", &[moved, b6]).await;
    assert_eq!(direct(&node), ["10.244.1.0/24 via 192.0.2.9 dev up0", three[2]]);
    keep(&node, "up0", &[]).await;
    assert_eq!(all(&node), before);
}

/// A node that comes from flannel has them already, or has the tunnel's in their place.
#[tokio::test]
async fn flannels_routes_are_taken_over() {
    let (node, _peer) = joined();
    node.ip("link add other0 type veth peer name otherpeer");
    node.ip("link set other0 up");
    node.ip("route add 10.244.1.0/24 via 192.0.2.2 dev up0");
    node.ip("route add 10.244.2.0/24 via 10.244.2.0 dev other0 onlink");
    node.ip("route add fd00:10:244:2::/64 dev other0");
    let routes = [
        route("10.244.1.0/24", "192.0.2.2"),
        route("10.244.2.0/24", "192.0.2.3"),
        route("fd00:10:244:2::/64", "2001:db8::3"),
    ];
    put(&node, "up0", &routes).await;
    assert_eq!(
        direct(&node),
        [
            "10.244.1.0/24 via 192.0.2.2 dev up0",
            "10.244.2.0/24 via 192.0.2.3 dev up0",
            "fd00:10:244:2::/64 via 2001:db8::3 dev up0",
        ]
    );
    assert_eq!(all(&node).matches("10.244.").count(), 2, "{}", all(&node));
    // With another uplink, those of the old one go.
    put(&node, "other0", &routes[..1]).await;
    keep(&node, "other0", &routes[..1]).await;
    assert_eq!(direct(&node), ["10.244.1.0/24 via 192.0.2.2 dev other0"]);
}

#[tokio::test]
async fn what_the_kernel_refuses_is_told_and_the_others_are_there() {
    let (node, _peer) = joined();
    let (index, here) = (index(&node, "up0"), route("10.244.1.0/24", "192.0.2.1"));
    let routes = [here.clone(), route("10.244.2.0/24", "192.0.2.2")];
    let refused = node.run(move || async move { put_direct_routes(index, &routes).await }).await;
    let refused = refused.expect("the kernel is asked");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].0, here);
    assert!(refused[0].1.to_string().contains("10.244.1.0/24 via 192.0.2.1"), "{}", refused[0].1);
    assert_eq!(direct(&node), ["10.244.2.0/24 via 192.0.2.2 dev up0"]);
}

#[tokio::test]
async fn whether_the_kernel_forwards() {
    let (node, _peer) = joined();
    node.ip("tuntap add dev weft0 mode tap");
    let missing = || node.run(|| async { [false, true].map(|v6| forwarding_to_set(["weft0", "up0"], v6)) });
    node.sysctl("ipv4/ip_forward", "0").await;
    assert_eq!(missing().await, [Some("net.ipv4.ip_forward"), Some("net.ipv6.conf.all.forwarding")]);
    node.sysctl("ipv4/ip_forward", "1").await;
    assert_eq!(missing().await, [None, Some("net.ipv6.conf.all.forwarding")]);
    node.sysctl("ipv6/conf/all/forwarding", "1").await;
    assert_eq!(missing().await, [None, None]);
    node.sysctl("ipv4/conf/weft0/forwarding", "0").await;
    assert_eq!(missing().await, [Some("net.ipv4.ip_forward"), None]);
}
