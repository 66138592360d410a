//! What the tables say for a model and a node's facts.

use super::*;
use crate::cluster;
use crate::model::{DirectRouting, Network, Pod, Route, Target};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use weft_switch::tables::{Link, Map};

/// Three nodes, two networks; the third node is in the first network only.
const CLUSTER: &str = r#"
[[network]]
ipv4 = "10.244.0.0/16"
ipv6 = "fd00:10:244::/48"
[[network]]
name = "blue"
ipv4 = "10.99.0.0/16"
vni = 7
mtu = 1300

[[node]]
name = "a"
subnets = ["10.244.0.0/24", "fd00:10:244::/64", "10.99.0.0/24"]
public_ip = "172.16.0.1"
[[node]]
name = "b"
subnets = ["10.244.1.0/24", "fd00:10:244:1::/64", "10.99.1.0/24", "10.99.2.0/24"]
public_ip = "172.16.0.2"
vtep_mac = "02:00:00:00:01:02"
vtep_macs = { blue = "02:00:00:00:07:02" }
[[node]]
name = "c"
subnets = ["10.244.2.0/24"]
public_ip = "172.16.0.3"
vtep_mac = "02:00:00:00:01:03"

[[pod]]
name = "web"
node = "a"
addresses = ["10.244.0.5", "fd00:10:244::5"]
kind = "dpdk"
devargs = "net_null0"
[[pod]]
name = "router"
node = "a"
addresses = ["10.244.0.6", "10.99.0.6/16"]
trusted = true
kind = "dpdk"
devargs = "net_null1"
"#;

fn parse(more: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, format!("{CLUSTER}{more}")).unwrap();
    load(&path)
}

