//! What the switch looks up: each list in each form, its filters, and what is said when nothing is there.

use serde_json::{Value, json};
use weft_api::{
    Conflict, Fdb, FdbEntry, FdbKind, Flow, FlowVerdict, Flows, LocalVtep, Neighbour, NeighbourKind,
    NeighbourState, Neighbours, Pin, Pins, Port, PortRole, Ports, Route, RouteKind, Routes, Vtep, Vteps,
    Worker, WorkerStats, Workers,
};

use crate::daemon::{Answers, Daemon};
use crate::{pod, stats, status};

fn port(id: u16, name: &str, role: PortRole) -> Port {
    Port {
        id,
        name: name.into(),
        kind: if role == PortRole::Uplink { "uplink" } else { "tap" }.into(),
        role,
        mtu: 1450,
        worker: (role != PortRole::Uplink).then_some(1),
        connected: role != PortRole::Trusted,
        rx_packets: 1000,
        rx_bytes: 1_500_000,
        tx_packets: 900,
        tx_bytes: 60_000,
        rx_drops: 7,
        tx_drops: 0,
        delayed: 0,
        paused: 0,
        learned: 3,
    }
}

fn pins(entries: Vec<Pin>) -> Pins {
    Pins { count: 3, capacity: 131_072, memory_bytes: 6 << 20, evicted: 7, entries }
}

fn two_pins() -> Pins {
    let pin = |protocol, (src_port, dst_port), state: &str| Pin {
        src: [10, 244, 2, 7].into(),
        dst: [10, 244, 1, 5].into(),
        protocol,
        src_port,
        dst_port,
        state: state.into(),
        age_s: 5,
        expires_s: 115,
    };
    pins(vec![pin(17, (53, 40_000), "answered"), pin(17, (0, 0), "fragments")])
}

fn ports() -> Ports {
    let wanted = [(0, "eth0", PortRole::Uplink), (2, "web", PortRole::Pod), (3, "fw\x1b", PortRole::Trusted)];
    Ports { ports: wanted.map(|(id, name, role)| port(id, name, role)).to_vec() }
}

fn fdb() -> Fdb {
    let entry = |mac: &str, port: Option<&str>, kind, age_s| FdbEntry {
        mac: mac.parse().unwrap(),
        port_id: port.map(|_| 3),
        port: port.map(Into::into),
        kind,
        age_s,
    };
    Fdb {
        entries: vec![
            entry("02:00:00:00:00:01", Some("web"), FdbKind::Static, None),
            entry("02:00:00:00:00:02", Some("fw"), FdbKind::Learned, Some(75)),
            entry("0a:58:0a:f4:01:01", None, FdbKind::Gateway, None),
        ],
    }
}

fn neighbours() -> Neighbours {
    let blank = Neighbour {
        address: "10.244.1.1".parse().unwrap(),
        mac: Some("0a:58:0a:f4:01:01".parse().unwrap()),
        port_id: None,
        port: None,
        kind: NeighbourKind::Gateway,
        state: None,
        age_s: None,
    };
    let underlay = Neighbour {
        address: "fd00::9".parse().unwrap(),
        mac: None,
        port_id: Some(0),
        port: Some("eth0".into()),
        kind: NeighbourKind::Underlay,
        state: Some(NeighbourState::Unresolved),
        ..blank.clone()
    };
    let kernels = Neighbour {
        address: "fd00::a".parse().unwrap(),
        state: Some(NeighbourState::Kernel),
        ..underlay.clone()
    };
    let conflict = Conflict {
        address: "10.244.1.5".parse().unwrap(),
        mac: "02:00:00:00:00:66".parse().unwrap(),
        port: "web".into(),
        count: 12,
        last_seen: 1_000_000,
    };
    Neighbours { entries: vec![blank, underlay, kernels], conflicts: vec![conflict] }
}

fn vteps() -> Vteps {
    let far = Vtep {
        index: Some(0),
        node: "n2".into(),
        network: "default".into(),
        vni: 1,
        address: "192.0.2.2".parse().unwrap(),
        mac: Some("02:00:00:00:00:02".parse().unwrap()),
        next_hop: Some("192.0.2.254".parse().unwrap()),
        next_hop_mac: None,
        source: Some("192.0.2.1".parse().unwrap()),
        mtu: Some(1450),
        path_mtu: Some(1400),
        resolved: false,
    };
    let own = LocalVtep {
        network: "default".into(),
        vni: 1,
        address: "192.0.2.1".parse().unwrap(),
        mac: "02:00:00:00:00:01".parse().unwrap(),
    };
    Vteps { vteps: vec![far], local: vec![own] }
}

