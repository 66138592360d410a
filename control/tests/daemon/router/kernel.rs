//! The router with real kernels around it: what they make of its errors and fragments.

use std::hash::{DefaultHasher, Hasher};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::too_big::narrow;
use crate::lab::routed::{BOTH, V4, V6};
use crate::lab::{Lab, Namespace, PATIENCE, Weftd, once_free, tap_pod, wait_for};
use crate::tunnel::{kernel_node, stream};

/// Two pods of a, a pod of b that is a kernel's, and all that kernels do by themselves.
struct Nodes {
    web: Namespace,
    db: Namespace,
    far: Namespace,
    _weftd: Weftd,
    lab: Lab,
}

impl Nodes {
    fn new(prepare: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::new();
        let (web, db, far) = (Namespace::new("web"), Namespace::new("db"), kernel_node(&lab, 1450));
        prepare(&lab);
        lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
        let weftd = lab.start();
        lab.peer_resolved();
        Self { web, db, far, _weftd: weftd, lab }
    }
}

/// What `ping` says with these words, whatever becomes of it.
fn ping(from: &Namespace, words: &str) -> String {
    let output = from.exec(&format!("ping -n -c 1 -W 20 {words}"));
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    out + &err
}

/// Who answers to `ttl` hops, and whether it is the end.
fn hop(from: &Namespace, to: &str, ttl: u8) -> (String, bool) {
    let said = ping(from, &format!("-t {ttl} {to}"));
    let line = |word: &str| said.lines().find(|line| line.contains(word)).map(str::to_owned);
    if let Some(line) = line(" bytes from ") {
        let who = line.split(" from ").nth(1).expect("who").split(": ").next().expect("who");
        return (who.to_owned(), true);
    }
    let told = line("Time to live exceeded").or_else(|| line("Time exceeded"));
    let told = told.unwrap_or_else(|| panic!("nobody answers to {ttl} hops to {to}: {said}"));
    let who = told.strip_prefix("From ").and_then(|rest| rest.split(' ').next()).expect("who");
    (who.trim_end_matches(':').to_owned(), false)
}

/// Hop by hop to the end, as traceroute does it.
fn trace(from: &Namespace, to: &str) -> Vec<String> {
    let mut way = Vec::new();
    for ttl in 1..8 {
        let (who, end) = hop(from, to, ttl);
        way.push(who);
        if end {
            return way;
        }
    }
    panic!("no end: {way:?}");
}

#[test]
fn traceroute_to_a_far_pod_shows_both_gateways() {
    let nodes = Nodes::new(|_| ());
    assert_eq!(trace(&nodes.web, V4.far), [V4.gateway, "10.244.1.0", V4.far]);
    // Over IPv6 the kernel of b prefers another of its addresses.
    assert_eq!(trace(&nodes.web, V6.far), [V6.gateway, "fd00:10:244:1::1", V6.far]);
}

#[test]
fn traceroute_from_a_far_pod_shows_both_gateways() {
    let nodes = Nodes::new(|_| ());
    assert_eq!(trace(&nodes.far, V4.web), ["10.244.1.1", V4.gateway, V4.web]);
    assert_eq!(trace(&nodes.far, V6.web), ["fd00:10:244:1::1", V6.gateway, V6.web]);
}

#[test]
fn traceroute_to_what_is_near() {
    let nodes = Nodes::new(|_| ());
    for net in BOTH {
        assert_eq!(trace(&nodes.web, net.gateway), [net.gateway]);
        assert_eq!(trace(&nodes.web, net.db), [net.db]);
        assert_eq!(trace(&nodes.lab.node, net.web), [net.web]);
    }
}

#[test]
fn ping_names_the_reason_and_the_router() {
    let nodes = Nodes::new(|_| ());
    for (from, gateway, address) in [
        (&nodes.web, V4.gateway, V4.no_node),
        (&nodes.far, V4.gateway, V4.nobody),
        (&nodes.web, V6.gateway, V6.no_node),
        (&nodes.far, V6.gateway, V6.nobody),
    ] {
        let said = ping(from, address);
        assert!(said.contains(&format!("From {gateway}")), "{said}");
        assert!(
            said.contains("Destination Host Unreachable") || said.contains("Address unreachable"),
            "{said}"
        );
    }
}

#[test]
fn a_connection_to_nobody_fails_at_once() {
    let nodes = Nodes::new(|_| ());
    for net in BOTH {
        let to = SocketAddr::new(net.no_node.parse().expect("an address"), 80);
        let connect = nodes.web.enter(move || TcpStream::connect_timeout(&to, PATIENCE));
        let error = connect.join().expect("a thread").expect_err("nobody is there");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "{error}");
    }
}

