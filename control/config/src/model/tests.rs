use super::*;
use proptest::prelude::*;

fn node(name: &str, number: u8) -> Node {
    Node {
        name: name.to_owned(),
        subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
        public_ip: Some(Ipv4Addr::new(192, 0, 2, number)),
        public_ipv6: None,
        vtep_mac: Some(MacAddr([2, 0, 0, 0, 1, number])),
        vtep_mac_v6: None,
        vtep_macs: BTreeMap::new(),
        vtep_macs_v6: BTreeMap::new(),
    }
}

fn pod(name: &str, node: &str, address: &str) -> Pod {
    Pod {
        name: name.to_owned(),
        node: node.to_owned(),
        attachment: Attachment::Tap {
            netns: format!("/run/netns/{name}").into(),
            ifname: DEFAULT_IFNAME.to_owned(),
        },
        addresses: vec![address.parse().unwrap()],
        mac: None,
        trusted: false,
        mtu: None,
        routes: None,
        bandwidth: Bandwidth::default(),
    }
}

/// Two nodes with a pod each.
fn model() -> Model {
    Model {
        networks: vec![Network {
            name: Network::DEFAULT_NAME.to_owned(),
            ipv4: Some("10.244.0.0/16".parse().unwrap()),
            ipv6: Some("fd00:10:244::/56".parse().unwrap()),
            vni: Network::DEFAULT_VNI,
            mtu: None,
            direct_routing: DirectRouting::Never,
        }],
        port: Model::DEFAULT_PORT,
        encapsulation: Encapsulation::Vxlan,
        nodes: vec![node("a", 1), node("b", 2)],
        pods: vec![pod("web", "a", "10.244.1.5/24"), pod("db", "b", "10.244.2.5/24")],
        routes: vec![],
    }
}

/// A second network, `blue`, in which both nodes have a subnet.
fn two_networks() -> Model {
    let mut model = model();
    model.networks.push(Network {
        name: "blue".to_owned(),
        ipv4: Some("10.99.0.0/16".parse().unwrap()),
        ipv6: None,
        vni: Vni::new(2).unwrap(),
        mtu: Mtu::new(1400).ok(),
        direct_routing: DirectRouting::Never,
    });
    for (number, node) in model.nodes.iter_mut().enumerate() {
        node.subnets.push(format!("10.99.{number}.0/24").parse().unwrap());
        node.vtep_macs.insert("blue".to_owned(), MacAddr([2, 0, 0, 0, 9, number as u8]));
    }
    model
}

fn route(to: &str, via: &[&str]) -> Route {
    let via = via.iter().map(|address| address.parse().unwrap()).collect();
    Route { to: to.parse().unwrap(), target: Target::Via(via), node: None }
}

/// A change to the good model and the one thing that is wrong with it then.
#[track_caller]
fn wrong(change: impl FnOnce(&mut Model), entity: Entity, setting: &str, reason: &str) {
    wrong_in(model(), change, entity, setting, reason);
}

#[track_caller]
fn wrong_in(mut model: Model, change: impl FnOnce(&mut Model), entity: Entity, setting: &str, reason: &str) {
    change(&mut model);
    let found = validate(&model, "a").expect_err(reason);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].entity, found[0].setting().as_str()), (entity, setting), "{}", found[0]);
    assert!(found[0].reason.contains(reason), "{}, not {reason:?}", found[0]);
    assert!(!found[0].remedy.is_empty());
}

#[test]
fn the_good_model_is_valid() {
    assert_eq!(validate(&model(), "a"), Ok(()));
    let mut more = model();
    more.nodes[0].vtep_mac = None;
    more.nodes[1].vtep_mac_v6 = more.nodes[1].vtep_mac;
    more.pods[0].addresses.push("10.244.1.6/24".parse().unwrap());
    // Other nodes are other segments, with other files.
    more.pods[0].mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    more.pods[1].mac = more.pods[0].mac;
    more.pods[1].attachment = more.pods[0].attachment.clone();
    assert_eq!(validate(&more, "a"), Ok(()));
    // A mask of its own, of its subnet, and of the network.
    for mask in ["32", "24", "16"] {
        more.pods[0].addresses[0] = format!("10.244.1.5/{mask}").parse().unwrap();
        assert_eq!(validate(&more, "a"), Ok(()), "/{mask}");
    }
}

