//! The tunnel over IPv6, as flannel's `flannel-v6.1`: the checksum is never left out.

use super::pair::BOTH_WAYS;
use super::{Inside, Pair, Setup, To};
use crate::lab::frames::{Checksum, Ip, TCP, Tunnel, UDP, echo, tcp, udp, vxlan};
use crate::lab::{VTEP_MACS, frames, tap_pod, wait_for};

fn over_v6() -> Pair {
    Pair::with(Setup { over_v6: true, ..Setup::default() })
}

fn datagram(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    udp(ip, (1000, 2000), Checksum::Valid, payload)
}

/// A packet of this payload travels to the node's pod.
fn travels(pair: &mut Pair, to: To, with: impl Fn(&mut Ip), payload: &[u8]) -> Tunnel {
    let mut ip = pair.packet(to, Inside::V6);
    with(&mut ip);
    let segment = datagram(&ip, payload);
    pair.travels(to, &ip, UDP, &segment, Checksum::Valid)
}

#[test]
fn wefts_packet_is_carried_in_exactly_these_bytes() {
    let tunnel = travels(&mut over_v6(), To::Kernel, |_| (), b"even");
    assert!((32768..60999).contains(&tunnel.ports.0), "{tunnel:?}");
}

#[test]
fn the_kernels_packet() {
    travels(&mut over_v6(), To::Weft, |_| (), b"even");
}

#[test]
fn packets_of_an_odd_length() {
    let mut pair = over_v6();
    BOTH_WAYS.iter().for_each(|to| drop(travels(&mut pair, *to, |_| (), b"odd")));
}

#[test]
fn any_protocol_and_ttl() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        let ip = Ip { ttl: 255, ..pair.packet(to, Inside::V6) };
        let (protocol, request) = echo(&ip, 1, 2, b"ping");
        pair.travels(to, &ip, protocol, &request, Checksum::Valid);
        pair.travels(to, &ip, TCP, &tcp(&ip, (5, 80), (9, 2), b""), Checksum::Valid);
        pair.travels(to, &ip, 59, b"", Checksum::Valid);
    }
}

#[test]
fn dscp_and_flow_label_stay_inside() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        travels(&mut pair, to, |ip| (ip.tos, ip.flow) = (0xb8, 0xabcde), b"marked");
    }
}

#[test]
fn congestion_marks_go_in() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        for ecn in 0..4 {
            travels(&mut pair, to, |ip| ip.tos = 0x28 | ecn, b"marked");
        }
    }
}

#[test]
fn congestion_marks_come_out() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        for (outer, inner, delivered) in
            [(3, 1, 3), (3, 2, 3), (3, 3, 3), (1, 2, 1), (1, 0, 0), (2, 0, 0), (0, 3, 3)]
        {
            let (mut tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V6));
            tunnel.ip.tos = outer;
            let marked = |mark| Ip { tos: mark, ..ip.clone() };
            let segment = datagram(&ip, b"marked");
            let frame = tunnel.with(&pair.inner(to, &marked(inner), UDP, &segment));
            pair.underlay_sends(to, &frame);
            let expected = pair.delivered(to, &marked(delivered), UDP, &segment);
            pair.pod(to).receive_bytes("packet with the right mark", &expected);
        }
    }
    assert_eq!(pair.lab.stats().total.drops, 0);
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let mut pair = over_v6();
    let ip = pair.packet(To::Kernel, Inside::V6);
    let segment = |word: u16| [&word.to_be_bytes()[..], &[0; 30]].concat();
    // A protocol without a checksum of its own, which would make up for every change.
    let tunnel = pair.travels(To::Kernel, &ip, 253, &segment(0), Checksum::Valid);
    let inner = pair.inner(To::Kernel, &Ip { ttl: 63, ..ip.clone() }, 253, &segment(0));
    let checksum = |frame: &[u8]| u16::from_be_bytes([frame[60], frame[61]]);
    let word = checksum(&tunnel.with(&inner));
    let again = pair.travels(To::Kernel, &ip, 253, &segment(word), Checksum::Valid);
    let inner = pair.inner(To::Kernel, &Ip { ttl: 63, ..ip }, 253, &segment(word));
    assert_eq!(checksum(&again.with(&inner)), 0xffff, "the test's own arithmetic");
}

#[test]
fn any_outer_port_hop_limit_and_flow_label() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        for (port, hop_limit, flow) in [(0, 1, 0), (8472, 64, 0xfffff), (65535, 255, 1)] {
            let (mut tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V6));
            (tunnel.ports.0, tunnel.ip.ttl, tunnel.ip.flow) = (port, hop_limit, flow);
            pair.assert_taken(to, &tunnel, &ip, b"taken");
        }
    }
}

#[test]
fn ipv4_inside_is_taken() {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        let (tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V4));
        pair.assert_taken(to, &tunnel, &ip, b"taken");
    }
}