fn route(to: &str, kind: RouteKind, via: &[&str], node: Option<&str>, port: Option<&str>) -> Route {
    Route {
        to: to.parse().unwrap(),
        kind,
        via: via.iter().map(|via| via.parse().unwrap()).collect(),
        node: node.map(Into::into),
        network: node.map(|_| "default".into()),
        port: port.map(Into::into),
        mtu: node.map(|_| 1450),
        dropped: None,
    }
}

fn routes() -> Routes {
    Routes {
        routes: vec![
            route("10.244.1.0/24", RouteKind::Local, &[], None, None),
            route("10.244.2.0/24", RouteKind::Vtep, &["192.0.2.2"], Some("n2"), Some("eth0")),
            route("10.244.3.0/24", RouteKind::Direct, &["192.0.2.3"], Some("n3"), Some("weft0")),
            route("192.0.2.0/24", RouteKind::Group, &["10.244.1.9", "10.244.1.10"], None, None),
            route("::/0", RouteKind::Host, &[], None, Some("weft0")),
        ],
    }
}

fn flows() -> Flows {
    let flow = Flow {
        port: "web".into(),
        src: "10.244.1.5".parse().unwrap(),
        dst: "10.244.2.5".parse().unwrap(),
        protocol: 6,
        sport: 40000,
        dport: 443,
        packets: 800,
        bytes: 1 << 20,
        verdict: FlowVerdict::Tunnel,
        to: Some("n2".into()),
    };
    Flows { flows: vec![flow], seen: 3, sampled_one_in: 8, lost: 2 }
}

fn workers() -> Workers {
    let stats =
        WorkerStats { id: 1, core: Some(3), rx_packets: 1000, busy: 0.5, ..stats().workers.remove(0) };
    Workers { workers: vec![Worker { stats, ports: vec!["web".into(), "eth0".into()], generation: None }] }
}

fn daemon() -> Daemon {
    let one = |port: Port| Ports { ports: vec![port] };
    let nobody =
        Route { dropped: Some("no_pod".into()), ..route("10.244.1.0/24", RouteKind::Local, &[], None, None) };
    let way = route("10.244.2.0/24", RouteKind::Vtep, &["192.0.2.2"], Some("n2"), Some("eth0"));
    Daemon::start(
        Answers::default()
            .with("GET /v1/ports", 200, &ports())
            .with("GET /v1/ports?name=web", 200, &one(port(2, "web", PortRole::Pod)))
            .with("GET /v1/ports?name=no%20port%26", 200, &Ports { ports: vec![] })
            .with("GET /v1/pods?name=web", 200, &json!({ "pods": [pod("web")] }))
            .with("GET /v1/pods?name=nobody", 200, &json!({ "pods": [] }))
            .with("GET /v1/fdb", 200, &fdb())
            .with("GET /v1/fdb?port=web&mac=02%3A00%3A00%3A00%3A00%3A01", 200, &Fdb { entries: vec![] })
            .with("GET /v1/neigh", 200, &neighbours())
            .with(
                "GET /v1/neigh?address=fd00%3A%3A9",
                200,
                &Neighbours { entries: vec![], conflicts: vec![] },
            )
            .with("GET /v1/pins?limit=1000", 200, &two_pins())
            .with("GET /v1/pins?address=10.244.1.9&limit=5", 200, &pins(vec![]))
            .with("GET /v1/vteps", 200, &vteps())
            .with("GET /v1/vteps?node=n9", 200, &Vteps { vteps: vec![], local: vec![] })
            .with("GET /v1/routes", 200, &routes())
            .with("GET /v1/routes?match=10.244.2.5", 200, &Routes { routes: vec![way] })
            .with("GET /v1/routes?match=10.244.1.99", 200, &Routes { routes: vec![nobody] })
            .with("GET /v1/routes?match=127.0.0.1", 200, &Routes { routes: vec![] })
            .with("GET /v1/flows?seconds=1&limit=100", 200, &flows())
            .with(
                "GET /v1/flows?seconds=5&limit=1",
                200,
                &Flows { flows: vec![], seen: 0, sampled_one_in: 1, lost: 0 },
            )
            .with("GET /v1/workers", 200, &workers()),
    )
}

