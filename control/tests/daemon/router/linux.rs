//! A Linux router in weft's place, with the same addresses: what each says about the same packet, bit by bit.

use std::net::IpAddr;

use super::too_big::narrow;
use crate::lab::frames::{Checksum, ETHERNET_LEN, Ip, UDP, echo, ethernet, icmp, mac, udp};
use crate::lab::routed::{BOTH, GATEWAY_MAC, Net, Packet, Routed, Side, V4, V6};
use crate::lab::{Frame, Namespace, Wire};

/// A kernel as router, in weft's place: the same addresses and MAC address towards web, the same MTU towards the far pod.
struct Linux {
    left: Wire,
    right: Wire,
    _namespaces: [Namespace; 3],
}

impl Linux {
    fn new() -> Self {
        let namespaces = [Namespace::mute("left"), Namespace::new("linux"), Namespace::mute("right")];
        let [left, linux, right] = &namespaces;
        linux.must(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 \
             net.ipv6.icmp.ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000",
        );
        for (link, end, mtu) in [("left", left, 1500), ("right", right, 1400)] {
            linux.ip(&format!(
                "link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                end.name()
            ));
        }
        linux.ip(&format!("link set left address {GATEWAY_MAC}"));
        for net in BOTH {
            let width = net.pick(24, 64);
            linux.ip(&format!("addr add {}/{width} dev left{}", net.gateway, net.pick("", " nodad")));
            let far_gateway = net.pick("10.244.1.1/24", "fd00:10:244:1::1/64 nodad");
            linux.ip(&format!("addr add {far_gateway} dev right"));
        }
        for (link, end) in [("left", left), ("right", right)] {
            end.ip("link set eth0 up");
            linux.ip(&format!("link set {link} up"));
            let at = end.json("link show dev eth0").remove(0);
            let mac = at["address"].as_str().expect("a MAC address").to_owned();
            for net in BOTH {
                let address = if link == "left" { net.web } else { net.far };
                linux.ip(&format!("neigh add {address} lladdr {mac} dev {link} nud permanent"));
            }
        }
        for (to, kind) in [
            ("10.244.0.0/16", "unreachable"),
            ("fd00:10:244::/48", "unreachable"),
            ("192.0.2.2/31", "prohibit"),
            ("2001:db8::2/127", "prohibit"),
            ("192.0.2.4/31", "blackhole"),
            ("2001:db8::4/127", "blackhole"),
        ] {
            linux.ip(&format!("route add {kind} {to}"));
        }
        Self { left: Wire::open(left, "eth0"), right: Wire::open(right, "eth0"), _namespaces: namespaces }
    }

    fn send(&mut self, packet: &[u8]) {
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let frame = ethernet(mac(GATEWAY_MAC), self.left.mac, ethertype, packet);
        self.left.send(&frame);
    }

    /// The next ICMP error that it sends.
    fn error(&mut self, net: Net) -> Vec<u8> {
        self.left.receive("ICMP error", |frame| {
            is_error(net, &frame.bytes).then(|| frame.bytes[ETHERNET_LEN..].to_vec())
        })
    }

    /// Proves that it says nothing about a packet.
    fn is_silent(&mut self, net: Net, packet: &[u8]) {
        self.send(packet);
        // What is answered for certain shows that there was no answer before.
        let ip = Ip::new(net.web, net.gateway);
        let (protocol, marker) = echo(&ip, 0xeeee, 1, b"marker");
        self.send(&ip.with(protocol, &marker));
        let reply = net.pick(0, 129);
        let is_reply = |frame: &Frame| frame.bytes.get(ETHERNET_LEN + net.pick(20, 40)) == Some(&reply);
        self.left.none_before(is_reply, |frame| is_error(net, &frame.bytes));
    }
}

/// Destination Unreachable, Packet Too Big or Time Exceeded.
fn is_error(net: Net, frame: &[u8]) -> bool {
    let errors = net.pick([3, 11, 11], [1, 2, 3]);
    let kind = frame.get(ETHERNET_LEN + net.pick(20, 40));
    frame[6..12] == mac(GATEWAY_MAC)
        && frame[12..14] == net.pick([0x08, 0x00], [0x86, 0xdd])
        && frame[ETHERNET_LEN + net.pick(9, 6)] == net.icmp()
        && kind.is_some_and(|kind| errors.contains(kind))
}

/// weft and Linux say the same about a packet, but for what is each one's choice: identification and header checksum, and the
/// bits of ECN, of which Linux copies one.
fn same(router: &mut Routed, linux: &mut Linux, packet: &[u8]) {
    let net = if packet[0] >> 4 == 4 { V4 } else { V6 };
    if router.send(Side::Web, packet).of("originated") == 0 {
        return linux.is_silent(net, packet);
    }
    let weft = router.receive(Side::Web, "ICMP error", |packet| Some(packet.to_vec()));
    linux.send(packet);
    let linux = linux.error(net);
    assert_eq!(judged(&weft), judged(&linux), "weft and Linux about {packet:02x?}");
}

/// What of an answer is not the router's own choice.
fn judged(answer: &[u8]) -> ((IpAddr, IpAddr), [u16; 4], Vec<u8>) {
    let Packet { src, dst, tos, ttl, fragment, protocol, payload, .. } = Packet::read(answer);
    ((src, dst), [(tos & 0xfc).into(), ttl.into(), fragment, protocol.into()], answer[payload..].to_vec())
}

fn short(ip: &Ip) -> Vec<u8> {
    ip.with(UDP, &udp(ip, (1000, 2000), Checksum::Valid, b"the same"))
}

