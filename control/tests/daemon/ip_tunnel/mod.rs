//! flannel's backends `udp` and `ipip`, with a small independent node at the other end (`peer.py`; needs Python 3).

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};

use weft_api::RouteKind;

use crate::lab::{Lab, Namespace, PATIENCE, Weftd, once_free, wait_for};
use crate::tunnel::{kernel_node, stream};

const PEER: &str = include_str!("peer.py");
const PORT: u16 = 8285;
const HERE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Udp,
    Ipip,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ipip => "ipip",
        }
    }

    fn mtu(self) -> usize {
        match self {
            Self::Udp => 1472,
            Self::Ipip => 1480,
        }
    }

    /// Hops that the tunnel itself counts at each end.
    fn hops(self) -> u8 {
        u8::from(self == Self::Udp)
    }
}

/// The cluster, with the pod web on a.
fn cluster(form: Form, web: &Namespace) -> String {
    let mut text = format!("[network]\nipv4 = \"10.244.0.0/16\"\nencapsulation = \"{}\"\n", form.word());
    for (node, name) in ["a", "b"].iter().enumerate() {
        let host = node + 1;
        text += &format!(
            "[[node]]\nname = \"{name}\"\nsubnets = [\"10.244.{node}.0/24\"]\npublic_ip = \"172.16.0.{host}\"\n"
        );
    }
    let netns = web.path().display().to_string();
    text + &format!(
        "[[pod]]\nname = \"web\"\nnode = \"a\"\nkind = \"tap\"\nnetns = \"{netns}\"\naddresses = [\"10.244.0.2\"]\n"
    )
}

/// The program at b, which ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A weft node with the pod web, and an independent one with the pod far.
struct Nodes {
    web: Namespace,
    far: Namespace,
    form: Form,
    _peer: Peer,
    // The daemon goes before its lab.
    _weftd: Weftd,
    lab: Lab,
}

impl Nodes {
    fn new(form: Form) -> Self {
        Self::with(form, form)
    }

    /// weft begins with another form than the peer has.
    fn with(weft: Form, form: Form) -> Self {
        let lab = Lab::new();
        let (web, far) = (Namespace::new("web"), kernel_node(&lab, form.mtu() as u32));
        let b = &lab.peer;
        b.ip("link del flannel.1");
        let path = lab.path("peer.log");
        let mut command = b.command("setpriv");
        command.args(["--pdeathsig", "KILL", "python3", "-c", PEER, form.word()]).arg(&path);
        let peer = Peer(command.stdout(Stdio::null()).spawn().expect("iproute2 is installed"));
        wait_for("the peer's device (python3 is needed)", || b.has_interface("flannel0").then_some(()));
        b.ip_batch(&[
            &format!("link set flannel0 mtu {} up", form.mtu()),
            "addr add 10.244.1.0/32 dev flannel0",
            "route add 10.244.0.0/16 dev flannel0",
        ]);
        lab.replace_cluster(&cluster(weft, &web));
        let weftd = lab.start();
        lab.peer_resolved();
        Self { web, far, form, _peer: peer, _weftd: weftd, lab }
    }

    /// What the peer has sent (`out`) or received (`in`): the sender's port, and the bytes on the wire.
    fn log(&self, direction: &str) -> Vec<(u16, Vec<u8>)> {
        let text = std::fs::read_to_string(self.lab.path("peer.log")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (way, port, hex) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map_while(byte).collect();
            (way == direction).then_some((port, bytes))
        };
        text.lines().filter_map(line).collect()
    }

    /// Waits for a packet with this at its end.
    fn logged(&self, direction: &str, payload: &[u8]) -> (u16, Vec<u8>) {
        wait_for("the packet", || self.log(direction).into_iter().find(|(_, bytes)| bytes.ends_with(payload)))
    }
}

