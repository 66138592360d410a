//! What weft drops: each case under its own reason, counted once, and nothing else happens. The kernel's VTEP drops it too,
//! but for what it does not check.

use super::pair::{BOTH_WAYS, between_vteps};
use super::{Inside, Pair, To};
use crate::lab::VTEP_MACS;
use crate::lab::frames::{
    Checksum, ETHERTYPE_ARP, Ip, TCP, Tunnel, UDP, arp, ethernet, mac, neighbour, sum, tagged, tcp, udp,
    vxlan,
};

/// A pod's packet as it should be.
fn sound(pair: &Pair, to: To, inside: Inside) -> (Tunnel, Vec<u8>) {
    let ip = pair.packet(to, inside);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"refused");
    (pair.tunnel(to), pair.inner(to, &ip, UDP, &segment))
}

/// Drops for one reason, `frames` in number, and nothing else.
fn dropped(pair: &mut Pair, reason: &str, frames: &[Vec<u8>]) {
    let Pair { lab, b, .. } = pair;
    let count = frames.len() as u64;
    let deltas = lab.deltas(count, || frames.iter().for_each(|frame| b.send(frame)));
    deltas.assert_dropped("up0", reason, count);
}

/// weft drops the frames for this reason, and the kernel drops their like.
fn all_refused(reason: &str, frames: impl Fn(&Pair, To) -> Vec<Vec<u8>>) {
    let mut pair = Pair::new();
    let [to_weft, to_kernel] = BOTH_WAYS.map(|to| frames(&pair, to));
    dropped(&mut pair, reason, &to_weft);
    to_kernel.iter().for_each(|frame| pair.assert_not_taken(To::Kernel, frame));
}

fn refused(reason: &str, frame: impl Fn(&Pair, To) -> Vec<u8>) {
    all_refused(reason, |pair, to| vec![frame(pair, to)]);
}

/// The kernel would take it, or has no opinion.
fn refused_by_weft(reason: &str, frame: impl Fn(&Pair) -> Vec<u8>) {
    let mut pair = Pair::new();
    let frame = frame(&pair);
    dropped(&mut pair, reason, &[frame]);
}

/// A sound packet but for something in the outer headers.
fn outer(reason: &str, change: impl Fn(&mut Tunnel)) {
    refused(reason, |pair, to| {
        let (mut tunnel, inner) = sound(pair, to, Inside::V4);
        change(&mut tunnel);
        tunnel.with(&inner)
    });
}

/// The same with a change in the bytes of the outer IP header, whose checksum is made right afterwards.
fn outer_ip(reason: &str, change: impl Fn(&mut [u8])) {
    refused(reason, |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let mut frame = tunnel.with(&inner);
        change(&mut frame[14..34]);
        checksummed(&mut frame[14..34]);
        frame
    });
}

/// A sound packet but for something in the inner frame's bytes.
fn inner(reason: &str, inside: Inside, change: impl Fn(&mut Vec<u8>)) {
    refused(reason, |pair, to| {
        let (tunnel, mut inner) = sound(pair, to, inside);
        change(&mut inner);
        tunnel.with(&inner)
    });
}

/// With the inner frame's two MAC addresses, given the sound ones.
fn inner_macs(reason: &str, change: impl Fn(&Pair, &mut [u8], &mut [u8])) {
    refused(reason, |pair, to| {
        let (tunnel, mut inner) = sound(pair, to, Inside::V4);
        let (dst, rest) = inner.split_at_mut(6);
        change(pair, dst, &mut rest[..6]);
        tunnel.with(&inner)
    });
}

