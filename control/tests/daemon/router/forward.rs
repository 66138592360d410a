//! What is forwarded comes out as it went in, less one hop.

use crate::lab::frames::{Checksum, ICMP, Ip, UDP, ethernet, mac, sum, tcp, udp};
use crate::lab::routed::{BOTH, GATEWAY_MAC, Net, Routed, Side, V4, V6};

/// The ways through the router, and whether they cost a hop: what comes from the host has been routed by its kernel, what
/// goes there will be.
const WAYS: [(Side, Side, bool); 6] = [
    (Side::Web, Side::Db, true),
    (Side::Web, Side::Far, true),
    (Side::Far, Side::Web, true),
    (Side::Host, Side::Web, false),
    (Side::Host, Side::Far, false),
    (Side::Web, Side::Host, false),
];

fn between(net: Net, from: Side, to: Side) -> Ip {
    Ip::new(from.address(net), to.address(net))
}

fn datagram(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    udp(ip, (1000, 2000), Checksum::Valid, payload)
}

/// A packet of `ip`'s with these options or extension headers is forwarded with all of them as they are.
fn untouched(router: &mut Routed, ip: &Ip, protocol: u8, payload: &[u8]) {
    for (from, to, hop) in WAYS {
        let net = if ip.src.is_ipv4() { V4 } else { V6 };
        let Ip { src, dst, .. } = between(net, from, to);
        let ip = Ip { src, dst, ..ip.clone() };
        let further = Ip { ttl: ip.ttl - u8::from(hop), ..ip.clone() };
        router.forwards(from, to, &ip.with(protocol, payload), &further.with(protocol, payload));
    }
}

fn hops(net: Net) {
    let mut router = Routed::new();
    for (from, to, hop) in WAYS {
        for ttl in [255, 128, 64, 3, 2] {
            let ip = Ip { ttl, ..between(net, from, to) };
            let further = Ip { ttl: ttl - u8::from(hop), ..ip.clone() };
            let segment = datagram(&ip, b"one hop");
            router.forwards(from, to, &ip.with(UDP, &segment), &further.with(UDP, &segment));
        }
    }
}

#[test]
fn the_ttl_goes_down_by_one_where_weft_is_the_hop() {
    hops(V4);
}

#[test]
fn the_hop_limit_goes_down_by_one_where_weft_is_the_hop() {
    hops(V6);
}

#[test]
fn a_last_hop_that_is_the_kernels_is_left_to_it() {
    let mut router = Routed::new();
    for net in BOTH {
        for (from, to, _) in WAYS.iter().filter(|(.., hop)| !hop) {
            for ttl in [1, 0] {
                let ip = Ip { ttl, ..between(net, *from, *to) };
                let packet = ip.with(UDP, &datagram(&ip, b"as it is"));
                router.forwards(*from, *to, &packet, &packet);
            }
        }
    }
}

#[test]
fn the_header_checksum_is_carried_over_all_its_edges() {
    let mut router = Routed::new();
    let base = between(V4, Side::Web, Side::Db);
    // The identification turns the checksum to where an incremental update goes wrong if it can: around 0 and 0xffff, and where
    // the TTL's byte carries over.
    let header = Ip { ident: 0, ..base.clone() }.with(UDP, &[]);
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    for wanted in [0x0000, 0x0001, 0x00ff, 0x0100, 0xfeff, 0xff00, 0xfefe, 0xfffe] {
        let length = datagram(&base, b"edge").len() as u16;
        let ident = !sum(&[&(!checksum).to_be_bytes(), &length.to_be_bytes(), &u16::to_be_bytes(wanted)]);
        let ip = Ip { ident, ..base.clone() };
        let packet = ip.with(UDP, &datagram(&ip, b"edge"));
        assert_eq!(packet[10..12], u16::to_be_bytes(wanted), "the packet is not what it should be");
        let further = Ip { ttl: 63, ..ip.clone() };
        router.forwards(Side::Web, Side::Db, &packet, &further.with(UDP, &datagram(&ip, b"edge")));
    }
}