#[test]
fn several_networks() {
    let good = two_networks();
    assert_eq!(validate(&good, "a"), Ok(()));
    let index = NetworkIndex::new(&good);
    let of = |net: &str| index.of(&net.parse().unwrap()).map(|(_, network)| network);
    assert_eq!(
        ["10.244.1.0/24", "10.99.1.0/24", "fd00:10:244:3::/64", "10.98.0.0/24", "10.0.0.0/8"].map(of),
        [Some(0), Some(1), Some(0), None, None]
    );

    // What is the own node's is made where it is missing.
    let mut own = two_networks();
    own.nodes[0].vtep_macs.clear();
    assert_eq!(validate(&own, "a"), Ok(()));
    // One MAC address on two networks of a node, or of two networks' nodes, is no clash.
    let mut shared = two_networks();
    shared.nodes[1].vtep_macs.insert("blue".to_owned(), MacAddr([2, 0, 0, 0, 1, 1]));
    assert_eq!(validate(&shared, "a"), Ok(()));
    // A node need not be in all.
    let mut away = two_networks();
    away.nodes[1].subnets.pop();
    away.nodes[1].vtep_macs.clear();
    assert_eq!(validate(&away, "a"), Ok(()));

    let wrong = |change: fn(&mut Model), entity, setting, reason| {
        wrong_in(two_networks(), change, entity, setting, reason);
    };
    let blue = Entity::Network(1);
    let third = |name: &str| Network {
        name: name.to_owned(),
        ipv4: Some("10.98.0.0/16".parse().unwrap()),
        vni: Vni::new(3).unwrap(),
        ..two_networks().networks.remove(1)
    };
    for (name, reason) in [("blue", "another network has the name \"blue\" too"), ("", "the name is empty")] {
        wrong_in(two_networks(), |m| m.networks.push(third(name)), Entity::Network(2), "name", reason);
    }
    wrong(|m| m.networks[1].vni = Network::DEFAULT_VNI, blue, "vni", "network \"default\" has VNI 1 too");
    wrong(
        |m| m.networks[1].ipv6 = Some("fd00:10:244:80::/58".parse().unwrap()),
        blue,
        "ipv6",
        "fd00:10:244:80::/58 overlaps fd00:10:244::/56 of network \"default\"",
    );
    wrong(|m| m.nodes[1].vtep_macs.clear(), Entity::Node(1), "vtep_macs.blue", "in network \"blue\"");
    let reason = "no such network";
    wrong(
        |m| {
            m.nodes[1].vtep_macs.insert("green".into(), MacAddr([2, 0, 0, 0, 7, 7]));
        },
        Entity::Node(1),
        "vtep_macs.green",
        reason,
    );
    wrong(
        |m| {
            m.nodes[1].vtep_macs_v6.insert("default".into(), MacAddr([2, 0, 0, 0, 7, 7]));
        },
        Entity::Node(1),
        "vtep_macs_v6.default",
        "is the first network",
    );
    wrong(
        |m| {
            m.nodes[1].vtep_macs.insert("blue".into(), MacAddr([2, 0, 0, 0, 9, 0]));
        },
        Entity::Node(1),
        "vtep_macs.blue",
        "the VTEP of node \"a\" too",
    );
    wrong(
        |m| m.nodes[1].subnets.push("10.98.0.0/24".parse().unwrap()),
        Entity::Node(1),
        "subnets[2]",
        "not within one of the networks (10.244.0.0/16, 10.99.0.0/16 …)",
    );
    wrong(
        |m| m.nodes[1].subnets.push("10.99.0.128/25".parse().unwrap()),
        Entity::Node(1),
        "subnets[2]",
        "a part of 10.99.0.0/24, a subnet of node \"a\"",
    );
    wrong(
        |m| m.nodes[1].public_ip = Some([10, 99, 9, 9].into()),
        Entity::Node(1),
        "public_ip",
        "inside the pod network",
    );
    wrong(
        |m| m.pods[0].mac = Some(MacAddr([2, 0, 0, 0, 9, 0])),
        Entity::Pod(0),
        "mac",
        "the VTEP of its node",
    );
}

