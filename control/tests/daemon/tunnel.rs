//! The tunnel, with the kernel's own VTEP as flannel sets it up at the other end.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use weft_ffi::kernel::packet::{Filter, RxOptions, RxRing};

use crate::lab::{Lab, Namespace, VTEP_MACS, nodes, tap_pod, wait_for};

/// b as flannel and the bridge plugin leave a node, with a pod.
fn kernel_node(lab: &Lab) -> Namespace {
    let (b, pod) = (&lab.peer, Namespace::new("far"));
    b.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let [near, own] = VTEP_MACS;
    b.ip(&format!(
        "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
    ));
    b.ip("addr add 10.244.1.0/32 dev flannel.1");
    b.ip("addr add fd00:10:244:1::/128 dev flannel.1");
    b.ip("link set flannel.1 up");
    for (via, subnet) in [("10.244.0.0", "10.244.0.0/24"), ("fd00:10:244::", "fd00:10:244::/64")] {
        b.ip(&format!("neigh add {via} lladdr {near} dev flannel.1 nud permanent"));
        b.ip(&format!("route add {subnet} via {via} dev flannel.1 onlink"));
    }
    b.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    b.ip("link add cni0 mtu 1450 type bridge forward_delay 0");
    b.ip("addr add 10.244.1.1/24 dev cni0");
    b.ip("addr add fd00:10:244:1::1/64 dev cni0 nodad");
    b.ip("link set cni0 up");
    b.ip(&format!("link add pod mtu 1450 type veth peer name eth0 mtu 1450 netns {}", pod.name()));
    b.ip("link set pod master cni0 up");
    pod.ip("addr add 10.244.1.2/24 dev eth0");
    pod.ip("addr add fd00:10:244:1::2/64 dev eth0 nodad");
    pod.ip("link set eth0 up");
    pod.ip("route add default via 10.244.1.1");
    pod.ip("route add default via fd00:10:244:1::1");
    pod
}

/// Sends some MiB by TCP from one namespace to an address of another, and compares what arrives.
fn stream(from: &Namespace, to: &Namespace, address: &str) {
    let listen = SocketAddr::new(address.parse().expect("an address"), 5201);
    let listener =
        to.enter(move || TcpListener::bind(listen).expect("a free port")).join().expect("a listener");
    let receiver = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a connection");
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let (mut hash, mut length, mut buffer) = (DefaultHasher::new(), 0, vec![0; 1 << 16]);
        loop {
            match connection.read(&mut buffer).expect("no gap of 20 s") {
                0 => return (length, hash.finish()),
                read => {
                    hash.write(&buffer[..read]);
                    length += read;
                }
            }
        }
    });
    let sender = from.enter(move || {
        let mut connection =
            TcpStream::connect_timeout(&listen, Duration::from_secs(20)).expect("a connection");
        let mut hash = DefaultHasher::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..128 {
            let words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let block: Vec<u8> = words.take(4096).flatten().collect();
            hash.write(&block);
            connection.write_all(&block).expect("the other end takes it");
        }
        connection.shutdown(Shutdown::Write).expect("an end");
        (128 * 4096 * 8, hash.finish())
    });
    // A panic of the receiver alone would leave the test waiting for a connection: the sender is asked first.
    let sent = sender.join().expect("the sender");
    assert_eq!(receiver.join().expect("the receiver"), sent, "{} to {address}", from.name());
}

