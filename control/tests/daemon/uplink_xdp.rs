//! The uplink by an XDP program, with the kernel's own VTEP at the other end of the wire: pods reach each other, and the host keeps
//! its interface, whatever becomes of weftd.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_api::State;
use weft_ffi::kernel::xdp::{XdpOptions, XdpPort};

use crate::lab::{Lab, Namespace, VTEP_MACS, Weftd, once_free, tap_pod, wait_for};
use crate::tunnel::{Setup, kernel_node, stream};

const AF_XDP: &str = "kind = \"af_xdp\"";

/// A weft node and a kernel's, each with a pod.
pub(crate) struct Nodes {
    /// The kind of uplink that is to be in force.
    kind: &'static str,
    web: Namespace,
    far: Namespace,
    // The daemon goes before its lab.
    weftd: Weftd,
    lab: Lab,
}

impl Nodes {
    fn new(dataplane: &str) -> Self {
        Self::with("af_xdp", dataplane)
    }

    pub(crate) fn with(kind: &'static str, dataplane: &str) -> Self {
        let lab = Lab::new();
        lab.configure(dataplane, &format!("kind = \"{kind}\""), "");
        Self { kind, ..Self::on(lab, 1450) }
    }

    fn on(lab: Lab, mtu: u32) -> Self {
        let (web, far) = (Namespace::new("web"), kernel_node(&lab, mtu));
        lab.write_cluster(&tap_pod("web", 2, &web));
        let weftd = lab.start();
        lab.peer_resolved();
        Self { kind: "af_xdp", web, far, weftd, lab }
    }

    fn assert_reached(&self) {
        for (from, to) in [
            (&self.web, "10.244.1.2"),
            (&self.web, "fd00:10:244:1::2"),
            (&self.far, "10.244.0.2"),
            (&self.far, "fd00:10:244::2"),
            (&self.lab.node, "10.244.1.2"),
            (&self.lab.peer, "10.244.0.2"),
        ] {
            assert!(from.pings(to), "{} does not reach {to}", from.name());
        }
    }

    /// Streams and datagrams both ways, in both families.
    fn assert_carries(&self) {
        for (from, to, address) in [
            (&self.web, &self.far, "10.244.1.2"),
            (&self.far, &self.web, "10.244.0.2"),
            (&self.web, &self.far, "fd00:10:244:1::2"),
            (&self.far, &self.web, "fd00:10:244::2"),
        ] {
            stream(from, to, address);
            datagrams(from, to, address);
        }
    }

    /// In force, and nothing to say against it.
    fn assert_well(&self) {
        let status = self.lab.status();
        assert_eq!(status.uplink.kind, self.kind, "{:?}", status.notes);
        assert_eq!((status.state, status.notes), (State::Ready, Vec::new()));
        assert_eq!(has_program(&self.lab.node), self.kind == "af_xdp");
    }

    /// Nothing of what the kernel made was refused.
    fn assert_nothing_refused(&self) {
        self.lab.counters_balance();
        for reason in
            ["outer_udp_checksum", "not_tunnel", "rx_missed", "rx_too_long", "gso_malformed", "tx_not_taken"]
        {
            assert_eq!(self.lab.drops(reason), 0, "{reason}");
        }
        assert_eq!(self.lab.peer.snmp("Udp", "InErrors"), 0, "the kernel takes the tunnel's packets");
    }
}

fn has_program(node: &Namespace) -> bool {
    node.ip("link show dev up0").contains("xdp")
}

/// Datagrams of several sizes, echoed.
fn datagrams(from: &Namespace, to: &Namespace, address: &str) {
    let listen = SocketAddr::new(address.parse().expect("an address"), 5202);
    let socket = to.enter(move || once_free(|| UdpSocket::bind(listen))).join().expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    const SIZES: [usize; 4] = [0, 1, 1300, 4000];
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        for _ in SIZES {
            let (len, whom) = socket.recv_from(&mut buffer).expect("a datagram");
            socket.send_to(&buffer[..len], whom).expect("it is sent");
        }
    });
    let any = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asker = from.enter(move || {
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        for size in SIZES {
            let sent: Vec<u8> = (0..size).map(|n| (n * 31 % 251) as u8).collect();
            socket.send_to(&sent, listen).expect("it is sent");
            let mut buffer = [0; 8192];
            let len = socket.recv(&mut buffer).expect("the echo");
            assert_eq!(buffer[..len], sent, "{size} bytes");
        }
    });
    asker.join().expect("the asker");
    echo.join().expect("the echo");
}

