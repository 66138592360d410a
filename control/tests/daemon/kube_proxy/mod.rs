//! kube-proxy beside weft: the node's kernel translates what pods send to services, and weft brings it the answers. Every case of
//! `weft_switch::pins`, with kube-proxy's rules in both of its modes, between real kernels; what arrives is compared both ways.
//!
//! | who | where | addresses |
//! |---|---|---|
//! | `web`, `db` | pods of weft's node a | 10.244.0.2, 10.244.0.3 and the same in fd00:10:244::/64 |
//! | `far` | a pod of the kernel's node b | 10.244.1.2, fd00:10:244:1::2 |
//! | b itself | outside of the cluster, as far as a is concerned | 172.16.0.2 |

mod rules;
mod talk;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::lab::{Lab, Namespace, PATIENCE, Weftd, tap_pod, wait_for};
use crate::tunnel::kernel_node;
use rules::{Mode, Policy, Service, host_port, masquerade};
use talk::{Server, ask_at_once, ask_tcp, ask_udp, is_refused, speak_late};

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Net {
    web: &'static str,
    db: &'static str,
    far: &'static str,
    node: &'static str,
    outside: &'static str,
    services: &'static str,
}

const V4: Net = Net {
    web: "10.244.0.2",
    db: "10.244.0.3",
    far: "10.244.1.2",
    node: "172.16.0.1",
    outside: "172.16.0.2",
    services: "10.96.0.",
};

const V6: Net = Net {
    web: "fd00:10:244::2",
    db: "fd00:10:244::3",
    far: "fd00:10:244:1::2",
    node: "fd00:172:16::1",
    outside: "fd00:172:16::2",
    services: "fd00:96::",
};

const SERVED: u16 = 8080;
/// Where who speaks late listens.
const LATE: u16 = 8081;
const HOST_PORT: u16 = 18080;
const OUTSIDE: u16 = 9000;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

impl Net {
    /// A service's address: the last part of it.
    fn service(self, last: u8) -> IpAddr {
        ip(&format!("{}{last}", self.services))
    }

    fn services(self) -> [Service; 11] {
        let service = |name, hash, protocol, last, port, served, node_port| Service {
            name,
            hash,
            protocol,
            at: (self.service(last), port),
            served,
            node_port,
        };
        let (cluster, local) = (Policy::Cluster, Policy::Local);
        [
            service(
                "remote",
                "ULMVA6XWREMOTEAA",
                "tcp",
                11,
                80,
                at(self.far, SERVED),
                Some((30080, cluster)),
            ),
            service("near", "42NFTM6NNEARAAAA", "tcp", 12, 80, at(self.db, SERVED), Some((30081, cluster))),
            service("self", "4AT6LBPKSELFAAAA", "tcp", 13, 80, at(self.web, SERVED), Some((30082, local))),
            service(
                "nearlocal",
                "LAUZTJTBNEARLOCL",
                "tcp",
                14,
                80,
                at(self.db, SERVED),
                Some((30083, local)),
            ),
            service("dns", "HVFWP5L3DNSREMOT", "udp", 10, 53, at(self.far, 5353), None),
            service("dnsnear", "GTK6MW7GDNSNEARA", "udp", 20, 53, at(self.db, 5353), None),
            service("dnsself", "SGOXE6O3DNSSELFA", "udp", 22, 53, at(self.web, 5353), None),
            service("closed", "UEIP74TECLOSEDAA", "udp", 30, 53, at(self.far, 9), None),
            service("closednear", "UNZV3OECCLOSEDNE", "udp", 31, 53, at(self.db, 9), None),
            service("late", "SLOWREMOTEAAAAAA", "tcp", 15, 80, at(self.far, LATE), None),
            service("latenear", "SLOWNEARAAAAAAAA", "tcp", 16, 80, at(self.db, LATE), None),
        ]
    }
}

/// The nodes, with a server for TCP and one for UDP in each pod.
struct Cluster {
    // Before the namespaces that they are in.
    servers: Vec<Server>,
    outside: Server,
    web: Namespace,
    db: Namespace,
    far: Namespace,
    // The daemon goes before its lab.
    weftd: Weftd,
    lab: Lab,
    net: Net,
}

impl Cluster {
    fn new(mode: Mode, uplink: &str, dataplane: &str, net: Net) -> Self {
        let lab = Lab::new();
        lab.configure(dataplane, &format!("kind = \"{uplink}\""), "");
        let (web, db) = (Namespace::new("web"), Namespace::new("db"));
        let far = kernel_node(&lab, 1450);
        lab.node.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // As careful as kernels get about where packets come from; and quiet about ways that look shorter.
        for node in [&lab.node, &lab.peer] {
            node.must("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
            node.must("sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0");
        }
        lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
        let weftd = lab.start();
        lab.peer_resolved();
        mode.apply(&lab.node, ip(net.node), &net.services());
        if net.node == V4.node {
            masquerade(&lab.node);
            host_port(&lab.node, HOST_PORT, at(net.web, SERVED), "10.244.0.0/24");
        }
        let servers = [(&web, net.web), (&db, net.db), (&far, net.far)]
            .into_iter()
            .flat_map(|(pod, address)| {
                [Server::tcp(pod, at(address, SERVED)), Server::udp(pod, at(address, 5353))]
            })
            .collect();
        let outside = Server::tcp(&lab.peer, at(net.outside, OUTSIDE));
        Self { servers, outside, web, db, far, weftd, lab, net }
    }

    fn service(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.service(last), port)
    }