fn load(path: &Path) -> Model {
    cluster::load(path, "a").unwrap_or_else(|error| panic!("{error}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn port(number: usize) -> PortId {
    PortId::new(number).unwrap()
}

fn own_macs() -> BTreeMap<String, MacAddr> {
    [("default".to_owned(), MacAddr([2, 0, 0, 0, 1, 1])), ("blue".to_owned(), MacAddr([2, 0, 0, 0, 7, 1]))]
        .into()
}

/// Node a with its uplink, both pods' ports open, and the ways to the peers known.
fn facts() -> Facts {
    let open = |number| OpenPort { id: port(number), place: Place::Worker(0) };
    let way = |last| {
        let address = IpAddr::V4(Ipv4Addr::new(172, 16, 0, last));
        let next_hop_mac = Some(MacAddr([2, 0, 0, 0, 9, last]));
        (address, Way { source: ip("172.16.0.1"), next_hop: address, next_hop_mac, mtu: None })
    };
    Facts {
        node: "a".to_owned(),
        vtep_macs: own_macs(),
        uplink: Uplink {
            port: Some(port(0)),
            mac: MacAddr([2, 0, 0, 0, 9, 1]),
            mtu: 1500,
            addresses: vec![ip("172.16.0.1")],
            vxlan_port: 8472,
            tunnel_gso: false,
            kernel_resolves: false,
            plain: false,
        },
        host: Some((open(1), MacAddr([2, 0, 0, 0, 9, 9]))),
        ports: [("web".to_owned(), open(2)), ("router".to_owned(), open(3))].into(),
        bandwidth: HashMap::new(),
        ways: Arc::new([way(2), way(3)].into()),
        direct: HashSet::new(),
        source_ports: SourcePorts::default(),
        outer_checksum: false,
        accept_unknown: false,
        limits: Limits::default(),
        ageing: 300,
        learn_limit: 256,
        learned: Vec::new(),
        path_mtus: HashMap::new(),
    }
}

fn compiled(model: &Model) -> Snapshot {
    compile(model, &facts(), Generation(1))
}

/// The number of the far end that an address is reached through.
fn vtep(tables: &Snapshot, address: &str) -> u32 {
    match tables.routes4.lookup(v4(address)) {
        Some(NextHop::Vtep(index)) => index,
        other => panic!("{address}: {other:?}"),
    }
}

#[test]
fn each_network_has_its_tunnels() {
    let model = parse("");
    let tables = compiled(&model);
    // b in the first network (both families over IPv4), b in blue (two subnets), c.
    assert_eq!(tables.vteps.len(), 3);
    assert!(tables.vteps.iter().all(|vtep| vtep.encap.is_some()));
    let [b, blue, c] = ["10.244.1.9", "10.99.1.9", "10.244.2.9"].map(|address| vtep(&tables, address));
    assert!(b != blue && b != c && blue != c);
    assert_eq!(vtep(&tables, "10.99.2.9"), blue);
    assert_eq!(tables.routes6.lookup("fd00:10:244:1::9".parse().unwrap()), Some(NextHop::Vtep(b)));
    for (address, expected) in [
        ("10.244.9.9", NextHop::Unreachable),
        ("10.99.9.9", NextHop::Unreachable),
        ("10.99.0.9", NextHop::Local),
        ("10.99.0.1", NextHop::Host),
    ] {
        assert_eq!(tables.routes4.lookup(v4(address)), Some(expected), "{address}");
    }

    let local: Vec<_> = tables.local_vteps.iter().map(|end| (end.vni.get(), end.mac, end.address)).collect();
    let here = ip("172.16.0.1");
    assert_eq!(local, [(1, MacAddr([2, 0, 0, 0, 1, 1]), here), (7, MacAddr([2, 0, 0, 0, 7, 1]), here)]);
    let [first, second] = [0, 1].map(|network: usize| model.networks[network].vni);
    assert!(tables.peers.accepts(ip("172.16.0.2"), first) && tables.peers.accepts(ip("172.16.0.2"), second));
    assert!(tables.peers.accepts(ip("172.16.0.3"), first));
    assert!(!tables.peers.accepts(ip("172.16.0.3"), second), "c is not in blue");
    let subnets: Vec<_> =
        tables.gateway.subnets4.iter().map(|(net, len, own)| format!("{net}/{len} {own}")).collect();
    assert_eq!(subnets, ["10.244.0.0/24 10.244.0.1", "10.99.0.0/24 10.99.0.1"]);
}

#[test]
fn an_own_mac_address_that_is_given_goes_before_the_made_one() {
    let mut model = parse("");
    model.nodes[0].vtep_macs.insert("blue".to_owned(), MacAddr([2, 0, 0, 0, 7, 7]));
    let tables = compiled(&model);
    let macs: Vec<_> = tables.local_vteps.iter().map(|end| end.mac).collect();
    assert_eq!(macs, [MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 7, 7])]);
}

#[test]
fn a_pod_has_the_smallest_mtu_of_its_networks() {
    let mut model = parse("");
    let mtus = Mtus::new(&model, 1500);
    let of = |mtus: &Mtus, name: &str| mtus.of_pod(model.pods.iter().find(|pod| pod.name == name).unwrap());
    assert_eq!((of(&mtus, "web"), of(&mtus, "router")), (1450, 1300));
    assert_eq!((mtus.of_network(0), mtus.of_network(1), mtus.of_host(&model.nodes[0])), (1450, 1300, 1300));
    model.nodes[1].public_ipv6 = Some("fd00:172::2".parse().unwrap());
    assert_eq!(Mtus::new(&model, 1500).of_network(0), 1430, "room for the IPv6 tunnel");
}

#[test]
fn trusted_pods_and_what_is_configured() {
    let facts = Facts {
        ageing: 20,
        learn_limit: 3,
        limits: Limits { flood: weft_switch::limits::Limit { per_second: 9, burst: 2 }, ..Limits::default() },
        outer_checksum: true,
        accept_unknown: true,
        ..facts()
    };
    let model = parse("");
    let tables = compile(&model, &facts, Generation(4));
    assert_eq!(tables.trusted, [port(3)]);
    assert_eq!(tables.segment, [port(1), port(2), port(3)]);
    assert_eq!(tables.ports.get(port(3)).map(|port| &port.role), Some(&Role::Trusted));
    assert!(
        matches!(tables.ports.get(port(2)).map(|port| &port.role), Some(Role::Pod(guard)) if guard.has_v4(v4("10.244.0.5")))
    );
    let mac = model.pods[1].mac_or_derived();
    assert_eq!(tables.fdb.get(&mac), Some(&port(3)), "a trusted pod's own address is known");
    assert_eq!(tables.neighbour(ip("10.99.0.6")), Some(Neighbour { mac, port: port(3) }));
    assert_eq!((tables.ageing, tables.learn_limit, tables.limits), (20, 3, facts.limits));
    assert!(tables.vteps.iter().all(|vtep| vtep.checksum));
    assert!(tables.peers.accepts(ip("192.0.2.99"), model.networks[1].vni));
}