/// What the two nodes have to say to each other beside the tunnel, over the same wire.
fn host_traffic(lab: &Lab) {
    for (from, to) in [
        (&lab.node, "172.16.0.2"),
        (&lab.peer, "172.16.0.1"),
        (&lab.node, "fd00:172:16::2"),
        (&lab.peer, "fd00:172:16::1"),
    ] {
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    for (from, to, address) in [
        (&lab.peer, &lab.node, "172.16.0.1"),
        (&lab.node, &lab.peer, "172.16.0.2"),
        (&lab.peer, &lab.node, "fd00:172:16::1"),
        (&lab.node, &lab.peer, "fd00:172:16::2"),
    ] {
        stream(from, to, address);
        datagrams(from, to, address);
    }
}

#[test]
fn pods_reach_each_other_and_the_host_keeps_its_interface() {
    let nodes = Nodes::new("");
    nodes.assert_well();
    nodes.assert_reached();
    let heard = || nodes.lab.node.snmp("Udp", "InErrors") + nodes.lab.node.snmp("Udp", "NoPorts");
    let before = heard();
    nodes.assert_carries();
    assert_eq!(heard(), before, "the kernel of a saw the tunnel's packets");
    host_traffic(&nodes.lab);
    nodes.assert_nothing_refused();
    assert_eq!(nodes.lab.node.snmp("Icmp", "OutDestUnreachs"), 0);

    // Neighbours are forgotten and asked for again: ARP and ND are the kernel's.
    for node in [&nodes.lab.node, &nodes.lab.peer] {
        node.ip("neigh flush dev up0");
    }
    wait_for("the way to be known again", || nodes.far.reaches("10.244.0.2").then_some(()));
    host_traffic(&nodes.lab);
}

#[test]
fn over_ipv6() {
    let lab = Lab::new();
    lab.configure("", AF_XDP, "");
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1430));
    let ([near, own], b) = (VTEP_MACS, &lab.peer);
    b.ip("addr del fd00:10:244:1::/128 dev flannel.1");
    b.ip("route del fd00:10:244::/64");
    b.ip_batch(&[
        &format!(
            "link add flannel-v6.1 address {own} mtu 1430 type vxlan id 1 local fd00:172:16::2 dev up0 dstport 8472 nolearning"
        ),
        "addr add fd00:10:244:1::/128 dev flannel-v6.1 nodad",
        "link set flannel-v6.1 up",
        &format!("neigh add fd00:10:244:: lladdr {near} dev flannel-v6.1 nud permanent"),
        "route add fd00:10:244::/64 via fd00:10:244:: dev flannel-v6.1 onlink",
    ]);
    b.must(&format!("bridge fdb append {near} dev flannel-v6.1 dst fd00:172:16::1 self permanent"));
    let setup = Setup { over_v6: true, ..Setup::default() };
    lab.replace_cluster(&(setup.nodes() + &tap_pod("web", 2, &web)));
    let weftd = lab.start();
    lab.peer_resolved();
    let nodes = Nodes { kind: "af_xdp", web, far, weftd, lab };
    nodes.assert_well();
    nodes.assert_reached();
    nodes.assert_carries();
    host_traffic(&nodes.lab);
    nodes.assert_nothing_refused();
}

#[test]
fn a_crash_leaves_the_host_its_interface_and_the_next_weftd_takes_it_up() {
    let nodes = Nodes::new("");
    nodes.assert_reached();
    let host = nodes.lab.peer.stream("172.16.0.1");
    let Nodes { web, far, weftd, lab, .. } = nodes;
    weftd.crash();
    wait_for("the program to be detached", || (!has_program(&lab.node)).then_some(()));
    host_traffic(&lab);
    let weftd = lab.start();
    lab.peer_resolved();
    let nodes = Nodes { kind: "af_xdp", web, far, weftd, lab };
    nodes.assert_well();
    nodes.assert_reached();
    host.assert_unbroken();
    let Nodes { weftd, lab, .. } = nodes;
    weftd.stop();
    wait_for("the program to be detached", || (!has_program(&lab.node)).then_some(()));
}