#[test]
fn routes_lead_through_pods_or_nowhere() {
    let with = |routes: Vec<Route>| Model { routes, ..model() };
    let on = |node: &str, route: Route| Route { node: Some(node.to_owned()), ..route };
    let nowhere = |to: &str, target| Route { target, ..route(to, &[]) };
    let good = with(vec![
        route("192.0.2.0/24", &["10.244.1.9", "10.244.2.9"]),
        // The node's own, instead of that.
        on("a", route("192.0.2.0/24", &["10.244.1.9"])),
        route("0.0.0.0/0", &["10.244.1.9"]),
        nowhere("::/0", Target::Prohibit),
        nowhere("10.244.0.0/16", Target::Blackhole),
        nowhere("10.244.3.7/32", Target::Unreachable),
    ]);
    assert_eq!(validate(&good, "a"), Ok(()));

    let wrong = |routes: Vec<Route>, setting, reason: &str| {
        let last = Entity::Route(routes.len() - 1);
        wrong_in(with(routes), |_| {}, last, setting, reason);
    };
    let via = ["10.244.1.9"];
    wrong(vec![route("192.0.2.1/24", &via)], "to", "bits set after the prefix");
    wrong(vec![route("224.0.0.0/4", &via)], "to", "multicast");
    wrong(vec![route("0.0.0.0/32", &via)], "to", "unspecified");
    wrong(vec![route("169.254.169.254/32", &via)], "to", "link-local");
    wrong(vec![route("10.244.2.0/24", &via)], "to", "is a subnet of node \"b\"");
    wrong(vec![route("10.244.1.1/32", &via)], "to", "a part of 10.244.1.0/24, a subnet of node \"a\"");
    let twice = "for all nodes already";
    wrong(vec![route("192.0.2.0/24", &via), nowhere("192.0.2.0/24", Target::Prohibit)], "to", twice);
    wrong(vec![on("z", route("192.0.2.0/24", &via))], "node", "there is no node \"z\"");
    wrong(vec![route("192.0.2.0/24", &[])], "via", "no address is listed");
    wrong(vec![route("192.0.2.0/24", &["10.244.1.9", "10.244.1.9"])], "via[1]", "listed twice");
    wrong(vec![route("192.0.2.0/24", &["fd00:10:244::9"])], "via[0]", "another address family");
    wrong(vec![route("192.0.2.0/24", &["10.244.3.9"])], "via[0]", "in no node's subnet");
    wrong(vec![route("192.0.2.0/24", &["10.244.1.1"])], "via[0]", "the gateway of 10.244.1.0/24");
    wrong(vec![route("192.0.2.0/24", &["10.244.1.255"])], "via[0]", "the broadcast address");
}

#[test]
fn what_is_wrong_with_the_network() {
    let wrong = |change: fn(&mut Network), setting, reason| {
        wrong(|m| change(&mut m.networks[0]), Entity::Network(0), setting, reason);
    };
    wrong(|n| n.ipv6 = Some("fe80::/56".parse().unwrap()), "ipv6", "link-local");
    wrong(|n| n.ipv6 = Some("ff00::/56".parse().unwrap()), "ipv6", "multicast");
    wrong(|n| n.mtu = Mtu::new(1279).ok(), "mtu", "less than IPv6 needs");
    super::tests::wrong(|m| m.port = 0, Entity::Network(0), "port", "no UDP port");
    let empty = Model { nodes: vec![], pods: vec![], ..model() };
    let found = validate(&empty, "a").unwrap_err();
    assert!(found[0].to_string().starts_with("cluster, node: this node, \"a\", is not among the 0 listed"));
}