#[test]
fn routes_of_each_kind() {
    let model = parse(
        r#"
[[route]]
to = "192.0.2.0/25"
via = ["10.244.0.6"]
[[route]]
to = "192.0.2.128/25"
via = ["10.99.1.6"]
[[route]]
to = "198.51.100.0/24"
via = ["10.244.0.6", "10.244.1.6", "10.99.2.6"]
[[route]]
to = "203.0.113.0/24"
kind = "prohibit"
[[route]]
to = "203.0.113.0/24"
kind = "blackhole"
node = "a"
[[route]]
to = "203.0.113.128/25"
kind = "unreachable"
[[route]]
to = "203.0.113.0/32"
kind = "prohibit"
node = "b"
[[route]]
to = "2001:db8::/32"
via = ["fd00:10:244:1::6"]
[[route]]
to = "100.64.0.0/10"
via = ["10.244.0.99"]
[[route]]
to = "100.0.0.0/16"
via = ["10.244.0.99", "10.244.0.6"]
"#,
    );
    let tables = compiled(&model);
    let lookup = |address: &str| tables.routes4.lookup(v4(address)).unwrap();
    let b = vtep(&tables, "10.244.1.9");
    let blue = vtep(&tables, "10.99.1.9");
    let router = Neighbour { mac: model.pods[1].mac_or_derived(), port: port(3) };
    assert_eq!(tables.hops, [router], "one entry, however many routes name it");
    assert_eq!(lookup("192.0.2.1"), NextHop::Hop(0));
    assert_eq!(lookup("192.0.2.129"), NextHop::Vtep(blue), "by the network that the address is of");
    let NextHop::Group(group) = lookup("198.51.100.1") else { panic!("a group") };
    assert_eq!(*tables.groups[group as usize], [NextHop::Hop(0), NextHop::Vtep(b), NextHop::Vtep(blue)]);
    assert_eq!(tables.groups.len(), 1);
    assert_eq!(lookup("203.0.113.1"), NextHop::Blackhole, "the node's own goes before that of all");
    assert_eq!(lookup("203.0.113.0"), NextHop::Blackhole, "another node's is not this one's");
    assert_eq!(lookup("203.0.113.200"), NextHop::Unreachable);
    assert_eq!(tables.routes6.lookup("2001:db8::1".parse().unwrap()), Some(NextHop::Vtep(b)));
    assert_eq!(lookup("100.64.0.1"), NextHop::Unreachable, "a pod that is not there");
    assert_eq!(lookup("100.0.0.1"), NextHop::Hop(0), "the one that is there");
}

/// What is published after `before`, and whether its routes, its known senders and its far ends are those of before.
fn after(before: &Snapshot, model: &Model, facts: &Facts) -> (Snapshot, [bool; 3]) {
    let mut next = compile(model, facts, Generation(2));
    next.keep(before);
    let kept = [next.routes4.is(&before.routes4), next.peers.is(&before.peers), next.vteps.is(&before.vteps)];
    (next, kept)
}