#[test]
fn where_another_program_is_attached_the_default_takes_its_place_and_says_so() {
    let lab = Lab::new();
    lab.configure("", AF_XDP, "");
    let open =
        || XdpPort::open("up0".parse().expect("a name"), &XdpOptions { port: 9, ..XdpOptions::default() });
    let other = lab.node.enter(open).join().expect("it ends").expect("the interface takes a program");
    let nodes = Nodes::on(lab, 1450);
    let status = nodes.lab.status();
    assert_eq!(status.uplink.kind, "socket");
    let says = |note: &String| note.contains("af_xdp") && note.contains("another XDP program");
    assert!(status.notes.iter().any(says), "{:?}", status.notes);
    assert!(status.notes.iter().all(|note| note.contains("tried again")), "{:?}", status.notes);
    nodes.weftd.says("another XDP program");
    nodes.assert_reached();
    nodes.assert_carries();
    assert!(has_program(&nodes.lab.node), "the other program is still there");

    // Tried again when the interface has changed.
    drop(other);
    wait_for("the other program to be detached", || (!has_program(&nodes.lab.node)).then_some(()));
    assert_eq!(nodes.lab.status().uplink.kind, "socket");
    nodes.lab.node.ip("link set up0 mtu 1499");
    wait_for("XDP", || (nodes.lab.status().uplink.kind == "af_xdp").then_some(()));
    assert!(has_program(&nodes.lab.node));
    wait_for("traffic", || nodes.web.reaches("10.244.1.2").then_some(()));
    nodes.assert_reached();
}

#[test]
fn a_larger_mtu_is_followed_up_to_jumbo_frames() {
    follows_jumbo_frames(&Nodes::new(""));
}

pub(crate) fn follows_jumbo_frames(nodes: &Nodes) {
    nodes.assert_reached();
    for node in [&nodes.lab.node, &nodes.lab.peer] {
        node.ip("link set up0 mtu 9000");
    }
    for device in ["flannel.1", "cni0", "pod"] {
        nodes.lab.peer.ip(&format!("link set {device} mtu 8950"));
    }
    nodes.far.ip("link set eth0 mtu 8950");
    wait_for("the pod's MTU", || {
        let link = nodes.web.json("link show dev eth0").remove(0);
        (link["mtu"].as_u64() == Some(8950)).then_some(())
    });
    wait_for("traffic", || nodes.web.reaches("10.244.1.2").then_some(()));
    nodes.assert_well();
    for (from, to, size) in [
        (&nodes.web, "10.244.1.2", 8950 - 28),
        (&nodes.far, "10.244.0.2", 8950 - 28),
        (&nodes.web, "fd00:10:244:1::2", 8950 - 48),
        (&nodes.lab.peer, "172.16.0.1", 9000 - 28),
    ] {
        let ping = format!("ping -n -q -c 1 -W 20 -M do -s {size} {to}");
        assert!(from.exec(&ping).status.success(), "{} does not reach {to} with {size}", from.name());
    }
    nodes.assert_carries();
    host_traffic(&nodes.lab);
    nodes.assert_nothing_refused();
}

#[test]
fn the_interface_vanishes_and_comes_back() {
    let Nodes { web, far, mut weftd, lab, .. } = Nodes::new("");
    lab.node.ip("link set up0 down");
    wait_for("a word about the uplink", || (lab.status().state == State::Degraded).then_some(()));
    lab.node.ip("link set up0 up");
    lab.node.ip("addr add fd00:172:16::1/64 dev up0 nodad");
    wait_for("traffic over the uplink that is up again", || web.reaches("10.244.1.2").then_some(()));
    wait_for("no word about it any more", || (lab.status().state == State::Ready).then_some(()));

    lab.node.ip("link del up0");
    wait_for("a word about the uplink", || (lab.status().state == State::Degraded).then_some(()));
    weftd.assert_calm();
    lab.plug_in();
    let [near, own] = VTEP_MACS;
    lab.peer.ip_batch(&[
        &format!(
            "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
        ),
        "addr add 10.244.1.0/32 dev flannel.1",
        "link set flannel.1 up",
        &format!("neigh add 10.244.0.0 lladdr {near} dev flannel.1 nud permanent"),
        "route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink",
    ]);
    lab.peer.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    wait_for("traffic over the new uplink", || web.reaches("10.244.1.2").then_some(()));
    wait_for("all to be well", || (lab.status().state == State::Ready).then_some(()));
    assert_eq!(lab.status().uplink.kind, "af_xdp");
    assert!(has_program(&lab.node));
    stream(&far, &web, "10.244.0.2");
    lab.counters_balance();
}