/// weft drops a sound packet with this change for this reason, and the kernel drops its like.
fn refused(reason: &str, change: impl Fn(&mut Tunnel)) {
    let mut pair = over_v6();
    for to in BOTH_WAYS {
        let (mut tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V6));
        change(&mut tunnel);
        let frame = tunnel.with(&pair.inner(to, &ip, UDP, &datagram(&ip, b"refused")));
        if to == To::Kernel {
            pair.assert_not_taken(to, &frame);
        } else {
            let Pair { lab, b, .. } = &mut pair;
            lab.deltas(1, || b.send(&frame)).assert_dropped("up0", reason, 1);
        }
    }
}

#[test]
fn no_outer_checksum_is_refused() {
    refused("outer_udp_checksum", |tunnel| tunnel.checksum = Checksum::Absent);
}

#[test]
fn a_wrong_outer_checksum_is_refused() {
    refused("outer_udp_checksum", |tunnel| tunnel.checksum = Checksum::Wrong);
}

#[test]
fn another_vni_is_refused() {
    refused("vni_unknown", |tunnel| tunnel.vxlan = vxlan(2));
}

#[test]
fn a_reserved_bit_is_refused() {
    refused("vxlan_reserved", |tunnel| tunnel.vxlan[7] = 1);
}

#[test]
fn a_mark_of_congestion_that_must_not_be_is_refused() {
    refused("ecn_illegal", |tunnel| tunnel.ip.tos = 3);
}

#[test]
fn an_unknown_sender_is_refused() {
    let mut pair = over_v6();
    let (mut tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, Inside::V6));
    tunnel.ip.src = "fd00:172:16::99".parse().expect("an address");
    let frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &datagram(&ip, b"refused")));
    let Pair { lab, b, .. } = &mut pair;
    lab.deltas(1, || b.send(&frame)).assert_dropped("up0", "vtep_unknown", 1);
}

#[test]
fn cut_off_anywhere() {
    let mut pair = over_v6();
    let (tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, Inside::V6));
    let payload = [&tunnel.vxlan[..], &pair.inner(To::Weft, &ip, UDP, &datagram(&ip, b"cut"))].concat();
    let frames: Vec<_> = (0..payload.len())
        .map(|length| {
            let segment = udp(&tunnel.ip, tunnel.ports, Checksum::Valid, &payload[..length]);
            tunnel.ip.frame(tunnel.dst, tunnel.src, UDP, &segment)
        })
        .collect();
    let Pair { lab, b, .. } = &mut pair;
    let (header, rest) = frames.split_at(8);
    let (ethernet, packet) = rest.split_at(14);
    for (reason, frames) in
        [("vxlan_malformed", header), ("inner_eth_malformed", ethernet), ("inner_ip_malformed", packet)]
    {
        let count = frames.len() as u64;
        lab.deltas(count, || frames.iter().for_each(|frame| b.send(frame)))
            .assert_dropped("up0", reason, count);
    }
}

#[test]
fn the_vtep_over_ipv6_has_a_mac_address_of_its_own() {
    let mut pair = over_v6();
    let macs = ["02:00:5e:00:06:01", "02:00:5e:00:06:02"];
    let text = [0, 1].iter().fold(Setup { over_v6: true, ..Setup::default() }.nodes(), |text, node| {
        let own = format!("vtep_mac = \"{}\"\n", VTEP_MACS[*node]);
        text.replace(&own, &format!("{own}vtep_mac_v6 = \"{}\"\n", macs[*node]))
    });
    pair.lab.replace_cluster(&(text + &tap_pod("web", 2, &pair.pods[0])));
    let ip = pair.packet(To::Kernel, Inside::V6);
    let segment = datagram(&ip, b"by the other");
    let [own, far] = macs.map(frames::mac);
    let inner = Ip { ttl: 63, ..ip.clone() }.frame(far, own, UDP, &segment);
    wait_for("the other addresses", || {
        pair.pod_sends(To::Kernel, &ip, UDP, &segment);
        std::iter::from_fn(|| pair.b.next()).any(|frame| frame.bytes.ends_with(&inner)).then_some(())
    });
    // And what comes must be for that one too.
    let ip = pair.packet(To::Weft, Inside::V6);
    let segment = datagram(&ip, b"for the other");
    let (tunnel, inner) = (pair.tunnel(To::Weft), ip.frame(own, far, UDP, &segment));
    pair.b.send(&tunnel.with(&inner));
    let expected = pair.delivered(To::Weft, &ip, UDP, &segment);
    pair.web.receive_bytes("packet for the other address", &expected);
    let old = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &segment));
    let Pair { lab, b, .. } = &mut pair;
    lab.deltas(1, || b.send(&old)).assert_dropped("up0", "inner_mac_wrong", 1);
}