#[test]
fn what_is_wrong_with_a_node() {
    let wrong = |change: fn(&mut Node), setting, reason| {
        wrong(|m| change(&mut m.nodes[1]), Entity::Node(1), setting, reason);
    };
    wrong(|n| n.public_ip = Some([192, 0, 2, 1].into()), "public_ip", "node \"a\" has the same");
    wrong(|n| n.public_ip = Some([127, 0, 0, 1].into()), "public_ip", "loopback");
    wrong(|n| n.public_ip = Some([10, 244, 9, 9].into()), "public_ip", "inside the pod network");
    wrong(|n| n.public_ip = None, "public_ip", "missing, but the node's IPv4 pods");
    wrong(|n| n.public_ipv6 = Some("fe80::1".parse().unwrap()), "public_ipv6", "link-local");
    wrong(|n| n.vtep_mac = None, "vtep_mac", "a peer's VTEP has no MAC");
    wrong(|n| n.vtep_mac = Some(MacAddr::ZERO), "vtep_mac", "the zero address");
    wrong(|n| n.vtep_mac = Some(MacAddr([2, 0, 0, 0, 1, 1])), "vtep_mac", "the VTEP of node \"a\" too");
    wrong(|n| n.vtep_mac_v6 = Some(MacAddr([2, 0, 0, 0, 1, 1])), "vtep_mac_v6", "the VTEP of node \"a\" too");
}

#[test]
fn a_node_that_is_named_twice_or_has_strange_subnets() {
    let reason = "another node has the same name";
    wrong(|m| m.nodes.push(Node { name: "b".into(), ..node("x", 3) }), Entity::Node(2), "name", reason);
    wrong(
        |m| m.nodes.push(Node { name: "x y".into(), ..node("x", 3) }),
        Entity::Node(2),
        "name",
        "may not stand",
    );
    wrong(|m| m.nodes.push(Node { subnets: vec![], ..node("x", 3) }), Entity::Node(2), "subnets", "has none");
    let with = |subnet: &str| Node { subnets: vec![subnet.parse().unwrap()], ..node("x", 3) };
    let wrong = |subnet, reason| wrong(|m| m.nodes.push(with(subnet)), Entity::Node(2), "subnets[0]", reason);
    wrong("10.244.3.1/24", "bits set after the prefix");
    wrong("10.244.3.0/31", "no room");
    wrong("10.0.0.0/8", "outside the network");
    wrong("fd00:10:245::/64", "outside the network");
    wrong("10.244.1.0/24", "is a subnet of node \"a\" already");
    wrong("10.244.2.64/26", "is a part of 10.244.2.0/24, a subnet of node \"b\"");
}

#[test]
fn nodes_need_an_underlay_in_common() {
    let mut model = model();
    model.nodes[1].subnets = vec!["fd00:10:244:2::/64".parse().unwrap()];
    model.nodes[1].public_ip = None;
    model.nodes[1].public_ipv6 = Some("2001:db8::2".parse().unwrap());
    model.pods.truncate(1);
    let found = validate(&model, "a").unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].entity, found[0].field), (Entity::Node(1), "public_ip"));
    model.nodes[0].public_ipv6 = Some("2001:db8::1".parse().unwrap());
    assert_eq!(validate(&model, "a"), Ok(()));
}