/// The TTL of the answer to an echo request.
fn answer_ttl(from: &Namespace, to: &str) -> u8 {
    let text = from.must(&format!("ping -n -c 1 -W 5 {to}"));
    let ttl = text.split("ttl=").nth(1).and_then(|rest| rest.split(' ').next());
    ttl.and_then(|ttl| ttl.parse().ok()).unwrap_or_else(|| panic!("{to}: {text}"))
}

/// Sends a datagram with this TTL, from port 6000 to 7000.
fn send(from: &Namespace, to: [u8; 4], ttl: u8, payload: &'static [u8]) {
    let sent = from.enter(move || {
        let socket = once_free(|| UdpSocket::bind("0.0.0.0:6000"));
        socket.set_ttl(ttl.into()).expect("a TTL");
        socket.send_to(payload, (Ipv4Addr::from(to), 7000)).expect("it is sent");
    });
    sent.join().expect("the sender");
}

fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [last] => u32::from(*last) << 8,
        _ => 0,
    });
    let all = words.by_ref().sum::<u32>();
    let folded = (all & 0xffff) + (all >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// Checks a pod's packet as it is in the tunnel, each byte but for the identification and the flag.
fn assert_packet(packet: &[u8], ttl: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) {
    let (header, datagram) = packet.split_at(20);
    assert_eq!((header[0], header[1], header[8], header[9]), (0x45, 0, ttl, 17), "{packet:02x?}");
    assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), packet.len());
    assert_eq!((sum(header), &header[12..16], &header[16..]), (0xffff, &from[..], &to[..]), "{packet:02x?}");
    let len = (8 + payload.len()) as u16;
    let ports = [6000u16.to_be_bytes(), 7000u16.to_be_bytes(), len.to_be_bytes()].concat();
    assert_eq!((&datagram[..6], &datagram[8..]), (&ports[..], payload));
    let pseudo = [&from[..], &to, &[0, 17], &len.to_be_bytes(), datagram].concat();
    assert_eq!(sum(&pseudo), 0xffff, "the pod's checksum is filled in");
}