#[test]
fn dscp_ecn_identification_and_flow_label_are_kept() {
    let mut router = Routed::new();
    for net in BOTH {
        for (tos, ident, fragment, flow) in [
            (0xb8, 0x1234, 0x4000, 0xfffff),
            (0x01, 0xffff, 0, 1),
            (0x02, 0, 0x4000, 0x80000),
            (0xff, 1, 0x8000, 0x12345),
        ] {
            let ip = net.pick(
                Ip { tos, ident, fragment, ..Ip::new(net.web, net.db) },
                Ip { tos, flow, ..Ip::new(net.web, net.db) },
            );
            let segment = datagram(&ip, b"marked");
            untouched(&mut router, &ip, UDP, &segment);
        }
    }
}

#[test]
fn a_transport_checksum_is_none_of_the_routers_business() {
    let mut router = Routed::new();
    for net in BOTH {
        let ip = Ip::new(net.web, net.db);
        for checksum in [Checksum::Absent, Checksum::Wrong] {
            untouched(&mut router, &ip, UDP, &udp(&ip, (7, 9), checksum, b"whatever"));
        }
        let mut segment = tcp(&ip, (7, 9), (1, 0x10), b"whatever");
        segment[16] ^= 0xff;
        untouched(&mut router, &ip, 6, &segment);
    }
}

#[test]
fn protocols_that_nobody_knows_are_forwarded() {
    let mut router = Routed::new();
    for net in BOTH {
        let ip = Ip::new(net.web, net.db);
        for protocol in [2, 47, 50, 51, 89, 132, 136, 253, 255] {
            // For 51 it is an authentication header with nothing behind it, which is an extension header in IPv6.
            untouched(
                &mut router,
                &ip,
                protocol,
                &[59, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef],
            );
        }
    }
}

#[test]
fn an_empty_packet_is_forwarded() {
    let mut router = Routed::new();
    for net in BOTH {
        untouched(&mut router, &Ip::new(net.web, net.db), net.pick(253, 59), &[]);
    }
}

#[test]
fn what_an_ethernet_frame_is_padded_with_is_not_forwarded() {
    let mut router = Routed::new();
    for net in BOTH {
        for (from, to, hop) in WAYS {
            let ip = between(net, from, to);
            let segment = datagram(&ip, b"x");
            let packet = ip.with(UDP, &segment);
            let further = Ip { ttl: 64 - u8::from(hop), ..ip.clone() }.with(UDP, &segment);
            let padded = [&packet[..], b"padding that is longer than any frame needs it to be"].concat();
            router.forwards(from, to, &padded, &further);
        }
    }
}

