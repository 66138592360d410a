//! Routes that the operator sets: through pods of this node and of others, and through several that cost the same.

use crate::lab::frames::{Checksum, Ip, UDP, mac, udp};
use crate::lab::routed::{BOTH, Net, Routed, Side, V4, V6};
use crate::lab::{Lab, Namespace, Wire, nodes, tap_pod, wait_for};

fn datagram(ip: &Ip, source_port: u16) -> Vec<u8> {
    ip.with(UDP, &udp(ip, (source_port, 2000), Checksum::Valid, b"on the way"))
}

/// A route of the cluster file.
fn route(to: &str, via: &[&str]) -> String {
    let list: Vec<_> = via.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[[route]]\nto = \"{to}\"\nvia = [{}]\n", list.join(", "))
}

fn outside(net: Net) -> &'static str {
    net.pick("192.0.2.0/24", "2001:db8::/64")
}

/// Both families' routes to the outside through the address that `via` picks.
fn routes(via: impl Fn(Net) -> Vec<&'static str>) -> String {
    BOTH.map(|net| route(outside(net), &via(net))).concat()
}

fn one_hop_less(router: &mut Routed, from: Side, to: Side, dst: &str, net: Net) {
    let ip = Ip::new(from.address(net), dst);
    let further = Ip { ttl: if from == Side::Host { 64 } else { 63 }, ..ip.clone() };
    router.forwards(from, to, &datagram(&ip, 1000), &datagram(&further, 1000));
}

#[test]
fn through_a_pod_of_this_node() {
    let mut router = Routed::with("", &routes(|net| vec![net.db]), |_| ());
    for net in BOTH {
        for from in [Side::Web, Side::Far, Side::Host] {
            one_hop_less(&mut router, from, Side::Db, net.outside, net);
        }
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.outside) };
        router.tells(Side::Web, &datagram(&ip, 1), "ttl_exceeded", net.time_exceeded());
        // The pod that routes on has sent it here to be routed: given back, it would go round and round.
        router.drops(Side::Db, &datagram(&Ip::new(net.db, net.outside), 1), "same_port");
        // What is not in the route goes the way it went.
        let ip = Ip::new(net.web, net.pick("198.51.100.1", "2001:db8:1::1"));
        router.forwards(Side::Web, Side::Host, &datagram(&ip, 1), &datagram(&ip, 1));
    }
}

#[test]
fn through_a_pod_of_another_node() {
    let mut router = Routed::with("", &routes(|net| vec![net.far]), |_| ());
    for net in BOTH {
        for from in [Side::Web, Side::Db, Side::Host] {
            one_hop_less(&mut router, from, Side::Far, net.outside, net);
        }
        router.drops(Side::Far, &datagram(&Ip::new(net.far, net.outside), 1), "tunnel_to_tunnel");
    }
}

#[test]
fn the_way_back_of_what_a_routing_pod_sends() {
    let cluster = |[web, db]: [&Namespace; 2]| {
        let trusted = "trusted = true\n";
        nodes(&[0, 1])
            + &tap_pod("web", 2, web)
            + &tap_pod("db", 3, db)
            + trusted
            + &routes(|net| vec![net.db])
    };
    let mut router = Routed::with_cluster("", cluster, |_| ());
    for net in BOTH {
        // A trusted pod may send from whatever it routes.
        let ip = Ip::new(net.outside, net.web);
        let further = Ip { ttl: 63, ..ip.clone() };
        router.forwards(Side::Db, Side::Web, &datagram(&ip, 1), &datagram(&further, 1));
        // What is told about it goes back through it, to whoever it was from.
        let ip = Ip { ttl: 1, ..Ip::new(net.outside, net.far) };
        router.tells(Side::Db, &datagram(&ip, 1), "ttl_exceeded", net.time_exceeded());
    }
}

#[test]
fn the_longest_route_wins() {
    let cluster = routes(|net| vec![net.db])
        + &route("192.0.2.128/25", &[V4.far])
        + &route("2001:db8::8000/113", &[V6.far])
        + "[[route]]\nto = \"192.0.2.129/32\"\nkind = \"blackhole\"\n\
           [[route]]\nto = \"2001:db8::8001/128\"\nkind = \"blackhole\"\n";
    let mut router = Routed::with("", &cluster, |_| ());
    for (net, [near, far, nowhere]) in [
        (V4, ["192.0.2.127", "192.0.2.128", "192.0.2.129"]),
        (V6, ["2001:db8::7fff", "2001:db8::8000", "2001:db8::8001"]),
    ] {
        one_hop_less(&mut router, Side::Web, Side::Db, near, net);
        one_hop_less(&mut router, Side::Web, Side::Far, far, net);
        router.drops(Side::Web, &datagram(&Ip::new(net.web, nowhere), 1), "route_blackhole");
    }
}