/// Fills an IPv4 header's checksum in.
fn checksummed(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !sum(&[header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A UDP packet of the tunnel with these bytes after the IP header.
fn outer_payload(reason: &str, payload: impl Fn(&Tunnel, &[u8]) -> Vec<u8>) {
    refused(reason, |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let payload = payload(&tunnel, &inner);
        tunnel.ip.frame(tunnel.dst, tunnel.src, UDP, &payload)
    });
}

fn segment(tunnel: &Tunnel, payload: &[u8]) -> Vec<u8> {
    udp(&tunnel.ip, tunnel.ports, tunnel.checksum, payload)
}

// ---- outer headers

#[test]
fn a_wrong_outer_checksum() {
    outer("outer_udp_checksum", |tunnel| tunnel.checksum = Checksum::Wrong);
}

#[test]
fn an_outer_checksum_of_another_packet() {
    outer_payload("outer_udp_checksum", |tunnel, inner| {
        let mut segment =
            udp(&tunnel.ip, tunnel.ports, Checksum::Valid, &[&tunnel.vxlan[..], inner].concat());
        let last = segment.len() - 1;
        segment[last] ^= 1;
        segment
    });
}

#[test]
fn an_outer_ip_checksum_that_is_wrong() {
    refused("outer_ip_checksum", |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let mut frame = tunnel.with(&inner);
        frame[24] ^= 0x40;
        frame
    });
}

#[test]
fn an_outer_ip_version_that_is_none() {
    outer_ip("outer_ip_malformed", |ip| ip[0] = 0x55);
}

#[test]
fn an_outer_packet_longer_than_its_frame() {
    outer_ip("outer_ip_malformed", |ip| ip[3] += 1);
}

#[test]
fn an_outer_packet_shorter_than_its_header() {
    outer_ip("outer_ip_malformed", |ip| ip[2..4].copy_from_slice(&19u16.to_be_bytes()));
}

#[test]
fn an_outer_packet_that_ends_in_the_udp_header() {
    outer_ip("outer_udp_malformed", |ip| ip[2..4].copy_from_slice(&27u16.to_be_bytes()));
}

#[test]
fn an_outer_packet_that_ends_before_the_udp_packet() {
    outer_ip("outer_udp_malformed", |ip| ip[3] -= 1);
}

#[test]
fn to_an_address_that_is_not_the_nodes() {
    outer("not_tunnel", |tunnel| tunnel.ip.dst = "172.16.0.99".parse().expect("an address"));
}

#[test]
fn from_a_sender_that_is_no_node() {
    refused_by_weft("vtep_unknown", |pair| {
        let (mut tunnel, inner) = sound(pair, To::Weft, Inside::V4);
        tunnel.ip.src = "172.16.0.99".parse().expect("an address");
        tunnel.with(&inner)
    });
}

#[test]
fn from_the_node_itself() {
    refused_by_weft("vtep_unknown", |pair| {
        let (mut tunnel, inner) = sound(pair, To::Weft, Inside::V4);
        tunnel.ip.src = tunnel.ip.dst;
        tunnel.with(&inner)
    });
}

// ---- UDP and VXLAN headers

#[test]
fn a_udp_header_that_is_cut_off() {
    for length in [4, 7] {
        outer_payload("outer_udp_malformed", |tunnel, _| segment(tunnel, &[])[..length].to_vec());
    }
}

#[test]
fn a_udp_length_below_its_header() {
    for length in [0u8, 7] {
        outer_payload("outer_udp_malformed", |tunnel, inner| {
            let mut segment = segment(tunnel, &[&tunnel.vxlan[..], inner].concat());
            segment[4..6].copy_from_slice(&[0, length]);
            segment
        });
    }
}

#[test]
fn a_udp_length_beyond_the_packet() {
    outer_payload("outer_udp_malformed", |tunnel, inner| {
        let mut segment = segment(tunnel, &[&tunnel.vxlan[..], inner].concat());
        segment[5] += 1;
        segment
    });
}

#[test]
fn nothing_behind_the_udp_header() {
    outer_payload("vxlan_malformed", |tunnel, _| segment(tunnel, &[]));
}

#[test]
fn a_vxlan_header_that_is_cut_off() {
    outer_payload("vxlan_malformed", |tunnel, _| segment(tunnel, &tunnel.vxlan[..7]));
}

#[test]
fn a_vxlan_header_without_its_flag() {
    outer("vxlan_reserved", |tunnel| tunnel.vxlan[0] = 0);
}

#[test]
fn a_vxlan_header_with_a_group_policy() {
    outer("vxlan_reserved", |tunnel| tunnel.vxlan[..4].copy_from_slice(&[0x88, 0, 0, 7]));
}

#[test]
fn a_vxlan_header_with_any_reserved_bit() {
    let reserved = (0..8).filter(|bit| *bit != 3).map(|bit| (0, bit));
    let reserved =
        reserved.chain([1, 2, 3, 7].into_iter().flat_map(|byte| (0..8).map(move |bit| (byte, bit))));
    all_refused("vxlan_reserved", |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let with = |(byte, bit): (usize, u8)| {
            let mut tunnel = tunnel.clone();
            tunnel.vxlan[byte] |= 1 << bit;
            tunnel.with(&inner)
        };
        let frames: Vec<_> = reserved.clone().map(with).collect();
        assert_eq!(frames.len(), 7 + 4 * 8);
        frames
    });
}