#[test]
fn what_is_wrong_with_a_pod() {
    let wrong = |change: fn(&mut Pod), setting, reason| {
        let third = || pod("third", "a", "10.244.1.7/24");
        wrong(
            |m| {
                m.pods.push(third());
                change(&mut m.pods[2]);
            },
            Entity::Pod(2),
            setting,
            reason,
        );
    };
    wrong(|p| p.name = "web".into(), "name", "another pod has the same name");
    wrong(|p| p.name = "a/b/c".into(), "name", "'/' may not stand");
    wrong(|p| p.name = "../x".into(), "name", "does not begin with");
    wrong(|p| p.node = "z".into(), "node", "there is no node \"z\"");
    wrong(|p| p.addresses.clear(), "addresses", "no address");
    wrong(
        |p| p.addresses[0] = "10.244.2.7/24".parse().unwrap(),
        "addresses[0]",
        "outside the subnets of node \"a\"",
    );
    wrong(|p| p.addresses[0] = "10.244.1.1/24".parse().unwrap(), "addresses[0]", "is the gateway");
    wrong(|p| p.addresses[0] = "10.244.1.0/24".parse().unwrap(), "addresses[0]", "the host's own");
    wrong(|p| p.addresses[0] = "10.244.1.255/24".parse().unwrap(), "addresses[0]", "the broadcast address");
    wrong(
        |p| p.addresses[0] = "10.244.1.5/24".parse().unwrap(),
        "addresses[0]",
        "pod \"web\" has 10.244.1.5 too",
    );
    wrong(|p| p.addresses.push(p.addresses[0]), "addresses[1]", "listed twice");
    wrong(|p| p.mac = Some(derived_mac("web")), "mac", "is that of pod \"web\"");
    wrong(|p| p.mac = Some(MacAddr::BROADCAST), "mac", "a group address");
    wrong(|p| p.mac = Some(MacAddr([2, 0, 0, 0, 1, 1])), "mac", "the VTEP of its node");
    wrong(
        |p| p.attachment = pod("web", "a", "10.244.1.9/24").attachment,
        "ifname",
        "pod \"web\" on the same node",
    );
    wrong(
        |p| p.attachment = Attachment::Tap { netns: "x".into(), ifname: "eth0".into() },
        "netns",
        "absolute",
    );
    wrong(|p| p.attachment = Attachment::Tap { netns: "/x".into(), ifname: "eth%d".into() }, "ifname", "'%'");
    wrong(|p| p.attachment = Attachment::Dpdk { devargs: String::new() }, "devargs", "no device");
    wrong(|p| p.attachment = Attachment::Dpdk { devargs: "net_x, a".into() }, "devargs", "blanks");
    wrong(
        |p| {
            p.attachment = Attachment::VhostUser {
                socket: format!("/{}", "x".repeat(107)).into(),
                mode: VhostMode::Server,
            }
        },
        "socket",
        "108 bytes",
    );
}

#[test]
fn two_pods_can_not_have_one_socket_or_device() {
    for (one, two, field) in [
        (
            Attachment::VhostUser { socket: "/run/x".into(), mode: VhostMode::Client },
            Attachment::VhostUser { socket: "/run//./x".into(), mode: VhostMode::Server },
            "socket",
        ),
        (
            Attachment::Dpdk { devargs: "net_memif0,role=server".into() },
            Attachment::Dpdk { devargs: "net_memif0,role=client".into() },
            "devargs",
        ),
    ] {
        let change = |m: &mut Model| {
            m.pods[0].attachment = one;
            m.pods.push(Pod { attachment: two, ..pod("third", "a", "10.244.1.7/24") });
        };
        wrong(change, Entity::Pod(2), field, "pod \"web\" on the same node has the same");
    }
}

#[test]
fn a_derived_mac_is_the_same_for_ever_and_of_one_station() {
    // A pod's MAC address must not change with an update of weft: this is the value of the first release.
    assert_eq!(pod("default/web", "a", "10.244.1.5/24").mac_or_derived().to_string(), "96:ba:56:77:4a:69");
    let mut seen = std::collections::HashSet::new();
    for n in 0..20_000 {
        let mac = derived_mac(&format!("default/pod-{n}"));
        assert!(mac.is_unicast() && mac.0[0] & 0x02 != 0, "{mac} is locally administered");
        assert!(seen.insert(mac), "{mac} comes twice");
    }
}

#[test]
fn gateways_are_the_first_address_after_the_networks() {
    let gateway = |subnet: &str| gateway(&subnet.parse().unwrap()).map(|g| g.to_string());
    assert_eq!(gateway("10.244.1.0/24").as_deref(), Some("10.244.1.1"));
    assert_eq!(gateway("fd00:10:244:1::/64").as_deref(), Some("fd00:10:244:1::1"));
    assert_eq!(gateway("10.244.1.1/32"), None);
    assert_eq!(gateway("255.255.255.255/32"), None);
}

