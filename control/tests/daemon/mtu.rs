//! How large packets are: the pods follow the underlay, or the setting; two nodes fill a jumbo underlay; and of a frame that
//! stands for several, the packets that it stands for count.

use std::fs;

use weft_api::Client;

use crate::lab::frames::{ETHERNET_LEN, Ip, TCP, ethernet, mac, sum, tcp};
use crate::lab::routed::{BOTH, GATEWAY_MAC, Net, Packet, Routed, Side, V4};
use crate::lab::segment::{Pod, Segment, pattern};
use crate::lab::{Deltas, Lab, Namespace, Weftd, Wire, nodes, tap_pod, wait_for};
use crate::router::too_big::narrow;
use crate::tunnel::{kernel_node, stream};

fn mtu_of(namespace: &Namespace, interface: &str) -> u64 {
    namespace.json(&format!("link show dev {interface}")).remove(0)["mtu"].as_u64().expect("an MTU")
}

/// Whether an echo request of so many bytes, as an IP packet, is answered in one piece.
fn fits(from: &Namespace, to: &str, bytes: u64) -> bool {
    let size = bytes - if to.contains(':') { 48 } else { 28 };
    from.exec(&format!("ping -n -q -c 1 -W 20 -M do -s {size} {to}")).status.success()
}