#[test]
fn a_vni_that_is_not_the_networks() {
    all_refused("vni_unknown", |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let with = |vni| Tunnel { vxlan: vxlan(vni), ..tunnel.clone() }.with(&inner);
        [0, 2, 0x00_0100, 0x01_0000, 0xff_ffff].map(with).to_vec()
    });
}

// ---- the inner frame

#[test]
fn nothing_behind_the_vxlan_header() {
    inner("inner_eth_malformed", Inside::V4, |inner| inner.clear());
}

#[test]
fn an_inner_ethernet_header_that_is_cut_off() {
    inner("inner_eth_malformed", Inside::V4, |inner| inner.truncate(13));
}

#[test]
fn an_inner_ipv4_header_that_is_missing() {
    inner("inner_ip_malformed", Inside::V4, |inner| inner.truncate(14));
}

#[test]
fn an_inner_ipv4_header_that_is_cut_off() {
    inner("inner_ip_malformed", Inside::V4, |inner| inner.truncate(14 + 19));
}

#[test]
fn an_inner_ipv4_packet_that_is_cut_off() {
    inner("inner_ip_malformed", Inside::V4, |inner| inner.truncate(inner.len() - 1));
}

#[test]
fn an_inner_ipv6_header_that_is_cut_off() {
    inner("inner_ip_malformed", Inside::V6, |inner| inner.truncate(14 + 39));
}

#[test]
fn an_inner_ipv6_packet_that_is_cut_off() {
    inner("inner_ip_malformed", Inside::V6, |inner| inner.truncate(inner.len() - 1));
}

#[test]
fn cut_off_anywhere() {
    let mut pair = Pair::new();
    let frames = |pair: &Pair, to| -> Vec<Vec<u8>> {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        let payload = [&tunnel.vxlan[..], &inner].concat();
        let cut =
            |length| tunnel.ip.frame(tunnel.dst, tunnel.src, UDP, &segment(&tunnel, &payload[..length]));
        (0..payload.len()).map(cut).collect()
    };
    let [to_weft, to_kernel] = BOTH_WAYS.map(|to| frames(&pair, to));
    dropped(&mut pair, "vxlan_malformed", &to_weft[..8]);
    dropped(&mut pair, "inner_eth_malformed", &to_weft[8..22]);
    dropped(&mut pair, "inner_ip_malformed", &to_weft[22..]);
    to_kernel.iter().for_each(|frame| pair.assert_not_taken(To::Kernel, frame));
}

#[test]
fn an_inner_ip_version_that_is_none() {
    inner("inner_ip_malformed", Inside::V4, |inner| inner[14] = 0x55);
    inner("inner_ip_malformed", Inside::V6, |inner| inner[14] = 0x45);
}

#[test]
fn an_inner_ipv4_header_length_that_is_none() {
    for first in [0x44, 0x4f] {
        inner("inner_ip_malformed", Inside::V4, |inner| {
            inner[14] = first;
            checksummed(&mut inner[14..34]);
        });
    }
}

