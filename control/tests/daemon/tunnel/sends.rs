//! What weft puts on the wire: every byte of it, and the kernel's VTEP takes it as it is.

use std::collections::BTreeSet;

use super::pair::{BOTH_FAMILIES, GATEWAY, as_chosen, assert_bytes};
use super::{Inside, Pair, Setup, To};
use crate::lab::Lab;
use crate::lab::frames::{
    Checksum, ETHERTYPE_ARP, Ip, TCP, Tunnel, UDP, arp, echo, ethernet, icmp, mac, tcp, udp,
};

/// web sends a packet to far. Returns the outer headers that it had.
fn carried(pair: &mut Pair, ip: &Ip, protocol: u8, payload: &[u8], checksum: Checksum) -> Tunnel {
    pair.travels(To::Kernel, ip, protocol, payload, checksum)
}

fn datagram(ip: &Ip, ports: (u16, u16)) -> Vec<u8> {
    udp(ip, ports, Checksum::Valid, b"from web to far")
}

/// One packet of each family.
fn both_families(pair: &mut Pair, checksum: Checksum, with: impl Fn(Ip) -> Ip) {
    for inside in BOTH_FAMILIES {
        let ip = with(pair.packet(To::Kernel, inside));
        carried(pair, &ip, UDP, &datagram(&ip, (1000, 2000)), checksum);
    }
    for counter in ["InErrors", "InCsumErrors"] {
        assert_eq!(pair.lab.peer.snmp("Udp", counter), 0, "{counter}");
    }
}

#[test]
fn an_ipv4_packet_is_carried_in_exactly_these_bytes() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    let tunnel = carried(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Absent);
    assert_ne!(tunnel.ip.ident, 0);
}

#[test]
fn an_ipv6_packet_is_carried_over_ipv4() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V6);
    let tunnel = carried(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Absent);
    assert_ne!(tunnel.ip.ident, 0);
}

#[test]
fn the_switch_counts_a_packet_that_it_carries_once() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    let deltas = {
        let Pair { lab, web, .. } = &mut pair;
        lab.deltas(1, || web.send(&ip.frame(GATEWAY, web.mac, UDP, &datagram(&ip, (1, 2)))))
    };
    deltas.assert_only(&[("tx", 1)]).assert_ports(&[("web.rx", 1), ("up0.tx", 1)]);
}

#[test]
fn the_identification_changes_from_packet_to_packet() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    let idents: BTreeSet<u16> = (0..20)
        .map(|_| carried(&mut pair, &ip, UDP, &datagram(&ip, (1, 2)), Checksum::Absent).ip.ident)
        .collect();
    assert!(idents.len() == 20 && !idents.contains(&0), "{idents:?}");
}

/// The tunnel's source ports of flows that differ in one of the pods' ports.
fn source_ports(pair: &mut Pair, flows: u16) -> BTreeSet<u16> {
    let ip = pair.packet(To::Kernel, Inside::V4);
    let port = |flow| carried(pair, &ip, UDP, &datagram(&ip, (1000 + flow, 53)), Checksum::Absent).ports.0;
    (0..flows).map(port).collect()
}

#[test]
fn source_ports_come_from_the_kernels_range_and_spread_over_it() {
    let mut pair = Pair::new();
    let ports = source_ports(&mut pair, 64);
    assert!(ports.iter().all(|port| (32768..60999).contains(port)), "{ports:?}");
    assert!(ports.len() > 32, "{ports:?}");
}

#[test]
fn source_ports_come_from_the_range_that_the_node_is_set_to() {
    let lab = Lab::quiet();
    let mut set = lab.node.command("sysctl");
    assert!(set.args(["-qw", "net.ipv4.ip_local_port_range=50000 50009"]).status().unwrap().success());
    let mut pair = Pair::on(lab, Setup::default());
    let ports = source_ports(&mut pair, 64);
    assert!(ports.iter().all(|port| (50000..=50009).contains(port)), "{ports:?}");
    assert!(ports.len() > 5, "{ports:?}");
}

#[test]
fn packets_of_a_flow_have_the_same_source_port() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        let ip = pair.packet(To::Kernel, inside);
        let (echo_protocol, first) = echo(&ip, 7, 1, b"");
        let (_, second) = echo(&ip, 7, 2, b"longer");
        let flows = [
            (
                UDP,
                udp(&ip, (1000, 2000), Checksum::Valid, b""),
                udp(&ip, (1000, 2000), Checksum::Absent, b"b"),
            ),
            (TCP, tcp(&ip, (1000, 2000), (1, 2), b""), tcp(&ip, (1000, 2000), (77, 0x10), b"more")),
            (echo_protocol, first, second),
        ];
        let other = Ip { tos: 0x28, ttl: 9, ..ip.clone() };
        for (protocol, first, second) in flows {
            let ports = [(&ip, first), (&other, second)]
                .map(|(ip, segment)| carried(&mut pair, ip, protocol, &segment, Checksum::Absent).ports.0);
            assert_eq!(ports[0], ports[1], "{inside:?}, protocol {protocol}");
        }
    }
}