#[test]
fn a_default_route_through_a_pod() {
    let cluster = route("0.0.0.0/0", &[V4.db]) + &route("::/0", &[V6.db]);
    let mut router = Routed::with("", &cluster, |_| ());
    for net in BOTH {
        one_hop_less(&mut router, Side::Web, Side::Db, net.outside, net);
        one_hop_less(&mut router, Side::Web, Side::Far, net.far, net);
        // The node's own addresses stay the host's, and the pod network stays what it is.
        let ip = Ip::new(net.web, net.zero);
        router.forwards(Side::Web, Side::Host, &datagram(&ip, 1), &datagram(&ip, 1));
        let ip = Ip::new(net.web, net.no_node);
        router.tells(Side::Web, &datagram(&ip, 1), "route_unreachable", net.host_unreachable());
    }
}

#[test]
fn a_part_of_the_pod_network_through_a_pod() {
    let cluster = route("10.244.77.0/24", &[V4.db]) + &route("fd00:10:244:77::/64", &[V6.db]);
    let mut router = Routed::with("", &cluster, |_| ());
    for net in BOTH {
        one_hop_less(&mut router, Side::Web, Side::Db, net.no_node, net);
    }
}

#[test]
fn a_route_is_for_the_node_that_it_names() {
    let named = |net: Net, node: &str, to: &str| route(to, &[net.db]) + &format!("node = \"{node}\"\n");
    let cluster = named(V4, "a", "192.0.2.0/24")
        + &named(V6, "a", "2001:db8::/64")
        + &named(V4, "b", "198.51.100.0/24")
        + &named(V6, "b", "2001:db8:1::/64");
    let mut router = Routed::with("", &cluster, |_| ());
    for net in BOTH {
        one_hop_less(&mut router, Side::Web, Side::Db, net.outside, net);
        let ip = Ip::new(net.web, net.pick("198.51.100.1", "2001:db8:1::1"));
        router.forwards(Side::Web, Side::Host, &datagram(&ip, 1), &datagram(&ip, 1));
    }
}

#[test]
fn a_route_through_nobody() {
    let mut router = Routed::with("", &routes(|net| vec![net.nobody]), |_| ());
    for net in BOTH {
        let deltas = router.send(Side::Web, &datagram(&Ip::new(net.web, net.outside), 1));
        assert_eq!(deltas.of("tx"), 1, "the sender is told: {deltas:?}");
        let error = router.receive(Side::Web, "ICMP error", |packet| Some(packet.to_vec()));
        let at = net.pick(20, 40);
        assert_eq!(error[at], net.pick(3, 1), "Destination Unreachable: {error:02x?}");
    }
}

#[test]
fn routes_follow_the_file() {
    let mut router = Routed::with("", "", |_| ());
    let pods = |router: &Routed| tap_pod("web", 2, &router.pods[0]) + &tap_pod("db", 3, &router.pods[1]);
    for net in BOTH {
        let ip = Ip::new(net.web, net.outside);
        router.forwards(Side::Web, Side::Host, &datagram(&ip, 1), &datagram(&ip, 1));
    }
    let all = pods(&router) + &routes(|net| vec![net.db]);
    let port = |router: &mut Routed, net: Net, port: &str| {
        wait_for(&format!("the way to lead to {port}"), || {
            let before = router.lab.stats();
            router.send(Side::Web, &datagram(&Ip::new(net.web, net.outside), 1));
            let after = router.lab.stats();
            let sent = |stats: &weft_api::Stats| {
                stats.ports.iter().find(|there| there.name == port).map(|p| p.tx_packets)
            };
            (sent(&after) > sent(&before)).then_some(())
        });
    };
    router.lab.write_cluster(&all);
    for net in BOTH {
        port(&mut router, net, "db");
    }
    let all = pods(&router);
    router.lab.write_cluster(&all);
    for net in BOTH {
        port(&mut router, net, "weft0");
    }
}

/// web, db and one more pod, `api`; the outside leads through the latter two.
struct Group {
    router: Routed,
    api: Wire,
    pod: Namespace,
}

const API: [&str; 2] = ["10.244.0.4", "fd00:10:244::4"];

