//! The uplink `socket`: the tunnel is UDP sockets in the kernel. Its other ends are a kernel's VTEP, packets made here byte by
//! byte, and weftd with either kind of uplink.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use weft_api::{Client, NeighbourKind, NeighbourState, State};

use crate::lab::frames::{Checksum, ICMP, ICMPV6, Ip, TCP, UDP, echo, icmp, tcp, udp};
use crate::lab::{Lab, Namespace, VTEP_MACS, Weftd, nodes, once_free, tap_pod, wait_for};
use crate::tunnel::kernels::all_reach_each_other;
use crate::tunnel::{Inside, Pair, Setup, To, kernel_node, stream};
use crate::uplink_xdp::{Nodes, follows_jumbo_frames, keeps_its_port, takes_another_port};

const SOCKET: &str = "kind = \"socket\"";

fn pair(over_v6: bool) -> Pair {
    Pair::with(Setup { uplink: SOCKET, over_v6, ..Setup::default() })
}

/// Over IPv6 only IPv6 is inside, since the addresses inside go by the family of the tunnel.
fn insides(over_v6: bool) -> &'static [Inside] {
    if over_v6 { &[Inside::V6] } else { &[Inside::V4, Inside::V6] }
}

fn datagram(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    udp(ip, (1000, 2000), Checksum::Valid, payload)
}

fn lab_with(uplink: &str) -> Lab {
    let lab = Lab::new();
    lab.configure("", uplink, "");
    lab
}

#[test]
fn a_kernel_vtep_is_reached_both_ways() {
    let lab = lab_with(SOCKET);
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    assert_eq!(lab.status().uplink.kind, "socket");
    all_reach_each_other(&lab, &web, &far);
    for node in [&lab.node, &lab.peer] {
        assert_eq!(node.snmp("Udp", "NoPorts") + node.snmp("Udp", "InErrors"), 0, "{}", node.name());
        assert_eq!(node.snmp("Icmp", "OutDestUnreachs"), 0, "{}", node.name());
    }
    for reason in ["gso_malformed", "rx_bad_offload", "tx_not_taken", "mtu_exceeded", "not_tunnel"] {
        assert_eq!(lab.drops(reason), 0, "{reason}");
    }
    // Neighbours are the kernel's own business, and what it has not resolved yet is no fault.
    let hops = lab.ask(async |weftd| weftd.neighbours(None).await).expect("the neighbours").entries;
    let hops: Vec<_> = hops.iter().filter(|entry| entry.kind == NeighbourKind::Underlay).collect();
    assert!(!hops.is_empty());
    assert!(hops.iter().all(|hop| hop.state != Some(NeighbourState::Unresolved)), "{hops:?}");
    let neighbours = lab.node.json("neigh show dev up0");
    assert!(neighbours.iter().all(|entry| entry.get("managed").is_none()), "{neighbours:?}");
}

#[test]
fn every_byte_of_what_travels() {
    for over_v6 in [false, true] {
        let mut pair = pair(over_v6);
        for to in [To::Kernel, To::Weft] {
            for inside in insides(over_v6) {
                for payload in [&b"even"[..], b"odd", b""] {
                    let ip = pair.packet(to, *inside);
                    // b's VTEP over IPv4 leaves the checksum out or fills it in as its kernel likes; weft's is always there.
                    let tunnel = pair.travels(to, &ip, UDP, &datagram(&ip, payload), Checksum::Valid);
                    assert!((32768..61000).contains(&tunnel.ports.0), "{tunnel:?}");
                }
                let ip = Ip { ttl: 255, ..pair.packet(to, *inside) };
                let (protocol, request) = echo(&ip, 1, 2, b"ping");
                pair.travels(to, &ip, protocol, &request, Checksum::Valid);
                pair.travels(to, &ip, TCP, &tcp(&ip, (5, 80), (9, 2), b"data"), Checksum::Valid);
            }
        }
        assert_eq!(pair.lab.stats().total.drops, 0);
    }
}