    fn node_port(&self, port: u16) -> SocketAddr {
        at(self.net.node, port)
    }

    /// Who has asked a pod's TCP server since the last call.
    fn asked(&self, pod: usize) -> Vec<IpAddr> {
        self.servers[2 * pod].askers()
    }

    /// The sum of a counter over the workers.
    fn counted(&self, read: fn(&weft_api::WorkerStats) -> u64) -> u64 {
        self.lab.stats().workers.iter().map(read).sum()
    }

    fn pinned_packets(&self) -> u64 {
        self.counted(|worker| worker.to_host_pinned)
    }

    /// Once no connection that has ended before repeats its end any more.
    fn settled_pins(&self) -> u64 {
        let mut last = self.pinned_packets();
        wait_for("what is pinned to settle", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.pinned_packets();
            (std::mem::replace(&mut last, now) == now).then_some(now)
        })
    }

    /// A few connections, one of them long, all right; whether their answers had to be brought to the kernel by pins.
    fn assert_served(&self, from: &Namespace, to: SocketAddr, pinned: bool, what: &str) {
        let before = self.settled_pins();
        ask_tcp(from, to, 2, 5, 300);
        ask_tcp(from, to, 1, 1, 4 << 20);
        let packets = self.pinned_packets() - before;
        assert_eq!(packets > 0, pinned, "{what}: {packets} packets were pinned");
    }

    fn assert_resolved(&self, last: u8, what: &str) {
        let service = self.service(last, 53);
        // Until the neighbours know each other.
        ask_udp(&self.web, service, 1, 60, Duration::from_secs(2));
        // Every port's first answer has to find its pin, so nobody has to ask twice; and so for fragments, both ways.
        assert_eq!(ask_udp(&self.web, service, 100, 60, PATIENCE), 0, "{what}: lost");
        assert_eq!(ask_udp(&self.web, service, 10, 4000, PATIENCE), 0, "{what}: fragments lost");
        // Asked once too: those who know each other lose nothing.
        assert!(is_refused(&self.web, self.service(30, 53)), "{what}: nobody listens, and nobody says so");
    }

    /// What must hold at the end of each test.
    fn assert_sound(self) {
        for kernel in [&self.lab.node, &self.lab.peer, &self.web, &self.db, &self.far] {
            assert_eq!(kernel.snmp("Icmp", "OutRedirects"), 0, "{} redirects", kernel.name());
        }
        assert_eq!(self.counted(|worker| worker.pins_evicted), 0);
        self.lab.counters_balance();
        drop(self.servers);
        drop(self.outside);
        drop(self.weftd);
    }
}

fn web(cluster: &Cluster) -> IpAddr {
    ip(cluster.net.web)
}

/// What pods open to services, wherever they are served.
fn cluster_ips(cluster: &Cluster) {
    // First: later the same port could be that of a connection to a service, by chance.
    cluster.assert_served(&cluster.far, at(cluster.net.web, SERVED), false, "without any service");
    cluster.assert_served(&cluster.web, at(cluster.net.db, SERVED), false, "the same, on the same node");
    (0..3).for_each(|pod| drop(cluster.asked(pod)));
    cluster.assert_served(&cluster.web, cluster.service(11, 80), true, "served by another node's pod");
    assert_eq!(cluster.asked(2), [web(cluster)], "with the pod's own address");
    cluster.assert_served(&cluster.web, cluster.service(12, 80), true, "served by a pod of the same node");
    assert_eq!(cluster.asked(1), [web(cluster)], "with the pod's own address");
    cluster.assert_served(&cluster.web, cluster.service(13, 80), false, "served by itself");
    let asked = cluster.asked(0);
    assert!(asked.len() == 1 && asked[0] != web(cluster), "masqueraded: {asked:?}");
    for (last, what) in [(10, "by another node's pod"), (20, "by the same node's"), (22, "by itself")] {
        cluster.assert_resolved(last, what);
    }
    assert!(
        is_refused(&cluster.web, cluster.service(31, 53)),
        "nobody listens on the same node, and nobody says so"
    );
}

