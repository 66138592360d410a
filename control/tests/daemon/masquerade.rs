//! The node's rules for pods' packets, in a real kernel: which source address packets have where they come in, for each row of
//! flannel's table, and that the rules are there when they should be.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use crate::etcd::{ENDPOINT, Etcd, Node};
use crate::lab::{Lab, Namespace, Weftd, Wire, wait_for};

const OUTSIDE: &str = "192.0.2.2";
/// a's address towards the outside.
const NODE: &str = "192.0.2.1";

/// Ports of datagrams: usual ones, and those that the node marks as kube-proxy does, with no other bit and with one.
const USUAL: u16 = 7000;
const MARKED: u16 = 7001;
const MARKED_AND_MORE: u16 = 7002;

fn conf(nftables: bool) -> String {
    format!(
        r#"{{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","EnableNFTables":{nftables},"Backend":{{"Type":"vxlan"}}}}"#
    )
}

/// The source address, the destination port and the payload of a UDP datagram over IPv4.
fn datagram(frame: &[u8]) -> Option<(Ipv4Addr, u16, &[u8])> {
    let (header, ip) = frame.split_at_checked(14)?;
    let length = usize::from(ip.first()? & 15) * 4;
    if header[12..] != [8, 0] || *ip.get(9)? != 17 {
        return None;
    }
    let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
    let port = ip.get(length + 2..length + 4)?;
    Some((source.into(), u16::from_be_bytes([port[0], port[1]]), ip.get(length + 8..)?))
}

/// The source address with which a datagram comes in at `at`. It is sent until one does.
fn source(from: &Namespace, to: impl ToString, port: u16, at: &mut Wire) -> String {
    // Those of an earlier call may come late.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let to = SocketAddr::new(to.to_string().parse().expect("an address"), port);
    at.drain();
    wait_for("the datagram", || {
        // While there is no way yet, the kernel may refuse it.
        let send = move || UdpSocket::bind("0.0.0.0:0").expect("a socket").send_to(&call, to).is_ok();
        from.enter(send).join().expect("a sender");
        std::thread::sleep(Duration::from_millis(20));
        while let Some(frame) = at.next() {
            match datagram(&frame.bytes) {
                Some((source, there, payload)) if there == port && payload.starts_with(&call) => {
                    return Some(source.to_string());
                }
                _ => {}
            }
        }
        None
    })
}

/// Two nodes with a pod each, and somebody outside behind the first.
struct Nodes<'a> {
    a: Node<'a>,
    outside: Namespace,
    web: Namespace,
    db: Namespace,
    variables: Vec<String>,
}