#[test]
fn a_model_survives_json() {
    let mut model = model();
    model.networks[0].mtu = Mtu::new(1450).ok();
    model.nodes[0].vtep_macs.insert("blue".to_owned(), MacAddr([2, 0, 0, 0, 0, 8]));
    model.routes = vec![route("192.0.2.0/24", &["10.244.1.9"])];
    model.pods[0].mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    let text = serde_json::to_string(&model).unwrap();
    assert!(
        text.contains(r#""attachment":{"kind":"tap","netns":"/run/netns/web","ifname":"eth0"}"#),
        "{text}"
    );
    assert!(text.contains(r#""mac":"02:00:00:00:00:09""#), "{text}");
    assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), model);
    assert!(serde_json::from_str::<Model>(&text.replace("\"vni\":1", "\"vni\":16777216")).is_err());
}

/// Thousands of nodes and pods: what is quadratic would show as minutes.
#[test]
fn a_large_cluster_is_checked_too() {
    let mut model = model();
    model.networks[0].ipv4 = Some("10.0.0.0/8".parse().unwrap());
    model.nodes = (0..5000u32)
        .map(|n| Node {
            subnets: vec![format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap()],
            public_ip: Some(Ipv4Addr::from_bits(0xac10_0001 + n)),
            vtep_mac: Some(MacAddr([2, 1, 0, 0, (n >> 8) as u8, n as u8])),
            ..node(&format!("n{n}"), 1)
        })
        .collect();
    model.pods = (0..50_000u32)
        .map(|n| {
            let address = format!("10.{}.{}.{}/24", n % 5000 / 256, n % 5000 % 256, 2 + n / 5000);
            pod(&format!("p{n}"), &format!("n{}", n % 5000), &address)
        })
        .collect();
    assert_eq!(validate(&model, "n7"), Ok(()));
}

#[test]
fn without_a_tunnel_a_peer_needs_no_vtep_and_leads_no_route_of_others() {
    let mut direct = model();
    direct.networks[0].direct_routing = DirectRouting::Always;
    direct.nodes[1].vtep_mac = None;
    assert_eq!(validate(&direct, "a"), Ok(()));
    let mut either = direct.clone();
    either.networks[0].direct_routing = DirectRouting::OnLink;
    let found = validate(&either, "a").expect_err("whoever is behind a router has the tunnel");
    assert_eq!(found[0].setting(), "vtep_mac");

    let through_b = || route("192.0.2.0/24", &["10.244.2.9"]);
    let with = |model: &Model, route: Route| {
        let mut model = model.clone();
        model.routes.push(route);
        validate(&model, "a")
    };
    let found = with(&direct, through_b()).expect_err("a could not hand it to b");
    assert_eq!((found.len(), found[0].setting().as_str()), (1, "via[0]"));
    assert!(
        found[0].reason.contains("node \"b\"") && found[0].remedy.contains("node = \"b\""),
        "{}",
        found[0]
    );
    let on_b = Route { node: Some("b".to_owned()), ..through_b() };
    assert_eq!(with(&direct, on_b.clone()), Ok(()));
    assert!(with(&direct, Route { node: Some("a".to_owned()), ..on_b }).is_err());
    direct.networks[0].direct_routing = DirectRouting::OnLink;
    direct.nodes[1].vtep_mac = model().nodes[1].vtep_mac;
    assert_eq!(with(&direct, through_b()), Ok(()));
}

#[test]
fn plain_packets_in_a_tunnel_are_of_one_network_and_of_ipv4() {
    let with = |encapsulation, change: &dyn Fn(&mut Model)| {
        let mut model = Model { encapsulation, ..model() };
        model.networks[0].ipv6 = None;
        for node in &mut model.nodes {
            node.subnets.retain(|subnet| subnet.addr().is_ipv4());
            node.vtep_mac = None;
        }
        change(&mut model);
        let settings = |found: Vec<Invalid>| found.iter().map(Invalid::setting).collect::<Vec<_>>();
        validate(&model, "a").map_err(settings)
    };
    for encapsulation in [Encapsulation::Udp, Encapsulation::Ipip] {
        assert_eq!(with(encapsulation, &|_| {}), Ok(()), "peers need no VTEP");
        let v6 = |model: &mut Model| model.networks[0].ipv6 = "fd00:10:244::/56".parse().ok();
        assert_eq!(with(encapsulation, &v6), Err(vec!["ipv6".to_owned()]));
        let second = |model: &mut Model| {
            let mut blue = model.networks[0].clone();
            (blue.name, blue.vni) = ("blue".to_owned(), Vni::new(2).unwrap());
            blue.ipv4 = "10.99.0.0/16".parse().ok();
            model.networks.push(blue);
        };
        assert_eq!(with(encapsulation, &second), Err(vec!["name".to_owned()]));
        let direct = |routing| move |model: &mut Model| model.networks[0].direct_routing = routing;
        let on_link = with(encapsulation, &direct(DirectRouting::OnLink));
        assert_eq!(on_link.is_ok(), encapsulation == Encapsulation::Ipip);
        assert_eq!(
            with(encapsulation, &direct(DirectRouting::Always)),
            Err(vec!["direct_routing".to_owned()])
        );
    }
    assert_eq!(with(Encapsulation::Vxlan, &|_| {}), Err(vec!["vtep_mac".to_owned()]));
}

/// A node with few possibilities for each thing that only one may have, so that many share one, and seldom more than one.
fn any_node() -> impl Strategy<Value = Node> {
    use proptest::option::weighted;
    let subnet = (0u8..12, 23u8..=25).prop_map(|(number, len)| format!("10.244.{}.0/{len}", number * 2));
    let first = prop_oneof![18 => subnet, 1 => Just("10.9.0.0/24".to_owned())];
    let ipv6 = (0u8..8, 63u8..=65).prop_map(|(number, len)| format!("fd00:10:244:{}::/{len}", number * 2));
    let blue = (0u8..8, 23u8..=25).prop_map(|(number, len)| format!("10.99.{}.0/{len}", number * 2));
    let subnets = (first, weighted(0.3, ipv6), weighted(0.3, blue))
        .prop_map(|(first, ipv6, blue)| [Some(first), ipv6, blue].into_iter().flatten());
    let addresses = (weighted(0.9, 1u8..12), weighted(0.5, 1u16..6));
    let mac = || (1u8..12).prop_map(|last| MacAddr([2, 0, 0, 0, 1, last]));
    let macs = |weight| weighted(weight, mac()).prop_map(|mac| mac.map(|mac| ("blue".to_owned(), mac)));
    let macs = (weighted(0.9, mac()), weighted(0.3, mac()), macs(0.4), macs(0.2));
    (0u8..12, subnets, addresses, macs).prop_map(|(name, subnets, (public, v6), macs)| Node {
        name: format!("n{name}"),
        subnets: subnets.map(|subnet| subnet.parse().unwrap()).collect(),
        public_ip: public.map(|last| Ipv4Addr::new(192, 0, 2, last)),
        public_ipv6: v6.map(|last| Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, last)),
        vtep_mac: macs.0,
        vtep_mac_v6: macs.1,
        vtep_macs: macs.2.into_iter().collect(),
        vtep_macs_v6: macs.3.into_iter().collect(),
    })
}