#[test]
fn an_inner_ipv4_checksum_that_is_wrong() {
    inner("inner_ip_checksum", Inside::V4, |inner| inner[24] ^= 0x40);
}

#[test]
fn to_another_inner_mac_address() {
    inner_macs("inner_mac_wrong", |_, dst, _| dst[5] ^= 0x10);
}

#[test]
fn to_the_pods_own_mac_address() {
    inner_macs("inner_mac_wrong", |pair, dst, _| dst.copy_from_slice(&pair.web.mac));
}

#[test]
fn to_the_gateways_mac_address() {
    inner_macs("inner_mac_wrong", |_, dst, _| dst.copy_from_slice(&super::pair::GATEWAY));
}

#[test]
fn to_everybody_inside() {
    inner_macs("inner_mac_wrong", |_, dst, _| dst.fill(0xff));
}

#[test]
fn to_a_group_inside() {
    inner_macs("inner_mac_wrong", |_, dst, _| dst.copy_from_slice(&mac("33:33:00:00:00:01")));
}

#[test]
fn from_the_vteps_own_mac_address() {
    inner_macs("inner_mac_own", |_, dst, src| src.copy_from_slice(dst));
}

#[test]
fn from_a_group_inside() {
    refused_by_weft("inner_eth_malformed", |pair| {
        let (tunnel, mut inner) = sound(pair, To::Weft, Inside::V4);
        inner[6] |= 1;
        tunnel.with(&inner)
    });
}

#[test]
fn an_arp_question_inside_is_not_answered() {
    refused("inner_not_ip", |pair, to| {
        let ([a, b], zeros) = (VTEP_MACS.map(mac), ["10.244.0.0", "10.244.1.0"]);
        let question = match to {
            To::Weft => arp(1, (b, zeros[1]), ([0; 6], zeros[0])),
            To::Kernel => arp(1, (a, zeros[0]), ([0; 6], zeros[1])),
        };
        pair.tunnel(to).with(&between_vteps(to, ETHERTYPE_ARP, &question))
    });
}

#[test]
fn a_neighbour_solicitation_inside_is_not_answered() {
    refused_by_weft("not_routable", |pair| {
        let ip = Ip { ttl: 255, ..Ip::new("fe80::2", "fe80::1") };
        let question = neighbour(&ip, 135, 0, "fe80::1", Some(mac(VTEP_MACS[1])));
        pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &ip, 58, &question))
    });
}

#[test]
fn a_vlan_tag_inside() {
    refused("inner_tagged", |pair, to| {
        let (tunnel, inner) = sound(pair, to, Inside::V4);
        tunnel.with(&tagged(&inner, 0x8100, 5))
    });
}

#[test]
fn other_protocols_inside() {
    all_refused("inner_not_ip", |pair, to| {
        let with = |ethertype| pair.tunnel(to).with(&between_vteps(to, ethertype, &[0x45; 40]));
        [0x88cc, 0x8847, 0x0000, 0x05dc, 0xffff].map(with).to_vec()
    });
}

/// A checksum to be filled in where weft has looked already would change what it has looked at.
#[test]
fn an_unfinished_checksum_in_the_inner_headers() {
    let mut pair = Pair::new();
    let (tunnel, inner) = sound(&pair, To::Weft, Inside::V4);
    let frame = tunnel.with(&inner);
    // From the inner Ethernet header on; over the inner source address; over the inner destination address.
    for (start, offset) in [(50, 0), (64, 12), (64, 16)] {
        let Pair { lab, b, .. } = &mut pair;
        let header = [1, 0, 0, 0, 0, 0, start, 0, offset, 0];
        let deltas = lab.deltas(1, || b.send_unfinished(&frame, header));
        deltas.assert_dropped("up0", "checksum_place", 1);
    }
}

// ---- the inner packet