#[test]
fn what_stays_as_it_was_is_the_same_memory() {
    let (model, facts) = (parse(""), facts());
    let before = compile(&model, &facts, Generation(1));
    let mut other = parse("");
    other.pods.pop();
    assert_eq!(after(&before, &other, &facts).1, [true; 3], "a pod less");

    let mut other = parse("");
    other.nodes[1].vtep_mac = Some(MacAddr([2, 0, 0, 0, 1, 9]));
    assert_eq!(after(&before, &other, &facts).1, [true, true, false], "another MAC address");

    let mut ways = (*facts.ways).clone();
    ways.remove(&ip("172.16.0.3"));
    let fewer = Facts { ways: Arc::new(ways), ..facts.clone() };
    assert_eq!(after(&before, &model, &fewer).1, [true, true, false], "no way to a peer");

    let mut other = parse("");
    other.nodes.pop();
    assert_eq!(after(&before, &other, &facts).1, [false; 3], "a node less");
}

proptest! {
    /// Whatever was published before, what is published is what the desired state makes from nothing.
    #[test]
    fn what_is_kept_is_what_would_be_made(
        states in prop::collection::vec((prop::collection::vec((any::<bool>(), 0u8..3), 6), any::<bool>(), 0u32..3), 2..6),
    ) {
        let mut before = Snapshot::default();
        for (nodes, has_pod, mtu) in states {
            let mut model = parse("");
            let more = nodes.iter().zip(4u8..).filter(|((there, _), _)| *there).map(|((_, mac), n)| Node {
                name: format!("n{n}"),
                subnets: vec![format!("10.244.{n}.0/24").parse().unwrap(), format!("fd00:10:244:{n}::/64").parse().unwrap()],
                public_ip: Some(Ipv4Addr::new(172, 16, 0, n)),
                vtep_mac: Some(MacAddr([2, 0, 0, 1, n, *mac])),
                ..model.nodes[2].clone()
            });
            let more: Vec<_> = more.collect();
            model.nodes.extend(more);
            model.pods.truncate(1 + usize::from(has_pod));
            let path_mtus = [(ip("172.16.0.2"), 1300 + mtu)].into();
            let facts = Facts { path_mtus, ..facts() };
            let fresh = compile(&model, &facts, Generation(2));
            let (next, _) = after(&before, &model, &facts);
            prop_assert_eq!(&next, &fresh);
            before = next;
        }
    }
}

/// Every change compiles anew: with thousands of nodes, what is quadratic would show as minutes.
#[test]
fn five_thousand_nodes_in_two_networks() {
    const NODES: u32 = 5000;
    let network = |name: &str, ipv4: &str, vni| Network {
        name: name.to_owned(),
        ipv4: Some(ipv4.parse().unwrap()),
        ipv6: None,
        vni: weft_switch::types::Vni::new(vni).unwrap(),
        mtu: None,
        direct_routing: DirectRouting::Never,
    };
    let mac = |kind: u8, n: u32| MacAddr([2, kind, 0, 0, (n >> 8) as u8, n as u8]);
    let node = |n: u32| Node {
        name: format!("n{n}"),
        subnets: ["10", "11"]
            .iter()
            .map(|net| format!("{net}.{}.{}.0/24", n / 256, n % 256).parse().unwrap())
            .collect(),
        public_ip: Some(Ipv4Addr::from_bits(0xac10_0001 + n)),
        public_ipv6: None,
        vtep_mac: Some(mac(1, n)),
        vtep_mac_v6: None,
        vtep_macs: [("blue".to_owned(), mac(2, n))].into(),
        vtep_macs_v6: BTreeMap::new(),
    };
    let pod = |n: u32| Pod {
        name: format!("p{n}"),
        node: format!("n{}", n % NODES),
        attachment: crate::model::Attachment::Dpdk { devargs: format!("net_null{n}") },
        addresses: vec![
            format!("10.{}.{}.{}/24", n % NODES / 256, n % NODES % 256, 2 + n / NODES).parse().unwrap(),
        ],
        mac: None,
        trusted: false,
        mtu: None,
        routes: None,
        bandwidth: Default::default(),
    };
    let route = |n: u32| Route {
        to: format!("12.{}.{}.0/24", n / 256, n % 256).parse().unwrap(),
        target: Target::Via(vec![format!("10.{}.{}.2", n / 256, n % 256).parse().unwrap(), ip("11.0.7.2")]),
        node: None,
    };
    let model = Model {
        networks: vec![network("default", "10.0.0.0/8", 1), network("blue", "11.0.0.0/8", 2)],
        port: Model::DEFAULT_PORT,
        encapsulation: Encapsulation::Vxlan,
        nodes: (0..NODES).map(node).collect(),
        pods: (0..10 * NODES).map(pod).collect(),
        routes: (0..NODES).map(route).collect(),
    };
    let way = |node: &Node| {
        let address = IpAddr::V4(node.public_ip.unwrap());
        let next_hop_mac = Some(MacAddr([2, 9, 0, 0, 0, 1]));
        (address, Way { source: ip("172.16.0.1"), next_hop: address, next_hop_mac, mtu: Some(1400) })
    };
    let facts =
        Facts { node: "n7".to_owned(), ways: Arc::new(model.nodes.iter().map(way).collect()), ..facts() };
    let started = std::time::Instant::now();
    let tables = compile(&model, &facts, Generation(1));
    println!("compiled in {:?}", started.elapsed());
    let others = 2 * (NODES as usize - 1);
    assert_eq!(tables.vteps.iter().filter(|vtep| vtep.encap.is_some()).count(), others);
    assert_eq!(vtep(&tables, "10.19.135.9"), vtep(&tables, "10.19.135.200"));
    // One for each but those through n7 itself, whose pod's port is not open here.
    assert_eq!(tables.groups.len(), 0);
    assert_eq!(vtep(&tables, "12.0.9.1"), vtep(&tables, "10.0.9.1"));
    let ends: Map<u32, ()> = (0..NODES)
        .filter(|n| *n != 7)
        .map(|n| (vtep(&tables, &format!("11.{}.{}.9", n / 256, n % 256)), ()))
        .collect();
    assert_eq!(ends.len(), NODES as usize - 1);
}