#[test]
fn ipv4_options_are_forwarded_as_they_are() {
    let mut router = Routed::new();
    let ip = Ip::new(V4.web, V4.db);
    for options in [
        // Record route with three free places; and full.
        vec![7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![7, 7, 8, 10, 244, 0, 2, 0],
        // Timestamps, with addresses and without.
        vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        // Router alert (RFC 2113).
        vec![148, 4, 0, 0],
        // Nothing but alignment; the end of the list with rubbish behind it.
        vec![1, 1, 1, 1],
        vec![0, 0xff, 0xff, 0xff],
        // Security (RFC 1108), stream id, experiments (RFC 4727).
        vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![136, 4, 0, 1],
        vec![94, 4, 0xde, 0xad],
        vec![222, 4, 0xde, 0xad],
        // As many as there may be.
        vec![1; 40],
    ] {
        let ip = Ip { options, ..ip.clone() };
        untouched(&mut router, &ip, UDP, &datagram(&ip, b"with options"));
    }
}

/// The extension header with its next header and its length in units of 8 bytes behind the first, and a UDP datagram behind
/// it.
fn extended(ip: &Ip, content: &[u8]) -> Vec<u8> {
    let header = [&[UDP, (content.len() / 8) as u8], content].concat();
    assert_eq!(header.len() % 8, 0, "no extension header");
    [header, datagram(ip, b"behind it")].concat()
}

#[test]
fn hop_by_hop_options_are_forwarded_as_they_are() {
    let mut router = Routed::new();
    let ip = Ip::new(V6.web, V6.db);
    for content in [
        vec![1, 4, 0, 0, 0, 0],
        // Router alert (RFC 2711).
        vec![5, 2, 0, 0, 1, 0],
        // One that nobody knows, to be skipped by who does not know it.
        vec![0x1e, 4, 1, 2, 3, 4],
        [vec![1, 12], vec![0; 12]].concat(),
    ] {
        untouched(&mut router, &ip, 0, &extended(&ip, &content));
    }
}

#[test]
fn routing_and_destination_headers_are_forwarded_as_they_are() {
    let mut router = Routed::new();
    let ip = Ip::new(V6.web, V6.db);
    for content in [vec![1, 4, 0, 0, 0, 0], vec![0x1e, 4, 1, 2, 3, 4]] {
        untouched(&mut router, &ip, 60, &extended(&ip, &content));
    }
    let through = "fd00:10:244:5::5".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    // Type 2 of mobile IPv6, type 4 with segments, an experiment; done with and not.
    for (kind, left) in [(2, 1), (2, 0), (4, 1), (253, 0), (0, 0), (0, 1)] {
        let content = [&[kind, left, 0, 0, 0, 0][..], &through].concat();
        untouched(&mut router, &ip, 43, &extended(&ip, &content));
    }
}

#[test]
fn a_chain_of_extension_headers_is_forwarded_as_it_is() {
    let mut router = Routed::new();
    let ip = Ip::new(V6.web, V6.db);
    let padding = [1, 4, 0, 0, 0, 0];
    let headers: Vec<u8> = [60, 43, 44]
        .into_iter()
        .zip([vec![0], vec![0], vec![0]])
        .flat_map(|(next, length)| match next {
            // The last is an atomic fragment (RFC 6946).
            44 => [vec![44], length, vec![253, 0, 0, 0, 0, 0], vec![UDP, 0, 0, 0, 0, 0, 0, 7]].concat(),
            _ => [vec![next], length, padding.to_vec()].concat(),
        })
        .collect();
    let packet = [headers, datagram(&ip, b"at the end")].concat();
    untouched(&mut router, &ip, 0, &packet);
}

#[test]
fn ipv4_fragments_are_forwarded_as_they_are_in_any_order() {
    let mut router = Routed::new();
    let base = Ip { ident: 0xbeef, ..Ip::new(V4.web, V4.db) };
    let data = datagram(&base, &[7; 64]);
    // The last one first, the one in the middle, the first; one that nobody may cut further.
    for (fragment, piece) in [(0x0006, 48..72), (0x2003, 24..48), (0x2000, 0..24), (0x4003, 24..48)] {
        let ip = Ip { fragment, ..base.clone() };
        untouched(&mut router, &ip, UDP, &data[piece]);
    }
}

#[test]
fn ipv6_fragments_are_forwarded_as_they_are_in_any_order() {
    let mut router = Routed::new();
    let ip = Ip::new(V6.web, V6.db);
    let data = datagram(&ip, &[7; 64]);
    for (offset, piece) in [(48u16, 48..72), (24 | 1, 24..48), (1, 0..24)] {
        let [high, low] = offset.to_be_bytes();
        let header = [UDP, 0, high, low, 0xde, 0xad, 0xbe, 0xef];
        untouched(&mut router, &ip, 44, &[&header[..], &data[piece]].concat());
    }
}

#[test]
fn a_source_routed_packet_goes_nowhere() {
    let mut router = Routed::new();
    for (kind, pointer) in [(131, 4), (137, 4), (131, 8), (137, 8)] {
        for before in [vec![], vec![1, 1, 1, 1], vec![148, 4, 0, 0]] {
            let options = [before, vec![kind, 7, pointer, 10, 244, 1, 2, 0]].concat();
            let ip = Ip { options, ..Ip::new(V4.web, V4.db) };
            router.drops(Side::Web, &ip.with(UDP, &datagram(&ip, b"this way")), "source_routed");
        }
    }
    let options = vec![131, 7, 4, 10, 244, 0, 3, 0];
    let ip = Ip { options, ..Ip::new(V4.far, V4.web) };
    router.drops(Side::Far, &ip.with(UDP, &datagram(&ip, b"this way")), "source_routed");
}

#[test]
fn options_whose_lengths_are_wrong_go_nowhere() {
    let mut router = Routed::new();
    for options in
        [vec![7, 0, 4, 0], vec![7, 1, 4, 0], vec![7, 9, 4, 0], vec![1, 1, 1, 131], vec![68, 255, 5, 0]]
    {
        let ip = Ip { options, ..Ip::new(V4.web, V4.db) };
        router.drops(Side::Web, &ip.with(UDP, &datagram(&ip, b"cut off")), "ipv4_options");
    }
}

#[test]
fn addresses_that_are_not_routed() {
    let mut router = Routed::new();
    let to = |net: Net, dst: &str| {
        let ip = Ip::new(net.web, dst);
        ip.with(net.icmp(), &[0; 8])
    };
    for dst in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.1.2.3",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        router.drops(Side::Web, &to(V4, dst), "not_routable");
    }
    for dst in ["::", "::1", "ff02::1", "ff0e::1:2", "fe80::1234"] {
        router.drops(Side::Web, &to(V6, dst), "not_routable");
    }
    for (src, dst) in [
        ("0.0.0.0", V4.web),
        ("127.0.0.1", V4.web),
        ("224.0.0.1", V4.web),
        ("255.255.255.255", V4.web),
        ("169.254.7.7", V4.web),
        ("::", V6.web),
        ("::1", V6.web),
        ("ff02::1", V6.web),
        ("fe80::7", V6.web),
    ] {
        let ip = Ip::new(src, dst);
        router.drops(Side::Far, &ip.with(UDP, &datagram(&ip, b"from nowhere")), "not_routable");
    }
}

