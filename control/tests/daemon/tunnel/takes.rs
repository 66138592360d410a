//! What weft takes from the wire: what the kernel's VTEP sends, looked at byte by byte, and what others may send that a
//! kernel would take too. What the pod gets is compared byte by byte as well.

use std::collections::BTreeSet;

use super::pair::{BOTH_FAMILIES, BOTH_WAYS};
use super::{Inside, Pair, Setup, To};
use crate::lab::frames::{Checksum, Ip, TCP, Tunnel, UDP, echo, tagged, tcp, udp};

/// far sends a packet to web by way of the kernel's VTEP. Returns the outer headers that it had.
fn from_kernel(pair: &mut Pair, ip: &Ip, protocol: u8, payload: &[u8], checksum: Checksum) -> Tunnel {
    pair.travels(To::Weft, ip, protocol, payload, checksum)
}

fn datagram(ip: &Ip, ports: (u16, u16)) -> Vec<u8> {
    udp(ip, ports, Checksum::Valid, b"from far to web")
}

fn both_families(pair: &mut Pair, checksum: Checksum, with: impl Fn(Ip) -> Ip) {
    for inside in BOTH_FAMILIES {
        let ip = with(pair.packet(To::Weft, inside));
        from_kernel(pair, &ip, UDP, &datagram(&ip, (1000, 2000)), checksum);
    }
}

#[test]
fn the_kernels_ipv4_packet() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Weft, Inside::V4);
    let tunnel = from_kernel(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Valid);
    assert!((32768..60999).contains(&tunnel.ports.0), "{tunnel:?}");
}

#[test]
fn the_kernels_ipv6_packet() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Weft, Inside::V6);
    from_kernel(&mut pair, &ip, UDP, &datagram(&ip, (1000, 2000)), Checksum::Valid);
}

#[test]
fn the_kernels_packet_with_a_vni_and_a_port_of_its_own() {
    let mut pair = Pair::with(Setup { vni: 0xab_cdef, port: 4789, ..Setup::default() });
    both_families(&mut pair, Checksum::Valid, |ip| ip);
}

#[test]
fn the_kernels_packet_without_checksum() {
    let mut pair = Pair::with(Setup { device: "noudpcsum", ..Setup::default() });
    both_families(&mut pair, Checksum::Absent, |ip| ip);
}

#[test]
fn the_kernels_packets_of_any_protocol() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        let ip = pair.packet(To::Weft, inside);
        let (protocol, request) = echo(&ip, 3, 4, b"ping");
        from_kernel(&mut pair, &ip, protocol, &request, Checksum::Valid);
        let syn = tcp(&ip, (1000, 80), (1, 2), b"");
        from_kernel(&mut pair, &ip, TCP, &syn, Checksum::Valid);
        from_kernel(&mut pair, &ip, 253, b"x", Checksum::Valid);
    }
}

#[test]
fn the_kernels_packet_with_dscp_inside() {
    let mut pair = Pair::new();
    both_families(&mut pair, Checksum::Valid, |ip| Ip { tos: 0xb8, ..ip });
}

#[test]
fn the_kernels_packets_are_many_flows() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Weft, Inside::V4);
    let port = |flow: u16| {
        from_kernel(&mut pair, &ip, UDP, &datagram(&ip, (1000 + flow, 53)), Checksum::Valid).ports.0
    };
    let ports: BTreeSet<u16> = (0..32).map(port).collect();
    assert!(ports.len() > 16, "{ports:?}");
}

/// A tunnel packet as the test makes it is taken by weft, and by the kernel.
fn taken(pair: &mut Pair, change: impl Fn(&mut Tunnel)) {
    for to in BOTH_WAYS {
        for inside in BOTH_FAMILIES {
            let (mut tunnel, ip) = (pair.tunnel(to), pair.packet(to, inside));
            change(&mut tunnel);
            pair.assert_taken(to, &tunnel, &ip, b"taken");
        }
    }
    assert_eq!(pair.lab.stats().total.drops, 0, "weft dropped something");
}

#[test]
fn no_outer_checksum() {
    taken(&mut Pair::new(), |tunnel| tunnel.checksum = Checksum::Absent);
}

#[test]
fn a_valid_outer_checksum() {
    taken(&mut Pair::new(), |tunnel| tunnel.checksum = Checksum::Valid);
}

#[test]
fn any_source_port() {
    let mut pair = Pair::new();
    for port in [0, 1, 53, 1024, 8472, 65535] {
        taken(&mut pair, |tunnel| tunnel.ports.0 = port);
    }
}

#[test]
fn any_outer_dscp_and_it_does_not_come_inside() {
    let mut pair = Pair::new();
    for tos in [0x04, 0x28, 0xb8, 0xfc] {
        taken(&mut pair, |tunnel| tunnel.ip.tos = tos);
    }
}

#[test]
fn any_outer_ttl() {
    let mut pair = Pair::new();
    for ttl in [1, 2, 255] {
        taken(&mut pair, |tunnel| tunnel.ip.ttl = ttl);
    }
}

