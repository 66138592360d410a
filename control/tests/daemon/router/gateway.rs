//! The gateway's own addresses, and the host behind them.

use crate::lab::frames::{Checksum, Ip, Mac, UDP, echo, icmp, mac, tcp, udp};
use crate::lab::routed::{BOTH, GATEWAY_MAC, HOST_MAC, Net, Routed, Side, V4, V6};
use crate::lab::{Lab, Namespace, tap_pod};

/// The reply to `echo(ip, ident, sequence, body)`, as RFC 792 and RFC 4443 say.
fn reply(ip: &Ip, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let back = Ip { src: ip.dst, dst: ip.src, ttl: 64, ..ip.clone() };
    let kind = if ip.src.is_ipv4() { 0 } else { 129 };
    back.with(if ip.src.is_ipv4() { 1 } else { 58 }, &icmp(&back, (kind, 0), rest, body))
}

/// An echo request is answered by weft itself, byte by byte as it must be.
fn answers(router: &mut Routed, ip: &Ip, body: &[u8]) {
    let (protocol, message) = echo(ip, 0x1234, 7, body);
    let deltas = router.send(Side::Web, &ip.with(protocol, &message));
    deltas.assert_only(&[("tx", 1)]).assert_ports(&[("web.rx", 1), ("web.tx", 1)]);
    router.receive_packet(Side::Web, &reply(ip, [0x12, 0x34, 0, 7], body));
}

fn echoes(net: Net) {
    let mut router = Routed::new();
    for address in [net.gateway, net.zero] {
        let ip = Ip::new(net.web, address);
        for length in [0, 1, 2, 55, 56, 57, 1000, 1450 - net.pick(28, 48)] {
            let body: Vec<u8> = (0..length).map(|byte: usize| byte as u8).collect();
            answers(&mut router, &ip, &body);
        }
        // The question's TTL is not the answer's, and nothing is routed here.
        for ttl in [1, 2, 255] {
            answers(&mut router, &Ip { ttl, ..ip.clone() }, b"near");
        }
        answers(&mut router, &Ip { tos: 0xb8, ..ip.clone() }, b"marked");
    }
}

#[test]
fn the_gateway_answers_echo_over_ipv4() {
    echoes(V4);
}

#[test]
fn the_gateway_answers_echo_over_ipv6() {
    echoes(V6);
}

#[test]
fn a_wrong_question_gets_no_right_answer() {
    let mut router = Routed::new();
    for net in BOTH {
        let ip = Ip::new(net.web, net.gateway);
        let (protocol, mut message) = echo(&ip, 1, 1, b"wrong");
        message[2] ^= 0x40;
        router.send(Side::Web, &ip.with(protocol, &message));
        let mut right = reply(&ip, [0, 1, 0, 1], b"wrong");
        // The checksum is updated, not made anew: what was wrong stays wrong.
        right[net.pick(22, 42)] ^= 0x40;
        router.receive_packet(Side::Web, &right);
    }
}

/// What the gateway does not answer itself goes to the host as it is.
fn to_host(router: &mut Routed, ip: &Ip, protocol: u8, payload: &[u8]) {
    let packet = ip.with(protocol, payload);
    router.forwards(Side::Web, Side::Host, &packet, &packet);
}

#[test]
fn all_else_for_the_gateway_goes_to_the_host() {
    let mut router = Routed::new();
    for net in BOTH {
        for address in [net.gateway, net.zero] {
            let ip = Ip::new(net.web, address);
            to_host(&mut router, &ip, UDP, &udp(&ip, (5353, 53), Checksum::Valid, b"a name"));
            to_host(&mut router, &ip, 6, &tcp(&ip, (40_000, 10_250), (1, 2), b""));
            to_host(&mut router, &ip, 132, &[0; 12]);
            // Echo replies, errors, a timestamp, a request that is in pieces.
            let error = net.pick((3, 3), (1, 4));
            to_host(&mut router, &ip, net.icmp(), &icmp(&ip, error, [0; 4], &ip.with(UDP, &[0; 8])));
            to_host(&mut router, &ip, net.icmp(), &icmp(&ip, (net.pick(0, 129), 0), [0, 1, 0, 1], b"pong"));
            to_host(&mut router, &ip, net.icmp(), &icmp(&ip, (net.pick(13, 139), 0), [0, 1, 0, 1], &[0; 12]));
            let (protocol, message) = echo(&ip, 1, 1, &[9; 32]);
            if net.is_v4() {
                to_host(&mut router, &Ip { fragment: 0x2000, ..ip.clone() }, protocol, &message);
                to_host(&mut router, &Ip { fragment: 0x0005, ..ip.clone() }, protocol, &message[..8]);
            } else {
                to_host(&mut router, &ip, 44, &[&[protocol, 0, 0, 1, 0, 0, 0, 9][..], &message].concat());
            }
        }
    }
}

#[test]
fn what_is_outside_of_the_pod_network_goes_to_the_host() {
    let mut router = Routed::new();
    for net in BOTH {
        for address in net.pick(
            ["192.0.2.9", "172.16.0.2", "169.254.169.254"],
            ["2001:db8::9", "fd00:172:16::2", "fd00:10:245::1"],
        ) {
            let ip = Ip::new(net.web, address);
            to_host(&mut router, &ip, UDP, &udp(&ip, (1000, 53), Checksum::Valid, b"out"));
            let (protocol, message) = echo(&ip, 1, 1, b"out");
            to_host(&mut router, &ip, protocol, &message);
            // From the tunnel as well: b may have this node as its way out.
            let ip = Ip::new(net.far, address);
            let packet = ip.with(UDP, &udp(&ip, (1000, 53), Checksum::Valid, b"out"));
            router.forwards(Side::Far, Side::Host, &packet, &packet);
        }
    }
}

#[test]
fn echo_that_comes_by_the_tunnel_is_the_hosts() {
    let mut router = Routed::new();
    for net in BOTH {
        for address in [net.gateway, net.zero] {
            let ip = Ip::new(net.far, address);
            let (protocol, message) = echo(&ip, 1, 1, b"far");
            let packet = ip.with(protocol, &message);
            router.forwards(Side::Far, Side::Host, &packet, &packet);
        }
    }
}

#[test]
fn what_the_host_sends_to_the_gateway_is_not_sent_back() {
    let mut router = Routed::new();
    for net in BOTH {
        for address in [net.gateway, net.outside] {
            let ip = Ip::new(net.zero, address);
            router.drops(Side::Host, &ip.with(UDP, &udp(&ip, (1, 2), Checksum::Valid, b"loop")), "same_port");
        }
    }
}

#[test]
fn the_gateway_and_the_host_have_the_macs_they_should() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    let _weftd = lab.start();
    let seen = |address: &str| -> Mac {
        assert!(web.pings(address));
        let entry = web.json(&format!("neigh show {address}")).remove(0);
        mac(entry["lladdr"].as_str().expect("a MAC address"))
    };
    assert_eq!([seen(V4.gateway), seen(V6.gateway)], [mac(GATEWAY_MAC); 2]);
    let host = lab.node.json("link show dev weft0").remove(0);
    assert_eq!(host["address"], HOST_MAC);
}