/// The same cluster with this setting in its first network.
fn directly(word: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    let setting = format!("[[network]]\ndirect_routing = \"{word}\"\n");
    std::fs::write(&path, CLUSTER.replacen("[[network]]\n", &setting, 1)).unwrap();
    load(&path)
}

/// The ways of [`facts`], with c behind a router.
fn ways_with_a_router() -> PeerWays {
    let mut ways = PeerWays::clone(&facts().ways);
    ways.get_mut(&ip("172.16.0.3")).unwrap().next_hop = ip("172.16.0.254");
    ways
}

#[test]
fn peers_on_the_link_can_do_without_the_tunnel() {
    let wanted = |model: &Model, ways: &PeerWays| {
        let (routes, problems) = direct_routes(model, "a", ways);
        let routes: Vec<_> =
            routes.iter().map(|route| format!("{} via {}", route.subnet, route.via)).collect();
        (routes, problems)
    };
    let nothing = (Vec::new(), Vec::new());
    assert_eq!(wanted(&parse(""), &facts().ways), nothing);
    // IPv6 pods, whose nodes have no such address, and the other network stay in their tunnels.
    let [b, c] = ["10.244.1.0/24 via 172.16.0.2", "10.244.2.0/24 via 172.16.0.3"].map(str::to_owned);
    assert_eq!(wanted(&directly("on-link"), &facts().ways), (vec![b.clone(), c], Vec::new()));
    assert_eq!(wanted(&directly("on-link"), &ways_with_a_router()), (vec![b.clone()], Vec::new()));
    assert_eq!(wanted(&directly("on-link"), &PeerWays::new()), nothing);

    let (routes, problems) = wanted(&directly("always"), &ways_with_a_router());
    assert_eq!(routes, [b]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("node b: ") && problems[0].contains("no underlay address of that family")
    );
    assert!(problems[1].starts_with("node c: ") && problems[1].contains("behind the router 172.16.0.254"));

    let mut model = directly("on-link");
    model.nodes[1].public_ipv6 = Some("fd00:172::2".parse().unwrap());
    let mut ways = PeerWays::clone(&facts().ways);
    let v6 = Way { next_hop: ip("fd00:172::2"), ..ways[&ip("172.16.0.2")].clone() };
    ways.insert(ip("fd00:172::2"), v6);
    let (routes, _) = wanted(&model, &ways);
    assert!(routes.contains(&"fd00:10:244:1::/64 via fd00:172::2".to_owned()), "{routes:?}");
}

