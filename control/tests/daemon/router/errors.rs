//! Time Exceeded and Destination Unreachable: who is told what, by whom, and about what nobody is told.

use crate::lab::frames::{Checksum, Ip, UDP, echo, icmp, mac, tcp, udp};
use crate::lab::routed::{BOTH, GATEWAY_MAC, Net, Packet, Routed, Said, Side, V4, V6};

fn datagram(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    ip.with(UDP, &udp(ip, (1000, 2000), Checksum::Valid, payload))
}

fn time_exceeded(net: Net, from: Side, to: Side) {
    let mut router = Routed::new();
    for ttl in [1, 0] {
        let ip = Ip { ttl, ..Ip::new(from.address(net), to.address(net)) };
        router.tells(from, &datagram(&ip, b"no further"), "ttl_exceeded", net.time_exceeded());
        let (protocol, message) = echo(&ip, 5, 6, b"traceroute -I");
        router.tells(from, &ip.with(protocol, &message), "ttl_exceeded", net.time_exceeded());
        let segment = tcp(&ip, (40_000, 80), (77, 2), b"");
        router.tells(from, &ip.with(6, &segment), "ttl_exceeded", net.time_exceeded());
    }
    // One hop more is enough.
    let ip = Ip { ttl: 2, ..Ip::new(from.address(net), to.address(net)) };
    let last = Ip { ttl: 1, ..ip.clone() };
    router.forwards(from, to, &datagram(&ip, b"just so"), &datagram(&last, b"just so"));
}

#[test]
fn a_pod_whose_ttl_is_used_up_is_told() {
    time_exceeded(V4, Side::Web, Side::Db);
}

#[test]
fn a_pod_whose_hop_limit_is_used_up_is_told() {
    time_exceeded(V6, Side::Web, Side::Db);
}

#[test]
fn a_pod_whose_ttl_is_used_up_before_the_tunnel_is_told() {
    time_exceeded(V4, Side::Web, Side::Far);
}

#[test]
fn a_pod_whose_hop_limit_is_used_up_before_the_tunnel_is_told() {
    time_exceeded(V6, Side::Web, Side::Far);
}

#[test]
fn a_far_pod_whose_ttl_is_used_up_is_told_by_the_tunnel() {
    time_exceeded(V4, Side::Far, Side::Web);
}

#[test]
fn a_far_pod_whose_hop_limit_is_used_up_is_told_by_the_tunnel() {
    time_exceeded(V6, Side::Far, Side::Web);
}

#[test]
fn an_error_quotes_what_fits_and_no_more() {
    let mut router = Routed::new();
    for net in BOTH {
        for length in [0, 1, 7, 8, 500, 519, 520, 521, 1183, 1184, 1185, 1300] {
            let ip = Ip { ttl: 1, ..Ip::new(net.web, net.far) };
            let packet = datagram(&ip, &vec![0x5a; length]);
            let error = router.tells(Side::Web, &packet, "ttl_exceeded", net.time_exceeded());
            let longest = net.pick(576, 1280);
            assert_eq!(error.len(), (packet.len() + net.pick(28, 48)).min(longest), "of {length} bytes");
            // From the tunnel it is the inner packet that is quoted.
            let ip = Ip { ttl: 1, ..Ip::new(net.far, net.web) };
            let packet = datagram(&ip, &vec![0x5a; length]);
            router.tells(Side::Far, &packet, "ttl_exceeded", net.time_exceeded());
        }
    }
}

#[test]
fn an_error_quotes_options_and_extension_headers_too() {
    let mut router = Routed::new();
    let ip = Ip {
        ttl: 1,
        options: vec![7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ..Ip::new(V4.web, V4.db)
    };
    router.tells(Side::Web, &datagram(&ip, b"recorded"), "ttl_exceeded", V4.time_exceeded());
    let ip = Ip { ttl: 1, ..Ip::new(V6.web, V6.db) };
    let segment = udp(&ip, (1, 2), Checksum::Valid, b"extended");
    let payload = [&[60, 0, 5, 2, 0, 0, 1, 0, UDP, 0, 1, 4, 0, 0, 0, 0][..], &segment].concat();
    router.tells(Side::Web, &ip.with(0, &payload), "ttl_exceeded", V6.time_exceeded());
}

#[test]
fn padding_is_not_quoted() {
    let mut router = Routed::new();
    for net in BOTH {
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.db) };
        let packet = datagram(&ip, b"x");
        let frame = router.frame(Side::Web, &[&packet[..], &[0xee; 30]].concat());
        let deltas = router.send_frame(Side::Web, &frame);
        deltas.assert_only(&[("ttl_exceeded", 1), ("originated", 1), ("tx", 1)]);
        let error = router.receive(Side::Web, "ICMP error", |packet| Some(packet.to_vec()));
        crate::lab::routed::assert_error(&error, net.gateway, &packet, net.time_exceeded().into());
    }
}