#[test]
fn another_vni_is_in_its_three_bytes() {
    let mut pair = Pair::with(Setup { vni: 0x12_3456, ..Setup::default() });
    assert_eq!(pair.tunnel(To::Kernel).vxlan, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    both_families(&mut pair, Checksum::Absent, |ip| ip);
}

#[test]
fn the_largest_vni() {
    let mut pair = Pair::with(Setup { vni: 0xff_ffff, ..Setup::default() });
    both_families(&mut pair, Checksum::Absent, |ip| ip);
}

#[test]
fn another_port_than_flannels() {
    let mut pair = Pair::with(Setup { port: 4789, ..Setup::default() });
    both_families(&mut pair, Checksum::Absent, |ip| ip);
}

#[test]
fn dscp_stays_inside() {
    let mut pair = Pair::new();
    for dscp in [0x04, 0x28, 0xb8, 0xfc] {
        both_families(&mut pair, Checksum::Absent, |ip| Ip { tos: dscp, ..ip });
    }
}

#[test]
fn a_flow_label_stays_inside() {
    let mut pair = Pair::new();
    let ip = Ip { flow: 0xabcde, ..pair.packet(To::Kernel, Inside::V6) };
    carried(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Absent);
}

#[test]
fn dont_fragment_stays_inside() {
    let mut pair = Pair::new();
    let ip = Ip { fragment: 0x4000, ident: 99, ..pair.packet(To::Kernel, Inside::V4) };
    carried(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Absent);
}

#[test]
fn a_ttl_of_255_or_3_counts_down_inside_only() {
    let mut pair = Pair::new();
    both_families(&mut pair, Checksum::Absent, |ip| Ip { ttl: 255, ..ip });
    both_families(&mut pair, Checksum::Absent, |ip| Ip { ttl: 3, ..ip });
}

#[test]
fn the_outer_checksum_is_right_where_it_is_asked_for() {
    let mut pair = Pair::with(Setup { uplink: "outer_checksum = \"valid\"", ..Setup::default() });
    both_families(&mut pair, Checksum::Valid, |ip| ip);
    // An odd number of bytes.
    let ip = pair.packet(To::Kernel, Inside::V4);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"odd");
    carried(&mut pair, &ip, UDP, &segment, Checksum::Valid);
}

#[test]
fn small_packets_are_not_padded_and_padding_is_not_carried() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"");
    carried(&mut pair, &ip, UDP, &segment, Checksum::Absent);
    // As an Ethernet card of a guest sends it: 60 bytes at least.
    let mut padded = ip.frame(GATEWAY, pair.web.mac, UDP, &segment);
    padded.resize(60, 0xee);
    pair.web.send(&padded);
    let frame = pair.captured(To::Kernel).finished();
    let one_hop = Ip { ttl: 63, ..ip };
    let inner = pair.inner(To::Kernel, &one_hop, UDP, &segment);
    let tunnel = as_chosen(&pair.tunnel(To::Kernel), &frame);
    assert_bytes("on the wire", &frame, &tunnel.with(&inner));
    assert_eq!(frame.len(), 14 + 20 + 8 + 8 + 14 + 20 + 8);
}

#[test]
fn header_options_and_extension_headers_are_carried() {
    let mut pair = Pair::new();
    // Three no-operations and an end: what a router need not look at.
    let ip = Ip { options: vec![1, 1, 1, 0], ..pair.packet(To::Kernel, Inside::V4) };
    carried(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Absent);
    let ip = pair.packet(To::Kernel, Inside::V6);
    // Destination options: UDP follows, 8 bytes, one option of 4 bytes padding.
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram(&ip, (1000, 2000))].concat();
    carried(&mut pair, &ip, 60, &options, Checksum::Absent);
}

#[test]
fn pieces_of_a_pods_packets_are_carried_as_they_are_and_by_the_same_port() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, &[7; 24]);
    let pieces = [(0x2000, &segment[..16]), (0x0002, &segment[16..])];
    let ports = pieces.map(|(fragment, piece)| {
        let ip = Ip { fragment, ident: 4242, ..ip.clone() };
        carried(&mut pair, &ip, UDP, piece, Checksum::Absent).ports.0
    });
    assert_eq!(ports[0], ports[1]);

    let ip = pair.packet(To::Kernel, Inside::V6);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, &[7; 24]);
    let pieces = [(1, &segment[..16]), (16, &segment[16..])];
    let ports = pieces.map(|(offset, piece)| {
        let piece = [&[UDP, 0, 0, offset, 0, 0, 0x10, 0x92][..], piece].concat();
        carried(&mut pair, &ip, 44, &piece, Checksum::Absent).ports.0
    });
    assert_eq!(ports[0], ports[1]);
}

#[test]
fn any_protocol_is_carried() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Kernel, Inside::V4);
    for (protocol, payload) in [(253, &b"experiment"[..]), (47, &[0; 8]), (50, &[1; 16])] {
        carried(&mut pair, &ip, protocol, payload, Checksum::Absent);
    }
    let error = icmp(&ip, (3, 3), [0; 4], &[0x45; 28]);
    carried(&mut pair, &ip, 1, &error, Checksum::Absent);
    carried(&mut pair, &ip, 4, b"", Checksum::Absent);
}