#[test]
fn each_list_as_a_table_and_wide() {
    let daemon = daemon();
    for (args, expected) in [
        (
            &["port"][..],
            "\
PORT  NAME  KIND    ROLE     STATE    WORKER  RX PACKETS  RX DROPS  TX PACKETS  TX DROPS
   0  eth0  uplink  uplink   up         each        1000         7         900         0
   2  web   tap     pod      up            1        1000         7         900         0
   3  fw?   tap     trusted  waiting       1        1000         7         900         0
",
        ),
        (
            &["port", "list", "-o", "wide", "--no-headers"],
            "\
0  eth0  uplink  uplink   up       each  1450  1000  1.4 MiB  7  900  58.6 KiB  0  3
2  web   tap     pod      up          1  1450  1000  1.4 MiB  7  900  58.6 KiB  0  3
3  fw?   tap     trusted  waiting     1  1450  1000  1.4 MiB  7  900  58.6 KiB  0  3
",
        ),
        (
            &["port", "show", "web"],
            "\
name          web
port          2
kind          tap
role          pod
state         up
worker        1
mtu           1450
rx            1000 packets, 1.4 MiB, 7 dropped
tx            900 packets, 58.6 KiB, 0 dropped
learned       3
",
        ),
        (
            &["pod", "show", "web"],
            "\
name          web
state         up
kind          tap
attached to   eth0 in /run/netns/blue
addresses     10.244.1.5, fd00::5
mac           02:00:0a:f4:01:05
trusted       no
port          3
mtu           1450
origin        api
node          n1
",
        ),
        (
            &["fdb"],
            "\
MAC                PORT  KIND        AGE
02:00:00:00:00:01  web   static        -
02:00:00:00:00:02  fw    learned  1m 15s
0a:58:0a:f4:01:01  -     gateway       -
",
        ),
        (
            &["pins"],
            "\
PROTOCOL  FROM        PORT  TO           PORT  STATE      AGE
udp       10.244.2.7    53  10.244.1.5  40000  answered    5s
udp       10.244.2.7     -  10.244.1.5      -  fragments   5s

3 of 131072 pins (6.0 MiB), 7 went before their time
",
        ),
        (
            &["neigh"],
            "\
ADDRESS     MAC                PORT  KIND      STATE       AGE
10.244.1.1  0a:58:0a:f4:01:01  -     gateway   -             -
fd00::9     -                  eth0  underlay  unresolved    -
fd00::a     -                  eth0  underlay  kernel        -

CONFLICT    CLAIMED BY         PORT  TIMES
10.244.1.5  02:00:00:00:00:66  web      12
",
        ),
        (
            &["vtep"],
            "\
LOCAL ADDRESS  MAC                NETWORK  VNI
192.0.2.1      02:00:00:00:00:01  default    1

NODE  NETWORK  ADDRESS    MAC                NEXT HOP      MTU  RESOLVED
n2    default  192.0.2.2  02:00:00:00:00:02  192.0.2.254  1450  no
",
        ),
        (
            &["route"],
            "\
TO             KIND    VIA                      NODE  PORT
10.244.1.0/24  local   -                        -     -
10.244.2.0/24  vtep    192.0.2.2                n2    eth0
10.244.3.0/24  direct  192.0.2.3                n3    weft0
192.0.2.0/24   group   10.244.1.9, 10.244.1.10  -     -
::/0           host    -                        -     weft0
",
        ),
        (
            &["route", "get", "10.244.2.5", "-owide"],
            "\
TO             KIND  VIA        NODE  PORT  NETWORK   MTU
10.244.2.0/24  vtep  192.0.2.2  n2    eth0  default  1450
",
        ),
        (
            &["route", "get", "10.244.1.99"],
            "\
TO             KIND   VIA  NODE  PORT
10.244.1.0/24  local  -    -     -

nobody here has the address: dropped as no_pod
",
        ),
        (
            &["flow"],
            "\
FROM  PROTOCOL  SOURCE      SPORT  DESTINATION  DPORT  PACKETS    BYTES  VERDICT  TO
web   tcp       10.244.1.5  40000  10.244.2.5     443      800  1.0 MiB  tunnel   n2

2 flows more: --limit lists up to 10000

estimated: one packet in 8 was looked at, 2 samples were lost
",
        ),
        (&["flow", "--seconds=5", "--limit=1"], "no flows\n"),
        (
            &["worker"],
            "\
WORKER  CORE  STATE      BUSY  ASLEEP  CYCLES/PACKET  RX PACKETS  TX PACKETS  DROPS  GENERATION  PORTS
     1     3  sleeping  50.0%   75.0%            242        1000         990      7           -  web, eth0
",
        ),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        assert_eq!(ran.out, expected, "{args:?}");
    }
}

#[test]
fn a_filter_that_nothing_matches_is_no_empty_switch() {
    let daemon = daemon();
    for (args, filters) in [
        (
            &["fdb", "list", "--port", "web", "--mac", "02:00:00:00:00:01"][..],
            "--port web --mac 02:00:00:00:00:01",
        ),
        (&["neigh", "--address", "fd00:0::9"], "--address fd00::9"),
        (&["pins", "--address", "10.244.1.9", "--limit", "5"], "--address 10.244.1.9"),
        (&["vtep", "list", "--node", "n9"], "--node n9"),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}");
        assert_eq!(ran.err, format!("weft: nothing matches {filters}\n"));
    }
    let ran = daemon.weft(&["-ojson", "vtep", "--node", "n9"]);
    let said: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, said), (1, json!({ "error": "nothing matches --node n9", "code": "not_found" })));
}