impl Group {
    fn new() -> Self {
        let pod = Namespace::mute("api");
        let cluster = tap_pod("api", 4, &pod) + &Self::routes();
        let router = Routed::with("", &cluster, |_| ());
        Self { router, api: Wire::open(&pod, "eth0"), pod }
    }

    fn routes() -> String {
        routes(|net| vec![net.db, net.pick(API[0], API[1])])
    }

    /// Where a packet of web's comes out: true for db.
    fn is_db(&mut self, packet: &[u8]) -> bool {
        let frame = self.router.frame(Side::Web, packet);
        let deltas = self.router.send_frame(Side::Web, &frame);
        deltas.assert_only(&[("tx", 1)]);
        let db = deltas.port("db.tx") == 1;
        deltas.assert_ports(&[("web.rx", 1), (if db { "db.tx" } else { "api.tx" }, 1)]);
        db
    }

    /// The flows of these source ports, each with several packets that all must go one way.
    fn spread(&mut self, net: Net, ports: std::ops::Range<u16>) -> Vec<bool> {
        let ip = Ip::new(net.web, net.outside);
        let first: Vec<bool> = ports.clone().map(|port| self.is_db(&datagram(&ip, port))).collect();
        for (port, first) in ports.zip(&first) {
            assert_eq!(self.is_db(&datagram(&ip, port)), *first, "the flow of port {port} is torn apart");
        }
        first
    }

    /// Waits until a packet of each of these flows goes where `expected` says.
    fn settles(&mut self, net: Net, ports: std::ops::Range<u16>, db: bool) {
        let ip = Ip::new(net.web, net.outside);
        wait_for("the flows to move", || {
            let moved = ports.clone().all(|port| {
                let deltas = self.router.send(Side::Web, &datagram(&ip, port));
                deltas.port(if db { "db.tx" } else { "api.tx" }) == 1
            });
            moved.then_some(())
        });
    }
}

const FLOWS: std::ops::Range<u16> = 1000..1048;

fn spread(net: Net) {
    let mut group = Group::new();
    let flows = group.spread(net, FLOWS);
    let db = flows.iter().filter(|db| **db).count();
    // Of 48 by chance: less than one in a million tries has fewer than eight on a side. The hash is always the same.
    assert!((8..=40).contains(&db), "{db} of {}", flows.len());
    // What arrives is what was sent, a hop on.
    let ip = Ip::new(net.web, net.outside);
    let packet = datagram(&Ip { ttl: 63, ..ip.clone() }, 1000);
    group.router.db.drain();
    group.api = Wire::open(&group.pod, "eth0");
    let db = group.is_db(&datagram(&ip, 1000));
    let wire = if db { &mut group.router.db } else { &mut group.api };
    let to = wire.mac;
    wire.receive("packet", |frame| (frame.bytes[..6] == to && frame.bytes[14..] == packet[..]).then_some(()));
}

#[test]
fn flows_are_spread_over_both_and_stay_together() {
    spread(V4);
}

#[test]
fn ipv6_flows_are_spread_over_both_and_stay_together() {
    spread(V6);
}

#[test]
fn fragments_of_a_datagram_stay_together() {
    let mut group = Group::new();
    let mut sides = Vec::new();
    for host in 1..20 {
        let ip = Ip { ident: host, ..Ip::new(V4.web, &format!("192.0.2.{host}")) };
        let first = group.is_db(&Ip { fragment: 0x2000, ..ip.clone() }.with(UDP, &[4; 64]));
        for (fragment, byte) in [(0x2008, 9), (0x0010, 77)] {
            let later = Ip { fragment, ..ip.clone() }.with(UDP, &[byte; 64]);
            assert_eq!(group.is_db(&later), first, "to host {host} at {fragment:#x}");
        }
        sides.push(first);
    }
    assert!(sides.contains(&true) && sides.contains(&false), "all go one way: this shows nothing");
}

#[test]
fn a_member_that_is_taken_out_leaves_its_flows_to_the_other() {
    let mut group = Group::new();
    for net in BOTH {
        group.spread(net, FLOWS);
    }
    let pods = |group: &Group| {
        let [web, db] = &group.router.pods;
        tap_pod("web", 2, web) + &tap_pod("db", 3, db) + &tap_pod("api", 4, &group.pod)
    };
    let one = pods(&group) + &routes(|net| vec![net.db]);
    group.router.lab.write_cluster(&one);
    for net in BOTH {
        group.settles(net, FLOWS, true);
    }
}