impl<'a> Nodes<'a> {
    /// Without weftd.
    fn new(lab: &'a Lab) -> Self {
        let [outside, web, db] = ["outside", "web", "db"].map(Namespace::new);
        lab.node.ip(&format!("link add out0 type veth peer name out0 netns {}", outside.name()));
        for (namespace, address) in [(&lab.node, NODE), (&outside, OUTSIDE)] {
            namespace.ip_batch(&[&format!("addr add {address}/24 dev out0"), "link set out0 up"]);
        }
        outside.ip(&format!("route add default via {NODE}"));
        // As kube-proxy marks what it translates itself.
        lab.node.nft(&format!(
            "table ip marks {{
                chain marks {{
                    type filter hook prerouting priority -150;
                    udp dport {MARKED} meta mark set 0x4000
                    udp dport {MARKED_AND_MORE} meta mark set 0x4001
                }}
            }}"
        ));
        let a = Node { lab, name: "a", namespace: &lab.node };
        let variables =
            ["FLANNELD_IP_MASQ=true", "FLANNELD_IPTABLES_RESYNC=1", "FLANNELD_IP_BLACKHOLE_ROUTE=true"];
        let variables = variables.map(str::to_owned).to_vec();
        Self { a, outside, web, db, variables }
    }

    fn start(&self, node: &Node, more: &[String]) -> Weftd {
        let mut all = vec![
            format!("FLANNELD_SUBNET_FILE={}", node.path("subnet.env").display()),
            format!("FLANNELD_ETCD_ENDPOINTS={ENDPOINT}"),
            "FLANNELD_IFACE_REGEX=^172[.]16[.]".to_owned(),
        ];
        all.extend_from_slice(more);
        node.start("", &all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start_a(&self) -> Weftd {
        self.start(&self.a, &self.variables)
    }
}

fn zero(node: &Node) -> (IpNet, String) {
    let subnets = node.status().source.store.expect("a store").subnets;
    let subnet = subnets.into_iter().find(|net| net.addr().is_ipv4()).expect("an IPv4 subnet");
    (subnet, subnet.network().to_string())
}

/// Each row of the table, by what comes in.
fn assert_rows(nftables: bool) {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    etcd.ctl(&["put", "/coreos.com/network/config", &conf(nftables)]);
    let nodes = Nodes::new(&lab);
    let b = Node { lab: &lab, name: "b", namespace: &lab.peer };
    let _a_weftd = nodes.start_a();
    let _b_weftd = nodes.start(&b, &[]);
    let (Nodes { a, outside, web, db, .. }, near) = (&nodes, &lab.node);
    let (web_address, db_address) = (a.add("web", web).to_string(), b.add("db", db).to_string());
    let mut at_web = Wire::open(web, "eth0");
    let mut at_db = Wire::open(db, "eth0");
    let mut at_outside = Wire::open(outside, "out0");

    // Row 5 first: it shows that the rules are there.
    assert_eq!(source(web, OUTSIDE, USUAL, &mut at_outside), NODE, "row 5: from a pod to elsewhere");
    assert_eq!(source(web, OUTSIDE, MARKED, &mut at_outside), web_address, "row 1: marked");
    let wanted = if nftables { NODE } else { &web_address };
    assert_eq!(
        source(web, OUTSIDE, MARKED_AND_MORE, &mut at_outside),
        wanted,
        "row 1: the mark among other bits"
    );
    assert_eq!(
        source(web, &db_address, USUAL, &mut at_db),
        web_address,
        "row 2: from a pod to another node's"
    );
    assert_eq!(source(near, &db_address, USUAL, &mut at_db), zero(a).1, "row 2: from the host");
    assert_eq!(source(db, &web_address, USUAL, &mut at_web), db_address, "row 3: from another node's pod");
    assert_eq!(source(outside, &web_address, USUAL, &mut at_web), OUTSIDE, "row 4: from elsewhere");
    let wanted = if nftables { OUTSIDE.to_owned() } else { zero(a).1 };
    assert_eq!(
        source(outside, &db_address, USUAL, &mut at_db),
        wanted,
        "row 6: from elsewhere to another node's pod"
    );
    assert_eq!(near.must("sysctl -n net.ipv4.ip_forward").trim(), "1");
}

#[test]
fn packets_have_the_sources_of_flannels_table_by_iptables() {
    assert_rows(false);
}

#[test]
fn packets_have_the_sources_of_flannels_table_by_nftables() {
    assert_rows(true);
}

fn iptables(namespace: &Namespace, program: &str, args: &[&str]) -> String {
    let output = namespace.command(program).arg("-w").args(args).output().expect("iproute2 is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} failed (iptables is needed): {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both tables of both families.
fn all_rules(node: &Namespace) -> String {
    let mut text = String::new();
    for program in ["iptables", "ip6tables"] {
        for table in ["nat", "filter"] {
            text += &iptables(node, program, &["-t", table, "-S"]);
        }
    }
    text
}

fn blackholes(node: &Namespace) -> String {
    node.ip("route show type blackhole") + &node.ip("-6 route show type blackhole")
}

/// As `weft node purge` does.
fn purge(nodes: &Nodes) {
    let state = nodes.a.path("state");
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(weft_node::purge(&state, "weft0"))
    };
    let purged = nodes.a.namespace.enter(work).join().expect("an end").expect("it is purged");
    assert!(purged.rules);
}

#[test]
fn rules_of_iptables_are_kept_and_only_those() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    etcd.ctl(&["put", "/coreos.com/network/config", &conf(false)]);
    let (nodes, node) = (Nodes::new(&lab), &lab.node);
    // What an earlier flanneld with another network has left, and a very old one; and what is somebody else's.
    iptables(node, "iptables", &["-t", "nat", "-N", "FLANNEL-POSTRTG"]);
    iptables(node, "iptables", &["-t", "nat", "-A", "FLANNEL-POSTRTG", "-s", "10.9.0.0/16", "-j", "RETURN"]);
    let comment = ["-m", "comment", "--comment", "flanneld masq"];
    let old = ["-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "!", "-d", "224.0.0.0/4"];
    iptables(node, "iptables", &[&old[..], &comment, &["-j", "MASQUERADE"]].concat());
    let foreign = "-A POSTROUTING -s 10.99.0.0/16 -j ACCEPT";
    iptables(node, "iptables", &["-t", "nat", "-A", "POSTROUTING", "-s", "10.99.0.0/16", "-j", "ACCEPT"]);
    let weftd = nodes.start_a();

    // Where iptables takes long, weftd is ready before the last of them.
    let rules = wait_for("the rules", || {
        Some(all_rules(node)).filter(|rules| rules.contains("-A FLANNEL-FWD -d fd00:10:244::/48 "))
    });
    let (subnet, _) = zero(&nodes.a);
    for wanted in [
        foreign,
        r#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#,
        r#"-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD"#,
        &format!("-A FLANNEL-POSTRTG -s {subnet} -d 10.244.0.0/16 "),
        "-A FLANNEL-POSTRTG -s fd00:10:244::/48 ! -d ff00::/8 ",
        "-A FLANNEL-FWD -d fd00:10:244::/48 ",
    ] {
        assert_eq!(
            rules.matches(wanted).count(),
            if wanted.contains(" -j FLANNEL") { 2 } else { 1 },
            "{wanted}:\n{rules}"
        );
    }
    assert!(!rules.contains("10.9.0.0/16"), "{rules}");
    assert_eq!(rules.matches("--random-fully").count(), 4, "{rules}");
    let nowhere = blackholes(node);
    assert!(nowhere.contains(&format!("blackhole {subnet} ")) && nowhere.contains("proto 87"), "{nowhere}");

    // Whoever takes something away: it comes back, where it was.
    let back = |what: &str| wait_for(what, || (all_rules(node) == rules).then_some(()));
    iptables(node, "iptables", &["-t", "nat", "-F", "FLANNEL-POSTRTG"]);
    back("the rules");
    iptables(node, "ip6tables", &["-t", "nat", "-D", "FLANNEL-POSTRTG", "2"]);
    back("one rule");
    let jump = ["-D", "FORWARD", "-m", "comment", "--comment", "flanneld forward", "-j", "FLANNEL-FWD"];
    iptables(node, "iptables", &jump);
    back("the jump");
    iptables(node, "iptables", &["-A", "FLANNEL-FWD", "-j", "DROP"]);
    back("what was there before somebody added a rule");
    node.ip(&format!("route del blackhole {subnet} metric 4294967295"));
    wait_for("the blackhole route", || (blackholes(node) == nowhere).then_some(()));

    // They outlast weftd, and the next one finds them as they are.
    weftd.stop();
    assert_eq!(all_rules(node), rules);
    let weftd = nodes.start_a();
    assert_eq!(all_rules(node), rules);
    weftd.stop();
    purge(&nodes);
    let left = all_rules(node);
    assert!(left.contains(foreign) && !left.contains("FLANNEL"), "{left}");
    assert_eq!(blackholes(node), "");
}

#[test]
fn tables_of_nftables_are_kept_and_only_those() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    etcd.ctl(&["put", "/coreos.com/network/config", &conf(true)]);
    let (nodes, node) = (Nodes::new(&lab), &lab.node);
    // What flanneld has made before it was told to use nftables, and somebody else's table.
    iptables(node, "iptables", &["-t", "nat", "-N", "FLANNEL-POSTRTG"]);
    iptables(node, "iptables", &["-t", "nat", "-A", "POSTROUTING", "-j", "FLANNEL-POSTRTG"]);
    node.nft("table ip others {\n chain theirs {\n }\n}");
    let weftd = nodes.start_a();

    let tables = || {
        let list = |family, name| node.exec(&format!("nft list table {family} {name}"));
        let both = [list("ip", "flannel-ipv4"), list("ip6", "flannel-ipv6")];
        both.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).concat()
    };
    let rules = wait_for("the tables", || {
        Some(tables()).filter(|rules| rules.contains("ip6 saddr fd00:10:244::/48 accept"))
    });
    let (subnet, _) = zero(&nodes.a);
    for wanted in [
        format!("ip saddr {subnet} ip daddr 10.244.0.0/16 return"),
        "masquerade fully-random".to_owned(),
        "ip6 saddr fd00:10:244::/48 accept".to_owned(),
    ] {
        assert!(rules.contains(&wanted), "{wanted}:\n{rules}");
    }
    assert!(!all_rules(node).contains("FLANNEL"), "the others' would be in the way");

    let back = |what: &str| wait_for(what, || (tables() == rules).then_some(()));
    node.must("nft delete table ip flannel-ipv4");
    back("the table");
    node.must("nft flush chain ip6 flannel-ipv6 postrtg");
    back("the rules");
    weftd.stop();
    assert_eq!(tables(), rules);
    let weftd = nodes.start_a();
    assert_eq!(tables(), rules);
    weftd.stop();
    purge(&nodes);
    assert_eq!(tables(), "");
    node.must("nft list table ip others");
}

#[test]
fn a_missing_program_is_said_and_nothing_else_suffers() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    etcd.ctl(&["put", "/coreos.com/network/config", &conf(false)]);
    let mut nodes = Nodes::new(&lab);
    let empty = lab.path("no-programs");
    std::fs::create_dir(&empty).expect("a folder");
    nodes.variables.push(format!("PATH={}", empty.display()));
    let _weftd = nodes.start_a();
    wait_for("the word", || {
        let problems = nodes.a.status().problems;
        problems
            .iter()
            .any(|problem| problem.contains("the program iptables is not there: install it"))
            .then_some(())
    });
    assert!(nodes.a.path("subnet.env").exists(), "pods can come all the same");
}