#[test]
fn pods_behind_a_kernel_vtep_are_reached_both_ways() {
    let lab = Lab::new();
    let (web, far) = (Namespace::new("web"), kernel_node(&lab));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    for (from, to) in [
        (&web, "10.244.1.2"),
        (&web, "fd00:10:244:1::2"),
        (&web, "10.244.1.0"),
        (&far, "10.244.0.2"),
        (&far, "fd00:10:244::2"),
        (&far, "10.244.0.0"),
        (&lab.node, "10.244.1.2"),
        (&lab.peer, "10.244.0.2"),
    ] {
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    for (from, to, address) in [
        (&web, &far, "10.244.1.2"),
        (&far, &web, "10.244.0.2"),
        (&web, &far, "fd00:10:244:1::2"),
        (&far, &web, "fd00:10:244::2"),
        (&lab.node, &far, "10.244.1.2"),
        (&far, &lab.node, "10.244.0.0"),
    ] {
        stream(from, to, address);
    }
    lab.counters_balance();
    assert_eq!(lab.peer.snmp("Udp", "InErrors"), 0, "the kernel takes the tunnel's packets");

    // The kernel of a saw all of b's packets too, and kept quiet about them.
    let seen = lab.node.snmp("Udp", "InErrors") + lab.node.snmp("Udp", "NoPorts");
    assert!(seen > 0, "the kernel saw nothing: this shows nothing");
    assert_eq!(lab.node.snmp("Icmp", "OutDestUnreachs"), 0);
    assert_eq!(lab.peer.snmp("Icmp", "InDestUnreachs"), 0);
}

/// The sum of 16-bit words, folded (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Waits for a frame of the tunnel on the wire's other end, and returns it with its virtio-net header.
fn capture(ring: &mut RxRing) -> (Vec<u8>, Vec<u8>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(frame) = ring.next_frame() {
            return (frame.vnet_hdr().to_vec(), frame.bytes().to_vec());
        }
        assert!(Instant::now() < deadline, "no frame of the tunnel");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_outer_checksum_is_right_where_it_is_asked_for() {
    let lab = Lab::new();
    lab.configure("", "outer_checksum = \"valid\"", "");
    let (web, far) = (Namespace::new("web"), kernel_node(&lab));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    let open = || {
        let options = RxOptions { filter: Some(Filter::udp_to(8472)), ..RxOptions::default() };
        RxRing::open("up0".parse().expect("a name"), &options).expect("a packet socket")
    };
    let mut ring = lab.peer.enter(open).join().expect("a ring");
    assert!(web.pings("10.244.1.2"));
    let (header, frame) = capture(&mut ring);
    let (ip, udp) = (&frame[14..34], &frame[34..]);
    let length = (udp.len() as u16).to_be_bytes();
    let pseudo = sum(&[&ip[12..20], &[0, 17], &length]);
    let stored = u16::from_be_bytes([udp[6], udp[7]]);
    assert_ne!(stored, 0, "there is no checksum");
    // Over a veth the kernel leaves it to a device that never comes: then the pseudo header's sum stands there.
    if header[0] & 1 == 1 {
        assert_eq!((header[6], header[8], stored), (34, 6, pseudo), "checksum to be completed");
    } else {
        assert_eq!(sum(&[&pseudo.to_be_bytes(), udp]), 0xffff, "complete checksum");
    }
    stream(&web, &far, "10.244.1.2");
    stream(&far, &web, "10.244.0.2");
    for counter in ["InErrors", "InCsumErrors"] {
        assert_eq!(lab.peer.snmp("Udp", counter), 0, "{counter}");
    }
    lab.counters_balance();
}

#[test]
fn who_is_not_in_the_cluster_file_is_not_listened_to() {
    let lab = Lab::new();
    let (web, far) = (Namespace::new("web"), kernel_node(&lab));
    lab.replace_cluster(&(nodes(&[0]) + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    assert!(!far.reaches("10.244.0.2"));
    assert!(lab.drops("vtep_unknown") > 0);
    assert_eq!(lab.stats().ports.iter().find(|port| port.name == "web").map(|port| port.tx_packets), Some(0));
    assert_eq!(lab.peer.snmp("Icmp", "InDestUnreachs"), 0);

    lab.write_cluster(&tap_pod("web", 2, &web));
    wait_for("b to be listened to", || far.reaches("10.244.0.2").then_some(()));
    let dropped = lab.drops("vtep_unknown");
    assert!(far.pings("10.244.0.2") && web.pings("10.244.1.2"));
    assert_eq!(lab.drops("vtep_unknown"), dropped);

    // Another address than the one that the file gives, though of the same wire.
    lab.peer.ip("addr add 172.16.0.9/24 dev up0");
    lab.peer.ip("link set flannel.1 down");
    let forged = lab.peer.enter(|| {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::new(172, 16, 0, 9), 8472)).expect("a socket");
        let mut packet = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
        packet.resize(8 + 60, 0);
        socket.send_to(&packet, (Ipv4Addr::new(172, 16, 0, 1), 8472)).expect("it is sent");
    });
    forged.join().expect("the sender");
    wait_for("the drop", || (lab.drops("vtep_unknown") == dropped + 1).then_some(()));
    lab.counters_balance();
}