#[test]
fn each_list_as_json_is_what_the_daemon_said() {
    let daemon = daemon();
    for (args, expected) in [
        (&["port", "-o", "json"][..], json!(ports())),
        (&["port", "show", "web", "-ojson"], json!(port(2, "web", PortRole::Pod))),
        (&["pod", "show", "web", "-ojson"], json!(pod("web"))),
        (&["fdb", "-o", "json"], json!(fdb())),
        (&["neigh", "-o", "json"], json!(neighbours())),
        (&["pins", "list", "-o", "json"], json!(two_pins())),
        (&["vtep", "-o", "json"], json!(vteps())),
        (&["route", "list", "-o", "json"], json!(routes())),
        (&["flow", "-o", "json"], json!(flows())),
        (&["worker", "list", "-o", "json"], json!(workers())),
    ] {
        assert_eq!(daemon.weft(args).json(), expected, "{args:?}");
    }
}

#[test]
fn what_is_not_there_is_1_and_says_where_to_look() {
    let daemon = daemon();
    for (args, says) in [
        (&["port", "show", "no port&"][..], "there is no port no port& on this node: weft port lists"),
        (&["pod", "show", "nobody"], "there is no pod nobody on this node: weft pod lists"),
        (&["route", "get", "127.0.0.1"], "no route to 127.0.0.1"),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        let ran = daemon.weft(&[&["-ojson"], args].concat());
        let error: Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((ran.code, &error["code"]), (1, &json!("not_found")), "{args:?}");
    }
}

#[test]
fn mistakes_are_2_ask_nothing_and_say_what_to_write() {
    let daemon = daemon();
    for (args, says) in [
        (&["ports"][..], "port"),
        (&["route", "get", "10.244.2.0/24"], "<IP>"),
        (&["route", "get"], "<IP>"),
        (&["fdb", "--mac", "02:00"], "no MAC address"),
        (&["neigh", "--address", "web"], "--address"),
        (&["fdb", "--port", "web", "list"], "list"),
        (&["flow", "--seconds", "21"], "1..=20"),
        (&["flow", "--limit", "0"], "1..=10000"),
        (&["port", "show"], "<NAME>"),
        (&["status", "-o", "yaml"], "table, wide, json"),
        (&["status", "--watch=0"], "0.1 to 86400"),
        (&["status", "--watch=soon"], "no number of seconds"),
        (&["pod", "del", "web", "--watch"], "commands that only read"),
        (&["version", "--watch"], "commands that only read"),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    assert_eq!(daemon.asked(), vec![]);
}

#[test]
fn a_status_with_many_peers_lists_those_that_are_not_well() {
    let mut many = status();
    let peer = many.peers.remove(0);
    for number in 0..30 {
        let name = format!("n{number}");
        many.peers.push(weft_api::Peer { name, resolved: number != 7, ..peer.clone() });
    }
    let daemon = Daemon::start(Answers::default().with("GET /v1/status", 200, &many));
    let narrow = daemon.weft(&["status"]).out;
    assert!(narrow.contains("\nn7 ") && !narrow.contains("\nn8 "), "{narrow}");
    assert!(narrow.ends_with("29 peers are resolved; -o wide lists them\n"), "{narrow}");
    let wide = daemon.weft(&["status", "-o", "wide"]).out;
    assert!((0..30).all(|number| wide.contains(&format!("\nn{number} "))), "{wide}");
}

#[test]
fn a_peer_is_listed_with_the_way_that_its_pods_are_reached_by() {
    let mut mixed = status();
    let subnets: Vec<ipnet::IpNet> = ["10.244.2.0/24", "fd00::/64"].map(|net| net.parse().unwrap()).to_vec();
    let peer = weft_api::Peer { subnets: subnets.clone(), ..mixed.peers.remove(0) };
    for (name, direct) in [("n2", &subnets[..0]), ("n3", &subnets[..1]), ("n4", &subnets[..])] {
        mixed.peers.push(weft_api::Peer { name: name.into(), direct: direct.to_vec(), ..peer.clone() });
    }
    let daemon = Daemon::start(Answers::default().with("GET /v1/status", 200, &mixed));
    let out = daemon.weft(&["status"]).out;
    let ways: Vec<_> = out.lines().skip_while(|line| !line.starts_with("PEER")).skip(1).collect();
    for (line, way) in ways.iter().zip(["tunnel", "both", "direct"]) {
        assert!(line.contains(&format!("  {way}  ")), "{out}");
    }
    assert_eq!(ways.len(), 3);
}