#[test]
fn congestion_marks_go_in_and_come_out() {
    for over_v6 in [false, true] {
        let mut pair = pair(over_v6);
        for inside in insides(over_v6) {
            for mark in 0..4 {
                let ip = Ip { tos: 0x28 | mark, ..pair.packet(To::Kernel, *inside) };
                pair.travels(To::Kernel, &ip, UDP, &datagram(&ip, b"marked"), Checksum::Valid);
            }
            for (outer, inner, delivered) in
                [(3, 1, 3), (3, 2, 3), (3, 3, 3), (1, 2, 1), (1, 0, 0), (2, 0, 0), (0, 3, 3)]
            {
                let (mut tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, *inside));
                tunnel.ip.tos = outer;
                let marked = |mark: u8| Ip { tos: 0x28 | mark, ..ip.clone() };
                let segment = datagram(&ip, b"marked");
                let frame = tunnel.with(&pair.inner(To::Weft, &marked(inner), UDP, &segment));
                pair.b.send(&frame);
                let expected = pair.delivered(To::Weft, &marked(delivered), UDP, &segment);
                pair.web.receive_bytes("packet with the right mark", &expected);
            }
        }
        let ip = pair.packet(To::Weft, insides(over_v6)[0]);
        let mut tunnel = pair.tunnel(To::Weft);
        tunnel.ip.tos = 3;
        let frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &datagram(&ip, b"illegal")));
        let Pair { lab, b, .. } = &mut pair;
        lab.deltas(1, || b.send(&frame)).assert_dropped("up0", "ecn_illegal", 1);
    }
}

#[test]
fn what_is_refused_is_refused_for_its_reason() {
    for over_v6 in [false, true] {
        let mut pair = pair(over_v6);
        let ip = pair.packet(To::Weft, insides(over_v6)[0]);
        let inner = pair.inner(To::Weft, &ip, UDP, &datagram(&ip, b"refused"));
        let sound = pair.tunnel(To::Weft);
        let (mut unknown, mut other_vni, mut reserved) = (sound.clone(), sound.clone(), sound.clone());
        unknown.ip.src = if over_v6 { "fd00:172:16::99" } else { "172.16.0.99" }.parse().expect("an address");
        other_vni.vxlan[6] ^= 0x40;
        reserved.vxlan[7] = 1;
        let own = [&inner[..6], &inner[..6], &inner[12..]].concat();
        let Pair { lab, b, .. } = &mut pair;
        for (reason, frame) in [
            ("vtep_unknown", unknown.with(&inner)),
            ("vni_unknown", other_vni.with(&inner)),
            ("vxlan_reserved", reserved.with(&inner)),
            ("inner_mac_own", sound.with(&own)),
            ("inner_eth_malformed", sound.with(&inner[..13])),
            ("vxlan_malformed", {
                let cut = udp(&sound.ip, sound.ports, Checksum::Valid, &sound.vxlan[..7]);
                sound.ip.frame(sound.dst, sound.src, UDP, &cut)
            }),
            ("vxlan_malformed", {
                let empty = udp(&sound.ip, sound.ports, Checksum::Valid, b"");
                sound.ip.frame(sound.dst, sound.src, UDP, &empty)
            }),
        ] {
            println!("{reason}");
            lab.deltas(1, || b.send(&frame)).assert_dropped("up0", reason, 1);
        }
        // The kernel keeps what is for nobody, or broken, to itself.
        let mut wrong = sound.clone();
        wrong.checksum = Checksum::Wrong;
        pair.assert_not_taken(To::Weft, &wrong.with(&inner));
    }
}

#[test]
fn flows_have_different_source_ports_and_each_its_own() {
    let mut pair = pair(false);
    let ip = pair.packet(To::Kernel, Inside::V4);
    let mut port = |flow: u16| {
        let segment = udp(&ip, (1000 + flow, 53), Checksum::Valid, b"flow");
        pair.travels(To::Kernel, &ip, UDP, &segment, Checksum::Valid).ports.0
    };
    let first: Vec<u16> = (0..40).map(&mut port).collect();
    let again: Vec<u16> = (0..40).map(&mut port).collect();
    assert_eq!(first, again);
    let different: BTreeSet<u16> = first.into_iter().collect();
    assert!((6..=16).contains(&different.len()), "{different:?}");
}