/// A packet to weft with these inner addresses.
fn between(pair: &Pair, src: &str, dst: &str) -> Vec<u8> {
    let ip = Ip::new(src, dst);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"refused");
    pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &ip, UDP, &segment))
}

#[test]
fn from_or_to_an_inner_address_that_is_not_routed() {
    let mut pair = Pair::new();
    let addresses = [
        ("127.0.0.1", "10.244.0.2"),
        ("0.0.0.0", "10.244.0.2"),
        ("224.0.0.1", "10.244.0.2"),
        ("255.255.255.255", "10.244.0.2"),
        ("10.244.1.2", "127.0.0.1"),
        ("10.244.1.2", "255.255.255.255"),
        ("10.244.1.2", "239.1.2.3"),
        ("::1", "fd00:10:244::2"),
        ("fd00:10:244:1::2", "ff02::1"),
        ("fd00:10:244:1::2", "fe80::1"),
    ];
    let frames = addresses.map(|(src, dst)| between(&pair, src, dst));
    dropped(&mut pair, "not_routable", &frames);
}

#[test]
fn back_into_the_tunnel() {
    refused_by_weft("tunnel_to_tunnel", |pair| between(pair, "10.244.1.2", "10.244.1.9"));
}

/// Dropped for this reason, and the pod does not get it. Whether the sender is told is the router's business.
fn not_delivered(reason: &str, inside: Inside, change: impl Fn(&mut Ip)) {
    let mut pair = Pair::new();
    let mut ip = pair.packet(To::Weft, inside);
    change(&mut ip);
    let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"refused");
    let frame = pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &ip, UDP, &segment));
    pair.assert_not_taken(To::Weft, &frame);
    assert_eq!(pair.lab.drops(reason), 1);
}

#[test]
fn an_inner_ttl_of_1() {
    not_delivered("ttl_exceeded", Inside::V4, |ip| ip.ttl = 1);
    not_delivered("ttl_exceeded", Inside::V6, |ip| ip.ttl = 1);
}

#[test]
fn an_inner_ttl_of_0() {
    not_delivered("ttl_exceeded", Inside::V4, |ip| ip.ttl = 0);
    not_delivered("ttl_exceeded", Inside::V6, |ip| ip.ttl = 0);
}

#[test]
fn to_a_pod_that_is_not_there() {
    not_delivered("no_pod", Inside::V4, |ip| ip.dst = "10.244.0.77".parse().expect("an address"));
}

#[test]
fn to_a_pod_that_no_node_has() {
    not_delivered("route_unreachable", Inside::V4, |ip| ip.dst = "10.244.77.2".parse().expect("an address"));
}

// ---- what is not the tunnel's

#[test]
fn what_is_not_the_tunnels_is_not_even_counted() {
    let mut pair = Pair::new();
    let (tunnel, inner) = sound(&pair, To::Weft, Inside::V4);
    let sound = tunnel.with(&inner);
    let to = |dst| ethernet(dst, tunnel.src, 0x0800, &sound[14..]);
    let other_port = Tunnel { ports: (40_000, 8473), ..tunnel.clone() };
    let by_tcp = tcp(&tunnel.ip, (40_000, 8472), (1, 2), b"x");
    let strangers = [
        to(mac("02:00:00:00:00:99")),
        to([0xff; 6]),
        to(mac("01:00:5e:00:00:05")),
        tagged(&sound, 0x8100, 5),
        tagged(&sound, 0x88a8, 5),
        other_port.with(&inner),
        tunnel.ip.frame(tunnel.dst, tunnel.src, TCP, &by_tcp),
        // Cut off before the port can be told.
        sound[..36].to_vec(),
        sound[..20].to_vec(),
    ];
    let Pair { lab, b, .. } = &mut pair;
    let deltas = lab.deltas(1, || {
        strangers.iter().for_each(|frame| b.send(frame));
        b.send(&sound);
    });
    deltas.assert_only(&[("tx", 1)]).assert_ports(&[("up0.rx", 1), ("web.tx", 1)]);
}