#[test]
fn what_is_routed_directly_goes_to_the_kernel_and_the_rest_as_before() {
    let subnet = |text: &str| text.parse::<IpNet>().unwrap();
    let with = |model: &Model, direct: &[&str]| {
        let facts = Facts { direct: direct.iter().copied().map(subnet).collect(), ..facts() };
        compile(model, &facts, Generation(1))
    };
    let to = |tables: &Snapshot, address: &str| tables.routes4.lookup(v4(address)).unwrap();
    let to_v6 = |tables: &Snapshot| tables.routes6.lookup("fd00:10:244:1::9".parse().unwrap()).unwrap();
    let b = "10.244.1.0/24";

    let mut model = directly("on-link");
    let via = Target::Via(vec![ip("10.244.1.6")]);
    model.routes.push(Route { to: subnet("192.0.2.0/24"), target: via, node: None });
    let tables = with(&model, &[b]);
    let NextHop::Direct(vtep) = to(&tables, "10.244.1.9") else { panic!("b is on the link") };
    assert!(tables.vteps[vtep as usize].encap.is_some(), "its tunnel stays");
    assert_eq!(to(&tables, "192.0.2.1"), NextHop::Vtep(vtep), "b's kernel has no route to it");
    assert_eq!(to_v6(&tables), NextHop::Vtep(vtep));
    assert!(matches!(to(&tables, "10.244.2.9"), NextHop::Vtep(_)));
    assert!(matches!(to(&tables, "10.99.1.9"), NextHop::Vtep(_)));
    assert!(tables.peers.accepts(ip("172.16.0.2"), model.networks[0].vni));
    // What the kernel has says nothing where it is not asked for.
    let tables = with(&parse(""), &[b]);
    assert!(matches!(to(&tables, "10.244.1.9"), NextHop::Vtep(_)));

    // Where the uplink takes such packets, weft sends them itself.
    let mut facts_plain = Facts { direct: [subnet(b)].into(), ..facts() };
    facts_plain.uplink.plain = true;
    let tables = compile(&model, &facts_plain, Generation(1));
    let to_link = Neighbour { mac: MacAddr([2, 0, 0, 0, 9, 2]), port: port(0) };
    assert_eq!(to(&tables, "10.244.1.9"), NextHop::OnLink(0));
    assert_eq!(tables.links, [Link { to: to_link, vtep }]);
    assert_eq!(tables.uplink_mac, facts_plain.uplink.mac);
    assert_eq!(to(&tables, "192.0.2.1"), NextHop::Vtep(vtep));
    Arc::make_mut(&mut facts_plain.ways).get_mut(&ip("172.16.0.2")).unwrap().next_hop_mac = None;
    let tables = compile(&model, &facts_plain, Generation(1));
    assert_eq!(to(&tables, "10.244.1.9"), NextHop::Direct(vtep), "the kernel resolves it");
    assert!(tables.links.is_empty());

    let model = directly("always");
    let tables = with(&model, &[b]);
    assert_eq!(to(&tables, "10.244.1.9"), NextHop::Direct(NO_VTEP));
    assert_eq!((to(&tables, "10.244.2.9"), to_v6(&tables)), (NextHop::Unreachable, NextHop::Unreachable));
    assert_eq!(tables.vteps.len(), 1, "that of the other network");
    assert!(tables.peers.accepts(ip("172.16.0.2"), model.networks[0].vni), "both forms are taken");
}

#[test]
fn without_a_tunnel_pods_have_all_of_the_underlays_mtu() {
    let of = |word: &str| Mtus::new(&directly(word), 1500).of_network(0);
    assert_eq!((of("never"), of("on-link"), of("always")), (1450, 1450, 1500));
}