#[test]
fn a_port_that_somebody_has_is_an_error_that_names_it() {
    let lab = lab_with(SOCKET);
    lab.node.ip("link add flannel.1 type vxlan id 1 local 172.16.0.1 dev up0 dstport 8472 nolearning");
    lab.node.ip("link set flannel.1 up");
    let said = lab.fails();
    assert!(said.contains("8472") && said.contains("flannel.1"), "{said}");
    lab.assert_clean();
    lab.node.ip("link del flannel.1");
    let weftd = lab.start();
    // Not even another weftd may share it.
    let second = lab.path("second.toml");
    let text = fs::read_to_string(lab.path("weftd.toml")).expect("the configuration");
    let text = text
        .replace("weftd.sock", "second.sock")
        .replace("/state\"", "/second\"")
        .replace("[state]", "[host_port]\nname = \"weft9\"\n[metrics]\nlisten = \"\"\n[state]");
    fs::write(&second, text).expect("it can be written");
    let said = lab.fails_with(&second);
    assert!(said.contains("8472") && said.contains("in use"), "{said}");
    drop(weftd);
}

#[test]
fn the_interface_is_deleted_and_comes_back() {
    let lab = lab_with(SOCKET);
    let web = Namespace::new("web");
    let far = || {
        lab.peer.ip(&format!(
            "link add flannel.1 address {} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning",
            VTEP_MACS[1]
        ));
        lab.peer.ip("addr add 10.244.1.0/32 dev flannel.1");
        lab.peer.ip("link set flannel.1 up");
        lab.peer.ip(&format!("neigh add 10.244.0.0 lladdr {} dev flannel.1 nud permanent", VTEP_MACS[0]));
        lab.peer.ip("route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink");
        lab.peer
            .must(&format!("bridge fdb append {} dev flannel.1 dst 172.16.0.1 self permanent", VTEP_MACS[0]));
    };
    far();
    lab.write_cluster(&tap_pod("web", 2, &web));
    let mut weftd = lab.start();
    lab.peer_resolved();
    assert!(web.pings("10.244.1.0"));

    lab.node.ip("link del up0");
    let status =
        wait_for("a word about the uplink", || Some(lab.status()).filter(|s| s.state == State::Degraded));
    assert!(status.problems.iter().any(|problem| problem.contains("up0")), "{:?}", status.problems);
    weftd.assert_alive();
    lab.plug_in();
    if !lab.peer.has_interface("flannel.1") {
        far();
    }
    wait_for("traffic over the new uplink", || web.reaches("10.244.1.0").then_some(()));
    let status = wait_for("all to be well", || Some(lab.status()).filter(|s| s.state == State::Ready));
    assert_eq!(status.problems, Vec::<String>::new());
    assert!(web.pings("10.244.1.0"));
    weftd.assert_alive();
    lab.counters_balance();
}

/// A second weftd on b, with the uplink of this kind and a pod of its own.
pub(crate) fn second_node(lab: &Lab, uplink: &str, far: &Namespace) -> (Weftd, Client) {
    let at = lab.dir.path().display();
    let text = format!(
        "[node]\nname = \"b\"\n[dataplane]\nmemory = \"16MiB\"\n[uplink]\ninterface = \"up0\"\n{uplink}\n\
         [source]\npath = \"{at}/cluster.toml\"\n[control]\nsocket = \"{at}/b.sock\"\n[state]\ndir = \"{at}/b\"\n"
    );
    fs::write(lab.path("b.toml"), text).expect("it can be written");
    let cluster = fs::read_to_string(lab.path("cluster.toml")).expect("the cluster file");
    lab.replace_cluster(&format!(
        "{cluster}[[pod]]\nname = \"far\"\nnode = \"b\"\nkind = \"tap\"\nnetns = \"{}\"\n\
         addresses = [\"10.244.1.2\", \"fd00:10:244:1::2\"]\n",
        far.path().display()
    ));
    let before = ["ip", "netns", "exec", lab.peer.name()].map(OsStr::new);
    let weftd = Weftd::spawn(lab, &before, &lab.path("b.toml")).ready();
    (weftd, Client::new(lab.path("b.sock")))
}