/// What comes from outside, and what pods send to their node.
fn node_ports(cluster: &Cluster) {
    let outside = &cluster.lab.peer;
    cluster.assert_served(outside, cluster.node_port(30080), false, "Cluster, served by another node's pod");
    cluster.assert_served(outside, cluster.node_port(30081), false, "Cluster, served here");
    cluster.asked(0);
    cluster.assert_served(outside, cluster.node_port(30082), false, "Local");
    assert_eq!(cluster.asked(0), [ip(cluster.net.outside)], "with the sender's address");
    cluster.assert_served(&cluster.web, cluster.node_port(30080), false, "Cluster, from a pod: masqueraded");
    cluster.assert_served(&cluster.web, cluster.node_port(30081), false, "Cluster, from a pod: masqueraded");
    cluster.asked(1);
    cluster.assert_served(&cluster.web, cluster.node_port(30083), true, "Local, from a pod: not masqueraded");
    assert_eq!(cluster.asked(1), [web(cluster)]);
    cluster.assert_served(&cluster.web, cluster.node_port(30082), false, "Local, from the pod that serves");
}

/// Host ports, and what leaves the cluster.
fn host_ports_and_egress(cluster: &Cluster) {
    cluster.assert_served(&cluster.lab.peer, cluster.node_port(HOST_PORT), false, "a host port from outside");
    cluster.assert_served(&cluster.db, cluster.node_port(HOST_PORT), false, "a host port from the same node");
    cluster.assert_served(
        &cluster.web,
        cluster.node_port(HOST_PORT),
        false,
        "a host port from the pod itself",
    );
    cluster.outside.askers();
    cluster.assert_served(&cluster.web, at(cluster.net.outside, OUTSIDE), false, "to outside");
    assert_eq!(cluster.outside.askers(), [ip(cluster.net.node)], "masqueraded");
}

#[test]
fn in_mode_nftables() {
    let cluster = Cluster::new(Mode::Nftables, "socket", "", V4);
    cluster_ips(&cluster);
    node_ports(&cluster);
    host_ports_and_egress(&cluster);
    cluster.assert_sound();
}

#[test]
fn in_mode_iptables() {
    let cluster = Cluster::new(Mode::Iptables, "af_packet", "workers = 2", V4);
    cluster_ips(&cluster);
    node_ports(&cluster);
    host_ports_and_egress(&cluster);
    cluster.assert_sound();
}

#[test]
fn in_mode_nftables_over_ipv6() {
    let cluster = Cluster::new(Mode::Nftables, "socket", "", V6);
    cluster_ips(&cluster);
    cluster.assert_sound();
}

#[test]
fn in_mode_iptables_over_ipv6() {
    let cluster = Cluster::new(Mode::Iptables, "af_packet", "", V6);
    cluster_ips(&cluster);
    cluster.assert_sound();
}

/// Half of them to a pod of the same node. Each half is open at once, so each connection has a port of its own.
#[test]
fn ten_thousand_connections() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("how many files may be open");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("so many may be open");
    let cluster = Cluster::new(Mode::Nftables, "socket", "workers = 2", V4);
    for (server, served, last) in [(&cluster.far, V4.far, 15), (&cluster.db, V4.db, 16)] {
        let (service, served) = (cluster.service(last, 80), at(served, LATE));
        ask_at_once(&cluster.web, service, server, served, (5000, 64));
    }
    let pinned = cluster.counted(|worker| worker.pinned);
    assert!(pinned >= 10_000, "{pinned}");
    let pins = cluster.lab.ask(async |weftd| weftd.pins(None, 100_000).await).expect("the pins");
    assert!(pins.capacity >= pins.count && pins.memory_bytes == 48 * pins.capacity, "{} pins", pins.count);
    // Those of the last two minutes: closed by both sides.
    assert!(pins.entries.iter().any(|pin| pin.state == "closed" && pin.protocol == 6));
    let of_db = cluster.lab.ask(async |weftd| weftd.pins(Some(ip(V4.db)), 10).await).expect("the pins");
    assert!(of_db.entries.len() == 10 && of_db.entries.iter().all(|pin| pin.src == ip(V4.db)));
    cluster.assert_sound();
}

/// The first that is sent after a restart is an answer: who has asked has nothing more to say.
#[test]
fn an_answer_finds_the_kernel_after_a_restart_too() {
    let Cluster { servers, outside, web, db, far, mut weftd, lab, net } =
        Cluster::new(Mode::Nftables, "socket", "", V4);
    for (server, served, last) in [(&far, net.far, 15), (&db, net.db, 16)] {
        let to = SocketAddr::new(net.service(last), 80);
        weftd = speak_late(&web, to, server, at(served, LATE), || {
            weftd.stop();
            let again = lab.start();
            lab.peer_resolved();
            again
        });
        let pins = lab.ask(async |weftd| weftd.pins(Some(ip(served)), 10).await).expect("the pins");
        assert!(pins.count > 0);
    }
    lab.counters_balance();
    drop((servers, outside));
    drop(weftd);
}