fn both_routers() -> (Routed, Linux) {
    let router = Routed::with("", "", narrow(1450));
    router.pods[0].ip("link set eth0 mtu 1500");
    (router, Linux::new())
}

#[test]
fn linux_says_the_same_when_the_ttl_is_used_up() {
    let (mut router, mut linux) = both_routers();
    for net in BOTH {
        for tos in [0, 0xb8, 0x12] {
            let ip = Ip { ttl: 1, tos, ident: 3, ..Ip::new(net.web, net.far) };
            same(&mut router, &mut linux, &short(&ip));
            for length in [400, 900, 1300] {
                let segment = udp(&ip, (5, 6), Checksum::Valid, &vec![9; length]);
                same(&mut router, &mut linux, &ip.with(UDP, &segment));
            }
            let (protocol, message) = echo(&ip, 1, 2, b"trace");
            same(&mut router, &mut linux, &ip.with(protocol, &message));
        }
    }
}

#[test]
fn linux_says_the_same_of_what_is_too_big() {
    let (mut router, mut linux) = both_routers();
    for net in BOTH {
        let ip = Ip { fragment: 0x4000, ..Ip::new(net.web, net.far) };
        for length in [1401, 1450, 1500] {
            let segment = udp(&ip, (5, 6), Checksum::Valid, &vec![9; length - net.pick(28, 48)]);
            same(&mut router, &mut linux, &ip.with(UDP, &segment));
        }
    }
}

#[test]
fn linux_says_the_same_where_there_is_no_way() {
    let (mut router, mut linux) = both_routers();
    for ttl in [64, 2] {
        same(&mut router, &mut linux, &short(&Ip { ttl, ..Ip::new(V4.web, V4.no_node) }));
    }
    // Linux asks for the address first.
    for net in BOTH {
        let packet = short(&Ip::new(net.web, net.nobody));
        let weft = router.tells(Side::Web, &packet, "no_pod", net.host_unreachable());
        // By then it has counted the hop, and quotes that.
        linux.send(&short(&Ip { ttl: 65, ..Ip::new(net.web, net.nobody) }));
        let linux = linux.error(net);
        assert_eq!(judged(&weft), judged(&linux), "weft and Linux about {packet:02x?}");
    }
}

#[test]
fn linux_says_the_same_where_the_operator_has_closed() {
    let closed = [
        ("192.0.2.2/31", "prohibit"),
        ("2001:db8::2/127", "prohibit"),
        ("192.0.2.4/31", "blackhole"),
        ("2001:db8::4/127", "blackhole"),
    ];
    let routes = closed.map(|(to, kind)| format!("[[route]]\nto = \"{to}\"\nkind = \"{kind}\"\n")).concat();
    let (mut router, mut linux) = (Routed::with("", &routes, |_| ()), Linux::new());
    for net in BOTH {
        for host in ["2", "3", "4", "5"] {
            let to = net.pick(format!("192.0.2.{host}"), format!("2001:db8::{host}"));
            same(&mut router, &mut linux, &short(&Ip::new(net.web, &to)));
        }
    }
}

#[test]
fn linux_is_silent_where_weft_is() {
    let (mut router, mut linux) = both_routers();
    for net in BOTH {
        let ip = Ip { ttl: 1, ..Ip::new(net.web, net.far) };
        let about = short(&Ip::new(net.far, net.web));
        for kind in net.pick([3, 4, 5, 11, 12], [1, 2, 3, 4, 127]) {
            let error = icmp(&ip, (kind, 0), [0; 4], &about);
            same(&mut router, &mut linux, &ip.with(net.icmp(), &error));
        }
        for kind in net.pick([0, 13, 14], [128, 129, 200]) {
            let message = icmp(&ip, (kind, 0), [0, 1, 0, 1], b"no error");
            same(&mut router, &mut linux, &ip.with(net.icmp(), &message));
        }
    }
    let ip = Ip { ttl: 1, ..Ip::new(V4.web, V4.far) };
    for fragment in [0x2000, 0x2010, 0x0010] {
        same(&mut router, &mut linux, &Ip { fragment, ..ip.clone() }.with(UDP, &[1; 24]));
    }
    for options in [vec![131, 7, 4, 10, 244, 1, 2, 0], vec![137, 7, 4, 10, 244, 1, 2, 0], vec![148, 4, 0, 0]]
    {
        same(&mut router, &mut linux, &short(&Ip { options, ..ip.clone() }));
    }
}

#[test]
fn linux_cuts_in_the_same_places() {
    let (mut router, mut linux) = both_routers();
    for (length, pieces) in [(1401, 2), (1407, 2), (1450, 2), (1500, 2)] {
        for fragment in [0, 0x2000, 0x2000 | 100, 100] {
            let ip = Ip { ident: 0x4321, fragment, tos: 0x20, ..Ip::new(V4.web, V4.far) };
            let length = if fragment & 0x2000 == 0 { length } else { (length - 20) / 8 * 8 + 20 };
            if length <= 1400 {
                continue;
            }
            let packet = ip.with(UDP, &vec![0x2b; length - 20]);
            let deltas = router.send(Side::Web, &packet);
            linux.send(&packet);
            let count = deltas.of("tx");
            assert!(count == pieces || fragment != 0, "{count} pieces of {length} bytes");
            for piece in 0..count {
                let weft = router.receive(Side::Far, "fragment", |packet| Some(packet.to_vec()));
                let there = linux.right.receive("fragment", |frame| {
                    (frame.bytes[12..14] == [8, 0]).then(|| frame.bytes[ETHERNET_LEN..].to_vec())
                });
                assert_eq!(weft, there, "piece {piece} of {length} bytes at {fragment:#x}");
            }
        }
    }
}