#[test]
fn an_error_is_of_high_precedence_and_keeps_the_service() {
    let mut router = Routed::new();
    for tos in [0x00, 0x10, 0xb8, 0x03, 0xff] {
        let ip = Ip { tos, ttl: 1, ..Ip::new(V4.web, V4.db) };
        let error = router.tells(Side::Web, &datagram(&ip, b"marked"), "ttl_exceeded", V4.time_exceeded());
        // Internetwork control (RFC 1812, section 4.3.2.5), and never a mark of congestion.
        assert_eq!(Packet::read(&error).tos, 0xc0 | tos & 0x1c, "about {tos:#x}");
    }
}

#[test]
fn no_pod_has_the_address() {
    let mut router = Routed::new();
    for net in BOTH {
        for (from, ttl) in [(Side::Web, 64), (Side::Far, 64), (Side::Web, 1)] {
            let ip = Ip { ttl, ..Ip::new(from.address(net), net.nobody) };
            router.tells(from, &datagram(&ip, b"who?"), "no_pod", net.host_unreachable());
        }
    }
}

#[test]
fn no_node_has_the_subnet() {
    let mut router = Routed::new();
    for net in BOTH {
        for from in [Side::Web, Side::Far] {
            let ip = Ip::new(from.address(net), net.no_node);
            router.tells(from, &datagram(&ip, b"where?"), "route_unreachable", net.host_unreachable());
        }
    }
}

#[test]
fn the_host_is_told_by_an_address_that_is_not_its_own() {
    let mut router = Routed::new();
    for (net, gateway) in [(V4, "169.254.1.1"), (V6, V6.gateway)] {
        for address in [net.nobody, net.no_node] {
            let reason = if address == net.nobody { "no_pod" } else { "route_unreachable" };
            let ip = Ip::new(net.zero, address);
            router.tells_from(gateway, Side::Host, &datagram(&ip, b"who?"), reason, net.host_unreachable());
        }
    }
}

#[test]
fn what_the_operator_has_closed() {
    let routes = V4_ROUTES.to_owned() + V6_ROUTES;
    let mut router = Routed::with("", &routes, |_| ());
    for net in BOTH {
        let address = |kind: &str| net.pick(format!("192.0.2.{kind}"), format!("2001:db8::{kind}"));
        for from in [Side::Web, Side::Far] {
            let to = |host: &str| datagram(&Ip::new(from.address(net), &address(host)), b"closed");
            router.tells(from, &to("1"), "route_unreachable", net.host_unreachable());
            router.tells(from, &to("2"), "route_prohibited", net.prohibited());
            router.drops(from, &to("3"), "route_blackhole");
        }
        // What is longer is stronger, and what is beside them is as it was.
        let ip = Ip::new(net.web, &address("9"));
        router.forwards(Side::Web, Side::Host, &datagram(&ip, b"open"), &datagram(&ip, b"open"));
        let ip = Ip { ttl: 1, ..Ip::new(net.web, &address("3")) };
        router.drops(Side::Web, &datagram(&ip, b"closed"), "route_blackhole");
    }
}

const V4_ROUTES: &str = "[[route]]\nto = \"192.0.2.1/32\"\nkind = \"unreachable\"\n\
    [[route]]\nto = \"192.0.2.2/31\"\nkind = \"prohibit\"\n[[route]]\nto = \"192.0.2.3/32\"\nkind = \"blackhole\"\n";
const V6_ROUTES: &str = "[[route]]\nto = \"2001:db8::1/128\"\nkind = \"unreachable\"\n\
    [[route]]\nto = \"2001:db8::2/127\"\nkind = \"prohibit\"\n[[route]]\nto = \"2001:db8::3/128\"\nkind = \"blackhole\"\n";

/// Packets that nobody gets an error about (RFC 1122, section 3.2.2; RFC 4443, section 2.4(e)), all with a TTL of 1.
fn unanswerable(net: Net) -> Vec<(&'static str, Vec<u8>)> {
    let ip = Ip { ttl: 1, ..Ip::new(net.web, net.db) };
    let inner = Ip::new(net.db, net.web).with(UDP, &[0; 8]);
    let mut packets = Vec::new();
    // A redirect is no pod's to send at all.
    for kind in net.pick([3, 4, 11, 12, 3], [1, 2, 3, 4, 127]) {
        packets.push(("an error", ip.with(net.icmp(), &icmp(&ip, (kind, 0), [0; 4], &inner))));
    }
    packets.push(("half an ICMP message", ip.with(net.icmp(), &[8, 0, 0])));
    if net.is_v4() {
        for fragment in [0x0001, 0x2001, 0x1fff] {
            packets.push(("a later fragment", Ip { fragment, ..ip.clone() }.with(UDP, &[0; 8])));
            packets.push(("of an echo", Ip { fragment, ..ip.clone() }.with(1, &[8; 8])));
        }
        let options = vec![148, 4, 0, 0];
        let error = icmp(&ip, (3, 1), [0; 4], &inner);
        packets.push(("an error with options", Ip { options, ..ip.clone() }.with(1, &error)));
    } else {
        let error = icmp(&ip, (1, 0), [0; 4], &inner);
        let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &error].concat();
        packets.push(("an error behind an extension header", ip.with(60, &behind)));
        let later = [&[58, 0, 0, 8, 0, 0, 0, 9][..], &error].concat();
        packets.push(("a later fragment of what may be an error", ip.with(44, &later)));
    }
    packets
}