#[test]
fn the_pods_follow_the_underlay() {
    let lab = Lab::quiet();
    let (web, far) = (Namespace::quiet("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let mut weftd = lab.start();
    lab.peer_resolved();
    for underlay in [1500, 9000, 4000, 1500] {
        let pod = underlay - 50;
        // The kernel's node by hand, from the outside in or from the inside out.
        let mut links = vec![(&lab.peer, "up0", underlay)];
        links.extend([(&lab.peer, "flannel.1", pod), (&lab.peer, "pod", pod), (&lab.peer, "cni0", pod)]);
        links.push((&far, "eth0", pod));
        if underlay < mtu_of(&lab.node, "up0") {
            links.reverse();
        }
        for (namespace, link, mtu) in links {
            namespace.ip(&format!("link set {link} mtu {mtu}"));
        }
        lab.node.ip(&format!("link set up0 mtu {underlay}"));
        wait_for(&format!("the pod to follow an underlay of {underlay}"), || {
            (mtu_of(&web, "eth0") == pod && mtu_of(&lab.node, "weft0") == pod).then_some(())
        });
        assert_eq!(u64::from(lab.status().network.pod_mtu), pod);
        for (from, to) in
            [(&web, "10.244.1.2"), (&far, "10.244.0.2"), (&web, "fd00:10:244:1::2"), (&far, "fd00:10:244::2")]
        {
            // The kernels remember what a smaller underlay could not carry; nothing may have told them so.
            wait_for(&format!("{to} to be reached with {pod} bytes"), || fits(from, to, pod).then_some(()));
        }
        stream(&web, &far, "10.244.1.2");
        stream(&far, &web, "10.244.0.2");
    }
    weftd.assert_alive();
    lab.counters_balance();
}

#[test]
fn the_setting_wins_over_the_underlay() {
    let lab = Lab::quiet();
    let web = Namespace::quiet("web");
    let text = (nodes(&[0, 1]) + &tap_pod("web", 2, &web)).replace("[network]\n", "[network]\nmtu = 1300\n");
    lab.replace_cluster(&text);
    let _weftd = lab.start();
    let told = || (mtu_of(&web, "eth0"), mtu_of(&lab.node, "weft0"), lab.status().network.pod_mtu);
    assert_eq!(told(), (1300, 1300, 1300));
    let before = lab.status().generation;
    lab.node.ip("link set up0 mtu 9000");
    wait_for("the larger underlay to be noticed", || (lab.status().generation > before).then_some(()));
    assert_eq!(told(), (1300, 1300, 1300));
    // Taken away, the underlay says it again.
    lab.write_cluster(&tap_pod("web", 2, &web));
    wait_for("the underlay's", || (told() == (8950, 8950, 8950)).then_some(()));
}

/// Where a node has an IPv6 underlay, its pods leave room for that.
#[test]
fn an_ipv6_underlay_leaves_less() {
    let lab = Lab::quiet();
    let web = Namespace::quiet("web");
    lab.node.ip("link set up0 mtu 9000");
    let text = (1..=2).fold(nodes(&[0, 1]), |text, host| {
        let v4 = format!("public_ip = \"172.16.0.{host}\"\n");
        text.replace(&v4, &format!("{v4}public_ipv6 = \"fd00:172:16::{host}\"\n"))
    });
    lab.replace_cluster(&(text + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    assert_eq!((mtu_of(&web, "eth0"), mtu_of(&lab.node, "weft0")), (8930, 8930));
}

/// Two nodes of weft's with a pod each.
struct Two {
    near: Namespace,
    far: Namespace,
    _weftds: [Weftd; 2],
    lab: Lab,
}

impl Two {
    fn new(underlay: u64, over_v6: bool) -> Self {
        let lab = Lab::quiet();
        let (near, far) = (Namespace::quiet("near"), Namespace::quiet("far"));
        for node in [&lab.node, &lab.peer] {
            node.ip(&format!("link set up0 mtu {underlay}"));
        }
        let of_b = tap_pod("far", 2, &far).replace("\"a\"", "\"b\"").replace("10.244.0.", "10.244.1.");
        let of_b = of_b.replace("fd00:10:244::", "fd00:10:244:1::");
        let mut text = nodes(&[0, 1]) + &tap_pod("near", 2, &near) + &of_b;
        if over_v6 {
            for host in 1..=2 {
                let v4 = format!("public_ip = \"172.16.0.{host}\"\n");
                text = text.replace(&v4, &format!("{v4}public_ipv6 = \"fd00:172:16::{host}\"\n"));
            }
        }
        lab.replace_cluster(&text);
        let config = fs::read_to_string(lab.path("weftd.toml")).expect("a's settings");
        let config = config.replace("\"a\"", "\"b\"").replace("weftd.sock", "b.sock");
        let config = config.replace("/state\"", "/b-state\"");
        fs::write(lab.path("b.toml"), config).expect("b's settings");
        let weftds = [lab.start(), Weftd::spawn_on(&lab, &lab.peer, &[], &lab.path("b.toml")).ready()];
        let two = Self { near, far, _weftds: weftds, lab };
        for socket in [two.lab.socket(), two.lab.path("b.sock")] {
            wait_for("the ways to the peers", || {
                let status = two.lab.wait_on(Client::new(socket.clone()).status()).expect("a status");
                status.peers.iter().all(|peer| peer.resolved).then_some(())
            });
        }
        two
    }

    fn fills(&self, pod: u64) {
        let Self { near, far, lab, .. } = self;
        assert_eq!((mtu_of(near, "eth0"), mtu_of(far, "eth0")), (pod, pod));
        for (from, to, there) in [
            (near, far, "10.244.1.2"),
            (far, near, "10.244.0.2"),
            (near, far, "fd00:10:244:1::2"),
            (far, near, "fd00:10:244::2"),
        ] {
            assert!(fits(from, there, pod), "{there} with {pod} bytes");
            stream(from, to, there);
        }
        lab.counters_balance();
        for reason in ["mtu_exceeded", "rx_too_long", "outer_fragment", "gso_malformed", "rx_bad_offload"] {
            assert_eq!(lab.drops(reason), 0, "{reason}");
        }
    }
}

#[test]
fn two_nodes_of_wefts_fill_an_ordinary_underlay() {
    Two::new(1500, false).fills(1450);
}

#[test]
fn two_nodes_of_wefts_fill_a_jumbo_underlay() {
    Two::new(9000, false).fills(8950);
}

#[test]
fn two_nodes_of_wefts_fill_a_jumbo_underlay_over_ipv6() {
    Two::new(9000, true).fills(8930);
}

/// A frame of web's that stands for several packets of `length` bytes, and the virtio-net header that says so. TCP's
/// header has no options.
fn gso(ip: &Ip, to: [u8; 6], from: [u8; 6], length: usize, body: &[u8]) -> (Vec<u8>, [u8; 10]) {
    let mut segment = tcp(ip, (11, 12), (1000, 0x10), body);
    let pseudo = ip.pseudo(TCP, segment.len());
    segment[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let packet = ip.with(TCP, &segment);
    let headers = packet.len() - body.len();
    let (kind, l4) = if ip.src.is_ipv4() { (1, ETHERNET_LEN + headers - 20) } else { (4, 54) };
    let frame = ethernet(to, from, ip.ethertype(), &packet);
    let mut header = [1, kind, 0, 0, 0, 0, l4 as u8, 0, 16, 0];
    header[2..4].copy_from_slice(&((ETHERNET_LEN + headers) as u16).to_le_bytes());
    header[4..6].copy_from_slice(&((length - headers) as u16).to_le_bytes());
    (frame, header)
}

/// web sends such a frame through the gateway; what that changes, and the packet.
fn sends(router: &mut Routed, ip: &Ip, length: usize, body: &[u8]) -> (Deltas, Vec<u8>) {
    let (frame, header) = gso(ip, mac(GATEWAY_MAC), router.web.mac, length, body);
    let Routed { web, lab, .. } = router;
    let deltas = lab.deltas(1, || web.send_unfinished(&frame, header));
    (deltas, frame[ETHERNET_LEN..].to_vec())
}

/// With "don't fragment", and with options where IPv4 has them.
fn whole(net: Net, to: Side, options: usize) -> Ip {
    Ip { fragment: 0x4000, options: vec![1; net.pick(options, 0)], ..Ip::new(net.web, to.address(net)) }
}

#[test]
fn of_a_frame_that_stands_for_several_the_packets_count() {
    // The tunnel carries 1400 bytes, the other pod's port 1450.
    let mut router = Routed::with("", "", narrow(1450));
    let body = pattern(20_000);
    for net in BOTH {
        for (to, mtu, options) in [(Side::Far, 1400, 0), (Side::Db, 1450, 0), (Side::Far, 1400, 8)] {
            let ip = whole(net, to, options);
            let (deltas, _) = sends(&mut router, &ip, mtu, &body);
            assert_eq!((deltas.dropped(), deltas.port("web.tx")), (0, 0), "{mtu} bytes fit: {deltas:?}");
            let (deltas, packet) = sends(&mut router, &ip, mtu + 1, &body);
            deltas.assert_only(&[("mtu_exceeded", 1), ("originated", 1), ("tx", 1)]);
            let error = router.receive(Side::Web, "ICMP error", |packet| Some(packet.to_vec()));
            crate::lab::routed::assert_error(&error, net.gateway, &packet, net.too_big(mtu as u16));
        }
    }
}

#[test]
fn packets_of_a_frame_that_may_be_cut_are_fragments_each() {
    let mut router = Routed::new();
    router.pods[0].ip("link set eth0 mtu 1500");
    let body = pattern(5000);
    let ip = Ip { ident: 700, ..Ip::new(V4.web, V4.db) };
    let (deltas, _) = sends(&mut router, &ip, 1500, &body);
    // 1460 bytes each: three packets of two fragments, and one that fits.
    deltas.assert_only(&[("originated", 6), ("tx", 7)]);
    let (mut got, mut segment): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for index in 0..7 {
        let packet = router.receive(Side::Db, "fragment", |packet| Some(packet.to_vec()));
        let ip_header = Packet::read(&packet);
        assert!(packet.len() <= 1450);
        assert_eq!(u16::from_be_bytes([packet[4], packet[5]]), 700 + index / 2, "the identification");
        assert_eq!(usize::from(ip_header.fragment & 0x1fff) * 8, segment.len(), "the offset");
        segment.extend(&packet[ip_header.payload..]);
        if ip_header.fragment & 0x2000 == 0 {
            let pseudo = ip.pseudo(TCP, segment.len()).to_be_bytes();
            assert_eq!(sum(&[&pseudo, &segment]), 0xffff, "the TCP checksum");
            got.extend(&segment[20..]);
            segment.clear();
        }
    }
    assert!(got == body, "not what was sent");
}

#[test]
fn bridged_frames_whose_packets_are_too_big_are_dropped() {
    let (segment, [mut left, right]) = Segment::of([Pod::Plain("left"), Pod::Plain("right")]);
    let body = pattern(20_000);
    for (from, to) in [("10.244.0.2", "10.244.0.3"), ("fd00:10:244::2", "fd00:10:244::3")] {
        let ip = Ip { fragment: 0x4000, ..Ip::new(from, to) };
        let (frame, header) = gso(&ip, right.mac, left.mac, 1450, &body);
        let deltas = segment.lab.deltas(1, || left.send_unfinished(&frame, header));
        assert_eq!(deltas.dropped(), 0, "{deltas:?}");
        let (frame, header) = gso(&ip, right.mac, left.mac, 1451, &body);
        let deltas = segment.lab.deltas(1, || left.send_unfinished(&frame, header));
        deltas.assert_dropped("left", "mtu_exceeded", 1);
    }
}

/// Fills the underlay to the last byte, and not a byte more.
#[test]
fn the_largest_packet_of_a_jumbo_underlay_is_one_on_the_wire() {
    let two = Two::new(9000, false);
    let mut wire = Wire::open(&two.lab.peer, "up0");
    assert!(fits(&two.near, "10.244.1.2", 8950));
    wire.receive("packet of the underlay's MTU", |frame| {
        assert!(frame.gso.is_some() || frame.bytes.len() <= 9014, "{} bytes", frame.bytes.len());
        (frame.bytes.len() == 9014).then_some(())
    });
}