#[test]
fn limits_of_pods_are_those_of_their_ports() {
    let model = parse("");
    let rate = |bits| weft_switch::types::BitRate::new(bits).unwrap();
    let limit = |bits, burst| Some(RateLimit { rate: rate(bits), burst });
    let mut limited = model.clone();
    let web = limited.pods.iter_mut().find(|pod| pod.name == "web").unwrap();
    web.bandwidth = Bandwidth { ingress: limit(1_000_000, Some(9)), egress: limit(2_000_000, None) };
    let mut facts = facts();
    assert_eq!(compile(&model, &facts, Generation(1)).rates.ports().count(), 0);
    let of = |bits, burst| Some(Rate { per_second: rate(bits), burst });
    let tables = compile(&limited, &facts, Generation(1));
    assert_eq!(tables.rates.ports().collect::<Vec<_>>(), [port(2)]);
    let asked = PortRates { to: of(1_000_000, Some(9)), from: of(2_000_000, None) };
    assert_eq!(tables.rates.get(port(2)), asked);
    // Whoever is asked first goes before the desired state, as far as it says something.
    let said = Bandwidth { ingress: limit(5000, None), egress: None };
    facts.bandwidth = [("web".to_owned(), said)].into();
    let tables = compile(&limited, &facts, Generation(1));
    assert_eq!(tables.rates.get(port(2)), PortRates { to: of(5000, None), from: of(2_000_000, None) });
    assert_eq!(compile(&model, &facts, Generation(1)).rates.get(port(2)).to, of(5000, None));
}

#[test]
fn nodes_behind_a_tunnel_of_plain_packets_are_neighbours() {
    let model = |encapsulation: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        let mut text = format!("[network]\nipv4 = \"10.244.0.0/16\"\nencapsulation = {encapsulation}\n");
        for (node, name) in ["a", "b", "c"].iter().enumerate() {
            let host = node + 1;
            text += &format!(
                "[[node]]\nname = \"{name}\"\nsubnets = [\"10.244.{node}.0/24\"]\npublic_ip = \"172.16.0.{host}\"\n"
            );
        }
        text += "[[route]]\nto = \"192.0.2.0/24\"\nvia = [\"10.244.2.9\"]\n";
        std::fs::write(&path, text).unwrap();
        load(&path)
    };
    for (encapsulation, mtu) in [("\"udp\"", 1472), ("\"ipip\"", 1480)] {
        let cluster = model(encapsulation);
        let tables = compiled(&cluster);
        let uplink = tables.ports.get(port(0)).unwrap();
        assert_eq!((&uplink.role, uplink.mtu.get()), (&Role::IpTunnel(Network::DEFAULT_VNI), mtu));
        let hop = |address: &str| match tables.routes4.lookup(v4(address)) {
            Some(NextHop::Hop(index)) => tables.hops[index as usize],
            other => panic!("{address}: {other:?}"),
        };
        let node = |host| Neighbour { mac: mac_of(Ipv4Addr::new(172, 16, 0, host)), port: port(0) };
        assert_eq!((hop("10.244.1.9"), hop("10.244.2.9"), hop("192.0.2.9")), (node(2), node(3), node(3)));
        assert_eq!(tables.routes4.lookup(v4("10.244.9.9")), Some(NextHop::Unreachable));
        assert_eq!((tables.vteps.len(), tables.local_vteps.len(), tables.hops.len()), (0, 0, 2));
        assert!(tables.peers.accepts(ip("172.16.0.2"), Network::DEFAULT_VNI));
        assert_eq!(tables.udp_proxy.is_some(), mtu == 1472);
        assert_eq!(Mtus::new(&cluster, 1500).of_network(0) as usize, mtu);
    }
    // On the link, and with the kernel's route in force.
    let mut direct = facts();
    direct.direct = ["10.244.1.0/24".parse().unwrap()].into();
    let tables = compile(&model("\"ipip\"\ndirect_routing = \"on-link\""), &direct, Generation(1));
    assert_eq!(tables.routes4.lookup(v4("10.244.1.9")), Some(NextHop::Direct(NO_VTEP)));
    assert!(matches!(tables.routes4.lookup(v4("10.244.2.9")), Some(NextHop::Hop(_))));
}