fn silence(net: Net) {
    let mut router = Routed::new();
    for (what, packet) in unanswerable(net) {
        println!("{what}");
        router.drops(Side::Web, &packet, "ttl_exceeded");
    }
}

#[test]
fn nobody_is_told_about_icmp_errors_and_later_fragments() {
    silence(V4);
}

#[test]
fn nobody_is_told_about_icmpv6_errors_and_what_may_be_one() {
    silence(V6);
}

#[test]
fn a_first_fragment_and_an_icmp_request_are_told_about() {
    let mut router = Routed::new();
    let ip = Ip { ttl: 1, fragment: 0x2000, ..Ip::new(V4.web, V4.db) };
    router.tells(Side::Web, &ip.with(UDP, &[0; 8]), "ttl_exceeded", V4.time_exceeded());
    let ip = Ip { ttl: 1, ..Ip::new(V6.web, V6.db) };
    let first = [&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &[0; 8]].concat();
    router.tells(Side::Web, &ip.with(44, &first), "ttl_exceeded", V6.time_exceeded());
    for net in BOTH {
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.db) };
        for kind in net.pick([0, 8, 13, 14], [128, 129, 139, 200]) {
            let message = icmp(&ip, (kind, 0), [0, 1, 0, 1], b"asks");
            router.tells(Side::Web, &ip.with(net.icmp(), &message), "ttl_exceeded", net.time_exceeded());
        }
    }
}

#[test]
fn nobody_is_told_about_group_and_broadcast_addresses() {
    let mut router = Routed::new();
    for net in BOTH {
        // In a frame to a group, though to a pod's address.
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.db) };
        for group in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05", "33:33:00:00:00:05"] {
            let mut frame = router.frame(Side::Web, &datagram(&ip, b"to all"));
            frame[..6].copy_from_slice(&mac(group));
            // It crosses the segment like every such frame, and comes to nobody as to a router.
            let deltas = router.send_frame(Side::Web, &frame);
            deltas.assert_only(&[("originated", 1), ("tx", 2)]);
            deltas.assert_ports(&[("web.rx", 1), ("db.tx", 1), ("weft0.tx", 1)]);
        }
        for dst in net.pick(["224.0.0.251", "255.255.255.255"], ["ff02::fb", "ff05::2"]) {
            router.drops(
                Side::Web,
                &datagram(&Ip { ttl: 1, ..Ip::new(net.web, dst) }, b"to all"),
                "not_routable",
            );
        }
    }
    // The broadcast address of the subnet: no pod has it.
    for ttl in [64, 1] {
        let ip = Ip { ttl, ..Ip::new(V4.web, "10.244.0.255") };
        router.drops(Side::Web, &datagram(&ip, b"to all"), "no_pod");
    }
}

#[test]
fn nobody_is_told_who_is_nobody() {
    let mut router = Routed::new();
    for (net, src) in [
        (V4, "0.0.0.0"),
        (V4, "127.0.0.1"),
        (V4, "224.0.0.1"),
        (V4, "10.244.1.255"),
        (V6, "::"),
        (V6, "ff02::1"),
        (V6, "fe80::9"),
    ] {
        let ip = Ip { ttl: 1, ..Ip::new(src, net.web) };
        let frame = router.frame(Side::Far, &datagram(&ip, b"who am I"));
        let deltas = router.send_frame(Side::Far, &frame);
        if src != "10.244.1.255" {
            deltas.assert_dropped("up0", "not_routable", 1);
        }
    }
    // No peer makes weft speak to a pod or to the host by saying that it is one.
    for net in BOTH {
        for src in [net.db, net.outside] {
            let ip = Ip { ttl: 1, ..Ip::new(src, net.web) };
            router.drops(Side::Far, &datagram(&ip, b"reflect this"), "ttl_exceeded");
        }
    }
}