fn two_weft_nodes(kinds: [&str; 2], over_v6: bool) {
    let lab = lab_with(kinds[0]);
    let (web, far) = (Namespace::new("web"), Namespace::new("far"));
    lab.replace_cluster(&(Setup { over_v6, ..Setup::default() }.nodes() + &tap_pod("web", 2, &web)));
    let _a = lab.start();
    let (_b, other) = second_node(&lab, kinds[1], &far);
    lab.peer_resolved();
    for (from, to) in
        [(&web, "10.244.1.2"), (&far, "10.244.0.2"), (&web, "fd00:10:244:1::2"), (&far, "fd00:10:244::2")]
    {
        wait_for("the way", || from.reaches(to).then_some(()));
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    stream(&web, &far, "10.244.1.2");
    stream(&far, &web, "10.244.0.2");
    stream(&web, &far, "fd00:10:244:1::2");
    stream(&far, &web, "fd00:10:244::2");
    lab.counters_balance();
    let drops = lab.wait_on(other.drops(true)).expect("the drops");
    for reason in ["gso_malformed", "rx_bad_offload", "mtu_exceeded", "outer_udp_checksum", "vxlan_reserved"]
    {
        assert_eq!(lab.drops(reason), 0, "{reason} at a");
        let there = drops.total.iter().find(|drop| drop.reason == reason).expect("a reason of this name");
        assert_eq!(there.count, 0, "{reason} at b");
    }
}

#[test]
fn two_weft_nodes_with_sockets() {
    two_weft_nodes([SOCKET; 2], false);
}

#[test]
fn two_weft_nodes_with_sockets_over_ipv6() {
    two_weft_nodes([SOCKET; 2], true);
}

#[test]
fn a_weft_node_with_packet_sockets() {
    two_weft_nodes([SOCKET, "kind = \"af_packet\""], false);
}

#[test]
fn a_weft_node_with_packet_sockets_over_ipv6() {
    two_weft_nodes([SOCKET, "kind = \"af_packet\""], true);
}

#[test]
fn routers_of_the_underlay_are_heard() {
    for over_v6 in [false, true] {
        let mut pair = pair(over_v6);
        let inside = insides(over_v6)[0];
        let ip = Ip { fragment: 0x4000, ..pair.packet(To::Kernel, inside) };
        let headers = if over_v6 { 48 } else { 28 };
        let fills = if over_v6 { 1430 } else { 1450 };
        let segment = datagram(&ip, &vec![0x66; fills - headers]);
        pair.pod_sends(To::Kernel, &ip, UDP, &segment);
        let outer = pair.captured(To::Kernel).finished()[14..].to_vec();

        let (protocol, kind, from) =
            if over_v6 { (ICMPV6, (2, 0), "fd00:172:16::fe") } else { (ICMP, (3, 4), "172.16.0.254") };
        let to = if over_v6 { "fd00:172:16::1" } else { "172.16.0.1" };
        let router = Ip::new(from, to);
        let [high, low] = 1400u16.to_be_bytes();
        let message = icmp(&router, kind, [0, 0, high, low], &outer[..528]);
        let tunnel = pair.tunnel(To::Weft);
        pair.b.send(&router.frame(tunnel.dst, tunnel.src, protocol, &message));
        wait_for("the path's MTU to be known", || {
            let ends = pair.lab.ask(async |weftd| weftd.vteps(None).await).expect("the tunnels' ends").vteps;
            ends.iter().any(|end| end.path_mtu == Some(1400)).then_some(())
        });
        // Who has sent it is told as well.
        pair.web.receive("ICMP error", |frame| {
            let at = if over_v6 { 54 } else { 34 };
            (frame.bytes.get(at..at + 2) == Some(&[kind.0, kind.1])).then_some(())
        });
        // A message that is no news of the tunnel's is nobody's.
        let other = icmp(&router, kind, [0, 0, high, low], &outer[..20]);
        pair.b.send(&router.frame(tunnel.dst, tunnel.src, protocol, &other));
        let ip = pair.packet(To::Kernel, inside);
        pair.travels(To::Kernel, &ip, UDP, &datagram(&ip, b"goes on"), Checksum::Valid);
        // Nor does a peer without a VTEP, which answers "port unreachable", keep anything back.
        if !over_v6 {
            pair.lab.peer.ip("link set flannel.1 down");
            for _ in 0..20 {
                pair.pod_sends(To::Kernel, &ip, UDP, &datagram(&ip, b"unheard"));
                pair.captured(To::Kernel);
            }
        }
        assert_eq!(pair.lab.drops("tx_not_taken"), 0);
    }
}

#[test]
fn who_is_not_in_the_cluster_file_is_not_listened_to() {
    let lab = lab_with(SOCKET);
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.replace_cluster(&(nodes(&[0]) + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    assert!(!far.reaches("10.244.0.2"));
    wait_for("b not to be known", || (lab.drops("vtep_unknown") > 0).then_some(()));
    assert_eq!(web.snmp("Icmp", "InMsgs"), 0);
    assert_eq!(lab.peer.snmp("Icmp", "InDestUnreachs"), 0);
    lab.write_cluster(&tap_pod("web", 2, &web));
    wait_for("b to be listened to", || far.reaches("10.244.0.2").then_some(()));
}

#[test]
fn only_the_uplinks_packets_are_the_tunnels() {
    let lab = lab_with(&format!("{SOCKET}\nknown_vteps_only = false"));
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    let before = lab.received("up0");
    // A pod that speaks to the node's own tunnel is no peer, whoever is taken for one.
    for (from, to) in [(&web, "172.16.0.1"), (&lab.node, "127.0.0.1")] {
        let sent = from.enter(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            // The kernel may say at once that nobody is there.
            let _ = socket.send_to(&[0; 100], (to, 8472));
        });
        sent.join().expect("the sender");
    }
    assert!(web.pings("172.16.0.1"));
    assert_eq!(lab.received("up0"), before);
}

#[test]
fn flows_from_a_peer_spread_over_the_workers() {
    const FLOWS: usize = 64;
    const ROUNDS: usize = 10;
    let lab = Lab::new();
    lab.configure("workers = 2", SOCKET, "");
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    wait_for("the way", || far.reaches("10.244.0.2").then_some(()));
    let received = || lab.stats().workers.iter().map(|worker| worker.rx_packets).collect::<Vec<_>>();
    let before = received();
    // One way only: what the pod answers would be received too, by whichever worker has its queue.
    let bind = || once_free(|| UdpSocket::bind("10.244.0.2:5300"));
    let sink = web.enter(bind).join().expect("a socket");
    sink.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let open = || (0..FLOWS).map(|_| UdpSocket::bind("0.0.0.0:0").expect("a free port")).collect::<Vec<_>>();
    let flows = far.enter(open).join().expect("sockets");
    for _ in 0..ROUNDS {
        for flow in &flows {
            flow.send_to(b"one way", "10.244.0.2:5300").expect("a way");
        }
        for _ in &flows {
            assert_eq!(sink.recv(&mut [0; 16]).expect("all of them arrive"), 7);
        }
    }
    for (worker, (before, after)) in before.iter().zip(&received()).enumerate() {
        let got = after - before;
        assert!(got >= 50, "worker {worker} has {got} of {}", FLOWS * ROUNDS);
    }
    lab.counters_balance();
}

#[test]
fn a_larger_mtu_is_followed_up_to_jumbo_frames() {
    follows_jumbo_frames(&Nodes::with("socket", ""));
}

#[test]
fn another_port_for_the_tunnel() {
    takes_another_port(&Nodes::with("socket", "workers = 2"));
}

#[test]
fn a_port_that_somebody_takes_leaves_the_uplink_as_it_is() {
    keeps_its_port(&Nodes::with("socket", ""));
}