#[test]
fn any_outer_identification_and_dont_fragment() {
    let mut pair = Pair::new();
    for (ident, fragment) in [(0, 0x4000), (1, 0), (0xffff, 0x4000)] {
        taken(&mut pair, |tunnel| (tunnel.ip.ident, tunnel.ip.fragment) = (ident, fragment));
    }
}

#[test]
fn outer_header_options() {
    let mut pair = Pair::new();
    for words in [1, 3, 10] {
        // No-operations and an end.
        taken(&mut pair, |tunnel| {
            tunnel.ip.options = vec![1; words * 4];
            tunnel.ip.options[words * 4 - 1] = 0;
        });
    }
}

/// Inner packets that are as they should be, and unusual; each is taken by weft and by the kernel.
fn carried(
    pair: &mut Pair,
    inside: Inside,
    change: impl Fn(&mut Ip),
    protocol: u8,
    payload: impl Fn(&Ip) -> Vec<u8>,
) {
    for to in BOTH_WAYS {
        let mut ip = pair.packet(to, inside);
        change(&mut ip);
        let payload = payload(&ip);
        let frame = pair.tunnel(to).with(&pair.inner(to, &ip, protocol, &payload));
        pair.underlay_sends(to, &frame);
        let expected = pair.delivered(to, &ip, protocol, &payload);
        pair.pod(to).receive_bytes("decapsulated packet", &expected);
    }
}

#[test]
fn an_inner_packet_of_nothing_but_a_header() {
    let mut pair = Pair::new();
    carried(&mut pair, Inside::V4, |_| (), 253, |_| Vec::new());
    carried(&mut pair, Inside::V6, |_| (), 59, |_| Vec::new());
}

#[test]
fn inner_header_options() {
    let mut pair = Pair::new();
    carried(&mut pair, Inside::V4, |ip| ip.options = vec![1, 1, 1, 0], UDP, |ip| datagram(ip, (1, 2)));
}

#[test]
fn inner_extension_headers() {
    let mut pair = Pair::new();
    let options = |ip: &Ip| [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram(ip, (1, 2))].concat();
    carried(&mut pair, Inside::V6, |_| (), 60, options);
}

#[test]
fn inner_pieces_of_a_packet() {
    let mut pair = Pair::new();
    carried(
        &mut pair,
        Inside::V4,
        |ip| (ip.fragment, ip.ident) = (0x2000, 9),
        UDP,
        |ip| datagram(ip, (1, 2)),
    );
    carried(&mut pair, Inside::V4, |ip| (ip.fragment, ip.ident) = (0x0003, 9), UDP, |_| b"the rest".to_vec());
    let piece = |_: &Ip| [&[UDP, 0, 0, 24, 0, 0, 0, 9][..], b"the rest"].concat();
    carried(&mut pair, Inside::V6, |_| (), 44, piece);
}

#[test]
fn inner_dont_fragment_and_flow_label_stay() {
    let mut pair = Pair::new();
    carried(
        &mut pair,
        Inside::V4,
        |ip| (ip.fragment, ip.ident) = (0x4000, 0),
        UDP,
        |ip| datagram(ip, (1, 2)),
    );
    carried(&mut pair, Inside::V6, |ip| ip.flow = 0x12345, UDP, |ip| datagram(ip, (1, 2)));
}

#[test]
fn an_inner_checksum_is_the_pods_business() {
    let mut pair = Pair::new();
    carried(&mut pair, Inside::V4, |_| (), UDP, |ip| udp(ip, (1, 2), Checksum::Wrong, b"wrong"));
    carried(&mut pair, Inside::V4, |_| (), UDP, |ip| udp(ip, (1, 2), Checksum::Absent, b"absent"));
}

#[test]
fn inner_ttls_of_255_and_2_are_one_less_at_the_pod() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        for ttl in [255, 2] {
            carried(&mut pair, inside, |ip| ip.ttl = ttl, UDP, |ip| datagram(ip, (1, 2)));
        }
    }
}

#[test]
fn padding_is_cut_off() {
    let mut pair = Pair::new();
    for to in BOTH_WAYS {
        let (tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V4));
        let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"");
        let inner = pair.inner(to, &ip, UDP, &segment);
        let padding = [0xee; 20];
        // Inside the inner frame, as if it had come from an Ethernet wire; and behind the outer packet.
        let frames =
            [tunnel.with(&[&inner[..], &padding].concat()), [&tunnel.with(&inner)[..], &padding].concat()];
        for frame in frames {
            pair.underlay_sends(to, &frame);
            let expected = pair.delivered(to, &ip, UDP, &segment);
            pair.pod(to).receive_bytes("decapsulated packet", &expected);
        }
    }
    assert_eq!(pair.lab.stats().total.drops, 0);
}