#[test]
fn two_workers_on_one_queue_and_on_three() {
    // One worker has the queue; the other sends beside it.
    let one = Nodes::new("workers = 2");
    one.assert_well();
    one.assert_reached();
    one.assert_carries();
    one.assert_nothing_refused();
    drop(one);

    let lab = Lab::new();
    lab.configure("workers = 2", AF_XDP, "");
    lab.node.ip("link del up0");
    lab.node.ip(&format!(
        "link add up0 numrxqueues 3 numtxqueues 3 type veth peer name up0 numrxqueues 3 numtxqueues 3 netns {}",
        lab.peer.name()
    ));
    for (namespace, host) in [(&lab.node, 1), (&lab.peer, 2)] {
        namespace.ip_batch(&[
            &format!("addr add 172.16.0.{host}/24 dev up0"),
            &format!("addr add fd00:172:16::{host}/64 dev up0 nodad"),
            "link set up0 up",
        ]);
    }
    let three = Nodes::on(lab, 1450);
    three.assert_well();
    three.weftd.says("queues: 3");
    three.assert_reached();
    three.assert_carries();
    host_traffic(&three.lab);
    three.assert_nothing_refused();
}

#[test]
fn another_port_for_the_tunnel_takes_the_program_along() {
    takes_another_port(&Nodes::new(""));
}

#[test]
fn a_port_that_somebody_has_leaves_the_uplink_as_it_is() {
    keeps_its_port(&Nodes::new(""));
}

/// The cluster with another port for the tunnel.
fn on_port(nodes: &Nodes, port: u16) {
    let cluster = crate::lab::nodes(&[0, 1]).replace("[network]\n", &format!("[network]\nport = {port}\n"));
    nodes.lab.replace_cluster(&(cluster + &tap_pod("web", 2, &nodes.web)));
}

pub(crate) fn keeps_its_port(nodes: &Nodes) {
    nodes.assert_reached();
    let bind = || once_free(|| UdpSocket::bind("0.0.0.0:4789"));
    let other = nodes.lab.node.enter(bind).join().expect("a socket");
    on_port(nodes, 4789);
    let status = wait_for("a word about the port", || {
        Some(nodes.lab.status()).filter(|status| status.state == State::Degraded)
    });
    assert!(status.problems.iter().any(|problem| problem.contains("4789")), "{:?}", status.problems);
    assert_eq!((status.uplink.kind.as_str(), status.notes), (nodes.kind, Vec::new()));
    assert_eq!(has_program(&nodes.lab.node), nodes.kind == "af_xdp");
    // The other node has kept its port as well.
    assert_eq!(status.network.port, 8472);
    nodes.assert_reached();
    nodes.assert_carries();
    host_traffic(&nodes.lab);

    // Taken as soon as it is free, without anybody asking for it.
    drop(other);
    wait_for("the port", || (nodes.lab.status().state == State::Ready).then_some(()));
    assert_eq!(nodes.lab.status().network.port, 4789);
    nodes.assert_well();
    nodes.lab.write_cluster(&tap_pod("web", 2, &nodes.web));
    wait_for("traffic on the old port", || nodes.web.reaches("10.244.1.2").then_some(()));
    nodes.assert_well();
    nodes.assert_reached();
}

pub(crate) fn takes_another_port(nodes: &Nodes) {
    nodes.assert_reached();
    on_port(nodes, 4789);
    wait_for("the new port", || (nodes.lab.status().network.port == 4789).then_some(()));
    nodes.assert_well();
    host_traffic(&nodes.lab);
    nodes.lab.write_cluster(&tap_pod("web", 2, &nodes.web));
    wait_for("traffic on the old port", || nodes.web.reaches("10.244.1.2").then_some(()));
    nodes.assert_well();
    nodes.assert_reached();
}