fn reaches(form: Form) {
    let nodes = Nodes::new(form);
    let Nodes { web, far, lab, .. } = &nodes;
    for (from, to) in [
        (web, "10.244.1.2"),
        (web, "10.244.1.0"),
        (far, "10.244.0.2"),
        (far, "10.244.0.0"),
        (&lab.node, "10.244.1.2"),
        (&lab.peer, "10.244.0.2"),
    ] {
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    // From pod to pod a hop at each node, and those of the tunnel at each end; the hosts' own packets are not forwarded there.
    let tunnel = 2 * form.hops();
    assert_eq!(answer_ttl(web, "10.244.1.2"), 62 - tunnel);
    assert_eq!(answer_ttl(far, "10.244.0.2"), 62 - tunnel);
    assert_eq!(answer_ttl(&lab.node, "10.244.1.2"), 63 - tunnel);
    assert_eq!(answer_ttl(&lab.peer, "10.244.0.2"), 63 - tunnel);
    for (from, to, address) in [
        (web, far, "10.244.1.2"),
        (far, web, "10.244.0.2"),
        (&lab.node, far, "10.244.1.2"),
        (far, &lab.node, "10.244.0.0"),
    ] {
        stream(from, to, address);
    }
    // Pods have what the underlay leaves, and more is told.
    let status = lab.status();
    assert_eq!((status.network.pod_mtu as usize, status.uplink.kind.as_str()), (form.mtu(), form.word()));
    let largest = form.mtu() - 28;
    let ping = |size: usize| web.exec(&format!("ping -n -c 1 -W 5 -M do -s {size} 10.244.1.2"));
    assert!(ping(largest).status.success());
    assert!(!ping(largest + 1).status.success());
    lab.counters_balance();

    let routes = lab.ask(async |weftd| weftd.routes().await).expect("the routes").routes;
    let to_b = routes.iter().find(|route| route.to.to_string() == "10.244.1.0/24").expect("a route to b");
    assert_eq!((to_b.kind, to_b.node.as_deref()), (RouteKind::Vtep, Some("b")));
    assert_eq!(to_b.via, ["172.16.0.2".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn udp_carries_pods_and_hosts_both_ways() {
    reaches(Form::Udp);
}

#[test]
fn ipip_carries_pods_and_hosts_both_ways() {
    reaches(Form::Ipip);
}

const WEB: [u8; 4] = [10, 244, 0, 2];
const FAR: [u8; 4] = [10, 244, 1, 2];

#[test]
fn udp_puts_the_packet_alone_between_the_two_ports() {
    let nodes = Nodes::new(Form::Udp);
    send(&nodes.web, FAR, 9, b"from the pod");
    let (port, packet) = nodes.logged("in", b"from the pod");
    assert_eq!(port, PORT, "the source port is the tunnel's");
    // weft's router, and the hop before the datagram is sent.
    assert_packet(&packet, 7, WEB, FAR, b"from the pod");
    send(&nodes.lab.node, FAR, 9, b"from the host");
    let (_, packet) = nodes.logged("in", b"from the host");
    assert_packet(&packet, 8, [10, 244, 0, 0], FAR, b"from the host");
}

#[test]
fn ipip_puts_a_header_before_the_packet() {
    let nodes = Nodes::new(Form::Ipip);
    send(&nodes.web, FAR, 9, b"from the pod");
    let (_, packet) = nodes.logged("in", b"from the pod");
    let (outer, inner) = packet.split_at(20);
    assert_packet(inner, 8, WEB, FAR, b"from the pod");
    assert_eq!((outer[0], outer[1], outer[8], outer[9]), (0x45, 0, 8, 4), "{outer:02x?}");
    assert_eq!(usize::from(u16::from_be_bytes([outer[2], outer[3]])), packet.len());
    assert_eq!(outer[6] & 0x40, inner[6] & 0x40, "don't fragment");
    assert_eq!((outer[6] & !0x40, outer[7]), (0, 0));
    assert_eq!(
        (sum(outer), &outer[12..16], &outer[16..]),
        (0xffff, &[172, 16, 0, 1][..], &[172, 16, 0, 2][..])
    );
}

/// What far sends is what web gets, with the hops that there are.
fn takes(form: Form) {
    let nodes = Nodes::new(form);
    let received = nodes.web.enter(|| {
        let socket = once_free(|| UdpSocket::bind("10.244.0.2:7000"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
        (buffer[..len].to_vec(), from.to_string())
    });
    // The receiver may not be there yet.
    wait_for("the receiver's socket", || nodes.web.must("ss -uln").contains(":7000").then_some(()));
    send(&nodes.far, WEB, 9, b"from far");
    assert_eq!(received.join().expect("the receiver"), (b"from far".to_vec(), "10.244.1.2:6000".to_owned()));
    let (_, packet) = nodes.logged("out", b"from far");
    assert_packet(&packet[packet.len() - 36..], 8 - form.hops(), FAR, WEB, b"from far");
}

#[test]
fn udp_takes_what_the_other_node_sends() {
    takes(Form::Udp);
}

#[test]
fn ipip_takes_what_the_other_node_sends() {
    takes(Form::Ipip);
}

/// Sends this to the tunnel's port from an address of b's.
fn datagram(nodes: &Nodes, from: [u8; 4], bytes: Vec<u8>) {
    let sender = nodes.lab.peer.enter(move || {
        let socket = UdpSocket::bind((Ipv4Addr::from(from), 0)).expect("a socket");
        socket.send_to(&bytes, (HERE, PORT)).expect("it is sent");
    });
    sender.join().expect("the sender");
}

/// A packet from far to web with this TTL.
fn packet(ttl: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, ttl, 253, 0, 0];
    packet.extend(FAR);
    packet.extend(WEB);
    packet.extend([7; 8]);
    let checksum = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn udp_refuses_strangers_short_packets_and_used_up_ones_in_silence() {
    let nodes = Nodes::new(Form::Udp);
    let lab = &nodes.lab;
    lab.peer.ip("addr add 172.16.0.9/24 dev up0");
    let b = [172, 16, 0, 2];
    for (from, bytes, reason) in [
        ([172, 16, 0, 9], packet(9), "vtep_unknown"),
        (b, packet(9)[..19].to_vec(), "rx_malformed"),
        (b, Vec::new(), "rx_malformed"),
        (b, packet(1), "tunnel_ttl"),
        (b, packet(0), "tunnel_ttl"),
        (b, packet(9)[..24].to_vec(), "ipv4_malformed"),
    ] {
        let before = lab.drops(reason);
        datagram(&nodes, from, bytes);
        wait_for(reason, || (lab.drops(reason) == before + 1).then_some(()));
    }
    // One hop short of the other node: the last but one is the router's, the last one the tunnel's own.
    let before = lab.drops("tunnel_ttl");
    send(&nodes.web, FAR, 2, b"two hops");
    wait_for("the drop", || (lab.drops("tunnel_ttl") == before + 1).then_some(()));
    assert_eq!(nodes.web.snmp("Icmp", "InTimeExcds"), 0);
    send(&nodes.web, FAR, 1, b"one hop");
    wait_for("the router's word", || (nodes.web.snmp("Icmp", "InTimeExcds") == 1).then_some(()));
    assert!(nodes.log("in").iter().all(|(_, bytes)| !bytes.ends_with(b"hop") && !bytes.ends_with(b"hops")));
    lab.counters_balance();
}

#[test]
fn udp_says_that_no_node_has_an_address() {
    let nodes = Nodes::new(Form::Udp);
    for from in [&nodes.web, &nodes.lab.node] {
        send(from, [10, 244, 9, 9], 9, b"anybody?");
        wait_for("the answer", || (from.snmp("Icmp", "InDestUnreachs") == 1).then_some(()));
    }
    assert!(!nodes.web.reaches("10.244.9.9"));
    assert_eq!(nodes.web.snmp("Icmp", "InDestUnreachs"), 1, "about ICMP nothing is said");
    nodes.lab.counters_balance();
}

/// A change of form opens the sockets anew.
#[test]
fn the_form_can_change() {
    let nodes = Nodes::with(Form::Ipip, Form::Udp);
    assert_eq!(nodes.form, Form::Udp);
    assert!(!nodes.web.reaches("10.244.1.2"));
    nodes.lab.replace_cluster(&cluster(Form::Udp, &nodes.web));
    wait_for("b to be reached", || nodes.web.reaches("10.244.1.2").then_some(()));
    assert!(nodes.far.pings("10.244.0.2"));
    nodes.lab.counters_balance();
}

/// Makes what looks like the kernel's device of IPv4 in IPv4, which not every kernel has: a TUN device of that type (ARPHRD_TUNNEL).
const DEVICE: &str = r#"
import fcntl, os, struct
TUNSETIFF, TUNSETLINK, TUNSETPERSIST = 0x400454CA, 0x400454CD, 0x400454CB
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"flannel.ipip", 0x1001))
fcntl.ioctl(tun, TUNSETLINK, 768)
fcntl.ioctl(tun, TUNSETPERSIST, 1)
"#;

/// As a flanneld that is started by mistake makes it.
#[test]
fn a_device_of_the_kernels_that_comes_up_later_is_told() {
    let nodes = Nodes::new(Form::Ipip);
    let (lab, a) = (&nodes.lab, &nodes.lab.node);
    assert_eq!(lab.status().problems, [""; 0]);
    let made = a.command("python3").args(["-c", DEVICE]).status().expect("iproute2 is installed");
    assert!(made.success());
    a.ip("link set flannel.ipip up");
    wait_for("the problem", || {
        let problems = lab.status().problems;
        problems.iter().any(|problem| problem.contains("ip link delete flannel.ipip")).then_some(())
    });
    assert!(nodes.web.pings("10.244.1.2"), "what is there stays");
    a.ip("link delete flannel.ipip");
    wait_for("its end", || lab.status().problems.is_empty().then_some(()));
}
