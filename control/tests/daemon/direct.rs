//! Direct routing: pods of nodes on the same link without the tunnel, as flannel's `DirectRouting` and `host-gw` have it.

use std::fs;

use weft_api::{Route, RouteKind, State};

use crate::lab::{Lab, Namespace, VTEP_MACS, Weftd, tap_pod, wait_for};
use crate::tunnel::{kernel_node, stream};

/// The cluster file of the lab with this setting, over both underlays.
fn cluster(word: &str) -> String {
    let text = crate::lab::nodes(&[0, 1])
        .replace("[network]\n", &format!("[network]\ndirect_routing = \"{word}\"\n"));
    (1..=2).fold(text, |text, host| {
        let v4 = format!("public_ip = \"172.16.0.{host}\"\n");
        text.replace(&v4, &format!("{v4}public_ipv6 = \"fd00:172:16::{host}\"\n"))
    })
}

fn forward(node: &Namespace) {
    node.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

/// b sends to a's pods without the tunnel, as a node with host-gw or DirectRouting does.
fn send_directly(b: &Namespace) {
    b.ip("route replace 10.244.0.0/24 via 172.16.0.1 dev up0");
    b.ip("route replace fd00:10:244::/64 via fd00:172:16::1 dev up0");
}

/// A weft node and a kernel's, each with a pod.
struct Nodes {
    web: Namespace,
    far: Namespace,
    // The daemon goes before its lab.
    weftd: Weftd,
    lab: Lab,
}

impl Nodes {
    /// With this kind of uplink, and `mtu` for the kernel's pod.
    fn new(uplink: &str, word: &str, mtu: u32) -> Self {
        let lab = Lab::new();
        lab.configure("", &format!("kind = \"{uplink}\""), "");
        let (web, far) = (Namespace::new("web"), kernel_node(&lab, mtu));
        forward(&lab.node);
        // As careful as kernels get about where packets come from.
        for node in [&lab.node, &lab.peer] {
            node.must("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
        }
        lab.replace_cluster(&(cluster(word) + &tap_pod("web", 2, &web)));
        let weftd = lab.start();
        lab.peer_resolved();
        Self { web, far, weftd, lab }
    }

    fn assert_reached(&self) {
        for (from, to) in [
            (&self.web, "10.244.1.2"),
            (&self.web, "fd00:10:244:1::2"),
            (&self.far, "10.244.0.2"),
            (&self.far, "fd00:10:244::2"),
            (&self.lab.node, "10.244.1.2"),
            (&self.lab.node, "fd00:10:244:1::2"),
            (&self.lab.peer, "10.244.0.2"),
        ] {
            assert!(from.pings(to), "{} does not reach {to}", from.name());
        }
    }

    /// Streams both ways, in both families.
    fn assert_carries(&self) {
        for (from, to, address) in [
            (&self.web, &self.far, "10.244.1.2"),
            (&self.far, &self.web, "10.244.0.2"),
            (&self.web, &self.far, "fd00:10:244:1::2"),
            (&self.far, &self.web, "fd00:10:244::2"),
            (&self.lab.node, &self.far, "10.244.1.2"),
        ] {
            stream(from, to, address);
        }
    }

    fn way_to(&self, address: &str) -> Route {
        let address = address.parse().expect("an address");
        let routes = self.lab.ask(async |weftd| weftd.route_to(address).await).expect("an answer");
        routes.routes.into_iter().next().expect("a route")
    }

    /// How many packets weft has put into the tunnel, and taken out of it.
    fn tunnelled(&self) -> (u64, u64) {
        let ports = self.lab.stats().ports;
        let uplink = ports.iter().find(|port| port.kind == "uplink").expect("the uplink");
        (uplink.tx_packets, uplink.rx_packets)
    }
}

/// Weft's routes that are not the host port's.
fn direct_routes(node: &Namespace) -> Vec<String> {
    let text = node.ip("route show proto 87") + &node.ip("-6 route show proto 87");
    let lines = text.lines().filter(|line| !line.contains("dev weft0"));
    lines.map(|line| line.split_whitespace().take(5).collect::<Vec<_>>().join(" ")).collect()
}

const TO_B: [&str; 2] =
    ["10.244.1.0/24 via 172.16.0.2 dev up0", "fd00:10:244:1::/64 via fd00:172:16::2 dev up0"];

fn reaches_without_the_tunnel(uplink: &str) {
    let nodes = Nodes::new(uplink, "on-link", 1450);
    send_directly(&nodes.lab.peer);
    assert_eq!(direct_routes(&nodes.lab.node), TO_B);
    let status = nodes.lab.status();
    assert_eq!((status.state, status.problems), (State::Ready, Vec::new()));
    assert_eq!(status.peers[0].direct, status.peers[0].subnets);
    assert_eq!(status.network.pod_mtu, 1430, "there may be nodes behind a router");
    nodes.assert_reached();
    nodes.assert_carries();
    assert_eq!(nodes.tunnelled(), (0, 0));
    nodes.lab.counters_balance();
}

#[test]
fn a_kernel_node_on_the_link_by_socket() {
    reaches_without_the_tunnel("socket");
}

#[test]
fn a_kernel_node_on_the_link_by_packet_socket() {
    reaches_without_the_tunnel("af_packet");
}

/// A node decides for itself which form it sends: b has the tunnel.
#[test]
fn both_forms_are_taken_from_one_peer() {
    let nodes = Nodes::new("socket", "on-link", 1430);
    for (net, form) in [("10.244.1.2", "10.244.0.2"), ("fd00:10:244:1::2", "fd00:10:244::2")] {
        // The kernel of b is not as careful here: an answer comes otherwise than its question goes.
        nodes.lab.peer.must("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.flannel/1.rp_filter=0");
        assert!(nodes.web.pings(net), "{net}");
        assert!(nodes.far.pings(form), "{form}");
        stream(&nodes.far, &nodes.web, form);
        stream(&nodes.web, &nodes.far, net);
    }
    let (sent, taken) = nodes.tunnelled();
    assert_eq!(sent, 0, "weft needs no tunnel");
    assert!(taken > 0, "b has sent by the tunnel");
    // What is said about a packet out of the tunnel goes back there.
    let told = nodes.far.exec("ping -n -c 1 -W 5 10.244.0.99");
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(said.contains("From 10.244.0.1"), "{said}");

    send_directly(&nodes.lab.peer);
    nodes.assert_reached();
    let after = nodes.tunnelled().1;
    nodes.assert_carries();
    assert_eq!(nodes.tunnelled().1, after, "b sends without it now");
}

/// Each of the two nodes is one hop, as kernels' nodes are.
#[test]
fn every_node_takes_one_hop() {
    let nodes = Nodes::new("socket", "on-link", 1430);
    send_directly(&nodes.lab.peer);
    // They know their neighbours: no request waits for one.
    nodes.assert_reached();
    for (from, to) in
        [(&nodes.web, "10.244.1.2"), (&nodes.far, "10.244.0.2"), (&nodes.web, "fd00:10:244:1::2")]
    {
        let ends = |hops: u8| from.exec(&format!("ping -n -q -c 1 -W 10 -t {hops} {to}")).status.success();
        assert!(!ends(2) && ends(3), "{to}: two hops do not lead to the end, three do");
    }
    let said = |from: &Namespace, words: &str| {
        String::from_utf8_lossy(&from.exec(&format!("ping -n -c 1 -W 5 {words}")).stdout).into_owned()
    };
    // The kernel speaks, since it is the kernel that forwards.
    let told = said(&nodes.web, "-t 1 10.244.1.2");
    assert!(told.contains("From 10.244.0.") && told.contains("Time to live exceeded"), "{told}");
    let told = said(&nodes.far, "-t 2 10.244.0.2");
    assert!(told.contains("From 172.16.0.1") && told.contains("Time to live exceeded"), "{told}");
}

#[test]
fn host_gw_carries_the_underlays_whole_mtu() {
    let nodes = Nodes::new("socket", "always", 1500);
    send_directly(&nodes.lab.peer);
    // There is no tunnel on b at all.
    nodes.lab.peer.ip("link del flannel.1");
    let status = nodes.lab.status();
    assert_eq!((status.state, status.problems), (State::Ready, Vec::new()));
    assert_eq!(status.network.pod_mtu, 1500);
    let link = nodes.web.json("link show dev eth0").remove(0);
    assert_eq!(link["mtu"].as_u64(), Some(1500));
    nodes.assert_reached();
    for (from, to, size) in [
        (&nodes.web, "10.244.1.2", 1500 - 28),
        (&nodes.far, "10.244.0.2", 1500 - 28),
        (&nodes.web, "fd00:10:244:1::2", 1500 - 48),
        (&nodes.far, "fd00:10:244::2", 1500 - 48),
    ] {
        let ping = format!("ping -n -q -c 1 -W 20 -M do -s {size} {to}");
        assert!(from.exec(&ping).status.success(), "{} does not reach {to} with {size}", from.name());
    }
    nodes.assert_carries();
    let route = nodes.way_to("10.244.1.2");
    assert_eq!((route.kind, route.node.as_deref()), (RouteKind::Direct, Some("b")));
    assert_eq!(route.via, ["172.16.0.2".parse::<std::net::IpAddr>().expect("an address")]);
}

/// What does not fit is told by the kernel that forwards it, and senders get by with that.
#[test]
fn what_is_too_big_is_told_and_streams_go_on() {
    let nodes = Nodes::new("socket", "always", 1500);
    send_directly(&nodes.lab.peer);
    let narrow = [
        (&nodes.lab.node, "10.244.1.0/24 via 172.16.0.2 dev up0 proto 87"),
        (&nodes.lab.node, "fd00:10:244:1::/64 via fd00:172:16::2 dev up0 proto 87 metric 1024"),
    ];
    for (node, route) in narrow {
        node.ip(&format!("route change {route} mtu lock 1400"));
    }
    for (to, headers) in [("10.244.1.2", 28), ("fd00:10:244:1::2", 48)] {
        let ping =
            |size: u32| nodes.web.exec(&format!("ping -n -c 1 -W 20 -M do -s {} {to}", size - headers));
        let told = String::from_utf8_lossy(&ping(1401).stdout).into_owned()
            + &String::from_utf8_lossy(&ping(1401).stderr);
        assert!(told.contains("mtu = 1400") || told.contains("mtu=1400"), "{told}");
        assert!(ping(1400).status.success(), "{to}");
        stream(&nodes.web, &nodes.far, to);
    }
}

/// b moves behind a router, and back on the link.
#[test]
fn a_peer_behind_a_router_has_the_tunnel() {
    let nodes = Nodes::new("socket", "on-link", 1430);
    let (lab, router) = (&nodes.lab, Namespace::new("router"));
    send_directly(&lab.peer);
    nodes.assert_reached();
    assert_eq!(direct_routes(&lab.node), TO_B);
    forward(&router);
    for node in [&lab.node, &lab.peer, &router] {
        node.must("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
    }
    // a - router - b, with b's addresses as they were.
    lab.node.ip("link del up0");
    lab.node.ip(&format!("link add up0 type veth peer name to-a netns {}", router.name()));
    lab.peer.ip(&format!("link add up0 type veth peer name to-b netns {}", router.name()));
    for (node, own, other, gateway) in [(&lab.node, 1, 2, "172.16.9.1"), (&lab.peer, 2, 1, "172.16.9.2")] {
        let side = gateway.rsplit('.').next().expect("a number");
        node.ip_batch(&[
            &format!("addr add 172.16.0.{own}/32 dev up0"),
            &format!("addr add fd00:172:16::{own}/128 dev up0 nodad"),
            "link set up0 up",
            &format!("route add {gateway} dev up0"),
            &format!("route add 172.16.0.{other} via {gateway} dev up0 src 172.16.0.{own}"),
            &format!("route add fd00:9::{side} dev up0"),
            &format!("route add fd00:172:16::{other} via fd00:9::{side} dev up0 src fd00:172:16::{own}"),
        ]);
        let port = if own == 1 { "to-a" } else { "to-b" };
        router.ip_batch(&[
            &format!("addr add {gateway}/32 dev {port}"),
            &format!("addr add fd00:9::{side}/128 dev {port} nodad"),
            &format!("link set {port} up"),
            &format!("route add 172.16.0.{own} dev {port}"),
            &format!("route add fd00:172:16::{own} dev {port}"),
        ]);
    }
    let ([near, own], b) = (VTEP_MACS, &lab.peer);
    let _ = b.exec("ip link del flannel.1");
    b.ip_batch(&[
        &format!("link add flannel.1 address {own} mtu 1430 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"),
        "addr add 10.244.1.0/32 dev flannel.1",
        "link set flannel.1 up",
        &format!("neigh add 10.244.0.0 lladdr {near} dev flannel.1 nud permanent"),
        "route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink",
    ]);
    b.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    wait_for("the tunnel", || nodes.web.reaches("10.244.1.2").then_some(()));
    wait_for("the routes to be gone", || direct_routes(&lab.node).is_empty().then_some(()));
    assert!(lab.status().peers[0].direct.is_empty());
    assert!(nodes.tunnelled().0 > 0);
    stream(&nodes.web, &nodes.far, "10.244.1.2");
    stream(&nodes.far, &nodes.web, "10.244.0.2");
    assert!(lab.node.pings("10.244.1.2"), "the host goes by the tunnel too");

    // With host-gw it is not reached at all, and that is said.
    lab.replace_cluster(&(cluster("always") + &tap_pod("web", 2, &nodes.web)));
    let status = wait_for("a word about b", || {
        Some(lab.status())
            .filter(|status| status.problems.iter().any(|problem| problem.contains("behind the router")))
    });
    assert!(
        status.problems.iter().any(|problem| problem.contains("node b") && problem.contains("172.16.9.1"))
    );
    assert!(!status.peers[0].resolved);
    let told = nodes.web.exec("ping -n -c 1 -W 5 10.244.1.2");
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(said.contains("From 10.244.0.1") && said.contains("Unreachable"), "{said}");
}

#[test]
fn routes_go_with_the_peer_and_with_the_setting_and_come_back_by_themselves() {
    let nodes = Nodes::new("socket", "on-link", 1430);
    let lab = &nodes.lab;
    send_directly(&lab.peer);
    let write = |text: String| lab.replace_cluster(&(text + &tap_pod("web", 2, &nodes.web)));
    let gone = || wait_for("the routes to be gone", || direct_routes(&lab.node).is_empty().then_some(()));
    let there = || wait_for("the routes", || (direct_routes(&lab.node) == TO_B).then_some(()));
    there();
    // Somebody else removes one.
    lab.node.ip("route del 10.244.1.0/24 proto 87");
    there();
    nodes.assert_reached();

    // Without b, then with it again.
    let all = cluster("on-link");
    let b = all.find("[[node]]\nname = \"b\"").expect("b");
    write(all[..b].to_owned());
    gone();
    write(all);
    there();
    // Without direct routing: b sends as it likes, a by the tunnel.
    write(cluster("never"));
    gone();
    for node in [&lab.node, &lab.peer] {
        node.must("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
    }
    lab.peer.must("sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0");
    wait_for("traffic", || nodes.web.reaches("10.244.1.2").then_some(()));
    assert!(nodes.tunnelled().0 > 0);
    write(cluster("on-link"));
    there();
    nodes.assert_reached();
}

#[test]
fn they_outlive_weftd_and_are_purged() {
    let nodes = Nodes::new("socket", "on-link", 1430);
    send_directly(&nodes.lab.peer);
    nodes.assert_reached();
    let Nodes { web, far, weftd, lab } = nodes;
    let host = lab.node.stream("10.244.1.2");
    weftd.crash();
    assert_eq!(direct_routes(&lab.node), TO_B);
    // One that an earlier weftd had for a peer that is gone meanwhile.
    lab.node.ip("route add 10.244.9.0/24 via 172.16.0.9 dev up0 proto 87");
    let weftd = lab.start();
    wait_for("the old route to be gone", || (direct_routes(&lab.node) == TO_B).then_some(()));
    let nodes = Nodes { web, far, weftd, lab };
    wait_for("traffic", || nodes.web.reaches("10.244.1.2").then_some(()));
    nodes.assert_reached();
    host.assert_unbroken();
    let Nodes { weftd, lab, .. } = nodes;
    weftd.stop();
    assert_eq!(direct_routes(&lab.node), TO_B);
    let dir = lab.state_dir();
    let purge = lab.node.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(weft_node::purge(&dir, "weft0"))
    });
    purge.join().expect("it ends").expect("it is purged");
    assert!(direct_routes(&lab.node).is_empty());
}

#[test]
fn a_kernel_that_does_not_forward_is_named() {
    let lab = Lab::new();
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1430));
    lab.node.must("sysctl -qw net.ipv4.ip_forward=0");
    lab.replace_cluster(&(cluster("on-link") + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    let status = lab.status();
    let says = |setting: &str| status.problems.iter().filter(|problem| problem.contains(setting)).count();
    assert_eq!(
        (status.state, says("net.ipv4.ip_forward"), says("net.ipv6.conf.all.forwarding")),
        (State::Degraded, 1, 1)
    );
    forward(&lab.node);
    send_directly(&lab.peer);
    wait_for("all to be well", || (lab.status().state == State::Ready).then_some(()));
    assert!(far.pings("10.244.0.2") && web.pings("10.244.1.2"));
}

/// Two nodes of weft's, each with a pod.
#[test]
fn two_weft_nodes_on_one_link() {
    let (lab, pods) = (Lab::new(), [Namespace::new("web"), Namespace::new("far")]);
    let of_b = tap_pod("far", 2, &pods[1]).replace("\"a\"", "\"b\"").replace("10.244.0.", "10.244.1.");
    let of_b = of_b.replace("fd00:10:244::", "fd00:10:244:1::");
    lab.replace_cluster(&(cluster("on-link") + &tap_pod("web", 2, &pods[0]) + &of_b));
    forward(&lab.node);
    forward(&lab.peer);
    lab.configure("", "kind = \"socket\"", "");
    let config = fs::read_to_string(lab.path("weftd.toml")).expect("a's settings");
    let config =
        config.replace("\"a\"", "\"b\"").replace("weftd.sock", "b.sock").replace("/state\"", "/b-state\"");
    fs::write(lab.path("b.toml"), config).expect("b's settings");
    let _weftds = [lab.start(), Weftd::spawn_on(&lab, &lab.peer, &[], &lab.path("b.toml")).ready()];
    lab.peer_resolved();
    for (from, to) in [
        (&pods[0], "10.244.1.2"),
        (&pods[1], "10.244.0.2"),
        (&pods[0], "fd00:10:244:1::2"),
        (&lab.node, "10.244.1.2"),
    ] {
        wait_for("the way", || from.reaches(to).then_some(()));
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    stream(&pods[0], &pods[1], "10.244.1.2");
    stream(&pods[1], &pods[0], "10.244.0.2");
    stream(&pods[0], &pods[1], "fd00:10:244:1::2");
    let ports = lab.stats().ports;
    let uplink = ports.iter().find(|port| port.kind == "uplink").expect("the uplink");
    assert_eq!((uplink.tx_packets, uplink.rx_packets), (0, 0));
}

/// With an XDP program before the kernel, weft sends and takes such packets itself.
#[test]
fn by_xdp_pods_packets_pass_the_kernel_by() {
    let nodes = Nodes::new("af_xdp", "never", 1430);
    assert_eq!(nodes.lab.status().uplink.kind, "af_xdp");
    assert!(nodes.web.pings("10.244.1.2") && nodes.far.pings("10.244.0.2"), "by the tunnel");
    // The program is another one then: the change is followed.
    nodes.lab.replace_cluster(&(cluster("on-link") + &tap_pod("web", 2, &nodes.web)));
    let by_weft = |net: &str| {
        let route = nodes.way_to(net);
        (route.kind == RouteKind::Direct && route.port.as_deref() == Some("up0") && route.mtu == Some(1500))
            .then_some(())
    };
    for net in ["10.244.1.2", "fd00:10:244:1::2"] {
        wait_for("weft's own way", || by_weft(net));
    }
    send_directly(&nodes.lab.peer);
    assert_eq!(direct_routes(&nodes.lab.node), TO_B, "the host needs them");
    let status = nodes.lab.status();
    assert_eq!((status.uplink.kind.as_str(), status.problems), ("af_xdp", Vec::new()));
    nodes.assert_reached();
    let forwarded = || nodes.lab.node.snmp("Ip", "ForwDatagrams");
    let (before, tunnelled) = (forwarded(), nodes.tunnelled());
    stream(&nodes.web, &nodes.far, "10.244.1.2");
    stream(&nodes.far, &nodes.web, "10.244.0.2");
    assert_eq!(forwarded(), before, "the kernel of a forwards nothing between pods");
    stream(&nodes.web, &nodes.far, "fd00:10:244:1::2");
    stream(&nodes.far, &nodes.web, "fd00:10:244::2");
    let after = nodes.tunnelled();
    assert!(after.0 > tunnelled.0 + 1000 && after.1 > tunnelled.1 + 1000, "weft has sent and taken them");
    stream(&nodes.lab.node, &nodes.far, "10.244.1.2");
    assert!(nodes.far.pings("10.244.0.0"), "the host's address in the subnet is the kernel's");

    // Each node is one hop, and weft is the one that speaks.
    for (from, to) in [(&nodes.web, "10.244.1.2"), (&nodes.far, "10.244.0.2"), (&nodes.far, "fd00:10:244::2")]
    {
        let ends = |hops: u8| from.exec(&format!("ping -n -q -c 1 -W 10 -t {hops} {to}")).status.success();
        assert!(!ends(2) && ends(3), "{to}: two hops do not lead to the end, three do");
    }
    for words in ["-t 2 10.244.0.2", "10.244.0.99"] {
        let told = nodes.far.exec(&format!("ping -n -c 1 -W 5 {words}"));
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(said.contains("From 10.244.0.1"), "{said}");
    }
    nodes.lab.counters_balance();
    for reason in ["not_tunnel", "gso_malformed", "tx_not_taken", "rx_too_long"] {
        assert_eq!(nodes.lab.drops(reason), 0, "{reason}");
    }

    // The other form is taken as well.
    let near = VTEP_MACS[0];
    nodes.lab.peer.must("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.flannel/1.rp_filter=0");
    nodes.lab.peer.ip("route replace 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink");
    assert!(nodes.lab.peer.ip("neigh show dev flannel.1").contains(near));
    assert!(nodes.far.pings("10.244.0.2"));
    stream(&nodes.far, &nodes.web, "10.244.0.2");
}