fn any_direct_routing() -> impl Strategy<Value = DirectRouting> {
    prop_oneof![Just(DirectRouting::Never), Just(DirectRouting::OnLink), Just(DirectRouting::Always)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_has_changed_is_judged_as_the_whole_is(
        direct in (any_direct_routing(), any_direct_routing()),
        nodes in proptest::collection::vec(any_node(), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), proptest::option::of(any_node())), 1..4),
    ) {
        let mut model = Model { nodes: vec![node("a", 100)], pods: vec![], ..two_networks() };
        (model.networks[0].direct_routing, model.networks[1].direct_routing) = direct;
        // As many as go together.
        for node in nodes {
            model.nodes.push(node);
            if validate(&model, "a").is_err() {
                model.nodes.pop();
            }
        }
        // Nodes come, become others, and go.
        let mut changed = Vec::new();
        for (place, to) in changes {
            match (place.index(model.nodes.len()), to) {
                (0, Some(new)) => {
                    changed.push(model.nodes.len());
                    model.nodes.push(new);
                }
                (index, Some(other)) => {
                    changed.push(index);
                    model.nodes[index] = other;
                }
                (index, None) if index > 0 && changed.is_empty() => drop(model.nodes.remove(index)),
                _ => {}
            }
        }
        prop_assert_eq!(validate_changed(&model, "a", &changed), validate(&model, "a"));
    }
}