#[test]
fn headers_that_contradict_themselves() {
    let mut router = Routed::new();
    let ip = between(V4, Side::Web, Side::Db);
    let packet = ip.with(UDP, &datagram(&ip, b"sound"));
    let changed = |at: usize, to: u8, right_sum: bool| {
        let mut packet = packet.clone();
        packet[at] = to;
        if right_sum {
            packet[10..12].fill(0);
            let checksum = !sum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet
    };
    router.drops(Side::Web, &changed(10, packet[10] ^ 1, false), "ipv4_checksum");
    router.drops(Side::Web, &changed(8, 63, false), "ipv4_checksum");
    for (at, to) in [(0, 0x44), (0, 0x40), (0, 0x65), (0, 0x4f), (2, 0xff), (3, 19)] {
        let frame = ethernet(mac(GATEWAY_MAC), router.web.mac, 0x0800, &changed(at, to, true));
        router.send_frame(Side::Web, &frame).assert_dropped("web", "ipv4_malformed", 1);
    }

    let ip = between(V6, Side::Web, Side::Db);
    let packet = ip.with(UDP, &datagram(&ip, b"sound"));
    for (at, to) in [(0, 0x40), (4, 1)] {
        let mut wrong = packet.clone();
        wrong[at] = to;
        let frame = ethernet(mac(GATEWAY_MAC), router.web.mac, 0x86dd, &wrong);
        router.send_frame(Side::Web, &frame).assert_dropped("web", "ipv6_malformed", 1);
    }
    // An extension header that is longer than the packet.
    let ip = between(V6, Side::Web, Side::Db);
    router.drops(Side::Web, &ip.with(0, &[UDP, 9, 1, 4, 0, 0, 0, 0]), "ipv6_malformed");
    let cut = ethernet(mac(GATEWAY_MAC), router.web.mac, 0x0800, &packet[..12]);
    router.send_frame(Side::Web, &cut).assert_dropped("web", "ipv4_malformed", 1);
}

#[test]
fn what_is_no_ip_packet_is_not_routed() {
    let mut router = Routed::new();
    for ethertype in [0x88cc, 0x8847, 0x0600, 0x9000] {
        let frame = ethernet(mac(GATEWAY_MAC), router.web.mac, ethertype, &[0; 46]);
        router.send_frame(Side::Web, &frame).assert_dropped("web", "not_ip", 1);
    }
}

#[test]
fn a_bridged_packet_is_no_hop() {
    let mut router = Routed::new();
    for net in BOTH {
        for ttl in [64, 1, 0] {
            let ip = Ip { ttl, ..Ip::new(net.web, net.db) };
            let frame = ip.frame(router.db.mac, router.web.mac, UDP, &datagram(&ip, b"beside"));
            let deltas = router.send_frame(Side::Web, &frame);
            deltas.assert_only(&[("tx", 1)]).assert_ports(&[("web.rx", 1), ("db.tx", 1)]);
            router.db.receive_bytes("bridged frame", &frame);
        }
    }
}

#[test]
fn pods_send_from_their_own_addresses_only() {
    let mut router = Routed::new();
    for net in BOTH {
        for src in [net.db, net.gateway, net.far, net.outside] {
            let ip = Ip::new(src, net.db);
            router.drops(Side::Web, &ip.with(UDP, &datagram(&ip, b"not me")), "spoofed_ip");
        }
    }
    let ip = Ip::new(V4.far, V4.outside);
    let packet = ip.with(ICMP, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    router.forwards(Side::Far, Side::Host, &packet, &packet);
}
