//! Two networks at once: each has a VNI of its own, and MAC addresses of its own at both ends.

use super::pair::{GATEWAY, as_chosen, assert_bytes};
use super::{Inside, Pair, Setup, To};
use crate::lab::frames::{Checksum, Ip, Mac, Tunnel, UDP, mac, udp, vxlan};
use crate::lab::{Lab, Namespace, Wire, tap_pod};

const VNI: u32 = 0x00b1_0e00;
const MACS: [&str; 2] = ["02:00:5e:00:b1:01", "02:00:5e:00:b1:02"];

/// The ordinary pair, and the network blue with a pod behind weft and the kernel's own address at the other end.
struct Two {
    pair: Pair,
    blue: Wire,
    _pod: Namespace,
}

fn two() -> Two {
    let (lab, pod) = (Lab::quiet(), Namespace::mute("blue"));
    let [near, own] = MACS;
    let b = &lab.peer;
    b.ip_batch(&[
        &format!(
            "link add blue address {own} mtu 1430 type vxlan id {VNI} local 172.16.0.2 dev up0 dstport 8472 nolearning"
        ),
        "addr add 10.99.1.0/32 dev blue",
        "link set blue up",
        &format!("neigh add 10.99.0.0 lladdr {near} dev blue nud permanent"),
        "route add 10.99.0.0/24 via 10.99.0.0 dev blue onlink src 10.99.1.0",
    ]);
    b.must(&format!("bridge fdb append {near} dev blue dst 172.16.0.1 self permanent"));
    let mut pair = Pair::on(lab, Setup::default());
    let text = Setup::default().nodes().replace("[network]", "[[network]]");
    let text = [0, 1].iter().fold(text, |text, node| {
        let subnets = format!("\"fd00:10:244:{node}::/64\"]\n");
        let further = format!("\"fd00:10:244:{node}::/64\", \"10.99.{node}.0/24\"]\n");
        text.replace(&subnets, &format!("{further}vtep_macs = {{ blue = \"{}\" }}\n", MACS[*node]))
    });
    let blue = format!("[[network]]\nname = \"blue\"\nipv4 = \"10.99.0.0/16\"\nvni = {VNI}\n");
    let pods = tap_pod("web", 2, &pair.pods[0])
        + &tap_pod("blue", 2, &pod).replace("\"10.244.0.2\", \"fd00:10:244::2\"", "\"10.99.0.2\"");
    pair.lab.replace_cluster(&(text + &blue + &pods));
    crate::lab::wait_for("the pod of the second network", || {
        pair.lab.pods().pods.iter().any(|pod| pod.name == "blue").then_some(())
    });
    pair.lab.peer_resolved();
    let blue = Wire::open(&pod, "eth0");
    pair.b.drain();
    Two { pair, blue, _pod: pod }
}

/// The outer headers of the second network.
fn tunnel(pair: &Pair, to: To) -> Tunnel {
    Tunnel { vxlan: vxlan(VNI), ..pair.tunnel(to) }
}

fn macs() -> (Mac, Mac) {
    let [a, b] = MACS.map(mac);
    (a, b)
}

#[test]
fn each_network_has_its_own_vni_and_mac_addresses_on_the_wire() {
    let Two { mut pair, mut blue, .. } = two();
    let (a, b) = macs();
    for round in 0..3_u16 {
        for inside in [Inside::V4, Inside::V6] {
            for to in [To::Kernel, To::Weft] {
                let ip = pair.packet(to, inside);
                let segment = udp(&ip, (1000 + round, 2000), Checksum::Valid, b"of the first");
                let checksum = if to == To::Weft { Checksum::Valid } else { Checksum::Absent };
                pair.travels(to, &ip, UDP, &segment, checksum);
            }
        }
        let ip = Ip::new("10.99.0.2", "10.99.1.0");
        let segment = udp(&ip, (1000 + round, 2000), Checksum::Valid, b"of the second");
        blue.send(&ip.frame(GATEWAY, blue.mac, UDP, &segment));
        let frame = pair.captured(To::Kernel).finished();
        let inner = Ip { ttl: 63, ..ip }.frame(b, a, UDP, &segment);
        let expected = as_chosen(&tunnel(&pair, To::Kernel), &frame).with(&inner);
        assert_bytes("on the wire", &frame, &expected);
        // The kernel has nobody at that port: its answer comes by the same network.
        let answer = pair.captured(To::Weft).finished();
        assert_eq!(answer[42..50], vxlan(VNI), "{answer:02x?}");
        assert_eq!((&answer[50..56], &answer[56..62]), (&a[..], &b[..]), "{answer:02x?}");
        blue.receive("port unreachable", |frame| (frame.bytes.get(34..36) == Some(&[3, 3])).then_some(()));
    }
    assert_eq!(pair.lab.stats().total.drops, 0);
}

#[test]
fn the_second_networks_packets_are_taken() {
    let Two { mut pair, mut blue, .. } = two();
    let (a, b) = macs();
    let ip = Ip::new("10.99.1.7", "10.99.0.2");
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"of the second");
    pair.b.send(&tunnel(&pair, To::Weft).with(&ip.frame(a, b, UDP, &segment)));
    let expected = Ip { ttl: 63, ..ip }.frame(blue.mac, GATEWAY, UDP, &segment);
    blue.receive_bytes("packet of the second network", &expected);
}

#[test]
fn one_networks_mac_address_is_not_the_others() {
    let Two { mut pair, .. } = two();
    let ip = Ip::new("10.99.1.7", "10.99.0.2");
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"mixed up");
    let (a, b) = macs();
    let first = pair.tunnel(To::Weft).with(&ip.frame(a, b, UDP, &segment));
    let second = tunnel(&pair, To::Weft).with(&pair.inner(To::Weft, &ip, UDP, &segment));
    for frame in [first, second] {
        let Pair { lab, b, .. } = &mut pair;
        lab.deltas(1, || b.send(&frame)).assert_dropped("up0", "inner_mac_wrong", 1);
    }
}

#[test]
fn a_third_vni_is_no_network() {
    let Two { mut pair, .. } = two();
    let (a, b) = macs();
    let ip = Ip::new("10.99.1.7", "10.99.0.2");
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"of no network");
    let other = Tunnel { vxlan: vxlan(3), ..pair.tunnel(To::Weft) };
    let frame = other.with(&ip.frame(a, b, UDP, &segment));
    let Pair { lab, b, .. } = &mut pair;
    lab.deltas(1, || b.send(&frame)).assert_dropped("up0", "vni_unknown", 1);
}