#[test]
fn nothing_but_unicast_ip_is_ever_put_into_the_tunnel() {
    let mut pair = Pair::new();
    let web = pair.web.mac;
    let (everybody, group) = ([0xff; 6], mac("01:00:5e:00:00:05"));
    let to = |dst: &str| Ip::new("10.244.0.2", dst);
    let payload = datagram(&to("10.244.1.2"), (68, 67));
    let frames = [
        to("10.244.1.2").frame(everybody, web, UDP, &payload),
        to("255.255.255.255").frame(everybody, web, UDP, &payload),
        to("255.255.255.255").frame(GATEWAY, web, UDP, &payload),
        to("224.0.0.5").frame(group, web, UDP, &payload),
        to("224.0.0.5").frame(GATEWAY, web, UDP, &payload),
        Ip::new("fd00:10:244::2", "ff02::1").frame(mac("33:33:00:00:00:01"), web, UDP, &payload),
        Ip::new("fd00:10:244::2", "ff0e::1").frame(GATEWAY, web, UDP, &payload),
        ethernet(everybody, web, ETHERTYPE_ARP, &arp(1, (web, "10.244.0.2"), ([0; 6], "10.244.1.2"))),
        ethernet(GATEWAY, web, 0x88cc, &[0; 50]),
        ethernet(GATEWAY, web, ETHERTYPE_ARP, &arp(1, (web, "10.244.0.2"), ([0; 6], "10.244.1.2"))),
    ];
    for frame in &frames {
        pair.web.send(frame);
    }
    let ip = pair.packet(To::Kernel, Inside::V4);
    let marker = datagram(&ip, (1, 1));
    pair.pod_sends(To::Kernel, &ip, UDP, &marker);
    let in_tunnel = |frame: &[u8]| frame.get(36..38) == Some(&8472u16.to_be_bytes());
    pair.b.none_before(|frame| frame.bytes.ends_with(&marker), |frame| in_tunnel(&frame.bytes));
}

#[test]
fn an_address_that_no_node_has_is_not_asked_for_on_the_underlay() {
    let mut pair = Pair::new();
    let ip = Ip::new("10.244.0.2", "10.244.77.2");
    pair.pod_sends(To::Kernel, &ip, UDP, &datagram(&ip, (1, 2)));
    let ip = pair.packet(To::Kernel, Inside::V4);
    let marker = datagram(&ip, (1, 1));
    pair.pod_sends(To::Kernel, &ip, UDP, &marker);
    pair.b.none_before(
        |frame| frame.bytes.ends_with(&marker),
        |frame| frame.bytes.ends_with(b"from web to far"),
    );
    assert_eq!(pair.lab.drops("route_unreachable"), 1);
}

#[test]
fn a_ttl_of_1_ends_at_weft() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        let ip = Ip { ttl: 1, ..pair.packet(To::Kernel, inside) };
        pair.pod_sends(To::Kernel, &ip, UDP, &udp(&ip, (1000, 2000), Checksum::Valid, b"last"));
    }
    let ip = pair.packet(To::Kernel, Inside::V4);
    let marker = datagram(&ip, (1, 1));
    pair.pod_sends(To::Kernel, &ip, UDP, &marker);
    pair.b.none_before(|frame| frame.bytes.ends_with(&marker), |frame| frame.bytes.ends_with(b"last"));
    assert_eq!(pair.lab.drops("ttl_exceeded"), 2);
}

#[test]
fn a_ttl_of_2_ends_at_the_kernel_which_says_so() {
    let mut pair = Pair::new();
    let ip = Ip { ttl: 2, ..pair.packet(To::Kernel, Inside::V4) };
    pair.pod_sends(To::Kernel, &ip, UDP, &datagram(&ip, (1000, 2000)));
    pair.web.receive("time exceeded", |frame| {
        let bytes = &frame.bytes;
        // ICMP, time exceeded, about our packet, which had one hop left then.
        let about = bytes.get(23) == Some(&1) && bytes.get(34) == Some(&11) && bytes.get(42 + 8) == Some(&1);
        about.then_some(())
    });
}

#[test]
fn the_host_speaks_to_far_pods_from_its_zero_address_without_a_hop() {
    let mut pair = Pair::new();
    pair.lab.node.exec("ping -n -q -c 1 -W 0.01 10.244.1.2");
    let frame = pair.captured(To::Kernel).finished();
    assert_eq!(frame[50..64], pair.inner(To::Kernel, &Ip::new("10.244.0.0", "10.244.1.2"), 1, b"")[..14]);
    assert_eq!((&frame[76..80], frame[72]), (&[10, 244, 0, 0][..], 64), "{frame:02x?}");
    pair.lab.node.exec("ping -n -q -c 1 -W 0.01 fd00:10:244:1::2");
    let frame = pair.captured(To::Kernel).finished();
    let zero = Ip::new("fd00:10:244::", "fd00:10:244:1::2").with(58, b"");
    assert_eq!((&frame[72..104], frame[71]), (&zero[8..], 64), "{frame:02x?}");
}
