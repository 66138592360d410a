//! Whole kernels at both ends: what people do over a tunnel.

use std::net::Ipv4Addr;

use super::{kernel_node, stream};
use crate::lab::{Lab, Namespace, VTEP_MACS, nodes, tap_pod, wait_for};

/// Pings and streams both ways, over IPv4 and IPv6, between a pod and one behind a kernel's VTEP, and from and to their nodes.
pub(crate) fn all_reach_each_other(lab: &Lab, web: &Namespace, far: &Namespace) {
    for (from, to) in [
        (web, "10.244.1.2"),
        (web, "fd00:10:244:1::2"),
        (web, "10.244.1.0"),
        (far, "10.244.0.2"),
        (far, "fd00:10:244::2"),
        (far, "10.244.0.0"),
        (&lab.node, "10.244.1.2"),
        (&lab.peer, "10.244.0.2"),
    ] {
        assert!(from.pings(to), "{} does not reach {to}", from.name());
    }
    for (from, to, address) in [
        (web, far, "10.244.1.2"),
        (far, web, "10.244.0.2"),
        (web, far, "fd00:10:244:1::2"),
        (far, web, "fd00:10:244::2"),
        (&lab.node, far, "10.244.1.2"),
        (far, &lab.node, "10.244.0.0"),
    ] {
        stream(from, to, address);
    }
    lab.counters_balance();
}

#[test]
fn pods_behind_a_kernel_vtep_are_reached_both_ways() {
    let lab = Lab::new();
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    all_reach_each_other(&lab, &web, &far);
    assert_eq!(lab.peer.snmp("Udp", "InErrors"), 0, "the kernel takes the tunnel's packets");

    // The kernel of a saw all of b's packets too, and kept quiet about them.
    let seen = lab.node.snmp("Udp", "InErrors") + lab.node.snmp("Udp", "NoPorts");
    assert!(seen > 0, "the kernel saw nothing: this shows nothing");
    assert_eq!(lab.node.snmp("Icmp", "OutDestUnreachs"), 0);
    assert_eq!(lab.peer.snmp("Icmp", "InDestUnreachs"), 0);
}

#[test]
fn who_is_not_in_the_cluster_file_is_not_listened_to() {
    let lab = Lab::new();
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.replace_cluster(&(nodes(&[0]) + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    assert!(!far.reaches("10.244.0.2"));
    wait_for("b not to be known", || (lab.drops("vtep_unknown") > 0).then_some(()));
    assert_eq!(web.snmp("Icmp", "InMsgs"), 0);
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

/// As a flanneld leaves it that has lost its device, or whose node was set up anew: nothing of the old entries may survive.
#[test]
fn a_kernel_node_that_comes_back_with_another_mac_address() {
    const NEW: &str = "02:00:5e:00:07:02";
    let lab = Lab::new();
    lab.configure("", "kind = \"socket\"", "");
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    lab.peer_resolved();
    all_reach_each_other(&lab, &web, &far);

    let (b, near) = (&lab.peer, VTEP_MACS[0]);
    b.ip_batch(&[
        "link del flannel.1",
        &format!(
            "link add flannel.1 address {NEW} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
        ),
        "addr add 10.244.1.0/32 dev flannel.1",
        "addr add fd00:10:244:1::/128 dev flannel.1",
        "link set flannel.1 up",
        &format!("neigh add 10.244.0.0 lladdr {near} dev flannel.1 nud permanent"),
        &format!("neigh add fd00:10:244:: lladdr {near} dev flannel.1 nud permanent"),
        "route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink",
        "route add fd00:10:244::/64 via fd00:10:244:: dev flannel.1 onlink",
    ]);
    b.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    assert!(!web.reaches("10.244.1.2"), "the kernel takes nothing that is for the old address");
    lab.replace_cluster(&(nodes(&[0, 1]).replace(VTEP_MACS[1], NEW) + &tap_pod("web", 2, &web)));
    wait_for("the new address to be used", || web.reaches("10.244.1.2").then_some(()));
    all_reach_each_other(&lab, &web, &far);
}