#[test]
fn a_pod_that_goes_leaves_its_flows_to_the_other() {
    let mut group = Group::new();
    let before = BOTH.map(|net| group.spread(net, FLOWS));
    assert!(before.iter().all(|flows| flows.contains(&false)), "api has none: this shows nothing");
    let [web, db] = &group.router.pods;
    let left = tap_pod("web", 2, web) + &tap_pod("db", 3, db) + &Group::routes();
    group.router.lab.write_cluster(&left);
    for net in BOTH {
        group.settles(net, FLOWS, true);
    }
}

/// As b, one more node behind the same wire.
fn third_node() -> String {
    "[[node]]\nname = \"c\"\nsubnets = [\"10.244.2.0/24\", \"fd00:10:244:2::/64\"]\n\
     public_ip = \"172.16.0.3\"\nvtep_mac = \"02:00:5e:00:04:03\"\n"
        .to_owned()
}

fn third_address(lab: &Lab) {
    lab.peer.ip("addr add 172.16.0.3/24 dev up0");
}

/// The last byte of the outer destination, and the inner destination's MAC address.
fn tunnel_to(router: &mut Routed, packet: &[u8]) -> (u8, [u8; 6]) {
    router.far.drain();
    router.send(Side::Web, packet).assert_only(&[("tx", 1)]).assert_ports(&[("web.rx", 1), ("up0.tx", 1)]);
    router.far.receive("tunnel packet", |frame| {
        frame.bytes.get(36..38).filter(|port| **port == 8472u16.to_be_bytes())?;
        Some((frame.bytes[33], frame.bytes[50..56].try_into().expect("a MAC address")))
    })
}

#[test]
fn flows_are_spread_over_nodes() {
    let cluster = third_node() + &routes(|net| vec![net.far, net.pick("10.244.2.2", "fd00:10:244:2::2")]);
    let mut router = Routed::with("", &cluster, third_address);
    for net in BOTH {
        let ip = Ip::new(net.web, net.outside);
        let mut nodes = [0; 2];
        for port in FLOWS {
            let (node, inner) = tunnel_to(&mut router, &datagram(&ip, port));
            assert_eq!(inner, mac(&format!("02:00:5e:00:04:0{node}")), "inner and outer name two nodes");
            assert_eq!(tunnel_to(&mut router, &datagram(&ip, port)), (node, inner), "port {port}");
            nodes[usize::from(node) - 2] += 1;
        }
        assert!(nodes.iter().all(|flows| *flows >= 8), "{nodes:?}");
    }
}

#[test]
fn a_node_that_nobody_can_reach_is_passed_over() {
    let cluster = third_node() + &routes(|net| vec![net.far, net.pick("10.244.2.2", "fd00:10:244:2::2")]);
    let mut router = Routed::with("", &cluster, third_address);
    // c's address goes, and with it the kernel's answer to who has it.
    router.lab.peer.ip("addr del 172.16.0.3/24 dev up0");
    router.lab.node.ip("neigh del 172.16.0.3 dev up0");
    wait_for("the way to c alone to be lost", || {
        let peers = router.lab.status().peers;
        peers.iter().all(|peer| peer.resolved == (peer.name == "b")).then_some(())
    });
    router.lab.counters();
    for net in BOTH {
        let ip = Ip::new(net.web, net.outside);
        for port in FLOWS {
            assert_eq!(tunnel_to(&mut router, &datagram(&ip, port)).0, 2, "port {port}");
        }
    }
}

#[test]
fn flows_are_spread_over_a_pod_and_a_node() {
    let mut router = Routed::with("", &routes(|net| vec![net.db, net.far]), |_| ());
    for net in BOTH {
        let ip = Ip::new(net.web, net.outside);
        let mut near = 0;
        for port in FLOWS {
            let deltas = router.send(Side::Web, &datagram(&ip, port));
            deltas.assert_only(&[("tx", 1)]);
            near += deltas.port("db.tx");
            assert_eq!(deltas.port("db.tx") + deltas.port("up0.tx"), 1, "{deltas:?}");
        }
        assert!((8..=40).contains(&near), "{near}");
        // What comes by the tunnel never goes back into it: it all goes to the pod.
        for port in FLOWS {
            let ip = Ip::new(net.far, net.outside);
            let deltas = router.send(Side::Far, &datagram(&ip, port));
            deltas.assert_only(&[("tx", 1)]).assert_ports(&[("up0.rx", 1), ("db.tx", 1)]);
        }
    }
}