/// What the kernel has learned of the way to `address`.
fn learned_mtu(pod: &Namespace, address: &str) -> Option<u64> {
    let route = pod.json(&format!("route get {address}")).remove(0);
    route["metrics"][0]["mtu"].as_u64().or_else(|| route["mtu"].as_u64())
}

#[test]
fn ping_that_must_not_be_cut_learns_the_paths_mtu() {
    let nodes = Nodes::new(narrow(1450));
    for net in BOTH {
        let headers = net.pick(28, 48);
        assert_eq!(learned_mtu(&nodes.web, net.far), None);
        let said = ping(&nodes.web, &format!("-M do -s {} {}", 1401 - headers, net.far));
        assert!(said.contains("mtu = 1400") || said.contains("mtu=1400"), "{said}");
        assert_eq!(learned_mtu(&nodes.web, net.far), Some(1400));
        let said = ping(&nodes.web, &format!("-M do -s {} {}", 1400 - headers, net.far));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    assert_eq!(nodes.lab.drops("mtu_exceeded"), 2);
}

#[test]
fn ping_that_may_be_cut_is_answered() {
    let nodes = Nodes::new(narrow(1450));
    // The router cuts what says nothing of DF.
    let said = ping(&nodes.web, &format!("-M dont -s 1422 {}", V4.far));
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert_eq!(nodes.lab.drops("mtu_exceeded"), 0);
    assert!(nodes.far.snmp("Ip", "ReasmOKs") > 0, "nothing was cut");
    // Whoever wants to know is told, cuts for itself from then on, and is answered.
    for net in BOTH {
        let words = format!("-M want -s 1400 {}", net.far);
        ping(&nodes.web, &words);
        assert_eq!(learned_mtu(&nodes.web, net.far), Some(1400));
        let said = ping(&nodes.web, &words);
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}

/// Sends a datagram. The kernel believes errors about what is still a socket's: this one.
fn sent(from: &Namespace, to: SocketAddr, payload: &[u8]) -> UdpSocket {
    let payload = payload.to_vec();
    let send = move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.send_to(&payload, to).expect("it is sent");
        socket
    };
    from.enter(send).join().expect("the sender")
}

/// Sends a datagram that is too long for the way: the sender is told the path's MTU, and nothing arrives.
fn is_refused(from: &Namespace, socket: &UdpSocket, size: usize, mtu: u64) {
    let to = socket.local_addr().expect("its address");
    let _open = sent(from, to, &vec![0; size]);
    wait_for("the path's MTU to be learned", || learned_mtu(from, &to.ip().to_string()));
    assert_eq!(learned_mtu(from, &to.ip().to_string()), Some(mtu));
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    assert!(socket.recv(&mut [0; 1]).is_err(), "it was to be refused");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
}

/// Sends a datagram from one to the other, who gets it whole or not at all.
fn datagram(from: &Namespace, socket: &UdpSocket, size: usize) -> bool {
    let to = socket.local_addr().expect("its address");
    let payload: Vec<u8> = (0..size).map(|byte| (byte * 7 + byte / 256) as u8).collect();
    let _open = sent(from, to, &payload);
    let mut buffer = vec![0; 1 << 16];
    let Ok(length) = socket.recv(&mut buffer) else { return false };
    let hash = |bytes: &[u8]| {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        (bytes.len(), hasher.finish())
    };
    assert_eq!(hash(&buffer[..length]), hash(&payload), "{size} bytes to {to}");
    true
}

fn receiver(at: &Namespace, address: &str) -> UdpSocket {
    let listen = SocketAddr::new(address.parse().expect("an address"), 5300);
    let socket = at.enter(move || once_free(|| UdpSocket::bind(listen))).join().expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

#[test]
fn a_far_kernel_puts_fragments_together() {
    let nodes = Nodes::new(narrow(1450));
    // Then sockets don't set DF.
    nodes.web.must("sysctl -qw net.ipv4.ip_no_pmtu_disc=1");
    let socket = receiver(&nodes.far, V4.far);
    let before = nodes.lab.stats().total.originated;
    for size in [1372, 1373, 1422, 1423, 3000, 8000, 60_000] {
        assert!(datagram(&nodes.web, &socket, size), "{size} bytes do not arrive");
    }
    assert!(nodes.lab.stats().total.originated > before, "weft has cut nothing");
    assert_eq!(nodes.lab.drops("mtu_exceeded"), 0);
    assert_eq!(nodes.far.snmp("Ip", "ReasmFails"), 0);
    assert_eq!(nodes.far.snmp("Udp", "InErrors"), 0);
    nodes.lab.counters_balance();
}

#[test]
fn a_near_kernel_puts_fragments_together() {
    let nodes = Nodes::new(|_| ());
    nodes.web.must("sysctl -qw net.ipv4.ip_no_pmtu_disc=1");
    nodes.web.ip("link set eth0 mtu 1500");
    nodes.web.ip(&format!("route add {} via {}", V4.db, V4.gateway));
    let socket = receiver(&nodes.db, V4.db);
    let before = nodes.lab.stats().total.originated;
    for size in [1422, 1423, 1424, 1472, 5000, 60_000] {
        assert!(datagram(&nodes.web, &socket, size), "{size} bytes do not arrive");
    }
    assert!(nodes.lab.stats().total.originated > before, "weft has cut nothing");
    assert_eq!(nodes.db.snmp("Ip", "ReasmFails"), 0);
    assert_eq!(nodes.db.snmp("Udp", "InErrors"), 0);
    nodes.lab.counters_balance();
}

#[test]
fn fragments_of_a_far_kernel_arrive() {
    let nodes = Nodes::new(|_| ());
    for net in BOTH {
        let socket = receiver(&nodes.web, net.web);
        for size in [3000, 60_000] {
            assert!(datagram(&nodes.far, &socket, size), "{size} bytes do not arrive");
        }
    }
    assert_eq!(nodes.web.snmp("Ip", "ReasmFails"), 0);
}

#[test]
fn udp_learns_the_paths_mtu() {
    let nodes = Nodes::new(narrow(1450));
    for net in BOTH {
        let socket = receiver(&nodes.far, net.far);
        // The first that is too long is lost, and the sender learns.
        is_refused(&nodes.web, &socket, 1450 - net.pick(28, 48), 1400);
        for size in [1402, 5000] {
            assert!(datagram(&nodes.web, &socket, size), "{size} bytes do not arrive");
        }
    }
    assert_eq!(nodes.lab.drops("mtu_exceeded"), 2);
}

/// The interface is the pod's own to set.
#[test]
fn a_pod_with_a_far_larger_mtu_is_told_too() {
    let nodes = Nodes::new(|_| ());
    nodes.web.ip("link set eth0 mtu 9000");
    for net in BOTH {
        nodes.web.ip(&format!("route add {} via {}", net.db, net.gateway));
        for (pod, address) in [(&nodes.far, net.far), (&nodes.db, net.db)] {
            let socket = receiver(pod, address);
            is_refused(&nodes.web, &socket, 5000 - net.pick(28, 48), 1450);
            assert!(datagram(&nodes.web, &socket, 5000), "nothing arrives");
        }
    }
    assert_eq!((nodes.lab.drops("mtu_exceeded"), nodes.lab.drops("rx_too_long")), (4, 0));
    nodes.lab.counters_balance();
}

#[test]
fn tcp_learns_the_paths_mtu() {
    let nodes = Nodes::new(narrow(1450));
    for net in BOTH {
        stream(&nodes.web, &nodes.far, net.far);
        assert_eq!(learned_mtu(&nodes.web, net.far), Some(1400));
    }
    assert!(nodes.lab.drops("mtu_exceeded") > 0);
    nodes.lab.counters_balance();
}

#[test]
fn tcp_to_a_pod_with_a_narrower_port_learns_that() {
    let nodes = Nodes::new(|_| ());
    nodes.web.ip("link set eth0 mtu 1500");
    nodes.db.ip("link set eth0 mtu 1500");
    for net in BOTH {
        // Both say that they take 1500; the ports between them do not.
        nodes.web.ip(&format!("route add {} via {}", net.db, net.gateway));
        nodes.db.ip(&format!("route add {} via {}", net.web, net.gateway));
        stream(&nodes.web, &nodes.db, net.db);
        assert_eq!(learned_mtu(&nodes.web, net.db), Some(1450));
    }
}

#[test]
fn frames_that_stand_for_several_are_judged_by_their_packets() {
    // b's whole way takes 1500 bytes, and its interface what the tunnel makes of that. a's underlay does not, but a frame that
    // stands for several passes the wire at any length.
    let nodes = Nodes::new(|lab| {
        for device in ["up0 mtu 1600", "flannel.1 mtu 1500", "cni0 mtu 1500", "pod mtu 1500"] {
            lab.peer.ip(&format!("link set {device}"));
        }
    });
    nodes.far.ip("link set eth0 mtu 1500");
    nodes.web.ip("link set eth0 mtu 1500");
    for net in BOTH {
        stream(&nodes.far, &nodes.web, net.web);
        assert_eq!(learned_mtu(&nodes.far, net.web), Some(1450));
    }
    assert!(nodes.lab.drops("mtu_exceeded") > 0);
    nodes.lab.counters_balance();
}