#[test]
fn errors_that_pass_through_are_forwarded() {
    let mut router = Routed::new();
    for net in BOTH {
        for (from, to) in [(Side::Far, Side::Web), (Side::Web, Side::Far)] {
            let ip = Ip::new(from.address(net), to.address(net));
            let about = Ip::new(to.address(net), from.address(net));
            let message = icmp(&ip, net.pick((3, 3), (1, 4)), [0; 4], &datagram(&about, b"refused"));
            let further = Ip { ttl: 63, ..ip.clone() };
            router.forwards(from, to, &ip.with(net.icmp(), &message), &further.with(net.icmp(), &message));
        }
    }
}

/// ICMP errors that were sent, and those that were not because of the limit.
fn icmp_counters(router: &Routed) -> [u64; 2] {
    let workers = router.lab.stats().workers;
    [
        workers.iter().map(|worker| worker.icmp_sent).sum(),
        workers.iter().map(|worker| worker.icmp_limited).sum(),
    ]
}

/// Sends so many packets whose TTL is used up; how many of them the sender is told about. The others are counted.
fn told(router: &mut Routed, net: Net, packets: u64) -> u64 {
    let ip = Ip { ttl: 1, ..Ip::new(net.web, net.db) };
    let frame = router.frame(Side::Web, &datagram(&ip, b"again and again"));
    let before = icmp_counters(router);
    let Routed { lab, web, .. } = router;
    let deltas = lab.deltas(packets, || (0..packets).for_each(|_| web.send(&frame)));
    let told = deltas.of("originated");
    let expected = [("ttl_exceeded", packets), ("originated", told), ("tx", told)];
    deltas.assert_only(&expected[..if told == 0 { 1 } else { 3 }]);
    let after = icmp_counters(router);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [told, packets - told], "sent and limited");
    told
}

fn limited(net: Net) {
    let mut router = Routed::with("[router]\nicmp_rate = 1\n", "", |_| ());
    let told = told(&mut router, net, 200);
    // What a second allows times the seconds that this takes: far fewer than there were.
    assert!((1..100).contains(&told), "{told} of 200");
    // Whom nobody has told too much yet is told.
    let ip = Ip { ttl: 1, ..Ip::new(net.db, net.web) };
    router.tells(Side::Db, &datagram(&ip, b"first"), "ttl_exceeded", net.time_exceeded());
}

#[test]
fn errors_are_limited() {
    limited(V4);
}

#[test]
fn icmpv6_errors_are_limited() {
    limited(V6);
}

#[test]
fn no_errors_at_all() {
    let mut router = Routed::with("[router]\nicmp_rate = 0\n", "", |_| ());
    for net in BOTH {
        assert_eq!(told(&mut router, net, 20), 0);
        let ip = Ip::new(net.web, net.no_node);
        router.drops(Side::Web, &datagram(&ip, b"silence"), "route_unreachable");
    }
}

#[test]
fn what_is_dropped_for_good_is_told_to_nobody() {
    let mut router = Routed::new();
    let gateway = mac(GATEWAY_MAC);
    let ip = Ip { ttl: 1, ..Ip::new(V4.db, V4.far) };
    // Spoofed, with a wrong header checksum, source-routed: TTL or not.
    router.drops(Side::Web, &datagram(&ip, b"spoofed"), "spoofed_ip");
    let ip = Ip { ttl: 1, ..Ip::new(V4.web, V4.far) };
    let mut wrong = ip.frame(gateway, router.web.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, b""));
    wrong[14 + 10] ^= 1;
    router.send_frame(Side::Web, &wrong).assert_dropped("web", "ipv4_checksum", 1);
    let options = vec![131, 7, 4, 10, 244, 1, 2, 0];
    router.drops(Side::Web, &datagram(&Ip { options, ..ip.clone() }, b"routed"), "source_routed");
}

#[test]
fn an_error_that_is_said_is_what_was_asked() {
    // The helper that the tests here rest on can fail.
    let ip = Ip { ttl: 1, ..Ip::new(V4.web, V4.db) };
    let packet = datagram(&ip, b"about this");
    let back = Ip::new(V4.gateway, V4.web);
    let right = back.with(1, &icmp(&back, (11, 0), [0; 4], &packet));
    let said = Said::from((11, 0));
    let check = |answer: &[u8], said: Said| {
        let answer = answer.to_vec();
        let packet = packet.clone();
        std::panic::catch_unwind(move || crate::lab::routed::assert_error(&answer, V4.gateway, &packet, said))
            .is_ok()
    };
    assert!(check(&right, said));
    assert!(!check(&right, (11, 1).into()) && !check(&right, V4.too_big(1400)));
    for at in [1, 9, 15, 16, 20, 21, 23, 30, 47, 56] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        assert!(!check(&wrong, said), "byte {at} is not looked at");
    }
}