#[test]
fn what_the_udp_header_leaves_out_is_cut_off() {
    let mut pair = Pair::new();
    for to in BOTH_WAYS {
        let (tunnel, ip) = (pair.tunnel(to), pair.packet(to, Inside::V4));
        let segment = udp(&ip, (1000, 2000), Checksum::Valid, b"");
        let inner = pair.inner(to, &ip, UDP, &segment);
        let mut outer =
            udp(&tunnel.ip, tunnel.ports, Checksum::Absent, &[&tunnel.vxlan[..], &inner].concat());
        outer.extend([0xee; 20]);
        pair.underlay_sends(to, &tunnel.ip.frame(tunnel.dst, tunnel.src, UDP, &outer));
        let expected = pair.delivered(to, &ip, UDP, &segment);
        pair.pod(to).receive_bytes("decapsulated packet", &expected);
    }
    assert_eq!(pair.lab.stats().total.drops, 0);
}

/// A virtio-net header with a checksum to be filled in at this place.
fn unfinished(start: usize, offset: u8) -> [u8; 10] {
    let [low, high] = (start as u16).to_le_bytes();
    [1, 0, 0, 0, 0, 0, low, high, offset, 0]
}

#[test]
fn an_inner_checksum_that_is_still_to_be_filled_in() {
    let mut pair = Pair::new();
    for inside in BOTH_FAMILIES {
        let (tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, inside));
        let finished = datagram(&ip, (1000, 2000));
        let mut segment = finished.clone();
        segment[6..8].copy_from_slice(&ip.pseudo(UDP, finished.len()).to_be_bytes());
        let frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &segment));
        pair.b.send_unfinished(&frame, unfinished(frame.len() - segment.len(), 6));
        let expected = pair.delivered(To::Weft, &ip, UDP, &finished);
        pair.web.receive("finished packet", |frame| (frame.finished() == expected).then_some(()));
    }
    assert_eq!(pair.lab.stats().total.drops, 0);
}

#[test]
fn an_outer_checksum_that_is_still_to_be_filled_in() {
    let mut pair = Pair::new();
    let (tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, Inside::V4));
    let segment = datagram(&ip, (1000, 2000));
    let mut frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &segment));
    let pseudo = tunnel.ip.pseudo(UDP, frame.len() - 34);
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    pair.b.send_unfinished(&frame, unfinished(34, 6));
    let expected = pair.delivered(To::Weft, &ip, UDP, &segment);
    pair.web.receive_bytes("decapsulated packet", &expected);
}

#[test]
fn a_priority_tag_makes_no_difference() {
    let mut pair = Pair::new();
    let (tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, Inside::V4));
    let segment = datagram(&ip, (1000, 2000));
    let frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &segment));
    pair.b.send(&tagged(&frame, 0x8100, 0xe000));
    let expected = pair.delivered(To::Weft, &ip, UDP, &segment);
    pair.web.receive_bytes("decapsulated packet", &expected);
}

#[test]
fn any_address_of_the_uplink_is_the_tunnels_end() {
    let mut pair = Pair::new();
    pair.lab.node.ip("addr add 172.16.0.77/24 dev up0");
    let (mut tunnel, ip) = (pair.tunnel(To::Weft), pair.packet(To::Weft, Inside::V4));
    tunnel.ip.dst = "172.16.0.77".parse().expect("an address");
    let segment = datagram(&ip, (1000, 2000));
    let frame = tunnel.with(&pair.inner(To::Weft, &ip, UDP, &segment));
    let expected = pair.delivered(To::Weft, &ip, UDP, &segment);
    // weft hears of the address a moment later; until then it drops what comes for it.
    crate::lab::wait_for("the second address", || {
        pair.b.send(&frame);
        std::iter::from_fn(|| pair.web.next()).any(|frame| frame.bytes == expected).then_some(())
    });
}

#[test]
fn an_unknown_sender_is_taken_where_the_node_is_set_so() {
    let mut pair = Pair::with(Setup { uplink: "known_vteps_only = false", ..Setup::default() });
    taken(&mut pair, |tunnel| {
        if tunnel.ip.dst == std::net::IpAddr::from([172, 16, 0, 1]) {
            tunnel.ip.src = "198.51.100.7".parse().expect("an address");
        }
    });
}

#[test]
fn the_hosts_zero_address_is_reached_with_a_ttl_of_1() {
    let mut pair = Pair::new();
    let zero = Ip { ttl: 1, ..Ip::new("10.244.1.0", "10.244.0.0") };
    let (protocol, request) = echo(&zero, 5, 6, b"to the host");
    let frame = pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &zero, protocol, &request));
    pair.b.send(&frame);
    let answer = pair.captured(To::Kernel).finished();
    let back = Ip::new("10.244.0.0", "10.244.1.0");
    assert_eq!(answer[76..84], back.with(1, &[])[12..], "{answer:02x?}");
    assert_eq!((answer[84], &answer[88..]), (0, &request[4..]), "an echo reply: {answer:02x?}");
}

#[test]
fn the_switch_counts_a_packet_that_it_takes_once() {
    let mut pair = Pair::new();
    let ip = pair.packet(To::Weft, Inside::V4);
    let frame = pair.tunnel(To::Weft).with(&pair.inner(To::Weft, &ip, UDP, &datagram(&ip, (1, 2))));
    let Pair { lab, b, .. } = &mut pair;
    let deltas = lab.deltas(1, || b.send(&frame));
    deltas.assert_only(&[("tx", 1)]).assert_ports(&[("up0.rx", 1), ("web.tx", 1)]);
}
